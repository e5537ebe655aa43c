package gang

import (
	"cmp"
	"slices"
	"time"

	"weft.sh/weft/pkg/cluster"
)

// Reservation keeps the places of a gang that waits: from the start found by [Start], from what [Drain] chose, or while the
// victims of [Preempt] leave. A value; nothing in it changes.
//
// What is kept binds every pod that is not exempt: it is placed as if the members of the gang were on their nodes already. Then
// whatever starts meanwhile leaves the gang's GPUs alone or has ended by its start, so that it starts no later than it would have,
// as long as no pod runs longer than it says.
type Reservation struct {
	Gang     Key
	Priority int32
	// Start is when the gang is expected to start; zero where it is not known. Then no pod is exempt for ending before it.
	Start time.Time
	// Expires is when the reservation ends by itself; zero for never.
	Expires time.Time
	// Shares are what is kept of each node, by name.
	Shares []Share
}

// Share is what a reservation keeps of one node.
type Share struct {
	Node string
	// Pods are the members that are to be placed there, with the GPUs that they are to have.
	Pods []cluster.Pod
	// Asks is what they take together of each of [Problem.Resources].
	Asks []int64
}

// NewReservation keeps what the plan of the problem takes for as many members, the first ones, as the gang needs to start.
// Members above its minimum take what is left then.
func NewReservation(p *Problem, res *Result, priority int32, start, expires time.Time) Reservation {
	r := Reservation{Gang: p.Gang, Priority: priority, Start: start, Expires: expires}
	at := map[int]int{}
	need := max(0, p.Min-placedMembers(p))
	for _, pl := range res.Placements[:min(need, len(res.Placements))] {
		k, ok := at[pl.Node]
		if !ok {
			k = len(r.Shares)
			at[pl.Node] = k
			r.Shares = append(r.Shares, Share{Node: p.Nodes[pl.Node].Name, Asks: make([]int64, len(p.Resources))})
		}
		m := &p.Members[pl.Member]
		r.Shares[k].Pods = append(r.Shares[k].Pods, cluster.NewPod(m.UID, m.Name, pl.Assignment))
		for i, ask := range p.Shapes[m.Shape].Ask {
			r.Shares[k].Asks[i] += ask
		}
	}
	slices.SortFunc(r.Shares, func(a, b Share) int { return cmp.Compare(a.Node, b.Node) })
	return r
}

// Exempt reports whether the reservation does not bind a pod: a member of the gang, a pod of higher priority, or one that ends
// at or before the gang's start. The zero Key is of a pod in no gang, the zero end of one that does not say when it would end if
// it started now.
func (r *Reservation) Exempt(gang Key, priority int32, end time.Time) bool {
	return gang == r.Gang && gang != Key{} || priority > r.Priority || !r.Start.IsZero() && !end.IsZero() && !end.After(r.Start)
}

// Expired reports whether the reservation has ended.
func (r *Reservation) Expired(now time.Time) bool {
	return !r.Expires.IsZero() && !now.Before(r.Expires)
}

// share is what is kept of the node, nil for nothing.
func (r *Reservation) share(node string) *Share {
	k, ok := slices.BinarySearchFunc(r.Shares, node, func(s Share, node string) int { return cmp.Compare(s.Node, node) })
	if !ok {
		return nil
	}
	return &r.Shares[k]
}

// On is the node as a pod sees it that is not exempt; the node itself where nothing of it is kept. Its GPUs may be given out more
// than once in it: to the pods that hold them now, and to the gang that takes them over. GPUs, and MIG slices, that the gang is
// not to have are as they were. Of a GPU that the gang is to have a share of, that share of what is free now is gone, although a
// pod that leaves before the start might give back enough: then less is given than could be, never more.
func (r *Reservation) On(node *cluster.Node) *cluster.Node {
	if node == nil {
		return nil
	}
	s := r.share(node.Name)
	if s == nil {
		return node
	}
	for _, p := range s.Pods {
		if len(p.Uses()) > 0 {
			node = node.With(p)
		}
	}
	return node
}

// Left is what a pod that is not exempt may take of the node's resources, in the order of [Problem.Resources], where free is
// what is left of them now: without the gang's part. It may be negative. As with shares of GPUs, what pods give back before the
// start is not counted.
func (r *Reservation) Left(node string, free []int64) []int64 {
	s := r.share(node)
	if s == nil {
		return free
	}
	out := slices.Clone(free)
	for i := range min(len(out), len(s.Asks)) {
		out[i] -= s.Asks[i]
	}
	return out
}
