package queue

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	schedulerapi "k8s.io/kubernetes/pkg/scheduler/apis/config"

	"weft.sh/weft/pkg/apis/config"
	"weft.sh/weft/pkg/podspec"
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
