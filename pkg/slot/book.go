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
// only after the answer.
const Grace = time.Minute

// ErrVersion is wrapped by the error for a book that another version of the agent wrote.
var ErrVersion = errors.New("version of the checkpoint is not supported")

// Record is one answer to Allocate: the slots that one container got of one resource.
type Record struct {
	// Name is the CDI device's, unique for ever.
	Name     string   `json:"name"`
	Resource Resource `json:"resource"`
	// Slots are sorted, 1 or more.
	Slots     []string  `json:"slots"`
	Allocated time.Time `json:"allocated"`
	// Holder is nil until the container's first start.
	Holder *Holder `json:"holder,omitempty"`
}

// Holder is the container that a record is bound to.
type Holder struct {
	Namespace string `json:"namespace"`
	Pod       string `json:"pod"`
	UID       string `json:"uid"`
	Container string `json:"container"`
	// Grants is what it holds by this record: those of its grants that are of the record's resource.
	Grants []gpu.Grant `json:"grants"`
	// Assignment is what the pod holds in all, in text form.
	Assignment string `json:"assignment"`
	// Bound is when the container was first given its GPUs.
	Bound time.Time `json:"bound"`
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

// Encode is the book as bytes, equal for equal books.
func (b Book) Encode() ([]byte, error) {
	return json.MarshalIndent(encodedBook{Version, b.Records}, "", " ")
}

// Decode reads what Encode wrote. The error wraps [ErrVersion] when another version wrote it, and otherwise says what is wrong.
func Decode(data []byte) (Book, error) {
	var e encodedBook
	if err := json.Unmarshal(data, &e); err != nil {
		return Book{}, fmt.Errorf("checkpoint: %w", err)
	}
	if e.Version != Version {
		return Book{}, fmt.Errorf("%w: got %d, want %d", ErrVersion, e.Version, Version)
	}
	b := Book{e.Records}
	for i, r := range b.Records {
		if err := r.validate(); err != nil {
			return Book{}, fmt.Errorf("checkpoint: record %q: %w", r.Name, err)
		}
		if i > 0 && b.Records[i-1].Name >= r.Name {
			return Book{}, fmt.Errorf("checkpoint: record %q is not in order", r.Name)
		}
	}
	return b, nil
}

func (r Record) validate() error {
	switch {
	case r.Name == "":
		return errors.New("has no name")
	case len(r.Slots) == 0 || !slices.IsSorted(r.Slots):
		return fmt.Errorf("slots %q: want one or more, sorted", r.Slots)
	case r.Resource.Kind != gpu.Whole && r.Resource.Kind != gpu.Shared && r.Resource.Kind != gpu.MIG,
		(r.Resource.Kind == gpu.MIG) != gpu.ValidProfile(r.Resource.Profile):
		return fmt.Errorf("resource %+v is none", r.Resource)
	case r.Holder == nil:
		return nil
	case r.Holder.UID == "" || r.Holder.Container == "" || len(r.Holder.Grants) == 0:
		return fmt.Errorf("holder %+v: want a UID, a container and grants", *r.Holder)
	}
	for _, g := range r.Holder.Grants {
		if err := g.Validate(); err != nil {
			return err
		}
	}
	_, err := gpu.ParseAssignment(r.Holder.Assignment)
	return err
}

// Find is the record of that name.
func (b Book) Find(name string) (Record, bool) {
	i, ok := slices.BinarySearchFunc(b.Records, name, func(r Record, name string) int { return cmp.Compare(r.Name, name) })
	if !ok {
		return Record{}, false
	}
	return b.Records[i], true
}

// With is the book with the record, in place of one of the same name.
func (b Book) With(r Record) Book {
	i, ok := slices.BinarySearchFunc(b.Records, r.Name, func(r Record, name string) int { return cmp.Compare(r.Name, name) })
	out := slices.Clone(b.Records)
	if ok {
		out[i] = r
	} else {
		out = slices.Insert(out, i, r)
	}
	return Book{out}
}

// Bind is the book with the record of that name bound to the holder. A record that is bound already keeps the time since when.
// The record must be there.
func (b Book) Bind(name string, h Holder) Book {
	r, _ := b.Find(name)
	if r.Holder != nil && r.Holder.UID == h.UID {
		h.Bound = r.Holder.Bound
	}
	r.Holder = &h
	return b.With(r)
}

// Holds reports whether a container of the pod was given its GPUs already.
func (b Book) Holds(uid string) bool {
	return slices.ContainsFunc(b.Records, func(r Record) bool { return r.Holder != nil && r.Holder.UID == uid })
}
