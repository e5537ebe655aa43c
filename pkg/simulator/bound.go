package simulator

import (
	"context"
	"fmt"
	"slices"

	"weft.sh/weft/pkg/gpu"
)

// Bound is what no placement of the pods that arrive can allocate more than, whatever it knows of the future: percentages of
// the GPU capacity, rounded up to four places. It holds for the pods of a seed that ask for the first 100 percent of the GPUs,
// and counts every pod as allocatable in parts; so no placement may reach it.
type Bound struct {
	Workload string  `json:"workload"`
	Seed     int64   `json:"seed"`
	Load     float64 `json:"load"`
	// Asked is the percentage of the GPUs that those pods ask for: 100, or hardly less.
	Asked float64 `json:"asked"`
	// NodeTypes regards the GPUs and the CPU of all nodes of a type as one large node, and knows which pods a type admits.
	NodeTypes float64 `json:"bound_node_types"`
	// CuttingStock regards the GPUs as bars that pods are cut from: it knows that a pod's share comes from one GPU, but neither
	// nodes nor CPU nor models.
	CuttingStock float64 `json:"bound_cutting_stock"`
	// Bound is the lower of the two.
	Bound float64 `json:"bound"`
}

// closeEnough is by how much of the capacity a bound may be above the optimum of its linear programme: a thousandth of a
// percent.
const closeEnough = 1e-5

// maxRounds bounds the column generation: it takes some dozens of rounds.
const maxRounds = 2000

// Bound is the bound for what arrives in a run of that seed and load.
func (w *Workload) Bound(ctx context.Context, seed int64, load float64) (Bound, error) {
	arriving, _, _, err := w.arrivals(seed, load)
	if err != nil {
		return Bound{}, err
	}
	supply := make([]float64, len(w.classes)) // pods of each class
	var asked int64
	for _, c := range arriving {
		if asked+w.classes[c].total() > w.milliGPU() {
			break
		}
		asked += w.classes[c].total()
		supply[c]++
	}
	b := Bound{Workload: w.Name, Seed: seed, Load: load, Asked: rounded(100 * float64(asked) / float64(w.milliGPU()))}
	if b.CuttingStock, err = w.cuttingStock(ctx, supply); err != nil {
		return Bound{}, fmt.Errorf("%s, seed %d: cutting stock: %w", w.Name, seed, err)
	}
	if b.NodeTypes, err = w.nodeTypes(ctx, supply); err != nil {
		return Bound{}, fmt.Errorf("%s, seed %d: node types: %w", w.Name, seed, err)
	}
	b.CuttingStock, b.NodeTypes = rounded(100*b.CuttingStock+5e-5), rounded(100*b.NodeTypes+5e-5)
	b.Bound = min(b.CuttingStock, b.NodeTypes)
	return b, nil
}

// cuttingStock is the optimum of
//
//	max Σ value(p) x_p    over patterns p: multisets of sizes that fit into one GPU
//	    Σ x_p       <= 1  the GPUs
//	    Σ p_s x_p   <= supply of size s
//
// by column generation (Gilmore and Gomory, "A Linear Programming Approach to the Cutting-Stock Problem", 1961): a knapsack
// finds the pattern that is worth most at the prices so far. All amounts are parts of the GPUs. A price vector, whatever its
// origin, gives a valid bound: what the best pattern earns at it, and the supply at its price.
func (w *Workload) cuttingStock(ctx context.Context, supply []float64) (float64, error) {
	bySize := map[int64]float64{}
	for i, n := range supply {
		if c := &w.classes[i]; n > 0 && c.gpus > 0 {
			bySize[c.milliGPU] += n * float64(c.gpus) / float64(w.gpus)
		}
	}
	var sizes []int64
	var m programme
	for s := int64(1); s <= gpu.WholeMilliGPU; s++ {
		if n, ok := bySize[s]; ok {
			sizes = append(sizes, s)
			m.limits = append(m.limits, n)
		}
	}
	m.limits = append(m.limits, 1)
	value := func(s int64) float64 { return float64(s) / float64(gpu.WholeMilliGPU) }
	for i, s := range sizes {
		column := make([]float64, len(m.limits))
		column[i] = float64(gpu.WholeMilliGPU / s)
		column[len(sizes)] = 1
		m.add(value(s)*column[i], column)
	}
	bound := 1.0
	for range maxRounds {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		optimum, prices, err := m.solve()
		if err != nil {
			return 0, err
		}
		worth := make([]float64, len(sizes))
		total := 0.0
		for i, s := range sizes {
			worth[i] = value(s) - prices[i]
			total += prices[i] * m.limits[i]
		}
		best, pattern := knapsack(sizes, worth)
		bound = min(bound, total+best)
		if bound-optimum < closeEnough {
			return bound, nil
		}
		column := make([]float64, len(m.limits))
		column[len(sizes)] = 1
		sum := 0.0
		for i, n := range pattern {
			column[i] = float64(n)
			sum += float64(n) * value(sizes[i])
		}
		if !m.add(sum, column) {
			return bound, nil // within the solver's precision this is the optimum
		}
	}
	return bound, nil
}

// knapsack fills a GPU with sizes, any number of each, so that the sum of their worth is highest.
func knapsack(sizes []int64, worth []float64) (best float64, counts []int) {
	var most [gpu.WholeMilliGPU + 1]float64
	var last [gpu.WholeMilliGPU + 1]int // index into sizes of what was put in last, -1 for one milli-GPU left empty
	for room := int64(1); room <= gpu.WholeMilliGPU; room++ {
		most[room], last[room] = most[room-1], -1
		for i, s := range sizes {
			if s <= room && most[room-s]+worth[i] > most[room] {
				most[room], last[room] = most[room-s]+worth[i], i
			}
		}
	}
	counts = make([]int, len(sizes))
	for room := int64(gpu.WholeMilliGPU); room > 0; {
		if i := last[room]; i >= 0 {
			counts[i]++
			room -= sizes[i]
		} else {
			room--
		}
	}
	return most[gpu.WholeMilliGPU], counts
}

// nodeType is the nodes that are alike.
type nodeType struct {
	milliCPU int64
	gpus     int
	model    int
	nodes    int
}

// nodeTypes is the optimum of
//
//	max Σ gpus(c) x_tc           pods of class c on nodes of type t
//	    Σ_c gpus(c) x_tc <= GPUs of the nodes of type t
//	    Σ_c cpu(c)  x_tc <= CPU of the nodes of type t
//	    Σ_t x_tc         <= supply of class c
//	    x_tc = 0 where one pod of c does not fit an empty node of t
//
// by Dantzig and Wolfe's decomposition ("Decomposition Principle for Linear Programs", 1960): at prices for the GPUs and the CPU
// of each type every class goes where it earns most. The classes that the same types admit make one block, so that the programme
// has few rows. As above any prices give a valid bound.
func (w *Workload) nodeTypes(ctx context.Context, supply []float64) (float64, error) {
	types, totalCPU := w.types()
	var m programme
	for _, t := range types {
		m.limits = append(m.limits, float64(t.nodes*t.gpus)/float64(w.gpus))
	}
	for _, t := range types {
		m.limits = append(m.limits, float64(t.milliCPU)*float64(t.nodes)/totalCPU)
	}
	// A block's classes are in order of the list.
	blocks, admitting := w.blocks(types, supply)
	for range blocks {
		m.limits = append(m.limits, 1)
	}
	prices := make([]float64, len(m.limits))
	bound, optimum := 1.0, 0.0
	for range maxRounds {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		total, added := 0.0, false
		for i := range 2 * len(types) {
			total += prices[i] * m.limits[i]
		}
		for b, classes := range blocks {
			column := make([]float64, len(m.limits))
			column[2*len(types)+b] = 1
			var value, earned float64
			for _, id := range classes {
				c := &w.classes[id]
				gpus := supply[id] * float64(c.total()) / float64(w.milliGPU())
				cpu := supply[id] * float64(c.milliCPU) / totalCPU
				best, at := 0.0, -1
				for _, t := range admitting[b] {
					if e := gpus*(1-prices[t]) - cpu*prices[len(types)+t]; e > best {
						best, at = e, t
					}
				}
				if at >= 0 {
					value += gpus
					earned += best
					column[at] += gpus
					column[len(types)+at] += cpu
				}
			}
			total += earned
			if earned > prices[2*len(types)+b] && m.add(value, column) {
				added = true
			}
		}
		bound = min(bound, total)
		if bound-optimum < closeEnough || !added {
			return bound, nil // without a new column this is the optimum, within the solver's precision
		}
		var err error
		if optimum, prices, err = m.solve(); err != nil {
			return 0, err
		}
	}
	return bound, nil
}

// types are the types of the nodes with GPUs, and all CPU of them.
func (w *Workload) types() (types []nodeType, totalCPU float64) {
	for i, n := range w.state(nil) {
		if len(n.free) == 0 {
			continue
		}
		t := nodeType{w.nodes[i].MilliCPU, len(n.free), n.model, 0}
		at := slices.IndexFunc(types, func(o nodeType) bool { o.nodes = 0; return o == t })
		if at < 0 {
			at = len(types)
			types = append(types, t)
		}
		types[at].nodes++
		totalCPU += float64(t.milliCPU)
	}
	return types, totalCPU
}

// blocks are the classes with GPUs by which types admit them, and for each block those types.
func (w *Workload) blocks(types []nodeType, supply []float64) (blocks, admitting [][]int) {
	for id := range w.classes {
		c := &w.classes[id]
		if c.gpus == 0 || supply[id] == 0 {
			continue
		}
		var in []int
		for t := range types {
			if c.milliCPU <= types[t].milliCPU && c.gpus <= types[t].gpus && (c.accepts == nil || c.accepts[types[t].model]) {
				in = append(in, t)
			}
		}
		if len(in) == 0 {
			continue
		}
		b := slices.IndexFunc(admitting, func(o []int) bool { return slices.Equal(o, in) })
		if b < 0 {
			b = len(blocks)
			blocks, admitting = append(blocks, nil), append(admitting, in)
		}
		blocks[b] = append(blocks[b], id)
	}
	return blocks, admitting
}
