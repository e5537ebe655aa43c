package gpufit

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	corev1helpers "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/klog/v2"
	fwk "k8s.io/kube-scheduler/framework"

	"weft.sh/weft/pkg/cluster"
	"weft.sh/weft/pkg/fit"
	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/metrics"
	"weft.sh/weft/pkg/podspec"
)

// Reserve implements fwk.ReservePlugin: it chooses the GPUs and assumes them.
func (pl *Plugin) Reserve(_ context.Context, state fwk.CycleState, pod *v1.Pod, nodeName string) *fwk.Status {
	c, status := readCycle(state)
	if status != nil {
		return status
	}
	if c.request.Empty() {
		return nil
	}
	if c.plannedOn != "" {
		return pl.reservePlanned(c, pod, nodeName)
	}
	// A pod of a native PodGroup is reserved in the framework's simulation of the group's cycle, unreserved with all others, and
	// reserved again. Then it gets what it got before: the snapshot is that of the last pod's turn and has the others in it.
	a, err := c.assignment, error(nil)
	if a.Empty() {
		nodeInfo, missing := pl.handle.SnapshotSharedLister().NodeInfos().Get(nodeName)
		if missing != nil {
			return fwk.AsStatus(missing)
		}
		a, err = pl.assign(c, pod, nodeInfo)
	}
	if err == nil {
		err = pl.shared.cache.Assume(nodeName, cluster.NewPod(string(pod.UID), pod.Namespace+"/"+pod.Name, a))
	}
	if err != nil {
		return conflict(err)
	}
	c.assignment = a
	return nil
}

// conflict says that the node changed since Filter: not a verdict on the pod, so an error, which is tried again after a
// backoff.
func conflict(err error) *fwk.Status {
	metrics.Rejected(fit.AssignmentConflict)
	return fwk.AsStatus(fmt.Errorf("%s: %w", fit.Rejection{Reason: fit.AssignmentConflict}.Message(), err))
}

// reservePlanned gives the pod what is planned for it, and nothing else: it holds that already, unless the plan has ended
// since PreFilter.
func (pl *Plugin) reservePlanned(c *cycle, pod *v1.Pod, nodeName string) *fwk.Status {
	on, held, planned, _ := pl.shared.cache.Holding(string(pod.UID))
	if !planned || on != nodeName || !held.Equal(c.planned) {
		return conflict(fmt.Errorf("what was planned for the pod on node %s is planned no more", c.plannedOn))
	}
	c.assignment = held.Assignment
	return nil
}

// assign chooses the GPUs: such that the pods that are nominated to the node and go before this one still find theirs, as
// Filter made sure that they can.
func (pl *Plugin) assign(c *cycle, pod *v1.Pod, nodeInfo fwk.NodeInfo) (gpu.Assignment, error) {
	name := nodeInfo.Node().Name
	n := c.node(pl.snapshot, name)
	crowded := n
	for _, nominated := range pl.handle.NominatedPodsForNode(name) {
		p := nominated.GetPod()
		if n == nil || p.UID == pod.UID || corev1helpers.PodPriority(p) < corev1helpers.PodPriority(pod) {
			continue
		}
		if _, there := n.Pod(string(p.UID)); !there {
			crowded = WithNominated(crowded, p)
		}
	}
	if crowded != n {
		if a, err := fit.Assign(crowded, c.request, c.cpu(nodeInfo), c.memo.Strategy()); err == nil {
			return a, nil
		}
	}
	return fit.Assign(n, c.request, c.cpu(nodeInfo), c.memo.Strategy())
}

// Unreserve implements fwk.ReservePlugin. A pod whose binding may have succeeded keeps its GPUs until that is known, and one
// that is planned until the plan ends.
func (pl *Plugin) Unreserve(_ context.Context, _ fwk.CycleState, pod *v1.Pod, _ string) {
	pl.shared.cache.Release(string(pod.UID))
}

const (
	// bindingGrace is how long a pod whose binding's fate is unknown keeps its GPUs. A request that the API server has
	// not finished by then has been cut off by its own request timeout for writes (60 s at most, 34 s by default).
	bindingGrace = 65 * time.Second
	// askTimeout bounds the question whether a binding succeeded.
	askTimeout = 10 * time.Second
)

// Bind implements fwk.BindPlugin: pod, node and GPUs in one write. Pods without GPUs are left to the next plugin.
func (pl *Plugin) Bind(ctx context.Context, state fwk.CycleState, pod *v1.Pod, nodeName string) *fwk.Status {
	c, status := readCycle(state)
	if status != nil {
		return status
	}
	if c.assignment.Empty() {
		return fwk.NewStatus(fwk.Skip)
	}
	text := c.assignment.String()
	binding := &v1.Binding{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID,
			Annotations: map[string]string{podspec.AnnotationGPUs: text},
		},
		Target: v1.ObjectReference{Kind: "Node", Name: nodeName},
	}
	err := pl.shared.binding.do(ctx, func() error {
		return pl.handle.ClientSet().CoreV1().Pods(pod.Namespace).Bind(ctx, binding, metav1.CreateOptions{})
	})
	if err != nil && !refused(err) {
		err = pl.askBound(pod, nodeName, text, err)
	}
	if err != nil {
		return fwk.AsStatus(fmt.Errorf("binding pod %s/%s to node %s: %w", pod.Namespace, pod.Name, nodeName, err))
	}
	klog.FromContext(ctx).V(2).Info("Assigned GPUs", "pod", klog.KObj(pod), "node", nodeName, "gpus", text)
	return nil
}

// refused reports whether the API server answered that it did not do it, or was never asked. Everything else (a timeout, a broken connection,
// an internal error) leaves open whether it did; and so does a conflict, for the API server answers 409 to a Binding
// whatever the error of its storage, a write to etcd that timed out included (BindingREST.assignPod).
func refused(err error) bool {
	if errors.Is(err, errNotSent) {
		return true
	}
	var status apierrors.APIStatus
	if !errors.As(err, &status) || apierrors.IsTimeout(err) {
		return false
	}
	switch code := status.Status().Code; code {
	case http.StatusRequestTimeout, http.StatusConflict:
		return false
	default:
		return code >= 400 && code < 500
	}
}

// askBound finds out whether a binding succeeded whose answer is lost. If nobody can tell, the pod keeps its GPUs for a
// while, and the error says so.
func (pl *Plugin) askBound(pod *v1.Pod, nodeName, text string, cause error) error {
	metrics.BindingUnknown()
	// The cycle's context may be what ended the request, so the question has its own.
	ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
	defer cancel()
	now, err := pl.handle.ClientSet().CoreV1().Pods(pod.Namespace).Get(ctx, pod.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err) || err == nil && now.UID != pod.UID:
		return cause // there is no such pod any more
	case err == nil && now.Spec.NodeName == nodeName && now.Annotations[podspec.AnnotationGPUs] == text:
		return nil
	case err == nil && now.Spec.NodeName != "":
		return cause // bound by somebody else; the informer will show where
	case err == nil && now.DeletionTimestamp != nil:
		return cause // the API server binds no pod that is being deleted, and a write from before would now conflict
	}
	pl.shared.cache.Suspect(string(pod.UID), pl.now().Add(bindingGrace))
	return fmt.Errorf("the API server did not say whether it succeeded: %w", cause)
}
