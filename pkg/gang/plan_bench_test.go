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

// site is a cluster for a problem: nodes of eight GPUs in racks, some in use.
type site struct {
	nodes, perRack int
	// busy is the part of the nodes of which some GPUs are held, in percent.
	busy int
}

func (s site) problem(members, gpus int, required string) *gang.Problem {
	r := rand.New(rand.NewPCG(1, uint64(s.nodes)))
	p := &gang.Problem{
		Gang: gang.Key{Namespace: "ns", Name: "train"}, Min: members, Levels: []string{"clique", "rack", "zone"},
		Topology: gang.Topology{Required: required}, Resources: []string{"cpu", "pods"}, Strategy: fit.Fragmentation{},
		Shapes: []gang.Shape{{Name: "ns/train-0", Request: wholeGPUs(gpus), MilliCPU: 4000, Ask: []int64{4000, 1}}},
	}
	for i := range members {
		p.Members = append(p.Members, gang.Member{UID: fmt.Sprint("uid-", i), Name: fmt.Sprint("ns/train-", i)})
	}
	for i := range s.nodes {
		name := fmt.Sprintf("node-%04d", i)
		devices := make([]gpu.Device, 8)
		for g := range devices {
			devices[g] = gpu.Device{ID: gpu.ID(fmt.Sprintf("GPU-%d-%d", i, g)), Index: g, Product: "H100", MemoryMiB: 81559}
		}
		n := cluster.NewNode(name, cluster.NewInventory(cluster.SourceSlices, devices), nil)
		if r.IntN(100) < s.busy {
			n = n.With(cluster.NewPod("other-"+name, "ns/other", holding(devices[:1+r.IntN(8)])))
		}
		p.Nodes = append(p.Nodes, gang.Node{
			Name: name, GPUs: n, MilliCPU: 100_000 - int64(r.IntN(20_000)), Free: []int64{100_000 - int64(r.IntN(20_000)), 100},
			Domains: []string{
				fmt.Sprintf("clique-%04d", i/18), fmt.Sprintf("rack-%03d", i/s.perRack), fmt.Sprintf("zone-%d", i*3/s.nodes),
			},
			Limit: []int{gang.NoLimit},
		})
	}
	return p
}

func wholeGPUs(n int) gpu.Request {
	return gpu.Request{Containers: []gpu.ContainerRequest{{Name: "main", Asks: []gpu.Ask{{Kind: gpu.Whole, Count: n}}}}}
}

// holding is an assignment of whole GPUs.
func holding(devices []gpu.Device) gpu.Assignment {
	var grants []gpu.Grant
	for _, d := range devices {
		grants = append(grants, gpu.Grant{GPU: d.ID})
	}
	return gpu.Assignment{Containers: []gpu.ContainerGrants{{Container: "c", Grants: grants}}}
}

type bench struct {
	name string
	p    *gang.Problem
	ok   bool
}

// benches are gangs and clusters of the sizes that matter, with a plan and without one.
func benches() []bench {
	launcher := func(p *gang.Problem) *gang.Problem {
		p.Shapes = append(p.Shapes, gang.Shape{Name: "ns/launcher", MilliCPU: 4000, Ask: []int64{4000, 1}})
		p.Members[0].Shape = 1
		for i := range p.Nodes {
			p.Nodes[i].Limit = []int{gang.NoLimit, gang.NoLimit}
		}
		return p
	}
	halves := func(p *gang.Problem) *gang.Problem {
		p.Shapes = append(p.Shapes, gang.Shape{Name: "ns/half", Request: wholeGPUs(4), MilliCPU: 4000, Ask: []int64{4000, 1}})
		for i := range 100 {
			p.Members[i].Shape = 1
		}
		for i := range p.Nodes {
			p.Nodes[i].Limit = []int{gang.NoLimit, gang.NoLimit}
		}
		return p
	}
	single := func(p *gang.Problem) *gang.Problem {
		p.Levels[0], p.Required = "nvlink", "nvlink"
		for i := range p.Nodes {
			p.Nodes[i].Domains[0] = "node " + p.Nodes[i].Name
		}
		return p
	}
	elastic := func(p *gang.Problem) *gang.Problem { p.Min /= 2; return p }
	return []bench{
		{"512 of 8 on 512 empty nodes", site{512, 64, 0}.problem(512, 8, ""), true},
		{"512 of 8 and a launcher on 520 empty nodes", launcher(site{520, 64, 0}.problem(513, 8, "")), true},
		{"256 to 512 of 8 on 512 empty nodes", elastic(site{512, 64, 0}.problem(512, 8, "")), true},
		{"1000 of 1 on 5000 nodes, one of 25 racks required, half busy", site{5000, 200, 50}.problem(1000, 1, "rack"), true},
		{"1000 of 1 on 5000 nodes, one of 50 racks required, infeasible", site{5000, 100, 50}.problem(1000, 1, "rack"), false},
		{"1000 of 4 on 5000 nodes in 50 racks, half busy", site{5000, 100, 50}.problem(1000, 4, ""), true},
		{"1000 of 1 on 5000 nodes in 50 racks, half busy", site{5000, 100, 50}.problem(1000, 1, ""), true},
		{"16 of 1 on 5000 nodes in 50 racks, half busy", site{5000, 100, 50}.problem(16, 1, ""), true},
		{"80 of 8 on 500 full nodes, infeasible", site{500, 50, 100}.problem(80, 8, ""), false},
		{"10 of 8 in one clique of 18 on 5000 nodes, half busy", site{5000, 100, 50}.problem(10, 8, "clique"), true},
		{"8 of 1 in one of 5000 NVLink domains of one node, half busy", single(site{5000, 100, 50}.problem(8, 1, "")), true},
		{"2 of 8 in one of 5000 NVLink domains of one node, infeasible", single(site{5000, 100, 50}.problem(2, 8, "")), false},
		{"100 of 8 and 100 of 4 on 512 nodes, half busy", halves(site{512, 64, 50}.problem(200, 8, "")), true},
	}
}

func BenchmarkPlan(b *testing.B) {
	for _, bench := range benches() {
		b.Run(bench.name, func(b *testing.B) {
			b.ReportAllocs()
			var res *gang.Result
			var rejection fit.Rejection
			for b.Loop() {
				res, rejection = gang.Plan(bench.p)
			}
			if rejection.OK() != bench.ok {
				b.Fatalf("%s", rejection.Message())
			}
			if res != nil && res.Truncated {
				b.ReportMetric(1, "truncated")
			}
		})
	}
}

func TestPlansOfLargeGangsAreValid(t *testing.T) {
	for _, bench := range benches() {
		t.Run(bench.name, func(t *testing.T) {
			res, rejection := gang.Plan(bench.p)
			if rejection.OK() != bench.ok {
				t.Fatal(rejection.Message())
			}
			if !bench.ok {
				t.Log(rejection.Message())
			} else if err := gang.Verify(bench.p, res); err != nil {
				t.Error(err)
			} else {
				t.Log(res.Domains, len(res.Placements))
			}
		})
	}
}
