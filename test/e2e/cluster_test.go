//go:build linux

package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"weft.sh/weft/manifests"
	"weft.sh/weft/pkg/playground"
)

// cluster is a control plane, weft-scheduler and one node. All tests share one.
type cluster struct {
	cp        *playground.ControlPlane
	client    kubernetes.Interface
	options   playground.SchedulerOptions
	scheduler *playground.Process
	node
	// steps says what was started and after how long.
	steps strings.Builder
}

var shared = sync.OnceValues(startCluster)

// startCluster starts everything and returns when the node is ready. Nothing stops it but the end of process 1.
func startCluster() (*cluster, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	c := &cluster{}
	begin := time.Now()
	step := func(what string) { fmt.Fprintf(&c.steps, "%5.1fs %s\n", time.Since(begin).Seconds(), what) }
	var err error
	c.cp, err = playground.StartControlPlane(ctx, playground.ControlPlaneOptions{
		Dir: runDir + "/control-plane",
		APIServerArgs: []string{
			// A kubelet may touch its own node and pods only, as in a cluster.
			"--authorization-mode=Node", "--enable-admission-plugins=NodeRestriction",
			"--kubelet-preferred-address-types=InternalIP",
		},
	})
	if err != nil {
		return c, err
	}
	step("control plane")
	if c.client, err = kubernetes.NewForConfig(c.cp.AdminConfig()); err != nil {
		return c, err
	}
	objects, err := playground.Render(manifests.FS, "")
	if err != nil {
		return c, err
	}
	if err := playground.Apply(ctx, c.cp.AdminConfig(), objects); err != nil {
		return c, err
	}
	step("manifests")
	if c.options.Kubeconfig, err = c.cp.Kubeconfig(playground.SchedulerUser); err != nil {
		return c, err
	}
	config, err := playground.SchedulerConfig(objects, c.options.Kubeconfig, false)
	if err != nil {
		return c, err
	}
	c.options.Config = filepath.Join(c.cp.Dir(), "scheduler.yaml")
	if err := os.WriteFile(c.options.Config, config, 0o600); err != nil {
		return c, err
	}
	if err := prepareNode(c.cp); err != nil {
		return c, err
	}
	if err := c.startContainerd(ctx); err != nil {
		return c, err
	}
	if err := c.importImages(ctx); err != nil {
		return c, err
	}
	step("containerd")
	if err := c.startKubelet(ctx); err != nil {
		return c, err
	}
	step("kubelet")
	if err := c.startScheduler(ctx); err != nil {
		return c, err
	}
	step("scheduler")
	if err := c.poll(ctx, func() string { return c.notReady(ctx) }); err != nil {
		return c, err
	}
	step("node ready")
	return c, nil
}

// startScheduler starts weft-scheduler, or another one after its end.
func (c *cluster) startScheduler(ctx context.Context) (err error) {
	c.scheduler, err = playground.StartScheduler(ctx, c.options)
	return err
}

// notReady says why the node is not ready, "" when it is.
func (c *cluster) notReady(ctx context.Context) string {
	n, err := c.client.CoreV1().Nodes().Get(ctx, nodeName, metav1.GetOptions{})
	if err != nil {
		return err.Error()
	}
	for _, condition := range n.Status.Conditions {
		if condition.Type == corev1.NodeReady {
			if condition.Status == corev1.ConditionTrue {
				return ""
			}
			return "the node is not ready: " + condition.Message
		}
	}
	return "the node has no status yet"
}

// env is the cluster as one test sees it.
type env struct {
	*cluster
	t *testing.T
	// pods are what the test created, by name.
	pods map[string]*corev1.Pod
	// instances are the MIG instances that containers had, by the GPU instances whose capabilities they had.
	instances map[string]string
}

// start returns the cluster, with all components running and no pods. What the test creates and starts ends with it, in
// the opposite order; when it failed, it shows the ends of the logs.
func start(t *testing.T) *env {
	t.Helper()
	if os.Getenv(envBin) == "" {
		t.Skipf("%s is not set: this needs real containers, which hack/e2e.sh (make e2e) prepares", envBin)
	}
	c, err := shared()
	e := &env{cluster: c, t: t, pods: map[string]*corev1.Pod{}}
	t.Cleanup(func() {
		if t.Failed() {
			e.showLogs()
		}
	})
	if err == nil {
		err = c.revive(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// revive starts what an earlier test, which then failed, has left ended.
func (c *cluster) revive(ctx context.Context) (err error) {
	if ended(c.containerd.done) {
		err = c.startContainerd(ctx)
	}
	if err == nil && ended(c.kubelet.done) {
		err = c.startKubelet(ctx)
	}
	if err == nil && ended(c.scheduler.Done()) {
		err = c.startScheduler(ctx)
	}
	return err
}

func ended(done <-chan struct{}) bool {
	select {
	case <-done:
		return true
	default:
		return false
	}
}

// run starts a binary that hack/e2e.sh built, on the node, until the test ends it or ends. Its log is name.log.
func (e *env) run(name string, args ...string) *process {
	e.t.Helper()
	p, err := startProcess(name, bin(name), args...)
	if err != nil {
		e.t.Fatal(err)
	}
	e.t.Cleanup(p.stop)
	return p
}

// must fails the test when there is an error.
func (e *env) must(err error) {
	e.t.Helper()
	if err != nil {
		e.t.Fatal(err)
	}
}

func (e *env) showLogs() {
	e.t.Logf("the start of the cluster:\n%s", &e.steps)
	logs, err := filepath.Glob(nodeDir + "/*.log")
	if err != nil {
		e.t.Error(err)
	}
	if e.scheduler != nil {
		logs = append(logs, e.scheduler.LogPath())
	}
	for _, log := range logs {
		data, err := os.ReadFile(log)
		if err != nil {
			e.t.Error(err)
		}
		e.t.Logf("the end of %s:\n%s", filepath.Base(log), data[max(0, len(data)-4<<10):])
	}
}
