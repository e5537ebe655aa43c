package migsim

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// checkEvery is after how many pods a run looks whether it is to end.
const checkEvery = 256

// tally is what was measured of one half.
type tally struct {
	pods, accepted             int
	amount, acceptedAmount     int64 // memory slices or milli-GPU
	packable                   int
	packableAmount             int64
	sumOpened, sumUseless      float64
	reconfigurations, arrivals int
}

// simulate runs a seed under a policy.
func (s *Study) simulate(ctx context.Context, policyName string, seed int64, load float64) (Line, error) {
	pods := s.arrivals(seed, load)
	leaving := make([]int, len(pods))
	for i := range leaving {
		leaving[i] = i
	}
	slices.SortFunc(leaving, func(a, b int) int { return cmp.Or(cmp.Compare(pods[a].until, pods[b].until), cmp.Compare(a, b)) })
	decide := newPolicy(policyName, s)
	var err error
	f := newFleet(s)
	at := make([]placement, len(pods))
	accepted := make([]bool, len(pods))
	var shares, instances, both tally
	start := time.Now()
	gone := 0
	for n := range pods {
		p := &pods[n]
		if n%checkEvery == 0 && ctx.Err() != nil {
			return Line{}, ctx.Err()
		}
		for ; gone < len(leaving) && pods[leaving[gone]].until <= p.at; gone++ {
			if i := leaving[gone]; accepted[i] && decide == nil {
				f.held[pods[i].pool][pods[i].slot]--
			} else if accepted[i] {
				decide.leave(i)
				f.release(&pods[i], at[i])
			}
		}
		packable := false
		reconfigured := false
		switch {
		case decide == nil && p.pool < 0:
			continue // it packs instances only
		case decide == nil:
			packable, err = s.packable(f, p)
			if accepted[n] = packable; packable {
				f.held[p.pool][p.slot]++
			}
		default:
			if at[n], accepted[n], err = decide.arrive(f, n, p); accepted[n] && err == nil {
				reconfigured, err = f.take(p, at[n])
			}
		}
		if err != nil {
			return Line{}, fmt.Errorf("%s, load %g, seed %d, pod %d: %w", policyName, load, seed, n, err)
		}
		if !p.measured {
			continue
		}
		half, amount := &shares, s.mix[p.portion].MilliGPU
		if p.pool >= 0 {
			half, amount = &instances, int64(s.size(p))
			if packable = accepted[n]; !packable && decide != nil {
				if packable, err = s.packable(f, p); err != nil {
					return Line{}, err
				}
			}
		}
		half.add(amount, accepted[n], packable)
		both.arrivals++
		both.sumOpened += float64(f.opened)
		both.sumUseless += f.useless
		if reconfigured {
			both.reconfigurations++
		}
	}
	l := s.line(policyName, seed, load, shares, instances, both, decide != nil)
	l.PodsPerSecond = math.Round(float64(len(pods)) / max(time.Since(start).Seconds(), 1e-9))
	return l, nil
}

func (t *tally) add(amount int64, accepted, packable bool) {
	t.pods++
	t.amount += amount
	if accepted {
		t.accepted++
		t.acceptedAmount += amount
	}
	if packable {
		t.packable++
		t.packableAmount += amount
	}
}

// packable reports whether the pod and all instances that pods of its pool hold would fit if they could lie anywhere.
func (s *Study) packable(f *fleet, p *pod) (bool, error) {
	q := s.pools[p.pool]
	held := f.held[p.pool]
	held[p.slot]++
	fits, decided := q.packing.fits(held, q.gpus)
	if !decided {
		return false, fmt.Errorf("%w: whether %v fit on %d GPUs was not found out", errUnsound, held, q.gpus)
	}
	return fits, nil
}

// Bounds are the values that no policy exceeds for one seed and load, in percent of what arrives and is measured.
type Bounds struct{ MIGPods, MIGSlices, SharePods float64 }

// Bounds computes what no policy exceeds; see [bound].
func (s *Study) Bounds(seed int64, load float64) Bounds {
	byPool := make([][]pod, len(s.pools))
	var shares []pod
	var pods, size, sharePods float64
	for _, p := range s.arrivals(seed, load) {
		weight := 0.0
		if p.measured {
			weight = 1
		}
		if p.pool < 0 {
			shares = append(shares, p)
			sharePods += weight
			continue
		}
		byPool[p.pool] = append(byPool[p.pool], p)
		pods += weight
		size += weight * float64(s.size(&p))
	}
	// A bound on a number of pods, or of slices, is one on its whole part too.
	whole := func(v float64) float64 { return math.Floor(v + 1e-6) }
	one := func(*pod) float64 { return 1 }
	var b Bounds
	for i, list := range byPool {
		q := s.pools[i]
		slot := func(p *pod) int { return p.slot }
		b.MIGPods += whole(newBound(q.packing.rows, q.gpus, list, slot, one).solve(0.5 * pods / float64(len(s.pools))))
		b.MIGSlices += whole(newBound(q.packing.rows, q.gpus, list, slot, func(p *pod) float64 { return float64(s.size(p)) }).
			solve(0.5 * size / float64(len(s.pools))))
	}
	portion := func(p *pod) int { return p.portion }
	b.SharePods = whole(newBound(shareRows(s.mix), s.migGPUs(), shares, portion, one).solve(0.5 * sharePods))
	return Bounds{percent(b.MIGPods, pods), percent(b.MIGSlices, size), percent(b.SharePods, sharePods)}
}

// percent rounds to four places; of nothing it is 100.
func percent(part, of float64) float64 {
	if of == 0 {
		return 100
	}
	return math.Round(1e6*part/of) / 1e4
}

// Lineup is runs to be compared: every load under every policy with every seed.
type Lineup struct {
	Study    *Study
	Loads    []float64
	Policies []string
	Seeds    []int64
}

// Runs is the number of runs.
func (l *Lineup) Runs() int { return len(l.Loads) * len(l.Policies) * len(l.Seeds) }

// Run runs the lineup on as many processors as there are and hands over the results, in the order of loads, policies and seeds, each
// as soon as it and those before it are there. It ends with the first error, of a run, of emit or of ctx.
func (l *Lineup) Run(ctx context.Context, emit func(Line) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	results := make([]chan Line, l.Runs())
	for i := range results {
		results[i] = make(chan Line, 1)
	}
	bounds := make([]func() Bounds, len(l.Loads)*len(l.Seeds))
	for i := range bounds {
		bounds[i] = sync.OnceValue(func() Bounds { return l.Study.Bounds(l.Seeds[i%len(l.Seeds)], l.Loads[i/len(l.Seeds)]) })
	}
	var next atomic.Int64
	var wg sync.WaitGroup
	defer wg.Wait()
	for range min(runtime.GOMAXPROCS(0), len(results)) {
		wg.Go(func() {
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= len(results) {
					return
				}
				seed, load := i%len(l.Seeds), i/len(l.Seeds)/len(l.Policies)
				line, err := l.Study.simulate(ctx, l.Policies[i/len(l.Seeds)%len(l.Policies)], l.Seeds[seed], l.Loads[load])
				if err != nil {
					cancel(err)
					return
				}
				line.beside(bounds[load*len(l.Seeds)+seed]())
				results[i] <- line
			}
		})
	}
	for _, result := range results {
		select {
		case line := <-result:
			if err := emit(line); err != nil {
				cancel(err)
				return err
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// line is what came of a run; a policy that does not place has only what it accepts.
func (s *Study) line(policyName string, seed int64, load float64, shares, instances, both tally, places bool) Line {
	l := Line{
		Workload: s.workload, Policy: policyName, Seed: seed, Load: load, Nodes: s.nodes, GPUs: s.GPUs(), MIGGPUs: s.migGPUs(),
		MIGPods: instances.pods, MIGPodsAccepted: percent(float64(instances.accepted), float64(instances.pods)),
		MIGSlicesAccepted: percent(float64(instances.acceptedAmount), float64(instances.amount)),
		MIGPodsPackable:   percent(float64(instances.packable), float64(instances.pods)),
		MIGSlicesPackable: percent(float64(instances.packableAmount), float64(instances.amount)),
	}
	if !places {
		return l
	}
	l.SharePods = shares.pods
	l.Reconfigurations = new(both.reconfigurations)
	l.SharePodsAccepted = new(percent(float64(shares.accepted), float64(shares.pods)))
	l.ShareGPUsAccepted = new(percent(float64(shares.acceptedAmount), float64(shares.amount)))
	if both.arrivals > 0 {
		l.GPUsOpened = new(math.Round(1e4*both.sumOpened/float64(both.arrivals)) / 1e4)
		var total int
		for _, q := range s.pools {
			total += q.gpus * q.table.MemorySlices
		}
		l.MIGFragmentation = new(percent(both.sumUseless/float64(both.arrivals), float64(total)))
	}
	return l
}
