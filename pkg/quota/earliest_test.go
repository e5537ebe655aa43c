package quota

import (
	"math/rand/v2"
	"testing"
)

func TestCouldStart(t *testing.T) {
	const hour = 3600
	now := november.mid
	night := limited(top("a"), 1000)
	night.Windows = []Window{{From: 22 * hour, To: 23 * hour, Share: Share{Limit: 8000}}}
	for name, test := range map[string]struct {
		specs []Spec
		books map[string]Checkpoint
		runs  Job
		job   Job
		want  int64
	}{
		"now":                       {specs: []Spec{top("a")}, job: pods("a", 1, 1000, hour), want: now},
		"never":                     {specs: []Spec{limited(top("a"), 1000)}, job: pods("a", 2, 1000, hour)},
		"in no queue that there is": {specs: []Spec{top("a")}, job: pods("b", 2, 1000, hour)},
		"when enough ended": {
			specs: []Spec{limited(top("a"), 4000), under("a", "b")}, runs: append(append(pods("a", 2, 1000, hour), pods("b", 1, 500, 2*hour)...), pods("b", 1, 1500, 3*hour)...),
			job: pods("b", 5, 500, hour), want: now + 2*hour,
		},
		"nobody knows when a service ends": {specs: []Spec{limited(top("a"), 4000)}, runs: pods("a", 4, 1000, 0), job: pods("a", 1, 1000, hour)},
		"when the window opens":            {specs: []Spec{night}, job: pods("a", 8, 1000, hour), want: now - now%86400 + 22*hour},
		"when it opens and enough ended": {
			specs: []Spec{night}, runs: pods("a", 1, 1000, 23*hour), job: pods("a", 8, 1000, hour), want: now + 46*hour,
		},
		"not while services hold what a later day has": {
			specs: []Spec{budgeted(top("a"), &Budget{MilliGPUSeconds: 10 * gpuHour, Period: PeriodDay, Enforcement: Hold})},
			books: map[string]Checkpoint{"a": {AsOf: now, Start: now, End: now + 86400, Used: 10 * gpuHour}},
			runs:  pods("a", 4, 1000, 0), job: pods("a", 7, 1000, hour),
		},
		"when GPUs and hours are there": {
			specs: []Spec{limited(top("a"), 4000), budgeted(under("a", "b"), monthly(100, Hold))}, books: map[string]Checkpoint{"b": used(100)},
			runs: pods("a", 1, 1000, 20*24*hour), job: pods("b", 4, 1000, hour), want: now + 20*24*hour,
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := midNovember(t, test.specs...)
			for q, c := range test.books {
				b.SetCheckpoint(q, c)
			}
			setAll(b, test.runs, now)
			if got := b.CouldStart(test.job); got != test.want {
				t.Errorf("%s, want %s", moment(got), moment(test.want))
			}
		})
	}
}

// TestItStartsWhenItWasSaid lets time pass as it was assumed, to the moment that was said: not a second before it is admitted.
func TestItStartsWhenItWasSaid(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 9))
	said := 0
	for range 300 {
		b := NewBook()
		b.SetTree(modelTree(t))
		now := november.mid + r.Int64N(20*86400)
		b.Advance(now)
		leaves := []string{"a1x", "a1y", "a2", "b1", "b"}
		var runs []Claim
		for range 60 {
			j := pods(leaves[r.IntN(len(leaves))], 1, 1000*(1+r.Int64N(8)), 1+r.Int64N(86400))
			if b.Admit(j).OK() {
				j[0].Start = now
				b.Set(j[0])
				runs = append(runs, j[0])
			}
		}
		j := pods(leaves[r.IntN(len(leaves))], 2, 1000*(1+r.Int64N(12)), 1+r.Int64N(86400))
		j[0].ID, j[1].ID = "x", "y"
		v := b.Admit(j)
		at := b.CouldStart(j)
		if v.OK() || at == 0 {
			continue
		}
		if v.CouldStart != 0 && v.CouldStart != at {
			t.Errorf("could start at %d or %d", v.CouldStart, at)
		}
		said++
		pass := func(to int64) {
			b.Advance(to - 1) // those that end at to would else run over
			for _, c := range runs {
				if end := c.Start + c.Runtime; end <= to {
					c.End = end
					b.Set(c)
				}
			}
			b.Advance(to)
		}
		for range 20 {
			if early := now + r.Int64N(at-now); early > b.now {
				pass(early)
			}
			if v := b.Admit(j); v.OK() {
				t.Fatalf("admitted at %d, said was %d", b.now, at)
			}
		}
		if at-1 > b.now {
			pass(at - 1)
		}
		if v := b.Admit(j); v.OK() {
			t.Fatalf("admitted a second before %d", at)
		}
		pass(at)
		if v := b.Admit(j); !v.OK() {
			t.Fatalf("not admitted at %d: %s", at, v.Message())
		}
	}
	if said < 20 {
		t.Errorf("%d times it was said when: nothing is shown", said)
	}
}
