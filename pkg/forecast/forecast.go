package forecast

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
)

// Missing is the value of a bucket of which nothing is known.
const Missing int64 = -1

// ErrInvalid is wrapped by every error of this package: a series or an option that has no meaning.
var ErrInvalid = errors.New("nothing can be forecast")

// Bounds of what is computed with.
const (
	// MaxBuckets is the longest series, eleven years of hours.
	MaxBuckets = 100_000
	// maxOrigins bounds the origins, the latest: what was long ago says little of how well a model does now, and each costs a fit.
	maxOrigins = 60
	// minOrigins is how many a model is judged by at least.
	minOrigins = 3
)

// Options say what is forecast.
type Options struct {
	// Horizon is how many buckets ahead, at least 1.
	Horizon int
	// Season is how many buckets a season has, at least 2: 7 for days that repeat each week, 24 or 168 for hours.
	Season int
}

// Forecast is what is expected of a series.
type Forecast struct {
	// Model is the one that counts.
	Model string
	// Points are the buckets ahead.
	Points []Point
	// Skills are those of all models, the simplest first.
	Skills []Skill
	// Origins is how many forecasts the skills come from, 0 where the series is too short for any.
	Origins int
	// BeatsLast says that the model is not last, and missed less.
	BeatsLast bool
	// Note says in words what to hold of it: empty when there is nothing to be said against it.
	Note string
}

// Point is what is expected of one bucket, at least 0: as likely more than P50 as less, and with one chance in ten more than P90. Where
// nothing was missed yet, for the series is too short to tell, both are the forecast itself.
type Point struct {
	P50, P90 int64
}

// Skill is how well a model does.
type Skill struct {
	Model string
	// WAPEPerMille is what it missed, in thousandths of what came; -1 where that is not known.
	WAPEPerMille int64
	// Left says why the model was left out; empty when it was not.
	Left string
}

// New forecasts the series. Errors wrap [ErrInvalid].
func New(values []int64, o Options) (Forecast, error) {
	y, err := read(values, o)
	if err != nil {
		return Forecast{}, err
	}
	var f Forecast
	var tried []model
	first := 0
	for _, m := range models {
		// It makes forecasts from the first bucket by which it has what it needs, and from some after that.
		need := m.least(o.Season) + o.Horizon + minOrigins - 1
		s := Skill{Model: m.name, WAPEPerMille: -1}
		if len(y) < need {
			s.Left = fmt.Sprintf("%d buckets are known of at least %d", len(y), need)
		} else {
			tried, first = append(tried, m), max(first, m.least(o.Season))
		}
		f.Skills = append(f.Skills, s)
	}
	if len(tried) == 0 {
		f.Model = LastName
		f.Points = make([]Point, o.Horizon)
		out := make([]float64, o.Horizon)
		predictLast(y, o.Season, out)
		for h, v := range out {
			f.Points[h] = Point{P50: round(v), P90: round(v)}
		}
		f.Note = "too short to tell how well anything does: " + f.Skills[0].Left
		return f, nil
	}
	first = max(first, len(y)-o.Horizon-maxOrigins+1)
	f.Origins = len(y) - o.Horizon - first + 1
	best := -1
	var bestMisses [][]float64
	for i, m := range tried {
		misses, wape := judge(m, y, first, o)
		f.Skills[i].WAPEPerMille = wape // models are left out from the back: those that need more need longer series
		if best < 0 || wape >= 0 && wape < f.Skills[best].WAPEPerMille {
			best, bestMisses = i, misses
		}
	}
	f.Model = tried[best].name
	f.BeatsLast = best > 0
	f.Points = points(tried[best], y, bestMisses, o)
	f.Note = note(&f)
	return f, nil
}

// read checks the input and turns it into floats, what is missing into NaN.
func read(values []int64, o Options) ([]float64, error) {
	switch {
	case o.Horizon < 1 || o.Horizon > MaxBuckets:
		return nil, fmt.Errorf("%w: the horizon is %d: want 1 to %d buckets", ErrInvalid, o.Horizon, MaxBuckets)
	case o.Season < 2 || o.Season > MaxBuckets:
		return nil, fmt.Errorf("%w: the season is %d: want 2 to %d buckets", ErrInvalid, o.Season, MaxBuckets)
	case len(values) > MaxBuckets:
		return nil, fmt.Errorf("%w: the series has %d buckets: want at most %d", ErrInvalid, len(values), MaxBuckets)
	}
	y := make([]float64, len(values))
	some := false
	for i, v := range values {
		switch {
		case v == Missing:
			y[i] = math.NaN()
		case v < 0:
			return nil, fmt.Errorf("%w: bucket %d is %d: want 0 or more, or %d for a missing one", ErrInvalid, i, v, Missing)
		default:
			y[i], some = float64(v), true
		}
	}
	if !some {
		return nil, fmt.Errorf("%w: nothing is known of any of its %d buckets", ErrInvalid, len(values))
	}
	return y, nil
}

// judge makes the model's forecasts at all origins from the first: what they missed by how many buckets ahead (what came less what was
// foreseen), and all of it in thousandths of what came, -1 where nothing came.
func judge(m model, y []float64, first int, o Options) (misses [][]float64, wapePerMille int64) {
	misses = make([][]float64, o.Horizon)
	out := make([]float64, o.Horizon)
	var missed, came float64
	for origin := first; origin+o.Horizon <= len(y); origin++ {
		m.predict(y[:origin], o.Season, out)
		for h, v := range out {
			actual := y[origin+h]
			if math.IsNaN(actual) {
				continue
			}
			v = max(v, 0)
			misses[h] = append(misses[h], actual-v)
			missed += math.Abs(actual - v)
			came += actual
		}
	}
	if came == 0 {
		return misses, -1
	}
	return misses, round(1000 * missed / came)
}

// points are the model's forecast with what it missed.
func points(m model, y []float64, misses [][]float64, o Options) []Point {
	out := make([]float64, o.Horizon)
	m.predict(y, o.Season, out)
	p := make([]Point, o.Horizon)
	for h, v := range out {
		v = max(v, 0)
		p[h].P50 = round(v + quantile(misses[h], 50))
		p[h].P90 = max(round(v+quantile(misses[h], 90)), p[h].P50)
	}
	return p
}

// quantile is the least of the values that so many percent of them do not exceed; 0 of none. It sorts them.
func quantile(values []float64, percent int) float64 {
	if len(values) == 0 {
		return 0
	}
	slices.Sort(values)
	return values[max((percent*len(values)+99)/100, 1)-1]
}

// round is the amount as an integer, at least 0.
func round(v float64) int64 {
	if !(v > 0) {
		return 0
	}
	return int64(min(math.Round(v), 1<<62))
}

// poorPerMille is the WAPE above which a forecast is called poor: it misses half of what comes.
const poorPerMille = 500

// note is what to hold of the forecast.
func note(f *Forecast) string {
	chosen := slices.IndexFunc(f.Skills, func(s Skill) bool { return s.Model == f.Model })
	wape := f.Skills[chosen].WAPEPerMille
	if wape < 0 {
		return "nothing was wanted in the time that the models are judged by"
	}
	var notes []string
	switch left := f.Skills[len(f.Skills)-1].Left != ""; {
	case f.BeatsLast:
	case left:
		notes = append(notes, "nothing that the series is long enough for beats the last value")
	default:
		notes = append(notes, "nothing beats the last value")
	}
	if wape > poorPerMille {
		notes = append(notes, "poor: it misses more than half of what comes")
	}
	return strings.Join(notes, "; ")
}
