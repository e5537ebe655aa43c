// Package migsim lets pods that ask for MIG instances and for shares of GPUs come to a cluster and leave it again, in virtual time,
// and measures how many of them a policy has a place for.
//
// # Protocol
//
// Every node has eight GPUs: four in MIG mode, partitioned on demand, and four that are shared. Nodes take turns through the models.
// Two Poisson streams of pods arrive, one for each half, and every pod that is accepted stays for an exponential time of mean 1, which
// is the unit of time. A stream's rate is such that the pods that it offers would hold load times its half if all were
// accepted. A pod that has no place is refused and does not come again. What the pods ask for is drawn from a [Mix]: shares
// as they are, and for MIG the smallest of 1g, 2g, 3g, 4g and 7g that has as many sevenths. A profile's name says a memory size,
// so a pod that asks for one asks for a model; models whose profiles are the same make one pool, and a pod's pool is drawn by their
// number of GPUs. CPU and memory never run out.
//
// All draws come before the first pod arrives, from one seed: every policy sees the same pods (see [Study]).
//
// The first lifetimes fill the cluster and are not measured.
//
// # Reconfiguration
//
// An instance stays when its pod leaves, and a pod of the same profile can have it as it is. A pod that is placed elsewhere makes one,
// and the unused instances in its way are destroyed: one reconfiguration. What is used is never touched.
//
// # What cannot be exceeded
//
// Two figures stand beside each result; see [packing] and [bound] for what they are worth.
//
// The same seed gives the same result, whatever the number of processors. Only the speed is measured on the wall clock.
package migsim
