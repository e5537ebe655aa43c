package integration

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	watchtools "k8s.io/client-go/tools/watch"

	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/playground"
	"weft.sh/weft/pkg/podspec"
)

const (
	chaosPods  = 2000
	chaosKills = 10
)

// TestNothingIsGivenTwiceWhileTheSchedulerIsKilled creates 2,000 random pods and deletes most of them again while the
// scheduler is killed ten times. A watch of all pods checks after every single write that no GPU is over 100 percent and
// no two MIG instances overlap. In the end the state that the last scheduler rebuilt must be the one that the API objects
// say, and every GPU must be there to be given again.
func TestNothingIsGivenTwiceWhileTheSchedulerIsKilled(t *testing.T) {
	const nodes = "a100-mig=3,h100=2,h100-mig=1,l4=4,t4-labels=1"
	c := startCluster(t, nodes)
	c.startScheduler()

	audit := newAudit(t, nodes)
	stop := audit.watch(c)

	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	var alive []string
	for i := range chaosPods {
		name := fmt.Sprintf("pod-%04d", i)
		c.create(randomPod(r, name).Object())
		alive = append(alive, name)
		// Enough stay to keep the cluster nearly full, with some that have to wait.
		for len(alive) > 150 || len(alive) > 0 && r.IntN(10) == 0 {
			k := r.IntN(len(alive))
			c.delete(alive[k])
			alive = slices.Delete(alive, k, k+1)
		}
		if i%(chaosPods/chaosKills) == chaosPods/chaosKills/2 {
			c.scheduler.Kill() // in the middle of whatever it is doing
			c.startScheduler()
		}
	}
	c.settle()

	// Once more, with nothing going on: what the new scheduler knows can only come from the API.
	c.scheduler.Kill()
	c.startScheduler()
	var got map[string]int64
	eventually(t, 30*time.Second, func() string {
		got = c.schedulerState()
		return cmp.Diff(audit.expected(c.pods()), got)
	})
	t.Logf("%d pods bound, %d held GPUs in the end; %d series agree", audit.bound, len(audit.holders()), len(got))
	stop()
	if audit.bound < chaosPods/4 {
		t.Errorf("only %d pods were bound: the test did not exercise what it is for", audit.bound)
	}

	// Every GPU must be there to be given again: nothing leaked.
	for _, p := range c.pods() {
		c.delete(p.Name)
	}
	eventually(t, 30*time.Second, func() string {
		if n := len(c.pods()); n > 0 {
			return fmt.Sprintf("%d pods are not gone", n)
		}
		return ""
	})
	all, err := playground.ParseNodes(nodes)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range all {
		p := playground.Pod{Name: "all-of-" + n.Name, CPUMilli: 100, MemoryMiB: 100}
		for _, d := range n.Devices {
			if !d.MIG {
				p.GPUs++
			}
		}
		o := p.Object()
		o.Spec.NodeSelector = map[string]string{corev1.LabelHostname: n.Name}
		if p.GPUs == 0 {
			o.Spec.Containers[0].Resources.Limits[corev1.ResourceName(podspec.MIGResource("1g.10gb"))] = *quantity(7 * int64(len(n.Devices)))
		}
		c.create(o)
	}
	eventually(t, 30*time.Second, func() string {
		for _, p := range c.pods() {
			if p.Spec.NodeName == "" {
				return p.Name + " is not bound: " + condition(&p)
			}
		}
		return ""
	})
}

// randomPod asks for GPUs in a random way that some node of the test could satisfy.
func randomPod(r *rand.Rand, name string) playground.Pod {
	p := playground.Pod{Name: name, CPUMilli: 100 + 100*r.Int64N(10), MemoryMiB: 256}
	pick := func(s ...string) string { return s[r.IntN(len(s))] }
	switch r.IntN(10) {
	case 0, 1:
		p.GPUs = 1 + r.Int64N(4)
	case 2:
		p.Percent, p.Count = 10*(1+r.Int64N(10)), 2+r.Int64N(2)
	case 3:
		p.Percent, p.GPUMemory = 5+r.Int64N(50), pick("2Gi", "9Gi", "20Gi")
	case 4, 5, 6:
		p.MIGProfile, p.MIGCount = pick("1g.5gb", "1g.10gb", "2g.10gb", "3g.20gb", "3g.40gb", "4g.20gb", "7g.80gb"), 1+r.Int64N(2)
	case 7:
		p.Percent, p.Products = 1+r.Int64N(100), []string{"NVIDIA-L4"}
	default:
		p.Percent = 1 + r.Int64N(100)
	}
	return p
}

func (c *cluster) delete(name string) {
	c.t.Helper()
	err := c.client.CoreV1().Pods(metav1.NamespaceDefault).Delete(c.t.Context(), name, metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		c.t.Fatal(err)
	}
}

// settle waits until the scheduler has had its say about every pod: bound, or a reason.
func (c *cluster) settle() {
	c.t.Helper()
	eventually(c.t, 2*time.Minute, func() string {
		for _, p := range c.pods() {
			if p.DeletionTimestamp != nil || p.Spec.NodeName == "" && condition(&p) == "" {
				return p.Name + " is neither bound nor refused"
			}
		}
		return ""
	})
}

// schedulerState is what the running scheduler holds true, from its metrics: per GPU the compute and memory that pods
// hold, and every MIG instance held. Zero values are left out.
func (c *cluster) schedulerState() map[string]int64 {
	c.t.Helper()
	state := map[string]int64{}
	for line := range c.metrics() {
		for _, prefix := range []string{"weft_gpu_assigned_milligpu{", "weft_gpu_assigned_memory_mebibytes{", "weft_mig_instance_assigned{", "weft_gpu_conflicts{", "weft_gpus_withheld{"} {
			if strings.HasPrefix(line, prefix) {
				name, value, _ := strings.Cut(line, "} ")
				var v float64
				if _, err := fmt.Sscan(value, &v); err != nil {
					c.t.Fatalf("metric %q: %v", line, err)
				}
				if v != 0 {
					state[name+"}"] = int64(v)
				}
			}
		}
	}
	return state
}

// metrics are the lines of the scheduler's /metrics.
func (c *cluster) metrics() func(yield func(string) bool) {
	c.t.Helper()
	cfg := rest.CopyConfig(c.cfg)
	cfg.Host = "https://" + c.scheduler.Address()
	cfg.TLSClientConfig = rest.TLSClientConfig{Insecure: true} // made at start, kept in memory
	client, err := rest.HTTPClientFor(cfg)
	if err != nil {
		c.t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(c.t.Context(), http.MethodGet, cfg.Host+"/metrics", nil)
	if err != nil {
		c.t.Fatal(err)
	}
	resp, err := client.Do(req)
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	var body bytes.Buffer
	if _, err := body.ReadFrom(resp.Body); err != nil || resp.StatusCode != http.StatusOK {
		c.t.Fatalf("GET /metrics: %s, %v: %s", resp.Status, err, body.String())
	}
	return func(yield func(string) bool) {
		lines := bufio.NewScanner(&body)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			if !yield(lines.Text()) {
				return
			}
		}
	}
}

// audit adds up what pods hold from nothing but pods and the list of nodes: no code of the scheduler but the reader of
// the annotation.
type audit struct {
	t       *testing.T
	devices map[string]map[gpu.ID]gpu.Device // by node

	mu    sync.Mutex
	held  map[string]*corev1.Pod // by UID: bound and not ended
	bound int
}

func newAudit(t *testing.T, nodes string) *audit {
	t.Helper()
	list, err := playground.ParseNodes(nodes)
	if err != nil {
		t.Fatal(err)
	}
	a := &audit{t: t, devices: map[string]map[gpu.ID]gpu.Device{}, held: map[string]*corev1.Pod{}}
	for _, n := range list {
		a.devices[n.Name] = map[gpu.ID]gpu.Device{}
		for _, d := range n.Devices {
			if n.LabelsOnly {
				d.ID = gpu.ID(fmt.Sprintf("gpu-%d", d.Index))
			}
			a.devices[n.Name][d.ID] = d
		}
	}
	return a
}

// watch follows every write to a pod until stop is called, which checks that the watch saw it all.
func (a *audit) watch(c *cluster) (stop func()) {
	ctx, cancel := context.WithCancel(a.t.Context())
	list, err := c.client.CoreV1().Pods("").List(ctx, metav1.ListOptions{})
	if err != nil {
		a.t.Fatal(err)
	}
	// A busy API server ends watches that fall behind; this one goes on where it was.
	w, err := watchtools.NewRetryWatcherWithContext(ctx, list.ResourceVersion, &cache.ListWatch{
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			return c.client.CoreV1().Pods("").Watch(ctx, o)
		},
	})
	if err != nil {
		a.t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for e := range w.ResultChan() {
			if p, ok := e.Object.(*corev1.Pod); ok {
				a.see(e.Type, p)
			} else if ctx.Err() == nil {
				a.t.Errorf("watch: %v", e.Object)
			}
		}
		if ctx.Err() == nil {
			a.t.Error("the watch ended early: not every write was checked")
		}
	}()
	return func() {
		cancel()
		<-ended
	}
}

// see takes one write into account and checks the node that it concerns.
func (a *audit) see(e watch.EventType, p *corev1.Pod) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if e == watch.Deleted || !podspec.Bound(p) {
		delete(a.held, string(p.UID))
		return
	}
	if a.held[string(p.UID)] != nil {
		return
	}
	a.held[string(p.UID)] = p
	a.bound++
	if p.Annotations[podspec.AnnotationGPUs] == "" {
		a.t.Errorf("pod %s is bound to %s without an assignment", p.Name, p.Spec.NodeName)
	}
	for _, problem := range a.check(p.Spec.NodeName) {
		a.t.Errorf("when %s was bound: %s", p.Name, problem)
	}
}

func (a *audit) holders() []*corev1.Pod {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Collect(maps.Values(a.held))
}

// check lists what is wrong on the node.
func (a *audit) check(node string) (problems []string) {
	type use struct {
		whole, milli, memory int64
		slices               map[int]string
		holders              []string
	}
	uses := map[gpu.ID]*use{}
	for _, p := range a.held {
		if p.Spec.NodeName != node {
			continue
		}
		assignment, err := gpu.ParseAssignment(p.Annotations[podspec.AnnotationGPUs])
		if err != nil {
			problems = append(problems, err.Error())
		}
		for _, c := range assignment.Containers {
			for _, g := range c.Grants {
				u := uses[g.GPU]
				if u == nil {
					u = &use{slices: map[int]string{}}
					uses[g.GPU] = u
				}
				u.holders = append(u.holders, p.Name)
				u.milli += g.MilliGPU
				u.memory += g.MemoryMiB
				if g.Kind() == gpu.Whole {
					u.whole++
				}
				if g.Instance == nil {
					continue
				}
				for s := g.Instance.Start; s < g.Instance.Start+g.Instance.Size; s++ {
					if other := u.slices[s]; other != "" {
						problems = append(problems, fmt.Sprintf("%s and %s overlap on slice %d of %s/%s", p.Name, other, s, node, g.GPU))
					}
					u.slices[s] = p.Name
				}
			}
		}
	}
	for id, u := range uses {
		d, ok := a.devices[node][id]
		ways := 0
		for _, n := range []int{int(u.whole), int(u.milli), len(u.slices)} {
			if n > 0 {
				ways++
			}
		}
		if !ok || ways > 1 || u.whole > 1 || u.milli > gpu.WholeMilliGPU || u.memory > d.MemoryMiB || d.MIG != (len(u.slices) > 0) {
			problems = append(problems, fmt.Sprintf("%s/%s: whole %d, %d milli-GPU, %d MiB of %d, %d slices, by %v",
				node, id, u.whole, u.milli, u.memory, d.MemoryMiB, len(u.slices), u.holders))
		}
	}
	return problems
}

// expected is schedulerState computed from the pods alone.
func (a *audit) expected(pods []corev1.Pod) map[string]int64 {
	state := map[string]int64{}
	for i := range pods {
		p := &pods[i]
		if !podspec.Bound(p) {
			continue
		}
		assignment, err := gpu.ParseAssignment(p.Annotations[podspec.AnnotationGPUs])
		if err != nil {
			a.t.Error(err)
		}
		for _, c := range assignment.Containers {
			for _, g := range c.Grants {
				d := a.devices[p.Spec.NodeName][g.GPU]
				labels := fmt.Sprintf(`{gpu=%q,node=%q,product=%q}`, g.GPU, p.Spec.NodeName, d.Product)
				switch g.Kind() {
				case gpu.Whole:
					state["weft_gpu_assigned_milligpu"+labels] += gpu.WholeMilliGPU
					state["weft_gpu_assigned_memory_mebibytes"+labels] += d.MemoryMiB
				case gpu.Shared:
					state["weft_gpu_assigned_milligpu"+labels] += g.MilliGPU
					state["weft_gpu_assigned_memory_mebibytes"+labels] += g.MemoryMiB
				case gpu.MIG:
					state["weft_gpu_assigned_milligpu"+labels] += gpu.WholeMilliGPU * int64(g.Instance.Size) / 8
					state[fmt.Sprintf(`weft_mig_instance_assigned{gpu=%q,node=%q,profile=%q,start="%d"}`,
						g.GPU, p.Spec.NodeName, g.Instance.Profile, g.Instance.Start)] = 1
				}
			}
		}
	}
	return state
}
