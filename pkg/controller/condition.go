package controller

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
	"time"

	schedulingv1beta1 "k8s.io/api/scheduling/v1beta1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"weft.sh/weft/pkg/gang"
)

// ConditionWhole is the condition of a native PodGroup in which the controller writes where the gang stands. It is True while
// the minimum has a place or has succeeded; its reason is the phase. Nobody else writes it.
//
// The status of the native kind has no field for what has to outlive the process: since when the gang is partial, and how many
// members ran or succeeded, which shows that one is gone without a trace, and that one whose pod was deleted had succeeded. Pods
// that are gone cannot tell: the youngest of the rest may have been bound long before. So these stand at the beginning of the
// condition's message, for people and for the next controller. Other conditions stay as they are: conditions are merged by type.
const ConditionWhole = "weft.sh/GangWhole"

// numbers are the beginning of the message. A gang has fewer members than a million: the number of those that succeeded is
// trusted, whoever wrote it.
var numbers = regexp.MustCompile(`^scheduled (\d{1,6}), running (\d{1,6}), succeeded (\d{1,6}), failed (\d{1,6})(?:, since (\S+Z))?(?:: |$)`)

// storedNative is the condition that the PodGroup has, and the status in it. Where there is none, or another text than the
// controller writes, the status is that of a gang which nobody has looked at.
func storedNative(pg *schedulingv1beta1.PodGroup) (*metav1.Condition, gang.Status) {
	c := meta.FindStatusCondition(pg.Status.Conditions, ConditionWhole)
	if c == nil {
		return nil, gang.Status{}
	}
	m := numbers.FindStringSubmatch(c.Message)
	if m == nil {
		return c, gang.Status{}
	}
	s := gang.Status{Phase: gang.Phase(c.Reason)}
	for i, n := range []*int{&s.Scheduled, &s.Running, &s.Succeeded, &s.Failed} {
		*n, _ = strconv.Atoi(m[1+i]) // digits, and few
	}
	if m[5] != "" {
		since, err := time.Parse(time.RFC3339, m[5])
		if err != nil {
			return c, gang.Status{}
		}
		s.Since = since
	}
	return c, s
}

// conditionOf is the status as a condition. had is the one of before, nil for none.
func conditionOf(s gang.Status, had *metav1.Condition, now time.Time) metav1.Condition {
	text := fmt.Sprintf("scheduled %d, running %d, succeeded %d, failed %d", s.Scheduled, s.Running, s.Succeeded, s.Failed)
	if !s.Since.IsZero() {
		text += ", since " + s.Since.UTC().Format(time.RFC3339)
	}
	if s.Message != "" {
		text += ": " + s.Message
	}
	c := metav1.Condition{
		Type: ConditionWhole, Status: metav1.ConditionFalse, Reason: string(s.Phase), Message: clip(text, messageLength),
		LastTransitionTime: metav1.NewTime(now),
	}
	switch s.Phase {
	case gang.PhaseScheduling, gang.PhaseRunning, gang.PhaseFinished:
		c.Status = metav1.ConditionTrue
	}
	if had != nil && had.Status == c.Status {
		c.LastTransitionTime = had.LastTransitionTime
	}
	return c
}

// patchNative is the condition for a strategic merge patch, which leaves those of other types. The UID makes the API server
// refuse it for another object of the same name.
func patchNative(uid types.UID, c metav1.Condition) ([]byte, error) {
	return json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": uid},
		"status":   map[string]any{"conditions": []metav1.Condition{c}},
	})
}
