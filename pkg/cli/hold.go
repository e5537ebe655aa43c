package cli

import (
	"fmt"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"

	"weft.sh/weft/pkg/podgroup"
	"weft.sh/weft/pkg/podspec"
	"weft.sh/weft/pkg/queues"
	"weft.sh/weft/pkg/quota"
)

// QueueHold is why a pod's queue holds it back.
type QueueHold struct {
	// Queue is the pod's queue, and HeldBy the one that says no: itself or one above.
	Queue  string `json:"queue"`
	HeldBy string `json:"heldBy"`
	// Reason is one of the reasons of queues listed in docs/cli.md, Message says it with its figures.
	Reason  string `json:"reason"`
	Message string `json:"message"`
	// Now says that it is so by what the API server shows now. Else the scheduler said so, and by what is seen now neither a limit nor a
	// budget is in the way; whose turn it is only the scheduler knows.
	Now bool `json:"now"`
	// GPUs are the figures where a limit of GPUs is in the way, Hours where a budget is, and Runtime where the run time is.
	GPUs    *HoldGPUs    `json:"gpus"`
	Hours   *HoldHours   `json:"hours"`
	Runtime *HoldRuntime `json:"runtime"`
	// PeriodEnds is when the period ends that has too little left; CouldStart is when the pod could start if nothing else starts and what
	// runs takes as long as it said. Empty for neither.
	PeriodEnds string `json:"periodEnds"`
	CouldStart string `json:"couldStart"`
	// WaitsFor is what would let it start, in words.
	WaitsFor string `json:"waitsFor"`
}

// HoldGPUs are GPUs at the same time.
type HoldGPUs struct {
	UsedMilliGPU  int64 `json:"usedMilliGPU"`
	NeedMilliGPU  int64 `json:"needMilliGPU"`
	LimitMilliGPU int64 `json:"limitMilliGPU"`
}

// HoldHours are GPU-hours of a period.
type HoldHours struct {
	UsedMilliGPUSeconds  int64 `json:"usedMilliGPUSeconds"`
	HeldMilliGPUSeconds  int64 `json:"heldMilliGPUSeconds"`
	NeedMilliGPUSeconds  int64 `json:"needMilliGPUSeconds"`
	LimitMilliGPUSeconds int64 `json:"limitMilliGPUSeconds"`
}

// HoldRuntime is what a pod says it runs, and what it may.
type HoldRuntime struct {
	NeedSeconds  int64 `json:"needSeconds"`
	LimitSeconds int64 `json:"limitSeconds"`
}

// NewQueueHold says why the queue of a pod that waits holds it back, at that moment in Unix seconds; nil when it does not. It decides as
// the scheduler does, with the statuses of the queues and the pods that hold GPUs now; pods that ended since the queue's status was
// written, a minute at most, it does not see. Whose turn it is only the scheduler knows: of that it repeats what the scheduler said.
func NewQueueHold(pod *v1.Pod, q QueueObjects, o Objects, now int64) *QueueHold {
	set := q.set()
	claim, ok := set.Claim(pod, nil)
	if !ok {
		return nil
	}
	queue, v := set.QueueOf(pod)
	if queue == "" {
		return nil
	}
	if v.OK() {
		v = bookOf(set, o, now).Admit(jobOf(pod, claim, set, o.Pods))
	}
	if !v.OK() {
		return newHold(queue, v)
	}
	s := said(pod)
	if s == nil || s.Status == string(v1.ConditionTrue) || !quota.HoldsBack(s.Reason) {
		return nil
	}
	return &QueueHold{Queue: queue, HeldBy: queue, Reason: s.Reason, Message: s.Message, WaitsFor: waitsFor(reasonNamed(s.Reason), queue, "")}
}

// reasonNamed is the reason of that name, quota.Admitted for none.
func reasonNamed(name string) quota.Reason {
	for _, r := range queueReasons() {
		if r.String() == name {
			return r
		}
	}
	return quota.Admitted
}

// queueReasons are all reasons for which a queue holds pods back.
func queueReasons() []quota.Reason {
	var out []quota.Reason
	for r := quota.Admitted + 1; quota.HoldsBack(r.String()); r++ {
		out = append(out, r)
	}
	return out
}

// bookOf is what the queues have at that moment.
func bookOf(set *queues.Set, o Objects, now int64) *quota.Book {
	nodes := map[string]*v1.Node{}
	for _, n := range o.Nodes {
		nodes[n.Name] = n
	}
	book := quota.NewBook()
	book.SetTree(set.Tree())
	for _, name := range set.Tree().Names() {
		if c, ok := set.Checkpoint(name); ok {
			book.SetCheckpoint(name, c)
		}
	}
	for _, p := range o.Pods {
		if p.Spec.NodeName == "" {
			continue
		}
		if c, ok := set.Claim(p, nodes[p.Spec.NodeName]); ok {
			book.Set(c)
		}
	}
	book.Advance(now)
	return book
}

// jobOf is what starts together with the pod: of a gang all that wait or run, of which the book leaves out those that it has.
func jobOf(pod *v1.Pod, claim quota.Claim, set *queues.Set, pods []*v1.Pod) quota.Job {
	job := quota.Job{claim}
	key, ok := podgroup.KeyOf(pod)
	if !ok {
		return job
	}
	for _, p := range pods {
		if k, ok := podgroup.KeyOf(p); !ok || k != key || p.UID == pod.UID || p.DeletionTimestamp != nil {
			continue
		}
		if c, ok := set.Claim(p, nil); ok {
			job = append(job, c)
		}
	}
	return job
}

func newHold(queue string, v quota.Verdict) *QueueHold {
	h := &QueueHold{Queue: queue, HeldBy: v.Queue, Reason: v.Reason.String(), Message: v.Message(), Now: true}
	switch v.Reason {
	case quota.OverLimit, quota.NeverWithinLimit:
		h.GPUs = &HoldGPUs{v.Used, v.Need, v.Limit}
	case quota.OverBudget, quota.BudgetExhausted, quota.NeverWithinBudget:
		h.Hours = &HoldHours{v.Used, v.Held, v.Need, v.Limit}
	case quota.RuntimeTooLong:
		h.Runtime = &HoldRuntime{v.Need, v.Limit}
	}
	if v.Resets != 0 {
		h.PeriodEnds = rfc3339(v.Resets, time.UTC)
	}
	if v.CouldStart != 0 {
		h.CouldStart = rfc3339(v.CouldStart, time.UTC)
	}
	h.WaitsFor = waitsFor(v.Reason, v.Queue, h.PeriodEnds)
	return h
}

// waitsFor is what would let the pod start.
func waitsFor(r quota.Reason, queue, periodEnds string) string {
	switch r {
	case quota.QueueNotFound:
		return fmt.Sprintf("somebody to create queue %s; or create the pod again with another label %s", queue, podspec.LabelQueue)
	case quota.QueueInvalid:
		return fmt.Sprintf("somebody to mend what is wrong: see weft queue %s", queue)
	case quota.QueueForbidden:
		return fmt.Sprintf("an administrator to let the namespace use queue %s; or create the pod again with another label %s", queue, podspec.LabelQueue)
	case quota.RuntimeTooLong:
		return fmt.Sprintf("a change: a pod with a shorter %s, or a longer spec.runtime.max of queue %s", podspec.AnnotationRuntime, queue)
	case quota.NeverWithinLimit:
		return fmt.Sprintf("a change: fewer GPUs, or a higher spec.gpus.limit of queue %s", queue)
	case quota.NeverWithinBudget:
		return fmt.Sprintf("a change: less GPU time, or a larger budget of queue %s", queue)
	case quota.OverLimit:
		return fmt.Sprintf("pods of queue %s to end", queue)
	case quota.OverBudget, quota.BudgetExhausted:
		s := fmt.Sprintf("pods of queue %s to end before the time that they hold, or an adjustment of its budget", queue)
		if periodEnds != "" {
			s = fmt.Sprintf("the period that begins %s, %s", periodEnds, s)
		}
		return s
	case quota.NotYourTurn:
		return "its turn: what is idle goes first to queues below their guarantee, then to those that have less above it for their weight; see weft queue"
	}
	return "the scheduler's next word"
}

// hold sets the verdict of a pod that nothing else keeps from the nodes.
func (a *Answer) hold(h *QueueHold) {
	a.Queue = h
	if h == nil || a.Verdict != VerdictFits && a.Verdict != VerdictDoesNotFit {
		return
	}
	a.Verdict = VerdictHeldBack
	would := strings.Replace(a.Message, "fits", "would fit", 1)
	a.Message = fmt.Sprintf("is held back by queue %s; otherwise it %s", h.HeldBy, would)
}

// renderHold prints why the queue holds the pod back.
func renderHold(out *strings.Builder, s style, h *QueueHold) {
	if h == nil {
		return
	}
	below := ""
	if h.HeldBy != h.Queue {
		below = fmt.Sprintf(", which is above its queue %s", h.Queue)
	}
	fmt.Fprintf(out, "\n%s%s\n  %s: %s\n", s.paint(colourBold, "queue "+h.HeldBy), below, s.paint(colourYellow, h.Reason), h.Message)
	if !h.Now && h.Reason != quota.NotYourTurn.String() {
		out.WriteString("  So the scheduler said; by what is seen now the queue would let it start.\n")
	}
	fmt.Fprintf(out, "  → it waits for %s\n", h.WaitsFor)
	if h.CouldStart != "" {
		out.WriteString("    it could start then if nothing else starts and what runs takes as long as it said\n")
	}
}
