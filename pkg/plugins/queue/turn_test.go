package queue

import (
	"fmt"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// count is how many of the bound pods have a name that begins so.
func (r *rig) count(prefix string) (n int) {
	r.t.Helper()
	for name := range strings.FieldsSeq(r.bound()) {
		if strings.HasPrefix(name, prefix) {
			n++
		}
	}
	return n
}

func TestIdleCapacityIsSharedByQueuesThatWait(t *testing.T) {
	inBubble(t, nodes(node("n", 8)), []runtime.Object{queue("a"), queue("b")}, func(r *rig) {
		r.create(pod("first", "", "", asking(8)))
		r.wantBound("first")
		for i := range 8 {
			r.create(pod(fmt.Sprint("a", i), "a", ""))
		}
		r.after(time.Second)
		for i := range 8 {
			r.create(pod(fmt.Sprint("b", i), "b", "")) // later, and with the same right
		}
		r.after(10 * time.Second)
		r.delete("first")
		r.after(10 * time.Second)
		if a, b := r.count("a"), r.count("b"); a != 4 || b != 4 {
			t.Errorf("%d of a and %d of b are bound, want 4 of each", a, b)
		}
		for i := range 8 {
			for _, name := range []string{fmt.Sprint("a", i), fmt.Sprint("b", i)} {
				// Without room they are to be seen by autoscalers.
				if reason, _ := r.said(name); reason != "" && reason != v1.PodReasonUnschedulable {
					t.Errorf("%s is told %s", name, reason)
				}
			}
		}
	})
}

func TestAGuaranteeGoesFirst(t *testing.T) {
	inBubble(t, nodes(node("n", 4)), []runtime.Object{queue("a"), queue("b", gpus("4", "")), queue("c", gpus("4", ""))}, func(r *rig) {
		r.create(pod("first", "c", "", asking(4)))
		r.wantBound("first")
		for i := range 4 {
			r.create(pod(fmt.Sprint("a", i), "a", ""))
		}
		r.after(time.Second)
		for i := range 4 {
			r.create(pod(fmt.Sprint("b", i), "b", ""))
		}
		r.after(10 * time.Second)
		r.delete("first")
		r.wantBound("b0 b1 b2 b3")
	})
}

func TestAJobWithoutAPlaceBlocksNobody(t *testing.T) {
	inBubble(t, nodes(node("n", 4), node("m", 4)), []runtime.Object{queue("a"), queue("b")}, func(r *rig) {
		r.create(pod("x", "", "", asking(2)), pod("y", "", "", asking(3)))
		r.wantBound("x y")
		r.create(pod("large", "a", "", asking(4))) // there are 3 idle, of which it would have to have one more
		r.create(pod("b0", "b", ""), pod("b1", "b", ""), pod("b2", "b", ""))
		r.after(10 * time.Second)
		r.wantBound("b0 b1 b2 x y")
		r.wantSaid("large", v1.PodReasonUnschedulable)
	})
}
