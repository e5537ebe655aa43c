package cli

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"

	"weft.sh/weft/pkg/cluster"
	"weft.sh/weft/pkg/fit"
	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/podgroup"
	"weft.sh/weft/pkg/podspec"
)

// NewPodAnswer is what can be said of the pod by itself. done says that the nodes do not matter: the pod is on one, or
// will go on none whatever they have. Otherwise [NewAnswer] has the rest.
func NewPodAnswer(pod *v1.Pod, schedulerName string) (a Answer, done bool) {
	w := newWanted(pod, gpu.Request{})
	memory := w.requests[v1.ResourceMemory]
	a = Answer{
		APIVersion: APIVersion, Kind: "Answer", Namespace: pod.Namespace, Pod: pod.Name, SchedulerName: pod.Spec.SchedulerName,
		SchedulingGates: []string{}, Asks: []ContainerAsk{}, Products: []string{}, Holds: []Hold{}, Classes: []Class{},
		NotChecked: []string{}, Node: pod.Spec.NodeName, NominatedNode: pod.Status.NominatedNodeName, Said: said(pod),
		MilliCPU: w.requests.Cpu().MilliValue(), MemoryMiB: (memory.Value() + 1<<20 - 1) >> 20,
	}
	if k, ok := podgroup.KeyOf(pod); ok {
		a.PodGroup = k.Name
	}
	for _, g := range pod.Spec.SchedulingGates {
		a.SchedulingGates = append(a.SchedulingGates, g.Name)
	}
	read := podspec.PendingRequest
	if pod.Spec.NodeName != "" {
		read = podspec.Request // a bound pod carries its assignment
	}
	request, err := read(pod)
	a.Asks, a.Products = containerAsks(request), listed(request.Products)
	ended := pod.Status.Phase == v1.PodSucceeded || pod.Status.Phase == v1.PodFailed
	switch {
	case err != nil && pod.Spec.NodeName == "":
		a.Verdict, a.Message = VerdictInvalid, "will not be placed: "+fit.Rejection{Reason: fit.InvalidRequest, Detail: err.Error()}.Message()
		return a, true
	case ended:
		a.Verdict, a.Message = VerdictEnded, fmt.Sprintf("has ended (%s) and holds nothing any more", pod.Status.Phase)
		a.Holds = holdsOf(pod, request)
		return a, true
	case pod.Spec.NodeName != "":
		a.Verdict, a.Message = VerdictBound, bound(pod, request, err)
		a.Holds = holdsOf(pod, request)
		return a, true
	case pod.DeletionTimestamp != nil:
		a.Verdict, a.Message = VerdictDeleted, "is being deleted and will not be placed"
		return a, true
	case len(a.SchedulingGates) > 0:
		a.Verdict = VerdictGated
		a.Message = fmt.Sprintf("waits for somebody to remove its scheduling gates: %s", strings.Join(a.SchedulingGates, ", "))
	case pod.Spec.SchedulerName != schedulerName:
		a.Verdict = VerdictOtherScheduler
		a.Message = fmt.Sprintf("names schedulerName %s, not %s: weft does not look at it", pod.Spec.SchedulerName, schedulerName)
	}
	return a, false
}

// nodeGone adds that the pod's node does not exist. Kubernetes deletes such pods, after a while.
func (a *Answer) nodeGone() {
	a.Message += "; that node no longer exists, so Kubernetes will delete the pod"
}

// bound is where a pod runs, in a sentence.
func bound(pod *v1.Pod, r gpu.Request, err error) string {
	s := "runs on node " + pod.Spec.NodeName
	if pod.Status.Phase == v1.PodPending {
		s = "is bound to node " + pod.Spec.NodeName + " and has not started yet"
	}
	if err != nil {
		return s + "; what GPUs it asks for cannot be understood: " + err.Error()
	}
	if r.Empty() {
		return s + " and asks for no GPU"
	}
	if _, err := podspec.Assignment(pod, r); err != nil {
		return s + "; nobody knows which GPUs it holds, so as many are withheld there: " + err.Error()
	}
	return s
}

func holdsOf(pod *v1.Pod, r gpu.Request) []Hold {
	out := []Hold{}
	a, err := podspec.Assignment(pod, r)
	if err != nil {
		return out // the message says so
	}
	for _, c := range a.Containers {
		for _, g := range c.Grants {
			h := newHolder(pod.Namespace, pod.Name, c, g, nil)
			out = append(out, Hold{
				Container: c.Container, Init: c.Init, GPU: string(g.GPU), Kind: h.Kind, MilliGPU: h.MilliGPU, MemoryMiB: h.MemoryMiB,
				Profile: h.Profile, Start: h.Start, Size: h.Size,
			})
		}
	}
	return out
}

func containerAsks(r gpu.Request) []ContainerAsk {
	out := []ContainerAsk{}
	for _, c := range r.Containers {
		for _, a := range c.Asks {
			ask := ContainerAsk{
				Container: c.Name, Init: c.Init, Kind: a.Kind.String(), Count: a.Count, MilliGPU: a.MilliGPU, MemoryMiB: a.MemoryMiB,
				Profile: a.Profile,
			}
			if a.Kind == gpu.Whole {
				ask.MilliGPU = gpu.WholeMilliGPU
			}
			out = append(out, ask)
		}
	}
	return out
}

func said(pod *v1.Pod) *Said {
	for _, c := range pod.Status.Conditions {
		if c.Type == v1.PodScheduled {
			s := &Said{Status: string(c.Status), Reason: c.Reason, Message: c.Message}
			if !c.LastTransitionTime.IsZero() {
				s.Since = c.LastTransitionTime.UTC().Format(time.RFC3339)
			}
			return s
		}
	}
	return nil
}

// NewAnswer says why the pod does not run, or where it does, in the cluster that the objects show.
func NewAnswer(pod *v1.Pod, o Objects, schedulerName string) Answer {
	a, done := NewPodAnswer(pod, schedulerName)
	if done {
		if a.Verdict == VerdictBound && !slices.ContainsFunc(o.Nodes, hasName(a.Node)) {
			a.nodeGone()
		}
		return a
	}
	request, err := podspec.PendingRequest(pod)
	if err != nil {
		return a // NewPodAnswer is done then
	}
	v := newView(o)
	w := newWanted(pod, request)
	classes := map[string]*class{}
	for _, n := range v.nodes {
		key := newClass(n, v.snapshot.Node(n.Name))
		id := fmt.Sprintf("%q %d %d %d %t %s %q %d %d", key.Products, key.GPUsPerNode, key.MIGGPUsPerNode, key.GPUMemoryMiB, key.Sharing,
			key.Source, key.Taints, key.WholeOnlyGPUsPerNode, key.SharedOnlyGPUsPerNode)
		if classes[id] == nil {
			classes[id] = &class{Class: key, counts: map[fit.Reason]int{}}
		}
		classes[id].add(n.Name, v.reject(n, w))
	}
	ids := slices.Sorted(maps.Keys(classes))
	// Stable, so that of equal ones the order of the keys stays.
	slices.SortStableFunc(ids, func(x, y string) int {
		return cmp.Or(classes[y].best.compare(classes[x].best), cmp.Compare(classes[y].Nodes, classes[x].Nodes))
	})
	for _, id := range ids {
		c := classes[id].finish()
		a.Nodes += c.Nodes
		a.NodesThatFit += len(c.Fitting)
		a.Classes = append(a.Classes, c)
	}
	a.NotChecked = unchecked(pod)
	a.conclude()
	return a
}

// join adds what the answer about its gang says.
func (a *Answer) join(g GangAnswer) {
	a.GangVerdict, a.GangMessage = g.Verdict, g.Message
	if a.Verdict == VerdictFits || a.Verdict == VerdictDoesNotFit || a.Verdict == VerdictHeldBack {
		a.Message += ", by itself"
	}
}

// conclude sets verdict and message from the nodes, where the pod by itself did not.
func (a *Answer) conclude() {
	fits := fmt.Sprintf("fits %d of %s now", a.NodesThatFit, count(a.Nodes, "node"))
	if a.NodesThatFit == 0 {
		fits = fmt.Sprintf("fits none of %s now", count(a.Nodes, "node"))
	}
	switch {
	case a.Verdict != "":
		a.Message += "; it " + strings.Replace(fits, "fits", "would fit", 1)
	case a.NodesThatFit > 0:
		a.Verdict, a.Message = VerdictFits, fits
	default:
		a.Verdict, a.Message = VerdictDoesNotFit, fits
	}
}

// class is a Class while its nodes are counted.
type class struct {
	Class
	best   verdict
	counts map[fit.Reason]int
}

// newClass is the class of one node, with what makes nodes alike.
func newClass(n *v1.Node, c *cluster.Node) Class {
	out := Class{Products: []string{}, Taints: []string{}, Fitting: []string{}, Reasons: []ReasonCount{}, Source: cluster.SourceNone.String()}
	for _, t := range n.Spec.Taints {
		if keepsAway(&t) {
			out.Taints = append(out.Taints, t.ToString())
		}
	}
	slices.Sort(out.Taints)
	if c == nil {
		return out
	}
	out.Source, out.GPUsPerNode = c.Inventory.Source.String(), len(c.GPUs)
	for i := range c.GPUs {
		g := &c.GPUs[i]
		out.Products = append(out.Products, g.Product)
		out.GPUMemoryMiB = max(out.GPUMemoryMiB, g.MemoryMiB)
		switch {
		case g.MIG:
			out.MIGGPUsPerNode++
		case g.WholeOnly:
			out.WholeOnlyGPUsPerNode++
		case g.SharedOnly:
			out.SharedOnlyGPUsPerNode++
			fallthrough
		default:
			out.Sharing = true
		}
	}
	slices.Sort(out.Products)
	out.Products = slices.Compact(out.Products)
	return out
}

// add counts a node; nodes come by name, so that of equally hopeful ones the first is named.
func (c *class) add(node string, v verdict) {
	if c.Nodes == 0 || v.compare(c.best) > 0 {
		c.best, c.Node = v, node
	}
	c.Nodes++
	c.counts[v.Reason]++
	if v.OK() {
		c.Fitting = append(c.Fitting, node)
	}
}

// compare is positive when there is more hope for v than for other: by the reason, then by how near it is.
func (v verdict) compare(other verdict) int {
	return cmp.Or(cmp.Compare(v.hope(), other.hope()), cmp.Compare(v.Near, other.Near))
}

// hope orders verdicts. That it fits comes first, then what goes away when pods end. What an administrator can undo at
// once comes before all other changes of the nodes, where it is all that stands in the way of what pods can give back.
func (v verdict) hope() int {
	if v.undone {
		for _, r := range fit.Reasons() {
			if r.Resolvable() {
				return 2*rank(r) - 1
			}
		}
	}
	return 2 * rank(v.Reason)
}

// rank orders reasons by hope: that it fits comes after all of them.
func rank(r fit.Reason) int {
	if r == fit.Fits {
		return len(fit.Reasons()) + 1
	}
	return int(r)
}

func (c *class) finish() Class {
	out := c.Class
	r := c.best.Reason
	out.Reason, out.Text, out.Detail, out.Advice = r.String(), r.Text(), c.best.Detail, cmp.Or(c.best.Advice, r.Advice())
	out.Event, out.Resolvable = r.Event().String(), r.Resolvable()
	for _, reason := range slices.SortedFunc(maps.Keys(c.counts), func(a, b fit.Reason) int { return cmp.Compare(rank(b), rank(a)) }) {
		out.Reasons = append(out.Reasons, ReasonCount{Reason: reason.String(), Nodes: c.counts[reason]})
	}
	return out
}
