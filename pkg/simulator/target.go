package simulator

import (
	"cmp"
	"slices"
	"strings"
)

// target is the mix of classes by which fragmentation is measured: the most frequent ones of the pod list that together
// make 95 percent of it, pods without GPUs included (Weng et al., USENIX ATC 2023, section 4.1). A class is CPU, GPUs and
// models here; memory is no part of it.
//
// Everything is an integer: an amount is milli-GPU times total.
type target struct {
	total int64
	cpus  []int64 // amounts of CPU that classes with GPUs ask for, ascending, each once
	// byModel are the groups that accept a model.
	byModel [][]targetGroup
}

// targetGroup is the classes that ask for the same of the GPUs: fits[k] counts the pods that find enough CPU where the k
// smallest of target.cpus fit.
type targetGroup struct {
	gpus     int
	milliGPU int64
	fits     []int64
}

// targetPercent of the pods are what the classes of a target make at least.
const targetPercent = 95

func newTarget(classes []class, counts []int64, models int) target {
	type key struct {
		milliCPU, milliGPU int64
		gpus               int
		models             string
	}
	type counted struct {
		key
		count   int64
		accepts []bool
	}
	index := map[key]int{}
	var all []counted
	var pods int64
	for i := range classes {
		c := &classes[i]
		k := key{c.milliCPU, c.milliGPU, c.gpus, strings.Join(c.models, "|")}
		at, ok := index[k]
		if !ok {
			at = len(all)
			index[k] = at
			all = append(all, counted{key: k, accepts: c.accepts})
		}
		all[at].count += counts[i]
		pods += counts[i]
	}
	slices.SortFunc(all, func(a, b counted) int {
		return cmp.Or(cmp.Compare(b.count, a.count), cmp.Compare(b.milliCPU, a.milliCPU), cmp.Compare(b.milliGPU, a.milliGPU),
			cmp.Compare(b.gpus, a.gpus), cmp.Compare(b.models, a.models))
	})
	t := target{byModel: make([][]targetGroup, models)}
	kept := 0
	for kept < len(all) && t.total*100 < pods*targetPercent {
		t.total += all[kept].count
		if all[kept].gpus > 0 {
			t.cpus = append(t.cpus, all[kept].milliCPU)
		}
		kept++
	}
	slices.Sort(t.cpus)
	t.cpus = slices.Compact(t.cpus)
	for m := range t.byModel {
		for _, c := range all[:kept] {
			if c.gpus == 0 || c.accepts != nil && !c.accepts[m] {
				continue
			}
			groups := t.byModel[m]
			i := slices.IndexFunc(groups, func(g targetGroup) bool { return g.gpus == c.gpus && g.milliGPU == c.milliGPU })
			if i < 0 {
				i = len(groups)
				groups = append(groups, targetGroup{gpus: c.gpus, milliGPU: c.milliGPU, fits: make([]int64, len(t.cpus)+1)})
			}
			for k := t.rank(c.milliCPU); k <= len(t.cpus); k++ {
				groups[i].fits[k] += c.count
			}
			t.byModel[m] = groups
		}
	}
	return t
}

// rank is how many of the amounts of CPU fit into milliCPU.
func (t *target) rank(milliCPU int64) int {
	k, ok := slices.BinarySearch(t.cpus, milliCPU)
	if ok {
		k++
	}
	return k
}

// fragment is F_n(M) of the paper, times total: what is left of the GPUs of a node that the classes cannot use. To a class
// that asks for no GPU, accepts no GPU of the model, or finds too little CPU or too few GPUs with its share left, that is
// all; to every other one what is left of the GPUs that have less than its share.
func (t *target) fragment(model int, milliCPU int64, free []int64) int64 {
	var left int64
	for _, f := range free {
		left += f
	}
	if left == 0 {
		return 0
	}
	sum := left * t.total
	rank := t.rank(milliCPU)
	groups := t.byModel[model]
	for i := range groups {
		g := &groups[i]
		n := g.fits[rank]
		if n == 0 {
			continue
		}
		var usable int64
		count := 0
		for _, f := range free {
			if f >= g.milliGPU {
				usable += f
				count++
			}
		}
		if count >= g.gpus {
			sum -= n * usable
		}
	}
	return sum
}
