package health

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var start = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

// happen tells the monitor of one thing: "xid 79", "lost", "lost: why", or else a poll that found this recovery action.
func happen(m *Monitor, what string, now time.Time) {
	number, isXid := strings.CutPrefix(what, "xid ")
	why, isLost := strings.CutPrefix(what, "lost")
	switch {
	case isXid:
		xid, err := strconv.ParseUint(number, 10, 64)
		if err != nil {
			panic(err)
		}
		m.Xid(Xid{Number: xid}, now)
	case isLost:
		m.Poll(Condition{Lost: true, Err: strings.TrimPrefix(why, ": ")}, now)
	default:
		m.Poll(Condition{Recovery: what}, now)
	}
}

func TestMonitor(t *testing.T) {
	type step struct {
		// until is when an Xid came, or up to when polls were made, every 5 s since the step before.
		until time.Duration
		what  string
		// want is the reason after the Xid or after each of the polls, empty for healthy.
		want string
	}
	const s, minute, hour = time.Second, time.Minute, time.Hour
	const quarantined = "; in quarantine until the driver has wanted nothing for "
	const blind = "; in quarantine until nothing has happened for "
	for name, c := range map[string]struct {
		limits Limits
		steps  []step
	}{
		"a GPU of which nothing is known is healthy":      {steps: []step{{0, "unknown", ""}}},
		"a GPU with which nothing is wrong stays healthy": {steps: []step{{hour, "none", ""}, {2 * hour, "unknown", ""}}},

		"a GPU that does not answer is unhealthy at once, and healthy when it has answered twice": {steps: []step{
			{5 * s, "none", ""},
			{10 * s, "lost: GPU is lost", "the GPU does not answer: GPU is lost"},
			{60 * s, "lost: GPU is lost", "the GPU does not answer: GPU is lost"},
			{65 * s, "none", "the GPU does not answer: GPU is lost"},
			{70 * s, "none", ""},
		}},
		"it does not matter for that whether the driver says what it wants": {steps: []step{
			{5 * s, "lost", "the GPU does not answer"}, {10 * s, "unknown", "the GPU does not answer"}, {15 * s, "unknown", ""},
		}},
		"two answers, but not in a row": {steps: []step{
			{5 * s, "lost", "the GPU does not answer"},
			{10 * s, "none", "the GPU does not answer"},
			{15 * s, "lost", "the GPU does not answer"},
			{20 * s, "none", "the GPU does not answer"},
			{25 * s, "none", ""},
		}},
		"a GPU for which the driver wants something is unhealthy, and healthy when it does not any more": {steps: []step{
			{5 * s, "gpu-reset", "the driver wants gpu-reset: reset the GPU once nothing uses it"},
			{10 * minute, "gpu-reset", "the driver wants gpu-reset: reset the GPU once nothing uses it"},
			{10*minute + 5*s, "none", ""},
		}},
		"also for something that is not known here": {steps: []step{
			{5 * s, "action-9", "the driver wants action-9"}, {10 * s, "unknown", ""},
		}},
		"one action after another": {steps: []step{
			{5 * s, "drain", "the driver wants drain: end the programs that reach other GPUs over it"},
			{10 * s, "node-reboot", "the driver wants node-reboot: reboot the node"},
			{15 * s, "none", ""},
		}},

		"a critical error makes it unhealthy at once, for the quarantine": {steps: []step{
			{5 * s, "none", ""},
			{6 * s, "xid 48", "Xid 48: double-bit ECC error" + quarantined + "30s"},
			{39 * s, "none", "Xid 48: double-bit ECC error" + quarantined + "30s"},
			{41 * s, "none", ""},
		}},
		"an error before the first poll is waited out for as long as if the driver did not say": {steps: []step{
			{1 * s, "xid 48", "Xid 48: double-bit ECC error" + blind + "10m0s"},
			{5 * s, "none", "Xid 48: double-bit ECC error" + quarantined + "30s"},
		}},
		"where the driver does not say what it wants, quarantine is longer": {steps: []step{
			{5 * s, "unknown", ""},
			{6 * s, "xid 119", "Xid 119: the GPU system processor (GSP) does not answer" + blind + "10m0s"},
			{10*minute + 10*s, "unknown", "Xid 119: the GPU system processor (GSP) does not answer" + blind + "10m0s"},
			{10*minute + 11*s, "unknown", ""},
		}},
		"the driver begins to say it: from then on the short quarantine counts": {steps: []step{
			{5 * s, "unknown", ""},
			{6 * s, "xid 48", "Xid 48: double-bit ECC error" + blind + "10m0s"},
			{5 * minute, "unknown", "Xid 48: double-bit ECC error" + blind + "10m0s"},
			{5*minute + 30*s, "none", "Xid 48: double-bit ECC error" + quarantined + "30s"},
			{5*minute + 35*s, "none", ""},
		}},
		"the driver says it now and then: the long quarantine counts": {steps: []step{
			{1 * s, "xid 48", "Xid 48: double-bit ECC error" + blind + "10m0s"},
			{26 * s, "none", "Xid 48: double-bit ECC error" + quarantined + "30s"},
			{27 * s, "unknown", "Xid 48: double-bit ECC error" + blind + "10m0s"},
			{52 * s, "none", "Xid 48: double-bit ECC error" + quarantined + "30s"},
			{53 * s, "unknown", "Xid 48: double-bit ECC error" + blind + "10m0s"},
			{10*minute + 5*s, "unknown", "Xid 48: double-bit ECC error" + blind + "10m0s"},
			{10*minute + 6*s, "unknown", ""},
		}},
		"another error begins the quarantine anew, and both are told": {steps: []step{
			{5 * s, "none", ""},
			{6 * s, "xid 48", "Xid 48: double-bit ECC error" + quarantined + "30s"},
			{30 * s, "none", "Xid 48: double-bit ECC error" + quarantined + "30s"},
			{31 * s, "xid 94", "Xid 48: double-bit ECC error; Xid 94: contained memory error" + quarantined + "30s"},
			{32 * s, "xid 48", "Xid 48: double-bit ECC error; Xid 94: contained memory error" + quarantined + "30s"},
			{66 * s, "none", "Xid 48: double-bit ECC error; Xid 94: contained memory error" + quarantined + "30s"},
			{67 * s, "none", ""},
		}},
		"a storm of errors is one failure, and not all of them are told": {steps: []step{
			{1 * s, "none", ""},
			{2 * s, "xid 74", "Xid 74: NVLink error" + quarantined + "30s"},
			{2 * s, "xid 95", "Xid 74: NVLink error; Xid 95: uncontained memory error" + quarantined + "30s"},
			{3 * s, "xid 120", "Xid 74: NVLink error; Xid 95: uncontained memory error; Xid 120: error of the GPU system processor (GSP)" + quarantined + "30s"},
			{4 * s, "xid 79", "Xid 74: NVLink error; Xid 95: uncontained memory error; Xid 120: error of the GPU system processor (GSP)" + quarantined + "30s"},
			{37 * s, "none", "Xid 74: NVLink error; Xid 95: uncontained memory error; Xid 120: error of the GPU system processor (GSP)" + quarantined + "30s"},
			{39 * s, "none", ""},
		}},
		"an error, and what the driver wants for it": {steps: []step{
			{5 * s, "none", ""},
			{6 * s, "xid 95", "Xid 95: uncontained memory error" + quarantined + "30s"},
			{hour, "gpu-reset", "Xid 95: uncontained memory error; the driver wants gpu-reset: reset the GPU once nothing uses it"},
			{hour + 30*s, "none", "Xid 95: uncontained memory error; the driver wanted gpu-reset" + quarantined + "30s"},
			{hour + 35*s, "none", ""},
		}},
		"a GPU that falls off the bus": {steps: []step{
			{5 * s, "none", ""},
			{6 * s, "xid 79", "Xid 79: the GPU has fallen off the bus" + quarantined + "30s"},
			{minute, "lost: GPU is lost", "Xid 79: the GPU has fallen off the bus; the GPU does not answer: GPU is lost"},
			{minute + 5*s, "none", "Xid 79: the GPU has fallen off the bus; the GPU does not answer: GPU is lost"},
			{minute + 30*s, "none", "Xid 79: the GPU has fallen off the bus; the GPU did not answer: GPU is lost" + quarantined + "30s"},
			{minute + 35*s, "none", ""},
		}},
		"a GPU that answers with an action": {steps: []step{
			{5 * s, "lost: x", "the GPU does not answer: x"},
			{10 * s, "bus-reset", "the GPU does not answer: x; the driver wants bus-reset: reset the GPU's PCIe bus once nothing uses it"},
			{15 * s, "bus-reset", "the GPU did not answer: x; the driver wants bus-reset: reset the GPU's PCIe bus once nothing uses it"},
			{20 * s, "none", ""},
		}},

		"errors of programs and remarks are ignored": {steps: []step{
			{5 * s, "none", ""},
			{6 * s, "xid 13", ""},
			{7 * s, "xid 31", ""},
			{8 * s, "xid 43", ""},
			{9 * s, "xid 45", ""},
			{10 * s, "xid 68", ""},
			{11 * s, "xid 109", ""},
			{12 * s, "xid 63", ""},
			{13 * s, "xid 92", ""},
			{14 * s, "xid 154", ""},
		}},
		"errors that the admin adds are ignored, too": {limits: Limits{Ignored: []uint64{94, 7}}, steps: []step{
			{5 * s, "none", ""}, {6 * s, "xid 94", ""}, {7 * s, "xid 7", ""}, {8 * s, "xid 95", "Xid 95: uncontained memory error" + quarantined + "30s"},
		}},
		"in quarantine what is ignored begins nothing anew": {steps: []step{
			{5 * s, "none", ""},
			{6 * s, "xid 48", "Xid 48: double-bit ECC error" + quarantined + "30s"},
			{30 * s, "none", "Xid 48: double-bit ECC error" + quarantined + "30s"},
			{31 * s, "xid 45", "Xid 48: double-bit ECC error" + quarantined + "30s"},
			{36 * s, "none", "Xid 48: double-bit ECC error" + quarantined + "30s"},
			{41 * s, "none", ""},
		}},
		"an error without a meaning here": {steps: []step{
			{5 * s, "none", ""}, {6 * s, "xid 12345", "Xid 12345" + quarantined + "30s"}, {7 * s, "xid 999", "Xid 12345; Xid 999: an error that the driver does not name" + quarantined + "30s"},
		}},

		"a second error soon after the first recovered is waited out for twice as long": {steps: []step{
			{5 * s, "none", ""},
			{6 * s, "xid 48", "Xid 48: double-bit ECC error" + quarantined + "30s"},
			{39 * s, "none", "Xid 48: double-bit ECC error" + quarantined + "30s"},
			{50 * minute, "none", ""},
			{51 * minute, "xid 94", "Xid 94: contained memory error" + quarantined + "1m0s"},
			{52*minute + 3*s, "none", "Xid 94: contained memory error" + quarantined + "1m0s"},
			{52*minute + 5*s, "none", ""},
			{53 * minute, "xid 94", "Xid 94: contained memory error" + quarantined + "2m0s"},
		}},
		"an hour of health makes good for all": {steps: []step{
			{5 * s, "none", ""},
			{6 * s, "xid 48", "Xid 48: double-bit ECC error" + quarantined + "30s"},
			{39 * s, "none", "Xid 48: double-bit ECC error" + quarantined + "30s"},
			{hour + 2*minute, "none", ""},
			{hour + 3*minute, "xid 48", "Xid 48: double-bit ECC error" + quarantined + "30s"},
		}},
		"a GPU that is lost again and again stays out for longer and longer": {steps: []step{
			{5 * s, "lost", "the GPU does not answer"},
			{10 * s, "none", "the GPU does not answer"},
			{15 * s, "none", ""},
			{20 * s, "lost", "the GPU does not answer"},
			{25 * s, "none", "the GPU does not answer"},
			{50 * s, "none", "the GPU did not answer" + quarantined + "30s"},
			{55 * s, "none", ""},
			{60 * s, "lost", "the GPU does not answer"},
			{65 * s, "none", "the GPU does not answer"},
			{120 * s, "unknown", "the GPU did not answer" + blind + "1m0s"},
			{125 * s, "none", ""},
		}},
		"so does one for which the driver wants something again and again": {steps: []step{
			{5 * s, "drain-and-reset", "the driver wants drain-and-reset: let its programs end, then reset the GPU"},
			{10 * s, "none", ""},
			{15 * s, "drain-and-reset", "the driver wants drain-and-reset: let its programs end, then reset the GPU"},
			{45 * s, "none", "the driver wanted drain-and-reset" + quarantined + "30s"},
			{50 * s, "none", ""},
		}},
		"limits of one's own": {limits: Limits{Quarantine: 10 * s, BlindQuarantine: minute}, steps: []step{
			{5 * s, "unknown", ""},
			{6 * s, "xid 48", "Xid 48: double-bit ECC error" + blind + "1m0s"},
			{10 * s, "none", "Xid 48: double-bit ECC error" + quarantined + "10s"},
			{15 * s, "none", "Xid 48: double-bit ECC error" + quarantined + "10s"},
			{21 * s, "none", ""},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			m := NewMonitor(c.limits)
			var at time.Duration
			var log []string
			check := func(at time.Duration, what, want string) {
				happen(m, what, start.Add(at))
				got := m.Status()
				log = append(log, fmt.Sprintf("%v %s: %+v", at, what, got))
				if got.Reason != want || got.Healthy != (want == "") {
					t.Fatalf("want %q, got\n%s", want, strings.Join(log, "\n"))
				}
			}
			for _, step := range c.steps {
				for next := at + 5*s; next < step.until && !strings.HasPrefix(step.what, "xid"); next += 5 * s {
					check(next, step.what, step.want)
				}
				at = step.until
				check(at, step.what, step.want)
			}
		})
	}
}

func TestQuarantineIsBounded(t *testing.T) {
	m := NewMonitor(Limits{Quarantine: 30 * time.Second})
	now := start
	var waits []time.Duration
	for range 12 {
		now = now.Add(time.Second)
		m.Xid(Xid{Number: 79}, now)
		failed := now
		for !m.Status().Healthy {
			now = now.Add(time.Second)
			m.Poll(Condition{Recovery: RecoveryNone}, now)
		}
		waits = append(waits, now.Sub(failed)-time.Second) // without the time until the first poll
	}
	var want []time.Duration
	for q := 30 * time.Second; len(want) < 12; q *= 2 {
		want = append(want, min(q, time.Hour))
	}
	if diff := cmp.Diff(want, waits); diff != "" {
		t.Errorf("quarantines (-want +got)\n%s", diff)
	}
	long := NewMonitor(Limits{Quarantine: 20 * time.Hour, BlindQuarantine: 24 * time.Hour})
	long.failures = 50
	long.xids = []Xid{{Number: 79}}
	if got := []time.Duration{long.quarantine(true), long.quarantine(false)}; !slices.Equal(got, []time.Duration{20 * time.Hour, 24 * time.Hour}) {
		t.Errorf("quarantines of %v are longer than the limits, which are more than an hour", got)
	}
}

func TestTimesThatGoBackCountAsTheLastSeen(t *testing.T) {
	m := NewMonitor(Limits{})
	m.Poll(Condition{Recovery: RecoveryNone}, start)
	m.Xid(Xid{Number: 79}, start.Add(-time.Hour)) // reported late
	if got := m.Status(); got.Healthy || !got.Since.Equal(start) {
		t.Errorf("after an error of before the last poll: %+v", got)
	}
	for i := range 5 {
		m.Poll(Condition{Recovery: RecoveryNone}, start.Add(-time.Duration(i)*time.Hour))
	}
	if m.Status().Healthy {
		t.Error("the quarantine ended although no time passed")
	}
}

func TestSince(t *testing.T) {
	m := NewMonitor(Limits{})
	want := func(healthy bool, since time.Time) {
		t.Helper()
		if got := m.Status(); got.Healthy != healthy || !got.Since.Equal(since) {
			t.Errorf("status %+v, want healthy %t since %v", got, healthy, since)
		}
	}
	want(true, time.Time{})
	m.Poll(Condition{Recovery: RecoveryNone}, start)
	want(true, time.Time{})
	m.Poll(Condition{Lost: true}, start.Add(5*time.Second))
	want(false, start.Add(5*time.Second))
	m.Xid(Xid{Number: 79}, start.Add(6*time.Second))
	m.Poll(Condition{Lost: true}, start.Add(10*time.Second))
	want(false, start.Add(5*time.Second))
	for at := 15 * time.Second; at <= 45*time.Second; at += 5 * time.Second {
		m.Poll(Condition{Recovery: RecoveryNone}, start.Add(at))
	}
	want(true, start.Add(45*time.Second))
}

func TestLimitsValidate(t *testing.T) {
	for name, c := range map[string]struct {
		limits Limits
		says   string
	}{
		"the defaults":               {},
		"the longest":                {limits: Limits{Quarantine: 24 * time.Hour, BlindQuarantine: 24 * time.Hour}},
		"a negative quarantine":      {Limits{Quarantine: -1}, "quarantine -1ns: want 0"},
		"a quarantine of a week":     {Limits{BlindQuarantine: 168 * time.Hour}, "without the driver's word 168h0m0s: want 0 (the default) to 24h"},
		"both wrong, and both told ": {Limits{Quarantine: -1, BlindQuarantine: -2}, "-1ns: want 0 (the default) to 24h0m0s\nquarantine without the driver's word -2ns"},
	} {
		t.Run(name, func(t *testing.T) {
			err := c.limits.Validate()
			if (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
				t.Errorf("error %v, want one that says %q", err, c.says)
			}
		})
	}
}

func TestNoXidIsBothHarmlessAndCritical(t *testing.T) {
	for xid := range meanings {
		if harmless[xid] {
			t.Errorf("Xid %d", xid)
		}
	}
}

func TestStateOutlivesTheProgram(t *testing.T) {
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	xid48 := []Xid{{Number: 48}}
	for name, tc := range map[string]struct {
		happens func(*Monitor)
		limits  Limits
		want    State
		// healthy is whether it is after it was restored.
		healthy bool
	}{
		"nothing":          {func(*Monitor) {}, Limits{}, State{}, true},
		"a critical error": {func(m *Monitor) { m.Xid(Xid{Number: 48}, start) }, Limits{}, State{xid48, start, 1}, false},
		"a critical error of any GPU": {
			func(m *Monitor) { m.Xid(Xid{48, true}, start) }, Limits{}, State{[]Xid{{48, true}}, start, 1}, false,
		},
		"a critical error that is ignored now": {
			func(m *Monitor) { m.Xid(Xid{Number: 48}, start) }, Limits{Ignored: []uint64{48}}, State{xid48, start, 1}, true,
		},
		"lost, as a poll will find again": {func(m *Monitor) { m.Poll(Condition{Lost: true}, start) }, Limits{}, State{}, true},
	} {
		t.Run(name, func(t *testing.T) {
			m := NewMonitor(Limits{})
			tc.happens(m)
			if diff := cmp.Diff(tc.want, m.State()); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			again := NewMonitor(tc.limits)
			again.Restore(m.State(), start.Add(time.Minute))
			if got := again.Status(); got.Healthy != tc.healthy || !tc.healthy && got.Reason != m.Status().Reason {
				t.Errorf("restored: %+v, want healthy %v, as %+v", got, tc.healthy, m.Status())
			}
		})
	}
	m := NewMonitor(Limits{})
	m.Restore(State{Xids: xid48, Since: start.Add(time.Hour), Failures: -1}, start) // by a clock that was set back
	m.Poll(Condition{Recovery: RecoveryNone}, start.Add(time.Second))
	m.Poll(Condition{Recovery: RecoveryNone}, start.Add(31*time.Second))
	if got := m.Status(); !got.Healthy {
		t.Errorf("after the quarantine: %+v", got)
	}
}
