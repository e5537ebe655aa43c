package report

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// The size of a chart in its own units, and the place left around the plot for labels. The page scales it.
const (
	chartWidth, chartHeight  = 560.0, 310.0
	plotLeft, plotRight      = 56.0, chartWidth - 20
	plotTop, plotBottom      = 30.0, chartHeight - 46
	xTicks, yTicks, rowTicks = 8, 7, 14
)

// palette gives every run a number, which is its colour and its dash, throughout the page.
type palette struct{ names []string }

// colours is how many colours and dashes report.css has.
const colours = 8

func (p *palette) of(run string) int {
	i := slices.Index(p.names, run)
	if i < 0 {
		i = len(p.names)
		p.names = append(p.names, run)
	}
	return i % colours
}

// lines is a line chart before it is drawn.
type lines struct {
	title, about  string
	xLabel, xUnit string // the unit is "%" or "s"
	unit          string
	decimals      int
	zero, hundred bool // the axis of values begins at 0, ends at 100
	lines         []plotted
	marks         []marked
}

type plotted struct {
	run          string
	x, y, lo, hi []float64
}

// marked is a level that runs are measured against.
type marked struct {
	y    float64
	text string
}

// chart is a line chart as the template draws it.
type chart struct {
	ID                                      int
	Title, About, Label, XLabel, YLabel     string
	Width, Height, Left, Right, Top, Bottom string
	Middle, XLabelY, XTickY, YTickX         string
	XTicks, YTicks                          []tick
	Lines                                   []path
	Marks                                   []mark
	Legend                                  []legend
	Values                                  grid
	Live                                    liveChart
}

type tick struct{ At, Text string }

type path struct {
	Class      int
	Line, Band string
}

type mark struct{ Y, TextY, Text string }

type legend struct {
	Class int
	Name  string
}

// grid is a plain table.
type grid struct {
	Caption string
	// Names is set when the first two columns are names: the others are figures.
	Names bool
	Head  []string
	Rows  [][]string
}

// liveChart is what the script knows of a chart.
type liveChart struct {
	Plot     [4]float64 `json:"plot"` // left, right, top, bottom
	X        [2]float64 `json:"x"`
	XUnit    string     `json:"xUnit"`
	Unit     string     `json:"unit"`
	Decimals int        `json:"decimals"`
	Lines    []liveLine `json:"lines"`
}

type liveLine struct {
	Run   string    `json:"run"`
	Class int       `json:"class"`
	X     []float64 `json:"x"`
	Y     []float64 `json:"y"`
	Low   []float64 `json:"low,omitempty"`
	High  []float64 `json:"high,omitempty"`
}

// draw lays the chart out; ok is false when it has nothing to show.
func (l *lines) draw(p *palette, id int) (c chart, ok bool) {
	xLow, xHigh, yLow, yHigh := l.extent()
	if xLow > xHigh {
		return chart{}, false
	}
	scale, xName := xScale(l.xUnit, xHigh-xLow)
	xAt, xDecimals := ticks(xLow/scale, xHigh/scale, xTicks)
	yAt, yDecimals := ticks(yLow, yHigh, yTicks)
	xHigh = max(xHigh, xLow+1e-9)
	yLow, yHigh = yAt[0], yAt[len(yAt)-1]
	x := func(v float64) float64 { return plotLeft + (v-xLow)/(xHigh-xLow)*(plotRight-plotLeft) }
	y := func(v float64) float64 { return plotBottom - (v-yLow)/(yHigh-yLow)*(plotBottom-plotTop) }

	c = chart{
		ID: id, Title: l.title, About: l.about, XLabel: l.xLabel + ", " + xName, YLabel: l.unit,
		Width: coordinate(chartWidth), Height: coordinate(chartHeight),
		Left: coordinate(plotLeft), Right: coordinate(plotRight), Top: coordinate(plotTop), Bottom: coordinate(plotBottom),
		Middle: coordinate((plotLeft + plotRight) / 2), XLabelY: coordinate(chartHeight - 6), XTickY: coordinate(plotBottom + 18),
		YTickX: coordinate(plotLeft - 7),
		Live: liveChart{
			Plot: [4]float64{plotLeft, plotRight, plotTop, plotBottom}, X: [2]float64{xLow, xHigh}, XUnit: l.xUnit, Unit: l.unit, Decimals: l.decimals,
		},
	}
	for _, v := range xAt {
		if at := v * scale; at >= xLow-1e-9 && at <= xHigh*(1+1e-9) {
			c.XTicks = append(c.XTicks, tick{coordinate(x(at)), number(v, xDecimals)})
		}
	}
	for _, v := range yAt {
		c.YTicks = append(c.YTicks, tick{coordinate(y(v)), number(v, yDecimals)})
	}
	for _, m := range l.marks {
		c.Marks = append(c.Marks, mark{coordinate(y(m.y)), coordinate(y(m.y) - 5), m.text})
	}
	var ends []string
	for _, one := range l.lines {
		class := p.of(one.run)
		drawn := path{Class: class, Line: pathOf(one.x, one.y, x, y, false)}
		if one.lo != nil {
			back := slices.Clone(one.lo)
			slices.Reverse(back)
			xBack := slices.Clone(one.x)
			slices.Reverse(xBack)
			drawn.Band = pathOf(one.x, one.hi, x, y, false) + pathOf(xBack, back, x, y, true) + "Z"
		}
		c.Lines = append(c.Lines, drawn)
		c.Legend = append(c.Legend, legend{class, one.run})
		c.Live.Lines = append(c.Live.Lines, liveLine{
			one.run, class, rounded(one.x, 2), rounded(one.y, l.decimals), rounded(one.lo, l.decimals), rounded(one.hi, l.decimals),
		})
		if n := len(one.y); n > 0 {
			ends = append(ends, one.run+" "+unit(number(one.y[n-1], l.decimals), l.unit))
		}
	}
	c.Label = fmt.Sprintf("%s. Line chart; at the end: %s.", l.title, strings.Join(ends, ", "))
	c.Values = l.values(scale, xName)
	return c, true
}

// extent is what the axes have to hold; xLow is above xHigh when there is nothing.
func (l *lines) extent() (xLow, xHigh, yLow, yHigh float64) {
	xLow, xHigh, yLow, yHigh = math.Inf(1), math.Inf(-1), math.Inf(1), math.Inf(-1)
	for _, one := range l.lines {
		for _, ys := range [][]float64{one.y, one.lo, one.hi} {
			for _, v := range ys {
				yLow, yHigh = min(yLow, v), max(yHigh, v)
			}
		}
		if n := len(one.x); n > 0 {
			xLow, xHigh = min(xLow, one.x[0]), max(xHigh, one.x[n-1])
		}
	}
	for _, m := range l.marks {
		yLow, yHigh = min(yLow, m.y), max(yHigh, m.y)
	}
	if l.zero {
		yLow = min(yLow, 0)
	}
	if l.hundred {
		yHigh = max(yHigh, 100)
	}
	return xLow, xHigh, yLow, yHigh
}

// xScale is what an axis is divided by and what its unit is then.
func xScale(of string, span float64) (scale float64, name string) {
	if of != "s" {
		return 1, of
	}
	for _, u := range []struct {
		seconds float64
		name    string
	}{{86400, "days"}, {3600, "hours"}, {60, "minutes"}} {
		if span >= 3*u.seconds {
			return u.seconds, u.name
		}
	}
	return 1, "seconds"
}

// pathOf is the SVG path through the points; on continues one that was begun.
func pathOf(xs, ys []float64, x, y func(float64) float64, on bool) string {
	var b strings.Builder
	for i := range xs {
		command := "L"
		if i == 0 && !on {
			command = "M"
		}
		b.WriteString(command + coordinate(x(xs[i])) + " " + coordinate(y(ys[i])))
	}
	return b.String()
}

// values is the chart as a table, with a row at each of some round points.
func (l *lines) values(scale float64, xName string) grid {
	xLow, xHigh, _, _ := l.extent()
	at, decimals := ticks(xLow/scale, xHigh/scale, rowTicks)
	g := grid{Caption: l.title, Head: []string{l.xLabel + ", " + xName}}
	for _, one := range l.lines {
		g.Head = append(g.Head, strings.TrimSuffix(one.run+", "+l.unit, ", "))
	}
	for _, v := range at {
		if v*scale < xLow-1e-9 || v*scale > xHigh*(1+1e-9) {
			continue
		}
		row := []string{number(v, decimals)}
		for _, one := range l.lines {
			// The last value that is not after v.
			i, found := slices.BinarySearch(one.x, v*scale+1e-9)
			if !found {
				i--
			}
			if i < 0 {
				row = append(row, "–")
			} else {
				row = append(row, number(one.y[i], l.decimals))
			}
		}
		g.Rows = append(g.Rows, row)
	}
	return g
}

// rounded keeps the file small; nil stays nil.
func rounded(values []float64, decimals int) []float64 {
	if values == nil {
		return nil
	}
	by := math.Pow10(decimals)
	out := make([]float64, len(values))
	for i, v := range values {
		out[i] = math.Round(v*by) / by
	}
	return out
}

// workload is the charts of one workload.
type workload struct {
	Name   string
	Legend []legend
	Charts []chart
}

// zoomFrom is from where a chart shows how allocation ends: before, all policies are alike.
const zoomFrom = 85

// curveCharts are three charts for each workload.
func curveCharts(curves []Curve, p *palette, next func() int) []workload {
	var out []workload
	for _, group := range groups(curves, func(c Curve) string { return c.Workload }) {
		percent := func(title, about string) lines {
			return lines{title: title, about: about, xLabel: "arrived", xUnit: "%", unit: "%", decimals: 2}
		}
		alloc := percent("Allocated", "What is given out of all GPUs, while more and more arrives.")
		alloc.zero, alloc.hundred = true, true
		zoom := percent("Allocated, when it gets tight", fmt.Sprintf("The same from %d\u00a0%% arrived on.", zoomFrom))
		fragments := percent("Fragments", "Idle GPU capacity that the typical pod cannot use, in percent of all GPUs.")
		fragments.zero = true
		w := workload{Name: group[0].Workload}
		banded, bound, bounds := false, 0.0, 0
		for _, c := range group {
			w.Legend = append(w.Legend, legend{p.of(c.Run), c.Run})
			whole := plotted{c.Run, c.Arrived, c.Alloc.Mean, c.Alloc.Min, c.Alloc.Max}
			alloc.lines = append(alloc.lines, whole)
			if end := whole.from(zoomFrom); len(end.x) > 1 {
				zoom.lines = append(zoom.lines, end)
			}
			fragments.lines = append(fragments.lines, plotted{c.Run, c.Arrived, c.Fragments.Mean, c.Fragments.Min, c.Fragments.Max})
			banded = banded || c.Alloc.Min != nil
			if c.BoundAt100 != nil {
				bound, bounds = bound+*c.BoundAt100, bounds+1
			}
		}
		if bounds > 0 {
			bound /= float64(bounds)
			zoom.marks = []marked{{bound, fmt.Sprintf("bound at 100\u00a0%%: %s\u00a0%%", number(bound, 2))}}
		}
		if banded {
			alloc.about += " Lines are means over the seeds, bands from the least to the most."
		}
		for _, l := range []lines{alloc, zoom, fragments} {
			if c, ok := l.draw(p, next()); ok {
				c.Legend = nil // one for all three
				w.Charts = append(w.Charts, c)
			}
		}
		out = append(out, w)
	}
	return out
}

// from is the part of a line from x on.
func (l plotted) from(x float64) plotted {
	i, _ := slices.BinarySearch(l.x, x)
	l.x, l.y = l.x[i:], l.y[i:]
	if l.lo != nil {
		l.lo, l.hi = l.lo[i:], l.hi[i:]
	}
	return l
}

func seriesCharts(series []Series, p *palette, next func() int) []chart {
	var out []chart
	for _, s := range series {
		l := lines{title: s.Title, about: s.About, xLabel: "virtual time", xUnit: "s", unit: s.Unit, decimals: 1, zero: true, hundred: s.Unit == "%"}
		for _, one := range s.Lines {
			l.lines = append(l.lines, plotted{run: one.Run, x: one.Seconds, y: one.Values})
		}
		if c, ok := l.draw(p, next()); ok {
			out = append(out, c)
		}
	}
	return out
}

// groups splits a list by a key, keeping the order in which keys and members come.
func groups[T any](list []T, key func(T) string) [][]T {
	var out [][]T
	index := map[string]int{}
	for _, v := range list {
		i, ok := index[key(v)]
		if !ok {
			i = len(out)
			index[key(v)] = i
			out = append(out, nil)
		}
		out[i] = append(out[i], v)
	}
	return out
}
