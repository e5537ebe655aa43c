package gang

import (
	"context"
	"fmt"
	"reflect"
	"strings"

	v1 "k8s.io/api/core/v1"
	resourceapi "k8s.io/api/resource/v1"
	schedulingv1beta1 "k8s.io/api/scheduling/v1beta1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
	fwk "k8s.io/kube-scheduler/framework"
	schedv1alpha1 "sigs.k8s.io/scheduler-plugins/apis/scheduling/v1alpha1"

	"weft.sh/weft/pkg/cluster"
	"weft.sh/weft/pkg/fit"
	"weft.sh/weft/pkg/gang"
	"weft.sh/weft/pkg/inventory"
)

// EventsToRegister implements fwk.EnqueueExtensions.
//
// They are for gangs that were refused for want of room, and then for the member alone that leads: with a plan it brings the
// others. Members that PreEnqueue holds back are brought in by the tracker when their gang can be planned, for no event of the
// framework tells of a PodGroup whose definition may be installed later.
func (pl *Plugin) EventsToRegister(context.Context) ([]fwk.ClusterEventWithHint, error) {
	events := []fwk.ClusterEventWithHint{
		// A pod that ends or is not bound after all gives back GPUs, CPU and its place beside others.
		{Event: fwk.ClusterEvent{Resource: fwk.AssignedPod, ActionType: fwk.Delete}, QueueingHintFn: pl.afterPodDeleted},
		// A pod that members want to be near may arrive, or be labelled.
		{Event: fwk.ClusterEvent{Resource: fwk.AssignedPod, ActionType: fwk.Add | fwk.UpdatePodLabel}, QueueingHintFn: pl.afterOtherChange},
		// A new node, a node that may take members now (labels, taints, cordon), or one with more to give.
		{
			Event: fwk.ClusterEvent{
				Resource: fwk.Node, ActionType: fwk.Add | fwk.UpdateNodeLabel | fwk.UpdateNodeTaint | fwk.UpdateNodeAllocatable,
			},
			QueueingHintFn: pl.afterNodeChange,
		},
		// What a plugin for volumes refused a member for.
		{Event: fwk.ClusterEvent{Resource: fwk.PersistentVolumeClaim, ActionType: fwk.Add | fwk.Update}, QueueingHintFn: pl.afterOtherChange},
		{Event: fwk.ClusterEvent{Resource: fwk.PersistentVolume, ActionType: fwk.Add | fwk.Update}, QueueingHintFn: pl.afterOtherChange},
		{Event: fwk.ClusterEvent{Resource: fwk.StorageClass, ActionType: fwk.Add | fwk.Update}, QueueingHintFn: pl.afterOtherChange},
		{Event: fwk.ClusterEvent{Resource: fwk.CSINode, ActionType: fwk.Add | fwk.Update}, QueueingHintFn: pl.afterOtherChange},
		{Event: fwk.ClusterEvent{Resource: fwk.CSIStorageCapacity, ActionType: fwk.Add | fwk.Update}, QueueingHintFn: pl.afterOtherChange},
		{Event: fwk.ClusterEvent{Resource: fwk.VolumeAttachment, ActionType: fwk.Delete}, QueueingHintFn: pl.afterOtherChange},
		// The member itself may join another gang, tolerate more or ask for something else.
		{Event: fwk.ClusterEvent{Resource: fwk.TargetPod, ActionType: fwk.Update}, QueueingHintFn: pl.afterPodUpdated},
	}
	if pl.gangs.gpus.ResourceSlices() {
		events = append(events, fwk.ClusterEventWithHint{
			// A node's agent publishes GPUs: new ones, ones that are healthy again, another geometry.
			Event:          fwk.ClusterEvent{Resource: fwk.ResourceSlice, ActionType: fwk.Add | fwk.Update | fwk.Delete},
			QueueingHintFn: pl.afterResourceSliceChange,
		}, fwk.ClusterEventWithHint{
			// What is missing for a member's claims: a claim, who has its devices, a class.
			Event:          fwk.ClusterEvent{Resource: fwk.ResourceClaim, ActionType: fwk.Add | fwk.Update | fwk.Delete},
			QueueingHintFn: pl.afterOtherChange,
		}, fwk.ClusterEventWithHint{
			Event:          fwk.ClusterEvent{Resource: fwk.DeviceClass, ActionType: fwk.Add | fwk.Update},
			QueueingHintFn: pl.afterOtherChange,
		})
	}
	return events, nil
}

func (pl *Plugin) afterPodDeleted(_ klog.Logger, pod *v1.Pod, oldObj, _ any) (fwk.QueueingHint, error) {
	pl.gangs.gpus.Refresh(oldObj)
	if pl.victimsLeft(pod) {
		return fwk.QueueSkip, nil // the last victim brings the gang back, not each
	}
	if deleted, ok := oldObj.(*v1.Pod); ok {
		if r := pl.leads(pod); r != nil && (r.wide || keepsOff(deleted)) {
			return fwk.Queue, nil // it was in the way of members on other nodes too
		}
		return pl.fits(pod, deleted.Spec.NodeName, false), nil
	}
	return fwk.Queue, nil // a tombstone: something is gone
}

// keepsOff reports whether the pod keeps others off nodes besides its own.
func keepsOff(pod *v1.Pod) bool {
	a := pod.Spec.Affinity
	return a != nil && a.PodAntiAffinity != nil && len(a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution) > 0
}

func (pl *Plugin) afterNodeChange(_ klog.Logger, pod *v1.Pod, oldObj, newObj any) (fwk.QueueingHint, error) {
	pl.gangs.gpus.Refresh(newObj)
	if node, ok := newObj.(*v1.Node); ok {
		return pl.fits(pod, node.Name, oldObj == nil), nil
	}
	return fwk.Queue, nil
}

func (pl *Plugin) afterResourceSliceChange(_ klog.Logger, pod *v1.Pod, oldObj, newObj any) (fwk.QueueingHint, error) {
	slice, ok := newObj.(*resourceapi.ResourceSlice)
	if !ok {
		if slice, ok = oldObj.(*resourceapi.ResourceSlice); !ok {
			pl.gangs.gpus.Refresh(oldObj)
			return fwk.Queue, nil // a tombstone: something is gone
		}
	}
	if slice.Spec.Driver != inventory.Driver || slice.Spec.NodeName == nil {
		return pl.afterOtherChange(logger(), pod, oldObj, newObj) // devices that claims ask for, if anything
	}
	pl.gangs.gpus.Refresh(slice)
	return pl.fits(pod, *slice.Spec.NodeName, oldObj == nil), nil
}

// afterOtherChange is for gangs of which the nodes alone do not decide.
func (pl *Plugin) afterOtherChange(_ klog.Logger, pod *v1.Pod, _, _ any) (fwk.QueueingHint, error) {
	if r := pl.leads(pod); r != nil && r.wide {
		return fwk.Queue, nil
	}
	return fwk.QueueSkip, nil
}

func (pl *Plugin) afterPodUpdated(_ klog.Logger, _ *v1.Pod, oldObj, newObj any) (fwk.QueueingHint, error) {
	before, okOld := oldObj.(*v1.Pod)
	after, okNew := newObj.(*v1.Pod)
	if okOld && okNew && reflect.DeepEqual(before.Labels, after.Labels) && reflect.DeepEqual(before.Spec, after.Spec) &&
		reflect.DeepEqual(before.Annotations, after.Annotations) {
		return fwk.QueueSkip, nil
	}
	return fwk.Queue, nil
}

// fits asks for a retry when the pod leads its gang and the node that changed can take a member, or could if it were empty: one that
// was not known may have pods that can leave, or that are leaving. The gang may need other nodes too, but only a node that changed
// can make the difference.
func (pl *Plugin) fits(pod *v1.Pod, node string, emptied bool) fwk.QueueingHint {
	r := pl.leads(pod)
	if r == nil {
		return fwk.QueueSkip
	}
	n := pl.gangs.gpus.Cache().Node(node)
	if n != nil && emptied {
		n = cluster.NewNode(n.Name, n.Inventory, nil)
	}
	for _, request := range r.requests {
		if fit.Check(n, request) == fit.Fits {
			return fwk.Queue
		}
	}
	return fwk.QueueSkip
}

// victimsLeft reports whether the pod leads a gang of which victims are still there.
func (pl *Plugin) victimsLeft(pod *v1.Pod) bool {
	k, ok := memberOf(pod)
	if !ok || pl.leads(pod) == nil {
		return false
	}
	h := pl.gangs.waiting.of(k)
	return h != nil && h.kind == forVictims && pl.stillThere(h)
}

func (pl *Plugin) leads(pod *v1.Pod) *refusal {
	if k, ok := memberOf(pod); ok {
		return pl.gangs.queue.leads(k, pod)
	}
	return nil
}

// tell records an event at the PodGroup.
func tell(h fwk.Handle, spec gang.Spec, kind, reason, format string, args ...any) {
	recorder := h.EventRecorder()
	if recorder == nil {
		return
	}
	recorder.Eventf(reference(spec), nil, kind, reason, "Scheduling", "%s", fmt.Sprintf(format, args...))
}

// reference names the PodGroup, or the pod that is in none.
func reference(spec gang.Spec) *v1.ObjectReference {
	if isAlone(spec.Key) {
		return &v1.ObjectReference{
			APIVersion: "v1", Kind: "Pod", Namespace: spec.Namespace, Name: strings.TrimPrefix(spec.Name, aloneName), UID: types.UID(spec.UID),
		}
	}
	version := schedv1alpha1.SchemeGroupVersion
	if spec.Source == gang.SourceNative {
		version = schedulingv1beta1.SchemeGroupVersion
	}
	return &v1.ObjectReference{
		APIVersion: version.String(), Kind: "PodGroup",
		Namespace: spec.Namespace, Name: spec.Name, UID: types.UID(spec.UID),
	}
}
