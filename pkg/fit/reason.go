package fit

import "fmt"

// Reason is why a request cannot run: the one list that the scheduler's statuses, events and metrics and the command
// line share. The zero Reason is no reason: it fits.
type Reason uint8

const (
	// Fits is the absence of a reason.
	Fits Reason = iota
	// InvalidRequest: the pod asks for something that has no meaning.
	InvalidRequest
	// InvalidGang: the pod's PodGroup asks for something that has no meaning, or its members contradict it.
	InvalidGang
	// GangNotFound: the PodGroup that the pod names does not exist.
	GangNotFound
	// GangIncomplete: fewer members exist than must start together.
	GangIncomplete
	// UnknownTopology: the PodGroup names a topology level that the scheduler does not know.
	UnknownTopology
	// NodeUnschedulable: the node is cordoned.
	NodeUnschedulable
	// TaintNotTolerated: the node has a taint that the pod does not tolerate.
	TaintNotTolerated
	// NodeAffinityMismatch: the pod's node selector or affinity excludes the node.
	NodeAffinityMismatch
	// NoGPU: the node reports no GPU.
	NoGPU
	// GPUProductMismatch: the node's GPUs are of a model that the pod does not accept.
	GPUProductMismatch
	// SharingUnsupported: the node gives out whole GPUs only.
	SharingUnsupported
	// NoMIGProfile: no GPU of the node offers the profile.
	NoMIGProfile
	// GPUMemoryTooSmall: no GPU of the node has the memory that the pod asks of one.
	GPUMemoryTooSmall
	// TooFewGPUs: the node would not do even if it were empty.
	TooFewGPUs
	// NodeTooSmall: the node would not have the CPU, the memory or another resource even if it were empty.
	NodeTooSmall
	// TopologyDomainTooSmall: no domain of the required level would do even if it were empty.
	TopologyDomainTooSmall
	// GPUUnhealthy: with its unhealthy GPUs the node would do.
	GPUUnhealthy
	// GPUWithheld: idle GPUs are held back for pods that hold GPUs nobody assigned.
	GPUWithheld
	// InsufficientGPU: too few GPUs are idle.
	InsufficientGPU
	// InsufficientGPUShare: too few GPUs have the share left.
	InsufficientGPUShare
	// InsufficientGPUMemory: GPUs have the share left, but not the memory.
	InsufficientGPUMemory
	// NoMIGPlacement: the profile's places are taken or overlapped.
	NoMIGPlacement
	// InsufficientCPU: the node has too little CPU left; empty it would have enough.
	InsufficientCPU
	// InsufficientMemory: the node has too little memory left.
	InsufficientMemory
	// InsufficientResource: the node has too little left of another resource, or too few pod slots.
	InsufficientResource
	// InsufficientDomainCapacity: no domain of the required level has room for the whole gang.
	InsufficientDomainCapacity
	// NVLinkDomainTooSmall: no NVLink domain has room for the whole gang.
	NVLinkDomainTooSmall
	// InsufficientGangCapacity: the cluster has no room for the whole gang.
	InsufficientGangCapacity
	// ReservedForGang: what is free is kept for a gang that waits.
	ReservedForGang
	// PlannedElsewhere: the gang's plan has the pod on another node.
	PlannedElsewhere
	// AssignmentConflict: the GPUs were taken between the decision and its reservation.
	AssignmentConflict

	numReasons
)

// Event names what can make a reason go away, besides a change of the pod itself.
type Event uint8

const (
	// NeverByItself: only a change of the pod helps.
	NeverByItself Event = iota
	// NodeChange: a node is added, or its labels, taints, allocatable or GPUs change.
	NodeChange
	// PodRelease: a pod gives back what it holds.
	PodRelease
	// Retry: the next attempt.
	Retry
)

// String is the event in words, for people.
func (e Event) String() string {
	return [...]string{"a change of the pod", "a change of the nodes", "a pod ending", "the next attempt"}[e]
}

type reasonInfo struct {
	name   string
	text   string
	event  Event
	advice string
}

// reasons is the table. The order of the constants is the order of hope: a later reason is nearer to fitting, and is the
// one to report for a class of nodes.
var reasons = [numReasons]reasonInfo{
	Fits:                       {"Fits", "fits", NeverByItself, "nothing"},
	InvalidRequest:             {"InvalidRequest", "the request is invalid", NeverByItself, "correct the pod"},
	InvalidGang:                {"InvalidGang", "the PodGroup is invalid", NeverByItself, "correct the PodGroup"},
	GangNotFound:               {"GangNotFound", "the PodGroup does not exist", NeverByItself, "create the PodGroup, or remove the pod's label"},
	GangIncomplete:             {"GangIncomplete", "fewer members exist than must start together", NeverByItself, "create the missing pods, or lower minMember"},
	UnknownTopology:            {"UnknownTopology", "the scheduler does not know the topology level", NeverByItself, "name one of the levels in the scheduler's configuration"},
	NodeUnschedulable:          {"NodeUnschedulable", "the node is cordoned", NodeChange, "uncordon the node"},
	TaintNotTolerated:          {"TaintNotTolerated", "the node has a taint that the pod does not tolerate", NodeChange, "add a toleration, or remove the taint"},
	NodeAffinityMismatch:       {"NodeAffinityMismatch", "the pod's node selector or affinity excludes the node", NodeChange, "relax the selector, or label a node"},
	NoGPU:                      {"NoGPU", "the node reports no GPU", NodeChange, "add nodes with GPUs, or run the node agent there"},
	GPUProductMismatch:         {"GPUProductMismatch", "the GPU model is not one that the pod accepts", NodeChange, "accept this model, or add nodes with the model asked for"},
	SharingUnsupported:         {"SharingUnsupported", "the node gives out whole GPUs only", NodeChange, "ask for nvidia.com/gpu, or run the node agent there"},
	NoMIGProfile:               {"NoMIGProfile", "no GPU offers the MIG profile", NodeChange, "ask for a profile that the GPUs offer, or add nodes with GPUs that offer it"},
	GPUMemoryTooSmall:          {"GPUMemoryTooSmall", "no GPU has the memory asked for", NodeChange, "lower weft.sh/gpu-memory, or add nodes with larger GPUs"},
	TooFewGPUs:                 {"TooFewGPUs", "the node would be too small even when empty", NodeChange, "ask for less per pod, or add larger nodes"},
	NodeTooSmall:               {"NodeTooSmall", "the node would lack CPU, memory or another resource even when empty", NodeChange, "ask for less per pod, or add larger nodes"},
	TopologyDomainTooSmall:     {"TopologyDomainTooSmall", "no topology domain would be large enough even when empty", NodeChange, "prefer the level instead of requiring it, or ask for fewer members"},
	GPUUnhealthy:               {"GPUUnhealthy", "GPUs are unhealthy", NodeChange, "repair or replace the GPU"},
	GPUWithheld:                {"GPUWithheld", "idle GPUs are withheld for pods that hold nobody knows which", PodRelease, "end those pods, and let weft place what comes after them"},
	InsufficientGPU:            {"InsufficientGPU", "too few idle GPUs", PodRelease, "wait for a pod to end, or add nodes"},
	InsufficientGPUShare:       {"InsufficientGPUShare", "too few GPUs with the share left", PodRelease, "wait for a pod to end, or add nodes"},
	InsufficientGPUMemory:      {"InsufficientGPUMemory", "too little GPU memory left", PodRelease, "lower weft.sh/gpu-memory, wait for a pod to end, or add nodes"},
	NoMIGPlacement:             {"NoMIGPlacement", "no free place for the MIG instance", PodRelease, "wait for a pod to end, or add nodes"},
	InsufficientCPU:            {"InsufficientCPU", "too little CPU left", PodRelease, "ask for less CPU, wait for a pod to end, or add nodes"},
	InsufficientMemory:         {"InsufficientMemory", "too little memory left", PodRelease, "ask for less memory, wait for a pod to end, or add nodes"},
	InsufficientResource:       {"InsufficientResource", "too little left of a resource", PodRelease, "ask for less, wait for a pod to end, or add nodes"},
	InsufficientDomainCapacity: {"InsufficientDomainCapacity", "no topology domain has room for the whole gang", PodRelease, "wait for pods to end, prefer the level instead of requiring it, or add nodes"},
	NVLinkDomainTooSmall:       {"NVLinkDomainTooSmall", "no NVLink domain has room for the whole gang", PodRelease, "wait for pods to end, prefer nvlink instead of requiring it, or ask for fewer members"},
	InsufficientGangCapacity:   {"InsufficientGangCapacity", "there is no room for the whole gang", PodRelease, "wait for pods to end, or add nodes"},
	ReservedForGang:            {"ReservedForGang", "what is free is kept for a gang that waits", PodRelease, "state the pod's run time with weft.sh/runtime, so that it can run before the gang starts"},
	PlannedElsewhere:           {"PlannedElsewhere", "the gang's plan has the pod on another node", Retry, "nothing: it is tried again"},
	AssignmentConflict:         {"AssignmentConflict", "the GPUs were taken meanwhile", Retry, "nothing: it is tried again"},
}

// Reasons is every reason in the order of the table, without Fits.
func Reasons() []Reason {
	out := make([]Reason, 0, numReasons-1)
	for r := InvalidRequest; r < numReasons; r++ {
		out = append(out, r)
	}
	return out
}

// String is the reason's name: stable, used as metric label and in JSON.
func (r Reason) String() string {
	if r >= numReasons {
		return fmt.Sprintf("Reason(%d)", uint8(r))
	}
	return reasons[r].name
}

// Text says the reason in words.
func (r Reason) Text() string { return reasons[min(r, numReasons-1)].text }

// Advice says what would have to change.
func (r Reason) Advice() string { return reasons[min(r, numReasons-1)].advice }

// Event is what can make it go away besides a change of the pod.
func (r Reason) Event() Event { return reasons[min(r, numReasons-1)].event }

// Resolvable reports whether other pods ending, or being preempted, can make it go away.
func (r Reason) Resolvable() bool { return r.Event() == PodRelease || r.Event() == Retry }

// Rejection is a reason with its figures. The zero Rejection is none: it fits.
type Rejection struct {
	Reason Reason
	// Detail has the figures, for example "asks for 4, 2 of 8 are idle"; it may be empty.
	Detail string
	// Advice says what would have to change, where more can be said than the reason's own advice; empty otherwise.
	Advice string
	// Near tells nodes with the same reason apart: with more of it a node is nearer to taking the request. It has no unit,
	// and says nothing across reasons.
	Near int64
}

// OK reports that there is no rejection.
func (r Rejection) OK() bool { return r.Reason == Fits }

// Message is reason and figures in one line: "InsufficientGPU: too few idle GPUs (asks for 4, 2 of 8 are idle)".
func (r Rejection) Message() string {
	m := r.Reason.String() + ": " + r.Reason.Text()
	if r.Detail != "" {
		m += " (" + r.Detail + ")"
	}
	return m
}
