package metrics

import (
	"sync"

	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/legacyregistry"
)

// Gated is pods of one queue that are held back for one reason.
type Gated struct {
	Queue, Reason string
	Pods          int
}

var queueGated = metrics.NewDesc("weft_queue_gated_pods",
	"Pods that wait because of their queue, by the reason that their condition PodScheduled has; no autoscaler acts on them.",
	[]string{"queue", "reason"}, nil, metrics.ALPHA, "")

type queuesCollector struct {
	metrics.BaseStableCollector
	gated func() []Gated
}

var registerQueues sync.Once

// RegisterQueues makes the pods that queues hold back visible; the function, which has each queue and reason once, is called at every
// scrape. Only the first call counts.
func RegisterQueues(gated func() []Gated) {
	registerQueues.Do(func() { legacyregistry.CustomMustRegister(&queuesCollector{gated: gated}) })
}

// DescribeWithStability implements metrics.StableCollector.
func (*queuesCollector) DescribeWithStability(ch chan<- *metrics.Desc) { ch <- queueGated }

// CollectWithStability implements metrics.StableCollector.
func (c *queuesCollector) CollectWithStability(ch chan<- metrics.Metric) {
	for _, g := range c.gated() {
		ch <- metrics.NewLazyConstMetric(queueGated, metrics.GaugeValue, float64(g.Pods), g.Queue, g.Reason)
	}
}
