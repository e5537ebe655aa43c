package devicemanager

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	oci "github.com/opencontainers/runtime-spec/specs-go"
	v1 "k8s.io/api/core/v1"
	"k8s.io/utils/clock"
	"tags.cncf.io/container-device-interface/pkg/cdi"
	"tags.cncf.io/container-device-interface/specs-go"

	"weft.sh/weft/pkg/cluster"
	"weft.sh/weft/pkg/deviceplugin"
	"weft.sh/weft/pkg/fit"
	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/handout"
	"weft.sh/weft/pkg/podspec"
	"weft.sh/weft/pkg/slot"
)

// given is a world in which pods get GPUs: the scheduler's choice of them, and the handing out.
type given struct {
	t     testing.TB
	dir   string
	clock *shiftedClock
	gpus  cluster.Inventory

	mu      sync.Mutex
	node    *node
	handout *handout.Handout // the newest
	changed chan struct{}
}

// shiftedClock is the real clock, but for the time that tests have skipped.
type shiftedClock struct {
	clock.RealClock
	mu    sync.Mutex
	shift time.Duration
}

func (c *shiftedClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.RealClock.Now().Add(c.shift)
}

// Step skips some time.
func (c *shiftedClock) Step(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.shift += d
}

func newGiven(t testing.TB) *given {
	g := &given{t: t, dir: t.TempDir(), clock: &shiftedClock{}, changed: make(chan struct{})}
	var devices []gpu.Device
	for i := range 8 {
		d := gpu.Device{
			ID: gpu.ID(fmt.Sprintf("GPU-%d", i)), Index: i, Product: "NVIDIA-H100-80GB-HBM3", MemoryMiB: 81920, Isolation: gpu.IsolationNone,
		}
		if d.MIG = i >= 6; d.MIG {
			for start := range 7 {
				d.Instances = append(d.Instances, gpu.Instance{Profile: mig.Profile, Start: start, Size: 1})
			}
		}
		devices = append(devices, d)
	}
	g.gpus = cluster.NewInventory(cluster.SourceSlices, devices)
	return g
}

// shareAll takes all GPUs out of MIG mode.
func (g *given) shareAll() {
	devices := slices.Clone(g.gpus.Devices)
	for i := range devices {
		devices[i].MIG, devices[i].Instances = false, nil
	}
	g.gpus = cluster.NewInventory(cluster.SourceSlices, devices)
}

func (g *given) offers() map[slot.Resource]map[string]bool {
	out := map[slot.Resource]map[string]bool{}
	for _, o := range slot.Offers(g.gpus.Devices, false) {
		out[o.Resource] = slot.Book{}.States(o, g.gpus.Devices, false)
	}
	return out
}

func (g *given) handler(n *node, claims func(context.Context) slot.Kubelet) deviceplugin.Handler {
	h, err := handout.Open(context.Background(), handout.Options{
		Node: "node-a", CheckpointPath: g.checkpoint(), CDIDir: g.cdiDir(), Kubelet: claims, Pods: g, Clock: g.clock,
		Inventory: func() cluster.Inventory { return g.gpus },
		Edits: func(grants []gpu.Grant) (*specs.ContainerEdits, error) {
			out := &specs.ContainerEdits{}
			for _, grant := range grants {
				out.Env = append(out.Env, "HAS_"+strings.ReplaceAll(string(grant.GPU), "-", "_")+"=1")
			}
			return out, nil
		},
	})
	if err != nil {
		g.t.Fatal(err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.node, g.handout = n, h
	return h
}

func (g *given) checkpoint() string { return filepath.Join(g.dir, "checkpoint.json") }

func (g *given) cdiDir() string { return filepath.Join(g.dir, "cdi") }

// Snapshot implements handout.Pods, as the API server has the pods.
func (g *given) Snapshot() (map[string]slot.Pod, bool) {
	g.mu.Lock()
	n := g.node
	g.mu.Unlock()
	out := map[string]slot.Pod{}
	for _, p := range n.active() {
		out[string(p.UID)] = read(p)
	}
	return out, true
}

func read(p *v1.Pod) slot.Pod {
	out := slot.Pod{UID: string(p.UID), Namespace: p.Namespace, Name: p.Name}
	request, err := podspec.Request(p)
	if err == nil {
		out.Assignment, err = podspec.Assignment(p, request)
	}
	out.Err = err
	return out
}

// Changed implements handout.Pods.
func (g *given) Changed() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.changed
}

// Get implements handout.Pods.
func (g *given) Get(_ context.Context, namespace, name string) (slot.Pod, error) {
	pods, _ := g.Snapshot()
	for _, p := range pods {
		if p.Namespace == namespace && p.Name == name {
			return p, nil
		}
	}
	return slot.Pod{}, fmt.Errorf("no pod %s/%s", namespace, name)
}

// notify says that the node's pods changed.
func (g *given) notify() {
	g.mu.Lock()
	defer g.mu.Unlock()
	close(g.changed)
	g.changed = make(chan struct{})
}

// taken is the node as the scheduler sees it.
func (g *given) taken(n *node) *cluster.Node {
	var pods []cluster.Pod
	for _, p := range n.active() {
		if a := read(p).Assignment; !a.Empty() {
			pods = append(pods, cluster.NewPod(string(p.UID), p.Namespace+"/"+p.Name, a))
		}
	}
	return cluster.NewNode("node-a", g.gpus, pods)
}

func (g *given) assign(n *node, p *v1.Pod) bool {
	request, err := podspec.PendingRequest(p)
	if err != nil {
		g.t.Fatal(err)
	}
	a, err := fit.Assign(g.taken(n), request, fit.CPU{}, fit.BestFit{})
	if err != nil {
		return false
	}
	if !a.Empty() {
		p.Annotations = map[string]string{podspec.AnnotationGPUs: a.String()}
	}
	return true
}

// environment is what a container runtime puts into the environment of a container with these CDI devices, by name.
func (g *given) environment(devices []string) map[string]string {
	g.t.Helper()
	out := map[string]string{}
	if len(devices) == 0 {
		return out
	}
	cache, err := cdi.NewCache(cdi.WithSpecDirs(g.cdiDir()), cdi.WithAutoRefresh(false))
	if err != nil {
		g.t.Fatal(err)
	}
	var container oci.Spec
	if missing, err := cache.InjectDevices(&container, devices...); err != nil {
		g.t.Errorf("the runtime cannot make a container with %q: %v (missing %q)", devices, err, missing)
		return out
	}
	for _, v := range container.Process.Env {
		name, value, _ := strings.Cut(v, "=")
		out[name] = value
	}
	return out
}

// grants is what the pod's assignment gives the container, as the container is told of it.
func grants(p *v1.Pod, container string) (text string, gpus []gpu.ID) {
	var texts []string
	for _, c := range read(p).Assignment.Containers {
		if c.Container != container {
			continue
		}
		for _, grant := range c.Grants {
			texts = append(texts, grant.String())
			gpus = append(gpus, grant.GPU)
		}
	}
	return strings.Join(texts, ","), gpus
}

func (g *given) started(p *pod, c v1.Container, devices []string) {
	g.t.Helper()
	text, ids := grants(p.Pod, c.Name)
	want := map[string]string{}
	if text != "" {
		want[slot.EnvGPUs] = text
	}
	for _, id := range ids {
		want["HAS_"+strings.ReplaceAll(string(id), "-", "_")] = "1"
	}
	got := g.environment(devices)
	delete(got, "NVIDIA_VISIBLE_DEVICES")
	if diff := cmp.Diff(want, got); diff != "" {
		g.t.Errorf("the environment of %s/%s, whose pod was assigned %q (-want +got):\n%s", p.UID, c.Name, p.Annotations[podspec.AnnotationGPUs], diff)
	}
}

// sick implements world: the scheduler would have to know, and the handing out waits for a GPU to recover.
func (g *given) sick(*rand.Rand) map[slot.Resource]map[string]bool { return nil }

// verify checks that no GPU is given out more than it has, that what is bound is bound as the pods' assignments say, and at the end that
// nothing is left of pods that are gone.
func (g *given) verify(n *node, end bool) {
	g.t.Helper()
	g.notify()
	if conflicts := g.taken(n).Conflicts(); len(conflicts) > 0 {
		g.t.Errorf("conflicts: %q", conflicts)
	}
	g.collect()
	if end {
		// Whatever waits for something to be certain has waited long enough.
		g.clock.Step(2 * slot.Grace)
		g.collect()
	}
	pods, _ := g.Snapshot()
	book := g.handout.Book()
	var bound []cluster.Pod
	records := map[string]bool{}
	for _, r := range book.Records {
		records[r.Name] = true
		if r.Holder == nil {
			continue
		}
		p, ok := pods[r.Holder.UID]
		if !ok {
			// Until the kubelet has forgotten it too.
			if end {
				g.t.Errorf("record %s is bound to pod %s, which is gone", r.Name, r.Holder.UID)
			}
			continue
		}
		if got := r.Holder.Assignment; got != p.Assignment.String() {
			g.t.Errorf("record %s is bound by the assignment %q; the pod's is %q", r.Name, got, p.Assignment)
		}
		bound = append(bound, cluster.NewPod(p.UID, p.Name, p.Assignment))
	}
	bound = slices.CompactFunc(slices.SortedFunc(slices.Values(bound), func(a, b cluster.Pod) int { return strings.Compare(a.UID, b.UID) }),
		func(a, b cluster.Pod) bool { return a.UID == b.UID })
	if conflicts := cluster.NewNode("node-a", g.gpus, bound).Conflicts(); len(conflicts) > 0 {
		g.t.Errorf("conflicts among what is bound: %q", conflicts)
	}
	if !end {
		return
	}
	// The count in the kubelet's checkpoint equals the live pods' (check); the book has the same.
	held := map[string]bool{}
	for _, c := range n.said().Checkpoint {
		if _, ok := pods[c.UID]; ok {
			held[c.Name] = true
		}
	}
	if diff := cmp.Diff(slices.Sorted(maps.Keys(held)), slices.Sorted(maps.Keys(records))); diff != "" {
		g.t.Errorf("records in the book, against the kubelet's checkpoint (-want +got):\n%s", diff)
	}
	files, err := os.ReadDir(g.cdiDir())
	if err != nil && !os.IsNotExist(err) {
		g.t.Error(err)
	}
	boundRecords := 0
	for _, r := range book.Records {
		if r.Holder != nil {
			boundRecords++
		}
	}
	if len(files) != boundRecords {
		g.t.Errorf("%d CDI specifications for %d bound records", len(files), boundRecords)
	}
}

func (g *given) collect() {
	g.t.Helper()
	if _, err := g.handout.Collect(context.Background()); err != nil {
		g.t.Errorf("Collect: %v", err)
	}
}

// TestRandomLivesWithGPUs is TestRandomLives with a scheduler's choice of GPUs and with the containers that come of it.
func TestRandomLivesWithGPUs(t *testing.T) {
	runRandomLives(t, 200, func(t testing.TB) world { return newGiven(t) })
}
