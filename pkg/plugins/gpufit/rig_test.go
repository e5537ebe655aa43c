package gpufit

import (
	"errors"
	"fmt"
	"strconv"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	resourceapi "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
	fwk "k8s.io/kube-scheduler/framework"
	schedulercache "k8s.io/kubernetes/pkg/scheduler/backend/cache"
	"k8s.io/kubernetes/pkg/scheduler/framework"

	"weft.sh/weft/pkg/cluster"
	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/inventory"
	"weft.sh/weft/pkg/podspec"
)

// rig is the plugin over informers that never run: the test says what their stores hold and when the plugin's own
// handlers have seen it, so that the two can differ as they do for a moment in life.
type rig struct {
	t       *testing.T
	client  *fake.Clientset
	api     kubernetes.Interface // what the plugin calls: client, unless a test has another
	factory informers.SharedInformerFactory
	// nominated are the pods that were promised a node by preemption.
	nominated map[string][]fwk.PodInfo
	nodes     map[string]*v1.Node
	now       time.Time
	activated map[string]*v1.Pod
	create    func(runtime.Object) (fwk.Plugin, error)
	pl        *Plugin
}

// handle is as much of the framework as the plugin uses.
type handle struct {
	fwk.Handle
	rig *rig
}

func (h handle) ClientSet() kubernetes.Interface                        { return h.rig.api }
func (h handle) SharedInformerFactory() informers.SharedInformerFactory { return h.rig.factory }
func (h handle) ProfileName() string                                    { return "weft" }
func (h handle) NominatedPodsForNode(node string) []fwk.PodInfo         { return h.rig.nominated[node] }

func (h handle) Activate(_ klog.Logger, pods map[string]*v1.Pod) {
	h.rig.activated = pods
}

func (h handle) SnapshotSharedLister() fwk.SharedLister {
	var nodes []*v1.Node
	for _, n := range h.rig.nodes {
		nodes = append(nodes, n)
	}
	return schedulercache.NewSnapshot(nil, nodes)
}

// newRig has the plugin with these arguments (JSON) and everything in sync.
func newRig(t *testing.T, args string) *rig {
	t.Helper()
	client := fake.NewClientset()
	r := &rig{
		t: t, client: client, api: client, factory: informers.NewSharedInformerFactory(client, 0),
		nominated: map[string][]fwk.PodInfo{}, nodes: map[string]*v1.Node{}, now: time.Unix(1_000_000, 0),
	}
	factory := NewFactory(NewState(Options{ResourceSlices: func() bool { return true }}))
	r.create = func(obj runtime.Object) (fwk.Plugin, error) { return factory(t.Context(), obj, handle{rig: r}) }
	r.pl = r.profile(args)
	r.pl.shared.synced.Store(true)
	return r
}

// profile makes another plugin of the same process.
func (r *rig) profile(args string) *Plugin {
	r.t.Helper()
	p, err := r.create(&runtime.Unknown{Raw: []byte(args), ContentType: runtime.ContentTypeJSON})
	if err != nil {
		r.t.Fatal(err)
	}
	pl := p.(*Plugin)
	pl.now = func() time.Time { return r.now }
	return pl
}

func (r *rig) indexer(obj any) cache.Indexer {
	switch obj.(type) {
	case *v1.Node:
		return r.factory.Core().V1().Nodes().Informer().GetIndexer()
	case *v1.Pod:
		return r.factory.Core().V1().Pods().Informer().GetIndexer()
	case *resourceapi.ResourceSlice:
		return r.factory.Resource().V1().ResourceSlices().Informer().GetIndexer()
	}
	r.t.Fatalf("no informer for %T", obj)
	return nil
}

// store puts objects into the informers' stores, which is all that a hint may rely on.
func (r *rig) store(objs ...any) {
	r.t.Helper()
	for _, o := range objs {
		if n, ok := o.(*v1.Node); ok {
			r.nodes[n.Name] = n
		}
		if err := r.indexer(o).Update(o); err != nil {
			r.t.Fatal(err)
		}
	}
}

// see is store, and the plugin's own handlers have run.
func (r *rig) see(objs ...any) {
	r.t.Helper()
	r.store(objs...)
	for _, o := range objs {
		r.pl.shared.tracker.Refresh(o)
	}
}

// remove takes objects out of the stores.
func (r *rig) remove(objs ...any) {
	r.t.Helper()
	for _, o := range objs {
		if err := r.indexer(o).Delete(o); err != nil {
			r.t.Fatal(err)
		}
	}
}

// addNode is a node whose agent publishes the devices, seen by everybody.
func (r *rig) addNode(name string, devices ...gpu.Device) {
	r.t.Helper()
	r.see(node(name))
	for _, s := range inventory.Slices(name, devices, 1) {
		r.see(s)
	}
}

func (r *rig) nodeInfo(name string) fwk.NodeInfo {
	r.t.Helper()
	info, err := handle{rig: r}.SnapshotSharedLister().NodeInfos().Get(name)
	if err != nil {
		r.t.Fatal(err)
	}
	return info
}

// cycleOf starts a scheduling cycle, which must get past PreFilter.
func (r *rig) cycleOf(p *v1.Pod) fwk.CycleState {
	r.t.Helper()
	state := framework.NewCycleState()
	if _, status := r.pl.PreFilter(r.t.Context(), state, p, nil); !status.IsSuccess() && !status.IsSkip() {
		r.t.Fatalf("PreFilter of %s: %v", p.Name, status)
	}
	return state
}

// filter is the verdict on the node as the state has it: "" when the pod fits, else the name of the reason.
func (r *rig) filter(state fwk.CycleState, p *v1.Pod, node string) string {
	r.t.Helper()
	status := r.pl.Filter(r.t.Context(), state, p, r.nodeInfo(node))
	if status.IsSuccess() {
		return ""
	}
	return status.Message()
}

// reserve runs a cycle to Reserve, which must succeed.
func (r *rig) reserve(p *v1.Pod, node string) fwk.CycleState {
	r.t.Helper()
	state := r.cycleOf(p)
	if status := r.pl.Reserve(r.t.Context(), state, p, node); !status.IsSuccess() {
		r.t.Fatalf("Reserve of %s on %s: %v", p.Name, node, status)
	}
	return state
}

// held is what each pod holds on the node, by name.
func (r *rig) held(node string) map[string]string {
	n := r.pl.shared.cache.Node(node)
	if n == nil {
		return nil
	}
	out := map[string]string{}
	for _, p := range n.Pods {
		out[p.Name] = p.Assignment.String()
	}
	return out
}

func node(name string, change ...func(*v1.Node)) *v1.Node {
	n := &v1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{}},
		Status: v1.NodeStatus{Allocatable: v1.ResourceList{
			v1.ResourceCPU: resource.MustParse("64"), v1.ResourceMemory: resource.MustParse("256Gi"), v1.ResourcePods: resource.MustParse("110"),
		}},
	}
	for _, f := range change {
		f(n)
	}
	return n
}

// labelled says by NVIDIA's labels that the node has so many T4.
func labelled(count int) func(*v1.Node) {
	return func(n *v1.Node) {
		n.Labels[podspec.LabelProduct], n.Labels[podspec.LabelCount], n.Labels[podspec.LabelMemory] = "T4", strconv.Itoa(count), "15360"
	}
}

// devices are so many GPUs of a product, with ids made of the node's name.
func devices(node, product string, count int) []gpu.Device {
	out := make([]gpu.Device, count)
	for i := range out {
		out[i] = gpu.Device{ID: gpu.ID(fmt.Sprintf("%s-%d", node, i)), Index: i, Product: product, MemoryMiB: 80_000}
	}
	return out
}

// pod asks for nothing but half a core, until it is changed. Its UID is its name.
func pod(name string, change ...func(*v1.Pod)) *v1.Pod {
	p := &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "ns", UID: types.UID(name), Annotations: map[string]string{}},
		Spec: v1.PodSpec{SchedulerName: "weft", Containers: []v1.Container{{
			Name: "main",
			Resources: v1.ResourceRequirements{
				Requests: v1.ResourceList{v1.ResourceCPU: resource.MustParse("500m")}, Limits: v1.ResourceList{},
			},
		}}},
	}
	for _, f := range change {
		f(p)
	}
	return p
}

func limit(name string, n int64) func(*v1.Pod) {
	return func(p *v1.Pod) {
		p.Spec.Containers[0].Resources.Limits[v1.ResourceName(name)] = *resource.NewQuantity(n, resource.DecimalSI)
	}
}

func whole(n int64) func(*v1.Pod)   { return limit(podspec.ResourceGPU, n) }
func percent(n int64) func(*v1.Pod) { return limit(podspec.ResourceGPUPercent, n) }
func profile(name string) func(*v1.Pod) {
	return limit(podspec.MIGResource(name), 1)
}

func annotate(key, value string) func(*v1.Pod) {
	return func(p *v1.Pod) { p.Annotations[key] = value }
}

// on binds the pod to the node, with the assignment if there is one.
func on(node, assignment string) func(*v1.Pod) {
	return func(p *v1.Pod) {
		p.Spec.NodeName = node
		if assignment != "" {
			p.Annotations[podspec.AnnotationGPUs] = assignment
		}
	}
}

func uid(s string) func(*v1.Pod) { return func(p *v1.Pod) { p.UID = types.UID(s) } }

func priority(n int32) func(*v1.Pod) { return func(p *v1.Pod) { p.Spec.Priority = &n } }

func phase(s v1.PodPhase) func(*v1.Pod) { return func(p *v1.Pod) { p.Status.Phase = s } }

// tried is the condition that a failed attempt leaves.
func tried(p *v1.Pod) {
	p.Status.Conditions = []v1.PodCondition{{Type: v1.PodScheduled, Status: v1.ConditionFalse, Reason: v1.PodReasonUnschedulable}}
}

// products is required node affinity for the GPU models.
func products(names ...string) func(*v1.Pod) {
	return func(p *v1.Pod) {
		p.Spec.Affinity = &v1.Affinity{NodeAffinity: &v1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &v1.NodeSelector{
			NodeSelectorTerms: []v1.NodeSelectorTerm{{MatchExpressions: []v1.NodeSelectorRequirement{
				{Key: podspec.LabelProduct, Operator: v1.NodeSelectorOpIn, Values: names},
			}}},
		}}}
	}
}

func info(t *testing.T, p *v1.Pod) fwk.PodInfo {
	t.Helper()
	i, err := framework.NewPodInfo(p)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

var errTest = errors.New("connection reset by peer")

// migGPU is a GPU in MIG mode with two places for 3g.40gb.
func migGPU(id string, index int) gpu.Device {
	return gpu.Device{
		ID: gpu.ID(id), Index: index, Product: "A100", MemoryMiB: 80_000, MIG: true,
		Instances: []gpu.Instance{{Profile: "3g.40gb", Start: 0, Size: 4}, {Profile: "3g.40gb", Start: 4, Size: 4}},
	}
}

// snapshotOf is the node in the plugin's own snapshot, which the cycles decide on.
func (r *rig) snapshotOf(node string) *cluster.Node { return r.pl.snapshot.Node(node) }
