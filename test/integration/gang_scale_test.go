package integration

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	watchtools "k8s.io/client-go/tools/watch"

	"weft.sh/weft/pkg/playground"
	"weft.sh/weft/pkg/podspec"
)

// createAll creates the pods, several at a time.
func (c *cluster) createAll(pods []*corev1.Pod) {
	c.t.Helper()
	var wg sync.WaitGroup
	queue := make(chan *corev1.Pod, len(pods))
	for _, p := range pods {
		queue <- p
	}
	close(queue)
	for range 16 {
		wg.Go(func() {
			for p := range queue {
				if _, err := c.client.CoreV1().Pods(p.Namespace).Create(c.t.Context(), p, metav1.CreateOptions{}); err != nil {
					c.t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

// bindings calls the function for every pod that is bound from now on, with the time at which the watch showed it, until the
// function is false or the time is over.
func (c *cluster) bindings(within time.Duration, ready func(), f func(p *corev1.Pod, at time.Time) (more bool)) {
	c.t.Helper()
	list, err := c.client.CoreV1().Pods(metav1.NamespaceDefault).List(c.t.Context(), metav1.ListOptions{Limit: 1})
	if err != nil {
		c.t.Fatal(err)
	}
	// The API server ends the watch of a client that it takes for slow, which on a busy machine this may be.
	w, err := watchtools.NewRetryWatcherWithContext(c.t.Context(), list.ResourceVersion, &cache.ListWatch{
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			return c.client.CoreV1().Pods(metav1.NamespaceDefault).Watch(ctx, o)
		},
	})
	if err != nil {
		c.t.Fatal(err)
	}
	defer w.Stop()
	go ready()
	bound := map[string]bool{}
	timeout := time.After(within)
	for {
		select {
		case e := <-w.ResultChan():
			p, ok := e.Object.(*corev1.Pod)
			if !ok {
				c.t.Fatalf("the watch ended: %+v", e)
			}
			if e.Type == watch.Deleted || p.Spec.NodeName == "" || bound[string(p.UID)] {
				continue
			}
			bound[string(p.UID)] = true
			if !f(p, time.Now()) {
				return
			}
		case <-timeout:
			c.t.Fatalf("after %v: %d pods are bound", within, len(bound))
		}
	}
}

// TestALargeGang: 512 pods on 512 nodes of 8 GPUs, all of each node's.
func TestALargeGang(t *testing.T) {
	const members = 512
	c := startCluster(t, fmt.Sprintf("h100=%d", members))
	c.startScheduler()
	c.group("train", members, nil)
	pods := make([]*corev1.Pod, members)
	for i := range pods {
		pods[i] = worker("train", i, 8)
	}
	var created, first, last time.Time
	n := 0
	c.bindings(2*time.Minute, func() {
		c.createAll(pods)
		created = time.Now()
	}, func(_ *corev1.Pod, at time.Time) bool {
		if n++; n == 1 {
			first = at
		}
		last = at
		return n < members
	})
	nodes := map[string]bool{}
	for _, p := range c.started("train", members, 10*time.Second) {
		nodes[p.Spec.NodeName] = true
	}
	t.Logf("last member created to first bound %v, to last bound %v; planned in %.1f ms", first.Sub(created).Round(time.Millisecond),
		last.Sub(created).Round(time.Millisecond), 1000*c.metric("weft_gang_plan_seconds_sum"))
	if cycles := c.metric("scheduler_scheduling_algorithm_duration_seconds_count"); cycles > 0 {
		t.Logf("%v cycles of %.3f ms on average, the one that plans included", cycles,
			1000*c.metric("scheduler_scheduling_algorithm_duration_seconds_sum")/cycles)
	}
	if len(nodes) != members {
		t.Errorf("the members are on %d nodes, want each on its own", len(nodes))
	}
	c.neverPartial()

	// One more of the same size finds nothing, and every member hears so.
	pods = nil
	for i := range 10 {
		pods = append(pods, worker("more", i, 8))
	}
	c.group("more", 10, nil)
	start := time.Now()
	c.createAll(pods)
	eventually(t, 30*time.Second, func() string {
		for _, p := range c.membersOf("more") {
			if condition(&p) == "" {
				return p.Name + " was told nothing"
			}
		}
		return ""
	})
	t.Logf("10 members without room were told in %v", time.Since(start).Round(time.Millisecond))
}

// TestTwoGangsOfMoreThanHalfNeverHoldEachOtherUp: of two gangs whose pods come in any order, and with pauses between them, one
// starts and the other holds nothing, until the first has ended. No plan is ever undone, so nobody waits for a time-out: they
// end plans.
func TestTwoGangsOfMoreThanHalfNeverHoldEachOtherUp(t *testing.T) {
	const rounds, members, nodes = 50, 5, 8
	c := startCluster(t, fmt.Sprintf("h100=%d", nodes))
	c.startScheduler()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	longest := time.Duration(0)
	for round := range rounds {
		names := []string{fmt.Sprintf("a%d", round), fmt.Sprintf("b%d", round)}
		var objects []func()
		for _, name := range names {
			objects = append(objects, func() { c.group(name, members, nil) })
			for i := range members {
				objects = append(objects, func() { c.create(worker(name, i, 8)) })
			}
		}
		r.Shuffle(len(objects), func(i, j int) { objects[i], objects[j] = objects[j], objects[i] })
		bound := map[string]int{}
		c.bindings(20*time.Second, func() {
			for _, create := range objects {
				if r.IntN(4) == 0 { // the pauses are what is tested, not a wait for anything
					<-time.After(time.Duration(r.IntN(40)) * time.Millisecond)
				}
				create()
			}
		}, func(p *corev1.Pod, _ time.Time) bool {
			bound[p.Labels[podspec.LabelPodGroup]]++
			if len(bound) > 1 {
				t.Fatalf("round %d: both gangs hold nodes: %v", round, bound)
			}
			return bound[p.Labels[podspec.LabelPodGroup]] < members
		})
		first, second := names[0], names[1]
		if bound[first] == 0 {
			first, second = second, first
		}
		start := time.Now()
		c.bindings(20*time.Second, func() { c.deleteGang(first) }, func(p *corev1.Pod, _ time.Time) bool {
			bound[p.Labels[podspec.LabelPodGroup]]++
			return bound[second] < members
		})
		longest = max(longest, time.Since(start))
		c.deleteGang(second)
		eventually(t, 20*time.Second, func() string {
			if n := len(c.pods()); n > 0 {
				return fmt.Sprintf("%d pods are left", n)
			}
			return ""
		})
	}
	t.Logf("the second gang started at most %v after the first was deleted", longest.Round(time.Millisecond))
	t.Logf("planned %v, refused %v, errors %v", c.metric(`weft_gang_attempts_total{result="planned"}`),
		c.metric(`weft_gang_attempts_total{result="refused"}`), c.metric(`weft_gang_attempts_total{result="error"}`))
	c.never(`weft_gang_attempts_total{result="undone"}`, "plans were undone")
	c.neverPartial()
}

// deleteGang deletes the members and their PodGroup.
func (c *cluster) deleteGang(name string) {
	c.t.Helper()
	for _, p := range c.membersOf(name) {
		c.delete(p.Name)
	}
	if err := podGroups(c.t, c.cfg).Delete(c.t.Context(), name, metav1.DeleteOptions{}); err != nil {
		c.t.Error(err)
	}
}

// TestAGangIsWholeAfterTheSchedulerWasKilled kills the scheduler when it has bound the first members.
func TestAGangIsWholeAfterTheSchedulerWasKilled(t *testing.T) {
	const nodes, members = "h100=16", 128
	c := startCluster(t, nodes)
	audit := newAudit(t, nodes)
	stop := audit.watch(c)
	for round := range 3 {
		name := fmt.Sprintf("train%d", round)
		c.group(name, members, nil)
		pods := make([]*corev1.Pod, members)
		for i := range pods {
			pods[i] = worker(name, i, 1)
		}
		c.startScheduler()
		n := 0
		c.bindings(time.Minute, func() { c.createAll(pods) }, func(*corev1.Pod, time.Time) bool {
			n++
			return n < 1+round*40
		})
		c.scheduler.Kill()
		bound := 0
		for _, p := range c.membersOf(name) {
			if p.Spec.NodeName != "" {
				bound++
			}
		}
		t.Logf("killed after the watch had shown %d; %d of %d members were bound", n, bound, members)
		c.startScheduler()
		c.started(name, members, time.Minute)
		c.neverPartial()
		c.scheduler.Kill()
		c.deleteGang(name)
	}
	stop()
}

// TestLauncherAndWorkers: members of two shapes, of which one asks for no GPU.
func TestLauncherAndWorkers(t *testing.T) {
	c := startCluster(t, "h100=2,l4=1")
	c.startScheduler()
	c.group("mpi", 5, nil)
	launcher := playground.Pod{Name: "mpi-launcher", CPUMilli: 500, MemoryMiB: 256}.Object()
	launcher.Labels = map[string]string{podspec.LabelPodGroup: "mpi"}
	c.create(launcher)
	for i := range 4 {
		c.create(worker("mpi", i, 4))
	}
	for _, p := range c.started("mpi", 5, 20*time.Second) {
		if hasGPUs := p.Annotations[podspec.AnnotationGPUs] != ""; hasGPUs == (p.Name == "mpi-launcher") {
			t.Errorf("%s holds GPUs: %t", p.Name, hasGPUs)
		}
	}
	c.neverPartial()
}

// TestAnElasticGang starts with what there is room for, at least its minimum, and takes more when more is free.
func TestAnElasticGang(t *testing.T) {
	c := startCluster(t, "h100=4")
	c.startScheduler()
	c.create(playground.Pod{Name: "one", GPUs: 8}.Object())
	c.bound("one")
	c.group("elastic", 4, nil)
	for i := range 8 {
		c.create(worker("elastic", i, 4)) // room for 6
	}
	c.started("elastic", 6, 20*time.Second)
	c.delete("one")
	c.started("elastic", 8, 20*time.Second)
	c.neverPartial()
}
