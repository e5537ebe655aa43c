package queues

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"weft.sh/weft/pkg/apis/weft/v1alpha1"
	"weft.sh/weft/pkg/podspec"
	"weft.sh/weft/pkg/quota"
)

func namespace(name string, labels map[string]string) *v1.Namespace {
	return &v1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}
}

// testSet is a tree of queues: org over research (label team: research) and lab (namespace lab); broken and below it; shared for all.
func testSet(t *testing.T) *Set {
	t.Helper()
	return NewSet([]*v1alpha1.Queue{
		newTestQueue(t, "org", "{namespaces: {}, runtime: {default: 3h, max: 10h}}"),
		newTestQueue(t, "research", "{parent: org, namespaces: {selector: {matchLabels: {team: research}}}, runtime: {default: 1h}}"),
		newTestQueue(t, "lab", "{parent: research, default: true, namespaces: {names: [lab]}, runtime: {max: 2h}}"),
		newTestQueue(t, "group", "{parent: org}"),
		newTestQueue(t, "broken", "budget: {gpuHours: 1, timeZone: Nowhere}"),
		newTestQueue(t, "below", "parent: broken"),
		newTestQueue(t, "shared", "{}"),
	}, nil, []*v1.Namespace{namespace("lab", nil), namespace("paper", map[string]string{"team": "research"}), namespace("other", nil)})
}

func TestQueueOf(t *testing.T) {
	s := testSet(t)
	const zone = `queue broken: spec.budget.timeZone is "Nowhere": want the IANA name of a time zone, such as Europe/Berlin`
	for name, c := range map[string]struct {
		namespace, label, runtime string
		queue                     string
		want                      quota.Verdict
		message                   string
	}{
		"a queue that every namespace may use":        {namespace: "other", label: "shared", queue: "shared"},
		"also one that is not known":                  {namespace: "new", label: "shared", queue: "shared"},
		"a namespace by its label":                    {namespace: "paper", label: "research", queue: "research"},
		"a namespace by its name":                     {namespace: "lab", label: "lab", queue: "lab"},
		"the default of the namespace":                {namespace: "lab", queue: "lab"},
		"a namespace without a default has no queue":  {namespace: "other"},
		"a label wins over the default":               {namespace: "lab", label: "shared", queue: "shared"},
		"as long as allowed":                          {namespace: "lab", runtime: "2h", queue: "lab"},
		"without a maximum on the way any is allowed": {namespace: "lab", label: "shared", runtime: "1000h", queue: "shared"},
		"an unknown queue": {
			namespace: "lab", label: "nobody", queue: "nobody", want: quota.Verdict{Reason: quota.QueueNotFound, Queue: "nobody"},
			message: "queue nobody does not exist; there are below, broken, group, lab, org, research, shared",
		},
		"a namespace that may not": {
			namespace: "other", label: "research", queue: "research", want: quota.Verdict{Reason: quota.QueueForbidden, Queue: "research"},
			message: "the namespace may not use queue research; its spec.namespaces does not select namespace other",
		},
		"a namespace of which nothing is known is not selected": {
			namespace: "new", label: "research", queue: "research", want: quota.Verdict{Reason: quota.QueueForbidden, Queue: "research"},
			message: "the namespace may not use queue research; its spec.namespaces does not select namespace new",
		},
		"a queue that selects none": {
			namespace: "lab", label: "org", queue: "org", want: quota.Verdict{Reason: quota.QueueForbidden, Queue: "org"},
			message: "the namespace may not use queue org; its spec.namespaces does not select namespace lab",
		},
		"longer than the queue allows": {
			namespace: "lab", runtime: "2h1s", queue: "lab", want: quota.Verdict{Reason: quota.RuntimeTooLong, Queue: "lab", Need: 7201, Limit: 7200},
			message: "the job says that it runs for 2h0m1s, queue lab allows 2h0m0s",
		},
		"longer than one above allows": {
			namespace: "paper", label: "research", runtime: "11h", queue: "research",
			want:    quota.Verdict{Reason: quota.RuntimeTooLong, Queue: "org", Need: 39600, Limit: 36000},
			message: "the job says that it runs for 11h0m0s, queue org allows 10h0m0s",
		},
		"a runtime that cannot be read": {
			namespace: "lab", runtime: "long", queue: "lab", want: quota.Verdict{Reason: quota.QueueInvalid, Queue: "lab"},
			message: `annotation weft.sh/runtime is "long": want a duration of more than 0, such as 90m or 6h`,
		},
		"a queue that cannot be read": {
			namespace: "lab", label: "broken", queue: "broken", want: quota.Verdict{Reason: quota.QueueInvalid, Queue: "broken"}, message: zone,
		},
		"a queue below one that cannot be read": {
			namespace: "lab", label: "below", queue: "below", want: quota.Verdict{Reason: quota.QueueInvalid, Queue: "broken"},
			message: "queue below is below queue broken, which is not valid: " + zone,
		},
	} {
		t.Run(name, func(t *testing.T) {
			pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: c.namespace, Labels: map[string]string{}, Annotations: map[string]string{}}}
			if c.label != "" {
				pod.Labels[podspec.LabelQueue] = c.label
			}
			if c.runtime != "" {
				pod.Annotations[podspec.AnnotationRuntime] = c.runtime
			}
			queue, v := s.QueueOf(pod)
			message := ""
			if !v.OK() {
				message = v.Message()
			}
			v.Detail = ""
			if diff := cmp.Diff(c.want, v); queue != c.queue || diff != "" {
				t.Errorf("queue %q: want %q; verdict (-want +got):\n%s", queue, c.queue, diff)
			}
			if message != c.message {
				t.Errorf("message\n%s\nwant\n%s", message, c.message)
			}
			// Without queues labels mean nothing.
			if queue, v := (&Set{}).QueueOf(pod); queue != "" || !v.OK() {
				t.Errorf("without queues it is of %q, %v", queue, v)
			}
		})
	}
}

// A cycle is the tree's to find; what walks up must end.
func TestCycle(t *testing.T) {
	s := NewSet([]*v1alpha1.Queue{
		newTestQueue(t, "a", "parent: b"), newTestQueue(t, "b", "parent: c"), newTestQueue(t, "c", "parent: a"),
	}, nil, nil)
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Labels: map[string]string{podspec.LabelQueue: "a"}}}
	if queue, v := s.QueueOf(pod); queue != "a" || !v.OK() {
		t.Errorf("queue %q, %v: the objects alone are fine", queue, v)
	}
	book := quota.NewBook()
	book.SetTree(s.Tree())
	if v := book.Admit(quota.Job{{ID: "1", Queue: "a", MilliGPU: 1000, Rate: 1000}}); v.Reason != quota.QueueInvalid {
		t.Errorf("admitted: %+v", v)
	}
	if got := len(s.Problems()); got != 3 {
		t.Errorf("%d problems: want one for each: %v", got, s.Problems())
	}
}

func TestDefaultQueues(t *testing.T) {
	aged := func(name, spec string, created int64) *v1alpha1.Queue {
		q := newTestQueue(t, name, spec)
		q.CreationTimestamp = metav1.Unix(created, 0)
		return q
	}
	var many []*v1.Namespace
	for i := range 13 {
		many = append(many, namespace(fmt.Sprintf("n%02d", i), map[string]string{"many": "yes"}))
	}
	for name, c := range map[string]struct {
		queues   []*v1alpha1.Queue
		want     map[string]string
		problems []quota.Problem
	}{
		"one for all, also for namespaces that are not known": {
			queues: []*v1alpha1.Queue{aged("all", "default: true", 1)},
			want:   map[string]string{"n00": "all", "unknown": "all"},
		},
		"one for each": {
			queues: []*v1alpha1.Queue{aged("a", "{default: true, namespaces: {names: [n00]}}", 1), aged("b", "{default: true, namespaces: {names: [n01]}}", 2)},
			want:   map[string]string{"n00": "a", "n01": "b", "n02": ""},
		},
		"of two for a namespace the older counts": {
			queues: []*v1alpha1.Queue{aged("a-younger", "{default: true, namespaces: {names: [n00, n01]}}", 2), aged("older", "{default: true, namespaces: {names: [n00]}}", 1)},
			want:   map[string]string{"n00": "older", "n01": "a-younger"},
			problems: []quota.Problem{{Queue: "a-younger", Message: "queue a-younger: spec.default: of two default queues for a namespace the older one " +
				"counts, which is older for n00; leave one of them default, or change spec.namespaces"}},
		},
		"of two of one age the first by name counts, and few of many namespaces are named": {
			queues: []*v1alpha1.Queue{aged("b", "default: true", 1), aged("a", "{default: true, namespaces: {selector: {matchLabels: {many: \"yes\"}}}}", 1)},
			want:   map[string]string{"n00": "a", "n12": "a", "unknown": "b"},
			problems: []quota.Problem{{Queue: "b", Message: "queue b: spec.default: of two default queues for a namespace the older one counts, " +
				"which is a for n00, n01, n02, n03, n04, n05, n06, n07, n08, n09 and 3 more; leave one of them default, or change spec.namespaces"}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := NewSet(c.queues, nil, many)
			for namespace, want := range c.want {
				pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace}}
				if got, v := s.QueueOf(pod); got != want || !v.OK() {
					t.Errorf("in namespace %s queue %q, %v: want %q", namespace, got, v, want)
				}
				// Who names the other may use it.
				for _, q := range c.queues {
					pod.Labels = map[string]string{podspec.LabelQueue: q.Name}
					if _, v := s.QueueOf(pod); !v.OK() && v.Reason != quota.QueueForbidden {
						t.Errorf("queue %s from namespace %s: %s", q.Name, namespace, v.Message())
					}
				}
			}
			if diff := cmp.Diff(c.problems, s.Problems()); diff != "" {
				t.Errorf("problems (-want +got):\n%s", diff)
			}
		})
	}
}

func TestProblemsOfClasses(t *testing.T) {
	s := NewSet(nil, []*v1alpha1.GPUClass{
		newTestClass(t, "heavy", "weight: 1001"), newTestClass(t, "fine", "weight: 1"),
		newTestClass(t, "odd", `{weight: "0.0001", price: {perGPUHour: "-1", currency: EUR}, nodeSelector: {matchExpressions: [{key: a, operator: Like}]}}`),
	}, nil)
	want := []quota.Problem{
		{Queue: "GPUClass heavy", Message: `GPUClass heavy is left out: spec.weight is "1001": want a weight from 0 to 1000 in steps of a thousandth, such as 0.3`},
		{Queue: "GPUClass odd", Message: `GPUClass odd is left out: spec.weight is "100u": want a weight from 0 to 1000 in steps of a thousandth, such as 0.3; ` +
			`spec.price.perGPUHour is "-1": want a price of 0 or more in steps of a millionth, such as 2.5; ` +
			`spec.nodeSelector is "{\"matchExpressions\":[{\"key\":\"a\",\"operator\":\"Like\"}]}": want a label selector: "Like" is not a valid label selector operator`},
	}
	if diff := cmp.Diff(want, s.Problems()); diff != "" {
		t.Errorf("problems (-want +got):\n%s", diff)
	}
	if got := s.ClassOn(nil, "x", "").Name; got != "fine" {
		t.Errorf("class %q", got)
	}
}

// An object that the definition should not have let through exists, and is not one that asks for nothing.
func TestObjectsOfOtherTypes(t *testing.T) {
	queue := &unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{"weight": "heavy", "parent": "top"}}}
	queue.SetKind("Queue")
	queue.SetName("odd")
	class := &unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{"priority": "high"}}}
	class.SetKind("GPUClass")
	class.SetName("odd")
	s := newSet([]*v1alpha1.Queue{newTestQueue(t, "top", "{}")}, nil, nil, []*unstructured.Unstructured{queue, class})
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Labels: map[string]string{podspec.LabelQueue: "odd"}}}
	if _, v := s.QueueOf(pod); v.Reason != quota.QueueInvalid || v.Detail == "" {
		t.Errorf("verdict %+v", v)
	}
	if diff := cmp.Diff([]string{"odd", "top"}, s.Tree().Path("odd")); diff != "" {
		t.Errorf("path (-want +got):\n%s", diff)
	}
	if got := s.Problems(); len(got) != 2 || got[0].Queue != "GPUClass odd" || got[1].Queue != "odd" {
		t.Errorf("problems %+v", got)
	}
}

func TestCheckpoint(t *testing.T) {
	at := func(d int) metav1.Time { return metav1.NewTime(time.Date(2026, 11, d, 0, 0, 0, 0, time.UTC)) }
	end := at(30)
	month, never, none := newTestQueue(t, "month", "{}"), newTestQueue(t, "never", "{}"), newTestQueue(t, "none", "{}")
	month.Status.Budget = &v1alpha1.BudgetStatus{PeriodStart: at(1), PeriodEnd: &end, AsOf: at(21), UsedMilliGPUSeconds: 5, CarriedMilliGPUSeconds: 7}
	never.Status.Budget = &v1alpha1.BudgetStatus{PeriodStart: metav1.Unix(0, 0), AsOf: at(21), UsedMilliGPUSeconds: 5}
	s := NewSet([]*v1alpha1.Queue{month, never, none}, nil, nil)
	check := func(s *Set, name string, want quota.Checkpoint, wantOK bool) {
		t.Helper()
		got, ok := s.Checkpoint(name)
		if diff := cmp.Diff(want, got); ok != wantOK || diff != "" {
			t.Errorf("%s: %v, checkpoint (-want +got):\n%s", name, ok, diff)
		}
	}
	first := quota.Checkpoint{AsOf: at(21).Unix(), Start: at(1).Unix(), End: end.Unix(), Used: 5, Carried: 7}
	check(s, "month", first, true)
	check(s, "never", quota.Checkpoint{AsOf: at(21).Unix(), End: quota.NoLimit, Used: 5}, true)
	check(s, "none", quota.Checkpoint{}, false)
	check(s, "nobody", quota.Checkpoint{}, false)

	later := month.DeepCopy()
	later.Status.Budget.UsedMilliGPUSeconds = 6
	next := s.withStatuses([]*v1alpha1.Queue{later, none})
	check(s, "month", first, true)
	first.Used = 6
	check(next, "month", first, true)
	check(next, "never", quota.Checkpoint{AsOf: at(21).Unix(), End: quota.NoLimit, Used: 5}, true)
	if next.Tree() != s.Tree() {
		t.Error("statuses made another tree")
	}
}
