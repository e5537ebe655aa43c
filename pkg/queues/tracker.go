package queues

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/informers"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"weft.sh/weft/pkg/apis/weft/v1alpha1"
)

// probeInterval is how often the API server is asked for a kind that it did not serve.
const probeInterval = 5 * time.Second

// Tracker has the set of now. It is level-triggered: an event only says that the set is to be made again, of what the informers'
// stores have at that moment; of many events at once one set is made. Safe for concurrent use.
type Tracker struct {
	client     dynamic.Interface
	namespaces corelisters.NamespaceLister
	kinds      []*kind // queues, classes
	handlers   []cache.ResourceEventHandlerRegistration

	set   atomic.Pointer[Set]
	dirty chan struct{} // holds one
	// granted says that more than statuses of queues changed.
	granted atomic.Bool
	// settled is closed when the first set of all objects there were is made.
	settled chan struct{}

	mu       sync.Mutex
	onChange []func(*Set)
}

// kind is one of the two kinds of objects, which the API server need not serve, now or ever.
type kind struct {
	resource     schema.GroupVersionResource
	informer     cache.SharedIndexInformer
	registration cache.ResourceEventHandlerRegistration
	// unserved says that the API server was asked before anything else and did not serve the kind: nobody has to wait for it.
	unserved atomic.Bool
}

// NewTracker registers with the factory's informer of namespaces; nothing happens before the factory, which is the caller's to start,
// and the tracker are started.
func NewTracker(client dynamic.Interface, factory informers.SharedInformerFactory) (*Tracker, error) {
	t := &Tracker{
		client: client, namespaces: factory.Core().V1().Namespaces().Lister(),
		dirty: make(chan struct{}, 1), settled: make(chan struct{}),
	}
	t.set.Store(&Set{})
	r, err := factory.Core().V1().Namespaces().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { t.touch(true) },
		UpdateFunc: func(old, obj any) {
			a, okA := old.(*v1.Namespace)
			b, okB := obj.(*v1.Namespace)
			if !okA || !okB || !labels.Equals(a.Labels, b.Labels) {
				t.touch(true)
			}
		},
		DeleteFunc: func(any) { t.touch(true) },
	})
	if err != nil {
		return nil, fmt.Errorf("informer of namespaces: %w", err)
	}
	t.handlers = append(t.handlers, r)
	for _, k := range []struct {
		resource schema.GroupVersionResource
		empty    func() runtime.Object
	}{
		{v1alpha1.Queues, func() runtime.Object { return &v1alpha1.Queue{} }},
		{v1alpha1.GPUClasses, func() runtime.Object { return &v1alpha1.GPUClass{} }},
	} {
		informer := dynamicinformer.NewFilteredDynamicInformer(client, k.resource, metav1.NamespaceAll, 0, cache.Indexers{}, nil).Informer()
		if err := informer.SetTransform(typed(k.empty)); err != nil {
			return nil, fmt.Errorf("informer of %s: %w", k.resource.Resource, err)
		}
		r, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc: func(any) { t.touch(true) },
			UpdateFunc: func(old, obj any) {
				a, errA := meta.Accessor(old)
				b, errB := meta.Accessor(obj)
				t.touch(errA != nil || errB != nil || a.GetUID() != b.GetUID() || a.GetGeneration() != b.GetGeneration())
			},
			DeleteFunc: func(any) { t.touch(true) },
		})
		if err != nil {
			return nil, fmt.Errorf("informer of %s: %w", k.resource.Resource, err)
		}
		t.kinds = append(t.kinds, &kind{resource: k.resource, informer: informer, registration: r})
	}
	return t, nil
}

// typed makes an object of what the dynamic client read. One that does not fit is kept as it is: it must not hide all others.
func typed(empty func() runtime.Object) cache.TransformFunc {
	return func(obj any) (any, error) {
		u, ok := obj.(*unstructured.Unstructured)
		if !ok {
			return obj, nil
		}
		u.SetManagedFields(nil) // the larger half of an object, and nothing to us
		out := empty()
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, out); err != nil {
			return u, nil
		}
		return out, nil
	}
}

// Set is what there is now, never nil.
func (t *Tracker) Set() *Set { return t.set.Load() }

// OnChange has the function called with each new set, after [Tracker.Set] returns it: by one goroutine, in order, not for every
// change. It should not block. A set with the tree of the one before differs in statuses alone.
func (t *Tracker) OnChange(f func(*Set)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.onChange = append(t.onChange, f)
}

// touch has the set made again.
func (t *Tracker) touch(granted bool) {
	if granted {
		t.granted.Store(true)
	}
	select {
	case t.dirty <- struct{}{}:
	default: // it is already
	}
}

// Start reads the objects until the context ends. It does not block. While the API server does not serve a kind, it is asked again
// every 5 seconds: the definition may be installed later.
func (t *Tracker) Start(ctx context.Context) {
	for _, k := range t.kinds {
		go func() {
			if t.waitServed(ctx, k) != nil {
				return
			}
			go func() {
				if cache.WaitForCacheSync(ctx.Done(), k.registration.HasSynced) {
					t.touch(true)
				}
			}()
			k.informer.RunWithContext(ctx)
		}()
	}
	go func() {
		if !cache.WaitForCacheSync(ctx.Done(), t.synced()...) {
			return
		}
		t.granted.Store(true)
		t.renew()
		close(t.settled)
		for {
			select {
			case <-ctx.Done():
				return
			case <-t.dirty:
				t.renew()
			}
		}
	}()
}

// waitServed waits until the API server serves the kind, and errs when the context ends first. An informer would ask too, but less and
// less often, and with an error in the log each time.
func (t *Tracker) waitServed(ctx context.Context, k *kind) error {
	return wait.PollUntilContextCancel(ctx, probeInterval, true, func(ctx context.Context) (bool, error) {
		_, err := t.client.Resource(k.resource).List(ctx, metav1.ListOptions{Limit: 1})
		switch {
		case err == nil:
			return true, nil
		case apierrors.IsNotFound(err), apierrors.IsForbidden(err):
			if !k.unserved.Swap(true) {
				klog.FromContext(ctx).Info("Cannot be read; asking again until it can be", "resource", k.resource, "reason", err.Error())
			}
		default: // not an answer
			klog.FromContext(ctx).V(2).Info("Asking", "resource", k.resource, "err", err)
		}
		return false, nil
	})
}

func (t *Tracker) synced() []cache.InformerSynced {
	var out []cache.InformerSynced
	for _, r := range t.handlers {
		out = append(out, r.HasSynced)
	}
	for _, k := range t.kinds {
		out = append(out, func() bool { return k.unserved.Load() || k.registration.HasSynced() })
	}
	return out
}

// WaitForSync waits until the set has every object that existed when the tracker started, of the kinds that the API server served then.
// It errs when the context ends first.
func (t *Tracker) WaitForSync(ctx context.Context) error {
	select {
	case <-t.settled:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting for queues: %w", context.Cause(ctx))
	}
}

// renew makes the set of what the stores have, and tells of it. Only the goroutine of Start calls it.
func (t *Tracker) renew() {
	// Asked before the stores are read: what changes meanwhile touches again.
	granted := t.granted.Swap(false)
	queues, broken := stored[*v1alpha1.Queue](t.kinds[0])
	var next *Set
	if granted {
		classes, brokenClasses := stored[*v1alpha1.GPUClass](t.kinds[1])
		namespaces, _ := t.namespaces.List(labels.Everything()) // does not err
		next = newSet(queues, classes, namespaces, append(broken, brokenClasses...))
	} else {
		next = t.Set().withStatuses(queues)
	}
	t.set.Store(next)
	t.mu.Lock()
	functions := t.onChange
	t.mu.Unlock()
	for _, f := range functions {
		f(next)
	}
}

// stored are the objects of the kind, and those that are not what the kind's definition should have let through. There are none until
// all that there were have come: a queue without the one above it would look invalid.
func stored[T any](k *kind) (objects []T, broken []*unstructured.Unstructured) {
	if !k.registration.HasSynced() {
		return nil, nil
	}
	for _, obj := range k.informer.GetStore().List() {
		switch o := obj.(type) {
		case T:
			objects = append(objects, o)
		case *unstructured.Unstructured:
			broken = append(broken, o)
		}
	}
	return objects, broken
}
