package quota

// PeriodAt is the period [start, end) that the moment lies in; end is NoLimit and start 0 for PeriodNone.
func (b *Budget) PeriodAt(at int64) (start, end int64) { panic("to be built") }

// LimitIn is what may be used in the period [start, end) which got carried from the one before: the grant, what was carried and
// the adjustments that lie in it; at least 0.
func (b *Budget) LimitIn(start, end, carried int64) int64 { panic("to be built") }

// Carry is what the next period gets of one in which used was used, of limit.
func (b *Budget) Carry(used, limit int64) int64 { panic("to be built") }
