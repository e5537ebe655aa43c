package ledger

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/binary"
	"fmt"
	"slices"
	"time"
)

// compactStep is how many rows one transaction of Compact rolls up, and a few more that ended at the same second. Meanwhile nobody can write.
const compactStep = 2000

// Compact implements Store.
func (db *SQL) Compact(ctx context.Context, epoch, before int64) (rows int64, err error) {
	for {
		var gone int64
		err := db.update(ctx, func(t *tx) error {
			s, err := t.fenced(ctx, epoch)
			if err != nil {
				return err
			}
			if before > s.asOf-MinRetention {
				return fmt.Errorf("%w: rows to %d were to be compacted, the watermark is %d: want %d or before",
					ErrRetained, before, s.asOf, s.asOf-MinRetention)
			}
			gone, err = t.rollUp(ctx, &s, before)
			return err
		})
		if err != nil {
			return rows, err
		}
		if gone == 0 {
			break
		}
		rows += gone
	}
	for _, f := range []fold{
		{unitHour, "day", HourRetention, dayUTC}, {unitQuarter, "day", HourRetention, dayUTC}, {"day", "month", DayRetention, monthUTC},
	} {
		for done := false; !done; {
			err := db.update(ctx, func(t *tx) (err error) {
				s, err := t.fenced(ctx, epoch)
				if err != nil {
					return err
				}
				done, err = f.step(ctx, t, s.asOf)
				return err
			})
			if err != nil {
				return rows, err
			}
		}
	}
	return rows, nil
}

// rollUp rolls up the rows that ended first, and returns how many these were.
func (t *tx) rollUp(ctx context.Context, s *state, before int64) (gone int64, err error) {
	// All that ended at one second go together, so that one number says what is gone.
	last := sql.NullInt64{}
	err = t.QueryRowContext(ctx, t.bind(`SELECT MAX(end_at) FROM (SELECT end_at FROM segments WHERE end_at > 0 AND end_at <= ?
		ORDER BY end_at LIMIT ?) AS oldest`), before, compactStep).Scan(&last)
	if err != nil || !last.Valid {
		return 0, err
	}
	hours := make(map[rollupKey]*rollup)
	err = t.each(ctx, func(rows *sql.Rows) error {
		var r row
		if err := r.scan(rows); err != nil {
			return err
		}
		gone++
		// Nothing of a segment without duration would be left but a line of zeros, which a report does not miss.
		for from := r.Start; from < r.Through; {
			unit, length := unitHour, int64(hourSeconds)
			if from%hourSeconds != 0 || from+hourSeconds > r.Through {
				unit, length = unitQuarter, quarterSeconds
			}
			to := min(from-from%length+length, r.Through)
			k := rollupKey{unit, from - from%length, r.rollupHash()}
			if hours[k] == nil {
				hours[k] = &rollup{Segment: r.Segment}
			}
			hours[k].held += r.MilliGPU * (to - from)
			hours[k].charged += r.Rate * (to - from)
			from = to
		}
		return nil
	}, "SELECT "+columns+" FROM segments WHERE end_at > 0 AND end_at <= ?", last.Int64)
	if err != nil {
		return 0, err
	}
	keys := make([]rollupKey, 0, len(hours))
	for k := range hours {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b rollupKey) int {
		return cmp.Or(cmp.Compare(a.unit, b.unit), cmp.Compare(a.start, b.start), bytes.Compare(a.hash[:], b.hash[:]))
	})
	err = t.insert(ctx, "rollups (unit, start_at, key, "+rollupColumns+", milli_gpu_seconds, rate_seconds)", len(keys), rollupWidth, rollupConflict,
		func(i int) []any { return hours[keys[i]].values(keys[i]) })
	if err != nil {
		return 0, err
	}
	if err := t.exec(ctx, "DELETE FROM segments WHERE end_at > 0 AND end_at <= ?", last.Int64); err != nil {
		return 0, err
	}
	s.compacted = max(s.compacted, last.Int64)
	if err := t.trim(ctx, s); err != nil {
		return 0, err
	}
	return gone, t.setState(ctx, s)
}

// rollupColumns are what a roll-up keeps of its segments.
const rollupColumns = `namespace, queue, username, workload, class, product, profile, price_micros, currency,
	startup, charged, estimated, labels`

const rollupWidth = 3 + 13 + 2

const rollupConflict = ` ON CONFLICT (unit, start_at, key) DO UPDATE SET
	milli_gpu_seconds = rollups.milli_gpu_seconds + excluded.milli_gpu_seconds,
	rate_seconds = rollups.rate_seconds + excluded.rate_seconds`

// The units of roll-ups, besides "day" and "month" of UTC. All that is rolled up to an hour was held for all of it, so any part of that is as
// known as the whole. What was held for a part of an hour is rolled up to quarters: where the clock is half an hour or 45 minutes off UTC
// the hours, days and months of the place begin at a quarter, and nowhere at another moment.
const (
	unitHour    = "hour"
	unitQuarter = "quarter"

	hourSeconds    = 3600
	quarterSeconds = 900
)

type rollupKey struct {
	unit  string
	start int64
	hash  [sha256.Size]byte
}

// rollup has the dimensions of one of its segments, and the amounts of all in milli-GPU-seconds.
type rollup struct {
	Segment
	held, charged int64
}

func (r *rollup) values(k rollupKey) []any {
	return []any{
		k.unit, k.start, k.hash[:], r.Namespace, r.Queue, r.User, r.Workload, r.Class, r.Product, r.Profile, r.PriceMicros, r.Currency,
		r.Startup, r.Charged, r.Estimated, encodeLabels(r.Labels), r.held, r.charged,
	}
}

// rollupHash is a hash of rollupColumns. Labels may be longer than what an index takes.
func (s *Segment) rollupHash() [sha256.Size]byte {
	var b []byte
	for _, text := range []string{
		s.Namespace, s.Queue, s.User, s.Workload, s.Class, s.Product, s.Profile, s.Currency, encodeLabels(s.Labels),
	} {
		b = append(binary.AppendUvarint(b, uint64(len(text))), text...)
	}
	return sha256.Sum256(fmt.Appendf(b, "|%d %t %t %t", s.PriceMicros, s.Startup, s.Charged, s.Estimated))
}

// fold makes longer roll-ups of those that are older than keep.
type fold struct {
	from, into string
	keep       int64
	// bounds is the longer time that a moment is in.
	bounds func(int64) (start, end int64)
}

// step folds the oldest day or month, if that is old enough as a whole.
func (f *fold) step(ctx context.Context, t *tx, asOf int64) (done bool, err error) {
	var first sql.NullInt64
	err = t.QueryRowContext(ctx, t.bind("SELECT MIN(start_at) FROM rollups WHERE unit = ?"), f.from).Scan(&first)
	if err != nil || !first.Valid {
		return true, err
	}
	start, end := f.bounds(first.Int64)
	if end > asOf-f.keep {
		return true, nil
	}
	err = t.exec(ctx, fmt.Sprintf(`INSERT INTO rollups (unit, start_at, key, %s, milli_gpu_seconds, rate_seconds)
		SELECT '%s', %d, key, %s, CAST(SUM(milli_gpu_seconds) AS bigint), CAST(SUM(rate_seconds) AS bigint)
		FROM rollups WHERE unit = ? AND start_at >= ? AND start_at < ? GROUP BY key, %s`,
		rollupColumns, f.into, start, rollupColumns, rollupColumns)+rollupConflict, f.from, start, end)
	if err != nil {
		return true, err
	}
	return false, t.exec(ctx, "DELETE FROM rollups WHERE unit = ? AND start_at >= ? AND start_at < ?", f.from, start, end)
}

func dayUTC(at int64) (start, end int64) { return at - at%86400, at - at%86400 + 86400 }

func monthUTC(at int64) (start, end int64) {
	year, month, _ := time.Unix(at, 0).UTC().Date()
	return time.Date(year, month, 1, 0, 0, 0, 0, time.UTC).Unix(), time.Date(year, month+1, 1, 0, 0, 0, 0, time.UTC).Unix()
}
