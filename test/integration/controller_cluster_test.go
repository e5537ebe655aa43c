package integration

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	schedulingv1beta1 "k8s.io/api/scheduling/v1beta1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"

	"weft.sh/weft/manifests"
	"weft.sh/weft/pkg/playground"
	"weft.sh/weft/pkg/podgroup"
	"weft.sh/weft/pkg/podspec"
)

// gangCluster is a cluster without a scheduler: who is bound when is the test's to say.
type gangCluster struct {
	*cluster
	groups dynamic.Interface
	// native says that gangs are declared by PodGroups of scheduling.k8s.io.
	native bool
}

func startGangCluster(t *testing.T) *gangCluster {
	t.Helper()
	c := &gangCluster{cluster: startCluster(t, "l4=1")}
	c.groups = dynamicClient(t, c.cfg)
	return c
}

func dynamicClient(t *testing.T, cfg *rest.Config) dynamic.Interface {
	t.Helper()
	d, err := dynamic.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func controllerObjects(t *testing.T) []*unstructured.Unstructured {
	t.Helper()
	objects, err := playground.Render(manifests.FS, "controller")
	if err != nil {
		t.Fatal(err)
	}
	return objects
}

// controller is a running weft-controller.
type controller struct {
	t       *testing.T
	cmd     *exec.Cmd
	address string
	log     string
	token   string // of somebody who may read the metrics
}

// startController starts weft-controller, without leader election unless the arguments say so, and waits until it is ready.
func startController(t *testing.T, cp *playground.ControlPlane, args ...string) *controller {
	t.Helper()
	kubeconfig, err := cp.Kubeconfig(playground.ControllerUser)
	if err != nil {
		t.Fatal(err)
	}
	port := reservedPort(t)
	c := &controller{
		t: t, address: fmt.Sprintf("127.0.0.1:%d", port), log: filepath.Join(t.TempDir(), "controller.log"), token: cp.AdminConfig().BearerToken,
	}
	out, err := os.Create(c.log)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	c.cmd = exec.Command(binary(t, "weft-controller"), append([]string{
		"--kubeconfig=" + kubeconfig, fmt.Sprintf("--secure-port=%d", port), "--permit-port-sharing=true", "--leader-elect=false", "--v=2",
		"--ledger=", // none, unless the test says where
	}, args...)...)
	c.cmd.Stdout, c.cmd.Stderr = out, out
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.end(syscall.SIGKILL)
		if t.Failed() {
			t.Logf("the controller's log:\n%s", tail(c.log, 16<<10))
		}
	})
	eventually(t, time.Minute, func() string {
		if status, body := c.get("/readyz", ""); status != http.StatusOK {
			return fmt.Sprintf("readyz: %d %s", status, body)
		}
		return ""
	})
	return c
}

// end ends the process; it may have ended.
func (c *controller) end(s syscall.Signal) {
	if c.cmd.ProcessState == nil {
		_ = c.cmd.Process.Signal(s)
		_ = c.cmd.Wait()
	}
}

func (c *controller) get(path, token string) (status int, body string) {
	c.t.Helper()
	req, err := http.NewRequestWithContext(c.t.Context(), http.MethodGet, "https://"+c.address+path, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, // made at start, kept in memory
	}}
	resp, err := client.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err.Error()
	}
	return resp.StatusCode, string(data)
}

// reservedPort is a port of 127.0.0.1 that nobody else gets until the test ends.
func reservedPort(t *testing.T) int {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err != nil {
		t.Fatal(err)
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte(net.IPv4(127, 0, 0, 1).To4())}); err != nil {
		t.Fatal(err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return name.(*unix.SockaddrInet4).Port
}

// namespace makes a namespace for a gang.
func (c *gangCluster) namespace(name string) string {
	c.t.Helper()
	_, err := c.client.CoreV1().Namespaces().Create(c.t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	return name
}

// group makes the PodGroup train; notes are annotations, in pairs.
func (c *gangCluster) group(ns string, minMember int64, notes ...string) {
	c.t.Helper()
	annotations := map[string]string{}
	for i := 0; i < len(notes); i += 2 {
		annotations[notes[i]] = notes[i+1]
	}
	if c.native {
		pg := &schedulingv1beta1.PodGroup{ObjectMeta: metav1.ObjectMeta{Name: "train", Annotations: annotations}}
		pg.Spec.SchedulingPolicy.Gang = &schedulingv1beta1.GangSchedulingPolicy{MinCount: int32(minMember)}
		if _, err := c.client.SchedulingV1beta1().PodGroups(ns).Create(c.t.Context(), pg, metav1.CreateOptions{}); err != nil {
			c.t.Fatal(err)
		}
		return
	}
	u := podGroup("train", minMember, annotations)
	if _, err := c.groups.Resource(podgroup.Resource).Namespace(ns).Create(c.t.Context(), u, metav1.CreateOptions{}); err != nil {
		c.t.Fatal(err)
	}
}

// members makes pods of the gang train.
func (c *gangCluster) members(ns string, names ...string) {
	c.t.Helper()
	c.membersOf(playground.SchedulerName, ns, names...)
}

func (c *gangCluster) membersOf(scheduler, ns string, names ...string) {
	c.t.Helper()
	for _, name := range names {
		p := playground.Pod{Name: name, CPUMilli: 10, MemoryMiB: 10}.Object()
		p.Namespace, p.Spec.SchedulerName = ns, scheduler
		if c.native {
			p.Spec.SchedulingGroup = &corev1.PodSchedulingGroup{PodGroupName: new("train")}
		} else {
			p.Labels = map[string]string{podspec.LabelPodGroup: "train"}
		}
		if _, err := c.client.CoreV1().Pods(ns).Create(c.t.Context(), p, metav1.CreateOptions{}); err != nil {
			c.t.Fatal(err)
		}
	}
}

// bind puts pods on the node, where KWOK runs them.
func (c *gangCluster) bind(ns string, names ...string) {
	c.t.Helper()
	for _, name := range names {
		b := &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}, Target: corev1.ObjectReference{Kind: "Node", Name: "l4-0"}}
		if err := c.client.CoreV1().Pods(ns).Bind(c.t.Context(), b, metav1.CreateOptions{}); err != nil {
			c.t.Fatal(err)
		}
	}
}

// end has the pod end in the phase, as a kubelet would say it.
func (c *gangCluster) end(ns, name string, phase corev1.PodPhase) {
	c.t.Helper()
	body := fmt.Sprintf(`{"status":{"phase":%q,"containerStatuses":[{"name":"main","image":"x","imageID":"x","ready":false,`+
		`"restartCount":0,"state":{"terminated":{"exitCode":0,"finishedAt":%q}}}]}}`, phase, time.Now().UTC().Format(time.RFC3339))
	_, err := c.client.CoreV1().Pods(ns).Patch(c.t.Context(), name, types.StrategicMergePatchType, []byte(body), metav1.PatchOptions{}, "status")
	if err != nil {
		c.t.Fatal(err)
	}
}

// groupStatus is what the controller writes.
type groupStatus struct {
	Phase                                 string
	Scheduled, Running, Succeeded, Failed int
	ScheduleStartTime                     *metav1.Time
	Message                               string
}

func (s groupStatus) String() string {
	return fmt.Sprintf("%s %d/%d/%d/%d %s", s.Phase, s.Scheduled, s.Running, s.Succeeded, s.Failed, s.Message)
}

func (c *gangCluster) status(ns string) (s groupStatus) {
	c.t.Helper()
	if c.native {
		return c.condition(ns)
	}
	u, err := c.groups.Resource(podgroup.Resource).Namespace(ns).Get(c.t.Context(), "train", metav1.GetOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	data, err := json.Marshal(u.Object["status"])
	if err != nil {
		c.t.Fatal(err)
	}
	if err := json.Unmarshal(data, &s); err != nil {
		c.t.Fatalf("%v: %s", err, data)
	}
	return s
}

// condition is what the controller writes into a native PodGroup: the same, in a condition.
func (c *gangCluster) condition(ns string) (s groupStatus) {
	c.t.Helper()
	pg, err := c.client.SchedulingV1beta1().PodGroups(ns).Get(c.t.Context(), "train", metav1.GetOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	condition := meta.FindStatusCondition(pg.Status.Conditions, "weft.sh/GangWhole")
	if condition == nil {
		return s
	}
	s.Phase = condition.Reason
	numbers, message, _ := strings.Cut(condition.Message, ": ")
	s.Message = message
	numbers, since, partial := strings.Cut(numbers, ", since ")
	if _, err := fmt.Sscanf(numbers, "scheduled %d, running %d, succeeded %d, failed %d", &s.Scheduled, &s.Running, &s.Succeeded, &s.Failed); err != nil {
		c.t.Fatalf("%v: %q", err, condition.Message)
	}
	if partial {
		at, err := time.Parse(time.RFC3339, since)
		if err != nil {
			c.t.Fatal(err)
		}
		s.ScheduleStartTime = new(metav1.NewTime(at))
	}
	return s
}

// wait waits until the status, as String has it, begins so.
func (c *gangCluster) wait(ns, want string) groupStatus {
	c.t.Helper()
	var s groupStatus
	eventually(c.t, time.Minute, func() string {
		if s = c.status(ns); !strings.HasPrefix(s.String(), want) {
			return fmt.Sprintf("%s/train is %q: want %q", ns, s, want)
		}
		return ""
	})
	return s
}

// names are the pods of the namespace that are there and not being deleted.
func (c *gangCluster) names(ns string) string {
	c.t.Helper()
	list, err := c.client.CoreV1().Pods(ns).List(c.t.Context(), metav1.ListOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	var out []string
	for _, p := range list.Items {
		if p.DeletionTimestamp == nil {
			out = append(out, p.Name)
		}
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

// left waits until these pods are left.
func (c *gangCluster) left(ns, want string) {
	c.t.Helper()
	eventually(c.t, time.Minute, func() string {
		if got := c.names(ns); got != want {
			return fmt.Sprintf("pods %q are in %s: want %q (%s)", got, ns, want, c.status(ns))
		}
		return ""
	})
}

// event waits for an event of the reason about the object and returns what it says.
func (c *gangCluster) event(ns, kind, name, reason string) (note string) {
	c.t.Helper()
	eventually(c.t, time.Minute, func() string {
		list, err := c.client.EventsV1().Events(ns).List(c.t.Context(), metav1.ListOptions{})
		if err != nil {
			c.t.Fatal(err)
		}
		for _, e := range list.Items {
			if e.Regarding.Kind == kind && e.Regarding.Name == name && e.Reason == reason {
				note = e.Note
				return ""
			}
		}
		return fmt.Sprintf("no event %s about %s %s/%s", reason, kind, ns, name)
	})
	return note
}

// metric waits until the metrics have the line.
func (c *controller) metric(want string) {
	c.t.Helper()
	eventually(c.t, time.Minute, func() string {
		if _, body := c.get("/metrics", c.token); !strings.Contains(body, "\n"+want+"\n") {
			return fmt.Sprintf("no line %q in\n%s", want, lines(body, "weft_gang_"))
		}
		return ""
	})
}

// lines are the lines that begin so.
func lines(text, prefix string) string {
	var out []string
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, prefix) {
			out = append(out, line)
		}
	}
	return strings.Join(out, "")
}
