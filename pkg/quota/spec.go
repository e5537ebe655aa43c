package quota

import "time"

// NoLimit is a limit that nothing reaches.
const NoLimit int64 = 1<<63 - 1

// RollingHold is how long the hold of a claim without an end is, in seconds, always from now: a service holds the next hour.
const RollingHold int64 = 3600

// Period is how long a budget lasts.
type Period uint8

// Periods begin at midnight, weeks on Monday. PeriodNone never ends.
const (
	PeriodNone Period = iota
	PeriodDay
	PeriodWeek
	PeriodMonth
	PeriodQuarter
	PeriodYear
)

// Enforcement is what a budget that runs out does.
type Enforcement uint8

const (
	// Notify alerts only.
	Notify Enforcement = iota
	// Throttle leaves the queue its guarantee, starts nothing above it, and puts the queue after all others.
	Throttle
	// Hold starts nothing that the rest of the budget does not cover.
	Hold
	// Drain is Hold, and ends what runs when the budget is used up.
	Drain
)

// Spec is what an admin grants a queue.
type Spec struct {
	Name string
	// Parent is the queue above; empty at the top.
	Parent string
	// Created orders queues that contradict each other: the older one counts. Unix seconds.
	Created int64
	Share
	// Weight is the part, among siblings, of what is lent; at least 1.
	Weight int64
	// Windows are times with other shares; the first that is open counts.
	Windows []Window
	// Budget is nil where hours are recorded only.
	Budget *Budget
	// DefaultRuntime and MaxRuntime are in seconds; 0 for none. Who makes a claim of a pod that says no run time gives it
	// the default of the nearest queue that has one; MaxRuntime is checked by [Book.Admit], at every queue above too.
	DefaultRuntime, MaxRuntime int64
}

// Share is how much may run at the same time, in milli-GPU.
type Share struct {
	// Guaranteed is at least 0.
	Guaranteed int64
	// Limit is at least Guaranteed; NoLimit for none.
	Limit int64
}

// Window is a time of the day with another share.
type Window struct {
	// Days has a bit for each day on which the window opens, 1<<time.Sunday and on; 0 for all days.
	Days uint8
	// From and To are seconds since midnight, 0 to 86399. Where To is not after From it closes on the next day.
	From, To int64
	Location *time.Location
	Share
}

// Budget is GPU time for each period.
type Budget struct {
	// MilliGPUSeconds are granted for each period.
	MilliGPUSeconds int64
	Period          Period
	Location        *time.Location
	// RolloverPercent bounds what a period gets from the one before, in percent of MilliGPUSeconds.
	RolloverPercent int64
	Enforcement     Enforcement
	DrainGrace      int64 // seconds
	AlertPercents   []int64
	ChargeStartup   bool
	Adjustments     []Adjustment
}

// Adjustment is a signed entry, which counts in the period that At lies in.
type Adjustment struct {
	At, MilliGPUSeconds int64
}

// Checkpoint is what the books say of a queue's subtree.
type Checkpoint struct {
	// AsOf is the moment to which everything is on the books; 0 when nothing ever was.
	AsOf int64
	// Start and End bound the period that Used speaks of, [Start, End); End is NoLimit for PeriodNone.
	Start, End int64
	// Used is what that period used by AsOf, and Carried what it got from the one before.
	Used, Carried int64
}

// Claim is what one pod has of a queue, or wants.
type Claim struct {
	// ID is the pod's UID.
	ID string
	// Queue is the queue that is charged, and Class the class of the GPUs (for shares among mixed models).
	Queue, Class string
	// Job is the gang's key, empty for a pod by itself: claims of one job start together and leave together.
	Job string
	// MilliGPU is held at the same time, and Rate is charged for each second: MilliGPU times the weight of the class.
	MilliGPU, Rate int64
	// Start is when it was bound, in Unix seconds; 0 for one that has yet to start.
	Start int64
	// Runtime is how long it is expected to run, in seconds; 0 when nobody knows: such a claim holds [RollingHold] from now.
	Runtime int64
	// End is when it ended, 0 while it runs. A claim that ended stays until the checkpoint of every queue above it has
	// passed End.
	End int64
	// Priority is the pod's. Higher goes first within a queue.
	Priority int32
	// Queued is when it began to wait, in Unix seconds: of equal priority the older goes first.
	Queued int64
}

// Job is what wants to start together, at least one claim, all of one queue.
type Job []Claim
