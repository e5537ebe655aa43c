package simcmd

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"weft.sh/weft/pkg/fit"
	"weft.sh/weft/pkg/simulator"
	"weft.sh/weft/pkg/simulator/replay"
	"weft.sh/weft/pkg/trace"
)

// newReplay is the command weft sim replay.
func newReplay() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "replay",
		Short: "Replay jobs over time: waits, gangs, queues, failures",
		Long: `Let jobs arrive, wait, run and end in virtual time, and compare how long they wait, how full the cluster is and whether queues get
what they are entitled to. The policies, of which weft is the code that schedules in production:

` + replay.PoliciesText() + `
What the figures mean is in docs/simulator.md.`,
		Args: cobra.NoArgs,
	}
	cmd.AddCommand(newReplayScenario(), newReplayPhilly(), newReplayOpenb())
	return cmd
}

// replayOptions are what all replays have.
type replayOptions struct {
	policies []string
	strategy string
	output   string
	progress bool
	series   bool
	report   string
	version  string // of this program, for the report
}

func (o *replayOptions) addFlags(cmd *cobra.Command, policies ...string) {
	f := cmd.Flags()
	f.StringSliceVar(&o.policies, "policy", policies, "Policies, or all: see weft sim replay --help")
	f.StringVar(&o.strategy, "strategy", fit.StrategyNames()[0], "Where pods go of the places that there are, as strategy of plugin GPUFit")
	f.StringVarP(&o.output, "output", "o", "table", "table, or json (an object in each line)")
	f.BoolVar(&o.series, "series", false, "With -o json, what happened over time too")
	f.StringVar(&o.report, "report", "", "Write an HTML page with curves, queues and gangs to this file; it needs no network")
	cmd.PreRun = func(cmd *cobra.Command, _ []string) { o.version = cmd.Root().Version }
	f.BoolVar(&o.progress, "progress", false, "Tell how far it is; to a terminal it always does")
}

// check reads the flags.
func (o *replayOptions) check() ([]replay.Policy, error) {
	policies, err := replay.ParsePolicies(o.policies)
	if err != nil {
		return nil, fmt.Errorf("--policy: %w", err)
	}
	if !slices.Contains(fit.StrategyNames(), o.strategy) {
		return nil, fmt.Errorf("--strategy is %q: want one of %v", o.strategy, fit.StrategyNames())
	}
	return policies, validRun(1, o.output)
}

// run replays each input by each policy, one after the other.
func (o *replayOptions) run(ctx context.Context, out, errOut io.Writer, inputs ...*replay.Input) error {
	policies, err := o.check()
	if err != nil {
		return err
	}
	page, err := createReport(o.report)
	if err != nil {
		return err
	}
	defer page.drop()
	tell, stop := o.tell(errOut)
	defer stop()
	var results []*replay.Result
	var shown []replay.Result // in the report, with their series
	for i, in := range inputs {
		for k, policy := range policies {
			r, err := replay.Run(ctx, in, policy, o.strategy, tell)
			if err != nil {
				if ctx.Err() != nil {
					return fmt.Errorf("interrupted after %d of %d runs", i*len(policies)+k, len(inputs)*len(policies))
				}
				return err
			}
			stop()
			if k == 0 {
				for _, where := range r.RefusedWhere {
					fmt.Fprintf(errOut, "%s; it never runs\n", where)
				}
			}
			shown = append(shown, *r)
			if !o.series {
				r.Series = nil
			}
			if o.output == "json" {
				if err := json.NewEncoder(out).Encode(r); err != nil {
					return err
				}
			}
			results = append(results, r)
		}
	}
	if o.output == "table" {
		if err := replay.Table(out, results); err != nil {
			return err
		}
	}
	if page == nil || len(shown) == 0 {
		return nil
	}
	return page.write(replayReport(shown, o.version))
}

// tell returns what tells a person how far the replay is: nil when nobody wants to know.
func (o *replayOptions) tell(errOut io.Writer) (tell func(replay.Progress), stop func()) {
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
	said, next := false, time.Now().Add(interval)
	tell = func(p replay.Progress) {
		if now := time.Now(); now.After(next) {
			next, said = now.Add(interval), true
			fmt.Fprintf(errOut, "%s%s: %s, %d events, %d jobs run, %d wait%s", begin, p.Policy,
				time.Unix(p.Now, 0).UTC().Format(time.DateTime), p.Events, p.Active, p.Waiting, end)
		}
	}
	return tell, func() {
		if said && terminal {
			fmt.Fprint(errOut, begin)
			said = false
		}
	}
}

// newReplayPhilly is the command weft sim replay philly.
func newReplayPhilly() *cobra.Command {
	o, p := &replayOptions{}, &replay.Philly{}
	from := ""
	cmd := &cobra.Command{
		Use:   "philly",
		Short: "Replay a job list in the form of the Philly trace",
		Long: `Replay a job list in the form of Microsoft's Philly trace: a CSV file with columns timestamp, duration, num_gpus and cluster, in the order
of time. A job becomes a pod, or a gang of as many pods as it needs nodes; a virtual cluster becomes a queue, which is guaranteed its part
of the GPU-hours. Jobs wait until they start, whenever that is; what is measured are those that arrive in the time given.`,
		Example: `  # Four weeks on 300 nodes of 8 GPUs, beside strict first in first out
  weft sim replay philly --jobs philly.csv --nodes 300 --from 2017-10-02 --for 672h --policy weft,fifo

  # What a cluster of a quarter of the size would do
  weft sim replay philly --jobs philly.csv --nodes 75 --from 2017-10-02 --for 672h --policy all -o json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if _, err := o.check(); err != nil {
				return err
			}
			if from != "" {
				var err error
				if p.From, err = time.Parse(time.DateOnly, from); err != nil {
					return fmt.Errorf("--from is %q: want a date such as 2017-10-02", from)
				}
			}
			in, err := p.Replay()
			if err != nil {
				return err
			}
			return o.run(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr(), in)
		},
	}
	o.addFlags(cmd, "weft", "fifo")
	f := cmd.Flags()
	f.StringVar(&p.File, "jobs", "", "The job list")
	f.IntVar(&p.Nodes, "nodes", 300, "Number of nodes")
	f.IntVar(&p.GPUs, "gpus", 8, "GPUs of each node")
	f.StringVar(&from, "from", "", "The first day that is measured; without it, --warmup after the first job")
	f.DurationVar(&p.For, "for", 28*24*time.Hour, "How long is measured")
	f.DurationVar(&p.Warmup, "warmup", 72*time.Hour, "How long before that jobs arrive")
	f.Float64Var(&p.Compress, "compress", 1, "How much faster than in the list jobs arrive; run times stay")
	f.Float64Var(&p.Estimate, "estimate", 1, "What jobs say of their run time, as a part of it; 0 for nothing")
	// It fails only for a flag that is not there.
	_ = cmd.MarkFlagRequired("jobs")
	return cmd
}

// newReplayScenario is the command weft sim replay scenario.
func newReplayScenario() *cobra.Command {
	o := &replayOptions{}
	cmd := &cobra.Command{
		Use:   "scenario FILE",
		Short: "Replay a scenario file: nodes, queues, jobs and failures",
		Long:  `Replay a scenario file, in YAML: nodes, queues, jobs and failures. Its fields are in docs/simulator.md.`,
		Example: `  # What queues, gangs and a failing node do to each other
  weft sim replay scenario docs/examples/replay.yaml --policy all`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if _, err := o.check(); err != nil {
				return err
			}
			f, err := os.Open(args[0])
			if err != nil {
				return err
			}
			defer f.Close()
			in, err := replay.Scenario(f, args[0])
			if err != nil {
				return err
			}
			return o.run(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr(), in)
		},
	}
	o.addFlags(cmd, "weft", "fifo")
	return cmd
}

// newReplayOpenb is the command weft sim replay openb.
func newReplayOpenb() *cobra.Command {
	o, l, c := &replayOptions{}, &lists{}, &replay.Churn{}
	var loads []float64
	seeds := ""
	cmd := &cobra.Command{
		Use:   "openb",
		Short: "Let pods of the openb trace come and leave",
		Long: `Let pods that are drawn from the list come at random moments and leave after exponential lifetimes, so that the cluster is at
equilibrium. A pod that finds no place is refused; with --wait it waits. The seed decides who comes when and for how long, so that
strategies see the same pods.`,
		Example: `  # How full bestfit keeps a cluster that is asked for as much as it has
  weft sim replay openb --nodes nodes.csv --pods default.csv --load 0.9,1,1.1 --seeds 42-44 --strategy bestfit`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if _, err := o.check(); err != nil {
				return err
			}
			list, err := simulator.ParseSeeds(seeds)
			if err != nil {
				return fmt.Errorf("--seeds: %w", err)
			}
			var inputs []*replay.Input
			for _, file := range l.pods {
				one := *c
				one.Name = workloadName(file)
				if one.Nodes, one.Pods, err = trace.Load(l.nodes, file, 0); err != nil {
					return err
				}
				for _, one.Load = range loads {
					for _, seed := range list {
						one.Seed = uint64(seed)
						draw := one
						in, err := draw.Replay()
						if err != nil {
							return err
						}
						inputs = append(inputs, in)
					}
				}
			}
			return o.run(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr(), inputs...)
		},
	}
	o.addFlags(cmd, "greedy")
	l.addFlags(cmd)
	f := cmd.Flags()
	f.Float64SliceVar(&loads, "load", []float64{1}, "What the pods that come ask for, as a part of the GPUs")
	f.StringVar(&seeds, "seeds", "42", "Seeds: numbers and ranges such as 42-51,60")
	f.DurationVar(&c.Lifetime, "lifetime", time.Hour, "The mean lifetime")
	f.DurationVar(&c.For, "for", 5*time.Hour, "How long is measured")
	f.DurationVar(&c.Warmup, "warmup", 4*time.Hour, "How long before that pods come")
	f.BoolVar(&c.Wait, "wait", false, "Pods wait for a place")
	return cmd
}
