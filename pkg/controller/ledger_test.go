package controller

import (
	"context"
	"database/sql"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"weft.sh/weft/pkg/accounts"
	"weft.sh/weft/pkg/ledger"
	"weft.sh/weft/pkg/queues"
)

// TestTermsOf: a pod that holds GPUs of several classes is charged for each by its weight, and costs what each costs.
func TestTermsOf(t *testing.T) {
	dear := queues.Class{Name: "h100", WeightMilli: 2000, PriceMicros: 3_000_000, Currency: "EUR"}
	cheap := queues.Class{Name: "mig", WeightMilli: 500, PriceMicros: 1_000_000, Currency: "EUR"}
	abroad := queues.Class{Name: "cloud", WeightMilli: 1000, PriceMicros: 5_000_000, Currency: "USD"}
	for name, c := range map[string]struct {
		parts []queues.Holds
		want  accounts.Terms
	}{
		"one class": {
			[]queues.Holds{{Class: dear, Product: "H100", MilliGPU: 2000}},
			accounts.Terms{Class: "h100", Product: "H100", MilliGPU: 2000, Rate: 4000, PriceMicros: 3_000_000, Currency: "EUR"},
		},
		"a price that does not divide": {
			[]queues.Holds{{Class: queues.Class{PriceMicros: 1_000_001, WeightMilli: 1000}, MilliGPU: 333}},
			accounts.Terms{MilliGPU: 333, Rate: 333, PriceMicros: 1_000_001},
		},
		"two classes": {
			[]queues.Holds{{Class: dear, Product: "H100", MilliGPU: 1500}, {Class: cheap, Product: "H100", Profile: "1g.10gb", MilliGPU: 500}},
			accounts.Terms{Class: "h100", Product: "H100", MilliGPU: 2000, Rate: 3250, PriceMicros: 2_500_000, Currency: "EUR"},
		},
		"two currencies are not added": {
			[]queues.Holds{{Class: dear, MilliGPU: 1000}, {Class: abroad, MilliGPU: 1000}},
			accounts.Terms{Class: "h100", MilliGPU: 2000, Rate: 3000, PriceMicros: 1_500_000, Currency: "EUR"},
		},
		"a price that is as high as there are": {
			[]queues.Holds{{Class: queues.Class{PriceMicros: 999_999_000_000, WeightMilli: 1000}, MilliGPU: 1 << 30}},
			accounts.Terms{MilliGPU: 1 << 30, Rate: 1 << 30, PriceMicros: 999_999_000_000},
		},
		"nothing": {[]queues.Holds{{Class: dear}}, accounts.Terms{Class: "h100", Currency: "EUR"}},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, termsOf(c.parts)); diff != "" {
				t.Errorf("terms (-want +got):\n%s", diff)
			}
		})
	}
}

func TestVerify(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ledger.db")
	verify := func() (string, error) {
		var out strings.Builder
		cmd := verifyCommand(path)
		cmd.SetArgs(nil)
		cmd.SetOut(&out)
		err := cmd.ExecuteContext(t.Context())
		return out.String(), err
	}
	if _, err := verify(); err == nil {
		t.Error("a ledger that does not exist is verified")
	}
	store, err := ledger.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	epoch, err := store.Lead(t.Context(), "test", 0)
	if err != nil {
		t.Fatal(err)
	}
	one := ledger.Segment{PodUID: "u", Pod: "p", MilliGPU: 1000, Start: 100, Through: 200, End: 200, Closed: "containers"}
	if err := store.Commit(t.Context(), epoch, 200, []ledger.Segment{one}); err != nil {
		t.Fatal(err)
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	if out, err := verify(); err != nil || !strings.HasPrefix(out, "verified 1 links, up to 1: ") {
		t.Errorf("%q, %v", out, err)
	}
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.ExecContext(t.Context(), "UPDATE segments SET end_at = 150, through_at = 150"); err != nil {
		t.Fatal(err)
	}
	if _, err := verify(); !errors.Is(err, ledger.ErrTampered) {
		t.Errorf("rows were changed: %v", err)
	}
}

// TestPassesAreNotQueued: commits never wait for the passes, and a pass looks at the last one.
func TestPassesAreNotQueued(t *testing.T) {
	b := &books{commits: make(chan [2]int64, 1)}
	for i := range int64(5) {
		b.committed(context.Background(), 1, i)
	}
	if got := <-b.commits; got != [2]int64{1, 4} || len(b.commits) != 0 {
		t.Errorf("the next pass is for %v", got)
	}
}

// TestHelpKeepsThePassword: the variable has the DSN, so that it stands nowhere else.
func TestHelpKeepsThePassword(t *testing.T) {
	t.Setenv(ledgerEnv, "postgres://weft:secret@db/weft")
	for _, cmd := range append(NewCommand().Commands(), NewCommand()) {
		if help := cmd.UsageString(); strings.Contains(help, "secret") {
			t.Errorf("%s --help shows it:\n%s", cmd.Name(), help)
		}
		if f := cmd.Flags().Lookup("ledger"); f != nil && f.Value.String() != "postgres://weft:secret@db/weft" {
			t.Errorf("%s takes the ledger %q", cmd.Name(), f.Value)
		}
	}
}
