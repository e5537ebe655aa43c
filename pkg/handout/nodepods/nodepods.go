// Package nodepods follows the pods of one node, as package handout wants them. It is a package of its own because a client of the
// API server is heavy, and the rest of handing out does without.
package nodepods

import (
	"context"
	"fmt"
	"maps"
	"sync"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"weft.sh/weft/pkg/handout"
	"weft.sh/weft/pkg/podspec"
	"weft.sh/weft/pkg/slot"
)

// Pods are those of one node, kept up to date while Run runs. Safe for concurrent use.
type Pods struct {
	client   kubernetes.Interface
	node     string
	informer cache.SharedIndexInformer
	// delivered reports whether all that there was at first is in pods.
	delivered cache.InformerSynced

	mu sync.Mutex
	// pods is by UID; replaced, never written to.
	pods    map[string]slot.Pod
	changed chan struct{}
	// ended are those among pods that were over when they were deleted, the first first: remembered at most.
	ended []string
	// deleted are those among pods that were not, or may have been before Run. They stay while processes of theirs run.
	deleted map[string]bool
	// running are the UIDs of the pods with processes on the node.
	running func() map[string]bool
}

// remembered is how many pods that were over and are gone stay known. The kubelet ends a pod, says so, and deletes it, so quickly that
// who looks only now and then would see it vanish, and could not tell whether its containers still run. It is more than a node runs.
const remembered = 300

var _ handout.Pods = (*Pods)(nil)

// New makes Pods of the node; it knows none before Run. The client needs to get, list and watch pods. running is which pods, by UID, have
// processes on the node now: one that is deleted by force is gone for the API server, and soon for the kubelet, before its containers have
// ended (kubernetes/kubernetes#104824), and holds what it holds until they have.
func New(client kubernetes.Interface, node string, running func() map[string]bool) (*Pods, error) {
	factory := informers.NewSharedInformerFactoryWithOptions(client, 0,
		informers.WithTweakListOptions(func(o *metav1.ListOptions) {
			o.FieldSelector = fields.OneTermEqualSelector("spec.nodeName", node).String()
		}),
		informers.WithTransform(strip))
	p := &Pods{
		client: client, node: node, informer: factory.Core().V1().Pods().Informer(),
		pods: map[string]slot.Pod{}, changed: make(chan struct{}), deleted: map[string]bool{}, running: running,
	}
	registration, err := p.informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(obj any) { p.note(nil, obj) },
		// An informer that missed a deletion shows the next pod of the same name as an update.
		UpdateFunc: p.note,
		DeleteFunc: func(obj any) { p.note(obj, nil) },
	})
	if err != nil {
		return nil, fmt.Errorf("following the pods of node %s: %w", node, err)
	}
	p.delivered = registration.HasSynced
	return p, nil
}

// Keep takes the pods that hold what the book says, before Run. One of them can have been deleted by force while there was no agent, and
// its containers may still run: it is known for as long as processes of it do, although the API server never tells of it.
func (p *Pods) Keep(book slot.Book) {
	p.mu.Lock()
	defer p.mu.Unlock()
	pods := maps.Clone(p.pods)
	for _, r := range book.Records {
		if r.Holder != nil {
			pods[r.Holder.UID], p.deleted[r.Holder.UID] = r.Holder.KnownPod(), true
		}
	}
	p.set(pods)
}

// Run follows the pods until ctx ends. Call it once.
func (p *Pods) Run(ctx context.Context) { p.informer.RunWithContext(ctx) }

// Snapshot implements [handout.Pods].
func (p *Pods) Snapshot() (pods map[string]slot.Pod, all bool) {
	// In this order: what is all must not be older than the word for it.
	all = p.delivered()
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.deleted) > 0 {
		pods := maps.Clone(p.pods)
		p.forget(pods)
		p.set(pods)
	}
	return p.pods, all
}

// Changed implements [handout.Pods].
func (p *Pods) Changed() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.changed
}

// Get implements [handout.Pods].
func (p *Pods) Get(ctx context.Context, namespace, name string) (slot.Pod, error) {
	pod, err := p.client.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return slot.Pod{}, err
	}
	if pod.Spec.NodeName != p.node {
		return slot.Pod{}, fmt.Errorf("pod %s/%s is on node %q, not on %s", namespace, name, pod.Spec.NodeName, p.node)
	}
	return read(pod), nil
}

// note takes the state before out and the state after in; either may be nil.
func (p *Pods) note(before, after any) {
	if tombstone, ok := before.(cache.DeletedFinalStateUnknown); ok {
		before = tombstone.Obj
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	pods := maps.Clone(p.pods)
	now, there := after.(*v1.Pod)
	if there {
		pods[string(now.UID)] = read(now)
		delete(p.deleted, string(now.UID))
	}
	if pod, ok := before.(*v1.Pod); ok && !(there && pod.UID == now.UID) {
		// A deletion comes with the last state, which may be news.
		if uid := string(pod.UID); read(pod).Over {
			pods[uid] = read(pod)
			p.ended = append(p.ended, uid)
		} else {
			p.deleted[uid] = true
		}
	}
	for len(p.ended) > remembered {
		delete(pods, p.ended[0])
		p.ended = p.ended[1:]
	}
	p.forget(pods)
	p.set(pods)
}

// forget takes those out that were deleted and have no process any more. p.mu must be held.
func (p *Pods) forget(pods map[string]slot.Pod) {
	if len(p.deleted) == 0 {
		return
	}
	running := p.running()
	for uid := range p.deleted {
		if !running[uid] {
			delete(p.deleted, uid)
			delete(pods, uid)
		}
	}
}

// set makes pods the current ones. p.mu must be held.
func (p *Pods) set(pods map[string]slot.Pod) {
	if maps.EqualFunc(p.pods, pods, same) {
		return
	}
	p.pods = pods
	close(p.changed)
	p.changed = make(chan struct{})
}

func same(a, b slot.Pod) bool {
	return a.Namespace == b.Namespace && a.Name == b.Name && a.Over == b.Over && a.Assignment.String() == b.Assignment.String() &&
		fmt.Sprint(a.Err) == fmt.Sprint(b.Err)
}

// read is the pod as the node agent sees it.
func read(pod *v1.Pod) slot.Pod {
	p := slot.Pod{
		UID: string(pod.UID), Namespace: pod.Namespace, Name: pod.Name,
		Over: pod.Status.Phase == v1.PodSucceeded || pod.Status.Phase == v1.PodFailed,
	}
	request, err := podspec.Request(pod)
	if err == nil {
		p.Assignment, err = podspec.Assignment(pod, request)
	}
	p.Err = err
	return p
}

// strip is the pod with what read needs: a node's pods are many, and most of each is of no use here. Annotations and affinity are what
// package podspec judges a request by.
func strip(obj any) (any, error) {
	pod, ok := obj.(*v1.Pod)
	if !ok {
		return obj, nil
	}
	out := &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID, ResourceVersion: pod.ResourceVersion,
			Annotations: map[string]string{},
		},
		Spec: v1.PodSpec{
			NodeName: pod.Spec.NodeName, NodeSelector: pod.Spec.NodeSelector, Affinity: pod.Spec.Affinity,
			InitContainers: containers(pod.Spec.InitContainers), Containers: containers(pod.Spec.Containers),
		},
		Status: v1.PodStatus{Phase: pod.Status.Phase},
	}
	for _, key := range []string{podspec.AnnotationGPUs, podspec.AnnotationGPUCount, podspec.AnnotationGPUMemory} {
		if value, ok := pod.Annotations[key]; ok {
			out.Annotations[key] = value
		}
	}
	return out, nil
}

func containers(all []v1.Container) []v1.Container {
	out := make([]v1.Container, len(all))
	for i, c := range all {
		out[i] = v1.Container{Name: c.Name, Resources: c.Resources, RestartPolicy: c.RestartPolicy}
	}
	return out
}
