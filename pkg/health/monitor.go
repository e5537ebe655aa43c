package health

import (
	"errors"
	"fmt"
	"slices"
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
	// maxDoublings bounds the quarantine of a GPU that fails again and again to 32 times the first.
	maxDoublings = 5
	// steady is how long a GPU must have been healthy for its next failure to count as the first.
	steady = time.Hour
	// answers is how many polls in a row a GPU that did not answer must answer.
	answers = 2
)

// Validate reports what is wrong with the limits.
func (l Limits) Validate() error {
	var errs []error
	for _, q := range []struct {
		name string
		d    time.Duration
	}{{"quarantine", l.Quarantine}, {"quarantine without the driver's word", l.BlindQuarantine}} {
		if q.d < 0 || q.d > 24*time.Hour {
			errs = append(errs, fmt.Errorf("%s %v: want 0 (the default) to 24h", q.name, q.d))
		}
	}
	return errors.Join(errs...)
}

// Condition is what a poll found.
type Condition struct {
	// Lost: the GPU does not answer, for the reason in Err.
	Lost bool
	Err  string
	// Recovery is what the driver wants done before the GPU is used again: [RecoveryNone], [RecoveryUnknown], or anything else
	// for people. Empty is unknown.
	Recovery string
}

// What a driver can say of recovery that matters here.
const (
	RecoveryNone    = "none"
	RecoveryUnknown = "unknown"
)

// Monitor watches one GPU:
//
//	          critical Xid / lost / recovery action wanted
//	healthy ────────────────────────────────────────────────▶ failed ◀─┐ another of them: since then
//	   ▲                                                        │  └────┘
//	   └────────────────────────────────────────────────────────┘
//	     answers again (twice), no action wanted, and no Xid for the quarantine
//
// Times must not go back; one that does counts as the last seen. Not safe for concurrent use. Made by [NewMonitor].
type Monitor struct {
	limits Limits
	now    time.Time

	// reason is empty when healthy.
	reason string
	// since is when it last became healthy or failed.
	since time.Time
	// xid is the last critical error, with its time; zero time when there was none since it was healthy.
	xid   uint64
	xidAt time.Time
	// quietSince is since when polls found nothing wanted; zero while something is.
	quietSince time.Time
	// blind: the last poll did not know what the driver wants.
	blind bool
	// unanswered: polls to be answered in a row before a GPU that was lost is believed to be back.
	unanswered int
	// doublings of the quarantine.
	doublings int
	recovered time.Time
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
	// Reason is for people, empty when healthy: what happened, and what is waited for.
	Reason string
	// Since is since when it has been so, zero when from the start.
	Since time.Time
}

// Status is how it stands since the last Xid or Poll.
func (m *Monitor) Status() Status {
	return Status{Healthy: m.reason == "", Reason: m.reason, Since: m.since}
}

// Xid tells of an error event. What is no fault of the GPU's is ignored; everything else makes it unhealthy at once.
func (m *Monitor) Xid(xid uint64, now time.Time) {
	if applicationXids[xid] || slices.Contains(m.limits.Ignored, xid) {
		return
	}
	m.clock(now)
	m.xid, m.xidAt, m.quietSince = xid, m.now, time.Time{}
	m.fail(m.xidReason())
}

// Poll tells what a look at the GPU found.
func (m *Monitor) Poll(c Condition, now time.Time) {
	m.clock(now)
	m.blind = c.Recovery == RecoveryUnknown || c.Recovery == ""
	switch {
	case c.Lost:
		m.unanswered, m.quietSince = answers, time.Time{}
		reason := "the GPU does not answer"
		if c.Err != "" {
			reason += ": " + c.Err
		}
		m.fail(reason)
		return
	case !m.blind && c.Recovery != RecoveryNone:
		m.unanswered, m.quietSince = 0, time.Time{}
		reason := "the driver wants a recovery action: " + c.Recovery
		if !m.xidAt.IsZero() {
			reason = Describe(m.xid) + "; " + reason
		}
		m.fail(reason)
		return
	}
	if m.quietSince.IsZero() {
		m.quietSince = m.now
	}
	m.unanswered = max(0, m.unanswered-1)
	if m.reason == "" || m.unanswered > 0 {
		return
	}
	if !m.xidAt.IsZero() && m.now.Sub(m.quietSince) < m.quarantine() {
		m.reason = m.xidReason()
		return
	}
	m.reason, m.since, m.recovered = "", m.now, m.now
	m.xid, m.xidAt = 0, time.Time{}
}

func (m *Monitor) clock(now time.Time) {
	if now.After(m.now) {
		m.now = now
	}
}

func (m *Monitor) fail(reason string) {
	if m.reason == "" {
		m.since = m.now
		if m.recovered.IsZero() || m.now.Sub(m.recovered) >= steady {
			m.doublings = 0
		} else {
			m.doublings = min(m.doublings+1, maxDoublings)
		}
	}
	m.reason = reason
}

func (m *Monitor) quarantine() time.Duration {
	q := m.limits.Quarantine
	if m.blind {
		q = m.limits.BlindQuarantine
	}
	return q << m.doublings
}

func (m *Monitor) xidReason() string {
	return fmt.Sprintf("%s at %s; in quarantine for %v after the last error", Describe(m.xid), m.xidAt.UTC().Format(time.RFC3339), m.quarantine())
}
