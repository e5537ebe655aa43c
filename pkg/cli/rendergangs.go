package cli

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"weft.sh/weft/pkg/gang"
)

// RenderGangs prints the gangs of a report in a table, for people; nothing when there are none.
func RenderGangs(w io.Writer, r Report, opts MapOptions) error {
	if len(r.Gangs) == 0 {
		return nil
	}
	m := &gangMapper{mapper: mapper{report: r, opts: opts, style: style{colour: opts.Colour, ascii: opts.ASCII}}}
	m.table(false)
	_, err := io.WriteString(w, m.style.finish(m.out.String()))
	return err
}

// RenderGangMap prints the gangs of a report and a map of the GPUs by domain of the level, with a letter for each gang. An empty
// level is the narrowest one of which a domain has several nodes.
func RenderGangMap(w io.Writer, r Report, level string, opts MapOptions) error {
	m := &gangMapper{mapper: mapper{report: r, opts: opts, style: style{colour: opts.Colour, ascii: opts.ASCII}}, letters: map[string]rune{}}
	if len(r.Gangs) == 0 {
		m.printf("There is no gang.\n")
	} else {
		m.name()
		m.sum()
		m.domains(cmp.Or(level, m.level()))
		m.table(true)
	}
	_, err := io.WriteString(w, m.style.finish(m.out.String()))
	return err
}

// gangMapper prints gangs.
type gangMapper struct {
	mapper
	// letters are those of the gangs that hold GPUs, by namespace/name; nil without a map.
	letters map[string]rune
}

// Letters of the map of gangs that stand for no gang.
const (
	letterOther = 'o'
	letterMany  = '*'
	letterIdle  = '.'
	letterSick  = 'x'
)

// gangLetters are those of gangs, the largest gang first; those that come after share letterMany.
const gangLetters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnpqrstuvwyz"

// noDomain is what nodes are under that have no label of the level.
const noDomain = "(none)"

// maxLetterNodes is up to how many nodes every GPU has a letter; of more, every node has one.
const maxLetterNodes = 96

func (g Gang) name() string { return g.Namespace + "/" + g.PodGroup }

func (m *gangMapper) name() {
	next := 0
	for _, g := range bySize(m.report.Gangs) {
		switch {
		case g.HeldMilliGPU == 0:
		case next < len(gangLetters):
			m.letters[g.name()] = rune(gangLetters[next])
			next++
		default:
			m.letters[g.name()] = letterMany
		}
	}
}

// sum prints how many gangs there are by phase.
func (m *gangMapper) sum() {
	phases := map[string]int{}
	var held int64
	for _, g := range m.report.Gangs {
		phases[g.Phase]++
		held += g.HeldMilliGPU
	}
	var parts []string
	for _, p := range gang.Phases() {
		if n := phases[string(p)]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, strings.ToLower(string(p))))
			delete(phases, string(p))
		}
	}
	for _, p := range slices.Sorted(maps.Keys(phases)) { // of another controller
		parts = append(parts, fmt.Sprintf("%d %s", phases[p], p))
	}
	m.printf("%s: %s; they hold %s of %d GPUs\n", m.style.paint(colourBold, count(len(m.report.Gangs), "gang")), strings.Join(parts, ", "),
		gpus(held), m.report.Totals.GPUs)
}

// level is the narrowest level that brings nodes together, empty when none does.
func (m *gangMapper) level() string {
	for l, level := range m.report.Levels {
		seen := map[string]bool{}
		for _, n := range m.report.Nodes {
			d := n.Domains[l]
			if d != "" && seen[d] {
				return level
			}
			seen[d] = true
		}
	}
	return ""
}

// row is one domain of the map.
type row struct {
	name  string
	nodes []Node
}

// domains prints a line, or as many as it takes, for each domain of the level.
func (m *gangMapper) domains(level string) {
	l := slices.Index(m.report.Levels, level)
	rows := map[string]*row{}
	for _, n := range m.report.Nodes {
		name := "all nodes"
		if l >= 0 {
			name = cmp.Or(n.Domains[l], noDomain)
			if level == gang.LevelNVLink && strings.Contains(name, "/") {
				name = noDomain // alone in its domain
			}
		}
		if rows[name] == nil {
			rows[name] = &row{name: name}
		}
		rows[name].nodes = append(rows[name].nodes, n)
	}
	names := slices.Sorted(maps.Keys(rows))
	if i := slices.Index(names, noDomain); i >= 0 { // last
		names = append(slices.Delete(names, i, i+1), noDomain)
	}
	perGPU := len(m.report.Nodes) <= maxLetterNodes
	what := "a letter for each GPU, nodes side by side"
	if !perGPU {
		what = "a letter for each node: the gang that holds most of it"
	}
	title := "All nodes"
	if l >= 0 {
		title = "By " + level
	}
	m.printf("\n%s %s\n", m.style.paint(colourBold, title), m.style.paint(colourDim, "("+what+")"))
	widest := 0
	for _, name := range names {
		widest = max(widest, utf8.RuneCountInString(shorten(name, maxNameWidth)))
	}
	width := cmp.Or(m.opts.Width, defaultWidth)
	for _, name := range names {
		m.domain(rows[name], widest, width, perGPU)
	}
	m.legendOfGangs(width)
}

// domain prints one domain. Lines break between nodes.
func (m *gangMapper) domain(r *row, widest, width int, perGPU bool) {
	var assigned int64
	total := 0
	for _, n := range r.nodes {
		assigned += n.AssignedMilliGPU
		total += len(n.GPUs)
	}
	used := padLeft(usage(assigned, total), 9)
	room := max(8, width-2-widest-2-utf8.RuneCountInString(used)-2)
	m.printf("  %s  %s  ", pad(shorten(r.name, maxNameWidth), widest), used)
	at := 0
	for _, n := range r.nodes {
		letters := []rune{m.most(n)}
		if perGPU {
			letters = m.each(n)
		}
		size := len(letters)
		if perGPU && at > 0 {
			size++
		}
		switch {
		case at > 0 && at+size > room:
			m.printf("\n  %s  %s  ", pad("", widest), pad("", utf8.RuneCountInString(used)))
			at = 0
			size = len(letters)
		case perGPU && at > 0:
			m.printf(" ")
		}
		at += size
		for _, letter := range letters {
			m.printf("%s", m.paint(letter))
		}
	}
	m.printf("\n")
}

// each is a letter for each GPU of the node.
func (m *gangMapper) each(n Node) []rune {
	out := make([]rune, len(n.GPUs))
	for i, g := range n.GPUs {
		out[i] = m.holder(g)
	}
	return out
}

// holder is the letter of the gang that holds most of the GPU, or of what else there is.
func (m *gangMapper) holder(g GPU) rune {
	held := map[rune]int64{}
	for _, h := range g.Holders {
		held[m.of(h)] += max(h.MilliGPU, 1)
	}
	switch {
	case len(held) > 0:
		return largest(held)
	case !g.Healthy:
		return letterSick
	case g.State != StateIdle && g.State != StateMIG:
		return letterOther
	}
	return letterIdle
}

// of is the letter of a holder.
func (m *gangMapper) of(h Holder) rune {
	if letter, ok := m.letters[h.Namespace+"/"+h.PodGroup]; ok && h.PodGroup != "" {
		return letter
	}
	return letterOther
}

// most is the letter of the gang that holds most of the node.
func (m *gangMapper) most(n Node) rune {
	held := map[rune]int64{}
	for _, g := range n.GPUs {
		for _, h := range g.Holders {
			held[m.of(h)] += max(h.MilliGPU, 1)
		}
	}
	if len(held) > 0 {
		return largest(held)
	}
	return letterIdle
}

func largest(held map[rune]int64) rune {
	return slices.MaxFunc(slices.Sorted(maps.Keys(held)), func(a, b rune) int { return cmp.Or(cmp.Compare(held[a], held[b]), cmp.Compare(b, a)) })
}

// gangColours tell neighbours in the alphabet apart.
var gangColours = []string{colourBlue, colourMagenta, colourYellow, colourGreen}

func (m *gangMapper) paint(letter rune) string {
	if m.used == nil {
		m.used = map[glyph]bool{}
	}
	m.used[glyph(letter)] = true
	colour := colourDim
	if i := strings.IndexRune(gangLetters, letter); i >= 0 {
		colour = gangColours[i%len(gangColours)]
	}
	if letter == letterSick {
		colour = colourRed
	}
	return m.style.paint(colour, string(letter))
}

// legendOfGangs explains the letters that stand for no gang; those of gangs stand in the table.
func (m *gangMapper) legendOfGangs(width int) {
	at := 0
	for _, l := range []struct {
		letter rune
		text   string
	}{
		{letterMany, "other gangs"}, {letterOther, "other pods"}, {letterIdle, "idle"}, {letterSick, "unhealthy"},
	} {
		if !m.used[glyph(l.letter)] {
			continue
		}
		if at == 0 {
			m.printf("\n")
		} else if at+6+len(l.text) > width {
			m.printf("\n")
			at = 0
		} else {
			m.printf("   ")
		}
		m.printf("%s %s", m.paint(l.letter), l.text)
		at += 5 + len(l.text)
	}
	if at > 0 {
		m.printf("\n")
	}
}

// table prints a row for each gang.
func (m *gangMapper) table(all bool) {
	t := table{header: []string{"", "GANG", "PHASE", "BOUND", "MIN", "MEMBERS", "GPUS", "WHERE"}, right: []int{3, 4, 5, 6}}
	gangs := slices.DeleteFunc(bySize(m.report.Gangs), Gang.over)
	if len(gangs) == 0 {
		return
	}
	for i, g := range gangs {
		if i == maxListed && !all && !m.opts.All {
			break
		}
		letter := ""
		if l := m.letters[g.name()]; l != 0 {
			letter = string(l)
		}
		t.row(letter, shorten(g.name(), 2*maxNameWidth), g.Phase, fmt.Sprint(g.Counts.Bound), fmt.Sprint(g.MinMembers),
			fmt.Sprint(g.Counts.Members), gpus(g.HeldMilliGPU), g.where())
	}
	t.dropEmpty("")
	m.printf("\n")
	for _, line := range t.lines(m.style, "") {
		m.printf("%s\n", line)
	}
	if more := len(gangs) - maxListed; more > 0 && !all && !m.opts.All {
		m.printf("and %d more: see --gangs\n", more)
	}
}

// over says that all of the gang has ended. Such gangs are counted, and shown no more.
func (g Gang) over() bool {
	return g.Counts.Members == 0 && (g.Phase == string(gang.PhaseFinished) || g.Phase == string(gang.PhaseFailed))
}

// where says where the gang is, or what it is short of.
func (g Gang) where() string {
	if g.Problem != "" {
		return g.Problem
	}
	var parts []string
	if where := whereText(g.Used, len(g.OnNodes)); where != "" {
		parts = append(parts, where)
	}
	if g.Counts.Members < g.MinMembers && g.Counts.Succeeded+g.Counts.Failed == 0 {
		parts = append(parts, fmt.Sprintf("%d members do not exist", g.MinMembers-g.Counts.Members))
	}
	if g.Counts.Gated > 0 {
		parts = append(parts, fmt.Sprintf("%d gated", g.Counts.Gated))
	}
	if g.Counts.Pending > 0 {
		text := fmt.Sprintf("%d pending", g.Counts.Pending)
		if g.TopologyRequired != "" && g.Counts.Bound == 0 {
			text += ", for one " + levelText(g.TopologyRequired)
		}
		parts = append(parts, text)
	}
	return strings.Join(parts, "; ")
}
