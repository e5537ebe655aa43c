package cli

import (
	"cmp"
	"slices"

	v1 "k8s.io/api/core/v1"
	resourcehelper "k8s.io/component-helpers/resource"

	"weft.sh/weft/pkg/cluster"
	"weft.sh/weft/pkg/fit"
	"weft.sh/weft/pkg/inventory"
	"weft.sh/weft/pkg/podspec"
)

// view is a cluster as the scheduler sees it, made from API objects.
type view struct {
	// nodes are by name.
	nodes    []*v1.Node
	snapshot *cluster.Snapshot
	loads    map[string]load
	pods     []*v1.Pod
}

// load is what the pods of one node ask for.
type load struct {
	requests v1.ResourceList
	pods     int64
}

func newView(o Objects) *view {
	v := &view{
		nodes:    slices.Clone(o.Nodes),
		snapshot: inventory.Build(o.Nodes, o.Slices, o.Pods),
		loads:    map[string]load{},
		pods:     o.Pods,
	}
	slices.SortFunc(v.nodes, func(a, b *v1.Node) int { return cmp.Compare(a.Name, b.Name) })
	for _, p := range o.Pods {
		if !podspec.Bound(p) {
			continue
		}
		l := v.loads[p.Spec.NodeName]
		if l.requests == nil {
			l.requests = v1.ResourceList{}
		}
		for name, q := range boundRequests(p) {
			sum := l.requests[name]
			sum.Add(q)
			l.requests[name] = sum
		}
		l.pods++
		v.loads[p.Spec.NodeName] = l
	}
	return v
}

// boundRequests is what a bound pod takes of its node. While its resources are being changed in place, that is the larger
// of what it has and what it is to have.
func boundRequests(p *v1.Pod) v1.ResourceList {
	return resourcehelper.PodRequests(p, resourcehelper.PodResourcesOptions{
		UseStatusResources: true, InPlacePodLevelResourcesVerticalScalingEnabled: true,
	})
}

// freeMilliCPU is the CPU of the node that no pod asks for.
func (v *view) freeMilliCPU(n *v1.Node) int64 {
	l := v.loads[n.Name]
	return n.Status.Allocatable.Cpu().MilliValue() - l.requests.Cpu().MilliValue()
}

// mix is what requests are expected to come: such as those of the pods that there are. Like the scheduler's, it counts the
// pods that ask for GPUs and all those that the scheduler places; it knows nothing of pods that are gone.
func (v *view) mix(schedulerName string) (fit.Mix, int) {
	counts := map[fit.Class]int64{}
	pods := 0
	for _, p := range v.pods {
		r, err := podspec.Request(p)
		if err != nil || r.Empty() && p.Spec.SchedulerName != schedulerName {
			continue
		}
		counts[fit.ClassOf(r, podspec.MilliCPU(p))]++
		pods++
	}
	return fit.NewMix(counts), pods
}

// fragments measures what is left of a node and how much of that the mix is expected to find of no use, both in micro-GPU.
func fragments(n *cluster.Node, freeMilliCPU int64, m fit.Mix) (free, fragmented int64) {
	v := fit.NewView(n, freeMilliCPU)
	return v.MilliGPU() * 1000, m.FragmentMicroGPU(v)
}
