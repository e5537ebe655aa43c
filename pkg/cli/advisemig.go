package cli

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"

	"weft.sh/weft/pkg/cluster"
	"weft.sh/weft/pkg/fit"
	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/mig"
	"weft.sh/weft/pkg/podspec"
	"weft.sh/weft/pkg/quota"
)

// MIGConfigLabel on a node names the entry of its configuration that NVIDIA's mig-manager gives the node.
const MIGConfigLabel = "nvidia.com/mig.config"

// MIGAdvice is how GPUs in MIG mode could be divided: `weft advise mig -o json`. Made by [NewMIGAdvice].
type MIGAdvice struct {
	// APIVersion is cli.weft.sh/v1, Kind is MIGAdvice.
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	// PendingPods wait for MIG instances: those that quota, a budget or a gate holds back are not among them. Of them PlacedPods find a
	// place as things are, and PlacedPodsAfter if all that is proposed is done.
	PendingPods     int `json:"pendingPods"`
	PlacedPods      int `json:"placedPods"`
	PlacedPodsAfter int `json:"placedPodsAfter"`
	// MixInstances is how many instances the pods that there are ask for: the next requests are expected to be like them, if they are
	// not too few to tell.
	MixInstances int `json:"mixInstances"`
	// Changes are one for each GPU to be divided anew, in the order in which they are best made.
	Changes []MIGChange `json:"changes"`
	// Configs are the entries of mig-parted's configuration that bring the changes about which mig-manager can make, and Nodes who gets
	// which by its label nvidia.com/mig.config.
	Configs []MIGConfig `json:"configs"`
	Nodes   []MIGNode   `json:"nodes"`
	// Skipped are GPUs in MIG mode that nothing is proposed for.
	Skipped []MIGSkipped `json:"skipped"`
}

// MIGChange is one GPU to be divided anew. Instances are PROFILE@START:SIZE in memory slices, by start.
type MIGChange struct {
	Node  string `json:"node"`
	GPU   string `json:"gpu"`
	Index int    `json:"index"`
	// Held stay where they are. Now are all that exist, Then all that should.
	Held    []string `json:"held"`
	Now     []string `json:"now"`
	Then    []string `json:"then"`
	Destroy []string `json:"destroy"`
	Create  []string `json:"create"`
	// Holders are the pods that hold a part of the GPU, as namespace/name. Without any, mig-manager can divide it.
	Holders []string `json:"holders"`
	// Command makes what is to be made, after what is to be destroyed was; on the node, as root.
	Command string `json:"command"`
}

// MIGConfig is an entry of mig-parted's configuration.
type MIGConfig struct {
	Name    string           `json:"name"`
	Entries []MIGConfigEntry `json:"entries"`
}

// MIGConfigEntry says how the GPUs of these indexes are divided.
type MIGConfigEntry struct {
	Devices    []int        `json:"devices"`
	MIGEnabled bool         `json:"migEnabled"`
	MIGDevices []MIGDevices `json:"migDevices"`
}

// MIGDevices is a number of instances of a profile.
type MIGDevices struct {
	Profile string `json:"profile"`
	Count   int    `json:"count"`
}

// MIGNode is a node and the configuration that it should get.
type MIGNode struct {
	Node   string `json:"node"`
	Config string `json:"config"`
	// Label is what its label says now, empty where it has none.
	Label string `json:"label"`
}

// MIGSkipped is a GPU that nothing is proposed for.
type MIGSkipped struct {
	Node  string `json:"node"`
	Index int    `json:"index"`
	Why   string `json:"why"`
}

// minMixInstances is how many instances tell what the next requests are like: with fewer only those who wait count.
const minMixInstances = 20

// migGPU is a GPU that something can be proposed for.
type migGPU struct {
	node  *v1.Node
	index int // in the node's GPUs
	ids   map[string]int
}

// NewMIGAdvice is how the GPUs in MIG mode of the cluster could be divided. Where instances go is [mig.Repartition]'s; how many pods that
// helps is tried out on the nodes as they then would be, with all that keeps pods from nodes. A change that in the end helps
// fewer pods that wait, because it is not these nodes that they may go to, is left out.
func NewMIGAdvice(o Objects, schedulerName string) MIGAdvice {
	v := newView(o)
	a := MIGAdvice{
		APIVersion: APIVersion, Kind: "MIGAdvice", Changes: []MIGChange{}, Configs: []MIGConfig{}, Nodes: []MIGNode{}, Skipped: []MIGSkipped{},
	}
	demand := mig.Demand{Pending: map[string]int{}, Mix: map[string]int64{}}
	waiting := v.waitingForInstances(schedulerName)
	a.PendingPods = len(waiting)
	for _, p := range v.pods {
		if r, err := podspec.Request(p); err == nil {
			eachInstance(r, func(profile string, n int) {
				demand.Mix[profile] += int64(n)
				a.MixInstances += n
			})
		}
	}
	if a.MixInstances < minMixInstances {
		demand.Mix = nil
	}
	var gpus []migGPU
	var geometries []mig.Geometry
	for _, n := range v.nodes {
		c := v.snapshot.Node(n.Name)
		if c == nil {
			continue
		}
		for i := range c.GPUs {
			if !c.GPUs[i].MIG {
				continue
			}
			g, ids, why := geometryOf(n, c, i)
			if why != "" {
				a.Skipped = append(a.Skipped, MIGSkipped{n.Name, c.GPUs[i].Index, why})
				continue
			}
			gpus = append(gpus, migGPU{n, i, ids})
			geometries = append(geometries, g)
		}
	}
	a.PlacedPods = v.place(waiting, v.snapshot.Node, func(w *wanted, node string, at gpu.Assignment) {
		// Who has a place on GPUs that nothing is proposed for needs none. The others keep the one they have by being counted.
		here := func(u gpu.Use) bool {
			return slices.ContainsFunc(gpus, func(g migGPU) bool { return g.node.Name == node && v.snapshot.Node(node).GPUs[g.index].ID == u.GPU })
		}
		if node == "" || slices.ContainsFunc(at.Uses(), here) {
			eachInstance(w.request, func(profile string, n int) { demand.Pending[profile] += n })
		}
	})
	plan := mig.Repartition(geometries, demand)
	for ; ; plan = plan[:len(plan)-1] {
		then := v.after(gpus, plan)
		a.PlacedPodsAfter = v.place(waiting, func(name string) *cluster.Node {
			return cmp.Or(then[name], v.snapshot.Node(name))
		}, nil)
		if len(plan) == 0 || a.PlacedPodsAfter >= a.PlacedPods {
			break
		}
	}
	for _, d := range plan {
		a.Changes = append(a.Changes, v.change(gpus[d.GPU], geometries[d.GPU], d))
	}
	a.configure(v)
	return a
}

// eachInstance calls f for the MIG profiles that the request asks for at one time.
func eachInstance(r gpu.Request, f func(profile string, n int)) {
	for _, c := range r.Containers {
		if c.Init {
			continue
		}
		for _, ask := range c.Asks {
			if ask.Kind == gpu.MIG {
				f(ask.Profile, ask.Count)
			}
		}
	}
}

// waitingForInstances are the pods that wait for MIG instances and for nothing else, by namespace and name.
func (v *view) waitingForInstances(schedulerName string) []*wanted {
	var out []*wanted
	for _, p := range v.pods {
		if p.Spec.NodeName != "" || p.DeletionTimestamp != nil || p.Spec.SchedulerName != schedulerName || len(p.Spec.SchedulingGates) > 0 {
			continue
		}
		if s := said(p); s != nil && s.Status != string(v1.ConditionTrue) && quota.HoldsBack(s.Reason) {
			continue
		}
		r, err := podspec.PendingRequest(p)
		if err != nil {
			continue
		}
		instances := 0
		eachInstance(r, func(_ string, n int) { instances += n })
		if instances > 0 {
			out = append(out, newWanted(p, r))
		}
	}
	slices.SortFunc(out, func(a, b *wanted) int {
		return cmp.Or(cmp.Compare(a.pod.Namespace, b.pod.Namespace), cmp.Compare(a.pod.Name, b.pod.Name))
	})
	return out
}

// place is how many of the pods find a place if they come one after another, in their order, to nodes in this state. Instances are
// judged by the state alone: what the kubelet would count of them follows from it. tell, which may be nil, is called for each pod with
// its place; the node is empty where there is none.
func (v *view) place(pods []*wanted, node func(string) *cluster.Node, tell func(*wanted, string, gpu.Assignment)) (placed int) {
	state := map[string]*cluster.Node{}
	for i, w := range pods {
		name, at := "", gpu.Assignment{}
		for _, n := range v.nodes {
			c := cmp.Or(state[n.Name], node(n.Name))
			if !rejectTainted(n, w).OK() || !rejectAffinity(n, w).OK() || fit.Check(c, w.request) != fit.Fits || !v.hasRest(n, w) {
				continue
			}
			if assignment, err := fit.Assign(c, w.request, fit.CPU{}, fit.BestFit{}); err == nil {
				state[n.Name] = c.With(cluster.NewPod(fmt.Sprintf("pending-%d", i), w.pod.Name, assignment))
				name, at = n.Name, assignment
				placed++
				break
			}
		}
		if tell != nil {
			tell(w, name, at)
		}
	}
	return placed
}

// hasRest reports whether the node has what the pod asks for besides instances.
func (v *view) hasRest(n *v1.Node, w *wanted) bool {
	for name, q := range w.requests {
		if !strings.HasPrefix(string(name), podspec.MIGResource("")) && !v.rejectResource(n, name, q).OK() {
			return false
		}
	}
	return true
}

// geometryOf is GPU i of the node as something can be proposed for it, with its profiles' ids, or why nothing can.
func geometryOf(n *v1.Node, c *cluster.Node, i int) (g mig.Geometry, ids map[string]int, why string) {
	d := &c.GPUs[i]
	table, known := mig.TableByProduct(d.Product)
	switch {
	case d.Unhealthy:
		return g, nil, "it is unhealthy"
	case n.Spec.Unschedulable:
		return g, nil, "the node is cordoned"
	case notReady(n):
		return g, nil, "the node is not ready"
	case len(c.Withheld.Profiles)+c.Withheld.GPUs > 0:
		return g, nil, "pods of the node hold GPUs or instances, and nobody knows which"
	case !known:
		return g, nil, fmt.Sprintf("what a %s can be divided into is not known", d.Product)
	case !d.Idle && len(d.Used) == 0:
		return g, nil, "a pod holds it from before it was in MIG mode"
	}
	if onDemand(d.Instances) {
		return g, nil, "it is partitioned on demand"
	}
	offer, err := mig.NewOffer(table.Instances())
	if err != nil {
		return g, nil, err.Error() // no table is so large
	}
	for _, a := range slices.Concat(d.Instances, d.Used) {
		if !slices.Contains(table.Instances(), a) {
			return g, nil, fmt.Sprintf("its instance %s is none that the table of a %s has", a, d.Product)
		}
	}
	ids = map[string]int{}
	for _, p := range table.Profiles {
		ids[p.Name] = p.ID
	}
	return mig.Geometry{Legal: offer, Exist: d.Instances, Used: d.Used}, ids, ""
}

// notReady reports whether the node says so. A snapshot does not keep what it says, but the taint that comes with it.
func notReady(n *v1.Node) bool {
	return slices.ContainsFunc(n.Status.Conditions, func(c v1.NodeCondition) bool { return c.Type == v1.NodeReady && c.Status != v1.ConditionTrue })
}

// onDemand reports whether the instances are alternatives, and not ones that exist.
func onDemand(list []gpu.Instance) bool {
	for i, a := range list {
		if slices.ContainsFunc(list[:i], a.Overlaps) {
			return true
		}
	}
	return false
}

// after is the nodes that the plan changes, as they then would be.
func (v *view) after(gpus []migGPU, plan []mig.Division) map[string]*cluster.Node {
	out := map[string]*cluster.Node{}
	for _, d := range plan {
		g := gpus[d.GPU]
		c := cmp.Or(out[g.node.Name], v.snapshot.Node(g.node.Name))
		devices := slices.Clone(c.Inventory.Devices)
		devices[g.index].Instances = d.Target
		out[g.node.Name] = c.WithInventory(cluster.NewInventory(c.Inventory.Source, devices, c.Inventory.Problems...))
	}
	return out
}

// change describes what the plan says of a GPU.
func (v *view) change(g migGPU, now mig.Geometry, d mig.Division) MIGChange {
	c := v.snapshot.Node(g.node.Name)
	device := &c.GPUs[g.index]
	out := MIGChange{
		Node: g.node.Name, GPU: string(device.ID), Index: device.Index, Held: placesOf(now.Used), Now: placesOf(now.Exist),
		Then: placesOf(d.Target), Destroy: placesOf(d.Destroy), Create: placesOf(d.Create), Holders: []string{},
	}
	for _, p := range c.Pods {
		if slices.ContainsFunc(p.Uses(), func(u gpu.Use) bool { return u.GPU == device.ID }) {
			out.Holders = append(out.Holders, p.Name)
		}
	}
	slices.Sort(out.Holders)
	if len(d.Create) > 0 {
		var places []string
		for _, i := range d.Create {
			places = append(places, fmt.Sprintf("%d:%d", g.ids[i.Profile], i.Start))
		}
		out.Command = fmt.Sprintf("nvidia-smi mig -i %d -cgi %s -C", device.Index, strings.Join(places, ","))
	}
	return out
}

func placesOf(list []gpu.Instance) []string {
	out := []string{}
	for _, i := range slices.SortedFunc(slices.Values(list), func(a, b gpu.Instance) int {
		return cmp.Or(cmp.Compare(a.Start, b.Start), cmp.Compare(a.Profile, b.Profile))
	}) {
		out = append(out, i.String())
	}
	return out
}

// configure adds what mig-manager needs for the changes that it can make. An entry describes all GPUs of a node but those that are
// partitioned on demand: those that do not change, or are held, as they are, which mig-parted then leaves alone. mig-manager comes back
// to it when the node starts again.
func (a *MIGAdvice) configure(v *view) {
	targets := map[string]map[int][]string{} // by node and index
	for _, c := range a.Changes {
		if len(c.Holders) > 0 {
			continue
		}
		if targets[c.Node] == nil {
			targets[c.Node] = map[int][]string{}
		}
		targets[c.Node][c.Index] = c.Then
	}
	for _, n := range v.nodes {
		if targets[n.Name] == nil {
			continue
		}
		var entries []MIGConfigEntry
		for _, g := range v.snapshot.Node(n.Name).GPUs {
			places, ok := targets[n.Name][g.Index]
			if !ok && onDemand(g.Instances) {
				continue
			}
			if !ok {
				places = placesOf(g.Instances)
			}
			e := MIGConfigEntry{MIGEnabled: g.MIG, MIGDevices: []MIGDevices{}}
			for _, place := range places {
				profile, _, _ := strings.Cut(place, "@")
				at := slices.IndexFunc(e.MIGDevices, func(d MIGDevices) bool { return d.Profile == profile })
				if at < 0 {
					at = len(e.MIGDevices)
					e.MIGDevices = append(e.MIGDevices, MIGDevices{Profile: profile})
				}
				e.MIGDevices[at].Count++
			}
			slices.SortFunc(e.MIGDevices, func(a, b MIGDevices) int { return cmp.Compare(a.Profile, b.Profile) })
			same := slices.IndexFunc(entries, func(o MIGConfigEntry) bool {
				return o.MIGEnabled == e.MIGEnabled && slices.Equal(o.MIGDevices, e.MIGDevices)
			})
			if same < 0 {
				same = len(entries)
				entries = append(entries, e)
			}
			entries[same].Devices = append(entries[same].Devices, g.Index)
		}
		// The name says what is in it: nodes with the same share one, and a changed one is another.
		name := fmt.Sprintf("weft-%x", sha256.Sum256(fmt.Append(nil, entries)))[:len("weft-")+8]
		a.Nodes = append(a.Nodes, MIGNode{n.Name, name, n.Labels[MIGConfigLabel]})
		if !slices.ContainsFunc(a.Configs, func(c MIGConfig) bool { return c.Name == name }) {
			a.Configs = append(a.Configs, MIGConfig{name, entries})
		}
	}
}
