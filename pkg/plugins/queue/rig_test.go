package queue

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
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
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/client-go/dynamic"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/rest"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/events"
	"k8s.io/klog/v2"
	fwk "k8s.io/kube-scheduler/framework"
	"k8s.io/kubernetes/pkg/scheduler"
	schedulerapi "k8s.io/kubernetes/pkg/scheduler/apis/config"
	schedulerscheme "k8s.io/kubernetes/pkg/scheduler/apis/config/scheme"
	frameworkruntime "k8s.io/kubernetes/pkg/scheduler/framework/runtime"
	schedulermetrics "k8s.io/kubernetes/pkg/scheduler/metrics"
	"k8s.io/kubernetes/pkg/scheduler/profile"

	"weft.sh/weft/pkg/apis/weft/v1alpha1"
	"weft.sh/weft/pkg/plugins/gang"
	"weft.sh/weft/pkg/plugins/gpufit"
	"weft.sh/weft/pkg/podgroup"
	"weft.sh/weft/pkg/podspec"
)

// rig is a whole kube-scheduler with the shipped profile over an API in memory, in a bubble of its own time, which begins at midnight
// UTC of Saturday 2000-01-01.
type rig struct {
	t       *testing.T
	client  *fake.Clientset
	objects dynamic.Interface
	state   *State
	cancel  context.CancelFunc

	mu sync.Mutex
	// refuse is asked about each binding; an error is the API server's answer.
	refuse func(pod string) error
	// conditions are what was written into conditions PodScheduled that are False: pod and reason.
	conditions []string
	now        int
}

// inBubble runs the test on a cluster of the nodes and queues.
func inBubble(t *testing.T, nodes []*v1.Node, objects []runtime.Object, test func(r *rig)) {
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
		r := newRig(t, nodes, objects)
		defer func() {
			r.cancel()
			synctest.Wait()
		}()
		test(r)
	})
}

func newRig(t *testing.T, nodes []*v1.Node, objects []runtime.Object) *rig {
	t.Helper()
	r := &rig{t: t, client: fake.NewClientset(), refuse: func(string) error { return nil }}
	for _, n := range nodes {
		if err := r.client.Tracker().Add(n); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"ns", "other"} {
		n := &v1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{v1.LabelMetadataName: name}}}
		if err := r.client.Tracker().Add(n); err != nil {
			t.Fatal(err)
		}
	}
	r.client.PrependReactor("create", "pods", r.bind)
	r.client.PrependReactor("patch", "pods", r.patched)
	r.objects = dynamicfake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(), map[schema.GroupVersionResource]string{
		podgroup.Resource: "PodGroupList", v1alpha1.Queues: "QueueList", v1alpha1.GPUClasses: "GPUClassList",
	}, objects...)
	r.start()
	return r
}

// start starts a scheduler, or another one after cancel.
func (r *rig) start() {
	r.t.Helper()
	ctx, cancel := context.WithCancel(r.t.Context())
	r.cancel = cancel
	gpus := gpufit.NewState(gpufit.Options{})
	r.state = NewState(Options{GPUs: gpus})
	r.state.dial = func(*rest.Config) (dynamic.Interface, error) { return r.objects, nil }
	r.state.statuses = func(fwk.Handle) (kubernetes.Interface, error) { return r.client, nil }
	factory := informers.NewSharedInformerFactory(r.client, 0)
	recorder := profile.RecorderFactory(func(string) events.EventRecorderLogger { return &events.FakeRecorder{} })
	s, err := scheduler.New(ctx, r.client, factory, nil, recorder,
		scheduler.WithProfiles(*shippedProfile(r.t)),
		scheduler.WithKubeConfig(&rest.Config{Host: "http://api", Transport: groupServer{r.objects}}),
		scheduler.WithFrameworkOutOfTreeRegistry(frameworkruntime.Registry{
			gpufit.Name: gpufit.NewFactory(gpus), Name: NewFactory(r.state),
			gang.Name: gang.NewFactory(gang.Options{State: gpus, Queues: r.state}),
		}))
	if err != nil {
		r.t.Fatal(err)
	}
	factory.StartWithContext(ctx)
	go s.Run(ctx)
	r.after(time.Second)
}

// shippedProfile is the profile of the configuration that is shipped.
func shippedProfile(t testing.TB) *schedulerapi.KubeSchedulerProfile {
	t.Helper()
	text, err := os.ReadFile("../../../manifests/scheduler/config.yaml")
	if err != nil {
		t.Fatal(err)
	}
	obj, _, err := schedulerscheme.Codecs.UniversalDecoder().Decode(text, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	return &obj.(*schedulerapi.KubeSchedulerConfiguration).Profiles[0]
}

// bind is the API server's answer to a Binding.
func (r *rig) bind(action clienttesting.Action) (bool, runtime.Object, error) {
	create := action.(clienttesting.CreateAction)
	if create.GetSubresource() != "binding" {
		return false, nil, nil
	}
	b := create.GetObject().(*v1.Binding)
	r.mu.Lock()
	refuse := r.refuse
	r.mu.Unlock()
	if err := refuse(b.Name); err != nil {
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
	p.Status.Conditions = []v1.PodCondition{{Type: v1.PodScheduled, Status: v1.ConditionTrue, LastTransitionTime: metav1.Now()}}
	return true, nil, r.client.Tracker().Update(gvr, p, b.Namespace)
}

// patched notes what conditions are written.
func (r *rig) patched(action clienttesting.Action) (bool, runtime.Object, error) {
	patch := action.(clienttesting.PatchAction)
	for _, reason := range []string{"Unschedulable", "SchedulerError"} {
		if strings.Contains(string(patch.GetPatch()), `"reason":"`+reason+`"`) {
			r.mu.Lock()
			r.conditions = append(r.conditions, patch.GetName()+" "+reason)
			r.mu.Unlock()
		}
	}
	return false, nil, nil
}

// neverUnschedulable checks that nothing was written that an autoscaler acts on.
func (r *rig) neverUnschedulable() {
	r.t.Helper()
	synctest.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.conditions {
		if strings.HasSuffix(c, " Unschedulable") {
			r.t.Errorf("was told: %s", c)
		}
	}
}

func invalid(string) error { return apierrors.NewBadRequest("no") }

// queue is a Queue in its stored form.
func queue(name string, change ...func(*v1alpha1.Queue)) runtime.Object {
	q := &v1alpha1.Queue{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name), Generation: 1}}
	q.APIVersion, q.Kind = v1alpha1.SchemeGroupVersion.String(), "Queue"
	for _, f := range change {
		f(q)
	}
	return stored(q)
}

func stored(o any) runtime.Object {
	m, err := runtime.DefaultUnstructuredConverter.ToUnstructured(o)
	if err != nil {
		panic(err)
	}
	return &unstructured.Unstructured{Object: m}
}

func budget(hours string, change ...func(*v1alpha1.Budget)) func(*v1alpha1.Queue) {
	return func(q *v1alpha1.Queue) {
		q.Spec.Budget = &v1alpha1.Budget{GPUHours: resource.MustParse(hours), Period: v1alpha1.PeriodNone, Enforcement: v1alpha1.EnforceHold}
		for _, f := range change {
			f(q.Spec.Budget)
		}
	}
}

func gpus(guaranteed, limit string) func(*v1alpha1.Queue) {
	return func(q *v1alpha1.Queue) {
		if guaranteed != "" {
			q.Spec.GPUs.Guaranteed = new(resource.MustParse(guaranteed))
		}
		if limit != "" {
			q.Spec.GPUs.Limit = new(resource.MustParse(limit))
		}
	}
}

func under(parent string) func(*v1alpha1.Queue) {
	return func(q *v1alpha1.Queue) { q.Spec.Parent = parent }
}

// change replaces a Queue.
func (r *rig) change(o runtime.Object) {
	r.t.Helper()
	u := o.(*unstructured.Unstructured)
	now, err := r.objects.Resource(v1alpha1.Queues).Get(r.t.Context(), u.GetName(), metav1.GetOptions{})
	if err != nil {
		r.t.Fatal(err)
	}
	u.SetGeneration(now.GetGeneration() + 1)
	if _, err := r.objects.Resource(v1alpha1.Queues).Update(r.t.Context(), u, metav1.UpdateOptions{}); err != nil {
		r.t.Fatal(err)
	}
}

// add creates a Queue.
func (r *rig) add(o runtime.Object) {
	r.t.Helper()
	if _, err := r.objects.Resource(v1alpha1.Queues).Create(r.t.Context(), o.(*unstructured.Unstructured), metav1.CreateOptions{}); err != nil {
		r.t.Fatal(err)
	}
}

// group creates a PodGroup.
func (r *rig) group(name string, minMember int64) {
	r.t.Helper()
	u := &unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{"minMember": minMember}}}
	u.SetAPIVersion("scheduling.x-k8s.io/v1alpha1")
	u.SetKind("PodGroup")
	u.SetName(name)
	u.SetNamespace("ns")
	u.SetUID(types.UID("group-" + name))
	u.SetGeneration(1)
	u.SetCreationTimestamp(metav1.Now())
	if _, err := r.objects.Resource(podgroup.Resource).Namespace("ns").Create(r.t.Context(), u, metav1.CreateOptions{}); err != nil {
		r.t.Fatal(err)
	}
}

// create creates the pods; each has a UID of its own.
func (r *rig) create(pods ...*v1.Pod) {
	r.t.Helper()
	for _, p := range pods {
		r.now++
		p.UID = types.UID(fmt.Sprintf("%s-%d", p.Name, r.now))
		p.CreationTimestamp = metav1.Now()
		if _, err := r.client.CoreV1().Pods(p.Namespace).Create(r.t.Context(), p, metav1.CreateOptions{}); err != nil {
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

// bound are the names of the bound pods when there is nothing more to do within a second, sorted.
func (r *rig) bound() string {
	r.t.Helper()
	r.after(time.Second)
	list, err := r.client.CoreV1().Pods(metav1.NamespaceAll).List(r.t.Context(), metav1.ListOptions{})
	if err != nil {
		r.t.Fatal(err)
	}
	var out []string
	for _, p := range list.Items {
		if p.Spec.NodeName != "" {
			out = append(out, p.Name)
		}
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func (r *rig) wantBound(want string) {
	r.t.Helper()
	if got := r.bound(); got != want {
		r.t.Errorf("bound: %q, want %q", got, want)
	}
}

// said is reason and message of the pod's condition, "" while there is none.
func (r *rig) said(name string) (reason, message string) {
	r.t.Helper()
	r.after(time.Second)
	list, err := r.client.CoreV1().Pods(metav1.NamespaceAll).List(r.t.Context(), metav1.ListOptions{})
	if err != nil {
		r.t.Fatal(err)
	}
	for _, p := range list.Items {
		for _, c := range p.Status.Conditions {
			if p.Name == name && c.Type == v1.PodScheduled && c.Status == v1.ConditionFalse {
				return c.Reason, c.Message
			}
		}
	}
	return "", ""
}

func (r *rig) wantSaid(name, reason string, parts ...string) {
	r.t.Helper()
	got, message := r.said(name)
	if got != reason {
		r.t.Errorf("%s: %s %q, want %s", name, got, message, reason)
	}
	for _, part := range parts {
		if !strings.Contains(message, part) {
			r.t.Errorf("%s: %q does not say %q", name, message, part)
		}
	}
}

func (r *rig) after(d time.Duration) {
	time.Sleep(d) // in the bubble: it returns when all else is waiting too
	synctest.Wait()
}

// held are the pods that are being bound.
func (r *rig) held() int {
	synctest.Wait()
	r.state.mu.Lock()
	defer r.state.mu.Unlock()
	return len(r.state.holds)
}

// node is a node with so many GPUs, known by labels.
func node(name string, gpus int, change ...func(*v1.Node)) *v1.Node {
	n := &v1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{
			v1.LabelHostname: name, podspec.LabelProduct: "H100", podspec.LabelCount: strconv.Itoa(gpus), podspec.LabelMemory: "81559",
		}},
		Status: v1.NodeStatus{Allocatable: v1.ResourceList{
			v1.ResourceCPU: resource.MustParse("64"), v1.ResourceMemory: resource.MustParse("64Gi"), v1.ResourcePods: resource.MustParse("110"),
			podspec.ResourceGPU: *resource.NewQuantity(int64(gpus), resource.DecimalSI),
		}},
	}
	for _, f := range change {
		f(n)
	}
	return n
}

func nodes(n ...*v1.Node) []*v1.Node { return n }

// pod asks for a GPU, of the queue, for so long; "" for no queue or for no end.
func pod(name, queue, runtime string, change ...func(*v1.Pod)) *v1.Pod {
	p := &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "ns", Annotations: map[string]string{}, Labels: map[string]string{}},
		Spec:       v1.PodSpec{SchedulerName: "weft", Containers: []v1.Container{{Name: "main"}}},
	}
	if queue != "" {
		p.Labels[podspec.LabelQueue] = queue
	}
	if runtime != "" {
		p.Annotations[podspec.AnnotationRuntime] = runtime
	}
	asking(1)(p)
	for _, f := range change {
		f(p)
	}
	return p
}

func asking(n int64) func(*v1.Pod) {
	return func(p *v1.Pod) {
		p.Spec.Containers[0].Resources.Limits = v1.ResourceList{podspec.ResourceGPU: *resource.NewQuantity(n, resource.DecimalSI)}
		p.Spec.Containers[0].Resources.Requests = p.Spec.Containers[0].Resources.Limits
	}
}

func member(group string) func(*v1.Pod) {
	return func(p *v1.Pod) { p.Labels[podspec.LabelPodGroup] = group }
}

func priority(n int32) func(*v1.Pod) {
	return func(p *v1.Pod) { p.Spec.Priority = &n }
}

// gangOf are the members of a gang.
func gangOf(group string, count int, queue, runtime string, change ...func(*v1.Pod)) (out []*v1.Pod) {
	for i := range count {
		out = append(out, pod(fmt.Sprintf("%s-%d", group, i), queue, runtime, append(change, member(group))...))
	}
	return out
}

// groupServer answers plugin Gang, which makes a client of its own, with the PodGroups of the API in memory.
type groupServer struct{ objects dynamic.Interface }

// RoundTrip implements http.RoundTripper.
func (g groupServer) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx, groups := req.Context(), g.objects.Resource(podgroup.Resource)
	answer := &http.Response{
		StatusCode: http.StatusOK, ProtoMajor: 1, ProtoMinor: 1, Request: req, Header: http.Header{"Content-Type": {"application/json"}},
	}
	if req.URL.Query().Get("watch") == "" {
		list, err := groups.List(ctx, metav1.ListOptions{})
		if err != nil {
			return nil, err
		}
		list.SetResourceVersion("1")
		text, err := list.MarshalJSON()
		answer.Body = io.NopCloser(bytes.NewReader(text))
		return answer, err
	}
	if req.URL.Query().Get("sendInitialEvents") != "" { // the client then lists
		answer.StatusCode = http.StatusUnprocessableEntity
		answer.Body = io.NopCloser(strings.NewReader(`{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Invalid","code":422}`))
		return answer, nil
	}
	w, err := groups.Watch(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, err
	}
	reader, writer := io.Pipe()
	answer.Body = reader
	go func() {
		defer w.Stop()
		for {
			select {
			case <-ctx.Done():
				writer.CloseWithError(ctx.Err())
				return
			case e := <-w.ResultChan():
				u := e.Object.(*unstructured.Unstructured)
				u.SetResourceVersion("2")
				text, err := json.Marshal(map[string]any{"type": e.Type, "object": u.Object})
				if err == nil {
					_, err = writer.Write(text)
				}
				if err != nil {
					return
				}
			}
		}
	}()
	return answer, nil
}
