package gang

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"weft.sh/weft/pkg/podspec"
)

// evenly has the members spread evenly over the topologies, by one at most.
func evenly(topologies ...string) func(*v1.Pod) {
	return func(p *v1.Pod) {
		for _, t := range topologies {
			p.Spec.TopologySpreadConstraints = append(p.Spec.TopologySpreadConstraints, v1.TopologySpreadConstraint{
				MaxSkew: 1, TopologyKey: t, WhenUnsatisfiable: v1.DoNotSchedule,
				LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{podspec.LabelPodGroup: p.Labels[podspec.LabelPodGroup]}},
			})
		}
	}
}

// together is required affinity between the members.
func together(topology string) func(*v1.Pod) {
	return func(p *v1.Pod) {
		p.Spec.Affinity = &v1.Affinity{PodAffinity: &v1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []v1.PodAffinityTerm{{
			TopologyKey:   topology,
			LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{podspec.LabelPodGroup: p.Labels[podspec.LabelPodGroup]}},
		}}}}
	}
}

func labelled(key, value string) func(*v1.Node) {
	return func(n *v1.Node) { n.Labels[key] = value }
}

// zoned are nodes with so many GPUs, for each zone: "8 8 | 3" are two nodes of 8 in zone z0, and one of 3 in z1.
func zoned(t *testing.T, description string) (out []*v1.Node) {
	t.Helper()
	for z, nodes := range strings.Split(description, "|") {
		for i, gpus := range strings.Fields(nodes) {
			var n int
			if _, err := fmt.Sscan(gpus, &n); err != nil {
				t.Fatal(err)
			}
			zone := fmt.Sprintf("z%d", z)
			out = append(out, node(fmt.Sprintf("%s-n%d", zone, i), n, labelled(v1.LabelTopologyZone, zone)))
		}
	}
	return out
}

const anyRow = "example.com/row"

// inRows puts the nodes into rows in turn, which no topology level of the scheduler is about.
func inRows(nodes []*v1.Node, rows int) []*v1.Node {
	for i, n := range nodes {
		n.Labels[anyRow] = fmt.Sprintf("r%d", i%rows)
	}
	return nodes
}

// perValue is how many of the bound pods are on nodes with each value of the label, sorted: "2 2 1".
func (r *rig) perValue(key string) string {
	r.t.Helper()
	byNode := map[string]string{}
	nodes, err := r.client.CoreV1().Nodes().List(r.t.Context(), metav1.ListOptions{})
	if err != nil {
		r.t.Fatal(err)
	}
	for _, n := range nodes.Items {
		byNode[n.Name] = n.Labels[key]
	}
	count := map[string]int{}
	for p := range strings.FieldsSeq(r.bound()) {
		_, node, _ := strings.Cut(p, "@")
		count[byNode[node]]++
	}
	sorted := slices.Sorted(maps.Values(count))
	slices.Reverse(sorted)
	return strings.Trim(fmt.Sprint(sorted), "[]")
}

// TestMembersBesideEachOther: what rules about other members allow is found, and what they forbid is told.
func TestMembersBesideEachOther(t *testing.T) {
	for name, tt := range map[string]struct {
		nodes   []*v1.Node
		members []*v1.Pod
		min     int
		change  []func(*unstructured.Unstructured)
		// per says how many members there are by value of the label key; nothing is bound where it is empty.
		key, per string
		said     []string
	}{
		"6 over 2 zones": {nodes: zoned(t, "8 8 | 8 8"), members: membersOf("g", 6, 1, evenly(v1.LabelTopologyZone)), key: v1.LabelTopologyZone, per: "3 3"},
		"12 over 3 zones": {
			nodes: zoned(t, "8 8 | 8 8 | 8 8"), members: membersOf("g", 12, 1, evenly(v1.LabelTopologyZone)), key: v1.LabelTopologyZone, per: "4 4 4",
		},
		"12 over 2 zones, whole nodes": {
			nodes: zoned(t, "8 8 8 8 8 8 8 8 | 8 8 8 8 8 8"), members: membersOf("g", 12, 8, evenly(v1.LabelTopologyZone)), key: v1.LabelTopologyZone, per: "6 6",
		},
		"6 over 2 zones, of which one has just enough in pieces": {
			nodes: zoned(t, "8 8 8 | 1 1 1"), members: membersOf("g", 6, 1, evenly(v1.LabelTopologyZone)), key: v1.LabelTopologyZone, per: "3 3",
		},
		"11 over 3 zones, of which one is a member short": {
			nodes: zoned(t, "8 8 | 2 1 | 8"), members: membersOf("g", 11, 1, evenly(v1.LabelTopologyZone)), key: v1.LabelTopologyZone, per: "4 4 3",
		},
		"12 over 3 zones, and at most one more on one node than on another": {
			nodes: zoned(t, "8 8 | 8 8 | 8 8"), members: membersOf("g", 12, 1, evenly(v1.LabelTopologyZone, v1.LabelHostname)), key: v1.LabelHostname, per: "2 2 2 2 2 2",
		},
		"over the rows of the one zone that is required": {
			nodes: inRows(zoned(t, "8 8 | 8 8 8"), 2), members: membersOf("g", 16, 1, evenly(anyRow)), change: []func(*unstructured.Unstructured){required(v1.LabelTopologyZone)},
			key: v1.LabelTopologyZone, per: "16",
		},
		"in the one row that has room for all": {
			nodes: inRows(zoned(t, "4 8 4 8 4 8"), 2), members: membersOf("g", 6, 4, together(anyRow)), key: anyRow, per: "6",
		},
		"of a gang that can do with fewer as many as are allowed": {
			nodes: zoned(t, "8 8 | 2"), members: membersOf("g", 9, 1, evenly(v1.LabelTopologyZone)), min: 4, key: v1.LabelTopologyZone, per: "3 2",
		},
		"a launcher and workers, spread alike": {
			nodes: zoned(t, "8 8 | 8 8"), members: append(membersOf("g", 5, 2, evenly(v1.LabelTopologyZone)), member("g", "launcher", 0, evenly(v1.LabelTopologyZone))),
			key: v1.LabelTopologyZone, per: "3 3",
		},
		"not where a zone has too little": {
			nodes: zoned(t, "8 8 | 2"), members: membersOf("g", 6, 1, evenly(v1.LabelTopologyZone)),
			said: []string{"InsufficientGangCapacity", "5 of at least 6 members have a place, and ns/g-5 is refused: 2 node(s) didn't match pod topology spread constraints"},
		},
		"not where there are fewer zones than members that must be apart": {
			nodes: zoned(t, "8 8 | 8"), members: membersOf("g", 3, 1, apart(v1.LabelTopologyZone)),
			said: []string{"InsufficientGangCapacity", "2 of at least 3 members have a place, and ns/g-2 is refused: 3 node(s) didn't match pod anti-affinity rules"},
		},
		"not in the zone that is required": {
			nodes: inRows(zoned(t, "8 8 | 8 8"), 2), members: membersOf("g", 4, 8, evenly(anyRow)), change: []func(*unstructured.Unstructured){required(v1.LabelTopologyZone)},
			said: []string{"TopologyDomainTooSmall"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			var first string
			for round := range 2 {
				inBubble(t, tt.nodes, func(r *rig) {
					least := int64(len(tt.members))
					if tt.min > 0 {
						least = int64(tt.min)
					}
					r.group("g", least, tt.change...)
					pods := make([]*v1.Pod, len(tt.members))
					for i, p := range tt.members {
						pods[i] = p.DeepCopy()
					}
					if round == 1 {
						slices.Reverse(pods) // it makes no difference in which order they are made
					}
					r.create(pods...)
					r.after(5 * time.Second)
					if got := r.perValue(tt.key); tt.key != "" && got != tt.per || tt.key == "" && r.number() != 0 {
						t.Fatalf("by %s %q are bound, want %q: %s; told %q", tt.key, got, tt.per, r.bound(), r.said("g-0"))
					}
					for _, said := range tt.said {
						if got := r.said("g-0"); !strings.Contains(got, said) {
							t.Errorf("told %q, want %q", got, said)
						}
					}
					if first == "" {
						first = r.bound()
					} else if got := r.bound(); tt.min == 0 && got != first { // surplus members go in the order of their cycles
						t.Errorf("the second time the places are %s, the first time %s", got, first)
					}
					r.idle()
				})
			}
		})
	}
}

// A member that is made in the place of one that is gone goes where it keeps the others evenly spread.
func TestAMemberThatIsReplacedGoesWhereTheSpreadAllowsIt(t *testing.T) {
	inBubble(t, zoned(t, "8 8 | 8 8 | 8 8"), func(r *rig) {
		r.group("g", 7)
		r.create(membersOf("g", 7, 1, evenly(v1.LabelTopologyZone))...)
		if got := r.perValue(v1.LabelTopologyZone); got != "3 2 2" {
			t.Fatalf("by zone %q are bound: %s", got, r.said("g-0"))
		}
		r.delete("g-1", "g-4") // both in z1
		r.after(time.Second)
		if got := r.perValue(v1.LabelTopologyZone); got != "3 2" {
			t.Fatalf("by zone %q are left: %s", got, r.bound())
		}
		for _, name := range []string{"g-1", "g-4"} {
			r.create(member("g", name, 1, evenly(v1.LabelTopologyZone)))
		}
		r.after(5 * time.Second)
		if got := r.perValue(v1.LabelTopologyZone); got != "3 2 2" {
			t.Errorf("by zone %q are bound: %s; told %q", got, r.bound(), r.said("g-1"))
		}
		r.idle()
	})
}

// Of many zones a few are short, and the node names say nothing about who is: the search has to see exactly how full each is.
func TestMembersOverManyZones(t *testing.T) {
	inBubble(t, zoned(t, "8|2|8|3|8|8|2"), func(r *rig) {
		r.group("g", 21)
		r.create(membersOf("g", 21, 1, evenly(v1.LabelTopologyZone))...)
		r.after(5 * time.Second)
		if r.number() != 0 {
			t.Errorf("bound: %s", r.bound())
		}
		// 2 are short of 3 in two zones, so 19 is the most there can be.
		if said := r.said("g-0"); !strings.Contains(said, "19 of at least 21 members have a place") {
			t.Errorf("told %q", said)
		}
	})
}

// TestWhoLeavesForMembersBesideEachOther: pods of 8 GPUs have the nodes, one is free where it says so.
func TestWhoLeavesForMembersBesideEachOther(t *testing.T) {
	for name, tt := range map[string]struct {
		nodes   string
		members []*v1.Pod
		// free is the node without a pod.
		free string
		// gone says how many leave in each zone.
		gone string
	}{
		"two in each zone": {nodes: "8 8 8 | 8 8 8", members: membersOf("g", 4, 8, evenly(v1.LabelTopologyZone), priority(10)), gone: "2 2"},
		"two in one zone, one beside the free node": {
			nodes: "8 8 8 | 8 8 8", free: "z1-n1", members: membersOf("g", 4, 8, evenly(v1.LabelTopologyZone), priority(10)), gone: "2 1",
		},
		"in three zones":                    {nodes: "8 8 8 | 8 8 | 8 8 8", members: membersOf("g", 6, 8, evenly(v1.LabelTopologyZone), priority(10)), gone: "2 2 2"},
		"nobody, where a zone is too small": {nodes: "8 8 8 8 8 | 8", members: membersOf("g", 4, 8, evenly(v1.LabelTopologyZone), priority(10))},
		"nobody of the same priority":       {nodes: "8 8 8 | 8 8 8", members: membersOf("g", 4, 8, evenly(v1.LabelTopologyZone))},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, zoned(t, tt.nodes), func(r *rig) {
				r.linger()
				var old []*v1.Pod
				zone := map[string]string{}
				for _, n := range zoned(t, tt.nodes) {
					if n.Name == tt.free {
						continue
					}
					p := asks("on-"+n.Name, gpus(8), startedBefore(time.Hour), selects(v1.LabelHostname, n.Name))
					zone[p.Name] = n.Labels[v1.LabelTopologyZone]
					old = append(old, p)
				}
				r.create(old...)
				if r.number() != len(old) {
					t.Fatalf("bound: %s", r.bound())
				}
				r.group("g", int64(len(tt.members)))
				r.create(tt.members...)
				r.after(45 * time.Second) // it is tried again meanwhile, and what is kept has not expired
				count := map[string]int{}
				leaving := strings.Fields(r.leaving(old...))
				for _, name := range leaving {
					count[zone[name]]++
				}
				sorted := slices.Sorted(maps.Values(count))
				slices.Reverse(sorted)
				if got := strings.Trim(fmt.Sprint(sorted), "[]"); got != tt.gone {
					t.Fatalf("by zone %q leave, want %q: %q; told %q", got, tt.gone, leaving, r.said("g-0"))
				}
				r.letGo(leaving...)
				r.after(15 * time.Second)
				want := len(old) - len(leaving)
				if tt.gone != "" {
					want += len(tt.members)
				}
				if r.number() != want {
					t.Errorf("%d are bound, want %d: %s; told %q", r.number(), want, r.bound(), r.said("g-0"))
				}
			})
		})
	}
}
