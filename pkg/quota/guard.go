package quota

// Assessment is how a budget stands, and what is to be done.
type Assessment struct {
	Limit, Used, Held, Left int64
	// Alert is the highest of the alert percents that used and held reached, 0 for none.
	Alert int64
	// BurnPerDay is milli-GPU-seconds for each day at the rate of the last; ExhaustedAt is when that uses the budget up, 0 when that is
	// not before the period ends.
	BurnPerDay, ExhaustedAt int64
	Exhausted               bool
	// DrainAt is when what runs is to be evicted, 0 when it is not.
	DrainAt int64
}

// Assess says how the budget stands. Recent is what was used in the seconds before now that window counts, and exhausted since when the
// budget is known to be used up, 0 when it was not.
func Assess(b *Budget, c Checkpoint, held, recent, window, exhausted, now int64) Assessment {
	panic("to be built")
}
