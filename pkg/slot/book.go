package slot

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"weft.sh/weft/pkg/gpu"
)

// Version is the version of the book's encoding. A book of another version is not read: [Book.Recover] rebuilds it.
const Version = 1

// Grace is how long a record may be unknown to the kubelet before it is released: the kubelet writes down what Allocate answered
// only after the answer, and forgets for a moment, while it starts, what runs on the node.
const Grace = time.Minute

// CDIKind is the vendor and class of the CDI devices that stand for slots. A device's qualified name is the kind, "=" and the name of
// the slots' [Record].
const CDIKind = "weft.sh/slot"

// ErrVersion is wrapped by the error for a book that another version of the agent wrote.
var ErrVersion = errors.New("version of the checkpoint is not supported")

// Record is one answer to Allocate: the slots that one container got of one resource.
type Record struct {
	// Name is the CDI device's, unique for ever.
	Name     string   `json:"name"`
	Resource Resource `json:"resource"`
	// Slots are sorted, each once, 1 or more.
	Slots     []string  `json:"slots"`
	Allocated time.Time `json:"allocated"`
	// Holder is nil until the container's first start.
	Holder *Holder `json:"holder,omitempty"`
	// Missing is since when neither the API server nor PodResources has known the holder's pod, zero while one of them does;
	// kept by [Book.Reconcile].
	Missing time.Time `json:"missing,omitzero"`
}

// Holder is the container that a record is bound to.
type Holder struct {
	Namespace string `json:"namespace"`
	Pod       string `json:"pod"`
	UID       string `json:"uid"`
	Container string `json:"container"`
	// Grants is what it holds by this record: those of its grants that are of the record's resource.
	Grants []gpu.Grant `json:"grants"`
	// Assignment is what the pod holds in all, in text form; the same for all records of a pod.
	Assignment string `json:"assignment"`
	// Bound is when the container was first given its GPUs.
	Bound time.Time `json:"bound"`
}

// KnownPod is the holder's pod as far as the book knows it, which is as it was when it was bound.
func (h Holder) KnownPod() Pod {
	a, err := gpu.ParseAssignment(h.Assignment)
	return Pod{UID: h.UID, Namespace: h.Namespace, Name: h.Pod, Assignment: a, Err: err}
}

// Book is all records of a node, sorted by name. It is a value: what changes it returns another one and leaves it as it is. The
// zero Book is empty.
type Book struct {
	Records []Record
}

type encodedBook struct {
	Version int      `json:"version"`
	Records []Record `json:"records"`
}

// Encode is the book as bytes, equal for equal books. It fails for a time that JSON cannot express.
func (b Book) Encode() ([]byte, error) {
	records := b.Records
	if records == nil {
		records = []Record{}
	}
	return json.Marshal(encodedBook{Version, records})
}

// Decode reads what Encode wrote. The error wraps [ErrVersion] when another version wrote it, and otherwise says what is wrong.
func Decode(data []byte) (Book, error) {
	// The version comes first: what another version means by the rest is not known.
	var version struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(data, &version); err != nil {
		return Book{}, fmt.Errorf("checkpoint: %w", err)
	}
	if version.Version != Version {
		return Book{}, fmt.Errorf("%w: got %d, want %d", ErrVersion, version.Version, Version)
	}
	var e encodedBook
	if err := json.Unmarshal(data, &e); err != nil {
		return Book{}, fmt.Errorf("checkpoint: %w", err)
	}
	assignments := map[string]string{}
	for i, r := range e.Records {
		if err := r.validate(); err != nil {
			return Book{}, fmt.Errorf("checkpoint: record %q: %w", r.Name, err)
		}
		if i > 0 && e.Records[i-1].Name >= r.Name {
			return Book{}, fmt.Errorf("checkpoint: record %q is not in order", r.Name)
		}
		if r.Holder == nil {
			continue
		}
		if a, ok := assignments[r.Holder.UID]; ok && a != r.Holder.Assignment {
			return Book{}, fmt.Errorf("checkpoint: record %q: pod %s holds %q here and %q elsewhere", r.Name, r.Holder.UID, r.Holder.Assignment, a)
		}
		assignments[r.Holder.UID] = r.Holder.Assignment
	}
	return Book{e.Records}, nil
}

func (r Record) validate() error {
	switch {
	case r.Name == "":
		return errors.New("has no name")
	case len(r.Slots) == 0 || r.Slots[0] == "" || !ascending(r.Slots):
		return fmt.Errorf("slots %q: want one or more, sorted, each once", r.Slots)
	case r.Resource.Kind != gpu.Whole && r.Resource.Kind != gpu.Shared && r.Resource.Kind != gpu.MIG,
		r.Resource.Kind == gpu.MIG && !gpu.ValidProfile(r.Resource.Profile),
		r.Resource.Kind != gpu.MIG && r.Resource.Profile != "":
		return fmt.Errorf("resource %+v is none", r.Resource)
	case r.Holder == nil:
		return nil
	}
	return r.Holder.validate(r.Resource)
}

func (h Holder) validate(r Resource) error {
	if h.UID == "" || h.Namespace == "" || h.Pod == "" || h.Container == "" {
		return fmt.Errorf("holder %s/%s, UID %q, container %q: want all four", h.Namespace, h.Pod, h.UID, h.Container)
	}
	a, err := gpu.ParseAssignment(h.Assignment)
	if err != nil {
		return err
	}
	if want := grantsOf(a, h.Container, r); len(want) == 0 || !slices.EqualFunc(want, h.Grants, sameGrant) {
		return fmt.Errorf("holder has %v, want what the assignment %q gives container %q of %s: %v", h.Grants, h.Assignment, h.Container, r, want)
	}
	return nil
}

func sameGrant(a, b gpu.Grant) bool {
	return a.GPU == b.GPU && a.MilliGPU == b.MilliGPU && a.MemoryMiB == b.MemoryMiB && (a.Instance == nil) == (b.Instance == nil) &&
		(a.Instance == nil || *a.Instance == *b.Instance)
}

func ascending(s []string) bool {
	for i := 1; i < len(s); i++ {
		if s[i-1] >= s[i] {
			return false
		}
	}
	return true
}

// index is where the record of that name is, or would be.
func (b Book) index(name string) (int, bool) {
	return slices.BinarySearchFunc(b.Records, name, func(r Record, name string) int { return cmp.Compare(r.Name, name) })
}

// Find is the record of that name.
func (b Book) Find(name string) (Record, bool) {
	i, ok := b.index(name)
	if !ok {
		return Record{}, false
	}
	return b.Records[i], true
}

// With is the book with the record, in place of one of the same name.
func (b Book) With(r Record) Book {
	i, ok := b.index(r.Name)
	out := slices.Clone(b.Records)
	if ok {
		out[i] = r
	} else {
		out = slices.Insert(out, i, r)
	}
	return Book{out}
}

// Bind is the book with the record of that name bound to the holder. Where the container holds it already, it does since when it did.
//
// A name stays with the pod that it was given to, which may have read its CDI specification: where there is no such record, or another
// pod holds it, the book is returned as it is. Which container of the pod it is for can turn out later, for without its checkpoint the
// kubelet does not say (see [Book.Owners]).
func (b Book) Bind(name string, h Holder) Book {
	r, ok := b.Find(name)
	if !ok || r.Holder != nil && r.Holder.UID != h.UID {
		return b
	}
	if r.Holder != nil && r.Holder.Container == h.Container {
		h.Bound = r.Holder.Bound
	}
	r.Holder = &h
	return b.With(r)
}

// Holds reports whether a container of the pod was given its GPUs already.
func (b Book) Holds(uid string) bool {
	_, ok := b.assignment(uid)
	return ok
}

// assignment is what a pod was given its GPUs by.
func (b Book) assignment(uid string) (text string, ok bool) {
	for _, r := range b.Records {
		if r.Holder != nil && r.Holder.UID == uid {
			return r.Holder.Assignment, true
		}
	}
	return "", false
}
