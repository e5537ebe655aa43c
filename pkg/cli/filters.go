package cli

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"
	corev1helpers "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"

	"weft.sh/weft/pkg/fit"
	"weft.sh/weft/pkg/gpu"
)

// wanted is a pending pod with what has to be worked out only once for all nodes.
type wanted struct {
	pod      *v1.Pod
	request  gpu.Request
	affinity nodeaffinity.RequiredNodeAffinity
	requests v1.ResourceList
}

func newWanted(pod *v1.Pod, r gpu.Request) *wanted {
	return &wanted{
		pod: pod, request: r, affinity: nodeaffinity.GetRequiredNodeAffinity(pod),
		requests: resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{}),
	}
}

// verdict is a rejection of a node, with what it would be worth to mend it.
type verdict struct {
	fit.Rejection
	// undone says that a cordon or taints are all that is wrong with the node, besides what other pods hold.
	undone bool
}

// reject says why the pod does not go on the node now: the first reason in the order of the table of package fit. The GPUs
// are judged by the scheduler's own code; the checks around them are those of kube-scheduler's default plugins
// NodeUnschedulable, TaintToleration, NodeAffinity and NodeResourcesFit, by the same helpers of Kubernetes.
func (v *view) reject(n *v1.Node, w *wanted) verdict {
	rest := v.rejectUntainted(n, w)
	r := rejectTainted(n, w)
	if r.OK() {
		return verdict{Rejection: rest}
	}
	out := verdict{Rejection: r, undone: rest.OK() || rest.Reason.Resolvable()}
	also := "it would fit otherwise"
	if rest.OK() {
		out.Near = 1
	} else {
		also = "besides, " + rest.Reason.String()
	}
	out.Detail = strings.TrimPrefix(out.Detail+"; "+also, "; ")
	return out
}

// rejectUntainted is reject for a node that keeps no pods away.
func (v *view) rejectUntainted(n *v1.Node, w *wanted) fit.Rejection {
	r := fit.Explain(v.snapshot.Node(n.Name), w.request)
	if r.Reason == fit.GPUProductMismatch {
		// A model is chosen by node affinity, so the affinity does not match either; this says better what is wrong.
		return r
	}
	if r := rejectAffinity(n, w); !r.OK() {
		return r
	}
	// The node may be too small for the pod whatever the GPUs are doing: then it is no use to wait for them.
	if other := v.rejectResources(n, w); r.OK() || !other.OK() && other.Reason < r.Reason {
		return other
	}
	return r
}

// rejectTainted checks what keeps pods away whatever the node has.
func rejectTainted(n *v1.Node, w *wanted) fit.Rejection {
	var quiet klog.Logger // the helpers only log what they cannot parse, and the API server has validated that
	cordon := v1.Taint{Key: v1.TaintNodeUnschedulable, Effect: v1.TaintEffectNoSchedule}
	cordoned := n.Spec.Unschedulable && !corev1helpers.TolerationsTolerateTaint(quiet, w.pod.Spec.Tolerations, &cordon, true)
	var untolerated []string
	for _, t := range n.Spec.Taints {
		if cordoned && t.Key == cordon.Key || !keepsAway(&t) {
			continue // a cordon has this taint too
		}
		if !corev1helpers.TolerationsTolerateTaint(quiet, w.pod.Spec.Tolerations, &t, true) {
			untolerated = append(untolerated, t.ToString())
		}
	}
	taints := strings.Join(untolerated, ", ")
	switch {
	case cordoned && taints != "":
		return fit.Rejection{Reason: fit.NodeUnschedulable, Detail: "it is tainted too: " + taints}
	case cordoned:
		return fit.Rejection{Reason: fit.NodeUnschedulable}
	case taints != "":
		return fit.Rejection{Reason: fit.TaintNotTolerated, Detail: taints}
	}
	return fit.Rejection{}
}

// rejectAffinity checks the node selector and the required node affinity.
func rejectAffinity(n *v1.Node, w *wanted) fit.Rejection {
	match, err := w.affinity.Match(n)
	switch {
	case err != nil:
		return fit.Rejection{Reason: fit.NodeAffinityMismatch, Detail: err.Error()}
	case !match:
		return fit.Rejection{Reason: fit.NodeAffinityMismatch, Detail: mismatch(n, w.pod)}
	}
	return fit.Rejection{}
}

// keepsAway reports whether pods that do not tolerate the taint may not come to the node.
func keepsAway(t *v1.Taint) bool {
	return t.Effect == v1.TaintEffectNoSchedule || t.Effect == v1.TaintEffectNoExecute
}

// mismatch says which label the node selector finds otherwise, or that it is the affinity.
func mismatch(n *v1.Node, pod *v1.Pod) string {
	for _, key := range slices.Sorted(maps.Keys(pod.Spec.NodeSelector)) {
		want := pod.Spec.NodeSelector[key]
		switch has, ok := n.Labels[key]; {
		case !ok:
			return fmt.Sprintf("selects %s=%s; the node has no label %s", key, want, key)
		case has != want:
			return fmt.Sprintf("selects %s=%s; the node has %s", key, want, has)
		}
	}
	terms := pod.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
	if len(terms) != 1 {
		return fmt.Sprintf("none of the %d terms of the required node affinity matches", len(terms))
	}
	// Of a single term, the expression to blame can be named: the first that does not match by itself.
	for _, e := range terms[0].MatchExpressions {
		one := &v1.NodeSelector{NodeSelectorTerms: []v1.NodeSelectorTerm{{MatchExpressions: []v1.NodeSelectorRequirement{e}}}}
		if match, err := nodeaffinity.NewLazyErrorNodeSelector(one).Match(n); err == nil && match {
			continue
		}
		has, ok := n.Labels[e.Key]
		if ok {
			has = "the node has " + has
		} else {
			has = "the node has no such label"
		}
		return strings.TrimSpace(fmt.Sprintf("requires %s %s %s", e.Key, e.Operator, strings.Join(e.Values, ", "))) + "; " + has
	}
	return "the required node affinity does not match"
}

// rejectResources checks what the kubelet counts: CPU, memory, every other resource that the pod asks for, and pods. The
// GPUs are among them: a node whose device plugin is down reports GPUs and has none to give.
func (v *view) rejectResources(n *v1.Node, w *wanted) fit.Rejection {
	names := []v1.ResourceName{v1.ResourceCPU, v1.ResourceMemory}
	for _, name := range slices.Sorted(maps.Keys(w.requests)) {
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	worst := fit.Rejection{}
	for _, name := range names {
		// Of several that are lacking the least hopeful, or the first.
		if r := v.rejectResource(n, name, w.requests[name]); !r.OK() && (worst.OK() || r.Reason < worst.Reason) {
			worst = r
		}
	}
	slots, pods := n.Status.Allocatable.Pods().Value(), v.loads[n.Name].pods
	switch {
	case worst.OK() && slots == 0:
		return fit.Rejection{Reason: fit.NodeTooSmall, Detail: "the node runs no pods"}
	case worst.OK() && pods+1 > slots:
		return fit.Rejection{Reason: fit.InsufficientResource, Detail: fmt.Sprintf("runs %d pods of at most %d", pods, slots)}
	}
	return worst
}

// rejectResource checks one resource.
func (v *view) rejectResource(n *v1.Node, name v1.ResourceName, ask resource.Quantity) fit.Rejection {
	all := n.Status.Allocatable[name]
	left := all.DeepCopy()
	left.Sub(v.loads[n.Name].requests[name])
	if ask.Sign() <= 0 || ask.Cmp(left) <= 0 {
		return fit.Rejection{}
	}
	reason, what := fit.InsufficientResource, " of "+string(name)
	switch name {
	case v1.ResourceCPU:
		reason, what = fit.InsufficientCPU, " CPU"
	case v1.ResourceMemory:
		reason, what = fit.InsufficientMemory, " of memory"
	}
	asks := "asks for " + ask.String() + what
	switch {
	case all.Sign() > 0 && ask.Cmp(all) <= 0:
		return fit.Rejection{Reason: reason, Detail: fmt.Sprintf("%s; %s of %s left", asks, &left, &all), Near: perMille(left, ask)}
	case all.Sign() > 0:
		return fit.Rejection{Reason: fit.NodeTooSmall, Detail: fmt.Sprintf("%s; the node has %s", asks, &all), Near: perMille(all, ask)}
	case v.offered(name):
		return fit.Rejection{
			Reason: fit.NodeTooSmall, Detail: asks + "; the node offers none, others do",
			Advice: "use nodes that offer it, or see whether what offers it (a device plugin, the node agent) runs on this one",
		}
	}
	return fit.Rejection{
		Reason: fit.NodeTooSmall, Detail: asks + "; no node offers any",
		Advice: fmt.Sprintf("see whether the name %s is right, and whether what offers it (a device plugin, the node agent) runs", name),
	}
}

// offered reports whether any node has the resource to give.
func (v *view) offered(name v1.ResourceName) bool {
	return slices.ContainsFunc(v.nodes, func(n *v1.Node) bool {
		q := n.Status.Allocatable[name]
		return q.Sign() > 0
	})
}

// perMille is how much of what is asked for there is, in thousandths.
func perMille(there, ask resource.Quantity) int64 {
	return int64(1000 * there.AsApproximateFloat64() / ask.AsApproximateFloat64())
}

// unchecked are the things that the pod asks for and that the default plugins check but rejectNode and rejectResources do
// not: they need more of the cluster than its nodes and pods, or the whole of the scheduler.
func unchecked(pod *v1.Pod) []string {
	out := []string{}
	add := func(applies bool, what string) {
		if applies {
			out = append(out, what)
		}
	}
	add(slices.ContainsFunc(pod.Spec.Volumes, func(v v1.Volume) bool {
		return v.PersistentVolumeClaim != nil || v.Ephemeral != nil
	}), "persistent volumes")
	add(len(pod.Spec.ResourceClaims) > 0, "resource claims")
	if a := pod.Spec.Affinity; a != nil {
		add(a.PodAffinity != nil && len(a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution) > 0, "affinity to other pods")
		add(a.PodAntiAffinity != nil && len(a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution) > 0, "anti-affinity to other pods")
	}
	add(slices.ContainsFunc(pod.Spec.TopologySpreadConstraints, func(c v1.TopologySpreadConstraint) bool {
		return c.WhenUnsatisfiable == v1.DoNotSchedule
	}), "topology spread constraints")
	add(slices.ContainsFunc(pod.Spec.Containers, func(c v1.Container) bool {
		return slices.ContainsFunc(c.Ports, func(p v1.ContainerPort) bool { return p.HostPort != 0 })
	}), "host ports")
	return out
}
