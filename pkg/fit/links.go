package fit

import (
	"cmp"
	"slices"

	"weft.sh/weft/pkg/cluster"
	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/nvlink"
)

// placeByLinks exchanges the idle GPUs that the units were placed on for others that were in the same state, so that those
// that the pod holds whole at the same time are linked as well as can be, and what else it takes harms the sets least that
// stay free. No rating changes by it, and nothing that fitted ceases to.
func (p *planner) placeByLinks() {
	var whole, other nvlink.Set // the idle GPUs that are taken: by running containers whole, and otherwise
	for i := range p.units {
		switch u := &p.units[i]; {
		case !p.node.GPUs[u.chosen].Idle:
		case u.Kind == gpu.Whole && u.moment == 0:
			whole |= nvlink.Of(u.chosen)
		default:
			other |= nvlink.Of(u.chosen)
		}
	}
	other &^= whole
	if whole|other == 0 {
		return
	}
	links := p.node.Inventory.Links()
	var free, idle nvlink.Set
	for i := range p.node.GPUs {
		g := &p.node.GPUs[i]
		if g.Available() {
			free |= nvlink.Of(i)
		}
		if g.Idle {
			idle |= nvlink.Of(i)
		}
	}

	instead := make([]int, len(p.node.GPUs)) // of the GPUs that were chosen
	set := links.Best(free, p.choices(whole, idle)...)
	rest := set
	for _, held := range p.heldWhole() {
		now := links.Best(rest, p.choices(held, rest)...)
		p.match(instead, held, now)
		rest &^= now
	}
	taken := set
	for i := range other.All() {
		now := links.Best(free&^taken, p.choices(nvlink.Of(i), idle&^taken)...)
		p.match(instead, nvlink.Of(i), now)
		taken |= now
	}
	for i := range p.units {
		if u := &p.units[i]; p.node.GPUs[u.chosen].Idle {
			u.chosen = instead[u.chosen]
		}
	}
}

// choices asks for as many of the GPUs of from in each state as are in it among those that were chosen.
func (p *planner) choices(chosen, from nvlink.Set) []nvlink.Choice {
	var out []nvlink.Choice
	for rest := chosen; rest != 0; {
		like := p.like(rest.First())
		out = append(out, nvlink.Choice{From: from & like, Count: (rest & like).Len()})
		rest &^= like
	}
	return out
}

// match pairs each GPU of was with one of now in the same state, both ascending.
func (p *planner) match(instead []int, was, now nvlink.Set) {
	for i := range was.All() {
		instead[i] = (now & p.like(i)).First()
		now &^= nvlink.Of(instead[i])
	}
}

// like are the idle GPUs that are, before the pod, in the state of GPU i, itself included.
func (p *planner) like(i int) nvlink.Set {
	var s nvlink.Set
	for j := range p.before.GPUs {
		if p.node.GPUs[j].Idle && p.before.GPUs[j] == p.before.GPUs[i] {
			s |= nvlink.Of(j)
		}
	}
	return s
}

// heldWhole are the GPUs that each running container was to be given whole, the most first.
func (p *planner) heldWhole() []nvlink.Set {
	sets := make([]nvlink.Set, len(p.request.Containers))
	for i := range p.units {
		if u := &p.units[i]; u.Kind == gpu.Whole && u.moment == 0 {
			sets[u.container] |= nvlink.Of(u.chosen)
		}
	}
	sets = slices.DeleteFunc(sets, func(s nvlink.Set) bool { return s == 0 })
	slices.SortStableFunc(sets, func(a, b nvlink.Set) int { return cmp.Compare(b.Len(), a.Len()) })
	return sets
}

// linkLoss is how much the whole GPUs of a placement are worse linked than so many GPUs of the node could be. It is measured
// by what the node has, since which kind of node suits a pod is for the pod to say: on a node whose GPUs are all linked
// alike, or without any known link, nothing is ever lost.
type linkLoss uint8

const (
	// noLoss: no set of the node's healthy GPUs that the request accepts has a better worst link.
	noLoss linkLoss = iota
	// fewerLinks: the worst link could have more NVLinks, or stay in a NUMA node.
	fewerLinks
	// noNVLink: two of the GPUs have to do without NVLink, where others have it.
	noNVLink
)

// lossOf is the loss of a placement that has for the request's count whole GPUs a worst link of have.
func lossOf(n *cluster.Node, r gpu.Request, count int, have nvlink.Bandwidth) linkLoss {
	links := n.Inventory.Links()
	if count < 2 || links.Uniform() {
		return noLoss
	}
	floor := int64(gpu.MaxMemoryMiB)
	for _, c := range r.Containers {
		for _, a := range c.Asks {
			if a.Kind == gpu.Whole && !c.Init {
				floor = min(floor, a.MemoryMiB)
			}
		}
	}
	var could nvlink.Set
	for i := range n.GPUs {
		if g := &n.GPUs[i]; !g.Unhealthy && canGive(g, gpu.Whole) && g.MemoryMiB >= floor && r.Accepts(g.Product) {
			could |= nvlink.Of(i)
		}
	}
	switch ideal := links.Ideal(could, count); {
	case have >= ideal:
		return noLoss
	case ideal.NVLink() && !have.NVLink():
		return noNVLink
	}
	return fewerLinks
}

// lossOfAssignment is the loss of what the running containers hold whole.
func lossOfAssignment(n *cluster.Node, r gpu.Request, a gpu.Assignment) linkLoss {
	links := n.Inventory.Links()
	if links.Uniform() {
		return noLoss
	}
	var held nvlink.Set
	for _, c := range a.Containers {
		for _, g := range c.Grants {
			if g.Kind() == gpu.Whole && !c.Init {
				held |= nvlink.Of(slices.IndexFunc(n.GPUs, func(d cluster.GPU) bool { return d.ID == g.GPU }))
			}
		}
	}
	return lossOf(n, r, held.Len(), links.Worst(held))
}
