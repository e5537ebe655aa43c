package fit

import (
	"context"
	"maps"

	"weft.sh/weft/pkg/potential"
)

// Learner follows the requests on behalf of one strategy: it counts them, says when the strategy is worth computing anew, and
// has the one of now. Not safe for concurrent use.
//
// What is dear is apart from what is not: [Learner.Observe] is a matter of a microsecond, and [Problem.Solve], which may take
// a second, is a function of values that the caller may run elsewhere.
type Learner struct {
	name     string
	recent   *Recent
	known    map[Class]int64 // nil to learn it
	prices   potential.Prices
	seen     int // requests ever
	solved   int // requests when the problem was posed last, 0 for never
	strategy Strategy
}

// The potential is computed when so many requests have been seen, for fewer say little; then after each so many, and when there
// were many only after each many.
const (
	firstSolve = 20
	solveEarly = 100
	solveLate  = 400
	manySolved = 400

	// Steps towards the prices: from none, from those of a mix that has changed since, and of one that has not.
	firstSteps  = 300
	learnSteps  = 60
	refineSteps = 6
)

// NewLearner learns for the strategy of that name from so many recent requests. A name that is none of [StrategyNames] gets
// bestfit.
func NewLearner(name string, window int) *Learner {
	l := &Learner{name: name, recent: NewRecent(window)}
	l.renew()
	return l
}

// NewKnowing is a learner that is told what comes and learns nothing; only strategy potential makes use of it.
func NewKnowing(name string, counts map[Class]int64) *Learner {
	l := NewLearner(name, 1)
	if name == PotentialName {
		l.known = maps.Clone(counts)
	}
	return l
}

// Strategy is the strategy as of now.
func (l *Learner) Strategy() Strategy { return l.strategy }

// Mix is the mix of the recent requests.
func (l *Learner) Mix() Mix { return l.recent.Mix() }

// Observe counts a request. It reports whether the strategy is another now, and whether it is time to pose the problem.
func (l *Learner) Observe(c Class) (changed, due bool) {
	l.seen++
	refresh := l.recent.Observe(c)
	switch l.name {
	case FragmentationName:
		if refresh {
			l.renew()
		}
		return refresh, false
	case PotentialName:
		return false, l.due()
	}
	return false, false
}

func (l *Learner) due() bool {
	since := l.seen - l.solved
	switch {
	case l.solved == 0:
		return l.known != nil || l.seen >= firstSolve
	case l.known == nil && l.seen <= manySolved:
		return since >= solveEarly || l.seen%solveEarly == 0
	}
	return since >= solveLate
}

// renew computes the strategies that are cheap.
func (l *Learner) renew() {
	switch l.name {
	case FragmentationName:
		l.strategy = Fragmentation{Mix: l.Mix()}
	case SpreadName:
		l.strategy = Spread{}
	default:
		l.strategy = BestFit{} // potential too, while it has seen too little
	}
}

// Problem is what there is to be solved for a strategy. Immutable.
type Problem struct {
	counts map[Class]int64
	from   potential.Prices
	stock  *Stock
	steps  int
}

// Pose is the problem as of now, over what is left on the nodes, which is not to be changed any more.
func (l *Learner) Pose(stock *Stock) *Problem {
	p := &Problem{counts: l.known, from: l.prices, stock: stock, steps: refineSteps}
	if p.counts == nil {
		p.counts = l.recent.Counts()
		p.steps = learnSteps
	}
	if l.solved == 0 {
		p.steps = firstSteps
	}
	l.solved = l.seen
	return p
}

// Solution is what came out.
type Solution struct {
	prices   potential.Prices
	strategy Strategy
}

// Solve finds prices and the strategy that goes with them. It ends early, with what it has, when ctx ends.
func (p *Problem) Solve(ctx context.Context) Solution {
	mix := potential.NewMix(p.counts)
	prices := potential.Solve(ctx, mix, p.stock.nodes, p.from, p.steps)
	t := potential.NewTable(mix, prices, p.stock.largest)
	for _, n := range p.stock.nodes {
		for _, g := range n.GPUs {
			t.Prepare(g.Model)
		}
	}
	return Solution{prices, Potential{t, NewMix(p.counts)}}
}

// Adopt makes the solution the strategy of now.
func (l *Learner) Adopt(s Solution) { l.prices, l.strategy = s.prices, s.strategy }
