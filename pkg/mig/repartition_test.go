package mig

import (
	"fmt"
	"math/rand"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"weft.sh/weft/pkg/gpu"
)

func TestRepartition(t *testing.T) {
	const ones = "1g.10gb@0:1 1g.10gb@1:1 1g.10gb@2:1 1g.10gb@3:1 1g.10gb@4:1 1g.10gb@5:1 1g.10gb@6:1"
	type g struct{ exist, used string }
	for name, tc := range map[string]struct {
		gpus    []g
		pending map[string]int
		mix     map[string]int64
		want    []string
	}{
		"nothing is wanted":                {[]g{{ones, ""}}, nil, nil, nil},
		"what is wanted is there":          {[]g{{ones, ""}}, map[string]int{"1g.10gb": 7}, map[string]int64{"1g.10gb": 5}, nil},
		"a profile that the GPU never has": {[]g{{ones, ""}}, map[string]int{"1g.5gb": 1}, map[string]int64{"9g.9gb": 5}, nil},
		"a large one for seven small ones": {
			[]g{{ones, ""}}, map[string]int{"7g.80gb": 1}, nil, []string{"0: 7g.80gb@0:8 destroys 7"},
		},
		"not under those who hold": {
			[]g{{ones, "1g.10gb@6:1"}},
			map[string]int{"7g.80gb": 1, "4g.40gb": 1},
			nil,
			[]string{"0: 4g.40gb@0:4 1g.10gb@4:1 1g.10gb@5:1 1g.10gb@6:1 destroys 4"},
		},
		"a hole is filled before anything is destroyed": {
			[]g{{ones, ""}, {"4g.40gb@0:4", ""}}, map[string]int{"3g.40gb": 1}, nil, []string{"1: 4g.40gb@0:4 3g.40gb@4:4 destroys 0"},
		},
		"no more is made than anybody wants": {[]g{{"", ""}}, map[string]int{"1g.10gb": 1}, nil, []string{"0: 1g.10gb@0:1 destroys 0"}},
		"what is free is divided as the mix is": {
			[]g{{"7g.80gb@0:8", ""}, {"7g.80gb@0:8", ""}},
			nil,
			map[string]int64{"3g.40gb": 1},
			[]string{"0: 3g.40gb@0:4 3g.40gb@4:4 destroys 1", "1: 3g.40gb@0:4 3g.40gb@4:4 destroys 1"},
		},
		"some for each": {
			[]g{{ones, ""}, {ones, ""}, {ones, ""}, {ones, ""}},
			nil,
			map[string]int64{"7g.80gb": 1, "1g.10gb": 8},
			[]string{"0: 7g.80gb@0:8 destroys 7"},
		},
		"who waits goes before who may come": {
			[]g{{"7g.80gb@0:8", ""}},
			map[string]int{"2g.20gb": 1},
			map[string]int64{"7g.80gb": 1000},
			[]string{"0: 2g.20gb@0:2 destroys 1"},
		},
		"one instance with media extensions": {
			[]g{{ones, ""}}, map[string]int{"1g.10gb+me": 3}, nil, []string{"0: 1g.10gb+me@0:1 1g.10gb@1:1 1g.10gb@2:1 1g.10gb@3:1 1g.10gb@4:1 1g.10gb@5:1 1g.10gb@6:1 destroys 1"},
		},
		"a held one that does not exist keeps its place": {
			[]g{{"3g.40gb@0:4", "2g.20gb@4:2"}},
			map[string]int{"7g.80gb": 1, "1g.10gb": 1},
			nil,
			[]string{"0: 3g.40gb@0:4 2g.20gb@4:2 1g.10gb@6:1 destroys 0"},
		},
	} {
		offer := offerOf(t, "H100-80GB")
		var gpus []Geometry
		for _, g := range tc.gpus {
			gpus = append(gpus, Geometry{offer, instances(t, g.exist), instances(t, g.used)})
		}
		var got []string
		for _, d := range Repartition(gpus, Demand{tc.pending, tc.mix}) {
			var names []string
			for _, i := range d.Target {
				names = append(names, i.String())
			}
			got = append(got, fmt.Sprintf("%d: %s destroys %d", d.GPU, strings.Join(names, " "), len(d.Destroy)))
		}
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// randomGeometry divides a GPU at random and lets some of it be held.
func randomGeometry(r *rand.Rand, table Table, offer *Offer) Geometry {
	g := Geometry{Legal: offer}
	state := NewState(offer, nil)
	all := table.Instances()
	for _, i := range r.Perm(len(all)) {
		if state.CanGive(all[i]) && r.Intn(4) > 0 {
			state = state.With(all[i])
			g.Exist = append(g.Exist, all[i])
			if r.Intn(3) == 0 {
				g.Used = append(g.Used, all[i])
			}
		}
	}
	return g
}

// waiting is how many of those who wait find a free instance.
func waiting(d Demand, free []gpu.Instance) (sum int) {
	have := map[string]int{}
	for _, i := range free {
		have[i.Profile]++
	}
	for name, n := range d.Pending {
		sum += min(n, have[name])
	}
	return sum
}

// TestRepartitionOfRandomClusters: what is held stays where it is, targets are legal, what is destroyed and made leads to them, no
// fewer of those who wait find an instance than before, and the same input gives the same result. On one GPU as many do as there are
// in the best of all layouts; on two too.
func TestRepartitionOfRandomClusters(t *testing.T) {
	r := rand.New(rand.NewSource(5))
	helped, changed, best, tries := 0, 0, 0, 0
	for range 300 {
		tables := Tables()
		table := tables[r.Intn(len(tables))]
		offer := offerOf(t, table.Name)
		var gpus []Geometry
		var free []gpu.Instance
		for range 1 + r.Intn(5) {
			g := randomGeometry(r, table, offer)
			gpus = append(gpus, g)
			free = append(free, without(g.Exist, g.Used)...)
		}
		d := Demand{Pending: map[string]int{}, Mix: map[string]int64{}}
		for range r.Intn(4) {
			d.Pending[table.Profiles[r.Intn(len(table.Profiles))].Name] += 1 + r.Intn(3)
		}
		for range r.Intn(4) {
			d.Mix[table.Profiles[r.Intn(len(table.Profiles))].Name] += 1 + r.Int63n(9)
		}
		plan := Repartition(gpus, d)
		if diff := cmp.Diff(plan, Repartition(gpus, d)); diff != "" {
			t.Fatalf("the same input, another result:\n%s", diff)
		}
		after := slices.Clone(gpus)
		for _, div := range plan {
			g := &after[div.GPU]
			for _, u := range g.Used {
				if !slices.Contains(div.Target, u) || slices.Contains(div.Destroy, u) {
					t.Fatalf("%v is held and not in %v", u, div.Target)
				}
			}
			state := NewState(offer, nil)
			for _, i := range div.Target {
				if !state.CanGive(i) {
					t.Fatalf("%s: %v is not a layout, for %v", table.Name, div.Target, i)
				}
				state = state.With(i)
			}
			led := slices.Concat(without(g.Exist, div.Destroy), div.Create)
			slices.SortFunc(led, byStart)
			if diff := cmp.Diff(div.Target, led); diff != "" || len(div.Destroy)+len(div.Create) == 0 {
				t.Fatalf("the target and where the steps lead:\n%s", diff)
			}
			g.Exist = div.Target
		}
		var then []gpu.Instance
		for _, g := range after {
			then = append(then, without(g.Exist, g.Used)...)
		}
		was, is := waiting(d, free), waiting(d, then)
		if is < was {
			t.Fatalf("%v: %d of those who wait found an instance, %d after %+v", d, was, is, plan)
		}
		if is > was {
			helped++
		}
		if len(plan) > 0 {
			changed++
		}
		if len(gpus) > 2 {
			continue
		}
		tries++
		most := 0
		options := make([][][]gpu.Instance, 2)
		for k := range options {
			options[k] = [][]gpu.Instance{nil}
			if k < len(gpus) {
				options[k] = append(Layouts(NewState(offer, gpus[k].Used), nil), without(gpus[k].Exist, gpus[k].Used))
			}
		}
		for _, a := range options[0] {
			for _, b := range options[1] {
				most = max(most, waiting(d, slices.Concat(a, b)))
			}
		}
		if is == most {
			best++
		} else {
			t.Errorf("%v on %+v: %d of those who wait are served, %d could be", d, gpus, is, most)
		}
	}
	if helped < 90 || changed < helped {
		t.Errorf("%d of 300 plans helped, %d changed anything: too few to tell anything", helped, changed)
	}
	if best < tries {
		t.Errorf("%d of %d plans are the best", best, tries)
	}
	t.Logf("%d of 300 plans changed something, %d served more of those who wait; %d of %d were the best there is", changed, helped, best, tries)
}
