package gpufit

import (
	"fmt"
	"reflect"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kubernetes/pkg/scheduler/framework"

	"weft.sh/weft/pkg/apis/config"
	"weft.sh/weft/pkg/fit"
	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/podspec"
)

// mixOf is the mix of the pods that the learner has counted, as it would be with these and no others.
func mixOf(t *testing.T, pods ...*v1.Pod) fit.Mix {
	t.Helper()
	counts := map[fit.Class]int64{}
	for _, p := range pods {
		r, err := podspec.Request(p)
		if err != nil {
			t.Fatal(err)
		}
		counts[fit.ClassOf(r, podspec.MilliCPU(p))]++
	}
	return fit.NewMix(counts)
}

var unexported = cmp.Exporter(allUnexported)

func created(n int64) func(*v1.Pod) {
	return func(p *v1.Pod) { p.CreationTimestamp = metav1.Unix(n, 0) }
}

func by(scheduler string) func(*v1.Pod) {
	return func(p *v1.Pod) { p.Spec.SchedulerName = scheduler }
}

func TestEachPodIsCountedOnce(t *testing.T) {
	gated := func(p *v1.Pod) {
		p.Status.Conditions = []v1.PodCondition{{Type: v1.PodScheduled, Status: v1.ConditionFalse, Reason: v1.PodReasonSchedulingGated}}
	}
	r := newRig(t, "{}")
	r.addNode("a", devices("a", "H100", 1)...)
	p, q, c := pod("p", whole(8)), pod("q", percent(20), gated), pod("c")
	r.cycleOf(p)
	r.cycleOf(pod("p", whole(8), tried))
	r.cycleOf(pod("p", whole(8), tried))
	r.cycleOf(q)
	r.cycleOf(c)
	// What has no meaning is no request to expect.
	r.pl.PreFilter(t.Context(), framework.NewCycleState(), pod("bad", percent(0)), nil)
	if diff := cmp.Diff(mixOf(t, p, q, c), r.pl.learner.learner.Mix(), unexported); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestTheLearnerStartsWithWhatWasThereOldestFirst(t *testing.T) {
	r := newRig(t, `{"mixWindow":16}`)
	r.addNode("a", devices("a", "H100", 1)...)
	var want []*v1.Pod
	// 20 pods for a window of 16, oldest last in every order that a store could have: the first four are forgotten.
	for i := range int64(20) {
		p := pod(string(rune('z'-i)), percent(1+i), created(1000+i), on("a", ""))
		r.store(p)
		if i >= 4 {
			want = append(want, p)
		}
	}
	first := pod("first", percent(99), tried) // seen before: not counted anew
	r.cycleOf(first)
	if diff := cmp.Diff(mixOf(t, want...), r.pl.learner.learner.Mix(), unexported); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	// The seed is taken once.
	r.store(pod("late", percent(77), on("a", ""), created(5000)))
	r.cycleOf(first)
	if diff := cmp.Diff(mixOf(t, want...), r.pl.learner.learner.Mix(), unexported); diff != "" {
		t.Errorf("after another cycle (-want +got):\n%s", diff)
	}
}

func TestWhichPodsTheLearnerStartsWith(t *testing.T) {
	for name, tc := range map[string]struct {
		pod  *v1.Pod
		want bool
	}{
		"bound":                              {pod("x", whole(1), on("a", "main=a-0")), true},
		"bound by another scheduler":         {pod("x", whole(1), on("a", ""), by("default-scheduler")), true},
		"tried before":                       {pod("x", whole(1), tried), true},
		"not tried yet: its turn comes":      {pod("x", whole(1)), false},
		"without GPUs, of ours":              {pod("x", on("a", "")), true},
		"without GPUs, of another scheduler": {pod("x", on("a", ""), by("default-scheduler")), false},
		"without a meaning":                  {pod("x", percent(0), on("a", "")), false},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, "{}")
			r.store(tc.pod)
			r.cycleOf(pod("p", whole(7), tried))
			var want []*v1.Pod
			if tc.want {
				want = append(want, tc.pod)
			}
			if diff := cmp.Diff(mixOf(t, want...), r.pl.learner.learner.Mix(), unexported); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestTheSameSeedInAnyOrder(t *testing.T) {
	same := time.Unix(1000, 0)
	var pods []*v1.Pod
	for i := range int64(40) { // all of one second: only the UID orders them
		pods = append(pods, pod(string(rune('A'+i)), percent(1+i), on("a", ""), created(same.Unix())))
	}
	forward := newLearner(t.Context(), true, &config.GPUFitArgs{Strategy: fit.FragmentationName, MixWindow: 16})
	forward.seed(pods, "weft")
	backward := newLearner(t.Context(), true, &config.GPUFitArgs{Strategy: fit.FragmentationName, MixWindow: 16})
	for i, j := 0, len(pods)-1; i < j; i, j = i+1, j-1 {
		pods[i], pods[j] = pods[j], pods[i]
	}
	backward.seed(pods, "weft")
	if diff := cmp.Diff(forward.learner.Mix(), backward.learner.Mix(), unexported); diff != "" {
		t.Errorf("the order of the list decides:\n%s", diff)
	}
}

func TestOnlyAStrategyThatLearnsForgetsItsScores(t *testing.T) {
	for strategy, learns := range map[string]bool{"potential": false, "fragmentation": true, "bestfit": false, "spread": false} {
		l := newLearner(t.Context(), true, &config.GPUFitArgs{Strategy: strategy, MixWindow: 16})
		before := l.current()
		l.observe(fit.Class{Count: 1, MilliGPU: 500}, nil)
		if changed := l.current() != before; changed != learns {
			t.Errorf("%s: a new memo after a request: %t, want %t", strategy, changed, learns)
		}
	}
}

// TestProfilesShareTheStateAndNothingElse: what one profile assumes the other sees, each with a snapshot and a strategy of
// its own.
func TestProfilesShareTheStateAndNothingElse(t *testing.T) {
	r := newRig(t, `{"strategy":"bestfit"}`)
	packs, spreads := r.pl, r.profile(`{"strategy":"spread"}`)
	if packs.shared != spreads.shared || packs.shared.cache == nil {
		t.Fatal("two profiles have two caches")
	}
	if packs.snapshot == spreads.snapshot || packs.learner == spreads.learner {
		t.Fatal("two profiles share what is their own")
	}
	r.addNode("a", devices("a", "H100", 2)...)
	r.reserve(pod("x", percent(50)), "a")
	r.pl = spreads
	r.reserve(pod("y", percent(50)), "a")
	r.pl = packs
	state := r.reserve(pod("z", percent(50)), "a")
	want := map[string]string{"ns/x": "main=a-0:500m/40000Mi", "ns/y": "main=a-1:500m/40000Mi", "ns/z": "main=a-0:500m/40000Mi"}
	if diff := cmp.Diff(want, r.held("a")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	packs.Unreserve(t.Context(), state, pod("z"), "a")
	r.pl = spreads
	if got := r.filter(r.cycleOf(pod("w", percent(50))), pod("w"), "a"); got != "" {
		t.Errorf("the other profile does not see that z gave back: %q", got)
	}
	// One profile's requests are not the other's mix.
	if none := (fit.Mix{}); reflect.DeepEqual(packs.learner.learner.Mix(), none) || reflect.DeepEqual(spreads.learner.learner.Mix(), none) {
		t.Error("a profile has counted nothing")
	}
}

func TestTheStrategyIsComputedBesideTheWork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLearner(t.Context(), false, &config.GPUFitArgs{Strategy: fit.PotentialName, MixWindow: 64})
		counted := 0
		stock := func() *fit.Stock {
			counted++
			s := new(fit.Stock)
			s.Add(nil, 8_000, 8_000)
			return s
		}
		observe := func(n int) {
			for range n {
				l.observe(fit.Class{Kind: gpu.Shared, Count: 1, MilliGPU: 500}, stock)
			}
		}
		observe(19)
		memo := l.current()
		if _, packs := l.currentStrategy().(fit.BestFit); !packs || counted != 0 {
			t.Fatalf("after 19 pods the strategy is a %T, and the nodes were counted %d times", l.currentStrategy(), counted)
		}
		l.observe(fit.Class{}, nil) // whose nodes nobody knows
		if counted != 0 {
			t.Fatal("the nodes were counted without a way to")
		}
		observe(1)
		synctest.Wait()
		if _, ok := l.currentStrategy().(fit.Potential); !ok || counted != 1 || l.current() == memo {
			t.Fatalf("the strategy is a %T, the nodes were counted %d times, the old scores are kept: %t", l.currentStrategy(), counted, l.current() == memo)
		}
		// One at a time: what is due meanwhile is posed afterwards.
		l.mu.Lock()
		l.solving = true
		l.mu.Unlock()
		observe(200)
		if counted != 1 {
			t.Errorf("the nodes were counted %d times while a solution was on its way", counted)
		}
		l.mu.Lock()
		l.solving = false
		l.mu.Unlock()
		observe(1)
		synctest.Wait()
		if counted != 2 {
			t.Errorf("the nodes were counted %d times, want 2", counted)
		}
	})
}

func TestInASimulationTheStrategyIsThereAtOnce(t *testing.T) {
	l := newLearner(t.Context(), true, &config.GPUFitArgs{Strategy: fit.PotentialName, MixWindow: 64})
	for range 20 {
		l.observe(fit.Class{Kind: gpu.Shared, Count: 1, MilliGPU: 500}, func() *fit.Stock { return new(fit.Stock) })
	}
	if _, ok := l.currentStrategy().(fit.Potential); !ok {
		t.Errorf("the strategy is a %T", l.currentStrategy())
	}
}

// TestTheStockIsWhatIsLeftOnTheNodes: a cycle whose nodes are shown has the strategy computed from them.
func TestTheStockIsWhatIsLeftOnTheNodes(t *testing.T) {
	r := newRig(t, "{}")
	r.addNode("a", devices("a", "H100", 2)...)
	r.pl.learner.inline = true
	nodes, err := handle{rig: r}.SnapshotSharedLister().NodeInfos().List()
	if err != nil || len(nodes) == 0 {
		t.Fatalf("%d nodes: %v", len(nodes), err)
	}
	for i := range 20 {
		p := pod(fmt.Sprint("p", i), percent(50))
		if _, status := r.pl.PreFilter(t.Context(), framework.NewCycleState(), p, nodes); !status.IsSuccess() {
			t.Fatal(status)
		}
	}
	if _, ok := r.pl.learner.currentStrategy().(fit.Potential); !ok {
		t.Errorf("the strategy is a %T", r.pl.learner.currentStrategy())
	}
}
