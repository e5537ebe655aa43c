package nvml

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"weft.sh/weft/pkg/gpu"
)

// Errors of partitioning.
var (
	// ErrNoRoom: other instances are in the way.
	ErrNoRoom = errors.New("no room for the MIG instance")
	// ErrInUse: a process uses the instance.
	ErrInUse = errors.New("MIG instance is in use")
	// ErrNoInstance: there is no such instance, or the GPU could have none such.
	ErrNoInstance = errors.New("no such MIG instance")
)

// How long a MIG device may take to appear after its compute instance was made, and how often it is looked for. On real
// nodes it has been seen to take close to 10 s.
const (
	appearWithin = 15 * time.Second
	appearEvery  = 250 * time.Millisecond
)

// CreateInstance makes a GPU instance at that place with one compute instance of its full size. The GPU has to be in MIG
// mode. The error wraps [ErrNoRoom] when other instances are in the way, [ErrNoInstance] when the GPU has no such place,
// [ErrNoGPU]. What was made half is removed again.
func (l *Library) CreateInstance(id gpu.ID, i gpu.Instance) (MIGDevice, error) {
	if err := l.enter(); err != nil {
		return MIGDevice{}, err
	}
	defer l.leave()
	dev, p, err := l.partitionable(id, i)
	if err != nil {
		return MIGDevice{}, fmt.Errorf("create MIG instance %s on GPU %s: %w", i, id, err)
	}
	info, ret := dev.GetGpuInstanceProfileInfo(p.enum)
	if ret == nvml.SUCCESS {
		var gi nvml.GpuInstance
		gi, ret = dev.CreateGpuInstanceWithPlacement(&info, &nvml.GpuInstancePlacement{Start: uint32(i.Start), Size: uint32(i.Size)})
		if ret == nvml.SUCCESS {
			m, err := l.complete(dev, gi, info.SliceCount, i)
			if err != nil {
				_ = destroy(gi)
				return MIGDevice{}, fmt.Errorf("create MIG instance %s on GPU %s: %w", i, id, err)
			}
			return m, nil
		}
	}
	return MIGDevice{}, fmt.Errorf("create MIG instance %s on GPU %s: %w", i, id, partitionError(ret))
}

// complete makes the compute instance and waits for the MIG device.
func (l *Library) complete(dev nvml.Device, gi nvml.GpuInstance, slices uint32, i gpu.Instance) (MIGDevice, error) {
	profile, err := fullCompute(gi, slices)
	if err != nil {
		return MIGDevice{}, err
	}
	ci, ret := gi.CreateComputeInstance(&profile)
	if ret != nvml.SUCCESS {
		return MIGDevice{}, fmt.Errorf("its compute instance: %w", partitionError(ret))
	}
	gInfo, ret := gi.GetInfo()
	if ret != nvml.SUCCESS {
		return MIGDevice{}, partitionError(ret)
	}
	cInfo, ret := ci.GetInfo()
	if ret != nvml.SUCCESS {
		return MIGDevice{}, partitionError(ret)
	}
	for waited := time.Duration(0); ; waited += appearEvery {
		devices, _ := l.migDevices(dev)
		for _, d := range devices {
			if d.gi == int(gInfo.Id) && d.ci == int(cInfo.Id) {
				return MIGDevice{Instance: i, UUID: d.uuid, GPUInstance: d.gi, ComputeInstance: d.ci, MemoryMiB: d.memoryMiB}, nil
			}
		}
		if waited >= appearWithin {
			return MIGDevice{}, fmt.Errorf("its MIG device has not appeared within %v", appearWithin)
		}
		time.Sleep(appearEvery)
	}
}

// fullCompute is the profile of a compute instance that takes all of a GPU instance.
func fullCompute(gi nvml.GpuInstance, slices uint32) (nvml.ComputeInstanceProfileInfo, error) {
	for enum := range nvml.COMPUTE_INSTANCE_PROFILE_COUNT {
		p, ret := gi.GetComputeInstanceProfileInfo(enum, nvml.COMPUTE_INSTANCE_ENGINE_PROFILE_SHARED)
		if ret == nvml.SUCCESS && p.SliceCount == slices {
			return p, nil
		}
	}
	return nvml.ComputeInstanceProfileInfo{}, fmt.Errorf("NVML knows no compute instance of all its %d slices", slices)
}

// DestroyInstance destroys the GPU instance at that place with all compute instances in it, complete or not. The error wraps
// [ErrInUse] when a process uses it, [ErrNoInstance] when there is none such, [ErrNoGPU].
func (l *Library) DestroyInstance(id gpu.ID, i gpu.Instance) error {
	if err := l.enter(); err != nil {
		return err
	}
	defer l.leave()
	dev, p, err := l.partitionable(id, i)
	if err == nil {
		err = l.destroyAt(dev, p, i)
	}
	if err != nil {
		return fmt.Errorf("destroy MIG instance %s on GPU %s: %w", i, id, err)
	}
	return nil
}

func (l *Library) destroyAt(dev nvml.Device, p Profile, i gpu.Instance) error {
	instances, ret := l.gpuInstances(dev, p)
	if ret != nvml.SUCCESS {
		return partitionError(ret)
	}
	for _, gi := range instances {
		if int(gi.info.Placement.Start) == i.Start && int(gi.info.Placement.Size) == i.Size {
			return destroy(gi)
		}
	}
	return fmt.Errorf("%w: nothing lies there", ErrNoInstance)
}

// destroy destroys a GPU instance and what is in it.
func destroy(gi nvml.GpuInstance) error {
	for enum := range nvml.COMPUTE_INSTANCE_PROFILE_COUNT {
		p, ret := gi.GetComputeInstanceProfileInfo(enum, nvml.COMPUTE_INSTANCE_ENGINE_PROFILE_SHARED)
		if ret != nvml.SUCCESS || p.InstanceCount < 1 || p.InstanceCount > maxMIGDevices {
			continue
		}
		all, ret := gi.GetComputeInstances(&p)
		if ret != nvml.SUCCESS {
			continue
		}
		for _, ci := range all {
			if ret := ci.Destroy(); ret != nvml.SUCCESS && ret != nvml.ERROR_NOT_FOUND {
				return partitionError(ret)
			}
		}
	}
	if ret := gi.Destroy(); ret != nvml.SUCCESS {
		return partitionError(ret)
	}
	return nil
}

// partitionable is the GPU and the profile of an instance that can lie on it.
func (l *Library) partitionable(id gpu.ID, i gpu.Instance) (nvml.Device, Profile, error) {
	dev := l.handle(id)
	if dev == nil {
		return nil, Profile{}, fmt.Errorf("%w: it did not answer when the GPUs were last looked for", ErrNoGPU)
	}
	on, _, ret := l.migMode(dev)
	if ret != nvml.SUCCESS {
		return nil, Profile{}, fmt.Errorf("%w: %s", ErrNoGPU, why(ret))
	}
	if !on {
		return nil, Profile{}, fmt.Errorf("%w: the GPU is not in MIG mode", ErrNoInstance)
	}
	total, _, ret := l.memory(dev)
	if ret != nvml.SUCCESS {
		return nil, Profile{}, fmt.Errorf("%w: %s", ErrNoGPU, why(ret))
	}
	profiles, _ := believeProfiles(l.profiles(dev), total)
	k := slices.IndexFunc(profiles, func(p Profile) bool { return p.Name == i.Profile })
	if k < 0 || !profiles[k].allows(Placement{i.Start, i.Size}) {
		return nil, Profile{}, fmt.Errorf("%w: the GPU has no such place", ErrNoInstance)
	}
	return dev, profiles[k], nil
}

func partitionError(ret nvml.Return) error {
	switch ret {
	case nvml.ERROR_INSUFFICIENT_RESOURCES:
		return ErrNoRoom
	case nvml.ERROR_IN_USE:
		return ErrInUse
	case nvml.ERROR_NO_PERMISSION:
		return errors.New("no permission: it takes the capability SYS_ADMIN, or the device node of NVIDIA's capability mig/config")
	}
	return fmt.Errorf("NVML: %w", ret)
}
