package cli

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	batchv1 "k8s.io/api/batch/v1"
	v1 "k8s.io/api/core/v1"
	schedulingv1beta1 "k8s.io/api/scheduling/v1beta1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	schedv1alpha1 "sigs.k8s.io/scheduler-plugins/apis/scheduling/v1alpha1"

	configv1 "weft.sh/weft/pkg/apis/config/v1"
	"weft.sh/weft/pkg/fit"
	"weft.sh/weft/pkg/gang"
	"weft.sh/weft/pkg/podgroup"
	"weft.sh/weft/pkg/podspec"
)

// DefaultTopologyLevels are those of a scheduler whose configuration names none.
func DefaultTopologyLevels() []string {
	var args configv1.GangArgs
	configv1.SetDefaults_GangArgs(&args)
	return args.TopologyLevels
}

// ListGroups adds the PodGroups of the namespace to the objects, of all namespaces where it is empty. Kinds that the API server
// does not serve have none. What the user may not list is a [*ForbiddenError], and the PodGroups are then not known.
func ListGroups(ctx context.Context, client kubernetes.Interface, groups dynamic.Interface, namespace string, progress Progress, o *Objects) error {
	if progress == nil {
		progress = func(string, int) {}
	}
	read := *o
	err := list(ctx, "podgroups", schedv1alpha1.SchemeGroupVersion.Group, progress, metav1.ListOptions{},
		func(ctx context.Context, opts metav1.ListOptions) (runtime.Object, error) {
			return groups.Resource(podgroup.Resource).Namespace(namespace).List(ctx, opts)
		}, func(u *unstructured.Unstructured) {
			pg := PodGroup{}
			if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, &pg.PodGroup); err != nil {
				// Only a definition of somebody else's lets this pass: it is a group of which the spec means nothing.
				pg.PodGroup = schedv1alpha1.PodGroup{ObjectMeta: metav1.ObjectMeta{Namespace: u.GetNamespace(), Name: u.GetName()}}
			}
			pg.Message, _, _ = unstructured.NestedString(u.Object, "status", "message")
			read.Groups = append(read.Groups, pg)
		})
	if err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	err = list(ctx, "podgroups", schedulingv1beta1.GroupName, progress, metav1.ListOptions{},
		func(ctx context.Context, opts metav1.ListOptions) (runtime.Object, error) {
			return client.SchedulingV1beta1().PodGroups(namespace).List(ctx, opts)
		}, func(pg *schedulingv1beta1.PodGroup) { read.NativeGroups = append(read.NativeGroups, pg) })
	// Of a kind that it does not serve the API server says first of all that the user may not list it.
	if err != nil && !apierrors.IsNotFound(err) && !isForbidden(err) {
		return err
	}
	read.GroupsRead, read.NativeGroupsRead = true, !isForbidden(err)
	*o = read
	return nil
}

// listEnded adds the pods of the gang that have ended: those that succeeded count towards its minimum.
func listEnded(ctx context.Context, client kubernetes.Interface, k gang.Key, o *Objects) error {
	opts := metav1.ListOptions{FieldSelector: "status.phase!=" + string(v1.PodPending) + ",status.phase!=" + string(v1.PodRunning)}
	if k.Source == gang.SourceCRD {
		opts.LabelSelector = podspec.LabelPodGroup + "=" + k.Name
	}
	return list(ctx, "pods", "", func(string, int) {}, opts, func(ctx context.Context, opts metav1.ListOptions) (runtime.Object, error) {
		return client.CoreV1().Pods(k.Namespace).List(ctx, opts)
	}, func(p *v1.Pod) {
		if hasEnded(p) {
			o.Ended = append(o.Ended, p)
		}
	})
}

func hasEnded(p *v1.Pod) bool {
	return p.Status.Phase == v1.PodSucceeded || p.Status.Phase == v1.PodFailed
}

// group is a gang: what its PodGroup asks for, and its pods.
type group struct {
	gang.Key
	spec gang.Spec
	// invalid says why the PodGroup means nothing, or that there is none.
	invalid fit.Rejection
	// basic says that the pods of the PodGroup are scheduled by themselves: it is no gang.
	basic bool
	// exists says that there is a PodGroup.
	exists bool
	// phase and message are those of its status.
	phase, message string
	// pods are in the order of their ranks, those that have ended are among them where they are known.
	pods []*v1.Pod
}

// groupsOf are the gangs that a PodGroup declares or a pod names, by namespace and name.
func groupsOf(o Objects) []*group {
	all := map[gang.Key]*group{}
	at := func(k gang.Key) *group {
		if all[k] == nil {
			all[k] = &group{Key: k}
		}
		return all[k]
	}
	for _, pg := range o.Groups {
		spec, err := podgroup.FromCRD(&pg.PodGroup)
		g := at(gang.Key{Source: gang.SourceCRD, Namespace: pg.Namespace, Name: pg.Name})
		g.declare(spec, err)
		g.phase, g.message = string(pg.Status.Phase), pg.Message
	}
	for _, pg := range o.NativeGroups {
		spec, is, err := podgroup.FromNative(pg)
		g := at(gang.Key{Source: gang.SourceNative, Namespace: pg.Namespace, Name: pg.Name})
		g.declare(spec, err)
		g.basic = err == nil && !is
	}
	for _, p := range append(slices.Clone(o.Pods), o.Ended...) {
		if k, ok := podgroup.KeyOf(p); ok {
			g := at(k)
			g.pods = append(g.pods, p)
		}
	}
	for _, g := range all {
		slices.SortFunc(g.pods, podgroup.Compare)
		if read := map[gang.Source]bool{gang.SourceCRD: o.GroupsRead, gang.SourceNative: o.NativeGroupsRead}; !g.exists && read[g.Source] {
			g.invalid = fit.Rejection{Reason: fit.GangNotFound, Detail: g.String()}
		}
	}
	return slices.SortedFunc(maps.Values(all), func(a, b *group) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Source, b.Source))
	})
}

func (g *group) declare(spec gang.Spec, err error) {
	g.exists, g.spec = true, spec
	if err != nil {
		g.invalid = fit.Rejection{Reason: fit.InvalidGang, Detail: err.Error()}
	}
}

// States of a pod of a gang.
const (
	MemberGated     = "gated"
	MemberPending   = "pending"
	MemberBound     = "bound"
	MemberRunning   = "running"
	MemberSucceeded = "succeeded"
	MemberFailed    = "failed"
	MemberDeleting  = "deleting"
)

// memberState is what a pod is to its gang.
func memberState(p *v1.Pod) string {
	switch {
	case p.Status.Phase == v1.PodSucceeded:
		return MemberSucceeded
	case p.Status.Phase == v1.PodFailed:
		return MemberFailed
	case p.DeletionTimestamp != nil:
		return MemberDeleting
	case p.Spec.NodeName != "" && p.Status.Phase == v1.PodRunning:
		return MemberRunning
	case p.Spec.NodeName != "":
		return MemberBound
	case len(p.Spec.SchedulingGates) > 0:
		return MemberGated
	}
	return MemberPending
}

// count counts the pods.
func (g *group) count() MemberCounts {
	var c MemberCounts
	for _, p := range g.pods {
		switch memberState(p) {
		case MemberGated:
			c.Gated++
		case MemberPending:
			c.Pending++
		case MemberRunning:
			c.Running++
			c.Bound++
		case MemberBound:
			c.Bound++
		case MemberSucceeded:
			c.Succeeded++
		case MemberFailed:
			c.Failed++
		case MemberDeleting:
			c.Deleting++
		}
	}
	c.Members = c.Gated + c.Pending + c.Bound
	return c
}

// planned are the pods that are to run together: those that have not ended, are not being deleted and may be placed.
func (g *group) planned() []*v1.Pod {
	var out []*v1.Pod
	for _, p := range g.pods {
		if s := memberState(p); s == MemberPending || s == MemberBound || s == MemberRunning {
			out = append(out, p)
		}
	}
	return out
}

// phaseOf is where the gang stands: what the controller says, or else what can be seen of its pods.
func (g *group) phaseOf(c MemberCounts) string {
	started := c.Bound + c.Succeeded
	switch {
	case g.phase != "":
		return g.phase
	case c.Members+c.Deleting == 0 && g.exists && c.Succeeded >= g.spec.Min && c.Succeeded > 0:
		return string(gang.PhaseFinished)
	case c.Members+c.Deleting == 0 && c.Failed > 0:
		return string(gang.PhaseFailed)
	case c.Bound == 0:
		return string(gang.PhasePending)
	case started < g.spec.Min:
		return string(gang.PhaseUnknown)
	case c.Running+c.Succeeded < g.spec.Min:
		return string(gang.PhaseScheduling)
	}
	return string(gang.PhaseRunning)
}

// maxIndex is up to which index gaps are looked for.
const maxIndex = 10_000

// missing names members that do not exist: gaps among the indices that a Job gives its pods.
func (g *group) missing() []string {
	jobs := map[string]map[int]bool{}
	for _, p := range g.pods {
		owner := metav1.GetControllerOf(p)
		n, err := strconv.Atoi(cmp.Or(p.Labels[batchv1.JobCompletionIndexAnnotation], p.Annotations[batchv1.JobCompletionIndexAnnotation]))
		if owner == nil || err != nil || n < 0 || n > maxIndex {
			continue
		}
		if jobs[owner.Name] == nil {
			jobs[owner.Name] = map[int]bool{}
		}
		s := memberState(p)
		jobs[owner.Name][n] = jobs[owner.Name][n] || s != MemberFailed && s != MemberDeleting
	}
	out := []string{}
	for _, name := range slices.Sorted(maps.Keys(jobs)) {
		var gaps []string
		for i := range slices.Max(slices.Collect(maps.Keys(jobs[name]))) + 1 {
			if !jobs[name][i] {
				gaps = append(gaps, strconv.Itoa(i))
			}
		}
		if len(gaps) > 8 {
			gaps = append(gaps[:8], fmt.Sprintf("and %d more", len(gaps)-8))
		}
		if len(gaps) > 0 {
			out = append(out, fmt.Sprintf("%s: index %s", name, strings.Join(gaps, ", ")))
		}
	}
	return out
}

// readGang reads what an answer about the gang of this name rests on.
func (s *shell) readGang(ctx context.Context, client kubernetes.Interface, k gang.Key) (Objects, error) {
	groups, err := s.dynamic()
	if err != nil {
		return Objects{}, err
	}
	progress, finished := s.progress()
	defer finished()
	o, err := List(ctx, client, progress)
	if err != nil {
		return Objects{}, err
	}
	if err := ListGroups(ctx, client, groups, k.Namespace, progress, &o); err != nil {
		return Objects{}, err
	}
	if !slices.ContainsFunc(o.Groups, func(pg PodGroup) bool { return pg.Name == k.Name }) &&
		slices.ContainsFunc(o.NativeGroups, func(pg *schedulingv1beta1.PodGroup) bool { return pg.Name == k.Name }) {
		k.Source = gang.SourceNative
	}
	return o, listEnded(ctx, client, k, &o)
}
