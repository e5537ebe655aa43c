// Package potential values what is left of a node by what the requests to be expected could still make of it.
//
// A [Mix] says how often each class of requests comes. [Solve] finds the [Prices] at which the classes, left to themselves,
// would fill what is idle in just the proportion in which they come. A [Table] then gives the potential of a node, in GPUs:
//
//	Φ = T·ln Σ exp(-cost/T)        over all ways to fill the node
//	cost = idle share + Σ price of a class + price of CPU · CPU that is used or idle
//
// which is, up to the temperature T, minus the cost of the cheapest way: how much has to be wasted. A placement is as good as
// it leaves the potential of its node high. The sum over all ways is a few convolutions of tables, made once for a mix and its
// prices by dynamic programming.
//
// docs/strategy.md explains it with a picture and says what it does on real traces.
//
// The package is pure: same values in, same values out.
package potential
