package steward

import (
	"context"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"

	"weft.sh/weft/pkg/apis/weft/v1alpha1"
	"weft.sh/weft/pkg/quota"
)

// TestDeposed: a pass of one that led before overwrites nothing, whether it has seen what its successor wrote or not, and evicts nobody.
func TestDeposed(t *testing.T) {
	now := at("2026-11-10 12:00:00")
	for name, c := range map[string]struct {
		// before says that the old leader wrote a status too, seen that it sees the one of the new.
		before, seen bool
	}{
		"the first status":                    {false, false},
		"one status after another":            {true, false},
		"the new status is known":             {false, true},
		"the new status is known, and an own": {true, true},
	} {
		t.Run(name, func(t *testing.T) {
			o := newOffice(t, queue("q", "", budget("10", v1alpha1.PeriodMonth, drains(0))))
			o.add(pod("p", "q", 1, now-hour))
			o.store.uses = []use{{"q", 1, now - 20*hour, now + day}}
			o.store.asOf = now + day
			old, fresh := New(o.options), New(o.options)
			if c.before {
				// Nothing is used up yet then, so that nobody is evicted.
				if err := old.Pass(t.Context(), 1, now-15*hour); err != nil {
					t.Fatal(err)
				}
				o.look()
			}
			if err := fresh.Pass(t.Context(), 2, now+600); err != nil {
				t.Fatal(err)
			}
			if c.seen {
				o.look()
			}
			want := o.objects["q"].Status
			o.takeAsked()
			err := old.Pass(t.Context(), 1, now)
			if err == nil || !c.seen && !apierrors.IsInvalid(err) {
				t.Errorf("got %v, want that the status is another", err)
			}
			got := o.objects["q"].Status
			if got.Budget.Epoch != 2 || got.Budget.UsedMilliGPUSeconds != want.Budget.UsedMilliGPUSeconds {
				t.Errorf("epoch 1 overwrote epoch 2: %+v, was %+v", got.Budget, want.Budget)
			}
			if asked := o.takeAsked(); len(asked) > 0 {
				t.Errorf("who does not lead asked for %q", asked)
			}
		})
	}
}

// TestDrainEndsWithTheLead: when the context ends no other pod is evicted.
func TestDrainEndsWithTheLead(t *testing.T) {
	now := at("2026-11-10 12:00:00")
	o := newOffice(t, queue("q", ""))
	o.add(pod("p", "q", 1, now-hour))
	pods, err := o.options.Pods.List(labels.Everything())
	if err != nil || len(pods) != 1 {
		t.Fatal(pods, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := o.steward.drain(ctx, []drain{{pods, now - 1, 0, "of a test"}}, now); err == nil {
		t.Error("no error says that not all was done")
	}
	if asked := o.takeAsked(); len(asked) > 0 {
		t.Errorf("asked for %q", asked)
	}
}

// TestBurnRateBehindAPercent: that the budget will not last is said also when a percent was reached.
func TestBurnRateBehindAPercent(t *testing.T) {
	b := &quota.Budget{MilliGPUSeconds: 100 * 3_600_000, Period: quota.PeriodMonth}
	now := at("2026-11-10 12:00:00")
	start, end := b.PeriodAt(now)
	f := facts{spec: quota.Spec{Name: "q", Budget: b}, checkpoint: quota.Checkpoint{AsOf: now, Start: start, End: end, Used: 72 * 3_600_000}}
	said := func(was v1alpha1.QueueStatus, perDay int64) (v1alpha1.QueueStatus, string) {
		f.assessment = quota.Assess(b, f.checkpoint, 0, perDay*3_600_000, 86400, 0, now)
		s := status(was, 1, f, now)
		return s, find(s, v1alpha1.ConditionBudgetAlert).Message
	}
	const percent = "70 % of the budget of 100 GPU-hours is used or held: 72 and 0"
	slow, message := said(v1alpha1.QueueStatus{}, 1)
	if message != percent {
		t.Errorf("when it lasts: %q", message)
	}
	fast, message := said(slow, 60)
	if want := percent + "; at 60 GPU-hours a day the budget is used up at 2026-11-10T23:12:00Z, before its period ends"; message != want {
		t.Errorf("got %q\nwant %q", message, want)
	}
	if !worthWriting(slow, fast) {
		t.Error("that it will not last is not written at once")
	}
	o := newOffice(t, queue("q", ""))
	o.steward.announce(o.objects["q"], v1alpha1.QueueStatus{}, slow)
	o.steward.announce(o.objects["q"], slow, fast)
	o.steward.announce(o.objects["q"], fast, fast)
	if told := o.told(); len(told) != 2 {
		t.Errorf("told %q, want the percent and that it will not last", told)
	}
}
