package podgroup

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	schedulingv1beta1 "k8s.io/api/scheduling/v1beta1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	schedv1alpha1 "sigs.k8s.io/scheduler-plugins/apis/scheduling/v1alpha1"

	"weft.sh/weft/pkg/gang"
	"weft.sh/weft/pkg/podspec"
)

// DefaultGrace is how long a gang may be bound in part where its PodGroup does not say.
const DefaultGrace = 60 * time.Second

// KeyOf is the gang that the pod names, and false where it names none. Whether there is such a gang is another question. An
// empty label names none.
func KeyOf(pod *v1.Pod) (gang.Key, bool) {
	if g := pod.Spec.SchedulingGroup; g != nil && g.PodGroupName != nil && *g.PodGroupName != "" {
		return gang.Key{Source: gang.SourceNative, Namespace: pod.Namespace, Name: *g.PodGroupName}, true
	}
	if name := pod.Labels[podspec.LabelPodGroup]; name != "" {
		return gang.Key{Source: gang.SourceCRD, Namespace: pod.Namespace, Name: name}, true
	}
	return gang.Key{}, false
}

// FromCRD is what a PodGroup of scheduling.x-k8s.io asks for. Errors are *podspec.InvalidError. Its fields minResources and
// scheduleTimeoutSeconds ask for nothing: the members' own requests are planned, and a plan waits for nothing.
func FromCRD(pg *schedv1alpha1.PodGroup) (gang.Spec, error) {
	s := newSpec(gang.SourceCRD, &pg.ObjectMeta)
	if err := setMin(&s, "spec.minMember", pg.Spec.MinMember); err != nil {
		return gang.Spec{}, err
	}
	if err := annotate(&s, pg.Annotations); err != nil {
		return gang.Spec{}, err
	}
	return s, nil
}

// FromNative is what a PodGroup of scheduling.k8s.io asks for. It is false for one whose pods are scheduled by themselves
// (the basic policy). Errors are *podspec.InvalidError.
//
// The key of its topology constraint is the required level. Disruption mode "all" means that the gang restarts when a member
// is lost, unless the annotation says otherwise.
func FromNative(pg *schedulingv1beta1.PodGroup) (gang.Spec, bool, error) {
	s := newSpec(gang.SourceNative, &pg.ObjectMeta)
	policy := pg.Spec.SchedulingPolicy
	switch {
	case policy.Basic != nil && policy.Gang == nil:
		return gang.Spec{}, false, nil
	case policy.Gang == nil || policy.Basic != nil:
		found := "basic and gang"
		if policy.Basic == nil {
			found = "neither basic nor gang"
		}
		return gang.Spec{}, false, invalid(s.Key, "spec.schedulingPolicy", found, "exactly one of basic and gang")
	}
	if parent := pg.Spec.ParentCompositePodGroupName; parent != nil {
		return gang.Spec{}, false, invalid(s.Key, "spec.parentCompositePodGroupName", *parent, "none: groups of groups are not supported")
	}
	if err := setMin(&s, "spec.schedulingPolicy.gang.minCount", policy.Gang.MinCount); err != nil {
		return gang.Spec{}, false, err
	}
	if mode := pg.Spec.DisruptionMode; mode != nil && mode.All != nil {
		s.Lost = gang.LostRestart
	}
	if err := annotate(&s, pg.Annotations); err != nil {
		return gang.Spec{}, false, err
	}
	if err := constrain(&s, pg.Spec.SchedulingConstraints); err != nil {
		return gang.Spec{}, false, err
	}
	return s, true, nil
}

// constrain adds what the constraints of a native PodGroup require.
func constrain(s *gang.Spec, c *schedulingv1beta1.PodGroupSchedulingConstraints) error {
	if c == nil || len(c.Topology) == 0 {
		return nil
	}
	const field = "spec.schedulingConstraints.topology"
	if len(c.Topology) > 1 {
		return invalid(s.Key, field, strconv.Itoa(len(c.Topology))+" constraints", "at most one")
	}
	key := c.Topology[0].Key
	if !podspec.ValidTopologyKey(key) {
		return invalid(s.Key, field+"[0].key", key, podspec.WantTopologyKey)
	}
	if s.Required != "" && s.Required != key {
		return invalid(s.Key, "annotation "+podspec.AnnotationTopologyRequired, s.Required,
			fmt.Sprintf("%q, which %s[0].key requires, or no such annotation", key, field))
	}
	s.Required = key
	return nil
}

// newSpec is a gang with the defaults.
func newSpec(source gang.Source, meta *metav1.ObjectMeta) gang.Spec {
	return gang.Spec{
		Key:        gang.Key{Source: source, Namespace: meta.Namespace, Name: meta.Name},
		UID:        string(meta.UID),
		Generation: meta.Generation,
		Created:    meta.CreationTimestamp.Time,
		Lost:       gang.LostReplace,
		Partial:    gang.PartialShrink,
		Grace:      DefaultGrace,
	}
}

func setMin(s *gang.Spec, field string, n int32) error {
	if n < 1 {
		return invalid(s.Key, field, strconv.Itoa(int(n)), "a whole number of at least 1")
	}
	s.Min = int(n)
	return nil
}

// annotate adds what the annotations say. An annotation that is there and empty says something, and nothing that has a
// meaning.
func annotate(s *gang.Spec, annotations map[string]string) error {
	for _, a := range []struct {
		key string
		set func(value string) bool
		// want is what set accepts.
		want string
	}{
		{podspec.AnnotationTopologyRequired, topologyKey(&s.Required), podspec.WantTopologyKey},
		{podspec.AnnotationTopologyPreferred, topologyKey(&s.Preferred), podspec.WantTopologyKey},
		{podspec.AnnotationOnMemberLost, oneOf(&s.Lost, gang.LostReplace, gang.LostRestart), `"replace" or "restart"`},
		{podspec.AnnotationOnPartialStart, oneOf(&s.Partial, gang.PartialShrink, gang.PartialLeave), `"shrink" or "leave"`},
		{podspec.AnnotationPartialGrace, func(v string) bool {
			d, err := time.ParseDuration(v)
			s.Grace = d
			return err == nil && d >= 0
		}, "a duration of 0 or more, such as 30s"},
	} {
		if v, ok := annotations[a.key]; ok && !a.set(v) {
			return invalid(s.Key, "annotation "+a.key, v, a.want)
		}
	}
	return nil
}

func topologyKey(to *string) func(string) bool {
	return func(v string) bool {
		*to = v
		return podspec.ValidTopologyKey(v)
	}
}

func oneOf[T ~string](to *T, a, b T) func(string) bool {
	return func(v string) bool {
		*to = T(v)
		return *to == a || *to == b
	}
}

// Check reports a contradiction among the members, or between them and what the gang is planned as: they are placed together,
// by one scheduler, at one place in the queue. Errors are *podspec.InvalidError. That members are missing is none.
func Check(s gang.Spec, members []*v1.Pod) error {
	for _, p := range members {
		first := members[0]
		if p.Spec.SchedulerName != first.Spec.SchedulerName {
			return invalid(s.Key, "spec.schedulerName of the members",
				fmt.Sprintf("%s (%s) and %s (%s)", first.Spec.SchedulerName, first.Name, p.Spec.SchedulerName, p.Name),
				"one scheduler for all members")
		}
		if a, b := priority(first), priority(p); a != b {
			return invalid(s.Key, "spec.priority of the members", fmt.Sprintf("%d (%s) and %d (%s)", a, first.Name, b, p.Name),
				"one priority for all members")
		}
	}
	return nil
}

// priority is the pod's priority as the scheduler reads it.
func priority(pod *v1.Pod) int32 {
	if pod.Spec.Priority != nil {
		return *pod.Spec.Priority
	}
	return 0
}

func invalid(k gang.Key, field, value, want string) error {
	return &podspec.InvalidError{Field: k.String() + ": " + field, Value: clip(value), Want: want}
}

// clip bounds what anybody wrote, for messages.
func clip(s string) string {
	if len(s) > 200 {
		return strings.ToValidUTF8(s[:200], "") + "…"
	}
	return s
}
