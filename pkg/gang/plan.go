package gang

import (
	"fmt"
	"slices"

	"weft.sh/weft/pkg/cluster"
	"weft.sh/weft/pkg/fit"
)

// Plan places the members that have no place yet, or says why it cannot: a rejection with what was asked for and the
// nearest to it that there is. The rejection is OK when there is a plan.
func Plan(p *Problem) (*Result, fit.Rejection) {
	nodes := slices.Clone(p.Nodes)
	res := &Result{}
	placed := 0
	for i, m := range p.Members {
		if m.Node != "" {
			placed++
			continue
		}
		if n, pl, ok := first(p, nodes, i); ok {
			res.Placements = append(res.Placements, pl)
			nodes[pl.Node] = n
			placed++
		} else {
			res.Surplus = append(res.Surplus, i)
		}
	}
	if placed < p.Min || len(res.Placements) == 0 {
		return nil, fit.Rejection{
			Reason: fit.InsufficientGangCapacity, Detail: fmt.Sprintf("needs places for %d members at once; there are %d", p.Min, placed),
		}
	}
	return res, fit.Rejection{}
}

// first is the first node that takes the member, as it is with it.
func first(p *Problem, nodes []Node, member int) (Node, Placement, bool) {
	shape := p.Members[member].Shape
	s := &p.Shapes[shape]
	for i, n := range nodes {
		if n.Limit[shape] == 0 {
			continue
		}
		fits := true
		for r, ask := range s.Ask {
			fits = fits && n.Free[r] >= ask
		}
		if !fits {
			continue
		}
		a, err := fit.Assign(n.GPUs, s.Request, fit.CPU{FreeMilli: n.MilliCPU, AskMilli: s.MilliCPU}, p.Strategy)
		if err != nil {
			continue
		}
		n.Free, n.Limit = slices.Clone(n.Free), slices.Clone(n.Limit)
		for r, ask := range s.Ask {
			n.Free[r] -= ask
		}
		if n.Limit[shape] != NoLimit {
			n.Limit[shape]--
		}
		n.MilliCPU -= s.MilliCPU
		if n.GPUs != nil {
			n.GPUs = n.GPUs.With(cluster.NewPod(p.Members[member].UID, p.Members[member].Name, a))
		}
		return n, Placement{Member: member, Node: i, Assignment: a}, true
	}
	return Node{}, Placement{}, false
}
