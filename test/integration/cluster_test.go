package integration

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"weft.sh/weft/manifests"
	"weft.sh/weft/pkg/playground"
)

// cluster is a control plane with the shipped manifests, simulated nodes and the real scheduler, for one test.
type cluster struct {
	t         *testing.T
	cp        *playground.ControlPlane
	cfg       *rest.Config
	client    kubernetes.Interface
	options   playground.SchedulerOptions
	scheduler *playground.Process
}

// startCluster starts a cluster with the nodes (playground.ParseNodes) and KWOK, without a scheduler. Manifests of the
// kinds named in without are left out.
func startCluster(t *testing.T, nodes string, without ...string) *cluster {
	t.Helper()
	list, err := playground.ParseNodes(nodes)
	if err != nil {
		t.Fatal(err)
	}
	return startClusterOf(t, playground.ControlPlaneOptions{}, list, without...)
}

// startClusterOf is startCluster with options for the control plane.
func startClusterOf(t *testing.T, o playground.ControlPlaneOptions, nodes []playground.Node, without ...string) *cluster {
	t.Helper()
	cp := startControlPlane(t, o)
	c := &cluster{t: t, cp: cp, cfg: cp.AdminConfig()}
	c.cfg.QPS, c.cfg.Burst = 5000, 5000
	client, err := kubernetes.NewForConfig(c.cfg)
	if err != nil {
		t.Fatal(err)
	}
	c.client = client

	objects, err := playground.Render(manifests.FS, "")
	if err != nil {
		t.Fatal(err)
	}
	objects = slices.DeleteFunc(objects, func(o *unstructured.Unstructured) bool { return slices.Contains(without, o.GetKind()) })
	if err := playground.Apply(t.Context(), c.cfg, objects); err != nil {
		t.Fatal(err)
	}
	kubeconfig, err := cp.Kubeconfig(playground.SchedulerUser)
	if err != nil {
		t.Fatal(err)
	}
	c.options = playground.SchedulerOptions{
		Binary: binary(t, "weft-scheduler"), Kubeconfig: kubeconfig, Config: c.schedulerConfig(kubeconfig),
	}

	kwok, err := playground.StartKWOK(t.Context(), cp)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(kwok.Stop)
	for _, n := range nodes {
		c.createNode(n)
	}
	return c
}

// schedulerConfig writes the shipped configuration for a scheduler with that kubeconfig, without leader election.
func (c *cluster) schedulerConfig(kubeconfig string) (file string) {
	c.t.Helper()
	objects, err := playground.Render(manifests.FS, "")
	if err != nil {
		c.t.Fatal(err)
	}
	config, err := playground.SchedulerConfig(objects, kubeconfig, false)
	if err != nil {
		c.t.Fatal(err)
	}
	file = strings.TrimSuffix(kubeconfig, filepath.Ext(kubeconfig)) + ".yaml"
	if err := os.WriteFile(file, config, 0o600); err != nil {
		c.t.Fatal(err)
	}
	return file
}

func (c *cluster) createNode(n playground.Node) {
	c.t.Helper()
	created, err := c.client.CoreV1().Nodes().Create(c.t.Context(), n.Object(), metav1.CreateOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	for _, s := range n.Slices(created) {
		if _, err := c.client.ResourceV1().ResourceSlices().Create(c.t.Context(), s, metav1.CreateOptions{}); err != nil {
			c.t.Fatal(err)
		}
	}
}

// startScheduler starts the scheduler, or another one after kill.
func (c *cluster) startScheduler() {
	c.t.Helper()
	p, err := playground.StartScheduler(c.t.Context(), c.options)
	if err != nil {
		c.t.Fatal(err)
	}
	if c.scheduler == nil {
		c.t.Cleanup(func() {
			c.scheduler.Kill()
			if c.t.Failed() {
				c.t.Logf("the scheduler's log:\n%s", tail(c.scheduler.LogPath(), 16<<10))
			}
		})
	}
	c.scheduler = p
}

func tail(path string, n int) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return string(data[max(0, len(data)-n):])
}

// pods are all pods in the namespace default.
func (c *cluster) pods() []corev1.Pod {
	c.t.Helper()
	list, err := c.client.CoreV1().Pods(metav1.NamespaceDefault).List(c.t.Context(), metav1.ListOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	return list.Items
}

func (c *cluster) create(p *corev1.Pod) *corev1.Pod {
	c.t.Helper()
	created, err := c.client.CoreV1().Pods(metav1.NamespaceDefault).Create(c.t.Context(), p, metav1.CreateOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	return created
}

func (c *cluster) pod(name string) *corev1.Pod {
	c.t.Helper()
	p, err := c.client.CoreV1().Pods(metav1.NamespaceDefault).Get(c.t.Context(), name, metav1.GetOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	return p
}

// eventually waits until the condition holds; it returns "" for that, else what is still missing.
func eventually(t *testing.T, within time.Duration, condition func() string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		missing := condition()
		if missing == "" {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("after %v: %s", within, missing)
		case <-tick.C:
		}
	}
}

// condition is the message of the pod's PodScheduled condition, "" while there is none.
func condition(p *corev1.Pod) string {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodScheduled {
			return c.Message
		}
	}
	return ""
}

func quantity(n int64) *resource.Quantity { return resource.NewQuantity(n, resource.DecimalSI) }
