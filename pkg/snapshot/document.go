package snapshot

import (
	"time"

	v1 "k8s.io/api/core/v1"
	schedulingv1beta1 "k8s.io/api/scheduling/v1beta1"

	"weft.sh/weft/pkg/apis/weft/v1alpha1"
)

// What a document says of itself.
const (
	// APIVersion changes when a document of before would be misread.
	APIVersion = "snapshot.weft.sh/v1"
	// Kind is the only one.
	Kind = "Snapshot"
)

// Document is a cluster at one moment.
type Document struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	// Taken is when it was begun; parts may be seconds younger.
	Taken time.Time `json:"taken"`
	// Anonymous says that names are hashes.
	Anonymous bool `json:"anonymous"`
	// SchedulerName is that of Weft in the cluster, and TopologyLevels are its levels, the narrowest first.
	SchedulerName  string   `json:"schedulerName"`
	TopologyLevels []string `json:"topologyLevels"`

	Classes         []Class       `json:"classes"`
	Queues          []Queue       `json:"queues"`
	Namespaces      []Namespace   `json:"namespaces"`
	PodGroups       []PodGroup    `json:"podGroups"`
	NativePodGroups []NativeGroup `json:"nativePodGroups"`
	Pods            []Pod         `json:"pods"`
	Nodes           []Node        `json:"nodes"`
}

// Class is a GPUClass.
type Class struct {
	Name string                `json:"name"`
	Spec v1alpha1.GPUClassSpec `json:"spec"`
}

// Queue is a Queue, with what the books say of its budget.
type Queue struct {
	Name    string    `json:"name"`
	Created time.Time `json:"created"`
	// Spec has no reasons of adjustments.
	Spec   v1alpha1.QueueSpec `json:"spec"`
	Budget *Checkpoint        `json:"budget,omitempty"`
}

// Checkpoint is what a period used by AsOf, of all that is below the queue.
type Checkpoint struct {
	AsOf        time.Time `json:"asOf"`
	PeriodStart time.Time `json:"periodStart"`
	// PeriodEnd is nil for a budget without a period.
	PeriodEnd              *time.Time `json:"periodEnd,omitempty"`
	UsedMilliGPUSeconds    int64      `json:"usedMilliGPUSeconds"`
	CarriedMilliGPUSeconds int64      `json:"carriedMilliGPUSeconds,omitempty"`
}

// Namespace is a namespace with those of its labels that queues select by.
type Namespace struct {
	Name   string            `json:"name"`
	Labels map[string]string `json:"labels,omitempty"`
}

// PodGroup is a PodGroup of scheduling.x-k8s.io.
type PodGroup struct {
	Namespace   string            `json:"namespace"`
	Name        string            `json:"name"`
	Created     time.Time         `json:"created"`
	MinMember   int32             `json:"minMember"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

// NativeGroup is a PodGroup of scheduling.k8s.io.
type NativeGroup struct {
	Namespace   string            `json:"namespace"`
	Name        string            `json:"name"`
	Created     time.Time         `json:"created"`
	Annotations map[string]string `json:"annotations,omitempty"`
	// Parent says that it is part of a group of groups.
	Parent      bool                                             `json:"parent,omitempty"`
	Policy      schedulingv1beta1.PodGroupSchedulingPolicy       `json:"policy"`
	Constraints *schedulingv1beta1.PodGroupSchedulingConstraints `json:"constraints,omitempty"`
	Disruption  *schedulingv1beta1.DisruptionMode                `json:"disruption,omitempty"`
}

// Pod is a pod that has not ended.
type Pod struct {
	Namespace string    `json:"namespace"`
	Name      string    `json:"name"`
	UID       string    `json:"uid"`
	Created   time.Time `json:"created"`
	Scheduler string    `json:"scheduler,omitempty"`
	Phase     string    `json:"phase,omitempty"`
	// Queue is the label weft.sh/queue, PodGroup the label of the gang, NativePodGroup the gang that the spec names.
	Queue          string `json:"queue,omitempty"`
	PodGroup       string `json:"podGroup,omitempty"`
	NativePodGroup string `json:"nativePodGroup,omitempty"`
	// Owner is the kind and the name of what controls it, and Order the labels and annotations by which the members of a gang stand in
	// order.
	Owner string            `json:"owner,omitempty"`
	Order map[string]string `json:"order,omitempty"`
	// Priority is nil where the cluster gives none.
	Priority      *int32 `json:"priority,omitempty"`
	NeverPreempts bool   `json:"neverPreempts,omitempty"`
	// Node is where it is bound, since Bound; Started is when its first container began to run.
	Node    string     `json:"node,omitempty"`
	Bound   *time.Time `json:"bound,omitempty"`
	Started *time.Time `json:"started,omitempty"`
	// Gated says that scheduling gates hold it back, Deleting that somebody deleted it, Service that it is never to end by itself (its
	// restartPolicy is Always).
	Gated    bool `json:"gated,omitempty"`
	Deleting bool `json:"deleting,omitempty"`
	Service  bool `json:"service,omitempty"`
	// DeadlineSeconds is its activeDeadlineSeconds.
	DeadlineSeconds *int64 `json:"deadlineSeconds,omitempty"`
	// Annotations are those of Weft: what it asks for, its run time and what it was given.
	Annotations map[string]string `json:"annotations,omitempty"`
	Containers  []Container       `json:"containers"`
	// Overhead and Resources are those of the pod as a whole.
	Overhead  v1.ResourceList `json:"overhead,omitempty"`
	Resources v1.ResourceList `json:"resources,omitempty"`
	// Where it may run.
	NodeSelector map[string]string `json:"nodeSelector,omitempty"`
	NodeAffinity *v1.NodeSelector  `json:"nodeAffinity,omitempty"`
	Tolerations  []v1.Toleration   `json:"tolerations,omitempty"`
	// Unknown are the rules about its place that the document does not have: see [Unknown].
	Unknown []string `json:"unknown,omitempty"`
}

// Container is what a container asks for.
type Container struct {
	Name string `json:"name"`
	// Init says that it ends before those after it start, Sidecar that it begins before them and runs on.
	Init     bool            `json:"init,omitempty"`
	Sidecar  bool            `json:"sidecar,omitempty"`
	Requests v1.ResourceList `json:"requests,omitempty"`
}

// Node is a node.
type Node struct {
	Name          string            `json:"name"`
	Labels        map[string]string `json:"labels,omitempty"`
	Unschedulable bool              `json:"unschedulable,omitempty"`
	Taints        []v1.Taint        `json:"taints,omitempty"`
	Capacity      v1.ResourceList   `json:"capacity"`
	Allocatable   v1.ResourceList   `json:"allocatable"`
	// GPUs are what its agent publishes; nil for a node without one, whose labels may say that it has GPUs.
	GPUs *[]Device `json:"gpus,omitempty"`
}

// Device is a GPU.
type Device struct {
	ID         string `json:"id"`
	Index      int    `json:"index"`
	Product    string `json:"product"`
	MemoryMiB  int64  `json:"memoryMiB"`
	Unhealthy  bool   `json:"unhealthy,omitempty"`
	WholeOnly  bool   `json:"wholeOnly,omitempty"`
	SharedOnly bool   `json:"sharedOnly,omitempty"`
	// MIG says that it is in MIG mode, and Instances which it can give: profile, start and size, such as 3g.40gb@4:4.
	MIG       bool     `json:"mig,omitempty"`
	Instances []string `json:"instances,omitempty"`
	Isolation string   `json:"isolation,omitempty"`
	// NUMANode is nil where it is not known.
	NUMANode     *int   `json:"numaNode,omitempty"`
	Architecture string `json:"architecture,omitempty"`
	// SwitchLinks are NVLinks to switches, Peers those to GPUs of the node.
	SwitchLinks int    `json:"switchLinks,omitempty"`
	Peers       []Peer `json:"peers,omitempty"`
	Clique      string `json:"clique,omitempty"`
}

// Peer is a GPU, by index, that so many links lead to.
type Peer struct {
	Index int `json:"index"`
	Links int `json:"links"`
}
