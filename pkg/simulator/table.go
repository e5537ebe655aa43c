package simulator

import (
	"fmt"
	"io"
	"math"
	"text/tabwriter"
)

// Table prints results for people: for each workload and policy the mean over the seeds and the deviation between them.
func Table(out io.Writer, lines []Line) error {
	type key struct{ workload, policy string }
	var order []key
	by := map[key][]Line{}
	bound := false
	for _, l := range lines {
		k := key{l.Workload, l.Policy}
		if by[k] == nil {
			order = append(order, k)
		}
		by[k] = append(by[k], l)
		bound = bound || l.BoundAt100 != nil
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprint(w, "WORKLOAD\tPOLICY\tSEEDS\tALLOCATED@100\tAT THE END\tFRAGMENTS@100\tIDLE GPUS@100")
	if bound {
		fmt.Fprint(w, "\tBOUND@100\tGAP")
	}
	fmt.Fprintln(w, "\tPODS/S")
	for _, k := range order {
		of := func(get func(*Line) *float64) string {
			var values []float64
			for i := range by[k] {
				if v := get(&by[k][i]); v != nil {
					values = append(values, *v)
				}
			}
			if len(values) < len(by[k]) {
				return "-"
			}
			mean, deviation := spread(values)
			if len(values) == 1 {
				return fmt.Sprintf("%.2f", mean)
			}
			return fmt.Sprintf("%.2f ± %.2f", mean, deviation)
		}
		var speeds []float64
		for _, l := range by[k] {
			speeds = append(speeds, l.PodsPerSecond)
		}
		speed, _ := spread(speeds)
		fmt.Fprintf(w, "%s\t%s\t%d\t%s %%\t%s %%\t%s %%\t%s", k.workload, k.policy, len(by[k]),
			of(func(l *Line) *float64 { return l.AllocAt100 }), of(func(l *Line) *float64 { return &l.AllocFinal }),
			of(func(l *Line) *float64 { return l.FragAmountAt100 }), of(func(l *Line) *float64 { return l.UnallocatedGPUsAt100 }))
		if bound {
			fmt.Fprintf(w, "\t%s %%\t%s %%", of(func(l *Line) *float64 { return l.BoundAt100 }), of(func(l *Line) *float64 { return l.GapAt100 }))
		}
		fmt.Fprintf(w, "\t%.0f\n", speed)
	}
	return w.Flush()
}

// spread is the mean and the standard deviation of a sample.
func spread(values []float64) (mean, deviation float64) {
	for _, v := range values {
		mean += v / float64(len(values))
	}
	if len(values) < 2 {
		return mean, 0
	}
	for _, v := range values {
		deviation += (v - mean) * (v - mean)
	}
	return mean, math.Sqrt(deviation / float64(len(values)-1))
}
