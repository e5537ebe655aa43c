package gang

import (
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
)

// TestASearchThatCostsTooMuchIsCutShort, and says so: nobody is scheduled while it goes on.
func TestASearchThatCostsTooMuchIsCutShort(t *testing.T) {
	// Of 21 members there is room for 19 that are spread evenly.
	const zones = "8|2|8|3|8|8|2"
	asked := func(t *testing.T, effort int) (said string) {
		inBubble(t, zoned(t, zones), func(r *rig) {
			for _, pl := range r.gangs.plugins {
				pl.effort = effort
			}
			r.group("g", 21)
			r.create(membersOf("g", 21, 1, evenly(v1.LabelTopologyZone))...)
			r.after(5 * time.Second)
			if r.number() != 0 {
				t.Errorf("bound: %s", r.bound())
			}
			said = r.said("g-0")
		})
		return said
	}
	for name, tc := range map[string]struct {
		effort int
		want   string
		cut    bool
	}{
		"enough for all of it":    {maxWork, "19 of at least 21 members have a place, and ns/g-", false},
		"enough for some of them": {200, " of at least 21 members have a place as far as was looked (the search was cut short after ", true},
		"not enough for one":      {1, "no place was found for members beside each other as far as was looked (the search was cut short after 0 possibilities)", true},
	} {
		t.Run(name, func(t *testing.T) {
			if said := asked(t, tc.effort); !strings.Contains(said, tc.want) || strings.Contains(said, "cut short") != tc.cut {
				t.Errorf("with effort %d told %q, want %q", tc.effort, said, tc.want)
			}
		})
	}
}
