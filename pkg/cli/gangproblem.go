package cli

import (
	"cmp"
	"fmt"
	"slices"

	v1 "k8s.io/api/core/v1"

	"weft.sh/weft/pkg/fit"
	"weft.sh/weft/pkg/gang"
	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/podgroup"
	"weft.sh/weft/pkg/podspec"
)

// question is what the planner is asked about a gang, and what that was made of.
type question struct {
	gang.Problem
	// pods are the members, shapes one pod of each shape; both in the order of the problem.
	pods   []*v1.Pod
	shapes []*wanted
}

// ask makes the question whether the members have room beside what the view shows. It is the plugin's, but for what the checks of
// weft why leave out. need is how many of them must have a place. The rejection names a member that asks for what has no meaning.
func (v *view) ask(g *group, members []*v1.Pod, need int, levels []string) (*question, fit.Rejection) {
	q := &question{pods: members, Problem: gang.Problem{Gang: g.Key, Min: max(0, need), Topology: g.spec.Topology, Levels: levels}}
	index := map[string]int{}
	for _, p := range members {
		read := podspec.PendingRequest
		if p.Spec.NodeName != "" {
			read = podspec.Request
		}
		r, err := read(p)
		if err != nil && p.Spec.NodeName == "" {
			return nil, fit.Rejection{Reason: fit.InvalidRequest, Detail: fmt.Sprintf("%s/%s: %v", p.Namespace, p.Name, err)}
		}
		w := newWanted(p, r)
		key := w.signature()
		i, ok := index[key]
		if !ok {
			i = len(q.shapes)
			index[key] = i
			q.shapes = append(q.shapes, w)
		}
		q.Members = append(q.Members, gang.Member{UID: string(p.UID), Name: p.Namespace + "/" + p.Name, Shape: i, Node: p.Spec.NodeName})
	}
	q.addResources()
	for _, n := range v.nodes {
		if pn, of := v.plannerNode(n, q); of {
			q.Nodes = append(q.Nodes, pn)
		}
	}
	return q, fit.Rejection{}
}

// signature is equal for members that every node treats alike.
func (w *wanted) signature() string {
	s := w.pod.Spec
	relevant := v1.PodSpec{NodeSelector: s.NodeSelector, Affinity: s.Affinity, Tolerations: s.Tolerations}
	bytes, err := relevant.Marshal()
	if err != nil {
		return string(w.pod.UID) // a shape of its own
	}
	requests := v1.PodSpec{Overhead: w.requests} // any field that is a list of resources
	asks, err := requests.Marshal()
	if err != nil {
		return string(w.pod.UID)
	}
	return fmt.Sprintf("%s\x00%s\x00%+v", bytes, asks, w.request)
}

// addResources adds what the shapes ask for besides GPUs of a certain kind, with a pod's own slot.
func (q *question) addResources() {
	names := []v1.ResourceName{v1.ResourcePods}
	for _, w := range q.shapes {
		for name := range w.requests {
			if !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	slices.Sort(names)
	for _, name := range names {
		q.Resources = append(q.Resources, string(name))
	}
	for _, w := range q.shapes {
		s := gang.Shape{
			Name: w.pod.Namespace + "/" + w.pod.Name, Request: w.request, MilliCPU: podspec.MilliCPU(w.pod), Ask: make([]int64, len(names)),
		}
		for i, name := range names {
			s.Ask[i] = amount(w.requests, name)
			if name == v1.ResourcePods {
				s.Ask[i] = 1
			}
		}
		q.Shapes = append(q.Shapes, s)
	}
}

// amount is what a list has of a resource, as the scheduler counts it.
func amount(list v1.ResourceList, name v1.ResourceName) int64 {
	n := list[name]
	if name == v1.ResourceCPU {
		return n.MilliValue()
	}
	return n.Value()
}

// plannerNode is the node as the planner sees it, and false where no shape may go there and no member is.
func (v *view) plannerNode(n *v1.Node, q *question) (gang.Node, bool) {
	out := gang.Node{
		Name: n.Name, GPUs: v.snapshot.Node(n.Name), Domains: podgroup.Domains(n.Labels, n.Name, q.Levels), MilliCPU: v.freeMilliCPU(n),
		Free: make([]int64, len(q.Resources)), Limit: make([]int, len(q.shapes)),
	}
	load := v.loads[n.Name]
	for i, name := range q.Resources {
		out.Free[i] = amount(n.Status.Allocatable, v1.ResourceName(name)) - amount(load.requests, v1.ResourceName(name))
		if v1.ResourceName(name) == v1.ResourcePods {
			out.Free[i] -= load.pods
		}
	}
	takes := slices.ContainsFunc(q.Members, func(m gang.Member) bool { return m.Node == n.Name })
	for i, w := range q.shapes {
		if rejectTainted(n, w).OK() && rejectAffinity(n, w).OK() {
			out.Limit[i] = gang.NoLimit
			takes = true
		}
	}
	return out, takes
}

// unplaced is how many members have no place.
func (q *question) unplaced() int {
	n := 0
	for _, m := range q.Members {
		if m.Node == "" {
			n++
		}
	}
	return n
}

// maxDomains is how many domains of a level are looked at one by one.
const maxDomains = 32

// domains are the domains of the level: those with most room first.
func (q *question) domains(level string) []Domain {
	out := []Domain{}
	l := slices.Index(q.Levels, level)
	if l < 0 {
		return out
	}
	at, nodes := map[string]int{}, map[string][]gang.Node{}
	for _, n := range q.Nodes {
		name := n.Domains[l]
		if name == "" {
			continue
		}
		i, ok := at[name]
		if !ok {
			i = len(out)
			at[name] = i
			out = append(out, Domain{Name: name})
		}
		nodes[name] = append(nodes[name], n)
		out[i].Nodes++
		if n.GPUs != nil {
			out[i].GPUs += len(n.GPUs.GPUs)
			out[i].IdleGPUs += n.GPUs.IdleGPUs
		}
		for _, m := range q.Members {
			if m.Node == n.Name {
				out[i].Members++
			}
		}
	}
	slices.SortFunc(out, func(a, b Domain) int {
		return cmp.Or(cmp.Compare(b.Members, a.Members), cmp.Compare(b.IdleGPUs, a.IdleGPUs), cmp.Compare(a.Name, b.Name))
	})
	out = out[:min(len(out), maxDomains)]
	for i := range out {
		out[i].Room = q.room(nodes[out[i].Name])
	}
	slices.SortStableFunc(out, func(a, b Domain) int { return cmp.Or(cmp.Compare(b.Members, a.Members), cmp.Compare(b.Room, a.Room)) })
	return out
}

// room is how many of the members without a place the nodes have places for.
func (q *question) room(nodes []gang.Node) int {
	p := gang.Problem{Gang: q.Gang, Resources: q.Resources, Shapes: q.Shapes, Nodes: nodes}
	for _, m := range q.Members {
		if m.Node == "" {
			p.Members = append(p.Members, m)
		}
	}
	res, r := gang.Plan(&p)
	if !r.OK() {
		return 0
	}
	return len(res.Placements)
}

// used are the domains of the nodes by level; levels for which one of the nodes has no value are left out.
func (q *question) used(nodes []string) []LevelUse {
	domains := map[string][]string{}
	for _, n := range q.Nodes {
		domains[n.Name] = n.Domains
	}
	return levelsUsed(q.Levels, nodes, domains)
}

// levelsUsed are the domains that the nodes are in, by level; domains are those of each node.
func levelsUsed(levels, nodes []string, domains map[string][]string) []LevelUse {
	out := []LevelUse{}
	for l, level := range levels {
		names := []string{}
		for _, n := range nodes {
			if d := domains[n]; len(d) > l && d[l] != "" {
				names = append(names, d[l])
			}
		}
		if len(names) == 0 || len(names) < len(nodes) {
			continue
		}
		slices.Sort(names)
		out = append(out, LevelUse{Level: level, Domains: slices.Compact(names)})
	}
	return out
}

// shape is what the members of a shape ask for, for people and scripts.
func (q *question) shape(i int) Shape {
	w := q.shapes[i]
	memory := w.requests[v1.ResourceMemory]
	s := Shape{
		Pod: w.pod.Name, Asks: containerAsks(w.request), Products: listed(w.request.Products),
		MilliCPU: w.requests.Cpu().MilliValue(), MemoryMiB: (memory.Value() + 1<<20 - 1) >> 20,
	}
	for _, m := range q.Members {
		if m.Shape == i {
			s.Members++
		}
	}
	return s
}

// heldMilliGPU is what is known that the pod holds on its node.
func (v *view) heldMilliGPU(p *v1.Pod) int64 {
	n := v.snapshot.Node(p.Spec.NodeName)
	if n == nil {
		return 0
	}
	there, ok := n.Pod(string(p.UID))
	if !ok {
		return 0
	}
	var sum int64
	for _, u := range there.Uses() {
		sum += u.MilliGPU
		if u.Whole {
			sum += gpu.WholeMilliGPU
		}
		for i := range n.GPUs {
			if g := &n.GPUs[i]; g.ID == u.GPU && g.Slices > 0 {
				for _, instance := range u.Instances {
					sum += gpu.WholeMilliGPU * int64(instance.Size) / int64(g.Slices)
				}
			}
		}
	}
	return sum
}
