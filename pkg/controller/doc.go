// Package controller is weft-controller: it says in the status of every PodGroup of scheduling.x-k8s.io where its gang stands,
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
// alone: not even its status is written. PodGroups of scheduling.k8s.io have a controller in Kubernetes.
//
// # Eviction
//
// Members leave by the Eviction API, never by a plain deletion: a PodDisruptionBudget that protects a member wins, and the
// eviction is tried again, each time after twice the pause, at most a minute. Each eviction names the UID of the pod, so
// that its successor of the same name stays.
package controller
