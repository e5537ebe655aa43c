package fit

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"

	"weft.sh/weft/pkg/cluster"
	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/mig"
)

// The deliberately dumb counterpart of the package: what is legal is read off the definitions, and whether there is a
// place is found by trying all ways.

// moments calls f with the containers that run together: those of every init container, with the sidecars before it, and
// those of the end.
func moments(a gpu.Assignment, f func(running []gpu.ContainerGrants)) {
	var running []gpu.ContainerGrants
	for _, c := range a.Containers {
		if c.Init {
			f(append(slices.Clone(running), c))
		} else {
			running = append(running, c)
		}
	}
	f(running)
}

// held is the most that an assignment holds of one GPU.
type held struct {
	grants     int
	whole      bool
	milli, mib int64
	instances  []gpu.Instance // each once
}

func heldOf(a gpu.Assignment, id gpu.ID) held {
	var h held
	moments(a, func(running []gpu.ContainerGrants) {
		var milli, mib int64
		for _, c := range running {
			for _, g := range c.Grants {
				if g.GPU != id {
					continue
				}
				h.grants++
				h.whole = h.whole || g.Kind() == gpu.Whole
				milli, mib = milli+g.MilliGPU, mib+g.MemoryMiB
				if g.Instance != nil && !slices.Contains(h.instances, *g.Instance) {
					h.instances = append(h.instances, *g.Instance)
				}
			}
		}
		h.milli, h.mib = max(h.milli, milli), max(h.mib, mib)
	})
	return h
}

// dumbGPU is a GPU and what pods hold of it.
type dumbGPU struct {
	gpu.Device
	holders    int
	whole      bool
	milli, mib int64
	instances  []gpu.Instance
	onDemand   bool // some of what it offers overlaps
}

func dumbGPUs(n *cluster.Node) []dumbGPU {
	var out []dumbGPU
	for _, d := range n.Inventory.Devices {
		g := dumbGPU{Device: d}
		for _, p := range n.Pods {
			h := heldOf(p.Assignment, d.ID)
			if h.grants == 0 {
				continue
			}
			g.holders++
			g.whole = g.whole || h.whole
			g.milli, g.mib = g.milli+h.milli, g.mib+h.mib
			g.instances = append(g.instances, h.instances...)
		}
		for i, a := range d.Instances {
			g.onDemand = g.onDemand || slices.ContainsFunc(d.Instances[:i], a.Overlaps)
		}
		out = append(out, g)
	}
	return out
}

// idle: nobody holds any of it, and it can be held whole or in shares.
func (g *dumbGPU) idle() bool { return g.holders == 0 && !g.Unhealthy && !g.MIG }

func media(i gpu.Instance) bool { return strings.Contains(i.Profile, "+me") }

// gives reports whether the GPU can give the instance beside others, its own included.
func (g *dumbGPU) gives(i gpu.Instance, others []gpu.Instance) bool {
	if !g.MIG || g.Unhealthy || g.whole || g.milli > 0 || !slices.Contains(g.Instances, i) {
		return false
	}
	return !slices.ContainsFunc(slices.Concat(others, g.instances), func(o gpu.Instance) bool {
		return o.Overlaps(i) || g.onDemand && media(o) && media(i)
	})
}

// legal reports why the node may not give the assignment to the request, "" when it may. It is monotonous: what is not
// legal does not become so with more grants.
func legal(n *cluster.Node, gpus []dumbGPU, r gpu.Request, a gpu.Assignment) string {
	idle, taken := map[bool]int{}, map[bool]int{} // of GPUs that are, and are not, SharedOnly
	for i := range gpus {
		g := &gpus[i]
		h := heldOf(a, g.ID)
		if g.idle() {
			idle[g.SharedOnly]++
		}
		if h.grants == 0 {
			continue
		}
		if g.holders == 0 && !g.MIG {
			taken[g.SharedOnly]++
		}
		switch {
		case g.Unhealthy:
			return fmt.Sprintf("%s is not healthy", g.ID)
		case !r.Accepts(g.Product):
			return fmt.Sprintf("%s is a %s", g.ID, g.Product)
		case len(h.instances) == 0 && (g.MIG || g.whole || len(g.instances) > 0):
			return fmt.Sprintf("%s is partitioned, or held whole", g.ID)
		case h.whole && !g.idle():
			return fmt.Sprintf("%s is not idle", g.ID)
		case h.whole && g.SharedOnly:
			return fmt.Sprintf("%s is given in shares only", g.ID)
		case h.milli > 0 && g.WholeOnly:
			return fmt.Sprintf("%s is given whole only", g.ID)
		case g.milli+h.milli > 1000 || g.mib+h.mib > g.MemoryMiB:
			return fmt.Sprintf("%s is shared to %d milli-GPU and %d MiB", g.ID, g.milli+h.milli, g.mib+h.mib)
		}
		for k, i := range h.instances {
			if !g.gives(i, h.instances[:k]) {
				return fmt.Sprintf("%s cannot give %s", g.ID, i)
			}
		}
	}
	for sharedOnly, withheld := range map[bool]int{true: n.Withheld.Shared, false: n.Withheld.GPUs - n.Withheld.Shared} {
		if taken[sharedOnly] > max(0, idle[sharedOnly]-withheld) {
			return fmt.Sprintf("GPUs taken: %v; idle: %v; withheld: %v", taken, idle, n.Withheld)
		}
	}
	if err := a.Validate(); err != nil && !strings.Contains(err.Error(), "holds nothing") {
		return err.Error()
	}
	for ci, c := range a.Containers {
		for _, g := range c.Grants {
			d := gpus[slices.IndexFunc(gpus, func(d dumbGPU) bool { return d.ID == g.GPU })]
			for _, ask := range r.Containers[ci].Asks {
				if g.Kind() == gpu.Whole && ask.Kind == gpu.Whole && d.MemoryMiB < ask.MemoryMiB {
					return fmt.Sprintf("%s has too little memory", d.ID)
				}
				if g.Kind() == gpu.Shared && ask.Kind == gpu.Shared && g.MemoryMiB != ask.ShareMemoryMiB(d.MemoryMiB) {
					return fmt.Sprintf("%s gives %d MiB", d.ID, g.MemoryMiB)
				}
			}
		}
	}
	return ""
}

// keepsWithheld reports whether the withheld profiles can still be placed, on GPUs that the request accepts.
func keepsWithheld(n *cluster.Node, gpus []dumbGPU, r gpu.Request, a gpu.Assignment) bool {
	taken := make([][]gpu.Instance, len(gpus))
	for i := range gpus {
		taken[i] = heldOf(a, gpus[i].ID).instances
	}
	var place func(rest []string) bool
	place = func(rest []string) bool {
		if len(rest) == 0 {
			return true
		}
		for i := range gpus {
			if !r.Accepts(gpus[i].Product) {
				continue
			}
			for _, inst := range gpus[i].Instances {
				if inst.Profile != rest[0] || !gpus[i].gives(inst, taken[i]) {
					continue
				}
				taken[i] = append(taken[i], inst)
				ok := place(rest[1:])
				taken[i] = taken[i][:len(taken[i])-1]
				if ok {
					return true
				}
			}
		}
		return false
	}
	return place(n.Withheld.Profiles)
}

// dumbFits tries all assignments. The instances of a pod lie side by side, but an init container may hold the same one as
// containers that do not run beside it. known is false when there are too many ways to try.
func dumbFits(n *cluster.Node, r gpu.Request) (fits, known bool) {
	gpus := dumbGPUs(n)
	a := gpu.Assignment{}
	asksMIG := false
	type unit struct {
		container int
		ask       gpu.Ask
		first     bool
	}
	var units []unit
	for ci, c := range r.Containers {
		a.Containers = append(a.Containers, gpu.ContainerGrants{Container: c.Name, Init: c.Init})
		for _, ask := range c.Asks {
			asksMIG = asksMIG || ask.Kind == gpu.MIG
			for k := range ask.Count {
				units = append(units, unit{ci, ask, k == 0})
			}
		}
	}
	steps := 0
	// from orders the grants of one ask, which are interchangeable, so that each set of them is tried once.
	var try func(k int, from gpu.Grant) bool
	try = func(k int, from gpu.Grant) bool {
		if steps++; steps > 30_000 {
			return false
		}
		if k == len(units) {
			return !asksMIG || keepsWithheld(n, gpus, r, a)
		}
		u := units[k]
		holds := &a.Containers[u.container].Grants
		give := func(g gpu.Grant) bool {
			if !u.first && strings.Compare(from.String(), g.String()) >= 0 {
				return false
			}
			*holds = append(*holds, g)
			ok := legal(n, gpus, r, a) == "" && try(k+1, g)
			*holds = (*holds)[:len(*holds)-1]
			return ok
		}
		for i := range gpus {
			switch u.ask.Kind {
			case gpu.Whole:
				if give(gpu.Grant{GPU: gpus[i].ID}) {
					return true
				}
			case gpu.Shared:
				if give(gpu.Grant{GPU: gpus[i].ID, MilliGPU: u.ask.MilliGPU, MemoryMiB: u.ask.ShareMemoryMiB(gpus[i].MemoryMiB)}) {
					return true
				}
			case gpu.MIG:
				for _, inst := range gpus[i].Instances {
					if inst.Profile == u.ask.Profile && give(gpu.Grant{GPU: gpus[i].ID, Instance: &inst}) {
						return true
					}
				}
			}
		}
		return false
	}
	fits = try(0, gpu.Grant{})
	return fits, fits || steps <= 30_000
}

// What follows makes nodes and requests.

func table(name string) []gpu.Instance {
	t, _ := mig.TableByName(name)
	return t.Instances()
}

var (
	onDemand  = table("A30-24GB")
	fixed     = []gpu.Instance{{Profile: "1g.6gb", Start: 0, Size: 1}, {Profile: "1g.6gb+me", Start: 1, Size: 1}, {Profile: "2g.12gb", Start: 2, Size: 2}}
	large     = table("A100-80GB")
	profiles  = []string{"1g.6gb", "1g.6gb+me", "2g.12gb", "2g.12gb+me", "4g.24gb"}
	shares    = []int64{1, 100, 250, 300, 500, 600, 1000}
	memories  = []int64{50, 100, 160}
	allShapes = slices.Concat(profiles, profiles, profiles, []string{"1g.10gb", "3g.40gb", "7g.80gb", "9g.99gb"})
)

func pick[T any](r *rand.Rand, list []T) T { return list[r.IntN(len(list))] }

func randomDevice(r *rand.Rand, index int) gpu.Device {
	d := gpu.Device{
		ID: gpu.ID(fmt.Sprintf("g%d", index)), Index: index, Product: pick(r, []string{"A", "A", "B"}), MemoryMiB: pick(r, memories),
		Unhealthy: r.IntN(10) == 0, WholeOnly: r.IntN(10) == 0,
	}
	if r.IntN(3) == 0 {
		d.MIG = true
		d.Instances = pick(r, [][]gpu.Instance{onDemand, onDemand, onDemand, onDemand, fixed, fixed, large, nil})
	}
	if !d.MIG && !d.WholeOnly && r.IntN(6) == 0 {
		d.SharedOnly = true
	}
	return d
}

// leaveWhole makes the GPUs those of a node that leaves whole GPUs to somebody else.
func leaveWhole(r *rand.Rand, devices []gpu.Device) {
	for i := range devices {
		d := &devices[i]
		d.SharedOnly = !d.MIG && r.IntN(2) == 0
		d.WholeOnly = !d.MIG && !d.SharedOnly
	}
}

// randomNode has up to four GPUs, in use to any degree; now and then it has conflicts.
func randomNode(r *rand.Rand) *cluster.Node {
	devices := make([]gpu.Device, pick(r, []int{1, 2, 2, 3, 3, 4, 4, 4}))
	if r.IntN(20) == 0 {
		devices = nil
	}
	for i := range devices {
		devices[i] = randomDevice(r, i)
	}
	if r.IntN(6) == 0 {
		leaveWhole(r, devices)
	}
	if r.IntN(2) == 0 {
		wire(r, devices)
	}
	n := cluster.NewNode("n", cluster.NewInventory(cluster.SourceSlices, devices), nil)
	pods := pick(r, []int{0, 1, 2, 3, 4, 8})
	for i := range pods {
		uid := fmt.Sprintf("pod-%d", i)
		switch k := r.IntN(20); {
		case k == 0: // of another scheduler
			n = n.With(cluster.NewUnplacedPod(uid, "ns/"+uid, requestFor(r, n)))
		case k == 1 && len(devices) > 0: // on GPUs that are perhaps taken
			g := gpu.Grant{GPU: pick(r, devices).ID, MilliGPU: pick(r, shares), MemoryMiB: pick(r, memories)}
			n = n.With(cluster.NewPod(uid, "ns/"+uid, gpu.Assignment{Containers: []gpu.ContainerGrants{{Container: "c", Grants: []gpu.Grant{g}}}}))
		default:
			if a, ok := randomPlace(r, n, requestFor(r, n)); ok {
				n = n.With(cluster.NewPod(uid, "ns/"+uid, a))
			}
		}
	}
	if r.IntN(10) == 0 && len(devices) > 0 { // the report changes under the pods
		i := r.IntN(len(devices))
		devices = slices.Clone(devices)
		devices[i] = randomDevice(r, i)
		n = n.WithInventory(cluster.NewInventory(cluster.SourceSlices, devices))
	}
	return n
}

// randomPlace places every unit on the first GPU of a random order where it is legal.
func randomPlace(r *rand.Rand, n *cluster.Node, request gpu.Request) (gpu.Assignment, bool) {
	gpus := dumbGPUs(n)
	var a gpu.Assignment
	for _, c := range request.Containers {
		a.Containers = append(a.Containers, gpu.ContainerGrants{Container: c.Name, Init: c.Init})
		holds := &a.Containers[len(a.Containers)-1].Grants
		for _, ask := range c.Asks {
			for range ask.Count {
				var options []gpu.Grant
				for _, g := range gpus {
					switch ask.Kind {
					case gpu.Whole:
						options = append(options, gpu.Grant{GPU: g.ID})
					case gpu.Shared:
						options = append(options, gpu.Grant{GPU: g.ID, MilliGPU: ask.MilliGPU, MemoryMiB: ask.ShareMemoryMiB(g.MemoryMiB)})
					case gpu.MIG:
						for _, inst := range g.Instances {
							if inst.Profile == ask.Profile {
								options = append(options, gpu.Grant{GPU: g.ID, Instance: &inst})
							}
						}
					}
				}
				r.Shuffle(len(options), func(i, j int) { options[i], options[j] = options[j], options[i] })
				if !slices.ContainsFunc(options, func(g gpu.Grant) bool {
					*holds = append(*holds, g)
					if legal(n, gpus, request, a) == "" {
						return true
					}
					*holds = (*holds)[:len(*holds)-1]
					return false
				}) {
					return gpu.Assignment{}, false
				}
			}
		}
	}
	return a, request.SatisfiedBy(a)
}

func randomAsk(r *rand.Rand) gpu.Ask {
	switch r.IntN(5) {
	case 0, 1:
		a := gpu.Ask{Kind: gpu.Shared, Count: 1, MilliGPU: pick(r, shares)}
		if r.IntN(4) == 0 {
			a.Count = 1 + r.IntN(4)
		}
		if r.IntN(4) == 0 {
			a.MemoryMiB = pick(r, []int64{1, 20, 60, 110, 1000})
		}
		return a
	case 2:
		a := gpu.Ask{Kind: gpu.Whole, Count: 1 + r.IntN(3)}
		if r.IntN(4) == 0 {
			a.MemoryMiB = pick(r, []int64{60, 110, 1000})
		}
		return a
	}
	return gpu.Ask{Kind: gpu.MIG, Count: pick(r, []int{1, 1, 2, 3}), Profile: pick(r, allShapes)}
}

// randomRequest has up to three containers, init containers and sidecars among them. Most have one.
func randomRequest(r *rand.Rand) gpu.Request {
	for {
		var out gpu.Request
		containers := 1
		if r.IntN(2) == 0 {
			containers = 1 + r.IntN(3)
		}
		for i := range containers {
			c := gpu.ContainerRequest{Name: fmt.Sprintf("c%d", i), Init: r.IntN(4) == 0}
			for range pick(r, []int{1, 1, 1, 2}) {
				c.Asks = append(c.Asks, randomAsk(r))
			}
			out.Containers = append(out.Containers, c)
		}
		out.Products = slices.Clone(pick(r, [][]string{nil, nil, nil, nil, nil, nil, {"A"}, {"A"}, {"B"}, {"A", "B"}, {"C"}}))
		if out.Validate() == nil {
			return out
		}
	}
}

// requestFor is a random request that the node could have been bought for: mostly of its models, and of kinds that it has.
func requestFor(r *rand.Rand, n *cluster.Node) gpu.Request {
	out := randomRequest(r)
	if len(n.GPUs) == 0 || r.IntN(5) == 0 {
		return out
	}
	if !slices.ContainsFunc(n.Inventory.Devices, func(d gpu.Device) bool { return out.Accepts(d.Product) }) {
		out.Products = []string{pick(r, n.Inventory.Devices).Product}
	}
	var offered []string
	plain := 0
	for _, d := range n.Inventory.Devices {
		for _, i := range d.Instances {
			offered = append(offered, i.Profile)
		}
		if !d.MIG {
			plain++
		}
	}
	valid := gpu.Request{Products: out.Products}
	for _, c := range out.Containers {
		asks := c.Asks
		c.Asks = nil
		for _, a := range asks {
			switch {
			case a.Kind == gpu.MIG && len(offered) > 0:
				a.Profile = pick(r, offered)
			case a.Kind == gpu.MIG || plain == 0 && r.IntN(5) > 0:
				continue
			case plain > 0 && a.Count > plain && r.IntN(5) > 0:
				a.Count = 1 + r.IntN(plain)
			}
			c.Asks = append(c.Asks, a)
		}
		if len(c.Asks) > 0 {
			valid.Containers = append(valid.Containers, c)
		}
	}
	if valid.Empty() || valid.Validate() != nil {
		return requestFor(r, n)
	}
	return valid
}

// describe shows node and request of a failed test.
func describe(n *cluster.Node, r gpu.Request) string {
	var b strings.Builder
	for _, d := range n.Inventory.Devices {
		fmt.Fprintf(&b, "%s %s %d MiB", d.ID, d.Product, d.MemoryMiB)
		for what, is := range map[string]bool{"unhealthy": d.Unhealthy, "wholeOnly": d.WholeOnly, "sharedOnly": d.SharedOnly, "MIG": d.MIG} {
			if is {
				fmt.Fprintf(&b, " %s", what)
			}
		}
		fmt.Fprintf(&b, " %v", d.Instances)
		if d.Hardware != nil {
			fmt.Fprintf(&b, " NUMA %d %+v", d.Hardware.NUMANode, d.Hardware.Links)
		}
		b.WriteByte('\n')
	}
	for _, p := range n.Pods {
		fmt.Fprintf(&b, "%s holds %q, unplaced %v\n", p.UID, p.Assignment, p.Unplaced)
	}
	fmt.Fprintf(&b, "withheld %v\nrequest for %q", n.Withheld, r.Products)
	for _, c := range r.Containers {
		fmt.Fprintf(&b, "; %s init=%t %v", c.Name, c.Init, c.Asks)
	}
	return b.String()
}
