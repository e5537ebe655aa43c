package steward

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"weft.sh/weft/pkg/eviction"
	"weft.sh/weft/pkg/podgroup"
	"weft.sh/weft/pkg/podspec"
	"weft.sh/weft/pkg/quota"
)

// Reasons of the events about pods that have to leave.
const (
	eventDrainSoon    = "BudgetDrain"
	eventDrained      = "BudgetDrained"
	eventDrainBlocked = "BudgetDrainBlocked"
)

// drain is pods that have to leave, told of it grace seconds before.
type drain struct {
	pods []*v1.Pod
	// at is the earliest moment at which they have to be gone.
	at, grace int64
	// why is the reason, in words.
	why string
}

// unit is pods that leave together: a gang, or one pod.
type unit []*v1.Pod

// units are the pods as units, in their order.
func units(pods []*v1.Pod) (out []unit) {
	gangs := map[string]int{}
	for _, pod := range pods {
		gang, ok := podgroup.KeyOf(pod)
		if !ok {
			out = append(out, unit{pod})
			continue
		}
		i, known := gangs[gang.String()]
		if !known {
			i = len(out)
			gangs[gang.String()] = i
			out = append(out, nil)
		}
		out[i] = append(out[i], pod)
	}
	return out
}

// overruns are the units of the queue's subtree that have run for longer than they were admitted for: to the end of the last of their
// pods. One with a pod that was admitted without an end has none.
func (v *view) overruns(queue string, grace, now int64) (out []drain) {
	for _, u := range units(v.subtree(queue)) {
		ends, runtime := int64(0), int64(0)
		for _, pod := range u {
			c, _ := v.book.Holder(string(pod.UID))
			if c.Runtime <= 0 {
				ends = quota.NoLimit
				break
			}
			if at := c.Start + c.Runtime; at > ends {
				ends, runtime = at, c.Runtime
			}
		}
		if ends <= now {
			out = append(out, drain{u, ends + grace, grace, fmt.Sprintf("it runs for longer than the %v that queue %s admits it for",
				time.Duration(runtime)*time.Second, queue)})
		}
	}
	return out
}

// drain tells the pods that have to leave when that is, so that they write a checkpoint, and evicts them when that moment has come, gangs
// as a whole. PodDisruptionBudgets are respected; what they keep is tried again in each pass. A pod may have to leave for several reasons:
// the first counts.
func (s *Steward) drain(ctx context.Context, drains []drain, now int64) error {
	slices.SortStableFunc(drains, func(a, b drain) int { return cmp.Compare(a.at, b.at) })
	seen := map[types.UID]bool{}
	var errs []error
	for _, d := range drains {
		left := slices.DeleteFunc(slices.Clone(d.pods), func(pod *v1.Pod) bool { return seen[pod.UID] || pod.DeletionTimestamp != nil })
		for _, u := range units(left) {
			at := deadline(u, d, now)
			by := moment(at).UTC().Format(time.RFC3339)
			for _, pod := range u {
				seen[pod.UID] = true
				if now >= at || pod.Annotations[podspec.AnnotationCheckpointBy] == by {
					continue
				}
				if ctx.Err() != nil { // another leads
					break
				}
				if err := s.tell(ctx, pod, by, d.why); err != nil {
					errs = append(errs, err)
				}
			}
			if ctx.Err() != nil {
				return errors.Join(append(errs, ctx.Err())...)
			}
			if now >= at {
				if err := s.evict(ctx, u, d.why); err != nil {
					errs = append(errs, err)
				}
			}
		}
	}
	if len(errs) > 3 {
		errs = append(errs[:3], fmt.Errorf("and %d more", len(errs)-3))
	}
	return errors.Join(errs...)
}

// deadline is when the pods, one or those of a gang, have to leave: as they were told, else a whole grace from now. What they were told
// before the budget was last refilled does not count, nor what nobody would have told them.
func deadline(pods unit, d drain, now int64) int64 {
	latest := int64(0)
	for _, pod := range pods {
		told, err := time.Parse(time.RFC3339, pod.Annotations[podspec.AnnotationCheckpointBy])
		if err == nil && d.at <= told.Unix() && told.Unix() <= max(d.at, now+d.grace) {
			latest = max(latest, told.Unix())
		}
	}
	if latest == 0 {
		return max(d.at, now+d.grace)
	}
	return latest
}

// tell writes into the pod by when it should have written a checkpoint: a program reads it through the downward API.
func (s *Steward) tell(ctx context.Context, pod *v1.Pod, deadline, why string) error {
	patch := fmt.Appendf(nil, `{"metadata":{"uid":%q,"annotations":{%q:%q}}}`, pod.UID, podspec.AnnotationCheckpointBy, deadline)
	_, err := s.o.Client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.MergePatchType, patch, metav1.PatchOptions{})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) || apierrors.IsInvalid(err) {
		return nil // it is gone, or another has its name: a UID cannot change
	}
	if err != nil {
		return fmt.Errorf("pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	s.o.Recorder.Eventf(pod, nil, v1.EventTypeWarning, eventDrainSoon, "Drain",
		"%s: the pod is evicted at %s, write a checkpoint before", why, deadline)
	return nil
}

// evict has the unit leave, all of it or nobody.
func (s *Steward) evict(ctx context.Context, u unit, why string) error {
	leave, err := eviction.Together(ctx, s.o.Client, u)
	for _, pod := range leave {
		s.o.Recorder.Eventf(pod, nil, v1.EventTypeWarning, eventDrained, "Drain", "evicted: %s", why)
	}
	if blocked := (*eviction.BlockedError)(nil); errors.As(err, &blocked) {
		others := ""
		if len(u) > 1 {
			others = fmt.Sprintf(" with the %d others of its gang", len(u)-1)
		}
		s.o.Recorder.Eventf(blocked.Pod, nil, v1.EventTypeWarning, eventDrainBlocked, "Drain",
			"to be evicted%s, for %s, and a PodDisruptionBudget is in the way: %s", others, why, blocked.Why)
	}
	return err
}
