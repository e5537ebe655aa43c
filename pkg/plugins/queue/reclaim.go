package queue

import (
	"slices"

	v1 "k8s.io/api/core/v1"

	"weft.sh/weft/pkg/podspec"
	"weft.sh/weft/pkg/quota"
)

// Reclaim is what pods that want to start together may take from others when there is no room, for plugin Gang, which chooses who leaves.
// caps are how much, in milli-GPU, may be taken from each group of pods. of says of a pod that runs whether it may leave for them: owed
// when their queue is guaranteed what the pod's has borrowed, whatever the priorities, and then in which groups it counts, and how much;
// ranked when priority decides. of is nil where there are no queues: then priority decides about all.
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
	own, v := set.QueueOf(pods[0])
	if !v.OK() {
		return nil, func(p *v1.Pod) ([]int, int64, bool, bool) { return nil, 0, false, !holdsGPUs(p) }
	}
	var job quota.Job
	for _, p := range pods {
		if c, ok := set.Claim(p, nil); ok {
			job = append(job, c)
		}
	}
	r := s.book.Reclaim(job)
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
