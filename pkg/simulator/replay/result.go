package replay

import (
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// Result is what a replay measured. GPUs and GPU-hours are what pods hold, not what they use. The JSON names are documented in
// docs/simulator.md and stay.
type Result struct {
	Workload string `json:"workload"`
	Policy   string `json:"policy"`
	Strategy string `json:"strategy"`
	Nodes    int    `json:"nodes"`
	GPUs     int    `json:"gpus"`
	// Hours is how long it was measured for, Jobs how many arrived then and Gangs how many of those are of several pods.
	Hours float64 `json:"hours"`
	Jobs  int     `json:"jobs"`
	Gangs int     `json:"gangs"`
	// Finished of the jobs ended, Refused can never run or were dropped; what is left of them waits or runs for ever.
	Finished   int `json:"finished"`
	Unfinished int `json:"unfinished"`
	Refused    int `json:"refused"`
	// Seconds from the arrival to the first start, of all jobs and of gangs; nil when none started.
	WaitP50     *int64 `json:"wait_p50_seconds"`
	WaitP95     *int64 `json:"wait_p95_seconds"`
	GangWaitP50 *int64 `json:"gang_wait_p50_seconds"`
	GangWaitP95 *int64 `json:"gang_wait_p95_seconds"`
	// Seconds from the arrival to the end.
	JCTP50 *int64 `json:"jct_p50_seconds"`
	JCTP95 *int64 `json:"jct_p95_seconds"`
	// AllocMean is the mean of what is allocated, in percent of the nodes that are up.
	AllocMean float64 `json:"alloc_mean"`
	// Evictions are units that left for others, or because their queue's budget was used up; LostGPUHours is the work since their start.
	Evictions    int     `json:"evictions"`
	LostGPUHours float64 `json:"lost_gpu_hours"`
	// FailureGPUHours is the work that node failures cost.
	FailureGPUHours float64 `json:"failure_gpu_hours"`
	// QueueError is the largest of the queues' errors and QueueErrorOf whose it is; nil when no queue is entitled to anything.
	QueueError   *float64 `json:"queue_error"`
	QueueErrorOf string   `json:"queue_error_of"`
	Jain         *float64 `json:"jain_index"`
	// WaitingOver24h are the jobs that waited for more than a day, those that still do included.
	WaitingOver24h int `json:"waiting_over_24h"`
	// IncompleteGPUHours is what gangs held that had fewer members in place than they need.
	IncompleteGPUHours float64 `json:"incomplete_gang_gpu_hours"`
	Events             int     `json:"events"`
	// EventsPerSecond is by the wall clock: the one field that differs from run to run.
	EventsPerSecond float64       `json:"events_per_second"`
	Queues          []QueueResult `json:"queues"`
	Series          *Series       `json:"series,omitempty"`

	// RefusedWhere names the first jobs that can never run, with the reason.
	RefusedWhere []string `json:"-"`
	// Detail is for a report.
	Detail *Detail `json:"-"`
}

// QueueResult is what was measured of the jobs right in one queue; of "" for those in none.
type QueueResult struct {
	Queue string `json:"queue"`
	// Guaranteed is in GPUs, when nothing else is said by windows.
	Guaranteed float64 `json:"guaranteed_gpus"`
	Jobs       int     `json:"jobs"`
	WaitP50    *int64  `json:"wait_p50_seconds"`
	WaitP95    *int64  `json:"wait_p95_seconds"`
	// Used and Entitled are GPU-hours, and Error is |used - entitled| / entitled; nil when it is entitled to nothing.
	Used     float64  `json:"used_gpu_hours"`
	Entitled float64  `json:"entitled_gpu_hours"`
	Error    *float64 `json:"error"`
}

// Series is what happened over time, in at most 2000 points of equal length.
type Series struct {
	// Start is when the first begins, and StepSeconds how long each is; the last may be shorter.
	Start       time.Time `json:"start"`
	StepSeconds int64     `json:"step_seconds"`
	// Queues are the names that stand for the numbers in [Point.Queues].
	Queues []string `json:"queues"`
	Points []Point  `json:"points"`
}

// Point is the means over one step, GPUs in GPUs.
type Point struct {
	Allocated float64 `json:"allocated_gpus"`
	Capacity  float64 `json:"capacity_gpus"`
	// Waiting is the number of jobs that wait, and Wanted what those of them ask for that quota lets start.
	Waiting float64   `json:"waiting_jobs"`
	Wanted  float64   `json:"waiting_gpus"`
	Queues  []float64 `json:"queue_gpus"`
}

const milliHour = 1000 * 3600

func (e *engine) result() *Result {
	r := &Result{
		Workload: e.in.Name, Policy: e.policy.Name, Strategy: e.strategy, Nodes: len(e.nodes), GPUs: int(e.total / 1000),
		Hours: rounded(float64(e.seconds)/3600, 3), Jobs: e.jobs, Gangs: e.gangs, Finished: e.finished, Refused: e.refusedN,
		WaitP50: e.waits.quantile(50), WaitP95: e.waits.quantile(95), GangWaitP50: e.gangWaits.quantile(50), GangWaitP95: e.gangWaits.quantile(95),
		JCTP50: e.jcts.quantile(50), JCTP95: e.jcts.quantile(95), Evictions: e.evictions + e.drained,
		LostGPUHours: rounded(float64(e.lost)/milliHour, 3), FailureGPUHours: rounded(float64(e.failed)/milliHour, 3),
		WaitingOver24h: e.over24h, IncompleteGPUHours: rounded(float64(e.partialSum)/milliHour, 3), Events: e.events,
		RefusedWhere: e.refusedWhere,
	}
	r.Unfinished = r.Jobs - r.Finished - r.Refused
	for _, j := range e.waiting {
		if j.counts && j.first == 0 && e.now-j.At > day {
			r.WaitingOver24h++
		}
	}
	if e.capacitySum > 0 {
		r.AllocMean = rounded(100*float64(e.usedSum)/float64(e.capacitySum), 4)
	}
	n, sum, squares := 0.0, 0.0, 0.0
	for i := range e.queues {
		q := &e.queues[i]
		if q.name == "" && q.jobs == 0 && q.usedSum == 0 {
			continue
		}
		spec, _ := e.tree.Spec(q.name)
		out := QueueResult{
			Queue: q.name, Guaranteed: float64(spec.Guaranteed) / 1000, Jobs: q.jobs, WaitP50: q.waits.quantile(50), WaitP95: q.waits.quantile(95),
			Used: rounded(float64(q.usedSum)/milliHour, 3), Entitled: rounded(q.entitledSum/milliHour, 3),
		}
		if q.entitledSum > 0 {
			part := float64(q.usedSum) / q.entitledSum
			n, sum, squares = n+1, sum+part, squares+part*part
			miss := rounded(math.Abs(part-1), 4)
			out.Error = &miss
			if r.QueueError == nil || miss > *r.QueueError {
				r.QueueError, r.QueueErrorOf = &miss, q.name
			}
		}
		r.Queues = append(r.Queues, out)
	}
	if squares > 0 {
		jain := rounded(sum*sum/(n*squares), 4)
		r.Jain = &jain
	}
	r.Series = e.curve()
	r.Detail = e.detail(r)
	return r
}

// curve is the series as it is told.
func (e *engine) curve() *Series {
	s := &Series{Start: time.Unix(e.series.from, 0).UTC(), StepSeconds: e.series.step, Points: []Point{}}
	for i := range e.queues {
		s.Queues = append(s.Queues, e.queues[i].name)
	}
	for i := range e.series.points {
		p := &e.series.points[i]
		mean := func(sum int64, unit float64) float64 {
			return rounded(float64(sum)/float64(max(p.seconds, 1))/unit, 3)
		}
		point := Point{
			Allocated: mean(p.allocated, 1000), Capacity: mean(p.capacity, 1000), Waiting: mean(p.waiting, 1), Wanted: mean(p.wanted, 1000),
		}
		for _, q := range p.queues {
			point.Queues = append(point.Queues, mean(q, 1000))
		}
		s.Points = append(s.Points, point)
	}
	return s
}

// Table prints results for people, a column for each.
func Table(w io.Writer, results []*Result) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(name string, value func(*Result) string) {
		cells := []string{name}
		for _, r := range results {
			cells = append(cells, value(r))
		}
		fmt.Fprintln(t, strings.Join(cells, "\t"))
	}
	count := func(n func(*Result) int) func(*Result) string {
		return func(r *Result) string { return strconv.Itoa(n(r)) }
	}
	number := func(n func(*Result) float64) func(*Result) string {
		return func(r *Result) string { return strconv.FormatFloat(rounded(n(r), 2), 'f', 2, 64) }
	}
	two := func(p50, p95 func(*Result) *int64) func(*Result) string {
		return func(r *Result) string { return span(p50(r)) + " / " + span(p95(r)) }
	}
	row("POLICY", func(r *Result) string { return r.Policy })
	row("workload", func(r *Result) string { return r.Workload })
	row("nodes / GPUs", func(r *Result) string { return fmt.Sprintf("%d / %d", r.Nodes, r.GPUs) })
	row("jobs / gangs", func(r *Result) string { return fmt.Sprintf("%d / %d", r.Jobs, r.Gangs) })
	row("finished", count(func(r *Result) int { return r.Finished }))
	row("never run", count(func(r *Result) int { return r.Refused }))
	row("unfinished", count(func(r *Result) int { return r.Unfinished }))
	row("wait p50 / p95", two(func(r *Result) *int64 { return r.WaitP50 }, func(r *Result) *int64 { return r.WaitP95 }))
	row("gangs' wait p50 / p95", two(func(r *Result) *int64 { return r.GangWaitP50 }, func(r *Result) *int64 { return r.GangWaitP95 }))
	row("completion p50 / p95", two(func(r *Result) *int64 { return r.JCTP50 }, func(r *Result) *int64 { return r.JCTP95 }))
	row("waited over 24 h", count(func(r *Result) int { return r.WaitingOver24h }))
	row("allocated, mean %", number(func(r *Result) float64 { return r.AllocMean }))
	row("largest queue error", func(r *Result) string {
		if r.QueueError == nil {
			return "-"
		}
		return fmt.Sprintf("%.1f%% (%s)", 100**r.QueueError, r.QueueErrorOf)
	})
	row("Jain index", func(r *Result) string {
		if r.Jain == nil {
			return "-"
		}
		return strconv.FormatFloat(*r.Jain, 'f', 4, 64)
	})
	row("evictions", count(func(r *Result) int { return r.Evictions }))
	row("GPU-hours lost to evictions", number(func(r *Result) float64 { return r.LostGPUHours }))
	row("GPU-hours lost to failures", number(func(r *Result) float64 { return r.FailureGPUHours }))
	row("GPU-hours of incomplete gangs", number(func(r *Result) float64 { return r.IncompleteGPUHours }))
	row("events per second", number(func(r *Result) float64 { return r.EventsPerSecond }))
	return t.Flush()
}

// span is seconds for people.
func span(s *int64) string {
	if s == nil {
		return "-"
	}
	return (time.Duration(*s) * time.Second).String()
}
