package nvml

import (
	"weft.sh/weft/pkg/gpu"
)

// Utilisation is how much a GPU is used. Nil means that the GPU or the driver does not say.
type Utilisation struct {
	// SMPercent is the part of the last sample period (up to a second) in which a kernel ran at all, MemoryBusPercent in which memory
	// was read or written. Never in MIG mode.
	SMPercent, MemoryBusPercent *int64
	// UsedMiB is the memory in use without what the driver keeps for itself.
	UsedMiB *int64
	// PowerMilliwatt is the power drawn.
	PowerMilliwatt *int64
	// Instances are the MIG devices, empty unless in MIG mode.
	Instances []InstanceUtilisation
	// Processes are by PID, and one entry per MIG device where one process uses several. PIDs are those of the PID namespace that
	// this program sees; without the host's, NVML tells none.
	Processes []ProcessUtilisation
	// Until is the driver's clock in microseconds: the next call's since. 0 where the driver has no samples of processes.
	Until uint64
}

// InstanceUtilisation is how much a MIG device is used.
type InstanceUtilisation struct {
	UUID    string
	UsedMiB *int64
}

// ProcessUtilisation is how much one process uses a GPU.
type ProcessUtilisation struct {
	PID int
	// SMPercent is the mean of the samples after since, nil when there is none or the driver does not say (in MIG mode).
	SMPercent *int64
	UsedMiB   *int64
	// GPUInstance and ComputeInstance are NVML's ids, -1 when the GPU is not in MIG mode.
	GPUInstance, ComputeInstance int
}

// Utilisation reads how much the GPU is used. since is Until of the call before, 0 at first. The error wraps [ErrNoGPU] or says that
// the GPU is lost.
func (l *Library) Utilisation(id gpu.ID, since uint64) (Utilisation, error) {
	return Utilisation{}, ErrNoGPU
}
