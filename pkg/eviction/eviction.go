// Package eviction asks the API server to evict pods: one, or several that are of use to nobody without each other.
//
// # All or none
//
// A PodDisruptionBudget counts pods, and nobody can evict several in one request. So before the first of several pods is evicted
// [Together] asks for all of them what would happen: the budgets are read, for a dry run takes nothing from a budget, and of one that
// allows a single pod to leave each by itself would be told that it may; and every eviction is run dry, for the server alone knows all
// that is in its way (a budget it has not looked at yet, two budgets for a pod, an admission webhook). Only then they are evicted. What
// takes from the same budget in the milliseconds between can still keep some of them: that is an error, and tried again.
package eviction

import (
	"context"
	"errors"
	"fmt"

	v1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"
)

// BlockedError says that a PodDisruptionBudget keeps the pod.
type BlockedError struct {
	Pod *v1.Pod
	// Why names the budget, in words.
	Why string
	// Err is the API server's answer, nil where it was not asked.
	Err error
}

func (e *BlockedError) Error() string {
	return fmt.Sprintf("evict pod %s/%s: a PodDisruptionBudget is in the way: %s", e.Pod.Namespace, e.Pod.Name, e.Why)
}

// Unwrap is the API server's answer.
func (e *BlockedError) Unwrap() error { return e.Err }

// Evict evicts this very pod, once. It reports whether the pod leaves by that: one that is gone, or whose name another has by now,
// does not, and is no error. Where a PodDisruptionBudget is in the way the error is a [*BlockedError].
func Evict(ctx context.Context, client kubernetes.Interface, pod *v1.Pod) (leaves bool, err error) {
	return evict(ctx, client, pod, nil)
}

// Together evicts the pods, which are of one namespace, all or none: see the package. It returns those that leave, which with an error are
// fewer than all; the error is a [*BlockedError] where a PodDisruptionBudget is in the way.
func Together(ctx context.Context, client kubernetes.Interface, pods []*v1.Pod) (leave []*v1.Pod, err error) {
	if len(pods) > 1 {
		if err := allowed(ctx, client, pods); err != nil {
			return nil, err
		}
		for _, pod := range pods {
			if _, err := evict(ctx, client, pod, []string{metav1.DryRunAll}); err != nil {
				return nil, err
			}
		}
	}
	var errs []error
	for _, pod := range pods {
		switch leaves, err := Evict(ctx, client, pod); {
		case err != nil:
			errs = append(errs, err)
		case leaves:
			leave = append(leave, pod)
		}
	}
	return leave, errors.Join(errs...)
}

// allowed errs when the PodDisruptionBudgets do not let all of the pods go at once.
func allowed(ctx context.Context, client kubernetes.Interface, pods []*v1.Pod) error {
	namespace := pods[0].Namespace
	budgets, err := client.PolicyV1().PodDisruptionBudgets(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("PodDisruptionBudgets of namespace %s: %w", namespace, err)
	}
	for i := range budgets.Items {
		b := &budgets.Items[i]
		selector, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
		if err != nil {
			continue // it selects nothing
		}
		var first *v1.Pod
		taken := int32(0)
		for _, pod := range pods {
			if takes(pod) && selector.Matches(labels.Set(pod.Labels)) {
				if taken++; first == nil {
					first = pod
				}
			}
		}
		if taken > b.Status.DisruptionsAllowed {
			return &BlockedError{Pod: first, Why: fmt.Sprintf(
				"%s lets %d pods go at the moment, and %d have to leave together", b.Name, b.Status.DisruptionsAllowed, taken)}
		}
	}
	return nil
}

// takes reports whether the pod's eviction takes from a budget: that of one that has yet to run, that is not ready, or that leaves does
// not, or is refused whatever the budget allows.
func takes(pod *v1.Pod) bool {
	if pod.Status.Phase != v1.PodRunning || pod.DeletionTimestamp != nil {
		return false
	}
	for i := range pod.Status.Conditions {
		if c := &pod.Status.Conditions[i]; c.Type == v1.PodReady {
			return c.Status == v1.ConditionTrue
		}
	}
	return false
}

// evict asks for the eviction, by the pod's UID.
func evict(ctx context.Context, client kubernetes.Interface, pod *v1.Pod, dryRun []string) (leaves bool, err error) {
	// Not by the typed client: it would wait and try again by itself, and hold up whoever comes after this pod.
	err = client.CoreV1().RESTClient().Post().Namespace(pod.Namespace).Resource("pods").Name(pod.Name).SubResource("eviction").
		Body(&policyv1.Eviction{
			ObjectMeta:    metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name},
			DeleteOptions: &metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(pod.UID)), DryRun: dryRun},
		}).MaxRetries(0).Do(ctx).Error()
	switch {
	case err == nil:
		return true, nil
	case apierrors.IsNotFound(err), apierrors.IsConflict(err):
		return false, nil
	case apierrors.IsTooManyRequests(err), apierrors.HasStatusCause(err, policyv1.DisruptionBudgetCause):
		return false, &BlockedError{Pod: pod, Why: cause(err), Err: err}
	}
	return false, fmt.Errorf("evict pod %s/%s: %w", pod.Namespace, pod.Name, err)
}

// cause is what the API server says of the budget, which it names there and not in its message.
func cause(err error) string {
	if c, ok := apierrors.StatusCause(err, policyv1.DisruptionBudgetCause); ok && c.Message != "" {
		return c.Message
	}
	return err.Error()
}
