package cli

import (
	"cmp"
	"fmt"
	"math"
	"math/big"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"weft.sh/weft/pkg/apis/weft/v1alpha1"
	"weft.sh/weft/pkg/queues"
	"weft.sh/weft/pkg/quota"
)

// Queues are the queues and what they have: `weft queue -o json`. Made by [NewQueues].
type Queues struct {
	// APIVersion is cli.weft.sh/v1, Kind is Queues.
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	// Queues are in the order of the tree: those below a queue follow it.
	Queues []QueueLine `json:"queues"`
	// Problems are what is wrong with objects that are in no queue's line, in words.
	Problems []string `json:"problems"`
}

// QueueLine is how a queue stands. All numbers are those of its whole subtree.
type QueueLine struct {
	// Queue is its name, Parent the queue above; empty at the top. Depth is how many are above it.
	Queue  string `json:"queue"`
	Parent string `json:"parent"`
	Depth  int    `json:"depth"`
	// GuaranteedMilliGPU and LimitMilliGPU are those of now, of the window that is open; the limit is -1 for none.
	GuaranteedMilliGPU int64 `json:"guaranteedMilliGPU"`
	LimitMilliGPU      int64 `json:"limitMilliGPU"`
	// RunningMilliGPU runs, BorrowedMilliGPU of it above the guarantee. PendingMilliGPU is what PendingPods pods ask for that wait,
	// EligibleMilliGPU what of it neither quota nor budget holds back.
	RunningMilliGPU  int64 `json:"runningMilliGPU"`
	BorrowedMilliGPU int64 `json:"borrowedMilliGPU"`
	PendingMilliGPU  int64 `json:"pendingMilliGPU"`
	EligibleMilliGPU int64 `json:"eligibleMilliGPU"`
	PendingPods      int   `json:"pendingPods"`
	// Budget is null for a queue without one.
	Budget *QueueBudget `json:"budget"`
	// Problem is why the queue admits nothing, or what else is wrong with it; empty for nothing.
	Problem string `json:"problem"`
	// Conditions are those of its status.
	Conditions []QueueCondition `json:"conditions"`
	// Written says that weft-controller has written its status: else all that is counted is 0.
	Written bool `json:"written"`
}

// QueueBudget is how a budget stands, as of the status.
type QueueBudget struct {
	// Period and Enforcement are as in the Queue.
	Period      string `json:"period"`
	Enforcement string `json:"enforcement"`
	// PeriodStart and PeriodEnd bound the period, AsOf is the moment to which used is complete; empty for none.
	PeriodStart string `json:"periodStart"`
	PeriodEnd   string `json:"periodEnd"`
	AsOf        string `json:"asOf"`
	// UsedMilliGPUSeconds and LimitMilliGPUSeconds are exact; the others come in thousandths of a GPU-hour.
	UsedMilliGPUSeconds  int64 `json:"usedMilliGPUSeconds"`
	HeldMilliGPUSeconds  int64 `json:"heldMilliGPUSeconds"`
	LimitMilliGPUSeconds int64 `json:"limitMilliGPUSeconds"`
	LeftMilliGPUSeconds  int64 `json:"leftMilliGPUSeconds"`
	// BurnPerDayMilliGPUSeconds is what the last day used. LastsSeconds is how long what is left lasts at that rate, -1 for ever.
	BurnPerDayMilliGPUSeconds int64 `json:"burnPerDayMilliGPUSeconds"`
	LastsSeconds              int64 `json:"lastsSeconds"`
	// ExhaustedAt is when it is used up if it goes on so before the period ends, or since when it is; DrainAt is when pods are evicted
	// for it. Empty for neither.
	ExhaustedAt string `json:"exhaustedAt"`
	DrainAt     string `json:"drainAt"`
}

// QueueCondition is a condition of a Queue's status.
type QueueCondition struct {
	Type    string `json:"type"`
	Status  string `json:"status"`
	Reason  string `json:"reason"`
	Message string `json:"message"`
	// Since is when it last changed, in RFC 3339.
	Since string `json:"since"`
}

// NewQueues is how the queues stand at that moment, in Unix seconds.
func NewQueues(o QueueObjects, now int64) Queues {
	set := o.set()
	out := Queues{APIVersion: APIVersion, Kind: "Queues", Queues: []QueueLine{}, Problems: listed(o.Unreadable)}
	known := map[string]bool{}
	var add func(queue string, depth int)
	add = func(queue string, depth int) {
		known[queue] = true
		out.Queues = append(out.Queues, newQueueLine(o.queue(queue), set, depth, now))
		for _, child := range set.Tree().Children(queue) {
			add(child, depth+1)
		}
	}
	for _, top := range set.Tree().Children("") {
		add(top, 0)
	}
	for _, p := range set.Problems() {
		if !known[p.Queue] {
			out.Problems = append(out.Problems, p.Message)
		}
	}
	return out
}

// newQueueLine is the line of a queue that is in the set.
func newQueueLine(q *v1alpha1.Queue, set *queues.Set, depth int, now int64) QueueLine {
	share := set.Tree().ShareAt(q.Name, now)
	g := &q.Status.GPUs
	l := QueueLine{
		Queue: q.Name, Parent: q.Spec.Parent, Depth: depth, GuaranteedMilliGPU: share.Guaranteed, LimitMilliGPU: orUnlimited(share.Limit),
		RunningMilliGPU: g.Running.MilliValue(), BorrowedMilliGPU: g.Borrowed.MilliValue(), PendingMilliGPU: g.Pending.MilliValue(),
		EligibleMilliGPU: g.Eligible.MilliValue(), PendingPods: int(q.Status.PendingPods), Conditions: []QueueCondition{},
		Written: q.Status.ObservedGeneration > 0 || len(q.Status.Conditions) > 0,
	}
	for _, p := range set.Problems() {
		if p.Queue == q.Name && l.Problem == "" {
			l.Problem = p.Message
		}
	}
	for _, c := range q.Status.Conditions {
		l.Conditions = append(l.Conditions, QueueCondition{c.Type, string(c.Status), c.Reason, c.Message, timeText(&c.LastTransitionTime)})
	}
	if spec, _ := set.Tree().Spec(q.Name); spec.Budget != nil {
		l.Budget = newQueueBudget(q, spec.Budget, now)
	}
	return l
}

func newQueueBudget(q *v1alpha1.Queue, b *quota.Budget, now int64) *QueueBudget {
	out := &QueueBudget{
		Period: cmp.Or(string(q.Spec.Budget.Period), string(v1alpha1.PeriodMonth)), LastsSeconds: -1,
		Enforcement: cmp.Or(string(q.Spec.Budget.Enforcement), string(v1alpha1.EnforceHold)),
	}
	s := q.Status.Budget
	if s == nil {
		start, end := b.PeriodAt(now)
		out.PeriodStart, out.LimitMilliGPUSeconds = rfc3339(start, time.UTC), b.LimitIn(start, end, 0)
		if end != quota.NoLimit {
			out.PeriodEnd = rfc3339(end, time.UTC)
		}
		out.LeftMilliGPUSeconds = out.LimitMilliGPUSeconds
		return out
	}
	end := quota.NoLimit
	if s.PeriodEnd != nil {
		end = s.PeriodEnd.Unix()
	}
	out.PeriodStart, out.PeriodEnd, out.AsOf = timeText(&s.PeriodStart), timeText(s.PeriodEnd), timeText(&s.AsOf)
	out.UsedMilliGPUSeconds, out.LimitMilliGPUSeconds = s.UsedMilliGPUSeconds, b.LimitIn(s.PeriodStart.Unix(), end, s.CarriedMilliGPUSeconds)
	out.HeldMilliGPUSeconds, out.LeftMilliGPUSeconds, out.BurnPerDayMilliGPUSeconds = hoursNamed(s.Held), hoursNamed(s.Left), hoursNamed(s.BurnPerDay)
	out.ExhaustedAt, out.DrainAt = timeText(s.ExhaustedAt), timeText(s.DrainAt)
	if out.BurnPerDayMilliGPUSeconds > 0 {
		lasts := new(big.Int).Mul(big.NewInt(max(out.LeftMilliGPUSeconds, 0)), big.NewInt(86400))
		if lasts.Div(lasts, big.NewInt(out.BurnPerDayMilliGPUSeconds)); lasts.IsInt64() {
			out.LastsSeconds = lasts.Int64()
		}
	}
	return out
}

// orUnlimited is a limit, -1 for none.
func orUnlimited(limit int64) int64 {
	if limit == quota.NoLimit {
		return -1
	}
	return limit
}

// hoursNamed is GPU-hours of a status in milli-GPU-seconds, 0 for what is none.
func hoursNamed(text string) int64 {
	q, err := resource.ParseQuantity(cmp.Or(text, "0"))
	if err != nil {
		return 0
	}
	thousandths := q.MilliValue()
	if thousandths > math.MaxInt64/3600 || thousandths < math.MinInt64/3600 {
		return math.MaxInt64
	}
	return thousandths * 3600
}

// timeText is a time in RFC 3339, empty for none.
func timeText(t *metav1.Time) string {
	if t == nil || t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

// QueueAnswer is all about one queue: `weft queue NAME -o json`. Made by [NewQueueAnswer].
type QueueAnswer struct {
	// APIVersion is cli.weft.sh/v1, Kind is QueueAnswer.
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	// Line is how it stands.
	Line QueueLine `json:"line"`
	// Path are the queue and those above it, Children those right below.
	Path     []string `json:"path"`
	Children []string `json:"children"`
	// Weight is its part of what is lent.
	Weight int64 `json:"weight"`
	// Default says that it is the queue of pods that name none; EveryNamespace that any may use it. Namespaces are those that may
	// otherwise, of those that exist.
	Default        bool     `json:"default"`
	EveryNamespace bool     `json:"everyNamespace"`
	Namespaces     []string `json:"namespaces"`
	// RuntimeDefaultSeconds is assumed of pods that do not say, RuntimeMaxSeconds the most that one may say; 0 for none.
	RuntimeDefaultSeconds int64 `json:"runtimeDefaultSeconds"`
	RuntimeMaxSeconds     int64 `json:"runtimeMaxSeconds"`
	// Windows are times of the day with other shares; the first that is open counts.
	Windows []QueueWindow `json:"windows"`
	// RolloverPercent, AlertPercents and ChargeStartup are those of the budget.
	RolloverPercent int64   `json:"rolloverPercent"`
	AlertPercents   []int64 `json:"alertPercents"`
	ChargeStartup   bool    `json:"chargeStartup"`
	// Adjustments are the credits and corrections of the budget.
	Adjustments []QueueAdjustment `json:"adjustments"`
	// Waiting are the pods of the subtree that wait, by why, those that ask for most first.
	Waiting []QueueWaiting `json:"waiting"`
}

// QueueWindow is a window of a queue.
type QueueWindow struct {
	// Days are the days on which it opens; empty for all. From and To are times of the day in TimeZone.
	Days     []string `json:"days"`
	From     string   `json:"from"`
	To       string   `json:"to"`
	TimeZone string   `json:"timeZone"`
	// GuaranteedMilliGPU and LimitMilliGPU hold in it; the limit is -1 for none.
	GuaranteedMilliGPU int64 `json:"guaranteedMilliGPU"`
	LimitMilliGPU      int64 `json:"limitMilliGPU"`
}

// QueueAdjustment is a signed entry of a budget.
type QueueAdjustment struct {
	Name            string `json:"name"`
	MilliGPUSeconds int64  `json:"milliGPUSeconds"`
	At              string `json:"at"`
	Reason          string `json:"reason"`
	// Counts says that it counts in the present period.
	Counts bool `json:"counts"`
}

// QueueWaiting is pods that wait for one reason.
type QueueWaiting struct {
	// Reason and Message are those of the condition PodScheduled, the message of the first pod; empty where nobody said anything yet.
	Reason  string `json:"reason"`
	Message string `json:"message"`
	// HeldBack says that it is the queue that they wait for.
	HeldBack bool `json:"heldBack"`
	// Count is how many pods, MilliGPU what they ask for, and Pods are the first of them.
	Count    int      `json:"count"`
	MilliGPU int64    `json:"milliGPU"`
	Pods     []string `json:"pods"`
}

// maxNamed is how many pods are named of those that wait for one reason.
const maxNamed = 5

// NewQueueAnswer is all about the queue of that name, false for none. Pods are those of the cluster that have not ended.
func NewQueueAnswer(name string, o QueueObjects, pods []*v1.Pod, schedulerName string, now int64) (QueueAnswer, bool) {
	q, set := o.queue(name), o.set()
	if q == nil {
		return QueueAnswer{}, false
	}
	path := set.Tree().Path(name)
	spec, _ := set.Tree().Spec(name)
	a := QueueAnswer{
		APIVersion: APIVersion, Kind: "QueueAnswer", Line: newQueueLine(q, set, len(path)-1, now), Path: listed(path),
		Children: listed(set.Tree().Children(name)), Weight: spec.Weight, Default: q.Spec.Default, EveryNamespace: q.Spec.Namespaces == nil,
		Namespaces: []string{}, RuntimeDefaultSeconds: spec.DefaultRuntime, RuntimeMaxSeconds: spec.MaxRuntime, Windows: []QueueWindow{},
		AlertPercents: []int64{}, Adjustments: []QueueAdjustment{}, Waiting: waitingOf(name, set, pods, schedulerName),
	}
	if n := q.Spec.Namespaces; n != nil {
		a.Namespaces = namespacesOf(n, o.Namespaces)
	}
	// Windows that cannot be read are left out of the spec: then they cannot be told apart here, and the queue's problem says so.
	if len(spec.Windows) == len(q.Spec.Windows) {
		for i := range q.Spec.Windows {
			w := &q.Spec.Windows[i]
			a.Windows = append(a.Windows, QueueWindow{
				Days: listed(w.Days), From: w.From, To: w.To, TimeZone: cmp.Or(w.TimeZone, "UTC"),
				GuaranteedMilliGPU: spec.Windows[i].Guaranteed, LimitMilliGPU: orUnlimited(spec.Windows[i].Limit),
			})
		}
	}
	if b := spec.Budget; b != nil {
		a.RolloverPercent, a.AlertPercents, a.ChargeStartup = b.RolloverPercent, append(a.AlertPercents, b.AlertPercents...), b.ChargeStartup
		start, end := b.PeriodAt(now)
		for i := range q.Spec.Budget.Adjustments {
			e := &q.Spec.Budget.Adjustments[i]
			at := e.At.Unix()
			a.Adjustments = append(a.Adjustments, QueueAdjustment{
				Name: e.Name, MilliGPUSeconds: hoursOf(&e.GPUHours), At: timeText(&e.At), Reason: e.Reason, Counts: start <= at && at < end,
			})
		}
	}
	return a, true
}

// hoursOf is a quantity of GPU-hours in milli-GPU-seconds, 0 for one that is no whole number of them, which does not count.
func hoursOf(q *resource.Quantity) int64 {
	r, ok := new(big.Rat).SetString(q.AsDec().String())
	if !ok {
		return 0
	}
	if r.Mul(r, big.NewRat(milliGPUSecondsPerHour, 1)); !r.IsInt() || !r.Num().IsInt64() {
		return 0
	}
	return r.Num().Int64()
}

// namespacesOf are the names of those that may use the queue.
func namespacesOf(n *v1alpha1.NamespaceSelector, all []*v1.Namespace) []string {
	out := []string{}
	selector, err := metav1.LabelSelectorAsSelector(n.Selector) // of nil it selects nothing
	for _, namespace := range all {
		if slices.Contains(n.Names, namespace.Name) || err == nil && selector.Matches(labelSet(namespace.Labels)) {
			out = append(out, namespace.Name)
		}
	}
	slices.Sort(out)
	return out
}

// waitingOf are the pods that wait in the subtree of the queue, by why.
func waitingOf(name string, set *queues.Set, pods []*v1.Pod, schedulerName string) []QueueWaiting {
	type kind struct {
		reason   string
		heldBack bool
	}
	groups := map[kind]*QueueWaiting{}
	pods = slices.Clone(pods)
	slices.SortFunc(pods, func(a, b *v1.Pod) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	for _, p := range pods {
		if p.Spec.NodeName != "" || p.DeletionTimestamp != nil || p.Spec.SchedulerName != schedulerName {
			continue
		}
		claim, ok := set.Claim(p, nil)
		if !ok || claim.Queue != name && !slices.Contains(set.Tree().Path(claim.Queue), name) {
			continue
		}
		var k kind
		message := ""
		switch s := said(p); {
		case len(p.Spec.SchedulingGates) > 0:
			k.reason, message = VerdictGated, "scheduling gates keep every scheduler from it"
		case s != nil:
			k, message = kind{s.Reason, quota.HoldsBack(s.Reason)}, s.Message
		}
		g := groups[k]
		if g == nil {
			g = &QueueWaiting{Reason: k.reason, Message: message, HeldBack: k.heldBack, Pods: []string{}}
			groups[k] = g
		}
		g.Count++
		g.MilliGPU += claim.MilliGPU
		if len(g.Pods) < maxNamed {
			g.Pods = append(g.Pods, fmt.Sprintf("%s/%s", p.Namespace, p.Name))
		}
	}
	out := []QueueWaiting{}
	for _, g := range groups {
		out = append(out, *g)
	}
	slices.SortFunc(out, func(a, b QueueWaiting) int {
		return cmp.Or(cmp.Compare(b.MilliGPU, a.MilliGPU), cmp.Compare(a.Reason, b.Reason))
	})
	return out
}
