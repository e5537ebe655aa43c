package quota

import (
	"cmp"
	"slices"
)

// rounds bounds how often the queues above a job are asked for another moment, one after the other.
const rounds = 16

// CouldStart is when the job may be let through at the earliest, by what is known: if nothing else starts, and what runs
// takes as long as it said; the time of Advance for one that may start now, and 0 where there is no such moment. Its cost
// grows with the claims below the queues above the job: it is for messages.
func (b *Book) CouldStart(j Job) int64 {
	switch b.Admit(j).Reason {
	case Admitted:
		return b.now
	case OverLimit, OverBudget, BudgetExhausted:
	default:
		return 0
	}
	var d demand
	q := b.queues[j[0].Queue]
	b.sum(j, q, &d)
	return b.earliest(q, &d, func(q *queue, at int64) int64 { return q.roomAt(&d, at) })
}

// earliest is the earliest moment at which all budgets let the job through, and at which room tells that the queue's limit
// does; 0 where there is none. Room is the earliest moment not before at, 0 for none.
func (b *Book) earliest(q *queue, d *demand, room func(q *queue, at int64) int64) int64 {
	at := b.now
	for range rounds {
		before := at
		for who := q; who != nil; who = who.parent {
			if at = room(who, at); at == 0 {
				return 0
			}
			no := who.budgetVerdict(d, at, b.rollingEnd())
			if no.OK() {
				continue
			}
			if no.Reason == NeverWithinBudget || no.Resets <= at {
				return 0
			}
			// What the job holds in the period that is too full gets less as it starts later, down to nothing at its end.
			refused, fits := at, no.Resets
			for fits-refused > 1 {
				middle := refused + (fits-refused)/2
				if v := who.budgetVerdict(d, middle, b.rollingEnd()); !v.OK() && v.Resets <= no.Resets {
					refused = middle
				} else {
					fits = middle
				}
			}
			at = fits
		}
		if at == before {
			return at
		}
	}
	return 0
}

// windows bounds how many changes of a queue's limit are looked at.
const windows = 100

// roomAt is the earliest moment not before at when what is left of the claims that run now leaves room for the job below the
// queue's limit, 0 when none does.
func (q *queue) roomAt(d *demand, at int64) int64 {
	var ends []*entry
	left := q.running
	q.each(func(e *entry) {
		switch {
		case !e.live || e.rolling:
		case e.to <= at:
			left.sub(e.milliGPU, 1)
		default:
			ends = append(ends, e)
		}
	})
	slices.SortFunc(ends, func(a, b *entry) int { return cmp.Compare(a.to, b.to) })
	limit, change := q.node.shareAt(at).Limit, q.node.nextWindow(at)
	for changes := 0; ; {
		sum := left
		sum.plusWide(d.milliGPU)
		if d.milliGPU.zero() || sum.value() <= limit {
			return at
		}
		switch {
		case len(ends) > 0 && ends[0].to <= change:
			at = ends[0].to
			for len(ends) > 0 && ends[0].to == at {
				left.sub(ends[0].milliGPU, 1)
				ends = ends[1:]
			}
		case change != NoLimit && changes < windows:
			at = change
			changes++
		default:
			return 0
		}
		if at >= change {
			limit, change = q.node.shareAt(at).Limit, q.node.nextWindow(at)
		}
	}
}
