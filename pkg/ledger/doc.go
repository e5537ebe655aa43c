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
// Only one may write. Each leader gets an epoch greater than all before, and a write with a smaller one fails with ErrFenced.
package ledger
