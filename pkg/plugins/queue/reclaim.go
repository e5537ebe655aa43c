package queue

import (
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"

	"weft.sh/weft/pkg/podspec"
	"weft.sh/weft/pkg/quota"
)

// Reclaim is what pods that want to start together may take from others when there is no room, for plugin Gang, which chooses who leaves.
// caps are how much, in milli-GPU, may be taken from each group of pods. of says of a pod that runs whether it may leave for them: owed
// when their queue is guaranteed what the pod's has borrowed, whatever the priorities, and then in which groups it counts, and how much;
// ranked when priority decides. of is nil where there are no queues and for pods without GPUs: then priority decides about all.
//
// Priority decides within a queue and those below it, and about pods without GPUs. Between queues it does not: who was preempted
// within its guarantee could reclaim what it lost, and so on for ever.
func (s *State) Reclaim(pods []*v1.Pod) (caps []int64, of func(*v1.Pod) (groups []int, milliGPU int64, owed, ranked bool)) {
	if !s.active.Load() || len(pods) == 0 {
		return nil, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	set := s.set
	var job quota.Job
	for _, p := range pods {
		if c, ok := set.Claim(p, nil); ok {
			job = append(job, c)
		}
	}
	if len(job) == 0 {
		return nil, nil
	}
	own, v := set.QueueOf(pods[0])
	if !v.OK() {
		return nil, func(p *v1.Pod) ([]int, int64, bool, bool) { return nil, 0, false, !holdsGPUs(p) }
	}
	r := s.reclaim(job)
	below := map[string]bool{} // by queue: whether it is ours or below ours
	return r.Caps, func(p *v1.Pod) ([]int, int64, bool, bool) {
		if !holdsGPUs(p) {
			return nil, 0, false, true
		}
		queue, _ := set.QueueOf(p)
		if groups, ok := r.Groups(queue); ok {
			return groups, s.milliGPU(p), true, false
		}
		ours, known := below[queue]
		if !known {
			ours = queue == own || slices.Contains(set.Tree().Path(queue), own)
			below[queue] = ours
		}
		return nil, 0, false, ours
	}
}

// promise is a pod that others leave for, or one that leaves. It stands until the pod is bound or gone, and no longer than patience.
type promise struct {
	claim   quota.Claim
	leaves  bool
	expires time.Time
}

// promisePatience is longer than most grace periods. What is promised for longer may be promised to another, too.
const promisePatience = time.Minute

// Promise says that the victims are about to leave for the pods: until they have, the next of the queue counts on neither.
func (s *State) Promise(pods, victims []*v1.Pod) {
	if !s.active.Load() {
		return
	}
	expires := s.now().Add(promisePatience)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range pods {
		if _, runs := s.running[p.UID]; runs {
			continue
		}
		if c, ok := s.set.Claim(p, nil); ok {
			c.Start = s.now().Unix()
			s.promises[p.UID] = promise{claim: c, expires: expires}
		}
	}
	for _, p := range victims {
		if c, ok := s.running[p.UID]; ok {
			s.promises[p.UID] = promise{claim: c, leaves: true, expires: expires}
		}
	}
}

// reclaim is quota's answer when all that is promised has happened. The lock is held.
func (s *State) reclaim(job quota.Job) quota.Reclaim {
	now := s.now()
	for uid, p := range s.promises {
		_, runs := s.running[uid]
		if runs != p.leaves || p.expires.Before(now) || !runs && s.waiting[uid] == nil {
			delete(s.promises, uid)
			continue
		}
		if s.holds[uid] != nil || slices.ContainsFunc(job, func(c quota.Claim) bool { return c.ID == p.claim.ID }) {
			continue
		}
		if p.leaves {
			s.book.Delete(p.claim.ID)
			defer s.book.Set(s.running[uid])
		} else {
			s.book.Set(p.claim)
			defer s.book.Delete(p.claim.ID)
		}
	}
	return s.book.Reclaim(job)
}

// milliGPU is what the book has of the pod.
func (s *State) milliGPU(p *v1.Pod) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c, ok := s.running[p.UID]; ok {
		return c.MilliGPU
	}
	c, _ := s.set.Claim(p, nil)
	return c.MilliGPU
}

// holdsGPUs reports whether the pod may hold GPUs.
func holdsGPUs(p *v1.Pod) bool {
	r, err := podspec.Request(p)
	return err != nil || !r.Empty()
}
