package ledger

import (
	"context"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestCompactKeepsTheTotals(t *testing.T) {
	const day = int64(24 * 3600)
	// A midnight there, of the second day.
	kolkata := epochStart - epochStart%day + day + 18*3600 + 1800
	everything := []Dimension{"queue", "namespace", "user", "workload", "class", "product", "profile", "currency", "label:model"}
	type question struct {
		query            Query
		bucket, timeZone string
	}
	hours := []question{
		{Query{}, "", ""},
		{Query{}, "hour", "UTC"},
		{Query{}, "day", "Europe/Berlin"},
		{Query{From: epochStart + 5*3600, To: epochStart + 50*3600, Queues: []string{"a", "b"}}, "hour", "America/New_York"},
		{Query{Label: "model", LabelIs: "x", Namespaces: []string{"m"}}, "day", "UTC"},
		{Query{}, "month", "America/New_York"},
		// Where the clock is not full hours off UTC: 5:30, 5:45, and 10:30 or 11:00.
		{Query{}, "hour", "Asia/Kolkata"},
		{Query{}, "day", "Asia/Kolkata"},
		{Query{}, "month", "Asia/Kolkata"},
		{Query{}, "hour", "Asia/Kathmandu"},
		{Query{}, "day", "Asia/Kathmandu"},
		{Query{}, "month", "Asia/Kathmandu"},
		{Query{}, "hour", "Australia/Lord_Howe"},
		{Query{}, "day", "Australia/Lord_Howe"},
		{Query{From: kolkata, To: kolkata + 3*day}, "day", "Asia/Kolkata"},
		{Query{From: kolkata - 900, To: kolkata + 5*3600, Queues: []string{"a"}}, "hour", "Asia/Kathmandu"},
	}
	spans := [][2]int64{{0, 0}, {epochStart + 3*3600, epochStart + 27*3600}, {kolkata, kolkata + day}, {kolkata - 900, kolkata + 2*day - 900}, {kolkata, 0}}
	days := []question{{Query{}, "", ""}, {Query{}, "day", "UTC"}, {Query{From: epochStart + day, To: epochStart + 4*day}, "day", "UTC"}}
	months := []question{{Query{}, "", ""}, {Query{}, "month", "UTC"}}

	onBoth(t, func(t *testing.T, fresh func() string) {
		ctx := context.Background()
		db, epoch := led(t, fresh())
		// Some over the end of a month; more than one step of Compact; most are short, to keep the hours few.
		segments := random(1, compactStep+500, epochStart, 40*day)
		for i := range segments {
			if s := &segments[i]; i%20 > 0 {
				s.Through -= (s.Through - s.Start) / 1200 * 1140
				s.End = min(s.End, s.Through)
			}
		}
		commit(t, db, epoch, 0, segments...)
		ask := func(questions []question) (answers [][]Total) {
			for _, q := range questions {
				q.query.IncludeRollups = true
				totals, err := db.Totals(ctx, q.query, everything, q.bucket, q.timeZone)
				if err != nil {
					t.Fatal(err)
				}
				answers = append(answers, totals)
			}
			return answers
		}
		charged := func() (all []map[string]int64) {
			for _, span := range spans {
				sums, err := db.Charged(ctx, span[0], span[1])
				if err != nil {
					t.Fatal(err)
				}
				all = append(all, sums)
			}
			return all
		}
		counts := func() (segments, hours, days, months int) {
			err := db.view(ctx, func(tx *tx) error {
				return tx.QueryRow(`SELECT (SELECT COUNT(*) FROM segments), (SELECT COUNT(*) FROM rollups WHERE unit IN ('hour', 'quarter')),
					(SELECT COUNT(*) FROM rollups WHERE unit = 'day'), (SELECT COUNT(*) FROM rollups WHERE unit = 'month')`).Scan(
					&segments, &hours, &days, &months)
			})
			if err != nil {
				t.Fatal(err)
			}
			return
		}
		// Roll-ups know no pods and are other rows. Lines of nothing but segments without duration go.
		alike := []cmp.Option{
			cmpopts.IgnoreFields(Total{}, "Segments", "Pods"),
			cmpopts.IgnoreSliceElements(func(total Total) bool { return total.MilliGPUSeconds == 0 }),
		}
		byHour, byDay, byMonth := ask(hours), ask(days), ask(months)
		parts := charged()

		// In two goes, the first in the midst.
		commit(t, db, epoch, epochStart+90*day+MinRetention)
		for _, before := range []int64{epochStart + 10*day + 1234, epochStart + 90*day} {
			rows, err := db.Compact(ctx, epoch, before)
			segments, _, days, _ := counts()
			if err != nil || rows == 0 || days != 0 {
				t.Fatalf("%d rows are gone, %d are left, %d days: %v", rows, segments, days, err)
			}
			if diff := cmp.Diff(byHour, ask(hours), alike...); diff != "" {
				t.Errorf("after compaction (-before +after):\n%.3000s", diff)
			}
			if diff := cmp.Diff(parts, charged()); diff != "" {
				t.Errorf("charged after compaction:\n%s", diff)
			}
			if _, err := db.Verify(ctx); err != nil {
				t.Error(err)
			}
		}
		if rows, err := db.Compact(ctx, epoch, epochStart+90*day); rows != 0 || err != nil {
			t.Errorf("again: %d rows are gone: %v", rows, err)
		}

		commit(t, db, epoch, epochStart+90*day+HourRetention)
		if _, err := db.Compact(ctx, epoch, 0); err != nil {
			t.Fatal(err)
		}
		if _, hours, days, months := counts(); hours != 0 || days == 0 || months != 0 {
			t.Errorf("%d hours, %d days, %d months", hours, days, months)
		}
		if diff := cmp.Diff(byDay, ask(nil), alike...); diff == "" {
			t.Error("the comparison finds no difference where there is one")
		}
		if diff := cmp.Diff(byDay, ask(days), alike...); diff != "" {
			t.Errorf("after a year (-before +after):\n%.3000s", diff)
		}

		commit(t, db, epoch, epochStart+90*day+DayRetention)
		if _, err := db.Compact(ctx, epoch, 0); err != nil {
			t.Fatal(err)
		}
		if _, hours, days, months := counts(); hours != 0 || days != 0 || months == 0 {
			t.Errorf("%d hours, %d days, %d months", hours, days, months)
		}
		if diff := cmp.Diff(byMonth, ask(months), alike...) + cmp.Diff(parts[0], charged()[0]); diff != "" {
			t.Errorf("after years (-before +after):\n%.3000s", diff)
		}
	})
}

func TestCompactLeavesWhatIsToBeKept(t *testing.T) {
	onBoth(t, func(t *testing.T, fresh func() string) {
		ctx := context.Background()
		db, epoch := led(t, fresh())
		now := epochStart + MinRetention
		ended := at(0, false, "finished")
		ended.Start, ended.Through, ended.End = epochStart-100, epochStart, epochStart
		runs := at(0, false, "")
		runs.PodUID, runs.Start, runs.Through = "runs", epochStart-100, now
		commit(t, db, epoch, now, ended, runs)
		for before, want := range map[int64]error{epochStart + 1: ErrRetained, now: ErrRetained, epochStart - 1: nil} {
			if rows, err := db.Compact(ctx, epoch, before); rows != 0 || !errors.Is(err, want) {
				t.Errorf("before %d: %d rows are gone: %v, want %v", before, rows, err, want)
			}
		}
		if rows, err := db.Compact(ctx, epoch, epochStart); rows != 1 || err != nil {
			t.Errorf("%d rows are gone: %v", rows, err)
		}
		if diff := cmp.Diff([]Segment{runs}, all(t, db, Query{})); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		// Who comes with it again does not get it counted twice, and what comes with it is written.
		runs.Through++
		commit(t, db, epoch, now+1, ended, runs)
		if diff := cmp.Diff([]Segment{runs}, all(t, db, Query{})); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		totals, err := db.Totals(ctx, Query{PodUID: "", IncludeRollups: true, To: epochStart}, nil, "", "")
		if want := int64(2 * 1000 * 100); err != nil || len(totals) != 1 || totals[0].MilliGPUSeconds != want {
			t.Errorf("%+v, want %d milli-GPU-seconds: %v", totals, want, err)
		}
	})
}
