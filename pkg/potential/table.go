package potential

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"sync"
	"sync/atomic"
)

// Table has the potentials of nodes for a mix at its prices. Immutable but for what it keeps to answer faster; safe for
// concurrent use.
type Table struct {
	mix    *Mix
	prices Prices
	// cpuStep is a cell of CPU in thousandths of a core, and width the number of cells of the largest amount that counts.
	cpuStep int64
	width   int
	// core is the price of a core, limited so that no weight leaves the range of numbers.
	core float64
	// free is the weight of what can be made of so many cells of CPU without GPUs.
	free []float64

	known atomic.Pointer[known]

	mu sync.RWMutex // of what follows, and of who replaces known
	// vectors are the products of rows; see vector.
	vectors map[vectorKey][]float64
}

// known is the models that were asked for so far. Immutable.
type known struct {
	groups []*group
	models map[Model]int
}

// group is the tables of the models that admit the same classes.
type group struct {
	admitted string
	// one[r] is the weight of the ways to fill r cells of a GPU by the cells of CPU that they take; trimmed where it is 0.
	one [gpuCells + 1][]float64
	// full[r] is the most of r cells that can be filled: what is beyond stays idle whatever comes.
	full [gpuCells + 1]int
	// idle[f] is the weight of the ways to make of f idle GPUs and x cells of CPU what they can become, up to maxIdle.
	idle [][]float64
}

const (
	// The smallest cell of CPU; the cells of a node are 200 at most.
	shortestCPUStep = 800
	widestCPU       = 200
)

// NewTable is the table for nodes that have so much CPU at most; on larger ones, the rest does not count.
func NewTable(mix *Mix, prices Prices, largestMilliCPU int64) *Table {
	t := &Table{mix: mix, prices: prices, cpuStep: shortestCPUStep, vectors: map[vectorKey][]float64{}}
	t.known.Store(&known{})
	if largest := max(largestMilliCPU, 0); largest > t.cpuStep*widestCPU {
		t.cpuStep = (largest + widestCPU - 1) / widestCPU
	}
	t.width = int(max(largestMilliCPU, 0)/t.cpuStep) + 1
	t.core = min(prices.core, 600*temperature/float64(t.width)*1000/float64(t.cpuStep))
	cell := t.cell()
	t.free = make([]float64, t.width)
	for x := range t.free {
		t.free[x] = math.Exp(-cell * float64(x) / 2 / temperature)
	}
	for _, c := range mix.cpuOnly {
		u := t.cells(c.cores)
		w := c.part * math.Exp(cell*float64(u)/2/temperature)
		for x := u; x < t.width; x++ {
			t.free[x] += w * t.free[x-u]
		}
	}
	return t
}

// cell is the price of a cell of CPU.
func (t *Table) cell() float64 { return t.core * float64(t.cpuStep) / 1000 }

// cells is an amount of CPU that is asked for, rounded up.
func (t *Table) cells(cores float64) int {
	return int(math.Ceil(cores*1000/float64(t.cpuStep) - 1e-9))
}

// CPU is an amount of CPU that is left, in cells.
func (t *Table) CPU(milliCPU int64) int {
	return int(min(max(milliCPU, 0)/t.cpuStep, int64(t.width-1)))
}

// group is the table of the GPUs of a model.
func (t *Table) group(m Model) (int, *group) {
	k := t.known.Load()
	if g, ok := k.models[m]; ok {
		return g, k.groups[g]
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	k = t.known.Load()
	if g, ok := k.models[m]; ok {
		return g, k.groups[g]
	}
	next := &known{groups: slices.Clone(k.groups), models: maps.Clone(k.models)}
	if next.models == nil {
		next.models = map[Model]int{}
	}
	key, classes := t.mix.admitted(m)
	g := slices.IndexFunc(next.groups, func(g *group) bool { return g.admitted == key })
	if g < 0 {
		g = len(next.groups)
		next.groups = append(next.groups, t.newGroup(key, classes))
	}
	next.models[m] = g
	t.known.Store(next)
	return g, next.groups[g]
}

// Prepare makes the tables of a model, for it takes some milliseconds when it is asked for first.
func (t *Table) Prepare(m Model) { t.group(m) }

func (t *Table) newGroup(admitted string, classes []int) *group {
	g := &group{admitted: admitted}
	var one [gpuCells + 1][]float64
	for r := range one {
		one[r] = make([]float64, t.width)
		one[r][0] = idleWeight[r]
	}
	cell := t.cell()
	type item struct {
		size, cpu int
		weight    float64
	}
	var items, several []item
	for _, i := range classes {
		c := &t.mix.classes[i]
		u := t.cells(c.cores)
		if c.cells == 0 || u >= t.width {
			continue
		}
		w := min(math.Exp((c.size*(1-centre)-t.prices.of(c)-t.core*c.cores+cell*float64(u)/2)/temperature), 1e300)
		if w == 0 {
			continue
		}
		if c.Count == 1 {
			items = append(items, item{c.cells, u, w})
		} else {
			several = append(several, item{c.Count, u, w})
		}
	}
	bySize := func(a, b item) int { return cmp.Or(cmp.Compare(a.size, b.size), cmp.Compare(a.cpu, b.cpu)) }
	slices.SortFunc(items, bySize)
	slices.SortFunc(several, bySize)
	merged := func(list []item) []item {
		out := list[:0]
		for _, i := range list {
			if last := len(out) - 1; last >= 0 && out[last].size == i.size && out[last].cpu == i.cpu {
				out[last].weight += i.weight
			} else {
				out = append(out, i)
			}
		}
		return out
	}
	items, several = merged(items), merged(several)
	extent := [gpuCells + 1]int{}
	for r := range extent {
		extent[r] = 1
	}
	for len(items) > 0 {
		size := items[0].size
		n := 1
		for n < len(items) && items[n].size == size {
			n++
		}
		for r := size; r <= gpuCells; r++ {
			to, from := one[r], one[r-size][:extent[r-size]]
			for _, i := range items[:n] {
				addShifted(to, from, i.cpu, i.weight)
				extent[r] = max(extent[r], min(len(from)+i.cpu, t.width))
			}
			limit(to[:extent[r]])
			if g.full[r-size]+size == r {
				g.full[r] = r
			}
		}
		items = items[n:]
	}
	for r := range one {
		g.one[r] = one[r][:extent[r]]
		if r > 0 && g.full[r] != r {
			g.full[r] = g.full[r-1]
		}
	}
	g.idle = [][]float64{t.free}
	for f := 1; f <= maxIdle; f++ {
		g.idle = append(g.idle, convolve(g.one[gpuCells], g.idle[f-1], t.width))
	}
	for len(several) > 0 {
		count := several[0].size
		n := 1
		for n < len(several) && several[n].size == count {
			n++
		}
		for f := count; f <= maxIdle; f++ {
			for _, i := range several[:n] {
				addShifted(g.idle[f], g.idle[f-count], i.cpu, i.weight)
			}
			limit(g.idle[f])
		}
		several = several[n:]
	}
	return g
}

// addShifted adds from, moved up by so many places and times the weight, to to.
func addShifted(to, from []float64, shift int, weight float64) {
	if shift >= len(to) {
		return
	}
	to = to[shift:]
	for y, v := range from[:min(len(from), len(to))] {
		to[y] += weight * v
	}
}

// limit keeps weights finite.
func limit(weights []float64) {
	for i, w := range weights {
		weights[i] = min(w, 1e300)
	}
}

// convolve is the product of two tables by CPU, cut off at the width.
func convolve(a, b []float64, width int) []float64 {
	out := make([]float64, min(len(a)+len(b)-1, width))
	for y, v := range a {
		if v != 0 {
			addShifted(out, b, y, v)
		}
	}
	limit(out)
	return out
}

// vectorKey are the rows of the GPUs in use of a node, sorted: group·128 + cells + 1, 0 for none.
type vectorKey [maxRows]uint16

// maxRows is how many GPUs in use of a node count.
const maxRows = 16

// maxVectors bounds what is kept.
const maxVectors = 1 << 16

// vector is the weight of the ways to fill these GPUs by the CPU that they take; nil for no GPU.
func (t *Table) vector(key vectorKey, n int) []float64 {
	if n == 0 {
		return nil
	}
	last := key[n-1] - 1
	row := t.known.Load().groups[last>>7].one[last&127]
	if n == 1 {
		return row
	}
	t.mu.RLock()
	v, ok := t.vectors[key]
	t.mu.RUnlock()
	if ok {
		return v
	}
	rest := key
	rest[n-1] = 0
	v = convolve(t.vector(rest, n-1), row, t.width)
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.vectors) >= maxVectors {
		clear(t.vectors)
	}
	t.vectors[key] = v
	return v
}

// State is what is left of a node, as a table sees it. The zero State is a node without CPU and GPUs.
type State struct {
	cpu   int
	group int // of the idle GPUs
	idle  int
	rows  vectorKey
	n     int // rows
	cells int // that can be filled
	lost  int // that cannot
}

// SetCPU sets how many cells of CPU are left.
func (s *State) SetCPU(cells int) { s.cpu = cells }

// Add adds a GPU of which so many cells are left; idle says that nobody holds anything of it.
func (t *Table) Add(s *State, m Model, cells int, idle bool) {
	if cells <= 0 {
		return
	}
	at, g := t.group(m)
	if idle && cells == gpuCells && (s.idle == 0 || s.group == at) {
		if s.idle < maxIdle {
			s.group = at
			s.idle++
			s.cells += gpuCells
		}
		return
	}
	full := g.full[cells]
	s.lost += cells - full
	if full == 0 || s.n == maxRows {
		return
	}
	s.cells += full
	key := uint16(at<<7+full) + 1
	i := s.n
	for i > 0 && s.rows[i-1] > key {
		s.rows[i] = s.rows[i-1]
		i--
	}
	s.rows[i] = key
	s.n++
}

// Units of the potential: it is given in steps of 1/512 GPU, so that the order of nodes does not depend on the last bits of
// sums.
const Units = 1 << 9

// Potential is that of a node, in Units of a GPU.
func (t *Table) Potential(s *State) int64 {
	return int64(math.RoundToEven(t.exact(s) * Units))
}

// exact is the potential in GPUs.
func (t *Table) exact(s *State) float64 {
	idle := t.free
	if s.idle > 0 {
		idle = t.known.Load().groups[s.group].idle[s.idle]
	}
	sum := 0.0
	if v := t.vector(s.rows, s.n); v == nil {
		sum = idle[s.cpu]
	} else {
		for y, w := range v[:min(len(v), s.cpu+1)] {
			sum += w * idle[s.cpu-y]
		}
	}
	return temperature*math.Log(clamp(sum)) - (1-centre)*float64(s.cells)/gpuCells - float64(s.lost)/gpuCells -
		t.cell()*float64(s.cpu)/2
}
