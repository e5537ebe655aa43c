package migsim

import (
	"fmt"
	"io"
	"math"
	"text/tabwriter"
)

// Line is the result of one run, and a line of the JSON output: its fields stay. Percentages of pods and slices are of those that
// arrived in the time that is measured, and rounded to four places. Fields of policy repack, which places nothing, are nil where they
// would be about places or shares.
type Line struct {
	Workload string  `json:"workload"`
	Policy   string  `json:"policy"`
	Seed     int64   `json:"seed"`
	Load     float64 `json:"load"`
	Nodes    int     `json:"nodes"`
	GPUs     int     `json:"gpus"`
	MIGGPUs  int     `json:"mig_gpus"`
	// MIGPods arrived for the GPUs in MIG mode, SharePods for the others.
	MIGPods   int `json:"mig_pods"`
	SharePods int `json:"share_pods"`
	// Accepted, in percent, by number and by memory slices or GPUs.
	MIGPodsAccepted   float64  `json:"mig_pods_accepted"`
	MIGSlicesAccepted float64  `json:"mig_slices_accepted"`
	SharePodsAccepted *float64 `json:"share_pods_accepted"`
	ShareGPUsAccepted *float64 `json:"share_gpus_accepted"`
	// GPUsOpened is how many GPUs somebody holds, the mean over what arrives. MIGFragmentation is the free memory slices that the next
	// request of the mix cannot use, in percent of all.
	GPUsOpened       *float64 `json:"gpus_opened"`
	Reconfigurations *int     `json:"reconfigurations"`
	MIGFragmentation *float64 `json:"mig_fragmentation"`
	// Packable is what this run would have accepted at most if, at each arrival, all that was held could have been moved. The gap is the
	// part of it that was refused for where instances lay.
	MIGPodsPackable   float64 `json:"mig_pods_packable"`
	MIGSlicesPackable float64 `json:"mig_slices_packable"`
	GapToPackable     float64 `json:"gap_to_packable"`
	// Bound is what no policy can accept more of, and the gap how much of it was missed, in percent of it.
	MIGPodsBound   float64  `json:"mig_pods_bound"`
	MIGSlicesBound float64  `json:"mig_slices_bound"`
	SharePodsBound float64  `json:"share_pods_bound"`
	MIGPodsGap     float64  `json:"mig_pods_gap"`
	MIGSlicesGap   float64  `json:"mig_slices_gap"`
	SharePodsGap   *float64 `json:"share_pods_gap"`
	// PodsPerSecond is by the wall clock: the one field that differs from run to run.
	PodsPerSecond float64 `json:"pods_per_second"`
}

// beside sets the result beside what it cannot exceed.
func (l *Line) beside(b Bounds) {
	gap := func(of, got float64) float64 { return percent(of-got, max(of, 1e-9)) }
	l.GapToPackable = gap(l.MIGPodsPackable, l.MIGPodsAccepted)
	l.MIGPodsBound, l.MIGSlicesBound, l.SharePodsBound = b.MIGPods, b.MIGSlices, b.SharePods
	l.MIGPodsGap, l.MIGSlicesGap = gap(b.MIGPods, l.MIGPodsAccepted), gap(b.MIGSlices, l.MIGSlicesAccepted)
	if l.SharePodsAccepted != nil {
		l.SharePodsGap = new(gap(b.SharePods, *l.SharePodsAccepted))
	}
}

// Table prints results for people: for each load and policy the mean over the seeds and the deviation between them.
func Table(out io.Writer, lines []Line) error {
	type key struct {
		load   float64
		policy string
	}
	var order []key
	by := map[key][]Line{}
	for _, l := range lines {
		k := key{l.Load, l.Policy}
		if by[k] == nil {
			order = append(order, k)
		}
		by[k] = append(by[k], l)
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "LOAD\tPOLICY\tSEEDS\tMIG PODS\tMIG SLICES\tGAP: MOVED\tGAP: BOUND\tSHARES\tGAP: BOUND\tGPUS OPEN\tRECONFIGURED\tFRAGMENTS\tPODS/S")
	for _, k := range order {
		of := func(unit string, digits int, get func(*Line) *float64) string {
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
				return fmt.Sprintf("%.*f%s", digits, mean, unit)
			}
			return fmt.Sprintf("%.*f ± %.*f%s", digits, mean, digits, deviation, unit)
		}
		reconfigurations := func(l *Line) *float64 {
			if l.Reconfigurations == nil {
				return nil
			}
			return new(float64(*l.Reconfigurations))
		}
		var speeds []float64
		for _, l := range by[k] {
			speeds = append(speeds, l.PodsPerSecond)
		}
		speed, _ := spread(speeds)
		fmt.Fprintf(w, "%g\t%s\t%d\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%.0f\n", k.load, k.policy, len(by[k]),
			of(" %", 2, func(l *Line) *float64 { return &l.MIGPodsAccepted }), of(" %", 2, func(l *Line) *float64 { return &l.MIGSlicesAccepted }),
			of(" %", 2, func(l *Line) *float64 { return &l.GapToPackable }), of(" %", 2, func(l *Line) *float64 { return &l.MIGPodsGap }),
			of(" %", 2, func(l *Line) *float64 { return l.SharePodsAccepted }), of(" %", 2, func(l *Line) *float64 { return l.SharePodsGap }),
			of("", 1, func(l *Line) *float64 { return l.GPUsOpened }), of("", 0, reconfigurations),
			of(" %", 2, func(l *Line) *float64 { return l.MIGFragmentation }), speed)
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
