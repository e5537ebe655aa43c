package replay

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"weft.sh/weft/pkg/cluster"
	"weft.sh/weft/pkg/gang"
)

// hold is what is kept for a job that waits.
type hold struct {
	gang.Reservation
	job *job
	// aged says that it is kept because the job has waited too long, and not because it is known when it can start.
	aged bool
	// made is the state of the cluster that it was made of.
	made uint64
}

const (
	// agingSeconds is how long a gang waits, when it cannot be computed when it will start, until what becomes free is kept for it:
	// the default of plugin Gang.
	agingSeconds = 600
	// agePatience is how long it is kept then, and how long nothing is afterwards.
	agePatience = 6 * agingSeconds
	// overdueMin is how much longer than it said any job may take and still be expected to end at any moment.
	overdueMin = 600
)

func (e *engine) holdOf(j *job) *hold {
	i := slices.IndexFunc(e.holds, func(h *hold) bool { return h.job == j })
	if i < 0 {
		return nil
	}
	return e.holds[i]
}

// holdAt is the hold of the job's priority: there is one at a time.
func (e *engine) holdAt(j *job) *hold {
	i := slices.IndexFunc(e.holds, func(h *hold) bool { return h.Priority == j.Priority })
	if i < 0 {
		return nil
	}
	return e.holds[i]
}

// drop ends what is kept, which may be room for others.
func (e *engine) drop(h *hold) {
	e.holds = slices.DeleteFunc(e.holds, func(o *hold) bool { return o == h })
	e.bump()
}

// releaseDenied ends what is kept for jobs that may not start although they have not been refused; it reports whether anything was.
func (e *engine) releaseDenied() bool {
	some := false
	for _, h := range slices.Clone(e.holds) {
		if h.job.held || h.job.denied {
			e.drop(h)
			some = true
		}
	}
	return some
}

// expire ends what was kept for too long.
func (e *engine) expire() {
	for _, h := range slices.Clone(e.holds) {
		if h.Expired(time.Unix(e.now, 0)) {
			e.rests[h.job] = e.now + agePatience
			e.wake(e.now + agePatience)
			e.drop(h)
		}
	}
}

// reserve keeps room for a job that has none, as plugin Gang does: from the time at which it can start, or, where nobody knows that
// and it has waited long, what becomes free on certain nodes.
func (e *engine) reserve(j *job, v view) {
	before, other := e.holdOf(j), e.holdAt(j)
	if other != nil && other != before && other.job.before(j) < 0 {
		return // its turn comes when that one's has come
	}
	if before != nil && before.made == e.changed {
		return
	}
	if v.nodes == nil {
		v = e.view(j)
	}
	h := e.reservation(j, v, before)
	if h == before {
		return
	}
	if before != nil {
		e.holds = slices.DeleteFunc(e.holds, func(o *hold) bool { return o == before })
	}
	if h == nil {
		e.bump()
		return
	}
	if other != nil && other != before {
		e.holds = slices.DeleteFunc(e.holds, func(o *hold) bool { return o == other }) // a younger one's
	}
	e.holds = append(e.holds, h)
	slices.SortFunc(e.holds, func(a, b *hold) int {
		return cmp.Or(cmp.Compare(b.Priority, a.Priority), a.job.before(b.job))
	})
	switch {
	case other != nil && other != before, before != nil && (!sameShares(before, h) || h.Start.After(before.Start)):
		e.bump() // it binds fewer, or others
	default:
		e.refused = map[string][]uint64{} // the holds are others, and their places too
		e.views = nil
	}
}

func sameShares(a, b *hold) bool {
	return slices.EqualFunc(a.Shares, b.Shares, func(x, y gang.Share) bool {
		return x.Node == y.Node && slices.Equal(x.Asks, y.Asks) && slices.EqualFunc(x.Pods, y.Pods, func(p, q cluster.Pod) bool {
			return p.Assignment.String() == q.Assignment.String()
		})
	})
}

// reservation is what is to be kept for the job, nil for nothing, and the one before where that stays.
func (e *engine) reservation(j *job, v view, before *hold) *hold {
	p := e.problem(j, v.nodes)
	now := time.Unix(e.now, 0)
	ends := e.ends()
	if start, res, ok := gang.Start(&p, ends, now); ok {
		return &hold{Reservation: gang.NewReservation(&p, res, j.Priority, start, time.Time{}), job: j, made: e.changed}
	}
	if due := j.queued + agingSeconds; due > e.now {
		e.wake(due)
		return nil
	}
	if before != nil && before.aged {
		return before
	}
	if e.rests[j] > e.now {
		return nil
	}
	res, r := gang.Drain(&p, ends)
	if !r.OK() {
		return nil
	}
	e.wake(e.now + agePatience)
	return &hold{
		Reservation: gang.NewReservation(&p, res, j.Priority, time.Time{}, time.Unix(e.now+agePatience, 0)), job: j, aged: true, made: e.changed,
	}
}

// ends is what runs, with when it will have ended as far as it says.
func (e *engine) ends() []gang.Running {
	var out []gang.Running
	for _, j := range e.bySeq() {
		var end time.Time
		if j.Stated > 0 && e.now < j.started+j.Stated+max(j.Stated, overdueMin) { // who runs twice as long as it said may never end
			end = j.ends(j.started)
		}
		for i := range j.pods {
			out = append(out, gang.Running{Occupant: e.occupant(j, i), End: end})
		}
	}
	return out
}

// bySeq is what runs, in the order of arrival.
func (e *engine) bySeq() []*job {
	out := slices.Clone(e.running)
	slices.SortFunc(out, func(a, b *job) int { return cmp.Compare(a.seq, b.seq) })
	return out
}

func (e *engine) occupant(j *job, i int) gang.Occupant {
	p := j.pods[i]
	return gang.Occupant{
		UID: p.uid, Name: j.Name, Node: e.nodes[p.node].Name, Frees: []int64{j.MilliCPU, j.MemoryMiB}, MilliCPU: j.MilliCPU, MilliGPU: j.MilliGPU,
	}
}

// makeRoom starts the job in the place of others, if they may leave for it: those of its queue and below by priority, those that borrowed
// what its queue is guaranteed whatever theirs; see plugins Gang and Queue.
func (e *engine) makeRoom(j *job, v view) bool {
	key := fmt.Sprintf("%s|%d|%s", j.Queue, j.Priority, j.shape)
	if e.vain[key] || j.evicted == e.now && j.evicted > 0 { // who is made anew in this second is tried in the next
		return false
	}
	units, caps, of := e.units(j)
	idle := e.idleNow()
	for i := range units {
		for k := range units[i].Pods {
			idle += units[i].Pods[k].MilliGPU
		}
	}
	if len(units) == 0 || idle < int64(j.Min)*j.MilliGPU {
		e.vain[key] = true
		return false
	}
	if v.nodes == nil {
		v = e.view(j)
	}
	p := e.problem(j, v.nodes)
	res, victims, r := gang.Preempt(&p, j.Priority, units, nil, caps)
	if !r.OK() || res == nil {
		e.vain[key] = true
		return false
	}
	places := e.placesOf(v.nodes, res)
	for _, u := range victims {
		e.evict(of[u], &units[u])
	}
	e.start(j, places)
	return true
}

// units are what may leave for the job, the caps of what is reclaimed, and whose each unit is.
func (e *engine) units(j *job) (units []gang.Unit, caps gang.Caps, of []*job) {
	rights := e.book.Reclaim(j.claims)
	now := time.Unix(e.now, 0)
	for _, o := range e.bySeq() {
		groups, owed := rights.Groups(o.Queue)
		if !owed {
			ranked, ok := rights.Ranked(o.Queue)
			if !ok || o.Priority >= j.Priority {
				continue
			}
			groups = ranked
		}
		lost := gang.LostWork(o.MilliGPU, time.Unix(o.started, 0), time.Time{}, now)
		add := func(surplus bool, from, to int) {
			u := gang.Unit{Surplus: surplus, Priority: o.Priority, Owed: owed, LostMilliGPUSeconds: int64(to-from) * lost}
			if o.Members > 1 {
				u.Gang = o.key()
			}
			for i := from; i < to; i++ {
				pod := e.occupant(o, i)
				pod.Groups = groups
				u.Pods = append(u.Pods, pod)
			}
			units, of = append(units, u), append(of, o)
		}
		for i := o.Min; i < len(o.pods); i++ {
			add(true, i, i+1)
		}
		add(false, 0, min(o.Min, len(o.pods)))
	}
	return units, gang.Caps{MilliGPU: rights.Caps, Least: rights.Least, Straddle: true}, of
}

// evict has a unit leave: the whole job, which waits again, or members above its minimum.
func (e *engine) evict(j *job, u *gang.Unit) {
	if j.at < 0 {
		return // it left with the rest of its gang
	}
	e.evictions++
	j.evicted = e.now
	if !u.Surplus {
		e.sawLost(j, len(j.pods), true)
		e.again(j)
		return
	}
	for k := range u.Pods {
		if i := slices.IndexFunc(j.pods, func(p pod) bool { return p.uid == u.Pods[k].UID }); i >= 0 {
			e.sawLost(j, 1, true)
			e.release(j, i)
		}
	}
	e.changed++
	e.bump()
}
