package accounts

import (
	"maps"

	"weft.sh/weft/pkg/ledger"
)

// Terms are what a pod's time is charged by. A change of them begins a new segment.
type Terms struct {
	Queue                   string
	Class, Product, Profile string
	MilliGPU, Rate          int64
	PriceMicros             int64
	Currency                string
	// ChargeStartup says whether budgets are charged before its containers run.
	ChargeStartup bool
}

// Observation is what is known of a pod at one moment. Times are Unix seconds.
type Observation struct {
	PodUID, Namespace, Pod, Node string
	User, Workload               string
	Labels                       map[string]string
	Terms                        Terms
	// Bound is when it got its place; Running when its containers ran first, 0 while they never did.
	Bound, Running int64
	// End is when it gave its GPUs back, 0 while it holds them; Evidence says how that is known, and Estimated that nobody saw it.
	End       int64
	Evidence  Evidence
	Estimated bool
}

// Evidence is on what a segment was closed; see the package's text for those that end a pod.
type Evidence string

// What closes the last segment of a pod.
const (
	ByContainers Evidence = "containers"
	ByDeleted    Evidence = "deleted"
	ByDeadline   Evidence = "deadline"
	ByMissing    Evidence = "missing"
	ByPhase      Evidence = "phase"
)

// What closes a segment that another follows.
const (
	// ByRunning ends the start-up.
	ByRunning Evidence = "running"
	// ByTerms ends what was charged by other terms.
	ByTerms Evidence = "terms"
)

// Settled reports whether the segments are all that a pod will ever have: the last one ended with the pod.
func Settled(segments []ledger.Segment) bool {
	if len(segments) == 0 {
		return false
	}
	last := segments[len(segments)-1]
	return last.End != 0 && last.Closed != string(ByRunning) && last.Closed != string(ByTerms)
}

// Charge returns the segments of a pod that are new or changed, so that it is charged up to the moment through, given those that the ledger
// has (by number) and what is known now. It returns nil when there is nothing to write: nothing changed but through, which the
// ledger's watermark says for every open segment. Of what the ledger has only the last is read. What it returns and was given, given again, yields nil.
func Charge(was []ledger.Segment, o Observation, through int64) []ledger.Segment {
	if Settled(was) {
		last := was[len(was)-1]
		switch {
		case !last.Estimated || o.Estimated:
			return nil
		case o.End != 0: // somebody saw it after all
			a := account{o: o, last: last}
			a.close(max(o.End, last.Start), o.Evidence, false)
			return []ledger.Segment{a.last}
		}
		// It was given up for lost, and is there: it goes on from where it was closed.
	}
	if o.Running != 0 {
		o.Running = max(o.Running, o.Bound)
	}
	a := account{o: o, through: through}
	switch {
	case len(was) == 0:
		a.begin(o.Bound)
	case was[len(was)-1].End != 0:
		a.last = was[len(was)-1]
		a.begin(a.last.End)
	default:
		a.last = was[len(was)-1]
	}
	if a.last.Startup && o.Running != 0 && (o.End == 0 || o.Running < o.End) {
		at := max(o.Running, a.last.Start)
		a.close(at, ByRunning, false)
		a.begin(at)
	}
	if o.End != 0 {
		a.close(max(o.End, a.last.Start), o.Evidence, o.Estimated)
	} else if termsOf(&a.last) != o.Terms.ofSegment() && through > a.last.Start {
		a.close(through, ByTerms, false)
		a.begin(through)
	}
	if !a.changed {
		return nil
	}
	return append(a.done, a.last)
}

// account is a pod's account while Charge writes it.
type account struct {
	o       Observation
	through int64
	last    ledger.Segment // the one being written
	changed bool           // last is not as the ledger has it
	done    []ledger.Segment
}

// begin opens the next segment at that moment, by the terms of the observation.
func (a *account) begin(at int64) {
	number := int32(0)
	if a.last.PodUID != "" {
		number = a.last.Number + 1
	}
	if a.changed {
		a.done = append(a.done, a.last)
	}
	t := a.o.Terms
	startup := a.o.Running == 0 || at < a.o.Running
	a.last = ledger.Segment{
		PodUID: a.o.PodUID, Number: number, Namespace: a.o.Namespace, Pod: a.o.Pod, Node: a.o.Node,
		Queue: t.Queue, User: a.o.User, Workload: a.o.Workload, Labels: maps.Clone(a.o.Labels),
		Class: t.Class, Product: t.Product, Profile: t.Profile, MilliGPU: t.MilliGPU, Rate: t.Rate,
		PriceMicros: t.PriceMicros, Currency: t.Currency, Startup: startup, Charged: !startup || t.ChargeStartup,
		Start: at, Through: max(at, a.through),
	}
	a.changed = true
}

func (a *account) close(at int64, by Evidence, estimated bool) {
	a.last.End, a.last.Through, a.last.Closed, a.last.Estimated = at, at, string(by), estimated
	a.changed = true
}

// termsOf are the terms by which the segment was opened.
func termsOf(s *ledger.Segment) Terms {
	return Terms{
		Queue: s.Queue, Class: s.Class, Product: s.Product, Profile: s.Profile, MilliGPU: s.MilliGPU, Rate: s.Rate,
		PriceMicros: s.PriceMicros, Currency: s.Currency,
	}
}

// ofSegment is the terms without whether start-up is charged: a segment keeps what it began with.
func (t Terms) ofSegment() Terms {
	t.ChargeStartup = false
	return t
}
