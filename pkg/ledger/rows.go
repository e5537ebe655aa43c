package ledger

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"strings"
)

// columns are those of a segment's row, as scan reads and values writes them.
const columns = `pod_uid, number, namespace, pod, node, queue, username, workload, labels, class, product, profile,
	milli_gpu, rate, price_micros, currency, startup, charged, start_at, through_at, end_at, estimated, closed, audit_seq`

const columnCount = 24

// row is a segment as it is stored.
type row struct {
	Segment
	auditSeq int64 // of the audit row that closed it; 0 while it is open
}

// scan reads a row of columns, and what was selected after them.
func (r *row) scan(rows *sql.Rows, after ...any) error {
	var labels string
	err := rows.Scan(append([]any{
		&r.PodUID, &r.Number, &r.Namespace, &r.Pod, &r.Node, &r.Queue, &r.User, &r.Workload, &labels, &r.Class, &r.Product,
		&r.Profile, &r.MilliGPU, &r.Rate, &r.PriceMicros, &r.Currency, &r.Startup, &r.Charged, &r.Start, &r.Through, &r.End, &r.Estimated,
		&r.Closed, &r.auditSeq,
	}, after...)...)
	if err != nil {
		return err
	}
	r.Labels, err = decodeLabels(labels)
	return err
}

func (r *row) values() []any {
	return []any{
		r.PodUID, r.Number, r.Namespace, r.Pod, r.Node, r.Queue, r.User, r.Workload, encodeLabels(r.Labels), r.Class, r.Product,
		r.Profile, r.MilliGPU, r.Rate, r.PriceMicros, r.Currency, r.Startup, r.Charged, r.Start, r.Through, r.End, r.Estimated,
		r.Closed, r.auditSeq,
	}
}

// encodeLabels writes labels as JSON, in the order of their keys, so that equal labels are equal texts.
func encodeLabels(labels map[string]string) string {
	if len(labels) == 0 {
		return "{}"
	}
	text, err := json.Marshal(labels)
	if err != nil {
		panic(err) // Strings always are JSON.
	}
	return string(text)
}

func decodeLabels(text string) (labels map[string]string, err error) {
	if text == "{}" {
		return nil, nil
	}
	if err := json.Unmarshal([]byte(text), &labels); err != nil {
		return nil, fmt.Errorf("labels %q: %w", text, err)
	}
	return labels, nil
}

// tx is a transaction that takes queries with ? for parameters.
type tx struct {
	*sql.Tx
	dialect
}

func (t *tx) exec(ctx context.Context, query string, args ...any) error {
	_, err := t.ExecContext(ctx, t.bind(query), args...)
	return err
}

// each calls f for each row of a query.
func (t *tx) each(ctx context.Context, f func(*sql.Rows) error, query string, args ...any) error {
	rows, err := t.QueryContext(ctx, t.bind(query), args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := f(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

// insert writes n rows with as few statements as there are powers of two in n. values are those of row i.
func (t *tx) insert(ctx context.Context, into string, n, width int, suffix string, values func(i int) []any) error {
	for i := 0; i < n; {
		size := chunk(n - i)
		args := make([]any, 0, size*width)
		for end := i + size; i < end; i++ {
			args = append(args, values(i)...)
		}
		if err := t.exec(ctx, "INSERT INTO "+into+" VALUES "+tuples(size, width)+suffix, args...); err != nil {
			return err
		}
	}
	return nil
}

// update runs f in a transaction that nobody else writes beside, and commits what it did.
func (db *SQL) update(ctx context.Context, f func(*tx) error) error {
	return db.transact(ctx, db.write, nil, f)
}

// view runs f in a transaction that sees one state of the ledger.
func (db *SQL) view(ctx context.Context, f func(*tx) error) error {
	return db.transact(ctx, db.read, &sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true}, f)
}

func (db *SQL) transact(ctx context.Context, pool *sql.DB, options *sql.TxOptions, f func(*tx) error) error {
	begun, err := pool.BeginTx(ctx, options)
	if err != nil {
		return fmt.Errorf("ledger %s: %w", db.name, err)
	}
	defer begun.Rollback() //nolint:errcheck // After Commit it does nothing, and before it there is an error to tell already.
	if err := f(&tx{Tx: begun, dialect: db.dialect}); err != nil {
		return fmt.Errorf("ledger %s: %w", db.name, err)
	}
	if err := begun.Commit(); err != nil {
		return fmt.Errorf("ledger %s: %w", db.name, err)
	}
	return nil
}

// state is the row that a writer locks first.
type state struct {
	epoch, asOf int64
	holder      string
	// compacted is the end of the last segment whose row was rolled up.
	compacted int64
	// The audit chain begins after anchor, and head is its last row.
	anchor, head link
}

// state reads the state. In a writer's transaction nobody else gets past this until the transaction ends.
func (t *tx) state(ctx context.Context, lock bool) (s state, err error) {
	query := "SELECT epoch, holder, as_of, compacted, anchor_seq, anchor_hash, audit_seq, audit_hash FROM state"
	if lock {
		query += t.forUpdate
	}
	err = t.QueryRowContext(ctx, query).Scan(
		&s.epoch, &s.holder, &s.asOf, &s.compacted, &s.anchor.seq, &s.anchor.hash, &s.head.seq, &s.head.hash)
	return s, err
}

func (t *tx) setState(ctx context.Context, s *state) error {
	return t.exec(ctx, `UPDATE state SET epoch = ?, holder = ?, as_of = ?, compacted = ?,
		anchor_seq = ?, anchor_hash = ?, audit_seq = ?, audit_hash = ?`,
		s.epoch, s.holder, s.asOf, s.compacted, s.anchor.seq, s.anchor.hash, s.head.seq, s.head.hash)
}

// fenced reads and locks the state for a leader, or fails if another has followed.
func (t *tx) fenced(ctx context.Context, epoch int64) (state, error) {
	s, err := t.state(ctx, true)
	if err == nil && s.epoch != epoch {
		err = fmt.Errorf("%w: %q began epoch %d, this is %d", ErrFenced, s.holder, s.epoch, epoch)
	}
	return s, err
}

// where is the condition for rows of segments that a query selects, but for labels.
func (q *Query) where() (condition string, args []any) {
	condition = "start_at < ? AND through_at > ?"
	args = []any{q.to(), q.From}
	if q.From > 0 {
		// What is charged to after From is open or ended after it; this has an index.
		condition += " AND (end_at = 0 OR end_at > ?)"
		args = append(args, q.From)
	}
	if q.OpenOnly {
		condition += " AND end_at = 0"
	}
	if q.PodUID != "" {
		condition += " AND pod_uid = ?"
		args = append(args, q.PodUID)
	}
	return q.among(condition, args)
}

// rollupsWhere is where for rows of rollups. An hour may begin before From.
func (q *Query) rollupsWhere() (condition string, args []any) {
	return q.among("start_at < ? AND (start_at >= ? OR unit = ? AND start_at > ?)", []any{q.to(), q.From, unitHour, q.From - hourSeconds})
}

// among adds the queues and namespaces.
func (q *Query) among(condition string, args []any) (string, []any) {
	add := func(column string, names []string) {
		if len(names) == 0 {
			return
		}
		condition += " AND " + column + " IN (?" + strings.Repeat(",?", len(names)-1) + ")"
		for _, name := range names {
			args = append(args, name)
		}
	}
	add("queue", q.Queues)
	add("namespace", q.Namespaces)
	return condition, args
}

// empty reports whether there is no time between From and To, as at the beginning of a period that the watermark has yet to reach.
func (q *Query) empty() bool { return q.to() <= q.From }

func (q *Query) to() int64 {
	if q.To == 0 {
		return maxTime + 1
	}
	return q.To
}

// cut cuts a segment to the query's time, and reports whether its labels are selected.
func (q *Query) cut(s *Segment) bool {
	s.Start, s.Through = max(s.Start, q.From), min(s.Through, q.to())
	return q.selects(s.Labels)
}

func (q *Query) selects(labels map[string]string) bool {
	if q.Label == "" {
		return true
	}
	value, ok := labels[q.Label]
	return ok && (q.LabelIs == "" || value == q.LabelIs)
}
