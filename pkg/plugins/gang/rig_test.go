package gang

import (
	"context"
	"fmt"
	"maps"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/client-go/dynamic"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/rest"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/events"
	"k8s.io/klog/v2"
	fwk "k8s.io/kube-scheduler/framework"
	"k8s.io/kubernetes/pkg/features"
	"k8s.io/kubernetes/pkg/scheduler"
	schedulerapi "k8s.io/kubernetes/pkg/scheduler/apis/config"
	frameworkruntime "k8s.io/kubernetes/pkg/scheduler/framework/runtime"
	schedulermetrics "k8s.io/kubernetes/pkg/scheduler/metrics"
	"k8s.io/kubernetes/pkg/scheduler/profile"

	"weft.sh/weft/pkg/gang"
	"weft.sh/weft/pkg/plugins/gpufit"
	"weft.sh/weft/pkg/podgroup"
	"weft.sh/weft/pkg/podspec"
)

// rig is a whole kube-scheduler with the shipped profile over an API in memory, in a bubble of its own time: waiting costs
// nothing, and synctest.Wait returns when there is nothing more to do.
type rig struct {
	t      *testing.T
	client *fake.Clientset
	// objects has the PodGroups, groups those of the namespace.
	objects dynamic.Interface
	groups  dynamic.ResourceInterface
	gangs   *gangs
	cancel  context.CancelFunc
	trouble trouble

	mu sync.Mutex
	// refuse is asked about each binding; an error is the API server's answer.
	refuse func(pod, node string) error
	// tried are the bindings that were asked for: pod, node and GPUs.
	tried []string
	// warned is what notes recorded.
	warned []string
	now    int
}

// inBubble runs the test on a cluster of the nodes.
func inBubble(t *testing.T, nodes []*v1.Node, test func(r *rig)) {
	t.Helper()
	schedulermetrics.Register()
	klog.SetLogger(logr.Discard())
	// One of them slows errors down by the time of the last, which in another bubble was another time.
	utilruntime.ErrorHandlers = nil
	// The scheduler listens for a signal; what the runtime makes for the first listener must not belong to the bubble.
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGUSR2)
	defer signal.Stop(c)
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nodes)
		defer func() {
			r.cancel()
			synctest.Wait()
		}()
		test(r)
	})
}

func newRig(t *testing.T, nodes []*v1.Node) *rig {
	t.Helper()
	r := &rig{t: t, client: fake.NewClientset(), refuse: func(string, string) error { return nil }}
	for _, n := range nodes {
		if err := r.client.Tracker().Add(n); err != nil {
			t.Fatal(err)
		}
	}
	r.client.PrependReactor("create", "pods", r.bind)
	r.objects = dynamicfake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(), map[schema.GroupVersionResource]string{podgroup.Resource: "PodGroupList"})
	r.groups = r.objects.Resource(podgroup.Resource).Namespace("ns")
	r.start()
	return r
}

// trouble is a plugin that fails where a test wants it to; a nil function never does.
type trouble struct {
	preFilter, reserve, preBind func(pod string) *fwk.Status
	filter                      func(pod, node string) *fwk.Status
	// asked is told of each node that a plan asks about.
	asked func(pod string)
	// holdsBack says whom PreEnqueue does not let go.
	holdsBack func(pod string) bool
}

func (*trouble) Name() string { return "Trouble" }

func (p *trouble) PreFilter(_ context.Context, state fwk.CycleState, pod *v1.Pod, _ []fwk.NodeInfo) (*fwk.PreFilterResult, *fwk.Status) {
	if p.preFilter == nil || gpufit.AsksOthers(state) {
		return nil, nil
	}
	return nil, p.preFilter(pod.Name)
}

func (*trouble) PreFilterExtensions() fwk.PreFilterExtensions { return nil }

// Filter says nothing when the plan is made: it stands for what the plan cannot know.
func (p *trouble) Filter(_ context.Context, state fwk.CycleState, pod *v1.Pod, nodeInfo fwk.NodeInfo) *fwk.Status {
	if p.asked != nil && gpufit.AsksOthers(state) {
		p.asked(pod.Name)
	}
	if p.filter == nil || gpufit.AsksOthers(state) {
		return nil
	}
	return p.filter(pod.Name, nodeInfo.Node().Name)
}

func (p *trouble) Reserve(_ context.Context, _ fwk.CycleState, pod *v1.Pod, _ string) *fwk.Status {
	if p.reserve == nil {
		return nil
	}
	return p.reserve(pod.Name)
}

func (p *trouble) PreEnqueue(_ context.Context, pod *v1.Pod) *fwk.Status {
	if p.holdsBack == nil || !p.holdsBack(pod.Name) {
		return nil
	}
	return fwk.NewStatus(fwk.UnschedulableAndUnresolvable, "held back")
}

func (p *trouble) PreBindPreFlight(context.Context, fwk.CycleState, *v1.Pod, string) (*fwk.PreBindPreFlightResult, *fwk.Status) {
	if p.preBind == nil {
		return nil, fwk.NewStatus(fwk.Skip)
	}
	return nil, nil
}

func (p *trouble) PreBind(_ context.Context, _ fwk.CycleState, pod *v1.Pod, _ string) *fwk.Status {
	if p.preBind == nil {
		return nil
	}
	return p.preBind(pod.Name)
}

func (*trouble) Unreserve(context.Context, fwk.CycleState, *v1.Pod, string) {}

// start starts a scheduler, or another one after cancel.
func (r *rig) start() {
	r.t.Helper()
	ctx, cancel := context.WithCancel(r.t.Context())
	r.cancel = cancel
	state := gpufit.NewState(gpufit.Options{})
	r.gangs = newGangs(Options{
		State: state, Native: func() bool { return utilfeature.DefaultFeatureGate.Enabled(features.GenericWorkload) },
	})
	r.gangs.dial = func(*rest.Config) (dynamic.Interface, error) { return r.objects, nil }
	factory := informers.NewSharedInformerFactory(r.client, 0)
	recorder := profile.RecorderFactory(func(string) events.EventRecorderLogger { return &notes{rig: r} })
	p := shippedProfile(r.t)
	p.Plugins.MultiPoint.Enabled = append(p.Plugins.MultiPoint.Enabled, schedulerapi.Plugin{Name: r.trouble.Name()})
	s, err := scheduler.New(ctx, r.client, factory, nil, recorder,
		scheduler.WithProfiles(*p),
		scheduler.WithKubeConfig(&rest.Config{}),
		scheduler.WithFrameworkOutOfTreeRegistry(frameworkruntime.Registry{
			gpufit.Name: gpufit.NewFactory(state), Name: r.gangs.factory(),
			r.trouble.Name(): func(context.Context, runtime.Object, fwk.Handle) (fwk.Plugin, error) { return &r.trouble, nil },
		}))
	if err != nil {
		r.t.Fatal(err)
	}
	factory.StartWithContext(ctx)
	go s.Run(ctx)
	synctest.Wait()
}

// notes records the warnings about pods, but for those of the scheduler itself.
type notes struct {
	events.FakeRecorder
	rig *rig
}

func (n *notes) WithLogger(klog.Logger) events.EventRecorderLogger { return n }

func (n *notes) Eventf(regarding, _ runtime.Object, kind, reason, _, note string, args ...any) {
	if p, ok := regarding.(*v1.Pod); ok && kind == v1.EventTypeWarning && reason != "FailedScheduling" {
		n.rig.mu.Lock()
		defer n.rig.mu.Unlock()
		n.rig.warned = append(n.rig.warned, fmt.Sprintf("%s %s %s", p.Name, reason, fmt.Sprintf(note, args...)))
	}
}

// warnings are the warnings about pods since they were asked for last.
func (r *rig) warnings() (out []string) {
	synctest.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	out, r.warned = r.warned, nil
	return out
}

// bind is the API server's answer to a Binding.
func (r *rig) bind(action clienttesting.Action) (bool, runtime.Object, error) {
	create := action.(clienttesting.CreateAction)
	if create.GetSubresource() != "binding" {
		return false, nil, nil
	}
	b := create.GetObject().(*v1.Binding)
	r.mu.Lock()
	r.tried = append(r.tried, fmt.Sprintf("%s on %s %s", b.Name, b.Target.Name, b.Annotations[podspec.AnnotationGPUs]))
	refuse := r.refuse
	r.mu.Unlock()
	if err := refuse(b.Name, b.Target.Name); err != nil {
		return true, nil, err
	}
	gvr := v1.SchemeGroupVersion.WithResource("pods")
	o, err := r.client.Tracker().Get(gvr, b.Namespace, b.Name)
	if err != nil {
		return true, nil, err
	}
	p := o.(*v1.Pod).DeepCopy()
	p.Spec.NodeName = b.Target.Name
	if p.Annotations == nil {
		p.Annotations = map[string]string{}
	}
	maps.Copy(p.Annotations, b.Annotations)
	return true, nil, r.client.Tracker().Update(gvr, p, b.Namespace)
}

// group creates a PodGroup.
func (r *rig) group(name string, minMember int64, change ...func(*unstructured.Unstructured)) {
	r.t.Helper()
	u := &unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{"minMember": minMember}}}
	u.SetAPIVersion("scheduling.x-k8s.io/v1alpha1")
	u.SetKind("PodGroup")
	u.SetName(name)
	u.SetNamespace("ns")
	u.SetUID(types.UID("group-" + name))
	u.SetGeneration(1)
	u.SetCreationTimestamp(metav1.Now())
	for _, f := range change {
		f(u)
	}
	if _, err := r.groups.Create(r.t.Context(), u, metav1.CreateOptions{}); err != nil {
		r.t.Fatal(err)
	}
}

func required(level string) func(*unstructured.Unstructured) {
	return func(u *unstructured.Unstructured) {
		u.SetAnnotations(map[string]string{podspec.AnnotationTopologyRequired: level})
	}
}

// create creates the pods; each has a UID of its own.
func (r *rig) create(pods ...*v1.Pod) {
	r.t.Helper()
	for _, p := range pods {
		r.now++
		p.UID = types.UID(fmt.Sprintf("%s-%d", p.Name, r.now))
		p.CreationTimestamp = metav1.Now()
		if _, err := r.client.CoreV1().Pods("ns").Create(r.t.Context(), p, metav1.CreateOptions{}); err != nil {
			r.t.Fatal(err)
		}
	}
}

func (r *rig) delete(names ...string) {
	r.t.Helper()
	for _, name := range names {
		if err := r.client.CoreV1().Pods("ns").Delete(r.t.Context(), name, metav1.DeleteOptions{}); err != nil {
			r.t.Fatal(err)
		}
	}
}

func (r *rig) pod(name string) *v1.Pod {
	r.t.Helper()
	p, err := r.client.CoreV1().Pods("ns").Get(r.t.Context(), name, metav1.GetOptions{})
	if err != nil {
		r.t.Fatal(err)
	}
	return p
}

// bound are the names of the bound pods when there is nothing more to do at this moment, sorted, with their nodes.
func (r *rig) bound() string {
	r.t.Helper()
	synctest.Wait()
	list, err := r.client.CoreV1().Pods("ns").List(r.t.Context(), metav1.ListOptions{})
	if err != nil {
		r.t.Fatal(err)
	}
	var out []string
	for _, p := range list.Items {
		if p.Spec.NodeName != "" {
			out = append(out, p.Name+"@"+p.Spec.NodeName)
		}
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

// number is how many pods are bound.
func (r *rig) number() int {
	r.t.Helper()
	return len(strings.Fields(r.bound()))
}

// said is the message of the pod's condition, "" while there is none, with its reason.
func (r *rig) said(name string) string {
	r.t.Helper()
	synctest.Wait()
	for _, c := range r.pod(name).Status.Conditions {
		if c.Type == v1.PodScheduled && c.Status == v1.ConditionFalse {
			return c.Reason + ": " + c.Message
		}
	}
	return ""
}

// held is how many pods hold GPUs in the cache.
func (r *rig) held() (pods int) {
	for _, n := range r.gangs.gpus.Cache().Nodes() {
		pods += len(n.Pods)
	}
	return pods
}

// idle checks that nothing is planned, and that nobody but bound pods holds anything.
func (r *rig) idle() {
	r.t.Helper()
	synctest.Wait()
	r.gangs.book.mu.Lock()
	defer r.gangs.book.mu.Unlock()
	for k, p := range r.gangs.book.plans {
		r.t.Errorf("%s has a plan for %d members", k, len(p.places))
	}
	for _, n := range r.gangs.gpus.Cache().Nodes() {
		for _, p := range n.Pods {
			if _, _, planned, _ := r.gangs.gpus.Cache().Holding(p.UID); planned {
				r.t.Errorf("%s still holds %s of %s by plan", p.Name, p.Assignment, n.Name)
			}
		}
	}
}

func (r *rig) after(d time.Duration) {
	time.Sleep(d) // in the bubble: it returns when all else is waiting too
	synctest.Wait()
}

// node is a node with so many GPUs, known by labels.
func node(name string, gpus int, change ...func(*v1.Node)) *v1.Node {
	n := &v1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{
			v1.LabelHostname: name, podspec.LabelProduct: "H100", podspec.LabelCount: strconv.Itoa(gpus), podspec.LabelMemory: "81559",
		}},
		Status: v1.NodeStatus{Allocatable: v1.ResourceList{
			v1.ResourceCPU: resource.MustParse("16"), v1.ResourceMemory: resource.MustParse("64Gi"), v1.ResourcePods: resource.MustParse("110"),
			podspec.ResourceGPU: *resource.NewQuantity(int64(gpus), resource.DecimalSI),
		}},
	}
	for _, f := range change {
		f(n)
	}
	return n
}

func nodesOf(count, gpus int) (out []*v1.Node) {
	for i := range count {
		out = append(out, node(fmt.Sprintf("n%d", i), gpus))
	}
	return out
}

// member is a member of the gang with so many GPUs and one core.
func member(group, name string, gpus int64, change ...func(*v1.Pod)) *v1.Pod {
	p := asks(name, func(p *v1.Pod) {
		p.Labels[podspec.LabelPodGroup] = group
		p.Spec.Containers[0].Resources.Limits = v1.ResourceList{v1.ResourceCPU: resource.MustParse("1")}
		if gpus > 0 {
			p.Spec.Containers[0].Resources.Limits[podspec.ResourceGPU] = *resource.NewQuantity(gpus, resource.DecimalSI)
		}
		p.Spec.Containers[0].Resources.Requests = p.Spec.Containers[0].Resources.Limits
	})
	for _, f := range change {
		f(p)
	}
	return p
}

func membersOf(group string, count int, gpus int64, change ...func(*v1.Pod)) (out []*v1.Pod) {
	for i := range count {
		out = append(out, member(group, fmt.Sprintf("%s-%d", group, i), gpus, change...))
	}
	return out
}

func key(name string) gang.Key { return gang.Key{Namespace: "ns", Name: name} }
