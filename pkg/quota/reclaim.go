package quota

import "slices"

// Reclaim is what a queue may take back from others: no more than the caps from the groups of pods that [Reclaim.Groups]
// tells.
//
// A guarantee is its subtree's: what a queue lacks of it may be taken from anywhere outside of it, for a job anywhere below
// it, whatever the queues below are guaranteed themselves. Where the job and the pod that would leave part ways, going up,
// is a queue above the job that lacks something, and one above the pod that has more than its guarantee; below that one each
// has more, too.
//
// What is taken never makes a queue lack anything of its guarantee. Where the guarantees fit in the capacity, a job that
// stays within the guarantee of its queue can take as much as it needs beyond what is idle, if pods are small enough.
type Reclaim struct {
	// Caps are how much may be taken from each group, in milli-GPU: from each subtree what it has above its guarantee.
	Caps []int64
	// Least are how much must leave of each group, for the limits above the job: 0 for groups that are for caps alone. A group
	// for a limit has no cap.
	Least []int64
	// groups are by queue; a queue that is missing may not be taken from. ranked are those of the job's queue and of those below it.
	groups, ranked map[string][]int
	// known are all queues.
	known map[string]bool
	// strangers are the groups of pods of no queue, nil when nothing may be taken from them.
	strangers []int
	// limits are the groups for limits, that of the queue nearest to the job first, and most how much of each can be taken.
	limits []int
	most   []int64
}

// Reclaim says what the job's queue may take from others so that the job can start, with the shares that count at the time
// of Advance. Nothing for a job of no queue or of one that is not valid. Of the job's claims those that started need nothing
// any more. Lingering are claims that the book does not have, of pods that were told to leave and do not: nobody may count on
// their room, nor is anything more to be taken in their place than what their queues have without them.
func (b *Book) Reclaim(j Job, lingering ...Claim) Reclaim {
	var r Reclaim
	if len(j) == 0 {
		return r
	}
	queue := j[0].Queue
	if message, _ := b.Tree().Problem(queue); message != "" {
		return r
	}
	names, stakes := b.stakes(nil)
	own := slices.Index(names, queue)
	if own < 0 {
		r.ranked = map[string][]int{queue: {}} // of no queue: priority decides among those of none
		return r
	}
	need := int64(0)
	for i := range j {
		if e := b.entries[j[i].ID]; e == nil || e.claim.Queue != queue {
			need = plus(need, max(0, j[i].MilliGPU))
		}
	}
	if need == 0 {
		return r
	}
	caps, groups, ranked, strangers := reclaim(stakes, own, need)
	r = Reclaim{
		Caps: caps, Least: make([]int64, len(caps)), groups: map[string][]int{}, ranked: map[string][]int{}, known: map[string]bool{},
		strangers: strangers,
	}
	stay := make([]int64, len(stakes))
	for i := range lingering {
		for x := slices.Index(names, lingering[i].Queue); x >= 0; x = stakes[x].parent {
			stay[x] = plus(stay[x], max(0, lingering[i].MilliGPU))
		}
	}
	var over []int // the queues whose limits are in the way, that nearest to the job first
	for x := own; x >= 0; x = stakes[x].parent {
		if excess := plus(plus(stakes[x].running, stay[x]), need) - stakes[x].Limit; excess > 0 {
			over, r.limits = append(over, x), append(r.limits, len(r.Caps))
			r.Caps, r.Least = append(r.Caps, NoLimit), append(r.Least, excess)
		}
	}
	r.most = mostOf(stakes, over, caps, groups)
	for i, name := range names {
		r.known[name] = true
		of := []int{}
		for k, x := range over {
			if within(stakes, i, x) {
				of = append(of, r.limits[k])
			}
		}
		if groups[i] != nil {
			r.groups[name] = append(of, groups[i]...)
		} else if ranked[i] != nil {
			r.ranked[name] = append(of, ranked[i]...)
		}
	}
	return r
}

// mostOf is how much can be taken below each of the queues, which are each above the one before. The groups are nested: so who takes
// what it can queue by queue, first below the lowest, takes the most below each.
func mostOf(stakes []stake, over []int, caps []int64, groups [][]int) []int64 {
	if len(over) == 0 {
		return nil
	}
	left, direct := slices.Clone(caps), make([]int64, len(stakes))
	for i := range stakes {
		direct[i] += stakes[i].running
		if p := stakes[i].parent; p >= 0 {
			direct[p] -= stakes[i].running
		}
	}
	most, sum := make([]int64, 0, len(over)), int64(0)
	for _, x := range over {
		for i := range stakes {
			if groups[i] == nil || direct[i] <= 0 || !within(stakes, i, x) {
				continue
			}
			n := direct[i]
			for _, g := range groups[i] {
				n = min(n, left[g])
			}
			for _, g := range groups[i] {
				left[g] -= n
			}
			direct[i], sum = 0, plus(sum, n)
		}
		most = append(most, sum)
	}
	return most
}

// within reports whether a queue is that one or below it.
func within(stakes []stake, queue, above int) bool {
	for ; queue > above; queue = stakes[queue].parent { // those above come first
	}
	return queue == above
}

// Ranked are the groups that a pod counts in that may leave because of its priority, and false for those of queues among which priority
// does not decide: it does within the job's own queue, and below it about what queues have above their guarantees.
func (r *Reclaim) Ranked(queue string) (groups []int, ok bool) {
	groups, ok = r.ranked[queue]
	return groups, ok
}

// Obtainable reports whether limits alone are in the way of the job, and enough of what runs below them may leave for it: what others
// have borrowed of what is guaranteed to the job's queue or to one above and, unless nobody is to leave by priority, what its own queue
// has of a lower one. Pods may be too large for that, and there may be no place: so it is a reason to look, and no promise.
func (b *Book) Obtainable(j Job, preempts bool) bool {
	if !b.AdmitBeyondLimits(j).OK() {
		return false
	}
	r := b.Reclaim(j)
	if len(r.limits) == 0 {
		return false
	}
	lower := int64(0)
	if preempts {
		priority := j[0].Priority
		for i := range j {
			priority = max(priority, j[i].Priority)
		}
		b.queues[j[0].Queue].each(func(e *entry) {
			if e.runs() && e.claim.Priority < priority {
				lower = plus(lower, e.milliGPU)
			}
		})
	}
	for k, g := range r.limits {
		if plus(r.most[k], lower) < r.Least[g] {
			return false
		}
	}
	return true
}

// Groups are the indices of the caps that count for a pod of that queue, and false when nothing may be taken from it. A pod
// of no queue, or of one that does not exist any more, is a borrower of all that it has. Pods of the job's own queue, and of
// those below it, are for priority to decide among; see Ranked.
func (r *Reclaim) Groups(queue string) (groups []int, ok bool) {
	groups = r.groups[queue]
	if !r.known[queue] {
		groups = r.strangers
	}
	return groups, groups != nil
}

// reclaim is what may be taken for a job of the stake own: by stake the caps that count, nil where nothing may be taken, and
// those for pods of no queue.
//
// The rule for a pod: let x be the queue above the job, or its own, right below the one where the ways up from the two meet.
// With what can be taken inside of x, the job stays within what x is guaranteed. Where that takes something from inside of
// x, no more is taken from outside than x lacks now; the rest must then come from inside. From each queue on the pod's side,
// up to where the ways meet, no more is taken than it has above its guarantee. That holds for those below the job's own queue too,
// which ranked is of: there priority decides who leaves.
func reclaim(stakes []stake, own int, need int64) (caps []int64, groups, ranked [][]int, strangers []int) {
	lent := lendings(stakes)
	level := make([]int, len(stakes)) // 1 + how far above own, 0 for those that are not
	var outside [][]int               // by level: the groups of all pods outside of it, nil when nothing may be taken there
	inside := int64(0)
	for x, k := own, 1; x >= 0; x, k = stakes[x].parent, k+1 {
		level[x] = k
		lacks := stakes[x].lacks()
		up := stakes[x].parent
		if lacks <= 0 || need-inside > lacks {
			outside = append(outside, nil)
			continue
		}
		some, most := []int{}, NoLimit
		if need > lacks {
			some, most = []int{len(caps)}, lacks
			caps = append(caps, lacks)
		}
		outside = append(outside, some)
		if up >= 0 { // what can be taken between x and the queue above
			sum := stakes[up].running
			for i := range stakes {
				if stakes[i].parent == up {
					sum -= stakes[i].running
					if i != x {
						sum = plus(sum, lent[i])
					}
				}
			}
			inside = plus(inside, min(sum, most))
		}
	}
	groups, ranked = make([][]int, len(stakes)), make([][]int, len(stakes))
	capOf := make([]int, len(stakes)) // 1 + the index
	for i := range stakes {
		side, y := []int{}, i
		for ; y >= 0 && level[y] == 0 && side != nil; y = stakes[y].parent {
			excess := -stakes[y].lacks()
			if excess <= 0 {
				side = nil
				break
			}
			if capOf[y] == 0 {
				caps = append(caps, excess)
				capOf[y] = len(caps)
			}
			side = append(side, capOf[y]-1)
		}
		meet := len(outside) // the top
		if y >= 0 {
			meet = level[y] - 1
		}
		if side == nil {
			continue
		}
		if meet == 0 {
			ranked[i] = side
			continue
		}
		if outside[meet-1] == nil {
			continue
		}
		groups[i] = append(side, outside[meet-1]...)
		slices.Sort(groups[i])
	}
	return caps, groups, ranked, outside[len(outside)-1]
}

// lendings is, by stake, how much can be taken of what the subtree has if no guarantee in it suffers.
func lendings(stakes []stake) []int64 {
	lent, below := make([]int64, len(stakes)), make([]int64, len(stakes))
	for i := len(stakes) - 1; i >= 0; i-- {
		s := &stakes[i]
		direct := s.running - below[i]
		lent[i] = max(0, min(-s.lacks(), plus(direct, lent[i])))
		if s.parent >= 0 {
			below[s.parent] += s.running
			lent[s.parent] = plus(lent[s.parent], lent[i])
		}
	}
	return lent
}
