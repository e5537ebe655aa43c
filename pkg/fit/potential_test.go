package fit

import (
	"fmt"
	"testing"

	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/mig"
)

func sharedClass(milliGPU, milliCPU int64) Class {
	return Class{Kind: gpu.Shared, Count: 1, MilliGPU: milliGPU, MilliCPU: milliCPU}
}

// learned is the strategy that a learner has after these requests, each so often, on such nodes.
func learned(t *testing.T, counts map[Class]int64, s *Stock) Strategy {
	t.Helper()
	l := NewKnowing(PotentialName, counts)
	if _, due := l.Observe(Class{}); !due {
		t.Fatal("what is known is not computed at once")
	}
	l.Adopt(l.Pose(s).Solve(t.Context()))
	return l.Strategy()
}

func TestPotentialGoesWhereLeastIsLost(t *testing.T) {
	stock := new(Stock)
	for range 10 {
		stock.Add(left(t, 1000, 1000, 1000, 1000), 32_000, 32_000)
	}
	fours := learned(t, map[Class]int64{wholeClass(4): 3, wholeClass(1): 2}, stock)
	halves := learned(t, map[Class]int64{sharedClass(500, 1_000): 3, sharedClass(250, 1_000): 1}, stock)
	hungry := learned(t, map[Class]int64{{Kind: gpu.Whole, Count: 1, MilliGPU: 1000, MilliCPU: 8_000}: 3, {MilliCPU: 4_000}: 3}, stock)
	type place struct {
		milli []int64
		cpu   int64
	}
	for name, tc := range map[string]struct {
		strategy      Strategy
		request       gpu.Request
		better, worse place
	}{
		"a whole GPU not where four are left": {fours, asking(whole(1)), place{[]int64{1000, 1000, 1000, 0}, 32_000}, place{[]int64{1000, 1000, 1000, 1000}, 32_000}},
		"a quarter not where a half is left":  {halves, asking(share(250)), place{[]int64{750, 0}, 32_000}, place{[]int64{500, 0}, 32_000}},
		"no GPUs: not where CPU is what whole GPUs need": {
			hungry, gpu.Request{}, place{[]int64{1000, 0}, 32_000}, place{[]int64{1000, 1000, 1000, 1000}, 32_000},
		},
	} {
		t.Run(name, func(t *testing.T) {
			score := func(p place) int64 {
				return Score(left(t, p.milli...), tc.request, CPU{FreeMilli: p.cpu, AskMilli: 1_000}, tc.strategy) >> (leftBits + 2)
			}
			if better, worse := score(tc.better), score(tc.worse); better <= worse {
				t.Errorf("%v scores %d, %v %d", tc.better, better, tc.worse, worse)
			}
		})
	}
}

func TestPotentialKeepsInstancesPossible(t *testing.T) {
	table, ok := mig.TableByProduct("NVIDIA-H100-80GB-HBM3")
	if !ok {
		t.Fatal("there is no table of its placements")
	}
	offer, err := mig.NewOffer(table.Instances())
	if err != nil {
		t.Fatal(err)
	}
	var large, small gpu.Instance
	for _, i := range table.Instances() {
		switch {
		case i.Profile == "3g.40gb" && i.Start == 0:
			large = i
		case i.Profile == "1g.10gb" && i.Start == 0:
			small = i
		}
	}
	s := learned(t, map[Class]int64{{Kind: gpu.MIG, Count: 1, Profile: "3g.40gb"}: 3, {Kind: gpu.MIG, Count: 1, Profile: "1g.10gb"}: 1}, new(Stock))
	view := func(used ...gpu.Instance) *View {
		return &View{GPUs: []Left{{Slices: 8, Partition: mig.NewState(offer, used)}}}
	}
	// 1g at 0 destroys the place of a 3g on an idle GPU, and nothing more where the 3g at 4 is what is left.
	beside := s.Rate(view(gpu.Instance{Profile: "1g.10gb", Start: 1, Size: 1}), view(gpu.Instance{Profile: "1g.10gb", Start: 1, Size: 1}, small), -1)
	alone := s.Rate(view(), view(small), -1)
	if beside.Node <= alone.Node {
		t.Errorf("beside another 1g it is rated %d, on an idle GPU %d", beside.Node, alone.Node)
	}
	if fit := s.Rate(view(), view(large), -1); fit.Node <= alone.Node {
		t.Errorf("3g on an idle GPU is rated %d, 1g %d", fit.Node, alone.Node)
	}
}

func TestLearnerComputesWhenItHasSeenEnough(t *testing.T) {
	l := NewLearner(PotentialName, 1000)
	var at []int
	for i := 1; i <= 1300; i++ {
		changed, due := l.Observe(sharedClass(int64(100+i%3*100), 1_000))
		if changed {
			t.Fatal("another strategy without a solution")
		}
		if _, packs := l.Strategy().(BestFit); packs != (len(at) == 0) {
			t.Fatalf("after %d requests the strategy is a %T", i-1, l.Strategy())
		}
		if due {
			at = append(at, i)
			stock := new(Stock)
			stock.Add(left(t, 1000, 500), 16_000, 32_000)
			before, _ := l.Strategy().(Potential)
			l.Adopt(l.Pose(stock).Solve(t.Context()))
			if after, ok := l.Strategy().(Potential); !ok || after.Table == before.Table {
				t.Fatal("the same strategy after a solution")
			}
		}
	}
	if got, want := fmt.Sprint(at), "[20 100 200 300 400 800 1200]"; got != want {
		t.Errorf("computed after %s, want %s", got, want)
	}
}

func TestLearnerAsksAgainUntilTheProblemIsPosed(t *testing.T) {
	l := NewLearner(PotentialName, 100)
	for i := 1; i <= 50; i++ {
		if _, due := l.Observe(sharedClass(100, 0)); due != (i >= 20) {
			t.Errorf("after %d: due %t", i, due)
		}
	}
}

func TestOtherStrategiesAreNeverDue(t *testing.T) {
	for name, want := range map[string]string{
		FragmentationName: "fit.Fragmentation", BestFitName: "fit.BestFit", SpreadName: "fit.Spread", "best": "fit.BestFit",
	} {
		l := NewLearner(name, 64)
		changes := 0
		for range 1000 {
			changed, due := l.Observe(wholeClass(1))
			if due {
				t.Fatalf("%s is due", name)
			}
			if changed {
				changes++
			}
		}
		if got := fmt.Sprintf("%T", l.Strategy()); got != want || (changes > 0) != (name == FragmentationName) {
			t.Errorf("%s: a %s after %d changes", name, got, changes)
		}
	}
}

func TestStockCountsAlikeNodesTogether(t *testing.T) {
	s := new(Stock)
	for range 3 {
		s.Add(left(t, 1000, 1000, 250, 0), 8_000, 64_000)
	}
	s.Add(left(t, 1000, 1000, 250, 0), 7_000, 64_000)
	s.Add(nil, 96_000, 96_000)
	if len(s.nodes) != 3 || s.nodes[0].Alike != 3 || s.nodes[1].Alike != 1 || s.largest != 96_000 {
		t.Fatalf("got %+v, largest %d", s.nodes, s.largest)
	}
	if got, want := fmt.Sprint(s.nodes[0].GPUs), "[{{ 0} 100 true 2} {{ 0} 25 false 1}]"; got != want && len(s.nodes[0].GPUs) != 2 {
		t.Errorf("got %s, want %s", got, want)
	}
	if len(s.nodes[2].GPUs) != 0 {
		t.Errorf("a node without GPUs has %v", s.nodes[2].GPUs)
	}
}
