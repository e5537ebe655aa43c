package ledger

import (
	"context"
	"path/filepath"
	"testing"

	"weft.sh/weft/pkg/ledger/ledgertest"
)

// onBoth runs a test on SQLite and on PostgreSQL. fresh gives it the DSN of a ledger that is not there yet.
func onBoth(t *testing.T, test func(t *testing.T, fresh func() string)) {
	t.Run("SQLite", func(t *testing.T) {
		test(t, func() string { return "sqlite://" + filepath.Join(t.TempDir(), "ledger.db") })
	})
	t.Run("PostgreSQL", func(t *testing.T) {
		test(t, ledgertest.Postgres(t).Database)
	})
}

// opened is a ledger that the end of the test closes.
func opened(t testing.TB, dsn string) *SQL {
	t.Helper()
	db, err := Open(context.Background(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

// led is a new ledger and its first epoch.
func led(t testing.TB, dsn string) (*SQL, int64) {
	t.Helper()
	db := opened(t, dsn)
	epoch, err := db.Lead(context.Background(), "test", 0)
	if err != nil {
		t.Fatal(err)
	}
	return db, epoch
}

// all are the segments that a query selects.
func all(t testing.TB, db *SQL, q Query) []Segment {
	t.Helper()
	var segments []Segment
	for s, err := range db.Segments(context.Background(), q) {
		if err != nil {
			t.Fatal(err)
		}
		segments = append(segments, s)
	}
	return segments
}

// commit commits, and fails the test if that fails.
func commit(t testing.TB, db *SQL, epoch, asOf int64, segments ...Segment) {
	t.Helper()
	if err := db.Commit(context.Background(), epoch, asOf, segments); err != nil {
		t.Fatal(err)
	}
}
