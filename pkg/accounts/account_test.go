package accounts

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"

	"weft.sh/weft/pkg/ledger"
)

func TestCharge(t *testing.T) {
	terms := Terms{Queue: "research", Class: "h100", MilliGPU: 2000, Rate: 3000}
	dearer := terms
	dearer.Rate = 4000
	pod := Observation{PodUID: "u", Terms: terms, Bound: 100}
	with := func(change func(*Observation)) Observation {
		o := pod
		change(&o)
		return o
	}
	type step struct {
		o       Observation
		through int64
	}
	for name, tc := range map[string]struct {
		steps []step
		want  []string
	}{
		"a pod that was just bound is in its start-up": {[]step{{pod, 130}}, []string{"0 startup 100..open"}},
		"start-up ends when its containers run": {
			[]step{{pod, 130}, {with(func(o *Observation) { o.Running = 120 }), 145}},
			[]string{"0 startup 100..120 running", "1 run 120..open"},
		},
		"a pod that ran at once has no start-up": {[]step{{with(func(o *Observation) { o.Running = 100 }), 130}}, []string{"0 run 100..open"}},
		"its end corrects what was charged beyond": {
			[]step{{with(func(o *Observation) { o.Running = 100 }), 160}, {with(func(o *Observation) { o.Running, o.End, o.Evidence = 100, 150, ByContainers }), 175}},
			[]string{"0 run 100..150 containers"},
		},
		"one that came and went between two ticks is charged whole": {
			[]step{{with(func(o *Observation) { o.Running, o.End, o.Evidence = 103, 109, ByContainers }), 130}},
			[]string{"0 startup 100..103 running", "1 run 103..109 containers"},
		},
		"one that never ran ends in its start-up": {
			[]step{{pod, 130}, {with(func(o *Observation) { o.End, o.Evidence = 140, ByDeleted }), 145}},
			[]string{"0 startup 100..140 deleted"},
		},
		"a new price begins a new segment at the watermark": {
			[]step{
				{with(func(o *Observation) { o.Running = 100 }), 130},
				{with(func(o *Observation) { o.Running, o.Terms = 100, dearer }), 145},
				{with(func(o *Observation) { o.Running, o.Terms, o.End, o.Evidence = 100, dearer, 150, ByContainers }), 160},
			},
			[]string{"0 run 100..145 terms", "1 run at 4000 145..150 containers"},
		},
		"an end that was seen after all corrects the estimate": {
			[]step{
				{with(func(o *Observation) { o.Running, o.End, o.Evidence, o.Estimated = 100, 160, ByMissing, true }), 200},
				{with(func(o *Observation) { o.Running, o.End, o.Evidence = 100, 230, ByContainers }), 260},
			},
			[]string{"0 run 100..230 containers"},
		},
		"a pod that was given up for lost and runs goes on from there": {
			[]step{
				{with(func(o *Observation) { o.Running, o.End, o.Evidence, o.Estimated = 100, 160, ByMissing, true }), 200},
				{with(func(o *Observation) { o.Running = 100 }), 230},
				{with(func(o *Observation) { o.Running, o.End, o.Evidence = 100, 240, ByDeleted }), 260},
			},
			[]string{"0 run 100..160 missing", "1 run 160..240 deleted"},
		},
		"a settled account stays as it is": {
			[]step{{with(func(o *Observation) { o.End, o.Evidence = 140, ByDeleted }), 145}, {with(func(o *Observation) { o.End, o.Evidence = 300, ByMissing }), 400}},
			[]string{"0 startup 100..140 deleted"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			var books []ledger.Segment
			for _, s := range tc.steps {
				changed := Charge(books, s.o, s.through)
				books = merge(books, changed)
				if again := Charge(books, s.o, s.through); again != nil {
					t.Errorf("charged again: %v", again)
				}
			}
			var got []string
			for _, s := range books {
				got = append(got, text(s))
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("segments (-want +got):\n%s", diff)
			}
		})
	}
}

// merge is what a ledger makes of changed segments.
func merge(books, changed []ledger.Segment) []ledger.Segment {
	for _, c := range changed {
		if int(c.Number) < len(books) {
			books[c.Number] = c
		} else {
			books = append(books, c)
		}
	}
	return books
}

func text(s ledger.Segment) string {
	kind := "run"
	if s.Startup {
		kind = "startup"
	}
	if s.Rate != 3000 {
		kind += fmt.Sprintf(" at %d", s.Rate)
	}
	if s.End == 0 {
		return fmt.Sprintf("%d %s %d..open", s.Number, kind, s.Start)
	}
	return fmt.Sprintf("%d %s %d..%d %s", s.Number, kind, s.Start, s.End, s.Closed)
}

// TestChargeIsGapless: whatever is observed when, the segments of a pod follow each other without gap or overlap, from its
// binding to its end.
func TestChargeIsGapless(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 20_000 {
		bound := int64(1000)
		running := bound + rng.Int64N(40)
		end := bound + rng.Int64N(200)
		o := Observation{PodUID: "u", Bound: bound, Terms: Terms{MilliGPU: 250, Rate: 250, ChargeStartup: rng.IntN(2) == 0}}
		var books []ledger.Segment
		for now := bound; ; now += 1 + rng.Int64N(30) {
			late := rng.Int64N(5) // what happened is heard of later
			if now-late >= running && (running < end || rng.IntN(2) == 0) {
				o.Running = running
			}
			if rng.IntN(4) == 0 {
				o.Terms.Rate = 1 + rng.Int64N(3)
			}
			over := now-late >= end
			if over {
				o.End, o.Evidence = end, ByContainers
			}
			books = merge(books, Charge(books, o, max(bound, now-2)))
			if over {
				break
			}
		}
		at := bound
		for i, s := range books {
			if s.Start != at || s.End < s.Start || s.Through != s.End || int(s.Number) != i {
				t.Fatalf("bound %d, running %d, end %d: %+v", bound, running, end, books)
			}
			at = s.End
		}
		// A change of terms that was charged to a moment after the end cannot be taken back.
		if last := books[len(books)-1]; at != end && !(last.Start == last.End && at > end) {
			t.Fatalf("ends at %d, want %d: %+v", at, end, books)
		}
		if !Settled(books) {
			t.Fatalf("not settled: %+v", books)
		}
	}
}
