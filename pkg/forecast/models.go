package forecast

import "math"

// Names of the models.
const (
	LastName        = "last"
	SeasonalName    = "seasonal"
	HoltWintersName = "holt-winters"
)

// model makes forecasts.
type model struct {
	name string
	// least is how many buckets it needs to have been for a season of so many.
	least func(season int) int
	// predict is the forecast of the next buckets, as many as out has.
	predict func(y []float64, season int, out []float64)
}

// models are all, the simplest first.
var models = []model{
	{LastName, func(int) int { return 1 }, predictLast},
	{SeasonalName, func(season int) int { return season }, predictSeasonal},
	{HoltWintersName, func(season int) int { return 2*season + 1 }, predictHoltWinters},
}

// known is the last value that is known of y, going back by step from the index; 0 where none is.
func known(y []float64, i, step int) float64 {
	for ; i >= 0; i -= step {
		if !math.IsNaN(y[i]) {
			return y[i]
		}
	}
	return 0
}

func predictLast(y []float64, _ int, out []float64) {
	last := known(y, len(y)-1, 1)
	for h := range out {
		out[h] = last
	}
}

func predictSeasonal(y []float64, season int, out []float64) {
	for h := range out {
		out[h] = known(y, len(y)-season+h%season, season)
	}
}

// smoothing are the parameters of Holt-Winters' method, each from 0 to 1: how fast level, trend and season follow what is seen, and what
// is left of the trend from one bucket to the next.
type smoothing [4]float64

// alpha, beta, gamma and phi index a smoothing.
const (
	alpha = iota
	beta
	gamma
	phi
)

// The grid that is searched first, and the bounds beyond which the search does not go. Below 0.8 a trend is gone at once, and above 0.98
// it is all but undamped (Hyndman & Athanasopoulos, Forecasting: Principles and Practice, 3rd ed., section 8.2).
var (
	grid = [4][]float64{alpha: {0.05, 0.2, 0.5, 0.9}, beta: {0.01, 0.1, 0.3}, gamma: {0.01, 0.1, 0.3}, phi: {0.8, 0.9, 0.98}}
	low  = smoothing{0.01, 0, 0, 0.8}
	high = smoothing{0.99, 0.5, 0.5, 0.98}
)

// state is level, trend and season after the last bucket.
type state struct {
	level, trend float64
	season       []float64
	// next is the index into season of the next bucket.
	next int
}

// predictHoltWinters is Holt-Winters' method with an additive season and a damped trend (Gardner & McKenzie, Forecasting trends in time
// series, Management Science 31, 1985; the recursions as in Hyndman & Athanasopoulos, section 8.3):
//
//	l(t) = α (y(t) − s(t−m)) + (1−α) (l(t−1) + φ b(t−1))
//	b(t) = β (l(t) − l(t−1)) + (1−β) φ b(t−1)
//	s(t) = γ (y(t) − l(t−1) − φ b(t−1)) + (1−γ) s(t−m)
//	ŷ(t+h) = l(t) + (φ + … + φ^h) b(t) + s(t+h−m⌈h/m⌉)
//
// The parameters are those of the least squared error one bucket ahead: of a grid, and then of steps from its best point along each of
// them that get smaller. A bucket that is missing moves level and trend on as foreseen.
func predictHoltWinters(y []float64, season int, out []float64) {
	begin := beginning(y, season)
	scratch := make([]float64, season)
	best, least := smoothing{}, math.Inf(1)
	try := func(p smoothing) bool {
		if _, e := smooth(y, begin, p, scratch); e < least {
			best, least = p, e
			return true
		}
		return false
	}
	for _, a := range grid[alpha] {
		for _, b := range grid[beta] {
			for _, g := range grid[gamma] {
				for _, f := range grid[phi] {
					try(smoothing{a, b, g, f})
				}
			}
		}
	}
	const rounds = 4
	for step, round := 0.1, 0; round < rounds; step, round = step/2, round+1 {
		for i := range best {
			for _, by := range [...]float64{-step, step} {
				p := best
				p[i] = min(max(p[i]+by, low[i]), high[i])
				try(p)
			}
		}
	}
	s, _ := smooth(y, begin, best, scratch)
	damp, sum := 1.0, 0.0
	for h := range out {
		damp *= best[phi]
		sum += damp
		out[h] = s.level + sum*s.trend + s.season[(s.next+h)%season]
	}
}

// beginning is the state before the first bucket, from the first two seasons: their mean, the change from one to the other, and what each
// place of the season differs by from its season's mean.
func beginning(y []float64, season int) state {
	var mean [2]float64
	for k := range mean {
		sum, n := 0.0, 0
		for _, v := range y[k*season : (k+1)*season] {
			if !math.IsNaN(v) {
				sum, n = sum+v, n+1
			}
		}
		if mean[k] = mean[0]; n > 0 {
			mean[k] = sum / float64(n)
		}
	}
	s := state{trend: (mean[1] - mean[0]) / float64(season), season: make([]float64, season)}
	s.level = mean[0] - s.trend*float64(season+1)/2
	for i := range s.season {
		sum, n := 0.0, 0
		for k := range mean {
			if v := y[k*season+i]; !math.IsNaN(v) {
				sum, n = sum+v-mean[k]-s.trend*(float64(i)-float64(season-1)/2), n+1
			}
		}
		if n > 0 {
			s.season[i] = sum / float64(n)
		}
	}
	return s
}

// smooth runs the recursions over y and returns where they end, with the sum of the squared errors one bucket ahead. The season of the
// state returned is scratch.
func smooth(y []float64, s state, p smoothing, scratch []float64) (state, float64) {
	copy(scratch, s.season)
	s.season = scratch
	sum := 0.0
	for _, v := range y {
		expected := s.level + p[phi]*s.trend
		if i := s.next; math.IsNaN(v) {
			s.level, s.trend = expected, p[phi]*s.trend
		} else {
			e := v - expected - s.season[i]
			sum += e * e
			level := p[alpha]*(v-s.season[i]) + (1-p[alpha])*expected
			s.trend = p[beta]*(level-s.level) + (1-p[beta])*p[phi]*s.trend
			s.level = level
			s.season[i] = p[gamma]*(v-expected) + (1-p[gamma])*s.season[i]
		}
		s.next = (s.next + 1) % len(s.season)
	}
	return s, sum
}
