package ledger

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
)

func TestVerifyFindsWhatWasChanged(t *testing.T) {
	tests := map[string]struct {
		change, message string
	}{
		"an amount": {
			"UPDATE segments SET milli_gpu = milli_gpu - 1 WHERE pod_uid = 'pod-03'",
			"the row of pod pod-03, segment 0, is not what was written (audit row 4)",
		},
		"a queue": {
			"UPDATE segments SET queue = 'other' WHERE pod_uid = 'pod-04'",
			"the row of pod pod-04",
		},
		"a corrected end": {
			"UPDATE segments SET end_at = 150, through_at = 150 WHERE pod_uid = 'pod-00'",
			"the row of pod pod-00, segment 0, is not what was written (audit row 21)",
		},
		"the link of a row": {
			"UPDATE segments SET end_at = 150, through_at = 150, audit_seq = 1 WHERE pod_uid = 'pod-00'",
			"the row of pod pod-00, segment 0, is older than audit row 21",
		},
		"a row that is open again": {
			"UPDATE segments SET end_at = 0, closed = '', audit_seq = 0 WHERE pod_uid = 'pod-08'",
			"the row of pod pod-08, segment 0, is older than audit row 9",
		},
		"labels": {"UPDATE segments SET labels = '{}' WHERE pod_uid = 'pod-05'", "the row of pod pod-05"},
		"a row that is gone": {
			"DELETE FROM segments WHERE pod_uid = 'pod-06'",
			"the row of pod pod-06, segment 0, is gone (audit row 7)",
		},
		"a row of another pod": {
			"UPDATE segments SET pod_uid = 'pod-99' WHERE pod_uid = 'pod-06'",
			"the row of pod pod-06, segment 0, is gone",
		},
		"a link that is gone": {
			"DELETE FROM audit WHERE pod_uid = 'pod-07'",
			"audit row 9, of pod pod-08, segment 0, does not follow the one before",
		},
		"a link": {
			"UPDATE audit SET end_at = 1 WHERE pod_uid = 'pod-07'",
			"audit row 8, of pod pod-07, segment 0, does not follow",
		},
		"the last links": {"DELETE FROM audit WHERE seq > 5", "the audit chain ends at row 5, and ended at 22"},
		"a row that was added": {
			"UPDATE segments SET end_at = through_at, closed = 'finished' WHERE pod_uid = 'open'",
			"the row of pod open, segment 0, is not what was written",
		},
	}
	onBoth(t, func(t *testing.T, fresh func() string) {
		ctx := context.Background()
		db, epoch := led(t, fresh())
		var segments []Segment
		for i := range 20 {
			s := at(150, false, "finished")
			s.PodUID, s.Labels = fmt.Sprintf("pod-%02d", i), map[string]string{"a": "b"}
			segments = append(segments, s)
		}
		open := at(150, false, "")
		open.PodUID = "open"
		commit(t, db, epoch, 150, append(segments, open)...)
		// The first two turn out to have ended earlier: their links are two.
		for _, s := range segments[:2] {
			s.Through, s.End = 140, 140
			commit(t, db, epoch, 150, s)
		}
		found, err := db.Verify(ctx)
		if err != nil || found.Links != 22 || found.Seq != 22 || len(found.Hash) != 32 {
			t.Fatalf("untouched: %+v, %v", found, err)
		}
		for name, test := range tests {
			t.Run(name, func(t *testing.T) {
				for _, table := range []string{"segments", "audit"} {
					if _, err := db.write.Exec("CREATE TABLE kept_" + table + " AS SELECT * FROM " + table); err != nil {
						t.Fatal(err)
					}
				}
				if _, err := db.write.Exec(test.change); err != nil {
					t.Fatal(err)
				}
				_, err := db.Verify(ctx)
				if !errors.Is(err, ErrTampered) || !strings.Contains(err.Error(), test.message) {
					t.Errorf("got %v, want %q", err, test.message)
				}
				for _, table := range []string{"segments", "audit"} {
					if _, err := db.write.Exec("DELETE FROM " + table); err != nil {
						t.Fatal(err)
					}
					if _, err := db.write.Exec("INSERT INTO " + table + " SELECT * FROM kept_" + table); err != nil {
						t.Fatal(err)
					}
					if _, err := db.write.Exec("DROP TABLE kept_" + table); err != nil {
						t.Fatal(err)
					}
				}
				if _, err := db.Verify(ctx); err != nil {
					t.Errorf("as it was: %v", err)
				}
			})
		}
	})
}
