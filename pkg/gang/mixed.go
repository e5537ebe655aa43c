package gang

// Members of several shapes compete for the same nodes. While the combinations are few, the search over them is as exact as that
// for one shape, with a count for each shape in place of one. Otherwise the shapes are placed one after the other, each
// exactly, in both orders, and the better outcome is taken.

// maxCombinations bounds how many combinations of numbers of members the exact search looks at, and a node's.
const (
	maxCombinations     = 1 << 14
	maxNodeCombinations = 256
	// mixedEffort is what one step costs, in steps for members of one shape.
	mixedEffort = 3
)

// mixed plans members of several shapes at once.
type mixed struct {
	pl     *planner
	shapes []int // the hardest first
	need   []int
	stride []int
	size   int
	counts [][]int32 // of each combination, by shape
	effort *int
	spent  bool
}

// waysOf is the ways to use a domain or a node; unlike those of one shape they have no order.
type waysOf struct {
	members [][]int32
	costs   []cost
	// chosen is as in table, by combination.
	chosen [][]uint16
	parts  []*waysOf
}

// newMixed is nil where there are too many combinations.
func newMixed(pl *planner, shapes []int, need []int, effort *int) *mixed {
	m := &mixed{pl: pl, shapes: shapes, need: need, size: 1, effort: effort}
	for _, shape := range shapes {
		m.stride = append(m.stride, m.size)
		if m.size *= need[shape] + 1; m.size > maxCombinations {
			return nil
		}
	}
	flat := make([]int32, m.size*len(shapes))
	m.counts = make([][]int32, m.size)
	for t := range m.counts {
		m.counts[t] = flat[t*len(shapes) : (t+1)*len(shapes)]
		for k, shape := range shapes {
			m.counts[t][k] = int32(t / m.stride[k] % (need[shape] + 1))
		}
	}
	return m
}

// ways are those of v; nil when the effort is spent.
func (m *mixed) ways(v *vertex) *waysOf {
	var parts []*waysOf
	for _, n := range v.nodes {
		combinations, ok := m.pl.joint(n.node, m.shapes, m.need, maxNodeCombinations)
		if !ok {
			m.spent = true
			return nil
		}
		w := &waysOf{members: combinations}
		for range combinations {
			w.costs = append(w.costs, n.own)
		}
		parts = append(parts, w)
	}
	for _, kid := range v.kids {
		w := m.ways(kid)
		if w == nil {
			return nil
		}
		parts = append(parts, w)
	}
	if len(parts) == 1 && v.nodes == nil {
		w := &waysOf{members: parts[0].members, parts: parts}
		for _, c := range parts[0].costs {
			w.costs = append(w.costs, c.plus(v.own))
		}
		return w
	}
	return m.merge(v, parts)
}

// rest is the combination that is left of t when so many members are placed.
func (m *mixed) rest(t int, placed []int32) int {
	left := 0
	for k, c := range m.counts[t] {
		left += int(max(c-placed[k], 0)) * m.stride[k]
	}
	return left
}

func (m *mixed) merge(v *vertex, parts []*waysOf) *waysOf {
	out := &waysOf{parts: parts, chosen: make([][]uint16, len(parts))}
	best := make([]cost, m.size)
	for t := 1; t < m.size; t++ {
		best[t] = infinite
	}
	flat := make([]uint16, len(parts)*m.size)
	reach := make([]int32, len(m.shapes)) // of each shape, in the parts so far
	for k, part := range parts {
		most := make([]int32, len(m.shapes))
		for _, placed := range part.members {
			for s, n := range placed {
				most[s] = max(most[s], n)
			}
		}
		inReach := 1
		for s := range reach {
			reach[s] = min(reach[s]+most[s], int32(m.need[m.shapes[s]]))
			inReach *= int(reach[s]) + 1
		}
		chosen := flat[k*m.size : (k+1)*m.size]
		out.chosen[k] = chosen
		if *m.effort -= mixedEffort*len(part.costs)*inReach + m.size; *m.effort < 0 {
			*m.effort, m.spent = 0, true
			return nil
		}
		for t := m.size - 1; t > 0; t-- {
			if !within(m.counts[t], reach) {
				continue
			}
			least, with := best[t], uint16(0)
			for o, placed := range part.members {
				left := m.rest(t, placed)
				if left == t {
					continue
				}
				c := &part.costs[o]
				if hops := best[left].hops + c.hops; hops <= least.hops {
					if loss := best[left].loss + c.loss; hops < least.hops || loss < least.loss {
						least, with = cost{hops, loss}, uint16(o+1)
					}
				}
			}
			best[t], chosen[t] = least, with
		}
	}
	for t := 1; t < m.size; t++ {
		if best[t].hops >= infinite.hops {
			continue
		}
		dominated := false
		for k, shape := range m.shapes {
			dominated = dominated || int(m.counts[t][k]) < m.need[shape] && best[t+m.stride[k]].compare(best[t]) <= 0
		}
		if !dominated {
			out.members = append(out.members, m.counts[t])
			out.costs = append(out.costs, best[t].plus(v.own))
		}
	}
	return out
}

// solve is the least cost of places for all members in the tree, and where they go. Whether there is none is certain only when the
// effort is not spent.
func (m *mixed) solve(root *vertex) (cost, []pick, bool) {
	w := m.ways(root)
	if w == nil {
		return cost{}, nil, false
	}
	all := m.counts[m.size-1]
	for o, placed := range w.members {
		if m.rest(m.size-1, placed) == 0 {
			return w.costs[o], m.collect(root, w, m.rest(m.size-1, make([]int32, len(all))), nil), true
		}
	}
	return cost{}, nil, false
}

// collect lists where the members of combination t go in v.
func (m *mixed) collect(v *vertex, w *waysOf, t int, out []pick) []pick {
	if w.chosen == nil {
		return m.collect(v.kids[0], w.parts[0], t, out)
	}
	for k := len(w.parts) - 1; k >= 0 && t > 0; k-- {
		chosen := w.chosen[k][t]
		if chosen == 0 {
			continue
		}
		left := m.rest(t, w.parts[k].members[chosen-1])
		here := t - left // what is left is within t, shape by shape
		if v.nodes == nil {
			out = m.collect(v.kids[k], w.parts[k], here, out)
		} else {
			for s, shape := range m.shapes {
				if n := int(m.counts[here][s]); n > 0 {
					out = append(out, pick{v.nodes[k].node, shape, n})
				}
			}
		}
		t = left
	}
	return out
}
