package gang

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"weft.sh/weft/pkg/cluster"
	"weft.sh/weft/pkg/fit"
	"weft.sh/weft/pkg/gpu"
)

// reject says why the members have no place in any of the groups, with the best that there is. Without a minimum any member would
// have done; it then speaks of the first.
func (pl *planner) reject(groups []group, minimum, others []int) fit.Rejection {
	if len(minimum) == 0 {
		minimum = others[:1]
	}
	if len(groups) == 0 {
		return fit.Rejection{
			Reason: fit.TopologyDomainTooSmall,
			Detail: fmt.Sprintf("asks for one %s domain; no node that members may use is in any", pl.p.Required),
		}
	}
	need := pl.demand(minimum)
	best, rooms := pl.largest(groups, need)
	nearest, rejection := pl.nowhere(groups, need)
	if !rejection.OK() {
		return rejection
	}
	if pl.p.Required == "" {
		return fit.Rejection{
			Reason: fit.InsufficientGangCapacity, Near: int64(sum(rooms)),
			Detail: fmt.Sprintf("%s at once; there are %s%s", pl.needs(need), has(need, rooms), nearest),
		}
	}
	which := "the largest"
	if pl.pinned(groups) {
		which = "the one where members are already"
	}
	r := fit.Rejection{
		Reason: fit.InsufficientDomainCapacity, Near: int64(sum(rooms)),
		Detail: fmt.Sprintf("%s in one %s domain; %s has %s (%s)%s",
			pl.needs(need), pl.p.Required, which, has(need, rooms), groups[best].domain, nearest),
	}
	if pl.p.Required == LevelNVLink {
		r.Reason = fit.NVLinkDomainTooSmall
	}
	if empty := pl.emptied(); !empty.fits(groups, need) {
		r.Reason = fit.TopologyDomainTooSmall
		if best, most := empty.largest(groups, need); sum(most) > sum(rooms) {
			r.Detail += fmt.Sprintf("; without any pods %s would have %s", groups[best].domain, has(need, most))
		}
	}
	return r
}

// pinned reports whether the only group is where members are already.
func (pl *planner) pinned(groups []group) bool {
	return len(groups) == 1 && slices.ContainsFunc(groups[0].nodes, func(i int) bool { return pl.inUse[i] > 0 })
}

// largest is the group that takes most of the members, and how many of each shape.
func (pl *planner) largest(groups []group, need []int) (best int, rooms []int) {
	rooms = make([]int, len(need))
	for k, g := range groups {
		room := pl.roomIn(g, need)
		if len(pl.wanted(g, need)) > 1 {
			room = pl.together(g, need)
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
			if n := min(pl.slots(i, shape), need[shape]-room[shape]); n > 0 && pl.take(i, shape, n) {
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
func (pl *planner) emptied() *planner {
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
	out.unplaced = pl.unplaced
	return out
}

// nowhere names a shape of which no node takes one member, and the node that is nearest to it: in words to be added to a rejection
// or, when no other pods' ending would help, as one of its own.
func (pl *planner) nowhere(groups []group, need []int) (words string, rejection fit.Rejection) {
	for shape, n := range need {
		if n == 0 || pl.hasSlot(groups, shape) {
			continue
		}
		s := &pl.p.Shapes[shape]
		node, near := pl.nearest(groups, shape)
		switch {
		case node == "":
			words = fmt.Sprintf("; other rules than those for GPUs exclude members like %s from every node", s.Name)
		case near.Reason == fit.Fits:
			words = fmt.Sprintf("; no node takes a member like %s, the nearest is %s: %s", s.Name, node, near.Detail)
		case near.Reason.Resolvable():
			words = fmt.Sprintf("; no node takes a member like %s, the nearest is %s: %s", s.Name, node, near.Message())
		default:
			near.Detail = fmt.Sprintf("no node takes a member like %s, the nearest is %s: %s", s.Name, node, near.Detail)
			return "", near
		}
		return words, fit.Rejection{}
	}
	return "", fit.Rejection{}
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

// nearest is the node that is nearest to taking a member of the shape, and what is missing there; what is missing besides GPUs
// is in the detail of a rejection without a reason.
func (pl *planner) nearest(groups []group, shape int) (node string, missing fit.Rejection) {
	explained := map[*gpuState]fit.Rejection{}
	for _, g := range groups {
		for _, i := range g.nodes {
			n, s := &pl.p.Nodes[i], &pl.p.Shapes[shape]
			if n.Limit[shape] == 0 {
				continue
			}
			r, known := explained[pl.sites[i].state]
			if !known {
				r = fit.Explain(pl.sites[i].state.node, s.Request)
				explained[pl.sites[i].state] = r
			}
			if r.OK() {
				for k, ask := range s.Ask {
					if ask > 0 && n.Free[k] < ask {
						r.Detail = fmt.Sprintf("asks for %d of %s, %d are free", ask, pl.p.Resources[k], max(n.Free[k], 0))
						return n.Name, r
					}
				}
			}
			if node == "" || cmp.Or(cmp.Compare(r.Reason, missing.Reason), cmp.Compare(r.Near, missing.Near)) > 0 {
				node, missing = n.Name, r
			}
		}
	}
	return node, missing
}

// needs is what the members ask for: "needs 8 nodes with 8 free GPUs".
func (pl *planner) needs(need []int) string {
	if shape, gpus := pl.wholeNodes(need); shape >= 0 {
		free := "free GPUs"
		if gpus == 1 {
			free = "free GPU"
		}
		return fmt.Sprintf("needs %s with %d %s", number(need[shape], "node"), gpus, free)
	}
	var parts []string
	for shape, n := range need {
		if n > 0 {
			parts = append(parts, fmt.Sprintf("%s for members that ask for %s", number(n, "place"), asks(pl.p.Shapes[shape].Request)))
		}
	}
	return "needs " + strings.Join(parts, " and ")
}

// has is how many places there are, in the same order.
func has(need, rooms []int) string {
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
	ask, ok := singleAsk(pl.p.Shapes[shape].Request)
	if !ok || ask.Kind != gpu.Whole {
		return -1, 0
	}
	gpus = ask.Count
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
