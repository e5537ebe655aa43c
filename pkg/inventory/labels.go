package inventory

import (
	"fmt"
	"strconv"

	v1 "k8s.io/api/core/v1"

	"weft.sh/weft/pkg/cluster"
	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/podspec"
)

// FromLabels is what NVIDIA's labels of the node say. Without nvidia.com/gpu.product and .count it is the zero inventory.
func FromLabels(node *v1.Node) cluster.Inventory {
	product, hasProduct := node.Labels[podspec.LabelProduct]
	countText, hasCount := node.Labels[podspec.LabelCount]
	if !hasProduct || !hasCount {
		return cluster.Inventory{}
	}
	if _, ok := node.Status.Allocatable[podspec.ResourceGPUPercent]; ok {
		// Its GPUs have other names, and pods may hold them by those. The kubelet deletes the slices of a node when it
		// starts, and its agent publishes them again.
		return cluster.NewInventory(cluster.SourceNone, nil,
			fmt.Sprintf("the node has %s in its allocatable, so it has an agent, whose ResourceSlices are missing", podspec.ResourceGPUPercent))
	}
	if sharing, ok := node.Labels[podspec.LabelSharing]; ok && sharing != "none" {
		return cluster.NewInventory(cluster.SourceLabels, nil,
			fmt.Sprintf("label %s is %q: GPUs shared by another device plugin cannot be given whole", podspec.LabelSharing, sharing))
	}
	count, err := strconv.Atoi(countText)
	if err != nil || count < 0 || count > podspec.MaxGPUCount {
		return cluster.NewInventory(cluster.SourceLabels, nil,
			fmt.Sprintf("label %s is %q: want a number from 0 to %d", podspec.LabelCount, countText, podspec.MaxGPUCount))
	}
	memoryText := node.Labels[podspec.LabelMemory]
	memoryMiB, err := strconv.ParseInt(memoryText, 10, 64)
	if err != nil || memoryMiB < 1 {
		return cluster.NewInventory(cluster.SourceLabels, nil,
			fmt.Sprintf("label %s is %q: want the memory of one GPU in MiB", podspec.LabelMemory, memoryText))
	}
	if q, ok := node.Status.Allocatable[podspec.ResourceGPU]; ok {
		count = int(min(int64(count), max(0, q.Value())))
	}
	devices := make([]gpu.Device, count)
	for i := range devices {
		devices[i] = gpu.Device{
			ID: cluster.LabelGPU(i), Index: i, Product: product, MemoryMiB: memoryMiB, WholeOnly: true,
		}
	}
	return cluster.NewInventory(cluster.SourceLabels, devices)
}

// Of is what a node reports: by its slices if it publishes any, else by its labels. The node may be nil, when it is not
// known (yet).
func Of(node *v1.Node, slices cluster.Inventory) cluster.Inventory {
	if slices.Source != cluster.SourceNone || node == nil {
		return slices
	}
	return FromLabels(node)
}
