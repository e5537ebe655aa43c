package framework

import (
	"context"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// informer is the informer of a kind of objects that the simulator makes. It reads nothing: what add, update and remove are given is
// in its store, and every handler has seen it, when they return. Handlers are added before, and all by one goroutine.
type informer struct {
	cache.SharedIndexInformer // is never run: it has the store
	handlers                  []cache.ResourceEventHandler
}

// newInformer makes the factory's informer for the kind of the example be one of ours.
func newInformer(factory informers.SharedInformerFactory, example runtime.Object) *informer {
	i := &informer{SharedIndexInformer: cache.NewSharedIndexInformer(&cache.ListWatch{}, example, 0, cache.Indexers{
		cache.NamespaceIndex: cache.MetaNamespaceIndexFunc,
	})}
	factory.InformerFor(example, func(kubernetes.Interface, time.Duration) cache.SharedIndexInformer { return i })
	return i
}

func (i *informer) add(obj any) error {
	err := i.GetStore().Add(obj)
	for _, h := range i.handlers {
		h.OnAdd(obj, false)
	}
	return err
}

func (i *informer) update(before, obj any) error {
	err := i.GetStore().Update(obj)
	for _, h := range i.handlers {
		h.OnUpdate(before, obj)
	}
	return err
}

func (i *informer) remove(obj any) error {
	err := i.GetStore().Delete(obj)
	for _, h := range i.handlers {
		h.OnDelete(obj)
	}
	return err
}

// AddEventHandler implements cache.SharedInformer.
func (i *informer) AddEventHandler(h cache.ResourceEventHandler) (cache.ResourceEventHandlerRegistration, error) {
	i.handlers = append(i.handlers, h)
	return i, nil
}

// AddEventHandlerWithResyncPeriod implements cache.SharedInformer.
func (i *informer) AddEventHandlerWithResyncPeriod(h cache.ResourceEventHandler, _ time.Duration) (cache.ResourceEventHandlerRegistration, error) {
	return i.AddEventHandler(h)
}

// AddEventHandlerWithOptions implements cache.SharedInformer.
func (i *informer) AddEventHandlerWithOptions(h cache.ResourceEventHandler, _ cache.HandlerOptions) (cache.ResourceEventHandlerRegistration, error) {
	return i.AddEventHandler(h)
}

// RemoveEventHandler implements cache.SharedInformer: handlers go with the informer.
func (i *informer) RemoveEventHandler(cache.ResourceEventHandlerRegistration) error { return nil }

// Run implements cache.SharedInformer.
func (i *informer) Run(stop <-chan struct{}) { <-stop }

// RunWithContext implements cache.SharedInformer.
func (i *informer) RunWithContext(ctx context.Context) { <-ctx.Done() }

// HasSynced implements cache.SharedInformer, and cache.ResourceEventHandlerRegistration for every handler.
func (i *informer) HasSynced() bool { return true }

// HasSyncedChecker implements both, too.
func (i *informer) HasSyncedChecker() cache.DoneChecker { return done{} }

// done is done.
type done struct{}

func (done) Name() string { return "simulator" }

func (done) Done() <-chan struct{} { return closed }

var closed = func() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()
