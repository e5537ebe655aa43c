package podgroup

import (
	schedv1alpha1 "sigs.k8s.io/scheduler-plugins/apis/scheduling/v1alpha1"

	"weft.sh/weft/pkg/gang"
)

// CRD is the PodGroup of scheduling.x-k8s.io that declares the gang, as the informer has it, to read its status; false where
// there is none that can be read. It is the informer's.
func (t *Tracker) CRD(k gang.Key) (*schedv1alpha1.PodGroup, bool) {
	if t.crd == nil || k.Source != gang.SourceCRD {
		return nil, false
	}
	obj, ok, err := t.crd.GetStore().GetByKey(k.Namespace + "/" + k.Name)
	if err != nil || !ok {
		return nil, false
	}
	pg, ok := obj.(*schedv1alpha1.PodGroup)
	return pg, ok
}
