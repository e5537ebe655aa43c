package migsim

import (
	"fmt"
	"math/rand"
	"slices"
	"sort"
	"strings"

	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/mig"
)

// GPUsPerNode is how many GPUs a node has; the first half of them is in MIG mode.
const GPUsPerNode = 8

const (
	migPerNode = GPUsPerNode / 2
	// warmUp is the lifetimes before anything is measured: of what a pod found then, e^-5 is left.
	warmUp = 5
	// MaxNodes and MaxLifetimes bound a study.
	MaxNodes     = 1000
	MaxLifetimes = 10_000
)

// Study is a cluster and what comes to it. Read only once it is made; safe for concurrent use.
type Study struct {
	workload  string
	mix       Mix
	nodes     int
	lifetimes float64
	pools     []*pool
	poolOf    []int // of the MIG half of each node
	products  []string
}

// NewStudy is a study of that name with so many nodes, whose models take turns in the order given, over so many mean lifetimes.
func NewStudy(workload string, mix Mix, models []string, nodes int, lifetimes float64) (*Study, error) {
	if nodes < 1 || nodes > MaxNodes {
		return nil, fmt.Errorf("%w: %d nodes: want 1 to %d", ErrBadStudy, nodes, MaxNodes)
	}
	if !(lifetimes > 0 && lifetimes <= MaxLifetimes) { // so that NaN is refused too
		return nil, fmt.Errorf("%w: %g lifetimes: want more than 0 and up to %d", ErrBadStudy, lifetimes, MaxLifetimes)
	}
	if len(models) == 0 || len(models) > nodes {
		return nil, fmt.Errorf("%w: %d models on %d nodes: want at least one model, and a node for each", ErrBadStudy, len(models), nodes)
	}
	s := &Study{workload: workload, mix: mix, nodes: nodes, lifetimes: lifetimes}
	for i, name := range models {
		t, ok := mig.TableByName(name)
		if !ok || t.ComputeSlices != sevenths {
			return nil, fmt.Errorf("%w: model %q: want some of %s", ErrBadStudy, name, strings.Join(Models(), ", "))
		}
		if slices.Contains(models[:i], name) {
			return nil, fmt.Errorf("%w: model %s twice", ErrBadStudy, name)
		}
	}
	for n := range nodes {
		t, _ := mig.TableByName(models[n%len(models)])
		at := slices.IndexFunc(s.pools, func(p *pool) bool { return slices.Equal(p.table.Instances(), t.Instances()) })
		if at < 0 {
			p, err := newPool(t)
			if err != nil {
				return nil, err
			}
			at = len(s.pools)
			s.pools = append(s.pools, p)
		}
		p := s.pools[at]
		p.gpus += migPerNode
		if !slices.Contains(p.products, t.Products[0]) {
			p.products = append(slices.Clone(p.products), t.Products[0])
			slices.Sort(p.products)
		}
		s.poolOf = append(s.poolOf, at)
		s.products = append(s.products, t.Products[0])
	}
	for _, p := range s.pools {
		p.packing = newPacking(p)
	}
	return s, nil
}

// GPUs is how many GPUs the nodes have in all.
func (s *Study) GPUs() int { return s.nodes * GPUsPerNode }

func (s *Study) migGPUs() int { return s.nodes * migPerNode }

// pod is one that arrives.
type pod struct {
	at, until float64
	pool      int // -1 for a share
	// slot is the profile, for MIG; portion what was drawn of the mix.
	slot, portion int
	measured      bool
}

// size is the memory slices that the pod takes.
func (s *Study) size(p *pod) int { return s.pools[p.pool].profiles[p.slot].Size }

// arrivals draws all pods of a seed, by time. The draws are, from one math/rand source, for the MIG half and then for the other, pod
// after pod: the time since the one before (ExpFloat64), the portion of the mix (Int63n of its weight), for MIG the pool (Intn of the
// GPUs in MIG mode), and how long it stays (ExpFloat64). Another load has the same draws, closer together.
func (s *Study) arrivals(seed int64, load float64) []pod {
	source := rand.New(rand.NewSource(seed))
	weight := s.mix.weight()
	var slicesPerPod, milliPerPod float64
	for _, m := range s.mix {
		part := float64(m.Weight) / float64(weight)
		slicesPerPod += part * float64(s.pools[0].profiles[slotOf(m.MilliGPU)].Size)
		milliPerPod += part * float64(m.MilliGPU)
	}
	end := warmUp + s.lifetimes
	var out []pod
	stream := func(rate float64, shares bool) {
		at := 0.0
		for {
			at += source.ExpFloat64() / rate
			p := pod{at: at, pool: -1, portion: s.mix.pick(source.Int63n(weight)), measured: at >= warmUp}
			p.slot = slotOf(s.mix[p.portion].MilliGPU)
			if !shares {
				n := source.Intn(s.migGPUs())
				p.pool = slices.IndexFunc(s.pools, func(q *pool) bool { n -= q.gpus; return n < 0 })
			}
			p.until = at + source.ExpFloat64()
			if at >= end {
				return
			}
			out = append(out, p)
		}
	}
	half := float64(s.migGPUs())
	stream(load*half*float64(s.pools[0].table.MemorySlices)/slicesPerPod, false)
	stream(load*half*float64(gpu.WholeMilliGPU)/milliPerPod, true)
	sort.SliceStable(out, func(i, j int) bool { return out[i].at < out[j].at })
	return out
}
