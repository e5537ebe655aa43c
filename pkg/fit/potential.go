package fit

import (
	"math"
	"slices"

	"weft.sh/weft/pkg/cluster"
	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/potential"
)

// Potential takes the placement after which the node is worth most to the requests that are expected:
//
//	Node = Φ(after) - Φ(before)      in steps of 1/512 GPU, see package potential
//
// and among GPUs that come out the same the fullest. For GPUs in MIG mode, which the tables of potential do not have, minus what
// instances of the mix cannot use is added, see [Mix.migMicroGPU].
type Potential struct {
	Table *potential.Table
	Mix   Mix
}

// Rate implements Strategy.
func (s Potential) Rate(before, after *View, taken int) Rating {
	gain := s.value(after) - s.value(before)
	if lost := s.Mix.migMicroGPU(after) - s.Mix.migMicroGPU(before); lost != 0 {
		gain -= int64(math.Round(float64(lost)/migStep)) * (potential.Units / 25)
	}
	r := Rating{Node: min(max(noGain+gain, 0), MaxRating)}
	if taken >= 0 {
		r.GPU = -after.GPUs[taken].left()
	}
	return r
}

// noGain rates what changes nothing; a gain or loss of 63 GPUs is in range.
const noGain = (MaxRating + 1) / 2

// migStep is how finely capacity in MIG mode is rated, 1/25 of a GPU in micro-GPU: as finely as strategy fragmentation does about where
// nothing changes.
const migStep = 40_000

func (s Potential) value(v *View) int64 {
	var state potential.State
	state.SetCPU(s.Table.CPU(v.MilliCPU))
	for i := range v.GPUs {
		l := &v.GPUs[i]
		if l.MilliGPU > 0 {
			s.Table.Add(&state, l.model(), potential.Cells(l.share()), l.idle())
		}
	}
	return s.Table.Potential(&state)
}

// CPUKey implements Strategy: CPU counts in cells.
func (s Potential) CPUKey(milliCPU int64) int64 { return int64(s.Table.CPU(milliCPU)) }

func (l *Left) model() potential.Model {
	return potential.Model{Product: l.Product, Refuses: l.Refuses}
}

// share is what is left of the GPU to be shared, in milli-GPU: of its compute or its memory, whichever is less.
func (l *Left) share() int64 {
	if l.DeviceMiB > 0 {
		return min(l.MilliGPU, l.MemoryMiB*gpu.WholeMilliGPU/l.DeviceMiB)
	}
	return l.MilliGPU
}

// idle reports whether nobody holds anything of the GPU.
func (l *Left) idle() bool { return l.MilliGPU == gpu.WholeMilliGPU && l.MemoryMiB == l.DeviceMiB }

// Stock is what is left on the nodes of a cluster, those that are alike counted together.
type Stock struct {
	nodes   []potential.Node
	index   map[stockKey]int
	largest int64
	scratch View
}

type stockKey struct {
	node     cluster.Signature
	milliCPU int64
}

// Add counts a node, which is nil when it has no GPUs, with so much CPU left of so much.
func (s *Stock) Add(n *cluster.Node, freeMilliCPU, allMilliCPU int64) {
	s.largest = max(s.largest, freeMilliCPU, allMilliCPU)
	key := stockKey{milliCPU: freeMilliCPU}
	if n != nil {
		key.node = n.Signature
	}
	if i, ok := s.index[key]; ok {
		s.nodes[i].Alike++
		return
	}
	if s.index == nil {
		s.index = map[stockKey]int{}
	}
	s.index[key] = len(s.nodes)
	viewOf(&s.scratch, n, freeMilliCPU)
	node := potential.Node{MilliCPU: freeMilliCPU, Alike: 1}
	for i := range s.scratch.GPUs {
		l := &s.scratch.GPUs[i]
		g := potential.GPU{Model: l.model(), Cells: potential.Cells(l.share()), Idle: l.idle(), Count: 1}
		if g.Cells == 0 {
			continue
		}
		if at := slices.IndexFunc(node.GPUs, func(o potential.GPU) bool {
			return o.Model == g.Model && o.Cells == g.Cells && o.Idle == g.Idle
		}); at >= 0 {
			node.GPUs[at].Count++
		} else {
			node.GPUs = append(node.GPUs, g)
		}
	}
	s.nodes = append(s.nodes, node)
}
