package cli

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"weft.sh/weft/pkg/forecast"
)

// RenderDemand prints a plan for people.
func RenderDemand(w io.Writer, d DemandPlan, colour, ascii bool) error {
	s := style{colour: colour, ascii: ascii}
	var out strings.Builder
	unit := "day"
	if d.BucketSeconds == 3600 {
		unit = "hour"
	}
	fmt.Fprintf(&out, "%s ahead, from %s of %s to %s", count(d.HorizonBuckets, unit), count(d.HistoryBuckets, unit), d.From, d.To)
	if d.MissingBuckets > 0 {
		fmt.Fprintf(&out, ", of which %d are missing", d.MissingBuckets)
	}
	out.WriteString("\n\n")
	t := &table{header: []string{"QUEUE", "CLASS", "GPU-HOURS P50", "P90 A " + strings.ToUpper(unit), "BASE", "PEAK", "MODEL", "WAPE", "LAST'S", "SEASON'S", "HOLT-W.'S", "NOTE"}}
	t.right = []int{2, 3, 4, 5, 7, 8, 9, 10}
	add := func(queue, class string, x Demand) {
		var sum, most int64
		for _, p := range x.Points {
			sum += p.P50MilliGPUSeconds
			most = max(most, p.P90MilliGPUSeconds)
		}
		note := x.Note
		t.row(queue, class, gpuHours(sum), gpuHours(most), gpus(x.BaseMilliGPU), gpus(x.PeakMilliGPU), x.Model, wape(x.Skills, x.Model),
			wape(x.Skills, forecast.LastName), wape(x.Skills, forecast.SeasonalName), wape(x.Skills, forecast.HoltWintersName), note)
	}
	classed := func(class string) string {
		if len(d.Classes) == 1 && class == "" {
			return ""
		}
		return orNone(class)
	}
	for _, q := range d.Queues {
		add(orNone(q.Queue), classed(q.Class), q.Demand)
	}
	for _, c := range d.Classes {
		add("all", classed(c.Class), c.Demand)
	}
	t.dropEmpty("CLASS")
	t.dropEmpty("NOTE")
	for _, line := range t.lines(s, "") {
		out.WriteString(line + "\n")
	}
	base := "the least of P50"
	if d.BasePercent > 0 {
		base = fmt.Sprintf("what P50 is below in %d%% of the %ss", d.BasePercent, unit)
	}
	fmt.Fprintf(&out, "\nBASE and PEAK are GPUs at the same time: %s, and the most of P90.\n", base)
	fmt.Fprintf(&out, "WAPE is what a model missed of the history, in percent of what came. What does not beat LAST'S knows nothing.\n\n")
	n := &table{header: []string{"CLASS", "HAVE", "OWN OR RESERVE", "OF THEM NEW", "SPOT", "ON DEMAND", "COST", "SPOT COST", "ON DEMAND COST"}, right: []int{1, 2, 3, 4, 5, 6, 7, 8}}
	for _, c := range d.Classes {
		have := ""
		if c.HaveGPUs >= 0 {
			have = strconv.FormatInt(c.HaveGPUs, 10) + " GPUs"
		}
		n.row(orNone(c.Class), have, strconv.FormatInt(c.BaseNodeCount, 10), strconv.FormatInt(c.MissingNodeCount, 10), strconv.FormatInt(c.SpotNodeCount, 10),
			strconv.FormatInt(c.OnDemandNodeCount, 10), money(c.BaseCostMicros, c.Currency), money(c.SpotCostMicros, c.Currency), money(c.OnDemandCostMicros, c.Currency))
	}
	for _, column := range []string{"HAVE", "COST", "SPOT COST", "ON DEMAND COST"} {
		n.dropEmpty(column)
	}
	fmt.Fprintf(&out, "Nodes of %d GPUs, and what they cost in this time:\n\n", d.NodeGPUs)
	for _, line := range n.lines(s, "") {
		out.WriteString(line + "\n")
	}
	for _, p := range d.Problems {
		fmt.Fprintf(&out, "\nnot counted: %s\n", p)
	}
	_, err := io.WriteString(w, s.finish(out.String()))
	return err
}

// wape is the skill of a model in percent, - where it is not known.
func wape(skills []ModelSkill, model string) string {
	i := slices.IndexFunc(skills, func(s ModelSkill) bool { return s.Model == model })
	if i < 0 || skills[i].WAPEPerMille < 0 {
		return "-"
	}
	return percent(skills[i].WAPEPerMille)
}
