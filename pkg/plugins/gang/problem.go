package gang

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	corev1helpers "k8s.io/component-helpers/scheduling/corev1"
	fwk "k8s.io/kube-scheduler/framework"
	"k8s.io/kubernetes/pkg/scheduler/framework"

	"weft.sh/weft/pkg/fit"
	"weft.sh/weft/pkg/gang"
	"weft.sh/weft/pkg/plugins/gpufit"
	"weft.sh/weft/pkg/podgroup"
	"weft.sh/weft/pkg/podspec"
)

// question is the gang's problem on the snapshot of one cycle, and what it was made of.
type question struct {
	pl *Plugin
	in inspection
	gang.Problem
	// pods are the Members, in the same order; priority is that of all.
	pods     []*v1.Pod
	priority int32
	// shapes are the Shapes, in the same order, states the cycles in which the other plugins were asked about each.
	shapes []*shape
	states []fwk.CycleState
	// infos are the Nodes, in the same order.
	infos []fwk.NodeInfo
	// all are the nodes of the cluster, and allowed, by shape, the names of those that the other plugins have not ruled out; nil
	// where they rule none out. kept says that something of a node is kept for another gang.
	all     []fwk.NodeInfo
	allowed []sets.Set[string]
	kept    atomic.Bool
	// holds are what is kept for other gangs and binds this one. widened says that the nodes are not only those with room.
	holds   []*gpufit.Hold
	widened bool
	// everywhere says that pods on any node may leave, for a limit of queues, and gone are those that count as if they had left.
	everywhere bool
	gone       map[types.UID]bool

	// markers are nodes of different domains; see settle.
	markers []fwk.NodeInfo
	// tightened says that the limits are no longer only what each node says by itself; untightened are the limits before that, where
	// tightening has led to no plan.
	tightened   bool
	untightened [][]int
	// refusedWhole says that there is room, and that other plugins refuse every plan.
	refusedWhole bool

	mu sync.Mutex
	// refused counts the nodes that other plugins refuse, by what they say.
	refused map[string]int
}

// ask makes the question. Without an error there may be a refusal: a member that nothing helps, and that the gang needs.
func (pl *Plugin) ask(ctx context.Context, in inspection, nodes []fwk.NodeInfo) (*question, *refusal, error) {
	q := &question{
		pl: pl, in: in, pods: in.members, priority: corev1helpers.PodPriority(in.members[0]), refused: map[string]int{},
		Problem: gang.Problem{
			Gang: in.spec.Key, Min: max(0, in.need), Topology: in.spec.Topology, Levels: pl.args.TopologyLevels,
			Strategy: pl.gangs.gpus.Strategy(pl.handle.ProfileName()),
		},
	}
	if r := q.addMembers(needsLabels(pl.handle)); !r.OK() {
		return nil, q.refusal(fwk.UnschedulableAndUnresolvable, r.Reason, r.Message()), nil
	}
	q.addResources()
	q.all, q.holds = nodes, q.bindingHolds()
	q.findMarkers()
	for _, s := range q.shapes {
		state, names := fwk.CycleState(framework.NewCycleState()), sets.Set[string](nil)
		if s.refused == "" {
			var status *fwk.Status
			state, names, status = pl.askOthers(ctx, s.pod)
			if status.IsRejected() {
				s.refused = fmt.Sprintf("%s: %s", s.pod.Name, status.Message())
				if !q.enough() {
					return nil, q.refusal(status.Code(), fit.InsufficientGangCapacity, s.refused), nil
				}
				state, names = framework.NewCycleState(), nil
			} else if !status.IsSuccess() {
				return nil, nil, status.AsError()
			}
		}
		q.states = append(q.states, state)
		q.allowed = append(q.allowed, names)
	}
	q.refusedLast()
	q.addNodes(ctx, nodes)
	return q, nil, ctx.Err()
}

// enough reports whether the gang can do without the members of the shapes that are refused.
func (q *question) enough() bool {
	placed, able := q.placed(), 0
	for _, m := range q.Members {
		if m.Node == "" && q.shapes[m.Shape].refused == "" {
			able++
		}
	}
	return able >= max(q.Min-placed, 1)
}

// refusedLast puts the members that no node takes behind all others: the minimum is made up of those that can start.
func (q *question) refusedLast() {
	var members []gang.Member
	var pods []*v1.Pod
	for _, last := range []bool{false, true} {
		for i, m := range q.Members {
			if (m.Node == "" && q.shapes[m.Shape].refused != "") == last {
				members, pods = append(members, m), append(pods, q.pods[i])
			}
		}
	}
	q.Members, q.pods = members, pods
}

// leftOut says which members no node takes, in words; "" where there are none.
func (q *question) leftOut() string {
	var words []string
	for _, s := range q.shapes {
		if s.refused != "" {
			words = append(words, s.refused)
		}
	}
	if len(words) == 0 {
		return ""
	}
	return "no node takes " + strings.Join(words[:min(3, len(words))], ", ")
}

// needsLabels reports whether the labels of a pod can decide where it goes though it says nothing about other pods itself.
func needsLabels(h fwk.Handle) bool {
	list, err := h.SnapshotSharedLister().NodeInfos().HavePodsWithRequiredAntiAffinityList()
	return err != nil || len(list) > 0
}

// addMembers adds the members and their shapes. A member whose request is invalid is refused, and the gang with it where it cannot do
// without.
func (q *question) addMembers(labels bool) (invalid fit.Rejection) {
	placed := q.pl.gangs.book.placed(q.in.spec.Key)
	identity := identities(q.pods)
	index := map[string]int{}
	for _, p := range q.pods {
		m := gang.Member{UID: string(p.UID), Name: p.Namespace + "/" + p.Name, Node: q.nodeOf(p, placed)}
		if m.Node == "" {
			avoided := q.pl.gangs.book.avoided(p.UID, q.pl.now())
			key := signature(p, labels || isWide(p), identity)
			if len(avoided) > 0 {
				key += "\x00avoid " + string(p.UID)
			}
			i, ok := index[key]
			if !ok {
				s, err := newShape(p)
				if err != nil {
					s = &shape{pod: p, refused: fmt.Sprintf("%s: %v", m.Name, err)}
					if invalid.OK() {
						invalid = fit.Rejection{Reason: fit.InvalidRequest, Detail: s.refused}
					}
				}
				s.avoid = avoided
				i = len(q.shapes)
				index[key] = i
				q.shapes = append(q.shapes, s)
			}
			m.Shape = i
		}
		q.Members = append(q.Members, m)
	}
	if q.enough() {
		return fit.Rejection{}
	}
	return invalid
}

// nodeOf is where a member is, or will be whatever is planned now; "" for one that has no place.
func (q *question) nodeOf(p *v1.Pod, placed map[types.UID]string) string {
	if p.Spec.NodeName != "" {
		return p.Spec.NodeName
	}
	if node := placed[p.UID]; node != "" {
		return node
	}
	// Assumed, or nobody knows whether it is bound.
	if node, _, planned, ok := q.pl.gangs.gpus.Cache().Holding(string(p.UID)); ok && !planned {
		return node
	}
	return ""
}

// addResources adds what the shapes ask for.
func (q *question) addResources() {
	names := sets.New[v1.ResourceName]()
	for _, s := range q.shapes {
		names.Insert(slices.Collect(maps.Keys(s.asks))...)
	}
	sorted := slices.Sorted(maps.Keys(names))
	for _, n := range sorted {
		q.Resources = append(q.Resources, string(n))
	}
	for _, s := range q.shapes {
		asks := make([]int64, len(sorted))
		for i, n := range sorted {
			asks[i] = s.asks[n]
		}
		q.Shapes = append(q.Shapes, gang.Shape{
			Name: s.pod.Namespace + "/" + s.pod.Name, Request: s.request, MilliCPU: podspec.MilliCPU(s.pod), Ask: asks,
		})
	}
}

// addNodes adds the nodes that have room for a shape, and those where members are. See widen for the others.
func (q *question) addNodes(ctx context.Context, nodes []fwk.NodeInfo) {
	members := sets.New[string]()
	for _, m := range q.Members {
		members.Insert(m.Node)
	}
	found := make([]*gang.Node, len(nodes))
	q.pl.handle.Parallelizer().Until(ctx, len(nodes), func(i int) {
		n := q.node(nodes[i])
		if takes := q.limit(ctx, n, nodes[i]); takes || members.Has(n.Name) {
			found[i] = n
		}
	}, "Gang")
	order := make([]int, 0, len(nodes))
	for i, n := range found {
		if n != nil {
			order = append(order, i)
		}
	}
	slices.SortFunc(order, func(a, b int) int { return cmp.Compare(found[a].Name, found[b].Name) })
	for _, i := range order {
		q.Nodes = append(q.Nodes, *found[i])
		q.infos = append(q.infos, nodes[i])
	}
}

// node is the node as the planner sees it, with nothing said yet about which shapes it takes. Pods that were promised the node
// and go before the gang count as if they were there.
func (q *question) node(info fwk.NodeInfo) *gang.Node {
	o := info.Node()
	n := &gang.Node{
		Name: o.Name, GPUs: q.pl.snapshot.Node(o.Name), Domains: podgroup.Domains(o.Labels, o.Name, q.Levels),
		MilliCPU: info.GetAllocatable().GetMilliCPU() - info.GetRequested().GetMilliCPU(),
		Free:     make([]int64, len(q.Resources)),
	}
	for i, name := range q.Resources {
		n.Free[i] = gpufit.Free(info, v1.ResourceName(name))
	}
	for _, nominated := range q.pl.handle.NominatedPodsForNode(o.Name) {
		p := nominated.GetPod()
		if k, ok := memberOf(p); ok && k == q.in.spec.Key || corev1helpers.PodPriority(p) < q.priority {
			continue
		}
		asks := gpufit.Asks(p)
		for i, name := range q.Resources {
			n.Free[i] -= asks[v1.ResourceName(name)]
		}
		n.MilliCPU -= asks[v1.ResourceCPU]
		if n.GPUs != nil {
			if _, there := n.GPUs.Pod(string(p.UID)); !there {
				n.GPUs = gpufit.WithNominated(n.GPUs, p)
			}
		}
	}
	q.leaveKept(n)
	return n
}

// limit says which shapes the node takes, and whether it takes any. The other plugins are asked only where there is room.
func (q *question) limit(ctx context.Context, n *gang.Node, info fwk.NodeInfo) (any bool) {
	n.Limit = make([]int, len(q.shapes))
	for i := range q.shapes {
		if q.hasRoom(n, i) && q.takes(ctx, info, i) {
			n.Limit[i], any = gang.NoLimit, true
		}
	}
	return any
}

// takes asks the other plugins about a member of the shape on the node.
func (q *question) takes(ctx context.Context, info fwk.NodeInfo, i int) bool {
	name, s := info.Node().Name, q.shapes[i]
	if s.refused != "" || q.allowed[i] != nil && !q.allowed[i].Has(name) || slices.Contains(s.avoid, name) {
		return false
	}
	if status := q.pl.handle.RunFilterPlugins(ctx, q.states[i], s.pod, info); !status.IsSuccess() {
		q.count(status)
		return false
	}
	return true
}

// hasRoom reports whether the node has room for one member of the shape.
func (q *question) hasRoom(n *gang.Node, i int) bool {
	for r, ask := range q.Shapes[i].Ask {
		if ask > 0 && n.Free[r] < ask {
			return false
		}
	}
	return fit.Check(n.GPUs, q.Shapes[i].Request) == fit.Fits
}

func (q *question) count(status *fwk.Status) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, reason := range status.Reasons() {
		q.refused[reason]++
	}
}

// saidByOthers are the most frequent reasons of other plugins, in words; "" when they refused nothing.
func (q *question) saidByOthers() string { return inWords(q.refused) }

// refusal is the gang's, led by the pod whose turn it is, which the caller knows.
func (q *question) refusal(code fwk.Code, reason fit.Reason, message string) *refusal {
	// Not those that there are by now: who came meanwhile was not planned for, and has a plan made in its own cycle.
	r := &refusal{code: code, reason: reason, message: message, members: uids(q.in.all)}
	for _, s := range q.shapes {
		r.requests = append(r.requests, s.request)
		r.wide = r.wide || s.wide
	}
	r.kept, r.priority = q.kept.Load(), q.priority
	return r
}
