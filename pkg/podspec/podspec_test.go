package podspec

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"weft.sh/weft/pkg/gpu"
)

// container asks for the resources, given as name and quantity in turn.
func container(name string, resources ...string) v1.Container {
	c := v1.Container{Name: name, Resources: v1.ResourceRequirements{Limits: v1.ResourceList{}, Requests: v1.ResourceList{}}}
	for i := 0; i < len(resources); i += 2 {
		q := resource.MustParse(resources[i+1])
		c.Resources.Limits[v1.ResourceName(resources[i])] = q
		c.Resources.Requests[v1.ResourceName(resources[i])] = q
	}
	return c
}

func sidecar(c v1.Container) v1.Container {
	always := v1.ContainerRestartPolicyAlways
	c.RestartPolicy = &always
	return c
}

func pod(containers ...v1.Container) *v1.Pod {
	return &v1.Pod{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{}}, Spec: v1.PodSpec{Containers: containers}}
}

func annotated(p *v1.Pod, key, value string) *v1.Pod {
	p.Annotations[key] = value
	return p
}

func withInit(p *v1.Pod, containers ...v1.Container) *v1.Pod {
	p.Spec.InitContainers = containers
	return p
}

func selecting(p *v1.Pod, product string) *v1.Pod {
	p.Spec.NodeSelector = map[string]string{LabelProduct: product}
	return p
}

func in(values ...string) v1.NodeSelectorRequirement {
	return v1.NodeSelectorRequirement{Key: LabelProduct, Operator: v1.NodeSelectorOpIn, Values: values}
}

func requirement(key string, op v1.NodeSelectorOperator, values ...string) v1.NodeSelectorRequirement {
	return v1.NodeSelectorRequirement{Key: key, Operator: op, Values: values}
}

// requiring gives the pod a required node affinity of terms.
func requiring(p *v1.Pod, terms ...[]v1.NodeSelectorRequirement) *v1.Pod {
	s := &v1.NodeSelector{}
	for _, t := range terms {
		s.NodeSelectorTerms = append(s.NodeSelectorTerms, v1.NodeSelectorTerm{MatchExpressions: t})
	}
	p.Spec.Affinity = &v1.Affinity{NodeAffinity: &v1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: s}}
	return p
}

func asks(name string, asks ...gpu.Ask) gpu.ContainerRequest {
	return gpu.ContainerRequest{Name: name, Asks: asks}
}

func initAsks(name string, asks ...gpu.Ask) gpu.ContainerRequest {
	return gpu.ContainerRequest{Name: name, Init: true, Asks: asks}
}

func request(c ...gpu.ContainerRequest) gpu.Request { return gpu.Request{Containers: c} }

func whole(count int) gpu.Ask { return gpu.Ask{Kind: gpu.Whole, Count: count} }

func share(count int, milli int64) gpu.Ask {
	return gpu.Ask{Kind: gpu.Shared, Count: count, MilliGPU: milli}
}

func instances(count int, profile string) gpu.Ask {
	return gpu.Ask{Kind: gpu.MIG, Count: count, Profile: profile}
}

func floor(a gpu.Ask, mib int64) gpu.Ask { a.MemoryMiB = mib; return a }

func TestRequest(t *testing.T) {
	onlyLimits, onlyRequests := container("c", ResourceGPU, "2"), container("c", ResourceGPU, "2")
	onlyLimits.Resources.Requests, onlyRequests.Resources.Limits = nil, nil
	tests := map[string]struct {
		pod  *v1.Pod
		want gpu.Request
	}{
		"nothing":                          {pod(container("c", "cpu", "1", "memory", "1Gi")), gpu.Request{}},
		"zero whole GPUs are none":         {pod(container("c", ResourceGPU, "0")), gpu.Request{}},
		"zero instances are none":          {pod(container("c", "nvidia.com/mig-1g.10gb", "0")), gpu.Request{}},
		"another vendor's GPU":             {pod(container("c", "amd.com/gpu", "1", "nvidia.com/gpu.shared", "1")), gpu.Request{}},
		"whole GPUs":                       {pod(container("c", ResourceGPU, "8", "cpu", "1")), request(asks("c", whole(8)))},
		"the most whole GPUs":              {pod(container("c", ResourceGPU, "64")), request(asks("c", whole(64)))},
		"whole GPUs as limits only":        {pod(onlyLimits), request(asks("c", whole(2)))},
		"whole GPUs as requests only":      {pod(onlyRequests), request(asks("c", whole(2)))},
		"whole GPUs, written otherwise":    {pod(container("c", ResourceGPU, "2000m")), request(asks("c", whole(2)))},
		"whole GPUs of a size":             {annotated(pod(container("c", ResourceGPU, "1")), AnnotationGPUMemory, "40Gi"), request(asks("c", floor(whole(1), 40960)))},
		"a share":                          {pod(container("c", ResourceGPUPercent, "25")), request(asks("c", share(1, 250)))},
		"the smallest share":               {pod(container("c", ResourceGPUPercent, "1")), request(asks("c", share(1, 10)))},
		"the largest share":                {pod(container("c", ResourceGPUPercent, "100")), request(asks("c", share(1, 1000)))},
		"shares of two GPUs":               {annotated(pod(container("c", ResourceGPUPercent, "25")), AnnotationGPUCount, "2"), request(asks("c", share(2, 250)))},
		"shares of the most GPUs":          {annotated(pod(container("c", ResourceGPUPercent, "25")), AnnotationGPUCount, "64"), request(asks("c", share(64, 250)))},
		"a share with a floor":             {annotated(pod(container("c", ResourceGPUPercent, "25")), AnnotationGPUMemory, "10Gi"), request(asks("c", floor(share(1, 250), 10240)))},
		"a floor with a fraction":          {annotated(pod(container("c", ResourceGPUPercent, "25")), AnnotationGPUMemory, "1.5Gi"), request(asks("c", floor(share(1, 250), 1536)))},
		"a floor of no whole bytes":        {annotated(pod(container("c", ResourceGPUPercent, "25")), AnnotationGPUMemory, "0.1Gi"), request(asks("c", floor(share(1, 250), 103)))},
		"a floor is rounded up":            {annotated(pod(container("c", ResourceGPUPercent, "25")), AnnotationGPUMemory, "10G"), request(asks("c", floor(share(1, 250), 9537)))},
		"a floor with an exponent":         {annotated(pod(container("c", ResourceGPUPercent, "25")), AnnotationGPUMemory, "1e+09"), request(asks("c", floor(share(1, 250), 954)))},
		"the smallest floor":               {annotated(pod(container("c", ResourceGPUPercent, "25")), AnnotationGPUMemory, "1Mi"), request(asks("c", floor(share(1, 250), 1)))},
		"the largest floor":                {annotated(pod(container("c", ResourceGPUPercent, "25")), AnnotationGPUMemory, "1Pi"), request(asks("c", floor(share(1, 250), gpu.MaxMemoryMiB)))},
		"an instance":                      {pod(container("c", "nvidia.com/mig-1g.10gb", "1")), request(asks("c", instances(1, "1g.10gb")))},
		"an instance with media engines":   {pod(container("c", "nvidia.com/mig-1g.10gb.me", "1")), request(asks("c", instances(1, "1g.10gb+me")))},
		"an instance with all of them":     {pod(container("c", "nvidia.com/mig-1g.24gb.me.all", "1")), request(asks("c", instances(1, "1g.24gb+me.all")))},
		"an instance without them":         {pod(container("c", "nvidia.com/mig-1g.24gb-me", "1")), request(asks("c", instances(1, "1g.24gb-me")))},
		"a profile that no table has":      {pod(container("c", "nvidia.com/mig-9g.999gb", "1")), request(asks("c", instances(1, "9g.999gb")))},
		"two profiles, in order of name":   {pod(container("c", "nvidia.com/mig-3g.40gb", "1", "nvidia.com/mig-1g.10gb", "2")), request(asks("c", instances(2, "1g.10gb"), instances(1, "3g.40gb")))},
		"whole GPUs and instances":         {pod(container("c", "nvidia.com/mig-1g.10gb", "2", ResourceGPU, "1")), request(asks("c", whole(1), instances(2, "1g.10gb")))},
		"a floor does not concern MIG":     {annotated(pod(container("c", "nvidia.com/mig-1g.10gb", "2", ResourceGPU, "1")), AnnotationGPUMemory, "1Gi"), request(asks("c", floor(whole(1), 1024), instances(2, "1g.10gb")))},
		"a share beside no whole GPU":      {pod(container("c", ResourceGPU, "0", ResourceGPUPercent, "5")), request(asks("c", share(1, 50)))},
		"several containers, some without": {pod(container("a", ResourceGPUPercent, "5"), container("b"), container("d", ResourceGPU, "1")), request(asks("a", share(1, 50)), asks("d", whole(1)))},
		"the count holds for every share":  {annotated(pod(container("a", ResourceGPUPercent, "5"), container("b", ResourceGPU, "1")), AnnotationGPUCount, "3"), request(asks("a", share(3, 50)), asks("b", whole(1)))},
		"init containers and sidecars, in the order in which they start": {
			withInit(pod(container("main", ResourceGPU, "1")), container("setup", ResourceGPU, "2"), sidecar(container("sidecar", ResourceGPUPercent, "5")), container("more", "nvidia.com/mig-1g.10gb", "1")),
			request(initAsks("setup", whole(2)), asks("sidecar", share(1, 50)), initAsks("more", instances(1, "1g.10gb")), asks("main", whole(1))),
		},
		"only an init container": {withInit(pod(container("main")), container("setup", ResourceGPU, "2")), request(initAsks("setup", whole(2)))},
		"an assignment is not its business here": {
			annotated(pod(container("c", ResourceGPU, "1")), AnnotationGPUs, "c=g0"), request(asks("c", whole(1))),
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := Request(tc.pod)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
			if err := got.Validate(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestRequestRefusesWhatHasNoMeaning(t *testing.T) {
	percent := func(q string) *v1.Pod { return pod(container("main", ResourceGPUPercent, q)) }
	count := func(v string) *v1.Pod { return annotated(percent("25"), AnnotationGPUCount, v) }
	memory := func(v string) *v1.Pod { return annotated(percent("25"), AnnotationGPUMemory, v) }
	badCount := `annotation weft.sh/gpu-count is %q: want a whole number from 1 to 64`
	badMemory := `annotation weft.sh/gpu-memory is %q: want a quantity from 1Mi to 1Pi, such as 10Gi`
	tests := map[string]struct {
		pod  *v1.Pod
		want string
	}{
		"a share of nothing":           {percent("0"), `container "main": weft.sh/gpu-percent is "0": want a whole number from 1 to 100`},
		"a share of more than one GPU": {percent("101"), `container "main": weft.sh/gpu-percent is "101": want a whole number from 1 to 100`},
		"a negative share":             {percent("-5"), `container "main": weft.sh/gpu-percent is "-5": want a whole number from 1 to 100`},
		"a share with a fraction":      {percent("1.5"), `container "main": weft.sh/gpu-percent is "1500m": want a whole number from 1 to 100`},
		"a share in thousandths":       {percent("1500m"), `container "main": weft.sh/gpu-percent is "1500m": want a whole number from 1 to 100`},
		"a share of 2^63":              {percent("9223372036854775808"), `container "main": weft.sh/gpu-percent is "9223372036854775808": want a whole number from 1 to 100`},
		"a share that wraps around":    {percent("18446744073709551621"), `container "main": weft.sh/gpu-percent is "18446744073709551621": want a whole number from 1 to 100`},
		"percent of an init container": {withInit(pod(), container("setup", ResourceGPUPercent, "0")), `container "setup": weft.sh/gpu-percent is "0": want a whole number from 1 to 100`},
		"too many whole GPUs":          {pod(container("main", ResourceGPU, "65")), `container "main": nvidia.com/gpu is "65": want a whole number from 1 to 64`},
		"half a GPU":                   {pod(container("main", ResourceGPU, "500m")), `container "main": nvidia.com/gpu is "500m": want a whole number from 1 to 64`},
		"a negative number of GPUs":    {pod(container("main", ResourceGPU, "-1")), `container "main": nvidia.com/gpu is "-1": want a whole number from 1 to 64`},
		"half an instance":             {pod(container("main", "nvidia.com/mig-1g.10gb", "500m")), `container "main": nvidia.com/mig-1g.10gb is "500m": want a whole number from 1 to 4096`},
		"a negative instance":          {pod(container("main", "nvidia.com/mig-1g.10gb", "-1")), `container "main": nvidia.com/mig-1g.10gb is "-1": want a whole number from 1 to 4096`},
		"too many instances":           {pod(container("main", "nvidia.com/mig-1g.10gb", "4097")), `container "main": nvidia.com/mig-1g.10gb is "4097": want a whole number from 1 to 4096`},

		"a share and whole GPUs in one container": {
			pod(container("main", ResourceGPUPercent, "25", ResourceGPU, "1")),
			`container "main" is "nvidia.com/gpu and weft.sh/gpu-percent": want weft.sh/gpu-percent alone: a container has shares of GPUs or whole GPUs and MIG instances, not both`,
		},
		"a share and an instance in one container": {
			pod(container("main", ResourceGPUPercent, "25", "nvidia.com/mig-1g.10gb", "1")),
			`container "main" is "nvidia.com/mig-1g.10gb and weft.sh/gpu-percent": want weft.sh/gpu-percent alone: a container has shares of GPUs or whole GPUs and MIG instances, not both`,
		},

		"a count without a share":                   {annotated(pod(container("main", ResourceGPU, "1")), AnnotationGPUCount, "2"), `annotation weft.sh/gpu-count is "2": want a container that asks for weft.sh/gpu-percent, or no such annotation`},
		"a count without anything":                  {annotated(pod(container("main")), AnnotationGPUCount, "2"), `annotation weft.sh/gpu-count is "2": want a container that asks for weft.sh/gpu-percent, or no such annotation`},
		"a count of 0":                              {count("0"), fmt.Sprintf(badCount, "0")},
		"a count of 65":                             {count("65"), fmt.Sprintf(badCount, "65")},
		"a negative count":                          {count("-1"), fmt.Sprintf(badCount, "-1")},
		"a count in words":                          {count("two"), fmt.Sprintf(badCount, "two")},
		"no count":                                  {count(""), fmt.Sprintf(badCount, "")},
		"a count with a sign":                       {count("+2"), fmt.Sprintf(badCount, "+2")},
		"a count with a zero":                       {count("02"), fmt.Sprintf(badCount, "02")},
		"a count with a space":                      {count("2 "), fmt.Sprintf(badCount, "2 ")},
		"a count as a quantity":                     {count("2k"), fmt.Sprintf(badCount, "2k")},
		"a count of any length":                     {count(strings.Repeat("9", 1000)), fmt.Sprintf(badCount, strings.Repeat("9", 80)+"…")},
		"a floor of nothing":                        {memory("0"), fmt.Sprintf(badMemory, "0")},
		"a negative floor":                          {memory("-1Gi"), fmt.Sprintf(badMemory, "-1Gi")},
		"a floor in words":                          {memory("lots"), fmt.Sprintf(badMemory, "lots")},
		"an empty floor":                            {memory(""), fmt.Sprintf(badMemory, "")},
		"a floor without a suffix":                  {memory("10"), fmt.Sprintf(badMemory, "10")},
		"a floor in thousandths":                    {memory("10240m"), fmt.Sprintf(badMemory, "10240m")},
		"a floor of more than a GPU will ever have": {memory("2Pi"), fmt.Sprintf(badMemory, "2Pi")},
		"a floor of 10^30":                          {memory("1e30"), fmt.Sprintf(badMemory, "1e30")},
		"a floor that takes all memory to read":     {memory("1e999999999"), fmt.Sprintf(badMemory, "1e999999999")},
		"one that takes as much for nothing":        {memory("1E-000999999999"), fmt.Sprintf(badMemory, "1E-000999999999")},
		"a floor of any length":                     {memory("1" + strings.Repeat("0", 200)), fmt.Sprintf(badMemory, "1"+strings.Repeat("0", 79)+"…")},
		"a floor of 2^64 and 1 Mi, which wraps":     {memory("18446744073710600192"), fmt.Sprintf(badMemory, "18446744073710600192")},
		"a floor for MIG only":                      {annotated(pod(container("main", "nvidia.com/mig-1g.10gb", "1")), AnnotationGPUMemory, "1Gi"), `annotation weft.sh/gpu-memory is "1Gi": want a container that asks for weft.sh/gpu-percent or nvidia.com/gpu, or no such annotation`},
		"a floor for nothing":                       {annotated(pod(container("main")), AnnotationGPUMemory, "1Gi"), `annotation weft.sh/gpu-memory is "1Gi": want a container that asks for weft.sh/gpu-percent or nvidia.com/gpu, or no such annotation`},

		"a profile of another form": {pod(container("main", "nvidia.com/mig-small", "1")), `container "main": nvidia.com/mig-small is "1": want a resource named after a MIG profile, such as nvidia.com/mig-1g.10gb`},
		"a profile of another form, even for none": {
			pod(container("main", "nvidia.com/mig-1g.10GB", "0")), `container "main": nvidia.com/mig-1g.10GB is "0": want a resource named after a MIG profile, such as nvidia.com/mig-1g.10gb`,
		},
		"a profile with a plus sign, which no resource name has": {
			pod(container("main", "nvidia.com/mig-1g.10gb+me", "1")), `container "main": nvidia.com/mig-1g.10gb+me is "1": want a resource named after a MIG profile, such as nvidia.com/mig-1g.10gb`,
		},
		"a compute instance": {pod(container("main", "nvidia.com/mig-1c.3g.40gb", "1")), `container "main": nvidia.com/mig-1c.3g.40gb is "1": want a resource named after a MIG profile, such as nvidia.com/mig-1g.10gb`},
		"no profile":         {pod(container("main", "nvidia.com/mig-", "1")), `container "main": nvidia.com/mig- is "1": want a resource named after a MIG profile, such as nvidia.com/mig-1g.10gb`},

		"a selector and an affinity that contradict": {
			requiring(selecting(percent("25"), "A100"), []v1.NodeSelectorRequirement{in("V100", "H100")}),
			`required node affinity on nvidia.com/gpu.product is "H100, V100": want "A100" among them, which is the node selector`,
		},
		"requirements of a term that contradict": {
			requiring(percent("25"), []v1.NodeSelectorRequirement{in("V100"), in("H100")}),
			`required node affinity on nvidia.com/gpu.product is "": want at least one GPU model that fulfils all of a term`,
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			for who, read := range map[string]func(*v1.Pod) (gpu.Request, error){"Request": Request, "PendingRequest": PendingRequest} {
				got, err := read(tc.pod)
				var invalid *InvalidError
				if !errors.As(err, &invalid) || !got.Empty() {
					t.Fatalf("%s: %v, %v: want an *InvalidError", who, got, err)
				}
				if diff := cmp.Diff(tc.want, err.Error()); diff != "" {
					t.Errorf("%s: -want +got\n%s", who, diff)
				}
			}
		})
	}
}

func TestPendingRequestRefusesAnAssignment(t *testing.T) {
	for value, shown := range map[string]string{"main=g0": "main=g0", "": "", strings.Repeat("x", 100): strings.Repeat("x", 80) + "…"} {
		for _, p := range []*v1.Pod{pod(container("main", ResourceGPU, "1")), pod(container("main"))} {
			_, err := PendingRequest(annotated(p, AnnotationGPUs, value))
			want := fmt.Sprintf("annotation weft.sh/gpus is %q: want none: only the scheduler writes it, remove it from the pod", shown)
			if err == nil || err.Error() != want {
				t.Errorf("got %v, want %s", err, want)
			}
		}
	}
	got, err := PendingRequest(pod(container("main", ResourceGPU, "1")))
	if diff := cmp.Diff(request(asks("main", whole(1))), got); diff != "" || err != nil {
		t.Errorf("%v: -want +got\n%s", err, diff)
	}
}

func TestProducts(t *testing.T) {
	type terms = []v1.NodeSelectorRequirement
	exists := requirement("zone", v1.NodeSelectorOpExists)
	gpus := func() *v1.Pod { return pod(container("c", ResourceGPU, "1")) }
	tests := map[string]struct {
		pod  *v1.Pod
		want []string
	}{
		"any":                              {gpus(), nil},
		"the node selector's":              {selecting(gpus(), "A100"), []string{"A100"}},
		"the affinity's, sorted and once":  {requiring(gpus(), terms{in("V100", "A100", "V100")}), []string{"A100", "V100"}},
		"what all of a term admits":        {requiring(gpus(), terms{in("A100", "V100", "T4"), exists, in("T4", "A100")}), []string{"A100", "T4"}},
		"what any of the terms admits":     {requiring(gpus(), terms{in("V100")}, terms{in("A100"), exists}, terms{in("V100")}), []string{"A100", "V100"}},
		"any, when a term admits any":      {requiring(gpus(), terms{in("V100")}, terms{exists}), nil},
		"any, when no term speaks of it":   {requiring(gpus(), terms{exists}), nil},
		"a term that contradicts itself":   {requiring(gpus(), terms{in("V100"), in("A100")}, terms{in("T4")}), []string{"T4"}},
		"both selector and affinity":       {requiring(selecting(gpus(), "A100"), terms{in("V100", "A100")}), []string{"A100"}},
		"the selector's alone":             {requiring(selecting(gpus(), "A100"), terms{in("V100")}, terms{exists}), []string{"A100"}},
		"NotIn says nothing to list":       {requiring(gpus(), terms{requirement(LabelProduct, v1.NodeSelectorOpNotIn, "V100")}), nil},
		"a preferred affinity is no limit": {preferring(gpus(), in("V100")), nil},
		"nothing, for a pod without GPUs":  {selecting(pod(container("c")), "A100"), nil},
		"nothing, though it contradicts, for a pod without GPUs": {
			requiring(selecting(pod(container("c")), "A100"), terms{in("V100")}), nil,
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			before := tc.pod.DeepCopy()
			got, err := Request(tc.pod)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got.Products); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
			if diff := cmp.Diff(before, tc.pod); diff != "" {
				t.Errorf("the pod was changed (-before +after)\n%s", diff)
			}
		})
	}
}

func preferring(p *v1.Pod, r v1.NodeSelectorRequirement) *v1.Pod {
	p.Spec.Affinity = &v1.Affinity{NodeAffinity: &v1.NodeAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []v1.PreferredSchedulingTerm{
		{Weight: 1, Preference: v1.NodeSelectorTerm{MatchExpressions: []v1.NodeSelectorRequirement{r}}},
	}}}
	return p
}

func TestMIGResource(t *testing.T) {
	for profile, want := range map[string]string{
		"1g.10gb": "nvidia.com/mig-1g.10gb", "1g.10gb+me": "nvidia.com/mig-1g.10gb.me", "1g.24gb+me.all": "nvidia.com/mig-1g.24gb.me.all",
		"1g.24gb-me": "nvidia.com/mig-1g.24gb-me", "2g.48gb+gfx": "nvidia.com/mig-2g.48gb.gfx",
	} {
		got := MIGResource(profile)
		if got != want {
			t.Errorf("%s is counted by %s, want %s", profile, got, want)
		}
		r, err := Request(pod(container("c", got, "1")))
		if diff := cmp.Diff(request(asks("c", instances(1, profile))), r); diff != "" || err != nil {
			t.Errorf("%s: %v, -want +got\n%s", got, err, diff)
		}
	}
}

func TestEstimateCountsWhatARequestCannot(t *testing.T) {
	tests := map[string]struct {
		pod  *v1.Pod
		want gpu.Request
	}{
		"nothing":                          {pod(container("c", "cpu", "1")), gpu.Request{}},
		"whole GPUs, whatever the floor":   {annotated(pod(container("c", ResourceGPU, "2")), AnnotationGPUMemory, "lots"), request(asks("c", whole(2)))},
		"a share, whatever the count":      {annotated(pod(container("c", ResourceGPUPercent, "50")), AnnotationGPUCount, "two"), request(asks("c", whole(1)))},
		"a share of more than one GPU":     {pod(container("c", ResourceGPUPercent, "101")), request(asks("c", whole(2)))},
		"a share and whole GPUs":           {pod(container("c", ResourceGPUPercent, "50", ResourceGPU, "1")), request(asks("c", whole(2)))},
		"a share and instances":            {pod(container("c", ResourceGPUPercent, "50", "nvidia.com/mig-1g.10gb", "3")), request(asks("c", whole(1), instances(3, "1g.10gb")))},
		"not what has no form":             {pod(container("c", "nvidia.com/mig-small", "3", ResourceGPU, "1")), request(asks("c", whole(1)))},
		"not what is negative":             {pod(container("c", ResourceGPU, "-3", "nvidia.com/mig-1g.10gb", "-1")), gpu.Request{}},
		"no more than any node has":        {pod(container("c", ResourceGPU, "1e15", ResourceGPUPercent, "1e15")), request(asks("c", whole(gpu.MaxCount)))},
		"init containers as what they are": {withInit(pod(container("c", ResourceGPUPercent, "0", ResourceGPU, "1")), container("i", ResourceGPU, "1"), sidecar(container("s", ResourceGPU, "1"))), request(initAsks("i", whole(1)), asks("s", whole(1)), asks("c", whole(1)))},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got := Estimate(tc.pod)
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
			if err := got.Validate(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestAssignment(t *testing.T) {
	two := func() *v1.Pod { return pod(container("a", ResourceGPU, "1"), container("b", ResourceGPUPercent, "25")) }
	tests := map[string]struct {
		pod  *v1.Pod
		want string
		err  error
		text string
	}{
		"what is asked for":            {annotated(two(), AnnotationGPUs, "a=g0;b=g1:250m/1Mi"), "a=g0;b=g1:250m/1Mi", nil, ""},
		"none":                         {two(), "", ErrNoAssignment, "the pod has no annotation weft.sh/gpus"},
		"an empty one":                 {annotated(two(), AnnotationGPUs, ""), "", gpu.ErrMalformed, `malformed GPU assignment: "" is not what the pod asks for`},
		"one that cannot be read":      {annotated(two(), AnnotationGPUs, "a"), "", gpu.ErrMalformed, `malformed GPU assignment: "a": want container=grant[,grant…]`},
		"one of less":                  {annotated(two(), AnnotationGPUs, "a=g0"), "", gpu.ErrMalformed, `malformed GPU assignment: "a=g0" is not what the pod asks for`},
		"one of more":                  {annotated(two(), AnnotationGPUs, "a=g0,g2;b=g1:250m/1Mi"), "", gpu.ErrMalformed, `malformed GPU assignment: "a=g0,g2;b=g1:250m/1Mi" is not what the pod asks for`},
		"one that contradicts itself":  {annotated(two(), AnnotationGPUs, "a=g0;b=g0:250m/1Mi"), "", gpu.ErrMalformed, `malformed GPU assignment: container "b", grant 1: GPU g0 is held whole beside others`},
		"one that nobody asked for":    {annotated(pod(container("a")), AnnotationGPUs, "a=g0"), "", nil, ""},
		"none where nothing was asked": {pod(container("a")), "", nil, ""},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			r, err := Request(tc.pod)
			if err != nil {
				t.Fatal(err)
			}
			got, err := Assignment(tc.pod, r)
			if got.String() != tc.want || !errors.Is(err, tc.err) || err != nil && err.Error() != tc.text {
				t.Errorf("got %q and %v, want %q and %s", got, err, tc.want, tc.text)
			}
		})
	}
}

func TestBound(t *testing.T) {
	for name, tc := range map[string]struct {
		node  string
		phase v1.PodPhase
		want  bool
	}{
		"waiting":                  {"", v1.PodPending, false},
		"bound, not started":       {"a", v1.PodPending, true},
		"running":                  {"a", v1.PodRunning, true},
		"unknown, on a lost node":  {"a", v1.PodUnknown, true},
		"succeeded":                {"a", v1.PodSucceeded, false},
		"failed":                   {"a", v1.PodFailed, false},
		"ended without ever bound": {"", v1.PodFailed, false},
	} {
		p := pod()
		p.Spec.NodeName, p.Status.Phase = tc.node, tc.phase
		if got := Bound(p); got != tc.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}

func TestMilliCPU(t *testing.T) {
	p := withInit(pod(container("a", "cpu", "1500m"), container("b", "cpu", "1")), container("setup", "cpu", "4"), sidecar(container("s", "cpu", "250m")))
	p.Spec.Overhead = v1.ResourceList{v1.ResourceCPU: resource.MustParse("100m")}
	if got := MilliCPU(p); got != 4100 {
		t.Errorf("got %d, want 4100: the init container is alone with the overhead", got)
	}
	if got := MilliCPU(pod(container("a"))); got != 0 {
		t.Errorf("got %d of nothing", got)
	}
}
