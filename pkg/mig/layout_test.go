package mig

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"weft.sh/weft/pkg/gpu"
)

// dumbLayouts tries every subset of the free placements.
func dumbLayouts(all, used []gpu.Instance, profiles []string) []string {
	clash := func(a, b gpu.Instance) bool {
		media := func(i gpu.Instance) bool { return strings.Contains(i.Profile, "+me") }
		return a.Overlaps(b) || media(a) && media(b)
	}
	var free []gpu.Instance
	for _, i := range all {
		if slices.Contains(profiles, i.Profile) && !slices.ContainsFunc(used, func(u gpu.Instance) bool { return clash(i, u) }) {
			free = append(free, i)
		}
	}
	var out []string
	for set := range 1 << len(free) {
		var chosen []gpu.Instance
		for n, i := range free {
			if set>>n&1 != 0 {
				chosen = append(chosen, i)
			}
		}
		sound := true
		for a := range chosen {
			for b := range a {
				sound = sound && !clash(chosen[a], chosen[b])
			}
		}
		full := !slices.ContainsFunc(free, func(i gpu.Instance) bool {
			return !slices.ContainsFunc(chosen, func(c gpu.Instance) bool { return clash(i, c) })
		})
		if sound && full {
			out = append(out, layoutText(chosen))
		}
	}
	slices.Sort(out)
	return out
}

func layoutText(layout []gpu.Instance) string {
	var names []string
	for _, i := range layout {
		names = append(names, i.String())
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}

func TestLayoutsAreAllThereAre(t *testing.T) {
	for _, name := range []string{"A30-24GB", "H200-141GB"} { // the others have the same placements under other names
		table, _ := TableByName(name)
		offer, err := NewOffer(table.Instances())
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, p := range table.Profiles {
			names = append(names, p.Name)
		}
		// The classic profiles together, and every pair and triple of all.
		choices := [][]string{classic(table)}
		for i := range names {
			for j := range i {
				choices = append(choices, []string{names[j], names[i]})
				for k := range j {
					if strings.HasPrefix(names[i], "1g") {
						continue // more placements than there is time for subsets of
					}
					choices = append(choices, []string{names[k], names[j], names[i]})
				}
			}
		}
		for _, profiles := range choices {
			for _, used := range [][]gpu.Instance{nil, table.Instances()[:1], table.Instances()[len(table.Instances())-3:][:1]} {
				var got []string
				for _, l := range Layouts(NewState(offer, used), profiles) {
					got = append(got, layoutText(l))
				}
				slices.Sort(got)
				if diff := cmp.Diff(dumbLayouts(table.Instances(), used, profiles), got); diff != "" {
					t.Errorf("%s, %v beside %v (-want +got):\n%s", table.Name, profiles, used, diff)
				}
			}
		}
	}
}

// classic are the profiles without media extensions and without memory of two slices for one compute slice.
func classic(t Table) []string {
	var out []string
	for _, p := range t.Profiles {
		if p.Size >= p.ComputeSlices && !strings.Contains(p.Name, "+") && (p.ComputeSlices > 1 || p.Size == 1) {
			out = append(out, p.Name)
		}
	}
	return out
}

// TestHowManyLayouts: full layouts by place, and the multisets of profiles that they are of.
func TestHowManyLayouts(t *testing.T) {
	type numbers struct{ Classic, ClassicMultisets, All, AllMultisets int }
	seven := numbers{19, 14, 239, 64}
	want := map[string]numbers{
		"A30-24GB": {5, 4, 17, 8}, "A100-40GB": seven, "A100-80GB": seven, "H100-80GB": seven, "H200-141GB": seven, "B200-180GB": seven,
	}
	got := map[string]numbers{}
	for _, table := range Tables() {
		offer, err := NewOffer(table.Instances())
		if err != nil {
			t.Fatal(err)
		}
		count := func(profiles []string) (layouts, multisets int) {
			all := Layouts(NewState(offer, nil), profiles)
			distinct := map[string]bool{}
			for _, l := range all {
				counts := map[string]int{}
				for _, i := range l {
					counts[i.Profile]++
				}
				distinct[fmt.Sprint(counts)] = true
			}
			return len(all), len(distinct)
		}
		var n numbers
		n.Classic, n.ClassicMultisets = count(classic(table))
		n.All, n.AllMultisets = count(nil)
		got[table.Name] = n
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestLayoutsOfNothing(t *testing.T) {
	if got := Layouts(State{}, nil); len(got) != 1 || len(got[0]) != 0 {
		t.Errorf("got %v, want one empty layout", got)
	}
	// As many placements as an offer may have, none in the way of another: one layout, and quickly.
	var all []gpu.Instance
	for n := range MaxPlacements {
		all = append(all, gpu.Instance{Profile: "1g.1gb", Start: n, Size: 1})
	}
	offer, err := NewOffer(all)
	if err != nil {
		t.Fatal(err)
	}
	if got := Layouts(NewState(offer, nil), nil); len(got) != 1 || len(got[0]) != MaxPlacements {
		t.Errorf("got %d layouts", len(got))
	}
}
