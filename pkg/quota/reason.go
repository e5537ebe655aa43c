package quota

import (
	"fmt"
	"strings"
	"time"
)

// Reason is why a job may not start. The zero Reason is none.
type Reason uint8

const (
	// Admitted is the absence of a reason.
	Admitted Reason = iota
	// QueueNotFound: the queue does not exist.
	QueueNotFound
	// QueueInvalid: the queue, or one above it, contradicts another.
	QueueInvalid
	// QueueForbidden: the pod's namespace may not use the queue.
	QueueForbidden
	// RuntimeTooLong: the pod says that it runs longer than the queue allows.
	RuntimeTooLong
	// NeverWithinLimit: the job alone is more than the limit of GPUs.
	NeverWithinLimit
	// NeverWithinBudget: the job alone is more than the whole budget.
	NeverWithinBudget
	// OverLimit: as many GPUs as the limit allows are in use.
	OverLimit
	// OverBudget: too little of the budget is left.
	OverBudget
	// BudgetExhausted: nothing of the budget is left.
	BudgetExhausted
	// NotYourTurn: what is idle goes to queues that have less of it for their weight, or to ones whose guarantee it is; or what is left
	// below a limit, to a job ahead in the queue.
	NotYourTurn
)

// reasons are the names of the constants: they are labels of metrics and reasons of conditions, and do not change.
var reasons = [...]string{
	Admitted:          "Admitted",
	QueueNotFound:     "QueueNotFound",
	QueueInvalid:      "QueueInvalid",
	QueueForbidden:    "QueueForbidden",
	RuntimeTooLong:    "RuntimeTooLong",
	NeverWithinLimit:  "NeverWithinLimit",
	NeverWithinBudget: "NeverWithinBudget",
	OverLimit:         "OverLimit",
	OverBudget:        "OverBudget",
	BudgetExhausted:   "BudgetExhausted",
	NotYourTurn:       "NotYourTurn",
}

// String is the name of the constant.
func (r Reason) String() string {
	if int(r) < len(reasons) {
		return reasons[r]
	}
	return fmt.Sprintf("Reason(%d)", uint8(r))
}

// Verdict is whether a job may start and, if not, what stands in the way.
type Verdict struct {
	Reason Reason
	// Queue is the queue that says no: the job's own or one above.
	Queue string
	// Used, Held, Need and Limit are milli-GPU-seconds where a budget says no, and milli-GPU at once where a limit does, of
	// which Used is then what runs. For RuntimeTooLong Need and Limit are seconds.
	Used, Held, Need, Limit int64
	// Resets is when the period ends that has too little left; 0 where none does.
	Resets int64
	// CouldStart is the earliest moment at which it may be let through if nothing else starts and what runs takes as long
	// as it said: 0 when nobody can tell. Admit tells it where budgets alone are in the way; see [Book.CouldStart].
	CouldStart int64
	// Detail says more in words, where numbers do not tell all: empty for most.
	Detail string
}

// OK reports whether the job may start.
func (v Verdict) OK() bool { return v.Reason == Admitted }

// Message says in words what stands in the way.
func (v Verdict) Message() string {
	var m strings.Builder
	say := func(format string, args ...any) { fmt.Fprintf(&m, format, args...) }
	switch v.Reason {
	case Admitted:
		return "the job may start"
	case QueueNotFound:
		say("queue %s does not exist", v.Queue)
	case QueueInvalid:
		if v.Detail != "" {
			return v.Detail
		}
		say("queue %s is not valid", v.Queue)
	case QueueForbidden:
		say("the namespace may not use queue %s", v.Queue)
	case RuntimeTooLong:
		say("the job says that it runs for %s, queue %s allows %s", seconds(v.Need), v.Queue, seconds(v.Limit))
	case NeverWithinLimit:
		say("the job needs %s GPUs, queue %s never has more than %s", gpus(v.Need), v.Queue, gpus(v.Limit))
	case OverLimit:
		say("queue %s has %s GPUs left of %s (%s are in use), %s are needed",
			v.Queue, gpus(v.left()), gpus(v.Limit), gpus(v.Used), gpus(v.Need))
	case NeverWithinBudget:
		say("the job needs %s GPU-hours, the whole budget of queue %s is %s (used %s, held %s)",
			hours(v.Need, up), v.Queue, hours(v.Limit, down), hours(v.Used, nearest), hours(v.Held, nearest))
	case OverBudget, BudgetExhausted:
		say("queue %s has %s GPU-hours left of %s (used %s, held %s), %s are needed",
			v.Queue, hours(v.left(), down), hours(v.Limit, down), hours(v.Used, nearest), hours(v.Held, nearest), hours(v.Need, up))
	case NotYourTurn:
		if v.Detail != "" {
			return v.Detail
		}
		say("it is not the turn of queue %s: what is idle goes first to queues below their guarantee, "+
			"then to those with less for their weight", v.Queue)
	default:
		say("%s: queue %s", v.Reason, v.Queue)
	}
	if v.Resets != 0 {
		say("; the period ends %s", moment(v.Resets))
	}
	if v.Detail != "" {
		say("; %s", v.Detail)
	}
	if v.CouldStart != 0 {
		say("; it could start %s", moment(v.CouldStart))
	}
	return m.String()
}

// left is what nobody used or holds.
func (v Verdict) left() int64 { return max(plus(v.Limit, -plus(v.Used, v.Held)), 0) }

func moment(at int64) string { return time.Unix(at, 0).UTC().Format(time.RFC3339) }

// seconds is a duration in hours, minutes and seconds; it may be longer than a time.Duration can be.
func seconds(s int64) string {
	if s <= int64(1<<63-1)/int64(time.Second) {
		return (time.Duration(s) * time.Second).String()
	}
	return fmt.Sprintf("%d hours", s/3600)
}

// rounding is where what is not shown goes: so that what is left looks too little for what is needed where it is.
type rounding uint8

const (
	nearest rounding = iota
	down
	up
)

// hours is milli-GPU-seconds in GPU-hours, with up to three decimals.
func hours(milliGPUSeconds int64, r rounding) string {
	if milliGPUSeconds == NoLimit {
		return "unlimited"
	}
	const perThousandth = 3600 // milli-GPU-seconds of a thousandth of a GPU-hour
	sign, m := "", uint64(milliGPUSeconds)
	if milliGPUSeconds < 0 {
		sign, m = "-", -m
	}
	switch r {
	case up:
		m += perThousandth - 1
	case nearest:
		m += perThousandth / 2
	}
	m /= perThousandth
	s := fmt.Sprintf("%s%d.%03d", sign, m/1000, m%1000)
	return strings.TrimRight(strings.TrimRight(s, "0"), ".")
}
