package metrics

import (
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/legacyregistry"
	"k8s.io/component-base/metrics/testutil"

	"weft.sh/weft/pkg/cluster"
	"weft.sh/weft/pkg/fit"
	"weft.sh/weft/pkg/gpu"
)

func device(id string, index int, change ...func(*gpu.Device)) gpu.Device {
	d := gpu.Device{ID: gpu.ID(id), Index: index, Product: "H100", MemoryMiB: 80_000}
	for _, f := range change {
		f(&d)
	}
	return d
}

func unhealthy(d *gpu.Device) { d.Unhealthy = true }

// mig is in MIG mode: two places for 3g.40gb and four for 1g.10gb, which overlap the first of them.
func mig(d *gpu.Device) {
	d.MIG, d.Product = true, "A100"
	d.Instances = []gpu.Instance{{Profile: "3g.40gb", Start: 0, Size: 4}, {Profile: "3g.40gb", Start: 4, Size: 4}}
	for i := range 4 {
		d.Instances = append(d.Instances, gpu.Instance{Profile: "1g.10gb", Start: i, Size: 1})
	}
}

// pod holds what the assignment says of its container main.
func pod(t *testing.T, name, grants string) cluster.Pod {
	t.Helper()
	a, err := gpu.ParseAssignment("main=" + grants)
	if err != nil {
		t.Fatal(err)
	}
	return cluster.NewPod(name, "ns/"+name, a)
}

func unplaced(name string, asks ...gpu.Ask) cluster.Pod {
	return cluster.NewUnplacedPod(name, "ns/"+name, gpu.Request{Containers: []gpu.ContainerRequest{{Name: "main", Asks: asks}}})
}

func nodeOf(name string, devices []gpu.Device, pods ...cluster.Pod) *cluster.Node {
	return cluster.NewNode(name, cluster.NewInventory(cluster.SourceSlices, devices), pods)
}

// scrape is every series of the nodes, in the text format, sorted, without comments.
func scrape(t *testing.T, nodes ...*cluster.Node) []string {
	t.Helper()
	registry := metrics.NewKubeRegistry()
	registry.CustomMustRegister(&nodesCollector{nodes: func() []*cluster.Node { return nodes }})
	return gather(t, registry)
}

func gather(t *testing.T, g metrics.Gatherer) []string {
	t.Helper()
	families, err := g.Gather()
	if err != nil {
		t.Fatalf("the scrape fails: %v", err)
	}
	var out []string
	for _, f := range families {
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, fmt.Sprintf("%s=%q", l.GetName(), l.GetValue()))
			}
			out = append(out, fmt.Sprintf("%s{%s} %v", f.GetName(), strings.Join(labels, ","), m.GetGauge().GetValue()+m.GetCounter().GetValue()))
		}
	}
	slices.Sort(out)
	return out
}

func TestSeriesOfNodes(t *testing.T) {
	for name, tc := range map[string]struct {
		nodes []*cluster.Node
		want  []string
	}{
		"no nodes": {},
		"an idle GPU, a shared one, a whole one, an ill one": {
			[]*cluster.Node{nodeOf("n", []gpu.Device{device("g0", 0), device("g1", 1), device("g2", 2), device("g3", 3, unhealthy)},
				pod(t, "x", "g1:250m/20000Mi"), pod(t, "y", "g1:300m/30000Mi"), pod(t, "z", "g2"))},
			[]string{
				`weft_gpu_assigned_memory_mebibytes{gpu="g0",node="n",product="H100"} 0`,
				`weft_gpu_assigned_memory_mebibytes{gpu="g1",node="n",product="H100"} 50000`,
				`weft_gpu_assigned_memory_mebibytes{gpu="g2",node="n",product="H100"} 80000`,
				`weft_gpu_assigned_memory_mebibytes{gpu="g3",node="n",product="H100"} 0`,
				`weft_gpu_assigned_milligpu{gpu="g0",node="n",product="H100"} 0`,
				`weft_gpu_assigned_milligpu{gpu="g1",node="n",product="H100"} 550`,
				`weft_gpu_assigned_milligpu{gpu="g2",node="n",product="H100"} 1000`,
				`weft_gpu_assigned_milligpu{gpu="g3",node="n",product="H100"} 0`,
				`weft_gpu_conflicts{node="n"} 0`,
				`weft_gpu_healthy{gpu="g0",node="n",product="H100"} 1`,
				`weft_gpu_healthy{gpu="g1",node="n",product="H100"} 1`,
				`weft_gpu_healthy{gpu="g2",node="n",product="H100"} 1`,
				`weft_gpu_healthy{gpu="g3",node="n",product="H100"} 0`,
				`weft_gpus_withheld{node="n"} 0`,
			},
		},
		"MIG instances": {
			[]*cluster.Node{nodeOf("n", []gpu.Device{device("m0", 0, mig), device("m1", 1, mig)},
				pod(t, "x", "m0:3g.40gb@4:4,m0:1g.10gb@0:1"), pod(t, "y", "m0:1g.10gb@1:1"))},
			[]string{
				`weft_gpu_assigned_memory_mebibytes{gpu="m0",node="n",product="A100"} 0`,
				`weft_gpu_assigned_memory_mebibytes{gpu="m1",node="n",product="A100"} 0`,
				`weft_gpu_assigned_milligpu{gpu="m0",node="n",product="A100"} 750`,
				`weft_gpu_assigned_milligpu{gpu="m1",node="n",product="A100"} 0`,
				`weft_gpu_conflicts{node="n"} 0`,
				`weft_gpu_healthy{gpu="m0",node="n",product="A100"} 1`,
				`weft_gpu_healthy{gpu="m1",node="n",product="A100"} 1`,
				`weft_gpus_withheld{node="n"} 0`,
				`weft_mig_instance_assigned{gpu="m0",node="n",profile="1g.10gb",start="0"} 1`,
				`weft_mig_instance_assigned{gpu="m0",node="n",profile="1g.10gb",start="1"} 1`,
				`weft_mig_instance_assigned{gpu="m0",node="n",profile="3g.40gb",start="4"} 1`,
			},
		},
		"withheld: GPUs and instances together": {
			[]*cluster.Node{nodeOf("n", nil, unplaced("x", gpu.Ask{Kind: gpu.Whole, Count: 2}), unplaced("y", gpu.Ask{Kind: gpu.MIG, Count: 3, Profile: "1g.10gb"}))},
			[]string{`weft_gpu_conflicts{node="n"} 0`, `weft_gpus_withheld{node="n"} 5`},
		},
		"a GPU that is gone under its pod has no series": {
			[]*cluster.Node{nodeOf("n", nil, pod(t, "x", "g0"))},
			[]string{`weft_gpu_conflicts{node="n"} 0`, `weft_gpus_withheld{node="n"} 0`},
		},
		"a conflict: one GPU twice": {
			[]*cluster.Node{nodeOf("n", []gpu.Device{device("g0", 0), device("g1", 1)},
				pod(t, "x", "g0"), pod(t, "y", "g0"), pod(t, "z", "g1:600m/100Mi"), pod(t, "w", "g1:600m/100Mi"))},
			[]string{
				`weft_gpu_assigned_memory_mebibytes{gpu="g0",node="n",product="H100"} 160000`,
				`weft_gpu_assigned_memory_mebibytes{gpu="g1",node="n",product="H100"} 200`,
				`weft_gpu_assigned_milligpu{gpu="g0",node="n",product="H100"} 2000`,
				`weft_gpu_assigned_milligpu{gpu="g1",node="n",product="H100"} 1200`,
				`weft_gpu_conflicts{node="n"} 2`,
				`weft_gpu_healthy{gpu="g0",node="n",product="H100"} 1`,
				`weft_gpu_healthy{gpu="g1",node="n",product="H100"} 1`,
				`weft_gpus_withheld{node="n"} 0`,
			},
		},
		"a conflict: one instance twice, and at the same start with another size, is one series and no failed scrape": {
			[]*cluster.Node{nodeOf("n", []gpu.Device{device("m0", 0, mig)},
				pod(t, "x", "m0:1g.10gb@0:1"), pod(t, "y", "m0:1g.10gb@0:1"), pod(t, "z", "m0:1g.10gb@0:2"), pod(t, "w", "m0:3g.40gb@0:4"))},
			[]string{
				`weft_gpu_assigned_memory_mebibytes{gpu="m0",node="n",product="A100"} 0`,
				`weft_gpu_assigned_milligpu{gpu="m0",node="n",product="A100"} 500`,
				`weft_gpu_conflicts{node="n"} 1`,
				`weft_gpu_healthy{gpu="m0",node="n",product="A100"} 1`,
				`weft_gpus_withheld{node="n"} 0`,
				`weft_mig_instance_assigned{gpu="m0",node="n",profile="1g.10gb",start="0"} 1`,
				`weft_mig_instance_assigned{gpu="m0",node="n",profile="3g.40gb",start="0"} 1`,
			},
		},
		"GPUs of the same id on two nodes, as labels make them": {
			[]*cluster.Node{nodeOf("a", []gpu.Device{device("gpu-0", 0)}, pod(t, "x", "gpu-0")), nodeOf("b", []gpu.Device{device("gpu-0", 0)})},
			[]string{
				`weft_gpu_assigned_memory_mebibytes{gpu="gpu-0",node="a",product="H100"} 80000`,
				`weft_gpu_assigned_memory_mebibytes{gpu="gpu-0",node="b",product="H100"} 0`,
				`weft_gpu_assigned_milligpu{gpu="gpu-0",node="a",product="H100"} 1000`,
				`weft_gpu_assigned_milligpu{gpu="gpu-0",node="b",product="H100"} 0`,
				`weft_gpu_conflicts{node="a"} 0`,
				`weft_gpu_conflicts{node="b"} 0`,
				`weft_gpu_healthy{gpu="gpu-0",node="a",product="H100"} 1`,
				`weft_gpu_healthy{gpu="gpu-0",node="b",product="H100"} 1`,
				`weft_gpus_withheld{node="a"} 0`,
				`weft_gpus_withheld{node="b"} 0`,
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, scrape(t, tc.nodes...)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestTheCollectorIsSound has the metrics' names and help checked by Prometheus's own linter, and every series by a
// registry that refuses what was not described.
func TestTheCollectorIsSound(t *testing.T) {
	n := nodeOf("n", []gpu.Device{device("m0", 0, mig)}, pod(t, "x", "m0:1g.10gb@2:1"))
	want := `# HELP weft_mig_instance_assigned [ALPHA] 1 for every MIG instance that a pod holds; start is its first memory slice.
# TYPE weft_mig_instance_assigned gauge
weft_mig_instance_assigned{gpu="m0",node="n",profile="1g.10gb",start="2"} 1
`
	c := &nodesCollector{nodes: func() []*cluster.Node { return []*cluster.Node{n} }}
	if err := testutil.CustomCollectAndCompare(c, strings.NewReader(want), "weft_mig_instance_assigned"); err != nil {
		t.Error(err)
	}
}

// TestRegistered goes through what the process serves, and there is one registry in a process: one test for all of it.
func TestRegistered(t *testing.T) {
	Rejected(fit.NoGPU) // before Register: counts nothing and does not panic
	Register()
	Register()
	first := []*cluster.Node{nodeOf("n", []gpu.Device{device("m0", 0, mig)}, pod(t, "x", "m0:1g.10gb@0:1"))}
	RegisterNodes(func() []*cluster.Node { return first })
	RegisterNodes(func() []*cluster.Node { panic("the second function was asked") })
	before, _ := served(t)
	Rejected(fit.Fits)
	Rejected(fit.Reason(200))
	BindingUnknown()
	GangAttempt(GangWasRefused)
	GangPlanned(time.Millisecond)
	GangReleased(time.Second)
	GangDomains(maps.All(map[string]int{"rack": 2}))
	GangPreempted(3)
	var wg sync.WaitGroup
	for range 8 { // as Filter does, for many nodes at once
		wg.Go(func() {
			for range 100 {
				Rejected(fit.InsufficientGPU)
			}
		})
	}
	wg.Wait()
	after, names := served(t)

	// Every reason is there from the start, so that a rate can be taken.
	want := map[string]float64{
		`weft_bindings_unknown_total{}`: before[`weft_bindings_unknown_total{}`] + 1,
		`weft_gang_preemptions_total{}`: before[`weft_gang_preemptions_total{}`] + 1,
		`weft_gang_victims_total{}`:     before[`weft_gang_victims_total{}`] + 3,
	}
	for _, r := range fit.Reasons() {
		series := fmt.Sprintf("weft_rejections_total{reason=%q}", r.String())
		want[series] = before[series]
	}
	want[`weft_rejections_total{reason="InsufficientGPU"}`] += 800
	for _, result := range []string{GangWasPlanned, GangWasRefused, GangErred, GangWasUndone} {
		series := fmt.Sprintf("weft_gang_attempts_total{result=%q}", result)
		want[series] = before[series]
	}
	want[`weft_gang_attempts_total{result="refused"}`]++
	if diff := cmp.Diff(want, after); diff != "" {
		t.Errorf("counters (-want +got):\n%s", diff)
	}

	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]bool{}
	for _, name := range regexp.MustCompile("`(weft_[a-z_]+)`").FindAllStringSubmatch(string(readme), -1) {
		documented[name[1]] = true
	}
	if diff := cmp.Diff(names, documented); diff != "" {
		t.Errorf("README.md (-served +documented):\n%s", diff)
	}
}

// served are our counters, and the names of all our metrics, in what the process serves.
func served(t *testing.T) (counters map[string]float64, names map[string]bool) {
	t.Helper()
	counters, names = map[string]float64{}, map[string]bool{}
	for _, line := range gather(t, legacyregistry.DefaultGatherer) {
		name, _, _ := strings.Cut(line, "{")
		if !strings.HasPrefix(name, "weft_") {
			continue
		}
		names[name] = true
		if strings.HasSuffix(name, "_total") {
			series, value, _ := strings.Cut(line, "} ")
			v, err := strconv.ParseFloat(value, 64)
			if err != nil {
				t.Fatal(err)
			}
			counters[series+"}"] = v
		}
	}
	return counters, names
}
