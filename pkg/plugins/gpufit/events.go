package gpufit

import (
	"context"
	"reflect"

	v1 "k8s.io/api/core/v1"
	resourceapi "k8s.io/api/resource/v1"
	"k8s.io/klog/v2"
	fwk "k8s.io/kube-scheduler/framework"

	"weft.sh/weft/pkg/fit"
	"weft.sh/weft/pkg/inventory"
	"weft.sh/weft/pkg/podspec"
)

// EventsToRegister implements fwk.EnqueueExtensions.
//
// Our informer handlers and the scheduler's run beside each other, so an event can reach the queue before it reaches the
// cache. Every hint therefore refreshes the cache first: the retry that it asks for sees the event.
func (pl *Plugin) EventsToRegister(context.Context) ([]fwk.ClusterEventWithHint, error) {
	events := []fwk.ClusterEventWithHint{
		// A pod that held GPUs, or that other GPUs were withheld for, gives them back when it is deleted, ends, or is not
		// bound after all.
		{Event: fwk.ClusterEvent{Resource: fwk.AssignedPod, ActionType: fwk.Delete}, QueueingHintFn: pl.isSchedulableAfterPodDeleted},
		// A new node may have GPUs. Labels may say that a node has GPUs, and the allocatable how many of them; both can
		// change later.
		{
			Event:          fwk.ClusterEvent{Resource: fwk.Node, ActionType: fwk.Add | fwk.UpdateNodeLabel | fwk.UpdateNodeAllocatable},
			QueueingHintFn: pl.isSchedulableAfterNodeChange,
		},
		// The pod itself may ask for something else, or for something that has a meaning, after its annotations or
		// resources are changed.
		{Event: fwk.ClusterEvent{Resource: fwk.TargetPod, ActionType: fwk.Update}, QueueingHintFn: pl.isSchedulableAfterPodUpdated},
	}
	if pl.shared.slices {
		events = append(events, fwk.ClusterEventWithHint{
			// A node's agent publishes GPUs: new ones, ones that are healthy again, another geometry. A slice that goes
			// away may complete a pool of a newer generation, or leave the node to its labels.
			Event:          fwk.ClusterEvent{Resource: fwk.ResourceSlice, ActionType: fwk.Add | fwk.Update | fwk.Delete},
			QueueingHintFn: pl.isSchedulableAfterResourceSliceChange,
		})
	}
	return events, nil
}

func (pl *Plugin) isSchedulableAfterPodDeleted(_ klog.Logger, pod *v1.Pod, oldObj, _ any) (fwk.QueueingHint, error) {
	pl.shared.Refresh(oldObj)
	deleted, ok := oldObj.(*v1.Pod)
	if !ok {
		return fwk.Queue, nil // a tombstone: something is gone
	}
	if r, err := podspec.Request(deleted); err == nil && r.Empty() {
		return fwk.QueueSkip, nil // held no GPU; what else it held concerns other plugins
	}
	return pl.fitsNow(pod, deleted.Spec.NodeName), nil
}

func (pl *Plugin) isSchedulableAfterNodeChange(_ klog.Logger, pod *v1.Pod, _, newObj any) (fwk.QueueingHint, error) {
	pl.shared.Refresh(newObj)
	node, ok := newObj.(*v1.Node)
	if !ok {
		return fwk.Queue, nil
	}
	return pl.fitsNow(pod, node.Name), nil
}

func (pl *Plugin) isSchedulableAfterResourceSliceChange(_ klog.Logger, pod *v1.Pod, oldObj, newObj any) (fwk.QueueingHint, error) {
	slice, ok := newObj.(*resourceapi.ResourceSlice)
	if !ok {
		if slice, ok = oldObj.(*resourceapi.ResourceSlice); !ok {
			pl.shared.Refresh(oldObj)
			return fwk.Queue, nil // a tombstone: something is gone
		}
	}
	if slice.Spec.Driver != inventory.Driver || slice.Spec.NodeName == nil {
		return fwk.QueueSkip, nil // not GPUs of ours
	}
	pl.shared.Refresh(slice)
	return pl.fitsNow(pod, *slice.Spec.NodeName), nil
}

func (pl *Plugin) isSchedulableAfterPodUpdated(_ klog.Logger, _ *v1.Pod, oldObj, newObj any) (fwk.QueueingHint, error) {
	before, okOld := oldObj.(*v1.Pod)
	after, okNew := newObj.(*v1.Pod)
	if !okOld || !okNew {
		return fwk.Queue, nil
	}
	now, err := podspec.PendingRequest(after)
	if err != nil {
		return fwk.QueueSkip, nil // still without a meaning
	}
	if was, err := podspec.PendingRequest(before); err == nil && reflect.DeepEqual(was, now) {
		return fwk.QueueSkip, nil // asks for the same
	}
	return fwk.Queue, nil
}

// fitsNow asks for a retry when the pod fits the node that changed. It was refused everywhere, so only a node that changed
// can take it. When what is kept for a gang is kept no longer, plugin Gang has the pods tried that were refused for it.
func (pl *Plugin) fitsNow(pod *v1.Pod, node string) fwk.QueueingHint {
	r, err := podspec.PendingRequest(pod)
	if err != nil {
		return fwk.QueueSkip
	}
	n := pl.shared.cache.Node(node)
	for _, h := range pl.shared.Holds() {
		if h.Binds(pod, pl.now()) {
			n = h.On(n)
		}
	}
	if fit.Check(n, r) != fit.Fits {
		return fwk.QueueSkip
	}
	return fwk.Queue
}

// SignPod implements fwk.SignPlugin: two pods that sign the same are treated the same here. The resources and the node
// affinity are in it too, in the form of the request; other plugins sign the rest of them.
func (pl *Plugin) SignPod(_ context.Context, pod *v1.Pod) ([]fwk.SignFragment, *fwk.Status) {
	r, err := podspec.PendingRequest(pod)
	if err != nil {
		return nil, fwk.NewStatus(fwk.Unschedulable, err.Error())
	}
	return []fwk.SignFragment{{Key: "weft.sh/request", Value: r.Shape()}}, nil
}
