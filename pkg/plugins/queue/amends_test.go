package queue

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"weft.sh/weft/pkg/apis/weft/v1alpha1"
)

// churn kicks the worker more often than it rests, as a busy cluster does, until the test is done.
func (r *rig) churn() (stop func()) {
	done := make(chan struct{})
	go func() {
		for {
			select {
			case <-done:
				return
			case <-time.After(debounce - 10*time.Millisecond):
				r.state.kick()
			}
		}
	}()
	return func() { close(done) }
}

func TestTimeMovesOnWhereSomethingChangesAllTheTime(t *testing.T) {
	window := func(q *v1alpha1.Queue) {
		q.Spec.Windows = []v1alpha1.Window{{From: "00:00", To: "00:01", GPUs: v1alpha1.QueueGPUs{Limit: q.Spec.GPUs.Guaranteed}}}
		q.Spec.GPUs.Guaranteed = nil
	}
	all := []runtime.Object{queue("closed", gpus("0", ""), window), queue("team", budget("3"))}
	inBubble(t, nodes(node("n", 8)), all, func(r *rig) {
		r.create(pod("waits", "closed", "1h"), pod("serves", "team", ""))
		r.wantBound("serves")
		defer r.churn()()
		r.after(2 * time.Minute)
		r.wantBound("serves waits") // the window is over
		r.after(28 * time.Minute)
		r.state.mu.Lock()
		s, _ := r.state.book.Standing("team")
		r.state.mu.Unlock()
		if half, got := int64(30*60*1000), s.Used+s.Held; got < half+60*60*1000 {
			t.Errorf("who runs for half an hour without an end has used and holds %d milli-GPU-seconds, want half an hour and the next", got)
		}
	})
}

func TestAHoldThatBecomesDearerIsCountedAgain(t *testing.T) {
	class := func(name, product string, weight int64) runtime.Object {
		c := &v1alpha1.GPUClass{ObjectMeta: metav1.ObjectMeta{Name: name, Generation: 1}}
		c.APIVersion, c.Kind = v1alpha1.SchemeGroupVersion.String(), "GPUClass"
		c.Spec.Products = []string{product}
		c.Spec.Weight.Set(weight)
		return stored(c)
	}
	cheap, dear := node("cheap", 4), node("dear", 4, func(n *v1.Node) { n.Labels["nvidia.com/gpu.product"] = "B200" })
	all := []runtime.Object{queue("team", budget("1")), class("h", "H100", 1), class("b", "B200", 4)}
	inBubble(t, nodes(cheap, dear), all, func(r *rig) {
		held := func() int64 {
			s, _ := r.state.book.Standing("team")
			return s.Held
		}
		p := pod("x", "team", "1h", func(p *v1.Pod) { p.UID = "x" })
		if err := r.state.reserve(p, cheap); err != nil {
			t.Fatal(err)
		}
		before := held()
		if err := r.state.reserve(p, dear); err == nil {
			t.Error("an hour of GPUs that count four times is within a budget of one")
		}
		if got := held(); got != before || before == 0 {
			t.Errorf("%d are held after the refusal, want %d as before", got, before)
		}
		r.change(queue("team", budget("5")))
		r.after(time.Second)
		if r.state.reserve(p, cheap) != nil || r.state.reserve(p, dear) != nil {
			t.Error("within the budget the dear hold takes the place of the cheap one")
		}
		if got := held(); got != 4*before {
			t.Errorf("%d are held, want %d", got, 4*before)
		}
	})
}

func TestAnElasticGangStartsWithWhatItsQueueAllows(t *testing.T) {
	for _, test := range []struct {
		name        string
		allow, more func(*v1alpha1.Queue)
	}{
		{"limit", gpus("", "3"), gpus("", "4")},
		{"budget", budget("3"), budget("5")},
	} {
		t.Run(test.name, func(t *testing.T) {
			inBubble(t, nodes(node("n", 8)), []runtime.Object{queue("team", test.allow), queue("other")}, func(r *rig) {
				r.group("train", 2)
				r.create(gangOf("train", 4, "team", "1h")...)
				r.after(time.Minute)
				if n := r.count("train"); n != 3 {
					t.Fatalf("%d members run, want three: the minimum, and of the rest what is allowed", n)
				}
				late := slices.DeleteFunc([]string{"train-0", "train-1", "train-2", "train-3"}, func(name string) bool {
					return slices.Contains(strings.Fields(r.bound()), name)
				})
				if got, _ := r.said(late[0]); got != "OverLimit" && got != "OverBudget" {
					t.Errorf("the last one is told %q", got)
				}
				// What it is not allowed is kept for nobody.
				r.group("big", 5)
				r.create(gangOf("big", 5, "other", "1h")...)
				r.after(time.Minute)
				if n := r.count("big"); n != 5 {
					t.Errorf("%d of another gang run on the other 5 GPUs", n)
				}
				r.delete("big-0")
				r.change(queue("team", test.more))
				r.after(time.Minute)
				if n := r.count("train"); n != 4 {
					t.Errorf("%d members run, want four when they are allowed", n)
				}
			})
		})
	}
}

func TestAnElasticGangWaitsForItsMinimumOnly(t *testing.T) {
	inBubble(t, nodes(node("n", 8)), []runtime.Object{queue("team", gpus("", "3"))}, func(r *rig) {
		r.create(pod("first", "team", "1h", asking(2)))
		r.wantBound("first")
		r.group("train", 2)
		r.create(gangOf("train", 4, "team", "1h")...)
		r.after(time.Minute)
		r.wantBound("first")
		r.wantSaid("train-0", "OverLimit", "2 are needed")
		r.delete("first")
		r.after(time.Minute)
		if n := r.count("train"); n != 3 {
			t.Errorf("%d members run, want three", n)
		}
	})
}

func TestBudgetsWhoseBooksNobodyKeepsAreKnownAtTheStart(t *testing.T) {
	kept := func(ago time.Duration) func(*v1alpha1.Queue) {
		begin := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
		return func(q *v1alpha1.Queue) {
			q.Status.Budget = &v1alpha1.BudgetStatus{PeriodStart: metav1.Unix(0, 0), AsOf: metav1.NewTime(begin.Add(-ago))}
		}
	}
	notify := func(b *v1alpha1.Budget) { b.Enforcement = v1alpha1.EnforceNotify }
	drain := func(b *v1alpha1.Budget) { b.Enforcement = v1alpha1.EnforceDrain }
	all := []runtime.Object{
		queue("hold", budget("1"), kept(time.Hour)), queue("drain", budget("1", drain), kept(staleAfter)), queue("fresh", budget("1"), kept(time.Minute)),
		queue("new", budget("1")), queue("notify", budget("1", notify), kept(time.Hour)), queue("limit", gpus("", "1")),
	}
	inBubble(t, nodes(node("n", 1)), all, func(r *rig) {
		got := r.state.stale()
		slices.Sort(got)
		if diff := cmp.Diff([]string{"drain", "hold"}, got); diff != "" {
			t.Errorf("budgets with old books (-want +got):\n%s", diff)
		}
		r.create(pod("a", "hold", "1h"))
		r.wantBound("a") // all the same
	})
	inBubble(t, nodes(node("n", 1)), nil, func(r *rig) {
		if got := r.state.stale(); got != nil {
			t.Errorf("without queues: %v", got)
		}
	})
}
