package mig

import (
	"cmp"
	"fmt"
	"math/bits"
	"slices"
	"strings"

	"weft.sh/weft/pkg/gpu"
)

// MaxPlacements is the largest number of distinct placements in an offer. The GPUs of the tables have 25 at most.
const MaxPlacements = 64

// Offer is what one GPU in MIG mode can give: a set of placements, prepared for choosing. It does not change, so GPUs that
// offer the same may and should share one; it may be read from several goroutines. A nil *Offer offers nothing.
type Offer struct {
	// profiles are the distinct profiles, sorted.
	profiles []string
	// sets has the placements of each profile, as bits over places.
	sets []uint64
	// places are by profile, then by start descending, so that the lowest bit of a set is the highest start.
	places []placement
	// weights sums sizes quickly: weights[b] has the placements whose size has bit b.
	weights []uint64
	// covered are the memory slices that any placement covers.
	covered uint64
	// fixed says that no two placements overlap: the offer lists instances that exist.
	fixed bool
}

type placement struct {
	instance gpu.Instance
	slices   uint64
	// conflicts are the placements, as bits over places, that cannot be given together with this one, itself included.
	conflicts uint64
	// media says that the placement takes the media engines that the GPU has once.
	media bool
}

// NewOffer prepares what a GPU offers, in any order; what is listed twice counts once. An empty list is an offer of
// nothing.
//
// Placements that overlap are alternatives. One rule more holds among alternatives: instances with media extensions
// (+me, +me.all) hold media engines that the GPU has once, so one such instance at most exists on a GPU at a time (NVIDIA
// MIG User Guide, "A single 1g profile can include media extensions"). Apart from that rule, non-overlapping placements
// are all that limits the number of instances of a profile: in every table the starts of a profile, as many as its
// maximum, do not overlap. Where no two placements of the list overlap, the instances exist already and the rule is not
// applied.
//
// It fails for an invalid instance and for more than [MaxPlacements] distinct ones.
func NewOffer(instances []gpu.Instance) (*Offer, error) {
	list := slices.Clone(instances)
	for _, i := range list {
		if err := i.Validate(); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(list, func(a, b gpu.Instance) int {
		return cmp.Or(cmp.Compare(a.Profile, b.Profile), cmp.Compare(b.Start, a.Start), cmp.Compare(a.Size, b.Size))
	})
	list = slices.Compact(list)
	if len(list) > MaxPlacements {
		return nil, fmt.Errorf("%d MIG placements on one GPU: at most %d are supported", len(list), MaxPlacements)
	}
	o := &Offer{fixed: true}
	for n, i := range list {
		p := placement{instance: i, slices: i.Slices(), media: takesMedia(i.Profile)}
		o.places = append(o.places, p)
		if o.covered&p.slices != 0 {
			o.fixed = false
		}
		o.covered |= p.slices
		if n == 0 || list[n-1].Profile != i.Profile {
			o.profiles = append(o.profiles, i.Profile)
			o.sets = append(o.sets, 0)
		}
		o.sets[len(o.sets)-1] |= 1 << n
		for b := range bits.Len(uint(i.Size)) {
			if b == len(o.weights) {
				o.weights = append(o.weights, 0)
			}
			if i.Size>>b&1 != 0 {
				o.weights[b] |= 1 << n
			}
		}
	}
	for n := range o.places {
		o.places[n].conflicts = o.blockedBy(o.places[n].slices, o.places[n].media)
	}
	return o, nil
}

// takesMedia reports whether instances of the profile hold the media engines that a GPU has once.
func takesMedia(profile string) bool {
	return strings.HasSuffix(profile, "+me") || strings.HasSuffix(profile, "+me.all")
}

// blockedBy are the placements that an instance on these memory slices rules out.
func (o *Offer) blockedBy(slices uint64, media bool) uint64 {
	var set uint64
	for n := range o.places {
		if o.places[n].slices&slices != 0 || media && o.places[n].media && !o.fixed {
			set |= 1 << n
		}
	}
	return set
}

// set are the placements of the profile, none if it is not offered.
func (o *Offer) set(profile string) uint64 {
	for i, name := range o.profiles {
		if name == profile {
			return o.sets[i]
		}
	}
	return 0
}

// weight is the sum of the sizes of the placements in the set, in memory slices.
func (o *Offer) weight(set uint64) int {
	sum := 0
	for b, plane := range o.weights {
		sum += bits.OnesCount64(set&plane) << b
	}
	return sum
}

// lossOf is what giving placement n destroys when the placements in free can still be given.
func (o *Offer) lossOf(n int, free uint64) int {
	return o.weight(free&o.places[n].conflicts) - o.places[n].instance.Size
}

// State is one GPU in MIG mode: what it offers and what of that is used. It is a value; the zero State offers nothing.
type State struct {
	offer *Offer
	// used are the memory slices in use, free the placements of the offer, as bits, that can still be given.
	used, free uint64
}

// NewState is the state of a GPU with that offer (nil offers nothing) and those instances in use. The order of used does
// not matter. An instance that is not in the offer, left from an older geometry, takes its memory slices all the same;
// used instances must be valid.
func NewState(offer *Offer, used []gpu.Instance) State {
	s := State{offer: offer}
	if offer != nil {
		s.free = ^uint64(0) >> (MaxPlacements - len(offer.places))
	}
	for _, i := range used {
		s = s.With(i)
	}
	return s
}

// With is the state after the instance, which must be valid, is used too. There is no reverse, for what a release frees
// depends on all that remains used: build a new State.
func (s State) With(i gpu.Instance) State {
	s.used |= i.Slices()
	if s.offer != nil {
		s.free &^= s.offer.blockedBy(i.Slices(), takesMedia(i.Profile))
	}
	return s
}

// Used are the memory slices in use, bit n for slice n.
func (s State) Used() uint64 { return s.used }

// Idle reports whether nothing on the GPU is in use.
func (s State) Idle() bool { return s.used == 0 }

// CanGive reports whether exactly this instance is offered and free.
func (s State) CanGive(i gpu.Instance) bool {
	if s.offer == nil {
		return false
	}
	for set := s.free & s.offer.set(i.Profile); set != 0; set &= set - 1 {
		if s.offer.places[bits.TrailingZeros64(set)].instance == i {
			return true
		}
	}
	return false
}

// FreeSlices is the number of memory slices that some placement of the offer covers and nothing uses.
func FreeSlices(s State) int {
	if s.offer == nil {
		return 0
	}
	return bits.OnesCount64(s.offer.covered &^ s.used)
}

// Usable is the number of memory slices that the free placements of the profile cover, 0 to FreeSlices. What is free and
// not usable is a fragment for that profile. For a profile with media extensions, of which only one instance can be made,
// it counts every slice where that one could go.
func Usable(s State, profile string) int {
	return bits.OnesCount64(s.covers(profile))
}

func (s State) covers(profile string) uint64 {
	if s.offer == nil {
		return 0
	}
	var covered uint64
	for set := s.free & s.offer.set(profile); set != 0; set &= set - 1 {
		covered |= s.offer.places[bits.TrailingZeros64(set)].slices
	}
	return covered
}

// FreePlacements is the number of free placements of the profile: how many instances of it alone can still be made, except
// that of a profile with media extensions it is one at most.
func FreePlacements(s State, profile string) int {
	if s.offer == nil {
		return 0
	}
	n := bits.OnesCount64(s.free & s.offer.set(profile))
	if takesMedia(profile) && !s.offer.fixed {
		n = min(n, 1)
	}
	return n
}
