package gang_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"weft.sh/weft/pkg/cluster"
	"weft.sh/weft/pkg/fit"
	"weft.sh/weft/pkg/gang"
	"weft.sh/weft/pkg/gpu"
)

// town is eight nodes of eight GPUs, n0 to n7: two to a clique, four to a rack, and a gang of members with eight GPUs each.
func town(members int) *gang.Problem {
	p := &gang.Problem{
		Gang: gang.Key{Namespace: "ml", Name: "train"}, Min: members, Levels: []string{"clique", "rack"}, Resources: []string{"cores", "pods"},
		Shapes: []gang.Shape{{Name: "ml/train-0", Request: wholeGPUs(8), Ask: []int64{16, 1}}},
	}
	for i := range members {
		p.Members = append(p.Members, gang.Member{UID: fmt.Sprint("uid-", i), Name: fmt.Sprint("ml/train-", i)})
	}
	for i := range 8 {
		name := fmt.Sprint("n", i)
		devices := make([]gpu.Device, 8)
		for g := range devices {
			devices[g] = gpu.Device{ID: gpu.ID(fmt.Sprintf("GPU-%d-%d", i, g)), Index: g, Product: "H100", MemoryMiB: 81559}
		}
		p.Nodes = append(p.Nodes, gang.Node{
			Name: name, GPUs: cluster.NewNode(name, cluster.NewInventory(cluster.SourceSlices, devices), nil), Free: []int64{64, 10},
			Domains: []string{fmt.Sprint("c", i/2), fmt.Sprint("r", i/4)}, Limit: []int{gang.NoLimit},
		})
	}
	return p
}

// on says which nodes have how many members.
func on(p *gang.Problem, r *gang.Result) string {
	counts := make([]int, len(p.Nodes))
	for _, at := range r.Placements {
		counts[at.Node]++
	}
	var out []string
	for i, n := range counts {
		if n > 0 {
			out = append(out, fmt.Sprintf("%s:%d", p.Nodes[i].Name, n))
		}
	}
	return strings.Join(out, " ")
}

func TestPlan(t *testing.T) {
	gpus := func(n int) func(*gang.Problem) {
		return func(p *gang.Problem) { p.Shapes[0].Request = wholeGPUs(n) }
	}
	hold := func(n int, nodes ...int) func(*gang.Problem) {
		return func(p *gang.Problem) {
			for _, i := range nodes {
				node := p.Nodes[i].GPUs
				p.Nodes[i].GPUs = node.With(cluster.NewPod("other", "ml/other", holding(node.Inventory.Devices[:n])))
			}
		}
	}
	runs := func(member, node int) func(*gang.Problem) {
		return func(p *gang.Problem) {
			p.Members[member].Node = p.Nodes[node].Name
			hold(8, node)(p)
		}
	}
	for name, tc := range map[string]struct {
		members int
		with    []func(*gang.Problem)
		want    string // the members by node, or what the rejection's message has
	}{
		"a gang in one clique":                         {2, nil, "n0:1 n1:1"},
		"a gang in the rack where least is left over":  {3, []func(*gang.Problem){hold(8, 5)}, "n4:1 n6:1 n7:1"},
		"a partly used clique before an empty one":     {1, []func(*gang.Problem){hold(8, 7)}, "n6:1"},
		"a partly used node before an empty one":       {1, []func(*gang.Problem){gpus(2), hold(6, 2)}, "n2:1"},
		"few large nodes before many small ones":       {4, []func(*gang.Problem){gpus(2), hold(6, 0, 1, 2, 3)}, "n4:4"},
		"as many members on a node as its cores allow": {4, []func(*gang.Problem){gpus(1), func(p *gang.Problem) { p.Shapes[0].Ask[0] = 30 }}, "n0:2 n1:2"},
		"as many members on a node as other rules allow": {3, []func(*gang.Problem){gpus(1), func(p *gang.Problem) {
			for i := range p.Nodes {
				p.Nodes[i].Limit = []int{i % 2}
			}
		}}, "n1:1 n3:1 n5:1"},
		"an overbooked resource that is not asked for does not matter": {1, []func(*gang.Problem){func(p *gang.Problem) {
			p.Shapes[0].Ask[0] = 0
			for i := range p.Nodes {
				p.Nodes[i].Free[0] = -5
			}
		}}, "n0:1"},
		"an overbooked resource that is asked for excludes the node": {1, []func(*gang.Problem){func(p *gang.Problem) {
			for i := range 7 {
				p.Nodes[i].Free[1] = -1
			}
		}}, "n7:1"},
		"nothing is to be done for a gang that runs":           {1, []func(*gang.Problem){runs(0, 0)}, ""},
		"a member that is made anew goes where the others are": {2, []func(*gang.Problem){runs(0, 5)}, "n4:1"},
		"in the domain where most are, when they are in two":   {4, []func(*gang.Problem){runs(0, 0), runs(1, 6), runs(2, 7), func(p *gang.Problem) { p.Required = "clique" }}, "the one where members are already has 0 (c3)"},
		"the rest goes to the rack where most are":             {4, []func(*gang.Problem){runs(0, 0), runs(1, 6), runs(2, 7), func(p *gang.Problem) { p.Required = "rack" }}, "n4:1"},
		"the preferred level goes before wider ones": {4, []func(*gang.Problem){hold(8, 1, 3), func(p *gang.Problem) {
			// In r1, four cliques of one; across racks, two cliques of two.
			p.Preferred = "clique"
			p.Nodes[0].Domains[0], p.Nodes[2].Domains[0] = "c0", "c0"
			for i := 4; i < 8; i++ {
				p.Nodes[i].Domains[0] = fmt.Sprint("single-", i)
			}
			p.Nodes[4].Domains[0], p.Nodes[5].Domains[0] = "double", "double"
		}}, "n0:1 n2:1 n4:1 n5:1"},
		"without it racks go first": {4, []func(*gang.Problem){hold(8, 1, 3), func(p *gang.Problem) {
			for i := 4; i < 8; i++ {
				p.Nodes[i].Domains[0] = fmt.Sprint("single-", i)
			}
		}}, "n4:1 n5:1 n6:1 n7:1"},
		"a required level that is not known":  {1, []func(*gang.Problem){func(p *gang.Problem) { p.Required = "row" }}, `UnknownTopology: the scheduler does not know the topology level (asks for "row"; known: clique, rack)`},
		"a preferred level that is not known": {1, []func(*gang.Problem){func(p *gang.Problem) { p.Preferred = "row" }}, `(asks for "row"; known: clique, rack)`},
		"a level where none is configured":    {1, []func(*gang.Problem){func(p *gang.Problem) { p.Levels, p.Required = nil, "rack" }}, `(asks for "rack"; no level is configured)`},
		"fewer members than must start":       {2, []func(*gang.Problem){func(p *gang.Problem) { p.Min = 3 }}, "GangIncomplete: fewer members exist than must start together (needs 3 members; there are 2)"},
		"a cluster without nodes":             {2, []func(*gang.Problem){func(p *gang.Problem) { p.Nodes = nil }}, "InsufficientGangCapacity: there is no room for the whole gang (needs 2 nodes with 8 free GPUs at once; there are 0"},
		"more nodes than there are":           {9, nil, "needs 9 nodes with 8 free GPUs at once; there are 8)"},
		"a full cluster":                      {3, []func(*gang.Problem){hold(5, 0, 1, 2, 3, 4, 5, 6), hold(3, 7)}, "(needs 3 nodes with 8 free GPUs at once; there are 0; no node takes a member like ml/train-0, the nearest is n7: InsufficientGPU: too few idle GPUs (asks for 8 whole GPUs; 5 of 8 GPUs are idle))"},
		"members of which nodes take several": {17, []func(*gang.Problem){gpus(4)}, "(needs 17 places for members that ask for 4 whole GPUs at once; there are 16)"},
		"too few cores":                       {1, []func(*gang.Problem){func(p *gang.Problem) { p.Shapes[0].Ask[0] = 80 }}, "the nearest is n0: asks for 80 of cores, 64 are free)"},
		"rules of others exclude every node": {1, []func(*gang.Problem){func(p *gang.Problem) {
			for i := range p.Nodes {
				p.Nodes[i].Limit[0] = 0
			}
		}}, "other rules than those for GPUs exclude members like ml/train-0 from every node)"},
		"a model that nobody has":                     {1, []func(*gang.Problem){func(p *gang.Problem) { p.Shapes[0].Request.Products = []string{"B200"} }}, "GPUProductMismatch: the GPU model is not one that the pod accepts (no node takes a member like ml/train-0, the nearest is n0: accepts B200; has H100)"},
		"no rack has so many free":                    {3, []func(*gang.Problem){hold(1, 0, 1, 4, 6), func(p *gang.Problem) { p.Required = "rack" }}, "InsufficientDomainCapacity: no topology domain has room for the whole gang (needs 3 nodes with 8 free GPUs in one rack domain; the largest has 2 (r0))"},
		"no NVLink domain has so many free":           {2, []func(*gang.Problem){hold(1, 0, 2, 4, 6), func(p *gang.Problem) { p.Levels[0], p.Required = "nvlink", "nvlink" }}, "NVLinkDomainTooSmall: no NVLink domain has room for the whole gang (needs 2 nodes with 8 free GPUs in one nvlink domain; the largest has 1 (c0))"},
		"no NVLink domain has so many at all":         {3, []func(*gang.Problem){hold(1, 0, 2, 4, 6), func(p *gang.Problem) { p.Levels[0], p.Required = "nvlink", "nvlink" }}, "TopologyDomainTooSmall: no topology domain would be large enough even when empty (needs 3 nodes with 8 free GPUs in one nvlink domain; the largest has 1 (c0); without any pods c0 would have 2)"},
		"surplus members find no place":               {1, []func(*gang.Problem){hold(1, 0, 1, 2, 3, 4, 5, 6, 7), func(p *gang.Problem) { p.Min = 0 }}, "(needs 1 node with 8 free GPUs at once; there are 0; no node takes a member like"},
		"surplus members as many as fit":              {9, []func(*gang.Problem){hold(8, 3), func(p *gang.Problem) { p.Min = 0 }}, "n0:1 n1:1 n2:1 n4:1 n5:1 n6:1 n7:1"},
		"surplus members in the rack that takes most": {9, []func(*gang.Problem){hold(8, 3), func(p *gang.Problem) { p.Min, p.Required = 0, "rack" }}, "n4:1 n5:1 n6:1 n7:1"},
	} {
		t.Run(name, func(t *testing.T) {
			p := town(tc.members)
			for _, with := range tc.with {
				with(p)
			}
			res, rejection := gang.Plan(p)
			got := rejection.Message()
			if rejection.OK() {
				got = on(p, res)
				if err := gang.Verify(p, res); err != nil {
					t.Error(err)
				}
			}
			if ok := got == tc.want; !ok && (rejection.OK() || !strings.Contains(got, tc.want)) {
				t.Errorf("got  %s\nwant %s", got, tc.want)
			}
		})
	}
}

// Members that follow one another share a node, and nodes that follow one another a domain.
func TestPlanKeepsRanksTogether(t *testing.T) {
	p := town(12)
	p.Shapes[0].Request = wholeGPUs(4)
	res, rejection := gang.Plan(p)
	if !rejection.OK() {
		t.Fatal(rejection.Message())
	}
	var got []string
	for _, at := range res.Placements {
		n := p.Nodes[at.Node]
		got = append(got, n.Name+" "+n.Domains[0]+" "+n.Domains[1])
	}
	want := []string{
		"n0 c0 r0", "n0 c0 r0", "n1 c0 r0", "n1 c0 r0", "n2 c1 r0", "n2 c1 r0", "n3 c1 r0", "n3 c1 r0",
		"n4 c2 r1", "n4 c2 r1", "n5 c2 r1", "n5 c2 r1",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

func TestVerifyRefuses(t *testing.T) {
	for name, tc := range map[string]struct {
		spoil func(p *gang.Problem, r *gang.Result)
		want  string
	}{
		"a member that is forgotten": {func(_ *gang.Problem, r *gang.Result) { r.Placements = r.Placements[:3] }, "ml/train-3 is neither placed nor surplus"},
		"a member that is both":      {func(_ *gang.Problem, r *gang.Result) { r.Surplus = []int{1} }, "ml/train-1 is placed, and surplus"},
		"fewer than the minimum": {func(_ *gang.Problem, r *gang.Result) {
			r.Placements, r.Surplus = r.Placements[:3], []int{3}
		}, "3 members have places; the minimum is 4"},
		"members out of order":       {func(_ *gang.Problem, r *gang.Result) { slices.Reverse(r.Placements) }, "member 2 is placed after member 3"},
		"a member that is not there": {func(_ *gang.Problem, r *gang.Result) { r.Placements[3].Member = 9 }, "member 9 of 4 is placed"},
		"a node that is not there":   {func(_ *gang.Problem, r *gang.Result) { r.Placements[3].Node = 9 }, "ml/train-3 is on node 9 of 8"},
		"a member that runs":         {func(p *gang.Problem, _ *gang.Result) { p.Members[0].Node = "n0" }, "ml/train-0 is placed, but is on n0 already"},
		"the GPUs of another": {func(_ *gang.Problem, r *gang.Result) {
			r.Placements[1] = gang.Placement{Member: 1, Node: r.Placements[0].Node, Assignment: r.Placements[0].Assignment}
		}, "is held whole beside others"},
		"GPUs of another node":              {func(_ *gang.Problem, r *gang.Result) { r.Placements[1].Node = 7 }, "no healthy GPU"},
		"no GPU":                            {func(_ *gang.Problem, r *gang.Result) { r.Placements[1].Assignment = gpu.Assignment{} }, "is not what it asks for"},
		"a model that is not accepted":      {func(p *gang.Problem, _ *gang.Result) { p.Shapes[0].Request.Products = []string{"B200"} }, "is a H100"},
		"more than other rules allow":       {func(p *gang.Problem, _ *gang.Result) { p.Nodes[0].Limit = []int{0} }, "may have no more of its shape"},
		"more cores than there are":         {func(p *gang.Problem, _ *gang.Result) { p.Nodes[0].Free = []int64{15, 1} }, "16 of cores asked for, 15 left"},
		"two domains where one is required": {func(p *gang.Problem, _ *gang.Result) { p.Required = "clique" }, `other members are placed in "c0"`},
		"another domain than that of most": {func(p *gang.Problem, _ *gang.Result) {
			p.Required = "rack"
			p.Members = append(p.Members, gang.Member{Name: "ml/train-4", Node: "n7"})
		}, `"r0" was taken, where 0 members are; in another are 1`},
		"domains counted wrong": {func(_ *gang.Problem, r *gang.Result) { r.Domains = []int{1, 1} }, "it says [1 1] domains by level; there are [2 1]"},
		"the wrong domain":      {func(_ *gang.Problem, r *gang.Result) { r.Domain = "r1" }, `it says that rack "r1" holds all; it is rack "r0"`},
	} {
		t.Run(name, func(t *testing.T) {
			p := town(4)
			res, rejection := gang.Plan(p)
			if !rejection.OK() {
				t.Fatal(rejection.Message())
			}
			tc.spoil(p, res)
			if err := gang.Verify(p, res); !errors.Is(err, gang.ErrInvalidPlan) || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %s", err, tc.want)
			}
		})
	}
}

// Ids of GPUs, which of them are free, and their models differ from node to node: what is worked out once for alike nodes must name
// each node's own.
func TestPlanNamesEachNodesOwnGPUs(t *testing.T) {
	p := town(16)
	p.Strategy = fit.Fragmentation{}
	p.Shapes[0].Request = gpu.Request{Containers: []gpu.ContainerRequest{
		{Name: "init", Init: true, Asks: []gpu.Ask{{Kind: gpu.Whole, Count: 1}}},
		{Name: "main", Asks: []gpu.Ask{{Kind: gpu.Whole, Count: 2}}},
		{Name: "side", Asks: []gpu.Ask{{Kind: gpu.Shared, Count: 1, MilliGPU: 300}}},
	}}
	res, rejection := gang.Plan(p)
	if !rejection.OK() {
		t.Fatal(rejection.Message())
	}
	if err := gang.Verify(p, res); err != nil {
		t.Error(err)
	}
	for _, at := range res.Placements {
		for _, u := range at.Assignment.Uses() {
			if !strings.HasPrefix(string(u.GPU), fmt.Sprintf("GPU-%d-", at.Node)) {
				t.Errorf("member %d on node %d holds %s", at.Member, at.Node, u.GPU)
			}
		}
	}
}

// The last members, which a gang that shrinks gives up first, are where fewest are.
func TestPlanPutsTheFirstMembersWhereMostAre(t *testing.T) {
	p := town(6)
	for i := range 2 {
		p.Nodes[i].Limit = []int{0}
	}
	res, rejection := gang.Plan(p)
	if !rejection.OK() {
		t.Fatal(rejection.Message())
	}
	var got []string
	for _, at := range res.Placements {
		got = append(got, p.Nodes[at.Node].Name)
	}
	if diff := cmp.Diff([]string{"n4", "n5", "n6", "n7", "n2", "n3"}, got); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

// What a node takes is what package fit places there, one after the other, of whatever devices and pods it has.
func TestPlanTakesWhatFitTakes(t *testing.T) {
	some := 0
	for round := range 1000 {
		r := rand.New(rand.NewPCG(8, uint64(round)))
		devices := make([]gpu.Device, 1+r.IntN(8))
		for g := range devices {
			d := gpu.Device{ID: gpu.ID(fmt.Sprint("GPU-", g)), Index: g, Product: []string{"H100", "H100", "B200"}[r.IntN(3)], MemoryMiB: 80_000}
			switch r.IntN(8) {
			case 0:
				d.Unhealthy = true
			case 1:
				d.WholeOnly = true
			case 2:
				d.SharedOnly = true
			case 3:
				d.MIG = true
				d.Instances = []gpu.Instance{{Profile: "3g.40gb", Start: 0, Size: 4}, {Profile: "3g.40gb", Start: 4, Size: 4}, {Profile: "7g.80gb", Start: 0, Size: 8}}
			case 4:
				d.MemoryMiB = 40_000
			}
			devices[g] = d
		}
		n := cluster.NewNode("n", cluster.NewInventory(cluster.SourceSlices, devices), nil)
		if r.IntN(3) == 0 {
			n = n.With(cluster.NewUnplacedPod("unplaced", "ml/unplaced", wholeGPUs(1+r.IntN(2))))
		}
		asks := []gpu.Ask{
			{Kind: gpu.Whole, Count: 1 + r.IntN(3), MemoryMiB: int64(r.IntN(2)) * 60_000},
			{Kind: gpu.Shared, Count: 1 + r.IntN(2), MilliGPU: int64(100 + r.IntN(900))},
			{Kind: gpu.MIG, Count: 1, Profile: "3g.40gb"},
		}
		for i := range r.IntN(3) {
			request := gpu.Request{Containers: []gpu.ContainerRequest{{Name: "c", Asks: []gpu.Ask{asks[r.IntN(3)]}}}}
			if a, err := fit.Assign(n, request, fit.CPU{}, nil); err == nil {
				n = n.With(cluster.NewPod(fmt.Sprint("other-", i), "ml/other", a))
			}
		}
		request := gpu.Request{Containers: []gpu.ContainerRequest{{Name: "main", Init: r.IntN(8) == 0, Asks: []gpu.Ask{asks[r.IntN(3)]}}}}
		if r.IntN(3) == 0 {
			request.Products = []string{"H100"}
		}
		p := &gang.Problem{Shapes: []gang.Shape{{Name: "ml/train-0", Request: request}}, Members: make([]gang.Member, 40)}
		for i := range p.Members {
			p.Members[i] = gang.Member{UID: fmt.Sprint("uid-", i), Name: fmt.Sprint("ml/train-", i)}
		}
		p.Nodes = []gang.Node{{Name: "n", GPUs: n, Limit: []int{gang.NoLimit}}}
		want := 0
		for at := n; want < len(p.Members); want++ {
			a, err := fit.Assign(at, request, fit.CPU{}, nil)
			if err != nil {
				break
			}
			at = at.With(cluster.NewPod(p.Members[want].UID, p.Members[want].Name, a))
		}
		got := 0
		if res, rejection := gang.Plan(p); rejection.OK() {
			got = len(res.Placements)
			some++
			if err := gang.Verify(p, res); err != nil {
				t.Errorf("round %d: %v", round, err)
			}
		}
		if got != want {
			t.Errorf("round %d: %d members of %v are placed, %d fit", round, got, request, want)
		}
	}
	if some < 300 {
		t.Errorf("%d nodes take members", some)
	}
}

// With more levels and members than a cost has bits for, the widest levels, the preferred one and the nodes still count.
func TestPlanOverManyLevels(t *testing.T) {
	p := &gang.Problem{Min: 600, Shapes: []gang.Shape{{Name: "ml/train-0"}}}
	for l := range 10 {
		p.Levels = append(p.Levels, fmt.Sprint("level-", l))
	}
	p.Preferred = "level-2"
	for i := range 2048 {
		n := gang.Node{Name: fmt.Sprintf("n%04d", i), Limit: []int{1}}
		for l := range p.Levels {
			n.Domains = append(n.Domains, fmt.Sprint(i>>(l+1)))
		}
		p.Nodes = append(p.Nodes, n)
	}
	for i := range p.Min {
		p.Members = append(p.Members, gang.Member{UID: fmt.Sprint(i), Name: fmt.Sprint("ml/train-", i)})
	}
	res, rejection := gang.Plan(p)
	if !rejection.OK() {
		t.Fatal(rejection.Message())
	}
	if err := gang.Verify(p, res); err != nil {
		t.Error(err)
	}
	// 600 nodes are 512, 64, 16 and 8 of which each is a domain.
	if diff := cmp.Diff([]int{300, 150, 75, 38, 19, 10, 5, 3, 2, 1}, res.Domains); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}
