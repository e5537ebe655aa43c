package health

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Limits are the settings of a [Monitor]. The zero value of a field stands for its default.
type Limits struct {
	// Quarantine is how long the driver must have wanted no recovery after an error. Default 30 s.
	Quarantine time.Duration
	// BlindQuarantine is the same where the driver does not say what it wants. Default 10 min.
	BlindQuarantine time.Duration
	// Ignored are further Xids that are not taken for the GPU's fault.
	Ignored []uint64
}

const (
	defaultQuarantine      = 30 * time.Second
	defaultBlindQuarantine = 10 * time.Minute
	maxLimit               = 24 * time.Hour
	// longest bounds the quarantine of a GPU that fails again and again, unless the limits want more for the first failure.
	longest = time.Hour
	// steady is how long a GPU must have been healthy for its next failure to count as the first.
	steady = time.Hour
	// answers is how many polls in a row a GPU that did not answer must answer.
	answers = 2
	// maxXids is how many different Xids of one failure are told.
	maxXids = 3
)

// Validate reports what is wrong with the limits.
func (l Limits) Validate() error {
	var errs []error
	for _, q := range []struct {
		name string
		d    time.Duration
	}{{"quarantine", l.Quarantine}, {"quarantine without the driver's word", l.BlindQuarantine}} {
		if q.d < 0 || q.d > maxLimit {
			errs = append(errs, fmt.Errorf("%s %v: want 0 (the default) to %v", q.name, q.d, maxLimit))
		}
	}
	return errors.Join(errs...)
}

// Condition is what a poll found.
type Condition struct {
	// Lost: the GPU does not answer, or with an error; Err says which.
	Lost bool
	Err  string
	// Recovery is what the driver wants done before the GPU is used again: [RecoveryNone], [RecoveryUnknown], or a word such as
	// gpu-reset. Empty is unknown.
	Recovery string
}

// What a driver can say of recovery that matters here.
const (
	RecoveryNone    = "none"
	RecoveryUnknown = "unknown"
)

// known reports whether the driver says what it wants.
func (c Condition) known() bool { return c.Recovery != "" && c.Recovery != RecoveryUnknown }

// advice is what people have to do about a recovery action, besides waiting for those who use the GPU.
var advice = map[string]string{
	"gpu-reset":       "reset the GPU once nothing uses it",
	"node-reboot":     "reboot the node",
	"drain":           "end the programs that reach other GPUs over it",
	"drain-and-reset": "let its programs end, then reset the GPU",
	"bus-reset":       "reset the GPU's PCIe bus once nothing uses it",
}

// Monitor watches one GPU:
//
//	          critical Xid / lost / recovery action wanted
//	healthy ────────────────────────────────────────────────▶ failed ◀─┐ another of them: the
//	   ▲                                                        │  └────┘ waiting begins anew
//	   └────────────────────────────────────────────────────────┘
//	     a poll, when the GPU has answered the last two after it did not answer one,
//	     no action is wanted, and all has been quiet for the quarantine
//
// The quarantine is counted over polls that found nothing wrong, without a critical Xid between them: over those where the driver said
// that it wants nothing, Limits.Quarantine of them is enough; counting those where it did not say, it takes Limits.BlindQuarantine.
//
//	the n-th failure in a row      quarantine
//	with a critical Xid            2^(n-1) times that of the limits
//	without                        none for the first, then 2^(n-2) times Limits.Quarantine
//
// but never more than an hour, or what the limits say if that is more. Failures are in a row when the GPU was healthy for less than an
// hour between them.
//
// Times must not go back; one that does counts as the last seen. Not safe for concurrent use. Made by [NewMonitor].
type Monitor struct {
	limits Limits
	now    time.Time

	failed bool
	// since is when it last became healthy or failed.
	since time.Time
	// failures in a row, this one included.
	failures int

	// last is what the last poll found.
	last Condition

	// What follows is of this failure, and zero while healthy.

	// xids are the different critical errors, the first ones.
	xids []Xid
	// lost is what the last poll found that was not answered, action the last recovery action that was wanted.
	lost   Condition
	action string
	// unanswered is how many polls in a row are still to be answered.
	unanswered int
	// noneSince is since when polls found that the driver wants nothing, quietSince since when they found nothing wrong; zero when the
	// last poll did not, or an Xid came after it.
	noneSince, quietSince time.Time
}

// NewMonitor watches a GPU that is healthy as far as is known.
func NewMonitor(l Limits) *Monitor {
	if l.Quarantine == 0 {
		l.Quarantine = defaultQuarantine
	}
	if l.BlindQuarantine == 0 {
		l.BlindQuarantine = defaultBlindQuarantine
	}
	return &Monitor{limits: l}
}

// Status is what a Monitor says.
type Status struct {
	Healthy bool
	// Reason is for people, empty when healthy: what happened, and what it takes for the GPU to be healthy again. It changes only when
	// one of these does.
	Reason string
	// Since is since when it has been healthy, or not; zero when from the start.
	Since time.Time
}

// Status is how it stands since the last Xid or Poll.
func (m *Monitor) Status() Status {
	s := Status{Healthy: !m.failed, Since: m.since}
	if m.failed {
		s.Reason = m.reason()
	}
	return s
}

// ignores reports whether the Xid is no fault of the GPU's.
func (m *Monitor) ignores(number uint64) bool {
	return harmless[number] || slices.Contains(m.limits.Ignored, number)
}

// Xid tells of an error event. What is no fault of the GPU's is ignored; everything else makes it unhealthy at once.
func (m *Monitor) Xid(x Xid, now time.Time) {
	if m.ignores(x.Number) {
		return
	}
	m.clock(now)
	m.fail()
	m.noneSince, m.quietSince = time.Time{}, time.Time{}
	if len(m.xids) < maxXids && !slices.Contains(m.xids, x) {
		m.xids = append(m.xids, x)
	}
}

// State is what of a Monitor has to outlive the program. What polls find again is not in it, and so the quarantine begins anew. The zero
// State is that of a GPU that has not failed. It can be compared with [reflect.DeepEqual].
type State struct {
	// Xids are the critical errors for which it is unhealthy.
	Xids []Xid `json:"xids,omitempty"`
	// Since is when it last became healthy or failed.
	Since time.Time `json:"since"`
	// Failures in a row, by critical errors this one included.
	Failures int `json:"failures"`
}

// State is what [Monitor.Restore] takes.
func (m *Monitor) State() State {
	s := State{Xids: slices.Clone(m.xids), Since: m.since, Failures: m.failures}
	if m.failed && len(m.xids) == 0 {
		s.Failures-- // a poll will find it again
	}
	if s.Failures <= 0 {
		return State{}
	}
	return s
}

// Restore makes a new Monitor go on from the state. Xids that are ignored by now are left out.
func (m *Monitor) Restore(s State, now time.Time) {
	if s.Since.After(now) { // the clock was set back
		s.Since = now
	}
	m.now, m.since, m.failures = now, s.Since, max(0, s.Failures)
	for _, x := range s.Xids {
		if !m.ignores(x.Number) && len(m.xids) < maxXids && !slices.Contains(m.xids, x) {
			m.xids = append(m.xids, x)
		}
	}
	if m.failed = len(m.xids) > 0; m.failed {
		m.failures = max(1, m.failures)
	}
}

// Poll tells what a look at the GPU found.
func (m *Monitor) Poll(c Condition, now time.Time) {
	m.clock(now)
	m.last = c
	wanted := c.known() && c.Recovery != RecoveryNone
	if c.Lost || wanted {
		m.fail()
		m.noneSince, m.quietSince = time.Time{}, time.Time{}
	}
	if wanted {
		m.action = c.Recovery
	}
	if c.Lost {
		m.lost, m.unanswered = c, answers
		return
	}
	m.unanswered = max(0, m.unanswered-1)
	if wanted || !m.failed {
		return
	}
	if m.quietSince.IsZero() {
		m.quietSince = m.now
	}
	switch {
	case !c.known():
		m.noneSince = time.Time{}
	case m.noneSince.IsZero():
		m.noneSince = m.now
	}
	long := m.now.Sub(m.quietSince) >= m.quarantine(false) || !m.noneSince.IsZero() && m.now.Sub(m.noneSince) >= m.quarantine(true)
	if m.unanswered == 0 && long {
		*m = Monitor{limits: m.limits, now: m.now, since: m.now, failures: m.failures, last: c}
	}
}

func (m *Monitor) clock(now time.Time) {
	if now.After(m.now) {
		m.now = now
	}
}

func (m *Monitor) fail() {
	if m.failed {
		return
	}
	if m.now.Sub(m.since) >= steady {
		m.failures = 0
	}
	m.failed, m.since = true, m.now
	m.failures++
}

// quarantine is how long all must have been quiet, with or without the driver saying that it wants nothing.
func (m *Monitor) quarantine(driverSays bool) time.Duration {
	base, doublings := m.limits.Quarantine, m.failures-1
	if len(m.xids) == 0 {
		doublings--
	} else if !driverSays {
		base = m.limits.BlindQuarantine
	}
	if doublings < 0 {
		return 0
	}
	limit := max(base, longest)
	for range doublings {
		if base >= limit/2 {
			return limit
		}
		base *= 2
	}
	return base
}

// reason is what happened, and what it takes.
func (m *Monitor) reason() string {
	var parts []string
	for _, xid := range m.xids {
		parts = append(parts, xid.String())
	}
	lost, wanted := m.unanswered > 0, m.last.known() && m.last.Recovery != RecoveryNone
	if m.lost.Lost {
		text := "the GPU did not answer"
		if lost {
			text = "the GPU does not answer"
		}
		if m.lost.Err != "" {
			text += ": " + m.lost.Err
		}
		parts = append(parts, text)
	}
	switch {
	case wanted && advice[m.action] != "":
		parts = append(parts, fmt.Sprintf("the driver wants %s: %s", m.action, advice[m.action]))
	case wanted:
		parts = append(parts, "the driver wants "+m.action)
	case m.action != "":
		parts = append(parts, "the driver wanted "+m.action)
	}
	if wait := m.quarantine(m.last.known()); wait > 0 && !lost && !wanted {
		until := "the driver has wanted nothing"
		if !m.last.known() {
			until = "nothing has happened"
		}
		parts = append(parts, fmt.Sprintf("in quarantine until %s for %v", until, wait))
	}
	return strings.Join(parts, "; ")
}
