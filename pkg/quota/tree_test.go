package quota

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func top(name string) Spec { return Spec{Name: name, Weight: 1, Share: Share{Limit: NoLimit}} }

func under(parent, name string) Spec {
	s := top(name)
	s.Parent = parent
	return s
}

func guaranteed(s Spec, milliGPU, created int64) Spec {
	s.Guaranteed, s.Created = milliGPU, created
	return s
}

func TestNewTreeProblems(t *testing.T) {
	with := func(s Spec, change func(*Spec)) Spec {
		change(&s)
		return s
	}
	budget := func(change func(*Budget)) Spec {
		return with(top("a"), func(s *Spec) {
			s.Budget = &Budget{}
			change(s.Budget)
		})
	}
	for name, test := range map[string]struct {
		specs []Spec
		want  []Problem
	}{
		"none": {[]Spec{under("a", "b"), top("a")}, nil},
		"a parent that does not exist": {[]Spec{under("x", "b")}, []Problem{
			{"b", "queue b: parent x does not exist; must be a queue, or empty at the top"},
		}},
		"a queue above itself": {[]Spec{under("b", "b")}, []Problem{
			{"b", "queue b is its own parent; must be another queue, or empty at the top"},
		}},
		"a circle, and what leads to it": {[]Spec{under("c", "a"), under("a", "b"), under("b", "c"), under("a", "x"), top("y")}, []Problem{
			{"a", "queue a: parent c is below it; must be a queue that is not, or empty at the top"},
			{"b", "queue b: parent a is below it; must be a queue that is not, or empty at the top"},
			{"c", "queue c: parent b is below it; must be a queue that is not, or empty at the top"},
			{"x", "queue x is below queue a, which is not valid: queue a: parent c is below it; must be a queue that is not, or empty at the top"},
		}},
		"no name": {[]Spec{top("")}, []Problem{{"", "a queue has no name, and is left out: it needs one"}}},
		"a name twice": {[]Spec{guaranteed(top("a"), 1, 2), guaranteed(top("a"), 2, 1)}, []Problem{
			{"a", "queue a exists twice, and the younger is left out: names must be unique"},
		}},
		"children with more than the parent: the youngest are not valid": {
			[]Spec{
				guaranteed(top("a"), 10000, 9), guaranteed(under("a", "young"), 5000, 3), guaranteed(under("a", "old"), 6000, 1),
				guaranteed(under("a", "fits"), 4000, 4), under("a", "none"),
			},
			[]Problem{{"young", "queue young: guaranteed is 5 GPUs, must be at most 4: parent a is guaranteed 10, of which older queues have 6"}},
		},
		"of the same age the name decides": {
			[]Spec{guaranteed(top("a"), 1000, 0), guaranteed(under("a", "c"), 600, 1), guaranteed(under("a", "b"), 600, 1)},
			[]Problem{{"c", "queue c: guaranteed is 0.6 GPUs, must be at most 0.4: parent a is guaranteed 1, of which older queues have 0.6"}},
		},
		"one that is not valid by itself takes nothing from its siblings": {
			[]Spec{
				guaranteed(top("a"), 1000, 0), with(guaranteed(under("a", "b"), 600, 1), func(s *Spec) { s.Weight = 0 }),
				guaranteed(under("a", "c"), 600, 2),
			},
			[]Problem{{"b", "queue b: weight is 0, must be at least 1"}},
		},
		"guarantees past what can be counted": {
			[]Spec{guaranteed(top("a"), math.MaxInt64-1, 0), guaranteed(under("a", "b"), 1, 1), guaranteed(under("a", "c"), math.MaxInt64, 2)},
			[]Problem{{"c", "queue c: guaranteed is unlimited GPUs, must be at most 9223372036854776: parent a is guaranteed 9223372036854776, of which older queues have 0.001"}},
		},
		"a negative guarantee": {[]Spec{guaranteed(top("a"), -5, 0)}, []Problem{{"a", "queue a: guaranteed is -0.005 GPUs, must be at least 0"}}},
		"a negative limit": {[]Spec{with(top("a"), func(s *Spec) { s.Limit = -1000 })}, []Problem{
			{"a", "queue a: limit is -1 GPUs, must be at least 0"},
		}},
		"a limit below the guarantee": {[]Spec{with(guaranteed(top("a"), 3000, 0), func(s *Spec) { s.Limit = 2500 })}, []Problem{
			{"a", "queue a: limit is 2.5 GPUs, must be at least the guaranteed 3"},
		}},
		"a window's limit below its guarantee": {[]Spec{with(top("a"), func(s *Spec) {
			s.Windows = []Window{{Share: Share{Limit: 5}}, {Share: Share{Guaranteed: 2000, Limit: 1000}}}
		})}, []Problem{{"a", "queue a: window 1: limit is 1 GPUs, must be at least the guaranteed 2"}}},
		"a window outside of the day": {[]Spec{with(top("a"), func(s *Spec) { s.Windows = []Window{{From: 0, To: 86400}} })}, []Problem{
			{"a", "queue a: window 0 is from second 0 to 86400 of the day, must be 0 to 86399"},
		}},
		"a window on an eighth day": {[]Spec{with(top("a"), func(s *Spec) { s.Windows = []Window{{Days: 128}} })}, []Problem{
			{"a", "queue a: window 0: days is 128, must be at most 127, a bit for each day"},
		}},
		"a negative max runtime":     {[]Spec{with(top("a"), func(s *Spec) { s.MaxRuntime = -1 })}, []Problem{{"a", "queue a: max runtime is -1, must be at least 0 seconds"}}},
		"a negative default runtime": {[]Spec{with(top("a"), func(s *Spec) { s.DefaultRuntime = -1 })}, []Problem{{"a", "queue a: default runtime is -1, must be at least 0 seconds"}}},
		"a default above the max": {[]Spec{with(top("a"), func(s *Spec) { s.DefaultRuntime, s.MaxRuntime = 60, 30 })}, []Problem{
			{"a", "queue a: default runtime is 60 seconds, must be at most the max runtime of 30"},
		}},
		"a negative budget": {[]Spec{budget(func(b *Budget) { b.MilliGPUSeconds = -gpuHour })}, []Problem{
			{"a", "queue a: budget is -1 GPU-hours, must be at least 0"},
		}},
		"an unknown period": {[]Spec{budget(func(b *Budget) { b.Period = 6 })}, []Problem{
			{"a", "queue a: budget: period is 6, must be none, day, week, month, quarter or year"},
		}},
		"an unknown enforcement": {[]Spec{budget(func(b *Budget) { b.Enforcement = 4 })}, []Problem{
			{"a", "queue a: budget: enforcement is 4, must be notify, throttle, hold or drain"},
		}},
		"a negative rollover": {[]Spec{budget(func(b *Budget) { b.RolloverPercent = -1 })}, []Problem{
			{"a", "queue a: budget: rollover percent is -1, must be at least 0"},
		}},
		"a negative grace": {[]Spec{budget(func(b *Budget) { b.DrainGrace = -1 })}, []Problem{
			{"a", "queue a: budget: drain grace is -1, must be at least 0 seconds"},
		}},
		"an alert at nothing": {[]Spec{budget(func(b *Budget) { b.AlertPercents = []int64{70, 0} })}, []Problem{
			{"a", "queue a: budget: alert percent is 0, must be at least 1"},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			for range 2 {
				_, got := NewTree(test.specs)
				if diff := cmp.Diff(test.want, got); diff != "" {
					t.Error(diff)
				}
				slices.Reverse(test.specs) // the order is no matter
			}
		})
	}
}

func TestTree(t *testing.T) {
	specs := []Spec{top("a"), under("a", "c"), under("a", "b"), under("b", "d"), top("z"), under("none", "lost"), under("lost", "below")}
	tree, problems := NewTree(specs)
	if len(problems) != 2 {
		t.Error(problems)
	}
	got := map[string]any{
		"names": tree.Names(), "tops": tree.Children(""), "below a": tree.Children("a"), "below d": tree.Children("d"), "below none": tree.Children("none"),
		"path of d": tree.Path("d"), "path of below": tree.Path("below"), "path of none": tree.Path("none"),
	}
	want := map[string]any{
		"names": []string{"a", "b", "below", "c", "d", "lost", "z"}, "tops": []string{"a", "lost", "z"}, "below a": []string{"b", "c"},
		"below d": []string(nil), "below none": []string(nil),
		"path of d": []string{"d", "b", "a"}, "path of below": []string{"below", "lost"}, "path of none": []string(nil),
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if s, ok := tree.Spec("b"); !ok || s.Parent != "a" {
		t.Error(s, ok)
	}
	if _, ok := tree.Spec("none"); ok {
		t.Error("a queue that does not exist has a spec")
	}
	if _, culprit := tree.Problem("below"); culprit != "lost" {
		t.Errorf("at fault is %q", culprit)
	}
	if m, culprit := tree.Problem("a"); m != "" || culprit != "" {
		t.Error(m, culprit)
	}
	if got := tree.ShareAt("none", 0); got != (Share{}) {
		t.Error(got)
	}
}

func TestShareAtAndNextChange(t *testing.T) {
	night := Window{From: 22 * 3600, To: 6 * 3600, Share: Share{Guaranteed: 8000, Limit: 64000}}
	weekend := Window{Days: 1<<6 | 1<<0, From: 0, To: 0, Share: Share{Guaranteed: 1, Limit: 2}}
	a := top("a")
	a.Limit, a.Windows = 4000, []Window{weekend, night}
	b := top("b")
	b.Budget = &Budget{Period: PeriodDay, Location: location(t, "Asia/Tokyo")}
	tree, problems := NewTree([]Spec{a, b})
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	for at, want := range map[string]Share{
		"2026-11-20T21:59:59Z": {Limit: 4000}, "2026-11-20T22:00:00Z": night.Share, "2026-11-20T23:59:59Z": night.Share, "2026-11-21T00:00:00Z": weekend.Share,
		"2026-11-22T23:59:59Z": weekend.Share, "2026-11-23T00:00:00Z": night.Share, "2026-11-23T06:00:00Z": {Limit: 4000},
	} {
		if got := tree.ShareAt("a", parse(t, at)); got != want {
			t.Errorf("at %s %+v, want %+v", at, got, want)
		}
	}
	at := parse(t, "2026-11-20T12:00:00Z")
	for _, want := range []string{"2026-11-20T15:00:00Z", "2026-11-20T22:00:00Z", "2026-11-21T00:00:00Z", "2026-11-21T06:00:00Z", "2026-11-21T15:00:00Z"} {
		if at = tree.NextChange(at); at != parse(t, want) {
			t.Fatalf("changes at %s, want %s", moment(at), want)
		}
	}
	none, _ := NewTree([]Spec{top("a")})
	if got := none.NextChange(at); got != NoLimit {
		t.Errorf("changes at %d", got)
	}
}

// FuzzNewTree makes trees of any specs: what they say of each other holds, and a book of them answers.
func FuzzNewTree(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{0, 1, 1, 0, 2, 3, 200, 4, 5, 6, 7, 8, 9})
	f.Add(slices.Repeat([]byte{1, 2, 3, 250, 255, 9}, 60))
	f.Fuzz(func(t *testing.T, data []byte) {
		take := func() int64 {
			if len(data) == 0 {
				return 0
			}
			n := int64(int8(data[0]))
			data = data[1:]
			switch n {
			case 127:
				return NoLimit
			case -128:
				return math.MinInt64
			case 126:
				if len(data) >= 8 {
					n = int64(binary.LittleEndian.Uint64(data))
					data = data[8:]
				}
			}
			return n
		}
		name := func() string {
			if n := take() & 15; n > 0 {
				return fmt.Sprintf("q%d", n)
			}
			return ""
		}
		share := func() Share { return Share{Guaranteed: take(), Limit: take()} }
		var specs []Spec
		for len(data) > 0 && len(specs) < 100 {
			s := Spec{Name: name(), Parent: name(), Created: take(), Share: share(), Weight: take(), DefaultRuntime: take(), MaxRuntime: take()}
			for range take() & 1 {
				s.Windows = append(s.Windows, Window{Days: uint8(take()), From: take(), To: take(), Share: share()})
			}
			if take()&1 == 1 {
				s.Budget = &Budget{
					MilliGPUSeconds: take(), Period: Period(take()), RolloverPercent: take(), Enforcement: Enforcement(take()), DrainGrace: take(),
					AlertPercents: []int64{take()}, Adjustments: []Adjustment{{At: take(), MilliGPUSeconds: take()}},
				}
			}
			specs = append(specs, s)
		}
		tree, problems := NewTree(specs)
		for _, p := range problems {
			if p.Message == "" {
				t.Errorf("problem of %q without words", p.Queue)
			}
		}
		seen := 0
		var walk func(queue string)
		walk = func(queue string) {
			for _, c := range tree.Children(queue) {
				seen++
				if path := tree.Path(c); path[0] != c || queue != "" && path[1] != queue || queue == "" && len(path) != 1 {
					t.Errorf("path of %s below %q is %v", c, queue, path)
				}
				walk(c)
			}
		}
		walk("")
		if seen != len(tree.Names()) {
			t.Errorf("%d of %d queues are below the top", seen, len(tree.Names()))
		}
		b := NewBook()
		b.SetTree(tree)
		now := int64(1_795_000_000)
		b.Advance(now)
		b.SetCheckpoint(name(), Checkpoint{AsOf: take(), Start: take(), End: take(), Used: take(), Carried: take()})
		for i, q := range tree.Names() {
			valid := true
			for _, at := range tree.Path(q) {
				message, _ := tree.Problem(at)
				valid = valid && message == ""
			}
			j := Job{{ID: fmt.Sprint(i), Queue: q, MilliGPU: take(), Rate: take(), Runtime: take()}}
			v := b.Admit(j)
			if (v.Reason == QueueInvalid) == valid {
				t.Errorf("queue %s is valid: %v, but %s", q, valid, v.Message())
			}
			j[0].Start = take()
			b.Set(j[0])
			if s, ok := b.Standing(q); !ok || s.Limit < s.Guaranteed || s.Guaranteed < 0 || s.Held < 0 || s.Running < 0 {
				t.Errorf("queue %s stands at %+v", q, s)
			}
		}
		b.Advance(now + 100_000)
		sameAs(t, b, fresh(b))
		for i, q := range tree.Names() {
			b.Delete(fmt.Sprint(i))
			_ = tree.ShareAt(q, now)
		}
		for _, q := range tree.Names() {
			if s, _ := b.Standing(q); s.Held != 0 || s.Running != 0 || len(s.RunningByClass) != 0 {
				t.Errorf("queue %s stands at %+v when all is gone", q, s)
			}
		}
		_ = tree.NextChange(now)
	})
}

// TestWindowsAboveTheParent: a window that guarantees what the parent never has is told, and holds nobody back.
func TestWindowsAboveTheParent(t *testing.T) {
	day := func(guaranteed int64) []Window {
		return []Window{{From: 0, To: 43200, Share: Share{Guaranteed: guaranteed, Limit: NoLimit}}}
	}
	for name, c := range map[string]struct {
		parent, child []Window
		want          []Problem
	}{
		"as much as the parent has":          {nil, day(8000), nil},
		"as much as the parent has at times": {day(16000), day(16000), nil},
		"more than the parent ever has": {day(16000), append(day(16000), day(17000)...), []Problem{{
			"a", "queue a admits pods, but window 1: guaranteed is 17 GPUs, should be at most 16: parent org is never guaranteed more",
		}}},
	} {
		t.Run(name, func(t *testing.T) {
			org, a := top("org"), under("org", "a")
			org.Share, org.Windows = Share{Guaranteed: 8000, Limit: NoLimit}, c.parent
			a.Share, a.Windows = Share{Guaranteed: 4000, Limit: NoLimit}, c.child
			tree, problems := NewTree([]Spec{org, a})
			if diff := cmp.Diff(c.want, problems); diff != "" {
				t.Errorf("problems (-want +got):\n%s", diff)
			}
			if m, _ := tree.Problem("a"); m != "" {
				t.Errorf("it admits nothing: %s", m)
			}
		})
	}
}
