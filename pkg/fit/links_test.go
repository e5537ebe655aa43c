package fit

import (
	"cmp"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"slices"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"weft.sh/weft/pkg/cluster"
	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/nvlink"
)

// linked is plain GPUs with what is known of each.
func linked(n int, hardware func(i int) gpu.Hardware) []gpu.Device {
	var devices []gpu.Device
	for i := range n {
		d, h := plain(i), hardware(i)
		d.Hardware = &h
		devices = append(devices, d)
	}
	return devices
}

// hgx is eight GPUs on NVSwitches, of which those that are named have fewer links.
func hgx(fewer map[int]int) []gpu.Device {
	return linked(8, func(i int) gpu.Hardware {
		links, ok := fewer[i]
		if !ok {
			links = 18
		}
		return gpu.Hardware{NUMANode: i / 4, Links: gpu.Links{Switch: links}}
	})
}

// dgx1 is a DGX-1 with V100: two groups of four that are all linked, 0 to 3 and 4 to 7, and GPU i and i+4 are linked too. Two
// links are between 0 and 3, 0 and 4, 1 and 2, 1 and 5, 2 and 3, 4 and 7, 5 and 6, 6 and 7.
func dgx1() []gpu.Device {
	two := [][2]int{{0, 3}, {0, 4}, {1, 2}, {1, 5}, {2, 3}, {4, 7}, {5, 6}, {6, 7}}
	return linked(8, func(i int) gpu.Hardware {
		h := gpu.Hardware{NUMANode: i / 4}
		for j := range 8 {
			switch pair := [2]int{min(i, j), max(i, j)}; {
			case i == j || i/4 != j/4 && i%4 != j%4:
			case slices.Contains(two, pair):
				h.Links.Peers = append(h.Links.Peers, gpu.Peer{Index: j, Links: 2})
			default:
				h.Links.Peers = append(h.Links.Peers, gpu.Peer{Index: j, Links: 1})
			}
		}
		return h
	})
}

// bridges is eight GPUs of which two at a time are joined.
func bridges() []gpu.Device {
	return linked(8, func(i int) gpu.Hardware {
		return gpu.Hardware{NUMANode: i / 4, Links: gpu.Links{Peers: []gpu.Peer{{Index: i ^ 1, Links: 4}}}}
	})
}

// pcie is eight GPUs without NVLink on two sockets, whose numbers alternate.
func pcie() []gpu.Device {
	return linked(8, func(i int) gpu.Hardware { return gpu.Hardware{NUMANode: i % 2} })
}

// changed is the devices after f on each.
func changed(devices []gpu.Device, f func(i int, d *gpu.Device)) []gpu.Device {
	for i := range devices {
		f(i, &devices[i])
	}
	return devices
}

func TestAssignByLinks(t *testing.T) {
	containers := func(c ...gpu.ContainerRequest) gpu.Request { return gpu.Request{Containers: c} }
	named := func(name string, asks ...gpu.Ask) gpu.ContainerRequest {
		return gpu.ContainerRequest{Name: name, Asks: asks}
	}
	first := func(name string, asks ...gpu.Ask) gpu.ContainerRequest {
		return gpu.ContainerRequest{Name: name, Init: true, Asks: asks}
	}
	tests := map[string]struct {
		devices []gpu.Device
		held    string
		request gpu.Request
		want    string
	}{
		"HGX: the first":                              {hgx(nil), "", asking(whole(4)), "c=g0,g1,g2,g3"},
		"HGX: not the GPU whose link is down":         {hgx(map[int]int{1: 17}), "", asking(whole(4)), "c=g0,g2,g3,g4"},
		"HGX: a single GPU is that one":               {hgx(map[int]int{1: 17}), "", asking(whole(1)), "c=g1"},
		"HGX: and so is one to be shared":             {hgx(map[int]int{1: 17}), "", asking(share(250)), "c=g1:250m/25Mi"},
		"HGX: one that is shared already goes first":  {hgx(map[int]int{1: 17}), "x=g5:250m/25Mi", asking(share(250)), "c=g5:250m/25Mi"},
		"DGX-1: a pair that leaves a group of four":   {dgx1(), "x=g0,g3", asking(whole(2)), "c=g1,g2"},
		"DGX-1: four all linked":                      {dgx1(), "x=g1", asking(whole(4)), "c=g4,g5,g6,g7"},
		"DGX-1: one GPU where a group is broken":      {dgx1(), "x=g4", asking(whole(1)), "c=g7"},
		"DGX-1: a share, too":                         {dgx1(), "x=g4", asking(share(500)), "c=g7:500m/50Mi"},
		"DGX-1: a group is broken by a share as well": {dgx1(), "x=g1:100m/10Mi", asking(whole(2)), "c=g2,g3"},
		"DGX-1: a link that one side only reports": {changed(dgx1(), func(i int, d *gpu.Device) {
			if i == 0 {
				d.Hardware.Links.Peers = slices.DeleteFunc(d.Hardware.Links.Peers, func(p gpu.Peer) bool { return p.Index == 3 })
			}
		}), "", asking(whole(2)), "c=g2,g3"},
		"DGX-1: a GPU that is not healthy":                {changed(dgx1(), func(i int, d *gpu.Device) { d.Unhealthy = i == 3 }), "", asking(whole(2)), "c=g1,g2"},
		"DGX-1: GPUs in MIG mode":                         {changed(dgx1(), func(i int, d *gpu.Device) { d.MIG = i == 0 || i == 5 }), "", asking(whole(3)), "c=g1,g2,g3"},
		"DGX-1: GPUs that are given in shares only":       {changed(dgx1(), func(i int, d *gpu.Device) { d.SharedOnly = i < 2 }), "", asking(whole(2)), "c=g2,g3"},
		"DGX-1: GPUs of the model that is asked for":      {changed(dgx1(), func(i int, d *gpu.Device) { d.Product = string(rune('A' + i%2)) }), "", gpu.Request{Containers: asking(whole(2)).Containers, Products: []string{"B"}}, "c=g1,g5"},
		"bridges: a pair, not one of each":                {bridges(), "x=g0,g3", asking(whole(2)), "c=g4,g5"},
		"bridges: one whose pair is broken":               {bridges(), "x=g6", asking(whole(1)), "c=g7"},
		"bridges: three, so that two pairs are left":      {bridges(), "x=g2", asking(whole(3)), "c=g0,g1,g3"},
		"PCIe: two of one socket":                         {pcie(), "x=g0,g2,g4", asking(whole(2)), "c=g1,g3"},
		"PCIe: one of the socket that is broken":          {pcie(), "x=g1", asking(whole(1)), "c=g3"},
		"PCIe: four of one socket":                        {pcie(), "x=g0", asking(whole(4)), "c=g1,g3,g5,g7"},
		"nothing is known":                                {changed(pcie(), func(_ int, d *gpu.Device) { d.Hardware = nil }), "x=g0,g2", asking(whole(2)), "c=g1,g3"},
		"two containers: one set, parted by links":        {dgx1(), "", containers(named("a", whole(2)), named("b", whole(2))), "a=g0,g3;b=g1,g2"},
		"two containers: the larger has the better part":  {bridges(), "x=g4,g5,g6,g7", containers(named("a", whole(1)), named("b", whole(2))), "a=g2;b=g0,g1"},
		"two containers: of two pairs each has one":       {bridges(), "x=g0,g3,g4,g5", containers(named("a", whole(2)), named("b", whole(1))), "a=g6,g7;b=g1"},
		"an init container uses what the pod will hold":   {dgx1(), "x=g0,g1", containers(first("i", whole(2)), named("a", whole(3))), "~i=g4,g6;a=g4,g6,g7"},
		"an init container that needs more":               {bridges(), "x=g0,g1", containers(first("i", whole(3)), named("a", whole(2))), "~i=g2,g3,g4;a=g2,g3"},
		"a share beside whole GPUs breaks no pair":        {bridges(), "x=g0,g1,g2", containers(named("a", whole(2)), named("b", share(500))), "a=g4,g5;b=g3:500m/50Mi"},
		"a sidecar's GPU is of the set":                   {dgx1(), "x=g1,g2", containers(named("s", whole(1)), named("a", whole(1))), "s=g0;a=g3"},
		"several models: each as many as were to be used": {changed(bridges(), func(i int, d *gpu.Device) { d.MemoryMiB = []int64{100, 200}[i/4] }), "x=g0,g5", asking(gpu.Ask{Kind: gpu.Whole, Count: 2, MemoryMiB: 150}), "c=g6,g7"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			n := holding(t, tc.held, tc.devices...)
			for _, s := range []Strategy{nil, Fragmentation{Mix: NewMix(map[Class]int64{wholeClass(1): 1})}, BestFit{}} {
				a, err := Assign(n, tc.request, CPU{}, s)
				if err != nil {
					t.Fatal(err)
				}
				if diff := gocmp.Diff(tc.want, a.String()); diff != "" {
					t.Errorf("%T: -want +got\n%s", s, diff)
				}
				checkPlacement(t, n, tc.request, a)
			}
		})
	}
}

// A node on which the GPUs would be linked worse than they could be ranks below others: below all where there is NVLink that
// they would miss, and else below those that the strategy rates the same.
func TestScoreByLinks(t *testing.T) {
	// Both strategies: of what is left most, or least.
	for name, tc := range map[string]struct {
		better, worse []gpu.Device
		// What is held on each: it makes the strategy prefer the worse one.
		heldBetter, heldWorse string
		request               gpu.Request
		strategy              Strategy
	}{
		"NVLink goes before packing":                       {dgx1(), dgx1(), "", "x=g1,g2,g3,g4,g5,g7", asking(whole(2)), BestFit{}},
		"and before room":                                  {dgx1(), dgx1(), "x=g1,g2,g3,g5,g6,g7", "x=g0,g5,g6,g7", asking(whole(2)), BestFit{}},
		"a GPU off the switches goes last":                 {hgx(nil), hgx(map[int]int{3: 0}), "", "", asking(whole(8)), BestFit{}},
		"two links before one, of equal rating":            {dgx1(), dgx1(), "x=g0,g1,g2,g3,g5,g6", "x=g0,g1,g2,g3,g5,g7", asking(whole(2)), BestFit{}},
		"a link that is down, of equal rating":             {hgx(nil), hgx(map[int]int{3: 17}), "", "x=g0", asking(whole(7)), Fragmentation{}},
		"a socket, of equal rating":                        {pcie(), pcie(), "", "x=g0,g1,g2,g3,g4,g5", asking(whole(2)), Fragmentation{}},
		"several containers":                               {bridges(), bridges(), "", "x=g0,g3,g4,g7", gpu.Request{Containers: []gpu.ContainerRequest{{Name: "a", Asks: []gpu.Ask{whole(1)}}, {Name: "b", Asks: []gpu.Ask{whole(1)}}}}, Fragmentation{}},
		"several containers, where NVLink would be missed": {bridges(), bridges(), "", "x=g0,g3,g4,g7", gpu.Request{Containers: []gpu.ContainerRequest{{Name: "a", Asks: []gpu.Ask{whole(1)}}, {Name: "b", Asks: []gpu.Ask{whole(1)}}}}, BestFit{}},
		"an init container that needs more hides nothing":  {bridges(), bridges(), "", "x=g0,g3,g5,g7", gpu.Request{Containers: []gpu.ContainerRequest{{Name: "i", Init: true, Asks: []gpu.Ask{whole(3)}}, {Name: "c", Asks: []gpu.Ask{whole(2)}}}}, BestFit{}},
	} {
		t.Run(name, func(t *testing.T) {
			better, worse := holding(t, tc.heldBetter, tc.better...), holding(t, tc.heldWorse, tc.worse...)
			b, w := Score(better, tc.request, CPU{}, tc.strategy), Score(worse, tc.request, CPU{}, tc.strategy)
			if b <= w || w <= 0 {
				t.Errorf("%d is not above %d", b, w)
			}
		})
	}
	// What a node cannot have, it does not miss.
	for name, tc := range map[string]struct {
		devices []gpu.Device
		held    string
		request gpu.Request
	}{
		"more than a group of a DGX-1":       {dgx1(), "x=g0", asking(whole(7))},
		"three GPUs, bridged by two":         {bridges(), "x=g5,g6", asking(whole(3))},
		"one GPU":                            {dgx1(), "x=g0", asking(whole(1))},
		"shares":                             {dgx1(), "x=g0", asking(gpu.Ask{Kind: gpu.Shared, Count: 3, MilliGPU: 300})},
		"all the same":                       {hgx(nil), "x=g0,g1,g4", asking(whole(2))},
		"nothing known":                      {changed(bridges(), func(_ int, d *gpu.Device) { d.Hardware = nil }), "x=g1,g2", asking(whole(5))},
		"a pair whose GPU is not healthy":    {changed(bridges(), func(i int, d *gpu.Device) { d.Unhealthy = i%2 == 0 }), "", asking(whole(2))},
		"of the model that is asked for":     {changed(bridges(), func(i int, d *gpu.Device) { d.Product = string(rune('A' + i%2)) }), "", gpu.Request{Containers: asking(whole(2)).Containers, Products: []string{"B"}}},
		"an init container that needs more":  {bridges(), "", gpu.Request{Containers: []gpu.ContainerRequest{{Name: "i", Init: true, Asks: []gpu.Ask{whole(3)}}, {Name: "c", Asks: []gpu.Ask{whole(2)}}}}},
		"of the memory that is asked for":    {changed(bridges(), func(i int, d *gpu.Device) { d.MemoryMiB += int64(i % 2) }), "", asking(gpu.Ask{Kind: gpu.Whole, Count: 2, MemoryMiB: 101})},
		"links of GPUs that are not of it":   {changed(hgx(map[int]int{0: 0, 1: 0}), func(i int, d *gpu.Device) { d.Product = string(rune('A' + min(1, i/2))) }), "", gpu.Request{Containers: asking(whole(2)).Containers, Products: []string{"A"}}},
		"a whole GPU and a share of another": {bridges(), "x=g1,g3,g5,g7", gpu.Request{Containers: []gpu.ContainerRequest{{Name: "a", Asks: []gpu.Ask{whole(1)}}, {Name: "b", Asks: []gpu.Ask{share(300)}}}}},
	} {
		t.Run(name, func(t *testing.T) {
			n := holding(t, tc.held, tc.devices...)
			score := Score(n, tc.request, CPU{}, BestFit{}) >> leftBits
			if lost := score/4 <= MaxRating || score&2 == 0; lost {
				t.Errorf("the score is %d: something is lost", score)
			}
		})
	}
}

// wire makes the GPUs linked in some way, perhaps not all of them.
func wire(r *rand.Rand, devices []gpu.Device) {
	some, perSocket := 1+r.IntN(8), 1+r.IntN(4)
	switched := r.IntN(3) == 0
	for i := range devices {
		devices[i].Hardware = &gpu.Hardware{NUMANode: i/perSocket - 1}
		if switched {
			devices[i].Hardware.Links.Switch = pick(r, []int{18, 18, 18, 17, 0})
		}
	}
	for i := range devices {
		for j := range i {
			if !switched && r.IntN(8) < some {
				links := 1 + r.IntN(3)
				for _, pair := range [][2]int{{i, j}, {j, i}} {
					l := &devices[pair[0]].Hardware.Links
					l.Peers = append(l.Peers, gpu.Peer{Index: pair[1], Links: max(1, links-r.IntN(8)/7)})
				}
			}
		}
	}
	if len(devices) > 0 && r.IntN(10) == 0 {
		pick(r, devices).Hardware.Links = gpu.Links{}
	}
}

// renumbered is the hardware where the driver calls GPU i of the node 2i+1.
func renumbered(h *gpu.Hardware) *gpu.Hardware {
	if h == nil {
		return nil
	}
	out := *h
	out.Links.Peers = slices.Clone(h.Links.Peers)
	for i := range out.Links.Peers {
		out.Links.Peers[i].Index = 2*out.Links.Peers[i].Index + 1
	}
	return &out
}

// dumbWorst is the worst link of the set of GPUs, read off the devices; see the package nvlink.
func dumbWorst(n *cluster.Node, set uint) int {
	worst := int(nvlink.Unbounded)
	for i, a := range n.Inventory.Devices {
		for j, b := range n.Inventory.Devices[:i] {
			if set>>i&1 == 0 || set>>j&1 == 0 {
				continue
			}
			link := 1
			if x, y := a.Hardware, b.Hardware; x != nil && y != nil {
				links := min(x.Links.Switch, y.Links.Switch)
				for _, p := range x.Links.Peers {
					for _, q := range y.Links.Peers {
						if p.Index == b.Index && q.Index == a.Index {
							links += min(p.Links, q.Links)
						}
					}
				}
				if x.NUMANode >= 0 && x.NUMANode == y.NUMANode {
					link = 2
				}
				link = max(link, 4*links)
			}
			worst = min(worst, link)
		}
	}
	return worst
}

// heldTogether are the GPUs that the running containers hold whole.
func heldTogether(n *cluster.Node, a gpu.Assignment) (set uint) {
	for _, c := range a.Containers {
		for _, g := range c.Grants {
			if g.Kind() == gpu.Whole && !c.Init {
				set |= 1 << slices.IndexFunc(n.GPUs, func(d cluster.GPU) bool { return d.ID == g.GPU })
			}
		}
	}
	return set
}

// dumbLoss says whether the GPUs of the assignment miss NVLinks that others of the node have, and whether others have a
// better worst link at all.
func dumbLoss(n *cluster.Node, r gpu.Request, a gpu.Assignment) (missing, worse bool) {
	held := heldTogether(n, a)
	count := bits.OnesCount(held)
	if count < 2 {
		return false, false
	}
	floor := gpu.MaxMemoryMiB
	for _, c := range r.Containers {
		for _, ask := range c.Asks {
			if ask.Kind == gpu.Whole && !c.Init {
				floor = min(floor, ask.MemoryMiB)
			}
		}
	}
	var could uint
	for i, d := range n.Inventory.Devices {
		if !d.Unhealthy && !d.MIG && !d.SharedOnly && r.Accepts(d.Product) && d.MemoryMiB >= floor {
			could |= 1 << i
		}
	}
	ideal, alike := 0, true
	for set := range uint(1) << len(n.GPUs) {
		if set&^could == 0 && bits.OnesCount(set) == count {
			ideal = max(ideal, dumbWorst(n, set))
		}
		if bits.OnesCount(set) == 2 {
			alike = alike && dumbWorst(n, set) == dumbWorst(n, 3)
			// What goes over switches is meant to reach all of them.
			i, j := bits.TrailingZeros(set), bits.Len(set)-1
			if x, y := n.Inventory.Devices[i].Hardware, n.Inventory.Devices[j].Hardware; x != nil && y != nil && could>>i&1|could>>j&1 == 1 {
				ideal = max(ideal, 4*min(x.Links.Switch, y.Links.Switch))
			}
		}
	}
	have := dumbWorst(n, held)
	if alike || have >= ideal {
		return false, false
	}
	return ideal >= 4 && have < 4, true
}

// checkLinks sees to it that no other GPUs in the same states would be better linked.
func checkLinks(t *testing.T, n *cluster.Node, r gpu.Request, a gpu.Assignment) {
	t.Helper()
	held := heldTogether(n, a)
	if held == 0 {
		return
	}
	view := NewView(n, 0)
	states := func(set uint) map[string]int {
		out := map[string]int{}
		for i := range n.GPUs {
			if set>>i&1 == 1 {
				out[fmt.Sprint(view.GPUs[i], n.GPUs[i].Idle)]++
			}
		}
		return out
	}
	want := states(held)
	best := dumbWorst(n, held)
	for set := range uint(1) << len(n.GPUs) {
		if bits.OnesCount(set) == bits.OnesCount(held) && dumbWorst(n, set) > best && gocmp.Equal(states(set), want) {
			t.Errorf("%q has a worst link of %d, the set %b would have %d\n%s", a, best, set, dumbWorst(n, set), describe(n, r))
			return
		}
	}
}

// On nodes of 8 and 16 GPUs, some of them in use, a pod gets the GPUs with the best worst link that are free, always.
func TestTheGPUsOfAPodAreTheBestLinked(t *testing.T) {
	for _, size := range []int{8, 16} {
		counted := map[string]int{}
		rounds(t, 12800/(size*size), func(t *testing.T, r *rand.Rand) {
			devices := make([]gpu.Device, size)
			for i := range devices {
				devices[i] = plain(i)
				devices[i].Unhealthy = r.IntN(20) == 0
			}
			wire(r, devices)
			n := cluster.NewNode("n", cluster.NewInventory(cluster.SourceSlices, devices), nil)
			for k := 0; ; k++ {
				request := asking(whole(1 + r.IntN(1+r.IntN(size))))
				if r.IntN(4) == 0 {
					request = asking(share(300))
				} else if r.IntN(3) == 0 {
					request.Containers = append(request.Containers, gpu.ContainerRequest{Name: "d", Asks: []gpu.Ask{whole(1 + r.IntN(3))}})
				}
				a, err := Assign(n, request, CPU{}, Fragmentation{})
				if err != nil {
					counted["full"]++
					return
				}
				counted["placed"]++
				checkPlacement(t, n, request, a)
				checkLinks(t, n, request, a)
				checkScore(t, n, request, CPU{}, Fragmentation{}, a)
				checkParts(t, n, request, a)
				n = n.With(cluster.NewPod(fmt.Sprint(k), "ns/p", a))
			}
		})
		t.Log(size, counted)
	}
}

// On nodes of more GPUs than the choice is exact for the score is that of the choice all the same.
func TestScoreOfManyGPUsIsThatOfWhatIsAssigned(t *testing.T) {
	lost := map[linkLoss]int{}
	rounds(t, 60, func(t *testing.T, r *rand.Rand) {
		devices := make([]gpu.Device, 17+r.IntN(20))
		for i := range devices {
			devices[i] = plain(i)
			devices[i].ID = gpu.ID(fmt.Sprint("g", i))
		}
		wire(r, devices)
		n := cluster.NewNode("n", cluster.NewInventory(cluster.SourceSlices, devices), nil)
		for k := range 4 {
			request := asking(whole(1 + r.IntN(6)))
			a, err := Assign(n, request, CPU{}, BestFit{})
			if err != nil {
				return // it is full
			}
			loss := lossOfAssignment(n, request, a)
			lost[loss]++
			score := Score(n, request, CPU{}, BestFit{}) >> leftBits
			if (score/4 <= MaxRating) != (loss == noNVLink) || (score&2 == 0) != (loss > noLoss) {
				t.Errorf("%q loses %d, the score is %d\n%s", a, loss, score, describe(n, request))
			}
			n = n.With(cluster.NewPod(fmt.Sprint(k), "ns/p", a))
		}
	})
	t.Log(lost)
}

// A cluster of DGX-1 on which pods come and go, twice: once the nodes say how their GPUs are linked, once they do not. Pods
// must be linked far better where it is known, and hardly fewer GPUs may be given out for it.
func TestLinksCostLittleRoom(t *testing.T) {
	type result struct {
		asked, given int // GPUs
		// pods of two and four GPUs, and those of them that miss NVLinks.
		groups, missing int
	}
	run := func(known bool) (res result) {
		const nodes, pods = 24, 2500
		r := rand.New(rand.NewPCG(20, 26))
		links := nvlink.New(dgx1())
		names, now := make([]string, nodes), make([]*cluster.Node, nodes)
		for i := range now {
			devices := changed(dgx1(), func(_ int, d *gpu.Device) {
				if !known {
					d.Hardware = nil
				}
			})
			names[i] = fmt.Sprint("node-", i)
			now[i] = cluster.NewNode(names[i], cluster.NewInventory(cluster.SourceSlices, devices), nil)
		}
		ends := map[int][]int{} // at that time, a pod of those nodes
		recent, memo := NewRecent(256), NewMemo(Fragmentation{})
		for at := range pods {
			for _, i := range ends[at] {
				for _, p := range now[i].Pods {
					if p.Name == fmt.Sprint(at) {
						now[i] = now[i].Without(p.UID)
					}
				}
			}
			count := pick(r, []int{1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 4, 4, 4, 4, 8, 8, 8}) // 2.75 in the mean
			end := at + 1 + int(r.ExpFloat64()*nodes*8/2.75)
			request := asking(whole(count))
			res.asked += count
			if recent.Observe(ClassOf(request, 0)) {
				memo = NewMemo(Fragmentation{Mix: recent.Mix()})
			}
			shape := memo.For(request)
			var fitting []int
			var of []string
			var scores []int64
			for i, n := range now {
				if shape.Check(n) == Fits {
					fitting, of, scores = append(fitting, i), append(of, names[i]), append(scores, shape.Score(n, CPU{}))
				}
			}
			if len(fitting) == 0 {
				continue
			}
			i := fitting[slices.Index(Rank(of, scores), ownRanks)]
			a, err := Assign(now[i], request, CPU{}, memo.strategy)
			if err != nil {
				t.Fatal(err)
			}
			res.given += count
			if set := nvlink.Set(heldTogether(now[i], a)); count == 2 || count == 4 {
				res.groups++
				if !links.Worst(set).NVLink() {
					res.missing++
				}
			}
			now[i] = now[i].With(cluster.NewPod(fmt.Sprint("pod-", at), fmt.Sprint(end), a))
			ends[end] = append(ends[end], i)
		}
		return res
	}
	blind, known := run(false), run(true)
	t.Logf("unknown %+v, known %+v", blind, known)
	if known.missing*5 > blind.missing {
		t.Errorf("%d of %d groups miss NVLinks; where links are not known, %d of %d", known.missing, known.groups, blind.missing, blind.groups)
	}
	if known.given*100 < blind.given*99 {
		t.Errorf("%d of %d GPUs are given; where links are not known, %d", known.given, known.asked, blind.given)
	}
}

// checkParts sees to it that of the pod's GPUs the container with most has those that are best linked.
func checkParts(t *testing.T, n *cluster.Node, r gpu.Request, a gpu.Assignment) {
	t.Helper()
	held := heldTogether(n, a)
	largest := slices.MaxFunc(a.Containers, func(x, y gpu.ContainerGrants) int { return cmp.Compare(len(x.Grants), len(y.Grants)) })
	part := heldTogether(n, gpu.Assignment{Containers: []gpu.ContainerGrants{largest}})
	for set := held; set > 0; set = (set - 1) & held {
		if bits.OnesCount(set) == bits.OnesCount(part) && dumbWorst(n, set) > dumbWorst(n, part) {
			t.Errorf("%q: container %s could have %b of %b\n%s", a, largest.Container, set, held, describe(n, r))
			return
		}
	}
}
