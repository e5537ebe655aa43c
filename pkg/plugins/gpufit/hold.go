package gpufit

import (
	"cmp"
	"slices"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/resource"
	corev1helpers "k8s.io/component-helpers/scheduling/corev1"
	fwk "k8s.io/kube-scheduler/framework"

	"weft.sh/weft/pkg/cluster"
	"weft.sh/weft/pkg/fit"
	"weft.sh/weft/pkg/gang"
	"weft.sh/weft/pkg/podgroup"
	"weft.sh/weft/pkg/podspec"
)

// Hold is what plugin Gang keeps for a gang that waits. Nothing in it changes.
type Hold struct {
	gang.Reservation
	// Resources are the names that the shares' Asks go by.
	Resources []string

	// on are the nodes of the shares as pods see them that the hold binds, by name, each with the node that it was made of. Only
	// PreFilter uses it: scheduling cycles do not overlap.
	on map[string]view
}

type view struct{ of, on *cluster.Node }

// NewHold is the hold of a reservation.
func NewHold(r gang.Reservation, resources []string) *Hold {
	return &Hold{Reservation: r, Resources: resources, on: map[string]view{}}
}

// Binds reports whether the pod, if it started now, must leave alone what is kept.
func (h *Hold) Binds(pod *v1.Pod, now time.Time) bool {
	if h.Expired(now) {
		return false
	}
	var end time.Time
	if d, ok, err := podspec.Runtime(pod); ok && err == nil {
		end = now.Add(d)
	}
	k, _ := podgroup.KeyOf(pod)
	if k == (gang.Key{}) && h.keptFor(string(pod.UID)) {
		return false
	}
	return !h.Exempt(k, corev1helpers.PodPriority(pod), end)
}

// keptFor reports whether the pod, which is in no gang, is whom it is kept for.
func (h *Hold) keptFor(uid string) bool {
	return slices.ContainsFunc(h.Shares, func(s gang.Share) bool {
		return slices.ContainsFunc(s.Pods, func(p cluster.Pod) bool { return p.UID == uid })
	})
}

// Kept is what is kept of the node, besides GPUs: for each of the hold's resources. nil for nothing.
func (h *Hold) Kept(node string) []int64 {
	i, ok := slices.BinarySearchFunc(h.Shares, node, func(s gang.Share, node string) int { return cmp.Compare(s.Node, node) })
	if !ok {
		return nil
	}
	return h.Shares[i].Asks
}

// view is On, remembered for as long as the node does not change.
func (h *Hold) view(n *cluster.Node) *cluster.Node {
	v := h.on[n.Name]
	if v.of != n {
		v = view{n, h.On(n)}
		h.on[n.Name] = v
	}
	return v.on
}

// Holds are what is kept now. The slice is not to be changed.
func (s *State) Holds() []*Hold {
	if p := s.holds.Load(); p != nil {
		return *p
	}
	return nil
}

// SetHolds replaces what is kept. The slice is the state's from then on.
func (s *State) SetHolds(holds []*Hold) { s.holds.Store(&holds) }

// HeldBack takes out the pods that were refused a node for what is kept, to be tried again.
func (s *State) HeldBack() []*v1.Pod {
	s.mu.Lock()
	defer s.mu.Unlock()
	pods := make([]*v1.Pod, 0, len(s.heldBack))
	for _, p := range s.heldBack {
		pods = append(pods, p)
	}
	clear(s.heldBack)
	return pods
}

func (s *State) holdBack(pod *v1.Pod) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.heldBack[pod.UID] = pod
}

// respect makes the cycle see the nodes without what is kept for others.
func (pl *Plugin) respect(c *cycle, pod *v1.Pod) {
	for _, h := range pl.shared.Holds() {
		if h.Binds(pod, pl.now()) {
			c.holds = append(c.holds, h)
		}
	}
	if len(c.holds) == 0 {
		return
	}
	c.asks = Asks(pod)
	if c.request.Empty() {
		return
	}
	for _, h := range c.holds {
		for i := range h.Shares {
			if n := c.node(pl.snapshot, h.Shares[i].Node); n != nil {
				c.setNode(h.view(n))
			}
		}
	}
}

// keptFromPod reports whether only what is kept for others keeps the pod from the node, where the node's GPUs were checked with
// that reason.
func (pl *Plugin) keptFromPod(c *cycle, pod *v1.Pod, nodeInfo fwk.NodeInfo, reason fit.Reason) bool {
	name, kept := nodeInfo.Node().Name, false
	for _, h := range c.holds {
		kept = kept || h.Kept(name) != nil
	}
	if !kept {
		return false
	}
	if reason != fit.Fits {
		kept = c.memo.Check(pl.snapshot.Node(name)) == fit.Fits
	} else {
		kept = c.crowded(nodeInfo)
	}
	if kept && c.heldBack.CompareAndSwap(false, true) {
		pl.shared.holdBack(pod)
	}
	return kept
}

// crowded reports whether the pod finds enough of everything on the node, and would not if what is kept of it were gone. GPUs
// are counted one by one elsewhere.
func (c *cycle) crowded(nodeInfo fwk.NodeInfo) bool {
	crowded := false
	for name, ask := range c.asks {
		if isGPU(name) {
			continue
		}
		left := Free(nodeInfo, name)
		if left < ask {
			return false
		}
		for _, h := range c.holds {
			kept := h.Kept(nodeInfo.Node().Name)
			if i := slices.Index(h.Resources, string(name)); i >= 0 && i < len(kept) {
				left -= kept[i]
			}
		}
		crowded = crowded || left < ask
	}
	return crowded
}

func isGPU(name v1.ResourceName) bool {
	return name == podspec.ResourceGPU || name == podspec.ResourceGPUPercent || strings.HasPrefix(string(name), podspec.ResourceMIGPrefix)
}

// Asks is what the pod asks of a node's resources, as plugin NodeResourcesFit counts it, with its slot among pods.
func Asks(pod *v1.Pod) map[v1.ResourceName]int64 {
	asks := map[v1.ResourceName]int64{v1.ResourcePods: 1}
	for name, q := range resource.PodRequests(pod, resource.PodResourcesOptions{}) {
		v := q.Value()
		if name == v1.ResourceCPU {
			v = q.MilliValue()
		}
		if v > 0 {
			asks[name] = v
		}
	}
	return asks
}

// Free is what is left of a resource of a node, as plugin NodeResourcesFit counts it.
func Free(info fwk.NodeInfo, name v1.ResourceName) int64 {
	all, used := info.GetAllocatable(), info.GetRequested()
	switch name {
	case v1.ResourceCPU:
		return all.GetMilliCPU() - used.GetMilliCPU()
	case v1.ResourceMemory:
		return all.GetMemory() - used.GetMemory()
	case v1.ResourceEphemeralStorage:
		return all.GetEphemeralStorage() - used.GetEphemeralStorage()
	case v1.ResourcePods:
		return int64(all.GetAllowedPodNumber() - len(info.GetPods()))
	default:
		return all.GetScalarResources()[name] - used.GetScalarResources()[name]
	}
}
