package gang

import (
	"context"
	"fmt"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	fwk "k8s.io/kube-scheduler/framework"
	"k8s.io/kubernetes/pkg/scheduler/framework"

	"weft.sh/weft/pkg/gang"
)

// Where a member may be can depend on where the others are, which the planner does not know. A plan is made without, checked as a
// whole, and made again with tighter limits; that finds good plans where few members are in each other's way. What is left is
// done one by one.

// maxReplans bounds how often a plan that other plugins refuse is made again.
const maxReplans = 8

// inPlace is the cluster with some members of the gang in place: the nodes where they are, and the cycles of the shapes.
type inPlace struct {
	infos  map[int]fwk.NodeInfo
	states []fwk.CycleState
}

// empty is the cluster without any member that has no place yet.
func (q *question) empty() inPlace {
	there := inPlace{infos: map[int]fwk.NodeInfo{}, states: make([]fwk.CycleState, len(q.states))}
	for i, s := range q.states {
		there.states[i] = s.Clone()
	}
	return there
}

// touch is the node in there, to be changed.
func (q *question) touch(there inPlace, node int) fwk.NodeInfo {
	if there.infos[node] == nil {
		there.infos[node] = q.infos[node].Snapshot()
	}
	return there.infos[node]
}

// verify asks the other plugins about each placement with all others in place, as the members' cycles will; see withOthers. It returns
// one that they refuse beside those before it, and those. Where no shape is wide, each placement was asked about already.
func (q *question) verify(ctx context.Context, res *gang.Result) (at gang.Placement, there inPlace, status *fwk.Status) {
	if !q.wide() {
		return at, there, nil
	}
	all, on := q.empty(), map[int][]int{}
	for _, p := range res.Placements {
		if status := q.add(ctx, all.states, q.pods[p.Member], q.touch(all, p.Node)); !status.IsSuccess() {
			return p, all, status
		}
		on[p.Node] = append(on[p.Node], p.Member)
	}
	if status := q.settle(ctx, all.states); !status.IsSuccess() {
		return at, all, status
	}
	for _, p := range res.Placements {
		pod, with := q.pods[p.Member], all.infos[p.Node]
		// The node is made anew without the member: taken off again it could take with it what another has too, such as a port.
		without := q.infos[p.Node].Snapshot()
		for _, member := range on[p.Node] {
			if there, err := podOn(q.pods[member], q.Nodes[p.Node].Name); err != nil {
				return p, all, fwk.AsStatus(err)
			} else if member != p.Member {
				without.AddPodInfo(there)
			}
		}
		if status := q.tell(ctx, all.states, pod, without, false); !status.IsSuccess() {
			return p, all, status
		}
		status := q.pl.handle.RunFilterPlugins(ctx, all.states[q.Members[p.Member].Shape], pod, without)
		if status.IsRejected() {
			if at, there, status := q.verifyInOrder(ctx, res); !status.IsSuccess() {
				return at, there, status
			}
		}
		if !status.IsSuccess() {
			all.infos[p.Node] = without
			return p, all, status
		}
		if status := q.tell(ctx, all.states, pod, with, true); !status.IsSuccess() {
			return p, all, status
		}
	}
	return at, all, nil
}

// verifyInOrder asks the other plugins about each placement with those before it in place.
func (q *question) verifyInOrder(ctx context.Context, res *gang.Result) (at gang.Placement, there inPlace, status *fwk.Status) {
	there = q.empty()
	for _, at = range res.Placements {
		if status := q.filter(ctx, there, at.Member, at.Node); !status.IsSuccess() {
			return at, there, status
		}
		if status := q.add(ctx, there.states, q.pods[at.Member], q.touch(there, at.Node)); !status.IsSuccess() {
			return at, there, status
		}
	}
	return at, there, nil
}

func (q *question) wide() bool {
	for _, s := range q.shapes {
		if s.wide {
			return true
		}
	}
	return false
}

// filter asks the other plugins about the member on the node.
func (q *question) filter(ctx context.Context, there inPlace, member, node int) *fwk.Status {
	info := there.infos[node]
	if info == nil {
		info = q.infos[node]
	}
	return q.pl.handle.RunFilterPlugins(ctx, there.states[q.Members[member].Shape], q.pods[member], info)
}

// add puts the pod on the node, for all states.
func (q *question) add(ctx context.Context, states []fwk.CycleState, pod *v1.Pod, info fwk.NodeInfo) *fwk.Status {
	added, err := podOn(pod, info.Node().Name)
	if err != nil {
		return fwk.AsStatus(err)
	}
	info.AddPodInfo(added)
	return q.tell(ctx, states, pod, info, true)
}

// tell tells the states that the pod is on the node now, or no longer.
func (q *question) tell(ctx context.Context, states []fwk.CycleState, pod *v1.Pod, info fwk.NodeInfo, added bool) *fwk.Status {
	there, err := podOn(pod, info.Node().Name)
	if err != nil {
		return fwk.AsStatus(err)
	}
	run := q.pl.handle.RunPreFilterExtensionRemovePod
	if added {
		run = q.pl.handle.RunPreFilterExtensionAddPod
	}
	for i, state := range states {
		if q.shapes[i].refused != "" {
			continue // PreFilter left nothing in it
		}
		if status := run(ctx, state, q.shapes[i].pod, there, info); !status.IsSuccess() {
			return status
		}
	}
	return nil
}

// settle makes the states exact after pods were added. PodTopologySpread knows the domain with the fewest pods for certain only after
// PreFilter: of all domains but the two that had the fewest then, it takes note when their number becomes less. Otherwise it takes the
// fewest for more than they are, and lets on a node what is too much there. So in each domain it becomes one more and one less.
func (q *question) settle(ctx context.Context, states []fwk.CycleState) *fwk.Status {
	for _, marker := range q.markers {
		for _, added := range []bool{true, false} {
			if status := q.tell(ctx, states, q.pods[0], marker, added); !status.IsSuccess() {
				return status
			}
		}
	}
	return nil
}

// findMarkers finds a node of each domain that spread constraints of the shapes tell apart, where there are more than two.
func (q *question) findMarkers() {
	keys := topologyKeys(q.shapes, true)
	if len(keys) == 0 {
		return
	}
	var affinities []nodeaffinity.RequiredNodeAffinity
	for _, s := range q.shapes {
		affinities = append(affinities, nodeaffinity.GetRequiredNodeAffinity(s.pod))
	}
	seen := map[string]bool{}
	for _, info := range q.all {
		n := info.Node()
		var b strings.Builder
		for _, k := range keys {
			fmt.Fprintf(&b, "%s\x00", n.Labels[k])
		}
		for _, a := range affinities {
			match, err := a.Match(n)
			fmt.Fprintf(&b, "%t %t\x00", match, err == nil)
		}
		fmt.Fprint(&b, n.Spec.Taints) // a constraint may count nodes without taints only
		if k := b.String(); !seen[k] {
			seen[k] = true
			q.markers = append(q.markers, info)
		}
	}
	if len(q.markers) < 3 {
		q.markers = nil
	}
}

// podOn is the pod as it will be on the node.
func podOn(pod *v1.Pod, node string) (*framework.PodInfo, error) {
	there := *pod
	there.Spec.NodeName = node
	return framework.NewPodInfo(&there)
}

// remove takes the pod off the node, for all states.
func (q *question) remove(ctx context.Context, pod *v1.Pod, info fwk.NodeInfo) *fwk.Status {
	if err := info.RemovePod(logger(), pod); err != nil {
		return fwk.AsStatus(err)
	}
	return q.tell(ctx, q.states, pod, info, false)
}

// tighten makes the next plan another one: every node that refuses the placement, beside those before it, takes no more members of
// the shape than stood there; members that must be in domains of their own so leave a domain at once. Where nothing limited
// the shape yet, every node is asked how many it takes.
func (q *question) tighten(ctx context.Context, res *gang.Result, at gang.Placement, there inPlace) {
	shape := q.Members[at.Member].Shape
	before := map[int]int{}
	q.tightened = true
	for _, p := range res.Placements {
		if p.Member == at.Member {
			break
		}
		if q.Members[p.Member].Shape == shape {
			before[p.Node]++
		}
	}
	q.pl.handle.Parallelizer().Until(ctx, len(q.Nodes), func(i int) {
		info := there.infos[i]
		if info == nil {
			info = q.infos[i]
		}
		if q.Nodes[i].Limit[shape] > before[i] && q.pl.handle.RunFilterPlugins(ctx, there.states[shape], q.pods[at.Member], info).IsRejected() {
			q.Nodes[i].Limit[shape] = before[i]
		}
		if q.Nodes[i].Limit[shape] == gang.NoLimit {
			q.Nodes[i].Limit[shape] = q.most(ctx, i, shape)
		}
	}, "Gang")
}

// most is how many members of the shape the other plugins let on the node by itself: [gang.NoLimit] when as many as there are.
func (q *question) most(ctx context.Context, node, shape int) int {
	info, states := q.infos[node].Snapshot(), make([]fwk.CycleState, len(q.states))
	for i, s := range q.states {
		states[i] = s.Clone()
	}
	n := 0
	for i, m := range q.Members {
		if m.Shape != shape || m.Node != "" {
			continue
		}
		if status := q.pl.handle.RunFilterPlugins(ctx, states[shape], q.pods[i], info); !status.IsSuccess() {
			return n
		}
		if status := q.add(ctx, states, q.pods[i], info); !status.IsSuccess() {
			return n
		}
		n++
	}
	return gang.NoLimit
}

// limits are those of the nodes, as they are now; nil where nothing tightens them.
func (q *question) limits() [][]int {
	if !q.wide() {
		return nil
	}
	out := make([][]int, len(q.Nodes))
	for i := range q.Nodes {
		out[i] = slices.Clone(q.Nodes[i].Limit)
	}
	return out
}

// withOthers shows the plugins that come after this one all other members of the plan in place, in the cycle of a member whose place
// depends on them. Else it would matter which cycles came before: of members that must be spread evenly every place is right
// only with the others in theirs.
func (pl *Plugin) withOthers(ctx context.Context, state fwk.CycleState, pod *v1.Pod, nodeInfo fwk.NodeInfo) *fwk.Status {
	k, ok := memberOf(pod)
	if _, err := state.Read(besideKey); !ok || err == nil || !needsOthers(pod) {
		return nil
	}
	state.Write(besideKey, &pin{})
	nodes := pl.handle.SnapshotSharedLister().NodeInfos()
	for _, other := range pl.gangs.book.others(k, pod.UID) {
		info := nodeInfo // with those that are nominated for it
		if other.node != nodeInfo.Node().Name {
			var err error
			if info, err = nodes.Get(other.node); err != nil {
				continue // its cycle will say so
			}
		}
		if slices.ContainsFunc(info.GetPods(), func(p fwk.PodInfo) bool { return p.GetPod().UID == other.pod.UID }) {
			continue
		}
		there, err := podOn(other.pod, other.node)
		if err != nil {
			return fwk.AsStatus(err)
		}
		if status := pl.handle.RunPreFilterExtensionAddPod(ctx, state, pod, there, info); !status.IsSuccess() {
			return status
		}
	}
	return nil
}

// besideKey says that the state of a cycle has the others in it.
const besideKey fwk.StateKey = Name + "/beside"

// needsOthers reports whether a place can be right with others in theirs and wrong without them. Who must only be apart from others
// has it easier the fewer there are.
func needsOthers(pod *v1.Pod) bool {
	a := pod.Spec.Affinity
	return a != nil && a.PodAffinity != nil && len(a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution) > 0 ||
		slices.ContainsFunc(pod.Spec.TopologySpreadConstraints, func(c v1.TopologySpreadConstraint) bool {
			return c.WhenUnsatisfiable == v1.DoNotSchedule
		})
}

// others are the places of the gang's plan but the pod's.
func (b *book) others(k gang.Key, but types.UID) (out []*place) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if p := b.plans[k]; p != nil {
		for uid, at := range p.places {
			if uid != but {
				out = append(out, at)
			}
		}
	}
	return out
}
