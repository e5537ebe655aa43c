package quota

import (
	"cmp"
	"container/heap"
	"slices"
)

// contest is a [Contest] in numbers.
type contest struct {
	now            int64
	stakes         []stake
	capacity, idle []int64 // by class; capacity is above 0
	bids           []bid
	// endings is what runs and says how long. It is asked for once at most, when somebody has to wait.
	endings func() []ending
}

// bid is a job that waits, in numbers.
type bid struct {
	queue    int // index of its stake
	priority int32
	queued   int64
	id       string
	sizes    []portion // of its pods, the largest first
	need     int64     // the sum of the sizes
	classes  *classSet
	runtime  int64 // of the pod that runs longest; 0 when nobody knows
	stuck    bool
}

// portion is some pods that hold as much each.
type portion struct{ milliGPU, count int64 }

// classSet is the classes that a job can run on.
type classSet struct {
	of      []int
	endings []ending // on these classes, by time, milliGPU summed up; see filling.freeAt
	known   bool
}

// ending is GPUs of a class that are expected to become free.
type ending struct {
	class        int
	at, milliGPU int64
}

// filling is a contest while it is decided: what is idle is given away job by job, each to the queue whose turn it is.
type filling struct {
	contest
	left  []int64 // of idle
	rest  int64   // the sum of left
	may   []bool  // by bid
	nodes []contender
	top   siblings
	ends  []ending
	asked bool
	give  []int64 // by class: what allot found
}

// contender is a stake that has jobs: right in it, or below.
type contender struct {
	jobs  *line // nil for a queue with contenders below it
	below siblings
	// next is the bid that it sends, -1 when it has none any more.
	next  int
	rank  rank
	above part
}

// rank is what counts before shares, the lowest first.
type rank uint8

const (
	withinGuarantee rank = iota
	borrowing
	throttled
)

// line is the jobs that wait in a queue. The first at are decided.
type line struct {
	bids   []int
	at     int
	sorted bool
	// tried says that the first job without room was looked at; see filling.pass.
	tried bool
	// kept is, by class, when a job ahead is expected to take what is idle of it: who ends by then may use it. NoLimit where
	// none waits for the class; nil where none waits.
	kept []int64
}

// decide says of each bid whether it may try now.
func (c contest) decide() []bool { return c.fill().may }

func (c contest) fill() *filling {
	f := &filling{contest: c, may: make([]bool, len(c.bids)), give: make([]int64, len(c.idle)), left: make([]int64, len(c.idle))}
	for i, n := range c.idle {
		f.left[i] = max(n, 0)
		f.rest += f.left[i]
	}
	f.idle = slices.Clone(f.left)
	f.enlist()
	for f.top.Len() > 0 {
		n := f.top.of[0]
		for f.nodes[n].jobs == nil {
			n = f.nodes[n].below.of[0]
		}
		l, b := f.nodes[n].jobs, f.nodes[n].next
		if f.acceptable(n, b) { // it was when it came to the head of its line, but others were served since
			f.serve(n, b)
		} else {
			f.pass(n, b)
		}
		l.at++
		f.advance(n)
		f.rise(n)
	}
	f.leavings()
	return f
}

// enlist makes the contenders. The jobs right in a queue become a child of it that is guaranteed nothing, so that they
// compete with the queues below it.
func (f *filling) enlist() {
	queues := len(f.stakes)
	stakes := make([]stake, queues, 2*queues)
	for i := range f.stakes {
		stakes[i] = f.stakes[i]
		s := &stakes[i]
		if s.held = slices.Clone(s.held); s.throttled {
			s.Limit = min(s.Limit, s.Guaranteed)
		}
	}
	lines := make([]*line, queues)
	for i := range f.bids {
		q := f.bids[i].queue
		if lines[q] == nil {
			lines[q] = &line{}
		}
		lines[q].bids = append(lines[q].bids, i)
	}
	leaf := make([]int, queues)
	for q, l := range lines {
		if l != nil {
			leaf[q] = len(stakes)
			stakes = append(stakes, stake{
				parent: q, weight: 1, Share: Share{Limit: NoLimit},
				running: f.stakes[q].running, held: slices.Clone(f.stakes[q].held),
			})
		}
	}
	for i := range f.stakes { // what is held right in a queue is what is not held below it
		if p := f.stakes[i].parent; p >= 0 && lines[p] != nil {
			s := &stakes[leaf[p]]
			s.running -= f.stakes[i].running
			for c, held := range f.stakes[i].held {
				s.held[c] -= held
			}
		}
	}
	f.stakes, f.nodes = stakes, make([]contender, len(stakes))
	f.top.f = f
	for i := len(stakes) - 1; i >= 0; i-- {
		n := &f.nodes[i]
		n.below.f = f
		if i >= queues {
			n.jobs = lines[stakes[i].parent]
			f.advance(i)
		} else {
			heap.Init(&n.below)
			n.next = f.first(&n.below)
		}
		f.weigh(i)
		if n.next >= 0 {
			s := f.siblings(i)
			s.of = append(s.of, i)
		}
	}
	heap.Init(&f.top)
}

// siblings are the contenders below the one above, or those at the top.
func (f *filling) siblings(n int) *siblings {
	if up := f.stakes[n].parent; up >= 0 {
		return &f.nodes[up].below
	}
	return &f.top
}

// first is the bid of the contender that comes first, -1 without any.
func (f *filling) first(s *siblings) int {
	if len(s.of) == 0 {
		return -1
	}
	return f.nodes[s.of[0]].next
}

// weigh works out when it is the contender's turn.
func (f *filling) weigh(n int) {
	c, s := &f.nodes[n], &f.stakes[n]
	if c.next < 0 {
		return
	}
	switch {
	case s.throttled:
		c.rank = throttled
	case f.bids[c.next].need <= s.lacks():
		c.rank = withinGuarantee
	default:
		c.rank = borrowing
	}
	c.above = s.above(f.capacity)
}

// rise puts the contender, which was first wherever it counts, and those above it where they belong now.
func (f *filling) rise(n int) {
	for ; n >= 0; n = f.stakes[n].parent {
		if f.nodes[n].jobs == nil {
			f.nodes[n].next = f.first(&f.nodes[n].below)
		}
		f.weigh(n)
		if s := f.siblings(n); f.nodes[n].next < 0 {
			heap.Pop(s)
		} else {
			heap.Fix(s, 0)
		}
	}
}

// advance finds the next job of the line that is acceptable.
func (f *filling) advance(n int) {
	c := &f.nodes[n]
	l := c.jobs
	c.next = -1
	if f.rest == 0 && !f.lacking(n) {
		f.retire(n)
		return
	}
	if !l.sorted {
		slices.SortFunc(l.bids, f.order)
		l.sorted = true
	}
	for ; l.at < len(l.bids); l.at++ {
		b := l.bids[l.at]
		if !f.bids[b].stuck && f.acceptable(n, b) {
			c.next = b
			return
		}
		f.pass(n, b)
	}
}

// retire ends a line that can get nothing any more, without a look at the order of all its jobs.
func (f *filling) retire(n int) {
	l := f.nodes[n].jobs
	head := -1
	for _, b := range l.bids[l.at:] {
		if !f.bids[b].stuck && f.withinLimits(n, b) && (head < 0 || f.order(b, head) < 0) {
			head = b
		}
	}
	if head >= 0 {
		f.pass(n, head)
	}
	l.at = len(l.bids)
}

// order is the order within a queue.
func (f *filling) order(a, b int) int {
	x, y := &f.bids[a], &f.bids[b]
	switch {
	case x.priority != y.priority:
		return cmp.Compare(y.priority, x.priority)
	case x.queued != y.queued:
		return cmp.Compare(x.queued, y.queued)
	}
	return cmp.Or(cmp.Compare(x.id, y.id), cmp.Compare(a, b))
}

// lacking reports whether a queue above lacks something of its guarantee.
func (f *filling) lacking(n int) bool {
	for ; n >= 0; n = f.stakes[n].parent {
		if f.stakes[n].lacks() > 0 {
			return true
		}
	}
	return false
}

func (f *filling) withinLimits(n, b int) bool {
	need := f.bids[b].need
	for ; n >= 0; n = f.stakes[n].parent {
		if need > f.stakes[n].Limit-f.stakes[n].running {
			return false
		}
	}
	return true
}

// entitled reports whether a queue above stays within its guarantee with the job: what is not idle can be reclaimed.
func (f *filling) entitled(n, b int) bool {
	for ; n >= 0; n = f.stakes[n].parent {
		if f.bids[b].need <= f.stakes[n].lacks() {
			return true
		}
	}
	return false
}

// acceptable reports whether the job can have what it needs now. A guarantee waits for nobody, not even ahead in the line.
func (f *filling) acceptable(n, b int) bool {
	bid := &f.bids[b]
	return len(bid.classes.of) > 0 && f.withinLimits(n, b) && (f.entitled(n, b) || f.allot(bid, f.left, f.nodes[n].jobs.kept))
}

// allot finds of which classes the job gets how much of what there is, without what is kept from it; false where there is
// too little. The class of which most is there comes first, so that jobs that have no choice find something. Where sizes
// differ it may miss a way that exists.
func (f *filling) allot(b *bid, there, kept []int64) bool {
	clear(f.give)
	end := NoLimit
	if b.runtime > 0 {
		end = plus(f.now, b.runtime)
	}
	var room [8]int
	classes, sum := room[:0], int64(0)
	for _, c := range b.classes.of {
		if there[c] <= 0 || kept != nil && end > kept[c] {
			continue
		}
		classes = append(classes, c)
		sum = plus(sum, there[c])
		for i := len(classes) - 1; i > 0; i-- {
			if f.fuller(there, classes[i-1], c) {
				break
			}
			classes[i-1], classes[i] = classes[i], classes[i-1]
		}
	}
	if sum < b.need {
		return false
	}
	for _, p := range b.sizes {
		for _, c := range classes {
			n := min(p.count, (there[c]-f.give[c])/p.milliGPU)
			f.give[c] += n * p.milliGPU
			p.count -= n
		}
		if p.count > 0 {
			return false
		}
	}
	return true
}

// fuller reports whether of class a more is there than of class b, as a part of the class.
func (f *filling) fuller(there []int64, a, b int) bool {
	return cmp.Or(compareProducts(there[a], f.capacity[b], 1, there[b], f.capacity[a], 1), cmp.Compare(b, a)) > 0
}

// serve gives the job what it needs.
func (f *filling) serve(n, b int) {
	bid := &f.bids[b]
	f.may[b] = true
	if !f.allot(bid, f.left, f.nodes[n].jobs.kept) && !f.allot(bid, f.left, nil) {
		// Not enough is idle for a guarantee: all there is goes to it, the rest is reclaimed.
		clear(f.give)
		missing := bid.need
		for _, c := range bid.classes.of {
			f.give[c] = min(missing, f.left[c])
			missing -= f.give[c]
		}
		f.hold(n, bid.classes.of[0], missing)
	}
	for c, given := range f.give {
		f.left[c] -= given
		f.rest -= given
		f.hold(n, c, given)
	}
}

func (f *filling) hold(n, class int, milliGPU int64) {
	for ; milliGPU > 0 && n >= 0; n = f.stakes[n].parent {
		f.stakes[n].running += milliGPU
		f.stakes[n].held[class] += milliGPU
	}
}

// pass passes a job over.
//
// Where it is the first of its line, and would not even have room if it were alone, it may try all the same: it may have
// pods of a lower priority leave, and if it fails, that is for want of GPUs, which an autoscaler should see.
//
// What is idle is kept for it from those behind it in the line if, by count, it can be told when it has enough. It is not
// kept where nobody knows when: too little ends, or it found no place although there was enough.
func (f *filling) pass(n, b int) {
	l, bid := f.nodes[n].jobs, &f.bids[b]
	if !f.withinLimits(n, b) {
		return // the limit makes it wait, and that is none of those behind it
	}
	alone := f.allot(bid, f.idle, nil)
	if !bid.stuck && !l.tried {
		l.tried = true
		f.may[b] = !alone
	}
	if bid.stuck && alone || f.rest == 0 || f.allot(bid, f.left, nil) {
		return
	}
	at, ok := f.enoughAt(bid)
	if !ok {
		return
	}
	if l.kept == nil {
		l.kept = slices.Repeat([]int64{NoLimit}, len(f.idle))
	}
	for _, c := range bid.classes.of {
		if l.kept[c] == NoLimit {
			l.kept[c] = at
		}
	}
}

// enoughAt is when enough for the job is expected to be idle, by count, if it gets all that becomes free; false where that
// is never.
func (f *filling) enoughAt(b *bid) (int64, bool) {
	set := b.classes
	if !set.known {
		set.known = true
		if !f.asked {
			f.asked = true
			f.ends = f.endings()
			slices.SortFunc(f.ends, func(a, b ending) int { return cmp.Compare(a.at, b.at) })
		}
		sum := int64(0)
		for _, c := range set.of {
			sum = plus(sum, f.idle[c])
		}
		set.endings = append(set.endings, ending{at: f.now, milliGPU: sum})
		for _, e := range f.ends {
			if slices.Contains(set.of, e.class) {
				sum = plus(sum, e.milliGPU)
				set.endings = append(set.endings, ending{at: max(e.at, f.now), milliGPU: sum})
			}
		}
	}
	i, _ := slices.BinarySearchFunc(set.endings, b.need, func(e ending, need int64) int { return cmp.Compare(e.milliGPU, need) })
	if i == len(set.endings) {
		return 0, false
	}
	return set.endings[i].at, true
}

// leavings lets the jobs that are stuck try what nobody else takes. Nothing is kept for them, so several may try for the same.
func (f *filling) leavings() {
	for n := range f.nodes {
		l := f.nodes[n].jobs
		if l == nil || f.rest == 0 {
			continue
		}
		for _, b := range l.bids {
			if f.bids[b].stuck && f.withinLimits(n, b) {
				f.may[b] = f.allot(&f.bids[b], f.left, l.kept)
			}
		}
	}
}

// siblings are contenders that compete with each other, as a heap.
type siblings struct {
	f  *filling
	of []int
}

func (s *siblings) Len() int      { return len(s.of) }
func (s *siblings) Swap(i, j int) { s.of[i], s.of[j] = s.of[j], s.of[i] }
func (s *siblings) Push(x any)    { s.of = append(s.of, x.(int)) }

func (s *siblings) Pop() any {
	last := len(s.of) - 1
	n := s.of[last]
	s.of = s.of[:last]
	return n
}

// Less reports whether it is the turn of i before that of j.
func (s *siblings) Less(i, j int) bool { return s.f.before(s.of[i], s.of[j]) }

// before reports whether it is the turn of one contender before that of its sibling: those within their guarantee, the one
// that has the smallest part of it; then those with the smallest share above it for their weight; where that is equal, whose
// job is older.
func (f *filling) before(a, b int) bool {
	x, y := &f.nodes[a], &f.nodes[b]
	s, t := &f.stakes[a], &f.stakes[b]
	c := cmp.Compare(x.rank, y.rank)
	if c == 0 && x.rank == withinGuarantee {
		c = compareProducts(s.running, t.Guaranteed, 1, t.running, s.Guaranteed, 1)
	}
	if c == 0 {
		c = compareShares(x.above, s.weight, y.above, t.weight)
	}
	return cmp.Or(c, cmp.Compare(f.bids[x.next].queued, f.bids[y.next].queued), cmp.Compare(a, b)) < 0
}
