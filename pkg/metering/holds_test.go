package metering

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"weft.sh/weft/pkg/cluster"
	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/slot"
)

// start is when every test begins; at is seconds after it.
var start = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

func at(seconds float64) time.Time { return start.Add(time.Duration(seconds * float64(time.Second))) }

// bound is the record of what the container of pod ns/<uid> has by the assignment, bound since then.
func bound(t *testing.T, uid, assignment, container string, since time.Time) slot.Record {
	t.Helper()
	a, err := gpu.ParseAssignment(assignment)
	if err != nil {
		t.Fatal(err)
	}
	r := slot.Record{Name: fmt.Sprintf("%s-%s-%d", uid, container, since.UnixNano()), Slots: []string{"slot"}, Allocated: since}
	r.Holder = &slot.Holder{Namespace: "ns", Pod: "pod-" + uid, UID: uid, Container: container, Assignment: assignment, Bound: since}
	for _, c := range a.Containers {
		if c.Container == container {
			r.Holder.Grants = append(r.Holder.Grants, c.Grants...)
		}
	}
	if len(r.Holder.Grants) == 0 {
		t.Fatalf("container %s has nothing in %s", container, assignment)
	}
	r.Resource.Kind = r.Holder.Grants[0].Kind()
	return r
}

func bookOf(records ...slot.Record) slot.Book {
	var b slot.Book
	for _, r := range records {
		b = b.With(r)
	}
	return b
}

// inventoryOf has the GPUs g0 and g1, and m0 to m1 in MIG mode with the places of an A100 for 1g.10gb and 3g.40gb.
func inventoryOf() cluster.Inventory {
	var places []gpu.Instance
	for i := range 7 {
		places = append(places, gpu.Instance{Profile: "1g.10gb", Start: i, Size: 1})
	}
	places = append(places, gpu.Instance{Profile: "3g.40gb", Start: 0, Size: 4}, gpu.Instance{Profile: "3g.40gb", Start: 4, Size: 4})
	return cluster.NewInventory(cluster.SourceSlices, []gpu.Device{
		{ID: "g0", Index: 0, Product: "H100", MemoryMiB: 80_000, Isolation: gpu.IsolationMPS},
		{ID: "g1", Index: 1, Product: "H100", MemoryMiB: 80_000, Isolation: gpu.IsolationNone, Unhealthy: true},
		{ID: "m0", Index: 2, Product: "A100", MemoryMiB: 80_000, MIG: true, Instances: places},
		{ID: "m1", Index: 3, Product: "A100", MemoryMiB: 80_000, MIG: true, Instances: places},
	})
}

func inventoryShare(k key) int64 { return shareOf(inventoryOf(), k.gpu, k.instance) }

// lines are the holds as text: who, what, and how much since when until when.
func lines(holds []hold) []string {
	var out []string
	for _, h := range holds {
		words := []string{h.uid + "/" + h.container, string(h.gpu)}
		if i := h.instanceLabel(); i != "" {
			words = append(words, i)
		}
		if h.memoryMiB > 0 {
			words = append(words, fmt.Sprintf("%dMi", h.memoryMiB))
		}
		for _, s := range h.steps {
			words = append(words, fmt.Sprintf("%d@%v", s.milliGPU, s.from.Sub(start).Seconds()))
		}
		if !h.to.IsZero() {
			words = append(words, fmt.Sprintf("to %v", h.to.Sub(start).Seconds()))
		}
		out = append(out, strings.Join(words, " "))
	}
	return out
}

func TestHoldsOfTheBook(t *testing.T) {
	for name, tc := range map[string]struct {
		records []slot.Record
		want    []string
	}{
		"an empty book": {},
		"a record that nobody is bound to holds nothing": {
			records: []slot.Record{{Name: "a", Slots: []string{"gpu-0"}, Resource: slot.Resource{Kind: gpu.Whole}, Allocated: at(0)}},
		},
		"a whole GPU, two shares and a MIG instance": {
			records: []slot.Record{
				bound(t, "a", "main=g0", "main", at(1)),
				bound(t, "b", "main=g1:250m/20000Mi", "main", at(2)),
				bound(t, "c", "main=g1:300m/30000Mi", "main", at(3)),
				bound(t, "d", "main=m0:3g.40gb@4:4", "main", at(4)),
			},
			want: []string{"a/main g0 1000@1", "b/main g1 20000Mi 250@2", "c/main g1 30000Mi 300@3", "d/main m0 3g.40gb@4 500@4"},
		},
		"one container with a share of two GPUs, another with instances of two": {
			records: []slot.Record{
				bound(t, "a", "main=g0:100m/1Mi,g1:100m/1Mi", "main", at(1)),
				bound(t, "b", "main=m0:1g.10gb@6:1,m1:1g.10gb@0:1", "main", at(1)),
			},
			want: []string{
				"a/main g0 1Mi 100@1", "a/main g1 1Mi 100@1",
				"b/main m0 1g.10gb@6 125@1", "b/main m1 1g.10gb@0 125@1",
			},
		},
		"containers of a pod that run together are two holds, also of one GPU": {
			records: []slot.Record{
				bound(t, "a", "x=g0:100m/1Mi;y=g0:200m/2Mi", "x", at(1)),
				bound(t, "a", "x=g0:100m/1Mi;y=g0:200m/2Mi", "y", at(2)),
			},
			want: []string{"a/x g0 1Mi 100@1", "a/y g0 2Mi 200@2"},
		},
		"what an init container had, the container after it takes over": {
			records: []slot.Record{
				bound(t, "a", "~i=g0;main=g0", "i", at(1)),
				bound(t, "a", "~i=g0;main=g0", "main", at(5)),
			},
			want: []string{"a/i g0 1000@1 to 5", "a/main g0 1000@5"},
		},
		"what nobody takes over stays the init container's, for the pod keeps it": {
			records: []slot.Record{
				bound(t, "a", "~i=g0:500m/1Mi,g1:500m/1Mi;main=g0:200m/1Mi", "i", at(1)),
				bound(t, "a", "~i=g0:500m/1Mi,g1:500m/1Mi;main=g0:200m/1Mi", "main", at(5)),
			},
			want: []string{"a/i g0 1Mi 500@1 300@5", "a/i g1 1Mi 500@1", "a/main g0 1Mi 200@5"},
		},
		"two init containers one after the other, then two containers": {
			records: []slot.Record{
				bound(t, "a", "~i=g0:300m/1Mi;~j=g0:500m/1Mi;x=g0:100m/1Mi;y=g0:300m/1Mi", "i", at(1)),
				bound(t, "a", "~i=g0:300m/1Mi;~j=g0:500m/1Mi;x=g0:100m/1Mi;y=g0:300m/1Mi", "j", at(2)),
				bound(t, "a", "~i=g0:300m/1Mi;~j=g0:500m/1Mi;x=g0:100m/1Mi;y=g0:300m/1Mi", "x", at(3)),
				bound(t, "a", "~i=g0:300m/1Mi;~j=g0:500m/1Mi;x=g0:100m/1Mi;y=g0:300m/1Mi", "y", at(4)),
			},
			want: []string{
				"a/i g0 1Mi 300@1 to 2", "a/j g0 1Mi 500@2 400@3 100@4", "a/x g0 1Mi 100@3", "a/y g0 1Mi 300@4",
			},
		},
		"a sidecar keeps what it has beside an init container": {
			records: []slot.Record{
				bound(t, "a", "side=g0:100m/1Mi;~i=g0:300m/1Mi;main=g0:200m/1Mi", "side", at(1)),
				bound(t, "a", "side=g0:100m/1Mi;~i=g0:300m/1Mi;main=g0:200m/1Mi", "i", at(2)),
				bound(t, "a", "side=g0:100m/1Mi;~i=g0:300m/1Mi;main=g0:200m/1Mi", "main", at(3)),
			},
			want: []string{"a/side g0 1Mi 100@1", "a/i g0 1Mi 300@2 100@3", "a/main g0 1Mi 200@3"},
		},
		"containers that are bound at once, because the kubelet does not tell which starts, are counted once": {
			records: []slot.Record{
				bound(t, "a", "~i=g0;main=g0", "i", at(1)),
				bound(t, "a", "~i=g0;main=g0", "main", at(1)),
			},
			want: []string{"a/main g0 1000@1"},
		},
		"an init container takes nothing from another instance of the GPU, nor from another pod": {
			records: []slot.Record{
				bound(t, "a", "~i=m0:1g.10gb@0:1;main=m0:1g.10gb@1:1", "i", at(1)),
				bound(t, "a", "~i=m0:1g.10gb@0:1;main=m0:1g.10gb@1:1", "main", at(2)),
				bound(t, "b", "~i=g0:100m/1Mi", "i", at(1)),
				bound(t, "c", "main=g0:100m/1Mi", "main", at(2)),
			},
			want: []string{
				"a/i m0 1g.10gb@0 125@1", "a/main m0 1g.10gb@1 125@2", "b/i g0 1Mi 100@1", "c/main g0 1Mi 100@2",
			},
		},
		"what the kubelet allocated twice for a container counts once, since the first": {
			records: []slot.Record{
				bound(t, "a", "main=g0", "main", at(3)),
				bound(t, "a", "main=g0", "main", at(1)),
			},
			want: []string{"a/main g0 1000@1"},
		},
		"an instance of a GPU that the node does not report counts nothing until it does": {
			records: []slot.Record{bound(t, "a", "main=m9:1g.10gb@0:1", "main", at(1))},
			want:    []string{"a/main m9 1g.10gb@0 0@1"},
		},
		"neither does one of a GPU that is not in MIG mode": {
			records: []slot.Record{bound(t, "a", "main=g0:1g.10gb@0:1", "main", at(1))},
			want:    []string{"a/main g0 1g.10gb@0 0@1"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, lines(holdsOf(bookOf(tc.records...), inventoryShare))); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestTotal(t *testing.T) {
	for name, tc := range map[string]struct {
		steps []step
		to    time.Time
		now   time.Time
		want  int64
	}{
		"nothing yet":                           {steps: []step{{at(0), 1000}}, now: at(0), want: 0},
		"a whole GPU for a second":              {steps: []step{{at(0), 1000}}, now: at(1), want: 1_000_000},
		"a percent for a millisecond":           {steps: []step{{at(0), 10}}, now: at(0.001), want: 10},
		"less than a millisecond is nothing":    {steps: []step{{at(0), 1000}}, now: at(0.0009), want: 0},
		"two steps":                             {steps: []step{{at(0), 500}, {at(2), 200}}, now: at(3), want: 500*2000 + 200*1000},
		"asked of the time before the last":     {steps: []step{{at(0), 500}, {at(2), 200}}, now: at(1), want: 500 * 1000},
		"ended":                                 {steps: []step{{at(0), 500}}, to: at(1), now: at(3), want: 500 * 1000},
		"a clock that was set back":             {steps: []step{{at(5), 500}}, now: at(3), want: 0},
		"64 GPUs for ten years do not overflow": {steps: []step{{at(0), 64_000}}, now: start.AddDate(10, 0, 0), want: 64_000 * 3653 * 86_400_000},
	} {
		t.Run(name, func(t *testing.T) {
			if got := (hold{steps: tc.steps, to: tc.to}).total(tc.now); got != tc.want {
				t.Errorf("%d, want %d", got, tc.want)
			}
		})
	}
}

// TestCountsAsTheSchedulerDoes compares with what the scheduler counts as assigned, for random pods whose containers all run.
func TestCountsAsTheSchedulerDoes(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		inventory := inventoryOf()
		var records []slot.Record
		var pods []cluster.Pod
		add := func(uid, assignment string) {
			a, err := gpu.ParseAssignment(assignment)
			if err != nil {
				t.Fatal(err)
			}
			pods = append(pods, cluster.NewPod(uid, "ns/"+uid, a))
			for _, c := range a.Containers {
				records = append(records, bound(t, uid, assignment, c.Container, at(1)))
			}
		}
		free := 1000
		for i := range rng.IntN(6) {
			if share := 10 + 10*rng.IntN(20); share <= free {
				free -= share
				add(fmt.Sprintf("s%d", i), fmt.Sprintf("x=g0:%dm/100Mi;y=g0:%dm/100Mi", share-5, 5))
			}
		}
		if rng.IntN(2) == 0 {
			add("w", "main=g1")
		}
		for i := range 7 {
			if rng.IntN(2) == 0 {
				add(fmt.Sprintf("i%d", i), fmt.Sprintf("main=m0:1g.10gb@%d:1", i))
			}
		}
		if rng.IntN(2) == 0 {
			add("j", "main=m1:3g.40gb@0:4,m1:3g.40gb@4:4")
		}
		got := map[gpu.ID]int64{}
		for _, h := range holdsOf(bookOf(records...), inventoryShare) {
			got[h.gpu] += h.milliGPU()
		}
		node := cluster.NewNode("n", inventory, pods)
		for i, d := range inventory.Devices {
			if want := node.AssignedMilliGPU(i); got[d.ID] != want {
				t.Fatalf("%s: %d held, but the scheduler counts %d: %v", d.ID, got[d.ID], want, pods)
			}
		}
	}
}

// TestNoPartOfAGPUCountsTwice follows random pods whose containers start one after the other, second by second, and compares with a
// dumb account: what a pod holds of a GPU is the most that it needed at once so far, and never more than the scheduler's count.
func TestNoPartOfAGPUCountsTwice(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for range 500 {
		// Sidecars and init containers in any order, then the containers.
		var text []string
		type container struct {
			name     string
			init     bool
			milliGPU map[gpu.ID]int64
		}
		var containers []container
		early := rng.IntN(4)
		for i := range early + 1 + rng.IntN(2) {
			c := container{name: fmt.Sprintf("c%d", i), init: i < early && rng.IntN(3) > 0, milliGPU: map[gpu.ID]int64{}}
			var grants []string
			for _, id := range []gpu.ID{"g0", "g1"} {
				if rng.IntN(3) > 0 || len(grants) == 0 && id == "g1" {
					c.milliGPU[id] = int64(50 + 50*rng.IntN(4))
					grants = append(grants, fmt.Sprintf("%s:%dm/1Mi", id, c.milliGPU[id]))
				}
			}
			prefix := ""
			if c.init {
				prefix = "~"
			}
			containers = append(containers, c)
			text = append(text, prefix+c.name+"="+strings.Join(grants, ","))
		}
		assignment := strings.Join(text, ";")
		a, err := gpu.ParseAssignment(assignment)
		if err != nil {
			t.Fatal(err)
		}
		most := map[gpu.ID]int64{}
		for _, u := range a.Uses() {
			most[u.GPU] = u.MilliGPU
		}

		var records []slot.Record
		var starts []time.Time
		now := 0
		for _, c := range containers {
			now += rng.IntN(3)
			starts = append(starts, at(float64(now)))
			records = append(records, bound(t, "a", assignment, c.name, at(float64(now))))
		}
		want := map[gpu.ID]int64{}
		held := map[gpu.ID]int64{}
		for second := range now + 5 {
			for id := range most {
				var running int64 // of sidecars and containers
				for i, c := range containers {
					if starts[i].After(at(float64(second))) {
						break
					}
					if c.init {
						held[id] = max(held[id], running+c.milliGPU[id])
					} else {
						running += c.milliGPU[id]
						held[id] = max(held[id], running)
					}
				}
				if held[id] > most[id] {
					t.Fatalf("%s: the dumb account has %d of %s, the scheduler's at most %d", assignment, held[id], id, most[id])
				}
				want[id] += held[id] * 1000
			}
		}
		got := map[gpu.ID]int64{}
		for _, h := range holdsOf(bookOf(records...), inventoryShare) {
			got[h.gpu] += h.total(at(float64(now + 5)))
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("%s, started at %v (-want +got):\n%s", assignment, starts, diff)
		}
	}
}

func TestTheOrderOfTheBookDoesNotMatter(t *testing.T) {
	records := []slot.Record{
		bound(t, "a", "~i=g0:500m/1Mi;main=g0:200m/1Mi,g1:200m/1Mi", "i", at(1)),
		bound(t, "a", "~i=g0:500m/1Mi;main=g0:200m/1Mi,g1:200m/1Mi", "main", at(1)),
		bound(t, "b", "main=g0:100m/1Mi", "main", at(1)),
		bound(t, "b", "main=g0:100m/1Mi", "main", at(2)),
	}
	want := lines(holdsOf(bookOf(records...), inventoryShare))
	for i := range records {
		records[i].Name = fmt.Sprintf("%d", len(records)-i)
	}
	slices.Reverse(records)
	for range 20 {
		if diff := cmp.Diff(want, lines(holdsOf(bookOf(records...), inventoryShare))); diff != "" {
			t.Fatalf("(-want +got):\n%s", diff)
		}
	}
}
