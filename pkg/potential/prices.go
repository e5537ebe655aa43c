package potential

import (
	"cmp"
	"context"
	"math"
	"slices"
)

// Node is what is left of nodes that are alike.
type Node struct {
	MilliCPU int64
	// GPUs are those of which something is left and that are not in MIG mode.
	GPUs []GPU
	// Alike is the number of such nodes.
	Alike int
}

// GPU is what is left of GPUs of a node that are alike.
type GPU struct {
	Model Model
	// Cells are the hundredths of each that are left; Idle says that nobody holds anything of them.
	Cells int
	Idle  bool
	Count int
}

// Prices are what the classes and the CPU that they take are worth, in GPUs. Immutable. The zero Prices are those to begin
// with.
type Prices struct {
	classes map[Class]float64
	// core is the price of a core; step is by how much it was moved last, and up in which direction.
	core, step float64
	up         bool
}

const (
	// temperature is how much, in GPUs, a way to fill a node must be worse than another to count e times less.
	temperature = 0.02
	// share of a GPU by which the range of exponents is centred; see table.go.
	centre = 0.65

	firstPrice    = 0.05 // of a GPU, of a class that has none yet
	lowestPrice   = -0.3
	highestPrice  = 2
	priceStep     = 0.05
	lowestCore    = 0
	highestCore   = 0.1
	firstStep     = 0.001
	shortestStep  = 1e-5
	longestStep   = 3e-3
	demandFloor   = 0.001
	settled       = 1e-4 // of a GPU: prices that move less are right
	maxThresholds = 18
	// maxIdle is how many idle GPUs of a node count.
	maxIdle = 16
)

// extraCore are prices of a core above the common one, for nodes on which CPU is scarcer than elsewhere.
var extraCore = []float64{0, .004, .01, .017, .025, .035, .045, .06, .08, .1, .14, .2, .3, .6}

// of is the price of the class.
func (p *Prices) of(c *class) float64 {
	if price, ok := p.classes[c.Class]; ok {
		return price
	}
	return firstPrice * c.gpus
}

// Rarity are prices without a look at the nodes: what comes rarely is dear, -T·ln p, and CPU costs nothing.
func Rarity(mix *Mix) Prices {
	out := Prices{classes: map[Class]float64{}}
	for i := range mix.classes {
		c := &mix.classes[i]
		out.classes[c.Class] = min(-temperature*math.Log(c.p), highestPrice*c.gpus)
	}
	return out
}

// market is a search for prices.
type market struct {
	mix    *Mix
	nodes  []marketNode
	groups []marketGroup
	levels []float64 // cores: a node of level l has at least so many, and takes classes that ask for no more
	// demand is how often each class has to come to fill what is idle, and coreDemand the cores that others ask for until
	// then.
	demand     []float64
	coreDemand float64
	cores      float64
	level      []int // of each class

	price []float64
	core  float64
}

type marketNode struct {
	cores  float64
	level  int
	alike  float64
	parts  []marketPart
	chosen []float64 // scratch: the weight of each extra
}

type marketPart struct {
	group int
	cells int // of a GPU that is in use; 0 for idle ones
	count int
}

// marketGroup is the GPUs that accept the same classes.
type marketGroup struct {
	classes []int
	sizes   []int // distinct cells of classes of one GPU, ascending
	counts  []int // distinct counts of classes of several
	slot    []int // of each of classes: its index in sizes, or len(sizes) + its index in counts
	idle    int   // the most idle GPUs of a node
	tables  []*marketTable
}

// marketTable is the ways to fill GPUs of a group on nodes of one level at one price of a core.
type marketTable struct {
	weight []float64 // by slot: the sum over its classes
	one    []float64 // by cells left of one GPU
	idle   []float64 // by idle GPUs
	logOne []float64
	logAll []float64
	// need and the counts of GPUs and nodes in each state
	usesOne []float64
	usesAll []float64
	want    []float64 // by slot: expected number of its requests
}

// Solve moves prices, in so many steps at most, to where the classes of the mix fill what is idle on the nodes in the
// proportion in which they come. It returns what it has when ctx ends.
func Solve(ctx context.Context, mix *Mix, nodes []Node, from Prices, steps int) Prices {
	m := newMarket(mix, nodes, &from)
	step, up := from.step, from.up
	if step == 0 {
		step = firstStep
	}
	x := make([]float64, len(mix.classes))
	for range steps {
		if m == nil || ctx.Err() != nil {
			break
		}
		used := m.expect(x)
		var moved float64
		for i := range mix.classes {
			c := &mix.classes[i]
			if c.cells == 0 {
				continue
			}
			d := temperature / 2 * math.Log((x[i]+demandFloor)/(m.demand[i]+demandFloor))
			d = min(max(d, -priceStep*c.gpus), priceStep*c.gpus)
			old := m.price[i]
			m.price[i] = min(max(old+d, lowestPrice*c.gpus), highestPrice*c.gpus)
			moved = max(moved, math.Abs(m.price[i]-old)/c.gpus)
		}
		old := m.core
		if scarce := m.cores-used < m.coreDemand; scarce == up {
			step = min(step*1.2, longestStep)
		} else {
			step, up = max(step*0.5, shortestStep), scarce
		}
		if up {
			m.core += step
		} else {
			m.core -= step
		}
		m.core = min(max(m.core, lowestCore), highestCore)
		if moved < settled && math.Abs(m.core-old) <= shortestStep {
			break
		}
	}
	out := Prices{classes: make(map[Class]float64, len(mix.classes)), core: from.core, step: step, up: up}
	for i := range mix.classes {
		c := &mix.classes[i]
		if m != nil {
			out.classes[c.Class] = m.price[i]
		} else {
			out.classes[c.Class] = from.of(c)
		}
	}
	if m != nil {
		out.core = m.core
	}
	return out
}

// newMarket is nil where there is nothing to fill or nothing to fill it with.
func newMarket(mix *Mix, nodes []Node, from *Prices) *market {
	if mix.gpus <= 0 {
		return nil
	}
	m := &market{mix: mix, core: from.core}
	for i := range mix.classes {
		m.price = append(m.price, from.of(&mix.classes[i]))
	}
	m.thresholds()
	var idle float64
	byModel, byClasses := map[Model]int{}, map[string]int{}
	for _, n := range nodes {
		cores := float64(max(0, n.MilliCPU)) / 1000
		alike := float64(n.Alike)
		m.cores += alike * cores
		node := marketNode{cores: cores, alike: alike, chosen: make([]float64, len(extraCore))}
		node.level = m.levelOf(cores)
		for _, g := range n.GPUs {
			group, ok := byModel[g.Model]
			if !ok {
				key, classes := mix.admitted(g.Model)
				if group, ok = byClasses[key]; !ok {
					group = len(m.groups)
					byClasses[key] = group
					m.groups = append(m.groups, m.newGroup(classes))
				}
				byModel[g.Model] = group
			}
			idle += alike * float64(g.Count*g.Cells) / gpuCells
			if g.Idle && g.Cells == gpuCells {
				count := min(g.Count, maxIdle)
				at := slices.IndexFunc(node.parts, func(p marketPart) bool { return p.group == group && p.cells == 0 })
				if at >= 0 {
					node.parts[at].count = min(node.parts[at].count+count, maxIdle)
					count = node.parts[at].count
				} else {
					node.parts = append(node.parts, marketPart{group: group, count: count})
				}
				m.groups[group].idle = max(m.groups[group].idle, count)
			} else if g.Cells > 0 {
				node.parts = append(node.parts, marketPart{group: group, cells: g.Cells, count: g.Count})
			}
		}
		if len(node.parts) > 0 {
			m.nodes = append(m.nodes, node)
		}
	}
	if idle <= 0 {
		return nil
	}
	for i := range mix.classes {
		m.demand = append(m.demand, mix.classes[i].p*idle/mix.gpus)
	}
	m.coreDemand = mix.cpu * idle / mix.gpus
	for g := range m.groups {
		m.groups[g].tables = make([]*marketTable, len(m.levels)*len(extraCore))
	}
	return m
}

// thresholds chooses the levels: the amounts of CPU with most GPUs asked for, none, and the largest.
func (m *market) thresholds() {
	type amount struct{ cores, gpus float64 }
	var amounts []amount
	var largest float64
	for i := range m.mix.classes {
		c := &m.mix.classes[i]
		largest = max(largest, c.cores)
		at := slices.IndexFunc(amounts, func(a amount) bool { return a.cores == c.cores })
		if at < 0 {
			at = len(amounts)
			amounts = append(amounts, amount{cores: c.cores})
		}
		amounts[at].gpus += c.p * c.gpus
	}
	slices.SortFunc(amounts, func(a, b amount) int {
		return cmp.Or(cmp.Compare(b.gpus, a.gpus), cmp.Compare(a.cores, b.cores))
	})
	m.levels = []float64{0, largest}
	for _, a := range amounts[:min(len(amounts), maxThresholds)] {
		m.levels = append(m.levels, a.cores)
	}
	slices.Sort(m.levels)
	m.levels = slices.Compact(m.levels)
	for i := range m.mix.classes {
		at, _ := slices.BinarySearch(m.levels, m.mix.classes[i].cores)
		m.level = append(m.level, at)
	}
}

// levelOf is the level of a node.
func (m *market) levelOf(cores float64) int {
	at, ok := slices.BinarySearch(m.levels, cores)
	if !ok {
		at--
	}
	return at
}

func (m *market) newGroup(classes []int) marketGroup {
	g := marketGroup{}
	for _, i := range classes {
		c := &m.mix.classes[i]
		switch {
		case c.cells == 0:
			continue // MIG
		case c.Count == 1:
			g.sizes = append(g.sizes, c.cells)
		default:
			g.counts = append(g.counts, c.Count)
		}
		g.classes = append(g.classes, i)
	}
	slices.Sort(g.sizes)
	slices.Sort(g.counts)
	g.sizes, g.counts = slices.Compact(g.sizes), slices.Compact(g.counts)
	for _, i := range g.classes {
		c := &m.mix.classes[i]
		var at int
		if c.Count == 1 {
			at, _ = slices.BinarySearch(g.sizes, c.cells)
		} else {
			at, _ = slices.BinarySearch(g.counts, c.Count)
			at += len(g.sizes)
		}
		g.slot = append(g.slot, at)
	}
	return g
}

// expect is how many requests of each class the nodes would be filled with at the prices, and the cores that those take.
func (m *market) expect(x []float64) (cores float64) {
	extras := len(extraCore)
	classes := len(m.mix.classes)
	weight := make([]float64, extras*classes)
	for i := range m.mix.classes {
		c := &m.mix.classes[i]
		for e, extra := range extraCore {
			weight[e*classes+i] = min(math.Exp((c.gpus-centre*c.size-m.price[i]-(m.core+extra)*c.cores)/temperature), 1e300)
		}
	}
	for g := range m.groups {
		m.groups[g].fill(m, weight)
	}
	for n := range m.nodes {
		m.choose(&m.nodes[n])
	}
	clear(x)
	for g := range m.groups {
		m.groups[g].count(m, weight, x)
	}
	for i := range x {
		cores += x[i] * m.mix.classes[i].cores
	}
	return cores
}

// fill makes the tables that the nodes need.
func (g *marketGroup) fill(m *market, weight []float64) {
	classes, slots := len(m.mix.classes), len(g.sizes)+len(g.counts)
	used := make([]bool, len(m.levels))
	for i := range m.nodes {
		for _, p := range m.nodes[i].parts {
			if &m.groups[p.group] == g {
				used[m.nodes[i].level] = true
			}
		}
	}
	for e := range extraCore {
		sum := make([]float64, slots*len(m.levels))
		for k, i := range g.classes {
			sum[m.level[i]*slots+g.slot[k]] += weight[e*classes+i]
		}
		for l := range m.levels {
			if l > 0 {
				for s := range slots {
					sum[l*slots+s] += sum[(l-1)*slots+s]
				}
			}
			if used[l] {
				at := l*len(extraCore) + e
				if g.tables[at] == nil {
					g.tables[at] = newMarketTable(slots, g.idle)
				}
				g.tables[at].fill(g, sum[l*slots:(l+1)*slots])
			}
		}
	}
}

func newMarketTable(slots, idle int) *marketTable {
	return &marketTable{
		weight: make([]float64, slots), one: make([]float64, gpuCells+1), idle: make([]float64, idle+1),
		logOne: make([]float64, gpuCells+1), logAll: make([]float64, idle+1),
		usesOne: make([]float64, gpuCells+1), usesAll: make([]float64, idle+1), want: make([]float64, slots),
	}
}

// fill sums over the ways: one[r] over those to fill r cells of a GPU in use, idle[f] over those to fill f idle GPUs.
func (t *marketTable) fill(g *marketGroup, weight []float64) {
	copy(t.weight, weight)
	for r := range t.one {
		t.one[r] = idleWeight[r]
	}
	for s, cells := range g.sizes {
		if w := weight[s]; w > 0 {
			for r := cells; r <= gpuCells; r++ {
				t.one[r] += w * t.one[r-cells]
			}
		}
	}
	whole := t.one[gpuCells]
	t.idle[0] = 1
	for f := 1; f < len(t.idle); f++ {
		t.idle[f] = t.idle[f-1] * whole
	}
	for s, count := range g.counts {
		if w := weight[len(g.sizes)+s]; w > 0 {
			for f := count; f < len(t.idle); f++ {
				t.idle[f] += w * t.idle[f-count]
			}
		}
	}
	for r := range t.logOne {
		t.logOne[r] = math.NaN()
	}
	for f, v := range t.idle {
		t.logAll[f] = temperature * math.Log(clamp(v))
	}
	clear(t.usesOne)
	clear(t.usesAll)
}

// idleWeight is the weight of so many cells that stay idle.
var idleWeight = func() (out [gpuCells + 1]float64) {
	for r := range out {
		out[r] = math.Exp(-centre * float64(r) / gpuCells / temperature)
	}
	return out
}()

// clamp keeps a sum of weights within what has a logarithm.
func clamp(v float64) float64 { return min(max(v, 1e-300), 1e300) }

func (t *marketTable) value(p *marketPart) float64 {
	if p.cells == 0 {
		return t.logAll[p.count]
	}
	v := t.logOne[p.cells]
	if v != v {
		v = temperature * math.Log(clamp(t.one[p.cells]))
		t.logOne[p.cells] = v
	}
	return v * float64(p.count)
}

// choose finds the price of a core at which the node is worth least, softly, and counts its GPUs in the tables of that price.
func (m *market) choose(n *marketNode) {
	lowest := math.Inf(1)
	for e, extra := range extraCore {
		v := (m.core + extra) * n.cores
		for i := range n.parts {
			p := &n.parts[i]
			v += m.groups[p.group].tables[n.level*len(extraCore)+e].value(p)
		}
		n.chosen[e] = v
		lowest = min(lowest, v)
	}
	var sum float64
	for e, v := range n.chosen {
		n.chosen[e] = math.Exp((lowest - v) / temperature)
		sum += n.chosen[e]
	}
	for e, w := range n.chosen {
		w *= n.alike / sum
		if w < 1e-7 {
			continue
		}
		for i := range n.parts {
			p := &n.parts[i]
			t := m.groups[p.group].tables[n.level*len(extraCore)+e]
			if p.cells == 0 {
				t.usesAll[p.count] += w
			} else {
				t.usesOne[p.cells] += w * float64(p.count)
			}
		}
	}
}

// count adds the expected number of requests of each class to x.
func (g *marketGroup) count(m *market, weight, x []float64) {
	classes, slots := len(m.mix.classes), len(g.sizes)+len(g.counts)
	rate := make([]float64, slots*len(m.levels))
	for e := range extraCore {
		clear(rate)
		for l := len(m.levels) - 1; l >= 0; l-- {
			t := g.tables[l*len(extraCore)+e]
			if t != nil && t.expect(g) {
				for s, w := range t.weight {
					if w > 0 {
						rate[l*slots+s] = t.want[s] / w
					}
				}
			}
			if l+1 < len(m.levels) {
				for s := range slots {
					rate[l*slots+s] += rate[(l+1)*slots+s]
				}
			}
		}
		for k, i := range g.classes {
			x[i] += weight[e*classes+i] * rate[m.level[i]*slots+g.slot[k]]
		}
	}
}

// expect computes want from the uses. A request of weight w that takes s of r occurs in the ways to fill r on average
// w·Z(r-s)/Z(r) + w²·Z(r-2s)/Z(r) + … times, which is H(r)/Z(r) with H(r) = w·(Z(r-s) + H(r-s)).
func (t *marketTable) expect(g *marketGroup) bool {
	clear(t.want)
	any := false
	var h [gpuCells + 1]float64
	for s, count := range g.counts {
		w := t.weight[len(g.sizes)+s]
		if w == 0 {
			continue
		}
		for f := count; f < len(t.idle); f++ {
			h[f] = w * t.idle[f-count]
			if f >= 2*count {
				h[f] += w * h[f-count]
			}
			if u := t.usesAll[f]; u > 0 {
				t.want[len(g.sizes)+s] += u * h[f] / t.idle[f]
			}
		}
	}
	// What is not filled by classes of several GPUs is filled one by one.
	whole := t.one[gpuCells]
	for f := 1; f < len(t.idle); f++ {
		h[f] = whole * t.idle[f-1]
		if f > 1 {
			h[f] += whole * h[f-1]
		}
		if u := t.usesAll[f]; u > 0 {
			t.usesOne[gpuCells] += u * h[f] / t.idle[f]
			any = true
		}
	}
	var per [gpuCells + 1]float64
	for r, u := range t.usesOne {
		if u > 0 {
			per[r] = u / t.one[r]
			any = true
		}
	}
	if !any {
		return false
	}
	for s, cells := range g.sizes {
		w := t.weight[s]
		if w == 0 {
			continue
		}
		var sum float64
		for r := cells; r <= gpuCells; r++ {
			h[r] = w * t.one[r-cells]
			if r >= 2*cells {
				h[r] += w * h[r-cells]
			}
			sum += per[r] * h[r]
		}
		t.want[s] = sum
	}
	return true
}
