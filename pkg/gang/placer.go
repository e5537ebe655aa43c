package gang

import (
	"cmp"
	"slices"
)

// Placer places members one at a time, where somebody else has the last word about each place: for rules that depend on where the
// other members are, which a [Problem] cannot say. It counts GPUs, resources and limits as [Plan] does, and keeps to one domain of
// the required level.
type Placer struct {
	pl       *planner
	unplaced []int
	need     int
	groups   []group
	group    group
}

// NewPlacer begins with nothing placed, in the first domain. It is for problems that Plan has not refused as such.
func NewPlacer(p *Problem) *Placer {
	w := &Placer{pl: newPlanner(p)}
	for i, m := range p.Members {
		if m.Node == "" {
			w.unplaced = append(w.unplaced, i)
			w.pl.unplaced[m.Shape]++
		}
	}
	w.pl.addLevels(len(w.unplaced))
	w.need = min(max(p.Min-(len(p.Members)-len(w.unplaced)), 0), len(w.unplaced))
	need := w.pl.demand(w.unplaced[:w.need])
	for _, g := range w.pl.groups() {
		if slices.Equal(w.pl.roomIn(g, need), need) {
			w.groups = append(w.groups, g)
		}
	}
	if len(w.groups) > 0 {
		w.group = w.groups[0]
	}
	return w
}

// Need is how many members must be placed. Of those without a place, which are in rank order, the first ones are meant.
func (w *Placer) Need() int { return w.need }

// Domains is in how many domains of the required level there may be room for as many as must be placed; 1 or 0 where none is
// required.
func (w *Placer) Domains() int { return len(w.groups) }

// Begin begins again, in a domain by number.
func (w *Placer) Begin(domain int) {
	w.pl.rollback(0)
	w.pl.out, w.group = nil, w.groups[domain]
}

// Nodes are those with room for the member, the best first: where it adds the fewest domains to those that members are in, then
// those that take most.
func (w *Placer) Nodes(member int) []int {
	pl, shape := w.pl, w.pl.p.Members[member].Shape
	var places []place
	for _, i := range w.group.nodes {
		slots := pl.slots(i, shape)
		if slots == 0 {
			continue
		}
		at := place{node: i, slots: slots, score: pl.score(i, shape)}
		if pl.inUse[i] == 0 {
			at.own.hops = pl.nodeUnit
		}
		for l := range pl.levels {
			if pl.levels[l].inUse[pl.levels[l].of[i]] == 0 {
				at.own.hops += pl.levels[l].unit
			}
		}
		places = append(places, at)
	}
	slices.SortFunc(places, func(a, b place) int {
		return cmp.Or(cmp.Compare(a.own.hops, b.own.hops), cmp.Compare(b.slots, a.slots), cmp.Compare(b.score, a.score),
			cmp.Compare(pl.rank[a.node], pl.rank[b.node]))
	})
	nodes := make([]int, len(places))
	for k, at := range places {
		nodes[k] = at.node
	}
	return nodes
}

// Put puts the member on the node; false where it does not take it after all.
func (w *Placer) Put(member, node int) bool {
	shape := w.pl.p.Members[member].Shape
	if w.pl.slots(node, shape) == 0 || !w.pl.take(node, shape, 1) {
		return false
	}
	w.pl.out = append(w.pl.out, Placement{Member: member, Node: node})
	return true
}

// Result is what was put, as a plan: whoever was not put is surplus. The Placer cannot be used afterwards.
func (w *Placer) Result() *Result { return w.pl.result(w.unplaced) }
