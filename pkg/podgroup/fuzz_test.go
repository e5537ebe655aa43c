package podgroup

import (
	"errors"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	schedv1alpha1 "sigs.k8s.io/scheduler-plugins/apis/scheduling/v1alpha1"

	"weft.sh/weft/pkg/gang"
	"weft.sh/weft/pkg/podspec"
)

// Whatever stands in a PodGroup, it is either refused with an *InvalidError or a valid spec.
func FuzzFromCRD(f *testing.F) {
	f.Add(int32(4), "topology.kubernetes.io/rack", "nvlink", "replace", "shrink", "30s")
	f.Add(int32(0), "", "a/b/c", "restart", "leave", "-1s")
	f.Add(int32(1), "x", "y", "Restart", "", "9223372036854775807ns")
	f.Fuzz(func(t *testing.T, minMember int32, required, preferred, lost, partial, grace string) {
		s, err := FromCRD(&schedv1alpha1.PodGroup{
			ObjectMeta: metav1.ObjectMeta{Namespace: "team", Name: "train", Annotations: map[string]string{
				podspec.AnnotationTopologyRequired: required, podspec.AnnotationTopologyPreferred: preferred,
				podspec.AnnotationOnMemberLost: lost, podspec.AnnotationOnPartialStart: partial, podspec.AnnotationPartialGrace: grace,
			}},
			Spec: schedv1alpha1.PodGroupSpec{MinMember: minMember},
		})
		if err != nil {
			var invalid *podspec.InvalidError
			if !errors.As(err, &invalid) || s != (gang.Spec{}) || err.Error() == "" || len(err.Error()) > 1000 {
				t.Fatalf("%+v, %v", s, err)
			}
			return
		}
		if s.Min != int(minMember) || s.Min < 1 || s.Grace < 0 || !podspec.ValidTopologyKey(s.Required) || !podspec.ValidTopologyKey(s.Preferred) ||
			s.Lost != gang.LostReplace && s.Lost != gang.LostRestart || s.Partial != gang.PartialShrink && s.Partial != gang.PartialLeave {
			t.Fatalf("accepts %+v", s)
		}
	})
}
