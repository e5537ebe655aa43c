package integration

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"weft.sh/weft/pkg/playground"
)

// evenly has the pods with the label spread evenly over the racks, by one at most.
func evenly(key, value string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{
			MaxSkew: 1, TopologyKey: rackLabel, WhenUnsatisfiable: corev1.DoNotSchedule,
			LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{key: value}},
		}}
	}
}

// perRack says how many of the pods are in each rack.
func (c *cluster) perRack(pods []corev1.Pod) string {
	c.t.Helper()
	return fmt.Sprint(c.racks(pods))
}

// Racks of four, two and two nodes: the best plan by itself has no more than two racks, and all members of one node come first.
func TestMembersAreSpreadEvenlyWhereTheyMustBe(t *testing.T) {
	nodes, err := playground.ParseNodes("h100=8")
	if err != nil {
		t.Fatal(err)
	}
	for i := range nodes {
		nodes[i].Rack = fmt.Sprintf("rack-%d", []int{0, 0, 0, 0, 1, 1, 2, 2}[i])
	}
	c := startClusterOf(t, playground.ControlPlaneOptions{APIServerArgs: []string{
		"--runtime-config=scheduling.k8s.io/v1beta1=true", "--feature-gates=GenericWorkload=true,TopologyAwareWorkloadScheduling=true",
	}}, nodes)
	c.startScheduler()

	// The last members are made first.
	c.group("custom", 12, nil)
	for i := range 12 {
		p := worker("custom", 11-i, 2)
		evenly("scheduling.x-k8s.io/pod-group", "custom")(p)
		c.create(p)
	}
	if got := c.perRack(c.started("custom", 12, 30*time.Second)); got != "map[rack-0:4 rack-1:4 rack-2:4]" {
		t.Errorf("the members are in %s", got)
	}
	c.never(`weft_gang_attempts_total{result="undone"}`, "plans were undone")
	// 8 GPUs are left in each of rack-1 and rack-2.
	c.nativeGroup("native", 6)
	for i := range 6 {
		p := nativeWorker("native", i, 4)
		evenly("group", "native")(p)
		c.create(p)
	}
	if got := c.perRack(c.nativeStarted("native", 6)); got != "map[rack-0:2 rack-1:2 rack-2:2]" {
		t.Errorf("the members are in %s", got)
	}
	// rack-1 and rack-2 are full now, rack-0 has 16 GPUs: no more than one member has a place.
	c.group("waits", 2, nil)
	for i := range 2 {
		p := worker("waits", i, 1)
		evenly("scheduling.x-k8s.io/pod-group", "waits")(p)
		c.create(p)
	}
	c.refused("waits-0", "1 of at least 2 members have a place, and default/waits-1 is refused")
	c.neverPartial()
}
