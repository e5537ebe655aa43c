package accounts

import (
	"sync"

	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/legacyregistry"
)

var (
	watermark = metrics.NewGauge(&metrics.GaugeOpts{
		Name:           "weft_ledger_as_of_timestamp_seconds",
		Help:           "The moment up to which everything is charged. Where it stays behind the clock by more than a tick, the ledger cannot be written.",
		StabilityLevel: metrics.ALPHA,
	})
	failed = metrics.NewCounter(&metrics.CounterOpts{
		Name:           "weft_ledger_failures_total",
		Help:           "Ticks in which the ledger could not be read or written.",
		StabilityLevel: metrics.ALPHA,
	})
	refused = metrics.NewCounter(&metrics.CounterOpts{
		Name:           "weft_ledger_refused_pods_total",
		Help:           "Pods that are not charged any more because they contradict what is on the books. To stay at 0.",
		StabilityLevel: metrics.ALPHA,
	})

	register sync.Once
)

// registerMetrics makes the metrics visible. Repeating it changes nothing.
func registerMetrics() {
	register.Do(func() { legacyregistry.MustRegister(watermark, failed, refused) })
}
