package steward

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"

	"weft.sh/weft/pkg/ledger"
	"weft.sh/weft/pkg/podspec"
	"weft.sh/weft/pkg/queues"
	"weft.sh/weft/pkg/quota"
)

// burnWindow is over which time the rate of use is taken, in seconds.
const burnWindow = int64(24 * time.Hour / time.Second)

// maxCarries bounds how many periods are computed to find what the present one got: more than a year of days.
const maxCarries = 400

const (
	// unsettled is what part of a period is read from the ledger in every pass, in seconds: what ended is heard of late, but hardly later.
	unsettled = 12 * 3600
	// readAgain is after how many seconds the rest is read again, which may be millions of rows.
	readAgain = 600
)

// charges reads what queues were charged.
type charges struct {
	store ledger.Store
	tree  *quota.Tree
	// known are the sums of subtrees that were asked for in this pass, by the stretch of time.
	known map[[2]int64]map[string]int64
	// settled are the beginnings of long stretches, by where they begin.
	settled map[int64]stretch
}

// stretch is what each queue's own pods were charged up to a moment, as it was read when the watermark was at another.
type stretch struct {
	to, read int64
	own      map[string]int64
}

func newCharges(store ledger.Store) *charges {
	return &charges{store: store, settled: map[int64]stretch{}}
}

// begin begins a pass.
func (c *charges) begin(tree *quota.Tree, asOf int64) {
	c.tree, c.known = tree, map[[2]int64]map[string]int64{}
	maps.DeleteFunc(c.settled, func(_ int64, s stretch) bool { return asOf-s.read > 2*readAgain })
}

// of is what the subtree of each queue was charged in [from, to).
func (c *charges) of(ctx context.Context, from, to int64) (map[string]int64, error) {
	key := [2]int64{from, to}
	if sums, ok := c.known[key]; ok {
		return sums, nil
	}
	sums := map[string]int64{}
	add := func(own map[string]int64) {
		for queue, n := range own {
			for _, q := range c.tree.Path(queue) {
				sums[q] += n
			}
		}
	}
	if to-from > 2*unsettled {
		s, ok := c.settled[from]
		if !ok || s.to > to || to-s.read >= readAgain {
			s = stretch{to: to - unsettled, read: to}
			var err error
			if s.own, err = c.store.Charged(ctx, from, s.to); err != nil {
				return nil, err
			}
			c.settled[from] = s
		}
		add(s.own)
		from = s.to
	}
	own, err := c.store.Charged(ctx, from, to)
	if err != nil {
		return nil, err
	}
	add(own)
	c.known[key] = sums
	return sums, nil
}

// checkpoint is what the books say of the queue's budget at asOf. Was is the checkpoint before: what its period left over is
// carried on from there.
func (c *charges) checkpoint(ctx context.Context, queue string, b *quota.Budget, was quota.Checkpoint, asOf int64) (quota.Checkpoint, error) {
	start, end := b.PeriodAt(asOf)
	out := quota.Checkpoint{AsOf: asOf, Start: start, End: end}
	used, err := c.of(ctx, start, asOf)
	if err != nil {
		return quota.Checkpoint{}, err
	}
	out.Used = used[queue]
	if was.AsOf == 0 || b.RolloverPercent == 0 {
		return out, nil
	}
	// The period that the last checkpoint spoke of, by what the budget says now.
	carried := was.Carried
	if s, _ := b.PeriodAt(was.AsOf); s != was.Start {
		carried = 0 // the budget has other periods now
	}
	for n, at := 0, was.AsOf; ; n++ {
		s, e := b.PeriodAt(at)
		if s >= start {
			break
		}
		if n == maxCarries {
			carried = 0 // nobody kept the ledger for years
			break
		}
		spent, err := c.of(ctx, s, e)
		if err != nil {
			return quota.Checkpoint{}, err
		}
		carried = b.Carry(spent[queue], b.LimitIn(s, e, carried))
		at = e
	}
	out.Carried = carried
	return out, nil
}

// waiting is what pods of a queue's subtree ask for that wait.
type waiting struct {
	pods int32
	// pending is all of it, eligible what neither quota nor budget holds back, by class.
	pending, eligible int64
	eligibleByClass   map[string]int64
}

// view is everything that a pass looks at.
type view struct {
	set     *queues.Set
	book    *quota.Book
	waiting map[string]*waiting
	// running are the pods that hold GPUs, by their own queue.
	running map[string][]*v1.Pod
}

// look reads the pods. Ours tells the names of our schedulers: only pods of theirs wait for a queue.
func look(set *queues.Set, checkpoints map[string]quota.Checkpoint, pods []*v1.Pod, node func(string) *v1.Node, ours func(string) bool, now int64) *view {
	v := &view{set: set, book: quota.NewBook(), waiting: map[string]*waiting{}, running: map[string][]*v1.Pod{}}
	v.book.SetTree(set.Tree())
	for queue, c := range checkpoints {
		v.book.SetCheckpoint(queue, c)
	}
	for _, pod := range pods {
		switch {
		case podspec.Bound(pod):
			if c, ok := set.Claim(pod, node(pod.Spec.NodeName)); ok {
				v.book.Set(c)
				v.running[c.Queue] = append(v.running[c.Queue], pod)
			}
		case pod.Spec.NodeName == "" && ours(pod.Spec.SchedulerName) && pod.DeletionTimestamp == nil && !ended(pod):
			if c, ok := set.Claim(pod, nil); ok {
				v.wait(c, heldBack(pod))
			}
		}
	}
	for _, running := range v.running {
		slices.SortFunc(running, func(a, b *v1.Pod) int {
			return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
		})
	}
	v.book.Advance(now)
	return v
}

func (v *view) wait(c quota.Claim, held bool) {
	for _, queue := range v.set.Tree().Path(c.Queue) {
		w := v.waiting[queue]
		if w == nil {
			w = &waiting{eligibleByClass: map[string]int64{}}
			v.waiting[queue] = w
		}
		w.pods++
		w.pending += c.MilliGPU
		if !held {
			w.eligible += c.MilliGPU
			w.eligibleByClass[c.Class] += c.MilliGPU
		}
	}
}

// headroom is what the limits of the queue and of those above still allow, at least 0.
func (v *view) headroom(queue string) int64 {
	least := quota.NoLimit
	for _, q := range v.set.Tree().Path(queue) {
		if s, ok := v.book.Standing(q); ok && s.Limit != quota.NoLimit {
			least = min(least, max(0, s.Limit-s.Running))
		}
	}
	return least
}

// subtree are the pods that hold GPUs of the queue and those below it.
func (v *view) subtree(queue string) []*v1.Pod {
	pods := slices.Clone(v.running[queue])
	for _, child := range v.set.Tree().Children(queue) {
		pods = append(pods, v.subtree(child)...)
	}
	return pods
}

func ended(pod *v1.Pod) bool {
	return pod.Status.Phase == v1.PodSucceeded || pod.Status.Phase == v1.PodFailed
}

// heldBack reports whether a quota, a budget or a gate holds the pod back: the scheduler says so in its condition, and of a gate
// the pod itself.
func heldBack(pod *v1.Pod) bool {
	if len(pod.Spec.SchedulingGates) > 0 {
		return true
	}
	for i := range pod.Status.Conditions {
		if c := &pod.Status.Conditions[i]; c.Type == v1.PodScheduled && c.Status == v1.ConditionFalse {
			return quota.HoldsBack(c.Reason)
		}
	}
	return false
}
