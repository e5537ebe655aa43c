package accounts

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"weft.sh/weft/pkg/ledger"
)

func at(seconds int64) metav1.Time { return metav1.NewTime(time.Unix(seconds, 0)) }

func running(since int64) v1.ContainerStatus {
	return v1.ContainerStatus{State: v1.ContainerState{Running: &v1.ContainerStateRunning{StartedAt: at(since)}}}
}

func terminated(from, to int64) v1.ContainerStatus {
	return v1.ContainerStatus{State: v1.ContainerState{Terminated: &v1.ContainerStateTerminated{StartedAt: at(from), FinishedAt: at(to)}}}
}

func restarting(from, to int64) v1.ContainerStatus {
	s := terminated(from, to)
	return v1.ContainerStatus{State: v1.ContainerState{Waiting: &v1.ContainerStateWaiting{}}, LastTerminationState: s.State}
}

func TestObserve(t *testing.T) {
	const now, charged, tick = 1000, 900, 15
	pod := func(phase v1.PodPhase, statuses ...v1.ContainerStatus) *v1.Pod {
		return &v1.Pod{Spec: v1.PodSpec{NodeName: "n"}, Status: v1.PodStatus{
			Phase: phase, ContainerStatuses: statuses,
			Conditions: []v1.PodCondition{{Type: v1.PodScheduled, Status: v1.ConditionTrue, LastTransitionTime: at(100)}},
		}}
	}
	deleting := func(p *v1.Pod, deadline int64) *v1.Pod {
		t := at(deadline)
		p.DeletionTimestamp = &t
		return p
	}
	owned := pod(v1.PodRunning, running(110))
	yes := true
	owned.OwnerReferences = []metav1.OwnerReference{{Kind: "Job", Name: "train", Controller: &yes}}
	initialised := pod(v1.PodRunning, running(200))
	initialised.Status.InitContainerStatuses = []v1.ContainerStatus{terminated(105, 190)}
	for name, tc := range map[string]struct {
		pod   *v1.Pod
		there Presence
		want  Observation
	}{
		"bound, images are pulled": {pod(v1.PodPending), Present, Observation{}},
		"runs":                     {owned, Present, Observation{Running: 110, Workload: "Job/train"}},
		"an init container is the first that runs":       {initialised, Present, Observation{Running: 105}},
		"a clock that is ahead starts nothing in future": {pod(v1.PodRunning, running(5000)), Present, Observation{Running: 1000}},
		"ended with its last container":                  {pod(v1.PodSucceeded, terminated(110, 300), terminated(110, 400)), Present, Observation{Running: 110, End: 400, Evidence: ByContainers}},
		"a container that will be started again holds on": {
			pod(v1.PodRunning, restarting(110, 300)), Present, Observation{Running: 110},
		},
		"evicted before anything ran": {pod(v1.PodFailed), Present, Observation{End: 100, Evidence: ByPhase}},
		"deleted while it ran":        {pod(v1.PodRunning, running(110)), Deleted, Observation{Running: 110, End: 1000, Evidence: ByDeleted}},
		"deleted while it was to be started again": {
			pod(v1.PodRunning, restarting(110, 300)), Deleted, Observation{Running: 110, End: 1000, Evidence: ByDeleted},
		},
		"deleted after its containers had ended": {pod(v1.PodRunning, terminated(110, 990)), Deleted, Observation{Running: 110, End: 990, Evidence: ByContainers}},
		"went unseen, and had been told to go": {
			deleting(pod(v1.PodRunning, running(110)), 950), Missed, Observation{Running: 110, End: 950, Evidence: ByDeadline, Estimated: true},
		},
		"went unseen, before its grace is over": {
			deleting(pod(v1.PodRunning, running(110)), 1020), Missed, Observation{Running: 110, End: 1000, Evidence: ByDeadline, Estimated: true},
		},
		"went unseen": {pod(v1.PodRunning, running(110)), Missed, Observation{Running: 110, End: 915, Evidence: ByMissing, Estimated: true}},
	} {
		t.Run(name, func(t *testing.T) {
			tc.want.Node, tc.want.Bound = "n", 100
			got, ok := Observe(tc.pod, tc.there, now, charged, tick)
			if !ok {
				t.Fatal("not bound")
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("observation (-want +got):\n%s", diff)
			}
		})
	}
	if _, ok := Observe(&v1.Pod{}, Deleted, now, charged, tick); ok {
		t.Error("a pod that waits holds something")
	}
}

func TestCloseMissing(t *testing.T) {
	open := ledger.Segment{PodUID: "u", Start: 100, Through: 900}
	got := CloseMissing([]ledger.Segment{open}, 5000, 900, 15)
	want := open
	want.End, want.Through, want.Closed, want.Estimated = 915, 915, "missing", true
	if diff := cmp.Diff([]ledger.Segment{want}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if again := CloseMissing(got, 5000, 900, 15); again != nil {
		t.Errorf("closed twice: %v", again)
	}
	if got := CloseMissing([]ledger.Segment{open}, 910, 900, 15); got[0].End != 905 {
		t.Errorf("ends at %d, want half-way", got[0].End)
	}
}
