package queue

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
	fwk "k8s.io/kube-scheduler/framework"

	"weft.sh/weft/pkg/gang"
	"weft.sh/weft/pkg/metrics"
	"weft.sh/weft/pkg/plugins/gpufit"
	"weft.sh/weft/pkg/podgroup"
	"weft.sh/weft/pkg/queues"
	"weft.sh/weft/pkg/quota"
)

// Options are what the plugin cannot know by itself.
type Options struct {
	// GPUs is the state of the process's GPUs, which plugin GPUFit has too. Required.
	GPUs *gpufit.State
	// Native says whether the scheduler handles PodGroups of scheduling.k8s.io itself (its gate GenericWorkload), asked when the
	// first plugin is made.
	Native func() bool
}

// State is what the plugins of one process have in common: the book of all queues, the jobs that wait, and who may try. Its methods
// are safe for concurrent use.
//
// What has a claim in the book:
//
//	a bound pod               from its events, until it ends; then with its end, until the books have passed that
//	a pod that is being bound from Reserve, for as long as it holds GPUs in the cache of plugin GPUFit: so for the whole gang, from the
//	                          first member's Reserve, while there is a plan for it
type State struct {
	options Options
	// dial and statuses make the clients that read Queues and write conditions.
	dial     func(*rest.Config) (dynamic.Interface, error)
	statuses func(fwk.Handle) (kubernetes.Interface, error)
	now      func() time.Time

	joining   sync.Mutex
	profiles  map[string]fwk.Handle
	informers informers.SharedInformerFactory
	client    kubernetes.Interface
	gangs     *podgroup.Tracker
	source    *queues.Tracker
	watched   []cache.InformerSynced
	// synced says that everything that existed at the start is known, and settled is closed then.
	synced  atomic.Bool
	settled chan struct{}
	// active says that there are queues: without any nothing is looked at.
	active atomic.Bool
	// wake has the worker look at everything again. renewed says that the set is a new one, and moved that nodes changed: then what
	// bound pods hold is counted anew.
	wake           chan struct{}
	renewed, moved atomic.Bool
	teller         *teller
	records        recorder
	// leading says that this process schedules: one that waits to be elected has the same queue of pods, and must tell nobody anything.
	leading atomic.Bool
	// complete says whether a gang can be planned at all; see [State.Gangs]. making makes room below limits; see [State.Room].
	complete atomic.Pointer[func(gang.Key) bool]
	making   atomic.Pointer[func(context.Context, *v1.Pod, []fwk.NodeInfo) error]

	// mu guards what follows. PreEnqueue takes it under the lock of the scheduling queue: nothing of the scheduler may be called
	// while it is held.
	mu   sync.Mutex
	set  *queues.Set
	tree *quota.Tree
	book *quota.Book
	// version counts the changes of the book: a verdict of an older one is made anew.
	version uint64
	// advanced is the second that the worker last moved the book to, zero in a new book.
	advanced int64
	jobs     map[jobID]*job
	// waiting are the pods that PreEnqueue was asked about and that are not bound.
	waiting map[types.UID]*waiter
	// eligible counts the jobs by queue that wait and that only their turn may hold back, limited those that a limit does.
	eligible, limited map[string]int
	// resting is by queue until when no job of it looks for room below limits: one did, and found none.
	resting map[string]time.Time
	// nextSought is the queue that the next review begins with when it looks for such room; only the worker uses it.
	nextSought string
	// running are the claims of bound pods, holds those of pods that are being bound.
	running map[types.UID]quota.Claim
	holds   map[types.UID]*hold
	// probe is the pod that was let through to find out whether this process schedules.
	probe types.UID
	// promises are for jobs that others are about to leave for. What is promised to a pod that waits is in the book.
	promises map[types.UID]promise
}

// NewState is the state of a process. It does nothing before the first plugin is made.
func NewState(o Options) *State {
	s := &State{
		options: o,
		dial:    func(cfg *rest.Config) (dynamic.Interface, error) { return dynamic.NewForConfig(cfg) },
		// Conditions have a client of their own: writing thousands of them must not use up the requests that bindings need.
		statuses: func(h fwk.Handle) (kubernetes.Interface, error) {
			cfg := rest.CopyConfig(h.KubeConfig())
			cfg.QPS, cfg.Burst, cfg.RateLimiter = tellQPS, tellBurst, nil
			return kubernetes.NewForConfig(cfg)
		},
		now:      time.Now,
		profiles: map[string]fwk.Handle{}, wake: make(chan struct{}, 1), settled: make(chan struct{}),
	}
	s.forget()
	return s
}

// forget begins anew. The lock is held.
func (s *State) forget() {
	s.set, s.tree, s.book = &queues.Set{}, nil, quota.NewBook()
	s.advanced = 0
	s.jobs, s.waiting = map[jobID]*job{}, map[types.UID]*waiter{}
	s.eligible, s.limited, s.resting = map[string]int{}, map[string]int{}, map[string]time.Time{}
	s.running, s.holds, s.promises = map[types.UID]quota.Claim{}, map[types.UID]*hold{}, map[types.UID]promise{}
}

func logger() klog.Logger { return klog.Background().WithName(Name) }

// join adds the plugin of a profile. The first one makes what all share.
func (s *State) join(ctx context.Context, handle fwk.Handle) error {
	if err := s.options.GPUs.Join(handle); err != nil {
		return err
	}
	s.joining.Lock()
	defer s.joining.Unlock()
	s.profiles[handle.ProfileName()] = handle
	if s.informers != nil {
		return nil
	}
	factory := handle.SharedInformerFactory()
	native := s.options.Native != nil && s.options.Native()
	var err error
	reader, err := s.dial(handle.KubeConfig())
	if err != nil {
		return fmt.Errorf("client for queues: %w", err)
	}
	if s.gangs, err = podgroup.NewTracker(podgroup.TrackerOptions{Pods: factory, Native: native, CRD: reader}); err != nil {
		return err
	}
	writer, err := s.statuses(handle)
	if err != nil {
		return fmt.Errorf("client for conditions: %w", err)
	}
	if s.source, err = queues.NewTracker(reader, factory); err != nil {
		return err
	}
	s.informers, s.client = factory, handle.ClientSet()
	s.teller = newTeller(s, writer, factory.Core().V1().Pods().Lister())
	context.AfterFunc(ctx, s.teller.queue.ShutDown)
	if err := s.watch(); err != nil {
		return err
	}
	s.source.Start(ctx)
	s.gangs.Start(ctx)
	metrics.Register()
	metrics.RegisterQueues(s.gated)
	go s.start(ctx)
	return nil
}

// handle is the framework of the profile, nil when there is none with the plugin.
func (s *State) handle(profile string) fwk.Handle {
	s.joining.Lock()
	defer s.joining.Unlock()
	return s.profiles[profile]
}

// activate has the pods tried at once. No lock of ours may be held.
func (s *State) activate(pods []*v1.Pod) {
	byProfile := map[string]map[string]*v1.Pod{}
	for _, p := range pods {
		if byProfile[p.Spec.SchedulerName] == nil {
			byProfile[p.Spec.SchedulerName] = map[string]*v1.Pod{}
		}
		byProfile[p.Spec.SchedulerName][p.Namespace+"/"+p.Name] = p
	}
	for profile, pods := range byProfile {
		if h := s.handle(profile); h != nil {
			h.Activate(logger(), pods)
		}
	}
}

// Gangs has the function, plugin Gang's, say whether a gang is there and complete. Before that its members are Gang's to hold back, and
// not looked at: a part of a gang is no job. The function is called under the lock of the scheduling queue.
func (s *State) Gangs(complete func(gang.Key) bool) { s.complete.Store(&complete) }

// Room has the function, plugin Gang's, make room below the limits of queues, in PreFilter of a cycle that is for nothing else.
func (s *State) Room(make func(context.Context, *v1.Pod, []fwk.NodeInfo) error) {
	s.making.Store(&make)
}

// kick has the worker look again soon.
func (s *State) kick() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}
