package ledger

import (
	"context"
	"database/sql"
	"fmt"
	"math"
	"math/bits"
	"slices"
	"strings"
)

// value gets what a dimension is for a segment.
type value func(*Segment) string

func (d Dimension) value() (value, error) {
	switch d {
	case "queue":
		return func(s *Segment) string { return s.Queue }, nil
	case "namespace":
		return func(s *Segment) string { return s.Namespace }, nil
	case "user":
		return func(s *Segment) string { return s.User }, nil
	case "workload":
		return func(s *Segment) string { return s.Workload }, nil
	case "class":
		return func(s *Segment) string { return s.Class }, nil
	case "product":
		return func(s *Segment) string { return s.Product }, nil
	case "profile":
		return func(s *Segment) string { return s.Profile }, nil
	case "currency":
		return func(s *Segment) string { return s.Currency }, nil
	}
	if label, ok := strings.CutPrefix(string(d), "label:"); ok && label != "" {
		return func(s *Segment) string { return s.Labels[label] }, nil
	}
	return nil, fmt.Errorf(
		"dimension %q: want queue, namespace, user, workload, class, product, profile, currency or label:<key>", string(d))
}

// report adds up.
type report struct {
	calendar calendar
	by       []value
	lines    map[string]*line
	key      []byte
}

type line struct {
	Total
	lastPod string
	cost    wide
}

// Totals implements Store.
func (db *SQL) Totals(ctx context.Context, q Query, by []Dimension, bucket, timeZone string) ([]Total, error) {
	r := report{lines: make(map[string]*line)}
	for _, d := range by {
		v, err := d.value()
		if err != nil {
			return nil, err
		}
		r.by = append(r.by, v)
	}
	var err error
	if r.calendar, err = newCalendar(bucket, timeZone); err != nil {
		return nil, err
	}
	if q.empty() {
		return nil, nil
	}
	err = db.view(ctx, func(t *tx) error {
		if err := r.segments(ctx, t, &q); err != nil {
			return err
		}
		if !q.IncludeRollups || q.OpenOnly || q.PodUID != "" {
			return nil
		}
		return r.rollups(ctx, t, &q)
	})
	if err != nil {
		return nil, err
	}
	return r.totals()
}

// usage is a part of the time of a segment, or a roll-up.
type usage struct {
	*Segment
	held, charged int64 // milli-GPU-seconds
}

func (r *report) segments(ctx context.Context, t *tx, q *Query) error {
	condition, args := q.where()
	var s Segment
	return t.each(ctx, func(rows *sql.Rows) error {
		var labels string
		err := rows.Scan(&s.PodUID, &s.Namespace, &s.Queue, &s.User, &s.Workload, &s.Class, &s.Product, &s.Profile, &s.MilliGPU, &s.Rate,
			&s.PriceMicros, &s.Currency, &s.Startup, &s.Charged, &s.Estimated, &labels, &s.Start, &s.Through)
		if err != nil {
			return err
		}
		if s.Labels, err = decodeLabels(labels); err != nil {
			return err
		}
		if !q.cut(&s) {
			return nil
		}
		for from, first := s.Start, true; first || from < s.Through; first = false {
			start, end := r.calendar(from)
			seconds := min(end, s.Through) - from
			if err := r.add(start, usage{&s, s.MilliGPU * seconds, s.Rate * seconds}); err != nil {
				return err
			}
			from = end
		}
		return nil
		// In the order of pods, so that those of a line can be counted.
	}, `SELECT pod_uid, namespace, queue, username, workload, class, product, profile, milli_gpu, rate, price_micros, currency, startup,
		charged, estimated, labels, start_at, through_at FROM segments WHERE `+condition+" ORDER BY pod_uid, number", args...)
}

func (r *report) rollups(ctx context.Context, t *tx, q *Query) error {
	condition, args := q.rollupsWhere()
	return t.each(ctx, func(rows *sql.Rows) error {
		var s Segment
		var labels string
		u := usage{Segment: &s}
		var unit string
		err := rows.Scan(&s.Namespace, &s.Queue, &s.User, &s.Workload, &s.Class, &s.Product, &s.Profile, &s.PriceMicros, &s.Currency, &s.Startup,
			&s.Charged, &s.Estimated, &labels, &unit, &s.Start, &u.held, &u.charged)
		if err != nil {
			return err
		}
		if s.Labels, err = decodeLabels(labels); err != nil || !q.selects(s.Labels) {
			return err
		}
		if unit != unitHour {
			start, _ := r.calendar(s.Start)
			return r.add(start, u)
		}
		for from, to := max(s.Start, q.From), min(s.Start+hourSeconds, q.to()); from < to; {
			start, end := r.calendar(from)
			end = min(end, to)
			if err := r.add(start, usage{&s, ofHour(u.held, from-s.Start, end-s.Start), ofHour(u.charged, from-s.Start, end-s.Start)}); err != nil {
				return err
			}
			from = end
		}
		return nil
	}, `SELECT namespace, queue, username, workload, class, product, profile, price_micros, currency, startup, charged, estimated, labels,
		unit, start_at, milli_gpu_seconds, rate_seconds FROM rollups WHERE `+condition, args...)
}

// ofHour is what of the total of an hour lies between two seconds of it; what is cut once adds up to the whole.
func ofHour(total, from, to int64) int64 {
	each, rest := total/hourSeconds, total%hourSeconds
	return each*(to-from) + rest*to/hourSeconds - rest*from/hourSeconds
}

// add adds a part to its line.
func (r *report) add(bucket int64, u usage) error {
	r.key = fmt.Appendf(r.key[:0], "%d\x00%s", bucket, u.Currency)
	for _, value := range r.by {
		r.key = append(append(r.key, 0), value(u.Segment)...)
	}
	l, ok := r.lines[string(r.key)]
	if !ok {
		l = &line{Total: Total{Bucket: bucket, Currency: u.Currency, Key: make([]string, len(r.by))}}
		for i, value := range r.by {
			l.Key[i] = value(u.Segment)
		}
		r.lines[string(r.key)] = l
	}
	l.Segments++
	if u.PodUID != "" && u.PodUID != l.lastPod {
		l.lastPod = u.PodUID
		l.Pods++
	}
	sums := []struct {
		counts bool
		to     *int64
		amount int64
	}{
		{true, &l.MilliGPUSeconds, u.held},
		{u.Charged, &l.ChargedMilliGPUSeconds, u.charged},
		{u.Startup, &l.StartupMilliGPUSeconds, u.held},
		{u.Estimated, &l.EstimatedMilliGPUSeconds, u.held},
	}
	for _, sum := range sums {
		if !sum.counts {
			continue
		}
		if *sum.to > math.MaxInt64-sum.amount {
			return fmt.Errorf("%w: %v", ErrOverflow, l.Key)
		}
		*sum.to += sum.amount
	}
	if u.Charged {
		l.cost.add(u.held, u.PriceMicros)
	}
	return nil
}

// totals are the lines, sorted.
func (r *report) totals() ([]Total, error) {
	totals := make([]Total, 0, len(r.lines))
	for _, l := range r.lines {
		// A price is of 1000 milli-GPU for 3600 seconds.
		var ok bool
		if l.CostMicros, ok = l.cost.divided(1000 * 3600); !ok {
			return nil, fmt.Errorf("%w: the cost of %v", ErrOverflow, l.Key)
		}
		totals = append(totals, l.Total)
	}
	slices.SortFunc(totals, func(a, b Total) int {
		if a.Bucket != b.Bucket {
			return int(min(max(a.Bucket-b.Bucket, -1), 1))
		}
		if c := slices.Compare(a.Key, b.Key); c != 0 {
			return c
		}
		return strings.Compare(a.Currency, b.Currency)
	})
	return totals, nil
}

// wide is a sum of products of milli-GPU-seconds, whose own sum is an int64, with prices: less than 1 << 126.
type wide struct{ hi, lo uint64 }

// add adds the product of two numbers that are not negative.
func (w *wide) add(a, b int64) {
	hi, lo := bits.Mul64(uint64(a), uint64(b))
	var carry uint64
	w.lo, carry = bits.Add64(w.lo, lo, 0)
	w.hi, _ = bits.Add64(w.hi, hi, carry)
}

// divided is the sum divided by an even number, rounded half up, and false where that is no int64.
func (w *wide) divided(by uint64) (int64, bool) {
	lo, carry := bits.Add64(w.lo, by/2, 0)
	hi := w.hi + carry
	if hi >= by {
		return 0, false
	}
	quotient, _ := bits.Div64(hi, lo, by)
	return int64(quotient), quotient <= math.MaxInt64
}
