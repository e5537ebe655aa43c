package snapshot

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	schedulingv1beta1 "k8s.io/api/scheduling/v1beta1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	"k8s.io/client-go/kubernetes/fake"
	schedv1alpha1 "sigs.k8s.io/scheduler-plugins/apis/scheduling/v1alpha1"

	"weft.sh/weft/pkg/apis/weft/v1alpha1"
	"weft.sh/weft/pkg/gang"
	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/inventory"
	"weft.sh/weft/pkg/mig"
	"weft.sh/weft/pkg/podgroup"
	"weft.sh/weft/pkg/podspec"
	"weft.sh/weft/pkg/queues"
)

var moments = metav1.NewTime(time.Date(2026, 11, 21, 8, 0, 0, 0, time.UTC))

// secret stands in every place of a pod and a node that is nobody's business.
const secret = "hunter2"

func amounts(pairs ...string) v1.ResourceList {
	out := v1.ResourceList{}
	for i := 0; i < len(pairs); i += 2 {
		out[v1.ResourceName(pairs[i])] = resource.MustParse(pairs[i+1])
	}
	return out
}

// cluster is one with GPUs in MIG mode, shared and whole, a gang of each kind and queues, as the API server has it.
func clusterObjects(t *testing.T) *Objects {
	t.Helper()
	table, ok := mig.TableByProduct("NVIDIA-H100-80GB-HBM3")
	if !ok {
		t.Fatal("no table")
	}
	o := &Objects{}
	for n, name := range []string{"node-a", "node-b"} {
		var devices []gpu.Device
		for i := range 4 {
			d := gpu.Device{
				ID: gpu.ID(fmt.Sprintf("GPU-%s-%d", name, i)), Index: i, Product: "NVIDIA-H100-80GB-HBM3", MemoryMiB: 81559,
				Hardware: &gpu.Hardware{NUMANode: i / 2, Architecture: "hopper", Links: gpu.Links{Switch: 18}, PCIBusID: "0000:65:00.0"},
			}
			if n == 1 && i < 2 {
				d.MIG, d.Instances = true, table.Instances()
			}
			if n == 1 && i == 3 {
				d.Unhealthy, d.UnhealthyReason = true, secret
			}
			devices = append(devices, d)
		}
		node := &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{
			"topology.kubernetes.io/rack": "rack-" + name, "nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3", "pool": "train", "unrelated": secret,
			"kubernetes.io/hostname": name,
		}, Annotations: map[string]string{"note": secret}}}
		node.Status.Allocatable = amounts("cpu", "64", "memory", "512Gi", "pods", "110", "nvidia.com/gpu", "4", "weft.sh/gpu-percent", "400")
		node.Status.Capacity = amounts("cpu", "64", "memory", "512Gi", "pods", "110")
		node.Spec.Taints = []v1.Taint{{Key: "gpu", Value: "yes", Effect: v1.TaintEffectNoSchedule}}
		o.Nodes = append(o.Nodes, node)
		o.Slices = append(o.Slices, inventory.Slices(name, devices, 3)...)
	}
	pod := func(name, node, assignment string, change func(*v1.Pod), asks ...string) {
		p := &v1.Pod{ObjectMeta: metav1.ObjectMeta{
			Namespace: "ml", Name: name, UID: types.UID("uid-" + name), CreationTimestamp: moments,
			Labels:      map[string]string{podspec.LabelQueue: "research", "secret": secret},
			Annotations: map[string]string{"other": secret, podspec.AnnotationRuntime: "6h"},
		}}
		p.Spec = v1.PodSpec{
			SchedulerName: "weft", NodeName: node, Priority: new(int32(7)), NodeSelector: map[string]string{"pool": "train"},
			Tolerations:   []v1.Toleration{{Key: "gpu", Operator: v1.TolerationOpExists}},
			Volumes:       []v1.Volume{{Name: secret, VolumeSource: v1.VolumeSource{PersistentVolumeClaim: &v1.PersistentVolumeClaimVolumeSource{ClaimName: secret}}}},
			RestartPolicy: v1.RestartPolicyNever,
			Containers: []v1.Container{{
				Name: "main", Image: secret, Args: []string{secret}, Command: []string{secret}, Env: []v1.EnvVar{{Name: "TOKEN", Value: secret}},
				Resources: v1.ResourceRequirements{Limits: amounts(append(asks, "cpu", "4", "memory", "8Gi")...), Requests: amounts("cpu", "2", "memory", "8Gi")},
			}},
		}
		if assignment != "" {
			p.Annotations[podspec.AnnotationGPUs] = assignment
		}
		if node != "" {
			p.Status.Phase = v1.PodRunning
			p.Status.Message = secret
			p.Status.Conditions = []v1.PodCondition{{Type: v1.PodScheduled, Status: v1.ConditionTrue, LastTransitionTime: moments, Message: secret}}
		}
		if change != nil {
			change(p)
		}
		o.Pods = append(o.Pods, p)
	}
	pod("share", "node-a", "main=GPU-node-a-0:250m/20389Mi", nil, "weft.sh/gpu-percent", "25")
	pod("instance", "node-b", "main=GPU-node-b-0:3g.40gb@4:4", nil, "nvidia.com/mig-3g.40gb", "1")
	for i := range 3 {
		pod(fmt.Sprintf("train-%d", i), "", "", func(p *v1.Pod) {
			p.Labels[podspec.LabelPodGroup] = "train"
			p.Annotations["batch.kubernetes.io/job-completion-index"] = fmt.Sprint(2 - i)
			p.OwnerReferences = []metav1.OwnerReference{{Kind: "Job", Name: "train", Controller: new(true)}}
			p.Spec.Affinity = &v1.Affinity{NodeAffinity: &v1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &v1.NodeSelector{
				NodeSelectorTerms: []v1.NodeSelectorTerm{{
					MatchExpressions: []v1.NodeSelectorRequirement{{Key: "nvidia.com/gpu.product", Operator: v1.NodeSelectorOpIn, Values: []string{"NVIDIA-H100-80GB-HBM3"}}},
					MatchFields:      []v1.NodeSelectorRequirement{{Key: "metadata.name", Operator: v1.NodeSelectorOpNotIn, Values: []string{"node-c"}}},
				}},
			}}}
		}, "nvidia.com/gpu", "1")
	}
	pod("native", "", "", func(p *v1.Pod) {
		p.Spec.SchedulingGroup = &v1.PodSchedulingGroup{PodGroupName: new("native")}
		p.Spec.InitContainers = []v1.Container{
			{Name: "fetch", Image: secret, Resources: v1.ResourceRequirements{Requests: amounts("cpu", "8")}},
			{Name: "proxy", RestartPolicy: new(v1.ContainerRestartPolicyAlways)},
		}
		p.Spec.RestartPolicy, p.Spec.ActiveDeadlineSeconds = v1.RestartPolicyAlways, new(int64(600))
	}, "nvidia.com/gpu", "2")
	o.Groups = []*schedv1alpha1.PodGroup{{ObjectMeta: metav1.ObjectMeta{Namespace: "ml", Name: "train", CreationTimestamp: moments, Annotations: map[string]string{
		podspec.AnnotationTopologyRequired: "topology.kubernetes.io/rack", podspec.AnnotationOnMemberLost: "restart", "note": secret,
	}}, Spec: schedv1alpha1.PodGroupSpec{MinMember: 3}}}
	o.NativeGroups = []*schedulingv1beta1.PodGroup{{ObjectMeta: metav1.ObjectMeta{Namespace: "ml", Name: "native", CreationTimestamp: moments}, Spec: schedulingv1beta1.PodGroupSpec{
		SchedulingPolicy:      schedulingv1beta1.PodGroupSchedulingPolicy{Gang: &schedulingv1beta1.GangSchedulingPolicy{MinCount: 1}},
		SchedulingConstraints: &schedulingv1beta1.PodGroupSchedulingConstraints{Topology: []schedulingv1beta1.TopologyConstraint{{Key: "topology.kubernetes.io/rack"}}},
	}}}
	quantity := func(s string) *resource.Quantity { return new(resource.MustParse(s)) }
	research := &v1alpha1.Queue{ObjectMeta: metav1.ObjectMeta{Name: "research", CreationTimestamp: moments, Annotations: map[string]string{"note": secret}}, Spec: v1alpha1.QueueSpec{
		Parent: "org", Weight: 2, GPUs: v1alpha1.QueueGPUs{Guaranteed: quantity("2"), Limit: quantity("500m")},
		Namespaces: &v1alpha1.NamespaceSelector{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"team": "nlp"}}},
		Budget: &v1alpha1.Budget{GPUHours: resource.MustParse("1000"), Adjustments: []v1alpha1.Adjustment{
			{Name: "gift", GPUHours: resource.MustParse("-10"), At: moments, Reason: secret},
		}},
	}}
	research.Spec.GPUs.Limit = quantity("8")
	research.Status.Budget = &v1alpha1.BudgetStatus{PeriodStart: moments, PeriodEnd: new(metav1.NewTime(moments.Add(720 * time.Hour))), AsOf: moments, UsedMilliGPUSeconds: 12345}
	o.Queues = []*v1alpha1.Queue{{ObjectMeta: metav1.ObjectMeta{Name: "org", CreationTimestamp: moments}, Spec: v1alpha1.QueueSpec{Weight: 1}}, research}
	o.Classes = []*v1alpha1.GPUClass{{ObjectMeta: metav1.ObjectMeta{Name: "spot"}, Spec: v1alpha1.GPUClassSpec{
		Weight: resource.MustParse("300m"), NodeSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"karpenter.sh/capacity-type": "spot"}},
		Price: &v1alpha1.Price{PerGPUHour: resource.MustParse("1.5"), Currency: "EUR"},
	}}}
	o.Namespaces = []*v1.Namespace{{ObjectMeta: metav1.ObjectMeta{Name: "ml", Labels: map[string]string{"team": "nlp", "other": secret}}}}
	return o
}

// take takes a snapshot of the objects, through clients that have them.
func take(t *testing.T, o *Objects, options Options) (string, []string) {
	t.Helper()
	var typed, custom []runtime.Object
	add := func(to *[]runtime.Object, object runtime.Object) { *to = append(*to, object) }
	for _, n := range o.Nodes {
		add(&typed, n)
	}
	for _, s := range o.Slices {
		add(&typed, s)
	}
	for _, p := range o.Pods {
		add(&typed, p)
	}
	for _, n := range o.Namespaces {
		add(&typed, n)
	}
	for _, g := range o.NativeGroups {
		add(&typed, g)
	}
	scheme := runtime.NewScheme()
	for _, f := range []func(*runtime.Scheme) error{v1alpha1.AddToScheme, schedv1alpha1.AddToScheme} {
		if err := f(scheme); err != nil {
			t.Fatal(err)
		}
	}
	for _, q := range o.Queues {
		add(&custom, q)
	}
	for _, c := range o.Classes {
		add(&custom, c)
	}
	for _, g := range o.Groups {
		add(&custom, g)
	}
	source := Source{
		Client: fake.NewClientset(typed...), Dynamic: dynamicfake.NewSimpleDynamicClient(scheme, custom...), Now: moments.Time,
		SchedulerName: "weft", Levels: []string{"topology.kubernetes.io/rack"},
	}
	var buf bytes.Buffer
	left, err := Take(t.Context(), source, &buf, options)
	if err != nil {
		t.Fatal(err)
	}
	return buf.String(), left
}

func read(t *testing.T, text string) (*Document, *Objects) {
	t.Helper()
	d, o, err := Read(strings.NewReader(text), "snapshot.json")
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return d, o
}

// decisions is what the code that decides makes of the objects: all that a snapshot is for. Pods and nodes are named as by the function.
func decisions(t *testing.T, o *Objects, name func(string) string) map[string]any {
	t.Helper()
	out := map[string]any{}
	s := o.State()
	if len(s.Problems) > 0 {
		t.Errorf("problems: %v", s.Problems)
	}
	for _, n := range s.Cluster.Sorted() {
		var left []string
		for i := range n.GPUs {
			g := &n.GPUs[i]
			left = append(left, fmt.Sprint(g.Index, g.Product, g.MemoryMiB, g.Unhealthy, g.MIG, g.FreeMilliGPU, g.FreeMemoryMiB, n.AssignedMilliGPU(i), mig.FreePlacements(g.Partition, "1g.10gb"), g.Used,
				g.Hardware.NUMANode, g.Hardware.Links))
		}
		out["node "+name(n.Name)] = left
	}
	for k, g := range s.Gangs {
		k.Namespace, k.Name = name(k.Namespace), name(k.Name)
		out["gang "+string(rune('0'+k.Source))+k.String()] = fmt.Sprint(g.Min, g.Topology, g.Lost, g.Partial, g.Grace, g.Created)
	}
	set := queues.NewSet(o.Queues, o.Classes, o.Namespaces)
	nodes := map[string]*v1.Node{}
	for _, n := range o.Nodes {
		nodes[n.Name] = n
	}
	var order []string
	for _, p := range o.Pods {
		r, err := podspec.Request(p)
		if err != nil {
			t.Error(err)
		}
		for i := range r.Containers {
			r.Containers[i].Name = name(r.Containers[i].Name)
		}
		claim, ok := set.Claim(p, nodes[p.Spec.NodeName])
		if !ok {
			t.Errorf("%s has no claim", p.Name)
		}
		queue, verdict := set.QueueOf(p)
		out["pod "+name(p.Name)] = fmt.Sprint(r.Shape(), podspec.MilliCPU(p), claim.MilliGPU, claim.Rate, claim.Start, claim.Runtime, claim.Priority, claim.Queued,
			name(queue), verdict.OK(), podgroup.Rank(p), p.Status.Phase, len(p.Spec.Tolerations))
		if _, ok := podgroup.KeyOf(p); ok {
			order = append(order, name(p.Name))
		}
	}
	out["order"] = len(order)
	for _, q := range s.Queues {
		c, _ := set.Checkpoint(q.Name)
		out["queue "+name(q.Name)] = fmt.Sprint(q.Share, q.Weight, name(q.Parent), q.Budget != nil && len(q.Budget.Adjustments) == 1, c)
	}
	out["class"] = fmt.Sprint(set.ClassOn(map[string]string{"karpenter.sh/capacity-type": "spot"}, "", "").PriceMicros, set.ClassOn(nil, "", "").PriceMicros)
	return out
}

func same(name string) string { return name }

func TestWhatIsReadDecidesAsTheCluster(t *testing.T) {
	o := clusterObjects(t)
	want := decisions(t, o, same)
	for name, options := range map[string]Options{"JSON": {}, "YAML": {YAML: true}} {
		t.Run(name, func(t *testing.T) {
			text, left := take(t, o, options)
			if len(left) > 0 {
				t.Errorf("left out: %v", left)
			}
			d, got := read(t, text)
			if diff := cmp.Diff(want, decisions(t, got, same)); diff != "" {
				t.Errorf("(-cluster +snapshot):\n%s", diff)
			}
			if strings.Contains(text, secret) {
				t.Errorf("the snapshot has what nobody is to see:\n%s", text)
			}
			if d.Nodes[0].Labels["kubernetes.io/hostname"] != "" || d.Nodes[0].Labels["pool"] != "train" {
				t.Errorf("labels of a node: %v, want those that somebody selects by", d.Nodes[0].Labels)
			}
			if diff := cmp.Diff([]string{"persistent volumes"}, d.Pods[0].Unknown); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestAnonymousSnapshots: nothing is named any more, and everything is decided as before.
func TestAnonymousSnapshots(t *testing.T) {
	o := clusterObjects(t)
	names := Anonymise([]byte("salt"))
	text, _ := take(t, o, Options{Names: names})
	for _, name := range []string{
		"ml", "node-a", "node-b", "GPU-node", "train", "research", "org", "share", "instance", "native", "main", "fetch", "proxy", "uid-share", "nlp", "team",
		"gift", "rack-node-a", "pool",
	} {
		if strings.Contains(text, `"`+name+`"`) || strings.Contains(text, `"`+name+"-") || strings.Contains(text, "/"+name+`"`) || strings.Contains(text, name+"=") {
			t.Errorf("%q is in it:\n%s", name, text)
		}
	}
	_, got := read(t, text)
	if diff := cmp.Diff(decisions(t, o, names.of), decisions(t, got, same)); diff != "" {
		t.Errorf("(-cluster +snapshot):\n%s", diff)
	}
	for _, p := range got.Pods {
		for _, n := range got.Nodes {
			for key, value := range p.Spec.NodeSelector {
				if n.Labels[key] != value {
					t.Errorf("%s selects %s=%s, %s has %v", p.Name, key, value, n.Name, n.Labels)
				}
			}
		}
	}
	if again, _ := take(t, o, Options{Names: Anonymise([]byte("salt"))}); again != text {
		t.Error("the same cluster and salt gave another document")
	}
	other, _ := take(t, o, Options{Names: Anonymise([]byte("pepper"))})
	if strings.Contains(other, names.of("node-a")) {
		t.Error("another salt gave the same names")
	}
}

func TestAnEmptyCluster(t *testing.T) {
	for _, options := range []Options{{}, {YAML: true}} {
		text, _ := take(t, &Objects{}, options)
		if d, o := read(t, text); len(d.Nodes)+len(d.Pods)+len(o.Slices) > 0 || d.SchedulerName != "weft" {
			t.Errorf("%+v", d)
		}
	}
}

func TestMalformedDocuments(t *testing.T) {
	head := `{"apiVersion":"snapshot.weft.sh/v1","kind":"Snapshot",`
	for name, c := range map[string]struct{ text, want string }{
		"nothing":                {" ", "it is empty"},
		"no JSON":                {"{", "unexpected end of JSON input"},
		"no YAML":                {"a: [", "yaml: line 1"},
		"something else":         {"apiVersion: v1\nkind: Pod\n", `apiVersion is "v1" and kind is "Pod": want "snapshot.weft.sh/v1" and "Snapshot"`},
		"a later version":        {`{"apiVersion":"snapshot.weft.sh/v2","kind":"Snapshot"}`, `apiVersion is "snapshot.weft.sh/v2"`},
		"an unknown field":       {head + `"pods":[{"name":"a","uid":"u","image":"x"}]}`, `unknown field "pods[0].image"`},
		"an unknown field below": {head + `"nodes":[{"name":"a","gpus":[{"id":"g","sn":1}]}]}`, `unknown field "nodes[0].gpus[0].sn"`},
		"a field of another case": {
			head + `"pods":[{"Name":"a","uid":"u"}]}`,
			`unknown field "pods[0].Name"`,
		},
		"a field twice":            {head + `"kind":"Snapshot"}`, `duplicate field "kind"`},
		"a field twice, in YAML":   {"kind: Snapshot\nkind: Snapshot\n", `key "kind" already set in map`},
		"a text for a number":      {head + `"nodes":[{"name":"a","gpus":[{"id":"g","index":"one"}]}]}`, "nodes.gpus.index of type int"},
		"no name":                  {head + `"pods":[{"uid":"u"}]}`, "pods[0].name is empty: want a value"},
		"no UID":                   {head + `"pods":[{"name":"a"}]}`, "pods[0].uid is empty: want a value"},
		"a UID twice":              {head + `"pods":[{"name":"a","uid":"u"},{"name":"b","uid":"u"}]}`, "pods[1].uid is pod uid u, as pods[0].uid is: want each once"},
		"a node twice":             {head + `"nodes":[{"name":"a"},{"name":"a"}]}`, "nodes[1].name is node a, as nodes[0].name is: want each once"},
		"a GPU without memory":     {head + `"nodes":[{"name":"a","gpus":[{"id":"g","index":0,"product":"p"}]}]}`, "nodes[0].gpus[0]: "},
		"a GPU twice":              {head + `"nodes":[{"name":"a","gpus":[{"id":"g","product":"p","memoryMiB":1},{"id":"g","index":1,"product":"p","memoryMiB":1}]}]}`, "nodes[0].gpus: "},
		"an instance of no shape":  {head + `"nodes":[{"name":"a","gpus":[{"id":"g","product":"p","memoryMiB":1,"mig":true,"instances":["1g"]}]}]}`, `nodes[0].gpus[0]: instance "1g": want`},
		"an amount too long":       {head + `"nodes":[{"name":"a","allocatable":{"cpu":"1e999999999"}}]}`, "want numbers with an exponent of at most two digits"},
		"an amount too long, bare": {head + `"queues":[{"name":"a","spec":{"gpus":{"limit":1e9999999 }}}]}`, "want numbers with an exponent of at most two digits"},
		"an amount in disguise":    {head + `"nodes":[{"name":"a","allocatable":{"cpu":"1\u0065999999999"}}]}`, "want numbers with an exponent of at most two digits"},
		"no amount":                {head + `"nodes":[{"name":"a","allocatable":{"cpu":"much"}}]}`, "quantities must match"},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := Read(strings.NewReader(c.text), "file")
			if !errors.Is(err, ErrMalformed) || !strings.HasPrefix(err.Error(), "file: ") || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v\nwant %s", err, c.want)
			}
		})
	}
}

// TestNamesThatLookLikeNumbers: a long number is only what is one as a whole; UIDs may begin so.
func TestNamesThatLookLikeNumbers(t *testing.T) {
	text := `{"apiVersion":"snapshot.weft.sh/v1","kind":"Snapshot","pods":[{"name":"a","uid":"12e34567-1e999-4e111"}]}`
	read(t, text)
}

// TestSpoiltDocuments: a document with some bytes changed is read or refused, and what is read can be decided about.
func TestSpoiltDocuments(t *testing.T) {
	text, _ := take(t, clusterObjects(t), Options{})
	r := rand.New(rand.NewPCG(4, 4))
	pieces := []string{"-1", "null", "[]", "{}", `""`, "1e18", "true", "9223372036854775807"}
	for range 400 {
		b := []byte(text)
		switch r.IntN(3) {
		case 0:
			b[r.IntN(len(b))] = byte(32 + r.IntN(95))
		case 1:
			at := r.IntN(len(b) - 20)
			b = append(b[:at:at], b[at+r.IntN(20):]...)
		default: // a value by another
			at := bytes.IndexByte(b[r.IntN(len(b)-200):], ':') + 1
			end := bytes.IndexAny(b[at:], ",}]\n")
			b = append(append(b[:at:at], pieces[r.IntN(len(pieces))]...), b[at+end:]...)
		}
		use(b)
	}
}

// use reads a document and has all of it decided about, as far as it can be read.
func use(b []byte) {
	_, o, err := parse(b)
	if err != nil {
		return
	}
	s := o.State()
	_ = s.Cluster.Len()
	set := queues.NewSet(o.Queues, o.Classes, o.Namespaces)
	for _, p := range o.Pods {
		_, _ = podspec.Request(p)
		_, _ = set.Claim(p, nil)
		if k, ok := podgroup.KeyOf(p); ok && k.Source == gang.SourceCRD {
			_ = k.String()
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte(`{"apiVersion":"snapshot.weft.sh/v1","kind":"Snapshot","nodes":[{"name":"a","gpus":[{"id":"g","product":"p","memoryMiB":1,"mig":true,"instances":["1g.10gb@0:1"]}]}]}`))
	f.Add([]byte("apiVersion: snapshot.weft.sh/v1\nkind: Snapshot\npods:\n- name: a\n  uid: u\n  node: n\n  containers:\n  - name: c\n    requests: {nvidia.com/gpu: 1}\n"))
	f.Add([]byte(`{"apiVersion":"snapshot.weft.sh/v1","kind":"Snapshot","queues":[{"name":"a","spec":{"budget":{"gpuHours":"1e9"},"windows":[{"from":"x"}]}}]}`))
	f.Fuzz(func(_ *testing.T, b []byte) { use(b) })
}
