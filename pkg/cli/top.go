package cli

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/labels"
)

// topOptions are the flags of weft top.
type topOptions struct {
	output   string
	detail   string
	gangs    bool
	level    string
	nodes    []string
	selector string
	products []string

	labels labels.Selector
}

func newTop(s *shell) *cobra.Command {
	o := &topOptions{}
	cmd := &cobra.Command{
		Use:   "top",
		Short: "Show the GPUs of the cluster and how full they are",
		Long: `Show the GPUs of the cluster and how full they are; with -o wide, who holds them too.

The map has a bar for each GPU of a small cluster, a letter for each of a larger one, and a row for each model of a very
large one; --detail chooses. Gangs are listed below it; --gangs shows where in the topology they are instead. "Fragmented" is the part of the free capacity that the next request is expected to find of no
use, if it comes like those of the pods in the cluster.`,
		Example: `  # The whole cluster
  weft top

  # Every GPU of one node and every container on it
  weft top --node gpu-17 -o wide

  # The gangs, and which GPUs of which racks they hold
  weft top --gangs --level topology.kubernetes.io/rack

  # One model of GPU, a line per node
  weft top --product NVIDIA-H100-80GB-HBM3 --detail gpu

  # Nodes with idle GPUs, for a script
  weft top -o json | jq -r '.nodes[] | select(.idleGPUs > 0) | .name'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.complete(s.levels); err != nil {
				return err
			}
			return o.run(cmd, s)
		},
	}
	f := cmd.Flags()
	f.StringVarP(&o.output, "output", "o", "", "wide (every GPU and who holds it), json or yaml; the default is a map")
	f.StringVar(&o.detail, "detail", string(DetailAuto), "How fine the map is: "+strings.Join(Details(), ", "))
	f.BoolVar(&o.gangs, "gangs", false, "Show the gangs, and a map of the GPUs by topology domain")
	f.StringVar(&o.level, "level", "", "The topology level of the map of --gangs; the default is the narrowest that brings nodes together")
	f.StringSliceVar(&o.nodes, "node", nil, "Only these nodes (names, separated by commas)")
	f.StringVarP(&o.selector, "selector", "l", "", "Only nodes with these labels, as in kubectl get nodes -l")
	f.StringSliceVar(&o.products, "product", nil, "Only nodes with GPUs of these models, as in the node label nvidia.com/gpu.product")
	complete(cmd, "output", "wide", "json", "yaml")
	complete(cmd, "detail", Details()...)
	return cmd
}

// complete offers the values of a flag to the shell.
func complete(cmd *cobra.Command, flag string, values ...string) {
	// It fails only for a flag that is not there, or twice for one.
	_ = cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
}

// complete checks the flags and works out what follows from them.
func (o *topOptions) complete(levels []string) error {
	if err := validOutput(o.output, "wide", "json", "yaml"); err != nil {
		return err
	}
	if !slices.Contains(Details(), o.detail) {
		return fmt.Errorf("--detail is %q: want one of %s", o.detail, strings.Join(Details(), ", "))
	}
	if o.level != "" && !slices.Contains(levels, o.level) {
		return fmt.Errorf("--level is %q: want %s", o.level, wantLevel(levels))
	}
	selector, err := labels.Parse(o.selector)
	if err != nil {
		return fmt.Errorf("--selector is %q: %w", o.selector, err)
	}
	o.labels = selector
	return nil
}

func (o *topOptions) run(cmd *cobra.Command, s *shell) error {
	client, err := s.client()
	if err != nil {
		return err
	}
	groups, err := s.dynamic()
	if err != nil {
		return err
	}
	progress, done := s.progress()
	objects, err := List(cmd.Context(), client, progress)
	if err == nil {
		// Who may not read PodGroups sees gangs by their pods.
		if err = ListGroups(cmd.Context(), client, groups, "", progress, &objects); isForbidden(err) && !o.gangs {
			err = nil
		}
	}
	done()
	if err != nil {
		return err
	}
	for _, name := range o.nodes {
		if !slices.ContainsFunc(objects.Nodes, hasName(name)) {
			return fmt.Errorf("node %q not found", name)
		}
	}
	if err := o.knownProducts(objects); err != nil {
		return err
	}
	r := NewReport(objects, Selection{Names: o.nodes, Labels: o.labels, Products: o.products, SchedulerName: s.schedulerName, Levels: s.levels})
	if o.output == "json" || o.output == "yaml" {
		return encode(s.streams.Out, o.output, r)
	}
	wide := o.output == "wide"
	opts := MapOptions{Colour: s.colour(), ASCII: ascii(), Width: s.width(), Detail: Detail(o.detail), All: wide}
	if o.gangs {
		return RenderGangMap(s.streams.Out, r, o.level, opts)
	}
	if err := RenderMap(s.streams.Out, r, opts); err != nil {
		return err
	}
	if err := RenderGangs(s.streams.Out, r, opts); err != nil || !wide {
		return err
	}
	fmt.Fprintln(s.streams.Out)
	return RenderGPUs(s.streams.Out, r, opts)
}

// knownProducts refuses a model that no node has: it is mistyped, or not the whole name.
func (o *topOptions) knownProducts(objects Objects) error {
	if len(o.products) == 0 {
		return nil
	}
	var have []string
	for _, n := range NewReport(objects, Selection{}).Nodes {
		for _, g := range n.GPUs {
			have = append(have, g.Product)
		}
	}
	slices.Sort(have)
	have = slices.Compact(have)
	for _, product := range o.products {
		if !slices.Contains(have, product) {
			return fmt.Errorf("no node has GPUs of model %q: there are %s", product, cmp.Or(strings.Join(have, ", "), "none"))
		}
	}
	return nil
}

// wantLevel says which topology levels are accepted.
func wantLevel(levels []string) string {
	if len(levels) == 0 {
		return "none, for --topology-levels is empty"
	}
	return "one of " + strings.Join(levels, ", ")
}
