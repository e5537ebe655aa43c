package integration

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/events"
	fwk "k8s.io/kube-scheduler/framework"
	"k8s.io/kubernetes/pkg/scheduler"
	schedconfig "k8s.io/kubernetes/pkg/scheduler/apis/config"
	"k8s.io/kubernetes/pkg/scheduler/apis/config/scheme"
	"k8s.io/kubernetes/pkg/scheduler/apis/config/validation"
	frameworkruntime "k8s.io/kubernetes/pkg/scheduler/framework/runtime"

	"weft.sh/weft/pkg/playground"
	"weft.sh/weft/pkg/plugins/gang"
	"weft.sh/weft/pkg/plugins/gpufit"
	"weft.sh/weft/pkg/plugins/queue"
)

// testSchedulerConfig makes a scheduler of the configuration, as weft-scheduler does, and does not run it.
func testSchedulerConfig(t *testing.T, cp *playground.ControlPlane, file *corev1.ConfigMap) {
	object, _, err := scheme.Codecs.UniversalDecoder().Decode([]byte(file.Data["config.yaml"]), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	cfg := object.(*schedconfig.KubeSchedulerConfiguration)
	if err := validation.ValidateKubeSchedulerConfiguration(cfg); err != nil {
		t.Fatal(err)
	}
	if l := cfg.LeaderElection; !l.LeaderElect || l.ResourceNamespace != "weft-system" || l.ResourceName != "weft-scheduler" {
		t.Errorf("leader election %+v: want the lease weft-scheduler in weft-system, which the Role is for", l)
	}
	if len(cfg.Profiles) != 1 || cfg.Profiles[0].SchedulerName != "weft" {
		t.Fatalf("profiles %+v: want one, weft", cfg.Profiles)
	}

	// The arguments are read by the plugin itself, strictly.
	state := gpufit.NewState(gpufit.Options{ResourceSlices: func() bool { return true }})
	queues := queue.NewState(queue.Options{GPUs: state})
	registry := frameworkruntime.Registry{
		gpufit.Name: gpufit.NewFactory(state), gang.Name: gang.NewFactory(gang.Options{State: state, Queues: queues}),
		queue.Name: queue.NewFactory(queues),
	}
	config := cp.ConfigFor(playground.SchedulerUser)
	client := clientset(t, config)
	s, err := scheduler.New(t.Context(), client, informers.NewSharedInformerFactory(client, 0), nil,
		func(string) events.EventRecorderLogger { return &events.FakeRecorder{} },
		scheduler.WithKubeConfig(config), scheduler.WithProfiles(cfg.Profiles...), scheduler.WithFrameworkOutOfTreeRegistry(registry))
	if err != nil {
		t.Fatal(err)
	}
	plugins := s.Profiles["weft"].ListPlugins()
	var order []string
	for _, p := range plugins.Bind.Enabled {
		order = append(order, p.Name)
	}
	if diff := cmp.Diff([]string{gpufit.Name, "DefaultBinder"}, order); diff != "" {
		t.Errorf("bind plugins (-want +got):\n%s", diff)
	}
	weights := map[string]int32{}
	for _, p := range plugins.Score.Enabled {
		weights[p.Name] = p.Weight
	}
	ours := weights[gpufit.Name]
	delete(weights, gpufit.Name)
	var others int64
	for _, w := range weights {
		others += int64(w)
	}
	// See the package's doc: one rank is to outweigh everything that the others can say.
	if int64(ours) <= others*fwk.MaxScore {
		t.Errorf("weight of GPUFit %d: want more than %d, for the others' are %v", ours, others*fwk.MaxScore, weights)
	}
}
