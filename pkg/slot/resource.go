package slot

import (
	"cmp"
	"fmt"
	"slices"

	"weft.sh/weft/pkg/gpu"
)

// SharesPerGPU is how many slots stand for one shared GPU: the kubelet counts weft.sh/gpu-percent.
const SharesPerGPU = 100

// Resource is one thing that the kubelet counts. Comparable.
type Resource struct {
	Kind gpu.Kind `json:"kind"`
	// Profile is the MIG profile, for MIG; empty otherwise.
	Profile string `json:"profile,omitempty"`
}

// String is the resource as it begins the names of its slots: "gpu", "share" or the profile.
func (r Resource) String() string {
	switch r.Kind {
	case gpu.Whole:
		return "gpu"
	case gpu.Shared:
		return "share"
	default:
		return r.Profile
	}
}

// Slot is the name of slot i, 0 or more.
func (r Resource) Slot(i int) string { return fmt.Sprintf("%s-%d", r, i) }

// Offer is how many slots of a resource a node has. Their names are Slot(0) to Slot(Count-1).
type Offer struct {
	Resource
	Count int
}

// Offers is what a node with the devices gives out, by kind and profile: a slot for every GPU that can be given whole, 100 for
// every GPU that can be shared, and for each MIG profile as many as can exist at once. Unhealthy GPUs count, for their slots
// exist and are unhealthy. With onlyShares, whole GPUs and MIG instances are somebody else's to give out.
func Offers(devices []gpu.Device, onlyShares bool) []Offer {
	counts := map[Resource]int{}
	for _, d := range devices {
		if d.MIG {
			if !onlyShares {
				for profile, n := range mostAtOnce(d.Instances) {
					counts[Resource{gpu.MIG, profile}] += n
				}
			}
			continue
		}
		if !d.SharedOnly && !onlyShares {
			counts[Resource{Kind: gpu.Whole}]++
		}
		if !d.WholeOnly {
			counts[Resource{Kind: gpu.Shared}] += SharesPerGPU
		}
	}
	out := make([]Offer, 0, len(counts))
	for r, n := range counts {
		out = append(out, Offer{r, n})
	}
	slices.SortFunc(out, func(a, b Offer) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Profile, b.Profile))
	})
	return out
}

// mostAtOnce is, by profile, how many of the instances can exist beside each other when the GPU has no others: the earliest
// end first, which for intervals is the most.
func mostAtOnce(instances []gpu.Instance) map[string]int {
	byEnd := slices.SortedFunc(slices.Values(instances), func(a, b gpu.Instance) int {
		return cmp.Compare(a.Start+a.Size, b.Start+b.Size)
	})
	most, end := map[string]int{}, map[string]int{}
	for _, i := range byEnd {
		if i.Start >= end[i.Profile] {
			most[i.Profile]++
			end[i.Profile] = i.Start + i.Size
		}
	}
	return most
}

// States is the health of the offer's slots, by name. As many are unhealthy as the unhealthy devices stand for: first those that
// hold a device that is, so that the kubelet tells the pod, then those that nobody holds, the highest number first.
func (b Book) States(o Offer, devices []gpu.Device, onlyShares bool) map[string]bool {
	bad := map[gpu.ID]bool{}
	var sound []gpu.Device
	for _, d := range devices {
		if d.Unhealthy {
			bad[d.ID] = true
		} else {
			sound = append(sound, d)
		}
	}
	unhealthy := o.Count
	for _, s := range Offers(sound, onlyShares) {
		if s.Resource == o.Resource {
			unhealthy = o.Count - s.Count
		}
	}
	healthy := make(map[string]bool, o.Count)
	for i := range o.Count {
		healthy[o.Slot(i)] = true
	}
	held := map[string]bool{}
	for _, r := range b.Records {
		if r.Resource != o.Resource {
			continue
		}
		sick := r.Holder != nil && slices.ContainsFunc(r.Holder.Grants, func(g gpu.Grant) bool { return bad[g.GPU] })
		for _, s := range r.Slots {
			held[s] = true
			if sick && unhealthy > 0 && healthy[s] {
				healthy[s] = false
				unhealthy--
			}
		}
	}
	for i := o.Count - 1; i >= 0 && unhealthy > 0; i-- {
		if s := o.Slot(i); !held[s] {
			healthy[s] = false
			unhealthy--
		}
	}
	// Slots that are held by containers on sound GPUs stay healthy, although fewer are left than the sound GPUs stand for.
	return healthy
}
