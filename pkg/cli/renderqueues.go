package cli

import (
	"cmp"
	"fmt"
	"io"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"weft.sh/weft/pkg/apis/weft/v1alpha1"
)

// labelSet is labels for a selector.
func labelSet(l map[string]string) labels.Labels { return labels.Set(l) }

// limitText is a number of GPUs, "-" for no limit.
func limitText(milliGPU int64) string {
	if milliGPU < 0 {
		return "-"
	}
	return gpus(milliGPU)
}

// someGPUs is nothing for 0.
func someGPUs(milliGPU int64) string {
	if milliGPU == 0 {
		return "."
	}
	return gpus(milliGPU)
}

// state is what there is to say of a queue in a word or two, and its colour.
func (l *QueueLine) state() (text, colour string) {
	of := map[string]QueueCondition{}
	for _, c := range l.Conditions {
		if c.Status == string(metav1.ConditionTrue) {
			of[c.Type] = c
		}
	}
	switch alert := of[v1alpha1.ConditionBudgetAlert]; {
	case l.Problem != "":
		return "not valid", colourRed
	case of[v1alpha1.ConditionExhausted].Type != "":
		return "used up", colourRed
	case alert.Type != "" && l.Budget != nil && l.Budget.ExhaustedAt != "":
		return "runs out " + l.Budget.ExhaustedAt[:len(time.DateOnly)], colourYellow
	case alert.Type != "":
		percent, _, _ := strings.Cut(alert.Message, " ")
		return percent + " % reached", colourYellow
	case !l.Written:
		return "no status", colourYellow
	}
	return "", ""
}

// daysLeft is how long a budget lasts, in days.
func (b *QueueBudget) daysLeft() string {
	if b.LastsSeconds < 0 {
		return "-"
	}
	return decimal(b.LastsSeconds, 86400, 1)
}

// RenderQueues prints the tree of queues for people.
func RenderQueues(w io.Writer, q Queues, colour, ascii bool) error {
	s := style{colour: colour, ascii: ascii}
	var out strings.Builder
	if len(q.Queues) == 0 {
		out.WriteString("There are no queues: pods are charged to none, and nothing is held back.\n")
	} else {
		renderQueueTable(&out, s, q.Queues)
	}
	for _, l := range q.Queues {
		if l.Problem != "" {
			fmt.Fprintf(&out, "\n%s: %s\n", s.paint(colourRed, l.Queue), l.Problem)
		}
	}
	for _, p := range q.Problems {
		fmt.Fprintf(&out, "\n%s\n", p)
	}
	_, err := io.WriteString(w, s.finish(out.String()))
	return err
}

func renderQueueTable(out *strings.Builder, s style, lines []QueueLine) {
	t := &table{
		header: []string{"QUEUE", "GUARANTEED", "LIMIT", "RUNNING", "BORROWED", "PENDING", "ELIGIBLE", "USED", "HELD", "LEFT", "BUDGET", "A DAY", "DAYS", "STATE"},
		right:  []int{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12},
	}
	budgets := false
	for _, l := range lines {
		row := []string{
			strings.Repeat("  ", l.Depth) + l.Queue, someGPUs(l.GuaranteedMilliGPU), limitText(l.LimitMilliGPU), someGPUs(l.RunningMilliGPU),
			someGPUs(l.BorrowedMilliGPU), someGPUs(l.PendingMilliGPU), someGPUs(l.EligibleMilliGPU),
		}
		if b := l.Budget; b != nil {
			budgets = true
			row = append(row, gpuHours(b.UsedMilliGPUSeconds), gpuHours(b.HeldMilliGPUSeconds), gpuHours(b.LeftMilliGPUSeconds),
				gpuHours(b.LimitMilliGPUSeconds)+" "+strings.ToLower(b.Period), gpuHours(b.BurnPerDayMilliGPUSeconds), b.daysLeft())
		} else {
			row = append(row, "", "", "", "", "", "")
		}
		state, _ := l.state()
		t.row(append(row, state)...)
	}
	for _, column := range []string{"USED", "HELD", "LEFT", "BUDGET", "A DAY", "DAYS", "STATE"} {
		t.dropEmpty(column)
	}
	for i, line := range t.lines(s, "") {
		if i > 0 {
			if state, colour := lines[i-1].state(); state != "" {
				line = strings.TrimSuffix(line, state) + s.paint(colour, state)
			}
		}
		out.WriteString(line + "\n")
	}
	legend := "GPUs at the same time"
	if budgets {
		legend += "; used, held, left and budget in GPU-hours of the period, as weft-controller last wrote them"
	}
	fmt.Fprintf(out, "\n%s\n", s.paint(colourDim, legend))
}

// RenderQueueAnswer prints all about a queue for people.
func RenderQueueAnswer(w io.Writer, a QueueAnswer, colour, ascii bool) error {
	s := style{colour: colour, ascii: ascii}
	var out strings.Builder
	l := &a.Line
	say := func(format string, args ...any) { fmt.Fprintf(&out, "  "+format+"\n", args...) }
	out.WriteString(s.paint(colourBold, "queue "+l.Queue))
	if state, colour := l.state(); state != "" {
		out.WriteString(" " + s.paint(colour, state))
	}
	out.WriteByte('\n')
	if l.Problem != "" {
		say("%s", s.paint(colourRed, l.Problem))
	}
	if len(a.Path) > 1 {
		say("below %s", strings.Join(a.Path[1:], ", below "))
	}
	if len(a.Children) > 0 {
		say("above %s", strings.Join(a.Children, ", "))
	}
	switch {
	case a.EveryNamespace:
		say("every namespace may use it")
	case len(a.Namespaces) == 0:
		say("no namespace may use it")
	default:
		say("namespaces that may use it: %s", shortList(a.Namespaces, 10))
	}
	if a.Default {
		say("it is the queue of their pods that name none")
	}
	limit := "no limit"
	if l.LimitMilliGPU >= 0 {
		limit = "limit " + gpus(l.LimitMilliGPU)
	}
	say("GPUs: guaranteed %s, %s, weight %d", gpus(l.GuaranteedMilliGPU), limit, a.Weight)
	for _, w := range a.Windows {
		days := "every day"
		if len(w.Days) > 0 {
			days = strings.Join(w.Days, ", ")
		}
		say("  from %s to %s %s (%s): guaranteed %s, limit %s", w.From, w.To, days, w.TimeZone, gpus(w.GuaranteedMilliGPU), limitText(w.LimitMilliGPU))
	}
	if l.Written {
		say("running %s (%s borrowed), pending %s in %s (%s eligible)", gpus(l.RunningMilliGPU), gpus(l.BorrowedMilliGPU), gpus(l.PendingMilliGPU),
			count(l.PendingPods, "pod"), gpus(l.EligibleMilliGPU))
	} else {
		say("weft-controller has not written its status: does it run?")
	}
	if a.RuntimeDefaultSeconds > 0 || a.RuntimeMaxSeconds > 0 {
		say("run time of a pod: %s", runtimeText(a.RuntimeDefaultSeconds, a.RuntimeMaxSeconds))
	}
	if b := l.Budget; b != nil {
		renderBudget(&out, a, b)
	}
	for _, c := range l.Conditions {
		if bad := c.Type != v1alpha1.ConditionValid; (c.Status == string(metav1.ConditionTrue)) == bad {
			say("%s since %s: %s: %s", c.Type, c.Since, c.Reason, c.Message)
		}
	}
	renderWaiting(&out, s, a.Waiting)
	_, err := io.WriteString(w, s.finish(out.String()))
	return err
}

func runtimeText(standard, most int64) string {
	var parts []string
	if standard > 0 {
		parts = append(parts, (time.Duration(standard)*time.Second).String()+" unless it says otherwise")
	}
	if most > 0 {
		parts = append(parts, "at most "+(time.Duration(most)*time.Second).String())
	}
	return strings.Join(parts, ", ")
}

func renderBudget(out *strings.Builder, a QueueAnswer, b *QueueBudget) {
	say := func(format string, args ...any) { fmt.Fprintf(out, "  "+format+"\n", args...) }
	period := "without a period"
	if b.PeriodEnd != "" {
		period = fmt.Sprintf("each %s, now from %s to %s", strings.ToLower(b.Period), b.PeriodStart, b.PeriodEnd)
	}
	say("budget: %s GPU-hours %s; enforcement %s", gpuHours(b.LimitMilliGPUSeconds), period, b.Enforcement)
	if b.AsOf != "" {
		say("  used %s, held %s, left %s, as of %s", gpuHours(b.UsedMilliGPUSeconds), gpuHours(b.HeldMilliGPUSeconds), gpuHours(b.LeftMilliGPUSeconds), b.AsOf)
		say("  the last day used %s, which lasts for %s days", gpuHours(b.BurnPerDayMilliGPUSeconds), cmp.Or(strings.Replace(b.daysLeft(), "-", "any number of", 1)))
	}
	if b.ExhaustedAt != "" {
		say("  used up at %s", b.ExhaustedAt)
	}
	if b.DrainAt != "" {
		say("  what runs is evicted from %s", b.DrainAt)
	}
	if a.RolloverPercent > 0 {
		say("  at most %d %% of it are carried into the next period", a.RolloverPercent)
	}
	if !a.ChargeStartup {
		say("  the time until containers run is not charged")
	}
	for _, e := range a.Adjustments {
		when := "not of this period"
		if e.Counts {
			when = "counts in this period"
		}
		reason := ""
		if e.Reason != "" {
			reason = ": " + e.Reason
		}
		sign := "+"
		if e.MilliGPUSeconds < 0 {
			sign = ""
		}
		say("  %s%s GPU-hours %s at %s (%s)%s", sign, gpuHours(e.MilliGPUSeconds), e.Name, e.At, when, reason)
	}
}

func renderWaiting(out *strings.Builder, s style, waiting []QueueWaiting) {
	if len(waiting) == 0 {
		out.WriteString("\nNo pod waits.\n")
		return
	}
	out.WriteByte('\n')
	for _, g := range waiting {
		verb := "wait"
		if g.Count == 1 {
			verb = "waits"
		}
		reason, colour := cmp.Or(g.Reason, "nobody said anything of them yet"), colourYellow
		if !g.HeldBack {
			colour = ""
		}
		fmt.Fprintf(out, "%s of %s GPUs %s: %s\n", count(g.Count, "pod"), gpus(g.MilliGPU), verb, s.paint(colour, reason))
		if g.Message != "" {
			fmt.Fprintf(out, "  %s\n", g.Message)
		}
		more := ""
		if g.Count > len(g.Pods) {
			more = fmt.Sprintf(" and %d more", g.Count-len(g.Pods))
		}
		fmt.Fprintf(out, "  %s%s\n", strings.Join(g.Pods, ", "), more)
	}
}

// shortList is names in a line, few of many.
func shortList(names []string, most int) string {
	if len(names) <= most {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
}
