package nvml

import (
	"fmt"
	"math"
	"strings"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"weft.sh/weft/pkg/gpu"
)

// migMode reads whether the GPU is in MIG mode and whether it could be. The answer is an error only when that cannot be
// told: such a GPU can be given neither whole nor in parts.
func (l *Library) migMode(dev nvml.Device) (on, capable bool, ret nvml.Return) {
	if !l.has["nvmlDeviceGetMigMode"] {
		return false, false, nvml.SUCCESS
	}
	current, _, ret := dev.GetMigMode()
	switch ret {
	case nvml.SUCCESS:
		return current == nvml.DEVICE_MIG_ENABLE, true, ret
	case nvml.ERROR_NOT_SUPPORTED, nvml.ERROR_FUNCTION_NOT_FOUND:
		return false, false, nvml.SUCCESS
	}
	return false, false, ret
}

// mig reads the profiles of a GPU and, in MIG mode, the instances that exist.
func (r *reading) mig(dev nvml.Device, g *GPU) (problems []string) {
	raw := r.profiles(dev)
	g.Profiles, problems = believeProfiles(raw, g.TotalMemoryMiB)
	if !g.MIG {
		return problems
	}
	devices, unread := r.migDevices(dev)
	problems = append(problems, unread...)
	var more []string
	g.MIGDevices, more = believeDevices(devices, g.Profiles)
	problems = append(problems, more...)
	for _, m := range g.MIGDevices {
		g.Instances = append(g.Instances, m.Instance)
	}
	g.Incomplete = r.incomplete(dev, *g)
	for _, i := range g.Incomplete {
		problems = append(problems, fmt.Sprintf("the GPU instance %s has no compute instance of its full size: nothing of it can be given", i))
	}
	if len(g.Instances) == 0 {
		problems = append(problems, "it is in MIG mode and has no instance that could be given")
	}
	return problems
}

// rawProfile is what NVML says of a profile.
type rawProfile struct {
	enum int
	// name is NVML's, empty where it gives none.
	name       string
	info       nvml.GpuInstanceProfileInfo
	placements []nvml.GpuInstancePlacement
	// placed says that NVML answered where such instances may lie.
	placed bool
}

// namer is what devices can have in place of GetGpuInstanceProfileInfoV, whose result no other implementation than go-nvml's
// own can make. Package nvmlfake has it.
type namer interface {
	GpuInstanceProfileName(profile int) (string, nvml.Return)
}

// profiles reads all profiles that the GPU has.
func (l *Library) profiles(dev nvml.Device) []rawProfile {
	var all []rawProfile
	for enum := range nvml.GPU_INSTANCE_PROFILE_COUNT {
		info, ret := dev.GetGpuInstanceProfileInfo(enum)
		if ret != nvml.SUCCESS {
			continue // this GPU does not have it, or only in MIG mode
		}
		p := rawProfile{enum: enum, info: info}
		switch n, ok := dev.(namer); {
		case ok:
			p.name, _ = n.GpuInstanceProfileName(enum)
		case l.has["nvmlDeviceGetGpuInstanceProfileInfoV"]:
			if v, ret := dev.GetGpuInstanceProfileInfoV(enum).V2(); ret == nvml.SUCCESS {
				p.name = text(v.Name[:])
			}
		}
		p.placements, ret = dev.GetGpuInstancePossiblePlacements(&info)
		p.placed = ret == nvml.SUCCESS
		all = append(all, p)
	}
	return all
}

// rawDevice is what NVML says of a MIG device.
type rawDevice struct {
	uuid      string
	gi, ci    int
	info      nvml.GpuInstanceInfo
	memoryMiB int64
	// part says that the compute instance is not all of the GPU instance.
	part bool
}

// maxMIGDevices bounds what is believed of the number of MIG devices of a GPU.
const maxMIGDevices = gpu.MaxMemorySlices

// migDevices reads the MIG devices that exist, and says which it could not read.
func (l *Library) migDevices(dev nvml.Device) (devices []rawDevice, problems []string) {
	count, ret := dev.GetMaxMigDeviceCount()
	if ret != nvml.SUCCESS {
		return nil, []string{fmt.Sprintf("NVML does not tell its MIG devices (%s)", ret)}
	}
	for i := range min(count, maxMIGDevices) {
		m, ret := dev.GetMigDeviceHandleByIndex(i)
		if ret == nvml.ERROR_NOT_FOUND || ret == nvml.ERROR_INVALID_ARGUMENT {
			continue
		}
		d, what := rawDevice{}, "handle"
		if ret == nvml.SUCCESS {
			d, what, ret = l.migDevice(dev, m)
		}
		switch {
		case ret == nvml.ERROR_NO_PERMISSION:
			problems = append(problems, fmt.Sprintf("no permission to see where MIG device %d lies: it takes the capability SYS_ADMIN, or the "+
				"device node of NVIDIA's capability mig/monitor", i))
		case ret != nvml.SUCCESS:
			problems = append(problems, fmt.Sprintf("NVML does not tell the %s of MIG device %d (%s)", what, i, ret))
		default:
			devices = append(devices, d)
		}
	}
	return devices, problems
}

// migDevice reads one MIG device. When NVML does not answer, it says to what.
func (l *Library) migDevice(parent, m nvml.Device) (d rawDevice, what string, ret nvml.Return) {
	if d.uuid, ret = m.GetUUID(); ret != nvml.SUCCESS {
		return d, "UUID", ret
	}
	if d.gi, ret = m.GetGpuInstanceId(); ret != nvml.SUCCESS {
		return d, "GPU instance", ret
	}
	if d.ci, ret = m.GetComputeInstanceId(); ret != nvml.SUCCESS {
		return d, "compute instance", ret
	}
	attributes, ret := m.GetAttributes()
	if ret != nvml.SUCCESS {
		return d, "size", ret
	}
	d.part = attributes.ComputeInstanceSliceCount < attributes.GpuInstanceSliceCount
	d.memoryMiB = int64(min(attributes.MemorySizeMB, math.MaxInt64))
	gi, ret := parent.GetGpuInstanceById(d.gi)
	if ret != nvml.SUCCESS {
		return d, "GPU instance", ret
	}
	if d.info, ret = gi.GetInfo(); ret != nvml.SUCCESS {
		return d, "placement", ret
	}
	return d, "", nvml.SUCCESS
}

// incomplete are the GPU instances without a MIG device. NVML tells them only to privileged users; to others there are none.
func (l *Library) incomplete(dev nvml.Device, g GPU) []gpu.Instance {
	complete := map[int]bool{}
	for _, m := range g.MIGDevices {
		complete[m.GPUInstance] = true
	}
	var out []gpu.Instance
	for _, p := range g.Profiles {
		instances, _ := l.gpuInstances(dev, p)
		for _, gi := range instances {
			i := gpu.Instance{Profile: p.Name, Start: int(gi.info.Placement.Start), Size: int(gi.info.Placement.Size)}
			if !complete[int(gi.info.Id)] && i.Validate() == nil {
				out = append(out, i)
			}
		}
	}
	return out
}

// gpuInstance is a GPU instance that exists.
type gpuInstance struct {
	nvml.GpuInstance
	info nvml.GpuInstanceInfo
}

// gpuInstances are those of one profile.
func (l *Library) gpuInstances(dev nvml.Device, p Profile) ([]gpuInstance, nvml.Return) {
	all, ret := dev.GetGpuInstances(&nvml.GpuInstanceProfileInfo{Id: uint32(p.ProfileID), InstanceCount: uint32(p.MaxCount)})
	if ret != nvml.SUCCESS {
		return nil, ret
	}
	var out []gpuInstance
	for _, gi := range all {
		if info, ret := gi.GetInfo(); ret == nvml.SUCCESS && info.ProfileId == uint32(p.ProfileID) {
			out = append(out, gpuInstance{gi, info})
		}
	}
	return out, nvml.SUCCESS
}

// profileName is the name of a profile: NVML's, where it gives a good one, else made as NVIDIA's tools make it. It is empty
// when neither is a name.
func profileName(p rawProfile, totalMiB int64) string {
	name := strings.TrimPrefix(strings.ToLower(strings.TrimSpace(p.name)), "mig ")
	if gpu.ValidProfile(name) {
		return name
	}
	name = fmt.Sprintf("%dg.%dgb%s", p.info.SliceCount, gigabytes(p.info.MemorySizeMB, totalMiB), profileSuffixes[p.enum])
	if gpu.ValidProfile(name) {
		return name
	}
	return ""
}

// profileSuffixes say what a profile has, or lacks, besides others of its size: media engines, graphics.
var profileSuffixes = map[int]string{
	nvml.GPU_INSTANCE_PROFILE_1_SLICE_REV1:   "+me",
	nvml.GPU_INSTANCE_PROFILE_2_SLICE_REV1:   "+me",
	nvml.GPU_INSTANCE_PROFILE_1_SLICE_GFX:    "+gfx",
	nvml.GPU_INSTANCE_PROFILE_2_SLICE_GFX:    "+gfx",
	nvml.GPU_INSTANCE_PROFILE_3_SLICE_GFX:    "+gfx",
	nvml.GPU_INSTANCE_PROFILE_4_SLICE_GFX:    "+gfx",
	nvml.GPU_INSTANCE_PROFILE_1_SLICE_NO_ME:  "-me",
	nvml.GPU_INSTANCE_PROFILE_2_SLICE_NO_ME:  "-me",
	nvml.GPU_INSTANCE_PROFILE_1_SLICE_ALL_ME: "+me.all",
	nvml.GPU_INSTANCE_PROFILE_2_SLICE_ALL_ME: "+me.all",
}

// gigabytes is the memory in the name of a profile. NVIDIA does not take the instance's own, which is less by what the
// driver keeps: it takes the eighths of the GPU, rounded up, of the GPU's memory in GiB, rounded up. It is 0 when the
// amounts cannot be.
func gigabytes(instanceMiB uint64, totalMiB int64) int64 {
	if totalMiB <= 0 || totalMiB > gpu.MaxMemoryMiB || instanceMiB > uint64(totalMiB) {
		return 0
	}
	eighths := (int64(instanceMiB)*8 + totalMiB - 1) / totalMiB
	gib := (totalMiB + 1023) / 1024
	return (eighths*gib + 4) / 8
}
