package cache

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"weft.sh/weft/pkg/cluster"
	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/mig"
)

var start = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

func plain(index int) gpu.Device {
	return gpu.Device{ID: gpu.ID(fmt.Sprintf("g%d", index)), Index: index, Product: "T", MemoryMiB: 100}
}

func partitioned(index int) gpu.Device {
	table, _ := mig.TableByName("A30-24GB")
	d := plain(index)
	d.MIG, d.Instances = true, table.Instances()
	return d
}

// inventories are what a node reports at one time or another.
func inventories() []cluster.Inventory {
	sick := plain(1)
	sick.Unhealthy = true
	return []cluster.Inventory{
		cluster.NewInventory(cluster.SourceSlices, []gpu.Device{plain(0), plain(1), partitioned(2)}),
		cluster.NewInventory(cluster.SourceSlices, []gpu.Device{plain(0), plain(1), partitioned(2)}), // the same, made again
		cluster.NewInventory(cluster.SourceSlices, []gpu.Device{plain(0)}),
		cluster.NewInventory(cluster.SourceSlices, []gpu.Device{partitioned(0), sick}),
		cluster.NewInventory(cluster.SourceSlices, nil, "incomplete"),
		cluster.NewInventory(cluster.SourceSlices, nil),
		{},
	}
}

func randomPod(r *rand.Rand) cluster.Pod {
	uid := fmt.Sprintf("pod-%d", r.IntN(10))
	switch r.IntN(8) {
	case 0:
		return cluster.NewUnplacedPod(uid, "ns/"+uid, gpu.Request{Containers: []gpu.ContainerRequest{
			{Name: "c", Asks: []gpu.Ask{{Kind: gpu.Whole, Count: 1 + r.IntN(2)}}},
		}})
	case 1:
		return cluster.NewPod(uid, "ns/"+uid, gpu.Assignment{})
	}
	g := gpu.Grant{GPU: gpu.ID(fmt.Sprintf("g%d", r.IntN(4)))}
	switch {
	case g.GPU == "g2" || r.IntN(6) == 0:
		g.Instance = &gpu.Instance{Profile: "1g.6gb", Start: r.IntN(4), Size: 1}
	case r.IntN(3) > 0:
		g.MilliGPU, g.MemoryMiB = int64(100*(1+r.IntN(6))), int64(10*(1+r.IntN(6)))
	}
	return cluster.NewPod(uid, "ns/"+uid, gpu.Assignment{Containers: []gpu.ContainerGrants{{Container: "c", Grants: []gpu.Grant{g}}}})
}

// model is what the cache should hold, as plainly as can be.
type model struct {
	inventories map[string]cluster.Inventory
	pods        map[string]modelPod
}

type modelPod struct {
	node      string
	pod       cluster.Pod
	confirmed bool
	planned   bool
	deadline  time.Time // zero unless suspected
}

// nodes computes all nodes from scratch.
func (m *model) nodes() []*cluster.Node {
	held := map[string][]cluster.Pod{}
	for _, p := range m.pods {
		held[p.node] = append(held[p.node], p.pod)
	}
	var out []*cluster.Node
	for _, name := range []string{"a", "b", "c"} {
		inv := m.inventories[name]
		if len(inv.Devices)+len(inv.Problems)+len(held[name]) > 0 {
			out = append(out, cluster.NewNode(name, inv, held[name]))
		}
	}
	return out
}

func (m *model) node(name string) *cluster.Node {
	for _, n := range m.nodes() {
		if n.Name == name {
			return n
		}
	}
	return nil
}

func show(nodes []*cluster.Node) string {
	var b strings.Builder
	for _, n := range nodes {
		fmt.Fprintf(&b, "%s %x %v %v %q %d\n", n.Name, n.Signature, n.Withheld, n.Inventory.Devices, n.Inventory.Problems, n.IdleGPUs)
		for _, p := range n.Pods {
			fmt.Fprintf(&b, "  %s %s %q %v\n", p.UID, p.Name, p.Assignment, p.Unplaced)
		}
	}
	return b.String()
}

// check holds the cache against the model and against its own books.
func (m *model) check(t *testing.T, c *Cache) {
	t.Helper()
	if diff := cmp.Diff(show(m.nodes()), show(c.Nodes())); diff != "" {
		t.Fatalf("not what is computed from scratch (-want +got)\n%s", diff)
	}
	for name, n := range c.nodes {
		if c.Node(name) != n || n.Name != name {
			t.Fatalf("node %s is %v", name, n)
		}
		for _, p := range n.Pods {
			if h := c.pods[p.UID]; h == nil || h.node != name {
				t.Fatalf("pod %s is on node %s, in the books it is %+v", p.UID, name, h)
			}
		}
	}
	for _, uid := range slices.Concat(slices.Collect(maps.Keys(c.pods)), slices.Collect(maps.Keys(m.pods)), slices.Collect(maps.Keys(c.suspected))) {
		h, want := c.pods[uid], m.pods[uid]
		deadline, suspected := c.suspected[uid]
		if h == nil || h.node != want.node || h.confirmed != want.confirmed || h.planned != want.planned || !deadline.Equal(want.deadline) || suspected == want.deadline.IsZero() {
			t.Fatalf("pod %s is %+v, suspected %t until %v; want %+v", uid, h, suspected, deadline, want)
		}
		if c.Suspected(uid) != suspected {
			t.Fatalf("pod %s is suspected: %t", uid, !suspected)
		}
		node, held, planned, ok := c.Holding(uid)
		if !ok || node != want.node || planned != want.planned || !held.Equal(want.pod) {
			t.Fatalf("pod %s holds %q on %s, planned: %t; want %+v", uid, held.Assignment, node, planned, want)
		}
	}
}

func TestRandomEventsLeaveWhatIsComputedFromScratch(t *testing.T) {
	assumed, planned := 0, 0
	for seed := range uint64(12) {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 5))
			c := New()
			m := &model{map[string]cluster.Inventory{}, map[string]modelPod{}}
			now := start
			snapshots := []*cluster.Snapshot{cluster.NewSnapshot(), cluster.NewSnapshot(), cluster.NewSnapshot()}
			for range 300 {
				node := []string{"a", "b", "c"}[r.IntN(3)]
				p := randomPod(r)
				uid := p.UID
				had, there := m.pods[uid]
				switch r.IntN(16) {
				case 0, 1:
					invs := inventories()
					inv := invs[min(r.IntN(2*len(invs)), len(invs)-1)*r.IntN(2)] // mostly the first
					c.SetInventory(node, inv)
					m.inventories[node] = inv
				case 2, 3, 4, 5:
					err := c.Assume(node, p)
					n := m.node(node)
					if want := there && had.confirmed || n == nil || n.CanGive(p) != nil; want != (err != nil) || err != nil && !errors.Is(err, ErrConflict) {
						t.Fatalf("assume %s %q on %s: %v, want an error: %t", uid, p.Assignment, node, err, want)
					}
					if err == nil {
						assumed++
						m.pods[uid] = modelPod{node: node, pod: p}
					}
				case 6, 7:
					if there && r.IntN(2) == 0 {
						node, p = had.node, had.pod // as decided
					}
					for range 1 + r.IntN(2) {
						c.Confirm(node, p)
					}
					m.pods[uid] = modelPod{node: node, pod: p, confirmed: true}
				case 8:
					deadline := now.Add(time.Duration(r.IntN(10)) * time.Second)
					c.Suspect(uid, deadline)
					if there && !had.confirmed {
						had.deadline = deadline
						m.pods[uid] = had
					}
				case 9:
					c.Forget(uid)
					delete(m.pods, uid)
				case 10:
					c.Release(uid)
					if there && !had.confirmed && !had.planned && had.deadline.IsZero() {
						delete(m.pods, uid)
					}
				case 12, 13, 14:
					err := c.Plan(node, p)
					n := m.node(node)
					want := there && (had.confirmed || !had.deadline.IsZero()) || n == nil || n.CanGive(p) != nil
					if want != (err != nil) || err != nil && !errors.Is(err, ErrConflict) {
						t.Fatalf("plan %s %q on %s: %v, want an error: %t", uid, p.Assignment, node, err, want)
					}
					if err == nil {
						planned++
						m.pods[uid] = modelPod{node: node, pod: p, planned: true}
					}
				case 15:
					other := randomPod(r).UID
					c.Cancel(uid, other)
					for _, uid := range []string{uid, other} {
						if had := m.pods[uid]; had.planned && had.deadline.IsZero() {
							delete(m.pods, uid)
						} else if had.planned {
							had.planned = false
							m.pods[uid] = had
						}
					}
				case 11:
					now = now.Add(time.Duration(r.IntN(5)) * time.Second)
					var want []string
					for _, uid := range slices.Sorted(maps.Keys(m.pods)) {
						if had := m.pods[uid]; !had.deadline.IsZero() && !had.deadline.After(now) {
							want = append(want, uid)
							delete(m.pods, uid)
							if had.planned {
								had.deadline = time.Time{}
								m.pods[uid] = had
							}
						}
					}
					if diff := cmp.Diff(want, c.Expire(now)); diff != "" {
						t.Fatalf("expired (-want +got)\n%s", diff)
					}
				}
				m.check(t, c)
				if r.IntN(3) == 0 {
					s := snapshots[r.IntN(len(snapshots))]
					c.Snapshot(s)
					if diff := cmp.Diff(show(m.nodes()), show(s.Sorted())); diff != "" {
						t.Fatalf("the snapshot is not what is computed from scratch (-want +got)\n%s", diff)
					}
				}
			}
		})
	}
	if assumed < 100 || planned < 100 {
		t.Errorf("only %d pods were assumed and %d planned: the test says little", assumed, planned)
	}
}

// A snapshot shares nothing with the cache that changes later.
func TestASnapshotStaysAsItIsUntilItIsBroughtUpToDate(t *testing.T) {
	c := New()
	c.SetInventory("a", inventories()[0])
	s := cluster.NewSnapshot()
	c.Snapshot(s)
	before := show(s.Sorted())
	pod := cluster.NewPod("p", "ns/p", gpu.Assignment{Containers: []gpu.ContainerGrants{{Container: "c", Grants: []gpu.Grant{{GPU: "g0"}}}}})
	if err := c.Assume("a", pod); err != nil {
		t.Fatal(err)
	}
	c.SetInventory("b", inventories()[0])
	if diff := cmp.Diff(before, show(s.Sorted())); diff != "" {
		t.Errorf("the snapshot changed by itself (-want +got)\n%s", diff)
	}
	c.Snapshot(s)
	if diff := cmp.Diff(show(c.Nodes()), show(s.Sorted())); diff != "" || s.Len() != 2 {
		t.Errorf("-want +got\n%s", diff)
	}
	// Nothing changed, so nothing is written: the nodes are the same ones.
	a := s.Node("a")
	c.Snapshot(s)
	c.Confirm("a", pod)
	c.SetInventory("a", inventories()[1])
	c.Snapshot(s)
	if s.Node("a") != a {
		t.Error("a node was made anew though nothing about it changed")
	}
}

func TestManyGoroutinesAtOnce(t *testing.T) {
	c := New()
	var wg sync.WaitGroup
	for worker := range uint64(6) {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(worker, 9))
			s := cluster.NewSnapshot()
			for range 200 {
				p, node := randomPod(r), []string{"a", "b"}[r.IntN(2)]
				switch r.IntN(10) {
				case 8:
					_ = c.Plan(node, p)
				case 9:
					c.Cancel(p.UID)
					c.Holding(p.UID)
				case 0:
					c.SetInventory(node, inventories()[r.IntN(3)])
				case 1, 2:
					_ = c.Assume(node, p)
				case 3:
					c.Confirm(node, p)
				case 4:
					c.Suspect(p.UID, start)
					c.Expire(start)
				case 5:
					c.Forget(p.UID)
				case 6:
					c.Release(p.UID)
				case 7:
					c.Snapshot(s)
					_ = show(s.Sorted()) + show(c.Nodes())
				}
			}
		})
	}
	wg.Wait()
	s := cluster.NewSnapshot()
	c.Snapshot(s)
	if diff := cmp.Diff(show(c.Nodes()), show(s.Sorted())); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

func TestExpiredAreSorted(t *testing.T) {
	c := New()
	c.SetInventory("a", inventories()[0])
	var want []string
	for i := range 9 {
		uid := fmt.Sprintf("pod-%d", 9-i)
		p := cluster.NewPod(uid, "ns/"+uid, gpu.Assignment{Containers: []gpu.ContainerGrants{{Container: "c", Grants: []gpu.Grant{{GPU: "g0", MilliGPU: 100, MemoryMiB: 1}}}}})
		if err := c.Assume("a", p); err != nil {
			t.Fatal(err)
		}
		c.Suspect(uid, start.Add(time.Duration(i%3)*time.Second))
		want = append(want, uid)
	}
	slices.Sort(want)
	if diff := cmp.Diff(want, c.Expire(start.Add(2*time.Second))); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

// The cache keeps one short list for each snapshot that it was ever given, and nothing of nodes and pods that are gone.
func TestNothingIsKeptOfWhatIsGone(t *testing.T) {
	c := New()
	s := cluster.NewSnapshot()
	for i := range 100 {
		name := fmt.Sprintf("node-%d", i)
		c.SetInventory(name, inventories()[0])
		p := cluster.NewPod(name, "ns/"+name, gpu.Assignment{Containers: []gpu.ContainerGrants{{Container: "c", Grants: []gpu.Grant{{GPU: "g0"}}}}})
		if err := c.Assume(name, p); err != nil {
			t.Fatal(err)
		}
		c.Suspect(name, start)
		c.Snapshot(s)
		c.SetInventory(name, cluster.Inventory{})
		c.Expire(start)
	}
	c.Snapshot(s)
	if len(c.nodes)+len(c.pods)+len(c.suspected)+s.Len() != 0 || len(c.changed) != 1 || len(c.changed[s]) != 0 {
		t.Errorf("%d nodes, %d pods, %d suspected, %d in the snapshot, %d changes of %d snapshots are kept",
			len(c.nodes), len(c.pods), len(c.suspected), s.Len(), len(c.changed[s]), len(c.changed))
	}
}
