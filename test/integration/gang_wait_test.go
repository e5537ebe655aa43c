package integration

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"weft.sh/weft/pkg/playground"
	"weft.sh/weft/pkg/podspec"
)

// keeper is a finalizer: a pod with it stays where it is after it is deleted, as a pod does that takes its time to end.
const keeper = "weft.sh/test"

// urgent makes the priority class of that name.
func (c *cluster) urgent() {
	c.t.Helper()
	_, err := c.client.SchedulingV1().PriorityClasses().Create(c.t.Context(), &schedulingv1.PriorityClass{
		ObjectMeta: metav1.ObjectMeta{Name: "urgent"}, Value: 1000,
	}, metav1.CreateOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
}

// gangOf is gang, with changes to the members.
func (c *cluster) gangOf(name string, members int, gpus int64, changes ...func(*corev1.Pod)) {
	c.t.Helper()
	c.group(name, int64(members), nil)
	for i := range members {
		p := worker(name, i, gpus)
		for _, f := range changes {
			f(p)
		}
		c.create(p)
	}
}

// single creates a pod of no gang.
func (c *cluster) single(name string, gpus int64, changes ...func(*corev1.Pod)) {
	c.t.Helper()
	p := playground.Pod{Name: name, GPUs: gpus, CPUMilli: 1000}.Object()
	for _, f := range changes {
		f(p)
	}
	c.create(p)
}

func urgently(p *corev1.Pod) { p.Spec.PriorityClassName = "urgent" }

func kept(p *corev1.Pod) { p.Finalizers = []string{keeper} }

// saved says that no work is lost whenever the pod is evicted.
func saved(p *corev1.Pod) {
	metav1.SetMetaDataAnnotation(&p.ObjectMeta, podspec.AnnotationCheckpointedAt, time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
}

func runs(d time.Duration) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		metav1.SetMetaDataAnnotation(&p.ObjectMeta, podspec.AnnotationRuntime, d.String())
	}
}

// letGo takes the finalizer away.
func (c *cluster) letGo(pod string) {
	c.t.Helper()
	_, err := c.client.CoreV1().Pods(metav1.NamespaceDefault).Patch(c.t.Context(), pod, types.MergePatchType,
		[]byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
}

// leaving are the pods that are being deleted.
func (c *cluster) leaving() (names []string) {
	c.t.Helper()
	for _, p := range c.pods() {
		if p.DeletionTimestamp != nil {
			names = append(names, p.Name)
		}
	}
	return names
}

// events are the reasons and notes of the events about objects of the name.
func (c *cluster) events(name string) (out []string) {
	c.t.Helper()
	list, err := c.client.CoreV1().Events(metav1.NamespaceDefault).List(c.t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.name=" + name})
	if err != nil {
		c.t.Fatal(err)
	}
	for _, e := range list.Items {
		out = append(out, e.Reason+": "+e.Message)
	}
	return out
}

// told waits until there is an event about the object that contains the text.
func (c *cluster) told(name, text string) {
	c.t.Helper()
	eventually(c.t, 20*time.Second, func() string {
		events := c.events(name)
		for _, e := range events {
			if strings.Contains(e, text) {
				return ""
			}
		}
		return fmt.Sprintf("the events of %s are %q, want one with %q", name, events, text)
	})
}

// held waits until the scheduler knows that so many GPUs are held.
func (c *cluster) held(gpus float64) {
	c.t.Helper()
	eventually(c.t, 20*time.Second, func() string {
		if n := c.metric("weft_gpu_assigned_milligpu"); n != 1000*gpus {
			return fmt.Sprintf("%v thousandths of GPUs are held, want %v", n, 1000*gpus)
		}
		return ""
	})
}

// gone waits until the pods are gone.
func (c *cluster) gone(names ...string) {
	c.t.Helper()
	eventually(c.t, 20*time.Second, func() string {
		for _, p := range c.pods() {
			for _, name := range names {
				if p.Name == name {
					return name + " is still there"
				}
			}
		}
		return ""
	})
}

func TestAGangTakesThePlaceOfAWholeGangAndNobodyElseDoes(t *testing.T) {
	c := startCluster(t, "h100=4")
	c.urgent()
	c.startScheduler()
	c.gangOf("old", 2, 8, kept, saved)
	c.started("old", 2, 20*time.Second)
	for i := range 16 {
		c.single(fmt.Sprintf("single-%d", i), 1)
	}
	for i := range 16 {
		c.bound(fmt.Sprintf("single-%d", i))
	}
	// The work of the old gang is saved, that of 16 pods is not: 2 of it make room for 2, and the other pods stay.
	c.gangOf("new", 2, 8, urgently)
	eventually(t, 20*time.Second, func() string {
		if got := fmt.Sprint(c.leaving()); got != "[old-0 old-1]" {
			return "leaving are " + got
		}
		return ""
	})
	for _, p := range c.membersOf("old") {
		why := ""
		for _, cond := range p.Status.Conditions {
			if cond.Type == corev1.DisruptionTarget {
				why = cond.Reason
			}
		}
		if why != corev1.PodReasonPreemptionByScheduler {
			t.Errorf("%s is deleted with conditions %+v", p.Name, p.Status.Conditions)
		}
	}
	c.told("old-0", "Preempted by podgroup default/new")
	c.told("new", "Preempting: evicts 2 pods")
	// One victim is gone, and what it had is kept.
	c.letGo("old-0")
	c.held(24)
	c.single("thief", 1)
	c.refused("thief", "ReservedForGang")
	if n := c.metric("weft_gang_reserved"); n != 1 {
		t.Errorf("places are kept for %v gangs, want 1", n)
	}
	c.letGo("old-1")
	c.started("new", 2, 20*time.Second)
	c.held(32)
	if p := c.pod("thief"); p.Spec.NodeName != "" {
		t.Errorf("the thief is on %s", p.Spec.NodeName)
	}
	if n := c.metric("weft_gang_victims_total"); n != 2 {
		t.Errorf("%v victims, want 2", n)
	}
	if n := c.metric("weft_gang_reserved"); n != 0 {
		t.Errorf("places are kept for %v gangs, want none", n)
	}
	c.neverPartial()
}

func TestAGangRespectsDisruptionBudgets(t *testing.T) {
	c := startCluster(t, "h100=2")
	c.urgent()
	c.startScheduler()
	c.gangOf("old", 1, 8, saved)
	c.started("old", 1, 20*time.Second)
	c.single("single", 8)
	c.bound("single")
	// Without the budget it would be the old gang that leaves: its work is saved.
	one := intstr.FromInt32(1)
	_, err := c.client.PolicyV1().PodDisruptionBudgets(metav1.NamespaceDefault).Create(t.Context(), &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Name: "old"},
		Spec: policyv1.PodDisruptionBudgetSpec{
			MinAvailable: &one, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{podspec.LabelPodGroup: "old"}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	c.gangOf("new", 1, 8, urgently)
	c.started("new", 1, 20*time.Second)
	if p := c.pod("old-0"); p.DeletionTimestamp != nil {
		t.Error("the budget of the old gang is violated for nothing")
	}
	c.gone("single")
}

func TestAPlanThatFailsEvictsNobody(t *testing.T) {
	c := startCluster(t, "h100=4")
	c.urgent()
	c.startScheduler()
	c.single("important", 1, urgently)
	c.bound("important")
	for i := range 3 {
		c.single(fmt.Sprintf("single-%d", i), 8)
		c.bound(fmt.Sprintf("single-%d", i))
	}
	c.gangOf("new", 4, 8, urgently)
	for i := range 4 {
		c.refused(fmt.Sprintf("new-%d", i), "InsufficientGangCapacity")
	}
	// A smaller one that never preempts, and another pod, show that the scheduler has had its say.
	never := corev1.PreemptNever
	_, err := c.client.SchedulingV1().PriorityClasses().Create(t.Context(), &schedulingv1.PriorityClass{
		ObjectMeta: metav1.ObjectMeta{Name: "polite"}, Value: 1000, PreemptionPolicy: &never,
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	c.gangOf("polite", 1, 8, func(p *corev1.Pod) { p.Spec.PriorityClassName = "polite" })
	c.refused("polite-0", "InsufficientGangCapacity")
	c.single("probe", 7)
	c.bound("probe")
	if names := c.leaving(); len(names) > 0 || len(c.pods()) != 10 {
		t.Errorf("%v are leaving, %d pods are there", names, len(c.pods()))
	}
	if n := c.metric("weft_gang_preemptions_total"); n != 0 {
		t.Errorf("%v preemptions, want none", n)
	}
}

func TestShortJobsOvertakeAGangThatWaits(t *testing.T) {
	c := startCluster(t, "h100=2")
	c.startScheduler()
	c.single("first", 8, runs(10*time.Minute))
	c.bound("first")
	c.single("second", 4, runs(20*time.Minute))
	c.bound("second")
	c.gang("large", 2, 8)
	c.refused("large-0", "InsufficientGangCapacity")
	c.told("large", "Reserved: starts at about")
	c.single("long", 4, runs(time.Hour))
	c.refused("long", "ReservedForGang")
	c.single("unknown", 4)
	c.refused("unknown", "ReservedForGang")
	c.single("short", 4, runs(5*time.Minute))
	c.bound("short")
	// All end before they said: the gang starts now, the others after it.
	for _, name := range []string{"short", "first", "second"} {
		c.delete(name)
	}
	c.started("large", 2, 20*time.Second)
	for i := range 2 {
		c.delete(fmt.Sprintf("large-%d", i))
	}
	c.bound("long")
	c.bound("unknown")
	c.neverPartial()
}

// A gang that is given up gives back what was kept for it, without another event.
func TestWhatIsKeptForAGangIsGivenBackWithIt(t *testing.T) {
	c := startCluster(t, "h100=2")
	c.startScheduler()
	c.single("first", 8, runs(10*time.Minute))
	c.bound("first")
	c.gang("large", 2, 8)
	c.told("large", "Reserved: starts at about")
	c.single("long", 4, runs(time.Hour))
	c.refused("long", "ReservedForGang")
	for i := range 2 {
		c.delete(fmt.Sprintf("large-%d", i))
	}
	c.bound("long")
}

func TestAGangThatWaitsTooLongGetsWhatBecomesFree(t *testing.T) {
	c := startCluster(t, "h100=2")
	config, err := os.ReadFile(c.options.Config)
	if err != nil {
		t.Fatal(err)
	}
	aging := strings.Replace(string(config), "kind: GangArgs", "kind: GangArgs\n      agingSeconds: 2", 1)
	if aging == string(config) {
		t.Fatalf("no GangArgs in\n%s", config)
	}
	if err := os.WriteFile(c.options.Config, []byte(aging), 0o600); err != nil {
		t.Fatal(err)
	}
	c.startScheduler()
	for i := range 4 {
		c.single(fmt.Sprintf("single-%d", i), 4)
		c.bound(fmt.Sprintf("single-%d", i))
	}
	c.gang("large", 2, 8)
	c.told("large", "Reserved: has waited")
	for i := range 3 {
		c.delete(fmt.Sprintf("single-%d", i))
		c.held(float64(12 - 4*i))
		name := fmt.Sprintf("small-%d", i)
		c.single(name, 1)
		c.refused(name, "ReservedForGang")
	}
	c.delete("single-3")
	c.started("large", 2, 20*time.Second)
}

func TestALargeClusterSaysAtOnceThatAGangHasNoRoom(t *testing.T) {
	c := startCluster(t, "h100=500")
	c.urgent()
	c.startScheduler()
	var pods []*corev1.Pod
	for i := range 500 {
		pods = append(pods, playground.Pod{Name: fmt.Sprintf("single-%d", i), GPUs: 8, CPUMilli: 1000}.Object())
	}
	c.createAll(pods)
	eventually(t, 3*time.Minute, func() string {
		for _, p := range c.pods() {
			if p.Spec.NodeName == "" {
				return p.Name + " is not bound"
			}
		}
		return ""
	})
	for _, size := range []struct {
		members int
		gpus    int64
	}{{10, 8}, {80, 1}} {
		name := fmt.Sprintf("large-%d", size.members)
		c.group(name, int64(size.members), nil)
		pods = nil
		for i := range size.members {
			pods = append(pods, worker(name, i, size.gpus))
		}
		c.createAll(pods)
		created := time.Now()
		message := ""
		eventually(t, time.Minute, func() string {
			for _, p := range c.membersOf(name) {
				if message = condition(&p); !strings.Contains(message, "InsufficientGangCapacity") {
					return fmt.Sprintf("%s was told %q", p.Name, message)
				}
			}
			return ""
		})
		t.Logf("%d members were told within %v of the last one's creation; plans took %.1f ms in all: %s",
			size.members, time.Since(created), 1000*c.metric("weft_gang_plan_seconds_sum"), message)
	} // Nor does it take long to find who is to leave.
	before := 1000 * c.metric("weft_gang_plan_seconds_sum")
	created := time.Now()
	c.gangOf("urgent", 10, 8, urgently)
	c.started("urgent", 10, time.Minute)
	t.Logf("10 members took the place of others within %v; plans took %.1f ms", time.Since(created), 1000*c.metric("weft_gang_plan_seconds_sum")-before)
	if n := c.metric("weft_gang_victims_total"); n != 10 {
		t.Errorf("%v victims, want 10", n)
	}
}
