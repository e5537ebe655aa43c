package nvlink

import (
	"encoding/binary"
	"math"
	"slices"

	"weft.sh/weft/pkg/gpu"
)

// Bandwidth orders how much two GPUs can exchange. Its unit is a quarter of one NVLink, which makes it fit to be summed up, too:
// a link of the second to fourth generation moves 25 GB/s each way (NVIDIA's data sheets of V100, A100 and H100), PCIe
// between GPUs about the half and the quarter of that.
type Bandwidth uint16

const (
	// Far: over PCIe and from one NUMA node to another, or nobody knows.
	Far Bandwidth = 1
	// Near: over PCIe within a NUMA node.
	Near Bandwidth = 2
	// PerLink is one NVLink.
	PerLink Bandwidth = 4
	// Unbounded is the worst link of fewer than two GPUs, which have none.
	Unbounded Bandwidth = math.MaxUint16
)

// NVLink reports whether it is that of NVLinks.
func (b Bandwidth) NVLink() bool { return b >= PerLink }

// MaxGPUs is the most GPUs that a graph can have.
const MaxGPUs = 64

// Graph is how the GPUs of one node are wired. Immutable; a nil Graph says that nothing tells one GPU from another.
type Graph struct {
	size int
	// every is between all GPUs, of a uniform graph.
	every Bandwidth
	// links[i*size+j] is between i and j; nil when the graph is uniform, as all that follows.
	links []Bandwidth
	// levels are the different bandwidths, best first, and within[l*size+i] the GPUs that i is linked to by levels[l] or better.
	levels []Bandwidth
	within []Set
	// twins[i] are the GPUs with the same links to all others as i, itself included.
	twins []Set
	// switched[i] is the most that i has to another GPU through switches, 0 when it has none.
	switched []Bandwidth
}

// New is the graph of the devices, by their positions in the slice. A device that says nothing of its hardware is far from
// all others. The graph is nil when there are more than [MaxGPUs].
func New(devices []gpu.Device) *Graph {
	n := len(devices)
	if n > MaxGPUs {
		return nil
	}
	g := &Graph{size: n, every: Far, links: make([]Bandwidth, n*n), switched: make([]Bandwidth, n)}
	uniform := true
	for i := range devices {
		for j := range i {
			b, switched := between(&devices[i], &devices[j])
			g.links[i*n+j], g.links[j*n+i] = b, b
			g.switched[i], g.switched[j] = max(g.switched[i], switched), max(g.switched[j], switched)
			if i == 1 {
				g.every = b
			}
			uniform = uniform && b == g.every
		}
	}
	if uniform {
		g.links, g.switched = nil, nil
	} else {
		g.index()
	}
	return g
}

// between is what two GPUs have between them, and how much of it goes through switches.
func between(a, b *gpu.Device) (all, switched Bandwidth) {
	x, y := a.Hardware, b.Hardware
	if x == nil || y == nil {
		return Far, 0
	}
	if x.Clique == y.Clique { // switches do not connect one clique to another
		switched = PerLink * Bandwidth(min(x.Links.Switch, y.Links.Switch))
	}
	all = switched + PerLink*Bandwidth(min(direct(x, b.Index), direct(y, a.Index)))
	switch {
	case all > 0:
	case x.NUMANode >= 0 && x.NUMANode == y.NUMANode:
		all = Near
	default:
		all = Far
	}
	return all, switched
}

// direct is how many links lead to the GPU of that index.
func direct(h *gpu.Hardware, index int) int {
	for _, p := range h.Links.Peers {
		if p.Index == index {
			return p.Links
		}
	}
	return 0
}

// index computes what the search goes by from the links.
func (g *Graph) index() {
	n := g.size
	for i := range n {
		g.levels = append(g.levels, g.links[i*n:i*n+i]...)
	}
	slices.SortFunc(g.levels, func(a, b Bandwidth) int { return int(b) - int(a) })
	g.levels = slices.Clip(slices.Compact(g.levels))
	g.within = make([]Set, len(g.levels)*n)
	g.twins = make([]Set, n)
	for i := range n {
		for j := range n {
			if i == j || g.alike(i, j) {
				g.twins[i] |= Of(j)
			}
			for l, level := range g.levels {
				if i != j && g.Link(i, j) >= level {
					g.within[l*n+i] |= Of(j)
				}
			}
		}
	}
}

// alike reports whether two GPUs have the same links to all others.
func (g *Graph) alike(i, j int) bool {
	for k := range g.size {
		if k != i && k != j && g.Link(i, k) != g.Link(j, k) {
			return false
		}
	}
	return true
}

// Uniform reports whether all GPUs are linked alike, so that one set of them is as good as any other.
func (g *Graph) Uniform() bool { return g == nil || g.links == nil }

// Link is the bandwidth between two different GPUs.
func (g *Graph) Link(i, j int) Bandwidth {
	switch {
	case g == nil:
		return Far
	case g.links == nil:
		return g.every
	}
	return g.links[i*g.size+j]
}

// AppendKey appends what choices depend on, which is nothing for a uniform graph. Equal keys are of graphs that are alike.
func (g *Graph) AppendKey(b []byte) []byte {
	if g.Uniform() {
		return b
	}
	for i := range g.size {
		b = binary.AppendUvarint(b, uint64(g.switched[i]))
		for j := range i {
			b = binary.AppendUvarint(b, uint64(g.Link(i, j)))
		}
	}
	return b
}

// Worst is the worst link between two GPUs of the set.
func (g *Graph) Worst(s Set) Bandwidth {
	worst := Unbounded
	for i := range s.All() {
		for j := range (s & below(i)).All() {
			worst = min(worst, g.Link(i, j))
		}
	}
	return worst
}

// Total is the sum over all pairs of the set.
func (g *Graph) Total(s Set) int {
	total := 0
	for i := range s.All() {
		total += g.sum(i, s&below(i))
	}
	return total
}

// sum is what GPU i, which is not of the set, has to the set.
func (g *Graph) sum(i int, s Set) int {
	total := 0
	for j := range s.All() {
		total += int(g.Link(i, j))
	}
	return total
}

// Ideal is the best worst link that k of the GPUs could have if no link to a switch had failed: GPUs on switches are meant to
// reach each other with the same number of links. That a direct link failed does not show. 0 where there are not as many.
func (g *Graph) Ideal(from Set, k int) Bandwidth {
	ideal := g.Widest(from, k)
	if k > 1 && k <= from.Len() && !g.Uniform() {
		for i := range from.All() {
			ideal = max(ideal, g.switched[i])
		}
	}
	return ideal
}
