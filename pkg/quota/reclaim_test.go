package quota

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// lot is a small tree with what is held right in each queue, in single GPUs, and by pods of no queue.
type lot struct {
	stakes    []stake
	direct    []int64
	strangers int64
	idle      int64
}

// up is the queue and those above it.
func (l *lot) up(q int) []int {
	var out []int
	for ; q >= 0; q = l.stakes[q].parent {
		out = append(out, q)
	}
	return out
}

// total is what each subtree has of what is right in each queue.
func (l *lot) total(direct []int64) []int64 {
	out := make([]int64, len(l.stakes))
	for q, n := range direct {
		for _, x := range l.up(q) {
			out[x] += n
		}
	}
	return out
}

// eachTaking visits every way to take single GPUs from queues, the last being those of no queue, that keeps to the caps.
func eachTaking(l *lot, caps []int64, groups [][]int, strangers []int, visit func(taken []int64)) {
	have := append(slices.Clone(l.direct), l.strangers)
	of := append(slices.Clone(groups), strangers)
	left := slices.Clone(caps)
	taken := make([]int64, len(have))
	var next func(q int)
	next = func(q int) {
		if q == len(have) {
			visit(taken)
			return
		}
		next(q + 1)
		if of[q] == nil {
			return
		}
		for taken[q] = 1; taken[q] <= have[q]; taken[q]++ {
			over := false
			for _, g := range of[q] {
				left[g]--
				over = over || left[g] < 0
			}
			if !over {
				next(q + 1)
			} else {
				taken[q]++
				break
			}
		}
		for _, g := range of[q] {
			left[g] += taken[q] - 1
		}
		taken[q] = 0
	}
	next(0)
}

// eachLot visits all trees of so many queues with guarantees up to most that fit in each other and in the capacity, each
// queue with up to held GPUs of its own, and up to 1 idle and 1 of no queue.
func eachLot(queues int, most, held int64, visit func(l *lot)) {
	l := &lot{stakes: make([]stake, queues), direct: make([]int64, queues)}
	var next func(q int)
	next = func(q int) {
		if q < queues {
			for parent := -1; parent < q; parent++ {
				for g := int64(0); g <= most; g++ {
					for n := int64(0); n <= held; n++ {
						l.stakes[q] = stake{parent: parent, weight: 1, Share: Share{Guaranteed: g, Limit: NoLimit}}
						l.direct[q] = n
						next(q + 1)
					}
				}
			}
			return
		}
		below, all := make([]int64, queues), int64(0)
		for _, s := range l.stakes {
			if s.parent >= 0 {
				below[s.parent] += s.Guaranteed
			} else {
				all += s.Guaranteed
			}
		}
		for q := range below {
			if below[q] > l.stakes[q].Guaranteed {
				return
			}
		}
		sum := int64(0)
		for q, n := range l.total(l.direct) {
			l.stakes[q].running = n
			sum += l.direct[q]
		}
		for l.strangers = range int64(2) {
			for l.idle = range int64(2) {
				if sum+l.strangers+l.idle >= all {
					visit(l)
				}
			}
		}
	}
	next(0)
}

// What can be taken is enough for every job that stays within the guarantee of its queue or of one above, if the guarantees
// fit; and whatever is taken, no queue is below its guarantee afterwards that was not before, and those that were have lost
// nothing.
func TestReclaimOnAllSmallTrees(t *testing.T) {
	lots, jobs, takings := 0, 0, 0
	check := func(l *lot) {
		lots++
		for own := range l.stakes {
			for need := int64(1); need <= 4; need++ {
				caps, groups, _, strangers := reclaim(l.stakes, own, need)
				within := slices.ContainsFunc(l.up(own), func(x int) bool { return l.stakes[x].running+need <= l.stakes[x].Guaranteed })
				jobs++
				most := int64(0)
				eachTaking(l, caps, groups, strangers, func(taken []int64) {
					takings++
					sum := int64(0)
					for _, n := range taken {
						sum += n
					}
					most = max(most, sum)
					lost := l.total(taken[:len(l.stakes)])
					for q, s := range l.stakes {
						if lost[q] > 0 && s.running-lost[q] < s.Guaranteed && !slices.Contains(l.up(own), q) {
							t.Fatalf("%+v: queue %d is pushed below its guarantee by %v for %d in queue %d", l, q, taken, need, own)
						}
					}
					if l.idle > 0 || sum != need {
						return
					}
					// Who takes no more than it needs takes between x and the queue above no more than x lacks.
					for _, x := range l.up(own) {
						above, sum := l.stakes[x].parent, int64(0)
						for u, n := range taken {
							var ways []int
							if u < len(l.stakes) {
								ways = l.up(u)
							}
							if !slices.Contains(ways, x) && (above < 0 || slices.Contains(ways, above)) {
								sum += n
							}
						}
						if sum > 0 && sum > l.stakes[x].lacks() {
							t.Fatalf("%+v: %v are taken for %d in queue %d, %d of it in the name of queue %d", l, taken, need, own, sum, x)
						}
					}
				})
				if within && most+l.idle < need {
					t.Fatalf("%+v: queue %d can have %d, is guaranteed %d more", l, own, most+l.idle, need)
				}
				if !slices.ContainsFunc(l.up(own), func(x int) bool { return l.stakes[x].running < l.stakes[x].Guaranteed }) && most > 0 {
					t.Fatalf("%+v: queue %d lacks nothing and may take %d", l, own, most)
				}
			}
		}
	}
	eachLot(1, 4, 3, check)
	eachLot(2, 4, 3, check)
	eachLot(3, 3, 2, check)
	if !testing.Short() {
		eachLot(4, 2, 1, check)
	}
	t.Logf("%d trees, %d jobs, %d ways to take", lots, jobs, takings)
}

// capsOf are what Reclaim says of the queues: the caps, or that nothing may be taken.
func capsOf(r *Reclaim, queues ...string) map[string][]int64 {
	out := map[string][]int64{}
	for _, name := range queues {
		groups, ok := r.Groups(name)
		if !ok {
			continue
		}
		out[name] = []int64{}
		for _, g := range groups {
			out[name] = append(out[name], r.Caps[g]/1000)
		}
		slices.Sort(out[name])
	}
	return out
}

func TestReclaim(t *testing.T) {
	night := q("night", "", 0, 0)
	night.Windows = []Window{{From: 0, To: 7 * 3600, Location: time.UTC, Share: Share{Guaranteed: 8000, Limit: NoLimit}}}
	day := q("day", "", 8, 0)
	day.Windows = []Window{{From: 0, To: 7 * 3600, Location: time.UTC, Share: Share{Limit: NoLimit}}}
	teams := []Spec{q("t", "", 8, 0), q("t1", "t", 4, 0), q("t2", "t", 2, 0), q("u", "", 4, 0), q("u1", "u", 2, 0), q("u2", "u", 0, 0)}
	for name, tc := range map[string]struct {
		queues  []Spec
		running []Claim
		job     Job
		want    map[string][]int64
	}{
		"what others borrowed, down to their guarantee": {
			queues: []Spec{q("a", "", 4, 0), q("b", "", 2, 0), q("c", "", 2, 0)}, running: []Claim{runs("b", 5), runs("c", 2), runs("", 1)},
			job: waits("a", "1", 4).Job, want: map[string][]int64{"b": {3}, "": {}, "deleted": {}},
		},
		"nothing above the guarantee": {
			queues: []Spec{q("a", "", 4, 0), q("b", "", 0, 0)}, running: []Claim{runs("a", 2), runs("b", 5)},
			job: waits("a", "1", 3).Job, want: map[string][]int64{},
		},
		"each queue on the way keeps its guarantee": {
			queues: teams, running: []Claim{runs("u1", 3), runs("u2", 3)},
			job: waits("t1", "1", 4).Job, want: map[string][]int64{"t": {}, "u": {2}, "u1": {1, 2}, "u2": {2, 3}, "": {}, "deleted": {}},
		},
		"a team's guarantee is for all its queues": {
			queues: teams, running: []Claim{runs("t1", 4), runs("u2", 6)},
			job: waits("t1", "1", 4).Job, want: map[string][]int64{"u": {2}, "u2": {2, 6}, "": {}, "deleted": {}},
		},
		"from a queue of the team only, where the team has all it is guaranteed": {
			queues: teams, running: []Claim{runs("t2", 8), runs("u2", 6)},
			job: waits("t1", "1", 4).Job, want: map[string][]int64{"t": {}, "t2": {6}},
		},
		"part from inside of the team, and no more from outside than the team lacks": {
			queues: teams, running: []Claim{runs("t2", 6), runs("u2", 6)},
			job: waits("t1", "1", 4).Job, want: map[string][]int64{"t": {}, "t2": {4}, "u": {2, 2}, "u2": {2, 2, 6}, "": {2}, "deleted": {2}},
		},
		"by night, what is guaranteed by night": { // the tests are at 08:00
			queues: []Spec{night, day}, running: []Claim{runs("night", 8)},
			job: waits("day", "1", 8).Job, want: map[string][]int64{"night": {8}, "": {}, "deleted": {}},
		},
		"what runs of the gang already is not needed again": {
			queues:  []Spec{q("a", "", 4, 0), q("b", "", 0, 0)},
			running: []Claim{{ID: "1", Queue: "a", Class: "T", MilliGPU: 2000, Start: 1}, runs("b", 6)},
			job:     waits("a", "1", 2, members(2)).Job, want: map[string][]int64{"b": {6}, "": {}, "deleted": {}},
		},
		"nothing for a job that has all": {queues: teams, job: waits("t1", "1", 0).Job, want: map[string][]int64{}},
		"nothing for a job of no queue": {
			queues: teams, running: []Claim{runs("u", 9)}, job: waits("", "1", 1).Job, want: map[string][]int64{},
		},
		"nothing for a job of a queue that is not there": {
			queues: teams, running: []Claim{runs("u", 9)}, job: waits("v", "1", 1).Job, want: map[string][]int64{},
		},
		"nothing for no job": {queues: teams, running: []Claim{runs("u", 9)}, want: map[string][]int64{}},
	} {
		t.Run(name, func(t *testing.T) {
			b := bookOf(t, tc.queues, tc.running...)
			r := b.Reclaim(tc.job)
			names := append(b.Tree().Names(), "", "deleted")
			if diff := cmp.Diff(tc.want, capsOf(&r, names...)); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestAnInvalidQueueReclaimsNothing(t *testing.T) {
	tree, problems := NewTree([]Spec{q("a", "", 4, 0), q("b", "", 0, 0), q("a1", "a", 4, 0), q("a2", "a", 1, 0)})
	if len(problems) != 1 || problems[0].Queue != "a2" {
		t.Fatalf("problems: %v", problems)
	}
	b := NewBook()
	b.SetTree(tree)
	b.Advance(turnsNow)
	c := runs("b", 4)
	c.ID = "r"
	b.Set(c)
	r := b.Reclaim(waits("a2", "1", 1).Job)
	if got := capsOf(&r, "b", ""); len(got) > 0 {
		t.Errorf("may take %v", got)
	}
}

func TestReclaimGoesByTheWindowThatIsOpen(t *testing.T) {
	night, day := q("night", "", 0, 0), q("day", "", 8, 0)
	night.Windows = []Window{{From: 0, To: 7 * 3600, Location: time.UTC, Share: Share{Guaranteed: 8000, Limit: NoLimit}}}
	day.Windows = []Window{{From: 0, To: 7 * 3600, Location: time.UTC, Share: Share{Limit: NoLimit}}}
	b := bookOf(t, []Spec{night, day}, runs("day", 8)) // at 08:00
	says := func(want string) {
		t.Helper()
		r := b.Reclaim(waits("night", "1", 8).Job)
		_, ok := r.Groups("day")
		if got := fmt.Sprint(r.Caps, ok); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	says("[] false")
	b.Advance(turnsNow + 15*3600 + 3599)
	says("[] false")
	b.Advance(turnsNow + 16*3600) // midnight
	says("[8000] true")
}
