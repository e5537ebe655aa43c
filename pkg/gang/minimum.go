package gang

import (
	"fmt"
	"slices"

	"weft.sh/weft/pkg/fit"
)

// hopefulFirst are the members in their order, but for those of shapes that no node of the groups takes, whatever became free: these
// come last.
func (pl *planner) hopefulFirst(groups []group, members []int) []int {
	hopeless := make([]bool, len(pl.p.Shapes))
	for shape, n := range pl.unplaced {
		hopeless[shape] = n > 0 && !pl.hopeful(groups, shape)
	}
	if !slices.Contains(hopeless, true) {
		return members
	}
	var first, last []int
	for _, m := range members {
		if hopeless[pl.p.Members[m].Shape] {
			last = append(last, m)
		} else {
			first = append(first, m)
		}
	}
	return append(first, last...)
}

func (pl *planner) hopeful(groups []group, shape int) bool {
	for _, g := range groups {
		for _, i := range g.nodes {
			if n := &pl.p.Nodes[i]; n.Limit[shape] > 0 {
				if r := fit.Check(n.GPUs, pl.p.Shapes[shape].Request); r == fit.Fits || r.Resolvable() {
					return true
				}
			}
		}
	}
	return false
}

// placeAnother is place where the first members have no room: in each group the minimum are then the first for which there is room
// there, each shape by itself. Groups of one such choice are tried together, the choice with the first members first.
func (pl *planner) placeAnother(groups []group, members []int, need int) bool {
	if need == 0 || need == len(members) {
		return false
	}
	type choice struct {
		minimum []int // positions in members
		groups  []group
	}
	var choices []choice
	wants := pl.demand(members)
	for _, g := range groups {
		room := pl.roomIn(g, wants)
		var minimum []int
		for k, m := range members {
			if shape := pl.p.Members[m].Shape; len(minimum) < need && room[shape] > 0 {
				room[shape]--
				minimum = append(minimum, k)
			}
		}
		if len(minimum) < need || minimum[need-1] == need-1 {
			continue // the first members: place has tried
		}
		at, ok := slices.BinarySearchFunc(choices, minimum, func(c choice, m []int) int { return slices.Compare(c.minimum, m) })
		if !ok {
			choices = slices.Insert(choices, at, choice{minimum: minimum})
		}
		choices[at].groups = append(choices[at].groups, g)
	}
	for _, c := range choices {
		var minimum, others []int
		for k, m := range members {
			if _, ok := slices.BinarySearch(c.minimum, k); ok {
				minimum = append(minimum, m)
			} else {
				others = append(others, m)
			}
		}
		slices.Sort(minimum)
		if pl.place(c.groups, minimum, others) {
			return true
		}
	}
	return false
}

// merged is the problem with one shape for all between which no node tells a difference: members with a volume each, say. Shapes that
// a node takes a limited number of stay as they are, for each has that number.
func merged(p *Problem) *Problem {
	if len(p.Shapes) < 2 {
		return p
	}
	alike := map[string][]int{}
	into := make([]int, len(p.Shapes)) // by shape: its number in the new problem
	var kept []int
	for s := range p.Shapes {
		key := fmt.Sprintf("%#v %d %d", p.Shapes[s].Request, p.Shapes[s].MilliCPU, p.Shapes[s].Ask)
		same := slices.IndexFunc(alike[key], func(other int) bool { return p.sameLimits(s, other) })
		if same >= 0 {
			into[s] = into[alike[key][same]]
			continue
		}
		into[s] = len(kept)
		kept, alike[key] = append(kept, s), append(alike[key], s)
	}
	if len(kept) == len(p.Shapes) {
		return p
	}
	out := *p
	out.Shapes, out.Members, out.Nodes = make([]Shape, len(kept)), slices.Clone(p.Members), slices.Clone(p.Nodes)
	limits := make([]int, len(kept)*len(p.Nodes))
	for i := range out.Nodes {
		limit := limits[i*len(kept) : (i+1)*len(kept)]
		for k, s := range kept {
			limit[k] = p.Nodes[i].Limit[s]
		}
		out.Nodes[i].Limit = limit
	}
	for k, s := range kept {
		out.Shapes[k] = p.Shapes[s]
	}
	for i := range out.Members {
		if m := &out.Members[i]; m.Node == "" {
			m.Shape = into[m.Shape]
		} else {
			m.Shape = 0
		}
	}
	return &out
}

// sameLimits reports whether every node takes either as many of the one shape and of the other as there is room for, or none.
func (p *Problem) sameLimits(a, b int) bool {
	for i := range p.Nodes {
		if l := p.Nodes[i].Limit; l[a] != l[b] || l[a] != 0 && l[a] != NoLimit {
			return false
		}
	}
	return true
}
