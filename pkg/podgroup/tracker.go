package podgroup

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/informers"
	corelisters "k8s.io/client-go/listers/core/v1"
	schedulinglisters "k8s.io/client-go/listers/scheduling/v1beta1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
	schedv1alpha1 "sigs.k8s.io/scheduler-plugins/apis/scheduling/v1alpha1"

	"weft.sh/weft/pkg/gang"
	"weft.sh/weft/pkg/podspec"
)

var (
	// ErrNotFound is returned for a gang whose PodGroup does not exist, or is of a kind that the API server does not serve.
	ErrNotFound = errors.New("no PodGroup of this name in this namespace")
	// ErrNotGang is returned for a native PodGroup whose pods are scheduled by themselves.
	ErrNotGang = errors.New("the PodGroup has the basic policy: its pods are scheduled by themselves")
)

// Resource is the PodGroup of scheduling.x-k8s.io as the API server serves it.
var Resource = schedv1alpha1.SchemeGroupVersion.WithResource("podgroups")

// probeInterval is how often the API server is asked for a kind that it did not serve.
const probeInterval = 5 * time.Second

// TrackerOptions say what a tracker reads.
type TrackerOptions struct {
	// Pods has the informer of pods, and that of native PodGroups. Whoever made it starts it.
	Pods informers.SharedInformerFactory
	// CRD reads PodGroups of scheduling.x-k8s.io; nil for none. The API server need not serve them, now or ever.
	CRD dynamic.Interface
	// Native says that the API server serves PodGroups of scheduling.k8s.io/v1beta1: an informer of a kind that it does not
	// serve would never sync.
	Native bool
}

// Tracker knows the gangs: what each asks for, and which pods are its members, in order. It is level-triggered, as
// inventory.Tracker is: an event only says which pod to look at again, and what the informer's store says at that moment
// counts. Safe for concurrent use.
type Tracker struct {
	pods   corelisters.PodLister
	native schedulinglisters.PodGroupLister // nil when there are none

	client dynamic.Interface         // nil when there are no PodGroups of the custom kind
	crd    cache.SharedIndexInformer // of *schedv1alpha1.PodGroup; nil with client
	// unserved says that the API server was asked before anything else and did not serve the custom kind: nobody has to wait
	// for it. served says that it does by now.
	unserved, served atomic.Bool

	registrations   []cache.ResourceEventHandlerRegistration // of pods and native PodGroups
	crdRegistration cache.ResourceEventHandlerRegistration

	mu sync.RWMutex
	// byName has every pod that names a gang, under its own name. Invariant: it has the same members as gangs.
	byName map[types.NamespacedName]member
	// gangs are the members of each gang, in Compare order. They are kept so: a thousand pods are not sorted again for each
	// of a thousand cycles. Invariant: no list is empty.
	gangs map[gang.Key][]member
	// owed are the gangs that Refresh saw change, of which the functions in onChange have not heard. The event that Refresh
	// was ahead of tells them.
	owed     map[gang.Key]struct{}
	onChange []func(gang.Key)
}

// member is a pod of a gang.
type member struct {
	pod   *v1.Pod
	key   gang.Key
	order order
	// ended says that it ended or is being deleted: to see that in a thousand pods takes longer than to copy the list.
	ended bool
}

// NewTracker registers with the factory's informers; nothing happens before the factory and the tracker are started.
func NewTracker(o TrackerOptions) (*Tracker, error) {
	t := &Tracker{
		pods:   o.Pods.Core().V1().Pods().Lister(),
		client: o.CRD,
		byName: map[types.NamespacedName]member{},
		gangs:  map[gang.Key][]member{},
		owed:   map[gang.Key]struct{}{},
	}
	r, err := o.Pods.Core().V1().Pods().Informer().AddEventHandler(handler(t.podEvent))
	if err != nil {
		return nil, fmt.Errorf("informer of pods: %w", err)
	}
	t.registrations = append(t.registrations, r)
	if o.Native {
		groups := o.Pods.Scheduling().V1beta1().PodGroups()
		t.native = groups.Lister()
		r, err := groups.Informer().AddEventHandler(t.groupHandler(gang.SourceNative))
		if err != nil {
			return nil, fmt.Errorf("informer of native PodGroups: %w", err)
		}
		t.registrations = append(t.registrations, r)
	}
	if o.CRD != nil {
		t.crd = dynamicinformer.NewFilteredDynamicInformer(o.CRD, Resource, metav1.NamespaceAll, 0,
			cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc}, nil).Informer()
		if err := t.crd.SetTransform(typed); err != nil {
			return nil, fmt.Errorf("informer of PodGroups: %w", err)
		}
		if t.crdRegistration, err = t.crd.AddEventHandler(t.groupHandler(gang.SourceCRD)); err != nil {
			return nil, fmt.Errorf("informer of PodGroups: %w", err)
		}
	}
	return t, nil
}

// typed makes a PodGroup of what the dynamic client read. An object that is none stays what it is, and is found to be invalid
// when it is asked for: one such object must not hide all others.
func typed(obj any) (any, error) {
	u, ok := obj.(*unstructured.Unstructured)
	if !ok {
		return obj, nil
	}
	u.SetManagedFields(nil) // the larger half of an object, and nothing to us
	pg := &schedv1alpha1.PodGroup{}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, pg); err != nil {
		return u, nil
	}
	return pg, nil
}

// Start reads PodGroups of scheduling.x-k8s.io until the context ends. It does not block. When the API server does not serve
// them, it is asked again every 5 seconds: their definition may be installed later.
func (t *Tracker) Start(ctx context.Context) {
	if t.crd == nil {
		return
	}
	go func() {
		if t.waitServed(ctx) == nil {
			t.crd.RunWithContext(ctx)
		}
	}()
}

// waitServed waits until the API server serves PodGroups, and errs when the context ends first. An informer would ask too, but
// less and less often, and with an error in the log each time.
func (t *Tracker) waitServed(ctx context.Context) error {
	return wait.PollUntilContextCancel(ctx, probeInterval, true, func(ctx context.Context) (bool, error) {
		_, err := t.client.Resource(Resource).List(ctx, metav1.ListOptions{Limit: 1})
		switch {
		case err == nil:
			t.served.Store(true)
			return true, nil
		case apierrors.IsNotFound(err), apierrors.IsForbidden(err):
			if !t.unserved.Swap(true) {
				klog.FromContext(ctx).Info("PodGroups cannot be read; asking again until they can be", "resource", Resource, "reason", err.Error())
			}
		default: // not an answer
			klog.FromContext(ctx).V(2).Info("Asking for PodGroups", "resource", Resource, "err", err)
		}
		return false, nil
	})
}

// WaitForSync waits until the tracker knows every pod that existed when it started, and every PodGroup of the kinds that the
// API server served then. It errs when the context ends first.
func (t *Tracker) WaitForSync(ctx context.Context) error {
	var synced []cache.InformerSynced
	for _, r := range t.registrations {
		synced = append(synced, r.HasSynced)
	}
	if t.crd != nil {
		synced = append(synced, func() bool { return t.unserved.Load() || t.crdRegistration.HasSynced() })
	}
	if !cache.WaitForCacheSync(ctx.Done(), synced...) {
		return fmt.Errorf("waiting for pods and PodGroups: %w", context.Cause(ctx))
	}
	return nil
}

// Spec is what the gang's PodGroup asks for now. Errors are ErrNotFound, ErrNotGang and *podspec.InvalidError, wrapped or with
// the group's name.
func (t *Tracker) Spec(k gang.Key) (gang.Spec, error) {
	if k.Source == gang.SourceNative {
		if t.native == nil {
			return gang.Spec{}, notServed(k)
		}
		pg, err := t.native.PodGroups(k.Namespace).Get(k.Name)
		if err != nil { // the only error is that there is none
			return gang.Spec{}, fmt.Errorf("%s: %w", k, ErrNotFound)
		}
		s, ok, err := FromNative(pg)
		if err == nil && !ok {
			err = fmt.Errorf("%s: %w", k, ErrNotGang)
		}
		return s, err
	}
	if t.crd == nil || !t.served.Load() {
		return gang.Spec{}, notServed(k)
	}
	obj, ok, err := t.crd.GetStore().GetByKey(k.Namespace + "/" + k.Name)
	if err != nil || !ok {
		return gang.Spec{}, fmt.Errorf("%s: %w", k, ErrNotFound)
	}
	pg, ok := obj.(*schedv1alpha1.PodGroup)
	if !ok {
		return gang.Spec{}, &podspec.InvalidError{
			Field: k.String(), Value: "an object with fields of other types", Want: "a PodGroup of " + schedv1alpha1.SchemeGroupVersion.String(),
		}
	}
	return FromCRD(pg)
}

// notServed is the error for a gang of a kind that there is none of. It says more than that the group does not exist: to create
// it would not help.
func notServed(k gang.Key) error {
	return fmt.Errorf("%s: %w: the API server does not serve PodGroups of %s", k, ErrNotFound, k.Source)
}

// Members are the pods of the gang that have not ended and are not being deleted, in Compare order. The slice is the
// caller's, the pods are the informer's.
func (t *Tracker) Members(k gang.Key) []*v1.Pod { return t.list(k, false) }

// All are the pods of the gang, in Compare order, those that have ended or are being deleted too.
func (t *Tracker) All(k gang.Key) []*v1.Pod { return t.list(k, true) }

func (t *Tracker) list(k gang.Key, ended bool) []*v1.Pod {
	t.mu.RLock()
	defer t.mu.RUnlock()
	list := t.gangs[k]
	out := make([]*v1.Pod, 0, len(list))
	for i := range list {
		if ended || !list[i].ended {
			out = append(out, list[i].pod)
		}
	}
	return out
}

// OnChange has the function called after a gang changed: its PodGroup asks for something else, came or went, or so did a pod
// of it. The function is called without a lock held, by the goroutines of the informers, several at a time; it must not block.
// It is not called from Refresh, which a caller may do with locks held: the event that Refresh was ahead of calls it.
func (t *Tracker) OnChange(f func(gang.Key)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.onChange = append(t.onChange, f)
}

func (t *Tracker) changed(keys ...gang.Key) {
	t.mu.RLock()
	functions := t.onChange
	t.mu.RUnlock()
	for _, k := range keys {
		for _, f := range functions {
			f(k)
		}
	}
}

// Refresh looks again at the pod, or the tombstone of one, so that Members is not behind the informer's store. Anything else
// is ignored: what a PodGroup asks for is read from the store whenever it is asked for.
func (t *Tracker) Refresh(obj any) {
	if pod, ok := untombed(obj).(*v1.Pod); ok {
		t.mu.Lock()
		defer t.mu.Unlock()
		for _, k := range t.refresh(pod.Namespace, pod.Name) {
			t.owed[k] = struct{}{}
		}
	}
}

// podEvent is Refresh for an event.
func (t *Tracker) podEvent(obj any) {
	pod, ok := untombed(obj).(*v1.Pod)
	if !ok {
		return
	}
	t.mu.Lock()
	keys := t.refresh(pod.Namespace, pod.Name)
	if len(t.owed) > 0 {
		for _, k := range keys {
			t.owed[k] = struct{}{}
		}
		keys = slices.Collect(maps.Keys(t.owed))
		clear(t.owed)
	}
	t.mu.Unlock()
	t.changed(keys...)
}

// refresh makes the tracker know the pod of the name as the store does, and returns the gangs that changed. The caller holds
// the lock.
func (t *Tracker) refresh(namespace, name string) []gang.Key {
	at := types.NamespacedName{Namespace: namespace, Name: name}
	old, had := t.byName[at]
	var now member
	has := false
	if pod, err := t.pods.Pods(namespace).Get(name); err == nil { // the only error is that there is none
		if had && pod == old.pod {
			return nil
		}
		if now.key, has = KeyOf(pod); has {
			now.pod, now.order = pod, orderOf(pod)
			now.ended = pod.DeletionTimestamp != nil || pod.Status.Phase == v1.PodSucceeded || pod.Status.Phase == v1.PodFailed
		}
	}
	switch {
	case !had && !has:
		return nil
	case had && has && old.key == now.key && old.order == now.order:
		list := t.gangs[now.key]
		i, _ := find(list, now)
		list[i] = now
		t.byName[at] = now
		return []gang.Key{now.key}
	}
	var keys []gang.Key
	if had {
		keys = append(keys, old.key)
		list := t.gangs[old.key]
		if i, ok := find(list, old); ok {
			list = slices.Delete(list, i, i+1)
		}
		if t.gangs[old.key] = list; len(list) == 0 {
			delete(t.gangs, old.key)
		}
		delete(t.byName, at)
	}
	if has {
		if !had || now.key != old.key {
			keys = append(keys, now.key)
		}
		i, _ := find(t.gangs[now.key], now)
		t.gangs[now.key] = slices.Insert(t.gangs[now.key], i, now)
		t.byName[at] = now
	}
	return keys
}

// find is where the member stands in the list, or belongs.
func find(list []member, m member) (int, bool) {
	return slices.BinarySearchFunc(list, m, func(a, b member) int { return compareOrders(a.order, b.order) })
}

// groupHandler tells of changes of PodGroups of the kind. A change of the status alone, which the controller writes, is none.
func (t *Tracker) groupHandler(source gang.Source) cache.ResourceEventHandler {
	tell := func(obj any) {
		if m, err := meta.Accessor(untombed(obj)); err == nil {
			t.changed(gang.Key{Source: source, Namespace: m.GetNamespace(), Name: m.GetName()})
		}
	}
	return cache.ResourceEventHandlerFuncs{
		AddFunc: tell,
		UpdateFunc: func(old, obj any) {
			a, errA := meta.Accessor(old)
			b, errB := meta.Accessor(obj)
			if errA == nil && errB == nil && a.GetUID() == b.GetUID() && a.GetGeneration() == b.GetGeneration() &&
				maps.Equal(a.GetAnnotations(), b.GetAnnotations()) {
				return
			}
			tell(obj)
		},
		DeleteFunc: tell,
	}
}

func handler(f func(obj any)) cache.ResourceEventHandler {
	return cache.ResourceEventHandlerFuncs{AddFunc: f, UpdateFunc: func(_, obj any) { f(obj) }, DeleteFunc: f}
}

// untombed is the object of an event, also where the event says that its deletion was missed.
func untombed(obj any) any {
	if tombstone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		return tombstone.Obj
	}
	return obj
}
