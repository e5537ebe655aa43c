package quota

import (
	"fmt"
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// november is a budget's period, and mid the moment in it 15 days before its end.
var november = struct{ start, mid, end int64 }{1793491200, 1796083200 - 15*86400, 1796083200}

func monthly(gpuHours int64, e Enforcement) *Budget {
	return &Budget{MilliGPUSeconds: gpuHours * gpuHour, Period: PeriodMonth, Enforcement: e}
}

func budgeted(s Spec, b *Budget) Spec {
	s.Budget = b
	return s
}

func limited(s Spec, milliGPU int64) Spec {
	s.Limit = milliGPU
	return s
}

// midNovember has the queues, in the middle of November.
func midNovember(t testing.TB, specs ...Spec) *Book {
	t.Helper()
	tree, _ := NewTree(specs)
	b := NewBook()
	b.SetTree(tree)
	b.Advance(november.mid)
	return b
}

func used(gpuHours int64) Checkpoint {
	return Checkpoint{AsOf: november.mid, Start: november.start, End: november.end, Used: gpuHours * gpuHour}
}

// pods are a job: so many of that size, in the queue, for so many seconds.
func pods(queue string, n int, milliGPU, runtime int64) Job {
	var j Job
	for i := range n {
		j = append(j, Claim{
			ID: fmt.Sprintf("%s-%d-%d-%d", queue, milliGPU, runtime, i), Queue: queue, Class: "h200", MilliGPU: milliGPU, Rate: milliGPU, Runtime: runtime,
		})
	}
	return j
}

func setAll(b *Book, j Job, start int64) {
	for _, c := range j {
		c.Start = start
		b.Set(c)
	}
}

func TestAdmit(t *testing.T) {
	const hour = 3600
	for name, test := range map[string]struct {
		specs []Spec
		books map[string]Checkpoint
		runs  Job
		job   Job
		want  Verdict
	}{
		"nothing wants to start": {},
		"a job of no queue":      {job: pods("", 1, 1000, hour)},
		"a queue that does not exist": {
			specs: []Spec{top("a")}, job: pods("b", 1, 1000, hour), want: Verdict{Reason: QueueNotFound, Queue: "b"},
		},
		"a queue that is not valid": {
			specs: []Spec{under("none", "a")}, job: pods("a", 1, 1000, hour),
			want: Verdict{Reason: QueueInvalid, Queue: "a", Detail: "queue a: parent none does not exist; must be a queue, or empty at the top"},
		},
		"a queue below one": {
			specs: []Spec{under("none", "a"), under("a", "b")}, job: pods("b", 1, 1000, hour),
			want: Verdict{
				Reason: QueueInvalid, Queue: "a",
				Detail: "queue b is below queue a, which is not valid: queue a: parent none does not exist; must be a queue, or empty at the top",
			},
		},
		"a job in two queues": {
			specs: []Spec{top("a"), top("b")}, job: append(pods("a", 1, 1000, hour), pods("b", 1, 1000, hour)...),
			want: Verdict{Reason: QueueInvalid, Queue: "b", Detail: "pods of one job are in queues a and b, must all be in one"},
		},
		"no limits": {specs: []Spec{top("a")}, job: pods("a", 100, math.MaxInt64, math.MaxInt64)},
		"as long as the queue allows": {
			specs: []Spec{func() Spec { s := top("a"); s.MaxRuntime = hour; return s }()}, job: pods("a", 1, 1000, hour),
		},
		"longer than a queue above allows": {
			specs: []Spec{func() Spec { s := top("a"); s.MaxRuntime = hour; return s }(), under("a", "b")}, job: pods("b", 1, 1000, hour+1),
			want: Verdict{Reason: RuntimeTooLong, Queue: "a", Need: hour + 1, Limit: hour},
		},
		"a job without a run time is not too long": {
			specs: []Spec{func() Spec { s := top("a"); s.MaxRuntime = 60; return s }()}, job: pods("a", 1, 1000, 0),
		},
		"as many GPUs as are left": {
			specs: []Spec{limited(top("a"), 8000), under("a", "b")}, runs: pods("b", 4, 1000, hour), job: pods("b", 4, 1000, hour*2),
		},
		"more GPUs than are left at the top": {
			specs: []Spec{limited(top("a"), 8000), under("a", "b"), under("a", "c")}, runs: pods("c", 4, 1000, hour), job: pods("b", 5, 1000, hour*2),
			want: Verdict{Reason: OverLimit, Queue: "a", Used: 4000, Need: 5000, Limit: 8000},
		},
		"more GPUs than the limit, which is said before what is full below": {
			specs: []Spec{limited(top("a"), 8000), limited(under("a", "b"), 9000)}, runs: pods("b", 4, 1000, hour), job: pods("b", 9, 1000, hour*2),
			want: Verdict{Reason: NeverWithinLimit, Queue: "a", Used: 4000, Need: 9000, Limit: 8000},
		},
		"7 MIG instances of an eighth count as their slices": {
			specs: []Spec{limited(top("a"), 1000)}, runs: pods("a", 7, 125, hour), job: pods("a", 2, 125, hour*2),
			want: Verdict{Reason: OverLimit, Queue: "a", Used: 875, Need: 250, Limit: 1000},
		},
		"what is left of the budget, to the last second": {
			specs: []Spec{budgeted(top("a"), monthly(1000, Hold)), under("a", "b")}, books: map[string]Checkpoint{"a": used(900)},
			runs: pods("b", 1, 1000, 84*hour), job: pods("b", 16, 1000, hour),
		},
		"a second more, at any queue above": {
			specs: []Spec{budgeted(top("a"), monthly(1000, Hold)), under("a", "b"), under("b", "c")}, books: map[string]Checkpoint{"a": used(900)},
			runs: pods("b", 1, 1000, 84*hour+1), job: pods("c", 16, 1000, hour),
			want: Verdict{
				Reason: OverBudget, Queue: "a", Used: 900 * gpuHour, Held: 84*gpuHour + 1000, Need: 16 * gpuHour, Limit: 1000 * gpuHour, Resets: november.end,
				CouldStart: november.end - hour + 1,
			},
		},
		"the queue nearest to the job says no": {
			specs: []Spec{budgeted(top("a"), monthly(10, Hold)), budgeted(under("a", "b"), monthly(10, Hold))},
			books: map[string]Checkpoint{"a": used(9), "b": used(8)}, job: pods("b", 3, 1000, hour),
			want: Verdict{
				Reason: OverBudget, Queue: "b", Used: 8 * gpuHour, Need: 3 * gpuHour, Limit: 10 * gpuHour, Resets: november.end,
				CouldStart: november.end - hour/3,
			},
		},
		"nothing is left": {
			specs: []Spec{budgeted(top("a"), monthly(1000, Hold))}, books: map[string]Checkpoint{"a": used(1000)}, job: pods("a", 1, 1000, hour),
			want: Verdict{
				Reason: BudgetExhausted, Queue: "a", Used: 1000 * gpuHour, Need: gpuHour, Limit: 1000 * gpuHour, Resets: november.end, CouldStart: november.end,
			},
		},
		"more than the whole budget": {
			specs: []Spec{budgeted(top("a"), monthly(100, Drain))}, job: pods("a", 101, 1000, hour),
			want: Verdict{Reason: NeverWithinBudget, Queue: "a", Need: 101 * gpuHour, Limit: 100 * gpuHour, Resets: november.end},
		},
		"a budget without a period does not come back": {
			specs: []Spec{budgeted(top("a"), &Budget{MilliGPUSeconds: 100 * gpuHour, Enforcement: Hold})},
			books: map[string]Checkpoint{"a": {AsOf: november.mid, End: NoLimit, Used: 90 * gpuHour}}, job: pods("a", 11, 1000, hour),
			want: Verdict{Reason: OverBudget, Queue: "a", Used: 90 * gpuHour, Need: 11 * gpuHour, Limit: 100 * gpuHour},
		},
		"a job is charged to two periods": {
			specs: []Spec{budgeted(top("a"), monthly(1000, Hold))}, books: map[string]Checkpoint{"a": used(640)}, job: pods("a", 1, 1000, 30*24*hour),
		},
		"and may not fit into the second": {
			specs: []Spec{budgeted(top("a"), monthly(1000, Hold))}, runs: pods("a", 1, 1000, 46*24*hour), job: pods("a", 1, 1000, 26*24*hour),
			want: Verdict{
				Reason: OverBudget, Queue: "a", Held: 31 * 24 * gpuHour, Need: 11 * 24 * gpuHour, Limit: 1000 * gpuHour,
				Resets: november.end + 31*86400, CouldStart: november.end + 31*86400 - 256*hour,
			},
		},
		"a service holds the next hour": {
			specs: []Spec{budgeted(top("a"), monthly(10, Hold))}, runs: pods("a", 4, 1000, 0), job: pods("a", 7, 1000, 0)[4:],
		},
		"and no more than is left; when that changes nobody can tell": {
			specs: []Spec{budgeted(top("a"), monthly(10, Hold))}, runs: pods("a", 4, 1000, 0), job: pods("a", 11, 1000, 0)[4:],
			want: Verdict{
				Reason: OverBudget, Queue: "a", Held: 4 * gpuHour, Need: 7 * gpuHour, Limit: 10 * gpuHour, Resets: november.end,
			},
		},
		"Notify never says no": {
			specs: []Spec{budgeted(top("a"), monthly(10, Notify))}, books: map[string]Checkpoint{"a": used(100)}, job: pods("a", 100, 1000, hour),
		},
		"Throttle does not before the budget is used up": {
			specs: []Spec{budgeted(guaranteed(top("a"), 2000, 0), monthly(10, Throttle))}, books: map[string]Checkpoint{"a": used(9)},
			job: pods("a", 100, 1000, hour),
		},
		"Throttle leaves the guarantee": {
			specs: []Spec{budgeted(guaranteed(top("a"), 2000, 0), monthly(10, Throttle))}, books: map[string]Checkpoint{"a": used(10)},
			job: pods("a", 2, 1000, hour),
		},
		"Throttle leaves no more": {
			specs: []Spec{budgeted(guaranteed(top("a"), 2000, 0), monthly(10, Throttle))}, books: map[string]Checkpoint{"a": used(10)},
			runs: pods("a", 1, 1000, hour), job: pods("a", 2, 1000, 2*hour),
			want: Verdict{
				Reason: OverBudget, Queue: "a", Used: 10 * gpuHour, Held: gpuHour, Need: 4 * gpuHour, Limit: 10 * gpuHour, Resets: november.end,
				CouldStart: november.end, Detail: "until then nothing starts above the guaranteed 2 GPUs",
			},
		},
		"a job that runs already is admitted to what is full": {
			specs: []Spec{budgeted(limited(top("a"), 2000), monthly(2, Hold))}, runs: pods("a", 2, 1000, hour), job: pods("a", 2, 1000, hour),
		},
		"of a gang that runs in part the rest is admitted": {
			specs: []Spec{budgeted(limited(top("a"), 3000), monthly(3, Hold))}, runs: pods("a", 2, 1000, hour), job: pods("a", 3, 1000, hour),
		},
		"and the rest may be too much": {
			specs: []Spec{budgeted(limited(top("a"), 3000), monthly(3, Hold))}, runs: pods("a", 2, 1000, hour), job: pods("a", 4, 1000, hour),
			want: Verdict{Reason: OverLimit, Queue: "a", Used: 2000, Need: 2000, Limit: 3000},
		},
		"where GPUs are short too, nobody can tell when it could start": {
			specs: []Spec{budgeted(limited(top("a"), 8000), monthly(10, Hold)), budgeted(under("a", "b"), monthly(10, Hold))},
			books: map[string]Checkpoint{"b": used(9)}, runs: pods("a", 7, 1000, hour), job: pods("b", 2, 1000, hour),
			want: Verdict{Reason: OverBudget, Queue: "b", Used: 9 * gpuHour, Need: 2 * gpuHour, Limit: 10 * gpuHour, Resets: november.end},
		},
		"a million GPUs for ten years": {
			specs: []Spec{budgeted(top("a"), &Budget{MilliGPUSeconds: NoLimit - 1, Enforcement: Hold})}, runs: pods("a", 1, 1e9, 10*366*86400),
			job: pods("a", 2, 1e9, 10*366*86400)[1:],
		},
		"what is past all numbers": {
			specs: []Spec{budgeted(top("a"), &Budget{MilliGPUSeconds: NoLimit - 1, Enforcement: Hold})}, runs: pods("a", 1, math.MaxInt64, hour),
			job:  pods("a", 1, 1, 1),
			want: Verdict{Reason: OverBudget, Queue: "a", Held: NoLimit, Need: 1, Limit: NoLimit - 1},
		},
		"and a job that is": {
			specs: []Spec{budgeted(limited(top("a"), NoLimit-1), &Budget{MilliGPUSeconds: NoLimit - 1, Enforcement: Hold})},
			job:   pods("a", 3, math.MaxInt64, math.MaxInt64), want: Verdict{Reason: NeverWithinLimit, Queue: "a", Need: NoLimit, Limit: NoLimit - 1},
		},
		"a job of nothing": {
			specs: []Spec{budgeted(limited(top("a"), 0), monthly(0, Hold))}, job: pods("a", 3, 0, hour),
		},
		"negative numbers are none": {
			specs: []Spec{budgeted(limited(top("a"), 1000), monthly(1, Hold))}, runs: pods("a", 1, -5000, -1), job: pods("a", 1, 1001, hour),
			want: Verdict{Reason: NeverWithinLimit, Queue: "a", Need: 1001, Limit: 1000},
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := midNovember(t, test.specs...)
			for q, c := range test.books {
				b.SetCheckpoint(q, c)
			}
			setAll(b, test.runs, november.mid)
			got := b.Admit(test.job)
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Fatalf("%s\n%s", got.Message(), diff)
			}
			if at := got.CouldStart; at != 0 && len(test.runs) == 0 {
				b.Advance(at - 1)
				if v := b.Admit(test.job); v.OK() {
					t.Errorf("it may start a second before %s", moment(at))
				}
				b.Advance(at)
				if v := b.Admit(test.job); !v.OK() {
					t.Errorf("it may not start at %s: %s", moment(at), v.Message())
				}
			}
		})
	}
}

func TestFourQuartersForAnHourAreOneGPUHour(t *testing.T) {
	b := midNovember(t, budgeted(top("a"), monthly(1, Hold)))
	quarters := pods("a", 4, 250, 3600)
	if v := b.Admit(quarters); !v.OK() {
		t.Fatal(v.Message())
	}
	setAll(b, quarters, november.mid)
	if s, _ := b.Standing("a"); s.Held != gpuHour || s.Running != 1000 {
		t.Errorf("%+v", s)
	}
	if v := b.Admit(pods("a", 1, 1, 1)); v.Reason != OverBudget {
		t.Error(v.Message())
	}
	b.Advance(november.mid + 3600)
	for _, c := range quarters {
		c.Start, c.End = november.mid, november.mid+3600
		b.Set(c)
	}
	if s, _ := b.Standing("a"); s.Held != gpuHour || s.Running != 0 {
		t.Errorf("%+v", s)
	}
}

// TestATwoHourJobWithOneHourLeft is refused whichever of the queues above has the hour, and says all that there is to know.
func TestATwoHourJobWithOneHourLeft(t *testing.T) {
	path := []string{"top", "division", "team", "own"}
	for short, name := range path {
		var specs []Spec
		books := map[string]Checkpoint{}
		for i, queue := range path {
			s := budgeted(top(queue), monthly(1000, Hold))
			if i > 0 {
				s.Parent = path[i-1]
			}
			specs = append(specs, s)
			books[queue] = used(500)
		}
		books[name] = used(900)
		b := midNovember(t, specs...)
		for queue, c := range books {
			b.SetCheckpoint(queue, c)
		}
		setAll(b, pods(path[short], 1, 1000, 99*3600), november.mid)
		job := pods("own", 1, 1000, 7200)
		want := "queue " + name + " has 1 GPU-hours left of 1000 (used 900, held 99), 2 are needed; the period ends 2026-12-01T00:00:00Z" +
			"; it could start 2026-11-30T23:00:00Z"
		if got := b.Admit(job); got.Message() != want || got.Reason != OverBudget {
			t.Errorf("%s:\n got %s\nwant %s", got.Reason, got.Message(), want)
		}
		if got := b.Admit(pods("own", 1, 1000, 3600)); !got.OK() {
			t.Errorf("a job of one hour: %s", got.Message())
		}
	}
}

// TestALongJobTouchesEachPeriod of its years, also those far off in which the grant is less.
func TestALongJobTouchesEachPeriod(t *testing.T) {
	b := midNovember(t, budgeted(top("a"), &Budget{MilliGPUSeconds: 24 * gpuHour, Period: PeriodDay, Enforcement: Hold}))
	years := pods("a", 1, 1000, 10*365*86400)
	if v := b.Admit(years); !v.OK() {
		t.Error(v.Message())
	}
	far := november.mid + 9*365*86400
	tree, _ := NewTree([]Spec{budgeted(top("a"), &Budget{
		MilliGPUSeconds: 24 * gpuHour, Period: PeriodDay, Enforcement: Hold, Adjustments: []Adjustment{{At: far + 7, MilliGPUSeconds: -gpuHour}},
	})})
	b.SetTree(tree)
	want := Verdict{Reason: OverBudget, Queue: "a", Need: 24 * gpuHour, Limit: 23 * gpuHour, Resets: far + 86400}
	if diff := cmp.Diff(want, b.Admit(years), cmpopts.IgnoreFields(Verdict{}, "CouldStart")); diff != "" {
		t.Error(diff)
	}
}

// TestClaimsThatEndedCountUntilTheyAreOnTheBooks of all budgets above.
func TestClaimsThatEndedCountUntilTheyAreOnTheBooks(t *testing.T) {
	b := midNovember(t, budgeted(top("a"), monthly(100, Hold)), budgeted(under("a", "b"), monthly(100, Hold)))
	now := november.mid
	c := Claim{ID: "x", Queue: "b", MilliGPU: 1000, Rate: 1000, Start: now, Runtime: 7200}
	b.Set(c)
	held := func(what string, a, bb int64) {
		t.Helper()
		sa, _ := b.Standing("a")
		sb, _ := b.Standing("b")
		if sa.Held != a || sb.Held != bb {
			t.Errorf("%s: held %d at a and %d at b, want %d and %d", what, sa.Held, sb.Held, a, bb)
		}
	}
	held("it runs", 7200e3, 7200e3)
	b.Advance(now + 1800)
	held("time moves hours from held to used, which nobody told", 7200e3, 7200e3)
	c.End = now + 1800
	b.Set(c)
	held("it ended early", 1800e3, 1800e3)
	check := func(queue string, asOf, used int64) {
		b.SetCheckpoint(queue, Checkpoint{AsOf: asOf, Start: november.start, End: november.end, Used: used})
		b.Advance(b.now + 1)
	}
	check("a", now+1000, 1000e3)
	held("a part is on the books of a", 800e3, 1800e3)
	check("a", now+1800, 1800e3)
	held("all of it is", 0, 1800e3)
	if _, ok := b.Holder("x"); !ok {
		t.Error("the claim is forgotten before it is on the books of b")
	}
	check("b", now+1799, 1799e3)
	held("all but a second is on those of b", 0, 1e3)
	check("b", now+1500, 1500e3)
	held("an older checkpoint is no news", 0, 1e3)
	check("b", now+1800, 1800e3)
	held("all is on all", 0, 0)
	if got, ok := b.Holder("x"); ok {
		t.Errorf("%+v is kept", got)
	}
}

func TestClaimsThatRunLongerThanTheySaid(t *testing.T) {
	b := midNovember(t, budgeted(top("a"), monthly(100, Hold)))
	now := november.mid
	b.Set(Claim{ID: "x", Queue: "a", MilliGPU: 1000, Rate: 1000, Start: now, Runtime: 600})
	b.Set(Claim{ID: "late", Queue: "a", MilliGPU: 1000, Rate: 1, Start: now - 900, Runtime: 600}) // ran over when it was seen
	for at, want := range map[int64]int64{now: 600e3 + 4500, now + 599: 600e3 + 4500 + 599} {
		b := fresh(b)
		b.Advance(at)
		if s, _ := b.Standing("a"); s.Held != want {
			t.Errorf("after %d s %d, want %d", at-now, s.Held, want)
		}
	}
	b.Advance(now + 600)
	if s, _ := b.Standing("a"); s.Held != 4200e3+5100 {
		t.Errorf("held %d when it runs over", s.Held)
	}
	b.Advance(november.end - 1800)
	s, _ := b.Standing("a")
	if want := (november.end-now)*1000 + november.end - now + 900; s.Held != want {
		t.Errorf("held %d before the period ends, want %d", s.Held, want)
	}
	if held := b.queues["a"].account.periods[1].held.value(); held != 1800*1001 {
		t.Errorf("held %d of the next", held)
	}
}

func TestCheckpointsOfAnotherPeriod(t *testing.T) {
	const day = 86400
	start := november.start + 10*day
	// A claim began 2 h before the day, and one ended 1 h into it; it is 3 h into it.
	now := start + 3*3600
	for name, test := range map[string]struct {
		period Period
		c      Checkpoint
		used   int64
		held   int64
		limit  int64
	}{
		"none ever":                     {PeriodDay, Checkpoint{}, 0, 13, 100},
		"of the day":                    {PeriodDay, Checkpoint{AsOf: now, Start: start, End: start + day, Used: 5 * gpuHour, Carried: 20 * gpuHour}, 5, 9, 120},
		"of the day, an hour old":       {PeriodDay, Checkpoint{AsOf: now - 3600, Start: start, End: start + day, Used: 5 * gpuHour}, 5, 10, 100},
		"of the day before":             {PeriodDay, Checkpoint{AsOf: start - 10, Start: start - day, End: start, Used: 50 * gpuHour, Carried: 20 * gpuHour}, 0, 13, 100},
		"of the day before, past it":    {PeriodDay, Checkpoint{AsOf: now, Start: start - day, End: start, Used: 50 * gpuHour}, 0, 13, 100},
		"of the day before that":        {PeriodDay, Checkpoint{AsOf: start - day - 10, Start: start - 2*day, End: start - day, Used: 50 * gpuHour}, 0, 13, 100},
		"of the next day":               {PeriodDay, Checkpoint{AsOf: start + day + 1, Start: start + day, End: start + 2*day, Used: 1}, 0, 13, 100},
		"of the month, until now":       {PeriodDay, Checkpoint{AsOf: now, Start: november.start, End: november.end, Used: 50 * gpuHour, Carried: 1}, 50, 9, 100},
		"of the month, before":          {PeriodDay, Checkpoint{AsOf: start - 60, Start: november.start, End: november.end, Used: 50 * gpuHour}, 0, 13, 100},
		"of the day, for a month":       {PeriodMonth, Checkpoint{AsOf: now, Start: start, End: start + day, Used: 5 * gpuHour}, 5, 9, 100},
		"negative numbers":              {PeriodDay, Checkpoint{AsOf: -5, Start: start, End: start + day, Used: -5 * gpuHour, Carried: -10 * gpuHour}, 0, 13, 90},
		"books that are a little ahead": {PeriodDay, Checkpoint{AsOf: now + 20, Start: start, End: start + day, Used: 5 * gpuHour}, 5, 9, 100},
	} {
		t.Run(name, func(t *testing.T) {
			a := top("a")
			a.Budget = &Budget{MilliGPUSeconds: 100 * gpuHour, Period: test.period, Enforcement: Hold}
			b := midNovember(t, a)
			b.now = 0 // midNovember's time is later
			b.Advance(now)
			b.Set(Claim{ID: "runs", Queue: "a", MilliGPU: 1000, Rate: 1000, Start: start - 7200, Runtime: 14 * 3600})
			b.Set(Claim{ID: "ended", Queue: "a", MilliGPU: 1000, Rate: 1000, Start: start - 7200, End: start + 3600})
			b.SetCheckpoint("a", test.c)
			s, _ := b.Standing("a")
			if s.Used != test.used*gpuHour || s.Held != test.held*gpuHour || s.BudgetLimit != test.limit*gpuHour {
				t.Errorf("used %s, held %s of %s, want %d, %d, %d", hours(s.Used, nearest), hours(s.Held, nearest), hours(s.BudgetLimit, nearest),
					test.used, test.held, test.limit)
			}
		})
	}
}

// TestAPeriodTurnsWithoutBooks: what was held of the new one is, nothing is used, and the checkpoint that came early counts from its time.
func TestAPeriodTurnsWithoutBooks(t *testing.T) {
	b := midNovember(t, budgeted(top("a"), monthly(100, Hold)))
	b.SetCheckpoint("a", used(95))
	b.Advance(november.end - 3600)
	setAll(b, pods("a", 2, 1000, 3*3600), november.end-3600)
	b.SetCheckpoint("a", Checkpoint{AsOf: november.end + 60, Start: november.end, End: november.end + 31*86400, Used: 7000, Carried: 5 * gpuHour})
	if s, _ := b.Standing("a"); s.Used != 95*gpuHour || s.Held != 2*gpuHour || s.End != november.end {
		t.Errorf("%+v", s)
	}
	b.Advance(november.end + 61)
	if s, _ := b.Standing("a"); s.Used != 7000 || s.Held != 2*(7200-60)*1000 || s.BudgetLimit != 105*gpuHour {
		t.Errorf("%+v", s)
	}
	if v := b.Admit(pods("a", 101, 1000, 3600)); !v.OK() {
		t.Error(v.Message())
	}
}

func TestSetTreeKeepsClaims(t *testing.T) {
	b := midNovember(t, top("a"), under("a", "b"), budgeted(top("z"), monthly(5, Hold)))
	setAll(b, pods("b", 3, 1000, 3600), november.mid)
	b.SetCheckpoint("a", used(7))
	tree, _ := NewTree([]Spec{budgeted(top("a"), monthly(10, Hold))})
	b.SetTree(tree) // b is deleted with running pods: they count nowhere until it is there again
	if s, _ := b.Standing("a"); s.Running != 0 || s.Used != 7*gpuHour || s.Held != 0 {
		t.Errorf("%+v", s)
	}
	if v := b.Admit(pods("b", 1, 1000, 1)); v.Reason != QueueNotFound {
		t.Error(v.Message())
	}
	if _, ok := b.Standing("b"); ok {
		t.Error("the queue that was deleted stands")
	}
	tree, _ = NewTree([]Spec{budgeted(top("a"), monthly(10, Hold)), func() Spec { s := under("a", "b"); s.Weight = 0; return s }()})
	b.SetTree(tree) // not valid, but where it is can be known
	if s, _ := b.Standing("a"); s.Running != 3000 || s.Held != 3*gpuHour {
		t.Errorf("%+v", s)
	}
	if v := b.Admit(pods("b", 1, 1000, 1)); v.Reason != QueueInvalid {
		t.Error(v.Message())
	}
	if v := b.Admit(pods("a", 1, 1000, 1)); v.Reason != OverBudget {
		t.Error(v.Message())
	}
}

// TestClaimsOfAQueueThatIsNotThereYet are kept for a while after they ended: they may be missing in its books.
func TestClaimsOfAQueueThatIsNotThereYet(t *testing.T) {
	b := midNovember(t)
	ended := func(id string, end int64) {
		b.Set(Claim{ID: id, Queue: "a", MilliGPU: 1000, Rate: 1000, Start: end - 3600, End: end})
	}
	ended("x", november.mid)
	b.Advance(november.mid + 60)
	ended("y", november.mid+60)
	ended("other", november.mid)
	b.Set(Claim{ID: "other", Start: 1, End: november.mid})
	b.Advance(november.mid + 3600)
	for id, want := range map[string]bool{"x": false, "y": true, "other": false} {
		if _, ok := b.Holder(id); ok != want {
			t.Errorf("%s is kept: %v", id, ok)
		}
	}
	tree, _ := NewTree([]Spec{budgeted(top("a"), monthly(10, Hold))})
	b.SetTree(tree)
	if s, _ := b.Standing("a"); s.Held != gpuHour {
		t.Errorf("%+v", s)
	}
}

func TestSharesFollowWindows(t *testing.T) {
	a := limited(top("a"), 1000)
	a.Windows = []Window{{From: 22 * 3600, To: 6 * 3600, Share: Share{Guaranteed: 4000, Limit: 8000}}}
	b := midNovember(t, a)
	for _, step := range []struct {
		at   int64
		want Reason
	}{{november.mid + 6*3600, OverLimit}, {november.mid + 22*3600, Admitted}, {november.mid + 30*3600 - 1, Admitted}, {november.mid + 30*3600, OverLimit}} {
		b.Advance(step.at)
		if v := b.Admit(pods("a", 8, 1000, 60)); v.Reason != step.want {
			t.Errorf("at %s: %s", moment(step.at), v.Message())
		}
	}
	if v := b.Admit(pods("a", 9, 1000, 60)); v.Reason != NeverWithinLimit || v.Limit != 8000 {
		t.Error(v.Message())
	}
}

func TestStanding(t *testing.T) {
	b := midNovember(t, budgeted(guaranteed(top("a"), 2000, 0), monthly(10, Drain)), budgeted(under("a", "b"), monthly(0, Notify)))
	b.SetCheckpoint("a", used(10))
	b.Set(Claim{ID: "1", Queue: "a", Class: "h200", MilliGPU: 1000, Rate: 1500, Start: november.mid, Runtime: 60})
	b.Set(Claim{ID: "2", Queue: "b", Class: "l4", MilliGPU: 2500, Rate: 250, Start: november.mid, Runtime: 60})
	b.Set(Claim{ID: "3", Queue: "b", Class: "t4", MilliGPU: 500, Rate: 50, Start: november.mid, Runtime: 60})
	b.Delete("3")
	b.Delete("never was")
	want := Standing{
		Share: Share{Guaranteed: 2000, Limit: NoLimit}, Running: 3500, Borrowed: 1500, RunningByClass: map[string]int64{"h200": 1000, "l4": 2500},
		Start: november.start, End: november.end, Used: 10 * gpuHour, Held: 60 * 1750, BudgetLimit: 10 * gpuHour, Exhausted: true,
	}
	got, ok := b.Standing("a")
	if diff := cmp.Diff(want, got); diff != "" || !ok {
		t.Error(diff)
	}
	if s, _ := b.Standing("b"); s.Exhausted {
		t.Error("a notice is all that there is")
	}
	if c, ok := b.Holder("2"); !ok || c.MilliGPU != 2500 {
		t.Error(c, ok)
	}
}

func TestAdmitAllocatesNothing(t *testing.T) {
	b, leaves, _ := largeBook(t)
	jobs := []Job{pods(leaves[0], 1, 1000, 7200), pods(leaves[1], 1000, 1000, 30*86400), pods(leaves[2], 1, 1000, 0)}
	mixed := Job{}
	for i := range int64(sameLoads) {
		mixed = append(mixed, pods(leaves[3], 3, 1000, 3600*(i+1))...)
	}
	for i, j := range append(jobs, mixed) {
		if n := testing.AllocsPerRun(100, func() {
			if v := b.Admit(j); !v.OK() {
				t.Fatal(v.Message())
			}
		}); n != 0 {
			t.Errorf("job %d: %v allocations", i, n)
		}
	}
	if v := b.Admit(append(mixed, pods(leaves[3], 1, 1000, 9*3600+1)...)); !v.OK() {
		t.Error(v.Message()) // and a ninth run time is counted
	}
}
