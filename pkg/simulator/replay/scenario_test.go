package replay

import (
	"errors"
	"os"
	"strings"
	"testing"
)

// TestExample replays the example of the documentation by every policy.
func TestExample(t *testing.T) {
	const file = "../../../docs/examples/replay.yaml"
	for _, policy := range PolicyNames() {
		f, err := os.Open(file)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		in, err := Scenario(f, file)
		if err != nil {
			t.Fatal(err)
		}
		_, r := run(t, in, policy)
		if r.Jobs != 75 || r.Gangs != 11 || r.Finished != 75 {
			t.Errorf("%s: %d jobs, %d gangs, %d finished: want 75, 11 and 75; %v", policy, r.Jobs, r.Gangs, r.Finished, r.RefusedWhere)
		}
		if len(r.Queues) != 4 || len(r.Series.Points) == 0 || len(r.Series.Points) > maxPoints {
			t.Errorf("%s: %d queues, %d points", policy, len(r.Queues), len(r.Series.Points))
		}
	}
}

func TestScenarioErrors(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"unknown field of the file":  {"nods: []", `s.yaml: unknown field "nods"`},
		"unknown field of a part":    {"nodes: [{name: a, gpu: 8}]", `s.yaml: nodes[0] unknown field "gpu"`},
		"wrong type":                 {"nodes: [{name: a, gpus: many}]", "s.yaml: nodes[0].gpus is a string: want a int"},
		"a field twice":              {"nodes: []\nnodes: []", `line 2: key "nodes" already set in map`},
		"no nodes":                   {"jobs: []", "s.yaml: nodes is empty: want at least one group of nodes"},
		"a name that is none":        {"nodes: [{name: A_b}]", `s.yaml: nodes[0].name is "A_b"`},
		"a node twice":               {"nodes: [{name: a}, {name: a}]", "s.yaml: nodes[1].name makes a second node a"},
		"a level that is not listed": {"nodes: [{name: a, levels: {rack: x}}]", `s.yaml: nodes[0].levels has "rack"`},
		"a negative duration": {
			"nodes: [{name: a, gpus: 1}]\njobs: [{name: j, runtime: -3h, gpus: 1}]",
			`s.yaml: jobs[0].runtime is "-3h": want a duration of at least 1s, such as 90m`,
		},
		"no run time":     {"nodes: [{name: a}]\njobs: [{name: j, gpus: 1}]", `s.yaml: jobs[0].runtime is ""`},
		"no GPUs":         {"nodes: [{name: a}]\njobs: [{name: j, runtime: 1h}]", "s.yaml: jobs[0] asks for 0 whole GPUs: count 0: want 1 to"},
		"two ways":        {"nodes: [{name: a}]\njobs: [{name: j, runtime: 1h, percent: 5, mig: 1g.10gb}]", "s.yaml: jobs[0] asks for a percentage and for MIG"},
		"unknown profile": {"nodes: [{name: a}]\njobs: [{name: j, runtime: 1h, mig: 1g.10gb}]", `s.yaml: jobs[0].mig is "1g.10gb"`},
		"unknown queue":   {"nodes: [{name: a}]\njobs: [{name: j, queue: q, runtime: 1h, gpus: 1}]", `s.yaml: jobs[0].queue is "q"`},
		"too many needed": {"nodes: [{name: a}]\njobs: [{name: j, runtime: 1h, gpus: 1, minMember: 2}]", "s.yaml: jobs[0].minMember is 2: want 1 to 1"},
		"queues that contradict": {
			"nodes: [{name: a}]\nqueues: [{name: q, parent: p}]", "s.yaml: queues queue q: parent p does not exist",
		},
		"unknown period":             {"nodes: [{name: a}]\nqueues: [{name: q, hours: {period: hour}}]", `s.yaml: queues[0].hours.period is "hour"`},
		"a failure of no node":       {"nodes: [{name: a}]\nfailures: [{node: b}]", `s.yaml: failures[0].node is "b": want a node, such as a`},
		"a failure within a failure": {"nodes: [{name: a}]\nfailures: [{node: a, for: 2h}, {node: a, at: 1h}]", "s.yaml: failures node a fails again"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Scenario(strings.NewReader(c.text), "s.yaml")
			if !errors.Is(err, ErrScenario) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v\nwant %s", err, c.want)
			}
		})
	}
}

func TestJobThatFitsNoNode(t *testing.T) {
	_, r := replayed(t, twoNodes+"jobs: [{name: big, runtime: 1h, gpus: 8, members: 3}, {name: wide, runtime: 1h, gpus: 9}, {name: ok, runtime: 1h, gpus: 8}]", "fifo")
	if r.Refused != 2 || r.Finished != 1 || len(r.RefusedWhere) != 2 || !strings.Contains(r.RefusedWhere[0], "test.yaml: jobs[0]: job big: it fits no node") {
		t.Errorf("%d refused, %d finished, %q", r.Refused, r.Finished, r.RefusedWhere)
	}
}

func FuzzScenario(f *testing.F) {
	f.Add(twoNodes + "jobs: [{name: j, runtime: 1h, gpus: 1}]")
	f.Add("start: 2026-01-05T00:00:00Z\nlevels: [rack]\nnodes: [{name: a, mig: true, levels: {rack: x}}]\nfailures: [{node: a, at: 1h, for: 1s}]")
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > 4096 || strings.Contains(text, "ount") { // counts make many
			t.Skip()
		}
		if _, err := Scenario(strings.NewReader(text), "s.yaml"); err != nil && !errors.Is(err, ErrScenario) {
			t.Errorf("%v", err)
		}
	})
}
