package playground

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/mig"
	"weft.sh/weft/pkg/podspec"
	"weft.sh/weft/pkg/quota"
)

// PodState is what is known of a pod that Weft places.
type PodState struct {
	Namespace, Name string
	// Node is empty until the pod is bound.
	Node string
	// Reason is why the pod is not bound, in the scheduler's words (the message of its condition PodScheduled); empty as
	// long as the scheduler has not said so, and when the pod is bound.
	Reason string
	// Assignment is what the pod holds, in the text of its annotation.
	Assignment string
	// MilliGPU is the sum of the assignment, MIG instances by their compute slices; 0 when it cannot be read.
	MilliGPU int64
}

// Counts sums up a Tracker.
type Counts struct {
	// Bound and Unschedulable pods have got their answer, the latter also from a queue that holds them back; Waiting ones have not.
	Bound, Unschedulable, Waiting int
	// MilliGPU is granted to the bound pods.
	MilliGPU int64
	// FirstBound and LastBound are when the first and the last binding was seen; zero without any.
	FirstBound, LastBound time.Time
}

// PerSecond is the pods bound per second from the first to the last, 0 below two pods.
func (c Counts) PerSecond() float64 {
	took := c.LastBound.Sub(c.FirstBound).Seconds()
	if c.Bound < 2 || took <= 0 {
		return 0
	}
	return float64(c.Bound-1) / took
}

// Tracker follows all pods whose schedulerName is weft.
type Tracker struct {
	mu      sync.Mutex
	pods    map[string]PodState
	counts  Counts
	changed chan struct{}
}

// Track starts a Tracker, which ends with ctx. It returns when the pods that exist are known.
func Track(ctx context.Context, cfg *rest.Config) (*Tracker, error) {
	client, err := typedClient(cfg)
	if err != nil {
		return nil, err
	}
	t := &Tracker{pods: map[string]PodState{}, changed: make(chan struct{})}
	selector := fields.OneTermEqualSelector("spec.schedulerName", SchedulerName)
	lw := cache.NewListWatchFromClient(client.CoreV1().RESTClient(), "pods", metav1.NamespaceAll, selector)
	_, informer := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: lw,
		ObjectType:    &corev1.Pod{},
		Handler: cache.ResourceEventHandlerFuncs{
			AddFunc:    func(o any) { t.set(o.(*corev1.Pod)) },
			UpdateFunc: func(_, o any) { t.set(o.(*corev1.Pod)) },
			DeleteFunc: func(o any) {
				if key, err := cache.DeletionHandlingMetaNamespaceKeyFunc(o); err == nil {
					t.delete(key)
				}
			},
		},
		// Ten thousand pods need not be held whole.
		Transform: func(o any) (any, error) {
			if p, ok := o.(*corev1.Pod); ok {
				return slim(p), nil
			}
			return o, nil
		},
	})
	go informer.RunWithContext(ctx)
	if !cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
		return nil, context.Cause(ctx)
	}
	return t, nil
}

// slim keeps of a pod what a PodState is made of.
func slim(p *corev1.Pod) *corev1.Pod {
	s := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{
		Namespace: p.Namespace, Name: p.Name, UID: p.UID, ResourceVersion: p.ResourceVersion,
	}}
	if v, ok := p.Annotations[podspec.AnnotationGPUs]; ok {
		s.Annotations = map[string]string{podspec.AnnotationGPUs: v}
	}
	s.Spec.NodeName = p.Spec.NodeName
	s.Status.Conditions = p.Status.Conditions
	return s
}

// state reads a pod.
func state(p *corev1.Pod) PodState {
	s := PodState{Namespace: p.Namespace, Name: p.Name, Node: p.Spec.NodeName, Assignment: p.Annotations[podspec.AnnotationGPUs]}
	if s.Node != "" {
		if a, err := gpu.ParseAssignment(s.Assignment); err == nil {
			s.MilliGPU = granted(a)
		}
		return s
	}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse && (c.Reason == corev1.PodReasonUnschedulable || quota.HoldsBack(c.Reason)) {
			s.Reason = cmp.Or(c.Message, "the scheduler gave no reason")
		}
	}
	return s
}

// granted is what an assignment takes, in milli-GPU.
func granted(a gpu.Assignment) int64 {
	var sum int64
	for _, u := range a.Uses() {
		if u.Whole {
			sum += gpu.WholeMilliGPU
		}
		sum += u.MilliGPU
		for _, i := range u.Instances {
			sum += mig.MilliGPU(i.Profile)
		}
	}
	return sum
}

func (t *Tracker) set(p *corev1.Pod) {
	s := state(p)
	key := p.Namespace + "/" + p.Name
	t.mu.Lock()
	defer t.mu.Unlock()
	old, ok := t.pods[key]
	if ok && old == s {
		return
	}
	if ok {
		t.count(old, -1)
	}
	t.pods[key] = s
	t.count(s, 1)
	if s.Node != "" && (!ok || old.Node == "") {
		now := time.Now()
		if t.counts.FirstBound.IsZero() {
			t.counts.FirstBound = now
		}
		t.counts.LastBound = now
	}
	t.notify()
}

func (t *Tracker) delete(key string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if old, ok := t.pods[key]; ok {
		t.count(old, -1)
		delete(t.pods, key)
		t.notify()
	}
}

func (t *Tracker) count(s PodState, n int) {
	switch {
	case s.Node != "":
		t.counts.Bound += n
		t.counts.MilliGPU += int64(n) * s.MilliGPU
	case s.Reason != "":
		t.counts.Unschedulable += n
	default:
		t.counts.Waiting += n
	}
}

func (t *Tracker) notify() {
	close(t.changed)
	t.changed = make(chan struct{})
}

// Counts is the present state, and a channel that is closed when it has changed.
func (t *Tracker) Counts() (Counts, <-chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.counts, t.changed
}

// Pods is the present state of each pod, by namespace and name.
func (t *Tracker) Pods() []PodState {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := make([]PodState, 0, len(t.pods))
	for _, s := range t.pods {
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b PodState) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return all
}

// WaitFor waits until ok says so of the pods, asked again after every change; show, when it is set, is called before.
func (t *Tracker) WaitFor(ctx context.Context, show func(Counts), ok func(Counts, func() []PodState) bool) error {
	for {
		counts, changed := t.Counts()
		if show != nil {
			show(counts)
		}
		if ok(counts, t.Pods) {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
