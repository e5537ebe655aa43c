package devicemanager

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"

	"weft.sh/weft/pkg/deviceplugin"
	"weft.sh/weft/pkg/slot"
)

// startOne starts a container that has one resource, and returns its record and the container's owners as PreStart saw them.
func startOne(t *testing.T, n *node, m *memory, p *pod, container string) (record string, owners []slot.Owner) {
	t.Helper()
	m.take()
	devices, err := n.start(p, container)
	if err != nil {
		t.Fatal(err)
	}
	starts := m.take()
	if len(starts) != 1 || len(devices) != 1 {
		t.Fatalf("starting %s took %d PreStarts and gave the CDI devices %q; want one of each", container, len(starts), devices)
	}
	if starts[0].err != nil {
		t.Fatalf("starting %s: %v", container, starts[0].err)
	}
	record, ok := strings.CutPrefix(devices[0], slot.CDIKind+"=")
	if !ok {
		t.Fatalf("CDI device %q", devices[0])
	}
	if diff := cmp.Diff(m.names[record], starts[0].slots); diff != "" {
		t.Errorf("%s was started with other slots than its record has (-want +got):\n%s", container, diff)
	}
	return record, starts[0].owners
}

func owner(p *pod, container, record string) slot.Owner {
	return slot.Owner{Name: record, UID: string(p.UID), Namespace: p.Namespace, Pod: p.Name, Container: container}
}

func TestContainerGetsItsRecord(t *testing.T) {
	for name, test := range map[string]struct {
		resource slot.Resource
		amount   int
	}{
		"a share":      {shared, 25},
		"a GPU":        {whole, 1},
		"all GPUs":     {whole, 8},
		"MIG":          {mig, 2},
		"a whole node": {shared, 800},
	} {
		t.Run(name, func(t *testing.T) {
			m := &memory{}
			n := newNode(t, dgx, m.handler)
			p := n.must(spec{main: []v1.Container{container("main", test.resource, test.amount)}})
			record, owners := startOne(t, n, m, p, "main")
			if diff := cmp.Diff([]slot.Owner{owner(p, "main", record)}, owners); diff != "" {
				t.Errorf("owners at PreStart (-want +got):\n%s", diff)
			}
			if got := len(m.names[record]); got != test.amount {
				t.Errorf("%d slots; want %d", got, test.amount)
			}
			n.check(true)

			// It restarts, in place: the same record.
			again, owners := startOne(t, n, m, p, "main")
			if diff := cmp.Diff([]slot.Owner{owner(p, "main", again)}, owners); diff != "" || again != record {
				t.Errorf("restarted with %s, was %s; owners (-want +got):\n%s", again, record, diff)
			}
		})
	}
}

func TestSeveralContainersAndResources(t *testing.T) {
	m := &memory{}
	n := newNode(t, dgx, m.handler)
	both := container("both", whole, 2)
	both.Resources.Limits[v1.ResourceName(deviceplugin.ResourceName(mig))] = container("", mig, 1).Resources.Limits[v1.ResourceName(deviceplugin.ResourceName(mig))]
	p := n.must(spec{main: []v1.Container{container("a", shared, 30), container("b", shared, 30), container("idle", shared, 0), both}})
	a, owners := startOne(t, n, m, p, "a")
	if diff := cmp.Diff([]slot.Owner{owner(p, "a", a)}, owners); diff != "" {
		t.Errorf("owners of a (-want +got):\n%s", diff)
	}
	b, owners := startOne(t, n, m, p, "b")
	if diff := cmp.Diff([]slot.Owner{owner(p, "b", b)}, owners); diff != "" || a == b {
		t.Errorf("records %s and %s; owners of b (-want +got):\n%s", a, b, diff)
	}
	m.take()
	if devices, err := n.start(p, "idle"); err != nil || len(devices) != 0 || len(m.take()) != 0 {
		t.Errorf("a container without slots: CDI devices %q, error %v", devices, err)
	}
	devices, err := n.start(p, "both")
	if starts := m.take(); err != nil || len(devices) != 2 || len(starts) != 2 {
		t.Fatalf("a container with two resources: CDI devices %q, error %v, %d PreStarts; want 2 devices and 2 PreStarts", devices, err, len(starts))
	}
	n.check(true)
}

func TestInitContainers(t *testing.T) {
	for name, test := range map[string]struct {
		init     v1.Container
		main     v1.Container
		ownersOf map[string][]string // the containers that PreStart saw, by the one that started
	}{
		"with the same slots as a container": {
			init: container("init", shared, 40), main: container("main", shared, 40),
			ownersOf: map[string][]string{"init": {"init", "main"}, "main": {"init", "main"}},
		},
		"with more": {
			init: container("init", shared, 40), main: container("main", shared, 10),
			ownersOf: map[string][]string{"init": {"init"}, "main": {"main"}},
		},
		"with less": {
			init: container("init", shared, 10), main: container("main", shared, 40),
			ownersOf: map[string][]string{"init": {"init"}, "main": {"main"}},
		},
		"alone": {
			init: container("init", shared, 10), main: container("main", shared, 0),
			ownersOf: map[string][]string{"init": {"init"}},
		},
		"that run on have their own": {
			init: sidecar(container("init", shared, 40)), main: container("main", shared, 40),
			ownersOf: map[string][]string{"init": {"init"}, "main": {"main"}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := &memory{}
			n := newNode(t, dgx, m.handler)
			p := n.must(spec{init: []v1.Container{test.init}, main: []v1.Container{test.main}})
			for _, c := range []string{"init", "main"} {
				want, ok := test.ownersOf[c]
				if !ok {
					continue
				}
				_, owners := startOne(t, n, m, p, c)
				var got []string
				for _, o := range owners {
					if o.UID != string(p.UID) {
						t.Errorf("PreStart of %s saw pod %s; want %s", c, o.UID, p.UID)
					}
					got = append(got, o.Container)
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("containers that PreStart of %s saw (-want +got):\n%s", c, diff)
				}
			}
			n.check(true)
		})
	}
}

func TestRefusedContainerIsTriedAgain(t *testing.T) {
	m := &memory{refuse: errors.New("the assignment names another node's GPU")}
	n := newNode(t, dgx, m.handler)
	p := n.must(spec{main: []v1.Container{container("main", whole, 1)}})
	if _, err := n.start(p, "main"); err == nil || !strings.Contains(err.Error(), m.refuse.Error()) {
		t.Errorf("error %v; want the reason of the refusal", err)
	}
	m.refuse = nil
	startOne(t, n, m, p, "main")
}

func TestDeletedPodsSlotsAreUsedAgain(t *testing.T) {
	m := &memory{}
	n := newNode(t, dgx, m.handler)
	old := n.must(spec{main: []v1.Container{container("main", whole, 8)}})
	first, _ := startOne(t, n, m, old, "main")
	if _, err := n.create(spec{main: []v1.Container{container("main", whole, 1)}}); err == nil {
		t.Fatal("a ninth GPU was given out")
	}
	n.delete(old)
	n.check(false)
	p := n.must(spec{main: []v1.Container{container("main", whole, 8)}})
	record, owners := startOne(t, n, m, p, "main")
	if diff := cmp.Diff([]slot.Owner{owner(p, "main", record)}, owners); diff != "" || record == first {
		t.Errorf("records %s, then %s; owners (-want +got):\n%s", first, record, diff)
	}
	n.check(true)
}

func TestKubeletRestart(t *testing.T) {
	for name, podsFirst := range map[string]bool{"it hears of the pods first": true, "it hears of the plugins first": false} {
		t.Run(name, func(t *testing.T) {
			m := &memory{}
			n := newNode(t, dgx, m.handler)
			up := n.must(spec{main: []v1.Container{container("main", shared, 50)}})
			record, _ := startOne(t, n, m, up, "main")
			gone := n.must(spec{main: []v1.Container{container("main", shared, 50)}})
			startOne(t, n, m, gone, "main")

			// One pod goes while the kubelet is away.
			n.kubelet.stop(t)
			n.delete(gone)
			if rejected := n.returnKubelet(podsFirst); len(rejected) != 0 {
				t.Fatalf("%d pods with running containers were not admitted again", len(rejected))
			}
			n.check(false)
			again, owners := startOne(t, n, m, up, "main")
			if diff := cmp.Diff([]slot.Owner{owner(up, "main", again)}, owners); diff != "" || again != record {
				t.Errorf("restarted with %s, was %s; owners (-want +got):\n%s", again, record, diff)
			}
			p := n.must(spec{main: []v1.Container{container("main", shared, 750)}})
			startOne(t, n, m, p, "main")
			n.check(true)
		})
	}
}

// When a node starts, nothing runs and the kubelet may hear of its pods before any plugin is there. It then refuses them, which is
// the kubelet's own; those that it admits go on with the slots that they had.
func TestNodeReboot(t *testing.T) {
	m := &memory{}
	n := newNode(t, dgx, m.handler)
	p := n.must(spec{main: []v1.Container{container("main", shared, 50)}})
	record, _ := startOne(t, n, m, p, "main")
	n.stopAgent()
	n.kubelet.stop(t)
	clear(p.up)
	n.startKubelet()
	n.startAgent()
	if err := n.kubelet.admit(p.Pod); err != nil {
		t.Fatal(err)
	}
	n.kubelet.ready.Store(true)
	if again, _ := startOne(t, n, m, p, "main"); again != record {
		t.Errorf("started with %s, was %s", again, record)
	}
	n.check(true)
}

func TestAgentRestart(t *testing.T) {
	m := &memory{}
	n := newNode(t, dgx, m.handler)
	up := n.must(spec{main: []v1.Container{container("main", shared, 50)}})
	record, _ := startOne(t, n, m, up, "main")
	admitted := n.must(spec{main: []v1.Container{container("main", shared, 50)}})

	n.stopAgent()
	n.awaitCounts(shared, 800, 0)
	if _, err := n.create(spec{main: []v1.Container{container("main", shared, 1)}}); err == nil {
		t.Error("a pod was admitted without an agent")
	}
	if _, err := n.start(admitted, "main"); err == nil {
		t.Error("a container was started without an agent")
	}
	n.startAgent()

	startOne(t, n, m, admitted, "main")
	if again, _ := startOne(t, n, m, up, "main"); again != record {
		t.Errorf("restarted with %s, was %s", again, record)
	}
	n.must(spec{main: []v1.Container{container("main", shared, 700)}})
	n.check(true)
}

func TestAgentsOverlap(t *testing.T) {
	m := &memory{}
	n := newNode(t, dgx, m.handler)
	up := n.must(spec{main: []v1.Container{container("main", shared, 50)}})
	record, _ := startOne(t, n, m, up, "main")
	old := n.agent
	n.startAgent()
	old.stop()
	// Not for a moment are there fewer.
	if c, a := n.kubelet.counts(deviceplugin.ResourceName(shared)); c != 800 || a != 800 {
		t.Errorf("%d of %d shares after the old agent ended; want 800 of 800", a, c)
	}
	if again, _ := startOne(t, n, m, up, "main"); again != record {
		t.Errorf("restarted with %s, was %s", again, record)
	}
	n.must(spec{main: []v1.Container{container("main", shared, 750)}})
	n.check(true)
}

func TestHealthReachesTheNode(t *testing.T) {
	m := &memory{}
	n := newNode(t, dgx, m.handler)
	p := n.must(spec{main: []v1.Container{container("main", whole, 8)}})
	startOne(t, n, m, p, "main")
	sick := offers(map[slot.Resource]int{shared: 800, whole: 8, mig: 7})
	for i := range 100 {
		sick[shared][shared.Slot(i)] = false
	}
	sick[whole][whole.Slot(3)] = false
	n.offers = sick
	n.agent.manager.Set(sick)
	n.awaitCounts(shared, 800, 700)
	n.awaitCounts(whole, 8, 7)
	n.awaitCounts(mig, 7, 7)
	if _, err := n.create(spec{main: []v1.Container{container("main", shared, 701)}}); err == nil {
		t.Error("unhealthy slots were given out")
	}
	// Who has it keeps it, through a restart too.
	startOne(t, n, m, p, "main")
	n.agent.manager.Set(dgx)
	n.awaitCounts(shared, 800, 800)
	n.awaitCounts(whole, 8, 8)
	n.offers = dgx
	n.must(spec{main: []v1.Container{container("main", shared, 800)}})
	n.check(true)
}

func TestMIGProfileDisappearsAndComesBack(t *testing.T) {
	m := &memory{}
	n := newNode(t, dgx, m.handler)
	p := n.must(spec{main: []v1.Container{container("main", mig, 2)}})
	record, _ := startOne(t, n, m, p, "main")
	for range 3 {
		n.agent.manager.Set(offers(map[slot.Resource]int{shared: 800, whole: 8}))
		n.awaitCounts(mig, 0, 0)
		if _, err := n.create(spec{main: []v1.Container{container("main", mig, 1)}}); err == nil {
			t.Error("an instance of a profile that is gone was given out")
		}
		n.agent.manager.Set(dgx)
		n.awaitCounts(mig, 7, 7)
		n.settle()
		if again, _ := startOne(t, n, m, p, "main"); again != record {
			t.Errorf("restarted with %s, was %s", again, record)
		}
	}
	if _, err := n.create(spec{main: []v1.Container{container("main", mig, 6)}}); err == nil {
		t.Error("instances that a pod holds were given out again")
	}
	n.must(spec{main: []v1.Container{container("main", mig, 5)}})
	n.check(true)
}

func TestPodsThatComeAndGoUnderOneName(t *testing.T) {
	m := &memory{}
	n := newNode(t, dgx, m.handler)
	records := map[string]bool{}
	for range 20 {
		p := n.must(spec{name: "pod-0", main: []v1.Container{container("main", shared, 800)}})
		record, owners := startOne(t, n, m, p, "main")
		if diff := cmp.Diff([]slot.Owner{owner(p, "main", record)}, owners); diff != "" {
			t.Errorf("owners (-want +got):\n%s", diff)
		}
		records[record] = true
		n.delete(p)
	}
	if len(records) != 20 {
		t.Errorf("%d records for 20 pods", len(records))
	}
}
