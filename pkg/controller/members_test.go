package controller

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	schedv1alpha1 "sigs.k8s.io/scheduler-plugins/apis/scheduling/v1alpha1"

	"weft.sh/weft/pkg/gang"
)

// at is so many seconds after the creation of the pod.
func at(seconds int) time.Time { return time.Date(2026, 1, 1, 10, 0, seconds, 0, time.UTC) }

func TestMemberOf(t *testing.T) {
	stamp := func(seconds int) metav1.Time { return metav1.NewTime(at(seconds)) }
	grace := int64(30)
	scheduled := v1.PodCondition{Type: v1.PodScheduled, Status: v1.ConditionTrue, LastTransitionTime: stamp(5)}
	notReady := v1.PodCondition{Type: v1.PodReady, Status: v1.ConditionFalse, LastTransitionTime: stamp(51)}
	terminated := []v1.ContainerStatus{{State: v1.ContainerState{Terminated: &v1.ContainerStateTerminated{FinishedAt: stamp(50)}}}}
	scheduling := func(reason, message string) func(p *v1.Pod) {
		return func(p *v1.Pod) {
			p.Status.Conditions = []v1.PodCondition{{Type: v1.PodScheduled, Status: v1.ConditionFalse, Reason: reason, Message: message}}
		}
	}
	for name, c := range map[string]struct {
		pod  func(p *v1.Pod)
		want gang.MemberState
	}{
		"a new pod":                  {func(*v1.Pod) {}, gang.MemberState{}},
		"the scheduler has no place": {scheduling(v1.PodReasonUnschedulable, "no room"), gang.MemberState{Refused: "no room"}},
		"binding it failed": {
			scheduling(v1.PodReasonSchedulerError, `running Bind plugin "GPUFit": timeout`),
			gang.MemberState{Refused: `running Bind plugin "GPUFit": timeout`, BindFailed: true},
		},
		"what comes before the binding failed": {
			scheduling(v1.PodReasonSchedulerError, `running PreBind plugin "VolumeBinding": timeout`),
			gang.MemberState{Refused: `running PreBind plugin "VolumeBinding": timeout`, BindFailed: true},
		},
		"the scheduler erred before it had a place": {
			scheduling(v1.PodReasonSchedulerError, `running PreFilter plugin "Gang": UnknownTopology: ...`),
			gang.MemberState{Refused: `running PreFilter plugin "Gang": UnknownTopology: ...`},
		},
		"others are quoted": {
			scheduling(v1.PodReasonSchedulerError, `running Reserve plugin "X": running Bind plugin "Y"`),
			gang.MemberState{Refused: `running Reserve plugin "X": running Bind plugin "Y"`},
		},
		"bound": {func(p *v1.Pod) {
			p.Spec.NodeName, p.Status.Conditions = "n", []v1.PodCondition{scheduled}
		}, gang.MemberState{Bound: at(5)}},
		"bound at creation, as nobody's scheduler does": {func(p *v1.Pod) { p.Spec.NodeName = "n" }, gang.MemberState{Bound: at(0)}},
		"running": {func(p *v1.Pod) {
			p.Spec.NodeName, p.Status.Phase, p.Status.Conditions = "n", v1.PodRunning, []v1.PodCondition{scheduled}
		}, gang.MemberState{Bound: at(5), Running: true}},
		"being deleted, since it was asked for and not until it is over": {func(p *v1.Pod) {
			p.Spec.NodeName, p.Status.Phase, p.Status.Conditions = "n", v1.PodRunning, []v1.PodCondition{scheduled}
			p.DeletionTimestamp, p.DeletionGracePeriodSeconds = new(stamp(70)), &grace
		}, gang.MemberState{Bound: at(5), Running: true, Ended: at(40)}},
		"succeeded": {func(p *v1.Pod) {
			p.Spec.NodeName, p.Status.Phase, p.Status.Conditions = "n", v1.PodSucceeded, []v1.PodCondition{scheduled}
			p.Status.ContainerStatuses = terminated
		}, gang.MemberState{Bound: at(5), Running: true, Ended: at(50), Succeeded: true}},
		"succeeded, and deleted afterwards": {func(p *v1.Pod) {
			p.Spec.NodeName, p.Status.Phase, p.Status.Conditions = "n", v1.PodSucceeded, []v1.PodCondition{scheduled}
			p.Status.ContainerStatuses, p.DeletionTimestamp, p.DeletionGracePeriodSeconds = terminated, new(stamp(81)), &grace
		}, gang.MemberState{Bound: at(5), Running: true, Ended: at(50), Succeeded: true}},
		"told to stop, and exits with 0": {func(p *v1.Pod) {
			p.Spec.NodeName, p.Status.Phase, p.Status.Conditions = "n", v1.PodSucceeded, []v1.PodCondition{scheduled}
			p.Status.ContainerStatuses, p.DeletionTimestamp, p.DeletionGracePeriodSeconds = terminated, new(stamp(75)), &grace
		}, gang.MemberState{Bound: at(5), Running: true, Ended: at(45)}},
		"failed": {func(p *v1.Pod) {
			p.Spec.NodeName, p.Status.Phase, p.Status.Conditions = "n", v1.PodFailed, []v1.PodCondition{scheduled, notReady}
			p.Status.ContainerStatuses = terminated
		}, gang.MemberState{Bound: at(5), Running: true, Ended: at(51), Failed: true}},
		"refused by the kubelet": {func(p *v1.Pod) {
			p.Spec.NodeName, p.Status.Phase, p.Status.Conditions = "n", v1.PodFailed, []v1.PodCondition{scheduled}
		}, gang.MemberState{Bound: at(5), Ended: at(5), Failed: true}},
	} {
		t.Run(name, func(t *testing.T) {
			p := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "w", UID: "u", CreationTimestamp: stamp(0)}}
			c.pod(p)
			c.want.Name, c.want.UID = "w", "u"
			if diff := cmp.Diff(c.want, memberOf(p), cmpopts.IgnoreUnexported(gang.MemberState{})); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestOnlyAFailedBindingEvicts: a gang that is to leave when a member cannot be bound runs on when the scheduler says something else.
func TestOnlyAFailedBindingEvicts(t *testing.T) {
	for name, tt := range map[string]struct {
		message string
		evict   int
	}{
		"binding fails":             {`running Bind plugin "GPUFit": binding pod ns/w-2 to node a: timeout`, 2},
		"the PodGroup is wrong now": {`running PreFilter plugin "Gang": InvalidGang: the PodGroup is invalid`, 0},
		"its place was given back":  {`running Reserve plugin "Gang": the plan was given back`, 0},
		"nobody knows what":         {"timeout", 0},
	} {
		t.Run(name, func(t *testing.T) {
			pods := []*v1.Pod{{}, {}, {}}
			for i, p := range pods {
				p.Name, p.CreationTimestamp = fmt.Sprintf("w-%d", i), metav1.NewTime(at(0))
				p.Spec.NodeName, p.Status.Phase = "n", v1.PodRunning
			}
			pods[2].Spec.NodeName, pods[2].Status.Phase = "", v1.PodPending
			pods[2].Status.Conditions = []v1.PodCondition{{
				Type: v1.PodScheduled, Status: v1.ConditionFalse, Reason: v1.PodReasonSchedulerError, Message: tt.message,
			}}
			spec := gang.Spec{Min: 2, Lost: gang.LostReplace, Partial: gang.PartialLeave, Grace: time.Minute}
			members := membersOf(pods, func(string) bool { return true })
			s, _ := gang.Judge(spec, members, gang.Status{Phase: gang.PhaseRunning, Scheduled: 2, Running: 2}, at(10))
			if _, next := gang.Judge(spec, members, s, at(130)); len(next.Evict) != tt.evict {
				t.Errorf("%d are evicted, want %d: %+v", len(next.Evict), tt.evict, next)
			}
		})
	}
}

// TestWhatIsWrong: the status says it where a member is to be placed.
func TestWhatIsWrong(t *testing.T) {
	const unknown = `UnknownTopology: the scheduler does not know the topology level (asks for "example.com/typo", the levels are rack, zone)`
	typo := gang.Spec{Topology: gang.Topology{Preferred: "example.com/typo"}}
	important := func(pods []*v1.Pod) { pods[1].Spec.Priority = new(int32(7)) }
	for name, tt := range map[string]struct {
		spec   gang.Spec
		levels []string
		change func(pods []*v1.Pod)
		status gang.Status
		want   string
	}{
		"nothing": {
			spec: gang.Spec{Topology: gang.Topology{Required: "rack", Preferred: "zone"}}, levels: []string{"rack", "zone"},
			status: gang.Status{Phase: gang.PhasePending, Message: "waits"}, want: "waits",
		},
		"a level that is none":         {spec: typo, levels: []string{"rack", "zone"}, status: gang.Status{Phase: gang.PhasePending, Message: "waits"}, want: unknown},
		"a level, where none is known": {spec: typo, status: gang.Status{Phase: gang.PhasePending, Message: "waits"}, want: "waits"},
		"a level of a gang that is there": {spec: typo, levels: []string{"rack", "zone"}, change: func(pods []*v1.Pod) {
			pods[0].Spec.NodeName, pods[1].Spec.NodeName = "n", "n"
		}, status: gang.Status{Phase: gang.PhaseRunning}},
		"a level of a gang that is there in part": {spec: typo, levels: []string{"rack", "zone"}, change: func(pods []*v1.Pod) {
			pods[0].Spec.NodeName = "n"
		}, status: gang.Status{Phase: gang.PhaseUnknown, Message: "1 of 2"}, want: unknown + "; 1 of 2"},
		"two priorities": {
			change: important, status: gang.Status{Phase: gang.PhasePending},
			want: `InvalidGang: the PodGroup is invalid (podgroup ns/g: spec.priority of the members is "0 (w-0) and 7 (w-1)": want one priority for all members)`,
		},
		"a priority of a pod that has ended": {change: func(pods []*v1.Pod) {
			important(pods)
			pods[1].Status.Phase = v1.PodFailed
		}, status: gang.Status{Phase: gang.PhasePending, Message: "waits"}, want: "waits"},
		"another scheduler's, which is said elsewhere": {change: func(pods []*v1.Pod) {
			important(pods)
			pods[1].Spec.SchedulerName = "other"
		}, status: gang.Status{Phase: gang.PhasePending, Message: "another scheduler"}, want: "another scheduler"},
	} {
		t.Run(name, func(t *testing.T) {
			pods := []*v1.Pod{{}, {}}
			for i, p := range pods {
				p.Name, p.Spec.SchedulerName, p.CreationTimestamp = fmt.Sprintf("w-%d", i), "weft", metav1.NewTime(at(0))
			}
			if tt.change != nil {
				tt.change(pods)
			}
			tt.spec.Key = gang.Key{Namespace: "ns", Name: "g"}
			c := &Controller{schedulers: []string{"weft"}, levels: tt.levels}
			if diff := cmp.Diff(tt.want, withWrong(tt.status, c.wrong(tt.spec, pods))); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestStatusRoundTrip: what is written is what the next controller reads, but for what a definition may drop.
func TestStatusRoundTrip(t *testing.T) {
	for name, s := range map[string]gang.Status{
		"partial": {Phase: gang.PhaseUnknown, Scheduled: 3, Running: 2, Succeeded: 1, Failed: 4, Since: at(7), Message: "m"},
		"running": {Phase: gang.PhaseRunning, Scheduled: 2, Running: 2},
	} {
		t.Run(name, func(t *testing.T) {
			body, err := patch("u", s)
			if err != nil {
				t.Fatal(err)
			}
			var pg schedv1alpha1.PodGroup
			if err := json.Unmarshal(body, &pg); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(kept(s), kept(stored(&pg))); diff != "" || pg.UID != "u" {
				t.Errorf("UID %q, status (-written +read):\n%s", pg.UID, diff)
			}
		})
	}
}

func TestClip(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"short":                     {"abc", "abc"},
		"as long as it may be":      {strings.Repeat("a", 10), strings.Repeat("a", 10)},
		"longer":                    {strings.Repeat("a", 11), "aaaaaa ..."},
		"no half character is left": {"aaaaaäaaaaa", "aaaaa ..."},
	} {
		t.Run(name, func(t *testing.T) {
			if got := clip(c.text, 10); got != c.want {
				t.Errorf("%q: want %q", got, c.want)
			}
		})
	}
}
