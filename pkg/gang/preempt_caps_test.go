package gang

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"weft.sh/weft/pkg/quota"
)

// keepsTo reports whether the victims keep to the caps, as documented.
func keepsTo(caps Caps, units []Unit, victims []int) bool {
	for g, most := range caps.MilliGPU {
		taken, largest := int64(0), int64(0)
		for _, v := range victims {
			of := int64(0)
			for _, o := range units[v].Pods {
				if slices.Contains(o.Groups, g) {
					of += o.MilliGPU
				}
			}
			taken, largest = taken+of, max(largest, of)
		}
		if taken > most && (!caps.Straddle || most <= 0 || taken-largest >= most) {
			return false
		}
	}
	return true
}

// relieves reports whether as much leaves of each group as must.
func relieves(caps Caps, units []Unit, victims []int) bool {
	for g, least := range caps.Least {
		for _, v := range victims {
			for _, o := range units[v].Pods {
				if slices.Contains(o.Groups, g) {
					least -= o.MilliGPU
				}
			}
		}
		if least > 0 {
			return false
		}
	}
	return true
}

// cheapestWithin is the least price of a set that makes room within the caps, of all sets; nil when there is none.
func cheapestWithin(p *Problem, priority int32, units []Unit, budgets []int, caps Caps) []int64 {
	var best []int64
	for set := range 1 << len(units) {
		in := func(u int) bool { return set&(1<<u) != 0 }
		var victims []int
		allowed := closedSet(units, in)
		for u := range units {
			if in(u) {
				victims = append(victims, u)
				allowed = allowed && (units[u].Owed || units[u].Priority < priority)
			}
		}
		if !allowed || !keepsTo(caps, units, victims) || !relieves(caps, units, victims) {
			continue
		}
		if c := dumbPrice(units, budgets, victims); (best == nil || slices.Compare(c, best) < 0) && fitsWithout(p, units, victims) {
			best = c
		}
	}
	return best
}

// owe puts the units in queues below one or two others, some of them owed, and makes caps.
func owe(r *rand.Rand, units []Unit) Caps {
	caps := Caps{MilliGPU: []int64{1000 * int64(r.IntN(7)), 1000 * int64(r.IntN(5)), 1000 * int64(r.IntN(5))}}
	for u := range units {
		units[u].Owed = r.IntN(3) > 0
		groups := [][]int{nil, {0}, {0, 1}, {0, 2}}[r.IntN(4)]
		for i := range units[u].Pods {
			o := &units[u].Pods[i]
			o.MilliGPU, o.Groups = 500*int64(1+r.IntN(4)), groups
		}
	}
	return caps
}

// TestCapsAllow: any set of units may leave just where the caps, as documented, say so.
func TestCapsAllow(t *testing.T) {
	yes := 0
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(5, seed))
		units := make([]Unit, 1+r.IntN(5))
		for u := range units {
			units[u].Pods = make([]Occupant, 1+r.IntN(2))
		}
		caps := owe(r, units)
		caps.Straddle = r.IntN(2) == 0
		var set []int
		for u := range units {
			if r.IntN(2) == 0 {
				set = append(set, u)
			}
		}
		want := keepsTo(caps, units, set)
		if got := caps.Allow(units, set); got != want {
			t.Fatalf("seed %d: %v of %+v under %+v: allowed %t, want %t", seed, set, units, caps, got, want)
		}
		if want && len(set) > 1 {
			yes++
		}
	}
	if yes < 20 {
		t.Errorf("only %d sets of several units were allowed", yes)
	}
	if (Caps{}).Allow([]Unit{{Pods: []Occupant{{Groups: []int{0}}}}}, []int{0}) {
		t.Error("a unit of a group without a cap may leave")
	}
}

// Reclaim takes back with the fewest lost hours: on instances of up to 12 units no set of units that keeps to the caps and
// makes room is cheaper.
func TestReclaimLosesTheFewestHours(t *testing.T) {
	for name, tc := range map[string]struct {
		straddle, rack, least bool
		limits                searchLimits
		must                  bool // the optimum is promised
	}{
		"exact":                               {false, false, false, searchLimits{maxExact, maxEffort}, true},
		"exact, in a rack":                    {false, true, false, searchLimits{maxExact, maxEffort}, true},
		"exact, with gangs astride":           {true, false, false, searchLimits{maxExact, maxEffort}, true},
		"exact, below limits":                 {false, false, true, searchLimits{maxExact, maxEffort}, true},
		"exact, below limits, astride, racks": {true, true, true, searchLimits{maxExact, maxEffort}, true},
		"greedily":                            {false, false, false, searchLimits{0, maxEffort}, false},
		"greedily, with gangs astride":        {true, false, false, searchLimits{0, maxEffort}, false},
		"greedily, below limits":              {true, false, true, searchLimits{0, maxEffort}, false},
	} {
		t.Run(name, func(t *testing.T) {
			r := rand.New(rand.NewPCG(5, 7))
			solved, optimal, none, free, missed := 0, 0, 0, 0, 0
			for range 200 {
				town, units, budgets := randomTown(r, 2+r.IntN(4), 9, oneShape)
				if tc.rack {
					town.Required = "rack"
				}
				priority := int32(1 + r.IntN(5))
				units = units[:min(len(units), maxExact)]
				caps := owe(r, units)
				caps.Straddle = tc.straddle
				if tc.least {
					caps.MilliGPU = append(caps.MilliGPU, quota.NoLimit)
					caps.Least = []int64{0, 0, 0, 500 * int64(r.IntN(12))}
					for u := range units {
						for i := range units[u].Pods {
							if o := &units[u].Pods[i]; u%3 > 0 {
								o.Groups = append(slices.Clone(o.Groups), 3)
							}
						}
					}
				}
				res, victims, rejection := makeRoom(&town.Problem, priority, units, budgets, caps, tc.limits)
				want := cheapestWithin(&town.Problem, priority, units, budgets, caps)
				if rejection.OK() != (res != nil) || res == nil && len(victims) > 0 {
					t.Fatalf("result %v, victims %v, rejection %q", res, victims, rejection.Message())
				}
				switch {
				case res == nil && (want == nil || placedMembers(&town.Problem) >= town.Min):
					none++
					continue
				case res == nil && tc.must:
					t.Fatalf("no plan: %s; there is one at the price of %v", rejection.Message(), want)
				case res == nil:
					missed++
					continue
				case len(victims) == 0:
					free++
					continue
				}
				solved++
				if !keepsTo(caps, units, victims) {
					t.Fatalf("victims %v of %+v do not keep to the caps %+v", victims, units, caps)
				}
				// The checks of who leaves are those of Preempt, but for the priority of those that are owed.
				below := slices.Clone(units)
				for u := range below {
					if below[u].Owed {
						below[u].Priority = -1
					}
				}
				if caps.wanting() {
					if !relieves(caps, units, victims) || !caps.Enough(units, victims) || !fitsWithout(&town.Problem, units, victims) {
						t.Fatalf("victims %v of %+v are not enough for %+v", victims, units, caps)
					}
				} else {
					mustBeSound(t, &town.Problem, priority, below, res, victims)
				}
				if got := dumbPrice(units, budgets, victims); slices.Compare(got, want) == 0 {
					optimal++
				} else if tc.must {
					t.Fatalf("victims %v cost %v, the least is %v", victims, got, want)
				}
			}
			t.Logf("%d of %d with victims are optimal; %d need none, %d have no plan, %d were not found", optimal, solved, free, none, missed)
			if solved < 40 || none < 5 {
				t.Errorf("only %d instances had victims, %d no plan", solved, none)
			}
		})
	}
}

func TestReclaim(t *testing.T) {
	day := int64(86_400_000)
	in := func(u Unit, milliGPU int64, groups ...int) Unit {
		u.Owed = true
		for i := range u.Pods {
			u.Pods[i].MilliGPU, u.Pods[i].Groups = milliGPU, groups
		}
		return u
	}
	for name, tc := range map[string]struct {
		units func(t *town) []Unit // of pods of 2 GPUs, a to d, that fill a node each
		caps  Caps
		nodes int // that the gang needs
		want  string
	}{
		"priority protects nobody who borrowed": {
			func(t *town) []Unit { return []Unit{in(t.unit(99, day, "a"), 2000, 0), t.unit(99, 0, "b")} },
			Caps{MilliGPU: []int64{2000}},
			1, "[0]",
		},
		"of those who borrowed the lowest priority goes first": {
			func(t *town) []Unit { return []Unit{in(t.unit(9, 0, "a"), 2000, 0), in(t.unit(8, day, "b"), 2000, 0)} },
			Caps{MilliGPU: []int64{4000}},
			1, "[1]",
		},
		"then who has done least": {
			func(t *town) []Unit { return []Unit{in(t.unit(9, day, "a"), 2000, 0), in(t.unit(9, 1, "b"), 2000, 0)} },
			Caps{MilliGPU: []int64{4000}},
			1, "[1]",
		},
		"no more than a queue borrowed": {
			func(t *town) []Unit {
				return []Unit{in(t.unit(1, 1, "a"), 2000, 0), in(t.unit(1, 2, "b"), 2000, 0), in(t.unit(1, day, "c"), 2000, 1)}
			},
			Caps{MilliGPU: []int64{3000, 2000}},
			2, "[0 2]",
		},
		"nor than the one above it": {
			func(t *town) []Unit {
				return []Unit{in(t.unit(1, 1, "a"), 2000, 0, 2), in(t.unit(1, 2, "b"), 2000, 1, 2), in(t.unit(1, day, "c"), 2000)}
			},
			Caps{MilliGPU: []int64{2000, 2000, 2000}},
			2, "[0 2]",
		},
		"nothing of what is guaranteed": {
			func(t *town) []Unit { return []Unit{in(t.unit(1, 1, "a"), 2000, 0), in(t.unit(1, 1, "b"), 2000, 0)} },
			Caps{MilliGPU: []int64{1999}},
			1, "nor would evicting those who borrowed, down to their guarantees",
		},
		"but from a gang astride the guarantee, if asked to": {
			func(t *town) []Unit { return []Unit{in(t.unit(1, 1, "a"), 2000, 0), in(t.unit(1, 2, "b"), 2000, 0)} },
			Caps{MilliGPU: []int64{1999}, Straddle: true},
			1, "[0]",
		},
		"one such and not two": {
			func(t *town) []Unit { return []Unit{in(t.unit(1, 1, "a"), 2000, 0), in(t.unit(1, 1, "b"), 2000, 0)} },
			Caps{MilliGPU: []int64{1999}, Straddle: true},
			2, "nor would evicting those who borrowed, down to their guarantees",
		},
		"not one of a queue that borrowed nothing": {
			func(t *town) []Unit { return []Unit{in(t.unit(1, 1, "a"), 2000, 0)} },
			Caps{MilliGPU: []int64{0}, Straddle: true},
			1, "nor would evicting those who borrowed, down to their guarantees",
		},
		"nobody of a group without a cap": {
			func(t *town) []Unit { return []Unit{in(t.unit(1, 1, "a"), 2000, 1), in(t.unit(1, 9, "b"), 2000, 0)} },
			Caps{MilliGPU: []int64{2000}},
			1, "[1]",
		},
		"nor with surplus that is more": {
			func(t *town) []Unit {
				rest, surplus := in(t.unit(1, 1, "a"), 2000, 0), in(t.unit(1, 1, "b"), 2000, 0)
				rest.Gang, surplus.Gang, surplus.Surplus = Key{Name: "g"}, Key{Name: "g"}, true
				return []Unit{rest, surplus}
			},
			Caps{MilliGPU: []int64{2000}},
			1, "[1]",
		},
	} {
		t.Run(name, func(t *testing.T) {
			town := newTown(2, 2, 2, 2)
			town.want(tc.nodes, []int{tc.nodes}, whole(2))
			for i, uid := range []string{"a", "b", "c", "d"} {
				if !town.put(uid, i, whole(2)) {
					t.Fatalf("no room for %s", uid)
				}
			}
			_, victims, rejection := Preempt(&town.Problem, 5, tc.units(town), nil, tc.caps)
			got := fmt.Sprint(victims)
			if !rejection.OK() {
				got = rejection.Message()
			}
			if !strings.Contains(got, tc.want) {
				t.Errorf("got %s, want %s", got, tc.want)
			}
		})
	}
}

// A queue below its guarantee gets it back within one pass: what package quota allows to take is enough for Reclaim to make
// room, with the fewest lost hours of all sets that push nobody below a guarantee.
func TestAQueueGetsItsGuaranteeBackInOnePass(t *testing.T) {
	const gpus, now = 10, 1_800_000_000
	r := rand.New(rand.NewPCG(5, 8))
	reclaimed, refused := 0, 0
	for round := range 500 {
		// Guarantees fit in the capacity, those of children in their parent's.
		specs := []quota.Spec{
			{Name: "a", Share: quota.Share{Guaranteed: 1000 * int64(2+r.IntN(5))}},
			{Name: "b", Share: quota.Share{Guaranteed: 1000 * int64(r.IntN(4))}},
		}
		for _, top := range specs {
			half := top.Guaranteed / 2000 * 1000
			specs = append(specs, quota.Spec{Name: top.Name + "1", Parent: top.Name, Share: quota.Share{Guaranteed: half}},
				quota.Spec{Name: top.Name + "2", Parent: top.Name, Share: quota.Share{Guaranteed: top.Guaranteed - half}})
		}
		for i := range specs {
			specs[i].Weight, specs[i].Limit = 1, quota.NoLimit
		}
		tree, problems := quota.NewTree(specs)
		if len(problems) > 0 {
			t.Fatal(problems)
		}
		book := quota.NewBook()
		book.SetTree(tree)
		book.Advance(now)
		town := newTown(slices.Repeat([]int{1}, gpus)...)
		leaves := []string{"a1", "a2", "b1", "b2", ""}
		own := leaves[r.IntN(4)]
		running, queues := map[string]int64{}, []string{}
		var units []Unit
		for g := range gpus - r.IntN(2) {
			uid, queue := fmt.Sprintf("p%d", g), leaves[r.IntN(len(leaves))]
			if queue == own || queue != "" && queue[0] == own[0] && r.IntN(2) == 0 {
				queue = leaves[r.IntN(len(leaves))] // so that the team often lacks something
			}
			town.put(uid, g, whole(1))
			book.Set(quota.Claim{ID: uid, Queue: queue, Class: "T", MilliGPU: 1000, Start: now - 10})
			running[queue] += 1000
			queues = append(queues, queue)
			units = append(units, town.unit(int32(r.IntN(5)), int64(r.IntN(50)), uid))
		}
		need := 1 + r.IntN(4)
		town.want(need, []int{need}, whole(1))
		var job quota.Job
		for m := range need {
			job = append(job, quota.Claim{ID: town.Members[m].UID, Queue: own, MilliGPU: 1000})
		}
		allowed := book.Reclaim(job)
		var candidates []Unit
		var of []string
		for u := range units {
			groups, ok := allowed.Groups(queues[u])
			if !ok {
				continue
			}
			unit := units[u]
			unit.Owed = true
			unit.Pods[0].MilliGPU, unit.Pods[0].Groups = 1000, groups
			candidates, of = append(candidates, unit), append(of, queues[u])
		}
		_, victims, rejection := Preempt(&town.Problem, 0, candidates, nil, Caps{MilliGPU: allowed.Caps})

		has := func(queue string) int64 {
			if len(queue) == 1 {
				return running[queue+"1"] + running[queue+"2"]
			}
			return running[queue]
		}
		within := func(queue string) bool { return has(queue)+int64(need)*1000 <= tree.ShareAt(queue, now).Guaranteed }
		if !rejection.OK() {
			if within(own) || within(own[:1]) || need <= gpus-len(units) {
				t.Fatalf("round %d: %s needs %d, within a guarantee: %s", round, own, need, rejection.Message())
			}
			refused++
			continue
		}
		got, want := dumbPrice(candidates, nil, victims), cheapestWithin(&town.Problem, 0, candidates, nil, Caps{MilliGPU: allowed.Caps})
		if slices.Compare(got, want) != 0 {
			t.Fatalf("round %d: victims %v cost %v, the least is %v", round, victims, got, want)
		}
		if len(victims) == 0 {
			continue
		}
		reclaimed++
		before := map[string]int64{}
		for _, s := range specs {
			before[s.Name] = has(s.Name)
		}
		for _, v := range victims {
			running[of[v]] -= 1000
		}
		running[own] += int64(need) * 1000
		for _, s := range specs {
			if has(s.Name) < min(before[s.Name], s.Guaranteed) {
				t.Fatalf("round %d: %s has %d, is guaranteed %d, had %d", round, s.Name, has(s.Name), s.Guaranteed, before[s.Name])
			}
		}
	}
	t.Logf("%d reclaimed, %d refused", reclaimed, refused)
	if reclaimed < 50 || refused < 50 {
		t.Error("too few of either")
	}
}
