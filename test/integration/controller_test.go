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
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	schedv1alpha1 "sigs.k8s.io/scheduler-plugins/apis/scheduling/v1alpha1"

	"weft.sh/weft/manifests"
	"weft.sh/weft/pkg/playground"
	"weft.sh/weft/pkg/podgroup"
	"weft.sh/weft/pkg/podspec"
)

// gangCluster is a cluster without a scheduler: who is bound when is the test's to say.
type gangCluster struct {
	*cluster
	groups dynamic.Interface
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
}

// startController starts weft-controller, without leader election unless the arguments say so, and waits until it is ready.
func startController(t *testing.T, cp *playground.ControlPlane, args ...string) *controller {
	t.Helper()
	kubeconfig, err := cp.Kubeconfig(playground.ControllerUser)
	if err != nil {
		t.Fatal(err)
	}
	port := reservedPort(t)
	c := &controller{t: t, address: fmt.Sprintf("127.0.0.1:%d", port), log: filepath.Join(t.TempDir(), "controller.log")}
	out, err := os.Create(c.log)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	c.cmd = exec.Command(binary(t, "weft-controller"), append([]string{
		"--kubeconfig=" + kubeconfig, fmt.Sprintf("--secure-port=%d", port), "--permit-port-sharing=true", "--leader-elect=false", "--v=2",
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
	u := &unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{"minMember": minMember}}}
	u.SetGroupVersionKind(schedv1alpha1.SchemeGroupVersion.WithKind("PodGroup"))
	u.SetNamespace(ns)
	u.SetName("train")
	annotations := map[string]string{}
	for i := 0; i < len(notes); i += 2 {
		annotations[notes[i]] = notes[i+1]
	}
	u.SetAnnotations(annotations)
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
		p.Namespace, p.Labels, p.Spec.SchedulerName = ns, map[string]string{podspec.LabelPodGroup: "train"}, scheduler
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

func TestController(t *testing.T) {
	c := startGangCluster(t)
	p := startController(t, c.cp)

	t.Run("a gang's life, beside one of the same name", func(t *testing.T) {
		c.t = t
		a, b := c.namespace("life-a"), c.namespace("life-b")
		c.group(a, 2)
		c.group(b, 2)
		c.wait(a, "Pending 0/0/0/0 GangIncomplete: fewer members exist than must start together (0 of 2 members exist)")
		c.members(a, "w-0", "w-1")
		c.wait(a, "Pending 0/0/0/0 2 members to be scheduled")
		c.bind(a, "w-0", "w-1")
		if s := c.wait(a, "Running 2/2/0/0"); s.Message != "" || s.ScheduleStartTime != nil {
			t.Errorf("status of a gang that runs: %+v", s)
		}
		c.wait(b, "Pending 0/0/0/0 GangIncomplete: fewer members exist than must start together (0 of 2 members exist)")
		c.end(a, "w-0", corev1.PodSucceeded)
		c.wait(a, "Running 2/1/1/0")
		c.end(a, "w-1", corev1.PodSucceeded)
		c.wait(a, "Finished 2/0/2/0")
		c.wait(b, "Pending 0/0/0/0 GangIncomplete")
	})

	t.Run("who is finishing, or is another scheduler's, stays while a partial gang leaves", func(t *testing.T) {
		c.t = t
		finishing, foreign, partial := c.namespace("finishing"), c.namespace("foreign"), c.namespace("partial")
		c.group(finishing, 3, podspec.AnnotationPartialGrace, "1s")
		c.members(finishing, "w-0", "w-1", "w-2")
		c.bind(finishing, "w-0", "w-1", "w-2")
		c.wait(finishing, "Running 3/3/0/0")
		c.end(finishing, "w-0", corev1.PodSucceeded)
		c.end(finishing, "w-1", corev1.PodSucceeded)
		c.wait(finishing, "Running 3/1/2/0")
		for _, name := range []string{"w-0", "w-1"} {
			if err := c.client.CoreV1().Pods(finishing).Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		c.group(foreign, 3, podspec.AnnotationPartialGrace, "1s")
		c.membersOf("default-scheduler", foreign, "w-0", "w-1")
		c.bind(foreign, "w-0")

		c.group(partial, 3, podspec.AnnotationPartialGrace, "3s")
		c.members(partial, "w-0", "w-1", "w-2")
		c.bind(partial, "w-0", "w-1")
		since := c.wait(partial, "Unknown 2/").ScheduleStartTime
		if since == nil {
			t.Fatal("a partial gang does not say since when it is")
		}
		c.left(partial, "w-2")
		if now := time.Now(); now.Before(since.Add(3 * time.Second)) {
			t.Errorf("evicted at %v, before %v and the grace of 3s are over", now, since)
		}
		c.wait(partial, "Pending 0/0/0/0 GangIncomplete: fewer members exist than must start together (1 of 3 members exist")
		for _, e := range [][2]string{{"Pod", "w-0"}, {"Pod", "w-1"}, {"PodGroup", "train"}} {
			if note := c.event(partial, e[0], e[1], "GangEvicted"); !strings.Contains(note, "2 of 3 members have a place") {
				t.Errorf("event about %s %s: %q", e[0], e[1], note)
			}
		}
		c.left(finishing, "w-2")
		c.wait(finishing, "Running 3/1/2/0")
		c.left(foreign, "w-0 w-1")
		if s := c.status(foreign); s.Phase == "Unknown" || s.Scheduled > 0 {
			t.Errorf("another scheduler's gang has the status %s", s)
		}
	})

	t.Run("a disruption budget holds a member until it goes", func(t *testing.T) {
		c.t = t
		ns := c.namespace("budget")
		pdb := &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Name: "all"}, Spec: policyv1.PodDisruptionBudgetSpec{
			MaxUnavailable: &intstr.IntOrString{IntVal: 0}, Selector: &metav1.LabelSelector{},
		}}
		if _, err := c.client.PolicyV1().PodDisruptionBudgets(ns).Create(t.Context(), pdb, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		c.group(ns, 2, podspec.AnnotationPartialGrace, "1s")
		c.members(ns, "w-0", "w-1")
		c.bind(ns, "w-0", "w-1")
		c.wait(ns, "Running 2/2/0/0")
		// By force, for the budget is none for that.
		if err := c.client.CoreV1().Pods(ns).Delete(t.Context(), "w-1", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		c.event(ns, "Pod", "w-0", "GangEvictionBlocked")
		c.wait(ns, "Unknown 1/1/0/0 since ")
		c.left(ns, "w-0")
		if err := c.client.PolicyV1().PodDisruptionBudgets(ns).Delete(t.Context(), "all", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		c.left(ns, "")
	})

	t.Run("a gang that cannot lose a member starts again when it does", func(t *testing.T) {
		c.t = t
		gone, failed := c.namespace("gone"), c.namespace("failed")
		for _, ns := range []string{gone, failed} {
			c.group(ns, 2, podspec.AnnotationOnMemberLost, "restart", podspec.AnnotationPartialGrace, "1h")
			c.members(ns, "w-0", "w-1", "w-2")
			c.bind(ns, "w-0", "w-1", "w-2")
			c.wait(ns, "Running 3/3/0/0")
		}
		if err := c.client.CoreV1().Pods(gone).Delete(t.Context(), "w-1", metav1.DeleteOptions{GracePeriodSeconds: new(int64)}); err != nil {
			t.Fatal(err)
		}
		c.left(gone, "")
		c.end(failed, "w-1", corev1.PodFailed)
		c.left(failed, "w-1")
		if note := c.event(failed, "PodGroup", "train", "GangEvicted"); !strings.HasPrefix(note, "w-1 was lost") {
			t.Errorf("event: %q", note)
		}
		// The failed pod stays, and those that come after it are not evicted for it.
		c.wait(failed, "Failed 0/0/0/1 all members ended")
		c.members(failed, "x-0", "x-1")
		c.bind(failed, "x-0", "x-1")
		c.wait(failed, "Running 2/2/0/1")
		c.left(failed, "w-1 x-0 x-1")
	})

	t.Run("a PodGroup that has no meaning", func(t *testing.T) {
		c.t = t
		ns := c.namespace("invalid")
		c.members(ns, "w-0")
		c.bind(ns, "w-0")
		c.group(ns, 1)
		c.wait(ns, "Running 1/1/0/0")
		// Made where no policy of admission looks: they may be off.
		if err := c.client.AdmissionregistrationV1().ValidatingAdmissionPolicyBindings().
			Delete(t.Context(), "pod-groups.weft.sh", metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			t.Fatal(err)
		}
		eventually(t, time.Minute, func() string {
			_, err := c.groups.Resource(podgroup.Resource).Namespace(ns).Patch(t.Context(), "train", types.MergePatchType,
				fmt.Appendf(nil, `{"metadata":{"annotations":{%q:"soon"}}}`, podspec.AnnotationPartialGrace), metav1.PatchOptions{})
			if err != nil {
				return err.Error()
			}
			return ""
		})
		if s := c.wait(ns, "Running 1/1/0/0 InvalidGang: "); !strings.Contains(s.Message, "soon") {
			t.Errorf("message %q: want what was found", s.Message)
		}
		c.left(ns, "w-0")
	})

	t.Run("metrics", func(t *testing.T) {
		c.t = t
		status, body := p.get("/metrics", c.cfg.BearerToken)
		if status != http.StatusOK {
			t.Fatalf("%d %s", status, body)
		}
		for _, want := range []string{
			`weft_gang_evicted_total{reason="partial"} 2`, `weft_gang_evicted_total{reason="member-lost"} 2`,
			`weft_gang_evicted_total{reason="unbound"} 0`, `weft_gang_phase{phase="Finished"} 1`, `weft_gang_phase{phase="Running"} 3`,
			`weft_gang_phase{phase="Unknown"} 0`, "weft_gang_partly_bound 0", "weft_gang_reconcile_duration_seconds_count ",
		} {
			if !strings.Contains(body, "\n"+want) {
				t.Errorf("no line %q in\n%s", want, lines(body, "weft_gang_"))
			}
		}
		if status, body := p.get("/metrics", ""); status != http.StatusForbidden {
			t.Errorf("/metrics for anybody: %d %s", status, body)
		}
		if status, body := p.get("/healthz", ""); status != http.StatusOK {
			t.Errorf("/healthz: %d %s", status, body)
		}
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

// TestControllerRestarts: what a controller began is finished by the next, at the time that the first said; and one that does not
// lead does nothing.
func TestControllerRestarts(t *testing.T) {
	c := startGangCluster(t)
	ctx := t.Context()

	first := startController(t, c.cp)
	ns := c.namespace("killed")
	c.group(ns, 3, podspec.AnnotationPartialGrace, "3s")
	c.members(ns, "w-0", "w-1", "w-2")
	c.bind(ns, "w-0", "w-1")
	since := c.wait(ns, "Unknown 2/").ScheduleStartTime.UTC().Format(time.RFC3339)
	first.end(syscall.SIGKILL)
	c.left(ns, "w-0 w-1 w-2")

	// Somebody else leads, and goes on to.
	leases := c.client.CoordinationV1().Leases("weft-system")
	holder, seconds := "somebody-else", int32(3600)
	lease, err := leases.Create(ctx, &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Name: "weft-controller"},
		Spec: coordinationv1.LeaseSpec{
			HolderIdentity: &holder, LeaseDurationSeconds: &seconds, AcquireTime: new(metav1.NowMicro()), RenewTime: new(metav1.NowMicro()),
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	second := startController(t, c.cp, "--leader-elect=true")
	idle := c.namespace("idle")
	c.group(idle, 1)
	over := time.Now().Add(6 * time.Second)
	eventually(t, time.Minute, func() string {
		if time.Now().Before(over) {
			return "twice the grace is not over"
		}
		return ""
	})
	if got := c.names(ns); got != "w-0 w-1 w-2" || c.status(idle).Phase != "" {
		t.Errorf("one that does not lead left %q, and wrote %s", got, c.status(idle))
	}
	if status, body := second.get("/metrics", c.cfg.BearerToken); status != http.StatusOK || strings.Contains(lines(body, "weft_gang_phase"), " 1") {
		t.Errorf("metrics of one that does not lead: %d\n%s", status, lines(body, "weft_gang_"))
	}

	// The other gives it up.
	if _, err := leases.Patch(ctx, lease.Name, types.MergePatchType, []byte(`{"spec":{"holderIdentity":""}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	c.left(ns, "w-2")
	if note := c.event(ns, "PodGroup", "train", "GangEvicted"); !strings.Contains(note, "since "+since) {
		t.Errorf("event %q: want since %s, as the first controller wrote", note, since)
	}
	c.wait(idle, "Pending")

	// It gives it up too when it is told to end, so that the next need not wait.
	second.end(syscall.SIGTERM)
	if code := second.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("exit status %d when told to end", code)
	}
	if lease, err = leases.Get(ctx, lease.Name, metav1.GetOptions{}); err != nil || lease.Spec.HolderIdentity != nil && *lease.Spec.HolderIdentity != "" {
		t.Errorf("the lease is %+v, %v: want nobody's", lease.Spec, err)
	}
}

// TestControllerWaitsForTheDefinition: where PodGroups are not defined it says so, and begins when they are.
func TestControllerWaitsForTheDefinition(t *testing.T) {
	cp := startControlPlane(t, playground.ControlPlaneOptions{})
	ns := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": "weft-system"}}}
	if err := playground.Apply(t.Context(), cp.AdminConfig(), append([]*unstructured.Unstructured{ns}, controllerObjects(t)...)); err != nil {
		t.Fatal(err)
	}
	p := startController(t, cp)
	if log := tail(p.log, 16<<10); !strings.Contains(log, "PodGroups cannot be read") {
		t.Errorf("the log does not say that PodGroups are missing:\n%s", log)
	}
	crds, err := playground.Render(manifests.FS, "crds")
	if err != nil {
		t.Fatal(err)
	}
	if err := playground.Apply(t.Context(), cp.AdminConfig(), crds); err != nil {
		t.Fatal(err)
	}
	c := &gangCluster{cluster: &cluster{t: t, cp: cp, client: clientset(t, cp.AdminConfig())}, groups: dynamicClient(t, cp.AdminConfig())}
	eventually(t, time.Minute, func() string {
		_, err := c.groups.Resource(podgroup.Resource).List(t.Context(), metav1.ListOptions{})
		if err != nil {
			return err.Error()
		}
		return ""
	})
	c.group("default", 1)
	c.wait("default", "Pending 0/0/0/0 GangIncomplete")
}
