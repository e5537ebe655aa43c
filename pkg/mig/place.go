package mig

import (
	"cmp"
	"math/bits"
	"slices"

	"weft.sh/weft/pkg/gpu"
)

// Choice is where one wanted instance goes.
type Choice struct {
	// GPU is an index into the GPUs that were given.
	GPU int
	// Instance is one that this GPU offers and that was free.
	Instance gpu.Instance
}

// Fits reports whether [Place] finds a place for the wanted profiles, without choosing it. For one wanted instance it
// costs a look at each GPU and allocates nothing.
func Fits(gpus []State, want []string) bool {
	switch len(want) {
	case 0:
		return true
	case 1:
		return fitsOne(gpus, want[0])
	}
	var demandBuf [demandsHint]demand
	demands, ok := tally(demandBuf[:0], gpus, want)
	if !ok {
		return false
	}
	// If choosing one by one succeeds there is a place; only if it fails must all ways be tried.
	var workBuf [gpusHint]State
	var choiceBuf [gpusHint]Choice
	if _, ok := greedy(append(workBuf[:0], gpus...), demands, choiceBuf[:0]); ok {
		return true
	}
	_, ok = exact(gpus, demands, len(want))
	return ok
}

func fitsOne(gpus []State, profile string) bool {
	var offer *Offer
	var set uint64
	for i := range gpus {
		if gpus[i].offer == nil {
			continue
		}
		if gpus[i].offer != offer {
			offer = gpus[i].offer
			set = offer.set(profile)
		}
		if gpus[i].free&set != 0 {
			return true
		}
	}
	return false
}

// Place chooses a GPU and a start for every wanted profile (a profile wanted twice stands twice) on the GPUs of one node,
// and reports whether there is room for all of them. The choices are in the order of want; nothing wanted is placed
// nowhere. GPUs may be of different models.
//
// Of all ways to place the wanted instances it takes one of least loss (see the package comment). Among those:
//
//   - one that takes the fewest idle GPUs into use, for an idle GPU can still leave MIG mode or give its largest instance;
//   - then one that puts more instances on earlier GPUs, counted GPU by GPU, and among as many the larger ones;
//   - then, on each GPU, the highest starts, larger profiles first: the low memory slices are within the reach of more
//     profiles (4g starts only at 0; of 8 slices 1g and 2g cannot take the last), so what is used gathers at the top.
//
// Instances of one profile are interchangeable: those wanted earlier get the earlier GPU, then the higher start.
//
// The search is exact up to a bound on its work, about 10 ms on a current processor. On 16 GPUs, 12 instances of any
// profiles stay below it, 16 of five profiles, and as many of two profiles as there is room for. Beyond it the instances
// are placed one by one, largest first, each with least loss: the result is then still legal, but may lose more than
// necessary or miss that there is room.
func Place(gpus []State, want []string) ([]Choice, bool) {
	switch len(want) {
	case 0:
		return nil, true
	case 1:
		b := best(gpus, want[0])
		if b.gpu < 0 {
			return nil, false
		}
		return []Choice{b.choice(gpus)}, true
	}
	var demandBuf [demandsHint]demand
	demands, ok := tally(demandBuf[:0], gpus, want)
	if !ok {
		return nil, false
	}
	choices, ok := exact(gpus, demands, len(want))
	if !ok {
		return nil, false
	}
	return inOrder(choices, demands, want), true
}

// Most callers have no more than this; more costs an allocation.
const (
	demandsHint = 8
	gpusHint    = 16
)

// demand is how many instances of one profile are wanted.
type demand struct {
	profile string
	count   int
	// size is the largest and minSize the smallest size of the profile's free placements, in memory slices. They
	// differ only where GPUs of several models have the same name for different profiles (1g.10gb).
	size, minSize int
	// radix is the weight of the demand in the index of a sub-multiset, shift the start of its field in a packed one; only
	// in a search.
	radix, shift int
}

// tally counts the wanted profiles into buf, the largest first and then by name. It reports false where it is plain that
// they do not fit; this bounds the length of want by the memory slices of the node.
func tally(buf []demand, gpus []State, want []string) ([]demand, bool) {
	room := 0
	for i := range gpus {
		room += FreeSlices(gpus[i])
	}
	if len(want) > room {
		return nil, false
	}
	demands := buf
next:
	for _, profile := range want {
		for i := range demands {
			if demands[i].profile == profile {
				demands[i].count++
				continue next
			}
		}
		d := demand{profile: profile, count: 1}
		for i := range gpus {
			d.sizes(&gpus[i])
		}
		if d.size == 0 {
			return nil, false
		}
		demands = append(demands, d)
	}
	needed := 0
	for _, d := range demands {
		needed += d.count * d.minSize
	}
	slices.SortFunc(demands, func(a, b demand) int {
		return cmp.Or(cmp.Compare(b.size, a.size), cmp.Compare(a.profile, b.profile))
	})
	return demands, needed <= room
}

func (d *demand) sizes(s *State) {
	if s.offer == nil {
		return
	}
	for set := s.free & s.offer.set(d.profile); set != 0; set &= set - 1 {
		size := s.offer.places[bits.TrailingZeros64(set)].instance.Size
		d.size = max(d.size, size)
		if d.minSize == 0 || size < d.minSize {
			d.minSize = size
		}
	}
}

// candidate is one placement on one GPU; gpu is -1 for none.
type candidate struct {
	gpu, place, loss int
	idle             bool
}

func (c candidate) choice(gpus []State) Choice {
	return Choice{GPU: c.gpu, Instance: gpus[c.gpu].offer.places[c.place].instance}
}

// best is the placement of one instance by the rules of [Place].
func best(gpus []State, profile string) candidate {
	b := candidate{gpu: -1}
	var offer *Offer
	var set uint64
	for i := range gpus {
		s := &gpus[i]
		if s.offer == nil || i > 0 && *s == gpus[i-1] {
			continue // a GPU equal to the one before cannot be better
		}
		if s.offer != offer {
			offer = s.offer
			set = offer.set(profile)
		}
		for rest := s.free & set; rest != 0; rest &= rest - 1 {
			n := bits.TrailingZeros64(rest)
			c := candidate{gpu: i, place: n, loss: offer.lossOf(n, s.free), idle: s.Idle()}
			if b.gpu < 0 || c.loss < b.loss || c.loss == b.loss && b.idle && !c.idle {
				b = c
			}
		}
	}
	return b
}

// greedy places the demands one instance at a time, each with least loss, and appends the choices to out. It changes work.
func greedy(work []State, demands []demand, out []Choice) ([]Choice, bool) {
	for _, d := range demands {
		for range d.count {
			b := best(work, d.profile)
			if b.gpu < 0 {
				return out, false
			}
			c := b.choice(work)
			work[c.GPU] = work[c.GPU].With(c.Instance)
			out = append(out, c)
		}
	}
	return out, true
}

// inOrder deals the choices, one for every instance of the demands, out in the order of want.
func inOrder(choices []Choice, demands []demand, want []string) []Choice {
	rank := func(profile string) int {
		return slices.IndexFunc(demands, func(d demand) bool { return d.profile == profile })
	}
	slices.SortFunc(choices, func(a, b Choice) int {
		return cmp.Or(
			cmp.Compare(rank(a.Instance.Profile), rank(b.Instance.Profile)),
			cmp.Compare(a.GPU, b.GPU),
			cmp.Compare(b.Instance.Start, a.Instance.Start),
		)
	})
	// The choices of demand i start where those of the demands before it end.
	first := 0
	for i := range demands {
		n := demands[i].count
		demands[i].count = first
		first += n
	}
	ordered := make([]Choice, len(want))
	for i, profile := range want {
		d := &demands[rank(profile)]
		ordered[i] = choices[d.count]
		d.count++
	}
	return ordered
}
