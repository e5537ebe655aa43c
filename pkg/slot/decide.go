package slot

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"weft.sh/weft/pkg/cluster"
	"weft.sh/weft/pkg/gpu"
)

// Errors of [Book.Decide]. What wraps one of them refuses the container and says, for people, why.
var (
	// ErrUnassigned: the pod has no assignment that could be believed, or none for this container. It never gets one.
	ErrUnassigned = errors.New("the scheduler weft has assigned no GPU to it")
	// ErrElsewhere: the assignment names a GPU that this node does not have.
	ErrElsewhere = errors.New("its assignment names a GPU that is not on this node")
	// ErrHeld: another pod holds what the assignment names, or the GPU is unhealthy. It may go away.
	ErrHeld = errors.New("its GPU cannot be given now")
)

// Decide is what a container gets for slots of a resource: the holder to bind the record to. inventory is the node's; the book
// must be reconciled, for whatever is bound in it is taken. A pod that holds GPUs already keeps them when they are unhealthy, or the
// node would no longer give them in this way.
func (b Book) Decide(node string, inventory cluster.Inventory, p Pod, container string, r Resource, slots int, now time.Time) (Holder, error) {
	h, err := b.holder(p, container, r, slots, now)
	if err != nil {
		return Holder{}, err
	}
	holds := b.Holds(p.UID)
	pod := cluster.NewPod(p.UID, p.Namespace+"/"+p.Name, p.Assignment)
	for _, u := range pod.Uses() {
		there := slices.ContainsFunc(inventory.Devices, func(d gpu.Device) bool { return d.ID == u.GPU })
		switch {
		case !there && holds:
			return Holder{}, fmt.Errorf("%w: GPU %s has vanished from %s, which has %s", ErrHeld, u.GPU, node, ids(inventory.Devices))
		case !there:
			return Holder{}, fmt.Errorf("%w: %s has no GPU %s, only %s", ErrElsewhere, node, u.GPU, ids(inventory.Devices))
		}
	}
	if holds {
		inventory = asHeld(inventory)
	}
	if err := cluster.NewNode(node, inventory, b.pods(p.UID)).CanGive(pod); err != nil {
		return Holder{}, fmt.Errorf("%w: %w", ErrHeld, err)
	}
	return h, nil
}

// holder is what the pod's assignment, taken for itself, makes of a container with so many slots. All errors wrap [ErrUnassigned].
func (b Book) holder(p Pod, container string, r Resource, slots int, now time.Time) (Holder, error) {
	if p.Err != nil {
		return Holder{}, fmt.Errorf("%w: %w", ErrUnassigned, p.Err)
	}
	text := p.Assignment.String()
	if before, ok := b.assignment(p.UID); ok && before != text {
		return Holder{}, fmt.Errorf("%w: its assignment was %q when it was given GPUs, and somebody made it %q", ErrUnassigned, before, text)
	}
	grants := grantsOf(p.Assignment, container, r)
	if len(grants) == 0 {
		return Holder{}, fmt.Errorf("%w: the assignment %q has nothing of this kind for container %q", ErrUnassigned, text, container)
	}
	if !worth(grants, slots) {
		return Holder{}, fmt.Errorf("%w: container %q has %d x %s, which is not what the assignment %q is worth",
			ErrUnassigned, container, slots, r, text)
	}
	return Holder{
		Namespace: p.Namespace, Pod: p.Name, UID: p.UID, Container: container, Grants: grants, Assignment: text, Bound: now,
	}, nil
}

// grantsOf is what the container has of the resource.
func grantsOf(a gpu.Assignment, container string, r Resource) []gpu.Grant {
	var out []gpu.Grant
	for _, c := range a.Containers {
		if c.Container != container {
			continue
		}
		for _, g := range c.Grants {
			if g.Kind() == r.Kind && (g.Instance == nil || g.Instance.Profile == r.Profile) {
				out = append(out, g)
			}
		}
	}
	return out
}

// worth reports whether the kubelet counts so many slots for grants of one resource: one for each, and for shares, which are all of
// one size, the size; a share of several GPUs counts once, for the container's limit says how much of each.
func worth(grants []gpu.Grant, slots int) bool {
	if grants[0].Kind() != gpu.Shared {
		return len(grants) == slots
	}
	return !slices.ContainsFunc(grants, func(g gpu.Grant) bool { return g.MilliGPU*SharesPerGPU != int64(slots)*gpu.WholeMilliGPU })
}

// pods are those that hold bound records, except one.
func (b Book) pods(except string) []cluster.Pod {
	var out []cluster.Pod
	seen := map[string]bool{except: true}
	for _, r := range b.Records {
		if r.Holder == nil || seen[r.Holder.UID] {
			continue
		}
		seen[r.Holder.UID] = true
		a, err := gpu.ParseAssignment(r.Holder.Assignment)
		if err != nil {
			continue // a book that was read or made by this package has none such
		}
		out = append(out, cluster.NewPod(r.Holder.UID, r.Holder.Namespace+"/"+r.Holder.Pod, a))
	}
	return out
}

// asHeld is the inventory as those see it who hold its devices already.
func asHeld(i cluster.Inventory) cluster.Inventory {
	devices := slices.Clone(i.Devices)
	for k := range devices {
		devices[k].Unhealthy, devices[k].WholeOnly, devices[k].SharedOnly = false, false, false
	}
	return cluster.NewInventory(i.Source, devices)
}

func ids(devices []gpu.Device) string {
	if len(devices) == 0 {
		return "none"
	}
	out := make([]string, len(devices))
	for i, d := range devices {
		out[i] = string(d.ID)
	}
	return strings.Join(out, ", ")
}
