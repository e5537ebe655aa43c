package simcmd

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"weft.sh/weft/pkg/simulator/replay"
	"weft.sh/weft/pkg/simulator/report"
)

// replayReport is what a report shows of replays, of which there is one. What is compared are the policies; where there are several
// workloads, a policy with each of them.
func replayReport(results []replay.Result, version string) report.Data {
	var workloads, policies []string
	for i := range results {
		workloads, policies = append(workloads, results[i].Workload), append(policies, results[i].Policy)
	}
	slices.Sort(workloads)
	workloads = slices.Compact(workloads)
	slices.Sort(policies)
	policies = slices.Compact(policies)
	first := &results[0]
	d := report.Data{
		Title: "Replay of " + strings.Join(workloads, ", "),
		About: "Jobs arrive, wait, run and end in virtual time. What the figures mean is in docs/simulator.md.",
		Settings: []report.Setting{
			{Name: "Policies", Value: strings.Join(policies, ", ")},
			{Name: "Strategy", Value: first.Strategy},
		},
	}
	if len(workloads) == 1 {
		d.Settings = append(d.Settings,
			report.Setting{Name: "Cluster", Value: fmt.Sprintf("%d GPUs in %d nodes", first.GPUs, first.Nodes)},
			report.Setting{Name: "Jobs", Value: fmt.Sprintf("%d, of which %d are gangs", first.Jobs, first.Gangs)},
			report.Setting{Name: "Measured", Value: strconv.FormatFloat(first.Hours, 'f', -1, 64) + " h"})
	}
	if version != "" {
		d.Settings = append(d.Settings, report.Setting{Name: "Version", Value: version})
	}
	table := report.Table{
		Title: "By policy", About: "The best for each workload is marked.",
		Columns: []report.Column{
			{Name: "Median wait", Unit: "min", Decimals: 1, Better: "lower"},
			{Name: "95 % wait", Unit: "min", Decimals: 1, Better: "lower"},
			{Name: "Gangs, 95 % wait", Unit: "min", Decimals: 1, Better: "lower"},
			{Name: "Median completion", Unit: "min", Decimals: 1, Better: "lower"},
			{Name: "Allocated, mean", Unit: "%", Decimals: 2, Better: "higher"},
			{Name: "Largest queue error", Unit: "%", Decimals: 1, Better: "lower"},
			{Name: "Waited over 24 h", Unit: "jobs", Better: "lower"},
			{Name: "Unfinished", Unit: "jobs", Better: "lower"},
			{Name: "Evictions"},
			{Name: "Held by incomplete gangs", Unit: "GPU-hours", Decimals: 1, Better: "lower"},
		},
	}
	allocated := report.Series{Title: "Allocated", About: "Of the GPUs of nodes that are up.", Unit: "%"}
	waiting := report.Series{Title: "Jobs that wait", Unit: "jobs"}
	wanted := report.Series{Title: "GPUs that are waited for", About: "By jobs that quota lets start.", Unit: "GPUs"}
	for i := range results {
		r := &results[i]
		run := r.Policy
		if len(workloads) > 1 {
			run = r.Workload + ", " + r.Policy
		}
		table.Rows = append(table.Rows, report.Row{Group: r.Workload, Run: run, Cells: []report.Cell{
			minutes(r.WaitP50), minutes(r.WaitP95), minutes(r.GangWaitP95), minutes(r.JCTP50), figure(r.AllocMean),
			percent(r.QueueError), figure(float64(r.WaitingOver24h)), figure(float64(r.Unfinished)), figure(float64(r.Evictions)),
			figure(r.IncompleteGPUHours),
		}})
		if r.Series != nil {
			line := func(of *report.Series, get func(*replay.Point) float64) {
				l := report.Line{Run: run}
				for i := range r.Series.Points {
					l.Seconds = append(l.Seconds, float64(int64(i)*r.Series.StepSeconds))
					l.Values = append(l.Values, get(&r.Series.Points[i]))
				}
				of.Lines = append(of.Lines, l)
			}
			line(&allocated, func(p *replay.Point) float64 {
				if p.Capacity == 0 {
					return 0
				}
				return 100 * p.Allocated / p.Capacity
			})
			line(&waiting, func(p *replay.Point) float64 { return p.Waiting })
			line(&wanted, func(p *replay.Point) float64 { return p.Wanted })
		}
		for k, q := range r.Queues {
			out := report.Queue{Run: run, Name: q.Queue, Jobs: q.Jobs, Wait: times(r.Detail.Queues[k].Wait), Completion: times(r.Detail.Queues[k].Completion)}
			if out.Name == "" {
				out.Name = "(no queue)"
			}
			if q.Entitled > 0 {
				out.Budget = &report.Budget{UsedGPUHours: q.Used, GrantedGPUHours: q.Entitled}
			}
			d.Queues = append(d.Queues, out)
		}
		for _, g := range r.Detail.Gangs {
			d.Gangs = append(d.Gangs, report.Gang{Run: run, GPUs: g.GPUs, Count: g.Count, Wait: times(g.Wait)})
		}
	}
	d.Tables, d.Series = []report.Table{table}, []report.Series{allocated, waiting, wanted}
	return d
}

func figure(v float64) report.Cell { return report.Cell{Value: &v} }

func percent(part *float64) report.Cell {
	if part == nil {
		return report.Cell{}
	}
	return figure(100 * *part)
}

func minutes(seconds *int64) report.Cell {
	if seconds == nil {
		return report.Cell{}
	}
	return figure(float64(*seconds) / 60)
}

func times(s *replay.Spread) *report.Times {
	if s == nil {
		return nil
	}
	of := func(v int64) *float64 { return new(float64(v)) }
	return &report.Times{
		Min: of(s.Least), P25: of(s.P25), P50: float64(s.P50), P75: of(s.P75), P95: float64(s.P95), Max: of(s.Most),
	}
}
