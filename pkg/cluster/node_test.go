package cluster

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/mig"
)

func parse(t *testing.T, text string) gpu.Assignment {
	t.Helper()
	a, err := gpu.ParseAssignment(text)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// holds is a pod, named as its UID, with the assignment.
func holds(t *testing.T, uid, text string) Pod {
	t.Helper()
	return NewPod(uid, "ns/"+uid, parse(t, text))
}

func wants(uid string, c ...gpu.ContainerRequest) Pod {
	return NewUnplacedPod(uid, "ns/"+uid, gpu.Request{Containers: c})
}

func plain(index int, mib int64) gpu.Device {
	return gpu.Device{ID: gpu.ID(fmt.Sprintf("g%d", index)), Index: index, Product: "T", MemoryMiB: mib}
}

// wholeOnly and sharedOnly are GPUs of a node that leaves whole GPUs to somebody else.
func wholeOnly(index int) gpu.Device {
	d := plain(index, 100)
	d.WholeOnly = true
	return d
}

func sharedOnly(index int) gpu.Device {
	d := plain(index, 100)
	d.SharedOnly = true
	return d
}

// partitioned is a GPU in MIG mode that can be divided like an A30, on demand.
func partitioned(index int) gpu.Device {
	table, _ := mig.TableByName("A30-24GB")
	d := plain(index, 24576)
	d.MIG, d.Instances = true, table.Instances()
	return d
}

func inventory(devices ...gpu.Device) Inventory { return NewInventory(SourceSlices, devices) }

func TestNewInventoryLeavesOutWhatItCannotUse(t *testing.T) {
	tooMany := partitioned(0)
	tooMany.Instances = nil
	for start := range gpu.MaxMemorySlices {
		tooMany.Instances = append(tooMany.Instances, gpu.Instance{Profile: "1g.5gb", Start: start, Size: 1})
	}
	tooMany.Instances = append(tooMany.Instances, gpu.Instance{Profile: "2g.5gb", Start: 0, Size: 2})
	named := func(id gpu.ID, index int) gpu.Device { return gpu.Device{ID: id, Index: index, MemoryMiB: 10} }
	tests := map[string]struct {
		devices  []gpu.Device
		problems []string
		want     []gpu.ID
		found    []string
	}{
		"nothing":                     {nil, nil, nil, nil},
		"in the order of the indices": {[]gpu.Device{plain(10, 1), plain(2, 1), plain(0, 1)}, nil, []gpu.ID{"g0", "g2", "g10"}, nil},
		"an id that is there already": {
			[]gpu.Device{named("a", 1), named("a", 0)},
			nil,
			[]gpu.ID{"a"},
			[]string{`device "a": a GPU of this id is there already`},
		},
		"an index that is there already": {
			[]gpu.Device{named("b", 0), named("a", 0), named("c", 1)},
			nil,
			[]gpu.ID{"a", "c"},
			[]string{`device "b": a GPU of index 0 is there already`},
		},
		"a device that is not valid": {
			[]gpu.Device{plain(1, 1), plain(0, 0)},
			nil,
			[]gpu.ID{"g1"},
			[]string{`device "g0": memory 0 MiB: want 1 to 1073741824`},
		},
		"an invalid one does not take the id or the index of a sound one": {
			[]gpu.Device{{ID: "a", Index: 0}, named("a", 0)},
			nil,
			[]gpu.ID{"a"},
			[]string{`device "a": memory 0 MiB: want 1 to 1073741824`},
		},
		"too many MIG placements": {
			[]gpu.Device{tooMany, plain(1, 1)},
			nil,
			[]gpu.ID{"g1"},
			[]string{`device "g0": 65 MIG placements on one GPU: at most 64 are supported`},
		},
		"problems that were there already, sorted with those found": {
			[]gpu.Device{plain(0, 0)},
			[]string{"z", "a"},
			nil,
			[]string{"a", `device "g0": memory 0 MiB: want 1 to 1073741824`, "z"},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			inv := NewInventory(SourceSlices, tc.devices, tc.problems...)
			var got []gpu.ID
			for _, d := range inv.Devices {
				got = append(got, d.ID)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("devices (-want +got)\n%s", diff)
			}
			if diff := cmp.Diff(tc.found, inv.Problems); diff != "" {
				t.Errorf("problems (-want +got)\n%s", diff)
			}
		})
	}
}

func TestInventoryEqualSeesEveryField(t *testing.T) {
	base := func() Inventory { return NewInventory(SourceSlices, []gpu.Device{plain(0, 10), partitioned(1)}, "p") }
	if !base().Equal(base()) {
		t.Error("not equal to itself made again")
	}
	for name, change := range map[string]func(d *gpu.Device){
		"id":        func(d *gpu.Device) { d.ID = "other" },
		"index":     func(d *gpu.Device) { d.Index = 7 },
		"product":   func(d *gpu.Device) { d.Product = "other" },
		"memory":    func(d *gpu.Device) { d.MemoryMiB++ },
		"unhealthy": func(d *gpu.Device) { d.Unhealthy = true },
		"wholeOnly": func(d *gpu.Device) { d.WholeOnly = true },
		"isolation": func(d *gpu.Device) { d.Isolation = gpu.IsolationMPS },
		"hardware":  func(d *gpu.Device) { d.Hardware = &gpu.Hardware{NUMANode: 1} },
		"reason":    func(d *gpu.Device) { d.UnhealthyReason = "Xid 79" },
		"mode":      func(d *gpu.Device) { d.MIG, d.Instances = false, nil },
		"instances": func(d *gpu.Device) { d.Instances = d.Instances[1:] },
	} {
		devices := base().Devices
		change(&devices[1])
		if other := NewInventory(SourceSlices, devices, "p"); other.Equal(base()) || base().Equal(other) {
			t.Errorf("equal with another %s", name)
		}
	}
	for name, other := range map[string]Inventory{
		"source":   NewInventory(SourceLabels, base().Devices, "p"),
		"problem":  NewInventory(SourceSlices, base().Devices, "q"),
		"problems": NewInventory(SourceSlices, base().Devices),
		"devices":  NewInventory(SourceSlices, base().Devices[:1], "p"),
	} {
		if other.Equal(base()) || base().Equal(other) {
			t.Errorf("equal with another %s", name)
		}
	}
}

func TestWhatIsLeft(t *testing.T) {
	type left struct {
		Idle       bool
		Milli, MiB int64
	}
	tests := map[string]struct {
		device gpu.Device
		pods   []string
		want   left
		idle   int
	}{
		"all of an idle GPU":                   {plain(0, 100), nil, left{true, 1000, 100}, 1},
		"what shares leave":                    {plain(0, 100), []string{"c=g0:250m/30Mi", "c=g0:100m/10Mi"}, left{false, 650, 60}, 0},
		"nothing beside a whole":               {plain(0, 100), []string{"c=g0"}, left{}, 0},
		"nothing of one that is not healthy":   {gpu.Device{ID: "g0", MemoryMiB: 100, Unhealthy: true}, nil, left{Idle: true}, 0},
		"all of one that is given whole only":  {wholeOnly(0), nil, left{true, 1000, 100}, 1},
		"all of one that is shared only":       {sharedOnly(0), nil, left{true, 1000, 100}, 0},
		"what shares leave of that":            {sharedOnly(0), []string{"c=g0:250m/30Mi"}, left{false, 750, 70}, 0},
		"nothing of that, if it is held whole": {sharedOnly(0), []string{"c=g0"}, left{}, 0},
		"no share of a GPU in MIG mode":        {partitioned(0), nil, left{Idle: true}, 0},
		"nothing of one that is given twice":   {plain(0, 100), []string{"c=g0:600m/60Mi", "c=g0:600m/60Mi"}, left{}, 0},
		"nothing of one whole and shared":      {plain(0, 100), []string{"c=g0:600m/60Mi", "c=g0"}, left{}, 0},
		"nothing beside somebody's instances":  {plain(0, 100), []string{"c=g0:1g.6gb@0:1"}, left{}, 0},
		"all, whatever is held of other GPUs":  {plain(0, 100), []string{"c=g7,g8:1m/1Mi"}, left{true, 1000, 100}, 1},
		"what remains after an init container": {plain(0, 100), []string{"~i=g0:250m/80Mi;c=g0:500m/10Mi"}, left{false, 500, 20}, 0},
		"no memory when that is overbooked":    {plain(0, 100), []string{"c=g0:250m/101Mi"}, left{false, 750, 0}, 0},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			var pods []Pod
			for i, text := range tc.pods {
				pods = append(pods, holds(t, fmt.Sprint(i), text))
			}
			n := NewNode("n", inventory(tc.device), pods)
			g := n.GPUs[0]
			if diff := cmp.Diff(tc.want, left{g.Idle, g.FreeMilliGPU, g.FreeMemoryMiB}); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
			if n.IdleGPUs != tc.idle {
				t.Errorf("%d idle GPUs, want %d", n.IdleGPUs, tc.idle)
			}
			if want := g.Available(); want != (tc.idle == 1) {
				t.Errorf("available: %t", want)
			}
		})
	}
}

func TestInstancesThatCanStillBeMade(t *testing.T) {
	tests := map[string]struct {
		pods  []string
		want  map[string]int // free placements by profile
		milli int64
	}{
		"all of an idle GPU":             {nil, map[string]int{"1g.6gb": 4, "2g.12gb": 2, "4g.24gb": 1}, 0},
		"what instances leave":           {[]string{"c=g0:1g.6gb@0:1"}, map[string]int{"1g.6gb": 3, "2g.12gb": 1, "4g.24gb": 0}, 250},
		"both of one pod":                {[]string{"c=g0:1g.6gb@0:1,g0:2g.12gb@2:2"}, map[string]int{"1g.6gb": 1}, 750},
		"an instance of older geometry":  {[]string{"c=g0:3g.18gb@1:3"}, map[string]int{"1g.6gb": 1, "2g.12gb": 0}, 750},
		"nothing, when it is held whole": {[]string{"c=g0"}, map[string]int{"1g.6gb": 0, "4g.24gb": 0}, 1000},
		"nothing, when it is shared":     {[]string{"c=g0:10m/1Mi"}, map[string]int{"1g.6gb": 0, "4g.24gb": 0}, 1000},
		"an init container's and a later one's, which overlap": {
			[]string{"~i=g0:2g.12gb@0:2;c=g0:1g.6gb@0:1"}, map[string]int{"1g.6gb": 2, "2g.12gb": 1}, 500,
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			var pods []Pod
			for i, text := range tc.pods {
				pods = append(pods, holds(t, fmt.Sprint(i), text))
			}
			n := NewNode("n", inventory(partitioned(0)), pods)
			got := map[string]int{}
			for profile := range tc.want {
				got[profile] = mig.FreePlacements(n.GPUs[0].Partition, profile)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
			if got := n.AssignedMilliGPU(0); got != tc.milli {
				t.Errorf("assigned %d milli-GPU, want %d", got, tc.milli)
			}
			if got := n.AssignedMemoryMiB(0); got != 0 && tc.milli < 1000 {
				t.Errorf("assigned %d MiB of shares", got)
			}
			if !n.HasMIG {
				t.Error("no GPU is in MIG mode")
			}
		})
	}
}

func TestAssigned(t *testing.T) {
	tests := map[string]struct {
		pods       []string
		milli, mib int64
	}{
		"nothing":                   {nil, 0, 0},
		"shares":                    {[]string{"c=g0:250m/30Mi", "c=g0:100m/10Mi,g1"}, 350, 40},
		"whole":                     {[]string{"c=g0"}, 1000, 100},
		"whole after it was shared": {[]string{"~i=g0:250m/30Mi;c=g0"}, 1000, 100},
		"whole before it is shared": {[]string{"~i=g0;c=g0:250m/30Mi"}, 1000, 100},
		"more than there is":        {[]string{"c=g0", "c=g0:100m/10Mi"}, 1100, 110},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			n := NewNode("n", inventory(plain(0, 100), plain(1, 100)), nil)
			for i, text := range tc.pods {
				n = n.With(holds(t, fmt.Sprint(i), text))
			}
			if milli, mib := n.AssignedMilliGPU(0), n.AssignedMemoryMiB(0); milli != tc.milli || mib != tc.mib {
				t.Errorf("got %d milli-GPU and %d MiB, want %d and %d", milli, mib, tc.milli, tc.mib)
			}
		})
	}
}

func TestAssignedOfAGPUThatOffersNothing(t *testing.T) {
	d := partitioned(0)
	d.Instances = nil
	n := NewNode("n", inventory(d), nil)
	if got := n.AssignedMilliGPU(0); got != 0 {
		t.Errorf("got %d", got)
	}
}

func TestWithheld(t *testing.T) {
	whole := func(count int) gpu.Ask { return gpu.Ask{Kind: gpu.Whole, Count: count} }
	share := func(count int) gpu.Ask { return gpu.Ask{Kind: gpu.Shared, Count: count, MilliGPU: 10} }
	instances := func(count int, profile string) gpu.Ask { return gpu.Ask{Kind: gpu.MIG, Count: count, Profile: profile} }
	c := func(name string, asks ...gpu.Ask) gpu.ContainerRequest {
		return gpu.ContainerRequest{Name: name, Asks: asks}
	}
	setup := func(name string, asks ...gpu.Ask) gpu.ContainerRequest {
		return gpu.ContainerRequest{Name: name, Init: true, Asks: asks}
	}
	tests := map[string]struct {
		pods []Pod
		want Withheld
	}{
		"nothing":                         {nil, Withheld{}},
		"nothing for a pod that is known": {[]Pod{holds(t, "a", "c=g0")}, Withheld{}},
		"whole GPUs":                      {[]Pod{wants("a", c("c", whole(2)))}, Withheld{GPUs: 2}},
		"a GPU for every share":           {[]Pod{wants("a", c("c", share(2)), c("d", share(1)))}, Withheld{GPUs: 3}},
		"for all pods":                    {[]Pod{wants("a", c("c", whole(2))), wants("b", c("c", share(1)))}, Withheld{GPUs: 3}},
		"instances, sorted": {
			[]Pod{wants("a", c("c", instances(1, "2g.12gb"), instances(2, "1g.6gb"))), wants("b", c("c", instances(1, "1g.6gb")))},
			Withheld{Profiles: []string{"1g.6gb", "1g.6gb", "1g.6gb", "2g.12gb"}},
		},
		"whole GPUs and instances": {
			[]Pod{wants("a", c("c", whole(1), instances(1, "1g.6gb")))}, Withheld{GPUs: 1, Profiles: []string{"1g.6gb"}},
		},
		"no more for an init container that holds what runs later": {
			[]Pod{wants("a", setup("i", whole(1), instances(2, "1g.6gb")), c("c", whole(2), instances(1, "1g.6gb")))},
			Withheld{GPUs: 2, Profiles: []string{"1g.6gb", "1g.6gb"}},
		},
		"an init container beside the sidecar before it": {
			[]Pod{wants("a", c("s", whole(1)), setup("i", whole(2)), setup("j", whole(1), share(1)), c("c", whole(1)))},
			Withheld{GPUs: 3},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			n := NewNode("n", inventory(plain(0, 100)), tc.pods)
			if diff := cmp.Diff(tc.want, n.Withheld); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
			if len(tc.pods) > 0 && !n.Used() {
				t.Error("not in use")
			}
		})
	}
}

func TestConflictsNamesEachKind(t *testing.T) {
	tests := map[string]struct {
		device gpu.Device
		pods   []string
		want   []string
	}{
		"nothing is held":                    {plain(0, 100), nil, nil},
		"all of a GPU in shares":             {plain(0, 100), []string{"c=g0:500m/50Mi", "c=g0:500m/50Mi"}, nil},
		"whole":                              {plain(0, 100), []string{"c=g0"}, nil},
		"whole, after it was shared":         {plain(0, 100), []string{"~i=g0:500m/50Mi;c=g0"}, nil},
		"instances side by side":             {partitioned(0), []string{"c=g0:1g.6gb@0:1", "c=g0:2g.12gb@2:2"}, nil},
		"instances of one pod, one by one":   {partitioned(0), []string{"~i=g0:2g.12gb@0:2;c=g0:1g.6gb@0:1"}, nil},
		"a GPU that vanished, given twice":   {plain(0, 100), []string{"c=g1", "c=g1"}, nil},
		"a GPU that is not healthy, held":    {gpu.Device{ID: "g0", MemoryMiB: 100, Unhealthy: true}, []string{"c=g0"}, nil},
		"whole for two":                      {plain(0, 100), []string{"c=g0", "c=g0"}, []string{"n/g0 is held whole beside others by [ns/0 ns/1]"}},
		"whole beside a share":               {plain(0, 100), []string{"c=g0:1m/1Mi", "c=g0"}, []string{"n/g0 is held whole beside others by [ns/0 ns/1]"}},
		"whole beside an instance":           {partitioned(0), []string{"c=g0:1g.6gb@0:1", "c=g0"}, []string{"n/g0 is held whole beside others by [ns/0 ns/1]"}},
		"over 100 percent":                   {plain(0, 100), []string{"c=g0:600m/1Mi", "c=g0:401m/1Mi"}, []string{"n/g0 is shared to 100.1% by [ns/0 ns/1]"}},
		"more memory than it has":            {plain(0, 100), []string{"c=g0:1m/50Mi", "c=g0:1m/51Mi"}, []string{"n/g0 has 101 MiB given of 100 by [ns/0 ns/1]"}},
		"more memory than it has, to one":    {plain(0, 100), []string{"c=g0:1m/101Mi"}, []string{"n/g0 has 101 MiB given of 100 by [ns/0]"}},
		"the same instance twice":            {partitioned(0), []string{"c=g0:1g.6gb@0:1", "c=g0:1g.6gb@0:1"}, []string{"n/g0 has overlapping MIG instances by [ns/0 ns/1]"}},
		"instances that overlap":             {partitioned(0), []string{"c=g0:2g.12gb@0:2", "c=g0:1g.6gb@1:1"}, []string{"n/g0 has overlapping MIG instances by [ns/0 ns/1]"}},
		"three of which two overlap":         {partitioned(0), []string{"c=g0:2g.12gb@0:2", "c=g0:1g.6gb@2:1", "c=g0:1g.6gb@0:1"}, []string{"n/g0 has overlapping MIG instances by [ns/0 ns/1 ns/2]"}},
		"partitioned and shared":             {partitioned(0), []string{"c=g0:1g.6gb@0:1", "c=g0:1m/1Mi"}, []string{"n/g0 is partitioned and shared at once by [ns/0 ns/1]"}},
		"whole though in MIG mode":           {partitioned(0), []string{"c=g0"}, []string{"n/g0 is in MIG mode but held whole or shared by [ns/0]"}},
		"shared though in MIG mode":          {partitioned(0), []string{"c=g0:1m/1Mi"}, []string{"n/g0 is in MIG mode but held whole or shared by [ns/0]"}},
		"partitioned though not in MIG mode": {plain(0, 100), []string{"c=g0:1g.6gb@0:1"}, []string{"n/g0 is not in MIG mode but partitioned by [ns/0]"}},
		"all of a GPU that is shared only":   {sharedOnly(0), []string{"c=g0:1000m/100Mi"}, nil},
		"whole though shared only":           {sharedOnly(0), []string{"c=g0"}, []string{"n/g0 is given in shares only but held whole by [ns/0]"}},
		"a GPU that is given whole only":     {wholeOnly(0), []string{"c=g0"}, nil},
		"shared though whole only":           {wholeOnly(0), []string{"c=g0:1m/1Mi"}, []string{"n/g0 is given whole only but shared by [ns/0]"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			n := NewNode("n", inventory(tc.device), nil)
			for i, text := range tc.pods {
				n = n.With(holds(t, fmt.Sprint(i), text))
			}
			if diff := cmp.Diff(tc.want, n.Conflicts()); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
}

func TestConflictsAreByGPU(t *testing.T) {
	n := NewNode("n", inventory(plain(0, 100), plain(1, 100), plain(2, 100)), nil)
	n = n.With(holds(t, "a", "c=g0,g2")).With(holds(t, "b", "c=g2,g0,g1"))
	want := []string{"n/g0 is held whole beside others by [ns/a ns/b]", "n/g2 is held whole beside others by [ns/a ns/b]"}
	if diff := cmp.Diff(want, n.Conflicts()); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

func TestCanGive(t *testing.T) {
	sick := plain(2, 100)
	sick.Unhealthy = true
	fixed := partitioned(4)
	fixed.Instances = []gpu.Instance{{Profile: "2g.12gb", Start: 0, Size: 2}}
	inv := inventory(plain(0, 100), plain(1, 100), sick, partitioned(3), fixed, sharedOnly(5), wholeOnly(6))
	tests := map[string]struct {
		there string // held by others
		text  string
		want  string
	}{
		"an idle GPU":                             {"", "c=g0", "<nil>"},
		"what is left of one":                     {"c=g0:400m/40Mi", "c=g0:600m/60Mi", "<nil>"},
		"more than is left":                       {"c=g0:400m/40Mi", "c=g0:601m/60Mi", "n/g0 is shared to 100.1% by [ns/pod ns/there]"},
		"a GPU that is not there":                 {"", "c=g9", "node n has no healthy GPU g9"},
		"a GPU that is not healthy":               {"", "c=g0,g2", "node n has no healthy GPU g2"},
		"more of a GPU that is overbooked":        {"c=g0:1m/101Mi", "c=g0:1m/1Mi", "n/g0 has 102 MiB given of 100 by [ns/pod ns/there]"},
		"another GPU than the one overbooked":     {"c=g0:1m/101Mi", "c=g1", "<nil>"},
		"a free instance":                         {"c=g3:1g.6gb@0:1", "c=g3:1g.6gb@1:1", "<nil>"},
		"an instance that is taken":               {"c=g3:1g.6gb@0:1", "c=g3:1g.6gb@0:1", "n/g3 has overlapping MIG instances by [ns/pod ns/there]"},
		"an instance that cannot be made there":   {"", "c=g3:2g.12gb@1:2", "n/g3 cannot give the MIG instance 2g.12gb@1:2"},
		"an instance that does not exist":         {"", "c=g4:2g.12gb@2:2", "n/g4 cannot give the MIG instance 2g.12gb@2:2"},
		"media extensions twice":                  {"c=g3:1g.6gb+me@0:1", "c=g3:1g.6gb+me@1:1", "n/g3 cannot give the MIG instance 1g.6gb+me@1:1"},
		"media extensions twice for one":          {"", "c=g3:1g.6gb+me@0:1,g3:1g.6gb+me@1:1", "n/g3 cannot give the MIG instance 1g.6gb+me@1:1"},
		"an instance of a GPU not in MIG mode":    {"", "c=g0:1g.6gb@0:1", "n/g0 is not in MIG mode but partitioned by [ns/pod]"},
		"a share of a GPU that is shared only":    {"", "c=g5:10m/1Mi", "<nil>"},
		"a GPU that is shared only, whole":        {"", "c=g5", "n/g5 is given in shares only but held whole by [ns/pod]"},
		"a share of a GPU that is whole only":     {"", "c=g6:10m/1Mi", "n/g6 is given whole only but shared by [ns/pod]"},
		"a whole GPU in MIG mode":                 {"", "c=g3", "n/g3 is in MIG mode but held whole or shared by [ns/pod]"},
		"nothing":                                 {"", "", "<nil>"},
		"an instance beside a share of before":    {"c=g3:1m/1Mi", "c=g3:1g.6gb@0:1", "n/g3 is partitioned and shared at once by [ns/pod ns/there]"},
		"an instance on slices of one before it":  {"", "~i=g3:2g.12gb@0:2;c=g3:1g.6gb@1:1", "<nil>"},
		"an instance with one that is then taken": {"", "~i=g3:1g.6gb@0:1;c=g3:1g.6gb@0:1", "<nil>"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			n := NewNode("n", inv, []Pod{holds(t, "there", tc.there)})
			if diff := cmp.Diff(tc.want, fmt.Sprint(n.CanGive(holds(t, "pod", tc.text)))); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
			// What the pod itself holds already is not in its way.
			n = n.With(holds(t, "pod", "c=g1,g3:1g.6gb+me@3:1"))
			if diff := cmp.Diff(tc.want, fmt.Sprint(n.CanGive(holds(t, "pod", tc.text)))); diff != "" {
				t.Errorf("in place of what it holds: -want +got\n%s", diff)
			}
		})
	}
}

func TestCanGiveKeepsWhatIsWithheld(t *testing.T) {
	foreign := wants("foreign", gpu.ContainerRequest{Name: "c", Asks: []gpu.Ask{{Kind: gpu.Whole, Count: 2}}})
	n := NewNode("n", inventory(plain(0, 100), plain(1, 100), plain(2, 100), plain(3, 100)), []Pod{foreign, holds(t, "there", "c=g0:10m/1Mi")})
	withholds := "node n withholds 2 idle GPUs for pods that nobody knows the GPUs of"
	for text, want := range map[string]string{
		"c=g3": "<nil>", "c=g2,g3": withholds, "c=g1:1m/1Mi;d=g2": withholds, "c=g0:10m/1Mi": "<nil>", "": "<nil>",
	} {
		if got := fmt.Sprint(n.CanGive(holds(t, "pod", text))); got != want {
			t.Errorf("%q: got %s, want %s", text, got, want)
		}
	}
	// The pod whose GPUs become known is given them.
	if err := n.CanGive(holds(t, "foreign", "c=g1,g2,g3")); err != nil {
		t.Error(err)
	}
	// A pod that nobody knows the GPUs of is on the node already.
	more := wants("more", gpu.ContainerRequest{Name: "c", Asks: []gpu.Ask{{Kind: gpu.Whole, Count: 5}}})
	if err := n.CanGive(more); err != nil {
		t.Error(err)
	}
	// Where too few are idle anyway, shares of the others can still be given.
	if err := n.With(holds(t, "more", "c=g1,g2,g3")).CanGive(holds(t, "pod", "c=g0:10m/1Mi")); err != nil {
		t.Error(err)
	}
}

// Where whole GPUs and shares are given from different GPUs, what is held whole takes no room for shares, and the other way
// round.
func TestWhatIsWithheldComesFromTheGPUsThatCanBeGivenSo(t *testing.T) {
	ask := func(kind gpu.Kind, count int) gpu.ContainerRequest {
		a := gpu.Ask{Kind: kind, Count: count}
		if kind == gpu.Shared {
			a.MilliGPU = 250
		}
		return gpu.ContainerRequest{Name: "c", Asks: []gpu.Ask{a}}
	}
	fractions := inventory(wholeOnly(0), wholeOnly(1), sharedOnly(2), sharedOnly(3))
	const gives, withholds = "<nil>", "node n withholds %d idle GPUs for pods that nobody knows the GPUs of"
	tests := map[string]struct {
		inventory Inventory
		foreign   Pod
		want      Withheld
		spare     Spare
		// What a pod can be given.
		whole, share, both string
	}{
		"nothing": {fractions, holds(t, "x", ""), Withheld{}, Spare{2, 2}, gives, gives, gives},
		"a whole GPU": {
			fractions, wants("x", ask(gpu.Whole, 1)), Withheld{GPUs: 1}, Spare{1, 2}, gives, gives, gives,
		},
		"all whole GPUs": {
			fractions, wants("x", ask(gpu.Whole, 2)),
			Withheld{GPUs: 2},
			Spare{0, 2},
			fmt.Sprintf(withholds, 2), gives, fmt.Sprintf(withholds, 2),
		},
		"more whole GPUs than there are": {
			fractions, wants("x", ask(gpu.Whole, 3)),
			Withheld{GPUs: 3},
			Spare{-1, 2},
			fmt.Sprintf(withholds, 3), gives, fmt.Sprintf(withholds, 3),
		},
		"shares of all that are shared": {
			fractions, wants("x", ask(gpu.Shared, 2)),
			Withheld{GPUs: 2, Shared: 2},
			Spare{2, 0},
			gives, fmt.Sprintf(withholds, 2), fmt.Sprintf(withholds, 2),
		},
		"whole GPUs of before, when they were known by labels": {
			fractions, holds(t, "x", "c=gpu-0,gpu-1"),
			Withheld{GPUs: 2},
			Spare{0, 2},
			fmt.Sprintf(withholds, 2), gives, fmt.Sprintf(withholds, 2),
		},
		"a share of an older name": {
			fractions, holds(t, "x", "c=gpu-0:250m/25Mi"), Withheld{GPUs: 1, Shared: 1}, Spare{2, 1}, gives, gives, gives,
		},
		"a share, where others are shared too: one of each": {
			inventory(plain(0, 100), sharedOnly(2)), wants("x", ask(gpu.Shared, 1)),
			Withheld{GPUs: 2, Shared: 1},
			Spare{0, 0},
			fmt.Sprintf(withholds, 2), fmt.Sprintf(withholds, 2), fmt.Sprintf(withholds, 2),
		},
		"a share, where no GPU is shared only": {
			inventory(plain(0, 100), plain(1, 100), plain(2, 100)), wants("x", ask(gpu.Shared, 2)),
			Withheld{GPUs: 2},
			Spare{1, 0},
			gives, gives, fmt.Sprintf(withholds, 2),
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			n := NewNode("n", tc.inventory, []Pod{tc.foreign})
			if diff := cmp.Diff(tc.want, n.Withheld); diff != "" {
				t.Errorf("withheld -want +got\n%s", diff)
			}
			if diff := cmp.Diff(tc.spare, n.Spare()); diff != "" {
				t.Errorf("spare -want +got\n%s", diff)
			}
			for text, want := range map[string]string{"c=g0": tc.whole, "c=g2:250m/25Mi": tc.share, "c=g0;d=g2:250m/25Mi": tc.both} {
				if got := fmt.Sprint(n.CanGive(holds(t, "pod", text))); got != want {
					t.Errorf("%q: got %s, want %s", text, got, want)
				}
			}
		})
	}
}

func TestPodEqual(t *testing.T) {
	ask := gpu.ContainerRequest{Name: "c", Asks: []gpu.Ask{{Kind: gpu.Whole, Count: 1}}}
	other := gpu.ContainerRequest{Name: "c", Asks: []gpu.Ask{{Kind: gpu.Whole, Count: 2}}}
	distinct := map[string]Pod{
		"a pod": holds(t, "a", "c=g0"), "another UID": holds(t, "b", "c=g0"), "another assignment": holds(t, "a", "c=g1"),
		"an init container": holds(t, "a", "~c=g0"), "another name": NewPod("a", "ns/x", parse(t, "c=g0")),
		"unplaced": wants("a", ask), "unplaced for more": wants("a", other), "nothing": holds(t, "a", ""),
	}
	for x, a := range distinct {
		for y, b := range distinct {
			if a.Equal(b) != (x == y) {
				t.Errorf("%s equal to %s: %t", x, y, a.Equal(b))
			}
		}
	}
}
