package integration

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	schedulingv1beta1 "k8s.io/api/scheduling/v1beta1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/playground"
	"weft.sh/weft/pkg/podspec"
)

const rackLabel = "topology.kubernetes.io/rack"

// startNativeCluster starts a cluster of which the API server has native PodGroups. Each rack has so many nodes.
func startNativeCluster(t *testing.T, nodes string, rack int) *cluster {
	t.Helper()
	list, err := playground.ParseNodes(nodes)
	if err != nil {
		t.Fatal(err)
	}
	for i := range list {
		list[i].Rack = fmt.Sprintf("rack-%d", i/rack)
	}
	return startClusterOf(t, playground.ControlPlaneOptions{APIServerArgs: []string{
		"--runtime-config=scheduling.k8s.io/v1beta1=true", "--feature-gates=GenericWorkload=true,TopologyAwareWorkloadScheduling=true",
	}}, list)
}

// nativeGroup creates a native PodGroup with the policy gang, or the policy basic for a minimum of 0.
func (c *cluster) nativeGroup(name string, minCount int32, change ...func(*schedulingv1beta1.PodGroup)) {
	c.t.Helper()
	pg := &schedulingv1beta1.PodGroup{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if minCount > 0 {
		pg.Spec.SchedulingPolicy.Gang = &schedulingv1beta1.GangSchedulingPolicy{MinCount: minCount}
	} else {
		pg.Spec.SchedulingPolicy.Basic = &schedulingv1beta1.BasicSchedulingPolicy{}
	}
	for _, f := range change {
		f(pg)
	}
	if _, err := c.client.SchedulingV1beta1().PodGroups(metav1.NamespaceDefault).Create(c.t.Context(), pg, metav1.CreateOptions{}); err != nil {
		c.t.Fatal(err)
	}
}

func inOneRack(pg *schedulingv1beta1.PodGroup) {
	pg.Spec.SchedulingConstraints = &schedulingv1beta1.PodGroupSchedulingConstraints{
		Topology: []schedulingv1beta1.TopologyConstraint{{Key: rackLabel}},
	}
}

// nativeWorker is pod i of the group, with so many whole GPUs. Its label is for the tests to find it by, and none of a gang.
func nativeWorker(group string, i int, gpus int64) *corev1.Pod {
	p := worker(group, i, gpus)
	p.Labels["group"] = group
	delete(p.Labels, podspec.LabelPodGroup)
	p.Spec.SchedulingGroup = &corev1.PodSchedulingGroup{PodGroupName: new(group)}
	return p
}

func (c *cluster) nativeMembers(group string) []corev1.Pod {
	c.t.Helper()
	list, err := c.client.CoreV1().Pods(metav1.NamespaceDefault).List(c.t.Context(), metav1.ListOptions{LabelSelector: "group=" + group})
	if err != nil {
		c.t.Fatal(err)
	}
	return list.Items
}

// nativeStarted waits until so many pods of the group are bound, and returns them.
func (c *cluster) nativeStarted(group string, want int) (bound []corev1.Pod) {
	c.t.Helper()
	eventually(c.t, 30*time.Second, func() string {
		bound = nil
		message := ""
		for _, p := range c.nativeMembers(group) {
			if p.Spec.NodeName != "" {
				bound = append(bound, p)
			} else if m := condition(&p); m != "" {
				message = m
			}
		}
		if len(bound) != want {
			return fmt.Sprintf("%d members of %s are bound, want %d: %s", len(bound), group, want, message)
		}
		return ""
	})
	return bound
}

// toldAlike waits until all pods of the group are told the same, and returns it.
func (c *cluster) toldAlike(group string, want ...string) (message string) {
	c.t.Helper()
	eventually(c.t, 30*time.Second, func() string {
		message = ""
		for _, p := range c.nativeMembers(group) {
			m := condition(&p)
			if p.Spec.NodeName != "" {
				c.t.Fatalf("%s is bound to %s", p.Name, p.Spec.NodeName)
			}
			if m == "" || message != "" && m != message {
				return fmt.Sprintf("%s was told %q, another %q", p.Name, m, message)
			}
			message = m
		}
		for _, w := range want {
			if !strings.Contains(message, w) {
				return fmt.Sprintf("all were told %q, want %q in it", message, w)
			}
		}
		return ""
	})
	return message
}

// holdsOwn checks that each pod has as many GPUs written as it asks for, and no two the same one.
func (c *cluster) holdsOwn(pods []corev1.Pod, gpus int) {
	c.t.Helper()
	taken := map[string]string{}
	for _, p := range pods {
		a, err := gpu.ParseAssignment(p.Annotations[podspec.AnnotationGPUs])
		if err != nil {
			c.t.Errorf("%s: %v", p.Name, err)
			continue
		}
		n := 0
		for _, container := range a.Containers {
			for _, g := range container.Grants {
				n++
				key := fmt.Sprintf("%s of %s", g.GPU, p.Spec.NodeName)
				if taken[key] != "" {
					c.t.Errorf("%s and %s both have %s", taken[key], p.Name, key)
				}
				taken[key] = p.Name
			}
		}
		if n != gpus {
			c.t.Errorf("%s has %d GPUs, want %d", p.Name, n, gpus)
		}
	}
}

// racks are the racks that the pods are in.
func (c *cluster) racks(pods []corev1.Pod) map[string]int {
	c.t.Helper()
	racks := map[string]int{}
	for _, p := range pods {
		n, err := c.client.CoreV1().Nodes().Get(c.t.Context(), p.Spec.NodeName, metav1.GetOptions{})
		if err != nil {
			c.t.Fatal(err)
		}
		racks[n.Labels[rackLabel]]++
	}
	return racks
}

func TestNativeGangs(t *testing.T) {
	c := startNativeCluster(t, "h100=20", 4)
	c.startScheduler()

	t.Run("a gang starts whole, with the GPUs of its plan", func(t *testing.T) {
		c.nativeGroup("large", 16)
		for i := range 16 {
			c.create(nativeWorker("large", i, 8))
		}
		c.holdsOwn(c.nativeStarted("large", 16), 8)
		if n := c.metric(`weft_gang_attempts_total{result="planned"}`); n != 1 {
			t.Errorf("the gang was planned %v times, want once", n)
		}
		eventually(t, 10*time.Second, func() string {
			pg, err := c.client.SchedulingV1beta1().PodGroups(metav1.NamespaceDefault).Get(t.Context(), "large", metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if !meta.IsStatusConditionTrue(pg.Status.Conditions, "PodGroupInitiallyScheduled") {
				return fmt.Sprintf("the group's conditions are %+v", pg.Status.Conditions)
			}
			return ""
		})
	})

	t.Run("one without room is refused as a whole, and others go on", func(t *testing.T) {
		c.nativeGroup("waits", 8)
		for i := range 8 {
			c.create(nativeWorker("waits", i, 8))
		}
		t.Log(c.toldAlike("waits", "InsufficientGangCapacity"))
		// Both kinds side by side, in what it cannot use.
		c.gang("custom", 2, 8)
		c.started("custom", 2, 30*time.Second)
		if held := c.metric("weft_gpu_assigned_milligpu"); held != 18*8*1000 {
			t.Errorf("%v thousandths of GPUs are held", held)
		}
		for i := range 16 {
			c.delete(fmt.Sprintf("large-%d", i))
		}
		c.holdsOwn(c.nativeStarted("waits", 8), 8)
	})
	c.neverPartial()
}

func TestNativeGangsByTopology(t *testing.T) {
	c := startNativeCluster(t, "h100=12", 4)
	c.startScheduler()
	c.nativeGroup("rack", 4, inOneRack)
	for i := range 4 {
		c.create(nativeWorker("rack", i, 8))
	}
	if racks := c.racks(c.nativeStarted("rack", 4)); len(racks) != 1 {
		t.Errorf("the members are in racks %v, want one", racks)
	}
	c.nativeGroup("wide", 5, inOneRack)
	for i := range 5 {
		c.create(nativeWorker("wide", i, 8))
	}
	t.Log(c.toldAlike("wide", "TopologyDomainTooSmall", rackLabel))

	c.nativeGroup("unknown", 2, func(pg *schedulingv1beta1.PodGroup) {
		pg.Annotations = map[string]string{podspec.AnnotationTopologyRequired: "example.com/row"}
	})
	for i := range 2 {
		c.create(nativeWorker("unknown", i, 1))
	}
	t.Log(c.toldAlike("unknown", "UnknownTopology", "example.com/row"))
	// The annotation goes, and with it what stands in the way.
	groups := c.client.SchedulingV1beta1().PodGroups(metav1.NamespaceDefault)
	pg, err := groups.Get(t.Context(), "unknown", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	pg.Annotations = nil
	if _, err := groups.Update(t.Context(), pg, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.holdsOwn(c.nativeStarted("unknown", 2), 1)

	// Above the minimum a gang has what there is, and a group that is no gang what its pods get one by one: the GPUs of 7
	// nodes and 6 GPUs of another are left.
	c.nativeGroup("elastic", 2)
	for i := range 10 {
		c.create(nativeWorker("elastic", i, 8))
	}
	c.holdsOwn(c.nativeStarted("elastic", 7), 8)
	c.nativeGroup("basic", 0)
	for i := range 8 {
		c.create(nativeWorker("basic", i, 1))
	}
	c.holdsOwn(c.nativeStarted("basic", 6), 1)
	c.neverPartial()
}
