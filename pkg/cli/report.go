package cli

// APIVersion is the version of what is printed as JSON or YAML. Within it fields are added and never change or go away.
const APIVersion = "cli.weft.sh/v1"

// Report is the GPUs of a cluster, or of the part of it that was asked for, and who is on them: `weft top -o json`.
// Made by [NewReport].
type Report struct {
	// APIVersion is cli.weft.sh/v1.
	APIVersion string `json:"apiVersion"`
	// Kind is Report.
	Kind string `json:"kind"`
	// Totals are sums over Nodes.
	Totals Totals `json:"totals"`
	// Nodes are those with GPUs, and those that should have some and report them badly, by name.
	Nodes []Node `json:"nodes"`
	// Levels are the topology levels, from the narrowest to the widest.
	Levels []string `json:"levels"`
	// Gangs are those with a member on one of the nodes; where all nodes were asked for, those that wait too. By namespace and name.
	Gangs []Gang `json:"gangs"`
}

// Gang is one gang of a report: the pods of one PodGroup.
type Gang struct {
	// Namespace and PodGroup name it, Source is the API group of its PodGroup.
	Namespace string `json:"namespace"`
	PodGroup  string `json:"podGroup"`
	Source    string `json:"source"`
	// Problem says, for people, that its PodGroup does not exist, could not be read, or means nothing; empty otherwise.
	Problem string `json:"problem"`
	// Phase is what the controller says of it, or else what its pods show.
	Phase string `json:"phase"`
	// MinMembers is how many members must start together; 0 when the PodGroup does not say.
	MinMembers int `json:"minMembers"`
	// Counts are its pods by state, without those that have ended.
	Counts MemberCounts `json:"counts"`
	// HeldMilliGPU is what its members hold, as far as it is known which GPUs.
	HeldMilliGPU int64 `json:"heldMilliGPU"`
	// TopologyRequired and TopologyPreferred are the levels that it asks for; empty for none.
	TopologyRequired  string `json:"topologyRequired"`
	TopologyPreferred string `json:"topologyPreferred"`
	// OnNodes are the names of the nodes where members are, and Used the domains that those are in by level; levels for which
	// one of them has no label are left out.
	OnNodes []string   `json:"onNodes"`
	Used    []LevelUse `json:"used"`
}

// Totals are sums over the nodes of a report.
type Totals struct {
	// Nodes is the number of nodes in the report.
	Nodes int `json:"nodes"`
	// NodesWithoutGPU is the number of nodes that were asked for and are left out because they report no GPU.
	NodesWithoutGPU int `json:"nodesWithoutGPU"`
	// GPUs is the number of GPUs, unhealthy ones included.
	GPUs int `json:"gpus"`
	// IdleGPUs can be given whole now: healthy, not in MIG mode, not given in shares only, and nobody holds any of them. Of them
	// WithheldGPUs, less WithheldSharedGPUs, must not.
	IdleGPUs int `json:"idleGPUs"`
	// IdleSharedGPUs are healthy and nobody holds any of them, but they are given in shares only. WithheldSharedGPUs of them
	// must not.
	IdleSharedGPUs int `json:"idleSharedGPUs"`
	// WholeGPUs are held whole.
	WholeGPUs int `json:"wholeGPUs"`
	// SharedGPUs are held in shares.
	SharedGPUs int `json:"sharedGPUs"`
	// MIGGPUs are in MIG mode, whether or not anybody holds instances of them.
	MIGGPUs int `json:"migGPUs"`
	// UnhealthyGPUs are given to no new pod. They are counted here besides what else they are.
	UnhealthyGPUs int `json:"unhealthyGPUs"`
	// WithheldGPUs must stay idle because pods hold GPUs of which nobody knows which.
	WithheldGPUs int `json:"withheldGPUs"`
	// WithheldSharedGPUs is how many of them are given in shares only.
	WithheldSharedGPUs int `json:"withheldSharedGPUs"`
	// WithheldInstances is the number of MIG instances that must stay possible for the same reason.
	WithheldInstances int `json:"withheldInstances"`
	// CapacityMilliGPU is 1000 for every GPU.
	CapacityMilliGPU int64 `json:"capacityMilliGPU"`
	// AssignedMilliGPU is what pods hold, at most 1000 of each GPU.
	AssignedMilliGPU int64 `json:"assignedMilliGPU"`
	// AssignedPerMille is AssignedMilliGPU in thousandths of CapacityMilliGPU, rounded down; 0 without GPUs.
	AssignedPerMille int64 `json:"assignedPerMille"`
	// FreeMilliGPU is what is left of healthy GPUs, however small the pieces; of a GPU in MIG mode the part of its
	// memory slices that nothing uses.
	FreeMilliGPU int64 `json:"freeMilliGPU"`
	// FragmentedMilliGPU is the part of FreeMilliGPU that the next request is expected to find of no use, if it comes
	// like those of the pods in the cluster (the measure of the scheduler's fragmentation strategy).
	FragmentedMilliGPU int64 `json:"fragmentedMilliGPU"`
	// FragmentedPerMille is FragmentedMilliGPU in thousandths of FreeMilliGPU, rounded down; 0 when nothing is left.
	FragmentedPerMille int64 `json:"fragmentedPerMille"`
	// MixPods is the number of pods that the expectation was made from; with 0 nothing counts as fragmented.
	MixPods int `json:"mixPods"`
	// Pods is the number of pods that hold GPUs of the nodes, withheld ones included.
	Pods int `json:"pods"`
	// Conflicts is the number of GPUs that are given out more than they have.
	Conflicts int `json:"conflicts"`
	// Problems is the number of problems of the nodes' inventories.
	Problems int `json:"problems"`
}

// Node is one node of a report.
type Node struct {
	// Name is the node's.
	Name string `json:"name"`
	// Source is where its inventory comes from: slices (ResourceSlices) or labels (NVIDIA's node labels, whole GPUs only).
	Source string `json:"source"`
	// Ready is the node's condition Ready.
	Ready bool `json:"ready"`
	// Cordoned nodes take no new pods.
	Cordoned bool `json:"cordoned"`
	// Domains are the node's domains, one for each of the report's levels; empty where it is in none.
	Domains []string `json:"domains"`
	// GPUs are by index.
	GPUs []GPU `json:"gpus"`
	// IdleGPUs, IdleSharedGPUs, AssignedMilliGPU, FreeMilliGPU and FragmentedMilliGPU are as in Totals.
	IdleGPUs           int   `json:"idleGPUs"`
	IdleSharedGPUs     int   `json:"idleSharedGPUs"`
	AssignedMilliGPU   int64 `json:"assignedMilliGPU"`
	FreeMilliGPU       int64 `json:"freeMilliGPU"`
	FragmentedMilliGPU int64 `json:"fragmentedMilliGPU"`
	// FreeMilliCPU is the CPU left for new pods, in thousandths of a core; negative when the node is overbooked.
	FreeMilliCPU int64 `json:"freeMilliCPU"`
	// WithheldGPUs and WithheldProfiles (of MIG instances) are held back for the pods in Unplaced. WithheldSharedGPUs of the
	// former are given in shares only.
	WithheldGPUs       int      `json:"withheldGPUs"`
	WithheldSharedGPUs int      `json:"withheldSharedGPUs"`
	WithheldProfiles   []string `json:"withheldProfiles"`
	// Unplaced are pods that hold GPUs of the node of which nobody knows which.
	Unplaced []UnplacedPod `json:"unplaced"`
	// Problems say, for people, what of the inventory is malformed or missing.
	Problems []string `json:"problems"`
	// Conflicts say, for people, which GPUs are given out more than they have.
	Conflicts []string `json:"conflicts"`
}

// UnplacedPod is a pod that asks for GPUs, runs, and has no readable assignment.
type UnplacedPod struct {
	// Namespace and Pod name it.
	Namespace string `json:"namespace"`
	Pod       string `json:"pod"`
	// Why says, for people, what is wrong with its assignment.
	Why string `json:"why"`
}

// States of a GPU in a report.
const (
	StateIdle   = "idle"
	StateWhole  = "whole"
	StateShared = "shared"
	StateMIG    = "mig"
)

// What keeps the containers on one GPU apart, besides what gpu.Isolation has.
const (
	IsolationHardware = "hardware"
	IsolationUnknown  = "unknown"
)

// GPU is one GPU of a report.
type GPU struct {
	// ID is unique in the node, and in the cluster where it is a UUID.
	ID string `json:"id"`
	// Index is the GPU's number on the node.
	Index int `json:"index"`
	// Product is the model, as in the node label nvidia.com/gpu.product.
	Product string `json:"product"`
	// MemoryMiB is its memory.
	MemoryMiB int64 `json:"memoryMiB"`
	// Healthy GPUs can be given to pods.
	Healthy bool `json:"healthy"`
	// UnhealthyReason says, for people, why the GPU is not healthy; empty when it is, or when the node does not say.
	UnhealthyReason string `json:"unhealthyReason"`
	// WholeOnly GPUs are given in no shares.
	WholeOnly bool `json:"wholeOnly"`
	// SharedOnly GPUs are never given whole: another device plugin of the node gives out whole GPUs.
	SharedOnly bool `json:"sharedOnly"`
	// Isolation is what the node enforces between containers on the GPU: hardware (MIG), memory, mps or none; unknown when the
	// node does not say; empty when the GPU is given whole only, for then there is nobody else.
	Isolation string `json:"isolation"`
	// State is idle, whole, shared or mig.
	State string `json:"state"`
	// AssignedMilliGPU is the part that pods hold: 1000 when it is held whole; in MIG mode the part of its memory slices
	// that instances take, rounded down. More than 1000 is a conflict.
	AssignedMilliGPU int64 `json:"assignedMilliGPU"`
	// AssignedMemoryMiB is the memory that pods hold, all of it when it is held whole; 0 for MIG instances, whose profiles
	// say it. More than MemoryMiB, or more than 0 in MIG mode, is a conflict.
	AssignedMemoryMiB int64 `json:"assignedMemoryMiB"`
	// FreeMilliGPU and FreeMemoryMiB are what is left for shares, 1000 and all its memory when the GPU is idle; 0 in MIG
	// mode, when it is held whole, and when it is unhealthy.
	FreeMilliGPU  int64 `json:"freeMilliGPU"`
	FreeMemoryMiB int64 `json:"freeMemoryMiB"`
	// MemorySlices is how many memory slices instances can be made of, and FreeMemorySlices how many of them nothing
	// uses; both 0 unless in MIG mode, the latter also when the GPU is unhealthy.
	MemorySlices     int `json:"memorySlices"`
	FreeMemorySlices int `json:"freeMemorySlices"`
	// Holders are the containers that hold some of it, by namespace, pod and the order in the pod.
	Holders []Holder `json:"holders"`
	// Hardware is where it sits, what it is wired to and what drives it.
	Hardware Hardware `json:"hardware"`
}

// Hardware is what a node reports of a GPU for people. Strings are empty when it does not say.
type Hardware struct {
	// PCIBusID is as Linux names it.
	PCIBusID string `json:"pciBusID"`
	// NUMANode is the NUMA node that the GPU is attached to; -1 when there is none or it is not known.
	NUMANode int `json:"numaNode"`
	// Architecture is NVIDIA's name in lower case, ComputeCapability CUDA's version of it.
	Architecture      string `json:"architecture"`
	ComputeCapability string `json:"computeCapability"`
	// DriverVersion is that of the kernel driver without leading zeros, CUDAVersion that of the newest CUDA that it serves.
	DriverVersion string `json:"driverVersion"`
	CUDAVersion   string `json:"cudaVersion"`
	// NVLinkSwitchLinks is how many NVLinks are up and lead to switches, NVLinkPeers are the GPUs that links lead to directly.
	// 0 and none may also mean that it is not known.
	NVLinkSwitchLinks int    `json:"nvlinkSwitchLinks"`
	NVLinkPeers       []Peer `json:"nvlinkPeers"`
	// CliqueID is the fabric clique of an NVLink domain that spans nodes.
	CliqueID string `json:"cliqueID"`
}

// Peer is a GPU of the same node at the other end of NVLinks.
type Peer struct {
	// Index is its number on the node.
	Index int `json:"index"`
	// Links is how many NVLinks lead there.
	Links int `json:"links"`
}

// Holder is what one container holds of one GPU.
type Holder struct {
	// Namespace, Pod and Container name the container.
	Namespace string `json:"namespace"`
	Pod       string `json:"pod"`
	Container string `json:"container"`
	// Init containers end before the others start. What they held beyond them stays reserved as long as the pod lives, as it
	// does in the kubelet.
	Init bool `json:"init"`
	// PodGroup is the name of the pod's PodGroup; empty for none.
	PodGroup string `json:"podGroup"`
	// Kind is whole, shared or mig.
	Kind string `json:"kind"`
	// MilliGPU is the part of the GPU: 1000 for a whole one; for a MIG instance its part of the memory slices, rounded
	// down, 0 if the GPU is not known to have any.
	MilliGPU int64 `json:"milliGPU"`
	// MemoryMiB is the memory held, all of the GPU's for a whole one; 0 for a MIG instance, whose profile says it.
	MemoryMiB int64 `json:"memoryMiB"`
	// Profile, Start and Size are those of a MIG instance, the latter two in memory slices; empty and 0 otherwise.
	Profile string `json:"profile"`
	Start   int    `json:"start"`
	Size    int    `json:"size"`
}
