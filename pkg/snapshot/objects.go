package snapshot

import (
	"fmt"
	"maps"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
	resourceapi "k8s.io/api/resource/v1"
	schedulingv1beta1 "k8s.io/api/scheduling/v1beta1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	schedv1alpha1 "sigs.k8s.io/scheduler-plugins/apis/scheduling/v1alpha1"

	"weft.sh/weft/pkg/apis/weft/v1alpha1"
	"weft.sh/weft/pkg/cluster"
	"weft.sh/weft/pkg/gang"
	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/inventory"
	"weft.sh/weft/pkg/podgroup"
	"weft.sh/weft/pkg/podspec"
	"weft.sh/weft/pkg/queues"
	"weft.sh/weft/pkg/quota"
)

// Objects are what the API server would show of a document, with the fields that it has.
type Objects struct {
	Nodes        []*v1.Node
	Slices       []*resourceapi.ResourceSlice
	Pods         []*v1.Pod
	Groups       []*schedv1alpha1.PodGroup
	NativeGroups []*schedulingv1beta1.PodGroup
	Queues       []*v1alpha1.Queue
	Classes      []*v1alpha1.GPUClass
	Namespaces   []*v1.Namespace
}

// State is a cluster as values of the core.
type State struct {
	// Cluster has the nodes that have GPUs, or pods with some.
	Cluster *cluster.Snapshot
	// Gangs are those that can be read.
	Gangs map[gang.Key]gang.Spec
	// Queues are all, as [quota.NewTree] takes them.
	Queues []quota.Spec
	// Problems are what could not be read, in words.
	Problems []string
}

// State reads the objects as the scheduler does.
func (o *Objects) State() State {
	s := State{Cluster: inventory.Build(o.Nodes, o.Slices, o.Pods), Gangs: map[gang.Key]gang.Spec{}}
	problem := func(format string, args ...any) { s.Problems = append(s.Problems, fmt.Sprintf(format, args...)) }
	for _, pg := range o.Groups {
		spec, err := podgroup.FromCRD(pg)
		if err != nil {
			problem("PodGroup %s/%s: %v", pg.Namespace, pg.Name, err)
			continue
		}
		s.Gangs[spec.Key] = spec
	}
	for _, pg := range o.NativeGroups {
		switch spec, is, err := podgroup.FromNative(pg); {
		case err != nil:
			problem("PodGroup %s/%s: %v", pg.Namespace, pg.Name, err)
		case is:
			s.Gangs[spec.Key] = spec
		}
	}
	for _, q := range o.Queues {
		spec, err := queues.SpecOf(q)
		if err != nil {
			problem("queue %s: %s", q.Name, strings.ReplaceAll(err.Error(), "\n", "; "))
		}
		s.Queues = append(s.Queues, spec)
	}
	for _, n := range s.Cluster.Sorted() {
		for _, p := range n.Inventory.Problems {
			problem("node %s: %s", n.Name, p)
		}
	}
	return s
}

// Objects are the document's. Errors wrap [ErrMalformed] and begin with the path of a field.
func (d *Document) Objects() (*Objects, error) {
	o := &Objects{}
	for i := range d.Nodes {
		n, devices, err := d.Nodes[i].object()
		if err != nil {
			return nil, malformed(fmt.Sprintf("nodes[%d].%%s", i), err)
		}
		o.Nodes = append(o.Nodes, n)
		if d.Nodes[i].GPUs != nil {
			o.Slices = append(o.Slices, inventory.Slices(n.Name, devices, 1)...)
		}
	}
	for i := range d.Pods {
		o.Pods = append(o.Pods, d.Pods[i].object())
	}
	for _, g := range d.PodGroups {
		pg := &schedv1alpha1.PodGroup{ObjectMeta: meta(g.Namespace, g.Name), Spec: schedv1alpha1.PodGroupSpec{MinMember: g.MinMember}}
		pg.CreationTimestamp, pg.Annotations = metav1.NewTime(g.Created), g.Annotations
		o.Groups = append(o.Groups, pg)
	}
	for _, g := range d.NativePodGroups {
		pg := &schedulingv1beta1.PodGroup{ObjectMeta: meta(g.Namespace, g.Name), Spec: schedulingv1beta1.PodGroupSpec{
			SchedulingPolicy: g.Policy, SchedulingConstraints: g.Constraints, DisruptionMode: g.Disruption,
		}}
		if g.Parent {
			pg.Spec.ParentCompositePodGroupName = new("unknown")
		}
		pg.CreationTimestamp, pg.Annotations = metav1.NewTime(g.Created), g.Annotations
		o.NativeGroups = append(o.NativeGroups, pg)
	}
	for _, q := range d.Queues {
		o.Queues = append(o.Queues, q.object())
	}
	for _, c := range d.Classes {
		o.Classes = append(o.Classes, &v1alpha1.GPUClass{ObjectMeta: meta("", c.Name), Spec: c.Spec})
	}
	for _, n := range d.Namespaces {
		namespace := &v1.Namespace{ObjectMeta: meta("", n.Name)}
		namespace.Labels = n.Labels
		o.Namespaces = append(o.Namespaces, namespace)
	}
	return o, nil
}

func meta(namespace, name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: namespace, Name: name}
}

func (q *Queue) object() *v1alpha1.Queue {
	out := &v1alpha1.Queue{ObjectMeta: meta("", q.Name), Spec: q.Spec}
	out.CreationTimestamp = metav1.NewTime(q.Created)
	if b := q.Budget; b != nil {
		out.Status.Budget = &v1alpha1.BudgetStatus{
			AsOf: metav1.NewTime(b.AsOf), PeriodStart: metav1.NewTime(b.PeriodStart), UsedMilliGPUSeconds: b.UsedMilliGPUSeconds,
			CarriedMilliGPUSeconds: b.CarriedMilliGPUSeconds,
		}
		if b.PeriodEnd != nil {
			out.Status.Budget.PeriodEnd = new(metav1.NewTime(*b.PeriodEnd))
		}
	}
	return out
}

// object is the pod as the API server would have it.
func (p *Pod) object() *v1.Pod {
	out := &v1.Pod{ObjectMeta: meta(p.Namespace, p.Name)}
	out.UID, out.CreationTimestamp = types.UID(p.UID), metav1.NewTime(p.Created)
	out.Labels, out.Annotations = map[string]string{}, p.Annotations
	maps.Copy(out.Labels, p.Order)
	for key, value := range map[string]string{podspec.LabelQueue: p.Queue, podspec.LabelPodGroup: p.PodGroup} {
		if value != "" {
			out.Labels[key] = value
		}
	}
	if p.Deleting {
		out.DeletionTimestamp = new(metav1.NewTime(p.Created)) // when is not known, and decides nothing
	}
	if kind, name, ok := strings.Cut(p.Owner, "/"); ok {
		out.OwnerReferences = []metav1.OwnerReference{{Kind: kind, Name: name, Controller: new(true)}}
	}
	s := &out.Spec
	s.SchedulerName, s.NodeName, s.Priority = p.Scheduler, p.Node, p.Priority
	s.ActiveDeadlineSeconds, s.Overhead, s.NodeSelector, s.Tolerations = p.DeadlineSeconds, p.Overhead, p.NodeSelector, p.Tolerations
	s.RestartPolicy = v1.RestartPolicyNever
	if p.Service {
		s.RestartPolicy = v1.RestartPolicyAlways
	}
	if p.NeverPreempts {
		s.PreemptionPolicy = new(v1.PreemptNever)
	}
	if p.Gated {
		s.SchedulingGates = []v1.PodSchedulingGate{{Name: "gated"}}
	}
	if p.NativePodGroup != "" {
		s.SchedulingGroup = &v1.PodSchedulingGroup{PodGroupName: new(p.NativePodGroup)}
	}
	if p.NodeAffinity != nil {
		s.Affinity = &v1.Affinity{NodeAffinity: &v1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: p.NodeAffinity}}
	}
	if p.Resources != nil {
		s.Resources = &v1.ResourceRequirements{Requests: p.Resources}
	}
	for _, c := range p.Containers {
		container := v1.Container{Name: c.Name, Resources: v1.ResourceRequirements{Requests: c.Requests}}
		switch {
		case c.Sidecar:
			container.RestartPolicy = new(v1.ContainerRestartPolicyAlways)
			s.InitContainers = append(s.InitContainers, container)
		case c.Init:
			s.InitContainers = append(s.InitContainers, container)
		default:
			s.Containers = append(s.Containers, container)
		}
	}
	out.Status.Phase = v1.PodPhase(p.Phase)
	if p.Bound != nil {
		out.Status.Conditions = []v1.PodCondition{{
			Type: v1.PodScheduled, Status: v1.ConditionTrue, LastTransitionTime: metav1.NewTime(*p.Bound),
		}}
	}
	if p.Started != nil {
		out.Status.ContainerStatuses = []v1.ContainerStatus{{State: v1.ContainerState{Running: &v1.ContainerStateRunning{StartedAt: metav1.NewTime(*p.Started)}}}}
	}
	return out
}

// object is the node as the API server would have it, and what its agent would publish.
func (n *Node) object() (*v1.Node, []gpu.Device, error) {
	out := &v1.Node{ObjectMeta: meta("", n.Name)}
	out.Labels = n.Labels
	out.Spec.Unschedulable, out.Spec.Taints = n.Unschedulable, n.Taints
	out.Status.Capacity, out.Status.Allocatable = n.Capacity, n.Allocatable
	if n.GPUs == nil {
		return out, nil, nil
	}
	var devices []gpu.Device
	for i, d := range *n.GPUs {
		device, err := d.object()
		if err == nil {
			err = device.Validate()
		}
		if err != nil {
			return nil, nil, fmt.Errorf("gpus[%d]: %w", i, err)
		}
		devices = append(devices, device)
	}
	if inv := cluster.NewInventory(cluster.SourceSlices, devices); len(inv.Problems) > 0 {
		return nil, nil, fmt.Errorf("gpus: %s", inv.Problems[0])
	}
	return out, devices, nil
}

func (d *Device) object() (gpu.Device, error) {
	out := gpu.Device{
		ID: gpu.ID(d.ID), Index: d.Index, Product: d.Product, MemoryMiB: d.MemoryMiB, Unhealthy: d.Unhealthy, WholeOnly: d.WholeOnly,
		SharedOnly: d.SharedOnly, MIG: d.MIG, Isolation: gpu.Isolation(d.Isolation),
	}
	for _, text := range d.Instances {
		i, err := parseInstance(text)
		if err != nil {
			return gpu.Device{}, err
		}
		out.Instances = append(out.Instances, i)
	}
	if d.NUMANode != nil || d.Architecture != "" || d.SwitchLinks != 0 || len(d.Peers) > 0 || d.Clique != "" {
		h := &gpu.Hardware{NUMANode: -1, Architecture: d.Architecture, Clique: d.Clique, Links: gpu.Links{Switch: d.SwitchLinks}}
		if d.NUMANode != nil {
			h.NUMANode = *d.NUMANode
		}
		for _, p := range d.Peers {
			h.Links.Peers = append(h.Links.Peers, gpu.Peer(p))
		}
		out.Hardware = h
	}
	return out, nil
}

// parseInstance reads what gpu.Instance prints.
func parseInstance(text string) (gpu.Instance, error) {
	profile, place, _ := strings.Cut(text, "@")
	startText, sizeText, _ := strings.Cut(place, ":")
	start, err1 := strconv.Atoi(startText)
	size, err2 := strconv.Atoi(sizeText)
	i := gpu.Instance{Profile: profile, Start: start, Size: size}
	if err1 != nil || err2 != nil || i.Validate() != nil {
		return gpu.Instance{}, fmt.Errorf("instance %q: want a profile, a start and a size in memory slices, such as 3g.40gb@4:4", clip(text))
	}
	return i, nil
}
