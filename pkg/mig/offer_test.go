package mig

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"weft.sh/weft/pkg/gpu"
)

// instance reads "profile@start:size".
func instance(t testing.TB, text string) gpu.Instance {
	t.Helper()
	a, err := gpu.ParseAssignment("c=g:" + text)
	if err != nil {
		t.Fatal(err)
	}
	return *a.Containers[0].Grants[0].Instance
}

func instances(t testing.TB, text string) []gpu.Instance {
	t.Helper()
	var list []gpu.Instance
	for field := range strings.FieldsSeq(text) {
		list = append(list, instance(t, field))
	}
	return list
}

func offerOf(t testing.TB, table string) *Offer {
	t.Helper()
	all, ok := TableByName(table)
	if !ok {
		t.Fatalf("no table %s", table)
	}
	return newOffer(t, all.Instances())
}

func newOffer(t testing.TB, list []gpu.Instance) *Offer {
	t.Helper()
	o, err := NewOffer(list)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func TestKnownLayouts(t *testing.T) {
	tests := map[string]struct {
		table, layout string
		legal         bool
	}{
		"4g below and 3g above":                       {"A100-40GB", "4g.20gb@0:4 3g.20gb@4:4", true},
		"3g twice":                                    {"H100-80GB", "3g.40gb@0:4 3g.40gb@4:4", true},
		"seven 1g":                                    {"H100-80GB", "1g.10gb@0:1 1g.10gb@1:1 1g.10gb@2:1 1g.10gb@3:1 1g.10gb@4:1 1g.10gb@5:1 1g.10gb@6:1", true},
		"four 1g with double memory":                  {"A100-80GB", "1g.20gb@0:2 1g.20gb@2:2 1g.20gb@4:2 1g.20gb@6:2", true},
		"three 2g and a 1g":                           {"H200-141GB", "2g.35gb@0:2 2g.35gb@2:2 2g.35gb@4:2 1g.18gb@6:1", true},
		"4g, 2g and 1g":                               {"B200-180GB", "4g.90gb@0:4 2g.45gb@4:2 1g.23gb@6:1", true},
		"media extensions beside plain 1g":            {"H100-80GB", "1g.10gb+me@6:1 1g.10gb@5:1 3g.40gb@0:4", true},
		"all of an A30":                               {"A30-24GB", "2g.12gb+me@0:2 1g.6gb@2:1 1g.6gb@3:1", true},
		"1g inside the memory of 3g below":            {"H100-80GB", "3g.40gb@0:4 1g.10gb@3:1", false},
		"1g inside the memory of 3g above":            {"H200-141GB", "3g.71gb@4:4 1g.18gb@4:1", false},
		"4g beside 3g below":                          {"H100-80GB", "3g.40gb@0:4 4g.40gb@0:4", false},
		"4g cannot start in the middle":               {"H100-80GB", "4g.40gb@4:4", false},
		"2g cannot start at an odd slice":             {"H100-80GB", "2g.20gb@3:2", false},
		"2g cannot take the last slice":               {"H100-80GB", "2g.20gb@6:2", false},
		"1g cannot take the last slice":               {"H100-80GB", "1g.10gb@7:1", false},
		"7g beside anything":                          {"B200-180GB", "1g.23gb@6:1 7g.180gb@0:8", false},
		"media extensions twice":                      {"H100-80GB", "1g.10gb+me@6:1 1g.10gb+me@5:1", false},
		"media extensions in two profiles of an A30":  {"A30-24GB", "1g.6gb+me@0:1 2g.12gb+me@2:2", false},
		"the wrong size that go-nvml's mocks give 3g": {"H200-141GB", "3g.71gb@0:3", false},
		"a profile of another model":                  {"H200-141GB", "1g.10gb@0:1", false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s := NewState(offerOf(t, tt.table), nil)
			legal := true
			for _, i := range instances(t, tt.layout) {
				legal = legal && s.CanGive(i)
				s = s.With(i)
			}
			if legal != tt.legal {
				t.Errorf("%s on %s: legal %t, want %t", tt.layout, tt.table, legal, tt.legal)
			}
		})
	}
}

func TestNewOfferRefuses(t *testing.T) {
	many := make([]gpu.Instance, 0, MaxPlacements+1)
	for start := range gpu.MaxMemorySlices {
		many = append(many, gpu.Instance{Profile: "1g.1gb", Start: start, Size: 1})
	}
	if _, err := NewOffer(many); err != nil {
		t.Errorf("%d placements: %v", len(many), err)
	}
	if _, err := NewOffer(append(many, many...)); err != nil {
		t.Errorf("the same placements twice: %v", err)
	}
	if _, err := NewOffer(append(many, gpu.Instance{Profile: "2g.2gb", Start: 0, Size: 2})); err == nil {
		t.Errorf("%d placements are accepted", len(many)+1)
	}
	for _, i := range []gpu.Instance{
		{Profile: "", Start: 0, Size: 1},
		{Profile: "1g.10gb", Start: -1, Size: 1},
		{Profile: "1g.10gb", Start: 0, Size: 0},
		{Profile: "1g.10gb", Start: 60, Size: 8},
	} {
		if _, err := NewOffer([]gpu.Instance{i}); err == nil {
			t.Errorf("%v is accepted", i)
		}
	}
}

func TestAnOfferKeepsTheCallersList(t *testing.T) {
	list := instances(t, "3g.40gb@4:4 1g.10gb@0:1 3g.40gb@0:4")
	before := slices.Clone(list)
	newOffer(t, list)
	if diff := cmp.Diff(before, list); diff != "" {
		t.Errorf("the list changed (-before +after)\n%s", diff)
	}
}

func TestWhatIsFreeAndUsable(t *testing.T) {
	fixed := "3g.40gb@0:4 1g.10gb@4:1 1g.10gb@5:1 1g.10gb+me@6:1"
	tests := map[string]struct {
		offered string // a table or a list
		used    string
		free    int
		usable  map[string]int
	}{
		"an idle GPU": {
			"H100-80GB", "", 8,
			map[string]int{"1g.10gb": 7, "1g.10gb+me": 7, "1g.20gb": 8, "2g.20gb": 6, "3g.40gb": 8, "4g.40gb": 4, "7g.80gb": 8, "1g.5gb": 0},
		},
		"1g at 0, 1 and 5 leave five slices and room for no 3g": {
			"H100-80GB", "1g.10gb@0:1 1g.10gb@1:1 1g.10gb@5:1", 5,
			map[string]int{"1g.10gb": 4, "1g.20gb": 4, "2g.20gb": 2, "3g.40gb": 0, "4g.40gb": 0, "7g.80gb": 0},
		},
		"a full GPU": {
			"H100-80GB", "4g.40gb@0:4 3g.40gb@4:4", 0,
			map[string]int{"1g.10gb": 0, "7g.80gb": 0},
		},
		"seven 1g leave a slice that nothing can use": {
			"H100-80GB", "1g.10gb@0:1 1g.10gb@1:1 1g.10gb@2:1 1g.10gb@3:1 1g.10gb@4:1 1g.10gb@5:1 1g.10gb@6:1", 1,
			map[string]int{"1g.10gb": 0, "1g.20gb": 0},
		},
		"media extensions in use rule out more of them": {
			"H100-80GB", "1g.10gb+me@6:1", 7,
			map[string]int{"1g.10gb": 6, "1g.10gb+me": 0},
		},
		"a fixed geometry offers what exists": {
			fixed, "1g.10gb@4:1", 6,
			map[string]int{"1g.10gb": 1, "1g.10gb+me": 1, "3g.40gb": 4, "2g.20gb": 0},
		},
		"an instance of an older geometry takes its slices": {
			fixed, "2g.20gb@4:2", 5,
			map[string]int{"1g.10gb": 0, "1g.10gb+me": 1, "3g.40gb": 4},
		},
		"a fixed geometry without placements": {"", "", 0, map[string]int{"1g.10gb": 0}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var o *Offer
			if table, ok := TableByName(tt.offered); ok {
				o = newOffer(t, table.Instances())
			} else {
				o = newOffer(t, instances(t, tt.offered))
			}
			s := NewState(o, instances(t, tt.used))
			if got := FreeSlices(s); got != tt.free {
				t.Errorf("FreeSlices = %d, want %d", got, tt.free)
			}
			got := map[string]int{}
			for profile := range tt.usable {
				got[profile] = Usable(s, profile)
			}
			if diff := cmp.Diff(tt.usable, got); diff != "" {
				t.Errorf("Usable (-want +got)\n%s", diff)
			}
			if s.Idle() != (tt.used == "") {
				t.Errorf("Idle = %t", s.Idle())
			}
		})
	}
}

func TestInstancesThatExistMayAllHaveMediaExtensions(t *testing.T) {
	list := instances(t, "1g.6gb+me@0:1 1g.6gb+me@1:1")
	s := NewState(newOffer(t, list), list[:1])
	if !s.CanGive(list[1]) {
		t.Errorf("%v exists beside %v and cannot be given", list[1], list[0])
	}
}

func TestTheZeroStateOffersNothing(t *testing.T) {
	i := instance(t, "1g.10gb@0:1")
	for _, s := range []State{{}, NewState(nil, nil), NewState(nil, []gpu.Instance{i})} {
		if s.CanGive(i) || FreeSlices(s) != 0 || Usable(s, i.Profile) != 0 {
			t.Errorf("%v offers something", s)
		}
		for n := 1; n < 4; n++ {
			want := slices.Repeat([]string{i.Profile}, n)
			if _, ok := Place([]State{s, s}, want); ok || Fits([]State{s, s}, want) {
				t.Errorf("%d instances find room", n)
			}
		}
	}
}

func TestFreeAgreesWithTheDumbRule(t *testing.T) {
	for _, table := range Tables() {
		offered := table.Instances()
		o := newOffer(t, offered)
		r := rand.New(rand.NewPCG(1, 2))
		dumb := newDumbOffer(offered)
		dumb.layouts(func(used []gpu.Instance) {
			r.Shuffle(len(used), func(i, j int) { used[i], used[j] = used[j], used[i] })
			s := NewState(o, used)
			for _, i := range offered {
				if want := dumb.free(used, i); s.CanGive(i) != want {
					t.Fatalf("%s with %v: CanGive(%v) = %t", table.Name, used, i, !want)
				}
			}
		})
	}
}
