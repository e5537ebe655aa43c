package queue

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	schedulerapi "k8s.io/kubernetes/pkg/scheduler/apis/config"

	"weft.sh/weft/pkg/apis/config"
	"weft.sh/weft/pkg/podspec"
	"weft.sh/weft/pkg/quota"
)

// TestTheShippedProfile: the order that the plugin relies on.
func TestTheShippedProfile(t *testing.T) {
	plugins := shippedProfile(t).Plugins
	first := func(set schedulerapi.PluginSet) (names []string) {
		for _, p := range set.Enabled {
			names = append(names, p.Name)
		}
		return names
	}
	got := map[string][]string{
		"preFilter": first(plugins.PreFilter), "filter": first(plugins.Filter), "postFilter": first(plugins.PostFilter), "reserve": first(plugins.Reserve),
	}
	want := map[string][]string{
		"preFilter": {Name, "Gang"}, "filter": {"Gang", "GPUFit", Name}, "postFilter": {Name, "Gang"}, "reserve": {Name},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	if !slices.Contains(first(plugins.MultiPoint), Name) {
		t.Error("the plugin is not enabled at all its extension points")
	}
}

func TestThePluginHasNoArguments(t *testing.T) {
	for name, obj := range map[string]runtime.Object{
		"text": &runtime.Unknown{Raw: []byte(`{"strategy":"spread"}`)}, "those of another plugin": &config.GangArgs{},
	} {
		if _, err := NewFactory(NewState(Options{}))(t.Context(), obj, nil); err == nil || err.Error() !=
			"plugin Queue: pluginConfig[Queue].args: there are no arguments, want none" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestEqualPodsOfAQueueSignTheSame(t *testing.T) {
	s, _ := crowd(t, 3, 0, 0)
	pl := &Plugin{shared: s}
	sign := func(p *v1.Pod) any {
		f, status := pl.SignPod(t.Context(), p)
		if !status.IsSuccess() || len(f) != 1 {
			t.Fatalf("%v, %v", f, status)
		}
		return f[0].Value
	}
	one := sign(pod("a", "q0001", "1h"))
	if two := sign(pod("b", "q0001", "1h")); one != two {
		t.Errorf("%v and %v", one, two)
	}
	for _, p := range []*v1.Pod{pod("c", "q0002", "1h"), pod("d", "q0001", "2h"), pod("e", "", "1h")} {
		if other := sign(p); other == one {
			t.Errorf("%s signs %v, as a pod of another queue or run time", p.Name, other)
		}
	}
}

// TestALabelThatChangesPicksAnotherJob: a pod that joins a gang is no job by itself any more.
func TestALabelThatChangesPicksAnotherJob(t *testing.T) {
	s, _ := crowd(t, 1, 0, 0)
	p := pod("a", "q0000", "1h")
	p.UID = "a"
	s.gate(p)
	joined := p.DeepCopy()
	joined.Labels[podspec.LabelPodGroup] = "train"
	s.gate(joined)
	if len(s.jobs) != 1 || s.waiting["a"].job.id.gang.Name != "train" {
		t.Errorf("%d jobs, the pod is of %+v", len(s.jobs), s.waiting["a"].job.id)
	}
	s.podGone(joined)
	if len(s.jobs) != 0 || len(s.waiting) != 0 || len(s.eligible) != 0 {
		t.Errorf("%d jobs, %d pods, %v are remembered of a pod that is gone", len(s.jobs), len(s.waiting), s.eligible)
	}
}

// TestWhoDoesNotScheduleTellsNobody: one pod is let through to find out whether this process does.
func TestWhoDoesNotScheduleTellsNobody(t *testing.T) {
	s, _ := crowd(t, 1, 0, 0)
	for i, name := range []string{"a", "b"} {
		p := pod(name, "nobody", "")
		p.UID = types.UID(name)
		message := s.gate(p)
		if (message == "") != (i == 0) {
			t.Errorf("%s is told %q", name, message)
		}
		if h, ok := s.heldBack(p.UID); ok {
			t.Errorf("%s would have the condition %q", name, h.verdict.message)
		}
	}
	s.leading.Store(true)
	for _, uid := range []types.UID{"a", "b"} {
		if message := s.gate(s.waiting[uid].pod); message == "" {
			t.Errorf("%s is let through", uid)
		}
		if h, ok := s.heldBack(uid); !ok || h.verdict.Reason != quota.QueueNotFound {
			t.Errorf("%s is not told that its queue does not exist: %v", uid, h.verdict)
		}
	}
}

func TestAPodThatSomebodyElseHoldsBackIsNotLookedAt(t *testing.T) {
	s, _ := crowd(t, 1, 0, 0)
	s.leading.Store(true)
	gated := pod("a", "nobody", "", func(p *v1.Pod) { p.Spec.SchedulingGates = []v1.PodSchedulingGate{{Name: "theirs"}} })
	for _, p := range []*v1.Pod{gated, pod("b", "nobody", "", func(p *v1.Pod) { p.Spec.Containers[0].Resources = v1.ResourceRequirements{} })} {
		p.UID = types.UID(p.Name)
		if message := s.gate(p); message != "" || len(s.waiting) != 0 {
			t.Errorf("%s is told %q", p.Name, message)
		}
	}
}
