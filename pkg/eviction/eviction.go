// Package eviction asks the API server to evict a pod.
package eviction

import (
	"context"

	v1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// Evict evicts this very pod, once. It reports whether the pod leaves by that: one that is gone, or whose name another has by now,
// does not, and is no error. Where a PodDisruptionBudget is in the way the error is apierrors.IsTooManyRequests.
func Evict(ctx context.Context, client kubernetes.Interface, pod *v1.Pod) (leaves bool, err error) {
	// Not by the typed client: it would wait and try again by itself, and hold up whoever comes after this pod.
	err = client.CoreV1().RESTClient().Post().Namespace(pod.Namespace).Resource("pods").Name(pod.Name).SubResource("eviction").
		Body(&policyv1.Eviction{
			ObjectMeta:    metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name},
			DeleteOptions: &metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(pod.UID))},
		}).MaxRetries(0).Do(ctx).Error()
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return false, nil
	}
	return err == nil, err
}
