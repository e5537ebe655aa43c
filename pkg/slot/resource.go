package slot

import (
	"cmp"
	"fmt"
	"slices"

	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/mig"
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
//
// A GPU that can be given in several ways counts in each of them, for the kubelet knows nothing of the others: what keeps its
// counts apart is the scheduler's assignment.
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
// end first, which for intervals is the most. Of a profile that holds what the GPU has once (+me) there is one at most, unless
// the instances exist already; package mig knows which. A GPU that package mig refuses has none.
func mostAtOnce(instances []gpu.Instance) map[string]int {
	offer, err := mig.NewOffer(instances)
	if err != nil {
		return nil
	}
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
	for profile, n := range most {
		most[profile] = min(n, mig.FreePlacements(mig.NewState(offer, nil), profile))
	}
	return most
}

// States is the health of a resource's slots, by name: all of the offer, and some beyond it while containers hold more than the node
// has to give, because it had more GPUs when they started. The kubelet would fail their pods if their slots vanished.
//
// As many are healthy as the sound devices stand for. Unhealthy is what stands for a device that is not sound or is gone, so that
// the kubelet tells the pod that holds it, and then, where that is not enough, what nobody holds, the highest number first. What
// containers hold of sound devices stays healthy, even where that alone is more than the sound devices stand for.
func (b Book) States(o Offer, devices []gpu.Device, onlyShares bool) map[string]bool {
	isSound := map[gpu.ID]bool{}
	var sound []gpu.Device
	for _, d := range devices {
		if !d.Unhealthy {
			isSound[d.ID] = true
			sound = append(sound, d)
		}
	}
	want := 0
	for _, s := range Offers(sound, onlyShares) {
		if s.Resource == o.Resource {
			want = s.Count
		}
	}
	healthy := make(map[string]bool, o.Count)
	for i := range o.Count {
		healthy[o.Slot(i)] = true
	}
	held := map[string]bool{}
	for _, r := range b.Records {
		if r.Resource == o.Resource {
			for _, s := range r.Slots {
				held[s], healthy[s] = true, true
			}
		}
	}
	for _, r := range b.Records {
		if r.Resource == o.Resource {
			for _, s := range r.Slots[:r.sick(isSound)] {
				healthy[s] = false
			}
		}
	}
	have := 0
	for _, ok := range healthy {
		if ok {
			have++
		}
	}
	for i := o.Count - 1; i >= 0 && have > want; i-- {
		if s := o.Slot(i); !held[s] {
			healthy[s] = false
			have--
		}
	}
	for i := o.Count; have < want; i++ {
		if s := o.Slot(i); !held[s] {
			healthy[s] = true
			have++
		}
	}
	return healthy
}

// sick is how many of the record's slots stand for devices that are not sound. Each slot of a share stands for a part of every
// one of its GPUs.
func (r Record) sick(sound map[gpu.ID]bool) int {
	if r.Holder == nil {
		return 0
	}
	n := 0
	for _, g := range r.Holder.Grants {
		if !sound[g.GPU] {
			n++
		}
	}
	if n > 0 && r.Resource.Kind == gpu.Shared {
		return len(r.Slots)
	}
	return min(n, len(r.Slots))
}
