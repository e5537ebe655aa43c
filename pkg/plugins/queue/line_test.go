package queue

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
)

func TestALargeJobIsNotStarvedBelowALimit(t *testing.T) {
	inBubble(t, nodes(node("n", 8)), []runtime.Object{queue("a", gpus("", "4"))}, func(r *rig) {
		r.create(pod("first", "a", "30m", asking(2)), pod("second", "a", "20m", asking(2)))
		r.wantBound("first second")
		r.create(pod("large", "a", "1h", asking(4)))
		r.wantSaid("large", "OverLimit")
		r.after(10 * time.Second)
		r.create(pod("long", "a", "40m"), pod("service", "a", ""), pod("short", "a", "20m"))
		r.after(20 * time.Minute)
		r.delete("second")
		r.after(10 * time.Second)
		r.wantBound("first") // of the two that are free there is room for any of the three, and large is first
		r.wantSaid("long", "NotYourTurn", "a job ahead of it in queue a")
		r.wantSaid("short", "NotYourTurn")
		r.create(pod("shorter", "a", "5m"))
		r.wantBound("first shorter")
		r.after(5 * time.Minute)
		r.delete("shorter")
		r.after(4 * time.Minute)
		r.delete("first")
		r.wantBound("large")
		r.delete("large")
		r.wantBound("long service short")
		r.neverUnschedulable()
	})
}

func TestPriorityGoesAheadBelowALimit(t *testing.T) {
	inBubble(t, nodes(node("n", 8)), []runtime.Object{queue("a", gpus("", "4"))}, func(r *rig) {
		r.create(pod("first", "a", "30m", asking(3), priority(9)))
		r.wantBound("first")
		r.create(pod("large", "a", "1h", asking(4)))
		r.create(pod("high", "a", "5h", priority(1)))
		r.wantBound("first high")
	})
}

// A large job below a limit, of which nobody knows when what runs will end, starts all the same while small ones come without end.
func TestSmallOnesThatNeverEndStarveNobody(t *testing.T) {
	inBubble(t, nodes(node("n", 8)), []runtime.Object{queue("a", gpus("", "4"))}, func(r *rig) {
		next := 0
		small := func() {
			r.create(pod(fmt.Sprint("small-", next), "a", ""))
			next++
		}
		for range 6 {
			small()
		}
		r.wantCounts(map[string]int{"small-": 4})
		r.create(pod("large", "a", "", asking(4)))
		for range 30 { // each runs for some ten minutes
			if r.count("large") == 1 {
				break
			}
			r.after(2 * time.Minute)
			if bound := strings.Fields(r.bound()); len(bound) > 0 {
				r.delete(bound[0])
				small()
			}
		}
		r.wantCounts(map[string]int{"large": 1})
	})
}

// Of the members above its minimum only as many are planned as the queue admits, the first in rank order.
func TestOfTheSurplusAsManyArePlannedAsAreAdmitted(t *testing.T) {
	inBubble(t, nodes(node("n", 8), node("m", 8)), []runtime.Object{queue("a", gpus("", "4"))}, func(r *rig) {
		r.create(pod("first", "a", "", asking(4)))
		r.wantBound("first")
		r.group("train", 2)
		members := gangOf("train", 7, "a", "")
		for i := range members { // the last first
			r.create(members[len(members)-1-i])
		}
		r.after(2 * time.Second)
		r.delete("first")
		r.wantBound("train-0 train-1 train-2 train-3")
		if n := r.held(); n != 0 {
			t.Errorf("%d pods are being bound", n)
		}
		for _, name := range []string{"train-4", "train-5", "train-6"} {
			r.wantSaid(name, "OverLimit")
		}
		cache := r.state.options.GPUs.Cache()
		for _, p := range members[4:] {
			if node, _, _, holds := cache.Holding(string(p.UID)); holds {
				t.Errorf("%s has GPUs on %s", p.Name, node)
			}
		}
		r.delete("train-1")
		r.wantBound("train-0 train-2 train-3 train-4")
		r.change(queue("a", gpus("", "6")))
		r.wantBound("train-0 train-2 train-3 train-4 train-5 train-6")
		r.neverUnschedulable()
	})
}
