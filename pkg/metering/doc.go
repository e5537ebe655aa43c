// Package metering tells what the containers of a node hold of its GPUs, since when, what that adds up to, and beside it how much
// of it they use.
//
// # Allocation
//
// What a container holds is read from the node agent's book (pkg/slot), and from nothing else. A hold is one container's part of one
// GPU, or one MIG instance, from the moment the container was first given it (slot.Holder.Bound) until the record is released. It
// counts in milli-GPU: 1000 for a whole GPU, the share's, or for a MIG instance the part that its memory slices are of the GPU's, as
// cluster.Node.AssignedMilliGPU counts it. The sum is milliGPU x milliseconds, an integer, and computed from the moment in the book
// each time: a restart of the agent loses nothing of it and counts nothing twice.
//
// An init container that has ended keeps what it had for the pod, as in the kubelet's accounting and the scheduler's. A container
// that starts after it takes over from it, so that no part of a GPU is counted for two containers of a pod.
//
// # Use
//
// NVML measures GPUs, MIG devices and processes. A container that holds a GPU whole, or a MIG instance, used what was used of it. For
// one that holds a share the processes are summed that run in it: the kernel says in which control group a process is, whose name
// has the pod's UID and the container's ID. What cannot be attributed to a container that holds something of the GPU is told as such,
// with the reason, and never divided among those who do.
//
// # What it does not do
//
// It keeps no history beyond the holds that ended last; accounting for good is the ledger's. Nothing is decided by it.
package metering
