package cluster

import (
	"maps"
	"slices"
)

// Snapshot is the nodes at one moment, as one scheduling cycle sees them. It is not safe for writing while it is read.
type Snapshot struct {
	nodes map[string]*Node
}

// NewSnapshot is a snapshot of the nodes.
func NewSnapshot(nodes ...*Node) *Snapshot {
	s := &Snapshot{nodes: make(map[string]*Node, len(nodes))}
	for _, n := range nodes {
		s.nodes[n.Name] = n
	}
	return s
}

// Node is the node of that name, nil when there is none: a node that never reported a GPU and has no pod with one.
func (s *Snapshot) Node(name string) *Node { return s.nodes[name] }

// Set puts the node in place of the one of its name.
func (s *Snapshot) Set(n *Node) { s.nodes[n.Name] = n }

// Delete removes the node of that name, if any.
func (s *Snapshot) Delete(name string) { delete(s.nodes, name) }

// Len is the number of nodes.
func (s *Snapshot) Len() int { return len(s.nodes) }

// Sorted is all nodes by name.
func (s *Snapshot) Sorted() []*Node {
	out := make([]*Node, 0, len(s.nodes))
	for _, name := range slices.Sorted(maps.Keys(s.nodes)) {
		out = append(out, s.nodes[name])
	}
	return out
}
