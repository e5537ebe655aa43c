package simulator

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"weft.sh/weft/pkg/simulator/framework"
	"weft.sh/weft/pkg/trace"
)

// decision is where a pod went: the name of a node, empty for one that was dropped, and the indexes of its GPUs.
type decision struct {
	Node string
	GPUs []int
}

// decisions lets pods arrive and places them.
func decisions(t *testing.T, w *Workload, r *run, arriving []int) (out []decision) {
	t.Helper()
	for i, id := range arriving {
		c := &w.classes[id]
		place, gpus, err := r.decide(t.Context(), c)
		if err != nil {
			t.Fatalf("pod %d: %v", i, err)
		}
		var d decision
		if place != nowhere {
			if err := r.place(place, gpus, c); err != nil {
				t.Fatalf("pod %d: %v", i, err)
			}
			d = decision{w.nodes[r.order[place]].Name, slices.Sorted(slices.Values(gpus))}
		}
		out = append(out, d)
	}
	checkState(t, w, r)
	return out
}

// all has the scheduler look at every node, as engine core does.
func all() framework.Options { return framework.Options{PercentageOfNodesToScore: new(int32(100))} }

// inFramework is a run in engine framework.
func inFramework(t *testing.T, w *Workload, o framework.Options) *run {
	t.Helper()
	s, err := framework.Start(t.Context(), w.nodes, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return newOutside(w, s)
}

// TestBothEnginesDecideTheSame: pod by pod, node and GPUs.
func TestBothEnginesDecideTheSame(t *testing.T) {
	tests := map[string]struct {
		workload func(*testing.T) *Workload
		load     float64
		refused  bool // some pods must be, else the test shows little
	}{
		"a list made up":           {func(t *testing.T) *Workload { return small(t, 1) }, 1.5, true},
		"another":                  {func(t *testing.T) *Workload { return small(t, 2) }, 1.5, true},
		"a part of list default":   {func(t *testing.T) *Workload { return part(t, "default") }, 1.1, true},
		"a part of list gpuspec33": {func(t *testing.T) *Workload { return part(t, "gpuspec33") }, 1.1, true},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			w := tc.workload(t)
			arriving, _, _, err := w.arrivals(42, tc.load)
			if err != nil {
				t.Fatal(err)
			}
			want := decisions(t, w, start(t, w, DefaultPolicy, 42), arriving)
			got := decisions(t, w, inFramework(t, w, all()), arriving)
			for i := range want {
				if diff := cmp.Diff(want[i], got[i]); diff != "" {
					t.Fatalf("pod %d of %d, %+v (- core, + framework):\n%s", i, len(arriving), w.classes[arriving[i]], diff)
				}
			}
			refused := slices.ContainsFunc(want, func(d decision) bool { return d.Node == "" })
			if refused != tc.refused {
				t.Errorf("some of %d pods are refused: %v, want %v", len(want), refused, tc.refused)
			}
		})
	}
}

// part is every twelfth node of the openb trace, with all pods of a list.
func part(t *testing.T, list string) *Workload {
	t.Helper()
	w := openb(t, list)
	var nodes []trace.Node
	for i := 0; i < len(w.nodes); i += 12 {
		nodes = append(nodes, w.nodes[i])
	}
	var pods []trace.Pod
	for i, id := range w.pods {
		c := w.classes[id]
		if i%20 == 0 {
			pods = append(pods, trace.Pod{MilliCPU: c.milliCPU, MemoryMiB: c.memoryMiB, GPUs: c.gpus, MilliGPU: c.milliGPU, Models: c.models})
		}
	}
	w, err := NewWorkload(list, nodes, pods)
	if err != nil {
		t.Fatal(err)
	}
	return w
}
