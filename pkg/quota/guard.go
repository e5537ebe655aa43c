package quota

import "slices"

// defaultAlerts are the percents where a budget says none.
var defaultAlerts = []int64{70, 85, 95}

// Assessment is how a budget stands, and what is to be done.
type Assessment struct {
	Limit, Used, Held, Left int64
	// Alert is the highest of the alert percents that used and held reached, 0 for none; without percents they are 70, 85
	// and 95.
	Alert int64
	// BurnPerDay is milli-GPU-seconds for each day at the rate of the last; ExhaustedAt is when that uses the budget up, 0
	// when that is not before the period ends. Once it is used up it is since when.
	BurnPerDay, ExhaustedAt int64
	// Exhausted says that used reached the limit, whatever the enforcement.
	Exhausted bool
	// DrainAt is when what runs is to be evicted, 0 when it is not.
	DrainAt int64
}

// Assess says how the budget stands in the period that now lies in, by the rules of [Book] for a checkpoint of another.
// Recent is what was used in the seconds before now that window counts, and exhausted since when the budget is known to be
// used up, 0 when it was not.
func Assess(b *Budget, c Checkpoint, held, recent, window, exhausted, now int64) Assessment {
	start, end := b.PeriodAt(now)
	used, _, carried := c.in(start, end)
	a := Assessment{Limit: b.LimitIn(start, end, carried), Used: used, Held: max(held, 0)}
	recent = max(recent, 0)
	if window > 0 {
		a.BurnPerDay = ratio(recent, 86400, window, false)
	}
	if a.Limit == NoLimit {
		a.Left = NoLimit
		return a
	}
	sum := plus(a.Used, a.Held)
	a.Left = max(plus(a.Limit, -sum), 0)
	percents := b.AlertPercents
	if len(percents) == 0 {
		percents = defaultAlerts
	}
	for _, p := range slices.Sorted(slices.Values(percents)) {
		if p > 0 && sum >= ratio(a.Limit, p, 100, true) {
			a.Alert = p
		}
	}
	if a.Used < a.Limit {
		if window > 0 && recent > 0 {
			if at := plus(now, ratio(a.Limit-a.Used, window, recent, true)); at < end {
				a.ExhaustedAt = at
			}
		}
		return a
	}
	a.Exhausted = true
	a.ExhaustedAt = now
	if exhausted > 0 {
		a.ExhaustedAt = exhausted
	}
	if b.Enforcement == Drain {
		a.DrainAt = plus(a.ExhaustedAt, max(b.DrainGrace, 0))
	}
	return a
}
