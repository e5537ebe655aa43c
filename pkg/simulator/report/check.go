package report

import (
	"errors"
	"fmt"
	"math"
	"slices"
)

// ErrBadData is wrapped by every error about data that contradict themselves.
var ErrBadData = errors.New("bad data for a report")

// check says what of the data cannot be shown.
func (d *Data) check() error {
	for _, t := range d.Tables {
		for _, c := range t.Columns {
			if !slices.Contains([]string{"", "higher", "lower"}, c.Better) || c.Decimals < 0 || c.Decimals > 6 {
				return fmt.Errorf("%w: table %q, column %q: better is %q and decimals %d: want higher, lower or nothing, and 0 to 6",
					ErrBadData, t.Title, c.Name, c.Better, c.Decimals)
			}
		}
		for _, r := range t.Rows {
			if len(r.Cells) != len(t.Columns) {
				return fmt.Errorf("%w: table %q: row %q has %d cells: want %d, as many as columns", ErrBadData, t.Title, r.Run, len(r.Cells), len(t.Columns))
			}
			for _, c := range r.Cells {
				if notFinite(deref(c.Value), deref(c.Deviation)) {
					return fmt.Errorf("%w: table %q: row %q has a figure that is infinite or no number", ErrBadData, t.Title, r.Run)
				}
			}
		}
	}
	for _, c := range d.Curves {
		what := fmt.Sprintf("curve of %s, %s", c.Workload, c.Run)
		for _, b := range []Band{c.Alloc, c.Fragments} {
			if err := checkLine(what, c.Arrived, b.Mean); err != nil {
				return err
			}
			if (b.Min == nil) != (b.Max == nil) {
				return fmt.Errorf("%w: %s: want both the least and the most, or neither", ErrBadData, what)
			}
			if b.Min != nil {
				if err := errors.Join(checkLine(what, c.Arrived, b.Min), checkLine(what, c.Arrived, b.Max)); err != nil {
					return err
				}
			}
		}
		if notFinite(deref(c.BoundAt100)) {
			return fmt.Errorf("%w: %s: the bound is infinite or no number", ErrBadData, what)
		}
	}
	for _, s := range d.Series {
		for _, l := range s.Lines {
			if err := checkLine(fmt.Sprintf("series %q of %s", s.Title, l.Run), l.Seconds, l.Values); err != nil {
				return err
			}
		}
	}
	for _, q := range d.Queues {
		what := fmt.Sprintf("queue %s of %s", q.Name, q.Run)
		if err := errors.Join(q.Wait.check(what), q.Completion.check(what)); err != nil {
			return err
		}
		if b := q.Budget; b != nil && (notFinite(b.UsedGPUHours, b.GrantedGPUHours) || b.UsedGPUHours < 0 || b.GrantedGPUHours <= 0) {
			return fmt.Errorf("%w: %s: used %g of %g GPU-hours: want at least 0 of more than 0", ErrBadData, what, b.UsedGPUHours, b.GrantedGPUHours)
		}
	}
	for _, g := range d.Gangs {
		if err := g.Wait.check(fmt.Sprintf("gangs of %d GPUs of %s", g.GPUs, g.Run)); err != nil {
			return err
		}
	}
	return d.Map.check()
}

func (m *Map) check() error {
	if m == nil {
		return nil
	}
	gpus := 0
	for _, n := range m.Nodes {
		if n.GPUs < 0 || n.GPUs > maxGPUsOfNode {
			return fmt.Errorf("%w: node %s of the map has %d GPUs: want 0 to %d", ErrBadData, n.Name, n.GPUs, maxGPUsOfNode)
		}
		gpus += n.GPUs
	}
	for _, r := range m.Runs {
		for _, f := range r.Frames {
			if len(f.Used) != gpus {
				return fmt.Errorf("%w: map of %s, %s: %d bytes: want %d, one for each GPU", ErrBadData, r.Run, f.Label, len(f.Used), gpus)
			}
			if len(f.Used) > 0 && slices.Max(f.Used) > 100 {
				return fmt.Errorf("%w: map of %s, %s: a GPU is used to %d percent: want 0 to 100", ErrBadData, r.Run, f.Label, slices.Max(f.Used))
			}
		}
	}
	return nil
}

// maxGPUsOfNode bounds the height of a node in the map: an NVL72 rack is 72 GPUs in nodes of 4, and the largest node sold has 16.
const maxGPUsOfNode = 128

func (t *Times) check(what string) error {
	if t == nil {
		return nil
	}
	var all []float64
	for _, v := range []*float64{t.Min, t.P25, &t.P50, t.P75, &t.P95, t.Max} {
		if v != nil {
			all = append(all, *v)
		}
	}
	if notFinite(all...) || all[0] < 0 || !slices.IsSorted(all) {
		return fmt.Errorf("%w: %s: percentiles %v: want seconds from 0, none below the one before it", ErrBadData, what, all)
	}
	return nil
}

func checkLine(what string, x, y []float64) error {
	switch {
	case len(x) != len(y):
		return fmt.Errorf("%w: %s: %d values at %d points: want as many", ErrBadData, what, len(y), len(x))
	case notFinite(x...) || notFinite(y...):
		return fmt.Errorf("%w: %s: a value is infinite or no number", ErrBadData, what)
	case !slices.IsSorted(x):
		return fmt.Errorf("%w: %s: points are not in order", ErrBadData, what)
	}
	return nil
}

func notFinite(values ...float64) bool {
	return slices.ContainsFunc(values, func(v float64) bool { return math.IsNaN(v) || math.IsInf(v, 0) })
}

func deref(v *float64) float64 {
	if v == nil {
		return 0
	}
	return *v
}
