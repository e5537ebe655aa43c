package podgroup

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	schedulingv1beta1 "k8s.io/api/scheduling/v1beta1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	schedv1alpha1 "sigs.k8s.io/scheduler-plugins/apis/scheduling/v1alpha1"

	"weft.sh/weft/pkg/gang"
	"weft.sh/weft/pkg/podspec"
)

func TestKeyOf(t *testing.T) {
	labelled := func(name string) *v1.Pod {
		return &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "team", Labels: map[string]string{podspec.LabelPodGroup: name}}}
	}
	native := func(p *v1.Pod, name *string) *v1.Pod {
		p.Spec.SchedulingGroup = &v1.PodSchedulingGroup{PodGroupName: name}
		return p
	}
	none := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "team"}}
	for name, c := range map[string]struct {
		pod  *v1.Pod
		want gang.Key
		ok   bool
	}{
		"names nothing":                 {pod: none},
		"names a group by its label":    {labelled("a"), gang.Key{Source: gang.SourceCRD, Namespace: "team", Name: "a"}, true},
		"has an empty label":            {pod: labelled("")},
		"names a native group":          {native(none.DeepCopy(), new("n")), gang.Key{Source: gang.SourceNative, Namespace: "team", Name: "n"}, true},
		"names both: the native one":    {native(labelled("a"), new("n")), gang.Key{Source: gang.SourceNative, Namespace: "team", Name: "n"}, true},
		"has an empty native name":      {native(labelled("a"), new("")), gang.Key{Source: gang.SourceCRD, Namespace: "team", Name: "a"}, true},
		"a kind of group not known yet": {pod: native(none.DeepCopy(), nil)},
	} {
		t.Run(name, func(t *testing.T) {
			if got, ok := KeyOf(c.pod); got != c.want || ok != c.ok {
				t.Errorf("%+v, %t: want %+v, %t", got, ok, c.want, c.ok)
			}
		})
	}
}

// meta is that of a PodGroup with the annotations, in pairs.
func groupMeta(pairs ...string) metav1.ObjectMeta {
	m := metav1.ObjectMeta{
		Namespace: "team", Name: "train", UID: "u1", Generation: 7, CreationTimestamp: metav1.Unix(1000, 0), Annotations: map[string]string{},
	}
	for i := 0; i < len(pairs); i += 2 {
		m.Annotations[pairs[i]] = pairs[i+1]
	}
	return m
}

// spec is what a PodGroup with that meta and nothing special asks for, changed by f.
func spec(source gang.Source, f func(s *gang.Spec)) gang.Spec {
	s := gang.Spec{
		Key: gang.Key{Source: source, Namespace: "team", Name: "train"}, UID: "u1", Generation: 7, Created: time.Unix(1000, 0),
		Min: 4, Lost: gang.LostReplace, Partial: gang.PartialShrink, Grace: time.Minute,
	}
	if f != nil {
		f(&s)
	}
	return s
}

// wantError compares the text of an error, which has to be a *podspec.InvalidError.
func wantError(t *testing.T, err error, want string) {
	t.Helper()
	got := ""
	if err != nil {
		got = err.Error()
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	var invalid *podspec.InvalidError
	if err != nil && !errors.As(err, &invalid) {
		t.Errorf("a %T: want a *podspec.InvalidError", err)
	}
}

func TestFromCRD(t *testing.T) {
	const at = "podgroup team/train: "
	for name, c := range map[string]struct {
		min  int32
		meta metav1.ObjectMeta
		want func(s *gang.Spec)
		err  string
	}{
		"nothing special": {min: 4, meta: groupMeta()},
		"everything": {
			min: 4, meta: groupMeta(podspec.AnnotationTopologyRequired, "topology.kubernetes.io/zone", podspec.AnnotationTopologyPreferred, "nvlink",
				podspec.AnnotationOnMemberLost, "restart", podspec.AnnotationOnPartialStart, "leave", podspec.AnnotationPartialGrace, "1h30m"),
			want: func(s *gang.Spec) {
				s.Required, s.Preferred = "topology.kubernetes.io/zone", "nvlink"
				s.Lost, s.Partial, s.Grace = gang.LostRestart, gang.PartialLeave, 90*time.Minute
			},
		},
		"the defaults, said so": {min: 4, meta: groupMeta(podspec.AnnotationOnMemberLost, "replace", podspec.AnnotationOnPartialStart, "shrink", podspec.AnnotationPartialGrace, "60s")},
		"one member":            {min: 1, meta: groupMeta(), want: func(s *gang.Spec) { s.Min = 1 }},
		"no grace":              {min: 4, meta: groupMeta(podspec.AnnotationPartialGrace, "0"), want: func(s *gang.Spec) { s.Grace = 0 }},
		"no members":            {min: 0, meta: groupMeta(), err: at + `spec.minMember is "0": want a whole number of at least 1`},
		"less than no members":  {min: -3, meta: groupMeta(), err: at + `spec.minMember is "-3": want a whole number of at least 1`},
		"a level that no label can be": {
			min: 4, meta: groupMeta(podspec.AnnotationTopologyRequired, "a/b/c"),
			err: at + `annotation weft.sh/topology-required is "a/b/c": want "nvlink" or a node label key such as topology.kubernetes.io/rack`,
		},
		"a level without a name": {
			min: 4, meta: groupMeta(podspec.AnnotationTopologyPreferred, ""),
			err: at + `annotation weft.sh/topology-preferred is "": want "nvlink" or a node label key such as topology.kubernetes.io/rack`,
		},
		"an unknown policy for the lost": {min: 4, meta: groupMeta(podspec.AnnotationOnMemberLost, "Restart"), err: at + `annotation weft.sh/on-member-lost is "Restart": want "replace" or "restart"`},
		"an unknown policy for parts":    {min: 4, meta: groupMeta(podspec.AnnotationOnPartialStart, ""), err: at + `annotation weft.sh/on-partial-start is "": want "shrink" or "leave"`},
		"a grace without a unit":         {min: 4, meta: groupMeta(podspec.AnnotationPartialGrace, "30"), err: at + `annotation weft.sh/partial-grace is "30": want a duration of 0 or more, such as 30s`},
		"a grace of less than nothing":   {min: 4, meta: groupMeta(podspec.AnnotationPartialGrace, "-1s"), err: at + `annotation weft.sh/partial-grace is "-1s": want a duration of 0 or more, such as 30s`},
		"a grace that is too long":       {min: 4, meta: groupMeta(podspec.AnnotationPartialGrace, "9999999h"), err: at + `annotation weft.sh/partial-grace is "9999999h": want a duration of 0 or more, such as 30s`},
		"a value without an end": {
			min: 4, meta: groupMeta(podspec.AnnotationOnMemberLost, strings.Repeat("x", 100_000)),
			err: at + `annotation weft.sh/on-member-lost is "` + strings.Repeat("x", 200) + `…": want "replace" or "restart"`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := FromCRD(&schedv1alpha1.PodGroup{ObjectMeta: c.meta, Spec: schedv1alpha1.PodGroupSpec{MinMember: c.min}})
			wantError(t, err, c.err)
			want := gang.Spec{}
			if c.err == "" {
				want = spec(gang.SourceCRD, c.want)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
}

func TestFromNative(t *testing.T) {
	const at = "podgroup team/train: "
	four := schedulingv1beta1.PodGroupSchedulingPolicy{Gang: &schedulingv1beta1.GangSchedulingPolicy{MinCount: 4}}
	basic := &schedulingv1beta1.BasicSchedulingPolicy{}
	constraints := func(keys ...string) *schedulingv1beta1.PodGroupSchedulingConstraints {
		c := &schedulingv1beta1.PodGroupSchedulingConstraints{}
		for _, k := range keys {
			c.Topology = append(c.Topology, schedulingv1beta1.TopologyConstraint{Key: k})
		}
		return c
	}
	for name, c := range map[string]struct {
		meta    metav1.ObjectMeta
		spec    schedulingv1beta1.PodGroupSpec
		want    func(s *gang.Spec)
		notGang bool
		err     string
	}{
		"a gang":     {meta: groupMeta(), spec: schedulingv1beta1.PodGroupSpec{SchedulingPolicy: four}},
		"not a gang": {meta: groupMeta(), spec: schedulingv1beta1.PodGroupSpec{SchedulingPolicy: schedulingv1beta1.PodGroupSchedulingPolicy{Basic: basic}}, notGang: true},
		"not a gang, and its annotations are nobody's business": {
			meta: groupMeta(podspec.AnnotationOnMemberLost, "x"), notGang: true,
			spec: schedulingv1beta1.PodGroupSpec{SchedulingPolicy: schedulingv1beta1.PodGroupSchedulingPolicy{Basic: basic}},
		},
		"a policy that is not known yet": {meta: groupMeta(), err: at + `spec.schedulingPolicy is "neither basic nor gang": want exactly one of basic and gang`},
		"two policies": {
			meta: groupMeta(), err: at + `spec.schedulingPolicy is "basic and gang": want exactly one of basic and gang`,
			spec: schedulingv1beta1.PodGroupSpec{SchedulingPolicy: schedulingv1beta1.PodGroupSchedulingPolicy{Basic: basic, Gang: four.Gang}},
		},
		"no members": {
			meta: groupMeta(), err: at + `spec.schedulingPolicy.gang.minCount is "0": want a whole number of at least 1`,
			spec: schedulingv1beta1.PodGroupSpec{SchedulingPolicy: schedulingv1beta1.PodGroupSchedulingPolicy{Gang: &schedulingv1beta1.GangSchedulingPolicy{}}},
		},
		"a group of a group": {
			meta: groupMeta(), spec: schedulingv1beta1.PodGroupSpec{SchedulingPolicy: four, ParentCompositePodGroupName: new("all")},
			err: at + `spec.parentCompositePodGroupName is "all": want none: groups of groups are not supported`,
		},
		"a topology": {
			meta: groupMeta(), spec: schedulingv1beta1.PodGroupSpec{SchedulingPolicy: four, SchedulingConstraints: constraints("topology.kubernetes.io/rack")},
			want: func(s *gang.Spec) { s.Required = "topology.kubernetes.io/rack" },
		},
		"constraints of which none is one": {meta: groupMeta(), spec: schedulingv1beta1.PodGroupSpec{SchedulingPolicy: four, SchedulingConstraints: constraints()}},
		"a topology, and the same by annotation": {
			meta: groupMeta(podspec.AnnotationTopologyRequired, "rack", podspec.AnnotationTopologyPreferred, "nvlink"),
			spec: schedulingv1beta1.PodGroupSpec{SchedulingPolicy: four, SchedulingConstraints: constraints("rack")},
			want: func(s *gang.Spec) { s.Required, s.Preferred = "rack", "nvlink" },
		},
		"a topology, and another by annotation": {
			meta: groupMeta(podspec.AnnotationTopologyRequired, "nvlink"),
			spec: schedulingv1beta1.PodGroupSpec{SchedulingPolicy: four, SchedulingConstraints: constraints("rack")},
			err:  at + `annotation weft.sh/topology-required is "nvlink": want "rack", which spec.schedulingConstraints.topology[0].key requires, or no such annotation`,
		},
		"two topologies": {
			meta: groupMeta(), spec: schedulingv1beta1.PodGroupSpec{SchedulingPolicy: four, SchedulingConstraints: constraints("a", "b")},
			err: at + `spec.schedulingConstraints.topology is "2 constraints": want at most one`,
		},
		"a topology that no label can be": {
			meta: groupMeta(), spec: schedulingv1beta1.PodGroupSpec{SchedulingPolicy: four, SchedulingConstraints: constraints("a b")},
			err: at + `spec.schedulingConstraints.topology[0].key is "a b": want "nvlink" or a node label key such as topology.kubernetes.io/rack`,
		},
		"disrupted together": {
			meta: groupMeta(), spec: schedulingv1beta1.PodGroupSpec{SchedulingPolicy: four, DisruptionMode: &schedulingv1beta1.DisruptionMode{All: &schedulingv1beta1.AllDisruptionMode{}}},
			want: func(s *gang.Spec) { s.Lost = gang.LostRestart },
		},
		"disrupted together, but the annotation says otherwise": {
			meta: groupMeta(podspec.AnnotationOnMemberLost, "replace"),
			spec: schedulingv1beta1.PodGroupSpec{SchedulingPolicy: four, DisruptionMode: &schedulingv1beta1.DisruptionMode{All: &schedulingv1beta1.AllDisruptionMode{}}},
		},
		"disrupted one by one": {
			meta: groupMeta(), spec: schedulingv1beta1.PodGroupSpec{SchedulingPolicy: four, DisruptionMode: &schedulingv1beta1.DisruptionMode{Single: &schedulingv1beta1.SingleDisruptionMode{}}},
		},
		"an annotation without a meaning": {
			meta: groupMeta(podspec.AnnotationPartialGrace, "soon"), spec: schedulingv1beta1.PodGroupSpec{SchedulingPolicy: four},
			err: at + `annotation weft.sh/partial-grace is "soon": want a duration of 0 or more, such as 30s`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, ok, err := FromNative(&schedulingv1beta1.PodGroup{ObjectMeta: c.meta, Spec: c.spec})
			wantError(t, err, c.err)
			if want := c.err == "" && !c.notGang; ok != want {
				t.Errorf("a gang: %t, want %t", ok, want)
			}
			want := gang.Spec{}
			if ok {
				want = spec(gang.SourceNative, c.want)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
}

func TestCheck(t *testing.T) {
	pod := func(name, scheduler string, priority *int32) *v1.Pod {
		return &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1.PodSpec{SchedulerName: scheduler, Priority: priority}}
	}
	for name, c := range map[string]struct {
		members []*v1.Pod
		err     string
	}{
		"no members":              {},
		"fewer than the minimum":  {members: []*v1.Pod{pod("a", "weft", nil)}},
		"alike":                   {members: []*v1.Pod{pod("a", "weft", new(int32(5))), pod("b", "weft", new(int32(5)))}},
		"no priority, which is 0": {members: []*v1.Pod{pod("a", "weft", nil), pod("b", "weft", new(int32(0)))}},
		"two schedulers": {
			members: []*v1.Pod{pod("a", "weft", nil), pod("b", "weft", nil), pod("c", "default-scheduler", nil)},
			err:     `podgroup team/train: spec.schedulerName of the members is "weft (a) and default-scheduler (c)": want one scheduler for all members`,
		},
		"two priorities": {
			members: []*v1.Pod{pod("a", "weft", nil), pod("b", "weft", new(int32(100)))},
			err:     `podgroup team/train: spec.priority of the members is "0 (a) and 100 (b)": want one priority for all members`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			wantError(t, Check(spec(gang.SourceCRD, nil), c.members), c.err)
		})
	}
}

func TestDomains(t *testing.T) {
	levels := []string{"rack", gang.LevelNVLink, podspec.LabelClique, "zone"}
	for name, c := range map[string]struct {
		labels map[string]string
		levels []string
		want   []string
	}{
		"with everything":                     {map[string]string{"rack": "r1", "zone": "z", podspec.LabelClique: "u.1"}, levels, []string{"r1", "u.1", "u.1", "z"}},
		"without a fabric":                    {map[string]string{"rack": "r1"}, levels, []string{"r1", "node/n1", "", ""}},
		"without labels":                      {nil, levels, []string{"", "node/n1", "", ""}},
		"with a clique that is empty":         {map[string]string{podspec.LabelClique: ""}, levels, []string{"", "node/n1", "", ""}},
		"with a label that is called nvlink":  {map[string]string{gang.LevelNVLink: "x"}, levels, []string{"", "node/n1", "", ""}},
		"where the scheduler knows no levels": {map[string]string{"rack": "r1"}, nil, []string{}},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, Domains(c.labels, "n1", c.levels)); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
}
