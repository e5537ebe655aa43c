package replay

import (
	"context"
	"fmt"
	"slices"

	"weft.sh/weft/pkg/fit"
)

// learning is the strategy, which learns from what arrives as plugin GPUFit does. Where the plugin computes beside its work, this stops
// and computes.
type learning struct {
	strategy string
	learner  *fit.Learner
	memo     *fit.Memo
}

// mixWindow is how many requests it learns from, as by default in plugin GPUFit.
const mixWindow = 4096

func (l *learning) open(strategy string) error {
	if !slices.Contains(fit.StrategyNames(), strategy) {
		return fmt.Errorf("strategy %q: want one of %v", strategy, fit.StrategyNames())
	}
	l.strategy, l.learner = strategy, fit.NewLearner(strategy, mixWindow)
	l.memo = fit.NewMemo(l.learner.Strategy())
	return nil
}

// usualMilliCPU is the CPU of a node of which nothing is said, for the strategy.
const usualMilliCPU = 160_000

// observe sees so many pods arrive that ask for the same.
func (e *engine) observe(ctx context.Context, c fit.Class, pods int) {
	changed, due := false, false
	for range pods {
		is, ought := e.learner.Observe(c)
		changed, due = changed || is, due || ought
	}
	if due {
		stock := new(fit.Stock)
		for i := range e.nodes {
			if n := &e.nodes[i]; n.MilliCPU > 0 {
				stock.Add(n.now, n.milliCPU, n.MilliCPU)
			} else {
				stock.Add(n.now, usualMilliCPU, usualMilliCPU)
			}
		}
		e.learner.Adopt(e.learner.Pose(stock).Solve(ctx))
	}
	if changed || due {
		e.memo = fit.NewMemo(e.learner.Strategy())
	}
}
