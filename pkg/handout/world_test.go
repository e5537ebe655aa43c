package handout

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	oci "github.com/opencontainers/runtime-spec/specs-go"
	"k8s.io/klog/v2"
	"tags.cncf.io/container-device-interface/pkg/cdi"
	"tags.cncf.io/container-device-interface/specs-go"

	"weft.sh/weft/pkg/cluster"
	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/slot"
)

// quiet logs nothing.
var quiet = klog.NewContext(context.Background(), klog.Logger{})

// world is a node with a kubelet, a container runtime, its pods at the API server, a disk and a Handout. Time is that of a bubble of
// synctest.
type world struct {
	t       testing.TB
	dir     string
	disk    *faultyDisk
	kubelet *kubelet
	api     *api
	h       *Handout

	mu      sync.Mutex
	devices []gpu.Device
	// found are devices that are found later.
	found []gpu.Device
	// broken makes Edits fail for a GPU.
	broken map[gpu.ID]error
	// preparing is called by Edits.
	preparing func()
}

// inWorld runs f in a bubble of synctest with a node of four GPUs and one in MIG mode.
func inWorld(t *testing.T, f func(t *testing.T, w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { f(t, newWorld(t, t.TempDir())) })
}

func newWorld(t testing.TB, dir string) *world {
	w := &world{
		t: t, dir: dir, broken: map[gpu.ID]error{},
		kubelet: &kubelet{uids: map[string]string{}},
		api:     &api{live: map[string]slot.Pod{}, seen: map[string]slot.Pod{}, all: true, changed: make(chan struct{})},
	}
	for i := range 4 {
		w.devices = append(w.devices, gpu.Device{ID: gpu.ID(fmt.Sprintf("GPU-%d", i)), Index: i, MemoryMiB: 81920, Isolation: gpu.IsolationNone})
	}
	mig := gpu.Device{ID: "GPU-M", Index: 4, MemoryMiB: 81920, MIG: true}
	for _, start := range []int{0, 1, 2, 3, 4, 5, 6} {
		mig.Instances = append(mig.Instances, gpu.Instance{Profile: "1g.10gb", Start: start, Size: 1})
	}
	for _, start := range []int{0, 4} {
		mig.Instances = append(mig.Instances, gpu.Instance{Profile: "3g.40gb", Start: start, Size: 4})
	}
	w.devices = append(w.devices, mig)
	w.reopen()
	return w
}

func (w *world) options() Options {
	return Options{
		Node: "node-a", CheckpointPath: w.path("state", "checkpoint.json"), CDIDir: w.path("cdi"),
		Kubelet: w.kubelet.says, Pods: w.api, MPSRoot: "/mps",
		Inventory: func() cluster.Inventory {
			w.mu.Lock()
			defer w.mu.Unlock()
			return cluster.NewInventory(cluster.SourceSlices, w.devices)
		},
		Edits: w.edits,
	}
}

// edits is a device node for each GPU, as far as a test needs to tell.
func (w *world) edits(grants []gpu.Grant) (*specs.ContainerEdits, error) {
	if w.preparing != nil {
		w.preparing()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	out := &specs.ContainerEdits{Env: []string{"NVIDIA_VISIBLE_DEVICES=all"}}
	for _, g := range grants {
		if err := w.broken[g.GPU]; err != nil {
			return nil, err
		}
		out.DeviceNodes = append(out.DeviceNodes, &specs.DeviceNode{Path: "/dev/nvidia-" + string(g.GPU), Type: "c", Major: 195, Minor: 1})
	}
	return out, nil
}

func (w *world) path(elements ...string) string {
	return filepath.Join(append([]string{w.dir}, elements...)...)
}

// reopen starts the agent anew, on a disk without faults.
func (w *world) reopen() {
	w.t.Helper()
	if err := w.open(nil); err != nil {
		w.t.Fatal(err)
	}
}

// open kills the agent, and starts another one on a disk with faults.
func (w *world) open(fault func(n int, op, path string) effect) error {
	w.disk.kill()
	w.disk = &faultyDisk{fault: fault, err: syscall.ENOSPC}
	var err error
	w.h, err = open(quiet, w.options(), w.disk)
	return err
}

// bind puts a pod on the node with the assignment that the scheduler chose, and the kubelet admits it.
func (w *world) bind(uid, name, assignment string) {
	w.t.Helper()
	p := podOf(uid, name, assignment)
	w.api.set(p)
	if err := w.kubelet.admit(w.h, p, p.Assignment); err != nil {
		w.t.Fatal(err)
	}
}

func podOf(uid, name, assignment string) slot.Pod {
	a, err := gpu.ParseAssignment(assignment)
	if err != nil {
		panic(err)
	}
	return slot.Pod{UID: uid, Namespace: "ns", Name: name, Assignment: a}
}

// over ends the pod, gone also deletes it.
func (w *world) over(uid string) {
	p := w.api.get(uid)
	p.Over = true
	w.api.set(p)
	w.kubelet.end(uid)
}

func (w *world) gone(uid string) {
	w.over(uid)
	w.api.remove(uid)
}

// start starts the container as kubelet and runtime do, and answers what it finds as its GPUs.
func (w *world) start(uid, container string) (string, error) {
	claims := w.kubelet.of(uid, container)
	if len(claims) == 0 {
		return "", fmt.Errorf("the kubelet has nothing for container %s of %s", container, uid)
	}
	var devices []string
	for _, c := range claims {
		ctx, cancel := context.WithTimeout(quiet, 28*time.Second)
		err := w.h.PreStart(ctx, c.Resource, reversed(c.Slots))
		cancel()
		if err != nil {
			return "", err
		}
		devices = append(devices, device(c.Name))
	}
	return w.create(devices)
}

// create resolves the CDI devices as a container runtime does, for an image that wants all GPUs.
func (w *world) create(devices []string) (string, error) {
	cache, err := cdi.NewCache(cdi.WithAutoRefresh(false), cdi.WithSpecDirs(w.path("cdi")))
	if err != nil {
		return "", err
	}
	container := &oci.Spec{Process: &oci.Process{Env: []string{"NVIDIA_VISIBLE_DEVICES=all", "PATH=/bin"}}}
	if _, err := cache.InjectDevices(container, devices...); err != nil {
		return "", err
	}
	for path, errs := range cache.GetErrors() {
		return "", fmt.Errorf("%s: %w", path, errors.Join(errs...))
	}
	gpus := ""
	for _, e := range container.Process.Env {
		if name, value, _ := strings.Cut(e, "="); name == slot.EnvGPUs {
			gpus = value
		} else if name == "NVIDIA_VISIBLE_DEVICES" && value != "void" {
			return "", fmt.Errorf("the container has %s", e)
		}
	}
	var nodes []string
	for _, d := range container.Linux.Devices {
		nodes = append(nodes, strings.TrimPrefix(d.Path, "/dev/nvidia-"))
	}
	for g := range strings.SplitSeq(gpus, ",") {
		if id, _, _ := strings.Cut(g, ":"); !slices.Contains(nodes, id) {
			return "", fmt.Errorf("the container is told of %s and has the device nodes %s", gpus, nodes)
		}
	}
	return gpus, nil
}

// mustStart is start that gets these GPUs.
func (w *world) mustStart(uid, container, want string) {
	w.t.Helper()
	got, err := w.start(uid, container)
	if err != nil {
		w.t.Fatalf("container %s of %s: %v", container, uid, err)
	}
	if got != want {
		w.t.Fatalf("container %s of %s has %q, want %q", container, uid, got, want)
	}
}

// holders is who is bound to what, a line each.
func (w *world) holders() []string {
	var out []string
	for _, r := range w.h.Book().Records {
		if r.Holder != nil {
			var grants []string
			for _, g := range r.Holder.Grants {
				grants = append(grants, g.String())
			}
			out = append(out, r.Holder.UID+"/"+r.Holder.Container+" "+strings.Join(grants, ","))
		}
	}
	slices.Sort(out)
	return out
}

// files is the names in the folder.
func (w *world) files(folder string) []string {
	w.t.Helper()
	names, err := osDisk{}.List(w.path(folder))
	if err != nil && !os.IsNotExist(err) {
		w.t.Fatal(err)
	}
	return names
}

// check is what is wrong, whatever has happened: a GPU given twice, a book that is not readable, a specification that nobody has.
func (w *world) check() error {
	text, err := w.h.Book().Encode()
	if err != nil {
		return err
	}
	book, err := slot.Decode(text)
	if err != nil {
		return err
	}
	holders := map[string]string{}
	for _, r := range book.Records {
		if r.Holder != nil {
			holders[r.Holder.UID] = r.Holder.Assignment
		}
	}
	var pods []cluster.Pod
	for uid, text := range holders {
		a, err := gpu.ParseAssignment(text)
		if err != nil {
			return err
		}
		pods = append(pods, cluster.NewPod(uid, uid, a))
	}
	for _, p := range pods {
		others := slices.DeleteFunc(slices.Clone(pods), func(o cluster.Pod) bool { return o.UID == p.UID })
		if err := cluster.NewNode("node-a", w.options().Inventory(), others).CanGive(p); err != nil {
			return fmt.Errorf("%s: %w", p.UID, err)
		}
	}
	return nil
}

// clean is what is left although no pod is there any more, and Grace has passed.
func (w *world) clean() error {
	for _, uid := range w.api.uids() {
		w.gone(uid)
	}
	time.Sleep(slot.Grace + time.Second)
	for range 2 { // the second sees what the first has noted as missing
		if _, err := w.h.Collect(quiet); err != nil {
			return err
		}
		time.Sleep(slot.Grace + time.Second)
	}
	if n := len(w.h.Book().Records); n > 0 {
		return fmt.Errorf("%d records are leaked: %+v", n, w.h.Book().Records)
	}
	if f := w.files("cdi"); len(f) > 0 {
		return fmt.Errorf("specifications are leaked: %s", f)
	}
	w.reopen()
	if n := len(w.h.Book().Records); n > 0 {
		return fmt.Errorf("after a restart there are %d records", n)
	}
	return nil
}

// kubelet is what the real one's device manager does, as far as slots go.
type kubelet struct {
	// admission is of one pod at a time.
	admission sync.Mutex

	mu     sync.Mutex
	claims []slot.Claim
	// uids are the pods that are active, with their names.
	uids map[string]string
	// inits are containers that PodResources leaves out, as UID/container.
	inits map[string]bool
	// noCheckpoint and silent: it cannot be read, PodResources does not answer.
	noCheckpoint, silent bool
	// asked is called when it is asked, before it answers.
	asked func()
	asks  int
}

// handler is what it calls.
type handler interface {
	Allocate(ctx context.Context, r slot.Resource, slots []string) (string, error)
	PreStart(ctx context.Context, r slot.Resource, slots []string) error
}

var _ handler = (*Handout)(nil)

// admit allocates for every container of the pod, in order, what its grants are worth.
func (k *kubelet) admit(h handler, p slot.Pod, a gpu.Assignment) error {
	k.admission.Lock()
	defer k.admission.Unlock()
	k.mu.Lock()
	k.uids[p.UID] = p.Name
	k.claims = slices.DeleteFunc(k.claims, func(c slot.Claim) bool { return k.uids[c.UID] == "" })
	k.mu.Unlock()
	reusable := map[slot.Resource][]string{}
	for _, c := range a.Containers {
		worth := map[slot.Resource]int{}
		for _, g := range c.Grants {
			switch g.Kind() {
			case gpu.Shared:
				worth[slot.Resource{Kind: gpu.Shared}] = int(g.MilliGPU / 10)
			case gpu.MIG:
				worth[slot.Resource{Kind: gpu.MIG, Profile: g.Instance.Profile}]++
			default:
				worth[slot.Resource{Kind: gpu.Whole}]++
			}
		}
		for _, r := range slices.SortedFunc(maps.Keys(worth), func(a, b slot.Resource) int { return strings.Compare(a.String(), b.String()) }) {
			slots, err := k.take(r, worth[r], reusable[r])
			if err != nil {
				return err
			}
			name, err := h.Allocate(quiet, r, slots)
			if err != nil {
				return err
			}
			if c.Init {
				reusable[r] = append(reusable[r], slots...)
			} else {
				reusable[r] = slices.DeleteFunc(reusable[r], func(s string) bool { return slices.Contains(slots, s) })
			}
			k.mu.Lock()
			if c.Init {
				if k.inits == nil {
					k.inits = map[string]bool{}
				}
				k.inits[p.UID+"/"+c.Container] = true
			}
			slices.Sort(slots)
			k.claims = append(k.claims, slot.Claim{
				UID: p.UID, Container: c.Container, Resource: r, Slots: slots, Name: strings.TrimPrefix(name, slot.CDIKind+"="),
			})
			k.mu.Unlock()
		}
	}
	return nil
}

// take is n slots, the reusable ones first, in no order.
func (k *kubelet) take(r slot.Resource, n int, reusable []string) ([]string, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	taken := map[string]bool{}
	for _, c := range k.claims {
		for _, s := range c.Slots {
			taken[s] = true
		}
	}
	out := slices.Clone(reusable[:min(n, len(reusable))])
	for i := 0; len(out) < n; i++ {
		if i == 500 {
			return nil, fmt.Errorf("no more slots of %s", r)
		}
		if s := r.Slot(i); !taken[s] {
			out = append(out, s)
		}
	}
	slices.Reverse(out)
	return out, nil
}

func (k *kubelet) of(uid, container string) []slot.Claim {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(k.claims), func(c slot.Claim) bool { return c.UID != uid || c.Container != container })
}

// end makes the pod inactive; it stays in the checkpoint until that is written next.
func (k *kubelet) end(uid string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.uids, uid)
}

func (k *kubelet) says(context.Context) slot.Kubelet {
	k.mu.Lock()
	asked := k.asked
	k.asks++
	var said slot.Kubelet
	if !k.noCheckpoint {
		said.Checkpoint = append([]slot.Claim{}, k.claims...)
	}
	if !k.silent {
		said.Active = []slot.Claim{}
		for _, c := range k.claims {
			if name := k.uids[c.UID]; name != "" && !k.inits[c.UID+"/"+c.Container] {
				said.Active = append(said.Active, slot.Claim{Namespace: "ns", Pod: name, Container: c.Container, Resource: c.Resource, Slots: c.Slots})
			}
		}
	}
	k.mu.Unlock()
	if asked != nil {
		asked()
	}
	return said
}

// api is the pods of the node at the API server, and as a watch has shown them.
type api struct {
	mu         sync.Mutex
	live, seen map[string]slot.Pod
	// stale: the watch shows nothing new. all: it has shown what there was at first.
	stale, all bool
	changed    chan struct{}
	gets       int
}

func (a *api) update(f func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	f()
	if !a.stale {
		a.seen = maps.Clone(a.live)
		close(a.changed)
		a.changed = make(chan struct{})
	}
}

func (a *api) set(p slot.Pod)           { a.update(func() { a.live[p.UID] = p }) }
func (a *api) remove(uid string)        { a.update(func() { delete(a.live, uid) }) }
func (a *api) stall(stale bool)         { a.update(func() { a.stale = stale }) }
func (a *api) synced(all bool)          { a.update(func() { a.all = all }) }
func (a *api) Changed() <-chan struct{} { a.mu.Lock(); defer a.mu.Unlock(); return a.changed }

func (a *api) get(uid string) slot.Pod {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.live[uid]
}

func (a *api) uids() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Sorted(maps.Keys(a.live))
}

func (a *api) Snapshot() (map[string]slot.Pod, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.seen, a.all
}

func (a *api) Get(_ context.Context, namespace, name string) (slot.Pod, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.gets++
	for _, p := range a.live {
		if p.Namespace == namespace && p.Name == name {
			return p, nil
		}
	}
	return slot.Pod{}, fmt.Errorf("pod %s/%s is not found", namespace, name)
}

// reversed is the slots in another order than that of the book: the kubelet knows none.
func reversed(slots []string) []string {
	out := slices.Clone(slots)
	slices.Reverse(out)
	return out
}
