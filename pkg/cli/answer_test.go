package cli

import (
	"bytes"
	"encoding/json"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"

	"weft.sh/weft/pkg/fit"
	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/ledger"
	"weft.sh/weft/pkg/ledger/ledgerhttp"
)

const answerCluster = `
node a gpus=8
node b gpus=8
node c gpus=8 cordoned
node d gpus=4 product=Tesla-T4 memory=15360 from=labels
pod x/six node=a main=nvidia.com/gpu:6 gpus=main=GPU-a-0,GPU-a-1,GPU-a-2,GPU-a-3,GPU-a-4,GPU-a-5
pod x/four node=b main=nvidia.com/gpu:4 gpus=main=GPU-b-0,GPU-b-1,GPU-b-2,GPU-b-3
pod x/eight main=nvidia.com/gpu:8
pod x/two main=nvidia.com/gpu:2
`

func answer(t *testing.T, s scenario, name string) Answer {
	t.Helper()
	for _, p := range s.Pods {
		if p.Namespace+"/"+p.Name == name {
			return NewAnswer(p, s.Objects, DefaultSchedulerName)
		}
	}
	t.Fatalf("no pod %s", name)
	return Answer{}
}

func TestTheMostHopefulNodeSpeaksForItsClass(t *testing.T) {
	a := answer(t, parseScenario(t, answerCluster), "x/eight")
	got := a.Classes[0]
	want := Class{
		Products: []string{"NVIDIA-H100-80GB-HBM3"}, GPUsPerNode: 8, GPUMemoryMiB: 81559, Sharing: true, Source: "slices", Taints: []string{},
		Nodes: 3, Fitting: []string{}, Reason: "InsufficientGPU", Text: "too few idle GPUs",
		Detail: "asks for 8 whole GPUs; 4 of 8 GPUs are idle", Node: "b", Advice: "wait for a pod to end, or add nodes",
		Event: "a pod ending", Resolvable: true,
		Reasons: []ReasonCount{{"InsufficientGPU", 2}, {"NodeUnschedulable", 1}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if a.Verdict != VerdictDoesNotFit || a.Nodes != 4 || a.NodesThatFit != 0 {
		t.Errorf("got %s, %d of %d", a.Verdict, a.NodesThatFit, a.Nodes)
	}
	fits := answer(t, parseScenario(t, answerCluster), "x/two")
	if diff := cmp.Diff([]string{"a", "b"}, fits.Classes[0].Fitting); diff != "" || fits.NodesThatFit != 3 {
		t.Errorf("%d nodes fit, of the first class (-want +got):\n%s", fits.NodesThatFit, diff)
	}
}

// TestSameObjectsSameAnswer: in whatever order the API server lists them.
func TestSameObjectsSameAnswer(t *testing.T) {
	print := func(s scenario) string {
		var out bytes.Buffer
		if err := encode(&out, "json", answer(t, s, "x/eight")); err != nil {
			t.Fatal(err)
		}
		if err := encode(&out, "json", NewReport(s.Objects, Selection{})); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	s := parseScenario(t, answerCluster)
	want := print(s)
	slices.Reverse(s.Nodes)
	slices.Reverse(s.Pods)
	slices.Reverse(s.Slices)
	for range 20 {
		if diff := cmp.Diff(want, print(s)); diff != "" {
			t.Fatalf("(-in order +reversed)\n%s", diff)
		}
	}
}

// TestNothingIsPromisedOfAGPUThatTheNodeDoesNot: what keeps containers apart is what the node says, and MIG.
func TestNothingIsPromisedOfAGPUThatTheNodeDoesNot(t *testing.T) {
	for name, tc := range map[string]struct {
		device gpu.Device
		want   string
	}{
		"in MIG mode, whatever else it says":  {gpu.Device{MIG: true, Isolation: gpu.IsolationNone}, "hardware"},
		"memory":                              {gpu.Device{Isolation: gpu.IsolationMemory}, "memory"},
		"MPS":                                 {gpu.Device{SharedOnly: true, Isolation: gpu.IsolationMPS}, "mps"},
		"none":                                {gpu.Device{Isolation: gpu.IsolationNone}, "none"},
		"no word":                             {gpu.Device{}, "unknown"},
		"whole only, so nobody else is there": {gpu.Device{WholeOnly: true, Isolation: gpu.IsolationMemory}, ""},
	} {
		if got := isolation(tc.device); got != tc.want {
			t.Errorf("%s: %q, want %q", name, got, tc.want)
		}
	}
}

// TestHardwareIsPrintedAsItIsPublished: and what is not known is not taken for 0.
func TestHardwareIsPrintedAsItIsPublished(t *testing.T) {
	nodes := NewReport(parseScenario(t, "node a gpus=4 wired=mesh clique=c.1\nnode b gpus=1").Objects, Selection{}).Nodes
	want := Hardware{
		PCIBusID: "0000:28:00.0", NUMANode: 0, Architecture: "hopper", ComputeCapability: "9.0", DriverVersion: "615.71.9", CUDAVersion: "13.4",
		NVLinkPeers: []Peer{{Index: 0, Links: 4}}, CliqueID: "c.1",
	}
	if diff := cmp.Diff(want, nodes[0].GPUs[1].Hardware); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	if diff := cmp.Diff(Hardware{NUMANode: -1, NVLinkPeers: []Peer{}}, nodes[1].GPUs[0].Hardware); diff != "" {
		t.Errorf("of a node that does not say: -want +got\n%s", diff)
	}
}

// TestReportAddsUp: the totals are those of the nodes, and every GPU is in one state.
func TestReportAddsUp(t *testing.T) {
	s := parseScenario(t, `
fleet h n=20 gpus=8 unhealthy=3
fleet t n=9 gpus=4 product=Tesla-T4 memory=15360 from=labels
node m gpus=8 mig=0,1,2
node f gpus=6 whole=0,1 shared=2,3,4,5 unhealthy=4
pod x/half node=f main=weft.sh/gpu-percent:50 gpus=main=GPU-f-2:500m/40779Mi
pod x/somewhere node=f main=weft.sh/gpu-percent:50
node none
pod x/mig node=m main=nvidia.com/mig-1g.10gb:1 gpus=main=GPU-m-0:1g.10gb@6:1
pod x/share node=m main=weft.sh/gpu-percent:40 gpus=main=GPU-m-5:400m/32623Mi
pod x/lost node=m main=nvidia.com/gpu:1,nvidia.com/mig-2g.20gb:1
`)
	r := NewReport(s.Objects, Selection{})
	var sum Totals
	idleStates, idleShared := 0, 0
	for _, n := range r.Nodes {
		sum.add(n)
		for _, g := range n.GPUs {
			switch {
			case g.State != StateIdle || !g.Healthy:
			case g.SharedOnly:
				idleShared++
			default:
				idleStates++
			}
			var held int64
			for _, h := range g.Holders {
				held += h.MilliGPU
			}
			if held != g.AssignedMilliGPU {
				t.Errorf("%s/%s: holders hold %d milli-GPU, assigned are %d", n.Name, g.ID, held, g.AssignedMilliGPU)
			}
		}
	}
	got := r.Totals
	sum.NodesWithoutGPU, sum.MixPods, sum.Pods = 1, got.MixPods, got.Pods
	sum.FreeMilliGPU, sum.FragmentedMilliGPU = got.FreeMilliGPU, got.FragmentedMilliGPU
	sum.AssignedPerMille, sum.FragmentedPerMille = got.AssignedPerMille, got.FragmentedPerMille
	if diff := cmp.Diff(sum, got); diff != "" {
		t.Errorf("(-sum of nodes +totals)\n%s", diff)
	}
	if got.IdleGPUs != idleStates || got.IdleSharedGPUs != idleShared || idleShared != 2 {
		t.Errorf("%d and %d idle GPUs, %d and %d in state idle and healthy", got.IdleGPUs, got.IdleSharedGPUs, idleStates, idleShared)
	}
	if got.WithheldGPUs != 2 || got.WithheldSharedGPUs != 1 || got.WithheldInstances != 1 {
		t.Errorf("withheld: %d GPUs, of them %d for shares, %d instances; want 2, 1 and 1", got.WithheldGPUs, got.WithheldSharedGPUs, got.WithheldInstances)
	}
	if got.FragmentedMilliGPU <= 0 || got.FragmentedMilliGPU > got.FreeMilliGPU {
		t.Errorf("fragmented %d of %d milli-GPU", got.FragmentedMilliGPU, got.FreeMilliGPU)
	}
}

func TestFragmentation(t *testing.T) {
	for name, tc := range map[string]struct {
		pods string
		want int64 // of two idle GPUs on each of two nodes
	}{
		"without pods nothing is expected":              {"", 0},
		"every request can use an idle GPU":             {"pod x/a main=nvidia.com/gpu:1", 0},
		"no node has eight":                             {"pod x/a main=nvidia.com/gpu:8", 4000},
		"half of the requests need eight":               {"pod x/a main=nvidia.com/gpu:8\npod x/b main=nvidia.com/gpu:1", 2000},
		"no CPU is left beside the GPUs":                {"pod x/a main=nvidia.com/gpu:1,cpu:65", 4000},
		"a pod of another scheduler without GPUs":       {"pod x/a main=cpu:1 scheduler=default-scheduler", 0},
		"a pod of ours without GPUs can use none":       {"pod x/a main=cpu:1", 4000},
		"a pod with a request that has no meaning":      {"pod x/a main=weft.sh/gpu-percent:500", 0},
		"one with GPUs that another scheduler shall do": {"pod x/a main=nvidia.com/gpu:8 scheduler=default-scheduler", 4000},
	} {
		r := NewReport(parseScenario(t, "node a gpus=2\nnode b gpus=2\n"+tc.pods).Objects, Selection{})
		if r.Totals.FragmentedMilliGPU != tc.want || r.Totals.FreeMilliGPU != 4000 {
			t.Errorf("%s: %d of %d milli-GPU, want %d of 4000", name, r.Totals.FragmentedMilliGPU, r.Totals.FreeMilliGPU, tc.want)
		}
	}
}

// TestListsAreNeverNull: a script that loops over a list needs no special case for none.
func TestListsAreNeverNull(t *testing.T) {
	s := parseScenario(t, answerCluster+"\nnode e\nnode broken gpus=1 torn\npod y/none\npod y/bad main=weft.sh/gpu-percent:0\npod y/run node=e main=cpu:1")
	queues := parseQueues(t, "kind: Queue\nmetadata: {name: a}")
	queue, _ := NewQueueAnswer("a", queues, s.Pods, DefaultSchedulerName, 0)
	usage, err := NewUsage([]ledger.Total{{}}, nil, UsageOptions{Location: time.UTC})
	if err != nil {
		t.Fatal(err)
	}
	for _, value := range []any{
		NewReport(Objects{}, Selection{}), NewReport(s.Objects, Selection{}),
		answer(t, s, "x/eight"), answer(t, s, "x/six"), answer(t, s, "y/none"), answer(t, s, "y/bad"), answer(t, s, "y/run"),
		NewQueues(QueueObjects{}, 0), NewQueues(queues, 0), queue, NewWaste(Objects{}, DefaultSchedulerName), NewWaste(s.Objects, DefaultSchedulerName), usage,
		ledgerhttp.FromLedger(ledger.Segment{}),
	} {
		data, err := json.Marshal(value)
		if err != nil {
			t.Fatal(err)
		}
		// What is an object or null is said to be so.
		if got := regexp.MustCompile(`"(said|queue|budget)":null`).ReplaceAllString(string(data), ""); strings.Contains(got, "null") {
			t.Errorf("there is a null in %s", data)
		}
	}
}

// TestEveryReasonOfANodeCanBeGiven: each reason that a node can have is the answer for some cluster.
func TestEveryReasonOfANodeCanBeGiven(t *testing.T) {
	given := map[string]bool{}
	for _, tc := range []struct{ want, cluster string }{
		{"NodeUnschedulable", "node a gpus=1 cordoned\npod x/p main=nvidia.com/gpu:1"},
		{"TaintNotTolerated", "node a gpus=1 taint=k:v:NoExecute\npod x/p main=nvidia.com/gpu:1"},
		{"NodeAffinityMismatch", "node a gpus=1 label=pool:a\npod x/p main=nvidia.com/gpu:1 select=pool:b"},
		{"GPUProductMismatch", "node a gpus=1\npod x/p main=nvidia.com/gpu:1 model=other"},
		{"NoGPU", "node a\npod x/p main=nvidia.com/gpu:1"},
		{"SharingUnsupported", "node a gpus=1 from=labels\npod x/p main=weft.sh/gpu-percent:1"},
		{"NoMIGProfile", "node a gpus=1\npod x/p main=nvidia.com/mig-1g.10gb:1"},
		{"GPUMemoryTooSmall", "node a gpus=1\npod x/p main=nvidia.com/gpu:1 annotate=weft.sh/gpu-memory:100Gi"},
		{"TooFewGPUs", "node a gpus=1\npod x/p main=nvidia.com/gpu:2"},
		{"GPUUnhealthy", "node a gpus=1 unhealthy=0\npod x/p main=nvidia.com/gpu:1"},
		{"GPUWithheld", "node a gpus=1\npod x/p main=nvidia.com/gpu:1\npod x/q node=a main=nvidia.com/gpu:1"},
		{"InsufficientGPU", "node a gpus=1\npod x/p main=nvidia.com/gpu:1\npod x/q node=a main=nvidia.com/gpu:1 gpus=main=GPU-a-0"},
		{"InsufficientGPUShare", "node a gpus=1\npod x/p main=weft.sh/gpu-percent:1\npod x/q node=a main=nvidia.com/gpu:1 gpus=main=GPU-a-0"},
		{"InsufficientGPUMemory", "node a gpus=1\npod x/p main=weft.sh/gpu-percent:50 annotate=weft.sh/gpu-memory:60Gi\npod x/q node=a main=weft.sh/gpu-percent:50 gpus=main=GPU-a-0:500m/40779Mi"},
		{"NoMIGPlacement", "node a gpus=1 mig=0\npod x/p main=nvidia.com/mig-7g.80gb:1\npod x/q node=a main=nvidia.com/mig-1g.10gb:1 gpus=main=GPU-a-0:1g.10gb@6:1"},
		{"InsufficientCPU", "node a gpus=1\npod x/p main=nvidia.com/gpu:1,cpu:64\npod x/q node=a main=cpu:1"},
		{"InsufficientMemory", "node a gpus=1\npod x/p main=nvidia.com/gpu:1,memory:512Gi\npod x/q node=a main=memory:1"},
		{"InsufficientResource", "node a gpus=1 also=example.com/fpga:1\npod x/p main=nvidia.com/gpu:1,example.com/fpga:1\npod x/q node=a main=example.com/fpga:1"},
		{"NodeTooSmall", "node a gpus=1\npod x/p main=nvidia.com/gpu:1,cpu:65"},
		{"NodeTooSmall", "node a gpus=1\npod x/p main=nvidia.com/gpu:1,memory:1Ti"},
		{"NodeTooSmall", "node a gpus=1\npod x/p main=nvidia.com/gpu:1,example.com/fpga:1"},
		{"NodeTooSmall", "node a gpus=1 pods=0\npod x/p main=nvidia.com/gpu:1"},
		{"NodeTooSmall", "node a gpus=1\npod x/p main=nvidia.com/gpu:1,cpu:65\npod x/q node=a main=nvidia.com/gpu:1 gpus=main=GPU-a-0"},
		{"NodeTooSmall", "node a gpus=1\npod x/p main=cpu:64,memory:1Ti\npod x/q node=a main=cpu:1"},
		{"InsufficientResource", "node a gpus=1 pods=1\npod x/p main=nvidia.com/gpu:1\npod x/q node=a main=cpu:1"},
		{"Fits", "node a gpus=1 cordoned taint=k:v:NoSchedule taint=s:v:PreferNoSchedule\npod x/p main=nvidia.com/gpu:1 tolerate=k tolerate=node.kubernetes.io/unschedulable"},
	} {
		a := answer(t, parseScenario(t, tc.cluster), "x/p")
		if got := a.Classes[0].Reason; got != tc.want {
			t.Errorf("%s\n  is %s (%s), want %s", tc.cluster, got, a.Classes[0].Detail, tc.want)
		}
		given[tc.want] = true
	}
	never := []fit.Reason{
		fit.InvalidRequest,     // is about the pod
		fit.AssignmentConflict, // arises between two decisions
		// These are about the gang, as a whole or against others.
		fit.InvalidGang, fit.GangNotFound, fit.GangIncomplete, fit.UnknownTopology, fit.TopologyDomainTooSmall,
		fit.InsufficientDomainCapacity, fit.NVLinkDomainTooSmall, fit.InsufficientGangCapacity, fit.ReservedForGang, fit.PlannedElsewhere,
	}
	for _, r := range fit.Reasons() {
		if given[r.String()] == slices.Contains(never, r) {
			t.Errorf("%s: given %t", r, given[r.String()])
		}
	}
}

func TestWhatIsNotCheckedIsNamed(t *testing.T) {
	p := &v1.Pod{Spec: v1.PodSpec{
		Volumes:        []v1.Volume{{VolumeSource: v1.VolumeSource{PersistentVolumeClaim: &v1.PersistentVolumeClaimVolumeSource{}}}},
		ResourceClaims: []v1.PodResourceClaim{{Name: "c"}},
		Affinity: &v1.Affinity{
			PodAffinity:     &v1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []v1.PodAffinityTerm{{}}},
			PodAntiAffinity: &v1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []v1.PodAffinityTerm{{}}},
		},
		TopologySpreadConstraints: []v1.TopologySpreadConstraint{{WhenUnsatisfiable: v1.DoNotSchedule}},
		Containers:                []v1.Container{{Ports: []v1.ContainerPort{{HostPort: 80}}}},
	}}
	want := []string{
		"persistent volumes", "resource claims", "affinity to other pods", "anti-affinity to other pods", "topology spread constraints", "host ports",
	}
	if diff := cmp.Diff(want, unchecked(p)); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if got := unchecked(&v1.Pod{}); len(got) > 0 {
		t.Errorf("of a plain pod: %v", got)
	}
}
