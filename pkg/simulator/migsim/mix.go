package migsim

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/mig"
	"weft.sh/weft/pkg/trace"
)

// ErrBadStudy is wrapped by every error about a study that cannot be made.
var ErrBadStudy = errors.New("bad study")

// Portion is one size of a mix.
type Portion struct {
	// MilliGPU is the share that is asked for, 1 to 1000.
	MilliGPU int64
	// Weight is how often, at least 1.
	Weight int64
}

// Mix is what pods ask for, by share.
type Mix []Portion

// BuiltIn is the mix where no list is given: 40 % 1g, 20 % 2g, 20 % 3g, 10 % 4g and 10 % 7g, and shares that come to those profiles.
// It is made up: small requests are the most frequent, as where inference shares GPUs with some training.
var BuiltIn = Mix{{100, 40}, {250, 20}, {400, 20}, {550, 10}, {900, 10}}

// MixOf is the mix of the pods of a list that ask for a part of one GPU.
func MixOf(name string, pods []trace.Pod) (Mix, error) {
	counts := map[int64]int64{}
	for _, p := range pods {
		if p.GPUs == 1 && p.MilliGPU < gpu.WholeMilliGPU {
			counts[p.MilliGPU]++
		}
	}
	var m Mix
	for milli, n := range counts {
		m = append(m, Portion{milli, n})
	}
	slices.SortFunc(m, func(a, b Portion) int { return cmp.Compare(a.MilliGPU, b.MilliGPU) })
	if len(m) == 0 {
		return nil, fmt.Errorf("%w: none of the %d pods of %s asks for a part of one GPU", ErrBadStudy, len(pods), name)
	}
	return m, nil
}

// slots are the profiles of the protocol, by their compute slices.
var slots = [...]int{1, 2, 3, 4, 7}

// counts is a number for each of the slots.
type counts [len(slots)]int

const sevenths = 7

// slotOf is the smallest profile that has as many sevenths of a GPU as the share, both rounded to 143 thousandths.
func slotOf(milliGPU int64) int {
	const seventh = 143
	n := int(milliGPU+seventh-1) / seventh
	return slices.IndexFunc(slots[:], func(slices int) bool { return slices >= n })
}

// pick is the index of the portion that number n of the mix's total weight falls to.
func (m Mix) pick(n int64) int {
	for i, p := range m {
		if n -= p.Weight; n < 0 {
			return i
		}
	}
	return len(m) - 1
}

func (m Mix) weight() (sum int64) {
	for _, p := range m {
		sum += p.Weight
	}
	return sum
}

// pool is the GPUs in MIG mode of models that have the same profiles.
type pool struct {
	table    mig.Table // of one of them
	products []string  // of all of them, sorted
	profiles [len(slots)]mig.Profile
	offer    *mig.Offer
	gpus     int
	packing  packing
}

// newPool is a pool of a table's model, without GPUs.
func newPool(t mig.Table) (*pool, error) {
	p := &pool{table: t, products: t.Products[:1]}
	if t.ComputeSlices != sevenths {
		return nil, fmt.Errorf("%w: model %s has %d compute slices: want one with %d", ErrBadStudy, t.Name, t.ComputeSlices, sevenths)
	}
	for i, n := range slots {
		at := slices.IndexFunc(t.Profiles, func(p mig.Profile) bool { return p.ComputeSlices == n && p.Size >= n && !strings.Contains(p.Name, "+") })
		if at < 0 {
			return nil, fmt.Errorf("%w: model %s has no profile of %d compute slices", ErrBadStudy, t.Name, n)
		}
		p.profiles[i] = t.Profiles[at]
	}
	var err error
	if p.offer, err = mig.NewOffer(t.Instances()); err != nil {
		return nil, fmt.Errorf("%w: model %s: %w", ErrBadStudy, t.Name, err)
	}
	return p, nil
}

// Models are the names of the models that there can be, as [mig.TableByName] has them.
func Models() []string {
	var out []string
	for _, t := range mig.Tables() {
		if t.ComputeSlices == sevenths {
			out = append(out, t.Name)
		}
	}
	return out
}
