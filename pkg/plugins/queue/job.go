package queue

import (
	"fmt"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	schedv1alpha1 "sigs.k8s.io/scheduler-plugins/apis/scheduling/v1alpha1"

	"weft.sh/weft/pkg/gang"
	"weft.sh/weft/pkg/metrics"
	"weft.sh/weft/pkg/podgroup"
	"weft.sh/weft/pkg/podspec"
	"weft.sh/weft/pkg/queues"
	"weft.sh/weft/pkg/quota"
)

// jobID is a gang, or a pod by itself.
type jobID struct {
	gang gang.Key
	uid  types.UID
}

// job is what waits and starts together.
type job struct {
	id      jobID
	members map[types.UID]*waiter
	// claims are those of all members that run or wait, asked by PreEnqueue or not, as of version and set: first of those that the book has,
	// of which there are placed. need is how many of the others the job must have to start.
	claims       quota.Job
	placed, need int
	// surplus are the verdicts by claim of an elastic gang that has its minimum already: each of the others is a job by itself. nil for any
	// other job.
	surplus map[string]verdict
	verdict verdict
	version uint64
	set     *queues.Set
	// queue is that of the claims; eligible says that it is counted in State.eligible, limited in State.limited.
	queue             string
	eligible, limited bool
	// line says whether jobs ahead in the queue let it go, where a limit holds any of them back.
	line turn
	seeks
	// turn says that the job may try now if others want the same; given is since when what is idle is kept for it, zero while it is not.
	turn  turn
	given time.Time
	// until is one more than State.freed was when the turn became the job's if it ends when that changes, else 0.
	until uint64
	// tried is one more than State.freed was when its last cycle began, and stuck what tried was when no place was found. absent says that it
	// was not tried at all when it could be: somebody else holds it back.
	tried, stuck uint64
	absent       bool
	// dear is a claim that the budget did not allow on a dear class of GPUs, nil for none.
	dear *quota.Claim
}

// turn is what is known of a job's turn.
type turn uint8

const (
	unasked turn = iota
	granted
	denied
)

// verdict is the answer for a job, with its message in full: "" to go ahead.
type verdict struct {
	quota.Verdict
	message string
}

// waiter is a pod that waits.
type waiter struct {
	pod *v1.Pod
	job *job
	// gated is what PreEnqueue last said.
	gated bool
	// claim is the pod's, as of claimed and set.
	claim   quota.Claim
	asks    bool
	claimed *v1.Pod
	set     *queues.Set
}

// idOf is the job of the pod. Pods of a native PodGroup that is no gang are by themselves.
func (s *State) idOf(pod *v1.Pod) jobID {
	k, ok := podgroup.KeyOf(pod)
	if !ok {
		return jobID{uid: pod.UID}
	}
	if k.Source == gang.SourceNative {
		if _, err := s.gangs.Spec(k); err != nil {
			return jobID{uid: pod.UID} // no gang, or no such group: then others hold it back
		}
	}
	return jobID{gang: k}
}

// note makes the pod one that waits. The lock is held.
func (s *State) note(pod *v1.Pod) *waiter {
	id := s.idOf(pod)
	w := s.waiting[pod.UID]
	if w != nil && w.job.id != id {
		s.drop(pod.UID)
		w = nil
	}
	if w == nil {
		j := s.jobs[id]
		if j == nil {
			j = &job{id: id, members: map[types.UID]*waiter{}}
			s.jobs[id] = j
		}
		w = &waiter{job: j}
		j.members[pod.UID], s.waiting[pod.UID] = w, w
	}
	if w.pod != pod {
		w.pod, w.job.set = pod, nil
	}
	return w
}

// drop forgets a pod that waits no more. The lock is held.
func (s *State) drop(uid types.UID) {
	w := s.waiting[uid]
	if w == nil {
		return
	}
	delete(s.waiting, uid)
	delete(w.job.members, uid)
	s.teller.tell(uid) // which forgets what it was told
	w.job.set = nil
	if len(w.job.members) == 0 {
		s.count(w.job, false, false)
		delete(s.jobs, w.job.id)
	}
}

// count keeps State.eligible and State.limited. The lock is held.
func (s *State) count(j *job, eligible, limited bool) {
	keep := func(count map[string]int, was *bool, is bool) {
		if *was == is {
			return
		}
		*was = is
		if is {
			count[j.queue]++
		} else if count[j.queue]--; count[j.queue] == 0 {
			delete(count, j.queue)
		}
	}
	keep(s.eligible, &j.eligible, eligible)
	keep(s.limited, &j.limited, limited)
}

// judge brings the job's verdict up to date. The lock is held.
func (s *State) judge(j *job) {
	if j.set == s.set && j.version == s.version {
		return
	}
	if j.set != s.set || j.id.gang != (gang.Key{}) {
		s.count(j, false, false)
		j.set, j.claims = s.set, j.claims[:0]
		j.verdict = s.claim(j)
	}
	j.version, j.surplus = s.version, nil
	if len(j.claims) == 0 || j.queue == "" {
		return // what claim said; pods of no queue are never held back
	}
	if waiting := j.claims[j.placed:]; j.need > 0 || len(waiting) == 0 {
		v := s.admit(j.required())
		if !v.OK() && s.promisedTo(j) {
			if v.Reason == quota.OverLimit {
				v.Detail = "pods that are to make room for it are leaving"
			} else { // something else is in the way now: others may have what those leave
				for i := range j.claims {
					s.withdraw(types.UID(j.claims[i].ID))
				}
				s.changed()
			}
		}
		j.verdict = verdictOf(v)
	} else {
		j.surplus = map[string]verdict{}
		for i, ok := range s.oneByOne(waiting) {
			v := verdictOf(ok)
			if j.surplus[waiting[i].ID] = v; i == 0 || v.OK() {
				j.verdict = v
			}
		}
	}
	s.count(j, j.verdict.OK(), j.verdict.Reason == quota.OverLimit)
}

// required are the claims without which the job cannot start, those in the book included.
func (j *job) required() quota.Job { return j.claims[:min(j.placed+j.need, len(j.claims))] }

// requiredWith are the required claims with that one among them, the last; it is one that waits.
func (j *job) requiredWith(at int) quota.Job {
	if j.surplus != nil {
		return quota.Job{j.claims[at]}
	}
	out := slices.Clone(j.required())
	if own := j.claims[at]; at < len(out) {
		out[at], out[len(out)-1] = out[len(out)-1], own
	} else {
		out[len(out)-1] = own
	}
	return out
}

// wanting are the claims that the job would start with next: its minimum, or one of the surplus.
func (j *job) wanting() (out quota.Job) {
	for _, c := range j.claims[j.placed:] {
		switch v, ok := j.surplus[c.ID]; {
		case !ok:
			out = append(out, c)
		case v.OK():
			return quota.Job{c}
		}
	}
	return out[:min(len(out), max(j.need, 0))]
}

// verdictFor is the answer for a member. One of the surplus that is in a plan may come as far as PreBind, which decides: before all
// members of a plan have come it is undone when one fails. The lock is held.
func (s *State) verdictFor(w *waiter) verdict {
	if w.job.surplus == nil {
		return w.job.verdict
	}
	v := w.job.surplus[string(w.pod.UID)]
	if !v.OK() && s.planned(w.pod) {
		return verdict{}
	}
	return v
}

// planned reports whether the pod has GPUs in the cache of GPUFit.
func (s *State) planned(pod *v1.Pod) bool {
	_, _, _, ok := s.options.GPUs.Cache().Holding(string(pod.UID))
	return ok
}

// lacks is how many more of a gang's members must start for it to have its minimum, the one that is left out among them if it waits; not
// above 0 for one that runs. members are those that run or can be tried. The lock is held.
func (s *State) lacks(k gang.Key, members []*v1.Pod, except types.UID) int {
	spec, err := s.gangs.Spec(k)
	if err != nil {
		return len(members) // nobody knows what it can do without
	}
	n := spec.Min
	if pg, ok := s.gangs.CRD(k); ok && len(members) < n && pg.Status.Phase != schedv1alpha1.PodGroupFinished {
		n -= int(pg.Status.Succeeded)
	}
	for _, p := range members {
		if p.UID != except && (p.Spec.NodeName != "" || s.holds[p.UID] != nil) {
			n--
		}
	}
	return n
}

func verdictOf(v quota.Verdict) verdict {
	if v.OK() {
		return verdict{}
	}
	return verdict{v, v.Message()}
}

// claim makes the claims of the job, and says what is wrong with its queue whatever is in the book. The lock is held.
func (s *State) claim(j *job) (v verdict) {
	j.queue, j.placed, j.need = "", 0, 1
	first := true
	var placed quota.Job // before the others, of which the order stays
	members := s.membersOf(j)
	if j.id.gang != (gang.Key{}) {
		j.need = s.lacks(j.id.gang, members, "")
	}
	for _, pod := range members {
		w := s.waiting[pod.UID]
		c, ok := s.running[pod.UID], true
		if pod.Spec.NodeName == "" {
			c, ok = s.claimOf(w, pod)
		} else if c.ID == "" {
			continue
		}
		if !ok {
			continue
		}
		queue, refused := s.set.QueueOf(pod)
		if !refused.OK() {
			j.claims = j.claims[:0]
			return verdictOf(refused)
		}
		if !first && queue != j.queue {
			j.claims = j.claims[:0]
			return verdictOf(quota.Verdict{Reason: quota.QueueInvalid, Queue: queue, Detail: fmt.Sprintf(
				"members of %s name the queues %q and %q, want one", j.id.gang, j.queue, queue)})
		}
		j.queue, first = queue, false
		if pod.Spec.NodeName != "" || s.holds[pod.UID] != nil {
			placed = append(placed, c)
		} else {
			j.claims = append(j.claims, c)
		}
	}
	if j.placed = len(placed); j.placed > 0 {
		j.claims = slices.Insert(j.claims, 0, placed...)
	}
	return verdict{}
}

// claimOf is the claim of a pod that waits; w is nil for one that PreEnqueue was not asked about yet. The lock is held.
func (s *State) claimOf(w *waiter, pod *v1.Pod) (quota.Claim, bool) {
	if h := s.holds[pod.UID]; h != nil {
		return h.claim, true
	}
	if w == nil {
		return s.set.Claim(pod, nil)
	}
	if w.claimed != w.pod || w.set != s.set {
		w.claim, w.asks = s.set.Claim(w.pod, nil)
		w.claimed, w.set = w.pod, s.set
	}
	return w.claim, w.asks
}

// membersOf are the pods of the job that run or can be tried. The lock is held.
func (s *State) membersOf(j *job) []*v1.Pod {
	if j.id.gang == (gang.Key{}) {
		for _, w := range j.members {
			return []*v1.Pod{w.pod}
		}
		return nil
	}
	members := s.gangs.Members(j.id.gang)
	n := 0
	for _, p := range members {
		if p.Spec.NodeName != "" || len(p.Spec.SchedulingGates) == 0 {
			members[n] = p
			n++
		}
	}
	return members[:n]
}

// gate is why the pod is to wait, in words; "" when it need not. It is called under the lock of the scheduling queue.
func (s *State) gate(pod *v1.Pod) string {
	if s.synced.Load() && !s.active.Load() {
		return ""
	}
	if len(pod.Spec.SchedulingGates) > 0 {
		return "" // somebody else holds it back
	}
	if k, ok := podgroup.KeyOf(pod); ok {
		s.gangs.Refresh(pod) // its event may reach the queue before it reaches the tracker
		if complete := s.complete.Load(); complete != nil && k.Source == gang.SourceCRD && !(*complete)(k) {
			return ""
		}
	} else if !asks(pod) {
		return ""
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	w := s.note(pod)
	j := w.job
	w.gated = true
	if !s.synced.Load() {
		return "Queue: the queues are being read"
	}
	s.judge(j)
	if v := s.verdictFor(w); !v.OK() {
		if v.Reason == quota.OverLimit && j.surplus == nil {
			if j.seeker == pod.UID {
				w.gated = false
				return ""
			}
			if !j.looked {
				s.kick() // others may leave for it
			}
		}
		if s.probes(pod.UID) {
			w.gated = false
			return ""
		}
		s.teller.tell(pod.UID)
		return v.message
	}
	if !s.mayTry(j) {
		v, known := s.notItsTurn(j)
		if !known {
			s.kick()
		}
		return v.message
	}
	w.gated, j.absent = false, false
	return ""
}

// probes reports whether the pod is the one that is let through although its queue says no, while it is not known whether this process
// schedules: nobody tells a plugin. A cycle of any pod proves it, and ends with an error for this one. The lock is held.
func (s *State) probes(uid types.UID) bool {
	if s.leading.Load() || s.probe != "" && s.probe != uid && s.waiting[s.probe] != nil {
		return false
	}
	s.probe = uid
	return true
}

// contested reports whether jobs of other queues wait too. Which of one queue's jobs is first the scheduling queue decides itself.
// The lock is held.
func (s *State) contested(j *job) bool {
	return j.eligible && len(s.eligible) > 1
}

// inLine reports whether a limit holds a job of the same queue back, which may be ahead of this one. The lock is held.
func (s *State) inLine(j *job) bool { return j.eligible && s.limited[j.queue] > 0 }

// mayTry reports whether it is the job's turn, as far as that matters. The lock is held.
func (s *State) mayTry(j *job) bool {
	if s.inLine(j) && j.line != granted {
		return false
	}
	return !s.contested(j) || j.turn == granted && (j.until == 0 || j.until == s.freed()+1)
}

// notItsTurn is what a job is told that may not try yet, false while that is not known. The lock is held.
func (s *State) notItsTurn(j *job) (v verdict, known bool) {
	if s.inLine(j) && j.line != granted {
		return verdictOf(quota.Verdict{Reason: quota.NotYourTurn, Queue: j.queue, Detail: fmt.Sprintf(
			"a job ahead of it in queue %s waits for GPUs below a limit, and what is left is kept for that one", j.queue)}), j.line == denied
	}
	return verdict{quota.Verdict{Reason: quota.NotYourTurn, Queue: j.queue}, quota.Verdict{Reason: quota.NotYourTurn}.Message()}, j.turn == denied
}

// asks reports whether the pod asks for GPUs; also one that asks for something without a meaning, which plugin GPUFit refuses, does
// not.
func asks(pod *v1.Pod) bool {
	r, err := podspec.Request(pod)
	return err == nil && !r.Empty()
}

// signature is what of the pod decides here.
func (s *State) signature(pod *v1.Pod) (queue string, runtime int64) {
	if !s.active.Load() {
		return "", 0
	}
	s.mu.Lock()
	set := s.set
	s.mu.Unlock()
	queue, _ = set.QueueOf(pod)
	if d, ok, err := podspec.Runtime(pod); ok && err == nil {
		runtime = int64(d / time.Second)
	}
	return queue, runtime
}

// gated are the pods that are held back, for the metrics.
func (s *State) gated() []metrics.Gated {
	type key struct{ queue, reason string }
	count := map[key]int{}
	s.mu.Lock()
	for _, w := range s.waiting {
		if !w.gated {
			continue
		}
		v := s.verdictFor(w)
		k := key{w.job.queue, v.Reason.String()}
		if v.OK() {
			k.reason = quota.NotYourTurn.String()
		} else if k.queue == "" {
			k.queue = v.Queue
		}
		count[k]++
	}
	s.mu.Unlock()
	out := make([]metrics.Gated, 0, len(count))
	for k, n := range count {
		out = append(out, metrics.Gated{Queue: k.queue, Reason: k.reason, Pods: n})
	}
	return out
}
