package gpufit

import (
	"errors"
	"maps"
	"sync/atomic"

	v1 "k8s.io/api/core/v1"
	fwk "k8s.io/kube-scheduler/framework"

	"weft.sh/weft/pkg/cluster"
	"weft.sh/weft/pkg/fit"
	"weft.sh/weft/pkg/gpu"
)

const stateKey fwk.StateKey = Name

// cycle is what one scheduling cycle of one pod knows. Filter and Score read it from many goroutines; only PreFilter,
// AddPod, RemovePod and Reserve write it, and the framework runs them alone.
type cycle struct {
	request  gpu.Request
	milliCPU int64
	memo     *fit.ShapeMemo

	// planned is what the pod's gang has planned for it on node plannedOn, empty for none.
	plannedOn string
	planned   cluster.Pod
	// overlay are nodes as they would be with pods added or removed, for preemption and nominated pods.
	overlay map[string]*cluster.Node
	// holds are what is kept for gangs and binds the pod; asks is what it asks for where there are any, and heldBack says that it
	// was refused a node for them.
	holds    []*Hold
	asks     map[v1.ResourceName]int64
	heldBack *atomic.Bool
	// assignment is what Reserve chose.
	assignment gpu.Assignment
}

// Clone implements fwk.StateData. Everything but the overlay is never changed in place.
func (c *cycle) Clone() fwk.StateData {
	clone := *c
	clone.overlay = maps.Clone(c.overlay)
	return &clone
}

// node is the node as this cycle sees it; nil for a node without GPUs.
func (c *cycle) node(s *cluster.Snapshot, name string) *cluster.Node {
	if n, ok := c.overlay[name]; ok {
		return n
	}
	return s.Node(name)
}

func (c *cycle) setNode(n *cluster.Node) {
	if c.overlay == nil {
		c.overlay = map[string]*cluster.Node{}
	}
	c.overlay[n.Name] = n
}

var errNoState = errors.New("GPUFit: PreFilter has not run in this cycle; enable the plugin at all its extension points")

func readCycle(state fwk.CycleState) (*cycle, *fwk.Status) {
	data, err := state.Read(stateKey)
	if err != nil {
		return nil, fwk.AsStatus(errNoState)
	}
	return data.(*cycle), nil
}
