package quota

import (
	"cmp"
	"math/bits"
	"slices"
)

const (
	// linePatience is how long a job waits, in seconds, until what becomes free below a limit is kept for it though nobody knows when that
	// is enough.
	linePatience = 600
	// overdue is how much longer than it said any claim may run, in seconds, and still be expected to end at any moment.
	overdue = 600
)

// Behind says which of the jobs are to wait for one ahead of them in their own queue, that limits alone hold back: else a large job would
// starve where small ones take what becomes free below a limit. The order is that of [Book.Turns]. Who ends, by what it said, before
// enough is free for the first of those may start.
//
// Where nobody knows when that will be, for too little of what runs says when it ends, those behind go ahead for ten minutes, and are
// held back for the next ten; then they go ahead for 20 minutes and are held back for 40, and so on: so the large job starts if what is
// ahead of it ends at all, and one that never can start does not stop its queue. Behind one that needs more than its queues are guaranteed
// those need not wait that a guarantee is enough for: a guarantee waits for nobody who borrows.
//
// The cost grows with the jobs, and in each queue with the claims below the limits that its first job waits for.
func (b *Book) Behind(waiting []Job) []bool {
	behind, lines := make([]bool, len(waiting)), map[string][]int{}
	f := filling{contest: contest{bids: make([]bid, len(waiting))}}
	for i, j := range waiting {
		if len(j) == 0 || b.queues[j[0].Queue] == nil {
			continue
		}
		of := bid{priority: j[0].Priority, queued: j[0].Queued, id: j[0].ID}
		for k := range j {
			of.priority, of.queued, of.id = max(of.priority, j[k].Priority), min(of.queued, j[k].Queued), min(of.id, j[k].ID)
		}
		f.bids[i] = of
		lines[j[0].Queue] = append(lines[j[0].Queue], i)
	}
	for _, line := range lines {
		slices.SortFunc(line, f.order)
		by, waits, borrows, asked := int64(0), false, false, false
		for _, i := range line {
			j := waiting[i]
			var d demand
			b.sum(j, b.queues[j[0].Queue], &d)
			switch {
			case d.milliGPU.zero(): // it has what it needs already
			case waits:
				behind[i] = b.endOf(j) > by && !(borrows && b.entitled(j, &d))
			case !asked && b.Admit(j).Reason == OverLimit && b.AdmitBeyondLimits(j).OK():
				by, waits = b.roomAt(j, f.bids[i].queued)
				borrows, asked = !b.entitled(j, &d), true
			}
		}
	}
	return behind
}

// entitled reports whether a guarantee, of its queue or of one above, is enough for the job beside what runs there.
func (b *Book) entitled(j Job, d *demand) bool {
	for q := b.queues[j[0].Queue]; q != nil; q = q.parent {
		if plus(q.running.value(), d.milliGPU.value()) <= q.share.Guaranteed {
			return true
		}
	}
	return false
}

// endOf is when the job ends if it starts now, NoLimit when nobody knows.
func (b *Book) endOf(j Job) int64 {
	end := b.now
	for i := range j {
		if j[i].Runtime <= 0 {
			return NoLimit
		}
		end = max(end, plus(b.now, j[i].Runtime))
	}
	return end
}

// roomAt is until when others may use what the job, which waits since queued, lacks below limits; false where it need not be kept.
func (b *Book) roomAt(j Job, queued int64) (int64, bool) {
	q := b.queues[j[0].Queue]
	var d demand
	b.sum(j, q, &d)
	need, at := d.milliGPU.value(), b.now
	for x := q; x != nil; x = x.parent {
		excess := plus(x.running.value(), need) - x.share.Limit
		if excess <= 0 {
			continue
		}
		var ends []ending
		x.each(func(e *entry) {
			runtime := min(e.claim.Runtime, maxHold)
			if e.runs() && runtime > 0 && b.now <= plus(e.to, max(runtime, overdue)) {
				ends = append(ends, ending{at: e.to, milliGPU: e.milliGPU})
			}
		})
		slices.SortFunc(ends, func(a, b ending) int { return cmp.Compare(a.at, b.at) })
		for i := 0; i < len(ends) && excess > 0; i++ {
			excess -= ends[i].milliGPU
			at = max(at, ends[i].at)
		}
		if excess > 0 {
			return b.now, bits.Len64(uint64(max(0, b.now-queued)/linePatience))%2 == 1
		}
	}
	return at, true
}
