// Package steward looks after the Queues: it writes their statuses, which are checkpoints of the ledger that the scheduler decides
// with, raises alerts when a budget runs low, and has pods leave when one that drains is used up, or when they run for longer than one that
// drains admitted them for.
//
// It works on values that it reads anew after each commit of the ledger ([Steward.Pass]), so that nothing of its own has to
// survive a restart: since when a budget is used up stands in the Queue's condition, and when pods were told in the pods.
package steward
