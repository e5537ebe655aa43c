package handout

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"k8s.io/klog/v2"
	"tags.cncf.io/container-device-interface/pkg/parser"

	"weft.sh/weft/pkg/cluster"
	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/slot"
)

const (
	// patience is how long PreStart waits at most; the kubelet gives it 30 s.
	patience = 25 * time.Second
	// margin is what it leaves of the time that it was given, for its answer to arrive.
	margin = time.Second
	// asking is how often the kubelet is asked again: it answers 100 questions a second, and has others to answer.
	asking = time.Second
)

// What refuses a container besides the errors of package slot.
var (
	// errNoPod: the pod is not seen yet. It goes away by itself.
	errNoPod = errors.New("the API server has not shown this pod to the node agent yet")
	// errNoGPUs: GPUs are looked for when the agent starts, and a driver may be late. It goes away by itself.
	errNoGPUs = errors.New("the node agent has found no GPU on this node yet")
	// errReleased: what the container was just given was released. It goes away by itself, if the pod has not.
	errReleased = errors.New("it was released meanwhile")
	// errOver: nothing of the pod is to start any more.
	errOver = errors.New("the pod is over")
)

// passing reports whether the reason for a refusal may soon be gone.
func passing(err error) bool {
	for _, reason := range []error{slot.ErrNoOwner, slot.ErrHeld, errNoPod, errNoGPUs, errReleased, errLost} {
		if errors.Is(err, reason) {
			return true
		}
	}
	return false
}

// PreStart answers the kubelet before it makes a container: nil when the container may be made, with its specification written. It
// may be repeated. Where the reason against it may pass, it waits almost until ctx ends, and the error says what it was waiting for.
func (h *Handout) PreStart(ctx context.Context, r slot.Resource, slots []string) error {
	limit := patience
	if deadline, ok := ctx.Deadline(); ok {
		limit = min(limit, time.Until(deadline)-margin)
	}
	waiting, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	slots = slices.Sorted(slices.Values(slots))
	said := h.ask(ctx)
	for {
		pods := h.options.Pods.Changed()
		err := h.start(ctx, r, slots, said)
		if err == nil || !passing(err) {
			return err
		}
		timer := h.options.Clock.NewTimer(asking)
		select {
		case <-pods:
		case <-timer.C():
		case <-waiting.Done():
			timer.Stop()
			return err
		}
		timer.Stop()
		if h.now().Sub(said.at) >= asking {
			said = h.ask(ctx)
		}
	}
}

// told is what becomes of one owner of the slots.
type told struct {
	owner slot.Owner
	pod   slot.Pod
	// grants is everything that the container holds, around what that takes besides the hardware.
	grants []gpu.Grant
	around slot.Surroundings
	// spec is its specification.
	spec []byte
	// refusal is why it cannot start; then the others are not known.
	refusal error
}

// String is the container, for people.
func (t told) String() string {
	if t.pod.Name == "" {
		return fmt.Sprintf("container %q of the pod with UID %s", t.owner.Container, t.owner.UID)
	}
	return fmt.Sprintf("container %q of pod %s/%s", t.owner.Container, t.pod.Namespace, t.pod.Name)
}

// start tries once.
func (h *Handout) start(ctx context.Context, r slot.Resource, slots []string, said hearsay) error {
	inventory := h.options.Inventory()
	if len(inventory.Devices) == 0 {
		return errNoGPUs
	}
	owners, err := h.owners(ctx, r, slots, said)
	if err != nil {
		return fmt.Errorf("%d slots of %s, the first %s: %w", len(slots), r, slots[0], err)
	}
	containers, err := h.bind(owners, r, slots, said, inventory)
	if err != nil {
		return err
	}
	for i := range containers {
		c := &containers[i]
		if c.refusal == nil {
			c.spec, c.refusal = h.equip(*c)
		}
	}
	return h.write(ctx, containers)
}

// owners is who holds the slots, with UIDs.
func (h *Handout) owners(ctx context.Context, r slot.Resource, slots []string, said hearsay) ([]slot.Owner, error) {
	h.mu.Lock()
	err := h.rebuild(ctx, said)
	book := h.book
	h.mu.Unlock()
	if err != nil {
		return nil, err
	}
	owners, err := book.Owners(r, slots, said.Kubelet)
	if err != nil {
		return nil, err
	}
	uid := ""
	for i, o := range owners {
		if err := parser.ValidateDeviceName(o.Name); err != nil {
			return nil, fmt.Errorf("%w: its checkpoint has the CDI device %q: %w", slot.ErrForeign, o.Name, err)
		}
		if o.UID == "" && uid == "" { // they are all of one pod
			if uid, err = h.uid(ctx, o); err != nil {
				return nil, err
			}
		}
		if o.UID == "" {
			owners[i].UID = uid
		}
	}
	return owners, nil
}

// uid is that of an owner of which only the name is known; see the package comment.
func (h *Handout) uid(ctx context.Context, o slot.Owner) (string, error) {
	pods, all := h.options.Pods.Snapshot()
	p, ok := o.In(pods)
	if !ok || !all {
		return "", fmt.Errorf("%w: %s/%s, of which the kubelet says no more than its name", errNoPod, o.Namespace, o.Pod)
	}
	live, err := h.options.Pods.Get(ctx, o.Namespace, o.Pod)
	if err != nil {
		return "", fmt.Errorf("%w: %s/%s, of which the kubelet says no more than its name: %w", errNoPod, o.Namespace, o.Pod, err)
	}
	if live.UID != p.UID {
		return "", fmt.Errorf("%w: %s/%s was deleted and created again, from UID %s to %s", errNoPod, o.Namespace, o.Pod, p.UID, live.UID)
	}
	return p.UID, nil
}

// bind decides what the owners get and writes it down. Without an error at least one of them is not refused.
func (h *Handout) bind(owners []slot.Owner, r slot.Resource, slots []string, said hearsay, inventory cluster.Inventory) ([]told, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	next, released := h.reconciled(said)
	containers := make([]told, len(owners))
	bound := false
	for i, o := range owners {
		next, containers[i] = h.decide(next, o, r, slots, inventory)
		bound = bound || containers[i].refusal == nil
	}
	if !bound {
		return nil, containers[0].refusal
	}
	if err := h.adopt(next); err != nil {
		return nil, err
	}
	h.released = append(h.released, released...)
	return containers, nil
}

// decide is what one owner gets, and the book with that. h.mu must be held.
func (h *Handout) decide(book slot.Book, o slot.Owner, r slot.Resource, slots []string, inventory cluster.Inventory) (slot.Book, told) {
	t := told{owner: o}
	refused := func(err error) (slot.Book, told) {
		t.refusal = fmt.Errorf("%s: %w", t, err)
		return book, t
	}
	var err error
	if t.pod, err = h.pod(book, o); err != nil {
		return refused(err)
	}
	next := book
	if _, ok := next.Find(o.Name); !ok { // it could not be written down when it was allocated
		next = next.With(slot.Record{Name: o.Name, Resource: r, Slots: slots, Allocated: h.now()})
	}
	holder, err := next.Decide(h.options.Node, inventory, t.pod, o.Container, r, len(slots), h.now())
	if err != nil {
		return refused(err)
	}
	for _, c := range t.pod.Assignment.Containers {
		if c.Container == o.Container {
			t.grants = append(t.grants, c.Grants...)
		}
	}
	if t.around, err = slot.Environment(t.grants, inventory.Devices, h.options.MPSRoot); err != nil {
		return refused(err)
	}
	next = next.Bind(o.Name, holder)
	if !holds(next, o) {
		return refused(fmt.Errorf("%w: the agent has given the CDI device %s to another one", slot.ErrNoOwner, device(o.Name)))
	}
	return next, t
}

// pod is the owner's.
func (h *Handout) pod(book slot.Book, o slot.Owner) (slot.Pod, error) {
	pods, all := h.options.Pods.Snapshot()
	if p, ok := o.In(pods); ok {
		if p.Over {
			return p, errOver
		}
		return p, nil
	}
	if all {
		return slot.Pod{}, errNoPod
	}
	// The API server may be away for long. Who holds GPUs goes on with those.
	for _, r := range book.Records {
		if r.Holder != nil && r.Holder.UID == o.UID {
			return r.Holder.KnownPod(), nil
		}
	}
	return slot.Pod{}, errNoPod
}

// holds reports whether the owner's record is bound to it.
func holds(book slot.Book, o slot.Owner) bool {
	r, ok := book.Find(o.Name)
	return ok && r.Holder != nil && r.Holder.UID == o.UID && r.Holder.Container == o.Container
}

// equip is the container's specification.
func (h *Handout) equip(c told) ([]byte, error) {
	hardware, err := h.options.Edits(c.grants)
	if err == nil {
		var spec []byte
		if spec, err = specification(c.owner.Name, hardware, c.around); err == nil {
			return spec, nil
		}
	}
	return nil, fmt.Errorf("%s: its GPUs cannot be put into it: %w", c, err)
}

// write writes the specifications of the containers, and makes sure that those which are refused have none.
func (h *Handout) write(ctx context.Context, containers []told) error {
	log := klog.FromContext(ctx)
	h.mu.Lock()
	defer h.mu.Unlock()
	written := false
	for _, c := range containers {
		if c.refusal != nil {
			if err := h.removeSpec(h.file(c.owner.Name)); err != nil {
				return errors.Join(c.refusal, err)
			}
			continue
		}
		if !holds(h.book, c.owner) {
			return fmt.Errorf("%s: %w", c, errReleased)
		}
		if err := replace(h.disk, h.file(c.owner.Name), c.spec); err != nil {
			return fmt.Errorf("%s: writing its CDI specification: %w", c, err)
		}
		written = true
		log.V(2).Info("Container has its GPUs", "pod", klog.KRef(c.pod.Namespace, c.pod.Name), "container", c.owner.Container,
			"assignment", c.pod.Assignment.String())
	}
	if !written {
		return containers[0].refusal
	}
	for _, c := range containers {
		if c.refusal != nil {
			log.Error(c.refusal, "One of the containers that can be the one that starts cannot start")
		}
	}
	return nil
}
