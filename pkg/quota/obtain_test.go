package quota

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// randomLimits is a tree of queues with guarantees that fit, and limits on most of them.
func randomLimits(r *rand.Rand) []Spec {
	specs := []Spec{q("q0", "", 0, 0)}
	for i := 1; i < 3+r.IntN(8); i++ {
		parent := specs[r.IntN(len(specs))].Name
		if r.IntN(6) == 0 {
			parent = ""
		}
		specs = append(specs, q(fmt.Sprint("q", i), parent, 0, 0))
	}
	for i := len(specs) - 1; i >= 0; i-- {
		sum := int64(0)
		for k := range specs {
			if specs[k].Parent == specs[i].Name {
				sum += specs[k].Guaranteed
			}
		}
		specs[i].Guaranteed = sum + 1000*r.Int64N(4)
		if r.IntN(3) > 0 {
			specs[i].Limit = specs[i].Guaranteed + 1000*r.Int64N(4)
		}
	}
	return specs
}

// TestWhatIsGuaranteedCanBeHadBelowLimits: in random trees, filled by pods of one GPU up to the limits, every job that stays within the
// guarantee of its queue, and that only limits hold back, can have enough taken below them; whoever takes no more than
// the caps makes no queue lack anything that it had; and then the job is admitted. A job that may take nothing is told so.
func TestWhatIsGuaranteedCanBeHadBelowLimits(t *testing.T) {
	had, refused := 0, 0
	for seed := range uint64(3000) {
		r := rand.New(rand.NewPCG(seed, 3))
		specs := randomLimits(r)
		b := bookOf(t, specs)
		pods := map[string]string{} // queue by ID
		for i := range 120 {
			c := Claim{ID: fmt.Sprint("p", i), Queue: specs[r.IntN(len(specs))].Name, MilliGPU: 1000, Priority: r.Int32N(3)}
			if r.IntN(20) == 0 {
				c.Queue = ""
			}
			if b.Admit(Job{c}).OK() {
				b.Set(c)
				pods[c.ID] = c.Queue
			}
		}
		var job Job
		own := specs[r.IntN(len(specs))].Name
		for i := range 1 + r.IntN(4) {
			job = append(job, Claim{ID: fmt.Sprint("j", i), Queue: own, MilliGPU: 1000, Priority: 1})
		}
		need := int64(1000 * len(job))
		if b.Admit(job).Reason != OverLimit {
			continue
		}
		standing, _ := b.Standing(own)
		within := standing.Running+need <= standing.Guaranteed
		ok := b.Obtainable(job, false)
		switch {
		case within && !ok:
			t.Fatalf("seed %d: %d in queue %s, within a guarantee, cannot be had: %+v", seed, need, own, b.Admit(job))
		case !ok:
			refused++
			continue
		}
		had++
		before := map[string]int64{}
		for _, s := range specs {
			before[s.Name] = b.queues[s.Name].running.value()
		}
		rec := b.Reclaim(job)
		left, least := slices.Clone(rec.Caps), slices.Clone(rec.Least)
		ids := make([]string, 0, len(pods))
		for id := range pods {
			ids = append(ids, id)
		}
		slices.Sort(ids)
		r.Shuffle(len(ids), func(i, j int) { ids[i], ids[j] = ids[j], ids[i] })
		// Those first that count for the most limits.
		slices.SortStableFunc(ids, func(x, y string) int {
			count := func(id string) (n int) {
				groups, _ := rec.Groups(pods[id])
				for _, g := range groups {
					n += min(1, int(rec.Least[g]))
				}
				return n
			}
			return count(y) - count(x)
		})
		for _, id := range ids {
			groups, may := rec.Groups(pods[id])
			if !may || slices.ContainsFunc(groups, func(g int) bool { return left[g] < 1000 }) ||
				!slices.ContainsFunc(groups, func(g int) bool { return least[g] > 0 }) {
				continue
			}
			for _, g := range groups {
				left[g] -= 1000
				least[g] -= 1000
			}
			b.Delete(id)
		}
		if v := b.Admit(job); !v.OK() {
			t.Fatalf("seed %d: the job is not admitted when all has been taken: %+v; least %v", seed, v, least)
		}
		path := b.Tree().Path(own)
		for _, s := range specs {
			now := b.queues[s.Name].running.value()
			if now < before[s.Name] && now < s.Guaranteed && !slices.Contains(path, s.Name) {
				t.Fatalf("seed %d: queue %s has %d of its guaranteed %d, and had %d", seed, s.Name, now, s.Guaranteed, before[s.Name])
			}
		}
	}
	t.Logf("%d jobs could be had, %d not", had, refused)
	if had < 100 || refused < 100 {
		t.Errorf("only %d jobs could be had, %d not", had, refused)
	}
}

func TestObtainable(t *testing.T) {
	specs := []Spec{q("org", "", 8, 8), q("a", "org", 4, 0), q("b", "org", 4, 0), q("c", "", 0, 2)}
	for name, tc := range map[string]struct {
		runs  []Claim
		job   Job
		never bool
		want  bool
	}{
		"what others borrowed of a guarantee": {
			[]Claim{{Queue: "b", MilliGPU: 8000}}, Job{{ID: "j", Queue: "a", MilliGPU: 4000}}, true, true,
		},
		"nothing that others are guaranteed": {
			[]Claim{{Queue: "b", MilliGPU: 4000}, {Queue: "a", MilliGPU: 4000}}, Job{{ID: "j", Queue: "a", MilliGPU: 1000}}, true, false,
		},
		"not for more than is guaranteed": {
			[]Claim{{Queue: "b", MilliGPU: 8000}}, Job{{ID: "j", Queue: "a", MilliGPU: 5000}}, true, false,
		},
		"those of lower priority of its own queue": {
			[]Claim{{Queue: "c", MilliGPU: 1000}, {Queue: "c", MilliGPU: 1000, Priority: 5}},
			Job{{ID: "j", Queue: "c", MilliGPU: 1000, Priority: 5}},
			false, true,
		},
		"only as many as there are": {
			[]Claim{{Queue: "c", MilliGPU: 1000}, {Queue: "c", MilliGPU: 1000, Priority: 5}},
			Job{{ID: "j", Queue: "c", MilliGPU: 2000, Priority: 5}},
			false, false,
		},
		"nobody by priority who preempts nobody": {
			[]Claim{{Queue: "c", MilliGPU: 2000}}, Job{{ID: "j", Queue: "c", MilliGPU: 1000, Priority: 5}}, true, false,
		},
		"not where there is room": {
			[]Claim{{Queue: "b", MilliGPU: 7000}}, Job{{ID: "j", Queue: "a", MilliGPU: 1000}}, true, false,
		},
		"not what never fits": {
			[]Claim{{Queue: "c", MilliGPU: 2000}}, Job{{ID: "j", Queue: "c", MilliGPU: 3000, Priority: 5}}, false, false,
		},
	} {
		t.Run(name, func(t *testing.T) {
			if got := bookOf(t, specs, tc.runs...).Obtainable(tc.job, !tc.never); got != tc.want {
				t.Errorf("obtainable: %t, want %t", got, tc.want)
			}
		})
	}
}

// Whoever was told to leave and does not gives no room, and is not made up for by what its queue is guaranteed.
func TestReclaimWithPodsThatLinger(t *testing.T) {
	b := bookOf(t, []Spec{q("org", "", 8, 8), q("a", "org", 4, 0), q("b", "org", 4, 0)}, Claim{Queue: "b", MilliGPU: 5000})
	r := b.Reclaim(Job{{ID: "j", Queue: "a", MilliGPU: 2000}}, Claim{ID: "stays", Queue: "b", MilliGPU: 3000})
	groups, ok := r.Groups("b")
	if !ok {
		t.Fatal("nothing may be taken from b")
	}
	most, least := NoLimit, int64(0)
	for _, g := range groups {
		most, least = min(most, r.Caps[g]), max(least, r.Least[g])
	}
	if most != 1000 || least != 2000 {
		t.Errorf("%d may be taken and %d must be, want 1000 and 2000", most, least)
	}
}

// Priority decides within the job's queue and, of those below it, about what they have above their guarantees; for a job of no queue among
// those of none.
func TestRanked(t *testing.T) {
	b := bookOf(t, []Spec{q("org", "", 8, 0), q("lean", "org", 4, 0), q("fat", "org", 2, 0), q("other", "", 0, 0)},
		Claim{Queue: "lean", MilliGPU: 4000}, Claim{Queue: "fat", MilliGPU: 5000}, Claim{Queue: "other", MilliGPU: 1000})
	for _, of := range []string{"org", ""} {
		r := b.Reclaim(Job{{ID: "j", Queue: of, MilliGPU: 1000}})
		for queue, want := range map[string]bool{"org": of == "org", "lean": false, "fat": of == "org", "other": false, "": of == ""} {
			groups, ok := r.Ranked(queue)
			if ok != want {
				t.Errorf("a pod of queue %q may leave by priority for one of %q: %t, want %t", queue, of, ok, want)
			}
			if queue == "fat" && ok && (len(groups) != 1 || r.Caps[groups[0]] != 3000) {
				t.Errorf("of queue fat %v of %v may leave, want 3000", groups, r.Caps)
			}
		}
	}
}
