package mig

import (
	"cmp"
	"maps"
	"math"
	"math/bits"
	"slices"
	"strings"

	"weft.sh/weft/pkg/gpu"
)

// Geometry is a GPU in MIG mode whose instances are made by hand, or by a tool, and not on demand.
type Geometry struct {
	// Legal is everything that the GPU could be divided into.
	Legal *Offer
	// Exist are the instances that exist, which do not overlap, and Used those of them that are held. One that is held and does not
	// exist, as after somebody divided the GPU anew under a pod, keeps its memory slices all the same.
	Exist, Used []gpu.Instance
}

// Demand is the instances that are wanted.
type Demand struct {
	// Pending is how many of each profile are waited for.
	Pending map[string]int
	// Mix is how often each profile was asked for in the recent past.
	Mix map[string]int64
}

// Division is how one GPU is to be divided.
type Division struct {
	// GPU is an index into the GPUs that were given.
	GPU int
	// Target is what is to exist, by start: all that is held, what is free and stays, and what is made.
	Target []gpu.Instance
	// Destroy and Create are what leads there. Nothing to be destroyed is held.
	Destroy, Create []gpu.Instance
}

// Repartition says how GPUs should be divided so that more of the demand finds a free instance. It changes only what nobody holds.
//
// It is worth, first, as many instances that are waited for as can be, and then as many of the next requests as can be expected: the
// next requests are so many that they would fill what is free, each profile by its part of the mix, a Poisson number of it; n free
// instances of it then serve min(n, that number). A change that serves nobody who waits must serve [worthwhile] of the next.
//
// From the geometry as it is, the change of one GPU that gains most is made, again and again, as long as there is one; of those that are
// about equal the one that destroys least, then the first GPU. Where none serves more of those who wait, two may together. A GPU that could as well have stayed as it is does, and instances that
// serve nobody are not made. So the result is never worth less than what there is, and changes little; it need not be the best of all.
//
// Divisions are in the order in which they are best made: those that destroy nothing first, then those that destroy least. The same
// input gives the same result.
func Repartition(gpus []Geometry, d Demand) []Division {
	p := newPlanner(gpus, d)
	for p.improve() {
	}
	p.revert()
	p.trim(gpus)
	var out []Division
	for i := range p.gpus {
		g := &p.gpus[i]
		if g.now == 0 {
			continue
		}
		div := Division{GPU: i, Target: slices.Concat(gpus[i].Used, g.ways[g.now].free)}
		div.Destroy, div.Create = without(gpus[i].Exist, div.Target), without(g.ways[g.now].free, gpus[i].Exist)
		for _, list := range [][]gpu.Instance{div.Target, div.Destroy, div.Create} {
			slices.SortFunc(list, byStart)
		}
		out = append(out, div)
	}
	slices.SortStableFunc(out, func(a, b Division) int { return cmp.Compare(len(a.Destroy), len(b.Destroy)) })
	return out
}

func byStart(a, b gpu.Instance) int {
	return cmp.Or(cmp.Compare(a.Start, b.Start), cmp.Compare(a.Profile, b.Profile))
}

// without is the instances of a that b has not.
func without(a, b []gpu.Instance) []gpu.Instance {
	var out []gpu.Instance
	for _, i := range a {
		if !slices.Contains(b, i) {
			out = append(out, i)
		}
	}
	return out
}

// worthwhile is how many of the next requests a change must be expected to serve, in millionths: a quarter of one.
const worthwhile = 250_000

// way is one way to divide what is free of a GPU.
type way struct {
	free []gpu.Instance
	// counts are those of the planner's profiles, destroyed how many instances of now it takes.
	counts    []int
	destroyed int
}

// planner looks for a division.
type planner struct {
	gpus     []planned
	profiles []string // of the demand, sorted
	// worth[p][n] is what the n+1st free instance of profile p serves of the next requests, in millionths; it falls with n.
	worth   [][]int64
	pending []int
	have    []int // free instances of each profile as of now
}

type planned struct {
	// ways are shared by GPUs in the same state; the first is the one that there is.
	ways []way
	now  int
	same string
}

func newPlanner(gpus []Geometry, d Demand) *planner {
	p := &planner{}
	wanted := map[string]bool{}
	for name, n := range d.Pending {
		wanted[name] = wanted[name] || n > 0
	}
	for name, n := range d.Mix {
		wanted[name] = wanted[name] || n > 0
	}
	for _, name := range slices.Sorted(maps.Keys(wanted)) {
		if wanted[name] {
			p.profiles = append(p.profiles, name)
			p.pending = append(p.pending, max(0, d.Pending[name]))
		}
	}
	p.have = make([]int, len(p.profiles))
	cache := map[string][]way{}
	sizes := make([]int, len(p.profiles))
	room := 0
	for i := range gpus {
		g := &gpus[i]
		key := g.key()
		if cache[key] == nil {
			cache[key] = p.waysOf(g)
		}
		p.gpus = append(p.gpus, planned{ways: cache[key], same: key})
		for k, n := range cache[key][0].counts {
			p.have[k] += n
		}
		if g.Legal == nil {
			continue
		}
		room += FreeSlices(NewState(g.Legal, g.Used))
		for k, name := range p.profiles {
			for set := g.Legal.set(name); set != 0; set &= set - 1 {
				sizes[k] = max(sizes[k], g.Legal.places[bits.TrailingZeros64(set)].instance.Size)
			}
		}
	}
	p.expect(d.Mix, sizes, room)
	return p
}

// expect fills in worth: the next requests are so many that they would fill the room that those who wait leave.
func (p *planner) expect(mix map[string]int64, sizes []int, room int) {
	var total, size float64
	for k, name := range p.profiles {
		room -= p.pending[k] * sizes[k]
		if n := float64(max(0, mix[name])); sizes[k] > 0 {
			total += n
			size += n * float64(sizes[k])
		}
	}
	for k, name := range p.profiles {
		var worth []int64
		if room > 0 && size > 0 && sizes[k] > 0 {
			worth = poissonTail(float64(max(0, mix[name])) * float64(room) / size)
		}
		p.worth = append(p.worth, worth)
	}
}

// poissonTail is the probability of at least n+1 of a Poisson number, in millionths, by n, until it is nothing.
func poissonTail(mean float64) (out []int64) {
	tail := 1.0
	for n := 0.0; n < 4*mean+64; n++ {
		gamma, _ := math.Lgamma(n + 1)
		tail -= math.Exp(n*math.Log(mean) - mean - gamma)
		millionths := int64(math.Round(1e6 * tail))
		if mean <= 0 || millionths <= 0 {
			return out
		}
		out = append(out, millionths)
	}
	return out
}

// key is equal for GPUs that can be divided in the same ways.
func (g *Geometry) key() string {
	var b strings.Builder
	for _, list := range [][]gpu.Instance{g.Exist, g.Used} {
		for _, i := range slices.SortedFunc(slices.Values(list), byStart) {
			b.WriteString(i.String() + " ")
		}
		b.WriteByte('/')
	}
	if g.Legal != nil {
		for _, at := range g.Legal.places {
			b.WriteString(at.instance.String() + " ")
		}
	}
	return b.String()
}

// waysOf are the ways to divide the GPU, the first as it is. Others fill it up with what is wanted or there already.
func (p *planner) waysOf(g *Geometry) []way {
	free := without(g.Exist, g.Used)
	out := []way{p.wayOf(free, free)}
	if g.Legal == nil || len(p.profiles) == 0 {
		return out
	}
	names := slices.Clone(p.profiles)
	for _, i := range g.Exist {
		names = append(names, i.Profile)
	}
	slices.Sort(names)
	for _, layout := range Layouts(NewState(g.Legal, g.Used), slices.Compact(names)) {
		if len(without(layout, free)) > 0 || len(without(free, layout)) > 0 {
			out = append(out, p.wayOf(layout, free))
		}
	}
	return out
}

func (p *planner) wayOf(layout, free []gpu.Instance) way {
	w := way{free: layout, counts: make([]int, len(p.profiles)), destroyed: len(without(free, layout))}
	for _, i := range layout {
		if k, ok := slices.BinarySearch(p.profiles, i.Profile); ok {
			w.counts[k]++
		}
	}
	return w
}

// gain is what going from one way to another changes: instances that are waited for, and next requests in millionths.
func (p *planner) gain(from, to *way) (pending int, next int64) {
	for k, n := range p.have {
		m := n + to.counts[k] - from.counts[k]
		pending += min(m, p.pending[k]) - min(n, p.pending[k])
		if n == m {
			continue
		}
		next += p.served(k, m) - p.served(k, n)
	}
	return pending, next
}

// served is how many of the next requests so many free instances of profile k serve, in millionths.
func (p *planner) served(k, n int) (sum int64) {
	for _, worth := range p.worth[k][:min(max(0, n-p.pending[k]), len(p.worth[k]))] {
		sum += worth
	}
	return sum
}

// improve makes the change that gains most, and reports whether there was one.
func (p *planner) improve() bool {
	type change struct {
		gpu, way, pending, destroyed int
		next                         int64
	}
	best := change{gpu: -1}
	type seen struct {
		same string
		now  int
	}
	done := map[seen]bool{}
	for i := range p.gpus {
		g := &p.gpus[i]
		if s := (seen{g.same, g.now}); done[s] {
			continue // as good as one before
		} else {
			done[s] = true
		}
		for w := range g.ways {
			if w == g.now {
				continue
			}
			pending, next := p.gain(&g.ways[g.now], &g.ways[w])
			if pending < 0 || pending == 0 && next < worthwhile {
				continue
			}
			c := change{i, w, pending, g.ways[w].destroyed, next}
			if best.gpu < 0 || cmp.Or(cmp.Compare(c.pending, best.pending), cmp.Compare(c.next/worthwhile, best.next/worthwhile),
				cmp.Compare(best.destroyed, c.destroyed), cmp.Compare(c.next, best.next)) > 0 {
				best = c
			}
		}
	}
	if best.gpu < 0 {
		return p.improveTwo()
	}
	p.set(best.gpu, best.way)
	return true
}

// maxPairs bounds the pairs of changes that are looked at at a time: those of some dozens of GPUs in different states.
const maxPairs = 1 << 20

// improveTwo makes a change of two GPUs that serves more of those who wait, where no change of one does. It is the one that serves most
// and then destroys least, and it reports whether there was one.
func (p *planner) improveTwo() bool {
	type seen struct {
		same string
		now  int
	}
	var some []int // two at most of GPUs that are the same
	ways := 0
	times := map[seen]int{}
	for i := range p.gpus {
		g := &p.gpus[i]
		s := seen{g.same, g.now}
		if times[s]++; times[s] <= 2 {
			some = append(some, i)
			ways += len(g.ways)
		}
	}
	if ways*ways > 2*maxPairs {
		return false
	}
	var best [2][2]int // GPU and way
	most, least := 0, 0
	for a, i := range some {
		g, was := &p.gpus[i], p.gpus[i].now
		for w := range g.ways {
			first, _ := p.gain(&g.ways[was], &g.ways[w])
			p.set(i, w)
			for _, j := range some[a+1:] {
				h := &p.gpus[j]
				for v := range h.ways {
					second, _ := p.gain(&h.ways[h.now], &h.ways[v])
					served, destroyed := first+second, g.ways[w].destroyed+h.ways[v].destroyed
					if served > most || served == most && most > 0 && destroyed < least {
						best, most, least = [2][2]int{{i, w}, {j, v}}, served, destroyed
					}
				}
			}
			p.set(i, was)
		}
	}
	if most == 0 {
		return false
	}
	p.set(best[0][0], best[0][1])
	p.set(best[1][0], best[1][1])
	return true
}

func (p *planner) set(i, w int) {
	g := &p.gpus[i]
	for k := range p.have {
		p.have[k] += g.ways[w].counts[k] - g.ways[g.now].counts[k]
	}
	g.now = w
}

// revert takes back the changes that have become needless, those that destroy most first.
func (p *planner) revert() {
	order := make([]int, len(p.gpus))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int {
		return cmp.Compare(p.gpus[b].ways[p.gpus[b].now].destroyed, p.gpus[a].ways[p.gpus[a].now].destroyed)
	})
	for _, i := range order {
		g := &p.gpus[i]
		if g.now == 0 {
			continue
		}
		if pending, next := p.gain(&g.ways[g.now], &g.ways[0]); pending > 0 || pending == 0 && next >= 0 {
			p.set(i, 0)
		}
	}
}

// trim leaves out what would be made for nobody, and keeps what would be destroyed for it.
func (p *planner) trim(gpus []Geometry) {
	for i := range p.gpus {
		g := &p.gpus[i]
		if g.now == 0 {
			continue
		}
		have := g.ways[0].free
		layout := slices.Clone(g.ways[g.now].free)
		for _, made := range without(layout, have) {
			less := p.wayOf(without(layout, []gpu.Instance{made}), have)
			if pending, next := p.gain(&g.ways[g.now], &less); pending == 0 && next == 0 {
				layout = less.free
			}
		}
		state := NewState(gpus[i].Legal, slices.Concat(gpus[i].Used, layout))
		for _, old := range without(have, layout) {
			if state.CanGive(old) {
				layout, state = append(layout, old), state.With(old)
			}
		}
		g.ways = append(slices.Clip(g.ways), p.wayOf(layout, have))
		p.set(i, len(g.ways)-1)
	}
}
