package handout

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/klog/v2"
	"k8s.io/utils/clock"
	"tags.cncf.io/container-device-interface/specs-go"

	"weft.sh/weft/pkg/cluster"
	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/slot"
)

// Options say what a Handout works with. All are required but those that say otherwise. The functions must be safe for concurrent
// use; none is called with a lock held.
type Options struct {
	// Node is the node's name, for people.
	Node string
	// CheckpointPath is the file that the book is kept in. It must outlive the process; what outlives the node's containers does no harm
	// and is of no use. CDIDir is the folder of the CDI specifications that the container runtime reads, which should not outlive
	// them: /var/run/cdi, on a tmpfs.
	CheckpointPath, CDIDir string
	// Kubelet is what the kubelet says now.
	Kubelet func(ctx context.Context) slot.Kubelet
	// Pods are those of the node.
	Pods Pods
	// Inventory is the node's GPUs now.
	Inventory func() cluster.Inventory
	// Edits is what the hardware needs in a container that holds these: device nodes, libraries, hooks. It is called after the
	// container was bound to them, and again at each start. An error refuses the container.
	Edits func(grants []gpu.Grant) (*specs.ContainerEdits, error)
	// MPSRoot is where the MPS control daemons are, empty where there are none; see [slot.Environment].
	MPSRoot string
	// Clock is the real one when nil.
	Clock clock.Clock
}

// Pods are the pods of one node as the API server has them, as far as is known here.
type Pods interface {
	// Snapshot is the pods by UID, not to be written to; all says whether these are all, as of some moment not long ago. A pod that was
	// over and then deleted should stay for a while: what it held is then released at once, and after [slot.Grace] otherwise.
	Snapshot() (pods map[string]slot.Pod, all bool)
	// Changed is closed when the next Snapshot differs from one that was taken after Changed returned.
	Changed() <-chan struct{}
	// Get asks the API server for the pod of that name as it is now. It must be on the node.
	Get(ctx context.Context, namespace, name string) (slot.Pod, error)
}

// Handout gives containers their GPUs. Safe for concurrent use.
type Handout struct {
	options Options
	disk    disk

	// mu is held for as long as it takes to decide and to write files, and never while somebody else is asked.
	mu sync.Mutex
	// book is what counts. The checkpoint has the same, but for what Allocate could not write down.
	book slot.Book
	// text is the book, encoded.
	text []byte
	// saved is what the checkpoint has, nil when that is not known.
	saved []byte
	// lost says that the book is to be rebuilt: it could not be read, and containers may be running.
	lost bool
	// released are records that were released by others than Collect, for it to return.
	released []slot.Record
	// changed is closed when book changes.
	changed chan struct{}
}

// Open reads the book. One that cannot be understood is kept aside, under the same name with .broken at the end, in place of an older
// one. It is rebuilt later where that matters; see the package comment.
func Open(ctx context.Context, o Options) (*Handout, error) { return open(ctx, o, osDisk{}) }

func open(ctx context.Context, o Options, d disk) (*Handout, error) {
	if o.Clock == nil {
		o.Clock = clock.RealClock{}
	}
	h := &Handout{options: o, disk: d, changed: make(chan struct{})}
	data, err := d.Read(o.CheckpointPath)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		h.lost = true
	case err != nil:
		return nil, fmt.Errorf("reading the book: %w", err)
	default:
		if h.book, err = slot.Decode(data); err == nil {
			h.text, h.saved = data, data
			return h, nil
		}
		h.lost = true
		aside := o.CheckpointPath + ".broken"
		klog.FromContext(ctx).Error(err, "The book cannot be understood; it is kept aside", "file", aside)
		if err := d.Rename(o.CheckpointPath, aside); err != nil {
			klog.FromContext(ctx).Error(err, "The broken book could not be kept aside")
		}
	}
	// No container has started without a specification.
	if files, err := h.specFiles(); err == nil && len(files) == 0 {
		h.lost = false
	} else {
		klog.FromContext(ctx).Info("There is no book, but containers may hold GPUs; no container starts until it is rebuilt",
			"book", o.CheckpointPath, "specifications", len(files))
	}
	return h, nil
}

// Book is who holds what.
func (h *Handout) Book() slot.Book {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.book
}

// Changed is closed when a Book differs from one that was taken after Changed returned.
func (h *Handout) Changed() <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.changed
}

// Allocate answers the kubelet for one container's slots with the qualified name of a CDI device that does not exist yet; PreStart
// makes it. What could not be written down is no error; it is logged.
func (h *Handout) Allocate(ctx context.Context, r slot.Resource, slots []string) (cdiDevice string, err error) {
	// A name is never used twice: 130 random bits. CDI allows capitals, but people type it.
	name := strings.ToLower(rand.Text())
	h.mu.Lock()
	defer h.mu.Unlock()
	next := h.book.With(slot.Record{Name: name, Resource: r, Slots: slices.Sorted(slices.Values(slots)), Allocated: h.now()})
	text, err := next.Encode()
	if err != nil {
		return "", fmt.Errorf("writing the book: %w", err) // a record that cannot be written never will be
	}
	if !h.lost { // else the next start would take what it finds for the whole book
		if err := h.save(text); err != nil {
			klog.FromContext(ctx).Error(err, "Not written down what was allocated; the kubelet's checkpoint has to do",
				"device", name, "slots", slots)
		}
	}
	h.set(next, text)
	return device(name), nil
}

func (h *Handout) now() time.Time { return h.options.Clock.Now().UTC() }

// adopt writes the book down and makes it the one that counts; with an error it does neither. h.mu must be held.
func (h *Handout) adopt(next slot.Book) error {
	text, err := next.Encode()
	if err == nil {
		err = h.save(text)
	}
	if err == nil {
		h.set(next, text)
	}
	return err
}

// save writes the text of a book down, unless it is. h.mu must be held.
func (h *Handout) save(text []byte) error {
	if bytes.Equal(text, h.saved) {
		return nil
	}
	if err := replace(h.disk, h.options.CheckpointPath, text); err != nil {
		return fmt.Errorf("writing the book: %w", err)
	}
	h.saved = text
	return nil
}

// set makes the book, with its text, the one that counts. h.mu must be held.
func (h *Handout) set(book slot.Book, text []byte) {
	h.book = book
	if !bytes.Equal(text, h.text) {
		h.text = text
		close(h.changed)
		h.changed = make(chan struct{})
	}
}

// hearsay is what the kubelet says, and what stood in the book before it was asked.
type hearsay struct {
	slot.Kubelet
	before slot.Book
	at     time.Time
}

func (h *Handout) ask(ctx context.Context) hearsay {
	said := hearsay{before: h.Book(), at: h.now()}
	said.Kubelet = h.options.Kubelet(ctx)
	return said
}

// errLost refuses containers while the book is to be rebuilt. It goes away by itself.
var errLost = errors.New("the book of who holds which GPU was lost and cannot be rebuilt yet")

// rebuild rebuilds the book if it was lost. h.mu must be held.
func (h *Handout) rebuild(ctx context.Context, said hearsay) error {
	if !h.lost {
		return nil
	}
	pods, all := h.options.Pods.Snapshot()
	switch {
	case !all:
		return fmt.Errorf("%w: the node's pods are not all known", errLost)
	case said.Checkpoint == nil:
		return fmt.Errorf("%w: the kubelet's checkpoint cannot be read", errLost)
	}
	if err := h.adopt(h.book.Recover(said.Kubelet, pods, h.now())); err != nil {
		return err
	}
	h.lost = false
	klog.FromContext(ctx).Info("The book was rebuilt from the kubelet's checkpoint", "records", len(h.book.Records))
	return nil
}

// reconciled is the book without what nobody holds any more, and that. h.mu must be held, and the book not be lost.
func (h *Handout) reconciled(said hearsay) (kept slot.Book, released []slot.Record) {
	pods, all := h.options.Pods.Snapshot()
	if !all {
		return h.book, nil
	}
	// What was not so when the kubelet was asked, it cannot have spoken of.
	var known, news slot.Book
	for _, r := range h.book.Records {
		if was, ok := said.before.Find(r.Name); ok && (was.Holder == nil) == (r.Holder == nil) {
			known.Records = append(known.Records, r)
		} else {
			news.Records = append(news.Records, r)
		}
	}
	kept, released = known.Reconcile(said.Kubelet, pods, h.now())
	for _, r := range news.Records {
		kept = kept.With(r)
	}
	return kept, released
}

// Collect releases what nobody holds any more, and removes CDI specifications that no record has. Call it now and then, and when a pod
// changes. It returns what has been released since the last time, by PreStart too, also with an error; what was not released is
// tried again the next time.
func (h *Handout) Collect(ctx context.Context) ([]slot.Record, error) {
	said := h.ask(ctx)
	h.mu.Lock()
	defer h.mu.Unlock()
	err := h.rebuild(ctx, said)
	if err == nil {
		kept, released := h.reconciled(said)
		if err = h.adopt(kept); err == nil {
			h.released = append(h.released, released...)
		}
		err = errors.Join(err, h.sweep())
	}
	out := h.released
	h.released = nil
	return out, err
}
