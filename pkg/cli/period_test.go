package cli

import (
	"strings"
	"testing"
	"time"
)

func TestPeriods(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	// The clocks of Berlin go back on 2026-10-25, and Beirut's day of 2026-03-29 begins at 01:00.
	beirut, err := time.LoadLocation("Asia/Beirut")
	if err != nil {
		t.Fatal(err)
	}
	now := time.Date(2026, 11, 21, 8, 0, 0, 0, time.UTC)
	for name, tc := range map[string]struct {
		when     when
		location *time.Location
		want     string // in the time zone
	}{
		"this month is the default":         {when{}, time.UTC, "2026-11-01T00:00:00Z 2026-12-01T00:00:00Z"},
		"last month":                        {when{period: "last-month"}, time.UTC, "2026-10-01T00:00:00Z 2026-11-01T00:00:00Z"},
		"last month, elsewhere":             {when{period: "last-month"}, berlin, "2026-10-01T00:00:00+02:00 2026-11-01T00:00:00+01:00"},
		"today":                             {when{period: "today"}, berlin, "2026-11-21T00:00:00+01:00 2026-11-22T00:00:00+01:00"},
		"yesterday":                         {when{period: "yesterday"}, time.UTC, "2026-11-20T00:00:00Z 2026-11-21T00:00:00Z"},
		"a month":                           {when{period: "2026-02"}, time.UTC, "2026-02-01T00:00:00Z 2026-03-01T00:00:00Z"},
		"a day of 25 hours":                 {when{period: "2026-10-25"}, berlin, "2026-10-25T00:00:00+02:00 2026-10-26T00:00:00+01:00"},
		"a day without midnight":            {when{period: "2026-03-29"}, beirut, "2026-03-29T01:00:00+03:00 2026-03-30T00:00:00+03:00"},
		"a year":                            {when{period: "2025"}, time.UTC, "2025-01-01T00:00:00Z 2026-01-01T00:00:00Z"},
		"hours until now":                   {when{period: "24h"}, time.UTC, "2026-11-20T08:00:00Z 2026-11-21T08:00:00Z"},
		"days until now":                    {when{period: "7d"}, time.UTC, "2026-11-14T08:00:00Z 2026-11-21T08:00:00Z"},
		"from a moment until now":           {when{from: "2026-11-21T06:00:00+02:00"}, time.UTC, "2026-11-21T04:00:00Z 2026-11-21T08:00:00Z"},
		"from the first to the last day of": {when{from: "2026-09", to: "2026-10"}, time.UTC, "2026-09-01T00:00:00Z 2026-11-01T00:00:00Z"},
		"to a day, from the beginning":      {when{to: "2026-09-05"}, time.UTC, "1970-01-01T00:00:00Z 2026-09-06T00:00:00Z"},
		"since the beginning of a duration": {when{from: "48h", to: "24h"}, time.UTC, "2026-11-19T08:00:00Z 2026-11-21T08:00:00Z"},
		"from the beginning of all time":    {when{from: "1970"}, time.UTC, "1970-01-01T00:00:00Z 2026-11-21T08:00:00Z"},
	} {
		tc.when.zone = tc.location.String()
		s, location, err := tc.when.resolve(now)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := rfc3339(s.from, location) + " " + rfc3339(s.to, location); got != tc.want {
			t.Errorf("%s: %s, want %s", name, got, tc.want)
		}
	}
	for _, text := range []string{"", "0h", "-1h", "1ns", "0d", "-1d", "99999999d", "1969", "2026-00", "2026-02-30", "d", "1.5d", "next-month", "99999999999h"} {
		if s, err := periodNamed(text, now); err == nil || !strings.Contains(err.Error(), "is no period: want this-month") {
			t.Errorf("%q: %v, %v", text, s, err)
		}
	}
}

// TestBucketsEndWhereTheNextBegins: also where clocks are set.
func TestBucketsEndWhereTheNextBegins(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ bucket, start, end string }{
		{"hour", "2026-11-21T08:00:00+01:00", "2026-11-21T09:00:00+01:00"},
		{"hour", "2026-10-25T02:00:00+02:00", "2026-10-25T02:00:00+01:00"},
		{"hour", "2026-10-25T02:00:00+01:00", "2026-10-25T03:00:00+01:00"},
		{"day", "2026-10-25T00:00:00+02:00", "2026-10-26T00:00:00+01:00"},
		{"month", "2026-10-01T00:00:00+02:00", "2026-11-01T00:00:00+01:00"},
	} {
		start, err := time.Parse(time.RFC3339, tc.start)
		if err != nil {
			t.Fatal(err)
		}
		if got := rfc3339(bucketEnd(tc.bucket, start.Unix(), berlin), berlin); got != tc.end {
			t.Errorf("%s from %s: to %s, want %s", tc.bucket, tc.start, got, tc.end)
		}
	}
}

func FuzzPeriodNamed(f *testing.F) {
	for _, text := range []string{"this-month", "2026-11", "2026-11-21", "2026", "24h", "7d", "9999", "9999-12-31"} {
		f.Add(text)
	}
	now := time.Date(2026, 11, 21, 8, 0, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, text string) {
		if s, err := periodNamed(text, now); err == nil && (s.from < 0 || s.to <= s.from) {
			t.Errorf("%q: %v", text, s)
		}
	})
}
