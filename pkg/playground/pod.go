package playground

import (
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"weft.sh/weft/pkg/apis/weft/v1alpha1"
	"weft.sh/weft/pkg/podgroup"
	"weft.sh/weft/pkg/podspec"
)

// SchedulerName is what pods name to be placed by Weft.
const SchedulerName = "weft"

// Pod is a pod with one container that asks for GPUs in one way.
type Pod struct {
	Name      string
	CPUMilli  int64
	MemoryMiB int64
	// GPUs is the number of whole GPUs.
	GPUs int64
	// Percent is the share of a GPU in hundredths, on Count distinct GPUs; Count 0 and 1 are the same.
	Percent, Count int64
	// GPUMemory is the floor on the memory of each GPU or share, a quantity such as 10Gi; empty for none.
	GPUMemory string
	// MIGProfile and MIGCount are MIG instances.
	MIGProfile string
	MIGCount   int64
	// Products are the GPU models that will do; none means every model.
	Products []string
	// Group is the PodGroup that the pod is a member of; empty for none.
	Group string
	// Queue is the Queue that it is charged to, and Runtime how long it says it runs, a duration such as 2h; empty for neither.
	Queue, Runtime string
}

// Queue is a Queue of weft.sh that any namespace may use, with a budget for a month that is enforced.
type Queue struct {
	Name string
	// GPUHours is the budget, a quantity.
	GPUHours string
}

// Object is the Queue to create.
func (q Queue) Object() *unstructured.Unstructured {
	u := &unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{
		"budget": map[string]any{"gpuHours": q.GPUHours, "period": string(v1alpha1.PeriodMonth), "enforcement": string(v1alpha1.EnforceHold)},
	}}}
	u.SetAPIVersion(v1alpha1.SchemeGroupVersion.String())
	u.SetKind("Queue")
	u.SetName(q.Name)
	return u
}

// Group is a PodGroup of scheduling.x-k8s.io in the namespace default: the pods that name it are a gang.
type Group struct {
	Name      string
	MinMember int64
	// Required is the topology level of which one domain holds all members; empty for none.
	Required string
}

// Object is the PodGroup to create.
func (g Group) Object() *unstructured.Unstructured {
	u := &unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{"minMember": g.MinMember}}}
	u.SetAPIVersion(podgroup.Resource.GroupVersion().String())
	u.SetKind("PodGroup")
	u.SetNamespace(metav1.NamespaceDefault)
	u.SetName(g.Name)
	if g.Required != "" {
		u.SetAnnotations(map[string]string{podspec.AnnotationTopologyRequired: g.Required})
	}
	return u
}

// Object is the pod to create, in the namespace default.
func (p Pod) Object() *corev1.Pod {
	limits := corev1.ResourceList{}
	requests := corev1.ResourceList{
		corev1.ResourceCPU:    *resource.NewMilliQuantity(p.CPUMilli, resource.DecimalSI),
		corev1.ResourceMemory: *resource.NewQuantity(p.MemoryMiB<<20, resource.BinarySI),
	}
	add := func(name string, count int64) {
		if count > 0 {
			limits[corev1.ResourceName(name)] = *resource.NewQuantity(count, resource.DecimalSI)
		}
	}
	add(podspec.ResourceGPU, p.GPUs)
	add(podspec.ResourceGPUPercent, p.Percent)
	if p.MIGProfile != "" {
		add(podspec.MIGResource(p.MIGProfile), p.MIGCount)
	}
	annotations := map[string]string{}
	if p.Count > 1 {
		annotations[podspec.AnnotationGPUCount] = strconv.FormatInt(p.Count, 10)
	}
	if p.GPUMemory != "" {
		annotations[podspec.AnnotationGPUMemory] = p.GPUMemory
	}
	if p.Runtime != "" {
		annotations[podspec.AnnotationRuntime] = p.Runtime
	}
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: p.Name, Namespace: metav1.NamespaceDefault, Annotations: annotations},
		Spec: corev1.PodSpec{
			SchedulerName: SchedulerName,
			// Nothing runs, so nothing has to end.
			TerminationGracePeriodSeconds: new(int64),
			Containers: []corev1.Container{{
				// Nobody pulls it.
				Name: "main", Image: "weft.sh/playground/nothing",
				Resources: corev1.ResourceRequirements{Requests: requests, Limits: limits},
			}},
		},
	}
	pod.Labels = map[string]string{}
	if p.Group != "" {
		pod.Labels[podspec.LabelPodGroup] = p.Group
	}
	if p.Queue != "" {
		pod.Labels[podspec.LabelQueue] = p.Queue
	}
	if len(p.Products) > 0 {
		pod.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{
			RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
				MatchExpressions: []corev1.NodeSelectorRequirement{{
					Key: podspec.LabelProduct, Operator: corev1.NodeSelectorOpIn, Values: p.Products,
				}},
			}}},
		}}
	}
	return pod
}
