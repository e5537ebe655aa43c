// Package nvml is the one place that speaks with NVIDIA's driver: through NVML (go-nvml), and through the generator of CDI
// edits of NVIDIA's container toolkit, which reads NVML too. It turns what they say into plain values, those of pkg/gpu and
// its own.
//
// # What is believed
//
// A driver can be half broken: one GPU of eight has fallen off the bus, a function is not supported by this GPU or not known
// to this driver, the tables of MIG contradict themselves. [Library.Discover] returns all that can be told and is sound in
// itself; what is not goes into [Host.Problems] and [GPU.Problem] as a sentence for people. Invariant: every [gpu.Device]
// that Discover returns is valid, and no two instances of one GPU overlap.
//
// NVML's "not supported" is never told as 0: such values are nil or missing.
//
// # Concurrency
//
// NVML may be called from many threads at once, so may a [Library]. Starting NVML anew (see [Library.Discover])
// waits until nobody is inside, for a few seconds at most: a call about a GPU that hangs does not hang those about others.
//
// # What it does not do
//
// It changes no setting of a device. It decides nothing: which GPU is given to whom is decided elsewhere.
package nvml
