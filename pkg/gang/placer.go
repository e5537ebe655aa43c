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
	domain   int
	// orders are the nodes with room for each shape, the best first, nil where they were not asked for yet; empty is what they were
	// before the first member was put. stale are the nodes that have changed since, by shape; marked is for those of one.
	orders, empty [][]candidate
	stale         [][]int
	marked        []bool
	looked        int
}

// candidate is a node with room for a member.
type candidate struct {
	hops        uint64
	score       int64
	node, slots int32
}

// NewPlacer begins with nothing placed, in the first domain. It is for problems that Plan has not refused as such.
func NewPlacer(p *Problem) *Placer {
	w := &Placer{
		pl: newPlanner(p), orders: make([][]candidate, len(p.Shapes)), empty: make([][]candidate, len(p.Shapes)),
		stale: make([][]int, len(p.Shapes)), marked: make([]bool, len(p.Nodes)), looked: len(p.Nodes),
	}
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
	return w
}

// Need is how many members must be placed. Of those without a place, which are in rank order, the first ones are meant.
func (w *Placer) Need() int { return w.need }

// Domains is in how many domains of the required level there may be room for as many as must be placed; 1 or 0 where none is
// required.
func (w *Placer) Domains() int { return len(w.groups) }

// passed is how many nodes can be passed by in the time that it takes to look at one.
const passed = 16

// Looked is how many nodes were looked at so far: what the Placer itself costs grows with it.
func (w *Placer) Looked() int { return w.looked }

// Begin begins again, in a domain by number.
func (w *Placer) Begin(domain int) {
	w.pl.rollback(0)
	w.pl.out = nil
	w.looked += len(w.groups[domain].nodes) / passed
	if domain != w.domain {
		w.domain = domain
		clear(w.orders)
		clear(w.empty)
	}
	for shape, order := range w.empty {
		w.stale[shape] = w.stale[shape][:0]
		if order == nil {
			w.orders[shape] = nil
		} else {
			w.orders[shape] = append(w.orders[shape][:0], order...)
		}
	}
}

// Nodes are those with room for the member, the best first: where it adds the fewest domains to those that members are in, then
// those that take most.
func (w *Placer) Nodes(member int) []int {
	shape := w.pl.p.Members[member].Shape
	w.update(shape)
	nodes := make([]int, len(w.orders[shape]))
	w.looked += len(nodes) / passed
	for k, c := range w.orders[shape] {
		nodes[k] = int(c.node)
	}
	return nodes
}

// update brings the order of the nodes for the shape up to date. Sorting all of them for each member would take longer than all the
// rest where they are thousands: those that changed are taken out and put in anew.
func (w *Placer) update(shape int) {
	order, stale := w.orders[shape], w.stale[shape]
	w.stale[shape] = stale[:0]
	if order == nil {
		order = []candidate{}
		if len(w.groups) > 0 {
			for _, i := range w.groups[w.domain].nodes {
				order = w.candidate(order, i, shape)
			}
			w.looked += len(w.groups[w.domain].nodes)
		}
		slices.SortFunc(order, w.compare)
		if w.orders[shape] = order; len(w.pl.out) == 0 {
			w.empty[shape] = slices.Clone(order)
		}
		return
	}
	if len(stale) == 0 {
		return
	}
	var fresh []candidate
	for _, i := range stale {
		if !w.marked[i] {
			w.marked[i] = true
			fresh = w.candidate(fresh, i, shape)
		}
	}
	slices.SortFunc(fresh, w.compare)
	w.looked += len(stale)
	order = slices.DeleteFunc(order, func(c candidate) bool { return w.marked[c.node] })
	for _, i := range stale {
		w.marked[i] = false
	}
	// From the back, so that each is moved once.
	k := len(order)
	order = append(order, fresh...)
	for at := len(order); len(fresh) > 0; {
		last := fresh[len(fresh)-1]
		n, _ := slices.BinarySearchFunc(order[:k], last, w.compare)
		at -= copy(order[at-(k-n):at], order[n:k]) + 1
		k, order[at], fresh = n, last, fresh[:len(fresh)-1]
	}
	w.orders[shape] = order
}

// candidate adds the node if it has room for a member of the shape.
func (w *Placer) candidate(to []candidate, node, shape int) []candidate {
	pl := w.pl
	slots := pl.slots(node, shape)
	if slots == 0 {
		return to
	}
	c := candidate{node: int32(node), slots: int32(slots), score: pl.score(node, shape)}
	if pl.inUse[node] == 0 {
		c.hops = pl.nodeUnit
	}
	for l := range pl.levels {
		if pl.levels[l].inUse[pl.levels[l].of[node]] == 0 {
			c.hops += pl.levels[l].unit
		}
	}
	return append(to, c)
}

// compare orders nodes, the better first.
func (w *Placer) compare(a, b candidate) int {
	return cmp.Or(cmp.Compare(a.hops, b.hops), cmp.Compare(b.slots, a.slots), cmp.Compare(b.score, a.score),
		cmp.Compare(w.pl.rank[a.node], w.pl.rank[b.node]))
}

// Put puts the member on the node; false where it does not take it after all.
func (w *Placer) Put(member, node int) bool {
	pl, shape := w.pl, w.pl.p.Members[member].Shape
	if pl.slots(node, shape) == 0 {
		return false
	}
	var entered []int // the levels of which the node's domain had no member
	for l := range pl.levels {
		if pl.levels[l].inUse[pl.levels[l].of[node]] == 0 {
			entered = append(entered, l)
		}
	}
	if !pl.take(node, shape, 1) {
		return false
	}
	pl.out = append(pl.out, Placement{Member: member, Node: node})
	w.touch(node)
	if len(entered) == 0 || len(w.groups) == 0 {
		return true
	}
	for _, i := range w.groups[w.domain].nodes {
		for _, l := range entered {
			if pl.levels[l].of[i] == pl.levels[l].of[node] {
				w.touch(i)
				break
			}
		}
	}
	w.looked += len(w.groups[w.domain].nodes) / passed
	return true
}

// touch says that what the node is worth may have changed.
func (w *Placer) touch(node int) {
	for shape := range w.stale {
		if w.orders[shape] != nil {
			w.stale[shape] = append(w.stale[shape], node)
		}
	}
}

// Result is what was put, as a plan: whoever was not put is surplus. The Placer cannot be used afterwards.
func (w *Placer) Result() *Result { return w.pl.result(w.unplaced) }
