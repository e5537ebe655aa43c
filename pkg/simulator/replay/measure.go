package replay

import (
	"math"
	"math/bits"
	"slices"
)

// measure is what is counted.
type measure struct {
	from, to int64 // to is 0 for up to the end
	events   int
	queues   []queueCount // by name
	index    map[string]int
	// stale says that the entitlements have to be computed anew.
	stale                            bool
	jobs, gangs, finished, refusedN  int
	refusedWhere                     []string
	evictions, drained               int
	lost, failed                     int64 // milli-GPU-seconds
	waits, gangWaits, jcts           histogram
	gangSizes                        map[int]*gangCount // by GPUs
	over24h                          int
	seconds                          int64
	usedSum, capacitySum, partialSum int64 // milli-GPU-seconds
	series                           series
}

// queueCount is what is counted of the jobs right in a queue.
type queueCount struct {
	name string
	// used and wanted are now: what pods hold, and what jobs that quota lets start wait for.
	used, wanted int64
	entitled     float64
	usedSum      int64
	entitledSum  float64
	jobs         int
	waits, jcts  histogram
}

func (m *measure) open(in *Input, queues []string) {
	*m = measure{from: in.From, to: in.To, index: map[string]int{}, gangSizes: map[int]*gangCount{}, stale: true}
	for i, name := range queues {
		m.queues = append(m.queues, queueCount{name: name})
		m.index[name] = i
	}
	m.series.open(in.From, len(queues))
}

// queueNames are all queues, and "" for jobs of none.
func (e *engine) queueNames() []string {
	return append([]string{""}, e.tree.Names()...)
}

func (m *measure) within(at int64) bool { return at >= m.from && (m.to == 0 || at < m.to) }

// queue is that of the job; jobs of a queue that does not exist are refused.
func (m *measure) queue(j *job) *queueCount {
	return &m.queues[m.index[j.Queue]]
}

// elapse moves the time on: nothing changes up to that moment.
func (e *engine) elapse(to int64) {
	from := max(e.now, e.from)
	until := to
	if e.to > 0 {
		until = min(until, e.to)
	}
	if until > from {
		e.count(until - from)
		e.series.add(e, from, until)
	}
	for _, a := range e.accounts {
		a.charge(e.now, to)
	}
	e.now = to
	e.keep(to)
}

// count adds so many seconds of the state as it is.
func (e *engine) count(seconds int64) {
	capacity := e.capacityNow()
	if e.stale {
		list, own := e.claimants()
		entitle(list, float64(capacity))
		for i := range e.queues {
			e.queues[i].entitled = list[own[i]].entitled
		}
		e.stale = e.turning // where shares change with the time they are asked for each time
	}
	e.seconds += seconds
	e.capacitySum += capacity * seconds
	e.partialSum += e.incomplete * seconds
	for i := range e.queues {
		q := &e.queues[i]
		e.usedSum += q.used * seconds
		q.usedSum += q.used * seconds
		q.entitledSum += q.entitled * float64(seconds)
	}
}

// sawArrival counts a job that arrives.
func (m *measure) sawArrival(j *job) {
	if !j.counts {
		return
	}
	m.jobs++
	if j.Members > 1 {
		m.gangs++
		m.gangsOf(j).jobs++
	}
	if i, ok := m.index[j.Queue]; ok {
		m.queues[i].jobs++
	}
}

// sawWaiting counts what a job wants that waits; nothing while quota does not let it start.
func (m *measure) sawWaiting(j *job, sign int64) {
	if !j.held {
		m.queue(j).wanted += sign * int64(j.Members-len(j.pods)) * j.MilliGPU
	}
	m.stale = true
}

// sawUse counts a pod that comes or goes.
func (m *measure) sawUse(j *job, sign int64) {
	m.queue(j).used += sign * j.MilliGPU
	m.stale = true
}

const day = 24 * 3600

// sawStart counts the first start of a job.
func (m *measure) sawStart(j *job) {
	if !j.counts {
		return
	}
	wait := j.first - j.At
	m.waits.add(wait)
	m.queue(j).waits.add(wait)
	if j.Members > 1 {
		m.gangWaits.add(wait)
		m.gangsOf(j).waits.add(wait)
	}
	if wait > day {
		m.over24h++
	}
}

func (e *engine) sawEnd(j *job) {
	if j.counts {
		e.finished++
		e.jcts.add(e.now - j.At)
		e.queue(j).jcts.add(e.now - j.At)
	}
}

// sawLost counts the work of so many pods of the job that is lost, by eviction or by a failure.
func (e *engine) sawLost(j *job, pods int, evicted bool) {
	if j.at < 0 {
		return
	}
	work := int64(pods) * j.MilliGPU * (e.now - j.started)
	if !e.within(e.now) {
		return
	}
	if evicted {
		e.lost += work
	} else {
		e.failed += work
	}
}

// refuse counts a job that never runs.
func (e *engine) refuse(j *job) {
	if !j.counts {
		return
	}
	e.refusedN++
	if len(e.refusedWhere) < maxRefusedWhere && !e.in.Drop {
		e.refusedWhere = append(e.refusedWhere, j.Where+": job "+j.Name+": "+e.why(j))
	}
}

// maxRefusedWhere is how many of the jobs that never run are named.
const maxRefusedWhere = 10

// why says why the job never runs.
func (e *engine) why(j *job) string {
	if v := e.book.Admit(j.claims); !v.OK() {
		return v.Message()
	}
	return "it fits no node, or its gang not all of them together, even when nothing else runs"
}

// histogram counts durations: to the second below subBuckets, with a relative error below 1 in subBuckets above. Its size is bounded.
type histogram struct {
	counts []int64
	n      int64
}

const (
	subBits    = 11
	subBuckets = 1 << subBits
)

func bucketOf(v int64) int {
	if v < subBuckets {
		return int(max(v, 0))
	}
	shift := bits.Len64(uint64(v)) - subBits - 1
	return (shift+1)<<subBits + int(v>>shift) - subBuckets
}

// leastOf is the least value of a bucket.
func leastOf(b int) int64 {
	if b < subBuckets {
		return int64(b)
	}
	shift := b>>subBits - 1
	return int64(b&(subBuckets-1)+subBuckets) << shift
}

func (h *histogram) add(v int64) {
	b := bucketOf(v)
	if b >= len(h.counts) {
		h.counts = append(h.counts, make([]int64, b+1-len(h.counts))...)
	}
	h.counts[b]++
	h.n++
}

// quantile is the least value that so many percent of all are not above; nil without any.
func (h *histogram) quantile(percent int64) *int64 {
	if h.n == 0 {
		return nil
	}
	rank, sum := (h.n*percent+99)/100, int64(0)
	for b, n := range h.counts {
		if sum += n; sum >= max(rank, 1) {
			v := leastOf(b)
			return &v
		}
	}
	return nil
}

// series is a curve over time of bounded length: when it is full two points become one.
type series struct {
	from, step int64
	points     []sums
	queues     int
}

// sums are integrals over one step.
type sums struct {
	seconds, allocated, capacity, waiting, wanted int64
	queues                                        []int64
}

// maxPoints bounds a series.
const maxPoints = 2000

func (s *series) open(from int64, queues int) { *s = series{from: from, step: 60, queues: queues} }

// add adds the state from one moment to another, in which it is the same.
func (s *series) add(e *engine, from, to int64) {
	for (to-1-s.from)/s.step >= maxPoints {
		s.halve()
	}
	for from < to {
		i := int((from - s.from) / s.step)
		end := min(to, s.from+int64(i+1)*s.step)
		for len(s.points) <= i {
			s.points = append(s.points, sums{queues: make([]int64, s.queues)})
		}
		p, d := &s.points[i], end-from
		p.seconds += d
		p.capacity += e.capacityNow() * d
		p.waiting += int64(len(e.waiting)) * d
		for k := range e.queues {
			q := &e.queues[k]
			p.allocated += q.used * d
			p.wanted += q.wanted * d
			p.queues[k] += q.used * d
		}
		from = end
	}
}

// halve makes one point of two.
func (s *series) halve() {
	for i := 0; i < len(s.points); i += 2 {
		p := s.points[i]
		if i+1 < len(s.points) {
			o := &s.points[i+1]
			p.seconds += o.seconds
			p.allocated += o.allocated
			p.capacity += o.capacity
			p.waiting += o.waiting
			p.wanted += o.wanted
			for k := range p.queues {
				p.queues[k] += o.queues[k]
			}
		}
		s.points[i/2] = p
	}
	s.points = slices.Clip(s.points[:(len(s.points)+1)/2])
	s.step *= 2
}

// rounded has so many decimal places.
func rounded(v float64, places int) float64 {
	p := math.Pow10(places)
	return math.Round(v*p) / p
}
