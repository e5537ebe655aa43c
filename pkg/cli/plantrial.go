package cli

import (
	"cmp"
	"fmt"
	"slices"

	v1 "k8s.io/api/core/v1"
	schedulingv1beta1 "k8s.io/api/scheduling/v1beta1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"weft.sh/weft/pkg/cluster"
	"weft.sh/weft/pkg/fit"
	"weft.sh/weft/pkg/gang"
	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/podgroup"
	"weft.sh/weft/pkg/podspec"
	"weft.sh/weft/pkg/queues"
	"weft.sh/weft/pkg/quota"
	"weft.sh/weft/pkg/snapshot"
)

// trial lets what waits in a snapshot start, job by job, by the code that the scheduler decides with: package quota says who may and whose
// turn it is, fit and gang where it goes. Nothing ends and nobody is evicted meanwhile.
type trial struct {
	now       int64
	scheduler string
	levels    []string
	nodes     []*trialNode // by name
	byName    map[string]*trialNode
	resources []v1.ResourceName
	shapes    map[string]*trialShape
	memo      *fit.Memo
	strategy  fit.Strategy
	set       *queues.Set
	book      *quota.Book
	jobs      []*trialJob
}

// trialNode is a node with what is left of it.
type trialNode struct {
	node     *v1.Node
	gpus     *cluster.Node // nil for none
	domains  []string
	free     []int64 // in the order of trial.resources
	milliCPU int64
}

// trialShape is what pods ask for that every node treats alike.
type trialShape struct {
	request gpu.Request
	ask     []int64
	cpu     int64
	allowed []bool // by node
	memo    *fit.ShapeMemo
	// full says that no node takes one more: what is taken is never given back.
	full bool
}

// trialJob is a pod by itself, or a gang.
type trialJob struct {
	gang *group
	pods []*v1.Pod // those that wait, for a gang in rank order
	// first goes before all others: pods that run, and are only made anew.
	first bool
	// failed says that there is no room, refused why it may not start at all.
	failed, done bool
	refused      string
	milliGPU     map[string]int64 // by UID
	started      map[string]bool  // by UID
}

// newTrial is the state of the objects. first are the UIDs of pods that go before all others.
func newTrial(d *snapshot.Document, o *snapshot.Objects, first map[string]bool) (*trial, error) {
	objects := Objects{Nodes: o.Nodes, Slices: o.Slices, Pods: o.Pods, GroupsRead: true, NativeGroupsRead: true}
	for _, pg := range o.Groups {
		objects.Groups = append(objects.Groups, PodGroup{PodGroup: *pg})
	}
	objects.NativeGroups = append([]*schedulingv1beta1.PodGroup{}, o.NativeGroups...)
	v := newView(objects)
	t := &trial{
		now: d.Taken.Unix(), scheduler: cmp.Or(d.SchedulerName, DefaultSchedulerName), levels: d.TopologyLevels, byName: map[string]*trialNode{},
		shapes: map[string]*trialShape{}, set: queues.NewSet(o.Queues, o.Classes, o.Namespaces),
	}
	mix, _ := v.mix(t.scheduler)
	var err error
	if t.strategy, err = fit.NewStrategy(fit.StrategyNames()[0], mix); err != nil {
		return nil, err
	}
	t.memo = fit.NewMemo(t.strategy)
	t.resources = []v1.ResourceName{v1.ResourcePods}
	for _, p := range o.Pods {
		if p.Spec.SchedulerName != t.scheduler {
			continue
		}
		for name := range newWanted(p, gpu.Request{}).requests {
			if !slices.Contains(t.resources, name) {
				t.resources = append(t.resources, name)
			}
		}
	}
	slices.Sort(t.resources)
	for _, n := range v.nodes {
		tn := &trialNode{
			node: n, gpus: v.snapshot.Node(n.Name), domains: podgroup.Domains(n.Labels, n.Name, t.levels), milliCPU: v.freeMilliCPU(n),
			free: make([]int64, len(t.resources)),
		}
		for i, name := range t.resources {
			tn.free[i] = amount(n.Status.Allocatable, name) - amount(v.loads[n.Name].requests, name)
			if name == v1.ResourcePods {
				tn.free[i] -= v.loads[n.Name].pods
			}
		}
		t.nodes = append(t.nodes, tn)
		t.byName[n.Name] = tn
	}
	t.book = bookOf(t.set, objects, t.now)
	t.findJobs(objects, first)
	return t, nil
}

// findJobs finds what waits for GPUs.
func (t *trial) findJobs(o Objects, first map[string]bool) {
	asks := func(p *v1.Pod) bool {
		return p.Spec.NodeName == "" && p.DeletionTimestamp == nil && len(p.Spec.SchedulingGates) == 0 && p.Spec.SchedulerName == t.scheduler
	}
	add := func(g *group, pods []*v1.Pod) {
		j := &trialJob{gang: g, pods: pods, milliGPU: map[string]int64{}, started: map[string]bool{}}
		some := false
		for _, p := range pods {
			c, ok := t.set.Claim(p, nil)
			j.milliGPU[string(p.UID)] = c.MilliGPU
			some = some || ok
			j.first = j.first || first[string(p.UID)] && g == nil
		}
		if some {
			t.jobs = append(t.jobs, j)
		}
	}
	grouped := map[*v1.Pod]bool{}
	for _, g := range groupsOf(o) {
		if g.basic {
			continue
		}
		var waiting []*v1.Pod
		for _, p := range g.pods {
			grouped[p] = true
			if asks(p) {
				waiting = append(waiting, p)
			}
		}
		if len(waiting) > 0 {
			add(g, waiting)
		}
	}
	for _, p := range o.Pods {
		if !grouped[p] && asks(p) {
			add(nil, []*v1.Pod{p})
		}
	}
	// By what the scheduler's queue is sorted by: priority, then age.
	slices.SortStableFunc(t.jobs, func(a, b *trialJob) int {
		if a.first != b.first {
			if a.first {
				return -1
			}
			return 1
		}
		return cmp.Or(cmp.Compare(a.priority(), b.priority())*-1, cmp.Compare(a.age(), b.age()), cmp.Compare(a.pods[0].UID, b.pods[0].UID))
	})
}

func (j *trialJob) priority() int32 {
	if p := j.pods[0].Spec.Priority; p != nil {
		return *p
	}
	return 0
}

// asking is the first of its pods that asks for GPUs.
func (j *trialJob) asking() *v1.Pod {
	i := slices.IndexFunc(j.pods, func(p *v1.Pod) bool { return j.milliGPU[string(p.UID)] > 0 })
	return j.pods[max(i, 0)]
}

// age is when it began to wait.
func (j *trialJob) age() int64 {
	if j.gang != nil && j.gang.exists && !j.gang.spec.Created.IsZero() {
		return j.gang.spec.Created.Unix()
	}
	return j.pods[0].CreationTimestamp.Unix()
}

// run lets start what may and has room, until nothing more does.
func (t *trial) run() {
	for _, j := range t.jobs {
		if j.first {
			t.try(j)
		}
	}
	for {
		var contest quota.Contest
		contest.Capacity, contest.Idle = t.room()
		var waiting []*trialJob
		live := false
		for _, j := range t.jobs {
			if j.done || j.refused != "" {
				continue
			}
			if job, v := t.admit(j, t.choose(j)); v != "" {
				if !j.failed {
					j.refused = v // what runs only grows: it is not admitted later either
				}
			} else {
				waiting = append(waiting, j)
				contest.Waiting = append(contest.Waiting, quota.Waiting{Job: job, Classes: t.set.ClassesOf(j.asking()), Stuck: j.failed})
				live = live || !j.failed
			}
		}
		if !live {
			return
		}
		may := t.book.Turns(contest)
		any := false
		for i, j := range waiting {
			any = any || may[i] && !j.failed
		}
		for i, j := range waiting {
			if !j.failed && (may[i] || !any) { // when nobody's turn it is all may try
				t.try(j)
			}
		}
	}
}

// choose is the pods of a job that are to start: all that wait, or of a gang that its queue has no room for its minimum.
func (t *trial) choose(j *trialJob) []*v1.Pod {
	if j.gang == nil {
		return j.pods
	}
	if _, v := t.admit(j, j.pods); v == "" {
		return j.pods
	}
	bound := 0
	for _, p := range j.gang.planned() {
		if p.Spec.NodeName != "" {
			bound++
		}
	}
	return j.pods[:min(max(j.gang.spec.Min-bound, 1), len(j.pods))]
}

// admit is the job of the pods, and why its queue holds it back, empty when it does not.
func (t *trial) admit(j *trialJob, pods []*v1.Pod) (quota.Job, string) {
	var job quota.Job
	for _, p := range pods {
		if _, v := t.set.QueueOf(p); !v.OK() {
			return nil, v.Reason.String()
		}
		if c, ok := t.set.Claim(p, nil); ok {
			job = append(job, c)
		}
	}
	if len(job) == 0 {
		return nil, ""
	}
	if v := t.book.Admit(job); !v.OK() {
		return nil, v.Reason.String()
	}
	return job, ""
}

// room is what the cluster has and what is idle, in milli-GPU by class, as plugin Queue counts it.
func (t *trial) room() (capacity, idle map[string]int64) {
	capacity, idle = map[string]int64{}, map[string]int64{}
	for _, n := range t.nodes {
		if n.gpus == nil || n.node.Spec.Unschedulable {
			continue
		}
		for i := range n.gpus.GPUs {
			if n.gpus.GPUs[i].Unhealthy {
				continue
			}
			class := t.set.ClassOn(n.node.Labels, n.gpus.GPUs[i].Product, "").Name
			capacity[class] += gpu.WholeMilliGPU
			idle[class] += max(0, gpu.WholeMilliGPU-n.gpus.AssignedMilliGPU(i))
		}
	}
	return capacity, idle
}

// try starts the job where there is room.
func (t *trial) try(j *trialJob) {
	pods := t.choose(j)
	if _, v := t.admit(j, pods); v != "" {
		j.refused = v
		return
	}
	if j.gang != nil {
		t.tryGang(j, pods)
		return
	}
	p := pods[0]
	s, err := t.shape(p)
	if err != nil {
		j.refused = fit.InvalidRequest.String()
		return
	}
	n := t.best(s)
	if n == nil {
		j.failed = true
		return
	}
	a, err := fit.Assign(n.gpus, s.request, fit.CPU{FreeMilli: n.milliCPU, AskMilli: s.cpu}, t.strategy)
	if err != nil { // of several asks it may find none
		j.failed = true
		return
	}
	if reason := t.affordable([]*v1.Pod{p}, []*trialNode{n}); reason != "" {
		j.refused = reason
		return
	}
	t.start(j, p, s, n, a)
	j.done = true
}

// affordable is why the queue holds the pods back on these nodes, of which the class may be dearer than the cheapest.
func (t *trial) affordable(pods []*v1.Pod, nodes []*trialNode) string {
	var job quota.Job
	for i, p := range pods {
		if c, ok := t.set.ClaimOn(p, nodes[i].node); ok {
			job = append(job, c)
		}
	}
	if len(job) == 0 {
		return ""
	}
	if v := t.book.Admit(job); !v.OK() {
		return v.Reason.String()
	}
	return ""
}

// best is the node that the scheduler would choose, nil for none.
func (t *trial) best(s *trialShape) *trialNode {
	if s.full {
		return nil
	}
	var nodes []*trialNode
	var names []string
	var scores []int64
	for i, n := range t.nodes {
		if !s.allowed[i] || !s.fits(n) || s.memo.Check(n.gpus) != fit.Fits {
			continue
		}
		nodes = append(nodes, n)
		names = append(names, n.node.Name)
		scores = append(scores, s.memo.Score(n.gpus, fit.CPU{FreeMilli: n.milliCPU, AskMilli: s.cpu}))
	}
	if len(nodes) == 0 {
		s.full = true
		return nil
	}
	ranks := fit.Rank(names, scores)
	best := 0
	for i := range ranks {
		if ranks[i] > ranks[best] {
			best = i
		}
	}
	return nodes[best]
}

// fits reports whether the node has what the shape asks for besides GPUs.
func (s *trialShape) fits(n *trialNode) bool {
	for i, ask := range s.ask {
		if ask > 0 && ask > n.free[i] {
			return false
		}
	}
	return true
}

// shape is that of the pod.
func (t *trial) shape(p *v1.Pod) (*trialShape, error) {
	r, err := podspec.Request(p)
	if err != nil && p.Spec.NodeName == "" {
		return nil, err
	}
	w := newWanted(p, r)
	key := w.signature()
	if s := t.shapes[key]; s != nil {
		return s, nil
	}
	s := &trialShape{request: r, ask: make([]int64, len(t.resources)), cpu: podspec.MilliCPU(p), memo: t.memo.For(r)}
	for i, name := range t.resources {
		s.ask[i] = amount(w.requests, name)
		if name == v1.ResourcePods {
			s.ask[i] = 1
		}
	}
	for _, n := range t.nodes {
		s.allowed = append(s.allowed, rejectTainted(n.node, w).OK() && rejectAffinity(n.node, w).OK())
	}
	t.shapes[key] = s
	return s, nil
}

// start puts the pod on the node.
func (t *trial) start(j *trialJob, p *v1.Pod, s *trialShape, n *trialNode, a gpu.Assignment) {
	if n.gpus != nil && !a.Empty() {
		n.gpus = n.gpus.With(cluster.NewPod(string(p.UID), p.Namespace+"/"+p.Name, a))
	}
	for i, ask := range s.ask {
		n.free[i] -= ask
	}
	n.milliCPU -= s.cpu
	bound := p.DeepCopy()
	bound.Spec.NodeName = n.node.Name
	metav1.SetMetaDataAnnotation(&bound.ObjectMeta, podspec.AnnotationGPUs, a.String())
	if c, ok := t.set.Claim(bound, n.node); ok {
		c.Start = t.now
		t.book.Set(c)
	}
	j.started[string(p.UID)] = true
}

// tryGang starts the pods of a gang that wait, or as many of them as it needs.
func (t *trial) tryGang(j *trialJob, pods []*v1.Pod) {
	g := j.gang
	members := slices.DeleteFunc(g.planned(), func(p *v1.Pod) bool { return p.Spec.NodeName == "" && !slices.Contains(pods, p) })
	if r := g.refusal(members, t.levels); !r.OK() {
		j.refused = r.Reason.String()
		return
	}
	if len(members) < g.spec.Min {
		j.refused = fit.GangIncomplete.String()
		return
	}
	problem := gang.Problem{Gang: g.Key, Min: g.spec.Min, Topology: g.spec.Topology, Levels: t.levels, Strategy: t.strategy}
	for _, name := range t.resources {
		problem.Resources = append(problem.Resources, string(name))
	}
	var shapes []*trialShape
	for _, p := range members {
		s, err := t.shape(p)
		if err != nil {
			j.refused = fit.InvalidRequest.String()
			return
		}
		i := slices.Index(shapes, s)
		if i < 0 {
			i = len(shapes)
			shapes = append(shapes, s)
			problem.Shapes = append(problem.Shapes, gang.Shape{Name: p.Namespace + "/" + p.Name, Request: s.request, MilliCPU: s.cpu, Ask: s.ask})
		}
		problem.Members = append(problem.Members, gang.Member{UID: string(p.UID), Name: p.Namespace + "/" + p.Name, Shape: i, Node: p.Spec.NodeName})
	}
	var nodes []*trialNode
	for i, n := range t.nodes {
		pn := gang.Node{Name: n.node.Name, GPUs: n.gpus, Domains: n.domains, MilliCPU: n.milliCPU, Free: n.free, Limit: make([]int, len(shapes))}
		takes := slices.ContainsFunc(members, func(p *v1.Pod) bool { return p.Spec.NodeName == n.node.Name })
		for k, s := range shapes {
			if s.allowed[i] {
				pn.Limit[k], takes = gang.NoLimit, true
			}
		}
		if takes {
			problem.Nodes, nodes = append(problem.Nodes, pn), append(nodes, n)
		}
	}
	res, r := gang.Plan(&problem)
	if !r.OK() {
		j.failed = true
		return
	}
	var placed []*v1.Pod
	var at []*trialNode
	for _, p := range res.Placements {
		placed, at = append(placed, members[p.Member]), append(at, nodes[p.Node])
	}
	if reason := t.affordable(placed, at); reason != "" {
		j.refused = reason
		return
	}
	for i, p := range res.Placements {
		t.start(j, placed[i], shapes[problem.Members[p.Member].Shape], at[i], p.Assignment)
	}
	j.done = true
}

// unknown says of pods that wait what their place depends on beside what the snapshot has.
func (t *trial) unknown(d *snapshot.Document) []string {
	counts := map[string]int{}
	for _, p := range d.Pods {
		if p.Node != "" || p.Scheduler != t.scheduler {
			continue
		}
		for _, what := range p.Unknown {
			counts[what]++
		}
	}
	out := []string{}
	for what, n := range counts {
		out = append(out, fmt.Sprintf("%s of %s that wait", what, count(n, "pod")))
	}
	slices.Sort(out)
	return out
}
