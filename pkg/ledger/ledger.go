package ledger

import (
	"context"
	"errors"
	"fmt"
	"iter"
)

var (
	// ErrFenced is returned for a write by a leader that another has followed.
	ErrFenced = errors.New("another leader writes the ledger")
	// ErrConflict is returned for a segment that contradicts what is on the books. It is a [*SegmentError].
	ErrConflict = errors.New("the segment contradicts the ledger")
	// ErrInvalid is returned for a segment that contradicts itself. It is a [*SegmentError].
	ErrInvalid = errors.New("the segment is not valid")
	// ErrNewer is returned for a ledger that a later version of Weft has written.
	ErrNewer = errors.New("the ledger is of a newer version")
	// ErrRetained is returned by Compact for what has to be kept.
	ErrRetained = errors.New("raw rows are kept for at least 90 days")
	// ErrOverflow is returned where a sum does not fit 64 bits.
	ErrOverflow = errors.New("the total does not fit 64 bits")
)

// How long what is kept, in seconds before the watermark.
const (
	// MinRetention is for how long the rows of segments are kept at least.
	MinRetention int64 = 90 * 24 * 3600
	// HourRetention is for how long roll-ups keep the hours, and quarters, of what was compacted. It is longer than a year, because a budget of a
	// year begins at a quarter of an hour that is midnight in the budget's time zone, not at a midnight of UTC.
	HourRetention int64 = 400 * 24 * 3600
	// DayRetention is for how long roll-ups keep days; months stay.
	DayRetention int64 = 5 * 366 * 24 * 3600
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
	// Invariant: 0 < Start <= Through, and Through is End once that is known.
	Start, Through, End int64
	// Estimated says that End was not observed, and Closed on what evidence it was closed.
	Estimated bool
	Closed    string
}

// MilliGPUSeconds is what it held by Through.
func (s *Segment) MilliGPUSeconds() int64 { return s.MilliGPU * (s.Through - s.Start) }

// SegmentError is what is wrong with one segment of a Commit, of which nothing was written. It is an [ErrConflict] or an [ErrInvalid].
type SegmentError struct {
	PodUID string
	Number int32
	// Kind is ErrConflict or ErrInvalid.
	Kind error
	// Problem has the field, the values found and what is accepted.
	Problem string
}

func (e *SegmentError) Error() string {
	return fmt.Sprintf("pod %s, segment %d: %v: %s", e.PodUID, e.Number, e.Kind, e.Problem)
}

func (e *SegmentError) Unwrap() error { return e.Kind }

// Query selects segments. Zero fields select all.
type Query struct {
	// From and To bound the time, [From, To): segments are cut to it. To 0 is the end.
	From, To   int64
	Queues     []string // "" among them are pods of no queue
	Namespaces []string
	PodUID     string
	// Label has to be there and, unless LabelIs is empty, to be that.
	Label, LabelIs string
	OpenOnly       bool
	// IncludeRollups also counts hours, days and months whose rows are gone (Totals only, and not where PodUID or OpenOnly is set). Sums over
	// ranges that follow each other stay exact, and each by itself is exact where it begins and ends at quarters of an hour of what
	// is kept by hour, so at any midnight anywhere; or at UTC midnights (months) of what is kept by day (month), of which each counts
	// as a whole where its beginning lies.
	IncludeRollups bool
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
	// CostMicros is in millionths of Currency; lines of several currencies are never added. It is what was held and charged (so not
	// start-up where that is free) at its price, whatever the weight of the class. The exact sum of a line is rounded once, half up.
	CostMicros int64
	Currency   string
	// Segments is how many rows it comes from, and Pods how many pods these rows are of. Roll-ups are rows, but know no pods.
	Segments, Pods int64
}

// Store keeps segments. Implementations are safe for concurrent use; a write is one transaction.
type Store interface {
	// Lead begins an epoch for the holder, greater than all before and than least. Every other epoch may no longer write.
	Lead(ctx context.Context, holder string, least int64) (epoch int64, err error)
	// Commit writes new segments and later states of known ones, and moves the watermark to asOf (never back). All or, with an error,
	// nothing. The same call again changes nothing, nor do calls in another order: of two states of a segment the later counts, which
	// is the one that is charged to a later time; of an open and a closed one the closed; of an estimated and an observed end the
	// observed; of two ends of a kind the earlier. So Through goes back only when it turns out that the segment had ended by then. A
	// segment that is charged to a time whose rows were compacted, and is not on the books, is one of these: it changes nothing.
	//
	// After an error that is neither ErrFenced nor a SegmentError nobody knows whether it was written: call it again.
	Commit(ctx context.Context, epoch, asOf int64, segments []Segment) error
	// AsOf is the watermark, 0 for an empty ledger.
	AsOf(ctx context.Context) (int64, error)
	// Segments yields what the query selects, by pod and number. It ends with the first error.
	Segments(ctx context.Context, q Query) iter.Seq2[Segment, error]
	// Totals adds up what the query selects, by the dimensions and by bucket: "hour", "day", "month" in the time zone, or "" for none.
	// Lines are in the order of their bucket, key and currency.
	Totals(ctx context.Context, q Query, by []Dimension, bucket, timeZone string) ([]Total, error)
	// Charged is what each queue's own pods were charged in [from, to), roll-ups included.
	Charged(ctx context.Context, from, to int64) (map[string]int64, error)
	// Compact rolls rows that ended by before up to hours, and hours to days and months after their time, and deletes them. It works
	// in steps; when it fails, the steps before are done, and rows says how many are gone.
	Compact(ctx context.Context, epoch, before int64) (rows int64, err error)
	Close() error
}
