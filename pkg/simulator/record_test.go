package simulator

import (
	"bytes"
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"weft.sh/weft/pkg/trace"
)

// TestTrail: what is kept of a run agrees with its result, and a run that is recorded goes as one that is not.
func TestTrail(t *testing.T) {
	var nodes []trace.Node
	var pods []trace.Pod
	for i := range 40 {
		nodes = append(nodes, trace.Node{Name: fmt.Sprintf("n-%02d", i), MilliCPU: 64_000, MemoryMiB: 262_144, GPUs: i % 4, Model: "A10"})
		pods = append(pods, trace.Pod{Name: fmt.Sprintf("p-%02d", i), MilliCPU: 1000, MemoryMiB: 1024, GPUs: 1, MilliGPU: int64(1 + i%20*50)})
	}
	w, err := NewWorkload("small", nodes, pods)
	if err != nil {
		t.Fatal(err)
	}
	for _, policy := range PolicyNames() {
		t.Run(policy, func(t *testing.T) {
			run := func(trails bool) []Line {
				l := Lineup{Workloads: []*Workload{w}, Policies: []string{policy}, Seeds: []int64{7, 8}, Load: 1.3, Trails: trails}
				var lines []Line
				if err := l.Run(t.Context(), func(l Line) error { lines = append(lines, l); return nil }, nil); err != nil {
					t.Fatal(err)
				}
				return lines
			}
			lines, without := run(true), run(false)
			for i := range lines {
				plain := lines[i]
				plain.trail, plain.PodsPerSecond = nil, without[i].PodsPerSecond
				if diff := cmp.Diff(without[i], plain, cmp.AllowUnexported(Line{}, point{})); diff != "" {
					t.Errorf("- not recorded, + recorded:\n%s", diff)
				}
			}
			trail := lines[0].Trail()
			// What arrives is less than the load by less than a pod, and a pod here is up to 1.7 percent.
			last := len(trail.Arrived) - 1
			if at := trail.Arrived[last]; at != float64(last)/2 || at < 128 || len(trail.Alloc) != last+1 || len(trail.Frag) != last+1 {
				t.Fatalf("got %d, %d and %d samples, the last at %g", last+1, len(trail.Alloc), len(trail.Frag), at)
			}
			if trail.Alloc[0] != 0 || !slices.IsSorted(trail.Alloc) {
				t.Errorf("allocation does not grow from 0: %v", trail.Alloc)
			}
			if got := rounded(trail.Alloc[last]); got != lines[0].AllocFinal {
				t.Errorf("the last sample is %g, and the result %g", got, lines[0].AllocFinal)
			}
			if got := rounded(trail.Frag[last]); got != lines[0].FragAmountFinal {
				t.Errorf("the last fragments are %g, and the result %g", got, lines[0].FragAmountFinal)
			}
			if n := len(trail.Frames); n < 52 || n > 53 || trail.Frames[n-1].Arrived != trail.Arrived[last] {
				t.Fatalf("got %d frames, the last at %g", n, trail.Frames[n-1].Arrived)
			}
			for _, f := range trail.Frames {
				var sum, want float64
				for _, used := range f.Used {
					sum += float64(used)
				}
				i, _ := slices.BinarySearch(trail.Arrived, f.Arrived)
				want = trail.Alloc[i] / 100 * float64(w.gpus)
				if sum /= 100; len(f.Used) != w.gpus || sum < want-1 || sum > want+1 {
					t.Errorf("at %g percent the GPUs add up to %g, and %g are allocated", f.Arrived, sum, want)
				}
			}
			if !bytes.Equal(trail.Frames[0].Used, make([]byte, w.gpus)) {
				t.Error("the first frame is not of an empty cluster")
			}
			if lines[1].Trail().Frames != nil {
				t.Error("frames of the second seed are kept")
			}
		})
	}
}

func TestFramesAreBounded(t *testing.T) {
	for _, load := range []float64{0.01, 0.1, 1, 1.3, 1.475, 1.5, 2.95, 10} {
		w := &Workload{gpus: 1}
		trail := newTrail(w, load, true)
		r := &run{w: w}
		for r.arrived = 0; r.arrived <= int64(load*1000); r.arrived++ {
			trail.add(r)
		}
		trail.end(r)
		if n := len(trail.Frames); n < 2 || n > maxFrames {
			t.Errorf("load %g: %d frames", load, n)
		}
	}
}

func TestUsedPercent(t *testing.T) {
	for left, want := range map[int64]byte{1000: 0, 999: 1, 996: 1, 985: 2, 500: 50, 5: 99, 1: 99, 0: 100} {
		if got := usedPercent(left); got != want {
			t.Errorf("%d left: got %d, want %d", left, got, want)
		}
	}
}
