package steward

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/api/resource"

	"weft.sh/weft/pkg/apis/weft/v1alpha1"
)

func rollover(percent int32) func(*v1alpha1.Budget) {
	return func(b *v1alpha1.Budget) { b.RolloverPercent = percent }
}

func zone(name string) func(*v1alpha1.Budget) {
	return func(b *v1alpha1.Budget) { b.TimeZone = name }
}

func TestPeriods(t *testing.T) {
	type step struct {
		at string
		// change what is granted before.
		change func(*v1alpha1.Budget)
		// want is the period's first day, what it used and what it was carried, in GPU-hours.
		want string
	}
	restart := func(*v1alpha1.Budget) {}
	for name, c := range map[string]struct {
		budget func(*v1alpha1.QueueSpec)
		uses   []use
		steps  []step
	}{
		"nothing is carried unless it is granted": {
			budget("10", v1alpha1.PeriodDay), nil,
			[]step{{"2026-11-10 12:00:00", nil, "2026-11-10 0 0"}, {"2026-11-11 12:00:00", nil, "2026-11-11 0 0"}},
		},
		"what is left is carried, up to its part of the grant": {
			budget("10", v1alpha1.PeriodDay, rollover(50)),
			[]use{{"team", 1, at("2026-11-10 00:00:00"), at("2026-11-10 08:00:00")}},
			[]step{
				{"2026-11-10 12:00:00", nil, "2026-11-10 8 0"}, // nothing is known of the day before
				{"2026-11-11 00:00:10", nil, "2026-11-11 0 2"},
				{"2026-11-11 00:00:25", restart, "2026-11-11 0 2"},
				{"2026-11-12 12:00:00", nil, "2026-11-12 0 5"},
			},
		},
		"nobody kept the ledger for days": {
			budget("10", v1alpha1.PeriodDay, rollover(100)),
			[]use{
				{"team", 1, at("2026-11-10 00:00:00"), at("2026-11-10 09:00:00")}, // leaves 1
				{"team", 2, at("2026-11-11 00:00:00"), at("2026-11-11 05:00:00")}, // of 11 leaves 1
				{"team", 2, at("2026-11-12 00:00:00"), at("2026-11-12 04:00:00")}, // of 11 leaves 3
			},
			[]step{{"2026-11-10 12:00:00", nil, "2026-11-10 9 0"}, {"2026-11-13 12:00:00", nil, "2026-11-13 0 3"}},
		},
		"nor for years": {
			budget("10", v1alpha1.PeriodDay, rollover(100)), nil,
			[]step{{"2020-11-10 12:00:00", nil, "2020-11-10 0 0"}, {"2026-11-13 12:00:00", nil, "2026-11-13 0 0"}},
		},
		"the watermark lies before the turn, and what is left over is not used up yet": {
			budget("10", v1alpha1.PeriodDay, rollover(100)),
			[]use{{"team", 3, at("2026-11-10 23:00:00"), at("2026-11-11 01:00:00")}},
			[]step{{"2026-11-10 23:59:58", nil, "2026-11-10 2.998 0"}, {"2026-11-11 00:00:13", nil, "2026-11-11 0.011 7"}},
		},
		"a day where the budget is": {
			budget("10", v1alpha1.PeriodDay, zone("America/New_York"), rollover(100)),
			[]use{{"team", 1, at("2026-11-11 04:00:00"), at("2026-11-11 06:00:00")}},
			[]step{{"2026-11-11 04:59:00", nil, "2026-11-10 0.983 0"}, {"2026-11-11 06:00:00", nil, "2026-11-11 1 9"}},
		},
		"a month with another clock than the one before": {
			budget("1000", v1alpha1.PeriodMonth, zone("Europe/Berlin"), rollover(100)),
			[]use{{"team", 1, at("2026-09-30 22:00:00"), at("2026-10-31 23:00:00")}},
			[]step{{"2026-10-31 22:59:59", nil, "2026-10-01 745 0"}, {"2026-10-31 23:00:00", nil, "2026-11-01 0 255"}},
		},
		"without an end": {
			budget("10", v1alpha1.PeriodNone, rollover(100)),
			[]use{{"team", 1, at("2020-01-01 00:00:00"), at("2020-01-01 02:00:00")}},
			[]step{{"2026-11-10 12:00:00", nil, "1970-01-01 2 0"}, {"2027-11-10 12:00:00", nil, "1970-01-01 2 0"}},
		},
		"a day becomes a month, and what was carried is not the month's": {
			budget("10", v1alpha1.PeriodDay, rollover(100)),
			[]use{{"team", 1, at("2026-11-09 00:00:00"), at("2026-11-09 06:00:00")}},
			[]step{
				{"2026-11-09 12:00:00", nil, "2026-11-09 6 0"},
				{"2026-11-10 12:00:00", nil, "2026-11-10 0 4"},
				{"2026-11-10 12:00:15", func(b *v1alpha1.Budget) { b.Period = v1alpha1.PeriodMonth }, "2026-11-01 6 0"},
				{"2026-12-01 12:00:15", nil, "2026-12-01 0 4"},
			},
		},
		"a month becomes a day": {
			budget("10", v1alpha1.PeriodMonth, rollover(100)),
			[]use{{"team", 1, at("2026-11-09 00:00:00"), at("2026-11-09 06:00:00")}},
			[]step{
				{"2026-11-09 12:00:00", nil, "2026-11-01 6 0"},
				{"2026-11-09 12:00:15", func(b *v1alpha1.Budget) { b.Period = v1alpha1.PeriodDay }, "2026-11-09 6 0"},
				{"2026-11-10 12:00:15", nil, "2026-11-10 0 4"},
			},
		},
		"a grant that shrinks carries no more than its part": {
			budget("10", v1alpha1.PeriodDay, rollover(100)), nil,
			[]step{
				{"2026-11-09 12:00:00", nil, "2026-11-09 0 0"},
				{"2026-11-10 12:00:00", func(b *v1alpha1.Budget) { b.GPUHours = resource.MustParse("3") }, "2026-11-10 0 3"},
			},
		},
		"what was used above the limit is not owed": {
			budget("1", v1alpha1.PeriodDay, rollover(100)),
			[]use{{"team", 1, at("2026-11-09 00:00:00"), at("2026-11-09 06:00:00")}},
			[]step{{"2026-11-09 12:00:00", nil, "2026-11-09 6 0"}, {"2026-11-10 12:00:00", nil, "2026-11-10 0 0"}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			o := newOffice(t, queue("team", "", c.budget))
			o.store.uses = c.uses
			for _, s := range c.steps {
				if s.change != nil {
					s.change(o.objects["team"].Spec.Budget)
					o.restart()
				}
				o.pass(at(s.at))
				b := o.budget("team")
				loc, err := time.LoadLocation(o.objects["team"].Spec.Budget.TimeZone)
				if err != nil {
					t.Fatal(err)
				}
				got := strings.Join([]string{b.PeriodStart.In(loc).Format(time.DateOnly), b.Used, hours(b.CarriedMilliGPUSeconds)}, " ")
				if diff := cmp.Diff(s.want, got); diff != "" {
					t.Errorf("at %s (-want +got):\n%s", s.at, diff)
				}
				if noEnd := o.objects["team"].Spec.Budget.Period == v1alpha1.PeriodNone; noEnd != (b.PeriodEnd == nil) {
					t.Errorf("the period ends %v", b.PeriodEnd)
				}
			}
		})
	}
}

// TestSubtrees: each queue has what it and all below it used, each second once.
func TestSubtrees(t *testing.T) {
	now := at("2026-11-10 12:00:00")
	b := budget("100", v1alpha1.PeriodMonth)
	o := newOffice(t, queue("org", "", b, gpuLimit("10")), queue("a", "org", b), queue("a1", "a", b, gpuLimit("8")), queue("a2", "a"), queue("b", "org"))
	o.store.uses = []use{
		{"org", 1, now - 10*hour, now},
		{"a", 1, now - 3*hour, now},
		{"a1", 2, now - 2*hour, now},
		{"a2", 1, now - hour, now},
		{"b", 5, now - hour, now},
		{"deleted", 7, now - hour, now},
		{"", 7, now - hour, now},
	}
	o.add(pod("1", "a1", 2, now-2*hour), pod("2", "b", 5, now-hour), pod("3", "deleted", 7, now-hour), pod("4", "", 7, now-hour), pod("5", "a2", 1, 0))
	o.pass(now)
	want := map[string]string{"org": "23", "a": "8", "a1": "4"}
	for queue, used := range want {
		if got := o.budget(queue).Used; got != used {
			t.Errorf("%s used %s, want %s", queue, got, used)
		}
	}
	for queue, want := range map[string]string{"org": "7 run, 1 wait", "a": "2 run, 1 wait", "a1": "2 run, 0 wait", "b": "5 run, 0 wait"} {
		gpus := o.objects[queue].Status.GPUs
		if got := gpus.Running.String() + " run, " + gpus.Pending.String() + " wait"; got != want {
			t.Errorf("%s: %s, want %s", queue, got, want)
		}
	}
	text := metricsText(t)
	for _, line := range []string{
		`weft_queue_gpus{queue="org",state="headroom"} 3`, `weft_queue_gpus{queue="a1",state="headroom"} 3`, `weft_queue_gpus{queue="b",state="headroom"} 3`,
	} {
		if !strings.Contains(text, line) {
			t.Errorf("metrics have no %s\n%s", line, text)
		}
	}
}

// TestLongPeriods: what long ago was charged is read now and then, what was corrected since is seen by then.
func TestLongPeriods(t *testing.T) {
	start, now := at("2026-01-01 00:00:00"), at("2026-11-10 12:00:00")
	o := newOffice(t, queue("org", "", budget("100", v1alpha1.PeriodYear)), queue("team", "org"))
	o.store.uses = []use{{"team", 1, start, start + hour}, {"team", 2, now - 10*hour, now + day}}
	used := func(asOf int64, want string) {
		t.Helper()
		o.pass(asOf)
		if got := hours(o.budget("org").UsedMilliGPUSeconds); got != want {
			t.Errorf("%d seconds later %s are used, want %s", asOf-now, got, want)
		}
	}
	used(now, "21")
	o.store.uses = append(o.store.uses, use{"team", 1, start + 2*hour, start + 3*hour}, use{"team", 1, now - hour, now})
	o.store.read = nil
	used(now+180, "22.1")
	if len(o.store.read) != 2 { // what is recent, and what was used in the last day
		t.Errorf("read %v", o.store.read)
	}
	used(now+600, "23.333")
	o.objects["other"] = queue("other", "")
	o.objects["team"].Spec.Parent = "other"
	o.look()
	used(now+720, "0")
}
