package cli

import (
	"fmt"
	"io"
	"strconv"
	"strings"
)

// RenderWhatIf prints a comparison for people.
func RenderWhatIf(w io.Writer, f WhatIf, colour, ascii bool) error {
	s := style{colour: colour, ascii: ascii}
	var out strings.Builder
	fmt.Fprintf(&out, "Snapshot of %s", f.Taken)
	if len(f.Changes) > 0 {
		out.WriteString(", changed:")
		for _, c := range f.Changes {
			out.WriteString("\n  " + c)
		}
	}
	out.WriteString("\n\n")
	totals := &table{header: []string{"", "NODES", "GPUS", "WOULD START: PODS", "GANGS", "GPUS", "THEN ASSIGNED", "LOSE THEIR PLACE", "FIND ANOTHER"}, right: []int{1, 2, 3, 4, 5, 6, 7, 8}}
	add := func(name string, o Outcome) {
		moved, replaced := "", ""
		if o.Moved.PodCount > 0 {
			moved, replaced = strconv.Itoa(o.Moved.PodCount), strconv.Itoa(o.Replaced.PodCount)
		}
		totals.row(name, strconv.Itoa(o.NodeCount), gpus(o.CapacityMilliGPU), strconv.Itoa(o.Starts.PodCount), strconv.Itoa(o.Starts.GangCount), gpus(o.Starts.MilliGPU),
			gpus(o.AssignedMilliGPU)+" ("+percent(o.AssignedPerMille)+")", moved, replaced)
	}
	add("now", f.Before)
	if len(f.Changes) > 0 {
		add("changed", f.After)
	}
	totals.dropEmpty("LOSE THEIR PLACE")
	totals.dropEmpty("FIND ANOTHER")
	for _, line := range totals.lines(s, "") {
		out.WriteString(line + "\n")
	}
	if len(f.Queues) == 0 {
		out.WriteString("\nNothing waits for GPUs.\n")
	} else {
		t := &table{header: []string{"QUEUE", "WAIT: PODS", "GANGS", "GPUS", "START NOW: PODS", "GANGS", "GPUS"}, right: []int{1, 2, 3, 4, 5, 6}}
		if len(f.Changes) > 0 {
			t.header, t.right = append(t.header, "CHANGED: PODS", "GANGS", "GPUS"), append(t.right, 7, 8, 9)
		}
		for _, q := range f.Queues {
			row := append([]string{orNone(q.Queue)}, append(countCells(q.Waiting), countCells(q.Before)...)...)
			if len(f.Changes) > 0 {
				row = append(row, countCells(q.After)...)
			}
			t.row(row...)
		}
		out.WriteString("\n")
		for _, line := range t.lines(s, "") {
			out.WriteString(line + "\n")
		}
	}
	last := f.Before
	if len(f.Changes) > 0 {
		last = f.After
	}
	if len(last.Reasons) > 0 {
		var parts []string
		for _, r := range last.Reasons {
			parts = append(parts, fmt.Sprintf("%d for %s", r.JobCount, r.Reason))
		}
		fmt.Fprintf(&out, "\nJobs that still wait: %s.\n", strings.Join(parts, ", "))
	}
	for _, what := range f.NotChecked {
		fmt.Fprintf(&out, "\nnot checked: %s\n", what)
	}
	for _, p := range f.Problems {
		fmt.Fprintf(&out, "\nnot readable: %s\n", p)
	}
	_, err := io.WriteString(w, s.finish(out.String()))
	return err
}

func countCells(c Count) []string {
	return []string{strconv.Itoa(c.PodCount), strconv.Itoa(c.GangCount), gpus(c.MilliGPU)}
}
