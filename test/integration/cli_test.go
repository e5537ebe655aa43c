package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/kubernetes"

	"weft.sh/weft/pkg/cli"
	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/inventory"
	"weft.sh/weft/pkg/mig"
	"weft.sh/weft/pkg/playground"
	"weft.sh/weft/pkg/podspec"
)

// commandLine runs the command weft against one cluster.
type commandLine struct {
	t          *testing.T
	cp         *playground.ControlPlane
	client     kubernetes.Interface
	kubeconfig string
}

func newCommandLine(t *testing.T, args ...string) *commandLine {
	cp := startControlPlane(t, playground.ControlPlaneOptions{APIServerArgs: args})
	c := &commandLine{t: t, cp: cp, client: clientset(t, cp.AdminConfig())}
	c.kubeconfig = c.as(playground.AdminUser)
	return c
}

// in is the same for a subtest.
func (c *commandLine) in(t *testing.T) *commandLine {
	sub := *c
	sub.t = t
	return &sub
}

// as is a kubeconfig for the user.
func (c *commandLine) as(user string) string {
	c.t.Helper()
	path, err := c.cp.Kubeconfig(user)
	if err != nil {
		c.t.Fatal(err)
	}
	return path
}

// try runs weft and returns what it printed.
func (c *commandLine) try(kubeconfig string, args ...string) (string, error) {
	c.t.Helper()
	streams, _, out, errOut := genericiooptions.NewTestIOStreams()
	cmd := cli.NewCommand("weft", streams)
	cmd.SetArgs(append([]string{"--kubeconfig", kubeconfig}, args...))
	err := cmd.ExecuteContext(c.t.Context())
	if errOut.Len() > 0 && !strings.HasPrefix(args[0], "__complete") {
		c.t.Errorf("weft %v said on the standard error: %s", args, errOut)
	}
	return out.String(), cli.Advise(err)
}

// run is try for the admin and a command that must work.
func (c *commandLine) run(args ...string) string {
	c.t.Helper()
	out, err := c.try(c.kubeconfig, args...)
	if err != nil {
		c.t.Fatalf("weft %v: %v", args, err)
	}
	return out
}

func (c *commandLine) node(name string, labels map[string]string, devices ...gpu.Device) {
	c.t.Helper()
	capacity := corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse("64"), corev1.ResourceMemory: resource.MustParse("512Gi"), corev1.ResourcePods: resource.MustParse("1000"),
	}
	if len(devices) > 0 {
		capacity[podspec.ResourceGPU] = *quantity(int64(len(devices)))
		capacity[podspec.ResourceGPUPercent] = *quantity(int64(100 * len(devices)))
	}
	n := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels},
		Status: corev1.NodeStatus{
			Capacity: capacity, Allocatable: capacity, Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
		},
	}
	if _, err := c.client.CoreV1().Nodes().Create(c.t.Context(), n, metav1.CreateOptions{}); err != nil {
		c.t.Fatal(err)
	}
	if len(devices) == 0 {
		return
	}
	for _, s := range inventory.Slices(name, devices, 1) {
		if _, err := c.client.ResourceV1().ResourceSlices().Create(c.t.Context(), s, metav1.CreateOptions{}); err != nil {
			c.t.Fatal(err)
		}
	}
}

// pod creates a pod in namespace ml that asks for so much of a resource, on the node with the assignment if there is one.
func (c *commandLine) pod(name string, ask corev1.ResourceName, amount int64, node, assignment string) *corev1.Pod {
	c.t.Helper()
	p := c.template(name, ask, amount)
	p.Spec.NodeName = node
	if assignment != "" {
		p.Annotations = map[string]string{podspec.AnnotationGPUs: assignment}
	}
	return c.create(p)
}

func (c *commandLine) template(name string, ask corev1.ResourceName, amount int64) *corev1.Pod {
	limits := corev1.ResourceList{ask: *quantity(amount)}
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ml", Name: name},
		Spec: corev1.PodSpec{
			SchedulerName: "weft",
			Containers:    []corev1.Container{{Name: "main", Image: "none", Resources: corev1.ResourceRequirements{Limits: limits, Requests: limits}}},
		},
	}
}

func (c *commandLine) create(p *corev1.Pod) *corev1.Pod {
	c.t.Helper()
	created, err := c.client.CoreV1().Pods("ml").Create(c.t.Context(), p, metav1.CreateOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	return created
}

func (c *commandLine) namespace(name string) {
	c.t.Helper()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if _, err := c.client.CoreV1().Namespaces().Create(c.t.Context(), ns, metav1.CreateOptions{}); err != nil {
		c.t.Fatal(err)
	}
}

func h100s(node string, n int) []gpu.Device {
	var out []gpu.Device
	for i := range n {
		out = append(out, gpu.Device{
			ID: gpu.ID(fmt.Sprintf("GPU-%s-%d", node, i)), Index: i, Product: "NVIDIA-H100-80GB-HBM3", MemoryMiB: 81559,
		})
	}
	return out
}

func TestCommandLine(t *testing.T) {
	c := newCommandLine(t)
	c.namespace("ml")
	c.node("gpu-1", map[string]string{"rack": "r1"}, h100s("gpu-1", 4)...)
	partitioned := h100s("gpu-2", 2)
	table, _ := mig.TableByProduct(partitioned[1].Product)
	partitioned[1].MIG, partitioned[1].Instances = true, table.Instances()
	c.node("gpu-2", map[string]string{"rack": "r2"}, partitioned...)
	c.node("old-1", map[string]string{
		podspec.LabelProduct: "Tesla-V100-SXM2-32GB", podspec.LabelCount: "2", podspec.LabelMemory: "32768",
	})
	c.node("cpu-1", nil)
	c.pod("train", podspec.ResourceGPU, 2, "gpu-1", "main=GPU-gpu-1-0,GPU-gpu-1-1")
	c.pod("notebook", podspec.ResourceGPUPercent, 25, "gpu-1", "main=GPU-gpu-1-2:250m/20389Mi")
	c.pod("search", corev1.ResourceName(podspec.MIGResource("3g.40gb")), 1, "gpu-2", "main=GPU-gpu-2-1:3g.40gb@4:4")
	c.pod("legacy", podspec.ResourceGPU, 1, "old-1", "")
	waiting := c.pod("waiting", podspec.ResourceGPU, 3, "", "")
	c.pod("small", podspec.ResourceGPUPercent, 10, "", "")
	waiting.Status.Conditions = []corev1.PodCondition{{
		Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonUnschedulable, Message: "0/4 nodes are available.",
	}}
	if _, err := c.client.CoreV1().Pods("ml").UpdateStatus(t.Context(), waiting, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}

	t.Run("top as JSON", func(t *testing.T) {
		c := c.in(t)
		var r cli.Report
		decode(t, c.run("top", "-o", "json"), &r)
		collected, err := cli.Collect(t.Context(), c.client)
		if diff := cmp.Diff(r, collected); err != nil || diff != "" {
			t.Errorf("Collect has it otherwise: %v (-command +Collect)\n%s", err, diff)
		}
		got := r.Totals
		got.FragmentedMilliGPU, got.FragmentedPerMille = 0, 0 // of the strategy; tested there
		want := cli.Totals{
			Nodes: 3, NodesWithoutGPU: 1, GPUs: 8, IdleGPUs: 4, WholeGPUs: 2, SharedGPUs: 1, MIGGPUs: 1, WithheldGPUs: 1,
			CapacityMilliGPU: 8000, AssignedMilliGPU: 2750, AssignedPerMille: 343, FreeMilliGPU: 5250, MixPods: 6, Pods: 4,
		}
		if got != want {
			t.Errorf("totals:\n got %+v\nwant %+v", got, want)
		}
	})
	t.Run("top as a map", func(t *testing.T) {
		c := c.in(t)
		out := c.run("top")
		for _, want := range []string{
			"8 GPUs on 3 nodes:", "34.3% assigned, 12.5% withheld",
			"  gpu-1  W████ W████ s█··· .····  2.25/4\n",
			"  gpu-2  .···· m██··  0.5/2\n",
			"  old-1  ?···· .····  0/2  1 withheld\n",
			"  old-1: for ml/legacy: the pod has no annotation weft.sh/gpus\n",
		} {
			if !strings.Contains(out, want) {
				t.Errorf("it has no %q:\n%s", want, out)
			}
		}
	})
	t.Run("top wide of chosen nodes", func(t *testing.T) {
		c := c.in(t)
		for _, args := range [][]string{{"-l", "rack=r2"}, {"--node", "gpu-2"}, {"--product", "NVIDIA-H100-80GB-HBM3", "-l", "rack!=r1"}} {
			out := c.run(append([]string{"top", "-o", "wide"}, args...)...)
			if !strings.Contains(out, "3g.40gb@4:4  ml/search/main") || strings.Contains(out, "gpu-1") || strings.Contains(out, "old-1") {
				t.Errorf("%v:\n%s", args, out)
			}
		}
		if _, err := c.try(c.kubeconfig, "top", "--node", "gpu-9"); err == nil || !strings.Contains(err.Error(), `node "gpu-9" not found`) {
			t.Errorf("a node that is not there: %v", err)
		}
	})
	t.Run("why a pod waits", func(t *testing.T) {
		c := c.in(t)
		var a cli.Answer
		decode(t, c.run("why", "-n", "ml", "waiting", "-o", "json"), &a)
		if a.Verdict != cli.VerdictDoesNotFit || a.Nodes != 4 || len(a.Classes) != 4 {
			t.Fatalf("%s: %d nodes in %d classes, want DoesNotFit, 4 in 4", a.Verdict, a.Nodes, len(a.Classes))
		}
		if first := a.Classes[0]; first.Node != "gpu-1" || first.Reason != "InsufficientGPU" || first.Detail != "asks for 3 whole GPUs; 1 of 4 GPUs is idle" {
			t.Errorf("the most hopeful: %+v", first)
		}
		if a.Said == nil || a.Said.Message != "0/4 nodes are available." {
			t.Errorf("the scheduler said %+v", a.Said)
		}
		if out := c.run("why", "-n", "ml", "pod/waiting"); !strings.Contains(out, "→ wait for a pod to end, or add nodes") {
			t.Errorf("for people:\n%s", out)
		}
	})
	t.Run("why a pod could run", func(t *testing.T) {
		c := c.in(t)
		var a cli.Answer
		decode(t, c.run("why", "-n", "ml", "small", "-o", "json"), &a)
		if a.Verdict != cli.VerdictFits || a.NodesThatFit != 2 {
			t.Errorf("%s on %d nodes, want Fits on 2: %+v", a.Verdict, a.NodesThatFit, a.Classes)
		}
	})
	t.Run("where a pod is", func(t *testing.T) {
		c := c.in(t)
		var a cli.Answer
		decode(t, c.run("why", "-n", "ml", "search", "-o", "json"), &a)
		want := cli.Hold{Container: "main", GPU: "GPU-gpu-2-1", Kind: "mig", Profile: "3g.40gb", Start: 4, Size: 4}
		if a.Verdict != cli.VerdictBound || a.Node != "gpu-2" || len(a.Holds) != 1 || a.Holds[0] != want {
			t.Errorf("%s on %q, holds %+v", a.Verdict, a.Node, a.Holds)
		}
	})
	t.Run("a pod that is not there", func(t *testing.T) {
		c := c.in(t)
		if _, err := c.try(c.kubeconfig, "why", "search"); err == nil || !strings.Contains(err.Error(), `not found in namespace "default"`) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("every field that is printed is on the page", func(t *testing.T) {
		c := c.in(t)
		page, err := os.ReadFile(filepath.Join("..", "..", "docs", "cli.md"))
		if err != nil {
			t.Fatal(err)
		}
		for _, args := range [][]string{
			{"top", "-o", "json"}, {"why", "-n", "ml", "waiting", "-o", "json"}, {"why", "-n", "ml", "search", "-o", "json"}, {"version", "-o", "json"},
		} {
			var value any
			decode(t, c.run(args...), &value)
			for path := range paths(value, "") {
				if !strings.Contains(string(page), "\n| `"+path+"` |") {
					t.Errorf("weft %v: docs/cli.md has no row for %s", args, path)
				}
			}
		}
	})
	t.Run("completion knows the pods", func(t *testing.T) {
		c := c.in(t)
		out := c.run("__completeNoDesc", "why", "-n", "ml", "s")
		if !strings.HasPrefix(out, "search\nsmall\n") {
			t.Errorf("got %q", out)
		}
	})
	t.Run("without permission", c.withoutPermission)
}

// withoutPermission: what somebody is told who may not read the cluster, and that it helps to do as it says.
func (c *commandLine) withoutPermission(t *testing.T) {
	c = c.in(t)
	ctx := t.Context()
	nobody := c.as("nobody")
	for _, args := range [][]string{{"top"}, {"why", "-n", "ml", "waiting"}} {
		_, err := c.try(nobody, args...)
		if err == nil || !strings.Contains(err.Error(), "kubectl create clusterrole weft-view") {
			t.Errorf("weft %v: %v, want what an administrator has to do", args, err)
		}
	}
	owner := &rbacv1.Role{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ml", Name: "owner"},
		Rules:      []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"get", "list"}}},
	}
	if _, err := c.client.RbacV1().Roles("ml").Create(ctx, owner, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	user := []rbacv1.Subject{{Kind: rbacv1.UserKind, Name: "nobody", APIGroup: rbacv1.GroupName}}
	if _, err := c.client.RbacV1().RoleBindings("ml").Create(ctx, &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "owner"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "owner"}, Subjects: user,
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	// The authorizer sees a new binding a moment later.
	eventually(t, time.Minute, func() string {
		_, err := c.try(nobody, "why", "-n", "ml", "waiting")
		if err == nil || !strings.Contains(err.Error(), "of the pod the scheduler said: Unschedulable: 0/4 nodes are available.") {
			return fmt.Sprintf("the owner of a namespace: %v, want what the scheduler said", err)
		}
		out, err := c.try(nobody, "why", "-n", "ml", "train")
		if err != nil || !strings.Contains(out, "main holds GPU-gpu-1-0 whole") {
			return fmt.Sprintf("the owner of a bound pod: %v\n%s", err, out)
		}
		return ""
	})

	// The rules that the advice makes.
	view := &rbacv1.ClusterRole{
		ObjectMeta: metav1.ObjectMeta{Name: "weft-view"},
		Rules: []rbacv1.PolicyRule{
			{APIGroups: []string{""}, Resources: []string{"nodes", "pods"}, Verbs: []string{"list", "get"}},
			{APIGroups: []string{"resource.k8s.io"}, Resources: []string{"resourceslices"}, Verbs: []string{"list", "get"}},
		},
	}
	if _, err := c.client.RbacV1().ClusterRoles().Create(ctx, view, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.client.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "weft-view"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "weft-view"}, Subjects: user,
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Minute, func() string {
		for _, args := range [][]string{{"top"}, {"why", "-n", "ml", "waiting"}} {
			if _, err := c.try(nobody, args...); err != nil {
				return fmt.Sprintf("weft %v after doing as it said: %v", args, err)
			}
		}
		return ""
	})
}

// TestCommandLineOnAnOldAPI: where no ResourceSlices are served, labels are all there is; and lists come in pages.
func TestCommandLineOnAnOldAPI(t *testing.T) {
	c := newCommandLine(t, "--runtime-config=resource.k8s.io/v1=false")
	c.namespace("ml")
	c.node("old-1", map[string]string{
		podspec.LabelProduct: "Tesla-V100-SXM2-32GB", podspec.LabelCount: "8", podspec.LabelMemory: "32768",
	})
	c.pod("on", podspec.ResourceGPU, 3, "old-1", "main=gpu-0,gpu-1,gpu-5")
	const waiting = 600 // more than a page
	var wg sync.WaitGroup
	for worker := range 8 {
		wg.Go(func() {
			for i := worker; i < waiting; i += 8 {
				p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("waiting-%d", i)}}
				p.Spec = corev1.PodSpec{SchedulerName: "weft", Containers: []corev1.Container{{Name: "main", Image: "none"}}}
				if _, err := c.client.CoreV1().Pods("ml").Create(t.Context(), p, metav1.CreateOptions{}); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	var r cli.Report
	decode(t, c.run("top", "-o", "json"), &r)
	if r.Totals.GPUs != 8 || r.Totals.WholeGPUs != 3 || r.Totals.MixPods != waiting+1 {
		t.Errorf("%+v: want 8 GPUs, 3 of them whole, from %d pods", r.Totals, waiting+1)
	}
}

// TestCommandLineAgreesWithTheScheduler: what the scheduler counts in its message, the command counts too.
func TestCommandLineAgreesWithTheScheduler(t *testing.T) {
	cluster := startCluster(t, "a100-mig=1,h100=2,l4=2")
	cluster.startScheduler()
	c := &commandLine{t: t, cp: cluster.cp, client: cluster.client}
	c.kubeconfig = c.as(playground.AdminUser)
	c.namespace("ml")
	// One GPU of each H100 node is taken, so that eight are too few; they go to one node unless they are too many for it.
	c.pod("seven", podspec.ResourceGPU, 7, "", "")
	eventually(t, time.Minute, func() string {
		var a cli.Answer
		decode(t, c.run("why", "-n", "ml", "seven", "-o", "json"), &a)
		if a.Verdict != cli.VerdictBound || len(a.Holds) != 7 {
			return fmt.Sprintf("%s, holds %v", a.Verdict, a.Holds)
		}
		return ""
	})
	c.pod("eight", podspec.ResourceGPU, 8, "", "")
	c.pod("again", podspec.ResourceGPU, 8, "", "") // one of the two gets the other node
	c.pod("sixteen", podspec.ResourceGPU, 16, "", "")
	c.pod("profile", corev1.ResourceName(podspec.MIGResource("1g.35gb")), 1, "", "")
	c.pod("cpu", corev1.ResourceCPU, 5000, "", "")
	model := c.template("model", podspec.ResourceGPU, 1)
	model.Spec.NodeSelector = map[string]string{podspec.LabelProduct: "NVIDIA-H200"}
	c.create(model)
	floor := c.template("floor", podspec.ResourceGPUPercent, 10)
	floor.Annotations = map[string]string{podspec.AnnotationGPUMemory: "96Gi"}
	c.create(floor)

	counted := regexp.MustCompile(`(\d+) (\w+): `)
	compared := map[string]bool{}
	for _, name := range []string{"eight", "again", "sixteen", "profile", "cpu", "model", "floor"} {
		var a cli.Answer
		eventually(t, time.Minute, func() string {
			decode(t, c.run("why", "-n", "ml", name, "-o", "json"), &a)
			if a.Said == nil {
				return "the scheduler has not said anything of " + name
			}
			return ""
		})
		if a.Verdict == cli.VerdictBound {
			continue
		}
		message, _, _ := strings.Cut(a.Said.Message, " preemption:")
		want := map[string]int{}
		for _, m := range counted.FindAllStringSubmatch(message, -1) {
			want[m[2]], _ = strconv.Atoi(m[1])
		}
		if strings.Contains(message, " Insufficient cpu") { // of the plugin NodeResourcesFit, which has its own words
			want["NodeTooSmall"] = a.Nodes // as no node would have so much even when empty
		}
		got := map[string]int{}
		for _, class := range a.Classes {
			for _, r := range class.Reasons {
				got[r.Reason] += r.Nodes
				compared[r.Reason] = true
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-the scheduler +weft why):\n%s\nit said: %s", name, diff, a.Said.Message)
		}
	}
	for _, reason := range []string{"InsufficientGPU", "TooFewGPUs", "NoMIGProfile", "NodeTooSmall", "GPUProductMismatch", "GPUMemoryTooSmall"} {
		if !compared[reason] {
			t.Errorf("%s was not compared", reason)
		}
	}
}

func decode(t *testing.T, text string, into any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), into); err != nil {
		t.Fatalf("%v in:\n%s", err, text)
	}
}

// paths are the paths of all fields of a decoded JSON value: nodes[].gpus[].id.
func paths(value any, at string) map[string]bool {
	out := map[string]bool{}
	switch v := value.(type) {
	case map[string]any:
		for name, field := range v {
			path := strings.TrimPrefix(at+"."+name, ".")
			out[path] = true
			for p := range paths(field, path) {
				out[p] = true
			}
		}
	case []any:
		for _, element := range v {
			for p := range paths(element, at+"[]") {
				out[p] = true
			}
		}
	}
	return out
}
