package migsim

import (
	"errors"
	"fmt"
	"slices"

	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/mig"
)

// errUnsound is wrapped by errors about a policy that places what has no place: a fault of the program.
var errUnsound = errors.New("unsound placement")

// fleet is the GPUs and what is on them.
type fleet struct {
	study *Study
	gpus  []device
	// opened counts those that somebody holds, useless sums theirs.
	opened  int
	useless float64
	// held are the instances that pods have, by pool.
	held []counts
}

// device is one GPU.
type device struct {
	pool int // -1 when it is shared
	held int // pods
	free int64
	// state is that of a GPU in MIG mode; used are the instances that pods have, exist those and the ones that were left.
	state       mig.State
	used, exist []gpu.Instance
	// useless is the memory slices that are free and of no use to the next request of the mix, its mean.
	useless float64
}

func newFleet(s *Study) *fleet {
	f := &fleet{study: s, held: make([]counts, len(s.pools))}
	for n := range s.nodes {
		for g := range GPUsPerNode {
			d := device{pool: -1, free: gpu.WholeMilliGPU}
			if g < migPerNode {
				d = device{pool: s.poolOf[n]}
				d.state = mig.NewState(s.pools[d.pool].offer, nil)
			}
			f.gpus = append(f.gpus, d)
			f.measure(&f.gpus[len(f.gpus)-1])
		}
	}
	return f
}

// measure computes useless anew.
func (f *fleet) measure(d *device) {
	if d.pool < 0 {
		return
	}
	f.useless -= d.useless
	d.useless = 0
	free := mig.FreeSlices(d.state)
	for _, m := range f.study.mix {
		profile := f.study.pools[d.pool].profiles[slotOf(m.MilliGPU)].Name
		d.useless += float64(m.Weight) * float64(free-mig.Usable(d.state, profile))
	}
	d.useless /= float64(f.study.mix.weight())
	f.useless += d.useless
}

// take places the pod. It checks that the policy may: that the model has the placement and nothing of it is used. It reports
// whether the GPU was reconfigured for it.
func (f *fleet) take(p *pod, at placement) (reconfigured bool, err error) {
	d := &f.gpus[at.gpu]
	if p.pool != d.pool {
		return false, fmt.Errorf("%w: GPU %d is of pool %d, the pod's is %d", errUnsound, at.gpu, d.pool, p.pool)
	}
	if p.pool < 0 {
		if d.free -= f.study.mix[p.portion].MilliGPU; d.free < 0 {
			return false, fmt.Errorf("%w: GPU %d is shared to %d thousandths", errUnsound, at.gpu, gpu.WholeMilliGPU-d.free)
		}
	} else {
		profile := f.study.pools[p.pool].profiles[p.slot]
		if at.instance.Profile != profile.Name || at.instance.Size != profile.Size || !slices.Contains(profile.Starts, at.instance.Start) {
			return false, fmt.Errorf("%w: GPU %d has no placement %s for %s", errUnsound, at.gpu, at.instance, profile.Name)
		}
		if slices.ContainsFunc(d.used, at.instance.Overlaps) {
			return false, fmt.Errorf("%w: GPU %d: %s overlaps one of %v", errUnsound, at.gpu, at.instance, d.used)
		}
		if reconfigured = !slices.Contains(d.exist, at.instance); reconfigured {
			d.exist = append(slices.DeleteFunc(d.exist, at.instance.Overlaps), at.instance)
		}
		d.used = append(d.used, at.instance)
		d.state = d.state.With(at.instance)
		f.held[p.pool][p.slot]++
	}
	if d.held++; d.held == 1 {
		f.opened++
	}
	f.measure(d)
	return reconfigured, nil
}

// release takes the pod away.
func (f *fleet) release(p *pod, at placement) {
	d := &f.gpus[at.gpu]
	if p.pool < 0 {
		d.free += f.study.mix[p.portion].MilliGPU
	} else {
		i := slices.Index(d.used, at.instance)
		d.used = slices.Delete(d.used, i, i+1)
		d.state = mig.NewState(f.study.pools[p.pool].offer, d.used)
		f.held[p.pool][p.slot]--
	}
	if d.held--; d.held == 0 {
		f.opened--
	}
	f.measure(d)
}
