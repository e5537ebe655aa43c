package gang

import (
	"context"
	"errors"
	"strings"
	"sync"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	corev1helpers "k8s.io/component-helpers/scheduling/corev1"
	fwk "k8s.io/kube-scheduler/framework"
	schedulerapi "k8s.io/kubernetes/pkg/scheduler/apis/config"
	"k8s.io/kubernetes/pkg/scheduler/framework"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/defaultpreemption"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/feature"
	"k8s.io/kubernetes/pkg/scheduler/framework/preemption"

	"weft.sh/weft/pkg/gang"
	"weft.sh/weft/pkg/podgroup"
	"weft.sh/weft/pkg/podspec"
)

// preemptAlone makes room for a pod that is in no gang, where gangs run that it may take the place of: plugin DefaultPreemption does
// not know them, and would evict one member and leave the others running for nothing. There are two ways:
//
//   - The pod is planned as a gang of one, and whole gangs may leave for it (makeRoom).
//   - DefaultPreemption looks for victims, but is shown no member that its gang needs. It also sees what the first way does not,
//     such as a host port that a victim has, or a claim.
//
// A pod with GPUs goes the first way first, for that knows what evictions cost; one without goes it last, so that no gang leaves for a
// pod that others can make room for. Where neither finds anything nobody is evicted, so DefaultPreemption does not get to it.
func (pl *Plugin) preemptAlone(
	ctx context.Context, state fwk.CycleState, pod *v1.Pod, statuses fwk.NodeToStatusReader,
) (*fwk.PostFilterResult, *fwk.Status) {
	nodes, err := pl.handle.SnapshotSharedLister().NodeInfos().List()
	if err != nil {
		return nil, fwk.AsStatus(err)
	}
	priority := corev1helpers.PodPriority(pod)
	_, of := pl.reclaim([]*v1.Pod{pod}, nil)
	such := func(p *v1.Pod) bool { return inGang(p) && corev1helpers.PodPriority(p) < priority }
	if of != nil { // whom priority decides about DefaultPreemption does not know
		such = func(p *v1.Pod) bool { return corev1helpers.PodPriority(p) < priority || of.mayLeave(p, priority) }
	}
	if !anySuch(nodes, such) {
		return nil, fwk.NewStatus(fwk.Unschedulable)
	}
	if err := pl.gangs.wait(ctx); err != nil {
		return nil, fwk.AsStatus(err)
	}
	ways := []func() (*fwk.PostFilterResult, *fwk.Status){
		func() (*fwk.PostFilterResult, *fwk.Status) { return pl.roomForOne(ctx, pod, nodes) },
		func() (*fwk.PostFilterResult, *fwk.Status) {
			return pl.preemptSparing(ctx, state, pod, statuses, pl.spared(nodes, of))
		},
	}
	if r, err := podspec.PendingRequest(pod); err == nil && r.Empty() {
		ways[0], ways[1] = ways[1], ways[0]
	}
	var result *fwk.PostFilterResult
	var said strings.Builder
	for _, way := range ways {
		r, status := way()
		if status.Code() != fwk.Unschedulable {
			return r, status
		}
		if r != nil {
			result = r
		}
		said.WriteString(status.Message())
	}
	if len(pod.Spec.ResourceClaims) > 0 {
		// Plugin DynamicResources may give a claim back, and comes after this one; but DefaultPreemption after that.
		if c, _, status := pl.candidate(ctx, state, pod, statuses, nil); c == nil && status.IsRejected() {
			return result, status
		}
	}
	return result, fwk.NewStatus(fwk.UnschedulableAndUnresolvable, said.String())
}

func inGang(p *v1.Pod) bool {
	_, ok := podgroup.KeyOf(p)
	return ok
}

// anySuch reports whether such a pod runs.
func anySuch(nodes []fwk.NodeInfo, such func(*v1.Pod) bool) bool {
	for _, n := range nodes {
		for _, p := range n.GetPods() {
			if such(p.GetPod()) {
				return true
			}
		}
	}
	return false
}

// roomForOne plans the pod as a gang of one, evicts whom that takes, and nominates the pod as DefaultPreemption does.
func (pl *Plugin) roomForOne(ctx context.Context, pod *v1.Pod, nodes []fwk.NodeInfo) (*fwk.PostFilterResult, *fwk.Status) {
	none := fwk.NewStatus(fwk.Unschedulable)
	if _, err := podspec.PendingRequest(pod); err != nil || len(pod.Spec.ResourceClaims) > 0 {
		return nil, none
	}
	pl.gangs.gpus.Cache().Snapshot(pl.snapshot)
	in := alone(pod)
	q, refused, err := pl.ask(ctx, in, nodes)
	if err != nil {
		return nil, fwk.AsStatus(err)
	}
	if refused != nil || !q.mayPreempt() {
		return nil, none
	}
	q.widen(ctx)
	room, err := q.makeRoom(ctx)
	if err != nil {
		return nil, fwk.AsStatus(err)
	}
	if room == nil || len(room.result.Placements) == 0 {
		return nil, none
	}
	pl.evictFor(pod, room.right(), room.victims)
	return framework.NewPostFilterResultWithNominatedNode(room.of.Nodes[room.result.Placements[0].Node].Name), nil
}

// evictFor evicts the victims off the scheduling loop.
func (pl *Plugin) evictFor(pod *v1.Pod, right string, victims []*v1.Pod) {
	if len(victims) == 0 {
		return
	}
	go func() {
		if _, err := pl.evict(preemptor{"pod " + pod.Namespace + "/" + pod.Name, right, pod}, victims); err != nil {
			pl.gangs.activate([]*v1.Pod{pod})
		}
	}()
}

// spared are pods that DefaultPreemption may not have, whatever their priority.
type spared struct {
	// needed may not leave by themselves: their gang cannot run without them, or is being started. others are those of queues between which
	// priority does not decide.
	needed, others map[types.UID]bool
}

func (pl *Plugin) spared(nodes []fwk.NodeInfo, of rights) *spared {
	s := &spared{needed: pl.needed(nodes), others: map[types.UID]bool{}}
	if of == nil {
		return s
	}
	for _, n := range nodes {
		for _, p := range n.GetPods() {
			groups, _, _, ranked := of(p.GetPod())
			s.others[p.GetPod().UID] = !ranked || len(groups) > 0 // DefaultPreemption knows no caps
		}
	}
	return s
}

// needed are the pods that may not leave by themselves.
func (pl *Plugin) needed(nodes []fwk.NodeInfo) map[types.UID]bool {
	out, seen := map[types.UID]bool{}, map[gang.Key]bool{}
	for _, n := range nodes {
		for _, info := range n.GetPods() {
			p := info.GetPod()
			k, ok := podgroup.KeyOf(p)
			if !ok {
				continue
			}
			if pl.gangs.book.has(k) {
				out[p.UID] = true
				continue
			}
			if seen[k] {
				continue
			}
			seen[k] = true
			members, _ := pl.members(k)
			for _, m := range members {
				out[m.UID] = true
			}
		}
	}
	return out
}

// preemptSparing has DefaultPreemption look for victims among all pods but the needed ones, and evicts them. A pod that may preempt
// nobody, or waits for its victims to go, is not to try anything else.
func (pl *Plugin) preemptSparing(
	ctx context.Context, state fwk.CycleState, pod *v1.Pod, statuses fwk.NodeToStatusReader, spare *spared,
) (*fwk.PostFilterResult, *fwk.Status) {
	c, result, status := pl.candidate(ctx, state, pod, statuses, spare)
	switch {
	case c == nil && result == nil && status.IsRejected():
		return nil, fwk.NewStatus(fwk.UnschedulableAndUnresolvable, status.Message())
	case c == nil:
		return result, status
	}
	pl.evictFor(pod, (&room{}).right(), c.Victims().Pods)
	return framework.NewPostFilterResultWithNominatedNode(c.Name()), nil
}

// errChosen ends DefaultPreemption before it evicts anybody.
var errChosen = errors.New("the victims are chosen")

// candidate is the node, and the victims on it, that DefaultPreemption chooses for the pod when it may not have the needed ones; nil
// where it finds none or waits for pods that are leaving, which the other results say. Nobody is evicted.
func (pl *Plugin) candidate(
	ctx context.Context, state fwk.CycleState, pod *v1.Pod, statuses fwk.NodeToStatusReader, spare *spared,
) (preemption.Candidate, *fwk.PostFilterResult, *fwk.Status) {
	features := feature.NewSchedulerFeaturesFromGates(utilfeature.DefaultFeatureGate)
	features.EnableAsyncPreemption = false
	// The defaults: the plugin's own arguments are not to be had here.
	args := &schedulerapi.DefaultPreemptionArgs{MinCandidateNodesPercentage: 10, MinCandidateNodesAbsolute: 100}
	inTree, err := defaultpreemption.New(ctx, args, pl.handle, features)
	if err != nil {
		return nil, nil, fwk.AsStatus(err)
	}
	inTree.IsEligiblePod = func(_ fwk.NodeInfo, victim preemption.Victim, _ *v1.Pod) bool { return pl.mayLeave(victim, spare) }
	var mu sync.Mutex
	var chosen preemption.Candidate
	inTree.Executor.PreemptPod = func(_ context.Context, c preemption.Candidate, _ preemption.ExecutorPreemptor, _ *v1.Pod, _ string) (bool, error) {
		mu.Lock()
		defer mu.Unlock()
		chosen = c
		return false, errChosen
	}
	result, status := inTree.PostFilter(ctx, state, pod, statuses)
	if chosen != nil {
		return chosen, nil, nil
	}
	return nil, result, status
}

// mayLeave reports whether no needed pod is among those that leave together, or the whole of its gang is.
func (pl *Plugin) mayLeave(victim preemption.Victim, spare *spared) bool {
	if spare == nil {
		return true
	}
	leaving := map[types.UID]bool{}
	for _, info := range victim.Pods() {
		p := info.GetPod()
		leaving[p.UID] = true
		if spare.others[p.UID] {
			return false
		}
		if !pl.bound(p) {
			return false // its turn comes when it is
		}
	}
	for _, info := range victim.Pods() {
		p := info.GetPod()
		if !spare.needed[p.UID] {
			continue
		}
		k, ok := podgroup.KeyOf(p)
		if !ok || pl.gangs.book.has(k) {
			return false
		}
		members, surplus := pl.members(k)
		for _, m := range append(members, surplus...) {
			if !leaving[m.UID] {
				return false
			}
		}
	}
	return true
}
