package gang

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	schedulingv1beta1 "k8s.io/api/scheduling/v1beta1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	featuregatetesting "k8s.io/component-base/featuregate/testing"
	fwk "k8s.io/kube-scheduler/framework"
	"k8s.io/kubernetes/pkg/features"

	"weft.sh/weft/pkg/podspec"
)

// inNativeBubble runs the test where native PodGroups are on: once as they should be, and once where nobody asks for placements
// (topology is false).
func inNativeBubble(t *testing.T, nodes func() []*v1.Node, test func(r *rig, topology bool)) {
	t.Helper()
	for name, topology := range map[string]bool{"with placements": true, "without placements": false} {
		t.Run(name, func(t *testing.T) {
			featuregatetesting.SetFeatureGatesDuringTest(t, utilfeature.DefaultFeatureGate, featuregatetesting.FeatureOverrides{
				features.GenericWorkload: true, features.TopologyAwareWorkloadScheduling: topology,
			})
			inBubble(t, nodes(), func(r *rig) { test(r, topology) })
		})
	}
}

func some(count, gpus int) func() []*v1.Node {
	return func() []*v1.Node { return nodesOf(count, gpus) }
}

// nativeGroup creates a native PodGroup; one without a minimum has the policy basic.
func (r *rig) nativeGroup(name string, minCount int32, change ...func(*schedulingv1beta1.PodGroup)) {
	r.t.Helper()
	pg := &schedulingv1beta1.PodGroup{ObjectMeta: metav1.ObjectMeta{
		Name: name, Namespace: "ns", UID: types.UID("group-" + name), Generation: 1, CreationTimestamp: metav1.Now(),
	}}
	if pg.Spec.SchedulingPolicy.Basic = (&schedulingv1beta1.BasicSchedulingPolicy{}); minCount > 0 {
		pg.Spec.SchedulingPolicy = schedulingv1beta1.PodGroupSchedulingPolicy{Gang: &schedulingv1beta1.GangSchedulingPolicy{MinCount: minCount}}
	}
	for _, f := range change {
		f(pg)
	}
	if _, err := r.client.SchedulingV1beta1().PodGroups("ns").Create(r.t.Context(), pg, metav1.CreateOptions{}); err != nil {
		r.t.Fatal(err)
	}
}

// natives are pods of a native PodGroup with so many GPUs each.
func natives(group string, count int, gpus int64, change ...func(*v1.Pod)) []*v1.Pod {
	return membersOf(group, count, gpus, append(slices.Clone(change), func(p *v1.Pod) {
		delete(p.Labels, podspec.LabelPodGroup)
		p.Spec.SchedulingGroup = &v1.PodSchedulingGroup{PodGroupName: &group}
	})...)
}

func TestANativeGangStartsWhole(t *testing.T) {
	inNativeBubble(t, some(2, 8), func(r *rig, _ bool) {
		r.nativeGroup("g", 4)
		pods := natives("g", 4, 4)
		r.create(pods[:3]...)
		if n := r.number(); n != 0 || r.held() != 0 {
			r.t.Fatalf("short of a member: %d bound, %d hold GPUs", n, r.held())
		}
		r.create(pods[3])
		r.after(time.Second)
		if n := r.number(); n != 4 {
			r.t.Fatalf("%d bound: %s", n, r.said("g-0"))
		}
		r.idle()
	})
}

func TestANativeGangWithoutRoomHoldsNothingAndIsToldTheSame(t *testing.T) {
	inNativeBubble(t, some(2, 8), func(r *rig, topology bool) {
		r.create(asks("other"))
		r.number()
		r.nativeGroup("g", 2)
		r.create(natives("g", 2, 8)...)
		r.after(time.Second)
		for _, p := range []string{"g-0", "g-1"} {
			// Without placements the framework asks as many as it takes to see that the gang is infeasible.
			if said := r.said(p); (topology || p == "g-0") && !strings.Contains(said, "InsufficientGangCapacity") {
				r.t.Errorf("%s was told %q", p, said)
			}
		}
		if r.held() != 1 {
			r.t.Errorf("%d pods hold GPUs", r.held())
		}
		r.delete("other")
		r.after(11 * time.Second)
		if n := r.number(); n != 2 {
			r.t.Fatalf("bound: %q; %s", r.bound(), r.said("g-0"))
		}
		r.idle()
	})
}

func TestANativeGangThatCannotBePlannedIsToldWhy(t *testing.T) {
	inNativeBubble(t, some(1, 8), func(r *rig, _ bool) {
		r.nativeGroup("g", 2, func(pg *schedulingv1beta1.PodGroup) {
			pg.Spec.SchedulingConstraints = &schedulingv1beta1.PodGroupSchedulingConstraints{
				Topology: []schedulingv1beta1.TopologyConstraint{{Key: "example.com/row"}},
			}
		})
		r.create(natives("g", 2, 4)...)
		r.after(time.Second)
		if said := r.said("g-0"); r.number() != 0 || !strings.Contains(said, "UnknownTopology") || !strings.Contains(said, "example.com/row") {
			r.t.Fatalf("bound: %q, told %q", r.bound(), said)
		}
		pg, err := r.client.SchedulingV1beta1().PodGroups("ns").Get(r.t.Context(), "g", metav1.GetOptions{})
		if err != nil {
			r.t.Fatal(err)
		}
		pg.Spec.SchedulingConstraints, pg.Generation = nil, 2
		if _, err := r.client.SchedulingV1beta1().PodGroups("ns").Update(r.t.Context(), pg, metav1.UpdateOptions{}); err != nil {
			r.t.Fatal(err)
		}
		r.after(11 * time.Second)
		if n := r.number(); n != 2 {
			r.t.Fatalf("bound: %q, told %q", r.bound(), r.said("g-0"))
		}
	})
}

func TestANativeMemberThatIsRefusedOnItsPlaceEndsThePlan(t *testing.T) {
	inNativeBubble(t, some(4, 8), func(r *rig, _ bool) {
		bad := ""
		r.trouble.filter = func(pod, node string) *fwk.Status {
			if pod != "g-1" || bad != "" && node != bad {
				return nil
			}
			bad = node
			return fwk.NewStatus(fwk.Unschedulable, "not this one")
		}
		r.nativeGroup("g", 3)
		r.create(natives("g", 3, 8)...)
		r.after(30 * time.Second)
		if n := r.number(); n != 3 || bad == "" || strings.Contains(r.bound(), "g-1@"+bad) {
			r.t.Fatalf("bound: %q, g-1 was refused on %q", r.bound(), bad)
		}
		r.idle()
	})
}

// TestANativeReservationThatFailsEndsThePlan: the first is the simulation's, the second the one that counts.
func TestANativeReservationThatFailsEndsThePlan(t *testing.T) {
	for name, at := range map[string]int{"in the simulation": 1, "after it": 2} {
		t.Run(name, func(t *testing.T) {
			inNativeBubble(t, some(2, 8), func(r *rig, _ bool) {
				calls := 0
				r.trouble.reserve = func(pod string) *fwk.Status {
					if pod != "g-2" {
						return nil
					}
					if calls++; calls != at {
						return nil
					}
					return fwk.AsStatus(errors.New("not now"))
				}
				r.nativeGroup("g", 4)
				r.create(natives("g", 4, 4)...)
				if n := r.number(); n != 0 && n != 4 { // it is tried again at once
					r.t.Fatalf("after a failure %d are bound", n)
				}
				r.after(60 * time.Second)
				if n := r.number(); n != 4 {
					r.t.Fatalf("bound: %q", r.bound())
				}
				r.idle()
			})
		})
	}
}

// TestWhatIsLeftOfANativePlan: a pod that comes between a failed cycle and the next finds what the plan held free.
func TestWhatIsLeftOfANativePlan(t *testing.T) {
	inNativeBubble(t, some(1, 8), func(r *rig, _ bool) {
		fail := true
		r.trouble.reserve = func(pod string) *fwk.Status {
			if fail && pod == "g-1" {
				return fwk.AsStatus(errors.New("not now"))
			}
			return nil
		}
		r.nativeGroup("g", 2)
		r.create(natives("g", 2, 4)...)
		r.number()
		r.create(asks("other", gpus(8)))
		if got := r.bound(); got != "other@n0" {
			r.t.Fatalf("bound: %q: %s", got, r.said("other"))
		}
		fail = false
		r.delete("other")
		r.after(time.Minute)
		if n := r.number(); n != 2 {
			r.t.Fatalf("bound: %q: %s", r.bound(), r.said("g-0"))
		}
		r.idle()
	})
}

func TestANativeBindThatFailsIsTriedOnTheSamePlace(t *testing.T) {
	inNativeBubble(t, some(2, 4), func(r *rig, _ bool) {
		failures := 0
		r.refuse = func(pod, _ string) error {
			if pod == "g-1" && failures < 3 {
				failures++
				return apierrors.NewForbidden(v1.Resource("pods"), pod, errors.New("not now"))
			}
			return nil
		}
		r.nativeGroup("g", 4)
		r.create(natives("g", 4, 2)...)
		if n := r.number(); n < 3 || r.held() != 4 { // the first retries come at once
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

// TestANativePlaceThatIsKeptAndNoLongerTakesItsMember: one bind fails, and then another plugin refuses the member there.
func TestANativePlaceThatIsKeptAndNoLongerTakesItsMember(t *testing.T) {
	inNativeBubble(t, some(3, 4), func(r *rig, _ bool) {
		bad := ""
		r.refuse = func(pod, node string) error {
			if pod == "g-1" && bad == "" {
				bad = node
				return apierrors.NewForbidden(v1.Resource("pods"), pod, errors.New("not now"))
			}
			return nil
		}
		r.trouble.filter = func(pod, node string) *fwk.Status {
			if pod == "g-1" && node == bad {
				return fwk.NewStatus(fwk.Unschedulable, "not this one")
			}
			return nil
		}
		r.nativeGroup("g", 4)
		r.create(natives("g", 4, 2)...)
		r.after(2 * time.Minute)
		if n := r.number(); n != 4 || bad == "" || strings.Contains(r.bound(), "g-1@"+bad) {
			r.t.Fatalf("bound: %q, g-1 was refused on %q: %s", r.bound(), bad, r.said("g-1"))
		}
		r.idle()
	})
}

func TestOnlyWhatIsMissingOfANativeGangIsPlannedAfterARestart(t *testing.T) {
	inNativeBubble(t, some(2, 8), func(r *rig, _ bool) {
		r.refuse = func(pod, _ string) error {
			if pod == "g-1" || pod == "g-3" {
				return errors.New("connection refused")
			}
			return nil
		}
		r.nativeGroup("g", 4)
		r.create(natives("g", 4, 4)...)
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
		r.idle()
	})
}

func TestANativeGangPreemptsByPlan(t *testing.T) {
	inNativeBubble(t, some(3, 8), func(r *rig, _ bool) {
		r.linger()
		old := []*v1.Pod{asks("a", gpus(8)), asks("b", gpus(8)), asks("c", gpus(8))}
		r.create(old...)
		r.number()
		ten := int32(10)
		r.nativeGroup("g", 2, func(pg *schedulingv1beta1.PodGroup) { pg.Spec.Priority = &ten })
		r.create(natives("g", 2, 8, priority(ten))...)
		r.after(time.Second)
		victims := strings.Fields(r.leaving(old...))
		if len(victims) != 2 || r.kept() == "" {
			r.t.Fatalf("leaving: %v, kept: %q; the gang was told %q", victims, r.kept(), r.said("g-0"))
		}
		r.create(asks("thief"))
		r.letGo(victims...)
		r.after(11 * time.Second)
		if got := r.bound(); strings.Count(got, "g-") != 2 || strings.Contains(got, "thief") || r.kept() != "" {
			r.t.Errorf("bound: %s; kept: %s", got, r.kept())
		}
		r.idle()
	})
}

// TestANativeGroupThatIsNoGang: its pods are reserved in a simulation, given back, and reserved again.
func TestANativeGroupThatIsNoGang(t *testing.T) {
	inNativeBubble(t, some(2, 4), func(r *rig, _ bool) {
		r.nativeGroup("g", 0)
		r.create(natives("g", 9, 1)...)
		r.after(11 * time.Second)
		if n := r.number(); n != 8 || r.held() != 8 {
			r.t.Fatalf("%d are bound and %d hold GPUs, want 8", n, r.held())
		}
		taken := map[string]bool{}
		for i := range 9 {
			if p := r.pod(fmt.Sprintf("g-%d", i)); p.Spec.NodeName != "" {
				taken[p.Spec.NodeName+p.Annotations[podspec.AnnotationGPUs]] = true
			}
		}
		if len(taken) != 8 {
			r.t.Errorf("the GPUs are %v", taken)
		}
		r.idle()
	})
}
