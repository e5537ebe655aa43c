package nvml

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/nvml/nvmlfake"
)

func TestLinks(t *testing.T) {
	peers := func(pairs ...int) (out []gpu.Peer) {
		for i := 0; i < len(pairs); i += 2 {
			out = append(out, gpu.Peer{Index: pairs[i], Links: pairs[i+1]})
		}
		return out
	}
	a100s := func(n int, t nvmlfake.Topology) nvmlfake.Node {
		node := nvmlfake.Node{Topology: t}
		for range n {
			node.GPUs = append(node.GPUs, nvmlfake.GPU{Model: "A100-SXM4-40GB"})
		}
		return node
	}
	for name, c := range map[string]struct {
		node nvmlfake.Node
		// want are the links of the first GPUs.
		want     []gpu.Links
		problems []string
	}{
		"switches":              {nvmlfake.DGXA100(), []gpu.Links{{Switch: 12}, {Switch: 12}}, nil},
		"PCI only":              {nvmlfake.L4s(), []gpu.Links{{}, {}}, nil},
		"links that are unused": {a100s(2, nvmlfake.NoLinks), []gpu.Links{{}, {}}, nil},
		"pairs, and one alone":  {a100s(3, nvmlfake.Pairs), []gpu.Links{{Peers: peers(1, 12)}, {Peers: peers(0, 12)}, {}}, nil},
		"the cube mesh of a DGX-1": {
			nvmlfake.DGX1(), []gpu.Links{
				{Peers: peers(1, 1, 2, 1, 3, 2, 4, 2)},
				{Peers: peers(0, 1, 2, 2, 3, 1, 5, 2)},
				{Peers: peers(0, 1, 1, 2, 3, 2, 6, 1)},
				{Peers: peers(0, 2, 1, 1, 2, 2, 7, 1)},
				{Peers: peers(0, 2, 5, 1, 6, 1, 7, 2)},
				{Peers: peers(1, 2, 4, 1, 6, 2, 7, 1)},
				{Peers: peers(2, 1, 4, 1, 5, 2, 7, 2)},
				{Peers: peers(3, 1, 4, 2, 5, 1, 6, 2)},
			}, nil,
		},
		"some links are down": {
			changed(nvmlfake.DGXA100(), 0, func(g *nvmlfake.GPU) { g.LinksDown = []int{0, 5} }), []gpu.Links{{Switch: 10}, {Switch: 12}}, nil,
		},
		"a link is down at one end only": {
			changed(nvmlfake.DGX1(), 0, func(g *nvmlfake.GPU) { g.LinksDown = []int{2} }), // one of two to GPU 3
			[]gpu.Links{{Peers: peers(1, 1, 2, 1, 3, 1, 4, 2)}, {Peers: peers(0, 1, 2, 2, 3, 1, 5, 2)}, {Peers: peers(0, 1, 1, 2, 3, 2, 6, 1)}, {Peers: peers(0, 1, 1, 1, 2, 2, 7, 1)}},
			[]string{"GPU 0 has 1 NVLinks to GPU 3, which has 2 back"},
		},
		"links lead to a GPU that has none back": {
			changed(a100s(2, nvmlfake.NoLinks), 1, func(g *nvmlfake.GPU) { g.Links = []int{0, 0} }),
			[]gpu.Links{{}, {}},
			[]string{"GPU 1 has 2 NVLinks to GPU 0, which has 0 back"},
		},
		"links lead back to the GPU itself": {
			changed(a100s(1, nvmlfake.NoLinks), 0, func(g *nvmlfake.GPU) { g.Links = []int{0, -1} }), []gpu.Links{{Switch: 1}}, nil,
		},
		"the driver does not tell what a link leads to": {
			changed(changed(a100s(2, nvmlfake.Pairs), 0, func(g *nvmlfake.GPU) { g.UnknownLinks = true }), 1, func(g *nvmlfake.GPU) { g.UnknownLinks = true }),
			[]gpu.Links{{Peers: peers(1, 12)}, {Peers: peers(0, 12)}},
			nil,
		},
		"a switch that the driver does not call one is not counted": {
			changed(nvmlfake.DGXA100(), 0, func(g *nvmlfake.GPU) { g.UnknownLinks = true }), []gpu.Links{{}, {Switch: 12}}, nil,
		},
		"the peer was lost from the start": {
			changed(a100s(2, nvmlfake.Pairs), 1, func(g *nvmlfake.GPU) { g.Lost = true }), []gpu.Links{{}}, []string{"GPU 1: lost"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := discover(t, New(fake(t, c.node)))
			for i, want := range c.want {
				if diff := cmp.Diff(want, h.GPUs[i].Hardware.Links); diff != "" {
					t.Errorf("GPU %d: %s", i, diff)
				}
			}
			problems(t, h, c.problems...)
		})
	}
}

func TestClique(t *testing.T) {
	const id = "7b968a6d-c8aa-45e1-9e07-e1e51be99c31"
	for name, c := range map[string]struct {
		fabric *nvmlfake.Fabric
		want   string
	}{
		"a domain that spans nodes":      {&nvmlfake.Fabric{ClusterUUID: id, CliqueID: 7}, id + ".7"},
		"the largest clique":             {&nvmlfake.Fabric{ClusterUUID: id, CliqueID: ^uint32(0)}, id + ".4294967295"},
		"a fabric that ends in the node": {&nvmlfake.Fabric{ClusterUUID: "00000000-0000-0000-0000-000000000000", CliqueID: 7}, ""},
		"registration under way":         {&nvmlfake.Fabric{ClusterUUID: id, CliqueID: 7, State: "in-progress"}, ""},
		"registration failed":            {&nvmlfake.Fabric{ClusterUUID: id, CliqueID: 7, Status: "ERROR_TIMEOUT"}, ""},
		"no fabric":                      {nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			n := nvmlfake.DGXB200()
			n.Fabric = c.fabric
			if got := discover(t, New(fake(t, n))).GPUs[0].Hardware.Clique; got != c.want {
				t.Errorf("clique %q, want %q", got, c.want)
			}
		})
	}
}
