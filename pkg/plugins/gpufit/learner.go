package gpufit

import (
	"cmp"
	"slices"
	"sync"

	v1 "k8s.io/api/core/v1"

	"weft.sh/weft/pkg/apis/config"
	"weft.sh/weft/pkg/fit"
	"weft.sh/weft/pkg/podspec"
)

// learner follows the mix of requests and has the scores of the strategy that goes with it.
type learner struct {
	strategy string

	mu     sync.Mutex
	recent *fit.Recent
	rates  fit.Strategy
	memo   *fit.Memo // of rates
}

func newLearner(args *config.GPUFitArgs) *learner {
	l := &learner{strategy: args.Strategy, recent: fit.NewRecent(int(args.MixWindow))}
	l.refresh()
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
	return l.rates
}

// observe counts a request.
func (l *learner) observe(c fit.Class) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.recent.Observe(c) {
		l.refresh()
	}
}

func (l *learner) refresh() {
	if l.memo != nil && !fit.LearnsFromMix(l.strategy) {
		return
	}
	s, err := fit.NewStrategy(l.strategy, l.recent.Mix())
	if err != nil {
		s = fit.BestFit{} // validated arguments name a strategy; if not, any is better than none
	}
	l.rates, l.memo = s, fit.NewMemo(s)
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
			l.observe(fit.ClassOf(r, podspec.MilliCPU(p)))
		}
	}
}

// firstAttempt reports whether no scheduler has tried the pod yet: the first failure leaves a condition.
func firstAttempt(p *v1.Pod) bool {
	return !slices.ContainsFunc(p.Status.Conditions, func(c v1.PodCondition) bool {
		return c.Type == v1.PodScheduled && c.Reason != v1.PodReasonSchedulingGated
	})
}
