package fit

import (
	"maps"
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
	s.scores.settle()
	s.reasons.settle()
	return s
}

// ShapeMemo is the part of a Memo for one request.
type ShapeMemo struct {
	strategy Strategy
	request  gpu.Request
	answers  *atomic.Int64
	scores   answers[scoreKey, int64]
	reasons  answers[cluster.Signature, Reason]
}

// scoreKey identifies a score. CPU that the strategy maps to the same key is the same to it.
type scoreKey struct {
	node                cluster.Signature
	cpuBefore, cpuAfter int64
}

// Strategy is the strategy whose answers are kept.
func (m *ShapeMemo) Strategy() Strategy { return m.strategy }

// Check is [Check] of the request.
func (m *ShapeMemo) Check(n *cluster.Node) Reason {
	if n == nil || m.request.Empty() {
		return Check(n, m.request)
	}
	reason, ok := m.reasons.get(n.Signature)
	if !ok {
		reason = Check(n, m.request)
		m.reasons.put(n.Signature, reason)
		m.answers.Add(1)
	}
	return reason
}

// Score is [Score] of the request.
func (m *ShapeMemo) Score(n *cluster.Node, cpu CPU) int64 {
	if n == nil {
		return Score(nil, m.request, cpu, m.strategy)
	}
	key := scoreKey{n.Signature, m.strategy.CPUKey(cpu.FreeMilli), m.strategy.CPUKey(cpu.FreeMilli - cpu.AskMilli)}
	score, ok := m.scores.get(key)
	if !ok {
		score = Score(n, m.request, cpu, m.strategy)
		m.scores.put(key, score)
		m.answers.Add(1)
	}
	return score
}

// answers is a map that is read far more often than it grows, by many goroutines at once: most nodes of a cluster have
// the same signature, and a lock on their one entry would be all that the goroutines do.
type answers[K comparable, V any] struct {
	settled atomic.Pointer[map[K]V] // never changed once it is here

	mu    sync.Mutex
	fresh map[K]V // what came since
}

func (a *answers[K, V]) get(key K) (V, bool) {
	if settled := a.settled.Load(); settled != nil {
		if v, ok := (*settled)[key]; ok {
			return v, true
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	v, ok := a.fresh[key]
	return v, ok
}

func (a *answers[K, V]) put(key K, v V) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.fresh == nil {
		a.fresh = map[K]V{}
	}
	a.fresh[key] = v
}

// settle makes what came since readable without the lock, once that is an eighth of the whole: the copy then costs each
// answer little.
func (a *answers[K, V]) settle() {
	a.mu.Lock()
	defer a.mu.Unlock()
	var old map[K]V
	if settled := a.settled.Load(); settled != nil {
		old = *settled
	}
	if len(a.fresh) == 0 || len(a.fresh) < len(old)/8 {
		return
	}
	all := make(map[K]V, len(old)+len(a.fresh))
	maps.Copy(all, old)
	maps.Copy(all, a.fresh)
	a.settled.Store(&all)
	a.fresh = nil
}
