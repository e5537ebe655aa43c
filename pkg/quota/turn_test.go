package quota

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// turnsNow is when the tests of turns and of reclaim are.
const turnsNow = 1_800_000_000

// q is a queue with whole GPUs, of weight 1; a limit of 0 is none.
func q(name, parent string, guaranteed, limit int64) Spec {
	s := Spec{Name: name, Parent: parent, Weight: 1, Share: Share{Guaranteed: 1000 * guaranteed, Limit: 1000 * limit}}
	if limit == 0 {
		s.Limit = NoLimit
	}
	return s
}

func weighing(s Spec, weight int64) Spec {
	s.Weight = weight
	return s
}

// runs is a claim that runs, of class T and nobody knows how long.
func runs(queue string, gpus int64) Claim {
	return Claim{Queue: queue, Class: "T", MilliGPU: 1000 * gpus, Rate: 1000 * gpus, Start: turnsNow - 60}
}

// bookOf is a book with these queues, which must be sound, and claims.
func bookOf(t testing.TB, specs []Spec, claims ...Claim) *Book {
	t.Helper()
	tree, problems := NewTree(specs)
	if len(problems) > 0 {
		t.Fatalf("queues: %v", problems)
	}
	b := NewBook()
	b.SetTree(tree)
	b.Advance(turnsNow)
	for i, c := range claims {
		if c.ID == "" {
			c.ID = fmt.Sprintf("r%d", i)
		}
		b.Set(c)
	}
	return b
}

// waits is one pod that waits; the ID says in which order it came.
func waits(queue, id string, gpus int64, change ...func(*Waiting)) Waiting {
	w := Waiting{Job: Job{{ID: id, Queue: queue, MilliGPU: 1000 * gpus, Rate: 1000 * gpus, Queued: turnsNow - 1000 + int64(len(id))}}}
	for _, f := range change {
		f(&w)
	}
	return w
}

func stuck(w *Waiting) { w.Stuck = true }

func priority(p int32) func(*Waiting) { return func(w *Waiting) { w.Job[0].Priority = p } }

func age(seconds int64) func(*Waiting) {
	return func(w *Waiting) { w.Job[0].Queued = turnsNow - seconds }
}

func lasts(seconds int64) func(*Waiting) { return func(w *Waiting) { w.Job[0].Runtime = seconds } }

func on(classes ...string) func(*Waiting) { return func(w *Waiting) { w.Classes = classes } }

func endsIn(c Claim, in int64) Claim {
	c.Runtime = turnsNow - c.Start + in
	return c
}

// members makes a gang of the pod.
func members(n int) func(*Waiting) {
	return func(w *Waiting) {
		for i := 1; i < n; i++ {
			c := w.Job[0]
			c.ID = fmt.Sprintf("%s-%d", c.ID, i)
			w.Job = append(w.Job, c)
		}
	}
}

func TestTurns(t *testing.T) {
	throttledQueue := q("poor", "", 2, 0)
	throttledQueue.Budget = &Budget{MilliGPUSeconds: 0, Enforcement: Throttle}
	flat := []Spec{q("a", "", 0, 0), q("b", "", 0, 0)}
	for name, tc := range map[string]struct {
		queues   []Spec
		running  []Claim
		capacity map[string]int64 // GPUs; idle is what claims leave of it
		waiting  []Waiting
		want     []string
	}{
		"nobody waits": {queues: flat, capacity: map[string]int64{"T": 4}, want: nil},
		"all that fit may": {
			queues: flat, capacity: map[string]int64{"T": 4},
			waiting: []Waiting{waits("a", "1", 2), waits("b", "2", 2)}, want: []string{"1", "2"},
		},
		"the queue that has less goes first": {
			queues: flat, capacity: map[string]int64{"T": 4}, running: []Claim{runs("a", 2)},
			waiting: []Waiting{waits("a", "1", 2), waits("b", "2", 2)}, want: []string{"2"},
		},
		"one after the other, so that they are even": {
			queues: flat, capacity: map[string]int64{"T": 4},
			waiting: []Waiting{
				waits("a", "1", 1), waits("a", "2", 1), waits("a", "3", 1), waits("a", "4", 1), waits("b", "5", 1), waits("b", "6", 1),
			},
			want: []string{"1", "2", "5", "6"},
		},
		"weights count": {
			queues: []Spec{q("a", "", 0, 0), weighing(q("b", "", 0, 0), 3)}, capacity: map[string]int64{"T": 4},
			waiting: []Waiting{waits("a", "1", 1), waits("a", "2", 1), waits("b", "3", 1), waits("b", "4", 1), waits("b", "5", 1), waits("b", "6", 1)},
			want:    []string{"1", "3", "4", "5"},
		},
		"a guarantee goes before a smaller share": {
			queues: []Spec{q("a", "", 4, 0), q("b", "", 0, 0)}, capacity: map[string]int64{"T": 5}, running: []Claim{runs("a", 3)},
			waiting: []Waiting{waits("b", "1", 1), waits("b", "2", 1), waits("a", "3", 1)}, want: []string{"1", "3"},
		},
		"a guarantee is lent while nobody wants it": {
			queues: []Spec{q("a", "", 4, 0), q("b", "", 0, 0)}, capacity: map[string]int64{"T": 4},
			waiting: []Waiting{waits("b", "1", 2), waits("b", "2", 2)}, want: []string{"1", "2"},
		},
		"and may be had when nothing is idle, as far as it goes": {
			queues: []Spec{q("a", "", 4, 0), q("b", "", 0, 0)}, capacity: map[string]int64{"T": 4}, running: []Claim{runs("b", 4)},
			waiting: []Waiting{waits("a", "1", 2), waits("a", "2", 2), waits("a", "3", 1), waits("a", "4", 1), waits("b", "5", 1)},
			// 3 and 5 are the first of their queues that have no room, and may see whom they can preempt.
			want: []string{"1", "2", "3", "5"},
		},
		"a job that is more than the guarantee does not take another's": {
			queues: []Spec{q("a", "", 2, 0), q("b", "", 2, 0)}, capacity: map[string]int64{"T": 4},
			waiting: []Waiting{waits("a", "1", 4), waits("b", "2", 2)}, want: []string{"2"},
		},
		"what is above the guarantee counts, not what is below": {
			queues: []Spec{q("a", "", 6, 0), q("b", "", 0, 0)}, capacity: map[string]int64{"T": 10}, running: []Claim{runs("a", 7), runs("b", 2)},
			waiting: []Waiting{waits("b", "1", 1), waits("a", "2", 1)}, want: []string{"2"},
		},
		"level by level: a team with many queues gets no more": {
			queues:   []Spec{q("t", "", 0, 0), q("t1", "t", 0, 0), q("t2", "t", 0, 0), q("t3", "t", 0, 0), q("u", "", 0, 0)},
			capacity: map[string]int64{"T": 4},
			waiting: []Waiting{
				waits("t1", "1", 1), waits("t2", "2", 1), waits("t3", "3", 1), waits("u", "4", 1), waits("u", "5", 1), waits("u", "6", 1),
			},
			want: []string{"1", "2", "4", "5"},
		},
		"jobs right in a queue compete with those below it": {
			queues: []Spec{q("t", "", 0, 0), q("t1", "t", 0, 0)}, capacity: map[string]int64{"T": 5}, running: []Claim{runs("t", 2), runs("t1", 1)},
			waiting: []Waiting{waits("t", "1", 1), waits("t1", "2", 1), waits("t1", "3", 1)}, want: []string{"2", "3"},
		},
		"a limit is not passed, nor that of a queue above, and others go on": {
			queues:   []Spec{q("t", "", 0, 3), q("t1", "t", 0, 2), q("t2", "t", 0, 0), q("u", "", 0, 0)},
			capacity: map[string]int64{"T": 9},
			waiting: []Waiting{
				waits("t1", "1", 2), waits("t1", "2", 1), waits("t2", "3", 1), waits("t2", "4", 1), waits("u", "5", 4), waits("u", "6", 1),
			},
			want: []string{"1", "3", "5", "6"},
		},
		"priority, then age, then ID": {
			queues: flat, capacity: map[string]int64{"T": 3},
			waiting: []Waiting{
				waits("a", "d", 1, age(10)), waits("a", "c", 1, age(10)), waits("a", "b", 1, age(20)), waits("a", "a", 1, age(1), priority(1)),
			},
			want: []string{"c", "b", "a"},
		},
		"a job that has no room blocks no other queue": {
			queues: flat, capacity: map[string]int64{"T": 8}, running: []Claim{runs("b", 4)},
			waiting: []Waiting{waits("a", "1", 8), waits("b", "2", 4)}, want: []string{"1", "2"},
		},
		"what is idle is kept for a large job whose turn will come": {
			queues: flat, capacity: map[string]int64{"T": 8}, running: []Claim{endsIn(runs("a", 4), 100)},
			waiting: []Waiting{waits("a", "1", 8), waits("a", "2", 4), waits("a", "3", 4, lasts(101))}, want: []string{"1"},
		},
		"but who ends before its turn may use it": {
			queues: flat, capacity: map[string]int64{"T": 8}, running: []Claim{endsIn(runs("a", 4), 100)},
			waiting: []Waiting{waits("a", "1", 8), waits("a", "2", 4), waits("a", "3", 4, lasts(100))}, want: []string{"1", "3"},
		},
		"and other queues, whose turn it is": {
			queues: flat, capacity: map[string]int64{"T": 8}, running: []Claim{endsIn(runs("a", 4), 100)},
			waiting: []Waiting{waits("a", "1", 8), waits("a", "2", 4), waits("b", "3", 2)}, want: []string{"1", "3"},
		},
		"and who is of a class that it does not wait for": {
			queues: flat, capacity: map[string]int64{"T": 8, "U": 4}, running: []Claim{endsIn(runs("a", 4), 100)},
			waiting: []Waiting{waits("a", "1", 8, on("T")), waits("a", "2", 4, on("T")), waits("a", "3", 4)}, want: []string{"1", "3"},
		},
		"nothing is kept for a job of which nobody knows when it has room": {
			queues: flat, capacity: map[string]int64{"T": 8}, running: []Claim{runs("a", 4)},
			waiting: []Waiting{waits("a", "1", 8), waits("a", "2", 4)}, want: []string{"1", "2"},
		},
		"nor for one that is larger than all there is": {
			queues: flat, capacity: map[string]int64{"T": 8}, running: []Claim{endsIn(runs("a", 4), 100)},
			waiting: []Waiting{waits("a", "1", 9), waits("a", "2", 4)}, want: []string{"1", "2"},
		},
		"nor for one that found no place although enough is idle": {
			queues: flat, capacity: map[string]int64{"T": 8}, running: []Claim{endsIn(runs("a", 4), 100)},
			waiting: []Waiting{waits("a", "1", 4, stuck), waits("a", "2", 4)}, want: []string{"2"},
		},
		"it is kept for one that is stuck because too little is idle": {
			queues: flat, capacity: map[string]int64{"T": 8}, running: []Claim{endsIn(runs("a", 4), 100)},
			waiting: []Waiting{waits("a", "1", 8, stuck), waits("a", "2", 4)}, want: nil,
		},
		"who is stuck may try what all others leave": {
			queues: flat, capacity: map[string]int64{"T": 8},
			waiting: []Waiting{waits("a", "1", 5, stuck), waits("a", "2", 4, stuck), waits("b", "3", 4), waits("b", "4", 6, stuck)},
			want:    []string{"2", "3"},
		},
		"of each queue the first may try when nothing is idle": {
			queues: flat, capacity: map[string]int64{"T": 8}, running: []Claim{runs("a", 8)},
			waiting: []Waiting{waits("a", "1", 1, stuck), waits("a", "2", 1), waits("a", "3", 1, priority(2)), waits("b", "4", 1)},
			want:    []string{"3", "4"},
		},
		"not one that only lost its turn": {
			queues: flat, capacity: map[string]int64{"T": 2}, running: []Claim{runs("a", 1)},
			waiting: []Waiting{waits("a", "1", 1), waits("b", "2", 1)}, want: []string{"2"},
		},
		"the dominant share counts: half of the few against a tenth of the many": {
			queues: flat, capacity: map[string]int64{"T": 10, "H": 2},
			running: []Claim{{Queue: "a", Class: "H", MilliGPU: 1000}, runs("b", 1), runs("b", 1)},
			waiting: []Waiting{waits("a", "1", 8, on("T")), waits("b", "2", 8, on("T"))}, want: []string{"2"},
		},
		"a job may spread over the classes that it can run on, but no pod does": {
			queues: flat, capacity: map[string]int64{"T": 4, "H": 2},
			waiting: []Waiting{waits("a", "1", 6), waits("b", "2", 2, members(3)), waits("b", "3", 1, on("nobody has it"))},
			want:    []string{"1", "2", "3"}, // 1 and 3 have no room even alone
		},
		"jobs of no queue are never held back, those of an unknown one always": {
			queues: flat, capacity: map[string]int64{"T": 1}, running: []Claim{runs("a", 1)},
			waiting: []Waiting{waits("", "1", 1), waits("", "2", 1), waits("c", "3", 1), waits("a", "4", 0)}, want: []string{"1", "2", "4"},
		},
		"members that have their place need nothing any more": {
			queues: flat, capacity: map[string]int64{"T": 4}, running: []Claim{{ID: "1", Queue: "a", Class: "T", MilliGPU: 3000, Start: 1}},
			waiting: []Waiting{waits("a", "1", 3, func(w *Waiting) {
				w.Job = append(w.Job, Claim{ID: "1-1", Queue: "a", MilliGPU: 1000, Queued: 1})
			})},
			want: []string{"1"},
		},
		"a queue without budget comes after all others, with its guarantee and no more": {
			queues: []Spec{throttledQueue, q("b", "", 0, 0)}, capacity: map[string]int64{"T": 5}, running: []Claim{runs("b", 2)},
			waiting: []Waiting{waits("poor", "1", 1), waits("poor", "2", 1), waits("poor", "3", 1), waits("b", "4", 1)},
			want:    []string{"1", "2", "4"},
		},
		"and after all others, when there is not enough": {
			queues: []Spec{throttledQueue, q("b", "", 0, 0)}, capacity: map[string]int64{"T": 5}, running: []Claim{runs("b", 3)},
			waiting: []Waiting{waits("poor", "1", 1, stuck), waits("b", "4", 1), waits("b", "5", 1)},
			want:    []string{"4", "5"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := bookOf(t, tc.queues, tc.running...)
			c := Contest{Capacity: map[string]int64{}, Idle: map[string]int64{}, Waiting: tc.waiting}
			for class, n := range tc.capacity {
				c.Capacity[class], c.Idle[class] = 1000*n, 1000*n
			}
			for _, r := range tc.running {
				c.Idle[r.Class] -= r.MilliGPU
			}
			var got []string
			for i, may := range b.Turns(c) {
				if may {
					got = append(got, tc.waiting[i].Job[0].ID)
				}
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			// In any order, the answer is the same.
			slices.Reverse(c.Waiting)
			var again []string
			for i, may := range b.Turns(c) {
				if may {
					again = append(again, c.Waiting[i].Job[0].ID)
				}
			}
			slices.Reverse(again)
			if diff := cmp.Diff(got, again); diff != "" {
				t.Errorf("in reverse (-first +again)\n%s", diff)
			}
		})
	}
}
