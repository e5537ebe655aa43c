package queue

import (
	"context"
	"fmt"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/util/workqueue"
	apipod "k8s.io/kubernetes/pkg/api/v1/pod"
	"k8s.io/kubernetes/pkg/scheduler/util"

	"weft.sh/weft/pkg/quota"
)

const (
	// tellQPS and tellBurst bound the conditions written in a second, and tellers those that are at the same time.
	tellQPS   = 20
	tellBurst = 50
	tellers   = 4
	// retell is how long a message stands before one with other figures and the same reason takes its place.
	retell = time.Minute
	// turnGrace is how long a pod whose turn it is not is told nothing: most wait for a moment.
	turnGrace = 5 * time.Second
	// tellTimeout bounds one write.
	tellTimeout = 10 * time.Second
)

// teller writes what holds pods back into their condition PodScheduled, off the hot path: the reason is quota's and never Unschedulable,
// which autoscalers act on. It writes when the reason changes, and once a minute when only the figures do. A pod that is let through
// keeps its condition until its next one, from the scheduler or the binding.
type teller struct {
	state  *State
	client kubernetes.Interface
	pods   corelisters.PodLister
	queue  workqueue.TypedDelayingInterface[types.UID]

	mu   sync.Mutex
	told map[types.UID]told
}

// told is what a pod was told, and when.
type told struct {
	reason quota.Reason
	at     time.Time
	// since is when the reason was first seen.
	since time.Time
}

func newTeller(s *State, client kubernetes.Interface, pods corelisters.PodLister) *teller {
	return &teller{
		state: s, client: client, pods: pods, told: map[types.UID]told{},
		queue: workqueue.NewTypedDelayingQueue[types.UID](),
	}
}

// tell has the pod told what holds it back, if it was not yet. It does not block.
func (t *teller) tell(uid types.UID) { t.queue.Add(uid) }

func (t *teller) start(ctx context.Context) {
	for range tellers {
		go func() {
			for {
				uid, shutdown := t.queue.Get()
				if shutdown {
					return
				}
				again := t.one(ctx, uid)
				t.queue.Done(uid)
				if again > 0 {
					t.queue.AddAfter(uid, again)
				}
			}
		}()
	}
}

// held is why a pod is held back now.
type held struct {
	namespace, name string
	verdict         verdict
}

// heldBack is why the pod is held back, false when it is not or is gone.
func (s *State) heldBack(uid types.UID) (held, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := s.waiting[uid]
	if w == nil || !w.gated || !s.synced.Load() || !s.leading.Load() {
		return held{}, false
	}
	v := s.verdictFor(w)
	if v.OK() {
		why, known := s.notItsTurn(w.job)
		if !known || s.mayTry(w.job) {
			return held{}, false
		}
		v = why
	}
	return held{w.pod.Namespace, w.pod.Name, v}, true
}

// one tells a pod, and returns after how long to look at it again, 0 for not before something changes.
func (t *teller) one(ctx context.Context, uid types.UID) (again time.Duration) {
	h, ok := t.state.heldBack(uid)
	t.mu.Lock()
	defer t.mu.Unlock()
	if !ok {
		delete(t.told, uid)
		return 0
	}
	now, was := t.state.now(), t.told[uid]
	if was.reason != h.verdict.Reason {
		was = told{reason: h.verdict.Reason, since: now}
		t.told[uid] = was
	}
	pod, err := t.pods.Pods(h.namespace).Get(h.name)
	if err != nil || pod.UID != uid || pod.Spec.NodeName != "" || pod.DeletionTimestamp != nil {
		return 0
	}
	due := was.since
	switch {
	case !was.at.IsZero() && said(pod) == h.verdict.Reason.String():
		due = was.at.Add(retell)
	case !was.at.IsZero():
		// The scheduler wrote something else: it does so after a cycle, when PreEnqueue has been asked about the pod already.
		due = was.at.Add(time.Second)
	case was.reason == quota.NotYourTurn:
		due = was.since.Add(turnGrace)
	}
	if now.Before(due) {
		return due.Sub(now)
	}
	t.mu.Unlock()
	news, err := t.write(ctx, pod, h.verdict)
	t.mu.Lock()
	if err != nil {
		logger().Error(err, "Writing what holds a pod back", "pod", h.namespace+"/"+h.name)
		return time.Second
	}
	was.at = now
	t.told[uid] = was
	if news {
		t.record(pod, h.verdict)
	}
	return 0
}

// said is the reason of the pod's condition.
func said(pod *v1.Pod) string {
	if _, c := apipod.GetPodCondition(&pod.Status, v1.PodScheduled); c != nil {
		return c.Reason
	}
	return ""
}

// write brings the pod's condition up to date, and reports whether its reason changed.
func (t *teller) write(ctx context.Context, pod *v1.Pod, v verdict) (news bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, tellTimeout)
	defer cancel()
	reason := v.Reason.String()
	news = said(pod) != reason
	status := pod.Status.DeepCopy()
	if !apipod.UpdatePodCondition(status, &v1.PodCondition{
		Type: v1.PodScheduled, Status: v1.ConditionFalse, Reason: reason, Message: v.message,
		ObservedGeneration: apipod.CalculatePodConditionObservedGeneration(&pod.Status, pod.Generation, v1.PodScheduled),
	}) {
		return false, nil
	}
	err = util.PatchPodStatus(ctx, t.client, pod.Name, pod.Namespace, &pod.Status, status)
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) { // gone, or another one of its name
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("condition of %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	return news, nil
}

// record tells people.
func (t *teller) record(pod *v1.Pod, v verdict) {
	h := t.state.handle(pod.Spec.SchedulerName)
	if h == nil || h.EventRecorder() == nil {
		return
	}
	h.EventRecorder().Eventf(pod, nil, v1.EventTypeNormal, "QueueGated", v.Reason.String(), "%s", v.message)
}
