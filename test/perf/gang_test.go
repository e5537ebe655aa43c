package perf

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	schedulingv1beta1 "k8s.io/api/scheduling/v1beta1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	schedv1alpha1 "sigs.k8s.io/scheduler-plugins/apis/scheduling/v1alpha1"

	"weft.sh/weft/pkg/playground"
	"weft.sh/weft/pkg/podgroup"
	"weft.sh/weft/pkg/podspec"
)

var (
	gangNodes    = flag.Int("gang.nodes", 512, "nodes of 8 GPUs, and members of the gang")
	gangRuns     = flag.Int("gang.runs", 3, "runs of each competitor in the benchmark of gangs")
	gangOnly     = flag.String("gang.only", "", "the `competitor` that runs alone: weft, in-tree, in-tree-topology or null; empty for all")
	gangKubelets = flag.Bool("gang.kubelets", false, "let KWOK start members while others are still being bound")
	gangProfile  = flag.String("gang.profile", "", "a `folder` for a CPU profile and the metrics of each scheduler; profiled runs are slower")
)

const (
	gpusPerNode = 8
	// patience is far beyond what any gang here takes: after it, it is not slow but stuck.
	patience = 3 * time.Minute
)

// infeasible are the gangs that are asked for when every GPU is taken: 80 GPUs each.
var infeasible = []struct{ members, gpus int }{{10, 8}, {80, 1}}

// competitor is a scheduler that runs alone on the cluster, for one gang.
type competitor struct {
	name string
	// schedulerName is the profile that its pods ask for.
	schedulerName string
	// gates are those of the scheduler that are not as weft-scheduler has them.
	gates string
	// group creates the PodGroup, and join makes a pod its member.
	group func(ctx context.Context, c *gangCluster, name string, members int) error
	join  func(pod *corev1.Pod, group string)
	// null is no scheduler: a Binding is posted for every pod as fast as the API server takes them, member i to node i, and nothing
	// is decided. What remains is what the machine needs for that many Bindings at that moment.
	null bool
}

// inTreeGates are those of native gangs, and the one that is on in kube-scheduler and that weft-scheduler switches off.
// TopologyAwareWorkloadScheduling, which weft-scheduler may switch on, is for each competitor to say.
const inTreeGates = "GenericWorkload=true,NominatedNodeNameForExpectation=true"

var competitors = []competitor{
	{name: "weft", schedulerName: playground.SchedulerName, group: createCRDGroup, join: joinCRDGroup},
	{
		name: "in-tree", schedulerName: corev1.DefaultSchedulerName,
		gates: inTreeGates + ",TopologyAwareWorkloadScheduling=false",
		group: createNativeGroup(""), join: joinNativeGroup,
	},
	// All nodes are in one zone, so there is one placement to try. Weft's plan looks at zone and rack without being asked.
	{
		name: "in-tree-topology", schedulerName: corev1.DefaultSchedulerName,
		gates: inTreeGates + ",TopologyAwareWorkloadScheduling=true",
		group: createNativeGroup(corev1.LabelTopologyZone), join: joinNativeGroup,
	},
	{
		name: "null", schedulerName: "nobody", null: true,
		group: func(context.Context, *gangCluster, string, int) error { return nil }, join: func(*corev1.Pod, string) {},
	},
}

// gangRun is a run of one competitor. Times are in milliseconds.
type gangRun struct {
	Workload   string `json:"workload"`
	Competitor string `json:"competitor"`
	Run        int    `json:"run"`
	// Millis is from when the last member was created to when the last was bound, and FirstMillis to when the first was.
	Millis      float64 `json:"ms"`
	FirstMillis float64 `json:"first_ms"`
	// PlanMillis is the time of Weft's plan, or of the in-tree simulation of the whole gang.
	PlanMillis float64 `json:"plan_ms"`
	// CycleMicros is the mean time to choose a member's node, and AttemptMillis from its turn until it is bound.
	CycleMicros   float64 `json:"cycle_us"`
	AttemptMillis float64 `json:"attempt_ms"`
	// Writes are what the scheduler wrote of the members until the last was bound, and OthersWrites what others did, which is
	// KWOK; their creation is left out.
	Writes       int `json:"writes"`
	OthersWrites int `json:"others_writes"`
	// RefusedMillis is from the last member of a gang without room to when all its members are told so, by the number of members;
	// Message is what those of the last are told.
	RefusedMillis map[int]float64 `json:"refused_ms"`
	Message       string          `json:"refused_message"`
	// CPUMillis is the time on a CPU of each process while Millis passed: less a matter of what else the machine does.
	CPUMillis map[string]float64 `json:"cpu_ms"`
	// Load is the machine's load of one minute when the run began; CPUs is what it compares with.
	Load float64 `json:"load"`
	CPUs int     `json:"cpus"`
}

// BenchmarkGang places one gang that takes a whole cluster, a member of 8 GPUs on each node: by weft-scheduler as it is
// shipped, and by the gangs of Kubernetes 1.37 itself, which is the same binary with the default plugins and the gate
// GenericWorkload. etcd and the API server are real, the nodes are KWOK's, and one competitor after the other has them for
// itself. Weft's pods pass Weft's admission policies besides; in all else but their scheduler and how they name their group
// the pods are the same.
//
// KWOK, which plays all 512 kubelets in one process, stands still from the last member's creation until the last is bound, for
// every competitor alike (unless flag -gang.kubelets is there). A kubelet on a machine of its own has images to pull and sandboxes
// to make before it says that a pod runs; KWOK says so at once, on the processors that the schedulers and the API server are
// measured on, and whoever binds its first member early is measured with that work, and who binds all late without.
//
// The competitor "null" tells what the API server and etcd take for the Bindings alone; see competitor.
//
// Then, with all GPUs taken, two gangs ask for 80 more, one with 10 members and one with 80, for the time until all members are
// told that there is no room.
//
//	make build && go test -run '^$' -bench BenchmarkGang -timeout 60m ./test/perf -gang.runs 5
func BenchmarkGang(b *testing.B) {
	c := startGangCluster(b, *gangNodes)
	workload := fmt.Sprintf("gang of %d x %d GPUs on %d nodes", *gangNodes, gpusPerNode, *gangNodes)
	taking := slices.DeleteFunc(slices.Clone(competitors), func(p competitor) bool { return *gangOnly != "" && p.name != *gangOnly })
	if len(taking) == 0 {
		b.Fatalf("-gang.only is %q: want the name of a competitor", *gangOnly)
	}
	runs := map[string][]gangRun{}
	number := 0
	for b.Loop() {
		for range *gangRuns {
			number++
			for i := range taking {
				// Who goes first changes with every round.
				p := taking[(i+number)%len(taking)]
				r := c.run(p, fmt.Sprintf("%s-%d", p.name, number))
				r.Workload, r.Run = workload, number
				runs[p.name] = append(runs[p.name], r)
				line, err := json.Marshal(r)
				if err != nil {
					b.Fatal(err)
				}
				fmt.Printf("\n%-16s run %d: %6.0f ms (first bound after %.0f), plan %.1f ms, cycle %.0f µs, %d writes and %d of others, refused after %.0f and %.0f ms, load %.1f\n%s\n",
					p.name, number, r.Millis, r.FirstMillis, r.PlanMillis, r.CycleMicros, r.Writes, r.OthersWrites, r.RefusedMillis[10], r.RefusedMillis[80], r.Load, line)
			}
		}
	}
	medianOf := func(name string, value func(gangRun) float64) float64 {
		var all []float64
		for _, r := range runs[name] {
			all = append(all, value(r))
		}
		return median(all)
	}
	b.ReportMetric(0, "ns/op") // of all together: says nothing
	ours := 0.0
	for i, p := range taking {
		ms := medianOf(p.name, func(r gangRun) float64 { return r.Millis })
		plan := medianOf(p.name, func(r gangRun) float64 { return r.PlanMillis })
		cycle := medianOf(p.name, func(r gangRun) float64 { return r.CycleMicros })
		refused := func(members int) float64 {
			return medianOf(p.name, func(r gangRun) float64 { return r.RefusedMillis[members] })
		}
		if i == 0 {
			ours = ms
		}
		fmt.Printf("%-16s median of %d: %6.0f ms, %.2f x %s; plan %.1f ms, cycle %.0f µs, refused after %.0f and %.0f ms\n",
			p.name, len(runs[p.name]), ms, ms/ours, taking[0].name, plan, cycle, refused(10), refused(80))
		b.ReportMetric(ms, p.name+"-ms")
		if i > 0 {
			b.ReportMetric(ms/ours, p.name+"/"+taking[0].name)
		}
		if p.null {
			continue
		}
		b.ReportMetric(plan, p.name+"-plan-ms")
		b.ReportMetric(cycle, p.name+"-cycle-µs")
		for _, g := range infeasible {
			b.ReportMetric(refused(g.members), fmt.Sprintf("%s-refused-%d-ms", p.name, g.members))
		}
	}
}

// run has the competitor place a gang on the empty cluster, and then refuse one.
func (c *gangCluster) run(p competitor, group string) gangRun {
	c.b.Helper()
	ctx, cancel := context.WithTimeoutCause(c.b.Context(), 2*patience, fmt.Errorf("%s: gave up after %v", group, 2*patience))
	defer cancel()
	c.clear(ctx)
	r := gangRun{Competitor: p.name, Load: load(), CPUs: cpus()}
	var s *playground.Process
	if !p.null {
		s = c.startScheduler(ctx, p)
		defer s.Kill()
	}
	pods := c.watchPods(ctx)
	defer pods.stop()
	resume, profiled := func() {}, func(metricsText) {}
	c.createGang(ctx, p, pods, group, c.nodes, gpusPerNode, func() {
		resume = c.pauseKubelets()
		profiled = c.profile(ctx, s, group)
		r.CPUMillis = c.cpuMillis(s)
	})
	if p.null {
		c.bindAll(ctx, group)
	}
	pods.wait(ctx, patience, group+" is bound whole", c.tail(s), func(seen map[string]*seenPod) string {
		bound, message := 0, ""
		for _, o := range seen {
			if o.node != "" {
				bound++
			} else if o.message != "" {
				message = ": " + o.message
			}
		}
		if bound < c.nodes {
			return fmt.Sprintf("%d of %d members are bound%s", bound, c.nodes, message)
		}
		return ""
	})
	for name, after := range c.cpuMillis(s) {
		r.CPUMillis[name] = after - r.CPUMillis[name]
	}
	resume()
	nodes := map[string]int{}
	want := map[string]int{}
	for _, o := range pods.all() {
		nodes[o.node]++
	}
	for i := range c.nodes {
		want[nodeName(i)] = 1
	}
	if diff := cmp.Diff(want, nodes); diff != "" {
		c.b.Fatalf("%s: members on nodes that have room for one (-want +got):\n%s", group, diff)
	}
	audited := c.audit.read(ctx, group, func(a audited) bool { return len(a.created) == c.nodes && len(a.bound) == c.nodes })
	created, last := last(audited.created), last(audited.bound)
	r.Millis, r.FirstMillis = millis(last.Sub(created)), millis(first(audited.bound).Sub(created))
	for who, times := range audited.written {
		for _, at := range times {
			if at.After(last) {
				continue
			}
			if who == playground.SchedulerUser {
				r.Writes++
			} else {
				r.OthersWrites++
			}
		}
	}
	if p.null {
		profiled("")
		return r
	}
	m := c.metrics(ctx, s)
	r.read(p, m)
	profiled(m)

	r.RefusedMillis = map[int]float64{}
	for _, g := range infeasible {
		c.refuse(ctx, p, s, pods, fmt.Sprintf("%s-more-%d", group, g.members), g.members, g.gpus, &r)
	}
	return r
}

// bindAll posts a Binding for each member.
func (c *gangCluster) bindAll(ctx context.Context, group string) {
	c.b.Helper()
	c.inParallel(ctx, c.nodes, func(ctx context.Context, i int) error {
		return c.client.CoreV1().Pods(metav1.NamespaceDefault).Bind(ctx, &corev1.Binding{
			ObjectMeta: metav1.ObjectMeta{Name: memberName(group, i)}, Target: corev1.ObjectReference{Kind: "Node", Name: nodeName(i)},
		}, metav1.CreateOptions{})
	})
}

// read takes what the scheduler says about the gang from its metrics.
func (r *gangRun) read(p competitor, m metricsText) {
	const algorithm, group, attempt = "scheduler_scheduling_algorithm_duration_seconds", "scheduler_podgroup_scheduling_algorithm_duration_seconds",
		"scheduler_scheduling_attempt_duration_seconds"
	cycles := m.sum(algorithm + "_sum")
	if p.name == "weft" {
		plan := m.sum("weft_gang_plan_seconds_sum")
		r.PlanMillis = 1000 * plan
		cycles -= plan // it is made in the cycle of one member
	} else {
		r.PlanMillis = 1000 * m.sum(group+"_sum")
	}
	r.CycleMicros = 1e6 * cycles / m.sum(algorithm+"_count")
	r.AttemptMillis = 1000 * m.sum(attempt+`_sum{profile="`+p.schedulerName+`",result="scheduled"`) /
		m.sum(attempt+`_count{profile="`+p.schedulerName+`",result="scheduled"`)
}

// refuse asks for a gang without room. Only Weft must say so to all members.
func (c *gangCluster) refuse(ctx context.Context, p competitor, s *playground.Process, pods *podWatch, group string, members, gpus int, r *gangRun) {
	c.b.Helper()
	pods.wait(ctx, patience, "the gang runs, and all is quiet", nil, func(seen map[string]*seenPod) string {
		for name, o := range seen {
			if o.node != "" && !o.running {
				return name + " does not run"
			}
		}
		return ""
	})
	c.createGang(ctx, p, pods, group, members, gpus, func() {})
	var told []*seenPod
	pods.wait(ctx, patience, group+" is refused whole", c.tail(s), func(seen map[string]*seenPod) string {
		told = told[:0]
		for i := range members {
			if o := seen[memberName(group, i)]; o != nil && o.message != "" {
				told = append(told, o)
			} else if o != nil && o.node != "" {
				c.b.Fatalf("%s is bound to %s, where all GPUs are taken", memberName(group, i), o.node)
			}
		}
		if len(told) < members {
			return fmt.Sprintf("%d of %d members were told", len(told), members)
		}
		return ""
	})
	audited := c.audit.read(ctx, group, func(a audited) bool { return len(a.created) == members && len(a.told) == members })
	r.RefusedMillis[members], r.Message = millis(last(audited.told).Sub(last(audited.created))), told[0].message
}

func memberName(group string, i int) string { return fmt.Sprintf("%s-%d", group, i) }

// createGang creates a PodGroup and its members, the last one when the others are there, after the call of beforeLast.
func (c *gangCluster) createGang(ctx context.Context, p competitor, pods *podWatch, group string, members, gpus int, beforeLast func()) {
	c.b.Helper()
	if err := p.group(ctx, c, group, members); err != nil {
		c.b.Fatalf("%s: create its PodGroup: %v", group, err)
	}
	member := func(ctx context.Context, i int) error {
		pod := playground.Pod{Name: memberName(group, i), CPUMilli: 1000, MemoryMiB: 1024, GPUs: int64(gpus)}.Object()
		pod.Spec.SchedulerName = p.schedulerName
		pod.Labels = map[string]string{"batch.kubernetes.io/job-completion-index": fmt.Sprint(i)}
		p.join(pod, group)
		_, err := c.client.CoreV1().Pods(pod.Namespace).Create(ctx, pod, metav1.CreateOptions{})
		return err
	}
	c.inParallel(ctx, members-1, member)
	pods.wait(ctx, patience, "all members of "+group+" but one are created", nil, func(seen map[string]*seenPod) string {
		n := 0
		for i := range members {
			if seen[memberName(group, i)] != nil {
				n++
			}
		}
		if n < members-1 {
			return fmt.Sprintf("%d of %d", n, members-1)
		}
		return ""
	})
	beforeLast()
	if err := member(ctx, members-1); err != nil {
		c.b.Fatal(err)
	}
}

func createCRDGroup(ctx context.Context, c *gangCluster, name string, members int) error {
	group := &unstructured.Unstructured{Object: map[string]any{"spec": map[string]any{"minMember": int64(members)}}}
	group.SetAPIVersion(schedv1alpha1.SchemeGroupVersion.String())
	group.SetKind("PodGroup")
	group.SetName(name)
	_, err := c.dynamic.Resource(podgroup.Resource).Namespace(metav1.NamespaceDefault).Create(ctx, group, metav1.CreateOptions{})
	return err
}

func joinCRDGroup(pod *corev1.Pod, group string) { pod.Labels[podspec.LabelPodGroup] = group }

// createNativeGroup requires one domain of the topology key, where there is one.
func createNativeGroup(key string) func(context.Context, *gangCluster, string, int) error {
	return func(ctx context.Context, c *gangCluster, name string, members int) error {
		group := &schedulingv1beta1.PodGroup{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec: schedulingv1beta1.PodGroupSpec{SchedulingPolicy: schedulingv1beta1.PodGroupSchedulingPolicy{
				Gang: &schedulingv1beta1.GangSchedulingPolicy{MinCount: int32(members)},
			}},
		}
		if key != "" {
			group.Spec.SchedulingConstraints = &schedulingv1beta1.PodGroupSchedulingConstraints{
				Topology: []schedulingv1beta1.TopologyConstraint{{Key: key}},
			}
		}
		_, err := c.client.SchedulingV1beta1().PodGroups(metav1.NamespaceDefault).Create(ctx, group, metav1.CreateOptions{})
		return err
	}
}

func joinNativeGroup(pod *corev1.Pod, group string) {
	pod.Spec.SchedulingGroup = &corev1.PodSchedulingGroup{PodGroupName: &group}
}

func first(at map[string]time.Time) time.Time {
	return slices.MinFunc(slices.Collect(maps.Values(at)), time.Time.Compare)
}

func last(at map[string]time.Time) time.Time {
	return slices.MaxFunc(slices.Collect(maps.Values(at)), time.Time.Compare)
}

func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
