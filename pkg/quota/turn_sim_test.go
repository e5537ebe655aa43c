package quota

import (
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// yard is a cluster on which jobs arrive, start when it is their turn and there is room, and end.
type yard struct {
	*Book
	t        *testing.T
	capacity map[string]int64
	idle     map[string]int64
	now      int64
	waiting  []Waiting
	running  map[string]int64 // the job's true end, by ID
	count    int
	// started is called for each job that starts.
	started func(w *Waiting)
}

func newYard(t *testing.T, capacity map[string]int64, specs ...Spec) *yard {
	y := &yard{
		Book: bookOf(t, specs), t: t, capacity: capacity, idle: map[string]int64{}, now: turnsNow, running: map[string]int64{},
	}
	maps.Copy(y.idle, capacity)
	return y
}

// arrive makes a job wait that is to run so long, and says so if it is told.
func (y *yard) arrive(queue string, gpus, seconds int64, told bool, change ...func(*Waiting)) {
	y.count++
	w := waits(queue, fmt.Sprintf("%09d", y.count), gpus, change...)
	for i := range w.Job {
		w.Job[i].Queued = y.now
		y.running[w.Job[i].ID] = -seconds
		if told {
			w.Job[i].Runtime = seconds
		}
	}
	y.waiting = append(y.waiting, w)
}

// turn lets start what may and has room, in the order in which it waits, until nothing does.
func (y *yard) turn() {
	for again := true; again; {
		again = false
		may := y.Turns(Contest{Capacity: y.capacity, Idle: y.idle, Waiting: y.waiting})
		still := y.waiting[:0]
		for i := range y.waiting {
			w := y.waiting[i]
			if !may[i] || !y.start(&w) {
				still = append(still, w)
				continue
			}
			again = true
		}
		y.waiting = still
	}
}

func (y *yard) start(w *Waiting) bool {
	classes := w.Classes
	if classes == nil {
		for class := range y.capacity {
			classes = append(classes, class)
		}
		slices.Sort(classes)
	}
	idle := map[string]int64{}
	maps.Copy(idle, y.idle)
	job := slices.Clone(w.Job)
	for i := range job {
		k := slices.IndexFunc(classes, func(class string) bool { return idle[class] >= job[i].MilliGPU })
		if k < 0 {
			return false
		}
		job[i].Class, job[i].Start = classes[k], y.now
		idle[classes[k]] -= job[i].MilliGPU
	}
	if v := y.Admit(job); !v.OK() {
		y.t.Fatalf("job %s of queue %s starts, and is not admitted: %+v", job[0].ID, job[0].Queue, v)
	}
	y.idle = idle
	for _, c := range job {
		y.Set(c)
		y.running[c.ID] = y.now - y.running[c.ID]
	}
	if y.started != nil {
		y.started(w)
	}
	return true
}

// tick goes to the next moment at which a job ends, false when none runs.
func (y *yard) tick() bool {
	next := int64(math.MaxInt64)
	for _, end := range y.running {
		if end > 0 {
			next = min(next, end)
		}
	}
	if next == math.MaxInt64 {
		return false
	}
	y.now = next
	for id, end := range y.running {
		if end == next {
			c, _ := y.Holder(id)
			y.idle[c.Class] += c.MilliGPU
			y.Delete(id)
			delete(y.running, id)
		}
	}
	y.Advance(y.now)
	return true
}

func (y *yard) runs(queue string) int64 {
	s, _ := y.Standing(queue)
	return s.Running
}

func TestSharesConvergeToTheWeights(t *testing.T) {
	// Jobs are of 1 or 2 GPUs, so that a queue can be as near to its part as one large job.
	const bound = 2.0 / 64
	for name, tc := range map[string]struct {
		specs []Spec
		want  map[string]float64 // of what the queues have together, for those that always have jobs
	}{
		"flat": {
			[]Spec{q("a", "", 0, 0), weighing(q("b", "", 0, 0), 2), weighing(q("c", "", 0, 0), 3)},
			map[string]float64{"a": 1.0 / 6, "b": 2.0 / 6, "c": 3.0 / 6},
		},
		"a tree": {
			[]Spec{
				weighing(q("x", "", 0, 0), 3), weighing(q("x1", "x", 0, 0), 2), q("x2", "x", 0, 0),
				q("y", "", 0, 0), q("y1", "y", 0, 0), q("y2", "y", 0, 0),
			},
			map[string]float64{"x1": 0.5, "x2": 0.25, "y1": 0.125, "y2": 0.125},
		},
		"above the guarantees": { // 64 GPUs, of which 16 and 8 are guaranteed; the 40 others are shared 1 : 1 : 2
			[]Spec{q("a", "", 16, 0), q("b", "", 8, 0), weighing(q("c", "", 0, 0), 2)},
			map[string]float64{"a": 26.0 / 64, "b": 18.0 / 64, "c": 20.0 / 64},
		},
		"what a limit leaves goes to the others": {
			[]Spec{weighing(q("a", "", 0, 8), 9), q("b", "", 0, 0), weighing(q("c", "", 0, 0), 3)},
			map[string]float64{"a": 8.0 / 64, "b": 14.0 / 64, "c": 42.0 / 64},
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := rand.New(rand.NewPCG(5, 2))
			y := newYard(t, map[string]int64{"T": 64_000}, tc.specs...)
			used, total := map[string]float64{}, 0.0
			waiting := map[string]int{}
			y.started = func(w *Waiting) { waiting[w.Job[0].Queue]-- }
			for step := range 3000 {
				for _, s := range tc.specs {
					for ; tc.want[s.Name] > 0 && waiting[s.Name] < 12; waiting[s.Name]++ {
						y.arrive(s.Name, 1+int64(r.IntN(2)), 100+int64(r.IntN(900)), r.IntN(2) == 0)
					}
				}
				y.turn()
				before := y.now
				y.tick()
				if step < 300 {
					continue
				}
				for queue := range tc.want {
					part := float64(y.now-before) * float64(y.runs(queue))
					used[queue] += part
					total += part
				}
			}
			for queue, want := range tc.want {
				got := used[queue] / total
				t.Logf("%s has %.4f, its weight says %.4f", queue, got, want)
				if math.Abs(got-want) > bound {
					t.Errorf("%s has %.4f, want %.4f within %.4f", queue, got, want, bound)
				}
			}
		})
	}
}

func TestDominantSharesAreEven(t *testing.T) {
	// 48 of one model and 16 of another. Who can use only one model is measured by that, so that both have the same part of
	// theirs; the third uses both and must have as much of its dominant one.
	r := rand.New(rand.NewPCG(5, 3))
	y := newYard(t, map[string]int64{"H": 16_000, "T": 48_000}, q("a", "", 0, 0), q("b", "", 0, 0), q("c", "", 0, 0))
	waiting := map[string]int{}
	y.started = func(w *Waiting) { waiting[w.Job[0].Queue+w.Classes[0]]-- }
	parts, total := map[string]float64{}, 0.0
	for step := range 3000 {
		for _, k := range []string{"aT", "bH", "cT", "cH"} {
			for ; waiting[k] < 8; waiting[k]++ {
				y.arrive(k[:1], 1, 100+int64(r.IntN(400)), false, on(k[1:]))
			}
		}
		y.turn()
		before := y.now
		y.tick()
		if step < 300 {
			continue
		}
		total += float64(y.now - before)
		for _, queue := range []string{"a", "b", "c"} {
			s, _ := y.Standing(queue)
			for class, n := range s.RunningByClass {
				parts[queue+class] += float64(y.now-before) * float64(n) / float64(y.capacity[class])
			}
		}
	}
	for k := range parts {
		parts[k] /= total
	}
	t.Log(parts)
	a, b, c := parts["aT"], parts["bH"], max(parts["cT"], parts["cH"])
	if math.Abs(a-b) > 0.05 || math.Abs(a-c) > 0.05 || a+parts["cT"] < 0.97 || b+parts["cH"] < 0.97 {
		t.Errorf("dominant shares %.3f, %.3f, %.3f, want the same within 0.05 and nothing idle", a, b, c)
	}
}

func TestAGuaranteeIsLentAndThenFirstInLine(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 4))
	y := newYard(t, map[string]int64{"T": 32_000}, q("owner", "", 12, 0), q("b", "", 0, 0), weighing(q("c", "", 4, 0), 5))
	waiting := map[string]int{}
	y.started = func(w *Waiting) {
		queue := w.Job[0].Queue
		waiting[queue]--
		if queue == "b" || queue == "c" && y.runs("c") > 4_000 {
			for i := range y.waiting {
				o := &y.waiting[i]
				_, started := y.Holder(o.Job[0].ID)
				if o.Job[0].Queue == "owner" && !started && y.runs("owner")+o.Job[0].MilliGPU <= 12_000 {
					t.Fatalf("queue %s starts above its guarantee, and the owner of 12 has %d", queue, y.runs("owner"))
				}
			}
		}
	}
	fill := func(queues ...string) {
		for _, queue := range queues {
			for ; waiting[queue] < 20; waiting[queue]++ {
				y.arrive(queue, 1, 100+int64(r.IntN(300)), false)
			}
		}
	}
	for range 200 {
		fill("b", "c")
		y.turn()
		if y.idle["T"] > 0 {
			t.Fatalf("%d idle, and others wait for them", y.idle["T"])
		}
		y.tick()
	}
	if y.runs("owner") > 0 {
		t.Fatal("the owner has jobs")
	}
	ends := 0
	for ; y.runs("owner") < 12_000; ends++ {
		fill("owner", "b", "c")
		y.turn()
		y.tick()
	}
	t.Logf("the owner had its 12 after jobs ended at %d moments", ends)
	if ends > 16 {
		t.Errorf("the owner had its guarantee after jobs ended at %d moments, want at most 16", ends)
	}
}

func TestALargeGangDoesNotStarve(t *testing.T) {
	for name, tc := range map[string]struct {
		gang     func(*Waiting)
		gpus     int64
		told     bool
		starts   bool
		overtake bool // small ones start while the gang waits
	}{
		"it starts as soon as what ran when it came has ended":         {members(4), 4, true, true, true},
		"where nobody says how long, nothing stays idle for it":        {members(4), 4, false, false, true},
		"one that will never have room does not make anybody wait":     {members(5), 4, true, false, true},
		"a gang that is small enough needs no help, whatever is known": {members(1), 1, false, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			r := rand.New(rand.NewPCG(5, 5))
			y := newYard(t, map[string]int64{"T": 16_000}, q("a", "", 0, 0))
			small := 0
			var gang string
			gangAt, others := int64(0), 0
			y.started = func(w *Waiting) {
				if w.Job[0].ID == gang {
					gangAt = y.now
					return
				}
				small--
				if gang != "" && gangAt == 0 {
					others++
				}
			}
			deadline := int64(0)
			for step := range 600 {
				for ; small < 20; small++ {
					y.arrive("a", 1+int64(r.IntN(3)), 100+int64(r.IntN(900)), tc.told)
				}
				if step == 50 {
					y.arrive("a", tc.gpus, 500, tc.told, tc.gang)
					w := &y.waiting[len(y.waiting)-1]
					for i := range w.Job {
						w.Job[i].Priority = 1 // so that it is the next
					}
					gang = w.Job[0].ID
					for _, end := range y.running {
						deadline = max(deadline, end)
					}
				}
				y.turn()
				y.tick()
			}
			t.Logf("gang at %d, deadline %d; %d others started while it waited", gangAt, deadline, others)
			switch {
			case tc.starts && (gangAt == 0 || gangAt > deadline):
				t.Errorf("the gang started at %d, want by %d", gangAt, deadline)
			case !tc.starts && gangAt > 0:
				t.Error("the gang started; it was not to have room")
			case tc.gpus > 1 && tc.overtake && others == 0:
				t.Error("nobody used what was idle")
			}
		})
	}
}

func BenchmarkTurns(b *testing.B) {
	// 1,000 queues: 10 at the top, each with 9 below, each with 5, of which one has 10.
	var specs []Spec
	var leaves []string
	add := func(name, parent string) string {
		s := weighing(q(name, parent, 0, 0), int64(1+len(specs)%4))
		s.Guaranteed = int64(len(specs)%3) * 100
		if parent == "" {
			s.Guaranteed = 100_000
		}
		specs = append(specs, s)
		return name
	}
	for i := range 10 {
		top := add(fmt.Sprintf("q%d", i), "")
		for j := range 9 {
			mid := add(fmt.Sprintf("%s-%d", top, j), top)
			for k := range 5 {
				low := add(fmt.Sprintf("%s-%d", mid, k), mid)
				if k > 0 {
					leaves = append(leaves, low)
					continue
				}
				for l := range 5 {
					leaves = append(leaves, add(fmt.Sprintf("%s-%d", low, l), low))
				}
			}
		}
	}
	for i := range specs {
		if specs[i].Parent != "" {
			specs[i].Guaranteed = 0
		}
	}
	classes := []string{"A", "B", "C", "D"}
	r := rand.New(rand.NewPCG(5, 6))
	for _, idle := range []int64{0, 100, 10_000} {
		for _, told := range []bool{false, true} {
			b.Run(fmt.Sprintf("queues=%d/waiting=50000/idle=%d/told=%v", len(specs), idle, told), func(b *testing.B) {
				var claims []Claim
				for i := range 20_000 {
					c := Claim{Queue: leaves[r.IntN(len(leaves))], Class: classes[i%4], MilliGPU: 1000, Start: turnsNow - 100}
					if told {
						c.Runtime = 200 + int64(r.IntN(10_000))
					}
					claims = append(claims, c)
				}
				book := bookOf(b, specs, claims...)
				c := Contest{Capacity: map[string]int64{}, Idle: map[string]int64{}}
				for _, class := range classes {
					c.Capacity[class], c.Idle[class] = 5_000_000+250*idle, 250*idle
				}
				for i := range 50_000 {
					w := waits(leaves[r.IntN(len(leaves))], fmt.Sprintf("w%d", i), int64(1+r.IntN(8)),
						age(int64(r.IntN(100_000))), priority(int32(r.IntN(3))))
					if k := r.IntN(6); k < 4 {
						w.Classes = classes[k : k+1]
					}
					c.Waiting = append(c.Waiting, w)
				}
				b.ReportAllocs()
				may := 0
				for b.Loop() {
					may = 0
					for _, ok := range book.Turns(c) {
						if ok {
							may++
						}
					}
				}
				b.ReportMetric(float64(may), "jobs")
			})
		}
	}
}
