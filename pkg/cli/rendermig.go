package cli

import (
	"fmt"
	"io"
	"strconv"
	"strings"
)

// RenderMIGAdvice prints the advice for people.
func RenderMIGAdvice(w io.Writer, a MIGAdvice, colour, ascii bool) error {
	s := style{colour: colour, ascii: ascii}
	var out strings.Builder
	if a.PendingPods == 0 {
		out.WriteString("no pod waits for MIG instances\n")
	} else {
		fmt.Fprintf(&out, "%s for MIG instances: %d would find a place as things are", s.paint(colourBold, count(a.PendingPods, "pod")+" waiting"), a.PlacedPods)
		if len(a.Changes) > 0 {
			fmt.Fprintf(&out, ", %d after this", a.PlacedPodsAfter)
		}
		out.WriteByte('\n')
	}
	held, idle := false, false
	if len(a.Changes) == 0 {
		out.WriteString("nothing to change\n")
	} else {
		t := &table{header: []string{"NODE", "GPU", "HELD", "NOW", "THEN", "BY"}, right: []int{1}}
		for _, c := range a.Changes {
			by := "mig-manager"
			if len(c.Holders) > 0 {
				by, held = "nvidia-smi", true
			} else {
				idle = true
			}
			t.row(c.Node, strconv.Itoa(c.Index), layoutText(c.Held), layoutText(c.Now), layoutText(c.Then), by)
		}
		out.WriteByte('\n')
		for _, line := range t.lines(s, "") {
			out.WriteString(line + "\n")
		}
	}
	if idle {
		out.WriteString("\nFor mig-manager, run with --annotate. It takes away all instances of a GPU that it divides, none of which is held now, and stops the\n" +
			"device plugin and other GPU clients of the node while it does. Cordon the node first, so that no pod comes between:\n")
		for _, n := range a.Nodes {
			fmt.Fprintf(&out, "  kubectl label node %s %s=%s --overwrite\n", n.Node, MIGConfigLabel, n.Config)
		}
	}
	if held {
		out.WriteString("\nmig-manager cannot divide what pods hold a part of. Beside them, on the node, as root:\n")
		for _, c := range a.Changes {
			if len(c.Holders) == 0 {
				continue
			}
			fmt.Fprintf(&out, "  %s, GPU %d, held by %s\n", c.Node, c.Index, strings.Join(c.Holders, ", "))
			if len(c.Destroy) > 0 {
				fmt.Fprintf(&out, "    destroy %s: nvidia-smi mig -i %d -lgi tells their ids, then -dci -gi ID and -dgi -gi ID\n", strings.Join(c.Destroy, " "), c.Index)
			}
			if c.Command != "" {
				fmt.Fprintf(&out, "    %s\n", c.Command)
			}
		}
	}
	if len(a.Skipped) > 0 {
		t := &table{header: []string{"LEFT OUT", "GPU", "WHY"}, right: []int{1}}
		for _, k := range a.Skipped {
			t.row(k.Node, strconv.Itoa(k.Index), k.Why)
		}
		out.WriteByte('\n')
		for _, line := range t.lines(s, "") {
			out.WriteString(line + "\n")
		}
	}
	_, err := io.WriteString(w, s.finish(out.String()))
	return err
}

// annotate prints the entries as a configuration of mig-parted, with the labels in its comments.
func annotate(w io.Writer, a MIGAdvice) error {
	var out strings.Builder
	if len(a.Configs) == 0 {
		out.WriteString("# Nothing that mig-manager could do.\n")
	} else {
		out.WriteString("# 1. Add these entries to the configuration of NVIDIA's mig-manager (with the GPU operator: config.yaml in the ConfigMap that\n" +
			"#    migManager.config.name of the ClusterPolicy names).\n" +
			"# 2. Cordon each node. No pod may hold anything of a GPU that changes: none did when this was printed.\n" +
			"# 3. Label the nodes; mig-manager says how far it is in the label nvidia.com/mig.config.state.\n")
		for _, n := range a.Nodes {
			was := ""
			if n.Label != "" {
				was = "  # was " + n.Label
			}
			fmt.Fprintf(&out, "#      kubectl label node %s %s=%s --overwrite%s\n", n.Node, MIGConfigLabel, n.Config, was)
		}
		out.WriteString("version: v1\nmig-configs:\n")
		for _, c := range a.Configs {
			fmt.Fprintf(&out, "  %s:\n", c.Name)
			for _, e := range c.Entries {
				var devices []string
				for _, d := range e.Devices {
					devices = append(devices, strconv.Itoa(d))
				}
				fmt.Fprintf(&out, "    - devices: [%s]\n      mig-enabled: %t\n", strings.Join(devices, ", "), e.MIGEnabled)
				if !e.MIGEnabled {
					continue
				}
				if len(e.MIGDevices) == 0 {
					out.WriteString("      mig-devices: {}\n")
					continue
				}
				out.WriteString("      mig-devices:\n")
				for _, d := range e.MIGDevices {
					fmt.Fprintf(&out, "        %q: %d\n", d.Profile, d.Count)
				}
			}
		}
	}
	_, err := io.WriteString(w, out.String())
	return err
}
