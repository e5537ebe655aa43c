package nvlink

import (
	"cmp"
	"slices"
)

// ExactGPUs is up to how many GPUs to choose from the choice is exact.
const ExactGPUs = 16

// Choice asks for Count of the GPUs of From; it gets all of them where they are fewer.
type Choice struct {
	From  Set
	Count int
}

// Best is the best set that has of every choice as many GPUs as it asks for; no GPU may be in two of them. free are the GPUs
// that are free before: what of them the set does not take is what it may damage. What is best is said at the top of the
// package.
func (g *Graph) Best(free Set, choices ...Choice) Set {
	s := search{g: g, free: free, choices: choices}
	var all, easy Set
	for _, c := range choices {
		all |= c.From
		s.count += c.Count
		easy |= c.From.lowest(c.Count)
	}
	switch {
	case g.Uniform() || all == easy || easy.Len() < s.count:
		return easy
	case all.Len() > ExactGPUs:
		return s.approach(all)
	}
	for l := 0; !s.found; l++ {
		// The sets whose links are all of this level or better; of the last level every set is.
		s.grow(0, all, l, 0)
	}
	return s.best
}

// Widest is the best worst link that k of the GPUs can have, Unbounded for fewer than two, and 0 where there are not as
// many. Exact up to [ExactGPUs].
func (g *Graph) Widest(from Set, k int) Bandwidth {
	switch {
	case from.Len() < k:
		return 0
	case k < 2:
		return Unbounded
	case g.Uniform():
		return g.Link(0, 1)
	case from.Len() > ExactGPUs:
		return g.Worst(g.Best(0, Choice{from, k}))
	}
	n := g.size
	for l, level := range g.levels {
		if g.has(from, k, g.within[l*n:(l+1)*n]) {
			return level
		}
	}
	return 0 // not reached: of the last level every set is
}

// has reports whether k of the GPUs are all linked to each other, in the graph that within is of.
func (g *Graph) has(from Set, k int, within []Set) bool {
	if k <= 1 {
		return from.Len() >= k
	}
	for from.Len() >= k {
		i := from.First()
		from &^= Of(i)
		if g.has(from&within[i], k-1, within) {
			return true
		}
		// A set with a twin in place of i would be one with i.
		from &^= g.twins[i]
	}
	return false
}

// search is the search for one set.
type search struct {
	g       *Graph
	free    Set
	choices []Choice
	count   int

	found bool
	best  Set
	worst Bandwidth
	total int
	// left is what best leaves, once it is known.
	left  remains
	known bool
}

// grow tries all ways to complete the set with GPUs of from, in ascending order, so that of equal sets the lowest is met
// first. from are those of higher positions than the set has that are linked to all of it by the level or better; total is
// that of the set.
func (s *search) grow(set, from Set, level, total int) {
	need := s.count - set.Len()
	if need == 0 {
		s.offer(set, s.g.levels[level], total) // one with better links would have been found before
		return
	}
	for from.Len() >= need {
		i := from.First()
		from &^= Of(i)
		if !s.open(set, i) {
			continue
		}
		if next := from & s.g.within[level*s.g.size+i]; next.Len() >= need-1 {
			s.grow(set|Of(i), next, level, total+s.g.sum(i, set))
		}
	}
}

// open reports whether GPU i may come into the set: its choice is not exhausted, and a twin of it that could stand in its
// place is in the set already, for of those the lowest go first.
func (s *search) open(set Set, i int) bool {
	for _, c := range s.choices {
		if c.From.Has(i) {
			return (set&c.From).Len() < c.Count && s.g.twins[i]&below(i)&c.From&^set == 0
		}
	}
	return false
}

// offer keeps the set if it is better than the best so far.
func (s *search) offer(set Set, worst Bandwidth, total int) {
	better := 1
	if s.found {
		better = cmp.Or(cmp.Compare(worst, s.worst), cmp.Compare(total, s.total))
	}
	switch {
	case better > 0:
		s.found, s.best, s.worst, s.total, s.known = true, set, worst, total, false
	case better == 0 && set != s.best:
		if !s.known {
			s.left, s.known = s.g.remains(s.free&^s.best), true
		}
		left := s.g.remains(s.free &^ set)
		if cmp.Or(left.compare(s.left), s.best.compare(set)) > 0 {
			s.best, s.left = set, left
		}
	}
}

// remains says how good GPUs are that stay free; see the top of the package.
type remains struct {
	widest [5]Bandwidth // of sets of 32, 16, 8, 4 and 2
	total  int
}

func (g *Graph) remains(free Set) (r remains) {
	r.total = g.Total(free)
	if free.Len() <= ExactGPUs {
		for i := range r.widest {
			r.widest[i] = g.Widest(free, 32>>i)
		}
	}
	return r
}

func (r remains) compare(o remains) int {
	return cmp.Or(slices.Compare(r.widest[:], o.widest[:]), cmp.Compare(r.total, o.total))
}

// approach is Best without the promise.
func (s *search) approach(all Set) Set {
	for i := range all.All() {
		if set, ok := s.from(i, all); ok {
			s.offer(set, s.g.Worst(set), s.g.Total(set))
		}
	}
	for {
		best, total := s.best, s.total
		for out := range best.All() {
			rest := best &^ Of(out)
			less := total - s.g.sum(out, rest)
			for in := range (all &^ best).All() {
				if s.choice(out) == s.choice(in) {
					s.offer(rest|Of(in), s.g.Worst(rest|Of(in)), less+s.g.sum(in, rest))
				}
			}
		}
		if s.best == best {
			return best
		}
	}
}

// choice is the one that GPU i is of.
func (s *search) choice(i int) int {
	return slices.IndexFunc(s.choices, func(c Choice) bool { return c.From.Has(i) })
}

// from grows a set from GPU i, each time by the GPU whose worst link to the set is best, and of those by the one with most
// links to it. It reports false where no set need have GPU i, as when a
// twin stands before it.
func (s *search) from(i int, all Set) (Set, bool) {
	if !s.open(0, i) {
		return 0, false
	}
	set := Of(i)
	for set.Len() < s.count {
		next, worst, sum := -1, Bandwidth(0), 0
		for j := range (all &^ set).All() {
			if c := s.choices[s.choice(j)]; (set & c.From).Len() == c.Count {
				continue
			}
			w := Unbounded
			for k := range set.All() {
				w = min(w, s.g.Link(j, k))
			}
			if t := s.g.sum(j, set); next < 0 || cmp.Or(cmp.Compare(w, worst), cmp.Compare(t, sum)) > 0 {
				next, worst, sum = j, w, t
			}
		}
		set |= Of(next)
	}
	return set, true
}
