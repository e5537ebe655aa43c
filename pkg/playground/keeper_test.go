package playground

import (
	"testing"
	"time"
)

func TestTooManyEnds(t *testing.T) {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for name, c := range map[string]struct {
		seconds []int
		// want is the number of ends that are borne.
		want int
	}{
		"six at once":               {seconds: []int{0, 0, 0, 0, 0, 0}, want: 5},
		"six within a minute":       {seconds: []int{0, 12, 24, 36, 48, 60}, want: 5},
		"every thirteen seconds":    {seconds: []int{0, 13, 26, 39, 52, 65, 78, 91, 104}, want: 9},
		"five, a pause, five again": {seconds: []int{0, 1, 2, 3, 4, 65, 66, 67, 68, 69}, want: 10},
	} {
		t.Run(name, func(t *testing.T) {
			var all ends
			got := 0
			for _, s := range c.seconds {
				if all.add(start.Add(time.Duration(s) * time.Second)) {
					break
				}
				got++
			}
			if got != c.want {
				t.Errorf("%d ends are borne, want %d", got, c.want)
			}
		})
	}
}
