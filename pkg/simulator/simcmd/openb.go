package simcmd

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"weft.sh/weft/pkg/simulator"
	"weft.sh/weft/pkg/trace"
)

// New is the command weft sim.
func New() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "sim",
		Short: "Simulate a cluster: how much of its GPUs a policy gets allocated",
		Long: `Simulate clusters on this machine: no cluster is needed and none is touched.

What the figures mean and where the protocol comes from is in docs/simulator.md.`,
		Args: cobra.NoArgs,
	}
	cmd.AddCommand(newOpenb(), newBound(), newMIG(), newCheck(), newReplay())
	return cmd
}

// lists are the flags that name node and pod lists.
type lists struct {
	nodes string
	pods  []string
}

func (l *lists) addFlags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&l.nodes, "nodes", "", "The node list: a CSV file with columns sn, cpu_milli, memory_mib, gpu, model")
	cmd.Flags().StringSliceVar(&l.pods, "pods", nil,
		"The pod list: a CSV file with columns name, cpu_milli, memory_mib, num_gpu, gpu_milli and maybe gpu_spec; several are simulated one by one")
	// It fails only for a flag that is not there.
	_ = cmd.MarkFlagRequired("nodes")
	_ = cmd.MarkFlagRequired("pods")
}

// read reads the lists and tells on errOut what of them cannot be placed.
func (l *lists) read(errOut io.Writer) ([]*simulator.Workload, error) {
	var out []*simulator.Workload
	for _, file := range l.pods {
		nodes, pods, err := trace.Load(l.nodes, file, 0)
		if err != nil {
			return nil, err
		}
		w, err := simulator.NewWorkload(workloadName(file), nodes, pods)
		if err != nil {
			return nil, err
		}
		if n := w.TooLarge(); n > 0 {
			fmt.Fprintf(errOut, "%s: %d of %d pods fit no node of %s, not even an empty one\n", file, n, len(pods), l.nodes)
		}
		out = append(out, w)
	}
	return out, nil
}

// workloadName is the file's name without what all such names have in common.
func workloadName(file string) string {
	return strings.TrimPrefix(strings.TrimSuffix(filepath.Base(file), ".csv"), "openb_pod_list_")
}

type openbOptions struct {
	lists
	policies []string
	engine   string
	seeds    string
	load     float64
	output   string
	progress bool
	bound    bool
	report   string
	version  string // of this program, for the report
}

func newOpenb() *cobra.Command {
	o := &openbOptions{}
	cmd := &cobra.Command{
		Use:   "openb",
		Short: "Let pods of the openb trace arrive until the cluster is full",
		Long: `Let the pods of a list arrive one by one, in an order drawn from a seed, until they ask for --load times the GPUs of the nodes.
None leaves, and one that has no place is dropped. This is the protocol of "Beware of Fragmentation" (USENIX ATC 2023), draw by draw,
so that results can be compared with the published ones.

Policies:
` + simulator.PoliciesText() + `
The lists are those of Alibaba's cluster-trace-gpu-v2023.`,
		Example: `  # Fragmentation Gradient Descent against best fit, ten seeds each
  weft sim openb --nodes openb_node_list_gpu_node.csv --pods openb_pod_list_default.csv --policy fgd,bestfit --seeds 42-51

  # Everything, for a program
  weft sim openb --nodes nodes.csv --pods default.csv,cpu250.csv --policy all -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.version = cmd.Root().Version
			return o.run(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	o.addFlags(cmd)
	f := cmd.Flags()
	f.StringSliceVar(&o.policies, "policy", []string{"default"}, "Policies, or all")
	f.StringVar(&o.engine, "engine", simulator.EngineCore,
		"Who decides: core, or framework (policy default only: the plugin in the real scheduler over an API in memory, a few ms for each pod)")
	f.StringVar(&o.seeds, "seeds", "42", "Seeds: numbers and ranges such as 42-51,60")
	f.Float64Var(&o.load, "load", 1.3, "How much of the GPUs the pods that arrive ask for, above 0 and up to 10")
	f.StringVarP(&o.output, "output", "o", "table", "table, or json (an object in each line)")
	f.BoolVar(&o.bound, "bound", false, "Show beside each result what no placement can exceed; see weft sim bound")
	f.StringVar(&o.report, "report", "", "Write an HTML page with curves and a map of the GPUs to this file; it needs no network")
	f.BoolVar(&o.progress, "progress", false, "Tell how far it is; to a terminal it always does")
	return cmd
}

func (o *openbOptions) run(ctx context.Context, out, errOut io.Writer) error {
	lineup := simulator.Lineup{Load: o.load, Bound: o.bound}
	var err error
	if lineup.Policies, err = simulator.ParsePolicies(o.policies); err != nil {
		return fmt.Errorf("--policy: %w", err)
	}
	if lineup.Scheduler, err = schedulerOf(o.engine, lineup.Policies); err != nil {
		return err
	}
	if lineup.Seeds, err = simulator.ParseSeeds(o.seeds); err != nil {
		return fmt.Errorf("--seeds: %w", err)
	}
	if err := validRun(o.load, o.output); err != nil {
		return err
	}
	if lineup.Workloads, err = o.read(errOut); err != nil {
		return err
	}
	page, err := createReport(o.report)
	if err != nil {
		return err
	}
	defer page.drop()
	lineup.Trails = page != nil
	tell, stop := o.tell(errOut)
	var lines []simulator.Line
	encoder := json.NewEncoder(out)
	err = lineup.Run(ctx, func(l simulator.Line) error {
		lines = append(lines, l)
		if o.output == "json" {
			return encoder.Encode(l)
		}
		return nil
	}, tell)
	stop()
	if o.output == "table" && len(lines) > 0 {
		if err := simulator.Table(out, lines); err != nil {
			return err
		}
	}
	if page != nil && len(lines) > 0 {
		if err := page.write(o.openbReport(&lineup, lines)); err != nil {
			return err
		}
	}
	if err != nil && ctx.Err() != nil {
		return fmt.Errorf("interrupted after %d of %d runs", len(lines), lineup.Runs())
	}
	return err
}

// validRun checks the flags that several commands have.
func validRun(load float64, output string) error {
	if !(load > 0 && load <= maxLoad) { // so that NaN is refused too
		return fmt.Errorf("--load is %g: want more than 0 and up to %d", load, maxLoad)
	}
	if !slices.Contains([]string{"table", "json"}, output) {
		return fmt.Errorf("--output is %q: want table or json", output)
	}
	return nil
}

// maxLoad bounds --load: above it little but refusals is left to see.
const maxLoad = 10

// tell returns what tells a person how far the simulation is: nil when nobody wants to know.
func (o *openbOptions) tell(errOut io.Writer) (tell func(simulator.Progress), stop func()) {
	file, ok := errOut.(*os.File)
	terminal := ok && term.IsTerminal(int(file.Fd()))
	if !terminal && !o.progress {
		return nil, func() {}
	}
	const interval = 500 * time.Millisecond
	begin, end := "", "\n"
	if terminal {
		begin, end = "\r\x1b[K", ""
	}
	var mu sync.Mutex
	start := time.Now()
	next, said := start.Add(interval), false
	tell = func(p simulator.Progress) {
		mu.Lock()
		defer mu.Unlock()
		now := time.Now()
		if now.Before(next) {
			return
		}
		next, said = now.Add(interval), true
		fmt.Fprintf(errOut, "%s%d of %d runs, %d pods, %.0f pods per second%s",
			begin, p.RunsDone, p.Runs, p.PodsDone, float64(p.PodsDone)/now.Sub(start).Seconds(), end)
	}
	return tell, func() {
		if said && terminal {
			fmt.Fprint(errOut, begin)
		}
	}
}
