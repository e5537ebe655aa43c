package gpufit

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	fwk "k8s.io/kube-scheduler/framework"
	"k8s.io/kubernetes/pkg/scheduler/framework"

	"weft.sh/weft/pkg/fit"
)

// scores are raw and normalized scores of the nodes, in the order given.
func (r *rig) scores(p *v1.Pod, nodes ...string) (raw, ranks map[string]int64) {
	r.t.Helper()
	state := r.cycleOf(p)
	list := make(fwk.NodeScoreList, len(nodes))
	raw, ranks = map[string]int64{}, map[string]int64{}
	for i, n := range nodes {
		s, status := r.pl.Score(r.t.Context(), state, p, r.nodeInfo(n))
		if !status.IsSuccess() {
			r.t.Fatal(status)
		}
		list[i] = fwk.NodeScore{Name: n, Score: s}
		raw[n] = s
	}
	if status := r.pl.ScoreExtensions().NormalizeScore(r.t.Context(), state, p, list); !status.IsSuccess() {
		r.t.Fatal(status)
	}
	for i, s := range list {
		if s.Name != nodes[i] {
			r.t.Fatalf("NormalizeScore put %s in place of %s", s.Name, nodes[i])
		}
		ranks[s.Name] = s.Score
	}
	return raw, ranks
}

func TestOneNodeIsBestWhateverTheOrder(t *testing.T) {
	for _, strategy := range []string{"potential", "fragmentation", "bestfit", "spread"} {
		t.Run(strategy, func(t *testing.T) {
			r := newRig(t, fmt.Sprintf(`{"strategy":%q}`, strategy))
			var names []string
			for i := range 120 { // all alike: the dear case for whoever breaks ties
				name := fmt.Sprintf("n-%d", i)
				names = append(names, name)
				r.addNode(name, devices(name, "H100", 4)...)
			}
			p := pod("p", percent(50))
			_, want := r.scores(p, names...)
			count := map[int64]int{}
			for _, rank := range want {
				count[rank]++
			}
			if count[100] != 1 || count[99] != 1 || count[1] != 1 || count[0] != len(names)-100 {
				t.Errorf("ranks: %v, want each from 100 to 1 once", count)
			}
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			rng := rand.New(rand.NewPCG(seed, 0))
			for range 3 {
				rng.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
				_, got := r.scores(p, names...)
				if diff := cmp.Diff(want, got); diff != "" {
					t.Fatalf("ranks depend on the order of the nodes:\n%s", diff)
				}
			}
		})
	}
}

func TestAScoreDependsOnItsOwnNodeOnly(t *testing.T) {
	for _, strategy := range []string{"potential", "fragmentation", "bestfit", "spread"} {
		t.Run(strategy, func(t *testing.T) {
			r := newRig(t, fmt.Sprintf(`{"strategy":%q}`, strategy))
			for _, n := range []string{"a", "b", "c"} {
				r.addNode(n, devices(n, "H100", 4)...)
			}
			r.see(pod("x", percent(30), on("b", "main=b-0:300m/24000Mi")))
			p := pod("p", percent(50), tried) // counted before, so that the mix stays
			before, _ := r.scores(p, "a", "b", "c")
			r.see(pod("y", whole(3), on("b", "main=b-1,b-2,b-3")))
			after, _ := r.scores(p, "c", "b", "a")
			if before["a"] != after["a"] || before["c"] != after["c"] {
				t.Errorf("node b changed, and the scores of a and c went from %v to %v", before, after)
			}
			if before["b"] == after["b"] {
				t.Errorf("node b has lost three of four GPUs, and its score is still %d", after["b"])
			}
			if before["a"] != before["c"] {
				t.Errorf("equal nodes have scores %d and %d", before["a"], before["c"])
			}
		})
	}
}

func TestTheStrategyDecidesWhichNodeIsBest(t *testing.T) {
	for strategy, want := range map[string]string{"potential": "used", "fragmentation": "used", "bestfit": "used", "spread": "empty"} {
		t.Run(strategy, func(t *testing.T) {
			r := newRig(t, fmt.Sprintf(`{"strategy":%q}`, strategy))
			r.addNode("empty", devices("empty", "H100", 2)...)
			r.addNode("used", devices("used", "H100", 2)...)
			r.see(pod("x", percent(50), on("used", "main=used-0:500m/40000Mi")))
			_, ranks := r.scores(pod("p", percent(50)), "empty", "used")
			if ranks[want] != 100 {
				t.Errorf("ranks %v, want %s best", ranks, want)
			}
		})
	}
}

func TestPodsWithoutGPUsAreScoredToo(t *testing.T) {
	r := newRig(t, `{"strategy":"bestfit"}`)
	r.addNode("a", devices("a", "H100", 2)...)
	r.see(node("cpu"))
	raw, ranks := r.scores(pod("p"), "a", "cpu")
	if ranks["cpu"] != 100 || raw["cpu"] <= raw["a"] {
		t.Errorf("raw %v, ranks %v: want a node without GPUs to be better", raw, ranks)
	}
}

func TestNormalizeScoreOfNoNodes(t *testing.T) {
	r := newRig(t, "{}")
	if status := r.pl.NormalizeScore(t.Context(), nil, pod("p"), nil); !status.IsSuccess() {
		t.Error(status)
	}
}

func TestTheCPUThatCountsIsWhatOtherPodsLeave(t *testing.T) {
	ni := framework.NewNodeInfo(pod("x"), pod("y"))
	ni.SetNode(node("a"))
	c := &cycle{milliCPU: 250}
	if diff := cmp.Diff(fit.CPU{FreeMilli: 63_000, AskMilli: 250}, c.cpu(ni)); diff != "" {
		t.Error(diff)
	}
}
