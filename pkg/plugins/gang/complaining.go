package gang

import (
	"cmp"
	"slices"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"

	"weft.sh/weft/pkg/fit"
	"weft.sh/weft/pkg/gang"
)

const (
	// complainAfter is how long what is wrong with a gang may be put right before its pods are told: its PodGroup may come after them.
	complainAfter = 5 * time.Second
	// complainTo bounds how many pods are told: those of a large gang are all told by a few.
	complainTo = 64
	// noteLength is how long the note of an event may be.
	noteLength = 1024
)

// complaint is what the pods of a gang were told that cannot be planned, by an event: those that PreEnqueue holds back have no
// condition.
type complaint struct {
	told fit.Reason
	due  bool // they are about to be told
}

// complain has the pods that PreEnqueue holds back told why, if somebody got something wrong and it stays so; once for each reason
// that follows another. It may be called under the scheduling queue's lock.
func (pl *Plugin) complain(k gang.Key, r fit.Rejection) {
	if pl.gangs.queue.mayComplain(k, r) {
		time.AfterFunc(complainAfter, func() { pl.complainNow(k) })
	}
}

func (pl *Plugin) complainNow(k gang.Key) {
	_, r := pl.inspect(k)
	pods := pl.gangs.queue.toComplain(k, r)
	recorder := pl.handle.EventRecorder()
	if recorder == nil {
		return
	}
	note := r.Message()
	if len(note) > noteLength {
		note = strings.ToValidUTF8(note[:noteLength-4], "") + " ..."
	}
	for _, p := range pods {
		recorder.Eventf(p, nil, v1.EventTypeWarning, r.Reason.String(), "Scheduling", "%s", note)
	}
}

// wrong reports whether the reason is that somebody got something wrong, and not that pods are missing which may be yet to come.
func wrong(r fit.Rejection) bool {
	return r.Reason == fit.GangNotFound || r.Reason == fit.InvalidGang || r.Reason == fit.UnknownTopology
}

// mayComplain reports whether pods are to be told of the reason, unless they were or are about to be.
func (q *queue) mayComplain(k gang.Key, r fit.Rejection) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	c := q.complaints[k]
	if !wrong(r) {
		if c != nil && !c.due {
			delete(q.complaints, k)
		}
		return false
	}
	if len(q.gated[k]) == 0 || c != nil && (c.due || c.told == r.Reason) {
		return false
	}
	if c == nil {
		c = &complaint{told: fit.Fits}
		q.complaints[k] = c
	}
	c.due = true
	return true
}

// toComplain are the pods to tell of the reason, now.
func (q *queue) toComplain(k gang.Key, r fit.Rejection) (pods []*v1.Pod) {
	q.mu.Lock()
	defer q.mu.Unlock()
	c := q.complaints[k]
	if c == nil || !wrong(r) {
		delete(q.complaints, k)
		return nil
	}
	if c.due = false; c.told == r.Reason {
		return nil
	}
	c.told = r.Reason
	pods = values(q.gated[k])
	slices.SortFunc(pods, func(a, b *v1.Pod) int { return cmp.Compare(a.Name, b.Name) })
	return pods[:min(len(pods), complainTo)]
}
