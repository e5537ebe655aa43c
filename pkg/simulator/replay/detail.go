package replay

import (
	"maps"
	"slices"
)

// Detail is what a report shows of a run and the figures of a [Result] do not: how waits and completion times are spread.
type Detail struct {
	// Queues are those of the result, in its order.
	Queues []QueueDetail
	// Gangs are by size.
	Gangs []GangDetail
}

// QueueDetail is of the jobs right in one queue; nil where none started, and none ended.
type QueueDetail struct {
	Queue            string
	Wait, Completion *Spread
}

// GangDetail is of the gangs of one size.
type GangDetail struct {
	// GPUs is what all members together ask for, rounded up.
	GPUs, Count int
	Wait        *Spread
}

// Spread is percentiles of seconds.
type Spread struct{ Least, P25, P50, P75, P95, Most int64 }

// spread is nil without any.
func (h *histogram) spread() *Spread {
	if h.n == 0 {
		return nil
	}
	return &Spread{*h.quantile(0), *h.quantile(25), *h.quantile(50), *h.quantile(75), *h.quantile(95), *h.quantile(100)}
}

// gangCount is what is counted of the gangs of one size.
type gangCount struct {
	jobs  int
	waits histogram
}

// gangsOf is the count of gangs as large as this one.
func (m *measure) gangsOf(j *job) *gangCount {
	gpus := int((int64(j.Members)*j.MilliGPU + 999) / 1000)
	c := m.gangSizes[gpus]
	if c == nil {
		c = &gangCount{}
		m.gangSizes[gpus] = c
	}
	return c
}

// detail is of the queues that the result has.
func (m *measure) detail(r *Result) *Detail {
	d := &Detail{}
	for _, q := range r.Queues {
		c := &m.queues[m.index[q.Queue]]
		d.Queues = append(d.Queues, QueueDetail{Queue: q.Queue, Wait: c.waits.spread(), Completion: c.jcts.spread()})
	}
	for _, gpus := range slices.Sorted(maps.Keys(m.gangSizes)) {
		c := m.gangSizes[gpus]
		d.Gangs = append(d.Gangs, GangDetail{GPUs: gpus, Count: c.jobs, Wait: c.waits.spread()})
	}
	return d
}
