package gang

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"
)

// Record remembers what the pods of a gang no longer say: which members succeeded whose pods somebody deleted, and since when the
// present run of the gang goes on, so that those count for it that succeeded in it and not in a run before. Who has succeeded has
// succeeded, whatever becomes of the pod. The zero Record is that of a gang seen for the first time. It is not safe for
// concurrent use.
type Record struct {
	// done are the members that succeeded, by UID; nil before the first call.
	done map[string]MemberState
	// start is when the run began: when its first member was bound. Zero while there is none, or it is not known.
	start time.Time
	// past are the members that had ended when no member held a place: whoever is bound later has nothing to do with that. The times
	// in pods, in whole seconds, do not always say so.
	past map[string]bool
	// leaving are the members that were to be evicted for a loss when that was seen; nil when none was, or it was before this
	// Record. Who is bound later takes a place anew, however soon: the times of pods are in whole seconds.
	leaving map[string]bool
}

// maxGone bounds how many members that are gone are remembered from a status, which whoever may write it can set to any number.
const maxGone = 10_000

// Evicted remembers whom [Judge] had evicted for a loss, of the pods that [Record.Complete] gave it: who is bound while they leave has
// nothing to do with what was lost before. It is to be called after every Judge.
func (r *Record) Evicted(pods []MemberState, s Status, next Next) {
	failed := s.Phase == PhaseFailed && !s.Since.IsZero()
	if failed && r.leaving == nil {
		r.leaving = map[string]bool{}
		for _, i := range next.Evict {
			r.leaving[pods[i].UID] = true
		}
	}
	if r.leaving != nil {
		for _, p := range pods {
			if !p.active() {
				r.past[p.UID] = true
			}
		}
	}
	if !failed {
		r.leaving = nil
	}
}

// Complete is the pods with those appended that succeeded and are gone; it says which are of a run before. was is the status
// that the gang had: when the gang is seen for the first time, it says how many succeeded in this run.
//
// A run ends when no member holds a place and there are as many again as the minimum: with fewer, who comes is in the place of
// one that was lost.
func (r *Record) Complete(spec Spec, pods []MemberState, was Status, now time.Time) []MemberState {
	c := count(pods)
	if r.done == nil {
		r.done = map[string]MemberState{}
		r.recall(pods, c, was, now)
	}
	switch {
	case c.bound == 0 && c.active >= max(spec.Min, 1):
		r.start = time.Time{}
	case c.bound > 0 && r.start.IsZero():
		r.start = c.start
	}
	out := slices.Clone(pods)
	seen := map[string]bool{}
	for i, p := range pods {
		seen[p.UID] = true
		if p.Succeeded {
			r.done[p.UID] = p
		} else if done, ok := r.done[p.UID]; ok {
			out[i] = done // it is only being cleaned up
		}
	}
	maps.DeleteFunc(r.done, func(_ string, p MemberState) bool { return p.Ended.Before(r.start) })
	for _, p := range slices.SortedFunc(maps.Values(r.done), func(a, b MemberState) int { return cmp.Compare(a.UID, b.UID) }) {
		if !seen[p.UID] {
			out = append(out, p)
		}
	}
	past := map[string]bool{}
	for i := range out {
		p := &out[i]
		p.former = !p.active() && p.Ended.Before(r.start)
		p.anew = r.leaving != nil && !r.leaving[p.UID]
		if p.past = !p.active() && (c.bound == 0 || r.past[p.UID]); p.past {
			past[p.UID] = true
		}
	}
	r.past = past
	return out
}

// recall finds out from the status what an earlier Record knew.
func (r *Record) recall(pods []MemberState, c counts, was Status, now time.Time) {
	var ended []time.Time // of those that succeeded, the last first
	for _, p := range pods {
		if p.Succeeded {
			ended = append(ended, p.Ended)
		}
	}
	slices.SortFunc(ended, func(a, b time.Time) int { return b.Compare(a) })
	gone, when := min(was.Succeeded-len(ended), maxGone), now
	switch {
	case was.started():
		r.start = c.start
		// They may have succeeded before the first of those was bound that hold a place now, if all of them are replacements.
		if n := min(was.Succeeded, len(ended)); n > 0 && (r.start.IsZero() || ended[n-1].Before(r.start)) {
			r.start = ended[n-1]
		}
	case was.Phase == PhaseFinished:
		when = time.Unix(0, 0) // long before whoever starts next
	default:
		return
	}
	for i := range gone {
		uid := fmt.Sprintf("gone-%d", i)
		r.done[uid] = MemberState{UID: uid, Bound: when, Running: true, Ended: when, Succeeded: true}
	}
}
