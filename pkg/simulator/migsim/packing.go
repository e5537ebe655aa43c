package migsim

import (
	"slices"

	"weft.sh/weft/pkg/mig"
)

// packing answers whether instances fit on the GPUs of a pool if they may lie anywhere, and so whether a policy that refuses a pod
// could have had a place for it by moving others.
//
// A pattern is a multiset of profiles of a legal layout ([mig.Layouts]); only those that no other one contains are kept. Instances
// fit if and only if every GPU can be given a pattern so that the patterns together contain them: exact, for each multiset within a
// pattern has a layout too.
type packing struct {
	patterns []counts
	rows     []row
}

// row is an inequality that every multiset of instances that fits satisfies: the sum of their weights is at most the capacity of each
// GPU times the number of GPUs. It holds because it holds for every pattern, and so on each GPU.
type row struct {
	weights  []float64 // by slot, or by portion of the mix
	capacity float64
}

// newPacking enumerates the layouts of the pool's model.
func newPacking(p *pool) packing {
	var names []string
	for _, profile := range p.profiles {
		names = append(names, profile.Name)
	}
	var all []counts
	for _, layout := range mig.Layouts(mig.NewState(p.offer, nil), names) {
		var c counts
		for _, i := range layout {
			c[slices.Index(names, i.Profile)]++
		}
		all = append(all, c)
	}
	var k packing
	for i, c := range all {
		contained := slices.ContainsFunc(all, func(o counts) bool { return o != c && o.contains(c) })
		if !contained && !slices.Contains(all[:i], c) {
			k.patterns = append(k.patterns, c)
		}
	}
	k.rows = rowsOf(k.patterns)
	return k
}

func (c counts) contains(o counts) bool {
	for i := range c {
		if c[i] < o[i] {
			return false
		}
	}
	return true
}

// dot is the sum of the weights of the instances.
func (c counts) dot(weights counts) (sum int) {
	for i := range c {
		sum += c[i] * weights[i]
	}
	return sum
}

// maxWeight is the largest weight that is tried: the memory slices of a GPU.
const maxWeight = 8

// rowsOf finds inequalities by trying all whole weights up to maxWeight. It keeps those that are tight on as many independent
// patterns as they have weights above 0, and of which no weight could be higher: the facets of what fits on one GPU. Whichever are
// found, they hold; that none is missing is checked by a test (what satisfies all fits).
func rowsOf(patterns []counts) (out []row) {
	var w counts
	for {
		if facet(patterns, w) {
			capacity := 0
			r := row{weights: make([]float64, len(w))}
			for _, p := range patterns {
				capacity = max(capacity, p.dot(w))
			}
			for i := range w {
				r.weights[i] = float64(w[i])
			}
			r.capacity = float64(capacity)
			out = append(out, r)
		}
		i := 0
		for ; i < len(w) && w[i] == maxWeight; i++ {
			w[i] = 0
		}
		if i == len(w) {
			return out
		}
		w[i]++
	}
}

// facet reports whether the weights have no common divisor, every profile is in a tight pattern, so that no weight can be higher, and
// as many tight patterns are independent as there are weights above 0.
func facet(patterns []counts, w counts) bool {
	divisor, support, capacity := 0, 0, 0
	for _, v := range w {
		for a := v; a > 0; {
			divisor, a = a, divisor%a
		}
		if v > 0 {
			support++
		}
	}
	if divisor != 1 {
		return false
	}
	for _, p := range patterns {
		capacity = max(capacity, p.dot(w))
	}
	// Gauss's elimination of the tight patterns, without the profiles of weight 0: only there may less than a pattern be tight.
	var basis []counts
	var tight counts
	for _, p := range patterns {
		if p.dot(w) < capacity {
			continue
		}
		for i := range p {
			tight[i] += p[i]
			if w[i] == 0 {
				p[i] = 0
			}
		}
		for _, b := range basis {
			lead := slices.IndexFunc(b[:], func(v int) bool { return v != 0 })
			if f := p[lead]; f != 0 {
				for i := range p {
					p[i] = p[i]*b[lead] - b[i]*f
				}
			}
		}
		if p != (counts{}) {
			basis = append(basis, p)
		}
	}
	return len(basis) == support && !slices.Contains(tight[:], 0)
}

// maxSteps bounds the search of fits. It has not been seen to need more than one step for each GPU.
const maxSteps = 100_000

// fits reports whether the instances fit on so many GPUs. decided is false when the search was given up.
func (k *packing) fits(c counts, gpus int) (fits, decided bool) {
	steps := maxSteps
	fits = k.search(c, gpus, &steps)
	return fits, fits || steps > 0
}

// search fills GPU by GPU. Some GPU must have one of the largest instances that are left, so the next one is that.
func (k *packing) search(left counts, gpus int, steps *int) bool {
	largest := len(left) - 1
	for ; largest >= 0 && left[largest] <= 0; largest-- {
	}
	if largest < 0 {
		return true
	}
	if *steps--; *steps <= 0 || !k.satisfies(left, gpus) {
		return false
	}
	tried := make([]bool, len(k.patterns))
	for {
		best, worth := -1, 0
		for i, p := range k.patterns {
			if tried[i] || p[largest] == 0 {
				continue
			}
			used := 0
			for s := range p {
				used += slots[s] * min(p[s], left[s])
			}
			if used > worth {
				best, worth = i, used
			}
		}
		if best < 0 {
			return false
		}
		tried[best] = true
		rest := left
		for s, n := range k.patterns[best] {
			rest[s] = max(0, rest[s]-n)
		}
		if k.search(rest, gpus-1, steps) {
			return true
		}
	}
}

// satisfies reports whether the instances satisfy all rows.
func (k *packing) satisfies(c counts, gpus int) bool {
	for _, r := range k.rows {
		sum := 0.0
		for i, w := range r.weights {
			sum += w * float64(c[i])
		}
		if sum > r.capacity*float64(gpus) {
			return false
		}
	}
	return true
}
