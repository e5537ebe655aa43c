package potential

import (
	"cmp"
	"math"
	"slices"
	"strings"

	"weft.sh/weft/pkg/gpu"
)

// Class is a shape of request, reduced to what decides where it can go. Comparable, so that equal shapes are counted
// together.
type Class struct {
	// MilliCPU is the CPU asked for, in thousandths of a core.
	MilliCPU int64
	// Kind is 0 for a request without GPUs.
	Kind gpu.Kind
	// Count is the number of GPUs or MIG instances.
	Count int
	// MilliGPU is the share on each GPU: 1000 for whole ones, 0 for MIG.
	MilliGPU int64
	// Profile is the MIG profile, else empty.
	Profile string
	// Products are the accepted GPU models, sorted and joined by newlines; empty accepts all.
	Products string
}

// Model is what a GPU is to the classes: those that accept one GPU of a model accept all of it.
type Model struct {
	Product string
	// Refuses is the kind in which the GPU is not given out, 0 for none.
	Refuses gpu.Kind
}

// Cells of a GPU: amounts of it are counted in hundredths. A share is rounded up, what is left down.
const gpuCells = 100

// Cells is the hundredths of a GPU that are left of it.
func Cells(milliGPU int64) int {
	return int(min(max(milliGPU, 0), gpu.WholeMilliGPU) * gpuCells / gpu.WholeMilliGPU)
}

// Mix is how often each class comes. Immutable. The zero Mix expects nothing.
type Mix struct {
	classes []class   // with GPUs
	cpuOnly []cpuOnly // without
	gpus    float64   // GPUs that a request asks for on average
	cpu     float64   // cores that a request without GPUs asks for, averaged over all requests
}

// class is a class with GPUs.
type class struct {
	Class
	p        float64 // how likely the next request is of the class
	cores    float64
	gpus     float64 // asked for in all
	products []string
	cells    int     // of each GPU
	size     float64 // GPUs that it takes, in cells: for several GPUs, idle ones
}

// cpuOnly is an amount of CPU that requests without GPUs ask for.
type cpuOnly struct {
	cores float64
	part  float64 // of the requests without GPUs
}

// maxClasses bounds the work: of more, the most frequent ones count.
const maxClasses = 1024

// NewMix is the mix of the counted classes. Counts below 1 are ignored.
func NewMix(counts map[Class]int64) *Mix {
	type counted struct {
		Class
		count int64
	}
	var list []counted
	for c, n := range counts {
		if n > 0 {
			list = append(list, counted{c, n})
		}
	}
	slices.SortFunc(list, func(a, b counted) int {
		return cmp.Or(cmp.Compare(b.count, a.count), compareClasses(a.Class, b.Class))
	})
	list = list[:min(len(list), maxClasses)]
	slices.SortFunc(list, func(a, b counted) int { return compareClasses(a.Class, b.Class) })
	var total, without float64
	for _, c := range list {
		total += float64(c.count)
		if c.Kind == 0 {
			without += float64(c.count)
		}
	}
	m := &Mix{}
	for _, c := range list {
		p := float64(c.count) / total
		cores := float64(max(0, c.MilliCPU)) / 1000
		if c.Kind == 0 {
			m.cpu += p * cores
			last := len(m.cpuOnly) - 1
			if part := float64(c.count) / without; last >= 0 && m.cpuOnly[last].cores == cores {
				m.cpuOnly[last].part += part
			} else if cores > 0 {
				m.cpuOnly = append(m.cpuOnly, cpuOnly{cores, part})
			}
			continue
		}
		k := class{Class: c.Class, p: p, cores: cores, cells: gpuCells}
		switch c.Kind {
		case gpu.MIG:
			k.cells = 0
		case gpu.Shared:
			k.cells = min(max(1, int(math.Ceil(float64(c.MilliGPU*gpuCells)/float64(gpu.WholeMilliGPU)))), gpuCells)
			k.gpus = float64(c.Count) * float64(c.MilliGPU) / float64(gpu.WholeMilliGPU)
		default:
			k.gpus = float64(c.Count)
		}
		if c.Count < 1 {
			continue
		}
		k.size = float64(c.Count)
		if c.Count == 1 {
			k.size = float64(k.cells) / gpuCells
		}
		if c.Products != "" {
			k.products = strings.Split(c.Products, "\n")
		}
		m.gpus += p * k.gpus
		m.classes = append(m.classes, k)
	}
	return m
}

func compareClasses(a, b Class) int {
	return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Count, b.Count), cmp.Compare(a.MilliGPU, b.MilliGPU),
		cmp.Compare(a.Profile, b.Profile), cmp.Compare(a.MilliCPU, b.MilliCPU), cmp.Compare(a.Products, b.Products))
}

// admits reports whether the class accepts GPUs of the model.
func (c *class) admits(m Model) bool {
	return c.Kind != m.Refuses && (len(c.products) == 0 || slices.Contains(c.products, m.Product))
}

// admitted are the classes of the mix that accept GPUs of the model, as a string that is equal for models with equal ones.
func (m *Mix) admitted(model Model) (string, []int) {
	var out []int
	key := make([]byte, (len(m.classes)+7)/8)
	for i := range m.classes {
		if m.classes[i].admits(model) {
			out = append(out, i)
			key[i/8] |= 1 << (i % 8)
		}
	}
	return string(key), out
}
