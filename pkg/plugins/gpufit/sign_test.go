package gpufit

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	fwk "k8s.io/kube-scheduler/framework"
	schedulerapi "k8s.io/kubernetes/pkg/scheduler/apis/config"

	"weft.sh/weft/pkg/podspec"
)

func (r *rig) sign(p *v1.Pod) string {
	r.t.Helper()
	fragments, status := r.pl.SignPod(r.t.Context(), p)
	if !status.IsSuccess() || len(fragments) != 1 || fragments[0].Key != "weft.sh/request" {
		r.t.Fatalf("%s: %v, %v", p.Name, fragments, status)
	}
	return fragments[0].Value.(string)
}

func TestPodsThatAreDecidedAlikeSignAlike(t *testing.T) {
	r := newRig(t, "{}")
	second := func(changes ...func(*v1.Pod)) func(*v1.Pod) {
		return func(p *v1.Pod) {
			c := v1.Container{Name: "second", Resources: v1.ResourceRequirements{Limits: v1.ResourceList{}}}
			other := pod("other", changes...)
			c.Resources = other.Spec.Containers[0].Resources
			p.Spec.Containers = append(p.Spec.Containers, c)
		}
	}
	asInit := func(p *v1.Pod) {
		p.Spec.InitContainers, p.Spec.Containers = p.Spec.Containers, []v1.Container{{Name: "rest"}}
	}
	sidecar := func(p *v1.Pod) {
		asInit(p)
		always := v1.ContainerRestartPolicyAlways
		p.Spec.InitContainers[0].RestartPolicy = &always
	}
	different := map[string][]func(*v1.Pod){
		"nothing":                      {},
		"one GPU":                      {whole(1)},
		"two GPUs":                     {whole(2)},
		"one GPU with a floor":         {whole(1), annotate(podspec.AnnotationGPUMemory, "10Gi")},
		"one GPU with another floor":   {whole(1), annotate(podspec.AnnotationGPUMemory, "11Gi")},
		"all of one GPU as a share":    {percent(100)},
		"half a GPU":                   {percent(50)},
		"half of each of two":          {percent(50), annotate(podspec.AnnotationGPUCount, "2")},
		"half a GPU with a floor":      {percent(50), annotate(podspec.AnnotationGPUMemory, "10Gi")},
		"half of two with a floor":     {percent(50), annotate(podspec.AnnotationGPUCount, "2"), annotate(podspec.AnnotationGPUMemory, "10Gi")},
		"an instance":                  {profile("1g.10gb")},
		"an instance of another size":  {profile("2g.20gb")},
		"an instance and a GPU":        {profile("1g.10gb"), whole(1)},
		"one GPU of a model":           {whole(1), products("H100")},
		"one GPU of another model":     {whole(1), products("A100")},
		"one GPU of either":            {whole(1), products("A100", "H100")},
		"one GPU in two containers":    {whole(1), second(whole(1))},
		"one GPU beside half a one":    {whole(1), second(percent(50))},
		"half a GPU beside a whole":    {percent(50), second(whole(1))},
		"one GPU in an init container": {whole(1), asInit},
	}
	seen := map[string]string{}
	for name, changes := range different {
		got := r.sign(pod("p", changes...))
		if other, twice := seen[got]; twice {
			t.Errorf("%q and %q sign the same: %q", name, other, got)
		}
		seen[got] = name
		// What does not matter here: who it is, and what other plugins sign.
		same := pod("q", append(changes, annotate("note", "x"), tried, priority(7), func(p *v1.Pod) {
			p.Labels = map[string]string{"a": "b"}
		})...)
		if diff := cmp.Diff(got, r.sign(same)); diff != "" {
			t.Errorf("%s: equal pods sign differently:\n%s", name, diff)
		}
	}
	for what, pair := range map[string][2]*v1.Pod{
		"the order of the models":       {pod("p", whole(1), products("A100", "H100")), pod("p", whole(1), products("H100", "A100"))},
		"how the floor is written":      {pod("p", whole(1), annotate(podspec.AnnotationGPUMemory, "10Gi")), pod("p", whole(1), annotate(podspec.AnnotationGPUMemory, "10240Mi"))},
		"a count of one":                {pod("p", percent(5)), pod("p", percent(5), annotate(podspec.AnnotationGPUCount, "1"))},
		"models, where no GPU is asked": {pod("p"), pod("p", products("H100"))},
		"zero GPUs":                     {pod("p"), pod("p", whole(0))},
		"that it is a sidecar's":        {pod("p", whole(1)), pod("p", whole(1), sidecar)},
	} {
		if diff := cmp.Diff(r.sign(pair[0]), r.sign(pair[1])); diff != "" {
			t.Errorf("%s makes a difference:\n%s", what, diff)
		}
	}
}

func TestInvalidPodsAreNotSigned(t *testing.T) {
	r := newRig(t, "{}")
	for name, p := range map[string]*v1.Pod{
		"a share of nothing": pod("p", percent(0)),
		"a spoof":            pod("p", whole(1), annotate(podspec.AnnotationGPUs, "main=a-0")),
		"a spoof, no GPU":    pod("p", annotate(podspec.AnnotationGPUs, "main=a-0")),
		"a bad count":        pod("p", percent(1), annotate(podspec.AnnotationGPUCount, "0")),
	} {
		fragments, status := r.pl.SignPod(t.Context(), p)
		if fragments != nil || !status.IsRejected() || status.Message() == "" {
			t.Errorf("%s: %v, %v %q", name, fragments, status.Code(), status.Message())
		}
	}
}

func TestFactoryNamesTheFieldThatIsWrong(t *testing.T) {
	r := newRig(t, "{}")
	text := func(s string) runtime.Object {
		return &runtime.Unknown{Raw: []byte(s), ContentType: runtime.ContentTypeJSON}
	}
	for name, tc := range map[string]struct {
		args runtime.Object
		want string
	}{
		"an unknown strategy":     {text(`{"strategy":"random"}`), `plugin GPUFit: pluginConfig[GPUFit].args.strategy: Unsupported value: "random": supported values: "potential", "fragmentation", "bestfit", "spread"`},
		"a window that is small":  {text(`{"mixWindow":15}`), `plugin GPUFit: pluginConfig[GPUFit].args.mixWindow: Invalid value: 15: want 16 to 100000`},
		"a misspelt field":        {text(`{"stratgy":"spread"}`), `plugin GPUFit: pluginConfig[GPUFit].args: strict decoding error: unknown field "stratgy"`},
		"arguments of another":    {&schedulerapi.NodeAffinityArgs{}, `plugin GPUFit: pluginConfig[GPUFit].args: want GPUFitArgs, got *config.NodeAffinityArgs`},
		"none":                    {nil, ""},
		"all of them, and sound":  {text(`{"strategy":"spread","mixWindow":16}`), ""},
		"nothing in the document": {&runtime.Unknown{}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			pl, err := r.create(tc.args)
			got := ""
			if err != nil {
				got = err.Error()
			}
			if diff := cmp.Diff(tc.want, got); diff != "" || (pl == nil) != (tc.want != "") {
				t.Errorf("plugin %v (-want +got):\n%s", pl, diff)
			}
		})
	}
}

// The framework looks for these by interface; losing one would go unnoticed.
var (
	_ fwk.SignPlugin        = (*Plugin)(nil)
	_ fwk.EnqueueExtensions = (*Plugin)(nil)
)
