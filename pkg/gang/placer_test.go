package gang_test

import (
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"

	"weft.sh/weft/pkg/gang"
)

// TestThePlacerOrdersNodesAsIfItSortedThemAnew: what is kept in order member by member is the order that sorting gives.
func TestThePlacerOrdersNodesAsIfItSortedThemAnew(t *testing.T) {
	puts, begun := 0, 0
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(11, seed))
		p := randomProblem(r, 40, seed%2 == 0, seed%3 == 0)
		p.Required = []string{"", "rack"}[r.IntN(2)]
		placer := gang.NewPlacer(p)
		// More than once, for what one attempt leaves must not show in the next.
		for range 3 * placer.Domains() {
			domain := r.IntN(placer.Domains())
			placer.Begin(domain)
			begun++
			var put []gang.Placement
			for m, member := range p.Members {
				if member.Node != "" || r.IntN(5) == 0 {
					continue
				}
				anew := gang.NewPlacer(p)
				anew.Begin(domain)
				for _, at := range put {
					if !anew.Put(at.Member, at.Node) {
						t.Fatalf("seed %d: node %d takes member %d once and then not", seed, at.Node, at.Member)
					}
				}
				nodes := placer.Nodes(m)
				if diff := cmp.Diff(anew.Nodes(m), nodes); diff != "" {
					t.Fatalf("seed %d, domain %d: the order for member %d after %d others (-sorted, +kept):\n%s", seed, domain, m, len(put), diff)
				}
				if len(nodes) == 0 {
					continue
				}
				at := gang.Placement{Member: m, Node: nodes[r.IntN(min(3, len(nodes)))]}
				if placer.Put(at.Member, at.Node) {
					put = append(put, at)
					puts++
				}
			}
		}
	}
	if puts < 500 || begun < 60 {
		t.Errorf("only %d members were put in %d attempts: the problems have no room", puts, begun)
	}
}

// TestThePlacerDoesNotSortAllNodesForEachMember: it looks at all once, and at few of them for each member.
func TestThePlacerDoesNotSortAllNodesForEachMember(t *testing.T) {
	p := site{nodes: 1000, perRack: 20}.problem(200, 8, "")
	placer := gang.NewPlacer(p)
	for m := range p.Members {
		if nodes := placer.Nodes(m); len(nodes) == 0 || !placer.Put(m, nodes[0]) {
			t.Fatalf("member %d has no place", m)
		}
	}
	if looked, most := placer.Looked(), len(p.Members)*len(p.Nodes)/10; looked > most {
		t.Errorf("it looked at %d nodes, want at most %d: there are %d nodes and %d members", looked, most, len(p.Nodes), len(p.Members))
	}
}
