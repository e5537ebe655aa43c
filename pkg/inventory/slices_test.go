package inventory

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	resourceapi "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"weft.sh/weft/pkg/cluster"
	"weft.sh/weft/pkg/gpu"
)

// slice is one of a pool.
func slice(name, pool string, generation, count int64, devices ...resourceapi.Device) *resourceapi.ResourceSlice {
	return &resourceapi.ResourceSlice{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: resourceapi.ResourceSliceSpec{
			Driver: Driver, Pool: resourceapi.ResourcePool{Name: pool, Generation: generation, ResourceSliceCount: count}, Devices: devices,
		},
	}
}

// gpuDevice is a published GPU; change may break it.
func gpuDevice(index int, change func(*resourceapi.Device)) resourceapi.Device {
	d := published(plain(index))[0]
	if change != nil {
		change(&d)
	}
	return d
}

// migDevices are a published GPU in MIG mode and one instance of it; change may break the latter.
func migDevices(change func(gpu, instance *resourceapi.Device)) []resourceapi.Device {
	p := plain(0)
	p.MIG = true
	p.Instances = []gpu.Instance{{Profile: "3g.40gb", Start: 4, Size: 4}}
	devices := published(p)
	if change != nil {
		change(&devices[0], &devices[1])
	}
	return devices
}

func TestPools(t *testing.T) {
	first, second := gpuDevice(0, nil), gpuDevice(1, nil)
	foreign := slice("f", "a", 9, 1, first)
	foreign.Spec.Driver = "gpu.nvidia.com"
	tests := map[string]struct {
		slices   []*resourceapi.ResourceSlice
		source   cluster.Source
		want     []gpu.ID
		problems []string
	}{
		"nothing":                  {nil, cluster.SourceNone, nil, nil},
		"another driver's":         {[]*resourceapi.ResourceSlice{foreign}, cluster.SourceNone, nil, nil},
		"another driver's beside":  {[]*resourceapi.ResourceSlice{foreign, slice("a", "a", 1, 1, second)}, cluster.SourceSlices, []gpu.ID{"GPU-1"}, nil},
		"an empty pool says so":    {[]*resourceapi.ResourceSlice{slice("a", "a", 1, 1)}, cluster.SourceSlices, nil, nil},
		"a pool of two slices":     {[]*resourceapi.ResourceSlice{slice("b", "a", 1, 2, second), slice("a", "a", 1, 2, first)}, cluster.SourceSlices, []gpu.ID{"GPU-0", "GPU-1"}, nil},
		"two pools":                {[]*resourceapi.ResourceSlice{slice("b", "b", 1, 1, second), slice("a", "a", 7, 1, first)}, cluster.SourceSlices, []gpu.ID{"GPU-0", "GPU-1"}, nil},
		"the newer of generations": {[]*resourceapi.ResourceSlice{slice("a", "a", 3, 1, first), slice("b", "a", 4, 1, second)}, cluster.SourceSlices, []gpu.ID{"GPU-1"}, nil},
		"the newer, which comes first": {
			[]*resourceapi.ResourceSlice{slice("b", "a", 4, 1, second), slice("c", "a", 3, 2, first), slice("a", "a", 3, 2, first)}, cluster.SourceSlices, []gpu.ID{"GPU-1"}, nil,
		},
		"the newer is incomplete: nothing until it is whole": {
			[]*resourceapi.ResourceSlice{slice("a", "a", 3, 1, first), slice("b", "a", 4, 2, second)},
			cluster.SourceSlices, nil,
			[]string{`pool "a": generation 4 has 1 of 2 ResourceSlices`},
		},
		"one of two pools is incomplete": {
			[]*resourceapi.ResourceSlice{slice("a", "a", 3, 2, first), slice("b", "b", 1, 1, second)},
			cluster.SourceSlices,
			[]gpu.ID{"GPU-1"},
			[]string{`pool "a": generation 3 has 1 of 2 ResourceSlices`},
		},
		"more slices than there are to be": {
			[]*resourceapi.ResourceSlice{slice("a", "a", 3, 1, first), slice("b", "a", 3, 1, second)},
			cluster.SourceSlices, nil,
			[]string{`pool "a": generation 3 has 2 of 1 ResourceSlices`},
		},
		"slices that disagree on their number": {
			[]*resourceapi.ResourceSlice{slice("a", "a", 3, 2, first), slice("b", "a", 3, 3, second)},
			cluster.SourceSlices, nil,
			[]string{`pool "a": generation 3 has ResourceSlices that disagree on their number`},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			for _, backwards := range []bool{false, true} {
				all := slices.Clone(tc.slices)
				if backwards {
					slices.Reverse(all)
				}
				inv := FromSlices(all)
				var got []gpu.ID
				for _, d := range inv.Devices {
					got = append(got, d.ID)
				}
				if diff := cmp.Diff(tc.want, got); diff != "" || inv.Source != tc.source {
					t.Errorf("source %v, devices -want +got\n%s", inv.Source, diff)
				}
				if diff := cmp.Diff(tc.problems, inv.Problems); diff != "" {
					t.Errorf("problems -want +got\n%s", diff)
				}
			}
		})
	}
}

func version(v string) resourceapi.DeviceAttribute {
	return resourceapi.DeviceAttribute{VersionValue: &v}
}

func TestWhatIsMalformedIsNamedAndLeftOut(t *testing.T) {
	set := func(name string, value resourceapi.DeviceAttribute) func(*resourceapi.Device) {
		return func(d *resourceapi.Device) { d.Attributes[resourceapi.QualifiedName(name)] = value }
	}
	unset := func(name string) func(*resourceapi.Device) {
		return func(d *resourceapi.Device) { delete(d.Attributes, resourceapi.QualifiedName(name)) }
	}
	memory := func(q string) func(*resourceapi.Device) {
		return func(d *resourceapi.Device) {
			d.Capacity["memory"] = resourceapi.DeviceCapacity{Value: resource.MustParse(q)}
		}
	}
	broken := func(change func(*resourceapi.Device)) []resourceapi.Device {
		return []resourceapi.Device{gpuDevice(0, change), gpuDevice(1, nil)}
	}
	instance := func(change func(*resourceapi.Device)) []resourceapi.Device {
		return migDevices(func(_, i *resourceapi.Device) { change(i) })
	}
	many := partitioned(0, "A30-24GB")
	many.Instances = nil
	for i := range 65 {
		many.Instances = append(many.Instances, gpu.Instance{Profile: fmt.Sprintf("1g.%dgb", i+1), Start: 0, Size: 1})
	}
	minus := resourceapi.DeviceAttribute{IntValue: new(int64)}
	*minus.IntValue = -1
	tests := map[string]struct {
		devices  []resourceapi.Device
		want     int // sound GPUs
		problems []string
	}{
		"nothing is":                    {broken(nil), 2, nil},
		"no type":                       {broken(unset("type")), 1, []string{`device "gpu-0" is ignored: attribute type is missing`}},
		"an unknown type":               {broken(set("type", str("tpu"))), 1, []string{`device "gpu-0" is ignored: attribute type is "tpu": want gpu or mig`}},
		"a type that is a number":       {broken(set("type", integer(1))), 1, []string{`device "gpu-0" is ignored: attribute type is not a string`}},
		"no uuid":                       {broken(unset("uuid")), 1, []string{`device "gpu-0" is ignored: attribute uuid is missing`}},
		"a uuid that is a number":       {broken(set("uuid", integer(1))), 1, []string{`device "gpu-0" is ignored: attribute uuid is not a string`}},
		"a uuid that is no id":          {broken(set("uuid", str("a b"))), 1, []string{`device "gpu-0" is ignored: device "a b": GPU id "a b": want 1 to 63 of A-Z a-z 0-9 . _ -, starting with a letter or digit`}},
		"no index":                      {broken(unset("index")), 1, []string{`device "gpu-0" is ignored: attribute index is missing`}},
		"a negative index":              {broken(set("index", minus)), 1, []string{`device "gpu-0" is ignored: attribute index is -1: want 0 or more, and no more than any node has`}},
		"an index of any size":          {broken(set("index", integer(1<<21))), 1, []string{`device "gpu-0" is ignored: attribute index is 2097152: want 0 or more, and no more than any node has`}},
		"an index that is a string":     {broken(set("index", str("0"))), 1, []string{`device "gpu-0" is ignored: attribute index is not an int`}},
		"no product":                    {broken(unset("productName")), 1, []string{`device "gpu-0" is ignored: attribute productName is missing`}},
		"a product that is a version":   {broken(set("productName", resourceapi.DeviceAttribute{VersionValue: new(string)})), 1, []string{`device "gpu-0" is ignored: attribute productName is not a string`}},
		"a health that is a string":     {broken(set("healthy", str("true"))), 1, []string{`device "gpu-0" is ignored: attribute healthy is not a bool`}},
		"wholeOnly as a number":         {broken(set("wholeOnly", integer(1))), 1, []string{`device "gpu-0" is ignored: attribute wholeOnly is not a bool`}},
		"sharedOnly as a string":        {broken(set("sharedOnly", str("true"))), 1, []string{`device "gpu-0" is ignored: attribute sharedOnly is not a bool`}},
		"an unknown isolation":          {broken(set("isolation", str("hope"))), 1, []string{`device "gpu-0" is ignored: device "GPU-0": isolation "hope": want none, mps or memory, or nothing when it is not known`}},
		"an isolation that is a bool":   {broken(set("isolation", boolean(true))), 1, []string{`device "gpu-0" is ignored: attribute isolation is not a string`}},
		"a reason that is a number":     {broken(set("unhealthyReason", integer(79))), 1, []string{`device "gpu-0" is ignored: attribute unhealthyReason is not a string`}},
		"a reason that paints":          {broken(set("unhealthyReason", str("\x1b[2J"))), 1, []string{`device "gpu-0" is ignored: device "GPU-0": unhealthy reason "\x1b[2J": want at most 256 bytes of text without control characters`}},
		"a bus id in capitals":          {broken(set("pciBusID", str("0000:8A:00.0"))), 1, []string{`device "gpu-0" is ignored: device "GPU-0": PCI bus id "0000:8A:00.0": want domain:bus:device.function in lower case, such as 0000:65:00.0`}},
		"a NUMA node below the first":   {broken(set("numaNode", minus)), 1, []string{`device "gpu-0" is ignored: attribute numaNode is -1: want 0 or more, and no more than any node has`}},
		"a NUMA node of any size":       {broken(set("numaNode", integer(5000))), 1, []string{`device "gpu-0" is ignored: device "GPU-0": NUMA node 5000: want -1 to 1023`}},
		"a driver that is a string":     {broken(set("driverVersion", str("570.86.15"))), 1, []string{`device "gpu-0" is ignored: attribute driverVersion is not a version`}},
		"a capability of three parts":   {broken(set("computeCapability", version("9.0.1"))), 1, []string{`device "gpu-0" is ignored: device "GPU-0": compute capability "9.0.1": want a version such as 9.0`}},
		"a driver that is no release":   {broken(set("driverVersion", version("570.86.15-rc1"))), 1, []string{`device "gpu-0" is ignored: device "GPU-0": driver version "570.86.15-rc1": want a version such as 570.86.15`}},
		"links to switches as a string": {broken(set("nvlinkSwitchLinks", str("18"))), 1, []string{`device "gpu-0" is ignored: attribute nvlinkSwitchLinks is not an int`}},
		"peers without links":           {broken(set("nvlinkPeers", str("1:4,2"))), 1, []string{`device "gpu-0" is ignored: attribute nvlinkPeers is "1:4,2": want index:links of each GPU, such as 1:4,3:2`}},
		"peers in another form":         {broken(set("nvlinkPeers", str("1:+4"))), 1, []string{`device "gpu-0" is ignored: attribute nvlinkPeers is "1:+4": want index:links of each GPU, such as 1:4,3:2`}},
		"peers that are names":          {broken(set("nvlinkPeers", str("a:1"))), 1, []string{`device "gpu-0" is ignored: attribute nvlinkPeers is "a:1": want index:links of each GPU, such as 1:4,3:2`}},
		"a peer that is itself":         {broken(set("nvlinkPeers", str("0:4"))), 1, []string{`device "gpu-0" is ignored: device "GPU-0": NVLink to GPU 0, which is itself`}},
		"a clique that no label has":    {broken(set("cliqueID", str("-"))), 1, []string{`device "gpu-0" is ignored: device "GPU-0": clique "-": want at most 63 of A-Z a-z 0-9 . _ -, such as <cluster UUID>.<number>`}},
		"shared only and whole only":    {broken(func(d *resourceapi.Device) { set("sharedOnly", boolean(true))(d); set("wholeOnly", boolean(true))(d) }), 1, []string{`device "gpu-0" is ignored: device "GPU-0": it is given whole only and in shares only at once`}},
		"migMode as a string":           {broken(set("migMode", str("Enabled"))), 1, []string{`device "gpu-0" is ignored: attribute migMode is not a bool`}},
		"no memory":                     {broken(func(d *resourceapi.Device) { delete(d.Capacity, "memory") }), 1, []string{`device "gpu-0" is ignored: capacity memory is missing`}},
		"memory of nothing":             {broken(memory("0")), 1, []string{`device "gpu-0" is ignored: device "GPU-0": memory 0 MiB: want 1 to 1073741824`}},
		"less memory than a MiB":        {broken(memory("1000k")), 1, []string{`device "gpu-0" is ignored: device "GPU-0": memory 0 MiB: want 1 to 1073741824`}},
		"negative memory":               {broken(memory("-80Gi")), 1, []string{`device "gpu-0" is ignored: device "GPU-0": memory -81920 MiB: want 1 to 1073741824`}},
		"memory that is out of measure": {broken(memory("18446744073710600192")), 1, []string{`device "gpu-0" is ignored: capacity memory is 18446744073710600192: want what a GPU can have`}},
		"the first of two faults":       {broken(func(d *resourceapi.Device) { unset("uuid")(d); unset("index")(d) }), 1, []string{`device "gpu-0" is ignored: attribute uuid is missing`}},
		"a uuid twice": {
			broken(set("uuid", str("GPU-1"))), 1, []string{`device "GPU-1": a GPU of this id is there already`},
		},
		"an index twice": {
			broken(set("index", integer(1))), 1, []string{`device "GPU-1": a GPU of index 1 is there already`},
		},
		"too many placements": {
			append(published(many), gpuDevice(1, nil)), 1, []string{`device "GPU-0": 65 MIG placements on one GPU: at most 64 are supported`},
		},

		"no instance is":                 {migDevices(nil), 1, nil},
		"an instance of no GPU":          {instance(unset("parentUUID")), 1, []string{`device "gpu-0-3g-40gb-4-4" is ignored: attribute parentUUID is missing`}},
		"an instance of an absent GPU":   {instance(set("parentUUID", str("GPU-7"))), 1, []string{`device "gpu-0-3g-40gb-4-4" is ignored: its GPU "GPU-7" is not published`}},
		"an instance of a malformed GPU": {migDevices(func(g, _ *resourceapi.Device) { unset("index")(g) }), 0, []string{`device "gpu-0" is ignored: attribute index is missing`, `device "gpu-0-3g-40gb-4-4" is ignored: its GPU "GPU-0" is not published`}},
		"a GPU that is not in MIG mode":  {migDevices(func(g, _ *resourceapi.Device) { unset("migMode")(g) }), 1, []string{`device "gpu-0-3g-40gb-4-4" is ignored: its GPU "GPU-0" is not in MIG mode`}},
		"no profile":                     {instance(unset("profile")), 1, []string{`device "gpu-0-3g-40gb-4-4" is ignored: attribute profile is missing`}},
		"an unknown form of profile":     {instance(set("profile", str("half"))), 1, []string{`device "gpu-0-3g-40gb-4-4" is ignored: MIG profile "half": want a name such as 1g.10gb`}},
		"no start":                       {instance(unset("start")), 1, []string{`device "gpu-0-3g-40gb-4-4" is ignored: attribute start is missing`}},
		"a negative start":               {instance(set("start", minus)), 1, []string{`device "gpu-0-3g-40gb-4-4" is ignored: attribute start is -1: want 0 or more, and no more than any node has`}},
		"a size of nothing":              {instance(set("size", integer(0))), 1, []string{`device "gpu-0-3g-40gb-4-4" is ignored: MIG instance 3g.40gb at 4:0: want start >= 0, size >= 1 and start+size <= 64`}},
		"a size beyond the GPU":          {instance(set("size", integer(61))), 1, []string{`device "gpu-0-3g-40gb-4-4" is ignored: MIG instance 3g.40gb at 4:61: want start >= 0, size >= 1 and start+size <= 64`}},
		"a placement twice": {
			append(migDevices(nil), migDevices(func(_, i *resourceapi.Device) { i.Name = "gpu-0-again" })[1]), 1,
			[]string{`device "gpu-0-again" is ignored: its GPU "GPU-0" has 3g.40gb@4:4 already`},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			for _, backwards := range []bool{false, true} {
				devices := slices.Clone(tc.devices)
				if backwards {
					slices.Reverse(devices)
				}
				// In slices of one device each, so that their order may matter too.
				var all []*resourceapi.ResourceSlice
				for i, d := range devices {
					all = append(all, slice(fmt.Sprint(i), "n", 1, int64(len(devices)), d))
				}
				inv := FromSlices(all)
				if diff := cmp.Diff(tc.problems, inv.Problems); diff != "" {
					t.Errorf("problems -want +got\n%s", diff)
				}
				if len(inv.Devices) != tc.want {
					t.Errorf("%d sound GPUs, want %d: %v", len(inv.Devices), tc.want, inv.Devices)
				}
			}
		})
	}
}

// Whatever stands in the attributes that are text in a form of its own: what is accepted is valid, and is published as it was.
func FuzzHardware(f *testing.F) {
	for _, s := range []string{"", "1:4,3:2", "1:4,", ":", "0:1", "1:-1", "9999999999999999999:1", "9.0.0", "615.71.9", "1.0.0.0", "0.0.0"} {
		f.Add(s, s)
	}
	f.Fuzz(func(t *testing.T, peers, driver string) {
		d := gpuDevice(0, func(d *resourceapi.Device) {
			d.Attributes["nvlinkPeers"] = str(peers)
			for _, name := range []resourceapi.QualifiedName{"driverVersion", "cudaVersion", "computeCapability"} {
				d.Attributes[name] = version(driver)
			}
		})
		first := FromSlices([]*resourceapi.ResourceSlice{slice("a", "n", 1, 1, d)})
		if len(first.Devices)+len(first.Problems) != 1 {
			t.Fatalf("%v %q", first.Devices, first.Problems)
		}
		for _, d := range first.Devices {
			var got []gpu.Peer
			if d.Hardware != nil {
				got = d.Hardware.Links.Peers
			}
			if peersText(got) != peers {
				t.Errorf("peers %q are read as %v", peers, got)
			}
		}
		if again := FromSlices(Slices("n", first.Devices, 1)); len(first.Devices) > 0 && !again.Equal(first) && semantic.MatchString(driver) && len(peers) <= 64 {
			t.Errorf("-first +again\n%s", cmp.Diff(first.Devices, again.Devices))
		}
	})
}

func TestNamesMayBeWrittenWithTheDriversDomain(t *testing.T) {
	devices := migDevices(nil)
	for i := range devices {
		d := &devices[i]
		for _, name := range slices.Collect(maps.Keys(d.Attributes)) {
			d.Attributes[Driver+"/"+name] = d.Attributes[name]
			delete(d.Attributes, name)
		}
		for _, name := range slices.Collect(maps.Keys(d.Capacity)) {
			d.Capacity[Driver+"/"+name] = d.Capacity[name]
			delete(d.Capacity, name)
		}
	}
	got := FromSlices([]*resourceapi.ResourceSlice{slice("a", "a", 1, 1, devices...)})
	want := FromSlices([]*resourceapi.ResourceSlice{slice("a", "a", 1, 1, migDevices(nil)...)})
	if !got.Equal(want) || len(want.Devices) != 1 || len(want.Devices[0].Instances) != 1 {
		t.Errorf("got %v %q, want %v", got.Devices, got.Problems, want.Devices)
	}
}

func TestOfTwoGPUsWithOneIDTheOneThatCountsHasTheInstances(t *testing.T) {
	devices := migDevices(nil)
	first, second := devices[0], devices[0]
	first.Name, second.Name = "gpu-10", "gpu-2" // in this order by name
	first.Attributes, second.Attributes = maps.Clone(first.Attributes), maps.Clone(second.Attributes)
	first.Attributes["index"], second.Attributes["index"] = integer(10), integer(2)
	inv := FromSlices([]*resourceapi.ResourceSlice{slice("a", "a", 1, 1, first, second, devices[1])})
	if len(inv.Devices) != 1 || inv.Devices[0].Index != 2 || len(inv.Devices[0].Instances) != 1 {
		t.Errorf("%v %q", inv.Devices, inv.Problems)
	}
}

// Two GPUs that contradict each other in everything must not give another inventory each time.
func TestContradictionsAreDecidedTheSameEveryTime(t *testing.T) {
	build := func(order []int) cluster.Inventory {
		all := []*resourceapi.ResourceSlice{
			slice("a", "p", 1, 1, gpuDevice(0, func(d *resourceapi.Device) { d.Attributes["productName"] = str("A") })),
			slice("b", "q", 1, 1, gpuDevice(0, func(d *resourceapi.Device) { d.Attributes["productName"] = str("B") })),
			slice("c", "r", 1, 1, gpuDevice(0, func(d *resourceapi.Device) { d.Attributes["productName"] = str("C") })),
		}
		var in []*resourceapi.ResourceSlice
		for _, i := range order {
			in = append(in, all[i])
		}
		return FromSlices(in)
	}
	want := build([]int{0, 1, 2})
	if len(want.Devices) != 1 || want.Devices[0].Product != "A" || len(want.Problems) != 2 {
		t.Fatalf("%v %q", want.Devices, want.Problems)
	}
	for range 20 {
		for _, order := range [][]int{{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}} {
			if got := build(order); !got.Equal(want) {
				t.Fatalf("order %v: %v", order, got.Devices)
			}
		}
	}
}
