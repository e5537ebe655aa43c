package simcmd

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"weft.sh/weft/pkg/simulator"
	"weft.sh/weft/pkg/simulator/migsim"
	"weft.sh/weft/pkg/trace"
)

type migOptions struct {
	pods      string
	models    []string
	nodes     int
	policies  []string
	loads     []float64
	seeds     string
	lifetimes float64
	output    string
}

func newMIG() *cobra.Command {
	o := &migOptions{}
	cmd := &cobra.Command{
		Use:   "mig",
		Short: "Let pods with MIG instances and shares of GPUs come and go, and see how many find a place",
		Long: `Let pods arrive that ask for MIG instances or for shares of GPUs, stay for a while and leave. Half of each node's eight GPUs is in MIG mode
and partitioned on demand where nobody is; the other half is shared. A pod that has no place is refused.

What pods ask for is the shares of a pod list (--pods), else a built-in mix. Every policy sees the same pods. Beside each result stands
what the same run would have accepted if instances could be moved, and what no policy can exceed; see docs/simulator.md, MIG.

Policies:
  first-fit      the first GPU with room, the lowest start
  best-fit       the GPU with the least left, the lowest start
  default        Weft's plugin with its defaults
  repack         a reference: whatever fits if everything may be moved, all the time (MIG only)
  weft-STRATEGY  Weft's plugin with another strategy`,
		Example: `  # Ten seeds at three loads
  weft sim mig --policy first-fit,best-fit,default,repack --load 0.8,1,1.2 --seeds 42-51

  # The shares of the openb trace, on one model
  weft sim mig --pods openb_pod_list_default.csv --models H100-80GB -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.run(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.pods, "pods", "", "A pod list whose shares are the mix: a CSV file as of weft sim openb")
	f.StringSliceVar(&o.models, "models", []string{"A100-80GB", "H100-80GB", "H200-141GB", "B200-180GB"},
		"The models of the nodes, which take turns; of "+strings.Join(migsim.Models(), ", "))
	f.IntVar(&o.nodes, "nodes", 16, fmt.Sprintf("How many nodes of 8 GPUs, up to %d", migsim.MaxNodes))
	f.StringSliceVar(&o.policies, "policy", []string{"first-fit", "best-fit", "default"}, "Policies, or all")
	f.Float64SliceVar(&o.loads, "load", []float64{1}, "How much of the GPUs the pods that arrive would hold if all found a place, above 0 and up to 10")
	f.StringVar(&o.seeds, "seeds", "42", "Seeds: numbers and ranges such as 42-51,60")
	f.Float64Var(&o.lifetimes, "lifetimes", 20, "How long it is measured, in mean lifetimes of pods; 5 more come before")
	f.StringVarP(&o.output, "output", "o", "table", "table, or json (an object in each line)")
	return cmd
}

func (o *migOptions) run(ctx context.Context, out, errOut io.Writer) error {
	lineup := migsim.Lineup{}
	var err error
	if lineup.Policies, err = migsim.ParsePolicies(o.policies); err != nil {
		return fmt.Errorf("--policy: %w", err)
	}
	if lineup.Seeds, err = simulator.ParseSeeds(o.seeds); err != nil {
		return fmt.Errorf("--seeds: %w", err)
	}
	for _, load := range o.loads {
		if err := validRun(load, o.output); err != nil {
			return err
		}
		if !slices.Contains(lineup.Loads, load) {
			lineup.Loads = append(lineup.Loads, load)
		}
	}
	workload, mix := "built-in", migsim.BuiltIn
	if o.pods != "" {
		file, err := os.Open(o.pods)
		if err != nil {
			return err
		}
		defer file.Close()
		pods, err := trace.Collect(trace.OpenbPods(file, o.pods), o.pods, "name", 0)
		if err != nil {
			return err
		}
		workload = workloadName(o.pods)
		if mix, err = migsim.MixOf(o.pods, pods); err != nil {
			return err
		}
	}
	if lineup.Study, err = migsim.NewStudy(workload, mix, o.models, o.nodes, o.lifetimes); err != nil {
		return err
	}
	var lines []migsim.Line
	encoder := json.NewEncoder(out)
	tell := tellRuns(errOut, lineup.Runs())
	err = lineup.Run(ctx, func(l migsim.Line) error {
		lines = append(lines, l)
		tell(len(lines))
		if o.output == "json" {
			return encoder.Encode(l)
		}
		return nil
	})
	if o.output == "table" && len(lines) > 0 {
		if err := migsim.Table(out, lines); err != nil {
			return err
		}
	}
	if err != nil && ctx.Err() != nil {
		return fmt.Errorf("interrupted after %d of %d runs", len(lines), lineup.Runs())
	}
	return err
}

// tellRuns tells a person at a terminal how far it is, and nobody else.
func tellRuns(errOut io.Writer, runs int) func(done int) {
	file, ok := errOut.(*os.File)
	if !ok || !term.IsTerminal(int(file.Fd())) {
		return func(int) {}
	}
	start := time.Now()
	return func(done int) {
		fmt.Fprintf(errOut, "\r\x1b[K")
		if done < runs {
			fmt.Fprintf(errOut, "%d of %d runs, %s", done, runs, time.Since(start).Round(time.Second))
		}
	}
}
