package integration

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"weft.sh/weft/pkg/playground"
	"weft.sh/weft/pkg/podspec"
)

// group creates a PodGroup.
func (c *cluster) group(name string, minMember int64, annotations map[string]string) {
	c.t.Helper()
	if _, err := podGroups(c.t, c.cfg).Create(c.t.Context(), podGroup(name, minMember, annotations), metav1.CreateOptions{}); err != nil {
		c.t.Fatal(err)
	}
}

// worker is pod i of the gang, with so many whole GPUs.
func worker(gang string, i int, gpus int64) *corev1.Pod {
	o := playground.Pod{Name: fmt.Sprintf("%s-%d", gang, i), GPUs: gpus, CPUMilli: 1000, MemoryMiB: 1024}.Object()
	o.Labels = map[string]string{podspec.LabelPodGroup: gang, "batch.kubernetes.io/job-completion-index": fmt.Sprint(i)}
	return o
}

// gang creates a PodGroup with as many members as must start together.
func (c *cluster) gang(name string, members int, gpus int64) {
	c.t.Helper()
	c.group(name, int64(members), nil)
	for i := range members {
		c.create(worker(name, i, gpus))
	}
}

// membersOf are the pods of the gang.
func (c *cluster) membersOf(gang string) []corev1.Pod {
	c.t.Helper()
	list, err := c.client.CoreV1().Pods(metav1.NamespaceDefault).List(c.t.Context(), metav1.ListOptions{LabelSelector: podspec.LabelPodGroup + "=" + gang})
	if err != nil {
		c.t.Fatal(err)
	}
	return list.Items
}

// started waits until so many members of the gang are bound.
func (c *cluster) started(gang string, want int, within time.Duration) []corev1.Pod {
	c.t.Helper()
	var pods []corev1.Pod
	eventually(c.t, within, func() string {
		pods = c.membersOf(gang)
		bound, message := 0, ""
		for i := range pods {
			if pods[i].Spec.NodeName != "" {
				bound++
			} else if m := condition(&pods[i]); m != "" {
				message = m
			}
		}
		if bound != want {
			return fmt.Sprintf("%d of %d members of %s are bound, want %d: %s", bound, len(pods), gang, want, message)
		}
		return ""
	})
	return pods
}

// span is from when the last member was created to when the last was bound, in whole seconds as the API has them.
func span(pods []corev1.Pod) time.Duration {
	var created, bound time.Time
	for i := range pods {
		if t := pods[i].CreationTimestamp.Time; t.After(created) {
			created = t
		}
		for _, c := range pods[i].Status.Conditions {
			if c.Type == corev1.PodScheduled && c.LastTransitionTime.After(bound) {
				bound = c.LastTransitionTime.Time
			}
		}
	}
	return bound.Sub(created)
}

// metric is the sum of the values of the series whose line begins so.
func (c *cluster) metric(prefix string) float64 {
	c.t.Helper()
	sum, _ := c.series(prefix)
	return sum
}

// never checks that the metric is there, and is 0.
func (c *cluster) never(prefix, what string) {
	c.t.Helper()
	if n, found := c.series(prefix); !found || n != 0 {
		c.t.Errorf("%v %s; the scheduler has the metric: %t", n, what, found)
	}
}

// series is the sum of the values of the series whose line begins so, and whether there is any.
func (c *cluster) series(prefix string) (sum float64, found bool) {
	c.t.Helper()
	for line := range c.metrics() {
		if strings.HasPrefix(line, prefix) {
			var v float64
			if _, err := fmt.Sscan(line[strings.LastIndexByte(line, ' ')+1:], &v); err != nil {
				c.t.Fatalf("metric %q: %v", line, err)
			}
			sum, found = sum+v, true
		}
	}
	return sum, found
}

// neverPartial checks that no gang was released and then bound in part.
func (c *cluster) neverPartial() {
	c.t.Helper()
	c.never("weft_gang_partial", "gangs were given up in part")
}

func TestAGangStartsAtOnce(t *testing.T) {
	c := startCluster(t, "h100=4")
	audit := newAudit(t, "h100=4")
	stop := audit.watch(c)
	c.startScheduler()
	c.gang("train", 16, 2)
	pods := c.started("train", 16, 20*time.Second)
	t.Logf("16 members in %v; planned in %.1f ms", span(pods), 1000*c.metric("weft_gang_plan_seconds_sum"))
	stop()
	if n := c.metric(`weft_gang_attempts_total{result="planned"}`); n != 1 {
		t.Errorf("the gang was planned %v times, want once", n)
	}
	c.neverPartial()
}

func TestAGangShortOfMembersIsHeldBackAndSeenByNobody(t *testing.T) {
	c := startCluster(t, "h100=1")
	c.startScheduler()
	for i := range 3 {
		c.create(worker("train", i, 1)) // before its PodGroup
	}
	c.group("train", 4, nil)
	// A pod after it shows that the scheduler has had its say.
	c.create(playground.Pod{Name: "probe", GPUs: 1}.Object())
	c.bound("probe")
	for _, p := range c.membersOf("train") {
		if p.Spec.NodeName != "" || len(p.Status.Conditions) != 0 || p.Status.NominatedNodeName != "" {
			t.Errorf("%s is bound to %q with conditions %+v", p.Name, p.Spec.NodeName, p.Status.Conditions)
		}
	}
	c.create(worker("train", 3, 1))
	c.started("train", 4, 20*time.Second)
}

func TestAGangWithoutRoomIsRefusedAsAWhole(t *testing.T) {
	c := startCluster(t, "h100=4")
	c.startScheduler()
	c.create(playground.Pod{Name: "other", GPUs: 1}.Object())
	c.bound("other")
	start := time.Now()
	c.gang("large", 4, 8)
	var message string
	eventually(t, 20*time.Second, func() string {
		for _, p := range c.membersOf("large") {
			if p.Spec.NodeName != "" {
				t.Fatalf("%s is bound to %s", p.Name, p.Spec.NodeName)
			}
			if condition(&p) == "" {
				return p.Name + " was told nothing"
			}
			if message == "" {
				message = condition(&p)
			}
			if condition(&p) != message {
				t.Fatalf("%s was told %q, another %q", p.Name, condition(&p), message)
			}
		}
		return ""
	})
	t.Logf("after %v: %s", time.Since(start), message)
	if !strings.Contains(message, "InsufficientGangCapacity") {
		t.Errorf("the message is %q", message)
	}
	if held := c.metric("weft_gpu_assigned_milligpu"); held != 1000 {
		t.Errorf("%v thousandths of GPUs are held, want those of one pod", held)
	}
	// Others may have what it cannot use, and its turn comes when there is room.
	c.create(playground.Pod{Name: "small", GPUs: 7}.Object())
	c.bound("small")
	c.delete("small")
	c.delete("other")
	c.started("large", 4, 20*time.Second)
	c.neverPartial()
}
