package gang

import (
	"fmt"
	"slices"
	"time"

	"weft.sh/weft/pkg/fit"
)

// Phase is where a gang stands, in the words of the PodGroup of scheduling.x-k8s.io.
//
//	          all of the minimum bound        all of it running        all of it succeeded
//	Pending ──────────────────────▶ Scheduling ───────────▶ Running ───────────────────▶ Finished
//	 ▲    ╲ some of it bound          ╱ a member lost         ╱  ╲
//	 │     ▶ Unknown ◀───────────────◀───────────────────────◀    ╲ a member lost, LostRestart
//	 │          │ the grace ran out                                ▼
//	 └──────────┴────────────── evicted ◀───────────────────────  Failed ◀── all ended, too few succeeded
type Phase string

const (
	// PhasePending: no member holds a place.
	PhasePending Phase = "Pending"
	// PhaseScheduling: the minimum is bound, and not all of it runs.
	PhaseScheduling Phase = "Scheduling"
	// PhaseRunning: the minimum runs or has succeeded.
	PhaseRunning Phase = "Running"
	// PhaseUnknown: the gang is partial. Fewer members than the minimum are bound, or one that was to start could not be
	// bound and the policy is [PartialLeave]. It stays so no longer than the grace.
	PhaseUnknown Phase = "Unknown"
	// PhaseFinished: the minimum succeeded, and no member holds a place any more.
	PhaseFinished Phase = "Finished"
	// PhaseFailed: a member was lost and the others are leaving because of it, or all ended and fewer than the minimum
	// succeeded.
	PhaseFailed Phase = "Failed"
)

// Phases are all phases.
func Phases() []Phase {
	return []Phase{PhasePending, PhaseScheduling, PhaseRunning, PhaseUnknown, PhaseFinished, PhaseFailed}
}

// MemberState is what is known of one pod of a gang.
type MemberState struct {
	UID string
	// Name is for messages.
	Name string
	// Bound is when it got its node; zero while it has none.
	Bound time.Time
	// Running says that it runs, or did until it ended.
	Running bool
	// Ended is when it succeeded or failed, or when somebody asked for it to be deleted; zero while it goes on.
	Ended time.Time
	// Succeeded and Failed say how it ended. With neither it is being deleted.
	Succeeded, Failed bool
	// Refused is why the scheduler has no place for it; empty when it has not said.
	Refused string
	// BindFailed says that it had a place, and that binding it failed.
	BindFailed bool
	// Foreign says that another scheduler places it.
	Foreign bool

	// former says that it ended before the present run of the gang, past that it did before any was bound of those that hold a
	// place now; see [Record].
	former, past bool
	// anew says that it was bound after the loss for which the others leave.
	anew bool
}

// active says that the pod goes on.
func (m MemberState) active() bool { return m.Ended.IsZero() }

// holds says that the pod goes on and has a node.
func (m MemberState) holds() bool { return m.active() && !m.Bound.IsZero() }

// lost says that the pod ran and was lost.
func (m MemberState) lost() bool { return !m.active() && !m.Succeeded && m.Running }

// Status is what a PodGroup says of its gang. It is stored there, and is all that [Judge] remembers from one time to the next.
type Status struct {
	Phase Phase
	// Scheduled members have a node or have succeeded, Running ones run. Succeeded are those of the present run of the gang, also
	// when their pods are gone. Failed are all whose pods are there.
	Scheduled, Running, Succeeded, Failed int
	// Since is when the gang became partial, or when the member was lost for which the others leave. Zero in the phases
	// other than [PhaseUnknown] and [PhaseFailed]. In whole seconds, rounded up, as the API stores it.
	Since time.Time
	// Message says what is missing, and what will happen; empty when all is well.
	Message string
}

// started says that members have places, or had when the status was made.
func (s Status) started() bool {
	return s.Phase == PhaseScheduling || s.Phase == PhaseRunning || s.Phase == PhaseUnknown
}

// Eviction is why members are evicted.
type Eviction string

const (
	// EvictNone: no member is evicted.
	EvictNone Eviction = ""
	// EvictPartial: fewer members than the minimum were bound for longer than the grace.
	EvictPartial Eviction = "partial"
	// EvictUnbound: the policy is [PartialLeave], and a member could not be bound within the grace.
	EvictUnbound Eviction = "unbound"
	// EvictMemberLost: the policy is [LostRestart], and a member that ran was lost.
	EvictMemberLost Eviction = "member-lost"
)

// Evictions are the reasons there are.
func Evictions() []Eviction { return []Eviction{EvictPartial, EvictUnbound, EvictMemberLost} }

// Next is what has to be done for a gang.
type Next struct {
	// At is when to look again though nothing changed; zero for never.
	At time.Time
	// Evict are the indices of the members to evict.
	Evict  []int
	Reason Eviction
	// Why tells people; empty without an eviction.
	Why string
}

// Judge says where the gang stands, from its pods as [Record.Complete] has them, in an order of the caller's, from the status that
// it had before and from the time; and what has to be done. It is to be called after every change of the gang, and at [Next.At].
//
// Members that succeeded count as if they still were bound, so a gang that is finishing is never partial. Those that failed or
// are being deleted are lost.
//
// Since when a gang is partial stands in its status, so whoever calls Judge may be started anew meanwhile. What cannot be told is
// whether a gang became whole, and partial once more, while nobody looked: the time then counts from the first of the two.
func Judge(spec Spec, pods []MemberState, was Status, now time.Time) (Status, Next) {
	c := count(pods)
	s := c.status()
	if c.foreign > 0 {
		s.Phase = s.phase(spec, c)
		s.Message = fmt.Sprintf("another scheduler is to place %d of %d members: all members of a gang need the same schedulerName",
			c.foreign, c.active)
		return s, Next{}
	}
	if spec.Lost == LostRestart {
		if lost := s.lost(pods, was, now); !lost.at.IsZero() {
			if evict := boundUntil(pods, lost.at); len(evict) > 0 {
				s.Phase, s.Since = PhaseFailed, lost.at
				why := fmt.Sprintf("%s was lost, and the gang is to start again as a whole when it loses one", lost.name)
				s.Message = fmt.Sprintf("%s: evicting %s", why, members(len(evict)))
				return s, Next{Evict: evict, Reason: EvictMemberLost, Why: why}
			}
		}
	}
	return s.judgePartial(spec, pods, c, was, now)
}

// judgePartial finishes the status of a gang that lost no member for which the others have to leave.
func (s Status) judgePartial(spec Spec, pods []MemberState, c counts, was Status, now time.Time) (Status, Next) {
	s.Phase = s.phase(spec, c)
	reason := EvictNone
	switch {
	case s.Phase == PhaseUnknown:
		reason = EvictPartial
	case spec.Partial == PartialLeave && c.bindFailed > 0 && c.bound > 0:
		reason, s.Phase = EvictUnbound, PhaseUnknown
	}
	if reason == EvictNone {
		s.Message = s.wants(spec, c)
		return s, Next{}
	}

	s.Since = ceil(now)
	if was.Phase == PhaseUnknown && !was.Since.IsZero() {
		s.Since = was.Since
	}
	due := s.Since.Add(spec.Grace)
	what := fmt.Sprintf("%d of %d members have a place", s.Scheduled, spec.Min)
	if reason == EvictUnbound {
		what = members(c.bindFailed) + " could not be bound"
	}
	if now.Before(due) {
		s.Message = fmt.Sprintf("%s: unless that changes, all are evicted at %s", what, due.UTC().Format(time.RFC3339))
		if c.refused != "" {
			s.Message += "; " + c.refused
		}
		return s, Next{At: due}
	}
	why := fmt.Sprintf("since %s %s, and the gang may be partial for %v", s.Since.UTC().Format(time.RFC3339), what, spec.Grace)
	s.Message = fmt.Sprintf("%s: evicting %s", why, members(c.bound))
	return s, Next{Evict: boundUntil(pods, now), Reason: reason, Why: why}
}

// phase is the phase by the numbers alone.
func (s Status) phase(spec Spec, c counts) Phase {
	switch {
	case c.bound == 0 && s.Succeeded >= spec.Min && c.active < spec.Min: // with as many again it is to start again
		return PhaseFinished
	case c.active == 0 && c.deleting == 0 && s.Failed > 0:
		return PhaseFailed
	case c.bound == 0:
		return PhasePending
	case s.Scheduled < spec.Min:
		return PhaseUnknown
	case s.Running+s.Succeeded < spec.Min:
		return PhaseScheduling
	}
	return PhaseRunning
}

// wants says what a gang that is not partial waits for.
func (s Status) wants(spec Spec, c counts) string {
	switch s.Phase {
	case PhaseFailed:
		return fmt.Sprintf("all members ended; %d of %d succeeded, %d failed", s.Succeeded, spec.Min, s.Failed)
	case PhasePending:
		if exist := c.active + s.Succeeded; exist < spec.Min {
			detail := fmt.Sprintf("%d of %d members exist", exist, spec.Min)
			if c.deleting > 0 {
				detail += fmt.Sprintf(", and %d are being deleted", c.deleting)
			}
			return fit.Rejection{Reason: fit.GangIncomplete, Detail: detail}.Message()
		}
		if c.refused == "" {
			return members(c.active) + " to be scheduled"
		}
		return c.refused
	case PhaseScheduling, PhaseRunning:
		if surplus := c.active - c.bound; surplus > 0 {
			return fmt.Sprintf("no place for %s, which the gang can do without", members(surplus))
		}
	}
	return ""
}

// Invalid is the status of a gang whose PodGroup asks for something that has no meaning: it is left as it is.
func Invalid(err error, pods []MemberState, was Status) Status {
	s := count(pods).status()
	s.Phase, s.Since = was.Phase, was.Since
	s.Message = fit.Rejection{Reason: fit.InvalidGang, Detail: err.Error()}.Message()
	if s.Phase == "" {
		s.Phase = PhasePending
	}
	return s
}

// loss is a member that was lost; zero for none.
type loss struct {
	at   time.Time
	name string
}

// lost finds the latest loss of a member that ran. Members that were bound after it have nothing to do with it.
func (s Status) lost(pods []MemberState, was Status, now time.Time) (l loss) {
	if was.Phase == PhaseFailed && len(boundUntil(pods, was.Since)) > 0 { // what was begun is finished
		l = loss{was.Since, "a member"}
		if i := slices.IndexFunc(pods, func(p MemberState) bool { return p.lost() && ceil(p.Ended).Equal(was.Since) }); i >= 0 {
			l.name = pods[i].Name
		}
		return l
	}
	seen := 0
	for _, p := range pods {
		if !p.lost() || p.past {
			continue
		}
		if !p.former {
			seen++
		}
		if p.Ended.After(l.at) {
			l = loss{ceil(p.Ended), p.Name}
		}
	}
	// One that is gone without a trace shows in the numbers only.
	if was.started() && was.Running+was.Succeeded > s.Running+s.Succeeded+seen {
		l = loss{ceil(now), "a member"}
	}
	return l
}

// boundUntil are the indices of the members that hold a place since then or before.
func boundUntil(pods []MemberState, then time.Time) (out []int) {
	for i, p := range pods {
		if p.holds() && !p.anew && !p.Bound.After(then) {
			out = append(out, i)
		}
	}
	return out
}

type counts struct {
	// active pods go on; of them some are bound, running, foreign, or could not be bound.
	active, bound, running, foreign, bindFailed int
	// succeeded ones did so in the present run. Failed and deleting ones do not go on either.
	succeeded, failed, deleting int
	// start is when the first of the bound ones was bound; zero without any.
	start time.Time
	// refused is the first reason that the scheduler gives.
	refused string
}

func count(pods []MemberState) (c counts) {
	for _, p := range pods {
		switch {
		case p.Succeeded:
			if !p.former {
				c.succeeded++
			}
		case p.Failed:
			c.failed++
		case !p.active():
			c.deleting++
		default:
			c.active++
			if p.Foreign {
				c.foreign++
			}
		}
		if p.active() && !p.holds() {
			if c.refused == "" {
				c.refused = p.Refused
			}
			if p.BindFailed {
				c.bindFailed++
			}
		}
		if !p.holds() {
			continue
		}
		c.bound++
		if p.Running {
			c.running++
		}
		if c.start.IsZero() || p.Bound.Before(c.start) {
			c.start = p.Bound
		}
	}
	return c
}

// status has the numbers of a status.
func (c counts) status() Status {
	return Status{Scheduled: c.bound + c.succeeded, Running: c.running, Succeeded: c.succeeded, Failed: c.failed}
}

func members(n int) string {
	if n == 1 {
		return "1 member"
	}
	return fmt.Sprintf("%d members", n)
}

// ceil rounds up to whole seconds.
func ceil(t time.Time) time.Time {
	down := t.Truncate(time.Second)
	if down.Before(t) {
		return down.Add(time.Second)
	}
	return down
}
