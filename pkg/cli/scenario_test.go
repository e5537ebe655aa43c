package cli

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	v1 "k8s.io/api/core/v1"
	schedulingv1beta1 "k8s.io/api/scheduling/v1beta1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	schedv1alpha1 "sigs.k8s.io/scheduler-plugins/apis/scheduling/v1alpha1"

	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/inventory"
	"weft.sh/weft/pkg/mig"
	"weft.sh/weft/pkg/podgroup"
	"weft.sh/weft/pkg/podspec"
)

// scenario is a cluster written down in a few lines, for golden files. Each line is an object: the kind, the name, and
// words of the form key or key=value, separated by blanks.
//
//	node NAME [product=P] [gpus=N] [memory=MiB] [from=slices|labels] [mig=INDEX,…] [unhealthy=INDEX,…]
//	          [because=TEXT_WITH_UNDERSCORES] [whole=INDEX,…] [shared=INDEX,…] [isolation=I] [wired=switch|mesh] [clique=ID]
//	          [cpu=Q] [ram=Q] [pods=N] [also=RESOURCE:Q] [label=K:V] [taint=K:V:EFFECT] [cordoned] [unready] [torn]
//	fleet NAME n=N [words of node]      N nodes NAME-000, NAME-001, …; of node i, i*5 modulo gpus+1 GPUs are held whole
//	pod NAMESPACE/NAME [node=NAME] [gpus=ASSIGNMENT] [main=RESOURCE:Q,…] [side=…] [init=…] [scheduler=NAME] [phase=P]
//	          [gate=NAME] [annotate=K:V] [select=K:V] [tolerate=K] [model=P,…] [said=REASON:MESSAGE_WITH_UNDERSCORES]
//	          [nominated=NODE] [deleted] [uid=U] [gang=PODGROUP] [native=PODGROUP] [index=N] [owner=JOB] [priority=N]
//	          [queue=QUEUE] [bound=TIME]
//	pods NAMESPACE/NAME n=N [on=NODE,…] [words of pod]      pods NAME-0, NAME-1, … with those indices; on: each on the next of
//	          the nodes, with all its GPUs
//	group NAMESPACE/NAME min=N [native] [basic] [annotate=K:V] [status=PHASE:MESSAGE_WITH_UNDERSCORES]
type scenario struct{ Objects }

// words are the key=value words of one line.
type words struct {
	t    *testing.T
	line string
	kv   map[string][]string
}

func (w words) get(key, otherwise string) string {
	if v := w.kv[key]; len(v) > 0 {
		return v[0]
	}
	return otherwise
}

func (w words) has(key string) bool { return len(w.kv[key]) > 0 }

func (w words) int(key string, otherwise int) int {
	s := w.get(key, strconv.Itoa(otherwise))
	n, err := strconv.Atoi(s)
	if err != nil {
		w.t.Fatalf("%q: %s=%q is not a number", w.line, key, s)
	}
	return n
}

func (w words) indices(key string) []int {
	var out []int
	for s := range strings.SplitSeq(w.get(key, ""), ",") {
		if n, err := strconv.Atoi(s); err == nil {
			out = append(out, n)
		}
	}
	return out
}

// pairs are the values of the key, each cut into n parts at colons.
func (w words) pairs(key string, n int) [][]string {
	var out [][]string
	for _, v := range w.kv[key] {
		parts := strings.SplitN(v, ":", n)
		if len(parts) != n {
			w.t.Fatalf("%q: %s=%q: want %d parts", w.line, key, v, n)
		}
		out = append(out, parts)
	}
	return out
}

func parseScenario(t *testing.T, text string) scenario {
	t.Helper()
	s := scenario{Objects{GroupsRead: true, NativeGroupsRead: true}}
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) == 0 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		w := words{t: t, line: line, kv: map[string][]string{}}
		for _, f := range fields[2:] {
			k, v, _ := strings.Cut(f, "=")
			w.kv[k] = append(w.kv[k], v)
		}
		switch fields[0] {
		case "node":
			s.node(fields[1], w)
		case "fleet":
			s.fleet(fields[1], w)
		case "pod":
			s.add(makePod(fields[1], w))
		case "pods":
			s.pods(fields[1], w)
		case "group":
			s.group(fields[1], w)
		default:
			t.Fatalf("%q: want node, fleet, pod, pods or group", line)
		}
	}
	return s
}

func (s *scenario) node(name string, w words) {
	n := &v1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"kubernetes.io/hostname": name}},
		Spec:       v1.NodeSpec{Unschedulable: w.has("cordoned")},
		Status: v1.NodeStatus{
			Allocatable: v1.ResourceList{
				v1.ResourceCPU:    resource.MustParse(w.get("cpu", "64")),
				v1.ResourceMemory: resource.MustParse(w.get("ram", "512Gi")),
				v1.ResourcePods:   resource.MustParse(w.get("pods", "110")),
			},
			Conditions: []v1.NodeCondition{{Type: v1.NodeReady, Status: v1.ConditionTrue}},
		},
	}
	if w.has("unready") {
		n.Status.Conditions[0].Status = v1.ConditionFalse
	}
	for _, p := range w.pairs("label", 2) {
		n.Labels[p[0]] = p[1]
	}
	for _, p := range w.pairs("taint", 3) {
		n.Spec.Taints = append(n.Spec.Taints, v1.Taint{Key: p[0], Value: p[1], Effect: v1.TaintEffect(p[2])})
	}
	count, product, memory := w.int("gpus", 0), w.get("product", "NVIDIA-H100-80GB-HBM3"), w.int("memory", 81559)
	if count > 0 {
		n.Labels[podspec.LabelProduct] = product
		n.Status.Allocatable[podspec.ResourceGPU] = resource.MustParse(strconv.Itoa(count))
	}
	if count > 0 && w.get("from", "slices") == "labels" {
		n.Labels[podspec.LabelCount], n.Labels[podspec.LabelMemory] = strconv.Itoa(count), strconv.Itoa(memory)
	} else if count > 0 {
		n.Status.Allocatable[podspec.ResourceGPUPercent] = resource.MustParse(strconv.Itoa(100 * (count - len(w.indices("whole")))))
		n.Status.Allocatable[podspec.ResourceGPU] = resource.MustParse(strconv.Itoa(count - len(w.indices("shared"))))
		for _, profile := range mig.Profiles() {
			n.Status.Allocatable[v1.ResourceName(podspec.MIGResource(profile))] = resource.MustParse(strconv.Itoa(7 * count))
		}
		var devices []gpu.Device
		for i := range count {
			d := gpu.Device{
				ID: gpu.ID(fmt.Sprintf("GPU-%s-%d", name, i)), Index: i, Product: product, MemoryMiB: int64(memory),
				Unhealthy: slices.Contains(w.indices("unhealthy"), i), MIG: slices.Contains(w.indices("mig"), i),
				WholeOnly: slices.Contains(w.indices("whole"), i), SharedOnly: slices.Contains(w.indices("shared"), i),
				Isolation: gpu.Isolation(w.get("isolation", "")), Hardware: w.hardware(i, count),
			}
			if d.Unhealthy {
				d.UnhealthyReason = strings.ReplaceAll(w.get("because", ""), "_", " ")
			}
			if d.MIG {
				table, _ := mig.TableByProduct(product)
				d.Instances = table.Instances()
			}
			devices = append(devices, d)
		}
		published := inventory.Slices(name, devices, 1)
		if w.has("torn") {
			published[0].Spec.Pool.ResourceSliceCount++ // one is missing
		}
		s.Slices = append(s.Slices, published...)
	}
	for _, p := range w.pairs("also", 2) {
		n.Status.Allocatable[v1.ResourceName(p[0])] = resource.MustParse(p[1])
	}
	s.Nodes = append(s.Nodes, n)
}

// hardware is that of a GPU of a large machine: NVLinks to switches, or to the GPUs of its half of the machine.
func (w words) hardware(index, count int) *gpu.Hardware {
	if !w.has("wired") && !w.has("clique") {
		return nil
	}
	h := &gpu.Hardware{
		PCIBusID: fmt.Sprintf("0000:%02x:00.0", 0x18+0x10*index), NUMANode: 2 * index / count, Clique: w.get("clique", ""),
		Architecture: "hopper", ComputeCapability: "9.0", DriverVersion: "615.71.9", CUDAVersion: "13.4",
	}
	switch w.get("wired", "") {
	case "switch":
		h.Links.Switch = 18
	case "mesh":
		for peer := range count {
			if peer != index && 2*peer/count == h.NUMANode {
				h.Links.Peers = append(h.Links.Peers, gpu.Peer{Index: peer, Links: 4})
			}
		}
	}
	return h
}

func (s *scenario) fleet(name string, w words) {
	for i := range w.int("n", 1) {
		node := fmt.Sprintf("%s-%03d", name, i)
		s.node(node, w)
		total := w.int("gpus", 0)
		if total == 0 {
			continue
		}
		var held []string
		for g := range i * 5 % (total + 1) {
			held = append(held, fmt.Sprintf("GPU-%s-%d", node, g))
		}
		if len(held) == 0 {
			continue
		}
		s.Pods = append(s.Pods, makePod("fleet/"+node, words{t: w.t, line: w.line, kv: map[string][]string{
			"node": {node}, "main": {fmt.Sprintf("nvidia.com/gpu:%d", len(held))}, "gpus": {"main=" + strings.Join(held, ",")},
		}}))
	}
}

// add adds a pod; one of a gang that has ended is listed apart.
func (s *scenario) add(p *v1.Pod) {
	if _, member := podgroup.KeyOf(p); member && hasEnded(p) {
		s.Ended = append(s.Ended, p)
		return
	}
	s.Pods = append(s.Pods, p)
}

func (s *scenario) pods(name string, w words) {
	var on []string
	if w.has("on") {
		on = strings.Split(w.get("on", ""), ",")
	}
	for i := range w.int("n", 1) {
		words := words{t: w.t, line: w.line, kv: maps.Clone(w.kv)}
		words.kv["index"] = []string{strconv.Itoa(i)}
		if i < len(on) {
			var ids []string
			for _, n := range s.Nodes {
				for g := range n.Status.Allocatable.Name(podspec.ResourceGPU, resource.DecimalSI).Value() {
					if n.Name == on[i] {
						ids = append(ids, fmt.Sprintf("GPU-%s-%d", n.Name, g))
					}
				}
			}
			words.kv["node"], words.kv["gpus"], words.kv["phase"] = []string{on[i]}, []string{"main=" + strings.Join(ids, ",")}, []string{"Running"}
		}
		s.add(makePod(fmt.Sprintf("%s-%d", name, i), words))
	}
}

func (s *scenario) group(name string, w words) {
	namespace, name, _ := strings.Cut(name, "/")
	meta := metav1.ObjectMeta{Namespace: namespace, Name: name, UID: types.UID("uid-group-" + name), Annotations: map[string]string{}}
	for _, a := range w.pairs("annotate", 2) {
		meta.Annotations[a[0]] = a[1]
	}
	if w.has("native") {
		pg := &schedulingv1beta1.PodGroup{ObjectMeta: meta}
		if w.has("basic") {
			pg.Spec.SchedulingPolicy.Basic = &schedulingv1beta1.BasicSchedulingPolicy{}
		} else {
			pg.Spec.SchedulingPolicy.Gang = &schedulingv1beta1.GangSchedulingPolicy{MinCount: int32(w.int("min", 0))}
		}
		s.NativeGroups = append(s.NativeGroups, pg)
		return
	}
	pg := PodGroup{PodGroup: schedv1alpha1.PodGroup{ObjectMeta: meta, Spec: schedv1alpha1.PodGroupSpec{MinMember: int32(w.int("min", 0))}}}
	for _, status := range w.pairs("status", 2) {
		pg.Status.Phase, pg.Message = schedv1alpha1.PodGroupPhase(status[0]), strings.ReplaceAll(status[1], "_", " ")
	}
	s.Groups = append(s.Groups, pg)
}

func makePod(name string, w words) *v1.Pod {
	namespace, name, ok := strings.Cut(name, "/")
	if !ok {
		w.t.Fatalf("%q: want namespace/name", w.line)
	}
	p := &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace, Name: name, UID: types.UID(w.get("uid", "uid-"+namespace+"-"+name)), Annotations: map[string]string{},
		},
		Spec: v1.PodSpec{
			NodeName: w.get("node", ""), SchedulerName: w.get("scheduler", DefaultSchedulerName), NodeSelector: map[string]string{},
		},
		Status: v1.PodStatus{Phase: v1.PodPhase(w.get("phase", string(v1.PodPending)))},
	}
	for _, c := range []string{"main", "side", "init"} {
		if !w.has(c) {
			continue
		}
		container := v1.Container{Name: c, Resources: v1.ResourceRequirements{Requests: v1.ResourceList{}}}
		for ask := range strings.SplitSeq(w.get(c, ""), ",") {
			if resourceName, q, ok := strings.Cut(ask, ":"); ok {
				container.Resources.Requests[v1.ResourceName(resourceName)] = resource.MustParse(q)
			}
		}
		if c == "init" {
			p.Spec.InitContainers = append(p.Spec.InitContainers, container)
		} else {
			p.Spec.Containers = append(p.Spec.Containers, container)
		}
	}
	if w.has("gpus") {
		p.Annotations[podspec.AnnotationGPUs] = w.get("gpus", "")
	}
	for _, a := range w.pairs("annotate", 2) {
		p.Annotations[a[0]] = a[1]
	}
	for _, s := range w.pairs("select", 2) {
		p.Spec.NodeSelector[s[0]] = s[1]
	}
	for _, k := range w.kv["tolerate"] {
		p.Spec.Tolerations = append(p.Spec.Tolerations, v1.Toleration{Key: k, Operator: v1.TolerationOpExists})
	}
	for _, g := range w.kv["gate"] {
		p.Spec.SchedulingGates = append(p.Spec.SchedulingGates, v1.PodSchedulingGate{Name: g})
	}
	if w.has("model") {
		p.Spec.Affinity = &v1.Affinity{NodeAffinity: &v1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &v1.NodeSelector{
			NodeSelectorTerms: []v1.NodeSelectorTerm{{MatchExpressions: []v1.NodeSelectorRequirement{{
				Key: podspec.LabelProduct, Operator: v1.NodeSelectorOpIn, Values: strings.Split(w.get("model", ""), ","),
			}}}},
		}}}
	}
	for _, said := range w.pairs("said", 2) {
		p.Status.Conditions = append(p.Status.Conditions, v1.PodCondition{
			Type: v1.PodScheduled, Status: v1.ConditionFalse, Reason: said[0], Message: strings.ReplaceAll(said[1], "_", " "),
		})
	}
	if w.has("gang") {
		p.Labels = map[string]string{podspec.LabelPodGroup: w.get("gang", "")}
	}
	if w.has("native") {
		p.Spec.SchedulingGroup = &v1.PodSchedulingGroup{PodGroupName: new(w.get("native", ""))}
	}
	if w.has("queue") {
		if p.Labels == nil {
			p.Labels = map[string]string{}
		}
		p.Labels[podspec.LabelQueue] = w.get("queue", "")
	}
	if w.has("bound") {
		bound, err := time.Parse(time.RFC3339, w.get("bound", ""))
		if err != nil {
			w.t.Fatalf("%q: %v", w.line, err)
		}
		p.Status.Conditions = append(p.Status.Conditions, v1.PodCondition{
			Type: v1.PodScheduled, Status: v1.ConditionTrue, LastTransitionTime: metav1.NewTime(bound),
		})
	}
	if w.has("index") {
		p.Annotations[batchv1.JobCompletionIndexAnnotation] = w.get("index", "")
	}
	if w.has("owner") {
		p.OwnerReferences = []metav1.OwnerReference{{Kind: "Job", Name: w.get("owner", ""), UID: "uid-job", Controller: new(true)}}
	}
	if w.has("priority") {
		p.Spec.Priority = new(int32(w.int("priority", 0)))
	}
	p.Status.NominatedNodeName = w.get("nominated", "")
	if w.has("deleted") {
		now := metav1.Unix(1_700_000_000, 0)
		p.DeletionTimestamp = &now
	}
	return p
}
