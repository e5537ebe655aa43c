package gang

import (
	"strconv"

	"weft.sh/weft/pkg/cluster"
	"weft.sh/weft/pkg/fit"
	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/mig"
)

// gpuState is what is left of a node's GPUs. All nodes of one signature share it, whatever the ids of their GPUs: five thousand
// equal nodes cost one computation.
type gpuState struct {
	node   *cluster.Node // one of them; nil for nodes without GPUs
	steps  map[stepKey]*gpuStep
	scores map[stepKey]int64
}

// stepKey is what a step depends on besides the state. CPU that the strategy maps to the same key is the same to it.
type stepKey struct {
	shape               int
	cpuBefore, cpuAfter int64
}

// gpuStep is what one more member of a shape does to a state.
type gpuStep struct {
	shape int
	to    *gpuState // nil where the member does not fit
	// assignment names the GPUs of the state's node; gpus are their positions there, grant by grant, which is what holds for
	// every node of the state.
	assignment gpu.Assignment
	gpus       []int
}

// on is the step's assignment on another node of the state.
func (s *gpuStep) on(n *cluster.Node) gpu.Assignment {
	if len(s.gpus) == 0 {
		return s.assignment
	}
	out := gpu.Assignment{Containers: make([]gpu.ContainerGrants, len(s.assignment.Containers))}
	grants := make([]gpu.Grant, 0, len(s.gpus))
	for i, c := range s.assignment.Containers {
		first := len(grants)
		for _, g := range c.Grants {
			g.GPU = n.GPUs[s.gpus[len(grants)]].ID
			grants = append(grants, g)
		}
		out.Containers[i] = gpu.ContainerGrants{Container: c.Container, Init: c.Init, Grants: grants[first:len(grants):len(grants)]}
	}
	return out
}

// book keeps every state and step of one call.
type book struct {
	p      *Problem
	states map[cluster.Signature]*gpuState
	none   *gpuState
}

func newBook(p *Problem) *book {
	return &book{p: p, states: map[cluster.Signature]*gpuState{}, none: &gpuState{}}
}

func (b *book) state(n *cluster.Node) *gpuState {
	if n == nil {
		return b.none
	}
	s := b.states[n.Signature]
	if s == nil {
		s = &gpuState{node: n}
		b.states[n.Signature] = s
	}
	return s
}

// cpuStep is how fine the planner shows the strategy CPU, in thousandths of a core. The CPU left differs from node to node, and
// would make each a case of its own to strategies to which every amount is another.
const cpuStep = 16_000

// cpuOf is the CPU side of a member's decision, and the key of the step.
func (b *book) cpuOf(shape int, milliCPU int64) (stepKey, fit.CPU) {
	cpu := fit.CPU{FreeMilli: milliCPU - ((milliCPU%cpuStep)+cpuStep)%cpuStep, AskMilli: b.p.Shapes[shape].MilliCPU}
	key := stepKey{shape: shape}
	if b.p.Strategy != nil {
		key.cpuBefore, key.cpuAfter = b.p.Strategy.CPUKey(cpu.FreeMilli), b.p.Strategy.CPUKey(cpu.FreeMilli-cpu.AskMilli)
	}
	return key, cpu
}

// score is the strategy's rating of a member on a node in the state with so much CPU left, 0 where there is no strategy.
func (b *book) score(of *gpuState, shape int, milliCPU int64) int64 {
	if b.p.Strategy == nil {
		return 0
	}
	key, cpu := b.cpuOf(shape, milliCPU)
	score, known := of.scores[key]
	if !known {
		if of.scores == nil {
			of.scores = map[stepKey]int64{}
		}
		score = fit.Score(of.node, b.p.Shapes[shape].Request, cpu, b.p.Strategy)
		of.scores[key] = score
	}
	return score
}

// step is what a member of the shape does to a node in the state with so much CPU left.
func (b *book) step(from *gpuState, shape int, milliCPU int64) *gpuStep {
	s := &b.p.Shapes[shape]
	key, cpu := b.cpuOf(shape, milliCPU)
	if st := from.steps[key]; st != nil {
		return st
	}
	st := &gpuStep{shape: shape}
	if from.steps == nil {
		from.steps = map[stepKey]*gpuStep{}
	}
	from.steps[key] = st
	a, err := fit.Assign(from.node, s.Request, cpu, b.p.Strategy)
	if err != nil {
		return st
	}
	st.assignment, st.to = a, from
	if s.Request.Empty() {
		return st
	}
	for _, c := range a.Containers {
		for _, g := range c.Grants {
			for i := range from.node.GPUs {
				if from.node.GPUs[i].ID == g.GPU {
					st.gpus = append(st.gpus, i)
				}
			}
		}
	}
	// No pod has this UID, and none that comes later on this way: there is one more pod then.
	uid := "\x00" + strconv.Itoa(len(from.node.Pods))
	st.to = b.state(from.node.With(cluster.NewPod(uid, "", a)))
	return st
}

// site is a node with the members that the plan has put there.
type site struct {
	state *gpuState
	cpu   int64
	took  []int // members put there, by shape; nil for none
	steps []*gpuStep
}

// room is how many members of the shape everything but GPUs lets on node i, beside what it took and what else is given. A
// resource that is not asked for does not matter, however overbooked.
func (pl *planner) room(i, shape int, beside []int) int {
	n, s := &pl.p.Nodes[i], &pl.p.Shapes[shape]
	taken := func(other int) int {
		sum := 0
		if took := pl.sites[i].took; took != nil {
			sum = took[other]
		}
		if beside != nil {
			sum += beside[other]
		}
		return sum
	}
	room := n.Limit[shape] - taken(shape)
	for r, ask := range s.Ask {
		if ask <= 0 {
			continue
		}
		free := n.Free[r]
		for other := range pl.p.Shapes {
			free -= int64(taken(other)) * pl.p.Shapes[other].Ask[r]
		}
		room = min(room, int(max(free, 0)/ask))
	}
	return max(room, 0)
}

// walk is how many members of the shape a node in the state takes, up to most.
func (pl *planner) walk(from *gpuState, cpu int64, shape, most int) int {
	s := &pl.p.Shapes[shape]
	if s.Request.Empty() {
		return most
	}
	if n, ok := countSlots(from.node, s.Request); ok {
		return min(most, n)
	}
	for n := range most {
		step := pl.book.step(from, shape, cpu)
		if step.to == nil {
			return n
		}
		from, cpu = step.to, cpu-s.MilliCPU
	}
	return most
}

// singleAsk is the ask of a request of one container with one ask, as most members' is.
func singleAsk(r gpu.Request) (gpu.Ask, bool) {
	if len(r.Containers) != 1 || r.Containers[0].Init || len(r.Containers[0].Asks) != 1 {
		return gpu.Ask{}, false
	}
	return r.Containers[0].Asks[0], true
}

// countSlots is how many members with the request a node takes, where nothing has to be tried to know it: each takes as many whole
// GPUs, or one share or MIG instance, from what the others leave, whichever GPUs that is.
func countSlots(n *cluster.Node, r gpu.Request) (slots int, ok bool) {
	ask, ok := singleAsk(r)
	switch {
	case !ok:
		return 0, false
	case n == nil:
		return 0, true
	case ask.Kind == gpu.Whole:
		for i := range n.GPUs {
			if g := &n.GPUs[i]; g.Available() && g.MemoryMiB >= ask.MemoryMiB && r.Accepts(g.Product) {
				slots++
			}
		}
		return max(0, min(slots, n.Spare().GPUs)) / ask.Count, true
	case ask.Kind == gpu.Shared && ask.Count == 1 && n.Withheld.GPUs == 0:
		for i := range n.GPUs {
			if g := &n.GPUs[i]; g.Refuses() != gpu.Shared && r.Accepts(g.Product) {
				slots += int(min(g.FreeMilliGPU/ask.MilliGPU, g.FreeMemoryMiB/ask.ShareMemoryMiB(g.MemoryMiB)))
			}
		}
		return slots, true
	case ask.Kind == gpu.MIG && ask.Count == 1 && len(n.Withheld.Profiles) == 0:
		for i := range n.GPUs {
			g := &n.GPUs[i]
			if !g.MIG || g.Unhealthy || !r.Accepts(g.Product) {
				continue
			}
			free := mig.FreePlacements(g.Partition, ask.Profile)
			if free > 1 && mig.Usable(g.Partition, ask.Profile) != free*sizeOf(g, ask.Profile) {
				return 0, false // they overlap each other: how many there is room for depends on which are taken
			}
			slots += free
		}
		return slots, true
	}
	return 0, false
}

// sizeOf is how many memory slices an instance of the profile takes, 0 where the GPU has none.
func sizeOf(g *cluster.GPU, profile string) int {
	for _, i := range g.Instances {
		if i.Profile == profile {
			return i.Size
		}
	}
	return 0
}

// enoughSlots is the number up to which a node's slots are always counted, wanted or not: how much is left in what is used
// decides between equals.
const enoughSlots = 16

// slots is how many more members of the shape node i takes, counted no further than is of interest.
func (pl *planner) slots(i, shape int) int {
	if known := pl.known[shape][i]; known >= 0 {
		return int(known)
	}
	n := pl.walk(pl.sites[i].state, pl.sites[i].cpu, shape, min(pl.room(i, shape, nil), max(pl.unplaced[shape], enoughSlots)))
	pl.known[shape][i] = int32(n)
	return n
}

// take puts n members of the shape on node i; false where it does not take them after all, and then nothing is done.
func (pl *planner) take(i, shape, n int) bool {
	s := &pl.sites[i]
	state, cpu, steps := s.state, s.cpu, len(s.steps)
	for range n {
		step := pl.book.step(s.state, shape, s.cpu)
		if step.to == nil {
			s.state, s.cpu, s.steps = state, cpu, s.steps[:steps]
			return false
		}
		s.steps = append(s.steps, step)
		s.state, s.cpu = step.to, s.cpu-pl.p.Shapes[shape].MilliCPU
	}
	if s.took == nil {
		s.took = make([]int, len(pl.p.Shapes))
	}
	s.took[shape] += n
	pl.undo = append(pl.undo, undo{i, shape, n, state, cpu})
	pl.touched(i, n)
	return true
}

// undo is what takes back one take.
type undo struct {
	node, shape, n int
	state          *gpuState
	cpu            int64
}

// rollback takes back what was taken since there were so many entries in the undo list.
func (pl *planner) rollback(to int) {
	for len(pl.undo) > to {
		u := pl.undo[len(pl.undo)-1]
		pl.undo = pl.undo[:len(pl.undo)-1]
		s := &pl.sites[u.node]
		s.state, s.cpu, s.steps = u.state, u.cpu, s.steps[:len(s.steps)-u.n]
		s.took[u.shape] -= u.n
		pl.touched(u.node, -u.n)
	}
}

// touched keeps what is derived from a node in step when it took n more members.
func (pl *planner) touched(i, n int) {
	pl.inUse[i] += n
	for l := range pl.levels {
		pl.levels[l].inUse[pl.levels[l].of[i]] += n
	}
	for shape := range pl.known {
		pl.known[shape][i] = -1
	}
}

// joint is the largest combinations of members of the shapes that node i takes, by shape in the order given; none is contained in
// another. Members are put in in that order, the hardest first. It gives up at max combinations.
func (pl *planner) joint(i int, shapes []int, need []int, most int) (out [][]int32, ok bool) {
	counts := make([]int32, len(shapes))
	beside := make([]int, len(pl.p.Shapes))
	ok = true
	var fill func(k int, state *gpuState, cpu int64)
	fill = func(k int, state *gpuState, cpu int64) {
		shape := shapes[k]
		room := min(pl.room(i, shape, beside), need[shape])
		if k == len(shapes)-1 {
			n := pl.walk(state, cpu, shape, room)
			counts[k] = int32(n)
			out, ok = addCombination(out, counts), ok && len(out) < most
			return
		}
		for n := 0; ok; n++ {
			counts[k], beside[shape] = int32(n), n
			fill(k+1, state, cpu)
			if n == room {
				break
			}
			step := pl.book.step(state, shape, cpu)
			if step.to == nil {
				break
			}
			state, cpu = step.to, cpu-pl.p.Shapes[shape].MilliCPU
		}
		counts[k], beside[shape] = 0, 0
	}
	fill(0, pl.sites[i].state, pl.sites[i].cpu)
	return out, ok
}

// addCombination adds counts to combinations of which none is contained in another.
func addCombination(all [][]int32, counts []int32) [][]int32 {
	if within(counts, make([]int32, len(counts))) {
		return all
	}
	kept := all[:0]
	for _, other := range all {
		if within(counts, other) {
			return all
		}
		if !within(other, counts) {
			kept = append(kept, other)
		}
	}
	return append(kept, append([]int32(nil), counts...))
}

// within reports whether a is at most b, number by number.
func within(a, b []int32) bool {
	for k := range a {
		if a[k] > b[k] {
			return false
		}
	}
	return true
}
