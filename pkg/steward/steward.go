package steward

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/events"

	"weft.sh/weft/pkg/apis/weft/v1alpha1"
	"weft.sh/weft/pkg/ledger"
	"weft.sh/weft/pkg/queues"
	"weft.sh/weft/pkg/quota"
)

// Reasons of the events about Queues.
const (
	eventAlert     = "BudgetAlert"
	eventExhausted = "BudgetExhausted"
	eventInvalid   = "QueueInvalid"
)

// Options say what a steward reads and writes.
type Options struct {
	Client   kubernetes.Interface
	Dynamic  dynamic.Interface
	Recorder events.EventRecorder
	Store    ledger.Store
	// Queues are the queues and classes at the moment, Objects the Queue of that name with its status, nil for none.
	Queues  func() *queues.Set
	Objects func(name string) *v1alpha1.Queue
	Pods    corelisters.PodLister
	Nodes   corelisters.NodeLister
	// Schedulers are the schedulerNames of pods that wait for queues.
	Schedulers []string
	// Now is the clock in Unix seconds; nil for the machine's.
	Now func() int64
}

// Steward looks after the queues. One works at a time, by the goroutine that calls Pass.
type Steward struct {
	o Options
	// last is what each queue's status was when it was last written or read: the informer may be behind.
	last map[string]v1alpha1.QueueStatus
}

// New makes a steward and makes its metrics visible.
func New(o Options) *Steward {
	if o.Now == nil {
		o.Now = func() int64 { return time.Now().Unix() }
	}
	registerMetrics()
	return &Steward{o: o, last: map[string]v1alpha1.QueueStatus{}}
}

// Pass brings everything up to the ledger's watermark: checkpoints, statuses, alerts, metrics, and what drains. The error is of what
// could not be done; the next pass tries it again.
func (s *Steward) Pass(ctx context.Context, epoch, asOf int64) error {
	set, now := s.o.Queues(), s.o.Now()
	tree := set.Tree()
	books := &charges{store: s.o.Store, tree: tree}
	checkpoints := map[string]quota.Checkpoint{}
	for _, queue := range tree.Names() {
		spec, _ := tree.Spec(queue)
		if spec.Budget == nil {
			continue
		}
		was, _ := set.Checkpoint(queue)
		c, err := books.checkpoint(ctx, queue, spec.Budget, was, asOf)
		if err != nil {
			return fmt.Errorf("what queue %s was charged: %w", queue, err)
		}
		checkpoints[queue] = c
	}
	pods, err := s.o.Pods.List(labels.Everything())
	if err != nil {
		return err
	}
	v := look(set, checkpoints, pods, s.node, s.ours, now)
	invalid := map[string]string{}
	for _, p := range set.Problems() {
		invalid[p.Queue] = p.Message
	}

	var errs []error
	gauges := make([]gauge, 0, len(tree.Names()))
	for _, queue := range tree.Names() {
		object := s.o.Objects(queue)
		if object == nil {
			continue // it was deleted a moment ago
		}
		f := facts{checkpoint: checkpoints[queue], epoch: epoch, invalid: invalid[queue]}
		f.spec, _ = tree.Spec(queue)
		f.standing, _ = v.book.Standing(queue)
		if w := v.waiting[queue]; w != nil {
			f.waiting = *w
		}
		f.headroom = v.headroom(queue)
		was := s.statusOf(object)
		if b := f.spec.Budget; b != nil {
			from := max(f.checkpoint.Start, asOf-burnWindow)
			recent, err := books.of(ctx, from, asOf)
			if err != nil {
				return fmt.Errorf("what queue %s was charged: %w", queue, err)
			}
			f.assessment = quota.Assess(b, f.checkpoint, f.standing.Held, recent[queue], asOf-from, since(was, v1alpha1.ConditionExhausted), now)
		}
		gauges = append(gauges, gauge{queue, f})
		is := status(was, object.Generation, f, now)
		s.announce(object, was, is)
		if worthWriting(was, is) {
			if err := s.write(ctx, queue, is); err != nil {
				errs = append(errs, err)
			}
		}
		if at := f.assessment.DrainAt; at != 0 {
			errs = append(errs, s.drain(ctx, object, v.subtree(queue), at, now))
		}
	}
	for queue := range s.last {
		if _, ok := tree.Spec(queue); !ok {
			delete(s.last, queue)
		}
	}
	show(gauges)
	return errors.Join(errs...)
}

func (s *Steward) node(name string) *v1.Node {
	node, err := s.o.Nodes.Get(name)
	if err != nil {
		return nil
	}
	return node
}

func (s *Steward) ours(scheduler string) bool {
	for _, name := range s.o.Schedulers {
		if name == scheduler {
			return true
		}
	}
	return false
}

// statusOf is the queue's status as it was last written, or as it is read if that is later.
func (s *Steward) statusOf(q *v1alpha1.Queue) v1alpha1.QueueStatus {
	last, ok := s.last[q.Name]
	if !ok || last.Budget != nil && q.Status.Budget != nil && q.Status.Budget.AsOf.After(last.Budget.AsOf.Time) {
		return q.Status
	}
	return last
}

// write replaces the queue's status. Nobody else writes it.
func (s *Steward) write(ctx context.Context, queue string, is v1alpha1.QueueStatus) error {
	fields, err := json.Marshal(is)
	if err != nil {
		return err
	}
	patch := fmt.Appendf(nil, `[{"op":"add","path":"/status","value":%s}]`, fields)
	_, err = s.o.Dynamic.Resource(v1alpha1.Queues).Patch(ctx, queue, types.JSONPatchType, patch, metav1.PatchOptions{}, "status")
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("status of queue %s: %w", queue, err)
	}
	s.last[queue] = is
	return nil
}

// announce tells in events what turned bad.
func (s *Steward) announce(q *v1alpha1.Queue, was, is v1alpha1.QueueStatus) {
	about := &v1.ObjectReference{
		APIVersion: v1alpha1.SchemeGroupVersion.String(), Kind: "Queue", Name: q.Name, UID: q.UID,
	}
	for _, e := range []struct {
		condition string
		bad       metav1.ConditionStatus
		reason    string
	}{
		{v1alpha1.ConditionValid, metav1.ConditionFalse, eventInvalid},
		{v1alpha1.ConditionBudgetAlert, metav1.ConditionTrue, eventAlert},
		{v1alpha1.ConditionExhausted, metav1.ConditionTrue, eventExhausted},
	} {
		before, after := find(was, e.condition), find(is, e.condition)
		// An alert that rises to the next percent is news; its message says which, before the numbers.
		if after.Status == e.bad && (before.Status != e.bad || before.Reason != after.Reason || level(before) != level(after)) {
			s.o.Recorder.Eventf(about, nil, v1.EventTypeWarning, e.reason, "Assess", "%s", after.Message)
		}
	}
}

// find is the condition of that type, the zero condition when there is none.
func find(s v1alpha1.QueueStatus, kind string) metav1.Condition {
	for _, c := range s.Conditions {
		if c.Type == kind {
			return c
		}
	}
	return metav1.Condition{}
}

// level is the percent that an alert's message begins with, 0 for another message.
func level(c metav1.Condition) (percent int64) {
	if c.Reason == reasonReached {
		_, _ = fmt.Sscanf(c.Message, "%d", &percent)
	}
	return percent
}

// since is when the condition became true, 0 when it is not.
func since(s v1alpha1.QueueStatus, kind string) int64 {
	if c := find(s, kind); c.Status == metav1.ConditionTrue {
		return c.LastTransitionTime.Unix()
	}
	return 0
}
