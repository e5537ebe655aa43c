package steward

import (
	"context"
	"errors"
	"fmt"
	"time"

	v1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"weft.sh/weft/pkg/apis/weft/v1alpha1"
	"weft.sh/weft/pkg/podspec"
)

// Reasons of the events about pods that have to leave.
const (
	eventDrainSoon    = "BudgetDrain"
	eventDrained      = "BudgetDrained"
	eventDrainBlocked = "BudgetDrainBlocked"
)

// drain tells the pods of a queue that is used up when they have to leave, so that they write a checkpoint, and evicts them when that moment has
// come: all of them, so no gang is left in part. PodDisruptionBudgets are respected; what they keep is tried again in each pass.
func (s *Steward) drain(ctx context.Context, q *v1alpha1.Queue, pods []*v1.Pod, at, now int64) error {
	deadline := moment(at).UTC().Format(time.RFC3339)
	var errs []error
	for _, pod := range pods {
		if pod.DeletionTimestamp != nil {
			continue
		}
		var err error
		switch told := pod.Annotations[podspec.AnnotationCheckpointBy]; {
		case now >= at:
			err = s.evict(ctx, q, pod)
		case told == deadline:
		default:
			err = s.tell(ctx, q, pod, deadline)
		}
		if err != nil {
			errs = append(errs, err)
		}
	}
	if len(errs) > 3 {
		errs = append(errs[:3], fmt.Errorf("and %d more", len(errs)-3))
	}
	return errors.Join(errs...)
}

// tell writes into the pod by when it should have written a checkpoint: a program reads it through the downward API.
func (s *Steward) tell(ctx context.Context, q *v1alpha1.Queue, pod *v1.Pod, deadline string) error {
	patch := fmt.Appendf(nil, `{"metadata":{"uid":%q,"annotations":{%q:%q}}}`, pod.UID, podspec.AnnotationCheckpointBy, deadline)
	_, err := s.o.Client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.MergePatchType, patch, metav1.PatchOptions{})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil // it is gone, or another has its name
	}
	if err != nil {
		return fmt.Errorf("pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	s.o.Recorder.Eventf(pod, nil, v1.EventTypeWarning, eventDrainSoon, "Drain",
		"the budget of queue %s is used up: the pod is evicted at %s, write a checkpoint before", q.Name, deadline)
	return nil
}

func (s *Steward) evict(ctx context.Context, q *v1alpha1.Queue, pod *v1.Pod) error {
	// Not by the typed client: it would wait and try again by itself, and hold up the pods behind this one.
	err := s.o.Client.CoreV1().RESTClient().Post().Namespace(pod.Namespace).Resource("pods").Name(pod.Name).SubResource("eviction").
		Body(&policyv1.Eviction{
			ObjectMeta:    metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name},
			DeleteOptions: &metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(pod.UID))},
		}).MaxRetries(0).Do(ctx).Error()
	switch {
	case err == nil:
		s.o.Recorder.Eventf(pod, nil, v1.EventTypeWarning, eventDrained, "Drain", "evicted: the budget of queue %s is used up", q.Name)
		return nil
	case apierrors.IsNotFound(err), apierrors.IsConflict(err):
		return nil
	case apierrors.IsTooManyRequests(err):
		s.o.Recorder.Eventf(pod, nil, v1.EventTypeWarning, eventDrainBlocked, "Drain",
			"to be evicted, for the budget of queue %s is used up, and a PodDisruptionBudget is in the way", q.Name)
	}
	return fmt.Errorf("evict pod %s/%s: %w", pod.Namespace, pod.Name, err)
}
