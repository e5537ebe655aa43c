package report

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"html/template"
	"io"
)

var (
	//go:embed report.html
	page string
	//go:embed report.css
	style string
	//go:embed report.js
	script string

	parsed = template.Must(template.New("report").Parse(page))
)

// view is what the template shows.
type view struct {
	Data
	// Policy is the Content Security Policy: nothing but this package's style and script, not even an image.
	Policy string
	Style  template.CSS
	Script template.JS

	Compared  []compared
	Workloads []workload
	GPUMap    *gpuMap
	Over      []chart
	OverKey   []legend
	QueueRows []rows
	QueueList *grid
	GangRows  []rows
	Live      live
}

// live is what the script knows.
type live struct {
	Charts []liveChart `json:"charts"`
	Map    *liveMap    `json:"map"`
}

// Write writes the report. An error is ErrBadData, of what cannot be shown, or of the writer; nothing is written with bad data.
func Write(w io.Writer, d Data) error {
	if err := d.check(); err != nil {
		return err
	}
	v := view{
		Data: d, Style: template.CSS(style), Script: template.JS(script),
		Policy: "default-src 'none'; base-uri 'none'; form-action 'none'; style-src '" + hash(style) + "'; script-src '" + hash(script) + "'",
	}
	var p palette
	charts := 0
	next := func() int { charts++; return charts - 1 }
	for _, t := range d.Tables {
		v.Compared = append(v.Compared, compare(t))
	}
	v.Workloads = curveCharts(d.Curves, &p, next)
	v.Over = seriesCharts(d.Series, &p, next)
	for _, w := range v.Workloads {
		v.Live.add(w.Charts)
	}
	v.Live.add(v.Over)
	if m, l, ok := d.Map.prepare(); ok {
		v.GPUMap, v.Live.Map = &m, &l
	}
	v.QueueRows, v.GangRows = queueCharts(d.Queues, &p), gangCharts(d.Gangs, &p)
	if len(d.Queues) > 0 {
		g := queueTable(d.Queues)
		v.QueueList = &g
	}
	var out bytes.Buffer
	if err := parsed.Execute(&out, v); err != nil {
		return err
	}
	_, err := w.Write(out.Bytes())
	return err
}

// add gives the script the charts at the places that their IDs say. A chart that was not drawn leaves an empty place.
func (l *live) add(charts []chart) {
	for _, c := range charts {
		for len(l.Charts) <= c.ID {
			l.Charts = append(l.Charts, liveChart{})
		}
		l.Charts[c.ID] = c.Live
	}
}

// hash is the source expression of a Content Security Policy for an inline style or script.
func hash(text string) string {
	sum := sha256.Sum256([]byte(text))
	return "sha256-" + base64.StdEncoding.EncodeToString(sum[:])
}

// compared is a table as the template shows it.
type compared struct {
	Title, About string
	Columns      []string
	Groups       []comparedGroup
}

type comparedGroup struct {
	Name string
	Rows []comparedRow
}

type comparedRow struct {
	Run   string
	Cells []comparedCell
}

type comparedCell struct {
	Text, Deviation string
	Best            bool
}

// compare formats a table and marks the best of each group.
func compare(t Table) compared {
	out := compared{Title: t.Title, About: t.About}
	for _, c := range t.Columns {
		name := c.Name
		if c.Unit != "" {
			name += ", " + c.Unit
		}
		out.Columns = append(out.Columns, name)
	}
	for _, group := range groups(t.Rows, func(r Row) string { return r.Group }) {
		g := comparedGroup{Name: group[0].Group}
		for _, r := range group {
			row := comparedRow{Run: r.Run}
			for i, c := range r.Cells {
				column := t.Columns[i]
				cell := comparedCell{Text: "–"}
				if c.Value != nil {
					cell.Text = number(*c.Value, column.Decimals)
					cell.Best = len(group) > 1 && best(column, group, i, cell.Text)
				}
				if c.Deviation != nil {
					cell.Deviation = "±\u00a0" + number(*c.Deviation, column.Decimals)
				}
				row.Cells = append(row.Cells, cell)
			}
			g.Rows = append(g.Rows, row)
		}
		out.Groups = append(out.Groups, g)
	}
	return out
}

// best reports whether text is the best of the group's values in column i, as far as its decimals tell.
func best(column Column, group []Row, i int, text string) bool {
	var top *float64
	for _, r := range group {
		v := r.Cells[i].Value
		if v != nil && (top == nil || column.Better == "higher" && *v > *top || column.Better == "lower" && *v < *top) {
			top = v
		}
	}
	return column.Better != "" && number(*top, column.Decimals) == text
}
