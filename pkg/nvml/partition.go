package nvml

import (
	"errors"

	"weft.sh/weft/pkg/gpu"
)

// Errors of partitioning.
var (
	// ErrNoRoom: other instances are in the way.
	ErrNoRoom = errors.New("no room for the MIG instance")
	// ErrInUse: a process uses the instance.
	ErrInUse = errors.New("MIG instance is in use")
)

// CreateInstance makes a GPU instance at that place with one compute instance of its full size.
func (l *Library) CreateInstance(id gpu.ID, i gpu.Instance) (MIGDevice, error) {
	return MIGDevice{}, ErrNoRoom
}

// DestroyInstance destroys the GPU instance at that place with all compute instances in it. The error wraps [ErrInUse] or [ErrNoGPU].
func (l *Library) DestroyInstance(id gpu.ID, i gpu.Instance) error { return ErrInUse }
