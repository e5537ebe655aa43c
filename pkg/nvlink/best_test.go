package nvlink

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"weft.sh/weft/pkg/gpu"
)

// node makes devices of which f says what is known.
func node(n int, f func(i int) *gpu.Hardware) []gpu.Device {
	devices := make([]gpu.Device, n)
	for i := range devices {
		devices[i] = gpu.Device{Index: i, Hardware: f(i)}
	}
	return devices
}

// switches are GPUs with so many links to NVSwitches each.
func switches(links ...int) []gpu.Device {
	return node(len(links), func(i int) *gpu.Hardware {
		return &gpu.Hardware{NUMANode: i * 2 / len(links), Links: gpu.Links{Switch: links[i]}}
	})
}

// peers are GPUs with direct links, as a matrix has them.
func peers(links func(i, j int) int, n int) []gpu.Device {
	return node(n, func(i int) *gpu.Hardware {
		h := &gpu.Hardware{NUMANode: i * 2 / n}
		for j := range n {
			if k := links(i, j); k > 0 {
				h.Links.Peers = append(h.Links.Peers, gpu.Peer{Index: j, Links: k})
			}
		}
		return h
	})
}

func dgx1() []gpu.Device { return peers(func(i, j int) int { return cubeMesh[i][j] }, 8) }

// bridged are GPUs of which two at a time are joined by four links.
func bridged(n int) []gpu.Device {
	return peers(func(i, j int) int {
		if i^1 == j {
			return 4
		}
		return 0
	}, n)
}

// tree are GPUs without links on so many NUMA nodes.
func tree(n, numaNodes int) []gpu.Device {
	return node(n, func(i int) *gpu.Hardware { return &gpu.Hardware{NUMANode: i * numaNodes / n} })
}

// without is the devices with no link, in the one direction, from GPU i to j.
func without(devices []gpu.Device, i, j int) []gpu.Device {
	h := *devices[i].Hardware
	h.Links.Peers = slices.DeleteFunc(slices.Clone(h.Links.Peers), func(p gpu.Peer) bool { return p.Index == j })
	devices[i].Hardware = &h
	return devices
}

func positions(s Set) []int { return slices.Collect(s.All()) }

func TestBest(t *testing.T) {
	all := []int{0, 1, 2, 3, 4, 5, 6, 7}
	tests := map[string]struct {
		devices []gpu.Device
		free    []int
		count   int
		want    []int
		worst   Bandwidth
	}{
		"HGX: all are alike, so the first":                 {switches(18, 18, 18, 18, 18, 18, 18, 18), all, 4, []int{0, 1, 2, 3}, 72},
		"HGX: what is free of them":                        {switches(18, 18, 18, 18, 18, 18, 18, 18), []int{1, 4, 6, 7}, 2, []int{1, 4}, 72},
		"HGX with a link down: not that GPU":               {switches(18, 17, 18, 18, 18, 18, 18, 18), all, 4, []int{0, 2, 3, 4}, 72},
		"HGX with a link down: all the same":               {switches(18, 17, 18, 18, 18, 18, 18, 18), all, 8, all, 68},
		"HGX with a link down: one GPU is that one":        {switches(18, 17, 18, 18, 18, 18, 18, 18), all, 1, []int{1}, Unbounded},
		"HGX with two: not the worse":                      {switches(18, 17, 9, 18, 18, 18, 18, 18), all, 7, []int{0, 1, 3, 4, 5, 6, 7}, 68},
		"HGX with a GPU off the switches":                  {switches(18, 18, 18, 0, 18, 18, 18, 18), []int{2, 3, 4}, 2, []int{2, 4}, 72},
		"HGX with a GPU off the switches: over PCIe":       {switches(18, 18, 18, 0, 18, 18, 18, 18), []int{3, 4}, 2, []int{3, 4}, Far},
		"DGX-1: a pair with two links, in a group of four": {dgx1(), all, 2, []int{0, 3}, 8},
		"DGX-1: the next pair leaves the other four":       {dgx1(), []int{1, 2, 4, 5, 6, 7}, 2, []int{1, 2}, 8},
		"DGX-1: three all linked, with five links":         {dgx1(), all, 3, []int{0, 2, 3}, 4},
		"DGX-1: four all linked":                           {dgx1(), all, 4, []int{0, 1, 2, 3}, 4},
		"DGX-1: the other four":                            {dgx1(), []int{1, 2, 3, 4, 5, 6, 7}, 4, []int{4, 5, 6, 7}, 4},
		"DGX-1: one GPU out of the broken group":           {dgx1(), []int{1, 2, 3, 4, 5, 6, 7}, 1, []int{3}, Unbounded},
		"DGX-1: two across the groups":                     {dgx1(), []int{0, 4, 6}, 2, []int{0, 4}, 8},
		"DGX-1: two without a link, on one NUMA node":      {peers(func(int, int) int { return 0 }, 8), []int{3, 5, 6}, 2, []int{5, 6}, Near},
		"DGX-1: all of it":                                 {dgx1(), all, 8, all, Far},
		"DGX-1: a link that one side lacks has failed":     {without(dgx1(), 3, 0), all, 2, []int{2, 3}, 8},
		"bridges: a pair":                                  {bridged(8), []int{1, 2, 4, 5}, 2, []int{4, 5}, 16},
		"bridges: two pairs":                               {bridged(8), []int{0, 2, 3, 4, 6, 7}, 4, []int{2, 3, 6, 7}, Far},
		"bridges: one GPU, whose pair is broken already":   {bridged(8), []int{0, 1, 2, 3, 4, 5, 7}, 1, []int{7}, Unbounded},
		"bridges: three need be of one NUMA node":          {bridged(8), []int{0, 1, 2, 4, 5}, 3, []int{0, 1, 2}, Near},
		"bridges: one whose bridge failed":                 {without(bridged(4), 1, 0), []int{0, 1, 2, 3}, 2, []int{2, 3}, 16},
		"PCIe: two of one NUMA node":                       {tree(8, 2), []int{3, 4, 6}, 2, []int{4, 6}, Near},
		"PCIe: two of the NUMA node that is broken":        {tree(8, 2), []int{0, 1, 2, 3, 5, 6, 7}, 2, []int{5, 6}, Near},
		"PCIe: one of the NUMA node that is broken":        {tree(8, 2), []int{0, 1, 2, 3, 5, 6, 7}, 1, []int{5}, Unbounded},
		"PCIe: two and two, but not one and three":         {tree(8, 4), []int{0, 2, 3, 5, 6, 7}, 4, []int{2, 3, 6, 7}, Far},
		"16 GPUs on four NUMA nodes":                       {tree(16, 4), []int{0, 1, 2, 4, 5, 8, 9, 10, 11, 13}, 3, []int{0, 1, 2}, Near},
		"32 GPUs on eight NUMA nodes":                      {tree(32, 8), positions((1<<32 - 1) &^ Of(1, 9, 10, 17)), 3, []int{0, 2, 3}, Near},
		"64 GPUs on eight NUMA nodes":                      {tree(64, 8), positions(^Of(1, 9, 10, 17)), 8, []int{24, 25, 26, 27, 28, 29, 30, 31}, Near},
		"nothing is known":                                 {node(8, func(int) *gpu.Hardware { return nil }), all, 3, []int{0, 1, 2}, Far},
		"nothing is known of one":                          {append(switches(18, 18, 18), gpu.Device{Index: 3}), []int{0, 2, 3}, 2, []int{0, 2}, 72},
		"more than there are":                              {dgx1(), []int{1, 2}, 3, []int{1, 2}, 8},
		"none":                                             {dgx1(), all, 0, nil, Unbounded},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			g := New(tc.devices)
			got := g.Best(Of(tc.free...), Choice{Of(tc.free...), tc.count})
			if diff := cmp.Diff(tc.want, positions(got)); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
			if worst := g.Worst(got); worst != tc.worst {
				t.Errorf("the worst link is %d, want %d", worst, tc.worst)
			}
		})
	}
}

func TestBestOfSeveralChoices(t *testing.T) {
	// Two of the lower half and one of the upper one: 0 and 3 have two links, and so have 0 and 4.
	g := New(dgx1())
	got := g.Best(Of(0, 1, 2, 3, 4, 5, 6, 7), Choice{Of(0, 1, 2, 3), 2}, Choice{Of(4, 5, 6, 7), 1})
	if want := newDumb(dgx1()).best(255, []Choice{{15, 2}, {15 << 4, 1}}); got != want || (got&15).Len() != 2 {
		t.Errorf("got %v, want %v", positions(got), positions(want))
	}
	if got := g.Best(255, Choice{Of(3), 1}, Choice{Of(4, 5), 0}, Choice{Of(6, 7), 1}); got != Of(3, 7) {
		t.Errorf("got %v, want the one that is linked to 3", positions(got))
	}
}

// rounds runs f with a generator of its own for every seed, and names the seed when it fails.
func rounds(t *testing.T, n int, f func(t *testing.T, r *rand.Rand)) {
	t.Helper()
	if testing.Short() {
		n = max(1, n/10)
	}
	for seed := range uint64(n) {
		f(t, rand.New(rand.NewPCG(seed, 20_26)))
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

// Of 8 and of 16 GPUs, whatever is free of them: the optimum, always.
func TestBestIsTheOptimum(t *testing.T) {
	for _, tc := range []struct{ gpus, rounds int }{{2, 50}, {3, 100}, {8, 1200}, {16, 40}} {
		t.Run(fmt.Sprint(tc.gpus), func(t *testing.T) {
			compared, uniform := 0, 0
			rounds(t, tc.rounds, func(t *testing.T, r *rand.Rand) {
				devices := randomDevices(r, tc.gpus)
				g, d := New(devices), newDumb(devices)
				if g.Uniform() {
					uniform++
				}
				all := below(tc.gpus)
				for count := 1; count <= tc.gpus; count++ {
					free := all
					if r.IntN(3) > 0 {
						free = Set(r.Uint64()) & all
					}
					if free.Len() < count {
						continue
					}
					choices := []Choice{{free, count}}
					if lower := free & below(tc.gpus/2); r.IntN(3) == 0 {
						some := min(lower.Len(), count/2)
						choices = []Choice{{free &^ lower, count - some}, {lower, some}}
						if (free &^ lower).Len() < count-some {
							continue
						}
					}
					compared++
					got, want := g.Best(free, choices...), d.best(free, choices)
					if got != want {
						t.Errorf("of %v, %d in %v: got %v, want %v\n%s", positions(free), count, choices, positions(got), positions(want), describe(devices))
					}
					if got, want := int(g.Widest(free, count)), d.widest(int(free), count); got != want {
						t.Errorf("widest of %v, %d: got %d, want %d\n%s", positions(free), count, got, want, describe(devices))
					}
				}
			})
			t.Logf("%d choices compared; %d graphs of %d uniform", compared, uniform, tc.rounds)
		})
	}
}

// Of more GPUs what is promised is a valid set and the same each time. How near it comes is told, and not below what taking
// the first GPUs would give.
func TestBestOfManyGPUs(t *testing.T) {
	optimal, compared := 0, 0
	rounds(t, 60, func(t *testing.T, r *rand.Rand) {
		n := 17 + r.IntN(4)
		if r.IntN(3) == 0 {
			n = 17 + r.IntN(MaxGPUs-16)
		}
		devices := randomDevices(r, n)
		g := New(devices)
		all := ^Set(0) >> (MaxGPUs - n)
		count := 2 + r.IntN(n-2)
		got := g.Best(all, Choice{all, count})
		if again := New(devices).Best(all, Choice{all, count}); got != again {
			t.Errorf("got %v and, once more, %v", positions(got), positions(again))
		}
		if got.Len() != count || got&^all != 0 {
			t.Errorf("got %v: want %d of %d", positions(got), count, n)
		}
		if first := all.lowest(count); g.Worst(got) < g.Worst(first) {
			t.Errorf("got %v: the first would do better\n%s", positions(got), describe(devices))
		}
		if n <= 20 && !g.Uniform() {
			compared++
			s := search{g: g, free: all, choices: []Choice{{all, count}}, count: count}
			for l := 0; !s.found; l++ {
				s.grow(0, all, l, 0)
			}
			if g.Worst(s.best) == g.Worst(got) && g.Total(s.best) == g.Total(got) {
				optimal++
			}
		}
	})
	t.Logf("%d of %d optimal", optimal, compared)
	if compared > 0 && optimal*2 < compared {
		t.Errorf("%d of %d optimal: that is no approach", optimal, compared)
	}
}

func describe(devices []gpu.Device) string {
	var b strings.Builder
	for i, d := range devices {
		if d.Hardware == nil {
			fmt.Fprintf(&b, "%d unknown\n", i)
		} else {
			fmt.Fprintf(&b, "%d NUMA %d clique %q %+v\n", i, d.Hardware.NUMANode, d.Hardware.Clique, d.Hardware.Links)
		}
	}
	return b.String()
}

func BenchmarkBest(b *testing.B) {
	anyhow := func(n int) []gpu.Device {
		return peers(func(i, j int) int { return 1 + int(uint32(max(i, j)*977+min(i, j)*7919)*2654435761>>29) }, n)
	}
	for _, tc := range []struct {
		name    string
		devices []gpu.Device
		counts  []int
	}{
		{"HGX", switches(18, 18, 18, 18, 18, 18, 18, 18), []int{2, 4}},
		{"HGX-link-down", switches(18, 17, 18, 18, 18, 18, 18, 18), []int{1, 2, 4}},
		{"DGX-1", dgx1(), []int{1, 2, 4}},
		{"PCIe-8", tree(8, 2), []int{1, 2, 4}},
		{"bridges-8", bridged(8), []int{1, 2, 4}},
		{"bridges-16", bridged(16), []int{1, 2, 8}},
		{"any-16", anyhow(16), []int{1, 2, 4, 8}},
		{"PCIe-64", tree(64, 8), []int{2, 8}},
		{"any-64", anyhow(64), []int{8, 32}},
	} {
		g := New(tc.devices)
		all := ^Set(0) >> (MaxGPUs - len(tc.devices))
		for _, count := range tc.counts {
			b.Run(fmt.Sprintf("%s/%d", tc.name, count), func(b *testing.B) {
				for b.Loop() {
					g.Best(all, Choice{all, count})
				}
			})
		}
	}
	devices := dgx1()
	b.Run("New", func(b *testing.B) {
		for b.Loop() {
			New(devices)
		}
	})
}
