package integration

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/inventory"
	"weft.sh/weft/pkg/playground"
	"weft.sh/weft/pkg/podspec"
)

// bound waits until the pod is bound and returns what it holds.
func (c *cluster) bound(name string) (node string, a gpu.Assignment) {
	c.t.Helper()
	eventually(c.t, 20*time.Second, func() string {
		p := c.pod(name)
		if p.Spec.NodeName == "" {
			return name + " is not bound: " + condition(p)
		}
		node = p.Spec.NodeName
		var err error
		if a, err = gpu.ParseAssignment(p.Annotations[podspec.AnnotationGPUs]); err != nil {
			c.t.Fatal(err)
		}
		return ""
	})
	return node, a
}

// refused waits until the scheduler gives a reason that contains the text.
func (c *cluster) refused(name, text string) {
	c.t.Helper()
	eventually(c.t, 20*time.Second, func() string {
		p := c.pod(name)
		if p.Spec.NodeName != "" {
			c.t.Fatalf("%s is bound to %s, want it refused: %s", name, p.Spec.NodeName, text)
		}
		if got := condition(p); !strings.Contains(got, text) {
			return fmt.Sprintf("%s: got %q, want %q", name, got, text)
		}
		return ""
	})
}

// TestTheSchedulerRefusesWhatHasNoMeaning: the admission policies stop these pods, but not every cluster has them.
func TestTheSchedulerRefusesWhatHasNoMeaning(t *testing.T) {
	c := startCluster(t, "h100=1,a100-mig=1,t4-labels=1", "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding")
	c.startScheduler()
	limit := func(name corev1.ResourceName, n int64) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.Spec.Containers[0].Resources.Limits[name] = *quantity(n) }
	}
	annotate := func(key, value string) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.Annotations[key] = value }
	}
	for name, tc := range map[string]struct {
		pod    playground.Pod
		change func(*corev1.Pod)
		want   string
	}{
		"percent-0":          {playground.Pod{}, limit(podspec.ResourceGPUPercent, 0), `container "main": weft.sh/gpu-percent is "0": want a whole number from 1 to 100`},
		"percent-101":        {playground.Pod{Percent: 101}, nil, `container "main": weft.sh/gpu-percent is "101": want a whole number from 1 to 100`},
		"percent-and-whole":  {playground.Pod{Percent: 50, GPUs: 1}, nil, `container "main" is "nvidia.com/gpu and weft.sh/gpu-percent": want weft.sh/gpu-percent alone`},
		"count-alone":        {playground.Pod{GPUs: 1}, annotate(podspec.AnnotationGPUCount, "2"), `annotation weft.sh/gpu-count is "2": want a container that asks for weft.sh/gpu-percent`},
		"count-65":           {playground.Pod{Percent: 5}, annotate(podspec.AnnotationGPUCount, "65"), `annotation weft.sh/gpu-count is "65": want a whole number from 1 to 64`},
		"memory-lots":        {playground.Pod{Percent: 5}, annotate(podspec.AnnotationGPUMemory, "lots"), `annotation weft.sh/gpu-memory is "lots": want a quantity from 1Mi to 1Pi, such as 10Gi`},
		"memory-of-no-gpu":   {playground.Pod{Percent: 5, GPUMemory: "200Gi"}, nil, "GPUMemoryTooSmall: no GPU has the memory asked for"},
		"profile-of-no-gpu":  {playground.Pod{MIGProfile: "1g.11gb", MIGCount: 1}, nil, "NoMIGProfile: no GPU offers the MIG profile"},
		"profile-misspelt":   {playground.Pod{MIGProfile: "huge", MIGCount: 1}, nil, `want a resource named after a MIG profile, such as nvidia.com/mig-1g.10gb`},
		"annotation-of-user": {playground.Pod{GPUs: 1}, annotate(podspec.AnnotationGPUs, "main=GPU-0"), "annotation weft.sh/gpus is \"main=GPU-0\": want none: only the scheduler writes it, remove it from the pod"},
		"cpu-with-spoof":     {playground.Pod{}, annotate(podspec.AnnotationGPUs, "main=GPU-0"), "want none: only the scheduler writes it"},
		"share-of-labels":    {playground.Pod{Percent: 5, Products: []string{"Tesla-T4"}}, nil, "SharingUnsupported: the node gives out whole GPUs only"},
	} {
		t.Run(name, func(t *testing.T) {
			tc.pod.Name, tc.pod.CPUMilli = name, 100
			o := tc.pod.Object()
			if tc.change != nil {
				tc.change(o)
			}
			sub := *c
			sub.t = t
			sub.create(o)
			sub.refused(name, tc.want)
		})
	}
	// A pod that is corrected is tried again at once: the hint for its own update says so.
	patch := []byte(`{"metadata":{"annotations":{"weft.sh/gpu-memory":"1Gi"}}}`)
	if _, err := c.client.CoreV1().Pods("default").Patch(t.Context(), "memory-lots", "application/merge-patch+json", patch, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	c.bound("memory-lots")
}

// publish replaces the slices of the node by ones of the generation; only the first so many of them are written, and the
// older ones stay, when partial is not 0.
func (c *cluster) publish(node string, devices []gpu.Device, generation int64, partial int) {
	c.t.Helper()
	slices := c.client.ResourceV1().ResourceSlices()
	if partial == 0 {
		c.unpublish(node)
	}
	all := inventory.Slices(node, devices, generation)
	for i, s := range all {
		if partial != 0 && i >= partial {
			return
		}
		s.Name = fmt.Sprintf("%s-g%d", s.Name, generation)
		if _, err := slices.Create(c.t.Context(), s, metav1.CreateOptions{}); err != nil {
			c.t.Fatal(err)
		}
	}
}

// unpublish deletes the slices of the node.
func (c *cluster) unpublish(node string) {
	c.t.Helper()
	err := c.client.ResourceV1().ResourceSlices().DeleteCollection(c.t.Context(), metav1.DeleteOptions{},
		metav1.ListOptions{FieldSelector: "spec.nodeName=" + node})
	if err != nil {
		c.t.Fatal(err)
	}
}

// TestInventoryMayChangeUnderRunningPods follows one node through the changes that an agent may publish.
func TestInventoryMayChangeUnderRunningPods(t *testing.T) {
	c := startCluster(t, "l4=1,a100-mig=1")
	c.startScheduler()
	nodes, err := playground.ParseNodes("l4=1,a100-mig=1")
	if err != nil {
		t.Fatal(err)
	}
	l4 := nodes[0]
	wait := func(name string, gpus int64) {
		c.create(playground.Pod{Name: name, GPUs: gpus, Products: []string{"NVIDIA-L4"}}.Object())
	}
	wait("first", 2)
	wait("second", 2)
	c.bound("first")
	c.bound("second")
	wait("third", 1)
	c.refused("third", "InsufficientGPU: too few idle GPUs")

	// All slices vanish for a while, as when the kubelet restarts. The node has labels too, but what they say must not be
	// given beside what is held already.
	c.unpublish("l4-0")
	wait("meanwhile", 1)
	c.refused("meanwhile", "NoGPU: the node reports no GPU")
	c.publish("l4-0", l4.Devices, 1, 0)
	wait("afterwards", 1)
	c.refused("afterwards", "InsufficientGPU: too few idle GPUs")
	c.delete("meanwhile")
	c.delete("afterwards")

	// The node loses two GPUs under the running pods. They keep what they hold, and nothing else is given twice.
	c.publish("l4-0", l4.Devices[:2], 2, 0)
	c.delete("first")
	c.delete("second")
	_, a := c.bound("third")
	if id := a.Containers[0].Grants[0].GPU; id != l4.Devices[0].ID && id != l4.Devices[1].ID {
		t.Errorf("third holds %s, which the node no longer has", id)
	}
	wait("fourth", 2)
	c.refused("fourth", "InsufficientGPU: too few idle GPUs")
	wait("fifth", 3)
	c.refused("fifth", "TooFewGPUs: the node would be too small even when empty")

	// The GPUs come back: the pods that wait get them without waiting for anything else.
	c.publish("l4-0", l4.Devices, 3, 0)
	c.bound("fourth")
	c.delete("third")
	c.delete("fourth")
	c.bound("fifth")

	// All GPUs but one fall ill. A pod that runs is left alone; a new one waits until they are well.
	sick := append([]gpu.Device(nil), l4.Devices...)
	for i := range sick {
		sick[i].Unhealthy = true
	}
	c.publish("l4-0", sick, 4, 0)
	wait("sixth", 1)
	c.refused("sixth", "GPUUnhealthy: GPUs are unhealthy")
	c.publish("l4-0", l4.Devices, 5, 0)
	c.bound("sixth")

	// Two generations at once: the agent is in the middle of publishing a pool of two slices. Until it is whole nothing is
	// given, and then the new one counts.
	mig := nodes[1]
	if n := len(inventory.Slices(mig.Name, mig.Devices, 2)); n < 2 {
		t.Fatalf("the node has %d slices: the test needs a pool of several", n)
	}
	c.publish(mig.Name, mig.Devices, 2, 1)
	c.create(playground.Pod{Name: "seventh", MIGProfile: "3g.20gb", MIGCount: 1}.Object())
	c.refused("seventh", "NoGPU: the node reports no GPU")
	c.publish(mig.Name, mig.Devices, 3, 0)
	c.bound("seventh")

	// A malformed GPU is left out, and the others are used.
	broken := inventory.Slices("l4-0", l4.Devices, 6)
	delete(broken[0].Spec.Devices[0].Attributes, "uuid")
	c.unpublish("l4-0")
	for _, s := range broken {
		if _, err := c.client.ResourceV1().ResourceSlices().Create(t.Context(), s, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	c.delete("fifth")
	c.delete("sixth")
	wait("eighth", 4)
	c.refused("eighth", "TooFewGPUs")
	wait("ninth", 3)
	_, a = c.bound("ninth")
	for _, g := range a.Containers[0].Grants {
		if g.GPU == l4.Devices[0].ID {
			t.Errorf("ninth holds %s, whose device is malformed", g.GPU)
		}
	}
}

// TestANodeMayGetItsAgentLater: pods hold GPUs of a node that is known by labels, and then the node publishes slices with
// other names for the same GPUs.
func TestANodeMayGetItsAgentLater(t *testing.T) {
	c := startCluster(t, "t4-labels=1")
	c.startScheduler()
	c.create(playground.Pod{Name: "before", GPUs: 3}.Object())
	c.bound("before")
	nodes, err := playground.ParseNodes("t4=1")
	if err != nil {
		t.Fatal(err)
	}
	patch := []byte(`{"status":{"allocatable":{"weft.sh/gpu-percent":"400"},"capacity":{"weft.sh/gpu-percent":"400"}}}`)
	if _, err := c.client.CoreV1().Nodes().Patch(t.Context(), "t4-labels-0", types.MergePatchType, patch, metav1.PatchOptions{}, "status"); err != nil {
		t.Fatal(err)
	}
	c.publish("t4-labels-0", nodes[0].Devices, 1, 0)
	// One GPU is left, whichever it is.
	c.create(playground.Pod{Name: "one", Percent: 60}.Object())
	c.bound("one")
	c.create(playground.Pod{Name: "two", Percent: 60}.Object())
	c.refused("two", "GPUWithheld: idle GPUs are withheld")
	c.delete("before")
	c.bound("two")
}

// TestPreemptionMakesRoomOnGPUs: kube-scheduler's own preemption asks GPUFit what would fit without the victims.
func TestPreemptionMakesRoomOnGPUs(t *testing.T) {
	c := startCluster(t, "l4=1")
	c.startScheduler()
	_, err := c.client.SchedulingV1().PriorityClasses().Create(t.Context(), &schedulingv1.PriorityClass{
		ObjectMeta: metav1.ObjectMeta{Name: "urgent"}, Value: 1000,
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 4 {
		for k := range 2 {
			name := fmt.Sprintf("share-%d-%d", i, k)
			c.create(playground.Pod{Name: name, Percent: 50}.Object())
			c.bound(name)
		}
	}
	p := playground.Pod{Name: "urgent", GPUs: 1}.Object()
	p.Spec.PriorityClassName = "urgent"
	c.create(p)
	_, a := c.bound("urgent")
	taken := a.Containers[0].Grants[0].GPU
	var left int
	for _, p := range c.pods() {
		if p.Name == "urgent" || p.DeletionTimestamp != nil {
			continue
		}
		left++
		other, err := gpu.ParseAssignment(p.Annotations[podspec.AnnotationGPUs])
		if err != nil || other.Containers[0].Grants[0].GPU == taken {
			t.Errorf("%s is still on GPU %s, %v", p.Name, taken, err)
		}
	}
	if left != 6 {
		t.Errorf("%d shares are left, want 6: two on one GPU make room for one whole", left)
	}
}

// TestEqualPodsAreBatched: with SignPlugin implemented, the framework reuses the result of one pod for the next.
func TestEqualPodsAreBatched(t *testing.T) {
	c := startCluster(t, "h100=20")
	for i := range 100 {
		c.create(playground.Pod{Name: fmt.Sprintf("pod-%d", i), GPUs: 1, CPUMilli: 100}.Object())
	}
	c.startScheduler()
	eventually(t, 30*time.Second, func() string {
		for _, p := range c.pods() {
			if p.Spec.NodeName == "" {
				return p.Name + " is not bound: " + condition(&p)
			}
		}
		return ""
	})
	used := 0
	for line := range c.metrics() {
		if strings.HasPrefix(line, "scheduler_batch_attempts_total{") && strings.Contains(line, `result="hint_used"`) {
			_, value, _ := strings.Cut(line, "} ")
			if _, err := fmt.Sscan(value, &used); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Logf("%d of 100 pods used the result of the pod before", used)
	if used < 50 {
		t.Errorf("%d of 100 equal pods were batched, want at least half", used)
	}
}

// behindProxy puts a proxy between the API server and the scheduler that is started next; the function sees every answer
// before the scheduler does.
func (c *cluster) behindProxy(name string, see func(*http.Response)) {
	c.t.Helper()
	direct := c.cp.ConfigFor(playground.SchedulerUser)
	transport, err := rest.TransportFor(direct)
	if err != nil {
		c.t.Fatal(err)
	}
	target, err := url.Parse(direct.Host)
	if err != nil {
		c.t.Fatal(err)
	}
	server := httptest.NewServer(&httputil.ReverseProxy{
		Rewrite:       func(r *httputil.ProxyRequest) { r.SetURL(target) },
		Transport:     transport,
		FlushInterval: -1, // watches
		ModifyResponse: func(r *http.Response) error {
			see(r)
			return nil
		},
		ErrorLog: log.New(io.Discard, "", 0),
	})
	c.t.Cleanup(server.Close)
	c.t.Cleanup(server.CloseClientConnections) // first: Close waits for the watches
	kubeconfig, err := clientcmd.LoadFromFile(c.options.Kubeconfig)
	if err != nil {
		c.t.Fatal(err)
	}
	for _, cl := range kubeconfig.Clusters {
		cl.Server, cl.CertificateAuthorityData = server.URL, nil
	}
	c.options.Kubeconfig = filepath.Join(c.cp.Dir(), name+".kubeconfig")
	if err := clientcmd.WriteToFile(*kubeconfig, c.options.Kubeconfig); err != nil {
		c.t.Fatal(err)
	}
	c.options.Config = c.schedulerConfig(c.options.Kubeconfig)
}

// TestAStandbyWritesNothing: of two schedulers one leads; the other only looks, until the first is gone.
func TestAStandbyWritesNothing(t *testing.T) {
	c := startCluster(t, "h100=1")
	fast := []string{"--leader-elect=true", "--leader-elect-lease-duration=4s", "--leader-elect-renew-deadline=3s", "--leader-elect-retry-period=1s"}
	c.options.Args, c.options.Name = fast, "leader"
	c.startScheduler()
	c.create(playground.Pod{Name: "one", GPUs: 1}.Object())
	c.bound("one")

	var mu sync.Mutex
	var writes []string
	standby := *c
	standby.options.Name = "standby"
	standby.behindProxy("standby", func(r *http.Response) {
		if r.Request.Method != http.MethodGet {
			mu.Lock()
			defer mu.Unlock()
			writes = append(writes, r.Request.Method+" "+r.Request.URL.Path)
		}
	})
	standby.scheduler = nil
	standby.startScheduler()
	for i := range 4 {
		name := fmt.Sprintf("more-%d", i)
		c.create(playground.Pod{Name: name, Percent: 60}.Object())
		c.bound(name)
	}
	c.create(playground.Pod{Name: "never", GPUs: 8}.Object())
	c.refused("never", "InsufficientGPU")
	mu.Lock()
	if len(writes) > 0 {
		t.Errorf("the standby wrote: %v", writes)
	}
	mu.Unlock()
	leases := c.client.CoordinationV1().Leases("weft-system")
	before, err := leases.Get(t.Context(), "weft-scheduler", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	c.scheduler.Kill()
	c.create(playground.Pod{Name: "after", GPUs: 1}.Object())
	c.bound("after")
	after, err := leases.Get(t.Context(), "weft-scheduler", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if *before.Spec.HolderIdentity == *after.Spec.HolderIdentity {
		t.Errorf("the lease is still held by %s", *after.Spec.HolderIdentity)
	}
}

// TestLostAnswersOfBindings puts a proxy between scheduler and API server that lets every third Binding through and then
// breaks the connection instead of passing on the answer. Nothing may be given twice, and every pod must be bound in the end.
func TestLostAnswersOfBindings(t *testing.T) {
	const nodes = "h100=2,a100-mig=1"
	c := startCluster(t, nodes)
	var lost, bindings atomic.Int64
	c.behindProxy("lossy", func(r *http.Response) {
		if strings.HasSuffix(r.Request.URL.Path, "/binding") && bindings.Add(1)%3 == 0 {
			lost.Add(1)
			panic(http.ErrAbortHandler) // closes the connection without an answer
		}
	})
	audit := newAudit(t, nodes)
	stop := audit.watch(c)
	c.startScheduler()
	for i := range 60 {
		p := playground.Pod{Name: fmt.Sprintf("pod-%d", i), Percent: 20, CPUMilli: 100}
		if i%6 == 0 {
			p.Percent, p.MIGProfile, p.MIGCount = 0, "2g.10gb", 1
		}
		c.create(p.Object())
	}
	eventually(t, 90*time.Second, func() string {
		for _, p := range c.pods() {
			if p.Spec.NodeName == "" {
				return p.Name + " is not bound: " + condition(&p)
			}
		}
		return ""
	})
	stop()
	t.Logf("%d of %d answers were lost", lost.Load(), bindings.Load())
	if lost.Load() < 10 {
		t.Error("too few answers were lost for the test to mean anything")
	}
}
