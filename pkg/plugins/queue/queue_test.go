package queue

import (
	"fmt"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"weft.sh/weft/pkg/apis/weft/v1alpha1"
	"weft.sh/weft/pkg/podspec"
)

func TestWithoutQueuesNothingChanges(t *testing.T) {
	inBubble(t, nodes(node("n", 2)), nil, func(r *rig) {
		r.create(pod("a", "nobody", "1h"), pod("b", "", ""))
		r.wantBound("a b")
		r.create(pod("c", "", ""))
		r.wantSaid("c", v1.PodReasonUnschedulable)
		if n := len(r.state.waiting) + len(r.state.running) + len(r.state.holds); n != 0 {
			t.Errorf("%d pods are remembered", n)
		}
	})
}

func TestAPodOverTheBudgetWaitsAndIsToldSo(t *testing.T) {
	inBubble(t, nodes(node("n", 8)), []runtime.Object{queue("team", budget("3"))}, func(r *rig) {
		r.create(pod("first", "team", "2h"))
		r.wantBound("first")
		r.create(pod("second", "team", "2h"))
		r.wantBound("first")
		r.wantSaid("second", "OverBudget", "queue team has", "left of 3", "held 2", "2 are needed")
		r.create(pod("short", "team", "1h"), pod("without", "", "24h"))
		r.wantBound("first short without") // nobody is in the way of who has room
		r.change(queue("team", budget("5")))
		r.wantBound("first second short without")
		r.neverUnschedulable()
	})
}

func TestHoursThatAreFreedWakeWhoWaits(t *testing.T) {
	inBubble(t, nodes(node("n", 8)), []runtime.Object{queue("team", budget("1"))}, func(r *rig) {
		r.create(pod("first", "team", "1h"))
		r.wantBound("first")
		r.create(pod("second", "team", "50m"))
		r.wantBound("first")
		r.after(9 * time.Minute)
		r.delete("first") // it used a sixth of what it held, and what is left is enough
		r.wantBound("second")
		r.create(pod("third", "team", "1m"))
		r.wantBound("second") // what was used stays used
		r.neverUnschedulable()
	})
}

func TestAPeriodTurnsAndWakesWhoWaits(t *testing.T) {
	day := budget("1", func(b *v1alpha1.Budget) { b.Period, b.TimeZone = v1alpha1.PeriodDay, "Etc/GMT+1" }) // from 01:00 UTC
	inBubble(t, nodes(node("n", 8)), []runtime.Object{queue("team", day)}, func(r *rig) {
		r.create(pod("first", "team", "30m", asking(2)))
		r.wantBound("first")
		r.after(30 * time.Minute)
		r.delete("first")
		r.create(pod("second", "team", "45m"))
		r.wantBound("")
		r.wantSaid("second", "OverBudget", "0 GPU-hours left of 1", "the period ends 2000-01-01T01:00:00Z")
		r.after(time.Until(time.Date(2000, 1, 1, 0, 59, 58, 0, time.UTC)))
		r.wantBound("")
		r.after(time.Second)
		r.wantBound("second")
		r.neverUnschedulable()
	})
}

func TestTheLimitOfAnAncestorCounts(t *testing.T) {
	all := []runtime.Object{queue("org", gpus("", "2")), queue("team", under("org")), queue("other", under("org"))}
	inBubble(t, nodes(node("n", 8)), all, func(r *rig) {
		r.create(pod("a", "team", ""), pod("b", "other", ""))
		r.wantBound("a b")
		r.create(pod("c", "team", ""))
		r.wantBound("a b")
		r.wantSaid("c", "OverLimit", "queue org has 0 GPUs left of 2")
		r.delete("b")
		r.wantBound("a c")
		r.neverUnschedulable()
	})
}

func TestAQueueThatMayNotBeUsed(t *testing.T) {
	others := func(q *v1alpha1.Queue) { q.Spec.Namespaces = &v1alpha1.NamespaceSelector{Names: []string{"other"}} }
	inBubble(t, nodes(node("n", 8)), []runtime.Object{queue("team", others)}, func(r *rig) {
		r.create(pod("a", "team", ""), pod("b", "nobody", ""))
		r.wantBound("")
		r.wantSaid("a", "QueueForbidden", "team")
		r.wantSaid("b", "QueueNotFound", "nobody")
		r.add(queue("nobody"))
		r.wantBound("b")
		r.change(queue("team"))
		r.wantBound("a b")
		r.neverUnschedulable()
	})
}

func TestAGangHoldsOnceAndIsHeldBackTogether(t *testing.T) {
	inBubble(t, nodes(node("n", 4), node("m", 4)), []runtime.Object{queue("team", budget("8"))}, func(r *rig) {
		r.group("large", 8)
		r.create(gangOf("large", 8, "team", "2h")...)
		r.wantBound("")
		for i := range 8 {
			r.wantSaid(fmt.Sprintf("large-%d", i), "NeverWithinBudget", "is 8")
		}
		r.after(2 * retell) // figures that change alone may be old for so long: the first may have been told before the last was seen
		for i := range 8 {
			r.wantSaid(fmt.Sprintf("large-%d", i), "NeverWithinBudget", "needs 16 GPU-hours", "is 8")
		}
		r.group("fits", 8)
		r.create(gangOf("fits", 8, "team", "1h")...)
		r.wantBound("fits-0 fits-1 fits-2 fits-3 fits-4 fits-5 fits-6 fits-7")
		r.create(pod("one", "team", "1m"))
		r.wantSaid("one", "OverBudget", "held 8")
		r.neverUnschedulable()
	})
}

func TestAGangThatCannotBeBoundGivesItsHoldBack(t *testing.T) {
	inBubble(t, nodes(node("n", 4)), []runtime.Object{queue("team", budget("4"))}, func(r *rig) {
		r.group("train", 4)
		members := gangOf("train", 4, "team", "1h")
		members[3].Spec.NodeSelector = map[string]string{v1.LabelHostname: "nowhere"}
		r.create(members...)
		r.wantBound("")
		if n := r.held(); n != 0 {
			t.Errorf("%d pods hold", n)
		}
		r.create(pod("one", "team", "1h"))
		r.wantBound("one")
	})
}

func TestABindingThatIsRefusedGivesTheHoldBack(t *testing.T) {
	inBubble(t, nodes(node("n", 4)), []runtime.Object{queue("team", budget("1"))}, func(r *rig) {
		r.refuse = func(name string) error {
			if name == "a" {
				return invalid(name)
			}
			return nil
		}
		r.create(pod("a", "team", "1h"))
		r.wantBound("")
		r.delete("a")
		r.create(pod("b", "team", "1h"))
		r.wantBound("b")
		if n := r.held(); n != 0 {
			t.Errorf("%d pods hold", n)
		}
	})
}

func TestOfManyThatWereLetThroughOnlyWhatTheBudgetAllowsStarts(t *testing.T) {
	inBubble(t, nodes(node("n", 8)), []runtime.Object{queue("team", budget("3"))}, func(r *rig) {
		for i := range 8 {
			r.create(pod(fmt.Sprint("p", i), "team", "1h"))
		}
		r.wantBound("p0 p1 p2")
		for i := 3; i < 8; i++ {
			r.wantSaid(fmt.Sprint("p", i), "OverBudget", "held 3")
		}
		r.neverUnschedulable()
	})
}

func TestAPodWithoutRoomIsToldWhenItsBudgetIsGone(t *testing.T) {
	inBubble(t, nodes(node("n", 2)), []runtime.Object{queue("team", budget("3"))}, func(r *rig) {
		r.create(pod("a", "team", "1h"), pod("b", "", ""))
		r.wantBound("a b")
		r.create(pod("c", "team", "1h"))
		r.wantBound("a b")
		r.wantSaid("c", v1.PodReasonUnschedulable) // nodes would help
		r.change(queue("team", budget("1")))
		r.wantSaid("c", "OverBudget") // and now they would not
		r.change(queue("team", budget("3")))
		r.delete("b")
		r.wantBound("a c")
	})
}

func TestAPodThatRunsCountsAfterARestart(t *testing.T) {
	inBubble(t, nodes(node("n", 8)), []runtime.Object{queue("team", budget("2"))}, func(r *rig) {
		r.create(pod("a", "team", "1h"), pod("b", "team", "1h"), pod("c", "team", "1h"))
		r.wantBound("a b")
		r.cancel()
		r.after(time.Second)
		r.start()
		r.create(pod("d", "team", "1h"))
		r.wantBound("a b")
		r.wantSaid("c", "OverBudget", "held 2")
		r.wantSaid("d", "OverBudget", "held 2")
	})
}

func TestTheDefaultQueueOfANamespace(t *testing.T) {
	standard := func(q *v1alpha1.Queue) { q.Spec.Default = true }
	inBubble(t, nodes(node("n", 8)), []runtime.Object{queue("all", standard, budget("1"))}, func(r *rig) {
		r.create(pod("a", "", "1h"), pod("b", "", "1h"))
		r.wantBound("a")
		r.wantSaid("b", "OverBudget", "queue all")
	})
}

func TestGPUsThatCountMoreMayBeTooDear(t *testing.T) {
	a100 := func(n *v1.Node) { n.Labels[podspec.LabelProduct] = "A100" }
	class := &v1alpha1.GPUClass{ObjectMeta: metav1.ObjectMeta{Name: "dear", UID: "dear", Generation: 1}}
	class.APIVersion, class.Kind = v1alpha1.SchemeGroupVersion.String(), "GPUClass"
	class.Spec.Products, class.Spec.Weight = []string{"H100"}, resource.MustParse("2")
	inBubble(t, nodes(node("dear", 2), node("cheap", 2, a100)), []runtime.Object{queue("team", budget("5")), stored(class)}, func(r *rig) {
		r.create(pod("a", "team", "2h", asking(2)))
		r.wantBound("a")
		if p, err := r.client.CoreV1().Pods("ns").Get(t.Context(), "a", metav1.GetOptions{}); err != nil || p.Spec.NodeName != "cheap" {
			t.Errorf("a is on %q, %v", p.Spec.NodeName, err)
		}
		r.create(pod("b", "team", "30m"))
		r.wantBound("a b") // 4 are held, and 1 is half an hour of the dear
		r.create(pod("c", "", ""), pod("d", "team", "1m"))
		r.wantBound("a b c")
		r.wantSaid("d", "OverBudget", "queue team has 0 GPU-hours left of 5")
		r.change(queue("team", budget("5.02")))
		r.wantBound("a b c")
		r.wantSaid("d", v1.PodReasonUnschedulable) // of cheap GPUs it might have one, and all are taken
		r.delete("c")
		r.wantBound("a b")
		r.change(queue("team", budget("6")))
		r.wantBound("a b d")
	})
}

func TestAPodThatNamesAnotherQueueIsLookedAtAgain(t *testing.T) {
	inBubble(t, nodes(node("n", 2)), []runtime.Object{queue("full", gpus("", "0")), queue("free")}, func(r *rig) {
		r.create(pod("a", "full", ""))
		r.wantBound("")
		r.wantSaid("a", "NeverWithinLimit")
		p, err := r.client.CoreV1().Pods("ns").Get(t.Context(), "a", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		p.Labels[podspec.LabelQueue], p.ResourceVersion = "free", "2"
		if _, err := r.client.CoreV1().Pods("ns").Update(t.Context(), p, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		r.wantBound("a")
	})
}

func TestTheFirstQueueCountsWhatRunsAndWaits(t *testing.T) {
	inBubble(t, nodes(node("n", 2)), nil, func(r *rig) {
		r.create(pod("a", "team", ""), pod("b", "team", ""))
		r.wantBound("a b")
		r.create(pod("c", "team", ""))
		r.wantSaid("c", v1.PodReasonUnschedulable)
		r.add(queue("team", gpus("", "2")))
		r.wantSaid("c", "OverLimit", "2 are in use")
		if err := r.objects.Resource(v1alpha1.Queues).Delete(t.Context(), "team", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		r.delete("a")
		r.wantBound("b c")
	})
}
