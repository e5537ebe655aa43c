package ledger

import (
	"context"
	"database/sql"
	"fmt"
	"math"
)

// Lead implements Store.
func (db *SQL) Lead(ctx context.Context, holder string, least int64) (epoch int64, err error) {
	err = db.update(ctx, func(t *tx) error {
		s, err := t.state(ctx, true)
		if err != nil {
			return err
		}
		last := max(s.epoch, least)
		if last == math.MaxInt64 {
			return fmt.Errorf("no epoch is greater than %d", last)
		}
		s.epoch, s.holder = last+1, holder
		epoch = s.epoch
		return t.setState(ctx, &s)
	})
	if err != nil {
		return 0, err
	}
	return epoch, nil
}

// key is what names a segment.
type key struct {
	podUID string
	number int32
}

// Commit implements Store.
func (db *SQL) Commit(ctx context.Context, epoch, asOf int64, segments []Segment) error {
	if asOf < 0 || asOf > maxTime {
		return fmt.Errorf("ledger %s: the watermark would be %d: want 0 to %d", db.name, asOf, maxTime)
	}
	for i := range segments {
		if err := segments[i].validate(); err != nil {
			return fmt.Errorf("ledger %s: %w", db.name, err)
		}
	}
	return db.update(ctx, func(t *tx) error {
		s, err := t.fenced(ctx, epoch)
		if err != nil {
			return err
		}
		known, err := t.known(ctx, segments)
		if err != nil {
			return err
		}
		changed, err := changes(known, segments, s.compacted)
		if err != nil || len(changed) == 0 && asOf <= s.asOf {
			return err
		}
		if err := t.audit(ctx, &s, changed); err != nil {
			return err
		}
		err = t.insert(ctx, "segments ("+columns+")", len(changed), columnCount, ` ON CONFLICT (pod_uid, number) DO UPDATE SET
			through_at = excluded.through_at, end_at = excluded.end_at, estimated = excluded.estimated, closed = excluded.closed,
			audit_seq = excluded.audit_seq`, func(i int) []any { return changed[i].values() })
		if err != nil {
			return err
		}
		s.asOf = max(s.asOf, asOf)
		return t.setState(ctx, &s)
	})
}

// known are the rows of the pods that the segments are of.
func (t *tx) known(ctx context.Context, segments []Segment) (map[key]row, error) {
	pods := make([]any, 0, len(segments))
	seen := make(map[string]bool, len(segments))
	for i := range segments {
		if uid := segments[i].PodUID; !seen[uid] {
			seen[uid] = true
			pods = append(pods, uid)
		}
	}
	known := make(map[key]row, len(segments))
	for len(pods) > 0 {
		size := chunk(len(pods))
		err := t.each(ctx, func(rows *sql.Rows) error {
			var r row
			err := r.scan(rows)
			known[key{r.PodUID, r.Number}] = r
			return err
		}, "SELECT "+columns+" FROM segments WHERE pod_uid IN "+tuples(1, size), pods[:size]...)
		if err != nil {
			return nil, err
		}
		pods = pods[size:]
	}
	return known, nil
}

// changes are the rows to write for the segments, each once, in the order in which they came. What is charged to compacted or before and is
// not known was rolled up: it must not be counted again.
func changes(known map[key]row, segments []Segment, compacted int64) ([]row, error) {
	var order []key
	changed := make(map[key]bool)
	for i := range segments {
		given := &segments[i]
		k := key{given.PodUID, given.Number}
		old, ok := known[k]
		merged := *given
		if ok {
			var err error
			if merged, err = merge(&old.Segment, given); err != nil {
				return nil, err
			}
			if merged.Through == old.Through && merged.End == old.End && merged.Estimated == old.Estimated && merged.Closed == old.Closed {
				continue
			}
		} else if given.Through <= compacted {
			continue
		}
		known[k] = row{Segment: merged, auditSeq: old.auditSeq}
		if !changed[k] {
			changed[k] = true
			order = append(order, k)
		}
	}
	rows := make([]row, len(order))
	for i, k := range order {
		rows[i] = known[k]
	}
	return rows, nil
}
