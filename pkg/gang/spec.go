package gang

import (
	"fmt"
	"time"
)

// Source says which kind of object declares a gang.
type Source uint8

const (
	// SourceCRD is the PodGroup of scheduling.x-k8s.io/v1alpha1, named by a label of the pods.
	SourceCRD Source = iota
	// SourceNative is the PodGroup of scheduling.k8s.io, named by the pods' spec.
	SourceNative
)

// String is the API group of the source.
func (s Source) String() string {
	return [...]string{"scheduling.x-k8s.io", "scheduling.k8s.io"}[s]
}

// Key names a gang: an object of one kind in a namespace. Comparable. Groups of the same name in two namespaces, or of the two
// kinds, are different gangs.
type Key struct {
	Source          Source
	Namespace, Name string
}

// String is the gang for people, for example "podgroup team-a/train". The kind is left out: nobody uses both in one place.
func (k Key) String() string { return fmt.Sprintf("podgroup %s/%s", k.Namespace, k.Name) }

// Spec is what a PodGroup asks for, after validation.
type Spec struct {
	Key
	// UID and Generation tell one object from the next of the same name, and one content from the next.
	UID        string
	Generation int64
	// Created is when the object was made. Of equal priority, older gangs go first.
	Created time.Time
	// Min is how many members must start together, at least 1.
	Min int
	Topology
	// Lost says what happens when a running member is lost.
	Lost Lost
	// Partial says what happens to a gang that was released and of which a member then cannot be bound.
	Partial Partial
	// Grace is how long a gang may have fewer than Min members bound before those leave. At least 0.
	Grace time.Duration
}

// Topology is how close the members must or should be. The zero Topology asks for nothing; members are then still put into
// as few domains as possible.
type Topology struct {
	// Required names the level of which one domain must hold all members; empty for none.
	Required string
	// Preferred names the level of which as few domains as possible are used; empty for none.
	Preferred string
}

// LevelNVLink is the level whose domains are NVLink domains, in [Topology] and [Problem.Levels].
const LevelNVLink = "nvlink"

// Lost is a policy for gangs that lose a member while they run.
type Lost string

const (
	// LostReplace gives the member that is made in its place a node in the gang's domain.
	LostReplace Lost = "replace"
	// LostRestart evicts the others too, so that the gang starts again as a whole.
	LostRestart Lost = "restart"
)

// Partial is a policy for gangs that could be bound only in part.
type Partial string

const (
	// PartialShrink lets the gang run as long as the minimum is bound, and evicts it otherwise.
	PartialShrink Partial = "shrink"
	// PartialLeave evicts all members when one that was planned cannot be bound.
	PartialLeave Partial = "leave"
)
