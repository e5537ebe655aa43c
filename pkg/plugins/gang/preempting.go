package gang

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	apipod "k8s.io/kubernetes/pkg/api/v1/pod"
	"k8s.io/kubernetes/pkg/scheduler/util"

	"weft.sh/weft/pkg/gang"
	"weft.sh/weft/pkg/metrics"
	"weft.sh/weft/pkg/plugins/gpufit"
	"weft.sh/weft/pkg/podgroup"
)

const (
	// evictionMargin is how much longer than their grace period victims may take, and evictionTimeout how long the API server may.
	evictionMargin  = 30 * time.Second
	evictionTimeout = 30 * time.Second
	// busyRetry is when a gang is tried again that might preempt one that is just being started.
	busyRetry = 2 * time.Second
	// evictionBackoff is how long a gang waits whose victims could not be evicted.
	evictionBackoff = 10 * time.Second
)

// wait does what can be done for a gang that has no room: it makes room, or keeps what the gang will start on. It is called once
// for each refusal, at the end of the cycle of the member that led to it.
func (pl *Plugin) wait(ctx context.Context, q *question) {
	k := q.in.spec.Key
	if q.placed() >= q.Min {
		pl.gangs.release(k) // it runs: those above the minimum take what there is
		return
	}
	before := pl.gangs.waiting.of(k)
	if before != nil && before.kind == forVictims && pl.stillThere(before) {
		return
	}
	room, err := q.makeRoom(ctx)
	switch {
	case err != nil:
		logger().Error(err, "Looking for pods that could make room", "gang", k)
		pl.gangs.waiting.tryAt(k, pl.now().Add(evictionBackoff))
	case room != nil:
		pl.preempt(q, room)
	case q.refusedWhole:
		// There is room, and time alone changes nothing: what is kept would be idle for ever.
		pl.gangs.release(k)
	default:
		pl.reserve(q, before)
		if q.mayPreempt() && pl.gangs.book.busy() {
			pl.gangs.waiting.tryBy(k, pl.now().Add(busyRetry)) // a plan that is being carried out cannot be preempted yet
		}
	}
}

// busy reports whether any plan is being carried out.
func (b *book) busy() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.plans) > 0
}

// stillThere reports whether any of the victims is, as far as the informer knows: the last one to go brings the gang back.
func (pl *Plugin) stillThere(h *hold) bool {
	pods := pl.handle.SharedInformerFactory().Core().V1().Pods().Lister()
	for _, v := range h.victims {
		if now, err := pods.Pods(v.Namespace).Get(v.Name); err == nil && now.UID == v.UID {
			return true
		}
	}
	return false
}

// room is a plan with the pods that have to leave for it.
type room struct {
	of     *question
	result *gang.Result
	// victims are to be evicted, leaving leave already.
	victims, leaving []*v1.Pod
	// reclaimed says that some of the victims leave because their queue borrowed what is guaranteed to another.
	reclaimed bool
}

// makeRoom plans the gang on what would be free without pods of lower priority; nil when there is no such plan. Other plugins are
// asked about the whole of it, as they would find things then.
func (q *question) makeRoom(ctx context.Context) (*room, error) {
	leaving := q.leaving()
	later, status := q.after(ctx, leaving)
	if !status.IsSuccess() {
		return nil, status.AsError()
	}
	var units []gang.Unit
	var pods [][]*v1.Pod
	budgets, allowed := q.pl.budgets()
	caps, of := q.pl.reclaim(q.starting(), leaving)
	if q.mayPreempt() {
		if q.never() {
			of = of.owedOnly()
		}
		units, pods = later.units(budgets, of)
	}
	if len(units) == 0 && len(leaving) == 0 {
		return nil, nil
	}
	caps.Straddle = true // a gang that has some of what its queue is guaranteed, and some that is borrowed, leaves whole or not at all
	limits, considered := later.limits(), map[int]bool{}
	for range maxReplans {
		res, chosen, r := gang.Preempt(&later.Problem, q.priority, units, allowed, caps)
		if !r.OK() {
			break
		}
		owed := slices.ContainsFunc(chosen, func(u int) bool { return units[u].Owed })
		found := &room{of: later, result: res, victims: podsOf(pods, chosen), leaving: leaving, reclaimed: owed}
		then, status := later.after(ctx, found.victims)
		if !status.IsSuccess() {
			return nil, status.AsError()
		}
		at, there, status := then.verify(ctx, res)
		if status.IsSuccess() {
			return q.promised(found), nil
		}
		if !status.IsRejected() {
			return nil, status.AsError()
		}
		then.tighten(ctx, res, at, there) // the limits are shared
		for _, u := range chosen {
			considered[u] = true
		}
	}
	if len(considered) == 0 {
		return nil, nil
	}
	return later.makeRoomOneByOne(ctx, limits, units, pods, considered, leaving, caps)
}

// promised is the room, of which the queues are told: the callers evict the victims.
func (q *question) promised(r *room) *room {
	if queues := q.pl.gangs.options.Queues; queues != nil && (len(r.victims) > 0 || q.everywhere) {
		queues.Promise(q.starting(), r.victims, r.expires(q.pl.now()))
	}
	return r
}

// makeRoomOneByOne is makeRoom for members that are in each other's way: they are placed one by one on what would be free without all
// the units that plans would have had leave, and then of those as many stay as can, the most important first. The surplus of a gang
// does not stay without what it is surplus of: it would hold its GPUs for nothing.
func (q *question) makeRoomOneByOne(
	ctx context.Context, limits [][]int, units []gang.Unit, pods [][]*v1.Pod, considered map[int]bool, leaving []*v1.Pod, caps gang.Caps,
) (*room, error) {
	leave := slices.Sorted(maps.Keys(considered))
	then, status := q.after(ctx, podsOf(pods, leave))
	if !status.IsSuccess() {
		return nil, status.AsError()
	}
	res, _, err := then.oneByOne(ctx, limits)
	if res == nil {
		return nil, err
	}
	order, rest := slices.Clone(leave), map[gang.Key]int{}
	for _, u := range leave {
		if k := units[u].Gang; k != (gang.Key{}) && !units[u].Surplus {
			rest[k] = u
		}
	}
	slices.SortStableFunc(order, func(a, b int) int {
		return cmp.Or(cmp.Compare(units[b].Priority, units[a].Priority), cmp.Compare(units[b].LostMilliGPUSeconds, units[a].LostMilliGPUSeconds))
	})
	tried := map[int]bool{}
	for _, u := range slices.Concat(order, order) { // once more for surplus that came before the rest of its gang, which stays
		if r, ok := rest[units[u].Gang]; tried[u] || ok && units[u].Surplus && slices.Contains(leave, r) {
			continue
		}
		tried[u] = true
		fewer := slices.DeleteFunc(slices.Clone(leave), func(other int) bool { return other == u })
		if !caps.Enough(units, fewer) {
			continue
		}
		then, status := q.after(ctx, podsOf(pods, fewer))
		if !status.IsSuccess() {
			return nil, status.AsError()
		}
		same, err := then.samePlaces(ctx, limits, res)
		if err != nil {
			return nil, err
		}
		if same != nil {
			leave, res = fewer, same
		}
	}
	if !caps.Allow(units, leave) || !caps.Enough(units, leave) {
		return nil, nil // of several plans' victims together more is taken
	}
	owed := slices.ContainsFunc(leave, func(u int) bool { return units[u].Owed })
	return q.promised(&room{of: q, result: res, victims: podsOf(pods, leave), leaving: leaving, reclaimed: owed}), nil
}

// mayPreempt reports whether anybody may leave for the members: by priority if none forbids it, else those that borrowed what is
// guaranteed to them, which is no matter of priority.
func (q *question) mayPreempt() bool {
	if !q.never() {
		return true
	}
	_, of := q.pl.reclaim(q.starting(), nil)
	return of != nil
}

// starting are the members without which the gang cannot start, with those that run.
func (q *question) starting() (pods []*v1.Pod) {
	need := q.Min - q.placed()
	for i, m := range q.Members {
		if m.Node == "" {
			if need <= 0 {
				continue
			}
			need--
		}
		pods = append(pods, q.pods[i])
	}
	return pods
}

// never reports whether a member says that nobody is to leave because of its priority.
func (q *question) never() bool {
	for _, p := range q.pods {
		if policy := p.Spec.PreemptionPolicy; policy != nil && *policy == v1.PreemptNever {
			return true
		}
	}
	return false
}

// preempt keeps the places of the plan for the gang, and then evicts the victims.
func (pl *Plugin) preempt(q *question, r *room) {
	k := q.in.spec.Key
	by := preemptor{k.String(), r.right(), reference(q.in.spec)}
	if isAlone(k) {
		by.name = "pod " + q.pods[0].Namespace + "/" + q.pods[0].Name
	}
	h := &hold{
		kind: forVictims, spec: q.in.spec, victims: append(r.awaited(), r.victims...), profile: q.pods[0].Spec.SchedulerName,
		Hold: gpufit.NewHold(gang.NewReservation(&q.Problem, r.result, q.priority, time.Time{}, r.expires(pl.now())), q.Resources),
	}
	pl.gangs.waiting.tryAt(k, time.Time{})
	// Before the first one leaves: nobody else is to take what it leaves.
	pl.gangs.waiting.put(h)
	if len(r.victims) == 0 {
		tell(pl.handle, q.in.spec, v1.EventTypeNormal, "Reserved", "waits for %d pods that are being deleted", len(h.victims))
		return
	}
	metrics.GangPreempted(len(r.victims))
	tell(pl.handle, q.in.spec, v1.EventTypeNormal, "Preempting", "evicts %s for places on %d nodes", people(r.victims), len(h.Shares))
	go func() {
		evicted, err := pl.evict(by, r.victims)
		if err == nil {
			return
		}
		tell(pl.handle, q.in.spec, v1.EventTypeWarning, "PreemptionFailed", "%v", err)
		// What some leave stays kept until it expires, so that they have not left for nothing.
		if evicted == 0 && pl.gangs.waiting.drop(k, h) {
			if queues := pl.gangs.options.Queues; queues != nil {
				queues.Promise(q.starting(), r.victims, pl.now()) // no more
			}
			pl.gangs.waiting.tryAt(k, pl.now().Add(evictionBackoff))
			pl.gangs.wake(k, h.Priority, true)
		}
	}()
}

// expires is when what is kept until the pods have left is kept no more.
func (r *room) expires(now time.Time) time.Time {
	expires := now
	for _, v := range r.victims {
		grace := int64(v1.DefaultTerminationGracePeriodSeconds)
		if s := v.Spec.TerminationGracePeriodSeconds; s != nil {
			grace = *s
		}
		expires = latest(expires, now.Add(time.Duration(grace)*time.Second))
	}
	for _, v := range r.leaving {
		if v.DeletionTimestamp != nil {
			expires = latest(expires, v.DeletionTimestamp.Time)
		}
	}
	return expires.Add(evictionMargin)
}

// preemptor is who takes the place of others, and by which right.
type preemptor struct {
	name, right string
	object      runtime.Object
}

// right is why the victims leave, in words.
func (r *room) right() string {
	if r.reclaimed {
		return "to which GPUs are guaranteed that others have borrowed"
	}
	return "of higher priority"
}

// awaited are the pods that leave already and have to be gone for the plan: those on its nodes, and for a limit of queues nobody knows which.
func (r *room) awaited() (pods []*v1.Pod) {
	if r.of.everywhere {
		return slices.Clone(r.leaving)
	}
	used := map[string]bool{}
	for _, pl := range r.result.Placements {
		used[r.of.Nodes[pl.Node].Name] = true
	}
	for _, p := range r.leaving {
		if used[p.Spec.NodeName] {
			pods = append(pods, p)
		}
	}
	return pods
}

// people is who the pods are, in words.
func people(pods []*v1.Pod) string {
	gangs := map[gang.Key]bool{}
	for _, p := range pods {
		if k, ok := podgroup.KeyOf(p); ok {
			gangs[k] = true
		}
	}
	if len(gangs) == 0 {
		return fmt.Sprintf("%d pods", len(pods))
	}
	return fmt.Sprintf("%d pods, of %d gangs among others,", len(pods), len(gangs))
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// evict deletes the victims, several at a time, and returns how many it could.
func (pl *Plugin) evict(by preemptor, victims []*v1.Pod) (evicted int, failed error) {
	ctx, cancel := context.WithTimeout(context.Background(), evictionTimeout)
	defer cancel()
	var mu sync.Mutex
	pl.handle.Parallelizer().Until(ctx, len(victims), func(i int) {
		err := pl.evictOne(ctx, by, victims[i])
		mu.Lock()
		defer mu.Unlock()
		if err != nil {
			failed = err
		} else {
			evicted++
		}
	}, Name)
	if failed == nil {
		failed = ctx.Err()
	}
	if failed != nil {
		logger().Error(failed, "Evicting pods", "preemptor", by.name)
	}
	return evicted, failed
}

// evictOne deletes a pod, after its status says why. A pod of the same name that came in its place is left alone.
func (pl *Plugin) evictOne(ctx context.Context, by preemptor, victim *v1.Pod) error {
	status := victim.Status.DeepCopy()
	if apipod.UpdatePodCondition(status, &v1.PodCondition{
		Type: v1.DisruptionTarget, Status: v1.ConditionTrue, Reason: v1.PodReasonPreemptionByScheduler,
		ObservedGeneration: apipod.CalculatePodConditionObservedGeneration(&victim.Status, victim.Generation, v1.DisruptionTarget),
		Message:            fmt.Sprintf("%s: preempting to accommodate %s %s", victim.Spec.SchedulerName, by.name, by.right),
	}) {
		if err := util.PatchPodStatus(ctx, pl.handle.ClientSet(), victim.Name, victim.Namespace, &victim.Status, status); err != nil {
			return ignoreGone(fmt.Errorf("status of %s/%s: %w", victim.Namespace, victim.Name, err))
		}
	}
	only := metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &victim.UID}}
	if err := pl.handle.ClientSet().CoreV1().Pods(victim.Namespace).Delete(ctx, victim.Name, only); err != nil {
		return ignoreGone(fmt.Errorf("deleting %s/%s: %w", victim.Namespace, victim.Name, err))
	}
	if recorder := pl.handle.EventRecorder(); recorder != nil {
		recorder.Eventf(victim, by.object, v1.EventTypeNormal, "Preempted", "Preempting", "Preempted by %s on node %s", by.name, victim.Spec.NodeName)
	}
	return nil
}

// ignoreGone is nil where the pod is gone, or another one has its name.
func ignoreGone(err error) error {
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return err
}
