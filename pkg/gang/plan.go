package gang

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"weft.sh/weft/pkg/fit"
)

// Plan places the members that have no place yet, or says why it cannot: a rejection with what was asked for and the
// nearest to it that there is. The rejection is OK when there is a plan.
//
// Of several ways to place the minimum it takes the best by, in this order:
//
//  1. the fewest domains of the preferred level,
//  2. the fewest domains of every level, from the widest to the narrowest, and last the fewest nodes,
//  3. room for more of the members above the minimum,
//  4. the least loss to other gangs: the fewest slots in the domains and nodes used, so that large domains stay whole, then those
//     that are in use already before empty ones,
//  5. the strategy's rating, and then the names: an order that stays as it is packs.
//
// Domains and nodes in which members run already cost nothing. For members of one shape the answer whether there is a plan is
// exact, and so are 1 and 2 unless the result is truncated; for several shapes both are exact as long as few combinations are to
// be looked at (a launcher and hundreds of workers are few), and a good attempt beyond. Which GPUs of a node the members get is the
// strategy's, one after the other: shares of different sizes that fit only if packed in one way may find no place.
//
// Members above the minimum follow in their order where they fit, in the same domain of the required level. Where members run
// already that is the domain they are in, and of several the one where most are, the first by value of those with as many.
//
// Members are dealt out in their order along the topology: those that follow one another share a node, and such nodes a domain.
//
// The minimum are the first members in their order. Those that no node takes, whatever became free, come after all others. Where the
// first have no place, they are the first for which there is room, each shape by itself: the minimum is a number, and nobody is
// to wait for one member that others can stand in for.
func Plan(p *Problem) (*Result, fit.Rejection) {
	p = merged(p)
	pl := newPlanner(p)
	if rejection := pl.unknownTopology(); !rejection.OK() {
		return nil, rejection
	}
	var unplaced []int
	for i, m := range p.Members {
		if m.Node == "" {
			unplaced = append(unplaced, i)
			pl.unplaced[m.Shape]++
		}
	}
	placed := len(p.Members) - len(unplaced)
	if p.Min > len(p.Members) {
		return nil, fit.Rejection{Reason: fit.GangIncomplete, Detail: fmt.Sprintf("needs %d members; there are %d", p.Min, len(p.Members))}
	}
	pl.addLevels(len(unplaced))
	need := max(p.Min-placed, 0)
	if len(unplaced) > 0 {
		groups := pl.groups()
		members := pl.hopefulFirst(groups, unplaced)
		if !pl.place(groups, members[:need], members[need:]) && !pl.placeAnother(groups, members, need) {
			return nil, pl.reject(groups, members[:need], members[need:])
		}
	}
	return pl.result(unplaced), fit.Rejection{}
}

// DefaultEffort is the effort of a problem that names none: some 25 milliseconds at most.
const DefaultEffort = 12 << 20

// planner is the working state of one call.
type planner struct {
	p      *Problem
	book   *book
	byName []int // the nodes
	rank   []int // of each node in byName
	// occupied says of each node that other pods hold GPUs there.
	occupied []bool
	// inUse is how many members are on each node, those that have a place included.
	inUse    []int
	levels   []level // from the widest to the narrowest
	nodeUnit uint64  // what a node costs
	unplaced []int   // members without a place, by shape

	sites     []site
	known     [][]int32 // slots by shape and node, -1 where they are not known
	undo      []undo
	out       []Placement
	effort    int
	truncated bool
}

func newPlanner(p *Problem) *planner {
	pl := &planner{
		p: p, book: newBook(p), byName: make([]int, len(p.Nodes)), rank: make([]int, len(p.Nodes)),
		occupied: make([]bool, len(p.Nodes)), inUse: make([]int, len(p.Nodes)), unplaced: make([]int, len(p.Shapes)),
		sites: make([]site, len(p.Nodes)), known: make([][]int32, len(p.Shapes)), effort: p.Effort,
	}
	if pl.effort <= 0 {
		pl.effort = DefaultEffort
	}
	for i := range p.Nodes {
		pl.byName[i] = i
	}
	byName := func(a, b int) int { return cmp.Compare(p.Nodes[a].Name, p.Nodes[b].Name) }
	if !slices.IsSortedFunc(pl.byName, byName) {
		slices.SortFunc(pl.byName, byName)
	}
	for rank, i := range pl.byName {
		n := &p.Nodes[i]
		pl.rank[i] = rank
		pl.occupied[i] = n.GPUs != nil && n.GPUs.Used()
		pl.sites[i] = site{state: pl.book.state(n.GPUs), cpu: n.MilliCPU}
	}
	for shape := range pl.known {
		pl.known[shape] = slices.Repeat([]int32{-1}, len(p.Nodes))
	}
	for _, m := range p.Members {
		if m.Node == "" {
			continue
		}
		if rank, ok := slices.BinarySearchFunc(pl.byName, m.Node, func(i int, name string) int {
			return cmp.Compare(p.Nodes[i].Name, name)
		}); ok {
			pl.inUse[pl.byName[rank]]++
		}
	}
	return pl
}

// unknownTopology rejects levels that are not known: no constraint would be the wrong guess.
func (pl *planner) unknownTopology() fit.Rejection {
	for _, key := range []string{pl.p.Required, pl.p.Preferred} {
		if key == "" || slices.Contains(pl.p.Levels, key) {
			continue
		}
		detail := fmt.Sprintf("asks for %q; no level is configured", key)
		if len(pl.p.Levels) > 0 {
			detail = fmt.Sprintf("asks for %q; known: %s", key, strings.Join(pl.p.Levels, ", "))
		}
		return fit.Rejection{Reason: fit.UnknownTopology, Detail: detail}
	}
	return fit.Rejection{}
}

// demand is how many of the members are of each shape.
func (pl *planner) demand(members []int) []int {
	need := make([]int, len(pl.p.Shapes))
	for _, m := range members {
		need[pl.p.Members[m].Shape]++
	}
	return need
}

// wanted are the shapes of which there are any, the hardest first: those for which there are the fewest slots.
func (pl *planner) wanted(g group, need []int) []int {
	slots := make([]int, len(need))
	var shapes []int
	for shape, n := range need {
		if n == 0 {
			continue
		}
		shapes = append(shapes, shape)
		for _, i := range g.nodes {
			slots[shape] += pl.slots(i, shape)
		}
	}
	slices.SortStableFunc(shapes, func(a, b int) int { return cmp.Compare(slots[a], slots[b]) })
	return shapes
}

// roomIn is how many of the members have places in the group, each shape by itself: no more can have.
func (pl *planner) roomIn(g group, need []int) []int {
	room := make([]int, len(need))
	for shape, n := range need {
		for _, i := range g.nodes {
			if room[shape] >= n {
				break
			}
			room[shape] = min(n, room[shape]+pl.slots(i, shape))
		}
	}
	return room
}

func sum(counts []int) int {
	total := 0
	for _, n := range counts {
		total += n
	}
	return total
}

// solution is places for members in a group.
type solution struct {
	cost  cost
	score int64
	first int // the lowest rank of the nodes looked at
	picks []pick
}

// compare orders solutions, the better first.
func (s solution) compare(o solution) int {
	return cmp.Or(s.cost.compare(o.cost), cmp.Compare(o.score, s.score), cmp.Compare(s.first, o.first))
}

// solve is the best places for so many members of each shape in the group; nothing is taken.
func (pl *planner) solve(g group, need []int, effort *int) (solution, bool) {
	shapes := pl.wanted(g, need)
	if len(shapes) == 1 {
		return pl.solveOne(g, shapes[0], need[shapes[0]], effort)
	}
	share := *effort / 2
	if m := newMixed(pl, shapes, need, &share); m != nil {
		root := pl.tree(g, shapes)
		c, picks, ok := m.solve(root)
		*effort -= *effort/2 - share
		if ok {
			mark := len(pl.undo)
			ok = pl.apply(picks)
			pl.rollback(mark)
			if ok {
				return solution{c, root.score, root.first, picks}, true
			}
		} else if !m.spent {
			return solution{}, false
		}
	}
	pl.truncated = true
	var best solution
	found := false
	for range 2 {
		s, ok := pl.oneByOne(g, shapes, need, effort)
		if ok && (!found || s.cost.compare(best.cost) < 0) {
			best, found = s, true
		}
		slices.Reverse(shapes)
	}
	return best, found
}

// solveOne is solve for one shape.
func (pl *planner) solveOne(g group, shape, need int, effort *int) (solution, bool) {
	root := pl.tree(g, []int{shape})
	s := &scalar{pl: pl, need: need, effort: effort}
	s.variants = min(root.slots, 1<<31)*need*max(len(pl.levels), 1) <= *effort/2
	s.fill(root)
	c, ok := root.table.least(need)
	if !ok {
		return solution{}, false
	}
	pl.truncated = pl.truncated || s.truncated
	return solution{c, root.score, root.first, s.collect(root, need, shape, nil)}, true
}

// oneByOne places one shape after the other.
func (pl *planner) oneByOne(g group, shapes, need []int, effort *int) (solution, bool) {
	mark := len(pl.undo)
	defer func() { pl.rollback(mark) }()
	out := solution{first: len(pl.p.Nodes)}
	for _, shape := range shapes {
		s, ok := pl.solveOne(g, shape, need[shape], effort)
		if !ok || !pl.apply(s.picks) {
			return solution{}, false
		}
		out.cost = out.cost.plus(s.cost)
		out.score, out.first = max(out.score, s.score), min(out.first, s.first)
		out.picks = append(out.picks, s.picks...)
	}
	return out, true
}

// apply takes what was picked; false when a node does not take it in this order.
func (pl *planner) apply(picks []pick) bool {
	mark := len(pl.undo)
	for _, k := range picks {
		if k.n > pl.room(k.node, k.shape, nil) || !pl.take(k.node, k.shape, k.n) {
			pl.rollback(mark)
			return false
		}
	}
	return true
}

// place places the minimum in the best of the groups, and then as many others as fit there.
func (pl *planner) place(groups []group, minimum, others []int) bool {
	if len(minimum) == 0 {
		return pl.placeOthers(groups, others)
	}
	need := pl.demand(minimum)
	all := slices.Concat(minimum, others)
	type choice struct {
		group
		solution
		more int
	}
	var best *choice
	for k, g := range groups {
		if !slices.Equal(pl.roomIn(g, need), need) {
			continue
		}
		effort := pl.effort / (len(groups) - k)
		pl.effort -= effort
		s, ok := pl.solve(g, need, &effort)
		pl.effort += effort
		if !ok {
			continue
		}
		c := &choice{g, s, 0}
		if len(others) > 0 {
			c.more = sum(pl.roomIn(g, pl.demand(all)))
		}
		if best == nil || cmp.Or(cmp.Compare(c.cost.hops, best.cost.hops), cmp.Compare(best.more, c.more),
			c.compare(best.solution)) < 0 {
			best = c
		}
	}
	if best == nil {
		return false
	}
	if len(others) > 0 {
		var alone []int
		for _, k := range best.picks {
			alone = append(alone, k.node)
		}
		if pl.placeTogether(best.group, minimum, others, pl.hops(alone)) {
			return true
		}
	}
	if !pl.commit(best.picks, minimum) {
		return false
	}
	pl.placeRest(best.group, others)
	return true
}

// placeTogether places the minimum and as many of the others as fit at once, which serves the whole gang best, if the minimum then
// is in as few domains as by itself.
func (pl *planner) placeTogether(g group, minimum, others []int, alone uint64) bool {
	need := pl.demand(minimum)
	with := slices.Clone(minimum)
	room := pl.roomIn(g, pl.demand(slices.Concat(minimum, others)))
	for _, m := range others {
		if shape := pl.p.Members[m].Shape; need[shape] < room[shape] {
			need[shape]++
			with = append(with, m)
		}
	}
	if len(with) == len(minimum) {
		return false
	}
	s, ok := pl.solve(g, need, &pl.effort)
	if !ok {
		return false
	}
	var nodes []int
	for _, a := range pl.arrange(s.picks, with) {
		if _, ok := slices.BinarySearch(minimum, a.Member); ok {
			nodes = append(nodes, a.Node)
		}
	}
	return pl.hops(nodes) <= alone && pl.commit(s.picks, with)
}

// placeOthers places as many members as there are places for, in the group that has most.
func (pl *planner) placeOthers(groups []group, others []int) bool {
	need := pl.demand(others)
	best, most := -1, 0
	var least solution
	for k, g := range groups {
		room := pl.roomIn(g, need)
		if sum(room) == 0 || sum(room) < most {
			continue
		}
		effort := pl.effort / (len(groups) - k)
		pl.effort -= effort
		s, ok := pl.solve(g, room, &effort)
		pl.effort += effort
		if sum(room) > most || ok && s.compare(least) < 0 {
			best, most, least = k, sum(room), s
			if !ok {
				least.cost = infinite
			}
		}
	}
	if best < 0 {
		return false
	}
	pl.placeRest(groups[best], others)
	return len(pl.out) > 0
}

// placeRest places as many of the members as fit in the group: all that each shape has room for, or, where they do not fit together,
// one shape after the other.
func (pl *planner) placeRest(g group, members []int) {
	room := pl.roomIn(g, pl.demand(members))
	if sum(room) == 0 {
		return
	}
	if s, ok := pl.solve(g, room, &pl.effort); ok && pl.commit(s.picks, members) {
		return
	}
	for len(members) > 0 {
		shape := pl.p.Members[members[0]].Shape
		of := func(m int) bool { return pl.p.Members[m].Shape == shape }
		need := make([]int, len(pl.p.Shapes))
		need[shape] = pl.roomIn(g, pl.demand(members))[shape]
		if need[shape] > 0 {
			if s, ok := pl.solve(g, need, &pl.effort); ok {
				pl.commit(s.picks, slices.DeleteFunc(slices.Clone(members), func(m int) bool { return !of(m) }))
			}
		}
		members = slices.DeleteFunc(slices.Clone(members), of)
	}
}

// commit takes what was picked for the first members of each shape; false when a node does not take it after all.
func (pl *planner) commit(picks []pick, members []int) bool {
	if !pl.apply(picks) {
		return false
	}
	pl.out = append(pl.out, pl.arrange(picks, members)...)
	return true
}

// arrange deals the places to the first members of each shape, in their order, along the topology: those of a node side by side, then
// those of a domain. Domains with more places go first, so that the last members are in the smallest. The assignments follow
// in the end.
func (pl *planner) arrange(picks []pick, members []int) []Placement {
	at := map[int][]int{}
	inDomain := make([]map[int32]int, len(pl.levels))
	for l := range inDomain {
		inDomain[l] = map[int32]int{}
	}
	var nodes []int
	for _, k := range picks {
		if at[k.node] == nil {
			at[k.node] = make([]int, len(pl.p.Shapes))
			nodes = append(nodes, k.node)
		}
		at[k.node][k.shape] += k.n
		for l := range inDomain {
			inDomain[l][pl.levels[l].of[k.node]] += k.n
		}
	}
	total := map[int]int{}
	for i, counts := range at {
		total[i] = sum(counts)
	}
	slices.SortFunc(nodes, func(a, b int) int {
		for l := range pl.levels {
			if da, db := pl.levels[l].of[a], pl.levels[l].of[b]; da != db {
				return cmp.Or(cmp.Compare(inDomain[l][db], inDomain[l][da]), cmp.Compare(da, db))
			}
		}
		return cmp.Or(cmp.Compare(total[b], total[a]), cmp.Compare(pl.rank[a], pl.rank[b]))
	})
	waiting := make([][]int, len(pl.p.Shapes))
	for _, m := range members {
		shape := pl.p.Members[m].Shape
		waiting[shape] = append(waiting[shape], m)
	}
	out := make([]Placement, 0, len(members))
	for _, i := range nodes {
		for shape, n := range at[i] {
			for _, m := range waiting[shape][:n] {
				out = append(out, Placement{Member: m, Node: i})
			}
			waiting[shape] = waiting[shape][n:]
		}
	}
	return out
}

// hops is what a cost counts of domains for members on these nodes.
func (pl *planner) hops(nodes []int) uint64 {
	hops := uint64(0)
	seen := map[int]bool{}
	inDomain := make([]map[int32]bool, len(pl.levels))
	for _, i := range nodes {
		if seen[i] {
			continue
		}
		seen[i] = true
		if pl.inUse[i] == 0 {
			hops += pl.nodeUnit
		}
		for l := range pl.levels {
			d := pl.levels[l].of[i]
			if pl.levels[l].inUse[d] > 0 || inDomain[l][d] {
				continue
			}
			if inDomain[l] == nil {
				inDomain[l] = map[int32]bool{}
			}
			inDomain[l][d] = true
			hops += pl.levels[l].unit
		}
	}
	return hops
}

// result is what was committed.
func (pl *planner) result(unplaced []int) *Result {
	res := &Result{Placements: pl.out, Truncated: pl.truncated}
	slices.SortFunc(res.Placements, func(a, b Placement) int { return cmp.Compare(a.Member, b.Member) })
	next := make([][]int, len(pl.p.Nodes))
	k := 0
	for _, m := range unplaced {
		if k == len(res.Placements) || res.Placements[k].Member != m {
			res.Surplus = append(res.Surplus, m)
			continue
		}
		at := &res.Placements[k]
		k++
		steps, shape := pl.sites[at.Node].steps, pl.p.Members[m].Shape
		if next[at.Node] == nil {
			next[at.Node] = make([]int, len(pl.p.Shapes))
		}
		s := next[at.Node][shape]
		for steps[s].shape != shape {
			s++
		}
		next[at.Node][shape] = s + 1
		if !pl.p.Shapes[shape].Request.Empty() {
			at.Assignment = steps[s].on(pl.p.Nodes[at.Node].GPUs)
		}
	}
	res.Domains, res.Level, res.Domain = spread(pl.p, res.Placements)
	return res
}
