package forecast

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// weekly is so many days of a week that repeats, with a trend and noise of at most so much.
func weekly(days int, trend, noise float64, seed uint64) []int64 {
	week := []float64{100, 110, 120, 115, 105, 40, 30}
	r := rand.New(rand.NewPCG(seed, 1))
	out := make([]int64, days)
	for i := range out {
		out[i] = int64(max(1000*week[i%7]+1000*trend*float64(i)+1000*noise*(2*r.Float64()-1), 0))
	}
	return out
}

func quantiles(t *testing.T, f Forecast) (p50, p90 []int64) {
	t.Helper()
	for _, p := range f.Points {
		p50, p90 = append(p50, p.P50), append(p90, p.P90)
	}
	return p50, p90
}

func forecastOf(t *testing.T, values []int64, horizon int) Forecast {
	t.Helper()
	f, err := New(values, Options{Horizon: horizon, Season: 7})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestKnownAnswers(t *testing.T) {
	steps := func(values ...int64) []int64 { return values }
	for name, c := range map[string]struct {
		values   []int64
		horizon  int
		model    string
		p50, p90 []int64
		wape     []int64
		note     string
	}{
		"a constant is foreseen by the last value, and nothing beats that": {
			values: slicesRepeat(42, 40), horizon: 3, model: LastName, p50: steps(42, 42, 42), p90: steps(42, 42, 42),
			wape: steps(0, 0, 0), note: "nothing beats the last value",
		},
		"a pure season is foreseen by the season": {
			values: weekly(42, 0, 0, 1), horizon: 7, model: SeasonalName,
			p50:  steps(100_000, 110_000, 120_000, 115_000, 105_000, 40_000, 30_000),
			p90:  steps(100_000, 110_000, 120_000, 115_000, 105_000, 40_000, 30_000),
			wape: steps(396, 0, 0),
		},
		"a short series has the last value, and no quantiles": {
			values: steps(5, 7, 9), horizon: 2, model: LastName, p50: steps(9, 9), p90: steps(9, 9), wape: steps(-1, -1, -1),
			note: "too short to tell how well anything does: 3 buckets are known of at least 5",
		},
		"a series too short for a season has the last value with what it missed": {
			values: steps(10, 20, 10, 20, 10, 20), horizon: 1, model: LastName, p50: steps(30), p90: steps(30), wape: steps(625, -1, -1),
			note: "nothing that the series is long enough for beats the last value; poor: it misses more than half of what comes",
		},
		"a queue that is idle": {
			values: slicesRepeat(0, 40), horizon: 2, model: LastName, p50: steps(0, 0), p90: steps(0, 0), wape: steps(-1, -1, -1),
			note: "nothing was wanted in the time that the models are judged by",
		},
		"the last value is the last that is known": {
			values: steps(5, Missing, Missing), horizon: 1, model: LastName, p50: steps(5), p90: steps(5), wape: steps(-1, -1, -1),
			note: "too short to tell how well anything does: 3 buckets are known of at least 4",
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := forecastOf(t, c.values, c.horizon)
			p50, p90 := quantiles(t, f)
			var wape []int64
			for _, s := range f.Skills {
				wape = append(wape, s.WAPEPerMille)
			}
			got := fmt.Sprint(f.Model, p50, p90, wape, f.Note)
			if want := fmt.Sprint(c.model, c.p50, c.p90, c.wape, c.note); got != want {
				t.Errorf("got  %s\nwant %s", got, want)
			}
		})
	}
}

func slicesRepeat(v int64, n int) []int64 {
	out := make([]int64, n)
	for i := range out {
		out[i] = v
	}
	return out
}

// TestHoltWintersByHand: two steps of the recursions with a season of two, computed with pencil and paper.
func TestHoltWintersByHand(t *testing.T) {
	begin := state{level: 10, trend: 2, season: []float64{1, -1}}
	s, sum := smooth([]float64{14, 10}, begin, smoothing{alpha: 0.5, beta: 0.5, gamma: 0.5, phi: 0.5}, make([]float64, 2))
	// 1: expects 10+1 and 1: misses 2. level = .5·13 + .5·11 = 12, trend = .5·2 + .5·1 = 1.5, season = .5·3 + .5·1 = 2.
	// 2: expects 12+.75 and −1: misses −1.75. level = .5·11 + .5·12.75 = 11.875, trend = .5·−.125 + .5·.75 = .3125,
	//    season = .5·−2.75 + .5·−1 = −1.875.
	if s.level != 11.875 || s.trend != 0.3125 || s.season[0] != 2 || s.season[1] != -1.875 || sum != 4+1.75*1.75 {
		t.Errorf("got %+v, squared errors %v", s, sum)
	}
}

func TestHoltWintersFollowsATrendWithASeason(t *testing.T) {
	f := forecastOf(t, weekly(70, 1.5, 2, 3), 7)
	last, holt := f.Skills[0].WAPEPerMille, f.Skills[2].WAPEPerMille
	if f.Model != HoltWintersName || holt > 40 || last < 4*holt || !f.BeatsLast || f.Note != "" {
		t.Errorf("model %s, %+v, note %q", f.Model, f.Skills, f.Note)
	}
	want := weekly(77, 1.5, 0, 3)[70:]
	for h, p := range f.Points {
		if off := math.Abs(float64(p.P50-want[h])) / float64(want[h]); off > 0.08 || p.P90 < p.P50 {
			t.Errorf("%d ahead: %+v, want about %d", h+1, p, want[h])
		}
	}
}

// TestADampedTrendNeverExplodes: however far ahead, the forecast stays within what level, season and the whole of a damped trend can
// make, for series that end in a steep rise.
func TestADampedTrendNeverExplodes(t *testing.T) {
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 7))
		y := make([]float64, 30)
		for i := range y {
			y[i] = 1000 + 10*r.Float64()
			if i > 20 {
				y[i] *= math.Pow(1.5, float64(i-20))
			}
		}
		out := make([]float64, 5000)
		predictHoltWinters(y, 7, out)
		// The season moves it by so much at most between two buckets that have the same place in it.
		for h := 14; h < len(out); h++ {
			if a, b := math.Abs(out[h-7]-out[h-14]), math.Abs(out[h]-out[h-7]); b > a+1e-6*math.Abs(out[h]) {
				t.Fatalf("seed %d, %d ahead: moved by %v, %v a season before", seed, h, b, a)
			}
		}
		if most := 100 * y[29]; math.Abs(out[len(out)-1]) > most {
			t.Errorf("seed %d: %v after 5000 buckets, the series ended at %v", seed, out[len(out)-1], y[29])
		}
	}
}

func TestMissingIsNotZero(t *testing.T) {
	values := weekly(63, 0, 0, 1)
	for i := 3; i < len(values)-7; i += 5 {
		values[i] = Missing
	}
	f := forecastOf(t, values, 7)
	p50, _ := quantiles(t, f)
	if diff := cmp.Diff(weekly(7, 0, 0, 1), p50); f.Model != SeasonalName || diff != "" {
		t.Errorf("model %s (-want +got):\n%s", f.Model, diff)
	}
	for _, s := range f.Skills[1:] {
		if s.WAPEPerMille > 60 {
			t.Errorf("%s misses %d per mille: gaps are taken for nothing", s.Model, s.WAPEPerMille)
		}
	}
}

// TestP90IsRarelyExceeded: with noise of one kind about a tenth of what comes is above P90, and about half above P50.
func TestP90IsRarelyExceeded(t *testing.T) {
	above50, above90, all := 0, 0, 0
	for seed := range uint64(60) {
		values := weekly(77, 0, 20, seed)
		f := forecastOf(t, values[:70], 7)
		for h, p := range f.Points {
			all++
			if values[70+h] > p.P50 {
				above50++
			}
			if values[70+h] > p.P90 {
				above90++
			}
		}
	}
	if p50, p90 := 100*above50/all, 100*above90/all; p50 < 40 || p50 > 60 || p90 < 4 || p90 > 18 {
		t.Errorf("%d%% are above P50 and %d%% above P90 of %d", p50, p90, all)
	}
}

func TestTheSameSeriesHasTheSameForecast(t *testing.T) {
	values := weekly(60, 1, 10, 5)
	want := forecastOf(t, values, 14)
	for range 3 {
		if diff := cmp.Diff(want, forecastOf(t, values, 14)); diff != "" {
			t.Fatal(diff)
		}
	}
}

// TestAnySeriesHasAForecast: nothing negative, P90 no less than P50, the chosen model is none that is worse than another, and last is
// always there.
func TestAnySeriesHasAForecast(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	for range 300 {
		values := make([]int64, 1+r.IntN(50))
		for i := range values {
			switch r.IntN(5) {
			case 0:
				values[i] = Missing
			case 1:
				values[i] = r.Int64N(1 << 60)
			case 2:
			default:
				values[i] = r.Int64N(1000)
			}
		}
		o := Options{Horizon: 1 + r.IntN(9), Season: 2 + r.IntN(6)}
		f, err := New(values, o)
		if err != nil {
			if !errors.Is(err, ErrInvalid) || strings.Trim(fmt.Sprint(values), "[-1 ]") != "" {
				t.Fatalf("%v: %v", values, err)
			}
			continue
		}
		if len(f.Points) != o.Horizon || f.Skills[0].Model != LastName {
			t.Fatalf("%v: %+v", values, f)
		}
		for _, p := range f.Points {
			if p.P50 < 0 || p.P90 < p.P50 {
				t.Fatalf("%v: %+v", values, f.Points)
			}
		}
		var chosen int64
		for _, s := range f.Skills {
			if s.Model == f.Model {
				chosen = s.WAPEPerMille
			}
		}
		for _, s := range f.Skills {
			if s.Left == "" && s.WAPEPerMille < chosen {
				t.Fatalf("%v: %s was chosen of %+v", values, f.Model, f.Skills)
			}
		}
	}
}

func TestBadInput(t *testing.T) {
	for name, c := range map[string]struct {
		values []int64
		o      Options
		want   string
	}{
		"no bucket":              {nil, Options{1, 7}, "nothing is known of any of its 0 buckets"},
		"nothing known":          {[]int64{Missing}, Options{1, 7}, "nothing is known of any of its 1 buckets"},
		"a negative amount":      {[]int64{1, -2}, Options{1, 7}, "bucket 1 is -2: want 0 or more, or -1 for a missing one"},
		"no horizon":             {[]int64{1}, Options{0, 7}, "the horizon is 0: want 1 to 100000 buckets"},
		"a season of one":        {[]int64{1}, Options{1, 1}, "the season is 1: want 2 to 100000 buckets"},
		"more than can be asked": {make([]int64, MaxBuckets+1), Options{1, 7}, "the series has 100001 buckets: want at most 100000"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := New(c.values, c.o)
			if !errors.Is(err, ErrInvalid) || !strings.HasSuffix(err.Error(), c.want) {
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
}

func BenchmarkNew(b *testing.B) {
	values := weekly(90, 1, 10, 1)
	for b.Loop() {
		if _, err := New(values, Options{Horizon: 7, Season: 7}); err != nil {
			b.Fatal(err)
		}
	}
}
