package simulator

import (
	"math"
	"slices"
)

// Line is the result of one run, and a line of the JSON output: its fields stay. Percentages are of the GPU capacity of the
// nodes unless they say otherwise, and rounded to four places.
type Line struct {
	Workload string  `json:"workload"`
	Policy   string  `json:"policy"`
	Seed     int64   `json:"seed"`
	Engine   string  `json:"engine"`
	Load     float64 `json:"load"`
	Nodes    int     `json:"nodes"`
	GPUs     int     `json:"gpus"`
	// Pods arrived, and Placed of them found a place.
	Pods   int `json:"pods"`
	Placed int `json:"placed"`
	// AllocAt100 is the mean of what was allocated after each arrival at which the pods that had arrived asked for 99.5 to
	// 100.5 percent of the GPUs, and the other figures at 100 are such means; nil when there was none. AllocFinal is after
	// the last arrival.
	AllocAt100 *float64 `json:"alloc_at_100"`
	AllocFinal float64  `json:"alloc_final"`
	// FragAmount is the idle GPU capacity that the typical pod cannot use, and FragRatio the same in percent of what is idle.
	FragAmountAt100 *float64 `json:"frag_amount_at_100"`
	FragAmountFinal float64  `json:"frag_amount_final"`
	FragRatioAt100  *float64 `json:"frag_ratio_at_100"`
	// UnallocatedGPUs is in GPUs.
	UnallocatedGPUsAt100 *float64 `json:"unallocated_gpus_at_100"`
	UnallocatedGPUsFinal float64  `json:"unallocated_gpus_final"`
	// PodsPerSecond is by the wall clock: the one field that differs from run to run.
	PodsPerSecond float64 `json:"pods_per_second"`
	// BoundAt100 is what no placement of the pods that ask for the first 100 percent can exceed, and GapAt100 how much of it
	// was missed, in percent of it. Nil without --bound.
	BoundAt100 *float64 `json:"bound_at_100"`
	GapAt100   *float64 `json:"gap_at_100"`

	curve curve
	trail *Trail // see Lineup.Trails
}

// beside sets the result beside the bound.
func (l *Line) beside(b Bound) {
	l.BoundAt100 = &b.Bound
	if l.AllocAt100 != nil && b.Bound > 0 {
		gap := rounded(100 * (b.Bound - *l.AllocAt100) / b.Bound)
		l.GapAt100 = &gap
	}
}

// rounded has four decimal places.
func rounded(v float64) float64 { return math.Round(v*1e4) / 1e4 }

// curve is sums by the percentage of the GPUs that the pods which have arrived ask for, to the nearest whole one.
type curve []point

type point struct {
	alloc, frag         float64
	arrivals            int
	lastAlloc, lastFrag float64 // after the last of the arrivals
}

// maxCurve bounds the percentages that are kept.
const maxCurve = 1000

func (c *curve) add(r *run) {
	at := int(math.Round(100 * float64(r.arrived) / float64(r.w.milliGPU())))
	if at > maxCurve {
		return
	}
	if at >= len(*c) {
		*c = append(*c, slices.Repeat(curve{{}}, at+1-len(*c))...)
	}
	p := &(*c)[at]
	p.lastAlloc, p.lastFrag = r.allocation(), r.fragmentation()
	p.alloc += p.lastAlloc
	p.frag += p.lastFrag
	p.arrivals++
}

// at is the means at a percentage. In a cluster that is so small that no pod arrived there but pods arrived before and after,
// it is what was before; ok is false when so much never arrived.
func (c curve) at(percent int) (alloc, frag float64, ok bool) {
	if percent >= len(c) {
		return 0, 0, false
	}
	if p := c[percent]; p.arrivals > 0 {
		return p.alloc / float64(p.arrivals), p.frag / float64(p.arrivals), true
	}
	for percent--; percent >= 0; percent-- {
		if p := c[percent]; p.arrivals > 0 {
			return p.lastAlloc, p.lastFrag, true
		}
	}
	return 0, 0, false
}
