package ledger

import (
	"fmt"
	"sort"
	"time"
	_ "time/tzdata" // images without files have no time zones
)

// calendar cuts time into buckets, [start, end).
type calendar func(at int64) (start, end int64)

// newCalendar is the calendar of "hour", "day" or "month" in a time zone, or for "" nothing but the bucket 0.
func newCalendar(bucket, timeZone string) (calendar, error) {
	location, err := time.LoadLocation(timeZone)
	if err != nil {
		return nil, fmt.Errorf("time zone %q: %w: want UTC or a name such as Europe/Berlin", timeZone, err)
	}
	switch bucket {
	case "":
		return func(int64) (start, end int64) { return 0, maxTime + 1 }, nil
	case "hour":
		return remember(func(at int64) (start, end int64) { return hourOf(at, location) }), nil
	case "day":
		return remember(func(at int64) (start, end int64) {
			year, month, day := time.Unix(at, 0).In(location).Date()
			return firstOf(year, month, day, location), firstOf(year, month, day+1, location)
		}), nil
	case "month":
		return remember(func(at int64) (start, end int64) {
			year, month, _ := time.Unix(at, 0).In(location).Date()
			return firstOf(year, month, 1, location), firstOf(year, month+1, 1, location)
		}), nil
	}
	return nil, fmt.Errorf("bucket %q: want hour, day, month, or none", bucket)
}

// remember keeps the last bucket.
func remember(c calendar) calendar {
	var start, end int64
	return func(at int64) (int64, int64) {
		if at < start || at >= end {
			start, end = c(at)
		}
		return start, end
	}
}

// hourOf is the hour on the wall that a moment is in. It is shorter where the clock is set within an hour.
func hourOf(at int64, location *time.Location) (start, end int64) {
	t := time.Unix(at, 0).In(location)
	start = at - int64(t.Minute()*60+t.Second())
	end = start + 3600
	from, to := t.ZoneBounds()
	if !from.IsZero() {
		start = max(start, from.Unix())
	}
	if !to.IsZero() {
		end = min(end, to.Unix())
	}
	return start, end
}

// firstOf is the first second of a day, which is not midnight where the clock is set at midnight.
func firstOf(year int, month time.Month, day int, location *time.Location) int64 {
	want := time.Date(year, month, day, 0, 0, 0, 0, time.UTC)
	// No place is a day from UTC.
	from := want.Unix() - 24*3600
	return from + int64(sort.Search(48*3600, func(after int) bool {
		year, month, day := time.Unix(from+int64(after), 0).In(location).Date()
		return !time.Date(year, month, day, 0, 0, 0, 0, time.UTC).Before(want)
	}))
}
