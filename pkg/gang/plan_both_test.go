package gang_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"weft.sh/weft/pkg/cluster"
	"weft.sh/weft/pkg/gang"
	"weft.sh/weft/pkg/gpu"
)

// patchy is a small problem with both a required and a preferred level, or one of them, on nodes that lack one label of so many; each
// node takes so many members, and a member runs on some.
func patchy(r *rand.Rand, lacks int) (p *gang.Problem, slots []int, placed map[int]bool) {
	p = &gang.Problem{
		Gang: gang.Key{Namespace: "ns", Name: "g"}, Levels: []string{"clique", "rack", "zone"},
		Shapes: []gang.Shape{{Name: "w", Request: wholeGPUs(4)}},
	}
	slots, placed = make([]int, 4+r.IntN(4)), map[int]bool{}
	for i := range slots {
		name, clique := fmt.Sprint("n", i), r.IntN(5)
		domains := []string{fmt.Sprint("c", clique), fmt.Sprint("r", clique/2), fmt.Sprint("z", clique/4)}
		for l := range domains {
			if lacks > 0 && r.IntN(lacks) == 0 {
				domains[l] = ""
			}
		}
		slots[i] = r.IntN(3)
		devices := make([]gpu.Device, 8)
		for g := range devices {
			devices[g] = gpu.Device{ID: gpu.ID(fmt.Sprintf("GPU-%d-%d", i, g)), Index: g, Product: "H100", MemoryMiB: 81559}
		}
		n := cluster.NewNode(name, cluster.NewInventory(cluster.SourceSlices, devices), nil)
		if slots[i] < 2 {
			n = n.With(cluster.NewPod("o"+name, "ns/o", holding(devices[:8-4*slots[i]])))
		}
		p.Nodes = append(p.Nodes, gang.Node{Name: name, GPUs: n, Domains: domains, Limit: []int{gang.NoLimit}, MilliCPU: 64000})
	}
	for i := range 1 + r.IntN(6) {
		p.Members = append(p.Members, gang.Member{UID: fmt.Sprint("u", i), Name: fmt.Sprint("ns/w", i)})
	}
	if r.IntN(3) == 0 {
		at := r.IntN(len(slots))
		placed[at] = true
		p.Members = append(p.Members, gang.Member{UID: "run", Name: "ns/run", Node: p.Nodes[at].Name})
	}
	p.Min = len(p.Members)
	p.Required = []string{"", "clique", "rack", "zone"}[r.IntN(4)]
	p.Preferred = []string{"", "clique", "rack", "zone"}[r.IntN(4)]
	return p, slots, placed
}

// usage is how many domains the nodes in use are in: of the preferred level, of each from the widest, and nodes. Nodes without the
// label of a level are told apart by the next narrower.
func usage(p *gang.Problem, use []int, placed map[int]bool) (out []int) {
	count := func(level int) int {
		seen := map[string]bool{}
		for i := range use {
			if use[i] == 0 && !placed[i] {
				continue
			}
			key := p.Nodes[i].Name
			for m := 0; m <= level; m++ {
				if v := p.Nodes[i].Domains[m]; v != "" {
					key = fmt.Sprint(m, "/", v)
				}
			}
			seen[key] = true
		}
		return len(seen)
	}
	if p.Preferred != "" {
		out = append(out, count(slices.Index(p.Levels, p.Preferred)))
	}
	return append(out, count(2), count(1), count(0), count(-1))
}

// inOne reports whether the nodes in use are in one domain of the required level.
func inOne(p *gang.Problem, use []int, placed map[int]bool) bool {
	l, domain := slices.Index(p.Levels, p.Required), ""
	if l < 0 {
		return true
	}
	for i := range placed {
		domain = p.Nodes[i].Domains[l]
	}
	for i := range use {
		if use[i] == 0 {
			continue
		}
		v := p.Nodes[i].Domains[l]
		if v == "" || domain != "" && v != domain {
			return false
		}
		domain = v
	}
	return true
}

// TestPlanWithBothLevels against all ways to place the members: whether there is a plan is always right, and nearly all plans are the
// best. Where labels are missing the levels are no tree any more.
func TestPlanWithBothLevels(t *testing.T) {
	for name, tt := range map[string]struct{ lacks, percent int }{
		"all labels are there":       {0, 99},
		"one label of 30 is missing": {30, 99},
		"one label of 8 is missing":  {8, 98},
	} {
		t.Run(name, func(t *testing.T) { testPlanWithBothLevels(t, tt.lacks, tt.percent) })
	}
}

func testPlanWithBothLevels(t *testing.T, lacks, percent int) {
	plans, worse, both := 0, 0, 0
	for seed := range uint64(1500) {
		p, slots, placed := patchy(rand.New(rand.NewPCG(7, seed)), lacks)
		var best []int
		use := make([]int, len(slots))
		var walk func(i, left int)
		walk = func(i, left int) {
			if left == 0 {
				if v := usage(p, use, placed); inOne(p, use, placed) && (best == nil || slices.Compare(v, best) < 0) {
					best = v
				}
				return
			}
			if i == len(slots) {
				return
			}
			for k := min(left, slots[i]); k >= 0; k-- {
				use[i] = k
				walk(i+1, left-k)
			}
			use[i] = 0
		}
		walk(0, len(p.Members)-len(placed))
		res, r := gang.Plan(p)
		if (best != nil) != r.OK() {
			t.Fatalf("seed %d: the best is %v, told %q", seed, best, r.Message())
		}
		if best == nil {
			continue
		}
		got := make([]int, len(slots))
		for _, at := range res.Placements {
			got[at.Node]++
		}
		plans++
		if p.Required != "" && p.Preferred != "" {
			both++
		}
		if v := usage(p, got, placed); slices.Compare(v, best) != 0 {
			worse++
		}
	}
	t.Logf("%d plans, %d with both levels; %d are not the best", plans, both, worse)
	if 100*worse > (100-percent)*plans || both < 100 {
		t.Errorf("%d of %d plans are not the best; %d have both levels", worse, plans, both)
	}
}
