package gang

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	fwk "k8s.io/kube-scheduler/framework"
	"k8s.io/kubernetes/pkg/scheduler/framework"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/feature"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/topologyaware"

	"weft.sh/weft/pkg/fit"
	"weft.sh/weft/pkg/gang"
	"weft.sh/weft/pkg/metrics"
	"weft.sh/weft/pkg/podgroup"
)

var (
	_ fwk.PlacementGeneratePlugin  = (*Plugin)(nil)
	_ fwk.PodGroupPostFilterPlugin = (*Plugin)(nil)
)

// answerKey is where the cycle of a native PodGroup has its answer.
const answerKey fwk.StateKey = Name + "/answer"

// answer is what is decided in one cycle of a native PodGroup. The zero answer is for a group that is no gang.
type answer struct {
	key  gang.Key
	gang bool
	// question and refused are set when there is no room, refused alone when the group cannot be planned whatever is free.
	question *question
	refused  *refusal
	err      error
}

// Clone implements fwk.StateData. An answer never changes.
func (a *answer) Clone() fwk.StateData { return a }

func readAnswer(state fwk.PodGroupCycleState) *answer {
	data, err := state.Read(answerKey)
	if err != nil {
		return nil
	}
	return data.(*answer)
}

// status is what the pods of a group without a plan are told. The framework takes no error but a FitError for a verdict; any other
// it would report, for each pod, as an error of its own.
func (a *answer) status(pod *v1.Pod, nodes int) *fwk.Status {
	if a.err != nil {
		return fwk.AsStatus(a.err)
	}
	if a.refused == nil {
		return nil
	}
	return fwk.NewStatus(a.refused.code).WithError(&framework.FitError{
		Pod: pod, NumAllNodes: nodes,
		Diagnosis: framework.Diagnosis{
			NodeToStatus: framework.NewDefaultNodeToStatus(), UnschedulablePlugins: sets.New(Name), PreFilterMsg: a.refused.message,
		},
	})
}

// GeneratePlacements implements fwk.PlacementGeneratePlugin: it plans a native gang, and offers the nodes of the plan and no
// others. Groups that are no gangs are left to the in-tree plugin, for there can be only one in a profile.
//
// A refusal is returned here rather than by the members' PreFilter: the framework stops asking members as soon as too few are
// left for the minimum, and the others would be told only that.
func (pl *Plugin) GeneratePlacements(
	ctx context.Context, state fwk.PodGroupCycleState, group fwk.PodGroupInfo, parent *fwk.Placement,
) (*fwk.GeneratePlacementsResult, *fwk.Status) {
	pods := group.GetUnscheduledPods()
	if group.GetPodGroup() == nil || len(pods) == 0 {
		return pl.inTreePlacements(ctx, state, group, parent)
	}
	a := pl.answer(ctx, state, nativeKey(group), pods, parent.Nodes)
	if !a.gang {
		return pl.inTreePlacements(ctx, state, group, parent)
	}
	if status := a.status(pods[0], len(parent.Nodes)); !status.IsSuccess() {
		return nil, status
	}
	planned := sets.New[string]()
	for _, node := range pl.gangs.book.placed(a.key) {
		planned.Insert(node)
	}
	placement := &fwk.Placement{Name: Name}
	for _, n := range parent.Nodes {
		if planned.Has(n.Node().Name) {
			placement.Nodes = append(placement.Nodes, n)
		}
	}
	if len(placement.Nodes) == 0 { // the plan was undone meanwhile, by a change of the group
		return nil, fwk.AsStatus(errUndone)
	}
	return &fwk.GeneratePlacementsResult{Placements: []*fwk.Placement{placement}}, nil
}

func nativeKey(group fwk.PodGroupInfo) gang.Key {
	return gang.Key{Source: gang.SourceNative, Namespace: group.GetNamespace(), Name: group.GetName()}
}

func (pl *Plugin) inTreePlacements(
	ctx context.Context, state fwk.PodGroupCycleState, group fwk.PodGroupInfo, parent *fwk.Placement,
) (*fwk.GeneratePlacementsResult, *fwk.Status) {
	inTree, err := topologyaware.New(ctx, nil, pl.handle, feature.NewSchedulerFeaturesFromGates(utilfeature.DefaultFeatureGate))
	if err != nil {
		return nil, fwk.AsStatus(err)
	}
	return inTree.GeneratePlacements(ctx, state, group, parent)
}

// answer is the cycle's answer, made when it is asked for first.
func (pl *Plugin) answer(ctx context.Context, state fwk.PodGroupCycleState, k gang.Key, pods []*v1.Pod, nodes []fwk.NodeInfo) *answer {
	if a := readAnswer(state); a != nil {
		return a
	}
	a := &answer{key: k}
	pl.gangs.tidy(pl.now())
	pl.gangs.book.begin(k, pl.now())
	if a.err = pl.gangs.wait(ctx); a.err == nil {
		pl.planNative(ctx, a, pods, nodes)
	}
	a.gang = a.gang || a.err != nil
	state.Write(answerKey, a)
	return a
}

// planNative plans the pods of the group, which are all that wait in the queue, and reserves their places.
func (pl *Plugin) planNative(ctx context.Context, a *answer, pods []*v1.Pod, nodes []fwk.NodeInfo) {
	if _, err := pl.gangs.tracker.Spec(a.key); errors.Is(err, podgroup.ErrNotGang) {
		return
	}
	a.gang = true
	for _, p := range pods {
		pl.gangs.tracker.Refresh(p) // its event may have reached the queue before it reaches the tracker
	}
	in, r := pl.inspect(a.key)
	if !r.OK() {
		// Told to the members, and not held back by PreEnqueue as others are: nobody writes what PreEnqueue says into the
		// status of a native PodGroup. A change of the group brings it back.
		a.refused = &refusal{
			code: fwk.UnschedulableAndUnresolvable, reason: r.Reason, message: r.Message(), members: uids(pl.gangs.tracker.Members(a.key)),
		}
		pl.refuseNative(a, pods[0])
		pl.gangs.queue.gate(a.key, pods[0])
		return
	}
	pl.gangs.queue.admit(a.key, pods[0], in.spec.Created)
	placed := pl.gangs.book.placed(a.key)
	if in.members, a.err = pl.inCycle(a.key, in.members, pods, placed); a.err != nil {
		return
	}
	if len(in.members) < in.need {
		a.err = fmt.Errorf("%s: %d of at least %d members are in the queue or placed", a.key, len(in.members), in.need)
		return
	}
	if !slices.ContainsFunc(pods, func(p *v1.Pod) bool { return placed[p.UID] == "" }) {
		return // binds failed, and all that came back keep their places
	}
	if queues := pl.gangs.options.Queues; queues != nil {
		if a.err = queues.MakeRoom(ctx, pods, nodes); a.err != nil {
			return
		}
		in.members = queues.Admitted(in.members)
	}
	start := time.Now()
	pl.gangs.gpus.Cache().Snapshot(pl.snapshot)
	a.question, a.refused, a.err = pl.ask(ctx, in, nodes)
	var res *gang.Result
	if a.err == nil && a.refused == nil {
		res, a.refused, a.err = a.question.answer(ctx)
	}
	metrics.GangPlanned(time.Since(start))
	switch {
	case a.err != nil:
		metrics.GangAttempt(metrics.GangErred)
	case a.refused != nil:
		metrics.GangAttempt(metrics.GangWasRefused)
		pl.refuseNative(a, pods[0])
	default:
		metrics.GangAttempt(metrics.GangWasPlanned)
		a.err = pl.openNative(a.question, res)
	}
}

func (pl *Plugin) refuseNative(a *answer, leader *v1.Pod) {
	metrics.Rejected(a.refused.reason)
	a.refused.leader = leader.UID
	if a.question == nil {
		pl.gangs.release(a.key) // nothing that becomes free helps it
	}
	pl.gangs.queue.refuse(a.key, a.refused)
}

func (pl *Plugin) openNative(q *question, res *gang.Result) error {
	p := q.planOf(res)
	if err := pl.gangs.book.open(p, ""); err != nil {
		return fmt.Errorf("%s: %w", fit.Rejection{Reason: fit.AssignmentConflict}.Message(), err)
	}
	pl.gangs.book.changed(p.key, pl.gangs.review(p.key, pl.gangs.tracker.Members(p.key))) // as for other gangs
	pl.gangs.queue.accept(p.key)
	pl.gangs.release(p.key)
	metrics.GangDomains(domainsOf(q.Levels, res))
	tell(pl.handle, p.spec, v1.EventTypeNormal, "Planned", "places for %d members %s", p.size, p.where)
	return nil
}

// inCycle are the members that are bound or have a place, and those of the cycle. Others are not planned: the plan of a native
// gang is carried out in this cycle. A member that the scheduler counts as placed though it is neither is one whose plan was
// undone and that has not been told yet. The framework would have the others start with it.
func (pl *Plugin) inCycle(k gang.Key, members, pods []*v1.Pod, placed map[types.UID]string) ([]*v1.Pod, error) {
	group, err := pl.handle.SnapshotSharedLister().PodGroupStates().Get(k.Namespace, k.Name)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", k, err)
	}
	assumed, waiting := group.AssumedPods(), uids(pods)
	in := make([]*v1.Pod, 0, len(members))
	for _, p := range members {
		switch {
		case p.Spec.NodeName != "" || waiting[p.UID] != nil || placed[p.UID] != "":
			in = append(in, p)
		case assumed.Has(p.UID):
			return nil, fmt.Errorf("%s/%s is not back yet: %w", p.Namespace, p.Name, errUndone)
		}
	}
	return in, nil
}

// preFilterNative is the node of a pod of a native PodGroup. Without TopologyAwareWorkloadScheduling nobody asks for
// placements, and the first member's PreFilter plans.
func (pl *Plugin) preFilterNative(ctx context.Context, state fwk.CycleState, k gang.Key, pod *v1.Pod, nodes []fwk.NodeInfo) (string, *fwk.Status) {
	if !state.IsPodGroupSchedulingCycle() {
		return "", fwk.AsStatus(fmt.Errorf("%s/%s of native %s is scheduled alone", pod.Namespace, pod.Name, k))
	}
	cycle := state.GetPodGroupSchedulingCycle()
	if readAnswer(cycle) == nil {
		group, err := pl.handle.SnapshotSharedLister().PodGroupStates().Get(k.Namespace, k.Name)
		if err != nil {
			return "", fwk.AsStatus(err)
		}
		pods := make([]*v1.Pod, 0, len(group.UnscheduledPods()))
		for _, p := range group.UnscheduledPods() {
			pods = append(pods, p)
		}
		slices.SortFunc(pods, podgroup.Compare)
		pl.answer(ctx, cycle, k, pods, nodes)
	}
	a := readAnswer(cycle)
	switch {
	case !a.gang:
		return "", fwk.NewStatus(fwk.Skip)
	case a.err != nil:
		return "", fwk.AsStatus(a.err)
	case a.refused != nil:
		return "", a.refused.status()
	}
	if node, ok := pl.gangs.book.placeOf(k, pod.UID); ok {
		return node, nil
	}
	return "", withoutPlace(k, pl.gangs.book.size(k))
}

// PodGroupPostFilter implements fwk.PodGroupPostFilterPlugin, as PostFilter does for members of other gangs: preemption for a gang
// is by plan, and no other plugin gets to it.
func (pl *Plugin) PodGroupPostFilter(
	ctx context.Context, state fwk.PodGroupCycleState, group fwk.PodGroupInfo, _ fwk.PodGroupSchedulingFunc,
) (*fwk.PodGroupPostFilterResult, *fwk.Status) {
	a := readAnswer(state)
	switch {
	case a == nil || !a.gang:
		return nil, fwk.NewStatus(fwk.Unschedulable)
	case a.question != nil && a.refused != nil:
		pl.wait(ctx, a.question)
	case pl.gangs.book.failed(a.key, group.GetUnscheduledPods(), pl.now()):
		// The pod's own plugin may wait for an event that another place does not need.
		pl.gangs.activate(group.GetUnscheduledPods()[:1])
	}
	return nil, fwk.NewStatus(fwk.UnschedulableAndUnresolvable)
}

// pinned reports whether the pod's cycle has a place for it: not so for pods of groups that are no gangs.
func pinned(state fwk.CycleState) bool {
	_, err := state.Read(stateKey)
	return err == nil
}

// reserveNative checks that the place is still the member's. It is called for the framework's simulation of the cycle and again
// when that has succeeded.
func (pl *Plugin) reserveNative(state fwk.CycleState, k gang.Key, pod *v1.Pod, nodeName string) *fwk.Status {
	if !pinned(state) {
		return nil
	}
	if !pl.gangs.book.try(k, pod.UID, nodeName) {
		return fwk.AsStatus(fmt.Errorf("node %s for %s/%s: %w", nodeName, pod.Namespace, pod.Name, errUndone))
	}
	return nil
}

// try records that the member passed all filters on the node; false when that is not its place.
func (b *book) try(k gang.Key, uid types.UID, node string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.plans[k]
	if p == nil || p.places[uid] == nil || p.places[uid].node != node {
		return false
	}
	p.places[uid].tried = true
	return true
}

// failed ends the plan of a native gang whose simulation failed: the first of the members that did not pass was refused by other
// plugins on the node that is planned for it. It reports whether there was one.
func (b *book) failed(k gang.Key, pods []*v1.Pod, now time.Time) bool {
	b.mu.Lock()
	var refused types.UID
	if p := b.plans[k]; p != nil {
		for _, pod := range pods {
			if pl := p.places[pod.UID]; pl != nil && !pl.tried {
				refused = pod.UID
				break
			}
		}
	}
	b.mu.Unlock()
	return b.refused(k, refused, "see its condition", now)
}

// begin is called when the cycle of a native gang begins: nothing of an earlier one may be left, but for the places of members
// whose bind failed.
func (b *book) begin(k gang.Key, now time.Time) {
	b.settle(gang.Key{}, now)
	b.mu.Lock()
	defer b.mu.Unlock()
	if p := b.plans[k]; p != nil {
		for _, pl := range p.places {
			pl.tried = false
		}
	}
}

// settle undoes the plans of native gangs whose cycle is over and did not get to the release: cycles do not overlap, so that is
// every one that is not released but that of the current cycle.
func (b *book) settle(current gang.Key, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for k, p := range b.plans {
		if k.Source == gang.SourceNative && k != current && !p.released {
			b.undo(p, now, errors.New("its cycle failed"))
		}
	}
}

// gathered reports whether enough members have come for the release: all, or of a native gang as many as the framework waits
// for, which releases them at that moment.
func (p *plan) gathered() bool {
	if p.key.Source == gang.SourceNative {
		return p.here >= min(p.quorum, len(p.places))
	}
	return p.here == len(p.places)
}
