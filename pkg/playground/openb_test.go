package playground

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/util/validation"

	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/podspec"
	"weft.sh/weft/pkg/trace"
)

func TestOpenbNode(t *testing.T) {
	type row struct {
		Name, Type, Product  string
		CPU, Memory          int64
		GPUs                 int
		MemoryOfGPU, Percent int64
	}
	tests := map[string]struct {
		in   trace.Node
		want row
	}{
		"with GPUs": {
			trace.Node{Name: "a", MilliCPU: 64000, MemoryMiB: 262144, GPUs: 2, Model: "P100"},
			row{Name: "a", Type: "openb-2xp100", Product: "P100", CPU: 64000, Memory: 262144, GPUs: 2, MemoryOfGPU: 16384, Percent: 200},
		},
		"without": {
			trace.Node{Name: "b", MilliCPU: 94000, MemoryMiB: 524288},
			row{Name: "b", Type: "openb-cpu", CPU: 94000, Memory: 524288},
		},
		"a model that is not known has some memory": {
			trace.Node{Name: "a", MilliCPU: 1, MemoryMiB: 1, GPUs: 1, Model: "X9"},
			row{Name: "a", Type: "openb-1xx9", Product: "X9", CPU: 1, Memory: 1, GPUs: 1, MemoryOfGPU: 16384, Percent: 100},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			n := OpenbNode(tc.in)
			if err := n.validate(); err != nil {
				t.Fatal(err)
			}
			for key, value := range n.Object().Labels {
				if msgs := validation.IsValidLabelValue(value); len(msgs) > 0 {
					t.Errorf("label %s=%q: %v", key, value, msgs)
				}
			}
			percent := n.Object().Status.Allocatable[podspec.ResourceGPUPercent]
			got := row{Name: n.Name, Type: n.InstanceType, CPU: n.CPUMilli, Memory: n.MemoryMiB, GPUs: len(n.Devices), Percent: percent.Value()}
			if got.GPUs > 0 {
				got.Product, got.MemoryOfGPU = n.Devices[0].Product, n.Devices[0].MemoryMiB
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestOpenbPods(t *testing.T) {
	tests := map[string]struct {
		in      trace.Pod
		want    Pod
		rounded int
	}{
		"whole":      {in: trace.Pod{GPUs: 1, MilliGPU: 1000}, want: Pod{GPUs: 1}},
		"several":    {in: trace.Pod{GPUs: 8, MilliGPU: 1000, Models: []string{"V100M32"}}, want: Pod{GPUs: 8, Products: []string{"V100M32"}}},
		"two shares": {in: trace.Pod{GPUs: 2, MilliGPU: 500}, want: Pod{Percent: 50, Count: 2}},
		"CPU only":   {in: trace.Pod{MilliCPU: 5, MemoryMiB: 7}, want: Pod{CPUMilli: 5, MemoryMiB: 7}},
		"a share, with models in any order and more than once": {
			in:   trace.Pod{GPUs: 1, MilliGPU: 460, Models: []string{"V100M32", "T4", "T4"}},
			want: Pod{Percent: 46, Count: 1, Products: []string{"T4", "V100M32"}},
		},
		"a share that is no whole percent is rounded up":      {in: trace.Pod{GPUs: 1, MilliGPU: 1}, want: Pod{Percent: 1, Count: 1}, rounded: 1},
		"one that is all but a GPU becomes a hundred percent": {in: trace.Pod{GPUs: 1, MilliGPU: 991}, want: Pod{Percent: 100, Count: 1}, rounded: 1},
		"one that is a whole percent stays":                   {in: trace.Pod{GPUs: 1, MilliGPU: 990}, want: Pod{Percent: 99, Count: 1}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			tc.in.Name, tc.want.Name = "p", "p"
			var got OpenbPods
			got.add(tc.in)
			if diff := cmp.Diff(OpenbPods{Pods: []Pod{tc.want}, Rounded: tc.rounded}, got); diff != "" {
				t.Error(diff)
			}
			checkPods(t, got.Pods)
		})
	}
}

// checkPods: every pod means to the scheduler what it means here.
func checkPods(t *testing.T, pods []Pod) {
	t.Helper()
	for _, p := range pods {
		r, err := podspec.Request(p.Object())
		if err != nil {
			t.Fatalf("pod %+v: %v", p, err)
		}
		want := p.GPUs*gpu.WholeMilliGPU + p.Percent*10*max(1, p.Count)
		if r.MilliGPU() != want {
			t.Fatalf("pod %+v asks for %d milli-GPU, want %d", p, r.MilliGPU(), want)
		}
		if diff := cmp.Diff(p.Products, r.Products); !r.Empty() && diff != "" {
			t.Fatalf("pod %+v: products: %s", p, diff)
		}
	}
}

// dataDir is the folder with the traces, which lie beside the repository; the test is skipped without them.
func dataDir(t *testing.T) string {
	t.Helper()
	dir := os.Getenv("WEFT_DATA")
	if dir == "" {
		root, err := RepositoryRoot()
		if err != nil {
			t.Fatal(err)
		}
		dir = filepath.Join(root, "..", "shared", "data")
	}
	if _, err := os.Stat(filepath.Join(dir, "openb")); err != nil {
		if os.Getenv("WEFT_REQUIRE_DATA") == "1" {
			t.Fatalf("the traces are missing, and WEFT_REQUIRE_DATA is 1: %v", err)
		}
		t.Skipf("the traces are missing: name their folder in WEFT_DATA (%v)", err)
	}
	return filepath.Join(dir, "openb")
}

func TestOpenbTraces(t *testing.T) {
	dir := dataDir(t)
	nodes, _, err := LoadOpenb(filepath.Join(dir, "openb_node_list_gpu_node.csv"), "", 0)
	if err != nil {
		t.Fatal(err)
	}
	if len(nodes) != 1213 || Capacity(nodes) != 6212*gpu.WholeMilliGPU {
		t.Errorf("%d nodes with %d milli-GPU, want 1213 with 6212000", len(nodes), Capacity(nodes))
	}
	for _, n := range nodes {
		if err := n.validate(); err != nil {
			t.Error(err)
		}
	}
	lists, err := filepath.Glob(filepath.Join(dir, "openb_pod_list_*.csv"))
	if err != nil || len(lists) == 0 {
		t.Fatalf("no pod lists in %s (%v)", dir, err)
	}
	for _, list := range lists {
		_, pods, err := LoadOpenb(filepath.Join(dir, "openb_node_list_all_node.csv"), list, 0)
		if err != nil {
			t.Error(err)
			continue
		}
		if len(pods.Pods) < 7000 || pods.Rounded > 0 {
			t.Errorf("%s: %d pods, %d rounded; want more than 7000 in whole percents", filepath.Base(list), len(pods.Pods), pods.Rounded)
		}
		checkPods(t, pods.Pods)
	}
}
