package cluster

import (
	"testing"

	"weft.sh/weft/pkg/gpu"
)

// When a node changes from labels to slices or back, its GPUs get other names under the pods that hold them. Whatever is
// held by names of the other kind is withheld, or it would be given twice.
func TestGPUsThatChangeTheirNamesAreWithheld(t *testing.T) {
	uuids := func(ids ...gpu.ID) Inventory {
		var devices []gpu.Device
		for i, id := range ids {
			devices = append(devices, gpu.Device{ID: id, Index: i, Product: "T", MemoryMiB: 1000})
		}
		return NewInventory(SourceSlices, devices)
	}
	labels := func(n int) Inventory {
		var devices []gpu.Device
		for i := range n {
			devices = append(devices, gpu.Device{ID: LabelGPU(i), Index: i, Product: "T", MemoryMiB: 1000, WholeOnly: true})
		}
		return NewInventory(SourceLabels, devices)
	}
	for name, tc := range map[string]struct {
		now      Inventory
		pods     []Pod
		idle     int
		withheld int
	}{
		"slices, as the pods know them":               {uuids("GPU-a", "GPU-b"), []Pod{holds(t, "1", "c=GPU-a")}, 1, 0},
		"slices, and a GPU is gone: others are free":  {uuids("GPU-b"), []Pod{holds(t, "1", "c=GPU-a")}, 1, 0},
		"labels now, where a pod holds a UUID":        {labels(2), []Pod{holds(t, "1", "c=GPU-a")}, 2, 1},
		"two shares of one GPU are one GPU":           {labels(2), []Pod{holds(t, "1", "c=GPU-a:500m/500Mi"), holds(t, "2", "c=GPU-a:500m/500Mi")}, 2, 1},
		"shares of two GPUs are two":                  {labels(2), []Pod{holds(t, "1", "c=GPU-a:500m/500Mi"), holds(t, "2", "c=GPU-b:500m/500Mi")}, 2, 2},
		"a MIG instance is on none of the label's":    {labels(2), []Pod{holds(t, "1", "c=GPU-a:1g.5gb@0:1")}, 2, 0},
		"labels with fewer GPUs than are held":        {labels(2), []Pod{holds(t, "1", "c=gpu-1,gpu-2")}, 1, 1},
		"slices now, where pods hold numbers":         {uuids("GPU-a", "GPU-b"), []Pod{holds(t, "1", "c=gpu-0"), holds(t, "2", "c=gpu-1")}, 2, 2},
		"a UUID that only looks like a number is one": {uuids("GPU-a"), []Pod{holds(t, "1", "c=gpu-01")}, 1, 0},
	} {
		t.Run(name, func(t *testing.T) {
			n := NewNode("n", tc.now, tc.pods)
			if n.IdleGPUs != tc.idle || n.Withheld.GPUs != tc.withheld {
				t.Errorf("%d idle and %d withheld, want %d and %d", n.IdleGPUs, n.Withheld.GPUs, tc.idle, tc.withheld)
			}
		})
	}
}
