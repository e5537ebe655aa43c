package cli

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"weft.sh/weft/pkg/cluster"
	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/inventory"
)

// Detail is how much of a map is shown.
type Detail string

const (
	// DetailAuto takes the finest of the others that a person can take in.
	DetailAuto Detail = "auto"
	// DetailGPU has a line per node and a bar per GPU.
	DetailGPU Detail = "gpu"
	// DetailNode has a letter per GPU, and a line per set of nodes that look the same.
	DetailNode Detail = "node"
	// DetailClass has a line per model of GPU and number of GPUs per node.
	DetailClass Detail = "class"
)

// Details are the accepted values of Detail.
func Details() []string {
	return []string{string(DetailAuto), string(DetailGPU), string(DetailNode), string(DetailClass)}
}

// MapOptions say how a map is printed. The zero value suits a file: no colour, any width.
type MapOptions struct {
	// Colour marks states by colour too; letters tell them apart either way.
	Colour bool
	// ASCII avoids all other characters.
	ASCII bool
	// Width is that of the terminal in characters; 0 is no limit.
	Width int
	// Detail is how much is shown; empty is DetailAuto.
	Detail Detail
	// All prints lists of what needs attention whole, however long.
	All bool
}

const (
	// maxBarNodes is how many nodes are shown with a line each: a screen or two.
	maxBarNodes = 48
	// maxPatterns is how many lines of letters are shown before the map is no longer one.
	maxPatterns = 96
	// maxListed is how many lines of a list of problems are shown.
	maxListed = 12
	barWidth  = 4
	cellWidth = barWidth + 1
	// maxTotalsWidth is where the sums break, which is before the end of a terminal of any width.
	maxTotalsWidth = 76
	// defaultWidth is where lines break that can, when the width is not known.
	defaultWidth = 120
)

// RenderMap prints the GPUs of a report as a map with totals and a legend, for people.
func RenderMap(w io.Writer, r Report, opts MapOptions) error {
	m := &mapper{report: r, opts: opts, style: style{colour: opts.Colour, ascii: opts.ASCII}}
	m.totals()
	switch m.detail() {
	case DetailGPU:
		m.bars()
	case DetailNode:
		m.letters()
	default:
		m.classes()
	}
	m.attention()
	_, err := io.WriteString(w, m.style.finish(m.out.String()))
	return err
}

// mapper prints one map.
type mapper struct {
	report Report
	opts   MapOptions
	style  style
	out    strings.Builder
	used   map[glyph]bool // for the legend
}

func (m *mapper) printf(format string, args ...any) { fmt.Fprintf(&m.out, format, args...) }

// detail settles what DetailAuto means for this report.
func (m *mapper) detail() Detail {
	if m.opts.Detail != "" && m.opts.Detail != DetailAuto {
		return m.opts.Detail
	}
	if len(m.report.Nodes) <= maxBarNodes {
		widest := 0
		for _, n := range m.report.Nodes {
			widest = max(widest, 2+min(utf8.RuneCountInString(n.Name), maxNameWidth)+(cellWidth+1)*len(n.GPUs)+len("  16/16"))
		}
		if m.opts.Width == 0 || widest <= m.opts.Width {
			return DetailGPU
		}
	}
	patterns := 0
	for _, h := range byHardware(m.report.Nodes) {
		patterns += len(byPattern(h.nodes))
	}
	if patterns <= maxPatterns {
		return DetailNode
	}
	return DetailClass
}

// glyph is the state of a GPU in one letter: small where there is room, capital where there is none.
type glyph rune

const (
	glyphIdle       glyph = '.'
	glyphIdleMIG    glyph = ':'
	glyphShared     glyph = 's'
	glyphSharedFull glyph = 'S'
	glyphMIG        glyph = 'm'
	glyphMIGFull    glyph = 'M'
	glyphWhole      glyph = 'W'
	glyphWithheld   glyph = '?'
	glyphUnhealthy  glyph = 'x'
	glyphOverbooked glyph = '!'
)

// glyphs has all of them in the order of the legend and of sorted patterns.
var glyphs = []struct {
	glyph  glyph
	colour string
	text   string
}{
	{glyphOverbooked, colourRed, "given out more than it has"},
	{glyphWhole, colourBlue, "held whole"},
	{glyphSharedFull, colourYellow, "shared, full"},
	{glyphShared, colourYellow, "shared, room left"},
	{glyphMIGFull, colourMagenta, "MIG, full"},
	{glyphMIG, colourMagenta, "MIG, room left"},
	{glyphIdleMIG, colourMagenta, "MIG, idle"},
	{glyphWithheld, colourRed, "withheld (it is not known which)"},
	{glyphIdle, colourGreen, "idle"},
	{glyphUnhealthy, colourRed, "unhealthy"},
}

func (g glyph) rank() int {
	for i := range glyphs {
		if glyphs[i].glyph == g {
			return i
		}
	}
	return len(glyphs)
}

func (g glyph) colour() string { return glyphs[g.rank()].colour }

func glyphOf(g GPU) glyph {
	switch {
	case !g.Healthy:
		return glyphUnhealthy
	case g.AssignedMilliGPU > gpu.WholeMilliGPU || g.AssignedMemoryMiB > g.MemoryMiB || g.State == StateMIG && g.AssignedMemoryMiB > 0:
		return glyphOverbooked
	case g.State == StateWhole:
		return glyphWhole
	case g.State == StateMIG && g.FreeMemorySlices == 0:
		return glyphMIGFull
	case g.State == StateMIG && g.AssignedMilliGPU == 0:
		return glyphIdleMIG
	case g.State == StateMIG:
		return glyphMIG
	case g.State == StateIdle:
		return glyphIdle
	case g.FreeMilliGPU == 0 || g.FreeMemoryMiB == 0:
		return glyphSharedFull
	}
	return glyphShared
}

// glyphsOf are the letters of a node's GPUs. Of those that are idle as far as anybody knows, as many as are withheld are
// marked so, the first ones: which they are is just what is not known.
func glyphsOf(n Node) []glyph {
	out := make([]glyph, len(n.GPUs))
	withheld := map[bool]int{true: n.WithheldSharedGPUs, false: n.WithheldGPUs - n.WithheldSharedGPUs}
	for i, g := range n.GPUs {
		out[i] = glyphOf(g)
		if out[i] == glyphIdle && withheld[g.SharedOnly] > 0 {
			out[i] = glyphWithheld
			withheld[g.SharedOnly]--
		}
	}
	return out
}

// fill is how full a GPU is, in thousandths: of share and memory whichever is more.
func fill(g GPU) int64 {
	f := g.AssignedMilliGPU
	if g.MemoryMiB > 0 {
		f = max(f, g.AssignedMemoryMiB*1000/g.MemoryMiB)
	}
	return f
}

// letter is the GPU as one coloured letter.
func (m *mapper) letter(g glyph) string {
	if m.used == nil {
		m.used = map[glyph]bool{}
	}
	m.used[g] = true
	return m.style.paint(g.colour(), string(g))
}

// hardware is nodes that are the same to a buyer.
type hardware struct {
	products  string
	memoryMiB int64
	gpus      int
	source    string
	// wholeOnly and sharedOnly count GPUs that are not given out in both ways, of nodes that publish slices.
	wholeOnly, sharedOnly int
}

type hardwareNodes struct {
	hardware
	nodes []Node
}

// byHardware sorts nodes into classes, by product, then the larger nodes first; nodes without usable GPUs come last.
func byHardware(nodes []Node) []hardwareNodes {
	classes := map[hardware][]Node{}
	for _, n := range nodes {
		h := hardware{gpus: len(n.GPUs)}
		if h.gpus > 0 {
			h.source = n.Source // where none come from makes no difference
		}
		var products []string
		for _, g := range n.GPUs {
			products = append(products, g.Product)
			h.memoryMiB = max(h.memoryMiB, g.MemoryMiB)
			switch {
			case n.Source == cluster.SourceLabels.String() || g.State == StateMIG:
			case g.WholeOnly:
				h.wholeOnly++
			case g.SharedOnly:
				h.sharedOnly++
			}
		}
		slices.Sort(products)
		h.products = strings.Join(slices.Compact(products), " and ")
		classes[h] = append(classes[h], n)
	}
	keys := slices.SortedFunc(maps.Keys(classes), func(a, b hardware) int {
		return cmp.Or(cmp.Compare(min(b.gpus, 1), min(a.gpus, 1)), cmp.Compare(a.products, b.products), cmp.Compare(b.gpus, a.gpus),
			cmp.Compare(b.memoryMiB, a.memoryMiB), cmp.Compare(b.source, a.source), cmp.Compare(a.sharedOnly, b.sharedOnly),
			cmp.Compare(a.wholeOnly, b.wholeOnly))
	})
	out := make([]hardwareNodes, len(keys))
	for i, k := range keys {
		out[i] = hardwareNodes{k, classes[k]}
	}
	return out
}

func (h hardwareNodes) String() string {
	if h.gpus == 0 {
		return "no usable GPU: " + count(len(h.nodes), "node")
	}
	s := fmt.Sprintf("%s, %s, %s on %s", h.products, gibibytes(h.memoryMiB), perNode(h.gpus), count(len(h.nodes), "node")) +
		waysText(h.wholeOnly, h.sharedOnly)
	if h.source == cluster.SourceLabels.String() {
		s += ", by labels: whole GPUs only"
	}
	return s
}

func perNode(gpus int) string {
	return fmt.Sprintf("%d per node", gpus)
}

// totals prints the sums.
func (m *mapper) totals() {
	t := m.report.Totals
	if t.Nodes == 0 {
		if t.NodesWithoutGPU == 0 {
			m.printf("There is no such node.\n")
			return
		}
		m.printf("No GPU on %s: there are neither ResourceSlices of driver %s nor NVIDIA's node labels.\n",
			count(t.NodesWithoutGPU, "node"), inventory.Driver)
		return
	}
	m.printf("%s on %s: %s %s assigned", m.style.paint(colourBold, count(t.GPUs, "GPU")), count(t.Nodes, "node"),
		m.style.bar(t.AssignedPerMille, 20), m.style.paint(colourBold, percent(t.AssignedPerMille)))
	if t.WithheldGPUs > 0 && t.GPUs > 0 {
		m.printf(", %s withheld", percent(int64(t.WithheldGPUs)*1000/int64(t.GPUs)))
	}
	m.printf("\n")
	parts := []string{fmt.Sprintf("%d whole", t.WholeGPUs), fmt.Sprintf("%d shared", t.SharedGPUs)}
	if t.MIGGPUs > 0 {
		parts = append(parts, fmt.Sprintf("%d in MIG mode", t.MIGGPUs))
	}
	parts = append(parts, m.idle()...)
	if t.UnhealthyGPUs > 0 {
		parts = append(parts, fmt.Sprintf("%d unhealthy", t.UnhealthyGPUs))
	}
	parts = append(parts, count(t.Pods, "pod"))
	m.parts(parts)
	m.printf("  free %s GPU", gpus(t.FreeMilliGPU))
	if t.MixPods > 0 && t.FreeMilliGPU > 0 {
		m.printf(", of which %s (%s) fragmented:\n  too small or of the wrong kind for what pods here ask for", gpus(t.FragmentedMilliGPU),
			percent(t.FragmentedPerMille))
	}
	m.printf("\n")
}

// parts prints the parts of a sum, on as many lines as they need.
func (m *mapper) parts(parts []string) {
	at := 0
	for i, p := range parts {
		size := utf8.RuneCountInString(p)
		switch {
		case i == 0:
			m.printf("  ")
		case at+len(", ")+size > maxTotalsWidth:
			m.printf(",\n  ")
			at = 0
		default:
			m.printf(", ")
			at += len(", ")
		}
		if strings.HasSuffix(p, " unhealthy") {
			p = m.style.paint(colourRed, p)
		}
		m.printf("%s", p)
		at += size
	}
	m.printf("\n")
}

// idle says how many GPUs are idle, and which of them no pod gets; those that are given in shares only apart.
func (m *mapper) idle() []string {
	t := m.report.Totals
	cordoned, cordonedShared := 0, 0
	for _, n := range m.report.Nodes {
		if n.Cordoned {
			cordoned += n.IdleGPUs
			cordonedShared += n.IdleSharedGPUs
		}
	}
	out := []string{fmt.Sprintf("%d idle", t.IdleGPUs) + notGiven(t.WithheldGPUs-t.WithheldSharedGPUs, cordoned)}
	if t.IdleSharedGPUs > 0 {
		out = append(out, fmt.Sprintf("%d idle for shares only", t.IdleSharedGPUs)+notGiven(t.WithheldSharedGPUs, cordonedShared))
	}
	return out
}

// notGiven says in brackets which of the idle GPUs no pod gets.
func notGiven(withheld, cordoned int) string {
	var not []string
	if withheld > 0 {
		not = append(not, fmt.Sprintf("%d withheld", withheld))
	}
	if cordoned > 0 {
		not = append(not, fmt.Sprintf("%d on cordoned nodes", cordoned))
	}
	if len(not) == 0 {
		return ""
	}
	return " (" + strings.Join(not, ", ") + ")"
}

// bars prints a line per node with a bar per GPU.
func (m *mapper) bars() {
	name := 0
	for _, n := range m.report.Nodes {
		name = max(name, utf8.RuneCountInString(m.nodeName(n)))
	}
	for _, h := range byHardware(m.report.Nodes) {
		m.printf("\n%s\n", m.style.paint(colourBold, h.String()))
		for _, n := range h.nodes {
			m.printf("  %s ", pad(m.nodeName(n), name))
			for i, letter := range glyphsOf(n) {
				m.printf(" %s%s", m.letter(letter), m.style.paint(letter.colour(), m.style.bar(fill(n.GPUs[i]), barWidth)))
			}
			m.printf("  %s%s\n", usage(n.AssignedMilliGPU, len(n.GPUs)), m.notes(n))
		}
	}
	m.legend("bar: how full, share or memory, whichever is more")
}

// maxNameWidth keeps the names of nodes from crowding out their GPUs.
const maxNameWidth = 32

func (m *mapper) nodeName(n Node) string { return shorten(n.Name, maxNameWidth) }

func usage(assignedMilliGPU int64, total int) string {
	return fmt.Sprintf("%s/%d", gpus(assignedMilliGPU), total)
}

// notes are what keeps a node from taking pods, in a few words.
func (m *mapper) notes(n Node) string {
	var notes []string
	if !n.Ready {
		notes = append(notes, "not ready")
	}
	if n.Cordoned {
		notes = append(notes, "cordoned")
	}
	if n.WithheldGPUs > 0 {
		notes = append(notes, fmt.Sprintf("%d withheld", n.WithheldGPUs))
	}
	if k := len(n.WithheldProfiles); k > 0 {
		notes = append(notes, count(k, "instance")+" withheld")
	}
	if len(n.Conflicts) > 0 {
		notes = append(notes, count(len(n.Conflicts), "conflict"))
	}
	if k := len(n.Problems); k > 0 {
		notes = append(notes, count(k, "problem"))
	}
	if len(notes) == 0 {
		return ""
	}
	return "  " + m.style.paint(colourRed, strings.Join(notes, ", "))
}

// legend explains the letters that occur.
func (m *mapper) legend(more string) {
	width := m.opts.Width
	if width == 0 {
		width = defaultWidth
	}
	at := 0
	for _, g := range glyphs {
		if !m.used[g.glyph] {
			continue
		}
		size := 2 + utf8.RuneCountInString(g.text)
		switch {
		case at == 0:
			m.printf("\n")
		case at+3+size > width:
			m.printf("\n")
			at = 0
		default:
			m.printf("   ")
			at += 3
		}
		m.printf("%s %s", m.style.paint(g.colour, string(g.glyph)), g.text)
		at += size
	}
	if at == 0 {
		return
	}
	m.printf("\n")
	if more != "" {
		m.printf("%s\n", m.style.paint(colourDim, more))
	}
}

// attention lists what somebody should look at.
func (m *mapper) attention() {
	var conflicts, withheld, unhealthy, problems []string
	for _, n := range m.report.Nodes {
		for _, g := range n.GPUs {
			if g.UnhealthyReason != "" {
				unhealthy = append(unhealthy, fmt.Sprintf("%s/%s: %s", n.Name, g.ID, g.UnhealthyReason))
			}
		}
		conflicts = append(conflicts, n.Conflicts...)
		for _, u := range n.Unplaced {
			withheld = append(withheld, fmt.Sprintf("%s: for %s/%s: %s", n.Name, u.Namespace, u.Pod, u.Why))
		}
		for _, p := range n.Problems {
			problems = append(problems, n.Name+": "+p)
		}
	}
	m.list("GPUs given out more than they have", conflicts)
	m.list("Withheld, because nobody knows which GPUs a pod holds", withheld)
	m.list("Why GPUs are unhealthy", unhealthy)
	m.list("Inventory problems", problems)
}

func (m *mapper) list(title string, lines []string) {
	if len(lines) == 0 {
		return
	}
	m.printf("\n%s\n", m.style.paint(colourRed, title))
	for i, line := range lines {
		if i == maxListed && !m.opts.All {
			m.printf("  and %d more: see -o wide\n", len(lines)-i)
			break
		}
		m.printf("  %s\n", line)
	}
}
