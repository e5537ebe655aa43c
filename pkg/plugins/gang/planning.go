package gang

import (
	"context"
	"fmt"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	fwk "k8s.io/kube-scheduler/framework"
	"k8s.io/kubernetes/pkg/scheduler/framework"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/names"

	"weft.sh/weft/pkg/fit"
	"weft.sh/weft/pkg/gang"
	"weft.sh/weft/pkg/metrics"
	"weft.sh/weft/pkg/plugins/gpufit"
)

// plan places the members of the gang that have no place, and reserves all of it. node is where the pod goes, whose turn it is;
// refused says why there is no plan. An error is neither: something changed meanwhile.
func (pl *Plugin) plan(ctx context.Context, state fwk.CycleState, in inspection, pod *v1.Pod, nodes []fwk.NodeInfo) (node string, refused *refusal, err error) {
	pl.gangs.gpus.Cache().Snapshot(pl.snapshot)
	q, refused, err := pl.ask(ctx, in, nodes)
	if err != nil {
		return "", nil, err
	}
	var res *gang.Result
	if refused == nil {
		res, refused, err = q.answer(ctx)
	}
	if refused != nil {
		refused.leader = pod.UID
		if q != nil {
			state.Write(questionKey, q)
		} else {
			pl.gangs.release(in.spec.Key) // nothing that becomes free helps it
		}
	}
	if err != nil || refused != nil {
		return "", refused, err
	}
	p := q.planOf(res)
	own := p.places[pod.UID]
	if err := pl.gangs.book.open(p, pod.UID); err != nil {
		return "", nil, fmt.Errorf("%s: %w", fit.Rejection{Reason: fit.AssignmentConflict}.Message(), err)
	}
	// What changed since the gang was read has found no plan to end.
	pl.gangs.book.changed(in.spec.Key, pl.gangs.review(in.spec.Key, pl.gangs.tracker.Members(in.spec.Key)))
	pl.gangs.queue.accept(in.spec.Key)
	metrics.GangDomains(domainsOf(q.Levels, res))
	tell(pl.handle, in.spec, v1.EventTypeNormal, "Planned", "places for %d members %s", p.size, p.where)
	pl.gangs.activate(p.others(pod.UID))
	if own == nil {
		return "", nil, errWithoutPlace
	}
	return own.node, nil, nil
}

// answer plans, and asks the other plugins about the plan as a whole where a member's place can depend on another's.
func (q *question) answer(ctx context.Context) (*gang.Result, *refusal, error) {
	before := q.limits()
	var beside string
	for replans := 0; ; replans++ {
		res, r := gang.Plan(&q.Problem)
		if r.OK() {
			at, there, status := q.verify(ctx, res)
			if status.IsSuccess() {
				return res, nil, nil
			}
			if !status.IsRejected() {
				return nil, nil, status.AsError()
			}
			if replans < maxReplans && beside == "" {
				q.tighten(ctx, res, at, there)
				continue
			}
		}
		if q.tightened && beside == "" {
			// What was tightened for one plan need not hold for another.
			var err error
			if res, beside, err = q.oneByOne(ctx, before); err != nil || res != nil {
				return res, nil, err
			}
			q.untightened = before
		}
		switch {
		case r.OK():
			q.refusedWhole = true
			return nil, q.refusal(fwk.Unschedulable, fit.InsufficientGangCapacity, fit.Rejection{
				Reason: fit.InsufficientGangCapacity, Detail: "there is room; " + beside,
			}.Message()), nil
		case !q.widen(ctx): // else the same, with what there would be if pods left
			return nil, q.noRoom(r, beside), nil
		}
	}
}

// noRoom is the planner's rejection, with what other plugins said of nodes and of members beside each other.
func (q *question) noRoom(r fit.Rejection, beside string) *refusal {
	if said := q.saidByOthers(); said != "" {
		r.Detail = strings.TrimPrefix(r.Detail+"; nodes with GPUs are refused: "+said, "; ")
	}
	if beside != "" {
		r.Detail = strings.TrimPrefix(r.Detail+"; "+beside, "; ")
	}
	if left := q.leftOut(); left != "" {
		r.Detail = strings.TrimPrefix(r.Detail+"; "+left, "; ")
	}
	return q.refusal(fwk.Unschedulable, r.Reason, r.Message())
}

// askOthers runs the PreFilter of all plugins but ours for the pod. names is nil where they do not narrow the nodes down.
func (pl *Plugin) askOthers(ctx context.Context, pod *v1.Pod) (fwk.CycleState, sets.Set[string], *fwk.Status) {
	state := framework.NewCycleState()
	gpufit.AskOthers(state)
	result, status, _ := pl.others.RunPreFilterPlugins(ctx, state, pod)
	if !status.IsSuccess() {
		return nil, nil, status
	}
	// What is free is counted exactly in the problem, for all members together.
	state.SetSkipFilterPlugins(state.GetSkipFilterPlugins().Union(sets.New(names.NodeResourcesFit)))
	if result.AllNodes() {
		return state, nil, nil
	}
	return state, result.NodeNames, nil
}

// planOf is the plan to carry out.
func (q *question) planOf(res *gang.Result) *plan {
	p := &plan{
		key: q.in.spec.Key, spec: q.in.spec, handle: q.pl.handle, places: make(map[types.UID]*place, len(res.Placements)),
		rest: map[types.UID]*v1.Pod{}, size: len(res.Placements), where: where(q.Levels, res), deadline: q.pl.now().Add(q.pl.patience(len(res.Placements))),
	}
	for _, at := range res.Placements {
		pod := q.pods[at.Member]
		p.places[pod.UID] = &place{pod: pod, node: q.Nodes[at.Node].Name, assignment: at.Assignment}
		if t := pod.CreationTimestamp.Time; t.After(p.complete) {
			p.complete = t
		}
	}
	// With the minimum in place, those above it need not wait for each other.
	in := 0
	for _, m := range q.Members {
		if m.Node != "" {
			in++
		}
	}
	p.released, p.quorum = in >= q.Min, q.Min-in
	for _, at := range p.places {
		at.surplus = p.released
	}
	return p
}

// others are the members of the plan but the one.
func (p *plan) others(uid types.UID) []*v1.Pod {
	out := make([]*v1.Pod, 0, len(p.places))
	for other, pl := range p.places {
		if other != uid {
			out = append(out, pl.pod)
		}
	}
	return out
}

// where is the part of the topology that a plan uses, for people.
func where(levels []string, res *gang.Result) string {
	if res.Level != "" {
		return fmt.Sprintf("in %s %s", res.Level, res.Domain)
	}
	var parts []string
	for level, n := range domainsOf(levels, res) {
		parts = append(parts, fmt.Sprintf("%d of %s", n, level))
	}
	if len(parts) == 0 {
		return "anywhere"
	}
	return "in domains: " + strings.Join(parts, ", ")
}

// domainsOf is how many domains the plan uses at each level.
func domainsOf(levels []string, res *gang.Result) func(yield func(string, int) bool) {
	return func(yield func(string, int) bool) {
		for i, level := range levels {
			if i < len(res.Domains) && !yield(level, res.Domains[i]) {
				return
			}
		}
	}
}
