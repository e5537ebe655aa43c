package gang

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	corev1helpers "k8s.io/component-helpers/scheduling/corev1"
	fwk "k8s.io/kube-scheduler/framework"

	"weft.sh/weft/pkg/fit"
	"weft.sh/weft/pkg/gang"
	"weft.sh/weft/pkg/plugins/gpufit"
	"weft.sh/weft/pkg/podgroup"
	"weft.sh/weft/pkg/podspec"
)

// widen adds the nodes that could take a shape if pods left them, once, and reports whether it did: for what is possible besides
// what is free.
func (q *question) widen(ctx context.Context) bool {
	if q.widened {
		return false
	}
	q.widened = true
	index := make(map[string]int, len(q.Nodes))
	for i := range q.Nodes {
		index[q.Nodes[i].Name] = i
	}
	found := make([]*gang.Node, len(q.all))
	q.pl.handle.Parallelizer().Until(ctx, len(q.all), func(i int) {
		info := q.all[i]
		at, known := index[info.Node().Name]
		n := &gang.Node{}
		if known {
			n = &q.Nodes[at]
		} else {
			n = q.node(info)
			n.Limit = make([]int, len(q.shapes))
		}
		any := false
		for s := range q.shapes {
			if n.Limit[s] != 0 || known && q.hasRoom(n, s) {
				continue // asked already
			}
			if q.couldHaveRoom(n, info, s) && q.takes(ctx, info, s) {
				n.Limit[s], any = gang.NoLimit, true
			}
		}
		if any && !known {
			found[i] = n
		}
	}, "Gang")
	for i, n := range found {
		if n != nil {
			q.Nodes, q.infos = append(q.Nodes, *n), append(q.infos, q.all[i])
		}
	}
	return true
}

// couldHaveRoom reports whether the node could have room for one member of the shape if others left.
func (q *question) couldHaveRoom(n *gang.Node, info fwk.NodeInfo, shape int) bool {
	for r, ask := range q.Shapes[shape].Ask {
		if ask > capacity(info, v1.ResourceName(q.Resources[r])) {
			return false
		}
	}
	r := fit.Check(n.GPUs, q.Shapes[shape].Request)
	return r == fit.Fits || r.Resolvable()
}

// capacity is how much of a resource a node has.
func capacity(info fwk.NodeInfo, name v1.ResourceName) int64 {
	all := info.GetAllocatable()
	switch name {
	case v1.ResourceCPU:
		return all.GetMilliCPU()
	case v1.ResourceMemory:
		return all.GetMemory()
	case v1.ResourceEphemeralStorage:
		return all.GetEphemeralStorage()
	case v1.ResourcePods:
		return int64(all.GetAllowedPodNumber())
	default:
		return all.GetScalarResources()[name]
	}
}

// after is the question as it will be when the pods have left. What limits the shapes is shared with the question, but for what was
// tightened for plans without anybody leaving.
func (q *question) after(ctx context.Context, pods []*v1.Pod) (*question, *fwk.Status) {
	if len(pods) == 0 && q.untightened == nil {
		return q, nil
	}
	later := &question{
		pl: q.pl, in: q.in, Problem: q.Problem, pods: q.pods, priority: q.priority, shapes: q.shapes, infos: slices.Clone(q.infos),
		refused: maps.Clone(q.refused), widened: true, markers: q.markers, all: q.all, everywhere: q.everywhere, gone: maps.Clone(q.gone),
	}
	if later.gone == nil {
		later.gone = make(map[types.UID]bool, len(pods))
	}
	later.Nodes = slices.Clone(q.Nodes)
	for i, before := range q.untightened {
		limit := slices.Clone(later.Nodes[i].Limit)
		for s, n := range before {
			if n != 0 { // else it is 0, or what it is if pods leave
				limit[s] = n
			}
		}
		later.Nodes[i].Limit = limit
	}
	for _, s := range q.states {
		later.states = append(later.states, s.Clone())
	}
	index := make(map[string]int, len(q.Nodes))
	for i := range q.Nodes {
		index[q.Nodes[i].Name] = i
	}
	changed := map[int]bool{}
	for _, p := range pods {
		later.gone[p.UID] = true
		i, ok := index[p.Spec.NodeName]
		if !ok {
			continue
		}
		n := &later.Nodes[i]
		if !changed[i] {
			changed[i] = true
			n.Free = slices.Clone(n.Free)
			later.infos[i] = later.infos[i].Snapshot()
		}
		if n.GPUs != nil {
			n.GPUs = n.GPUs.Without(string(p.UID))
		}
		asks := gpufit.Asks(p)
		for r, name := range q.Resources {
			n.Free[r] += asks[v1.ResourceName(name)]
		}
		n.MilliCPU += asks[v1.ResourceCPU]
		if status := later.remove(ctx, p, later.infos[i]); !status.IsSuccess() {
			return nil, status
		}
	}
	return later, nil
}

// stuckAfter is how long after the end of its grace period a pod that is being deleted is no longer expected to leave: its node
// does not answer, or somebody's finalizer keeps it.
const stuckAfter = 30 * time.Second

// leaving are the pods that will be gone soon whatever is decided now.
func (q *question) leaving() (pods []*v1.Pod) {
	chosen, now := q.pl.gangs.waiting.leaving(), q.pl.now()
	for p := range q.occupants {
		ends := p.DeletionTimestamp
		if ends != nil && now.Before(ends.Add(stuckAfter)) || ends == nil && chosen[p.UID] {
			pods = append(pods, p)
		}
	}
	return pods
}

// occupants yields the pods on the nodes of the question, or everywhere, but for those that are gone and those of the gang itself; those of a node by UID, for a node lists them as they came
// and went, and who leaves among equals must not depend on that.
func (q *question) occupants(yield func(*v1.Pod) bool) {
	nodes := q.infos
	if q.everywhere {
		nodes = q.all
	}
	for _, info := range nodes {
		pods := slices.Clone(info.GetPods())
		slices.SortFunc(pods, func(a, b fwk.PodInfo) int { return cmp.Compare(a.GetPod().UID, b.GetPod().UID) })
		for _, i := range pods {
			p := i.GetPod()
			if k, ok := podgroup.KeyOf(p); q.gone[p.UID] || ok && k == q.in.spec.Key {
				continue
			}
			if !yield(p) {
				return
			}
		}
	}
}

// units are what may leave for the gang, with the pods of each. Pods that are leaving already are in none; nor are those that are
// not bound yet.
func (q *question) units(budgets []*policyv1.PodDisruptionBudget, of rights) (units []gang.Unit, pods [][]*v1.Pod) {
	add := func(k gang.Key, surplus bool, members ...*v1.Pod) {
		u := gang.Unit{Gang: k, Surplus: surplus, Priority: corev1helpers.PodPriority(members[0])}
		for _, p := range members {
			u.Priority = max(u.Priority, corev1helpers.PodPriority(p))
			o := q.occupant(p, budgets)
			if of != nil {
				groups, milliGPU, owed, ranked := of(p)
				if !owed && !ranked {
					return
				}
				if o.Groups, o.MilliGPU = groups, milliGPU; owed {
					u.Owed = true
				}
			}
			u.Pods = append(u.Pods, o)
			u.LostMilliGPUSeconds += lostWork(p, q.pl.now())
		}
		units, pods = append(units, u), append(pods, members)
	}
	seen := map[gang.Key]bool{}
	for p := range q.occupants {
		if !of.mayLeave(p, q.priority) || p.DeletionTimestamp != nil || !q.pl.bound(p) {
			continue
		}
		k, ok := podgroup.KeyOf(p)
		if !ok {
			add(gang.Key{}, false, p)
			continue
		}
		if seen[k] || q.pl.gangs.book.has(k) {
			continue // of a gang that is being started, some members are not seen bound yet
		}
		seen[k] = true
		needed, surplus := q.pl.members(k)
		for _, m := range surplus {
			add(k, true, m)
		}
		if len(needed) > 0 {
			add(k, false, needed...)
		}
	}
	return units, pods
}

// rights are what queues say about a pod that may leave for certain others; see [Queues]. nil where priority alone decides.
type rights func(*v1.Pod) (groups []int, milliGPU int64, owed, ranked bool)

// reclaim is what the pods may take from others by the right of their queue.
func (pl *Plugin) reclaim(pods, leaving []*v1.Pod) (caps gang.Caps, of rights) {
	if pl.gangs.options.Queues == nil {
		return gang.Caps{}, nil
	}
	return pl.gangs.options.Queues.Reclaim(pods, leaving)
}

// owedOnly is without what priority decides; of is not nil.
func (of rights) owedOnly() rights {
	return func(p *v1.Pod) (groups []int, milliGPU int64, owed, ranked bool) {
		groups, milliGPU, owed, _ = of(p)
		return groups, milliGPU, owed, false
	}
}

// mayLeave reports whether the pod may leave for pods of the priority.
func (of rights) mayLeave(p *v1.Pod, priority int32) bool {
	lower := corev1helpers.PodPriority(p) < priority
	if of == nil {
		return lower
	}
	_, _, owed, ranked := of(p)
	return owed || ranked && lower
}

// bound reports whether the API server shows the pod bound: one that is assumed only is about to be, or will be tried again.
func (pl *Plugin) bound(p *v1.Pod) bool {
	now, err := pl.handle.SharedInformerFactory().Core().V1().Pods().Lister().Pods(p.Namespace).Get(p.Name)
	return err == nil && now.UID == p.UID && now.Spec.NodeName != ""
}

// members are the pods of a gang that run: those without which it cannot, and the others, the last in rank order.
func (pl *Plugin) members(k gang.Key) (needed, surplus []*v1.Pod) {
	for _, p := range pl.gangs.tracker.Members(k) {
		if p.Spec.NodeName != "" {
			needed = append(needed, p)
		}
	}
	spec, err := pl.gangs.tracker.Spec(k)
	if err != nil || spec.Lost == gang.LostRestart {
		return needed, nil // nobody knows whether it can do without one, or it starts anew when it loses one
	}
	if least := max(0, spec.Min-pl.gangs.succeeded(k)); len(needed) > least {
		needed, surplus = needed[:least], needed[least:]
	}
	return needed, surplus
}

// occupant is the pod, with what it gives back.
func (q *question) occupant(p *v1.Pod, budgets []*policyv1.PodDisruptionBudget) gang.Occupant {
	asks := gpufit.Asks(p)
	o := gang.Occupant{
		UID: string(p.UID), Name: p.Namespace + "/" + p.Name, Node: p.Spec.NodeName, MilliCPU: asks[v1.ResourceCPU],
		Frees: make([]int64, len(q.Resources)),
	}
	for i, name := range q.Resources {
		o.Frees[i] = asks[v1.ResourceName(name)]
	}
	for i, b := range budgets {
		if protects(b, p) {
			o.Budgets = append(o.Budgets, i)
		}
	}
	return o
}

// protects reports whether the eviction of the pod counts against the budget.
func protects(b *policyv1.PodDisruptionBudget, p *v1.Pod) bool {
	if b.Namespace != p.Namespace {
		return false
	}
	if _, counted := b.Status.DisruptedPods[p.Name]; counted {
		return false
	}
	s, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
	return err == nil && s.Matches(labels.Set(p.Labels))
}

// lostWork is what the pod would lose.
func lostWork(p *v1.Pod, now time.Time) int64 {
	r, err := podspec.Request(p)
	if err != nil || p.Status.StartTime == nil {
		return 0
	}
	saved, _, err := podspec.CheckpointedAt(p)
	if err != nil {
		saved = time.Time{}
	}
	return gang.LostWork(r.MilliGPU(), p.Status.StartTime.Time, saved, now)
}

// budgets are the disruption budgets, and how many evictions each allows.
func (pl *Plugin) budgets() (budgets []*policyv1.PodDisruptionBudget, allowed []int) {
	list, err := pl.handle.SharedInformerFactory().Policy().V1().PodDisruptionBudgets().Lister().List(labels.Everything())
	if err != nil { // a store in memory does not fail
		return nil, nil
	}
	slices.SortFunc(list, func(a, b *policyv1.PodDisruptionBudget) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	for _, b := range list {
		allowed = append(allowed, int(b.Status.DisruptionsAllowed))
	}
	return list, allowed
}

// overdueMin is how much longer than it said any pod may take and still be expected to end at any moment.
const overdueMin = 10 * time.Minute

// running are the pods on the nodes with when they will have ended, as far as they say.
func (q *question) running() (running []gang.Running) {
	now := q.pl.now()
	for p := range q.occupants {
		r := gang.Running{Occupant: q.occupant(p, nil)}
		switch d, ok, err := podspec.Runtime(p); {
		case p.DeletionTimestamp != nil:
			if now.Before(p.DeletionTimestamp.Add(stuckAfter)) {
				r.End = p.DeletionTimestamp.Time
			}
		case ok && err == nil && p.Status.StartTime != nil:
			// Who runs twice as long as it said may never end.
			if end := p.Status.StartTime.Add(d); now.Before(end.Add(max(d, overdueMin))) {
				r.End = end
			}
		case ok && err == nil:
			r.End = now.Add(d)
		}
		running = append(running, r)
	}
	return running
}

// podsOf are the pods of the units.
func podsOf(pods [][]*v1.Pod, units []int) (out []*v1.Pod) {
	seen := map[types.UID]bool{}
	for _, u := range units {
		for _, p := range pods[u] {
			if !seen[p.UID] {
				seen[p.UID] = true
				out = append(out, p)
			}
		}
	}
	return out
}
