package gang

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	clienttesting "k8s.io/client-go/testing"
	fwk "k8s.io/kube-scheduler/framework"

	"weft.sh/weft/pkg/podspec"
)

func priority(n int32) func(*v1.Pod) { return func(p *v1.Pod) { p.Spec.Priority = &n } }

func runsFor(d time.Duration) func(*v1.Pod) {
	return func(p *v1.Pod) {
		metav1.SetMetaDataAnnotation(&p.ObjectMeta, podspec.AnnotationRuntime, d.String())
		p.Status.StartTime = &metav1.Time{Time: time.Now()}
	}
}

// startedBefore says since when the pod computes.
func startedBefore(d time.Duration) func(*v1.Pod) {
	return func(p *v1.Pod) { p.Status.StartTime = &metav1.Time{Time: time.Now().Add(-d)} }
}

func gpus(n int64) func(*v1.Pod) {
	return func(p *v1.Pod) {
		p.Spec.Containers[0].Resources.Limits[podspec.ResourceGPU] = *resource.NewQuantity(n, resource.DecimalSI)
	}
}

func needs(cores string) func(*v1.Pod) {
	return func(p *v1.Pod) {
		p.Spec.Containers[0].Resources.Requests = v1.ResourceList{v1.ResourceCPU: resource.MustParse(cores)}
	}
}

// linger makes deleted pods stay until they are let go, as pods do that take their time to end.
func (r *rig) linger() {
	r.client.PrependReactor("delete", "pods", func(action clienttesting.Action) (bool, runtime.Object, error) {
		gvr := v1.SchemeGroupVersion.WithResource("pods")
		o, err := r.client.Tracker().Get(gvr, "ns", action.(clienttesting.DeleteAction).GetName())
		if err != nil {
			return true, nil, err
		}
		p := o.(*v1.Pod).DeepCopy()
		p.DeletionTimestamp = &metav1.Time{Time: time.Now().Add(30 * time.Second)}
		return true, nil, r.client.Tracker().Update(gvr, p, "ns")
	})
}

func (r *rig) letGo(names ...string) {
	r.t.Helper()
	for _, name := range names {
		if err := r.client.Tracker().Delete(v1.SchemeGroupVersion.WithResource("pods"), "ns", name); err != nil {
			r.t.Fatal(err)
		}
	}
}

// leaving are the names of the pods that are being deleted or are gone, of those that there were.
func (r *rig) leaving(there ...*v1.Pod) string {
	r.t.Helper()
	list, err := r.client.CoreV1().Pods("ns").List(r.t.Context(), metav1.ListOptions{})
	if err != nil {
		r.t.Fatal(err)
	}
	stays := map[string]bool{}
	for _, p := range list.Items {
		stays[p.Name] = p.DeletionTimestamp == nil
	}
	var out []string
	for _, p := range there {
		if !stays[p.Name] {
			out = append(out, p.Name)
		}
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

// kept are the nodes of which something is kept.
func (r *rig) kept() string {
	var out []string
	for _, h := range r.gangs.gpus.Holds() {
		for _, s := range h.Shares {
			out = append(out, h.Gang.Name+"@"+s.Node)
		}
	}
	return strings.Join(out, " ")
}

func restarts(u *unstructured.Unstructured) {
	u.SetAnnotations(map[string]string{podspec.AnnotationOnMemberLost: "restart"})
}

// TestWhoLeaves: three nodes of 8 GPUs are full, and a gang of higher priority asks for one of them.
func TestWhoLeaves(t *testing.T) {
	for name, tt := range map[string]struct {
		min    int64
		change []func(*unstructured.Unstructured)
		pods   []*v1.Pod
		want   string
	}{
		"a member above the minimum, the last":          {min: 2, pods: membersOf("old", 3, 8), want: "old-2"},
		"the whole gang, where it can spare none":       {min: 3, pods: membersOf("old", 3, 8), want: "old-0 old-1 old-2"},
		"the whole gang, where it would start anew":     {min: 2, change: []func(*unstructured.Unstructured){restarts}, pods: membersOf("old", 3, 8), want: "old-0 old-1 old-2"},
		"nobody of the same priority":                   {min: 2, pods: membersOf("old", 3, 8, priority(10))},
		"nobody, where the gang waits as it was told":   {min: 2, pods: membersOf("old", 3, 8, priority(20))},
		"the pod that has computed least":               {pods: []*v1.Pod{asks("a", gpus(8)), asks("b", gpus(8)), asks("c", gpus(8))}, want: "b"},
		"a single pod, and not a gang of two nodes":     {min: 2, pods: append(membersOf("old", 2, 8), asks("a", gpus(8))), want: "a"},
		"who is lower, whatever was computed":           {pods: []*v1.Pod{asks("a", gpus(8), priority(5)), asks("b", gpus(8)), asks("c", gpus(8), priority(5))}, want: "b"},
		"the smaller part of a node, if that is enough": {pods: []*v1.Pod{asks("a", gpus(8), priority(5)), asks("b", gpus(8), priority(5)), asks("c", gpus(2)), asks("d", gpus(6))}, want: "c d"},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, nodesOf(3, 8), func(r *rig) {
				r.linger()
				for _, p := range tt.pods {
					hours := time.Hour
					if p.Name != "b" {
						hours = 3 * time.Hour
					}
					startedBefore(hours)(p)
				}
				if tt.min > 0 {
					r.group("old", tt.min, tt.change...)
				}
				r.create(tt.pods...)
				if n := r.number(); n != len(tt.pods) {
					r.t.Fatalf("bound: %s", r.bound())
				}
				r.group("new", 1)
				r.create(member("new", "new-0", 8, priority(10)))
				r.after(time.Second)
				if got := r.leaving(tt.pods...); got != tt.want {
					r.t.Errorf("leaving: %q, want %q; the gang was told %q", got, tt.want, r.said("new-0"))
				}
				if before := r.kept(); (before != "") != (tt.want != "") {
					r.t.Errorf("kept is %q", before)
				}
			})
		})
	}
}

// TestPlacesAreKeptUntilTheVictimsAreGone: nobody takes them, nobody else has to leave, and a restart makes no difference.
func TestPlacesAreKeptUntilTheVictimsAreGone(t *testing.T) {
	for name, restart := range map[string]bool{"": false, "after a restart": true} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, nodesOf(3, 8), func(r *rig) {
				r.linger()
				old := []*v1.Pod{asks("a", gpus(8)), asks("b", gpus(8)), asks("c", gpus(8))}
				r.create(old...)
				r.number()
				r.group("new", 2)
				r.create(membersOf("new", 2, 8, priority(10))...)
				r.after(time.Second)
				victims := strings.Fields(r.leaving(old...))
				if len(victims) != 2 {
					r.t.Fatalf("leaving: %v", victims)
				}
				if restart {
					r.cancel()
					r.start()
					r.after(5 * time.Second) // its first cycle may not see the nodes yet, as the real one's does
					if kept := r.kept(); len(strings.Fields(kept)) != 2 {
						r.t.Fatalf("after the restart kept is %q; told %q", kept, r.said("new-0"))
					}
				}
				r.letGo(victims[0])
				r.create(asks("thief"), asks("higher", priority(11)))
				r.after(5 * time.Second)
				if said := r.said("thief"); !strings.Contains(said, "ReservedForGang") {
					r.t.Errorf("the thief was told %q", said)
				}
				if r.pod("higher").Spec.NodeName == "" {
					r.t.Errorf("a pod of higher priority was told %q", r.said("higher"))
				}
				r.delete("higher")
				r.letGo("higher")
				r.after(5 * time.Second)
				if got := r.leaving(old...); got != strings.Join(victims, " ") {
					r.t.Errorf("leaving: %q, want %v", got, victims)
				}
				r.letGo(victims[1])
				r.after(11 * time.Second)
				if got := r.bound(); strings.Count(got, "new-") != 2 || strings.Contains(got, "thief") || r.kept() != "" {
					r.t.Errorf("bound: %s; kept: %s", got, r.kept())
				}
				r.idle()
			})
		})
	}
}

func TestAnEvictionThatFailsIsTriedAgain(t *testing.T) {
	inBubble(t, nodesOf(1, 8), func(r *rig) {
		broken := true
		r.client.PrependReactor("delete", "pods", func(clienttesting.Action) (bool, runtime.Object, error) {
			return broken, nil, errors.New("no")
		})
		old := asks("a", gpus(8))
		r.create(old)
		r.number()
		r.group("new", 1)
		r.create(membersOf("new", 1, 8, priority(10))...)
		r.after(time.Second)
		if r.kept() != "" || r.leaving(old) != "" {
			r.t.Fatalf("kept: %q, gone: %q", r.kept(), r.leaving(old))
		}
		broken = false
		r.after(evictionBackoff + 15*time.Second)
		if r.pod("new-0").Spec.NodeName == "" || r.leaving(old) != "a" {
			r.t.Errorf("bound: %q, told %q", r.bound(), r.said("new-0"))
		}
	})
}

// TestVictimsThatNeverLeave: what they have is not waited for without end, and they are not counted on again.
func TestVictimsThatNeverLeave(t *testing.T) {
	inBubble(t, nodesOf(1, 8), func(r *rig) {
		r.linger()
		r.create(asks("a", gpus(8)))
		r.number()
		r.group("new", 1)
		r.create(membersOf("new", 1, 8, priority(10))...)
		r.after(time.Second)
		if r.kept() != "new@n0" {
			r.t.Fatalf("kept: %q", r.kept())
		}
		r.after(2 * time.Minute)
		if r.kept() != "" {
			r.t.Errorf("after two minutes kept is %q", r.kept())
		}
		r.letGo("a")
		r.after(11 * time.Second)
		if n := r.number(); n != 1 {
			r.t.Errorf("told %q", r.said("new-0"))
		}
	})
}

// TestCPUIsKeptToo: a gang that waits for GPUs has its CPU when they are free.
func TestCPUIsKeptToo(t *testing.T) {
	inBubble(t, nodesOf(1, 8), func(r *rig) { // of 16 cores
		none := func(p *v1.Pod) { p.Spec.Containers[0].Resources.Limits = nil }
		r.create(asks("a", gpus(8), runsFor(time.Hour)))
		r.number()
		r.group("new", 1)
		r.create(member("new", "new-0", 8, needs("12")))
		r.after(time.Second)
		if r.kept() != "new@n0" {
			r.t.Fatalf("kept: %q, told %q", r.kept(), r.said("new-0"))
		}
		r.create(asks("large", none, needs("5")), asks("small", none, needs("4")), asks("short", none, needs("8"), runsFor(time.Minute)))
		if got := r.bound(); got != "a@n0 short@n0 small@n0" {
			r.t.Errorf("bound: %s", got)
		}
		if said := r.said("large"); !strings.Contains(said, "ReservedForGang") {
			r.t.Errorf("told %q", said)
		}
		r.delete("a", "short")
		r.after(11 * time.Second)
		if got := r.bound(); got != "new-0@n0 small@n0" {
			r.t.Errorf("bound: %s", got)
		}
		r.delete("new-0")
		r.after(11 * time.Second)
		if got := r.bound(); got != "large@n0 small@n0" {
			r.t.Errorf("bound: %s", got)
		}
	})
}

// TestOneGangOfAPriorityHasAReservation, the oldest; the next one has it after that, and keeps off what is kept for a higher one.
func TestOneGangOfAPriorityHasAReservation(t *testing.T) {
	inBubble(t, nodesOf(2, 8), func(r *rig) {
		r.create(asks("a", gpus(8), runsFor(time.Hour), priority(9)), asks("b", gpus(8), runsFor(2*time.Hour), priority(9)))
		r.number()
		for _, name := range []string{"first", "second"} {
			r.group(name, 1)
			r.create(membersOf(name, 1, 8)...)
			r.after(2 * time.Second)
		}
		if got := r.kept(); got != "first@n0" && got != "first@n1" {
			r.t.Fatalf("kept: %q", got)
		}
		r.group("high", 1)
		r.create(membersOf("high", 1, 8, priority(5))...)
		r.after(5 * time.Second)
		if got := len(strings.Fields(r.kept())); got != 2 || !strings.HasPrefix(r.kept(), "high@") {
			r.t.Errorf("kept: %q", r.kept())
		}
		r.delete("a")
		r.after(11 * time.Second)
		if got := r.bound(); !strings.Contains(got, "high-0") {
			r.t.Fatalf("bound: %s", got)
		}
		r.delete("b")
		r.after(11 * time.Second)
		if got := r.bound(); !strings.Contains(got, "first-0") || strings.Contains(got, "second-0") {
			r.t.Fatalf("bound: %s", got)
		}
		r.delete("high-0")
		r.after(11 * time.Second)
		if got := r.bound(); !strings.Contains(got, "second-0") || r.kept() != "" {
			r.t.Errorf("bound: %s; kept: %s", got, r.kept())
		}
	})
}

// TestAPodThatRunsLongerThanItSays moves the start, and nothing else.
func TestAPodThatRunsLongerThanItSays(t *testing.T) {
	inBubble(t, nodesOf(1, 8), func(r *rig) {
		r.create(asks("a", gpus(4), runsFor(time.Minute)))
		r.number()
		r.group("new", 1)
		r.create(membersOf("new", 1, 8)...)
		r.after(10 * time.Minute)
		if r.kept() != "new@n0" {
			r.t.Fatalf("kept: %q", r.kept())
		}
		if start := r.gangs.gpus.Holds()[0].Start; !start.After(time.Now()) || start.After(time.Now().Add(2*time.Minute)) {
			r.t.Errorf("starts at %s, it is %s", start, time.Now())
		}
		r.create(asks("long", gpus(4)))
		r.after(time.Second)
		if said := r.said("long"); !strings.Contains(said, "ReservedForGang") {
			r.t.Errorf("told %q", said)
		}
		r.delete("a")
		r.after(11 * time.Second)
		if got := r.bound(); got != "new-0@n0" {
			r.t.Errorf("bound: %s", got)
		}
	})
}

// TestWhatAGangNoLongerNeedsIsKeptNoLonger.
func TestWhatAGangNoLongerNeedsIsKeptNoLonger(t *testing.T) {
	for name, change := range map[string]func(r *rig){
		"its PodGroup is gone": func(r *rig) {
			if err := r.groups.Delete(r.t.Context(), "new", metav1.DeleteOptions{}); err != nil {
				r.t.Fatal(err)
			}
		},
		"a member is gone": func(r *rig) { r.delete("new-1") },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, nodesOf(2, 8), func(r *rig) {
				r.create(asks("a", gpus(8), runsFor(time.Hour)))
				r.number()
				r.group("new", 2)
				r.create(membersOf("new", 2, 8)...)
				r.after(time.Second)
				r.create(asks("long", gpus(8)))
				r.after(time.Second)
				if said := r.said("long"); !strings.Contains(said, "ReservedForGang") {
					r.t.Fatalf("told %q, kept %q", said, r.kept())
				}
				change(r)
				r.after(time.Second)
				if got := r.bound(); !strings.Contains(got, "long") || r.kept() != "" {
					r.t.Errorf("bound: %s, kept: %s", got, r.kept())
				}
			})
		})
	}
}

// TestASinglePodTakesThePlaceOfAWholeGang: a member alone would leave the others running for nothing.
func TestASinglePodTakesThePlaceOfAWholeGang(t *testing.T) {
	for name, tt := range map[string]struct {
		min  int64
		pods []*v1.Pod
		want string
	}{
		"all of it":                            {min: 2, pods: membersOf("old", 2, 8), want: "old-0 old-1"},
		"a member above the minimum":           {min: 1, pods: membersOf("old", 2, 8), want: "old-1"},
		"or a pod, which is less":              {min: 1, pods: append(membersOf("old", 1, 8), asks("b", gpus(8))), want: "b"},
		"nobody of the same priority":          {min: 2, pods: membersOf("old", 2, 8, priority(10))},
		"without gangs it is as it always was": {pods: []*v1.Pod{asks("a", gpus(8), priority(1)), asks("b", gpus(8))}, want: "b"},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, nodesOf(2, 8), func(r *rig) {
				for _, p := range tt.pods {
					hours := time.Hour
					if p.Name != "b" {
						hours = 3 * time.Hour
					}
					startedBefore(hours)(p)
				}
				if tt.min > 0 {
					r.group("old", tt.min)
				}
				r.create(tt.pods...)
				if n := r.number(); n != len(tt.pods) {
					r.t.Fatalf("bound: %s", r.bound())
				}
				r.create(asks("new", gpus(8), priority(10)))
				r.after(11 * time.Second)
				if got := r.leaving(tt.pods...); got != tt.want {
					r.t.Errorf("gone: %q, want %q; told %q", got, tt.want, r.said("new"))
				}
				if bound := r.pod("new").Spec.NodeName != ""; bound != (tt.want != "") {
					r.t.Errorf("bound: %s; told %q", r.bound(), r.said("new"))
				}
			})
		})
	}
}

// TestFullNodesCountForTheReason: a domain that is full is not one that is too small.
func TestFullNodesCountForTheReason(t *testing.T) {
	const rack = "topology.kubernetes.io/rack"
	var nodes []*v1.Node
	for _, name := range []string{"a0", "a1", "b0", "b1"} {
		nodes = append(nodes, node(name, 8, func(n *v1.Node) { n.Labels[rack] = name[:1] }))
	}
	for members, want := range map[int]string{2: "InsufficientDomainCapacity", 3: "TopologyDomainTooSmall"} {
		inBubble(t, nodes, func(r *rig) {
			r.create(asks("w", gpus(8)), asks("x", gpus(8)), asks("y", gpus(8)), asks("z", gpus(1)))
			r.number()
			r.group("new", int64(members), required(rack))
			r.create(membersOf("new", members, 8)...)
			r.after(time.Second)
			if said := r.said("new-0"); !strings.Contains(said, want) {
				r.t.Errorf("%d members were told %q, want %s", members, said, want)
			}
		})
	}
}

// TestAPlanThatIsUndoneLosesNothing: until the gang is released, what was kept for it is.
func TestAPlanThatIsUndoneLosesNothing(t *testing.T) {
	inBubble(t, nodesOf(2, 8), func(r *rig) {
		old := []*v1.Pod{asks("a", gpus(8)), asks("b", gpus(8))}
		r.create(old...)
		r.number()
		fails := 1
		r.trouble.reserve = func(pod string) *fwk.Status {
			if pod == "new-1" && fails > 0 {
				fails--
				return fwk.NewStatus(fwk.Unschedulable, "not now")
			}
			return nil
		}
		r.group("new", 2)
		r.create(membersOf("new", 2, 8, priority(10))...)
		for range 100 {
			if r.after(100 * time.Millisecond); fails == 0 {
				break
			}
		}
		r.create(asks("thief")) // before the gang is planned again
		if said := r.said("thief"); !strings.Contains(said, "ReservedForGang") {
			r.t.Errorf("the thief was told %q", said)
		}
		r.after(30 * time.Second)
		if got := r.bound(); got != "new-0@n0 new-1@n1" || fails != 0 || r.kept() != "" {
			r.t.Errorf("bound: %s; kept: %q", got, r.kept())
		}
	})
}
