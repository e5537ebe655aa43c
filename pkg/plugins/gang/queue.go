package gang

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	fwk "k8s.io/kube-scheduler/framework"
	"k8s.io/kubernetes/pkg/scheduler/framework"
	schedv1alpha1 "sigs.k8s.io/scheduler-plugins/apis/scheduling/v1alpha1"

	"weft.sh/weft/pkg/fit"
	"weft.sh/weft/pkg/gang"
	"weft.sh/weft/pkg/metrics"
	"weft.sh/weft/pkg/podgroup"
	"weft.sh/weft/pkg/podspec"
)

// queue is what the callbacks of the scheduling queue need: PreEnqueue, Less and the queueing hints, which run while the
// scheduling queue is locked. So nothing of the scheduler may be called while mu is held.
type queue struct {
	mu sync.RWMutex
	// created is when the PodGroups were made, of those that a pod was ever admitted for.
	created map[gang.Key]time.Time
	// gated are the pods that PreEnqueue holds back.
	gated map[gang.Key]map[types.UID]*v1.Pod
	// refusals are the gangs that have no room.
	refusals map[gang.Key]*refusal
	// owed are members that may pass PreEnqueue once more, to be told why their gang cannot be planned any more.
	owed map[gang.Key]map[types.UID]bool
	// complaints are what is wrong with gangs.
	complaints map[gang.Key]*complaint
}

func newQueue() queue {
	return queue{
		created: map[gang.Key]time.Time{}, gated: map[gang.Key]map[types.UID]*v1.Pod{}, refusals: map[gang.Key]*refusal{},
		owed: map[gang.Key]map[types.UID]bool{}, complaints: map[gang.Key]*complaint{},
	}
}

// inspection is a gang as it is now.
type inspection struct {
	spec gang.Spec
	// members are the pods that run or are to run, in rank order; those that somebody else holds back (scheduling gates) are
	// left out.
	members []*v1.Pod
	// all are the members with those.
	all []*v1.Pod
	// need is how many of the members must have a place: Spec.Min less those that have succeeded.
	need int
}

// inspect reads the gang, and says why it cannot be planned whatever is free.
func (pl *Plugin) inspect(k gang.Key) (in inspection, r fit.Rejection) {
	var err error
	if in.spec, err = pl.gangs.tracker.Spec(k); err != nil {
		if errors.Is(err, podgroup.ErrNotFound) {
			return in, fit.Rejection{Reason: fit.GangNotFound, Detail: k.String()}
		}
		return in, fit.Rejection{Reason: fit.InvalidGang, Detail: err.Error()}
	}
	for _, level := range []string{in.spec.Required, in.spec.Preferred} {
		if level != "" && !contains(pl.args.TopologyLevels, level) {
			return in, fit.Rejection{
				Reason: fit.UnknownTopology,
				Detail: fmt.Sprintf("%s names %q, the levels are %s", k, level, strings.Join(pl.args.TopologyLevels, ", ")),
			}
		}
	}
	in.all = pl.gangs.tracker.Members(k)
	for _, p := range in.all {
		if p.Spec.NodeName != "" || len(p.Spec.SchedulingGates) == 0 {
			in.members = append(in.members, p)
		}
	}
	if err := podgroup.Check(in.spec, in.members); err != nil {
		return in, fit.Rejection{Reason: fit.InvalidGang, Detail: err.Error()}
	}
	if in.need = in.spec.Min; len(in.members) >= in.need {
		return in, fit.Rejection{}
	}
	in.need -= pl.gangs.succeeded(k)
	if len(in.members) < max(in.need, 1) {
		return in, fit.Rejection{
			Reason: fit.GangIncomplete, Detail: fmt.Sprintf("%s has %d of at least %d", k, len(in.members), max(in.need, 1)),
		}
	}
	return in, fit.Rejection{}
}

// succeeded is how many members have, by the controller's word: kube-scheduler's informer does not show it pods that have ended. When
// all have, what comes is another run.
func (g *gangs) succeeded(k gang.Key) int {
	pg, ok := g.tracker.CRD(k)
	if !ok || pg.Status.Phase == schedv1alpha1.PodGroupFinished {
		return 0
	}
	return max(0, int(pg.Status.Succeeded))
}

// judge is whether the gang can be planned at all.
func (pl *Plugin) judge(k gang.Key) fit.Rejection {
	_, r := pl.inspect(k)
	pl.complain(k, r)
	return r
}

func contains(list []string, s string) bool {
	return slices.Contains(list, s)
}

// memberOf is the gang that the pod names. A native PodGroup may turn out to be none; see native.go.
func memberOf(pod *v1.Pod) (gang.Key, bool) { return podgroup.KeyOf(pod) }

// PreEnqueue implements fwk.PreEnqueuePlugin: a member waits outside of the queue, without a condition that an autoscaler
// would act on, until its gang can be planned.
func (pl *Plugin) PreEnqueue(_ context.Context, pod *v1.Pod) *fwk.Status {
	k, ok := podgroup.KeyOf(pod)
	if !ok {
		return nil
	}
	if k.Source == gang.SourceNative {
		return pl.preEnqueueNative(k)
	}
	q := &pl.gangs.queue
	// Ours to see first: the pod's event may reach the queue before it reaches the tracker. And gated before it is judged: a
	// change between the two then finds it among those to judge again.
	pl.gangs.tracker.Refresh(pod)
	q.gate(k, pod)
	in, r := pl.inspect(k)
	pl.complain(k, r)
	if r.OK() {
		q.admit(k, pod, in.spec.Created)
		return nil
	}
	if q.pay(k, pod.UID) {
		return nil
	}
	metrics.Rejected(r.Reason)
	return fwk.NewStatus(fwk.UnschedulableAndUnresolvable, r.Message())
}

// preEnqueueNative holds back pods that would otherwise be scheduled one by one, without their gang. It does not hold back those
// of a gang that was refused, though the framework backs such a group off and has it planned again every 10 s at the latest, event
// or not: a group that PreEnqueue holds back is let go only by what asks PreEnqueue again, so each way in which a gang is brought
// back (hints, activation, time, another member) would have to be told apart there, under the queue's lock, and one that was
// forgotten would leave the gang waiting for ever. A plan takes milliseconds.
func (pl *Plugin) preEnqueueNative(k gang.Key) *fwk.Status {
	if pl.gangs.native {
		return nil
	}
	metrics.Rejected(fit.InvalidGang)
	return fwk.NewStatus(fwk.UnschedulableAndUnresolvable, fit.Rejection{
		Reason: fit.InvalidGang,
		Detail: fmt.Sprintf("spec.schedulingGroup names %s of scheduling.k8s.io, which this scheduler does not handle: "+
			"switch its feature gate GenericWorkload on where the cluster serves these, or use label %s", k, podspec.LabelPodGroup),
	}.Message())
}

func (q *queue) gate(k gang.Key, pod *v1.Pod) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.gated[k] == nil {
		q.gated[k] = map[types.UID]*v1.Pod{}
	}
	q.gated[k][pod.UID] = pod
}

func (q *queue) admit(k gang.Key, pod *v1.Pod, created time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.created[k] = created
	delete(q.gated[k], pod.UID)
	if len(q.gated[k]) == 0 {
		delete(q.gated, k)
	}
}

// ungate takes out the gated pods of the gang if the function, which may read whatever it likes, is true for one.
func (q *queue) ungate(k gang.Key, ready func(*v1.Pod) bool) []*v1.Pod {
	q.mu.RLock()
	pods := values(q.gated[k])
	q.mu.RUnlock()
	if len(pods) == 0 || !ready(pods[0]) {
		return nil
	}
	// They stay in the list until PreEnqueue admits them: it may be asked about them at this moment.
	return pods
}

// heldBack are the gated pods of the gang.
func (q *queue) heldBack(k gang.Key) []types.UID {
	q.mu.RLock()
	defer q.mu.RUnlock()
	return slices.Collect(maps.Keys(q.gated[k]))
}

// prune drops those of the gated pods that are not among the members any more. gated must have been read before the members were:
// one that came between the two is no member as far as these know, and if it were dropped nobody would let it go, ever.
func (q *queue) prune(k gang.Key, gated []types.UID, members map[types.UID]*v1.Pod) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, uid := range gated {
		if members[uid] == nil {
			delete(q.gated[k], uid)
		}
	}
	if len(q.gated[k]) == 0 {
		delete(q.gated, k)
	}
}

// knows reports whether members of the gang are held back, or it was refused.
func (q *queue) knows(k gang.Key) bool {
	q.mu.RLock()
	defer q.mu.RUnlock()
	return len(q.gated[k]) > 0 || q.refusals[k] != nil
}

func (q *queue) known(known map[gang.Key]bool) {
	q.mu.RLock()
	defer q.mu.RUnlock()
	for k := range q.refusals {
		known[k] = true
	}
	for k := range q.gated {
		known[k] = true
	}
}

// forget drops what is left of a gang without members, but for those that are gated: see prune.
func (q *queue) forget(k gang.Key) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.created, k)
	delete(q.refusals, k)
	delete(q.owed, k)
	delete(q.complaints, k)
}

func values(m map[types.UID]*v1.Pod) []*v1.Pod {
	out := make([]*v1.Pod, 0, len(m))
	for _, p := range m {
		out = append(out, p)
	}
	return out
}

// Less implements fwk.QueueSortPlugin: by priority; then the older first, where the age of a gang's member is that of its
// PodGroup, so that the members of a gang stand together and a gang keeps its place however often it is tried.
func (pl *Plugin) Less(a, b fwk.QueuedEntityInfo) bool {
	if pa, pb := a.GetPriority(), b.GetPriority(); pa != pb {
		return pa > pb
	}
	ka, ta := pl.gangs.queue.standing(a)
	kb, tb := pl.gangs.queue.standing(b)
	if c := cmp.Or(ta.Compare(tb), cmp.Compare(ka.Namespace, kb.Namespace), cmp.Compare(ka.Name, kb.Name)); c != 0 {
		return c < 0
	}
	return a.GetTimestamp().Before(b.GetTimestamp())
}

// standing is what an entity is sorted by: its gang, and since when it counts.
func (q *queue) standing(e fwk.QueuedEntityInfo) (gang.Key, time.Time) {
	if g, ok := e.(*framework.QueuedPodGroupInfo); ok && g.PodGroupInfo != nil && g.PodGroup != nil {
		return nativeKey(g), g.PodGroup.CreationTimestamp.Time
	}
	if p, ok := e.(*framework.QueuedPodInfo); ok && p.PodInfo != nil && p.Pod != nil {
		if k, ok := memberOf(p.Pod); ok {
			q.mu.RLock()
			defer q.mu.RUnlock()
			if created, ok := q.created[k]; ok {
				return k, created
			}
		}
	}
	return gang.Key{}, e.GetTimestamp()
}
