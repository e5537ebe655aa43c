package gang

import (
	"cmp"
	"math/bits"
	"slices"
)

// search looks for the cheapest units that make room on some nodes. A set of units is closed: with what is left of a gang, its
// surplus is gone too.
type search struct {
	*vacancy
	*tally
	// candidates are the units that may leave and free something on the nodes, or count for what must leave, dearest first. Where a unit leaves with another,
	// that one is dearer, so it comes first.
	candidates []int
	lone       []price // by unit: what evicting it alone costs, with what leaves with it
	tied       [][]int // by candidate unit: itself, and what leaves with it without being a candidate
	scope      []int   // all units that ever leave, ascending
	exact      int
	roomy      bool      // there is a plan when all candidates are gone
	options    []*option // by node, as long as they hold; see grow
}

// newSearch is the search on the nodes; nil where the bound says that not even all units together make room.
func newSearch(p *Problem, nodes []int, pr *pricer, e *effort, exact int) *search {
	batches := make([][]Occupant, len(pr.units))
	for u := range pr.units {
		batches[u] = pr.units[u].Pods
	}
	s := &search{
		vacancy: newVacancy(p, nodes, batches, e), tally: pr.tally(), exact: exact,
		lone: make([]price, len(pr.units)), tied: make([][]int, len(pr.units)),
	}
	for u := range pr.units {
		helps := func(w int) bool { return len(s.at[w]) > 0 || s.helps(w) }
		if pr.mayLeave(u) && slices.ContainsFunc(pr.with(u), helps) && s.withinCaps(u) {
			s.candidates = append(s.candidates, u)
			s.lone[u] = pr.of(pr.with(u)...)
			s.tied[u] = slices.DeleteFunc(pr.with(u), func(w int) bool { return w != u && helps(w) })
		}
	}
	slices.SortFunc(s.candidates, func(a, b int) int { return cmp.Or(slices.Compare(s.lone[b], s.lone[a]), cmp.Compare(b, a)) })
	s.scope = s.evict(s.candidates...)
	slices.Sort(s.scope)
	if !s.possible() {
		return nil
	}
	_, rejection := s.planned()
	s.roomy = rejection.OK()
	return s
}

// evict makes the units leave, with those that leave with them, and returns which were not gone before.
func (s *search) evict(units ...int) []int {
	var fresh []int
	for _, u := range units {
		for _, w := range s.with(u) {
			if !s.vacancy.gone[w] {
				s.set(w, true)
				s.count(w, 1)
				fresh = append(fresh, w)
			}
		}
	}
	return fresh
}

// spare brings units back.
func (s *search) spare(units ...int) {
	for _, u := range units {
		if s.vacancy.gone[u] {
			s.set(u, false)
			s.count(u, -1)
		}
	}
}

// victims are the units that are gone, ascending.
func (s *search) victims() []int {
	out := []int{}
	for _, u := range s.scope {
		if s.vacancy.gone[u] {
			out = append(out, u)
		}
	}
	return out
}

// restore makes exactly these units gone.
func (s *search) restore(victims []int) {
	s.spare(s.victims()...)
	s.evict(victims...)
}

// best is the cheapest set found that is cheaper than the limit, nil where there is none. At its start all candidates are gone.
func (s *search) best(limit price) ([]int, price) {
	if !s.roomy && len(s.Shapes) == 1 {
		return nil, nil
	}
	// Two ways to a set of which none can be spared; neither is always the better one. A planner that places several shapes within
	// bounds may not find a plan with the most room, and yet with less.
	var best []int
	var cost price
	if s.roomy {
		s.relieve()
		s.trim()
		if !s.over() {
			best, cost = s.victims(), s.tally.price()
		}
	}
	s.spare(s.victims()...)
	if s.grow() {
		s.trim()
		if c := s.tally.price(); c.less(cost) && !s.over() {
			best, cost = s.victims(), c
		}
	}
	if s.roomy && len(s.candidates) <= s.exact {
		best, cost = s.exhaust(best, cost)
	}
	if !cost.less(limit) {
		return nil, nil
	}
	return best, cost
}

// trim brings units back, the dearest first, until none can be spared.
func (s *search) trim() {
	for {
		var gone []int
		for _, u := range s.candidates {
			if s.vacancy.gone[u] {
				gone = append(gone, u)
			}
		}
		// Once is enough where more room never hurts; a planner that searches within bounds may be luckier with less.
		if !s.trimAmong(gone) {
			return
		}
	}
}

// trimAmong spares what it can of the units and reports whether that was any. It tries all together that the bound allows, then
// halves, so that the number of plans depends on how often the bound was wrong, and not on the number of units.
func (s *search) trimAmong(units []int) bool {
	var back []int
	for _, u := range units {
		if s.holder[u] >= 0 && s.vacancy.gone[s.holder[u]] {
			continue
		}
		if s.spare(s.tied[u]...); s.possible() {
			back = append(back, u)
		} else {
			s.evict(u)
		}
	}
	if len(back) == 0 {
		return false
	}
	if s.feasible() {
		return true
	}
	s.evict(back...)
	if len(units) == 1 {
		return false
	}
	first := s.trimAmong(units[:len(units)/2])
	return s.trimAmong(units[len(units)/2:]) || first
}

// option is a way to gain room: units to evict, all on or with those on one node.
type option struct {
	units []int
	price price
	gain  int
}

// better reports whether a costs less for each member that it makes room for than b, where no more than need is wanted.
func (a *option) better(b *option, need int) bool {
	if b == nil {
		return true
	}
	ga, gb := int64(min(a.gain, need)), int64(min(b.gain, need))
	for i := range a.price {
		if c := cmp.Compare(a.price[i]*gb, b.price[i]*ga); c != 0 {
			return c < 0
		}
	}
	return ga > gb
}

// grow evicts, starting with nobody, what costs least for the room it makes, until there is a plan; false when it finds none.
// When the bound promises a plan that does not exist it looks for ever more room than is needed.
func (s *search) grow() bool {
	if !s.meet() {
		return false
	}
	s.options = make([]*option, len(s.Nodes))
	for i := range s.options {
		s.options[i] = s.optionOn(i)
	}
	for slack := 0; ; {
		s.refresh()
		need := s.need + slack - s.value(slack)
		if need <= 0 {
			if s.feasible() {
				return true
			}
			if s.effort.short {
				return false
			}
			slack = max(1, 2*slack)
			continue
		}
		best := -1
		for i, o := range s.options {
			if o != nil && (best < 0 || o.better(s.options[best], need)) {
				best = i
			}
		}
		if best < 0 {
			return s.feasible()
		}
		before := s.value(slack)
		fresh := s.evict(s.options[best].units...)
		if s.over() { // others took of the caps since
			s.spare(fresh...)
			s.options[best] = s.optionOn(best)
			continue
		}
		s.refresh()
		if s.value(slack) == before {
			s.spare(fresh...) // it makes room for what is not wanted any more
			s.options[best] = nil
			continue
		}
		s.renew(fresh)
	}
}

// renew works the options out again that the departure of the units changes.
func (s *search) renew(units []int) {
	s.refresh()
	stale := map[int]bool{}
	for _, u := range units {
		for _, i := range s.at[u] {
			for _, other := range s.on[i] {
				for _, j := range s.at[other] {
					stale[j] = true
				}
			}
		}
	}
	for i := range s.options {
		if stale[i] {
			s.options[i] = s.optionOn(i)
		}
	}
}

// optionOn is the cheapest units on the node, one by one, until one more member of some shape fits it; nil when none does.
func (s *search) optionOn(node int) *option {
	var here []int
	for _, u := range s.on[node] {
		if !s.vacancy.gone[u] && s.mayLeave(u) {
			here = append(here, u)
		}
	}
	slices.SortStableFunc(here, func(a, b int) int { return slices.Compare(s.lone[a], s.lone[b]) })
	s.refresh()
	most, totals := s.nodes[node].most, slices.Clone(s.totals)
	more := func() bool {
		s.refresh()
		for shape, m := range s.nodes[node].most {
			if m > most[shape] && s.wants[shape] > 0 {
				return true
			}
		}
		return false
	}
	before := s.tally.price()
	var taken []int
	for k, u := range here {
		fresh := s.evict(u)
		if s.over() {
			s.spare(fresh...)
			continue
		}
		taken = append(taken, fresh...)
		if !more() {
			continue
		}
		// What was not needed for it stays, the dearest first.
		for _, other := range slices.Backward(here[:k]) {
			if !s.vacancy.gone[other] || s.holder[other] >= 0 && s.vacancy.gone[s.holder[other]] {
				continue
			}
			back := slices.DeleteFunc(s.with(other), func(w int) bool { return !slices.Contains(taken, w) })
			s.spare(back...)
			if more() {
				taken = slices.DeleteFunc(taken, func(w int) bool { return slices.Contains(back, w) })
			} else {
				s.evict(back...)
			}
		}
		s.refresh()
		o := &option{units: slices.Clone(taken), price: s.tally.price()}
		for i := range o.price {
			o.price[i] -= before[i]
		}
		for shape := range totals {
			if s.wants[shape] > 0 {
				o.gain += s.totals[shape] - totals[shape]
			}
		}
		s.spare(taken...)
		s.refresh()
		return o
	}
	s.spare(taken...)
	s.refresh()
	return nil
}

// exhaust is the cheapest set of all, if it is cheaper than the one given. The sets are tried from the cheapest on. What a set
// that is too small teaches is used for the others: it is made as large as it can be without making room, and what it then lacks
// must be met by every set that does (the implicit hitting set method: Moreno-Centeno and Karp, Operations Research 61(2), 2013).
func (s *search) exhaust(best []int, cost price) ([]int, price) {
	type set struct {
		units uint32
		price price
	}
	closed := func(units uint32) uint32 {
		for set := units; set != 0; set &= set - 1 {
			for _, w := range s.surplus[s.candidates[bits.TrailingZeros32(set)]] {
				if k := slices.Index(s.candidates, w); k >= 0 {
					units |= 1 << k
				}
			}
		}
		return units
	}
	gone := func(units uint32) {
		s.spare(s.victims()...)
		for set := units; set != 0; set &= set - 1 {
			s.evict(s.candidates[bits.TrailingZeros32(set)])
		}
	}
	all := uint32(1)<<len(s.candidates) - 1
	var sets []set
	for units := range all + 1 {
		if closed(units) != units {
			continue
		}
		gone(units)
		if p := s.tally.price(); p.less(cost) && !s.over() {
			sets = append(sets, set{units, p})
		}
	}
	slices.SortFunc(sets, func(a, b set) int { return cmp.Or(slices.Compare(a.price, b.price), cmp.Compare(a.units, b.units)) })
	var lacks []uint32 // of each, any set that makes room has one unit at least
	for _, c := range sets {
		if slices.ContainsFunc(lacks, func(l uint32) bool { return c.units&l == 0 }) {
			continue
		}
		if gone(c.units); s.feasible() {
			return s.victims(), c.price
		}
		large := c.units
		for k := range s.candidates {
			more := closed(large | 1<<k)
			if gone(more); more != large && !s.feasible() {
				large = more
			}
		}
		if s.effort.short {
			break
		}
		if large != all {
			lacks = append(lacks, all&^large)
		}
	}
	return best, cost
}
