// Package metrics has the metrics of the scheduler plugins. They are served with kube-scheduler's own, on its secure port
// at /metrics.
package metrics

import (
	"iter"
	"strconv"
	"sync"
	"time"

	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/legacyregistry"

	"weft.sh/weft/pkg/cluster"
	"weft.sh/weft/pkg/fit"
)

var (
	rejections = metrics.NewCounterVec(&metrics.CounterOpts{
		Name:           "weft_rejections_total",
		Help:           "Nodes refused for a pod, and pods refused, by the reason that `weft why` gives.",
		StabilityLevel: metrics.ALPHA,
	}, []string{"reason"})
	bindingsUnknown = metrics.NewCounter(&metrics.CounterOpts{
		Name:           "weft_bindings_unknown_total",
		Help:           "Bindings whose answer was lost or left it open, so that the API server had to be asked whether they succeeded.",
		StabilityLevel: metrics.ALPHA,
	})

	gangPlan = metrics.NewHistogram(&metrics.HistogramOpts{
		Name:           "weft_gang_plan_seconds",
		Help:           "Time to plan a whole gang, also where there is no room for it.",
		Buckets:        metrics.ExponentialBuckets(0.0005, 2, 15),
		StabilityLevel: metrics.ALPHA,
	})
	gangAttempts = metrics.NewCounterVec(&metrics.CounterOpts{
		Name: "weft_gang_attempts_total",
		Help: "Attempts to start a gang by result: planned, refused (no room), error (something changed meanwhile), and undone (planned, " +
			"and given back before any member was bound).",
		StabilityLevel: metrics.ALPHA,
	}, []string{"result"})
	gangWait = metrics.NewHistogram(&metrics.HistogramOpts{
		Name:           "weft_gang_wait_seconds",
		Help:           "Time from when the last member of a gang was created until all may be bound.",
		Buckets:        metrics.ExponentialBuckets(0.05, 2.5, 15),
		StabilityLevel: metrics.ALPHA,
	})
	gangDomains = metrics.NewHistogramVec(&metrics.HistogramOpts{
		Name:           "weft_gang_domains_used",
		Help:           "Topology domains that the plan of a gang uses, by level.",
		Buckets:        metrics.ExponentialBuckets(1, 2, 10),
		StabilityLevel: metrics.ALPHA,
	}, []string{"level"})
	gangPartial = metrics.NewCounter(&metrics.CounterOpts{
		Name:           "weft_gang_partial",
		Help:           "Gangs of which a member was given up after others may have been bound; always 0 unless the API server refuses bindings.",
		StabilityLevel: metrics.ALPHA,
	})
	gangPreemptions = metrics.NewCounter(&metrics.CounterOpts{
		Name:           "weft_gang_preemptions_total",
		Help:           "Times that pods were evicted so that a gang has room.",
		StabilityLevel: metrics.ALPHA,
	})
	gangVictims = metrics.NewCounter(&metrics.CounterOpts{
		Name:           "weft_gang_victims_total",
		Help:           "Pods that were evicted so that a gang has room.",
		StabilityLevel: metrics.ALPHA,
	})
	gangReserved = metrics.NewGauge(&metrics.GaugeOpts{
		Name:           "weft_gang_reserved",
		Help:           "Gangs that wait and for which places are kept.",
		StabilityLevel: metrics.ALPHA,
	})

	register sync.Once
	// byReason are the counters of rejections, looked up once: Filter counts for thousands of nodes a second.
	byReason = map[fit.Reason]metrics.CounterMetric{}
)

// Register makes the metrics visible. Repeating it changes nothing.
func Register() {
	register.Do(func() {
		legacyregistry.MustRegister(rejections, bindingsUnknown, gangPlan, gangAttempts, gangWait, gangDomains, gangPartial,
			gangPreemptions, gangVictims, gangReserved)
		for _, r := range fit.Reasons() {
			byReason[r] = rejections.WithLabelValues(r.String())
		}
		for _, result := range []string{GangWasPlanned, GangWasRefused, GangErred, GangWasUndone} {
			gangAttempts.WithLabelValues(result)
		}
	})
}

// Rejected counts a rejection. Before Register it does nothing.
func Rejected(r fit.Reason) {
	if c, ok := byReason[r]; ok {
		c.Inc()
	}
}

// BindingUnknown counts a binding whose answer was lost.
func BindingUnknown() { bindingsUnknown.Inc() }

// GangPlanned records how long it took to plan a gang.
func GangPlanned(d time.Duration) { gangPlan.Observe(d.Seconds()) }

// The results of an attempt to start a gang.
const (
	GangWasPlanned = "planned"
	// GangWasRefused: there is no room.
	GangWasRefused = "refused"
	// GangErred: something changed meanwhile.
	GangErred = "error"
	// GangWasUndone: it was planned, and everything was given back before any member was bound.
	GangWasUndone = "undone"
)

// GangAttempt counts an attempt to start a gang by its result.
func GangAttempt(result string) { gangAttempts.WithLabelValues(result).Inc() }

// GangReleased records how long a gang was complete until its members may be bound.
func GangReleased(wait time.Duration) { gangWait.Observe(wait.Seconds()) }

// GangDomains records how many domains a plan uses at each level.
func GangDomains(levels iter.Seq2[string, int]) {
	for level, n := range levels {
		gangDomains.WithLabelValues(level).Observe(float64(n))
	}
}

// GangPreempted counts a preemption with so many victims.
func GangPreempted(victims int) {
	gangPreemptions.Inc()
	gangVictims.Add(float64(victims))
}

// GangsReserved records for how many gangs places are kept.
func GangsReserved(n int) { gangReserved.Set(float64(n)) }

// GangPartial counts a gang that was released and not bound whole.
func GangPartial() { gangPartial.Inc() }

var (
	gpuAssigned = metrics.NewDesc("weft_gpu_assigned_milligpu",
		"Part of a GPU that pods hold, in thousandths: 1000 when it is held whole; for a GPU in MIG mode the part of its memory slices that instances take.",
		[]string{"node", "gpu", "product"}, nil, metrics.ALPHA, "")
	gpuMemory = metrics.NewDesc("weft_gpu_assigned_memory_mebibytes",
		"Memory of a shared GPU that pods hold.",
		[]string{"node", "gpu", "product"}, nil, metrics.ALPHA, "")
	gpuHealthy = metrics.NewDesc("weft_gpu_healthy",
		"1 for a GPU that can be given to pods, 0 for one that its node reports unhealthy.",
		[]string{"node", "gpu", "product"}, nil, metrics.ALPHA, "")
	instanceAssigned = metrics.NewDesc("weft_mig_instance_assigned",
		"1 for every MIG instance that a pod holds; start is its first memory slice.",
		[]string{"node", "gpu", "profile", "start"}, nil, metrics.ALPHA, "")
	withheld = metrics.NewDesc("weft_gpus_withheld",
		"GPUs and MIG instances of a node held back for pods that hold nobody knows which.",
		[]string{"node"}, nil, metrics.ALPHA, "")
	conflicts = metrics.NewDesc("weft_gpu_conflicts",
		"GPUs of a node that are given out more than they have; always 0 unless somebody else writes assignments.",
		[]string{"node"}, nil, metrics.ALPHA, "")
)

// nodesCollector shows the state of the GPUs at the moment of a scrape.
type nodesCollector struct {
	metrics.BaseStableCollector
	nodes func() []*cluster.Node
}

// RegisterNodes makes the state of the nodes visible; the function is called at every scrape. Only the first call counts.
func RegisterNodes(nodes func() []*cluster.Node) {
	registerNodes.Do(func() { legacyregistry.CustomMustRegister(&nodesCollector{nodes: nodes}) })
}

var registerNodes sync.Once

// DescribeWithStability implements metrics.StableCollector.
func (*nodesCollector) DescribeWithStability(ch chan<- *metrics.Desc) {
	for _, d := range []*metrics.Desc{gpuAssigned, gpuMemory, gpuHealthy, instanceAssigned, withheld, conflicts} {
		ch <- d
	}
}

// CollectWithStability implements metrics.StableCollector.
func (c *nodesCollector) CollectWithStability(ch chan<- metrics.Metric) {
	gauge := func(d *metrics.Desc, v int64, labels ...string) {
		ch <- metrics.NewLazyConstMetric(d, metrics.GaugeValue, float64(v), labels...)
	}
	for _, n := range c.nodes() {
		for i := range n.GPUs {
			g := &n.GPUs[i]
			labels := []string{n.Name, string(g.ID), g.Product}
			gauge(gpuAssigned, n.AssignedMilliGPU(i), labels...)
			gauge(gpuMemory, n.AssignedMemoryMiB(i), labels...)
			healthy := int64(1)
			if g.Unhealthy {
				healthy = 0
			}
			gauge(gpuHealthy, healthy, labels...)
			for k, inst := range g.Used {
				// Pods that hold the same place, a conflict, are still one series: a second would make the whole scrape fail.
				// Used is sorted by start and profile.
				if k > 0 && g.Used[k-1].Profile == inst.Profile && g.Used[k-1].Start == inst.Start {
					continue
				}
				gauge(instanceAssigned, 1, n.Name, string(g.ID), inst.Profile, strconv.Itoa(inst.Start))
			}
		}
		gauge(withheld, int64(n.Withheld.GPUs+len(n.Withheld.Profiles)), n.Name)
		gauge(conflicts, int64(len(n.Conflicts())), n.Name)
	}
}
