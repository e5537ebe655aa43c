// Package queues reads Queues, GPUClasses and namespaces, and what pods ask and hold, into the values of package quota: which queue a
// pod is in and whether it may be, what class its GPUs are of, and what it is charged. Scheduler, controller and command line read
// them through it, so that all three compute the same.
//
// A [Set] is all of that at one moment, and a pure function of the objects; a [Tracker] keeps the set of now.
//
// # What is not believed
//
// Objects pass the validation of their definitions before they come here, and are checked again all the same. A queue with a field
// that cannot be read, and each below it, holds its pods back; what can be read of it counts, so that what runs stays counted. A class
// that cannot be read is left out. Either is named in [Set.Problems].
//
// What runs is counted whatever its queue: a pod whose queue was deleted, or that may not use it any more, has a claim of that name.
//
// # Counting
//
// A whole GPU is 1000 milli-GPU, a share as many as it says, a MIG instance its memory slices over those of the GPU: 1g.10gb on a GPU of
// eight slices is 125, and seven of them are 875. Pods that wait are counted by what they ask for; an instance then has the size that the
// profile has on the node's model, or the least that it has on any.
package queues
