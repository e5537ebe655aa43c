package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"

	v1 "k8s.io/api/core/v1"
	resourceapi "k8s.io/api/resource/v1"
	schedulingv1beta1 "k8s.io/api/scheduling/v1beta1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/pager"
	schedv1alpha1 "sigs.k8s.io/scheduler-plugins/apis/scheduling/v1alpha1"

	"weft.sh/weft/pkg/inventory"
)

// Objects are what the API server shows of a cluster.
type Objects struct {
	Nodes []*v1.Node
	// Slices are the ResourceSlices of our driver; none where the API server does not serve them.
	Slices []*resourceapi.ResourceSlice
	// Pods are those that have not ended, of all namespaces.
	Pods []*v1.Pod
	// Ended are pods that have ended, of a gang that is asked about. They hold nothing.
	Ended []*v1.Pod
	// Groups are the PodGroups of scheduling.x-k8s.io, NativeGroups those of scheduling.k8s.io, as [ListGroups] adds them.
	Groups       []PodGroup
	NativeGroups []*schedulingv1beta1.PodGroup
	// GroupsRead and NativeGroupsRead say that those are all there are; else nobody looked, or may.
	GroupsRead, NativeGroupsRead bool
}

// PodGroup is a PodGroup of scheduling.x-k8s.io.
type PodGroup struct {
	schedv1alpha1.PodGroup
	// Message is what weft-controller says in its status, which the type of the module has no field for.
	Message string
}

// Progress is told, while things are listed, what and how many so far.
type Progress func(what string, n int)

// pageSize is the number of objects asked for at a time, kubectl's own.
const pageSize = 500

// List reads everything that a decision rests on. progress may be nil. What the user may not list is a [*ForbiddenError].
func List(ctx context.Context, client kubernetes.Interface, progress Progress) (Objects, error) {
	if progress == nil {
		progress = func(string, int) {}
	}
	var o Objects
	err := list(ctx, "nodes", "", progress, metav1.ListOptions{}, func(ctx context.Context, opts metav1.ListOptions) (runtime.Object, error) {
		return client.CoreV1().Nodes().List(ctx, opts)
	}, func(n *v1.Node) { o.Nodes = append(o.Nodes, n) })
	if err != nil {
		return Objects{}, err
	}
	// Pods that ended hold nothing; a long history of jobs is most of what some clusters have.
	alive := metav1.ListOptions{FieldSelector: "status.phase!=" + string(v1.PodSucceeded) + ",status.phase!=" + string(v1.PodFailed)}
	err = list(ctx, "pods", "", progress, alive, func(ctx context.Context, opts metav1.ListOptions) (runtime.Object, error) {
		return client.CoreV1().Pods(metav1.NamespaceAll).List(ctx, opts)
	}, func(p *v1.Pod) { o.Pods = append(o.Pods, p) })
	if err != nil {
		return Objects{}, err
	}
	ours := metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector(resourceapi.ResourceSliceSelectorDriver, inventory.Driver).String()}
	err = list(ctx, "resourceslices", resourceapi.GroupName, progress, ours, func(ctx context.Context, opts metav1.ListOptions) (runtime.Object, error) {
		return client.ResourceV1().ResourceSlices().List(ctx, opts)
	}, func(s *resourceapi.ResourceSlice) { o.Slices = append(o.Slices, s) })
	if err != nil && !apierrors.IsNotFound(err) {
		return Objects{}, err
	}
	return o, nil
}

// list calls add for every object, page by page.
func list[T any](ctx context.Context, what, group string, progress Progress, opts metav1.ListOptions, page pager.ListPageFunc, add func(T)) error {
	p := pager.New(page)
	p.PageSize = pageSize
	n := 0
	err := p.EachListItem(ctx, opts, func(obj runtime.Object) error {
		o, ok := obj.(T)
		if !ok {
			return fmt.Errorf("the API server answered with a %T", obj)
		}
		add(o)
		if n++; n%pageSize == 0 {
			progress(what, n)
		}
		return nil
	})
	switch {
	case apierrors.IsForbidden(err):
		return &ForbiddenError{Resource: what, Group: group, err: err}
	case err != nil:
		return fmt.Errorf("listing %s: %w", what, err)
	}
	return nil
}

// ForbiddenError says that the user may not read what a command needs, and what would have to be granted.
type ForbiddenError struct {
	// Resource and Group are what was asked for; the group is empty for the core one.
	Resource, Group string

	err error
}

// Error implements error.
func (e *ForbiddenError) Error() string {
	return fmt.Sprintf("%v\n\n%s", e.err, strings.TrimSpace(rbacAdvice))
}

// Unwrap is the API server's answer.
func (e *ForbiddenError) Unwrap() error { return e.err }

// rbacAdvice is what an administrator has to apply, as docs/cli.md has it.
const rbacAdvice = `
weft reads nodes, pods of all namespaces, ResourceSlices, PodGroups, Queues, GPUClasses and namespaces, and changes nothing. An administrator can allow that:

  kubectl create clusterrole weft-view --verb=list,get --resource=nodes,pods,namespaces,resourceslices.resource.k8s.io,podgroups.scheduling.x-k8s.io,queues.weft.sh,gpuclasses.weft.sh
  kubectl create clusterrolebinding weft-view --clusterrole=weft-view --user=YOU
`

// isForbidden reports whether the error is for want of permission.
func isForbidden(err error) bool {
	var f *ForbiddenError
	return errors.As(err, &f)
}
