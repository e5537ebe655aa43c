package gpufit

import (
	"cmp"
	"context"
	"slices"
	"sync"

	v1 "k8s.io/api/core/v1"

	"weft.sh/weft/pkg/apis/config"
	"weft.sh/weft/pkg/fit"
	"weft.sh/weft/pkg/podspec"
)

// learner follows the mix of requests and has the scores of the strategy that goes with it.
type learner struct {
	// process ends with the process; inline has what is dear computed at once, and not beside the work.
	process context.Context
	inline  bool

	mu      sync.Mutex
	learner *fit.Learner
	memo    *fit.Memo // of the learner's strategy
	solving bool
}

func newLearner(process context.Context, inline bool, args *config.GPUFitArgs) *learner {
	l := &learner{process: process, inline: inline, learner: fit.NewLearner(args.Strategy, int(args.MixWindow))}
	l.memo = fit.NewMemo(l.learner.Strategy())
	return l
}

// current is the memo of the strategy as of now.
func (l *learner) current() *fit.Memo {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.memo
}

// currentStrategy is the strategy as of now.
func (l *learner) currentStrategy() fit.Strategy {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.learner.Strategy()
}

// observe counts a request. When it is time, it has a strategy computed for what is left on the nodes: beside the work, one at
// a time, so that decisions go on by the strategy that there is. stock is called before observe returns, or not at all; nil
// says that the nodes are not known.
func (l *learner) observe(c fit.Class, stock func() *fit.Stock) {
	l.mu.Lock()
	defer l.mu.Unlock()
	changed, due := l.learner.Observe(c)
	if changed {
		l.memo = fit.NewMemo(l.learner.Strategy())
	}
	if !due || l.solving || stock == nil {
		return
	}
	problem := l.learner.Pose(stock())
	if l.inline {
		l.adopt(problem.Solve(l.process))
		return
	}
	l.solving = true
	go func() {
		solution := problem.Solve(l.process)
		l.mu.Lock()
		defer l.mu.Unlock()
		l.solving = false
		l.adopt(solution)
	}()
}

func (l *learner) adopt(s fit.Solution) {
	l.learner.Adopt(s)
	l.memo = fit.NewMemo(l.learner.Strategy())
}

// seed counts the pods that were scheduled, or tried, before this process started, oldest first: those that ask for GPUs,
// and those that name one of our schedulers.
func (l *learner) seed(pods []*v1.Pod, schedulerName string) {
	pods = slices.SortedFunc(slices.Values(pods), func(a, b *v1.Pod) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.UID, b.UID))
	})
	for _, p := range pods {
		if p.Spec.NodeName == "" && firstAttempt(p) {
			continue // will be counted when its turn comes
		}
		r, err := podspec.Request(p)
		if err == nil && (!r.Empty() || p.Spec.SchedulerName == schedulerName) {
			l.observe(fit.ClassOf(r, podspec.MilliCPU(p)), nil)
		}
	}
}

// firstAttempt reports whether no scheduler has tried the pod yet: the first failure leaves a condition.
func firstAttempt(p *v1.Pod) bool {
	return !slices.ContainsFunc(p.Status.Conditions, func(c v1.PodCondition) bool {
		return c.Type == v1.PodScheduled && c.Reason != v1.PodReasonSchedulingGated
	})
}
