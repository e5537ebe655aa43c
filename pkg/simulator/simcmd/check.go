package simcmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"weft.sh/weft/pkg/trace"
)

type checkOptions struct{ nodes, pods, jobs string }

func newCheck() *cobra.Command {
	o := &checkOptions{}
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Read lists, say what is in them and what is wrong with them",
		Long: `Read lists, say what is in them, and name file, line and column of the first thing that is wrong.

Lists of any length are read in little memory.`,
		Example: `  # Do these lists go together?
  weft sim check --nodes openb_node_list_gpu_node.csv --pods openb_pod_list_default.csv

  # A list of jobs in the form of the Philly trace
  weft sim check --jobs philly.csv`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.run(cmd.Context(), cmd.OutOrStdout())
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.nodes, "nodes", "", "A node list of the openb trace")
	f.StringVar(&o.pods, "pods", "", "A pod list of the openb trace")
	f.StringVar(&o.jobs, "jobs", "", "A job list of the Philly trace")
	return cmd
}

func (o *checkOptions) run(ctx context.Context, out io.Writer) error {
	if o.nodes == "" && o.pods == "" && o.jobs == "" {
		return errors.New("nothing to check: give --nodes, --pods or --jobs")
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	var largest trace.Node // the most of each, which no pod may exceed
	if o.nodes != "" {
		var nodes, gpus int
		models := map[string]bool{}
		err := each(ctx, o.nodes, trace.OpenbNodes, func(n trace.Node) {
			nodes++
			gpus += n.GPUs
			if n.GPUs > 0 {
				models[n.Model] = true
			}
			largest.MilliCPU, largest.MemoryMiB = max(largest.MilliCPU, n.MilliCPU), max(largest.MemoryMiB, n.MemoryMiB)
			largest.GPUs = max(largest.GPUs, n.GPUs)
		})
		if err != nil {
			return err
		}
		fmt.Fprintf(w, "%s\t%d nodes\t%d GPUs of %d models\n", o.nodes, nodes, gpus, len(models))
	}
	if o.pods != "" {
		var pods, withGPU, shares, bound, large int
		var milliGPU int64
		first := 0
		err := each(ctx, o.pods, trace.OpenbPods, func(p trace.Pod) {
			pods++
			milliGPU += p.TotalMilliGPU()
			if p.GPUs > 0 {
				withGPU++
			}
			if p.MilliGPU%1000 != 0 {
				shares++
			}
			if len(p.Models) > 0 {
				bound++
			}
			if o.nodes != "" && (p.MilliCPU > largest.MilliCPU || p.MemoryMiB > largest.MemoryMiB || p.GPUs > largest.GPUs) {
				if large++; large == 1 {
					first = p.Line
				}
			}
		})
		if err != nil {
			return err
		}
		fmt.Fprintf(w, "%s\t%d pods\t%d ask for %.1f GPUs, %d of them for a part of one, %d for certain models\n",
			o.pods, pods, withGPU, float64(milliGPU)/1000, shares, bound)
		if large > 0 {
			fmt.Fprintf(w, "%s:%d\t%d pods\task for more than any node has, this the first\n", o.pods, first, large)
		}
	}
	if o.jobs != "" {
		var jobs, most int
		var gpuTime float64
		var first, last time.Time
		clusters := map[string]bool{}
		err := each(ctx, o.jobs, trace.Philly, func(j trace.Job) {
			jobs++
			most = max(most, j.GPUs)
			gpuTime += j.Duration.Hours() * float64(j.GPUs)
			clusters[j.Cluster] = true
			if first.IsZero() || j.Submitted.Before(first) {
				first = j.Submitted
			}
			if j.Submitted.After(last) {
				last = j.Submitted
			}
		})
		if err != nil {
			return err
		}
		fmt.Fprintf(w, "%s\t%d jobs\tof %d virtual clusters, up to %d GPUs, %.0f GPU-hours, submitted %s to %s\n",
			o.jobs, jobs, len(clusters), most, gpuTime, first.Format(time.DateOnly), last.Format(time.DateOnly))
	}
	return w.Flush()
}

// each reads a file row by row.
func each[T any](ctx context.Context, file string, read func(io.Reader, string) iter.Seq2[T, error], see func(T)) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	n := 0
	for v, err := range read(f, file) {
		if err != nil {
			return err
		}
		if n++; n%4096 == 0 && ctx.Err() != nil {
			return fmt.Errorf("interrupted after %d rows of %s", n, file)
		}
		see(v)
	}
	return nil
}
