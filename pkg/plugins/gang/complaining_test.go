package gang

import (
	"slices"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestBadInputIsTold to the pods, once, if it stays so.
func TestBadInputIsTold(t *testing.T) {
	elsewhere := func(p *v1.Pod) { p.Spec.SchedulerName = "default-scheduler" }
	for name, tt := range map[string]struct {
		group  func(r *rig)
		second func(*v1.Pod)
		// want are who is told what.
		want [][]string
	}{
		"no PodGroup": {want: [][]string{
			{"g-0 GangNotFound", "podgroup ns/g"}, {"g-1 GangNotFound", "podgroup ns/g"},
		}},
		"an unknown level": {group: func(r *rig) { r.group("g", 2, required("example.com/typo")) }, want: [][]string{
			{"g-0 UnknownTopology", `"example.com/typo"`, "nvlink"}, {"g-1 UnknownTopology", `"example.com/typo"`},
		}},
		"two priorities": {group: func(r *rig) { r.group("g", 2) }, second: priority(7), want: [][]string{
			{"g-0 InvalidGang", "0 (g-0) and 7 (g-1)"}, {"g-1 InvalidGang", "one priority for all members"},
		}},
		"two schedulers, of which one is another's to tell": {group: func(r *rig) { r.group("g", 2) }, second: elsewhere, want: [][]string{
			{"g-0 InvalidGang", "one scheduler for all members"},
		}},
		"no minimum": {group: func(r *rig) { r.group("g", 0) }, want: [][]string{
			{"g-0 InvalidGang", "minMember"}, {"g-1 InvalidGang", "minMember"},
		}},
		"too few members, which may be yet to come": {group: func(r *rig) { r.group("g", 3) }},
		"all is well": {group: func(r *rig) { r.group("g", 2) }},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, nodesOf(2, 8), func(r *rig) {
				if tt.group != nil {
					tt.group(r)
				}
				second := member("g", "g-1", 1)
				if tt.second != nil {
					tt.second(second)
				}
				r.create(member("g", "g-0", 1), second)
				r.after(time.Hour)
				got := r.warnings()
				if len(got) != len(tt.want) {
					t.Fatalf("told are %q, want %q", got, tt.want)
				}
				for i, parts := range tt.want {
					for _, part := range parts {
						if !strings.Contains(got[i], part) {
							t.Errorf("told is %q, want %q", got[i], part)
						}
					}
				}
			})
		})
	}
}

// TestBadInputIsToldAnew when something else is wrong, and not when it is put right in time.
func TestBadInputIsToldAnew(t *testing.T) {
	inBubble(t, nodesOf(2, 8), func(r *rig) {
		told := func(d time.Duration, want ...string) {
			t.Helper()
			r.after(d)
			var got []string
			for _, w := range r.warnings() {
				got = append(got, strings.Join(strings.Fields(w)[:2], " "))
			}
			if !slices.Equal(got, want) {
				t.Errorf("told are %q, want %q", got, want)
			}
		}
		r.create(member("g", "g-0", 1))
		told(4 * time.Second)
		r.group("g", 2)
		told(time.Minute) // it came in time; a member is missing
		if err := r.groups.Delete(t.Context(), "g", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		told(time.Minute, "g-0 GangNotFound")
		r.group("g", 2, required("example.com/typo"))
		r.create(member("g", "g-1", 1))
		told(time.Minute, "g-0 UnknownTopology", "g-1 UnknownTopology")
		told(time.Hour)
		r.delete("g-0", "g-1")
		r.after(time.Second)
		if err := r.groups.Delete(t.Context(), "g", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		r.after(time.Second)
		if n := len(r.gangs.queue.complaints); n != 0 {
			t.Errorf("%d complaints are kept", n)
		}
	})
}
