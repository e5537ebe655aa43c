// Package mig knows how a GPU in MIG mode can be divided and chooses where the MIG instances of a pod go.
//
// # Vocabulary
//
//   - A memory slice is the unit of NVML's placements: an A30 has 4, every other GPU here 8.
//   - A compute slice is the unit of the number before the "g" in a profile's name: an A30 has 4, the others 7. Compute and
//     memory slices do not run in step: 3g takes 3 compute slices and 4 memory slices.
//   - A profile is a kind of instance, for example 3g.40gb. A placement is a profile at a start, in memory slices: a
//     [gpu.Instance]. Only some starts are legal; 3g may start at 0 or 4.
//   - An [Offer] is the set of placements that one GPU can give. Placements that overlap are alternatives. A GPU that is
//     partitioned on demand offers every legal placement; one of fixed geometry offers the instances that exist, which do
//     not overlap.
//   - A [State] is an offer and what of it is used. A placement is free when it can still be given: it overlaps nothing
//     used, and the media engines that it may need are not taken (see [NewOffer]).
//
// # Choosing
//
// [Place] chooses a GPU and a start for every instance that a pod wants so that the least is destroyed. What is destroyed
// is counted in memory slices: each free placement weighs its size, and the loss is the weight of the placements that
// could be given before and cannot be afterwards, without the ones that were chosen.
//
// The weight is the size because the placements of one profile never overlap each other on any GPU in the tables, so the
// free weight of one profile is the number of memory slices that can still be given as this profile ([Usable]), and the
// loss is the drop of that number summed over the profiles. Every profile then counts about the same, at most the whole
// GPU: losing the one place of a 7g costs as much as losing both places of 3g. Counting placements instead would let seven
// places of 1g outweigh it.
//
// # Invariants
//
//   - No two chosen placements overlap, and none overlaps what is used.
//   - Only placements that the GPU offers are chosen.
//   - The same states and the same wanted profiles give the same choice; the order in which the used instances were listed
//     has no influence.
//
// # What it does not do
//
// It creates and destroys no instance, reads no NVML and knows no pod. The tables serve simulation, tests and admission
// messages; production reads the placements of each GPU from NVML, whose memory sizes and even profile names change with
// the driver. Memory slices are all that bounds a mix here; that compute slices never run out first is checked for every
// table by a test. It does not move instances: one in use stays where it is.
package mig
