package replay

import (
	"cmp"
	"fmt"
	"slices"

	"weft.sh/weft/pkg/quota"
)

// books is what quota knows, and the ledger that it goes by.
type books struct {
	book *quota.Book
	tree *quota.Tree
	// limited says that some queue has a limit, a budget or a longest run time: else quota lets everybody start.
	limited bool
	// turning says that time alone changes what queues are granted.
	turning bool
	// accounts are those of the queues with a budget, in the order of their names.
	accounts []*account
	// below is by queue the accounts that are charged for it.
	charged map[string][]*account
	// turnsAt is when the next period or window begins, vainTurns how many did since anybody started.
	turnsAt   int64
	vainTurns int
}

// maxVainTurns is how many periods and windows may begin without a start while nobody runs, until nobody ever will.
const maxVainTurns = 64

// account is the ledger of one queue's subtree.
type account struct {
	queue  string
	budget *quota.Budget
	// start and end bound the period; used is what it used by now, carried what it got from the one before.
	start, end, used, carried int64
	// rate is what is charged for each second now.
	rate int64
	// exhausted is since when the budget is used up, 0 while it is not.
	exhausted int64
}

func (b *books) open(in *Input) error {
	tree, problems := quota.NewTree(in.Queues)
	if len(problems) > 0 {
		return fmt.Errorf("queues: %s", problems[0].Message)
	}
	*b = books{book: quota.NewBook(), tree: tree, charged: map[string][]*account{}}
	b.book.SetTree(tree)
	byName := map[string]*account{}
	for _, name := range tree.Names() {
		spec, _ := tree.Spec(name)
		b.limited = b.limited || spec.Limit != quota.NoLimit || spec.Budget != nil || spec.MaxRuntime > 0 || len(spec.Windows) > 0
		b.turning = b.turning || spec.Budget != nil || len(spec.Windows) > 0
		if spec.Budget != nil {
			a := &account{queue: name, budget: spec.Budget}
			a.start, a.end = a.budget.PeriodAt(in.Start)
			byName[name] = a
			b.accounts = append(b.accounts, a)
		}
	}
	for _, name := range tree.Names() {
		for _, up := range tree.Path(name) {
			if a := byName[up]; a != nil {
				b.charged[name] = append(b.charged[name], a)
			}
		}
	}
	b.keep(in.Start)
	return nil
}

// limit is what the account may use in its period.
func (a *account) limit() int64 { return a.budget.LimitIn(a.start, a.end, a.carried) }

// charge moves the account on by time in which the rate was the same.
func (a *account) charge(from, to int64) {
	for to > a.end {
		a.used += a.rate * (a.end - from)
		from = a.end
		a.turn()
	}
	a.used += a.rate * (to - from)
	if to == a.end {
		a.turn()
	}
}

// turn begins the next period.
func (a *account) turn() {
	a.carried = a.budget.Carry(a.used, a.limit())
	a.start, a.end = a.budget.PeriodAt(a.end)
	a.used, a.exhausted = 0, 0
}

// keep brings the book up to the moment.
func (b *books) keep(now int64) {
	b.book.Advance(now)
	for _, a := range b.accounts {
		b.book.SetCheckpoint(a.queue, quota.Checkpoint{AsOf: now, Start: a.start, End: a.end, Used: a.used, Carried: a.carried})
	}
	if len(b.accounts) > 0 {
		b.book.Advance(now) // forgets what is on the books now
	}
}

// claimOf is what a member wants of its queue.
func (e *engine) claimOf(j *job, member int) quota.Claim {
	c := quota.Claim{
		ID: j.uid(member), Queue: j.Queue, MilliGPU: j.MilliGPU, Rate: j.MilliGPU, Runtime: j.Stated, Priority: j.Priority, Queued: j.queued,
	}
	if j.Members > 1 {
		c.Job = j.key().String()
	}
	return c
}

// claim makes the claims of the job's minimum.
func (e *engine) claim(j *job) {
	j.claims = j.claims[:0]
	for m := range j.Min {
		j.claims = append(j.claims, e.claimOf(j, m))
	}
}

// endClaim ends the claim of a pod that is gone.
func (e *engine) endClaim(uid string) {
	c, ok := e.book.Holder(uid)
	if !ok {
		return
	}
	if len(e.charged[c.Queue]) == 0 {
		e.book.Delete(uid)
		return
	}
	c.End = max(e.now, c.Start)
	e.book.Set(c)
}

// never reports whether the job could start in no cluster of this size, or is more than its queue is ever granted.
func (e *engine) never(j *job) bool {
	switch e.book.Admit(j.claims).Reason {
	case quota.QueueNotFound, quota.QueueInvalid, quota.RuntimeTooLong, quota.NeverWithinLimit, quota.NeverWithinBudget:
		return true
	}
	return !e.fitsEmpty(j)
}

// judge asks quota whether the job may start, and when it may if not.
func (e *engine) judge(j *job) bool {
	if !e.limited {
		return true
	}
	v := e.book.Admit(e.missing(j))
	if v.CouldStart > e.now {
		e.wake(v.CouldStart)
	}
	if held := !v.OK(); held != j.held {
		e.sawWaiting(j, -1)
		j.held = held
		e.sawWaiting(j, 1)
	}
	return !j.held
}

// missing are the claims of the job's minimum that it has not started with.
func (e *engine) missing(j *job) quota.Job { return j.claims }

// expectTurns has the next period or window noticed.
func (e *engine) expectTurns() {
	if !e.turning || len(e.waiting) == 0 && len(e.running) == 0 {
		return
	}
	if e.turnsAt <= e.now {
		e.turnsAt = e.tree.NextChange(e.now)
		if e.turnsAt == quota.NoLimit {
			e.turning = false
			return
		}
		e.wake(e.turnsAt)
		if len(e.running) == 0 {
			e.vainTurns++
		}
	}
	for _, a := range e.accounts {
		if left := a.limit() - a.used; a.budget.Enforcement != quota.Hold && a.rate > 0 && left > 0 {
			// What is used up throttles or drains the queue.
			if at := e.now + (left+a.rate-1)/a.rate; at < a.end {
				e.wake(at)
			}
		}
	}
}

// drain evicts what runs in queues whose budget is used up and says so.
func (e *engine) drain() error {
	for _, a := range e.accounts {
		if a.used < a.limit() {
			continue
		}
		if a.exhausted == 0 {
			a.exhausted = e.now
		}
		as := quota.Assess(a.budget, quota.Checkpoint{AsOf: e.now, Start: a.start, End: a.end, Used: a.used, Carried: a.carried},
			0, 0, 0, a.exhausted, e.now)
		if as.DrainAt == 0 {
			continue
		}
		if as.DrainAt > e.now {
			e.wake(as.DrainAt)
			continue
		}
		var out []*job
		for _, j := range e.running {
			if slices.Contains(e.charged[j.Queue], a) {
				out = append(out, j)
			}
		}
		slices.SortFunc(out, func(x, y *job) int { return cmp.Compare(x.seq, y.seq) })
		for _, j := range out {
			e.drained++
			e.sawLost(j, len(j.pods), true)
			e.again(j)
		}
	}
	return nil
}
