package fit

import (
	"sync"
	"sync/atomic"

	"weft.sh/weft/pkg/cluster"
	"weft.sh/weft/pkg/gpu"
)

// Memo answers for one strategy and keeps the answers: they depend on what a node is like, not on which it is, and most
// nodes are like many others and do not change between one pod and the next. Safe for concurrent use. Its memory is
// bounded.
type Memo struct {
	strategy Strategy

	mu      sync.Mutex
	shapes  map[string]*ShapeMemo
	answers *atomic.Int64 // kept in all shapes
}

const (
	// memoShapes and memoAnswers bound the memory: a thousand shapes of request, and a quarter of a million answers in
	// all, of some 100 bytes each with what the map adds. The pod in hand may add one of each kind for every node.
	memoShapes  = 1024
	memoAnswers = 1 << 18
	memoShards  = 16
)

// NewMemo keeps the answers of the strategy.
func NewMemo(s Strategy) *Memo {
	return &Memo{strategy: s, shapes: map[string]*ShapeMemo{}, answers: new(atomic.Int64)}
}

// For is the memo of one shape of request.
func (m *Memo) For(r gpu.Request) *ShapeMemo {
	m.mu.Lock()
	defer m.mu.Unlock()
	shape := r.Shape()
	if len(m.shapes) >= memoShapes || m.answers.Load() >= memoAnswers {
		// Most answers are for how nodes once were; starting over is cheaper than telling which. Whoever uses the memo of
		// a shape goes on with it; it is only not found again.
		clear(m.shapes)
		m.answers = new(atomic.Int64)
	}
	s := m.shapes[shape]
	if s == nil {
		s = &ShapeMemo{strategy: m.strategy, request: r, answers: m.answers}
		m.shapes[shape] = s
	}
	return s
}

// ShapeMemo is the part of a Memo for one request.
type ShapeMemo struct {
	strategy Strategy
	request  gpu.Request
	answers  *atomic.Int64
	shards   [memoShards]memoShard
}

type memoShard struct {
	mu      sync.RWMutex
	scores  map[scoreKey]int64
	reasons map[cluster.Signature]Reason
}

// scoreKey identifies a score. CPU that the strategy maps to the same key is the same to it.
type scoreKey struct {
	node                cluster.Signature
	cpuBefore, cpuAfter int64
}

func (m *ShapeMemo) shard(n *cluster.Node) *memoShard { return &m.shards[n.Signature[0]%memoShards] }

// Strategy is the strategy whose answers are kept.
func (m *ShapeMemo) Strategy() Strategy { return m.strategy }

// Check is [Check] of the request.
func (m *ShapeMemo) Check(n *cluster.Node) Reason {
	if n == nil || m.request.Empty() {
		return Check(n, m.request)
	}
	shard := m.shard(n)
	shard.mu.RLock()
	reason, ok := shard.reasons[n.Signature]
	shard.mu.RUnlock()
	if ok {
		return reason
	}
	reason = Check(n, m.request)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	if shard.reasons == nil {
		shard.reasons = map[cluster.Signature]Reason{}
	}
	shard.reasons[n.Signature] = reason
	m.answers.Add(1)
	return reason
}

// Score is [Score] of the request.
func (m *ShapeMemo) Score(n *cluster.Node, cpu CPU) int64 {
	if n == nil {
		return Score(nil, m.request, cpu, m.strategy)
	}
	key := scoreKey{n.Signature, m.strategy.CPUKey(cpu.FreeMilli), m.strategy.CPUKey(cpu.FreeMilli - cpu.AskMilli)}
	shard := m.shard(n)
	shard.mu.RLock()
	score, ok := shard.scores[key]
	shard.mu.RUnlock()
	if ok {
		return score
	}
	score = Score(n, m.request, cpu, m.strategy)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	if shard.scores == nil {
		shard.scores = map[scoreKey]int64{}
	}
	shard.scores[key] = score
	m.answers.Add(1)
	return score
}
