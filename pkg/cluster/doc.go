// Package cluster holds the state that decisions are made on: for every node its GPUs as reported, the pods that hold
// them, and what is left.
//
// A [Node] is an immutable value: whatever changes it returns a new one, so that a node can be read by many goroutines,
// compared by pointer to tell whether it changed, and edited for a what-if without an undo. A [Snapshot] is the nodes of
// one scheduling cycle.
//
// What is left is always computed from inventory and pods, never kept beside them; a GPU that vanished from the inventory
// under a running pod takes nothing and blocks nothing, and is in use again when it returns.
//
// The package is pure: no clock, no client, no log.
package cluster
