package ledger

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"weft.sh/weft/pkg/ledger/ledgertest"
)

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	text := filepath.Join(dir, "text")
	if err := os.WriteFile(text, []byte(strings.Repeat("no database\n", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		dsn, message string
	}{
		"nothing":               {"", "want the path of a file"},
		"memory":                {":memory:", "want the path of a file"},
		"a directory":           {dir, "is a directory: want a file, such as " + filepath.Join(dir, "ledger.db")},
		"a missing directory":   {"sqlite://" + filepath.Join(dir, "no", "ledger.db"), "no such file or directory"},
		"what is no database":   {text, "file is not a database"},
		"a path below a file":   {filepath.Join(text, "ledger.db"), "not a directory"},
		"a relative SQLite DSN": {"sqlite://ledger.db", "want an absolute path"},
		"another database":      {"mysql://host/db", "a DSN begins with sqlite:// or postgres://, or is a path; found mysql://"},
		"a bad DSN":             {"postgres://host:port/db", "invalid port"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			db, err := Open(context.Background(), test.dsn)
			if err == nil {
				t.Fatal("it was opened", db.Close())
			}
			if !strings.Contains(err.Error(), test.message) {
				t.Errorf("got %q, want %q in it", err, test.message)
			}
		})
	}
	if os.Getuid() == 0 {
		t.Log("root may write everywhere: what cannot be written is not tried")
		return
	}
	if err := os.Chmod(dir, 0o500); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(context.Background(), filepath.Join(dir, "ledger.db")); !errors.Is(err, os.ErrPermission) {
		t.Errorf("a directory that may not be written: %v", err)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
}

func TestOpenPutsNoPasswordInMessages(t *testing.T) {
	_, err := Open(context.Background(), "postgres://someone:secret@127.0.0.1:1/db?connect_timeout=1")
	if err == nil || strings.Contains(err.Error(), "secret") || !strings.Contains(err.Error(), "127.0.0.1:1/db") {
		t.Errorf("got %v", err)
	}
}

func TestOpenBesideOthers(t *testing.T) {
	onBoth(t, func(t *testing.T, fresh func() string) {
		ctx := context.Background()
		dsn := fresh()
		if db, err := OpenReadOnly(ctx, dsn); err == nil {
			t.Error("there was no ledger to read", db.Close())
		}
		var group sync.WaitGroup
		for range 8 {
			group.Go(func() {
				db, err := Open(ctx, dsn)
				if err != nil {
					t.Error(err)
					return
				}
				if err := db.Close(); err != nil {
					t.Error(err)
				}
			})
		}
		group.Wait()
		db, epoch := led(t, dsn)
		reader, err := OpenReadOnly(ctx, dsn)
		if err != nil {
			t.Fatal(err)
		}
		defer reader.Close() //nolint:errcheck // Only read.
		commit(t, db, epoch, 100, at(100, false, ""))
		if n := len(all(t, reader, Query{})); n != 1 {
			t.Errorf("the reader sees %d segments, want 1", n)
		}
		if _, err := reader.Lead(ctx, "reader", 0); err == nil {
			t.Error("a reader leads")
		}
		if _, err := db.write.ExecContext(ctx, db.bind("INSERT INTO weft_ledger_version (version_id, is_applied) VALUES (?, ?)"), 99, true); err != nil {
			t.Fatal(err)
		}
		for _, open := range []func(context.Context, string) (*SQL, error){Open, OpenReadOnly} {
			newer, err := open(ctx, dsn)
			if err == nil {
				t.Fatal("a newer ledger was opened", newer.Close())
			}
			if !errors.Is(err, ErrNewer) || !strings.Contains(err.Error(), "it has version 99 of the tables, this program knows 1") {
				t.Errorf("got %v", err)
			}
		}
	})
}

// SQLite is durable only in this mode; see Open.
func TestSQLiteWritesThrough(t *testing.T) {
	db := opened(t, filepath.Join(t.TempDir(), "a ledger?mode=memory&x=%41.db"))
	var mode string
	var synchronous int
	if err := db.write.QueryRow("PRAGMA journal_mode").Scan(&mode); err != nil {
		t.Fatal(err)
	}
	if err := db.write.QueryRow("PRAGMA synchronous").Scan(&synchronous); err != nil {
		t.Fatal(err)
	}
	if mode != "wal" || synchronous != 2 {
		t.Errorf("journal_mode is %s and synchronous %d, want wal and 2", mode, synchronous)
	}
	if _, err := os.Stat(db.name); err != nil {
		t.Error(err)
	}
}

func TestPostgreSQLMayGoAwayAndComeBack(t *testing.T) {
	ctx := context.Background()
	server := ledgertest.Postgres(t)
	db, epoch := led(t, server.Database())
	commit(t, db, epoch, 100, at(100, false, ""))
	server.Stop()
	if err := db.Commit(ctx, epoch, 115, []Segment{at(115, false, "")}); err == nil || errors.Is(err, ErrFenced) || errors.Is(err, ErrConflict) {
		t.Errorf("without a server: %v", err)
	}
	server.Start()
	// Connections of before are found broken one by one.
	for try := 0; ; try++ {
		err := db.Commit(ctx, epoch, 115, []Segment{at(115, false, "")})
		if err == nil {
			break
		}
		if try == 20 {
			t.Fatal(err)
		}
	}
	if asOf, err := db.AsOf(ctx); asOf != 115 || err != nil {
		t.Errorf("the watermark is %d: %v", asOf, err)
	}
}
