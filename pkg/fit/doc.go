// Package fit decides one request on one node: which GPUs, how good, or the one [Reason] why not.
//
// It has three entry points, from cheap to dear:
//
//   - [Check]: does the request fit? Run for every node of a cycle (Filter).
//   - [Score]: how good is the node for it? Run for every node that fits.
//   - [Assign]: which GPUs exactly? Run for the chosen node (Reserve).
//
// All three agree: what Check accepts, Assign can place, and Score rates the very placement that Assign makes.
//
// A [Strategy] says what is good. Every strategy is node-local: the rating of a node depends on that node, the request
// and the recent mix of requests only, so that it stays valid until the node changes. What is equally good is not left
// to chance; see [Rank].
//
// # Vocabulary
//
// A fragment is idle GPU capacity that a class of requests cannot use. A class is a shape of request with how often it
// came; the mix is the classes of the recent past. What the default strategy makes of the mix is in package
// [weft.sh/weft/pkg/potential]; a [Learner] follows the requests and has the strategy that goes with them.
//
// The package is pure: same values in, same decision out.
package fit
