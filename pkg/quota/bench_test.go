package quota

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// largeBook has 1,000 queues in 4 levels, each with a budget, and 50,000 claims.
func largeBook(tb testing.TB) (*Book, []string, int64) {
	tb.Helper()
	const (
		divisions, teams = 9, 10
		queues           = 1000
		claims           = 50_000
	)
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC).Unix()
	spec := func(name, parent string, p Period, gpuHours int64) Spec {
		return Spec{Name: name, Parent: parent, Weight: 1, Share: Share{Limit: NoLimit}, Budget: &Budget{
			MilliGPUSeconds: gpuHours * gpuHour, Period: p, Enforcement: Hold, Location: location(tb, "Europe/Berlin"),
		}}
	}
	specs := []Spec{spec("root", "", PeriodYear, 1e9)}
	for d := range divisions {
		division := fmt.Sprintf("d%d", d)
		specs = append(specs, spec(division, "root", PeriodQuarter, 1e8))
		for t := range teams {
			team := fmt.Sprintf("%s-t%d", division, t)
			specs = append(specs, spec(team, division, PeriodMonth, 1e7))
		}
	}
	var leaves []string
	for n := 0; len(specs) < queues; n++ {
		team := fmt.Sprintf("d%d-t%d", n%divisions, n/divisions%teams)
		leaf := fmt.Sprintf("%s-q%d", team, n)
		specs = append(specs, spec(leaf, team, PeriodWeek, 1e6))
		leaves = append(leaves, leaf)
	}
	tree, problems := NewTree(specs)
	if len(problems) > 0 {
		tb.Fatal(problems)
	}
	b := NewBook()
	b.SetTree(tree)
	b.Advance(now)
	for n := range claims {
		c := Claim{
			ID: fmt.Sprint(n), Queue: leaves[n%len(leaves)], Class: "h200", MilliGPU: 1000, Rate: 1000,
			Start: now - int64(n%86400), Runtime: int64(100_000 + n%100_000),
		}
		if n%2 == 0 {
			c.Runtime = 0 // a service
		}
		b.Set(c)
	}
	return b, leaves, now
}

func report(b *testing.B, took []time.Duration) {
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)*99/100].Nanoseconds()), "p99-ns/op")
	b.ReportMetric(float64(took[len(took)-1].Nanoseconds()), "max-ns/op")
}

func BenchmarkAdmit(b *testing.B) {
	for _, bench := range []struct {
		name    string
		members int
		runtime int64
		refused bool
	}{
		{"one pod for 2 h", 1, 7200, false},
		{"a gang of 64 for 3 weeks", 64, 21 * 86400, false},
		{"a gang of 1,000 for 2 h", 1000, 7200, false},
		{"a pod for 20 years", 1, 20 * 365 * 86400, false},
		{"refused: 8 pods for 30 d", 8, 30 * 86400, true},
	} {
		b.Run(bench.name, func(b *testing.B) {
			book, leaves, _ := largeBook(b)
			jobs := make([]Job, len(leaves))
			for i, leaf := range leaves {
				for m := range bench.members {
					c := Claim{ID: fmt.Sprintf("new-%d", m), Queue: leaf, Class: "h200", MilliGPU: 1000, Rate: 1000, Runtime: bench.runtime}
					if bench.refused {
						c.Rate = 1_500_000
					}
					jobs[i] = append(jobs[i], c)
				}
			}
			took := make([]time.Duration, 0, b.N)
			b.ReportAllocs()
			for n := 0; b.Loop(); n++ {
				began := time.Now()
				v := book.Admit(jobs[n%len(jobs)])
				took = append(took, time.Since(began))
				if v.OK() == bench.refused {
					b.Fatal(v.Message())
				}
			}
			report(b, took)
		})
	}
}

func BenchmarkSetAndDelete(b *testing.B) {
	book, leaves, now := largeBook(b)
	b.ReportAllocs()
	for n := 0; b.Loop(); n++ {
		book.Set(Claim{ID: "new", Queue: leaves[n%len(leaves)], Class: "h200", MilliGPU: 1000, Rate: 1000, Start: now, Runtime: 7200})
		book.Delete("new")
	}
}

// BenchmarkAdvance is a second, and the checkpoints of all queues, which come every 15 seconds.
func BenchmarkAdvance(b *testing.B) {
	book, _, now := largeBook(b)
	b.Run("a second", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			now++
			book.Advance(now)
		}
	})
	b.Run("all checkpoints", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			for name, q := range book.queues {
				start, end := q.node.spec.Budget.PeriodAt(now)
				book.SetCheckpoint(name, Checkpoint{AsOf: now, Start: start, End: end})
			}
		}
	})
	b.Run("the checkpoint at the top", func(b *testing.B) {
		start, end := book.queues["root"].node.spec.Budget.PeriodAt(now)
		for b.Loop() {
			book.SetCheckpoint("root", Checkpoint{AsOf: now, Start: start, End: end})
		}
	})
	b.Run("a new tree", func(b *testing.B) {
		for b.Loop() {
			book.SetTree(book.tree)
		}
	})
}
