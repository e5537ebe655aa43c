package simulator

import (
	"math"

	"weft.sh/weft/pkg/gpu"
)

// fgd is Fragmentation Gradient Descent (Weng et al., "Beware of Fragmentation", USENIX ATC 2023): it takes the placement
// by which the fragmentation of the node, see [target.fragment], grows least:
//
//	floor(100 / (1 + e^(F_after - F_before)))      F in GPUs
//
// A part of a GPU is tried on every GPU; of equal ones the lowest index is taken. All else takes the first idle GPUs.
type fgd struct {
	scoring
	target *target
}

func (p fgd) score(_ int, n *node, c *class) int64 {
	best, _ := p.best(n, c)
	return best
}

func (p fgd) choose(_ int, n *node, c *class, gpus []int) ([]int, error) {
	if c.fractional() && c.gpus == 1 {
		_, g := p.best(n, c)
		return append(gpus, g), nil
	}
	return firstGPUs(n, c, gpus), nil
}

// best is the best score on the node, and for a class that takes a part of one GPU also which.
func (p fgd) best(n *node, c *class) (score int64, index int) {
	cpu := n.milliCPU - c.milliCPU
	switch {
	case c.gpus == 0:
		return p.rate(n.fragment, p.target.fragment(n.model, cpu, n.free)), -1
	case c.gpus == 1 && c.fractional():
		score, index = -1, -1
		var tried [gpu.WholeMilliGPU + 1]bool // GPUs with the same left are the same
		for g, left := range n.free {
			if left < c.milliGPU || tried[left] {
				continue
			}
			tried[left] = true
			n.free[g] -= c.milliGPU
			s := p.rate(n.fragment, p.target.fragment(n.model, cpu, n.free))
			n.free[g] = left
			if s > score {
				score, index = s, g
			}
		}
		return score, index
	}
	var before [largestGPUs]int64
	copy(before[:], n.free)
	count := 0
	for g, left := range n.free {
		if count < c.gpus && left >= c.milliGPU {
			n.free[g] -= c.milliGPU
			count++
		}
	}
	score = p.rate(n.fragment, p.target.fragment(n.model, cpu, n.free))
	copy(n.free, before[:])
	return score, -1
}

func (p fgd) rate(before, after int64) int64 {
	gain := float64(before-after) / float64(p.target.total) / float64(gpu.WholeMilliGPU)
	return int64(math.Floor(maxScore / (1 + math.Exp(-gain))))
}
