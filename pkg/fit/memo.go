package fit

import (
	"sync"

	"weft.sh/weft/pkg/cluster"
	"weft.sh/weft/pkg/gpu"
)

// Memo computes scores of one strategy and keeps them: a score stays valid until its node changes, and most nodes do not
// change between one pod and the next. Safe for concurrent use. Its memory is bounded.
type Memo struct {
	strategy Strategy
	shards   [memoShards]memoShard
}

const (
	memoShards = 64
	// memoShardEntries bounds the memory: 64 shards of 2048 entries of about 100 bytes are some 13 MB.
	memoShardEntries = 2048
)

type memoShard struct {
	mu     sync.Mutex
	scores map[memoKey]int64
}

// memoKey identifies a score. Nodes are immutable, so the pointer stands for all that is on the node.
type memoKey struct {
	node     *cluster.Node
	freeCPU  int64
	shape    string
	askedCPU int64
}

// NewMemo keeps the scores of the strategy.
func NewMemo(s Strategy) *Memo { return &Memo{strategy: s} }

// Strategy is the strategy whose scores are kept.
func (m *Memo) Strategy() Strategy { return m.strategy }

// Score is [Score]. shape stands for the request: equal requests have equal shapes, others do not; see gpu.Request.Shape.
func (m *Memo) Score(n *cluster.Node, r gpu.Request, shape string, cpu CPU) int64 {
	if n == nil {
		return Score(nil, r, cpu, m.strategy)
	}
	key := memoKey{n, cpu.FreeMilli, shape, cpu.AskMilli}
	shard := &m.shards[nameKey(n.Name)%memoShards]
	shard.mu.Lock()
	score, ok := shard.scores[key]
	shard.mu.Unlock()
	if ok {
		return score
	}
	score = Score(n, r, cpu, m.strategy)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	if shard.scores == nil || len(shard.scores) >= memoShardEntries {
		// Most of a full shard are nodes as they once were; starting over is cheaper than telling which.
		shard.scores = map[memoKey]int64{}
	}
	shard.scores[key] = score
	return score
}
