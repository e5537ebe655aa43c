package gang

import (
	"maps"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"

	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/plugins/gpufit"
	"weft.sh/weft/pkg/podspec"
)

// shape is what members have in common between which no plugin can tell a difference: one of them is asked for all.
type shape struct {
	// pod is the first member of the shape.
	pod     *v1.Pod
	request gpu.Request
	asks    map[v1.ResourceName]int64
	// avoid are nodes that are left out.
	avoid []string
	// refused is why no node takes a member, whatever is free; "" where one may.
	refused string
	// wide: whether a node takes a member depends on where the others are, or on more than pods and nodes.
	wide bool
}

// newShape is the shape of the pod. Errors are *podspec.InvalidError.
func newShape(pod *v1.Pod) (*shape, error) {
	r, err := podspec.PendingRequest(pod)
	if err != nil {
		return nil, err
	}
	return &shape{pod: pod, request: r, asks: gpufit.Asks(pod), wide: isWide(pod)}, nil
}

func isWide(pod *v1.Pod) bool {
	if a := pod.Spec.Affinity; a != nil && (a.PodAffinity != nil || a.PodAntiAffinity != nil) {
		return true
	}
	for _, c := range pod.Spec.Containers {
		for _, p := range c.Ports {
			if p.HostPort > 0 || pod.Spec.HostNetwork {
				return true
			}
		}
	}
	return len(pod.Spec.TopologySpreadConstraints) > 0 || len(pod.Spec.ResourceClaims) > 0 || len(boundVolumes(pod)) > 0
}

// boundVolumes are the volumes that can decide about a node. What every member has its own of, such as the token of its service
// account, is not among them.
func boundVolumes(pod *v1.Pod) []v1.Volume {
	var out []v1.Volume
	for _, v := range pod.Spec.Volumes {
		if v.EmptyDir == nil && v.Projected == nil && v.ConfigMap == nil && v.Secret == nil && v.DownwardAPI == nil && v.HostPath == nil && v.Image == nil {
			out = append(out, v)
		}
	}
	return out
}

// signature is equal for pods of one shape. Labels count where other pods may select by them. labels is for what identifies
// the pod in its gang, such as its index, which would make every member a shape of its own; see identities.
func signature(pod *v1.Pod, labels bool, identities map[string]bool) string {
	s := pod.Spec
	relevant := v1.PodSpec{
		NodeSelector: s.NodeSelector, Affinity: s.Affinity, Tolerations: s.Tolerations, TopologySpreadConstraints: s.TopologySpreadConstraints,
		Overhead: s.Overhead, HostNetwork: s.HostNetwork, ResourceClaims: s.ResourceClaims, Volumes: boundVolumes(pod), OS: s.OS,
		Resources: s.Resources, InitContainers: asking(s.InitContainers), Containers: asking(s.Containers), PreemptionPolicy: s.PreemptionPolicy,
	}
	bytes, err := relevant.Marshal()
	if err != nil {
		return string(pod.UID) // a shape of its own
	}
	var b strings.Builder
	b.Write(bytes)
	for _, key := range []string{podspec.AnnotationGPUCount, podspec.AnnotationGPUMemory} {
		b.WriteString("\x00" + pod.Annotations[key])
	}
	if labels {
		for _, key := range slices.Sorted(maps.Keys(pod.Labels)) {
			if !identities[key] {
				b.WriteString("\x00" + key + "=" + pod.Labels[key])
			}
		}
	}
	return b.String()
}

// asking is what containers ask of a node.
func asking(containers []v1.Container) []v1.Container {
	out := make([]v1.Container, len(containers))
	for i, c := range containers {
		out[i] = v1.Container{Name: c.Name, Resources: c.Resources, Ports: c.Ports, RestartPolicy: c.RestartPolicy}
	}
	return out
}

// identities are the labels of which no two members have the same value.
func identities(pods []*v1.Pod) map[string]bool {
	out := map[string]bool{}
	if len(pods) < 2 {
		return out
	}
	for key := range pods[0].Labels {
		seen := map[string]bool{}
		unique := true
		for _, p := range pods {
			v, ok := p.Labels[key]
			unique = unique && ok && !seen[v]
			seen[v] = true
		}
		out[key] = unique
	}
	return out
}
