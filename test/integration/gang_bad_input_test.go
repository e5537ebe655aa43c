package integration

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/retry"

	"weft.sh/weft/pkg/podgroup"
	"weft.sh/weft/pkg/podspec"
)

// TestBadInputOfGangs: whatever somebody gets wrong about a gang is told where people look: in the answer of the API server, in
// events of the pods and in the status of the PodGroup.
func TestBadInputOfGangs(t *testing.T) {
	c := startCluster(t, "h100=4")
	c.startScheduler()
	startController(t, c.cp, "--topology-levels="+strings.Join([]string{"nvlink", rackLabel}, ","))
	groups := podGroups(t, c.cfg)

	run := func(name string, test func(t *testing.T)) {
		t.Run(name, func(t *testing.T) {
			c.t = t
			test(t)
		})
	}
	defer func() { c.t = t }()
	// status waits until the PodGroup's message has the text.
	status := func(t *testing.T, name, text string) {
		t.Helper()
		eventually(t, time.Minute, func() string {
			u, err := groups.Get(t.Context(), name, metav1.GetOptions{})
			if err != nil {
				return err.Error()
			}
			s, _ := u.Object["status"].(map[string]any)
			if message := fmt.Sprint(s["message"]); !strings.Contains(message, text) {
				return fmt.Sprintf("the status of %s says %q, want %q", name, message, text)
			}
			return ""
		})
	}
	none := func(*corev1.Pod) {}
	for name, tt := range map[string]struct {
		group string
		// min is the PodGroup's minimum, -1 for none in this namespace.
		min         int64
		annotations map[string]string
		pods        int
		second      func(p *corev1.Pod)
		// event is in an event of the first pod, status in the PodGroup's.
		event, status string
	}{
		"more must start than there are": {group: "few", min: 3, pods: 2, second: none, status: "GangIncomplete: fewer members exist than must start together (2 of 3 members exist)"},
		"no PodGroup":                    {group: "nobody", min: -1, pods: 2, second: none, event: "GangNotFound: the PodGroup does not exist (podgroup default/nobody)"},
		"an unknown level": {
			group: "level", min: 2, annotations: map[string]string{podspec.AnnotationTopologyRequired: "example.com/typo"}, pods: 2, second: none,
			event:  `UnknownTopology: the scheduler does not know the topology level (podgroup default/level names "example.com/typo"`,
			status: `UnknownTopology: the scheduler does not know the topology level (asks for "example.com/typo"`,
		},
		"two schedulers": {
			group: "schedulers", min: 2, pods: 2, second: func(p *corev1.Pod) { p.Spec.SchedulerName = "default-scheduler" },
			event: "want one scheduler for all members", status: "another scheduler is to place 1 of 2 members",
		},
		"two priorities": {
			group: "priorities", min: 2, pods: 2, second: func(p *corev1.Pod) { p.Spec.PriorityClassName = "system-node-critical" },
			event: "want one priority for all members", status: "want one priority for all members",
		},
	} {
		run(name, func(t *testing.T) {
			if tt.min >= 0 {
				if _, err := groups.Create(t.Context(), podGroup(tt.group, tt.min, tt.annotations), metav1.CreateOptions{}); err != nil {
					t.Fatal(err)
				}
			}
			for i := range tt.pods {
				p := worker(tt.group, i, 1)
				if i == 1 {
					tt.second(p)
				}
				c.create(p)
			}
			first := tt.group + "-0"
			if tt.event != "" {
				c.told(first, tt.event)
			}
			if tt.status != "" {
				status(t, tt.group, tt.status)
			}
			if p := c.pod(first); p.Spec.NodeName != "" || condition(p) != "" {
				t.Errorf("%s is on %q and told %q: an autoscaler would act on that", first, p.Spec.NodeName, condition(p))
			}
		})
	}

	run("a minimum of 0", func(t *testing.T) {
		_, err := groups.Create(t.Context(), podGroup("zero", 0, nil), metav1.CreateOptions{})
		if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "spec.minMember: Invalid value: 0") {
			t.Errorf("the answer is %v", err)
		}
	})

	run("a PodGroup of another namespace", func(t *testing.T) {
		ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "elsewhere"}}
		if _, err := c.client.CoreV1().Namespaces().Create(t.Context(), ns, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		other := dynamicClient(t, c.cfg).Resource(podgroup.Resource).Namespace("elsewhere")
		if _, err := other.Create(t.Context(), podGroup("theirs", 1, nil), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		c.create(worker("theirs", 0, 1))
		c.told("theirs-0", "GangNotFound: the PodGroup does not exist (podgroup default/theirs)")
	})

	run("a pod that changes its gang", func(t *testing.T) {
		c.gang("steady", 1, 1)
		c.started("steady", 1, time.Minute)
		err := retry.RetryOnConflict(retry.DefaultRetry, func() error {
			p := c.pod("steady-0")
			p.Labels[podspec.LabelPodGroup] = "other"
			_, err := c.client.CoreV1().Pods(p.Namespace).Update(t.Context(), p, metav1.UpdateOptions{})
			return err
		})
		if err == nil || !strings.Contains(err.Error(), "the label scheduling.x-k8s.io/pod-group says which gang the pod belongs to and cannot change from") {
			t.Errorf("the answer is %v", err)
		}
	})

	run("a PodGroup that is deleted while pods wait", func(t *testing.T) {
		c.group("deleted", 3, nil)
		for i := range 2 {
			c.create(worker("deleted", i, 1))
		}
		status(t, "deleted", "GangIncomplete")
		if err := groups.Delete(t.Context(), "deleted", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		c.told("deleted-0", "GangNotFound: the PodGroup does not exist (podgroup default/deleted)")
	})

	run("a PodGroup that is deleted while the gang runs in part", func(t *testing.T) {
		c.group("orphans", 1, nil)
		c.create(worker("orphans", 0, 8))
		c.started("orphans", 1, time.Minute)
		c.create(worker("orphans", 1, 9)) // on no node
		eventually(t, time.Minute, func() string {
			if p := c.pod("orphans-1"); condition(p) == "" {
				return "orphans-1 is told nothing"
			}
			return ""
		})
		if err := groups.Delete(t.Context(), "orphans", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		c.told("orphans-0", "GangOrphaned")
		c.told("orphans-1", "GangNotFound: the PodGroup does not exist (podgroup default/orphans)")
	})
}
