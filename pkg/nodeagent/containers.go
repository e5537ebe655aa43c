package nodeagent

import (
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"weft.sh/weft/pkg/metering"
)

const byUID = "uid"

// containers knows the containers of the node's pods by the IDs that the runtime gave them.
type containers struct {
	cache.SharedIndexInformer
}

func newContainers(client kubernetes.Interface, node string) (containers, error) {
	factory := informers.NewSharedInformerFactoryWithOptions(client, 0,
		informers.WithTweakListOptions(func(o *metav1.ListOptions) {
			o.FieldSelector = fields.OneTermEqualSelector("spec.nodeName", node).String()
		}),
		// A node's pods are many, and this is all that is asked of them.
		informers.WithTransform(func(obj any) (any, error) {
			pod, ok := obj.(*v1.Pod)
			if !ok {
				return obj, nil
			}
			return &v1.Pod{
				ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID, ResourceVersion: pod.ResourceVersion},
				Status: v1.PodStatus{
					InitContainerStatuses:      ids(pod.Status.InitContainerStatuses),
					ContainerStatuses:          ids(pod.Status.ContainerStatuses),
					EphemeralContainerStatuses: ids(pod.Status.EphemeralContainerStatuses),
				},
			}, nil
		}))
	informer := factory.Core().V1().Pods().Informer()
	return containers{informer}, informer.AddIndexers(cache.Indexers{byUID: func(obj any) ([]string, error) {
		if pod, ok := obj.(*v1.Pod); ok {
			return []string{string(pod.UID)}, nil
		}
		return nil, nil
	}})
}

func ids(all []v1.ContainerStatus) []v1.ContainerStatus {
	out := make([]v1.ContainerStatus, len(all))
	for i, c := range all {
		out[i] = v1.ContainerStatus{Name: c.Name, ContainerID: c.ContainerID}
	}
	return out
}

// names is the names of a pod's containers by ID, nil for a pod that is not known.
func (c containers) names(uid string) map[string]string {
	found, err := c.GetIndexer().ByIndex(byUID, uid)
	if err != nil || len(found) == 0 {
		return nil
	}
	return metering.ContainerNames(found[0].(*v1.Pod))
}
