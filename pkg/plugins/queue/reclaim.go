package queue

import (
	"slices"

	v1 "k8s.io/api/core/v1"

	"weft.sh/weft/pkg/gang"
	"weft.sh/weft/pkg/podspec"
	"weft.sh/weft/pkg/quota"
)

// Reclaim is what pods that want to start together may take from others when there is no room, for plugin Gang, which chooses who leaves.
// caps are how much, in milli-GPU, may be taken from each group of pods, and must be for the limits of queues, when the pods that leave
// have left. of says of a pod that runs whether it may leave for them: owed
// when their queue is guaranteed what the pod's has borrowed, whatever the priorities, and then in which groups it counts, and how much;
// ranked when priority decides. of is nil where there are no queues and for pods without GPUs: then priority decides about all.
//
// Priority decides within a queue, below it about what queues have above their guarantees, and about pods without GPUs. Between queues it
// does not: who was preempted within its guarantee could reclaim what it lost, and so on for ever.
func (s *State) Reclaim(pods, leaving []*v1.Pod) (caps gang.Caps, of func(*v1.Pod) (groups []int, milliGPU int64, owed, ranked bool)) {
	if !s.active.Load() || len(pods) == 0 {
		return caps, nil
	}
	told := slices.DeleteFunc(s.pods(), func(p *v1.Pod) bool { return p.DeletionTimestamp == nil || p.Spec.NodeName == "" })
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
		return caps, nil
	}
	own, v := set.QueueOf(pods[0])
	if !v.OK() {
		return caps, func(p *v1.Pod) ([]int, int64, bool, bool) { return nil, 0, false, !holdsGPUs(p) }
	}
	r := s.reclaim(job, leaving, told)
	return gang.Caps{MilliGPU: r.Caps, Least: r.Least}, func(p *v1.Pod) ([]int, int64, bool, bool) {
		if !holdsGPUs(p) {
			return nil, 0, false, true
		}
		queue, _ := set.QueueOf(p)
		if groups, ok := r.Groups(queue); ok {
			return groups, s.milliGPU(p), true, false
		}
		if groups, ok := r.Ranked(queue); ok {
			return groups, s.milliGPU(p), false, true
		}
		return nil, 0, false, own == "" && queue == ""
	}
}

// reclaim is quota's answer when all that is promised has happened, and those have left that leave. Those that were told to leave and
// are not among them may stay for ever: what is taken in their place is no more than what their queues have without them, and still
// nobody counts on their room. The lock is held.
func (s *State) reclaim(job quota.Job, leaving, told []*v1.Pod) quota.Reclaim {
	defer s.without(job)()
	defer s.departed()()
	var gone, lingering quota.Job
	take := func(p *v1.Pod) (c quota.Claim, ok bool) {
		if c, ok = s.running[p.UID]; ok {
			if _, ok = s.book.Holder(c.ID); ok {
				s.book.Delete(c.ID)
				gone = append(gone, c)
			}
		}
		return c, ok
	}
	for _, p := range leaving {
		take(p)
	}
	for _, p := range told {
		if c, ok := take(p); ok && c.End == 0 { // one that ended takes no room
			lingering = append(lingering, c)
		}
	}
	defer func() {
		for _, c := range gone {
			s.book.Set(c)
		}
	}()
	return s.book.Reclaim(job, lingering...)
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
