package simulator

import (
	"math"
	"testing"
)

// TestBounds: bounds of seed 42 that a separate program found with another solver, in percent.
func TestBounds(t *testing.T) {
	for list, want := range map[string]float64{
		"default": 96.91, "cpu100": 96.87, "cpu250": 96.91, "gpushare40": 95.63, "gpushare100": 89.19, "gpuspec10": 96.91, "gpuspec33": 96.43,
		"multigpu20": 97.35, "multigpu50": 98.32,
	} {
		b, err := openb(t, list).Bound(t.Context(), 42, 1.3)
		if err != nil {
			t.Errorf("%s: %v", list, err)
			continue
		}
		t.Logf("%s: %+v", list, b)
		if math.Abs(b.Bound-want) > 0.02 {
			t.Errorf("%s: bound %.4f, want %.2f", list, b.Bound, want)
		}
	}
}
