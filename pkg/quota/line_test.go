package quota

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestBehind(t *testing.T) {
	const minute = int64(60)
	wants := func(id, queue string, gpus, runtime int64, change ...func(*Claim)) Job {
		c := Claim{ID: id, Queue: queue, MilliGPU: 1000 * gpus, Runtime: runtime, Queued: turnsNow - minute}
		for _, f := range change {
			f(&c)
		}
		return Job{c}
	}
	since := func(ago int64) func(*Claim) { return func(c *Claim) { c.Queued = turnsNow - ago } }
	ahead := func(c *Claim) { c.Priority = 1 }
	large := wants("a-large", "a", 4, 0)
	for name, tc := range map[string]struct {
		runs    []Claim
		waiting []Job
		want    []bool
	}{
		"who ends before there is room goes ahead": {
			[]Claim{{ID: "x", Queue: "a", MilliGPU: 3000, Runtime: 30 * minute}},
			[]Job{large, wants("b", "a", 1, 30*minute), wants("c", "a", 1, 31*minute), wants("d", "a", 1, 0)},
			[]bool{false, false, true, true},
		},
		"who is first goes first": {
			[]Claim{{ID: "x", Queue: "a", MilliGPU: 3000, Runtime: 30 * minute}},
			[]Job{large, wants("b", "a", 1, 0, ahead), wants("c", "a", 1, 0, since(5*minute))},
			[]bool{false, false, false},
		},
		"a queue has its own line": {
			[]Claim{{ID: "x", Queue: "a", MilliGPU: 3000, Runtime: 30 * minute}},
			[]Job{large, wants("b", "b", 1, 0)},
			[]bool{false, false},
		},
		"the limit above counts, and what runs below it": {
			[]Claim{{ID: "x", Queue: "b", MilliGPU: 5000, Runtime: 30 * minute}},
			[]Job{large, wants("b", "a", 1, 20*minute), wants("c", "a", 1, 40*minute)},
			[]bool{false, false, true},
		},
		"where nobody knows when, those behind go ahead": {
			[]Claim{{ID: "x", Queue: "a", MilliGPU: 3000}},
			[]Job{large, wants("b", "a", 1, 0)},
			[]bool{false, false},
		},
		"but not for ever": {
			[]Claim{{ID: "x", Queue: "a", MilliGPU: 3000}},
			[]Job{wants("a-large", "a", 4, 0, since(15*minute)), wants("b", "a", 1, minute)},
			[]bool{false, true},
		},
		"nor are they held back for ever": {
			[]Claim{{ID: "x", Queue: "a", MilliGPU: 3000}},
			[]Job{wants("a-large", "a", 4, 0, since(25*minute)), wants("b", "a", 1, minute)},
			[]bool{false, false},
		},
		"who runs longer than it said may end at any moment": {
			[]Claim{{ID: "x", Queue: "a", MilliGPU: 3000, Start: turnsNow - 15*minute, Runtime: 10 * minute}},
			[]Job{large, wants("b", "a", 1, minute)},
			[]bool{false, true},
		},
		"and who runs twice as long may never": {
			[]Claim{{ID: "x", Queue: "a", MilliGPU: 3000, Start: turnsNow - 25*minute, Runtime: 10 * minute}},
			[]Job{large, wants("b", "a", 1, minute)},
			[]bool{false, false},
		},
		"nothing is kept for who never fits": {
			[]Claim{{ID: "x", Queue: "a", MilliGPU: 3000, Runtime: 30 * minute}},
			[]Job{wants("a-huge", "a", 5, 0), wants("b", "a", 1, 0)},
			[]bool{false, false},
		},
		"nor for who has no hours": {
			[]Claim{{ID: "x", Queue: "poor", MilliGPU: 3000, Runtime: 30 * minute}},
			[]Job{wants("a-large", "poor", 4, 30*minute, func(c *Claim) { c.Rate = 4000 }), wants("b", "poor", 1, 0)},
			[]bool{false, false},
		},
	} {
		t.Run(name, func(t *testing.T) {
			poor := q("poor", "", 0, 4)
			poor.Budget = &Budget{MilliGPUSeconds: 4000 * 40 * minute, Enforcement: Hold}
			b := bookOf(t, []Spec{q("org", "", 0, 8), q("a", "org", 0, 4), q("b", "org", 0, 0), poor})
			for _, c := range tc.runs {
				if c.Start == 0 {
					c.Start = turnsNow
				}
				c.Rate = c.MilliGPU
				b.Set(c)
			}
			if diff := cmp.Diff(tc.want, b.Behind(tc.waiting)); diff != "" {
				t.Errorf("behind (-want +got):\n%s", diff)
			}
		})
	}
}

// inLine starts, in the order of the queue, what may and is admitted, and returns what waits still.
func (y *yard) inLine() {
	for again := true; again; {
		again = false
		jobs := make([]Job, len(y.waiting))
		for i := range y.waiting {
			jobs[i] = y.waiting[i].Job
		}
		behind := y.Behind(jobs)
		for i := range y.waiting {
			if w := y.waiting[i]; !behind[i] && y.Admit(w.Job).OK() && y.start(&w) {
				y.waiting = slices.Delete(y.waiting, i, i+1)
				again = true
				break
			}
		}
	}
}

// TestALargeJobDoesNotStarveBelowALimit: with small jobs that come all the time and more than can run, a large one starts; where all
// say how long they run, and no other queue has a part in the limit, as soon as it would have if none of those behind it had.
func TestALargeJobDoesNotStarveBelowALimit(t *testing.T) {
	for _, told := range []bool{true, false} {
		filled := 0
		for seed := range uint64(40) {
			r := rand.New(rand.NewPCG(seed, 11))
			limit := 4 + r.Int64N(5)
			y := newYard(t, map[string]int64{"": 64_000}, q("org", "", 0, limit+r.Int64N(4)), q("a", "org", 0, limit), q("b", "org", 0, 0))
			alone := seed%2 == 0
			small := func() {
				queue := "a"
				if !alone && r.IntN(4) == 0 {
					queue = "b"
				}
				y.arrive(queue, 1+r.Int64N(2), 60+r.Int64N(1800), told)
			}
			for range 20 {
				small()
			}
			y.inLine()
			y.arrive("a", limit, 3600, told)
			large := y.waiting[len(y.waiting)-1].Job
			begun, by, waits := int64(0), int64(0), false
			y.started = func(w *Waiting) {
				switch {
				case w.Job[0].ID == large[0].ID:
					begun = y.now
				case waits && w.Job[0].Queue == "a":
					filled++
				}
			}
			for step := 0; begun == 0; step++ {
				if step > 5000 {
					t.Fatalf("seed %d: the large job has not started after %d seconds", seed, y.now-turnsNow)
				}
				for len(y.waiting) < 20 {
					small()
				}
				// From when it is first: those ahead of it in its queue take what becomes free before.
				first := !slices.ContainsFunc(y.waiting, func(w Waiting) bool { return w.Job[0].Queue == "a" && w.Job[0].ID < large[0].ID })
				if first && !waits {
					waits = true
					by, _ = y.roomAt(large, large[0].Queued)
				}
				y.inLine()
				if begun == 0 && !y.tick() {
					t.Fatalf("seed %d: nothing runs, and the large job waits", seed)
				}
			}
			if told && alone && begun > by {
				t.Errorf("seed %d: it started %d seconds after it could have", seed, begun-by)
			}
		}
		if filled == 0 {
			t.Errorf("told %t: nothing ran ahead of a large job", told)
		}
	}
}

// TestAGuaranteeDoesNotWaitInLine: a sibling always has as much as the first in the line would need above the guarantee of the queue, and
// says when its jobs end. Who is within the guarantee does not wait for that.
func TestAGuaranteeDoesNotWaitInLine(t *testing.T) {
	now := int64(1_700_000_000)
	tree, _ := NewTree([]Spec{
		{Name: "parent", Weight: 1, Share: Share{Guaranteed: 16_000, Limit: 16_000}},
		{Name: "queue", Parent: "parent", Weight: 1, Share: Share{Guaranteed: 8_000, Limit: 16_000}},
		{Name: "sibling", Parent: "parent", Weight: 1, Share: Share{Guaranteed: 8_000, Limit: 12_000}},
	})
	b := NewBook()
	b.SetTree(tree)
	b.Advance(now)
	b.Set(Claim{ID: "others", Queue: "sibling", MilliGPU: 12_000, Runtime: 3600, Start: now})
	first := Job{{ID: "first", Queue: "queue", MilliGPU: 12_000, Queued: now}}
	within := Job{{ID: "within", Queue: "queue", MilliGPU: 4_000, Queued: now + 1}}
	above := Job{{ID: "above", Queue: "queue", MilliGPU: 9_000, Queued: now + 2}}
	if diff := cmp.Diff([]bool{false, false, true}, b.Behind([]Job{first, within, above})); diff != "" {
		t.Errorf("who has to wait (-want +got):\n%s", diff)
	}
	// The first of those that the guarantee is enough for is waited for by all.
	first[0].MilliGPU = 8_000
	b.Set(Claim{ID: "mine", Queue: "parent", MilliGPU: 1_000, Runtime: 3600, Start: now})
	if diff := cmp.Diff([]bool{false, true}, b.Behind([]Job{first, within})); diff != "" {
		t.Errorf("who has to wait for a guarantee (-want +got):\n%s", diff)
	}
}
