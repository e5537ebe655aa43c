package mig

import (
	"cmp"
	"slices"
	"strings"

	"weft.sh/weft/pkg/gpu"
)

// The deliberately dumb counterpart of the package: lists instead of bit sets, all ways instead of a search.

// dumbOffer is what a GPU offers, as its node reports it.
type dumbOffer struct {
	list []gpu.Instance
	// alternatives says that some of the list overlap.
	alternatives bool
}

func newDumbOffer(list []gpu.Instance) dumbOffer {
	o := dumbOffer{list: list}
	for n, a := range list {
		for _, b := range list[:n] {
			o.alternatives = o.alternatives || a.Overlaps(b)
		}
	}
	return o
}

// free reports whether the instance can be given beside the used ones.
func (o dumbOffer) free(used []gpu.Instance, i gpu.Instance) bool {
	for _, u := range used {
		if u.Overlaps(i) {
			return false
		}
		if o.alternatives && strings.Contains(u.Profile, "+me") && strings.Contains(i.Profile, "+me") {
			return false
		}
	}
	return true
}

// layouts calls f with every set of instances that can exist together, the empty one included.
func (o dumbOffer) layouts(f func([]gpu.Instance)) {
	var extend func(chosen []gpu.Instance, from int)
	extend = func(chosen []gpu.Instance, from int) {
		f(chosen)
		for i := from; i < len(o.list); i++ {
			if o.free(chosen, o.list[i]) {
				extend(append(chosen[:len(chosen):len(chosen)], o.list[i]), i+1)
			}
		}
	}
	extend(nil, 0)
}

type dumbGPU struct {
	offer dumbOffer
	used  []gpu.Instance
}

// weight is the sum of the sizes of what can still be given.
func (d dumbGPU) weight() int {
	sum := 0
	for _, i := range d.offer.list {
		if d.offer.free(d.used, i) {
			sum += i.Size
		}
	}
	return sum
}

func dumbLoss(gpus []dumbGPU, choices []Choice) int {
	loss := 0
	for g, d := range gpus {
		before := d.weight()
		for _, c := range choices {
			if c.GPU == g {
				d.used = append(d.used[:len(d.used):len(d.used)], c.Instance)
				before -= c.Instance.Size
			}
		}
		loss += before - d.weight()
	}
	return loss
}

// dumbPlace tries all ways to place what is wanted and returns the preferred one, sorted like a result of inOrder; false
// in the second place when there is none, in the third when there are more than limit ways to look at.
func dumbPlace(gpus []dumbGPU, want []string, limit int) (choices []Choice, fits, done bool) {
	want = slices.Clone(want)
	size := func(profile string) int {
		n := 0
		for _, d := range gpus {
			for _, i := range d.offer.list {
				if i.Profile == profile && d.offer.free(d.used, i) {
					n = max(n, i.Size)
				}
			}
		}
		return n
	}
	slices.SortFunc(want, func(a, b string) int { return cmp.Or(cmp.Compare(size(b), size(a)), cmp.Compare(a, b)) })
	var bestKey []int
	ways := 0
	var try func(chosen []Choice)
	try = func(chosen []Choice) {
		if ways++; ways > limit {
			return
		}
		n := len(chosen)
		if n == len(want) {
			if key := dumbKey(gpus, chosen, want); !fits || slices.Compare(key, bestKey) < 0 {
				fits, bestKey, choices = true, key, slices.Clone(chosen)
			}
			return
		}
		for g, d := range gpus {
			used := slices.Clone(d.used)
			for _, c := range chosen {
				if c.GPU == g {
					used = append(used, c.Instance)
				}
			}
			for _, i := range d.offer.list {
				c := Choice{GPU: g, Instance: i}
				// Instances of one profile are interchangeable: look at them in one order only.
				if n > 0 && want[n-1] == want[n] && dumbOrder(chosen[n-1], c) > 0 {
					continue
				}
				if i.Profile == want[n] && d.offer.free(used, i) {
					try(append(chosen[:n:n], c))
				}
			}
		}
	}
	try(nil)
	return choices, fits, ways <= limit
}

func dumbOrder(a, b Choice) int {
	return cmp.Or(cmp.Compare(a.GPU, b.GPU), cmp.Compare(b.Instance.Start, a.Instance.Start))
}

// dumbKey puts the preferences of Place into numbers, the first that differs decides and less is better. The choices are
// in the order of want, which is sorted.
func dumbKey(gpus []dumbGPU, choices []Choice, want []string) []int {
	key := []int{dumbLoss(gpus, choices), 0}
	for g, d := range gpus {
		count := 0
		for _, c := range choices {
			if c.GPU == g {
				count++
			}
		}
		if count > 0 && len(d.used) == 0 {
			key[1]++
		}
		key = append(key, -count)
		for _, profile := range slices.Compact(slices.Clone(want)) {
			n := 0
			for _, c := range choices {
				if c.GPU == g && c.Instance.Profile == profile {
					n++
				}
			}
			key = append(key, -n)
		}
	}
	for g := range gpus {
		for _, c := range choices {
			if c.GPU == g {
				key = append(key, -c.Instance.Start)
			}
		}
	}
	return key
}
