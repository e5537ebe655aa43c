package fit

import (
	"weft.sh/weft/pkg/cluster"
	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/mig"
)

// View is what is left of one node, the form in which strategies see it, before and after a placement.
type View struct {
	// MilliCPU is the CPU left, in thousandths of a core; negative when the node is overbooked.
	MilliCPU int64
	GPUs     []Left
	// Used says that some pod holds GPUs of the node.
	Used bool
}

// Left is what is left of one GPU.
type Left struct {
	Product string
	// MilliGPU is the share left: 1000 when idle; 0 when held whole, unhealthy or in MIG mode.
	MilliGPU int64
	// MemoryMiB is the memory left for shares, and DeviceMiB all that the GPU has.
	MemoryMiB, DeviceMiB int64
	// Refuses is the kind in which it is not given out, 0 for none; see [gpu.Device.Refuses].
	Refuses gpu.Kind
	// Partition is the state of a healthy GPU in MIG mode, the zero State for every other.
	Partition mig.State
	// Slices is the number of memory slices of a healthy GPU in MIG mode, 0 for every other.
	Slices int
}

// NewView is what is left of the node, which may be nil, with so much CPU left. The caller owns it.
func NewView(n *cluster.Node, milliCPU int64) *View {
	v := new(View)
	viewOf(v, n, milliCPU)
	return v
}

// viewOf writes what is left of the node into v, reusing its memory.
func viewOf(v *View, n *cluster.Node, milliCPU int64) {
	v.MilliCPU, v.GPUs, v.Used = milliCPU, v.GPUs[:0], false
	if n == nil {
		return
	}
	v.Used = n.Used()
	for i := range n.GPUs {
		g := &n.GPUs[i]
		l := Left{
			Product: g.Product, MilliGPU: g.FreeMilliGPU, MemoryMiB: g.FreeMemoryMiB, DeviceMiB: g.MemoryMiB,
			Refuses: g.Refuses(),
		}
		if !g.Unhealthy {
			l.Partition, l.Slices = g.Partition, g.Slices
		}
		v.GPUs = append(v.GPUs, l)
	}
}

// copyFrom makes v equal to o, reusing v's memory.
func (v *View) copyFrom(o *View) {
	v.MilliCPU, v.Used = o.MilliCPU, o.Used
	v.GPUs = append(v.GPUs[:0], o.GPUs...)
}

// MilliGPU is all that is left of the node's GPUs, MIG slices counted by their part of the GPU.
func (v *View) MilliGPU() int64 {
	var sum int64
	for i := range v.GPUs {
		sum += v.GPUs[i].left()
	}
	return sum
}

// left is what is left of the GPU in milli-GPU, however it is given out.
func (l *Left) left() int64 {
	if l.Slices > 0 {
		return l.milliGPU(mig.FreeSlices(l.Partition))
	}
	return l.MilliGPU
}

// milliGPU is so many memory slices as a part of the GPU.
func (l *Left) milliGPU(slices int) int64 { return gpu.WholeMilliGPU * int64(slices) / int64(l.Slices) }
