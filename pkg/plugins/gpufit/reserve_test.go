package gpufit

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	fwk "k8s.io/kube-scheduler/framework"

	"weft.sh/weft/pkg/podspec"
)

func TestReserveConflictIsAnErrorAndLeavesNothing(t *testing.T) {
	for name, meanwhile := range map[string]func(r *rig){
		"another cycle took the GPU": func(r *rig) { // as another profile's snapshot, or a Confirm, may be ahead
			other := r.profile("{}")
			own := r.pl
			r.pl = other
			r.reserve(pod("x", whole(1)), "a")
			r.pl = own
		},
		"a bound pod appeared":            func(r *rig) { r.see(pod("x", whole(1), on("a", "main=a-0"))) },
		"the GPU fell ill":                func(r *rig) { r.publish("a", 2, true) },
		"the GPU went":                    func(r *rig) { r.publish("a", 2, false) },
		"the pod itself was bound before": func(r *rig) { r.see(pod("p", whole(1), on("a", "main=a-0"))) },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, "{}")
			r.addNode("a", devices("a", "H100", 1)...)
			p := pod("p", whole(1))
			state := r.cycleOf(p)
			meanwhile(r)
			before := r.held("a")
			status := r.pl.Reserve(t.Context(), state, p, "a")
			if status.Code() != fwk.Error || !strings.Contains(status.Message(), "AssignmentConflict: the GPUs were taken meanwhile") {
				t.Errorf("got %v %q", status.Code(), status.Message())
			}
			if c, _ := readCycle(state); !c.assignment.Empty() {
				t.Errorf("the cycle has assignment %s", c.assignment)
			}
			if diff := cmp.Diff(before, r.held("a")); diff != "" {
				t.Errorf("it left something behind:\n%s", diff)
			}
			r.pl.Unreserve(t.Context(), state, p, "a") // as the framework does
			if diff := cmp.Diff(before, r.held("a")); diff != "" {
				t.Errorf("Unreserve took something that was not assumed:\n%s", diff)
			}
		})
	}
}

// publish replaces the slices of a node of H100 by one with its first GPU ill, or without GPUs.
func (r *rig) publish(name string, generation int64, ill bool) {
	d := devices(name, "H100", 1)
	d[0].Unhealthy = true
	if !ill {
		d = nil
	}
	r.see(slicesOf(name, d, generation)...)
}

func TestReserveOnANodeThatIsNotThere(t *testing.T) {
	r := newRig(t, "{}")
	r.addNode("a", devices("a", "H100", 1)...)
	r.see(node("cpu"))
	p := pod("p", whole(1))
	for _, n := range []string{"gone", "cpu"} {
		if status := r.pl.Reserve(t.Context(), r.cycleOf(p), p, n); status.Code() != fwk.Error {
			t.Errorf("on %s: %v %q, want an error", n, status.Code(), status.Message())
		}
	}
	if status := r.pl.Reserve(t.Context(), r.cycleOf(pod("c")), pod("c"), "cpu"); !status.IsSuccess() {
		t.Errorf("a pod without GPUs: %v", status)
	}
}

// TestReserveAndUnreserveInAnyOrder does random things to a few pods, things done twice among them, and compares what the
// cache holds with a model after every step.
func TestReserveAndUnreserveInAnyOrder(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	for range 20 {
		r := newRig(t, `{"strategy":"bestfit"}`)
		for _, n := range []string{"a", "b"} {
			r.addNode(n, devices(n, "H100", 2)...)
		}
		r.addNode("m", migGPU("m-0", 0))
		var pods []*v1.Pod
		states := map[string]fwk.CycleState{}
		for i := range 6 {
			name := fmt.Sprintf("p%d", i)
			pods = append(pods, pod(name, []func(*v1.Pod){whole(1), percent(40), percent(60), profile("3g.40gb"), whole(2), percent(30)}[i]))
			states[name] = r.cycleOf(pods[i])
		}
		want := map[string]map[string]string{"a": {}, "b": {}, "m": {}}
		confirmed := map[string]bool{}
		reserved := 0
		for step := range 200 {
			p := pods[rng.IntN(len(pods))]
			where := []string{"a", "b", "m"}[rng.IntN(3)]
			forget := func() {
				for _, held := range want {
					delete(held, "ns/"+p.Name)
				}
			}
			what := ""
			switch rng.IntN(8) {
			case 0, 1:
				what = "PreFilter"
				states[p.Name] = r.cycleOf(p)
			case 2, 3, 4:
				what = "Reserve on " + where
				if status := r.pl.Reserve(t.Context(), states[p.Name], p, where); status.IsSuccess() {
					c, _ := readCycle(states[p.Name])
					if confirmed[p.Name] {
						t.Fatalf("seed %d, step %d: %s was given %s although it is bound", seed, step, p.Name, c.assignment)
					}
					forget()
					want[where]["ns/"+p.Name] = c.assignment.String()
					reserved++
				}
			case 5, 6:
				what = "Unreserve"
				r.pl.Unreserve(t.Context(), states[p.Name], p, where)
				if !confirmed[p.Name] {
					forget()
				}
			case 7:
				what = "the informer shows it bound as it was decided, or gone"
				if confirmed[p.Name] {
					r.remove(p)
					r.pl.shared.tracker.Refresh(p)
					forget()
					confirmed[p.Name] = false
					break
				}
				for n, held := range want {
					if a, ok := held["ns/"+p.Name]; ok {
						bound := p.DeepCopy()
						on(n, a)(bound)
						r.see(bound)
						confirmed[p.Name] = true
					}
				}
			}
			for n := range want {
				if diff := cmp.Diff(want[n], r.held(n)); diff != "" {
					t.Fatalf("seed %d, step %d, %s of %s: node %s (-want +got):\n%s", seed, step, what, p.Name, n, diff)
				}
				if c := r.pl.shared.cache.Node(n).Conflicts(); len(c) > 0 {
					t.Fatalf("seed %d, step %d, %s of %s: %v", seed, step, what, p.Name, c)
				}
			}
		}
		if reserved < 10 {
			t.Errorf("seed %d: only %d reservations", seed, reserved)
		}
	}
}

// TestReserveMovesAnAssumption: a pod whose earlier assumption was never taken back is on one node, not on two.
func TestReserveMovesAnAssumption(t *testing.T) {
	r := newRig(t, "{}")
	for _, n := range []string{"a", "b"} {
		r.addNode(n, devices(n, "H100", 1)...)
	}
	p := pod("p", whole(1))
	r.reserve(p, "a")
	r.reserve(p, "b")
	if diff := cmp.Diff([]map[string]string{{}, {"ns/p": "main=b-0"}}, []map[string]string{r.held("a"), r.held("b")}); diff != "" {
		t.Error(diff)
	}
}

func TestUnreserveAfterTheInformerSawThePodBound(t *testing.T) {
	r := newRig(t, "{}")
	r.addNode("a", devices("a", "H100", 1)...)
	p := pod("p", whole(1))
	state := r.reserve(p, "a")
	r.see(pod("p", whole(1), on("a", "main=a-0")))
	r.pl.Unreserve(t.Context(), state, p, "a")
	if diff := cmp.Diff(map[string]string{"ns/p": "main=a-0"}, r.held("a")); diff != "" {
		t.Error(diff)
	}
}

// TestADeletionThatWasSeenBeforeReserve: nothing else will say that the pod is gone, so the failed binding has to.
func TestADeletionThatWasSeenBeforeReserve(t *testing.T) {
	r := newRig(t, "{}")
	r.addNode("a", devices("a", "H100", 1)...)
	p := pod("p", whole(1))
	r.see(p)
	state := r.cycleOf(p)
	r.remove(p)
	r.pl.shared.tracker.Refresh(p)
	if status := r.pl.Reserve(t.Context(), state, p, "a"); !status.IsSuccess() {
		t.Fatal(status)
	}
	r.onBind(notFound)
	if status := r.pl.Bind(t.Context(), state, p, "a"); status.IsSuccess() {
		t.Fatal("bound a pod that is gone")
	}
	r.pl.Unreserve(t.Context(), state, p, "a")
	if diff := cmp.Diff(map[string]string{}, r.held("a")); diff != "" {
		t.Error(diff)
	}
}

// TestARecreatedPodIsAnotherPod: the same name with another UID gets GPUs of its own, whatever the old one holds.
func TestARecreatedPodIsAnotherPod(t *testing.T) {
	r := newRig(t, "{}")
	r.addNode("a", devices("a", "H100", 2)...)
	old := pod("p", whole(1), uid("old"))
	oldState := r.reserve(old, "a")
	next := pod("p", whole(1), uid("next"))
	r.see(next)
	nextState := r.reserve(next, "a")
	n := r.pl.shared.cache.Node("a")
	if len(n.Pods) != 2 || len(n.Conflicts()) > 0 {
		t.Fatalf("%d pods, conflicts %v", len(n.Pods), n.Conflicts())
	}
	r.pl.Unreserve(t.Context(), oldState, old, "a")
	c, _ := readCycle(nextState)
	if diff := cmp.Diff(map[string]string{"ns/p": c.assignment.String()}, r.held("a")); diff != "" {
		t.Error(diff)
	}
}

// TestReserveLeavesNominatedPodsTheirGPU: Filter let the pod through because it fits beside the nominated one; Reserve must
// not then choose the GPU that spoils it.
func TestReserveLeavesNominatedPodsTheirGPU(t *testing.T) {
	for name, tc := range map[string]struct {
		nominated []*v1.Pod
		want      string
	}{
		"nobody is nominated: spread takes the emptiest":    {nil, "main=a-1:400m/32000Mi"},
		"a pod that goes before it needs the emptiest":      {[]*v1.Pod{pod("n", whole(1), priority(10))}, "main=a-0:400m/32000Mi"},
		"one of equal priority does too":                    {[]*v1.Pod{pod("n", whole(1))}, "main=a-0:400m/32000Mi"},
		"one that goes after it has to see":                 {[]*v1.Pod{pod("n", whole(1), priority(-10))}, "main=a-1:400m/32000Mi"},
		"it is itself nominated":                            {[]*v1.Pod{pod("p", percent(40))}, "main=a-1:400m/32000Mi"},
		"what is nominated fits nowhere anyhow":             {[]*v1.Pod{pod("n", whole(2), priority(10))}, "main=a-1:400m/32000Mi"},
		"what is nominated is on the node already":          {[]*v1.Pod{pod("x", percent(60), priority(10))}, "main=a-1:400m/32000Mi"},
		"with all nominated it does not fit: as without":    {[]*v1.Pod{pod("n", whole(1), priority(10)), pod("o", percent(40), priority(10))}, "main=a-1:400m/32000Mi"},
		"what is nominated has no meaning":                  {[]*v1.Pod{pod("n", percent(101), priority(10))}, "main=a-1:400m/32000Mi"},
		"what is nominated leaves the choice, spread takes": {[]*v1.Pod{pod("n", percent(10), priority(10))}, "main=a-1:400m/32000Mi"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, `{"strategy":"spread"}`)
			r.addNode("a", devices("a", "H100", 2)...)
			r.see(pod("x", percent(60), on("a", "main=a-0:600m/48000Mi")))
			for _, n := range tc.nominated {
				r.nominated["a"] = append(r.nominated["a"], info(t, n))
			}
			p := pod("p", percent(40))
			r.reserve(p, "a")
			want := map[string]string{"ns/x": "main=a-0:600m/48000Mi", "ns/p": tc.want}
			if diff := cmp.Diff(want, r.held("a")); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestAssumedPodsSurviveWhatInformersSayOfThem: the store is behind; the pod is pending there for a while yet.
func TestAssumedPodsSurviveWhatInformersSayOfThem(t *testing.T) {
	r := newRig(t, "{}")
	r.addNode("a", devices("a", "H100", 1)...)
	p := pod("p", whole(1))
	r.see(p)
	r.reserve(p, "a")
	want := map[string]string{"ns/p": "main=a-0"}
	for what, seen := range map[string]any{
		"its own update, still pending": pod("p", whole(1), annotate("note", "x")),
		"an update of its node":         node("a", labelled(1)),
		"another pod":                   pod("q", whole(1)),
	} {
		r.see(seen)
		if diff := cmp.Diff(want, r.held("a")); diff != "" {
			t.Errorf("after %s:\n%s", what, diff)
		}
	}
	// Bound by somebody else, elsewhere: what the API server shows wins.
	r.addNode("b", devices("b", "H100", 1)...)
	r.see(pod("p", whole(1), on("b", "main=b-0")))
	got := maps.Clone(r.held("b"))
	if diff := cmp.Diff([]map[string]string{{}, {"ns/p": "main=b-0"}}, []map[string]string{r.held("a"), got}); diff != "" {
		t.Error(diff)
	}
}

func TestPodsWithoutGPUsAssumeNothing(t *testing.T) {
	r := newRig(t, "{}")
	r.addNode("a", devices("a", "H100", 1)...)
	p := pod("p", limit(podspec.ResourceGPU, 0))
	state := r.reserve(p, "a")
	if diff := cmp.Diff(map[string]string{}, r.held("a")); diff != "" {
		t.Error(diff)
	}
	if status := r.pl.Bind(t.Context(), state, p, "a"); !status.IsSkip() {
		t.Errorf("Bind: %v, want it left to the next plugin", status.Code())
	}
	if len(r.client.Actions()) > 0 {
		t.Errorf("it wrote: %v", r.client.Actions())
	}
}
