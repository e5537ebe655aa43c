package queue

import (
	"errors"
	"sync/atomic"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clienttesting "k8s.io/client-go/testing"

	"weft.sh/weft/pkg/apis/weft/v1alpha1"
)

// used is what the queue used and holds, in GPU-seconds, by the book.
func (r *rig) used(queue string) int64 {
	r.t.Helper()
	r.after(time.Second)
	r.state.mu.Lock()
	defer r.state.mu.Unlock()
	s, ok := r.state.book.Standing(queue)
	if !ok {
		r.t.Fatalf("no queue %s", queue)
	}
	return (s.Used + s.Held) / 1000
}

// killer is how to end the scheduler as SIGKILL does: it writes no record any more.
func (r *rig) killer() (kill func()) {
	var dead atomic.Bool
	for _, verb := range []string{"create", "update"} {
		r.client.PrependReactor(verb, "configmaps", func(clienttesting.Action) (bool, runtime.Object, error) {
			return dead.Load(), nil, errors.New("killed")
		})
	}
	return func() {
		dead.Store(true)
		r.cancel()
		r.after(time.Second)
		dead.Store(false)
	}
}

// TestNothingIsForgottenThatWasDeleted: nobody keeps the books, pods end and are deleted, and the scheduler is killed. What they used
// counts in the next one; and of what came to its end while no scheduler ran, no less than it used.
func TestNothingIsForgottenThatWasDeleted(t *testing.T) {
	all := []runtime.Object{queue("org", budget("10")), queue("team", budget("6"), under("org"))}
	inBubble(t, nodes(node("n", 8)), all, func(r *rig) {
		kill := r.killer()
		r.create(pod("a", "team", "2h"), pod("b", "team", "2h", asking(2)))
		r.wantBound("a b")
		r.after(time.Hour)
		r.delete("b") // two GPUs for an hour
		before := r.used("team")
		if low, high := int64(3600*4), int64(3600*4+20); before < low || before > high {
			t.Fatalf("team used and holds %d GPU-seconds, want a little more than %d: two hours of b, two of a", before, low)
		}
		r.after(recordEvery)
		kill()
		r.start()
		if got := r.used("team"); got != before {
			t.Errorf("after the kill team used and holds %d GPU-seconds, want %d", got, before)
		}
		if got := r.used("org"); got != before {
			t.Errorf("org used and holds %d GPU-seconds, want %d", got, before)
		}
		r.create(pod("c", "team", "2h5m"))
		r.wantSaid("c", "OverBudget") // with it 6 hours and 5 minutes
		r.delete("c")
		r.create(pod("d", "team", "1h"))
		r.wantBound("a d")

		// While no scheduler runs, d ends and is deleted: nobody knows when.
		r.after(recordEvery)
		kill()
		r.after(10 * time.Minute)
		r.delete("d")
		r.after(20 * time.Minute)
		r.start()
		if got, least := r.used("team"), before+10*60; got < least || got > before+31*60 {
			t.Errorf("team used and holds %d GPU-seconds, want %d for what d used, and no more than if it had run on", got, least)
		}

		// The controller is back and says it better.
		r.change(queue("org", budget("10"), keptUntil(time.Now(), 3600*1000*3)))
		r.change(queue("team", budget("6"), under("org"), keptUntil(time.Now(), 3600*1000*3)))
		if got, want := r.used("team"), int64(3*3600+(3600-30*60)); got > want || got < want-60 {
			t.Errorf("team used and holds %d GPU-seconds, want %d by the ledger", got, want)
		}
	})
}

// keptUntil is a checkpoint of that moment.
func keptUntil(at time.Time, used int64) func(*v1alpha1.Queue) {
	return func(q *v1alpha1.Queue) {
		q.Status.Budget = &v1alpha1.BudgetStatus{PeriodStart: metav1.Unix(0, 0), AsOf: metav1.NewTime(at), UsedMilliGPUSeconds: used}
	}
}

// TestOnlyWhoSchedulesWritesARecord, and only when something changed.
func TestOnlyWhoSchedulesWritesARecord(t *testing.T) {
	inBubble(t, nodes(node("n", 2)), []runtime.Object{queue("team", budget("6"))}, func(r *rig) {
		get := func() *v1.ConfigMap {
			t.Helper()
			o, err := r.client.CoreV1().ConfigMaps(defaultNamespace).Get(t.Context(), recordName, metav1.GetOptions{})
			if err != nil {
				return nil
			}
			return o
		}
		kill := r.killer()
		r.after(time.Minute)
		if get() != nil {
			t.Error("written before anything was scheduled")
		}
		r.create(pod("a", "team", "1h"))
		r.wantBound("a")
		r.after(recordEvery)
		was := get()
		if was == nil {
			t.Fatal("nothing is written")
		}
		r.after(time.Minute)
		if now := get(); now.Data[recordKey] != was.Data[recordKey] {
			t.Error("written anew where nothing changed")
		}
		writes := 0
		for _, a := range r.client.Actions() {
			if a.GetResource().Resource == "configmaps" && a.GetVerb() != "get" {
				writes++
			}
		}
		if writes > 3 {
			t.Errorf("%d writes for one pod", writes)
		}
		// What cannot be read is done without.
		was.Data = map[string]string{recordKey: "{"}
		if _, err := r.client.CoreV1().ConfigMaps(defaultNamespace).Update(t.Context(), was, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		kill()
		r.start()
		r.create(pod("b", "team", "1h"))
		r.wantBound("a b")
	})
}
