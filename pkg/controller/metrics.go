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
		Help:           "Gangs by their phase, from the replica that leads. Those in phase Unknown are partial at the moment.",
		StabilityLevel: metrics.ALPHA,
	}, []string{"phase"})
	late = metrics.NewGauge(&metrics.GaugeOpts{
		Name:           "weft_gang_partly_bound",
		Help:           "Gangs that run in part for longer than their policy allows: members are to be evicted and could not be. To stay at 0.",
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
		legacyregistry.MustRegister(phases, late, evicted, duration)
		for _, p := range gang.Phases() {
			phases.WithLabelValues(string(p))
		}
		for _, r := range gang.Evictions() {
			evicted.WithLabelValues(string(r))
		}
	})
}

// countPhase moves the gang to what its phase is now.
func (g *known) countPhase() {
	if g.phase != "" {
		phases.WithLabelValues(string(g.phase)).Dec()
	}
	if g.phase = g.status.Phase; g.phase != "" {
		phases.WithLabelValues(string(g.phase)).Inc()
	}
}

// countLate says whether the gang runs in part though its policy says no more. One whose members leave at once does not count,
// or the gauge would rise with every eviction.
func (g *known) countLate(is bool) {
	switch {
	case is && !g.late:
		late.Inc()
	case !is && g.late:
		late.Dec()
	}
	g.late = is
}

// forget takes the gang out of the gauges.
func (g *known) forget() {
	if g.phase != "" {
		phases.WithLabelValues(string(g.phase)).Dec()
		g.phase = ""
	}
	g.countLate(false)
}
