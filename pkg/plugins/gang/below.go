package gang

import (
	"context"
	"errors"
	"fmt"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	fwk "k8s.io/kube-scheduler/framework"

	"weft.sh/weft/pkg/gang"
)

var (
	errMaking = errors.New("room below the limit of a queue is being made")
	errNoRoom = errors.New("no room below the limit of a queue can be made")
	errOthers = errors.New("its queue has GPUs for other members of the gang first")
)

// roomBelow makes room for the job of a pod that the limits of queues alone hold back: others leave so that what is left below the
// limits, and the nodes, have room for it. Plugin Queue asks for it in the PreFilter of a cycle that goes no further, so that the pod is
// told nothing that an autoscaler acts on. Nobody leaves without a plan for the whole job; its places are kept as for any gang that has
// others leave, and what is below the limits by plugin Queue.
func (g *gangs) roomBelow(ctx context.Context, pod *v1.Pod, nodes []fwk.NodeInfo) error {
	pl := g.plugin(pod.Spec.SchedulerName)
	if pl == nil {
		return fmt.Errorf("%w: plugin %s is not in the profile %q", errNoRoom, Name, pod.Spec.SchedulerName)
	}
	if err := g.wait(ctx); err != nil {
		return err
	}
	in := alone(pod)
	if k, ok := memberOf(pod); ok {
		inspected, r := pl.inspect(k)
		if !r.OK() {
			return fmt.Errorf("%w: %s", errNoRoom, r.Message())
		}
		in = inspected
		in.members = pl.admitted(in.members)
	}
	k := in.spec.Key
	if before := g.waiting.of(k); before != nil && before.kind == forVictims && pl.stillThere(before) {
		return errMaking
	}
	g.gpus.Cache().Snapshot(pl.snapshot)
	q, refused, err := pl.ask(ctx, in, nodes)
	switch {
	case err != nil:
		return err
	case refused != nil:
		return fmt.Errorf("%w: %s", errNoRoom, refused.message)
	case q.placed() >= q.Min:
		return fmt.Errorf("%w: %s has its minimum", errNoRoom, k)
	}
	q.everywhere = true
	q.widen(ctx)
	room, err := q.makeRoom(ctx)
	switch {
	case err != nil:
		return err
	case room == nil:
		return errNoRoom
	case len(room.victims) == 0 && len(room.leaving) == 0:
		return errMaking // others made it meanwhile
	}
	pl.preempt(q, room)
	return errMaking
}

// admitted are the members that queues let start, and those that run.
func (pl *Plugin) admitted(members []*v1.Pod) []*v1.Pod {
	if queues := pl.gangs.options.Queues; queues != nil {
		return queues.Admitted(members)
	}
	return members
}

// aloneName begins the name of a gang that is one pod in no gang; no PodGroup has such a name.
const aloneName = "pod/"

// alone is the pod as a gang of one.
func alone(pod *v1.Pod) inspection {
	return inspection{
		spec: gang.Spec{
			Key: gang.Key{Namespace: pod.Namespace, Name: aloneName + pod.Name}, UID: string(pod.UID), Created: pod.CreationTimestamp.Time, Min: 1,
		},
		members: []*v1.Pod{pod}, all: []*v1.Pod{pod}, need: 1,
	}
}

func isAlone(k gang.Key) bool { return strings.HasPrefix(k.Name, aloneName) }

// reviewAlone ends what is kept for pods in no gang that are bound or gone.
func (g *gangs) reviewAlone() {
	for _, h := range g.waiting.alone() {
		pl := g.plugin(h.profile)
		if pl == nil {
			continue
		}
		pods := pl.handle.SharedInformerFactory().Core().V1().Pods().Lister().Pods(h.Gang.Namespace)
		now, err := pods.Get(strings.TrimPrefix(h.Gang.Name, aloneName))
		if err == nil && now.UID == types.UID(h.spec.UID) && now.Spec.NodeName == "" {
			continue
		}
		g.release(h.Gang)
	}
}

// alone are what is kept for pods in no gang.
func (w *waiting) alone() (out []*hold) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for k, h := range w.holds {
		if isAlone(k) {
			out = append(out, h)
		}
	}
	return out
}
