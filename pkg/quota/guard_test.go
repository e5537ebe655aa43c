package quota

import (
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestAssess(t *testing.T) {
	const day = 86400
	at := november.mid // 15 days before the end
	spent := func(gpuHours int64) Checkpoint { return used(gpuHours) }
	for name, test := range map[string]struct {
		budget                          *Budget
		c                               Checkpoint
		held, recent, window, exhausted int64
		want                            Assessment
	}{
		"nothing was used": {budget: monthly(100, Hold), want: Assessment{Limit: 100, Left: 100}},
		"below the first alert": {
			budget: monthly(100, Hold), c: spent(60), held: 10*gpuHour - 1, want: Assessment{Limit: 100, Used: 60, Held: 10, Left: 30},
		},
		"at the first": {
			budget: monthly(100, Hold), c: spent(60), held: 10 * gpuHour, want: Assessment{Limit: 100, Used: 60, Held: 10, Left: 30, Alert: 70},
		},
		"between":     {budget: monthly(100, Hold), c: spent(94), want: Assessment{Limit: 100, Used: 94, Left: 6, Alert: 85}},
		"at the last": {budget: monthly(100, Hold), c: spent(95), want: Assessment{Limit: 100, Used: 95, Left: 5, Alert: 95}},
		"own alerts, in any order, above the whole too": {
			budget: &Budget{MilliGPUSeconds: 100 * gpuHour, Period: PeriodMonth, AlertPercents: []int64{120, 50, 90}}, c: spent(130),
			want: Assessment{Limit: 100, Used: 130, Alert: 120, Exhausted: true, ExhaustedAt: at},
		},
		"what was carried and adjusted counts": {
			budget: &Budget{
				MilliGPUSeconds: 100 * gpuHour, Period: PeriodMonth, Adjustments: []Adjustment{{At: at, MilliGPUSeconds: -30 * gpuHour}, {At: at + 40*day, MilliGPUSeconds: gpuHour}},
			},
			c: Checkpoint{AsOf: at, Start: november.start, End: november.end, Used: 40 * gpuHour, Carried: 10 * gpuHour}, want: Assessment{Limit: 80, Used: 40, Left: 40},
		},
		"it lasts longer than the period": {
			budget: monthly(100, Hold), c: spent(50), recent: 10 * gpuHour / 3, window: day, want: Assessment{Limit: 100, Used: 50, Left: 50, BurnPerDay: 10},
		},
		"to the second": {
			budget: monthly(100, Hold), c: spent(50), recent: 50 * gpuHour, window: 15 * day, want: Assessment{Limit: 100, Used: 50, Left: 50, BurnPerDay: 10},
		},
		"it does not last": {
			budget: monthly(100, Hold), c: spent(50), held: 50 * gpuHour, recent: 50 * gpuHour / 24, window: 3600,
			want: Assessment{Limit: 100, Used: 50, Held: 50, Alert: 95, BurnPerDay: 150, ExhaustedAt: at + day},
		},
		"the books of another month say nothing": {
			budget: monthly(100, Drain), c: Checkpoint{AsOf: november.start - 5, Start: november.start - 31*day, End: november.start, Used: 200 * gpuHour}, exhausted: 77,
			want: Assessment{Limit: 100, Left: 100},
		},
		"used up under Hold": {
			budget: monthly(100, Hold), c: spent(100), recent: gpuHour, window: day, exhausted: 77,
			want: Assessment{Limit: 100, Used: 100, Alert: 95, BurnPerDay: 3, Exhausted: true, ExhaustedAt: 77},
		},
		"used up under Drain": {
			budget: func() *Budget { b := monthly(100, Drain); b.DrainGrace = 900; return b }(), c: spent(101), exhausted: at - 300,
			want: Assessment{Limit: 100, Used: 101, Alert: 95, Exhausted: true, ExhaustedAt: at - 300, DrainAt: at + 600},
		},
		"just now": {
			budget: monthly(100, Drain), c: spent(101), want: Assessment{Limit: 100, Used: 101, Alert: 95, Exhausted: true, ExhaustedAt: at, DrainAt: at},
		},
		"held is not used": {
			budget: monthly(100, Drain), c: spent(90), held: 20 * gpuHour, want: Assessment{Limit: 100, Used: 90, Held: 20, Alert: 95},
		},
		"nothing was granted": {budget: monthly(0, Hold), want: Assessment{Alert: 95, Exhausted: true, ExhaustedAt: at}},
	} {
		t.Run(name, func(t *testing.T) {
			w := test.want
			for _, f := range []*int64{&w.Limit, &w.Used, &w.Left} {
				*f *= gpuHour
			}
			w.Held = test.held
			w.BurnPerDay = 0
			if test.window > 0 {
				w.BurnPerDay = test.recent * day / test.window
			}
			if w.Left > 0 {
				w.Left = w.Limit - w.Used - w.Held
			}
			if diff := cmp.Diff(w, Assess(test.budget, test.c, test.held, test.recent, test.window, test.exhausted, at)); diff != "" {
				t.Error(diff)
			}
		})
	}
	most := int64(math.MaxInt64)
	b := &Budget{MilliGPUSeconds: most - 1, Enforcement: Drain, DrainGrace: most, AlertPercents: []int64{most}}
	c := Checkpoint{AsOf: at, End: NoLimit, Used: most - 1, Carried: -5}
	if got, want := Assess(b, c, most, most, 1, at, at), (Assessment{
		Limit: most - 6, Used: most - 1, Held: most, BurnPerDay: most, Exhausted: true, ExhaustedAt: at, DrainAt: most, Alert: most,
	}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	if got, want := Assess(&Budget{MilliGPUSeconds: NoLimit}, c, 1, 1, 0, 0, at), (Assessment{Limit: most, Left: most, Used: most - 1, Held: 1}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}
