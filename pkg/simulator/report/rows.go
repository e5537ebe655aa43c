package report

import (
	"cmp"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// rows is a chart of horizontal boxes or bars, one below the other, as the template draws it. Rows of one label (a queue, a
// size of gang) stand together, one for each run.
type rows struct {
	Title, About, Label, AxisLabel    string
	Width, Height, Left, Right        string
	Top, Bottom, TickY, Middle, AxisY string
	Ticks                             []tick
	Rows                              []row
	Limit                             string // where a line across all rows stands; empty for none
	Legend                            []legend
	Values                            grid
}

type row struct {
	Class int
	Label string // of the first of those that stand together
	Text  string // behind a bar
	Tip   string
	// Height is of the row, and High of what is drawn in it; Mid is its middle.
	Y, Mid, Height, High string
	LabelX, TextX        string // where the texts stand
	// A bar has Width; a box has the others, but for Q1, Box and Max when they were not measured.
	X, Width                    string
	Low, Q1, Median, Box, P95   string
	Max, WhiskerTop, WhiskerEnd string
}

const (
	rowsLeft, rowsRight = 128.0, chartWidth - 16
	rowHeight, rowGap   = 17.0, 9.0
	rowsBelow           = 46.0
	labelRunes          = 14
)

// measured is one row before it is drawn.
type measured struct {
	label, run string
	times      *Times
	value      float64
	// text stands behind a bar, and more with it where there is room.
	text, more, tip string
}

// place is the rows' places from top to bottom; it returns where the last one ends.
func (r *rows) place(list []measured, p *palette, draw func(measured, *row)) {
	y := 6.0
	for i, m := range list {
		first := i == 0 || list[i-1].label != m.label
		if first && i > 0 {
			y += rowGap
		}
		one := row{
			Class: p.of(m.run), Y: coordinate(y), Mid: coordinate(y + (rowHeight-3)/2), Height: coordinate(rowHeight), High: coordinate(rowHeight - 3),
			LabelX: coordinate(rowsLeft - 8), Tip: m.tip, WhiskerTop: coordinate(y + 3), WhiskerEnd: coordinate(y + rowHeight - 6),
		}
		if first {
			one.Label = cut(m.label)
		}
		draw(m, &one)
		r.Rows = append(r.Rows, one)
		y += rowHeight
	}
	r.Width, r.Left, r.Right, r.Top = coordinate(chartWidth), coordinate(rowsLeft), coordinate(rowsRight), "2"
	r.Height, r.Bottom, r.TickY, r.AxisY = coordinate(y+rowsBelow), coordinate(y+4), coordinate(y+20), coordinate(y+rowsBelow-6)
	r.Middle = coordinate((rowsLeft + rowsRight) / 2)
	r.Label = fmt.Sprintf("%s. The table below has the values.", r.Title)
	seen := map[string]bool{}
	for _, m := range list {
		if !seen[m.run] {
			seen[m.run] = true
			r.Legend = append(r.Legend, legend{p.of(m.run), m.run})
		}
	}
}

// cut shortens a name to what has room; the table has it whole.
func cut(name string) string {
	if all := []rune(name); len(all) > labelRunes {
		return string(all[:labelRunes-1]) + "…"
	}
	return name
}

// timeTicks are the ticks of a logarithmic axis of times.
var timeTicks = []struct {
	seconds float64
	text    string
}{
	{1, "≤\u00a01\u00a0s"},
	{10, "10\u00a0s"},
	{60, "1\u00a0min"},
	{600, "10\u00a0min"},
	{3600, "1\u00a0h"},
	{6 * 3600, "6\u00a0h"},
	{86400, "1\u00a0d"},
	{7 * 86400, "7\u00a0d"},
	{30 * 86400, "30\u00a0d"},
	{365 * 86400, "1\u00a0a"},
}

// boxes draws percentiles: a box from the 25th to the 75th with the median in it, whiskers from the least to the 95th, and a
// dot for the most. ok is false when there are none.
func boxes(title, about, what string, list []measured, p *palette) (r rows, ok bool) {
	var shown []measured
	high := 60.0
	for _, m := range list {
		if m.times != nil {
			shown = append(shown, m)
			high = max(high, m.times.P95, deref(m.times.Max))
		}
	}
	if len(shown) == 0 {
		return rows{}, false
	}
	x := func(seconds float64) float64 {
		return rowsLeft + math.Log(max(seconds, 1))/math.Log(high)*(rowsRight-rowsLeft)
	}
	r = rows{Title: title, About: about, AxisLabel: "logarithmic"}
	room := 0.0 // from where on there is room for a tick's text
	for _, t := range timeTicks {
		if at := x(t.seconds); t.seconds <= high && at >= room {
			r.Ticks = append(r.Ticks, tick{coordinate(at), t.text})
			room = at + 54
		}
	}
	r.Values = grid{Caption: title, Names: true, Head: []string{what, "run", "least", "25\u00a0%", "median", "75\u00a0%", "95\u00a0%", "most"}}
	for i := range shown {
		m := &shown[i]
		t := m.times
		cells := []string{m.label, m.run}
		m.tip = m.label + ", " + m.run + ":"
		for i, v := range []*float64{t.Min, t.P25, &t.P50, t.P75, &t.P95, t.Max} {
			if v == nil {
				cells = append(cells, "–")
				continue
			}
			cells = append(cells, duration(*v))
			m.tip += "\n" + r.Values.Head[i+2] + ": " + duration(*v)
		}
		r.Values.Rows = append(r.Values.Rows, cells)
	}
	r.place(shown, p, func(m measured, one *row) {
		t := m.times
		one.Low, one.Median, one.P95 = coordinate(x(deref(cmp.Or(t.Min, t.P25, &t.P50)))), coordinate(x(t.P50)), coordinate(x(t.P95))
		if t.P25 != nil && t.P75 != nil {
			one.Q1, one.Box = coordinate(x(*t.P25)), coordinate(max(x(*t.P75)-x(*t.P25), 1))
		}
		if t.Max != nil {
			one.Max = coordinate(x(*t.Max))
		}
	})
	return r, true
}

// bars draws values from 0; limit is a value that a line stands at, 0 for none.
func bars(title, about, what, unitOf string, limit float64, list []measured, p *palette) (r rows, ok bool) {
	if len(list) == 0 {
		return rows{}, false
	}
	high := limit
	for _, m := range list {
		high = max(high, m.value)
	}
	at, decimals := ticks(0, high, 5)
	high = at[len(at)-1]
	// Behind the longest bar there is room for its text.
	x := func(v float64) float64 { return rowsLeft + v/high*(rowsRight-rowsLeft)*0.72 }
	r = rows{Title: title, About: about, AxisLabel: unitOf, Values: grid{Caption: title, Names: true, Head: []string{what, "run", unitOf, ""}}}
	for _, v := range at {
		r.Ticks = append(r.Ticks, tick{coordinate(x(v)), number(v, decimals)})
	}
	if limit > 0 {
		r.Limit = coordinate(x(limit))
	}
	for i := range list {
		m := &list[i]
		m.tip = strings.TrimSuffix(fmt.Sprintf("%s, %s: %s; %s", m.label, m.run, m.text, m.more), "; ")
		r.Values.Rows = append(r.Values.Rows, []string{m.label, m.run, short(m.value), m.more})
	}
	r.place(list, p, func(m measured, one *row) {
		one.X, one.Width, one.Text = coordinate(rowsLeft), coordinate(max(x(m.value)-rowsLeft, 1)), m.text
		one.TextX = coordinate(x(m.value) + 6)
	})
	return r, true
}

// queueCharts are waits, completion times and use of budgets.
func queueCharts(queues []Queue, p *palette) []rows {
	var waits, completions, budgets []measured
	for _, group := range groups(queues, func(q Queue) string { return q.Name }) {
		for _, q := range group {
			waits = append(waits, measured{label: q.Name, run: q.Run, times: q.Wait})
			completions = append(completions, measured{label: q.Name, run: q.Run, times: q.Completion})
			if b := q.Budget; b != nil {
				used := 100 * b.UsedGPUHours / b.GrantedGPUHours
				budgets = append(budgets, measured{
					label: q.Name, run: q.Run, value: used,
					text: fmt.Sprintf("%s\u00a0%%", short(used)),
					more: fmt.Sprintf("%s of %s GPU-hours", short(b.UsedGPUHours), short(b.GrantedGPUHours)),
				})
			}
		}
	}
	const key = "Box: the middle half, with the median; whiskers: the least and 95\u00a0%; dot: the most."
	var out []rows
	if r, ok := boxes("Waits", "From submission to start. "+key, "queue", waits, p); ok {
		out = append(out, r)
	}
	if r, ok := boxes("Completion times", "From submission to end. "+key, "queue", completions, p); ok {
		out = append(out, r)
	}
	if r, ok := bars("GPU-hours used", "In percent of what the queue was entitled to, by its share or its budget; the line is all of it.", "queue", "%", 100, budgets, p); ok {
		out = append(out, r)
	}
	return out
}

// queueTable is the figures of queues that no chart has.
func queueTable(queues []Queue) grid {
	g := grid{Caption: "Jobs by queue", Names: true, Head: []string{"queue", "run", "jobs", "median wait", "95 % wait", "median completion"}}
	for _, group := range groups(queues, func(q Queue) string { return q.Name }) {
		for _, q := range group {
			row := []string{q.Name, q.Run, number(float64(q.Jobs), 0), "–", "–", "–"}
			if q.Wait != nil {
				row[3], row[4] = duration(q.Wait.P50), duration(q.Wait.P95)
			}
			if q.Completion != nil {
				row[5] = duration(q.Completion.P50)
			}
			g.Rows = append(g.Rows, row)
		}
	}
	return g
}

// gangCharts are how many gangs of which size there were, and how long they waited.
func gangCharts(gangs []Gang, p *palette) []rows {
	var counts, waits []measured
	for _, group := range groups(gangs, func(g Gang) string { return strconv.Itoa(g.GPUs) }) {
		for _, g := range group {
			label := plural(g.GPUs, "GPU", "GPUs")
			counts = append(counts, measured{label: label, run: g.Run, value: float64(g.Count), text: plural(g.Count, "gang", "gangs")})
			waits = append(waits, measured{label: label, run: g.Run, times: g.Wait})
		}
	}
	var out []rows
	if r, ok := bars("Sizes", "How many gangs of each size came.", "size", "gangs", 0, counts, p); ok {
		out = append(out, r)
	}
	if r, ok := boxes("Waits by size", "From submission until all members had started.", "size", waits, p); ok {
		out = append(out, r)
	}
	return out
}
