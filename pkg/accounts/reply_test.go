package accounts

import (
	"context"
	"errors"
	"math/rand/v2"
	"path/filepath"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"weft.sh/weft/pkg/ledger"
)

var errReset = errors.New("connection reset by peer")

// losing commits, and then says once that it did not.
type losing struct {
	ledger.Store
	lose bool
}

func (l *losing) Commit(ctx context.Context, epoch, asOf int64, s []ledger.Segment) error {
	err := l.Store.Commit(ctx, epoch, asOf, s)
	if err == nil && l.lose {
		l.lose = false
		return errReset
	}
	return err
}

// TestAReplyThatIsLost: a commit that the ledger has, and the keeper believes to have failed, keeps no pod from being charged, whatever
// changes until the next.
func TestAReplyThatIsLost(t *testing.T) {
	// What the pod is charged by.
	type by struct {
		rate    int64
		class   string
		certain bool
	}
	for name, test := range map[string]struct {
		// ticks are those before the one whose reply is lost, the first of the pod included.
		ticks int
		first by
		// lost is for the tick whose reply is lost, then for all after it.
		lost, then by
		relabel    bool
	}{
		"nothing changes":                      {1, by{1000, "", true}, by{1000, "", true}, by{1000, "", true}, false},
		"the terms change with it":             {1, by{1000, "", true}, by{2000, "", true}, by{2000, "", true}, false},
		"the terms change after it":            {1, by{1000, "", true}, by{1000, "", true}, by{2000, "", true}, false},
		"a label changes after the first":      {0, by{}, by{1000, "", true}, by{1000, "", true}, true},
		"the node is known only after a first": {0, by{}, by{1000, "", false}, by{1000, "h100", true}, false},
	} {
		t.Run(name, func(t *testing.T) {
			db, err := ledger.Open(t.Context(), filepath.Join(t.TempDir(), "ledger.db"))
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			store := &losing{Store: db}
			w := &world{
				t: t, store: store, now: 1_000_000, pods: map[types.UID]*v1.Pod{}, lives: map[types.UID]life{},
				rng: rand.New(rand.NewPCG(7, 11)),
			}
			w.start()
			terms := test.first
			w.keeper.o.Terms = func(*v1.Pod) (Terms, bool, bool) {
				return Terms{Queue: "q", Class: terms.class, MilliGPU: 1000, Rate: terms.rate, ChargeStartup: true}, terms.certain, true
			}
			w.keeper.o.UserLabel = "user"
			const bound = 1_000_005
			w.lives["p"] = life{bound: bound, ran: bound + 1, ended: w.now + 100_000, gone: w.now + 100_000, milliGPU: 1000}
			pass := func() error {
				for range 15 {
					w.step()
				}
				return w.keeper.tick(t.Context())
			}
			for range test.ticks {
				if err := pass(); err != nil {
					t.Fatal(err)
				}
			}
			terms, store.lose = test.lost, true
			w.keeper.Review()
			if err := pass(); !errors.Is(err, errReset) {
				t.Fatalf("got %v, want %v", err, errReset)
			}
			terms = test.then
			w.keeper.Review()
			if test.relabel {
				p := w.pods["p"].DeepCopy()
				p.Labels = map[string]string{"user": "eve"}
				w.pods["p"] = p
				w.tell(p, Present)
			}
			for range 20 {
				if err := pass(); err != nil {
					t.Fatal(err)
				}
			}
			charged, err := db.Charged(t.Context(), 0, 0)
			if err != nil {
				t.Fatal(err)
			}
			asOf, err := db.AsOf(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if least := 1000 * (asOf - bound); charged["q"] < least || len(w.keeper.refused) > 0 {
				t.Errorf("%d s after it was bound the pod was charged %d, want %d or more; refused: %v", asOf-bound, charged["q"], least, w.keeper.refused)
			}
		})
	}
}

// TestRowsThatAreNotAsTheyWere: when the rows of a pod are not as the keeper knows them, it reads them once more before it gives up.
func TestRowsThatAreNotAsTheyWere(t *testing.T) {
	db, err := ledger.Open(t.Context(), filepath.Join(t.TempDir(), "ledger.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	w := &world{
		t: t, store: db, now: 1_000_000, pods: map[types.UID]*v1.Pod{}, lives: map[types.UID]life{}, rng: rand.New(rand.NewPCG(7, 11)),
	}
	w.start()
	rate := int64(1000)
	w.keeper.o.Terms = func(*v1.Pod) (Terms, bool, bool) {
		return Terms{Queue: "q", MilliGPU: 1000, Rate: rate, ChargeStartup: true}, true, true
	}
	w.lives["p"] = life{bound: 1_000_005, ran: 1_000_006, ended: w.now + 100_000, gone: w.now + 100_000, milliGPU: 1000}
	pass := func() {
		t.Helper()
		for range 15 {
			w.step()
		}
		if err := w.keeper.tick(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	pass()
	before := w.keeper.accounts["p"]
	rate = 2000
	w.keeper.Review()
	pass()
	if w.keeper.accounts["p"].Number == before.Number {
		t.Fatal("other terms made no new segment")
	}
	w.keeper.accounts["p"] = before // as if it had not heard
	rate = 3000
	w.keeper.Review()
	pass()
	if got := w.keeper.accounts["p"]; len(w.keeper.refused) > 0 || got.Rate != 3000 || got.Number < 2 {
		t.Errorf("got %s, refused: %v; want a third segment, at 3000", text(got), w.keeper.refused)
	}
}
