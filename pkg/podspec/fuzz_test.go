package podspec

import (
	"errors"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"weft.sh/weft/pkg/gpu"
)

// Whatever stands in a pod, it is either refused with an *InvalidError or a valid request; and what was estimated of it is
// valid.
func FuzzRequest(f *testing.F) {
	f.Add("25", "", "1g.10gb", "", "2", "10Gi", "A100", "", byte(0))
	f.Add("", "8", "1g.10gb.me", "1", "", "", "", "A100", byte(1))
	f.Add("1.5", "-1", "1g.10gb+me", "1e30", "+2", "0.1Gi", "A100", "V100", byte(2))
	f.Add("1e-9", "1E", "", "0", "64", "1e999999999", "", "", byte(3))
	f.Fuzz(func(t *testing.T, percent, whole, profile, instances, count, memory, selected, admitted string, kind byte) {
		c := v1.Container{Name: "c", Resources: v1.ResourceRequirements{Limits: v1.ResourceList{}}}
		for name, text := range map[string]string{ResourceGPUPercent: percent, ResourceGPU: whole, ResourceMIGPrefix + profile: instances} {
			// The API server parsed these before.
			if q, ok := parseMemory(text); ok {
				c.Resources.Limits[v1.ResourceName(name)] = q
			}
		}
		p := pod()
		switch kind % 4 {
		case 0:
			p.Spec.Containers = []v1.Container{c}
		case 1:
			p.Spec.InitContainers = []v1.Container{c}
		case 2:
			p.Spec.InitContainers = []v1.Container{sidecar(c)}
			other := c
			other.Name = "d"
			p.Spec.Containers = []v1.Container{other}
		case 3:
			c.Resources.Requests = v1.ResourceList{ResourceGPU: resource.MustParse("1")}
			p.Spec.Containers = []v1.Container{c}
		}
		for key, value := range map[string]string{AnnotationGPUCount: count, AnnotationGPUMemory: memory} {
			if value != "" {
				p.Annotations[key] = value
			}
		}
		if selected != "" {
			p = selecting(p, selected)
		}
		if admitted != "" {
			p = requiring(p, []v1.NodeSelectorRequirement{in(admitted, selected)})
		}
		r, err := PendingRequest(p)
		if err != nil {
			var invalid *InvalidError
			if !errors.As(err, &invalid) || !r.Empty() || err.Error() == "" {
				t.Fatalf("%+v, %v", r, err)
			}
		} else if err := r.Validate(); err != nil {
			t.Fatalf("accepts %+v: %v", r, err)
		}
		for _, c := range r.Containers {
			for _, a := range c.Asks {
				if a.Kind != gpu.MIG && a.Count > MaxGPUCount {
					t.Fatalf("accepts %v", a)
				}
			}
		}
		if err := Estimate(p).Validate(); err != nil {
			t.Fatalf("estimates %+v: %v", Estimate(p), err)
		}
	})
}
