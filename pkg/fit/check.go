package fit

import (
	"fmt"
	"slices"

	"weft.sh/weft/pkg/cluster"
	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/mig"
)

// Check reports why the request does not fit the node now, Fits when it does. The node may be nil, for a node without
// GPUs. A request of one ask is answered exactly; for the limits of requests with several, see [Assign].
func Check(n *cluster.Node, r gpu.Request) Reason {
	if r.Empty() {
		return Fits
	}
	if n == nil || len(n.GPUs) == 0 {
		return NoGPU
	}
	if a, ok := single(r); ok {
		if fitsOne(n, r, a) {
			return Fits
		}
	} else if _, ok := plan(n, r, CPU{}, nil); ok {
		return Fits
	}
	return explain(n, r).Reason
}

// Explain is Check with the figures that the reason rests on, for people; it costs more.
func Explain(n *cluster.Node, r gpu.Request) Rejection {
	reason := Check(n, r)
	if reason == Fits || reason == NoGPU {
		rejection := Rejection{Reason: reason}
		if n != nil && len(n.Inventory.Problems) > 0 && reason == NoGPU {
			rejection.Detail = n.Inventory.Problems[0]
		}
		return rejection
	}
	e := explain(n, r)
	return Rejection{Reason: e.Reason, Detail: e.detail(n)}
}

// single is the one ask of a request that has just one, of a container that is not an init container.
func single(r gpu.Request) (gpu.Ask, bool) {
	if len(r.Containers) != 1 || len(r.Containers[0].Asks) != 1 || r.Containers[0].Init {
		return gpu.Ask{}, false
	}
	return r.Containers[0].Asks[0], true
}

// fitsOne is Check for one ask, without memory of its own.
func fitsOne(n *cluster.Node, r gpu.Request, a gpu.Ask) bool {
	if a.Kind == gpu.MIG {
		return n.HasMIG && fitsInstances(n, r, a)
	}
	idle := n.IdleGPUs - n.Withheld.GPUs
	count := 0
	for i := range n.GPUs {
		g := &n.GPUs[i]
		l := Left{MilliGPU: g.FreeMilliGPU, MemoryMiB: g.FreeMemoryMiB, DeviceMiB: g.MemoryMiB, WholeOnly: g.WholeOnly}
		if !fitsLeft(&l, a) || !r.Accepts(g.Product) {
			continue
		}
		if g.Idle {
			if idle <= 0 {
				continue
			}
			idle--
		}
		if count++; count == a.Count {
			return true
		}
	}
	return false
}

// fitsInstances answers for one MIG ask.
func fitsInstances(n *cluster.Node, r gpu.Request, a gpu.Ask) bool {
	if a.Count == 1 && len(n.Withheld.Profiles) == 0 {
		for i := range n.GPUs {
			if g := &n.GPUs[i]; g.MIG && !g.Unhealthy && r.Accepts(g.Product) && mig.Usable(g.Partition, a.Profile) > 0 {
				return true
			}
		}
		return false
	}
	_, ok := plan(n, r, CPU{}, nil)
	return ok
}

// finding is a reason with the ask that failed and the counts behind it.
type finding struct {
	Reason Reason
	ask    gpu.Ask
	// have GPUs would do out of total.
	have, total int
}

func (f finding) detail(n *cluster.Node) string {
	d := fmt.Sprintf("asks for %s; %d of %d GPUs would do", f.ask, f.have, f.total)
	switch f.Reason {
	case GPUProductMismatch:
		d = fmt.Sprintf("has %s", n.GPUs[0].Product)
	case GPUMemoryTooSmall:
		var most int64
		for i := range n.GPUs {
			most = max(most, n.GPUs[i].MemoryMiB)
		}
		d = fmt.Sprintf("asks for %s; the largest has %d MiB", f.ask, most)
	case NoMIGProfile:
		var offered []string
		for i := range n.GPUs {
			for _, inst := range n.GPUs[i].Instances {
				if !slices.Contains(offered, inst.Profile) {
					offered = append(offered, inst.Profile)
				}
			}
		}
		slices.Sort(offered)
		d = fmt.Sprintf("asks for %s; offered: %v", f.ask, offered)
		if len(offered) == 0 {
			d = fmt.Sprintf("asks for %s; no GPU is in MIG mode", f.ask)
		}
	case GPUWithheld:
		d = fmt.Sprintf("asks for %s; withheld: %d GPUs, instances %v", f.ask, n.Withheld.GPUs, n.Withheld.Profiles)
	}
	return d
}

// explain finds the reason for a request that does not fit. It asks ever weaker questions of every ask and takes the
// first that is answered no; when every ask fits by itself, they do not fit together, and the hardest kind is to blame.
func explain(n *cluster.Node, r gpu.Request) finding {
	worst := finding{}
	for _, c := range r.Containers {
		for _, a := range c.Asks {
			f := explainAsk(n, r, a)
			// The least hopeful ask decides, for all must be met.
			if f.Reason != Fits && (worst.Reason == Fits || f.Reason < worst.Reason) {
				worst = f
			}
		}
	}
	if worst.Reason != Fits {
		return worst
	}
	// Together they are too much. Blame the first ask of the hardest kind.
	for _, kind := range []gpu.Kind{gpu.Whole, gpu.Shared, gpu.MIG} {
		for _, c := range r.Containers {
			for _, a := range c.Asks {
				if a.Kind == kind {
					reason := map[gpu.Kind]Reason{gpu.Whole: InsufficientGPU, gpu.Shared: InsufficientGPUShare, gpu.MIG: NoMIGPlacement}[kind]
					return finding{reason, a, n.IdleGPUs, len(n.GPUs)}
				}
			}
		}
	}
	return finding{Reason: NoGPU}
}

// explainAsk narrows the node's GPUs down, test by test, to those that can serve the ask now, and names the test after
// which too few were left.
func explainAsk(n *cluster.Node, r gpu.Request, a gpu.Ask) finding {
	f := finding{ask: a, total: len(n.GPUs)}
	if a.Kind == gpu.MIG {
		f.Reason, f.have = explainInstances(n, r, a)
		return f
	}
	tests := []struct {
		reason Reason
		pass   func(g *cluster.GPU) bool
	}{
		{GPUProductMismatch, func(g *cluster.GPU) bool { return r.Accepts(g.Product) }},
		{TooFewGPUs, func(g *cluster.GPU) bool { return !g.MIG }},
		{SharingUnsupported, func(g *cluster.GPU) bool { return a.Kind == gpu.Whole || !g.WholeOnly }},
		{GPUMemoryTooSmall, func(g *cluster.GPU) bool {
			return g.MemoryMiB >= a.MemoryMiB && (a.Kind == gpu.Whole || g.MemoryMiB >= a.ShareMemoryMiB(g.MemoryMiB))
		}},
		{TooFewGPUs, func(*cluster.GPU) bool { return true }},
		{GPUUnhealthy, func(g *cluster.GPU) bool { return !g.Unhealthy }},
		{InsufficientGPU, func(g *cluster.GPU) bool { return a.Kind != gpu.Whole || g.Available() }},
		{InsufficientGPUShare, func(g *cluster.GPU) bool { return a.Kind == gpu.Whole || g.FreeMilliGPU >= a.MilliGPU }},
		{InsufficientGPUMemory, func(g *cluster.GPU) bool {
			return a.Kind == gpu.Whole || g.FreeMemoryMiB >= a.ShareMemoryMiB(g.MemoryMiB)
		}},
	}
	left := make([]*cluster.GPU, len(n.GPUs))
	for i := range n.GPUs {
		left[i] = &n.GPUs[i]
	}
	for _, t := range tests {
		before := len(left)
		left = slices.DeleteFunc(left, func(g *cluster.GPU) bool { return !t.pass(g) })
		f.have = len(left)
		switch {
		case f.have >= a.Count:
			continue
		case f.have == before || t.reason == TooFewGPUs:
			f.Reason = TooFewGPUs // nothing was lost in this test: there were too few to begin with
		default:
			f.Reason = t.reason
		}
		return f
	}
	idle := 0
	for _, g := range left {
		if g.Idle {
			idle++
		}
	}
	if spare := max(0, n.IdleGPUs-n.Withheld.GPUs); f.have-idle+min(idle, spare) < a.Count {
		f.Reason = GPUWithheld
	}
	return f
}

// explainInstances is explainAsk for MIG: have is how many of the wanted instances could be placed.
func explainInstances(n *cluster.Node, r gpu.Request, a gpu.Ask) (reason Reason, have int) {
	offered, offeredSick, accepted := 0, 0, 0
	var empty, now []mig.State
	for i := range n.GPUs {
		g := &n.GPUs[i]
		if !r.Accepts(g.Product) {
			continue
		}
		accepted++
		if !slices.ContainsFunc(g.Instances, func(i gpu.Instance) bool { return i.Profile == a.Profile }) {
			continue
		}
		offered++
		if g.Unhealthy {
			offeredSick++
			continue
		}
		now = append(now, g.Partition)
		empty = append(empty, n.Inventory.Empty(i))
	}
	want := func(n int) []string { return slices.Repeat([]string{a.Profile}, min(n, maxInstances)) }
	can := func(states []mig.State, want []string) bool { _, ok := mig.Place(states, want); return ok }
	for have = 0; have < min(a.Count, maxInstances) && can(now, want(have+1)); have++ {
	}
	switch {
	case accepted == 0:
		return GPUProductMismatch, 0
	case offered == 0:
		return NoMIGProfile, 0
	case have >= a.Count && can(now, append(want(a.Count), n.Withheld.Profiles...)):
		return Fits, have
	case have >= a.Count:
		return GPUWithheld, have
	case can(empty, want(a.Count)):
		return NoMIGPlacement, have
	case offeredSick > 0:
		return GPUUnhealthy, have
	}
	return TooFewGPUs, have
}
