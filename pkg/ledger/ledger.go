package ledger

import (
	"context"
	"errors"
	"iter"
)

var (
	// ErrFenced is returned for a write by a leader that another has followed.
	ErrFenced = errors.New("another leader writes the ledger")
	// ErrConflict is returned for a segment that contradicts what is on the books.
	ErrConflict = errors.New("the segment contradicts the ledger")
)

// Segment is a row: one pod, one stretch of time. All fields but Through, End, Estimated and Closed are fixed when it is opened.
type Segment struct {
	PodUID string
	// Number counts the segments of the pod from 0.
	Number int32

	Namespace, Pod, Node string
	// Queue is the queue that is charged; empty for none.
	Queue string
	// User is who created the pod if that is known, Workload what controls it, such as Job/train.
	User, Workload string
	// Labels are those of the pod that the ledger was told to keep.
	Labels map[string]string
	// Class is the GPUClass, Product the model, Profile the MIG profile; of a pod that holds several kinds the class, model and
	// profile of the largest part.
	Class, Product, Profile string
	// MilliGPU is what it holds, Rate what is charged for each second.
	MilliGPU, Rate int64
	// PriceMicros is the price of an hour of one GPU in millionths of Currency.
	PriceMicros int64
	Currency    string
	// Startup says that its containers had yet to run, Charged whether budgets are charged.
	Startup, Charged bool

	// Start is when it began, Through to when it is charged, End when it ended, 0 while it is open; Unix seconds.
	Start, Through, End int64
	// Estimated says that End was not observed, and Closed on what evidence it was closed.
	Estimated bool
	Closed    string
}

// MilliGPUSeconds is what it held by Through.
func (s *Segment) MilliGPUSeconds() int64 { return s.MilliGPU * (s.Through - s.Start) }

// Query selects segments. Zero fields select all.
type Query struct {
	// From and To bound the time, [From, To): segments are cut to it. To 0 is the end.
	From, To       int64
	Queues         []string
	Namespaces     []string
	PodUID         string
	Label, LabelIs string // a label, and its value
	OpenOnly       bool
	IncludeRollups bool // also hours, days and months whose rows are gone
}

// Dimension is what a report groups by: queue, namespace, user, workload, class, product, profile, currency, or label:<key>.
type Dimension string

// Total is a line of a report.
type Total struct {
	// Key has a value for each dimension that was asked for.
	Key []string
	// Bucket is the beginning of the hour, day or month, 0 when time was not split.
	Bucket int64
	// MilliGPUSeconds were held; ChargedMilliGPUSeconds are what budgets were charged (rate, not startup where that is free);
	// StartupMilliGPUSeconds were held before containers ran; EstimatedMilliGPUSeconds are of segments whose end was not observed.
	MilliGPUSeconds, ChargedMilliGPUSeconds, StartupMilliGPUSeconds, EstimatedMilliGPUSeconds int64
	// CostMicros is in millionths of Currency; lines of several currencies are never added.
	CostMicros int64
	Currency   string
	// Segments is how many rows it comes from, and Pods how many pods.
	Segments, Pods int64
}

// Store keeps segments. Implementations are safe for concurrent use; a write is one transaction.
type Store interface {
	// Lead begins an epoch for the holder, greater than all before and than least.
	Lead(ctx context.Context, holder string, least int64) (epoch int64, err error)
	// Commit writes new segments and later states of known ones, and moves the watermark to asOf (never back). The same call again changes nothing.
	Commit(ctx context.Context, epoch, asOf int64, segments []Segment) error
	// AsOf is the watermark, 0 for an empty ledger.
	AsOf(ctx context.Context) (int64, error)
	// Segments yields what the query selects, by pod and number.
	Segments(ctx context.Context, q Query) iter.Seq2[Segment, error]
	// Totals adds up what the query selects, by the dimensions and by bucket: "hour", "day", "month" in the time zone, or "" for none.
	Totals(ctx context.Context, q Query, by []Dimension, bucket, timeZone string) ([]Total, error)
	// Charged is what each queue's own pods were charged in [from, to).
	Charged(ctx context.Context, from, to int64) (map[string]int64, error)
	// Compact rolls rows that ended before up to hours, and hours to days and months, and deletes them.
	Compact(ctx context.Context, epoch, before int64) (rows int64, err error)
	Close() error
}
