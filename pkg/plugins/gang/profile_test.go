package gang

import (
	"os"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	featuregatetesting "k8s.io/component-base/featuregate/testing"
	"k8s.io/kubernetes/pkg/features"
	schedulerapi "k8s.io/kubernetes/pkg/scheduler/apis/config"
	schedulerscheme "k8s.io/kubernetes/pkg/scheduler/apis/config/scheme"
	schedulercache "k8s.io/kubernetes/pkg/scheduler/backend/cache"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins"
	frameworkruntime "k8s.io/kubernetes/pkg/scheduler/framework/runtime"
	schedulermetrics "k8s.io/kubernetes/pkg/scheduler/metrics"

	"weft.sh/weft/pkg/plugins/gpufit"
	"weft.sh/weft/pkg/podspec"
)

// shippedProfile is the profile of the configuration that is shipped, without plugin Queue, which has tests of its own with it.
func shippedProfile(t *testing.T) *schedulerapi.KubeSchedulerProfile {
	t.Helper()
	text, err := os.ReadFile("../../../manifests/scheduler/config.yaml")
	if err != nil {
		t.Fatal(err)
	}
	obj, _, err := schedulerscheme.Codecs.UniversalDecoder().Decode(text, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	p := &obj.(*schedulerapi.KubeSchedulerConfiguration).Profiles[0]
	for _, set := range []*schedulerapi.PluginSet{
		&p.Plugins.MultiPoint, &p.Plugins.PreFilter, &p.Plugins.Filter, &p.Plugins.PostFilter, &p.Plugins.Reserve,
	} {
		set.Enabled = slices.DeleteFunc(set.Enabled, func(e schedulerapi.Plugin) bool { return e.Name == "Queue" })
	}
	return p
}

func asks(name string, changes ...func(*v1.Pod)) *v1.Pod {
	p := &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "ns", Annotations: map[string]string{}, Labels: map[string]string{}},
		Spec: v1.PodSpec{SchedulerName: "weft", Containers: []v1.Container{{Name: "main", Resources: v1.ResourceRequirements{
			Limits: v1.ResourceList{podspec.ResourceGPU: resource.MustParse("1")},
		}}}},
	}
	for _, f := range changes {
		f(p)
	}
	return p
}

// TestTheShippedProfile: the order of plugins that ours rely on; and one plugin that cannot sign would end batching for the
// whole profile.
func TestTheShippedProfile(t *testing.T) {
	for name, native := range map[string]bool{"without native PodGroups": false, "with native PodGroups": true} {
		t.Run(name, func(t *testing.T) {
			featuregatetesting.SetFeatureGatesDuringTest(t, utilfeature.DefaultFeatureGate, featuregatetesting.FeatureOverrides{
				features.GenericWorkload: native, features.TopologyAwareWorkloadScheduling: native,
			})
			testTheShippedProfile(t)
		})
	}
}

func testTheShippedProfile(t *testing.T) {
	schedulermetrics.Register()
	client := fake.NewClientset()
	factory := informers.NewSharedInformerFactory(client, 0)
	registry := plugins.NewInTreeRegistry()
	state := gpufit.NewState(gpufit.Options{})
	registry[gpufit.Name] = gpufit.NewFactory(state)
	registry[Name] = NewFactory(Options{State: state})
	snapshot := schedulercache.NewEmptySnapshot()
	f, err := frameworkruntime.NewFramework(t.Context(), registry, shippedProfile(t), frameworkruntime.WithInformerFactory(factory),
		frameworkruntime.WithClientSet(client), frameworkruntime.WithSnapshotSharedLister(snapshot),
		frameworkruntime.WithMutableSnapshotLister(snapshot), frameworkruntime.WithPodGroupManager(schedulercache.New(t.Context(), nil, true, false)))
	if err != nil {
		t.Fatal(err)
	}
	list := f.ListPlugins()
	first := func(set schedulerapi.PluginSet, n int) (names []string) {
		for _, p := range set.Enabled[:min(n, len(set.Enabled))] {
			names = append(names, p.Name)
		}
		return names
	}
	got := map[string][]string{
		"queueSort": first(list.QueueSort, 2), "preFilter": first(list.PreFilter, 1), "filter": first(list.Filter, 2),
		"postFilter": first(list.PostFilter, 3), "bind": first(list.Bind, 2), "permit": first(list.Permit, 1),
		"placementGenerate": first(list.PlacementGenerate, 2), "podGroupPostFilter": first(list.PodGroupPostFilter, 1),
	}
	want := map[string][]string{
		"queueSort": {Name}, "preFilter": {Name}, "filter": {Name, gpufit.Name}, "postFilter": {Name, "DynamicResources", "DefaultPreemption"},
		"bind": {gpufit.Name, "DefaultBinder"}, "permit": {Name},
		"placementGenerate": {Name}, "podGroupPostFilter": {Name},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("plugins by extension point (-want +got):\n%s", diff)
	}

	one, two := f.SignPod(t.Context(), asks("p")), f.SignPod(t.Context(), asks("q"))
	if len(one) == 0 || string(one) != string(two) {
		t.Errorf("equal pods sign %q and %q", one, two)
	}
	// Beside the limit nothing tells these two apart but the annotation, which only GPUFit reads.
	floor := f.SignPod(t.Context(), asks("r", func(p *v1.Pod) { p.Annotations[podspec.AnnotationGPUMemory] = "1Gi" }))
	if len(floor) == 0 || string(floor) == string(one) {
		t.Errorf("a pod with a floor signs %q", floor)
	}
	if bad := f.SignPod(t.Context(), asks("s", func(p *v1.Pod) { p.Annotations[podspec.AnnotationGPUMemory] = "lots" })); bad != nil {
		t.Errorf("an invalid pod signs %q", bad)
	}
	if member := f.SignPod(t.Context(), asks("m", func(p *v1.Pod) { p.Labels[podspec.LabelPodGroup] = "train" })); member != nil {
		t.Errorf("a member of a gang signs %q", member)
	}
}
