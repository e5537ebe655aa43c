package quota

import "time"

// Moments that a calendar is asked about: years 1 to 9999.
const (
	firstMoment int64 = -62135596800
	lastMoment  int64 = 253402300799
)

// PeriodAt is the period [start, end) that the moment lies in; end is NoLimit and start 0 for PeriodNone. A day begins at
// the first moment that has its date where the budget is (UTC without a location), also where clocks jump over midnight or
// pass it twice: so periods follow each other without a gap. Moments outside the years 1 to 9999 count as the nearest
// inside.
func (b *Budget) PeriodAt(at int64) (start, end int64) {
	loc := b.Location
	if loc == nil {
		loc = time.UTC
	}
	t := time.Unix(min(max(at, firstMoment), lastMoment), 0).In(loc)
	year, month, day := t.Date()
	switch b.Period {
	case PeriodDay:
		return midnight(year, month, day, loc), midnight(year, month, day+1, loc)
	case PeriodWeek:
		monday := day - (int(t.Weekday())+6)%7
		return midnight(year, month, monday, loc), midnight(year, month, monday+7, loc)
	case PeriodMonth:
		return midnight(year, month, 1, loc), midnight(year, month+1, 1, loc)
	case PeriodQuarter:
		first := month - (month-1)%3
		return midnight(year, first, 1, loc), midnight(year, first+3, 1, loc)
	case PeriodYear:
		return midnight(year, time.January, 1, loc), midnight(year+1, time.January, 1, loc)
	default:
		return 0, NoLimit
	}
}

// midnight is the first moment of the date; the day may lie outside the month. time.Date does not say which moment it takes
// where there is no midnight, or two.
func midnight(year int, month time.Month, day int, loc *time.Location) int64 {
	want := time.Date(year, month, day, 0, 0, 0, 0, time.UTC)
	if loc == time.UTC {
		return want.Unix()
	}
	t := time.Date(year, month, day, 0, 0, 0, 0, loc)
	began, ends := t.ZoneBounds()
	if dateOf(t) < want.Unix() {
		return ends.Unix() // the clock jumped over midnight, and t is before the jump
	}
	if began.IsZero() {
		return t.Unix()
	}
	if dateOf(t) > want.Unix() || dateOf(began) == want.Unix() {
		t = began // as above, with t behind the jump; or the clock was put back to midnight or before
	}
	_, offset := began.Add(-time.Second).Zone()
	if first := want.Unix() - int64(offset); first < began.Unix() {
		return first // midnight came already, before the clock was put back
	}
	return t.Unix()
}

// dateOf is the date of the moment where it is, as the moment at which it begins in UTC.
func dateOf(t time.Time) int64 {
	year, month, day := t.Date()
	return time.Date(year, month, day, 0, 0, 0, 0, time.UTC).Unix()
}

// LimitIn is what may be used in the period [start, end) which got carried from the one before: the grant, what was carried
// and the adjustments that lie in it; at least 0.
func (b *Budget) LimitIn(start, end, carried int64) int64 {
	if b.MilliGPUSeconds == NoLimit {
		return NoLimit
	}
	var sum wide
	sum.add(b.MilliGPUSeconds, 1)
	sum.add(carried, 1)
	for _, a := range b.Adjustments {
		if start <= a.At && a.At < end {
			sum.add(a.MilliGPUSeconds, 1)
		}
	}
	return max(sum.value(), 0)
}

// Carry is what the next period gets of one in which used was used, of limit: what is left, at most RolloverPercent of the
// grant. What was used above the limit is not taken from the next. A budget without a period or without a limit carries
// nothing.
func (b *Budget) Carry(used, limit int64) int64 {
	if b.Period == PeriodNone || b.RolloverPercent <= 0 || b.MilliGPUSeconds <= 0 || used >= limit || limit == NoLimit {
		return 0
	}
	most := ratio(b.MilliGPUSeconds, b.RolloverPercent, 100, false)
	return min(plus(limit, -max(used, 0)), most)
}

// openAt reports whether the window is open, by the clock on the wall.
func (w *Window) openAt(at int64) bool {
	t := w.local(at)
	second := secondOf(t)
	today := t.Weekday()
	if w.From < w.To {
		return w.opensOn(today) && w.From <= second && second < w.To
	}
	return w.opensOn(today) && second >= w.From || w.opensOn((today+6)%7) && second < w.To
}

func (w *Window) opensOn(day time.Weekday) bool { return w.Days == 0 || w.Days&(1<<day) != 0 }

func (w *Window) local(at int64) time.Time {
	loc := w.Location
	if loc == nil {
		loc = time.UTC
	}
	return time.Unix(min(max(at, firstMoment), lastMoment), 0).In(loc)
}

func secondOf(t time.Time) int64 {
	hour, minute, second := t.Clock()
	return int64(hour*3600 + minute*60 + second)
}

// steps are more than the moments of a week at which the wall clock shows From or To, or jumps.
const steps = 24

// nextChange is the next moment after now at which the window opens or closes, NoLimit when it never does.
func (w *Window) nextChange(now int64) int64 {
	for range steps {
		t := w.local(now)
		second := secondOf(t)
		next := now + min(until(second, w.From), until(second, w.To))
		if _, jump := t.ZoneBounds(); !jump.IsZero() {
			next = min(next, jump.Unix())
		}
		if next > lastMoment {
			return NoLimit
		}
		if w.openAt(next) != w.openAt(next-1) {
			return next
		}
		now = next
	}
	return NoLimit
}

// until is the seconds from one second of the day to the next time that it is another; a day when they are the same.
func until(second, other int64) int64 {
	const day = 86400
	d := (other - second) % day
	if d <= 0 {
		d += day
	}
	return d
}
