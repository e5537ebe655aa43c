package mig

import (
	"math/bits"

	"weft.sh/weft/pkg/gpu"
)

// Layouts are the ways to fill up a GPU: every set of free placements of the profiles (all that are offered when there are none)
// that can be given together and that no further one of them can be added to. What is used stays and is in none of the layouts.
// There is always at least one, which may be empty.
//
// Their number grows exponentially with that of the placements in general. An empty GPU of the tables has at most a few hundred;
// with the five profiles 1g, 2g, 3g, 4g and 7g, of which the literature counts layouts, it has 19.
func Layouts(s State, profiles []string) [][]gpu.Instance {
	if s.offer == nil {
		return [][]gpu.Instance{nil}
	}
	free := s.free
	if len(profiles) > 0 {
		var wanted uint64
		for _, p := range profiles {
			wanted |= s.offer.set(p)
		}
		free &= wanted
	}
	var out [][]gpu.Instance
	s.offer.layouts(free, 0, nil, &out)
	return out
}

// layouts appends to out every way to go on from the chosen ones. free are the placements that can still be given, and only those
// from on are added, so that every set is reached once; one before it that can still be given means that the set is not full.
func (o *Offer) layouts(free uint64, from int, chosen []gpu.Instance, out *[][]gpu.Instance) {
	if free == 0 {
		*out = append(*out, append([]gpu.Instance{}, chosen...))
		return
	}
	later := free & (^uint64(0) << from)
	for skipped := free &^ later; skipped != 0; skipped &= skipped - 1 {
		if o.places[bits.TrailingZeros64(skipped)].conflicts&later == 0 {
			return // nothing that may still be added would rule it out
		}
	}
	for ; later != 0; later &= later - 1 {
		n := bits.TrailingZeros64(later)
		o.layouts(free&^o.places[n].conflicts, n+1, append(chosen, o.places[n].instance), out)
	}
}
