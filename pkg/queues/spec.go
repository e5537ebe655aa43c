package queues

import (
	"errors"
	"fmt"
	"math/big"
	"slices"
	"time"
	_ "time/tzdata" // time zones must not depend on the image that a program runs in

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"weft.sh/weft/pkg/apis/weft/v1alpha1"
	"weft.sh/weft/pkg/podspec"
	"weft.sh/weft/pkg/quota"
)

// What a field has where the object has none: the API server writes most of them into an object that it stores.
const (
	defaultWeight     = 1
	defaultDrainGrace = 600
)

var defaultAlerts = []int64{70, 85, 95}

// milliGPUSecondsPerHour is one GPU-hour.
const milliGPUSecondsPerHour = 1000 * 3600

// maxRuntime bounds what anybody says of a runtime: ten years, in seconds.
const maxRuntime = 10 * 366 * 24 * 3600

// SpecOf is what the queue grants. Errors are *podspec.InvalidError, joined; the spec then has what could be read, with no guarantee,
// no limit and no budget where that could not.
func SpecOf(q *v1alpha1.Queue) (quota.Spec, error) {
	r := specReader{}
	s := quota.Spec{
		Name: q.Name, Parent: q.Spec.Parent, Created: q.CreationTimestamp.Unix(),
		Share:          r.share("spec.gpus", q.Spec.GPUs, quota.Share{Limit: quota.NoLimit}),
		Weight:         max(q.Spec.Weight, defaultWeight),
		Budget:         r.budget(q.Spec.Budget),
		DefaultRuntime: r.duration("spec.runtime.default", q.Spec.Runtime.Default),
		MaxRuntime:     r.duration("spec.runtime.max", q.Spec.Runtime.Max),
	}
	for i := range q.Spec.Windows {
		if w, ok := r.window(fmt.Sprintf("spec.windows[%d]", i), &q.Spec.Windows[i], s.Share); ok {
			s.Windows = append(s.Windows, w)
		}
	}
	return s, errors.Join(r.errs...)
}

// specReader reads fields and keeps what is wrong with them.
type specReader struct{ errs []error }

func (r *specReader) invalid(field, value, want string) {
	r.errs = append(r.errs, &podspec.InvalidError{Field: field, Value: value, Want: want})
}

// share is the share with the numbers that are given in place of base's.
func (r *specReader) share(field string, g v1alpha1.QueueGPUs, base quota.Share) quota.Share {
	s := base
	if g.Guaranteed != nil {
		s.Guaranteed = r.milliGPU(field+".guaranteed", *g.Guaranteed, 0)
	}
	if g.Limit != nil {
		s.Limit = r.milliGPU(field+".limit", *g.Limit, quota.NoLimit)
	}
	if s.Guaranteed > s.Limit {
		r.invalid(field+".guaranteed", formatMilli(s.Guaranteed), "at most the limit, which is "+formatMilli(s.Limit))
		s.Guaranteed = s.Limit
	}
	return s
}

func (r *specReader) milliGPU(field string, q resource.Quantity, otherwise int64) int64 {
	n, ok := scaled(q, 1000)
	if !ok || n < 0 {
		r.invalid(field, q.String(), "0 or more GPUs in steps of a thousandth, such as 8 or 500m")
		return otherwise
	}
	return n
}

func (r *specReader) gpuHours(field string, q resource.Quantity) (int64, bool) {
	n, ok := scaled(q, milliGPUSecondsPerHour)
	if !ok {
		r.invalid(field, q.String(), "GPU-hours that are a whole number of milli-GPU-seconds, such as 1000 or 0.5")
	}
	return n, ok
}

func (r *specReader) location(field, zone string) *time.Location {
	// Local is that of whoever reads, and would be another for each.
	if zone != "Local" {
		if l, err := time.LoadLocation(zone); err == nil {
			return l
		}
	}
	r.invalid(field, zone, "the IANA name of a time zone, such as Europe/Berlin")
	return time.UTC
}

// duration is in whole seconds, rounded up; 0 for none.
func (r *specReader) duration(field string, d *metav1.Duration) int64 {
	if d == nil {
		return 0
	}
	if d.Duration <= 0 {
		r.invalid(field, d.Duration.String(), "a duration of more than 0, such as 90m or 6h")
		return 0
	}
	return seconds(d.Duration)
}

var weekdays = []string{"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"}

// window is false for one that cannot be read: it never opens.
func (r *specReader) window(field string, w *v1alpha1.Window, base quota.Share) (quota.Window, bool) {
	before := len(r.errs)
	out := quota.Window{
		From: r.clock(field+".from", w.From), To: r.clock(field+".to", w.To),
		Location: r.location(field+".timeZone", w.TimeZone),
		Share:    r.share(field+".gpus", w.GPUs, base),
	}
	for _, name := range w.Days {
		day := slices.Index(weekdays, name)
		if day < 0 {
			r.invalid(field+".days", name, "Mon, Tue, Wed, Thu, Fri, Sat or Sun")
			continue
		}
		out.Days |= 1 << day
	}
	return out, len(r.errs) == before
}

// clock is a time of the day in seconds since midnight.
func (r *specReader) clock(field, s string) int64 {
	t, err := time.Parse("15:04", s)
	if err != nil || len(s) != len("15:04") {
		r.invalid(field, s, "a time of the day such as 08:00")
		return 0
	}
	return int64(t.Hour()*3600 + t.Minute()*60)
}

var periods = map[v1alpha1.Period]quota.Period{
	"": quota.PeriodMonth, v1alpha1.PeriodNone: quota.PeriodNone, v1alpha1.PeriodDay: quota.PeriodDay, v1alpha1.PeriodWeek: quota.PeriodWeek,
	v1alpha1.PeriodMonth: quota.PeriodMonth, v1alpha1.PeriodQuarter: quota.PeriodQuarter, v1alpha1.PeriodYear: quota.PeriodYear,
}

var enforcements = map[v1alpha1.Enforcement]quota.Enforcement{
	"": quota.Hold, v1alpha1.EnforceNotify: quota.Notify, v1alpha1.EnforceThrottle: quota.Throttle,
	v1alpha1.EnforceHold: quota.Hold, v1alpha1.EnforceDrain: quota.Drain,
}

// budget is nil for none, and for one whose hours, period, time zone or enforcement cannot be read.
func (r *specReader) budget(b *v1alpha1.Budget) *quota.Budget {
	if b == nil {
		return nil
	}
	const field = "spec.budget"
	before := len(r.errs)
	out := &quota.Budget{
		Location:        r.location(field+".timeZone", b.TimeZone),
		RolloverPercent: max(int64(b.RolloverPercent), 0),
		DrainGrace:      defaultDrainGrace,
		AlertPercents:   defaultAlerts,
		ChargeStartup:   b.ChargeStartup == nil || *b.ChargeStartup,
	}
	var ok bool
	if out.MilliGPUSeconds, ok = r.gpuHours(field+".gpuHours", b.GPUHours); ok && out.MilliGPUSeconds < 0 {
		r.invalid(field+".gpuHours", b.GPUHours.String(), "0 or more GPU-hours")
	}
	if out.Period, ok = periods[b.Period]; !ok {
		r.invalid(field+".period", string(b.Period), "Day, Week, Month, Quarter, Year or None")
	}
	if out.Enforcement, ok = enforcements[b.Enforcement]; !ok {
		r.invalid(field+".enforcement", string(b.Enforcement), "Notify, Throttle, Hold or Drain")
	}
	unreadable := len(r.errs) > before
	if b.DrainGraceSeconds != nil {
		out.DrainGrace = max(int64(*b.DrainGraceSeconds), 0)
	}
	if len(b.AlertPercents) > 0 {
		out.AlertPercents = nil
		for _, p := range b.AlertPercents {
			out.AlertPercents = append(out.AlertPercents, int64(p))
		}
		if !slices.IsSorted(out.AlertPercents) || out.AlertPercents[0] < 1 {
			r.invalid(field+".alertPercents", fmt.Sprint(b.AlertPercents), "percents of 1 or more, ascending")
			out.AlertPercents = defaultAlerts
		}
	}
	for i := range b.Adjustments {
		a := &b.Adjustments[i]
		if n, ok := r.gpuHours(fmt.Sprintf("%s.adjustments[%d].gpuHours", field, i), a.GPUHours); ok {
			out.Adjustments = append(out.Adjustments, quota.Adjustment{At: a.At.Unix(), MilliGPUSeconds: n})
		}
	}
	if unreadable {
		return nil
	}
	return out
}

// scaled is the quantity times factor where that is a whole number, of at most a quarter of what an int64 holds: a few of them can be
// added.
func scaled(q resource.Quantity, factor int64) (int64, bool) {
	const maxDigits = 30 // before the point and behind it; what has more is no amount of anything
	d := q.AsDec()
	n, scale := new(big.Int).Mul(d.UnscaledBig(), big.NewInt(factor)), int64(d.Scale())
	if scale > maxDigits || scale < -maxDigits {
		return 0, n.Sign() == 0
	}
	ten := big.NewInt(10)
	if scale <= 0 {
		n.Mul(n, ten.Exp(ten, big.NewInt(-scale), nil))
	} else {
		var rest big.Int
		if n.QuoRem(n, ten.Exp(ten, big.NewInt(scale), nil), &rest); rest.Sign() != 0 {
			return 0, false
		}
	}
	if !n.IsInt64() || n.Int64() > quota.NoLimit/4 || n.Int64() < -quota.NoLimit/4 {
		return 0, false
	}
	return n.Int64(), true
}

// seconds is the duration in whole seconds, rounded up, at most [maxRuntime].
func seconds(d time.Duration) int64 {
	return min(int64((d+time.Second-1)/time.Second), maxRuntime)
}

// formatMilli is an amount in milli-GPU as people write it.
func formatMilli(n int64) string {
	if n == quota.NoLimit {
		return "none"
	}
	return resource.NewMilliQuantity(n, resource.DecimalSI).String()
}
