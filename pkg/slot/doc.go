// Package slot is the pure half of the node agent: what the kubelet counts, who holds it, and which GPUs a container that
// holds it gets.
//
// # Why slots
//
// The kubelet counts devices by name and never says which pod an Allocate is for, so the names it hands out cannot be GPUs: the
// choice would be the kubelet's. The agent advertises slots instead, names without a meaning, as many as there is to give. Which
// GPUs the holder of a slot gets is decided when its container starts, from the assignment that the scheduler wrote into the pod.
//
// # Life of a record
//
// A [Record] is one answer to Allocate. It is kept in the [Book], which the agent saves before each step takes effect:
//
//	            Allocate                 PreStartContainer                pod over
//	(none) ───────────────▶ allocated ─────────────────────▶ bound ───────────────────▶ (none)
//	                            │        Bind: the GPUs        │     Reconcile           ▲
//	                            │                              │ pod vanished            │
//	                            │                              ▼                         │
//	                            │                           missing ─────────────────────┤
//	                            │                                     the kubelet frees  │
//	                            │                                     it, or Grace       │
//	                            └────────────────────────────────────────────────────────┘
//	                               pod over, or the kubelet does not know it after Grace
//
// Its name is the name of the CDI device that Allocate answers. It is never used twice, so that a container runtime which has not
// noticed a new specification yet finds none rather than another container's.
//
// # What the kubelet does
//
// The rules here rest on what the kubelet's device manager does (Kubernetes 1.34 to 1.37):
//
//   - It writes its checkpoint after an Allocate and before the container starts. So a container that starts stands in it as a rule,
//     under the name that Allocate answered. It need not: what the checkpoint is to have is collected under a lock and written
//     without it, also when a device plugin sends a list, so that of two at a time the older may be written last. What an Allocate
//     has added is then missing until the next writing. So a container that is not found is no refusal but [ErrNoOwner], after which
//     the kubelet is asked again; and a record that the checkpoint is without is released only where something else speaks against
//     it too: that it has had [Grace] and was never bound, that its pod is gone or over, or that a newer one was bound for the same
//     container. It does not write when a pod ends: until the next Allocate the checkpoint has pods that are no more.
//   - It uses the slots of an init container again for the containers after it: the same, some of them, or some more. All of these
//     claims stand in the checkpoint for as long as the pod lives. PodResources lists no init containers but sidecars.
//   - When it starts, PodResources lists nothing until the API server has told it its pods. The checkpoint stays as it was.
//   - A container that runs while it starts keeps its slots. One that does not, after the node was rebooted, is admitted anew: with the
//     slots of the checkpoint, or with others where that was lost.
//   - It forgets a pod that is deleted without waiting (grace period 0) at once, while its containers may take their time to end. Its
//     successor may even have its name, and its slots.
//
// # Invariants
//
//   - A bound record's GPUs are those of its pod's assignment, and no two pods hold the same of a GPU ([Book.Decide]). All records of a
//     pod are bound by one assignment: whoever changes the annotation later gets nothing by it.
//   - A record that no live pod holds is released by [Book.Reconcile], one that a live pod holds never is.
//   - The name of a record never moves to another pod ([Book.Bind]).
//   - The book can be rebuilt from what the kubelet and the API server know ([Book.Recover]).
//   - As many slots are healthy as there are sound GPUs to stand for, and the containers on the others are told ([Book.States]).
//
// The package knows neither kubelet nor API server; both are described to it by [Claim] and [Pod].
package slot
