package integration

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	schedulingv1beta1 "k8s.io/api/scheduling/v1beta1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"weft.sh/weft/pkg/playground"
)

// leavingAre waits until these pods are being deleted and no others.
func (c *cluster) leavingAre(want ...string) {
	c.t.Helper()
	eventually(c.t, 20*time.Second, func() string {
		if got := fmt.Sprint(c.leaving()); got != fmt.Sprint(want) {
			message := ""
			for _, p := range c.pods() {
				if m := condition(&p); m != "" {
					message = p.Name + " was told " + m
				}
			}
			return fmt.Sprintf("leaving are %s, want %v; %s", got, want, message)
		}
		return ""
	})
}

// withoutGPUs creates a pod that asks for so many cores and no GPU.
func (c *cluster) withoutGPUs(name string, cores int64, changes ...func(*corev1.Pod)) {
	c.t.Helper()
	p := playground.Pod{Name: name, CPUMilli: 1000 * cores}.Object()
	for _, f := range changes {
		f(p)
	}
	c.create(p)
}

// cores are those of a node.
func (c *cluster) cores() int64 {
	c.t.Helper()
	list, err := c.client.CoreV1().Nodes().List(c.t.Context(), metav1.ListOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	return list.Items[0].Status.Allocatable.Cpu().Value()
}

func TestAPodWithoutGPUsTakesThePlaceOfAWholeGangOrOfNobodyInIt(t *testing.T) {
	c := startCluster(t, "h100=3")
	c.urgent()
	c.startScheduler()
	cores := c.cores()
	most := func(p *corev1.Pod) {
		p.Spec.Containers[0].Resources.Requests[corev1.ResourceCPU] = *resource.NewQuantity(cores-4, resource.DecimalSI)
	}
	c.gangOf("old", 2, 1, kept, most)
	c.started("old", 2, 20*time.Second)
	c.withoutGPUs("plain", cores-4, kept)
	c.bound("plain")

	// A pod in no gang goes first, and only then, when nobody else can, the gang as a whole.
	c.withoutGPUs("first", cores/2, urgently)
	c.leavingAre("plain")
	c.letGo("plain")
	c.bound("first")
	c.withoutGPUs("second", cores-4, urgently)
	c.leavingAre("old-0", "old-1")
	c.told("old-0", "Preempted by pod default/second")
	c.letGo("old-0")
	c.letGo("old-1")
	c.bound("second")
}

func urgentGroup(pg *schedulingv1beta1.PodGroup) { pg.Spec.PriorityClassName = "urgent" }

func TestANativeGangTakesThePlaceOfWholeGangs(t *testing.T) {
	c := startNativeCluster(t, "h100=5", 5)
	c.urgent()
	c.startScheduler()
	native := func(group string, i int, changes ...func(*corev1.Pod)) {
		p := nativeWorker(group, i, 8)
		for _, f := range changes {
			f(p)
		}
		c.create(p)
	}
	// A native gang, one of the other kind, and a node that is free.
	c.nativeGroup("old", 2)
	for i := range 2 {
		native("old", i, kept, saved)
	}
	c.nativeStarted("old", 2)
	c.gangOf("custom", 2, 8, kept)
	c.started("custom", 2, 20*time.Second)
	// It has work to lose by now: in whole seconds, as the API has them.
	eventually(t, 20*time.Second, func() string {
		for _, p := range c.membersOf("custom") {
			if start := p.Status.StartTime; start == nil || time.Since(start.Time) < 2*time.Second {
				return p.Name + " has done nothing yet"
			}
		}
		return ""
	})

	// 3 nodes are needed, and one is free: the native gang, of which no work is lost, leaves as a whole, and the other stays.
	c.nativeGroup("new", 3, urgentGroup)
	for i := range 3 {
		native("new", i, urgently)
	}
	c.leavingAre("old-0", "old-1")
	c.told("old-0", "Preempted by podgroup default/new")
	c.letGo("old-0")
	c.single("thief", 1)
	c.refused("thief", "ReservedForGang")
	c.letGo("old-1")
	c.holdsOwn(c.nativeStarted("new", 3), 8)
	if n := c.metric("weft_gang_victims_total"); n != 2 {
		t.Errorf("%v victims, want 2", n)
	}
	c.neverPartial()
	// 4 nodes are more than pods of lower priority leave: nobody is evicted for a gang that would still not start.
	c.nativeGroup("wide", 4, urgentGroup)
	for i := range 4 {
		native("wide", i, urgently)
	}
	t.Log(c.toldAlike("wide", "InsufficientGangCapacity"))
	if got := c.leaving(); len(got) != 0 {
		t.Errorf("%v are evicted for a gang that cannot start", got)
	}
}
