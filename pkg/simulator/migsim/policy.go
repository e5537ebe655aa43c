package migsim

import (
	"fmt"
	"slices"
	"strings"

	"weft.sh/weft/pkg/fit"
	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/mig"
)

// placement is where a pod goes. The instance is empty for a share.
type placement struct {
	gpu      int // index into fleet.gpus
	instance gpu.Instance
}

// policy says where pods go. One value serves one run.
type policy interface {
	// arrive chooses for pod n, of a fleet that the policy does not change; false refuses it.
	arrive(f *fleet, n int, p *pod) (placement, bool, error)
	// leave tells that pod n, which was placed, has gone.
	leave(n int)
}

// anchor names of policies; the others are strategies of Weft's plugin.
const (
	// DefaultName is Weft's plugin with its default arguments.
	DefaultName  = "default"
	firstFitName = "first-fit"
	bestFitName  = "best-fit"
	repackName   = "repack"
	weftPrefix   = "weft-"
)

// PolicyNames are the names of all policies.
func PolicyNames() []string {
	out := []string{firstFitName, bestFitName, DefaultName, repackName}
	for _, s := range fit.StrategyNames() {
		out = append(out, weftPrefix+s)
	}
	return out
}

// ParsePolicies reads a list of names; all is every policy.
func ParsePolicies(list []string) ([]string, error) {
	var out []string
	for _, name := range list {
		names := []string{strings.ToLower(strings.TrimSpace(name))}
		if names[0] == "all" {
			names = PolicyNames()
		}
		for _, name := range names {
			if !slices.Contains(PolicyNames(), name) {
				return nil, fmt.Errorf("policy %q: want all or some of %s", name, strings.Join(PolicyNames(), ", "))
			}
			if !slices.Contains(out, name) {
				out = append(out, name)
			}
		}
	}
	return out, nil
}

// newPolicy makes the policy of that name, which is one of PolicyNames; nil for repack, which places nothing.
func newPolicy(name string, s *Study) policy {
	switch name {
	case firstFitName:
		return firstFit{}
	case bestFitName:
		return bestFit{}
	case repackName:
		return nil
	case DefaultName:
		return newPlugin(s, "")
	}
	return newPlugin(s, strings.TrimPrefix(name, weftPrefix))
}

// firstFit takes the first GPU that has room, and of it the lowest start: what a driver gives that lists its GPUs and placements
// in their order.
type firstFit struct{}

func (firstFit) arrive(f *fleet, _ int, p *pod) (placement, bool, error) {
	for i := range f.gpus {
		if at, ok := f.lowest(i, p); ok {
			return at, true, nil
		}
	}
	return placement{}, false, nil
}

func (firstFit) leave(int) {}

// bestFit takes the GPU with the least left of those that have room, of equal ones the first, and of it the lowest start.
type bestFit struct{}

func (bestFit) arrive(f *fleet, _ int, p *pod) (best placement, found bool, err error) {
	least := int64(0)
	for i := range f.gpus {
		g := &f.gpus[i]
		left := g.free
		if p.pool >= 0 {
			left = int64(mig.FreeSlices(g.state))
		}
		if found && left >= least {
			continue
		}
		if at, ok := f.lowest(i, p); ok {
			best, least, found = at, left, true
		}
	}
	return best, found, nil
}

func (bestFit) leave(int) {}

// lowest is the lowest place for the pod on GPU i.
func (f *fleet) lowest(i int, p *pod) (placement, bool) {
	g := &f.gpus[i]
	if p.pool != g.pool {
		return placement{}, false
	}
	if p.pool < 0 {
		return placement{gpu: i}, g.free >= f.study.mix[p.portion].MilliGPU
	}
	profile := f.study.pools[p.pool].profiles[p.slot]
	for _, start := range profile.Starts {
		if instance := (gpu.Instance{Profile: profile.Name, Start: start, Size: profile.Size}); g.state.CanGive(instance) {
			return placement{i, instance}, true
		}
	}
	return placement{}, false
}
