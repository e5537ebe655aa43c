package podgroup

import (
	"context"
	"slices"

	schedulingv1beta1 "k8s.io/api/scheduling/v1beta1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/discovery"
	"k8s.io/klog/v2"

	"weft.sh/weft/pkg/gang"
)

// NativeResource is the PodGroup of scheduling.k8s.io in the version that a [Tracker] reads.
var NativeResource = schedulingv1beta1.SchemeGroupVersion.WithResource("podgroups")

// NativeServed asks the API server whether it serves native PodGroups, until it says yes or no: the Native of
// [TrackerOptions]. It asks for the one group and version, for an aggregated API whose backend is down makes the whole of
// discovery fail. The only error is that the context ends first.
func NativeServed(ctx context.Context, d discovery.ServerResourcesInterface) (served bool, err error) {
	err = wait.PollUntilContextCancel(ctx, probeInterval, true, func(ctx context.Context) (bool, error) {
		list, err := d.ServerResourcesForGroupVersion(NativeResource.GroupVersion().String())
		if err != nil && !apierrors.IsNotFound(err) { // not an answer
			klog.FromContext(ctx).Info("Cannot ask for native PodGroups; trying again", "resource", NativeResource, "err", err)
			return false, nil
		}
		served = err == nil && slices.ContainsFunc(list.APIResources, func(r metav1.APIResource) bool { return r.Name == NativeResource.Resource })
		return true, nil
	})
	return served, err
}

// Native is the PodGroup of scheduling.k8s.io that declares the gang, as the informer has it, to read its status; false where
// there is none. It is the informer's.
func (t *Tracker) Native(k gang.Key) (*schedulingv1beta1.PodGroup, bool) {
	if t.native == nil || k.Source != gang.SourceNative {
		return nil, false
	}
	pg, err := t.native.PodGroups(k.Namespace).Get(k.Name)
	return pg, err == nil // the only error is that there is none
}
