package gpufit

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	fwk "k8s.io/kube-scheduler/framework"

	"weft.sh/weft/pkg/cache"
	"weft.sh/weft/pkg/cluster"
	"weft.sh/weft/pkg/fit"
	"weft.sh/weft/pkg/inventory"
	"weft.sh/weft/pkg/metrics"
)

// Options are what the plugin cannot know by itself.
type Options struct {
	// ResourceSlices says whether the API server serves resource.k8s.io/v1, asked when the first plugin is made. An
	// informer of an API that is not served would never sync.
	ResourceSlices func() bool
	// Inline has strategies computed within the cycle in which that is due instead of beside it: for simulations, in which the
	// same pods are to give the same placement.
	Inline bool
}

// State is what the plugins of one process have in common, those of all profiles and plugin Gang too: the state of the
// GPUs of the cluster, and how each profile rates placements. Its methods are safe for concurrent use.
type State struct {
	options Options

	mu        sync.Mutex
	cache     *cache.Cache
	tracker   *inventory.Tracker
	informers informers.SharedInformerFactory
	slices    bool
	synced    atomic.Bool
	learners  map[string]*learner // by profile
	// heldBack are the pods that were refused a node for what is kept, by UID.
	heldBack map[types.UID]*v1.Pod
	binding  *posting
	holds    atomic.Pointer[[]*Hold]
}

// NewState is the state of a process. It does nothing before the first [State.Join].
func NewState(opts Options) *State {
	return &State{options: opts, learners: map[string]*learner{}, heldBack: map[types.UID]*v1.Pod{}, binding: newPosting()}
}

// Join prepares the state for a plugin of the process. The first one makes the cache; all must have the informers of one
// process. Nothing is read before those start.
func (s *State) Join(handle fwk.Handle) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.tracker != nil {
		return nil
	}
	s.slices = s.options.ResourceSlices != nil && s.options.ResourceSlices()
	s.cache = cache.New()
	s.informers = handle.SharedInformerFactory()
	tracker, err := inventory.NewTracker(s.informers, s.cache, s.slices)
	if err != nil {
		return err
	}
	s.tracker = tracker
	metrics.Register()
	metrics.RegisterNodes(s.cache.Nodes)
	return nil
}

// Wait returns when the cache has seen everything that existed at the start: no decision is made before.
func (s *State) Wait(ctx context.Context) error {
	if s.synced.Load() {
		return nil
	}
	if err := s.tracker.WaitForSync(ctx); err != nil {
		return err
	}
	s.synced.Store(true)
	return nil
}

// Cache is who holds which GPUs. Only after Join.
func (s *State) Cache() *cache.Cache { return s.cache }

// Refresh brings the cache up to date with an object that an event is about, whichever handler sees the event first; see
// [Plugin.EventsToRegister].
func (s *State) Refresh(obj any) { s.tracker.Refresh(obj) }

// CatchUp takes out of the cache what pods of these nodes hold that are gone, though nobody told yet, and reports whether there were
// any.
func (s *State) CatchUp(nodes []*cluster.Node) bool { return s.tracker.CatchUp(nodes) }

// ResourceSlices reports whether the API server serves them. Only after Join.
func (s *State) ResourceSlices() bool { return s.slices }

// Strategy is how plugin GPUFit of the profile rates placements now; nil for a profile without it.
func (s *State) Strategy(profile string) fit.Strategy {
	s.mu.Lock()
	l := s.learners[profile]
	s.mu.Unlock()
	if l == nil {
		return nil
	}
	return l.currentStrategy()
}

// learn records who rates the placements of a profile.
func (s *State) learn(profile string, l *learner) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.learners[profile] = l
}

// Expire gives back what pods held of which it was long unknown whether they are bound. It returns the pods that wait, to be tried
// again, if that was anything: no event tells of it that a hint could answer.
func (s *State) Expire(now time.Time) (waiting []*v1.Pod) {
	if len(s.cache.Expire(now)) == 0 {
		return nil
	}
	for _, p := range s.pods() {
		if p.Spec.NodeName == "" {
			waiting = append(waiting, p)
		}
	}
	return waiting
}

// pods are all pods that the API server shows and that have not ended.
func (s *State) pods() []*v1.Pod {
	pods, err := s.informers.Core().V1().Pods().Lister().List(labels.Everything())
	if err != nil { // a store in memory does not fail
		return nil
	}
	return pods
}

// othersOnly is the key of states of [AskOthers].
const othersOnly fwk.StateKey = Name + "/others-only"

type mark struct{}

func (mark) Clone() fwk.StateData { return mark{} }

// AskOthers marks the state of a cycle in which plugin Gang asks what all plugins but ours say: GPUFit skips it.
func AskOthers(state fwk.CycleState) { state.Write(othersOnly, mark{}) }

// AsksOthers reports whether the state is marked so.
func AsksOthers(state fwk.CycleState) bool {
	_, err := state.Read(othersOnly)
	return err == nil
}
