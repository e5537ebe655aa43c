package simcmd

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"gonum.org/v1/gonum/stat"

	"weft.sh/weft/pkg/simulator"
	"weft.sh/weft/pkg/simulator/report"
)

// reportFile is the file of --report. A nil one is none: its methods do nothing.
type reportFile struct {
	path string
	temp *os.File
}

// createReport makes a file beside the one that will be replaced, so that a path that cannot be written to is told before an hour
// of simulation and not after, and so that a report that was there stays until there is another. It is nil without a path.
func createReport(path string) (*reportFile, error) {
	if path == "" {
		return nil, nil
	}
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		return nil, fmt.Errorf("--report: %s is no regular file", path)
	}
	temp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".")
	if err != nil {
		return nil, fmt.Errorf("--report: %w", err)
	}
	return &reportFile{path: path, temp: temp}, nil
}

// drop removes what was not finished.
func (f *reportFile) drop() {
	if f != nil {
		_ = f.temp.Close()
		_ = os.Remove(f.temp.Name())
	}
}

// write writes the report and puts it in its place.
func (f *reportFile) write(d report.Data) error {
	if f == nil {
		return nil
	}
	err := report.Write(f.temp, d)
	if err == nil {
		err = f.temp.Chmod(0o644)
	}
	if closed := f.temp.Close(); err == nil {
		err = closed
	}
	if err == nil {
		err = os.Rename(f.temp.Name(), f.path)
	}
	if err != nil {
		return fmt.Errorf("--report: %w", err)
	}
	return nil
}

// openbReport is what a report shows of the lines.
func (o *openbOptions) openbReport(lineup *simulator.Lineup, lines []simulator.Line) report.Data {
	var lists []string
	for _, p := range o.pods {
		lists = append(lists, filepath.Base(p))
	}
	first := lineup.Workloads[0]
	gpus := 0
	for _, n := range first.Nodes() {
		gpus += n.GPUs
	}
	d := report.Data{
		Title: "Simulation of " + strings.Join(lineup.Policies, ", "),
		About: "Pods arrive one by one and stay; one that has no place is dropped. " +
			"All figures in percent are of the GPU capacity of all nodes; what they mean is in docs/simulator.md.",
		Settings: []report.Setting{
			{Name: "Nodes", Value: filepath.Base(o.nodes)},
			{Name: "Cluster", Value: fmt.Sprintf("%d GPUs in %d nodes", gpus, len(first.Nodes()))},
			{Name: "Pods", Value: strings.Join(lists, ", ")},
			{Name: "Policies", Value: strings.Join(lineup.Policies, ", ")},
			{Name: "Engine", Value: lines[0].Engine},
			{Name: "Seeds", Value: o.seeds},
			{Name: "Load", Value: fmt.Sprintf("%g %% of the GPUs", 100*o.load)},
		},
	}
	if o.version != "" {
		d.Settings = append(d.Settings, report.Setting{Name: "Version", Value: o.version})
	}
	if len(lines) < lineup.Runs() {
		d.Settings = append(d.Settings, report.Setting{Name: "Interrupted", Value: fmt.Sprintf("after %d of %d runs", len(lines), lineup.Runs())})
	}
	table := report.Table{
		Title: "By policy",
		About: "@100 is when the pods that have arrived ask for as much as there is; behind ± is the standard deviation between the seeds. " +
			"The best of each list is marked.",
		Columns: []report.Column{
			{Name: "Allocated@100", Unit: "%", Decimals: 2, Better: "higher"},
			{Name: "At the end", Unit: "%", Decimals: 2, Better: "higher"},
			{Name: "Fragments@100", Unit: "%", Decimals: 2, Better: "lower"},
			{Name: "Idle GPUs@100", Decimals: 1, Better: "lower"},
		},
	}
	if o.bound {
		table.Columns = append(table.Columns, report.Column{Name: "Bound@100", Unit: "%", Decimals: 2},
			report.Column{Name: "Gap", Unit: "%", Decimals: 2, Better: "lower"})
	}
	for _, w := range lineup.Workloads {
		for _, policy := range lineup.Policies {
			var runs []simulator.Line
			for _, l := range lines {
				if l.Workload == w.Name && l.Policy == policy {
					runs = append(runs, l)
				}
			}
			if len(runs) == 0 {
				continue
			}
			row := report.Row{Group: w.Name, Run: policy, Cells: []report.Cell{
				cell(runs, func(l *simulator.Line) *float64 { return l.AllocAt100 }),
				cell(runs, func(l *simulator.Line) *float64 { return &l.AllocFinal }),
				cell(runs, func(l *simulator.Line) *float64 { return l.FragAmountAt100 }),
				cell(runs, func(l *simulator.Line) *float64 { return l.UnallocatedGPUsAt100 }),
			}}
			bound := cell(runs, func(l *simulator.Line) *float64 { return l.BoundAt100 })
			if o.bound {
				row.Cells = append(row.Cells, bound, cell(runs, func(l *simulator.Line) *float64 { return l.GapAt100 }))
			}
			table.Rows = append(table.Rows, row)
			c := curve(runs)
			c.Workload, c.Run, c.BoundAt100 = w.Name, policy, bound.Value
			d.Curves = append(d.Curves, c)
		}
	}
	d.Tables = []report.Table{table}
	d.Map = gpuMap(lineup, lines)
	return d
}

// cell is the mean and the deviation of a figure; it is empty when one of the runs has none.
func cell(runs []simulator.Line, get func(*simulator.Line) *float64) report.Cell {
	var values []float64
	for i := range runs {
		v := get(&runs[i])
		if v == nil {
			return report.Cell{}
		}
		values = append(values, *v)
	}
	mean, deviation := stat.MeanStdDev(values, nil)
	if len(values) == 1 {
		return report.Cell{Value: &mean}
	}
	return report.Cell{Value: &mean, Deviation: &deviation}
}

// curve is the trails of runs that differ by their seeds, as far as all of them go.
func curve(runs []simulator.Line) report.Curve {
	n := len(runs[0].Trail().Arrived)
	for i := range runs {
		n = min(n, len(runs[i].Trail().Arrived))
	}
	band := func(get func(*simulator.Trail) []float64) report.Band {
		var b report.Band
		values := make([]float64, len(runs))
		for at := range n {
			for i := range runs {
				values[i] = get(runs[i].Trail())[at]
			}
			b.Mean = append(b.Mean, stat.Mean(values, nil))
			if len(runs) > 1 {
				b.Min, b.Max = append(b.Min, slices.Min(values)), append(b.Max, slices.Max(values))
			}
		}
		return b
	}
	return report.Curve{
		Arrived:   runs[0].Trail().Arrived[:n],
		Alloc:     band(func(t *simulator.Trail) []float64 { return t.Alloc }),
		Fragments: band(func(t *simulator.Trail) []float64 { return t.Frag }),
	}
}

// gpuMap is the frames that the runs kept: those of the first list with the first seed.
func gpuMap(lineup *simulator.Lineup, lines []simulator.Line) *report.Map {
	w := lineup.Workloads[0]
	m := &report.Map{About: fmt.Sprintf("How full each GPU is while more and more arrives: list %s, seed %d.", w.Name, lineup.Seeds[0])}
	for _, n := range w.Nodes() {
		m.Nodes = append(m.Nodes, report.MapNode{Name: n.Name, Model: n.Model, GPUs: n.GPUs})
	}
	for i := range lines {
		frames := lines[i].Trail().Frames
		if frames == nil {
			continue
		}
		run := report.MapRun{Run: lines[i].Policy}
		for _, f := range frames {
			run.Frames = append(run.Frames, report.Frame{Label: strconv.FormatFloat(f.Arrived, 'f', 1, 64) + "\u00a0% arrived", Used: f.Used})
		}
		m.Runs = append(m.Runs, run)
	}
	return m
}
