package gang

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"weft.sh/weft/pkg/fit"
)

// Unit is what leaves together when a gang takes the place of others: a whole gang, one member of a gang that can do without
// it, or a pod that is in no gang.
//
// An elastic gang is several units: each member above its minimum is a surplus unit, and what is left is one more. Where that
// one leaves, the gang cannot run, and its surplus leaves with it; each pod is in one unit only, so that none counts twice.
type Unit struct {
	// Gang is the gang that the pods are members of, the zero Key for a pod that is in none.
	Gang Key
	// Surplus says that the gang runs on when the unit leaves.
	Surplus bool
	// Priority is the pods', the highest where they differ.
	Priority int32
	// Pods are all pods of the unit, at least 1, wherever they are.
	Pods []Occupant
	// Owed says that what the unit holds is guaranteed to another queue, which wants it back: it may leave whatever its priority.
	Owed bool
	// LostMilliGPUSeconds is the work lost when the unit leaves, the sum of [LostWork] over its pods.
	LostMilliGPUSeconds int64
}

// LostWork is the work that a pod loses when it is evicted now, in milliGPUSeconds: what it did since it started or, where that was
// later, since it wrote a checkpoint. A zero time is unknown: a pod that never started loses nothing, nor does one whose
// checkpoint is said to be yet to come.
func LostWork(milliGPU int64, start, checkpointedAt, now time.Time) int64 {
	if start.IsZero() {
		return 0
	}
	if checkpointedAt.After(start) {
		start = checkpointedAt
	}
	return milliGPU * int64(max(0, now.Sub(start))/time.Second)
}

// Preempt places the gang of the problem on what would be free if others left, and says which units must: indices into units,
// ascending. It evicts nobody for nothing: without a plan for all that the gang needs there are no victims, and the rejection
// says why. The rejection is OK when there is a plan, which may need no victims at all.
//
// Only units of a lower priority than the given one, the gang's, or that are owed are considered, and never members of the gang
// itself. Nobody leaves for a gang whose minimum has places already: surplus members are not worth an eviction.
//
// What the victims cost is compared in this order, and the least is taken:
//
//  1. The pods evicted beyond what disruption budgets allow, summed over the budgets; budgets[i] is how many evictions budget
//     i still allows, see [Occupant.Budgets].
//  2. The work lost of the highest priority of which anybody leaves, then of the next lower, and so on. A unit counts as if it
//     had lost a milliGPUSecond at least; so no lower priority makes up for an eviction of a higher one, and of equal priority
//     those go that have done least since their last checkpoint, however many they are.
//  3. The pods evicted.
//
// Always, none of the victims can be spared: with one unit fewer gone [Plan] finds no place for the gang. With up to 12 units
// that could help, in each domain if a level is required, the cost is the least there is as far as Plan misses nothing; with
// more it is searched for greedily. Where the effort of the search runs out, which takes hundreds of units whose leaving is hard
// to judge, the result is marked as truncated, and victims may be more than needed.
//
// A required level is tried domain by domain, and the domain with the cheapest victims is taken. Otherwise, and for a
// preferred level, all nodes are one domain: victims matter more than how close the members will be.
//
// A gang that is guaranteed the room which others borrowed takes units that are owed ([Unit.Owed]), whatever their priority, beside
// ones of lower priority, and of no group more than its cap. A unit with a pod in a group that has no cap does not leave. With
// more units than are searched exhaustively, a way within the caps that exists may be missed. The zero Caps bound nothing. Where at least
// so much must leave of a group ([Caps.Least]), for a limit that is no matter of room, there are victims also if the gang has places
// without them, and the cheapest are those of the least price that leave it both places and as much as must be.
func Preempt(p *Problem, priority int32, units []Unit, budgets []int, caps Caps) (*Result, []int, fit.Rejection) {
	return makeRoom(p, priority, units, budgets, caps, searchLimits{exact: maxExact, effort: maxEffort})
}

const (
	// maxExact is how many units are searched exhaustively: 4096 sets of them.
	maxExact = 12
	// maxEffort is the default effort, in nodes planned on: some 128 plans of 512 nodes. Most that is tried needs no plan.
	maxEffort = 1 << 16
)

type searchLimits struct{ exact, effort int }

func makeRoom(p *Problem, priority int32, units []Unit, budgets []int, caps Caps, limits searchLimits) (*Result, []int, fit.Rejection) {
	res, rejection := Plan(p)
	if rejection.OK() && !caps.wanting() || !rejection.OK() && !rejection.Reason.Resolvable() || placedMembers(p) >= p.Min {
		return res, nil, rejection
	}
	pr := newPricer(units, budgets)
	pr.cap(caps)
	for u := range units {
		if units[u].Priority >= priority && !units[u].Owed || units[u].Gang == p.Gang && p.Gang != (Key{}) {
			pr.barred[u] = true
		}
	}
	found := cheapest(p, pr, limits)
	if found.result == nil {
		if rejection.OK() {
			rejection = fit.Rejection{Reason: fit.InsufficientGangCapacity, Detail: "there is room, but its queue has none"}
		}
		if rejection.Detail != "" {
			rejection.Detail += "; "
		}
		rejection.Detail += "evicting pods of lower priority would not be enough"
		if len(caps.MilliGPU) > 0 {
			rejection.Detail += ", nor would evicting those who borrowed, down to their guarantees"
		}
		return nil, nil, rejection
	}
	return found.result, found.victims, fit.Rejection{}
}

// clearing is a plan with the units that have to leave for it.
type clearing struct {
	result  *Result
	victims []int
	price   price
}

// cheapest is the cheapest way to make room for the gang, in the domain where it is cheapest; its result is nil where
// there is none.
func cheapest(p *Problem, pr *pricer, limits searchLimits) clearing {
	var best clearing
	e := &effort{left: limits.effort}
	for _, nodes := range fields(p) {
		s := newSearch(p, nodes, pr, e, limits.exact)
		if s == nil {
			continue
		}
		victims, cost := s.best(best.price)
		if victims == nil {
			continue
		}
		s.restore(victims)
		res, rejection := s.result(nodes)
		if !rejection.OK() {
			continue
		}
		best = clearing{res, victims, cost}
	}
	if best.result != nil {
		best.result.Truncated = best.result.Truncated || e.short
	}
	return best
}

// fields are the sets of nodes that are searched one by one, as indices: all nodes, or the domains of the required level by name.
// When members are in one domain already it is the only one; when they are in several, or in none, their nodes are part of each,
// and the planner says what it makes of that.
func fields(p *Problem) [][]int {
	level := slices.Index(p.Levels, p.Required)
	if p.Required == "" || level < 0 {
		return [][]int{wholeField(p)}
	}
	hosts := map[string]bool{}
	for _, m := range p.Members {
		hosts[m.Node] = m.Node != ""
	}
	domains := map[string][]int{}
	var homes []int
	in := map[string]bool{} // the domains of homes
	for i := range p.Nodes {
		domain := p.Nodes[i].Domains[level]
		if domain != "" {
			domains[domain] = append(domains[domain], i)
		}
		if hosts[p.Nodes[i].Name] {
			homes, in[domain] = append(homes, i), true
		}
	}
	var out [][]int
	for _, domain := range slices.Sorted(maps.Keys(domains)) {
		if len(in) == 1 && !in[""] && !in[domain] {
			continue
		}
		nodes := append(domains[domain], homes...)
		slices.Sort(nodes)
		out = append(out, slices.Compact(nodes))
	}
	return out
}

// wholeField is all nodes.
func wholeField(p *Problem) []int {
	all := make([]int, len(p.Nodes))
	for i := range all {
		all[i] = i
	}
	return all
}

func placedMembers(p *Problem) int {
	n := 0
	for _, m := range p.Members {
		if m.Node != "" {
			n++
		}
	}
	return n
}

// price is the cost of an eviction: violations of budgets, the work lost from the highest priority to the lowest, pods. Prices of
// one pricer compare as slices; nil is no price, dearer than all.
type price []int64

func (a price) less(b price) bool { return a != nil && (b == nil || slices.Compare(a, b) < 0) }

// pricer prices sets of units.
type pricer struct {
	units   []Unit
	budgets []int
	level   []int // by unit: the index of its priority among the priorities, from the highest
	levels  int
	surplus [][]int // by unit: the units that leave when it does
	holder  []int   // by unit: the one that it leaves with, -1 for none
	barred  []bool  // by unit: it may not be evicted
	caps    Caps
	takes   [][]take // by unit: what it counts against the caps
}

func newPricer(units []Unit, budgets []int) *pricer {
	pr := &pricer{
		units: units, budgets: budgets, level: make([]int, len(units)), surplus: make([][]int, len(units)),
		holder: make([]int, len(units)), barred: make([]bool, len(units)), takes: make([][]take, len(units)),
	}
	var priorities []int32
	rest := map[Key]int{}
	for u := range units {
		priorities = append(priorities, units[u].Priority)
		if units[u].Gang != (Key{}) && !units[u].Surplus {
			rest[units[u].Gang] = u
		}
	}
	slices.SortFunc(priorities, func(a, b int32) int { return cmp.Compare(b, a) })
	priorities = slices.Compact(priorities)
	pr.levels = len(priorities)
	for u := range units {
		pr.level[u], pr.holder[u] = slices.Index(priorities, units[u].Priority), -1
		if r, ok := rest[units[u].Gang]; ok && units[u].Surplus {
			pr.holder[u] = r
			pr.surplus[r] = append(pr.surplus[r], u)
		}
	}
	return pr
}

// mayLeave reports whether the unit, with what leaves with it, may be evicted.
func (pr *pricer) mayLeave(u int) bool {
	return !pr.barred[u] && !slices.ContainsFunc(pr.surplus[u], func(s int) bool { return pr.barred[s] })
}

// tally is a set of units with what its price is made of.
type tally struct {
	*pricer
	gone  price   // without the violations
	spent []int   // by budget
	taken []int64 // by cap
}

func (pr *pricer) tally() *tally {
	return &tally{
		pricer: pr, gone: make(price, pr.levels+2), spent: make([]int, len(pr.budgets)), taken: make([]int64, len(pr.caps.MilliGPU)),
	}
}

// count adds a unit that is evicted; with -1, it takes one away.
func (t *tally) count(u, sign int) {
	unit := &t.units[u]
	t.gone[1+t.level[u]] += int64(sign) * max(1, unit.LostMilliGPUSeconds)
	t.gone[len(t.gone)-1] += int64(sign * len(unit.Pods))
	for _, k := range t.takes[u] {
		t.taken[k.group] += int64(sign) * k.milliGPU
	}
	for i := range unit.Pods {
		for _, b := range unit.Pods[i].Budgets {
			if b >= 0 && b < len(t.spent) {
				t.spent[b] += sign
			}
		}
	}
}

// price is the price of evicting the set.
func (t *tally) price() price {
	out := slices.Clone(t.gone)
	for b, n := range t.spent {
		out[0] += int64(max(0, n-max(0, t.budgets[b])))
	}
	return out
}

// of is the price of evicting the units.
func (pr *pricer) of(units ...int) price {
	t := pr.tally()
	for _, u := range units {
		t.count(u, 1)
	}
	return t.price()
}

// with is the unit and those that leave with it.
func (pr *pricer) with(u int) []int { return append([]int{u}, pr.surplus[u]...) }
