package fit

import (
	"fmt"
	"strings"

	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/potential"
)

// Rating is how good one placement is. Higher is better.
type Rating struct {
	// Node compares nodes, at least 0 and at most [MaxRating]. It is coarse on purpose: placements that differ by less
	// than a step are equal, and what then decides ([Rank]) packs better than the last digit of an estimate. Measured on
	// the openb trace, a fragmentation score of 100 steps allocates 95.2 percent, an exact one 94.1; for the potential,
	// steps from 1/128 to 1/8192 GPU are the same to 0.05 points.
	Node int64
	// GPU compares the GPUs of one node whose Node is equal. Of equal ones the lowest index is taken.
	GPU int64
}

// MaxRating bounds Rating.Node.
const MaxRating = 1<<16 - 1

// Strategy says which placement is good. It is node-local: its only inputs are what is left of one node before and after,
// and what it was built with. A strategy that learns from the mix of requests is a new value when it has learned, so that
// whoever keeps ratings knows that they are stale.
type Strategy interface {
	// Rate rates the placement that leads from before to after. taken is the index of the GPU that was taken when the
	// placement takes from just one, else -1. Safe for concurrent use; it changes neither view.
	Rate(before, after *View, taken int) Rating
	// CPUKey maps an amount of CPU to a number such that amounts with equal numbers are the same to Rate. The fewer
	// numbers, the more ratings can be shared; the amount itself will do.
	CPUKey(milliCPU int64) int64
}

// Names of the strategies.
const (
	PotentialName     = "potential"
	FragmentationName = "fragmentation"
	BestFitName       = "bestfit"
	SpreadName        = "spread"
)

// StrategyNames are all names, the default first.
func StrategyNames() []string {
	return []string{PotentialName, FragmentationName, BestFitName, SpreadName}
}

// usualMilliCPU is the CPU of a large node.
const usualMilliCPU = 160_000

// NewStrategy is the strategy of that name over the mix of recent requests; bestfit and spread do not look at the mix. Strategy
// potential has prices, which a [Learner] finds; here it has those of [potential.Rarity], which do not look at the nodes.
func NewStrategy(name string, mix Mix) (Strategy, error) {
	switch name {
	case PotentialName:
		m := potential.NewMix(mix.counts)
		return Potential{potential.NewTable(m, potential.Rarity(m), usualMilliCPU), mix}, nil
	case FragmentationName:
		return Fragmentation{Mix: mix}, nil
	case BestFitName:
		return BestFit{}, nil
	case SpreadName:
		return Spread{}, nil
	}
	return nil, fmt.Errorf("strategy %q: want one of %s", name, strings.Join(StrategyNames(), ", "))
}

// Fragmentation takes the placement after which the least idle capacity is of no use to the requests that are expected:
//
//	Node = floor(100 / (1 + e^(F_after - F_before)))      F in GPUs, see [Mix.FragmentMicroGPU]
//
// (Weng et al., USENIX ATC 2023.) With an empty mix every placement is equal, and the rule for ties packs.
type Fragmentation struct{ Mix Mix }

// Rate implements Strategy.
func (s Fragmentation) Rate(before, after *View, _ int) Rating {
	return Rating{Node: sigmoid(s.Mix.FragmentMicroGPU(before) - s.Mix.FragmentMicroGPU(after))}
}

// CPUKey implements Strategy: CPU matters only by which classes still find enough of it.
func (s Fragmentation) CPUKey(milliCPU int64) int64 { return int64(s.Mix.cpuRank(milliCPU)) }

// BestFit takes the node with the least left afterwards, GPU and CPU alike, and in it the fullest GPU:
//
//	Node = 10000 * (1 - (cpu/128 cores + gpu/8 GPUs) / 2)     what is left, each part capped at 1
//
// The sizes are those of a large node of the openb trace.
type BestFit struct{}

// steps are how many ratings BestFit and Spread have.
const steps = 10_000

// Sizes at which BestFit calls a node empty.
const (
	bestFitMilliCPU = 128_000
	bestFitMilliGPU = 8 * gpu.WholeMilliGPU
)

// Rate implements Strategy.
func (BestFit) Rate(_, after *View, taken int) Rating {
	cpu := min(max(after.MilliCPU, 0), bestFitMilliCPU)
	left := min(after.MilliGPU(), bestFitMilliGPU)
	r := Rating{Node: steps - steps/2*cpu/bestFitMilliCPU - steps/2*left/bestFitMilliGPU}
	if taken >= 0 {
		r.GPU = -after.GPUs[taken].left()
	}
	return r
}

// CPUKey implements Strategy.
func (BestFit) CPUKey(milliCPU int64) int64 { return milliCPU }

// Spread takes the node with the largest part of its GPUs left afterwards, and in it the emptiest GPU: for clusters where
// quiet neighbours matter more than room.
type Spread struct{}

// Rate implements Strategy.
func (Spread) Rate(_, after *View, taken int) Rating {
	var r Rating
	if len(after.GPUs) > 0 {
		r.Node = steps * after.MilliGPU() / (gpu.WholeMilliGPU * int64(len(after.GPUs)))
	}
	if taken >= 0 {
		r.GPU = after.GPUs[taken].left()
	}
	return r
}

// CPUKey implements Strategy: CPU does not matter.
func (Spread) CPUKey(int64) int64 { return 0 }
