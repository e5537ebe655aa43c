package quota

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
	// NotYourTurn: what is idle goes to queues that have less of it for their weight, or to ones whose guarantee it is.
	NotYourTurn
)

// Verdict is whether a job may start and, if not, what stands in the way.
type Verdict struct {
	Reason Reason
	// Queue is the queue that says no: the job's own or one above.
	Queue string
	// Used, Held, Need and Limit are milli-GPU-seconds where a budget says no, and milli-GPU at once where a limit does, of which
	// Used is then what runs.
	Used, Held, Need, Limit int64
	// Resets is when the period ends that has too little left; 0 where none does.
	Resets int64
	// CouldStart is the earliest moment at which it may be let through if nothing else starts and what runs takes as long as it
	// said: 0 when nobody can tell.
	CouldStart int64
}

// OK reports whether the job may start.
func (v Verdict) OK() bool { return v.Reason == Admitted }
