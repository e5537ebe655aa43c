package gang

import (
	"errors"
	"fmt"
	"slices"

	"weft.sh/weft/pkg/cluster"
	"weft.sh/weft/pkg/gpu"
)

// ErrInvalidPlan is wrapped by every error of Verify.
var ErrInvalidPlan = errors.New("the plan is not valid")

// Verify checks a plan for the problem by its meaning alone, with none of what made it: that every placement, one after the
// other, leaves no node with more given than it has, that limits, the required domain and the minimum are kept, and that what the
// result says of itself is so. It does not ask whether there is a better one.
func Verify(p *Problem, r *Result) error {
	v := &verification{p: p, nodes: slices.Clone(p.Nodes)}
	for _, check := range []func(*Result) error{v.members, v.placements, v.domain, v.account} {
		if err := check(r); err != nil {
			return fmt.Errorf("%w: %s: %w", ErrInvalidPlan, p.Gang, err)
		}
	}
	return nil
}

type verification struct {
	p     *Problem
	nodes []Node // with the placements so far
}

// members checks that every member without a place is either placed or surplus, once, and that the minimum has places.
func (v *verification) members(r *Result) error {
	seen := map[int]string{}
	account := func(m int, as string) error {
		switch {
		case m < 0 || m >= len(v.p.Members):
			return fmt.Errorf("member %d of %d is %s", m, len(v.p.Members), as)
		case v.p.Members[m].Node != "":
			return fmt.Errorf("%s is %s, but is on %s already", v.p.Members[m].Name, as, v.p.Members[m].Node)
		case seen[m] != "":
			return fmt.Errorf("%s is %s, and %s", v.p.Members[m].Name, seen[m], as)
		}
		seen[m] = as
		return nil
	}
	last := -1
	for _, at := range r.Placements {
		if err := account(at.Member, "placed"); err != nil {
			return err
		}
		if at.Member < last {
			return fmt.Errorf("member %d is placed after member %d", at.Member, last)
		}
		last = at.Member
	}
	for _, m := range r.Surplus {
		if err := account(m, "surplus"); err != nil {
			return err
		}
	}
	placed := len(r.Placements)
	for i, m := range v.p.Members {
		if m.Node != "" {
			placed++
		} else if seen[i] == "" {
			return fmt.Errorf("%s is neither placed nor surplus", m.Name)
		}
	}
	if placed < v.p.Min {
		return fmt.Errorf("%d members have places; the minimum is %d", placed, v.p.Min)
	}
	return nil
}

// placements puts the members on their nodes.
func (v *verification) placements(r *Result) error {
	for _, at := range r.Placements {
		m := &v.p.Members[at.Member]
		if at.Node < 0 || at.Node >= len(v.nodes) {
			return fmt.Errorf("%s is on node %d of %d", m.Name, at.Node, len(v.nodes))
		}
		n, s := &v.nodes[at.Node], &v.p.Shapes[m.Shape]
		if n.Limit[m.Shape] == 0 {
			return fmt.Errorf("%s is on %s, which may have no more of its shape", m.Name, n.Name)
		}
		n.Limit = slices.Clone(n.Limit)
		if n.Limit[m.Shape] != NoLimit {
			n.Limit[m.Shape]--
		}
		n.Free = slices.Clone(n.Free)
		for i, ask := range s.Ask {
			if n.Free[i] -= ask; ask > 0 && n.Free[i] < 0 {
				return fmt.Errorf("%s on %s: %d of %s asked for, %d left", m.Name, n.Name, ask, v.p.Resources[i], n.Free[i]+ask)
			}
		}
		if err := v.give(n, s.Request, cluster.NewPod(m.UID, m.Name, at.Assignment)); err != nil {
			return fmt.Errorf("%s on %s: %w", m.Name, n.Name, err)
		}
	}
	return nil
}

// give gives the pod its GPUs on the node.
func (v *verification) give(n *Node, request gpu.Request, pod cluster.Pod) error {
	if err := pod.Assignment.Validate(); err != nil {
		return err
	}
	if !request.SatisfiedBy(pod.Assignment) {
		return fmt.Errorf("%q is not what it asks for", pod.Assignment)
	}
	if request.Empty() {
		return nil
	}
	if n.GPUs == nil {
		return errors.New("the node has no GPU")
	}
	for _, u := range pod.Uses() {
		for i := range n.GPUs.GPUs {
			if d := &n.GPUs.GPUs[i].Device; d.ID == u.GPU && !request.Accepts(d.Product) {
				return fmt.Errorf("GPU %s is a %s", d.ID, d.Product)
			}
		}
	}
	if err := n.GPUs.CanGive(pod); err != nil {
		return err
	}
	n.GPUs = n.GPUs.With(pod)
	return nil
}

// domain checks that one domain of the required level holds what is placed, and that it is one where most members were.
func (v *verification) domain(r *Result) error {
	if v.p.Required == "" || len(r.Placements) == 0 {
		return nil
	}
	l := slices.Index(v.p.Levels, v.p.Required)
	if l < 0 {
		return fmt.Errorf("level %q is not known", v.p.Required)
	}
	value := v.p.Nodes[r.Placements[0].Node].domain(l)
	if value == "" {
		return fmt.Errorf("%s is in no domain of level %s", v.p.Nodes[r.Placements[0].Node].Name, v.p.Required)
	}
	for _, at := range r.Placements {
		if n := &v.p.Nodes[at.Node]; n.domain(l) != value {
			return fmt.Errorf("%s is in %s domain %q, other members are placed in %q", n.Name, v.p.Required, n.domain(l), value)
		}
	}
	before, most := map[string]int{}, 0
	domainOf := map[string]string{}
	for i := range v.p.Nodes {
		domainOf[v.p.Nodes[i].Name] = v.p.Nodes[i].domain(l)
	}
	for _, m := range v.p.Members {
		if d := domainOf[m.Node]; m.Node != "" && d != "" {
			before[d]++
			most = max(most, before[d])
		}
	}
	if before[value] < most {
		return fmt.Errorf("%s domain %q was taken, where %d members are; in another are %d", v.p.Required, value, before[value], most)
	}
	return nil
}

// account checks what the result says of domains.
func (v *verification) account(r *Result) error {
	domains, level, domain := spread(v.p, r.Placements)
	if !slices.Equal(r.Domains, domains) {
		return fmt.Errorf("it says %v domains by level; there are %v", r.Domains, domains)
	}
	if r.Level != level || r.Domain != domain {
		return fmt.Errorf("it says that %s %q holds all; it is %s %q", r.Level, r.Domain, level, domain)
	}
	return nil
}
