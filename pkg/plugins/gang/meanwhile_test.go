package gang

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	clienttesting "k8s.io/client-go/testing"
	featuregatetesting "k8s.io/component-base/featuregate/testing"
	fwk "k8s.io/kube-scheduler/framework"
	"k8s.io/kubernetes/pkg/features"
)

// meanwhile has f called while a plan for the gang is being made, once, and what it does seen by the informers before the plan is.
func (r *rig) meanwhile(f func()) {
	var once atomic.Bool
	r.trouble.asked = func(pod string) {
		if pod[:2] == "g-" && once.CompareAndSwap(false, true) {
			f()
			time.Sleep(time.Millisecond) // of the bubble: until nobody has anything left to do
		}
	}
}

// As the command does: the patches that the gate brings would be events that hide what is not seen.
func withoutNominations(t *testing.T) {
	featuregatetesting.SetFeatureGateDuringTest(t, utilfeature.DefaultFeatureGate, features.NominatedNodeNameForExpectation, false)
}

func TestWhatChangesWhileAPlanIsMadeEndsIt(t *testing.T) {
	withoutNominations(t)
	for name, f := range map[string]func(*rig){
		"a member is deleted":     func(r *rig) { r.delete("g-1") },
		"the leader is deleted":   func(r *rig) { r.delete("g-0") },
		"the PodGroup is deleted": func(r *rig) { _ = r.groups.Delete(r.t.Context(), "g", metav1.DeleteOptions{}) },
		"all members are deleted": func(r *rig) { r.delete("g-0", "g-1", "g-2") },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, nodesOf(3, 8), func(r *rig) {
				r.meanwhile(func() { f(r) })
				r.group("g", 3)
				r.create(membersOf("g", 3, 8)...)
				r.after(2 * time.Second) // a fifth of the time that members may wait for each other
				if got := r.bound(); got != "" || r.held() != 0 {
					t.Errorf("bound %q, %d hold GPUs", got, r.held())
				}
			})
		})
	}
}

func TestNothingIsKeptForAGangThatIsGone(t *testing.T) {
	withoutNominations(t)
	inBubble(t, nodesOf(2, 8), func(r *rig) {
		r.create(asks("running", gpus(8), runsFor(time.Hour)))
		r.bound()
		r.meanwhile(func() { r.delete("g-0", "g-1") })
		r.group("g", 2)
		r.create(membersOf("g", 2, 8)...)
		r.after(time.Minute)
		if got := r.kept(); got != "" {
			t.Errorf("kept: %s", got)
		}
		r.create(asks("p", gpus(8)))
		r.after(time.Minute)
		if got := r.number(); got != 2 {
			t.Errorf("%d pods are bound: %s", got, r.said("p"))
		}
	})
}

// One of four nodes is held for ever, so the gang can never start: the others have the rest for half of the time at least.
func TestWhatIsKeptForAgeEnds(t *testing.T) {
	inBubble(t, nodesOf(4, 8), func(r *rig) {
		r.create(asks("forever", gpus(8)))
		r.bound()
		r.group("big", 4)
		r.create(membersOf("big", 4, 8)...)
		r.after(11 * time.Minute)
		if r.kept() == "" {
			t.Fatal("nothing is kept")
		}
		r.create(asks("p0", gpus(8)), asks("p1", gpus(8)), asks("p2", gpus(8)))
		r.after(time.Minute)
		if got := r.number(); got != 1 {
			t.Fatalf("%d pods are bound", got)
		}
		r.after(agePatience * 10 * time.Minute)
		if got := r.number(); got != 4 {
			t.Errorf("%d pods are bound, kept: %s; %s", got, r.kept(), r.said("p0"))
		}
	})
}

func zones(count, nodes int) (out []*v1.Node) {
	for z := range count {
		for i := range nodes {
			out = append(out, node(fmt.Sprintf("z%d-n%d", z, i), 8, func(n *v1.Node) { n.Labels[v1.LabelTopologyZone] = fmt.Sprintf("z%d", z) }))
		}
	}
	return out
}

func TestMembersThatMustBeApart(t *testing.T) {
	inBubble(t, zones(3, 12), func(r *rig) {
		r.group("spread", 3)
		r.create(membersOf("spread", 3, 8, apart(v1.LabelTopologyZone))...)
		r.after(time.Second)
		if got := r.number(); got != 3 {
			t.Errorf("%d of 3 are bound: %s", got, r.said("spread-0"))
		}
	})
}

// Four cannot be in three zones, and no pod that ends changes that: to keep nodes would help nobody.
func TestNothingIsKeptForAGangThatOthersRefuse(t *testing.T) {
	inBubble(t, zones(3, 4), func(r *rig) {
		r.group("spread", 4)
		r.create(membersOf("spread", 4, 8, apart(v1.LabelTopologyZone))...)
		r.after(time.Minute)
		for i := range 12 {
			r.create(asks(fmt.Sprintf("p%d", i), gpus(8)))
		}
		r.after(time.Minute)
		if got := r.number(); got != 12 {
			t.Errorf("%d of 12 nodes are used, kept: %s", got, r.kept())
		}
	})
}

func TestAGangThatIsBeingBoundIsNotPreempted(t *testing.T) {
	inBubble(t, nodesOf(4, 8), func(r *rig) {
		r.linger()
		var blocked atomic.Bool
		blocked.Store(true)
		r.refuse = func(pod, _ string) error {
			if blocked.Load() && (pod == "old-2" || pod == "old-3") {
				return apierrors.NewTooManyRequests("busy", 0)
			}
			return nil
		}
		r.group("old", 4)
		old := membersOf("old", 4, 8, startedBefore(time.Hour))
		r.create(old...)
		synctest.Wait()
		r.group("new", 2)
		r.create(membersOf("new", 2, 8, priority(10))...)
		r.after(200 * time.Millisecond)
		if got := r.leaving(old...); got != "" {
			t.Errorf("%s are evicted while the others are being bound", got)
		}
		blocked.Store(false)
		r.after(time.Minute)
		if got := r.leaving(old...); got != "old-0 old-1 old-2 old-3" {
			t.Errorf("leaving: %q; %s", got, r.said("new-0"))
		}
	})
}

// PreEnqueue holds such a member back, so that no cycle of it gives the place up.
func TestAMemberWhoseBindFailedKeepsNothingWhenItsGangCannotStartAnyMore(t *testing.T) {
	withoutNominations(t)
	inBubble(t, nodesOf(2, 8), func(r *rig) {
		r.refuse = func(pod, _ string) error {
			if pod == "g-1" {
				return apierrors.NewTooManyRequests("busy", 0)
			}
			return nil
		}
		r.group("g", 2)
		r.create(membersOf("g", 2, 8)...)
		if got := r.bound(); got != "g-0@n0" || r.held() != 2 {
			t.Fatalf("bound %q, %d hold GPUs", got, r.held())
		}
		_ = r.groups.Delete(t.Context(), "g", metav1.DeleteOptions{})
		r.after(5 * time.Second)
		if r.held() != 1 {
			t.Errorf("%d hold GPUs; %s", r.held(), r.said("g-1"))
		}
	})
}

// The scheduler's informer does not show pods that have ended; the controller's count is what is known of them.
func TestMembersThatSucceededCount(t *testing.T) {
	status := func(phase string) func(*unstructured.Unstructured) {
		return func(u *unstructured.Unstructured) {
			u.Object["status"] = map[string]any{"phase": phase, "succeeded": int64(1)}
		}
	}
	for phase, want := range map[string]int{"Running": 2, "Finished": 0} {
		t.Run(phase, func(t *testing.T) {
			inBubble(t, nodesOf(3, 8), func(r *rig) {
				r.group("g", 3, status(phase))
				r.create(membersOf("g", 2, 8)...)
				r.after(time.Second)
				if got := r.number(); got != want {
					t.Errorf("%d are bound, want %d", got, want)
				}
			})
		})
	}
}

// An autoscaler would go on adding nodes for a gang that cannot start on them.
func TestMembersThatWereToldOfNoRoomAreToldWhenThatIsNotWhy(t *testing.T) {
	withoutNominations(t)
	for name, tc := range map[string]struct {
		change func(*rig)
		want   string
	}{
		"the PodGroup is deleted": {
			func(r *rig) { _ = r.groups.Delete(r.t.Context(), "g", metav1.DeleteOptions{}) },
			"GangNotFound: the PodGroup does not exist (podgroup ns/g)",
		},
		"a member is deleted": {
			func(r *rig) { r.delete("g-2") },
			"GangIncomplete: fewer members exist than must start together (podgroup ns/g has 2 of at least 3)",
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, nodesOf(1, 8), func(r *rig) {
				r.group("g", 3)
				r.create(membersOf("g", 3, 8)...)
				r.after(time.Minute)
				if got := r.said("g-0"); !strings.HasPrefix(got, "Unschedulable: ") {
					t.Fatalf("g-0 says %q", got)
				}
				tc.change(r)
				r.after(time.Minute)
				for _, p := range []string{"g-0", "g-1"} {
					if got := r.said(p); !strings.HasPrefix(got, "SchedulerError: ") || !strings.HasSuffix(got, tc.want) {
						t.Errorf("%s says %q, want %q", p, got, tc.want)
					}
				}
			})
		})
	}
}

// Nobody knows whether the pod is bound, its gang cannot start any more, and no other pod has a cycle.
func TestWhatASuspectedMemberHoldsIsGivenBackWithoutACycle(t *testing.T) {
	withoutNominations(t)
	inBubble(t, nodesOf(2, 8), func(r *rig) {
		r.client.PrependReactor("get", "pods", func(clienttesting.Action) (bool, runtime.Object, error) {
			return true, nil, errors.New("connection refused")
		})
		r.refuse = func(string, string) error { return errors.New("connection refused") }
		r.group("g", 2)
		r.create(membersOf("g", 2, 8)...)
		r.after(time.Millisecond)
		if r.held() != 2 {
			t.Fatalf("%d hold GPUs", r.held())
		}
		_ = r.groups.Delete(t.Context(), "g", metav1.DeleteOptions{})
		r.refuse = func(string, string) error { return nil }
		r.create(asks("p", gpus(8)), asks("q", gpus(8)))
		r.after(time.Minute)
		if got := r.bound(); got != "" {
			t.Fatalf("bound: %s", got)
		}
		r.after(time.Minute)
		if got := r.number(); got != 2 {
			t.Errorf("%d are bound, %d hold GPUs", got, r.held())
		}
	})
}

// A member that somebody else binds to the very node that is planned for it has no cycle any more, for which the others would
// wait until they are too late.
func TestAMemberThatSomebodyElseBindsToItsPlaceHoldsNobodyUp(t *testing.T) {
	withoutNominations(t)
	inBubble(t, nodesOf(3, 8), func(r *rig) {
		r.trouble.preFilter = func(pod string) *fwk.Status {
			if pod == "g-2" {
				return fwk.AsStatus(errors.New("not now"))
			}
			return nil
		}
		r.group("g", 3)
		r.create(membersOf("g", 3, 8)...)
		r.after(10 * time.Millisecond)
		p := r.pod("g-2")
		node, planned := r.gangs.book.placeOf(key("g"), p.UID)
		if got := r.bound(); got != "" || !planned {
			t.Fatalf("bound %q; a place for g-2: %t", got, planned)
		}
		p.Spec.NodeName = node
		if _, err := r.client.CoreV1().Pods("ns").Update(t.Context(), p, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		r.after(5 * time.Second) // half of the time that members may wait for each other
		if got := r.number(); got != 3 {
			t.Errorf("%d are bound: %s; %s", got, r.bound(), r.said("g-0"))
		}
		r.idle()
	})
}
