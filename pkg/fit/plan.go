package fit

import (
	"cmp"
	"slices"
	"sync"

	"weft.sh/weft/pkg/cluster"
	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/mig"
)

// planner places one request on one node. It is the slow, exact path; [Check] and [Score] have shorter ones for the
// usual request of one ask. Planners are reused: they keep their memory.
//
// Which of several GPUs in the same state is taken makes no difference to any of this; when all have their places, links decide
// (placeByLinks).
//
// Whole GPUs and shares are placed unit by unit (a unit is one GPU of one ask), hardest first, each on the GPU that the
// strategy rates best, with backtracking when a later unit finds none. MIG instances are placed all at once by
// [mig.Place], which is exact. They do not compete: a GPU is in MIG mode or not.
//
// What is left is followed for several moments in the life of the pod: for the containers that run in the end, and for
// each init container that is no sidecar, which runs before them beside the sidecars that stand before it. Init containers
// are placed after the running ones, in their order, and are made to use what the pod will hold anyway as far as
// possible: the pod then holds no more than it must.
type planner struct {
	node     *cluster.Node
	request  gpu.Request
	strategy Strategy // nil: any placement will do
	linked   bool     // of GPUs in the same state it matters which

	before View
	// moments[0] is what is left beside the running containers, moments[k] what is left beside init container inits[k].
	moments [][]Left
	inits   []int // the container of each moment, -1 for the first
	scratch View
	cpu     int64         // what is left of it afterwards
	spare   cluster.Spare // idle GPUs that may still be taken
	takers  []int         // by GPU: the units placed on it
	units   []unit
	steps   int
}

// unit is one GPU of one ask.
type unit struct {
	container, ask int
	moment         int
	gpu.Ask
	chosen int // index of the GPU
}

// maxSteps bounds the search. Requests of one ask never backtrack; only requests with many different shares on a nearly
// full node can come near, and are then refused on that node.
const maxSteps = 5_000

var planners = sync.Pool{New: func() any { return new(planner) }}

// possible reports whether there is a placement.
func possible(n *cluster.Node, r gpu.Request) bool {
	_, ok := plan(n, r, CPU{}, nil, false)
	return ok
}

// plan is the assignment of the request on the node, in the strategy's best order; ok is false when none was found. With
// a nil strategy it is some assignment. linked says to choose among GPUs in the same state by how they are linked.
func plan(n *cluster.Node, r gpu.Request, cpu CPU, s Strategy, linked bool) (gpu.Assignment, bool) {
	p := planners.Get().(*planner)
	defer planners.Put(p)
	p.node, p.request, p.strategy, p.linked = n, r, s, linked
	p.cpu, p.spare = cpu.FreeMilli-cpu.AskMilli, n.Spare()
	viewOf(&p.before, n, cpu.FreeMilli)
	p.takers = append(p.takers[:0], make([]int, len(n.GPUs))...)

	out := make([]gpu.ContainerGrants, len(r.Containers))
	for i, c := range r.Containers {
		out[i] = gpu.ContainerGrants{Container: c.Name, Init: c.Init}
	}
	ok := p.addMoments() && p.placeUnits(out) && p.placeInstances(out)
	p.node, p.strategy, p.request = nil, nil, gpu.Request{}
	if !ok {
		return gpu.Assignment{}, false
	}
	return gpu.Assignment{Containers: out}, true
}

// addMoments lists the units of all moments; false when there are more than GPUs, so that absurd requests are cheap.
func (p *planner) addMoments() bool {
	p.units, p.inits = p.units[:0], append(p.inits[:0], -1)
	if !p.addUnits(func(_ int, init bool) bool { return !init }) {
		return false
	}
	for ci, c := range p.request.Containers {
		if !c.Init || !slices.ContainsFunc(c.Asks, func(a gpu.Ask) bool { return a.Kind != gpu.MIG }) {
			continue
		}
		p.inits = append(p.inits, ci)
		if !p.addUnits(func(i int, _ bool) bool { return i == ci }) {
			return false
		}
	}
	p.moments = slices.Grow(p.moments[:0], len(p.inits))[:len(p.inits)]
	for k := range p.moments {
		p.moments[k] = append(p.moments[k][:0], p.before.GPUs...)
	}
	return true
}

// addUnits adds the units of the latest moment.
func (p *planner) addUnits(of func(container int, init bool) bool) bool {
	first := len(p.units)
	for ci, c := range p.request.Containers {
		if !of(ci, c.Init) {
			continue
		}
		for ai, a := range c.Asks {
			if a.Kind == gpu.MIG {
				continue
			}
			if a.Count > len(p.node.GPUs) {
				return false
			}
			for range a.Count {
				p.units = append(p.units, unit{container: ci, ask: ai, moment: len(p.inits) - 1, Ask: a, chosen: -1})
			}
		}
	}
	// Hardest first: whole GPUs, then large shares, then large floors. Stable, so that equal asks stay in pod order.
	slices.SortStableFunc(p.units[first:], func(a, b unit) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(b.MilliGPU, a.MilliGPU), cmp.Compare(b.MemoryMiB, a.MemoryMiB))
	})
	return true
}

// placeUnits places all units and writes their grants.
func (p *planner) placeUnits(out []gpu.ContainerGrants) bool {
	// More units than the GPUs have room for cannot be placed.
	if len(p.units) > len(p.moments)*len(p.node.GPUs)*int(gpu.WholeMilliGPU) {
		return false
	}
	p.steps = 0
	if !p.search(0) {
		return false
	}
	if p.linked {
		p.placeByLinks()
	}
	for _, u := range p.units {
		g := gpu.Grant{GPU: p.node.GPUs[u.chosen].ID}
		if u.Kind == gpu.Shared {
			g.MilliGPU = u.MilliGPU
			g.MemoryMiB = u.ShareMemoryMiB(p.before.GPUs[u.chosen].DeviceMiB)
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
		p.take(i, c)
		if p.search(i + 1) {
			return true
		}
		p.untake(i, c)
	}
	return false
}

// candidates are the GPUs that unit i can take, best first. Of GPUs in the same state only the first is tried: if it does
// not lead to a placement, neither do the others.
func (p *planner) candidates(i int) []int {
	type candidate struct {
		index, held int
		Rating
	}
	u := &p.units[i]
	var found []candidate
	for g := range p.before.GPUs {
		if !p.canTake(i, g) || slices.ContainsFunc(found, func(c candidate) bool { return p.sameState(i, c.index, g) }) {
			continue
		}
		c := candidate{index: g}
		if u.moment > 0 && p.takers[g] == 0 {
			c.held = 1 // an init container goes first where the pod is anyway
		}
		if p.strategy != nil {
			p.take(i, g)
			p.view(&p.scratch)
			p.untake(i, g)
			c.Rating = p.strategy.Rate(&p.before, &p.scratch, g)
		} else {
			c.GPU = -p.moments[u.moment][g].MilliGPU // fullest first leaves most room
		}
		found = append(found, c)
	}
	slices.SortStableFunc(found, func(a, b candidate) int {
		return cmp.Or(cmp.Compare(a.held, b.held), cmp.Compare(b.Node, a.Node), cmp.Compare(b.GPU, a.GPU))
	})
	out := make([]int, len(found))
	for i, c := range found {
		out[i] = c.index
	}
	return out
}

// view writes into v what is left beside the most that the pod holds at any moment.
func (p *planner) view(v *View) {
	v.MilliCPU, v.Used = p.cpu, true
	v.GPUs = append(v.GPUs[:0], p.moments[0]...)
	for _, moment := range p.moments[1:] {
		for g := range moment {
			v.GPUs[g].MilliGPU = min(v.GPUs[g].MilliGPU, moment[g].MilliGPU)
			v.GPUs[g].MemoryMiB = min(v.GPUs[g].MemoryMiB, moment[g].MemoryMiB)
		}
	}
}

// sameState reports whether it makes no difference to unit i and the later ones which of two GPUs unit i takes.
func (p *planner) sameState(i, a, b int) bool {
	for _, moment := range p.moments {
		if moment[a] != moment[b] {
			return false
		}
	}
	return p.before.GPUs[a] == p.before.GPUs[b] // hence both idle, or neither
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
	u := &p.units[i]
	l := &p.moments[u.moment][g]
	return fitsLeft(l, u.Ask) && p.request.Accepts(l.Product) && !p.takenByAsk(i, g) && (!p.takesIdle(g) || *p.spare.Of(p.node.GPUs[g].SharedOnly) > 0)
}

// takesIdle reports whether taking from GPU g uses up one of the idle GPUs.
func (p *planner) takesIdle(g int) bool { return p.takers[g] == 0 && p.node.GPUs[g].Idle }

// take puts unit i on GPU g, in its own moment and, for a sidecar, in those of the init containers after it.
func (p *planner) take(i, g int) {
	u := &p.units[i]
	if p.takesIdle(g) {
		*p.spare.Of(p.node.GPUs[g].SharedOnly)--
	}
	p.takers[g]++
	u.chosen = g
	for k := range p.moments {
		if k == u.moment || u.moment == 0 && p.inits[k] > u.container {
			takeFrom(&p.moments[k][g], u.Ask)
		}
	}
}

// untake takes back what take did last.
func (p *planner) untake(i, g int) {
	u := &p.units[i]
	p.takers[g]--
	if p.takesIdle(g) {
		*p.spare.Of(p.node.GPUs[g].SharedOnly)++
	}
	u.chosen = -1
	for k := range p.moments {
		if k == u.moment || u.moment == 0 && p.inits[k] > u.container {
			giveBack(&p.moments[k][g], u.Ask)
		}
	}
}

// fitsLeft reports whether one GPU of the ask fits what is left of a GPU. Not for MIG.
func fitsLeft(l *Left, a gpu.Ask) bool {
	return l.Refuses != a.Kind && fitsAmounts(a, l.MilliGPU, l.MemoryMiB, l.DeviceMiB)
}

// fitsAmounts is fitsLeft for a GPU that is given out in the way of the ask.
func fitsAmounts(a gpu.Ask, milliGPU, memoryMiB, deviceMiB int64) bool {
	if a.Kind == gpu.Whole {
		return milliGPU == gpu.WholeMilliGPU && memoryMiB == deviceMiB && deviceMiB >= a.MemoryMiB
	}
	return milliGPU >= a.MilliGPU && memoryMiB >= a.ShareMemoryMiB(deviceMiB)
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

// giveBack is the reverse of takeFrom.
func giveBack(l *Left, a gpu.Ask) {
	if a.Kind == gpu.Whole {
		l.MilliGPU, l.MemoryMiB = gpu.WholeMilliGPU, l.DeviceMiB
		return
	}
	l.MilliGPU += a.MilliGPU
	l.MemoryMiB += a.ShareMemoryMiB(l.DeviceMiB)
}

// instance is one MIG instance to be placed.
type instance struct {
	profile string
	// holder is the running container that it is for, or toInit for the init containers only.
	holder int
}

const toInit = -1

// handedTo reports whether init container ci may hold the instance: one that no sidecar before it holds, for that runs
// beside it.
func (i instance) handedTo(ci int) bool { return i.holder == toInit || i.holder > ci }

// placeInstances places the MIG instances of all containers, side by side. An init container is given those that later
// containers, or other init containers, hold as far as the profiles agree.
func (p *planner) placeInstances(out []gpu.ContainerGrants) bool {
	wanted, ok := p.instances()
	if !ok || len(wanted) == 0 {
		return ok
	}
	withheld := len(p.node.Withheld.Profiles)
	want := slices.Clone(p.node.Withheld.Profiles)
	for _, i := range wanted {
		want = append(want, i.profile)
	}
	states, index := p.partitions()
	choices, ok := mig.Place(states, want)
	if !ok {
		return false
	}
	for ci, c := range p.request.Containers {
		for _, a := range c.Asks {
			if a.Kind != gpu.MIG {
				continue
			}
			left := a.Count
			for k, i := range wanted {
				if left == 0 || i.profile != a.Profile || c.Init && !i.handedTo(ci) || !c.Init && i.holder != ci {
					continue
				}
				choice := choices[withheld+k]
				inst := choice.Instance
				out[ci].Grants = append(out[ci].Grants, gpu.Grant{GPU: p.node.GPUs[index[choice.GPU]].ID, Instance: &inst})
				left--
			}
		}
	}
	return true
}

// instances lists the instances that the pod needs: those of the running containers, and what init containers need beyond
// those that are handed to them. It reports false where there are more than memory slices.
func (p *planner) instances() (wanted []instance, ok bool) {
	room := 0
	for i := range p.node.GPUs {
		room += mig.FreeSlices(p.node.GPUs[i].Partition)
	}
	add := func(count int, i instance) bool {
		if count > room-len(wanted) {
			return false
		}
		wanted = append(wanted, slices.Repeat([]instance{i}, max(0, count))...)
		return true
	}
	for ci, c := range p.request.Containers {
		for _, a := range c.Asks {
			if a.Kind == gpu.MIG && !c.Init && !add(a.Count, instance{a.Profile, ci}) {
				return nil, false
			}
		}
	}
	for ci, c := range p.request.Containers {
		for _, a := range c.Asks {
			if a.Kind != gpu.MIG || !c.Init {
				continue
			}
			handed := 0
			for _, i := range wanted {
				if i.profile == a.Profile && i.handedTo(ci) {
					handed++
				}
			}
			if !add(a.Count-handed, instance{a.Profile, toInit}) {
				return nil, false
			}
		}
	}
	return wanted, true
}

// partitions are the states of the node's healthy GPUs in MIG mode whose model the request accepts, and their indices in
// the node.
func (p *planner) partitions() (states []mig.State, index []int) {
	for i := range p.node.GPUs {
		g := &p.node.GPUs[i]
		if g.MIG && !g.Unhealthy && p.request.Accepts(g.Product) {
			states = append(states, g.Partition)
			index = append(index, i)
		}
	}
	return states, index
}
