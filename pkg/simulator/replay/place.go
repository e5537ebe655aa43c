package replay

import (
	"slices"

	"weft.sh/weft/pkg/cluster"
	"weft.sh/weft/pkg/fit"
	"weft.sh/weft/pkg/gang"
	"weft.sh/weft/pkg/gpu"
)

// view is the nodes as a job may use them: without what is kept for gangs before it.
type view struct {
	nodes []gang.Node
	// holds are those that bind it, as bits by their places in engine.holds.
	holds uint64
}

// maxHolds is how many holds are told apart: one for each priority.
const maxHolds = 64

// view is that of the job if it started now.
func (e *engine) view(j *job) view {
	bound := uint64(0)
	for i, h := range e.holds[:min(len(e.holds), maxHolds)] {
		if !h.Exempt(j.key(), j.Priority, j.ends(e.now)) {
			bound |= 1 << i
		}
	}
	if bound == 0 {
		return view{nodes: e.up}
	}
	if e.viewed != e.changed || e.views == nil {
		e.viewed, e.views = e.changed, map[uint64]view{}
	}
	v, ok := e.views[bound]
	if !ok {
		v = view{nodes: slices.Clone(e.up), holds: bound}
		for i, h := range e.holds {
			if bound&(1<<i) != 0 {
				v.without(h, e.position)
			}
		}
		e.views[bound] = v
	}
	return v
}

// without takes from the nodes what is kept.
func (v *view) without(h *hold, position map[string]int) {
	for _, s := range h.Shares {
		if at, ok := position[s.Node]; ok {
			n := &v.nodes[at]
			n.GPUs, n.Free = h.On(n.GPUs), h.Left(n.Name, n.Free)
		}
	}
}

// roomy is a cheap test that a job may have room: false when it has none for sure.
func (e *engine) roomy(j *job, need int) bool {
	ask := wholeAsk(j.Request)
	if ask == 0 {
		return true
	}
	room := 0
	for spare := ask; spare < len(e.spares) && room < need; spare++ {
		room += e.spares[spare] * (spare / ask)
	}
	return room >= need
}

// wholeAsk is the number of whole GPUs that are all the request asks for, 0 where it is otherwise.
func wholeAsk(r gpu.Request) int {
	if len(r.Containers) == 1 && len(r.Containers[0].Asks) == 1 && r.Containers[0].Asks[0].Kind == gpu.Whole {
		return r.Containers[0].Asks[0].Count
	}
	return 0
}

// find is a place for each member that can start now, nil when the job cannot.
func (e *engine) find(j *job) (view, []place) {
	if !e.roomy(j, j.Min) {
		return view{}, nil
	}
	v := e.view(j)
	for _, mask := range e.refused[j.shape] {
		if mask&^v.holds == 0 {
			return v, nil // one like it was refused with no more kept from it, and nothing became free since
		}
	}
	places := e.placesIn(j, v.nodes)
	if places == nil {
		e.refused[j.shape] = append(e.refused[j.shape], v.holds)
	}
	return v, places
}

func (e *engine) placesIn(j *job, nodes []gang.Node) []place {
	if j.Members > 1 || j.Topology != (gang.Topology{}) {
		p := e.problem(j, nodes)
		res, r := gang.Plan(&p)
		if !r.OK() {
			return nil
		}
		return e.placesOf(nodes, res)
	}
	at, a, ok := e.bestNode(j, nodes)
	if !ok {
		return nil
	}
	return []place{{0, e.indexOf(nodes[at].Name), a}}
}

// indexOf is where the node of that name stands; there is one.
func (e *engine) indexOf(name string) int {
	i, _ := slices.BinarySearchFunc(e.nodes, name, func(n node, name string) int {
		switch {
		case n.Name < name:
			return -1
		case n.Name > name:
			return 1
		}
		return 0
	})
	return i
}

// placesOf are those of a plan.
func (e *engine) placesOf(nodes []gang.Node, res *gang.Result) []place {
	out := make([]place, 0, len(res.Placements))
	for _, p := range res.Placements {
		out = append(out, place{p.Member, e.indexOf(nodes[p.Node].Name), p.Assignment})
	}
	return out
}

// bestNode is where one pod of the job goes, as plugin GPUFit decides.
func (e *engine) bestNode(j *job, nodes []gang.Node) (int, gpu.Assignment, bool) {
	m := e.memo.For(j.Request)
	var names []string
	var scores []int64
	var at []int
	for i := range nodes {
		n := &nodes[i]
		if n.Free[0] < j.MilliCPU || n.Free[1] < j.MemoryMiB || m.Check(n.GPUs) != fit.Fits {
			continue
		}
		names, at = append(names, n.Name), append(at, i)
		scores = append(scores, m.Score(n.GPUs, fit.CPU{FreeMilli: n.MilliCPU, AskMilli: j.MilliCPU}))
	}
	if len(at) == 0 {
		return 0, gpu.Assignment{}, false
	}
	best, ranks := 0, fit.Rank(names, scores)
	for i := range ranks {
		if ranks[i] > ranks[best] {
			best = i
		}
	}
	n := &nodes[at[best]]
	a, err := fit.Assign(n.GPUs, j.Request, fit.CPU{FreeMilli: n.MilliCPU, AskMilli: j.MilliCPU}, m.Strategy())
	return at[best], a, err == nil
}

// problem is the job as the planner sees it.
func (e *engine) problem(j *job, nodes []gang.Node) gang.Problem {
	p := gang.Problem{
		Gang: j.key(), Min: j.Min, Topology: j.Topology, Levels: e.in.Levels, Resources: resources,
		Shapes:  []gang.Shape{{Name: j.Name, Request: j.Request, MilliCPU: j.MilliCPU, Ask: []int64{j.MilliCPU, j.MemoryMiB}}},
		Members: make([]gang.Member, j.Members), Nodes: nodes, Strategy: e.memo.For(j.Request).Strategy(),
	}
	for m := range p.Members {
		p.Members[m] = gang.Member{UID: j.uid(m), Name: j.Name}
	}
	return p
}

// fitsEmpty reports whether the job would have a place if nobody else ran and all nodes were up.
func (e *engine) fitsEmpty(j *job) bool {
	if fits, ok := e.fits[j.shape]; ok {
		return fits
	}
	if e.empty == nil {
		for i := range e.nodes {
			n := &e.nodes[i]
			v := gang.Node{
				Name: n.Name, GPUs: cluster.NewNode(n.Name, n.Inventory, nil), Domains: n.Domains, MilliCPU: n.MilliCPU,
				Free: []int64{n.MilliCPU, n.MemoryMiB}, Limit: unlimited,
			}
			for k := range v.Free {
				if v.Free[k] == 0 {
					v.Free[k] = plenty
				}
			}
			e.empty = append(e.empty, v)
		}
		e.fits = map[string]bool{}
	}
	e.fits[j.shape] = e.placesIn(j, e.empty) != nil
	return e.fits[j.shape]
}
