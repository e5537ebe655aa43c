package slot

import (
	"fmt"
	"math/bits"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/mig"
)

var (
	start  = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	whole  = Resource{Kind: gpu.Whole}
	shares = Resource{Kind: gpu.Shared}
)

func profile(name string) Resource { return Resource{Kind: gpu.MIG, Profile: name} }

func plain(index int) gpu.Device {
	return gpu.Device{ID: gpu.ID(fmt.Sprintf("g%d", index)), Index: index, Product: "T", MemoryMiB: 1000}
}

func partitioned(index int, instances ...gpu.Instance) gpu.Device {
	d := plain(index)
	d.MIG, d.Instances = true, instances
	return d
}

func onDemand(t testing.TB, table string) []gpu.Instance {
	t.Helper()
	m, ok := mig.TableByName(table)
	if !ok {
		t.Fatalf("no table %s", table)
	}
	return m.Instances()
}

func sick(d gpu.Device) gpu.Device {
	d.Unhealthy = true
	return d
}

func wholeOnly(d gpu.Device) gpu.Device {
	d.WholeOnly = true
	return d
}

func sharedOnly(d gpu.Device) gpu.Device {
	d.SharedOnly = true
	return d
}

func TestOffers(t *testing.T) {
	for name, c := range map[string]struct {
		devices    []gpu.Device
		onlyShares bool
		want       []Offer
	}{
		"a node without GPUs offers nothing": {want: []Offer{}},
		"a GPU is offered whole, and in percent": {
			devices: []gpu.Device{plain(0), plain(1)},
			want:    []Offer{{whole, 2}, {shares, 200}},
		},
		"a GPU that is given whole only has no percent": {
			devices: []gpu.Device{wholeOnly(plain(0)), plain(1)},
			want:    []Offer{{whole, 2}, {shares, 100}},
		},
		"a GPU that is shared only is not offered whole": {
			devices: []gpu.Device{sharedOnly(plain(0)), plain(1)},
			want:    []Offer{{whole, 1}, {shares, 200}},
		},
		"whole GPUs and MIG instances can be somebody else's to give out": {
			devices:    []gpu.Device{sharedOnly(plain(0)), sharedOnly(plain(1)), partitioned(2, gpu.Instance{Profile: "1g.5gb", Size: 1})},
			onlyShares: true,
			want:       []Offer{{shares, 200}},
		},
		"somebody else's GPUs alone leave nothing": {
			devices: []gpu.Device{wholeOnly(plain(0))}, onlyShares: true, want: []Offer{},
		},
		"an unhealthy GPU still has its slots": {
			devices: []gpu.Device{sick(plain(0)), plain(1)},
			want:    []Offer{{whole, 2}, {shares, 200}},
		},
		"a GPU in MIG mode without instances offers nothing": {
			devices: []gpu.Device{partitioned(0)}, want: []Offer{},
		},
		"of what is partitioned on demand each profile counts as if it were alone, one with media extensions once": {
			devices: []gpu.Device{partitioned(0, onDemand(t, "H100-80GB")...)},
			want: []Offer{
				{profile("1g.10gb"), 7},
				{profile("1g.10gb+me"), 1},
				{profile("1g.20gb"), 4},
				{profile("2g.20gb"), 3},
				{profile("3g.40gb"), 2},
				{profile("4g.40gb"), 1},
				{profile("7g.80gb"), 1},
			},
		},
		"two GPUs have one instance with media extensions each": {
			devices: []gpu.Device{partitioned(0, onDemand(t, "A30-24GB")...), partitioned(1, onDemand(t, "A30-24GB")...)},
			want: []Offer{
				{profile("1g.6gb"), 8}, {profile("1g.6gb+me"), 2}, {profile("2g.12gb"), 4}, {profile("2g.12gb+me"), 2}, {profile("4g.24gb"), 2},
			},
		},
		"instances that exist all count, with media extensions too": {
			devices: []gpu.Device{partitioned(0,
				gpu.Instance{Profile: "1g.10gb+me", Start: 0, Size: 1}, gpu.Instance{Profile: "1g.10gb+me", Start: 1, Size: 1},
				gpu.Instance{Profile: "3g.40gb", Start: 4, Size: 4},
			)},
			want: []Offer{{profile("1g.10gb+me"), 2}, {profile("3g.40gb"), 1}},
		},
		"instances that make no sense are not offered": {
			devices: []gpu.Device{partitioned(0, gpu.Instance{Profile: "nonsense", Size: 1}), plain(1)},
			want:    []Offer{{whole, 1}, {shares, 100}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, Offers(c.devices, c.onlyShares)); diff != "" {
				t.Errorf("Offers (-want +got)\n%s", diff)
			}
			slices.Reverse(c.devices)
			if diff := cmp.Diff(c.want, Offers(c.devices, c.onlyShares)); diff != "" {
				t.Errorf("in another order (-want +got)\n%s", diff)
			}
		})
	}
}

// TestMostAtOnceIsTheLargestSet tries every set of instances.
func TestMostAtOnceIsTheLargestSet(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	for range 500 {
		var all []gpu.Instance
		for range 1 + r.IntN(8) {
			start := r.IntN(8)
			all = append(all, gpu.Instance{Profile: []string{"1g.5gb", "2g.10gb"}[r.IntN(2)], Start: start, Size: 1 + r.IntN(8-start)})
		}
		want := map[string]int{}
		for set := range 1 << len(all) {
			var taken uint64
			profiles, fits := map[string]bool{}, true
			for i, inst := range all {
				if set>>i&1 == 1 {
					fits = fits && taken&inst.Slices() == 0
					taken |= inst.Slices()
					profiles[inst.Profile] = true
				}
			}
			for p := range profiles {
				if fits && len(profiles) == 1 {
					want[p] = max(want[p], bits.OnesCount(uint(set)))
				}
			}
		}
		if diff := cmp.Diff(want, mostAtOnce(all)); diff != "" {
			t.Fatalf("%v (-want +got)\n%s", all, diff)
		}
	}
}

// holding is a record of slots that a container of the pod holds by the grants.
func holding(name, pod string, r Resource, slots []string, grants ...gpu.Grant) Record {
	slices.Sort(slots)
	a := gpu.Assignment{Containers: []gpu.ContainerGrants{{Container: "main", Grants: grants}}}
	return Record{Name: name, Resource: r, Slots: slots, Allocated: start, Holder: &Holder{
		Namespace: "ns", Pod: pod, UID: "uid-" + pod, Container: "main", Grants: grants, Assignment: a.String(), Bound: start,
	}}
}

func slotsOf(r Resource, from, to int) []string {
	var out []string
	for i := from; i <= to; i++ {
		out = append(out, r.Slot(i))
	}
	return out
}

func TestStates(t *testing.T) {
	onG := func(i int) gpu.Grant { return gpu.Grant{GPU: gpu.ID(fmt.Sprintf("g%d", i))} }
	share := func(i int, percent int64) gpu.Grant {
		return gpu.Grant{GPU: gpu.ID(fmt.Sprintf("g%d", i)), MilliGPU: percent * 10, MemoryMiB: percent}
	}
	for name, c := range map[string]struct {
		book       Book
		offer      Offer
		devices    []gpu.Device
		onlyShares bool
		// unhealthy are the slots that are; all others that want says are healthy.
		unhealthy []string
		// more are the slots beyond the offer.
		more []string
	}{
		"sound GPUs have healthy slots": {
			offer: Offer{whole, 2}, devices: []gpu.Device{plain(0), plain(1)},
		},
		"for an unhealthy GPU that nobody holds the last slot is unhealthy": {
			offer: Offer{whole, 3}, devices: []gpu.Device{sick(plain(0)), plain(1), plain(2)}, unhealthy: []string{"gpu-2"},
		},
		"all GPUs unhealthy, all slots unhealthy": {
			offer: Offer{whole, 2}, devices: []gpu.Device{sick(plain(0)), sick(plain(1))}, unhealthy: []string{"gpu-0", "gpu-1"},
		},
		"the slot of the container that holds the GPU is unhealthy, not another": {
			book:  Book{[]Record{holding("a", "one", whole, slotsOf(whole, 0, 0), onG(2)), holding("b", "two", whole, slotsOf(whole, 2, 2), onG(0))}},
			offer: Offer{whole, 3}, devices: []gpu.Device{plain(0), plain(1), sick(plain(2))}, unhealthy: []string{"gpu-0"},
		},
		"a container that holds four GPUs has one slot unhealthy for one of them, and the next container its own": {
			book: Book{[]Record{
				holding("a", "one", whole, slotsOf(whole, 0, 3), onG(0), onG(1), onG(2), onG(3)), holding("b", "two", whole, slotsOf(whole, 4, 4), onG(4)),
			}},
			offer: Offer{whole, 5}, devices: []gpu.Device{plain(0), sick(plain(1)), plain(2), plain(3), sick(plain(4))},
			unhealthy: []string{"gpu-0", "gpu-4"},
		},
		"a slot that a container holds of a sound GPU stays healthy, free ones go first": {
			book:  Book{[]Record{holding("a", "one", whole, slotsOf(whole, 2, 2), onG(0))}},
			offer: Offer{whole, 3}, devices: []gpu.Device{plain(0), sick(plain(1)), plain(2)}, unhealthy: []string{"gpu-1"},
		},
		"slots that were allocated and not started yet stay healthy": {
			book:  Book{[]Record{{Name: "a", Resource: whole, Slots: []string{"gpu-1"}}}},
			offer: Offer{whole, 2}, devices: []gpu.Device{plain(0), sick(plain(1))}, unhealthy: []string{"gpu-0"},
		},
		"no free slot is left to be unhealthy: what is held of sound GPUs stays": {
			book: Book{[]Record{
				holding("a", "one", whole, slotsOf(whole, 0, 0), onG(0)), holding("b", "two", whole, slotsOf(whole, 1, 1), onG(1)),
				{Name: "c", Resource: whole, Slots: []string{"gpu-2"}},
			}},
			offer: Offer{whole, 3}, devices: []gpu.Device{plain(0), plain(1), sick(plain(2))},
		},
		"what is shared of an unhealthy GPU is unhealthy, the rest of its hundred is free slots": {
			book: Book{[]Record{
				holding("a", "one", shares, slotsOf(shares, 0, 29), share(0, 30)), holding("b", "two", shares, slotsOf(shares, 50, 89), share(1, 40)),
			}},
			offer: Offer{shares, 200}, devices: []gpu.Device{sick(plain(0)), plain(1)},
			unhealthy: slices.Concat(slotsOf(shares, 0, 29), slotsOf(shares, 130, 199)),
		},
		"a share of two GPUs is unhealthy with one of them": {
			book:  Book{[]Record{holding("a", "one", shares, slotsOf(shares, 0, 9), share(0, 10), share(1, 10))}},
			offer: Offer{shares, 200}, devices: []gpu.Device{plain(0), sick(plain(1))},
			unhealthy: slices.Concat(slotsOf(shares, 0, 9), slotsOf(shares, 110, 199)),
		},
		"a MIG instance goes with its GPU, and each profile for itself": {
			book: Book{[]Record{
				holding("a", "one", profile("1g.6gb"), []string{"1g.6gb-5"}, gpu.Grant{GPU: "g0", Instance: &gpu.Instance{Profile: "1g.6gb", Start: 2, Size: 1}}),
				holding("b", "two", profile("2g.12gb"), []string{"2g.12gb-0"}, gpu.Grant{GPU: "g0", Instance: &gpu.Instance{Profile: "2g.12gb", Start: 0, Size: 2}}),
			}},
			offer: Offer{profile("1g.6gb"), 8}, devices: []gpu.Device{sick(partitioned(0, onDemand(t, "A30-24GB")...)), partitioned(1, onDemand(t, "A30-24GB")...)},
			unhealthy: []string{"1g.6gb-4", "1g.6gb-5", "1g.6gb-6", "1g.6gb-7"},
		},
		"the container that holds a GPU which vanished is told, and another slot stands for the GPU that is free": {
			book:  Book{[]Record{holding("a", "one", whole, slotsOf(whole, 0, 0), onG(2)), holding("b", "two", whole, slotsOf(whole, 1, 1), onG(0))}},
			offer: Offer{whole, 2}, devices: []gpu.Device{plain(0), plain(1)}, unhealthy: []string{"gpu-0"}, more: []string{"gpu-2"},
		},
		"a slot beyond the offer stays while a container holds it, in place of a free one": {
			book:  Book{[]Record{holding("a", "one", whole, slotsOf(whole, 2, 2), onG(0))}},
			offer: Offer{whole, 2}, devices: []gpu.Device{plain(0), plain(1)}, unhealthy: []string{"gpu-1"}, more: []string{"gpu-2"},
		},
		"a slot beyond the offer is the unhealthy one when its GPU is what vanished": {
			book:  Book{[]Record{holding("a", "one", whole, slotsOf(whole, 2, 2), onG(2))}},
			offer: Offer{whole, 2}, devices: []gpu.Device{plain(0), plain(1)}, unhealthy: []string{"gpu-2"}, more: []string{"gpu-2"},
		},
		"GPUs that are shared only have no whole slot to lose": {
			offer: Offer{whole, 1}, devices: []gpu.Device{sick(sharedOnly(plain(0))), plain(1)},
		},
		"with somebody else giving out whole GPUs, shares lose their hundred all the same": {
			offer: Offer{shares, 200}, devices: []gpu.Device{sick(sharedOnly(plain(0))), sharedOnly(plain(1))}, onlyShares: true,
			unhealthy: slotsOf(shares, 100, 199),
		},
	} {
		t.Run(name, func(t *testing.T) {
			want := map[string]bool{}
			for i := range c.offer.Count {
				want[c.offer.Slot(i)] = true
			}
			for _, s := range c.more {
				want[s] = true
			}
			for _, s := range c.unhealthy {
				want[s] = false
			}
			if diff := cmp.Diff(want, c.book.States(c.offer, c.devices, c.onlyShares)); diff != "" {
				t.Errorf("States (-want +got)\n%s", diff)
			}
		})
	}
}

func TestSlotNamesSayTheirResource(t *testing.T) {
	for want, got := range map[string]string{
		"gpu-0":        whole.Slot(0),
		"share-799":    shares.Slot(799),
		"1g.10gb-3":    profile("1g.10gb").Slot(3),
		"1g.10gb+me-0": profile("1g.10gb+me").Slot(0),
	} {
		if got != want {
			t.Errorf("slot %q, want %q", got, want)
		}
	}
}
