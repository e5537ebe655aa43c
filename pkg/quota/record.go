package quota

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
)

// Record is what a book knows of use that the books of the ledger do not have yet: enough to begin another book with when the pods that
// it is of are gone. It is bounded, by rounding use up where there is much of it.
type Record struct {
	// At is the moment that it is of.
	At int64 `json:"at"`
	// Running is what ran then, by queue.
	Running []RunningRecord `json:"running,omitempty"`
	// Ended are claims that ended by then.
	Ended []EndedRecord `json:"ended,omitempty"`
	// Grain is what starts in Running are rounded down to, in seconds.
	Grain int64 `json:"grain"`
	// Merged says that some of Ended stand for several, of which the IDs are not known.
	Merged bool `json:"merged,omitempty"`
}

// RunningRecord is what ran of a queue's own pods, by when it started; what started before From, up to which the ledger had all, did so at
// From.
type RunningRecord struct {
	Queue  string        `json:"queue"`
	From   int64         `json:"from"`
	Starts []StartRecord `json:"starts"`
}

// StartRecord is what is charged for each second to all that started then.
type StartRecord struct {
	Start int64 `json:"start"`
	Rate  int64 `json:"rate"`
}

// EndedRecord is a claim that ended.
type EndedRecord struct {
	ID    string `json:"id"`
	Queue string `json:"queue"`
	Start int64  `json:"start"`
	End   int64  `json:"end"`
	Rate  int64  `json:"rate"`
}

// maxRecords is how many lines of Running, and of Ended, a record has at most, but that there is one for each queue.
const maxRecords = 2048

// mergedID begins the IDs of those of several claims.
const mergedID = "merged/"

// since is the moment to which the books of all budgets above the queue's claims are complete; false where there is no budget.
func (q *queue) since() (from int64, ok bool) {
	for from = NoLimit; q != nil; q = q.parent {
		if a := q.account; a != nil {
			from, ok = min(from, max(a.asOf, a.periods[0].start)), true
		}
	}
	return from, ok
}

// Record is the record of now, of the claims that ended, and of those that run if counts says so of their ID. Claims without a budget above
// them are not in it: nobody needs to know what they used. It is to be rounded, which takes longer, and for which the book is not needed.
func (b *Book) Record(counts func(id string) bool) Record {
	r := Record{At: b.now, Grain: 1}
	running := map[string]*RunningRecord{}
	sinces := make(map[*queue]int64, len(b.queues)) // 0 without a budget
	for _, e := range b.entries {
		from, known := sinces[e.queue]
		if !known {
			if since, ok := e.queue.since(); ok {
				from = max(since, 1)
			}
			sinces[e.queue] = from
		}
		start := max(e.start, from)
		switch {
		case from == 0 || e.rate == 0 || e.live && !counts(e.claim.ID):
		case e.live:
			q := running[e.claim.Queue]
			if q == nil {
				q = &RunningRecord{Queue: e.claim.Queue, From: from}
				running[e.claim.Queue] = q
			}
			q.Starts = append(q.Starts, StartRecord{start, e.rate})
			r.At = max(r.At, e.start)
		case e.to > start:
			r.Ended = append(r.Ended, EndedRecord{e.claim.ID, e.claim.Queue, start, e.to, e.rate})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(running)) {
		r.Running = append(r.Running, *running[name])
	}
	return r
}

// Round adds up what can be told together, and bounds the record.
func (r *Record) Round() {
	r.roundStarts()
	r.merge()
}

// roundStarts adds up what started at the same time, and rounds starts until there are few enough.
func (r *Record) roundStarts() {
	for {
		lines := 0
		for i := range r.Running {
			q := &r.Running[i]
			sums := map[int64]int64{}
			for _, s := range q.Starts {
				start := q.round(s.Start, r.Grain)
				sums[start] = plus(sums[start], s.Rate)
			}
			q.Starts = q.Starts[:0]
			for _, start := range slices.Sorted(maps.Keys(sums)) {
				q.Starts = append(q.Starts, StartRecord{start, sums[start]})
			}
			lines += len(q.Starts)
		}
		if lines <= max(maxRecords, len(r.Running)) {
			return
		}
		r.Grain *= 2
	}
}

// round is the line that a claim of that start is in.
func (q *RunningRecord) round(start, grain int64) int64 {
	return max(q.From, start-start%grain)
}

// merge makes one of the claims of each queue that ended first, which lasts from the first start to the last end, and is of a little more
// use than all of them.
func (r *Record) merge() {
	merged := func(e EndedRecord) int {
		if len(e.ID) > len(mergedID) && e.ID[:len(mergedID)] == mergedID {
			return 1
		}
		return 0
	}
	slices.SortFunc(r.Ended, func(a, b EndedRecord) int {
		return cmp.Or(cmp.Compare(merged(a), merged(b)), cmp.Compare(b.End, a.End), cmp.Compare(a.ID, b.ID))
	})
	keep := min(len(r.Ended), maxRecords)
	for keep > 0 && merged(r.Ended[keep-1]) == 1 {
		keep-- // once merged stays so
	}
	rest := map[string]EndedRecord{}
	used := map[string]*wide{}
	for _, e := range r.Ended[keep:] {
		all, ok := rest[e.Queue]
		if !ok {
			all, used[e.Queue] = e, &wide{}
		}
		used[e.Queue].add(e.Rate, e.End-e.Start)
		rest[e.Queue] = EndedRecord{mergedID + e.Queue, e.Queue, min(all.Start, e.Start), max(all.End, e.End), 0}
	}
	r.Merged, r.Ended = len(rest) > 0, r.Ended[:keep]
	for _, queue := range slices.Sorted(maps.Keys(rest)) {
		all := rest[queue]
		all.Rate = ratio(used[queue].value(), 1, all.End-all.Start, true)
		r.Ended = append(r.Ended, all)
	}
}

// Restore adds what a record knows and the book does not: the book has the claims of all pods that there are, and of those that ended and
// were not deleted. What ran by the record and is nowhere now ended at a moment that nobody knows, so it is charged up to now: until the
// ledger says better.
func (b *Book) Restore(r Record) {
	ended := make(map[string]bool, len(r.Ended))
	for _, e := range r.Ended {
		ended[e.ID] = true
	}
	running := make(map[string]*RunningRecord, len(r.Running))
	for i := range r.Running {
		running[r.Running[i].Queue] = &r.Running[i]
	}
	grain := max(r.Grain, 1)
	there := map[string]map[int64]int64{} // what is known of it, by queue and start
	for id, e := range b.entries {
		q := running[e.claim.Queue]
		if q == nil || ended[id] || e.start > r.At {
			continue
		}
		// One that ended by From was on the books, and did not run at the time.
		if !e.live && (r.Merged || e.to <= q.From) {
			continue
		}
		if there[q.Queue] == nil {
			there[q.Queue] = map[int64]int64{}
		}
		start := q.round(e.start, grain)
		there[q.Queue][start] = plus(there[q.Queue][start], e.rate)
	}
	for _, q := range r.Running {
		for _, s := range q.Starts {
			if gone := s.Rate - there[q.Queue][s.Start]; gone > 0 {
				b.restore(fmt.Sprintf("gone/%d/%s/%d", r.At, q.Queue, s.Start), q.Queue, s.Start, b.now, gone)
			}
		}
	}
	for _, e := range r.Ended {
		b.restore(e.ID, e.Queue, e.Start, e.End, e.Rate)
	}
}

// restore adds a claim that ended, unless it is known. What a record says is not believed where it makes no sense.
func (b *Book) restore(id, queue string, start, end, rate int64) {
	if b.entries[id] == nil && 0 < start && start < end && rate > 0 {
		b.Set(Claim{ID: id, Queue: queue, Start: start, End: end, Rate: rate})
	}
}
