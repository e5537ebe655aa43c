package perf

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	kruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"weft.sh/weft/manifests"
	"weft.sh/weft/pkg/playground"
	"weft.sh/weft/pkg/podgroup"
)

// nodesPerRack is how many nodes have the same label of a rack.
const nodesPerRack = 16

// gangCluster is a control plane that serves both kinds of PodGroup, with the shipped manifests and KWOK's nodes.
type gangCluster struct {
	b          *testing.B
	nodes      int
	audit      *auditLog
	cp         *playground.ControlPlane
	kwok       *playground.Process
	client     kubernetes.Interface
	dynamic    dynamic.Interface
	objects    []*unstructured.Unstructured
	kubeconfig string
	// http may ask a scheduler for its metrics and profiles.
	http *http.Client
}

// startGangCluster starts a cluster without a scheduler, which ends with the benchmark.
func startGangCluster(b *testing.B, nodes int) *gangCluster {
	b.Helper()
	if testing.Short() {
		b.Skip("starts a kube-apiserver; not with -short")
	}
	ctx := b.Context()
	audit := newAuditLog(b)
	cp, err := playground.StartControlPlane(ctx, playground.ControlPlaneOptions{APIServerArgs: append(audit.flags(),
		"--feature-gates=GenericWorkload=true,TopologyAwareWorkloadScheduling=true",
		"--runtime-config=scheduling.k8s.io/v1beta1=true",
	)})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := cp.Stop(); err != nil {
			b.Error(err)
		}
	})
	c := &gangCluster{b: b, nodes: nodes, audit: audit, cp: cp}
	c.must(c.prepare(ctx))
	b.Cleanup(c.kwok.Stop)
	return c
}

func (c *gangCluster) must(err error) {
	c.b.Helper()
	if err != nil {
		c.b.Fatal(err)
	}
}

// prepare applies the manifests and creates the nodes.
func (c *gangCluster) prepare(ctx context.Context) (err error) {
	admin := c.cp.AdminConfig()
	if c.dynamic, err = dynamic.NewForConfig(admin); err != nil {
		return err
	}
	typed := rest.CopyConfig(admin)
	typed.ContentType = kruntime.ContentTypeProtobuf
	if c.client, err = kubernetes.NewForConfig(typed); err != nil {
		return err
	}
	scheduler := rest.CopyConfig(admin)
	scheduler.TLSClientConfig = rest.TLSClientConfig{Insecure: true} // its certificate is made at start and kept in memory
	if c.http, err = rest.HTTPClientFor(scheduler); err != nil {
		return err
	}
	if c.objects, err = playground.Render(manifests.FS, ""); err != nil {
		return err
	}
	if err := playground.Apply(ctx, admin, c.objects); err != nil {
		return err
	}
	// The rights of weft-scheduler are enough for the in-tree one.
	if c.kubeconfig, err = c.cp.Kubeconfig(playground.SchedulerUser); err != nil {
		return err
	}
	if c.kwok, err = playground.StartKWOK(ctx, c.cp); err != nil {
		return err
	}
	nodes, err := playground.ParseNodes(fmt.Sprintf("h100=%d", c.nodes))
	if err != nil {
		return err
	}
	c.inParallel(ctx, len(nodes), func(ctx context.Context, i int) error {
		o := nodes[i].Object()
		o.Labels[corev1.LabelTopologyZone] = "zone-0"
		o.Labels["topology.kubernetes.io/rack"] = fmt.Sprintf("rack-%d", i/nodesPerRack)
		created, err := c.client.CoreV1().Nodes().Create(ctx, o, metav1.CreateOptions{})
		if err != nil {
			return err
		}
		for _, s := range nodes[i].Slices(created) {
			if _, err := c.client.ResourceV1().ResourceSlices().Create(ctx, s, metav1.CreateOptions{}); err != nil {
				return err
			}
		}
		return nil
	})
	return playground.WaitNodesReady(ctx, admin, c.nodes, playground.NewProgress(io.Discard))
}

func nodeName(i int) string { return fmt.Sprintf("h100-%d", i) }

// inParallel calls do for 0 to n-1.
func (c *gangCluster) inParallel(ctx context.Context, n int, do func(ctx context.Context, i int) error) {
	c.b.Helper()
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(32)
	for i := range n {
		g.Go(func() error { return do(ctx, i) })
	}
	c.must(g.Wait())
}

// clear deletes all pods and groups of the run before.
func (c *gangCluster) clear(ctx context.Context) {
	c.b.Helper()
	now, all := metav1.DeleteOptions{GracePeriodSeconds: new(int64)}, metav1.ListOptions{}
	pods := c.client.CoreV1().Pods(metav1.NamespaceDefault)
	c.must(pods.DeleteCollection(ctx, now, all))
	c.must(c.client.SchedulingV1beta1().PodGroups(metav1.NamespaceDefault).DeleteCollection(ctx, now, all))
	c.must(c.dynamic.Resource(podgroup.Resource).Namespace(metav1.NamespaceDefault).DeleteCollection(ctx, now, all))
	c.must(wait.PollUntilContextTimeout(ctx, 100*time.Millisecond, patience, true, func(ctx context.Context) (bool, error) {
		list, err := pods.List(ctx, metav1.ListOptions{Limit: 1})
		return err == nil && len(list.Items) == 0, err
	}))
}

// startScheduler starts the competitor's scheduler with the limit on requests that playground.SchedulerConfig sets for all.
func (c *gangCluster) startScheduler(ctx context.Context, p competitor) *playground.Process {
	c.b.Helper()
	var args []string
	config, err := playground.SchedulerConfig(c.objects, c.kubeconfig, false)
	if p.gates != "" {
		args = append(args, "--feature-gates="+p.gates)
		config = fmt.Appendf(nil, `apiVersion: kubescheduler.config.k8s.io/v1
kind: KubeSchedulerConfiguration
clientConnection: {kubeconfig: %q, qps: 5000, burst: 5000}
leaderElection: {leaderElect: false}
`, c.kubeconfig)
	}
	c.must(err)
	file := filepath.Join(c.cp.Dir(), p.name+".yaml")
	c.must(os.WriteFile(file, config, 0o600))
	s, err := playground.StartScheduler(ctx, playground.SchedulerOptions{
		Kubeconfig: c.kubeconfig, Config: file, Name: p.name, Args: args,
	})
	c.must(err)
	return s
}

// tail is the end of the scheduler's log; s is nil where there is none.
func (c *gangCluster) tail(s *playground.Process) func() string {
	if s == nil {
		return nil
	}
	return func() string {
		data, err := os.ReadFile(s.LogPath())
		if err != nil {
			return err.Error()
		}
		return string(data[max(0, len(data)-8<<10):])
	}
}

// get asks one of the servers.
func (c *gangCluster) get(ctx context.Context, s *playground.Process, path string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+s.Address()+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("GET %s: %s: %s", path, resp.Status, bytes.TrimSpace(body))
	}
	return body, err
}

// metricsText is a scrape.
type metricsText string

func (c *gangCluster) metrics(ctx context.Context, s *playground.Process) metricsText {
	c.b.Helper()
	text, err := c.get(ctx, s, "/metrics")
	c.must(err)
	return metricsText(text)
}

// sum adds up the series whose line begins so.
func (m metricsText) sum(prefix string) float64 {
	var sum float64
	for line := range strings.Lines(string(m)) {
		if strings.HasPrefix(line, prefix) {
			v, _ := strconv.ParseFloat(strings.TrimSpace(line[strings.LastIndexByte(line, ' ')+1:]), 64)
			sum += v
		}
	}
	return sum
}

// pauseKubelets stops KWOK, unless it is to go on; what it returns has it go on.
func (c *gangCluster) pauseKubelets() (resume func()) {
	c.b.Helper()
	if *gangKubelets {
		return func() {}
	}
	kwok, err := os.FindProcess(c.kwok.PID())
	c.must(err)
	c.must(kwok.Signal(syscall.SIGSTOP))
	resumed := false
	resume = func() {
		if !resumed {
			resumed = true
			c.must(kwok.Signal(syscall.SIGCONT))
		}
	}
	return resume
}

// profile starts profiles of 5 seconds of the scheduler and the API server if they are wanted; what it returns waits for their
// end and writes them.
func (c *gangCluster) profile(ctx context.Context, s *playground.Process, name string) func(metricsText) {
	if *gangProfile == "" || s == nil {
		return func(metricsText) {}
	}
	c.must(os.MkdirAll(*gangProfile, 0o755))
	file := func(suffix string) string { return filepath.Join(*gangProfile, name+suffix) }
	var g errgroup.Group
	for suffix, server := range map[string]*playground.Process{".pprof": s, ".api.pprof": c.cp.APIServer()} {
		g.Go(func() error {
			data, err := c.get(ctx, server, "/debug/pprof/profile?seconds=5")
			if err != nil {
				return err
			}
			return os.WriteFile(file(suffix), data, 0o644)
		})
	}
	return func(m metricsText) {
		c.b.Helper()
		c.must(os.WriteFile(file(".metrics"), []byte(m), 0o644))
		c.must(g.Wait())
	}
}

// cpuMillis is the time on a CPU of the processes until now, s being the scheduler if there is one. Where there is no /proc, it is 0.
func (c *gangCluster) cpuMillis(s *playground.Process) map[string]float64 {
	all := map[string]float64{}
	pids := map[string]int{
		"api-server": c.cp.APIServer().PID(), "etcd": c.cp.Etcd().PID(), "kwok": c.kwok.PID(), "benchmark": os.Getpid(),
	}
	if s != nil {
		pids["scheduler"] = s.PID()
	}
	for name, pid := range pids {
		data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		// The name, in parentheses, may hold anything. Fields 14 and 15 are user and system time in hundredths of a second.
		fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
		if len(fields) > 12 {
			user, _ := strconv.ParseFloat(fields[11], 64)
			system, _ := strconv.ParseFloat(fields[12], 64)
			all[name] = 10 * (user + system)
		}
	}
	return all
}

// load is the machine's load of one minute, 0 where there is no /proc.
func load() float64 {
	var v float64
	data, _ := os.ReadFile("/proc/loadavg")
	_, _ = fmt.Sscan(string(data), &v)
	return v
}

func cpus() int { return runtime.NumCPU() }
