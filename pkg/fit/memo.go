package fit

import (
	"hash/maphash"
	"sync"

	"weft.sh/weft/pkg/cluster"
	"weft.sh/weft/pkg/gpu"
)

// Memo computes scores of one strategy and keeps them: a score depends on what the node is like, not on which it is, and most
// nodes are like many others and do not change between one pod and the next. Safe for concurrent use. Its memory is
// bounded.
type Memo struct {
	strategy Strategy
	seed     maphash.Seed // decides only which shard keeps a score
	shards   [memoShards]memoShard
}

const (
	memoShards = 64
	// memoShardEntries bounds the memory: 64 shards of 2048 entries of about 200 bytes are some 26 MB.
	memoShardEntries = 2048
)

type memoShard struct {
	mu     sync.RWMutex
	scores map[memoKey]int64
}

// memoKey identifies a score. Nodes of equal signature are the same to every strategy, and so is all CPU that the strategy
// maps to the same key, so one score serves many nodes and many pods.
type memoKey struct {
	node, shape         string
	cpuBefore, cpuAfter int64
}

// NewMemo keeps the scores of the strategy.
func NewMemo(s Strategy) *Memo { return &Memo{strategy: s, seed: maphash.MakeSeed()} }

// Strategy is the strategy whose scores are kept.
func (m *Memo) Strategy() Strategy { return m.strategy }

// Score is [Score]. shape stands for the request: equal requests have equal shapes, others do not; see gpu.Request.Shape.
func (m *Memo) Score(n *cluster.Node, r gpu.Request, shape string, cpu CPU) int64 {
	if n == nil {
		return Score(nil, r, cpu, m.strategy)
	}
	key := memoKey{n.Signature, shape, m.strategy.CPUKey(cpu.FreeMilli), m.strategy.CPUKey(cpu.FreeMilli - cpu.AskMilli)}
	shard := &m.shards[maphash.Comparable(m.seed, key)%memoShards]
	shard.mu.RLock()
	score, ok := shard.scores[key]
	shard.mu.RUnlock()
	if ok {
		return score
	}
	score = Score(n, r, cpu, m.strategy)
	shard.mu.Lock()
	defer shard.mu.Unlock()
	if shard.scores == nil || len(shard.scores) >= memoShardEntries {
		// Most of a full shard is how nodes once were; starting over is cheaper than telling which.
		shard.scores = map[memoKey]int64{}
	}
	shard.scores[key] = score
	return score
}
