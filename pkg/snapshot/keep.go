package snapshot

import (
	"maps"
	"slices"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	schedulingv1beta1 "k8s.io/api/scheduling/v1beta1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	schedv1alpha1 "sigs.k8s.io/scheduler-plugins/apis/scheduling/v1alpha1"

	"weft.sh/weft/pkg/apis/weft/v1alpha1"
	"weft.sh/weft/pkg/cluster"
	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/podgroup"
	"weft.sh/weft/pkg/podspec"
)

// podAnnotations and groupAnnotations are those that decide something.
var (
	podAnnotations = []string{
		podspec.AnnotationGPUCount, podspec.AnnotationGPUMemory, podspec.AnnotationGPUs, podspec.AnnotationRuntime, podspec.AnnotationCheckpointedAt,
	}
	groupAnnotations = []string{
		podspec.AnnotationTopologyRequired, podspec.AnnotationTopologyPreferred, podspec.AnnotationOnMemberLost, podspec.AnnotationOnPartialStart,
		podspec.AnnotationPartialGrace,
	}
)

// Spot is the label of clouds and autoscalers that says of a node that it may be taken away at any time, and the value that says so.
type Spot struct{ Key, Value string }

// Spots are all that are known: of Karpenter, EKS, GKE and AKS.
func Spots() []Spot {
	return []Spot{
		{"karpenter.sh/capacity-type", "spot"},
		{"eks.amazonaws.com/capacityType", "SPOT"},
		{"cloud.google.com/gke-spot", "true"},
		{"cloud.google.com/gke-preemptible", "true"},
		{"kubernetes.azure.com/scalesetpriority", "spot"},
	}
}

// IsSpot reports whether labels say that a node is spot.
func IsSpot(labels map[string]string) bool {
	return slices.ContainsFunc(Spots(), func(s Spot) bool { return labels[s.Key] == s.Value })
}

// keeper decides which labels of nodes and namespaces are kept: those of GPUs and of the topology, and what somebody selects by.
type keeper struct {
	nodes, namespaces map[string]bool
}

func newKeeper(levels []string) *keeper {
	k := &keeper{nodes: map[string]bool{}, namespaces: map[string]bool{}}
	for _, level := range levels {
		k.nodes[level] = true
	}
	for _, s := range Spots() {
		k.nodes[s.Key] = true
	}
	return k
}

func (k *keeper) nodeLabels(labels map[string]string) map[string]string {
	return kept(labels, func(key string) bool {
		return k.nodes[key] || strings.HasPrefix(key, "nvidia.com/gpu.") || strings.HasPrefix(key, "nvidia.com/mig.")
	})
}

// kept are the entries with the keys that are to be kept, nil for none.
func kept(m map[string]string, keep func(string) bool) map[string]string {
	var out map[string]string
	for key, value := range m {
		if keep(key) {
			if out == nil {
				out = map[string]string{}
			}
			out[key] = value
		}
	}
	return out
}

func among(keys []string) func(string) bool {
	return func(key string) bool { return slices.Contains(keys, key) }
}

// selects adds the keys of a selector.
func selects(s *metav1.LabelSelector, to map[string]bool) {
	if s == nil {
		return
	}
	for key := range s.MatchLabels {
		to[key] = true
	}
	for _, e := range s.MatchExpressions {
		to[e.Key] = true
	}
}

func (k *keeper) class(c *v1alpha1.GPUClass) Class {
	selects(c.Spec.NodeSelector, k.nodes)
	return Class{Name: c.Name, Spec: c.Spec}
}

func (k *keeper) queue(q *v1alpha1.Queue) Queue {
	out := Queue{Name: q.Name, Created: q.CreationTimestamp.UTC(), Spec: *q.Spec.DeepCopy()}
	if n := q.Spec.Namespaces; n != nil {
		selects(n.Selector, k.namespaces)
	}
	if b := out.Spec.Budget; b != nil {
		for i := range b.Adjustments {
			b.Adjustments[i].Reason = "" // people's words
		}
	}
	if b := q.Status.Budget; b != nil {
		out.Budget = &Checkpoint{
			AsOf: b.AsOf.UTC(), PeriodStart: b.PeriodStart.UTC(), UsedMilliGPUSeconds: b.UsedMilliGPUSeconds, CarriedMilliGPUSeconds: b.CarriedMilliGPUSeconds,
		}
		if b.PeriodEnd != nil {
			out.Budget.PeriodEnd = new(b.PeriodEnd.UTC())
		}
	}
	return out
}

func (k *keeper) namespace(n *v1.Namespace) Namespace {
	return Namespace{Name: n.Name, Labels: kept(n.Labels, func(key string) bool { return k.namespaces[key] })}
}

func keepGroup(pg *schedv1alpha1.PodGroup) PodGroup {
	return PodGroup{
		Namespace: pg.Namespace, Name: pg.Name, Created: pg.CreationTimestamp.UTC(), MinMember: pg.Spec.MinMember,
		Annotations: kept(pg.Annotations, among(groupAnnotations)),
	}
}

func keepNative(pg *schedulingv1beta1.PodGroup) NativeGroup {
	return NativeGroup{
		Namespace: pg.Namespace, Name: pg.Name, Created: pg.CreationTimestamp.UTC(), Annotations: kept(pg.Annotations, among(groupAnnotations)),
		Parent: pg.Spec.ParentCompositePodGroupName != nil, Policy: pg.Spec.SchedulingPolicy, Constraints: pg.Spec.SchedulingConstraints,
		Disruption: pg.Spec.DisruptionMode,
	}
}

func (k *keeper) pod(p *v1.Pod) Pod {
	out := Pod{
		Namespace: p.Namespace, Name: p.Name, UID: string(p.UID), Created: p.CreationTimestamp.UTC(), Scheduler: p.Spec.SchedulerName,
		Phase: string(p.Status.Phase), Queue: p.Labels[podspec.LabelQueue], PodGroup: p.Labels[podspec.LabelPodGroup],
		Priority: p.Spec.Priority, NeverPreempts: p.Spec.PreemptionPolicy != nil && *p.Spec.PreemptionPolicy == v1.PreemptNever,
		Node: p.Spec.NodeName, Gated: len(p.Spec.SchedulingGates) > 0, Deleting: p.DeletionTimestamp != nil,
		Service: p.Spec.RestartPolicy == v1.RestartPolicyAlways, DeadlineSeconds: p.Spec.ActiveDeadlineSeconds,
		Annotations: kept(p.Annotations, among(podAnnotations)), Overhead: p.Spec.Overhead, Tolerations: p.Spec.Tolerations,
		NodeSelector: p.Spec.NodeSelector, Unknown: Unknown(p),
	}
	if g := p.Spec.SchedulingGroup; g != nil && g.PodGroupName != nil {
		out.NativePodGroup = *g.PodGroupName
	}
	if owner := metav1.GetControllerOfNoCopy(p); owner != nil {
		out.Owner = owner.Kind + "/" + owner.Name
	}
	if out.PodGroup != "" || out.NativePodGroup != "" {
		// A label counts before an annotation of the same key, as it does to package podgroup.
		both := maps.Clone(p.Annotations)
		if both == nil {
			both = map[string]string{}
		}
		maps.Copy(both, p.Labels)
		out.Order = kept(both, among(podgroup.OrderKeys()))
	}
	if r := p.Spec.Resources; r != nil {
		out.Resources = r.Requests
	}
	if podspec.Bound(p) {
		out.Bound = moment(podspec.BoundAt(p))
	}
	started, _, _ := podspec.Ran(p)
	out.Started = moment(started)
	for i := range p.Spec.InitContainers {
		c := keepContainer(&p.Spec.InitContainers[i])
		c.Sidecar = p.Spec.InitContainers[i].RestartPolicy != nil && *p.Spec.InitContainers[i].RestartPolicy == v1.ContainerRestartPolicyAlways
		c.Init = !c.Sidecar
		out.Containers = append(out.Containers, c)
	}
	for i := range p.Spec.Containers {
		out.Containers = append(out.Containers, keepContainer(&p.Spec.Containers[i]))
	}
	for key := range p.Spec.NodeSelector {
		k.nodes[key] = true
	}
	if a := p.Spec.Affinity; a != nil && a.NodeAffinity != nil {
		if out.NodeAffinity = a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution; out.NodeAffinity != nil {
			for _, term := range out.NodeAffinity.NodeSelectorTerms {
				for _, e := range term.MatchExpressions {
					k.nodes[e.Key] = true
				}
			}
		}
	}
	return out
}

// moment is a time in Unix seconds, nil for 0.
func moment(at int64) *time.Time {
	if at == 0 {
		return nil
	}
	return new(time.Unix(at, 0).UTC())
}

// keepContainer keeps what counts: requests, and limits of what has no request, which the API server takes for requests.
func keepContainer(c *v1.Container) Container {
	requests := maps.Clone(c.Resources.Limits)
	if requests == nil {
		requests = v1.ResourceList{}
	}
	maps.Copy(requests, c.Resources.Requests)
	return Container{Name: c.Name, Requests: requests}
}

// Unknown are the rules about a pod's place that a document does not have, in words.
func Unknown(p *v1.Pod) []string {
	var out []string
	add := func(is bool, what string) {
		if is {
			out = append(out, what)
		}
	}
	add(slices.ContainsFunc(p.Spec.Volumes, func(v v1.Volume) bool { return v.PersistentVolumeClaim != nil || v.Ephemeral != nil }), "persistent volumes")
	add(len(p.Spec.ResourceClaims) > 0, "resource claims")
	if a := p.Spec.Affinity; a != nil {
		add(a.PodAffinity != nil && len(a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution) > 0, "affinity to other pods")
		add(a.PodAntiAffinity != nil && len(a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution) > 0, "anti-affinity to other pods")
	}
	add(slices.ContainsFunc(p.Spec.TopologySpreadConstraints, func(c v1.TopologySpreadConstraint) bool {
		return c.WhenUnsatisfiable == v1.DoNotSchedule
	}), "topology spread constraints")
	add(slices.ContainsFunc(p.Spec.Containers, func(c v1.Container) bool {
		return slices.ContainsFunc(c.Ports, func(port v1.ContainerPort) bool { return port.HostPort != 0 })
	}), "host ports")
	return out
}

// node keeps a node with what its agent publishes; the inventory is the zero one where it has none.
func (k *keeper) node(n *v1.Node, published cluster.Inventory) Node {
	out := Node{
		Name: n.Name, Labels: k.nodeLabels(n.Labels), Unschedulable: n.Spec.Unschedulable,
		Capacity: n.Status.Capacity, Allocatable: n.Status.Allocatable,
	}
	for _, t := range n.Spec.Taints {
		out.Taints = append(out.Taints, v1.Taint{Key: t.Key, Value: t.Value, Effect: t.Effect})
	}
	if published.Source == cluster.SourceSlices {
		devices := make([]Device, 0, len(published.Devices))
		for _, d := range published.Devices {
			devices = append(devices, keepDevice(d))
		}
		out.GPUs = &devices
	}
	return out
}

func keepDevice(d gpu.Device) Device {
	out := Device{
		ID: string(d.ID), Index: d.Index, Product: d.Product, MemoryMiB: d.MemoryMiB, Unhealthy: d.Unhealthy, WholeOnly: d.WholeOnly,
		SharedOnly: d.SharedOnly, MIG: d.MIG, Isolation: string(d.Isolation),
	}
	for _, i := range d.Instances {
		out.Instances = append(out.Instances, i.String())
	}
	if h := d.Hardware; h != nil {
		if h.NUMANode >= 0 {
			out.NUMANode = new(h.NUMANode)
		}
		out.Architecture, out.SwitchLinks, out.Clique = h.Architecture, h.Links.Switch, h.Clique
		for _, p := range h.Links.Peers {
			out.Peers = append(out.Peers, Peer(p))
		}
	}
	return out
}
