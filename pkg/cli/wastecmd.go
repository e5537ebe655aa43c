package cli

import (
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// wasteOptions are the flags of weft report waste.
type wasteOptions struct {
	output     string
	prometheus string
	window     time.Duration
	limit      int64 // percent
}

func newWaste(s *shell) *cobra.Command {
	o := &wasteOptions{}
	cmd := &cobra.Command{
		Use:   "waste",
		Short: "Show GPUs that are held and not used, half-used nodes, and what no pod that waits can use",
		Long: `Show what of the cluster is of no use to anybody now: nodes of which a part is held, what is free where no pod that waits fits, and, with
--prometheus, GPUs that are held and were idle for a while.

Idle is who used at no moment of --window more than --limit percent of what was given. It needs the metrics of the node agent in a
Prometheus. NVML does not tell the use of MIG instances: they are counted as not measured.`,
		Example: `  # By what the API server shows
  weft report waste

  # With what is held and idle
  weft report waste --prometheus http://localhost:9090 --window 15m`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := validOutput(o.output, "json", "yaml"); err != nil {
				return err
			}
			if o.window < time.Minute || o.window > 24*time.Hour || o.window%time.Second != 0 {
				return fmt.Errorf("--window is %s: want from 1m to 24h in whole seconds", o.window)
			}
			if o.limit < 0 || o.limit > 100 {
				return fmt.Errorf("--limit is %d: want a percentage, 0 to 100", o.limit)
			}
			return o.run(cmd, s)
		},
	}
	f := cmd.Flags()
	f.StringVarP(&o.output, "output", "o", "", "json or yaml; the default is for people")
	f.StringVar(&o.prometheus, "prometheus", "", "The address of a Prometheus that has the metrics of the node agent, such as http://localhost:9090")
	f.DurationVar(&o.window, "window", 15*time.Minute, "For how long a GPU has to be idle to be listed")
	f.Int64Var(&o.limit, "limit", 5, "What percentage of use at any moment is idle still")
	complete(cmd, "output", "json", "yaml")
	return cmd
}

func (o *wasteOptions) run(cmd *cobra.Command, s *shell) error {
	var p *prometheus
	if o.prometheus != "" {
		var err error
		if p, err = newPrometheus(o.prometheus, &http.Client{Timeout: time.Minute}); err != nil {
			return err
		}
	}
	client, err := s.client()
	if err != nil {
		return err
	}
	progress, done := s.progress()
	objects, err := List(cmd.Context(), client, progress)
	done()
	if err != nil {
		return err
	}
	w := NewWaste(objects, s.schedulerName)
	if p != nil {
		if err := w.measure(cmd.Context(), p, o.window, o.limit*10, time.Now().Unix()); err != nil {
			return err
		}
	}
	if o.output != "" {
		return encode(s.streams.Out, o.output, w)
	}
	return RenderWaste(s.streams.Out, w, s.colour(), ascii())
}

// RenderWaste prints what is idle for people.
func RenderWaste(w io.Writer, r Waste, colour, ascii bool) error {
	s := style{colour: colour, ascii: ascii}
	var out strings.Builder
	fmt.Fprintf(&out, "%s GPUs: %s held, %s free\n", s.paint(colourBold, gpus(r.CapacityMilliGPU)), gpus(r.AssignedMilliGPU), gpus(r.FreeMilliGPU))
	fmt.Fprintf(&out, "  %s free on half-used nodes\n", gpus(r.HalfUsedMilliGPU))
	if r.PendingPods == 0 {
		out.WriteString("  no pod waits for GPUs\n")
	} else {
		fmt.Fprintf(&out, "  %s free where none of %s that wait for GPUs would fit\n", gpus(r.StrandedMilliGPU), count(r.PendingPods, "pod"))
	}
	if r.Measured {
		fmt.Fprintf(&out, "  %s held and idle for %s (used at most %s), %s not measured\n", gpus(r.IdleMilliGPU),
			time.Duration(r.WindowSeconds)*time.Second, percent(r.LimitPerMille), gpus(r.UnmeasuredMilliGPU))
	} else {
		out.WriteString("  what is held and idle: name a Prometheus with --prometheus\n")
	}
	if len(r.Nodes) > 0 {
		t := &table{header: []string{"NODE", "HELD", "FREE", "", "WHY"}, right: []int{1, 2}}
		for _, n := range r.Nodes {
			var what []string
			if n.HalfUsed {
				what = append(what, "half used")
			}
			if n.Stranded {
				what = append(what, "no pod that waits fits")
			}
			t.row(n.Node, gpus(n.AssignedMilliGPU)+"/"+strconv.Itoa(n.GPUs), gpus(n.FreeMilliGPU), strings.Join(what, ", "), n.Reason)
		}
		out.WriteByte('\n')
		t.dropEmpty("WHY")
		for _, line := range t.lines(s, "") {
			out.WriteString(line + "\n")
		}
	}
	if len(r.Idle) > 0 {
		t := &table{header: []string{"IDLE", "NODE", "GPU", "HOLDS", "USED", "HELD FOR"}, right: []int{3, 4, 5}}
		for _, h := range r.Idle {
			t.row(h.Namespace+"/"+h.Pod+"/"+h.Container, h.Node, h.GPU, gpus(h.MilliGPU), percent(h.UsedPerMille), (time.Duration(h.HeldSeconds) * time.Second).String())
		}
		out.WriteByte('\n')
		for _, line := range t.lines(s, "") {
			out.WriteString(line + "\n")
		}
	}
	_, err := io.WriteString(w, s.finish(out.String()))
	return err
}
