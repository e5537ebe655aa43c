package gang

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	fwk "k8s.io/kube-scheduler/framework"

	"weft.sh/weft/pkg/gang"
	"weft.sh/weft/pkg/metrics"
	"weft.sh/weft/pkg/plugins/gpufit"
)

// waiting is what is kept for gangs that wait. Its lock is a leaf: nothing is called while it is held but the state that is shared
// with GPUFit.
type waiting struct {
	gpus *gpufit.State

	mu    sync.Mutex
	holds map[gang.Key]*hold
	// again is when a gang that was refused is tried without an event.
	again map[gang.Key]time.Time
	// rests is until when nothing is kept for a gang because of its age: what was kept did not help, and others had to wait.
	rests map[gang.Key]time.Time
}

func newWaiting(s *gpufit.State) waiting {
	return waiting{gpus: s, holds: map[gang.Key]*hold{}, again: map[gang.Key]time.Time{}, rests: map[gang.Key]time.Time{}}
}

// holdKind says what a hold is for.
type holdKind uint8

const (
	// forVictims: pods are leaving, and the gang takes their place.
	forVictims holdKind = iota
	// forStart: it is known when there will be room.
	forStart
	// forAge: the gang has waited too long.
	forAge
)

// hold is what is kept for one gang. Nothing in it changes.
type hold struct {
	*gpufit.Hold
	kind holdKind
	spec gang.Spec
	// victims are the pods that leave for the gang.
	victims []*v1.Pod
	// since is when it was made.
	since time.Time
	// profile is that of the pod it is for, where that is in no gang.
	profile string
}

// before reports whether the gang of the hold goes before the other: of equal priority the older one does.
func (h *hold) before(spec gang.Spec) bool {
	return cmp.Or(h.spec.Created.Compare(spec.Created), cmp.Compare(h.spec.Namespace, spec.Namespace), cmp.Compare(h.spec.Name, spec.Name)) < 0
}

func (w *waiting) of(k gang.Key) *hold {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.holds[k]
}

// put replaces what is kept for the gang.
func (w *waiting) put(h *hold) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.holds[h.Gang] = h
	w.publish()
}

// drop ends what is kept for the gang; if one is given, only if it is still that hold. It reports whether anything was.
func (w *waiting) drop(k gang.Key, only *hold) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	h := w.holds[k]
	if h == nil || only != nil && h != only {
		return false
	}
	delete(w.holds, k)
	w.publish()
	return true
}

// publish tells GPUFit, and the plans of other gangs. The lock is held.
func (w *waiting) publish() {
	all := make([]*hold, 0, len(w.holds))
	for _, h := range w.holds {
		all = append(all, h)
	}
	slices.SortFunc(all, func(a, b *hold) int {
		if a.Priority != b.Priority {
			return cmp.Compare(b.Priority, a.Priority)
		}
		if a.before(b.spec) {
			return -1
		}
		return 1
	})
	holds := make([]*gpufit.Hold, len(all))
	for i, h := range all {
		holds[i] = h.Hold
	}
	w.gpus.SetHolds(holds)
	metrics.GangsReserved(len(holds))
}

// tryAt has the gang tried at that time, whatever happens; the zero time for when something happens only.
func (w *waiting) tryAt(k gang.Key, at time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if at.IsZero() {
		delete(w.again, k)
	} else {
		w.again[k] = at
	}
}

// tryBy has the gang tried at that time at the latest.
func (w *waiting) tryBy(k gang.Key, at time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if before, ok := w.again[k]; !ok || at.Before(before) {
		w.again[k] = at
	}
}

// due takes out the gangs that are to be tried now, and the holds that have expired.
func (w *waiting) due(now time.Time) (keys []gang.Key, expired []*hold) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for k, at := range w.again {
		if !at.After(now) {
			delete(w.again, k)
			keys = append(keys, k)
		}
	}
	for k, h := range w.holds {
		if h.Expired(now) {
			delete(w.holds, k)
			if h.kind == forAge {
				w.rests[k] = now.Add(h.Expires.Sub(h.since))
			}
			expired = append(expired, h)
			keys = append(keys, k)
		}
	}
	if len(expired) > 0 {
		w.publish()
	}
	return keys, expired
}

// reservedAt is the hold of another gang of the priority that waits for its start, nil for none: there is one of them at a time.
func (w *waiting) reservedAt(priority int32, but gang.Key) *hold {
	w.mu.Lock()
	defer w.mu.Unlock()
	for k, h := range w.holds {
		if k != but && h.Priority == priority && h.kind != forVictims {
			return h
		}
	}
	return nil
}

// leaving are the pods that leave for any gang, by UID.
func (w *waiting) leaving() map[types.UID]bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := map[types.UID]bool{}
	for _, h := range w.holds {
		for _, v := range h.victims {
			out[v.UID] = true
		}
	}
	return out
}

// restsUntil is when something may be kept again for the gang because of its age; zero for now.
func (w *waiting) restsUntil(k gang.Key) time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.rests[k]
}

// forget drops what is left of a gang that is gone.
func (w *waiting) forget(k gang.Key) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.rests, k)
}

// release ends what is kept for a gang, which starts, has changed or is gone.
func (g *gangs) release(k gang.Key) {
	g.waiting.tryAt(k, time.Time{})
	if h := g.waiting.of(k); h != nil && g.waiting.drop(k, h) {
		g.wake(k, h.Priority, true)
	}
}

// wake has those tried that were refused for what was kept for a gang of the priority: pods, and gangs of no higher priority. If
// nothing is kept for it any more, also, of each priority, the gang that has waited longest, for which something may be now. No
// gang wakes one of a higher priority, or two of them would wake each other for ever.
func (g *gangs) wake(but gang.Key, priority int32, over bool) {
	g.activate(append(g.gpus.HeldBack(), g.queue.held(but, priority, over)...))
}

// held are the leaders of the gangs to wake.
func (q *queue) held(but gang.Key, priority int32, over bool) (out []*v1.Pod) {
	q.mu.RLock()
	defer q.mu.RUnlock()
	first := map[int32]gang.Key{}
	for k, r := range q.refusals {
		f, ok := first[r.priority]
		if k != but && (!ok || q.created[k].Before(q.created[f])) {
			first[r.priority] = k
		}
	}
	for k, r := range q.refusals {
		if k == but || r.priority > priority || !r.kept && !(over && first[r.priority] == k) {
			continue
		}
		if lead := r.members[r.leader]; lead != nil {
			out = append(out, lead)
		}
	}
	return out
}

// leaderOf is the pod that leads the refused gang, nil when it is not refused.
func (q *queue) leaderOf(k gang.Key) []*v1.Pod {
	q.mu.RLock()
	defer q.mu.RUnlock()
	if r := q.refusals[k]; r != nil && r.members[r.leader] != nil {
		return []*v1.Pod{r.members[r.leader]}
	}
	return nil
}

// watch looks at what time alone changes, until the context ends.
func (g *gangs) watch(ctx context.Context, now func() time.Time) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			g.tick(now())
		}
	}
}

func (g *gangs) tick(now time.Time) {
	keys, expired := g.waiting.due(now)
	for _, h := range expired {
		defer g.wake(h.Gang, h.Priority, true)
		logger().Info("What was kept for a gang has expired", "gang", h.Gang, "victims", len(h.victims))
	}
	for _, k := range keys {
		g.activate(g.queue.leaderOf(k))
	}
	if !g.synced.Load() {
		return
	}
	// No cycle may come that would do it.
	g.activate(g.gpus.Expire(now))
	// What changed while a gang was planned has had its event already, and is seen now.
	g.tidy(now)
	g.book.expire(now)
	g.reviewAlone()
	for k := range g.known() {
		g.changed(k)
	}
}

// known are the gangs of which anything is remembered that ends with them.
func (g *gangs) known() map[gang.Key]bool {
	known := map[gang.Key]bool{}
	g.queue.known(known)
	g.waiting.known(known)
	g.book.known(known)
	return known
}

func (w *waiting) known(known map[gang.Key]bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for k := range w.holds {
		if !isAlone(k) {
			known[k] = true
		}
	}
	for k := range w.rests {
		known[k] = true
	}
}

// reviewHold ends what is kept for a gang that is not what it was: it is refused anew, and then something is kept for what it is. Also
// what is kept for one that cannot be planned now: PreEnqueue holds it back, for however long.
func (g *gangs) reviewHold(k gang.Key, members []*v1.Pod) {
	h := g.waiting.of(k)
	if h == nil {
		return
	}
	there := uids(members)
	spec, err := g.tracker.Spec(k)
	same := err == nil && spec.UID == h.spec.UID && spec.Min == h.spec.Min && spec.Topology == h.spec.Topology
	for i := range h.Shares {
		for j := range h.Shares[i].Pods {
			same = same && there[types.UID(h.Shares[i].Pods[j].UID)] != nil
		}
	}
	if same && g.complete(k) {
		return
	}
	leader := g.queue.leaderOf(k)
	g.release(k)
	g.activate(leader)
}

// leaveKept takes from the node what is kept for other gangs that go before this one.
func (q *question) leaveKept(n *gang.Node) {
	for _, h := range q.holds {
		kept := h.Kept(n.Name)
		if kept == nil {
			continue
		}
		q.kept.Store(true)
		n.GPUs = h.On(n.GPUs)
		for i, name := range q.Resources {
			if k := slices.Index(h.Resources, name); k >= 0 {
				n.Free[i] -= kept[k]
			}
		}
	}
}

// bindingHolds are what is kept for other gangs and binds the members of this one.
func (q *question) bindingHolds() (out []*gpufit.Hold) {
	for _, h := range q.pl.gangs.gpus.Holds() {
		if slices.ContainsFunc(q.pods, func(p *v1.Pod) bool { return h.Binds(p, q.pl.now()) }) {
			out = append(out, h)
		}
	}
	return out
}

// questionKey is where a cycle has the question that was answered with a refusal.
const questionKey fwk.StateKey = Name + "/question"

// Clone implements fwk.StateData: the question is the cycle's, and for PostFilter alone.
func (q *question) Clone() fwk.StateData { return q }

func readQuestion(state fwk.CycleState) *question {
	data, err := state.Read(questionKey)
	if err != nil {
		return nil
	}
	return data.(*question)
}
