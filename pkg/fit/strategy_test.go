package fit

import (
	"fmt"
	"math"
	"math/bits"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"weft.sh/weft/pkg/cluster"
	"weft.sh/weft/pkg/gpu"
)

func asking(asks ...gpu.Ask) gpu.Request {
	return gpu.Request{Containers: []gpu.ContainerRequest{{Name: "c", Asks: asks}}}
}

func share(milli int64) gpu.Ask { return gpu.Ask{Kind: gpu.Shared, Count: 1, MilliGPU: milli} }

func whole(count int) gpu.Ask { return gpu.Ask{Kind: gpu.Whole, Count: count} }

func instances(count int, profile string) gpu.Ask {
	return gpu.Ask{Kind: gpu.MIG, Count: count, Profile: profile}
}

// left is a node of plain GPUs of which that much is left, in milli-GPU.
func left(t *testing.T, milli ...int64) *cluster.Node {
	t.Helper()
	var devices []gpu.Device
	var grants []string
	for i, m := range milli {
		devices = append(devices, plain(i))
		switch {
		case m == 0:
			grants = append(grants, fmt.Sprintf("g%d", i))
		case m < 1000:
			grants = append(grants, fmt.Sprintf("g%d:%dm/%dMi", i, 1000-m, (1000-m)/10))
		}
	}
	if grants == nil {
		return holding(t, "", devices...)
	}
	return holding(t, "other="+strings.Join(grants, ","), devices...)
}

// Which GPU of a node each strategy takes.
func TestStrategiesChooseAGPU(t *testing.T) {
	mixOf := func(c ...Class) Mix {
		counts := map[Class]int64{}
		for _, c := range c {
			counts[c]++
		}
		return NewMix(counts)
	}
	tests := map[string]struct {
		left                           []int64
		ask                            gpu.Ask
		mix                            Mix
		fragmentation, bestfit, spread string
	}{
		"half of a GPU, where whole ones are expected: the one in use": {
			[]int64{1000, 500}, share(500), mixOf(wholeClass(1)), "g1:500m/50Mi", "g1:500m/50Mi", "g0:500m/50Mi",
		},
		// Of g1, 100 would be left and be of no use to shares of 300; of g0 300 are left, which are.
		"a fifth, where shares of 300 are expected: not the fullest, whose rest would be lost": {
			[]int64{500, 300}, share(200), mixOf(shareClass(300, 1)), "g0:200m/20Mi", "g1:200m/20Mi", "g0:200m/20Mi",
		},
		// The rest of g0 is lost to shares of 700 already, so taking it costs nothing.
		"a third, where shares of 700 are expected: what is lost already": {
			[]int64{700, 400}, share(300), mixOf(shareClass(700, 1)), "g1:300m/30Mi", "g1:300m/30Mi", "g0:300m/30Mi",
		},
		"nothing is expected: the first": {[]int64{600, 500}, share(100), Mix{}, "g0:100m/10Mi", "g1:100m/10Mi", "g0:100m/10Mi"},
		"GPUs that are alike: the first": {[]int64{500, 500, 500}, share(100), mixOf(wholeClass(1)), "g0:100m/10Mi", "g0:100m/10Mi", "g0:100m/10Mi"},
		"two shares, each on its own GPU": {
			[]int64{1000, 900, 800},
			gpu.Ask{Kind: gpu.Shared, Count: 2, MilliGPU: 100},
			mixOf(wholeClass(1)),
			"g1:100m/10Mi,g2:100m/10Mi", "g2:100m/10Mi,g1:100m/10Mi", "g0:100m/10Mi,g1:100m/10Mi",
		},
		"two whole GPUs of three: the first": {[]int64{1000, 300, 1000, 1000}, whole(2), mixOf(shareClass(100, 1)), "g0,g2", "g0,g2", "g0,g2"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			n, r := left(t, tc.left...), asking(tc.ask)
			for s, want := range map[Strategy]string{BestFit{}: tc.bestfit, Spread{}: tc.spread} {
				if a, err := Assign(n, r, CPU{}, s); a.String() != "c="+want || err != nil {
					t.Errorf("%T: got %q and %v, want %q", s, a, err, "c="+want)
				}
			}
			if a, err := Assign(n, r, CPU{}, Fragmentation{Mix: tc.mix}); a.String() != "c="+tc.fragmentation || err != nil {
				t.Errorf("fragmentation: got %q and %v, want %q", a, err, "c="+tc.fragmentation)
			}
		})
	}
}

// The scores of the nodes that a request could go to, best first.
func TestStrategiesOrderNodes(t *testing.T) {
	half := NewMix(map[Class]int64{shareClass(500, 1): 1})
	four := NewMix(map[Class]int64{wholeClass(4): 1})
	tests := map[string]struct {
		strategy Strategy
		ask      gpu.Ask
		nodes    map[string][]int64 // what is left of their GPUs
		want     string
	}{
		"fragmentation: a whole GPU where four are expected": {
			// On "idle" three idle GPUs would be lost; on "three" they are lost already, and one of them is taken.
			Fragmentation{four}, whole(1), map[string][]int64{"idle": {1000, 1000, 1000, 1000}, "three": {1000, 1000, 1000, 0}}, "three 147, idle 8",
		},
		"fragmentation: a quarter where halves are expected": {
			// Of "half" 250 would be lost; of "quarter" 250 are lost, and taken.
			Fragmentation{half}, share(250), map[string][]int64{"half": {500}, "quarter": {250}, "idle": {1000}}, "quarter 113, idle 100, half 87",
		},
		"fragmentation: nothing is expected, so nodes in use first": {
			Fragmentation{}, share(250), map[string][]int64{"a": {1000}, "b": {500}, "c": {1000}}, "b 101, a 100, c 100",
		},
		"bestfit: the node with least left": {
			// 10000 - 5000 x (250, 3000 or 7500 of 8000 milli-GPU), doubled, and one for a node in use.
			BestFit{},
			share(500),
			map[string][]int64{"one": {750}, "four": {1000, 1000, 1000, 500}, "eight": {1000, 1000, 1000, 1000, 1000, 1000, 1000, 1000}},
			"one 19689, four 16251, eight 10626",
		},
		"spread: the node with the largest part left": {
			// 2 x 10000 x (250 of 1000, 3000 of 4000, 7500 of 8000), and one for a node in use.
			Spread{},
			share(500),
			map[string][]int64{"one": {750}, "four": {1000, 1000, 1000, 500}, "eight": {1000, 1000, 1000, 1000, 1000, 1000, 1000, 1000}},
			"eight 18750, four 15001, one 5001",
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			type scored struct {
				name  string
				score int64
			}
			var all []scored
			for name, milli := range tc.nodes {
				all = append(all, scored{name, Score(left(t, milli...), asking(tc.ask), CPU{}, tc.strategy)})
			}
			slices.SortFunc(all, func(a, b scored) int {
				if a.score != b.score {
					return int(b.score - a.score)
				}
				return strings.Compare(a.name, b.name)
			})
			var got []string
			for _, s := range all {
				// Without what is left of the node, which the next test is about.
				got = append(got, fmt.Sprintf("%s %d", s.name, rated(s.score)))
			}
			if diff := cmp.Diff(tc.want, strings.Join(got, ", ")); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
}

// rated is the rating in a score, doubled, and one for a node in use: the score of a placement that loses nothing by its links,
// without what is left of the node.
func rated(score int64) int64 {
	score >>= leftBits
	return (score/4-MaxRating-1)*2 + score%2
}

func TestEquallyGoodNodesGoByWhatIsLeft(t *testing.T) {
	// Nothing is expected, so the strategy finds all nodes equal.
	s := Fragmentation{}
	idle, full, half := left(t, 1000, 1000), left(t, 1000, 200), left(t, 1000, 600)
	score := func(n *cluster.Node) int64 { return Score(n, asking(share(100)), CPU{}, s) }
	if !(score(full) > score(half) && score(half) > score(idle)) {
		t.Errorf("fullest %d, half full %d, idle %d: want that order", score(full), score(half), score(idle))
	}
	if got := MaxScore - score(full); got < 0 || bits.Len64(uint64(MaxScore)) != scoreBits {
		t.Errorf("MaxScore %d is %d above: want %d bits", int64(MaxScore), got, scoreBits)
	}
}

func TestScoreOfAPodWithoutGPUs(t *testing.T) {
	// A pod of 3 cores leaves one, too little for the halves that are expected with two.
	half := shareClass(500, 1)
	half.MilliCPU = 2000
	s := Fragmentation{Mix: NewMix(map[Class]int64{half: 1})}
	gpus, none := left(t, 1000, 500), holding(t, "")
	for name, tc := range map[string]struct {
		node *cluster.Node
		cpu  CPU
		want int64
	}{
		"on a node without GPUs nothing is lost":  {nil, CPU{4000, 3000}, 100},
		"nor on one that reports none":            {none, CPU{4000, 3000}, 100},
		"all GPUs are lost to later requests":     {gpus, CPU{4000, 3000}, 2*18 + 1},
		"enough CPU is left":                      {gpus, CPU{5000, 3000}, 101},
		"all was lost already":                    {gpus, CPU{1999, 1000}, 101},
		"CPU that is overbooked is no different":  {gpus, CPU{-1, 1000}, 101},
		"all is lost to a pod that asks for much": {gpus, CPU{4000, math.MaxInt32}, 2*18 + 1},
	} {
		t.Run(name, func(t *testing.T) {
			if got := Score(tc.node, gpu.Request{}, tc.cpu, s); rated(got) != tc.want {
				t.Errorf("got %d, want %d", rated(got), tc.want)
			}
			if got := NewMemo(s).For(gpu.Request{}).Score(tc.node, tc.cpu); rated(got) != tc.want {
				t.Errorf("the memo says %d, want %d", rated(got), tc.want)
			}
		})
	}
}

func TestWithoutANode(t *testing.T) {
	for _, r := range []gpu.Request{asking(share(1)), asking(whole(1)), asking(instances(1, "1g.10gb")), asking(whole(1), instances(1, "1g.10gb"))} {
		if got := Score(nil, r, CPU{}, Spread{}); got != 0 {
			t.Errorf("%v: the score is %d", r, got)
		}
		if _, err := Assign(nil, r, CPU{}, Spread{}); err == nil {
			t.Errorf("%v: is assigned", r)
		}
		if got := Check(nil, r); got != NoGPU {
			t.Errorf("%v: %v", r, got)
		}
		m := NewMemo(Spread{}).For(r)
		if got, score := m.Check(nil), m.Score(nil, CPU{}); got != NoGPU || score != 0 {
			t.Errorf("%v: the memo says %v and %d", r, got, score)
		}
	}
	if a, err := Assign(nil, gpu.Request{}, CPU{}, Spread{}); !a.Empty() || err != nil || Check(nil, gpu.Request{}) != Fits {
		t.Errorf("a request for nothing: %q, %v, %v", a, err, Check(nil, gpu.Request{}))
	}
}

// What a pod of several containers is given, init containers and sidecars among them.
func TestAssignOfSeveralContainers(t *testing.T) {
	c := func(name string, asks ...gpu.Ask) gpu.ContainerRequest {
		return gpu.ContainerRequest{Name: name, Asks: asks}
	}
	setup := func(asks ...gpu.Ask) gpu.ContainerRequest {
		return gpu.ContainerRequest{Name: "setup", Init: true, Asks: asks}
	}
	a30 := func(held string, count int) *cluster.Node {
		var devices []gpu.Device
		for i := range count {
			devices = append(devices, partitioned(i, onDemand))
		}
		return holding(t, held, devices...)
	}
	tests := map[string]struct {
		node       *cluster.Node
		containers []gpu.ContainerRequest
		want       string // "" when it does not fit
	}{
		"the larger share first, so that both find room": {
			left(t, 600, 400), []gpu.ContainerRequest{c("a", share(400)), c("b", share(600))}, "a=g1:400m/40Mi;b=g0:600m/60Mi",
		},
		"the larger share first, so that it finds the place that is just right": {
			left(t, 1000, 700), []gpu.ContainerRequest{c("a", share(300)), c("b", share(700))}, "a=g0:300m/30Mi;b=g1:700m/70Mi",
		},
		"whole GPUs before shares": {
			left(t, 1000, 1000), []gpu.ContainerRequest{c("a", share(400)), c("b", whole(1))}, "a=g1:400m/40Mi;b=g0",
		},
		"the way back from a choice that leads nowhere": {
			// 500+300 on one and 400+400 on the other is the only way.
			left(t, 800, 800),
			[]gpu.ContainerRequest{c("a", share(500)), c("b", share(400)), c("d", share(400)), c("e", share(300))},
			"a=g0:500m/50Mi;b=g1:400m/40Mi;d=g1:400m/40Mi;e=g0:300m/30Mi",
		},
		"an init container on what runs later": {
			left(t, 1000, 1000), []gpu.ContainerRequest{setup(whole(1)), c("a", share(100))}, "~setup=g0;a=g0:100m/10Mi",
		},
		"an init container on what runs later, not on the fullest": {
			left(t, 1000, 500), []gpu.ContainerRequest{setup(share(100)), c("a", whole(1))}, "~setup=g0:100m/10Mi;a=g0",
		},
		"an init container on what another one has": {
			left(t, 1000, 500), []gpu.ContainerRequest{{Name: "first", Init: true, Asks: []gpu.Ask{whole(1)}}, setup(share(100))}, "~first=g0;~setup=g0:100m/10Mi",
		},
		"an init container not on what a sidecar holds": {
			left(t, 1000, 1000),
			[]gpu.ContainerRequest{c("sidecar", share(100)), setup(whole(1)), c("a", share(200))},
			"sidecar=g0:100m/10Mi;~setup=g1;a=g0:200m/20Mi",
		},
		"nowhere, beside a sidecar": {
			left(t, 1000), []gpu.ContainerRequest{c("sidecar", share(100)), setup(whole(1))}, "",
		},
		"a sidecar after the init container is not beside it": {
			left(t, 1000), []gpu.ContainerRequest{setup(whole(1)), c("sidecar", share(100))}, "~setup=g0;sidecar=g0:100m/10Mi",
		},
		"an init container's instance is the one that runs later": {
			a30("", 1),
			[]gpu.ContainerRequest{setup(instances(2, "1g.6gb")), c("a", instances(1, "1g.6gb"))},
			"~setup=g0:1g.6gb@3:1,g0:1g.6gb@2:1;a=g0:1g.6gb@3:1",
		},
		"an init container's instances lie beside others all the same": {
			a30("", 1), []gpu.ContainerRequest{setup(instances(1, "4g.24gb")), c("a", instances(1, "1g.6gb"))}, "",
		},
		"two init containers, one after the other, with one instance": {
			a30("", 1),
			[]gpu.ContainerRequest{setup(instances(1, "4g.24gb")), {Name: "more", Init: true, Asks: []gpu.Ask{instances(1, "4g.24gb")}}},
			"~setup=g0:4g.24gb@0:4;~more=g0:4g.24gb@0:4",
		},
		"not with the instance of a sidecar": {
			a30("", 1), []gpu.ContainerRequest{c("sidecar", instances(1, "4g.24gb")), setup(instances(1, "4g.24gb"))}, "",
		},
		"instances of both, placed together": {
			a30("c=g0:1g.6gb@0:1", 1),
			[]gpu.ContainerRequest{c("a", instances(1, "1g.6gb")), c("b", instances(1, "2g.12gb"))},
			"a=g0:1g.6gb@1:1;b=g0:2g.12gb@2:2",
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			r := gpu.Request{Containers: tc.containers}
			a, err := Assign(tc.node, r, CPU{}, nil)
			if diff := cmp.Diff(tc.want, a.String()); diff != "" {
				t.Errorf("%v: -want +got\n%s", err, diff)
			}
		})
	}
}

// Both GPUs are the pod's already. What counts is the most that the pod holds of each at any time: neither what the init
// container leaves while it runs, nor what the others leave afterwards.
func TestAnInitContainerIsRatedByTheMostThatThePodHolds(t *testing.T) {
	tests := map[string]struct {
		left        []int64
		setup, a, b int64
		want        string
	}{
		"while it runs g1 is the fuller one, at most g0 is": {
			[]int64{1000, 500}, 100, 900, 150, "~setup=g0:100m/10Mi;a=g0:900m/90Mi;b=g1:150m/15Mi",
		},
		"afterwards g0 is the fuller one, at most g1 is": {
			[]int64{1000, 650}, 400, 700, 310, "~setup=g1:400m/40Mi;a=g0:700m/70Mi;b=g1:310m/31Mi",
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			r := gpu.Request{Containers: []gpu.ContainerRequest{
				{Name: "setup", Init: true, Asks: []gpu.Ask{share(tc.setup)}}, {Name: "a", Asks: []gpu.Ask{share(tc.a)}}, {Name: "b", Asks: []gpu.Ask{share(tc.b)}},
			}}
			if a, err := Assign(left(t, tc.left...), r, CPU{}, BestFit{}); a.String() != tc.want {
				t.Errorf("got %q and %v, want %q", a, err, tc.want)
			}
		})
	}
}

func TestAbsurdRequestsAreRefusedAtOnce(t *testing.T) {
	var many []gpu.ContainerRequest
	for i := range 5000 {
		many = append(many, gpu.ContainerRequest{Name: fmt.Sprintf("c%d", i), Asks: []gpu.Ask{whole(gpu.MaxCount), instances(gpu.MaxCount, "1g.6gb")}})
	}
	n := holding(t, "", plain(0), plain(1), partitioned(2, onDemand))
	for name, tc := range map[string]struct {
		request gpu.Request
		want    Reason
	}{
		"whole GPUs": {asking(whole(gpu.MaxCount)), TooFewGPUs},
		"shares":     {asking(gpu.Ask{Kind: gpu.Shared, Count: gpu.MaxCount, MilliGPU: 1}), TooFewGPUs},
		"instances":  {asking(instances(gpu.MaxCount, "1g.6gb")), TooFewGPUs},
		"containers": {gpu.Request{Containers: many}, TooFewGPUs},
	} {
		t.Run(name, func(t *testing.T) {
			if got := Check(n, tc.request); got != tc.want {
				t.Errorf("got %v, want %v", got, tc.want)
			}
			if _, err := Assign(n, tc.request, CPU{}, Spread{}); err == nil {
				t.Error("is assigned")
			}
		})
	}
}

func TestNewStrategy(t *testing.T) {
	mix := NewMix(map[Class]int64{wholeClass(1): 1})
	for name, want := range map[string]string{
		PotentialName: "fit.Potential", FragmentationName: "fit.Fragmentation", BestFitName: "fit.BestFit", SpreadName: "fit.Spread",
	} {
		s, err := NewStrategy(name, mix)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if got := fmt.Sprintf("%T", s); got != want {
			t.Errorf("%s is a %s", name, got)
		}
	}
	if diff := cmp.Diff([]string{"potential", "fragmentation", "bestfit", "spread"}, StrategyNames()); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	_, err := NewStrategy("best", mix)
	if want := `strategy "best": want one of potential, fragmentation, bestfit, spread`; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestSigmoid(t *testing.T) {
	for gain, want := range map[int64]int64{
		0: 50, 1: 50, -1: 49, 1_000_000: 73, -1_000_000: 26, 250_000: 56, -250_000: 43,
		8_000_000: 99, math.MaxInt64: 100, math.MinInt64: 0, 64_000_000: 100, -64_000_000: 0,
	} {
		if got := sigmoid(gain); got != want {
			t.Errorf("a gain of %d micro-GPU is %d, want %d", gain, got, want)
		}
	}
}
