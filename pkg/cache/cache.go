package cache

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"weft.sh/weft/pkg/cluster"
)

// ErrConflict is wrapped by the error of Assume when the node cannot give what is assumed.
var ErrConflict = errors.New("the GPUs are not free")

// Cache is the state of all nodes and of the pods that hold GPUs on them. Safe for concurrent use.
type Cache struct {
	mu    sync.Mutex
	nodes map[string]*cluster.Node
	pods  map[string]*holding // by pod UID
	// suspected are the pods with a deadline, apart so that Expire costs nothing while there are none.
	suspected map[string]time.Time
	// changed are the names of nodes that changed since a snapshot was last brought up to date, per snapshot.
	changed map[*cluster.Snapshot]map[string]struct{}
	freed   atomic.Uint64
}

// holding is one pod on one node.
type holding struct {
	node string
	// confirmed and planned are never both true.
	confirmed, planned bool
}

// New is an empty cache.
func New() *Cache {
	return &Cache{
		nodes:     map[string]*cluster.Node{},
		pods:      map[string]*holding{},
		suspected: map[string]time.Time{},
		changed:   map[*cluster.Snapshot]map[string]struct{}{},
	}
}

// SetInventory records what a node reports now, in place of what it reported before. Pods on GPUs that are gone stay, and
// hold them again should they return.
func (c *Cache) SetInventory(node string, inv cluster.Inventory) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.nodes[node]
	if n == nil && len(inv.Devices) == 0 && len(inv.Problems) == 0 {
		return // nothing to know
	}
	if n != nil && n.Inventory.Equal(inv) {
		return
	}
	var pods []cluster.Pod
	if n != nil {
		pods = n.Pods
	}
	c.freed.Add(1)
	c.set(cluster.NewNode(node, inv, pods))
}

// Freed counts the times that GPUs may have become free: pods let go of theirs, or a node reported others. It takes no lock.
func (c *Cache) Freed() uint64 { return c.freed.Load() }

// Assume records that a pod is about to hold GPUs of the node, in place of what it was assumed to hold before. It errs
// with ErrConflict, and changes nothing, when the node cannot give it that, or gives too much on the same GPUs already;
// and when the pod is confirmed already, for then the API server has decided.
func (c *Cache) Assume(node string, p cluster.Pod) error { return c.take(node, p, false) }

// Plan is Assume for a pod whose own turn has not come: what it holds stays when an attempt to bind it fails, so that the next
// attempt has the same. It errs as Assume does, and besides when the pod is suspected: it may be bound already.
func (c *Cache) Plan(node string, p cluster.Pod) error { return c.take(node, p, true) }

func (c *Cache) take(node string, p cluster.Pod, planned bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	h := c.pods[p.UID]
	if h != nil && h.confirmed {
		return fmt.Errorf("%w: pod %s is bound to node %s already", ErrConflict, p.Name, h.node)
	}
	if _, suspected := c.suspected[p.UID]; suspected && planned {
		return fmt.Errorf("%w: pod %s may be bound to node %s already", ErrConflict, p.Name, h.node)
	}
	n := c.nodes[node]
	if n == nil {
		return fmt.Errorf("%w: node %s reports no GPU", ErrConflict, node)
	}
	if err := n.CanGive(p); err != nil {
		return fmt.Errorf("%w: %w", ErrConflict, err)
	}
	if h != nil && h.node != node {
		c.drop(p.UID)
	}
	c.set(n.With(p))
	c.pods[p.UID] = &holding{node: node, planned: planned}
	delete(c.suspected, p.UID)
	return nil
}

// Confirm records that the API server shows the pod bound to the node with this holding, which wins over whatever was
// assumed. It reports whether that was news; repeating it changes nothing.
func (c *Cache) Confirm(node string, p cluster.Pod) (news bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if h := c.pods[p.UID]; h != nil {
		if h.node == node {
			if held, ok := c.nodes[node].Pod(p.UID); ok && held.Equal(p) {
				news, h.confirmed, h.planned = !h.confirmed, true, false
				delete(c.suspected, p.UID)
				return news
			}
		} else {
			c.drop(p.UID)
		}
	}
	n := c.nodes[node]
	if n == nil {
		n = cluster.NewNode(node, cluster.Inventory{}, nil)
	}
	c.set(n.With(p))
	c.pods[p.UID] = &holding{node: node, confirmed: true}
	delete(c.suspected, p.UID)
	return true
}

// Suspect records that nobody knows whether the assumed or planned pod was bound: it keeps what it holds until Confirm,
// Forget, or an Expire at or after the deadline. A pod that is neither is left alone.
func (c *Cache) Suspect(uid string, deadline time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if h := c.pods[uid]; h != nil && !h.confirmed {
		c.suspected[uid] = deadline
	}
}

// Suspected reports whether the pod is.
func (c *Cache) Suspected(uid string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, ok := c.suspected[uid]
	return ok
}

// Forget records that the pod holds nothing any more. Repeating it, or forgetting an unknown pod, changes nothing.
func (c *Cache) Forget(uid string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drop(uid)
}

// Release is Forget for a pod that was assumed and is not to be bound: it leaves confirmed pods alone, for those the API
// server shows bound, suspected ones, for those it may yet, and planned ones, which are tried again.
func (c *Cache) Release(uid string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, suspected := c.suspected[uid]
	if h := c.pods[uid]; h != nil && !h.confirmed && !h.planned && !suspected {
		c.drop(uid)
	}
}

// Cancel ends the plan for the pods: those that are planned are forgotten, but for suspected ones, which are as if they had
// been assumed. All others are left alone.
func (c *Cache) Cancel(uids ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, uid := range uids {
		h := c.pods[uid]
		if h == nil || !h.planned {
			continue
		}
		if _, suspected := c.suspected[uid]; suspected {
			h.planned = false
		} else {
			c.drop(uid)
		}
	}
}

// Holding is what the pod holds and where, and whether that is planned; ok is false when it holds nothing.
func (c *Cache) Holding(uid string) (node string, p cluster.Pod, planned, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	h := c.pods[uid]
	if h == nil {
		return "", cluster.Pod{}, false, false
	}
	p, ok = c.nodes[h.node].Pod(uid)
	return h.node, p, h.planned, ok
}

// Expire forgets every suspected pod whose deadline is not after now, and returns their UIDs, sorted. A planned one keeps
// what it holds and is suspected no longer.
func (c *Cache) Expire(now time.Time) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var expired []string
	for uid, deadline := range c.suspected {
		if !deadline.After(now) {
			expired = append(expired, uid)
		}
	}
	slices.Sort(expired)
	for _, uid := range expired {
		if c.pods[uid].planned {
			delete(c.suspected, uid)
		} else {
			c.drop(uid)
		}
	}
	return expired
}

// Snapshot brings a snapshot up to date; the first time it sees one it fills it. It costs as much as changed since, not
// as much as there is. The snapshot must be used by one goroutine at a time and be given to no other cache.
func (c *Cache) Snapshot(s *cluster.Snapshot) {
	c.mu.Lock()
	defer c.mu.Unlock()
	changed, known := c.changed[s]
	if !known {
		changed = map[string]struct{}{}
		c.changed[s] = changed
		for _, n := range c.nodes {
			s.Set(n)
		}
		return
	}
	for name := range changed {
		if n := c.nodes[name]; n != nil {
			s.Set(n)
		} else {
			s.Delete(name)
		}
	}
	clear(changed)
}

// Node is the node of that name as it is now, nil when it reports no GPU and no pod holds any there.
func (c *Cache) Node(name string) *cluster.Node {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.nodes[name]
}

// Nodes are all nodes as they are now, by name.
func (c *Cache) Nodes() []*cluster.Node {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.SortedFunc(maps.Values(c.nodes), func(a, b *cluster.Node) int { return cmp.Compare(a.Name, b.Name) })
}

// set puts a node in place of the one of its name. A node without GPUs and pods is not kept.
func (c *Cache) set(n *cluster.Node) {
	if len(n.Inventory.Devices) == 0 && len(n.Inventory.Problems) == 0 && len(n.Pods) == 0 {
		delete(c.nodes, n.Name)
	} else {
		c.nodes[n.Name] = n
	}
	for _, changed := range c.changed {
		changed[n.Name] = struct{}{}
	}
}

// drop removes a pod.
func (c *Cache) drop(uid string) {
	if h := c.pods[uid]; h != nil {
		delete(c.pods, uid)
		delete(c.suspected, uid)
		c.freed.Add(1)
		c.set(c.nodes[h.node].Without(uid))
	}
}
