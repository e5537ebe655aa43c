package replay

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestDetail: what is told of queues and sizes of gangs is of the jobs that arrived, and of those that started and ended.
func TestDetail(t *testing.T) {
	in, err := Scenario(strings.NewReader(`
nodes:
- {name: node, count: 2, model: H, gpus: 8}
queues:
- {name: a, guaranteed: 8}
- {name: b, guaranteed: 8}
- {name: empty}
jobs:
- {name: long, queue: a, at: 0s, runtime: 30m, gpus: 8}
- {name: gang, queue: a, at: 0s, runtime: 20m, gpus: 4, members: 2}
- {name: next, queue: a, at: 10m, runtime: 10m, gpus: 4, members: 2}
- {name: share, queue: b, at: 25m, runtime: 1m, gpus: 1}
`), "test.yaml")
	if err != nil {
		t.Fatal(err)
	}
	_, r := run(t, in, "fifo")
	want := &Detail{
		Queues: []QueueDetail{
			{Queue: "a", Wait: &Spread{0, 0, 0, 600, 600, 600}, Completion: &Spread{1200, 1200, 1200, 1800, 1800, 1800}},
			{Queue: "b", Wait: &Spread{300, 300, 300, 300, 300, 300}, Completion: &Spread{360, 360, 360, 360, 360, 360}},
			{Queue: "empty"},
		},
		Gangs: []GangDetail{{GPUs: 8, Count: 2, Wait: &Spread{0, 0, 0, 600, 600, 600}}},
	}
	if diff := cmp.Diff(want, r.Detail); diff != "" {
		t.Error(diff)
	}
}
