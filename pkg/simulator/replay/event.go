package replay

import (
	"cmp"
	"container/heap"
)

// kind is what happens. Of one second, what gives room comes before what takes it, and arrivals come last.
type kind uint8

const (
	jobEnds kind = iota
	nodeReturns
	nodeFails
	// timeTurns is for what time alone changes: a period or a window begins, a budget is used up, something kept expires, a job
	// becomes possible.
	timeTurns
)

// event is something that is known to happen.
type event struct {
	at   int64
	kind kind
	seq  uint64
	job  *job // of jobEnds
	run  int  // of the job: it may have been evicted since
	node int  // of nodeFails and nodeReturns
}

// agenda is a heap of events.
type agenda struct {
	of  []event
	seq uint64
}

func (a *agenda) add(e event) {
	a.seq++
	e.seq = a.seq
	heap.Push(a, e)
}

func (a *agenda) next() event { return heap.Pop(a).(event) }

// Len implements heap.Interface.
func (a *agenda) Len() int { return len(a.of) }

// Less implements heap.Interface.
func (a *agenda) Less(i, j int) bool {
	x, y := &a.of[i], &a.of[j]
	return cmp.Or(cmp.Compare(x.at, y.at), cmp.Compare(x.kind, y.kind), cmp.Compare(x.seq, y.seq)) < 0
}

// Swap implements heap.Interface.
func (a *agenda) Swap(i, j int) { a.of[i], a.of[j] = a.of[j], a.of[i] }

// Push implements heap.Interface.
func (a *agenda) Push(x any) { a.of = append(a.of, x.(event)) }

// Pop implements heap.Interface.
func (a *agenda) Pop() any {
	last := len(a.of) - 1
	e := a.of[last]
	a.of[last] = event{}
	a.of = a.of[:last]
	return e
}
