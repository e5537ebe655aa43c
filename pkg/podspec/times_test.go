package podspec

import (
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestTimes(t *testing.T) {
	running := func(since int64) v1.ContainerStatus {
		return v1.ContainerStatus{State: v1.ContainerState{Running: &v1.ContainerStateRunning{StartedAt: metav1.Unix(since, 0)}}}
	}
	ended := func(from, to int64) v1.ContainerStatus {
		s := v1.ContainerStateTerminated{StartedAt: metav1.Unix(from, 0)}
		if to != 0 {
			s.FinishedAt = metav1.Unix(to, 0)
		}
		return v1.ContainerStatus{State: v1.ContainerState{Terminated: &s}}
	}
	again := func(from, to int64) v1.ContainerStatus {
		return v1.ContainerStatus{State: v1.ContainerState{Waiting: &v1.ContainerStateWaiting{}}, LastTerminationState: ended(from, to).State}
	}
	start := metav1.Unix(70, 0)
	scheduled := func(is v1.ConditionStatus, at int64) v1.PodCondition {
		return v1.PodCondition{Type: v1.PodScheduled, Status: is, LastTransitionTime: metav1.Unix(at, 0)}
	}
	type times struct {
		bound, started, finished int64
		stopped                  bool
		changed                  int64
	}
	for name, c := range map[string]struct {
		status v1.PodStatus
		want   times
	}{
		"nothing is known":        {v1.PodStatus{}, times{bound: 50}},
		"the kubelet has seen it": {v1.PodStatus{StartTime: &start}, times{bound: 70}},
		"it is bound":             {v1.PodStatus{StartTime: &start, Conditions: []v1.PodCondition{scheduled(v1.ConditionTrue, 60)}}, times{bound: 60, changed: 60}},
		"it was not bound then":   {v1.PodStatus{StartTime: &start, Conditions: []v1.PodCondition{scheduled(v1.ConditionFalse, 60)}}, times{bound: 70, changed: 60}},
		"one runs, one waits": {
			v1.PodStatus{ContainerStatuses: []v1.ContainerStatus{running(90), running(80), {State: v1.ContainerState{Waiting: &v1.ContainerStateWaiting{}}}}},
			times{bound: 50, started: 80},
		},
		"one has ended": {v1.PodStatus{ContainerStatuses: []v1.ContainerStatus{ended(80, 120), running(90)}}, times{bound: 50, started: 80, finished: 120}},
		"all have ended": {
			v1.PodStatus{ContainerStatuses: []v1.ContainerStatus{ended(80, 120), ended(90, 110)}},
			times{bound: 50, started: 80, finished: 120, stopped: true},
		},
		"nobody knows when": {v1.PodStatus{ContainerStatuses: []v1.ContainerStatus{ended(80, 0)}}, times{bound: 50, started: 80, stopped: true}},
		"it is to be started again": {
			v1.PodStatus{ContainerStatuses: []v1.ContainerStatus{again(80, 120)}}, times{bound: 50, started: 80, finished: 120},
		},
		"only what comes before has ended": {
			v1.PodStatus{InitContainerStatuses: []v1.ContainerStatus{ended(75, 78)}}, times{bound: 50, started: 75, finished: 78},
		},
	} {
		t.Run(name, func(t *testing.T) {
			pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: metav1.Unix(50, 0)}, Status: c.status}
			got := times{bound: BoundAt(pod), changed: ChangedAt(pod)}
			got.started, got.finished, got.stopped = Ran(pod)
			if got != c.want {
				t.Errorf("%+v, want %+v", got, c.want)
			}
		})
	}
}
