package cli

import (
	"bytes"
	"fmt"
	"math/rand"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	"k8s.io/client-go/kubernetes/fake"
	schedv1alpha1 "sigs.k8s.io/scheduler-plugins/apis/scheduling/v1alpha1"
	"sigs.k8s.io/yaml"

	"weft.sh/weft/pkg/apis/weft/v1alpha1"
	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/inventory"
	"weft.sh/weft/pkg/mig"
	"weft.sh/weft/pkg/snapshot"
)

// divided is the scenario with GPUs in MIG mode whose instances are made by hand: by node and index, as in an assignment.
func divided(t *testing.T, text string, geometry map[string]map[int]string) Objects {
	t.Helper()
	o := parseScenario(t, text).Objects
	state := inventory.Build(o.Nodes, o.Slices, nil)
	o.Slices = nil
	for _, n := range o.Nodes {
		c := state.Node(n.Name)
		if c == nil {
			continue
		}
		devices := slices.Clone(c.Inventory.Devices)
		for i := range devices {
			places, ok := geometry[n.Name][devices[i].Index]
			if !ok {
				continue
			}
			devices[i].MIG, devices[i].Instances = true, nil
			for place := range strings.FieldsSeq(places) {
				a, err := gpu.ParseAssignment("c=g:" + place)
				if err != nil {
					t.Fatal(err)
				}
				devices[i].Instances = append(devices[i].Instances, *a.Containers[0].Grants[0].Instance)
			}
		}
		o.Slices = append(o.Slices, inventory.Slices(n.Name, devices, 2)...)
	}
	return o
}

const (
	sevenOnes = "1g.10gb@0:1 1g.10gb@1:1 1g.10gb@2:1 1g.10gb@3:1 1g.10gb@4:1 1g.10gb@5:1 1g.10gb@6:1"

	// adviceCluster is the example of docs/cli.md.
	adviceCluster = `
node a gpus=4 mig=0,1
node b gpus=2 mig=0 label=nvidia.com/mig.config:all-1g.10gb
pod ml/small node=a main=nvidia.com/mig-1g.10gb:1 gpus=main=GPU-a-1:1g.10gb@6:1
pod ml/large main=nvidia.com/mig-7g.80gb:1
pod ml/half-0 main=nvidia.com/mig-4g.40gb:1
pod ml/half-1 main=nvidia.com/mig-3g.40gb:1
pod ml/half-2 main=nvidia.com/mig-3g.40gb:1
`
)

var adviceGeometry = map[string]map[int]string{"a": {0: sevenOnes, 1: sevenOnes}, "b": {0: "2g.20gb@0:2 2g.20gb@2:2"}}

func adviceExample(t *testing.T) MIGAdvice {
	return NewMIGAdvice(divided(t, adviceCluster, adviceGeometry), DefaultSchedulerName)
}

func TestMIGAdvice(t *testing.T) {
	got := adviceExample(t)
	want := MIGAdvice{
		APIVersion: APIVersion, Kind: "MIGAdvice", PendingPods: 4, PlacedPods: 0, PlacedPodsAfter: 4, MixInstances: 5,
		Changes: got.Changes, Configs: got.Configs, Nodes: got.Nodes, Skipped: []MIGSkipped{},
	}
	if diff := cmp.Diff(want, got); diff != "" || len(got.Changes) != 3 {
		t.Errorf("%+v\n%s", got, diff)
	}
	for _, c := range got.Changes {
		for _, held := range c.Held {
			if !slices.Contains(c.Then, held) || slices.Contains(c.Destroy, held) {
				t.Errorf("%s is held: %+v", held, c)
			}
		}
	}
}

// TestExampleOfMIGAdvice: what docs/cli.md shows is what comes out.
func TestExampleOfMIGAdvice(t *testing.T) {
	page, err := os.ReadFile("../../docs/cli.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(page), "\n## weft advise mig\n")
	a := adviceExample(t)
	var people, config bytes.Buffer
	if err := RenderMIGAdvice(&people, a, false, false); err != nil {
		t.Fatal(err)
	}
	if err := annotate(&config, a); err != nil {
		t.Fatal(err)
	}
	for fence, want := range map[string]string{"```console\n": people.String(), "```yaml\n": config.String()} {
		_, rest, _ := strings.Cut(section, fence)
		got, _, _ := strings.Cut(rest, "```")
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("docs/cli.md, section weft advise mig (- the program, + the page):\n%s\nthe program prints\n%s", diff, want)
		}
	}
}

// TestMIGConfigIsWhatMIGPartedReads: version, mig-configs, and for each a list of devices, mig-enabled and mig-devices.
func TestMIGConfigIsWhatMIGPartedReads(t *testing.T) {
	a := adviceExample(t)
	var out bytes.Buffer
	if err := annotate(&out, a); err != nil {
		t.Fatal(err)
	}
	var file struct {
		Version    string `json:"version"`
		MIGConfigs map[string][]struct {
			Devices    []int          `json:"devices"`
			MIGEnabled *bool          `json:"mig-enabled"`
			MIGDevices map[string]int `json:"mig-devices"`
		} `json:"mig-configs"`
	}
	if err := yaml.UnmarshalStrict(out.Bytes(), &file); err != nil || file.Version != "v1" || len(file.MIGConfigs) != len(a.Configs) || len(a.Configs) == 0 {
		t.Fatalf("%v\n%s", err, &out)
	}
	for _, n := range a.Nodes {
		if !regexp.MustCompile(`^weft-[0-9a-f]{8}$`).MatchString(n.Config) || !strings.Contains(out.String(), "label node "+n.Node+" "+MIGConfigLabel+"="+n.Config) {
			t.Errorf("%+v", n)
		}
		gpus := map[string]int{"a": 4, "b": 2}[n.Node]
		for _, e := range file.MIGConfigs[n.Config] {
			gpus -= len(e.Devices)
			counts := map[string]int{}
			var places []string
			for _, c := range a.Changes {
				if c.Node == n.Node && slices.Contains(e.Devices, c.Index) && len(c.Holders) == 0 {
					places = c.Then
				}
			}
			for _, place := range places {
				profile, _, _ := strings.Cut(place, "@")
				counts[profile]++
			}
			if e.MIGEnabled == nil || places != nil && !reflect.DeepEqual(counts, e.MIGDevices) {
				t.Errorf("%s: %+v for %v", n.Node, e, places)
			}
		}
		if gpus != 0 {
			t.Errorf("%s: %d GPUs are not in its entries", n.Node, gpus)
		}
	}
}

func TestWhatIsLeftOutOfMIGAdvice(t *testing.T) {
	const waits = "\npod x/p main=nvidia.com/mig-7g.80gb:1\n"
	for name, tc := range map[string]struct{ cluster, why string }{
		"nothing is in the way":  {"node n gpus=1", ""},
		"nothing to be done":     {"node n gpus=1 mig=0", "it is partitioned on demand"},
		"cordoned":               {"node n gpus=1 cordoned", "the node is cordoned"},
		"not ready":              {"node n gpus=1 unready", "the node is not ready"},
		"unhealthy":              {"node n gpus=1 unhealthy=0", "it is unhealthy"},
		"another model":          {"node n gpus=1 product=NVIDIA-X1", "what a NVIDIA-X1 can be divided into is not known"},
		"another table":          {"node n gpus=1 product=NVIDIA-H200", "its instance 1g.10gb@0:1 is none that the table of a NVIDIA-H200 has"},
		"nobody knows who holds": {"node n gpus=1\npod x/q node=n main=nvidia.com/mig-1g.10gb:1", "pods of the node hold GPUs or instances, and nobody knows which"},
		"held whole":             {"node n gpus=1\npod x/q node=n main=nvidia.com/gpu:1 gpus=main=GPU-n-0", "a pod holds it from before it was in MIG mode"},
	} {
		geometry := map[string]map[int]string{"n": {0: sevenOnes}}
		if strings.Contains(tc.cluster, "mig=0") {
			geometry = nil
		}
		a := NewMIGAdvice(divided(t, tc.cluster+waits, geometry), DefaultSchedulerName)
		why := ""
		if len(a.Skipped) > 0 {
			why = a.Skipped[0].Why
		}
		if why != tc.why || (len(a.Changes) == 0) != (tc.why != "") || (len(a.Nodes) == 0) != (tc.why != "") {
			t.Errorf("%s: %q, %+v", name, why, a)
		}
	}
}

// TestMIGAdviceLeavesAloneWhatIsMadeOnDemand: who finds a place there needs no change elsewhere, and mig-parted is not told of it.
func TestMIGAdviceLeavesAloneWhatIsMadeOnDemand(t *testing.T) {
	const cluster = `
node n gpus=2 mig=0,1
pod x/three main=nvidia.com/mig-3g.40gb:2
`
	geometry := map[string]map[int]string{"n": {1: sevenOnes}}
	a := NewMIGAdvice(divided(t, cluster, geometry), DefaultSchedulerName)
	if a.PlacedPods != 1 || a.PlacedPodsAfter != 1 || len(a.Changes) != 0 {
		t.Errorf("%+v", a)
	}
	a = NewMIGAdvice(divided(t, cluster+"pod x/two main=nvidia.com/mig-7g.80gb:1", geometry), DefaultSchedulerName)
	if a.PlacedPods != 1 || a.PlacedPodsAfter != 2 || len(a.Configs) != 1 {
		t.Fatalf("%+v", a)
	}
	want := []MIGConfigEntry{{Devices: []int{1}, MIGEnabled: true, MIGDevices: []MIGDevices{{"7g.80gb", 1}}}}
	if diff := cmp.Diff(want, a.Configs[0].Entries); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// TestMIGAdviceForWhoMayCome: the pods that there are tell, when they are enough.
func TestMIGAdviceForWhoMayCome(t *testing.T) {
	for pods, want := range map[int]int{minMixInstances - 1: 0, minMixInstances: 1} {
		var cluster strings.Builder
		cluster.WriteString("node n gpus=4 mig=0,1,2,3\nnode m gpus=1\n")
		for p := range pods {
			fmt.Fprintf(&cluster, "pod x/p-%d node=n main=nvidia.com/mig-1g.10gb:1 gpus=main=GPU-n-%d:1g.10gb@%d:1\n", p, p/7, p%7)
		}
		a := NewMIGAdvice(divided(t, cluster.String(), map[string]map[int]string{"m": {0: "7g.80gb@0:8"}}), DefaultSchedulerName)
		if len(a.Changes) != want || a.PendingPods != 0 || a.MixInstances != pods {
			t.Errorf("%d pods: %+v", pods, a)
		}
	}
}

// TestMIGAdviceForPodsThatMayNotGoThere: a change takes a place from one pod that waits to give it to another, who may not have it.
func TestMIGAdviceForPodsThatMayNotGoThere(t *testing.T) {
	const cluster = `
node n gpus=1
pod x/one main=nvidia.com/mig-7g.80gb:1
pod x/three-0 main=nvidia.com/mig-3g.40gb:1 select=zone:elsewhere
pod x/three-1 main=nvidia.com/mig-3g.40gb:1 select=zone:elsewhere
`
	a := NewMIGAdvice(divided(t, cluster, map[string]map[int]string{"n": {0: "7g.80gb@0:8"}}), DefaultSchedulerName)
	if a.PlacedPods != 1 || a.PlacedPodsAfter != 1 || len(a.Changes) != 0 {
		t.Errorf("%+v", a)
	}
}

// TestMIGAdviceOnRandomClusters: no fewer pods find a place than before, what is held stays, and the same cluster gets the same advice.
func TestMIGAdviceOnRandomClusters(t *testing.T) {
	r := rand.New(rand.NewSource(4))
	table, _ := mig.TableByName("H100-80GB")
	all := table.Instances()
	helped := 0
	for range 60 {
		var cluster strings.Builder
		geometry := map[string]map[int]string{}
		pods := 0
		for n := range 1 + r.Intn(3) {
			name := fmt.Sprintf("n%d", n)
			fmt.Fprintf(&cluster, "node %s gpus=2 label=zone:%d\n", name, n%2)
			geometry[name] = map[int]string{}
			for g := range 2 {
				var made []gpu.Instance
				for _, i := range r.Perm(len(all)) {
					media := strings.Contains(all[i].Profile, "+")
					if media || slices.ContainsFunc(made, all[i].Overlaps) || r.Intn(3) == 0 {
						continue
					}
					made = append(made, all[i])
					geometry[name][g] += all[i].String() + " "
					if r.Intn(3) == 0 {
						pods++
						fmt.Fprintf(&cluster, "pod x/held-%d node=%s main=nvidia.com/mig-%s:1 gpus=main=GPU-%s-%d:%s\n", pods, name, all[i].Profile, name, g, all[i])
					}
				}
			}
		}
		for p := range 1 + r.Intn(6) {
			selects := ""
			if r.Intn(2) == 0 {
				selects = fmt.Sprintf("select=zone:%d", r.Intn(2))
			}
			fmt.Fprintf(&cluster, "pod x/waits-%d main=nvidia.com/mig-%s:%d %s\n", p, table.Profiles[r.Intn(len(table.Profiles))].Name, 1+r.Intn(2), selects)
		}
		o := divided(t, cluster.String(), geometry)
		a := NewMIGAdvice(o, DefaultSchedulerName)
		if diff := cmp.Diff(a, NewMIGAdvice(o, DefaultSchedulerName)); diff != "" {
			t.Fatalf("the same cluster, other advice:\n%s", diff)
		}
		if a.PlacedPodsAfter < a.PlacedPods {
			t.Errorf("%d pods find a place, %d after it:\n%s", a.PlacedPods, a.PlacedPodsAfter, &cluster)
		}
		if a.PlacedPodsAfter > a.PlacedPods {
			helped++
		}
		for _, c := range a.Changes {
			if (len(c.Held) == 0) != (len(c.Holders) == 0) {
				t.Errorf("%+v", c)
			}
			for _, held := range c.Held {
				if !slices.Contains(c.Then, held) {
					t.Errorf("%s is held, and not in what is to be: %+v", held, c)
				}
			}
		}
	}
	if helped < 15 {
		t.Errorf("%d of 60 clusters were helped: too few to tell anything", helped)
	}
}

func TestFieldsOfMIGAdviceAreDocumented(t *testing.T) {
	want := map[string]string{}
	fieldsOf(t, reflect.TypeFor[MIGAdvice](), "", want)
	if diff := cmp.Diff(want, documented(docs(t)["Fields of weft advise mig"])); diff != "" {
		t.Errorf("docs/cli.md (- the program, + the page):\n%s", diff)
	}
}

func TestAdviseMIGErrors(t *testing.T) {
	file := filepath.Join(t.TempDir(), "cluster.json")
	if err := os.WriteFile(file, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	for args, want := range map[string]string{
		"advise mig -o wide":               `--output is "wide": want one of json, yaml`,
		"advise mig -o json --annotate":    "--annotate and --output json: want one of them",
		"advise mig --snapshot none.json":  "open none.json: no such file",
		"advise mig --snapshot " + file:    file,
		"advise mig x":                     "unknown command",
		"advise mig --kubeconfig none.yml": "none.yml",
	} {
		cmd := NewCommand("weft", genericiooptions.NewTestIOStreamsDiscard())
		cmd.SetArgs(strings.Fields(args))
		if err := cmd.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", args, err, want)
		}
	}
}

// TestAdviseMIGOfASnapshot: a file of weft snapshot gets the advice that the cluster would.
func TestAdviseMIGOfASnapshot(t *testing.T) {
	o := divided(t, adviceCluster, adviceGeometry)
	var objects []runtime.Object
	for _, n := range o.Nodes {
		objects = append(objects, n)
	}
	for _, s := range o.Slices {
		objects = append(objects, s)
	}
	for _, p := range o.Pods {
		objects = append(objects, p)
	}
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{v1alpha1.AddToScheme, schedv1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	source := snapshot.Source{
		Client: fake.NewClientset(objects...), Dynamic: dynamicfake.NewSimpleDynamicClient(scheme), Now: time.Unix(1_795_248_000, 0), SchedulerName: "weft",
	}
	var text bytes.Buffer
	if _, err := snapshot.Take(t.Context(), source, &text, snapshot.Options{}); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "cluster.json")
	if err := os.WriteFile(file, text.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	var want bytes.Buffer
	if err := annotate(&want, adviceExample(t)); err != nil {
		t.Fatal(err)
	}
	streams, _, out, _ := genericiooptions.NewTestIOStreams()
	cmd := NewCommand("weft", streams)
	cmd.SetArgs([]string{"advise", "mig", "--annotate", "--snapshot", file})
	if err := cmd.ExecuteContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want.String(), out.String()); diff != "" {
		t.Errorf("of the cluster and of its snapshot (-want +got):\n%s", diff)
	}
}
