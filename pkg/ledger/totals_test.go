package ledger

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"math/big"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// random are n segments of several minutes to days, with times in full minutes after from.
func random(seed uint64, n int, from, over int64) []Segment {
	r := rand.New(rand.NewPCG(seed, 2))
	segments := make([]Segment, n)
	for i := range segments {
		s := &segments[i]
		*s = Segment{
			PodUID: fmt.Sprintf("pod-%d", i/2), Number: int32(i % 2), Queue: []string{"", "a", "b"}[r.IntN(3)],
			Namespace: []string{"n", "m"}[r.IntN(2)], User: []string{"eve", "bob"}[r.IntN(2)], Workload: fmt.Sprintf("Job/%d", r.IntN(4)),
			Class: []string{"h100", "l4"}[r.IntN(2)], Product: []string{"H100", "L4"}[r.IntN(2)], Profile: []string{"", "1g.10gb"}[r.IntN(2)],
			MilliGPU: 1 + r.Int64N(8000), Rate: 1 + r.Int64N(16000), PriceMicros: r.Int64N(5) * 1_234_567, Currency: []string{"EUR", "USD"}[r.IntN(2)],
			Startup: i%2 == 0, Charged: r.IntN(3) > 0, Start: from + 60*r.Int64N(over/60),
		}
		if r.IntN(2) == 0 {
			s.Labels = map[string]string{"model": []string{"x", "y"}[r.IntN(2)]}
		}
		s.Through = s.Start + 60*r.Int64N(3000)
		if r.IntN(5) > 0 {
			s.End, s.Estimated, s.Closed = s.Through, r.IntN(4) == 0, "finished"
		}
	}
	return segments
}

// dumb is Totals minute by minute, with the wall clock's text for a bucket.
func dumb(segments []Segment, q Query, by []Dimension, bucket string, location *time.Location) []Total {
	layout := map[string]string{"": "", "hour": "2006-01-02 15 -0700", "day": "2006-01-02", "month": "2006-01"}[bucket]
	type sum struct {
		Total
		cost *big.Int
		pods map[string]bool
	}
	sums := make(map[string]*sum)
	first := make(map[string]int64) // minute of a bucket
	texts := make(map[int64]string)
	from, to := int64(math.MaxInt64), int64(0)
	for _, s := range segments {
		from, to = min(from, s.Start), max(to, s.Through)
	}
	for minute := from - 32*24*3600; minute <= to; minute += 60 {
		text := time.Unix(minute, 0).In(location).Format(layout)
		texts[minute] = text
		if _, ok := first[text]; !ok {
			first[text] = minute
		}
	}
	for _, s := range segments {
		if len(q.Queues) > 0 && !slices.Contains(q.Queues, s.Queue) || len(q.Namespaces) > 0 && !slices.Contains(q.Namespaces, s.Namespace) {
			continue
		}
		if value, ok := s.Labels[q.Label]; q.Label != "" && (!ok || q.LabelIs != "" && value != q.LabelIs) || q.OpenOnly && s.End != 0 {
			continue
		}
		seen := make(map[*sum]bool)
		add := func(minute, seconds int64) {
			key := make([]string, len(by))
			for i, d := range by {
				switch d {
				case "queue":
					key[i] = s.Queue
				case "class":
					key[i] = s.Class
				case "user":
					key[i] = s.User
				case "label:model":
					key[i] = s.Labels["model"]
				}
			}
			text := texts[minute] + "|" + s.Currency + "|" + strings.Join(key, "|")
			l := sums[text]
			if l == nil {
				l = &sum{Total: Total{Key: key, Currency: s.Currency}, cost: new(big.Int), pods: make(map[string]bool)}
				if bucket != "" {
					l.Bucket = first[texts[minute]]
				}
				sums[text] = l
			}
			if !seen[l] {
				seen[l] = true
				l.Segments++
			}
			l.pods[s.PodUID] = true
			l.MilliGPUSeconds += s.MilliGPU * seconds
			if s.Charged {
				l.ChargedMilliGPUSeconds += s.Rate * seconds
				l.cost.Add(l.cost, new(big.Int).Mul(big.NewInt(s.MilliGPU*seconds), big.NewInt(s.PriceMicros)))
			}
			if s.Startup {
				l.StartupMilliGPUSeconds += s.MilliGPU * seconds
			}
			if s.Estimated {
				l.EstimatedMilliGPUSeconds += s.MilliGPU * seconds
			}
		}
		if s.Start == s.Through && s.Start > q.From && s.Start < q.to() {
			add(s.Start, 0)
		}
		for minute := s.Start; minute < s.Through; minute += 60 {
			if minute >= q.From && minute < q.to() {
				add(minute, 60)
			}
		}
	}
	var totals []Total
	for _, l := range sums {
		l.Pods = int64(len(l.pods))
		hours := new(big.Int).Add(l.cost, big.NewInt(1_800_000))
		l.CostMicros = hours.Div(hours, big.NewInt(3_600_000)).Int64()
		totals = append(totals, l.Total)
	}
	slices.SortFunc(totals, func(a, b Total) int {
		return cmp.Or(cmp.Compare(a.Bucket, b.Bucket), slices.Compare(a.Key, b.Key), cmp.Compare(a.Currency, b.Currency))
	})
	return totals
}

func TestTotalsAreTheSumsOfMinutes(t *testing.T) {
	date := func(year int, month time.Month, day int) int64 {
		return time.Date(year, month, day, 0, 0, 0, 0, time.UTC).Unix()
	}
	tests := map[string]struct {
		from     int64 // of the segments, which are of six days
		query    Query
		by       []Dimension
		bucket   string
		timeZone string
	}{
		"all together":               {from: date(2026, 7, 1)},
		"by several dimensions":      {from: date(2026, 7, 1), by: []Dimension{"queue", "class", "label:model", "user"}},
		"of some queues, in a range": {from: date(2026, 7, 1), query: Query{From: date(2026, 7, 2), To: date(2026, 7, 4), Queues: []string{"", "a"}}},
		"of a namespace and label": {
			from: date(2026, 7, 1), query: Query{Namespaces: []string{"m"}, Label: "model", LabelIs: "x"}, by: []Dimension{"label:model"},
		},
		"of whoever has a label": {from: date(2026, 7, 1), query: Query{Label: "model"}, by: []Dimension{"queue"}},
		"of what runs":           {from: date(2026, 7, 1), query: Query{OpenOnly: true}, by: []Dimension{"queue"}, bucket: "day"},
		"by hour":                {from: date(2026, 7, 1), by: []Dimension{"queue"}, bucket: "hour"},
		"by hour where it is half past": {
			from: date(2026, 7, 1), query: Query{To: date(2026, 7, 4) + 600}, bucket: "hour", timeZone: "Asia/Kolkata",
		},
		"by hour when an hour is missing":       {from: date(2026, 3, 27), bucket: "hour", timeZone: "Europe/Berlin"},
		"by hour when an hour comes twice":      {from: date(2026, 10, 23), bucket: "hour", timeZone: "Europe/Berlin"},
		"by hour when half an hour comes twice": {from: date(2026, 4, 3), bucket: "hour", timeZone: "Australia/Lord_Howe"},
		"by day of 23 hours":                    {from: date(2026, 3, 27), by: []Dimension{"user"}, bucket: "day", timeZone: "America/New_York"},
		"by day of 25 hours":                    {from: date(2026, 10, 23), bucket: "day", timeZone: "Europe/Berlin"},
		"by day that begins at one o'clock":     {from: date(2026, 9, 3), bucket: "day", timeZone: "America/Santiago"},
		"by day whose midnight comes twice":     {from: date(2026, 10, 30), bucket: "day", timeZone: "America/Havana"},
		"by day whose last hour comes twice":    {from: date(2026, 4, 2), bucket: "day", timeZone: "America/Santiago"},
		"by day, one of which does not exist":   {from: date(2011, 12, 28), bucket: "day", timeZone: "Pacific/Apia"},
		"by month":                              {from: date(2026, 2, 26), by: []Dimension{"class"}, bucket: "month", timeZone: "Asia/Tokyo"},
	}
	onBoth(t, func(t *testing.T, fresh func() string) {
		for name, test := range tests {
			t.Run(name, func(t *testing.T) {
				location, err := time.LoadLocation(test.timeZone)
				if err != nil {
					t.Fatal(err)
				}
				segments := random(uint64(test.from), 60, test.from, 6*24*3600)
				db, epoch := led(t, fresh())
				commit(t, db, epoch, 0, segments...)
				want := dumb(segments, test.query, test.by, test.bucket, location)
				got, err := db.Totals(context.Background(), test.query, test.by, test.bucket, test.timeZone)
				if err != nil {
					t.Fatal(err)
				}
				if diff := gocmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
					t.Errorf("(-minute by minute +totals):\n%.3000s", diff)
				}
			})
		}
	})
}

func TestNothingIsBetweenATimeAndOneBefore(t *testing.T) {
	ctx := context.Background()
	db, epoch := led(t, t.TempDir()+"/ledger.db")
	commit(t, db, epoch, 1000, at(1000, false, ""))
	for _, q := range []Query{{From: 500, To: 500}, {From: 500, To: 400}} {
		charged, err := db.Charged(ctx, q.From, q.To)
		totals, totalsErr := db.Totals(ctx, q, nil, "", "")
		if segments := all(t, db, q); len(charged)+len(totals)+len(segments) > 0 || err != nil || totalsErr != nil {
			t.Errorf("from %d to %d: %v, %v, %v, %v, %v", q.From, q.To, charged, totals, segments, err, totalsErr)
		}
	}
}

func TestTotalsRefuse(t *testing.T) {
	db, _ := led(t, t.TempDir()+"/ledger.db")
	tests := map[string]struct {
		by                        Dimension
		bucket, timeZone, message string
	}{
		"an unknown dimension":  {"color", "", "", `dimension "color": want queue, namespace, user`},
		"a label without a key": {"label:", "", "", `dimension "label:": want`},
		"an unknown bucket":     {"queue", "week", "", `bucket "week": want hour, day, month, or none`},
		"an unknown time zone":  {"queue", "day", "Mars/Olympus", `time zone "Mars/Olympus"`},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := db.Totals(context.Background(), Query{}, []Dimension{test.by}, test.bucket, test.timeZone)
			if err == nil || !strings.Contains(err.Error(), test.message) {
				t.Errorf("got %v, want %q", err, test.message)
			}
		})
	}
}

func TestTotalsOfTheLargestClusters(t *testing.T) {
	const tenYears = 10 * 366 * 24 * 3600
	onBoth(t, func(t *testing.T, fresh func() string) {
		ctx := context.Background()
		db, epoch := led(t, fresh())
		s := Segment{
			Queue: "q", MilliGPU: 1_000_000, Rate: 1_000_000, PriceMicros: 40_000_000, Currency: "USD", Charged: true,
			Start: 1, Through: 1 + tenYears,
		}
		var segments []Segment
		for i := range 1000 { // pods of 1000 GPUs each
			s.PodUID = fmt.Sprint(i)
			segments = append(segments, s)
		}
		commit(t, db, epoch, 0, segments...)
		const held = int64(1_000_000_000) * tenYears
		want := []Total{{
			Key: []string{"q"}, MilliGPUSeconds: held, ChargedMilliGPUSeconds: held, CostMicros: 1_000_000 * tenYears / 3600 * 40_000_000,
			Currency: "USD", Segments: 1000, Pods: 1000,
		}}
		got, err := db.Totals(ctx, Query{}, []Dimension{"queue"}, "", "")
		if diff := gocmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("%v\n%s", err, diff)
		}
		charged, err := db.Charged(ctx, 0, 0)
		if diff := gocmp.Diff(map[string]int64{"q": held}, charged); diff != "" || err != nil {
			t.Errorf("%v\n%s", err, diff)
		}

		// What is larger is told, never wrong.
		for i := range 2 {
			s.PodUID, s.MilliGPU, s.Rate, s.Start, s.Through = fmt.Sprint("huge", i), 1<<40, 1<<40, 1, 1+(1<<23)-1
			commit(t, db, epoch, 0, s)
		}
		if _, err := db.Totals(ctx, Query{}, nil, "", ""); !errors.Is(err, ErrOverflow) {
			t.Errorf("totals: %v", err)
		}
		if charged, err := db.Charged(ctx, 0, 0); err == nil {
			t.Errorf("charged: %v", charged)
		}
	})
}

// Four pods of a quarter GPU for an hour are one GPU-hour; so are the seven instances of 1g.10gb and the eighth that nobody has.
func TestSharesAddUp(t *testing.T) {
	db, epoch := led(t, t.TempDir()+"/ledger.db")
	for i := range 4 {
		commit(t, db, epoch, 0, Segment{
			PodUID: fmt.Sprint(i), Queue: "q", MilliGPU: 250, Rate: 250, PriceMicros: 3_000_001, Charged: true, Start: 1, Through: 3601,
		})
	}
	got, err := db.Totals(context.Background(), Query{}, nil, "", "")
	want := []Total{{MilliGPUSeconds: 3_600_000, ChargedMilliGPUSeconds: 3_600_000, CostMicros: 3_000_001, Segments: 4, Pods: 4}}
	if diff := gocmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" || err != nil {
		t.Errorf("%v\n%s", err, diff)
	}
}

func TestSegmentsAreCutToTheQuery(t *testing.T) {
	onBoth(t, func(t *testing.T, fresh func() string) {
		db, epoch := led(t, fresh())
		segments := random(9, 200, epochStart, 6*24*3600)
		commit(t, db, epoch, 0, segments...)
		for _, q := range []Query{
			{},
			{From: epochStart + 86400, To: epochStart + 2*86400},
			{From: epochStart + 86400, Queues: []string{"a"}, OpenOnly: true},
			{To: epochStart + 86400, Namespaces: []string{"n"}, Label: "model", LabelIs: "y"},
			{PodUID: "pod-7"},
		} {
			var want []Segment
			for _, s := range segments {
				if s.Start >= q.to() || s.Through <= q.From || len(q.Queues) > 0 && s.Queue != "a" || len(q.Namespaces) > 0 && s.Namespace != "n" ||
					q.OpenOnly && s.End != 0 || q.Label != "" && s.Labels["model"] != "y" || q.PodUID != "" && s.PodUID != q.PodUID {
					continue
				}
				s.Start, s.Through = max(s.Start, q.From), min(s.Through, q.to())
				want = append(want, s)
			}
			slices.SortFunc(want, func(a, b Segment) int {
				return cmp.Or(cmp.Compare(a.PodUID, b.PodUID), cmp.Compare(a.Number, b.Number))
			})
			got := all(t, db, q)
			if diff := gocmp.Diff(want, got); diff != "" || len(want) == 0 {
				t.Errorf("%+v: %d segments (-want +got):\n%.2000s", q, len(got), diff)
			}
			// Who has enough may stop.
			for range db.Segments(context.Background(), q) {
				break
			}
			charged := make(map[string]int64)
			for _, s := range all(t, db, Query{From: q.From, To: q.To}) {
				if s.Charged {
					charged[s.Queue] += s.Rate * (s.Through - s.Start)
				}
			}
			sums, err := db.Charged(context.Background(), q.From, q.To)
			if diff := gocmp.Diff(charged, sums); diff != "" || err != nil {
				t.Errorf("charged in %d to %d: %v\n%s", q.From, q.To, err, diff)
			}
		}
	})
}
