package queue

import (
	"fmt"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

func TestAGuaranteeIsTakenBackFromWhoBorrowed(t *testing.T) {
	all := []runtime.Object{queue("a", gpus("4", "")), queue("b", gpus("4", ""))}
	inBubble(t, nodes(node("n", 8)), all, func(r *rig) {
		for i := range 8 {
			r.create(pod(fmt.Sprint("b", i), "b", "", priority(100))) // whatever its priority
			r.after(time.Second)
		}
		if n := r.count("b"); n != 8 {
			t.Fatalf("%d of b are bound, want all idle GPUs lent", n)
		}
		for i := range 6 {
			r.create(pod(fmt.Sprint("a", i), "a", ""))
		}
		r.after(20 * time.Second)
		if a, b := r.count("a"), r.count("b"); a != 4 || b != 4 {
			t.Errorf("%d of a and %d of b are bound, want the guarantee of each", a, b)
		}
		// What is left of a's wishes would be borrowed, and nobody leaves for that, however long.
		r.after(time.Minute)
		if a, b := r.count("a"), r.count("b"); a != 4 || b != 4 {
			t.Errorf("%d of a and %d of b are bound a minute later", a, b)
		}
	})
}

func TestAGangTakesItsGuaranteeBackAndGangsLeaveWhole(t *testing.T) {
	all := []runtime.Object{queue("a", gpus("4", "")), queue("b", gpus("4", ""))}
	inBubble(t, nodes(node("n", 8)), all, func(r *rig) {
		r.group("large", 6)
		r.create(gangOf("large", 6, "b", "")...)
		r.after(2 * time.Second)
		r.create(pod("b-small", "b", ""))
		r.wantBound("b-small large-0 large-1 large-2 large-3 large-4 large-5")
		r.group("train", 4)
		r.create(gangOf("train", 4, "a", "")...)
		r.after(20 * time.Second)
		r.wantBound("b-small train-0 train-1 train-2 train-3")
	})
}

func TestPriorityDecidesWithinAQueueOnly(t *testing.T) {
	all := []runtime.Object{queue("a"), queue("b")}
	inBubble(t, nodes(node("n", 2)), all, func(r *rig) {
		r.create(pod("a-low", "a", ""), pod("b-low", "b", ""))
		r.wantBound("a-low b-low")
		r.create(pod("a-high", "a", "", priority(10)), pod("a-higher", "a", "", priority(20)))
		r.after(20 * time.Second)
		r.wantBound("a-higher b-low")
		r.wantSaid("a-high", v1.PodReasonUnschedulable)
	})
}

func TestWhoHoldsWhatNobodyGuaranteedStays(t *testing.T) {
	inBubble(t, nodes(node("n", 2)), []runtime.Object{queue("a"), queue("b", gpus("1", ""))}, func(r *rig) {
		r.create(pod("a0", "a", ""), pod("a1", "a", ""))
		r.wantBound("a0 a1")
		r.create(pod("b0", "b", ""), pod("b1", "b", ""))
		r.after(20 * time.Second)
		if a, b := r.count("a"), r.count("b"); a != 1 || b != 1 {
			t.Errorf("%d of a and %d of b are bound, want one of each", a, b)
		}
	})
}

func TestPodsOfNoQueueHaveBorrowedWhatTheyHold(t *testing.T) {
	inBubble(t, nodes(node("n", 2)), []runtime.Object{queue("a", gpus("1", ""))}, func(r *rig) {
		r.create(pod("x", "", "", priority(100)), pod("y", "", "", priority(100)))
		r.wantBound("x y")
		r.create(pod("a0", "a", ""), pod("a1", "a", ""))
		r.after(20 * time.Second)
		if a := r.count("a"); a != 1 {
			t.Errorf("%d of a are bound, want the one that is guaranteed", a)
		}
	})
}

func TestWhoPreemptsNobodyTakesItsGuaranteeBackAllTheSame(t *testing.T) {
	never := func(p *v1.Pod) { p.Spec.PreemptionPolicy = new(v1.PreemptNever) }
	all := []runtime.Object{queue("a", gpus("2", "")), queue("b", gpus("1", ""))}
	inBubble(t, nodes(node("n", 3)), all, func(r *rig) {
		r.create(pod("b0", "b", ""), pod("b1", "b", ""), pod("b2", "b", ""))
		r.wantBound("b0 b1 b2")
		r.create(pod("a0", "a", "", never))
		r.group("train", 1)
		r.create(gangOf("train", 1, "a", "", never)...)
		r.after(20 * time.Second)
		if a, train, b := r.count("a"), r.count("train"), r.count("b"); a != 1 || train != 1 || b != 1 {
			t.Errorf("%d of a, %d of its gang and %d of b are bound, want one of each", a, train, b)
		}
		before := r.bound()
		r.create(pod("a-high", "a", "", priority(10), never))
		r.after(20 * time.Second)
		r.wantBound(before) // within its queue priority decides, and it says that nobody is to leave for that
	})
}
