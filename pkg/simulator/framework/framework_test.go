package framework_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"weft.sh/weft/pkg/simulator"
	"weft.sh/weft/pkg/simulator/framework"
	"weft.sh/weft/pkg/trace"
)

// decisions are those of a run of the workload, by the scheduler or, if it is nil, by engine core.
func decisions(t *testing.T, w *simulator.Workload, start simulator.StartScheduler, load float64) (out []simulator.Decision) {
	t.Helper()
	lineup := simulator.Lineup{
		Workloads: []*simulator.Workload{w}, Policies: []string{simulator.DefaultPolicy}, Seeds: []int64{42}, Load: load,
		Scheduler: start, Decided: func(d simulator.Decision) { out = append(out, d) },
	}
	if err := lineup.Run(t.Context(), func(simulator.Line) error { return nil }, nil); err != nil {
		t.Fatal(err)
	}
	return out
}

// shipped starts the scheduler that is shipped, and all one that looks at every node, as engine core does.
func shipped(ctx context.Context, nodes []trace.Node) (simulator.Scheduler, error) {
	return framework.Start(ctx, nodes, framework.Options{})
}

func all(ctx context.Context, nodes []trace.Node) (simulator.Scheduler, error) {
	return framework.Start(ctx, nodes, framework.Options{PercentageOfNodesToScore: new(int32(100))})
}

// TestBothEnginesDecideTheSame: pod by pod, node and GPUs.
func TestBothEnginesDecideTheSame(t *testing.T) {
	tests := map[string]func(*testing.T) *simulator.Workload{
		"a list made up":            func(t *testing.T) *simulator.Workload { return madeUp(t, 1, 12) },
		"another":                   func(t *testing.T) *simulator.Workload { return madeUp(t, 2, 30) },
		"a part of list default":    func(t *testing.T) *simulator.Workload { return part(t, "default") },
		"a part of list gpuspec33":  func(t *testing.T) *simulator.Workload { return part(t, "gpuspec33") },
		"a part of list multigpu50": func(t *testing.T) *simulator.Workload { return part(t, "multigpu50") },
	}
	for name, workload := range tests {
		t.Run(name, func(t *testing.T) {
			w := workload(t)
			want, got := decisions(t, w, nil, 1.2), decisions(t, w, all, 1.2)
			if len(want) != len(got) {
				t.Fatalf("%d pods in engine core, %d in engine framework", len(want), len(got))
			}
			for i := range want {
				if diff := cmp.Diff(want[i], got[i]); diff != "" {
					t.Fatalf("pod %d of %d (- core, + framework):\n%s", i, len(want), diff)
				}
			}
			if !slices.ContainsFunc(want, func(d simulator.Decision) bool { return d.Node == "" }) {
				t.Errorf("all of %d pods found a place: the list shows too little", len(want))
			}
		})
	}
}

// TestTheFrameworkRepeatsItself: which nodes are looked at is no matter of luck, nor is which of them is taken.
func TestTheFrameworkRepeatsItself(t *testing.T) {
	w := madeUp(t, 3, 180)
	want := decisions(t, w, shipped, 0.4)
	if diff := cmp.Diff(want, decisions(t, w, shipped, 0.4)); diff != "" {
		t.Errorf("the same again is not the same (- once, + again):\n%s", diff)
	}
	if cmp.Equal(want, decisions(t, w, nil, 0.4)) {
		t.Error("with every node looked at it is the same: the list shows nothing")
	}
}

// TestTheFrameworkEndsWithItsContext: a run is interrupted in the middle, and nothing of it is left.
func TestTheFrameworkEndsWithItsContext(t *testing.T) {
	w := madeUp(t, 1, 12)
	decisions(t, w, shipped, 0.1) // what the process itself has is there from now on
	before := runtime.NumGoroutine()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	lineup := simulator.Lineup{
		Workloads: []*simulator.Workload{w}, Policies: []string{simulator.DefaultPolicy}, Seeds: []int64{1, 2}, Load: 1.3,
		Scheduler: shipped, Decided: func(simulator.Decision) { cancel() },
	}
	err := lineup.Run(ctx, func(l simulator.Line) error { return fmt.Errorf("a result: %+v", l) }, nil)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got error %v, want that it was interrupted", err)
	}
	for deadline := time.Now().Add(time.Minute); runtime.NumGoroutine() > before; runtime.Gosched() {
		if time.Now().After(deadline) {
			stacks := make([]byte, 1<<20)
			t.Fatalf("%d goroutines before, %d after:\n%s", before, runtime.NumGoroutine(), stacks[:runtime.Stack(stacks, true)])
		}
	}
}

// TestAShareThatNoPodCanAskFor: the API has hundredths.
func TestAShareThatNoPodCanAskFor(t *testing.T) {
	s, err := shipped(t.Context(), []trace.Node{{Name: "a", MilliCPU: 4_000, MemoryMiB: 1_000, GPUs: 2, Model: "T4"}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	_, _, _, err = s.Schedule(t.Context(), trace.Pod{MilliCPU: 1, MemoryMiB: 1, GPUs: 1, MilliGPU: 455})
	if !errors.Is(err, framework.ErrNoHundredths) {
		t.Errorf("got error %v, want %v", err, framework.ErrNoHundredths)
	}
}

// madeUp is a workload of so many nodes that needs no data.
func madeUp(t *testing.T, seed int64, count int) *simulator.Workload {
	t.Helper()
	r := rand.New(rand.NewSource(seed))
	shapes := []trace.Node{
		{MilliCPU: 32_000, MemoryMiB: 131_072, GPUs: 2, Model: "T4"},
		{MilliCPU: 96_000, MemoryMiB: 262_144, GPUs: 8, Model: "A10"},
		{MilliCPU: 64_000, MemoryMiB: 262_144, GPUs: 4, Model: "T4"},
		{MilliCPU: 16_000, MemoryMiB: 65_536},
	}
	var nodes []trace.Node
	for i := range count {
		n := shapes[(i+r.Intn(2))%len(shapes)]
		n.Name = fmt.Sprintf("node-%03d", i)
		nodes = append(nodes, n)
	}
	classes := []trace.Pod{
		{MilliCPU: 4_000, MemoryMiB: 8_192},
		{MilliCPU: 4_000, MemoryMiB: 16_384, GPUs: 1, MilliGPU: 1000},
		{MilliCPU: 2_000, MemoryMiB: 8_192, GPUs: 1, MilliGPU: 330},
		{MilliCPU: 6_000, MemoryMiB: 65_536, GPUs: 1, MilliGPU: 810},
		{MilliCPU: 8_000, MemoryMiB: 32_768, GPUs: 2, MilliGPU: 1000},
		{MilliCPU: 1_000, MemoryMiB: 1_024, GPUs: 1, MilliGPU: 250, Models: []string{"T4", "P100"}},
		{MilliCPU: 1_000, MemoryMiB: 1_024, GPUs: 2, MilliGPU: 400},
		{MilliCPU: 60_000, MemoryMiB: 65_536, GPUs: 8, MilliGPU: 1000, Models: []string{"A10"}},
	}
	var pods []trace.Pod
	for i := range 5 * count {
		p := classes[r.Intn(len(classes))]
		p.Name = fmt.Sprintf("pod-%04d", i)
		pods = append(pods, p)
	}
	return workload(t, "made up", nodes, pods)
}

// part is every twelfth node of the openb trace, with as large a part of a list's pods.
func part(t *testing.T, list string) *simulator.Workload {
	t.Helper()
	dir := os.Getenv("WEFT_DATA")
	if dir == "" {
		dir = filepath.Join("..", "..", "..", "..", "shared", "data")
	}
	dir = filepath.Join(dir, "openb")
	if _, err := os.Stat(dir); err != nil {
		if os.Getenv("WEFT_REQUIRE_DATA") == "1" {
			t.Fatalf("the traces are missing, and WEFT_REQUIRE_DATA is 1: %v", err)
		}
		t.Skipf("the traces are missing: name their folder in WEFT_DATA (%v)", err)
	}
	nodes, pods, err := trace.Load(filepath.Join(dir, "openb_node_list_gpu_node.csv"), filepath.Join(dir, "openb_pod_list_"+list+".csv"), 0)
	if err != nil {
		t.Fatal(err)
	}
	return workload(t, list, every(12, nodes), every(16, pods))
}

// every is one of each n.
func every[T any](n int, list []T) (out []T) {
	for i := 0; i < len(list); i += n {
		out = append(out, list[i])
	}
	return out
}

func workload(t *testing.T, name string, nodes []trace.Node, pods []trace.Pod) *simulator.Workload {
	t.Helper()
	w, err := simulator.NewWorkload(name, nodes, pods)
	if err != nil {
		t.Fatal(err)
	}
	return w
}
