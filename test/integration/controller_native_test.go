package integration

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	schedulingv1beta1 "k8s.io/api/scheduling/v1beta1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"weft.sh/weft/pkg/podspec"
)

func startNativeGangCluster(t *testing.T) *gangCluster {
	t.Helper()
	c := &gangCluster{cluster: startNativeCluster(t, "l4=1", 1), native: true}
	c.groups = dynamicClient(t, c.cfg)
	return c
}

// lose deletes a pod so that nothing is left of it.
func (c *gangCluster) lose(ns, name string) {
	c.t.Helper()
	if err := c.client.CoreV1().Pods(ns).Delete(c.t.Context(), name, metav1.DeleteOptions{GracePeriodSeconds: new(int64)}); err != nil {
		c.t.Fatal(err)
	}
}

// unbindable says of the pod what a scheduler says that could not bind it.
func (c *gangCluster) unbindable(ns, name string) {
	c.t.Helper()
	body := fmt.Sprintf(`{"status":{"conditions":[{"type":"PodScheduled","status":"False","reason":%q,"message":"running Bind plugin \"GPUFit\": timeout"}]}}`, corev1.PodReasonSchedulerError)
	_, err := c.client.CoreV1().Pods(ns).Patch(c.t.Context(), name, types.StrategicMergePatchType, []byte(body), metav1.PatchOptions{}, "status")
	if err != nil {
		c.t.Fatal(err)
	}
}

// TestControllerOfNativeGangs: what TestController sees of PodGroups of the one kind holds for the other.
func TestControllerOfNativeGangs(t *testing.T) {
	c := startNativeGangCluster(t)
	p := startController(t, c.cp)

	t.Run("a gang's life, beside one of another scheduler", func(t *testing.T) {
		c.t = t
		ns, foreign := c.namespace("life"), c.namespace("foreign")
		c.group(foreign, 3, podspec.AnnotationPartialGrace, "1s")
		c.membersOf("default-scheduler", foreign, "w-0", "w-1")
		c.bind(foreign, "w-0")

		c.group(ns, 2, podspec.AnnotationPartialGrace, "1s")
		// As kube-scheduler says it.
		body := `{"status":{"conditions":[{"type":"PodGroupInitiallyScheduled","status":"True","reason":"Scheduled","message":"m","lastTransitionTime":"2026-01-01T10:00:00Z"}]}}`
		groups := c.client.SchedulingV1beta1().PodGroups(ns)
		if _, err := groups.Patch(t.Context(), "train", types.StrategicMergePatchType, []byte(body), metav1.PatchOptions{}, "status"); err != nil {
			t.Fatal(err)
		}
		c.members(ns, "w-0")
		c.wait(ns, "Pending 0/0/0/0 GangIncomplete: fewer members exist than must start together (1 of 2 members exist)")
		c.members(ns, "w-1")
		c.wait(ns, "Pending 0/0/0/0 2 members to be scheduled")
		c.bind(ns, "w-0", "w-1")
		if s := c.wait(ns, "Running 2/2/0/0"); s.Message != "" || s.ScheduleStartTime != nil {
			t.Errorf("status of a gang that runs: %+v", s)
		}
		c.end(ns, "w-0", corev1.PodSucceeded)
		c.wait(ns, "Running 2/1/1/0")
		c.lose(ns, "w-0")
		c.end(ns, "w-1", corev1.PodSucceeded)
		c.wait(ns, "Finished 2/0/2/0")
		pg, err := groups.Get(t.Context(), "train", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if other := meta.FindStatusCondition(pg.Status.Conditions, "PodGroupInitiallyScheduled"); len(pg.Status.Conditions) != 2 || other == nil || other.Message != "m" {
			t.Errorf("conditions %+v: want the other's as it was beside the controller's", pg.Status.Conditions)
		}
		c.left(foreign, "w-0 w-1")
		if s := c.status(foreign); s != (groupStatus{}) {
			t.Errorf("another scheduler's gang has the status %s", s)
		}
	})

	t.Run("partial for too long, beside a gang of the other kind by the same name", func(t *testing.T) {
		c.t = t
		ns := c.namespace("partial")
		c.group(ns, 3, podspec.AnnotationPartialGrace, "3s")
		custom := &gangCluster{cluster: c.cluster, groups: c.groups}
		custom.group(ns, 1)
		custom.members(ns, "x-0")
		custom.bind(ns, "x-0")
		c.members(ns, "w-0", "w-1", "w-2")
		c.bind(ns, "w-0", "w-1")
		since := c.wait(ns, "Unknown 2/").ScheduleStartTime
		if since == nil {
			t.Fatal("a partial gang does not say since when it is")
		}
		c.left(ns, "w-2 x-0")
		if now := time.Now(); now.Before(since.Add(3 * time.Second)) {
			t.Errorf("evicted at %v, before %v and the grace of 3s are over", now, since)
		}
		c.wait(ns, "Pending 0/0/0/0 GangIncomplete: fewer members exist than must start together (1 of 3 members exist")
		for _, e := range [][2]string{{"Pod", "w-0"}, {"Pod", "w-1"}, {"PodGroup", "train"}} {
			if note := c.event(ns, e[0], e[1], "GangEvicted"); !strings.Contains(note, "2 of 3 members have a place") {
				t.Errorf("event about %s %s: %q", e[0], e[1], note)
			}
		}
		custom.wait(ns, "Running 1/1/0/0")
	})

	t.Run("a member cannot be bound", func(t *testing.T) {
		c.t = t
		shrinks, leaves := c.namespace("shrinks"), c.namespace("leaves")
		c.group(shrinks, 2, podspec.AnnotationPartialGrace, "1s")
		c.group(leaves, 2, podspec.AnnotationPartialGrace, "1s", podspec.AnnotationOnPartialStart, "leave")
		for _, ns := range []string{shrinks, leaves} {
			c.members(ns, "w-0", "w-1", "w-2")
			c.bind(ns, "w-0", "w-1")
			c.wait(ns, "Running 2/2/0/0")
			c.unbindable(ns, "w-2")
		}
		c.left(leaves, "w-2")
		if note := c.event(leaves, "PodGroup", "train", "GangEvicted"); !strings.Contains(note, "1 member could not be bound") {
			t.Errorf("event: %q", note)
		}
		c.left(shrinks, "w-0 w-1 w-2")
		c.wait(shrinks, "Running 2/2/0/0 no place for 1 member, which the gang can do without")
	})

	t.Run("a member is lost", func(t *testing.T) {
		c.t = t
		restarts, whole, replaces := c.namespace("restarts"), c.namespace("whole"), c.namespace("replaces")
		c.group(restarts, 2, podspec.AnnotationOnMemberLost, "restart", podspec.AnnotationPartialGrace, "1h")
		c.group(replaces, 3, podspec.AnnotationPartialGrace, "1h")
		// By the kind's own field.
		all := &schedulingv1beta1.PodGroup{ObjectMeta: metav1.ObjectMeta{Name: "train"}}
		all.Spec.SchedulingPolicy.Gang = &schedulingv1beta1.GangSchedulingPolicy{MinCount: 2}
		all.Spec.DisruptionMode = &schedulingv1beta1.DisruptionMode{All: &schedulingv1beta1.AllDisruptionMode{}}
		if _, err := c.client.SchedulingV1beta1().PodGroups(whole).Create(t.Context(), all, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		for _, ns := range []string{restarts, whole, replaces} {
			c.members(ns, "w-0", "w-1", "w-2")
			c.bind(ns, "w-0", "w-1", "w-2")
			c.wait(ns, "Running 3/3/0/0")
		}
		c.lose(restarts, "w-1")
		c.left(restarts, "")
		c.end(whole, "w-1", corev1.PodFailed)
		c.left(whole, "w-1")
		if note := c.event(whole, "PodGroup", "train", "GangEvicted"); !strings.HasPrefix(note, "w-1 was lost") {
			t.Errorf("event: %q", note)
		}
		c.lose(replaces, "w-1")
		c.wait(replaces, "Unknown 2/2/0/0 2 of 3 members have a place: unless that changes, all are evicted at ")
		c.members(replaces, "w-1")
		c.bind(replaces, "w-1")
		c.wait(replaces, "Running 3/3/0/0")
		c.left(replaces, "w-0 w-1 w-2")
	})

	t.Run("groups that are no gang, or that nobody has pods of, are left alone", func(t *testing.T) {
		c.t = t
		basic, empty := c.namespace("basic"), c.namespace("empty")
		pg := &schedulingv1beta1.PodGroup{ObjectMeta: metav1.ObjectMeta{Name: "train"}}
		pg.Spec.SchedulingPolicy.Basic = &schedulingv1beta1.BasicSchedulingPolicy{}
		if _, err := c.client.SchedulingV1beta1().PodGroups(basic).Create(t.Context(), pg, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		c.members(basic, "w-0")
		c.bind(basic, "w-0")
		c.group(empty, 2)
		// One that is looked at after them.
		after := c.namespace("after")
		c.group(after, 1)
		c.members(after, "w-0")
		c.bind(after, "w-0")
		c.wait(after, "Running 1/1/0/0")
		for _, ns := range []string{basic, empty} {
			if s := c.status(ns); s != (groupStatus{}) {
				t.Errorf("%s has the status %s", ns, s)
			}
		}
	})

	t.Run("metrics", func(t *testing.T) {
		p.t = t
		for _, want := range []string{
			`weft_gang_evicted_total{reason="partial"} 1`, `weft_gang_evicted_total{reason="unbound"} 1`,
			`weft_gang_evicted_total{reason="member-lost"} 2`, `weft_gang_phase{phase="Finished"} 1`, `weft_gang_phase{phase="Running"} 4`,
			"weft_gang_partly_bound 0",
		} {
			p.metric(want)
		}
	})
}

// TestControllerOfNativeGangsRestarts: what has to be remembered stands in the PodGroup: since when a gang is partial, how many
// ran, and how many succeeded.
func TestControllerOfNativeGangsRestarts(t *testing.T) {
	c := startNativeGangCluster(t)
	first := startController(t, c.cp)
	partial, lost, finishing := c.namespace("partial"), c.namespace("lost"), c.namespace("finishing")
	c.group(lost, 2, podspec.AnnotationOnMemberLost, "restart", podspec.AnnotationPartialGrace, "1h")
	c.group(finishing, 3, podspec.AnnotationPartialGrace, "1s")
	for _, ns := range []string{lost, finishing} {
		c.members(ns, "w-0", "w-1", "w-2")
		c.bind(ns, "w-0", "w-1", "w-2")
		c.wait(ns, "Running 3/3/0/0")
	}
	c.end(finishing, "w-0", corev1.PodSucceeded)
	c.end(finishing, "w-1", corev1.PodSucceeded)
	c.wait(finishing, "Running 3/1/2/0")
	c.group(partial, 3, podspec.AnnotationPartialGrace, "6s")
	c.members(partial, "w-0", "w-1", "w-2")
	c.bind(partial, "w-0", "w-1")
	since := c.wait(partial, "Unknown 2/").ScheduleStartTime
	if since == nil {
		t.Fatal("a partial gang does not say since when it is")
	}
	first.end(syscall.SIGKILL)

	// Nobody sees these leave, and nothing of them is left to see.
	c.lose(lost, "w-1")
	c.lose(finishing, "w-0")
	c.lose(finishing, "w-1")

	// Neither the second, which ends too, nor the third begins to count anew.
	second := startController(t, c.cp)
	c.left(lost, "")
	second.end(syscall.SIGKILL)
	startController(t, c.cp)
	c.left(partial, "w-2")
	want := since.UTC().Format(time.RFC3339)
	if note := c.event(partial, "PodGroup", "train", "GangEvicted"); !strings.Contains(note, "since "+want) {
		t.Errorf("event %q: want since %s, as the first controller wrote", note, want)
	}
	if now := time.Now(); now.Before(since.Add(6 * time.Second)) {
		t.Errorf("evicted at %v, before %v and the grace of 6s are over", now, since)
	}
	c.left(finishing, "w-2")
	c.wait(finishing, "Running 3/1/2/0")
}

// TestNativeGangsAreStartedAgain: scheduler and controller beside each other, each with its own conditions.
func TestNativeGangsAreStartedAgain(t *testing.T) {
	c := &gangCluster{cluster: startNativeCluster(t, "h100=4", 4), native: true}
	c.startScheduler()
	startController(t, c.cp)
	const ns = metav1.NamespaceDefault
	c.nativeGroup("restarts", 2, func(pg *schedulingv1beta1.PodGroup) {
		pg.Annotations = map[string]string{podspec.AnnotationOnMemberLost: "restart"}
	})
	c.nativeGroup("replaces", 2)
	for _, group := range []string{"restarts", "replaces"} {
		for i := range 2 {
			c.create(nativeWorker(group, i, 8))
		}
		c.nativeStarted(group, 2)
	}
	conditions := func(group, reason string) {
		t.Helper()
		eventually(t, time.Minute, func() string {
			pg, err := c.client.SchedulingV1beta1().PodGroups(ns).Get(t.Context(), group, metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			whole := meta.FindStatusCondition(pg.Status.Conditions, "weft.sh/GangWhole")
			if whole == nil || whole.Reason != reason || !meta.IsStatusConditionTrue(pg.Status.Conditions, "PodGroupInitiallyScheduled") {
				return fmt.Sprintf("conditions of %s: %+v: want %s beside the scheduler's", group, pg.Status.Conditions, reason)
			}
			return ""
		})
	}
	conditions("restarts", "Running")
	conditions("replaces", "Running")
	stays := c.pod("replaces-0").UID
	c.lose(ns, "restarts-1")
	c.lose(ns, "replaces-1")
	eventually(t, time.Minute, func() string {
		if got := c.names(ns); got != "replaces-0" {
			return fmt.Sprintf("pods %q are left: want that of the gang that replaces", got)
		}
		return ""
	})
	conditions("restarts", "Pending") // all have left
	conditions("replaces", "Unknown")
	c.create(nativeWorker("restarts", 0, 8))
	c.create(nativeWorker("restarts", 1, 8))
	c.create(nativeWorker("replaces", 1, 8))
	c.holdsOwn(append(c.nativeStarted("restarts", 2), c.nativeStarted("replaces", 2)...), 8)
	conditions("restarts", "Running")
	conditions("replaces", "Running")
	if uid := c.pod("replaces-0").UID; uid != stays {
		t.Errorf("the other member is %s now, was %s: want it to go on", uid, stays)
	}
}
