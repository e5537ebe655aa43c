package gang

import (
	"cmp"
	"iter"
	"math/bits"
	"slices"
)

// Caps bound what leaves of groups of pods, however cheap it is: a queue is not to lose what it is guaranteed.
type Caps struct {
	// MilliGPU is by group (see [Occupant.Groups]) the most that may leave together.
	MilliGPU []int64
	// Straddle lets one unit of each group pass the cap if less than the cap leaves without it: a gang that holds some of
	// what its queue is guaranteed and some that is borrowed leaves whole, where otherwise it would never give back what is
	// borrowed.
	Straddle bool
	// Least is by group how much must leave, for another limit than room: then somebody leaves though there is a place. Missing ones are
	// 0; groups that have none may have less leave.
	Least []int64
}

// wanting reports whether anybody must leave whatever room there is.
func (c Caps) wanting() bool {
	return slices.ContainsFunc(c.Least, func(n int64) bool { return n > 0 })
}

// short reports whether less is gone than must be.
func (t *tally) short() bool {
	for g, least := range t.caps.Least {
		if least > 0 && (g >= len(t.taken) || t.taken[g] < least) {
			return true
		}
	}
	return false
}

// helps reports whether the unit counts in a group of which less is gone than must be.
func (t *tally) helps(u int) bool {
	return slices.ContainsFunc(t.takes[u], func(k take) bool {
		return k.milliGPU > 0 && k.group < len(t.caps.Least) && t.taken[k.group] < t.caps.Least[k.group]
	})
}

// possible adds to what the nodes say what must leave.
func (s *search) possible() bool { return !s.short() && s.vacancy.possible() }

func (s *search) feasible() bool { return !s.short() && s.vacancy.feasible() }

// meet evicts what costs least for what it counts until as much is gone as must be; false where the caps do not let it.
func (s *search) meet() bool {
	for s.short() {
		best, gain := -1, int64(0)
		for _, u := range s.candidates {
			if s.vacancy.gone[u] || !slices.ContainsFunc(s.with(u), s.helps) {
				continue
			}
			fresh := s.evict(u)
			over := s.over()
			s.spare(fresh...)
			if over {
				continue
			}
			if n := s.counts(u); best < 0 || dearer(s.lone[best], gain, s.lone[u], n) {
				best, gain = u, n
			}
		}
		if best < 0 {
			return false
		}
		s.evict(best)
	}
	return true
}

// counts is what of the unit, and of those that leave with it, still counts for what must leave.
func (s *search) counts(u int) (n int64) {
	for g, least := range s.caps.Least {
		of := int64(0)
		for _, w := range s.with(u) {
			if !s.vacancy.gone[w] {
				of += s.takesOf(w, g)
			}
		}
		n += min(of, max(0, least-s.taken[g]))
	}
	return n
}

// dearer reports whether a costs more for each milli-GPU than b.
func dearer(a price, of int64, b price, than int64) bool {
	for i := range a {
		if c := compareFractions(a[i], of, b[i], than); c != 0 {
			return c > 0
		}
	}
	return of < than
}

// compareFractions compares a/b with c/d, of numbers that are not negative, b and d above 0.
func compareFractions(a, b, c, d int64) int {
	hi, lo := bits.Mul64(uint64(a), uint64(d))
	high, low := bits.Mul64(uint64(c), uint64(b))
	return cmp.Or(cmp.Compare(hi, high), cmp.Compare(lo, low))
}

// Enough reports whether as much leaves with the units, indices into all, as must.
func (c Caps) Enough(all []Unit, units []int) bool {
	pr := newPricer(all, nil)
	pr.cap(c)
	t := pr.tally()
	for _, u := range units {
		t.count(u, 1)
	}
	return !t.short()
}

// take is what a unit counts against a cap.
type take struct {
	group    int
	milliGPU int64
}

// cap works out what the units count against the caps.
func (pr *pricer) cap(caps Caps) {
	pr.caps = caps
	for u := range pr.units {
		for i := range pr.units[u].Pods {
			o := &pr.units[u].Pods[i]
			for _, g := range o.Groups {
				if g < 0 || g >= len(caps.MilliGPU) {
					pr.barred[u] = true
					continue
				}
				k := slices.IndexFunc(pr.takes[u], func(t take) bool { return t.group == g })
				if k < 0 {
					k = len(pr.takes[u])
					pr.takes[u] = append(pr.takes[u], take{group: g})
				}
				pr.takes[u][k].milliGPU += max(0, o.MilliGPU)
			}
		}
	}
}

// over reports whether more is gone than the caps allow. Once it is, it stays so whatever else goes.
func (s *search) over() bool {
	for g := range s.taken {
		if s.exceeds(g) {
			return true
		}
	}
	return false
}

func (s *search) exceeds(group int) bool {
	return s.caps.exceeded(group, s.taken[group], func(yield func(int64) bool) {
		for u, gone := range s.vacancy.gone {
			if gone && !yield(s.takesOf(u, group)) {
				return
			}
		}
	})
}

// exceeded reports whether more is taken of the group than its cap allows; takes are what the units take.
func (c Caps) exceeded(group int, taken int64, takes iter.Seq[int64]) bool {
	most := c.MilliGPU[group]
	if taken <= max(0, most) {
		return false
	}
	if !c.Straddle || most <= 0 {
		return true
	}
	largest := int64(0)
	for n := range takes {
		largest = max(largest, n)
	}
	return taken-largest >= most
}

// Allow reports whether all of the units, indices into all, may leave together.
func (c Caps) Allow(all []Unit, units []int) bool {
	pr := newPricer(all, nil)
	pr.cap(c)
	if slices.ContainsFunc(units, func(u int) bool { return pr.barred[u] }) {
		return false
	}
	t := pr.tally()
	for _, u := range units {
		t.count(u, 1)
	}
	for g, taken := range t.taken {
		if c.exceeded(g, taken, func(yield func(int64) bool) {
			for _, u := range units {
				if !yield(pr.takesOf(u, g)) {
					return
				}
			}
		}) {
			return false
		}
	}
	return true
}

// takesOf is what the unit counts against the cap of the group.
func (pr *pricer) takesOf(u, group int) int64 {
	for _, k := range pr.takes[u] {
		if k.group == group {
			return k.milliGPU
		}
	}
	return 0
}

// withinCaps reports whether the caps let the unit go, with what leaves with it. Nobody else is gone.
func (s *search) withinCaps(u int) bool {
	if len(s.taken) == 0 {
		return true
	}
	fresh := s.evict(u)
	defer s.spare(fresh...)
	return !s.over()
}

// relieve brings units back of groups of which too much is gone, the dearest first, where the gang has room without them. As in
// [search.trimAmong] all are tried together first.
func (s *search) relieve() {
	var back []int
	for _, u := range s.candidates {
		if !s.over() {
			break
		}
		if !s.vacancy.gone[u] || s.holder[u] >= 0 && s.vacancy.gone[s.holder[u]] ||
			!slices.ContainsFunc(s.takes[u], func(k take) bool { return k.milliGPU > 0 && s.exceeds(k.group) }) {
			continue
		}
		if s.spare(s.tied[u]...); s.possible() {
			back = append(back, u)
		} else {
			s.evict(u)
		}
	}
	if len(back) > 0 && !s.feasible() {
		s.evict(back...)
		s.trimAmong(back)
	}
}
