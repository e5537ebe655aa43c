package fit

import (
	"cmp"
	"math"
	"slices"
	"strings"

	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/mig"
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

// ClassOf reduces a request. A request of one ask is kept exactly. One of several is taken for the hardest of its asks
// by kind: all its whole GPUs; else its shares as so many GPUs with the largest of the shares; else its instances of the
// first profile.
func ClassOf(r gpu.Request, milliCPU int64) Class {
	c := Class{MilliCPU: milliCPU, Products: strings.Join(r.Products, "\n")}
	for _, container := range r.Containers {
		if container.Init {
			continue
		}
		for _, a := range container.Asks {
			switch {
			case a.Kind == gpu.Whole && c.Kind == gpu.Whole:
				c.Count += a.Count
			case a.Kind == gpu.Whole:
				c.Kind, c.Count, c.MilliGPU, c.Profile = gpu.Whole, a.Count, gpu.WholeMilliGPU, ""
			case a.Kind == gpu.Shared && c.Kind == gpu.Shared:
				c.Count += a.Count
				c.MilliGPU = max(c.MilliGPU, a.MilliGPU)
			case a.Kind == gpu.Shared && c.Kind != gpu.Whole:
				c.Kind, c.Count, c.MilliGPU, c.Profile = gpu.Shared, a.Count, a.MilliGPU, ""
			case a.Kind == gpu.MIG && c.Kind == gpu.MIG && c.Profile == a.Profile:
				c.Count += a.Count
			case a.Kind == gpu.MIG && c.Kind == 0:
				c.Kind, c.Count, c.Profile = gpu.MIG, a.Count, a.Profile
			}
		}
	}
	return c
}

// Mix is how often each class comes: what the fragmentation strategy expects of the future. Immutable. The zero Mix
// expects nothing.
type Mix struct {
	classes []weighted
	total   int64
}

type weighted struct {
	Class
	count    int64
	products []string
}

func (w *weighted) accepts(product string) bool {
	return len(w.products) == 0 || slices.Contains(w.products, product)
}

// mixCoverage is the part of the requests that the classes of a mix stand for, in percent. The rare rest costs time and
// says little; 95 is the published choice (Weng et al., "Beware of Fragmentation", USENIX ATC 2023).
const mixCoverage = 95

// NewMix is the mix of the counted classes: the most frequent ones that together make 95 percent of the counts. Classes
// with a count below 1 are ignored. Equal counts are ordered by the larger request.
func NewMix(counts map[Class]int64) Mix {
	var m Mix
	var all int64
	for c, n := range counts {
		if n < 1 {
			continue
		}
		w := weighted{Class: c, count: n}
		if c.Products != "" {
			w.products = strings.Split(c.Products, "\n")
		}
		m.classes = append(m.classes, w)
		all += n
	}
	slices.SortFunc(m.classes, func(a, b weighted) int {
		return cmp.Or(cmp.Compare(b.count, a.count), cmp.Compare(b.MilliCPU, a.MilliCPU), cmp.Compare(b.MilliGPU, a.MilliGPU),
			cmp.Compare(b.Count, a.Count), cmp.Compare(a.Products, b.Products), cmp.Compare(a.Kind, b.Kind),
			cmp.Compare(a.Profile, b.Profile))
	})
	for i := range m.classes {
		m.total += m.classes[i].count
		if m.total*100 >= all*mixCoverage {
			m.classes = m.classes[:i+1]
			break
		}
	}
	return m
}

// Len is the number of classes.
func (m Mix) Len() int { return len(m.classes) }

// FragmentMicroGPU is the idle GPU capacity of the node that the next request is expected to find of no use, in
// thousandths of a milli-GPU, that is, micro-GPU: over the classes of the mix, the mean of what the class cannot use.
// For one class that is
//
//   - all that is left, if it asks for no GPU or cannot be placed on the node for want of CPU or of GPUs;
//   - else what is left of those GPUs that are too full, of another model, or of another kind.
//
// This is the measure F_n(M) of Weng et al. (USENIX ATC 2023), extended to MIG: of a GPU in MIG mode, a profile can use
// the slices that its free placements cover.
func (m Mix) FragmentMicroGPU(v *View) int64 {
	if m.total == 0 {
		return 0
	}
	all := v.MilliGPU()
	if all == 0 {
		return 0
	}
	var sum int64
	for i := range m.classes {
		c := &m.classes[i]
		sum += c.count * (all - c.usable(v))
	}
	return sum * 1000 / m.total
}

// usable is the part of what is left on the node that the class can use, in milli-GPU.
func (w *weighted) usable(v *View) int64 {
	if w.Kind == 0 || w.MilliCPU > v.MilliCPU {
		return 0
	}
	var sum int64
	count := 0
	for i := range v.GPUs {
		l := &v.GPUs[i]
		if !w.accepts(l.Product) {
			continue
		}
		if w.Kind == gpu.MIG {
			if l.Slices > 0 {
				sum += l.milliGPU(mig.Usable(l.Partition, w.Profile))
				count += mig.FreePlacements(l.Partition, w.Profile)
			}
			continue
		}
		if l.MilliGPU >= w.MilliGPU && !(l.WholeOnly && w.Kind == gpu.Shared) {
			sum += l.MilliGPU
			count++
		}
	}
	if count < w.Count {
		return 0
	}
	return sum
}

// sigmoid maps a gain of capacity in micro-GPU to 0..100, 50 for none; a whole GPU is one unit on its axis.
func sigmoid(microGPU int64) int64 {
	return int64(math.Floor(100 / (1 + math.Exp(-float64(microGPU)/1e6))))
}
