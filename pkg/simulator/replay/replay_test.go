package replay

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"weft.sh/weft/pkg/fit"
)

// history is when each job started, in the order of its runs, and when it ended.
type history map[string][]string

// replayed runs a scenario by a policy and checks the state after each second.
func replayed(t *testing.T, text, policy string) (history, *Result) {
	t.Helper()
	in, err := Scenario(strings.NewReader(text), "test.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return run(t, in, policy)
}

func run(t *testing.T, in *Input, policy string) (history, *Result) {
	t.Helper()
	policies, err := ParsePolicies([]string{policy})
	if err != nil {
		t.Fatal(err)
	}
	e, err := newEngine(in, policies[0], fit.BestFitName)
	if err != nil {
		t.Fatal(err)
	}
	got := history{}
	runs, seen := map[*job]int{}, map[string]bool{}
	e.after = func() error {
		now := (time.Duration(e.now-in.Start) * time.Second).String()
		there := map[string]bool{}
		for _, j := range e.bySeq() {
			there[j.Name], seen[j.Name] = true, true
			if runs[j] != j.run+1 {
				runs[j] = j.run + 1
				got[j.Name] = append(got[j.Name], now)
			}
		}
		waits := map[string]bool{}
		for _, j := range e.waiting {
			waits[j.Name] = true
		}
		for name := range seen {
			if !there[name] && !waits[name] {
				got[name] = append(got[name], "end "+now)
				delete(seen, name)
			}
		}
		return e.sound()
	}
	if err := e.simulate(t.Context()); err != nil {
		t.Fatal(err)
	}
	return got, e.result()
}

const twoNodes = `
nodes:
- {name: node, count: 2, model: H, gpus: 8}
`

func TestReplay(t *testing.T) {
	blocked := twoNodes + `
jobs:
- {name: long, at: 0s, runtime: 1h, gpus: 8}
- {name: gang, at: 1m, runtime: 1h, gpus: 8, members: 2}
- {name: short, at: 2m, runtime: 30m, gpus: 8}
- {name: late, at: 3m, runtime: 2h, gpus: 8}
`
	guaranteed := `
nodes:
- {name: node, model: H, gpus: 8}
queues:
- {name: a, guaranteed: 4}
- {name: b, guaranteed: 4}
jobs:
- {name: borrower, queue: a, at: 0s, runtime: 10h, gpus: 2, count: 4, every: 10m}
- {name: owner, queue: b, at: 1h, runtime: 1h, gpus: 4}
`
	for name, c := range map[string]struct {
		text, policy string
		want         history
		check        func(*testing.T, *Result)
	}{
		"a short job overtakes a gang that has no room, one that would delay it does not": {
			text: blocked, policy: "weft",
			want: history{
				"long": {"0s", "end 1h0m0s"}, "gang": {"1h0m0s", "end 2h0m0s"}, "short": {"2m0s", "end 32m0s"}, "late": {"2h0m0s", "end 4h0m0s"},
			},
		},
		"EASY backfill without queues does the same": {
			text: blocked, policy: "backfill",
			want: history{
				"long": {"0s", "end 1h0m0s"}, "gang": {"1h0m0s", "end 2h0m0s"}, "short": {"2m0s", "end 32m0s"}, "late": {"2h0m0s", "end 4h0m0s"},
			},
		},
		"first in first out lets nobody overtake": {
			text: blocked, policy: "fifo",
			want: history{
				"long": {"0s", "end 1h0m0s"}, "gang": {"1h0m0s", "end 2h0m0s"}, "short": {"2h0m0s", "end 2h30m0s"}, "late": {"2h0m0s", "end 4h0m0s"},
			},
		},
		"where nothing is kept a gang starves behind those that fit": {
			text: blocked, policy: "greedy",
			want: history{
				"long": {"0s", "end 1h0m0s"}, "gang": {"2h32m0s", "end 3h32m0s"}, "short": {"2m0s", "end 32m0s"}, "late": {"32m0s", "end 2h32m0s"},
			},
		},
		"pods one by one hold what they have until the rest of the gang follows": {
			text: blocked, policy: "podwise",
			want: history{
				"long": {"0s", "end 1h0m0s"}, "gang": {"1h0m0s", "end 2h0m0s"}, "short": {"2h0m0s", "end 2h30m0s"}, "late": {"2h0m0s", "end 4h0m0s"},
			},
			check: func(t *testing.T, r *Result) {
				if r.IncompleteGPUHours != 7.867 { // 8 GPUs from 1m to 1h
					t.Errorf("%v GPU-hours of incomplete gangs, want 7.867", r.IncompleteGPUHours)
				}
			},
		},
		"a guarantee is taken back from those that did least, whose work is lost": {
			text: guaranteed, policy: "weft",
			want: history{
				"borrower-0": {"0s", "end 10h0m0s"}, "borrower-1": {"10m0s", "end 10h10m0s"},
				"borrower-2": {"20m0s", "2h0m0s", "end 12h0m0s"}, "borrower-3": {"30m0s", "2h0m0s", "end 12h0m0s"}, "owner": {"1h0m0s", "end 2h0m0s"},
			},
			check: func(t *testing.T, r *Result) {
				if r.Evictions != 2 || r.LostGPUHours != 2.333 { // 2 GPUs for 40 and for 30 minutes
					t.Errorf("%d evictions, %v GPU-hours lost, want 2 and 2.333", r.Evictions, r.LostGPUHours)
				}
			},
		},
		"without reclaim it waits for those that borrowed it": {
			text: guaranteed, policy: "noreclaim",
			want: history{
				"borrower-0": {"0s", "end 10h0m0s"}, "borrower-1": {"10m0s", "end 10h10m0s"}, "borrower-2": {"20m0s", "end 10h20m0s"},
				"borrower-3": {"30m0s", "end 10h30m0s"}, "owner": {"10h10m0s", "end 11h10m0s"},
			},
		},
		"a node that fails costs a gang what it did, and it starts anew when there is room": {
			text: twoNodes + `
jobs:
- {name: gang, at: 0s, runtime: 3h, gpus: 8, members: 2}
failures:
- {node: node-1, at: 1h, for: 1h}
`, policy: "weft",
			want: history{"gang": {"0s", "2h0m0s", "end 5h0m0s"}},
			check: func(t *testing.T, r *Result) {
				if r.FailureGPUHours != 16 || r.Evictions != 0 || r.AllocMean != 88.8889 { // 16 + 48 of 16 + 8 + 48
					t.Errorf("%v GPU-hours lost, %d evictions, allocated %v, want 16, 0 and 88.8889", r.FailureGPUHours, r.Evictions, r.AllocMean)
				}
			},
		},
		"an elastic gang goes on without the members that it can do without": {
			text: twoNodes + `
jobs:
- {name: gang, at: 0s, runtime: 3h, gpus: 8, members: 2, minMember: 1}
failures:
- {node: node-1, at: 1h}
`, policy: "weft",
			want: history{"gang": {"0s", "end 3h0m0s"}},
		},
		"hours that are used up hold a job until the period turns": {
			text: `
nodes:
- {name: node, model: H, gpus: 8}
queues:
- {name: q, hours: {limit: 8, period: day}}
jobs:
- {name: first, queue: q, at: 0s, runtime: 45m, gpus: 8}
- {name: second, queue: q, at: 2h, runtime: 1h, gpus: 8}
- {name: small, queue: q, at: 3h, runtime: 1h, gpus: 2}
`, policy: "fifo",
			want: history{"first": {"0s", "end 45m0s"}, "second": {"24h0m0s", "end 25h0m0s"}, "small": {"3h0m0s", "end 4h0m0s"}},
		},
		"a budget that drains ends what runs when it is used up": {
			text: `
nodes:
- {name: node, model: H, gpus: 8}
queues:
- {name: q, hours: {limit: 16, period: day, enforcement: drain}}
jobs:
- {name: first, queue: q, at: 0s, runtime: 1h, gpus: 8}
- {name: liar, queue: q, at: 2h, runtime: 2h, says: 1h, gpus: 8}
`, policy: "weft",
			want: history{"first": {"0s", "end 1h0m0s"}, "liar": {"2h0m0s", "24h0m0s", "end 26h0m0s"}},
		},
		"a limit is kept": {
			text: `
nodes:
- {name: node, model: H, gpus: 8}
queues:
- {name: q, limit: 4}
jobs:
- {name: job, queue: q, at: 0s, runtime: 1h, gpus: 2, count: 3}
- {name: never, queue: q, at: 0s, runtime: 1h, gpus: 5}
`, policy: "weft",
			want: history{"job-0": {"0s", "end 1h0m0s"}, "job-1": {"0s", "end 1h0m0s"}, "job-2": {"1h0m0s", "end 2h0m0s"}},
			check: func(t *testing.T, r *Result) {
				want := []string{"test.yaml: jobs[1]: job never: the job needs 5 GPUs, queue q never has more than 4"}
				if d := cmp.Diff(want, r.RefusedWhere); d != "" || r.Refused != 1 {
					t.Errorf("%d refused (-want +got):\n%s", r.Refused, d)
				}
			},
		},
		"a higher priority takes the place of a lower one of its queue": {
			text: `
nodes:
- {name: node, model: H, gpus: 8}
jobs:
- {name: low, at: 0s, runtime: 2h, gpus: 8}
- {name: high, at: 1h, runtime: 1h, gpus: 8, priority: 10}
`, policy: "weft",
			want: history{"low": {"0s", "2h0m0s", "end 4h0m0s"}, "high": {"1h0m0s", "end 2h0m0s"}},
		},
		"a gang stays within the level that it requires": {
			text: `
levels: [rack]
nodes:
- {name: a, count: 2, model: H, gpus: 8, levels: {rack: a}}
- {name: b, count: 2, model: H, gpus: 8, levels: {rack: b}}
jobs:
- {name: first, at: 0s, runtime: 1h, gpus: 8}
- {name: other, at: 0s, runtime: 2h, gpus: 5, members: 2, topology: {required: rack}}
- {name: second, at: 1m, runtime: 1h, gpus: 8, members: 2, topology: {required: rack}}
`, policy: "weft",
			want: history{"first": {"0s", "end 1h0m0s"}, "other": {"0s", "end 2h0m0s"}, "second": {"1h0m0s", "end 2h0m0s"}},
		},
		"shares and MIG instances": {
			text: `
nodes:
- {name: node, model: H, gpus: 1}
- {name: parted, model: NVIDIA-H100-80GB-HBM3, gpus: 1, mig: true}
jobs:
- {name: share, at: 0s, runtime: 1h, percent: 50, count: 3}
- {name: mig, at: 0s, runtime: 1h, mig: 3g.40gb, count: 3}
`, policy: "weft",
			want: history{
				"share-0": {"0s", "end 1h0m0s"}, "share-1": {"0s", "end 1h0m0s"}, "share-2": {"1h0m0s", "end 2h0m0s"},
				"mig-0": {"0s", "end 1h0m0s"}, "mig-1": {"0s", "end 1h0m0s"}, "mig-2": {"1h0m0s", "end 2h0m0s"},
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, r := replayed(t, c.text, c.policy)
			if d := cmp.Diff(c.want, got); d != "" {
				t.Errorf("starts and ends (-want +got):\n%s", d)
			}
			if c.check != nil {
				c.check(t, r)
			}
			if c.policy != "podwise" && r.IncompleteGPUHours != 0 {
				t.Errorf("incomplete gangs held %v GPU-hours", r.IncompleteGPUHours)
			}
		})
	}
}

func TestTheSameTwice(t *testing.T) {
	for _, policy := range PolicyNames() {
		var before []byte
		for range 2 {
			_, r := run(t, randomInput(7), policy)
			got, err := json.Marshal(r)
			if err != nil {
				t.Fatal(err)
			}
			if before != nil && string(before) != string(got) {
				t.Errorf("%s: two runs differ:\n%s\n%s", policy, before, got)
			}
			before = got
		}
	}
}
