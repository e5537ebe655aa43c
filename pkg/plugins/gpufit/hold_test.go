package gpufit

import (
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"

	"weft.sh/weft/pkg/cluster"
	"weft.sh/weft/pkg/gang"
	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/podspec"
)

// hold keeps half of the node's GPUs, and 40 of its 64 cores, for a gang of priority 5 that starts in an hour.
func (r *rig) hold(node string) *Hold {
	r.t.Helper()
	a, err := gpu.ParseAssignment("main=" + node + "-0," + node + "-1")
	if err != nil {
		r.t.Fatal(err)
	}
	h := NewHold(gang.Reservation{
		Gang: gang.Key{Namespace: "ns", Name: "big"}, Priority: 5, Start: r.now.Add(time.Hour), Expires: r.now.Add(2 * time.Hour),
		Shares: []gang.Share{{Node: node, Pods: []cluster.Pod{cluster.NewPod("big-0", "ns/big-0", a)}, Asks: []int64{40_000, 2, 1}}},
	}, []string{"cpu", podspec.ResourceGPU, "pods"})
	r.pl.shared.SetHolds([]*Hold{h})
	return h
}

func TestWhatIsKeptForAGang(t *testing.T) {
	cores := func(n int64) func(*v1.Pod) {
		return func(p *v1.Pod) {
			q := p.Spec.Containers[0].Resources.Requests[v1.ResourceCPU]
			q.SetMilli(1000 * n)
			p.Spec.Containers[0].Resources.Requests[v1.ResourceCPU] = q
		}
	}
	in := func(group string) func(*v1.Pod) {
		return func(p *v1.Pod) { p.Labels = map[string]string{podspec.LabelPodGroup: group} }
	}
	const reserved = "ReservedForGang: what is free is kept for a gang that waits"
	for name, tt := range map[string]struct {
		pod   *v1.Pod
		later time.Duration
		want  string
	}{
		"what is left beside it is given":               {pod: pod("p", whole(2))},
		"and no more":                                   {pod: pod("p", whole(3)), want: reserved},
		"what would not fit anyhow is told so":          {pod: pod("p", whole(5)), want: "TooFewGPUs: the node would be too small even when empty"},
		"a share of a GPU that is kept":                 {pod: pod("p", percent(1), annotate(podspec.AnnotationGPUCount, "3")), want: reserved},
		"a pod of the gang takes it":                    {pod: pod("p", whole(4), in("big"))},
		"a pod of another gang does not":                {pod: pod("p", whole(4), in("small")), want: reserved},
		"a pod of equal priority does not":              {pod: pod("p", whole(4), priority(5)), want: reserved},
		"a pod of higher priority does":                 {pod: pod("p", whole(4), priority(6))},
		"a pod that ends in time does":                  {pod: pod("p", whole(4), annotate(podspec.AnnotationRuntime, "1h"))},
		"a pod that ends too late does not":             {pod: pod("p", whole(4), annotate(podspec.AnnotationRuntime, "61m")), want: reserved},
		"a run time without a meaning is none":          {pod: pod("p", whole(4), annotate(podspec.AnnotationRuntime, "soon")), want: reserved},
		"half an hour later less of it ends in time":    {pod: pod("p", whole(4), annotate(podspec.AnnotationRuntime, "1h")), later: 30 * time.Minute, want: reserved},
		"when it has expired everybody does":            {pod: pod("p", whole(4)), later: 2 * time.Hour},
		"CPU is kept from pods with GPUs":               {pod: pod("p", whole(1), cores(25)), want: reserved},
		"and from pods without":                         {pod: pod("p", cores(25)), want: reserved},
		"what is left of it is not":                     {pod: pod("p", cores(24))},
		"CPU that there is not is for others to tell":   {pod: pod("p", cores(65))},
		"a pod without GPUs that ends in time takes it": {pod: pod("p", cores(60), annotate(podspec.AnnotationRuntime, "1h"))},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, `{}`)
			r.addNode("n", devices("n", "H100", 4)...)
			r.hold("n")
			r.now = r.now.Add(tt.later)
			if got := r.filter(r.cycleOf(tt.pod), tt.pod, "n"); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			back := r.pl.shared.HeldBack()
			if (len(back) == 1) != (tt.want == reserved) || len(r.pl.shared.HeldBack()) != 0 {
				t.Errorf("held back: %d pods", len(back))
			}
		})
	}
}

// TestReserveKeepsOffWhatIsKept: a pod gets GPUs that are not kept, and one that ends in time those that are.
func TestReserveKeepsOffWhatIsKept(t *testing.T) {
	r := newRig(t, `{}`)
	r.addNode("n", devices("n", "H100", 4)...)
	h := r.hold("n")
	r.reserve(pod("long", whole(2)), "n")
	r.reserve(pod("short", whole(2), annotate(podspec.AnnotationRuntime, "1m")), "n")
	if got := r.held("n"); got["ns/long"] != "main=n-2,n-3" || got["ns/short"] != "main=n-0,n-1" {
		t.Errorf("held: %v", got)
	}
	// The view of a node is made once for each state of it.
	n := r.pl.shared.cache.Node("n")
	first := h.view(n)
	if h.view(n) != first {
		t.Error("the view is made anew though the node is the same")
	}
	if h.view(n.Without("long")) == first {
		t.Error("the view is of a node as it was")
	}
}

// TestHintsLeaveOutWhatIsKept: a pod is not tried for what it will not get.
func TestHintsLeaveOutWhatIsKept(t *testing.T) {
	r := newRig(t, `{}`)
	r.addNode("n", devices("n", "H100", 4)...)
	r.hold("n")
	for name, p := range map[string]*v1.Pod{"QueueSkip": pod("p", whole(3)), "Queue": pod("q", whole(2))} {
		if got := r.pl.fitsNow(p, "n"); got.String() != name {
			t.Errorf("the hint for %s is %s, want %s", p.Name, got, name)
		}
	}
}
