package gpu

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"unicode"
	"unicode/utf8"
)

// WholeMilliGPU is one GPU in milli-GPU.
const WholeMilliGPU int64 = 1000

// MaxMemoryMiB is one PiB. It bounds every amount of memory, so that sums of them cannot overflow.
const MaxMemoryMiB int64 = 1 << 30

// MaxIndex is the largest number that a GPU can have on its node.
const MaxIndex = 1 << 20

// ID names a GPU uniquely in its node, and across the cluster where the hardware has a UUID ("GPU-8f2c…"). Inventory that
// comes from node labels has no UUIDs; its IDs are "gpu-0", "gpu-1", … and unique in their node only.
type ID string

// MaxReason bounds Device.UnhealthyReason, in bytes.
const MaxReason = 256

// maxProduct is the length that the value of a label can have.
const maxProduct = 63

var idPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

// Validate reports whether the ID can stand in an assignment: 1 to 63 letters, digits, '.', '_' or '-', starting with
// a letter or digit.
func (id ID) Validate() error {
	if !idPattern.MatchString(string(id)) {
		return fmt.Errorf("GPU id %q: want 1 to 63 of A-Z a-z 0-9 . _ -, starting with a letter or digit", string(id))
	}
	return nil
}

// Device is one GPU as its node reports it. It is a value of the inventory: what is in use stands elsewhere
// (cluster.Node).
type Device struct {
	ID ID
	// Index orders the GPUs of a node, as the driver does; unique in the node, 0 to [MaxIndex].
	Index int
	// Product is the model as in the node label nvidia.com/gpu.product, for example "NVIDIA-H100-80GB-HBM3". Like every
	// label's value it has at most 63 characters.
	Product string
	// MemoryMiB is the memory that containers can be given, 1 to [MaxMemoryMiB].
	MemoryMiB int64
	// Unhealthy GPUs are given to no new pod; pods that hold them keep them.
	Unhealthy bool
	// WholeOnly says that the node can hand the GPU out only whole: nothing on the node enforces shares (inventory
	// from NVIDIA's labels).
	WholeOnly bool
	// SharedOnly says that the GPU is never given whole: whole GPUs of the node are given out by somebody else, from other GPUs
	// (a node that leaves nvidia.com/gpu to NVIDIA's device plugin). Never together with WholeOnly or MIG.
	SharedOnly bool
	// MIG is set when the GPU is in MIG mode: it is then never whole or shared, even when it offers no instance.
	MIG bool
	// Instances are the MIG instances that the GPU can give, empty unless MIG. Instances that overlap are
	// alternatives: giving one takes the others away. A GPU whose geometry is fixed lists the instances that exist,
	// which do not overlap; one that is partitioned on demand lists every legal placement.
	Instances []Instance
	// UnhealthyReason says, for people, what is wrong with the GPU: at most [MaxReason] bytes without control characters. It
	// means nothing unless Unhealthy, and empty is not known.
	UnhealthyReason string
	// Isolation is what keeps shares of the GPU apart; empty when the node does not say. MIG instances are always apart.
	Isolation Isolation
	// Hardware is where the GPU sits and what it is wired to, nil when the node does not say. Read only: copies of the Device
	// share it.
	Hardware *Hardware
}

// Refuses is the kind in which the node does not give out the GPU, apart from MIG mode; 0 when there is none.
func (d *Device) Refuses() Kind {
	switch {
	case d.WholeOnly:
		return Shared
	case d.SharedOnly:
		return Whole
	}
	return 0
}

// Validate reports what makes the device unusable, joined; nil when it is sound.
func (d Device) Validate() error {
	var errs []error
	if err := d.ID.Validate(); err != nil {
		errs = append(errs, err)
	}
	if d.Index < 0 || d.Index > MaxIndex {
		errs = append(errs, fmt.Errorf("index %d: want 0 to %d", d.Index, MaxIndex))
	}
	if len(d.Product) > maxProduct {
		errs = append(errs, fmt.Errorf("product %q: want at most %d characters", clip(d.Product), maxProduct))
	}
	if d.MemoryMiB < 1 || d.MemoryMiB > MaxMemoryMiB {
		errs = append(errs, fmt.Errorf("memory %d MiB: want 1 to %d", d.MemoryMiB, MaxMemoryMiB))
	}
	if reason := d.UnhealthyReason; len(reason) > MaxReason || !utf8.ValidString(reason) || hasControl(reason) {
		errs = append(errs, fmt.Errorf("unhealthy reason %q: want at most %d bytes of text without control characters", clip(reason), MaxReason))
	}
	if d.SharedOnly && d.WholeOnly {
		errs = append(errs, errors.New("it is given whole only and in shares only at once"))
	}
	if d.SharedOnly && d.MIG {
		errs = append(errs, errors.New("it is given in shares only, and in MIG mode"))
	}
	switch d.Isolation {
	case "", IsolationNone, IsolationMPS, IsolationMemory:
	default:
		errs = append(errs, fmt.Errorf("isolation %q: want %s, %s or %s, or nothing when it is not known",
			clip(string(d.Isolation)), IsolationNone, IsolationMPS, IsolationMemory))
	}
	errs = append(errs, d.Hardware.faults(d.Index)...)
	if len(d.Instances) > 0 && !d.MIG {
		errs = append(errs, errors.New("MIG instances on a GPU that is not in MIG mode"))
	}
	for _, i := range d.Instances {
		if err := i.Validate(); err != nil {
			errs = append(errs, err)
		}
	}
	if len(errs) == 0 {
		return nil
	}
	return fmt.Errorf("device %q: %w", string(d.ID), errors.Join(errs...))
}

func hasControl(s string) bool {
	for _, r := range s {
		if unicode.IsControl(r) {
			return true
		}
	}
	return false
}

// Equal reports whether the two devices say the same.
func (d Device) Equal(o Device) bool {
	return d.ID == o.ID && d.Index == o.Index && d.Product == o.Product && d.MemoryMiB == o.MemoryMiB &&
		d.Unhealthy == o.Unhealthy && d.UnhealthyReason == o.UnhealthyReason &&
		d.WholeOnly == o.WholeOnly && d.SharedOnly == o.SharedOnly && d.MIG == o.MIG && slices.Equal(d.Instances, o.Instances) &&
		d.Isolation == o.Isolation && d.Hardware.Equal(o.Hardware)
}

// Instance is one MIG instance, or one place where an instance may be made, on a GPU: a profile at a start.
type Instance struct {
	// Profile is the name without the vendor prefix, for example "3g.40gb" or "1g.10gb+me".
	Profile string
	// Start and Size are in memory slices, the unit of NVML's placements: the instance takes the slices
	// Start to Start+Size-1. Invariant: Start >= 0, Size >= 1, Start+Size <= [MaxMemorySlices].
	Start, Size int
}

// MaxMemorySlices is the largest number of memory slices that a GPU can have here; every GPU so far has at most 8.
const MaxMemorySlices = 64

var profilePattern = regexp.MustCompile(`^[1-9][0-9]{0,2}g\.[1-9][0-9]{0,4}gb([+-][a-z0-9]+(\.[a-z0-9]+)*)?$`)

// maxProfile bounds the name of a profile; the longest in use is 1g.24gb+me.all.
const maxProfile = 32

// ValidProfile reports whether the name has the form of a MIG profile, such as 1g.10gb, 1g.10gb+me, 1g.24gb-me or
// 1g.24gb+me.all. It says nothing of whether any GPU has it.
func ValidProfile(name string) bool {
	return len(name) <= maxProfile && profilePattern.MatchString(name)
}

// Validate reports what is wrong with the instance, nil when nothing is.
func (i Instance) Validate() error {
	if !ValidProfile(i.Profile) {
		return fmt.Errorf("MIG profile %q: want a name such as 1g.10gb", i.Profile)
	}
	if i.Start < 0 || i.Size < 1 || i.Start > MaxMemorySlices || i.Size > MaxMemorySlices || i.Start+i.Size > MaxMemorySlices {
		return fmt.Errorf("MIG instance %s at %d:%d: want start >= 0, size >= 1 and start+size <= %d",
			i.Profile, i.Start, i.Size, MaxMemorySlices)
	}
	return nil
}

// Slices is the set of memory slices that the instance takes, bit n for slice n. The instance must be valid.
func (i Instance) Slices() uint64 {
	if i.Size >= MaxMemorySlices {
		return ^uint64(0)
	}
	return (uint64(1)<<i.Size - 1) << i.Start
}

// Overlaps reports whether the two instances cannot exist at the same time on one GPU.
func (i Instance) Overlaps(o Instance) bool { return i.Slices()&o.Slices() != 0 }

// String is the instance as in an assignment, for example "3g.40gb@4:4": profile, start, size.
func (i Instance) String() string { return fmt.Sprintf("%s@%d:%d", i.Profile, i.Start, i.Size) }
