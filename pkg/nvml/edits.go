package nvml

import (
	"tags.cncf.io/container-device-interface/specs-go"
)

// EditOptions say where the driver is, seen from this program and seen from the host.
type EditOptions struct {
	// DriverRoot is where this program sees the driver's files, DevRoot the folder above its device nodes' /dev. Empty means "/" and
	// the driver root.
	DriverRoot, DevRoot string
	// HostDriverRoot and HostDevRoot are the same folders as the container runtime sees them; the edits name these. Empty means that
	// they are the same.
	HostDriverRoot, HostDevRoot string
	// HookPath is the program nvidia-cdi-hook on the host. Empty means /usr/bin/nvidia-cdi-hook.
	HookPath string
}

// Edits is what a container needs to use exactly these GPUs and MIG devices, by UUID: device nodes, the driver's libraries, hooks.
// What does not depend on the device is searched once per driver version and then kept; see [Library.ForgetEdits]. The caller owns the
// result.
func (l *Library) Edits(opts EditOptions, uuids ...string) (*specs.ContainerEdits, error) {
	return nil, ErrNoGPU
}

// ForgetEdits makes the next call of Edits search the driver's files again.
func (l *Library) ForgetEdits() {}
