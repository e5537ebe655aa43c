package nvlink

import (
	"math/bits"
	"math/rand/v2"

	"weft.sh/weft/pkg/gpu"
)

// The deliberately dumb counterpart of the package: every set is looked at, and what is good is read off the definitions.

// dumb knows the worst link of every set of the GPUs.
type dumb struct {
	link  func(i, j int) int
	worst []int // by set
	sum   []int // of all pairs, by set
}

// dumbLink is the bandwidth as the package's comment has it.
func dumbLink(a, b gpu.Device) int {
	if a.Hardware == nil || b.Hardware == nil {
		return 1
	}
	links := 0
	for _, p := range a.Hardware.Links.Peers {
		for _, q := range b.Hardware.Links.Peers {
			if p.Index == b.Index && q.Index == a.Index {
				links += min(p.Links, q.Links)
			}
		}
	}
	if a.Hardware.Clique == b.Hardware.Clique {
		links += min(a.Hardware.Links.Switch, b.Hardware.Links.Switch)
	}
	if links > 0 {
		return 4 * links
	}
	if numa := a.Hardware.NUMANode; numa != -1 && numa == b.Hardware.NUMANode {
		return 2
	}
	return 1
}

func newDumb(devices []gpu.Device) *dumb {
	d := &dumb{
		link:  func(i, j int) int { return dumbLink(devices[i], devices[j]) },
		worst: make([]int, 1<<len(devices)),
		sum:   make([]int, 1<<len(devices)),
	}
	d.worst[0] = int(Unbounded)
	for set := 1; set < len(d.worst); set++ {
		i := bits.TrailingZeros(uint(set))
		rest := set &^ (1 << i)
		d.worst[set], d.sum[set] = d.worst[rest], d.sum[rest]
		for j := range devices {
			if rest>>j&1 == 1 {
				d.worst[set] = min(d.worst[set], d.link(i, j))
				d.sum[set] += d.link(i, j)
			}
		}
	}
	return d
}

// widest is the best worst link of k of the set, 0 when there are not as many.
func (d *dumb) widest(set, k int) int {
	best := 0
	for s := set; ; s = (s - 1) & set { // all subsets
		if bits.OnesCount(uint(s)) == k {
			best = max(best, d.worst[s])
		}
		if s == 0 {
			return best
		}
	}
}

// best tries all sets: of the choices' GPUs, with as many of each.
func (d *dumb) best(free Set, choices []Choice) Set {
	all, count := 0, 0
	for _, c := range choices {
		all |= int(c.From)
		count += c.Count
	}
	var most []int // of best worst link and total
	for s := all; s > 0; s = (s - 1) & all {
		right := true
		for _, c := range choices {
			right = right && (Set(s)&c.From).Len() == c.Count
		}
		if !right {
			continue
		}
		if len(most) == 0 {
			most = []int{s}
			continue
		}
		better := d.worst[s] - d.worst[most[0]]
		if better == 0 {
			better = d.sum[s] - d.sum[most[0]]
		}
		if better > 0 {
			most = most[:0]
		}
		if better >= 0 {
			most = append(most, s)
		}
	}
	if len(most) == 0 {
		return 0
	}
	best, left := most[0], d.remains(int(free)&^most[0])
	for _, s := range most[1:] {
		l := d.remains(int(free) &^ s)
		for i := range l {
			if l[i] != left[i] {
				if l[i] > left[i] {
					best, left = s, l
				}
				break
			}
		}
		// The lower positions, when it is the same in all.
		if l == left && bits.Reverse(uint(s)) > bits.Reverse(uint(best)) {
			best = s
		}
	}
	return Set(best)
}

func (d *dumb) remains(set int) (r [6]int) {
	for i, k := range []int{32, 16, 8, 4, 2} {
		r[i] = d.widest(set, k)
	}
	r[5] = d.sum[set]
	return r
}

// randomDevices are GPUs wired in one of the ways that there are, or in none that anybody would build, with failures.
func randomDevices(r *rand.Rand, n int) []gpu.Device {
	devices := make([]gpu.Device, n)
	for i := range devices {
		devices[i] = gpu.Device{Index: 3 * i, Hardware: &gpu.Hardware{NUMANode: -1}}
	}
	connect := func(i, j, links int) {
		devices[i].Hardware.Links.Peers = append(devices[i].Hardware.Links.Peers, gpu.Peer{Index: 3 * j, Links: links})
	}
	if perNode := []int{0, 1, 2, 4, 8}[r.IntN(5)]; perNode > 0 {
		for i := range devices {
			devices[i].Hardware.NUMANode = i / perNode
		}
	}
	switch r.IntN(6) {
	case 0: // switches, some of whose links failed
		for i := range devices {
			devices[i].Hardware.Links.Switch = 18
			if r.IntN(3) == 0 {
				devices[i].Hardware.Links.Switch = []int{0, 9, 17, 17}[r.IntN(4)]
			}
		}
	case 1: // bridges
		size := 2 + r.IntN(3)
		for i := range devices {
			for j := range devices {
				if i != j && i/size == j/size && r.IntN(12) > 0 {
					connect(i, j, 4)
				}
			}
		}
	case 2: // cube meshes
		for i := range devices {
			for j := range devices {
				if links := cubeMesh[i%8][j%8]; i/8 == j/8 && links > 0 && r.IntN(20) > 0 {
					connect(i, j, links)
				}
			}
		}
	case 3: // no wires
	default: // any
		some, most := 1+r.IntN(8), 1+r.IntN(6)
		for i := range devices {
			for j := range i {
				if r.IntN(8) < some {
					links := 1 + r.IntN(most)
					connect(i, j, links)
					connect(j, i, max(1, links-r.IntN(10)/9))
				}
			}
		}
	}
	if r.IntN(8) == 0 {
		devices[r.IntN(n)].Hardware = nil
	}
	if r.IntN(8) == 0 {
		devices[r.IntN(n)].Hardware = &gpu.Hardware{Clique: "a.1", Links: gpu.Links{Switch: 18}}
	}
	return devices
}

// cubeMesh is how many links there are between the GPUs of a DGX-1 with V100, as "nvidia-smi topo -m" prints it there.
var cubeMesh = [8][8]int{
	{0, 1, 1, 2, 2, 0, 0, 0},
	{1, 0, 2, 1, 0, 2, 0, 0},
	{1, 2, 0, 2, 0, 0, 1, 0},
	{2, 1, 2, 0, 0, 0, 0, 1},
	{2, 0, 0, 0, 0, 1, 1, 2},
	{0, 2, 0, 0, 1, 0, 2, 1},
	{0, 0, 1, 0, 1, 2, 0, 2},
	{0, 0, 0, 1, 2, 1, 2, 0},
}
