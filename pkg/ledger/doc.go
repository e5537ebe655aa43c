// Package ledger records who used which GPUs for how long, in SQL: SQLite without set-up, or PostgreSQL where several replicas
// share it. What it stores is the truth; the status of a Queue is a checkpoint of it.
//
// # Vocabulary
//
// A segment is a stretch of time in which one pod held the same GPUs under the same terms: queue, class, weight and price. It is open while
// the pod runs; through says to when it is charged. The segments of a pod follow each other, numbered from 0: a change of the
// terms begins a new one. The time from binding until containers run is a segment of its own (Startup).
//
// A tick charges all open segments up to one moment, in one transaction. So whatever the moment of a crash, everything is charged
// to one watermark, asOf, and what runs goes on from there: nothing is lost or charged twice.
//
// Only one may write. Each leader gets an epoch greater than all before, and a write with another one fails with ErrFenced. Whoever
// leads reads what is on the books after Lead, not before.
//
// # Retention
//
// Compact adds up the rows of segments that ended long ago by hour (what was held for a part of one by quarter, which is where the hours of
// all time zones begin), and these by day and month, with all that a report groups by, but without pods. Budgets and reports count them on. Nobody can have them counted twice: a segment that ended by then and is not on the
// books changes nothing.
//
// # Audit
//
// Each time a segment is closed, a hash of it and of the link before is written in the same transaction. Verify computes this chain anew,
// and finds rows that were changed, added or deleted by others. Who could write to the database could compute the whole chain
// anew as well: only its last hash, kept elsewhere, tells that.
//
// # Exactness
//
// All numbers are int64 and no sum is rounded. Costs are added up in 128 bits and rounded once for each line of a report, half up.
package ledger
