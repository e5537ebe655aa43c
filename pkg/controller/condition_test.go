package controller

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	schedulingv1beta1 "k8s.io/api/scheduling/v1beta1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"weft.sh/weft/pkg/gang"
)

// TestConditionRoundTrip: what is written into a native PodGroup is admitted, is what the next controller reads, and leaves the
// conditions of others as they are.
func TestConditionRoundTrip(t *testing.T) {
	others := []metav1.Condition{
		{Type: schedulingv1beta1.PodGroupInitiallyScheduled, Status: metav1.ConditionTrue, Reason: "Scheduled", LastTransitionTime: metav1.NewTime(at(1))},
		{Type: schedulingv1beta1.DisruptionTarget, Status: metav1.ConditionFalse, Reason: "None", LastTransitionTime: metav1.NewTime(at(2))},
	}
	for name, s := range map[string]gang.Status{
		"partial":                   {Phase: gang.PhaseUnknown, Scheduled: 3, Running: 2, Succeeded: 1, Failed: 4, Since: at(7), Message: "1 of 2: a, since 2026"},
		"running":                   {Phase: gang.PhaseRunning, Scheduled: 2, Running: 2},
		"pending, and says why":     {Phase: gang.PhasePending, Message: "no room"},
		"failed without a time":     {Phase: gang.PhaseFailed, Failed: 2, Message: "all ended"},
		"leaving, without a reason": {Phase: gang.PhaseFailed, Scheduled: 1, Since: at(9)},
		"a message that is cut":     {Phase: gang.PhaseUnknown, Scheduled: 1, Since: at(9), Message: strings.Repeat("ä", 40000)},
	} {
		t.Run(name, func(t *testing.T) {
			for _, had := range [][]metav1.Condition{others, append(others[:2:2], conditionOf(gang.Status{Phase: gang.PhasePending}, nil, at(3)))} {
				before := &schedulingv1beta1.PodGroup{Status: schedulingv1beta1.PodGroupStatus{Conditions: had}}
				condition, _ := storedNative(before)
				body, err := patchNative("u", conditionOf(s, condition, at(10)))
				if err != nil {
					t.Fatal(err)
				}
				original, err := json.Marshal(before)
				if err != nil {
					t.Fatal(err)
				}
				patched, err := strategicpatch.StrategicMergePatch(original, body, before)
				if err != nil {
					t.Fatal(err)
				}
				after := &schedulingv1beta1.PodGroup{}
				if err := json.Unmarshal(patched, after); err != nil {
					t.Fatal(err)
				}
				_, got := storedNative(after)
				want := s
				want.Message = ""
				if diff := cmp.Diff(want, got); diff != "" || after.UID != "u" {
					t.Errorf("UID %q, status (-written +read):\n%s", after.UID, diff)
				}
				if errs := metav1validation.ValidateConditions(after.Status.Conditions, field.NewPath("conditions")); len(errs) > 0 || len(after.Status.Conditions) != 3 {
					t.Errorf("%d conditions, %v", len(after.Status.Conditions), errs)
				}
				for _, o := range others {
					for _, c := range after.Status.Conditions {
						if diff := cmp.Diff(o, c); c.Type == o.Type && diff != "" {
							t.Errorf("another's condition changed:\n%s", diff)
						}
					}
				}
			}
		})
	}
}

func TestConditionOf(t *testing.T) {
	partial := conditionOf(gang.Status{Phase: gang.PhaseUnknown, Scheduled: 2, Running: 1, Since: at(7), Message: "1 is missing"}, nil, at(8))
	want := metav1.Condition{
		Type: "weft.sh/GangWhole", Status: metav1.ConditionFalse, Reason: "Unknown", LastTransitionTime: metav1.NewTime(at(8)),
		Message: "scheduled 2, running 1, succeeded 0, failed 0, since 2026-01-01T10:00:07Z: 1 is missing",
	}
	if diff := cmp.Diff(want, partial); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	whole := conditionOf(gang.Status{Phase: gang.PhaseScheduling, Scheduled: 3}, &partial, at(20))
	if whole.Status != metav1.ConditionTrue || !whole.LastTransitionTime.Equal(new(metav1.NewTime(at(20)))) {
		t.Errorf("a gang that is whole again: %+v", whole)
	}
	running := conditionOf(gang.Status{Phase: gang.PhaseRunning, Scheduled: 3, Running: 3}, &whole, at(30))
	if running.Status != metav1.ConditionTrue || !running.LastTransitionTime.Equal(&whole.LastTransitionTime) {
		t.Errorf("a gang that is as whole as before: %+v", running)
	}
}

// TestStoredNativeOfOtherTexts: whoever else may write the condition gets no more than a gang that nobody has looked at.
func TestStoredNativeOfOtherTexts(t *testing.T) {
	for name, text := range map[string]string{
		"nothing":                "",
		"words":                  "all is well",
		"a number is missing":    "scheduled 2, running 1, succeeded 0: x",
		"below 0":                "scheduled 2, running 1, succeeded -1, failed 0",
		"a million":              "scheduled 2, running 1, succeeded 1000000, failed 0",
		"more than a number":     "scheduled 2, running 1, succeeded 99999999999999999999, failed 0",
		"goes on otherwise":      "scheduled 2, running 1, succeeded 0, failed 0, maybe",
		"a time that is none":    "scheduled 2, running 1, succeeded 0, failed 0, since 2026-13-01T10:00:07Z: x",
		"a word for a time":      "scheduled 2, running 1, succeeded 0, failed 0, since Z: x",
		"something stands first": "x scheduled 2, running 1, succeeded 0, failed 0",
	} {
		t.Run(name, func(t *testing.T) {
			pg := &schedulingv1beta1.PodGroup{Status: schedulingv1beta1.PodGroupStatus{Conditions: []metav1.Condition{
				{Type: ConditionWhole, Status: metav1.ConditionFalse, Reason: "Unknown", Message: text},
			}}}
			c, s := storedNative(pg)
			if diff := cmp.Diff(gang.Status{}, s); diff != "" || c == nil {
				t.Errorf("condition %v, status (-want +got):\n%s", c, diff)
			}
		})
	}
}
