package gang

import (
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"weft.sh/weft/pkg/podspec"
)

// apart is required anti-affinity between the members, by the topology key.
func apart(topology string) func(*v1.Pod) {
	return func(p *v1.Pod) {
		p.Spec.Affinity = &v1.Affinity{PodAntiAffinity: &v1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []v1.PodAffinityTerm{{
			TopologyKey:   topology,
			LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{podspec.LabelPodGroup: p.Labels[podspec.LabelPodGroup]}},
		}}}}
	}
}

func hostPort(p *v1.Pod) {
	p.Spec.Containers[0].Ports = []v1.ContainerPort{{ContainerPort: 29500, HostPort: 29500}}
}

func tainted(n *v1.Node) {
	n.Spec.Taints = []v1.Taint{{Key: "maintenance", Effect: v1.TaintEffectNoSchedule}}
}

func cores(n string) func(*v1.Node) {
	return func(o *v1.Node) { o.Status.Allocatable[v1.ResourceCPU] = resource.MustParse(n) }
}

// TestWhatOtherPluginsSay: the plan holds with all plugins, or there is none and the reason is told.
func TestWhatOtherPluginsSay(t *testing.T) {
	for name, tt := range map[string]struct {
		nodes   []*v1.Node
		members []*v1.Pod
		bound   int
		// apart says that each member has a node of its own.
		apart bool
		said  string
	}{
		"members that must be apart are":                    {nodes: nodesOf(3, 8), members: membersOf("g", 3, 1, apart(v1.LabelHostname)), bound: 3, apart: true},
		"and are refused where there are too few nodes":     {nodes: nodesOf(2, 8), members: membersOf("g", 3, 1, apart(v1.LabelHostname)), said: "InsufficientGangCapacity"},
		"members with the same host port are apart":         {nodes: nodesOf(3, 8), members: membersOf("g", 3, 1, hostPort), bound: 3, apart: true},
		"nodes with a taint are left out":                   {nodes: append(nodesOf(1, 8), node("bad", 8, tainted)), members: membersOf("g", 2, 4), bound: 2},
		"a taint is told":                                   {nodes: []*v1.Node{node("bad", 8, tainted)}, members: membersOf("g", 2, 4), said: "untolerated taint(s)"},
		"CPU is counted for all members together":           {nodes: []*v1.Node{node("a", 8, cores("3"))}, members: membersOf("g", 4, 1), said: "InsufficientGangCapacity"},
		"and spreads members where GPUs alone would not":    {nodes: []*v1.Node{node("a", 8, cores("3")), node("b", 8, cores("2"))}, members: membersOf("g", 5, 1), bound: 5},
		"a launcher needs no GPU":                           {nodes: append(nodesOf(1, 4), node("cpu", 0)), members: append(membersOf("g", 4, 1), member("g", "launcher", 0)), bound: 5},
		"a claim that is not there is told of":              {nodes: nodesOf(1, 8), members: membersOf("g", 2, 1, claim("data")), said: `"data" not found`},
		"a selector that no node has":                       {nodes: nodesOf(1, 8), members: membersOf("g", 2, 1, selects("pool", "x")), said: "didn't match Pod's node affinity/selector"},
		"a member that asks for what has no meaning is one": {nodes: nodesOf(1, 8), members: append(membersOf("g", 1, 1), member("g", "bad", 1, floored)), said: "InvalidRequest"},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, tt.nodes, func(r *rig) {
				r.group("g", int64(len(tt.members)))
				r.create(tt.members...)
				r.after(5 * time.Second)
				if n := r.number(); n != tt.bound {
					r.t.Fatalf("bound: %q, told %q", r.bound(), r.said(tt.members[0].Name))
				}
				if said := r.said(tt.members[0].Name); tt.bound == 0 && !strings.Contains(said, tt.said) {
					r.t.Errorf("told %q, want %q", said, tt.said)
				}
				nodes := map[string]bool{}
				for p := range strings.FieldsSeq(r.bound()) {
					_, node, _ := strings.Cut(p, "@")
					nodes[node] = true
				}
				if tt.apart && len(nodes) != tt.bound {
					r.t.Errorf("bound: %q, want each on its own node", r.bound())
				}
				r.idle()
			})
		})
	}
}

func claim(name string) func(*v1.Pod) {
	return func(p *v1.Pod) {
		p.Spec.Volumes = []v1.Volume{{Name: "data", VolumeSource: v1.VolumeSource{
			PersistentVolumeClaim: &v1.PersistentVolumeClaimVolumeSource{ClaimName: name},
		}}}
	}
}

func selects(key, value string) func(*v1.Pod) {
	return func(p *v1.Pod) { p.Spec.NodeSelector = map[string]string{key: value} }
}

func floored(p *v1.Pod) { p.Annotations[podspec.AnnotationGPUMemory] = "lots" }

// TestGangsThatCannotBePlanned are held back without a condition.
func TestGangsThatCannotBePlanned(t *testing.T) {
	gated := func(p *v1.Pod) { p.Spec.SchedulingGates = []v1.PodSchedulingGate{{Name: "quota"}} }
	native := func(p *v1.Pod) {
		name := "g"
		p.Spec.SchedulingGroup = &v1.PodSchedulingGroup{PodGroupName: &name}
	}
	important := func(p *v1.Pod) { n := int32(7); p.Spec.Priority = &n }
	elsewhere := func(p *v1.Pod) { p.Spec.SchedulerName = "default-scheduler" }
	for name, tt := range map[string]struct {
		level  string
		second func(*v1.Pod)
		want   string
	}{
		"an unknown level":          {level: "example.com/row", want: "UnknownTopology"},
		"two schedulers":            {second: elsewhere, want: "one scheduler for all members"},
		"two priorities":            {second: important, want: "one priority for all members"},
		"a member that is gated":    {second: gated, want: "GangIncomplete"},
		"a native group":            {second: native, want: "GangIncomplete"},
		"one that is all right":     {},
		"with a level that is kept": {level: "nvlink"},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, nodesOf(2, 8), func(r *rig) {
				if tt.level != "" {
					r.group("g", 2, required(tt.level))
				} else {
					r.group("g", 2)
				}
				second := member("g", "g-1", 1)
				if tt.second != nil {
					tt.second(second)
				}
				r.create(member("g", "g-0", 1), second)
				r.after(time.Minute)
				bound := r.number()
				status := r.gangs.plugin("weft").PreEnqueue(t.Context(), r.pod("g-0"))
				switch {
				case tt.want == "" && (bound != 2 || !status.IsSuccess()):
					r.t.Errorf("bound: %q, PreEnqueue says %v", r.bound(), status)
				case tt.want != "" && (bound != 0 || r.said("g-0") != "" || !strings.Contains(status.Message(), tt.want)):
					r.t.Errorf("bound: %q, told %q; PreEnqueue says %q, want %q", r.bound(), r.said("g-0"), status.Message(), tt.want)
				}
				r.idle()
			})
		})
	}
}

// TestNativePodGroupsAreNotScheduledOneByOne where the framework does not handle them.
func TestNativePodGroupsAreNotScheduledOneByOne(t *testing.T) {
	inBubble(t, nodesOf(1, 8), func(r *rig) {
		name := "g"
		r.create(asks("p", func(p *v1.Pod) { p.Spec.SchedulingGroup = &v1.PodSchedulingGroup{PodGroupName: &name} }))
		r.after(time.Minute)
		status := r.gangs.plugin("weft").PreEnqueue(t.Context(), r.pod("p"))
		if r.number() != 0 || r.said("p") != "" || !strings.Contains(status.Message(), "GenericWorkload") {
			r.t.Errorf("bound: %q, told %q; PreEnqueue says %q", r.bound(), r.said("p"), status.Message())
		}
	})
}
