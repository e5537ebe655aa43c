package simulator

import (
	"context"
	"fmt"
	"slices"
	"time"

	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/trace"
)

// run is one workload under one policy.
type run struct {
	w *Workload
	// policy decides in engine core, and outside in the others: one of them is nil.
	policy  Policy
	outside *outside
	nodes   []node // in the policy's order; by name for outside
	order   []int  // the same, as indexes into the workload's nodes
	// scores are by class, nil until one comes; see scoresOf.
	scores []*scores
	// changed are the places of the nodes that were placed on, in order of time; what is older than an entry's seen is
	// in its scores already.
	changed []int
	// stamps tells which nodes a call of scoresOf has done.
	stamps []int
	stamp  int

	allocated, arrived, fragment int64
	placed, pods                 int
	curve                        curve
	trail                        *Trail         // nil for none
	decided                      func(Decision) // nil for none
}

// scores are the score of each node for a class, noFit where it has no place.
type scores struct {
	of   []int64
	seen int // entries of run.changed that are in of
}

const (
	noFit = -1
	// nowhere is the place of a pod that is dropped.
	nowhere = -1
)

// checkEvery is after how many pods a run looks whether it is to end.
const checkEvery = 64

// simulate runs the workload and tells, from time to time, how many of how many pods have arrived. The scheduler decides, or the
// policy in engine core when it is nil. A trail is filled, and decisions are told, unless these are nil.
func simulate(
	ctx context.Context, w *Workload, scheduler StartScheduler, policy string, seed int64, load float64, trail *Trail,
	decided func(Decision), tell func(done, of int),
) (Line, error) {
	arriving, order, source, err := w.arrivals(seed, load)
	if err != nil {
		return Line{}, err
	}
	var r *run
	if scheduler == nil {
		p, err := newPolicy(policy, w, source)
		if err != nil {
			return Line{}, err
		}
		r = newRun(w, p, p.order(order))
	} else {
		s, err := scheduler(ctx, w.nodes)
		if err != nil {
			return Line{}, err
		}
		defer s.Close()
		r = newOutside(w, s)
	}
	r.decided = decided
	if r.trail = trail; trail != nil {
		trail.add(r)
		defer trail.end(r)
	}
	start := time.Now()
	for i, c := range arriving {
		if i%checkEvery == 0 {
			if err := ctx.Err(); err != nil {
				return Line{}, err
			}
			tell(i, len(arriving))
		}
		if err := r.arrive(ctx, &w.classes[c]); err != nil {
			return Line{}, fmt.Errorf("%s, seed %d, pod %d: %w", policy, seed, i, err)
		}
	}
	tell(len(arriving), len(arriving))
	return r.line(policy, seed, load, time.Since(start)), nil
}

// newRun is a run before the first pod; order is that of the nodes in it.
func newRun(w *Workload, p Policy, order []int) *run {
	r := &run{w: w, policy: p, order: order, nodes: w.state(order), scores: make([]*scores, len(w.classes)), stamps: make([]int, len(w.nodes))}
	for i := range r.nodes {
		r.fragment += r.nodes[i].fragment
	}
	return r
}

// arrive places a pod of the class, or drops it.
func (r *run) arrive(ctx context.Context, c *class) error {
	r.pods++
	r.arrived += c.total()
	place, gpus, err := r.decide(ctx, c)
	if err != nil {
		return err
	}
	if place != nowhere {
		if err := r.place(place, gpus, c); err != nil {
			return err
		}
	}
	r.curve.add(r)
	if r.trail != nil {
		r.trail.add(r)
	}
	if r.decided != nil {
		d := Decision{Pod: trace.Pod{
			MilliCPU: c.milliCPU, MemoryMiB: c.memoryMiB, GPUs: c.gpus, MilliGPU: c.milliGPU, Models: c.models,
		}}
		if place != nowhere {
			d.Node, d.GPUs = r.w.nodes[r.order[place]].Name, slices.Sorted(slices.Values(gpus))
		}
		r.decided(d)
	}
	return nil
}

// decide is where a pod of the class goes: the place of a node, or nowhere, and the indexes of its GPUs.
func (r *run) decide(ctx context.Context, c *class) (place int, gpus []int, err error) {
	if r.outside != nil {
		return r.outside.decide(ctx, r, c)
	}
	if r.policy.observe(c) {
		clear(r.scores)
	}
	s := r.scoresOf(c)
	best, top := nowhere, int64(noFit)
	for i, score := range s {
		if score > top {
			best, top = i, score
		}
	}
	if best == nowhere {
		return nowhere, nil, nil
	}
	place = r.policy.pick(s, best)
	n := &r.nodes[place]
	if !n.fits(c) {
		return nowhere, nil, noRoom(place)
	}
	gpus, err = r.policy.choose(place, n, c, make([]int, 0, 8))
	return place, gpus, err
}

func noRoom(place int) error { return fmt.Errorf("node %d has no room: a fault of the policy", place) }

// scoresOf is the scores of all nodes for the class as of now. What has not changed since the class came last is not
// looked at again.
func (r *run) scoresOf(c *class) []int64 {
	s := r.scores[c.id]
	if s == nil {
		s = &scores{of: make([]int64, len(r.nodes)), seen: len(r.changed)}
		r.scores[c.id] = s
		for i := range r.nodes {
			s.of[i] = r.score(i, c)
		}
		return s.of
	}
	r.stamp++
	for _, i := range r.changed[s.seen:] {
		if r.stamps[i] != r.stamp {
			r.stamps[i] = r.stamp
			s.of[i] = r.score(i, c)
		}
	}
	s.seen = len(r.changed)
	return s.of
}

func (r *run) score(i int, c *class) int64 {
	n := &r.nodes[i]
	if !n.fits(c) {
		return noFit
	}
	return r.policy.score(i, n, c)
}

// place puts a pod of the class on the GPUs of the node at place i. That the node has room, and that the GPUs have, is checked: a
// policy that gives out what there is not would look very good.
func (r *run) place(i int, gpus []int, c *class) error {
	n := &r.nodes[i]
	if !n.fits(c) {
		return noRoom(i)
	}
	if len(gpus) != c.gpus {
		return fmt.Errorf("%d GPUs were chosen, not %d: a fault of the policy", len(gpus), c.gpus)
	}
	for _, g := range gpus {
		if g < 0 || g >= len(n.free) {
			return fmt.Errorf("GPU %d of node %d was chosen, which there is not: a fault of the policy", g, i)
		}
		if n.free[g] -= c.milliGPU; n.free[g] < 0 {
			return fmt.Errorf("GPU %d of node %d is given out twice: a fault of the policy", g, i)
		}
	}
	n.milliCPU -= c.milliCPU
	n.memoryMiB -= c.memoryMiB
	if c.gpus > 0 {
		n.kinds[kindOf(c)]++
	}
	r.fragment -= n.fragment
	n.fragment = r.w.target.fragment(n.model, n.milliCPU, n.free)
	r.fragment += n.fragment
	r.allocated += c.total()
	r.placed++
	r.changed = append(r.changed, i)
	return nil
}

// allocation is the part of the GPU capacity that is given out, in percent.
func (r *run) allocation() float64 { return 100 * float64(r.allocated) / float64(r.w.milliGPU()) }

// fragmentation is what is left and is a fragment, in percent of the GPU capacity.
func (r *run) fragmentation() float64 {
	return 100 * float64(r.fragment) / float64(r.w.target.total) / float64(r.w.milliGPU())
}

func (r *run) engine() string {
	if r.outside != nil {
		return EngineFramework
	}
	return EngineCore
}

// line is the result.
func (r *run) line(policy string, seed int64, load float64, took time.Duration) Line {
	l := Line{
		Workload: r.w.Name, Policy: policy, Seed: seed, Engine: r.engine(), Load: load, Nodes: len(r.nodes), GPUs: r.w.gpus,
		Pods: r.pods, Placed: r.placed, AllocFinal: rounded(r.allocation()), FragAmountFinal: rounded(r.fragmentation()),
		UnallocatedGPUsFinal: rounded(float64(r.w.milliGPU()-r.allocated) / float64(gpu.WholeMilliGPU)),
		PodsPerSecond:        rounded(float64(r.pods) / max(took.Seconds(), 1e-9)), curve: r.curve, trail: r.trail,
	}
	if a, f, ok := r.curve.at(100); ok {
		alloc, frag := rounded(a), rounded(f)
		unallocated := rounded((100 - a) / 100 * float64(r.w.gpus))
		l.AllocAt100, l.FragAmountAt100, l.UnallocatedGPUsAt100 = &alloc, &frag, &unallocated
		if a < 100 {
			ratio := rounded(100 * f / (100 - a))
			l.FragRatioAt100 = &ratio
		}
	}
	return l
}
