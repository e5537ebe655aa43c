package gang

import (
	"cmp"
	"fmt"
	"strings"

	"weft.sh/weft/pkg/cluster"
	"weft.sh/weft/pkg/fit"
	"weft.sh/weft/pkg/gpu"
)

// reject says why the members have no place in any of the groups, with the best that there is.
func (pl *planner) reject(groups []group, minimum []int) fit.Rejection {
	need := pl.demand(minimum)
	if len(minimum) == 0 {
		for _, m := range pl.p.Members {
			if m.Node == "" {
				need[m.Shape] = 1 // any would have done
			}
		}
	}
	if r := pl.rejectShape(groups, need, len(minimum) == 0); !r.OK() {
		return r
	}
	best, rooms := pl.largest(groups, need)
	required := pl.p.Required
	if required == "" {
		return fit.Rejection{
			Reason: fit.InsufficientGangCapacity, Near: int64(sum(rooms)),
			Detail: fmt.Sprintf("%s; there are %s", pl.needs(need, " at once"), pl.has(need, rooms)),
		}
	}
	level := required
	if required == LevelNVLink {
		level = "NVLink"
	}
	r := fit.Rejection{Reason: fit.InsufficientDomainCapacity, Near: int64(sum(rooms))}
	if required == LevelNVLink {
		r.Reason = fit.NVLinkDomainTooSmall
	}
	wants := pl.needs(need, fmt.Sprintf(" in one %s domain", level))
	if domain, pinned := pl.pinned(groups); pinned {
		r.Detail = fmt.Sprintf("%s, %s, where members are already; it has %s", wants, domain, pl.has(need, rooms))
	} else {
		r.Detail = fmt.Sprintf("%s; the largest, %s, has %s", wants, groups[best].domain, pl.has(need, rooms))
	}
	empty := pl.emptied(groups)
	if eb, most := empty.largest(groups, need); !empty.fits(groups, need) {
		r.Reason = fit.TopologyDomainTooSmall
		if sum(most) > sum(rooms) {
			r.Detail += fmt.Sprintf("; empty, %s has %s", groups[eb].domain, pl.has(need, most))
		}
	}
	return r
}

// pinned is the domain where members are already.
func (pl *planner) pinned(groups []group) (string, bool) {
	if len(groups) != 1 {
		return "", false
	}
	for _, i := range groups[0].nodes {
		if pl.inUse[i] > 0 {
			return groups[0].domain, true
		}
	}
	return "", false
}

// largest is the group that takes most of the members, and how many of each shape.
func (pl *planner) largest(groups []group, need []int) (best int, rooms []int) {
	rooms = make([]int, len(need))
	for k, g := range groups {
		room := pl.roomIn(g, need)
		if sum(room) == sum(need) {
			room = pl.together(g, need) // one shape after the other would fit, but not all
		}
		if sum(room) > sum(rooms) {
			best, rooms = k, room
		}
	}
	return best, rooms
}

// together is how many of each shape fit beside one another, the hardest first, each node filled in turn.
func (pl *planner) together(g group, need []int) []int {
	mark := len(pl.undo)
	defer func() { pl.rollback(mark) }()
	room := make([]int, len(need))
	for _, shape := range pl.wanted(g, need) {
		for _, i := range g.nodes {
			if n := min(pl.slots(i, shape), need[shape]-room[shape]); n > 0 {
				pl.take(i, shape, n)
				room[shape] += n
			}
		}
	}
	return room
}

// fits reports whether one of the groups takes all the members. The planner has no levels yet.
func (pl *planner) fits(groups []group, need []int) bool {
	for _, g := range groups {
		if room := pl.roomIn(g, need); sum(room) == sum(need) {
			if len(pl.wanted(g, need)) == 1 {
				return true
			}
			effort := pl.effort / len(groups)
			if _, ok := pl.solve(g, need, &effort); ok {
				return true
			}
		}
	}
	return false
}

// emptied is a planner over the same nodes without any pods: what the nodes' GPUs would do. What is left of other resources is not
// looked at, for nobody says here what a node has of them in all.
func (pl *planner) emptied(groups []group) *planner {
	empty := *pl.p
	empty.Nodes = append([]Node(nil), pl.p.Nodes...)
	for i := range empty.Nodes {
		n := &empty.Nodes[i]
		if n.GPUs != nil && len(n.GPUs.Pods) > 0 {
			n.GPUs = cluster.NewNode(n.Name, n.GPUs.Inventory, nil)
		}
		n.Free = make([]int64, len(n.Free))
		for r := range n.Free {
			n.Free[r] = 1 << 50
		}
	}
	out := newPlanner(&empty)
	out.todo = pl.todo
	return out
}

// rejectShape names a shape that no node takes one member of, with the nearest node: then it is no matter of the gang. With any it
// is a rejection only when no shape has a place.
func (pl *planner) rejectShape(groups []group, need []int, any bool) fit.Rejection {
	nowhere := -1
	for shape, n := range need {
		if n == 0 {
			continue
		}
		if pl.hasSlot(groups, shape) {
			if any {
				return fit.Rejection{}
			}
			continue
		}
		if nowhere < 0 {
			nowhere = shape
		}
	}
	if nowhere < 0 {
		return fit.Rejection{}
	}
	near, node := pl.nearest(groups, nowhere)
	r := fit.Rejection{Reason: fit.InsufficientGangCapacity}
	where := "no node"
	if domain, pinned := pl.pinned(groups); pinned && pl.p.Required != "" {
		where = fmt.Sprintf("no node of the %s domain %s, where members are already,", pl.p.Required, domain)
	} else if pl.p.Required != "" {
		where = fmt.Sprintf("no node of a %s domain", pl.p.Required)
	}
	if pl.p.Required != "" {
		r.Reason = fit.InsufficientDomainCapacity
		if pl.p.Required == LevelNVLink {
			r.Reason = fit.NVLinkDomainTooSmall
		}
	}
	r.Detail = fmt.Sprintf("%s takes a member like %s, which asks for %s", where, pl.p.Shapes[nowhere].Name, asks(pl.p.Shapes[nowhere].Request))
	if near != "" {
		r.Detail += fmt.Sprintf("; the nearest, %s: %s", node, near)
	}
	if pl.p.Required != "" {
		empty := pl.emptied(groups)
		if !empty.hasSlot(groups, nowhere) {
			r.Reason = fit.TopologyDomainTooSmall
		}
	}
	return r
}

func (pl *planner) hasSlot(groups []group, shape int) bool {
	for _, g := range groups {
		for _, i := range g.nodes {
			if pl.slots(i, shape) > 0 {
				return true
			}
		}
	}
	return false
}

// nearest is what is missing on the node that is nearest to taking a member of the shape.
func (pl *planner) nearest(groups []group, shape int) (missing, node string) {
	var best fit.Rejection
	explained := map[*gpuState]fit.Rejection{}
	for _, g := range groups {
		for _, i := range g.nodes {
			n := &pl.p.Nodes[i]
			if n.Limit[shape] == 0 {
				continue
			}
			r, ok := explained[pl.sites[i].state]
			if !ok {
				r = fit.Explain(pl.sites[i].state.node, pl.p.Shapes[shape].Request)
				explained[pl.sites[i].state] = r
			}
			if r.OK() {
				for k, ask := range pl.p.Shapes[shape].Ask {
					if ask > 0 && n.Free[k] < ask {
						return fmt.Sprintf("too little %s left (asks for %d, %d are free)", pl.p.Resources[k], ask, max(n.Free[k], 0)), n.Name
					}
				}
			}
			if node == "" || cmp.Or(cmp.Compare(r.Reason, best.Reason), cmp.Compare(r.Near, best.Near)) > 0 {
				best, node, missing = r, n.Name, r.Message()
			}
		}
	}
	return missing, node
}

// needs is what the members ask for: "needs 8 nodes with 8 free GPUs in one rack domain".
func (pl *planner) needs(need []int, where string) string {
	if shape, gpus := pl.wholeNodes(need); shape >= 0 {
		free := "free GPUs"
		if gpus == 1 {
			free = "free GPU"
		}
		return fmt.Sprintf("needs %s with %d %s%s", number(need[shape], "node"), gpus, free, where)
	}
	var parts []string
	for shape, n := range need {
		if n > 0 {
			parts = append(parts, fmt.Sprintf("%s for members that ask for %s", number(n, "place"), asks(pl.p.Shapes[shape].Request)))
		}
	}
	return "needs " + strings.Join(parts, " and ") + where
}

// has is how many places there are, in the same order.
func (pl *planner) has(need, rooms []int) string {
	var parts []string
	for shape, n := range need {
		if n > 0 {
			parts = append(parts, fmt.Sprint(rooms[shape]))
		}
	}
	return strings.Join(parts, " and ")
}

// wholeNodes is the only shape wanted and its GPUs if no node takes two members of it, however empty; -1 otherwise.
func (pl *planner) wholeNodes(need []int) (shape, gpus int) {
	shape = -1
	for s, n := range need {
		if n > 0 && shape >= 0 {
			return -1, 0
		}
		if n > 0 {
			shape = s
		}
	}
	if shape < 0 {
		return -1, 0
	}
	r := pl.p.Shapes[shape].Request
	if len(r.Containers) != 1 || len(r.Containers[0].Asks) != 1 || r.Containers[0].Asks[0].Kind != gpu.Whole {
		return -1, 0
	}
	gpus = r.Containers[0].Asks[0].Count
	for i := range pl.p.Nodes {
		if n := pl.p.Nodes[i].GPUs; n != nil && len(n.GPUs) >= 2*gpus {
			return -1, 0
		}
	}
	return shape, gpus
}

// asks is a request in words.
func asks(r gpu.Request) string {
	var parts []string
	for _, c := range r.Containers {
		for _, a := range c.Asks {
			parts = append(parts, a.String())
		}
	}
	if len(parts) == 0 {
		return "no GPU"
	}
	return strings.Join(parts, " and ")
}

func number(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
