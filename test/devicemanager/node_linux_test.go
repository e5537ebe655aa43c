package devicemanager

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"weft.sh/weft/pkg/deviceplugin"
	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/slot"
)

// longWait ends a test that would wait for ever. Nothing depends on it.
const longWait = time.Minute

var (
	whole  = slot.Resource{Kind: gpu.Whole}
	shared = slot.Resource{Kind: gpu.Shared}
	mig    = slot.Resource{Kind: gpu.MIG, Profile: "1g.10gb"}
)

// offers is healthy slots of each resource.
func offers(counts map[slot.Resource]int) map[slot.Resource]map[string]bool {
	out := map[slot.Resource]map[string]bool{}
	for r, n := range counts {
		out[r] = map[string]bool{}
		for i := range n {
			out[r][r.Slot(i)] = true
		}
	}
	return out
}

// dgx is what a node with eight shared GPUs and some others offers.
var dgx = offers(map[slot.Resource]int{shared: 800, whole: 8, mig: 7})

// makeHandler makes the handler of an agent that starts on the node.
type makeHandler func(n *node, claims func(context.Context) slot.Kubelet) deviceplugin.Handler

// node is a kubelet with the plugins, and pods that outlive both.
type node struct {
	t           testing.TB
	makeHandler makeHandler

	offers  map[slot.Resource]map[string]bool
	kubelet *kubelet
	agent   *agent
	uids    int

	mu   sync.Mutex
	pods map[string]*pod // by UID
}

// pod is a pod on the node.
type pod struct {
	*v1.Pod
	// up are the containers that run.
	up map[string]bool
	// next is how many of the containers have been started.
	next int
}

// agent is one run of Weft's half.
type agent struct {
	manager *deviceplugin.Manager
	view    *deviceplugin.Kubelet
	handler deviceplugin.Handler
	stop    func()
}

// newNode starts a node that offers all of it.
func newNode(t testing.TB, offers map[slot.Resource]map[string]bool, makeHandler makeHandler) *node {
	t.Helper()
	if cannot != "" {
		t.Skip("cannot run here: " + cannot)
	}
	n := &node{t: t, makeHandler: makeHandler, offers: offers, pods: map[string]*pod{}}
	t.Cleanup(func() { tidy(t) })
	n.startKubelet()
	n.kubelet.ready.Store(true)
	n.startAgent()
	t.Cleanup(func() {
		n.stopAgent()
		n.kubelet.stop(t)
	})
	return n
}

func (n *node) active() []*v1.Pod {
	n.mu.Lock()
	defer n.mu.Unlock()
	out := make([]*v1.Pod, 0, len(n.pods))
	for _, p := range n.pods {
		out = append(out, p.Pod)
	}
	return out
}

// has reports whether the pod is on the node.
func (n *node) has(uid string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.pods[uid] != nil
}

func (n *node) startKubelet() {
	n.t.Helper()
	var up []running
	for uid, p := range n.pods {
		for c := range p.up {
			up = append(up, running{uid, c})
		}
	}
	n.kubelet = startKubelet(n.t, n, up)
}

func (n *node) startAgent() {
	n.t.Helper()
	n.launchAgent()
	n.settle()
}

// launchAgent starts the agent without waiting until the kubelet knows it.
func (n *node) launchAgent() {
	n.t.Helper()
	view, err := deviceplugin.NewKubelet(checkpointFile, podResourcesSocket)
	if err != nil {
		n.t.Fatal(err)
	}
	a := &agent{view: view, handler: n.makeHandler(n, view.Claims)}
	a.manager = deviceplugin.NewManager(deviceplugin.Options{Handler: a.handler})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.manager.Run(ctx) }()
	a.stop = func() {
		cancel()
		if err := <-done; err != nil {
			n.t.Errorf("the manager: %v", err)
		}
		view.Close()
	}
	a.manager.Set(n.offers)
	n.agent = a
}

func (n *node) stopAgent() {
	if n.agent != nil {
		n.agent.stop()
		n.agent = nil
	}
}

// returnKubelet starts a kubelet after another has ended. It hears of its pods before it hears of the plugins, or after, as a kubelet
// may. It returns the pods that it does not admit again, which are over.
func (n *node) returnKubelet(podsFirst bool) (rejected []*pod) {
	n.t.Helper()
	n.startKubelet()
	if !podsFirst {
		n.settle()
	}
	for _, p := range n.sorted() {
		if err := n.kubelet.admit(p.Pod); err != nil {
			n.t.Logf("pod %s is not admitted again: %v", p.Name, err)
			n.delete(p)
			rejected = append(rejected, p)
		}
	}
	n.kubelet.ready.Store(true)
	n.settle()
	return rejected
}

// sorted are the pods in the order of their creation.
func (n *node) sorted() []*pod {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.SortedFunc(maps.Values(n.pods), func(a, b *pod) int { return a.CreationTimestamp.Compare(b.CreationTimestamp.Time) })
}

// settle waits until the kubelet reports what is offered, and the agent that it is registered.
func (n *node) settle() {
	n.t.Helper()
	for r, slots := range n.offers {
		usable := 0
		for _, healthy := range slots {
			if healthy {
				usable++
			}
		}
		n.awaitCounts(r, len(slots), usable)
	}
	n.await("the agent to be registered", func() bool { return n.agent.manager.Ready() == nil })
	// A kubelet writes it after it has counted the devices that it was first told of.
	n.await("the kubelet's checkpoint", func() bool {
		_, err := os.Stat(checkpointFile)
		return err == nil
	})
}

func (n *node) awaitCounts(r slot.Resource, capacity, allocatable int) {
	n.t.Helper()
	n.await(fmt.Sprintf("%d of %d %s", allocatable, capacity, r), func() bool {
		c, a := n.kubelet.counts(deviceplugin.ResourceName(r))
		return c == int64(capacity) && a == int64(allocatable)
	})
}

func (n *node) await(what string, ok func() bool) {
	n.t.Helper()
	late := time.After(longWait)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-late:
			n.t.Fatalf("waited in vain for %s", what)
		}
	}
}

// container asks for an amount of a resource; none for no resource.
func container(name string, r slot.Resource, amount int) v1.Container {
	c := v1.Container{Name: name}
	if amount > 0 {
		list := v1.ResourceList{v1.ResourceName(deviceplugin.ResourceName(r)): *resource.NewQuantity(int64(amount), resource.DecimalSI)}
		c.Resources = v1.ResourceRequirements{Limits: list, Requests: list}
	}
	return c
}

// sidecar is an init container that runs on.
func sidecar(c v1.Container) v1.Container {
	always := v1.ContainerRestartPolicyAlways
	c.RestartPolicy = &always
	return c
}

// spec is what a pod is made of.
type spec struct {
	name       string // one that is not used is chosen where it is empty
	init, main []v1.Container
}

// newPod is a pod that is not on the node yet.
func (n *node) newPod(s spec) *pod {
	n.uids++
	if s.name == "" {
		s.name = fmt.Sprintf("pod-%d", n.uids)
	}
	return &pod{
		Pod: &v1.Pod{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: "team", Name: s.name, UID: types.UID(fmt.Sprintf("uid-%d", n.uids)),
				CreationTimestamp: metav1.NewTime(time.Unix(int64(n.uids), 0)),
			},
			Spec: v1.PodSpec{InitContainers: s.init, Containers: s.main},
		},
		up: map[string]bool{},
	}
}

// admit brings the pod to the node. With an error it is gone again.
func (n *node) admit(p *pod) error {
	n.mu.Lock()
	n.pods[string(p.UID)] = p
	n.mu.Unlock()
	err := n.kubelet.admit(p.Pod)
	if err != nil {
		n.delete(p)
	}
	return err
}

// create makes a pod and brings it to the node.
func (n *node) create(s spec) (*pod, error) {
	p := n.newPod(s)
	return p, n.admit(p)
}

// must is create for a pod that is to be admitted.
func (n *node) must(s spec) *pod {
	n.t.Helper()
	p, err := n.create(s)
	if err != nil {
		n.t.Fatal(err)
	}
	return p
}

// delete ends the pod. Nobody is told; the kubelet just no longer has it.
func (n *node) delete(p *pod) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.pods, string(p.UID))
}

// start starts a container of the pod, for the first time or again: the CDI devices that it gets.
func (n *node) start(p *pod, container string) ([]string, error) {
	devices, err := n.kubelet.start(p.Pod, container)
	p.up[container] = err == nil
	if err != nil {
		delete(p.up, container)
	}
	return devices, err
}

// isInit reports whether the container ends before others start.
func (p *pod) isInit(container string) bool {
	return slices.ContainsFunc(p.Spec.InitContainers, func(c v1.Container) bool { return c.Name == container && c.RestartPolicy == nil })
}

// containers are all containers of the pod in the order in which they start.
func (p *pod) containers() []v1.Container {
	return append(append([]v1.Container{}, p.Spec.InitContainers...), p.Spec.Containers...)
}

// asks is how many slots of each resource the container asks for.
func asks(c v1.Container) map[slot.Resource]int {
	out := map[slot.Resource]int{}
	for name, q := range c.Resources.Limits {
		if r, ok := deviceplugin.ParseResourceName(string(name)); ok {
			out[r] = int(q.Value())
		}
	}
	return out
}

// said is what the kubelet says now.
func (n *node) said() slot.Kubelet {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), longWait)
	defer cancel()
	k := n.agent.view.Claims(ctx)
	if k.Checkpoint == nil || k.Active == nil {
		n.t.Fatal("the kubelet does not say who holds what")
	}
	return k
}

// check checks what the kubelet says against the pods that there are: each container has as many slots as it asks for, no slot is
// held by two pods or by two containers that run at the same time, and nothing else is held. exact says that the checkpoint was
// written since a pod was deleted last; until then it may have pods that are gone.
func (n *node) check(exact bool) {
	n.t.Helper()
	faults := n.faults(exact)
	if len(faults) > 0 {
		// What the kubelet collected before it last allocated, it may have written after.
		n.kubelet.rewriteCheckpoint(shared, n.offers[shared])
		faults = n.faults(exact)
	}
	for _, f := range faults {
		n.t.Error(f)
	}
}

func (n *node) faults(exact bool) (faults []string) {
	n.t.Helper()
	k := n.said()
	type key struct {
		uid, container string
		resource       slot.Resource
	}
	wantActive, wantCheckpoint := map[key]int{}, map[key]int{}
	uids, alive, ends := map[string]string{}, map[string]bool{}, map[key]bool{}
	for _, p := range n.sorted() {
		uid := string(p.UID)
		uids[p.Namespace+"/"+p.Name], alive[uid] = uid, true
		for _, c := range p.containers() {
			for r, amount := range asks(c) {
				where := key{uid, c.Name, r}
				wantCheckpoint[where] = amount
				if ends[where] = p.isInit(c.Name); !ends[where] {
					wantActive[where] = amount
				}
			}
		}
	}
	verify := func(source string, want map[key]int, claims []slot.Claim) {
		got, held := map[key]int{}, map[string][]key{}
		for _, c := range claims {
			uid := c.UID
			if uid == "" {
				uid = uids[c.Namespace+"/"+c.Pod]
			}
			if c.UID != "" && !alive[uid] && !exact {
				continue
			}
			where := key{uid, c.Container, c.Resource}
			got[where] += len(c.Slots)
			for _, s := range c.Slots {
				for _, other := range held[s] {
					// What an init container had, others of its pod have after it.
					if other.uid != uid || !ends[other] && !ends[where] {
						faults = append(faults, fmt.Sprintf("%s: %s is held by %v and by %v", source, s, other, where))
					}
				}
				held[s] = append(held[s], where)
			}
		}
		if !maps.Equal(want, got) {
			faults = append(faults, fmt.Sprintf("%s has the slots %v; want %v", source, got, want))
		}
	}
	verify("PodResources", wantActive, k.Active)
	verify("the checkpoint", wantCheckpoint, k.Checkpoint)
	return faults
}
