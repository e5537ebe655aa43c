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
	if err := c.startContainerd(); err != nil {
		return c, err
	}
	if err := c.importImages(ctx); err != nil {
		return c, err
	}
	step("containerd")
	if err := c.startKubelet(); err != nil {
		return c, err
	}
	if c.scheduler, err = playground.StartScheduler(ctx, c.options); err != nil {
		return c, err
	}
	step("scheduler")
	err = poll(ctx, func() string { return c.notReady(ctx) })
	step("node ready")
	return c, err
}

// notReady says why the node is not ready, "" when it is.
func (c *cluster) notReady(ctx context.Context) string {
	if f := c.kubelet.failed(); f != "" {
		return f
	}
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

// poll waits until the condition holds; it returns "" for that, else what is still missing.
func poll(ctx context.Context, condition func() (missing string)) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		missing := condition()
		if missing == "" {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("gave up: %s", missing)
		case <-tick.C:
		}
	}
}

// env is the cluster as one test sees it.
type env struct {
	*cluster
	t *testing.T
	// pods are what the test created.
	pods []*corev1.Pod
}

// start returns the cluster without pods; at the test's end its pods are removed, and the logs shown if it failed.
func start(t *testing.T) *env {
	t.Helper()
	if os.Getenv(envBin) == "" {
		t.Skipf("%s is not set: this needs real containers, which hack/e2e.sh (make e2e) prepares", envBin)
	}
	c, err := shared()
	e := &env{cluster: c, t: t}
	t.Cleanup(e.finish)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func (e *env) finish() {
	var names []string
	for _, p := range e.pods {
		names = append(names, p.Name)
	}
	e.remove(names...)
	if e.t.Failed() {
		e.t.Logf("the start of the cluster:\n%s", &e.steps)
		for _, name := range []string{"kubelet", "containerd"} {
			e.t.Logf("the end of the log of %s:\n%s", name, tail(logPath(name)))
		}
	}
}

// tail is the end of a file.
func tail(file string) string {
	data, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	return string(data[max(0, len(data)-16<<10):])
}
