package gpu

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// wired is the hardware of GPU 1 of four.
func wired() *Hardware {
	return &Hardware{
		PCIBusID: "0000:65:00.0", NUMANode: 1, Architecture: "ampere", ComputeCapability: "8.0", DriverVersion: "570.86.15", CUDAVersion: "12.8",
		Links: Links{Switch: 0, Peers: []Peer{{0, 4}, {2, 4}, {3, 4}}}, Clique: "7e3e7c4c-2f1a-4b3d-9f5e-0123456789ab.4294967295",
	}
}

func TestHardwareValidate(t *testing.T) {
	const device = `device "GPU-1": `
	tests := map[string]struct {
		change func(*Hardware)
		want   string
	}{
		"a sound one":                   {func(*Hardware) {}, "<nil>"},
		"one of which nothing is known": {func(h *Hardware) { *h = Hardware{NUMANode: -1} }, "<nil>"},
		"the zero one, on NUMA node 0":  {func(h *Hardware) { *h = Hardware{} }, "<nil>"},
		"links to switches":             {func(h *Hardware) { h.Links = Links{Switch: 18} }, "<nil>"},
		"the largest": {func(h *Hardware) {
			h.NUMANode, h.Links, h.PCIBusID = MaxNUMANode, Links{MaxLinks - 1, []Peer{{MaxIndex, 1}}}, "ffffffff:ff:1f.7"
		}, "<nil>"},
		"a driver of four parts":           {func(h *Hardware) { h.DriverVersion = "31.0.15.5186" }, "<nil>"},
		"a family of two words":            {func(h *Hardware) { h.Architecture = "ada-lovelace" }, "<nil>"},
		"a PCI bus id as NVML prints it":   {func(h *Hardware) { h.PCIBusID = "00000000:8A:00.0" }, device + `PCI bus id "00000000:8A:00.0": want domain:bus:device.function in lower case, such as 0000:65:00.0`},
		"a PCI bus id with more behind it": {func(h *Hardware) { h.PCIBusID += "\n" }, device + `PCI bus id "0000:65:00.0\n": want domain:bus:device.function in lower case, such as 0000:65:00.0`},
		"a NUMA node below none":           {func(h *Hardware) { h.NUMANode = -2 }, device + `NUMA node -2: want -1 to 1023`},
		"a NUMA node of any size":          {func(h *Hardware) { h.NUMANode = 1024 }, device + `NUMA node 1024: want -1 to 1023`},
		"an architecture in capitals":      {func(h *Hardware) { h.Architecture = "Ampere" }, device + `architecture "Ampere": want a name in lower case, such as hopper`},
		"an architecture that is too long": {func(h *Hardware) { h.Architecture = strings.Repeat("x", 64) }, device + fmt.Sprintf(`architecture %q: want a name in lower case, such as hopper`, strings.Repeat("x", 64))},
		"a capability in one part":         {func(h *Hardware) { h.ComputeCapability = "80" }, device + `compute capability "80": want a version such as 9.0`},
		"a driver that is no version":      {func(h *Hardware) { h.DriverVersion = "latest" }, device + `driver version "latest": want a version such as 570.86.15`},
		"a CUDA version in one part":       {func(h *Hardware) { h.CUDAVersion = "12080" }, device + `CUDA version "12080": want a version such as 12.8`},
		"a clique that no label can have":  {func(h *Hardware) { h.Clique = "a." }, device + `clique "a.": want at most 63 of A-Z a-z 0-9 . _ -, such as <cluster UUID>.<number>`},
		"fewer than no links":              {func(h *Hardware) { h.Links = Links{Switch: -1} }, device + `-1 NVLinks to switches and [] to GPUs: want 1 or more to each GPU, and at most 64 in all`},
		"more links than there can be":     {func(h *Hardware) { h.Links = Links{60, []Peer{{0, 2}, {2, 3}}} }, device + `60 NVLinks to switches and [{0 2} {2 3}] to GPUs: want 1 or more to each GPU, and at most 64 in all`},
		"links whose sum overflows":        {func(h *Hardware) { h.Links = Links{1, []Peer{{0, 1<<63 - 1}}} }, device + `1 NVLinks to switches and [{0 9223372036854775807}] to GPUs: want 1 or more to each GPU, and at most 64 in all`},
		"a peer without links":             {func(h *Hardware) { h.Links = Links{Peers: []Peer{{0, 0}}} }, device + `0 NVLinks to switches and [{0 0}] to GPUs: want 1 or more to each GPU, and at most 64 in all`},
		"a peer twice":                     {func(h *Hardware) { h.Links.Peers = []Peer{{2, 1}, {2, 1}} }, device + `NVLink to GPU 2 stands twice`},
		"itself as a peer":                 {func(h *Hardware) { h.Links.Peers = []Peer{{1, 4}} }, device + `NVLink to GPU 1, which is itself`},
		"a peer below the first":           {func(h *Hardware) { h.Links.Peers = []Peer{{-1, 4}} }, device + `NVLink to GPU -1: want 0 to 1048576`},
		"a peer of any index":              {func(h *Hardware) { h.Links.Peers = []Peer{{MaxIndex + 1, 4}} }, device + `NVLink to GPU 1048577: want 0 to 1048576`},
		"two things wrong, each on a line": {func(h *Hardware) { h.NUMANode, h.Clique = -7, "." }, device + "clique \".\": want at most 63 of A-Z a-z 0-9 . _ -, such as <cluster UUID>.<number>\nNUMA node -7: want -1 to 1023"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			d := Device{ID: "GPU-1", Index: 1, MemoryMiB: 1, Hardware: wired()}
			tc.change(d.Hardware)
			if diff := cmp.Diff(tc.want, fmt.Sprint(d.Validate())); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
}

// changed calls f for every field of the struct, and of the structs in it, with the field changed.
func changed(v reflect.Value, name string, f func(name string)) {
	switch v.Kind() {
	case reflect.Struct:
		for field, inner := range v.Fields() {
			changed(inner, name+"."+field.Name, f)
		}
		return
	case reflect.Pointer:
		changed(v.Elem(), name, f)
	}
	old := reflect.New(v.Type()).Elem()
	old.Set(v)
	switch v.Kind() {
	case reflect.String:
		v.SetString(v.String() + "x")
	case reflect.Int, reflect.Int64:
		v.SetInt(v.Int() + 1)
	case reflect.Bool:
		v.SetBool(!v.Bool())
	case reflect.Slice:
		v.Set(v.Slice(1, v.Len()))
	case reflect.Pointer:
		v.SetZero()
	default:
		panic(name + " is of a kind that this test cannot change")
	}
	f(name)
	v.Set(old)
}

func TestEqualSeesEveryField(t *testing.T) {
	sound := func() Device {
		return Device{
			ID: "GPU-1", Index: 1, Product: "P", MemoryMiB: 1, MIG: true, Instances: []Instance{{"3g.20gb", 0, 4}}, Hardware: wired(),
		}
	}
	if !sound().Equal(sound()) {
		t.Error("not equal to itself made again")
	}
	d, fields := sound(), 0
	changed(reflect.ValueOf(&d).Elem(), "Device", func(name string) {
		fields++
		if d.Equal(sound()) || sound().Equal(d) {
			t.Errorf("equal with another %s", name)
		}
	})
	if fields < 20 || !d.Equal(sound()) {
		t.Errorf("%d fields were changed, and after that they are equal: %t", fields, d.Equal(sound()))
	}
}

func TestNilIsHardwareOfWhichNothingIsKnown(t *testing.T) {
	var none *Hardware
	for name, tc := range map[string]struct {
		h    *Hardware
		want bool
	}{
		"nil":                 {nil, true},
		"nothing known":       {&Hardware{NUMANode: -1}, true},
		"no peers, not nil":   {&Hardware{NUMANode: -1, Links: Links{Peers: []Peer{}}}, true},
		"known: NUMA node 0":  {&Hardware{}, false},
		"known: its position": {&Hardware{NUMANode: -1, PCIBusID: "0000:65:00.0"}, false},
	} {
		if got := none.Equal(tc.h); got != tc.want {
			t.Errorf("nil equals %s: %t", name, got)
		}
		if got := tc.h.Equal(none); got != tc.want {
			t.Errorf("%s equals nil: %t", name, got)
		}
	}
}
