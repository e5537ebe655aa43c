package steward

import (
	"sync"
	"sync/atomic"

	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/legacyregistry"

	"weft.sh/weft/pkg/quota"
)

var (
	gpusDesc = metrics.NewDesc("weft_queue_gpus",
		"GPUs of a queue and those below it: guaranteed, limit (none where there is none), running, borrowed, pending, and headroom, what its limits and those above still allow.",
		[]string{"queue", "state"}, nil, metrics.ALPHA, "")
	eligibleDesc = metrics.NewDesc("weft_queue_eligible_pending_gpus",
		"GPUs that pods wait for which neither quota nor budget holds back, by the class that they would be of at best: what an autoscaler should add.",
		[]string{"queue", "class"}, nil, metrics.ALPHA, "")
	hoursDesc = metrics.NewDesc("weft_queue_budget_gpu_hours",
		"GPU-hours of the queue's budget in this period: limit, used, held and left.",
		[]string{"queue", "state"}, nil, metrics.ALPHA, "")
	burnDesc = metrics.NewDesc("weft_queue_budget_burn_gpu_hours_per_day",
		"GPU-hours a day at the rate of the last day.", []string{"queue"}, nil, metrics.ALPHA, "")
	ratioDesc = metrics.NewDesc("weft_queue_budget_used_ratio",
		"Part of the budget that is used or held.", []string{"queue"}, nil, metrics.ALPHA, "")
	exhaustedDesc = metrics.NewDesc("weft_queue_budget_exhausted_timestamp_seconds",
		"When the budget is used up at the rate of the last day; absent when that is not before its period ends.",
		[]string{"queue"}, nil, metrics.ALPHA, "")
)

// gauge is what the metrics say of a queue.
type gauge struct {
	queue string
	facts
}

var (
	register sync.Once
	shown    atomic.Pointer[[]gauge]
)

// show replaces what the metrics say: a queue that is gone leaves no series.
func show(g []gauge) { shown.Store(&g) }

// registerMetrics makes the metrics visible. Repeating it changes nothing.
func registerMetrics() {
	register.Do(func() { legacyregistry.CustomMustRegister(&collector{}) })
}

type collector struct{ metrics.BaseStableCollector }

// DescribeWithStability implements metrics.StableCollector.
func (*collector) DescribeWithStability(ch chan<- *metrics.Desc) {
	for _, d := range []*metrics.Desc{gpusDesc, eligibleDesc, hoursDesc, burnDesc, ratioDesc, exhaustedDesc} {
		ch <- d
	}
}

// CollectWithStability implements metrics.StableCollector.
func (*collector) CollectWithStability(ch chan<- metrics.Metric) {
	all := shown.Load()
	if all == nil {
		return
	}
	for _, g := range *all {
		send := func(d *metrics.Desc, value float64, labels ...string) {
			ch <- metrics.NewLazyConstMetric(d, metrics.GaugeValue, value, append([]string{g.queue}, labels...)...)
		}
		send(gpusDesc, inGPUs(g.standing.Guaranteed), "guaranteed")
		if g.standing.Limit != quota.NoLimit {
			send(gpusDesc, inGPUs(g.standing.Limit), "limit")
		}
		send(gpusDesc, inGPUs(g.standing.Running), "running")
		send(gpusDesc, inGPUs(g.standing.Borrowed), "borrowed")
		send(gpusDesc, inGPUs(g.waiting.pending), "pending")
		if g.headroom != quota.NoLimit {
			send(gpusDesc, inGPUs(g.headroom), "headroom")
		}
		for class, n := range g.waiting.eligibleByClass {
			send(eligibleDesc, inGPUs(n), class)
		}
		if g.spec.Budget == nil {
			continue
		}
		a := g.assessment
		for state, n := range map[string]int64{"limit": a.Limit, "used": a.Used, "held": a.Held, "left": a.Left} {
			send(hoursDesc, inHours(n), state)
		}
		send(burnDesc, inHours(a.BurnPerDay))
		if a.Limit > 0 {
			send(ratioDesc, (float64(a.Used)+float64(a.Held))/float64(a.Limit))
		}
		if a.ExhaustedAt != 0 {
			send(exhaustedDesc, float64(a.ExhaustedAt))
		}
	}
}

// Metrics are floats by their format; nothing is computed with them.

func inGPUs(milli int64) float64 { return float64(milli) / 1000 }

func inHours(milliGPUSeconds int64) float64 { return float64(milliGPUSeconds) / 3_600_000 }
