package gang

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"
)

// Record remembers which members of a gang succeeded, for as long as it has others: when somebody deletes their pods, the gang
// is still finishing, and not partial. Who has succeeded has succeeded, whatever becomes of the pod. The zero Record is that of a gang seen for the first time. It is not safe for
// concurrent use.
type Record struct {
	// done are the members that succeeded, by UID; nil before the first call.
	done map[string]MemberState
}

// Complete is the pods with those appended that succeeded and are gone. was is the status that the gang had; when the
// gang is seen for the first time, it says how many those are.
func (r *Record) Complete(pods []MemberState, was Status, now time.Time) []MemberState {
	c := count(pods)
	if r.done == nil {
		r.done = map[string]MemberState{}
		gone, ended := 0, now
		switch {
		case was.started():
			gone = was.Succeeded - c.done
		case was.Phase == PhaseFinished:
			gone, ended = was.Succeeded-c.succeeded, time.Unix(0, 0) // long before whoever starts next
		}
		for i := range gone {
			uid := fmt.Sprintf("gone-%d", i)
			r.done[uid] = MemberState{UID: uid, Bound: ended, Running: true, Ended: ended, Succeeded: true}
		}
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
	maps.DeleteFunc(r.done, func(_ string, p MemberState) bool { return p.Ended.Before(c.start) })
	for _, p := range slices.SortedFunc(maps.Values(r.done), func(a, b MemberState) int { return cmp.Compare(a.UID, b.UID) }) {
		if !seen[p.UID] {
			out = append(out, p)
		}
	}
	return out
}
