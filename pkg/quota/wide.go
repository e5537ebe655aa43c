package quota

import (
	"math"
	"math/bits"
)

// wide is a sum of products of int64 that is exact, so that what was added can be taken out again even where the sum is
// past an int64. The zero value is 0. It holds 2^30 products of any rate and [maxHold].
type wide struct {
	hi int64
	lo uint64
}

// add adds a x b; b is at least 0.
func (w *wide) add(a, b int64) {
	hi, lo := product(a, b)
	if a < 0 {
		w.minus(hi, lo)
	} else {
		w.plus(hi, lo)
	}
}

// sub takes a x b out; b is at least 0.
func (w *wide) sub(a, b int64) {
	hi, lo := product(a, b)
	if a < 0 {
		w.plus(hi, lo)
	} else {
		w.minus(hi, lo)
	}
}

// scale adds by times seconds; seconds is at least 0.
func (w *wide) scale(by wide, seconds int64) {
	hi, lo := bits.Mul64(by.lo, uint64(seconds))
	w.plus(hi+uint64(by.hi)*uint64(seconds), lo)
}

// plusWide adds another sum.
func (w *wide) plusWide(o wide) { w.plus(uint64(o.hi), o.lo) }

func (w *wide) plus(hi, lo uint64) {
	var carry uint64
	w.lo, carry = bits.Add64(w.lo, lo, 0)
	w.hi += int64(hi + carry)
}

func (w *wide) minus(hi, lo uint64) {
	var borrow uint64
	w.lo, borrow = bits.Sub64(w.lo, lo, 0)
	w.hi -= int64(hi + borrow)
}

// value is the sum, or the end of int64 that it is past.
func (w wide) value() int64 {
	switch {
	case w.hi == 0 && w.lo <= math.MaxInt64:
		return int64(w.lo)
	case w.hi == -1 && w.lo > math.MaxInt64:
		return int64(w.lo)
	case w.hi < 0:
		return math.MinInt64
	default:
		return math.MaxInt64
	}
}

func (w wide) zero() bool { return w == wide{} }

// product is |a| x b.
func product(a, b int64) (hi, lo uint64) {
	m := uint64(a)
	if a < 0 {
		m = -m
	}
	return bits.Mul64(m, uint64(b))
}

// plus is a + b, or the end of int64 that it is past.
func plus(a, b int64) int64 {
	s := a + b
	switch {
	case a > 0 && b > 0 && s < 0:
		return math.MaxInt64
	case a < 0 && b < 0 && s >= 0:
		return math.MinInt64
	}
	return s
}

// ratio is a x b / c, down or up to a whole number, of numbers that are at least 0, c above 0; NoLimit where it is more.
func ratio(a, b, c int64, up bool) int64 {
	hi, lo := bits.Mul64(uint64(a), uint64(b))
	if hi >= uint64(c) {
		return NoLimit
	}
	q, r := bits.Div64(hi, lo, uint64(c))
	if up && r > 0 {
		q++
	}
	if q > math.MaxInt64 {
		return NoLimit
	}
	return int64(q)
}
