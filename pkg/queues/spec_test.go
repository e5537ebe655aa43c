package queues

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"weft.sh/weft/pkg/apis/weft/v1alpha1"
	"weft.sh/weft/pkg/quota"
)

// newTestQueue is the Queue that somebody would write.
func newTestQueue(t *testing.T, name, spec string) *v1alpha1.Queue {
	t.Helper()
	q := &v1alpha1.Queue{ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.Unix(1000, 0)}}
	if err := yaml.Unmarshal([]byte(spec), &q.Spec); err != nil {
		t.Fatal(err)
	}
	return q
}

func location(t *testing.T, name string) *time.Location {
	t.Helper()
	l, err := time.LoadLocation(name)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestSpecOf(t *testing.T) {
	plain := func(f func(*quota.Spec)) quota.Spec {
		s := quota.Spec{Name: "q", Created: 1000, Share: quota.Share{Limit: quota.NoLimit}, Weight: 1}
		if f != nil {
			f(&s)
		}
		return s
	}
	budget := func(hours int64, f func(*quota.Budget)) quota.Spec {
		return plain(func(s *quota.Spec) {
			s.Budget = &quota.Budget{
				MilliGPUSeconds: hours * 3600000, Period: quota.PeriodMonth, Location: time.UTC, Enforcement: quota.Hold,
				DrainGrace: 600, AlertPercents: []int64{70, 85, 95}, ChargeStartup: true,
			}
			if f != nil {
				f(s.Budget)
			}
		})
	}
	day := time.Date(2026, 11, 14, 0, 0, 0, 0, time.UTC).Unix()
	for name, c := range map[string]struct {
		spec string
		want quota.Spec
		err  string // the lines of the error, joined by |
	}{
		"nothing is neither guaranteed nor limited": {"{}", plain(nil), ""},
		"GPUs are counted in thousandths": {`{parent: p, gpus: {guaranteed: 500m, limit: "1.5"}, weight: 3}`, plain(func(s *quota.Spec) {
			s.Parent, s.Share, s.Weight = "p", quota.Share{Guaranteed: 500, Limit: 1500}, 3
		}), ""},
		"a million GPUs": {"gpus: {limit: 1000000}", plain(func(s *quota.Spec) { s.Limit = 1e9 }), ""},
		"what is no whole thousandth is refused, and is then no limit": {
			`gpus: {limit: "0.0005"}`, plain(nil), `spec.gpus.limit is "500u": want 0 or more GPUs in steps of a thousandth, such as 8 or 500m`,
		},
		"negative GPUs are refused": {
			`gpus: {guaranteed: -1, limit: -2}`, plain(nil),
			`spec.gpus.guaranteed is "-1": want 0 or more GPUs in steps of a thousandth, such as 8 or 500m|` +
				`spec.gpus.limit is "-2": want 0 or more GPUs in steps of a thousandth, such as 8 or 500m`,
		},
		"a guarantee above the limit is cut to it": {
			"gpus: {guaranteed: 2, limit: 1}", plain(func(s *quota.Spec) { s.Share = quota.Share{Guaranteed: 1000, Limit: 1000} }),
			`spec.gpus.guaranteed is "2": want at most the limit, which is 1`,
		},
		"more GPUs than can be counted are refused": {
			`gpus: {limit: "9000000000000000000"}`, plain(nil),
			`spec.gpus.limit is "9E": want 0 or more GPUs in steps of a thousandth, such as 8 or 500m`,
		},
		"a budget has defaults": {"budget: {gpuHours: 1000}", budget(1000, nil), ""},
		"GPU-hours are exact":   {`budget: {gpuHours: "0.001"}`, budget(0, func(b *quota.Budget) { b.MilliGPUSeconds = 3600 }), ""},
		"half a thousandth of an hour is 1800 milli-GPU-seconds": {
			`budget: {gpuHours: "0.0005"}`, budget(0, func(b *quota.Budget) { b.MilliGPUSeconds = 1800 }), "",
		},
		"a million GPUs for ten years": {"budget: {gpuHours: 87600000000}", budget(87600000000, nil), ""},
		"GPU-hours finer than a milli-GPU-second are refused, and there is no budget": {
			`budget: {gpuHours: "0.000001"}`, plain(nil),
			`spec.budget.gpuHours is "1u": want GPU-hours that are a whole number of milli-GPU-seconds, such as 1000 or 0.5`,
		},
		"a negative budget is refused": {"budget: {gpuHours: -1}", plain(nil), `spec.budget.gpuHours is "-1": want 0 or more GPU-hours`},
		"everything of a budget": {
			`budget: {gpuHours: "0.5", period: Week, timeZone: Europe/Berlin, rolloverPercent: 50, enforcement: Drain, drainGraceSeconds: 30,
			alertPercents: [50, 100], chargeStartup: false, adjustments: [{name: a, gpuHours: -2, at: "2026-11-14T00:00:00Z", reason: r}]}`,
			plain(func(s *quota.Spec) {
				s.Budget = &quota.Budget{
					MilliGPUSeconds: 1800000, Period: quota.PeriodWeek, Location: location(t, "Europe/Berlin"), RolloverPercent: 50,
					Enforcement: quota.Drain, DrainGrace: 30, AlertPercents: []int64{50, 100},
					Adjustments: []quota.Adjustment{{At: day, MilliGPUSeconds: -7200000}},
				}
			}), "",
		},
		"a correction that cannot be read leaves the budget": {
			`budget: {gpuHours: 1, adjustments: [{name: a, gpuHours: "0.000001", at: "2026-11-14T00:00:00Z", reason: r}]}`, budget(1, nil),
			`spec.budget.adjustments[0].gpuHours is "1u": want GPU-hours that are a whole number of milli-GPU-seconds, such as 1000 or 0.5`,
		},
		"unknown words are refused": {
			"budget: {gpuHours: 1, period: Decade, enforcement: Kill}", plain(nil),
			`spec.budget.period is "Decade": want Day, Week, Month, Quarter, Year or None|spec.budget.enforcement is "Kill": want Notify, Throttle, Hold or Drain`,
		},
		"a time zone that does not exist": {
			"budget: {gpuHours: 1, timeZone: Europe/Atlantis}", plain(nil),
			`spec.budget.timeZone is "Europe/Atlantis": want the IANA name of a time zone, such as Europe/Berlin`,
		},
		"the zone of whoever reads is none": {
			"budget: {gpuHours: 1, timeZone: Local}", plain(nil), `spec.budget.timeZone is "Local": want the IANA name of a time zone, such as Europe/Berlin`,
		},
		"alerts that go down are not believed": {
			"budget: {gpuHours: 1, alertPercents: [90, 80]}", budget(1, nil), `spec.budget.alertPercents is "[90 80]": want percents of 1 or more, ascending`,
		},
		"a window replaces the numbers that it gives": {
			`{gpus: {guaranteed: 2, limit: 8}, windows: [{days: [Mon, Sun], from: "22:30", to: "06:00", timeZone: Asia/Tokyo, gpus: {guaranteed: 6}}]}`,
			plain(func(s *quota.Spec) {
				s.Share = quota.Share{Guaranteed: 2000, Limit: 8000}
				s.Windows = []quota.Window{{
					Days: 1<<time.Monday | 1<<time.Sunday, From: 22*3600 + 1800, To: 6 * 3600, Location: location(t, "Asia/Tokyo"),
					Share: quota.Share{Guaranteed: 6000, Limit: 8000},
				}}
			}), "",
		},
		"a window that cannot be read never opens, and the others do": {
			`windows: [{days: [Monday], from: "8:00", to: "24:00", gpus: {limit: 1}}, {from: "08:00", to: "09:00", gpus: {limit: 1}}]`,
			plain(func(s *quota.Spec) {
				s.Windows = []quota.Window{{From: 8 * 3600, To: 9 * 3600, Location: time.UTC, Share: quota.Share{Limit: 1000}}}
			}),
			`spec.windows[0].from is "8:00": want a time of the day such as 08:00|spec.windows[0].to is "24:00": want a time of the day such as 08:00|` +
				`spec.windows[0].days is "Monday": want Mon, Tue, Wed, Thu, Fri, Sat or Sun`,
		},
		"runtimes are whole seconds, rounded up": {"runtime: {default: 1500ms, max: 2h}", plain(func(s *quota.Spec) {
			s.DefaultRuntime, s.MaxRuntime = 2, 7200
		}), ""},
		"no runtime is of no or negative length": {
			"runtime: {default: 0s, max: -1h}", plain(nil),
			`spec.runtime.default is "0s": want a duration of more than 0, such as 90m or 6h|spec.runtime.max is "-1h0m0s": want a duration of more than 0, such as 90m or 6h`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := SpecOf(newTestQueue(t, "q", c.spec))
			text := ""
			if err != nil {
				text = strings.ReplaceAll(err.Error(), "\n", "|")
			}
			if text != c.err {
				t.Errorf("error\n%s\nwant\n%s", text, c.err)
			}
			if diff := cmp.Diff(c.want, got, cmp.Comparer(func(a, b *time.Location) bool { return a.String() == b.String() })); diff != "" {
				t.Errorf("spec (-want +got):\n%s", diff)
			}
		})
	}
}
