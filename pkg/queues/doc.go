// Package queues reads Queues, GPUClasses and namespaces, and what pods ask and hold, into the values of package quota: which queue a
// pod is in and whether it may be, what class its GPUs are of, and what it is charged. Scheduler, controller and command line read
// them through it, so that all three compute the same.
package queues
