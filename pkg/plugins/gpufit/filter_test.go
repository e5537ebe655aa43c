package gpufit

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	fwk "k8s.io/kube-scheduler/framework"
	"k8s.io/kubernetes/pkg/scheduler/framework"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/defaultbinder"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/queuesort"
	frameworkruntime "k8s.io/kubernetes/pkg/scheduler/framework/runtime"
	schedulermetrics "k8s.io/kubernetes/pkg/scheduler/metrics"
	schedulertesting "k8s.io/kubernetes/pkg/scheduler/testing/framework"

	"weft.sh/weft/pkg/fit"
	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/podspec"
)

func TestPreFilter(t *testing.T) {
	r := newRig(t, "{}")
	r.addNode("a", devices("a", "H100", 2)...)
	for name, tc := range map[string]struct {
		pod  *v1.Pod
		code fwk.Code
		want string
	}{
		"a pod with GPUs goes on":       {pod("p", whole(1)), fwk.Success, ""},
		"a pod without skips Filter":    {pod("p"), fwk.Skip, ""},
		"zero GPUs are none":            {pod("p", whole(0)), fwk.Skip, ""},
		"a share of nothing is refused": {pod("p", percent(0)), fwk.UnschedulableAndUnresolvable, `InvalidRequest: the request is invalid (container "main": weft.sh/gpu-percent is "0": want a whole number from 1 to 100)`},
		"an assignment of the user's own": {
			pod("p", annotate(podspec.AnnotationGPUs, "main=a-0")), fwk.UnschedulableAndUnresolvable,
			`InvalidRequest: the request is invalid (annotation weft.sh/gpus is "main=a-0": want none: only the scheduler writes it, remove it from the pod)`,
		},
		"a count without a share": {
			pod("p", whole(1), annotate(podspec.AnnotationGPUCount, "2")), fwk.UnschedulableAndUnresolvable,
			`InvalidRequest: the request is invalid (annotation weft.sh/gpu-count is "2": want a container that asks for weft.sh/gpu-percent, or no such annotation)`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			result, status := r.pl.PreFilter(t.Context(), framework.NewCycleState(), tc.pod, nil)
			if result != nil || status.Code() != tc.code || status.Message() != tc.want {
				t.Errorf("got %v, %v %q\nwant nil, %v %q", result, status.Code(), status.Message(), tc.code, tc.want)
			}
		})
	}
}

func TestNothingIsDecidedBeforeTheCacheIsComplete(t *testing.T) {
	r := newRig(t, "{}")
	r.pl.shared.synced.Store(false)
	r.addNode("a", devices("a", "H100", 1)...)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	state := framework.NewCycleState()
	_, status := r.pl.PreFilter(ctx, state, pod("p", whole(1)), nil)
	if status.Code() != fwk.Error || !strings.Contains(status.Message(), "waiting for nodes, pods and ResourceSlices") {
		t.Errorf("got %v %q, want an error that says what it waits for", status.Code(), status.Message())
	}
	if _, err := state.Read(stateKey); err == nil {
		t.Error("the cycle has a state all the same")
	}

	// Once the informers have run, and with them the handlers, it goes on by itself.
	r.client.Tracker().Add(node("b", labelled(1)))
	r.factory.Start(t.Context().Done())
	if _, status := r.pl.PreFilter(t.Context(), state, pod("p", whole(1)), nil); !status.IsSuccess() {
		t.Fatal(status)
	}
	if r.snapshotOf("b") == nil {
		t.Error("the handlers have run, but the snapshot has not seen the node")
	}
}

func TestExtensionPointsWithoutPreFilter(t *testing.T) {
	r := newRig(t, "{}")
	r.addNode("a", devices("a", "H100", 1)...)
	p, state, info, ni := pod("p", whole(1)), framework.NewCycleState(), info(t, pod("q")), r.nodeInfo("a")
	_, score := r.pl.Score(t.Context(), state, p, ni)
	for name, status := range map[string]*fwk.Status{
		"AddPod":    r.pl.AddPod(t.Context(), state, p, info, ni),
		"RemovePod": r.pl.RemovePod(t.Context(), state, p, info, ni),
		"Filter":    r.pl.Filter(t.Context(), state, p, ni),
		"Score":     score,
		"Reserve":   r.pl.Reserve(t.Context(), state, p, "a"),
		"Bind":      r.pl.Bind(t.Context(), state, p, "a"),
	} {
		if status.Code() != fwk.Error || !strings.Contains(status.Message(), "PreFilter has not run") {
			t.Errorf("%s: got %v %q", name, status.Code(), status.Message())
		}
	}
}

func TestFilterSaysTheReasonAndWhetherPreemptionHelps(t *testing.T) {
	r := newRig(t, "{}")
	r.addNode("a", devices("a", "H100", 2)...)
	r.see(pod("x", percent(60), on("a", "main=a-0:600m/48000Mi")))
	r.see(pod("y", percent(60), on("a", "main=a-1:600m/48000Mi")))
	r.addNode("mig", migGPU("m-0", 0))
	r.see(pod("z", profile("3g.40gb"), on("mig", "main=m-0:3g.40gb@0:4")))
	r.see(pod("z2", profile("3g.40gb"), on("mig", "main=m-0:3g.40gb@4:4")))
	r.see(node("labels", labelled(2)), node("cpu"))
	sick := devices("sick", "H100", 2)
	sick[0].Unhealthy = true
	r.addNode("sick", sick...)
	r.addNode("foreign", devices("foreign", "H100", 2)...)
	r.see(pod("other", whole(2), on("foreign", "")))
	for name, tc := range map[string]struct {
		pod  *v1.Pod
		node string
		want fit.Reason
	}{
		"a share fits":                           {pod("p", percent(40)), "a", fit.Fits},
		"a larger share waits":                   {pod("p", percent(41)), "a", fit.InsufficientGPUShare},
		"a whole GPU waits":                      {pod("p", whole(1)), "a", fit.InsufficientGPU},
		"more memory than is left waits":         {pod("p", percent(40), annotate(podspec.AnnotationGPUMemory, "40000Mi")), "a", fit.InsufficientGPUMemory},
		"more memory than there is never":        {pod("p", percent(40), annotate(podspec.AnnotationGPUMemory, "90000Mi")), "a", fit.GPUMemoryTooSmall},
		"more GPUs than there are never":         {pod("p", whole(3)), "a", fit.TooFewGPUs},
		"another model never":                    {pod("p", percent(5), products("L4")), "a", fit.GPUProductMismatch},
		"a MIG instance where there is none":     {pod("p", profile("1g.5gb")), "a", fit.NoMIGProfile},
		"a MIG instance whose places are taken":  {pod("p", profile("3g.40gb")), "mig", fit.NoMIGPlacement},
		"a share of GPUs that are given whole":   {pod("p", percent(5)), "labels", fit.SharingUnsupported},
		"no GPU at all":                          {pod("p", whole(1)), "cpu", fit.NoGPU},
		"one of two GPUs is ill":                 {pod("p", whole(2)), "sick", fit.GPUUnhealthy},
		"all are withheld for another scheduler": {pod("p", whole(1)), "foreign", fit.GPUWithheld},
	} {
		t.Run(name, func(t *testing.T) {
			state := r.cycleOf(tc.pod)
			status := r.pl.Filter(t.Context(), state, tc.pod, r.nodeInfo(tc.node))
			want := fwk.Success
			switch {
			case tc.want == fit.Fits:
			case tc.want.Resolvable():
				want = fwk.Unschedulable
			default:
				want = fwk.UnschedulableAndUnresolvable
			}
			message := ""
			if tc.want != fit.Fits {
				message = tc.want.String() + ": " + tc.want.Text()
			}
			if status.Code() != want || status.Message() != message {
				t.Errorf("got %v %q, want %v %q", status.Code(), status.Message(), want, message)
			}
		})
	}
	for _, reason := range fit.Reasons() {
		status := statuses[reason]
		if unresolvable := status.Code() == fwk.UnschedulableAndUnresolvable; unresolvable == reason.Resolvable() || !status.IsRejected() {
			t.Errorf("%v is resolvable: %t, but its status is %v", reason, reason.Resolvable(), status.Code())
		}
	}
}

// TestFilterGivesEveryNodeAStatusOfItsOwn: the framework writes into the statuses that it gets, from many goroutines. The
// race detector has the last word here.
func TestFilterGivesEveryNodeAStatusOfItsOwn(t *testing.T) {
	schedulermetrics.Register()
	r := newRig(t, "{}")
	r.addNode("a", devices("a", "H100", 1)...)
	f, err := schedulertesting.NewFramework(t.Context(), []schedulertesting.RegisterPluginFunc{
		schedulertesting.RegisterQueueSortPlugin(queuesort.Name, queuesort.New),
		schedulertesting.RegisterBindPlugin(defaultbinder.Name, defaultbinder.New),
		schedulertesting.RegisterPluginAsExtensions(Name, NewFactory(NewState(Options{})), "PreFilter", "Filter"),
	}, "weft", frameworkruntime.WithInformerFactory(r.factory), frameworkruntime.WithClientSet(r.client),
		frameworkruntime.WithSnapshotSharedLister(handle{rig: r}.SnapshotSharedLister()))
	if err != nil {
		t.Fatal(err)
	}
	r.factory.Start(t.Context().Done())
	state, p := framework.NewCycleState(), pod("p", whole(1))
	if _, status, _ := f.RunPreFilterPlugins(t.Context(), state, p); !status.IsSuccess() {
		t.Fatal(status)
	}
	got := make([]*fwk.Status, 64)
	var wg sync.WaitGroup
	for i := range got {
		ni := r.nodeInfo("a")
		wg.Go(func() { got[i] = f.RunFilterPlugins(t.Context(), state, p, ni) })
	}
	wg.Wait()
	seen := map[*fwk.Status]bool{}
	for _, status := range got {
		if seen[status] || status.Plugin() != Name {
			t.Fatalf("a status that another node has too, or that is of plugin %q", status.Plugin())
		}
		seen[status] = true
	}
	if p := statuses[fit.NoGPU].Plugin(); p != "" {
		t.Errorf("the framework wrote %q into what all share", p)
	}
}

func TestPreemptionSimulatesOnACloneOfTheState(t *testing.T) {
	r := newRig(t, "{}")
	r.addNode("a", devices("a", "H100", 2)...)
	x := pod("x", percent(60), on("a", "main=a-0:600m/48000Mi"))
	y := pod("y", percent(60), on("a", "main=a-1:600m/48000Mi"))
	r.see(x, y)
	w := pod("w", whole(1))
	state := r.cycleOf(w)
	const full = "InsufficientGPU: too few idle GPUs"
	is := func(when string, state fwk.CycleState, want string) {
		t.Helper()
		if got := r.filter(state, w, "a"); got != want {
			t.Errorf("%s: got %q, want %q", when, got, want)
		}
	}
	ni := r.nodeInfo("a")
	remove := func(state fwk.CycleState, p *v1.Pod) {
		t.Helper()
		if s := r.pl.RemovePod(t.Context(), state, w, info(t, p), ni); !s.IsSuccess() {
			t.Fatal(s)
		}
	}
	add := func(state fwk.CycleState, p *v1.Pod) {
		t.Helper()
		if s := r.pl.AddPod(t.Context(), state, w, info(t, p), ni); !s.IsSuccess() {
			t.Fatal(s)
		}
	}
	is("at first", state, full)
	one := state.Clone()
	remove(one, x)
	is("without x, on a clone", one, "")
	two := one.Clone()
	remove(two, y)
	remove(two, y)
	add(one, x)
	is("x gets back what it held", one, full)
	is("a clone of the clone", two, "")
	add(two, y)
	is("without x, with y", two, "")
	add(two, x)
	is("with both again", two, full)
	is("the original, after all that", state, full)
	// The pod that comes back holds the same GPU, not the first that would do: x's stays the one that is free.
	three := state.Clone()
	remove(three, x)
	remove(three, y)
	add(three, y)
	c, status := readCycle(three)
	if status != nil {
		t.Fatal(status)
	}
	if n := c.node(r.pl.snapshot, "a"); !n.GPUs[0].Idle || n.GPUs[1].Idle {
		t.Errorf("y came back to another GPU than it held: %+v", n.GPUs)
	}
	if diff := cmp.Diff(map[string]string{"ns/x": "main=a-0:600m/48000Mi", "ns/y": "main=a-1:600m/48000Mi"}, r.held("a")); diff != "" {
		t.Errorf("the cache saw the simulation:\n%s", diff)
	}
	// A removed pod whose node has no GPU, and one that holds none, change nothing.
	r.see(node("cpu"))
	if s := r.pl.RemovePod(t.Context(), state, w, info(t, x), r.nodeInfo("cpu")); !s.IsSuccess() {
		t.Error(s)
	}
	if s := r.pl.AddPod(t.Context(), state, w, info(t, pod("n", whole(1))), r.nodeInfo("cpu")); !s.IsSuccess() {
		t.Error(s)
	}
	remove(state, pod("stranger"))
	is("without a stranger", state, full)
}

// TestSimulationsRunAtTheSameTime: preemption tries nodes in parallel, each on a clone of the same state.
func TestSimulationsRunAtTheSameTime(t *testing.T) {
	r := newRig(t, "{}")
	r.addNode("a", devices("a", "H100", 1)...)
	x, w := pod("x", whole(1), on("a", "main=a-0")), pod("w", whole(1))
	r.see(x)
	state, ni := r.cycleOf(w), r.nodeInfo("a")
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			mine := state.Clone()
			for range 50 {
				r.pl.RemovePod(t.Context(), mine, w, info(t, x), ni)
				without := r.pl.Filter(t.Context(), mine, w, ni)
				r.pl.AddPod(t.Context(), mine, w, info(t, x), ni)
				with := r.pl.Filter(t.Context(), mine, w, ni)
				if !without.IsSuccess() || with.IsSuccess() {
					t.Errorf("without the victim %v, with it %v", without, with)
					return
				}
			}
		})
	}
	wg.Wait()
}

func TestANominatedPodTakesWhatItWouldBeGiven(t *testing.T) {
	for name, tc := range map[string]struct {
		nominated *v1.Pod
		pod       *v1.Pod
		want      string
	}{
		"the last GPU":                          {pod("n", whole(1)), pod("w", percent(50)), "InsufficientGPUShare: too few GPUs with the share left"},
		"a share beside which another fits":     {pod("n", percent(50)), pod("w", percent(50)), ""},
		"a share beside which it does not":      {pod("n", percent(51)), pod("w", percent(50)), "InsufficientGPUShare: too few GPUs with the share left"},
		"more than there is takes nothing":      {pod("n", whole(2)), pod("w", whole(1)), ""},
		"a request without meaning":             {pod("n", percent(101)), pod("w", whole(1)), ""},
		"a request for no GPU":                  {pod("n"), pod("w", whole(1)), ""},
		"a GPU of a model that is not there":    {pod("n", whole(1), products("L4")), pod("w", whole(1)), ""},
		"an assignment of its own is no matter": {pod("n", whole(1), annotate(podspec.AnnotationGPUs, "main=a-7")), pod("w", percent(1)), "InsufficientGPUShare: too few GPUs with the share left"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, "{}")
			r.addNode("a", devices("a", "H100", 1)...)
			state := r.cycleOf(tc.pod)
			with := state.Clone()
			if s := r.pl.AddPod(t.Context(), with, tc.pod, info(t, tc.nominated), r.nodeInfo("a")); !s.IsSuccess() {
				t.Fatal(s)
			}
			if got := r.filter(with, tc.pod, "a"); got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
			if got := r.filter(state, tc.pod, "a"); got != "" {
				t.Errorf("it leaked into the original: %q", got)
			}
		})
	}
}

func TestTwoNominatedPodsDoNotTakeTheSame(t *testing.T) {
	r := newRig(t, "{}")
	r.addNode("a", devices("a", "H100", 2)...)
	w := pod("w", percent(10))
	state := r.cycleOf(w)
	for i, want := range []string{"", "InsufficientGPUShare: too few GPUs with the share left"} {
		n := pod("n"+string(rune('0'+i)), whole(1))
		if s := r.pl.AddPod(t.Context(), state, w, info(t, n), r.nodeInfo("a")); !s.IsSuccess() {
			t.Fatal(s)
		}
		if got := r.filter(state, w, "a"); got != want {
			t.Errorf("with %d nominated: got %q, want %q", i+1, got, want)
		}
	}
}

func TestSnapshotStaysAsItWasThroughTheCycle(t *testing.T) {
	r := newRig(t, "{}")
	r.addNode("a", devices("a", "H100", 1)...)
	w := pod("w", whole(1))
	state := r.cycleOf(w)
	r.see(pod("x", whole(1), on("a", "main=a-0")))
	if got := r.filter(state, w, "a"); got != "" {
		t.Errorf("an event in the middle of a cycle changed its snapshot: %q", got)
	}
	if got := r.filter(r.cycleOf(w), w, "a"); got == "" {
		t.Error("the next cycle does not see it")
	}
	r.addNode("b", gpu.Device{ID: "b-0", Product: "H100", MemoryMiB: 80_000})
	if got := r.filter(r.cycleOf(w), w, "b"); got != "" {
		t.Errorf("a node that came: %q", got)
	}
}
