package cluster

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/mig"
)

var profiles = []string{"1g.6gb", "1g.6gb+me", "2g.12gb", "2g.12gb+me", "4g.24gb", "1g.10gb", "3g.40gb"}

func showState(s mig.State) string {
	var out strings.Builder
	fmt.Fprintf(&out, "%b", s.Used())
	for _, p := range profiles {
		fmt.Fprintf(&out, " %d/%d", mig.FreePlacements(s, p), mig.Usable(s, p))
	}
	return out.String()
}

// inventories are the states that the reports of the node of these tests go through: GPUs vanish, turn sick, are smaller
// than before, change between the modes, and are offered in another geometry.
func inventories() []Inventory {
	sick, small, fixed := plain(0, 100), plain(1, 40), partitioned(3)
	sick.Unhealthy = true
	fixed.Instances = []gpu.Instance{{Profile: "1g.6gb", Start: 0, Size: 1}, {Profile: "2g.12gb", Start: 2, Size: 2}}
	noMIG, nowMIG := plain(3, 24576), partitioned(0)
	full := []gpu.Device{plain(0, 100), plain(1, 80), partitioned(2), partitioned(3)}
	return []Inventory{
		NewInventory(SourceSlices, full),
		NewInventory(SourceSlices, full[1:3]),
		NewInventory(SourceSlices, []gpu.Device{sick, small, full[2], fixed}),
		NewInventory(SourceSlices, []gpu.Device{nowMIG, full[1], noMIG}),
		NewInventory(SourceSlices, full[:1], "pool: incomplete"),
		{},
		NewInventory(SourceLabels, full[:2]),
		NewInventory(SourceSlices, []gpu.Device{sharedOnly(0), wholeOnly(1), full[2], sharedOnly(4)}),
		NewInventory(SourceSlices, []gpu.Device{sharedOnly(0), full[1], wholeOnly(4)}),
	}
}

// randomAssignment is some valid assignment, fitting or not.
func randomAssignment(r *rand.Rand) gpu.Assignment {
	for {
		var a gpu.Assignment
		for i := range 1 + r.IntN(3) {
			c := gpu.ContainerGrants{Container: fmt.Sprintf("c%d", i), Init: r.IntN(4) == 0}
			for range 1 + r.IntN(2) {
				g := gpu.Grant{GPU: gpu.ID(fmt.Sprintf("g%d", r.IntN(5)))}
				switch r.IntN(4) {
				case 0:
				case 1:
					size := 1 << r.IntN(2)
					g.Instance = &gpu.Instance{Profile: fmt.Sprintf("%dg.%dgb", size, 6*size), Start: size * r.IntN(4/size), Size: size}
				default:
					g.MilliGPU, g.MemoryMiB = int64(100*(1+r.IntN(10))), int64(1+r.IntN(60))
				}
				c.Grants = append(c.Grants, g)
			}
			a.Containers = append(a.Containers, c)
		}
		if a.Validate() == nil {
			return a
		}
	}
}

func randomPod(r *rand.Rand) Pod {
	uid := fmt.Sprintf("pod-%d", r.IntN(8))
	if r.IntN(6) == 0 {
		ask := gpu.Ask{Kind: gpu.Whole, Count: 1 + r.IntN(3)}
		if r.IntN(2) == 0 {
			ask = gpu.Ask{Kind: gpu.MIG, Count: 1 + r.IntN(2), Profile: profiles[r.IntN(len(profiles))]}
		}
		return NewUnplacedPod(uid, "ns/"+uid, gpu.Request{Containers: []gpu.ContainerRequest{{Name: "c", Asks: []gpu.Ask{ask}}}})
	}
	return NewPod(uid, "ns/"+uid, randomAssignment(r))
}

func TestANodeIsWhatItsInventoryAndPodsSayWhateverCameBefore(t *testing.T) {
	for seed := range uint64(12) {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 1))
			invs := inventories()
			inv := invs[0]
			pods := map[string]Pod{}
			n := NewNode("n", inv, nil)
			type kept struct {
				node *Node
				text string
			}
			var past []kept
			for step := range 100 {
				switch r.IntN(5) {
				case 0, 1:
					p := randomPod(r)
					pods[p.UID] = p
					n = n.With(p)
				case 2:
					uid := fmt.Sprintf("pod-%d", r.IntN(8))
					before := n
					n = n.Without(uid)
					if _, there := pods[uid]; there == (n == before) {
						t.Fatalf("step %d: without %s, which is there: %t; the node stays the same one: %t", step, uid, there, n == before)
					}
					delete(pods, uid)
				case 3:
					inv = invs[r.IntN(len(invs))]
					n = n.WithInventory(inv)
				case 4:
					uid := fmt.Sprintf("pod-%d", r.IntN(8))
					if p, ok := n.Pod(uid); ok != pods[uid].Equal(p) && (ok || pods[uid].UID != "") {
						t.Fatalf("step %d: finds %s: %v, %t", step, uid, p, ok)
					}
				}
				list := slices.Collect(maps.Values(pods)) // in random order
				if want, got := show(NewNode("n", inv, list)), show(n); got != want {
					t.Fatalf("step %d: not what it is computed from scratch (-want +got)\n%s", step, cmp.Diff(want, got))
				}
				if diff := dumbCheck(n); diff != "" {
					t.Fatalf("step %d: %s", step, diff)
				}
				if step%10 == 0 {
					past = append(past, kept{n, show(n)})
				}
			}
			for _, p := range past {
				if diff := cmp.Diff(p.text, show(p.node)); diff != "" {
					t.Fatalf("a node changed after it was made (-want +got)\n%s", diff)
				}
			}
		})
	}
}

// show has all that a node says.
func show(n *Node) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %v %x %d %d %t %v %v %q\n", n.Name, n.Withheld, n.Signature, n.IdleGPUs, n.IdleShared, n.HasMIG, n.Inventory.Source, n.Inventory.Devices, n.Inventory.Problems)
	for _, p := range n.Pods {
		fmt.Fprintf(&b, "%s %s %s %v %v\n", p.UID, p.Name, p.Assignment, p.Unplaced, p.Uses())
	}
	for i := range n.GPUs {
		g := &n.GPUs[i]
		fmt.Fprintf(&b, "%v %t %d %d %s %d %v\n", g.Device, g.Idle, g.FreeMilliGPU, g.FreeMemoryMiB, showState(g.Partition), g.Slices, g.Used)
	}
	return b.String() + strings.Join(n.Conflicts(), "\n")
}

// dumbCheck computes what is left, what is assigned and which GPUs conflict straight from the assignments.
func dumbCheck(n *Node) string {
	conflicts, idle, idleShared := 0, 0, 0
	for i := range n.GPUs {
		g := &n.GPUs[i]
		var milli, mib int64
		holders, wholes, overlap := 0, 0, false
		var taken []gpu.Instance // with those of the pods before
		for _, p := range n.Pods {
			most := peak(p.Assignment, g.ID)
			if most.grants == 0 {
				continue
			}
			holders++
			if most.whole {
				wholes++
			} else {
				milli, mib = milli+most.milli, mib+most.mib
			}
			for _, a := range most.instances {
				overlap = overlap || slices.ContainsFunc(taken, a.Overlaps)
			}
			taken = append(taken, most.instances...)
		}
		if g.Idle != (holders == 0) {
			return fmt.Sprintf("%s is idle: %t, with %d holders", g.ID, g.Idle, holders)
		}
		switch {
		case holders > 0 || g.Unhealthy || g.MIG:
		case g.SharedOnly:
			idleShared++
		default:
			idle++
		}
		if whole := holders == 0 && !g.Unhealthy && !g.MIG && !g.SharedOnly; g.Available() != whole {
			return fmt.Sprintf("%s can be given whole: %t", g.ID, g.Available())
		}
		wantMilli, wantMiB := max(0, 1000-milli), max(0, g.MemoryMiB-mib)
		if g.MIG || g.Unhealthy || wholes > 0 || len(taken) > 0 {
			wantMilli, wantMiB = 0, 0
		}
		if g.FreeMilliGPU != wantMilli || g.FreeMemoryMiB != wantMiB {
			return fmt.Sprintf("%s has %d and %d MiB left, want %d and %d", g.ID, g.FreeMilliGPU, g.FreeMemoryMiB, wantMilli, wantMiB)
		}
		for _, inst := range g.Instances {
			free := wholes == 0 && milli == 0 && !slices.ContainsFunc(taken, inst.Overlaps)
			if got := g.Partition.CanGive(inst); got != free && !strings.Contains(inst.Profile, "+me") {
				return fmt.Sprintf("%s can give %s: %t", g.ID, inst, got)
			}
		}
		if wholes > 0 && holders > 1 || milli > 1000 || mib > g.MemoryMiB || overlap || len(taken) > 0 && (milli > 0 || !g.MIG) ||
			g.MIG && (milli > 0 || wholes > 0) || g.SharedOnly && wholes > 0 || g.WholeOnly && milli > 0 {
			conflicts++
		}
		if g.MIG {
			continue
		}
		if got, want := n.AssignedMilliGPU(i), milli+1000*int64(wholes); got != want {
			return fmt.Sprintf("%s has %d assigned, want %d", g.ID, got, want)
		}
		if got, want := n.AssignedMemoryMiB(i), mib+g.MemoryMiB*int64(wholes); got != want {
			return fmt.Sprintf("%s has %d MiB assigned, want %d", g.ID, got, want)
		}
	}
	if n.IdleGPUs != idle || n.IdleShared != idleShared {
		return fmt.Sprintf("%d and %d idle, want %d and %d", n.IdleGPUs, n.IdleShared, idle, idleShared)
	}
	if got := n.Conflicts(); len(got) != conflicts {
		return fmt.Sprintf("%d conflicts, want %d: %q", len(got), conflicts, got)
	}
	return ""
}

type most struct {
	grants     int
	whole      bool
	milli, mib int64
	instances  []gpu.Instance
}

// peak is the most that the assignment holds of a GPU at any time: it looks at the moment of every init container, with
// the sidecars before it, and at the end.
func peak(a gpu.Assignment, id gpu.ID) most {
	var out most
	look := func(running []gpu.ContainerGrants) {
		var milli, mib int64
		for _, c := range running {
			for _, g := range c.Grants {
				if g.GPU != id {
					continue
				}
				out.grants++
				milli, mib = milli+g.MilliGPU, mib+g.MemoryMiB
				out.whole = out.whole || g.Kind() == gpu.Whole
				if g.Instance != nil {
					out.instances = append(out.instances, *g.Instance)
				}
			}
		}
		out.milli, out.mib = max(out.milli, milli), max(out.mib, mib)
	}
	var running []gpu.ContainerGrants
	for _, c := range a.Containers {
		if c.Init {
			look(append(slices.Clone(running), c))
		} else {
			running = append(running, c)
		}
	}
	look(running)
	return out
}

// Two nodes of equal signature must be the same to every decision, so nodes that differ in what is left must not have one.
func TestSignatureTellsNodesApart(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 7))
	invs := inventories()
	left := func(n *Node) string {
		var b strings.Builder
		fmt.Fprintf(&b, "%v %t\n", n.Withheld, n.Used())
		for i := range n.GPUs {
			g := n.GPUs[i]
			g.ID, g.Index = "", 0
			fmt.Fprintf(&b, "%v %t %d %d %s %d\n", g.Device, g.Idle, g.FreeMilliGPU, g.FreeMemoryMiB, showState(g.Partition), g.Slices)
		}
		return b.String()
	}
	seen := map[Signature]string{}
	same := 0
	for range 4000 {
		n := NewNode(fmt.Sprint(r.IntN(3)), invs[r.IntN(len(invs))], nil)
		for range r.IntN(3) {
			n = n.With(randomPod(r))
		}
		text := left(n)
		if other, ok := seen[n.Signature]; ok {
			same++
			if other != text {
				t.Fatalf("one signature for\n%s\nand\n%s", other, text)
			}
		}
		seen[n.Signature] = text
	}
	if same == 0 || len(seen) < 100 {
		t.Errorf("%d signatures, %d times one of before: the test compares nothing", len(seen), same)
	}
}

func TestSignatureDoesNotDependOnNamesIDsAndHardware(t *testing.T) {
	other := plain(0, 100)
	other.ID, other.Index = "elsewhere", 5
	other.Isolation, other.Hardware = gpu.IsolationMPS, &gpu.Hardware{NUMANode: 1, Clique: "a.1", Links: gpu.Links{Switch: 18}}
	other.UnhealthyReason = "it was"
	a := NewNode("a", inventory(plain(0, 100)), []Pod{holds(t, "x", "c=g0:100m/10Mi")})
	b := NewNode("b", inventory(other), []Pod{holds(t, "y", "d=elsewhere:50m/5Mi"), holds(t, "z", "e=elsewhere:50m/5Mi")})
	if a.Signature != b.Signature {
		t.Errorf("%x and %x", a.Signature, b.Signature)
	}
	if a, b := NewNode("a", Inventory{}, nil), NewNode("b", NewInventory(SourceLabels, nil, "p"), nil); a.Signature != b.Signature {
		t.Errorf("without GPUs: %x and %x", a.Signature, b.Signature)
	}
}

// Links tell nodes apart where they tell GPUs apart: which GPU is linked to which, and not by what number the driver calls it.
func TestSignatureDependsOnLinksThatDiffer(t *testing.T) {
	node := func(times int, hardware func(i int) *gpu.Hardware) *Node {
		var devices []gpu.Device
		for i := range 4 {
			d := plain(i, 100)
			d.Index, d.Hardware = times*i, hardware(times*i)
			devices = append(devices, d)
		}
		return NewNode("n", inventory(devices...), nil)
	}
	switches := func(links int) func(int) *gpu.Hardware {
		return func(int) *gpu.Hardware { return &gpu.Hardware{Links: gpu.Links{Switch: links}} }
	}
	peer := func(times, other, links int) func(int) *gpu.Hardware {
		return func(i int) *gpu.Hardware {
			return &gpu.Hardware{NUMANode: -1, Links: gpu.Links{Peers: []gpu.Peer{{Index: times * (i/times ^ other), Links: links}}}}
		}
	}
	numa := func(of ...int) func(int) *gpu.Hardware {
		return func(i int) *gpu.Hardware { return &gpu.Hardware{NUMANode: of[i]} }
	}
	seen := map[Signature]int{}
	for i, alike := range [][]*Node{
		{node(1, func(int) *gpu.Hardware { return nil }), node(1, switches(18)), node(2, switches(4)), node(1, numa(1, 1, 1, 1)), node(1, numa(0, 1, 2, 3))},
		{node(1, peer(1, 1, 4)), node(3, peer(3, 1, 4))},
		{node(1, peer(1, 1, 2))},
		{node(1, peer(1, 2, 4)), node(5, peer(5, 2, 4))},
		{node(1, numa(0, 0, 1, 1)), node(1, numa(1, 1, 0, 0))},
		{node(1, numa(0, 1, 0, 1))},
	} {
		for _, n := range alike {
			if other, ok := seen[n.Signature]; ok && other != i {
				t.Errorf("one signature for nodes of kind %d and %d", i, other)
			}
			seen[n.Signature] = i
		}
		if len(seen) != i+1 {
			t.Errorf("%d signatures of %d kinds of nodes", len(seen), i+1)
		}
	}
}

func TestSignatureDependsOnHowGPUsAreGivenOut(t *testing.T) {
	foreign := func(kind gpu.Kind) Pod {
		return wants("x", gpu.ContainerRequest{Name: "c", Asks: []gpu.Ask{{Kind: kind, Count: 1, MilliGPU: 250}}})
	}
	fractions := inventory(wholeOnly(0), sharedOnly(1))
	seen := map[Signature]string{}
	for name, n := range map[string]*Node{
		"both ways":                NewNode("n", inventory(plain(0, 100), plain(1, 100)), nil),
		"whole only":               NewNode("n", inventory(wholeOnly(0), wholeOnly(1)), nil),
		"shared only":              NewNode("n", inventory(sharedOnly(0), sharedOnly(1)), nil),
		"one so, one so":           NewNode("n", fractions, nil),
		"and withheld of the one":  NewNode("n", fractions, []Pod{foreign(gpu.Whole)}),
		"or withheld of the other": NewNode("n", fractions, []Pod{foreign(gpu.Shared)}),
	} {
		if other, ok := seen[n.Signature]; ok {
			t.Errorf("one signature for %q and %q", name, other)
		}
		seen[n.Signature] = name
	}
}

func TestAGPUThatComesBackIsInUseAgain(t *testing.T) {
	full := inventory(plain(0, 100), plain(1, 100))
	n := NewNode("n", full, []Pod{holds(t, "a", "c=g0:250m/25Mi,g1")})
	before := show(n)
	n = n.WithInventory(inventory(plain(1, 100)))
	if len(n.GPUs) != 1 || n.IdleGPUs != 0 || len(n.Pods) != 1 {
		t.Errorf("without g0: %s", show(n))
	}
	n = n.WithInventory(Inventory{})
	if len(n.GPUs) != 0 || len(n.Conflicts()) != 0 || !n.Used() {
		t.Errorf("without any: %s", show(n))
	}
	if diff := cmp.Diff(before, show(n.WithInventory(full))); diff != "" {
		t.Errorf("after it is back (-want +got)\n%s", diff)
	}
}

func TestSnapshot(t *testing.T) {
	node := func(name string) *Node { return NewNode(name, inventory(plain(0, 100)), nil) }
	b, a := node("b"), node("a")
	s := NewSnapshot(b, a)
	if got := s.Sorted(); len(got) != 2 || got[0] != a || got[1] != b || s.Len() != 2 {
		t.Errorf("sorted: %v", got)
	}
	if s.Node("a") != a || s.Node("c") != nil {
		t.Errorf("a is %v, c is %v", s.Node("a"), s.Node("c"))
	}
	another := node("a")
	s.Set(another)
	s.Delete("b")
	s.Delete("never there")
	if got := s.Sorted(); len(got) != 1 || got[0] != another {
		t.Errorf("after the change: %v", got)
	}
}
