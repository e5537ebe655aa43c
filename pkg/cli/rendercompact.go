package cli

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"
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
	for i, n := range nodes[1:] {
		rest := fmt.Sprintf(" and %d more", len(nodes)-1-i)
		next := ", " + shorten(n.Name, maxNameWidth)
		last := i == len(nodes)-2
		if after := utf8.RuneCountInString(out + next); last && after > room || !last && after+len(rest) > room {
			return out + rest
		}
		out += next
	}
	return out
}

// classes prints a table with a row per class of nodes: what is left matters more than which GPU is which.
func (m *mapper) classes() {
	t := table{
		header: []string{"PRODUCT", "PER NODE", "NODES", "GPUS", "ASSIGNED", "WHOLE", "SHARED", "MIG", "IDLE", "UNHEALTHY", "NODES BY IDLE GPUS"},
		right:  []int{1, 2, 3, 5, 6, 7, 8, 9},
	}
	for _, h := range byHardware(m.report.Nodes) {
		var sum Totals
		idle := map[int]int{}
		for _, n := range h.nodes {
			sum.add(n)
			idle[n.IdleGPUs]++
		}
		assigned := m.style.bar(0, 10)
		if sum.CapacityMilliGPU > 0 {
			perMille := sum.AssignedMilliGPU * 1000 / sum.CapacityMilliGPU
			assigned = m.style.bar(perMille, 10) + " " + padLeft(percent(perMille), 6)
		}
		var byIdle []string
		for _, k := range slices.Backward(slices.Sorted(maps.Keys(idle))) {
			byIdle = append(byIdle, fmt.Sprintf("%d:%d", k, idle[k]))
		}
		product := h.products
		if h.gpus == 0 {
			product = "(no usable GPU)"
		}
		t.row(product, fmt.Sprint(h.gpus), fmt.Sprint(len(h.nodes)), fmt.Sprint(sum.GPUs), assigned, fmt.Sprint(sum.WholeGPUs),
			fmt.Sprint(sum.SharedGPUs), fmt.Sprint(sum.MIGGPUs), fmt.Sprint(sum.IdleGPUs), fmt.Sprint(sum.UnhealthyGPUs),
			strings.Join(byIdle, " "))
	}
	m.printf("\n")
	for _, line := range t.lines(m.style, "") {
		m.printf("%s\n", line)
	}
	m.printf("\n%s\n", m.style.paint(colourDim,
		"NODES BY IDLE GPUS: 8:3 is 3 nodes with 8 idle GPUs each. Choose nodes with --product, -l or --node, or --detail=gpu, to see GPUs."))
}
