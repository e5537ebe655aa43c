package inventory

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	v1 "k8s.io/api/core/v1"
	resourceapi "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	weftcache "weft.sh/weft/pkg/cache"
	"weft.sh/weft/pkg/cluster"
	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/podspec"
)

// TestBuildIsTheCacheWithoutAHistory: from the same objects, in any order, Build makes what the cache makes of events.
func TestBuildIsTheCacheWithoutAHistory(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var nodes []*v1.Node
	var slicesOf []*resourceapi.ResourceSlice
	var pods []*v1.Pod
	for i := range 30 {
		name := fmt.Sprintf("node-%d", i)
		n := &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
		var devices []gpu.Device
		for g := range r.IntN(4) {
			devices = append(devices, gpu.Device{ID: gpu.ID(fmt.Sprintf("GPU-%d-%d", i, g)), Index: g, Product: "H100", MemoryMiB: 1000})
		}
		published := Slices(name, devices, 1)
		switch i % 5 {
		case 0: // nothing to know
			published = nil
		case 1: // labels
			published = nil
			n.Labels = map[string]string{podspec.LabelProduct: "T4", podspec.LabelCount: "2", podspec.LabelMemory: "15360"}
		case 2: // slices of a node that is not there
			n = nil
		case 3: // a pool that is not whole
			published[0].Spec.Pool.ResourceSliceCount = 7
		}
		slicesOf = append(slicesOf, published...)
		if n != nil {
			nodes = append(nodes, n)
		}
		for p := range r.IntN(4) {
			pod := &v1.Pod{
				ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: fmt.Sprintf("pod-%d-%d", i, p), UID: types.UID(fmt.Sprint(i, p)), Annotations: map[string]string{}},
				Spec:       v1.PodSpec{NodeName: name, Containers: []v1.Container{{Name: "main"}}},
			}
			ask := []v1.ResourceName{"cpu", podspec.ResourceGPU, podspec.ResourceGPUPercent}[r.IntN(3)]
			pod.Spec.Containers[0].Resources.Requests = v1.ResourceList{ask: *resource.NewQuantity(1, resource.DecimalSI)}
			switch r.IntN(5) {
			case 0:
				pod.Status.Phase = v1.PodSucceeded
			case 1:
				pod.Spec.NodeName = ""
			case 2, 3:
				pod.Annotations[podspec.AnnotationGPUs] = fmt.Sprintf("main=GPU-%d-%d", i, p)
			}
			pods = append(pods, pod)
		}
	}

	c := weftcache.New()
	for _, n := range nodes {
		var own []*resourceapi.ResourceSlice
		for _, s := range slicesOf {
			if *s.Spec.NodeName == n.Name {
				own = append(own, s)
			}
		}
		c.SetInventory(n.Name, Of(n, FromSlices(own)))
	}
	for _, p := range pods {
		if h, _ := Holding(p); podspec.Bound(p) && (!h.Assignment.Empty() || !h.Unplaced.Empty()) {
			c.Confirm(p.Spec.NodeName, h)
		}
	}
	want := cluster.NewSnapshot()
	c.Snapshot(want)

	for range 3 {
		got := Build(nodes, slicesOf, pods)
		if got.Len() != want.Len() {
			t.Errorf("%d nodes, want %d", got.Len(), want.Len())
		}
		for _, w := range want.Sorted() {
			g := got.Node(w.Name)
			if g == nil {
				t.Errorf("%s is missing", w.Name)
				continue
			}
			if !g.Inventory.Equal(w.Inventory) {
				t.Errorf("%s: inventory %+v, want %+v", w.Name, g.Inventory, w.Inventory)
			}
			if !slices.EqualFunc(g.Pods, w.Pods, cluster.Pod.Equal) {
				t.Errorf("%s: pods %v, want %v", w.Name, g.Pods, w.Pods)
			}
			if g.IdleGPUs != w.IdleGPUs || g.Withheld.GPUs != w.Withheld.GPUs {
				t.Errorf("%s: %d idle and %+v withheld, want %d and %+v", w.Name, g.IdleGPUs, g.Withheld, w.IdleGPUs, w.Withheld)
			}
		}
		slices.Reverse(nodes)
		r.Shuffle(len(pods), func(i, j int) { pods[i], pods[j] = pods[j], pods[i] })
		r.Shuffle(len(slicesOf), func(i, j int) { slicesOf[i], slicesOf[j] = slicesOf[j], slicesOf[i] })
	}
}
