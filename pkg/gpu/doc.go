// Package gpu holds the values that every other package speaks: what a node has ([Device]), what a pod asks
// ([Request]) and what it was given ([Assignment]), with the text form in which an assignment travels.
//
// # Vocabulary
//
// A GPU is the hardware. It is given out in one of three ways, never two at once:
//
//   - whole: one container has all of it;
//   - shared: containers hold shares of it, in milli-GPU of compute and MiB of memory;
//   - partitioned: it is in MIG mode, and containers hold MIG instances of it.
//
// A grant is what one container holds of one GPU. An assignment is all grants of a pod.
//
// # Units
//
// Amounts are int64 and carry the unit in the name: milliGPU (1000 is one GPU), memoryMiB. There are no floats.
//
// The package decides nothing and knows no Kubernetes object; it only keeps the invariants of its types.
package gpu
