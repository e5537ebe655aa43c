package queues

import (
	v1 "k8s.io/api/core/v1"

	"weft.sh/weft/pkg/apis/weft/v1alpha1"
	"weft.sh/weft/pkg/podspec"
)

// Queue is the object of that name as it was last read, with its status; nil when there is none that could be. It is shared: copy it before a
// change.
func (t *Tracker) Queue(name string) *v1alpha1.Queue {
	obj, ok, err := t.kinds[0].informer.GetStore().GetByKey(name)
	if err != nil || !ok {
		return nil
	}
	q, _ := obj.(*v1alpha1.Queue)
	return q
}

// Holds is what a pod that is bound to the node holds, class by class, largest first; nil for one that holds no GPU. The node may be
// nil where it is not known: it then has no labels.
func (s *Set) Holds(pod *v1.Pod, node *v1.Node) []Holds {
	r := request(pod)
	if r.Empty() {
		return nil
	}
	product := ""
	if node != nil {
		product = node.Labels[podspec.LabelProduct]
	}
	return s.onNode(partsOf(pod, r, product), node, product)
}
