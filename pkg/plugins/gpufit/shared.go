package gpufit

import (
	"context"
	"sync"
	"sync/atomic"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	fwk "k8s.io/kube-scheduler/framework"

	"weft.sh/weft/pkg/cache"
	"weft.sh/weft/pkg/inventory"
	"weft.sh/weft/pkg/metrics"
)

// shared is what the plugins of one process have in common: the state of the cluster.
type shared struct {
	options Options

	mu        sync.Mutex
	cache     *cache.Cache
	tracker   *inventory.Tracker
	informers informers.SharedInformerFactory
	slices    bool
	synced    atomic.Bool
}

// init makes the cache when the first plugin is made. Nothing is read before the informers start.
func (s *shared) init(handle fwk.Handle) error {
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

// wait returns when the cache has seen everything that existed at the start: no decision is made before.
func (s *shared) wait(ctx context.Context) error {
	if s.synced.Load() {
		return nil
	}
	if err := s.tracker.WaitForSync(ctx); err != nil {
		return err
	}
	s.synced.Store(true)
	return nil
}

// pods are all pods that the API server shows and that have not ended.
func (s *shared) pods() []*v1.Pod {
	pods, err := s.informers.Core().V1().Pods().Lister().List(labels.Everything())
	if err != nil { // a store in memory does not fail
		return nil
	}
	return pods
}
