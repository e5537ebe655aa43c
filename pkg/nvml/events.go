package nvml

import (
	"context"
	"time"

	"weft.sh/weft/pkg/gpu"
)

// EventType says what happened.
type EventType string

const (
	// EventXid is a critical error, by its number.
	EventXid EventType = "xid"
	// EventUnavailable: the GPU can no longer be used.
	EventUnavailable EventType = "unavailable"
	// EventRecovery: what the driver wants done has changed; see [Library.Check].
	EventRecovery EventType = "recovery-action"
)

// Event is something that happened to a GPU.
type Event struct {
	Type EventType
	// GPU is empty when NVML does not say which: it may be any.
	GPU gpu.ID
	// Xid is the number of the error, 0 unless Type is EventXid.
	Xid uint64
	// GPUInstance and ComputeInstance are NVML's ids of the MIG device that was hit, -1 when it was the whole GPU.
	GPUInstance, ComputeInstance int
	Time                         time.Time
}

// Events reports what happens to the GPUs until ctx ends, and then returns nil. GPUs that cannot report are left out; those that
// come (back) later are added after the [Library.Discover] that sees them. The error wraps [errors.ErrUnsupported] when no GPU can
// report events: then only [Library.Check] tells.
func (l *Library) Events(ctx context.Context, report func(Event)) error { return nil }
