package simulator

import (
	"errors"
	"fmt"
	"math/rand"
	"slices"
	"strings"

	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/trace"
)

// ErrBadWorkload is wrapped by every error about a workload that cannot be simulated.
var ErrBadWorkload = errors.New("bad workload")

// class is a shape of pod: pods of one class are the same to every policy.
type class struct {
	id                  int
	milliCPU, memoryMiB int64
	gpus                int
	milliGPU            int64 // of each GPU
	// models are the GPU models that will do, as the list has them, and accepts the same by index in workload.models.
	// Both are empty when every model will do.
	models  []string
	accepts []bool
}

func (c *class) total() int64 { return int64(c.gpus) * c.milliGPU }

// fractional reports whether the class asks for a part of a GPU.
func (c *class) fractional() bool { return c.gpus > 0 && c.milliGPU < gpu.WholeMilliGPU }

// Workload is a node list and a pod list, ready to be simulated. Read only; safe for concurrent use.
type Workload struct {
	// Name stands in results.
	Name     string
	nodes    []trace.Node // by name
	models   []string     // of the nodes, sorted
	pods     []int        // classes, by name of the pod
	classes  []class
	target   target
	gpus     int
	tooLarge int
}

// NewWorkload prepares a workload. What is drawn depends on the names of pods and nodes but not on their order.
func NewWorkload(name string, nodes []trace.Node, pods []trace.Pod) (*Workload, error) {
	w := &Workload{Name: name, nodes: slices.SortedFunc(slices.Values(nodes), func(a, b trace.Node) int { return strings.Compare(a.Name, b.Name) })}
	for _, n := range nodes {
		w.gpus += n.GPUs
		if n.GPUs > 0 {
			w.models = append(w.models, n.Model)
		}
	}
	slices.Sort(w.models)
	w.models = slices.Compact(w.models)
	if w.gpus == 0 {
		return nil, fmt.Errorf("%w %s: none of the %d nodes has a GPU", ErrBadWorkload, name, len(nodes))
	}
	type key struct {
		milliCPU, memoryMiB int64
		gpus                int
		milliGPU            int64
		models              string
	}
	index := map[key]int{}
	var asked int64
	for _, p := range slices.SortedFunc(slices.Values(pods), func(a, b trace.Pod) int { return strings.Compare(a.Name, b.Name) }) {
		k := key{p.MilliCPU, p.MemoryMiB, p.GPUs, p.MilliGPU, strings.Join(p.Models, "|")}
		id, ok := index[k]
		if !ok {
			id = len(w.classes)
			index[k] = id
			c := class{
				id: id, milliCPU: p.MilliCPU, memoryMiB: p.MemoryMiB, gpus: p.GPUs, milliGPU: p.MilliGPU, models: p.Models,
			}
			if len(p.Models) > 0 {
				for _, m := range w.models {
					c.accepts = append(c.accepts, slices.Contains(p.Models, m))
				}
			}
			w.classes = append(w.classes, c)
		}
		w.pods = append(w.pods, id)
		asked += p.TotalMilliGPU()
	}
	if asked == 0 {
		return nil, fmt.Errorf("%w %s: none of the %d pods asks for a GPU", ErrBadWorkload, name, len(pods))
	}
	counts := make([]int64, len(w.classes))
	for _, c := range w.pods {
		counts[c]++
	}
	w.target = newTarget(w.classes, counts, len(w.models))
	empty := w.state(nil)
	for i := range w.classes {
		if !slices.ContainsFunc(empty, func(n node) bool { return n.fits(&w.classes[i]) }) {
			w.tooLarge += int(counts[i])
		}
	}
	return w, nil
}

// TooLarge is the number of pods of the list that fit no node even when it is empty.
func (w *Workload) TooLarge() int { return w.tooLarge }

func (w *Workload) milliGPU() int64 { return int64(w.gpus) * gpu.WholeMilliGPU }

// maxArrivals bounds a run: the trace has some ten thousand.
const maxArrivals = 100_000_000

// arrivals draws which pods arrive in which order, so that they ask for load times the GPUs there are, and the order in
// which nodes of equal score are taken, as node names' places in the alphabet. It returns the source for whoever draws on.
//
// The draws are those of the published experiments, one by one and in this order:
//
//  1. one Int, which is not used;
//  2. a Shuffle of the pods, sorted by name;
//  3. while the pods ask for less than load times the GPUs: Intn over the pods as sorted by name, and that pod arrives too
//     (the draw is dropped, and the last, that would exceed the load with one of its GPUs: a pod of several may well
//     exceed it). Else, while they ask for more: Intn over what is left of the shuffled pods, and that one does not arrive;
//  4. ten Float64, which are not used: each of ten watches of the scheduler draws one when it begins;
//  5. a Perm of the nodes: the node that is i-th by name has rank perm[i].
//
// The sequence of math/rand's NewSource is fixed by Go's promise of compatibility.
func (w *Workload) arrivals(seed int64, load float64) (arriving, order []int, source *rand.Rand, err error) {
	r := rand.New(rand.NewSource(seed))
	r.Int()
	arriving = slices.Clone(w.pods)
	r.Shuffle(len(arriving), func(i, j int) { arriving[i], arriving[j] = arriving[j], arriving[i] })
	limit := load * float64(w.milliGPU())
	var total int64
	for _, c := range arriving {
		total += w.classes[c].total()
	}
	if float64(total) > limit {
		for float64(total) > limit {
			i := r.Intn(len(arriving))
			total -= w.classes[arriving[i]].total()
			arriving = slices.Delete(arriving, i, i+1)
		}
	} else {
		for {
			id := w.pods[r.Intn(len(w.pods))]
			c := &w.classes[id]
			if float64(total+c.milliGPU) > limit {
				break
			}
			if len(arriving) >= maxArrivals {
				return nil, nil, nil, fmt.Errorf("%w %s: load %g takes more than %d pods", ErrBadWorkload, w.Name, load, maxArrivals)
			}
			arriving = append(arriving, id)
			total += c.total()
		}
	}
	for range 10 {
		r.Float64()
	}
	order = make([]int, len(w.nodes))
	for i, rank := range r.Perm(len(w.nodes)) {
		order[rank] = i
	}
	return arriving, order, r, nil
}

// node is what is left of a node.
type node struct {
	milliCPU, memoryMiB int64
	model               int // index in workload.models; -1 without GPUs
	free                []int64
	// fragment is target.fragment of the node, kept by the run.
	fragment int64
	// kinds counts the pods by kindOf, for GpuClustering.
	kinds [maxKinds]int
}

// state is the empty nodes, in the order of indexes into workload.nodes; by name when it is nil.
func (w *Workload) state(order []int) []node {
	out := make([]node, len(w.nodes))
	for i := range out {
		from := &w.nodes[i]
		if order != nil {
			from = &w.nodes[order[i]]
		}
		n := node{milliCPU: from.MilliCPU, memoryMiB: from.MemoryMiB, model: -1, free: make([]int64, from.GPUs)}
		for g := range n.free {
			n.free[g] = gpu.WholeMilliGPU
		}
		if from.GPUs > 0 {
			n.model, _ = slices.BinarySearch(w.models, from.Model)
		}
		n.fragment = w.target.fragment(n.model, n.milliCPU, n.free)
		out[i] = n
	}
	return out
}

// fits reports whether a pod of the class has a place on the node: the CPU, the memory, and as many GPUs of an accepted
// model with the share left.
func (n *node) fits(c *class) bool {
	if c.milliCPU > n.milliCPU || c.memoryMiB > n.memoryMiB {
		return false
	}
	if c.gpus == 0 {
		return true
	}
	if c.gpus > len(n.free) || c.accepts != nil && !c.accepts[n.model] {
		return false
	}
	count := 0
	for _, left := range n.free {
		if left >= c.milliGPU {
			count++
		}
	}
	return count >= c.gpus
}

// milliGPU is the GPU capacity left.
func (n *node) milliGPU() int64 {
	var sum int64
	for _, left := range n.free {
		sum += left
	}
	return sum
}
