// Package podgroup turns pods and PodGroup objects into gangs: which gang a pod belongs to, what its PodGroup asks for, and
// in which order its members stand.
//
// # Two kinds of PodGroup
//
// The PodGroup of scheduling.x-k8s.io/v1alpha1 is a custom resource; a label of the pod names it. The PodGroup of
// scheduling.k8s.io belongs to Kubernetes; the pod's spec.schedulingGroup names it. A pod that names both belongs to the
// native one, whose name cannot change; the label is then only a label. Both become a [gang.Spec], and the annotations
// of package podspec (topology, policies) hold for both.
//
// # Who is a member
//
// What a pod says now counts, always. The label of a pod can be changed, although the admission policy that comes with Weft
// forbids it; where nothing forbids it, a pod that changes its label leaves the one gang and joins the other at that moment,
// also when it is bound: it is then a lost member of the first, and a member with a place of the second. It does not keep a
// place that was planned for it in the first. Nothing else could be said of it after a restart, when nobody knows the old
// label.
//
// Members are the pods that have not ended and are not being deleted. A pod that was made again under its old name, as
// Jobs with an index and StatefulSets do, is another pod: it has another UID.
//
// A PodGroup that was deleted leaves its pods: the [Tracker] still knows them as members, and has no Spec for them.
//
// # What it does not do
//
// It decides nothing about nodes, and it does not know which topology levels there are: it only checks that what names a
// level could be one.
package podgroup
