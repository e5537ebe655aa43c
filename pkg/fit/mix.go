package fit

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"strings"

	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/mig"
	"weft.sh/weft/pkg/potential"
)

// Class is a shape of request, reduced to what decides where it can go.
type Class = potential.Class

// ClassOf reduces a request. A request of one ask is kept exactly. One of several is taken for the hardest of its asks
// by kind: all its whole GPUs; else its shares as so many GPUs with the largest of the shares; else its instances of the
// first profile. Init containers count only when no other container asks for GPUs, and then the first of them.
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
	if c.Kind == 0 && !r.Empty() {
		first := r.Containers[0]
		first.Init = false
		return ClassOf(gpu.Request{Containers: []gpu.ContainerRequest{first}, Products: r.Products}, milliCPU)
	}
	return c
}

// Mix is how often each class comes: what the fragmentation strategy expects of the future. Immutable. The zero Mix
// expects nothing.
type Mix struct {
	// groups are the classes that ask for GPUs, those that differ only in CPU together: what such classes can use of the
	// GPUs is the same.
	groups []group
	// cpus are the amounts of CPU that classes with GPUs ask for, ascending, each once.
	cpus    []int64
	classes int
	total   int64
	counts  map[Class]int64
}

// group is the classes that ask for the same of the GPUs.
type group struct {
	Class
	products []string
	// fits[k] counts the requests of the group that find enough CPU where the k smallest of Mix.cpus fit.
	fits []int64
}

func (g *group) accepts(product string) bool {
	return len(g.products) == 0 || slices.Contains(g.products, product)
}

// mixCoverage is the part of the requests that the classes of a mix stand for, in percent. The rare rest costs time and
// says little; 95 is the published choice (Weng et al., "Beware of Fragmentation", USENIX ATC 2023).
const mixCoverage = 95

// NewMix is the mix of the counted classes: the most frequent ones that together make 95 percent of the counts. Classes
// with a count below 1 are ignored. Equal counts are ordered by the larger request.
func NewMix(counts map[Class]int64) Mix {
	type counted struct {
		Class
		count int64
	}
	var all int64
	var sorted []counted
	for c, n := range counts {
		if n > 0 {
			sorted = append(sorted, counted{c, n})
			all += n
		}
	}
	slices.SortFunc(sorted, func(a, b counted) int {
		return cmp.Or(cmp.Compare(b.count, a.count), cmp.Compare(b.MilliCPU, a.MilliCPU), cmp.Compare(b.MilliGPU, a.MilliGPU),
			cmp.Compare(b.Count, a.Count), cmp.Compare(b.Products, a.Products), cmp.Compare(a.Kind, b.Kind),
			cmp.Compare(a.Profile, b.Profile))
	})
	m := Mix{counts: maps.Clone(counts)}
	for _, c := range sorted {
		m.total += c.count
		m.classes++
		if c.Kind != 0 {
			m.cpus = append(m.cpus, c.MilliCPU)
		}
		if m.total*100 >= all*mixCoverage {
			break
		}
	}
	slices.Sort(m.cpus)
	m.cpus = slices.Compact(m.cpus)
	index := map[Class]int{}
	for _, c := range sorted[:m.classes] {
		if c.Kind == 0 {
			continue // can use no GPU anywhere: stands only in the total
		}
		key := c.Class
		key.MilliCPU = 0
		i, ok := index[key]
		if !ok {
			i = len(m.groups)
			index[key] = i
			g := group{Class: key, fits: make([]int64, len(m.cpus)+1)}
			if key.Products != "" {
				g.products = strings.Split(key.Products, "\n")
			}
			m.groups = append(m.groups, g)
		}
		for k := m.cpuRank(c.MilliCPU); k <= len(m.cpus); k++ {
			m.groups[i].fits[k] += c.count
		}
	}
	return m
}

// cpuRank is how many of the mix's amounts of CPU fit into milliCPU.
func (m *Mix) cpuRank(milliCPU int64) int {
	k, ok := slices.BinarySearch(m.cpus, milliCPU)
	if ok {
		k++
	}
	return k
}

// FragmentMicroGPU is the idle GPU capacity of the node that the next request is expected to find of no use, in micro-GPU
// (a millionth of a GPU): over the classes of the mix, the mean of what the class cannot use. For one class that is
//
//   - all that is left, if it asks for no GPU or cannot be placed on the node for want of CPU or of GPUs;
//   - else what is left of those GPUs that are too full, of another model, or of another kind.
//
// This is the measure F_n(M) of Weng et al. (USENIX ATC 2023), extended to MIG: of a GPU in MIG mode, a profile can use
// the slices that its free placements cover.
func (m *Mix) FragmentMicroGPU(v *View) int64 {
	all := v.MilliGPU()
	if m.total == 0 || all == 0 {
		return 0
	}
	sum := m.total * all
	rank := m.cpuRank(v.MilliCPU)
	for i := range m.groups {
		g := &m.groups[i]
		if n := g.fits[rank]; n > 0 {
			sum -= n * g.usable(v)
		}
	}
	return sum * 1000 / m.total
}

// migMicroGPU is what is left of the node's GPUs in MIG mode that the next MIG instance is expected to find of no use, in
// micro-GPU: for each GPU, the mean over the instances that it may be asked for.
func (m *Mix) migMicroGPU(v *View) int64 {
	var sum int64
	for i := range v.GPUs {
		l := &v.GPUs[i]
		if l.Slices == 0 {
			continue
		}
		var requests, usable int64
		for k := range m.groups {
			g := &m.groups[k]
			if g.Kind == gpu.MIG && g.accepts(l.Product) {
				n := g.fits[len(g.fits)-1]
				requests += n
				usable += n * l.milliGPU(mig.Usable(l.Partition, g.Profile))
			}
		}
		if requests > 0 {
			sum += l.left()*1000 - usable*1000/requests
		}
	}
	return sum
}

// usable is the part of what is left on the node that the group can use if it finds enough CPU, in milli-GPU.
func (g *group) usable(v *View) int64 {
	var sum int64
	count := 0
	for i := range v.GPUs {
		l := &v.GPUs[i]
		if !g.accepts(l.Product) {
			continue
		}
		if g.Kind == gpu.MIG {
			if l.Slices > 0 {
				sum += l.milliGPU(mig.Usable(l.Partition, g.Profile))
				count += mig.FreePlacements(l.Partition, g.Profile)
			}
			continue
		}
		if l.MilliGPU >= g.MilliGPU && l.Refuses != g.Kind {
			sum += l.MilliGPU
			count++
		}
	}
	if count < g.Count {
		return 0
	}
	return sum
}

// sigmoid maps a gain of capacity in micro-GPU to 0..100, 50 for none; a whole GPU is one unit on its axis.
func sigmoid(microGPU int64) int64 {
	return int64(math.Floor(100 / (1 + math.Exp(-float64(microGPU)/1e6))))
}
