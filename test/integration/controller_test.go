package integration

import (
	"fmt"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"weft.sh/weft/manifests"
	"weft.sh/weft/pkg/playground"
	"weft.sh/weft/pkg/podgroup"
	"weft.sh/weft/pkg/podspec"
)

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
		c.t, p.t = t, t
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
		p.metric("weft_gang_partly_bound 1")
		c.left(ns, "w-0")
		if err := c.client.PolicyV1().PodDisruptionBudgets(ns).Delete(t.Context(), "all", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		c.left(ns, "")
		p.metric("weft_gang_partly_bound 0")
	})

	t.Run("a PodGroup that goes", func(t *testing.T) {
		c.t, p.t = t, t
		partial, replaced := c.namespace("orphaned"), c.namespace("orphaned-replaced")
		c.group(partial, 3, podspec.AnnotationPartialGrace, "1h")
		c.members(partial, "w-0", "w-1")
		c.bind(partial, "w-0", "w-1")
		c.wait(partial, "Unknown 2/2/0/0")
		c.group(replaced, 2)
		c.members(replaced, "w-0", "w-1")
		c.bind(replaced, "w-0", "w-1")
		c.wait(replaced, "Running 2/2/0/0")
		c.members(replaced, "w-2")
		p.metric("weft_gang_partly_bound 0") // for the grace goes on
		for _, ns := range []string{partial, replaced} {
			if err := c.groups.Resource(podgroup.Resource).Namespace(ns).Delete(t.Context(), "train", metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		for _, e := range [][3]string{
			{partial, "w-0", "with a place 2, waiting for one 0"},
			{partial, "w-1", "with a place 2, waiting for one 0"},
			{replaced, "w-0", "with a place 2, waiting for one 1"},
			{replaced, "w-2", "with a place 2, waiting for one 1"},
		} {
			if note := c.event(e[0], "Pod", e[1], "GangOrphaned"); !strings.Contains(note, e[2]) || !strings.Contains(note, "delete the pods, or create the PodGroup again") {
				t.Errorf("event about %s/%s: %q", e[0], e[1], note)
			}
		}
		if got := c.names(partial) + " " + c.names(replaced); got != "w-0 w-1 w-0 w-1 w-2" {
			t.Errorf("pods %q are left: want all", got)
		}
		// It comes back, and the gang goes on to be judged.
		c.group(partial, 3, podspec.AnnotationPartialGrace, "1s")
		c.left(partial, "")
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
		c.t, p.t = t, t
		status, body := p.get("/metrics", p.token)
		if status != http.StatusOK {
			t.Fatalf("%d %s", status, body)
		}
		for _, want := range []string{
			`weft_gang_evicted_total{reason="partial"} 3`, `weft_gang_evicted_total{reason="member-lost"} 2`,
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

	t.Run("native PodGroups are not served", func(t *testing.T) {
		log, err := os.ReadFile(p.log)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(log), "does not serve native PodGroups") || strings.Contains(string(log), "Failed to watch") {
			t.Errorf("want a line that says so, and none about a watch that failed:\n%s", tail(p.log, 16<<10))
		}
	})
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
	if status, body := second.get("/metrics", second.token); status != http.StatusOK || strings.Contains(lines(body, "weft_gang_phase"), " 1") {
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
