package gang

import (
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"weft.sh/weft/pkg/podspec"
)

// plain is a pod without GPUs.
func plain(name, cores string, change ...func(*v1.Pod)) *v1.Pod {
	p := asks(name)
	p.Spec.Containers[0].Resources = v1.ResourceRequirements{Requests: v1.ResourceList{v1.ResourceCPU: resource.MustParse(cores)}}
	for _, f := range change {
		f(p)
	}
	return p
}

func never(p *v1.Pod) { policy := v1.PreemptNever; p.Spec.PreemptionPolicy = &policy }

// TestNobodyTakesThePlaceOfAMemberThatItsGangNeeds: the gang leaves as a whole, or members above its minimum, or nobody of it. The nodes
// have 16 cores and 8 GPUs each.
func TestNobodyTakesThePlaceOfAMemberThatItsGangNeeds(t *testing.T) {
	big := needs("12")
	for name, tt := range map[string]struct {
		nodes  int
		min    int64
		change []func(*unstructured.Unstructured)
		old    []*v1.Pod
		pod    *v1.Pod
		want   string
	}{
		"a pod without GPUs: the whole gang, where nothing else helps": {
			nodes: 2, min: 2, old: membersOf("old", 2, 1, big), pod: plain("new", "8", priority(10)), want: "old-0 old-1",
		},
		"a pod without GPUs: a member above the minimum, the last": {
			nodes: 3, min: 2, old: membersOf("old", 3, 1, big), pod: plain("new", "8", priority(10)), want: "old-2",
		},
		"a pod without GPUs: all, where the gang would start anew": {
			nodes: 2, min: 1, change: []func(*unstructured.Unstructured){restarts}, old: membersOf("old", 2, 1, big),
			pod: plain("new", "8", priority(10)), want: "old-0 old-1",
		},
		"a pod without GPUs: one that is in no gang, even of higher priority": {
			nodes: 3, min: 2, old: append(membersOf("old", 2, 1, big), plain("b", "12", priority(5))), pod: plain("new", "8", priority(10)), want: "b",
		},
		"a pod without GPUs: nobody, where no node is large enough": {
			nodes: 2, min: 2, old: membersOf("old", 2, 1, big), pod: plain("new", "17", priority(10)),
		},
		"a pod without GPUs: nobody of the same priority": {
			nodes: 2, min: 2, old: membersOf("old", 2, 1, big, priority(10)), pod: plain("new", "8", priority(10)),
		},
		"a pod that is to preempt nobody": {
			nodes: 2, min: 2, old: membersOf("old", 2, 1, big), pod: plain("new", "8", priority(10), never),
		},
		"a pod without GPUs that wants a host port: one that has it": {
			nodes: 3, min: 2, old: append(membersOf("old", 2, 1, hostPort), plain("b", "1", hostPort)), pod: plain("new", "1", priority(10), hostPort), want: "b",
		},
		"a pod without GPUs that wants a host port: nobody, where only members have it": {
			nodes: 2, min: 2, old: membersOf("old", 2, 1, hostPort), pod: plain("new", "1", priority(10), hostPort),
		},
		"a pod with GPUs that wants a host port: one that has it": {
			nodes: 3, min: 2, old: append(membersOf("old", 2, 1, hostPort), plain("b", "1", hostPort)), pod: asks("new", priority(10), hostPort), want: "b",
		},
		"a pod with GPUs that wants a host port: a member above the minimum": {
			nodes: 2, min: 1, old: membersOf("old", 2, 1, hostPort), pod: asks("new", priority(10), hostPort), want: "old-1",
		},
		"a pod with GPUs that wants a host port: nobody, where only members have it": {
			nodes: 2, min: 2, old: membersOf("old", 2, 1, hostPort), pod: asks("new", priority(10), hostPort),
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, nodesOf(tt.nodes, 8), func(r *rig) {
				r.linger()
				old := make([]*v1.Pod, len(tt.old))
				for i, p := range tt.old {
					old[i] = p.DeepCopy()
					startedBefore(time.Hour)(old[i])
				}
				r.group("old", tt.min, tt.change...)
				r.create(old...)
				r.after(2 * time.Second) // one of higher priority may have taken a place that was planned
				if n := r.number(); n != len(old) {
					t.Fatalf("bound: %s", r.bound())
				}
				r.create(tt.pod.DeepCopy())
				r.after(time.Minute) // it is tried again and again meanwhile, and its victims take their time
				if got := r.leaving(old...); got != tt.want {
					t.Fatalf("leaving: %q, want %q; told %q", got, tt.want, r.said("new"))
				}
				for _, p := range old {
					if r.pod(p.Name).DeletionTimestamp != nil {
						r.letGo(p.Name)
					}
				}
				r.after(11 * time.Second)
				if bound := r.pod("new").Spec.NodeName != ""; bound != (tt.want != "") {
					t.Errorf("bound: %s; told %q", r.bound(), r.said("new"))
				}
			})
		})
	}
}

// A member of a gang that is only being bound is not chosen either.
func TestNobodyTakesThePlaceOfAGangThatIsBeingBound(t *testing.T) {
	withoutNominations(t)
	inBubble(t, nodesOf(2, 8), func(r *rig) {
		r.refuse = func(pod, _ string) error {
			if pod == "old-1" {
				return apierrors.NewTooManyRequests("busy", 0)
			}
			return nil
		}
		r.group("old", 2)
		old := membersOf("old", 2, 1, needs("12"))
		for _, p := range old {
			p.Annotations[podspec.AnnotationCheckpointedAt] = time.Now().UTC().Format(time.RFC3339)
		}
		r.create(old...)
		if got := r.bound(); got != "old-0@n0" {
			t.Fatalf("bound: %s", got)
		}
		r.create(plain("new", "8", priority(10)))
		r.after(100 * time.Millisecond)
		if got := r.leaving(old...); got != "" {
			t.Errorf("leaving: %q", got)
		}
	})
}
