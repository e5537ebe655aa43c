package queues

import (
	v1 "k8s.io/api/core/v1"

	"weft.sh/weft/pkg/apis/weft/v1alpha1"
	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/quota"
)

// Set is all queues and classes at one moment. It does not change; the zero value has none, and holds nobody back.
type Set struct{}

// NewSet reads the objects, in any order. Namespaces are those that selectors are matched against.
func NewSet(queues []*v1alpha1.Queue, classes []*v1alpha1.GPUClass, namespaces []*v1.Namespace) *Set {
	panic("to be built")
}

// Tree is the queues as quota sees them.
func (s *Set) Tree() *quota.Tree { panic("to be built") }

// Problems are what is wrong with queues and classes, by the object's name.
func (s *Set) Problems() []quota.Problem { panic("to be built") }

// Checkpoint is what the queue's status says of its budget, false when it says nothing.
func (s *Set) Checkpoint(queue string) (quota.Checkpoint, bool) { panic("to be built") }

// QueueOf is the queue of the pod: that of its label, else the default queue of its namespace, else none (""). The verdict is
// not OK when the queue does not exist, or the namespace may not use it; where there are no queues at all, labels mean nothing.
func (s *Set) QueueOf(pod *v1.Pod) (queue string, v quota.Verdict) { panic("to be built") }

// Class is what GPUs of a kind count.
type Class struct {
	// Name is the GPUClass; empty where none selects the GPUs, and an hour then counts once.
	Name string
	// WeightMilli is in thousandths.
	WeightMilli int64
	PriceMicros int64 // of an hour of one GPU, in millionths of Currency
	Currency    string
}

// Rate is what is charged a second for so many milli-GPU of the class: rounded up to a whole milli-GPU.
func (c Class) Rate(milliGPU int64) int64 { panic("to be built") }

// ClassOn is the class of a GPU of that model on a node with those labels; profile is empty but for MIG.
func (s *Set) ClassOn(labels map[string]string, product, profile string) Class { panic("to be built") }

// Holds is what a bound pod holds, class by class, largest first: one part for most pods.
type Holds struct {
	Class    Class
	Product  string
	Profile  string
	MilliGPU int64
}

// HoldsOf is what an assignment holds on a node: whole GPUs count 1000, shares what they are, MIG instances their part of the
// GPU's memory slices.
func (s *Set) HoldsOf(a gpu.Assignment, node *v1.Node, product string, memorySlices int) []Holds {
	panic("to be built")
}

// Claim is what a pod that is bound to the node holds of its queue, from its annotation weft.sh/gpus; without node it is what a
// pod that waits wants (podspec.Estimate), on the cheapest class that it may run on: what no class can afford need not be tried.
// False for a pod that holds and asks for no GPU.
func (s *Set) Claim(pod *v1.Pod, node *v1.Node) (quota.Claim, bool) { panic("to be built") }

// ClaimOn is the claim that the pod would have on the node, to be checked before it is bound.
func (s *Set) ClaimOn(pod *v1.Pod, node *v1.Node) (quota.Claim, bool) { panic("to be built") }
