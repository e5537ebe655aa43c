// Package quota decides who may start: GPUs at the same time, and GPU-hours in a period, for queues in a tree.
//
// # Vocabulary
//
// A queue is a name with what an admin grants it ([Spec]). A claim is what one pod has or wants of a queue ([Claim]): GPUs now, and
// GPU time until it ends. A job is what starts together: one pod, or the members of a gang ([Job]).
//
// Used is GPU time that has passed and is on the books: the ledger's, up to a moment called asOf. Held is GPU time that what runs may
// still use: computed from the claims alone, never stored. Need is what a job would hold. A job may start when, at each queue from
// its own to the top, and in each period that it would touch,
//
//	used + held + need <= limit
//
// This is the rule of Slurm's GrpTRESMins with its flag safe, with periods, in seconds instead of minutes.
//
// Held counts from asOf, not from now. As time passes hours go from held to used and the sum stays: so a checkpoint may be old, for
// as long as nobody who ended since is forgotten (see [Claim.End]).
//
// # Limits and guarantees
//
// A limit holds back, and a guarantee takes back: a job that stays within the guarantee of its queue, and that only limits hold back, can have
// what others borrowed below them ([Book.Obtainable], [Book.Reclaim]). What is left below a limit goes by priority and age within a queue
// ([Book.Behind]).
//
// # Units
//
// GPUs are milli-GPU, GPU time is milli-GPU-seconds, times are whole Unix seconds, durations whole seconds, all int64. What a class
// of GPUs weighs is applied to the rate, not to the time: a claim that holds 250 milli-GPU of weight 1.5 is charged 375 milli-GPU
// for each second. So sums are exact whatever their order. A million GPUs for ten years are 3.2e17 milli-GPU-seconds; sums that
// would pass an int64 stay at its end, which admits nothing.
//
// The package is pure: no clock, no client, no log.
package quota
