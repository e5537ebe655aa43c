package fit

import (
	"cmp"
	"slices"
	"sync"

	"weft.sh/weft/pkg/cluster"
	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/nvlink"
)

// Score is the strategy's rating of the placement that [Assign] would make of the request on the node, as one integer
// that orders nodes, in this order by
//
//   - whether two of the pod's whole GPUs have to do without NVLink although so many of the node's have it: that costs more
//     than any packing gains, and a node that has nothing better is no worse for it;
//   - the rating;
//   - whether the whole GPUs could otherwise be linked better on the node, with more NVLinks or within a NUMA node;
//   - whether GPUs of it are in use already, those before empty ones;
//   - the GPU capacity left, the least first.
//
// At least 0, at most [MaxScore]. Both the node and the request may be empty: a pod without GPUs is rated by what its CPU
// takes away from later requests. The request must fit the node; one that does not scores 0.
func Score(n *cluster.Node, r gpu.Request, cpu CPU, s Strategy) int64 {
	v := views.Get().(*scoreViews)
	defer views.Put(v)
	viewOf(&v.before, n, cpu.FreeMilli)
	rating, loss, ok := v.rate(n, r, cpu, s)
	if !ok {
		return 0
	}
	score := rating.Node
	if loss != noNVLink {
		score += MaxRating + 1
	}
	score *= 4
	if loss == noLoss {
		score += 2
	}
	if v.before.Used {
		score++
	}
	return score<<leftBits | maxLeft - min(v.before.MilliGPU(), maxLeft)
}

const (
	// leftBits hold what is left of a node's GPUs in milli-GPU, up to 131 GPUs.
	leftBits = 17
	maxLeft  = 1<<leftBits - 1

	// scoreBits is what a score takes.
	scoreBits = 36

	// MaxScore bounds Score; it takes 36 bits.
	MaxScore = ((2*MaxRating+1)*4+3)<<leftBits | maxLeft
)

type scoreViews struct{ before, after View }

var views = sync.Pool{New: func() any { return new(scoreViews) }}

func (v *scoreViews) rate(n *cluster.Node, r gpu.Request, cpu CPU, s Strategy) (Rating, linkLoss, bool) {
	v.after.copyFrom(&v.before)
	v.after.MilliCPU = cpu.FreeMilli - cpu.AskMilli
	if r.Empty() {
		return s.Rate(&v.before, &v.after, -1), noLoss, true
	}
	if n == nil {
		return Rating{}, noLoss, false
	}
	v.after.Used = true
	if a, ok := single(r); ok {
		switch {
		case a.Kind == gpu.Shared && a.Count == 1:
			rating, ok := v.rateShare(n, r, a, s)
			return rating, noLoss, ok
		case a.Kind == gpu.Whole:
			if rating, loss, ok := v.rateWhole(n, r, a, s); ok {
				return rating, loss, true
			}
		}
	}
	assignment, err := Assign(n, r, cpu, s)
	if err != nil {
		return Rating{}, noLoss, false
	}
	viewOf(&v.after, n.With(cluster.NewPod("", "", assignment)), v.after.MilliCPU)
	return s.Rate(&v.before, &v.after, -1), lossOfAssignment(n, r, assignment), true
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

// rateWhole is the other usual case, whole GPUs where all that could be taken are in the same state, so that the first are
// rated as any; which of them it will be is for their links.
func (v *scoreViews) rateWhole(n *cluster.Node, r gpu.Request, a gpu.Ask, s Strategy) (Rating, linkLoss, bool) {
	if n.Spare().GPUs < a.Count {
		return Rating{}, noLoss, false
	}
	first, taken := -1, 0
	var could nvlink.Set
	for i := range v.before.GPUs {
		l := &v.before.GPUs[i]
		if !fitsLeft(l, a) || !r.Accepts(l.Product) {
			continue
		}
		if first < 0 {
			first = i
		} else if *l != v.before.GPUs[first] {
			return Rating{}, noLoss, false
		}
		if taken < a.Count {
			takeFrom(&v.after.GPUs[i], a)
			taken++
		}
		could |= nvlink.Of(i)
	}
	if taken < a.Count {
		return Rating{}, noLoss, false
	}
	loss := noLoss
	if links := n.Inventory.Links(); a.Count > 1 && !links.Uniform() {
		if could.Len() > nvlink.ExactGPUs {
			return Rating{}, noLoss, false // the set that Assign chooses need not have the best worst link
		}
		loss = lossOf(n, r, a.Count, links.Widest(could, a.Count))
	}
	return s.Rate(&v.before, &v.after, -1), loss, true
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
	const hashBits = 64 - scoreBits
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
