package gang_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"weft.sh/weft/pkg/cluster"
	"weft.sh/weft/pkg/fit"
	"weft.sh/weft/pkg/gang"
	"weft.sh/weft/pkg/gpu"
)

// randomProblem is a tree of racks, cliques and nodes, some partly in use, and a gang for it that has a place more often than not. With a launcher there are two
// shapes.
// Where it is tangled, cliques span racks.
func randomProblem(r *rand.Rand, mostNodes int, launcher, tangled bool) *gang.Problem {
	p := &gang.Problem{
		Gang: gang.Key{Namespace: "ns", Name: "train"}, Levels: []string{"clique", "rack", "zone"}, Resources: []string{"cpu"},
		Strategy: []fit.Strategy{nil, fit.BestFit{}, fit.Spread{}}[r.IntN(3)],
	}
	ask := []gpu.Ask{
		{Kind: gpu.Whole, Count: 8},
		{Kind: gpu.Whole, Count: 4},
		{Kind: gpu.Whole, Count: 1 + r.IntN(3)},
		{Kind: gpu.Shared, Count: 1, MilliGPU: 500},
	}[r.IntN(4)]
	cores := int64(1 + r.IntN(4))
	p.Shapes = []gang.Shape{{
		Name: "ns/worker", Request: gpu.Request{Containers: []gpu.ContainerRequest{{Name: "main", Asks: []gpu.Ask{ask}}}},
		MilliCPU: cores * 1000, Ask: []int64{cores},
	}}
	if launcher {
		var request gpu.Request
		if r.IntN(2) == 0 {
			request = wholeGPUs(1 + r.IntN(2))
		}
		p.Shapes = append(p.Shapes, gang.Shape{Name: "ns/launcher", Request: request, MilliCPU: 2000, Ask: []int64{int64(1 + r.IntN(8))}})
	}
	nodes := 12 + r.IntN(mostNodes-11)
	cliques := 2 + r.IntN(7)
	racks := 1 + r.IntN(min(cliques, 4))
	slots := 0
	for i := range nodes {
		clique := i * cliques / nodes
		if r.IntN(8) == 0 {
			clique = r.IntN(cliques)
		}
		rack := clique * racks / cliques
		if tangled && r.IntN(4) == 0 {
			rack = r.IntN(racks)
		}
		name := fmt.Sprintf("node-%02d", i)
		devices := make([]gpu.Device, []int{8, 8, 8, 4}[r.IntN(4)])
		for g := range devices {
			devices[g] = gpu.Device{ID: gpu.ID(fmt.Sprintf("GPU-%d-%d", i, g)), Index: g, Product: "H100", MemoryMiB: 81559}
		}
		n := cluster.NewNode(name, cluster.NewInventory(cluster.SourceSlices, devices), nil)
		if r.IntN(2) == 0 {
			n = n.With(cluster.NewPod("other-"+name, "ns/other", holding(devices[:1+r.IntN(len(devices))])))
		}
		node := gang.Node{
			Name: name, GPUs: n, MilliCPU: 64_000, Free: []int64{int64(r.IntN(24))},
			Domains: []string{fmt.Sprint("clique-", clique), fmt.Sprint("rack-", rack), fmt.Sprint("zone-", rack/2)},
		}
		for range p.Shapes {
			node.Limit = append(node.Limit, []int{gang.NoLimit, gang.NoLimit, 0, 1, 2}[r.IntN(5)])
		}
		slots += slotsOf(p, &node, 0)
		p.Nodes = append(p.Nodes, node)
	}
	workers := 1 + r.IntN(max(1, slots*5/4))
	if r.IntN(2) == 0 {
		workers = 1 + r.IntN(12)
	}
	if launcher {
		workers = 1 + r.IntN(7)
		for range 1 + r.IntN(3) {
			p.Members = append(p.Members, gang.Member{Shape: 1})
		}
	}
	p.Members = append(p.Members, make([]gang.Member, workers)...)
	for i := range p.Members {
		p.Members[i].UID, p.Members[i].Name = fmt.Sprint("uid-", i), fmt.Sprint("ns/train-", i)
	}
	p.Min = len(p.Members)
	switch r.IntN(4) {
	case 0:
		p.Required = []string{"clique", "rack", "zone"}[r.IntN(3)]
	case 1:
		p.Preferred = []string{"clique", "rack", "zone"}[r.IntN(3)]
	}
	if r.IntN(3) == 0 { // some run already, where they are counted as in use
		for range 1 + r.IntN(3) {
			at := r.IntN(nodes)
			for i := range 1 + r.IntN(2) {
				uid := fmt.Sprint("running-", at, "-", len(p.Members)+i)
				p.Members = append(p.Members, gang.Member{UID: uid, Name: "ns/" + uid, Node: p.Nodes[at].Name})
			}
		}
		p.Min = len(p.Members)
	}
	return p
}

// slotsOf counts members of the shape by putting them on the node one by one.
func slotsOf(p *gang.Problem, n *gang.Node, shape int) int {
	at := *n
	count := 0
	for count < at.Limit[shape] && putOn(p, &at, shape, count) {
		count++
	}
	return count
}

// putOn puts a member of the shape on the node, if GPUs and resources are there; limits are the caller's.
func putOn(p *gang.Problem, n *gang.Node, shape, number int) bool {
	s := &p.Shapes[shape]
	for i, ask := range s.Ask {
		if ask > 0 && n.Free[i] < ask {
			return false
		}
	}
	a, err := fit.Assign(n.GPUs, s.Request, fit.CPU{FreeMilli: n.MilliCPU, AskMilli: s.MilliCPU}, p.Strategy)
	if err != nil {
		return false
	}
	n.Free = slices.Clone(n.Free)
	for i, ask := range s.Ask {
		n.Free[i] -= ask
	}
	n.MilliCPU -= s.MilliCPU
	n.GPUs = n.GPUs.With(cluster.NewPod(fmt.Sprint("dumb-", shape, "-", number), "ns/dumb", a))
	return true
}

// combinationsOf are all pairs of numbers of members of the two shapes that the node takes, whatever the order.
func combinationsOf(p *gang.Problem, n *gang.Node, most [2]int) map[[2]int]bool {
	out := map[[2]int]bool{}
	var visit func(n gang.Node, at [2]int)
	visit = func(n gang.Node, at [2]int) {
		if out[at] {
			return
		}
		out[at] = true
		for shape := range most {
			if at[shape] == most[shape] || at[shape] >= n.Limit[shape] {
				continue
			}
			next, with := n, at
			if putOn(p, &next, shape, at[shape]) {
				with[shape]++
				visit(next, with)
			}
		}
	}
	visit(*n, [2]int{})
	return out
}

// bestSpread is the least of what the plan minimises first: the domains of the preferred level, then of zones, racks, cliques, and
// nodes; nil where there is no plan. It looks at every set of cliques.
func bestSpread(p *gang.Problem) []int {
	var cliques []string
	used := map[string]bool{}
	for _, m := range p.Members {
		used[m.Node] = m.Node != ""
	}
	for _, n := range p.Nodes {
		if !slices.Contains(cliques, n.Domains[0]) {
			cliques = append(cliques, n.Domains[0])
		}
	}
	var need [2]int
	for _, m := range p.Members {
		if m.Node == "" {
			need[m.Shape]++
		}
	}
	combinations := make([]map[[2]int]bool, len(p.Nodes))
	slots := make([]int, len(p.Nodes))
	for i := range p.Nodes {
		if len(p.Shapes) == 1 {
			slots[i] = slotsOf(p, &p.Nodes[i], 0)
		} else {
			combinations[i] = combinationsOf(p, &p.Nodes[i], need)
		}
	}
	pins := pinned(p)
	var best []int
	for set := 1; set < 1<<len(cliques); set++ {
		var in []int
		var spare []int // nodes that are used already, and those of the set
		for i, n := range p.Nodes {
			c := slices.Index(cliques, n.Domains[0])
			if set&(1<<c) != 0 || used[n.Name] {
				spare = append(spare, i)
			}
		}
		if p.Required != "" {
			l := slices.Index(p.Levels, p.Required)
			value := ""
			if pins != nil {
				spare = slices.DeleteFunc(spare, func(i int) bool { return !slices.Contains(pins, p.Nodes[i].Domains[l]) })
			}
			if len(spare) > 0 {
				value = p.Nodes[spare[0]].Domains[l]
			}
			if slices.ContainsFunc(spare, func(i int) bool { return p.Nodes[i].Domains[l] != value }) {
				continue
			}
		}
		if len(p.Shapes) == 1 {
			in = fewestNodes(p, spare, slots, need[0], used)
		} else {
			in = fewestMixed(p, spare, combinations, need, used)
		}
		if in == nil {
			continue
		}
		if s := spreadOf(p, in); best == nil || slices.Compare(s, best) < 0 {
			best = s
		}
	}
	return best
}

// pinned are the required domains where most of the members are that have a place: nil where there are none.
func pinned(p *gang.Problem) []string {
	if p.Required == "" {
		return nil
	}
	l := slices.Index(p.Levels, p.Required)
	counts, most := map[string]int{}, 0
	for _, m := range p.Members {
		for _, n := range p.Nodes {
			if n.Name == m.Node {
				counts[n.Domains[l]]++
				most = max(most, counts[n.Domains[l]])
			}
		}
	}
	var out []string
	for v, n := range counts {
		if n == most {
			out = append(out, v)
		}
	}
	slices.Sort(out)
	return out[:min(len(out), 1)]
}

// fewestNodes are the fewest of the nodes that take the members, used ones being free.
func fewestNodes(p *gang.Problem, nodes, slots []int, need int, used map[string]bool) []int {
	nodes = slices.Clone(nodes)
	slices.SortStableFunc(nodes, func(a, b int) int {
		if used[p.Nodes[a].Name] != used[p.Nodes[b].Name] {
			if used[p.Nodes[a].Name] {
				return -1
			}
			return 1
		}
		return slots[b] - slots[a]
	})
	out := []int{}
	for _, i := range nodes {
		if need <= 0 {
			break
		}
		if slots[i] > 0 {
			need -= slots[i]
			out = append(out, i)
		}
	}
	if need > 0 {
		return nil
	}
	return out
}

// fewestMixed is fewestNodes for two shapes: a table over the nodes one by one.
func fewestMixed(p *gang.Problem, nodes []int, combinations []map[[2]int]bool, need [2]int, used map[string]bool) []int {
	type entry struct {
		cost int
		in   []int
	}
	table := map[[2]int]entry{{}: {0, []int{}}}
	for _, i := range nodes {
		next := map[[2]int]entry{}
		for at, e := range table {
			for c := range combinations[i] {
				to := [2]int{min(at[0]+c[0], need[0]), min(at[1]+c[1], need[1])}
				with := e
				if to != at {
					if !used[p.Nodes[i].Name] {
						with.cost++
					}
					with.in = append(slices.Clone(e.in), i)
				}
				if old, ok := next[to]; !ok || with.cost < old.cost {
					next[to] = with
				}
			}
		}
		table = next
	}
	if e, ok := table[need]; ok {
		return e.in
	}
	return nil
}

// spreadOf is the number of domains of the preferred level, zones, racks, cliques and nodes of members on the nodes and of those
// that run.
func spreadOf(p *gang.Problem, nodes []int) []int {
	for i, n := range p.Nodes {
		if slices.ContainsFunc(p.Members, func(m gang.Member) bool { return m.Node == n.Name }) {
			nodes = append(nodes, i)
		}
	}
	count := func(l int) int {
		seen := map[string]bool{}
		for _, i := range nodes {
			seen[append(slices.Clone(p.Nodes[i].Domains), p.Nodes[i].Name)[l]] = true
		}
		return len(seen)
	}
	out := []int{0, count(2), count(1), count(0), count(3)}
	if p.Preferred != "" {
		out[0] = count(slices.Index(p.Levels, p.Preferred))
	}
	return out
}

func nodesOf(r *gang.Result) []int {
	var out []int
	for _, at := range r.Placements {
		out = append(out, at.Node)
	}
	return out
}

func TestPlanAgainstExhaustiveSearch(t *testing.T) {
	for _, tc := range []struct {
		name      string
		launcher  bool
		mostNodes int
		rounds    int
	}{
		{"members of one shape", false, 60, 700},
		{"launchers and workers", true, 24, 150},
	} {
		t.Run(tc.name, func(t *testing.T) {
			plans, optimal, gap := 0, 0, 0
			for round := range tc.rounds {
				r := rand.New(rand.NewPCG(4, uint64(round)))
				p := randomProblem(r, tc.mostNodes, tc.launcher, false)
				want := bestSpread(p)
				res, rejection := gang.Plan(p)
				if rejection.OK() != (want != nil) {
					t.Fatalf("round %d: %q, the least spread is %v", round, rejection.Message(), want)
				}
				if !rejection.OK() {
					continue
				}
				if err := gang.Verify(p, res); err != nil {
					t.Fatalf("round %d: %v", round, err)
				}
				plans++
				got := spreadOf(p, nodesOf(res))
				if diff := cmp.Diff(want, got); diff == "" {
					optimal++
				} else {
					t.Logf("round %d, required %q, preferred %q: -want +got\n%s", round, p.Required, p.Preferred, diff)
					for l := range got {
						gap += max(0, got[l]-want[l])
					}
				}
			}
			t.Logf("%d of %d have a plan; of those %.2f percent are optimal in domains and nodes at every level, the mean gap is %.4f domains",
				plans, tc.rounds, 100*float64(optimal)/float64(plans), float64(gap)/float64(plans))
			if plans < tc.rounds/3 || plans > tc.rounds*19/20 {
				t.Errorf("%d of %d have a plan: the instances are not what they should be", plans, tc.rounds)
			}
			if 100*optimal < 99*plans {
				t.Errorf("%d of %d plans are optimal", optimal, plans)
			}
		})
	}
}

// Elastic gangs: what is placed is as much as the required domain holds, and never less than the minimum.
func TestPlanOfElasticGangs(t *testing.T) {
	grown, surplusOnly, refused := 0, 0, 0
	for round := range 600 {
		r := rand.New(rand.NewPCG(5, uint64(round)))
		p := randomProblem(r, 40, r.IntN(3) == 0, r.IntN(2) == 0)
		for i := range r.IntN(40) {
			uid := fmt.Sprint("more-", i)
			p.Members = append(p.Members, gang.Member{UID: uid, Name: "ns/" + uid})
		}
		p.Min = r.IntN(len(p.Members) + 1)
		res, rejection := gang.Plan(p)
		if !rejection.OK() {
			refused++
			if p.Min == 0 && len(p.Shapes) == 1 && pinned(p) == nil {
				for i := range p.Nodes {
					if slotsOf(p, &p.Nodes[i], 0) > 0 {
						t.Fatalf("round %d: %s, though %s takes a member", round, rejection.Message(), p.Nodes[i].Name)
					}
				}
			}
			continue
		}
		if err := gang.Verify(p, res); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		if len(res.Surplus) > 0 {
			surplusOnly++
		}
		if len(res.Placements) > p.Min {
			grown++
		}
		if len(p.Shapes) > 1 {
			continue
		}
		room := 0
		for i, n := range p.Nodes {
			l := slices.Index(p.Levels, p.Required)
			if len(res.Placements) > 0 && (l < 0 || n.Domains[l] == p.Nodes[res.Placements[0].Node].Domains[l]) {
				room += slotsOf(p, &p.Nodes[i], 0)
			}
		}
		if got := len(res.Placements); got != min(room, got+len(res.Surplus)) {
			t.Fatalf("round %d: %d members are placed, %d are surplus; there is room for %d", round, got, len(res.Surplus), room)
		}
	}
	if grown < 50 || surplusOnly < 50 || refused < 50 {
		t.Errorf("%d grown, %d with surplus, %d refused: the instances are not what they should be", grown, surplusOnly, refused)
	}
}

func TestPlanIsTheSameWhateverTheOrderOfTheNodes(t *testing.T) {
	named := func(p *gang.Problem) map[string]string {
		res, rejection := gang.Plan(p)
		out := map[string]string{"rejection": rejection.Message()}
		if res != nil {
			for _, at := range res.Placements {
				out[p.Members[at.Member].Name] = p.Nodes[at.Node].Name + " " + at.Assignment.String()
			}
			out["result"] = fmt.Sprint(res.Surplus, res.Domains, res.Level, res.Domain, res.Truncated)
		}
		return out
	}
	for round := range 200 {
		r := rand.New(rand.NewPCG(6, uint64(round)))
		p := randomProblem(r, 40, r.IntN(2) == 0, r.IntN(2) == 0)
		p.Effort = []int{0, 0, 1, 1000}[r.IntN(4)]
		want := named(p)
		for range 3 {
			r.Shuffle(len(p.Nodes), func(i, j int) { p.Nodes[i], p.Nodes[j] = p.Nodes[j], p.Nodes[i] })
			if diff := cmp.Diff(want, named(p)); diff != "" {
				t.Fatalf("round %d: -before +shuffled\n%s", round, diff)
			}
		}
	}
}

// However little the effort, one shape is placed whenever it can be, and two nearly always.
func TestPlanWithLittleEffort(t *testing.T) {
	for _, tc := range []struct {
		name     string
		launcher bool
		percent  int
	}{
		{"members of one shape", false, 100},
		{"launchers and workers", true, 95},
	} {
		t.Run(tc.name, func(t *testing.T) {
			plans, found, truncated := 0, 0, 0
			for round := range 300 {
				r := rand.New(rand.NewPCG(7, uint64(round)))
				p := randomProblem(r, 60, tc.launcher, false)
				_, rejection := gang.Plan(p)
				p.Effort = 1
				res, little := gang.Plan(p)
				if rejection.OK() {
					plans++
				} else if little.OK() {
					t.Fatalf("round %d: %q with effort, a plan with little", round, rejection.Message())
				}
				if res == nil {
					continue
				}
				found++
				if err := gang.Verify(p, res); err != nil {
					t.Fatalf("round %d: %v", round, err)
				}
				if res.Truncated {
					truncated++
				}
			}
			t.Logf("%d of %d plans are found, %d are truncated", found, plans, truncated)
			if 100*found < tc.percent*plans || plans < 150 || truncated < 50 {
				t.Errorf("%d of %d plans are found, %d are truncated", found, plans, truncated)
			}
		})
	}
}
