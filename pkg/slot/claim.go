package slot

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"weft.sh/weft/pkg/gpu"
)

// Claim is one container's hold on slots of one resource, as the kubelet tells it. The kubelet tells it in two places that know
// different things: its checkpoint has every container with the UID of its pod and what Allocate answered, but keeps pods that are
// over until it is written next; PodResources has the names of pods that are not over, without their init containers.
type Claim struct {
	// UID of the pod, empty from PodResources.
	UID string
	// Namespace and Pod are the pod's name, empty from the checkpoint.
	Namespace, Pod string
	Container      string
	Resource       Resource
	// Slots are sorted, each once.
	Slots []string
	// Name is the CDI device that Allocate answered, empty from PodResources and for what another device plugin allocated.
	Name string
}

// Kubelet is what the kubelet says who holds what.
type Kubelet struct {
	// Checkpoint is nil when it could not be read; empty, not nil, when it has nothing. The kubelet writes it after every Allocate and
	// before it starts the container, so whoever starts is in it, unless an older writing overtook that one: the package comment has
	// more. [Book.Owners] answers [ErrNoOwner] then, for the kubelet to be asked again.
	Checkpoint []Claim
	// Active is what PodResources lists, nil when it did not answer. It is read at another moment than the checkpoint, so that each can
	// have pods that the other has not. A kubelet that has just started lists nothing until the API server has told it its pods.
	Active []Claim
}

// Owner is a container and the record that it holds.
type Owner struct {
	// Name of the record.
	Name string
	// UID is empty when only PodResources knows the pod; Namespace and Pod are empty when only the checkpoint does.
	UID            string
	Namespace, Pod string
	Container      string
}

// In is the owner's pod, if it is among the pods, which are by UID. Where the kubelet says both UID and name, it must be the pod of
// both: read at two moments, they can be of two. Where it says the name alone, it is the one pod of that name that is not over; it
// can be another one that was created since, if the pods are not those of this moment.
func (o Owner) In(pods map[string]Pod) (Pod, bool) {
	if o.UID != "" {
		p, ok := pods[o.UID]
		return p, ok && (o.Pod == "" || o.Namespace == p.Namespace && o.Pod == p.Name)
	}
	var found Pod
	n := 0
	for _, p := range pods {
		if p.Namespace == o.Namespace && p.Name == o.Pod && !p.Over {
			found = p
			n++
		}
	}
	return found, n == 1
}

// Errors of [Book.Owners].
var (
	// ErrNoOwner: the kubelet does not say which container holds the slots. It can go away by itself.
	ErrNoOwner = errors.New("the kubelet does not say which container holds these devices")
	// ErrForeign: another device plugin allocated them, so the container cannot be given anything by a CDI name. It stays so.
	ErrForeign = errors.New("the container's devices were allocated by another device plugin; delete the pod and create it again")
)

// Owners is which containers hold exactly these slots: containers of one pod. There are several when the kubelet gave the slots of an
// init container to another container of the pod; it does not say which of them starts, so all of them are told. An init container
// whose slots were given on only in part, or with others added, is found by its own: every container starts with all its slots.
func (b Book) Owners(r Resource, slots []string, k Kubelet) ([]Owner, error) {
	same := func(c Claim) bool { return c.Resource == r && slices.Equal(c.Slots, slots) }
	var active []Claim
	for _, c := range k.Active {
		if same(c) {
			active = append(active, c)
		}
	}
	onePod := len(active) > 0 && !slices.ContainsFunc(active, func(c Claim) bool {
		return c.Namespace != active[0].Namespace || c.Pod != active[0].Pod
	})
	if k.Checkpoint == nil {
		if !onePod {
			return nil, fmt.Errorf("%w: its checkpoint cannot be read, and PodResources names %d of them", ErrNoOwner, len(active))
		}
		return b.ownersByName(r, slots, active)
	}
	var out []Owner
	foreign := false
	for _, c := range k.Checkpoint {
		switch {
		case !same(c):
			continue
		case c.Name == "":
			foreign = true
			continue
		case len(out) > 0 && out[0].UID != c.UID:
			return nil, fmt.Errorf("%w: its checkpoint names both pod %s and pod %s", ErrNoOwner, out[0].UID, c.UID)
		}
		o := Owner{Name: c.Name, UID: c.UID, Container: c.Container}
		if onePod {
			o.Namespace, o.Pod = active[0].Namespace, active[0].Pod
		}
		out = append(out, o)
	}
	switch {
	case len(out) > 0:
		slices.SortFunc(out, func(a, b Owner) int { return cmp.Compare(a.Name, b.Name) })
		return out, nil
	case foreign:
		return nil, ErrForeign
	}
	return nil, fmt.Errorf("%w: its checkpoint does not have them", ErrNoOwner)
}

// ownersByName is Owners without the checkpoint, which alone has the names of the records: for each container that PodResources
// lists, the record that was allocated last of those that can be its.
func (b Book) ownersByName(r Resource, slots []string, active []Claim) ([]Owner, error) {
	var out []Owner
	for _, c := range active {
		var last Record
		tie := false
		for _, rec := range b.Records {
			h := rec.Holder
			switch {
			case rec.Resource != r || !slices.Equal(rec.Slots, slots),
				h != nil && (h.Namespace != c.Namespace || h.Pod != c.Pod || h.Container != c.Container):
			case last.Name == "" || rec.Allocated.After(last.Allocated):
				last, tie = rec, false
			case rec.Allocated.Equal(last.Allocated):
				tie = true
			}
		}
		if last.Name == "" || tie {
			return nil, fmt.Errorf("%w: its checkpoint cannot be read, and the agent's own does not say either", ErrNoOwner)
		}
		o := Owner{Name: last.Name, Namespace: c.Namespace, Pod: c.Pod, Container: c.Container}
		if last.Holder != nil {
			o.UID = last.Holder.UID
		}
		out = append(out, o)
	}
	return out, nil
}

// Pod is a pod of the node as the API server has it.
type Pod struct {
	UID, Namespace, Name string
	// Over says that all its containers have ended for good.
	Over bool
	// Assignment is what the scheduler assigned to it; valid only where Err is nil.
	Assignment gpu.Assignment
	// Err says why its assignment is not known.
	Err error
}

// Reconcile releases the records that nobody holds any more. pods are those of the node that the API server has, by UID, all of
// them. It returns the book without the records, and them.
//
// A record that is bound is held while the API server has its pod, and the pod is not over. Where the kubelet allocated anew for the
// same container, for it had lost its checkpoint, the older record goes once the newer is bound. When the API server no longer has
// the pod, because it was deleted without waiting for its containers, the record goes as soon as the kubelet's checkpoint is without
// it; and where that has not been written since, when PodResources has not listed it for [Grace]: a kubelet that starts lists
// nothing at first, and a list from the API server can be old. The kubelet itself frees the slots of such a pod before the containers
// have ended (kubernetes/kubernetes#104824); whoever knows that they run keeps the pod among the pods.
//
// A record that was never bound is held while the kubelet's checkpoint names a pod for it that the API server has and that is not over,
// and for Grace in any case.
func (b Book) Reconcile(k Kubelet, pods map[string]Pod, now time.Time) (kept Book, released []Record) {
	claims := map[string]Claim{}
	for _, c := range k.Checkpoint {
		if c.Name != "" {
			claims[c.Name] = c
		}
	}
	for _, r := range b.Records {
		held := false
		if r.Holder == nil {
			r, held = r.reconcileAllocated(k, claims, pods, now)
		} else {
			r, held = b.reconcileBound(r, k, claims, pods, now)
		}
		if held {
			kept.Records = append(kept.Records, r)
		} else {
			released = append(released, r)
		}
	}
	return kept, released
}

func (r Record) reconcileAllocated(k Kubelet, claims map[string]Claim, pods map[string]Pod, now time.Time) (Record, bool) {
	if r.Allocated.After(now) { // the clock was set back
		r.Allocated = now
	}
	claim, claimed := claims[r.Name]
	pod, known := pods[claim.UID]
	switch {
	case claimed && known:
		return r, !pod.Over
	case now.Sub(r.Allocated) < Grace:
		return r, true
	}
	return r, k.Checkpoint == nil
}

func (b Book) reconcileBound(r Record, k Kubelet, claims map[string]Claim, pods map[string]Pod, now time.Time) (Record, bool) {
	_, claimed := claims[r.Name]
	claimed = claimed || k.Checkpoint == nil
	if p, ok := pods[r.Holder.UID]; ok {
		r.Missing = time.Time{}
		return r, !p.Over && (claimed || !b.replaced(r, claims))
	}
	listed := k.Active == nil || slices.ContainsFunc(k.Active, func(c Claim) bool {
		return c.Resource == r.Resource && c.Namespace == r.Holder.Namespace && c.Pod == r.Holder.Pod &&
			c.Container == r.Holder.Container && slices.Equal(c.Slots, r.Slots)
	})
	switch {
	case !claimed:
		return r, false
	case listed:
		r.Missing = time.Time{}
		return r, true
	case r.Missing.IsZero() || r.Missing.After(now):
		r.Missing = now
	}
	return r, now.Sub(r.Missing) < Grace
}

// replaced reports whether the container of a bound record is bound by another one of the resource too, which the kubelet knows.
func (b Book) replaced(r Record, claims map[string]Claim) bool {
	return slices.ContainsFunc(b.Records, func(o Record) bool {
		_, claimed := claims[o.Name]
		return claimed && o.Name != r.Name && o.Holder != nil && o.Resource == r.Resource &&
			o.Holder.UID == r.Holder.UID && o.Holder.Container == r.Holder.Container
	})
}

// Recover adds what the kubelet's checkpoint has and the book has not, for pods that are known and not over: after the book was
// lost, or written by another version. Containers with an assignment count as bound since now, for they may be running; what they
// hold is then taken, also where two pods' assignments contradict each other: neither starts a container until the other is gone, for
// it is not known which of them has the GPU. The others count as allocated now.
func (b Book) Recover(k Kubelet, pods map[string]Pod, now time.Time) Book {
	for _, c := range k.Checkpoint {
		p, ok := pods[c.UID]
		if _, known := b.Find(c.Name); known || !ok || p.Over {
			continue
		}
		r := Record{Name: c.Name, Resource: c.Resource, Slots: c.Slots, Allocated: now}
		if r.validate() != nil {
			continue // another device plugin's, or nothing that this one can have answered
		}
		if h, err := b.holder(p, c.Container, c.Resource, len(c.Slots), now); err == nil {
			r.Holder = &h
		}
		b = b.With(r)
	}
	return b
}
