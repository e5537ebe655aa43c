package cli

// Verdicts of an Answer.
const (
	// VerdictInvalid: the pod asks for something that has no meaning. Nodes were not looked at.
	VerdictInvalid = "Invalid"
	// VerdictEnded: the pod has run to its end. Nodes were not looked at.
	VerdictEnded = "Ended"
	// VerdictBound: the pod is on a node. Other nodes were not looked at.
	VerdictBound = "Bound"
	// VerdictDeleted: the pod is being deleted and will not be placed any more. Nodes were not looked at.
	VerdictDeleted = "Deleted"
	// VerdictGated: scheduling gates keep every scheduler from the pod.
	VerdictGated = "Gated"
	// VerdictOtherScheduler: the pod names another scheduler.
	VerdictOtherScheduler = "OtherScheduler"
	// VerdictHeldBack: its queue does not let it start; see Answer.Queue.
	VerdictHeldBack = "HeldBack"
	// VerdictFits: it fits some node now, as far as is checked here.
	VerdictFits = "Fits"
	// VerdictDoesNotFit: it fits no node now.
	VerdictDoesNotFit = "DoesNotFit"
)

// Answer says why a pod does not run, or where it does: `weft why POD -o json`. Made by [NewAnswer].
type Answer struct {
	// APIVersion is cli.weft.sh/v1.
	APIVersion string `json:"apiVersion"`
	// Kind is Answer.
	Kind string `json:"kind"`
	// Namespace and Pod name the pod.
	Namespace string `json:"namespace"`
	Pod       string `json:"pod"`
	// Verdict is Invalid, Ended, Bound, Deleted, Gated, OtherScheduler, HeldBack, Fits or DoesNotFit; of those that apply, the
	// first in this order.
	Verdict string `json:"verdict"`
	// Message is the verdict in a sentence.
	Message string `json:"message"`
	// SchedulerName is the scheduler that the pod names.
	SchedulerName string `json:"schedulerName"`
	// SchedulingGates are the names of the pod's gates.
	SchedulingGates []string `json:"schedulingGates"`
	// Asks are the GPUs that the pod asks for; empty when it asks for none or cannot be understood.
	Asks []ContainerAsk `json:"asks"`
	// Products are the GPU models that the pod accepts; empty when it accepts every model.
	Products []string `json:"products"`
	// MilliCPU is the CPU that it asks for, in thousandths of a core, and MemoryMiB the memory (not of GPUs), rounded up.
	MilliCPU  int64 `json:"milliCPU"`
	MemoryMiB int64 `json:"memoryMiB"`
	// Node is where the pod is, or was; empty while it is on none.
	Node string `json:"node"`
	// NominatedNode is where the scheduler made room for it by ending other pods; empty while it did not.
	NominatedNode string `json:"nominatedNode"`
	// Holds are the GPUs that it holds there, or held.
	Holds []Hold `json:"holds"`
	// Said is what the scheduler last said of the pod: its condition PodScheduled; null when it said nothing yet.
	Said *Said `json:"said"`
	// Nodes is the number of nodes that were looked at, NodesThatFit how many of them the pod fits now.
	Nodes        int `json:"nodes"`
	NodesThatFit int `json:"nodesThatFit"`
	// Classes are those nodes, sorted into classes of nodes that are alike; the most hopeful first.
	Classes []Class `json:"classes"`
	// NotChecked are things that the pod asks for and that the scheduler checks but this command does not, in words.
	NotChecked []string `json:"notChecked"`
	// PodGroup is the name of the pod's PodGroup, in its namespace; empty for none. Verdict and Classes are then about the pod by
	// itself, and its gang decides.
	PodGroup string `json:"podGroup"`
	// GangVerdict and GangMessage are those of the GangAnswer; empty without a gang, and where nodes were not looked at.
	GangVerdict string `json:"gangVerdict"`
	GangMessage string `json:"gangMessage"`
	// Queue is why the pod's queue holds it back; null when it does not, and where nodes were not looked at.
	Queue *QueueHold `json:"queue"`
}

// ContainerAsk is one thing that one container asks for.
type ContainerAsk struct {
	// Container is its name; Init containers end before the others start.
	Container string `json:"container"`
	Init      bool   `json:"init"`
	// Kind is whole, shared or mig, and Count how many GPUs or MIG instances.
	Kind  string `json:"kind"`
	Count int    `json:"count"`
	// MilliGPU is the share of each GPU: 1000 for a whole one, 0 for MIG.
	MilliGPU int64 `json:"milliGPU"`
	// MemoryMiB is a floor on the GPU memory of each; 0 for none.
	MemoryMiB int64 `json:"memoryMiB"`
	// Profile is the MIG profile, empty otherwise.
	Profile string `json:"profile"`
}

// Hold is what a container of the pod holds of one GPU.
type Hold struct {
	// Container is its name; Init containers end before the others start, and what they held beyond them stays reserved as
	// long as the pod lives, as it does in the kubelet.
	Container string `json:"container"`
	Init      bool   `json:"init"`
	// GPU is the id of the GPU.
	GPU string `json:"gpu"`
	// Kind is whole, shared or mig.
	Kind string `json:"kind"`
	// MilliGPU is the part of the GPU: 1000 for a whole one, 0 for a MIG instance.
	MilliGPU int64 `json:"milliGPU"`
	// MemoryMiB is the memory of a share; 0 for a whole GPU and for a MIG instance.
	MemoryMiB int64 `json:"memoryMiB"`
	// Profile, Start and Size are those of a MIG instance, the latter two in memory slices; empty and 0 otherwise.
	Profile string `json:"profile"`
	Start   int    `json:"start"`
	Size    int    `json:"size"`
}

// Said is the pod's condition PodScheduled.
type Said struct {
	// Status is True, False or Unknown.
	Status string `json:"status"`
	// Reason is a word such as Unschedulable, Message a sentence.
	Reason  string `json:"reason"`
	Message string `json:"message"`
	// Since is when it last changed, in RFC 3339; empty when that is not known.
	Since string `json:"since"`
}

// Class is nodes that are alike: the same GPUs, given out in the same ways, and the same taints.
type Class struct {
	// Products are the models of the GPUs of each node; empty for nodes without GPUs.
	Products []string `json:"products"`
	// GPUsPerNode is the number of GPUs of each node, MIGGPUsPerNode how many of them are in MIG mode.
	GPUsPerNode    int `json:"gpusPerNode"`
	MIGGPUsPerNode int `json:"migGPUsPerNode"`
	// WholeOnlyGPUsPerNode is how many of the others are given in no shares, SharedOnlyGPUsPerNode how many are never given whole.
	WholeOnlyGPUsPerNode  int `json:"wholeOnlyGPUsPerNode"`
	SharedOnlyGPUsPerNode int `json:"sharedOnlyGPUsPerNode"`
	// GPUMemoryMiB is the memory of the largest GPU of each node.
	GPUMemoryMiB int64 `json:"gpuMemoryMiB"`
	// Sharing says that GPUs are given in shares too.
	Sharing bool `json:"sharing"`
	// Source is none, slices or labels; see Node.
	Source string `json:"source"`
	// Taints that keep pods away, as key=value:effect, sorted.
	Taints []string `json:"taints"`
	// Nodes is the number of nodes.
	Nodes int `json:"nodes"`
	// Fitting are the names of the nodes that the pod fits now.
	Fitting []string `json:"fitting"`
	// Reason is that of the most hopeful node: Fits, or one of the reasons listed in docs/cli.md.
	Reason string `json:"reason"`
	// Text says the reason in words, Detail has the figures of the most hopeful node; it may be empty.
	Text   string `json:"text"`
	Detail string `json:"detail"`
	// Node is the most hopeful node.
	Node string `json:"node"`
	// Advice says what would have to change.
	Advice string `json:"advice"`
	// Event is what can make the reason go away besides a change of the pod, in words.
	Event string `json:"event"`
	// Resolvable says that waiting for other pods to end, or preempting them, can make it go away.
	Resolvable bool `json:"resolvable"`
	// Reasons counts the nodes by reason, the most hopeful first.
	Reasons []ReasonCount `json:"reasons"`
}

// ReasonCount is how many nodes a reason holds for.
type ReasonCount struct {
	// Reason is Fits, or one of the reasons listed in docs/cli.md.
	Reason string `json:"reason"`
	// Nodes is how many.
	Nodes int `json:"nodes"`
}
