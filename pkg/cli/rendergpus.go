package cli

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"weft.sh/weft/pkg/gpu"
)

// RenderGPUs prints every GPU of a report and who holds it, a line per GPU and holder, and then what is known of the
// hardware, for people.
func RenderGPUs(w io.Writer, r Report, opts MapOptions) error {
	s := style{colour: opts.Colour, ascii: opts.ASCII}
	lines := holdersTable(r).lines(s, "")
	if t := hardwareTable(r); len(t.rows) > 0 {
		lines = append(append(lines, ""), t.lines(s, "")...)
	}
	_, err := io.WriteString(w, s.finish(strings.Join(lines, "\n")+"\n"))
	return err
}

func holdersTable(r Report) *table {
	t := &table{
		header: []string{"NODE", "GPU", "ID", "PRODUCT", "MEMORY", "STATE", "ISOLATION", "USED", "HOLDS", "WHO"},
		right:  []int{1, 4, 7},
	}
	for _, n := range r.Nodes {
		for i, g := range n.GPUs {
			state := g.State
			if g.SharedOnly {
				state += ", shared only"
			}
			if !g.Healthy {
				state += ", unhealthy"
			}
			cells := []string{
				nameOnce(n, i), fmt.Sprint(g.Index), g.ID, g.Product, gibibytes(g.MemoryMiB), state, g.Isolation,
				gpu.FormatPercent(g.AssignedMilliGPU),
			}
			if len(g.Holders) == 0 {
				t.row(append(cells, "", "")...)
			}
			for j, h := range g.Holders {
				if j > 0 {
					cells = make([]string, len(cells))
				}
				t.row(append(cells, holds(h), who(h))...)
			}
		}
	}
	t.dropEmpty("ISOLATION")
	return t
}

// hardwareTable has a row for every GPU whose hardware the node says something of, and the columns that it says anything in.
func hardwareTable(r Report) *table {
	t := &table{
		header: []string{"NODE", "GPU", "BUS", "NUMA", "NVLINK", "CLIQUE", "ARCHITECTURE", "COMPUTE", "DRIVER", "CUDA"},
		right:  []int{1, 3},
	}
	for _, n := range r.Nodes {
		printed := 0
		for _, g := range n.GPUs {
			h, numa := g.Hardware, ""
			if h.NUMANode >= 0 {
				numa = fmt.Sprint(h.NUMANode)
			}
			cells := []string{
				h.PCIBusID, numa, links(h), h.CliqueID, h.Architecture, h.ComputeCapability, h.DriverVersion, h.CUDAVersion,
			}
			if !slices.ContainsFunc(cells, func(c string) bool { return c != "" }) {
				continue
			}
			t.row(append([]string{nameOnce(n, printed), fmt.Sprint(g.Index)}, cells...)...)
			printed++
		}
	}
	for _, column := range slices.Clone(t.header[2:]) {
		t.dropEmpty(column)
	}
	return t
}

// nameOnce is the node's name for its first row only.
func nameOnce(n Node, row int) string {
	if row > 0 {
		return ""
	}
	return n.Name
}

// links says where NVLinks lead, in a few words: "18 to switches", "4 to 0, 4 to 2".
func links(h Hardware) string {
	var parts []string
	if h.NVLinkSwitchLinks > 0 {
		parts = append(parts, fmt.Sprintf("%d to switches", h.NVLinkSwitchLinks))
	}
	for _, p := range h.NVLinkPeers {
		parts = append(parts, fmt.Sprintf("%d to %d", p.Links, p.Index))
	}
	return strings.Join(parts, ", ")
}

// holds is what a container holds of a GPU, in a few words.
func holds(h Holder) string {
	switch h.Kind {
	case gpu.MIG.String():
		return fmt.Sprintf("%s@%d:%d", h.Profile, h.Start, h.Size)
	case gpu.Shared.String():
		return fmt.Sprintf("%s, %d MiB", gpu.FormatPercent(h.MilliGPU), h.MemoryMiB)
	}
	return "whole"
}

func who(h Holder) string {
	s := h.Namespace + "/" + h.Pod + "/" + h.Container
	if h.Init {
		s += " (init)"
	}
	return s
}
