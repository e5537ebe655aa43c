package deviceplugin

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/slot"
)

func TestResourceNames(t *testing.T) {
	for name, want := range map[string]slot.Resource{
		"nvidia.com/gpu":                {Kind: gpu.Whole},
		"weft.sh/gpu-percent":           {Kind: gpu.Shared},
		"nvidia.com/mig-1g.10gb":        {Kind: gpu.MIG, Profile: "1g.10gb"},
		"nvidia.com/mig-1g.10gb.me":     {Kind: gpu.MIG, Profile: "1g.10gb+me"},
		"nvidia.com/mig-1g.24gb.me.all": {Kind: gpu.MIG, Profile: "1g.24gb+me.all"},
		"nvidia.com/mig-1g.24gb-me":     {Kind: gpu.MIG, Profile: "1g.24gb-me"},
	} {
		got, ok := ParseResourceName(name)
		if diff := cmp.Diff(want, got); !ok || diff != "" {
			t.Errorf("ParseResourceName(%q) is %v, %v (-want +got):\n%s", name, got, ok, diff)
		}
		if back := ResourceName(want); back != name {
			t.Errorf("ResourceName(%+v) is %q; want %q", want, back, name)
		}
	}
	for _, name := range []string{
		"", "cpu", "nvidia.com/gpu.shared", "nvidia.com/mig-", "nvidia.com/mig-1g.10gb+me", "nvidia.com/mig-1g.10gb.", "nvidia.com/mig-all",
		"amd.com/gpu", "weft.sh/gpu", "nvidia.com/mig-1g.10gb..me",
	} {
		if got, ok := ParseResourceName(name); ok {
			t.Errorf("ParseResourceName(%q) is %v; want none", name, got)
		}
	}
}

func FuzzParseResourceName(f *testing.F) {
	for _, name := range []string{"nvidia.com/gpu", "nvidia.com/mig-1g.24gb.me.all", "nvidia.com/mig-1gb.gb.", "weft.sh/gpu-percent"} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		if r, ok := ParseResourceName(name); ok && ResourceName(r) != name {
			t.Errorf("%q is %+v, whose name is %q", name, r, ResourceName(r))
		}
	})
}

func TestDeviceList(t *testing.T) {
	long := strings.Repeat("x", 63)
	device := func(id, health string) *pluginapi.Device { return &pluginapi.Device{ID: id, Health: health} }
	for name, test := range map[string]struct {
		slots map[string]bool
		limit int
		want  []*pluginapi.Device
		err   error
	}{
		"nothing": {limit: 100},
		"in the order of their numbers": {
			slots: map[string]bool{"s-10": true, "s-2": false, "s-1": true}, limit: 100,
			want: []*pluginapi.Device{device("s-1", healthy), device("s-2", unhealthy), device("s-10", healthy)},
		},
		"names that are none are left out": {
			slots: map[string]bool{"": true, "a b": true, "ä": true, "a\n": true, long: true, long + "x": true, "s": true}, limit: 1000,
			want: []*pluginapi.Device{device("s", healthy), device(long, healthy)}, err: errSlotName,
		},
		// A device of this name takes 2 bytes, its ID 2+3, its health 2+7.
		"exactly as long as it may be": {
			slots: map[string]bool{"s-1": true, "s-2": true}, limit: 32,
			want: []*pluginapi.Device{device("s-1", healthy), device("s-2", healthy)},
		},
		"a byte too long": {
			slots: map[string]bool{"s-1": true, "s-2": true}, limit: 31,
			want: []*pluginapi.Device{device("s-1", healthy)}, err: errTooLong,
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := deviceList(test.slots, test.limit)
			if !errors.Is(err, test.err) || (err == nil) != (test.err == nil) {
				t.Errorf("error %v; want %v", err, test.err)
			}
			if diff := cmp.Diff(test.want, got, protocmp.Transform(), cmpEmpty); diff != "" {
				t.Errorf("list (-want +got):\n%s", diff)
			}
		})
	}
}

// cmpEmpty takes nil and empty lists of devices for the same.
var cmpEmpty = cmp.FilterValues(func(a, b []*pluginapi.Device) bool { return len(a) == 0 && len(b) == 0 }, cmp.Ignore())
