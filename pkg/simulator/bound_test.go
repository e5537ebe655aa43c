package simulator

import (
	"math"
	"math/rand"
	"testing"

	"weft.sh/weft/pkg/trace"
)

// TestBounds: bounds of seed 42 that a separate program found with another solver, in percent.
func TestBounds(t *testing.T) {
	for list, want := range map[string]float64{
		"default": 96.91, "cpu100": 96.87, "cpu250": 96.91, "gpushare40": 95.63, "gpushare100": 89.19, "gpuspec10": 96.91, "gpuspec33": 96.43,
		"multigpu20": 97.35, "multigpu50": 98.32,
	} {
		if underRace && list != "gpuspec33" {
			continue
		}
		b, err := openb(t, list).Bound(t.Context(), 42, 1.3)
		if err != nil {
			t.Errorf("%s: %v", list, err)
			continue
		}
		t.Logf("%s: %+v", list, b)
		if math.Abs(b.Bound-want) > 0.02 {
			t.Errorf("%s: bound %.4f, want %.2f", list, b.Bound, want)
		}
	}
}

// TestBoundsOfAFewPods: bounds that can be worked out by hand.
func TestBoundsOfAFewPods(t *testing.T) {
	node := trace.Node{MilliCPU: 10_000, MemoryMiB: 1, GPUs: 2, Model: "T4"}
	tests := map[string]struct {
		nodes        []trace.Node
		pods         []trace.Pod
		stock, types float64
	}{
		"shares that leave a rest": {
			nodes: []trace.Node{node}, pods: []trace.Pod{{GPUs: 1, MilliGPU: 600}, {GPUs: 1, MilliGPU: 600}, {GPUs: 1, MilliGPU: 600}}, stock: 60, types: 90,
		},
		"CPU for half of the GPUs": {
			nodes: []trace.Node{node}, pods: []trace.Pod{{MilliCPU: 10_000, GPUs: 1, MilliGPU: 1000}, {MilliCPU: 10_000, GPUs: 1, MilliGPU: 1000}},
			stock: 100, types: 50,
		},
		"a model for half of them": {
			nodes: []trace.Node{node, {MilliCPU: 10_000, MemoryMiB: 1, GPUs: 2, Model: "A10"}},
			pods:  []trace.Pod{{GPUs: 1, MilliGPU: 1000, Models: []string{"T4"}}, {GPUs: 1, MilliGPU: 1000, Models: []string{"T4"}}, {GPUs: 2, MilliGPU: 1000, Models: []string{"T4"}}},
			stock: 100, types: 50,
		},
		"a pod that fits no node": {
			nodes: []trace.Node{node}, pods: []trace.Pod{{MilliCPU: 10_001, GPUs: 1, MilliGPU: 1000}, {GPUs: 1, MilliGPU: 1000}}, stock: 100, types: 50,
		},
		"two sizes that fill a GPU": {
			nodes: []trace.Node{node}, pods: []trace.Pod{{GPUs: 1, MilliGPU: 700}, {GPUs: 1, MilliGPU: 700}, {GPUs: 1, MilliGPU: 300}, {GPUs: 1, MilliGPU: 300}},
			stock: 100, types: 100,
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			for i := range tc.nodes {
				tc.nodes[i].Name = string(rune('a' + i))
			}
			supply := []float64{}
			for i := range tc.pods {
				tc.pods[i].Name = string(rune('a' + i))
			}
			w, err := NewWorkload(name, tc.nodes, tc.pods)
			if err != nil {
				t.Fatal(err)
			}
			for range w.classes {
				supply = append(supply, 0)
			}
			for _, c := range w.pods {
				supply[c]++
			}
			stock, err := w.cuttingStock(t.Context(), supply)
			if err != nil || math.Abs(100*stock-tc.stock) > 0.01 {
				t.Errorf("cutting stock: %g (%v), want %g", 100*stock, err, tc.stock)
			}
			got, err := w.nodeTypes(t.Context(), supply)
			if err != nil || math.Abs(100*got-tc.types) > 0.01 {
				t.Errorf("node types: %g (%v), want %g", 100*got, err, tc.types)
			}
		})
	}
}

// TestKnapsack: against trying everything.
func TestKnapsack(t *testing.T) {
	r := rand.New(rand.NewSource(1))
	for range 50 {
		sizes := []int64{100 + r.Int63n(900), 100 + r.Int63n(900), 100 + r.Int63n(900)}
		worth := []float64{r.Float64() - 0.1, r.Float64() - 0.1, r.Float64() - 0.1}
		want := 0.0
		for a := range int64(11) {
			for b := range int64(11) {
				for c := range int64(11) {
					if a*sizes[0]+b*sizes[1]+c*sizes[2] <= 1000 {
						want = max(want, float64(a)*worth[0]+float64(b)*worth[1]+float64(c)*worth[2])
					}
				}
			}
		}
		got, counts := knapsack(sizes, worth)
		var room int64
		sum := 0.0
		for i, n := range counts {
			room += int64(n) * sizes[i]
			sum += float64(n) * worth[i]
		}
		if math.Abs(got-want) > 1e-9 || math.Abs(sum-want) > 1e-9 || room > 1000 {
			t.Errorf("sizes %v worth %v: %g with %v, want %g", sizes, worth, got, counts, want)
		}
	}
}
