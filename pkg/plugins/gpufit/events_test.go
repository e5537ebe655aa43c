package gpufit

import (
	"reflect"
	goruntime "runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	resourceapi "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
	fwk "k8s.io/kube-scheduler/framework"

	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/inventory"
	"weft.sh/weft/pkg/podspec"
)

// In these tests the stores of the informers are ahead of the plugin: what happened is in them, and no handler has run.

func TestHintAfterPodDeleted(t *testing.T) {
	for name, tc := range map[string]struct {
		// before is what everybody has seen, at the node "a" of two H100.
		before []*v1.Pod
		// gone leave the store; changed change there.
		gone, changed []*v1.Pod
		waiting       *v1.Pod
		old           any // default: the first that is gone
		want          fwk.QueueingHint
		// held is what the cache knows afterwards, by pod.
		held map[string]string
	}{
		"the GPUs that it held are enough": {
			before: []*v1.Pod{pod("x", whole(2), on("a", "main=a-0,a-1"))}, gone: []*v1.Pod{pod("x", whole(2), on("a", "main=a-0,a-1"))},
			waiting: pod("w", whole(2)), want: fwk.Queue, held: map[string]string{},
		},
		"they are not enough, for another pod holds the rest": {
			before: []*v1.Pod{pod("x", whole(1), on("a", "main=a-0")), pod("y", whole(1), on("a", "main=a-1"))},
			gone:   []*v1.Pod{pod("x", whole(1), on("a", "main=a-0"))}, waiting: pod("w", whole(2)),
			want: fwk.QueueSkip, held: map[string]string{"ns/y": "main=a-1"},
		},
		"GPUs were withheld for it": {
			before: []*v1.Pod{pod("x", whole(1), on("a", ""))}, gone: []*v1.Pod{pod("x", whole(1), on("a", ""))},
			waiting: pod("w", whole(2)), want: fwk.Queue, held: map[string]string{},
		},
		"the model is not accepted": {
			before: []*v1.Pod{pod("x", whole(2), on("a", "main=a-0,a-1"))}, gone: []*v1.Pod{pod("x", whole(2), on("a", "main=a-0,a-1"))},
			waiting: pod("w", whole(1), products("L4")), want: fwk.QueueSkip, held: map[string]string{},
		},
		"it held no GPU": {
			before: []*v1.Pod{pod("x", on("a", ""))}, gone: []*v1.Pod{pod("x", on("a", ""))},
			waiting: pod("w", whole(1)), want: fwk.QueueSkip, held: map[string]string{},
		},
		"it ended and is still there": {
			before:  []*v1.Pod{pod("x", whole(2), on("a", "main=a-0,a-1"))},
			changed: []*v1.Pod{pod("x", whole(2), on("a", "main=a-0,a-1"), phase(v1.PodSucceeded))},
			old:     pod("x", whole(2), on("a", "main=a-0,a-1")), waiting: pod("w", whole(1)), want: fwk.Queue, held: map[string]string{},
		},
		"it was created again under its name and waits": {
			before:  []*v1.Pod{pod("x", whole(2), on("a", "main=a-0,a-1"))},
			changed: []*v1.Pod{pod("x", whole(2), uid("another"))},
			old:     pod("x", whole(2), on("a", "main=a-0,a-1")), waiting: pod("w", whole(1)), want: fwk.Queue, held: map[string]string{},
		},
		"the event is old news: the pod is there": {
			before: []*v1.Pod{pod("x", whole(2), on("a", "main=a-0,a-1"))}, old: pod("x", whole(2), on("a", "main=a-0,a-1")),
			waiting: pod("w", whole(1)), want: fwk.QueueSkip, held: map[string]string{"ns/x": "main=a-0,a-1"},
		},
		"it was on a node without GPUs": {
			gone: []*v1.Pod{pod("x", whole(1), on("cpu", ""))}, waiting: pod("w", whole(1)), want: fwk.QueueSkip, held: map[string]string{},
		},
		"its own request has no meaning": {
			gone: []*v1.Pod{pod("x", percent(101), on("a", ""))}, waiting: pod("w", whole(1)), want: fwk.Queue, held: map[string]string{},
		},
		"the waiting pod has no meaning": {
			before: []*v1.Pod{pod("x", whole(1), on("a", "main=a-0"))}, gone: []*v1.Pod{pod("x", whole(1), on("a", "main=a-0"))},
			waiting: pod("w", percent(101)), want: fwk.QueueSkip, held: map[string]string{},
		},
		"a tombstone": {
			before: []*v1.Pod{pod("x", whole(2), on("a", "main=a-0,a-1"))}, gone: []*v1.Pod{pod("x", whole(2), on("a", "main=a-0,a-1"))},
			old:     cache.DeletedFinalStateUnknown{Key: "ns/x", Obj: pod("x", whole(2), on("a", "main=a-0,a-1"))},
			waiting: pod("w", whole(2)), want: fwk.Queue, held: map[string]string{},
		},
		"a tombstone without a pod": {old: cache.DeletedFinalStateUnknown{Key: "ns/x"}, waiting: pod("w", whole(1)), want: fwk.Queue, held: map[string]string{}},
		"something else entirely":   {old: "x", waiting: pod("w", whole(1)), want: fwk.Queue, held: map[string]string{}},
		"nothing":                   {old: nil, waiting: pod("w", whole(9)), want: fwk.QueueSkip, gone: []*v1.Pod{pod("x", whole(1), on("a", ""))}, held: map[string]string{}},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, "{}")
			r.addNode("a", devices("a", "H100", 2)...)
			for _, p := range tc.before {
				r.see(p)
			}
			for _, p := range tc.gone {
				r.remove(p)
			}
			for _, p := range tc.changed {
				r.store(p)
			}
			old := tc.old
			if old == nil {
				old = tc.gone[0]
			}
			got, err := r.pl.isSchedulableAfterPodDeleted(klog.Background(), tc.waiting, old, nil)
			if err != nil || got != tc.want {
				t.Errorf("got %v, %v, want %v", got, err, tc.want)
			}
			if diff := cmp.Diff(tc.held, r.held("a")); diff != "" {
				t.Errorf("the cache after the hint (-want +got):\n%s", diff)
			}
		})
	}
}

// TestHintAfterABindingFailed: the framework announces the end of an assumed pod as the deletion of an assigned one.
func TestHintAfterABindingFailed(t *testing.T) {
	r := newRig(t, "{}")
	r.addNode("a", devices("a", "H100", 1)...)
	x := pod("x", whole(1))
	r.see(x)
	state := r.reserve(x, "a")
	assumed := pod("x", whole(1), on("a", ""))
	ask := func() fwk.QueueingHint {
		got, err := r.pl.isSchedulableAfterPodDeleted(klog.Background(), pod("w", whole(1)), assumed, nil)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	if got := ask(); got != fwk.QueueSkip {
		t.Errorf("while the pod is assumed: %v", got)
	}
	r.pl.Unreserve(t.Context(), state, x, "a")
	if got := ask(); got != fwk.Queue {
		t.Errorf("after Unreserve: %v", got)
	}
}

func TestHintAfterNodeChange(t *testing.T) {
	noGPU := func(n *v1.Node) { n.Status.Allocatable[podspec.ResourceGPU] = resource.MustParse("0") }
	const late = "the event is older than what the store has"
	for name, tc := range map[string]struct {
		before  *v1.Node
		after   any
		waiting *v1.Pod
		want    fwk.QueueingHint
	}{
		"a new node has enough":          {nil, node("n", labelled(2)), pod("w", whole(2)), fwk.Queue},
		"a new node has too few":         {nil, node("n", labelled(2)), pod("w", whole(3)), fwk.QueueSkip},
		"a new node has none":            {nil, node("n"), pod("w", whole(1)), fwk.QueueSkip},
		"labels came":                    {node("n"), node("n", labelled(1)), pod("w", whole(1)), fwk.Queue},
		"labels went":                    {node("n", labelled(1)), node("n"), pod("w", whole(1)), fwk.QueueSkip},
		"allocatable rose":               {node("n", labelled(2), noGPU), node("n", labelled(2)), pod("w", whole(2)), fwk.Queue},
		"allocatable fell":               {node("n", labelled(2)), node("n", labelled(2), noGPU), pod("w", whole(1)), fwk.QueueSkip},
		"labels give whole GPUs only":    {nil, node("n", labelled(2)), pod("w", percent(50)), fwk.QueueSkip},
		"the model is not accepted":      {nil, node("n", labelled(2)), pod("w", whole(1), products("H100")), fwk.QueueSkip},
		"the waiting pod has no meaning": {nil, node("n", labelled(2)), pod("w", percent(0)), fwk.QueueSkip},
		"a tombstone":                    {nil, cache.DeletedFinalStateUnknown{Obj: node("n", labelled(1))}, pod("w", whole(1)), fwk.Queue},
		"something else entirely":        {nil, pod("n"), pod("w", whole(1)), fwk.Queue},
		"nothing":                        {nil, nil, pod("w", whole(1)), fwk.Queue},
		late:                             {node("n", labelled(2)), node("n"), pod("w", whole(2)), fwk.Queue},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, "{}")
			if tc.before != nil {
				r.see(tc.before)
			}
			if after, ok := tc.after.(*v1.Node); ok && name != late {
				r.store(after)
			}
			var old any
			if tc.before != nil {
				old = tc.before
			}
			got, err := r.pl.isSchedulableAfterNodeChange(klog.Background(), tc.waiting, old, tc.after)
			if err != nil || got != tc.want {
				t.Errorf("got %v, %v, want %v", got, err, tc.want)
			}
		})
	}
}

func TestHintAfterResourceSliceChange(t *testing.T) {
	h100 := devices("a", "H100", 2)
	sick := devices("a", "H100", 2)
	sick[0].Unhealthy, sick[1].Unhealthy = true, true
	one := func(d []gpu.Device, generation, of int64) *resourceapi.ResourceSlice {
		s := inventory.Slices("a", d, generation)[0]
		s.Spec.Pool.ResourceSliceCount = of
		return s
	}
	named := func(s *resourceapi.ResourceSlice, name string) *resourceapi.ResourceSlice {
		s.Name = name
		return s
	}
	foreign := one(h100, 1, 1)
	foreign.Spec.Driver = "gpu.nvidia.com"
	network := one(h100, 1, 1)
	network.Spec.NodeName = nil
	for name, tc := range map[string]struct {
		node          *v1.Node
		before        []*resourceapi.ResourceSlice
		gone, changed *resourceapi.ResourceSlice
		old, now      any // default: from gone and changed
		waiting       *v1.Pod
		want          fwk.QueueingHint
	}{
		"a first slice":       {changed: one(h100, 1, 1), waiting: pod("w", whole(2)), want: fwk.Queue},
		"too few GPUs":        {changed: one(h100, 1, 1), waiting: pod("w", whole(3)), want: fwk.QueueSkip},
		"half a pool":         {changed: one(h100, 1, 2), waiting: pod("w", whole(1)), want: fwk.QueueSkip},
		"of another driver":   {changed: foreign, waiting: pod("w", whole(1)), want: fwk.QueueSkip},
		"of no node":          {changed: network, waiting: pod("w", whole(1)), want: fwk.QueueSkip},
		"GPUs are well again": {before: []*resourceapi.ResourceSlice{one(sick, 1, 1)}, changed: one(h100, 2, 1), waiting: pod("w", whole(1)), want: fwk.Queue},
		"GPUs fall ill":       {before: []*resourceapi.ResourceSlice{one(h100, 1, 1)}, changed: one(sick, 2, 1), waiting: pod("w", whole(1)), want: fwk.QueueSkip},
		"a tombstone":         {before: []*resourceapi.ResourceSlice{one(sick, 1, 1)}, gone: one(sick, 1, 1), old: cache.DeletedFinalStateUnknown{Obj: one(sick, 1, 1)}, waiting: pod("w", whole(1)), want: fwk.Queue},
		"something else":      {old: pod("x"), now: "y", waiting: pod("w", whole(1)), want: fwk.Queue},
		"one of no node goes": {old: network, waiting: pod("w", whole(1)), want: fwk.QueueSkip},
		"the last one goes, and the labels count again": {
			node: node("a", labelled(4)), before: []*resourceapi.ResourceSlice{one(sick, 1, 1)}, gone: one(sick, 1, 1),
			waiting: pod("w", whole(4)), want: fwk.Queue,
		},
		"the last one goes, and nothing is left": {
			before: []*resourceapi.ResourceSlice{one(h100, 1, 1)}, gone: one(h100, 1, 1), waiting: pod("w", whole(1)), want: fwk.QueueSkip,
		},
		"one too many goes, and the pool is whole": {
			before: []*resourceapi.ResourceSlice{named(one(h100, 1, 1), "s1"), named(one(nil, 1, 1), "s2")},
			gone:   named(one(nil, 1, 1), "s2"), waiting: pod("w", whole(1)), want: fwk.Queue,
		},
		"the waiting pod has no meaning": {changed: one(h100, 1, 1), waiting: pod("w", percent(101)), want: fwk.QueueSkip},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, "{}")
			if tc.node == nil {
				tc.node = node("a")
			}
			r.see(tc.node)
			for _, s := range tc.before {
				r.see(s)
			}
			old, now := tc.old, tc.now
			if tc.gone != nil {
				r.remove(tc.gone)
				if old == nil {
					old = tc.gone
				}
			}
			if tc.changed != nil {
				r.store(tc.changed)
				now = tc.changed
			}
			got, err := r.pl.isSchedulableAfterResourceSliceChange(klog.Background(), tc.waiting, old, now)
			if err != nil || got != tc.want {
				t.Errorf("got %v, %v, want %v", got, err, tc.want)
			}
		})
	}
	t.Run("a tombstone refreshes the cache", func(t *testing.T) {
		r := newRig(t, "{}")
		r.addNode("a", h100...)
		s := inventory.Slices("a", h100, 1)[0]
		r.remove(s)
		if _, err := r.pl.isSchedulableAfterResourceSliceChange(klog.Background(), pod("w", whole(1)), cache.DeletedFinalStateUnknown{Obj: s}, nil); err != nil {
			t.Fatal(err)
		}
		if n := r.pl.shared.cache.Node("a"); n != nil {
			t.Errorf("the cache still has %d GPUs of the node", len(n.GPUs))
		}
	})
}

func TestHintAfterPodUpdated(t *testing.T) {
	spoofed := annotate(podspec.AnnotationGPUs, "main=a-0")
	for name, tc := range map[string]struct {
		before, after any
		want          fwk.QueueingHint
	}{
		"asks for the same":                {pod("w", whole(1)), pod("w", whole(1), annotate("note", "x")), fwk.QueueSkip},
		"asks for less":                    {pod("w", whole(2)), pod("w", whole(1)), fwk.Queue},
		"the annotation is corrected":      {pod("w", percent(5), annotate(podspec.AnnotationGPUMemory, "lots")), pod("w", percent(5), annotate(podspec.AnnotationGPUMemory, "1Gi")), fwk.Queue},
		"a lower floor":                    {pod("w", percent(5), annotate(podspec.AnnotationGPUMemory, "9Gi")), pod("w", percent(5), annotate(podspec.AnnotationGPUMemory, "1Gi")), fwk.Queue},
		"fewer GPUs":                       {pod("w", percent(5), annotate(podspec.AnnotationGPUCount, "9")), pod("w", percent(5), annotate(podspec.AnnotationGPUCount, "2")), fwk.Queue},
		"the spoofed assignment is gone":   {pod("w", whole(1), spoofed), pod("w", whole(1)), fwk.Queue},
		"an assignment is spoofed":         {pod("w", percent(5)), pod("w", whole(1), spoofed), fwk.QueueSkip},
		"still without a meaning":          {pod("w", percent(101)), pod("w", percent(102)), fwk.QueueSkip},
		"other models":                     {pod("w", whole(1), products("L4")), pod("w", whole(1), products("H100")), fwk.Queue},
		"a new object that is not a pod":   {pod("w", whole(1)), node("n"), fwk.Queue},
		"an old object that is not a pod":  {nil, pod("w", whole(1)), fwk.Queue},
		"asks for no GPU any more":         {pod("w", whole(1)), pod("w"), fwk.Queue},
		"a pod that asks for no GPU stays": {pod("w"), pod("w", tried), fwk.QueueSkip},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, "{}")
			got, err := r.pl.isSchedulableAfterPodUpdated(klog.Background(), pod("w"), tc.before, tc.after)
			if err != nil || got != tc.want {
				t.Errorf("got %v, %v, want %v", got, err, tc.want)
			}
		})
	}
}

func TestEventsToRegister(t *testing.T) {
	type registered struct {
		Action fwk.ActionType
		Hint   string
	}
	all := map[fwk.EventResource]registered{
		fwk.AssignedPod:   {fwk.Delete, "isSchedulableAfterPodDeleted"},
		fwk.Node:          {fwk.Add | fwk.UpdateNodeLabel | fwk.UpdateNodeAllocatable, "isSchedulableAfterNodeChange"},
		fwk.TargetPod:     {fwk.Update, "isSchedulableAfterPodUpdated"},
		fwk.ResourceSlice: {fwk.Add | fwk.Update | fwk.Delete, "isSchedulableAfterResourceSliceChange"},
	}
	for _, served := range []bool{true, false} {
		r := newRig(t, "{}")
		r.pl.shared.slices = served
		if !served {
			delete(all, fwk.ResourceSlice)
		}
		events, err := r.pl.EventsToRegister(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		got := map[fwk.EventResource]registered{}
		for _, e := range events {
			name := goruntime.FuncForPC(reflect.ValueOf(e.QueueingHintFn).Pointer()).Name()
			name = strings.TrimSuffix(name[strings.LastIndex(name, ".")+1:], "-fm")
			got[e.Event.Resource] = registered{e.Event.ActionType, name}
		}
		if diff := cmp.Diff(all, got); diff != "" || len(got) != len(events) {
			t.Errorf("ResourceSlices served: %t: %d events (-want +got):\n%s", served, len(events), diff)
		}
	}
}
