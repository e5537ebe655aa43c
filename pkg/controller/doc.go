// Package controller is weft-controller: it says in the status of every PodGroup, of either kind, where its gang stands,
// and evicts the members of gangs that are partial for too long or have to start again. It decides nothing itself: that is
// [gang.Judge].
//
// It works without the scheduler, and the scheduler without it: what a gang may lose after its members were bound is nothing
// that a scheduler could give back, and a gang must not stay partial because the scheduler is down.
//
// # State
//
// Everything is read from pods and PodGroups. What has to outlive the process, since when a gang is partial, stands in the
// PodGroup's status. One replica at a time works, the holder of a Lease; the others only fill their caches.
//
// The status of a PodGroup has more fields than its first definition: one that was installed by somebody else may drop scheduled
// and message, and nothing depends on those. Its field scheduleStartTime holds since when the gang is partial, or when the
// member was lost for which the others leave; there is none otherwise.
//
// # Whose gangs
//
// Only gangs whose members name one of the schedulers that the controller is for. One that another scheduler places is left
// alone: not even its status is written.
//
// # PodGroups of scheduling.k8s.io
//
// They are judged by the same function and by the same policies, where the API server serves them when the controller starts. The
// status of that kind belongs to Kubernetes, whose scheduler writes conditions of its own there, so the controller's stands in one
// condition that nobody else writes, [ConditionWhole]. An annotation would need the right to change what a PodGroup asks for. A
// group that has neither pods nor this condition is left alone, for nobody knows whose it will be.
//
// # A PodGroup that is gone
//
// Its pods are no gang any more, and nothing is evicted. When it is gone for good while some of them have a place and others
// have none, they are told by an event: there is no status that could say it.
//
// # Eviction
//
// Members leave by the Eviction API, never by a plain deletion: a PodDisruptionBudget that protects a member wins, and the
// eviction is tried again, each time after twice the pause, at most a minute. Each eviction names the UID of the pod, so
// that its successor of the same name stays.
package controller
