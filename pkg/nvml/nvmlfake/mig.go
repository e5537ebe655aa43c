package nvmlfake

import (
	"fmt"
	"slices"
	"strconv"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"weft.sh/weft/pkg/mig"
)

func (d *device) table() mig.Table {
	t, _ := mig.TableByName(d.model().mig)
	return t
}

func (d *device) GetMigMode() (current, pending int, ret nvml.Return) {
	ret = d.ask("GetMigMode", func() nvml.Return {
		if d.model().mig == "" {
			return nvml.ERROR_NOT_SUPPORTED
		}
		if d.gpu().MIG.Enabled {
			current, pending = nvml.DEVICE_MIG_ENABLE, nvml.DEVICE_MIG_ENABLE
		}
		return nvml.SUCCESS
	})
	return current, pending, ret
}

// profile is the one with NVML's number. The answer is an error when the GPU has none such, or does not tell now.
func (d *device) profile(number int) (mig.Profile, nvml.Return) {
	if number < 0 || number >= nvml.GPU_INSTANCE_PROFILE_COUNT {
		return mig.Profile{}, nvml.ERROR_INVALID_ARGUMENT
	}
	profiles := d.table().Profiles
	k := slices.IndexFunc(profiles, func(p mig.Profile) bool { return enum(p) == number })
	if k < 0 || d.gpu().MIG.HiddenWhenOff && !d.gpu().MIG.Enabled {
		return mig.Profile{}, nvml.ERROR_NOT_SUPPORTED
	}
	return profiles[k], nvml.SUCCESS
}

// said is a profile's id as the driver says it.
func (d *device) said(p mig.Profile) uint32 {
	if id := d.gpu().MIG.Profiles[p.Name].ID; id != nil {
		return *id
	}
	return uint32(p.ID)
}

func or[T any](said *T, real T) T {
	if said != nil {
		return *said
	}
	return real
}

func (d *device) GetGpuInstanceProfileInfo(number int) (nvml.GpuInstanceProfileInfo, nvml.Return) {
	return value(d, "GetGpuInstanceProfileInfo", func() (nvml.GpuInstanceProfileInfo, nvml.Return) {
		p, ret := d.profile(number)
		if ret != nvml.SUCCESS {
			return nvml.GpuInstanceProfileInfo{}, ret
		}
		lie := d.gpu().MIG.Profiles[p.Name]
		return nvml.GpuInstanceProfileInfo{
			Id: d.said(p), SliceCount: or(lie.ComputeSlices, uint32(p.ComputeSlices)), InstanceCount: or(lie.MaxCount, uint32(p.Max)),
			MultiprocessorCount: uint32(p.SMs), MemorySizeMB: or(lie.MemoryMiB, uint64(d.memoryMiB(p))),
		}, nvml.SUCCESS
	})
}

// memoryMiB is an instance's: the table's, or near to it where the table does not know.
func (d *device) memoryMiB(p mig.Profile) int64 {
	if p.MemoryMiB != 0 {
		return p.MemoryMiB
	}
	return (d.model().MemoryMiB - d.model().ReservedMiB) * int64(p.Size) / int64(d.table().MemorySlices)
}

// GpuInstanceProfileName is the name in the profile's information of version 2, which only go-nvml itself can return.
func (d *device) GpuInstanceProfileName(number int) (string, nvml.Return) {
	return value(d, "GetGpuInstanceProfileInfo", func() (string, nvml.Return) {
		p, ret := d.profile(number)
		if name := d.gpu().MIG.Profiles[p.Name].Name; ret != nvml.SUCCESS || name != "" {
			return name, ret
		}
		return "", nvml.ERROR_NOT_SUPPORTED
	})
}

func (d *device) GetGpuInstancePossiblePlacements(info *nvml.GpuInstanceProfileInfo) ([]nvml.GpuInstancePlacement, nvml.Return) {
	return value(d, "GetGpuInstancePossiblePlacements", func() ([]nvml.GpuInstancePlacement, nvml.Return) {
		p, ret := d.profileByID(info.Id)
		if ret != nvml.SUCCESS {
			return nil, ret
		}
		var all []nvml.GpuInstancePlacement
		if lie := d.gpu().MIG.Profiles[p.Name].Placements; lie != nil {
			for _, at := range *lie {
				all = append(all, nvml.GpuInstancePlacement{Start: at[0], Size: at[1]})
			}
			return all, nvml.SUCCESS
		}
		for _, start := range p.Starts {
			all = append(all, nvml.GpuInstancePlacement{Start: uint32(start), Size: uint32(p.Size)})
		}
		return all, nvml.SUCCESS
	})
}

func (d *device) profileByID(id uint32) (mig.Profile, nvml.Return) {
	for _, p := range d.table().Profiles {
		if d.said(p) == id {
			return p, nvml.SUCCESS
		}
	}
	return mig.Profile{}, nvml.ERROR_INVALID_ARGUMENT
}

// inMIGMode is an error outside of it.
func (d *device) inMIGMode() nvml.Return {
	if !d.gpu().MIG.Enabled && !d.gpu().MIG.Unchecked {
		return nvml.ERROR_NOT_SUPPORTED
	}
	return nvml.SUCCESS
}

func (d *device) GetGpuInstances(info *nvml.GpuInstanceProfileInfo) ([]nvml.GpuInstance, nvml.Return) {
	return value(d, "GetGpuInstances", func() ([]nvml.GpuInstance, nvml.Return) {
		if ret := d.inMIGMode(); ret != nvml.SUCCESS {
			return nil, ret
		}
		var all []nvml.GpuInstance
		for _, s := range d.state().instances {
			if g := d.gpuInstance(s); g.profileID() == info.Id {
				all = append(all, g)
			}
		}
		return all, nvml.SUCCESS
	})
}

func (d *device) gpuInstance(s *gpuInstanceState) *gpuInstance {
	return &gpuInstance{GpuInstance: unknownGPUInstance, d: d, s: s}
}

func (d *device) GetGpuInstanceById(id int) (nvml.GpuInstance, nvml.Return) {
	return value(d, "GetGpuInstanceById", func() (nvml.GpuInstance, nvml.Return) {
		for _, s := range d.state().instances {
			if int(s.id) == id {
				return d.gpuInstance(s), d.inMIGMode()
			}
		}
		return nil, nvml.ERROR_NOT_FOUND
	})
}

// CreateGpuInstance takes the first place that is free.
func (d *device) CreateGpuInstance(info *nvml.GpuInstanceProfileInfo) (g nvml.GpuInstance, ret nvml.Return) {
	places, ret := d.GetGpuInstancePossiblePlacements(info)
	if ret != nvml.SUCCESS {
		return nil, ret
	}
	ret = nvml.ERROR_INSUFFICIENT_RESOURCES
	for _, at := range places {
		if g, ret = d.CreateGpuInstanceWithPlacement(info, &at); ret != nvml.ERROR_INSUFFICIENT_RESOURCES {
			break
		}
	}
	return g, ret
}

func (d *device) CreateGpuInstanceWithPlacement(
	info *nvml.GpuInstanceProfileInfo, at *nvml.GpuInstancePlacement,
) (nvml.GpuInstance, nvml.Return) {
	return value(d, "CreateGpuInstanceWithPlacement", func() (nvml.GpuInstance, nvml.Return) {
		if !d.gpu().MIG.Enabled {
			return nil, nvml.ERROR_NOT_SUPPORTED
		}
		p, ret := d.profileByID(info.Id)
		if ret != nvml.SUCCESS {
			return nil, ret
		}
		s := &gpuInstanceState{id: 1}
		s.Profile, s.Start, s.Size = p.Name, int(at.Start), int(at.Size)
		state := d.state()
		if ret := fits(d.table(), s.Instance, state.instances); ret != nvml.SUCCESS {
			return nil, ret
		}
		for slices.ContainsFunc(state.instances, func(o *gpuInstanceState) bool { return o.id == s.id }) {
			s.id++
		}
		state.instances = append(state.instances, s)
		return d.gpuInstance(s), nvml.SUCCESS
	})
}

func (d *device) GetMaxMigDeviceCount() (int, nvml.Return) {
	return value(d, "GetMaxMigDeviceCount", func() (int, nvml.Return) {
		return or(d.gpu().MIG.MaxDevices, d.table().ComputeSlices), nvml.SUCCESS
	})
}

// migDevices are all, with f locked.
func (d *device) migDevices() []*migDevice {
	var all []*migDevice
	for _, s := range d.state().instances {
		for _, c := range s.compute {
			all = append(all, &migDevice{Device: unknownDevice, d: d, s: s, c: c})
		}
	}
	return all
}

func (d *device) GetMigDeviceHandleByIndex(index int) (nvml.Device, nvml.Return) {
	return value(d, "GetMigDeviceHandleByIndex", func() (nvml.Device, nvml.Return) {
		if ret := d.inMIGMode(); ret != nvml.SUCCESS {
			return nil, ret
		}
		if all := d.migDevices(); index >= 0 && index < len(all) {
			return all[index], nvml.SUCCESS
		}
		return nil, nvml.ERROR_NOT_FOUND
	})
}

// gpuInstance is a handle of a GPU instance.
type gpuInstance struct {
	nvml.GpuInstance // what is not modelled
	d                *device
	s                *gpuInstanceState
}

// profileID is the id of its profile, which is none for an instance that cannot be.
func (g *gpuInstance) profileID() uint32 {
	if p, ok := g.d.table().Profile(g.s.Profile); ok {
		return g.d.said(p)
	}
	return 999
}

// ask is the device's, for a method of a GPU instance: an error when it was destroyed.
func (g *gpuInstance) ask(answer func() nvml.Return) nvml.Return {
	ret := g.d.f.enter()
	defer g.d.f.mu.Unlock()
	return g.d.answer(ret, "GetGpuInstanceById", func() nvml.Return {
		if !slices.Contains(g.d.state().instances, g.s) {
			return nvml.ERROR_NOT_FOUND
		}
		return answer()
	})
}

func (g *gpuInstance) GetInfo() (info nvml.GpuInstanceInfo, ret nvml.Return) {
	ret = g.ask(func() nvml.Return {
		info = nvml.GpuInstanceInfo{
			Device: g.d, Id: g.s.id, ProfileId: g.profileID(),
			Placement: nvml.GpuInstancePlacement{Start: uint32(g.s.Start), Size: uint32(g.s.Size)},
		}
		return nvml.SUCCESS
	})
	return info, ret
}

// Destroy is refused while it has compute instances.
func (g *gpuInstance) Destroy() nvml.Return {
	return g.ask(func() nvml.Return {
		if len(g.s.compute) > 0 {
			return nvml.ERROR_IN_USE
		}
		state := g.d.state()
		state.instances = slices.DeleteFunc(state.instances, func(s *gpuInstanceState) bool { return s == g.s })
		return nvml.SUCCESS
	})
}

func (g *gpuInstance) GetComputeInstanceProfileInfo(number, engine int) (info nvml.ComputeInstanceProfileInfo, ret nvml.Return) {
	ret = g.ask(func() nvml.Return {
		n := computeSlices[number]
		all := uint32(mig.ComputeSlices(g.s.Profile))
		if number < 0 || number >= nvml.COMPUTE_INSTANCE_PROFILE_COUNT || engine != nvml.COMPUTE_INSTANCE_ENGINE_PROFILE_SHARED {
			return nvml.ERROR_INVALID_ARGUMENT
		}
		if n == 0 || n > all {
			return nvml.ERROR_NOT_SUPPORTED
		}
		info = nvml.ComputeInstanceProfileInfo{Id: uint32(number), SliceCount: n, InstanceCount: all / n}
		return nvml.SUCCESS
	})
	return info, ret
}

func (g *gpuInstance) CreateComputeInstance(info *nvml.ComputeInstanceProfileInfo) (c nvml.ComputeInstance, ret nvml.Return) {
	ret = g.ask(func() nvml.Return {
		if ret := g.d.gpu().Answers["CreateComputeInstance"].ret(); ret != nvml.SUCCESS {
			return ret
		}
		free := uint32(mig.ComputeSlices(g.s.Profile))
		s := &computeInstanceState{slices: computeSlices[int(info.Id)]}
		for _, o := range g.s.compute {
			free -= min(free, o.slices)
			s.id = max(s.id, o.id+1)
		}
		if s.slices == 0 {
			return nvml.ERROR_INVALID_ARGUMENT
		}
		if s.slices > free {
			return nvml.ERROR_INSUFFICIENT_RESOURCES
		}
		g.d.state().made++
		s.made = g.d.state().made
		g.s.compute = append(g.s.compute, s)
		c = &computeInstance{ComputeInstance: unknownComputeInstance, g: g, c: s}
		return nvml.SUCCESS
	})
	return c, ret
}

func (g *gpuInstance) GetComputeInstances(info *nvml.ComputeInstanceProfileInfo) (all []nvml.ComputeInstance, ret nvml.Return) {
	ret = g.ask(func() nvml.Return {
		for _, s := range g.s.compute {
			if s.slices == computeSlices[int(info.Id)] {
				all = append(all, &computeInstance{ComputeInstance: unknownComputeInstance, g: g, c: s})
			}
		}
		return nvml.SUCCESS
	})
	return all, ret
}

func (g *gpuInstance) GetComputeInstanceById(id int) (c nvml.ComputeInstance, ret nvml.Return) {
	ret = g.ask(func() nvml.Return {
		for _, s := range g.s.compute {
			if int(s.id) == id {
				c = &computeInstance{ComputeInstance: unknownComputeInstance, g: g, c: s}
				return nvml.SUCCESS
			}
		}
		return nvml.ERROR_NOT_FOUND
	})
	return c, ret
}

// computeInstance is a handle of a compute instance.
type computeInstance struct {
	nvml.ComputeInstance // what is not modelled
	g                    *gpuInstance
	c                    *computeInstanceState
}

func (c *computeInstance) ask(answer func() nvml.Return) nvml.Return {
	return c.g.ask(func() nvml.Return {
		if !slices.Contains(c.g.s.compute, c.c) {
			return nvml.ERROR_NOT_FOUND
		}
		return answer()
	})
}

func (c *computeInstance) GetInfo() (info nvml.ComputeInstanceInfo, ret nvml.Return) {
	ret = c.ask(func() nvml.Return {
		info = nvml.ComputeInstanceInfo{Device: c.g.d, GpuInstance: c.g, Id: c.c.id, Placement: nvml.ComputeInstancePlacement{Size: c.c.slices}}
		for number, n := range computeSlices {
			if n == c.c.slices {
				info.ProfileId = uint32(number)
			}
		}
		return nvml.SUCCESS
	})
	return info, ret
}

// Destroy is refused while a process runs on it.
func (c *computeInstance) Destroy() nvml.Return {
	return c.ask(func() nvml.Return {
		if len((&migDevice{d: c.g.d, s: c.g.s, c: c.c}).running()) > 0 {
			return nvml.ERROR_IN_USE
		}
		c.g.s.compute = slices.DeleteFunc(c.g.s.compute, func(s *computeInstanceState) bool { return s == c.c })
		return nvml.SUCCESS
	})
}

// migDevice is a handle of a MIG device.
type migDevice struct {
	nvml.Device // what is not modelled
	d           *device
	s           *gpuInstanceState
	c           *computeInstanceState
}

// uuid is always the same for an instance that is described, and new for each that is made.
func (m *migDevice) uuid() string {
	return uuid("MIG", m.d.uuid(), m.s.String(), strconv.Itoa(int(m.c.id)), strconv.Itoa(m.c.made))
}

// ask is the device's, for a method of a MIG device: an error when it was destroyed.
func (m *migDevice) ask(method string, answer func() nvml.Return) nvml.Return {
	ret := m.d.f.enter()
	defer m.d.f.mu.Unlock()
	if ret == nvml.SUCCESS {
		if ret := m.d.gpu().Answers["MIG."+method].ret(); ret != nvml.SUCCESS {
			return ret
		}
	}
	return m.d.answer(ret, "GetMigDeviceHandleByIndex", func() nvml.Return {
		if !slices.Contains(m.d.state().instances, m.s) || !slices.Contains(m.s.compute, m.c) {
			return nvml.ERROR_NOT_FOUND
		}
		return answer()
	})
}

func migValue[T any](m *migDevice, method string, answer func() T) (v T, ret nvml.Return) {
	ret = m.ask(method, func() nvml.Return {
		v = answer()
		return nvml.SUCCESS
	})
	return v, ret
}

func (m *migDevice) GetUUID() (string, nvml.Return) { return migValue(m, "GetUUID", m.uuid) }

func (m *migDevice) GetName() (string, nvml.Return) {
	return migValue(m, "GetName", func() string { return fmt.Sprintf("%s MIG %s", m.d.model().Name, m.s.Profile) })
}

func (m *migDevice) GetIndex() (int, nvml.Return) {
	return migValue(m, "GetIndex", func() int {
		return slices.IndexFunc(m.d.migDevices(), func(o *migDevice) bool { return o.c == m.c })
	})
}

func (m *migDevice) GetGpuInstanceId() (int, nvml.Return) {
	return migValue(m, "GetGpuInstanceId", func() int { return int(m.s.id) })
}

func (m *migDevice) GetComputeInstanceId() (int, nvml.Return) {
	return migValue(m, "GetComputeInstanceId", func() int { return int(m.c.id) })
}

func (m *migDevice) GetDeviceHandleFromMigDeviceHandle() (nvml.Device, nvml.Return) {
	return migValue(m, "GetDeviceHandleFromMigDeviceHandle", func() nvml.Device { return m.d })
}

func (m *migDevice) IsMigDeviceHandle() (bool, nvml.Return) { return true, nvml.SUCCESS }

// memory is the instance's, in MiB.
func (m *migDevice) memory() uint64 {
	if p, ok := m.d.table().Profile(m.s.Profile); ok {
		return uint64(m.d.memoryMiB(p))
	}
	return 0
}

func (m *migDevice) GetAttributes() (nvml.DeviceAttributes, nvml.Return) {
	return migValue(m, "GetAttributes", func() nvml.DeviceAttributes {
		return nvml.DeviceAttributes{
			GpuInstanceSliceCount: uint32(mig.ComputeSlices(m.s.Profile)), ComputeInstanceSliceCount: m.c.slices, MemorySizeMB: m.memory(),
		}
	})
}

func (m *migDevice) GetMemoryInfo() (nvml.Memory, nvml.Return) {
	return migValue(m, "GetMemoryInfo", func() nvml.Memory {
		total, used := m.memory()<<20, uint64(0)
		for _, p := range m.running() {
			if p.MemoryMiB != nil {
				used += *p.MemoryMiB << 20
			}
		}
		return nvml.Memory{Total: total, Used: used, Free: total - min(total, used)}
	})
}

func (m *migDevice) GetMemoryInfo_v2() (nvml.Memory_v2, nvml.Return) {
	i, ret := m.GetMemoryInfo()
	return nvml.Memory_v2{Total: i.Total, Used: i.Used, Free: i.Free}, ret
}

// running are the processes on it, with f locked.
func (m *migDevice) running() []Process {
	var all []Process
	for _, p := range m.d.gpu().Processes {
		if i, err := parseInstance(p.Instance, m.d.table()); err == nil && i == m.s.Instance {
			all = append(all, p)
		}
	}
	return all
}

func (m *migDevice) GetComputeRunningProcesses() ([]nvml.ProcessInfo, nvml.Return) {
	return migValue(m, "GetComputeRunningProcesses", func() []nvml.ProcessInfo {
		var all []nvml.ProcessInfo
		for _, p := range m.running() {
			i := p.info()
			i.GpuInstanceId, i.ComputeInstanceId = m.s.id, m.c.id
			all = append(all, i)
		}
		return all
	})
}
