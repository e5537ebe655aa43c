package cli

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"weft.sh/weft/pkg/cluster"
)

// The two coarser forms of the map, for clusters of which nobody reads every GPU.

// pattern is nodes of one class that look the same: as many GPUs in every state, whichever they are.
type pattern struct {
	glyphs []glyph
	nodes  []Node
}

// byPattern sorts nodes into patterns, the fullest first.
func byPattern(nodes []Node) []pattern {
	patterns := map[string]*pattern{}
	for _, n := range nodes {
		all := glyphsOf(n)
		slices.SortFunc(all, func(a, b glyph) int { return cmp.Compare(a.rank(), b.rank()) })
		key := string(all)
		if patterns[key] == nil {
			patterns[key] = &pattern{glyphs: all}
		}
		patterns[key].nodes = append(patterns[key].nodes, n)
	}
	keys := slices.SortedFunc(maps.Keys(patterns), func(a, b string) int {
		return slices.CompareFunc(patterns[a].glyphs, patterns[b].glyphs, func(a, b glyph) int { return cmp.Compare(a.rank(), b.rank()) })
	})
	out := make([]pattern, len(keys))
	for i, k := range keys {
		out[i] = *patterns[k]
	}
	return out
}

// letters prints a line per pattern, with the names of its nodes as far as there is room.
func (m *mapper) letters() {
	width := m.opts.Width
	if width == 0 {
		width = defaultWidth
	}
	for _, h := range byHardware(m.report.Nodes) {
		m.printf("\n%s\n", m.style.paint(colourBold, h.String()))
		for _, p := range byPattern(h.nodes) {
			var assigned int64
			for _, n := range p.nodes {
				assigned += n.AssignedMilliGPU
			}
			for i, g := range p.glyphs {
				if i == 0 {
					m.printf("  ")
				}
				m.printf("%s", m.letter(g))
			}
			number := padLeft(fmt.Sprintf("×%d", len(p.nodes)), 5)
			used := padLeft(usage(assigned, len(p.glyphs)*len(p.nodes)), 11)
			room := width - 2 - len(p.glyphs) - 2*2 - utf8.RuneCountInString(number+used) - 2
			m.printf("  %s  %s  %s\n", number, used, names(p.nodes, room))
		}
	}
	m.legend("")
}

// names lists as many names of nodes as there is room for, at least one.
func names(nodes []Node, room int) string {
	out := shorten(nodes[0].Name, maxNameWidth)
	cut := fmt.Sprintf("%s and %d more", out, len(nodes)-1) // the longest list so far that ends early and fits
	for i, n := range nodes[1:] {
		out += ", " + shorten(n.Name, maxNameWidth)
		if utf8.RuneCountInString(out) > room {
			return cut
		}
		if longer := fmt.Sprintf("%s and %d more", out, len(nodes)-2-i); utf8.RuneCountInString(longer) <= room {
			cut = longer
		}
	}
	return out
}

// classes prints a table with a row per class of nodes: what is left matters more than which GPU is which.
func (m *mapper) classes() {
	t := table{
		header: []string{"PRODUCT", "PER NODE", "NODES", "GPUS", "ASSIGNED", "WHOLE", "SHARED", "MIG", "UNHEALTHY", "IDLE", "FRAGMENTED", "NODES BY IDLE GPUS"},
		right:  []int{1, 2, 3, 5, 6, 7, 8, 9, 10},
	}
	for _, h := range byHardware(m.report.Nodes) {
		t.row(m.classRow(h)...)
	}
	// Most clusters have neither, and the table is wide.
	if m.report.Totals.UnhealthyGPUs == 0 {
		t.drop("UNHEALTHY")
	}
	if m.report.Totals.MIGGPUs == 0 {
		t.drop("MIG")
	}
	m.printf("\n")
	for _, line := range t.lines(m.style, "") {
		m.printf("%s\n", line)
	}
	m.printf("\n%s\n", m.style.paint(colourDim,
		"NODES BY IDLE GPUS: 8:3 is 3 nodes with 8 idle GPUs each. FRAGMENTED: of the free capacity.\n"+
			"To see GPUs, choose nodes with --product, -l or --node, or say --detail=node or gpu."))
}

func (m *mapper) classRow(h hardwareNodes) []string {
	var sum Totals
	idle := map[int]int{}
	for _, n := range h.nodes {
		sum.add(n)
		sum.FreeMilliGPU += n.FreeMilliGPU
		sum.FragmentedMilliGPU += n.FragmentedMilliGPU
		idle[n.IdleGPUs]++
	}
	if sum.GPUs == 0 {
		return []string{"(no usable GPU)", "0", fmt.Sprint(sum.Nodes), "0", "", "", "", "", "", "", "", ""}
	}
	assigned := sum.AssignedMilliGPU * 1000 / sum.CapacityMilliGPU
	fragmented := ""
	if sum.FreeMilliGPU > 0 {
		fragmented = percent(sum.FragmentedMilliGPU * 1000 / sum.FreeMilliGPU)
	}
	var byIdle []string
	for _, k := range slices.Backward(slices.Sorted(maps.Keys(idle))) {
		byIdle = append(byIdle, fmt.Sprintf("%d:%d", k, idle[k]))
	}
	product := h.products
	if h.source == cluster.SourceLabels.String() {
		product += " (labels)"
	}
	return []string{
		product, fmt.Sprint(h.gpus), fmt.Sprint(sum.Nodes), fmt.Sprint(sum.GPUs),
		m.style.bar(assigned, 10) + " " + padLeft(percent(assigned), 6), fmt.Sprint(sum.WholeGPUs), fmt.Sprint(sum.SharedGPUs),
		fmt.Sprint(sum.MIGGPUs), fmt.Sprint(sum.UnhealthyGPUs), fmt.Sprint(sum.IdleGPUs), fragmented, strings.Join(byIdle, " "),
	}
}
