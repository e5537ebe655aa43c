package inventory

import (
	v1 "k8s.io/api/core/v1"
	resourceapi "k8s.io/api/resource/v1"

	"weft.sh/weft/pkg/cluster"
	"weft.sh/weft/pkg/podspec"
)

// Build is the state of the cluster that the API objects alone show, computed at once: what a [Tracker] arrives at when
// it has seen the same objects and nothing else. Objects may come in any order. Like the cache, it leaves out nodes about
// which there is nothing to know: no GPU, no problem and no pod that holds any.
func Build(nodes []*v1.Node, slices []*resourceapi.ResourceSlice, pods []*v1.Pod) *cluster.Snapshot {
	published := map[string][]*resourceapi.ResourceSlice{}
	for _, s := range slices {
		if s.Spec.Driver == Driver && s.Spec.NodeName != nil {
			published[*s.Spec.NodeName] = append(published[*s.Spec.NodeName], s)
		}
	}
	held := map[string][]cluster.Pod{}
	for _, pod := range pods {
		if !podspec.Bound(pod) {
			continue
		}
		// Why an assignment is not known is for whoever shows it; here the pod counts with what it asks for.
		p, _ := Holding(pod)
		if p.Assignment.Empty() && p.Unplaced.Empty() {
			continue
		}
		held[pod.Spec.NodeName] = append(held[pod.Spec.NodeName], p)
	}
	s := cluster.NewSnapshot()
	for _, node := range nodes {
		inv := Of(node, FromSlices(published[node.Name]))
		if len(inv.Devices) > 0 || len(inv.Problems) > 0 || len(held[node.Name]) > 0 {
			s.Set(cluster.NewNode(node.Name, inv, held[node.Name]))
		}
		delete(held, node.Name)
	}
	for name, pods := range held {
		// The node is gone and its pods are not yet: what they hold is known should it return.
		s.Set(cluster.NewNode(name, cluster.Inventory{}, pods))
	}
	return s
}
