package replay

import (
	"slices"

	"weft.sh/weft/pkg/quota"
)

// decide lets start who may and has room, after what happened in this second.
func (e *engine) decide() {
	if len(e.waiting) == 0 {
		return
	}
	switch {
	case e.policy.podwise:
		e.oneByOne()
	case e.policy.turns:
		e.takeTurns()
	default:
		e.inOrder()
	}
	if e.in.Drop {
		for _, j := range slices.Clone(e.waiting) {
			if j.first == 0 {
				e.dequeue(j)
				e.refuse(j)
			}
		}
	}
}

// inOrder has the jobs try by priority and age. As more room may come of a start, when something was kept for the job, it ends
// when nothing does.
func (e *engine) inOrder() {
	for {
		before := e.freed
		for _, j := range slices.Clone(e.waiting) {
			if j.tried != e.freed && e.judge(j) {
				e.try(j)
			}
			if e.policy.strict && j.at < 0 && !j.held {
				break
			}
		}
		if e.freed == before {
			return
		}
	}
}

// takeTurns has those try whose queue's turn it is, as plugin Queue does.
func (e *engine) takeTurns() {
	for released := false; ; {
		for e.oneTurn() {
		}
		if released || !e.releaseDenied() {
			return
		}
		released = true
	}
}

// oneTurn is one review of plugin Queue and the attempts that follow; it reports whether there were any.
func (e *engine) oneTurn() bool {
	jobs := make([]*job, 0, len(e.waiting))
	first, contested, fresh := "", false, false
	idle, lacking, lowest := e.idleNow(), map[string]bool{}, e.lowest()
	for _, j := range e.waiting {
		if !e.judge(j) {
			continue
		}
		if idle == 0 && j.tried != e.freed {
			if _, ok := lacking[j.Queue]; !ok {
				lacking[j.Queue] = e.lacks(j.Queue)
			}
			if e.hopeless(j, lacking[j.Queue], lowest) {
				j.tried = e.freed
			}
		}
		contested = contested || len(jobs) > 0 && j.Queue != first
		first = j.Queue
		jobs = append(jobs, j)
		fresh = fresh || j.tried != e.freed
	}
	if !fresh {
		return false
	}
	may := slices.Repeat([]bool{true}, len(jobs))
	if contested { // else the order of the scheduling queue decides
		may = e.book.Turns(e.contest(jobs))
	}
	any := false
	for i, j := range jobs {
		j.denied = !may[i] && j.tried != e.freed
		if !may[i] || j.tried == e.freed {
			continue
		}
		any = true
		if e.judge(j) { // others started since
			e.try(j)
		} else {
			j.tried = e.freed
		}
	}
	return any
}

// hopeless is a cheap test that a job finds no victims where nothing is idle, and that nothing would be kept for it: its queue lacks
// nothing of its guarantee, nobody of a lower priority runs, and it is no gang or one that is not the first.
func (e *engine) hopeless(j *job, lacking bool, lowest int32) bool {
	if j.MilliGPU == 0 || e.policy.evict && (lacking || lowest < j.Priority) {
		return false
	}
	if j.Members > 1 {
		h := e.holdAt(j)
		return h != nil && h.job.before(j) < 0
	}
	return true
}

// lacks reports whether the queue, or one above it, has less than its guarantee.
func (e *engine) lacks(queue string) bool {
	return slices.ContainsFunc(e.tree.Path(queue), func(name string) bool {
		s, _ := e.book.Standing(name)
		return s.Running < s.Guaranteed
	})
}

// lowest is the lowest priority that runs.
func (e *engine) lowest() int32 {
	least := int32(1<<31 - 1)
	for _, j := range e.running {
		least = min(least, j.Priority)
	}
	return least
}

// contest is who wants what is idle.
func (e *engine) contest(jobs []*job) quota.Contest {
	c := quota.Contest{Capacity: e.capacity, Idle: e.idle, Waiting: make([]quota.Waiting, len(jobs))}
	for i, j := range jobs {
		c.Waiting[i] = quota.Waiting{Job: j.claims, Stuck: j.tried == e.freed}
		if len(j.Request.Products) > 0 {
			c.Waiting[i].Classes = j.Request.Products
		}
	}
	return c
}

// try starts the job if it has room, or if room can be made; else something may be kept for it.
func (e *engine) try(j *job) {
	v, places := e.find(j)
	if places != nil {
		e.start(j, places)
		return
	}
	if e.policy.evict && e.makeRoom(j, v) {
		return
	}
	if e.policy.backfill && (j.Members > 1 || !e.policy.turns) {
		e.reserve(j, v)
	}
	j.tried = e.freed
}

// oneByOne binds each pod that has a place, whether or not the rest of its gang has one. A job runs when its minimum is bound.
func (e *engine) oneByOne() {
	for _, j := range slices.Clone(e.waiting) {
		if j.tried == e.freed || len(j.pods) == 0 && !e.judge(j) {
			continue
		}
		e.sawWaiting(j, -1)
		for m := range j.Members {
			if slices.ContainsFunc(j.pods, func(p pod) bool { return p.member == m }) {
				continue
			}
			if !e.roomy(j, 1) || !e.book.Admit(quota.Job{e.claimOf(j, m)}).OK() {
				break
			}
			at, a, ok := e.bestNode(j, e.up)
			if !ok {
				break
			}
			e.changed++
			e.bindPod(j, place{m, e.indexOf(e.up[at].Name), a})
		}
		e.sawWaiting(j, 1)
		if len(j.pods) >= j.Min {
			e.vainTurns = 0
			e.dequeue(j)
			e.begin(j)
		} else {
			j.tried = e.freed
		}
	}
}
