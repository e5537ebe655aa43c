package replay

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"time"

	"weft.sh/weft/pkg/fit"
	"weft.sh/weft/pkg/gang"
	"weft.sh/weft/pkg/quota"
)

// job is a job in the simulation, from its arrival to its end.
type job struct {
	Job
	seq int
	// counts says that it arrived in the time that is measured.
	counts bool
	// run is how many times it was started.
	run int
	// queued is since when it waits, started when its run began, first when its first did; started and first are 0 before.
	queued, started, first int64
	// evicted is when it was last, 0 for never.
	evicted int64
	// pods are those on nodes, in the order of the members; at is where it stands among those that run, -1 for one that does not.
	pods []pod
	at   int
	// claims are those of the minimum.
	claims quota.Job
	// held says that quota does not let it start, denied that it was not its turn.
	held, denied bool
	// tried is the state of what is free at which it found no place, see engine.freed; 0 for none.
	tried uint64
	// shape is equal for jobs that find a place or not together.
	shape string
}

// pod is a member on a node.
type pod struct {
	uid    string
	node   int
	member int
}

func (j *job) key() gang.Key { return gang.Key{Name: j.Name + "#" + strconv.Itoa(j.seq)} }

func (j *job) uid(member int) string {
	return "j" + strconv.Itoa(j.seq) + "." + strconv.Itoa(j.run) + "-" + strconv.Itoa(member)
}

// before is the order in which jobs wait.
func (j *job) before(o *job) int {
	return cmp.Or(cmp.Compare(o.Priority, j.Priority), cmp.Compare(j.queued, o.queued), cmp.Compare(j.seq, o.seq))
}

// ends is when the job has ended if it starts at that moment, by what it says; zero when it says nothing.
func (j *job) ends(at int64) time.Time {
	if j.Stated <= 0 {
		return time.Time{}
	}
	return time.Unix(at+j.Stated, 0)
}

// engine is one run.
type engine struct {
	in     *Input
	policy Policy
	now    int64
	agenda agenda
	wakes  map[int64]bool

	arrivals func() (Job, error, bool)
	next     *Job // the one that arrives next
	arrived  int

	state
	books
	measure
	learning

	waiting []*job // in their order
	running []*job
	// freed counts what may give room to those that wait: a job that was refused at the same count is refused again.
	freed uint64
	// changed counts what changes who holds what.
	changed uint64
	holds   []*hold
	views   map[uint64]view // by the holds that bind; as of viewed
	viewed  uint64          // what changed was
	rests   map[*job]int64
	refused map[string][]uint64 // by shape, at freed: the holds that bound who was refused
	vain    map[string]bool     // by queue, priority and shape, at freed: nobody can leave for such a job

	// progress tells how far it is; nil for nobody. after is for tests, which look at the state after each second.
	progress func(Progress)
	after    func() error
}

// Progress is how far a run is.
type Progress struct {
	Policy string
	// Now is virtual time in Unix seconds.
	Now             int64
	Events          int
	Waiting, Active int
}

// Run replays the input by a policy and a strategy of package fit.
func Run(ctx context.Context, in *Input, policy Policy, strategy string, progress func(Progress)) (*Result, error) {
	e, err := newEngine(in, policy, strategy)
	if err != nil {
		return nil, err
	}
	e.progress = progress
	began := time.Now()
	if err := e.simulate(ctx); err != nil {
		return nil, err
	}
	r := e.result()
	if s := time.Since(began).Seconds(); s > 0 {
		r.EventsPerSecond = rounded(float64(r.Events)/s, 0)
	}
	return r, nil
}

func newEngine(in *Input, policy Policy, strategy string) (*engine, error) {
	e := &engine{
		in: in, policy: policy, now: in.Start, wakes: map[int64]bool{}, rests: map[*job]int64{}, freed: 1,
	}
	if err := e.learning.open(strategy); err != nil {
		return nil, err
	}
	e.state.open(in)
	if err := e.books.open(in); err != nil {
		return nil, err
	}
	e.measure.open(in, e.queueNames())
	index := map[string]int{}
	for i := range e.nodes {
		index[e.nodes[i].Name] = i
	}
	for _, o := range in.Outages {
		i, ok := index[o.Node]
		if !ok {
			return nil, fmt.Errorf("an outage is of node %q, which does not exist", o.Node)
		}
		e.agenda.add(event{at: o.At, kind: nodeFails, node: i})
		if o.Until > 0 {
			e.agenda.add(event{at: o.Until, kind: nodeReturns, node: i})
		}
	}
	e.bump()
	return e, nil
}

// maxSeconds is 20 years of virtual time, after which it ends whatever still waits or runs: a job that is evicted each time that its
// queue's budget is used up may never end.
const maxSeconds = 20 * 366 * day

// simulate runs until nothing is to happen any more.
func (e *engine) simulate(ctx context.Context) error {
	next, stop := iter.Pull2(e.in.Jobs)
	defer stop()
	e.arrivals = next
	if err := e.read(); err != nil {
		return err
	}
	for seconds := 0; ; seconds++ {
		if seconds%256 == 0 {
			if err := ctx.Err(); err != nil {
				return err
			}
			if e.progress != nil {
				e.progress(Progress{e.policy.Name, e.now, e.events, len(e.waiting), len(e.running)})
			}
		}
		at, ok := e.upcoming()
		if !ok || at > e.in.Start+maxSeconds {
			e.elapse(max(e.now, e.to)) // nothing happens in the rest of what is measured
			return nil
		}
		e.elapse(at)
		for len(e.agenda.of) > 0 && e.agenda.of[0].at == at {
			e.happen(e.agenda.next())
		}
		for e.next != nil && e.next.At == at {
			if err := e.arrive(ctx); err != nil {
				return err
			}
		}
		if err := e.drain(); err != nil {
			return err
		}
		e.decide()
		e.expectTurns()
		if e.after != nil {
			if err := e.after(); err != nil {
				return err
			}
		}
	}
}

// upcoming is when something happens next, false when nothing does that could matter.
func (e *engine) upcoming() (int64, bool) {
	if e.next == nil && len(e.running) == 0 && (len(e.waiting) == 0 || e.vainTurns > maxVainTurns) {
		if !slices.ContainsFunc(e.agenda.of, func(v event) bool { return v.kind == nodeReturns }) || len(e.waiting) == 0 {
			return 0, false
		}
	}
	at, ok := int64(0), false
	if e.next != nil {
		at, ok = e.next.At, true
	}
	if len(e.agenda.of) > 0 && (!ok || e.agenda.of[0].at < at) {
		at, ok = e.agenda.of[0].at, true
	}
	return at, ok
}

// read reads the next job.
func (e *engine) read() error {
	last := e.in.Start
	if e.next != nil {
		last = e.next.At
	}
	e.next = nil
	j, err, ok := e.arrivals()
	if !ok {
		return nil
	}
	if err != nil {
		return err
	}
	if j.At < last {
		return fmt.Errorf("%s: job %s arrives at %s, before the one before it or the start at %s: want jobs in the order of their time",
			j.Where, j.Name, moment(j.At), moment(last))
	}
	if j.Runtime < 1 || j.Members < 1 || j.Min < 1 || j.Min > j.Members {
		return fmt.Errorf("%s: job %s runs %d s with %d of %d members: want at least 1 s and 1 of 1", j.Where, j.Name, j.Runtime, j.Min, j.Members)
	}
	e.next = &j
	return nil
}

func moment(at int64) string { return time.Unix(at, 0).UTC().Format(time.DateTime) }

// arrive takes the next job in.
func (e *engine) arrive(ctx context.Context) error {
	j := &job{Job: *e.next, seq: e.arrived, at: -1, queued: e.now}
	j.counts = e.within(e.now)
	e.arrived++
	e.events++
	if err := e.read(); err != nil {
		return err
	}
	j.shape = fmt.Sprintf("%s|%d|%d|%d|%d|%s|%s", j.Request.Shape(), j.Members, j.Min, j.MilliCPU, j.MemoryMiB, j.Required, j.Preferred)
	e.observe(ctx, fit.ClassOf(j.Request, j.MilliCPU), j.Members)
	e.sawArrival(j)
	e.claim(j)
	if never := e.never(j); never {
		e.refuse(j)
		return nil
	}
	e.enqueue(j)
	return nil
}

// enqueue makes the job one that waits.
func (e *engine) enqueue(j *job) {
	i, _ := slices.BinarySearchFunc(e.waiting, j, (*job).before)
	e.waiting = slices.Insert(e.waiting, i, j)
	e.sawWaiting(j, 1)
}

// dequeue makes it one that does not.
func (e *engine) dequeue(j *job) {
	i, _ := slices.BinarySearchFunc(e.waiting, j, (*job).before)
	e.waiting = slices.Delete(e.waiting, i, i+1)
	e.sawWaiting(j, -1)
}

// happen does what the event says.
func (e *engine) happen(v event) {
	switch v.kind {
	case jobEnds:
		if v.job.run != v.run || v.job.at < 0 {
			return // it was evicted since
		}
		e.events++
		e.end(v.job)
	case nodeReturns:
		e.events++
		e.setDown(v.node, false)
		e.bump()
	case nodeFails:
		e.events++
		e.fail(v.node)
	case timeTurns:
		e.events++
		delete(e.wakes, v.at)
		e.expire()
		e.bump()
	}
}

// wake has everything looked at again at that time.
func (e *engine) wake(at int64) {
	if at > e.now && !e.wakes[at] {
		e.wakes[at] = true
		e.agenda.add(event{at: at, kind: timeTurns})
	}
}

// bump notes that something may have room that had none.
func (e *engine) bump() {
	e.freed++
	e.refused, e.vain, e.views = map[string][]uint64{}, map[string]bool{}, nil
}

// start binds the members that have a place: of those above the minimum as many as the queue allows.
func (e *engine) start(j *job, places []place) {
	e.dequeue(j)
	e.changed++
	e.vainTurns = 0
	for i, p := range places {
		if i >= j.Min && !e.book.Admit(quota.Job{e.claimOf(j, p.member)}).OK() {
			continue
		}
		e.bindPod(j, p)
	}
	e.begin(j)
}

// bindPod puts a member on its node, at its queue's charge.
func (e *engine) bindPod(j *job, p place) {
	claim := e.claimOf(j, p.member)
	e.bind(j, p)
	claim.Start, claim.Class = e.now, e.nodes[p.node].class
	e.book.Set(claim)
	e.sawUse(j, 1)
	for _, a := range e.charged[j.Queue] {
		a.rate += j.MilliGPU
	}
}

// begin is the start of a job whose pods are bound.
func (e *engine) begin(j *job) {
	j.started = e.now
	if j.first == 0 {
		j.first = e.now
		e.sawStart(j)
	}
	j.at = len(e.running)
	e.running = append(e.running, j)
	e.agenda.add(event{at: e.now + j.Runtime, kind: jobEnds, job: j, run: j.run})
	if h := e.holdOf(j); h != nil {
		e.drop(h)
	}
	delete(e.rests, j)
}

// stop takes a job from its nodes. Its claims end; they are on the books by the next second.
func (e *engine) stop(j *job) {
	for len(j.pods) > 0 {
		e.release(j, len(j.pods)-1)
	}
	last := len(e.running) - 1
	e.running[j.at] = e.running[last]
	e.running[j.at].at = j.at
	e.running = e.running[:last]
	j.at = -1
	e.changed++
	e.bump()
}

// release takes one pod of the job from its node.
func (e *engine) release(j *job, i int) {
	p := j.pods[i]
	e.unbind(j, i)
	e.endClaim(p.uid)
	e.sawUse(j, -1)
	for _, a := range e.charged[j.Queue] {
		a.rate -= j.MilliGPU
	}
}

func (e *engine) end(j *job) {
	e.sawEnd(j)
	e.stop(j)
}

// again has a job wait that was stopped before its end.
func (e *engine) again(j *job) {
	e.stop(j)
	j.run++
	j.queued, j.tried = e.now, 0
	e.claim(j)
	e.enqueue(j)
}

// fail takes a node away. Gangs that can do without the members that they lose go on.
func (e *engine) fail(n int) {
	e.setDown(n, true)
	for _, j := range append(e.bySeq(), slices.Clone(e.waiting)...) {
		lost := 0
		for _, p := range j.pods {
			if p.node == n {
				lost++
			}
		}
		if lost == 0 {
			continue
		}
		if j.at < 0 || len(j.pods)-lost < j.Min {
			e.sawLost(j, len(j.pods), false)
			if j.at < 0 { // its members start one by one, and not all have
				e.giveBack(j)
				continue
			}
			e.again(j)
			continue
		}
		e.sawLost(j, lost, false)
		for i := len(j.pods) - 1; i >= 0; i-- {
			if j.pods[i].node == n {
				e.release(j, i)
			}
		}
		e.changed++
		e.bump()
	}
}

// giveBack takes all members from their nodes of a job that waits with some of them placed.
func (e *engine) giveBack(j *job) {
	e.sawWaiting(j, -1)
	for len(j.pods) > 0 {
		e.release(j, len(j.pods)-1)
	}
	j.run++
	e.claim(j)
	e.sawWaiting(j, 1)
	j.tried = 0
	e.changed++
	e.bump()
}
