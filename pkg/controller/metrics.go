package controller

import (
	"sync"

	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/legacyregistry"

	"weft.sh/weft/pkg/gang"
)

var (
	phases = metrics.NewGaugeVec(&metrics.GaugeOpts{
		Name:           "weft_gang_phase",
		Help:           "Gangs of PodGroups of scheduling.x-k8s.io by their phase, from the replica that leads.",
		StabilityLevel: metrics.ALPHA,
	}, []string{"phase"})
	partial = metrics.NewGauge(&metrics.GaugeOpts{
		Name:           "weft_gang_partly_bound",
		Help:           "Gangs of which some members have a place, and fewer than the minimum.",
		StabilityLevel: metrics.ALPHA,
	})
	evicted = metrics.NewCounterVec(&metrics.CounterOpts{
		Name:           "weft_gang_evicted_total",
		Help:           "Gangs whose members were evicted, by why.",
		StabilityLevel: metrics.ALPHA,
	}, []string{"reason"})
	duration = metrics.NewHistogram(&metrics.HistogramOpts{
		Name:           "weft_gang_reconcile_duration_seconds",
		Help:           "Time to judge a gang and to do what follows.",
		Buckets:        metrics.ExponentialBuckets(0.0001, 4, 9),
		StabilityLevel: metrics.ALPHA,
	})

	register sync.Once
)

// registerMetrics makes the metrics visible. Repeating it changes nothing.
func registerMetrics() {
	register.Do(func() {
		legacyregistry.MustRegister(phases, partial, evicted, duration)
		for _, p := range gang.Phases() {
			phases.WithLabelValues(string(p))
		}
		for _, r := range gang.Evictions() {
			evicted.WithLabelValues(string(r))
		}
	})
}

// count moves the gang to what its status is now in the gauges; forget takes it out of them.
func (g *known) count(spec gang.Spec) {
	g.forget()
	g.phase = g.status.Phase
	g.partial = g.status.Scheduled > g.status.Succeeded && g.status.Scheduled < spec.Min
	phases.WithLabelValues(string(g.phase)).Inc()
	if g.partial {
		partial.Inc()
	}
}

func (g *known) forget() {
	if g.phase != "" {
		phases.WithLabelValues(string(g.phase)).Dec()
	}
	if g.partial {
		partial.Dec()
	}
	g.phase, g.partial = "", false
}
