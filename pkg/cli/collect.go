package cli

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"

	"weft.sh/weft/pkg/cluster"
	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/inventory"
	"weft.sh/weft/pkg/mig"
	"weft.sh/weft/pkg/podgroup"
)

// DefaultSchedulerName is what pods name to be placed by Weft, unless it is installed under another name.
const DefaultSchedulerName = "weft"

// Selection says which nodes a report is about. The zero Selection is all.
type Selection struct {
	// Names are the names of nodes; empty for all.
	Names []string
	// Labels select nodes; nil for all.
	Labels labels.Selector
	// Products are models of GPUs: nodes that have one of them; empty for all.
	Products []string
	// SchedulerName is what pods name to be placed by Weft; empty for DefaultSchedulerName.
	SchedulerName string
	// Levels are the scheduler's topology levels; nil for [DefaultTopologyLevels].
	Levels []string
}

// Collect reads the cluster and reports on all of it.
func Collect(ctx context.Context, client kubernetes.Interface) (Report, error) {
	o, err := List(ctx, client, nil)
	if err != nil {
		return Report{}, err
	}
	return NewReport(o, Selection{}), nil
}

// NewReport is the GPUs of the selected nodes and who is on them. A name in the selection that no node has is ignored.
func NewReport(o Objects, s Selection) Report {
	v := newView(o)
	mix, pods := v.mix(cmp.Or(s.SchedulerName, DefaultSchedulerName))
	if s.Levels == nil {
		s.Levels = DefaultTopologyLevels()
	}
	r := Report{APIVersion: APIVersion, Kind: "Report", Nodes: []Node{}, Levels: listed(s.Levels)}
	groups := podGroups(o.Pods)
	r.Totals.MixPods = pods
	unplaced := unplacedReasons(o.Pods)
	var freeMicro, fragmentedMicro int64
	for _, n := range v.nodes {
		if len(s.Names) > 0 && !slices.Contains(s.Names, n.Name) || s.Labels != nil && !s.Labels.Matches(labels.Set(n.Labels)) {
			continue
		}
		c := v.snapshot.Node(n.Name)
		if len(s.Products) > 0 && !hasProduct(c, s.Products) {
			continue
		}
		if c == nil { // neither GPUs, nor problems, nor pods that hold any
			r.Totals.NodesWithoutGPU++
			continue
		}
		node := newNode(n, c, unplaced)
		node.FreeMilliCPU = v.freeMilliCPU(n)
		node.Domains = podgroup.Domains(n.Labels, n.Name, s.Levels)
		for _, g := range node.GPUs {
			for i := range g.Holders {
				h := &g.Holders[i]
				h.PodGroup = groups[h.Namespace+"/"+h.Pod]
			}
		}
		free, fragmented := fragments(c, node.FreeMilliCPU, mix)
		node.FreeMilliGPU, node.FragmentedMilliGPU = free/1000, fragmented/1000
		freeMicro += free
		fragmentedMicro += fragmented
		r.Totals.add(node)
		r.Totals.Pods += len(c.Pods)
		r.Nodes = append(r.Nodes, node)
	}
	r.Gangs = v.gangs(groupsOf(o), r, s)
	// Summed before they are rounded: a thousand nodes of 0.9 milli-GPU each are not nothing.
	r.Totals.FreeMilliGPU, r.Totals.FragmentedMilliGPU = freeMicro/1000, fragmentedMicro/1000
	if r.Totals.CapacityMilliGPU > 0 {
		r.Totals.AssignedPerMille = r.Totals.AssignedMilliGPU * 1000 / r.Totals.CapacityMilliGPU
	}
	if freeMicro > 0 {
		r.Totals.FragmentedPerMille = fragmentedMicro * 1000 / freeMicro
	}
	return r
}

// add adds what a node has to the totals, except what is not a sum of whole numbers.
func (t *Totals) add(n Node) {
	t.Nodes++
	t.GPUs += len(n.GPUs)
	t.IdleGPUs += n.IdleGPUs
	t.IdleSharedGPUs += n.IdleSharedGPUs
	t.WithheldGPUs += n.WithheldGPUs
	t.WithheldSharedGPUs += n.WithheldSharedGPUs
	t.WithheldInstances += len(n.WithheldProfiles)
	t.CapacityMilliGPU += int64(len(n.GPUs)) * gpu.WholeMilliGPU
	t.AssignedMilliGPU += n.AssignedMilliGPU
	t.Conflicts += len(n.Conflicts)
	t.Problems += len(n.Problems)
	for _, g := range n.GPUs {
		if !g.Healthy {
			t.UnhealthyGPUs++
		}
		switch g.State {
		case StateWhole:
			t.WholeGPUs++
		case StateShared:
			t.SharedGPUs++
		case StateMIG:
			t.MIGGPUs++
		}
	}
}

func hasProduct(n *cluster.Node, products []string) bool {
	return n != nil && slices.ContainsFunc(n.GPUs, func(g cluster.GPU) bool { return slices.Contains(products, g.Product) })
}

// unplacedReasons says for every bound pod without a readable assignment, by UID, what is wrong.
func unplacedReasons(pods []*v1.Pod) map[string]string {
	out := map[string]string{}
	for _, p := range pods {
		if p.Spec.NodeName == "" {
			continue
		}
		if _, err := inventory.Holding(p); err != nil {
			out[string(p.UID)] = err.Error()
		}
	}
	return out
}

// newNode is the part of a node that follows from its GPUs and pods.
func newNode(n *v1.Node, c *cluster.Node, unplaced map[string]string) Node {
	out := Node{
		Name: n.Name, Source: c.Inventory.Source.String(), Ready: ready(n), Cordoned: n.Spec.Unschedulable,
		GPUs: make([]GPU, len(c.GPUs)), IdleGPUs: c.IdleGPUs, IdleSharedGPUs: c.IdleShared,
		WithheldGPUs: c.Withheld.GPUs, WithheldSharedGPUs: c.Withheld.Shared,
		WithheldProfiles: listed(c.Withheld.Profiles), Unplaced: []UnplacedPod{},
		Problems: listed(c.Inventory.Problems), Conflicts: listed(c.Conflicts()),
	}
	pods := slices.SortedFunc(slices.Values(c.Pods), func(a, b cluster.Pod) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.UID, b.UID))
	})
	for i := range c.GPUs {
		out.GPUs[i] = newGPU(c, i, pods)
		out.AssignedMilliGPU += min(out.GPUs[i].AssignedMilliGPU, gpu.WholeMilliGPU)
	}
	for _, p := range pods {
		if !p.Unplaced.Empty() {
			namespace, name, _ := strings.Cut(p.Name, "/")
			out.Unplaced = append(out.Unplaced, UnplacedPod{Namespace: namespace, Pod: name, Why: unplaced[p.UID]})
		}
		var vanished []string
		for _, u := range p.Uses() {
			if !slices.ContainsFunc(c.GPUs, func(g cluster.GPU) bool { return g.ID == u.GPU }) {
				vanished = append(vanished, string(u.GPU))
			}
		}
		if len(vanished) > 0 {
			out.Problems = append(out.Problems, fmt.Sprintf("not reported, and held by %s: %s", p.Name, strings.Join(vanished, ", ")))
		}
	}
	return out
}

func newGPU(c *cluster.Node, i int, pods []cluster.Pod) GPU {
	g := &c.GPUs[i]
	out := GPU{
		ID: string(g.ID), Index: g.Index, Product: g.Product, MemoryMiB: g.MemoryMiB, Healthy: !g.Unhealthy,
		WholeOnly: g.WholeOnly, SharedOnly: g.SharedOnly, Isolation: isolation(g.Device),
		State: StateIdle, AssignedMilliGPU: c.AssignedMilliGPU(i), AssignedMemoryMiB: c.AssignedMemoryMiB(i),
		FreeMilliGPU: g.FreeMilliGPU, FreeMemoryMiB: g.FreeMemoryMiB, Holders: []Holder{}, Hardware: newHardware(g.Device.Hardware),
	}
	if g.Unhealthy {
		out.UnhealthyReason = g.UnhealthyReason
	}
	for _, p := range pods {
		namespace, name, _ := strings.Cut(p.Name, "/")
		for _, container := range p.Assignment.Containers {
			for _, grant := range container.Grants {
				if grant.GPU == g.ID {
					out.Holders = append(out.Holders, newHolder(namespace, name, container, grant, g))
				}
			}
		}
	}
	switch {
	case g.MIG:
		out.State, out.MemorySlices = StateMIG, g.Slices
		if !g.Unhealthy {
			out.FreeMemorySlices = mig.FreeSlices(g.Partition)
		}
	case slices.ContainsFunc(out.Holders, func(h Holder) bool { return h.Kind == gpu.Whole.String() }):
		out.State = StateWhole
	case !g.Idle:
		out.State = StateShared
	}
	return out
}

// isolation is what keeps containers on the GPU apart. Nothing is promised of a GPU whose node does not say.
func isolation(d gpu.Device) string {
	switch {
	case d.MIG:
		return IsolationHardware
	case d.WholeOnly:
		return ""
	}
	return cmp.Or(string(d.Isolation), IsolationUnknown)
}

func newHardware(h *gpu.Hardware) Hardware {
	out := Hardware{NUMANode: -1, NVLinkPeers: []Peer{}}
	if h == nil {
		return out
	}
	out = Hardware{
		PCIBusID: h.PCIBusID, NUMANode: h.NUMANode, Architecture: h.Architecture, ComputeCapability: h.ComputeCapability,
		DriverVersion: h.DriverVersion, CUDAVersion: h.CUDAVersion, NVLinkSwitchLinks: h.Links.Switch, NVLinkPeers: out.NVLinkPeers,
		CliqueID: h.Clique,
	}
	for _, p := range h.Links.Peers {
		out.NVLinkPeers = append(out.NVLinkPeers, Peer(p))
	}
	return out
}

// newHolder says what the grant means on the GPU, which may be nil when it is not known.
func newHolder(namespace, pod string, c gpu.ContainerGrants, grant gpu.Grant, g *cluster.GPU) Holder {
	h := Holder{
		Namespace: namespace, Pod: pod, Container: c.Container, Init: c.Init, Kind: grant.Kind().String(),
		MilliGPU: grant.MilliGPU, MemoryMiB: grant.MemoryMiB,
	}
	switch grant.Kind() {
	case gpu.Whole:
		h.MilliGPU = gpu.WholeMilliGPU
		if g != nil {
			h.MemoryMiB = g.MemoryMiB
		}
	case gpu.MIG:
		h.Profile, h.Start, h.Size = grant.Instance.Profile, grant.Instance.Start, grant.Instance.Size
		if g != nil && g.Slices > 0 {
			h.MilliGPU = gpu.WholeMilliGPU * int64(h.Size) / int64(g.Slices)
		}
	}
	return h
}

func ready(n *v1.Node) bool {
	return slices.ContainsFunc(n.Status.Conditions, func(c v1.NodeCondition) bool {
		return c.Type == v1.NodeReady && c.Status == v1.ConditionTrue
	})
}

// listed copies a list; nothing becomes an empty one, for in JSON a list is never null.
func listed(s []string) []string { return append([]string{}, s...) }
