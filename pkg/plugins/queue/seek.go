package queue

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	fwk "k8s.io/kube-scheduler/framework"

	"weft.sh/weft/pkg/gang"
	"weft.sh/weft/pkg/quota"
)

const (
	// seekEvery is how soon a job is looked at again for which nobody could leave, and how long its queue looks for nothing after a plan
	// for one failed.
	seekEvery = time.Second
	// seekRest is how long a job rests after its first plan failed: twice as long after each, up to seekRestMost.
	seekRest     = 2 * time.Second
	seekRestMost = time.Minute
	// seekMost is how many jobs of one queue, and seekMostAll of all, are looked at in one review.
	seekMost    = 8
	seekMostAll = 256
)

// seeks is what a job that limits alone hold back does about it: one of its pods is let into a cycle, in which others are found that
// leave for it.
type seeks struct {
	// seeker is that pod, since then; empty for none.
	seeker types.UID
	since  time.Time
	// making says that its cycle is under way.
	making bool
	// looked says that it was asked whether anybody could leave, and rest is until when it is not asked again. failed are the plans
	// since the last that did not fail.
	looked bool
	rest   time.Time
	failed int
}

// seek lets, of each queue, the first job into a cycle that limits alone hold back and that others can leave for: one at a time, so that
// each finds what was promised to those before it.
func (s *State) seek() {
	if s.making.Load() == nil {
		return
	}
	candidates := s.limitedJobs()
	// Who comes after those that a review had no time for would else never be looked at.
	names := slices.Sorted(maps.Keys(candidates))
	next, _ := slices.BinarySearch(names, s.nextSought)
	s.nextSought = ""
	left := seekMostAll
	for _, queue := range slices.Concat(names[next:], names[:next]) {
		if left == 0 {
			s.nextSought = queue
			break
		}
		jobs := candidates[queue]
		for _, j := range jobs[:min(len(jobs), seekMost, left)] {
			left--
			if s.sendOne(j) {
				break
			}
		}
	}
}

// limitedJobs are the jobs to look at, by queue and in its order.
func (s *State) limitedJobs() map[string][]*job {
	now := s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	out, busy := map[string][]*job{}, map[string]bool{}
	if len(s.limited) == 0 {
		return out
	}
	for _, j := range s.jobs {
		if !j.limited || j.surplus != nil {
			j.seeker, j.looked = "", false
			continue
		}
		if j.seeker != "" && now.Sub(j.since) < s.patienceWith(j.seeker) {
			busy[j.queue] = true
		} else if j.seeker = ""; !now.Before(j.rest) && !now.Before(s.resting[j.queue]) && !s.promisedTo(j) {
			out[j.queue] = append(out[j.queue], j)
		}
	}
	maps.DeleteFunc(out, func(queue string, _ []*job) bool { return busy[queue] })
	for _, jobs := range out {
		slices.SortFunc(jobs, compareJobs)
	}
	return out
}

// patienceWith is how long a seeker may take to its cycle: longer where it is on its way, for then others are ahead of it in the
// scheduler's queue. The lock is held.
func (s *State) patienceWith(seeker types.UID) time.Duration {
	if w := s.waiting[seeker]; w != nil && !w.gated {
		return seekRestMost
	}
	return turnPatience
}

// compareJobs is the order within a queue: priority, then age, then ID.
func compareJobs(a, b *job) int {
	x, y := a.first(), b.first()
	return cmp.Or(cmp.Compare(y.Priority, x.Priority), cmp.Compare(x.Queued, y.Queued), cmp.Compare(x.ID, y.ID))
}

// first is a claim with the job's priority, age and ID.
func (j *job) first() (out quota.Claim) {
	for i, c := range j.claims {
		if i == 0 {
			out = c
		}
		out.Priority, out.Queued, out.ID = max(out.Priority, c.Priority), min(out.Queued, c.Queued), min(out.ID, c.ID)
	}
	return out
}

// sendOne lets a pod of the job into a cycle, if others can leave for it.
func (s *State) sendOne(j *job) bool {
	now := s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(j.members) == 0 {
		return false
	}
	s.judge(j)
	if !j.limited || j.surplus != nil {
		return false
	}
	j.looked, j.rest = true, now.Add(seekEvery)
	if !s.obtainable(j) {
		return false
	}
	for _, c := range j.claims[j.placed:] {
		if w := s.waiting[types.UID(c.ID)]; w != nil && w.gated {
			j.seeker, j.since = w.pod.UID, now
			return true
		}
	}
	return false
}

// obtainable reports whether it is worth a plan. The lock is held.
func (s *State) obtainable(j *job) bool {
	preempts := true
	for _, w := range j.members {
		if p := w.pod.Spec.PreemptionPolicy; p != nil && *p == v1.PreemptNever {
			preempts = false
		}
	}
	defer s.departed()()
	return s.book.Obtainable(j.required(), preempts)
}

// seeking reports whether the pod's cycle is for nothing but to find who leaves for its job.
func (s *State) seeking(pod *v1.Pod) bool {
	if !s.active.Load() {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	w := s.waiting[pod.UID]
	if w == nil || w.job.seeker != pod.UID {
		return false
	}
	j := w.job
	j.seeker = ""
	s.judge(j)
	if !j.limited || j.surplus != nil || !s.obtainable(j) {
		return false // there is room meanwhile, or something else is in the way
	}
	j.rest = s.now().Add(min(seekRest<<min(j.failed, 10), seekRestMost))
	j.failed++
	j.making = true
	s.resting[j.queue] = s.now().Add(seekEvery)
	return true
}

var errNobody = errors.New("nobody can leave for it: plugin Gang is not there")

// MakeRoom has others leave for the job of the pods if the cycle of any of them is for that; then the error says what was done. Else it is
// nil, and nothing is done.
func (s *State) MakeRoom(ctx context.Context, pods []*v1.Pod, nodes []fwk.NodeInfo) error {
	i := slices.IndexFunc(pods, s.seeking)
	if i < 0 {
		return nil
	}
	err := errNobody
	if making := s.making.Load(); making != nil {
		err = (*making)(ctx, pods[i], nodes)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if w := s.waiting[pods[i].UID]; w != nil {
		if w.job.making = false; s.promisedTo(w.job) {
			w.job.failed = 0
			delete(s.resting, w.job.queue)
		}
	}
	return err
}

// Admitted are those of a gang's members that run or that their queue lets start, in the order given: the minimum, and above it as many as
// there is room for, the first in rank order.
func (s *State) Admitted(members []*v1.Pod) []*v1.Pod {
	if !s.active.Load() || len(members) == 0 {
		return members
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	id := s.idOf(members[0])
	j := s.jobs[id]
	if id.gang == (gang.Key{}) || j == nil {
		return members
	}
	s.judge(j)
	if j.queue == "" || len(j.claims) == 0 {
		return members
	}
	out := map[types.UID]bool{} // those that stay out
	if j.surplus != nil {
		for uid, v := range j.surplus {
			out[types.UID(uid)] = !v.OK()
		}
	} else {
		above := j.claims[min(j.placed+j.need, len(j.claims)):]
		restore := s.started(j.required())
		for i, v := range s.oneByOne(above) {
			out[types.UID(above[i].ID)] = !v.OK() || !j.verdict.OK()
		}
		restore()
	}
	in := make([]*v1.Pod, 0, len(members))
	for _, p := range members {
		if !out[p.UID] || s.planned(p) {
			in = append(in, p)
		}
	}
	return in
}

// started puts those of the claims in the book that it does not have; the function takes them out again. The lock is held until then.
func (s *State) started(claims quota.Job) (restore func()) {
	var set []string
	for _, c := range claims {
		if _, there := s.book.Holder(c.ID); !there {
			s.book.Set(c)
			set = append(set, c.ID)
		}
	}
	return func() {
		for _, id := range set {
			s.book.Delete(id)
		}
	}
}
