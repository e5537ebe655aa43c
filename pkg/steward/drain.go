package steward

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"weft.sh/weft/pkg/apis/weft/v1alpha1"
	"weft.sh/weft/pkg/eviction"
	"weft.sh/weft/pkg/podgroup"
	"weft.sh/weft/pkg/podspec"
)

// Reasons of the events about pods that have to leave.
const (
	eventDrainSoon    = "BudgetDrain"
	eventDrained      = "BudgetDrained"
	eventDrainBlocked = "BudgetDrainBlocked"
)

// drain is a queue whose pods have to leave, told of it grace seconds before.
type drain struct {
	queue *v1alpha1.Queue
	pods  []*v1.Pod // of its subtree
	// at is the earliest moment at which they have to be gone.
	at, grace int64
}

// drain tells the pods of queues that are used up when they have to leave, so that they write a checkpoint, and evicts them when that
// moment has come, gangs as a whole. PodDisruptionBudgets are respected; what they keep is tried again in each pass. A pod is in the
// subtree of several queues: the one that drains first counts.
func (s *Steward) drain(ctx context.Context, drains []drain, now int64) error {
	slices.SortStableFunc(drains, func(a, b drain) int { return cmp.Compare(a.at, b.at) })
	seen := map[types.UID]bool{}
	var errs []error
	for _, d := range drains {
		var names []string
		units := map[string][]*v1.Pod{}
		for _, pod := range d.pods {
			if seen[pod.UID] || pod.DeletionTimestamp != nil {
				continue
			}
			seen[pod.UID] = true
			unit := string(pod.UID)
			if gang, ok := podgroup.KeyOf(pod); ok {
				unit = gang.String()
			}
			if units[unit] == nil {
				names = append(names, unit)
			}
			units[unit] = append(units[unit], pod)
		}
		for _, unit := range names {
			at := deadline(units[unit], d, now)
			for _, pod := range units[unit] {
				if ctx.Err() != nil { // another leads
					return errors.Join(append(errs, ctx.Err())...)
				}
				var err error
				switch by := moment(at).UTC().Format(time.RFC3339); {
				case now >= at:
					err = s.evict(ctx, d.queue, pod)
				case pod.Annotations[podspec.AnnotationCheckpointBy] != by:
					err = s.tell(ctx, d.queue, pod, by)
				}
				if err != nil {
					errs = append(errs, err)
				}
			}
		}
	}
	if len(errs) > 3 {
		errs = append(errs[:3], fmt.Errorf("and %d more", len(errs)-3))
	}
	return errors.Join(errs...)
}

// deadline is when the pods, one or those of a gang, have to leave: as they were told, else a whole grace from now. What they were told
// before the budget was last refilled does not count, nor what nobody would have told them.
func deadline(pods []*v1.Pod, d drain, now int64) int64 {
	latest := int64(0)
	for _, pod := range pods {
		told, err := time.Parse(time.RFC3339, pod.Annotations[podspec.AnnotationCheckpointBy])
		if err == nil && d.at <= told.Unix() && told.Unix() <= max(d.at, now+d.grace) {
			latest = max(latest, told.Unix())
		}
	}
	if latest == 0 {
		return max(d.at, now+d.grace)
	}
	return latest
}

// tell writes into the pod by when it should have written a checkpoint: a program reads it through the downward API.
func (s *Steward) tell(ctx context.Context, q *v1alpha1.Queue, pod *v1.Pod, deadline string) error {
	patch := fmt.Appendf(nil, `{"metadata":{"uid":%q,"annotations":{%q:%q}}}`, pod.UID, podspec.AnnotationCheckpointBy, deadline)
	_, err := s.o.Client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.MergePatchType, patch, metav1.PatchOptions{})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) || apierrors.IsInvalid(err) {
		return nil // it is gone, or another has its name: a UID cannot change
	}
	if err != nil {
		return fmt.Errorf("pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	s.o.Recorder.Eventf(pod, nil, v1.EventTypeWarning, eventDrainSoon, "Drain",
		"the budget of queue %s is used up: the pod is evicted at %s, write a checkpoint before", q.Name, deadline)
	return nil
}

func (s *Steward) evict(ctx context.Context, q *v1alpha1.Queue, pod *v1.Pod) error {
	leaves, err := eviction.Evict(ctx, s.o.Client, pod)
	switch {
	case leaves:
		s.o.Recorder.Eventf(pod, nil, v1.EventTypeWarning, eventDrained, "Drain", "evicted: the budget of queue %s is used up", q.Name)
		return nil
	case err == nil:
		return nil
	case apierrors.IsTooManyRequests(err):
		s.o.Recorder.Eventf(pod, nil, v1.EventTypeWarning, eventDrainBlocked, "Drain",
			"to be evicted, for the budget of queue %s is used up, and a PodDisruptionBudget is in the way", q.Name)
	}
	return fmt.Errorf("evict pod %s/%s: %w", pod.Namespace, pod.Name, err)
}
