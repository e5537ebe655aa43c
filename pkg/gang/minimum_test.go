package gang_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"weft.sh/weft/pkg/cluster"
	"weft.sh/weft/pkg/gang"
	"weft.sh/weft/pkg/gpu"
)

// racked is a problem with so many empty nodes of 8 GPUs in each rack, and members that are each of a shape of their own, which
// ask for so many GPUs.
func racked(racks, members []int) *gang.Problem {
	p := &gang.Problem{Gang: gang.Key{Namespace: "ns", Name: "g"}, Levels: []string{"rack"}, Min: len(members)}
	for i, ask := range members {
		name := fmt.Sprint("ns/w", i)
		p.Shapes = append(p.Shapes, gang.Shape{Name: name, Request: wholeGPUs(ask)})
		p.Members = append(p.Members, gang.Member{UID: name, Name: name, Shape: i})
	}
	for r, n := range racks {
		for range n {
			name := fmt.Sprintf("node-%04d", len(p.Nodes))
			devices := make([]gpu.Device, 8)
			for g := range devices {
				devices[g] = gpu.Device{ID: gpu.ID(fmt.Sprintf("GPU-%d-%d", len(p.Nodes), g)), Index: g, Product: "H100", MemoryMiB: 81559}
			}
			p.Nodes = append(p.Nodes, gang.Node{
				Name: name, GPUs: cluster.NewNode(name, cluster.NewInventory(cluster.SourceSlices, devices), nil),
				Domains: []string{fmt.Sprint("rack-", r)}, MilliCPU: 64000, Limit: slices.Repeat([]int{gang.NoLimit}, len(members)),
			})
		}
	}
	return p
}

// TestShapesThatAreAlike: members that differ in nothing a node tells are planned as well as if they were of one shape.
func TestShapesThatAreAlike(t *testing.T) {
	for name, tt := range map[string]struct {
		members []int
		change  func(p *gang.Problem)
		// racks is how many are used at most.
		racks int
	}{
		"all alike": {slices.Repeat([]int{8}, 16), nil, 1},
		"two kinds": {slices.Concat(slices.Repeat([]int{8}, 15), slices.Repeat([]int{4}, 2)), nil, 1},
		"one of them is kept off the only rack that takes all": {slices.Repeat([]int{8}, 16), func(p *gang.Problem) {
			for i := 15; i < 31; i++ {
				p.Nodes[i].Limit[3] = 0
			}
		}, 2},
		"a node takes one of each, which is no limit for all": {slices.Repeat([]int{1}, 8), func(p *gang.Problem) {
			p.Nodes = p.Nodes[30:]
			for s := range p.Shapes {
				p.Nodes[0].Limit[s] = 1
			}
		}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			p := racked([]int{1, 2, 3, 4, 5, 16}, tt.members)
			p.Preferred = "rack"
			if tt.change != nil {
				tt.change(p)
			}
			res, r := gang.Plan(p)
			if !r.OK() || res.Domains[0] > tt.racks {
				t.Fatalf("%+v, %s: want a plan in %d racks", res, r.Message(), tt.racks)
			}
			placed := map[int]int{}
			for _, at := range res.Placements {
				placed[at.Member]++
				if p.Nodes[at.Node].Limit[p.Members[at.Member].Shape] == 0 {
					t.Errorf("%s is on %s, which does not take it", p.Members[at.Member].Name, p.Nodes[at.Node].Name)
				}
			}
			if len(placed) != len(tt.members) {
				t.Errorf("placed are %v, want each of %d once", placed, len(tt.members))
			}
		})
	}
}

// TestWhoMakesUpTheMinimum: a gang of 2 has three members or four, and two nodes.
func TestWhoMakesUpTheMinimum(t *testing.T) {
	for name, tt := range map[string]struct {
		members  []int
		required bool
		change   func(p *gang.Problem)
		// want are the members that are placed.
		want []int
	}{
		"the first":                                {members: []int{8, 8, 8}, want: []int{0, 1}},
		"not one that no node takes":               {members: []int{8, 8, 8}, change: exclude(0), want: []int{1, 2}},
		"not one that asks for too much":           {members: []int{16, 8, 8}, want: []int{1, 2}},
		"one that there is room for, of two":       {members: []int{8, 8, 4, 4}, change: occupy(0, 4), want: []int{0, 2}},
		"in a domain that none of the first is in": {members: []int{8, 4, 4}, required: true, change: func(p *gang.Problem) { occupy(0, 8)(p); exclude(0)(p) }, want: []int{1, 2}},
		"nobody, where too few have room":          {members: []int{8, 8, 8}, change: func(p *gang.Problem) { exclude(0)(p); exclude(1)(p) }},
		"nobody, where all are in the minimum":     {members: []int{16, 8}},
		"those that run count, whoever is next":    {members: []int{16, 8, 8}, change: func(p *gang.Problem) { p.Members[2].Node, p.Min = p.Nodes[0].Name, 2 }, want: []int{1}},
	} {
		t.Run(name, func(t *testing.T) {
			p := racked([]int{1, 1}, tt.members)
			p.Min = 2
			if tt.required {
				p.Required = "rack"
			}
			if tt.change != nil {
				tt.change(p)
			}
			res, r := gang.Plan(p)
			var got []int
			if r.OK() {
				for _, at := range res.Placements {
					got = append(got, at.Member)
				}
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("placed (-want +got):\n%s%s", diff, r.Message())
			}
		})
	}
}

// exclude keeps the member off every node.
func exclude(member int) func(p *gang.Problem) {
	return func(p *gang.Problem) {
		for i := range p.Nodes {
			p.Nodes[i].Limit[member] = 0
		}
	}
}

// occupy has another pod hold so many GPUs of the node.
func occupy(node, gpus int) func(p *gang.Problem) {
	return func(p *gang.Problem) {
		n := &p.Nodes[node]
		var devices []gpu.Device
		for i := range n.GPUs.GPUs[:gpus] {
			devices = append(devices, gpu.Device{ID: n.GPUs.GPUs[i].ID})
		}
		n.GPUs = n.GPUs.With(cluster.NewPod("other", "ns/other", holding(devices)))
	}
}
