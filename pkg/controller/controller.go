package controller

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/klog/v2"

	"weft.sh/weft/pkg/gang"
	"weft.sh/weft/pkg/podgroup"
	"weft.sh/weft/pkg/podspec"
)

const (
	name = "weft-controller"
	// settle is how long changes of one gang are gathered: a gang of a thousand is bound in a thousand steps, and is not worth
	// as many writes.
	settle = 250 * time.Millisecond
	// workers is how many gangs are looked at at a time.
	workers = 8
	// firstRetry and lastRetry bound the pause before what failed is tried again.
	firstRetry, lastRetry = 250 * time.Millisecond, time.Minute
)

// Options say what a controller works with.
type Options struct {
	Client kubernetes.Interface
	// Groups reads PodGroups of scheduling.x-k8s.io and writes their status.
	Groups dynamic.Interface
	// Native says that the API server serves PodGroups of scheduling.k8s.io/v1beta1; otherwise pods that name one are left alone.
	Native bool
	// Recorder records events.
	Recorder events.EventRecorder
	// Schedulers are the names of the schedulers whose gangs it looks after.
	Schedulers []string
	// Levels are the topology levels that the schedulers are configured with; nil where that is not known.
	Levels []string
	// Ledger says how the ledger is kept; nil for no ledger, and no statuses of queues.
	Ledger *LedgerOptions
}

// Controller looks after gangs. Make one with New.
type Controller struct {
	client     kubernetes.Interface
	groups     dynamic.Interface
	recorder   events.EventRecorder
	schedulers []string
	levels     []string
	factory    informers.SharedInformerFactory
	tracker    *podgroup.Tracker
	books      *books // nil for none
	queue      workqueue.TypedRateLimitingInterface[gang.Key]

	mu sync.Mutex
	// gangs are those that were looked at. The queue sees to it that nobody else works on one at the same time.
	gangs map[gang.Key]*known
}

// known is what is known of a gang besides what pods and PodGroups say.
type known struct {
	uid    types.UID
	record gang.Record
	// status is where the gang stands; judged says that there is one.
	status gang.Status
	judged bool
	// last is the status as it was written last; written says that it was.
	last    gang.Status
	written bool
	// eviction tells one eviction from the next, to count it once.
	eviction string
	// phase and late are what the metrics count it as.
	phase gang.Phase
	late  bool
	// gone is since when there is no PodGroup; zero while there is one, or nobody has to be told. told says that they were.
	gone time.Time
	told bool
}

// New makes a controller. It does nothing before Start and Work.
func New(o Options) (*Controller, error) {
	c := &Controller{
		client: o.Client, groups: o.Groups, recorder: o.Recorder, schedulers: o.Schedulers, levels: o.Levels,
		factory: informers.NewSharedInformerFactoryWithOptions(o.Client, 0, informers.WithTransform(slim)),
		queue: workqueue.NewTypedRateLimitingQueue(
			workqueue.NewTypedItemExponentialFailureRateLimiter[gang.Key](firstRetry, lastRetry)),
		gangs: map[gang.Key]*known{},
	}
	var err error
	if c.tracker, err = podgroup.NewTracker(podgroup.TrackerOptions{Pods: c.factory, CRD: o.Groups, Native: o.Native}); err != nil {
		return nil, err
	}
	c.tracker.OnChange(func(k gang.Key) {
		if k.Source == gang.SourceCRD || o.Native {
			c.queue.AddAfter(k, settle)
		}
	})
	registerMetrics()
	if o.Ledger != nil {
		if c.books, err = newBooks(o, c); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// slim takes from a pod or a PodGroup what is large and of no use here. A cluster has many more pods than gangs have members.
func slim(obj any) (any, error) {
	if m, err := meta.Accessor(obj); err == nil {
		m.SetManagedFields(nil)
	}
	if n, ok := obj.(*v1.Node); ok {
		n.Annotations, n.Spec, n.Status = nil, v1.NodeSpec{}, v1.NodeStatus{} // what GPUs it has stands in its labels
	}
	p, ok := obj.(*v1.Pod)
	if !ok {
		return obj, nil
	}
	p.Spec.Volumes, p.Spec.EphemeralContainers, p.Spec.Tolerations, p.Spec.TopologySpreadConstraints = nil, nil, nil, nil
	for _, list := range [][]v1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range list {
			list[i] = v1.Container{Name: list[i].Name, Resources: list[i].Resources, RestartPolicy: list[i].RestartPolicy}
		}
	}
	// Which GPU models it accepts.
	if a := p.Spec.Affinity; a != nil {
		p.Spec.Affinity = &v1.Affinity{NodeAffinity: a.NodeAffinity}
	}
	return p, nil
}

// Start fills the caches, until the context ends, and returns when they are full. Every replica does this.
func (c *Controller) Start(ctx context.Context) error {
	c.factory.Start(ctx.Done())
	c.tracker.Start(ctx)
	if c.books != nil {
		c.books.queues.Start(ctx)
		if err := c.books.queues.WaitForSync(ctx); err != nil {
			return err
		}
		// Nodes too: who is charged before they are known is charged as if they had no labels.
		for kind, synced := range c.factory.WaitForCacheSync(ctx.Done()) {
			if !synced {
				return fmt.Errorf("waiting for %v: %w", kind, context.Cause(ctx))
			}
		}
	}
	return c.tracker.WaitForSync(ctx)
}

// Work looks after the gangs and keeps the ledger until the context ends. Only one replica may; the error is that another keeps
// the ledger. Holder names this replica.
func (c *Controller) Work(ctx context.Context, holder string) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	if c.books != nil {
		wg.Go(func() {
			if err := c.books.work(ctx, holder); err != nil {
				cancel(err)
			}
		})
	}
	for range workers {
		wg.Go(func() {
			for c.next(ctx) {
			}
		})
	}
	<-ctx.Done()
	c.queue.ShutDown()
	wg.Wait()
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

func (c *Controller) next(ctx context.Context) bool {
	k, quit := c.queue.Get()
	if quit {
		return false
	}
	defer c.queue.Done(k)
	if ctx.Err() != nil {
		return false
	}
	start := time.Now()
	again, err := c.reconcile(ctx, k, start)
	duration.Observe(time.Since(start).Seconds())
	switch {
	case err == nil:
		c.queue.Forget(k)
		if !again.IsZero() {
			c.queue.AddAfter(k, time.Until(again))
		}
	case ctx.Err() != nil:
	case apierrors.IsNotFound(err), apierrors.IsConflict(err), apierrors.IsInvalid(err):
		// The PodGroup is gone, or is another one: the informer will say so.
		klog.FromContext(ctx).V(2).Info("A PodGroup changed meanwhile", "podgroup", klog.KRef(k.Namespace, k.Name), "err", err)
		c.queue.AddRateLimited(k)
	default:
		klog.FromContext(ctx).Error(err, "To be tried again", "podgroup", klog.KRef(k.Namespace, k.Name))
		c.queue.AddRateLimited(k)
	}
	return true
}

// reconcile says where the gang stands, and does what has to be done. It returns when to look again though nothing changed; zero
// for never.
func (c *Controller) reconcile(ctx context.Context, k gang.Key, now time.Time) (time.Time, error) {
	pg, ok := c.group(k)
	pods := c.tracker.All(k)
	if len(pods) > 0 && !slices.ContainsFunc(pods, func(p *v1.Pod) bool { return c.ours(p.Spec.SchedulerName) }) ||
		len(pods) == 0 && k.Source == gang.SourceNative && pg.condition == nil {
		c.forget(k)
		return time.Time{}, nil
	}
	spec, err := c.tracker.Spec(k)
	switch {
	case errors.Is(err, podgroup.ErrNotFound):
		return c.orphaned(ctx, k, pods, now), nil
	case !ok, errors.Is(err, podgroup.ErrNotGang):
		c.forget(k)
		return time.Time{}, nil
	}
	g := c.known(k, pg.uid)
	g.gone, g.told = time.Time{}, false
	was := g.status
	if !g.judged {
		was = pg.stored
	}
	members := g.record.Complete(spec, membersOf(pods, c.ours), was, now)
	var next gang.Next
	var invalid *podspec.InvalidError
	switch {
	case errors.As(err, &invalid):
		g.status = gang.Invalid(err, members, was)
	case err != nil:
		return time.Time{}, err
	default:
		g.status, next = gang.Judge(spec, members, was, now)
		g.record.Evicted(members, g.status, next)
		g.status.Message = withWrong(g.status, c.wrong(spec, pods))
	}
	g.judged = true
	klog.FromContext(ctx).V(4).Info("Judged a gang", "podgroup", klog.KRef(k.Namespace, k.Name), "pods", len(pods), "phase", g.status.Phase,
		"scheduled", g.status.Scheduled, "evict", len(next.Evict))
	g.countPhase()
	// The status goes first: it says that members leave, and since when, also to the next who leads.
	err = c.write(ctx, k, g, pg, now)
	if err == nil && len(next.Evict) > 0 {
		err = c.evict(ctx, k, g, pg, pods, next)
	}
	if len(next.Evict) == 0 {
		g.eviction = ""
	}
	g.countLate(len(next.Evict) > 0 && err != nil)
	return next.At, err
}

// ours says that a pod of the scheduler is the controller's to look after.
func (c *Controller) ours(scheduler string) bool { return slices.Contains(c.schedulers, scheduler) }

// known is what is known of the gang whose PodGroup has the UID.
func (c *Controller) known(k gang.Key, uid types.UID) *known {
	c.mu.Lock()
	defer c.mu.Unlock()
	g := c.gangs[k]
	if g == nil || g.uid != uid {
		if g != nil {
			g.forget()
		}
		g = &known{uid: uid}
		c.gangs[k] = g
	}
	return g
}

func (c *Controller) forget(k gang.Key) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if g := c.gangs[k]; g != nil {
		g.forget()
		delete(c.gangs, k)
	}
}

// validate checks what people may get wrong.
func (o Options) validate() error {
	if len(o.Schedulers) == 0 || slices.Contains(o.Schedulers, "") {
		return fmt.Errorf("--scheduler-names is %q: want the name of at least one scheduler", o.Schedulers)
	}
	return nil
}
