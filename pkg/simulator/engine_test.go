package simulator

import (
	"context"
	"strings"
	"testing"

	"weft.sh/weft/pkg/trace"
)

// saying is a scheduler that says this about every pod.
type saying struct {
	node string
	gpus []int
	why  string
}

func (s saying) Schedule(context.Context, trace.Pod) (string, []int, string, error) {
	return s.node, s.gpus, s.why, nil
}

func (saying) Close() {}

// TestASchedulerIsNotBelieved: what it says must be possible, and a refusal necessary.
func TestASchedulerIsNotBelieved(t *testing.T) {
	nodes := []trace.Node{{Name: "a", MilliCPU: 1_000, MemoryMiB: 1_000}, {Name: "b", MilliCPU: 4_000, MemoryMiB: 1_000, GPUs: 2, Model: "T4"}}
	w, err := NewWorkload("w", nodes, []trace.Pod{{Name: "p", MilliCPU: 1_000, MemoryMiB: 100, GPUs: 1, MilliGPU: 1000}})
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		says saying
		want string
	}{
		"a node that there is not":      {saying{node: "c", gpus: []int{0}}, `node "c" was chosen, which there is not: a fault of the scheduler`},
		"a node without GPUs":           {saying{node: "a", gpus: []int{0}}, "node 0 has no room"},
		"no GPU":                        {saying{node: "b"}, "0 GPUs were chosen, not 1"},
		"one GPU for two pods":          {saying{node: "b", gpus: []int{0}}, "GPU 0 of node 1 is given out twice"},
		"no, though there is room":      {saying{why: "0/2 nodes "}, "the pod was refused (0/2 nodes), though node b has room: a fault of the scheduler"},
		"an index that no GPU has":      {saying{node: "b", gpus: []int{2}}, "GPU 2 of node 1 was chosen, which there is not"},
		"an index that no GPU can have": {saying{node: "b", gpus: []int{-1}}, "GPU -1 of node 1 was chosen, which there is not"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			start := func(context.Context, []trace.Node) (Scheduler, error) { return tc.says, nil }
			_, err := simulate(t.Context(), w, start, DefaultPolicy, 1, 1, nil, nil, func(int, int) {})
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got error %v, want %q", err, tc.want)
			}
		})
	}
}
