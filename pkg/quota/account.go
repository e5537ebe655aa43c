package quota

// maxHold is the longest that a claim holds hours for, in seconds: 20 years. One that says more has overrun from then on.
// It bounds the periods that anybody looks at.
const maxHold int64 = 20 * 366 * 86400

// known is what is known of a queue's checkpoint: the present one, and one of a period that has yet to begin by the book's
// clock.
type known struct {
	now, next Checkpoint
}

// take is the checkpoints after one more.
func (k known) take(c Checkpoint, now int64) known {
	k = k.at(now)
	switch {
	case now > 0 && c.Start > now:
		k.next = c
	case c.AsOf < k.now.AsOf && (c.Start == k.now.Start && c.End == k.now.End || c.End <= k.now.Start):
		// older, and of the same period or one before: not news
	default:
		k.now = c
	}
	return k
}

// at is the checkpoints at that moment.
func (k known) at(now int64) known {
	if k.next != (Checkpoint{}) && k.next.Start <= now {
		return known{now: k.next}
	}
	return k
}

// in is what the checkpoint says of a period: what is on the books, up to when, and what was carried into it.
func (c Checkpoint) in(start, end int64) (used, asOf, carried int64) {
	switch {
	case c.Start == start && c.End == end:
		return max(c.Used, 0), c.AsOf, c.Carried
	case c.End > start && c.AsOf > start:
		// The budget's periods were changed while this one ran. How much of it was used since start nobody can tell: so all
		// of it.
		return max(c.Used, 0), c.AsOf, 0
	default:
		return 0, min(c.AsOf, start), 0
	}
}

// account is the periods of a queue's budget, from the present one on.
//
// Invariant: held of each period is the sum, over all claims below the queue, of rate times the seconds of [max(asOf,
// start), to) that lie in the period; to is as [entry.until] has it, and the rolling end for claims that roll.
type account struct {
	budget *Budget
	// asOf is the moment to which used is complete, never after the book's now.
	asOf, used int64
	// clamped says that the checkpoint is ahead of the book's clock.
	clamped bool
	periods []period
	// rolling is the rate of claims that hold the time until the rolling end, and ahead how many of them start after it:
	// none, but for clocks that differ by more than RollingHold.
	rolling wide
	ahead   int
}

// period is one period of an account.
type period struct {
	start, end, limit int64
	held              wide
}

// open begins the account at that moment, with no claims.
func (a *account) open(c Checkpoint, now int64) {
	start, end := a.budget.PeriodAt(now)
	used, asOf, carried := c.in(start, end)
	a.used, a.asOf, a.clamped = used, min(asOf, now), asOf > now
	a.rolling, a.ahead = wide{}, 0
	first := period{start: start, end: end, limit: a.budget.LimitIn(start, end, carried)}
	if len(a.periods) == 0 || a.periods[0].start != start {
		a.periods = append(a.periods[:0], first)
		return
	}
	a.periods[0] = first
	for i := range a.periods { // the later ones are as they were: a calendar costs more than all else
		a.periods[i].held = wide{}
	}
}

// reach makes periods up to that moment.
func (a *account) reach(to int64) {
	for {
		last := a.periods[len(a.periods)-1].end
		if last >= to {
			return
		}
		start, end := a.budget.PeriodAt(last)
		if end <= last {
			return // past the years that have a calendar
		}
		a.periods = append(a.periods, period{start: start, end: end, limit: a.budget.LimitIn(start, end, 0)})
	}
}

// put adds what a claim holds, or takes it out; rolling is the end of claims that roll.
func (a *account) put(e *entry, rolling int64, out bool) {
	from, to := max(a.asOf, e.start), e.until(rolling)
	if e.rolling {
		n := 1
		if out {
			a.rolling.sub(e.rate, 1)
			n = -1
		} else {
			a.rolling.add(e.rate, 1)
		}
		if from > rolling {
			a.ahead += n
		}
	}
	if from >= to {
		return
	}
	a.reach(to)
	for i := range a.periods {
		p := &a.periods[i]
		if p.start >= to {
			break
		}
		seconds := overlap(from, to, p.start, p.end)
		if out {
			p.held.sub(e.rate, seconds)
		} else {
			p.held.add(e.rate, seconds)
		}
	}
}

// roll moves the rolling end on.
func (a *account) roll(from, to int64) {
	if a.rolling.zero() {
		return
	}
	a.reach(to)
	for i := range a.periods {
		p := &a.periods[i]
		p.held.scale(a.rolling, overlap(from, to, p.start, p.end))
	}
}

// standing is the account's period i, which may be past those that anything is held in, if what runs goes on until at.
type standing struct {
	start, end, used, held, limit int64
}

// stands is period i; last is the period before, for one that nothing is held in. Later is how far the rolling end moved on
// from the book's.
func (a *account) stands(i int, last standing, rolling, later int64) standing {
	if i >= len(a.periods) {
		start, end := a.budget.PeriodAt(last.end)
		s := standing{start: start, end: end, limit: a.budget.LimitIn(start, end, 0)}
		var held wide
		held.scale(a.rolling, overlap(rolling, later, start, end))
		s.held = held.value()
		return s
	}
	p := &a.periods[i]
	s := standing{start: p.start, end: p.end, limit: p.limit}
	held := p.held
	if later > rolling {
		held.scale(a.rolling, overlap(rolling, later, p.start, p.end))
	}
	s.held = held.value()
	if i == 0 {
		s.used = a.used
	}
	return s
}

// longest is more than any period lasts, in days.
var longest = [...]int64{PeriodDay: 3, PeriodWeek: 9, PeriodMonth: 33, PeriodQuarter: 94, PeriodYear: 368}

// roomy says that the job fits into any period that nobody holds anything in, so that they need not be looked at one by one.
func (a *account) roomy(d *demand) bool {
	if int(a.budget.Period) >= len(longest) {
		return false
	}
	var most, least wide
	most.scale(a.rolling, RollingHold)
	length := longest[a.budget.Period] * 86400
	most.add(d.in(0, length, 0), 1)
	least.add(a.budget.MilliGPUSeconds, 1)
	for _, j := range a.budget.Adjustments {
		least.add(min(j.MilliGPUSeconds, 0), 1)
	}
	return most.value() <= least.value()
}

// exhausted says that the budget is used up and is enforced by more than a notice.
func (a *account) exhausted() bool {
	return a.budget.Enforcement != Notify && a.used >= a.periods[0].limit && a.periods[0].limit != NoLimit
}

// overlap is how many seconds [a, b) and [start, end) have in common.
func overlap(a, b, start, end int64) int64 {
	return max(min(b, end)-max(a, start), 0)
}
