package gang

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
	fwk "k8s.io/kube-scheduler/framework"
	"k8s.io/kubernetes/pkg/scheduler/framework"

	"weft.sh/weft/pkg/cluster"
	"weft.sh/weft/pkg/gang"
	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/metrics"
	"weft.sh/weft/pkg/plugins/gpufit"
)

// book has the plans. Its lock is held while the scheduler's own structures are called (nominations, waiting pods), and is
// therefore never taken in PreEnqueue, Less and the queueing hints.
type book struct {
	gpus *gpufit.State

	mu    sync.Mutex
	plans map[gang.Key]*plan
	// pauses are gangs of which a plan was undone: they are not planned again at once.
	pauses map[gang.Key]pause
	// avoid are nodes that refused a member which was planned there, and until when they are left out for it.
	avoid map[types.UID]map[string]time.Time
	// orphans are members of undone plans that had passed Permit and were not yet among the waiting pods.
	orphans map[types.UID]fwk.Handle
}

func newBook(s *gpufit.State) book {
	return book{
		gpus: s, plans: map[gang.Key]*plan{}, pauses: map[gang.Key]pause{},
		avoid: map[types.UID]map[string]time.Time{}, orphans: map[types.UID]fwk.Handle{},
	}
}

// pause keeps a gang whose plans are undone again and again from planning in every cycle.
type pause struct {
	until time.Time
	times int
}

// pauseStep is the first pause; the next ones are twice as long each, up to pauseMax.
const (
	pauseStep = 500 * time.Millisecond
	pauseMax  = 10 * time.Second
)

// plan is the places of members of a gang. The state machine is drawn in the package's documentation.
type plan struct {
	key    gang.Key
	spec   gang.Spec
	handle fwk.Handle
	places map[types.UID]*place
	// released says that the members may be bound. Before, any failure undoes the plan; after, a member that fails is tried
	// again.
	released bool
	// partial says that a member of the plan was given up after the release.
	partial bool
	// deadline is when the last member must have come.
	deadline time.Time
	// here is how many members have passed Reserve and are at Permit or beyond, counted until the release.
	here int
	// again are the places of members whose last bind failed: the framework took their nomination away with it, so that others
	// could take their CPU.
	again map[types.UID]*place
	// rest are the members that came meanwhile and have no place, to be tried when the plan is released or undone.
	rest map[types.UID]*v1.Pod
	// quorum is how many members a native gang waits for.
	quorum int
	// size and where are for people.
	size  int
	where string
	// complete is when the youngest member was made.
	complete time.Time
}

// place is where a member goes.
type place struct {
	pod        *v1.Pod
	node       string
	assignment gpu.Assignment
	// here: the member has passed Reserve and is at Permit or beyond.
	here bool
	// tried: the member of a native gang has passed its filters in the framework's simulation.
	tried bool
	// bound: the API server has it so. surplus: the gang runs already, and can do without the member.
	bound, surplus bool
	// failures counts the binds that failed.
	failures int
	// deadline is when the member of a released plan must be at Permit; zero before the release.
	deadline time.Time
}

var errUndone = errors.New("the plan of the gang was undone")

// placeOf is the pod's place.
func (b *book) placeOf(k gang.Key, uid types.UID) (node string, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if p := b.plans[k]; p != nil && p.places[uid] != nil {
		return p.places[uid].node, true
	}
	return "", false
}

// waitFor has a pod without a place tried again when the plan that its gang has is released or undone. busy is false when there
// is none to wait for; size is how many members it is for.
func (b *book) waitFor(k gang.Key, pod *v1.Pod) (size int, busy bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.plans[k]
	if p == nil || p.released {
		return 0, false
	}
	p.rest[pod.UID] = pod
	return p.size, true
}

// has reports whether the gang has a plan.
func (b *book) has(k gang.Key) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.plans[k] != nil
}

// placed are the places that the gang's released plan has, by UID.
func (b *book) placed(k gang.Key) map[types.UID]string {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := map[types.UID]string{}
	if p := b.plans[k]; p != nil {
		for uid, pl := range p.places {
			out[uid] = pl.node
		}
	}
	return out
}

// paused is how long the gang must not be planned yet.
func (b *book) paused(k gang.Key, now time.Time) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.pauses[k].until.Sub(now)
}

// open reserves everything that is planned, or nothing. The places are added to those that a released plan of the gang has.
// current is the pod whose cycle it is: it needs no nomination.
func (b *book) open(p *plan, current types.UID) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	old := b.plans[p.key]
	if old != nil && (!old.released || !p.released) {
		return fmt.Errorf("%s is still being started", p.key)
	}
	var held []string
	for uid, pl := range p.places {
		if pl.assignment.Empty() {
			continue
		}
		pod := cluster.NewPod(string(uid), pl.pod.Namespace+"/"+pl.pod.Name, pl.assignment)
		if err := b.gpus.Cache().Plan(pl.node, pod); err != nil {
			b.gpus.Cache().Cancel(held...)
			return err
		}
		held = append(held, string(uid))
	}
	for uid, pl := range p.places {
		// A native gang's members are assumed before the next cycle begins.
		if uid != current && p.key.Source != gang.SourceNative {
			nominate(p.handle, pl)
		}
	}
	if p.released {
		for _, pl := range p.places {
			pl.deadline = p.deadline
		}
	}
	if old != nil {
		maps.Copy(old.places, p.places)
		old.size += p.size
		return nil
	}
	b.plans[p.key] = p
	return nil
}

// nominate keeps the place in the scheduler's memory, so that other plugins respect it for pods of no higher priority.
func nominate(h fwk.Handle, pl *place) {
	info, err := framework.NewPodInfo(pl.pod)
	if err != nil {
		return // the API server validates what could be wrong with it, and its GPUs are held all the same
	}
	h.AddNominatedPod(logger(), info, &fwk.NominatingInfo{NominatingMode: fwk.ModeOverride, NominatedNodeName: pl.node})
}

// tidy is called before each decision: plans whose members do not come are undone, places of released plans whose members do not
// come are given up, and members whose bind failed have their nomination back. freed says that places were given up, of which no
// event tells.
func (b *book) tidy(now time.Time) (freed bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for uid, h := range b.orphans {
		if w := h.GetWaitingPod(uid); w != nil {
			w.Preempt(Name, errUndone.Error())
		}
	}
	clear(b.orphans)
	for _, p := range b.plans {
		if !p.released && now.After(p.deadline) {
			b.undo(p, now, errors.New("not all members came in time"))
			continue
		}
		for uid, pl := range p.places {
			if pl.late(now) {
				logger().V(1).Info("Gave up the place of a member that did not come", "gang", p.key, "pod", klog.KObj(pl.pod))
				b.giveUp(p, uid)
				freed = true
			}
		}
		for _, pl := range p.again {
			nominate(p.handle, pl)
		}
	}
	return freed
}

// late reports whether nothing is heard of the member of a released plan: another plugin holds it back in PreEnqueue, or nobody
// schedules it. One that is at Permit or beyond is bound or comes back.
func (pl *place) late(now time.Time) bool {
	return !pl.deadline.IsZero() && !pl.here && !pl.bound && now.After(pl.deadline)
}

// expire drops the nodes that need not be left out any more.
func (b *book) expire(now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for uid, nodes := range b.avoid {
		maps.DeleteFunc(nodes, func(_ string, until time.Time) bool { return !now.Before(until) })
		if len(nodes) == 0 {
			delete(b.avoid, uid)
		}
	}
}

// arrive records that the pod is at Permit on the node. The last one to come releases the plan: released are then the members
// that wait. wait is false when the pod need not wait, and rest are members without a place, to be tried now.
func (b *book) arrive(k gang.Key, uid types.UID, node string, now time.Time) (wait bool, rest []*v1.Pod, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.plans[k]
	if p == nil || p.places[uid] == nil || p.places[uid].node != node {
		return false, nil, errUndone
	}
	me := p.places[uid]
	if !me.here {
		me.here = true
		p.here++
	}
	delete(p.again, uid)
	if p.released {
		return false, nil, nil
	}
	if !p.gathered() {
		return true, nil, nil
	}
	p.released = true
	for _, pl := range p.places {
		pl.deadline = p.deadline // those of a native gang that have not come
	}
	delete(b.pauses, k)
	metrics.GangReleased(now.Sub(p.complete))
	for other := range p.places {
		if other != uid {
			if w := p.handle.GetWaitingPod(other); w != nil {
				w.Allow(Name)
			}
		}
	}
	return false, values(p.rest), nil
}

// leave records that the pod lost what it had reserved. Before the release that ends the plan. After it the pod keeps its
// place for as many more attempts as there may be, if it comes within the patience.
func (b *book) leave(k gang.Key, uid types.UID, retries int, now time.Time, patience time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.plans[k]
	if p == nil || p.places[uid] == nil {
		return
	}
	pl := p.places[uid]
	if !p.released {
		b.undo(p, now, fmt.Errorf("%s/%s could not be reserved", pl.pod.Namespace, pl.pod.Name))
		return
	}
	pl.failures++
	pl.here, pl.deadline = false, now.Add(patience)
	if pl.failures > retries {
		b.giveUp(p, uid)
		return
	}
	if p.again == nil {
		p.again = map[types.UID]*place{}
	}
	p.again[uid] = pl
}

// refused records that other plugins refuse the pod on the node that is planned for it, and reports whether one was.
func (b *book) refused(k gang.Key, uid types.UID, why string, now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.plans[k]
	if p == nil || p.places[uid] == nil {
		return false
	}
	if b.avoid[uid] == nil {
		b.avoid[uid] = map[string]time.Time{}
	}
	b.avoid[uid][p.places[uid].node] = now.Add(avoidFor)
	if p.released {
		b.giveUp(p, uid)
	} else {
		b.undo(p, now, fmt.Errorf("node %s refuses %s: %s", p.places[uid].node, p.places[uid].pod.Name, why))
	}
	return true
}

// avoidFor is how long a node is left out for a member that it refused although the plan found that it would not. The plan asks
// about the shape of a member; what is true of this member alone shows here.
const avoidFor = time.Minute

// avoided are the nodes that are left out for the pod.
func (b *book) avoided(uid types.UID, now time.Time) (nodes []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for node, until := range b.avoid[uid] {
		if now.Before(until) {
			nodes = append(nodes, node)
		}
	}
	slices.Sort(nodes)
	return nodes
}

// size is how many members the gang's plan is for.
func (b *book) size(k gang.Key) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	if p := b.plans[k]; p != nil {
		return p.size
	}
	return 0
}

// bound records that the pod is.
func (b *book) bound(k gang.Key, uid types.UID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if p := b.plans[k]; p != nil && p.places[uid] != nil {
		p.places[uid].bound = true
		delete(p.again, uid)
	}
}

// giveUp ends the place of a member of a released plan.
func (b *book) giveUp(p *plan, uid types.UID) {
	pl := p.places[uid]
	p.drop(uid)
	b.gpus.Cache().Cancel(string(uid))
	p.handle.DeleteNominatedPodIfExists(pl.pod)
	if !p.partial && !pl.surplus {
		p.partial = true
		metrics.GangPartial()
	}
	b.close(p)
}

// drop forgets the place of a member of a released plan.
func (p *plan) drop(uid types.UID) {
	delete(p.places, uid)
	delete(p.again, uid)
}

// close ends a released plan without places.
func (b *book) close(p *plan) {
	if p.released && len(p.places) == 0 {
		delete(b.plans, p.key)
		if !p.partial {
			tell(p.handle, p.spec, v1.EventTypeNormal, "Scheduled", "bound %d members %s", p.size, p.where)
		}
	}
}

// undo gives everything back that an unreleased plan reserved. The members that wait are tried again after their backoff: they
// are not unschedulable. The lock is held.
func (b *book) undo(p *plan, now time.Time, cause error) {
	delete(b.plans, p.key)
	last := b.pauses[p.key]
	d := min(pauseStep<<min(last.times, 10), pauseMax)
	b.pauses[p.key] = pause{until: now.Add(d), times: last.times + 1}
	metrics.GangAttempt(metrics.GangWasUndone)
	logger().V(1).Info("Undid the plan of a gang", "gang", p.key, "members", len(p.places), "cause", cause)
	held := make([]string, 0, len(p.places))
	for uid := range p.places {
		held = append(held, string(uid))
	}
	b.gpus.Cache().Cancel(held...)
	for uid, pl := range p.places {
		p.handle.DeleteNominatedPodIfExists(pl.pod)
		if w := p.handle.GetWaitingPod(uid); w != nil {
			w.Preempt(Name, fmt.Sprintf("%v: %v", errUndone, cause))
		} else if pl.here {
			b.orphans[uid] = p.handle
		}
	}
	rest := map[string]*v1.Pod{}
	for _, pod := range p.rest {
		rest[pod.Namespace+"/"+pod.Name] = pod
	}
	p.handle.Activate(logger(), rest)
}

// review is what a change of a gang means for its plan.
type review struct {
	// spec is the gang now, and err why it cannot be planned now.
	spec gang.Spec
	err  error
	// members are those that run or are to run.
	members map[types.UID]*v1.Pod
	now     time.Time
}

// changed applies a change of the gang to its plan.
func (b *book) changed(k gang.Key, r review) {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.plans[k]
	if p == nil {
		return
	}
	if !p.released {
		if cause := p.obsolete(r); cause != nil {
			b.undo(p, r.now, cause)
		}
		return
	}
	for uid, pl := range p.places {
		switch now := r.members[uid]; {
		case now == nil && pl.here && !pl.bound:
			// Its Binding may be on the way. Whether it succeeds or not, the place is looked at again.
		case now == nil: // gone: no place is needed
			delete(b.avoid, uid)
			b.gpus.Cache().Cancel(string(uid))
			p.handle.DeleteNominatedPodIfExists(pl.pod)
			p.drop(uid)
		case now.Spec.NodeName != "":
			p.drop(uid)
			delete(b.avoid, uid)
		case r.err != nil && !pl.here:
			// It is held back in PreEnqueue and will not be tried again, and nobody else would give its place up.
			b.giveUp(p, uid)
		}
	}
	b.close(p)
}

// obsolete is why the plan, which is not released, is not for the gang as it is now; nil when it is.
func (p *plan) obsolete(r review) error {
	if r.err != nil {
		return r.err
	}
	if r.spec.UID != p.spec.UID || r.spec.Min != p.spec.Min || r.spec.Topology != p.spec.Topology {
		return errors.New("the PodGroup has changed")
	}
	for uid, pl := range p.places {
		now := r.members[uid]
		if now == nil {
			return fmt.Errorf("%s/%s is gone", pl.pod.Namespace, pl.pod.Name)
		}
		if now.Spec.NodeName != "" {
			// Also where it is the node that was planned: it has no cycle any more, for which the others would wait.
			return fmt.Errorf("%s/%s was bound to node %s by somebody else", now.Namespace, now.Name, now.Spec.NodeName)
		}
	}
	return nil
}

// forget drops what is left of a gang without members.
func (b *book) known(known map[gang.Key]bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for k := range b.plans {
		known[k] = true
	}
}

func (b *book) forget(k gang.Key) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.pauses, k)
}
