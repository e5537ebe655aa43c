package devicemanager

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"

	"weft.sh/weft/pkg/podspec"
	"weft.sh/weft/pkg/slot"
)

// worker starts the containers of one pod, one after the other, and each again until it starts, as the kubelet does for each pod
// beside the others.
type worker struct {
	pod *pod
	// over ends the work, done is closed when it has ended.
	over, done chan struct{}
	got        map[string][]string // CDI devices by container that started
}

func (n *node) work(p *pod) *worker {
	w := &worker{pod: p, over: make(chan struct{}), done: make(chan struct{}), got: map[string][]string{}}
	k := n.kubelet
	go func() {
		defer close(w.done)
		again := time.NewTicker(5 * time.Millisecond)
		defer again.Stop()
		for _, c := range p.containers() {
			for {
				devices, err := k.start(p.Pod, c.Name)
				if err == nil {
					w.got[c.Name] = devices
					break
				}
				select {
				case <-w.over:
					return
				case <-again.C:
				}
			}
		}
	}()
	return w
}

// TestBurst creates 40 pods at once on a node that cannot hold all of them, deletes some as others come, and restarts the agent five
// times meanwhile.
func TestBurst(t *testing.T) {
	const pods, restarts = 40, 5
	for seed := range uint64(2) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			g := newGiven(t)
			n := newNode(t, g.offers(), g.handler)
			s := &sequence{t: t, r: rand.New(rand.NewPCG(seed, 1)), w: g, n: n}
			var workers []*worker
			remove := func(i int) {
				w := workers[i]
				workers = append(workers[:i], workers[i+1:]...)
				close(w.over)
				n.delete(w.pod)
				g.notify()
			}
			for i := range pods {
				p := n.newPod(s.randomSpec())
				for !g.assign(n, p.Pod) {
					remove(s.r.IntN(len(workers)))
				}
				if err := n.admit(p); err != nil {
					t.Fatal(err)
				}
				g.notify()
				workers = append(workers, n.work(p))
				if s.r.IntN(3) == 0 {
					remove(s.r.IntN(len(workers)))
				}
				if i%(pods/restarts) == pods/restarts-1 {
					n.stopAgent()
					n.startAgent()
				}
			}
			for _, w := range workers {
				select {
				case <-w.done:
				case <-time.After(longWait):
					t.Fatalf("pod %s does not start", w.pod.UID)
				}
				for _, c := range w.pod.containers() {
					g.started(w.pod, c, w.got[c.Name])
				}
			}
			// One more, which makes the kubelet write down what it holds.
			last := n.newPod(spec{main: []v1.Container{container("main", shared, 1)}})
			for !g.assign(n, last.Pod) {
				remove(s.r.IntN(len(workers)))
			}
			if err := n.admit(last); err != nil {
				t.Fatal(err)
			}
			n.check(true)
			g.verify(n, true)
		})
	}
}

// TestConcurrentStarts starts all containers of a full node at the same moment.
func TestConcurrentStarts(t *testing.T) {
	g := newGiven(t)
	n := newNode(t, g.offers(), g.handler)
	var all []*pod
	for {
		p := n.newPod(spec{main: []v1.Container{container("main", shared, 10)}})
		if !g.assign(n, p.Pod) {
			break
		}
		if err := n.admit(p); err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	if len(all) != 60 {
		t.Fatalf("%d pods of 10 percent on six GPUs; want 60", len(all))
	}
	g.notify()
	var group sync.WaitGroup
	for _, p := range all {
		group.Go(func() {
			devices, err := n.kubelet.start(p.Pod, "main")
			if err != nil {
				t.Errorf("pod %s: %v", p.UID, err)
				return
			}
			g.started(p, p.Spec.Containers[0], devices)
		})
	}
	group.Wait()
	n.check(true)
	g.verify(n, true)
}

// TestCheckpointWithoutTheLastPod: a kubelet that counts devices and allocates some at the same moment may write the checkpoint from
// before the allocation last. The container starts all the same.
func TestCheckpointWithoutTheLastPod(t *testing.T) {
	for name, of := range map[string]slot.Resource{"slots of nobody": shared, "slots of a pod that is gone": whole} {
		t.Run(name, func(t *testing.T) {
			g := newGiven(t)
			n := newNode(t, g.offers(), g.handler)
			what := spec{init: []v1.Container{container("init", of, 6)}, main: []v1.Container{container("main", of, 6)}}
			if of == whole {
				old := n.newPod(what)
				g.assign(n, old.Pod)
				if err := n.admit(old); err != nil {
					t.Fatal(err)
				}
				n.delete(old)
			}
			before, err := os.ReadFile(checkpointFile)
			if err != nil {
				t.Fatal(err)
			}
			p := n.newPod(what)
			if !g.assign(n, p.Pod) {
				t.Fatal("the pod does not fit")
			}
			if err := n.admit(p); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(checkpointFile, before, 0o600); err != nil {
				t.Fatal(err)
			}
			for _, c := range p.containers() {
				devices, err := n.start(p, c.Name)
				if err != nil {
					t.Fatal(err)
				}
				g.started(p, c, devices)
			}
			n.check(true)
			g.verify(n, true)
		})
	}
}

// TestRefusals: the kubelet says why a container does not start.
func TestRefusals(t *testing.T) {
	for name, test := range map[string]struct {
		assignment string
		want       error
	}{
		"no assignment":                         {"", slot.ErrUnassigned},
		"one that is no assignment":             {"everything", slot.ErrUnassigned},
		"one that gives more than is asked for": {"main=GPU-0", slot.ErrUnassigned},
		"one that is for another container":     {"other=GPU-0", slot.ErrUnassigned},
		"one that names a GPU of another node":  {"main=GPU-77:250m/20480Mi", slot.ErrElsewhere},
	} {
		t.Run(name, func(t *testing.T) {
			g := newGiven(t)
			n := newNode(t, g.offers(), g.handler)
			p := n.newPod(spec{main: []v1.Container{container("main", shared, 25)}})
			if test.assignment != "" {
				p.Annotations = map[string]string{podspec.AnnotationGPUs: test.assignment}
			}
			if err := n.admit(p); err != nil {
				t.Fatal(err)
			}
			devices, err := n.start(p, "main")
			if err == nil {
				t.Fatalf("it was started with %q, %v", devices, g.environment(devices))
			}
			if !strings.Contains(err.Error(), test.want.Error()) {
				t.Errorf("error %q; want one that says %q", err, test.want)
			}
			n.check(true)
		})
	}
}
