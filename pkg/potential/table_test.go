package potential

import (
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"testing"

	"weft.sh/weft/pkg/gpu"
)

func share(milliGPU, milliCPU int64) Class {
	return Class{Kind: gpu.Shared, Count: 1, MilliGPU: milliGPU, MilliCPU: milliCPU}
}

func whole(count int, milliCPU int64) Class {
	return Class{Kind: gpu.Whole, Count: count, MilliGPU: 1000, MilliCPU: milliCPU}
}

func cpuOnlyClass(milliCPU int64) Class { return Class{MilliCPU: milliCPU} }

// dumb sums over all ways to fill a node by listing them. Classes of the same size, which the tables take in any order, are told
// apart by order here too.
type dumb struct {
	t    *Table
	sum  float64
	rows []int // cells left of each GPU in use or filled one by one
}

// weight is that of a class of the mix, as docs/strategy.md has it.
func (d *dumb) weight(c *class) float64 {
	return math.Exp(-(d.t.prices.of(c) + d.t.core*c.cores) / temperature)
}

// without sums over the multisets of classes without GPUs.
func (d *dumb) without(from, cpu int) float64 {
	cell := d.t.cell()
	if from == len(d.t.mix.cpuOnly) {
		return math.Exp(-cell * float64(cpu) / temperature)
	}
	var sum float64
	c := d.t.mix.cpuOnly[from]
	for n, w := 0, 1.0; n*d.t.cells(c.cores) <= cpu; n, w = n+1, w*c.part {
		sum += w * d.without(from+1, cpu-n*d.t.cells(c.cores))
	}
	return sum
}

// fill fills the GPUs from the i-th on with classes of a size of at least that; cells are left of the i-th.
func (d *dumb) fill(i, size, cells, cpu int, w float64) {
	if i == len(d.rows) {
		d.sum += w * d.without(0, cpu)
		return
	}
	next := 0
	if i+1 < len(d.rows) {
		next = d.rows[i+1]
	}
	d.fill(i+1, 0, next, cpu, w*math.Exp(-float64(cells)/gpuCells/temperature))
	for k := range d.t.mix.classes {
		c := &d.t.mix.classes[k]
		if u := d.t.cells(c.cores); c.Count == 1 && c.cells >= size && c.cells <= cells && u <= cpu {
			d.fill(i, c.cells, cells-c.cells, cpu-u, w*d.weight(c))
		}
	}
}

// several takes classes of several idle GPUs, of a count of at least that, before the rest is filled one by one.
func (d *dumb) several(count, idle, cpu int, used []int, w float64) {
	d.rows = append([]int(nil), used...)
	for range idle {
		d.rows = append(d.rows, gpuCells)
	}
	first := 0
	if len(d.rows) > 0 {
		first = d.rows[0]
	}
	d.fill(0, 0, first, cpu, w)
	for k := range d.t.mix.classes {
		c := &d.t.mix.classes[k]
		if u := d.t.cells(c.cores); c.Count > 1 && c.Count >= count && c.Count <= idle && u <= cpu {
			d.several(c.Count, idle-c.Count, cpu-u, used, w*d.weight(c))
		}
	}
}

func TestPotentialIsThatOfAllWaysToFillTheNode(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for n := range 60 {
		counts := map[Class]int64{cpuOnlyClass(int64(r.IntN(4) * 800)): int64(r.IntN(3))}
		for range 1 + r.IntN(3) {
			counts[share(int64(250+r.IntN(700)), int64(r.IntN(5)*700))] = int64(1 + r.IntN(4))
		}
		counts[whole(1+r.IntN(3), int64(r.IntN(5)*900))] = 2
		prices := Prices{classes: map[Class]float64{}, core: 0.002 + r.Float64()*0.01}
		for c := range counts {
			prices.classes[c] = r.Float64() * 0.3
		}
		table := NewTable(NewMix(counts), prices, 8_000)
		model := Model{Product: "T4"}
		var s State
		s.SetCPU(table.CPU(int64(r.IntN(9_000))))
		idle := r.IntN(4)
		for range idle {
			table.Add(&s, model, gpuCells, true)
		}
		var used []int
		for range r.IntN(3) {
			cells := 1 + r.IntN(100)
			used = append(used, cells)
			table.Add(&s, model, cells, false)
		}
		d := &dumb{t: table}
		d.several(0, idle, s.cpu, used, 1)
		want := temperature * math.Log(d.sum)
		if got := table.exact(&s); math.Abs(got-want) > 1e-9 {
			t.Fatalf("case %d: %d idle, %v left of others, %d cells of CPU, %v: got %.12f, want %.12f", n, idle, used, s.cpu, counts, got, want)
		}
		if got := table.Potential(&s); got != int64(math.RoundToEven(want*Units)) {
			t.Errorf("case %d: %d steps, want %f", n, got, want*Units)
		}
	}
}

func TestWhatIsLeftIsWorthWhatCanBeMadeOfIt(t *testing.T) {
	table := func(counts map[Class]int64) *Table { return NewTable(NewMix(counts), Prices{}, 64_000) }
	of := func(t *Table, milliCPU int64, cells ...int) float64 {
		var s State
		s.SetCPU(t.CPU(milliCPU))
		for _, c := range cells {
			t.Add(&s, Model{}, c, c == gpuCells)
		}
		return t.exact(&s)
	}
	thirds, halves := table(map[Class]int64{share(300, 800): 1}), table(map[Class]int64{share(500, 800): 1})
	fours := table(map[Class]int64{whole(4, 32_000): 1})
	for name, tc := range map[string]struct{ more, less float64 }{
		"30 percent where 30 are asked for, and where 50 are":    {of(thirds, 64_000, 30), of(halves, 64_000, 30)},
		"50 percent where 50 are asked for, and where 30 are":    {of(halves, 64_000, 50), of(thirds, 64_000, 50)},
		"four idle GPUs with the CPU for them, and without":      {of(fours, 64_000, 100, 100, 100, 100), of(fours, 16_000, 100, 100, 100, 100)},
		"four idle GPUs where four are asked for, and three":     {of(fours, 64_000, 100, 100, 100, 100), of(fours, 64_000, 100, 100, 100)},
		"shares with some CPU, and with less than one of them":   {of(halves, 1_600, 50, 50), of(halves, 1_599, 50, 50)},
		"nothing idle at all, and something that nobody can use": {of(halves, 0), of(halves, 0, 10)},
	} {
		if tc.more <= tc.less+0.05 {
			t.Errorf("%s: %.3f is not clearly more than %.3f", name, tc.more, tc.less)
		}
	}
}

func TestModelsAreToldApartByWhatAcceptsThem(t *testing.T) {
	only := whole(1, 800)
	only.Products = "A100\nH100"
	table := NewTable(NewMix(map[Class]int64{only: 1}), Prices{}, 8_000)
	of := func(m Model) float64 {
		var s State
		s.SetCPU(10)
		table.Add(&s, m, gpuCells, true)
		return table.exact(&s)
	}
	a, h, t4 := of(Model{Product: "A100"}), of(Model{Product: "H100"}), of(Model{Product: "T4"})
	shared := of(Model{Product: "A100", Refuses: gpu.Whole})
	if a != h || a <= t4 || shared != t4 {
		t.Errorf("A100 %f, H100 %f, T4 %f, A100 for shares only %f", a, h, t4, shared)
	}
	if groups := len(table.known.Load().groups); groups != 2 {
		t.Errorf("%d groups, want 2", groups)
	}
	// A node with GPUs of both.
	var s State
	s.SetCPU(10)
	table.Add(&s, Model{Product: "A100"}, gpuCells, true)
	table.Add(&s, Model{Product: "T4"}, gpuCells, true)
	if got := table.exact(&s); math.Abs(got-(a+t4)) > 1e-9 {
		t.Errorf("both: %f, want %f", got, a+t4)
	}
}

func TestNoValueIsOutOfRange(t *testing.T) {
	for name, counts := range map[string]map[Class]int64{
		"nothing is expected":     nil,
		"one class":               {share(500, 1_000): 3},
		"only CPU":                {cpuOnlyClass(2_000): 3},
		"a class of no size":      {Class{Kind: gpu.Shared, Count: 0, MilliGPU: 100}: 1, Class{Kind: gpu.Shared, Count: 1}: 1},
		"negative amounts":        {Class{Kind: gpu.Shared, Count: 1, MilliGPU: -5, MilliCPU: -7}: 1, cpuOnlyClass(-3): 1},
		"more than a node can do": {whole(100_000, math.MaxInt64): 1, share(10, math.MaxInt64): 1},
		"only MIG":                {Class{Kind: gpu.MIG, Count: 1, Profile: "1g.10gb"}: 1},
	} {
		for _, core := range []float64{0, highestCore} {
			for _, largest := range []int64{-1, 0, 1_000, 10_000_000} {
				mix := NewMix(counts)
				prices := Solve(t.Context(), mix, []Node{{MilliCPU: largest, Alike: 2, GPUs: []GPU{{Cells: 100, Idle: true, Count: 40}}}, {}}, Prices{}, 5)
				prices.core = core
				table := NewTable(mix, prices, largest)
				var s State
				s.SetCPU(table.CPU(largest))
				for i := range 40 {
					table.Add(&s, Model{}, 100, true)
					table.Add(&s, Model{}, 3+2*i, false)
				}
				if v := table.exact(&s); math.IsNaN(v) || math.IsInf(v, 0) || math.Abs(v) > 2_000 {
					t.Errorf("%s, %d milli-CPU, %g a core: %g", name, largest, core, v)
				}
			}
		}
	}
}

func TestManyMayAskAtOnce(t *testing.T) {
	ask := func(table *Table, i int) int64 {
		var s State
		s.SetCPU(i % 40)
		m := Model{Product: fmt.Sprint(i % 3)}
		for g := range i % 7 {
			table.Add(&s, m, 10+(i*7+g*13)%90, false)
		}
		return table.Potential(&s)
	}
	counts := map[Class]int64{share(100, 800): 4, share(250, 2_400): 2, whole(1, 8_000): 3}
	alone, together := NewTable(NewMix(counts), Prices{}, 64_000), NewTable(NewMix(counts), Prices{}, 64_000)
	var wg sync.WaitGroup
	for i := range 300 {
		want := ask(alone, i)
		wg.Go(func() {
			if got := ask(together, i); got != want {
				t.Errorf("%d: %d, want %d", i, got, want)
			}
		})
	}
	wg.Wait()
}
