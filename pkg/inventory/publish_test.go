package inventory

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	resourceapi "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"weft.sh/weft/pkg/cluster"
	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/mig"
)

func plain(index int) gpu.Device {
	return gpu.Device{ID: gpu.ID(fmt.Sprintf("GPU-%d", index)), Index: index, Product: "NVIDIA-A100-SXM4-80GB", MemoryMiB: 81920}
}

// partitioned is a GPU in MIG mode that is divided on demand.
func partitioned(index int, table string) gpu.Device {
	t, _ := mig.TableByName(table)
	d := plain(index)
	d.MIG, d.Instances = true, t.Instances()
	return d
}

// sorted has the instances of each device in one order, for publishing does not keep it.
func sorted(devices []gpu.Device) []gpu.Device {
	out := slices.Clone(devices)
	for i := range out {
		out[i].Instances = slices.Clone(out[i].Instances)
		slices.SortFunc(out[i].Instances, func(a, b gpu.Instance) int { return strings.Compare(a.String(), b.String()) })
	}
	return out
}

func randomProfile(r *rand.Rand) string {
	p := fmt.Sprintf("%dg.%dgb", 1+r.IntN(9), 1+r.IntN(200))
	return p + []string{"", "", "+me", "-me", "+me.all", "+gfx", "-x.y.z"}[r.IntN(7)]
}

// randomHardware is of a GPU of a node with eight, and nil now and then.
func randomHardware(r *rand.Rand, index int) *gpu.Hardware {
	if r.IntN(4) == 0 {
		return nil
	}
	h := &gpu.Hardware{
		PCIBusID: []string{"", "0000:65:00.0", "00010000:ff:1f.7"}[r.IntN(3)], NUMANode: r.IntN(4) - 1,
		Architecture:      []string{"", "hopper", "ada-lovelace", strings.Repeat("a", 63)}[r.IntN(4)],
		ComputeCapability: []string{"", "9.0", "8.9", "12.10"}[r.IntN(4)],
		DriverVersion:     []string{"", "570.86.15", "535.104.0", "999999999.0.0"}[r.IntN(4)],
		CUDAVersion:       []string{"", "12.8", "13.0", "12.8.1"}[r.IntN(4)],
		Clique:            []string{"", "7e3e7c4c-2f1a-4b3d-9f5e-0123456789ab.4294967295", strings.Repeat("c", 63)}[r.IntN(3)],
		Links:             gpu.Links{Switch: r.IntN(19)},
	}
	for peer := range 8 {
		if peer != index && r.IntN(2) == 0 {
			h.Links.Peers = append(h.Links.Peers, gpu.Peer{Index: peer, Links: 1 + r.IntN(6)})
		}
	}
	return h
}

func randomDevices(r *rand.Rand) []gpu.Device {
	var out []gpu.Device
	for i := range r.IntN(9) {
		d := plain(i)
		d.Index = i * (1 + r.IntN(2)*1000)
		d.ID += gpu.ID([]string{"", ".", "_x", strings.Repeat("y", 57)}[r.IntN(4)])
		d.Product = []string{"", "NVIDIA-A30", strings.Repeat("p", 63)}[r.IntN(3)]
		d.MemoryMiB = []int64{1, 24576, gpu.MaxMemoryMiB}[r.IntN(3)]
		d.Unhealthy, d.WholeOnly, d.MIG = r.IntN(4) == 0, r.IntN(4) == 0, r.IntN(2) == 0
		if d.MIG {
			for range r.IntN(mig.MaxPlacements + 1) {
				start := r.IntN(gpu.MaxMemorySlices)
				i := gpu.Instance{Profile: randomProfile(r), Start: start, Size: 1 + r.IntN(gpu.MaxMemorySlices-start)}
				if !slices.Contains(d.Instances, i) {
					d.Instances = append(d.Instances, i)
				}
			}
		}
		d.SharedOnly = !d.MIG && !d.WholeOnly && r.IntN(3) == 0
		if d.Unhealthy {
			d.UnhealthyReason = []string{"", "Xid 79: the GPU has fallen off the bus", strings.Repeat("ä", 32)}[r.IntN(3)]
		}
		d.Isolation = []gpu.Isolation{"", gpu.IsolationNone, gpu.IsolationMPS, gpu.IsolationMemory}[r.IntN(4)]
		d.Hardware = randomHardware(r, d.Index)
		out = append(out, d)
	}
	return out
}

// Whatever devices a node has, publishing and reading them again gives the same, in whatever order the slices come, and the
// API server accepts the slices.
func TestWhatIsPublishedIsReadBack(t *testing.T) {
	for seed := range uint64(150) {
		r := rand.New(rand.NewPCG(seed, 4))
		want := cluster.NewInventory(cluster.SourceSlices, sorted(randomDevices(r)))
		if len(want.Problems) > 0 {
			t.Fatalf("seed %d: the devices are not sound: %q", seed, want.Problems)
		}
		published := Slices("node-1.example.com", want.Devices, int64(r.IntN(5)))
		checkLimits(t, published)
		r.Shuffle(len(published), func(i, j int) { published[i], published[j] = published[j], published[i] })
		got := FromSlices(published)
		got = cluster.NewInventory(got.Source, sorted(got.Devices), got.Problems...)
		if !got.Equal(want) {
			t.Fatalf("seed %d: -want +got\n%s", seed, cmp.Diff(want.Devices, got.Devices)+cmp.Diff(want.Problems, got.Problems))
		}
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
}

// semantic is a version as semver.org wants it, without what may stand after the numbers.
var semantic = regexp.MustCompile(`^(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)$`)

// checkLimits holds slices to what the API server accepts.
func checkLimits(t *testing.T, all []*resourceapi.ResourceSlice) {
	t.Helper()
	names, objects := map[string]bool{}, map[string]bool{}
	for _, s := range all {
		if errs := validation.IsDNS1123Subdomain(s.Name); len(errs) > 0 || objects[s.Name] {
			t.Errorf("slice %q: %v, or twice", s.Name, errs)
		}
		objects[s.Name] = true
		if s.Spec.NodeName == nil || s.Spec.NodeSelector != nil || s.Spec.AllNodes != nil || s.Spec.Driver != "gpu.weft.sh" {
			t.Errorf("slice %q: %+v", s.Name, s.Spec)
		}
		if len(s.Spec.Pool.Name) > resourceapi.PoolNameMaxLength || s.Spec.Pool.Generation < 0 || s.Spec.Pool.ResourceSliceCount != int64(len(all)) {
			t.Errorf("slice %q: pool %+v", s.Name, s.Spec.Pool)
		}
		if len(s.Spec.Devices) > resourceapi.ResourceSliceMaxDevicesWithAdvancedFeatures {
			t.Errorf("slice %q has %d devices", s.Name, len(s.Spec.Devices))
		}
		for _, d := range s.Spec.Devices {
			if errs := validation.IsDNS1123Label(d.Name); len(errs) > 0 || names[d.Name] {
				t.Errorf("device %q: %v, or twice", d.Name, errs)
			}
			names[d.Name] = true
			want := []resourceapi.DeviceTaint{{Key: "gpu.weft.sh/device-plugin", Effect: "NoSchedule"}}
			if diff := cmp.Diff(want, d.Taints); diff != "" || len(validation.IsQualifiedName(d.Taints[0].Key)) > 0 {
				t.Errorf("device %q: taints -want +got\n%s", d.Name, diff)
			}
			if len(d.Attributes)+len(d.Capacity) > resourceapi.ResourceSliceMaxAttributesAndCapacitiesPerDevice {
				t.Errorf("device %q has %d attributes and %d capacities", d.Name, len(d.Attributes), len(d.Capacity))
			}
			for name, a := range d.Attributes {
				if errs := validation.IsCIdentifier(string(name)); len(errs) > 0 || len(name) > resourceapi.DeviceMaxIDLength {
					t.Errorf("device %q: attribute %q: %v", d.Name, name, errs)
				}
				if a.StringValue != nil && len(*a.StringValue) > resourceapi.DeviceAttributeMaxValueLength {
					t.Errorf("device %q: attribute %s has %d characters", d.Name, name, len(*a.StringValue))
				}
				if a.VersionValue != nil && !semantic.MatchString(*a.VersionValue) {
					t.Errorf("device %q: attribute %s is %q, no semantic version", d.Name, name, *a.VersionValue)
				}
				set := 0
				for _, is := range []bool{a.StringValue != nil, a.IntValue != nil, a.BoolValue != nil, a.VersionValue != nil} {
					if is {
						set++
					}
				}
				if set != 1 {
					t.Errorf("device %q: attribute %s has %d values", d.Name, name, set)
				}
			}
			for name := range d.Capacity {
				if errs := validation.IsCIdentifier(string(name)); len(errs) > 0 {
					t.Errorf("device %q: capacity %q: %v", d.Name, name, errs)
				}
			}
		}
	}
}

func TestEightGPUsThatAreDividedOnDemandFitTheAPIsLimits(t *testing.T) {
	var devices []gpu.Device
	for i := range 8 {
		d := partitioned(i, "H100-80GB")
		for len(d.Instances) < 26 { // one more than any table has
			d.Instances = append(d.Instances, gpu.Instance{Profile: "1g.24gb+me.all", Start: len(d.Instances), Size: 1})
		}
		devices = append(devices, d)
	}
	published := Slices("a", devices, 1)
	checkLimits(t, published)
	// Two GPUs with their 26 instances each go into one slice of at most 64 devices.
	var sizes []int
	for _, s := range published {
		sizes = append(sizes, len(s.Spec.Devices))
	}
	if diff := cmp.Diff([]int{54, 54, 54, 54}, sizes); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

// One GPU can offer as many placements as fit into a slice without it.
func TestAGPUWithMoreInstancesThanASliceHoldsIsSpreadOverSlices(t *testing.T) {
	many := plain(1)
	many.MIG = true
	for i := range mig.MaxPlacements {
		many.Instances = append(many.Instances, gpu.Instance{Profile: "1g.5gb", Start: i, Size: 1})
	}
	devices := []gpu.Device{plain(0), many, plain(2), plain(3)}
	published := Slices("a", devices, 1)
	checkLimits(t, published)
	var sizes []int
	for _, s := range published {
		sizes = append(sizes, len(s.Spec.Devices))
	}
	if diff := cmp.Diff([]int{1, 64, 3}, sizes); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	got := FromSlices(published)
	if diff := cmp.Diff(sorted(devices), sorted(got.Devices)); diff != "" || len(got.Problems) > 0 {
		t.Errorf("read back, %q (-want +got)\n%s", got.Problems, diff)
	}
}

func TestSlicesOfNodesWithLongNamesHaveNamesOfTheirOwn(t *testing.T) {
	names := map[string]bool{}
	for _, node := range []string{
		"a", strings.Repeat("n", 239), strings.Repeat("n", 240), strings.Repeat("n", 252), strings.Repeat("n", 253), strings.Repeat("n", 252) + "m",
		strings.Repeat("n", 222) + strings.Repeat(".x", 15), strings.Repeat("n", 221) + strings.Repeat("-x", 15), strings.Repeat("n.", 126) + "n",
	} {
		published := Slices(node, nil, 1)
		checkLimits(t, published)
		if name := published[0].Name; names[name] {
			t.Errorf("node %q: there is a slice %q already", node, name)
		} else {
			names[name] = true
		}
		if got := *published[0].Spec.NodeName; got != node {
			t.Errorf("node %q is published as %q", node, got)
		}
	}
	if !names["a-gpu.weft.sh-0"] || !names[strings.Repeat("n", 239)+"-gpu.weft.sh-0"] {
		t.Errorf("names that fit are changed: %v", slices.Sorted(maps.Keys(names)))
	}
}

// What has no room in an attribute, or no form there, is shortened or left out, and the rest stays.
func TestWhatDoesNotFitAnAttribute(t *testing.T) {
	d := plain(0)
	d.Unhealthy, d.UnhealthyReason = true, strings.Repeat("x", 60)+"ö and more"
	d.Hardware = &gpu.Hardware{NUMANode: 0, DriverVersion: "615.71.09", CUDAVersion: "12.8"}
	for i := range 12 {
		d.Hardware.Links.Peers = append(d.Hardware.Links.Peers, gpu.Peer{Index: 100 + i, Links: 1})
	}
	want := d
	want.UnhealthyReason = strings.Repeat("x", 60) + "…"
	want.Hardware = &gpu.Hardware{NUMANode: 0, DriverVersion: "615.71.9", CUDAVersion: "12.8"}
	published := Slices("a", []gpu.Device{d}, 1)
	checkLimits(t, published)
	if diff := cmp.Diff([]gpu.Device{want}, FromSlices(published).Devices); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

func TestVersionsAsAttributes(t *testing.T) {
	for version, want := range map[string]string{
		"570.86.15": "570.86.15", "615.71.09": "615.71.9", "12.8": "12.8.0", "9": "9.0.0", "450.080.00": "450.80.0",
		"": "", "31.0.15.5186": "", "1.x": "", "1.": "", "1.-2": "", "1.4294967296": "",
	} {
		got, ok := versionOf(version)
		if got != want || ok != (want != "") {
			t.Errorf("versionOf(%q) = %q, %t, want %q", version, got, ok, want)
		}
	}
}

// An API server that does not know device taints drops them.
func TestTaintsAreNotNeeded(t *testing.T) {
	devices := []gpu.Device{plain(0), partitioned(1, "A30-24GB")}
	published := Slices("a", devices, 1)
	want := FromSlices(published)
	for _, s := range published {
		for i := range s.Spec.Devices {
			s.Spec.Devices[i].Taints = nil
		}
	}
	if got := FromSlices(published); !got.Equal(want) || len(got.Devices) != 2 {
		t.Errorf("without taints: %v %q", got.Devices, got.Problems)
	}
}

func TestDevicesAreNamedSoThatPeopleCanReadThem(t *testing.T) {
	d := plain(3)
	d.MIG = true
	d.Instances = []gpu.Instance{
		{Profile: "3g.40gb", Start: 4, Size: 4},
		{Profile: "1g.24gb+me", Start: 0, Size: 2},
		{Profile: "1g.24gb-me", Start: 0, Size: 2},
		{Profile: "1g.24gb+me.all", Start: 0, Size: 2},
		{Profile: "3g.40gb", Start: 4, Size: 4}, // twice
	}
	var got []string
	for _, d := range Slices("a", []gpu.Device{d}, 1)[0].Spec.Devices {
		got = append(got, d.Name)
	}
	want := []string{"gpu-3", "gpu-3-3g-40gb-4-4", "gpu-3-1g-24gb---me-0-2", "gpu-3-1g-24gb--me-0-2", "gpu-3-1g-24gb---me-all-0-2"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}
