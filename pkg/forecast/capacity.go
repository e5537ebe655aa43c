package forecast

import (
	"cmp"
	"math"
	"math/bits"
	"slices"
)

// Terms are how capacity is had, and what it costs.
type Terms struct {
	// BucketSeconds is how long a bucket of the forecast is, at least 1.
	BucketSeconds int64
	// GPUsPerNode is in what steps GPUs come, at least 1.
	GPUsPerNode int64
	// BasePercent is the part of the buckets in which less than the base is expected: 0 is the trough, 50 the median.
	BasePercent int
	// PriceMicros is what an hour of one GPU costs that is owned, reserved or had on demand, and SpotPriceMicros as spot, in millionths of
	// one currency.
	PriceMicros, SpotPriceMicros int64
	// SpotOnly says that there is no other capacity: the base is spot too.
	SpotOnly bool
}

// Part is the forecast of a queue, as a part of the whole.
type Part struct {
	Points []Point
	// MaySpot says that the queue may run on spot nodes.
	MaySpot bool
}

// Capacity is what to have for a forecast.
type Capacity struct {
	// BaseMilliGPU is the BasePercent quantile of P50 over the buckets, and PeakMilliGPU the most of P90, as GPUs in use at the same time.
	BaseMilliGPU, PeakMilliGPU int64
	// BaseNodes are to be owned or reserved; SpotNodes and OnDemandNodes cover the rest up to the peak.
	BaseNodes, SpotNodes, OnDemandNodes int64
	// What it costs over the horizon: the base all of the time, the rest for what P50 is above the base. In millionths.
	BaseCostMicros, SpotCostMicros, OnDemandCostMicros int64
}

// Plan says what to have for the forecast of all queues together and of each:
//
//	base      = ⌈quantile(P50(t), BasePercent) / GPUsPerNode⌉ nodes
//	peak      = ⌈max P90(t) / GPUsPerNode⌉ nodes
//	spot      = min(peak − base, ⌊Σ (peak(q) − base(q)) / GPUsPerNode⌋) nodes, over the queues q that may run on spot, not rounded;
//	            peak − base where all may
//	on demand = peak − base − spot nodes
//
// The whole is forecast by itself, for quantiles of its parts do not add up.
func (t Terms) Plan(whole []Point, parts []Part) Capacity {
	var c Capacity
	c.BaseMilliGPU, c.PeakMilliGPU = t.Span(whole)
	step := t.GPUsPerNode * 1000
	base, peak := ceil(c.BaseMilliGPU, step), ceil(c.PeakMilliGPU, step)
	if t.SpotOnly {
		base = 0
	}
	rest := max(peak-base, 0)
	c.BaseNodes, c.SpotNodes = base, rest
	if !t.SpotOnly && slices.ContainsFunc(parts, func(p Part) bool { return !p.MaySpot }) {
		var movable int64
		for _, p := range parts {
			if low, high := t.Span(p.Points); p.MaySpot {
				movable += max(high-low, 0)
			}
		}
		c.SpotNodes = min(rest, movable/step)
	}
	c.OnDemandNodes = rest - c.SpotNodes
	owned := base * step * t.BucketSeconds
	var above int64
	for _, p := range whole {
		above += max(p.P50-owned, 0)
	}
	onSpot := above
	if rest > 0 {
		onSpot = scale(above, c.SpotNodes, rest)
	} else if !t.SpotOnly {
		onSpot = 0
	}
	c.BaseCostMicros = CostMicros(owned*int64(len(whole)), t.PriceMicros)
	c.SpotCostMicros = CostMicros(onSpot, t.SpotPriceMicros)
	c.OnDemandCostMicros = CostMicros(above-onSpot, t.PriceMicros)
	return c
}

// Span is base and peak of the points, in milli-GPU at the same time.
func (t Terms) Span(points []Point) (base, peak int64) {
	if len(points) == 0 {
		return 0, 0
	}
	sorted := slices.SortedFunc(slices.Values(points), func(a, b Point) int { return cmp.Compare(a.P50, b.P50) })
	at := min(t.BasePercent*len(sorted)/100, len(sorted)-1)
	for _, p := range points {
		peak = max(peak, p.P90)
	}
	return ceil(sorted[max(at, 0)].P50, t.BucketSeconds), ceil(peak, t.BucketSeconds)
}

// ceil is a/b rounded up, for what is not negative.
func ceil(a, b int64) int64 {
	if n := a / b; n*b < a {
		return n + 1
	}
	return a / b
}

// milliGPUSecondsPerHour is one GPU-hour.
const milliGPUSecondsPerHour = 1000 * 3600

// CostMicros is what so much GPU time costs at a price for an hour of one GPU, rounded to the nearest millionth; the most that an int64
// holds where it is more. Neither may be negative.
func CostMicros(milliGPUSeconds, priceMicros int64) int64 {
	return scale(milliGPUSeconds, priceMicros, milliGPUSecondsPerHour)
}

// scale is a×b/c, rounded to the nearest; the most that an int64 holds where it is more.
func scale(a, b, c int64) int64 {
	hi, lo := bits.Mul64(uint64(a), uint64(b))
	lo, carry := bits.Add64(lo, uint64(c)/2, 0)
	hi += carry
	if hi >= uint64(c) {
		return math.MaxInt64
	}
	q, _ := bits.Div64(hi, lo, uint64(c))
	return int64(min(q, math.MaxInt64))
}
