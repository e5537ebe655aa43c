package gang_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"weft.sh/weft/pkg/cluster"
	"weft.sh/weft/pkg/fit"
	"weft.sh/weft/pkg/gang"
	"weft.sh/weft/pkg/gpu"
)

// tangle gives the nodes domains at random: no level lies in another, and some nodes are in no domain of a level.
func tangle(r *rand.Rand, p *gang.Problem) {
	counts := [3]int{1 + r.IntN(5), 1 + r.IntN(4), 1 + r.IntN(4)}
	for i := range p.Nodes {
		for l, name := range []string{"clique", "rack", "zone"} {
			p.Nodes[i].Domains[l] = fmt.Sprint(name, "-", r.IntN(counts[l]))
			if r.IntN(12) == 0 {
				p.Nodes[i].Domains[l] = ""
			}
		}
	}
}

// hasPlan says whether there is a plan, by trying each domain of the required level on its own.
func hasPlan(p *gang.Problem) bool {
	var need [2]int
	for _, m := range p.Members {
		if m.Node == "" {
			need[m.Shape]++
		}
	}
	groups := map[string][]int{}
	l := slices.Index(p.Levels, p.Required)
	before, most := map[string]int{}, 0
	for i, n := range p.Nodes {
		value := ""
		if l >= 0 {
			if value = n.Domains[l]; value == "" {
				continue
			}
		}
		groups[value] = append(groups[value], i)
		for _, m := range p.Members {
			if m.Node == n.Name {
				before[value]++
				most = max(most, before[value])
			}
		}
	}
	first := ""
	for v, n := range before {
		if n == most && (first == "" || v < first) {
			first = v
		}
	}
	for value, nodes := range groups {
		if l >= 0 && most > 0 && value != first {
			continue
		}
		reach := map[[2]int]bool{{}: true}
		for _, i := range nodes {
			next := map[[2]int]bool{}
			var takes map[[2]int]bool
			if len(p.Shapes) == 1 {
				takes = map[[2]int]bool{{slotsOf(p, &p.Nodes[i], 0), 0}: true}
			} else {
				takes = combinationsOf(p, &p.Nodes[i], need)
			}
			for at := range reach {
				next[at] = true
				for c := range takes {
					next[[2]int{min(at[0]+c[0], need[0]), min(at[1]+c[1], need[1])}] = true
				}
			}
			reach = next
		}
		if reach[need] {
			return true
		}
	}
	return need == [2]int{}
}

// Levels need not lie in one another: whether there is a plan, and that it is one, does not depend on it.
func TestPlanWhereLevelsDoNotNest(t *testing.T) {
	for _, tc := range []struct {
		name     string
		launcher bool
		rounds   int
	}{
		{"members of one shape", false, 600},
		{"launchers and workers", true, 200},
	} {
		t.Run(tc.name, func(t *testing.T) {
			plans, refused := 0, 0
			for round := range tc.rounds {
				r := rand.New(rand.NewPCG(11, uint64(round)))
				p := randomProblem(r, 24, tc.launcher, false)
				tangle(r, p)
				want := hasPlan(p)
				res, rejection := gang.Plan(p)
				if rejection.OK() != want {
					t.Fatalf("round %d: %q, there is a plan: %t", round, rejection.Message(), want)
				}
				if !want {
					refused++
					continue
				}
				plans++
				if err := gang.Verify(p, res); err != nil {
					t.Fatalf("round %d: %v", round, err)
				}
			}
			if plans < tc.rounds/4 || refused < tc.rounds/20 {
				t.Errorf("%d plans, %d refused: the instances are not what they should be", plans, refused)
			}
		})
	}
}

// Of the plan's domains there may be fewer: parts of a domain count as several. By how much is told here.
func TestHowFarFromTheFewestDomainsWhereLevelsDoNotNest(t *testing.T) {
	plans, fewest, widest := 0, 0, 0
	for round := range 100 {
		r := rand.New(rand.NewPCG(12, uint64(round)))
		p := randomProblem(r, 12, false, false)
		p.Required = ""
		tangle(r, p)
		for i := range p.Nodes { // as the plan counts them
			for l := range p.Nodes[i].Domains {
				if p.Nodes[i].Domains[l] == "" {
					p.Nodes[i].Domains[l] = fmt.Sprint("other-", l)
				}
			}
		}
		res, rejection := gang.Plan(p)
		if !rejection.OK() {
			continue
		}
		plans++
		best := fewestOfAllSets(p)
		got := spreadOf(p, nodesOf(res))
		switch c := slices.Compare(got, best); {
		case c < 0:
			t.Fatalf("round %d: %v, the fewest of all sets of nodes are %v", round, got, best)
		case c == 0:
			fewest++
		}
		// The widest level is first in the order, or the preferred one.
		if got[0] == best[0] && (p.Preferred != "" || got[1] == best[1]) {
			widest++
		}
	}
	t.Logf("%d of %d plans have the fewest domains, %d the fewest of the level that counts most", fewest, plans, widest)
	if plans < 50 || 100*fewest < 70*plans || 100*widest < 95*plans {
		t.Errorf("%d of %d plans have the fewest domains, %d the fewest of the level that counts most", fewest, plans, widest)
	}
}

// fewestOfAllSets looks at every set of nodes; see spreadOf.
func fewestOfAllSets(p *gang.Problem) (best []int) {
	need := 0
	for _, m := range p.Members {
		if m.Node == "" {
			need++
		}
	}
	slots := make([]int, len(p.Nodes))
	for i := range p.Nodes {
		slots[i] = slotsOf(p, &p.Nodes[i], 0)
	}
	for set := range 1 << len(p.Nodes) {
		room, nodes := 0, []int{}
		for i := range p.Nodes {
			if set&(1<<i) != 0 {
				room += slots[i]
				nodes = append(nodes, i)
			}
		}
		if room < need {
			continue
		}
		if s := spreadOf(p, nodes); best == nil || slices.Compare(s, best) < 0 {
			best = s
		}
	}
	return best
}

// Seven racks go through six zones, with a node in each: in six zones the members are in 42 parts of racks, which is more than there are
// racks, and must not be taken for more zones. Seven other zones have one part each.
func TestPartsOfRacksAreNoZones(t *testing.T) {
	p := &gang.Problem{
		Gang: gang.Key{Namespace: "ns", Name: "train"}, Min: 42, Levels: []string{"rack", "zone"}, Resources: []string{"pods"},
		Shapes: []gang.Shape{{Name: "ns/worker", Request: wholeGPUs(1), Ask: []int64{1}}},
	}
	for i := range p.Min {
		p.Members = append(p.Members, gang.Member{UID: fmt.Sprint(i), Name: fmt.Sprint("ns/train-", i)})
	}
	add := func(zone, rack string, gpus int) {
		devices := make([]gpu.Device, gpus)
		name := zone + "-" + rack
		for g := range devices {
			devices[g] = gpu.Device{ID: gpu.ID(fmt.Sprint("GPU-", name, g)), Index: g, Product: "H100", MemoryMiB: 81559}
		}
		p.Nodes = append(p.Nodes, gang.Node{
			Name: name, GPUs: cluster.NewNode(name, cluster.NewInventory(cluster.SourceSlices, devices), nil),
			Free: []int64{100}, Limit: []int{gang.NoLimit}, Domains: []string{rack, zone},
		})
	}
	for rack := range 7 {
		for zone := range 6 {
			add(fmt.Sprint("b", zone), fmt.Sprint("r", rack), 1)
		}
		add(fmt.Sprint("a", rack), fmt.Sprint("r", rack), 6)
	}
	res, rejection := gang.Plan(p)
	if !rejection.OK() {
		t.Fatal(rejection.Message())
	}
	if got := res.Domains[1]; got != 6 {
		t.Errorf("the members are in %d zones, want 6: %v", got, res.Domains)
	}
}

// What a node takes of MIG instances is counted without trying; trying is the judge.
func TestMIGSlotsAgainstTrying(t *testing.T) {
	nodes := sharedNodes(40, 50)
	// Placements of one profile that overlap: how many there is room for depends on which are taken.
	for i := range 3 {
		devices := []gpu.Device{{ID: "GPU-odd", Product: "H100", MemoryMiB: 81559, MIG: true, Instances: []gpu.Instance{
			{Profile: "3g.40gb", Start: 0, Size: 4}, {Profile: "3g.40gb", Start: 2 + i, Size: 4}, {Profile: "3g.40gb", Start: 4, Size: 4}, {Profile: "1g.10gb", Start: 1, Size: 1},
		}}}
		if i == 2 {
			devices[0].Instances = slices.Delete(devices[0].Instances, 1, 2)
		}
		name := fmt.Sprint("odd-", i)
		nodes = append(nodes, gang.Node{
			Name: name, GPUs: cluster.NewNode(name, cluster.NewInventory(cluster.SourceSlices, devices), nil), MilliCPU: 100_000,
			Free: []int64{100_000, 100}, Domains: []string{"c", "r", "z"}, Limit: []int{gang.NoLimit},
		})
	}
	some := 0
	for _, profile := range []string{"1g.10gb", "1g.20gb", "2g.20gb", "3g.40gb", "4g.40gb", "7g.80gb"} {
		for _, n := range nodes {
			p := &gang.Problem{
				Gang: gang.Key{Namespace: "ns", Name: "train"}, Levels: []string{"clique", "rack", "zone"}, Resources: []string{"cpu", "pods"},
				Strategy: fit.BestFit{}, Nodes: []gang.Node{n}, Members: make([]gang.Member, 60),
				Shapes: []gang.Shape{{Name: "ns/train-0", Request: asking(gpu.Ask{Kind: gpu.MIG, Count: 1, Profile: profile}), Ask: []int64{1000, 1}}},
			}
			want, got := slotsOf(p, &n, 0), 0
			if res, rejection := gang.Plan(p); rejection.OK() {
				if err := gang.Verify(p, res); err != nil {
					t.Errorf("%s on %s: %v", profile, n.Name, err)
				}
				got = len(res.Placements)
			}
			if got != want {
				t.Errorf("%s takes %d of %s, the plan places %d", n.Name, want, profile, got)
			}
			some += want
		}
	}
	if some < 500 {
		t.Errorf("only %d places: the test says little", some)
	}
}
