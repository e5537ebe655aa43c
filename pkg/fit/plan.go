package fit

import (
	"cmp"
	"slices"
	"sync"

	"weft.sh/weft/pkg/cluster"
	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/mig"
)

// planner places one request on one node. It is the slow, exact path; [Check] and [Scorer] have shorter ones for the
// usual request of one ask. Planners are reused: they keep their memory.
//
// Whole GPUs and shares are placed unit by unit (a unit is one GPU of one ask), hardest first, each on the GPU that the
// strategy rates best, with backtracking when a later unit finds none. MIG instances are placed all at once by
// [mig.Place], which is exact. They do not compete: a GPU is in MIG mode or not.
type planner struct {
	node     *cluster.Node
	request  gpu.Request
	strategy Strategy // nil: any placement will do

	before  View
	after   View // the state while units are placed
	scratch View
	idle    int // idle GPUs that may still be taken
	units   []unit
	steps   int
	held    []bool // GPUs that the running containers hold, while an init container is placed
}

// unit is one GPU of one ask.
type unit struct {
	container, ask int
	gpu.Ask
	chosen int // index of the GPU
}

// maxSteps bounds the search. Requests of one ask never backtrack; only requests with many different shares on a nearly
// full node can come near, and are then refused on that node.
const maxSteps = 5_000

var planners = sync.Pool{New: func() any { return new(planner) }}

// plan is the assignment of the request on the node, in the strategy's best order; ok is false when none was found. With
// a nil strategy it is some assignment.
func plan(n *cluster.Node, r gpu.Request, cpu CPU, s Strategy) (gpu.Assignment, bool) {
	p := planners.Get().(*planner)
	defer planners.Put(p)
	p.node, p.request, p.strategy = n, r, s
	viewOf(&p.before, n, cpu.FreeMilli)
	p.after.copyFrom(&p.before)
	p.after.MilliCPU, p.after.Used = cpu.FreeMilli-cpu.AskMilli, true
	p.idle = n.IdleGPUs - n.Withheld.GPUs
	p.held = p.held[:0]

	out := make([]gpu.ContainerGrants, len(r.Containers))
	for i, c := range r.Containers {
		out[i] = gpu.ContainerGrants{Container: c.Name, Init: c.Init}
	}
	ok := p.placeRunning(out) && p.placeInit(out)
	p.node, p.strategy, p.request = nil, nil, gpu.Request{}
	if !ok {
		return gpu.Assignment{}, false
	}
	return gpu.Assignment{Containers: out}, true
}

// placeRunning places the containers that run together.
func (p *planner) placeRunning(out []gpu.ContainerGrants) bool {
	p.units = p.units[:0]
	for ci, c := range p.request.Containers {
		if !c.Init {
			p.addUnits(ci, c.Asks)
		}
	}
	return p.placeUnits(out) && p.placeInstances(out, false)
}

// placeInit places each init container. It runs alone, before the others, so it may use what they will hold, and is made
// to as far as possible: the pod then holds no more than it must.
func (p *planner) placeInit(out []gpu.ContainerGrants) bool {
	if !slices.ContainsFunc(p.request.Containers, func(c gpu.ContainerRequest) bool { return c.Init }) {
		return true
	}
	for i := range p.after.GPUs {
		p.held = append(p.held, p.after.GPUs[i].MilliGPU != p.before.GPUs[i].MilliGPU)
	}
	for ci, c := range p.request.Containers {
		if !c.Init {
			continue
		}
		p.after.GPUs = append(p.after.GPUs[:0], p.before.GPUs...)
		p.units = p.units[:0]
		p.addUnits(ci, c.Asks)
		if !p.placeUnits(out) {
			return false
		}
	}
	return p.placeInstances(out, true)
}

func (p *planner) addUnits(container int, asks []gpu.Ask) {
	for ai, a := range asks {
		if a.Kind == gpu.MIG {
			continue
		}
		for range a.Count {
			p.units = append(p.units, unit{container: container, ask: ai, Ask: a, chosen: -1})
		}
	}
	// Hardest first: whole GPUs, then large shares, then large floors. Stable, so that equal asks stay in pod order.
	slices.SortStableFunc(p.units, func(a, b unit) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(b.MilliGPU, a.MilliGPU), cmp.Compare(b.MemoryMiB, a.MemoryMiB))
	})
}

// placeUnits places all units and writes their grants.
func (p *planner) placeUnits(out []gpu.ContainerGrants) bool {
	// More units than GPUs have room for cannot be placed; the check keeps absurd requests cheap.
	if len(p.units) > len(p.after.GPUs)*int(gpu.WholeMilliGPU) {
		return false
	}
	p.steps = 0
	if !p.search(0) {
		return false
	}
	for _, u := range p.units {
		g := gpu.Grant{GPU: p.node.GPUs[u.chosen].ID}
		if u.Kind == gpu.Shared {
			g.MilliGPU = u.MilliGPU
			g.MemoryMiB = u.ShareMemoryMiB(p.after.GPUs[u.chosen].DeviceMiB)
		}
		out[u.container].Grants = append(out[u.container].Grants, g)
	}
	return true
}

// search places units i and later, depth first.
func (p *planner) search(i int) bool {
	if i == len(p.units) {
		return true
	}
	if p.steps++; p.steps > maxSteps {
		return false
	}
	for _, c := range p.candidates(i) {
		undo := p.take(i, c)
		if p.search(i + 1) {
			return true
		}
		p.untake(i, c, undo)
	}
	return false
}

// candidates are the GPUs that unit i can take, best first. Of GPUs in the same state only the first is tried: if it does
// not lead to a placement, neither do the others.
func (p *planner) candidates(i int) []int {
	u := &p.units[i]
	type candidate struct {
		index int
		Rating
	}
	var found []candidate
	for g := range p.after.GPUs {
		if !p.canTake(i, g) {
			continue
		}
		if slices.ContainsFunc(found, func(c candidate) bool { return p.sameState(i, c.index, g) }) {
			continue
		}
		c := candidate{index: g}
		if p.strategy != nil {
			p.scratch.copyFrom(&p.after)
			takeFrom(&p.scratch.GPUs[g], u.Ask)
			c.Rating = p.strategy.Rate(&p.before, &p.scratch, g)
		} else {
			c.GPU = -p.after.GPUs[g].MilliGPU // fullest first leaves most room
		}
		found = append(found, c)
	}
	slices.SortStableFunc(found, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(p.heldRank(a.index), p.heldRank(b.index)), cmp.Compare(b.Node, a.Node), cmp.Compare(b.GPU, a.GPU))
	})
	out := make([]int, len(found))
	for i, c := range found {
		out[i] = c.index
	}
	return out
}

// heldRank puts what the running containers hold first, for init containers.
func (p *planner) heldRank(g int) int {
	if g < len(p.held) && p.held[g] {
		return 0
	}
	return 1
}

func (p *planner) sameState(i, a, b int) bool {
	return p.after.GPUs[a] == p.after.GPUs[b] && p.before.GPUs[a] == p.before.GPUs[b] && p.heldRank(a) == p.heldRank(b) &&
		p.takenByAsk(i, a) == p.takenByAsk(i, b)
}

// takenByAsk reports whether an earlier unit of the same ask took GPU g.
func (p *planner) takenByAsk(i, g int) bool {
	for j := range p.units[:i] {
		if u := &p.units[j]; u.chosen == g && u.container == p.units[i].container && u.ask == p.units[i].ask {
			return true
		}
	}
	return false
}

func (p *planner) canTake(i, g int) bool {
	l := &p.after.GPUs[g]
	if !fitsLeft(l, p.units[i].Ask) || !p.request.Accepts(l.Product) || p.takenByAsk(i, g) {
		return false
	}
	return p.idle > 0 || !p.takesIdle(g)
}

// takesIdle reports whether taking from GPU g uses up one of the idle GPUs.
func (p *planner) takesIdle(g int) bool {
	return p.after.GPUs[g].MilliGPU == gpu.WholeMilliGPU && p.node.GPUs[g].Idle && (g >= len(p.held) || !p.held[g])
}

func (p *planner) take(i, g int) Left {
	before := p.after.GPUs[g]
	if p.takesIdle(g) {
		p.idle--
	}
	takeFrom(&p.after.GPUs[g], p.units[i].Ask)
	p.units[i].chosen = g
	return before
}

func (p *planner) untake(i, g int, before Left) {
	p.after.GPUs[g] = before
	if p.takesIdle(g) {
		p.idle++
	}
	p.units[i].chosen = -1
}

// fitsLeft reports whether one GPU of the ask fits what is left of a GPU. Not for MIG.
func fitsLeft(l *Left, a gpu.Ask) bool {
	if a.Kind == gpu.Whole {
		return l.MilliGPU == gpu.WholeMilliGPU && l.MemoryMiB == l.DeviceMiB && l.DeviceMiB >= a.MemoryMiB
	}
	return !l.WholeOnly && l.MilliGPU >= a.MilliGPU && l.MemoryMiB >= max(1, a.ShareMemoryMiB(l.DeviceMiB))
}

// takeFrom takes one GPU of the ask from what is left.
func takeFrom(l *Left, a gpu.Ask) {
	if a.Kind == gpu.Whole {
		l.MilliGPU, l.MemoryMiB = 0, 0
		return
	}
	l.MilliGPU -= a.MilliGPU
	l.MemoryMiB -= a.ShareMemoryMiB(l.DeviceMiB)
}

// placeInstances places the MIG instances of the running containers, or of the init containers. An init container gets
// instances that the running containers hold as far as the profiles agree, and others beside them.
func (p *planner) placeInstances(out []gpu.ContainerGrants, init bool) bool {
	if !slices.ContainsFunc(p.request.Containers, func(c gpu.ContainerRequest) bool {
		return c.Init == init && slices.ContainsFunc(c.Asks, func(a gpu.Ask) bool { return a.Kind == gpu.MIG })
	}) {
		return true
	}
	var running []gpu.Grant
	if init {
		for ci, c := range p.request.Containers {
			if !c.Init {
				running = append(running, instanceGrants(out[ci].Grants)...)
			}
		}
	}
	want := slices.Clone(p.node.Withheld.Profiles)
	type target struct{ container int }
	var targets []target
	for ci, c := range p.request.Containers {
		if c.Init != init {
			continue
		}
		reuse := slices.Clone(running)
		for _, a := range c.Asks {
			if a.Kind != gpu.MIG {
				continue
			}
			for range min(a.Count, maxInstances+1) {
				if i := slices.IndexFunc(reuse, func(g gpu.Grant) bool { return g.Instance.Profile == a.Profile }); i >= 0 {
					out[ci].Grants = append(out[ci].Grants, reuse[i])
					reuse = slices.Delete(reuse, i, i+1)
					continue
				}
				want = append(want, a.Profile)
				targets = append(targets, target{ci})
			}
		}
	}
	states, index := p.partitions(running)
	choices, ok := mig.Place(states, want)
	if !ok {
		return false
	}
	for i, t := range targets {
		c := choices[len(p.node.Withheld.Profiles)+i]
		inst := c.Instance
		out[t.container].Grants = append(out[t.container].Grants, gpu.Grant{GPU: p.node.GPUs[index[c.GPU]].ID, Instance: &inst})
	}
	return true
}

// maxInstances is more MIG instances than any node has; asking for more is refused without being counted out.
const maxInstances = 64 * gpu.MaxMemorySlices

func instanceGrants(grants []gpu.Grant) []gpu.Grant {
	var out []gpu.Grant
	for _, g := range grants {
		if g.Instance != nil {
			out = append(out, g)
		}
	}
	return out
}

// partitions are the states of the node's healthy GPUs in MIG mode whose model the request accepts, with held instances
// taken, and their indices in the node.
func (p *planner) partitions(held []gpu.Grant) (states []mig.State, index []int) {
	for i := range p.node.GPUs {
		g := &p.node.GPUs[i]
		if !g.MIG || g.Unhealthy || !p.request.Accepts(g.Product) {
			continue
		}
		s := g.Partition
		for _, h := range held {
			if h.GPU == g.ID {
				s = s.With(*h.Instance)
			}
		}
		states = append(states, s)
		index = append(index, i)
	}
	return states, index
}
