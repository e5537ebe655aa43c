package forecast

import (
	"math"
	"math/big"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// day has so many GPUs in use for a day, half of the time and in nine days of ten.
func day(p50, p90 int64) Point { return Point{P50: p50 * 86400 * 1000, P90: p90 * 86400 * 1000} }

func TestPlan(t *testing.T) {
	terms := Terms{BucketSeconds: 86400, GPUsPerNode: 8, PriceMicros: 2_000_000, SpotPriceMicros: 500_000}
	week := []Point{day(20, 24), day(30, 40), day(17, 20)}
	const dayHours = 24
	for name, c := range map[string]struct {
		change func(*Terms)
		whole  []Point
		parts  []Part
		want   Capacity
	}{
		"the trough is owned, in whole nodes, and the rest is spot where all may": {
			whole: week, parts: []Part{{week, true}},
			want: Capacity{
				// 17 GPUs are 3 nodes of 8; the peak of 40 is 5. On the second day 6 GPUs are expected above the 24.
				BaseMilliGPU: 17_000, PeakMilliGPU: 40_000, BaseNodes: 3, SpotNodes: 2,
				BaseCostMicros: 24 * 3 * dayHours * 2_000_000, SpotCostMicros: 6 * dayHours * 500_000,
			},
		},
		"and on demand where none may": {
			whole: week, parts: []Part{{week, false}},
			want: Capacity{
				BaseMilliGPU: 17_000, PeakMilliGPU: 40_000, BaseNodes: 3, OnDemandNodes: 2,
				BaseCostMicros: 24 * 3 * dayHours * 2_000_000, OnDemandCostMicros: 6 * dayHours * 2_000_000,
			},
		},
		"of two queues the one that may moves what it has above its base": {
			whole: week, parts: []Part{{[]Point{day(10, 15), day(10, 18), day(10, 10)}, true}, {[]Point{day(10, 9), day(20, 22), day(7, 10)}, false}},
			want: Capacity{
				BaseMilliGPU: 17_000, PeakMilliGPU: 40_000, BaseNodes: 3, SpotNodes: 1, OnDemandNodes: 1,
				BaseCostMicros: 24 * 3 * dayHours * 2_000_000, SpotCostMicros: 3 * dayHours * 500_000, OnDemandCostMicros: 3 * dayHours * 2_000_000,
			},
		},
		"the median owned": {
			change: func(t *Terms) { t.BasePercent = 50 },
			whole:  week, parts: []Part{{week, true}},
			want: Capacity{
				BaseMilliGPU: 20_000, PeakMilliGPU: 40_000, BaseNodes: 3, SpotNodes: 2,
				BaseCostMicros: 24 * 3 * dayHours * 2_000_000, SpotCostMicros: 6 * dayHours * 500_000,
			},
		},
		"what is spot has no base": {
			change: func(t *Terms) { t.SpotOnly = true },
			whole:  week, parts: []Part{{week, true}},
			want: Capacity{BaseMilliGPU: 17_000, PeakMilliGPU: 40_000, SpotNodes: 5, SpotCostMicros: 67 * dayHours * 500_000},
		},
		"nothing wanted": {whole: []Point{{}, {}}, parts: nil, want: Capacity{}},
	} {
		t.Run(name, func(t *testing.T) {
			terms := terms
			if c.change != nil {
				c.change(&terms)
			}
			if diff := cmp.Diff(c.want, terms.Plan(c.whole, c.parts)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestCostsAreExact: against big integers.
func TestCostsAreExact(t *testing.T) {
	r := rand.New(rand.NewPCG(2, 2))
	for range 2000 {
		a, b := r.Int64N(1<<uint(1+r.IntN(62))), r.Int64N(1<<uint(1+r.IntN(40)))
		want := new(big.Int).Mul(big.NewInt(a), big.NewInt(b))
		want.Add(want, big.NewInt(milliGPUSecondsPerHour/2)).Div(want, big.NewInt(milliGPUSecondsPerHour))
		if !want.IsInt64() {
			want.SetInt64(math.MaxInt64)
		}
		if got := CostMicros(a, b); got != want.Int64() {
			t.Fatalf("%d × %d: got %d, want %d", a, b, got, want)
		}
	}
}
