package controller

import (
	"fmt"
	"slices"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"

	"weft.sh/weft/pkg/fit"
	"weft.sh/weft/pkg/gang"
	"weft.sh/weft/pkg/podgroup"
)

// membersOf is what the pods say of themselves. ours tells the names of the schedulers that the controller is for.
func membersOf(pods []*v1.Pod, ours func(scheduler string) bool) []gang.MemberState {
	out := make([]gang.MemberState, len(pods))
	for i, p := range pods {
		out[i] = memberOf(p)
		out[i].Foreign = !ours(p.Spec.SchedulerName)
	}
	return out
}

func memberOf(p *v1.Pod) gang.MemberState {
	m := gang.MemberState{UID: string(p.UID), Name: p.Name, Running: ran(p)}
	if p.Spec.NodeName != "" {
		m.Bound = p.CreationTimestamp.Time
	}
	if c := condition(p, v1.PodScheduled); c != nil {
		switch {
		case p.Spec.NodeName != "":
			if c.Status == v1.ConditionTrue {
				m.Bound = c.LastTransitionTime.Time
			}
		case c.Status == v1.ConditionFalse:
			m.Refused = c.Message
			m.BindFailed = BindFailed(c)
		}
	}
	asked := time.Time{} // when somebody asked for its deletion
	if p.DeletionTimestamp != nil {
		asked = p.DeletionTimestamp.Time
		if s := p.DeletionGracePeriodSeconds; s != nil {
			asked = asked.Add(-time.Duration(*s) * time.Second)
		}
	}
	switch p.Status.Phase {
	case v1.PodSucceeded, v1.PodFailed:
		m.Ended = ended(p)
		m.Failed = p.Status.Phase == v1.PodFailed
		// Who is told to stop may well exit with 0, and is lost all the same.
		m.Succeeded = !m.Failed && (asked.IsZero() || m.Ended.Before(asked))
		if !m.Failed && !m.Succeeded {
			m.Ended = asked
		}
	default:
		m.Ended = asked
	}
	return m
}

// wrong is why the scheduler places no member of the gang though the PodGroup by itself is valid; "" where it may.
func (c *Controller) wrong(spec gang.Spec, pods []*v1.Pod) string {
	live := slices.DeleteFunc(slices.Clone(pods), func(p *v1.Pod) bool { return !memberOf(p).Ended.IsZero() })
	if !slices.ContainsFunc(live, func(p *v1.Pod) bool { return p.Spec.NodeName == "" }) {
		return "" // nobody is to be placed
	}
	if slices.ContainsFunc(live, func(p *v1.Pod) bool { return !c.ours(p.Spec.SchedulerName) }) {
		return "" // gang.Judge says it
	}
	for _, level := range []string{spec.Required, spec.Preferred} {
		if level != "" && len(c.levels) > 0 && !slices.Contains(c.levels, level) {
			return fit.Rejection{
				Reason: fit.UnknownTopology, Detail: fmt.Sprintf("asks for %q, the levels are %s", level, strings.Join(c.levels, ", ")),
			}.Message()
		}
	}
	if err := podgroup.Check(spec, live); err != nil {
		return fit.Rejection{Reason: fit.InvalidGang, Detail: err.Error()}.Message()
	}
	return ""
}

// withWrong is the message of the status with what is wrong: in place of what a gang waits for, before what happens to one that has
// places.
func withWrong(s gang.Status, wrong string) string {
	switch {
	case wrong == "":
		return s.Message
	case s.Phase == gang.PhasePending || s.Message == "":
		return wrong
	}
	return wrong + "; " + s.Message
}

// bindings are how the scheduler's framework begins the message of a condition when it had a place for the pod and PreBind or Bind
// failed. Nothing else in the condition tells that from errors before there was a place.
var bindings = []string{"running Bind plugin ", "running PreBind plugin "}

// BindFailed reports whether the condition PodScheduled of a pod without a node says that binding it failed. What an extender that
// binds says is not known, nor that of a scheduler which is not built on the framework.
func BindFailed(c *v1.PodCondition) bool {
	return c.Status == v1.ConditionFalse && c.Reason == v1.PodReasonSchedulerError &&
		slices.ContainsFunc(bindings, func(begin string) bool { return strings.HasPrefix(c.Message, begin) })
}

// ran reports whether the pod's containers run, or did.
func ran(p *v1.Pod) bool {
	switch p.Status.Phase {
	case v1.PodRunning, v1.PodSucceeded:
		return true
	case v1.PodFailed:
		// A pod that the kubelet refused has no container.
		return len(p.Status.ContainerStatuses) > 0
	}
	return false
}

// ended is when a pod ended that has: the last that is known to have happened to it.
func ended(p *v1.Pod) time.Time {
	t := p.CreationTimestamp.Time
	later := func(u time.Time) {
		if u.After(t) {
			t = u
		}
	}
	for _, c := range p.Status.Conditions {
		later(c.LastTransitionTime.Time)
	}
	for _, c := range p.Status.ContainerStatuses {
		if c.State.Terminated != nil {
			later(c.State.Terminated.FinishedAt.Time)
		}
	}
	return t
}

func condition(p *v1.Pod, kind v1.PodConditionType) *v1.PodCondition {
	for i := range p.Status.Conditions {
		if c := &p.Status.Conditions[i]; c.Type == kind {
			return c
		}
	}
	return nil
}
