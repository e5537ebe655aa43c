package accounts

import (
	"cmp"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"weft.sh/weft/pkg/ledger"
	"weft.sh/weft/pkg/podspec"
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
		PodUID: string(pod.UID), Namespace: pod.Namespace, Pod: pod.Name, Node: pod.Spec.NodeName, Bound: min(podspec.BoundAt(pod), now),
	}
	if owner := metav1.GetControllerOf(pod); owner != nil {
		o.Workload = owner.Kind + "/" + owner.Name
	}
	started, finished, stopped := podspec.Ran(pod)
	if started != 0 {
		o.Running = min(max(started, o.Bound), now)
	}
	over := pod.Status.Phase == v1.PodSucceeded || pod.Status.Phase == v1.PodFailed
	switch {
	case finished != 0 && (over || there != Present && stopped):
		o.End, o.Evidence = finished, ByContainers
	case over:
		o.End, o.Evidence = cmp.Or(podspec.ChangedAt(pod), now), ByPhase
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
