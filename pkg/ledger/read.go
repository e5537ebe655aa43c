package ledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"iter"
)

// AsOf implements Store.
func (db *SQL) AsOf(ctx context.Context) (asOf int64, err error) {
	err = db.view(ctx, func(t *tx) error {
		s, err := t.state(ctx, false)
		asOf = s.asOf
		return err
	})
	return asOf, err
}

// errStop says that the one who reads has enough.
var errStop = errors.New("enough")

// Segments implements Store.
func (db *SQL) Segments(ctx context.Context, q Query) iter.Seq2[Segment, error] {
	return func(yield func(Segment, error) bool) {
		if q.empty() {
			return
		}
		err := db.view(ctx, func(t *tx) error {
			condition, args := q.where()
			return t.each(ctx, func(rows *sql.Rows) error {
				var r row
				if err := r.scan(rows); err != nil {
					return err
				}
				if q.cut(&r.Segment) && !yield(r.Segment, nil) {
					return errStop
				}
				return nil
			}, "SELECT "+columns+" FROM segments WHERE "+condition+" ORDER BY pod_uid, number", args...)
		})
		if err != nil && !errors.Is(err, errStop) {
			yield(Segment{}, err)
		}
	}
}

// Charged implements Store.
func (db *SQL) Charged(ctx context.Context, from, to int64) (map[string]int64, error) {
	charged := make(map[string]int64)
	q := Query{From: from, To: to}
	if q.empty() {
		return charged, nil
	}
	err := db.view(ctx, func(t *tx) error {
		// Commit has seen to it that no product of a row overflows. A sum that does is an error of the database. The rows that ended are
		// read from an index of their own (segments_charged), for these are nearly all. Of an hour that is rolled up it is ofHour.
		query := fmt.Sprintf(`SELECT queue, SUM(seconds) FROM (
			SELECT queue, rate * (%[1]s(end_at, %[3]d) - %[2]s(start_at, %[4]d)) AS seconds
			FROM segments WHERE charged AND end_at > 0 AND end_at > %[4]d AND start_at < %[3]d
			UNION ALL SELECT queue, rate * (%[1]s(through_at, %[3]d) - %[2]s(start_at, %[4]d))
			FROM segments WHERE charged AND end_at = 0 AND through_at > %[4]d AND start_at < %[3]d
			UNION ALL SELECT queue, rate_seconds
			FROM rollups WHERE charged AND unit <> 'hour' AND start_at >= %[4]d AND start_at < %[3]d
			UNION ALL SELECT queue, rate_seconds / 3600 * (til - since) + rate_seconds %% 3600 * til / 3600 - rate_seconds %% 3600 * since / 3600
			FROM (SELECT queue, rate_seconds, %[1]s(start_at + 3600, %[3]d) - start_at AS til, %[2]s(start_at, %[4]d) - start_at AS since
				FROM rollups WHERE charged AND unit = 'hour' AND start_at > %[4]d - 3600 AND start_at < %[3]d) AS hours) AS parts GROUP BY queue`,
			t.least, t.greatest, q.to(), q.From)
		return t.each(ctx, func(rows *sql.Rows) error {
			var queue string
			var sum int64
			err := rows.Scan(&queue, &sum)
			charged[queue] = sum
			return err
		}, query)
	})
	if err != nil {
		return nil, err
	}
	return charged, nil
}
