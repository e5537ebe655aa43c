package quota

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// TestSumsEqualARecomputation after any sequence of operations, also those that make no sense, with clocks that are wrong.
func TestSumsEqualARecomputation(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 7))
	wild := func(at int64) int64 {
		switch r.IntN(20) {
		case 0:
			return edges[r.IntN(len(edges))]
		case 1:
			return at + r.Int64N(10*86400)
		default:
			return at - r.Int64N(3*86400)
		}
	}
	for range 60 {
		b := NewBook()
		trees := []*Tree{modelTree(t), b.tree}
		other, _ := NewTree([]Spec{
			budgeted(top("root"), &Budget{MilliGPUSeconds: gpuHour, Enforcement: Hold}), budgeted(under("root", "a"), &Budget{Period: PeriodDay}),
			under("a1", "b1"), budgeted(under("a", "a1"), monthly(5, Drain)), under("a1", "a1x"),
		})
		trees = append(trees, other, trees[0], trees[0])
		now := november.mid
		names := append(trees[0].Names(), "none", "")
		for range 150 {
			switch r.IntN(10) {
			case 0:
				now += r.Int64N(2 * 86400)
				b.Advance(now)
			case 1:
				now += r.Int64N(2000)
				b.Advance(now)
			case 2:
				if r.IntN(10) == 0 {
					b.SetTree(trees[r.IntN(len(trees))])
				}
			case 3:
				name := names[r.IntN(len(names))]
				budget := &Budget{Period: Period(r.IntN(6))}
				if s, ok := b.tree.Spec(name); ok && s.Budget != nil && r.IntN(4) > 0 {
					budget = s.Budget
				}
				asOf := wild(now)
				start, end := budget.PeriodAt(asOf)
				b.SetCheckpoint(name, Checkpoint{AsOf: asOf, Start: start, End: end, Used: wild(0), Carried: wild(0)})
			case 4:
				b.Delete(fmt.Sprint(r.IntN(40)))
			default:
				c := Claim{
					ID: fmt.Sprint(r.IntN(40)), Queue: names[r.IntN(len(names))], Class: fmt.Sprint(r.IntN(3)), MilliGPU: r.Int64N(8000), Rate: r.Int64N(9000),
					Start: wild(now), Runtime: max(r.Int64N(5*86400)-86400, 0),
				}
				if r.IntN(30) == 0 {
					c.MilliGPU, c.Rate = edges[r.IntN(len(edges))], edges[r.IntN(len(edges))]
				}
				if r.IntN(3) == 0 {
					c.End = wild(now)
				}
				b.Set(c)
			}
			if b.now != 0 {
				sameAs(t, b, fresh(b))
			}
		}
	}
}
