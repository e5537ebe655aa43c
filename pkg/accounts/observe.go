package accounts

import (
	"iter"
	"slices"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"weft.sh/weft/pkg/ledger"
)

// Presence is whether a pod's object is there.
type Presence uint8

const (
	// Present: it is there, or was when it was last heard of.
	Present Presence = iota
	// Deleted: its deletion was seen just now.
	Deleted
	// Missed: it is not there any more, and nobody saw it go.
	Missed
)

// Observe reads from when to when the pod holds its GPUs, false when it was never bound. Pod is its last known state. Charged is the moment to which the ledger has charged it, and tick
// the time between two ticks: only for Missed. The caller fills in the terms.
func Observe(pod *v1.Pod, there Presence, now, charged, tick int64) (Observation, bool) {
	if pod.Spec.NodeName == "" {
		return Observation{}, false
	}
	o := Observation{
		PodUID: string(pod.UID), Namespace: pod.Namespace, Pod: pod.Name, Node: pod.Spec.NodeName, Bound: min(bound(pod), now),
	}
	if owner := metav1.GetControllerOf(pod); owner != nil {
		o.Workload = owner.Kind + "/" + owner.Name
	}
	started, finished, all := containers(pod)
	if started != 0 {
		o.Running = min(max(started, o.Bound), now)
	}
	over := pod.Status.Phase == v1.PodSucceeded || pod.Status.Phase == v1.PodFailed
	switch {
	case finished != 0 && (over || there != Present && all):
		o.End, o.Evidence = finished, ByContainers
	case over:
		o.End, o.Evidence = lastChange(pod, now), ByPhase
	case there == Deleted:
		o.End, o.Evidence = now, ByDeleted
	case there == Missed && pod.DeletionTimestamp != nil:
		o.End, o.Evidence, o.Estimated = pod.DeletionTimestamp.Unix(), ByDeadline, true
	case there == Missed:
		o.End, o.Evidence, o.Estimated = lost(max(charged, o.Bound), now, tick), ByMissing, true
	}
	if o.End != 0 {
		o.End = min(max(o.End, o.Bound), now)
	}
	return o, true
}

// lost is when a pod is taken to have ended that was there at the moment from, and is not there now: half-way, but no more than a tick
// after from. So it is wrong by a tick at most where nobody looked for up to two.
func lost(from, now, tick int64) int64 {
	return from + min(tick, max(now-from, 0)/2)
}

// CloseMissing closes the account of a pod of which nothing is left but its segments. It returns nil when the account is settled.
func CloseMissing(was []ledger.Segment, now, charged, tick int64) []ledger.Segment {
	if len(was) == 0 || Settled(was) {
		return nil
	}
	last := was[len(was)-1]
	if last.End != 0 {
		return nil // what follows was never begun
	}
	last.End = lost(max(charged, last.Start), now, tick)
	last.Through, last.Closed, last.Estimated = last.End, string(ByMissing), true
	return []ledger.Segment{last}
}

// bound is when the pod got its node.
func bound(pod *v1.Pod) int64 {
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

// containers says when the first container began to run and the last one ended, 0 where none did, and whether all have ended and
// none waits to be started, or started again.
func containers(pod *v1.Pod) (started, finished int64, all bool) {
	all = true
	for s := range statuses(pod) {
		all = all && s.State.Terminated != nil
		if r := s.State.Running; r != nil {
			started = earliest(started, r.StartedAt)
		}
		for _, t := range []*v1.ContainerStateTerminated{s.State.Terminated, s.LastTerminationState.Terminated} {
			if t == nil {
				continue
			}
			started = earliest(started, t.StartedAt)
			if !t.FinishedAt.IsZero() {
				finished = max(finished, t.FinishedAt.Unix())
			}
		}
	}
	return started, finished, all
}

func statuses(pod *v1.Pod) iter.Seq[*v1.ContainerStatus] {
	return func(yield func(*v1.ContainerStatus) bool) {
		for _, list := range [][]v1.ContainerStatus{pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses} {
			for i := range list {
				if !yield(&list[i]) {
					return
				}
			}
		}
	}
}

// earliest is the earlier of both; 0 and the zero time are unknown.
func earliest(a int64, b metav1.Time) int64 {
	if b.IsZero() || a != 0 && a <= b.Unix() {
		return a
	}
	return b.Unix()
}

// lastChange is when the status of a pod that ended without a container last changed, and now when that is not known.
func lastChange(pod *v1.Pod, now int64) int64 {
	at := slices.MaxFunc(append([]v1.PodCondition{{}}, pod.Status.Conditions...), func(a, b v1.PodCondition) int {
		return a.LastTransitionTime.Compare(b.LastTransitionTime.Time)
	}).LastTransitionTime
	if at.IsZero() {
		return now
	}
	return at.Unix()
}
