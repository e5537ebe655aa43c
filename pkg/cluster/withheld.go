package cluster

import (
	"slices"

	"weft.sh/weft/pkg/gpu"
)

// Withheld is what a node keeps back because pods hold it that nobody can place on GPUs: pods without a known assignment, and
// pods whose assignment names GPUs otherwise than the inventory does, because the node was known by labels and now
// publishes slices, or the other way round.
//
// What such a pod holds whole is none of the GPUs that are SharedOnly, and what it holds a share of is one of those where the
// node has any; where it has others that are shared too, one of each is withheld.
type Withheld struct {
	// GPUs that must stay idle.
	GPUs int
	// Shared is how many of GPUs are SharedOnly.
	Shared int
	// Profiles of MIG instances that must stay possible, sorted.
	Profiles []string
}

// pool is a kind of what is withheld: instances of a profile, GPUs that are SharedOnly, or other GPUs.
type pool struct {
	profile string
	shared  bool
}

// pools are those that what a pod asks for may be in.
func (n *Node) pools(a gpu.Ask) []pool {
	if a.Kind == gpu.MIG {
		return []pool{{profile: a.Profile}}
	}
	sharedOnly, either := false, false
	for i := range n.GPUs {
		g := &n.GPUs[i]
		sharedOnly = sharedOnly || g.SharedOnly
		either = either || !g.SharedOnly && !g.WholeOnly && !g.MIG
	}
	switch {
	case a.Kind == gpu.Whole || !sharedOnly:
		return []pool{{}}
	case either:
		return []pool{{shared: true}, {}}
	}
	return []pool{{shared: true}}
}

// keep withholds so many of a pool.
func (n *Node) keep(p pool, count int) {
	switch {
	case p.profile != "":
		n.Withheld.Profiles = append(n.Withheld.Profiles, slices.Repeat([]string{p.profile}, count)...)
	case p.shared:
		n.Withheld.Shared += count
		fallthrough
	default:
		n.Withheld.GPUs += count
	}
}

// withhold counts what a pod without a known assignment may be using: the most at any time, as gpu.Assignment.Uses.
func (n *Node) withhold(r gpu.Request) {
	if r.Empty() {
		return
	}
	running, most := map[pool]int{}, map[pool]int{}
	for _, c := range r.Containers {
		for _, a := range c.Asks {
			for _, p := range n.pools(a) {
				running[p] += a.Count
			}
		}
		for p, count := range running {
			most[p] = max(most[p], count)
		}
		if !c.Init {
			continue
		}
		for _, a := range c.Asks {
			for _, p := range n.pools(a) {
				running[p] -= a.Count
			}
		}
	}
	for p, count := range most {
		n.keep(p, count)
	}
}

// Spare is how many idle GPUs can be taken from without touching what is withheld, none where it is 0 or less.
type Spare struct {
	// GPUs that can be given whole, and GPUs that are SharedOnly.
	GPUs, Shared int
}

// Spare is that of the node.
func (n *Node) Spare() Spare {
	return Spare{GPUs: n.IdleGPUs - (n.Withheld.GPUs - n.Withheld.Shared), Shared: n.IdleShared - n.Withheld.Shared}
}

// Of is the number that counts a GPU which is, or is not, SharedOnly.
func (s *Spare) Of(sharedOnly bool) *int {
	if sharedOnly {
		return &s.Shared
	}
	return &s.GPUs
}
