package gpufit

import (
	"context"
	"fmt"
	"sync/atomic"

	v1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"
	fwk "k8s.io/kube-scheduler/framework"

	"weft.sh/weft/pkg/cluster"
	"weft.sh/weft/pkg/fit"
	"weft.sh/weft/pkg/metrics"
	"weft.sh/weft/pkg/podspec"
)

// PreFilter implements fwk.PreFilterPlugin.
func (pl *Plugin) PreFilter(ctx context.Context, state fwk.CycleState, pod *v1.Pod, nodes []fwk.NodeInfo) (*fwk.PreFilterResult, *fwk.Status) {
	if AsksOthers(state) {
		return nil, fwk.NewStatus(fwk.Skip)
	}
	if err := pl.ready(ctx, pod); err != nil {
		return nil, fwk.AsStatus(err)
	}
	c := &cycle{milliCPU: podspec.MilliCPU(pod), heldBack: new(atomic.Bool)}
	request, err := podspec.PendingRequest(pod)
	if err != nil {
		metrics.Rejected(fit.InvalidRequest)
		return nil, fwk.NewStatus(fwk.UnschedulableAndUnresolvable, fit.Rejection{Reason: fit.InvalidRequest, Detail: err.Error()}.Message())
	}
	c.request = request
	pl.shared.cache.Snapshot(pl.snapshot)
	if firstAttempt(pod) {
		pl.learner.observe(fit.ClassOf(request, c.milliCPU), pl.stock(nodes))
	}
	c.memo = pl.learner.current().For(request)
	state.Write(stateKey, c)
	pl.readPlan(c, pod)
	if c.plannedOn == "" { // what is planned was planned around what is kept
		pl.respect(c, pod)
	}
	if request.Empty() && len(c.holds) == 0 {
		return nil, fwk.NewStatus(fwk.Skip)
	}
	return nil, nil
}

// stock counts what is left on the nodes when called; nil where no nodes are shown.
func (pl *Plugin) stock(nodes []fwk.NodeInfo) func() *fit.Stock {
	if len(nodes) == 0 {
		return nil
	}
	return func() *fit.Stock {
		s := new(fit.Stock)
		for _, n := range nodes {
			all := n.GetAllocatable().GetMilliCPU()
			s.Add(pl.snapshot.Node(n.Node().Name), all-n.GetRequested().GetMilliCPU(), all)
		}
		return s
	}
}

// readPlan takes what is planned for the pod out of the node where it is planned: there the pod fits, for it is what takes
// the room.
func (pl *Plugin) readPlan(c *cycle, pod *v1.Pod) {
	name, held, planned, _ := pl.shared.cache.Holding(string(pod.UID))
	if n := pl.snapshot.Node(name); planned && n != nil {
		c.plannedOn, c.planned = name, held
		c.setNode(n.Without(string(pod.UID)))
	}
}

// ready waits for the cache to be complete, lets go of what no longer counts, and refuses a pod of which nobody knows
// whether it is bound.
func (pl *Plugin) ready(ctx context.Context, pod *v1.Pod) error {
	if err := pl.shared.Wait(ctx); err != nil {
		return err
	}
	pl.seed.Do(func() { pl.learner.seed(pl.shared.pods(), pod.Spec.SchedulerName) })
	if waiting := pl.shared.Expire(pl.now()); len(waiting) > 0 {
		pl.wake(ctx, waiting)
	}
	if pl.shared.cache.Suspected(string(pod.UID)) {
		return fmt.Errorf("the API server did not say whether an earlier binding of pod %s/%s succeeded; it is tried again when that is known", pod.Namespace, pod.Name)
	}
	return nil
}

// wake has the pods tried again.
func (pl *Plugin) wake(ctx context.Context, pods []*v1.Pod) {
	waiting := map[string]*v1.Pod{}
	for _, p := range pods {
		waiting[p.Namespace+"/"+p.Name] = p
	}
	pl.handle.Activate(klog.FromContext(ctx), waiting)
}

// PreFilterExtensions implements fwk.PreFilterPlugin.
func (pl *Plugin) PreFilterExtensions() fwk.PreFilterExtensions { return pl }

// AddPod implements fwk.PreFilterExtensions: the node as it would be with the pod on it. A pod that was on the node gets
// back what it held; a nominated one takes what it would be given now, if anything.
func (pl *Plugin) AddPod(_ context.Context, state fwk.CycleState, _ *v1.Pod, toAdd fwk.PodInfo, nodeInfo fwk.NodeInfo) *fwk.Status {
	c, status := readCycle(state)
	if status != nil {
		return status
	}
	name, pod := nodeInfo.Node().Name, toAdd.GetPod()
	before := pl.snapshot.Node(name)
	if before == nil {
		return nil
	}
	n := c.node(pl.snapshot, name)
	if _, there := n.Pod(string(pod.UID)); there {
		return nil // a nominated pod that is planned there holds its GPUs already
	}
	if held, ok := before.Pod(string(pod.UID)); ok {
		c.setNode(n.With(held))
	} else {
		c.setNode(WithNominated(n, pod))
	}
	return nil
}

// WithNominated is the node as it would be with the pod on it, the node itself when it cannot take the pod.
func WithNominated(n *cluster.Node, pod *v1.Pod) *cluster.Node {
	r, err := podspec.Request(pod)
	if err != nil || r.Empty() {
		return n
	}
	a, err := fit.Assign(n, r, fit.CPU{}, nil)
	if err != nil {
		return n
	}
	return n.With(cluster.NewPod(string(pod.UID), pod.Namespace+"/"+pod.Name, a))
}

// RemovePod implements fwk.PreFilterExtensions: the node as it would be without the pod.
func (pl *Plugin) RemovePod(_ context.Context, state fwk.CycleState, _ *v1.Pod, toRemove fwk.PodInfo, nodeInfo fwk.NodeInfo) *fwk.Status {
	c, status := readCycle(state)
	if status != nil {
		return status
	}
	if n := c.node(pl.snapshot, nodeInfo.Node().Name); n != nil {
		c.setNode(n.Without(string(toRemove.GetPod().UID)))
	}
	return nil
}

// Filter implements fwk.FilterPlugin.
func (pl *Plugin) Filter(_ context.Context, state fwk.CycleState, pod *v1.Pod, nodeInfo fwk.NodeInfo) *fwk.Status {
	c, status := readCycle(state)
	if status != nil {
		return status
	}
	reason := c.memo.Check(c.node(pl.snapshot, nodeInfo.Node().Name))
	if pl.keptFromPod(c, pod, nodeInfo, reason) {
		reason = fit.ReservedForGang
	}
	if reason == fit.Fits {
		return nil
	}
	metrics.Rejected(reason)
	// A copy, for the framework writes the plugin's name into it, from many goroutines at once.
	own := *statuses[reason]
	return &own
}

// statuses are made once, to be copied: a pod that fits nowhere in a large cluster needs thousands. The message has no
// figures of the node, so that the framework counts equal reasons together in the pod's event; `weft why` has the figures.
var statuses = func() map[fit.Reason]*fwk.Status {
	out := map[fit.Reason]*fwk.Status{}
	for _, r := range fit.Reasons() {
		code := fwk.UnschedulableAndUnresolvable
		if r.Resolvable() {
			code = fwk.Unschedulable
		}
		out[r] = fwk.NewStatus(code, fit.Rejection{Reason: r}.Message())
	}
	return out
}()
