package queues

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"

	"weft.sh/weft/pkg/apis/weft/v1alpha1"
	"weft.sh/weft/pkg/podspec"
	"weft.sh/weft/pkg/quota"
)

// Set is all queues and classes at one moment. It does not change; the zero value has none, and holds nobody back.
type Set struct {
	tree     *quota.Tree
	problems []quota.Problem
	queues   map[string]*queue
	known    string     // their names, for messages
	classes  []selector // the one that counts first, first
	// defaults are the default queues, the oldest first; defaultOf is the one that counts, by namespace.
	defaults   []*queue
	defaultOf  map[string]string
	namespaces map[string]labels.Set
}

// queue is what a set needs of a Queue beside what it grants.
type queue struct {
	spec       quota.Spec
	everywhere bool            // any namespace may use it
	names      map[string]bool // the namespaces that may
	selector   labels.Selector // nil for none
	unreadable string          // what is wrong with its fields; empty for nothing
	checkpoint *quota.Checkpoint
}

// NewSet reads the objects, in any order. Namespaces are those that selectors are matched against.
func NewSet(queues []*v1alpha1.Queue, classes []*v1alpha1.GPUClass, namespaces []*v1.Namespace) *Set {
	return newSet(queues, classes, namespaces, nil)
}

// newSet is NewSet with objects that have fields of other types than the kinds. A queue among them is one that exists and cannot be
// read.
func newSet(queues []*v1alpha1.Queue, classes []*v1alpha1.GPUClass, namespaces []*v1.Namespace, broken []*unstructured.Unstructured) *Set {
	s := &Set{queues: map[string]*queue{}, namespaces: map[string]labels.Set{}}
	for _, n := range namespaces {
		s.namespaces[n.Name] = n.Labels
	}
	specs := make([]quota.Spec, 0, len(queues))
	for _, object := range queues {
		q := newQueue(object)
		if q.unreadable != "" {
			s.problem(object.Name, q.unreadable)
		}
		s.queues[object.Name] = q
		specs = append(specs, q.spec)
		if object.Spec.Default {
			s.defaults = append(s.defaults, q)
		}
	}
	for _, u := range broken {
		if u.GetKind() != "Queue" {
			s.problem(ClassProblem(u.GetName()), fmt.Sprintf("%s %s is none of %s", u.GetKind(), u.GetName(), v1alpha1.SchemeGroupVersion))
			continue
		}
		err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, &v1alpha1.Queue{})
		q := &queue{everywhere: true, unreadable: fmt.Sprintf("queue %s is none of %s: %v", u.GetName(), v1alpha1.SchemeGroupVersion, err)}
		s.problem(u.GetName(), q.unreadable)
		q.spec = quota.Spec{
			Name: u.GetName(), Created: u.GetCreationTimestamp().Unix(), Share: quota.Share{Limit: quota.NoLimit}, Weight: defaultWeight,
		}
		q.spec.Parent, _, _ = unstructured.NestedString(u.Object, "spec", "parent")
		s.queues[q.spec.Name] = q
		specs = append(specs, q.spec)
	}
	for _, object := range classes {
		c, err := newSelector(object)
		if err != nil {
			s.problem(ClassProblem(object.Name), fmt.Sprintf("GPUClass %s is left out: %s", object.Name, oneLine(err)))
			continue
		}
		s.classes = append(s.classes, c)
	}
	slices.SortFunc(s.classes, compareSelectors)
	s.known = bounded(slices.Sorted(maps.Keys(s.queues)))
	var problems []quota.Problem
	s.tree, problems = quota.NewTree(specs)
	s.problems = append(s.problems, problems...)
	s.chooseDefaults()
	slices.SortStableFunc(s.problems, func(a, b quota.Problem) int { return strings.Compare(a.Queue, b.Queue) })
	return s
}

// ClassProblem is the name under which [Set.Problems] has those of a GPUClass. No queue can have it.
func ClassProblem(class string) string { return "GPUClass " + class }

func (s *Set) problem(name, message string) {
	s.problems = append(s.problems, quota.Problem{Queue: name, Message: message})
}

// oneLine is errors that were joined, for a message.
func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

// newQueue reads a queue, all that can be read of it.
func newQueue(object *v1alpha1.Queue) *queue {
	q := &queue{names: map[string]bool{}}
	var err error
	q.spec, err = SpecOf(object)
	if n := object.Spec.Namespaces; n == nil {
		q.everywhere = true
	} else {
		for _, name := range n.Names {
			q.names[name] = true
		}
		if n.Selector != nil {
			var r specReader
			q.selector = r.selector("spec.namespaces.selector", n.Selector)
			err = errors.Join(append([]error{err}, r.errs...)...)
		}
	}
	if err != nil {
		q.unreadable = fmt.Sprintf("queue %s: %s", object.Name, oneLine(err))
	}
	q.checkpoint = checkpoint(object.Status.Budget)
	return q
}

func checkpoint(b *v1alpha1.BudgetStatus) *quota.Checkpoint {
	if b == nil {
		return nil
	}
	c := &quota.Checkpoint{
		AsOf: b.AsOf.Unix(), Start: b.PeriodStart.Unix(), End: quota.NoLimit, Used: b.UsedMilliGPUSeconds, Carried: b.CarriedMilliGPUSeconds,
	}
	if b.PeriodEnd != nil {
		c.End = b.PeriodEnd.Unix()
	}
	return c
}

// withStatuses is the set with the statuses of these objects, of which nothing else changed.
func (s *Set) withStatuses(queues []*v1alpha1.Queue) *Set {
	next := *s
	next.queues = maps.Clone(s.queues)
	for _, object := range queues {
		if q := s.queues[object.Name]; q != nil {
			with := *q
			with.checkpoint = checkpoint(object.Status.Budget)
			next.queues[object.Name] = &with
		}
	}
	return &next
}

// chooseDefaults finds the default queue of each namespace: the oldest of those that it may use.
func (s *Set) chooseDefaults() {
	slices.SortFunc(s.defaults, func(a, b *queue) int {
		return cmp.Or(cmp.Compare(a.spec.Created, b.spec.Created), strings.Compare(a.spec.Name, b.spec.Name))
	})
	s.defaultOf = map[string]string{}
	for _, q := range s.defaults {
		var taken []string // the namespaces where another counts
		for namespace := range s.namespaces {
			if !s.mayUse(namespace, q) {
				continue
			}
			if s.defaultOf[namespace] == "" {
				s.defaultOf[namespace] = q.spec.Name
			} else {
				taken = append(taken, namespace)
			}
		}
		if len(taken) > 0 {
			slices.Sort(taken)
			s.problem(q.spec.Name, fmt.Sprintf(
				"queue %s: spec.default: of two default queues for a namespace the older one counts, which is %s for %s; leave one of them default, or change spec.namespaces",
				q.spec.Name, s.defaultOf[taken[0]], bounded(taken)))
		}
	}
}

// Tree is the queues as quota sees them.
func (s *Set) Tree() *quota.Tree {
	if s.tree == nil {
		t, _ := quota.NewTree(nil)
		return t
	}
	return s.tree
}

// Problems are what is wrong with queues and classes, by the object's name; see [ClassProblem]. A queue whose fields cannot be read
// holds its pods back, with those below it; a class is then left out. A default queue that does not count holds nobody back who names
// it.
func (s *Set) Problems() []quota.Problem { return s.problems }

// Checkpoint is what the queue's status says of its budget, false when it says nothing.
func (s *Set) Checkpoint(queue string) (quota.Checkpoint, bool) {
	q := s.queues[queue]
	if q == nil || q.checkpoint == nil {
		return quota.Checkpoint{}, false
	}
	return *q.checkpoint, true
}

// mayUse reports whether pods of the namespace may be of the queue. A namespace of which the labels are not known is not selected.
func (s *Set) mayUse(namespace string, q *queue) bool {
	if q.everywhere || q.names[namespace] {
		return true
	}
	set, ok := s.namespaces[namespace]
	return ok && q.selector != nil && q.selector.Matches(set)
}

// queueOf is the queue that the pod names or that is its namespace's default, whether there is such a queue or not.
func (s *Set) queueOf(pod *v1.Pod) string {
	if len(s.queues) == 0 {
		return ""
	}
	if name := pod.Labels[podspec.LabelQueue]; name != "" {
		return name
	}
	if _, known := s.namespaces[pod.Namespace]; known {
		return s.defaultOf[pod.Namespace]
	}
	for _, q := range s.defaults {
		if s.mayUse(pod.Namespace, q) {
			return q.spec.Name
		}
	}
	return ""
}

// QueueOf is the queue of the pod: that of its label, else the default queue of its namespace, else none (""). The verdict is
// not OK when the queue does not exist, cannot be read, may not be used by the namespace, or does not let pods run as long as this one
// says. Where there are no queues at all, labels mean nothing.
func (s *Set) QueueOf(pod *v1.Pod) (string, quota.Verdict) {
	name := s.queueOf(pod)
	if name == "" {
		return "", quota.Verdict{}
	}
	q := s.queues[name]
	switch {
	case q == nil:
		return name, quota.Verdict{Reason: quota.QueueNotFound, Queue: name, Detail: "there are " + s.known}
	case !s.mayUse(pod.Namespace, q):
		return name, quota.Verdict{
			Reason: quota.QueueForbidden, Queue: name, Detail: "its spec.namespaces does not select namespace " + pod.Namespace,
		}
	}
	said, _, err := podspec.Runtime(pod)
	if err != nil { // the job is not held to be one that says nothing
		return name, quota.Verdict{Reason: quota.QueueInvalid, Queue: name, Detail: err.Error()}
	}
	need := seconds(said)
	for above := range s.path(name) {
		switch {
		case above == q && q.unreadable != "":
			return name, quota.Verdict{Reason: quota.QueueInvalid, Queue: name, Detail: q.unreadable}
		case above.unreadable != "":
			return name, quota.Verdict{Reason: quota.QueueInvalid, Queue: above.spec.Name, Detail: fmt.Sprintf(
				"queue %s is below queue %s, which is not valid: %s", name, above.spec.Name, above.unreadable)}
		case above.spec.MaxRuntime > 0 && need > above.spec.MaxRuntime:
			return name, quota.Verdict{Reason: quota.RuntimeTooLong, Queue: above.spec.Name, Need: need, Limit: above.spec.MaxRuntime}
		}
	}
	return name, quota.Verdict{}
}

// path goes from the queue to the top, and ends where the tree is not one.
func (s *Set) path(name string) func(yield func(*queue) bool) {
	return func(yield func(*queue) bool) {
		for range s.queues {
			q := s.queues[name]
			if q == nil || !yield(q) {
				return
			}
			name = q.spec.Parent
		}
	}
}

// runtime is how long the pod is expected to run: what it says, else the default of its queue or the nearest above that has one, within
// what all of them allow, else the longest that these allow; 0 when nobody knows.
func (s *Set) runtime(pod *v1.Pod, queue string) int64 {
	if d, ok, err := podspec.Runtime(pod); ok && err == nil {
		return seconds(d)
	}
	var runtime int64
	limit := quota.NoLimit
	for q := range s.path(queue) {
		runtime = cmp.Or(runtime, q.spec.DefaultRuntime)
		if q.spec.MaxRuntime > 0 {
			limit = min(limit, q.spec.MaxRuntime)
		}
	}
	switch {
	case runtime > 0:
		return min(runtime, limit)
	case limit != quota.NoLimit:
		return limit
	}
	return 0
}

// bounded lists names, few of many.
func bounded(names []string) string {
	const most = 10
	switch {
	case len(names) == 0:
		return "none"
	case len(names) > most:
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
	}
	return strings.Join(names, ", ")
}
