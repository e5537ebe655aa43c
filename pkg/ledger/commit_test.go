package ledger

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// at is a segment of one GPU that is charged to a time, and ended there where closed says how.
func at(through int64, estimated bool, closed string) Segment {
	s := Segment{PodUID: "u1", Queue: "q", MilliGPU: 1000, Rate: 1500, Charged: true, Start: 100, Through: through}
	if s.Closed = closed; closed != "" {
		s.End, s.Estimated = through, estimated
	}
	return s
}

// A test's states come in every order, each also twice: the end is the same.
func TestLaterStatesOfASegmentCount(t *testing.T) {
	tests := map[string]struct {
		states []Segment
		want   Segment
	}{
		"an open segment is charged to the latest time": {
			[]Segment{at(100, false, ""), at(115, false, ""), at(130, false, "")},
			at(130, false, ""),
		},
		"a closed segment does not open again": {
			[]Segment{at(120, false, "finished"), at(115, false, "")},
			at(120, false, "finished"),
		},
		"an observed end takes back what was charged after it": {
			[]Segment{at(130, false, ""), at(120, false, "finished")},
			at(120, false, "finished"),
		},
		"an observed end replaces an estimated one, whichever is earlier": {
			[]Segment{at(120, true, "gone"), at(130, false, "finished"), at(110, false, "")},
			at(130, false, "finished"),
		},
		"of two observed ends the earlier counts": {
			[]Segment{at(140, false, "next"), at(130, false, "finished")},
			at(130, false, "finished"),
		},
		"of two estimated ends the earlier counts": {
			[]Segment{at(140, true, "gone"), at(130, true, "gone")},
			at(130, true, "gone"),
		},
		"of equal ends of different evidence one counts in any order": {
			[]Segment{at(140, false, "next"), at(140, false, "finished")},
			at(140, false, "finished"),
		},
	}
	onBoth(t, func(t *testing.T, fresh func() string) {
		db, epoch := led(t, fresh())
		pod := 0
		for name, test := range tests {
			t.Run(name, func(t *testing.T) {
				permute(test.states, func(order []Segment) {
					pod++
					uid := fmt.Sprintf("pod-%d", pod)
					var together []Segment
					for _, s := range order {
						s.PodUID = uid
						commit(t, db, epoch, 0, s)
						commit(t, db, epoch, 0, s)
						s.PodUID += "-together"
						together = append(together, s, s)
					}
					commit(t, db, epoch, 0, together...)
					want := test.want
					for _, want.PodUID = range []string{uid, uid + "-together"} {
						if diff := cmp.Diff([]Segment{want}, all(t, db, Query{PodUID: want.PodUID})); diff != "" {
							t.Errorf("after %+v (-want +got):\n%s", order, diff)
						}
					}
				})
			})
		}
		if _, err := db.Verify(context.Background()); err != nil {
			t.Error(err)
		}
	})
}

// permute calls f with every order of the segments.
func permute(segments []Segment, f func([]Segment)) {
	var place func(n int)
	place = func(n int) {
		if n == len(segments) {
			f(append([]Segment(nil), segments...))
			return
		}
		for i := n; i < len(segments); i++ {
			segments[n], segments[i] = segments[i], segments[n]
			place(n + 1)
			segments[n], segments[i] = segments[i], segments[n]
		}
	}
	place(0)
}

func TestCommitRefuses(t *testing.T) {
	changed := func(f func(*Segment)) Segment {
		s := at(130, false, "")
		s.Labels = map[string]string{"a": "b"}
		f(&s)
		return s
	}
	tests := map[string]struct {
		given   Segment
		kind    error
		message string
	}{
		"another queue":     {changed(func(s *Segment) { s.Queue = "r" }), ErrConflict, `queue is "q" on the books, "r" was given`},
		"another start":     {changed(func(s *Segment) { s.Start = 101 }), ErrConflict, "start is 100 on the books, 101 was given"},
		"another namespace": {changed(func(s *Segment) { s.Namespace = "n" }), ErrConflict, `namespace is "" on the books, "n" was given`},
		"another rate":      {changed(func(s *Segment) { s.Rate = 1 }), ErrConflict, "rate is 1500 on the books, 1 was given"},
		"another price":     {changed(func(s *Segment) { s.PriceMicros = 1 }), ErrConflict, "price is 0 on the books, 1 was given"},
		"other labels":      {changed(func(s *Segment) { s.Labels = nil }), ErrConflict, "labels are map[a:b] on the books, map[] were given"},
		"another startup":   {changed(func(s *Segment) { s.Startup = true }), ErrConflict, "startup is false on the books"},
		"another charging":  {changed(func(s *Segment) { s.Charged = false }), ErrConflict, "charged is true on the books"},
		"no pod":            {changed(func(s *Segment) { s.PodUID = "" }), ErrInvalid, "it has no pod UID"},
		"a negative number": {changed(func(s *Segment) { s.Number = -1 }), ErrInvalid, "its number is negative"},
		"negative GPUs":     {changed(func(s *Segment) { s.MilliGPU = -1 }), ErrInvalid, "have to be 0 or more"},
		"no start":          {changed(func(s *Segment) { s.Start = 0 }), ErrInvalid, "want 0 < begin"},
		"time that goes back": {
			changed(func(s *Segment) { s.Through = 99 }), ErrInvalid, "it begins at 100 and is charged to 99",
		},
		"nanoseconds": {
			changed(func(s *Segment) { s.Through = 1_767_225_600_000_000_000 }), ErrInvalid, "charged to 1767225600000000000: want",
		},
		"an end that is not charged to": {
			changed(func(s *Segment) { s.End = 120 }), ErrInvalid, "it ended at 120 and is charged to 130",
		},
		"an estimate of no end": {changed(func(s *Segment) { s.Estimated = true }), ErrInvalid, "it is open"},
		"a product that no 64 bits hold": {
			changed(func(s *Segment) { s.Rate = math.MaxInt64 / 29 }), ErrInvalid, "do not fit 64 bits",
		},
		"a NUL": {changed(func(s *Segment) { s.Pod = "a\x00" }), ErrInvalid, `"a\x00" is not UTF-8, or has a NUL`},
		"what is not UTF-8": {
			changed(func(s *Segment) { s.Labels = map[string]string{"k": "\xff"} }), ErrInvalid, `label "k": "\xff"`,
		},
	}
	onBoth(t, func(t *testing.T, fresh func() string) {
		ctx := context.Background()
		db, epoch := led(t, fresh())
		known := at(115, false, "")
		known.Labels = map[string]string{"a": "b"}
		commit(t, db, epoch, 115, known)
		for name, test := range tests {
			t.Run(name, func(t *testing.T) {
				other := at(130, false, "")
				other.PodUID = "other"
				err := db.Commit(ctx, epoch, 130, []Segment{other, test.given})
				var bad *SegmentError
				if !errors.Is(err, test.kind) || !errors.As(err, &bad) || !strings.Contains(bad.Problem, test.message) {
					t.Fatalf("got %v, want %v with %q", err, test.kind, test.message)
				}
				if bad.PodUID != test.given.PodUID || bad.Number != test.given.Number {
					t.Errorf("it names pod %q, segment %d", bad.PodUID, bad.Number)
				}
			})
		}
		if diff := cmp.Diff([]Segment{known}, all(t, db, Query{})); diff != "" {
			t.Errorf("a commit that failed left something (-want +got):\n%s", diff)
		}
		if asOf, err := db.AsOf(ctx); asOf != 115 || err != nil {
			t.Errorf("the watermark is %d: %v", asOf, err)
		}
	})
}

func TestOnlyTheLastLeaderWrites(t *testing.T) {
	onBoth(t, func(t *testing.T, fresh func() string) {
		ctx := context.Background()
		db := opened(t, fresh())
		if err := db.Commit(ctx, 1, 10, nil); !errors.Is(err, ErrFenced) {
			t.Errorf("an epoch that never began wrote: %v", err)
		}
		first, err := db.Lead(ctx, "a", 41)
		if err != nil || first != 42 {
			t.Fatalf("epoch %d: %v", first, err)
		}
		commit(t, db, first, 100, at(100, false, ""))
		second, err := db.Lead(ctx, "b", 7)
		if err != nil || second != 43 {
			t.Fatalf("epoch %d: %v", second, err)
		}
		err = db.Commit(ctx, first, 110, []Segment{at(110, false, "")})
		if !errors.Is(err, ErrFenced) || !strings.Contains(err.Error(), `"b" began epoch 43, this is 42`) {
			t.Errorf("the first leader: %v", err)
		}
		if _, err := db.Compact(ctx, first, 0); !errors.Is(err, ErrFenced) {
			t.Errorf("the first leader compacted: %v", err)
		}
		commit(t, db, second, 50, at(105, false, ""))
		if asOf, err := db.AsOf(ctx); asOf != 100 || err != nil {
			t.Errorf("the watermark went to %d: %v", asOf, err)
		}
		if _, err := db.Lead(ctx, "c", math.MaxInt64); err == nil {
			t.Error("an epoch after the last")
		}
		if err := db.Commit(ctx, second, -1, nil); err == nil {
			t.Error("a watermark before time began")
		}
	})
}

// Leaders follow each other while all of them write and others read. Whoever was followed writes nothing more, and a reader sees whole
// transactions only.
func TestLeadersAndReadersAtOnce(t *testing.T) {
	onBoth(t, func(t *testing.T, fresh func() string) {
		ctx := context.Background()
		dsn := fresh()
		db := opened(t, dsn)
		var group sync.WaitGroup
		for n := range 4 {
			other := opened(t, dsn)
			group.Go(func() {
				for round := range 5 {
					epoch, err := other.Lead(ctx, fmt.Sprint(n), 0)
					if err != nil {
						t.Error(err)
						return
					}
					for i := int64(1); i <= 10; i++ {
						// Both segments of the pair, in one transaction.
						pair := []Segment{at(100+i, false, ""), at(100+i, false, "")}
						for j := range pair {
							pair[j].PodUID, pair[j].Number = fmt.Sprintf("pod-%d-%d", n, round), int32(j)
						}
						if err := other.Commit(ctx, epoch, 100+epoch, pair); errors.Is(err, ErrFenced) {
							break
						} else if err != nil {
							t.Error(err)
							return
						}
					}
				}
			})
			group.Go(func() {
				random := rand.New(rand.NewPCG(uint64(n), 0))
				for range 20 {
					through := make(map[string]int64)
					for _, s := range all(t, db, Query{}) {
						if s.Number == 0 {
							through[s.PodUID] = s.Through
						} else if through[s.PodUID] != s.Through {
							t.Errorf("half of a transaction: %s", s.PodUID)
						}
					}
					if random.IntN(4) == 0 {
						if _, err := db.Charged(ctx, 0, 0); err != nil {
							t.Error(err)
						}
					}
				}
			})
		}
		group.Wait()
		epoch, err := db.Lead(ctx, "last", 0)
		if err != nil || epoch != 21 {
			t.Errorf("epoch %d, want 21: %v", epoch, err)
		}
	})
}
