// Package nvlink chooses GPUs inside one node by how they are wired to each other.
//
// A [Graph] has for every two GPUs of a node a [Bandwidth]: how much they can exchange, as an integer that orders. NVLinks
// count one by one, those that lead from one GPU straight to the other and those that lead to the node's NVSwitches,
// through which every GPU of the switches reaches every other. Two GPUs without a link between them talk over PCIe, where
// all that is known is whether they hang on the same NUMA node; nothing says which PCIe switch or host bridge they share.
// What only one side reports, and what one side reports more of than the other, counts as the lesser: such a link failed.
//
// [Graph.Best] is the set of so many GPUs that a job should be given. In order, it has
//
//  1. the best worst link: in a collective every GPU waits for the slowest pair;
//  2. the most bandwidth in all its pairs;
//  3. the least damage to the GPUs that stay free: of the sets of 32, 16, 8, 4 and 2 that can still be made of them, larger
//     before smaller since they are harder to find, the best worst link that one could have; then the most bandwidth in all
//     pairs of what stays free, which takes from the groups that are broken already;
//  4. the lowest positions.
//
// Up to [ExactGPUs] GPUs to choose from that is exact, by an exhaustive search that leaves out what cannot be better. GPUs
// with the same links to everybody are interchangeable, so that of a node with NVSwitches or of a PCIe tree only a handful of
// sets is looked at. Of more GPUs the set is grown from every GPU in turn by the one that keeps the worst link best, and the
// best of these is improved by exchanging one GPU at a time while that helps: deterministic, in most graphs the best, and in
// some not. Where more than ExactGPUs stay free, the damage to them is their bandwidth in all only.
//
// The package is pure: same values in, same set out.
package nvlink
