package slot

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"weft.sh/weft/pkg/gpu"
)

// Claim is one container's hold on slots of one resource, as the kubelet tells it. The kubelet tells it in two places that know
// different things: its checkpoint has every container with the UID of its pod and what Allocate answered, but keeps pods that are
// over for a while; PodResources has the names of pods that are not over, without their init containers.
type Claim struct {
	// UID of the pod, empty from PodResources.
	UID string
	// Namespace and Pod are the pod's name, empty from the checkpoint.
	Namespace, Pod string
	Container      string
	Resource       Resource
	// Slots are sorted.
	Slots []string
	// Name is the CDI device that Allocate answered, empty from PodResources and for what another device plugin allocated.
	Name string
}

// Kubelet is what the kubelet says who holds what.
type Kubelet struct {
	// Checkpoint is nil when it could not be read; empty, not nil, when it has nothing.
	Checkpoint []Claim
	// Active is what PodResources lists, nil when it did not answer.
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

// Errors of [Book.Owners]. Both can go away by themselves.
var (
	// ErrNoOwner: the kubelet does not say which container holds the slots.
	ErrNoOwner = errors.New("the kubelet does not say which container holds these devices")
	// ErrForeign: another device plugin allocated them, so the container cannot be given anything by a CDI name.
	ErrForeign = errors.New("the container's devices were allocated by another device plugin; delete the pod and create it again")
)

// Owners is which containers hold exactly these slots. There are several when init containers of a pod had the slots that
// other containers of it have after them; the kubelet does not say which of them starts, so all of them are told.
func (b Book) Owners(r Resource, slots []string, k Kubelet) ([]Owner, error) {
	same := func(c Claim) bool { return c.Resource == r && slices.Equal(c.Slots, slots) }
	var active *Claim
	for i, c := range k.Active {
		if same(c) {
			if active != nil && (active.Namespace != c.Namespace || active.Pod != c.Pod) {
				return nil, fmt.Errorf("%w: PodResources names both %s/%s and %s/%s", ErrNoOwner, active.Namespace, active.Pod, c.Namespace, c.Pod)
			}
			active = &k.Active[i]
		}
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
		if active != nil {
			o.Namespace, o.Pod = active.Namespace, active.Pod
		}
		out = append(out, o)
	}
	switch {
	case len(out) > 0:
		return out, nil
	case foreign:
		return nil, ErrForeign
	case k.Checkpoint != nil || active == nil:
		return nil, ErrNoOwner
	}
	// Without the checkpoint it takes the book to tell the name: the record of these slots that was allocated last.
	var last Record
	for _, rec := range b.Records {
		if rec.Resource == r && slices.Equal(rec.Slots, slots) && !rec.Allocated.Before(last.Allocated) {
			last = rec
		}
	}
	if last.Name == "" {
		return nil, ErrForeign
	}
	return []Owner{{Name: last.Name, Namespace: active.Namespace, Pod: active.Pod, Container: active.Container}}, nil
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

// Reconcile releases the records that nobody holds any more: of pods that the API server does not have, or that are over, unless
// the kubelet still lists their slots as the pod's; and those never bound that the kubelet does not know after [Grace]. pods
// are those of the node that the API server has, by UID. It returns the book without them, and them.
func (b Book) Reconcile(k Kubelet, pods map[string]Pod, now time.Time) (kept Book, released []Record) {
	for _, r := range b.Records {
		if r.live(k, pods, now) {
			kept.Records = append(kept.Records, r)
		} else {
			released = append(released, r)
		}
	}
	return kept, released
}

func (r Record) live(k Kubelet, pods map[string]Pod, now time.Time) bool {
	if r.Holder != nil {
		if p, ok := pods[r.Holder.UID]; ok {
			return !p.Over
		}
		// A pod that was deleted without waiting for its containers. When PodResources does not answer, wait until it does.
		return k.Active == nil || slices.ContainsFunc(k.Active, func(c Claim) bool {
			return c.Resource == r.Resource && c.Namespace == r.Holder.Namespace && c.Pod == r.Holder.Pod &&
				c.Container == r.Holder.Container && slices.Equal(c.Slots, r.Slots)
		})
	}
	return k.Checkpoint == nil || now.Sub(r.Allocated) < Grace ||
		slices.ContainsFunc(k.Checkpoint, func(c Claim) bool { return c.Name == r.Name })
}

// Recover adds what the kubelet's checkpoint has and the book has not, for pods that are not over and whose assignment is
// known: after the book was lost, or written by another version. The containers count as bound since now, for they may be
// running.
func (b Book) Recover(k Kubelet, pods map[string]Pod, now time.Time) Book {
	for _, c := range k.Checkpoint {
		if _, ok := b.Find(c.Name); ok || c.Name == "" {
			continue
		}
		p, ok := pods[c.UID]
		if !ok || p.Over || p.Err != nil {
			continue
		}
		grants := grantsOf(p.Assignment, c.Container, c.Resource)
		if len(grants) == 0 {
			continue
		}
		b = b.With(Record{Name: c.Name, Resource: c.Resource, Slots: c.Slots, Allocated: now, Holder: &Holder{
			Namespace: p.Namespace, Pod: p.Name, UID: p.UID, Container: c.Container,
			Grants: grants, Assignment: p.Assignment.String(), Bound: now,
		}})
	}
	return b
}
