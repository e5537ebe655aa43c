package simulator

import (
	"math/rand"

	"weft.sh/weft/pkg/gpu"
)

// The baselines are rebuilt from the experiments of Weng et al., "Beware of Fragmentation: Scheduling GPU-Sharing Workloads
// with Fragmentation Gradient Descent" (USENIX ATC 2023), down to where they round: the framework's scores are whole numbers
// from 0 to 100, and where two nodes have the same, the order of the nodes decides. That is worth more than the formula: with
// ties broken at random FGD is worse than BestFit.

// maxScore is the highest score of the framework.
const maxScore = 100

// A node of this size is what scores are in proportion to: the largest of the trace.
const (
	largeMilliCPU = 128_000
	largeMilliGPU = 8_000
)

// tightest is the GPU with the least left that has the class's share, of equal ones the lowest index.
func tightest(n *node, c *class) int {
	best := -1
	for g, left := range n.free {
		if left >= c.milliGPU && (best < 0 || left < n.free[best]) {
			best = g
		}
	}
	return best
}

// firstGPUs appends the first GPUs that have the share of the class left.
func firstGPUs(n *node, c *class, gpus []int) []int {
	for g, left := range n.free {
		if len(gpus) < c.gpus && left >= c.milliGPU {
			gpus = append(gpus, g)
		}
	}
	return gpus
}

// tightGPUs is how most baselines choose: a share goes to the tightest GPU, all else to the first GPUs.
type tightGPUs struct{ scoring }

func (tightGPUs) choose(_ int, n *node, c *class, gpus []int) ([]int, error) {
	if c.fractional() && c.gpus == 1 {
		return append(gpus, tightest(n, c)), nil
	}
	return firstGPUs(n, c, gpus), nil
}

// bestFit takes the node with the least left of CPU and GPUs afterwards:
//
//	100 * (1 - 1/2 * cpu_left/128 cores - 1/2 * gpu_left/8 GPUs), rounded down
//
// The experiments stretch the scores to the range 0 to 100 then, which does not change which is the highest.
type bestFit struct{ tightGPUs }

func (bestFit) score(_ int, n *node, c *class) int64 {
	left := float64(n.milliCPU-c.milliCPU)/largeMilliCPU*0.5 + float64(n.milliGPU()-c.total())/largeMilliGPU*0.5
	return max(0, int64((1-left)*maxScore)+maxScore) // a node larger than the large one is not to be below 0
}

// dotProd takes the node whose free CPU and GPUs are least aligned with what is asked, after Tetris (Grandl et al.,
// "Multi-Resource Packing for Cluster Schedulers", SIGCOMM 2014):
//
//	100 * (1 - 1/2 * (cpu_left * cpu_asked / (128 cores)^2 + gpu_left * gpu_asked / (8 GPUs)^2)), rounded down
type dotProd struct{ tightGPUs }

func (dotProd) score(_ int, n *node, c *class) int64 {
	cpu := float64(n.milliCPU) / largeMilliCPU * (float64(c.milliCPU) / largeMilliCPU)
	gpus := float64(n.milliGPU()) / largeMilliGPU * (float64(c.total()) / largeMilliGPU)
	return max(0, int64((1-(cpu+gpus)/2)*maxScore)+maxScore)
}

// gpuPacking takes GPUs that are in use before idle ones, and idle GPUs of nodes in use before idle nodes, after AntMan
// (Xiao et al., "Dynamic Scaling on GPU Clusters for Deep Learning", OSDI 2020). In bands, rounded down:
//
//	on GPUs in use     100 - (percent left on the GPUs taken)/10, at least 50
//	on a node in use    50 - idle GPUs taken, at least 33
//	on an idle node     33 - GPUs of the node, at least the number of them
//
// Pods without GPUs go to the first node that has room.
type gpuPacking struct{ tightGPUs }

func (gpuPacking) score(_ int, n *node, c *class) int64 {
	if c.gpus == 0 {
		return 0
	}
	idle := int64(0)
	for _, left := range n.free {
		if left == gpu.WholeMilliGPU {
			idle++
		}
	}
	if idle == int64(len(n.free)) {
		return max(maxScore/3-idle, idle)
	}
	// The GPUs with the least left are taken; which of equal ones does not matter here.
	var taken [largestGPUs]bool
	var idleTaken, percent int64
	for range c.gpus {
		best := -1
		for g, left := range n.free {
			if !taken[g] && left >= c.milliGPU && (best < 0 || left < n.free[best]) {
				best = g
			}
		}
		taken[best] = true
		percent += n.free[best] * 100 / gpu.WholeMilliGPU
		if n.free[best] == gpu.WholeMilliGPU {
			idleTaken++
		}
	}
	if idleTaken > 0 {
		return max(maxScore/2-idleTaken, maxScore/3)
	}
	return max(maxScore-percent/10, maxScore/2)
}

// largestGPUs is the largest number of GPUs of a node that lists may have.
const largestGPUs = 64

// maxKinds is the number of kinds of pods, for GpuClustering.
const maxKinds = largestGPUs + 1

// kindOf is the kind of the pods of a class with GPUs: 0 for a part of a GPU, else the number of GPUs.
func kindOf(c *class) int {
	if c.fractional() {
		return 0
	}
	return c.gpus
}

// gpuClustering puts pods of the same kind together, after Gandiva (Xiao et al., "Introspective Cluster Scheduling for Deep
// Learning", OSDI 2018). In bands, and in each band the fuller node first, by up to 25:
//
//	75  the node has pods of the same kind only
//	50  of the same kind among others
//	25  none with GPUs
//	 0  of other kinds only
//
// Pods without GPUs go to the first node that has room.
type gpuClustering struct{ tightGPUs }

func (gpuClustering) score(_ int, n *node, c *class) int64 {
	if c.gpus == 0 {
		return 0
	}
	kinds := 0
	for _, count := range n.kinds {
		if count > 0 {
			kinds++
		}
	}
	var band int64
	switch same := n.kinds[kindOf(c)] > 0; {
	case same && kinds == 1:
		band = maxScore * 3 / 4
	case same:
		band = maxScore / 2
	case kinds == 0:
		band = maxScore / 4
	}
	return band + max(0, maxScore/4*(largeMilliGPU-n.milliGPU())/largeMilliGPU)
}

// randomFit takes any node that fits, each as likely as the others, and for a share any GPU of it that has room.
type randomFit struct {
	scoring
	source *rand.Rand
}

func (*randomFit) score(int, *node, *class) int64 { return 0 }

func (r *randomFit) pick(scores []int64, _ int) int {
	fits := 0
	for _, s := range scores {
		if s >= 0 {
			fits++
		}
	}
	k := r.source.Intn(fits)
	for i, s := range scores {
		if s < 0 {
			continue
		}
		if k == 0 {
			return i
		}
		k--
	}
	return -1 // not reached: k is below the number of nodes that fit
}

func (r *randomFit) choose(_ int, n *node, c *class, gpus []int) ([]int, error) {
	if !c.fractional() || c.gpus != 1 {
		return firstGPUs(n, c, gpus), nil
	}
	count, chosen := 0, 0
	for g, left := range n.free {
		if left < c.milliGPU {
			continue
		}
		if count++; r.source.Intn(count) == 0 {
			chosen = g
		}
	}
	return append(gpus, chosen), nil
}
