package gang_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"weft.sh/weft/pkg/cluster"
	"weft.sh/weft/pkg/fit"
	"weft.sh/weft/pkg/gang"
	"weft.sh/weft/pkg/gpu"
)

// instancesOfH100 are the MIG instances that an H100 of 80 GB can be divided into.
func instancesOfH100() (out []gpu.Instance) {
	for _, p := range []struct {
		profile string
		size    int
		starts  []int
	}{
		{"1g.10gb", 1, []int{0, 1, 2, 3, 4, 5, 6}},
		{"1g.20gb", 2, []int{0, 2, 4, 6}},
		{"2g.20gb", 2, []int{0, 2, 4}},
		{"3g.40gb", 4, []int{0, 4}},
		{"4g.40gb", 4, []int{0}},
		{"7g.80gb", 8, []int{0}},
	} {
		for _, start := range p.starts {
			out = append(out, gpu.Instance{Profile: p.profile, Start: start, Size: p.size})
		}
	}
	return out
}

func asking(a gpu.Ask) gpu.Request {
	return gpu.Request{Containers: []gpu.ContainerRequest{{Name: "main", Asks: []gpu.Ask{a}}}}
}

// sharedNodes are nodes of eight GPUs, some of them in MIG mode, of which shares of all sizes and instances are held: no two nodes
// are alike.
func sharedNodes(count, percent int) (nodes []gang.Node) {
	r := rand.New(rand.NewPCG(9, uint64(count)))
	profiles := []string{"1g.10gb", "1g.10gb", "1g.20gb", "2g.20gb", "3g.40gb"}
	for i := range count {
		devices := make([]gpu.Device, 8)
		mig := []int{0, 0, 2, 4}[r.IntN(4)]
		for g := range devices {
			devices[g] = gpu.Device{ID: gpu.ID(fmt.Sprintf("GPU-%d-%d", i, g)), Index: g, Product: "H100", MemoryMiB: 81559}
			if g < mig {
				devices[g].MIG, devices[g].Instances = true, instancesOfH100()
			}
		}
		name := fmt.Sprintf("node-%04d", i)
		n := cluster.NewNode(name, cluster.NewInventory(cluster.SourceSlices, devices), nil)
		held, cpu := int64(0), int64(100_000)
		for k := range 80 {
			if held >= int64(percent)*80 {
				break
			}
			ask, holds := gpu.Ask{Kind: gpu.Shared, Count: 1, MilliGPU: int64(1+r.IntN(18)) * 50}, int64(0)
			switch r.IntN(10) {
			case 0:
				ask = gpu.Ask{Kind: gpu.Whole, Count: 1}
			case 1, 2, 3, 4:
				if mig > 0 {
					ask = gpu.Ask{Kind: gpu.MIG, Count: 1, Profile: profiles[r.IntN(len(profiles))]}
				}
			}
			if holds = ask.MilliGPU; ask.Kind != gpu.Shared {
				holds = map[string]int64{"": 1000, "1g.10gb": 143, "1g.20gb": 143, "2g.20gb": 286, "3g.40gb": 429}[ask.Profile]
			}
			a, err := fit.Assign(n, asking(ask), fit.CPU{FreeMilli: cpu, AskMilli: 1000}, fit.BestFit{})
			if err != nil {
				continue
			}
			n = n.With(cluster.NewPod(fmt.Sprintf("other-%d-%d", i, k), "ns/other", a))
			held, cpu = held+holds, cpu-1000
		}
		nodes = append(nodes, gang.Node{
			Name: name, GPUs: n, MilliCPU: cpu, Free: []int64{cpu, 100}, Limit: []int{gang.NoLimit},
			Domains: []string{fmt.Sprintf("clique-%04d", i/16), fmt.Sprintf("rack-%03d", i/50), fmt.Sprintf("zone-%d", i*3/count)},
		})
	}
	return nodes
}

// sharedBenches are gangs on a cluster of which 60 % are held in pieces.
func sharedBenches() (out []bench) {
	nodes := sharedNodes(500, 60)
	mix := fit.NewMix(map[fit.Class]int64{
		fit.ClassOf(asking(gpu.Ask{Kind: gpu.Shared, Count: 1, MilliGPU: 250}), 1000):   5,
		fit.ClassOf(asking(gpu.Ask{Kind: gpu.Shared, Count: 1, MilliGPU: 500}), 2000):   3,
		fit.ClassOf(asking(gpu.Ask{Kind: gpu.Whole, Count: 1}), 4000):                   4,
		fit.ClassOf(asking(gpu.Ask{Kind: gpu.Whole, Count: 8}), 8000):                   2,
		fit.ClassOf(asking(gpu.Ask{Kind: gpu.MIG, Count: 1, Profile: "1g.10gb"}), 1000): 4,
		fit.ClassOf(asking(gpu.Ask{Kind: gpu.MIG, Count: 1, Profile: "3g.40gb"}), 1000): 2,
	})
	for _, g := range []struct {
		name     string
		members  int
		required string
		asks     []gpu.Ask
		ok       bool
	}{
		{"64 of 1", 64, "", []gpu.Ask{{Kind: gpu.Whole, Count: 1}}, true},
		{"64 of 50 %", 64, "", []gpu.Ask{{Kind: gpu.Shared, Count: 1, MilliGPU: 500}}, true},
		{"64 of 50 % of two GPUs", 64, "", []gpu.Ask{{Kind: gpu.Shared, Count: 2, MilliGPU: 500}}, true},
		{"64 of 1 and 30 % of another", 64, "", []gpu.Ask{{Kind: gpu.Whole, Count: 1}, {Kind: gpu.Shared, Count: 1, MilliGPU: 300}}, true},
		{"16 of MIG 1g", 16, "", []gpu.Ask{{Kind: gpu.MIG, Count: 1, Profile: "1g.10gb"}}, true},
		{"64 of MIG 1g", 64, "", []gpu.Ask{{Kind: gpu.MIG, Count: 1, Profile: "1g.10gb"}}, true},
		{"64 of MIG 1g in one of 10 racks", 64, "rack", []gpu.Ask{{Kind: gpu.MIG, Count: 1, Profile: "1g.10gb"}}, true},
		{"8000 of MIG 1g, infeasible", 8000, "", []gpu.Ask{{Kind: gpu.MIG, Count: 1, Profile: "1g.10gb"}}, false},
		{"64 of 50 % in one of 10 racks", 64, "rack", []gpu.Ask{{Kind: gpu.Shared, Count: 1, MilliGPU: 500}}, true},
	} {
		p := &gang.Problem{
			Gang: gang.Key{Namespace: "ns", Name: "train"}, Min: g.members, Levels: []string{"clique", "rack", "zone"},
			Topology: gang.Topology{Required: g.required}, Resources: []string{"cpu", "pods"}, Strategy: fit.Fragmentation{Mix: mix}, Nodes: nodes,
			Shapes: []gang.Shape{{
				Name: "ns/train-0", MilliCPU: 1000, Ask: []int64{1000, 1},
				Request: gpu.Request{Containers: []gpu.ContainerRequest{{Name: "main", Asks: g.asks}}},
			}},
		}
		for i := range g.members {
			p.Members = append(p.Members, gang.Member{UID: fmt.Sprint("uid-", i), Name: fmt.Sprint("ns/train-", i)})
		}
		out = append(out, bench{g.name, p, g.ok})
	}
	return out
}

// BenchmarkPlanOnSharedNodes is the slow way: what nodes take is found by giving it to them one by one, and no two nodes are alike.
func BenchmarkPlanOnSharedNodes(b *testing.B) {
	for _, bench := range sharedBenches() {
		b.Run(bench.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, rejection := gang.Plan(bench.p); rejection.OK() != bench.ok {
					b.Fatalf("%s", rejection.Message())
				}
			}
		})
	}
}

func TestPlansOnSharedNodesAreValid(t *testing.T) {
	for _, bench := range sharedBenches() {
		t.Run(bench.name, func(t *testing.T) {
			res, rejection := gang.Plan(bench.p)
			if rejection.OK() != bench.ok {
				t.Fatal(rejection.Message())
			}
			if res == nil {
				t.Log(rejection.Message())
			} else if err := gang.Verify(bench.p, res); err != nil {
				t.Error(err)
			} else {
				t.Log(res.Domains, len(res.Placements), res.Truncated)
			}
		})
	}
}
