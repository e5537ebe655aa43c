package cli

import (
	"fmt"
	"io"
	"strings"

	"k8s.io/apimachinery/pkg/api/resource"

	"weft.sh/weft/pkg/cluster"
	"weft.sh/weft/pkg/fit"
	"weft.sh/weft/pkg/gpu"
)

// AnswerOptions say how an answer is printed. The zero value suits a file.
type AnswerOptions struct {
	// Colour marks reasons by colour too.
	Colour bool
	// ASCII avoids all other characters.
	ASCII bool
	// Gang is the answer about the gang of the pod; nil for none.
	Gang *GangAnswer
}

const (
	// maxClasses is how many classes of nodes are shown; there are more only where nodes have taints of their own each.
	maxClasses = 16
	// maxAlike is how many classes with the same reason are shown whole.
	maxAlike = 2
)

// RenderAnswer prints an answer for people.
func RenderAnswer(w io.Writer, a Answer, opts AnswerOptions) error {
	s := style{colour: opts.Colour, ascii: opts.ASCII}
	var out strings.Builder
	name := s.paint(colourBold, a.Namespace+"/"+a.Pod)
	fmt.Fprintf(&out, "%s %s.\n", name, strings.TrimSuffix(a.Message, "."))
	if asks := asksOf(a); asks != "" {
		fmt.Fprintf(&out, "  asks for %s\n", asks)
	}
	for _, h := range a.Holds {
		fmt.Fprintf(&out, "  %s\n", holdText(h))
	}
	if a.NominatedNode != "" && a.Node == "" {
		fmt.Fprintf(&out, "  pods on %s were told to end to make room for it; it goes there when they have\n", a.NominatedNode)
	}
	if opts.Gang == nil && a.PodGroup != "" {
		fmt.Fprintf(&out, "  it is a member of podgroup %s: see weft why podgroup/%s\n", a.PodGroup, a.PodGroup)
	}
	renderHold(&out, s, a.Queue)
	// A gang goes where there is room for all of it: where its member would fit by itself says nothing then.
	if opts.Gang == nil || a.NodesThatFit == 0 {
		renderClasses(&out, s, a.Classes)
	}
	if opts.Gang != nil {
		fmt.Fprintf(&out, "\nIt is a member of a gang, which is placed as a whole:\n\n")
		opts.Gang.render(&out, s)
	} else {
		renderSaid(&out, s, a)
		renderUnchecked(&out, a.NotChecked)
	}
	_, err := io.WriteString(w, s.finish(out.String()))
	return err
}

func renderUnchecked(out *strings.Builder, what []string) {
	if len(what) > 0 {
		fmt.Fprintf(out, "\nNot checked here: %s. Of these the scheduler has the last word.\n", strings.Join(what, ", "))
	}
}

// renderClasses prints the classes. Of those with the same reason the first are shown whole, and two or more after them in
// a line, in the place of the first of them.
func renderClasses(out *strings.Builder, s style, classes []Class) {
	alike, shown := map[string][]Class{}, map[string]int{}
	for _, c := range classes {
		alike[c.Reason] = append(alike[c.Reason], c)
	}
	printed := 0
	for i, c := range classes {
		rest := alike[c.Reason]
		fold := len(rest) > maxAlike+1 && shown[c.Reason] >= maxAlike
		if fold && shown[c.Reason] > maxAlike {
			continue
		}
		if printed == maxClasses {
			fmt.Fprintf(out, "\nand %d more classes of nodes, less hopeful: see -o json\n", len(classes)-i)
			return
		}
		printed++
		shown[c.Reason]++
		if !fold {
			renderClass(out, s, c)
			continue
		}
		nodes := 0
		for _, c := range rest[maxAlike:] {
			nodes += c.Nodes
		}
		text := c.Reason + ": " + c.Text
		if c.Reason == fit.Fits.String() {
			text = c.Reason
		}
		fmt.Fprintf(out, "\n%s of %d other classes\n  %s; see -o json\n", s.paint(colourBold, count(nodes, "node")), len(rest)-maxAlike, text)
	}
}

// renderSaid prints what the scheduler last said, for a pod that is not placed, and what to make of it where the answer is
// another one.
func renderSaid(out *strings.Builder, s style, a Answer) {
	waits := a.Verdict == VerdictFits || a.Verdict == VerdictDoesNotFit || a.Verdict == VerdictHeldBack
	switch {
	case a.Said != nil && a.Queue != nil && a.Said.Reason == a.Queue.Reason:
		return // it has been said
	case a.Said == nil && waits:
		fmt.Fprintf(out, "\n%s\n", s.paint(colourDim, fmt.Sprintf(
			"No scheduler has said anything of the pod yet. If that lasts, see whether one named %s is running.", a.SchedulerName)))
	case a.Said == nil || a.Said.Status == "True" || a.Node != "":
		return
	default:
		fmt.Fprintf(out, "\n%s\n  %s\n", s.paint(colourDim, "The scheduler last said"+since(a.Said)+":"),
			strings.TrimPrefix(a.Said.Reason+": "+a.Said.Message, ": "))
		if a.Verdict == VerdictFits {
			out.WriteString("  Something has changed since, and it will be tried again, or something stands in the way that is not checked here.\n")
		}
	}
}

func since(s *Said) string {
	if s.Since == "" {
		return ""
	}
	return ", " + s.Since
}

// asksOf is what the pod asks for, in a line.
func asksOf(a Answer) string {
	var parts []string
	for _, c := range a.Asks {
		ask := gpu.Ask{Count: c.Count, MemoryMiB: c.MemoryMiB, Profile: c.Profile}
		switch c.Kind {
		case gpu.Whole.String():
			ask.Kind = gpu.Whole
		case gpu.Shared.String():
			ask.Kind, ask.MilliGPU = gpu.Shared, c.MilliGPU
		case gpu.MIG.String():
			ask.Kind = gpu.MIG
		}
		text := ask.String()
		if c.Count == 1 {
			text = strings.TrimSuffix(text, " each")
		}
		if c.Init {
			text += " (" + c.Container + ", init)"
		} else if len(a.Asks) > 1 {
			text += " (" + c.Container + ")"
		}
		parts = append(parts, text)
	}
	if len(a.Products) > 0 {
		parts = append(parts, "of model "+strings.Join(a.Products, " or "))
	}
	if a.MilliCPU > 0 {
		parts = append(parts, resource.NewMilliQuantity(a.MilliCPU, resource.DecimalSI).String()+" CPU")
	}
	if a.MemoryMiB > 0 {
		parts = append(parts, resource.NewQuantity(a.MemoryMiB<<20, resource.BinarySI).String()+" of memory")
	}
	return strings.Join(parts, ", ")
}

func holdText(h Hold) string {
	s := h.Container
	if h.Init {
		s += " (init)"
	}
	switch h.Kind {
	case gpu.MIG.String():
		return fmt.Sprintf("%s holds MIG instance %s@%d:%d of %s", s, h.Profile, h.Start, h.Size, h.GPU)
	case gpu.Shared.String():
		return fmt.Sprintf("%s holds %s of %s with %d MiB", s, gpu.FormatPercent(h.MilliGPU), h.GPU, h.MemoryMiB)
	}
	return fmt.Sprintf("%s holds %s whole", s, h.GPU)
}

// renderClass prints one class: what nodes, why, and what would have to change.
func renderClass(out *strings.Builder, s style, c Class) {
	fmt.Fprintf(out, "\n%s%s\n", s.paint(colourBold, count(c.Nodes, "node")), classText(c))
	if c.Reason == fit.Fits.String() {
		room := 100
		nodes := make([]Node, len(c.Fitting))
		for i, name := range c.Fitting {
			nodes[i].Name = name
		}
		fmt.Fprintf(out, "  %s on %s\n", s.paint(colourGreen, "Fits"), names(nodes, room))
		others(out, c)
		return
	}
	colour := colourRed
	if c.Resolvable {
		colour = colourYellow // it may come right by itself
	}
	fmt.Fprintf(out, "  %s: %s", s.paint(colour, c.Reason), c.Text)
	if c.Detail != "" {
		fmt.Fprintf(out, " (%s)", c.Detail)
	}
	if c.Nodes > 1 {
		fmt.Fprintf(out, ", on %s", c.Node)
	}
	out.WriteByte('\n')
	others(out, c)
	fmt.Fprintf(out, "  → %s\n", c.Advice)
	if c.Resolvable {
		out.WriteString("    it is tried again when a pod ends\n")
	}
}

// others names the reasons of the less hopeful nodes of the class.
func others(out *strings.Builder, c Class) {
	if len(c.Reasons) < 2 {
		return
	}
	var parts []string
	for _, r := range c.Reasons {
		parts = append(parts, fmt.Sprintf("%s on %d", r.Reason, r.Nodes))
	}
	fmt.Fprintf(out, "  in all: %s\n", strings.Join(parts, ", "))
}

// classText says what makes the nodes of the class alike.
func classText(c Class) string {
	s := " without GPUs"
	if c.GPUsPerNode > 0 {
		s = fmt.Sprintf(" with %d × %s (%s)", c.GPUsPerNode, strings.Join(c.Products, " and "), gibibytes(c.GPUMemoryMiB))
		if c.MIGGPUsPerNode > 0 {
			s += fmt.Sprintf(", %d in MIG mode", c.MIGGPUsPerNode)
		}
		switch {
		case !c.Sharing && c.MIGGPUsPerNode < c.GPUsPerNode:
			s += ", whole GPUs only"
		default:
			s += waysText(c.WholeOnlyGPUsPerNode, c.SharedOnlyGPUsPerNode)
		}
	} else if c.Source != cluster.SourceNone.String() {
		s = " with no usable GPU"
	}
	if len(c.Taints) > 0 {
		s += ", tainted " + strings.Join(c.Taints, " ")
	}
	return s
}
