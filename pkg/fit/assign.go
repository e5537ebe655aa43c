package fit

import (
	"errors"

	"weft.sh/weft/pkg/cluster"
	"weft.sh/weft/pkg/gpu"
)

// CPU is the CPU side of a decision, in thousandths of a core: what the node has left before the pod, and what the pod
// asks for.
type CPU struct {
	FreeMilli, AskMilli int64
}

// ErrDoesNotFit is returned when a request has no place on a node; [Explain] says why.
var ErrDoesNotFit = errors.New("the request does not fit the node")

// Assign chooses the GPUs of the node for the request, in the strategy's best order. It errs with ErrDoesNotFit when
// there is no place; what [Check] accepts always has one. An empty request gets the empty assignment.
//
// Among GPUs that the strategy rates equal and that are in the same state, how they are linked decides: the whole GPUs of
// the pod's running containers are the set with the best worst link, parted among the containers in the same way, the one with
// most first; a GPU that is taken by itself, or to be shared, is the one whose absence harms the sets least that are still
// free. See [weft.sh/weft/pkg/nvlink]. Where links say nothing, the lowest index is taken.
//
// A request of one ask is answered exactly. One of several is searched for with bounded effort, so that one with many different shares may be refused on a node that is all
// but full although a placement exists.
//
// An init container is given what the containers after it, or other init containers, hold, as far as it suits. Different
// MIG instances of a pod lie side by side all the same: an init container is never given one that overlaps what a later
// container will hold, for the node may make the instances of a pod before its first container starts. Profiles that are
// withheld must stay possible on GPUs of the models that the request accepts.
func Assign(n *cluster.Node, r gpu.Request, cpu CPU, s Strategy) (gpu.Assignment, error) {
	if r.Empty() {
		return gpu.Assignment{}, nil
	}
	if n == nil {
		return gpu.Assignment{}, ErrDoesNotFit
	}
	linked := !n.Inventory.Links().Uniform()
	a, ok := plan(n, r, cpu, s, linked)
	if !ok && s != nil {
		// The strategy's order can lead the bounded search astray where the packing order does not, and Check used that.
		a, ok = plan(n, r, cpu, nil, linked)
	}
	if !ok {
		return gpu.Assignment{}, ErrDoesNotFit
	}
	return a, nil
}
