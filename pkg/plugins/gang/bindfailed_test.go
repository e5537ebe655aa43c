package gang

import (
	"errors"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	fwk "k8s.io/kube-scheduler/framework"
	apipod "k8s.io/kubernetes/pkg/api/v1/pod"

	"weft.sh/weft/pkg/controller"
	"weft.sh/weft/pkg/podspec"
)

// TestTheControllerTellsFailedBindingsFromOtherErrors by what the scheduler writes: a gang of two runs, a member above its minimum
// is told an error.
func TestTheControllerTellsFailedBindingsFromOtherErrors(t *testing.T) {
	fails := func(hook *func(string) *fwk.Status) {
		*hook = func(pod string) *fwk.Status {
			if pod == "g-2" {
				return fwk.AsStatus(errors.New("not now"))
			}
			return nil
		}
	}
	for name, tt := range map[string]struct {
		trouble func(r *rig)
		want    bool
	}{
		"the API server refuses the binding": {func(r *rig) {
			r.refuse = func(pod, _ string) error {
				return apierrors.NewForbidden(v1.Resource("pods"), pod, errors.New("never"))
			}
		}, true},
		"PreBind fails":   {func(r *rig) { fails(&r.trouble.preBind) }, true},
		"Reserve fails":   {func(r *rig) { fails(&r.trouble.reserve) }, false},
		"PreFilter fails": {func(r *rig) { fails(&r.trouble.preFilter) }, false},
		"the PodGroup changes while there is a plan": {func(r *rig) {
			r.trouble.reserve = func(pod string) *fwk.Status {
				r.trouble.reserve = nil
				u, err := r.groups.Get(t.Context(), "g", metav1.GetOptions{})
				if err != nil {
					return fwk.AsStatus(err)
				}
				u.SetAnnotations(map[string]string{podspec.AnnotationTopologyPreferred: "example.com/typo"})
				u.SetGeneration(2)
				if _, err := r.groups.Update(t.Context(), u, metav1.UpdateOptions{}); err != nil {
					return fwk.AsStatus(err)
				}
				return fwk.AsStatus(errors.New("changed"))
			}
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, nodesOf(3, 8), func(r *rig) {
				r.group("g", 2)
				r.create(membersOf("g", 2, 8)...)
				if r.number() != 2 {
					t.Fatalf("bound: %q", r.bound())
				}
				tt.trouble(r)
				r.create(member("g", "g-2", 8))
				for range 20 {
					r.after(time.Second)
					_, c := apipod.GetPodCondition(&r.pod("g-2").Status, v1.PodScheduled)
					if c == nil || c.Reason != v1.PodReasonSchedulerError {
						t.Fatalf("the condition is %+v, want one of an error", c)
					}
					if controller.BindFailed(c) != tt.want {
						t.Fatalf("%q counts as a failed binding: %t", c.Message, !tt.want)
					}
				}
			})
		})
	}
}
