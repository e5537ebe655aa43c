package simulator

import (
	"context"
	"errors"
	"fmt"
	"math/rand"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"weft.sh/weft/pkg/fit"
	"weft.sh/weft/pkg/trace"
)

// small is a workload made up from a seed: a dozen nodes of three types, and a few hundred pods of every kind.
func small(t testing.TB, seed int64) *Workload {
	t.Helper()
	nodes, pods := smallLists(seed)
	w, err := NewWorkload(fmt.Sprintf("small-%d", seed), nodes, pods)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func smallLists(seed int64) (nodes []trace.Node, pods []trace.Pod) {
	r := rand.New(rand.NewSource(seed))
	shapes := []trace.Node{
		{MilliCPU: 32_000, MemoryMiB: 131_072, GPUs: 2, Model: "T4"},
		{MilliCPU: 96_000, MemoryMiB: 262_144, GPUs: 8, Model: "A10"},
		{MilliCPU: 64_000, MemoryMiB: 262_144, GPUs: 4, Model: "T4"},
		{MilliCPU: 16_000, MemoryMiB: 65_536},
	}
	for i := range 12 {
		n := shapes[(i+r.Intn(2))%len(shapes)]
		n.Name = fmt.Sprintf("node-%d", i)
		nodes = append(nodes, n)
	}
	nodes = append(nodes, trace.Node{Name: "last", MilliCPU: 96_000, MemoryMiB: 262_144, GPUs: 8, Model: "A10"})
	classes := []trace.Pod{
		{MilliCPU: 4_000, MemoryMiB: 8_192},
		{MilliCPU: 4_000, MemoryMiB: 16_384, GPUs: 1, MilliGPU: 1000},
		{MilliCPU: 2_000, MemoryMiB: 8_192, GPUs: 1, MilliGPU: 330},
		{MilliCPU: 6_000, MemoryMiB: 8_192, GPUs: 1, MilliGPU: 500},
		{MilliCPU: 6_000, MemoryMiB: 65_536, GPUs: 1, MilliGPU: 810},
		{MilliCPU: 8_000, MemoryMiB: 32_768, GPUs: 2, MilliGPU: 1000},
		{MilliCPU: 30_000, MemoryMiB: 65_536, GPUs: 4, MilliGPU: 1000},
		{MilliCPU: 1_000, MemoryMiB: 1_024, GPUs: 1, MilliGPU: 250, Models: []string{"T4", "P100"}},
		{MilliCPU: 1_000, MemoryMiB: 1_024, GPUs: 2, MilliGPU: 400},
		{MilliCPU: 60_000, MemoryMiB: 65_536, GPUs: 8, MilliGPU: 1000, Models: []string{"A10"}},
	}
	for i := range 60 {
		p := classes[r.Intn(len(classes))]
		p.Name = fmt.Sprintf("pod-%03d", i)
		pods = append(pods, p)
	}
	return nodes, append(pods, trace.Pod{Name: "zzz", MilliCPU: 1_000, GPUs: 1, MilliGPU: 100})
}

// TestTheSameSeedGivesTheSameLines: whatever the number of processors, and whatever runs beside.
func TestTheSameSeedGivesTheSameLines(t *testing.T) {
	lineup := Lineup{Workloads: []*Workload{small(t, 1), small(t, 2)}, Policies: PolicyNames(), Seeds: []int64{7, 8, 9}, Load: 1.2, Bound: true}
	lines := func() (out []Line) {
		err := lineup.Run(t.Context(), func(l Line) error {
			l.PodsPerSecond = 0
			out = append(out, l)
			return nil
		}, func(Progress) {})
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	before := runtime.GOMAXPROCS(4)
	defer runtime.GOMAXPROCS(before)
	first := lines()
	if len(first) != lineup.Runs() {
		t.Fatalf("%d lines, want %d", len(first), lineup.Runs())
	}
	runtime.GOMAXPROCS(1)
	if diff := cmp.Diff(first, lines(), cmp.AllowUnexported(Line{}, point{})); diff != "" {
		t.Error(diff)
	}
	seeds := map[int64]bool{}
	for _, l := range first {
		seeds[l.Seed] = true
		if l.Placed < l.Pods/2 || l.AllocFinal < 50 || l.AllocFinal > 100 {
			t.Errorf("%s under %s: %d of %d pods placed, %g percent", l.Workload, l.Policy, l.Placed, l.Pods, l.AllocFinal)
		}
		// The figure at 100 percent is a mean up to 100.5 percent, the bound is for no more than 100.
		if l.AllocAt100 == nil || *l.AllocAt100 > *l.BoundAt100+0.5 {
			t.Errorf("%s under %s: allocated %v percent, the bound is %v", l.Workload, l.Policy, l.AllocAt100, l.BoundAt100)
		}
	}
	if len(seeds) != 3 {
		t.Errorf("seeds %v", seeds)
	}
}

// TestScoresThatAreKeptAreThoseOfNow: a run that keeps scores places every pod as one that keeps none.
func TestScoresThatAreKeptAreThoseOfNow(t *testing.T) {
	for _, policy := range PolicyNames() {
		for seed := range int64(4) {
			w := small(t, seed)
			arriving, _, _, err := w.arrivals(seed, 1.5)
			if err != nil {
				t.Fatal(err)
			}
			kept, fresh := start(t, w, policy, seed), start(t, w, policy, seed)
			for i, c := range arriving {
				clear(fresh.scores)
				for _, r := range []*run{kept, fresh} {
					if err := r.arrive(t.Context(), &w.classes[c]); err != nil {
						t.Fatal(err)
					}
				}
				if diff := cmp.Diff(fresh.changed, kept.changed); diff != "" {
					t.Fatalf("%s, pod %d (- without, + with scores kept):\n%s", policy, i, diff)
				}
			}
			checkState(t, w, kept)
		}
	}
}

func start(t *testing.T, w *Workload, policy string, seed int64) *run {
	t.Helper()
	_, order, source, err := w.arrivals(seed, 1.5)
	if err != nil {
		t.Fatal(err)
	}
	p, err := newPolicy(policy, w, source)
	if err != nil {
		t.Fatal(err)
	}
	r := newRun(w, p, p.order(order))
	return r
}

// checkState: what is kept beside the nodes is what the nodes say.
func checkState(t *testing.T, w *Workload, r *run) {
	t.Helper()
	var left, fragment int64
	for i := range r.nodes {
		n := &r.nodes[i]
		left += n.milliGPU()
		fragment += dumbFragment(w, n)
		if n.milliCPU < 0 || n.memoryMiB < 0 || slices.Min(append(n.free, 0)) < 0 {
			t.Errorf("node %d is overbooked: %+v", i, n)
		}
	}
	if left != w.milliGPU()-r.allocated {
		t.Errorf("%d milli-GPU are left, %d of %d are allocated", left, r.allocated, w.milliGPU())
	}
	if fragment != r.fragment {
		t.Errorf("fragment %d, want %d", r.fragment, fragment)
	}
}

// dumbFragment is target.fragment class by class, for workloads whose target is all of their classes but the rarest.
func dumbFragment(w *Workload, n *node) int64 {
	type key struct {
		cpu, milli int64
		gpus       int
		models     string
	}
	counts := map[key]int64{}
	one := map[key]*class{}
	for _, id := range w.pods {
		c := &w.classes[id]
		k := key{c.milliCPU, c.milliGPU, c.gpus, strings.Join(c.models, "|")}
		counts[k]++
		one[k] = c
	}
	var keys []key
	for k := range counts {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b key) int {
		switch {
		case counts[a] != counts[b]:
			return int(counts[b] - counts[a])
		case a.cpu != b.cpu:
			return int(b.cpu - a.cpu)
		case a.milli != b.milli:
			return int(b.milli - a.milli)
		case a.gpus != b.gpus:
			return b.gpus - a.gpus
		}
		return strings.Compare(b.models, a.models)
	})
	var sum, covered int64
	for _, k := range keys {
		if covered*100 >= int64(len(w.pods))*95 {
			break
		}
		covered += counts[k]
		c := *one[k]
		c.memoryMiB = 0
		for _, left := range n.free {
			if c.gpus == 0 || !n.fits(&c) || left < c.milliGPU {
				sum += counts[k] * left
			}
		}
	}
	return sum
}

// TestPluginDecidesAsTheCoreAlone: the policy default against a loop over fit.Check, fit.Score and fit.Rank.
func TestPluginDecidesAsTheCoreAlone(t *testing.T) {
	for seed := range int64(6) {
		w := small(t, seed)
		r := start(t, w, "default", seed)
		p := r.policy.(*plugin)
		arriving, _, _, err := w.arrivals(seed, 1.5)
		if err != nil {
			t.Fatal(err)
		}
		for i, id := range arriving {
			c := &w.classes[id]
			before, states := slices.Clone(p.nodes), slices.Clone(r.nodes)
			placed := len(r.changed)
			if err := r.arrive(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			var names []string
			var scores []int64
			for n := range before {
				free := fit.CPU{FreeMilli: states[n].milliCPU, AskMilli: c.milliCPU}
				if fit.Check(before[n], p.requests[id]) == fit.Fits && free.AskMilli <= free.FreeMilli && c.memoryMiB <= states[n].memoryMiB {
					names = append(names, before[n].Name)
					scores = append(scores, fit.Score(before[n], p.requests[id], free, p.shape.Strategy()))
				}
			}
			want, got := "", ""
			if len(names) > 0 {
				ranks := fit.Rank(names, scores)
				want = names[slices.Index(ranks, slices.Max(ranks))]
			}
			if len(r.changed) > placed {
				got = p.nodes[r.changed[placed]].Name
			}
			if got != want {
				t.Fatalf("seed %d, pod %d: placed on %q, want %q", seed, i, got, want)
			}
		}
		for n := range p.nodes {
			for g := range p.nodes[n].GPUs {
				if got := 1000 - p.nodes[n].AssignedMilliGPU(g); got != r.nodes[n].free[g] {
					t.Errorf("GPU %d of %s: %d left in the core, %d in the simulator", g, p.nodes[n].Name, got, r.nodes[n].free[g])
				}
			}
			if c := p.nodes[n].Conflicts(); len(c) > 0 {
				t.Error(c)
			}
		}
	}
}

// TestTheOrderOfTheListsDoesNotMatter: only the names decide what is drawn.
func TestTheOrderOfTheListsDoesNotMatter(t *testing.T) {
	one := func(reverse bool) []Line {
		nodes, pods := smallLists(5)
		if reverse {
			slices.Reverse(nodes)
			slices.Reverse(pods)
		}
		w, err := NewWorkload("w", nodes, pods)
		if err != nil {
			t.Fatal(err)
		}
		var out []Line
		for _, policy := range PolicyNames() {
			l, err := simulate(t.Context(), w, nil, policy, 1, 1.3, nil, nil, func(int, int) {})
			if err != nil {
				t.Fatal(err)
			}
			l.PodsPerSecond = 0
			out = append(out, l)
		}
		return out
	}
	if diff := cmp.Diff(one(false), one(true), cmp.AllowUnexported(Line{}, point{})); diff != "" {
		t.Error(diff)
	}
}

func TestArrivals(t *testing.T) {
	w := small(t, 3)
	for _, load := range []float64{0.3, 1, 1.3, 4} {
		arriving, order, _, err := w.arrivals(42, load)
		if err != nil {
			t.Fatal(err)
		}
		var asked int64
		for _, c := range arriving {
			asked += w.classes[c].total()
		}
		// It ends where one GPU of the next pod would be too much; the largest pod has 8.
		if got := float64(asked) / float64(w.milliGPU()); got > load+8/float64(w.gpus) || got < load-8/float64(w.gpus) {
			t.Errorf("load %g: the pods ask for %g", load, got)
		}
		slices.Sort(order)
		for i, n := range order {
			if i != n {
				t.Fatalf("order is no permutation: %v", order)
			}
		}
	}
}

func TestBadWorkloads(t *testing.T) {
	nodes := []trace.Node{{Name: "a", MilliCPU: 1000, MemoryMiB: 1000, GPUs: 1, Model: "T4"}}
	pods := []trace.Pod{{Name: "p", GPUs: 1, MilliGPU: 500}}
	tests := map[string]struct {
		nodes []trace.Node
		pods  []trace.Pod
		err   string
	}{
		"no nodes":         {nil, pods, "none of the 0 nodes has a GPU"},
		"nodes with none":  {[]trace.Node{{Name: "a", MilliCPU: 1000}}, pods, "none of the 1 nodes has a GPU"},
		"no pods":          {nodes, nil, "none of the 0 pods asks for a GPU"},
		"pods of CPU only": {nodes, []trace.Pod{{Name: "p", MilliCPU: 1}}, "none of the 1 pods asks for a GPU"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if _, err := NewWorkload("w", tc.nodes, tc.pods); !errors.Is(err, ErrBadWorkload) || !strings.Contains(err.Error(), tc.err) {
				t.Errorf("got %v", err)
			}
		})
	}
	w, err := NewWorkload("w", nodes, append(pods,
		trace.Pod{Name: "q", GPUs: 2, MilliGPU: 1000}, trace.Pod{Name: "r", MilliCPU: 2000}, trace.Pod{Name: "s", GPUs: 1, MilliGPU: 1000, Models: []string{"P4"}}))
	if err != nil || w.TooLarge() != 3 {
		t.Errorf("%d pods are too large (%v), want 3", w.TooLarge(), err)
	}
}

func TestScores(t *testing.T) {
	n := func(cpu int64, free ...int64) *node { return &node{milliCPU: cpu, free: free} }
	pod := func(cpu int64, gpus int, milli int64) *class {
		return &class{milliCPU: cpu, gpus: gpus, milliGPU: milli}
	}
	together := n(0, 500, 500)
	together.kinds[0] = 2
	among := n(0, 500, 0)
	among.kinds[0], among.kinds[1] = 1, 1
	other := n(0, 0, 1000)
	other.kinds[1] = 1
	tests := map[string]struct {
		policy Policy
		node   *node
		class  *class
		want   int64
	}{
		"bestfit: half of everything is left":         {bestFit{}, n(65_000, 1000, 1000, 1000, 1000, 1000), pod(1_000, 1, 1000), 100 + 50},
		"bestfit: nothing is left":                    {bestFit{}, n(1_000, 1000), pod(1_000, 1, 1000), 100 + 100},
		"bestfit: a part is cut off":                  {bestFit{}, n(1_001, 1000), pod(1_000, 1, 1000), 100 + 99},
		"dotprod: nothing asked":                      {dotProd{}, n(128_000, 1000), pod(0, 0, 0), 100 + 100},
		"dotprod: all of a large node":                {dotProd{}, n(128_000, 1000, 1000, 1000, 1000, 1000, 1000, 1000, 1000), pod(128_000, 8, 1000), 100 + 0},
		"packing: on a GPU in use":                    {gpuPacking{}, n(0, 460, 1000), pod(0, 1, 400), 100 - 4},
		"packing: on an idle GPU of a node in use":    {gpuPacking{}, n(0, 300, 1000), pod(0, 1, 400), 49},
		"packing: on idle GPUs of a node in use":      {gpuPacking{}, n(0, 300, 1000, 1000), pod(0, 2, 1000), 48},
		"packing: on an idle node":                    {gpuPacking{}, n(0, 1000, 1000), pod(0, 1, 400), 31},
		"packing: without GPUs":                       {gpuPacking{}, n(0, 1000, 1000), pod(0, 0, 0), 0},
		"clustering: its kind alone":                  {gpuClustering{}, together, pod(0, 1, 400), 75 + 21},
		"clustering: its kind among others":           {gpuClustering{}, among, pod(0, 1, 400), 50 + 23},
		"clustering: nobody":                          {gpuClustering{}, n(0, 1000, 1000), pod(0, 1, 400), 25 + 18},
		"clustering: others only":                     {gpuClustering{}, other, pod(0, 1, 400), 0 + 21},
		"clustering: one whole GPU is a kind":         {gpuClustering{}, other, pod(0, 1, 1000), 75 + 21},
		"clustering: a pod without GPUs has no wish":  {gpuClustering{}, other, pod(0, 0, 0), 0},
		"random: all nodes are equal":                 {&randomFit{}, other, pod(0, 1, 1000), 0},
		"fgd: of no consequence":                      {fgd{target: &target{total: 1, byModel: [][]targetGroup{{}}}}, n(0), pod(0, 0, 0), 50},
		"fgd: a GPU that nobody can use comes to use": {fgd{target: &target{total: 1, byModel: [][]targetGroup{{}}}}, &node{free: []int64{1000}, fragment: 1000}, pod(0, 1, 1000), 73},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			free := slices.Clone(tc.node.free)
			if got := tc.policy.score(0, tc.node, tc.class); got != tc.want {
				t.Errorf("score %d, want %d", got, tc.want)
			}
			if diff := cmp.Diff(free, tc.node.free, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("the node was changed: %s", diff)
			}
		})
	}
}

func TestParseSeeds(t *testing.T) {
	for in, want := range map[string][]int64{"42": {42}, "42-44, 7,43": {42, 43, 44, 7}, "0-0": {0}} {
		if got, err := ParseSeeds(in); err != nil || !slices.Equal(got, want) {
			t.Errorf("%q: %v, %v", in, got, err)
		}
	}
	for _, in := range []string{"", "a", "3-1", "-1", "1-", "1,,2", "1-1000000000000", "99999999999999999999", "0-5000,10000-15000"} {
		if got, err := ParseSeeds(in); err == nil {
			t.Errorf("%q: %d seeds and no error", in, len(got))
		}
	}
}

func TestParsePolicies(t *testing.T) {
	if got, err := ParsePolicies([]string{"FGD", "all"}); err != nil || len(got) != len(policies) || got[0] != "fgd" {
		t.Errorf("got %v, %v", got, err)
	}
	if _, err := ParsePolicies([]string{"fgd", "worst"}); err == nil || !strings.Contains(err.Error(), `policy "worst": want all or some of random, dotprod`) {
		t.Errorf("got %v", err)
	}
}

// TestAnEndedContextEndsTheRun: with what came before handed over in order.
func TestAnEndedContextEndsTheRun(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	lineup := Lineup{Workloads: []*Workload{small(t, 1)}, Policies: []string{"bestfit"}, Seeds: []int64{1, 2, 3, 4, 5, 6, 7, 8}, Load: 1}
	var seeds []int64
	err := lineup.Run(ctx, func(l Line) error {
		if seeds = append(seeds, l.Seed); len(seeds) == 2 {
			cancel()
		}
		return nil
	}, nil)
	if len(seeds) < 8 && !errors.Is(err, context.Canceled) {
		t.Errorf("got error %v after %d lines", err, len(seeds))
	}
	if !slices.IsSorted(seeds) {
		t.Errorf("lines of seeds %v", seeds)
	}
	full := errors.New("the disk is full")
	if err := lineup.Run(t.Context(), func(Line) error { return full }, nil); !errors.Is(err, full) {
		t.Errorf("got %v", err)
	}
}
