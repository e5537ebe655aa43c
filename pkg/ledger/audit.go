package ledger

import (
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
)

// ErrTampered is returned by Verify for rows that were changed, added or deleted by another than the ledger. What it wraps says which.
var ErrTampered = errors.New("the ledger was changed by someone else")

// link is a place in the audit chain.
type link struct {
	seq  int64
	hash []byte
}

// Audit is what Verify found: how many times a segment was closed, and the last link of the chain. Whoever keeps Seq and Hash elsewhere
// can tell later that nothing up to there was changed, even by someone who computed the whole chain anew.
type Audit struct {
	Links, Seq int64
	Hash       []byte
}

// leaf is a hash of a closed segment.
func leaf(s *Segment) []byte {
	var b []byte
	text := func(texts ...string) {
		for _, s := range texts {
			b = append(binary.AppendUvarint(b, uint64(len(s))), s...)
		}
	}
	text(s.PodUID, s.Namespace, s.Pod, s.Node, s.Queue, s.User, s.Workload, s.Class, s.Product, s.Profile, s.Currency, s.Closed)
	for _, key := range slices.Sorted(maps.Keys(s.Labels)) {
		text(key, s.Labels[key])
	}
	b = fmt.Appendf(b, "|%d %d %d %d %t %t %d %d %d %t", s.Number, s.MilliGPU, s.Rate, s.PriceMicros, s.Startup, s.Charged,
		s.Start, s.Through, s.End, s.Estimated)
	sum := sha256.Sum256(b)
	return sum[:]
}

// next is the link after l for a segment that was closed.
func (l link) next(k key, end int64, leaf []byte) link {
	h := sha256.New()
	h.Write(l.hash)
	h.Write(leaf)
	fmt.Fprintf(h, "|%d %d %d %s", l.seq+1, k.number, end, k.podUID)
	return link{seq: l.seq + 1, hash: h.Sum(nil)}
}

// audit adds the rows that are closed to the chain, and gives them their place in it.
func (t *tx) audit(ctx context.Context, s *state, changed []row) error {
	var args [][]any
	for i := range changed {
		r := &changed[i]
		if r.End == 0 {
			continue
		}
		hash := leaf(&r.Segment)
		s.head = s.head.next(key{r.PodUID, r.Number}, r.End, hash)
		r.auditSeq = s.head.seq
		args = append(args, []any{s.head.seq, r.PodUID, r.Number, r.End, hash, s.head.hash})
	}
	return t.insert(ctx, "audit (seq, pod_uid, number, end_at, leaf, hash)", len(args), 6, "", func(i int) []any { return args[i] })
}

// trim forgets the beginning of the chain, up to the first link of a segment whose row is there.
func (t *tx) trim(ctx context.Context, s *state) error {
	first := s.head.seq + 1
	err := t.each(ctx, func(rows *sql.Rows) error { return rows.Scan(&first) },
		"SELECT seq FROM audit WHERE end_at > ? ORDER BY seq LIMIT 1", s.compacted)
	if err != nil || first == s.anchor.seq+1 {
		return err
	}
	s.anchor.seq = first - 1
	if err := t.QueryRowContext(ctx, t.bind("SELECT hash FROM audit WHERE seq = ?"), s.anchor.seq).Scan(&s.anchor.hash); err != nil {
		return err
	}
	return t.exec(ctx, "DELETE FROM audit WHERE seq <= ?", s.anchor.seq)
}

// Verify computes the audit chain anew from the segments that are closed, and says at which row it breaks (ErrTampered). Open segments
// and roll-ups are not part of the chain.
func (db *SQL) Verify(ctx context.Context) (Audit, error) {
	var found Audit
	err := db.view(ctx, func(t *tx) error {
		s, err := t.state(ctx, false)
		if err != nil {
			return err
		}
		at := s.anchor
		err = t.each(ctx, func(rows *sql.Rows) error {
			var k key
			var l link
			var end int64
			var hash []byte
			var last sql.NullInt64 // link of the segment, as its row says
			if err := rows.Scan(&l.seq, &k.podUID, &k.number, &end, &hash, &l.hash, &last); err != nil {
				return err
			}
			at = at.next(k, end, hash)
			switch {
			case at.seq != l.seq || !bytes.Equal(at.hash, l.hash):
				return fmt.Errorf("%w: audit row %d, of pod %s, segment %d, does not follow the one before", ErrTampered, l.seq, k.podUID, k.number)
			case !last.Valid && end > s.compacted:
				return fmt.Errorf("%w: the row of pod %s, segment %d, is gone (audit row %d)", ErrTampered, k.podUID, k.number, l.seq)
			case last.Valid && last.Int64 < l.seq:
				return fmt.Errorf("%w: the row of pod %s, segment %d, is older than audit row %d", ErrTampered, k.podUID, k.number, l.seq)
			}
			found.Links++
			return nil
		}, `SELECT a.seq, a.pod_uid, a.number, a.end_at, a.leaf, a.hash, s.audit_seq
			FROM audit a LEFT JOIN segments s ON s.pod_uid = a.pod_uid AND s.number = a.number ORDER BY a.seq`)
		if err != nil {
			return err
		}
		if at.seq != s.head.seq || !bytes.Equal(at.hash, s.head.hash) {
			return fmt.Errorf("%w: the audit chain ends at row %d, and ended at %d", ErrTampered, at.seq, s.head.seq)
		}
		found.Seq, found.Hash = at.seq, at.hash
		return t.verifySegments(ctx)
	})
	return found, err
}

// verifySegments compares each closed segment with its row in the audit chain.
func (t *tx) verifySegments(ctx context.Context) error {
	return t.each(ctx, func(rows *sql.Rows) error {
		var r row
		var hash []byte
		if err := r.scan(rows, &hash); err != nil {
			return err
		}
		if !bytes.Equal(hash, leaf(&r.Segment)) {
			return fmt.Errorf("%w: the row of pod %s, segment %d, is not what was written (audit row %d)",
				ErrTampered, r.PodUID, r.Number, r.auditSeq)
		}
		return nil
	}, "SELECT "+columns+`, (SELECT a.leaf FROM audit a WHERE a.seq = segments.audit_seq AND a.pod_uid = segments.pod_uid
			AND a.number = segments.number) FROM segments WHERE end_at <> 0 ORDER BY pod_uid, number`)
}
