package nvml

import (
	"weft.sh/weft/pkg/gpu"
)

// Host is what NVML says of a node.
type Host struct {
	// DriverVersion is the kernel driver's, such as "580.95.05"; CUDAVersion the newest CUDA that it supports, such as "13.0";
	// NVMLVersion the library's. Empty where NVML does not say.
	DriverVersion, CUDAVersion, NVMLVersion string
	// GPUs are in the order of their index.
	GPUs []GPU
	// Problems are sentences for people: what was not believed, and what could not be read.
	Problems []string
}

// GPU is what NVML says of one GPU. Its [gpu.Device] is valid. Instances are those that exist, in MIG mode, by start; Isolation is
// left empty, for it depends on what the node's admin enabled.
type GPU struct {
	gpu.Device
	// TotalMemoryMiB is all memory of the GPU, as in the node label nvidia.com/gpu.memory. MemoryMiB is less by what the driver keeps
	// for itself.
	TotalMemoryMiB int64
	// Minor is the number in the name of the device node, /dev/nvidia<Minor>.
	Minor int
	// MIGCapable says that the GPU could be brought into MIG mode, or is in it.
	MIGCapable bool
	// MIGDevices are the instances that exist, in the order of Instances.
	MIGDevices []MIGDevice
	// Profiles are what the GPU could be partitioned into, by compute slices, size and name. Some GPUs tell them only in MIG mode.
	Profiles []Profile
	// MemoryLimits says that the driver can bound the GPU's memory by cgroup (driver 615 and later, and not in MIG mode).
	MemoryLimits bool
	// Problem is why the GPU cannot be used now, empty when it is sound; Unhealthy is set with it. Everything else is then as it was
	// when it was sound.
	Problem string
}

// MIGDevice is a MIG instance that exists: a GPU instance and the one compute instance that takes all of it.
type MIGDevice struct {
	gpu.Instance
	// UUID is the MIG device's, "MIG-…".
	UUID string
	// GPUInstance and ComputeInstance are NVML's ids.
	GPUInstance, ComputeInstance int
	// MemoryMiB is the instance's.
	MemoryMiB int64
}

// Profile is a MIG profile as NVML describes it. See mig.Profile of pkg/mig, which is the built-in table.
type Profile struct {
	// Name is without vendor prefix, such as "1g.10gb+me".
	Name string
	// ProfileID is the GPU instance profile's id that nvidia-smi prints, such as 19.
	ProfileID int
	// ComputeSlices, SMs and MemoryMiB are of one instance.
	ComputeSlices, SMs int
	MemoryMiB          int64
	// MaxCount is the largest number of such instances on a GPU without others.
	MaxCount int
	// Placements are where such an instance may lie, ascending.
	Placements []Placement

	// enum is NVML's number of the profile among NVML_GPU_INSTANCE_PROFILE_*.
	enum int
}

// Placement is where an instance may lie, in memory slices.
type Placement struct{ Start, Size int }

// Discover reads everything. The error wraps [ErrUnavailable], when nothing at all can be told.
//
// The library remembers the GPUs that it has seen sound: one that is lost later is still returned, with its Problem, until it is
// sound again. One that was lost from the beginning has no name; it is told in Problems alone. When a GPU is lost, Discover starts NVML
// anew first, for NVML looks for GPUs only when it starts.
func (l *Library) Discover() (Host, error) { return Host{}, ErrUnavailable }
