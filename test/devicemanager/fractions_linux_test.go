package devicemanager

import (
	"context"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"

	"weft.sh/weft/pkg/cluster"
	"weft.sh/weft/pkg/deviceplugin"
	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/slot"
)

// asked wraps a handler and remembers which devices of which resource it was asked for, each once, as resource/device.
type asked struct {
	deviceplugin.Handler
	mu   *sync.Mutex
	what map[string]bool
}

func newAsked(h deviceplugin.Handler) asked { return asked{h, &sync.Mutex{}, map[string]bool{}} }

func (a asked) note(r slot.Resource, slots []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, s := range slots {
		a.what[deviceplugin.ResourceName(r)+"/"+s] = true
	}
}

// of is how many devices of the resource it was asked for, and of others.
func (a asked) of(r slot.Resource) (its, others int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for name := range a.what {
		if strings.HasPrefix(name, deviceplugin.ResourceName(r)+"/") {
			its++
		} else {
			others++
		}
	}
	return its, others
}

func (a asked) Allocate(ctx context.Context, r slot.Resource, slots []string) (string, error) {
	a.note(r, slots)
	return a.Handler.Allocate(ctx, r, slots)
}

func (a asked) PreStart(ctx context.Context, r slot.Resource, slots []string) error {
	a.note(r, slots)
	return a.Handler.PreStart(ctx, r, slots)
}

// foreign is another device plugin, which names the GPUs that it was asked for itself.
type foreign struct{}

func (foreign) Allocate(_ context.Context, _ slot.Resource, slots []string) (string, error) {
	return "nvidia.com/gpu=" + strings.Join(slots, "."), nil
}

func (foreign) PreStart(context.Context, slot.Resource, []string) error { return nil }

// TestFractionsBesideAnotherPlugin: whole GPUs are another plugin's to give, in one kubelet with ours. Each is asked for its own and
// for nothing else, also when ours has to find out anew who holds what.
func TestFractionsBesideAnotherPlugin(t *testing.T) {
	g := newGiven(t)
	devices := slices.Clone(g.gpus.Devices[:6])
	theirs := map[string]bool{}
	for i := range devices {
		devices[i].SharedOnly = i < 2
		devices[i].WholeOnly = !devices[i].SharedOnly
		if devices[i].WholeOnly {
			theirs[string(devices[i].ID)] = true
		}
	}
	g.gpus = cluster.NewInventory(cluster.SourceSlices, devices)
	ours := map[slot.Resource]map[string]bool{}
	for _, o := range slot.Offers(devices, true) {
		ours[o.Resource] = slot.Book{}.States(o, devices, true)
	}
	var we asked
	n := newNode(t, ours, func(n *node, claims func(context.Context) slot.Kubelet) deviceplugin.Handler {
		we = newAsked(g.handler(n, claims))
		return we
	})
	they := newAsked(foreign{})
	other := deviceplugin.NewManager(deviceplugin.Options{Handler: they})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- other.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the other manager: %v", err)
		}
	})
	other.Set(map[slot.Resource]map[string]bool{whole: theirs})
	n.awaitCounts(whole, len(theirs), len(theirs))

	admit := func(containers ...v1.Container) *pod {
		t.Helper()
		p := n.newPod(spec{main: containers})
		if !g.assign(n, p.Pod) {
			t.Fatalf("the scheduler finds no GPUs for pod %s", p.Name)
		}
		if err := n.admit(p); err != nil {
			t.Fatal(err)
		}
		g.notify()
		return p
	}
	// start checks what each container of the pod gets, and from whom.
	start := func(p *pod) (given []string) {
		t.Helper()
		for _, c := range p.Spec.Containers {
			names, err := n.start(p, c.Name)
			if err != nil || len(names) != 1 {
				t.Fatalf("container %s of pod %s: CDI devices %q, error %v", c.Name, p.Name, names, err)
			}
			gpus, isTheirs := strings.CutPrefix(names[0], "nvidia.com/gpu=")
			if isTheirs != (asks(c)[whole] > 0) {
				t.Errorf("container %s of pod %s, which asks for %v, has %s", c.Name, p.Name, asks(c), names[0])
			}
			if !isTheirs {
				g.started(p, c, names)
				continue
			}
			for id := range strings.SplitSeq(gpus, ".") {
				if !theirs[id] || slices.Contains(given, id) {
					t.Errorf("container %s of pod %s has %s", c.Name, p.Name, gpus)
				}
				given = append(given, id)
			}
		}
		return given
	}
	// untouched checks what is ours after containers with as many grants of shares have started.
	untouched := func(shares int) {
		t.Helper()
		for _, r := range g.handout.Book().Records {
			foreign := func(g gpu.Grant) bool { return theirs[string(g.GPU)] }
			if r.Resource != shared || r.Holder == nil || slices.ContainsFunc(r.Holder.Grants, foreign) {
				t.Errorf("the book has %+v", r)
			}
		}
		files, err := os.ReadDir(g.cdiDir())
		if err != nil || len(files) != shares || len(g.handout.Book().Records) != shares {
			t.Errorf("%d CDI specifications and %d records, error %v; want %d of each", len(files), len(g.handout.Book().Records), err, shares)
		}
		if its, others := we.of(shared); its == 0 || others > 0 {
			t.Errorf("ours was asked for %d shares and %d other devices", its, others)
		}
		if its, others := they.of(whole); its == 0 || others > 0 {
			t.Errorf("the other plugin was asked for %d GPUs and %d other devices", its, others)
		}
		n.awaitCounts(whole, len(theirs), len(theirs))
		n.awaitCounts(shared, 200, 200)
		n.check(true)
	}

	both := admit(container("share", shared, 30), container("whole", whole, 1))
	wholes := admit(container("main", whole, 2))
	shares := admit(container("main", shared, 80))
	given := slices.Concat(start(both), start(wholes), start(shares))
	if slices.Sort(given); len(slices.Compact(given)) != 3 {
		t.Errorf("three whole GPUs are %q", given)
	}
	untouched(2)

	// Ours is gone for a while, and loses its book: what the other one gave is not taken for its own.
	n.stopAgent()
	n.awaitCounts(shared, 200, 0)
	n.awaitCounts(whole, len(theirs), len(theirs))
	if err := os.Remove(g.checkpoint()); err != nil {
		t.Fatal(err)
	}
	n.startAgent()
	again := slices.Concat(start(both), start(wholes), start(shares))
	slices.Sort(again)
	if diff := cmp.Diff(given, again); diff != "" {
		t.Errorf("the other plugin's GPUs after a restart of ours (-before +after):\n%s", diff)
	}
	untouched(2)

	// What pods held is free at both.
	for _, p := range []*pod{both, wholes, shares} {
		n.delete(p)
	}
	g.notify()
	g.collect()
	if given := start(admit(container("main", whole, len(theirs)))); len(given) != len(theirs) {
		t.Errorf("got %q", given)
	}
	start(admit(container("main", shared, 100)))
	start(admit(container("main", shared, 100)))
	g.collect()
	untouched(2)
}
