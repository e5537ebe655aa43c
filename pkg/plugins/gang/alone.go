package gang

import (
	"context"

	v1 "k8s.io/api/core/v1"
	corev1helpers "k8s.io/component-helpers/scheduling/corev1"
	fwk "k8s.io/kube-scheduler/framework"
	"k8s.io/kubernetes/pkg/scheduler/framework"

	"weft.sh/weft/pkg/gang"
	"weft.sh/weft/pkg/podgroup"
	"weft.sh/weft/pkg/podspec"
)

// preemptAlone makes room for a pod with GPUs that is in no gang, where gangs run that it may take the place of: plugin
// DefaultPreemption does not know them, and would evict one member and leave the others running for nothing. The pod is planned
// as a gang of one, and nominated as DefaultPreemption does. Every other pod is DefaultPreemption's, and so are those for which
// this finds nothing.
func (pl *Plugin) preemptAlone(ctx context.Context, pod *v1.Pod) (*fwk.PostFilterResult, *fwk.Status) {
	pass := fwk.NewStatus(fwk.Unschedulable)
	if r, err := podspec.PendingRequest(pod); err != nil || r.Empty() || len(pod.Spec.ResourceClaims) > 0 {
		return nil, pass
	}
	if _, ok := podgroup.KeyOf(pod); ok {
		return nil, pass
	}
	nodes, err := pl.handle.SnapshotSharedLister().NodeInfos().List()
	if err != nil {
		return nil, fwk.AsStatus(err)
	}
	if !gangsBelow(nodes, corev1helpers.PodPriority(pod)) {
		return nil, pass
	}
	if err := pl.gangs.wait(ctx); err != nil {
		return nil, fwk.AsStatus(err)
	}
	pl.gangs.gpus.Cache().Snapshot(pl.snapshot)
	in := inspection{spec: gang.Spec{Key: gang.Key{Namespace: pod.Namespace}, Min: 1}, members: []*v1.Pod{pod}, need: 1}
	q, refused, err := pl.ask(ctx, in, nodes)
	if err != nil {
		return nil, fwk.AsStatus(err)
	}
	if refused != nil || !q.mayPreempt() {
		return nil, pass
	}
	q.widen(ctx)
	room, err := q.makeRoom(ctx)
	if err != nil {
		return nil, fwk.AsStatus(err)
	}
	if room == nil || len(room.result.Placements) == 0 {
		return nil, pass
	}
	if len(room.victims) > 0 {
		go func() {
			by := preemptor{"pod " + pod.Namespace + "/" + pod.Name, pod}
			if _, err := pl.evict(by, room.victims); err != nil {
				pl.gangs.activate([]*v1.Pod{pod})
			}
		}()
	}
	return framework.NewPostFilterResultWithNominatedNode(room.of.Nodes[room.result.Placements[0].Node].Name), fwk.NewStatus(fwk.Success)
}

// gangsBelow reports whether a member of a gang runs with a lower priority.
func gangsBelow(nodes []fwk.NodeInfo, priority int32) bool {
	for _, n := range nodes {
		for _, p := range n.GetPods() {
			if _, ok := podgroup.KeyOf(p.GetPod()); ok && corev1helpers.PodPriority(p.GetPod()) < priority {
				return true
			}
		}
	}
	return false
}
