package migsim

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/mig"
	"weft.sh/weft/pkg/trace"
)

func newStudy(t *testing.T, nodes int, lifetimes float64, models ...string) *Study {
	t.Helper()
	s, err := NewStudy("test", BuiltIn, models, nodes, lifetimes)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSlots(t *testing.T) {
	for milli, want := range map[int64]int{1: 1, 143: 1, 144: 2, 286: 2, 287: 3, 429: 3, 430: 4, 572: 4, 573: 7, 714: 7, 999: 7, 1000: 7} {
		if got := slots[slotOf(milli)]; got != want {
			t.Errorf("%d thousandths: %dg, want %dg", milli, got, want)
		}
	}
}

func TestMixOfAList(t *testing.T) {
	pods := []trace.Pod{
		{GPUs: 1, MilliGPU: 500}, {GPUs: 1, MilliGPU: 1000}, {GPUs: 0}, {GPUs: 1, MilliGPU: 100}, {GPUs: 1, MilliGPU: 500}, {GPUs: 2, MilliGPU: 1000},
	}
	got, err := MixOf("list", pods)
	if diff := cmp.Diff(Mix{{100, 1}, {500, 2}}, got); diff != "" || err != nil {
		t.Errorf("%v, -want +got:\n%s", err, diff)
	}
	if _, err := MixOf("list", pods[1:3]); !errors.Is(err, ErrBadStudy) || !strings.Contains(err.Error(), "none of the 2 pods of list asks for a part") {
		t.Errorf("got %v", err)
	}
}

func TestBadStudies(t *testing.T) {
	for name, tc := range map[string]struct {
		models    []string
		nodes     int
		lifetimes float64
		want      string
	}{
		"no nodes":             {Models()[:1], 0, 1, "0 nodes: want 1 to 1000"},
		"too many":             {Models()[:1], 1001, 1, "1001 nodes"},
		"no time":              {Models()[:1], 1, 0, "0 lifetimes: want more than 0"},
		"a time that is NaN":   {Models()[:1], 1, math.NaN(), "NaN lifetimes"},
		"no models":            {nil, 1, 1, "0 models on 1 nodes"},
		"a model without node": {Models()[:2], 1, 1, "2 models on 1 nodes"},
		"an unknown model":     {[]string{"H100"}, 1, 1, `model "H100": want some of A100-40GB, A100-80GB, H100-80GB, H200-141GB, B200-180GB`},
		"one without sevenths": {[]string{"A30-24GB"}, 1, 1, `model "A30-24GB": want some of`},
		"one twice":            {[]string{"H100-80GB", "H100-80GB"}, 2, 1, "model H100-80GB twice"},
	} {
		if _, err := NewStudy("test", BuiltIn, tc.models, tc.nodes, tc.lifetimes); !errors.Is(err, ErrBadStudy) || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: got %v, want %q", name, err, tc.want)
		}
	}
	if _, err := ParsePolicies([]string{"firstfit"}); err == nil || !strings.Contains(err.Error(), "want all or some of first-fit, best-fit, default, repack") {
		t.Errorf("got %v", err)
	}
}

// TestModelsOfOnePool: models whose profiles have the same names are interchangeable, the others are not.
func TestModelsOfOnePool(t *testing.T) {
	s := newStudy(t, 8, 1, "A100-80GB", "H100-80GB", "H200-141GB", "B200-180GB")
	var got []string
	for _, p := range s.pools {
		got = append(got, fmt.Sprintf("%v %d %s", p.products, p.gpus, p.profiles[2].Name))
	}
	want := []string{"[NVIDIA-A100-SXM4-80GB NVIDIA-H100-80GB-HBM3] 16 3g.40gb", "[NVIDIA-H200] 8 3g.71gb", "[NVIDIA-B200] 8 3g.90gb"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// TestArrivals: the same seed gives the same pods, another load the same ones closer together, and what is offered is the load.
func TestArrivals(t *testing.T) {
	s := newStudy(t, 4, 200, "H100-80GB", "H200-141GB")
	one := s.arrivals(7, 1)
	if diff := cmp.Diff(one, s.arrivals(7, 1), cmp.AllowUnexported(pod{})); diff != "" {
		t.Error("the same seed gives other pods")
	}
	var slices, milli float64
	for i, p := range one {
		if i > 0 && p.at < one[i-1].at || p.until < p.at || p.measured != (p.at >= warmUp) {
			t.Fatalf("pod %d: %+v", i, p)
		}
		if p.pool >= 0 {
			slices += (p.until - p.at) * float64(s.size(&p))
		} else {
			milli += (p.until - p.at) * float64(s.mix[p.portion].MilliGPU)
		}
	}
	if got := slices / 205 / (16 * 8); math.Abs(got-1) > 0.05 {
		t.Errorf("MIG: load %.3f, want 1", got)
	}
	if got := milli / 205 / (16 * 1000); math.Abs(got-1) > 0.05 {
		t.Errorf("shares: load %.3f, want 1", got)
	}
	var stays [2][]string
	for k, list := range [][]pod{one, s.arrivals(7, 0.5)} {
		for _, p := range list {
			if p.pool < 0 {
				continue
			}
			if stays[k] = append(stays[k], fmt.Sprintf("%d %d %.9f", p.pool, p.portion, p.until-p.at)); len(stays[k]) == 100 {
				break
			}
		}
	}
	if diff := cmp.Diff(stays[0], stays[1]); diff != "" {
		t.Errorf("another load draws other pods:\n%s", diff)
	}
}

// dumbFits tries all places of all instances.
func dumbFits(p *pool, gpus int, c counts) bool {
	states := make([]mig.State, gpus)
	for i := range states {
		states[i] = mig.NewState(p.offer, nil)
	}
	var place func(slot, n int) bool
	place = func(slot, n int) bool {
		for n == 0 {
			if slot--; slot < 0 {
				return true
			}
			n = c[slot]
		}
		profile := p.profiles[slot]
		for i := range states {
			for _, start := range profile.Starts {
				at := gpu.Instance{Profile: profile.Name, Start: start, Size: profile.Size}
				if before := states[i]; before.CanGive(at) {
					states[i] = before.With(at)
					if place(slot, n-1) {
						return true
					}
					states[i] = before
				}
			}
		}
		return false
	}
	return place(len(c)-1, c[len(c)-1])
}

// closedForm is whether instances fit, by hand: 7g takes a GPU, 4g the half of the low slices, 3g a half, the high one first; of
// what is left, a low half has room for two 2g or four 1g, and a high half for one 2g or three 1g.
func closedForm(c counts, gpus int) bool {
	n1, n2, n3, n4, n7 := c[0], c[1], c[2], c[3], c[4]
	left := gpus - n7
	low, high := left-n4, left
	if low < 0 {
		return false
	}
	from := min(n3, high)
	high -= from
	if low -= n3 - from; low < 0 {
		return false
	}
	return n2 <= 2*low+high && n1 <= 4*low+3*high-2*n2
}

// TestPackingIsExact: for one and two GPUs against all places, for more against the closed form; and what satisfies all rows fits, so
// that none is missing.
func TestPackingIsExact(t *testing.T) {
	p := newStudy(t, 1, 1, "H200-141GB").pools[0]
	if got := len(p.packing.patterns); got != 12 {
		t.Errorf("%d patterns, want 12", got)
	}
	if got := len(p.packing.rows); got != 4 {
		t.Errorf("%d rows, want 4: %v", got, p.packing.rows)
	}
	check := func(c counts, gpus int, want bool) {
		t.Helper()
		if got, decided := p.packing.fits(c, gpus); got != want || !decided {
			t.Errorf("%v on %d GPUs: fits %t (decided %t), want %t", c, gpus, got, decided, want)
		}
		if got := p.packing.satisfies(c, gpus); got != want {
			t.Errorf("%v on %d GPUs: satisfies the rows %t, want %t", c, gpus, got, want)
		}
	}
	for n1 := range 9 {
		for n2 := range 5 {
			for n3 := range 4 {
				for n4 := range 3 {
					for n7 := range 3 {
						c := counts{n1, n2, n3, n4, n7}
						check(c, 1, dumbFits(p, 1, c))
						if want := closedForm(c, 2); n1 < 4 && want != dumbFits(p, 2, c) {
							t.Errorf("the closed form is wrong for %v", c)
						} else {
							check(c, 2, want)
						}
					}
				}
			}
		}
	}
	r := rand.New(rand.NewSource(1))
	yes := 0
	for range 20_000 {
		gpus := 1 + r.Intn(64)
		c := counts{r.Intn(3 * gpus), r.Intn(1 + gpus), r.Intn(1 + gpus), r.Intn(1 + gpus/2), r.Intn(1 + gpus/3)}
		want := closedForm(c, gpus)
		check(c, gpus, want)
		if want {
			yes++
		}
	}
	if yes < 2000 || yes > 18_000 {
		t.Errorf("%d of 20000 fit: too one-sided to tell anything", yes)
	}
}

// TestShareRowsHold: for everything that fits on one GPU.
func TestShareRowsHold(t *testing.T) {
	var m Mix
	for milli := int64(10); milli <= 1000; milli += 10 {
		m = append(m, Portion{milli, 1})
	}
	m = append(m, Portion{333, 1}, Portion{334, 1}, Portion{501, 1}, Portion{499, 1})
	rows := shareRows(m)
	r := rand.New(rand.NewSource(2))
	for range 50_000 {
		left := gpu.WholeMilliGPU
		sums := make([]float64, len(rows))
		for range 30 {
			i := r.Intn(len(m))
			if m[i].MilliGPU > left {
				continue
			}
			left -= m[i].MilliGPU
			for k := range rows {
				sums[k] += rows[k].weights[i]
			}
		}
		for k := range rows {
			if sums[k] > rows[k].capacity+1e-9 {
				t.Fatalf("row %d: %g > %g", k, sums[k], rows[k].capacity)
			}
		}
	}
}

// TestBoundAgainstAllPolicies: on one and two GPUs with few pods, the best set of pods that could be accepted by somebody who knows
// all and moves what he likes, found by trying all sets, is not above the bound, and mostly not far below.
func TestBoundAgainstAllPolicies(t *testing.T) {
	r := rand.New(rand.NewSource(3))
	p := newStudy(t, 1, 1, "A100-40GB").pools[0]
	near := 0
	const tries = 150
	for range tries {
		gpus := 1 + r.Intn(2)
		var pods []pod
		at := 0.0
		for range 11 {
			at += r.ExpFloat64() / (4 * float64(gpus))
			pods = append(pods, pod{at: at, until: at + r.ExpFloat64(), slot: r.Intn(len(slots)), measured: true})
		}
		value := func(q *pod) float64 { return 1 }
		if r.Intn(2) == 0 {
			value = func(q *pod) float64 { return float64(p.profiles[q.slot].Size) }
		}
		best := 0.0
		for set := range 1 << len(pods) {
			sum, ok := 0.0, true
			for t := range pods {
				if set>>t&1 == 0 {
					continue
				}
				sum += value(&pods[t])
				var c counts
				for j := range t + 1 {
					if set>>j&1 != 0 && pods[j].until > pods[t].at {
						c[pods[j].slot]++
					}
				}
				if ok = closedForm(c, gpus); !ok {
					break
				}
			}
			if ok {
				best = max(best, sum)
			}
		}
		b := newBound(p.packing.rows, gpus, pods, func(q *pod) int { return q.slot }, value).solve(best / 2)
		if b < best-1e-6 {
			t.Errorf("%d GPUs: bound %g, but %g can be accepted of %+v", gpus, b, best, pods)
		}
		if b < best*1.1+0.5 {
			near++
		}
	}
	if near < tries*3/4 {
		t.Errorf("the bound is near the optimum in %d of %d cases only", near, tries)
	}
}

// TestNothingExceedsTheBounds, no policy places what cannot be (take would fail), the reference that moves everything accepts all
// that is packable, and the same again is the same.
func TestNothingExceedsTheBounds(t *testing.T) {
	l := Lineup{Study: newStudy(t, 4, 2, "A100-80GB", "H100-80GB", "H200-141GB", "B200-180GB"), Loads: []float64{0.8, 1.2}, Seeds: []int64{1, 2}}
	var err error
	if l.Policies, err = ParsePolicies([]string{"all", "default"}); err != nil {
		t.Fatal(err)
	}
	run := func() []Line {
		var lines []Line
		if err := l.Run(t.Context(), func(line Line) error {
			if line.PodsPerSecond <= 0 {
				t.Errorf("%+v", line)
			}
			line.PodsPerSecond = 0
			lines = append(lines, line)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		return lines
	}
	lines := run()
	if len(lines) != l.Runs() || l.Runs() != 4*len(l.Policies) {
		t.Fatalf("%d lines of %d runs", len(lines), l.Runs())
	}
	refused := false
	for i, line := range lines {
		if want := l.Policies[i/2%len(l.Policies)]; line.Policy != want || line.Seed != l.Seeds[i%2] || line.Load != l.Loads[i/2/len(l.Policies)] {
			t.Errorf("line %d is of %s, load %g, seed %d", i, line.Policy, line.Load, line.Seed)
		}
		refused = refused || line.GapToPackable > 0
		for what, pair := range map[string][2]float64{
			"pods, moved": {line.MIGPodsAccepted, line.MIGPodsPackable}, "slices, moved": {line.MIGSlicesAccepted, line.MIGSlicesPackable},
			"pods": {line.MIGPodsAccepted, line.MIGPodsBound}, "slices": {line.MIGSlicesAccepted, line.MIGSlicesBound},
		} {
			if pair[0] > pair[1] || pair[1] > 100 || pair[0] < 20 {
				t.Errorf("%s, load %g, seed %d: %s: %g accepted, at most %g can be", line.Policy, line.Load, line.Seed, what, pair[0], pair[1])
			}
		}
		if line.Policy == repackName {
			if line.GapToPackable != 0 || line.GPUsOpened != nil || line.SharePodsAccepted != nil {
				t.Errorf("%+v", line)
			}
			continue
		}
		if *line.SharePodsAccepted > line.SharePodsBound || line.SharePodsBound > 100 {
			t.Errorf("%s: %g of the shares accepted, at most %g can be", line.Policy, *line.SharePodsAccepted, line.SharePodsBound)
		}
		if *line.GPUsOpened <= 0 || *line.GPUsOpened > 32 || *line.MIGFragmentation < 0 || *line.MIGFragmentation > 100 || *line.Reconfigurations <= 0 {
			t.Errorf("%+v", line)
		}
	}
	if !refused {
		t.Error("nothing was refused that could have been packed: too easy to tell anything")
	}
	l.Policies, l.Loads = []string{DefaultName}, l.Loads[:1]
	at := slices.IndexFunc(lines, func(line Line) bool { return line.Policy == DefaultName })
	if diff := cmp.Diff(lines[at:at+2], run()); diff != "" {
		t.Errorf("the same again is not the same:\n%s", diff)
	}
}

// TestUnsoundPlacements: what a policy may not do is found.
func TestUnsoundPlacements(t *testing.T) {
	s := newStudy(t, 1, 1, "H100-80GB")
	at := func(i string, start, size int) placement {
		return placement{0, gpu.Instance{Profile: i, Start: start, Size: size}}
	}
	three := pod{pool: 0, slot: 2}
	for name, tc := range map[string]struct {
		p    pod
		at   placement
		want string
	}{
		"a start that is not in the table": {three, at("3g.40gb", 2, 4), "has no placement"},
		"another size":                     {three, at("3g.40gb", 4, 3), "has no placement"},
		"another profile":                  {three, at("2g.20gb", 4, 2), "has no placement"},
		"on another":                       {three, at("3g.40gb", 0, 4), "overlaps"},
		"on a GPU that is shared":          {three, placement{5, gpu.Instance{Profile: "3g.40gb", Size: 4}}, "is of pool -1"},
		"a share in MIG mode":              {pod{pool: -1}, placement{gpu: 0}, "is of pool 0"},
		"too many shares":                  {pod{pool: -1, portion: 4}, placement{gpu: 5}, "is shared to 1800 thousandths"},
	} {
		f := newFleet(s)
		if _, err := f.take(&pod{pool: 0, slot: 1}, at("2g.20gb", 2, 2)); err != nil {
			t.Fatal(err)
		}
		if _, err := f.take(&pod{pool: -1, portion: 4}, placement{gpu: 5}); err != nil {
			t.Fatal(err)
		}
		if _, err := f.take(&tc.p, tc.at); !errors.Is(err, errUnsound) || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: got %v, want %q", name, err, tc.want)
		}
	}
}

// TestReconfigurations: an instance that was left is taken as it is, and one that is in the way is destroyed.
func TestReconfigurations(t *testing.T) {
	s := newStudy(t, 1, 1, "H100-80GB")
	f := newFleet(s)
	two, three := pod{pool: 0, slot: 1}, pod{pool: 0, slot: 2}
	at2, at3 := placement{0, gpu.Instance{Profile: "2g.20gb", Start: 4, Size: 2}}, placement{0, gpu.Instance{Profile: "3g.40gb", Start: 4, Size: 4}}
	var got []bool
	for _, step := range []struct {
		p  *pod
		at placement
	}{{&two, at2}, {&two, at2}, {&three, at3}, {&two, at2}} {
		reconfigured, err := f.take(step.p, step.at)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, reconfigured)
		f.release(step.p, step.at)
	}
	if diff := cmp.Diff([]bool{true, false, true, true}, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if f.opened != 0 || f.held[0] != (counts{}) || !slices.Equal(f.gpus[0].exist, []gpu.Instance{at2.instance}) {
		t.Errorf("%+v", f)
	}
}

func TestInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	l := Lineup{Study: newStudy(t, 1, 1, "H100-80GB"), Loads: []float64{1}, Policies: []string{DefaultName}, Seeds: []int64{1}}
	if err := l.Run(ctx, func(Line) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	stop := errors.New("enough")
	l.Seeds = []int64{1, 2, 3}
	if err := l.Run(t.Context(), func(Line) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("got %v", err)
	}
}
