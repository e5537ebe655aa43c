package gang

import (
	"slices"
	"sort"
	"time"

	"weft.sh/weft/pkg/fit"
)

// Running is a pod that runs, and when it is expected to end.
type Running struct {
	Occupant
	// End is its start plus its run time as stated; zero when it is not known.
	End time.Time
}

// Overdue is how long a pod that is still there after its expected end is given to leave, each time anew.
const Overdue = time.Minute

// Start finds when the gang of the problem can start by itself: the earliest time at which it has a place if every running pod
// leaves at its expected end and nobody takes what they leave, and the plan at that time. That is now where there is room
// already. A pod whose end is past is expected to end [Overdue] after now; one whose end is not known stays. Without a plan even
// when all that are expected to end have, ok is false.
//
// Start and plan are the reservation of EASY backfilling, which lets a job overtake those before it as long as it does not
// delay the first of them: D. Lifka, "The ANL/IBM SP Scheduling System", JSSPP 1995; A. Mu'alem and D. Feitelson, "Utilization,
// Predictability, Workloads, and User Runtime Estimates in Scheduling the IBM SP2 with Backfilling", IEEE TPDS 12(6), 2001. EASY
// counts processors that are left over at the start; here the reservation is of certain GPUs, since others are not as good: what
// overtakes either ends before the start or keeps off those, see [Reservation].
//
// The work is one plan, and one more each time the number of distinct ends doubles.
func Start(p *Problem, running []Running, now time.Time) (start time.Time, res *Result, ok bool) {
	switch res, rejection := Plan(p); {
	case rejection.OK():
		return now, res, true
	case !rejection.Reason.Resolvable():
		return time.Time{}, nil, false
	}
	var known []Running
	for _, r := range running {
		switch {
		case r.End.IsZero():
			continue
		case !r.End.After(now):
			r.End = now.Add(Overdue)
		}
		known = append(known, r)
	}
	slices.SortStableFunc(known, func(a, b Running) int { return a.End.Compare(b.End) })
	var ends []time.Time
	var batches [][]Occupant // by end
	for _, r := range known {
		if len(ends) == 0 || !r.End.Equal(ends[len(ends)-1]) {
			ends, batches = append(ends, r.End), append(batches, nil)
		}
		last := &batches[len(batches)-1]
		*last = append(*last, r.Occupant)
	}
	v := newVacancy(p, wholeField(p), batches, &effort{left: maxEffort})
	// The time of ends[k] has a plan: found by bisection, as more room never hurts.
	k := sort.Search(len(ends), func(k int) bool {
		for b := range batches {
			v.set(b, b <= k)
		}
		if !v.possible() {
			return false
		}
		_, rejection := v.planned()
		return rejection.OK()
	})
	if k == len(ends) {
		return time.Time{}, nil, false
	}
	for b := range batches {
		v.set(b, b <= k)
	}
	res, rejection := v.result(wholeField(p))
	if !rejection.OK() {
		return time.Time{}, nil, false
	}
	return ends[k], res, true
}

// Drain chooses what to keep free for a gang that has waited too long and whose start cannot be computed, because too much of
// what runs does not say when it ends: the plan that has to wait for the fewest pods whose end is not known, and of such plans
// for the fewest others. That is on the nodes that have most free already. Nobody is made to leave, and whose priority is what
// does not matter. The rejection says why there is no plan even with all of them gone.
//
// The choice changes with what runs. Whoever keeps it must keep it, or nothing ever drains.
func Drain(p *Problem, running []Running) (*Result, fit.Rejection) {
	res, rejection := Plan(p)
	if rejection.OK() || !rejection.Reason.Resolvable() {
		return res, rejection
	}
	units := make([]Unit, len(running))
	for i := range running {
		units[i] = Unit{Pods: []Occupant{running[i].Occupant}}
		units[i].Pods[0].Budgets = nil
		if running[i].End.IsZero() {
			units[i].Priority = 1
		}
	}
	found := cheapest(p, newPricer(units, nil), searchLimits{exact: maxExact, effort: maxEffort})
	if found.result == nil {
		return nil, rejection
	}
	return found.result, fit.Rejection{}
}
