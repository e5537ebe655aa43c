package cli

import (
	"context"
	"fmt"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"

	"weft.sh/weft/pkg/apis/weft/v1alpha1"
	"weft.sh/weft/pkg/queues"
)

// QueueObjects are what the API server shows of queues.
type QueueObjects struct {
	Queues     []*v1alpha1.Queue
	Classes    []*v1alpha1.GPUClass
	Namespaces []*v1.Namespace
	// Unreadable says which objects could not be read, in words.
	Unreadable []string
	// Served says that the API server serves the kind Queue.
	Served bool
}

// set is what the scheduler makes of them.
func (o *QueueObjects) set() *queues.Set { return queues.NewSet(o.Queues, o.Classes, o.Namespaces) }

// queue is the queue of that name, nil for none.
func (o *QueueObjects) queue(name string) *v1alpha1.Queue {
	for _, q := range o.Queues {
		if q.Name == name {
			return q
		}
	}
	return nil
}

// ListQueues reads queues, classes and namespaces; of a cluster without the definition of Queue it finds none. progress may be nil. What
// the user may not list is a [*ForbiddenError].
func ListQueues(ctx context.Context, client kubernetes.Interface, d dynamic.Interface, progress Progress) (QueueObjects, error) {
	if progress == nil {
		progress = func(string, int) {}
	}
	o := QueueObjects{Served: true}
	if err := listTyped(ctx, d, v1alpha1.Queues, progress, &o.Queues, &o.Unreadable); apierrors.IsNotFound(err) {
		return QueueObjects{}, nil
	} else if err != nil {
		return QueueObjects{}, err
	}
	if err := listTyped(ctx, d, v1alpha1.GPUClasses, progress, &o.Classes, &o.Unreadable); err != nil && !apierrors.IsNotFound(err) {
		return QueueObjects{}, err
	}
	err := list(ctx, "namespaces", "", progress, metav1.ListOptions{}, func(ctx context.Context, opts metav1.ListOptions) (runtime.Object, error) {
		return client.CoreV1().Namespaces().List(ctx, opts)
	}, func(n *v1.Namespace) { o.Namespaces = append(o.Namespaces, n) })
	return o, err
}

// listTyped reads objects of a kind that Kubernetes does not have itself. One that cannot be read must not hide the others.
func listTyped[T any](ctx context.Context, d dynamic.Interface, r schema.GroupVersionResource, progress Progress, to *[]*T, unreadable *[]string) error {
	return list(ctx, r.Resource, r.Group, progress, metav1.ListOptions{}, func(ctx context.Context, opts metav1.ListOptions) (runtime.Object, error) {
		return d.Resource(r).List(ctx, opts)
	}, func(u *unstructured.Unstructured) {
		typed := new(T)
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, typed); err != nil {
			*unreadable = append(*unreadable, fmt.Sprintf("%s %s cannot be read: %v", u.GetKind(), u.GetName(), err))
			return
		}
		*to = append(*to, typed)
	})
}

// listQueues is ListQueues of the shell's cluster.
func (s *shell) listQueues(ctx context.Context) (QueueObjects, error) {
	client, err := s.client()
	if err != nil {
		return QueueObjects{}, err
	}
	d, err := s.dynamic()
	if err != nil {
		return QueueObjects{}, err
	}
	progress, done := s.progress()
	defer done()
	return ListQueues(ctx, client, d, progress)
}

// parents has the parent of each queue.
func (s *shell) parents(ctx context.Context) (map[string]string, error) {
	o, err := s.listQueues(ctx)
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for _, q := range o.Queues {
		out[q.Name] = q.Spec.Parent
	}
	return out, nil
}
