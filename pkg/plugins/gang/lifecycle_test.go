package gang

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	fwk "k8s.io/kube-scheduler/framework"
)

func TestAGangStartsWhole(t *testing.T) {
	inBubble(t, nodesOf(2, 8), func(r *rig) {
		r.group("g", 4)
		r.create(membersOf("g", 3, 4)...)
		if n := r.number(); n != 0 || r.said("g-0") != "" || r.held() != 0 {
			r.t.Fatalf("short of a member: %d bound, %d hold GPUs, the condition is %q", n, r.held(), r.said("g-0"))
		}
		r.create(member("g", "g-3", 4))
		if n := r.number(); n != 4 {
			r.t.Fatalf("%d bound: %s", n, r.said("g-0"))
		}
		r.idle()
	})
}

func TestPodGroupsMayComeLater(t *testing.T) {
	inBubble(t, nodesOf(1, 8), func(r *rig) {
		r.create(membersOf("g", 2, 1)...)
		if r.number() != 0 || r.said("g-0") != "" {
			r.t.Fatalf("without a PodGroup: %s, %q", r.bound(), r.said("g-0"))
		}
		r.group("g", 2)
		if n := r.number(); n != 2 {
			r.t.Fatalf("%d bound: %q", n, r.said("g-0"))
		}
	})
}

func TestAGangWithoutRoomHoldsNothingAndIsToldTheSame(t *testing.T) {
	inBubble(t, nodesOf(2, 8), func(r *rig) {
		r.create(asks("other"))
		r.group("g", 2)
		r.create(membersOf("g", 2, 8)...)
		said := r.said("g-0")
		if !strings.Contains(said, "Unschedulable: 0/2 nodes are available: InsufficientGangCapacity") || r.said("g-1") != said {
			r.t.Fatalf("told %q and %q", said, r.said("g-1"))
		}
		if r.held() != 1 {
			r.t.Errorf("%d pods hold GPUs, want the one that is bound", r.held())
		}
		// What does not help asks for nothing; a gang may not hold up others either.
		r.create(asks("small"))
		r.delete("small")
		if n := r.number(); n != 1 {
			r.t.Fatalf("bound: %s", r.bound())
		}
		r.delete("other")
		r.after(11 * time.Second) // the backoff
		if n := r.number(); n != 2 {
			r.t.Fatalf("bound: %q, told %q", r.bound(), r.said("g-0"))
		}
		r.idle()
	})
}

func TestWhenTheLeaderIsGoneAnotherMemberLeads(t *testing.T) {
	inBubble(t, nodesOf(2, 8), func(r *rig) {
		r.create(asks("other"))
		r.group("g", 2)
		r.create(membersOf("g", 3, 8)...)
		if n := r.number(); n != 1 {
			r.t.Fatalf("bound: %q", r.bound())
		}
		var leader string
		r.gangs.queue.mu.RLock()
		for _, p := range r.gangs.queue.refusals[key("g")].members {
			if p.UID == r.gangs.queue.refusals[key("g")].leader {
				leader = p.Name
			}
		}
		r.gangs.queue.mu.RUnlock()
		r.delete(leader)
		r.after(20 * time.Second)
		r.delete("other")
		r.after(20 * time.Second)
		if n := r.number(); n != 2 {
			r.t.Fatalf("bound: %q", r.bound())
		}
	})
}

func TestAMemberThatIsRefusedOnItsPlaceEndsThePlan(t *testing.T) {
	inBubble(t, nodesOf(4, 8), func(r *rig) {
		bad := ""
		r.trouble.filter = func(pod, node string) *fwk.Status {
			if pod != "g-1" || bad != "" && node != bad {
				return nil
			}
			bad = node
			return fwk.NewStatus(fwk.Unschedulable, "not this one")
		}
		r.group("g", 3)
		r.create(membersOf("g", 3, 8)...)
		r.after(30 * time.Second)
		if n := r.number(); n != 3 || bad == "" || strings.Contains(r.bound(), "g-1@"+bad) {
			r.t.Fatalf("bound: %q, g-1 was refused on %q", r.bound(), bad)
		}
		r.idle()
	})
}

func TestAReservationThatFailsEndsThePlan(t *testing.T) {
	inBubble(t, nodesOf(2, 8), func(r *rig) {
		failed := 0
		r.trouble.reserve = func(pod string) *fwk.Status {
			if pod != "g-2" || failed == 3 {
				return nil
			}
			failed++
			return fwk.AsStatus(errors.New("not now"))
		}
		r.group("g", 4)
		r.create(membersOf("g", 4, 4)...)
		if n := r.number(); n != 0 || r.held() != 0 {
			r.t.Fatalf("after a failure %d are bound and %d hold GPUs", n, r.held())
		}
		r.after(60 * time.Second)
		if n := r.number(); n != 4 || failed != 3 {
			r.t.Fatalf("bound: %q after %d failures", r.bound(), failed)
		}
		r.idle()
	})
}

// stall keeps g-1 from ever coming to Permit until it is called.
func stall(r *rig) (release func()) {
	stalled := true
	r.trouble.preFilter = func(pod string) *fwk.Status {
		if pod == "g-1" && stalled {
			return fwk.AsStatus(errors.New("stalled"))
		}
		return nil
	}
	return func() { stalled = false }
}

func TestAPlanWhoseMembersDoNotComeIsGivenBack(t *testing.T) {
	inBubble(t, nodesOf(2, 8), func(r *rig) {
		release := stall(r)
		r.group("g", 4)
		r.create(membersOf("g", 4, 4)...)
		if n := r.number(); n != 0 || r.held() != 4 {
			r.t.Fatalf("%d bound, %d hold GPUs; want the plan to wait", n, r.held())
		}
		r.after(10*time.Second + 81*time.Millisecond) // and 20 ms for each member
		if r.number() != 0 || r.held() != 0 && r.held() != 4 {
			r.t.Fatalf("%d bound, %d hold GPUs", r.number(), r.held())
		}
		undone := func() int {
			r.gangs.book.mu.Lock()
			defer r.gangs.book.mu.Unlock()
			return r.gangs.book.pauses[key("g")].times
		}
		if undone() == 0 {
			r.t.Fatal("the plan was not undone")
		}
		release()
		r.after(60 * time.Second)
		if n := r.number(); n != 4 {
			r.t.Fatalf("bound: %q, g-1 was told %q", r.bound(), r.said("g-1"))
		}
		r.idle()
	})
}

func TestAMemberThatIsDeletedEndsThePlan(t *testing.T) {
	for _, name := range []string{"g-1", "g-0"} { // one that has not come yet, and one that waits
		inBubble(t, nodesOf(2, 8), func(r *rig) {
			release := stall(r)
			r.group("g", 4)
			r.create(membersOf("g", 4, 4)...)
			if r.number() != 0 || r.held() != 4 {
				r.t.Fatalf("%d bound, %d hold GPUs", r.number(), r.held())
			}
			r.delete(name)
			if r.number() != 0 || r.held() != 0 {
				r.t.Fatalf("%s is gone: %d bound, %d hold GPUs", name, r.number(), r.held())
			}
			release()
			r.after(30 * time.Second)
			if r.number() != 0 {
				r.t.Fatalf("a gang short of a member: %q", r.bound())
			}
			r.create(member("g", name, 4))
			r.after(30 * time.Second)
			if n := r.number(); n != 4 {
				r.t.Fatalf("bound: %q", r.bound())
			}
			r.idle()
		})
	}
}

func TestAPodGroupThatIsDeletedOrChangedEndsThePlan(t *testing.T) {
	inBubble(t, nodesOf(2, 8), func(r *rig) {
		release := stall(r)
		r.group("g", 4)
		r.create(membersOf("g", 4, 4)...)
		if err := r.groups.Delete(t.Context(), "g", metav1.DeleteOptions{}); err != nil {
			r.t.Fatal(err)
		}
		if r.number() != 0 || r.held() != 0 {
			r.t.Fatalf("%d bound, %d hold GPUs", r.number(), r.held())
		}
		release()
		r.after(time.Minute)
		if r.number() != 0 || r.held() != 0 {
			r.t.Fatalf("without a PodGroup %d are bound, %d hold GPUs", r.number(), r.held())
		}
		r.group("g", 3)
		r.after(time.Minute)
		if n := r.number(); n != 4 {
			r.t.Fatalf("bound: %q", r.bound())
		}
		r.idle()
	})
}

func TestABindThatFailsIsTriedOnTheSamePlace(t *testing.T) {
	inBubble(t, nodesOf(2, 4), func(r *rig) {
		failures := 0
		r.refuse = func(pod, _ string) error {
			if pod == "g-1" && failures < 3 {
				failures++
				return apierrors.NewForbidden(v1.Resource("pods"), pod, errors.New("not now"))
			}
			return nil
		}
		r.group("g", 4)
		r.create(membersOf("g", 4, 2)...)
		if n := r.number(); n != 3 || r.held() != 4 {
			r.t.Fatalf("%d bound, %d hold GPUs: want the fourth to keep its own", n, r.held())
		}
		r.create(asks("greedy"))
		r.after(time.Minute)
		if n := r.number(); n != 4 || strings.Contains(r.bound(), "greedy") {
			r.t.Fatalf("bound: %q", r.bound())
		}
		var tried []string
		for _, b := range r.tried {
			if strings.HasPrefix(b, "g-1 ") {
				tried = append(tried, b)
			}
		}
		if len(tried) != 4 || len(slices.Compact(tried)) != 1 {
			r.t.Errorf("the binds that were tried are %q, want 4 times the same", tried)
		}
		r.idle()
	})
}

func TestABindThatAlwaysFailsGivesItsPlaceUp(t *testing.T) {
	inBubble(t, nodesOf(2, 4), func(r *rig) {
		r.refuse = func(pod, _ string) error {
			if pod == "g-1" {
				return apierrors.NewForbidden(v1.Resource("pods"), pod, errors.New("never"))
			}
			return nil
		}
		r.group("g", 4)
		r.create(membersOf("g", 4, 2)...)
		r.after(20 * time.Second)
		r.delete("g-1")
		r.create(asks("other"))
		r.after(20 * time.Second)
		if n := r.number(); n != 4 || !strings.Contains(r.bound(), "other@") {
			r.t.Fatalf("bound: %q", r.bound())
		}
		r.idle()
	})
}

func TestOnlyWhatIsMissingIsPlannedAfterARestart(t *testing.T) {
	inBubble(t, nodesOf(2, 8), func(r *rig) {
		r.refuse = func(pod, _ string) error {
			if pod == "g-1" || pod == "g-3" {
				return errors.New("connection refused")
			}
			return nil
		}
		r.group("g", 4)
		r.create(membersOf("g", 4, 4)...)
		before := r.bound()
		if n := r.number(); n != 2 {
			r.t.Fatalf("bound: %q", before)
		}
		r.cancel()
		r.refuse = func(string, string) error { return nil }
		r.after(time.Minute)
		r.start()
		r.after(10 * time.Second)
		if n := r.number(); n != 4 {
			r.t.Fatalf("bound: %q, told %q", r.bound(), r.said("g-1"))
		}
		for p := range strings.FieldsSeq(before) {
			if !strings.Contains(r.bound(), p) {
				r.t.Errorf("%s has moved: %s", p, r.bound())
			}
		}
		r.idle()
	})
}

func TestAnElasticGangGrowsWhenThereIsRoom(t *testing.T) {
	inBubble(t, nodesOf(2, 8), func(r *rig) {
		r.create(asks("other"))
		r.group("g", 2)
		r.create(membersOf("g", 4, 4)...)
		if n := r.number(); n != 4 {
			r.t.Fatalf("bound: %q: want 3 members", r.bound())
		}
		r.delete("other")
		r.after(11 * time.Second)
		if n := r.number(); n != 4 || strings.Contains(r.bound(), "other") {
			r.t.Fatalf("bound: %q", r.bound())
		}
		// A member that is lost and made again finds its gang running.
		r.delete("g-2")
		r.create(member("g", "g-2", 4))
		r.after(11 * time.Second)
		if n := r.number(); n != 4 {
			r.t.Fatalf("bound: %q; told %q", r.bound(), r.said("g-2"))
		}
		r.idle()
	})
}
