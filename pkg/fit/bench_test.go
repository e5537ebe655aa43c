package fit

import (
	"fmt"
	"testing"

	"weft.sh/weft/pkg/cluster"
	"weft.sh/weft/pkg/gpu"
)

// What one decision about one node costs when nothing of it is remembered: every shape of node that a cluster has many of,
// against the requests that come most.
func BenchmarkDecision(b *testing.B) {
	eight := make([]gpu.Device, 8)
	for i := range eight {
		eight[i] = plain(i)
	}
	pod := func(i int, a gpu.Assignment) cluster.Pod {
		return cluster.NewPod(fmt.Sprint(i), fmt.Sprint("ns/", i), a)
	}
	idle := cluster.NewNode("n", cluster.NewInventory(cluster.SourceSlices, eight), nil)
	busy := idle
	for i := range 6 {
		g := gpu.Grant{GPU: eight[i].ID, MilliGPU: int64(200 + 100*i), MemoryMiB: int64(20 + 10*i)}
		busy = busy.With(pod(i, gpu.Assignment{Containers: []gpu.ContainerGrants{{Container: "c", Grants: []gpu.Grant{g}}}}))
	}
	mix := NewMix(map[Class]int64{shareClass(250, 1): 5, shareClass(500, 1): 3, wholeClass(1): 4, wholeClass(8): 2})
	for _, n := range []struct {
		name string
		node *cluster.Node
	}{{"idle", idle}, {"busy", busy}, {"linked", cluster.NewNode("n", cluster.NewInventory(cluster.SourceSlices, dgx1()), nil)}} {
		for _, r := range []struct {
			name    string
			request gpu.Request
		}{
			{"share", asking(share(300))},
			{"two whole", asking(whole(2))},
			{"whole and share", gpu.Request{Containers: []gpu.ContainerRequest{
				{Name: "a", Asks: []gpu.Ask{whole(1)}}, {Name: "b", Asks: []gpu.Ask{share(300)}},
			}}},
		} {
			b.Run(fmt.Sprintf("%s/%s/check", n.name, r.name), func(b *testing.B) {
				for b.Loop() {
					Check(n.node, r.request)
				}
			})
			b.Run(fmt.Sprintf("%s/%s/score", n.name, r.name), func(b *testing.B) {
				for b.Loop() {
					Score(n.node, r.request, CPU{FreeMilli: 64000, AskMilli: 4000}, Fragmentation{Mix: mix})
				}
			})
			b.Run(fmt.Sprintf("%s/%s/assign", n.name, r.name), func(b *testing.B) {
				for b.Loop() {
					if _, err := Assign(n.node, r.request, CPU{FreeMilli: 64000, AskMilli: 4000}, Fragmentation{Mix: mix}); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
