package gang

import (
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"

	"weft.sh/weft/pkg/cluster"
	"weft.sh/weft/pkg/gang"
	"weft.sh/weft/pkg/plugins/gpufit"
)

// reserve keeps what a gang will start on: from when on is computed, or, for one that has waited too long, as it becomes free. It is
// computed anew each time the gang is refused, for pods may have ended early. before is what is kept for it now, nil for
// nothing.
func (pl *Plugin) reserve(q *question, before *hold) {
	k, now := q.in.spec.Key, pl.now()
	h, again := pl.reservation(q, before)
	pl.gangs.waiting.tryAt(k, again)
	if h == nil {
		if pl.gangs.waiting.drop(k, nil) {
			pl.gangs.wake(k, q.priority, true)
		}
		return
	}
	if h == before {
		return
	}
	other := pl.gangs.waiting.reservedAt(q.priority, k)
	if other != nil { // a younger one's
		pl.gangs.waiting.drop(other.Gang, other)
	}
	pl.gangs.waiting.put(h)
	same := before != nil && before.kind == h.kind && sameShares(before, h)
	if !same || h.Start.Sub(before.Start).Abs() >= worthTelling {
		if h.kind == forStart {
			tell(pl.handle, q.in.spec, v1.EventTypeNormal, "Reserved", "starts at about %s: its part of %d nodes is kept",
				h.Start.UTC().Format(time.RFC3339), len(h.Shares))
		} else {
			tell(pl.handle, q.in.spec, v1.EventTypeNormal, "Reserved", "has waited %s: what becomes free on %d nodes is kept for it",
				now.Sub(q.since()).Round(time.Second), len(h.Shares))
		}
	}
	if other != nil || before != nil && (!same || h.Start.After(before.Start)) {
		pl.gangs.wake(k, q.priority, false) // it binds fewer, or others
	}
}

// worthTelling is by how much a start moves before people are told: it moves all the time where pods run longer than they say.
const worthTelling = 10 * time.Minute

// reservation is what is to be kept, nil for nothing, and when to look again whatever happens, zero for never.
func (pl *Plugin) reservation(q *question, before *hold) (h *hold, again time.Time) {
	now := pl.now()
	if other := pl.gangs.waiting.reservedAt(q.priority, q.in.spec.Key); other != nil && other.before(q.in.spec) {
		return nil, time.Time{} // its turn comes when that one's has come
	}
	running := q.running()
	if pl.args.Backfill {
		if start, res, ok := gang.Start(&q.Problem, running, now); ok {
			h = q.hold(forStart, res, start)
			h.Expires = now.Add(startPatience)
			// Nothing need happen until the start that has the gang refused again.
			return h, earliest(latest(start, now).Add(time.Second), now.Add(startPatience/3))
		}
	}
	if pl.args.AgingSeconds <= 0 {
		return nil, time.Time{}
	}
	if due := q.since().Add(time.Duration(pl.args.AgingSeconds) * time.Second); due.After(now) {
		return nil, due
	}
	if before != nil && before.kind == forAge && q.stands(before) {
		return before, time.Time{}
	}
	if rest := pl.gangs.waiting.restsUntil(q.in.spec.Key); rest.After(now) {
		return nil, rest
	}
	res, r := gang.Drain(&q.Problem, running)
	if !r.OK() {
		return nil, time.Time{}
	}
	// Whoever holds the rest may never end, and all of lower or equal priority wait: they have their turn again as long.
	h = q.hold(forAge, res, time.Time{})
	h.Expires = now.Add(agePatience * time.Duration(pl.args.AgingSeconds) * time.Second)
	return h, time.Time{}
}

// startPatience is for how long something is kept for a gang that is not refused again meanwhile: another plugin holds its pods back
// in PreEnqueue, and it would not start even if there were room. Each refusal renews it, and a gang is refused three times as often
// where nobody holds it back.
const startPatience = 15 * time.Minute

// agePatience is for how many times AgingSeconds something is kept for a gang because of its age, an hour unless configured otherwise.
const agePatience = 6

func earliest(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

func (q *question) hold(kind holdKind, res *gang.Result, start time.Time) *hold {
	r := gang.NewReservation(&q.Problem, res, q.priority, start, time.Time{})
	return &hold{kind: kind, spec: q.in.spec, since: q.pl.now(), Hold: gpufit.NewHold(r, q.Resources)}
}

// since is when the gang began to wait: when its youngest member without a place was made.
func (q *question) since() (t time.Time) {
	for i, p := range q.pods {
		if q.Members[i].Node == "" {
			t = latest(t, p.CreationTimestamp.Time)
		}
	}
	return t
}

// stands reports whether what is kept can still become the gang's places: its nodes are there and take the members.
func (q *question) stands(h *hold) bool {
	shape := map[string]int{}
	for i, m := range q.Members {
		if m.Node == "" {
			shape[string(q.pods[i].UID)] = m.Shape
		}
	}
	node := map[string]int{}
	for i := range q.Nodes {
		node[q.Nodes[i].Name] = i
	}
	kept := 0
	for _, s := range h.Shares {
		i, ok := node[s.Node]
		for _, p := range s.Pods {
			kind, there := shape[p.UID]
			if !ok || !there || q.Nodes[i].Limit[kind] == 0 {
				return false
			}
			kept++
		}
	}
	return kept >= q.Min-q.placed()
}

// placed is how many members have a place.
func (q *question) placed() (n int) {
	for _, m := range q.Members {
		if m.Node != "" {
			n++
		}
	}
	return n
}

// sameShares reports whether the same is kept.
func sameShares(a, b *hold) bool {
	return slices.EqualFunc(a.Shares, b.Shares, func(x, y gang.Share) bool {
		return x.Node == y.Node && slices.Equal(x.Asks, y.Asks) && slices.EqualFunc(x.Pods, y.Pods, func(p, r cluster.Pod) bool {
			return p.Equal(r)
		})
	})
}
