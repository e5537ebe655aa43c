package mig

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"weft.sh/weft/pkg/gpu"
)

// node is one list of GPUs in both forms.
type node struct {
	dumb   []dumbGPU
	states []State
}

func (n *node) add(t *testing.T, offer dumbOffer, used []gpu.Instance) {
	n.dumb = append(n.dumb, dumbGPU{offer, used})
	n.states = append(n.states, NewState(newOffer(t, offer.list), used))
}

// String shows what is used, for messages.
func (n *node) String() string {
	var b strings.Builder
	for g, d := range n.dumb {
		fmt.Fprintf(&b, "GPU %d of %s uses %v; ", g, d.offer.list[len(d.offer.list)-1].Profile, d.used)
	}
	return b.String()
}

// check compares Place with the dumb search and reports false where that would take too long.
func (n *node) check(t *testing.T, want []string) bool {
	t.Helper()
	dumb, fits, done := dumbPlace(n.dumb, want, 20_000)
	if !done {
		return false
	}
	got, ok := Place(n.states, want)
	if ok != fits {
		t.Fatalf("%s Place(%q) = %v, %t; all ways: %v, %t", n, want, got, ok, dumb, fits)
	}
	if Fits(n.states, want) != fits {
		t.Fatalf("%s Fits(%q) = %t", n, want, !fits)
	}
	if !fits {
		return true
	}
	if l, d := Loss(n.states, got), dumbLoss(n.dumb, dumb); l != d {
		t.Fatalf("%s Place(%q) = %v with loss %d; all ways: %v with loss %d", n, want, got, l, dumb, d)
	}
	for i, c := range got {
		if c.Instance.Profile != want[i] {
			t.Fatalf("%s Place(%q) = %v: not in the order of the wanted", n, want, got)
		}
	}
	order := func(a, b Choice) int {
		if a.Instance.Profile != b.Instance.Profile {
			return strings.Compare(a.Instance.Profile, b.Instance.Profile)
		}
		return dumbOrder(a, b)
	}
	slices.SortStableFunc(dumb, order)
	sorted := slices.Clone(got)
	slices.SortStableFunc(sorted, order)
	if diff := cmp.Diff(dumb, sorted); diff != "" {
		t.Fatalf("%s Place(%q): not the preferred of least loss (-want +got)\n%s", n, want, diff)
	}
	return true
}

func TestOneInstanceInEveryReachableStateOfOneGPU(t *testing.T) {
	for _, name := range []string{"A30-24GB", "H100-80GB"} {
		table, _ := TableByName(name)
		dumb := newDumbOffer(table.Instances())
		o := newOffer(t, dumb.list)
		seen := map[State]bool{}
		dumb.layouts(func(used []gpu.Instance) {
			s := NewState(o, used)
			if seen[s] {
				return
			}
			seen[s] = true
			n := &node{}
			n.add(t, dumb, used)
			for _, p := range table.Profiles {
				n.check(t, []string{p.Name})
			}
		})
		t.Logf("%s: %d states", name, len(seen))
	}
}

// randomUsed picks instances that can exist together; the more often it tries, the fuller the GPU.
func randomUsed(r *rand.Rand, offer dumbOffer, tries int) []gpu.Instance {
	var used []gpu.Instance
	for range tries {
		i := offer.list[r.IntN(len(offer.list))]
		if offer.free(used, i) {
			used = append(used, i)
		}
	}
	return used
}

func TestRandomAsksOnRandomNodesAgreeWithTryingAllWays(t *testing.T) {
	r := rand.New(rand.NewPCG(20, 26))
	tables := Tables()
	// Models that share names of profiles are of most interest together: 1g.10gb has one slice on an A100 of 80 GB and
	// two on one of 40 GB.
	mixed := []Table{tables[1], tables[2], tables[3]}
	rounds := 3000
	if testing.Short() {
		rounds = 300
	}
	checked, placed := 0, 0
	for range rounds {
		n := &node{}
		var names []string
		choice := mixed
		if r.IntN(2) == 0 {
			one := r.IntN(len(tables))
			choice = tables[one : one+1]
		}
		for range 1 + r.IntN(4) {
			table := choice[r.IntN(len(choice))]
			offer := newDumbOffer(table.Instances())
			used := randomUsed(r, offer, r.IntN(6))
			if r.IntN(6) == 0 { // a fixed geometry, some of it in use
				offer = newDumbOffer(randomUsed(r, offer, 8))
				used = nil
				for _, i := range offer.list {
					if r.IntN(3) == 0 {
						used = append(used, i)
					}
				}
			}
			n.add(t, offer, used)
			for _, p := range table.Profiles {
				names = append(names, p.Name)
			}
		}
		var want []string
		for range 1 + r.IntN(7) {
			// Of two profiles the smaller: asks that fit say more.
			want = append(want, names[min(r.IntN(len(names)), r.IntN(len(names)))])
		}
		if n.check(t, want) {
			checked++
			if Fits(n.states, want) {
				placed++
			}
		}
	}
	t.Logf("%d asks of %d compared, %d of them fit", checked, rounds, placed)
	if checked < rounds/2 || placed < rounds/10 {
		t.Errorf("too few asks of %d say anything: %d compared, %d fit", rounds, checked, placed)
	}
}

func TestInstancesThatComeOneByOneLeaveRoomForTheLarge(t *testing.T) {
	// Lowest GPU and lowest start first refuses the second 4g.
	o := offerOf(t, "H100-80GB")
	states := []State{NewState(o, nil), NewState(o, nil)}
	var got []string
	for _, profile := range []string{"1g.10gb", "1g.10gb", "4g.40gb", "4g.40gb", "3g.40gb"} {
		choices, ok := Place(states, []string{profile})
		if !ok {
			t.Fatalf("no room for %s after %v", profile, got)
		}
		c := choices[0]
		states[c.GPU] = states[c.GPU].With(c.Instance)
		got = append(got, fmt.Sprintf("%d %v", c.GPU, c.Instance))
	}
	want := []string{"0 1g.10gb@6:1", "0 1g.10gb@5:1", "0 4g.40gb@0:4", "1 4g.40gb@0:4", "1 3g.40gb@4:4"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("choices (-want +got)\n%s", diff)
	}
}

func TestPlacePrefers(t *testing.T) {
	tests := map[string]struct {
		table string
		used  []string
		want  string
		got   string
	}{
		"the top of an idle GPU for 1g": {
			"H100-80GB", []string{""}, "1g.10gb", "0 1g.10gb@6:1",
		},
		"the upper half for 3g, so that 4g still fits": {
			"H100-80GB", []string{""}, "3g.40gb", "0 3g.40gb@4:4",
		},
		"the GPU in use over an idle one": {
			"H100-80GB", []string{"", "1g.10gb@6:1"}, "1g.10gb", "1 1g.10gb@5:1",
		},
		"the GPU in use where the loss is the same": {
			"H100-80GB", []string{"", "2g.20gb@4:2"}, "3g.40gb", "1 3g.40gb@0:4",
		},
		"the hole that nothing larger can use": {
			"H100-80GB", []string{"1g.10gb@6:1", "3g.40gb@4:4 1g.10gb@2:1"}, "1g.10gb", "1 1g.10gb@3:1",
		},
		"the first of equal GPUs": {
			"H100-80GB", []string{"", ""}, "7g.80gb", "0 7g.80gb@0:8",
		},
		"one GPU for what fits on one": {
			"H100-80GB", []string{"", ""}, "3g.40gb 4g.40gb", "0 3g.40gb@4:4, 0 4g.40gb@0:4",
		},
		"a way to fit all over the best place of each": {
			"H100-80GB", []string{"", "1g.10gb@0:1"}, "4g.40gb 3g.40gb 3g.40gb", "0 4g.40gb@0:4, 0 3g.40gb@4:4, 1 3g.40gb@4:4",
		},
		"the places in the order of the wanted": {
			"H100-80GB", []string{""}, "1g.10gb 4g.40gb 1g.10gb", "0 1g.10gb@5:1, 0 4g.40gb@0:4, 0 1g.10gb@4:1",
		},
		"one GPU each for media extensions": {
			"H100-80GB", []string{"", ""}, "1g.10gb+me 1g.10gb+me", "0 1g.10gb+me@6:1, 1 1g.10gb+me@6:1",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			o := offerOf(t, tt.table)
			var states []State
			for _, used := range tt.used {
				states = append(states, NewState(o, instances(t, used)))
			}
			choices, _ := Place(states, strings.Fields(tt.want))
			var got []string
			for _, c := range choices {
				got = append(got, fmt.Sprintf("%d %v", c.GPU, c.Instance))
			}
			if diff := cmp.Diff(tt.got, strings.Join(got, ", ")); diff != "" {
				t.Errorf("choices (-want +got)\n%s", diff)
			}
		})
	}
}

func TestTheOrderOfTheUsedInstancesHasNoInfluence(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 5))
	table, _ := TableByName("H200-141GB")
	offer := newDumbOffer(table.Instances())
	for range 200 {
		var used [3][]gpu.Instance
		for g := range used {
			used[g] = randomUsed(r, offer, r.IntN(6))
		}
		var want []string
		for range 1 + r.IntN(4) {
			want = append(want, table.Profiles[r.IntN(5)].Name)
		}
		var first []Choice
		for round := range 5 {
			var states []State
			for g := range used {
				r.Shuffle(len(used[g]), func(i, j int) { used[g][i], used[g][j] = used[g][j], used[g][i] })
				shuffled := slices.Clone(offer.list)
				r.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
				states = append(states, NewState(newOffer(t, shuffled), used[g]))
			}
			got, _ := Place(states, want)
			if round == 0 {
				first = got
			} else if diff := cmp.Diff(first, got); diff != "" {
				t.Fatalf("%v for %q (-first +now)\n%s", used, want, diff)
			}
		}
	}
}

// checkLegal fails unless the choices are a legal answer to want.
func checkLegal(t *testing.T, states []State, want []string, choices []Choice) {
	t.Helper()
	if len(choices) != len(want) {
		t.Fatalf("%d choices for %d wanted", len(choices), len(want))
	}
	states = slices.Clone(states)
	for i, c := range choices {
		if c.Instance.Profile != want[i] {
			t.Fatalf("choice %d is %v, wanted was %s", i, c, want[i])
		}
		if c.GPU < 0 || c.GPU >= len(states) || !states[c.GPU].CanGive(c.Instance) {
			t.Fatalf("choice %d, %v, is not offered or not free", i, c)
		}
		states[c.GPU] = states[c.GPU].With(c.Instance)
	}
}

func TestLargeAsksAreAnsweredLegally(t *testing.T) {
	o := offerOf(t, "H100-80GB")
	idle := slices.Repeat([]State{NewState(o, nil)}, 16)
	busy := slices.Repeat([]State{NewState(o, instances(t, "1g.10gb@0:1")), NewState(o, instances(t, "2g.20gb@4:2"))}, 8)
	var wide []gpu.Instance
	for start := range gpu.MaxMemorySlices {
		wide = append(wide, gpu.Instance{Profile: "1g.1gb", Start: start, Size: 1})
	}
	tests := map[string]struct {
		states []State
		want   []string
		fits   bool
	}{
		"a thousand instances":                       {idle, slices.Repeat([]string{"1g.10gb"}, 1000), false},
		"a million instances":                        {idle, slices.Repeat([]string{"1g.10gb"}, 1_000_000), false},
		"every 1g of 16 GPUs":                        {idle, slices.Repeat([]string{"1g.10gb"}, 112), true},
		"one 1g more than that":                      {idle, slices.Repeat([]string{"1g.10gb"}, 113), false},
		"half 1g, half 2g":                           {idle, slices.Repeat([]string{"1g.10gb", "2g.20gb"}, 28), true},
		"every profile ten times":                    {idle, slices.Repeat(strings.Fields("1g.10gb 1g.10gb+me 1g.20gb 2g.20gb"), 10), true},
		"all of every GPU in four profiles":          {idle, slices.Repeat(strings.Fields("1g.10gb 2g.20gb 4g.40gb"), 16), true},
		"more than half of GPUs in use":              {busy, slices.Repeat(strings.Fields("1g.10gb 1g.20gb 3g.40gb"), 12), true},
		"profiles that nobody has":                   {idle, slices.Repeat([]string{"1g.1gb"}, 2), false},
		"as many unknown profiles as memory slices":  {idle, unknownProfiles(128), false},
		"sixty of sixty-four small instances":        {[]State{NewState(newOffer(t, wide), nil)}, slices.Repeat([]string{"1g.1gb"}, 60), true},
		"more media extensions than GPUs":            {idle, slices.Repeat([]string{"1g.10gb+me"}, 17), false},
		"one media extension for each GPU, and 1g's": {idle, slices.Repeat(strings.Fields("1g.10gb+me 1g.10gb 1g.10gb"), 16), true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			choices, ok := Place(tt.states, tt.want)
			if ok != tt.fits || Fits(tt.states, tt.want) != ok {
				t.Fatalf("Place: %t, Fits: %t; want %t", ok, Fits(tt.states, tt.want), tt.fits)
			}
			if ok {
				checkLegal(t, tt.states, tt.want, choices)
			}
		})
	}
}

func unknownProfiles(n int) []string {
	var names []string
	for i := range n {
		names = append(names, fmt.Sprintf("1g.%dgb", 1000+i))
	}
	return names
}

func TestTheAsksThatPeopleWriteAreSearchedExactly(t *testing.T) {
	r := rand.New(rand.NewPCG(8, 13))
	table, _ := TableByName("H100-80GB")
	offer := newDumbOffer(table.Instances())
	o := newOffer(t, offer.list)
	for _, ask := range []struct{ instances, profiles int }{{12, 7}, {16, 5}, {24, 3}, {40, 2}, {64, 2}, {110, 2}} {
		most := 0
		for round := range 100 {
			states := make([]State, 16)
			for g := range states {
				states[g] = NewState(o, randomUsed(r, offer, r.IntN(1+round%4)))
			}
			profiles := r.Perm(len(table.Profiles))[:ask.profiles]
			if ask.instances > 24 { // only small ones find room
				profiles = [][]int{{0, 2}, {0, 3}, {2, 3}, {0, 1}}[round%4]
			}
			var want []string
			for i := range ask.instances {
				// As many of each profile as of the others makes the most sub-multisets.
				want = append(want, table.Profiles[profiles[i%len(profiles)]].Name)
			}
			demands, ok := tally(nil, states, want)
			if !ok {
				continue
			}
			s := search{demands: demands}
			if !s.prepare(states) {
				t.Fatalf("%q is beyond the bounds", want)
			}
			if s.solve(0, s.whole); s.over {
				t.Fatalf("%q takes more than %d steps", want, maxSteps)
			}
			most = max(most, s.steps)
		}
		t.Logf("%d instances of %d profiles: at most %d steps of %d", ask.instances, ask.profiles, most, maxSteps)
	}
}

func TestOneInstanceCostsNoAllocation(t *testing.T) {
	states := benchNode(t, 16)
	want := []string{"3g.40gb"}
	if n := testing.AllocsPerRun(100, func() { Fits(states, want) }); n != 0 {
		t.Errorf("Fits allocates %v times", n)
	}
	if n := testing.AllocsPerRun(100, func() { Place(states, want) }); n != 1 {
		t.Errorf("Place allocates %v times, want 1: the result", n)
	}
}

func FuzzPlace(f *testing.F) {
	f.Add([]byte{1, 0, 3, 7, 24, 2}, []byte{0, 1, 4, 4})
	f.Add([]byte{0, 3, 1, 9, 2, 5, 200, 0}, []byte{0, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Add([]byte{5, 0, 5, 0, 5, 0, 5, 0}, []byte{6, 5, 4, 3, 2, 1, 0})
	tables := Tables()
	f.Fuzz(func(t *testing.T, gpus, ask []byte) {
		// gpus: for each GPU its model, the number of used instances and their numbers in the offered list, which need
		// not be able to exist together (an inventory may report anything).
		var states []State
		names := []string{"1g.1gb"}
		for len(gpus) >= 2 && len(states) < 20 {
			table := tables[int(gpus[0])%len(tables)]
			offered := table.Instances()
			n := min(int(gpus[1])%8, len(gpus)-2)
			var used []gpu.Instance
			for _, b := range gpus[2 : 2+n] {
				used = append(used, offered[int(b)%len(offered)])
			}
			gpus = gpus[2+n:]
			states = append(states, NewState(newOffer(t, offered), used))
			for _, p := range table.Profiles {
				names = append(names, p.Name)
			}
		}
		var want []string
		for _, b := range ask {
			want = append(want, names[int(b)%len(names)])
		}
		choices, ok := Place(states, want)
		if Fits(states, want) != ok {
			t.Fatalf("Fits(%q) = %t, Place = %t", want, !ok, ok)
		}
		if !ok {
			if len(choices) != 0 {
				t.Fatalf("%v without room for all", choices)
			}
			return
		}
		checkLegal(t, states, want, choices)
		if loss := Loss(states, choices); loss < 0 {
			t.Fatalf("loss %d", loss)
		}
		again, _ := Place(states, want)
		if diff := cmp.Diff(choices, again); diff != "" {
			t.Fatalf("another choice (-first +second)\n%s", diff)
		}
	})
}

// benchNode is a node of H100s, every third of them idle.
func benchNode(t testing.TB, n int) []State {
	o := offerOf(t, "H100-80GB")
	used := []string{"1g.10gb@6:1 2g.20gb@2:2", "", "3g.40gb@4:4 1g.10gb@3:1"}
	states := make([]State, n)
	for g := range states {
		states[g] = NewState(o, instances(t, used[g%len(used)]))
	}
	return states
}

func benchCases(b *testing.B, run func(states []State, want []string)) {
	full := slices.Repeat([]State{NewState(offerOf(b, "H100-80GB"), instances(b, "4g.40gb@0:4 3g.40gb@4:4"))}, 16)
	idle := slices.Repeat([]State{NewState(offerOf(b, "H100-80GB"), nil)}, 16)
	cases := []struct {
		name   string
		states []State
		want   string
	}{
		{"1g on 8 GPUs", benchNode(b, 8), "1g.10gb"},
		{"3g on 16 GPUs", benchNode(b, 16), "3g.40gb"},
		{"1g on 16 full GPUs", full, "1g.10gb"},
		{"2 x 1g on 8 GPUs", benchNode(b, 8), "1g.10gb 1g.10gb"},
		{"4 x 1g on 8 GPUs", benchNode(b, 8), "1g.10gb 1g.10gb 1g.10gb 1g.10gb"},
		{"1g 2g 3g on 8 GPUs", benchNode(b, 8), "1g.10gb 2g.20gb 3g.40gb"},
		{"7 profiles on 8 GPUs", benchNode(b, 8), "1g.10gb 1g.10gb+me 1g.20gb 2g.20gb 3g.40gb 4g.40gb 7g.80gb"},
		{"16 instances on 16 GPUs", benchNode(b, 16), strings.Repeat("1g.10gb 1g.20gb 2g.20gb 3g.40gb ", 4)},
		{"16 x 3 on 16 GPUs", idle, strings.Repeat("1g.10gb 2g.20gb 4g.40gb ", 16)},
		{"10 x 4 on 16 GPUs", idle, strings.Repeat("1g.10gb 1g.10gb+me 1g.20gb 2g.20gb ", 10)},
		{"1000 on 16 GPUs", idle, strings.Repeat("1g.10gb ", 1000)},
		{"112 of 5 kinds on 16 GPUs", idle, strings.Repeat("1g.10gb ", 80) + strings.Repeat("1g.10gb+me 2g.20gb 1g.20gb 3g.40gb ", 4)},
	}
	for _, c := range cases {
		want := strings.Fields(c.want)
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				run(c.states, want)
			}
		})
	}
}

func BenchmarkFits(b *testing.B) {
	benchCases(b, func(states []State, want []string) { Fits(states, want) })
}

func BenchmarkPlace(b *testing.B) {
	benchCases(b, func(states []State, want []string) { Place(states, want) })
}

func BenchmarkNewState(b *testing.B) {
	o := offerOf(b, "H100-80GB")
	used := instances(b, "1g.10gb@6:1 1g.10gb@5:1 4g.40gb@0:4")
	b.ReportAllocs()
	for b.Loop() {
		NewState(o, used)
	}
}
