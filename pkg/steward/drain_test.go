package steward

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"weft.sh/weft/pkg/apis/weft/v1alpha1"
	"weft.sh/weft/pkg/podspec"
)

func member(gang string) func(*v1.Pod) {
	return func(p *v1.Pod) { p.Labels[podspec.LabelPodGroup] = gang }
}

// want checks what was asked about pods, in any order of the pods.
func (o *office) want(name string, want ...string) {
	o.t.Helper()
	got := o.takeAsked()
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		o.t.Errorf("%s: requests about pods (-want +got):\n%s", name, diff)
	}
}

func (o *office) told1(pod string) string {
	obj, _, err := o.pods.GetByKey("default/" + pod)
	if err != nil {
		o.t.Fatal(err)
	}
	return obj.(*v1.Pod).Annotations[podspec.AnnotationCheckpointBy]
}

func TestDrain(t *testing.T) {
	now := at("2026-11-10 12:00:00")
	o := newOffice(t, queue("org", "", budget("10", v1alpha1.PeriodMonth, drains(600))), queue("team", "org"), queue("other", ""))
	o.store.uses = []use{{"team", 1, now - 9*hour, now + day}}
	o.add(pod("a", "team", 1, now-hour, member("train")), pod("b", "team", 1, now-hour, member("train")), pod("c", "org", 1, now-hour), pod("d", "other", 1, now-hour))
	o.pass(now)
	o.want("something is left")
	o.pass(now + hour)
	o.want("they are told", "PATCH a", "PATCH b", "PATCH c")
	if got := o.told1("a"); got != "2026-11-10T13:10:00Z" {
		t.Errorf("a is told %q", got)
	}
	if b := o.budget("org"); b.DrainAt == nil || b.DrainAt.UTC().Format(time.RFC3339) != "2026-11-10T13:10:00Z" {
		t.Errorf("it drains at %v", b.DrainAt)
	}
	o.pass(now + hour + 15)
	o.want("once")
	o.add(pod("late", "team", 1, now+hour+20, member("train")), pod("later", "team", 1, now+hour+20))
	o.pass(now + hour + 300)
	o.want("who comes later is told too, in a gang the gang's time", "PATCH late", "PATCH later")
	if a, b := o.told1("late"), o.told1("later"); a != "2026-11-10T13:10:00Z" || b != "2026-11-10T13:15:00Z" {
		t.Errorf("told %s, %s", a, b)
	}
	o.restart()
	o.pass(now + hour + 585)
	o.want("a restart changes nothing")
	o.refuse = func(r *http.Request) int {
		if strings.HasSuffix(r.URL.Path, "/c/eviction") {
			return http.StatusTooManyRequests
		}
		return 0
	}
	o.told()
	if err := o.tryPass(now + hour + 600); err == nil || !strings.Contains(err.Error(), "evict pod default/c") {
		t.Errorf("a PodDisruptionBudget is in the way: %v", err)
	}
	o.want("the moment has come", "POST a/eviction", "POST a/eviction dry", "POST b/eviction", "POST b/eviction dry", "POST c/eviction",
		"POST late/eviction", "POST late/eviction dry")
	events := o.told()
	slices.Sort(events)
	var short []string
	for _, e := range events {
		short = append(short, strings.Fields(e)[1])
	}
	if diff := cmp.Diff([]string{"BudgetDrainBlocked", "BudgetDrained", "BudgetDrained", "BudgetDrained"}, short); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
	for _, name := range []string{"a", "b", "late"} {
		obj, _, _ := o.pods.GetByKey("default/" + name)
		p := obj.(*v1.Pod).DeepCopy()
		stamp := moment(now + hour + 600)
		p.DeletionTimestamp = &stamp
		o.add(p)
	}
	o.refuse = func(*http.Request) int { return 0 }
	o.pass(now + hour + 615)
	o.want("what was kept is tried again; who is leaving is left alone", "POST c/eviction")
}

// TestDrainBeginsAnew: what was told for a budget that was refilled since, or of a period that is over, evicts nobody.
func TestDrainBeginsAnew(t *testing.T) {
	now := at("2026-11-10 12:00:00")
	o := newOffice(t, queue("team", "", budget("10", v1alpha1.PeriodMonth, drains(600))))
	o.store.uses = []use{{"team", 1, now - 10*hour, now + 60*day}}
	o.add(pod("a", "team", 1, now-hour))
	o.pass(now)
	o.want("told", "PATCH a")
	o.objects["team"].Spec.Budget.GPUHours = resource.MustParse("11")
	o.look()
	o.pass(now + 300)
	o.want("refilled")
	o.pass(now + hour + 15)
	o.want("used up again: told again", "PATCH a")
	if got := o.told1("a"); got != "2026-11-10T13:10:15Z" {
		t.Errorf("told %q", got)
	}

	// The controller is away from then until the next period is used up too.
	next := at("2026-12-01 00:00:00") + 12*hour
	o.restart()
	o.pass(next)
	o.want("a grace of its own", "PATCH a")
	if got := o.told1("a"); got != "2026-12-01T12:10:00Z" {
		t.Errorf("told %q", got)
	}
	o.pass(next + 600)
	o.want("and then", "POST a/eviction")
}

// TestDrainOfNothing: a budget of 0 is used up at once.
func TestDrainOfNothing(t *testing.T) {
	now := at("2026-11-10 12:00:00")
	o := newOffice(t, queue("team", "", budget("0", v1alpha1.PeriodNone, drains(0))))
	o.add(pod("a", "team", 1, now-10))
	o.pass(now)
	o.want("no grace, no warning", "POST a/eviction")
	if got := o.condition("team", "Exhausted") + ", " + o.condition("team", "BudgetAlert"); got != "True UsedUp, True PercentReached" {
		t.Errorf("%s", got)
	}
	if b := o.budget("team"); b.Limit != "0" || b.Left != "0" {
		t.Errorf("%+v", b)
	}
}

// TestDrainOfSeveralQueues: a pod below two queues that drain leaves when the first does, and is not told one thing and another.
func TestDrainOfSeveralQueues(t *testing.T) {
	now := at("2026-11-10 12:00:00")
	o := newOffice(t, queue("org", "", budget("10", v1alpha1.PeriodMonth, drains(60))), queue("team", "org", budget("10", v1alpha1.PeriodMonth, drains(600))))
	o.store.uses = []use{{"team", 1, now - 10*hour, now + day}}
	o.add(pod("a", "team", 1, now-hour))
	o.pass(now)
	o.pass(now + 15)
	o.want("told once", "PATCH a")
	if got := o.told1("a"); got != "2026-11-10T12:01:00Z" {
		t.Errorf("told %q", got)
	}
	o.pass(now + 60)
	o.want("evicted once", "POST a/eviction")
}

func TestHoldDrainsNothing(t *testing.T) {
	now := at("2026-11-10 12:00:00")
	for _, e := range []v1alpha1.Enforcement{v1alpha1.EnforceNotify, v1alpha1.EnforceThrottle, v1alpha1.EnforceHold} {
		o := newOffice(t, queue("team", "", budget("1", v1alpha1.PeriodMonth, func(b *v1alpha1.Budget) { b.Enforcement = e })))
		o.store.uses = []use{{"team", 1, now - 10*hour, now + day}}
		o.add(pod("a", "team", 1, now-hour))
		o.pass(now)
		o.pass(now + hour)
		o.want(string(e))
		if got := o.condition("team", "Exhausted"); got != "True UsedUp" {
			t.Errorf("%s: %s", e, got)
		}
	}
}

// running is a pod that PodDisruptionBudgets count.
func running(p *v1.Pod) {
	p.Status.Phase = v1.PodRunning
	p.Status.Conditions = append(p.Status.Conditions, v1.PodCondition{Type: v1.PodReady, Status: v1.ConditionTrue})
}

// TestDrainOfAGangThatIsKept: nobody of a gang is evicted while a PodDisruptionBudget keeps any of it, and the event names the budget.
func TestDrainOfAGangThatIsKept(t *testing.T) {
	now := at("2026-11-10 12:00:00")
	o := newOffice(t, queue("team", "", budget("0", v1alpha1.PeriodNone, drains(0))))
	o.disruptions = []policyv1.PodDisruptionBudget{
		{ObjectMeta: metav1.ObjectMeta{Name: "nobody"}, Spec: policyv1.PodDisruptionBudgetSpec{Selector: nil}},
		{
			ObjectMeta: metav1.ObjectMeta{Name: "keep"},
			Spec:       policyv1.PodDisruptionBudgetSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{podspec.LabelPodGroup: "train"}}},
			Status:     policyv1.PodDisruptionBudgetStatus{DisruptionsAllowed: 2},
		},
	}
	for _, name := range []string{"a", "b", "c"} {
		o.add(pod(name, "team", 1, now-10, member("train"), running))
	}
	o.add(pod("alone", "team", 1, now-10, running))
	if err := o.tryPass(now); err == nil || !strings.Contains(err.Error(), "keep lets 2 pods go at the moment, and 3 have to leave together") {
		t.Errorf("three are to leave and two may: %v", err)
	}
	o.want("each by itself would be let go", "POST alone/eviction")
	if !slices.ContainsFunc(o.told(), func(e string) bool {
		return strings.Contains(e, "BudgetDrainBlocked") && strings.Contains(e, "with the 2 others of its gang") && strings.Contains(e, "keep lets 2 pods go")
	}) {
		t.Error("no event says which budget is in the way")
	}
	// The budget allows it, and the server does not: it knows more.
	o.disruptions[1].Status.DisruptionsAllowed = 3
	o.refuse = func(r *http.Request) int {
		if strings.HasSuffix(r.URL.Path, "/b/eviction") {
			return http.StatusInternalServerError
		}
		return 0
	}
	if err := o.tryPass(now + 15); err == nil || !strings.Contains(err.Error(), "evict pod default/b") {
		t.Errorf("the server refuses one: %v", err)
	}
	o.want("the dry run of one fails", "POST a/eviction dry", "POST alone/eviction", "POST b/eviction dry")
	o.refuse = func(*http.Request) int { return 0 }
	o.pass(now + 30)
	o.want("all may", "POST a/eviction", "POST a/eviction dry", "POST alone/eviction", "POST b/eviction", "POST b/eviction dry",
		"POST c/eviction", "POST c/eviction dry")
	// Who is not ready takes nothing from a budget.
	o.disruptions[1].Status.DisruptionsAllowed = 2
	broken := pod("c", "team", 1, now-10, member("train"), running)
	broken.Status.Conditions[1].Status = v1.ConditionFalse
	o.add(broken)
	o.pass(now + 45)
	o.want("two of three are ready", "POST a/eviction", "POST a/eviction dry", "POST alone/eviction", "POST b/eviction", "POST b/eviction dry",
		"POST c/eviction", "POST c/eviction dry")
}

func runs(duration string) func(*v1.Pod) {
	return func(p *v1.Pod) { p.Annotations = map[string]string{podspec.AnnotationRuntime: duration} }
}

// TestOverrun: what happens to who runs longer than it said, by the enforcement of its budget.
func TestOverrun(t *testing.T) {
	now := at("2026-11-10 12:00:00")
	for _, e := range []v1alpha1.Enforcement{v1alpha1.EnforceNotify, v1alpha1.EnforceThrottle, v1alpha1.EnforceHold} {
		o := newOffice(t, queue("team", "", budget("100", v1alpha1.PeriodMonth, func(b *v1alpha1.Budget) { b.Enforcement = e })))
		o.add(pod("a", "team", 1, now-2*hour, runs("1h")))
		o.store.uses = []use{{"team", 1, now - 2*hour, now + day}}
		o.pass(now)
		o.pass(now + hour)
		o.want(string(e) + " lets it go on")
		if b := o.budget("team"); b.Used != "3" || b.Held != "1" {
			t.Errorf("%s: used %s, held %s; want 3 hours that it ran, and the next", e, b.Used, b.Held)
		}
	}

	o := newOffice(t,
		queue("org", "", budget("100", v1alpha1.PeriodMonth, drains(600))),
		queue("team", "org", func(s *v1alpha1.QueueSpec) { s.Runtime.Default = &metav1.Duration{Duration: 2 * time.Hour} }),
		queue("serves", "org"))
	o.add(pod("a", "team", 1, now, runs("1h")), pod("default", "team", 1, now), pod("service", "serves", 1, now-10*day),
		pod("g1", "team", 1, now, runs("1h"), member("train")), pod("g2", "team", 1, now+60, runs("1h"), member("train")))
	o.pass(now + hour - 1)
	o.want("all are within their time")
	o.pass(now + hour)
	o.want("its time is over", "PATCH a")
	if got := o.told1("a"); got != "2026-11-10T13:10:00Z" {
		t.Errorf("told %q, want the end of its time and the grace", got)
	}
	if !slices.ContainsFunc(o.told(), func(e string) bool {
		return strings.Contains(e, "it runs for longer than the 1h0m0s that queue org admits it for: the pod is evicted at 2026-11-10T13:10:00Z")
	}) {
		t.Error("it was not told why")
	}
	o.pass(now + hour + 60)
	o.want("a gang's is when that of the last of it is", "PATCH g1", "PATCH g2")
	o.restart()
	o.pass(now + hour + 600)
	o.want("and then, also after a restart", "POST a/eviction")
	o.pass(now + hour + 660)
	o.want("the gang whole", "POST a/eviction", "POST g1/eviction", "POST g1/eviction dry", "POST g2/eviction", "POST g2/eviction dry")
	for _, name := range []string{"a", "g1", "g2"} {
		_ = o.pods.Delete(pod(name, "team", 1, now))
	}
	// The controller was away when the time of the last one ended.
	o.restart()
	o.pass(now + 3*hour)
	o.want("who says nothing has the default of its queue", "PATCH default")
	if got := o.told1("default"); got != "2026-11-10T15:10:00Z" {
		t.Errorf("told %q, want a whole grace", got)
	}
	o.pass(now + 3*hour + 600)
	o.want("services have no end", "POST default/eviction")
}
