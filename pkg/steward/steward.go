package steward

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

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
}

// Steward looks after the queues. One works at a time, by the goroutine that calls Pass.
type Steward struct {
	o Options
	// last are the statuses that were written: the informer may be behind.
	last map[string]written
	// raised are the alerts that were raised in the present period. It is forgotten with the process; the condition then says.
	raised map[string]alerts
	books  *charges
}

// written is the status of the queue with that UID as it was last written.
type written struct {
	uid    types.UID
	status v1alpha1.QueueStatus
}

// New makes a steward and makes its metrics visible.
func New(o Options) *Steward {
	registerMetrics()
	return &Steward{o: o, last: map[string]written{}, raised: map[string]alerts{}, books: newCharges(o.Store)}
}

// Pass brings everything up to the ledger's watermark: checkpoints, statuses, alerts, metrics, and what drains. All of it is as of that
// moment, so that a clock that is set changes nothing. The error is of what could not be done; the next pass tries it again.
func (s *Steward) Pass(ctx context.Context, epoch, asOf int64) error {
	set := s.o.Queues()
	tree := set.Tree()
	books := s.books
	books.begin(tree, asOf)
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
	v := look(set, checkpoints, pods, s.node, s.ours, asOf)
	invalid := map[string]string{}
	for _, p := range set.Problems() {
		if invalid[p.Queue] == "" {
			invalid[p.Queue] = p.Message
		}
	}

	var errs []error
	var drains []drain
	gauges := make([]gauge, 0, len(tree.Names()))
	for _, queue := range tree.Names() {
		object := s.o.Objects(queue)
		if object == nil {
			continue // it was deleted a moment ago
		}
		if b := object.Status.Budget; b != nil && b.Epoch > epoch {
			return fmt.Errorf("status of queue %s is of epoch %d, this is epoch %d: another leads the ledger", queue, b.Epoch, epoch)
		}
		f := facts{checkpoint: checkpoints[queue], epoch: epoch, invalid: invalid[queue]}
		f.spec, _ = tree.Spec(queue)
		if f.invalid == "" {
			f.invalid, _ = tree.Problem(queue) // that of a queue above
		}
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
			f.assessment = quota.Assess(b, f.checkpoint, f.standing.Held, recent[queue], asOf-from, since(was, f.checkpoint.Start), asOf)
		}
		gauges = append(gauges, gauge{queue, f})
		is := status(was, object.Generation, f, asOf)
		if worthWriting(was, is) {
			if err := s.write(ctx, object, was, is); err != nil {
				errs = append(errs, err)
				continue // nobody is told what may be told again
			}
			s.announce(object, was, is)
		}
		if b := f.spec.Budget; b != nil && b.Enforcement == quota.Drain {
			drains = append(drains, v.overruns(queue, b.DrainGrace, asOf)...)
			if at := f.assessment.DrainAt; at != 0 {
				drains = append(drains, drain{v.subtree(queue), at, b.DrainGrace, fmt.Sprintf("the budget of queue %s is used up", queue)})
			}
		}
	}
	errs = append(errs, s.drain(ctx, drains, asOf))
	for queue := range s.last {
		if _, ok := tree.Spec(queue); !ok {
			delete(s.last, queue)
			delete(s.raised, queue)
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

func (s *Steward) ours(scheduler string) bool { return slices.Contains(s.o.Schedulers, scheduler) }

// statusOf is the queue's status as it was last written, or as it is read if that is later.
func (s *Steward) statusOf(q *v1alpha1.Queue) v1alpha1.QueueStatus {
	last, ok := s.last[q.Name]
	if !ok || last.uid != q.UID ||
		last.status.Budget != nil && q.Status.Budget != nil && q.Status.Budget.AsOf.After(last.status.Budget.AsOf.Time) {
		return q.Status
	}
	return last.status
}

// write replaces the status of the queue, and of no other that has its name by now, if it is still the one that is known. Nobody writes
// it but the leader: where it is another, another leads by now.
func (s *Steward) write(ctx context.Context, q *v1alpha1.Queue, was, is v1alpha1.QueueStatus) error {
	ops := []map[string]any{{"op": "test", "path": "/metadata/uid", "value": q.UID}}
	if was.Budget != nil && was.Budget.Epoch != 0 {
		ops = append(ops, map[string]any{"op": "test", "path": "/status/budget/epoch", "value": was.Budget.Epoch})
	} else if s.last[q.Name].uid != q.UID {
		ops = append(ops, map[string]any{"op": "test", "path": "/metadata/resourceVersion", "value": q.ResourceVersion})
	}
	patch, err := json.Marshal(append(ops, map[string]any{"op": "add", "path": "/status", "value": is})) // replaces one that is there
	if err != nil {
		return err
	}
	_, err = s.o.Dynamic.Resource(v1alpha1.Queues).Patch(ctx, q.Name, types.JSONPatchType, patch, metav1.PatchOptions{}, "status")
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		delete(s.last, q.Name) // what is read next counts
		return fmt.Errorf("status of queue %s: %w", q.Name, err)
	}
	s.last[q.Name] = written{q.UID, is}
	return nil
}

// alerts are those that were raised in the period that begins at start: the highest percent, and that of the burn rate.
type alerts struct {
	uid   types.UID
	start int64
	level int64
	burn  bool
}

// announce tells in events what turned bad. What is held goes up and down: each alert is told once in a period.
func (s *Steward) announce(q *v1alpha1.Queue, was, is v1alpha1.QueueStatus) {
	tell := func(reason string, c metav1.Condition) {
		about := &v1.ObjectReference{APIVersion: v1alpha1.SchemeGroupVersion.String(), Kind: "Queue", Name: q.Name, UID: q.UID}
		s.o.Recorder.Eventf(about, nil, v1.EventTypeWarning, reason, "Assess", "%s", c.Message)
	}
	turned := func(kind string, bad metav1.ConditionStatus) bool {
		return find(is, kind).Status == bad && find(was, kind).Status != bad
	}
	if turned(v1alpha1.ConditionValid, metav1.ConditionFalse) {
		tell(eventInvalid, find(is, v1alpha1.ConditionValid))
	}
	if is.Budget == nil {
		return
	}
	start := is.Budget.PeriodStart.Unix()
	samePeriod := was.Budget != nil && was.Budget.PeriodStart.Unix() == start
	raised := s.raised[q.Name]
	if raised.uid != q.UID || raised.start != start {
		raised = alerts{uid: q.UID, start: start}
	}
	if before := find(was, v1alpha1.ConditionBudgetAlert); samePeriod && before.Status == metav1.ConditionTrue {
		raised.level = max(raised.level, level(before))
		raised.burn = raised.burn || burns(before)
	}
	switch alert := find(is, v1alpha1.ConditionBudgetAlert); {
	case alert.Status != metav1.ConditionTrue:
	case level(alert) > raised.level, burns(alert) && !raised.burn:
		raised.level = max(raised.level, level(alert))
		raised.burn = raised.burn || burns(alert)
		tell(eventAlert, alert)
	}
	s.raised[q.Name] = raised
	if turned(v1alpha1.ConditionExhausted, metav1.ConditionTrue) ||
		!samePeriod && find(is, v1alpha1.ConditionExhausted).Status == metav1.ConditionTrue {
		tell(eventExhausted, find(is, v1alpha1.ConditionExhausted))
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

// burns reports whether an alert says that the budget will not last.
func burns(c metav1.Condition) bool { return strings.Contains(c.Message, burnRate) }

// since is when the budget was found to be used up in the period that begins at start, 0 when it was not.
func since(s v1alpha1.QueueStatus, start int64) int64 {
	c := find(s, v1alpha1.ConditionExhausted)
	if c.Status != metav1.ConditionTrue || c.LastTransitionTime.Unix() < start {
		return 0
	}
	return c.LastTransitionTime.Unix()
}
