package controller

import (
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	schedv1alpha1 "sigs.k8s.io/scheduler-plugins/apis/scheduling/v1alpha1"

	"weft.sh/weft/pkg/gang"
	"weft.sh/weft/pkg/podgroup"
)

// group is a PodGroup of either kind: what the controller reads of it besides what it asks for.
type group struct {
	uid       types.UID
	reference *v1.ObjectReference // for events
	// stored is the status that the controller wrote there; the zero one where it did not.
	stored gang.Status
	// condition is a native group's, in which that status stands; nil where there is none.
	condition *metav1.Condition
}

// group finds the PodGroup that declares the gang, and says whether there is one that can be read.
func (c *Controller) group(k gang.Key) (group, bool) {
	if k.Source == gang.SourceNative {
		pg, ok := c.tracker.Native(k)
		if !ok {
			return group{}, false
		}
		condition, status := storedNative(pg)
		return group{pg.UID, reference(podgroup.NativeResource.GroupVersion(), pg), status, condition}, true
	}
	pg, ok := c.tracker.CRD(k)
	if !ok {
		return group{}, false
	}
	return group{pg.UID, reference(schedv1alpha1.SchemeGroupVersion, pg), stored(pg), nil}, true
}

func reference(gv schema.GroupVersion, pg metav1.Object) *v1.ObjectReference {
	return &v1.ObjectReference{
		APIVersion: gv.String(), Kind: "PodGroup",
		Namespace: pg.GetNamespace(), Name: pg.GetName(), UID: pg.GetUID(), ResourceVersion: pg.GetResourceVersion(),
	}
}
