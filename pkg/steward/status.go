package steward

import (
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"weft.sh/weft/pkg/apis/weft/v1alpha1"
	"weft.sh/weft/pkg/quota"
)

// writeEvery is how often the status of a queue is written when nothing of it changed but how much was used, in seconds. A
// checkpoint that is older is as right as a new one.
const writeEvery = 60

// Reasons of the conditions.
const (
	reasonValid     = "Valid"
	reasonInvalid   = "Invalid"
	reasonEnough    = "Enough"
	reasonReached   = "PercentReached"
	reasonBurnRate  = "BurnRate"
	reasonUsedUp    = "UsedUp"
	reasonNoBudget  = "NoBudget"
	reasonRemaining = "Remaining"
)

// burnRate is in the message of an alert that says that the budget will not last, whatever its reason.
const burnRate = "GPU-hours a day the budget is used up at"

// facts are what a status says.
type facts struct {
	spec     quota.Spec
	standing quota.Standing
	waiting  waiting
	// headroom is what the limits of the queue and of those above still allow, in milli-GPU; quota.NoLimit when none does.
	headroom int64
	// invalid is what is wrong with the queue, empty when nothing is.
	invalid    string
	checkpoint quota.Checkpoint
	assessment quota.Assessment
	epoch      int64
}

// status is what the queue's status becomes. Was is the present one, whose conditions keep their times.
func status(was v1alpha1.QueueStatus, generation int64, f facts, now int64) v1alpha1.QueueStatus {
	out := *was.DeepCopy()
	out.ObservedGeneration = generation
	out.GPUs = v1alpha1.QueueStatusGPUs{
		Running: gpus(f.standing.Running), Borrowed: gpus(f.standing.Borrowed),
		Pending: gpus(f.waiting.pending), Eligible: gpus(f.waiting.eligible),
	}
	out.PendingPods = f.waiting.pods
	out.Budget = nil
	set := func(kind string, is bool, reason, message string) {
		c := metav1.Condition{
			Type: kind, Status: metav1.ConditionFalse, Reason: reason, Message: message,
			ObservedGeneration: generation, LastTransitionTime: moment(now),
		}
		if is {
			c.Status = metav1.ConditionTrue
		}
		meta.SetStatusCondition(&out.Conditions, c)
	}
	if f.invalid != "" {
		set(v1alpha1.ConditionValid, false, reasonInvalid, f.invalid)
	} else {
		set(v1alpha1.ConditionValid, true, reasonValid, "the queue admits pods")
	}
	b := f.spec.Budget
	if b == nil {
		meta.RemoveStatusCondition(&out.Conditions, v1alpha1.ConditionBudgetAlert)
		meta.RemoveStatusCondition(&out.Conditions, v1alpha1.ConditionExhausted)
		return out
	}
	if was.Budget == nil || was.Budget.PeriodStart.Unix() != f.checkpoint.Start {
		// What was said of another period begins anew: since when the budget is used up decides when pods have to leave.
		meta.RemoveStatusCondition(&out.Conditions, v1alpha1.ConditionBudgetAlert)
		meta.RemoveStatusCondition(&out.Conditions, v1alpha1.ConditionExhausted)
	}
	a := f.assessment
	budget := &v1alpha1.BudgetStatus{
		PeriodStart: moment(f.checkpoint.Start), AsOf: moment(f.checkpoint.AsOf), Epoch: f.epoch,
		UsedMilliGPUSeconds: f.checkpoint.Used, CarriedMilliGPUSeconds: f.checkpoint.Carried,
		Used: hours(a.Used), Held: hours(a.Held), Limit: hours(a.Limit), Left: hours(a.Left), BurnPerDay: hours(a.BurnPerDay),
	}
	if f.checkpoint.End != quota.NoLimit {
		budget.PeriodEnd = optional(f.checkpoint.End)
	}
	budget.ExhaustedAt, budget.DrainAt = optional(a.ExhaustedAt), optional(a.DrainAt)
	out.Budget = budget
	projection := ""
	if a.ExhaustedAt != 0 {
		projection = fmt.Sprintf("at %s %s %s, before its period ends",
			hours(a.BurnPerDay), burnRate, moment(a.ExhaustedAt).UTC().Format(time.RFC3339))
	}
	switch {
	case a.Alert > 0:
		message := fmt.Sprintf("%d %% of the budget of %s GPU-hours is used or held: %s and %s", a.Alert, hours(a.Limit), hours(a.Used), hours(a.Held))
		if projection != "" && !a.Exhausted {
			message += "; " + projection
		}
		set(v1alpha1.ConditionBudgetAlert, true, reasonReached, message)
	case projection != "":
		set(v1alpha1.ConditionBudgetAlert, true, reasonBurnRate, projection)
	default:
		set(v1alpha1.ConditionBudgetAlert, false, reasonEnough, "the budget lasts")
	}
	if a.Exhausted {
		set(v1alpha1.ConditionExhausted, true, reasonUsedUp, fmt.Sprintf("%s of %s GPU-hours are used", hours(a.Used), hours(a.Limit)))
	} else {
		set(v1alpha1.ConditionExhausted, false, reasonRemaining, "something is left of the budget")
	}
	return out
}

// worthWriting reports whether a status has to be written: at once when it says something new, else when it is old.
func worthWriting(was, is v1alpha1.QueueStatus) bool {
	if equality.Semantic.DeepEqual(was, is) {
		return false
	}
	before, after := was.Budget, is.Budget
	switch {
	case before == nil || after == nil:
		return true
	case before.PeriodStart.Unix() != after.PeriodStart.Unix(), before.Epoch != after.Epoch, before.Limit != after.Limit,
		before.CarriedMilliGPUSeconds != after.CarriedMilliGPUSeconds, after.AsOf.Unix()-before.AsOf.Unix() >= writeEvery,
		(before.DrainAt == nil) != (after.DrainAt == nil):
		return true
	}
	// What only time changed can wait.
	quiet := is.DeepCopy()
	quiet.Budget, quiet.Conditions = was.Budget, was.Conditions
	if !equality.Semantic.DeepEqual(was, *quiet) {
		return true
	}
	for _, c := range is.Conditions {
		if before := meta.FindStatusCondition(was.Conditions, c.Type); before == nil || before.Status != c.Status || before.Reason != c.Reason ||
			level(*before) != level(c) || burns(*before) != burns(c) {
			return true
		}
	}
	return len(was.Conditions) != len(is.Conditions)
}

// gpus is so many milli-GPU as a quantity.
func gpus(milli int64) resource.Quantity {
	return *resource.NewMilliQuantity(milli, resource.DecimalSI)
}

func moment(seconds int64) metav1.Time { return metav1.Unix(seconds, 0) }

// optional is nil for 0.
func optional(seconds int64) *metav1.Time {
	if seconds == 0 {
		return nil
	}
	t := moment(seconds)
	return &t
}

// hours is GPU time in GPU-hours, to the nearest thousandth.
func hours(milliGPUSeconds int64) string { return quota.FormatGPUHours(milliGPUSeconds) }
