package quota

import (
	"cmp"
	"math/bits"
)

// stake is a queue as [Book.Turns] and [Book.Reclaim] see it: what it is granted now, and what its subtree holds. Lists of
// stakes have each queue after the one above it.
type stake struct {
	parent int // -1 at the top
	weight int64
	Share
	running int64
	held    []int64 // running by class of GPUs
	// throttled says that it gets its guarantee only, and after all others.
	throttled bool
}

// lacks is how much less than its guarantee the queue has.
func (s *stake) lacks() int64 { return s.Guaranteed - s.running }

// part is a dominant share: the most that is held of any class, as a fraction of the class. The weight is not in it.
type part struct{ held, capacity int64 }

// above is the dominant share of what the queue has above its guarantee. A guarantee is for no class in particular: it is
// taken to be held where it counts least, so of each class no more than the whole excess counts, and no more than what is
// held of it.
func (s *stake) above(capacity []int64) part {
	most := part{0, 1}
	excess := -s.lacks()
	if excess <= 0 {
		return most
	}
	for c, held := range s.held {
		p := part{min(held, excess), capacity[c]}
		if compareProducts(p.held, most.capacity, 1, most.held, p.capacity, 1) > 0 {
			most = p
		}
	}
	return most
}

// compareShares compares the shares for the weights, exactly.
func compareShares(a part, weightA int64, b part, weightB int64) int {
	return compareProducts(a.held, b.capacity, weightB, b.held, a.capacity, weightA)
}

// compareProducts compares a x b x c with d x e x f, of numbers that are at least 0.
func compareProducts(a, b, c, d, e, f int64) int {
	x, y := product3(a, b, c), product3(d, e, f)
	return cmp.Or(cmp.Compare(x[0], y[0]), cmp.Compare(x[1], y[1]), cmp.Compare(x[2], y[2]))
}

// product3 is a x b x c, the highest 64 bits first.
func product3(a, b, c int64) [3]uint64 {
	hi, lo := bits.Mul64(uint64(a), uint64(b))
	carry, low := bits.Mul64(lo, uint64(c))
	top, mid := bits.Mul64(hi, uint64(c))
	mid, over := bits.Add64(mid, carry, 0)
	return [3]uint64{top + over, mid, low}
}
