package quota

import "fmt"

// demand is what a job adds.
type demand struct {
	milliGPU wide
	// few are the first loads; the array is no slice so that nothing is allocated, and more are the others.
	few  [sameLoads]load
	more []load
	// longest is the longest hold of all, runtime the longest that any said.
	longest, runtime int64
}

// load is what is charged for each second of a hold, by all claims that hold as long.
type load struct {
	rate wide
	hold int64 // 0 for none
}

// sameLoads is for how many different run times in a job nothing is allocated.
const sameLoads = 8

// add counts one more claim.
func (d *demand) add(c *Claim) {
	d.milliGPU.add(max(c.MilliGPU, 0), 1)
	d.runtime = max(d.runtime, c.Runtime)
	if c.Rate <= 0 {
		return
	}
	hold := RollingHold
	if c.Runtime > 0 {
		hold = min(c.Runtime, maxHold)
	}
	d.longest = max(d.longest, hold)
	for i := range d.few {
		if l := &d.few[i]; l.hold == hold || l.hold == 0 {
			l.hold = hold
			l.rate.add(c.Rate, 1)
			return
		}
	}
	for i := range d.more {
		if l := &d.more[i]; l.hold == hold {
			l.rate.add(c.Rate, 1)
			return
		}
	}
	l := load{hold: hold}
	l.rate.add(c.Rate, 1)
	d.more = append(d.more, l)
}

// in is what the job holds in [start, end) when it starts at that moment.
func (d *demand) in(start, end, at int64) int64 {
	var sum wide
	for i := range d.few {
		l := &d.few[i]
		if l.hold == 0 {
			break
		}
		sum.scale(l.rate, overlap(at, plus(at, l.hold), start, end))
	}
	for i := range d.more {
		l := &d.more[i]
		sum.scale(l.rate, overlap(at, plus(at, l.hold), start, end))
	}
	return sum.value()
}

// sum counts what of the job is not in the book yet; other is a queue that it is in too, which it must not.
func (b *Book) sum(j Job, q *queue, d *demand) (other string) {
	for i := range j {
		c := &j[i]
		if c.Queue != j[0].Queue {
			return c.Queue
		}
		if e := b.entries[c.ID]; e == nil || e.queue != q {
			d.add(c)
		}
	}
	return ""
}

// Admit says whether the job may start at the time of Advance, whatever may be idle. Claims of the job that the book has
// already are not counted twice: the rest is admitted against what is left, as if it started now, whatever Start it has.
// The cost grows with the depth of the tree and the periods that the job touches; nothing is allocated when it is admitted
// (of up to 8 different run times).
//
// From the job's queue to the top it checks the longest run time against MaxRuntime (a claim without a run time is never
// too long: what it gets by default is for who makes the claim to say), what runs at the same time against the limit, and
// the budget:
//
//   - Notify never refuses.
//   - Throttle refuses with OverBudget what would run above the guarantee, once the books say that the budget is used up.
//   - Hold and Drain refuse what the rest of any period that the job touches does not cover.
//
// What can never be is said first; else the queue nearest to the job says no. A job of no queue is admitted: nobody limits it.
func (b *Book) Admit(j Job) Verdict { return b.admit(j, false) }

// AdmitBeyondLimits is Admit as if those who run left room below all limits.
func (b *Book) AdmitBeyondLimits(j Job) Verdict { return b.admit(j, true) }

func (b *Book) admit(j Job, beyondLimits bool) Verdict {
	if len(j) == 0 || j[0].Queue == "" {
		return Verdict{}
	}
	q := b.queues[j[0].Queue]
	if q == nil {
		return Verdict{Reason: QueueNotFound, Queue: j[0].Queue}
	}
	if n := q.node; n.problem != "" {
		return Verdict{Reason: QueueInvalid, Queue: n.culprit, Detail: n.problem}
	}
	var d demand
	if other := b.sum(j, q, &d); other != "" {
		return Verdict{Reason: QueueInvalid, Queue: other, Detail: fmt.Sprintf(
			"pods of one job are in queues %s and %s, must all be in one", j[0].Queue, other)}
	}
	var no Verdict
	for at := q; at != nil; at = at.parent {
		v := at.runtimeVerdict(&d)
		if v.OK() {
			if v = at.limitVerdict(&d); beyondLimits && v.Reason == OverLimit {
				v = Verdict{}
			}
		}
		if v.OK() || v.Reason == OverLimit {
			if w := at.budgetVerdict(&d, b.now, b.rollingEnd()); v.OK() || w.Reason == NeverWithinBudget {
				v = w
			}
		}
		switch v.Reason {
		case RuntimeTooLong, NeverWithinLimit, NeverWithinBudget:
			return v
		default:
			if no.OK() {
				no = v
			}
		}
	}
	if no.Reason == OverBudget || no.Reason == BudgetExhausted {
		no.CouldStart = b.earliest(q, &d, func(q *queue, at int64) int64 {
			if q.limitVerdict(&d).OK() {
				return at
			}
			return 0
		})
	}
	return no
}

func (q *queue) runtimeVerdict(d *demand) Verdict {
	if most := q.node.spec.MaxRuntime; most > 0 && d.runtime > most {
		return Verdict{Reason: RuntimeTooLong, Queue: q.node.spec.Name, Need: d.runtime, Limit: most}
	}
	return Verdict{}
}

// limitVerdict checks what runs at the same time.
func (q *queue) limitVerdict(d *demand) Verdict {
	need := d.milliGPU.value()
	sum := q.running
	sum.plusWide(d.milliGPU)
	if need == 0 || sum.value() <= q.share.Limit {
		return Verdict{}
	}
	v := Verdict{Reason: OverLimit, Queue: q.node.spec.Name, Used: q.running.value(), Need: need, Limit: q.share.Limit}
	if need > q.node.mostLimit {
		v.Reason, v.Limit = NeverWithinLimit, q.node.mostLimit
	}
	return v
}

// budgetVerdict checks the queue's budget for a job that starts at that moment, if what runs goes on.
func (q *queue) budgetVerdict(d *demand, at, rolling int64) Verdict {
	a := q.account
	if a == nil || d.longest == 0 || a.budget.Enforcement == Notify {
		return Verdict{}
	}
	if a.budget.Enforcement == Throttle {
		return q.throttleVerdict(d, at)
	}
	ends := plus(at, d.longest)
	var s standing
	for i := 0; ; i++ {
		// What rolls reaches an hour into those periods, unless the job starts in one.
		if i == len(a.periods) && at < s.end && a.roomy(d) {
			return Verdict{}
		}
		last := s.end
		s = a.stands(i, s, rolling, plus(at, RollingHold))
		if i > 0 && (s.start >= ends || s.end <= last) {
			return Verdict{}
		}
		need := d.in(s.start, s.end, at)
		if need == 0 || plus(plus(s.used, s.held), need) <= s.limit {
			continue
		}
		v := Verdict{Queue: q.node.spec.Name, Used: s.used, Held: s.held, Need: need, Limit: s.limit, Resets: s.end}
		if s.end == NoLimit {
			v.Resets = 0
		}
		switch {
		case need > s.limit && !a.fitsNext(d, &s):
			v.Reason = NeverWithinBudget
		case s.used >= s.limit:
			v.Reason = BudgetExhausted
		default:
			v.Reason = OverBudget
		}
		return v
	}
}

// fitsNext says whether the job would fit into the next period, if it began with it and nothing else ran.
func (a *account) fitsNext(d *demand, s *standing) bool {
	if s.end == NoLimit {
		return false
	}
	start, end := a.budget.PeriodAt(s.end)
	return d.in(start, end, start) <= a.budget.LimitIn(start, end, 0)
}

// throttleVerdict leaves the queue its guarantee when the budget is used up.
func (q *queue) throttleVerdict(d *demand, at int64) Verdict {
	a := q.account
	p := &a.periods[0]
	sum := q.running
	sum.plusWide(d.milliGPU)
	if !a.exhausted() || at >= p.end || sum.value() <= q.share.Guaranteed {
		return Verdict{}
	}
	v := Verdict{
		Reason: OverBudget, Queue: q.node.spec.Name,
		Used: a.used, Held: p.held.value(), Need: d.in(p.start, p.end, at), Limit: p.limit, Resets: p.end,
		Detail: "until then nothing starts above the guaranteed " + gpus(q.share.Guaranteed) + " GPUs",
	}
	if p.end == NoLimit {
		v.Resets = 0
	}
	return v
}
