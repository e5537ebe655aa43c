package fit

import (
	"cmp"
	"slices"
	"sync"

	"weft.sh/weft/pkg/cluster"
	"weft.sh/weft/pkg/gpu"
)

// Score is the strategy's rating of the placement that [Assign] would make of the request on the node, as one integer
// that orders nodes: first the rating, then nodes on which GPUs are in use already before empty ones, then those with the
// least GPU capacity left. At least 0, at most [MaxScore]. Both the node and the request may be empty: a pod without GPUs is rated by what its CPU takes away from later requests. The
// request must fit the node; one that does not scores 0.
func Score(n *cluster.Node, r gpu.Request, cpu CPU, s Strategy) int64 {
	v := views.Get().(*scoreViews)
	defer views.Put(v)
	viewOf(&v.before, n, cpu.FreeMilli)
	rating, ok := v.rate(n, r, cpu, s)
	if !ok {
		return 0
	}
	score := rating.Node * 2
	if v.before.Used {
		score++
	}
	return score<<leftBits | maxLeft - min(v.before.MilliGPU(), maxLeft)
}

const (
	// leftBits hold what is left of a node's GPUs in milli-GPU, up to 131 GPUs.
	leftBits = 17
	maxLeft  = 1<<leftBits - 1

	// MaxScore bounds Score; it takes 32 bits.
	MaxScore = (2*MaxRating+1)<<leftBits | maxLeft
)

type scoreViews struct{ before, after View }

var views = sync.Pool{New: func() any { return new(scoreViews) }}

func (v *scoreViews) rate(n *cluster.Node, r gpu.Request, cpu CPU, s Strategy) (Rating, bool) {
	v.after.copyFrom(&v.before)
	v.after.MilliCPU = cpu.FreeMilli - cpu.AskMilli
	if r.Empty() {
		return s.Rate(&v.before, &v.after, -1), true
	}
	if n == nil {
		return Rating{}, false
	}
	v.after.Used = true
	if a, ok := single(r); ok {
		switch {
		case a.Kind == gpu.Shared && a.Count == 1:
			return v.rateShare(n, r, a, s)
		case a.Kind == gpu.Whole:
			if rating, ok := v.rateWhole(n, r, a, s); ok {
				return rating, true
			}
		}
	}
	assignment, err := Assign(n, r, cpu, s)
	if err != nil {
		return Rating{}, false
	}
	viewOf(&v.after, n.With(cluster.NewPod("", "", assignment)), v.after.MilliCPU)
	return s.Rate(&v.before, &v.after, -1), true
}

// rateShare is the usual case, one share of one GPU, without a search.
func (v *scoreViews) rateShare(n *cluster.Node, r gpu.Request, a gpu.Ask, s Strategy) (best Rating, found bool) {
	spare := n.Spare()
	for i := range v.before.GPUs {
		l := &v.before.GPUs[i]
		if !fitsLeft(l, a) || !r.Accepts(l.Product) || n.GPUs[i].Idle && *spare.Of(n.GPUs[i].SharedOnly) <= 0 ||
			slices.Contains(v.before.GPUs[:i], *l) {
			continue
		}
		takeFrom(&v.after.GPUs[i], a)
		rating := s.Rate(&v.before, &v.after, i)
		v.after.GPUs[i] = *l
		if !found || cmp.Or(cmp.Compare(rating.Node, best.Node), cmp.Compare(rating.GPU, best.GPU)) > 0 {
			best, found = rating, true
		}
	}
	return best, found
}

// rateWhole is the other usual case, whole GPUs where all that could be taken are alike, so that the first are as good as any.
func (v *scoreViews) rateWhole(n *cluster.Node, r gpu.Request, a gpu.Ask, s Strategy) (Rating, bool) {
	if n.Spare().GPUs < a.Count {
		return Rating{}, false
	}
	first, taken := -1, 0
	for i := range v.before.GPUs {
		l := &v.before.GPUs[i]
		if !fitsLeft(l, a) || !r.Accepts(l.Product) {
			continue
		}
		if first < 0 {
			first = i
		} else if *l != v.before.GPUs[first] {
			return Rating{}, false
		}
		if taken < a.Count {
			takeFrom(&v.after.GPUs[i], a)
			taken++
		}
	}
	if taken < a.Count {
		return Rating{}, false
	}
	return s.Rate(&v.before, &v.after, -1), true
}

// Rank orders the nodes that fit a request and returns for each a rank from 100 (the best) down to 0; scores[i] is the
// [Score] of the node names[i]. The first hundred get ranks of their own, so that of them no two are equal.
//
// Nodes of equal score are put in one fixed order that has nothing to do with the cluster: that of a hash of their names.
// Filling nodes in a fixed order packs; picking at random among equals, as the framework does when totals are equal,
// costs 5 points of allocation on the openb trace. The least capacity left goes before that order because the framework
// shows each pod only some of the nodes of a large cluster, and a fixed order alone then packs half a point worse.
func Rank(names []string, scores []int64) []int64 {
	// A key is the score, inverted, above the hash of the name: ascending keys are the order.
	const hashBits = 32
	keys := make([]uint64, len(names))
	for i, name := range names {
		inverted := uint64(MaxScore - min(max(scores[i], 0), MaxScore))
		keys[i] = inverted<<hashBits | nameKey(name)>>(64-hashBits)
	}
	best := smallest(keys)
	ranks := make([]int64, len(names))
	for i, key := range keys {
		if key > best[len(best)-1] {
			continue
		}
		rank, _ := slices.BinarySearch(best, key)
		if rank+1 < len(best) && best[rank+1] == key {
			// The hash makes it very rare that names share a key. The alphabet decides between them.
			for j := range keys {
				if keys[j] == key && names[j] < names[i] {
					rank++
				}
			}
		}
		ranks[i] = max(0, ownRanks-int64(rank))
	}
	return ranks
}

// smallest are the ownRanks smallest keys, or all where there are fewer, ascending. Most of several hundred keys are
// dismissed with one comparison each, which sorting them all would cost ten times over.
func smallest(keys []uint64) []uint64 {
	best := slices.Clone(keys[:min(len(keys), ownRanks)])
	slices.Sort(best)
	for _, key := range keys[len(best):] {
		last := len(best) - 1
		if key >= best[last] {
			continue
		}
		i, _ := slices.BinarySearch(best, key)
		copy(best[i+1:], best[i:last])
		best[i] = key
	}
	return best
}

// ownRanks is how many nodes get a rank of their own.
const ownRanks = 100

// nameKey is the FNV-1a hash of the name, without the allocation of package hash/fnv.
func nameKey(name string) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(name) {
		h = (h ^ uint64(name[i])) * 1099511628211
	}
	return h
}
