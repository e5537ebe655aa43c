package cli

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	_ "time/tzdata" // machines without a database of time zones report too

	"weft.sh/weft/pkg/quota"
)

// span is a time, [from, to), in Unix seconds.
type span struct{ from, to int64 }

const wantPeriod = "this-month, last-month, today, yesterday, a month such as 2026-11, a day such as 2026-11-21, a year such as 2026, or how long until now, such as 24h or 7d"

// maxBack is how far back a duration may go, in seconds: no ledger is older than a hundred years.
const maxBack = 100 * 366 * 86400

// periodNamed is the time that the text names, in the time zone of now.
func periodNamed(text string, now time.Time) (span, error) {
	at, period := now.Unix(), quota.PeriodMonth
	switch text {
	case "this-month":
	case "last-month":
		start, _ := calendarOf(quota.PeriodMonth, at, now.Location())
		at = start - 1
	case "today":
		period = quota.PeriodDay
	case "yesterday":
		start, _ := calendarOf(quota.PeriodDay, at, now.Location())
		at, period = start-1, quota.PeriodDay
	default:
		if s, ok := dateNamed(text, now.Location()); ok {
			return s, nil
		}
		if back, ok := durationNamed(text); ok {
			return span{max(at-back, 0), at}, nil
		}
		return span{}, fmt.Errorf("%q is no period: want %s", text, wantPeriod)
	}
	start, end := calendarOf(period, at, now.Location())
	return span{start, end}, nil
}

// momentNamed is what a text means that begins or ends a time: a moment in RFC 3339, or something that lasts.
func momentNamed(text string, now time.Time) (span, error) {
	if t, err := time.Parse(time.RFC3339, text); err == nil && t.Unix() >= 0 {
		return span{t.Unix(), t.Unix()}, nil
	}
	s, err := periodNamed(text, now)
	if err != nil {
		return s, fmt.Errorf("%q is no time: want RFC 3339, such as 2026-11-21T08:00:00Z, or %s", text, wantPeriod)
	}
	return s, nil
}

// calendarOf is the day, month or year that a moment lies in.
func calendarOf(p quota.Period, at int64, location *time.Location) (start, end int64) {
	return (&quota.Budget{Period: p, Location: location}).PeriodAt(at)
}

// dateNamed is a day, a month or a year.
func dateNamed(text string, location *time.Location) (span, bool) {
	for _, f := range []struct {
		layout string
		period quota.Period
	}{{time.DateOnly, quota.PeriodDay}, {"2006-01", quota.PeriodMonth}, {"2006", quota.PeriodYear}} {
		t, err := time.Parse(f.layout, text)
		if err != nil || t.Year() < 1970 {
			continue
		}
		// Noon is of this day in every time zone, also where the clock jumps over midnight.
		noon := time.Date(t.Year(), t.Month(), t.Day(), 12, 0, 0, 0, location)
		start, end := calendarOf(f.period, noon.Unix(), location)
		return span{max(start, 0), end}, true
	}
	return span{}, false
}

// durationNamed is a duration in seconds, of more than 0. Days are 24 hours.
func durationNamed(text string) (int64, bool) {
	if days, ok := strings.CutSuffix(text, "d"); ok {
		n, err := strconv.ParseInt(days, 10, 64)
		return n * 86400, err == nil && n > 0 && n <= maxBack/86400
	}
	d, err := time.ParseDuration(text)
	return int64(d / time.Second), err == nil && d >= time.Second
}

// when is what the flags --period, --from, --to and --time-zone say.
type when struct {
	period, from, to, zone string
}

// resolve is the time, and its time zone.
func (w *when) resolve(now time.Time) (span, *time.Location, error) {
	// Local is that of whoever asks, and would be another for each.
	location, err := time.LoadLocation(w.zone)
	if err != nil || w.zone == "Local" {
		return span{}, nil, fmt.Errorf("--time-zone is %q: want UTC or a name such as Europe/Berlin", w.zone)
	}
	now = now.In(location)
	if w.from == "" && w.to == "" {
		if w.period == "" {
			w.period = "this-month"
		}
		s, err := periodNamed(w.period, now)
		if err != nil {
			return span{}, nil, fmt.Errorf("--period: %w", err)
		}
		return s, location, nil
	}
	if w.period != "" {
		return span{}, nil, fmt.Errorf("--period is %q, and --from or --to is given: want one of them", w.period)
	}
	out := span{0, now.Unix()}
	if w.from != "" {
		s, err := momentNamed(w.from, now)
		if err != nil {
			return span{}, nil, fmt.Errorf("--from: %w", err)
		}
		out.from = s.from
	}
	if w.to != "" {
		s, err := momentNamed(w.to, now)
		if err != nil {
			return span{}, nil, fmt.Errorf("--to: %w", err)
		}
		out.to = s.to
	}
	if out.to <= out.from {
		return span{}, nil, fmt.Errorf("--to is %s: want a time after --from, which is %s", rfc3339(out.to, location), rfc3339(out.from, location))
	}
	return out, location, nil
}

// bucketEnd is when the bucket that begins at that moment ends, as the ledger cuts time.
func bucketEnd(bucket string, start int64, location *time.Location) int64 {
	switch bucket {
	case "hour":
		t := time.Unix(start, 0).In(location)
		end := start + 3600 - int64(t.Minute()*60+t.Second())
		if _, jump := t.ZoneBounds(); !jump.IsZero() {
			end = min(end, jump.Unix())
		}
		return end
	case "day":
		_, end := calendarOf(quota.PeriodDay, start, location)
		return end
	}
	_, end := calendarOf(quota.PeriodMonth, start, location)
	return end
}

// rfc3339 is a moment in the time zone.
func rfc3339(at int64, location *time.Location) string {
	return time.Unix(at, 0).In(location).Format(time.RFC3339)
}
