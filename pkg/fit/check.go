package fit

import (
	"fmt"
	"slices"
	"strings"

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
	} else if possible(n, r) {
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
			rejection.Detail, rejection.Near = n.Inventory.Problems[0], 1 // it has some, and reports them badly
		}
		return rejection
	}
	e := explain(n, r)
	rejection := Rejection{Reason: e.Reason, Detail: e.detail(n, r), Near: int64(e.have)}
	switch e.Reason {
	case GPUMemoryTooSmall:
		rejection.Near = largestMiB(n)
	case NoMIGProfile:
		c := migChanceOf(n, r, e.ask.Profile)
		rejection.Near, rejection.Advice = c.near(), c.advice(e.ask.Profile)
	}
	return rejection
}

// largestMiB is the memory of the node's largest GPU.
func largestMiB(n *cluster.Node) int64 {
	var most int64
	for i := range n.GPUs {
		most = max(most, n.GPUs[i].MemoryMiB)
	}
	return most
}

// migChance is what would give a node a profile that none of its GPUs offers.
type migChance struct {
	// profile is a model that the request accepts and whose MIG table has the profile, table one that has a table; empty
	// where no GPU is of one.
	profile, table string
	// on says that GPUs are in MIG mode.
	on bool
}

func migChanceOf(n *cluster.Node, r gpu.Request, profile string) migChance {
	c := migChance{on: n.HasMIG}
	for i := range n.GPUs {
		product := n.GPUs[i].Product
		t, known := mig.TableByProduct(product)
		if !known || !r.Accepts(product) {
			continue
		}
		c.table = product
		if _, ok := t.Profile(profile); ok {
			c.profile = product
		}
	}
	return c
}

// near orders nodes: those that only have to be partitioned otherwise before those with MIG in use, before those that
// could use MIG at all.
func (c migChance) near() int64 {
	var near int64
	for i, yes := range []bool{c.table != "", c.on, c.profile != ""} {
		if yes {
			near |= 1 << i
		}
	}
	return near
}

// advice never is to partition a GPU of a model that cannot be, as far as is known here.
func (c migChance) advice(profile string) string {
	switch {
	case c.profile != "":
		return "ask for a profile that the GPUs offer, or partition a GPU so that it offers " + profile
	case c.table != "" || c.on:
		return "" // the reason's own
	}
	return "ask for a GPU or a share of one instead, or add nodes with GPUs that offer the profile"
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
	spare, spareShared, count := n.Spare().GPUs, n.Spare().Shared, 0
	for i := range n.GPUs {
		g := &n.GPUs[i]
		if g.Refuses() == a.Kind || !fitsAmounts(a, g.FreeMilliGPU, g.FreeMemoryMiB, g.MemoryMiB) || !r.Accepts(g.Product) {
			continue
		}
		switch {
		case !g.Idle:
		case g.SharedOnly && spareShared > 0:
			spareShared--
		case !g.SharedOnly && spare > 0:
			spare--
		default:
			continue
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
	return possible(n, r)
}

// finding is a reason with the ask that failed and the counts behind it.
type finding struct {
	Reason Reason
	ask    gpu.Ask
	// have GPUs would do out of total.
	have, total int
	// together are all asks, when each would fit by itself; have is then the number of idle GPUs.
	together []string
}

// detail is the figures in words.
func (f finding) detail(n *cluster.Node, r gpu.Request) string {
	asks := "asks for " + askText(f.ask)
	if f.together != nil {
		asks = "asks for " + strings.Join(f.together, " and ") + " together"
	}
	switch {
	case f.Reason == GPUProductMismatch:
		return fmt.Sprintf("accepts %s; has %s", strings.Join(r.Products, ", "), listed(n, func(d gpu.Device) []string { return []string{d.Product} }))
	case f.Reason == GPUMemoryTooSmall:
		return fmt.Sprintf("%s; the largest has %d MiB", asks, largestMiB(n))
	case f.Reason == NoMIGProfile && !n.HasMIG:
		if migChanceOf(n, r, f.ask.Profile).table == "" {
			return asks + "; no MIG profiles are known of " + listed(n, func(d gpu.Device) []string { return []string{d.Product} })
		}
		return asks + "; no GPU is in MIG mode"
	case f.Reason == NoMIGProfile:
		return fmt.Sprintf("%s; offered: %s", asks, listed(n, func(d gpu.Device) []string {
			var profiles []string
			for _, i := range d.Instances {
				profiles = append(profiles, i.Profile)
			}
			return profiles
		}))
	case f.Reason == GPUWithheld:
		return fmt.Sprintf("%s; withheld: %s", asks, withheld(n.Withheld))
	case f.together != nil:
		return asks + "; " + areOf(f.have, f.total, "idle")
	case f.ask.Kind == gpu.MIG:
		return fmt.Sprintf("%s; there is room for %d", asks, f.have)
	}
	given, plain := 0, 0 // the others are given in other ways
	for i := range n.GPUs {
		if g := &n.GPUs[i]; !g.MIG {
			plain++
			if canGive(g, f.ask.Kind) {
				given++
			}
		}
	}
	switch {
	case f.Reason == TooFewGPUs && given < plain && f.ask.Kind == gpu.Whole:
		return asks + "; the node has " + numberOf(f.have) + " to be given whole"
	case f.Reason == TooFewGPUs && given < plain:
		return asks + "; the node has " + numberOf(f.have) + " to be given in shares"
	case f.Reason == TooFewGPUs && given < f.total:
		return asks + "; the node has " + numberOf(f.have) + " not in MIG mode"
	case f.Reason == TooFewGPUs:
		return asks + "; the node has " + numberOf(f.have)
	case f.Reason == SharingUnsupported:
		return asks + "; " + areOf(f.have, plain, "given in shares")
	case f.Reason == GPUUnhealthy:
		return asks + "; " + areOf(f.have, given, "healthy")
	case f.Reason == InsufficientGPU:
		return asks + "; " + areOf(f.have, given, "idle")
	}
	return asks + "; " + areOf(f.have, given, "free enough")
}

// askText is an ask in words; of one thing there is no each.
func askText(a gpu.Ask) string {
	if a.Count == 1 {
		return strings.TrimSuffix(a.String(), " each")
	}
	return a.String()
}

// areOf is "3 of 8 GPUs are idle".
func areOf(have, total int, what string) string {
	are := "are"
	if have == 1 {
		are = "is"
	}
	return fmt.Sprintf("%d of %s %s %s", have, numberOf(total), are, what)
}

// numberOf is "1 GPU", "2 GPUs".
func numberOf(gpus int) string {
	if gpus == 1 {
		return "1 GPU"
	}
	return fmt.Sprintf("%d GPUs", gpus)
}

// listed is what the function says of the node's GPUs, sorted and each once.
func listed(n *cluster.Node, of func(gpu.Device) []string) string {
	var all []string
	for _, d := range n.Inventory.Devices {
		all = append(all, of(d)...)
	}
	slices.Sort(all)
	return strings.Join(slices.Compact(all), ", ")
}

// withheld is what is withheld in words: "1 whole GPU, 1 GPU for shares, 2 x 1g.10gb".
func withheld(w cluster.Withheld) string {
	var parts []string
	if others := w.GPUs - w.Shared; others > 0 {
		parts = append(parts, gpu.Ask{Kind: gpu.Whole, Count: others}.String())
	}
	if w.Shared > 0 {
		parts = append(parts, numberOf(w.Shared)+" for shares")
	}
	for i := 0; i < len(w.Profiles); {
		same := i
		for same < len(w.Profiles) && w.Profiles[same] == w.Profiles[i] {
			same++
		}
		parts = append(parts, gpu.Ask{Kind: gpu.MIG, Count: same - i, Profile: w.Profiles[i]}.String())
		i = same
	}
	return strings.Join(parts, ", ")
}

// explain finds the reason for a request that does not fit. It asks ever weaker questions of every ask and takes the
// first that is answered no. When every ask fits by itself, or would if pods ended or GPUs were healthy, and all of them
// do not fit even then, they are too much together.
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
	if _, ok := single(r); ok || worst.Reason != Fits && worst.Reason < GPUUnhealthy {
		return worst
	}
	together := explainTogether(n, r)
	if worst.Reason == Fits || !together.Reason.Resolvable() && together.Reason < worst.Reason {
		return together
	}
	return worst
}

// explainTogether finds the reason for a request of which each ask fits by itself, but not all together.
func explainTogether(n *cluster.Node, r gpu.Request) finding {
	f := finding{have: n.IdleGPUs + n.IdleShared, total: len(n.GPUs)}
	kinds := map[gpu.Kind]bool{}
	for _, c := range r.Containers {
		for _, a := range c.Asks {
			kinds[a.Kind] = true
			f.together = append(f.together, askText(a))
		}
	}
	fits := func(n *cluster.Node) bool { return possible(n, r) }
	unheld := *n
	unheld.Withheld = cluster.Withheld{}
	switch {
	case !fits(cluster.NewNode(n.Name, n.Inventory, nil)):
		f.Reason = TooFewGPUs
		if devices := slices.Clone(n.Inventory.Devices); slices.ContainsFunc(devices, func(d gpu.Device) bool { return d.Unhealthy }) {
			for i := range devices {
				devices[i].Unhealthy = false
			}
			if fits(cluster.NewNode(n.Name, cluster.NewInventory(n.Inventory.Source, devices), nil)) {
				f.Reason = GPUUnhealthy
			}
		}
	case n.Withheld.GPUs+len(n.Withheld.Profiles) > 0 && fits(&unheld):
		f.Reason = GPUWithheld
	case kinds[gpu.Whole]:
		f.Reason = InsufficientGPU
	case kinds[gpu.Shared]:
		f.Reason = InsufficientGPUShare
	default:
		f.Reason = NoMIGPlacement
	}
	return f
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
		{TooFewGPUs, func(g *cluster.GPU) bool { return canGive(g, a.Kind) }},
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
		if f.have >= a.Count {
			continue
		}
		if f.Reason = t.reason; f.have < before && f.Reason != TooFewGPUs {
			return f
		}
		// Nothing was lost in this test: there were too few to begin with.
		f.Reason = TooFewGPUs
		f.have = len(slices.DeleteFunc(left, func(g *cluster.GPU) bool { return !canGive(g, a.Kind) }))
		if f.have == 0 && slices.ContainsFunc(n.GPUs, func(g cluster.GPU) bool {
			return !g.MIG && g.Refuses() == gpu.Shared && a.Kind == gpu.Shared && r.Accepts(g.Product)
		}) {
			f.Reason = SharingUnsupported
		}
		return f
	}
	spare, allowed := n.Spare(), f.have
	for _, g := range left {
		if !g.Idle {
			continue
		}
		if room := spare.Of(g.SharedOnly); *room > 0 {
			*room--
		} else {
			allowed--
		}
	}
	if allowed < a.Count {
		f.Reason = GPUWithheld
	}
	return f
}

// canGive reports whether the node gives out the GPU in the way of the kind, which is not MIG.
func canGive(g *cluster.GPU, kind gpu.Kind) bool { return !g.MIG && g.Refuses() != kind }

// explainInstances is explainAsk for MIG: have is how many of the wanted instances could be placed.
func explainInstances(n *cluster.Node, r gpu.Request, a gpu.Ask) (reason Reason, have int) {
	offered, accepted := 0, 0
	var empty, sick, now []mig.State
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
			sick = append(sick, n.Inventory.Empty(i))
			continue
		}
		now = append(now, g.Partition)
		empty = append(empty, n.Inventory.Empty(i))
	}
	want := func(n int) []string { return slices.Repeat([]string{a.Profile}, n) }
	for have = 0; have < a.Count && mig.Fits(now, want(have+1)); have++ {
	}
	switch {
	case accepted == 0:
		return GPUProductMismatch, 0
	case offered == 0:
		return NoMIGProfile, 0
	case have >= a.Count && (len(n.Withheld.Profiles) == 0 || mig.Fits(now, append(want(a.Count), n.Withheld.Profiles...))):
		return Fits, have
	case have >= a.Count:
		return GPUWithheld, have
	case mig.Fits(empty, want(a.Count)):
		return NoMIGPlacement, have
	case mig.Fits(append(empty, sick...), want(a.Count)):
		return GPUUnhealthy, have
	}
	return TooFewGPUs, have
}
