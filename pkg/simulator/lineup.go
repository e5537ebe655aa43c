package simulator

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
)

// Lineup is runs to be compared: every workload under every policy with every seed.
type Lineup struct {
	Workloads []*Workload
	Policies  []string
	Seeds     []int64
	// Scheduler decides, for the policy DefaultPolicy only; nil for engine core.
	Scheduler StartScheduler
	// Load is how much of the GPUs the pods that arrive ask for: 1.3 in the published experiments.
	Load float64
	// Bound asks for what no placement can exceed beside each result.
	Bound bool
	// Decided, unless nil, is told where each pod went, as soon as it is known; from several goroutines where there are several runs.
	Decided func(Decision)
	// Trails asks for a Trail with each result.
	Trails bool
}

// Runs is the number of runs.
func (l *Lineup) Runs() int { return len(l.Workloads) * len(l.Policies) * len(l.Seeds) }

// Progress is how far a lineup is.
type Progress struct {
	Runs, RunsDone int
	PodsDone       int64
}

// Run runs the lineup on as many processors as there are and hands over the results, in the order of workloads, policies and
// seeds, each as soon as it and those before it are there. It ends with the first error, of a run, of emit or of ctx. tell
// may be nil; it is called from several goroutines.
func (l *Lineup) Run(ctx context.Context, emit func(Line) error, tell func(Progress)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	results := make([]chan Line, l.Runs())
	for i := range results {
		results[i] = make(chan Line, 1)
	}
	bounds := make([]func() (Bound, error), len(l.Workloads)*len(l.Seeds))
	for i := range bounds {
		bounds[i] = sync.OnceValues(func() (Bound, error) {
			return l.Workloads[i/len(l.Seeds)].Bound(ctx, l.Seeds[i%len(l.Seeds)], l.Load)
		})
	}
	var next, done, pods atomic.Int64
	var wg sync.WaitGroup
	defer wg.Wait()
	for range min(runtime.GOMAXPROCS(0), len(results)) {
		wg.Go(func() {
			for ctx.Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= len(results) {
					return
				}
				last := 0
				line, err := l.one(ctx, i, func(n, _ int) {
					pods.Add(int64(n - last))
					last = n
					if tell != nil {
						tell(Progress{len(results), int(done.Load()), pods.Load()})
					}
				})
				if err == nil && l.Bound {
					var b Bound
					if b, err = bounds[i/len(l.Seeds)/len(l.Policies)*len(l.Seeds)+i%len(l.Seeds)](); err == nil {
						line.beside(b)
					}
				}
				if err != nil {
					cancel(err)
					return
				}
				done.Add(1)
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

// one is the i-th run.
func (l *Lineup) one(ctx context.Context, i int, tell func(done, of int)) (Line, error) {
	seed := l.Seeds[i%len(l.Seeds)]
	i /= len(l.Seeds)
	policy := l.Policies[i%len(l.Policies)]
	w := l.Workloads[i/len(l.Policies)]
	var trail *Trail
	if l.Trails {
		trail = newTrail(w, l.Load, w == l.Workloads[0] && seed == l.Seeds[0])
	}
	return simulate(ctx, w, l.Scheduler, policy, seed, l.Load, trail, l.Decided, tell)
}

// ParseSeeds reads a list such as 42-51,60.
func ParseSeeds(list string) ([]int64, error) {
	var out []int64
	for part := range strings.SplitSeq(list, ",") {
		first, last, isRange := strings.Cut(strings.TrimSpace(part), "-")
		if !isRange {
			last = first
		}
		from, err := strconv.ParseUint(first, 10, 62)
		to, err2 := strconv.ParseUint(last, 10, 62)
		if err != nil || err2 != nil || to < from {
			return nil, fmt.Errorf("seeds %q: want numbers and ranges such as 42-51,60", list)
		}
		if to-from >= maxSeeds || len(out)+int(to-from) >= maxSeeds {
			return nil, fmt.Errorf("seeds %q: want no more than %d", list, maxSeeds)
		}
		for s := from; s <= to; s++ {
			if !slices.Contains(out, int64(s)) {
				out = append(out, int64(s))
			}
		}
	}
	return out, nil
}

const maxSeeds = 10_000
