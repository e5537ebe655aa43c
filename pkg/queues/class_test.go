package queues

import (
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"weft.sh/weft/pkg/apis/weft/v1alpha1"
)

func newTestClass(t *testing.T, name, spec string) *v1alpha1.GPUClass {
	t.Helper()
	c := &v1alpha1.GPUClass{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if err := yaml.Unmarshal([]byte(spec), &c.Spec); err != nil {
		t.Fatal(err)
	}
	return c
}

// testClasses are classes as a cluster might have them.
func testClasses(t *testing.T) []*v1alpha1.GPUClass {
	return []*v1alpha1.GPUClass{
		newTestClass(t, "h100", `{products: [NVIDIA-H100-80GB-HBM3], weight: "2", price: {perGPUHour: "3.95", currency: EUR}}`),
		newTestClass(t, "h100-mig", `{priority: 5, products: [NVIDIA-H100-80GB-HBM3], migProfiles: [1g.10gb], weight: "2.5"}`),
		newTestClass(t, "spot", `{priority: 10, nodeSelector: {matchLabels: {capacity: spot}}, weight: "0.3"}`),
		newTestClass(t, "a-same-as-h100", `{products: [NVIDIA-H100-80GB-HBM3], migProfiles: [7g.80gb], weight: "1"}`),
	}
}

func TestClassOn(t *testing.T) {
	s := NewSet(nil, testClasses(t), nil)
	const h100 = "NVIDIA-H100-80GB-HBM3"
	spot := map[string]string{"capacity": "spot"}
	for name, c := range map[string]struct {
		labels           map[string]string
		product, profile string
		want             Class
	}{
		"a model of a class": {nil, h100, "", Class{Name: "h100", WeightMilli: 2000, PriceMicros: 3950000, Currency: "EUR"}},
		"a model of no class counts once and costs nothing": {nil, "NVIDIA-L4", "", Class{WeightMilli: 1000}},
		"the class of the highest priority counts":          {spot, h100, "1g.10gb", Class{Name: "spot", WeightMilli: 300}},
		"an instance of the profile":                        {nil, h100, "1g.10gb", Class{Name: "h100-mig", WeightMilli: 2500}},
		"an instance of another profile is of the model":    {nil, h100, "2g.20gb", Class{Name: "h100", WeightMilli: 2000, PriceMicros: 3950000, Currency: "EUR"}},
		"of equal priority the first by name counts":        {nil, h100, "7g.80gb", Class{Name: "a-same-as-h100", WeightMilli: 1000}},
		"a label with a suffix of feature discovery":        {nil, h100 + "-SHARED", "", Class{Name: "h100", WeightMilli: 2000, PriceMicros: 3950000, Currency: "EUR"}},
		"a label of single MIG strategy":                    {nil, h100 + "-MIG-1g.10gb", "1g.10gb", Class{Name: "h100-mig", WeightMilli: 2500}},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, s.ClassOn(c.labels, c.product, c.profile)); diff != "" {
				t.Errorf("class (-want +got):\n%s", diff)
			}
		})
	}
	if got := (&Set{}).ClassOn(nil, h100, ""); got != unclassed {
		t.Errorf("without classes %+v", got)
	}
}

// What a pod may be of without a node is what some node would make of it.
func TestClassesOfAPodThatWaits(t *testing.T) {
	s := NewSet(nil, testClasses(t), nil)
	for name, c := range map[string]struct {
		products []string
		profile  string
		want     []string
	}{
		"any model":                       {nil, "", []string{"spot", "h100", ""}},
		"one model":                       {[]string{"NVIDIA-H100-80GB-HBM3"}, "", []string{"spot", "h100"}},
		"one of two models":               {[]string{"NVIDIA-H100-80GB-HBM3", "NVIDIA-L4"}, "", []string{"spot", "h100", ""}},
		"another model":                   {[]string{"NVIDIA-L4"}, "", []string{"spot", ""}},
		"an instance of any model":        {nil, "1g.10gb", []string{"spot", "h100-mig", "h100", ""}},
		"an instance of the model":        {[]string{"NVIDIA-H100-80GB-HBM3"}, "1g.10gb", []string{"spot", "h100-mig"}},
		"an instance of no class of MIGs": {[]string{"NVIDIA-H100-80GB-HBM3"}, "3g.40gb", []string{"spot", "h100"}},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for class := range s.classesOf(c.products, c.profile) {
				got = append(got, class.Name)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("classes (-want +got):\n%s", diff)
			}
		})
	}
}

func TestRate(t *testing.T) {
	for name, c := range map[string]struct{ weight, milli, want int64 }{
		"once":                              {1000, 250, 250},
		"half as often":                     {500, 250, 125},
		"rounded up":                        {300, 125, 38},
		"for nothing":                       {0, 1000, 0},
		"no GPU":                            {2000, 0, 0},
		"a million GPUs a thousand times":   {1000 * 1000, 1e9, 1e12},
		"more than there is stays in range": {1000 * 1000, math.MaxInt64, 1 << 40 * 1000},
	} {
		t.Run(name, func(t *testing.T) {
			if got := (Class{WeightMilli: c.weight}).Rate(c.milli); got != c.want {
				t.Errorf("%d: want %d", got, c.want)
			}
		})
	}
}
