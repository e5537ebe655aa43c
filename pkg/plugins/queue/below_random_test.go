package queue

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"weft.sh/weft/pkg/podspec"
)

// grant is a queue of the random test.
type grant struct {
	name, parent      string
	guaranteed, limit int64 // 0 for no limit
}

// randomGrants is a tree of queues under one that is guaranteed, and limited to, so many GPUs; children's guarantees fit.
func randomGrants(rnd *rand.Rand, gpus int64) (out []grant) {
	out = []grant{{"root", "", gpus, gpus}}
	left := map[string]int64{"root": gpus}
	for i := range 3 + rnd.IntN(5) {
		up := out[rnd.IntN(len(out))]
		g := grant{name: fmt.Sprintf("q%d", i), parent: up.name, guaranteed: rnd.Int64N(min(left[up.name], 6) + 1)}
		left[up.name] -= g.guaranteed
		if left[g.name] = g.guaranteed; rnd.IntN(3) == 0 {
			g.limit = max(1, g.guaranteed) + rnd.Int64N(4)
		}
		out = append(out, g)
	}
	return out
}

// has is what the subtree of each queue holds, by what the API server knows.
func (r *rig) has(grants []grant) (held map[string]int64) {
	r.t.Helper()
	parents := map[string]string{}
	for _, g := range grants {
		parents[g.name] = g.parent
	}
	held = map[string]int64{}
	list, err := r.client.CoreV1().Pods("ns").List(r.t.Context(), metav1.ListOptions{})
	if err != nil {
		r.t.Fatal(err)
	}
	for i := range list.Items {
		p := &list.Items[i]
		if p.Spec.NodeName == "" || p.DeletionTimestamp != nil {
			continue
		}
		ask := p.Spec.Containers[0].Resources.Limits[podspec.ResourceGPU]
		for q := p.Labels[podspec.LabelQueue]; q != ""; q = parents[q] {
			held[q] += ask.Value()
		}
	}
	return held
}

// TestEveryQueueObtainsItsGuarantee: in random trees with limits, full of pods that borrow, queues want what they are guaranteed, one after
// the other and all at once, as pods and as gangs. Each gets it, without a limit being passed or a queue that had its guarantee being pushed
// below it, nobody leaves in vain, and then all is quiet.
func TestEveryQueueObtainsItsGuarantee(t *testing.T) {
	taken := 0
	for seed := range uint64(6) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 21))
			const size = 12
			grants := randomGrants(rnd, size)
			var objects []runtime.Object
			for _, g := range grants {
				limit := ""
				if g.limit > 0 {
					limit = fmt.Sprint(g.limit)
				}
				objects = append(objects, queue(g.name, gpus(fmt.Sprint(g.guaranteed), limit), under(g.parent)))
			}
			there := nodes(node("n", 8), node("m", 8)) // more than the limit of all
			if rnd.IntN(2) == 0 {
				there = nodes(node("n", 8), node("m", 4))
			}
			inBubble(t, there, objects, func(r *rig) {
				lent := []string{"root", grants[rnd.IntN(len(grants))].name, grants[rnd.IntN(len(grants))].name}
				for i := range 30 {
					q := lent[rnd.IntN(len(lent))]
					r.create(pod(fmt.Sprint("lent-", i), q, "", priority(rnd.Int32N(3)*10)))
				}
				r.after(10 * time.Second)
				start := r.has(grants)
				evicted := r.evictions()
				leaves := map[string]bool{}
				for _, g := range grants {
					leaves[g.name] = true
				}
				for _, g := range grants {
					leaves[g.parent] = false
				}
				wanted := map[string]int64{}
				for _, g := range grants {
					lacks := g.guaranteed - start[g.name]
					if !leaves[g.name] || lacks <= 0 {
						continue
					}
					wanted[g.name] = g.guaranteed
					if rnd.IntN(2) == 0 {
						r.group("gang-"+g.name, lacks)
						r.create(gangOf("gang-"+g.name, int(lacks), g.name, "")...)
					} else {
						for i := range lacks {
							r.create(pod(fmt.Sprint("own-", g.name, "-", i), g.name, "", priority(-10)))
						}
					}
					if rnd.IntN(2) == 0 {
						r.after(time.Duration(rnd.IntN(3000)) * time.Millisecond)
					}
				}
				r.after(time.Minute)
				now := r.has(grants)
				for _, g := range grants {
					if now[g.name] < wanted[g.name] {
						t.Errorf("queue %s has %d of its guaranteed %d, and had %d; trees %+v", g.name, now[g.name], wanted[g.name], start[g.name], grants)
					}
					if now[g.name] < min(start[g.name], g.guaranteed) {
						t.Errorf("queue %s is pushed to %d, and had %d of its guaranteed %d", g.name, now[g.name], start[g.name], g.guaranteed)
					}
					if g.limit > 0 && now[g.name] > g.limit {
						t.Errorf("queue %s has %d, its limit is %d", g.name, now[g.name], g.limit)
					}
				}
				if now["root"] < start["root"] {
					t.Errorf("%d GPUs are used, and %d were: somebody left in vain; %+v", now["root"], start["root"], grants)
				}
				n, bound := evicted(), r.bound()
				taken += n
				r.after(2 * time.Minute)
				if later := r.bound(); later != bound || evicted() != n {
					t.Errorf("it is not quiet: %d left later, %q were bound and %q are", evicted()-n, bound, later)
				}
			})
		})
	}
	if taken < 12 {
		t.Errorf("only %d pods were evicted in all", taken)
	}
}
