package simcmd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"weft.sh/weft/pkg/simulator"
)

type boundOptions struct {
	lists
	seeds  string
	load   float64
	output string
}

func newBound() *cobra.Command {
	o := &boundOptions{}
	cmd := &cobra.Command{
		Use:   "bound",
		Short: "Compute what no placement can exceed",
		Long: `Compute what no placement can exceed of the pods that ask for the first 100 percent of the GPUs, in percent of the GPUs, whatever it
knows of the future. It is the lower of two bounds:

  node types     regards all nodes of a type as one large node: knows CPU, GPUs and models
  cutting stock  knows that a share comes from one GPU, but neither nodes nor CPU nor models`,
		Example: `  # How far is a policy from the best there can be?
  weft sim bound --nodes openb_node_list_gpu_node.csv --pods openb_pod_list_default.csv --seeds 42`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.run(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	o.addFlags(cmd)
	f := cmd.Flags()
	f.StringVar(&o.seeds, "seeds", "42", "Seeds: numbers and ranges such as 42-51,60")
	f.Float64Var(&o.load, "load", 1.3, "The load of the runs that the bound is for: it decides which pods arrive")
	f.StringVarP(&o.output, "output", "o", "table", "table, or json (an object in each line)")
	return cmd
}

func (o *boundOptions) run(ctx context.Context, out, errOut io.Writer) error {
	seeds, err := simulator.ParseSeeds(o.seeds)
	if err != nil {
		return fmt.Errorf("--seeds: %w", err)
	}
	if err := validRun(o.load, o.output); err != nil {
		return err
	}
	workloads, err := o.read(errOut)
	if err != nil {
		return err
	}
	encoder := json.NewEncoder(out)
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	if o.output == "table" {
		fmt.Fprintln(table, "WORKLOAD\tSEED\tASKED\tNODE TYPES\tCUTTING STOCK\tBOUND")
	}
	for _, w := range workloads {
		for _, seed := range seeds {
			b, err := w.Bound(ctx, seed, o.load)
			if err != nil && ctx.Err() != nil {
				return errors.Join(table.Flush(), errors.New("interrupted"))
			}
			if err != nil {
				return err
			}
			if o.output == "json" {
				if err := encoder.Encode(b); err != nil {
					return err
				}
				continue
			}
			fmt.Fprintf(table, "%s\t%d\t%.2f %%\t%.2f %%\t%.2f %%\t%.2f %%\n", b.Workload, b.Seed, b.Asked, b.NodeTypes, b.CuttingStock, b.Bound)
		}
	}
	return table.Flush()
}
