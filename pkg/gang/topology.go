package gang

import (
	"cmp"
	"encoding/binary"
	"maps"
	"math/bits"
	"slices"
)

// level is one level of the topology over the nodes of a problem.
type level struct {
	// of is the domain of each node, numbered in the order of the values. A node without the label is in one domain with
	// those that share its narrower domain, and by itself at the narrowest level.
	of []int32
	// count is how many domains there are.
	count int
	// inUse is how many members are in each domain, those that have a place included.
	inUse []int
	// occupied says of each domain that a pod which is not of the gang holds GPUs there, or did before the plan.
	occupied []bool
	// unit is what a domain of the level costs; see [cost].
	unit uint64
}

// cost is what placing members costs: what is less is better.
type cost struct {
	// hops packs the numbers of domains used, the preferred level's first, then from the widest level to the narrowest, nodes
	// last. Each has bits enough, so that adding costs adds every number.
	hops uint64
	// loss is the slots of the domains and nodes used, above the number of them that were empty: what is left over there is of
	// less use to others than where nobody is.
	loss uint64
}

func (c cost) plus(o cost) cost { return cost{c.hops + o.hops, c.loss + o.loss} }

func (c cost) compare(o cost) int {
	return cmp.Or(cmp.Compare(c.hops, o.hops), cmp.Compare(c.loss, o.loss))
}

const (
	hopBits   = 61 // leaves room to add to what is infinite
	emptyBits = 20
)

// infinite is more than any cost.
var infinite = cost{hops: 1 << 62}

func lossOf(slots int, occupied bool) uint64 {
	loss := uint64(slots) << emptyBits
	if !occupied {
		loss++
	}
	return loss
}

// domain is the node's value of level l of the problem, empty where it has none.
func (n *Node) domain(l int) string {
	if l >= len(n.Domains) {
		return ""
	}
	return n.Domains[l]
}

// addLevels makes the levels, from the widest to the narrowest. Levels that divide the nodes as a narrower one does are left out: they
// cost nothing that the narrower one does not.
func (pl *planner) addLevels(members int) {
	nodes := pl.p.Nodes
	narrower := level{of: make([]int32, len(nodes)), count: len(nodes)}
	for rank, i := range pl.byName {
		narrower.of[i] = int32(rank)
	}
	preferred := -1 // in pl.levels, while those are from the narrowest to the widest; -1 is the nodes
	for l, key := range pl.p.Levels {
		next := pl.divide(l, narrower)
		if next.count < narrower.count || !refines(narrower, next) {
			pl.levels = append(pl.levels, next)
			narrower = next
		}
		if key == pl.p.Preferred {
			preferred = len(pl.levels) - 1
		}
	}
	slices.Reverse(pl.levels)
	preferred = len(pl.levels) - 1 - preferred

	// The nodes' number is in the lowest bits. Should the numbers take more than there are, the narrowest levels are not told apart.
	widths := make([]int, len(pl.levels)+1)
	for l, parts := range pl.parts() {
		widths[l] = bits.Len(uint(min(members, parts)))
	}
	widths[len(pl.levels)] = bits.Len(uint(min(members, len(nodes))))
	total := 0
	for _, w := range widths {
		total += w
	}
	first := 0
	if pl.p.Preferred != "" {
		first = widths[preferred]
	}
	for l := len(widths) - 2; l >= 0 && total+first > hopBits; l-- {
		total -= widths[l]
		widths[l] = 0
	}
	shift := 0
	units := make([]uint64, len(widths))
	for l := len(widths) - 1; l >= 0; l-- {
		if widths[l] > 0 {
			units[l] = 1 << shift
		}
		shift += widths[l]
	}
	if pl.p.Preferred != "" {
		units[preferred] += 1 << shift
	}
	pl.nodeUnit = units[len(pl.levels)]
	for l := range pl.levels {
		lv := &pl.levels[l]
		lv.unit, lv.inUse, lv.occupied = units[l], make([]int, lv.count), make([]bool, lv.count)
		for i := range nodes {
			lv.inUse[lv.of[i]] += pl.inUse[i]
			lv.occupied[lv.of[i]] = lv.occupied[lv.of[i]] || pl.occupied[i]
		}
	}
}

// parts is, for each level, into how many parts the domains of the wider levels divide its domains: as many as there are domains where
// each lies in one of every wider level. The search counts every part that is used.
func (pl *planner) parts() []int {
	parts := make([]int, len(pl.levels))
	for l, lv := range pl.levels {
		parts[l] = lv.count
		if !slices.ContainsFunc(pl.levels[:l], func(wider level) bool { return !refines(lv, wider) }) {
			continue
		}
		seen := map[string]bool{}
		for i := range pl.p.Nodes {
			var key []byte
			for _, wider := range pl.levels[:l+1] {
				key = binary.BigEndian.AppendUint32(key, uint32(wider.of[i]))
			}
			seen[string(key)] = true
		}
		parts[l] = len(seen)
	}
	return parts
}

// divide is level l of the problem.
func (pl *planner) divide(l int, narrower level) level {
	nodes := pl.p.Nodes
	out := level{of: make([]int32, len(nodes))}
	var values []string // in the order met
	number := map[string]int32{}
	last, lastNumber := "", int32(-1) // neighbours by name are often neighbours
	for _, i := range pl.byName {
		v := nodes[i].domain(l)
		if v != last {
			last, lastNumber = v, -1
			if v != "" {
				known := false
				if lastNumber, known = number[v]; !known {
					lastNumber = int32(len(values))
					number[v] = lastNumber
					values = append(values, v)
				}
			}
		}
		out.of[i] = lastNumber
	}
	out.count = len(values)
	ranks := make([]int32, len(values))
	for rank, v := range slices.Sorted(slices.Values(values)) {
		ranks[number[v]] = int32(rank)
	}
	// What has no value inherits from the narrower level.
	inherits := make([]int32, narrower.count)
	for i, d := range out.of {
		if d < 0 {
			inherits[narrower.of[i]] = -1
		}
	}
	for d := range inherits {
		if inherits[d] < 0 {
			inherits[d] = int32(out.count)
			out.count++
		}
	}
	for i, d := range out.of {
		if d < 0 {
			out.of[i] = inherits[narrower.of[i]]
		} else {
			out.of[i] = ranks[d]
		}
	}
	return out
}

// refines reports whether every domain of narrow lies in one of wide.
func refines(narrow, wide level) bool {
	in := slices.Repeat([]int32{-1}, narrow.count)
	for i, d := range narrow.of {
		if in[d] >= 0 && in[d] != wide.of[i] {
			return false
		}
		in[d] = wide.of[i]
	}
	return true
}

// group is nodes among which all members must be.
type group struct {
	domain string // the value of the required level; empty where none is required
	nodes  []int  // by name
}

// groups are the domains of the required level, by value, or all nodes as one where none is required. When members have a place
// already the only group is the domain where most of them are.
func (pl *planner) groups() []group {
	l := slices.Index(pl.p.Levels, pl.p.Required)
	if pl.p.Required == "" {
		return []group{{nodes: pl.byName}}
	}
	byValue := map[string]*group{}
	for _, i := range pl.byName {
		if v := pl.p.Nodes[i].domain(l); v != "" {
			if byValue[v] == nil {
				byValue[v] = &group{domain: v}
			}
			byValue[v].nodes = append(byValue[v].nodes, i)
		}
	}
	var out []group
	pinned, most := -1, 0
	for _, v := range slices.Sorted(maps.Keys(byValue)) {
		out = append(out, *byValue[v])
		here := 0
		for _, i := range byValue[v].nodes {
			here += pl.inUse[i]
		}
		if here > most {
			pinned, most = len(out)-1, here
		}
	}
	if pinned >= 0 {
		return out[pinned : pinned+1]
	}
	return out
}

// vertex is a domain in the tree of those that a group's nodes are in, with at least one node that takes members.
type vertex struct {
	own   cost
	kids  []*vertex
	nodes []place // of the narrowest level, where there are no kids: the best first
	slots int
	score int64 // of the best node
	first int   // the lowest rank of its nodes
	table table
}

// place is a node that takes members.
type place struct {
	node, slots int
	own         cost
	score       int64
}

// tree makes the tree of the nodes that take members of the first of the shapes, or of any where there are several.
func (pl *planner) tree(g group, shapes []int) *vertex {
	var nodes []int
	for _, i := range g.nodes {
		if slices.ContainsFunc(shapes, func(shape int) bool { return pl.slots(i, shape) > 0 }) {
			nodes = append(nodes, i)
		}
	}
	// The nodes came by name, and are numbered so: grouping them keeps them so.
	slices.SortFunc(nodes, func(a, b int) int {
		for l := range pl.levels {
			if c := cmp.Compare(pl.levels[l].of[a], pl.levels[l].of[b]); c != 0 {
				return c
			}
		}
		return cmp.Compare(pl.rank[a], pl.rank[b])
	})
	root := pl.grow(nodes, -1, 0, shapes[0])
	root.own = cost{} // it is no domain
	return root
}

// grow makes the vertex of a domain of level l, -1 for the root.
func (pl *planner) grow(nodes []int, l int, domain int32, shape int) *vertex {
	v := &vertex{score: -1, first: len(pl.p.Nodes)}
	if l == len(pl.levels)-1 {
		v.nodes = make([]place, len(nodes))
		for k, i := range nodes {
			n := place{node: i, slots: pl.slots(i, shape), score: pl.score(i, shape)}
			if pl.inUse[i] == 0 {
				n.own = cost{pl.nodeUnit, lossOf(n.slots, pl.occupied[i])}
			}
			v.nodes[k] = n
			v.slots += n.slots
			v.first = min(v.first, pl.rank[i])
			v.score = max(v.score, n.score)
		}
		slices.SortFunc(v.nodes, pl.compare)
	}
	for l < len(pl.levels)-1 && len(nodes) > 0 {
		of := pl.levels[l+1].of
		end := 1
		for end < len(nodes) && of[nodes[end]] == of[nodes[0]] {
			end++
		}
		kid := pl.grow(nodes[:end:end], l+1, of[nodes[0]], shape)
		v.kids, nodes = append(v.kids, kid), nodes[end:]
		v.slots += kid.slots
		v.first = min(v.first, kid.first)
		v.score = max(v.score, kid.score)
	}
	slices.SortStableFunc(v.kids, func(a, b *vertex) int {
		return cmp.Or(cmp.Compare(b.score, a.score), cmp.Compare(a.first, b.first))
	})
	if l >= 0 && pl.levels[l].inUse[domain] == 0 {
		v.own = cost{pl.levels[l].unit, lossOf(v.slots, pl.levels[l].occupied[domain])}
	}
	return v
}

// compare orders the nodes of one domain: those that the gang is on first, then those that take most, then by the strategy, then
// by name.
func (pl *planner) compare(a, b place) int {
	return cmp.Or(cmp.Compare(min(a.own.hops, 1), min(b.own.hops, 1)), cmp.Compare(b.slots, a.slots),
		cmp.Compare(a.own.loss, b.own.loss), cmp.Compare(b.score, a.score), cmp.Compare(pl.rank[a.node], pl.rank[b.node]))
}

// score is the strategy's rating of one member on the node, 0 where it takes none.
func (pl *planner) score(i, shape int) int64 {
	if pl.slots(i, shape) == 0 {
		return 0
	}
	return pl.book.score(pl.sites[i].state, shape, pl.sites[i].cpu)
}
