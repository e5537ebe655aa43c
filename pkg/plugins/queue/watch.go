package queue

import (
	"context"
	"fmt"
	"maps"

	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/cache"

	"weft.sh/weft/pkg/gang"
	"weft.sh/weft/pkg/queues"
)

// watch registers with the informers.
func (s *State) watch() error {
	for _, of := range []struct {
		kind     string
		informer cache.SharedIndexInformer
		handler  cache.ResourceEventHandlerFuncs
	}{
		{"pods", s.informers.Core().V1().Pods().Informer(), cache.ResourceEventHandlerFuncs{
			AddFunc: s.podSeen, UpdateFunc: func(_, obj any) { s.podSeen(obj) }, DeleteFunc: s.podGone,
		}},
		{"nodes", s.informers.Core().V1().Nodes().Informer(), cache.ResourceEventHandlerFuncs{
			AddFunc: func(any) { s.nodeChanged() },
			UpdateFunc: func(old, obj any) {
				before, ok := old.(*v1.Node)
				after, okNow := obj.(*v1.Node)
				if !ok || !okNow || !maps.Equal(before.Labels, after.Labels) || before.Spec.Unschedulable != after.Spec.Unschedulable {
					s.nodeChanged()
				}
			},
		}},
	} {
		r, err := of.informer.AddEventHandler(of.handler)
		if err != nil {
			return fmt.Errorf("informer of %s: %w", of.kind, err)
		}
		s.watched = append(s.watched, r.HasSynced)
	}
	s.source.OnChange(func(*queues.Set) {
		s.renewed.Store(true)
		s.kick()
	})
	s.gangs.OnChange(s.gangChanged)
	return nil
}

// nodeChanged is for a node that may be of another class now.
func (s *State) nodeChanged() {
	if s.active.Load() {
		s.moved.Store(true)
		s.kick()
	}
}

// gangChanged is for a gang of which members came or went.
func (s *State) gangChanged(k gang.Key) {
	if !s.active.Load() {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if j := s.jobs[jobID{gang: k}]; j != nil {
		j.set = nil
		s.kick()
	}
}

func (s *State) waitForSync(ctx context.Context) error {
	if err := s.source.WaitForSync(ctx); err != nil {
		return err
	}
	if err := s.gangs.WaitForSync(ctx); err != nil {
		return err
	}
	if !cache.WaitForCacheSync(ctx.Done(), s.watched...) {
		return fmt.Errorf("waiting for pods and nodes: %w", context.Cause(ctx))
	}
	return nil
}
