// Package nvmlfake is an NVML for machines without a GPU: for tests and for the end-to-end test, never for a node.
//
// A [Node] describes what there is and what is wrong with it; a [Fake] answers as NVML would on such a node, through the
// interfaces of go-nvml, so that everything above go-nvml is the real thing: pkg/nvml, and NVIDIA's generator of CDI edits.
// What it does not model answers ERROR_NOT_SUPPORTED, as real GPUs do for most of NVML.
//
// # What is as on real nodes
//
//   - MIG: the placements of pkg/mig's tables; instances that would overlap, or of which there would be too many, are
//     refused with ERROR_INSUFFICIENT_RESOURCES, the destruction of what a process uses with ERROR_IN_USE.
//   - A GPU that is lost answers ERROR_GPU_IS_LOST to everything, and looking up any GPU by its UUID fails with it; waiting
//     for events of a GPU that is lost fails at once. It stays lost, even when the description mends it, until NVML is shut
//     down and initialised again, and so do handles of before then no longer work.
//   - A function that the described driver does not have is not found by LookupSymbol, and calling it panics: a real process
//     would end with a symbol lookup error. Functions whose results only go-nvml itself can make (those with V at the end,
//     such as GetGpuFabricInfoV) are never there.
//
// # Breaking GPUs at run time
//
// In one process, [Fake.Update] changes the description. From another one, the file that [FromFile] was given is written
// anew; it is read again by the next call after that, and by waiting for events. Instances that were created or destroyed
// through NVML are kept, until the file says something else of that GPU's MIG.
package nvmlfake
