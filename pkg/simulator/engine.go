package simulator

import (
	"context"
	"fmt"
	"strings"

	"weft.sh/weft/pkg/trace"
)

// The engines: who decides.
const (
	// EngineCore decides by the pure core alone.
	EngineCore = "core"
	// EngineFramework has the real plugins decide in the real scheduler; see package framework.
	EngineFramework = "framework"
)

// Scheduler is a scheduler outside of this package, for one run and for one goroutine.
type Scheduler interface {
	// Schedule schedules a pod that stays: the name of its node and the indexes of its GPUs. The node is empty when the pod is
	// refused, and why then says the reason. The pod has no name.
	Schedule(ctx context.Context, p trace.Pod) (node string, gpus []int, why string, err error)
	// Close ends the scheduler.
	Close()
}

// StartScheduler starts a scheduler for these nodes, which have no pods.
type StartScheduler func(ctx context.Context, nodes []trace.Node) (Scheduler, error)

// DefaultPolicy is the one policy that a scheduler outside of this package has.
const DefaultPolicy = "default"

// Decision is where a pod went.
type Decision struct {
	// Pod is what arrived, without a name.
	Pod trace.Pod
	// Node is empty for a pod that was dropped. GPUs are indexes, in order.
	Node string
	GPUs []int
}

// outside has a scheduler outside of this package decide.
type outside struct {
	scheduler Scheduler
	places    map[string]int // of the nodes in the run, by name
}

// newOutside is a run of that scheduler before the first pod.
func newOutside(w *Workload, s Scheduler) *run {
	byName := make([]int, len(w.nodes))
	places := make(map[string]int, len(w.nodes))
	for i := range w.nodes {
		byName[i] = i
		places[w.nodes[i].Name] = i
	}
	r := newRun(w, nil, byName)
	r.outside = &outside{scheduler: s, places: places}
	return r
}

// decide is [run.decide] of that scheduler. A pod that it refuses has no place anywhere: that is checked.
func (o *outside) decide(ctx context.Context, r *run, c *class) (place int, gpus []int, err error) {
	node, gpus, why, err := o.scheduler.Schedule(ctx, trace.Pod{
		MilliCPU: c.milliCPU, MemoryMiB: c.memoryMiB, GPUs: c.gpus, MilliGPU: c.milliGPU, Models: c.models,
	})
	if err != nil {
		return nowhere, nil, err
	}
	if node != "" {
		place, known := o.places[node]
		if !known {
			return nowhere, nil, fmt.Errorf("node %q was chosen, which there is not: a fault of the scheduler", node)
		}
		return place, gpus, nil
	}
	for i := range r.nodes {
		if r.nodes[i].fits(c) {
			return nowhere, nil, fmt.Errorf("the pod was refused (%s), though node %s has room: a fault of the scheduler",
				strings.TrimSpace(why), r.w.nodes[i].Name)
		}
	}
	return nowhere, nil, nil
}
