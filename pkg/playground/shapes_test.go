package playground

import (
	"errors"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"

	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/inventory"
	"weft.sh/weft/pkg/mig"
)

func TestParseNodes(t *testing.T) {
	tests := map[string]struct {
		in   string
		want []string
		err  string
	}{
		"several shapes":   {in: "h100=2, l4=1", want: []string{"h100-0", "h100-1", "l4-0"}},
		"nothing":          {in: "", err: `"": want shape=number, for example h100=2`},
		"no number":        {in: "h100", err: `"h100": want shape=number`},
		"an unknown shape": {in: "h101=1", err: `shape "h101": want one of a100-mig, a100, h100,`},
		"no node":          {in: "h100=0", err: `h100="0": want a number from 1 to 20000`},
		"no integer":       {in: "h100=1.5", err: `h100="1.5": want a number`},
		"too many":         {in: "h100=20001", err: `h100="20001": want a number`},
		"too many in sum":  {in: "h100=20000,l4=1", err: "20001 nodes: want at most 20000"},
		"twice":            {in: "h100=1,h100=2", err: `shape "h100" stands twice`},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			nodes, err := ParseNodes(tc.in)
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) || !errors.Is(err, ErrBadNodes) {
					t.Fatalf("got error %v, want an ErrBadNodes with %q", err, tc.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, n := range nodes {
				got = append(got, n.Name)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestEveryShapeIsSound(t *testing.T) {
	uuid := regexp.MustCompile(`^GPU-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)
	seen := map[gpu.ID]bool{}
	for _, s := range Shapes() {
		nodes, err := ParseNodes(s.Name + "=2")
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range nodes {
			if err := n.validate(); err != nil {
				t.Error(err)
			}
			for _, d := range n.Devices {
				if !uuid.MatchString(string(d.ID)) || seen[d.ID] {
					t.Errorf("%s: id %q is no UUID or stands twice", n.Name, d.ID)
				}
				seen[d.ID] = true
				if _, known := mig.TableByProduct(d.Product); d.MIG && (!known || len(d.Instances) == 0) {
					t.Errorf("%s: %s is in MIG mode and no table has it", n.Name, d.Product)
				}
			}
			again, _ := ParseNodes(s.Name + "=2")
			if diff := cmp.Diff(nodes, again); diff != "" {
				t.Errorf("not the same the second time: %s", diff)
			}
			// What is published is what the scheduler reads back.
			object := n.Object()
			got := inventory.Of(object, inventory.FromSlices(n.Slices(object)))
			if len(got.Problems) > 0 {
				t.Errorf("%s: %q", n.Name, got.Problems)
			}
			if len(got.Devices) != len(n.Devices) {
				t.Errorf("%s: %d GPUs are read back, want %d", n.Name, len(got.Devices), len(n.Devices))
			}
		}
	}
}

func TestResourcesOfANodeWithMIG(t *testing.T) {
	nodes, err := ParseNodes("a100-mig=1")
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]int64{}
	for name, quantity := range nodes[0].Object().Status.Allocatable {
		if strings.Contains(string(name), "/") {
			got[string(name)] = quantity.Value()
		}
	}
	want := map[string]int64{
		"nvidia.com/gpu": 4, "weft.sh/gpu-percent": 400,
		"nvidia.com/mig-1g.5gb": 28, "nvidia.com/mig-1g.5gb.me": 4, "nvidia.com/mig-1g.10gb": 16, "nvidia.com/mig-2g.10gb": 12,
		"nvidia.com/mig-3g.20gb": 8, "nvidia.com/mig-4g.20gb": 4, "nvidia.com/mig-7g.40gb": 4,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// As a node advertises them that leaves whole GPUs to another device plugin.
func TestResourcesOfGPUsThatAreNotGivenInBothWays(t *testing.T) {
	n := Node{Devices: []gpu.Device{{WholeOnly: true}, {SharedOnly: true}, {SharedOnly: true}, {}}}
	got := n.gpuResources()
	if whole, shared := got["nvidia.com/gpu"], got["weft.sh/gpu-percent"]; whole.Value() != 2 || shared.Value() != 300 || len(got) != 2 {
		t.Errorf("got %v", got)
	}
}

func TestNodeWithLabelsOnlyPublishesNothing(t *testing.T) {
	nodes, err := ParseNodes("t4-labels=1")
	if err != nil {
		t.Fatal(err)
	}
	object := nodes[0].Object()
	if got := nodes[0].Slices(object); got != nil {
		t.Errorf("slices: %v, want none", got)
	}
	if _, ok := object.Status.Allocatable["weft.sh/gpu-percent"]; ok {
		t.Error("it advertises weft.sh/gpu-percent, which only Weft's agent does")
	}
	if got := inventory.Of(object, inventory.FromSlices([]*resourcev1.ResourceSlice{})).Devices; len(got) != 4 || !got[0].WholeOnly {
		t.Errorf("devices: %v, want 4 that are given whole only", got)
	}
}

func TestPlacementIsChecked(t *testing.T) {
	device := gpu.Device{ID: "GPU-a", Product: "p", MemoryMiB: 1000}
	partitioned := gpu.Device{ID: "GPU-b", Index: 1, Product: "p", MemoryMiB: 1000, MIG: true, Instances: []gpu.Instance{
		{Profile: "3g.20gb", Start: 0, Size: 4}, {Profile: "3g.20gb", Start: 4, Size: 4}, {Profile: "1g.5gb", Start: 0, Size: 1},
	}}
	tests := map[string]struct {
		assignments []string
		granted     int64
		err         string
	}{
		"nothing":                     {},
		"shares that fill a GPU":      {assignments: []string{"c=GPU-a:600m/500Mi", "c=GPU-a:400m/500Mi"}, granted: 1000},
		"instances side by side":      {assignments: []string{"c=GPU-b:3g.20gb@0:4", "c=GPU-b:3g.20gb@4:4"}, granted: 856},
		"a whole GPU":                 {assignments: []string{"c=GPU-a"}, granted: 1000},
		"whole twice":                 {assignments: []string{"c=GPU-a", "c=GPU-a"}, granted: 2000, err: "given whole 2 times"},
		"whole and shared":            {assignments: []string{"c=GPU-a", "c=GPU-a:1m/1Mi"}, granted: 1001, err: "whole and shared"},
		"too much compute":            {assignments: []string{"c=GPU-a:600m/1Mi", "c=GPU-a:401m/1Mi"}, granted: 1001, err: "1001 milli-GPU are given"},
		"too much memory":             {assignments: []string{"c=GPU-a:1m/600Mi", "c=GPU-a:1m/401Mi"}, granted: 2, err: "1001 MiB are given, it has 1000"},
		"instances that overlap":      {assignments: []string{"c=GPU-b:3g.20gb@0:4", "c=GPU-b:1g.5gb@0:1"}, granted: 570, err: "are both given and overlap"},
		"an instance not on offer":    {assignments: []string{"c=GPU-b:1g.5gb@1:1"}, granted: 142, err: "1g.5gb@1:1 is given, which it does not offer"},
		"a MIG GPU given whole":       {assignments: []string{"c=GPU-b"}, granted: 1000, err: "in MIG mode and given whole"},
		"a GPU of nowhere":            {assignments: []string{"c=GPU-x"}, granted: 1000, err: "pod p0 holds GPU-x, which node n has not"},
		"an assignment that is none":  {assignments: []string{"c=GPU-a:x"}, err: "pod p0: malformed GPU assignment"},
		"GPUs without any assignment": {assignments: []string{""}, err: "pod p0 asks for GPUs and is bound to n without an assignment"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			var pods []corev1.Pod
			for i, a := range tc.assignments {
				p := Pod{Name: "p" + string(rune('0'+i)), GPUs: 1}.Object()
				p.Spec.NodeName = "n"
				if a != "" {
					p.Annotations["weft.sh/gpus"] = a
				}
				pods = append(pods, *p)
			}
			// The order of the list is not the order of the GPUs.
			got, err := newPlacement(map[string][]gpu.Device{"n": {partitioned, device}, "cpu": nil}, pods)
			if (err == nil) != (tc.err == "") || err != nil && !strings.Contains(err.Error(), tc.err) {
				t.Errorf("got error %v, want %q", err, tc.err)
			}
			if got.Capacity != 2000 || got.Granted != tc.granted {
				t.Errorf("granted %d of %d, want %d of 2000", got.Granted, got.Capacity, tc.granted)
			}
			if len(got.Nodes) != 1 || got.Nodes[0].GPUs[0].Device.ID != "GPU-a" {
				t.Errorf("nodes: %v, want n with its GPUs by index", got.Nodes)
			}
		})
	}
}

func TestDemoPodsAreUnderstood(t *testing.T) {
	pods, never := demoPods()
	if len(never) == 0 || len(pods) <= len(never) {
		t.Errorf("%d pods, %d of them cannot run; want some of both", len(pods), len(never))
	}
	seen := map[string]bool{}
	for _, p := range pods {
		if seen[p.Name] {
			t.Errorf("pod %s stands twice", p.Name)
		}
		seen[p.Name] = true
	}
}
