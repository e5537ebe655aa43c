package gang

import (
	"slices"

	"weft.sh/weft/pkg/cluster"
	"weft.sh/weft/pkg/fit"
	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/mig"
)

// Occupant is a pod that has a place on a node, and what the node has more of when it is gone. What it holds of GPUs is known
// from [Node.GPUs], by UID.
type Occupant struct {
	UID string
	// Name is namespace/name, for messages.
	Name string
	// Node is the node's name. A node that is not one of the problem's gets nothing that helps the gang.
	Node string
	// Frees is what it gives back of each of [Problem.Resources]; nil for nothing.
	Frees []int64
	// MilliCPU is the CPU that it gives back, as [Node.MilliCPU] counts it.
	MilliCPU int64
	// Budgets are the disruption budgets that it counts against, as indices into those given to [Preempt].
	Budgets []int
	// MilliGPU is what it holds as its queue counts it, and Groups are the groups of pods that it is in, as indices into the caps given to
	// [Preempt].
	MilliGPU int64
	Groups   []int
}

// vacancy is a problem whose nodes change as pods leave and come back, in batches that leave together.
//
// Not what the pods' absence does to other plugins' filters: [Node.Limit] stays as it is.
type vacancy struct {
	*Problem // with Nodes as they are now
	need     int
	wants    []int  // by shape: the members that are to be placed
	gone     []bool // by batch
	on       [][]int
	at       [][]int // by batch: the nodes that it is on
	nodes    []vacancyNode
	dirty    []int
	totals   []int // by shape: the sum of most over the nodes
	effort   *effort
}

// vacancyNode is a node with the pods on it that may leave.
type vacancyNode struct {
	full   Node // before anything left
	leaves []leave
	known  map[uint64]nodeState // by the set of leaves that are gone; nil where there are too many for a set
	most   []int                // by shape: no more members than this fit
	hosts  bool                 // a member has a place on it
	dirty  bool
}

// leave is a pod that may leave a node, with its batch.
type leave struct {
	batch int
	*Occupant
}

// nodeState is a node without some pods.
type nodeState struct {
	Node
	most []int
}

// effort bounds the work of a search, in nodes planned on.
type effort struct {
	left int
	// short says that there was not enough of it.
	short bool
}

// newVacancy is the problem on the nodes of the given indices, and the batches of pods that may leave them.
func newVacancy(p *Problem, nodes []int, batches [][]Occupant, e *effort) *vacancy {
	sub := *p
	v := &vacancy{
		Problem: &sub, need: p.Min, wants: make([]int, len(p.Shapes)), gone: make([]bool, len(batches)), at: make([][]int, len(batches)),
		on: make([][]int, len(nodes)), nodes: make([]vacancyNode, len(nodes)), totals: make([]int, len(p.Shapes)), effort: e,
	}
	sub.Nodes = make([]Node, len(nodes))
	byName := make(map[string]int, len(nodes))
	for i, n := range nodes {
		sub.Nodes[i] = p.Nodes[n]
		v.nodes[i].full = p.Nodes[n]
		byName[p.Nodes[n].Name] = i
	}
	for _, m := range p.Members {
		if m.Node == "" {
			v.wants[m.Shape]++
			continue
		}
		v.need--
		if i, ok := byName[m.Node]; ok {
			v.nodes[i].hosts = true
		}
	}
	for b, pods := range batches {
		for k := range pods {
			i, ok := byName[pods[k].Node]
			if !ok {
				continue
			}
			v.nodes[i].leaves = append(v.nodes[i].leaves, leave{b, &pods[k]})
			if !slices.Contains(v.at[b], i) {
				v.at[b] = append(v.at[b], i)
				v.on[i] = append(v.on[i], b)
			}
		}
	}
	for i := range v.nodes {
		if n := &v.nodes[i]; len(n.leaves) <= 64 {
			n.known = map[uint64]nodeState{}
		}
		v.soil(i)
	}
	v.refresh()
	return v
}

// set makes the batch leave or come back.
func (v *vacancy) set(batch int, gone bool) {
	if v.gone[batch] == gone {
		return
	}
	v.gone[batch] = gone
	for _, i := range v.at[batch] {
		v.soil(i)
	}
}

func (v *vacancy) soil(node int) {
	if !v.nodes[node].dirty {
		v.nodes[node].dirty = true
		v.dirty = append(v.dirty, node)
	}
}

// refresh brings the nodes up to date with who is gone.
func (v *vacancy) refresh() {
	for _, i := range v.dirty {
		n := &v.nodes[i]
		n.dirty = false
		s := v.state(n)
		for shape, most := range s.most {
			v.totals[shape] += most
			if n.most != nil {
				v.totals[shape] -= n.most[shape]
			}
		}
		v.Nodes[i], n.most = s.Node, s.most
	}
	v.dirty = v.dirty[:0]
}

// state is the node without those that are gone.
func (v *vacancy) state(n *vacancyNode) nodeState {
	var set uint64
	for k, l := range n.leaves {
		if v.gone[l.batch] {
			set |= 1 << k
		}
	}
	if s, ok := n.known[set]; ok {
		return s
	}
	s := nodeState{Node: n.full}
	s.Free = slices.Clone(n.full.Free)
	left := map[string]bool{}
	for _, l := range n.leaves {
		if !v.gone[l.batch] {
			continue
		}
		left[l.UID] = true
		for r := range min(len(s.Free), len(l.Frees)) {
			s.Free[r] += l.Frees[r]
		}
		s.MilliCPU += l.MilliCPU
	}
	if g := n.full.GPUs; g != nil && len(left) > 0 {
		s.GPUs = cluster.NewNode(g.Name, g.Inventory, slices.DeleteFunc(slices.Clone(g.Pods), func(p cluster.Pod) bool { return left[p.UID] }))
	}
	s.most = make([]int, len(v.Shapes))
	for i := range v.Shapes {
		s.most[i] = mostOnNode(&s.Node, i, &v.Shapes[i])
	}
	if n.known != nil {
		n.known[set] = s
	}
	return s
}

// value is a bound on how many of the gang's members fit, of each shape by itself and with slack more of each wanted: a plan
// needs a value of at least v.need + slack, but not every such value has one.
func (v *vacancy) value(slack int) int {
	sum := 0
	for shape, total := range v.totals {
		if v.wants[shape] > 0 {
			sum += min(total, v.wants[shape]+slack)
		}
	}
	return sum
}

// possible reports whether the bound leaves room for a plan.
func (v *vacancy) possible() bool {
	v.refresh()
	return v.value(0) >= v.need
}

// feasible reports whether there is a plan now. Without effort left it reports that there is none.
func (v *vacancy) feasible() bool {
	if !v.possible() {
		return false
	}
	if v.effort.left <= 0 {
		v.effort.short = true
		return false
	}
	_, rejection := v.planned()
	return rejection.OK()
}

// planned is the plan now, on the nodes that can take any member; its nodes are indices into those only. It is worked out
// whatever effort is left.
func (v *vacancy) planned() (*Result, fit.Rejection) {
	v.refresh()
	sub := *v.Problem
	sub.Nodes = nil
	for i := range v.nodes {
		if n := &v.nodes[i]; n.hosts || slices.ContainsFunc(n.most, func(most int) bool { return most > 0 }) {
			sub.Nodes = append(sub.Nodes, v.Nodes[i])
		}
	}
	v.effort.left -= len(sub.Nodes) + 1
	return Plan(&sub)
}

// result is the plan now, on all nodes; they are given by their indices in the problem that the vacancy was made of.
func (v *vacancy) result(indices []int) (*Result, fit.Rejection) {
	v.refresh()
	res, rejection := Plan(v.Problem)
	if !rejection.OK() {
		return nil, rejection
	}
	for i := range res.Placements {
		res.Placements[i].Node = indices[res.Placements[i].Node]
	}
	return res, rejection
}

// mostMembers stands for as many members as anybody likes, of a shape that asks for nothing.
const mostMembers = 1 << 20

// mostOnNode is a bound on how many members of the shape fit the node: exact for a shape of one ask for whole GPUs or for a share
// of one GPU where nothing is withheld, never too low.
func mostOnNode(n *Node, shape int, s *Shape) int {
	most := min(n.Limit[shape], mostMembers)
	for r, ask := range s.Ask {
		if ask > 0 {
			most = int(min(int64(most), max(0, n.Free[r]/ask)))
		}
	}
	if most == 0 || s.Request.Empty() {
		return most
	}
	return min(most, mostOnGPUs(n.GPUs, s.Request))
}

// mostOnGPUs is the part of mostOnNode that is about GPUs.
func mostOnGPUs(n *cluster.Node, r gpu.Request) int {
	if fit.Check(n, r) != fit.Fits {
		return 0
	}
	if cs := r.Containers; len(cs) == 1 && len(cs[0].Asks) == 1 && !cs[0].Init {
		switch a := cs[0].Asks[0]; {
		case a.Kind == gpu.Whole:
			free := 0
			for i := range n.GPUs {
				if g := &n.GPUs[i]; g.Available() && g.Refuses() != gpu.Whole && r.Accepts(g.Product) && g.MemoryMiB >= a.MemoryMiB {
					free++
				}
			}
			return min(free, n.Spare().GPUs) / a.Count
		case a.Kind == gpu.Shared && a.Count == 1:
			shares := int64(0)
			for i := range n.GPUs {
				if g := &n.GPUs[i]; g.Refuses() != gpu.Shared && r.Accepts(g.Product) {
					shares += min(g.FreeMilliGPU/a.MilliGPU, g.FreeMemoryMiB/a.ShareMemoryMiB(g.MemoryMiB))
				}
			}
			return int(shares)
		}
	}
	// Several asks: a member takes at least so much of all that is left.
	milli, freeMilli, instances, freeSlices := r.MilliGPU(), int64(0), 0, 0
	for _, c := range r.Containers {
		for _, a := range c.Asks {
			if a.Kind == gpu.MIG && !c.Init {
				instances += a.Count
			}
		}
	}
	for i := range n.GPUs {
		freeMilli += n.GPUs[i].FreeMilliGPU
		freeSlices += mig.FreeSlices(n.GPUs[i].Partition)
	}
	most := mostMembers
	if milli > 0 {
		most = int(min(int64(most), freeMilli/milli))
	}
	if instances > 0 {
		most = min(most, freeSlices/instances)
	}
	return most
}
