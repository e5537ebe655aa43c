package gang

import "slices"

// The search for members of one shape is exact: for every domain, from the narrowest to the widest, the least cost of places for at
// least so many members. Costs add up over domains, so that the table of a domain follows from those of the domains in it. What is
// kept of a table is its steps: the largest number of members for each cost.

// way is a way to use a domain: places for up to so many members, at a cost.
type way struct {
	members int
	cost    cost
}

// table is the ways to use a domain, by members; both the members and the cost increase.
type table struct {
	options []way
	// chosen[k][m] is one more than the way of child k in the best way to place at least m members in children 0 to k, 0 where
	// the child is not used.
	chosen [][]uint16
}

// scalar plans members of one shape.
type scalar struct {
	pl     *planner
	need   int
	effort *int
	// variants says that the ways to use a domain of nodes are all that differ in the slots taken, and not only the best for each
	// number of nodes: of equal numbers of nodes those with less left over.
	variants  bool
	truncated bool
}

// maxOptions is how many options of one child the choices can number.
const maxOptions = 1<<16 - 2

// fill makes the tables of v and of everything in it.
func (s *scalar) fill(v *vertex) {
	t := &v.table
	t.options, t.chosen = t.options[:0], nil
	switch {
	case v.nodes != nil:
		s.fillNodes(v)
	case len(v.kids) == 1:
		s.fill(v.kids[0])
		t.options = append(t.options, v.kids[0].table.options...)
	default:
		for _, kid := range v.kids {
			s.fill(kid)
		}
		s.merge(v)
	}
	for i := range t.options {
		t.options[i].cost = t.options[i].cost.plus(v.own)
	}
}

// fillNodes is fill for the nodes of a narrowest domain. The fewest nodes for so many members are those that take most, and of the
// last one a smaller will do.
func (s *scalar) fillNodes(v *vertex) {
	t := &v.table
	sum, total := 0, cost{}
	for k, n := range v.nodes {
		if sum >= s.need {
			break
		}
		if s.variants && n.own.hops > 0 {
			for j := len(v.nodes) - 1; j > k; j-- {
				small := v.nodes[j]
				if small.slots >= n.slots || j > k+1 && v.nodes[j-1].slots == small.slots {
					continue // of equal ones the first
				}
				t.add(way{min(sum+small.slots, s.need), total.plus(small.own)})
			}
		}
		sum += n.slots
		total = total.plus(n.own)
		t.add(way{min(sum, s.need), total})
	}
}

// add appends an way that is dearer than all before it, or as dear as the last one.
func (t *table) add(o way) {
	if last := len(t.options) - 1; last >= 0 {
		before := &t.options[last]
		switch {
		case o.members <= before.members:
			return // the dearer one places no more
		case o.cost.compare(before.cost) <= 0:
			*before = o
			return
		}
	}
	t.options = append(t.options, o)
}

// merge makes the table of v from those of the domains in it.
func (s *scalar) merge(v *vertex) {
	total, work := s.work(v)
	if work > *s.effort/32 {
		// The number of domains stays exact; of what costs as many only the largest is looked at, so that among equals the tightest
		// may be missed.
		for _, kid := range v.kids {
			kid.table.options = largestOfEach(kid.table.options)
		}
		total, work = s.work(v)
	}
	most := maxOptions
	if work > *s.effort {
		// As many options of each child as the effort is for; the last, the whole child, is always one, so that what can be
		// placed is found in any case.
		most = max(1, *s.effort/(len(v.kids)*total))
		s.truncated = true
	}
	best := make([]cost, total+1)
	for m := 1; m <= total; m++ {
		best[m] = infinite
	}
	v.table.chosen = make([][]uint16, len(v.kids))
	flat := make([]uint16, len(v.kids)*(total+1))
	reach := 0
	for k, kid := range v.kids {
		kid.table.options = thin(kid.table.options, most)
		options := kid.table.options
		reach = min(reach+options[len(options)-1].members, total)
		chosen := flat[k*(total+1) : (k+1)*(total+1)]
		v.table.chosen[k] = chosen
		*s.effort -= len(options) * reach
		for m := reach; m > 0; m-- {
			least, with := best[m], uint16(0)
			for o := range options { // the innermost loop of all
				w := &options[o]
				left := max(m-w.members, 0)
				if hops := best[left].hops + w.cost.hops; hops <= least.hops {
					if loss := best[left].loss + w.cost.loss; hops < least.hops || loss < least.loss {
						least, with = cost{hops, loss}, uint16(o+1)
					}
				}
				if left == 0 {
					break // the later ones are dearer
				}
			}
			best[m], chosen[m] = least, with
		}
	}
	*s.effort = max(*s.effort, 0)
	for m := 1; m <= total; m++ {
		if m == total || best[m+1].compare(best[m]) > 0 {
			v.table.options = append(v.table.options, way{m, best[m]})
		}
	}
}

// work is how many members v takes, and at most how many steps it takes to merge the tables in it.
func (s *scalar) work(v *vertex) (total, work int) {
	for _, kid := range v.kids {
		options := kid.table.options
		total = min(total+options[len(options)-1].members, s.need)
		work += len(options) * total
	}
	return total, work
}

// largestOfEach keeps of the options with the same hops the one for most members, which is the last.
func largestOfEach(options []way) []way {
	out := make([]way, 0, len(options))
	for i, o := range options {
		if i == len(options)-1 || options[i+1].cost.hops > o.cost.hops {
			out = append(out, o)
		}
	}
	return out
}

// thin keeps so many of the options, evenly, the last always.
func thin(options []way, most int) []way {
	if len(options) <= most {
		return options
	}
	out := make([]way, most)
	for k := range out {
		out[k] = options[(k+1)*len(options)/most-1]
	}
	return out
}

// least is the cost of places for m members in v; false where there are not so many.
func (t *table) least(m int) (cost, bool) {
	i := slices.IndexFunc(t.options, func(o way) bool { return o.members >= m })
	if i < 0 {
		return cost{}, false
	}
	return t.options[i].cost, true
}

// pick is members of a shape on a node.
type pick struct{ node, shape, n int }

// collect lists where m members go in v.
func (s *scalar) collect(v *vertex, m, shape int, out []pick) []pick {
	switch {
	case v.nodes != nil:
		for k, n := range v.nodes {
			if n.slots >= m {
				return append(out, pick{tightest(v.nodes[k:], m).node, shape, m})
			}
			out = append(out, pick{n.node, shape, n.slots})
			m -= n.slots
		}
	case len(v.kids) == 1:
		return s.collect(v.kids[0], m, shape, out)
	default:
		for k := len(v.kids) - 1; k >= 0 && m > 0; k-- {
			chosen := v.table.chosen[k][min(m, len(v.table.chosen[k])-1)]
			if chosen == 0 {
				continue
			}
			here := min(v.kids[k].table.options[chosen-1].members, m)
			out = s.collect(v.kids[k], here, shape, out)
			m -= here
		}
	}
	return out
}

// tightest is the node with the fewest slots that takes m members, where the first does; one that the gang is on already goes first.
func tightest(nodes []place, m int) place {
	best := nodes[0]
	for _, n := range nodes[1:] {
		if n.slots >= m && n.own.compare(best.own) < 0 {
			best = n
		}
	}
	return best
}
