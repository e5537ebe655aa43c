package quota

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

func TestPeriodAt(t *testing.T) {
	berlin, apia := "Europe/Berlin", "Pacific/Apia"
	for name, test := range map[string]struct {
		period     Period
		zone       string
		at         string
		start, end string
		hours      int64
	}{
		"a day":                                       {PeriodDay, "UTC", "2026-11-21T19:30:00Z", "2026-11-21T00:00:00Z", "2026-11-22T00:00:00Z", 24},
		"its first second":                            {PeriodDay, "UTC", "2026-11-21T00:00:00Z", "2026-11-21T00:00:00Z", "2026-11-22T00:00:00Z", 24},
		"its last second":                             {PeriodDay, "UTC", "2026-11-21T23:59:59Z", "2026-11-21T00:00:00Z", "2026-11-22T00:00:00Z", 24},
		"a day is the zone's":                         {PeriodDay, berlin, "2026-11-21T23:30:00Z", "2026-11-22T00:00:00+01:00", "2026-11-23T00:00:00+01:00", 24},
		"the day on which clocks go forward":          {PeriodDay, berlin, "2026-03-29T12:00:00Z", "2026-03-29T00:00:00+01:00", "2026-03-30T00:00:00+02:00", 23},
		"the day on which clocks go back":             {PeriodDay, berlin, "2026-10-25T12:00:00Z", "2026-10-25T00:00:00+02:00", "2026-10-26T00:00:00+01:00", 25},
		"a quarter hour off the hour":                 {PeriodDay, "Asia/Kathmandu", "2026-11-21T19:30:00Z", "2026-11-22T00:00:00+05:45", "2026-11-23T00:00:00+05:45", 24},
		"a day without a midnight":                    {PeriodDay, "America/Sao_Paulo", "2018-11-04T12:00:00Z", "2018-11-04T01:00:00-02:00", "2018-11-05T00:00:00-02:00", 23},
		"the day before":                              {PeriodDay, "America/Sao_Paulo", "2018-11-04T02:59:59Z", "2018-11-03T00:00:00-03:00", "2018-11-04T01:00:00-02:00", 24},
		"a day that ends with an hour twice":          {PeriodDay, "America/Sao_Paulo", "2018-02-18T02:30:00Z", "2018-02-17T00:00:00-02:00", "2018-02-18T00:00:00-03:00", 25},
		"a day with two midnights":                    {PeriodDay, "America/Havana", "2026-11-01T04:30:00Z", "2026-11-01T00:00:00-04:00", "2026-11-02T00:00:00-05:00", 25},
		"behind its second midnight":                  {PeriodDay, "America/Havana", "2026-11-01T05:30:00Z", "2026-11-01T00:00:00-04:00", "2026-11-02T00:00:00-05:00", 25},
		"a day that ends two dates later":             {PeriodDay, apia, "2011-12-30T09:59:59Z", "2011-12-29T00:00:00-10:00", "2011-12-31T00:00:00+14:00", 24},
		"a day that begins half an hour late":         {PeriodDay, "America/Toronto", "1919-03-31T12:00:00Z", "1919-03-31T00:30:00-04:00", "1919-04-01T00:00:00-04:00", 23},
		"behind the date that never was":              {PeriodDay, apia, "2011-12-30T10:00:00Z", "2011-12-31T00:00:00+14:00", "2012-01-01T00:00:00+14:00", 24},
		"a week begins on Monday":                     {PeriodWeek, "UTC", "2026-11-16T00:00:00Z", "2026-11-16T00:00:00Z", "2026-11-23T00:00:00Z", 168},
		"and ends with Sunday":                        {PeriodWeek, "UTC", "2026-11-15T23:59:59Z", "2026-11-09T00:00:00Z", "2026-11-16T00:00:00Z", 168},
		"a week over the end of a year":               {PeriodWeek, "UTC", "2027-01-01T00:00:00Z", "2026-12-28T00:00:00Z", "2027-01-04T00:00:00Z", 168},
		"a week in which clocks go back":              {PeriodWeek, berlin, "2026-10-20T00:00:00Z", "2026-10-19T00:00:00+02:00", "2026-10-26T00:00:00+01:00", 169},
		"a month":                                     {PeriodMonth, "UTC", "2026-11-30T23:59:59Z", "2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z", 720},
		"December":                                    {PeriodMonth, "UTC", "2026-12-31T00:00:00Z", "2026-12-01T00:00:00Z", "2027-01-01T00:00:00Z", 744},
		"February of a leap year":                     {PeriodMonth, "UTC", "2028-02-29T10:00:00Z", "2028-02-01T00:00:00Z", "2028-03-01T00:00:00Z", 696},
		"a month in which clocks go forward":          {PeriodMonth, berlin, "2026-03-15T00:00:00Z", "2026-03-01T00:00:00+01:00", "2026-04-01T00:00:00+02:00", 743},
		"it is the month of the zone":                 {PeriodMonth, "America/New_York", "2026-12-01T04:59:59Z", "2026-11-01T00:00:00-04:00", "2026-12-01T00:00:00-05:00", 721},
		"the first quarter":                           {PeriodQuarter, "UTC", "2026-03-31T23:59:59Z", "2026-01-01T00:00:00Z", "2026-04-01T00:00:00Z", 90 * 24},
		"the second quarter":                          {PeriodQuarter, "UTC", "2026-04-01T00:00:00Z", "2026-04-01T00:00:00Z", "2026-07-01T00:00:00Z", 91 * 24},
		"the last quarter":                            {PeriodQuarter, berlin, "2026-12-31T22:59:59Z", "2026-10-01T00:00:00+02:00", "2027-01-01T00:00:00+01:00", 92*24 + 1},
		"a year":                                      {PeriodYear, "UTC", "2026-11-21T00:00:00Z", "2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z", 8760},
		"a leap year, and it is the year of the zone": {PeriodYear, "Pacific/Auckland", "2027-12-31T11:00:00Z", "2028-01-01T00:00:00+13:00", "2029-01-01T00:00:00+13:00", 8784},
	} {
		t.Run(name, func(t *testing.T) {
			b := &Budget{Period: test.period, Location: location(t, test.zone)}
			start, end := b.PeriodAt(parse(t, test.at))
			if start != parse(t, test.start) || end != parse(t, test.end) {
				t.Errorf("[%s, %s), want [%s, %s)", moment(start), moment(end), test.start, test.end)
			}
			if (end-start)/3600 != test.hours {
				t.Errorf("%d hours, want %d", (end-start)/3600, test.hours)
			}
		})
	}
	if start, end := (&Budget{}).PeriodAt(1); start != 0 || end != NoLimit {
		t.Errorf("without a period [%d, %d)", start, end)
	}
}

func parse(t testing.TB, s string) int64 {
	t.Helper()
	at, err := time.Parse(time.RFC3339, s)
	if err != nil {
		t.Fatal(err)
	}
	return at.Unix()
}

// TestPeriodsFollowEachOther walks through the years: every moment is in exactly one period, which begins with the first moment
// of its date, where the clock of the zone is read second by second around it.
func TestPeriodsFollowEachOther(t *testing.T) {
	r := rand.New(rand.NewPCG(2, 2))
	for _, zone := range []string{
		"", "UTC", "Europe/Berlin", "America/New_York", "America/Sao_Paulo", "America/Havana", "America/Santiago", "America/Asuncion", "Asia/Beirut",
		"Africa/Cairo", "Asia/Tehran", "Asia/Gaza", "Asia/Kathmandu", "Australia/Lord_Howe", "Pacific/Apia", "Pacific/Chatham", "Atlantic/Azores",
	} {
		for period := PeriodDay; period <= PeriodYear; period++ {
			b := &Budget{Period: period}
			loc := time.UTC
			if zone != "" {
				loc = location(t, zone)
				b.Location = loc
			}
			at := time.Date(2009, 1, 1, 0, 0, 0, 0, time.UTC).Unix()
			_, at = b.PeriodAt(at)
			for last := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC).Unix(); at < last; {
				start, end := b.PeriodAt(at)
				if start != at || end <= start {
					t.Fatalf("%s, period %d: the one at %s is [%s, %s)", zone, period, moment(at), moment(start), moment(end))
				}
				if s, e := b.PeriodAt(start + r.Int64N(end-start)); s != start || e != end {
					t.Fatalf("%s, period %d: within [%s, %s) lies [%s, %s)", zone, period, moment(start), moment(end), moment(s), moment(e))
				}
				if first, before := time.Unix(start, 0).In(loc), time.Unix(start-1, 0).In(loc); dateOf(before) >= dateOf(first) {
					t.Fatalf("%s, period %d: begins at %s, a second after %s", zone, period, first, before)
				}
				if first := time.Unix(start, 0).In(loc); !begins(period, first) {
					t.Fatalf("%s, period %d: begins at %s", zone, period, first)
				}
				at = end
			}
		}
	}
}

// begins says whether the period may begin on that date. Nothing else begins on the date that was left out.
func begins(p Period, t time.Time) bool {
	switch p {
	case PeriodWeek:
		return t.Weekday() == time.Monday
	case PeriodMonth:
		return t.Day() == 1
	case PeriodQuarter:
		return t.Day() == 1 && (t.Month()-1)%3 == 0
	case PeriodYear:
		return t.YearDay() == 1
	default:
		return true
	}
}

func TestPeriodAtTheEndsOfTime(t *testing.T) {
	for _, at := range []int64{math.MinInt64, math.MinInt64 + 1, firstMoment - 1, -1, 0, lastMoment, lastMoment + 1, math.MaxInt64} {
		for period := PeriodNone; period <= PeriodYear+1; period++ {
			b := &Budget{Period: period, Location: location(t, "Europe/Berlin")}
			if start, end := b.PeriodAt(at); start >= end {
				t.Errorf("period %d at %d is [%d, %d)", period, at, start, end)
			}
		}
	}
}

func TestLimitIn(t *testing.T) {
	for name, test := range map[string]struct {
		grant, carried int64
		adjustments    []Adjustment
		want           int64
	}{
		"the grant":                             {grant: 100, want: 100},
		"and what was carried":                  {grant: 100, carried: 20, want: 120},
		"adjustments in the period":             {grant: 100, adjustments: []Adjustment{{At: 10, MilliGPUSeconds: 5}, {At: 19, MilliGPUSeconds: -7}}, want: 98},
		"none of others":                        {grant: 100, adjustments: []Adjustment{{At: 9, MilliGPUSeconds: 5}, {At: 20, MilliGPUSeconds: -7}}, want: 100},
		"not below 0":                           {grant: 100, adjustments: []Adjustment{{At: 10, MilliGPUSeconds: -101}}, want: 0},
		"nothing is above no limit":             {grant: NoLimit, adjustments: []Adjustment{{At: 10, MilliGPUSeconds: -101}}, want: NoLimit},
		"not past the end":                      {grant: NoLimit - 1, carried: NoLimit - 1, want: NoLimit},
		"the order of adjustments is no matter": {grant: NoLimit - 1, adjustments: []Adjustment{{At: 10, MilliGPUSeconds: NoLimit}, {At: 10, MilliGPUSeconds: -NoLimit}}, want: NoLimit - 1},
		"the least":                             {grant: 5, adjustments: []Adjustment{{At: 10, MilliGPUSeconds: math.MinInt64}}, want: 0},
	} {
		t.Run(name, func(t *testing.T) {
			b := &Budget{MilliGPUSeconds: test.grant, Adjustments: test.adjustments}
			if got := b.LimitIn(10, 20, test.carried); got != test.want {
				t.Errorf("%d, want %d", got, test.want)
			}
		})
	}
}

func TestCarry(t *testing.T) {
	for name, test := range map[string]struct {
		budget      Budget
		used, limit int64
		want        int64
	}{
		"what is left":                    {Budget{MilliGPUSeconds: 100, Period: PeriodDay, RolloverPercent: 50}, 70, 100, 30},
		"at most so many percent":         {Budget{MilliGPUSeconds: 100, Period: PeriodDay, RolloverPercent: 20}, 70, 100, 20},
		"of the grant, not of the limit":  {Budget{MilliGPUSeconds: 100, Period: PeriodDay, RolloverPercent: 20}, 0, 900, 20},
		"nothing without rollover":        {Budget{MilliGPUSeconds: 100, Period: PeriodDay}, 70, 100, 0},
		"nothing without a period":        {Budget{MilliGPUSeconds: 100, RolloverPercent: 50}, 70, 100, 0},
		"no debt":                         {Budget{MilliGPUSeconds: 100, Period: PeriodDay, RolloverPercent: 50}, 170, 100, 0},
		"more than all":                   {Budget{MilliGPUSeconds: 100, Period: PeriodDay, RolloverPercent: 500}, 0, 400, 400},
		"no overflow":                     {Budget{MilliGPUSeconds: NoLimit - 1, Period: PeriodDay, RolloverPercent: 1000}, math.MinInt64, NoLimit - 1, NoLimit - 1},
		"nothing of what has no limit":    {Budget{MilliGPUSeconds: NoLimit, Period: PeriodDay, RolloverPercent: 100}, 5, NoLimit, 0},
		"negative percents carry nothing": {Budget{MilliGPUSeconds: 100, Period: PeriodDay, RolloverPercent: -1}, 5, 100, 0},
	} {
		t.Run(name, func(t *testing.T) {
			if got := test.budget.Carry(test.used, test.limit); got != test.want {
				t.Errorf("%d, want %d", got, test.want)
			}
		})
	}
}

// TestWindowsByTheMinute compares when windows open and close with a clock that is read every minute of three weeks around a change
// of the clocks.
func TestWindowsByTheMinute(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 3))
	for range 200 {
		zone := []string{"UTC", "Europe/Berlin", "America/Sao_Paulo", "America/Havana", "Australia/Lord_Howe"}[r.IntN(5)]
		loc := location(t, zone)
		w := Window{Days: uint8(r.IntN(128)), From: 60 * r.Int64N(1440), To: 60 * r.Int64N(1440), Location: loc}
		switch r.IntN(4) {
		case 0:
			w.From, w.To = 2*3600+1800, 4*3600 // in the hour that is left out, or comes twice
		case 1:
			w.To = w.From
		}
		at := []string{"2018-10-25T00:00:00Z", "2018-02-08T00:00:00Z", "2026-03-20T00:00:00Z", "2026-10-16T00:00:00Z", "2026-03-30T00:00:00Z"}[r.IntN(5)]
		begin := parse(t, at)
		next := w.nextChange(begin)
		was := w.openAt(begin)
		for now := begin + 60; now < begin+21*86400; now += 60 {
			l := time.Unix(now, 0).In(loc)
			minute := int64(l.Hour()*60+l.Minute()) * 60
			yesterday := time.Date(l.Year(), l.Month(), l.Day()-1, 12, 0, 0, 0, time.UTC).Weekday()
			on := func(d time.Weekday) bool { return w.Days == 0 || w.Days>>d&1 == 1 }
			var open bool
			if w.From < w.To {
				open = on(l.Weekday()) && minute >= w.From && minute < w.To
			} else {
				open = on(l.Weekday()) && minute >= w.From || on(yesterday) && minute < w.To
			}
			if got := w.openAt(now); got != open {
				t.Fatalf("%+v in %s at %s: open is %v", w, zone, l, got)
			}
			if changed := open != was; changed != (next == now) {
				t.Fatalf("%+v in %s: open is %v at %s, and was %v; the next change was said to be at %s", w, zone, open, l, was, time.Unix(next, 0).In(loc))
			}
			if next <= now {
				next = w.nextChange(now)
			}
			was = open
		}
	}
}
