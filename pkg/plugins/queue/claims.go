package queue

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"

	"weft.sh/weft/pkg/gang"
	"weft.sh/weft/pkg/podgroup"
	"weft.sh/weft/pkg/podspec"
	"weft.sh/weft/pkg/queues"
	"weft.sh/weft/pkg/quota"
)

// hold is the claim of a pod that is being bound.
type hold struct {
	claim quota.Claim
	gang  gang.Key
	// own says that the pod has passed Reserve itself: then its own Unreserve or its binding ends the hold. Without it the hold is for a
	// member of a gang whose turn is yet to come, or for a pod of which it is not known whether it is bound, and lasts as long as
	// the pod has GPUs in the cache.
	own bool
}

// errOverQuota says that the queue had room when the pod was let through, and has none any more.
var errOverQuota = errors.New("the queue has given to others meanwhile")

// reserve checks the job against its queue once more, and takes the hold: for the whole gang at once, as far as it is planned. on is
// the pod's node.
func (s *State) reserve(pod *v1.Pod, on *v1.Node) error {
	if !s.active.Load() {
		return nil
	}
	nodes := s.informers.Core().V1().Nodes().Lister()
	s.mu.Lock()
	defer s.mu.Unlock()
	id := s.idOf(pod)
	claim, ok := s.set.ClaimOn(pod, on)
	if h := s.holds[pod.UID]; !ok || h != nil && h.claim.Rate == claim.Rate && h.claim.Queue == claim.Queue {
		if h != nil {
			h.own = true // it was taken for it with the first member's
		}
		return nil
	}
	claims, need := quota.Job{claim}, 1
	if id.gang != (gang.Key{}) {
		members := s.membersOf(&job{id: id})
		need = s.lacks(id.gang, members, pod.UID)
		for _, p := range members {
			if p.UID == pod.UID || p.Spec.NodeName != "" || s.holds[p.UID] != nil {
				continue
			}
			name, _, _, planned := s.options.GPUs.Cache().Holding(string(p.UID))
			if !planned {
				continue
			}
			node, err := nodes.Get(name)
			if err != nil {
				return fmt.Errorf("node %s of %s/%s: %w", name, p.Namespace, p.Name, err)
			}
			if c, ok := s.set.ClaimOn(p, node); ok {
				claims = append(claims, c)
			}
		}
	}
	if _, v := s.set.QueueOf(pod); !v.OK() {
		return fmt.Errorf("%w: %s", errOverQuota, v.Message())
	}
	if was := s.holds[pod.UID]; was != nil {
		s.book.Delete(was.claim.ID) // of another class: what is in the book is not asked about again
	}
	// Of other members that are bound or hold already the book knows.
	required := claims[:max(0, min(need, len(claims)))]
	if v := s.admit(required); claim.Queue != "" && !v.OK() {
		if was := s.holds[pod.UID]; was != nil {
			s.book.Set(was.claim)
		}
		return fmt.Errorf("%w: %s", errOverQuota, v.Message())
	}
	delete(s.holds, pod.UID)
	s.hold(id.gang, pod.UID, required)
	for i := len(required); i < len(claims); i++ {
		// Who gets none here is asked about again at PreBind: if it were refused now, the plan of all could be undone.
		if one := claims[i : i+1]; s.admit(one).OK() {
			s.hold(id.gang, pod.UID, one)
		}
	}
	s.changed()
	return nil
}

// hold takes holds for claims that start now; own is the pod whose cycle it is. The lock is held.
func (s *State) hold(k gang.Key, own types.UID, claims quota.Job) {
	for _, c := range claims {
		c.Start = s.now().Unix()
		s.holds[types.UID(c.ID)] = &hold{claim: c, gang: k, own: types.UID(c.ID) == own}
		s.book.Set(c)
	}
}

// lacksHold reports whether the pod, a member of a gang, was let through Reserve without a hold.
func (s *State) lacksHold(pod *v1.Pod) bool {
	if _, ok := podgroup.KeyOf(pod); !ok || !s.active.Load() {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.idOf(pod).gang != (gang.Key{}) && s.holds[pod.UID] == nil
}

// holdSurplus takes the hold of a member that Reserve let through without.
func (s *State) holdSurplus(pod *v1.Pod, on *v1.Node) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	claim, ok := s.set.ClaimOn(pod, on)
	if !ok || s.holds[pod.UID] != nil {
		return nil
	}
	one := quota.Job{claim}
	if v := s.admit(one); !v.OK() {
		return fmt.Errorf("%w: %s", errOverQuota, v.Message())
	}
	s.hold(s.idOf(pod).gang, pod.UID, one)
	s.changed()
	return nil
}

// unreserve gives the pod's hold back, and with it those of members of its gang that are not planned any more. Whoever still has GPUs
// in the cache keeps his: he is tried again on the same place, or nobody knows whether he is bound. Plugins Gang and GPUFit have done
// theirs before.
func (s *State) unreserve(pod *v1.Pod) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.holds[pod.UID]
	if h == nil {
		return
	}
	h.own = false
	s.release(func(uid types.UID, other *hold) bool {
		return uid == pod.UID || other.gang == h.gang && h.gang != (gang.Key{})
	})
}

// release gives back the holds, of those that are asked for, whose pods have no GPUs in the cache. The lock is held.
func (s *State) release(which func(types.UID, *hold) bool) {
	for uid, h := range s.holds {
		if h.own || !which(uid, h) {
			continue
		}
		if _, _, _, ok := s.options.GPUs.Cache().Holding(string(uid)); !ok {
			delete(s.holds, uid)
			if p, ok := s.promises[uid]; ok && !p.leaves {
				s.book.Set(p.claim) // it is tried again on what others left for it
			} else {
				s.book.Delete(string(uid))
			}
			s.changed()
		}
	}
}

// changed says that the book did. The lock is held.
func (s *State) changed() {
	s.version++
	s.records.due = true
	s.kick()
}

// podSeen is for a pod that came or changed.
func (s *State) podSeen(obj any) {
	pod, ok := obj.(*v1.Pod)
	if !ok {
		return
	}
	switch {
	case !podspec.Bound(pod) && pod.Spec.NodeName != "":
		s.podGone(pod)
	case pod.Spec.NodeName != "" && s.active.Load():
		s.bound(pod)
	default:
		s.mu.Lock()
		defer s.mu.Unlock()
		if w := s.waiting[pod.UID]; w != nil && w.pod != pod {
			was := w.pod
			if w.pod.Generation != pod.Generation || !maps.Equal(w.pod.Labels, pod.Labels) || !maps.Equal(w.pod.Annotations, pod.Annotations) {
				s.changed()
			}
			s.note(pod)
			if w.gated && said(pod) != said(was) {
				s.teller.tell(pod.UID)
			}
		}
	}
}

// bound has the book count a pod that is.
func (s *State) bound(pod *v1.Pod) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drop(pod.UID)
	was, known := s.running[pod.UID]
	claim, ok := s.claimBound(s.set, pod)
	if !ok || known && was == claim {
		return
	}
	s.running[pod.UID] = claim
	delete(s.holds, pod.UID)
	if p, ok := s.promises[pod.UID]; ok && !p.leaves {
		delete(s.promises, pod.UID)
	}
	s.book.Set(claim)
	s.changed()
}

// claimBound is the claim of a bound pod. On a node that is not known (any more) it stays what it was.
func (s *State) claimBound(set *queues.Set, pod *v1.Pod) (quota.Claim, bool) {
	node, err := s.informers.Core().V1().Nodes().Lister().Get(pod.Spec.NodeName)
	if err != nil {
		if was, known := s.running[pod.UID]; known {
			return was, true
		}
		if h := s.holds[pod.UID]; h != nil {
			return h.claim, true
		}
		node = nil
	}
	return set.Claim(pod, node)
}

// podGone is for a pod that ended or was deleted. What it held stays on the book with its end, until the books have it: kube-scheduler's
// informer hides ended pods, so the end is often not known better than as now.
func (s *State) podGone(obj any) {
	tombstone, missed := obj.(cache.DeletedFinalStateUnknown)
	if missed {
		obj = tombstone.Obj
	}
	pod, ok := obj.(*v1.Pod)
	if !ok {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drop(pod.UID)
	claim, ran := s.running[pod.UID]
	h := s.holds[pod.UID]
	if _, promised := s.promises[pod.UID]; promised {
		if delete(s.promises, pod.UID); !ran && h == nil {
			s.book.Delete(string(pod.UID))
			s.changed()
		}
	}
	if h != nil {
		delete(s.holds, pod.UID)
		if claim = h.claim; !ran && !missed && pod.Spec.NodeName == "" {
			s.book.Delete(claim.ID)
			s.changed()
			return
		}
		ran = true // bound and ended, and an event was missed
	}
	if !ran {
		return
	}
	delete(s.running, pod.UID)
	claim.End = s.now().Unix()
	if c, ok := s.set.Claim(pod, nil); ok && c.End != 0 {
		claim.End = min(claim.End, c.End)
	}
	claim.End = max(claim.End, claim.Start)
	s.book.Set(claim)
	s.changed()
}

// recount makes the claims of all bound pods anew: a queue, a class or a node changed.
func (s *State) recount() {
	pods := s.pods()
	for chunk := range slices.Chunk(pods, chunkSize) {
		s.mu.Lock()
		for _, pod := range chunk {
			was, known := s.running[pod.UID]
			if !known || pod.Spec.NodeName == "" {
				continue
			}
			if claim, ok := s.claimBound(s.set, pod); ok && claim != was {
				s.running[pod.UID] = claim
				s.book.Set(claim)
				s.changed()
			}
		}
		s.mu.Unlock()
	}
}

// chunkSize is how many pods or jobs are looked at without letting PreEnqueue in between.
const chunkSize = 64
