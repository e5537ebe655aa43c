package podspec

import (
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// BoundAt is when the pod got its node, in Unix seconds: as its condition PodScheduled says, else as near as is known.
func BoundAt(pod *v1.Pod) int64 {
	for i := range pod.Status.Conditions {
		if c := &pod.Status.Conditions[i]; c.Type == v1.PodScheduled && c.Status == v1.ConditionTrue && !c.LastTransitionTime.IsZero() {
			return c.LastTransitionTime.Unix()
		}
	}
	if t := pod.Status.StartTime; t != nil {
		return t.Unix()
	}
	return pod.CreationTimestamp.Unix()
}

// Ran says when the pod's first container began to run and when the last one ended so far, in Unix seconds by the kubelet's clock, 0
// where none did. Stopped says that containers are known, that all have ended, and that none waits to be started, or started again.
func Ran(pod *v1.Pod) (started, finished int64, stopped bool) {
	stopped = len(pod.Status.ContainerStatuses) > 0
	for _, list := range [][]v1.ContainerStatus{pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses} {
		for i := range list {
			s := &list[i]
			stopped = stopped && s.State.Terminated != nil
			if r := s.State.Running; r != nil {
				started = earlier(started, r.StartedAt)
			}
			for _, t := range []*v1.ContainerStateTerminated{s.State.Terminated, s.LastTerminationState.Terminated} {
				if t == nil {
					continue
				}
				started = earlier(started, t.StartedAt)
				if !t.FinishedAt.IsZero() {
					finished = max(finished, t.FinishedAt.Unix())
				}
			}
		}
	}
	return started, finished, stopped
}

// earlier is the earlier of both; 0 and the zero time are unknown.
func earlier(a int64, b metav1.Time) int64 {
	if b.IsZero() || a != 0 && a <= b.Unix() {
		return a
	}
	return b.Unix()
}

// ChangedAt is when a condition of the pod changed last, in Unix seconds; 0 when none has a time. It is the end of a pod that ended and
// of which nobody wrote down when its containers did.
func ChangedAt(pod *v1.Pod) (at int64) {
	for i := range pod.Status.Conditions {
		if t := pod.Status.Conditions[i].LastTransitionTime; !t.IsZero() {
			at = max(at, t.Unix())
		}
	}
	return at
}
