package cli

import (
	"fmt"
	"io"
	"strings"

	"weft.sh/weft/pkg/gpu"
)

// RenderGPUs prints every GPU of a report and who holds it, a line per GPU and holder, for people.
func RenderGPUs(w io.Writer, r Report, opts MapOptions) error {
	s := style{colour: opts.Colour, ascii: opts.ASCII}
	t := table{
		header: []string{"NODE", "GPU", "ID", "PRODUCT", "MEMORY", "STATE", "USED", "HOLDS", "WHO"},
		right:  []int{1, 4, 6},
	}
	for _, n := range r.Nodes {
		for i, g := range n.GPUs {
			node := ""
			if i == 0 {
				node = n.Name
			}
			state := g.State
			if !g.Healthy {
				state += ", unhealthy"
			}
			cells := []string{node, fmt.Sprint(g.Index), g.ID, g.Product, gibibytes(g.MemoryMiB), state, gpu.FormatPercent(g.AssignedMilliGPU)}
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
	_, err := io.WriteString(w, s.finish(strings.Join(t.lines(s, ""), "\n")+"\n"))
	return err
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
