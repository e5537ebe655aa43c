package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"weft.sh/weft/pkg/apis/weft/v1alpha1"
	"weft.sh/weft/pkg/playground"
	"weft.sh/weft/pkg/podspec"
)

// queue creates a Queue, or replaces its spec.
func (c *cluster) queue(name, spec string) {
	c.t.Helper()
	client := dynamicClient(c.t, c.cfg).Resource(v1alpha1.Queues)
	u := weftObject(c.t, "Queue", name, spec)
	if now, err := client.Get(c.t.Context(), name, metav1.GetOptions{}); err == nil {
		u.SetResourceVersion(now.GetResourceVersion())
		if _, err := client.Update(c.t.Context(), u, metav1.UpdateOptions{}); err != nil {
			c.t.Fatal(err)
		}
	} else if _, err := client.Create(c.t.Context(), u, metav1.CreateOptions{}); err != nil {
		c.t.Fatal(err)
	}
}

// checkpoint writes what the ledger would say of the queue.
func (c *cluster) checkpoint(name string, b v1alpha1.BudgetStatus) {
	c.t.Helper()
	patch, err := json.Marshal(map[string]any{"status": map[string]any{"budget": b}})
	if err != nil {
		c.t.Fatal(err)
	}
	client := dynamicClient(c.t, c.cfg).Resource(v1alpha1.Queues)
	if _, err := client.Patch(c.t.Context(), name, types.MergePatchType, patch, metav1.PatchOptions{}, "status"); err != nil {
		c.t.Fatal(err)
	}
}

// charged is a pod with one GPU of the queue that says how long it runs.
func charged(name, queue, runtime string, change ...func(*corev1.Pod)) *corev1.Pod {
	o := playground.Pod{Name: name, GPUs: 1}.Object()
	if o.Labels == nil {
		o.Labels = map[string]string{}
	}
	o.Labels[podspec.LabelQueue] = queue
	if runtime != "" {
		o.Annotations[podspec.AnnotationRuntime] = runtime
	}
	for _, f := range change {
		f(o)
	}
	return o
}

func percent(n int64) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Containers[0].Resources.Limits = corev1.ResourceList{podspec.ResourceGPUPercent: *quantity(n)}
	}
}

func memberOf(gang string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Labels[podspec.LabelPodGroup] = gang }
}

// heldBack waits until the pod is told that its queue holds it back, for that reason and with all of that in the message.
func (c *cluster) heldBack(name, reason string, parts ...string) {
	c.t.Helper()
	eventually(c.t, 20*time.Second, func() string {
		p := c.pod(name)
		if p.Spec.NodeName != "" {
			c.t.Fatalf("%s is bound to %s, want it held back: %s", name, p.Spec.NodeName, reason)
		}
		got := ""
		for _, cond := range p.Status.Conditions {
			if cond.Type == corev1.PodScheduled {
				got = cond.Reason + ": " + cond.Message
			}
		}
		for _, part := range append(parts, reason+": ") {
			if !strings.Contains(got, part) {
				return fmt.Sprintf("%s is told %q, want %s and %q", name, got, reason, part)
			}
		}
		return ""
	})
}

// unschedulable watches for pods that an autoscaler would act on; the function that it returns names them.
func (c *cluster) unschedulable() func() []string {
	c.t.Helper()
	ctx, cancel := context.WithCancel(c.t.Context())
	w, err := c.client.CoreV1().Pods(metav1.NamespaceAll).Watch(ctx, metav1.ListOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	var mu sync.Mutex
	var seen []string
	done := make(chan struct{})
	go func() {
		defer close(done)
		for e := range w.ResultChan() {
			p, ok := e.Object.(*corev1.Pod)
			if !ok {
				continue
			}
			for _, cond := range p.Status.Conditions {
				if cond.Type == corev1.PodScheduled && cond.Reason == corev1.PodReasonUnschedulable {
					mu.Lock()
					seen = append(seen, p.Name+": "+cond.Message)
					mu.Unlock()
				}
			}
		}
	}()
	return func() []string {
		w.Stop()
		cancel()
		<-done
		mu.Lock()
		defer mu.Unlock()
		return seen
	}
}

func TestQueuesOnACluster(t *testing.T) {
	c := startCluster(t, "h100=4")
	stop := c.unschedulable()
	c.startScheduler()

	t.Run("a job of two hours with one left is refused, with the figures", func(t *testing.T) {
		c.queue("hours", "budget: {gpuHours: 3, period: Month}")
		c.create(charged("first", "hours", "2h"))
		c.bound("first")
		c.create(charged("second", "hours", "2h"))
		c.heldBack("second", "OverBudget", "queue hours has 1 GPU-hours left of 3", "used 0, held 2", "2 are needed", "the period ends ")
		c.create(charged("short", "hours", "30m"))
		c.bound("short")
		if p := c.pod("second"); p.Status.NominatedNodeName != "" {
			t.Errorf("second is nominated to %s", p.Status.NominatedNodeName)
		}
		c.queue("hours", "budget: {gpuHours: 5, period: Month}")
		c.bound("second")
	})
	t.Run("hours that are freed wake who waits", func(t *testing.T) {
		c.queue("freed", "budget: {gpuHours: 1, period: None}")
		c.create(charged("holds", "freed", "1h"))
		c.bound("holds")
		c.create(charged("waits", "freed", "50m"))
		c.heldBack("waits", "OverBudget", "held 1")
		c.delete("holds")
		c.bound("waits")
	})
	t.Run("four quarters for an hour are an hour", func(t *testing.T) {
		c.queue("quarters", "budget: {gpuHours: 1, period: None}")
		for i := range 4 {
			c.create(charged(fmt.Sprint("quarter-", i), "quarters", "1h", percent(25)))
			c.bound(fmt.Sprint("quarter-", i))
		}
		c.create(charged("percent", "quarters", "1h", percent(1)))
		c.heldBack("percent", "OverBudget", "has 0 GPU-hours left of 1", "0.01 are needed")
	})
	t.Run("queues that may not be used", func(t *testing.T) {
		c.queue("theirs", "namespaces: {names: [kube-system]}")
		c.create(charged("foreign", "theirs", ""))
		c.heldBack("foreign", "QueueForbidden", "may not use queue theirs")
		c.create(charged("astray", "nowhere", ""))
		c.heldBack("astray", "QueueNotFound", "queue nowhere does not exist")
		c.queue("nowhere", "")
		c.bound("astray")
	})
	t.Run("the limit of an ancestor", func(t *testing.T) {
		c.queue("org", "gpus: {limit: 1}")
		c.queue("team-a", "parent: org")
		c.queue("team-b", "parent: org")
		c.create(charged("in-a", "team-a", ""))
		c.bound("in-a")
		c.create(charged("in-b", "team-b", ""))
		c.heldBack("in-b", "OverLimit", "queue org has 0 GPUs left of 1")
		c.delete("in-a")
		c.bound("in-b")
	})
	t.Run("a gang holds once", func(t *testing.T) {
		c.queue("gangs", "budget: {gpuHours: 4, period: None}")
		c.group("train", 4, nil)
		for i := range 4 {
			c.create(charged(fmt.Sprint("train-", i), "gangs", "1h", memberOf("train")))
		}
		c.started("train", 4, 20*time.Second)
		c.create(charged("after-train", "gangs", "10m"))
		c.heldBack("after-train", "OverBudget", "used 0, held 4")
		c.group("wide", 2, nil)
		for i := range 2 {
			c.create(charged(fmt.Sprint("wide-", i), "gangs", "10m", memberOf("wide")))
		}
		for i := range 2 {
			c.heldBack(fmt.Sprint("wide-", i), "OverBudget", "held 4")
		}
		c.neverPartial()
	})
	t.Run("what the ledger says counts", func(t *testing.T) {
		c.queue("ledger", "budget: {gpuHours: 10, period: None}")
		now := metav1.Now()
		c.checkpoint("ledger", v1alpha1.BudgetStatus{PeriodStart: metav1.Unix(0, 0), AsOf: now, UsedMilliGPUSeconds: 9 * 3_600_000})
		c.create(charged("two", "ledger", "2h"))
		c.heldBack("two", "OverBudget", "has 1 GPU-hours left of 10 (used 9, held 0), 2 are needed")
		c.checkpoint("ledger", v1alpha1.BudgetStatus{
			PeriodStart: metav1.Unix(0, 0), AsOf: metav1.NewTime(now.Add(time.Second)), UsedMilliGPUSeconds: 8 * 3_600_000, // a correction
		})
		c.bound("two")
	})

	for _, who := range stop() {
		t.Errorf("an autoscaler would buy a node for %s", who)
	}
	if n := c.metric("weft_queue_gated_pods"); n != 5 { // percent, foreign, after-train, wide-0, wide-1
		t.Errorf("%v pods are held back, says the metric, want 5", n)
	}
}

func TestQueuesThatAreNotServedHoldNobodyBack(t *testing.T) {
	c := startCluster(t, "h100=1", "CustomResourceDefinition")
	c.startScheduler()
	c.create(charged("a", "nowhere", "1h"))
	c.bound("a")
}

// TestASchedulerThatIsKilledNeverOverspends: at no moment more is bound than the budget allows, and in the end as much as it does.
func TestASchedulerThatIsKilledNeverOverspends(t *testing.T) {
	const budget, kills = 12, 6
	c := startCluster(t, "h100=4")
	c.queue("team", fmt.Sprintf("budget: {gpuHours: %d, period: None}", budget))
	c.startScheduler()
	name := func(i int) string { return fmt.Sprintf("p%02d", i) }
	bound := func() (n int) {
		for _, p := range c.pods() {
			if p.Spec.NodeName != "" {
				n++
			}
		}
		return n
	}
	for round := range kills {
		for i := range 4 {
			c.create(charged(name(4*round+i), "team", "1h"))
		}
		want := min(budget, 2*(round+1))
		eventually(t, 30*time.Second, func() string {
			n := bound()
			if n > budget {
				t.Fatalf("%d pods of an hour are bound, of a budget of %d", n, budget)
			}
			if n < want {
				return fmt.Sprintf("%d pods are bound, want %d", n, want)
			}
			return ""
		})
		c.scheduler.Kill() // with bindings under way
		c.startScheduler()
	}
	eventually(t, 30*time.Second, func() string {
		if n := bound(); n != budget {
			return fmt.Sprintf("%d pods are bound, want %d", n, budget)
		}
		return ""
	})
	waiting := 0
	for _, p := range c.pods() {
		if p.Spec.NodeName == "" {
			c.heldBack(p.Name, "OverBudget", fmt.Sprintf("held %d", budget))
			waiting++
		}
	}
	if want := 4*kills - budget; waiting != want {
		t.Errorf("%d pods wait, want %d", waiting, want)
	}
}

func TestAGuaranteeIsTakenBackOnACluster(t *testing.T) {
	c := startCluster(t, "h100=2")
	c.startScheduler()
	c.queue("lent", "gpus: {guaranteed: 8}")
	c.queue("owner", "gpus: {guaranteed: 8}")
	in := func(queue string) (bound int) {
		for _, p := range c.pods() {
			if p.Labels[podspec.LabelQueue] == queue && p.Spec.NodeName != "" && p.DeletionTimestamp == nil {
				bound++
			}
		}
		return bound
	}
	for i := range 16 {
		c.create(charged(fmt.Sprint("lent-", i), "lent", ""))
	}
	eventually(t, 30*time.Second, func() string {
		if n := in("lent"); n != 16 {
			return fmt.Sprintf("%d pods are bound of 16 that may borrow", n)
		}
		return ""
	})
	c.group("train", 8, nil)
	for i := range 8 {
		c.create(charged(fmt.Sprint("train-", i), "owner", "", memberOf("train")))
	}
	pods := c.started("train", 8, 30*time.Second)
	t.Logf("the guarantee is taken back in %v", span(pods))
	if n := in("lent"); n != 8 {
		t.Errorf("%d pods of the other queue are left, want the 8 that are guaranteed to it", n)
	}
	c.neverPartial()
}

// TestAGuaranteeBelowALimitIsTakenBackOnACluster: GPUs are idle, and all that the limit of the queue above allows is borrowed: who is
// guaranteed some of it gets it, with a scheduler that is killed while the borrowers leave, and nobody looks unschedulable.
func TestAGuaranteeBelowALimitIsTakenBackOnACluster(t *testing.T) {
	c := startCluster(t, "h100=3")
	stop := c.unschedulable()
	c.startScheduler()
	c.queue("org", "gpus: {guaranteed: 16, limit: 16}")
	c.queue("dept", "{parent: org, gpus: {guaranteed: 8}}")
	c.queue("owner", "{parent: dept, gpus: {guaranteed: 8}}")
	c.queue("lent", "{parent: org, gpus: {guaranteed: 8}}")
	in := func(queue string) (bound int) {
		for _, p := range c.pods() {
			if p.Labels[podspec.LabelQueue] == queue && p.Spec.NodeName != "" && p.DeletionTimestamp == nil {
				bound++
			}
		}
		return bound
	}
	for i := range 20 {
		c.create(charged(fmt.Sprint("lent-", i), "lent", ""))
	}
	eventually(t, 30*time.Second, func() string {
		if n := in("lent"); n != 16 {
			return fmt.Sprintf("%d pods are bound of 16 that may borrow", n)
		}
		return ""
	})
	c.group("train", 7, nil)
	for i := range 7 {
		c.create(charged(fmt.Sprint("train-", i), "owner", "", memberOf("train")))
	}
	eventually(t, 20*time.Second, func() string {
		if in("lent") == 16 {
			return "nobody leaves"
		}
		return ""
	})
	c.scheduler.Kill()
	c.startScheduler()
	c.started("train", 7, 30*time.Second)
	c.create(charged("single", "owner", ""))
	c.bound("single")
	if n := in("lent"); n != 8 {
		t.Errorf("%d pods of the other queue are left, want the 8 that are guaranteed to it", n)
	}
	c.create(charged("more", "owner", "")) // above the guarantee: nobody leaves for it
	c.heldBack("more", "OverLimit", "queue org has 0 GPUs left of 16")
	c.neverPartial()
	for _, who := range stop() {
		t.Errorf("an autoscaler would buy a node for %s", who)
	}
}
