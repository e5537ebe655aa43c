package quota

import "container/heap"

// Book is what all queues have at one moment: the tree, its checkpoints and the claims of all pods. Whoever shares one
// among goroutines locks it; Admit, Standing, Holder and Tree only read. The time is that of the last Advance, which has to
// come before anything is asked.
//
// # What a claim holds
//
// Its rate for each second from the later of its start and the checkpoint's AsOf, to its end: Start + Runtime, or End once
// it ended. One that runs longer than it said, or did not say, holds until RollingHold from now: so it may use more than
// was checked when it started, by what it runs over. What crosses the end of a period counts in each by its seconds there.
//
// # Checkpoints of another period
//
// When the books stand still over the end of a period, nothing is used of the new one by their account, and claims hold in
// it from its beginning: those that run and those that ended since, which are kept for that. What is carried over is not
// counted until the books say how much. A checkpoint whose period begins after the book's now waits for it. When the
// periods of a budget are changed while one runs, all that the old one used by AsOf counts as used in the new one; what a
// longer new period had before the old one began is unknown until the next checkpoint.
type Book struct {
	tree        *Tree
	queues      map[string]*queue
	checkpoints map[string]known
	entries     map[string]*entry
	ends        endings
	now         int64
	// ended are claims that ended and may still be missing in the books; sweep says that some may not be any more.
	ended map[string]*entry
	sweep bool
	// ahead are claims with moments more than a day after now, which are cut for now.
	ahead map[string]*entry
}

// queue is what a queue's subtree has.
type queue struct {
	node     *node
	parent   *queue
	children []*queue
	// claims are those of the queue itself.
	claims []*entry
	// share is the one at now, until nextShare.
	share     Share
	nextShare int64
	running   wide
	byClass   map[string]wide
	account   *account // nil without a budget
}

// entry is a claim of the book. What every count reads comes first.
type entry struct {
	// start, to, rate and milliGPU are the claim's, made sane: moments of broken clocks are no more than a day ahead. To is
	// when it ended, or is to end by what it said.
	start, to, rate, milliGPU int64
	// live says that it has not ended, rolling that it runs and holds RollingHold from now. One that runs and does not roll
	// is in the heap.
	live, rolling bool
	at            int    // in queue.claims
	heapAt        int    // -1 where it is not in the heap
	queue         *queue // nil where there is none
	claim         Claim
}

// until is when the claim's hold ends.
func (e *entry) until(rolling int64) int64 {
	if e.rolling {
		return rolling
	}
	return e.to
}

// planned is when a claim that runs is to end by what it said.
func (e *entry) planned() int64 { return e.to }

func (e *entry) runs() bool { return e.live }

// NewBook is a book without queues.
func NewBook() *Book {
	t, _ := NewTree(nil)
	return &Book{
		tree:        t,
		queues:      map[string]*queue{},
		checkpoints: map[string]known{},
		entries:     map[string]*entry{},
		ended:       map[string]*entry{},
		ahead:       map[string]*entry{},
	}
}

// SetTree replaces the tree. Claims and checkpoints stay. Its cost grows with queues and claims.
func (b *Book) SetTree(t *Tree) {
	b.tree = t
	b.queues = make(map[string]*queue, len(t.names))
	t.eachFromTop(func(n *node) {
		q := &queue{node: n, byClass: map[string]wide{}}
		if n.parent != nil {
			q.parent = b.queues[n.parent.spec.Name]
			q.parent.children = append(q.parent.children, q)
		}
		b.queues[n.spec.Name] = q
	})
	b.rebuild()
}

// rebuild computes everything from tree, checkpoints and claims.
func (b *Book) rebuild() {
	for _, q := range b.queues {
		q.setShare(b.now)
		q.claims, q.running, q.byClass, q.account = nil, wide{}, map[string]wide{}, nil
		if budget := q.node.spec.Budget; budget != nil && b.now != 0 {
			q.account = &account{budget: budget}
			q.account.open(b.checkpoints[q.node.spec.Name].at(b.now).now, b.now)
		}
	}
	b.ends = b.ends[:0]
	clear(b.ahead)
	for _, e := range b.entries {
		b.link(e)
	}
	b.sweep = true
}

func (q *queue) setShare(now int64) {
	q.share = q.node.shareAt(now)
	q.nextShare = q.node.nextWindow(now)
}

// Tree is the tree, never nil.
func (b *Book) Tree() *Tree { return b.tree }

// SetCheckpoint replaces what the books say of a queue's subtree. One that is older than what is known is ignored, unless the
// period differs and is not one before. Its cost grows with the claims below the queue.
func (b *Book) SetCheckpoint(queue string, c Checkpoint) {
	before := b.checkpoints[queue]
	after := before.take(c, b.now)
	b.checkpoints[queue] = after
	if q := b.queues[queue]; q != nil && q.account != nil && after.now != before.now {
		b.recount(q)
	}
}

// recount computes the queue's account from checkpoint and claims.
func (b *Book) recount(q *queue) {
	name := q.node.spec.Name
	k := b.checkpoints[name].at(b.now)
	if k != (known{}) {
		b.checkpoints[name] = k
	}
	q.account.open(k.now, b.now)
	q.each(func(e *entry) { q.account.put(e, b.rollingEnd(), false) })
	b.sweep = true
}

// each visits the claims of the queue and of all below it.
func (q *queue) each(visit func(e *entry)) {
	for _, e := range q.claims {
		visit(e)
	}
	for _, c := range q.children {
		c.each(visit)
	}
}

// rollingEnd is until when claims hold that roll.
func (b *Book) rollingEnd() int64 { return plus(b.now, RollingHold) }

// Set adds a claim that started, or replaces the one of the same ID. One without a Start starts now.
func (b *Book) Set(c Claim) {
	e := b.entries[c.ID]
	if e == nil {
		e = &entry{}
		b.entries[c.ID] = e
	} else {
		b.unlink(e)
		delete(b.ended, c.ID)
		delete(b.ahead, c.ID)
	}
	*e = entry{claim: c}
	if c.End != 0 {
		b.ended[c.ID] = e
		b.sweep = true
	}
	b.link(e)
}

// Delete takes a claim back as if it had never been: a start that was undone. One that ran and ended is Set with its End
// instead.
func (b *Book) Delete(id string) {
	e := b.entries[id]
	if e == nil {
		return
	}
	b.unlink(e)
	delete(b.entries, id)
	delete(b.ended, id)
	delete(b.ahead, id)
}

// link adds the claim to its queue and all above.
func (b *Book) link(e *entry) {
	c := &e.claim
	e.queue, e.heapAt = b.queues[c.Queue], -1
	if c.Start <= 0 {
		c.Start = b.now
	}
	tomorrow := plus(b.now, 86400)
	e.start, e.to = min(c.Start, tomorrow), min(c.End, tomorrow)
	if e.start != c.Start || e.to != c.End {
		b.ahead[c.ID] = e
	}
	e.rate, e.milliGPU = max(c.Rate, 0), max(c.MilliGPU, 0)
	e.live = c.End == 0
	if e.live {
		e.to = plus(e.start, min(max(c.Runtime, 0), maxHold))
		e.rolling = e.to <= b.now || c.Runtime <= 0
	} else {
		e.rolling = false
	}
	if e.queue == nil {
		return
	}
	e.at = len(e.queue.claims)
	e.queue.claims = append(e.queue.claims, e)
	if e.live && !e.rolling {
		heap.Push(&b.ends, e)
	}
	for q := e.queue; q != nil; q = q.parent {
		if e.live && e.milliGPU > 0 {
			q.running.add(e.milliGPU, 1)
			sum := q.byClass[c.Class]
			sum.add(e.milliGPU, 1)
			q.byClass[c.Class] = sum
		}
		if q.account != nil {
			q.account.put(e, b.rollingEnd(), false)
		}
	}
}

// unlink takes the claim out again.
func (b *Book) unlink(e *entry) {
	if e.queue == nil {
		return
	}
	for q := e.queue; q != nil; q = q.parent {
		if e.live && e.milliGPU > 0 {
			q.running.sub(e.milliGPU, 1)
			sum := q.byClass[e.claim.Class]
			sum.sub(e.milliGPU, 1)
			if sum.zero() {
				delete(q.byClass, e.claim.Class)
			} else {
				q.byClass[e.claim.Class] = sum
			}
		}
		if q.account != nil {
			q.account.put(e, b.rollingEnd(), true)
		}
	}
	if e.heapAt >= 0 {
		heap.Remove(&b.ends, e.heapAt)
	}
	claims := e.queue.claims
	last := len(claims) - 1
	claims[e.at] = claims[last]
	claims[e.at].at = e.at
	claims[last] = nil
	e.queue.claims = claims[:last]
	e.queue = nil
}

// Advance moves the time on: new periods, windows, holds of claims that run longer than they said, claims that are on the
// books and can be forgotten. Its cost grows with the queues, with the claims that began to roll or ended, and at the turn
// of a period with all claims. The time does not go back.
func (b *Book) Advance(now int64) {
	if now <= b.now && b.now != 0 {
		b.forget()
		return
	}
	first, before := b.now == 0, b.rollingEnd()
	b.now = now
	if first {
		b.rebuild()
		b.forget()
		return
	}
	for name, q := range b.queues {
		if q.nextShare <= now {
			q.setShare(now)
		}
		a := q.account
		if a == nil {
			continue
		}
		next := b.checkpoints[name].next
		due := next != (Checkpoint{}) && next.Start <= now
		if due || a.periods[0].end <= now || a.clamped || a.ahead > 0 {
			b.recount(q)
		} else {
			a.roll(before, b.rollingEnd())
		}
	}
	for len(b.ends) > 0 && b.ends[0].to <= now {
		e := b.ends[0]
		b.unlink(e)
		b.link(e)
	}
	if len(b.ahead) > 0 {
		ahead := b.ahead
		b.ahead = map[string]*entry{}
		for _, e := range ahead {
			b.unlink(e)
			b.link(e)
		}
	}
	b.forget()
}

// forget drops claims that ended and that nobody needs: at each budget above, they are on the books or were of a period
// before. Those of a queue that does not exist are kept for an hour: it may be that nobody heard of it yet.
func (b *Book) forget() {
	if !b.sweep || b.now == 0 {
		return
	}
	b.sweep = false
	for id, e := range b.ended {
		needed := e.queue == nil && e.claim.Queue != "" && e.to > b.now-RollingHold
		b.sweep = b.sweep || needed
		for q := e.queue; q != nil && !needed; q = q.parent {
			a := q.account
			needed = a != nil && e.to > max(a.asOf, a.periods[0].start)
		}
		if !needed {
			b.Delete(id)
		}
	}
}

// Standing is what a queue's subtree has.
type Standing struct {
	Share
	// Running is what claims hold at the same time, in milli-GPU, and Borrowed what of it is above the guarantee.
	Running, Borrowed int64
	// RunningByClass is Running by class of GPUs.
	RunningByClass map[string]int64
	// Start, End, Used, Held and Limit are those of the budget's period now; all 0 without a budget.
	Start, End, Used, Held, BudgetLimit int64
	// Exhausted says that the budget is used up and is enforced by more than a notice.
	Exhausted bool
}

// Standing is how the queue stands, false where there is no such queue.
func (b *Book) Standing(queue string) (Standing, bool) {
	q := b.queues[queue]
	if q == nil {
		return Standing{}, false
	}
	s := Standing{Share: q.share, Running: q.running.value(), RunningByClass: make(map[string]int64, len(q.byClass))}
	s.Borrowed = max(s.Running-s.Guaranteed, 0)
	for class, sum := range q.byClass {
		s.RunningByClass[class] = sum.value()
	}
	if a := q.account; a != nil {
		p := a.stands(0, standing{}, 0, 0)
		s.Start, s.End, s.Used, s.Held, s.BudgetLimit = p.start, p.end, p.used, p.held, p.limit
		s.Exhausted = a.exhausted()
	}
	return s, true
}

// Holder is a claim of the book by its ID.
func (b *Book) Holder(id string) (Claim, bool) {
	e := b.entries[id]
	if e == nil {
		return Claim{}, false
	}
	return e.claim, true
}

// endings is a heap of claims by when they are to end.
type endings []*entry

func (h endings) Len() int           { return len(h) }
func (h endings) Less(i, j int) bool { return h[i].to < h[j].to }
func (h endings) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].heapAt, h[j].heapAt = i, j
}

func (h *endings) Push(x any) {
	e := x.(*entry)
	e.heapAt = len(*h)
	*h = append(*h, e)
}

func (h *endings) Pop() any {
	last := len(*h) - 1
	e := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	e.heapAt = -1
	return e
}
