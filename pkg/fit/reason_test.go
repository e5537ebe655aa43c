package fit

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"weft.sh/weft/pkg/cluster"
	"weft.sh/weft/pkg/gpu"
)

func TestEveryReasonIsComplete(t *testing.T) {
	names, texts := map[string]Reason{}, map[string]Reason{}
	for _, r := range append(Reasons(), Fits) {
		if r.String() == "" || r.Text() == "" || r.Advice() == "" || r.Event().String() == "" {
			t.Errorf("%d: name %q, text %q, advice %q, event %q", r, r, r.Text(), r.Advice(), r.Event())
		}
		if strings.ContainsAny(r.String(), " :") {
			t.Errorf("%q is no name", r)
		}
		if other, ok := names[r.String()]; ok {
			t.Errorf("%d and %d have the name %s", r, other, r)
		}
		if other, ok := texts[r.Text()]; ok {
			t.Errorf("%v and %v have the text %q", r, other, r.Text())
		}
		names[r.String()], texts[r.Text()] = r, r
		if got := (Rejection{Reason: r}).OK(); got != (r == Fits) {
			t.Errorf("%v is no rejection: %t", r, got)
		}
		if r.Resolvable() != (r.Event() == PodRelease || r.Event() == Retry) {
			t.Errorf("%v: %v, and resolvable: %t", r, r.Event(), r.Resolvable())
		}
	}
	if len(Reasons()) != int(numReasons)-1 {
		t.Errorf("%d reasons of %d", len(Reasons()), numReasons-1)
	}
	unknown := numReasons + 7
	if got := unknown.String(); got != fmt.Sprintf("Reason(%d)", numReasons+7) || unknown.Text() == "" || unknown.Advice() == "" {
		t.Errorf("an unknown reason: %q, %q, %q", got, unknown.Text(), unknown.Advice())
	}
}

// What can only change with the nodes stands before what other pods can change: a class of nodes is given the latter.
func TestReasonsAreInTheOrderOfHope(t *testing.T) {
	resolvable := false
	for _, r := range Reasons() {
		if resolvable && !r.Resolvable() {
			t.Errorf("%v, which waiting cannot resolve, stands after one that it can", r)
		}
		resolvable = resolvable || r.Resolvable()
	}
}

func TestExplainNamesTheReasonAndItsFigures(t *testing.T) {
	change := func(d gpu.Device, f func(*gpu.Device)) gpu.Device { f(&d); return d }
	sick := func(d gpu.Device) gpu.Device { return change(d, func(d *gpu.Device) { d.Unhealthy = true }) }
	wholeOnly := func(d gpu.Device) gpu.Device { return change(d, func(d *gpu.Device) { d.WholeOnly = true }) }
	sharedOnly := func(d gpu.Device) gpu.Device { return change(d, func(d *gpu.Device) { d.SharedOnly = true }) }
	model := func(d gpu.Device, product string) gpu.Device {
		return change(d, func(d *gpu.Device) { d.Product = product })
	}
	accepting := func(r gpu.Request, products ...string) gpu.Request { r.Products = products; return r }
	floor := func(a gpu.Ask, mib int64) gpu.Ask { a.MemoryMiB = mib; return a }
	several := func(asks ...gpu.Ask) gpu.Request {
		r := gpu.Request{}
		for i, a := range asks {
			r.Containers = append(r.Containers, gpu.ContainerRequest{Name: string(rune('a' + i)), Asks: []gpu.Ask{a}})
		}
		return r
	}
	unplaced := func(n *cluster.Node, r gpu.Request) *cluster.Node {
		return n.With(cluster.NewUnplacedPod("foreign", "ns/foreign", r))
	}
	two := []gpu.Device{plain(0), plain(1)}
	// The first two are given whole, by somebody else, and the others in shares.
	four := []gpu.Device{wholeOnly(plain(0)), wholeOnly(plain(1)), sharedOnly(plain(2)), sharedOnly(plain(3))}
	tests := map[string]struct {
		node    *cluster.Node
		request gpu.Request
		want    string
	}{
		"it fits":                          {holding(t, "", two...), asking(whole(2)), "Fits: fits"},
		"nothing is asked for, of nothing": {nil, gpu.Request{}, "Fits: fits"},

		"no node": {nil, asking(whole(1)), "NoGPU: the node reports no GPU"},
		"no GPU":  {holding(t, ""), asking(share(1)), "NoGPU: the node reports no GPU"},
		"no GPU as the report is incomplete": {
			cluster.NewNode("n", cluster.NewInventory(cluster.SourceSlices, nil, `pool "n": generation 3 has 1 of 2 ResourceSlices`), nil), asking(whole(1)),
			`NoGPU: the node reports no GPU (pool "n": generation 3 has 1 of 2 ResourceSlices)`,
		},

		"another model": {
			holding(t, "", model(plain(0), "V100"), model(plain(1), "T4"), model(plain(2), "T4")), accepting(asking(whole(1)), "A100", "H100"),
			"GPUProductMismatch: the GPU model is not one that the pod accepts (accepts A100, H100; has T4, V100)",
		},
		"the model once, of two wanted": {
			holding(t, "", model(plain(0), "A100"), model(plain(1), "T4")), accepting(asking(whole(2)), "A100"),
			"GPUProductMismatch: the GPU model is not one that the pod accepts (accepts A100; has A100, T4)",
		},
		"an instance on another model": {
			holding(t, "", model(partitioned(0, onDemand), "A30")), accepting(asking(instances(1, "1g.6gb")), "A100"),
			"GPUProductMismatch: the GPU model is not one that the pod accepts (accepts A100; has A30)",
		},
		"a share of a node with labels only": {
			holding(t, "", wholeOnly(plain(0)), wholeOnly(plain(1))), asking(share(250)),
			"SharingUnsupported: the node gives out whole GPUs only (asks for 25% of 1 GPU; 0 of 2 GPUs are given in shares)",
		},
		"shares of more GPUs than there are, with labels only": {
			holding(t, "", wholeOnly(plain(0)), wholeOnly(plain(1))), asking(gpu.Ask{Kind: gpu.Shared, Count: 3, MilliGPU: 250}),
			"SharingUnsupported: the node gives out whole GPUs only (asks for 25% of 3 GPUs; 0 of 2 GPUs are given in shares)",
		},
		"a share of a GPU beside one in MIG mode, with labels only": {
			holding(t, "", wholeOnly(plain(0)), partitioned(1, onDemand)), asking(share(250)),
			"SharingUnsupported: the node gives out whole GPUs only (asks for 25% of 1 GPU; 0 of 1 GPU are given in shares)",
		},
		"a profile where no GPU is partitioned": {
			holding(t, "", two...), asking(instances(1, "1g.10gb")),
			"NoMIGProfile: no GPU offers the MIG profile (asks for 1 x 1g.10gb; no MIG profiles are known of A)",
		},
		"a profile where a GPU could be partitioned": {
			holding(t, "", model(plain(0), "NVIDIA-A30")), asking(instances(1, "1g.6gb")),
			"NoMIGProfile: no GPU offers the MIG profile (asks for 1 x 1g.6gb; no GPU is in MIG mode)",
		},
		"a profile that no GPU offers": {
			holding(t, "", partitioned(0, fixed), partitioned(1, onDemand)), asking(instances(2, "1g.10gb")),
			"NoMIGProfile: no GPU offers the MIG profile (asks for 2 x 1g.10gb; offered: 1g.6gb, 1g.6gb+me, 2g.12gb, 2g.12gb+me, 4g.24gb)",
		},
		"a floor above every GPU": {
			holding(t, "", two...), asking(floor(share(10), 101)),
			"GPUMemoryTooSmall: no GPU has the memory asked for (asks for 1% of 1 GPU with at least 101 MiB; the largest has 100 MiB)",
		},
		"a floor above every GPU, whole": {
			holding(t, "", two...), asking(floor(whole(1), 101)),
			"GPUMemoryTooSmall: no GPU has the memory asked for (asks for 1 whole GPU with at least 101 MiB; the largest has 100 MiB)",
		},
		"more GPUs than there are": {
			holding(t, "", two...), asking(whole(3)),
			"TooFewGPUs: the node would be too small even when empty (asks for 3 whole GPUs; the node has 2 GPUs)",
		},
		"a whole GPU where all are partitioned": {
			holding(t, "", partitioned(0, onDemand)), asking(whole(1)),
			"TooFewGPUs: the node would be too small even when empty (asks for 1 whole GPU; the node has 0 GPUs not in MIG mode)",
		},
		"a whole GPU where all are only shared": {
			holding(t, "", sharedOnly(plain(0)), sharedOnly(plain(1))), asking(whole(1)),
			"TooFewGPUs: the node would be too small even when empty (asks for 1 whole GPU; the node has 0 GPUs to be given whole)",
		},
		"more whole GPUs than are not only shared": {
			holding(t, "", append(four[:4:4], partitioned(4, onDemand))...), asking(whole(3)),
			"TooFewGPUs: the node would be too small even when empty (asks for 3 whole GPUs; the node has 2 GPUs to be given whole)",
		},
		"more whole GPUs of a model than are not only shared": {
			holding(t, "", four...), accepting(asking(whole(3)), "A"),
			"TooFewGPUs: the node would be too small even when empty (asks for 3 whole GPUs; the node has 2 GPUs to be given whole)",
		},
		"shares of more GPUs than are shared": {
			holding(t, "", four...), asking(gpu.Ask{Kind: gpu.Shared, Count: 3, MilliGPU: 100}),
			"TooFewGPUs: the node would be too small even when empty (asks for 10% of 3 GPUs; the node has 2 GPUs to be given in shares)",
		},
		"all that are given whole are in use": {
			holding(t, "c=g0", four...), asking(whole(2)),
			"InsufficientGPU: too few idle GPUs (asks for 2 whole GPUs; 1 of 2 GPUs is idle)",
		},
		"an unhealthy GPU of those that are given whole": {
			holding(t, "", sick(four[0]), four[1], four[2], four[3]), asking(whole(2)),
			"GPUUnhealthy: GPUs are unhealthy (asks for 2 whole GPUs; 1 of 2 GPUs is healthy)",
		},
		"a whole GPU beside one that is withheld": {
			unplaced(holding(t, "", four...), asking(whole(1))), asking(whole(2)),
			"GPUWithheld: idle GPUs are withheld for pods that hold nobody knows which (asks for 2 whole GPUs; withheld: 1 whole GPU)",
		},
		"a share beside whole GPUs that are withheld": {
			unplaced(holding(t, "", four...), asking(whole(2))), asking(gpu.Ask{Kind: gpu.Shared, Count: 2, MilliGPU: 100}), "Fits: fits",
		},
		"a whole GPU beside shares that are withheld": {
			unplaced(holding(t, "", four...), asking(gpu.Ask{Kind: gpu.Shared, Count: 2, MilliGPU: 100})), asking(whole(2)), "Fits: fits",
		},
		"a share beside one that is withheld": {
			unplaced(holding(t, "", four...), asking(share(100))), asking(gpu.Ask{Kind: gpu.Shared, Count: 2, MilliGPU: 100}),
			"GPUWithheld: idle GPUs are withheld for pods that hold nobody knows which (asks for 10% of 2 GPUs; withheld: 1 GPU for shares)",
		},
		"both kinds, of which one is too many": {
			holding(t, "", four...), several(whole(2), gpu.Ask{Kind: gpu.Shared, Count: 2, MilliGPU: 600}, share(600)),
			"TooFewGPUs: the node would be too small even when empty (asks for 2 whole GPUs and 60% of 2 GPUs and 60% of 1 GPU together; 4 of 4 GPUs are idle)",
		},
		"both kinds": {
			holding(t, "", four...), several(whole(2), gpu.Ask{Kind: gpu.Shared, Count: 2, MilliGPU: 600}), "Fits: fits",
		},
		"more instances than there are": {
			holding(t, "", partitioned(0, onDemand), partitioned(1, onDemand)), asking(instances(3, "4g.24gb")),
			"TooFewGPUs: the node would be too small even when empty (asks for 3 x 4g.24gb; there is room for 2)",
		},
		"what fits one by one and not together": {
			holding(t, "", two...), several(whole(2), share(10)),
			"TooFewGPUs: the node would be too small even when empty (asks for 2 whole GPUs and 1% of 1 GPU together; 2 of 2 GPUs are idle)",
		},
		"one of two is busy and both would not do": {
			holding(t, "c=g0", two...), several(whole(2), whole(1)),
			"TooFewGPUs: the node would be too small even when empty (asks for 2 whole GPUs and 1 whole GPU together; 1 of 2 GPUs is idle)",
		},
		"an unhealthy GPU": {
			holding(t, "", plain(0), sick(plain(1))), asking(whole(2)),
			"GPUUnhealthy: GPUs are unhealthy (asks for 2 whole GPUs; 1 of 2 GPUs is healthy)",
		},
		"an unhealthy GPU in MIG mode": {
			holding(t, "", sick(partitioned(0, onDemand))), asking(instances(1, "1g.6gb")),
			"GPUUnhealthy: GPUs are unhealthy (asks for 1 x 1g.6gb; there is room for 0)",
		},
		"an unhealthy GPU in MIG mode that would not help": {
			holding(t, "", partitioned(0, onDemand), sick(partitioned(1, onDemand))), asking(instances(9, "1g.6gb")),
			"TooFewGPUs: the node would be too small even when empty (asks for 9 x 1g.6gb; there is room for 4)",
		},
		"an unhealthy GPU, of several asks": {
			holding(t, "", plain(0), sick(plain(1))), several(whole(1), whole(1)),
			"GPUUnhealthy: GPUs are unhealthy (asks for 1 whole GPU and 1 whole GPU together; 1 of 2 GPUs is idle)",
		},
		"withheld GPUs": {
			unplaced(holding(t, "", two...), asking(whole(1))), asking(whole(2)),
			"GPUWithheld: idle GPUs are withheld for pods that hold nobody knows which (asks for 2 whole GPUs; withheld: 1 whole GPU)",
		},
		"a share of a withheld GPU": {
			unplaced(holding(t, "", two...), several(whole(2), instances(2, "1g.6gb"), instances(1, "2g.12gb"))), asking(share(10)),
			"GPUWithheld: idle GPUs are withheld for pods that hold nobody knows which (asks for 1% of 1 GPU; withheld: 2 whole GPUs, 2 x 1g.6gb, 1 x 2g.12gb)",
		},
		"withheld instances": {
			unplaced(holding(t, "", partitioned(0, onDemand)), asking(instances(2, "2g.12gb"))), asking(instances(1, "1g.6gb")),
			"GPUWithheld: idle GPUs are withheld for pods that hold nobody knows which (asks for 1 x 1g.6gb; withheld: 2 x 2g.12gb)",
		},
		"withheld GPUs, of several asks": {
			unplaced(holding(t, "", two...), asking(whole(1))), several(whole(1), share(10)),
			"GPUWithheld: idle GPUs are withheld for pods that hold nobody knows which (asks for 1 whole GPU and 1% of 1 GPU together; withheld: 1 whole GPU)",
		},
		"GPUs in use": {
			holding(t, "c=g0:1m/1Mi", two...), asking(whole(2)),
			"InsufficientGPU: too few idle GPUs (asks for 2 whole GPUs; 1 of 2 GPUs is idle)",
		},
		"GPUs in use, of several asks": {
			holding(t, "c=g0:1m/1Mi", two...), several(whole(1), whole(1)),
			"InsufficientGPU: too few idle GPUs (asks for 1 whole GPU and 1 whole GPU together; 1 of 2 GPUs is idle)",
		},
		"too small a share left": {
			holding(t, "c=g0:800m/1Mi,g1", two...), asking(share(250)),
			"InsufficientGPUShare: too few GPUs with the share left (asks for 25% of 1 GPU; 0 of 2 GPUs are free enough)",
		},
		"shares of several asks": {
			holding(t, "c=g0:500m/1Mi", plain(0)), several(share(300), share(300)),
			"InsufficientGPUShare: too few GPUs with the share left (asks for 30% of 1 GPU and 30% of 1 GPU together; 0 of 1 GPU are idle)",
		},
		"too little memory left": {
			holding(t, "c=g0:100m/90Mi,g1", two...), asking(share(250)),
			"InsufficientGPUMemory: too little GPU memory left (asks for 25% of 1 GPU; 0 of 2 GPUs are free enough)",
		},
		"the places of the profile are taken": {
			holding(t, "c=g0:1g.6gb@1:1", partitioned(0, onDemand)), asking(instances(2, "2g.12gb")),
			"NoMIGPlacement: no free place for the MIG instance (asks for 2 x 2g.12gb; there is room for 1)",
		},
		"the places of two profiles are taken": {
			holding(t, "c=g0:1g.6gb@1:1", partitioned(0, onDemand)), asking(instances(1, "2g.12gb"), instances(2, "1g.6gb")),
			"NoMIGPlacement: no free place for the MIG instance (asks for 1 x 2g.12gb and 2 x 1g.6gb together; 0 of 1 GPU are idle)",
		},
		"the least hopeful of several asks": {
			holding(t, "c=g0,g1", two...), several(share(100), instances(1, "1g.6gb"), whole(1)),
			"NoMIGProfile: no GPU offers the MIG profile (asks for 1 x 1g.6gb; no MIG profiles are known of A)",
		},
		"a GPU in MIG mode that is held whole": {
			holding(t, "c=g0", partitioned(0, onDemand)), asking(instances(1, "1g.6gb")),
			"NoMIGPlacement: no free place for the MIG instance (asks for 1 x 1g.6gb; there is room for 0)",
		},
	}
	provoked := map[string]bool{}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got := Explain(tc.node, tc.request)
			if diff := cmp.Diff(tc.want, got.Message()); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
			if reason := Check(tc.node, tc.request); reason != got.Reason {
				t.Errorf("Check says %v", reason)
			}
			provoked[got.Reason.String()] = true
		})
	}
	for r := NoGPU; r <= NoMIGPlacement; r++ {
		if !provoked[r.String()] && r != NodeTooSmall && r != TopologyDomainTooSmall { // which are not about GPUs
			t.Errorf("no test provokes %v", r)
		}
	}
}

// TestNearTellsNodesApart: of two nodes that are refused for one reason, the nearer one.
func TestNearTellsNodesApart(t *testing.T) {
	change := func(d gpu.Device, f func(*gpu.Device)) gpu.Device { f(&d); return d }
	model := func(d gpu.Device, product string) gpu.Device {
		return change(d, func(d *gpu.Device) { d.Product = product })
	}
	large := change(plain(1), func(d *gpu.Device) { d.MemoryMiB = 200 })
	floor := func(mib int64) gpu.Ask { return gpu.Ask{Kind: gpu.Whole, Count: 1, MemoryMiB: mib} }
	for name, tc := range map[string]struct {
		request gpu.Request
		// nodes are the nearest last.
		nodes []*cluster.Node
		want  Reason
	}{
		"more memory": {asking(floor(300)), []*cluster.Node{holding(t, "", plain(0)), holding(t, "", plain(0), large)}, GPUMemoryTooSmall},
		"more GPUs":   {asking(whole(3)), []*cluster.Node{holding(t, "", plain(0)), holding(t, "", plain(0), plain(1))}, TooFewGPUs},
		"more idle GPUs": {
			asking(whole(3)),
			[]*cluster.Node{holding(t, "c=g0,g1", plain(0), plain(1), plain(2)), holding(t, "c=g0", plain(0), plain(1), plain(2))},
			InsufficientGPU,
		},
		"a MIG table, MIG mode, a table with the profile": {
			asking(instances(1, "1g.5gb")),
			[]*cluster.Node{
				holding(t, "", plain(0)), holding(t, "", model(plain(0), "NVIDIA-A30")), holding(t, "", partitioned(0, fixed)),
				holding(t, "", model(plain(0), "NVIDIA-A100-SXM4-40GB")),
			},
			NoMIGProfile,
		},
		"a report with problems": {
			asking(whole(1)),
			[]*cluster.Node{holding(t, ""), cluster.NewNode("n", cluster.NewInventory(cluster.SourceSlices, nil, "one is missing"), nil)},
			NoGPU,
		},
	} {
		last := int64(-1)
		for i, n := range tc.nodes {
			got := Explain(n, tc.request)
			if got.Reason != tc.want || got.Near <= last {
				t.Errorf("%s: node %d is refused for %v and near by %d, the one before it by %d; want %v", name, i, got.Reason, got.Near, last, tc.want)
			}
			last = got.Near
		}
	}
}

// TestNoAdviceToPartitionWhatCannotBe: an L4 has no MIG.
func TestNoAdviceToPartitionWhatCannotBe(t *testing.T) {
	for product, want := range map[string]bool{"NVIDIA-L4": false, "NVIDIA-A30": false, "NVIDIA-H100-80GB-HBM3": true} {
		d := plain(0)
		d.Product = product
		got := Explain(holding(t, "", d), asking(instances(1, "7g.80gb"))).Advice
		if strings.Contains(got+NoMIGProfile.Advice(), "partition") != want {
			t.Errorf("%s: %q, want advice to partition: %t", product, got, want)
		}
	}
}
