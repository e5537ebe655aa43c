package gang

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"weft.sh/weft/pkg/gpu"
)

// crowd fills nodes of 8 GPUs with pods of 1, 2, 4 and 8, a third of them in gangs of up to 16, of which some are elastic.
func crowd(r *rand.Rand, nodes int) (*town, []Unit) {
	sizes := make([]int, nodes)
	for i := range sizes {
		sizes[i] = 8
	}
	t := newTown(sizes...)
	var units []Unit
	for full := 0; full < nodes; {
		size := 1
		if r.IntN(3) == 0 {
			size = 2 + r.IntN(15)
		}
		ask := whole(1 << r.IntN(4))
		var uids []string
		for range size {
			uid := fmt.Sprintf("p%d", len(t.pods))
			for first, i := r.IntN(nodes), 0; i < 8; i++ {
				if t.put(uid, (first+i)%nodes, ask) {
					uids = append(uids, uid)
					break
				}
			}
		}
		if len(uids) < size {
			full++ // so often no room that there is little
		}
		if len(uids) == 0 {
			continue
		}
		priority := int32(r.IntN(4))
		rest := t.unit(priority, ask.MilliGPU()*int64(len(uids)*r.IntN(10_000)), uids...)
		if len(uids) > 1 {
			rest.Gang = Key{Namespace: "ns", Name: uids[0]}
			for range r.IntN(len(uids)) {
				surplus := t.unit(priority, ask.MilliGPU()*int64(r.IntN(10_000)), rest.Pods[0].UID)
				surplus.Gang, surplus.Surplus = rest.Gang, true
				rest.Pods = rest.Pods[1:]
				units = append(units, surplus)
			}
		}
		units = append(units, rest)
	}
	return t, units
}

// largeCases are gangs for a crowd of 256 nodes.
var largeCases = []struct {
	name     string
	counts   []int
	requests []gpu.Request
	rack     bool
}{
	{"one shape", []int{32}, []gpu.Request{whole(8)}, false},
	{"half nodes", []int{64}, []gpu.Request{whole(4)}, false},
	{"launcher and workers", []int{1, 32}, []gpu.Request{share(500), whole(8)}, false},
	{"two sizes", []int{8, 24}, []gpu.Request{whole(3), whole(6)}, false},
	{"in a rack", []int{2}, []gpu.Request{whole(8)}, true},
}

func TestVictimsOfLargeGangsCannotBeSpared(t *testing.T) {
	for i, tc := range largeCases {
		t.Run(tc.name, func(t *testing.T) {
			town, units := crowd(rand.New(rand.NewPCG(5, uint64(i))), 96)
			counts := make([]int, len(tc.counts))
			least := 0
			for k, c := range tc.counts {
				counts[k] = (c + 1) / 2
				least += counts[k]
			}
			town.want(least, counts, tc.requests...)
			if tc.rack {
				town.Required = "rack"
			}
			res, victims, rejection := Preempt(&town.Problem, 3, units, nil, Caps{})
			if !rejection.OK() || len(victims) == 0 || res.Truncated {
				t.Fatalf("result %v, victims %v, rejection %q", res, victims, rejection.Message())
			}
			mustBeSound(t, &town.Problem, 3, units, res, victims)
			t.Logf("%d units, %d victims", len(units), len(victims))
		})
	}
}

func BenchmarkPreemptAmongManyKinds(b *testing.B) {
	for i, tc := range largeCases {
		b.Run(tc.name, func(b *testing.B) {
			town, units := crowd(rand.New(rand.NewPCG(6, uint64(i))), 256)
			least := 0
			for _, c := range tc.counts {
				least += c
			}
			town.want(least, tc.counts, tc.requests...)
			if tc.rack {
				town.Required = "rack"
			}
			victims, truncated := 0, 0.0
			for b.Loop() {
				res, v, rejection := Preempt(&town.Problem, 3, units, nil, Caps{})
				if !rejection.OK() {
					b.Fatal(rejection.Message())
				}
				if victims = len(v); res.Truncated {
					truncated = 1
				}
			}
			b.ReportMetric(float64(victims), "victims")
			b.ReportMetric(truncated, "truncated")
			b.ReportMetric(float64(len(units)), "units")
		})
	}
}
