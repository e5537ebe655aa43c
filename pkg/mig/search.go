package mig

import (
	"cmp"
	"math"
	"math/bits"
	"slices"
)

// The exact search for several instances. For every GPU it lists which sub-multisets of the wanted instances fit there,
// each with the placements of least loss (part); losses on different GPUs add up. A dynamic programme over the GPUs, in
// order, then finds the least sum of parts that makes up the whole multiset.
//
// The loss of a part does not depend on the order in which its instances are given, for it is the weight of the free
// placements before, minus that after, minus that of the part itself.

const (
	// maxCells bounds the cells (GPUs x sub-multisets) of the dynamic programme, and with them its memory.
	maxCells = 1 << 17
	// maxSteps bounds the work: sets of placements looked at plus parts tried in a cell.
	maxSteps = 1 << 21
)

// cost orders ways to place: by loss, then by the number of idle GPUs taken into use.
type cost int64

const (
	lossUnit   cost = 1 << 20 // more than the GPUs of any node
	impossible cost = math.MaxInt64
	unknown    cost = -1
)

// part is a sub-multiset of the demands placed on one GPU.
type part struct {
	// index is the sub-multiset in mixed radix; packed is the same with a bit field for each demand (see search.guard).
	index  int
	packed uint64
	count  int
	// need is the least number of memory slices that the instances take anywhere.
	need int
	cost cost
	// set are the placements, as bits over the GPU's offer.
	set uint64
}

// class is a set of GPUs in the same state; parts are its ways, in order of preference.
type class struct {
	state State
	sets  []uint64 // the placements of each demand
	parts []part
}

type search struct {
	demands []demand
	// whole is the sub-multiset of everything wanted, sizes the number of sub-multisets.
	whole part
	sizes int
	// guard has the highest bit of every field set; counts never reach it. Subtracting b from a|guard then clears the
	// guard of exactly those fields where b has more than a.
	guard uint64

	classes []class
	// class is the class of each GPU; room the memory slices that this GPU and the later ones could still give.
	class []int
	room  []int

	// memo[g*sizes+i] is the least cost of placing sub-multiset i on GPU g and the later ones.
	memo  []cost
	steps int
	over  bool
}

// exact places the demands (n instances together) with least loss. Beyond the bounds it falls back to greedy.
func exact(gpus []State, demands []demand, n int) ([]Choice, bool) {
	s := search{demands: slices.Clone(demands)} // a copy, so that the callers' stays on their stack
	if s.prepare(gpus) {
		total := s.solve(0, s.whole)
		if !s.over {
			if total == impossible {
				return nil, false
			}
			return s.choices(make([]Choice, 0, n)), true
		}
	}
	return greedy(slices.Clone(gpus), demands, make([]Choice, 0, n))
}

// prepare sets up the tables and reports whether the search is within its bounds.
func (s *search) prepare(gpus []State) bool {
	s.sizes = 1
	bit := 0
	for i := len(s.demands) - 1; i >= 0; i-- {
		d := &s.demands[i]
		d.radix, d.shift = s.sizes, bit
		s.sizes *= d.count + 1
		if s.sizes*len(gpus) > maxCells {
			return false
		}
		// sizes at least doubles with every demand and is at most maxCells, so the fields fit 64 bits.
		bit += bits.Len(uint(d.count)) + 1
		s.guard |= 1 << (bit - 1)
		s.whole = s.whole.plus(part{
			index: d.count * d.radix, packed: uint64(d.count) << d.shift, count: d.count, need: d.count * d.minSize,
		})
	}
	slot := make([]int32, s.sizes)
	s.class = make([]int, len(gpus))
	s.room = make([]int, len(gpus)+1)
	for g, state := range gpus {
		s.class[g] = s.classify(state, slot)
		if s.over {
			return false
		}
	}
	for g := len(gpus) - 1; g >= 0; g-- {
		var covered uint64
		for _, d := range s.demands {
			covered |= gpus[g].covers(d.profile)
		}
		s.room[g] = s.room[g+1] + bits.OnesCount64(covered)
	}
	s.memo = make([]cost, len(gpus)*s.sizes)
	for i := range s.memo {
		s.memo[i] = unknown
	}
	return true
}

// plus is the union of two parts, without their cost.
func (p part) plus(o part) part {
	return part{
		index: p.index + o.index, packed: p.packed + o.packed, count: p.count + o.count, need: p.need + o.need, set: p.set | o.set,
	}
}

// classify finds the class of the state or makes it. slot is scratch of s.sizes zeros, and is left so.
func (s *search) classify(state State, slot []int32) int {
	for i := range s.classes {
		if s.classes[i].state == state {
			return i
		}
	}
	c := class{state: state, sets: make([]uint64, len(s.demands)), parts: make([]part, 1, 16)}
	if state.offer != nil {
		for i, d := range s.demands {
			c.sets[i] = state.offer.set(d.profile)
		}
		slot[0] = 1 // the empty part
		s.extend(&c, slot, part{}, state.free, 0, s.demands[0].count, ^uint64(0))
	}
	for i := range c.parts {
		p := &c.parts[i]
		slot[p.index] = 0
		if state.Idle() && p.count > 0 {
			p.cost++
		}
	}
	// More instances first, then more of the larger ones.
	slices.SortFunc(c.parts, func(a, b part) int {
		return cmp.Or(cmp.Compare(b.count, a.count), cmp.Compare(b.index, a.index))
	})
	s.classes = append(s.classes, c)
	return len(s.classes) - 1
}

// extend adds to the class every part that p can grow into with instances of demand i (at most left of them, from the
// placements in after) and of later demands, free being what can still be given. Every set of placements is reached once,
// and of the sets with the same instances the one with the highest starts first.
func (s *search) extend(c *class, slot []int32, p part, free uint64, i, left int, after uint64) {
	offer := c.state.offer
	for k := i; k < len(s.demands); k++ {
		d := &s.demands[k]
		if k > i {
			left, after = d.count, ^uint64(0)
		}
		set := free & c.sets[k] & after
		for ; set != 0 && left > 0; set &= set - 1 {
			if s.steps++; s.steps > maxSteps {
				s.over = true
				return
			}
			n := bits.TrailingZeros64(set)
			q := p.plus(part{index: d.radix, packed: 1 << d.shift, count: 1, need: d.minSize, set: 1 << n})
			q.cost = p.cost + lossUnit*cost(offer.lossOf(n, free))
			if at := slot[q.index]; at == 0 {
				c.parts = append(c.parts, q)
				slot[q.index] = int32(len(c.parts))
			} else if q.cost < c.parts[at-1].cost {
				c.parts[at-1] = q
			}
			s.extend(c, slot, q, free&^offer.places[n].conflicts, k, left-1, ^uint64(0)<<n)
		}
	}
}

// solve is the least cost of placing what remains on GPU g and the later ones.
func (s *search) solve(g int, remaining part) cost {
	if remaining.index == 0 {
		return 0
	}
	if remaining.need > s.room[g] || s.over {
		return impossible
	}
	cell := g*s.sizes + remaining.index
	if s.memo[cell] != unknown {
		return s.memo[cell]
	}
	least := impossible
	parts := s.classes[s.class[g]].parts
	s.steps += len(parts)
	if s.steps > maxSteps {
		s.over = true
		return impossible
	}
	for i := range parts {
		p := &parts[i]
		if !s.has(remaining, p) {
			continue
		}
		if rest := s.solve(g+1, remaining.minus(p)); rest != impossible {
			least = min(least, p.cost+rest)
		}
	}
	s.memo[cell] = least
	return least
}

// has reports whether p has no more of any demand than what remains.
func (s *search) has(remaining part, p *part) bool {
	return ((remaining.packed|s.guard)-p.packed)&s.guard == s.guard
}

// minus is the part without what p has; p must not have more of anything.
func (p part) minus(o *part) part {
	return part{index: p.index - o.index, packed: p.packed - o.packed, need: p.need - o.need}
}

// choices walks the solved tables, taking on each GPU the first part, in order of preference, that leads to least cost.
func (s *search) choices(out []Choice) []Choice {
	remaining := s.whole
	for g := 0; remaining.index != 0; g++ {
		least := s.solve(g, remaining)
		c := &s.classes[s.class[g]]
		for i := range c.parts {
			p := &c.parts[i]
			if !s.has(remaining, p) {
				continue
			}
			rest := s.solve(g+1, remaining.minus(p))
			if rest == impossible || p.cost+rest != least {
				continue
			}
			for set := p.set; set != 0; set &= set - 1 {
				out = append(out, Choice{GPU: g, Instance: c.state.offer.places[bits.TrailingZeros64(set)].instance})
			}
			remaining = remaining.minus(p)
			break
		}
	}
	return out
}
