package inventory

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	v1 "k8s.io/api/core/v1"
	resourceapi "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/informers"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	weftcache "weft.sh/weft/pkg/cache"
	"weft.sh/weft/pkg/cluster"
	"weft.sh/weft/pkg/podspec"
)

// Tracker keeps a cache in step with the API server. It is level-triggered: an event only says which node or pod to look
// at again, and what the informers' stores say at that moment counts, so that a late event never brings back an old state.
// Refreshing may therefore be done by anybody at any time; a queueing hint does it to be sure that the retry it asks for
// sees the event that it answers. Safe for concurrent use.
type Tracker struct {
	cache  *weftcache.Cache
	nodes  corelisters.NodeLister
	pods   corelisters.PodLister
	slices cache.Indexer // nil when the API server does not serve ResourceSlices

	// mu makes reading the stores and writing the cache one step.
	mu sync.Mutex

	registrations []cache.ResourceEventHandlerRegistration
}

const byNode = "weft.sh/node"

// NewTracker registers with the factory's informers; nothing happens before the factory is started. withSlices says
// whether the API server serves ResourceSlices: an informer of an API that it does not serve would never sync.
func NewTracker(factory informers.SharedInformerFactory, c *weftcache.Cache, withSlices bool) (*Tracker, error) {
	t := &Tracker{
		cache: c,
		nodes: factory.Core().V1().Nodes().Lister(),
		pods:  factory.Core().V1().Pods().Lister(),
	}
	var errs []error
	register := func(informer cache.SharedIndexInformer, handle func(obj any)) {
		r, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc: handle,
			UpdateFunc: func(old, obj any) {
				if !sameObject(old, obj) {
					handle(old)
				}
				handle(obj)
			},
			DeleteFunc: handle,
		})
		t.registrations = append(t.registrations, r)
		errs = append(errs, err)
	}
	register(factory.Core().V1().Nodes().Informer(), t.Refresh)
	register(factory.Core().V1().Pods().Informer(), t.Refresh)
	if withSlices {
		informer := factory.Resource().V1().ResourceSlices().Informer()
		t.slices = informer.GetIndexer()
		errs = append(errs, informer.AddIndexers(cache.Indexers{byNode: func(obj any) ([]string, error) {
			if s, ok := obj.(*resourceapi.ResourceSlice); ok && s.Spec.NodeName != nil && s.Spec.Driver == Driver {
				return []string{*s.Spec.NodeName}, nil
			}
			return nil, nil
		}}))
		register(informer, t.Refresh)
	}
	return t, errors.Join(errs...)
}

// sameObject reports whether both are states of one object. An informer that missed a deletion shows another object of the
// same name as an update.
func sameObject(a, b any) bool {
	x, errX := meta.Accessor(a)
	y, errY := meta.Accessor(b)
	return errX == nil && errY == nil && x.GetUID() == y.GetUID()
}

// WaitForSync waits until everything that existed when the informers started is in the cache. It errs when the context
// ends first.
func (t *Tracker) WaitForSync(ctx context.Context) error {
	synced := make([]cache.InformerSynced, len(t.registrations))
	for i, r := range t.registrations {
		synced[i] = r.HasSynced
	}
	if !cache.WaitForCacheSync(ctx.Done(), synced...) {
		return fmt.Errorf("waiting for nodes, pods and ResourceSlices: %w", context.Cause(ctx))
	}
	return nil
}

// Refresh looks again at whatever the object (a Node, Pod, ResourceSlice, or the tombstone of one) concerns. Others are
// ignored.
func (t *Tracker) Refresh(obj any) {
	if tombstone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = tombstone.Obj
	}
	switch o := obj.(type) {
	case *v1.Node:
		t.refreshNode(o.Name)
	case *v1.Pod:
		t.refreshPod(o)
	case *resourceapi.ResourceSlice:
		if o.Spec.Driver == Driver && o.Spec.NodeName != nil {
			t.refreshNode(*o.Spec.NodeName)
		}
	}
}

func (t *Tracker) refreshNode(name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	node, err := t.nodes.Get(name)
	if err != nil {
		if !apierrors.IsNotFound(err) {
			klog.Background().Error(err, "Reading a node from the informer's store", "node", name)
		}
		node = nil
	}
	inv := Of(node, FromSlices(t.slicesOf(name)))
	if node == nil {
		inv = cluster.Inventory{} // slices of a node that is not there offer nothing
	}
	t.cache.SetInventory(name, inv)
}

func (t *Tracker) slicesOf(node string) []*resourceapi.ResourceSlice {
	if t.slices == nil {
		return nil
	}
	objs, err := t.slices.ByIndex(byNode, node)
	if err != nil { // only when the index is missing, which NewTracker reports
		return nil
	}
	out := make([]*resourceapi.ResourceSlice, 0, len(objs))
	for _, o := range objs {
		if s, ok := o.(*resourceapi.ResourceSlice); ok {
			out = append(out, s)
		}
	}
	return out
}

func (t *Tracker) refreshPod(seen *v1.Pod) {
	t.mu.Lock()
	defer t.mu.Unlock()
	pod, err := t.pods.Pods(seen.Namespace).Get(seen.Name)
	switch {
	case err != nil || pod.UID != seen.UID || pod.Spec.NodeName != "" && !podspec.Bound(pod):
		t.cache.Forget(string(seen.UID)) // gone, replaced, or ended
	case pod.Spec.NodeName == "":
		// Pending: if it is assumed, that stays.
	default:
		p, err := Holding(pod)
		if p.Assignment.Empty() && p.Unplaced.Empty() {
			t.cache.Forget(p.UID)
			return
		}
		if news := t.cache.Confirm(pod.Spec.NodeName, p); news && err != nil {
			klog.Background().Info("A bound pod holds GPUs that cannot be placed; as many are withheld", "pod", klog.KObj(pod),
				"node", pod.Spec.NodeName, "reason", err.Error())
		}
	}
}

// CatchUp takes out of the cache what pods of these nodes hold that are gone, and reports whether there were any: that they go may
// be known to others before it gets here, and who is refused in between would not hear of it again.
func (t *Tracker) CatchUp(nodes []*cluster.Node) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	found := false
	for _, n := range nodes {
		for _, p := range n.Pods {
			namespace, name, _ := strings.Cut(p.Name, "/")
			pod, err := t.pods.Pods(namespace).Get(name)
			if err != nil || string(pod.UID) != p.UID || pod.Spec.NodeName != "" && !podspec.Bound(pod) {
				t.cache.Forget(p.UID)
				found = true
			}
		}
	}
	return found
}

// Holding is what a bound pod holds. The error says why its assignment is not known; the pod then counts with what it asks
// for, as far as that can be told, on no GPU in particular.
func Holding(pod *v1.Pod) (cluster.Pod, error) {
	name := pod.Namespace + "/" + pod.Name
	request, err := podspec.Request(pod)
	if err != nil {
		return cluster.NewUnplacedPod(string(pod.UID), name, podspec.Estimate(pod)), err
	}
	a, err := podspec.Assignment(pod, request)
	if err != nil {
		return cluster.NewUnplacedPod(string(pod.UID), name, request), err
	}
	return cluster.NewPod(string(pod.UID), name, a), nil
}
