package health

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

// past is all that happened to a GPU.
type past struct {
	at   time.Time
	what string
}

func (p past) bad() bool {
	return strings.HasPrefix(p.what, "xid") && p.what != "xid 13" || p.what == "lost" || p.what == "gpu-reset"
}

func (p past) poll() bool { return !strings.HasPrefix(p.what, "xid") }

// dumb says from all that happened, from the beginning, whether the GPU is healthy after it.
func dumb(all []past) bool {
	healthy, failures := true, 0
	var recovered time.Time
	begin := 0 // of the failure
	for i, p := range all {
		if healthy && p.bad() {
			if recovered.IsZero() || p.at.Sub(recovered) >= time.Hour {
				failures = 0
			}
			healthy, begin = false, i
			failures++
		}
		if healthy || !p.poll() || p.bad() {
			continue
		}
		lastBad, lastLost, hasXid := -1, -1, false
		for j := begin; j <= i; j++ {
			if all[j].bad() {
				lastBad = j
				hasXid = hasXid || !all[j].poll()
			}
			if all[j].what == "lost" {
				lastLost = j
			}
		}
		answered := 0
		var quiet, none time.Time
		for j := lastLost + 1; j <= i; j++ {
			if all[j].poll() {
				answered++
			}
		}
		for j := lastBad + 1; j <= i; j++ {
			if !all[j].poll() {
				continue
			}
			if quiet.IsZero() {
				quiet = all[j].at
			}
			if all[j].what != "none" {
				none = time.Time{}
			} else if none.IsZero() {
				none = all[j].at
			}
		}
		short, long := 30*time.Second, 30*time.Second
		if hasXid {
			long = 10 * time.Minute
		}
		times := failures
		if !hasXid {
			times--
		}
		if times == 0 {
			short, long = 0, 0
		}
		for range times - 1 {
			short, long = min(2*short, time.Hour), min(2*long, time.Hour)
		}
		enough := !none.IsZero() && p.at.Sub(none) >= short || p.at.Sub(quiet) >= long
		if enough && (lastLost < 0 || answered >= 2) {
			healthy, recovered = true, p.at
		}
	}
	return healthy
}

func TestRandomHistoriesAreJudgedAsFromTheBeginning(t *testing.T) {
	count := map[string]int{}
	for seed := range uint64(80) {
		r := rand.New(rand.NewPCG(seed, 9))
		m := NewMonitor(Limits{})
		now := start
		var all []past
		mood := "none"
		for range 120 {
			what := mood
			switch n := r.IntN(40); {
			case n < 3:
				mood = []string{"none", "none", "none", "unknown", "lost", "gpu-reset"}[r.IntN(6)]
				what = mood
			case n < 5:
				what = []string{"xid 79", "xid 48", "xid 13"}[r.IntN(3)]
			}
			pause := time.Duration(1+r.IntN(10)) * time.Second
			if r.IntN(20) == 0 {
				pause = time.Duration(r.IntN(90)) * time.Minute
			}
			now = now.Add(pause)
			all = append(all, past{now, what})
			before := m.Status()
			happen(m, what, now)
			got := m.Status()

			describe := func() string {
				var b strings.Builder
				for _, p := range all[max(0, len(all)-40):] {
					fmt.Fprintf(&b, "%v %s\n", p.at.Sub(start), p.what)
				}
				return b.String()
			}
			if want := dumb(all); got.Healthy != want {
				t.Fatalf("seed %d: healthy is %t, want %t: %+v\nafter\n%s", seed, got.Healthy, want, got, describe())
			}
			switch {
			case all[len(all)-1].bad() && got.Healthy:
				t.Fatalf("seed %d: healthy in spite of %s\nafter\n%s", seed, what, describe())
			case got.Healthy != (got.Reason == ""):
				t.Fatalf("seed %d: %+v\nafter\n%s", seed, got, describe())
			case before.Healthy == got.Healthy && !before.Since.Equal(got.Since), before.Healthy != got.Healthy && !got.Since.Equal(now):
				t.Fatalf("seed %d: from %+v to %+v\nafter\n%s", seed, before, got, describe())
			}
			if before.Healthy != got.Healthy {
				count[fmt.Sprintf("healthy %t by %s", got.Healthy, strings.Fields(what)[0])]++
			}
		}
		// Whatever happened: an hour in which the driver wants nothing is enough.
		for range 3600/5 + 1 {
			now = now.Add(5 * time.Second)
			m.Poll(Condition{Recovery: RecoveryNone}, now)
		}
		if got := m.Status(); !got.Healthy {
			t.Fatalf("seed %d: after an hour of quiet it is %+v", seed, got)
		}
	}
	t.Log(count)
	for _, what := range []string{
		"healthy false by xid", "healthy false by lost", "healthy false by gpu-reset", "healthy true by none", "healthy true by unknown",
	} {
		if count[what] == 0 {
			t.Errorf("it never became %s", what)
		}
	}
}
