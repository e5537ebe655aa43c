package cluster

import (
	"fmt"
	"testing"

	"weft.sh/weft/pkg/gpu"
)

// What it costs to read a node's report, and to follow a pod that comes, which happens with every pod.
func BenchmarkNode(b *testing.B) {
	for name, hardware := range map[string]func(i int) *gpu.Hardware{
		"no hardware": func(int) *gpu.Hardware { return nil },
		"switches":    func(int) *gpu.Hardware { return &gpu.Hardware{Links: gpu.Links{Switch: 18}} },
		"pairs": func(i int) *gpu.Hardware {
			return &gpu.Hardware{NUMANode: i / 4, Links: gpu.Links{Peers: []gpu.Peer{{Index: i ^ 1, Links: 4}}}}
		},
	} {
		devices := make([]gpu.Device, 8)
		for i := range devices {
			devices[i] = gpu.Device{
				ID: gpu.ID(fmt.Sprintf("GPU-%d", i)), Index: i, Product: "NVIDIA-H100-80GB-HBM3", MemoryMiB: 81559, Hardware: hardware(i),
			}
		}
		n := NewNode("n", NewInventory(SourceSlices, devices), nil)
		p := NewPod("uid", "ns/name", gpu.Assignment{Containers: []gpu.ContainerGrants{{Container: "c", Grants: []gpu.Grant{{GPU: "GPU-3"}}}}})
		b.Run(name+"/inventory", func(b *testing.B) {
			for b.Loop() {
				NewInventory(SourceSlices, devices)
			}
		})
		b.Run(name+"/with", func(b *testing.B) {
			for b.Loop() {
				n.With(p)
			}
		})
	}
}
