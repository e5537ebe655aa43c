package cli

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"

	"weft.sh/weft/pkg/fit"
	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/podspec"
	"weft.sh/weft/pkg/quota"
)

// Waste is what is idle, and what of it nobody can use: `weft report waste -o json`. Made by [NewWaste].
type Waste struct {
	// APIVersion is cli.weft.sh/v1, Kind is Waste.
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	// CapacityMilliGPU is all GPUs, AssignedMilliGPU what pods hold, FreeMilliGPU what can be given, HalfUsedMilliGPU what of it is on
	// nodes that are half used, and StrandedMilliGPU on nodes where no pod that waits fits.
	CapacityMilliGPU int64 `json:"capacityMilliGPU"`
	AssignedMilliGPU int64 `json:"assignedMilliGPU"`
	FreeMilliGPU     int64 `json:"freeMilliGPU"`
	HalfUsedMilliGPU int64 `json:"halfUsedMilliGPU"`
	StrandedMilliGPU int64 `json:"strandedMilliGPU"`
	// PendingPods wait for GPUs: those that quota, a budget or a gate holds back are not among them.
	PendingPods int `json:"pendingPods"`
	// Nodes are those with something free that are half used or where no pod that waits fits, the most that is free first.
	Nodes []WasteNode `json:"nodes"`
	// Measured says that utilisation was asked for. WindowSeconds and LimitPerMille say what counts as idle: used at no moment of the
	// window by more than the limit.
	Measured      bool  `json:"measured"`
	WindowSeconds int64 `json:"windowSeconds"`
	LimitPerMille int64 `json:"limitPerMille"`
	// IdleMilliGPU is held by those in Idle; UnmeasuredMilliGPU by containers of which there are no measurements for the whole window,
	// such as those that began in it, and MIG instances, of which NVML does not tell them.
	IdleMilliGPU       int64 `json:"idleMilliGPU"`
	UnmeasuredMilliGPU int64 `json:"unmeasuredMilliGPU"`
	// Idle are the GPUs and shares that are held and not used, those that are largest first.
	Idle []IdleHold `json:"idle"`
}

// WasteNode is a node with something free.
type WasteNode struct {
	Node string `json:"node"`
	// GPUs is how many it has.
	GPUs             int   `json:"gpus"`
	AssignedMilliGPU int64 `json:"assignedMilliGPU"`
	FreeMilliGPU     int64 `json:"freeMilliGPU"`
	// HalfUsed says that pods hold some of its GPUs and not all. Stranded says that pods wait and none of them fits here, for Reason: that
	// of the one that comes nearest.
	HalfUsed bool   `json:"halfUsed"`
	Stranded bool   `json:"stranded"`
	Reason   string `json:"reason"`
}

// IdleHold is a part of a GPU that a container holds and does not use.
type IdleHold struct {
	Node      string `json:"node"`
	GPU       string `json:"gpu"`
	Namespace string `json:"namespace"`
	Pod       string `json:"pod"`
	Container string `json:"container"`
	MilliGPU  int64  `json:"milliGPU"`
	// UsedPerMille is the most that was used in the window, HeldSeconds since when it is held.
	UsedPerMille int64 `json:"usedPerMille"`
	HeldSeconds  int64 `json:"heldSeconds"`
}

// maxShapes is how many shapes of pods that wait are tried on every node, those that most pods have first.
const maxShapes = 64

// NewWaste is what of the cluster is free, and what of that is on nodes that are half used or that take no pod that waits.
func NewWaste(o Objects, schedulerName string) Waste {
	v := newView(o)
	w := Waste{APIVersion: APIVersion, Kind: "Waste", Nodes: []WasteNode{}, Idle: []IdleHold{}}
	shapes, pending := v.waitingShapes(schedulerName)
	w.PendingPods = pending
	for _, n := range v.nodes {
		c := v.snapshot.Node(n.Name)
		if c == nil || len(c.GPUs) == 0 {
			continue
		}
		node := WasteNode{Node: n.Name, GPUs: len(c.GPUs), FreeMilliGPU: fit.NewView(c, math.MaxInt64).MilliGPU()}
		for i := range c.GPUs {
			node.AssignedMilliGPU += min(c.AssignedMilliGPU(i), gpu.WholeMilliGPU)
		}
		w.CapacityMilliGPU += int64(len(c.GPUs)) * gpu.WholeMilliGPU
		w.AssignedMilliGPU += node.AssignedMilliGPU
		w.FreeMilliGPU += node.FreeMilliGPU
		if node.FreeMilliGPU == 0 {
			continue
		}
		if node.HalfUsed = node.AssignedMilliGPU > 0; node.HalfUsed {
			w.HalfUsedMilliGPU += node.FreeMilliGPU
		}
		var best verdict
		for i, shape := range shapes {
			if got := v.reject(n, shape); i == 0 || got.compare(best) > 0 {
				best = got
			}
		}
		if node.Stranded = len(shapes) > 0 && !best.OK(); node.Stranded {
			node.Reason = best.Reason.String()
			w.StrandedMilliGPU += node.FreeMilliGPU
		}
		if node.HalfUsed || node.Stranded {
			w.Nodes = append(w.Nodes, node)
		}
	}
	slices.SortStableFunc(w.Nodes, func(a, b WasteNode) int { return cmp.Compare(b.FreeMilliGPU, a.FreeMilliGPU) })
	return w
}

// waitingShapes are the pods that wait for GPUs and nothing else, one of each kind, and how many there are of all kinds.
func (v *view) waitingShapes(schedulerName string) (shapes []*wanted, pods int) {
	type kind struct {
		*wanted
		n int
	}
	kinds := map[string]*kind{}
	var order []string
	for _, p := range v.pods {
		if p.Spec.NodeName != "" || p.DeletionTimestamp != nil || p.Spec.SchedulerName != schedulerName || len(p.Spec.SchedulingGates) > 0 {
			continue
		}
		if s := said(p); s != nil && s.Status != string(v1.ConditionTrue) && quota.HoldsBack(s.Reason) {
			continue
		}
		r, err := podspec.PendingRequest(p)
		if err != nil || r.Empty() {
			continue
		}
		pods++
		id := fmt.Sprintf("%+v %v %v %v", fit.ClassOf(r, podspec.MilliCPU(p)), p.Spec.NodeSelector, p.Spec.Affinity, p.Spec.Tolerations)
		if kinds[id] == nil {
			kinds[id] = &kind{wanted: newWanted(p, r)}
			order = append(order, id)
		}
		kinds[id].n++
	}
	slices.SortStableFunc(order, func(a, b string) int { return cmp.Compare(kinds[b].n, kinds[a].n) })
	for _, id := range order[:min(len(order), maxShapes)] {
		shapes = append(shapes, kinds[id].wanted)
	}
	return shapes, pods
}

// Metrics of the node agent, as pkg/metering has them.
const (
	metricHeld        = "weft_node_container_gpu_milligpu"
	metricHeldSince   = "weft_node_container_gpu_start_time_seconds"
	metricUtilization = "weft_node_container_gpu_utilization_ratio"
)

// holdID tells series of one hold together.
type holdID struct{ node, namespace, pod, container, uid, gpu, instance string }

func holdIDOf(labels map[string]string) holdID {
	return holdID{
		labels["node"], labels["namespace"], labels["pod"], labels["container"], labels["uid"], labels["gpu"], labels["instance"],
	}
}

// measure adds what the node agents measured: who holds GPUs and did not use more than the limit of them in the window.
func (w *Waste) measure(ctx context.Context, p *prometheus, window time.Duration, limitPerMille, now int64) error {
	seconds := int64(window / time.Second)
	w.Measured, w.WindowSeconds, w.LimitPerMille = true, seconds, limitPerMille
	by := func(f, metric string) string {
		return fmt.Sprintf("%s by (node, namespace, pod, container, uid, gpu, instance) (%s)", f, metric)
	}
	held, err := p.query(ctx, by("max", metricHeld+" > 0"))
	if err != nil {
		return err
	}
	since := map[holdID]float64{}
	samples, err := p.query(ctx, by("min", metricHeldSince))
	if err != nil {
		return err
	}
	for _, s := range samples {
		since[holdIDOf(s.labels)] = s.value
	}
	most := map[holdID]float64{}
	if samples, err = p.query(ctx, by("max", fmt.Sprintf("max_over_time(%s[%ds])", metricUtilization, seconds))); err != nil {
		return err
	}
	for _, s := range samples {
		most[holdIDOf(s.labels)] = s.value
	}
	for _, s := range held {
		id, milli := holdIDOf(s.labels), int64(math.Round(s.value))
		used, measured := most[id]
		start, known := since[id]
		age := now - int64(start)
		perMille := int64(math.Ceil(used*1000 - 1e-6)) // what a float64 makes of 0.029 is no more than that
		switch {
		case !measured || !known || age < seconds:
			w.UnmeasuredMilliGPU += milli
			continue
		case perMille > limitPerMille:
			continue
		}
		w.IdleMilliGPU += milli
		w.Idle = append(w.Idle, IdleHold{
			Node: id.node, GPU: id.gpu, Namespace: id.namespace, Pod: id.pod, Container: id.container, MilliGPU: milli,
			UsedPerMille: perMille, HeldSeconds: age,
		})
	}
	slices.SortFunc(w.Idle, func(a, b IdleHold) int {
		return cmp.Or(cmp.Compare(b.MilliGPU, a.MilliGPU), cmp.Compare(b.HeldSeconds, a.HeldSeconds), cmp.Compare(a.Node, b.Node), cmp.Compare(a.GPU, b.GPU),
			cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Pod, b.Pod), cmp.Compare(a.Container, b.Container))
	})
	return nil
}
