// Package simulator runs a list of pods against a list of nodes in virtual time and measures how much of the GPUs a policy
// gets allocated.
//
// # Vocabulary
//
// A [Workload] is a node list and a pod list. A class is a shape of pod; the pods of the trace come in few. A [Policy] says
// which node a pod goes to and which GPUs of it. A run is one workload under one policy with one seed; [Line] is what came
// of it.
//
// # Engines
//
// Engine "core" decides by the pure core alone: no API server, no objects. It keeps a compact state of the nodes (CPU,
// memory and the share left of each GPU, which is all that the published protocol knows) and, for every class that has
// come, the score of every node. A score depends on the node and the class only, so that it holds until the node changes
// (the policy says when it has learned something else), and a pod costs the scores of the nodes that changed since a pod
// of its class came last, and one pass over the scores.
//
// Engine "framework" asks a [Scheduler] outside of this package: the real one, see package framework. What arrives and what is
// measured is the same, and what the scheduler says is checked against the same state.
//
// # Protocol
//
// Pods arrive one by one and never leave; a pod that has no place is dropped. Which pods arrive in which order is drawn from
// the seed exactly as in the experiments of "Beware of Fragmentation" (Weng et al., USENIX ATC 2023), so that their
// published figures can be reproduced; see [Workload.arrivals] for the draws.
//
// The same seed gives the same result, whatever the number of processors: nothing depends on the order of maps or of
// goroutines. Only the speed is measured on the wall clock.
package simulator
