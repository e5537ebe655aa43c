// Package gang plans a whole gang at once: a node and GPUs for every member, or the one reason why not.
//
// # Vocabulary
//
// A gang is a set of pods that start together or not at all. A member is one of its pods; the minimum is how many of them
// must have a place before any starts; members above it are surplus, and a gang that has some is elastic. Members that ask
// for the same are of one shape: most gangs have one shape, a launcher and its workers have two.
//
// A level is a node label that names a group of nodes at one distance from each other, such as a rack; levels are ordered
// from the narrowest to the widest. A domain is the nodes with one value of a level. A node without the label is in no
// domain of the level. NVLink is a level of its own: nodes of one fabric clique are one domain, and a node without a clique
// is a domain by itself.
//
// A plan is a placement for members: it holds nothing by itself. Whoever carries it out reserves all of it at once and gives
// all of it back if anything fails.
//
// # Functions
//
//   - [Plan] places a gang on what is free now.
//   - [Preempt] places it on what would be free if others left, and says which must, as whole units.
//   - [Start] finds when it can start by itself, from when the pods that run are known to end.
//
// All take a [Problem], a value made by the shell, and read nothing else: the same problem gets the same answer. The package
// is pure: no clock, no client, no log.
package gang
