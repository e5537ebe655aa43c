package quota

import (
	"cmp"
	"maps"
	"slices"
	"strings"
)

// Contest is who wants what is idle.
type Contest struct {
	// Capacity is what the cluster has, Idle what nobody holds, in milli-GPU by class.
	Capacity, Idle map[string]int64
	// Waiting are jobs that Admit lets through.
	Waiting []Waiting
}

// Waiting is a job that waits.
type Waiting struct {
	Job Job
	// Classes are those that it can run on; nil for any.
	Classes []string
	// Stuck says that the scheduler found no place for it since anything became free: what is idle is not kept for it,
	// unless it needs more than is idle.
	Stuck bool
}

// Turns says which jobs may try now. The answer is made by giving away what is idle, job by job. Whose turn it is is decided
// level by level from the top: queues that stay within their guarantee with their next job come first, the one that has the
// smallest part of it; then those with the smallest dominant share (of any class the most) of what they have above it, for
// their weight. A queue that is throttled comes last, with its guarantee for a limit. Within a queue the order is priority,
// then age, then ID. The jobs right in a queue that has others below compete with those as one more, of weight 1.
//
// A job that has not enough room in what is left, or under a limit, is passed over, so that it blocks no other queue. What
// is left is then kept for it from those behind it in its own queue, as long as it can be told when it has enough: from what
// is idle and what is expected to end ([Claim.Runtime]), by count and if nobody else takes it. Those behind it that end by
// then may use it meanwhile. So a large job does not starve behind small ones of its queue, and nothing is kept for one that
// has no hope: where claims have no end, or when it is stuck although there was enough. What other queues take in their turn
// may make it wait longer; that is what guarantees are for.
//
// Nothing is left idle that a job which is not stuck could use, but for what is kept so. What all others leave may be tried
// by any that are stuck.
//
// Two kinds of jobs may try without room in what is idle: those within a guarantee, which they can reclaim; and of each
// queue the first job that is passed over, if it would not have room even alone: it may preempt in its own queue, and when
// it fails it is seen to lack GPUs. Jobs of no queue may always try; those of one that does not exist or is not valid never.
//
// The cost grows with the jobs, the logarithm of the queues and the depth of the tree.
func (b *Book) Turns(c Contest) []bool {
	models := newModels(b, &c)
	names, stakes := b.stakes(models)
	n := contest{
		now: b.now, stakes: stakes, capacity: make([]int64, len(models.names)), idle: make([]int64, len(models.names)),
		endings: func() []ending { return b.endings(models) },
	}
	for i := range stakes {
		if stakes[i].parent < 0 {
			for class, held := range stakes[i].held {
				n.capacity[class] = plus(n.capacity[class], held)
			}
		}
	}
	for i, name := range models.names {
		n.idle[i] = max(0, c.Idle[name])
		// What is held on nodes that are not there now counts too, and so that no share is of nothing, a little of each class.
		n.capacity[i] = max(plus(n.capacity[i], n.idle[i]), c.Capacity[name], 1)
	}
	index := make(map[string]int, len(names)) // of the queues that are valid
	for i, name := range names {
		if b.queues[name].node.problem == "" {
			index[name] = i
		}
	}
	may := make([]bool, len(c.Waiting))
	which := make([]int, 0, len(c.Waiting))
	n.bids = make([]bid, 0, len(c.Waiting))
	for i := range c.Waiting {
		w := &c.Waiting[i]
		if len(w.Job) == 0 {
			continue
		}
		name := w.Job[0].Queue
		if name == "" {
			may[i] = true
			continue
		}
		queue, ok := index[name]
		if !ok {
			continue
		}
		bid := b.bid(w, models)
		if bid.need == 0 {
			may[i] = true
			continue
		}
		bid.queue = queue
		n.bids, which = append(n.bids, bid), append(which, i)
	}
	if len(n.bids) > 0 {
		for k, ok := range n.decide() {
			may[which[k]] = ok
		}
	}
	return may
}

// bid is the job in numbers. Claims that the book has already need nothing any more.
func (b *Book) bid(w *Waiting, m *models) bid {
	first := &w.Job[0]
	out := bid{priority: first.Priority, queued: first.Queued, id: first.ID, classes: m.set(w.Classes), stuck: w.Stuck}
	unknown := false
	for i := range w.Job {
		c := &w.Job[i]
		out.priority, out.queued, out.id = max(out.priority, c.Priority), min(out.queued, c.Queued), min(out.id, c.ID)
		if e := b.entries[c.ID]; c.MilliGPU <= 0 || e != nil && e.queue != nil && e.claim.Queue == c.Queue {
			continue
		}
		out.need = plus(out.need, c.MilliGPU)
		out.runtime, unknown = max(out.runtime, c.Runtime), unknown || c.Runtime <= 0
		k := slices.IndexFunc(out.sizes, func(p portion) bool { return p.milliGPU == c.MilliGPU })
		if k < 0 {
			k = len(out.sizes)
			out.sizes = append(out.sizes, portion{milliGPU: c.MilliGPU})
		}
		out.sizes[k].count++
	}
	if unknown {
		out.runtime = 0
	}
	slices.SortFunc(out.sizes, func(a, b portion) int { return cmp.Compare(b.milliGPU, a.milliGPU) })
	return out
}

// stakes are the queues with what they hold now, each after the one above it, and their names. Without models, what they
// hold of each class is left out.
func (b *Book) stakes(m *models) (names []string, stakes []stake) {
	index := make(map[string]int, len(b.queues))
	b.tree.eachFromTop(func(n *node) {
		q := b.queues[n.spec.Name]
		s := stake{parent: -1, weight: n.spec.Weight, Share: q.share, running: q.running.value()}
		if n.parent != nil {
			s.parent = index[n.parent.spec.Name]
		}
		if m != nil {
			s.held = make([]int64, len(m.names))
			for class, sum := range q.byClass {
				if i, ok := m.index[class]; ok {
					s.held[i] = sum.value()
				}
			}
		}
		s.throttled = q.account != nil && q.account.budget.Enforcement == Throttle && q.account.exhausted()
		index[n.spec.Name] = len(stakes)
		names, stakes = append(names, n.spec.Name), append(stakes, s)
	})
	return names, stakes
}

// endings is what runs and has an end in sight, by what it said.
func (b *Book) endings(m *models) []ending {
	var out []ending
	for _, e := range b.entries {
		class, ok := m.index[e.claim.Class]
		if ok && e.runs() && e.claim.Runtime > 0 {
			out = append(out, ending{class: class, at: e.planned(), milliGPU: e.milliGPU})
		}
	}
	return out
}

// models are the classes of a contest, in the order of their names.
type models struct {
	names []string
	index map[string]int
	sets  map[string]*classSet
	any   *classSet
}

func newModels(b *Book, c *Contest) *models {
	m := &models{index: map[string]int{}, sets: map[string]*classSet{}, any: &classSet{}}
	for name := range c.Capacity {
		m.index[name] = 0
	}
	for name := range c.Idle {
		m.index[name] = 0
	}
	for _, top := range b.tree.tops {
		for name := range b.queues[top].byClass {
			m.index[name] = 0
		}
	}
	m.names = slices.Sorted(maps.Keys(m.index))
	for i, name := range m.names {
		m.index[name] = i
		m.any.of = append(m.any.of, i)
	}
	return m
}

// set is the set of these classes, without those that nobody knows; all for nil.
func (m *models) set(classes []string) *classSet {
	if classes == nil {
		return m.any
	}
	key := strings.Join(classes, "\x00")
	s := m.sets[key]
	if s == nil {
		s = &classSet{}
		for _, name := range classes {
			if i, ok := m.index[name]; ok {
				s.of = append(s.of, i)
			}
		}
		slices.Sort(s.of)
		s.of = slices.Compact(s.of)
		m.sets[key] = s
	}
	return s
}
