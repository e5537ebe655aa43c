package gang

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
)

var ten = time.Date(2026, 1, 1, 10, 0, 0, 0, time.UTC)

// TestStatusGolden runs the lives of gangs in testdata/status. Regenerate with -rewrite and read the difference.
//
//	gang min=N [lost=POLICY] [partial=POLICY] [grace=DURATION]   a new gang; the time is 10:00
//	create POD...                                                members exist
//	refuse POD...                                                the scheduler has no place for them, and says what follows
//	bindfail POD...                                              they had a place, and could not be bound
//	bind POD...
//	run POD...
//	succeed POD...
//	fail POD...
//	delete POD...                                                somebody asks for it; they are still there
//	gone POD...                                                  they are there no more
//	foreign POD...                                               they name another scheduler
//	invalid                                                      the PodGroup is edited to something that has no meaning
//	valid
//	unseen COMMAND POD...                                        as COMMAND, and nobody looks at the gang
//	restart                                                      the controller is started anew
//	look
//
// Every command may say at=DURATION after 10:00; the time stays where it is otherwise. After each the status is printed, and what is
// to be done. All that is remembered is the status, so every command is a restart of the controller too.
func TestStatusGolden(t *testing.T) {
	datadriven.Walk(t, "testdata/status", func(t *testing.T, path string) {
		s := &life{}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string { return s.run(t, d) })
	})
}

type life struct {
	spec    Spec
	invalid error
	pods    []MemberState
	status  Status
	record  Record
	now     time.Time
}

func (l *life) run(t *testing.T, d *datadriven.TestData) string {
	text := func(key, otherwise string) string { d.MaybeScanArgs(t, key, &otherwise); return otherwise }
	duration := func(key, otherwise string) time.Duration {
		v, err := time.ParseDuration(text(key, otherwise))
		if err != nil {
			d.Fatalf(t, "%s: %v", key, err)
		}
		return v
	}
	if d.Cmd == "gang" {
		*l = life{now: ten, spec: Spec{
			Key: Key{Namespace: "team", Name: "train"}, Lost: Lost(text("lost", string(LostReplace))),
			Partial: Partial(text("partial", string(PartialShrink))), Grace: duration("grace", "60s"),
		}}
		d.ScanArgs(t, "min", &l.spec.Min)
	}
	if at := ten.Add(duration("at", "0s")); at.After(l.now) {
		l.now = at
	}
	var names []string
	for _, a := range d.CmdArgs {
		if len(a.Vals) == 0 {
			names = append(names, a.Key)
		}
	}
	command := d.Cmd
	if command == "unseen" {
		command, names = names[0], names[1:]
	}
	switch command {
	case "create":
		for _, n := range names {
			l.pods = append(l.pods, MemberState{UID: n, Name: n})
		}
	case "gone":
		l.pods = slices.DeleteFunc(l.pods, func(p MemberState) bool { return slices.Contains(names, p.Name) })
	case "invalid":
		l.invalid = errors.New("minMember is 0: want a whole number of at least 1")
	case "valid":
		l.invalid = nil
	case "restart":
		l.record = Record{}
	case "gang", "look":
	default:
		for _, n := range names {
			i := slices.IndexFunc(l.pods, func(p MemberState) bool { return p.Name == n })
			if i < 0 {
				d.Fatalf(t, "there is no pod %s", n)
			}
			l.change(t, d, command, &l.pods[i])
		}
	}
	if d.Cmd == "unseen" {
		return ""
	}
	return l.judge()
}

func (l *life) change(t *testing.T, d *datadriven.TestData, command string, p *MemberState) {
	switch command {
	case "refuse":
		p.Refused = strings.TrimSpace(d.Input)
	case "bindfail":
		p.BindFailed = true
	case "bind":
		p.Bound, p.Refused, p.BindFailed = l.now, "", false
	case "run":
		p.Running = true
	case "succeed":
		p.Ended, p.Succeeded = l.now, true
	case "fail":
		p.Ended, p.Failed = l.now, true
	case "delete":
		p.Ended = l.now
	case "foreign":
		p.Foreign = true
	default:
		d.Fatalf(t, "unknown command")
	}
}

func (l *life) judge() string {
	var next Next
	pods := l.record.Complete(l.spec, l.pods, l.status, l.now)
	if l.invalid != nil {
		l.status = Invalid(l.invalid, pods, l.status)
	} else {
		l.status, next = Judge(l.spec, pods, l.status, l.now)
	}
	clock := func(t time.Time) string { return t.Format("15:04:05") }
	var b strings.Builder
	s := l.status
	fmt.Fprintf(&b, "%s %s: %d scheduled, %d running, %d succeeded, %d failed", clock(l.now), s.Phase, s.Scheduled, s.Running, s.Succeeded, s.Failed)
	if !s.Since.IsZero() {
		fmt.Fprintf(&b, ", since %s", clock(s.Since))
	}
	b.WriteByte('\n')
	if s.Message != "" {
		fmt.Fprintf(&b, "  %s\n", s.Message)
	}
	if !next.At.IsZero() {
		fmt.Fprintf(&b, "  look again at %s\n", clock(next.At))
	}
	if len(next.Evict) > 0 {
		var names []string
		for _, i := range next.Evict {
			names = append(names, l.pods[i].Name)
		}
		fmt.Fprintf(&b, "  EVICT %s (%s): %s\n", strings.Join(names, " "), next.Reason, next.Why)
	}
	return b.String()
}

// TestJudgeInvariants plays random lives, and checks after every step what must hold whatever happens.
func TestJudgeInvariants(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 1))
		spec := Spec{
			Min: 1 + r.IntN(5), Grace: time.Duration(r.IntN(20)) * time.Second,
			Lost: []Lost{LostReplace, LostRestart}[r.IntN(2)], Partial: []Partial{PartialShrink, PartialLeave}[r.IntN(2)],
		}
		var pods []MemberState
		var was Status
		var record Record
		now := ten
		partialFrom := time.Time{} // since when the gang has been partial without a break, as its pods say
		for step := range 200 {
			now = now.Add(time.Duration(r.IntN(3000)) * time.Millisecond)
			if len(pods) < 8 && r.IntN(3) == 0 {
				name := fmt.Sprintf("p%d", step)
				pods = append(pods, MemberState{UID: name, Name: name})
			}
			if len(pods) > 0 {
				i := r.IntN(len(pods))
				switch p := &pods[i]; r.IntN(6) {
				case 0, 1, 2:
					if p.active() && p.Bound.IsZero() {
						p.Bound = now
					} else if p.holds() {
						p.Running = true
					}
				case 3:
					if p.Running && p.active() {
						p.Ended, p.Succeeded = now, true
					}
				case 4:
					if p.active() {
						p.Ended, p.Failed = now, p.holds() && r.IntN(2) == 0
					}
				default:
					if !p.active() || r.IntN(10) == 0 {
						pods = slices.Delete(pods, i, i+1)
					}
				}
			}
			if r.IntN(20) == 0 {
				record = Record{}
			}
			all := record.Complete(spec, pods, was, now)
			s, next := Judge(spec, all, was, now)
			again, nextAgain := Judge(spec, all, s, now)
			if spec.Lost == LostReplace && (again != s || fmt.Sprint(nextAgain) != fmt.Sprint(next)) {
				t.Fatalf("seed %d: judged once\n%+v %+v\ntwice\n%+v %+v", seed, s, next, again, nextAgain)
			}
			if next.Reason == EvictPartial && (s.Scheduled >= spec.Min || s.Phase != PhaseUnknown || now.Before(s.Since.Add(spec.Grace))) {
				t.Fatalf("seed %d: a gang that is not partial for %v is evicted: %+v", seed, spec.Grace, s)
			}
			for _, i := range next.Evict {
				if !pods[i].holds() {
					t.Fatalf("seed %d: %s holds no place and is evicted", seed, pods[i].Name)
				}
			}
			if (len(next.Evict) > 0) != (next.Reason != EvictNone) || len(next.Evict) > 0 && next.Why == "" {
				t.Fatalf("seed %d: %+v: want a reason for an eviction, and only for one", seed, next)
			}
			partial := s.Scheduled > s.Succeeded && s.Scheduled < spec.Min
			switch {
			case !partial || next.Reason == EvictMemberLost: // who stays then came later
				partialFrom = time.Time{}
			case partialFrom.IsZero():
				partialFrom = now
			}
			// The time is rounded up to a second.
			if partial && now.Sub(partialFrom) >= spec.Grace+time.Second && len(next.Evict) == 0 {
				t.Fatalf("seed %d: partial since %v, and nobody is evicted at %v with a grace of %v: %+v", seed, partialFrom, now, spec.Grace, s)
			}
			if partial && len(next.Evict) == 0 && next.At.IsZero() {
				t.Fatalf("seed %d: partial, and nobody looks again: %+v", seed, s)
			}
			// Who is evicted is asked to go.
			for _, i := range next.Evict {
				if r.IntN(3) > 0 {
					pods[i].Ended = now
				}
			}
			was = s
		}
	}
}

// TestReplacementsStay: who is bound while the others leave for a loss is not evicted for that loss, though the times of pods, in
// whole seconds, do not tell who came first.
func TestReplacementsStay(t *testing.T) {
	second := time.Unix(1000, 0)
	spec := Spec{Min: 2, Lost: LostRestart, Partial: PartialShrink, Grace: time.Minute}
	runs := func(uid string) MemberState {
		return MemberState{UID: uid, Name: uid, Bound: second.Add(-time.Hour), Running: true}
	}
	lost := func(uid string) MemberState {
		m := runs(uid)
		m.Ended, m.Failed = second, true
		return m
	}
	comes := func(uid string) MemberState { return MemberState{UID: uid, Name: uid, Bound: second, Running: true} }
	var r Record
	status := Status{Phase: PhaseRunning, Scheduled: 2, Running: 2}
	judge := func(pods ...MemberState) (evicted []string) {
		t.Helper()
		all := r.Complete(spec, pods, status, second)
		var next Next
		status, next = Judge(spec, all, status, second)
		r.Evicted(all, status, next)
		for _, i := range next.Evict {
			evicted = append(evicted, all[i].Name)
		}
		return evicted
	}
	for i, step := range []struct {
		pods []MemberState
		want []string
	}{
		{[]MemberState{lost("a"), runs("b")}, []string{"b"}},
		{[]MemberState{lost("a"), runs("b"), comes("c")}, []string{"b"}},
		{[]MemberState{lost("a"), lost("b"), comes("c"), comes("d")}, nil},
		{[]MemberState{lost("a"), lost("b"), comes("c"), comes("d")}, nil},
		{[]MemberState{comes("c"), comes("d")}, nil},
		// What is lost later is another loss.
		{[]MemberState{lost("c"), comes("d")}, []string{"d"}},
	} {
		if got := judge(step.pods...); !slices.Equal(got, step.want) {
			t.Fatalf("step %d: evicted %v, want %v; %+v", i, got, step.want, status)
		}
	}
}
