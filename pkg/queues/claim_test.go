package queues

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"weft.sh/weft/pkg/apis/weft/v1alpha1"
	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/podspec"
	"weft.sh/weft/pkg/quota"
)

const (
	h100 = "NVIDIA-H100-80GB-HBM3"
	a30  = "NVIDIA-A30"
)

func node(product string, labels ...string) *v1.Node {
	n := &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", Labels: map[string]string{podspec.LabelProduct: product}}}
	for i := 0; i < len(labels); i += 2 {
		n.Labels[labels[i]] = labels[i+1]
	}
	return n
}

func container(name string, pairs ...string) v1.Container {
	c := v1.Container{Name: name, Resources: v1.ResourceRequirements{Limits: v1.ResourceList{}}}
	for i := 0; i < len(pairs); i += 2 {
		c.Resources.Limits[v1.ResourceName(pairs[i])] = resource.MustParse(pairs[i+1])
	}
	return c
}

func podOf(containers ...v1.Container) *v1.Pod {
	return &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "lab", Name: "p", UID: "u", CreationTimestamp: metav1.Unix(500, 0), Labels: map[string]string{}, Annotations: map[string]string{},
		},
		Spec: v1.PodSpec{Containers: containers},
	}
}

func TestHoldsOf(t *testing.T) {
	s := NewSet(nil, testClasses(t), nil)
	dear := Class{Name: "h100", WeightMilli: 2000, PriceMicros: 3950000, Currency: "EUR"}
	small := Class{Name: "h100-mig", WeightMilli: 2500}
	for name, c := range map[string]struct {
		assignment string
		node       *v1.Node
		slices     int
		want       []Holds
	}{
		"nothing":                  {"", node(h100), 0, []Holds{}},
		"a whole GPU":              {"main=GPU-1", node(h100), 0, []Holds{{dear, h100, "", 1000}}},
		"whole GPUs and shares":    {"main=GPU-1,GPU-2;side=GPU-3:250m/1024Mi", node(h100), 0, []Holds{{dear, h100, "", 2250}}},
		"a share of several GPUs":  {"main=GPU-1:125m/1Mi,GPU-2:125m/1Mi", node(h100), 0, []Holds{{dear, h100, "", 250}}},
		"a node that nobody knows": {"main=GPU-1", nil, 0, []Holds{{dear, h100, "", 1000}}},
		"on a spot node":           {"main=GPU-1", node(h100, "capacity", "spot"), 0, []Holds{{Class{Name: "spot", WeightMilli: 300}, h100, "", 1000}}},
		"an eighth":                {"main=GPU-1:1g.10gb@0:1", node(h100), 0, []Holds{{small, h100, "1g.10gb", 125}}},
		"seven eighths": {
			"main=GPU-1:1g.10gb@0:1,GPU-1:1g.10gb@1:1,GPU-1:1g.10gb@2:1,GPU-1:1g.10gb@3:1,GPU-1:1g.10gb@4:1,GPU-1:1g.10gb@5:1,GPU-1:1g.10gb@6:1",
			node(h100), 0,
			[]Holds{{small, h100, "1g.10gb", 875}},
		},
		"all of a GPU in MIG mode": {"main=GPU-1:7g.80gb@0:8", node(h100), 0, []Holds{{Class{Name: "a-same-as-h100", WeightMilli: 1000}, h100, "7g.80gb", 1000}}},
		"two profiles, the larger part first": {
			"main=GPU-1:1g.10gb@0:1;other=GPU-1:3g.40gb@4:4", node(h100), 0, []Holds{{dear, h100, "3g.40gb", 500}, {small, h100, "1g.10gb", 125}},
		},
		"a GPU of four slices":                     {"main=GPU-1:1g.6gb@0:1", node(a30), 0, []Holds{{unclassed, a30, "1g.6gb", 250}}},
		"the caller knows the slices":              {"main=GPU-1:1g.6gb@0:1", node("NVIDIA-New"), 3, []Holds{{unclassed, "NVIDIA-New", "1g.6gb", 334}}},
		"an init container's instance is used on":  {"~init=GPU-1:3g.40gb@4:4;main=GPU-1:3g.40gb@4:4", node(h100), 0, []Holds{{dear, h100, "3g.40gb", 500}}},
		"an init container's slices count once":    {"~init=GPU-1:3g.40gb@0:4;main=GPU-1:2g.20gb@0:2", node(h100), 0, []Holds{{dear, h100, "2g.20gb", 250}, {dear, h100, "3g.40gb", 250}}},
		"an init container's share is not added":   {"~init=GPU-1:500m/1Mi;main=GPU-1:250m/1Mi", node(h100), 0, []Holds{{dear, h100, "", 500}}},
		"a sidecar beside an init container is so": {"side=GPU-1:500m/1Mi;~init=GPU-1:500m/1Mi;main=GPU-1:250m/1Mi", node(h100), 0, []Holds{{dear, h100, "", 1000}}},
	} {
		t.Run(name, func(t *testing.T) {
			a, err := gpu.ParseAssignment(c.assignment)
			if err != nil {
				t.Fatal(err)
			}
			product := h100
			if c.node != nil {
				product = c.node.Labels[podspec.LabelProduct]
			}
			if diff := cmp.Diff(c.want, s.HoldsOf(a, c.node, product, c.slices)); diff != "" {
				t.Errorf("holds (-want +got):\n%s", diff)
			}
		})
	}
}

func TestClaim(t *testing.T) {
	s := NewSet([]*v1alpha1.Queue{
		newTestQueue(t, "org", "{runtime: {default: 3h, max: 10h}}"), newTestQueue(t, "team", "{parent: org, runtime: {max: 2h}}"),
		newTestQueue(t, "service", "default: true"), newTestQueue(t, "theirs", "{namespaces: {names: [other]}, runtime: {default: 3h}}"),
		newTestQueue(t, "longest", "{runtime: {max: 5h}}"), newTestQueue(t, "below", "{parent: longest, runtime: {max: 9h}}"),
	}, testClasses(t), []*v1.Namespace{namespace("lab", nil)})
	// bound is the pod on its node since 1000.
	bound := func(p *v1.Pod, assignment string) *v1.Pod {
		p.Spec.NodeName = "n"
		p.Annotations[podspec.AnnotationGPUs] = assignment
		p.Status.Phase = v1.PodRunning
		p.Status.StartTime = new(metav1.Unix(1001, 0))
		p.Status.Conditions = []v1.PodCondition{{Type: v1.PodScheduled, Status: v1.ConditionTrue, LastTransitionTime: metav1.Unix(1000, 0)}}
		return p
	}
	terminated := func(at ...int64) []v1.ContainerStatus {
		var out []v1.ContainerStatus
		for _, t := range at {
			state := v1.ContainerState{Terminated: &v1.ContainerStateTerminated{FinishedAt: metav1.Unix(t, 0)}}
			if t == 0 {
				state = v1.ContainerState{Running: &v1.ContainerStateRunning{}}
			}
			out = append(out, v1.ContainerStatus{State: state})
		}
		return out
	}
	with := func(p *v1.Pod, f func(*v1.Pod)) *v1.Pod { f(p); return p }
	whole := func(n string) v1.Container { return container("main", podspec.ResourceGPU, n) }
	quarter := func(name string) v1.Container { return container(name, podspec.ResourceGPUPercent, "25") }
	mig := func(profile, n string) v1.Container { return container("main", podspec.MIGResource(profile), n) }
	claim := func(f func(*quota.Claim)) *quota.Claim {
		c := &quota.Claim{ID: "u", Queue: "service", Queued: 500}
		f(c)
		return c
	}
	for name, c := range map[string]struct {
		pod  *v1.Pod
		node *v1.Node
		want *quota.Claim // nil for none
	}{
		"no GPU": {podOf(container("main", "cpu", "1")), nil, nil},
		"a pod that waits is of the cheapest class": {podOf(whole("2")), nil, claim(func(c *quota.Claim) { c.Class, c.MilliGPU, c.Rate = "spot", 2000, 600 })},
		"a pod that waits for a model": {with(podOf(whole("1")), func(p *v1.Pod) {
			p.Spec.NodeSelector = map[string]string{podspec.LabelProduct: a30}
		}), nil, claim(func(c *quota.Claim) { c.Class, c.MilliGPU, c.Rate = "spot", 1000, 300 })},
		"a pod that waits for an instance": {podOf(mig("1g.20gb", "1")), nil, claim(func(c *quota.Claim) {
			c.Class, c.MilliGPU, c.Rate = "spot", 250, 75
		})},
		"a pod that waits for an instance of an unknown profile": {podOf(mig("2g.999gb", "1")), nil, claim(func(c *quota.Claim) {
			c.Class, c.MilliGPU, c.Rate = "spot", 285, 86
		})},
		"init containers before the others": {with(podOf(quarter("main")), func(p *v1.Pod) {
			p.Spec.InitContainers = []v1.Container{container("init", podspec.ResourceGPUPercent, "50")}
		}), nil, claim(func(c *quota.Claim) { c.Class, c.MilliGPU, c.Rate = "spot", 500, 150 })},
		"a pod that waits, on a node": {podOf(whole("2")), node(h100), claim(func(c *quota.Claim) { c.Class, c.MilliGPU, c.Rate = "h100", 2000, 4000 })},
		"an instance that waits, on a node": {podOf(mig("1g.20gb", "2")), node(h100), claim(func(c *quota.Claim) {
			c.Class, c.MilliGPU, c.Rate = "h100", 500, 1000
		})},
		"a request that cannot be read is estimated": {podOf(container("main", podspec.ResourceGPUPercent, "150")), node(h100), claim(func(c *quota.Claim) {
			c.Class, c.MilliGPU, c.Rate = "h100", 2000, 4000
		})},
		"a pod that runs": {bound(podOf(quarter("main")), "main=GPU-1:250m/20480Mi"), node(h100), claim(func(c *quota.Claim) {
			c.Class, c.MilliGPU, c.Rate, c.Start = "h100", 250, 500, 1000
		})},
		"an instance holds the slices that it was given": {bound(podOf(mig("1g.20gb", "1")), "main=GPU-1:1g.20gb@6:2"), node(h100), claim(func(c *quota.Claim) {
			c.Class, c.MilliGPU, c.Rate, c.Start = "h100", 250, 500, 1000
		})},
		"two classes add up": {bound(podOf(container("main", podspec.MIGResource("1g.10gb"), "1", podspec.MIGResource("3g.40gb"), "1")),
			"main=GPU-1:1g.10gb@0:1,GPU-1:3g.40gb@4:4"), node(h100), claim(func(c *quota.Claim) {
			c.Class, c.MilliGPU, c.Rate, c.Start = "h100", 625, 1000+313, 1000
		})},
		"an assignment that nobody believes counts as what was asked for": {bound(podOf(whole("2")), "main=GPU-1"), node(h100), claim(func(c *quota.Claim) {
			c.Class, c.MilliGPU, c.Rate, c.Start = "h100", 2000, 4000, 1000
		})},
		"without the condition it starts when the kubelet saw it": {with(bound(podOf(whole("1")), "main=GPU-1"), func(p *v1.Pod) {
			p.Status.Conditions = nil
		}), node(h100), claim(func(c *quota.Claim) { c.Class, c.MilliGPU, c.Rate, c.Start = "h100", 1000, 2000, 1001 })},
		"it ends with its last container": {with(bound(podOf(whole("1")), "main=GPU-1"), func(p *v1.Pod) {
			p.Status.Phase = v1.PodSucceeded
			p.Status.InitContainerStatuses, p.Status.ContainerStatuses = terminated(1100), terminated(2000, 1900)
		}), node(h100), claim(func(c *quota.Claim) { c.Class, c.MilliGPU, c.Rate, c.Start, c.End = "h100", 1000, 2000, 1000, 2000 })},
		"without containers it ended when its status changed": {with(bound(podOf(whole("1")), "main=GPU-1"), func(p *v1.Pod) {
			p.Status.Phase = v1.PodFailed
			p.Status.Conditions = append(p.Status.Conditions, v1.PodCondition{Type: v1.PodReady, LastTransitionTime: metav1.Unix(1500, 0)})
		}), node(h100), claim(func(c *quota.Claim) { c.Class, c.MilliGPU, c.Rate, c.Start, c.End = "h100", 1000, 2000, 1000, 1500 })},
		"it does not end before it started": {with(bound(podOf(whole("1")), "main=GPU-1"), func(p *v1.Pod) {
			p.Status.Phase, p.Status.ContainerStatuses = v1.PodFailed, terminated(900)
		}), node(h100), claim(func(c *quota.Claim) { c.Class, c.MilliGPU, c.Rate, c.Start, c.End = "h100", 1000, 2000, 1000, 1000 })},
		"a container that ended is not the end of the pod": {with(bound(podOf(whole("1")), "main=GPU-1"), func(p *v1.Pod) {
			p.Status.ContainerStatuses = terminated(1900)
		}), node(h100), claim(func(c *quota.Claim) { c.Class, c.MilliGPU, c.Rate, c.Start = "h100", 1000, 2000, 1000 })},
		"a pod that is being deleted runs while a container does": {with(bound(podOf(whole("1")), "main=GPU-1"), func(p *v1.Pod) {
			p.DeletionTimestamp, p.Status.ContainerStatuses = new(metav1.Unix(2000, 0)), terminated(1900, 0)
		}), node(h100), claim(func(c *quota.Claim) { c.Class, c.MilliGPU, c.Rate, c.Start = "h100", 1000, 2000, 1000 })},
		"a pod that is being deleted ended with its last container": {with(bound(podOf(whole("1")), "main=GPU-1"), func(p *v1.Pod) {
			p.DeletionTimestamp, p.Status.ContainerStatuses = new(metav1.Unix(2000, 0)), terminated(1900)
		}), node(h100), claim(func(c *quota.Claim) { c.Class, c.MilliGPU, c.Rate, c.Start, c.End = "h100", 1000, 2000, 1000, 1900 })},
		"it says how long it runs": {with(podOf(whole("1")), func(p *v1.Pod) { p.Annotations[podspec.AnnotationRuntime] = "90m" }), node(a30), claim(func(c *quota.Claim) {
			c.MilliGPU, c.Rate, c.Runtime = 1000, 1000, 5400
		})},
		"its deadline says it": {with(podOf(whole("1")), func(p *v1.Pod) { p.Spec.ActiveDeadlineSeconds = new(int64(60)) }), node(a30), claim(func(c *quota.Claim) {
			c.MilliGPU, c.Rate, c.Runtime = 1000, 1000, 60
		})},
		"the default of a queue above, as far as the queue allows": {with(podOf(whole("1")), func(p *v1.Pod) { p.Labels[podspec.LabelQueue] = "team" }), node(a30), claim(func(c *quota.Claim) {
			c.Queue, c.MilliGPU, c.Rate, c.Runtime = "team", 1000, 1000, 7200
		})},
		"without a default the least maximum of its queue and those above": {with(podOf(whole("1")), func(p *v1.Pod) {
			p.Labels[podspec.LabelQueue] = "below"
		}), node(a30), claim(func(c *quota.Claim) {
			c.Queue, c.MilliGPU, c.Rate, c.Runtime = "below", 1000, 1000, 18000
		})},
		"what runs in a queue that was deleted is counted under its name": {with(bound(podOf(whole("1")), "main=GPU-1"), func(p *v1.Pod) {
			p.Labels[podspec.LabelQueue] = "gone"
		}), node(a30), claim(func(c *quota.Claim) { c.Queue, c.MilliGPU, c.Rate, c.Start = "gone", 1000, 1000, 1000 })},
		"what Weft bound stays in a queue that it may not use any more": {with(bound(podOf(whole("1")), "main=GPU-1"), func(p *v1.Pod) {
			p.Labels[podspec.LabelQueue] = "theirs"
		}), node(a30), claim(func(c *quota.Claim) {
			c.Queue, c.MilliGPU, c.Rate, c.Start, c.Runtime = "theirs", 1000, 1000, 1000, 10800
		})},
		"what somebody else bound has no queue that it may not use": {with(bound(podOf(whole("1")), ""), func(p *v1.Pod) {
			p.Labels[podspec.LabelQueue] = "theirs"
			delete(p.Annotations, podspec.AnnotationGPUs)
		}), nil, claim(func(c *quota.Claim) { c.Queue, c.Class, c.MilliGPU, c.Rate, c.Start = "", "spot", 1000, 300, 1000 })},
		"what somebody else bound is of a queue that it may use": {with(bound(podOf(whole("1")), ""), func(p *v1.Pod) {
			p.Labels[podspec.LabelQueue] = "team"
			delete(p.Annotations, podspec.AnnotationGPUs)
		}), nil, claim(func(c *quota.Claim) {
			c.Queue, c.Class, c.MilliGPU, c.Rate, c.Start, c.Runtime = "team", "spot", 1000, 300, 1000, 7200
		})},
		"a member of a gang": {with(podOf(whole("1")), func(p *v1.Pod) {
			p.Labels[podspec.LabelPodGroup], p.Spec.Priority = "g", new(int32(7))
		}), node(a30), claim(func(c *quota.Claim) { c.Job, c.Priority, c.MilliGPU, c.Rate = "podgroup lab/g", 7, 1000, 1000 })},
	} {
		t.Run(name, func(t *testing.T) {
			got, ok := s.Claim(c.pod, c.node)
			if ok != (c.want != nil) {
				t.Fatalf("%v, %+v", ok, got)
			}
			if c.want == nil {
				return
			}
			if diff := cmp.Diff(*c.want, got); diff != "" {
				t.Errorf("claim (-want +got):\n%s", diff)
			}
			if c.node == nil {
				return
			}
			// Before it is bound it is the same, but for what is known then only.
			on, _ := s.ClaimOn(c.pod, c.node)
			on.Start, on.End = got.Start, got.End
			if diff := cmp.Diff(got, on); diff != "" {
				t.Errorf("claim before it is bound (-bound +before):\n%s", diff)
			}
		})
	}
}

// Four pods of a quarter of a GPU are one GPU, whatever its weight.
func TestFourQuartersAreOne(t *testing.T) {
	for _, weight := range []string{"1", "2", "0.3", "1.5"} {
		s := NewSet(nil, []*v1alpha1.GPUClass{newTestClass(t, "all", `weight: "`+weight+`"`)}, nil)
		one, _ := s.ClaimOn(podOf(container("main", podspec.ResourceGPU, "1")), node(h100))
		var sum quota.Claim
		for range 4 {
			c, _ := s.ClaimOn(podOf(container("main", podspec.ResourceGPUPercent, "25")), node(h100))
			sum.MilliGPU += c.MilliGPU
			sum.Rate += c.Rate
		}
		if sum.MilliGPU != 1000 || sum.Rate != one.Rate {
			t.Errorf("weight %s: %d milli-GPU at %d: want 1000 at %d", weight, sum.MilliGPU, sum.Rate, one.Rate)
		}
	}
}

func TestClassesOf(t *testing.T) {
	s := NewSet(nil, testClasses(t), nil)
	if diff := cmp.Diff([]string{"spot", "h100", ""}, s.ClassesOf(podOf(container("main", podspec.ResourceGPU, "1")))); diff != "" {
		t.Errorf("classes (-want +got):\n%s", diff)
	}
	if got := s.ClassesOf(podOf(container("main", "cpu", "1"))); got != nil {
		t.Errorf("classes of a pod without GPUs: %q", got)
	}
	if got := (&Set{}).ClassesOf(podOf(container("main", podspec.ResourceGPU, "1"))); got != nil {
		t.Errorf("classes without classes: %q", got)
	}
}
