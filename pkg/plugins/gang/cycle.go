package gang

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/klog/v2"
	fwk "k8s.io/kube-scheduler/framework"

	"weft.sh/weft/pkg/fit"
	"weft.sh/weft/pkg/gang"
	"weft.sh/weft/pkg/metrics"
	"weft.sh/weft/pkg/plugins/gpufit"
)

const stateKey fwk.StateKey = Name

// pin is what a cycle of a planned member knows: its node.
type pin struct{ node string }

// Clone implements fwk.StateData. A pin never changes.
func (p *pin) Clone() fwk.StateData { return p }

func logger() klog.Logger { return klog.Background().WithName(Name) }

// PreFilter implements fwk.PreFilterPlugin: the first member's turn plans the whole gang; each member is pinned to its place.
func (pl *Plugin) PreFilter(ctx context.Context, state fwk.CycleState, pod *v1.Pod, nodes []fwk.NodeInfo) (*fwk.PreFilterResult, *fwk.Status) {
	if gpufit.AsksOthers(state) {
		return nil, fwk.NewStatus(fwk.Skip)
	}
	pl.gangs.tidy(pl.now())
	k, ok := memberOf(pod)
	pl.gangs.book.settle(k, pl.now())
	if !ok {
		return nil, fwk.NewStatus(fwk.Skip)
	}
	if err := pl.gangs.wait(ctx); err != nil {
		return nil, fwk.AsStatus(err)
	}
	node, planned := pl.gangs.book.placeOf(k, pod.UID)
	var status *fwk.Status
	switch {
	case k.Source == gang.SourceNative:
		node, status = pl.preFilterNative(ctx, state, k, pod, nodes)
	case !planned:
		node, status = pl.place(ctx, state, k, pod, nodes)
	}
	if !status.IsSuccess() {
		return nil, status
	}
	state.Write(stateKey, &pin{node})
	return &fwk.PreFilterResult{NodeNames: sets.New(node)}, nil
}

// PreFilterExtensions implements fwk.PreFilterPlugin.
func (pl *Plugin) PreFilterExtensions() fwk.PreFilterExtensions { return nil }

// place plans the gang of a member without a place, and returns the member's node.
func (pl *Plugin) place(ctx context.Context, state fwk.CycleState, k gang.Key, pod *v1.Pod, nodes []fwk.NodeInfo) (string, *fwk.Status) {
	if size, busy := pl.gangs.book.waitFor(k, pod); busy {
		return "", withoutPlace(k, size)
	}
	if status := pl.gangs.queue.tell(k, pod); status != nil {
		return "", status
	}
	if wait := pl.gangs.book.paused(k, pl.now()); wait > 0 {
		return "", fwk.AsStatus(fmt.Errorf("%w; it is planned again in %v", errUndone, wait.Round(time.Millisecond)))
	}
	in, r := pl.inspect(k)
	if !r.OK() {
		// It changed since PreEnqueue, which will hold the pod back: an error, so that no autoscaler acts on it.
		return "", fwk.AsStatus(errors.New(r.Message()))
	}
	if in.members = pl.admitted(in.members); !slices.ContainsFunc(in.members, func(p *v1.Pod) bool { return p.UID == pod.UID }) {
		// An error, for nodes would not help it. The first of those that may start is tried, whom the scheduling queue may have put after it.
		for _, p := range in.members {
			if _, there := pl.gangs.book.placeOf(k, p.UID); !there && p.Spec.NodeName == "" {
				pl.gangs.activate([]*v1.Pod{p})
				break
			}
		}
		return "", fwk.AsStatus(errOthers)
	}
	start := time.Now()
	node, refused, err := pl.plan(ctx, state, in, pod, nodes)
	// A pod that went before this one came had its event before this one could hear of it.
	if refused != nil && pl.gangs.gpus.CatchUp(pl.snapshot.Sorted()) {
		node, refused, err = pl.plan(ctx, state, in, pod, nodes)
	}
	metrics.GangPlanned(time.Since(start))
	switch {
	case errors.Is(err, errWithoutPlace):
		metrics.GangAttempt(metrics.GangWasPlanned)
		pl.tryRest(k)
		return "", withoutPlace(k, pl.gangs.book.size(k))
	case err != nil:
		metrics.GangAttempt(metrics.GangErred)
		return "", fwk.AsStatus(err)
	case refused != nil:
		metrics.GangAttempt(metrics.GangWasRefused)
		metrics.Rejected(refused.reason)
		pl.gangs.activate(pl.gangs.queue.refuse(k, refused))
		pl.tellOthers(k, pod, refused, len(nodes))
		// The leader may have gone while it was planned for: then nobody has heard of its going.
		pl.gangs.activate(pl.gangs.queue.reviewRefusal(k, pl.gangs.tracker.Members(k)))
		return "", refused.status()
	}
	metrics.GangAttempt(metrics.GangWasPlanned)
	pl.tryRest(k)
	return node, nil
}

// tryRest has the members without a place tried once the others are on their way: with the plan the refusal has ended that one of
// them was brought back by, and their next attempt says what they wait for now.
func (pl *Plugin) tryRest(k gang.Key) {
	placed := pl.gangs.book.placed(k)
	if len(placed) == 0 {
		return // nothing was planned that could make a difference to them
	}
	var now []*v1.Pod
	for _, p := range pl.gangs.tracker.Members(k) {
		if p.Spec.NodeName != "" || len(p.Spec.SchedulingGates) > 0 || placed[p.UID] != "" {
			continue
		}
		if _, _, _, holds := pl.gangs.gpus.Cache().Holding(string(p.UID)); holds {
			continue // nobody knows whether it is bound: until that is known it counts as if it were, and no attempt helps it
		}
		if _, busy := pl.gangs.book.waitFor(k, p); !busy {
			now = append(now, p)
		}
	}
	pl.gangs.activate(now)
}

// errWithoutPlace says that there is a plan and that it has no place for the pod whose turn it is.
var errWithoutPlace = errors.New("the gang starts without the pod")

// withoutPlace is the status of a member that its gang can do without. It is tried when the others are on their way.
func withoutPlace(k gang.Key, size int) *fwk.Status {
	return fwk.NewStatus(fwk.Unschedulable, fit.Rejection{
		Reason: fit.InsufficientGangCapacity, Detail: fmt.Sprintf("%s starts with %d members, without this one", k, size),
	}.Message())
}

// Filter implements fwk.FilterPlugin: a planned member passes on its node only. The framework tries a nominated node, and one
// that batching suggests, whatever PreFilter said.
func (pl *Plugin) Filter(ctx context.Context, state fwk.CycleState, pod *v1.Pod, nodeInfo fwk.NodeInfo) *fwk.Status {
	data, err := state.Read(stateKey)
	if err != nil {
		return fwk.AsStatus(errors.New("plugin Gang: PreFilter has not run in this cycle; enable the plugin at all its extension points"))
	}
	if data.(*pin).node == nodeInfo.Node().Name {
		return pl.withOthers(ctx, state, pod, nodeInfo)
	}
	return fwk.NewStatus(fwk.UnschedulableAndUnresolvable, fit.Rejection{Reason: fit.PlannedElsewhere}.Message())
}

// PostFilter implements fwk.PostFilterPlugin. Preemption for one member alone would evict pods for a gang that may still have
// no room, so no other plugin gets to it; for the gang as a whole see makeRoom. A member that was refused on the node that is
// planned for it ends the plan.
func (pl *Plugin) PostFilter(ctx context.Context, state fwk.CycleState, pod *v1.Pod, statuses fwk.NodeToStatusReader) (*fwk.PostFilterResult, *fwk.Status) {
	k, ok := memberOf(pod)
	if !ok {
		return pl.preemptAlone(ctx, state, pod, statuses)
	}
	if node, planned := pl.gangs.book.placeOf(k, pod.UID); planned {
		why := statuses.Get(node).Message()
		if pl.gangs.book.refused(k, pod.UID, why, pl.now()) {
			// The pod's own plugin may wait for an event that another place does not need.
			pl.gangs.activate([]*v1.Pod{pod})
		}
	}
	if q := readQuestion(state); q != nil {
		pl.wait(ctx, q)
	}
	return nil, fwk.NewStatus(fwk.UnschedulableAndUnresolvable)
}

// Reserve implements fwk.ReservePlugin.
func (pl *Plugin) Reserve(_ context.Context, state fwk.CycleState, pod *v1.Pod, nodeName string) *fwk.Status {
	k, ok := memberOf(pod)
	if !ok {
		return nil
	}
	if k.Source == gang.SourceNative {
		return pl.reserveNative(state, k, pod, nodeName)
	}
	if node, planned := pl.gangs.book.placeOf(k, pod.UID); !planned || node != nodeName {
		return fwk.AsStatus(fmt.Errorf("node %s for %s/%s: %w", nodeName, pod.Namespace, pod.Name, errUndone))
	}
	return nil
}

// Unreserve implements fwk.ReservePlugin.
func (pl *Plugin) Unreserve(_ context.Context, state fwk.CycleState, pod *v1.Pod, _ string) {
	if state.IsPodGroupSchedulingCycle() {
		return // the end of a simulation
	}
	if k, ok := memberOf(pod); ok {
		pl.gangs.book.leave(k, pod.UID, int(pl.args.BindRetries), pl.now(), pl.patience(1))
	}
}

// Permit implements fwk.PermitPlugin: members wait for the last one, which releases them all.
func (pl *Plugin) Permit(_ context.Context, state fwk.CycleState, pod *v1.Pod, nodeName string) (*fwk.Status, time.Duration) {
	k, ok := memberOf(pod)
	if !ok || !pinned(state) {
		return nil, 0
	}
	wait, rest, err := pl.gangs.book.arrive(k, pod.UID, nodeName, pl.now())
	switch {
	case err != nil:
		return fwk.AsStatus(err), 0
	case wait && k.Source == gang.SourceNative:
		return nil, 0 // plugin GangScheduling has it wait
	case wait:
		return fwk.NewStatus(fwk.Wait), pl.patience(pl.gangs.book.size(k))
	}
	pl.gangs.activate(rest)
	pl.gangs.release(k) // not before: if the plan is undone, what was kept still is
	return nil, 0
}

// patience is how long a plan for so many members may take until all are at Permit.
func (pl *Plugin) patience(members int) time.Duration {
	return time.Duration(pl.args.PermitTimeoutSeconds)*time.Second + time.Duration(members)*20*time.Millisecond
}

// PostBind implements fwk.PostBindPlugin.
func (pl *Plugin) PostBind(_ context.Context, _ fwk.CycleState, pod *v1.Pod, _ string) {
	if k, ok := memberOf(pod); ok {
		pl.gangs.book.bound(k, pod.UID)
	}
}

// SignPod implements fwk.SignPlugin: the result of a member's cycle is for no other pod, and other pods may share theirs.
func (pl *Plugin) SignPod(_ context.Context, pod *v1.Pod) ([]fwk.SignFragment, *fwk.Status) {
	if _, ok := memberOf(pod); ok {
		return nil, fwk.NewStatus(fwk.Unschedulable, "members of gangs are placed by plan")
	}
	return nil, nil
}
