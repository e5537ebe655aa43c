package cli

import (
	"fmt"
	"io"
	"slices"
	"strings"
)

// maxMembers is how many members are shown with a line each, and maxDomainLines how many domains.
const (
	maxMembers     = 24
	maxDomainLines = 12
)

// RenderGangAnswer prints an answer about a gang for people.
func RenderGangAnswer(w io.Writer, a GangAnswer, opts AnswerOptions) error {
	s := style{colour: opts.Colour, ascii: opts.ASCII}
	var out strings.Builder
	a.render(&out, s)
	_, err := io.WriteString(w, s.finish(out.String()))
	return err
}

func (a *GangAnswer) render(out *strings.Builder, s style) {
	fmt.Fprintf(out, "podgroup %s %s.\n", s.paint(colourBold, a.Namespace+"/"+a.PodGroup), strings.TrimSuffix(a.Message, "."))
	fmt.Fprintf(out, "  %s\n", a.countsText())
	for _, m := range a.Missing {
		fmt.Fprintf(out, "  no member for %s\n", m)
	}
	for _, shape := range a.Shapes {
		asks := asksOf(Answer{Asks: shape.Asks, Products: shape.Products, MilliCPU: shape.MilliCPU, MemoryMiB: shape.MemoryMiB})
		if asks == "" {
			asks = "nothing"
		}
		fmt.Fprintf(out, "  %s like %s, asking for %s\n", count(shape.Members, "member"), shape.Pod, asks)
	}
	if t := a.topologyText(); t != "" {
		fmt.Fprintf(out, "  %s\n", t)
	}
	if a.Verdict == VerdictPlaced {
		if where := whereText(a.Used, len(a.nodes())); where != "" {
			fmt.Fprintf(out, "  on %s\n", where)
		}
	}
	a.renderReason(out, s)
	a.renderDomains(out, s)
	a.renderMembers(out, s)
	if a.StatusMessage != "" {
		fmt.Fprintf(out, "\n%s\n  %s\n", s.paint(colourDim, "Its status says, in phase "+a.Phase+":"), a.StatusMessage)
	}
	if a.Said != nil && a.Said.Message != "" && a.Said.Message != a.StatusMessage {
		fmt.Fprintf(out, "\n%s\n  %s\n", s.paint(colourDim, "The scheduler last said of a member"+since(a.Said)+":"),
			strings.TrimPrefix(a.Said.Reason+": "+a.Said.Message, ": "))
	}
	renderUnchecked(out, a.NotChecked)
}

// countsText is how many members there are, in a line.
func (a *GangAnswer) countsText() string {
	c := a.Counts
	text := count(c.Members, "member")
	if a.MinMembers > 0 {
		text += fmt.Sprintf(" of at least %d", a.MinMembers)
	}
	var parts []string
	for _, p := range []struct {
		n    int
		what string
	}{
		{c.Running, "running"}, {c.Bound - c.Running, "bound and not running yet"}, {c.Pending, "pending"}, {c.Gated, "gated"},
	} {
		if p.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", p.n, p.what))
		}
	}
	if len(parts) > 0 {
		text += ": " + strings.Join(parts, ", ")
	}
	parts = nil
	for _, p := range []struct {
		n    int
		what string
	}{{c.Succeeded, "succeeded"}, {c.Failed, "failed"}, {c.Deleting, "being deleted"}} {
		if p.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", p.n, p.what))
		}
	}
	if len(parts) > 0 {
		text += "; besides, " + strings.Join(parts, ", ")
	}
	return text
}

func (a *GangAnswer) topologyText() string {
	var parts []string
	if a.TopologyRequired != "" {
		parts = append(parts, "all in one domain of "+a.TopologyRequired)
	}
	if a.TopologyPreferred != "" {
		parts = append(parts, "in as few domains of "+a.TopologyPreferred+" as possible")
	}
	return strings.Join(parts, "; ")
}

// renderReason says what is in the way and what would have to change, or what it waits for.
func (a *GangAnswer) renderReason(out *strings.Builder, s style) {
	if a.WaitsFor != "" {
		fmt.Fprintf(out, "\n  %s: it waits for %s\n", s.paint(colourGreen, "Fits"), a.WaitsFor)
	}
	if a.Reason == "" {
		return
	}
	colour := colourRed
	if a.Resolvable {
		colour = colourYellow
	}
	fmt.Fprintf(out, "\n  %s: %s", s.paint(colour, a.Reason), a.Text)
	if a.Detail != "" {
		fmt.Fprintf(out, " (%s)", a.Detail)
	}
	fmt.Fprintf(out, "\n  → %s\n", a.Advice)
	if a.Resolvable {
		out.WriteString("    it is tried again when a pod ends\n")
	}
}

// renderDomains shows where there is room, by domain of the level asked for.
func (a *GangAnswer) renderDomains(out *strings.Builder, s style) {
	if len(a.Domains) == 0 {
		return
	}
	t := table{header: []string{strings.ToUpper(levelText(a.Level)), "NODES", "IDLE GPUS", "MEMBERS", "ROOM FOR"}, right: []int{1, 2, 3, 4}}
	waiting := a.Counts.Pending
	for i, d := range a.Domains {
		if i == maxDomainLines {
			break
		}
		members := ""
		if d.Members > 0 {
			members = fmt.Sprint(d.Members)
		}
		t.row(d.Name, fmt.Sprint(d.Nodes), fmt.Sprintf("%d/%d", d.IdleGPUs, d.GPUs), members, fmt.Sprintf("%d/%d", d.Room, waiting))
	}
	t.dropEmpty("MEMBERS")
	fmt.Fprintln(out)
	for _, line := range t.lines(s, "  ") {
		fmt.Fprintln(out, line)
	}
	if more := len(a.Domains) - maxDomainLines; more > 0 {
		fmt.Fprintf(out, "  and %d more: see -o json\n", more)
	}
}

// nodes are those of the members, each once.
func (a *GangAnswer) nodes() []string {
	var out []string
	for _, p := range a.Pods {
		if p.Node != "" && (p.State == MemberBound || p.State == MemberRunning) {
			out = append(out, p.Node)
		}
	}
	return distinct(out)
}

// memberRun is neighbours in rank order of which everything but the name is equal.
type memberRun struct {
	Member
	last string
	n    int
}

// stem is the name without the number at its end.
func stem(name string) string { return strings.TrimRight(name, "0123456789") }

// renderMembers lists the members, neighbours that are alike in one line.
func (a *GangAnswer) renderMembers(out *strings.Builder, s style) {
	var runs []memberRun
	for _, p := range a.Pods {
		like := p
		like.Pod = ""
		if k := len(runs) - 1; k >= 0 {
			was := runs[k].Member
			if was.Pod = ""; was == like && stem(runs[k].last) == stem(p.Pod) {
				runs[k].last = p.Pod
				runs[k].n++
				continue
			}
		}
		runs = append(runs, memberRun{Member: p, last: p.Pod, n: 1})
	}
	if len(runs) == 0 {
		return
	}
	domain := strings.ToUpper(levelText(a.Level))
	if a.Level == "" {
		domain = "DOMAIN"
	}
	t := table{header: []string{"MEMBER", "STATE", "NODE", "WOULD GO TO", domain}}
	for i, r := range runs {
		if i == maxMembers {
			break
		}
		name := r.Pod
		if r.n > 1 {
			name = fmt.Sprintf("%s … %s (%d)", r.Pod, r.last, r.n)
		}
		t.row(name, r.State, r.Node, r.WouldGoTo, r.Domain)
	}
	for _, column := range slices.Clone(t.header[2:]) {
		t.dropEmpty(column)
	}
	fmt.Fprintln(out)
	for _, line := range t.lines(s, "  ") {
		fmt.Fprintln(out, line)
	}
	if len(runs) > maxMembers {
		shown := 0
		for _, r := range runs[:maxMembers] {
			shown += r.n
		}
		fmt.Fprintf(out, "  and %d more: see -o json\n", len(a.Pods)-shown)
	}
}
