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
//	                            │        Bind: the GPUs              Reconcile
//	                            └──────────────────────────────────────────────────────▶ (none)
//	                                     Reconcile: the kubelet does not know it
//
// Its name is the name of the CDI device that Allocate answers. It is never used twice, so that a container runtime which has not
// noticed a new specification yet finds none rather than another container's.
//
// # Invariants
//
//   - A bound record's GPUs are those of its pod's assignment, and no two pods hold the same of a GPU ([Book.Decide]).
//   - A record that no live pod holds is released by [Book.Reconcile], one that a live pod holds never is.
//   - The book can be rebuilt from what the kubelet and the API server know ([Book.Recover]).
//
// The package knows neither kubelet nor API server; both are described to it by [Claim] and [Pod].
package slot
