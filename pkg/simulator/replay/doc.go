// Package replay simulates a cluster over time: jobs arrive, wait, run and end, nodes fail, periods of budgets turn, gangs start
// together and guarantees are taken back, in virtual time.
//
// # What decides
//
// The code that schedules in production: package quota says who is within limits and budgets ([quota.Book.Admit]), whose turn it is
// ([quota.Book.Turns]) and what may be taken back ([quota.Book.Reclaim]); package gang places gangs ([gang.Plan]), keeps room for one
// that waits ([gang.Start], [gang.Drain], [gang.Reservation]) and chooses who leaves ([gang.Preempt]); package fit places single pods
// ([fit.Check], [fit.Score], [fit.Rank], [fit.Assign]). What is here is what plugins Queue, Gang and GPUFit are in a real scheduler:
// it keeps the state and asks in the same order. Other policies ask less; see [Policies].
//
// # What is simplified
//
// Pods start and leave in no time: an evicted job is gone, and waits again, in the second in which it is evicted. A round of decisions
// follows each second in which something happened; the scheduler's cycles, its backoffs and the debouncing of plugin Queue take none.
// A job runs for its run time from its start, whatever it lost before and however many members above its minimum it has; those that found
// no place at the start are not made up for. What is kept for a gang does not expire while the gang's turn lasts. The ledger is exact
// to the second.
//
// # Order
//
// Events are taken by time, then kind (see kind), then in the order in which they came to be. Within a second all events happen
// before anything is decided. Nothing depends on the order of a map, on the clock or on a random source: two runs are equal to the
// byte, but for the speed.
package replay
