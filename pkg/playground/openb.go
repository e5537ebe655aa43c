package playground

import (
	"fmt"
	"slices"
	"strings"

	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/trace"
)

// OpenbNode is a node of the openb trace. Its GPU model is the label nvidia.com/gpu.product.
func OpenbNode(n trace.Node) Node {
	out := Node{Name: n.Name, CPUMilli: n.MilliCPU, MemoryMiB: n.MemoryMiB, InstanceType: "openb-cpu"}
	if n.GPUs > 0 {
		out.Devices = devices(n.Name, n.Model, n.GPUs, trace.GPUMemoryMiB(n.Model))
		out.InstanceType = fmt.Sprintf("openb-%dx%s", n.GPUs, strings.ToLower(n.Model))
	}
	return out
}

// OpenbPods is a pod list of the openb trace.
type OpenbPods struct {
	Pods []Pod
	// Rounded is the number of pods whose share is no whole percent and was rounded up.
	Rounded int
}

// add adds a pod of the trace.
func (o *OpenbPods) add(p trace.Pod) {
	out, rounded := OpenbPod(p)
	if rounded {
		o.Rounded++
	}
	o.Pods = append(o.Pods, out)
}

// OpenbPod is a pod of the openb trace. A share becomes weft.sh/gpu-percent; one that is no whole percent is rounded up, for a pod
// must not get less than it asked.
func OpenbPod(p trace.Pod) (out Pod, rounded bool) {
	out = Pod{Name: p.Name, CPUMilli: p.MilliCPU, MemoryMiB: p.MemoryMiB}
	switch {
	case p.MilliGPU == gpu.WholeMilliGPU:
		out.GPUs = int64(p.GPUs)
	case p.MilliGPU > 0:
		out.Percent, out.Count = (p.MilliGPU+9)/10, int64(p.GPUs)
		rounded = p.MilliGPU%10 != 0
	}
	if len(p.Models) > 0 {
		out.Products = slices.Compact(slices.Sorted(slices.Values(p.Models)))
	}
	return out, rounded
}

// LoadOpenb reads a node list and a pod list of the openb trace from files, at most limit pods unless it is 0; podFile may
// be empty. See [trace.Load].
func LoadOpenb(nodeFile, podFile string, limit int) ([]Node, OpenbPods, error) {
	nodes, pods, err := trace.Load(nodeFile, podFile, limit)
	if err != nil {
		return nil, OpenbPods{}, err
	}
	var out OpenbPods
	for _, p := range pods {
		out.add(p)
	}
	var made []Node
	for _, n := range nodes {
		made = append(made, OpenbNode(n))
	}
	return made, out, nil
}
