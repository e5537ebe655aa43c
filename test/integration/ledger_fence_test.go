package integration

import (
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"weft.sh/weft/pkg/ledger"
	"weft.sh/weft/pkg/ledger/ledgertest"
)

// ended waits until the process ended by itself, and checks that it says why.
func (c *controller) ended(t *testing.T, why ...string) {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- c.cmd.Wait() }()
	select {
	case err := <-done:
		if err == nil {
			t.Error("it ended without an error")
		}
	case <-time.After(time.Minute):
		t.Fatal("it goes on")
	}
	log := tail(c.log, 4<<10)
	for _, w := range why {
		if strings.Contains(log, w) {
			return
		}
	}
	t.Errorf("its log says none of %q:\n%s", why, log)
}

// segmentsOf are the rows of a ledger, by pod.
func segmentsOf(t *testing.T, store ledger.Store) map[string][]ledger.Segment {
	t.Helper()
	out := map[string][]ledger.Segment{}
	for s, err := range store.Segments(t.Context(), ledger.Query{}) {
		if err != nil {
			t.Fatal(err)
		}
		out[s.Pod] = append(out[s.Pod], s)
	}
	return out
}

// advances waits until the ledger's watermark is past the moment.
func advances(t *testing.T, store ledger.Store, past int64) (asOf int64) {
	t.Helper()
	eventually(t, time.Minute, func() string {
		var err error
		if asOf, err = store.AsOf(t.Context()); err != nil {
			t.Fatal(err)
		}
		if asOf <= past {
			return fmt.Sprintf("the watermark is %d, want more than %d", asOf, past)
		}
		return ""
	})
	return asOf
}

// TestLedgerIsFenced: of two controllers with one ledger one writes. When it stops the other takes over, and when it goes on it ends with an error; each
// second is charged once.
func TestLedgerIsFenced(t *testing.T) {
	for name, dsn := range map[string]func(t *testing.T) string{
		"SQLite":     func(t *testing.T) string { return filepath.Join(t.TempDir(), "ledger.db") },
		"PostgreSQL": func(t *testing.T) string { return ledgertest.Postgres(t).Database() },
	} {
		for _, elect := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, leader election %t", name, elect), func(t *testing.T) {
				c := startCluster(t, "h100=1")
				where := dsn(t)
				args := []string{"--ledger=" + where, "--ledger-tick=1s", fmt.Sprintf("--leader-elect=%t", elect)}
				store, err := ledger.Open(t.Context(), where)
				if err != nil {
					t.Fatal(err)
				}
				defer store.Close()
				c.startScheduler()
				c.create(charged("runs", "team", ""))
				c.bound("runs")

				first := startController(t, c.cp, args...)
				advances(t, store, advances(t, store, 0))
				if err := first.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
					t.Fatal(err)
				}
				second := startController(t, c.cp, args...) // takes the lease when it expires, 15 s later
				c.create(charged("later", "team", ""))
				c.bound("later")
				asOf := advances(t, store, time.Now().Unix())
				if err := first.cmd.Process.Signal(syscall.SIGCONT); err != nil {
					t.Fatal(err)
				}
				if elect {
					first.ended(t, "another leader writes the ledger", "lost the Lease weft-system/weft-controller")
				} else {
					first.ended(t, "another leader writes the ledger")
				}
				c.delete("runs")
				advances(t, store, time.Now().Unix()+3)
				second.end(syscall.SIGTERM)

				rows := segmentsOf(t, store)
				for _, pod := range []string{"runs", "later"} {
					var until int64
					for i, s := range rows[pod] {
						if i > 0 && s.Start != until {
							t.Errorf("%s is charged from %d, and was to %d before", pod, s.Start, until)
						}
						until = s.Through
					}
					if until < asOf {
						t.Errorf("%s is charged to %d: %+v", pod, until, rows[pod])
					}
				}
				if last := rows["runs"][len(rows["runs"])-1]; last.End == 0 || last.Estimated {
					t.Errorf("the pod that was deleted: %+v", last)
				}
				if _, err := store.Verify(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
	}
}
