package gang

import (
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clienttesting "k8s.io/client-go/testing"
	fwk "k8s.io/kube-scheduler/framework"
)

// TestNothingIsKeptForAGangThatIsHeldBack: what is kept for a gang that will start when others have ended must not outlive its
// chance to start.
func TestNothingIsKeptForAGangThatIsHeldBack(t *testing.T) {
	for name, tc := range map[string]struct {
		holdBack func(r *rig, held *atomic.Bool)
		// within is when nothing is kept any more.
		within time.Duration
	}{
		"a member of another priority joins: at once": {
			holdBack: func(r *rig, _ *atomic.Bool) { r.create(member("g", "g-2", 8, priority(7))) },
			within:   time.Second,
		},
		"a member of another scheduler joins: at once": {
			holdBack: func(r *rig, _ *atomic.Bool) {
				r.create(member("g", "g-2", 8, func(p *v1.Pod) { p.Spec.SchedulerName = "another" }))
			},
			within: time.Second,
		},
		"another plugin holds the members back: after a while": {
			holdBack: func(_ *rig, held *atomic.Bool) { held.Store(true) },
			within:   startPatience + 2*time.Second,
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, nodesOf(2, 8), func(r *rig) {
				var held atomic.Bool
				r.trouble.holdsBack = func(pod string) bool { return held.Load() && strings.HasPrefix(pod, "g-") }
				r.create(asks("long", gpus(8), runsFor(3*time.Hour)))
				r.after(time.Second)
				r.group("g", 2)
				r.create(membersOf("g", 2, 8)...)
				r.after(5 * time.Second)
				r.create(asks("small", gpus(8)))
				// Nobody holds it back, so what is kept stays.
				r.after(4 * startPatience)
				if r.pod("small").Spec.NodeName != "" || r.kept() == "" {
					t.Fatalf("bound %q, kept %q: want the other node kept for the gang", r.bound(), r.kept())
				}
				tc.holdBack(r, &held)
				// Members are held back when they are looked at next.
				r.after(tc.within)
				if kept := r.kept(); kept != "" {
					t.Errorf("%q is kept for a gang that is held back", kept)
				}
				r.after(5 * time.Second)
				if r.pod("small").Spec.NodeName == "" {
					t.Errorf("the pod waits for what was kept: %s", r.said("small"))
				}
			})
		})
	}
}

// TestAMemberThatDoesNotComeBackLosesItsPlace: the places of a plan that was released at once are not kept for members that another
// plugin holds back after their first attempt.
func TestAMemberThatDoesNotComeBackLosesItsPlace(t *testing.T) {
	inBubble(t, nodesOf(4, 8), func(r *rig) {
		var held atomic.Bool
		surplus := func(pod string) bool { return pod == "g-2" || pod == "g-3" }
		r.trouble.holdsBack = func(pod string) bool { return held.Load() && surplus(pod) }
		r.create(asks("x", gpus(8)), asks("y", gpus(8)))
		r.after(time.Second)
		r.group("g", 2)
		r.create(membersOf("g", 4, 8)...)
		r.after(20 * time.Second)
		if n := r.number(); n != 4 {
			t.Fatalf("%d pods are bound, want two of the gang and the others: %s", n, r.bound())
		}
		r.trouble.reserve = func(pod string) *fwk.Status {
			if !surplus(pod) {
				return nil
			}
			held.Store(true)
			return fwk.NewStatus(fwk.Error, "not this time")
		}
		r.delete("x", "y")
		r.after(5 * time.Second)
		r.create(asks("small-0", gpus(8)), asks("small-1", gpus(8)))
		r.after(time.Second)
		if n := r.held(); n != 4 {
			t.Fatalf("%d pods hold GPUs, want also the two that failed: a failure may pass", n)
		}
		// Nothing happens from here on that would bring a pod back.
		r.after(3 * time.Minute)
		if r.pod("small-0").Spec.NodeName == "" || r.pod("small-1").Spec.NodeName == "" {
			t.Errorf("bound %q: want those that wait for the places: %s", r.bound(), r.said("small-0"))
		}
		r.trouble.reserve = nil
		held.Store(false)
		r.delete("small-0", "small-1")
		r.after(6 * time.Minute) // the queue looks at those that are held back by others
		if r.pod("g-2").Spec.NodeName == "" || r.pod("g-3").Spec.NodeName == "" {
			t.Errorf("bound %q: want all of the gang: %s", r.bound(), r.said("g-2"))
		}
		r.idle()
	})
}

// TestWhatBringsAGangBack is about events on nodes that have nothing for the gang themselves.
func TestWhatBringsAGangBack(t *testing.T) {
	noisy := func(p *v1.Pod) { p.Labels["app"], p.Spec.NodeName = "noisy", "cpu" }
	avoids := func(app string) func(*v1.Pod) {
		return func(p *v1.Pod) {
			p.Spec.Affinity = &v1.Affinity{PodAntiAffinity: &v1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []v1.PodAffinityTerm{{
				TopologyKey: v1.LabelTopologyZone, LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": app}},
			}}}}
		}
	}
	labelled := func(p *v1.Pod) { p.Labels["app"] = "quiet" }
	for name, tc := range map[string]struct {
		there  func(*v1.Pod)
		member func(*v1.Pod)
	}{
		"a pod that the members avoid leaves a node without GPUs of their zone":  {noisy, avoids("noisy")},
		"a pod that avoids the members leaves a node without GPUs of their zone": {func(p *v1.Pod) { noisy(p); avoids("quiet")(p) }, labelled},
	} {
		t.Run(name, func(t *testing.T) {
			nodes := append(zoned(t, "8 | 0"), node("cpu", 0, func(n *v1.Node) { n.Labels[v1.LabelTopologyZone] = "z0" }))
			inBubble(t, nodes, func(r *rig) {
				r.create(asks("there", tc.there))
				r.group("g", 2)
				r.create(membersOf("g", 2, 1, tc.member)...)
				r.after(20 * time.Second)
				if n := r.number(); n != 1 {
					t.Fatalf("bound: %s", r.bound())
				}
				r.delete("there")
				r.after(15 * time.Second)
				if n := r.number(); n != 2 {
					t.Errorf("%d members are bound, want both: %s", n, r.said("g-0"))
				}
			})
		})
	}
}

// TestAMemberAboveTheMinimumThatHasNoPlaceIsNotForgotten: there is room for one of two, whichever of them had its turn.
func TestAMemberAboveTheMinimumThatHasNoPlaceIsNotForgotten(t *testing.T) {
	for name, order := range map[string][2]string{
		"the one that gets it came first": {"g-2", "g-3"}, "the one that gets none came first": {"g-3", "g-2"},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, []*v1.Node{node("a", 2), node("b", 1), node("c", 1)}, func(r *rig) {
				r.create(
					asks("x", gpus(1), func(p *v1.Pod) { p.Spec.NodeName = "b" }), asks("y", gpus(1), func(p *v1.Pod) { p.Spec.NodeName = "c" }),
				)
				r.group("g", 2)
				r.create(member("g", "g-0", 1), member("g", "g-1", 1))
				r.after(time.Second)
				for _, name := range order {
					r.create(member("g", name, 1))
					r.after(time.Second)
				}
				r.after(20 * time.Second)
				r.delete("x")
				r.after(20 * time.Second)
				if r.pod("g-2").Spec.NodeName == "" || r.pod("g-3").Spec.NodeName != "" {
					t.Fatalf("bound %q: want g-2 where there was room for one", r.bound())
				}
				if said := r.said("g-3"); !strings.Contains(said, "InsufficientGangCapacity") || strings.Contains(said, "0 members") {
					t.Errorf("the member without a place is told %q", said)
				}
				r.delete("y")
				r.after(15 * time.Second)
				if r.pod("g-3").Spec.NodeName == "" {
					t.Errorf("bound %q: want g-3 too: %s", r.bound(), r.said("g-3"))
				}
			})
		})
	}
}

// TestMembersOfWhichNobodyKnowsWhetherTheyAreBound are not planned again and again in the same moment: nothing is left to plan.
func TestMembersOfWhichNobodyKnowsWhetherTheyAreBound(t *testing.T) {
	inBubble(t, nodesOf(3, 8), func(r *rig) {
		var lost atomic.Bool
		lost.Store(true)
		gone := errors.New("connection refused")
		r.client.PrependReactor("get", "pods", func(clienttesting.Action) (bool, runtime.Object, error) { return lost.Load(), nil, gone })
		r.refuse = func(string, string) error {
			if lost.Load() {
				return gone
			}
			return nil
		}
		r.group("g", 2)
		r.create(membersOf("g", 3, 8)...)
		r.after(time.Minute)
		lost.Store(false)
		r.after(10 * time.Minute)
		if n := r.number(); n != 3 {
			t.Errorf("%d members are bound, want all: %s", n, r.said("g-0"))
		}
	})
}
