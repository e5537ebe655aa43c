package quota

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
)

func all(string) bool { return true }

func recordOf(b *Book) Record {
	r := b.Record(all)
	r.Round()
	return r
}

// crashed is another book of the same tree and checkpoints, with the claims of the pods that are there and the record.
func crashed(t *testing.T, b *Book, there map[string]Claim, r Record, now int64) *Book {
	t.Helper()
	text, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	var read Record
	if err := json.Unmarshal(text, &read); err != nil {
		t.Fatal(err)
	}
	c := NewBook()
	c.SetTree(b.tree)
	for name, k := range b.checkpoints {
		c.SetCheckpoint(name, k.now)
	}
	c.Advance(now)
	for _, id := range slices.Sorted(maps.Keys(there)) {
		c.Set(there[id])
	}
	c.Restore(read)
	return c
}

// compareUse calls f with what both books say that a queue used and holds, for each queue with a budget.
func compareUse(a, b *Book, f func(queue string, a, b int64)) {
	for _, name := range a.tree.Names() {
		x, _ := a.Standing(name)
		y, _ := b.Standing(name)
		if x.BudgetLimit != 0 {
			f(name, x.Used+x.Held, y.Used+y.Held)
		}
	}
}

// TestARecordIsWhatTheBookWas: a book that begins with what the API has and a record holds exactly what the one held that the record is
// of; and no less when more pods ended since and are gone, until the ledger has them.
func TestARecordIsWhatTheBookWas(t *testing.T) {
	gone, later := 0, 0
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 3))
		b := NewBook()
		b.SetTree(modelTree(t))
		now := november.mid
		b.Advance(now)
		names := b.tree.Names()
		// there are the claims of pods that the API server has, live those that run.
		there, live := map[string]Claim{}, []string{}
		checkpoint := func() {
			for _, name := range names {
				if s, _ := b.tree.Spec(name); s.Budget != nil {
					start, end := s.Budget.PeriodAt(now)
					b.SetCheckpoint(name, Checkpoint{AsOf: max(now-r.Int64N(20), start), Start: start, End: end, Used: 1000})
				}
			}
		}
		end := func(at int64) {
			if len(live) == 0 {
				return
			}
			i := r.IntN(len(live))
			c := there[live[i]]
			live = slices.Delete(live, i, i+1)
			c.End = max(at, c.Start)
			b.Set(c)
			there[c.ID] = c
			if r.IntN(2) == 0 {
				delete(there, c.ID)
				gone++
			}
		}
		for i := range 80 {
			switch r.IntN(6) {
			case 0:
				now += r.Int64N(4000)
				b.Advance(now)
			case 1:
				if i < 50 { // then nobody keeps the books
					checkpoint()
				}
			case 2:
				end(now)
			default:
				c := Claim{ID: fmt.Sprint(i), Queue: names[r.IntN(len(names))], MilliGPU: 1000, Rate: 1 + r.Int64N(3000), Start: now - r.Int64N(30), Runtime: r.Int64N(9000)}
				b.Set(c)
				there[c.ID] = c
				live = append(live, c.ID)
			}
		}
		record := recordOf(b)
		compareUse(b, crashed(t, b, there, record, now), func(queue string, was, is int64) {
			if was != is {
				t.Errorf("seed %d: queue %s used and holds %d, with the record %d", seed, queue, was, is)
			}
		})
		// More end while nobody looks.
		for range 5 {
			now += r.Int64N(400)
			b.Advance(now)
			end(now - r.Int64N(10))
		}
		c := crashed(t, b, there, record, now)
		compareUse(b, c, func(queue string, was, is int64) {
			if is < was {
				t.Errorf("seed %d: queue %s used and holds %d, by the record only %d", seed, queue, was, is)
			}
			if is > was {
				later++
			}
		})
		for _, name := range names {
			if s, _ := b.tree.Spec(name); s.Budget != nil {
				start, end := s.Budget.PeriodAt(now)
				for _, book := range []*Book{b, c} {
					book.SetCheckpoint(name, Checkpoint{AsOf: now, Start: start, End: end, Used: 2000})
				}
			}
		}
		compareUse(b, c, func(queue string, was, is int64) {
			if was != is {
				t.Errorf("seed %d: when the ledger is there again queue %s used and holds %d, with the record %d", seed, queue, was, is)
			}
		})
	}
	if gone == 0 || later == 0 {
		t.Errorf("%d claims were deleted, %d queues had more by the record: the test does not test what it says", gone, later)
	}
}

// TestARecordIsBounded: of much use it says a little too much, never too little.
func TestARecordIsBounded(t *testing.T) {
	b := NewBook()
	b.SetTree(modelTree(t))
	now := november.mid
	b.Advance(now)
	name := b.tree.Names()[0]
	for _, n := range b.tree.Names() {
		if s, _ := b.tree.Spec(n); s.Budget != nil {
			name = n
			start, end := s.Budget.PeriodAt(now)
			b.SetCheckpoint(n, Checkpoint{AsOf: now - 40_000, Start: start, End: end})
		}
	}
	there := map[string]Claim{}
	for i := range int64(10_000) {
		live := Claim{ID: fmt.Sprint("live", i), Queue: name, Rate: 1000, Start: now - 3*i}
		there[live.ID] = live
		b.Set(live)
		b.Set(Claim{ID: fmt.Sprint("ended", i), Queue: name, Rate: 1000 + i%7, Start: now - 3*i - 100, End: now - 2*i})
	}
	for range 2 { // what was rounded once is not rounded again by much
		r := recordOf(b)
		lines := 0
		for _, q := range r.Running {
			lines += len(q.Starts)
		}
		if lines > maxRecords || len(r.Ended) > maxRecords+1 || !r.Merged {
			t.Fatalf("%d lines of what runs, %d of what ended", lines, len(r.Ended))
		}
		c := crashed(t, b, there, r, now)
		compareUse(b, c, func(queue string, was, is int64) {
			if is < was || is > was+was/10_000 {
				t.Errorf("queue %s used and holds %d, with the record %d", queue, was, is)
			}
		})
		b = c
	}
	// One of those that run is gone: all of it up to now is counted, in grains.
	delete(there, "live5000")
	c := crashed(t, b, there, recordOf(b), now)
	s, _ := b.Standing(name)
	if is, _ := c.Standing(name); is.Held < s.Held-1000*RollingHold || is.Held > s.Held-1000*RollingHold+1000*100 {
		t.Errorf("%d are held after one is gone, %d before", is.Held, s.Held)
	}
}

// TestARecordThatMakesNoSense changes nothing.
func TestARecordThatMakesNoSense(t *testing.T) {
	b := NewBook()
	b.SetTree(modelTree(t))
	b.Advance(november.mid)
	b.Restore(Record{Grain: -1, Running: []RunningRecord{{Queue: "none", Starts: []StartRecord{{Start: -5, Rate: 9}}}, {Queue: b.tree.Names()[0], Starts: []StartRecord{
		{Start: november.mid + 1, Rate: 5}, {Start: 7, Rate: -1}, {Rate: 1},
	}}}, Ended: []EndedRecord{{ID: "x", Queue: b.tree.Names()[0], Start: 9, End: 8, Rate: 1}, {}}})
	if len(b.entries) > 0 {
		t.Errorf("it believes %d claims", len(b.entries))
	}
}

// BenchmarkRecord is how long a record keeps others from a book of 10,000 pods that run and 1,000 that ended.
func BenchmarkRecord(b *testing.B) {
	book := NewBook()
	tree, _ := NewTree([]Spec{budgeted(top("root"), monthly(1000, Hold)), under("root", "a"), under("root", "b")})
	book.SetTree(tree)
	now := november.mid
	book.Advance(now)
	for i := range int64(11_000) {
		c := Claim{ID: fmt.Sprint(i), Queue: []string{"a", "b"}[i%2], Rate: 1000, MilliGPU: 1000, Start: now - i}
		if i >= 10_000 {
			c.End = now - 5
		}
		book.Set(c)
	}
	for b.Loop() {
		book.Record(all)
	}
}
