package metering

import (
	"cmp"
	"slices"
	"time"

	"weft.sh/weft/pkg/cluster"
	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/mig"
	"weft.sh/weft/pkg/slot"
)

// key is what makes a hold one: a container of a pod, and what it holds. A GPU is not held in two ways at once.
type key struct {
	uid, container string
	gpu            gpu.ID
	// instance is the zero value unless a MIG instance is held.
	instance gpu.Instance
}

// hold is what one container holds of one GPU, from when on.
type hold struct {
	key
	namespace, pod string
	kind           gpu.Kind
	// memoryMiB of a share; 0 otherwise, for the GPU's is not the book's to know.
	memoryMiB int64
	// steps are one or more, by time. Each holds until the next, the last until to.
	steps []step
	// to is when the hold ended, zero while it lasts.
	to time.Time
}

// step says how much is held from a moment on.
type step struct {
	from     time.Time
	milliGPU int64
}

func (h hold) from() time.Time { return h.steps[0].from }

// milliGPU is what is held now, or was held last.
func (h hold) milliGPU() int64 { return h.steps[len(h.steps)-1].milliGPU }

// total is milliGPU x milliseconds until now. A clock that was set back makes no negative amounts.
func (h hold) total(now time.Time) int64 {
	if !h.to.IsZero() && h.to.Before(now) {
		now = h.to
	}
	var sum int64
	for i, s := range h.steps {
		end := now
		if i+1 < len(h.steps) && h.steps[i+1].from.Before(now) {
			end = h.steps[i+1].from
		}
		sum += s.milliGPU * max(0, end.Sub(s.from).Milliseconds())
	}
	return sum
}

// give lets the hold have less from a moment on, which is not before the last step. When nothing is left it ends.
func (h *hold) give(at time.Time, milliGPU int64) {
	last := &h.steps[len(h.steps)-1]
	switch left := last.milliGPU - milliGPU; {
	case left == 0:
		h.to = at
	case last.from.Equal(at):
		last.milliGPU = left
	default:
		h.steps = append(h.steps, step{at, left})
	}
}

// holdsOf is what the book says, sorted by pod, then by the time since when. share is the milli-GPU of a MIG instance; 0 as long as
// it is not known.
func holdsOf(book slot.Book, share func(key) int64) []hold {
	type found struct {
		hold
		// order is the container's in its pod; init says that it ends before those after it begin.
		order int
		init  bool
	}
	all := map[key]*found{}
	for _, r := range book.Records {
		if r.Holder == nil {
			continue
		}
		order, init := place(r.Holder)
		for _, g := range r.Holder.Grants {
			k := key{uid: r.Holder.UID, container: r.Holder.Container, gpu: g.GPU}
			f := found{order: order, init: init, hold: hold{
				namespace: r.Holder.Namespace, pod: r.Holder.Pod, kind: g.Kind(), memoryMiB: g.MemoryMiB,
			}}
			milliGPU := g.MilliGPU
			switch f.kind {
			case gpu.Whole:
				milliGPU = gpu.WholeMilliGPU
			case gpu.MIG:
				k.instance = *g.Instance
				milliGPU = share(k)
			}
			f.key, f.steps = k, []step{{r.Holder.Bound, milliGPU}}
			// The kubelet can have allocated for a container anew, and the book then has the record before, too.
			if before, ok := all[k]; !ok || f.from().Before(before.from()) {
				all[k] = &f
			}
		}
	}

	sorted := make([]*found, 0, len(all))
	for _, f := range all {
		sorted = append(sorted, f)
	}
	slices.SortFunc(sorted, func(a, b *found) int {
		return cmp.Or(
			cmp.Compare(a.uid, b.uid),
			a.from().Compare(b.from()),
			cmp.Compare(a.order, b.order),
			cmp.Compare(a.container, b.container),
			cmp.Compare(a.gpu, b.gpu),
			cmp.Compare(a.instance.Start, b.instance.Start),
			cmp.Compare(a.instance.Profile, b.instance.Profile),
			cmp.Compare(a.instance.Size, b.instance.Size),
		)
	})
	for i, f := range sorted {
		wanted := f.milliGPU()
		for j := i - 1; j >= 0 && sorted[j].uid == f.uid && wanted > 0; j-- {
			if before := sorted[j]; before.init && before.to.IsZero() && before.gpu == f.gpu && before.instance == f.instance {
				taken := min(wanted, before.milliGPU())
				before.give(f.from(), taken)
				wanted -= taken
			}
		}
	}
	var out []hold
	for _, f := range sorted {
		// The kubelet does not say which of the containers that share slots starts first, and all of them are then bound at once.
		// What was taken over at once never was.
		if !f.to.Equal(f.from()) {
			out = append(out, f.hold)
		}
	}
	return out
}

// place is where the container stands in its pod's assignment, and whether it is an init container.
func place(h *slot.Holder) (order int, init bool) {
	a, err := gpu.ParseAssignment(h.Assignment)
	if err != nil {
		return 0, false // a book that was read or made by pkg/slot has none such
	}
	for i, c := range a.Containers {
		if c.Container == h.Container {
			return i, c.Init
		}
	}
	return len(a.Containers), false
}

// shareOf is the part of its GPU that a MIG instance is, in milli-GPU: its memory slices over those that instances of the GPU can
// have. It is 0 when the inventory has no such GPU in MIG mode.
func shareOf(inventory cluster.Inventory, id gpu.ID, i gpu.Instance) int64 {
	for n, d := range inventory.Devices {
		if d.ID != id || !d.MIG {
			continue
		}
		if all := mig.FreeSlices(inventory.Empty(n)); all > 0 {
			return min(gpu.WholeMilliGPU, gpu.WholeMilliGPU*int64(i.Size)/int64(all))
		}
	}
	return 0
}
