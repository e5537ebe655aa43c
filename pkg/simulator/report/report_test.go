package report

import (
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// replayed is what a replay of a trace gives: everything but curves and a map.
func replayed(t *testing.T) Data {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", "replay.json"))
	if err != nil {
		t.Fatal(err)
	}
	var d Data
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&d); err != nil {
		t.Fatal(err)
	}
	return d
}

func written(t *testing.T, d Data) string {
	t.Helper()
	var out bytes.Buffer
	if err := Write(&out, d); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func curveOf(run string) Curve {
	c := Curve{Workload: "w", Run: run, BoundAt100: new(97.0)}
	for i := range 261 {
		x := float64(i) / 2
		c.Arrived = append(c.Arrived, x)
		c.Alloc.Mean = append(c.Alloc.Mean, min(x, 95))
		c.Fragments.Mean = append(c.Fragments.Mean, 15-x/13)
	}
	return c
}

func mapOf(frames int) *Map {
	m := &Map{Nodes: []MapNode{{"b", "T4", 2}, {"none", "", 0}, {"a", "A10", 4}, {"c", "T4", 1}}}
	for _, run := range []string{"fgd", "bestfit"} {
		r := MapRun{Run: run}
		for i := range frames {
			r.Frames = append(r.Frames, Frame{Label: "now", Used: []byte{0, 50, 100, 100, 100, 30, byte(i % 100)}})
		}
		m.Runs = append(m.Runs, r)
	}
	return m
}

// TestSections: what there is no data for is left out, and the rest is there once.
func TestSections(t *testing.T) {
	section := regexp.MustCompile(`<section id="([a-z]+)"`)
	full := replayed(t)
	full.Curves, full.Map = []Curve{curveOf("fgd")}, mapOf(2)
	tests := map[string]struct {
		data Data
		want []string
	}{
		"nothing":                    {Data{Title: "empty"}, nil},
		"all of it":                  {full, []string{"results", "curves", "map", "time", "queues", "gangs"}},
		"a replay":                   {replayed(t), []string{"results", "time", "queues", "gangs"}},
		"curves":                     {Data{Curves: []Curve{curveOf("fgd"), curveOf("bestfit")}}, []string{"curves"}},
		"a map without frames":       {Data{Map: mapOf(0)}, nil},
		"a queue that had no job":    {Data{Queues: []Queue{{Run: "a", Name: "q"}}}, []string{"queues"}},
		"a series without a line":    {Data{Series: []Series{{Title: "s"}}}, nil},
		"a series of one point at 0": {Data{Series: []Series{{Title: "s", Lines: []Line{{"a", []float64{0}, []float64{0}}}}}}, []string{"time"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			page := written(t, tc.data)
			var got []string
			for _, m := range section.FindAllStringSubmatch(page, -1) {
				got = append(got, m[1])
				if !strings.Contains(page, `href="#`+m[1]+`"`) {
					t.Errorf("no link leads to %s", m[1])
				}
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
			if strings.Contains(page, "NaN") || strings.Contains(page, "ZgotmplZ") {
				t.Error("the page has a place without a number, or an attribute that was not trusted")
			}
			if again := written(t, tc.data); again != page {
				t.Error("the same again is not the same")
			}
		})
	}
}

// TestNamesAreText: whatever is in the data, it makes no element.
func TestNamesAreText(t *testing.T) {
	const evil = `</script><script>window.hacked=1</script><img src=x onerror=hacked()>"'`
	d := replayed(t)
	d.Title, d.About, d.Settings[0].Value = evil, evil, evil
	d.Tables[0].Title, d.Tables[0].Columns[0].Name, d.Tables[0].Rows[0].Run = evil, evil, evil
	d.Series[0].Title, d.Series[0].Unit, d.Series[0].Lines[0].Run = evil, evil, evil
	d.Queues[0].Name, d.Gangs[0].Run = evil, evil
	c := curveOf(evil)
	c.Workload = evil
	d.Curves, d.Map = []Curve{c}, mapOf(1)
	d.Map.Nodes[0].Name, d.Map.Nodes[0].Model, d.Map.Runs[0].Run, d.Map.Runs[0].Frames[0].Label = evil, evil, evil, evil
	page := written(t, d)
	if n := strings.Count(page, "<script"); n != 2 {
		t.Errorf("%d scripts: want the data and the script", n)
	}
	if strings.Contains(page, "<img") {
		t.Error("a name became an element")
	}
	if strings.Contains(page, "http://") || strings.Contains(page, "https://") || strings.Contains(page, "@import") {
		t.Error("the page names a place to load from")
	}
}

func TestBadData(t *testing.T) {
	tests := map[string]struct {
		spoil func(*Data)
		want  string
	}{
		"a row that is too short":   {func(d *Data) { d.Tables[0].Rows[0].Cells = nil }, `table "By run": row "weft" has 0 cells: want 3`},
		"a figure that is none":     {func(d *Data) { *d.Tables[0].Rows[0].Cells[0].Value = math.NaN() }, `row "weft" has a figure that is infinite`},
		"an order that there isn't": {func(d *Data) { d.Tables[0].Columns[0].Better = "big" }, `column "Allocation": better is "big"`},
		"a value too many":          {func(d *Data) { d.Series[0].Lines[0].Values = d.Series[0].Lines[0].Values[1:] }, `series "Allocated" of weft: 39 values at 40 points`},
		"time that goes back":       {func(d *Data) { d.Series[0].Lines[0].Seconds[3] = 0 }, "points are not in order"},
		"an infinite value":         {func(d *Data) { d.Series[0].Lines[0].Values[3] = math.Inf(1) }, "a value is infinite"},
		"a wait below 0":            {func(d *Data) { d.Queues[0].Wait.Min = new(-1.0) }, "queue research of weft: percentiles [-1 "},
		"percentiles in disorder":   {func(d *Data) { d.Gangs[0].Wait.P50 = 1e9 }, "gangs of 1 GPUs of weft: percentiles"},
		"a budget of nothing":       {func(d *Data) { d.Queues[0].Budget.GrantedGPUHours = 0 }, "used 4210.5 of 0 GPU-hours"},
		"a frame that is too short": {func(d *Data) { d.Map.Runs[0].Frames[0].Used = []byte{1} }, "map of fgd, now: 1 bytes: want 7"},
		"a GPU used to 101 percent": {func(d *Data) { d.Map.Runs[0].Frames[0].Used[0] = 101 }, "a GPU is used to 101 percent"},
		"a node with -1 GPUs":       {func(d *Data) { d.Map.Nodes[0].GPUs = -1 }, "node b of the map has -1 GPUs: want 0 to 128"},
		"half a band":               {func(d *Data) { d.Curves[0].Alloc.Min = d.Curves[0].Alloc.Mean }, "curve of w, fgd: want both the least and the most"},
		"a band that is too short": {
			func(d *Data) { d.Curves[0].Alloc.Min, d.Curves[0].Alloc.Max = []float64{1}, []float64{2} }, "curve of w, fgd: 1 values at 261 points",
		},
		"a bound that is none": {func(d *Data) { d.Curves[0].BoundAt100 = new(math.NaN()) }, "the bound is infinite or no number"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			d := replayed(t)
			d.Curves, d.Map = []Curve{curveOf("fgd")}, mapOf(1)
			tc.spoil(&d)
			var out bytes.Buffer
			err := Write(&out, d)
			if !errors.Is(err, ErrBadData) || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
			if out.Len() > 0 {
				t.Error("something was written")
			}
		})
	}
}

// TestTheBestIsMarked: by what is shown, so that equal figures are equally good.
func TestTheBestIsMarked(t *testing.T) {
	v := func(f float64) Cell { return Cell{Value: &f} }
	got := compare(Table{
		Columns: []Column{{Name: "high", Unit: "%", Decimals: 1, Better: "higher"}, {Name: "low", Better: "lower"}, {Name: "neither"}},
		Rows: []Row{
			{"w", "a", []Cell{v(95.04), v(1204), v(1)}},
			{"w", "b", []Cell{v(95.01), {}, v(2)}},
			{"w", "c", []Cell{v(9), v(1205), v(3)}},
			{"alone", "a", []Cell{v(1), v(2), v(3)}},
		},
	})
	cells := func(texts ...string) []comparedCell {
		var out []comparedCell
		for _, text := range texts {
			text, best := strings.CutSuffix(text, "!")
			out = append(out, comparedCell{Text: text, Best: best})
		}
		return out
	}
	want := compared{
		Columns: []string{"high, %", "low", "neither"},
		Groups: []comparedGroup{
			{"w", []comparedRow{
				{"a", cells("95.0!", "1,204!", "1")},
				{"b", cells("95.0!", "–", "2")},
				{"c", cells("9.0", "1,205", "3")},
			}},
			{"alone", []comparedRow{{"a", cells("1.0", "2", "3")}}},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestMap(t *testing.T) {
	view, live, ok := mapOf(3).prepare()
	if !ok {
		t.Fatal("there is no map")
	}
	want := []liveGroup{
		{"A10", []liveNode{{"a", 4, 2}}},
		{"T4", []liveNode{{"b", 2, 0}, {"c", 1, 6}}},
	}
	if diff := cmp.Diff(want, live.Groups); diff != "" {
		t.Error(diff)
	}
	rows := [][]string{
		{"fgd", "A10", "4", "3", "1", "0", "82.5"},
		{"fgd", "T4", "3", "0", "2", "1", "17.3"},
		{"bestfit", "A10", "4", "3", "1", "0", "82.5"},
		{"bestfit", "T4", "3", "0", "2", "1", "17.3"},
	}
	if diff := cmp.Diff(rows, view.Values.Rows); diff != "" {
		t.Error(diff)
	}
}

// TestALargeMapIsThinned: ten times the openb trace still makes a file that a browser opens.
func TestALargeMapIsThinned(t *testing.T) {
	m := &Map{Nodes: []MapNode{{"n", "A10", 7}}}
	for range 3 {
		r := MapRun{Run: "a"}
		for i := range 60 {
			r.Frames = append(r.Frames, Frame{Label: string(rune('A' + i)), Used: make([]byte, 62_120)})
		}
		m.Runs = append(m.Runs, r)
	}
	m.Runs = append(m.Runs, MapRun{Run: "one", Frames: m.Runs[0].Frames[:1]}, MapRun{Run: "none"})
	total := 0
	for i, r := range m.thinned() {
		for _, f := range r.Frames {
			total += len(f.Used)
		}
		if i < 3 && (len(r.Frames) < 7 || r.Frames[0].Label != "A" || r.Frames[len(r.Frames)-1].Label != string(rune('A'+59))) {
			t.Errorf("run %d has %d frames", i, len(r.Frames))
		}
	}
	// The run of one frame keeps it.
	if most := maxMapBytes + 62_120; total > most {
		t.Errorf("%d bytes: want up to %d", total, most)
	}
}

func TestNumbers(t *testing.T) {
	for got, want := range map[string]string{
		number(0, 0): "0", number(999, 0): "999", number(1000, 0): "1,000", number(1234567.891, 2): "1,234,567.89", number(-0.001, 2): "0.00",
		number(-12345, 1): "−12,345.0", duration(0): "0\u00a0s", duration(59.94): "59.9\u00a0s", duration(90): "1.5\u00a0min",
		duration(3600): "1\u00a0h", duration(86400 * 3.25): "3.2\u00a0d", duration(86400 * 1234): "1,234\u00a0d",
		plural(1, "gang", "gangs"): "1 gang", plural(1200, "gang", "gangs"): "1,200 gangs",
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestTicks(t *testing.T) {
	tests := map[string]struct {
		low, high float64
		want      []float64
		decimals  int
	}{
		"percent":          {0, 100, []float64{0, 20, 40, 60, 80, 100}, 0},
		"a part":           {84.7, 97.2, []float64{80, 85, 90, 95, 100}, 0},
		"small":            {0, 0.3, []float64{0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3}, 2},
		"nothing but 0":    {0, 0, []float64{0, 0.2, 0.4, 0.6, 0.8, 1}, 1},
		"one large number": {5000, 5000, []float64{5000, 6000, 7000, 8000, 9000, 10000}, 0},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got, decimals := ticks(tc.low, tc.high, 6)
			near := cmp.Comparer(func(a, b float64) bool { return math.Abs(a-b) < 1e-9 })
			if diff := cmp.Diff(tc.want, got, near); diff != "" || decimals != tc.decimals {
				t.Errorf("%d decimals, want %d; - want, + got:\n%s", decimals, tc.decimals, diff)
			}
			for _, bad := range []float64{tc.low, tc.high} {
				if bad < got[0] || bad > got[len(got)-1]+1e-9 {
					t.Errorf("%g is outside", bad)
				}
			}
		})
	}
}
