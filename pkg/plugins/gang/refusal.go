package gang

import (
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	fwk "k8s.io/kube-scheduler/framework"

	"weft.sh/weft/pkg/fit"
	"weft.sh/weft/pkg/gang"
	"weft.sh/weft/pkg/gpu"
)

// refusal is why a gang has no room. One plan is made for all its members: the member whose turn it is leads, and is the one
// that events bring back; the others are told the same when their turn comes. A member that was told already and comes again
// is a new attempt.
type refusal struct {
	reason  fit.Reason
	code    fwk.Code
	message string
	leader  types.UID
	told    map[types.UID]*v1.Pod
	// members are all members that there were.
	members map[types.UID]*v1.Pod
	// requests are what the members without a place ask for.
	requests []gpu.Request
	// wide says that more than the node itself decides whether a node takes a member: other pods, volumes, claims.
	wide bool
	// priority is the gang's, and kept says that something of a node was kept for another gang.
	priority int32
	kept     bool
	// stale says that the members have changed since.
	stale bool
}

func (r *refusal) status() *fwk.Status { return fwk.NewStatus(r.code, r.message) }

// tell is the status of a gang that was refused while the pod, which has not been told, waited for its turn; nil otherwise.
func (q *queue) tell(k gang.Key, pod *v1.Pod) *fwk.Status {
	q.mu.Lock()
	defer q.mu.Unlock()
	r := q.refusals[k]
	if r == nil || r.stale || r.told[pod.UID] != nil || r.members[pod.UID] == nil {
		return nil
	}
	r.told[pod.UID] = pod
	return r.status()
}

// refuse records a refusal, of which its leader knows. It returns the pods that were told another reason before: they are to
// be told this one.
func (q *queue) refuse(k gang.Key, r *refusal) (retell []*v1.Pod) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if before := q.refusals[k]; before != nil && before.reason != r.reason {
		for uid, p := range before.told {
			if uid != r.leader && r.members[uid] != nil {
				retell = append(retell, p)
			}
		}
	}
	r.told = map[types.UID]*v1.Pod{r.leader: r.members[r.leader]}
	q.refusals[k] = r
	return retell
}

// stands reports whether the gang is still refused so.
func (q *queue) stands(k gang.Key, r *refusal) bool {
	q.mu.RLock()
	defer q.mu.RUnlock()
	return q.refusals[k] == r && !r.stale
}

// accept ends a refusal: the gang has a plan.
func (q *queue) accept(k gang.Key) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.refusals, k)
}

// overturn ends the refusal of a gang that cannot be planned any more, whatever is free. It returns the members that were told that
// there is no room: an autoscaler acts on what they say until they are told otherwise, which takes a cycle.
func (q *queue) overturn(k gang.Key, members []*v1.Pod) (tell []*v1.Pod) {
	q.mu.Lock()
	defer q.mu.Unlock()
	r := q.refusals[k]
	if r == nil {
		return nil
	}
	delete(q.refusals, k)
	owed := map[types.UID]bool{}
	for _, p := range members {
		// Those that an earlier refusal told are not among the told; their condition is.
		if p.Spec.NodeName == "" && (r.told[p.UID] != nil || says(p, r.reason.String()+": ")) {
			owed[p.UID] = true
			tell = append(tell, p)
		}
	}
	if len(owed) > 0 {
		q.owed[k] = owed
	}
	return tell
}

// pay reports whether the member is to be told, once.
func (q *queue) pay(k gang.Key, uid types.UID) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	owed := q.owed[k][uid]
	if delete(q.owed[k], uid); len(q.owed[k]) == 0 {
		delete(q.owed, k)
	}
	return owed
}

// reviewRefusal takes the gang's members as they are now into account. It returns the pod to try: the one that leads from now
// on where the leader is gone, for events may have passed by while there was none, and the leader where the members changed.
func (q *queue) reviewRefusal(k gang.Key, members []*v1.Pod) (lead []*v1.Pod) {
	q.mu.Lock()
	defer q.mu.Unlock()
	r := q.refusals[k]
	if r == nil {
		return nil
	}
	var first, leader *v1.Pod
	changed := len(members) != len(r.members)
	for _, p := range members {
		changed = changed || r.members[p.UID] == nil
		if p.Spec.NodeName != "" {
			continue
		}
		if first == nil && len(p.Spec.SchedulingGates) == 0 {
			first = p
		}
		if p.UID == r.leader {
			leader = p
		}
	}
	switch {
	case first == nil:
	case leader == nil:
		r.leader, lead = first.UID, []*v1.Pod{first}
	case changed && !r.stale:
		lead = []*v1.Pod{leader} // fewer or other members may fit
	}
	r.stale = r.stale || changed
	return lead
}

// leads is the refusal that the pod leads, nil when there is none: the pod waits for something else, or another one leads.
func (q *queue) leads(k gang.Key, pod *v1.Pod) *refusal {
	q.mu.RLock()
	defer q.mu.RUnlock()
	if r := q.refusals[k]; r != nil && r.leader == pod.UID {
		return r
	}
	return nil
}
