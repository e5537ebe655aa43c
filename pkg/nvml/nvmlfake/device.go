package nvmlfake

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
)

// device is a handle of a GPU.
type device struct {
	nvml.Device  // what is not modelled
	f            *Fake
	index, start int
}

// GPU and model as they are described. f is locked.
func (d *device) gpu() GPU         { return d.f.node.GPUs[d.index] }
func (d *device) model() Model     { return Models[d.gpu().Model] }
func (d *device) state() *gpuState { return d.f.gpus[d.index] }

// ask enters the fake for a method, runs answer if the GPU answers, and leaves.
func (d *device) ask(method string, answer func() nvml.Return) nvml.Return {
	ret := d.f.enter()
	defer d.f.mu.Unlock()
	return d.answer(ret, method, answer)
}

func (d *device) answer(ret nvml.Return, method string, answer func() nvml.Return) nvml.Return {
	if ret != nvml.SUCCESS {
		return ret
	}
	if !d.f.has("nvmlDevice" + method) {
		panic(fmt.Sprintf("nvmlfake: nvmlDevice%s is called, which driver %s does not have: a real process would end here",
			method, d.f.driver()))
	}
	switch {
	case d.start != d.f.start:
		return nvml.ERROR_UNINITIALIZED
	case d.state().gone:
		return nvml.ERROR_GPU_IS_LOST
	}
	if ret := d.gpu().Answers[method].ret(); ret != nvml.SUCCESS {
		return ret
	}
	return answer()
}

// value is ask for methods that answer with a value.
func value[T any](d *device, method string, answer func() (T, nvml.Return)) (v T, ret nvml.Return) {
	ret = d.ask(method, func() (ret nvml.Return) {
		v, ret = answer()
		return ret
	})
	return v, ret
}

func given[T any](v T) func() (T, nvml.Return) {
	return func() (T, nvml.Return) { return v, nvml.SUCCESS }
}

func (d *device) uuid() string {
	if u := d.gpu().UUID; u != "" {
		return u
	}
	return uuid("GPU", d.f.node.Name, strconv.Itoa(d.index))
}

func (d *device) busID() string {
	if b := d.gpu().PCIBusID; b != "" {
		return b
	}
	return fmt.Sprintf("%08X:%02X:00.0", d.index/16, 0x10+d.index%16*8)
}

func (d *device) pci() nvml.PciInfo {
	var p nvml.PciInfo
	for i, c := range []byte(d.busID()) {
		p.BusId[i] = int8(c)
	}
	return p
}

func (d *device) memory() nvml.Memory_v2 {
	total, reserved := d.model().MemoryMiB, d.model().ReservedMiB
	if m := d.gpu().MemoryMiB; m != nil {
		total = *m
	}
	if m := d.gpu().ReservedMiB; m != nil {
		reserved = *m
	}
	m := nvml.Memory_v2{Total: uint64(total) << 20, Reserved: uint64(reserved) << 20}
	for _, p := range d.gpu().Processes {
		if p.MemoryMiB != nil {
			m.Used += *p.MemoryMiB << 20
		}
	}
	m.Free = m.Total - min(m.Total, m.Reserved+m.Used)
	return m
}

func (d *device) GetUUID() (string, nvml.Return) {
	return value(d, "GetUUID", func() (string, nvml.Return) { return d.uuid(), nvml.SUCCESS })
}

func (d *device) GetName() (string, nvml.Return) {
	return value(d, "GetName", func() (string, nvml.Return) {
		if n := d.gpu().Name; n != "" {
			return n, nvml.SUCCESS
		}
		return d.model().Name, nvml.SUCCESS
	})
}

func (d *device) GetIndex() (int, nvml.Return) { return value(d, "GetIndex", given(d.index)) }

func (d *device) GetMinorNumber() (int, nvml.Return) {
	return value(d, "GetMinorNumber", func() (int, nvml.Return) {
		if m := d.gpu().Minor; m != nil {
			return *m, nvml.SUCCESS
		}
		return d.index, nvml.SUCCESS
	})
}

func (d *device) GetPciInfo() (nvml.PciInfo, nvml.Return) {
	return value(d, "GetPciInfo", func() (nvml.PciInfo, nvml.Return) { return d.pci(), nvml.SUCCESS })
}

// GetMemoryInfo counts what the driver keeps as used, as version 1 does.
func (d *device) GetMemoryInfo() (nvml.Memory, nvml.Return) {
	return value(d, "GetMemoryInfo", func() (nvml.Memory, nvml.Return) {
		m := d.memory()
		return nvml.Memory{Total: m.Total, Free: m.Free, Used: m.Total - m.Free}, nvml.SUCCESS
	})
}

func (d *device) GetMemoryInfo_v2() (nvml.Memory_v2, nvml.Return) {
	return value(d, "GetMemoryInfo_v2", func() (nvml.Memory_v2, nvml.Return) { return d.memory(), nvml.SUCCESS })
}

func (d *device) GetArchitecture() (nvml.DeviceArchitecture, nvml.Return) {
	return value(d, "GetArchitecture", func() (nvml.DeviceArchitecture, nvml.Return) { return d.model().architecture, nvml.SUCCESS })
}

func (d *device) GetCudaComputeCapability() (major, minor int, ret nvml.Return) {
	ret = d.ask("GetCudaComputeCapability", func() nvml.Return {
		major, minor = d.model().major, d.model().minor
		return nvml.SUCCESS
	})
	return major, minor, ret
}

// GetMemoryAffinity is the NUMA node as a set, which is empty when the GPU has none.
func (d *device) GetMemoryAffinity(nodes int, _ nvml.AffinityScope) ([]uint, nvml.Return) {
	return value(d, "GetMemoryAffinity", func() ([]uint, nvml.Return) {
		node := 0
		if n := len(d.f.node.GPUs); n > 1 && d.index >= n/2 {
			node = 1
		}
		if n := d.gpu().NUMANode; n != nil {
			node = *n
		}
		set := make([]uint, nodes/strconv.IntSize+1)
		if node >= 0 && node < nodes {
			set[node/strconv.IntSize] = 1 << (node % strconv.IntSize)
		}
		return set, nvml.SUCCESS
	})
}

// link is where a link leads that is up.
func (d *device) link(link int, answer func(to int) nvml.Return) nvml.Return {
	links := d.f.node.links(d.index)
	switch {
	case len(links) == 0 && Models[d.gpu().Model].links == 0:
		return nvml.ERROR_NOT_SUPPORTED
	case link < 0 || link >= max(len(links), Models[d.gpu().Model].links):
		return nvml.ERROR_INVALID_ARGUMENT
	case link >= len(links) || slices.Contains(d.gpu().LinksDown, link) || links[link] >= 0 && d.f.gpus[links[link]].gone:
		return nvml.ERROR_NOT_FOUND
	}
	return answer(links[link])
}

func (d *device) GetNvLinkState(link int) (nvml.EnableState, nvml.Return) {
	return value(d, "GetNvLinkState", func() (nvml.EnableState, nvml.Return) {
		switch ret := d.link(link, func(int) nvml.Return { return nvml.SUCCESS }); ret {
		case nvml.SUCCESS:
			return nvml.FEATURE_ENABLED, ret
		case nvml.ERROR_NOT_FOUND:
			return nvml.FEATURE_DISABLED, nvml.SUCCESS
		default:
			return nvml.FEATURE_DISABLED, ret
		}
	})
}

func (d *device) GetNvLinkRemoteDeviceType(link int) (kind nvml.IntNvLinkDeviceType, ret nvml.Return) {
	ret = d.ask("GetNvLinkRemoteDeviceType", func() nvml.Return {
		return d.link(link, func(to int) nvml.Return {
			switch {
			case d.gpu().UnknownLinks:
				kind = nvml.NVLINK_DEVICE_TYPE_UNKNOWN
			case to == toSwitch:
				kind = nvml.NVLINK_DEVICE_TYPE_SWITCH
			default:
				kind = nvml.NVLINK_DEVICE_TYPE_GPU
			}
			return nvml.SUCCESS
		})
	})
	return kind, ret
}

func (d *device) GetNvLinkRemotePciInfo(link int) (pci nvml.PciInfo, ret nvml.Return) {
	ret = d.ask("GetNvLinkRemotePciInfo", func() nvml.Return {
		return d.link(link, func(to int) nvml.Return {
			if to != toSwitch {
				pci = d.f.handle(to).pci()
				return nvml.SUCCESS
			}
			for i, c := range fmt.Appendf(nil, "00000000:C%d:00.0", link%8) {
				pci.BusId[i] = int8(c)
			}
			return nvml.SUCCESS
		})
	})
	return pci, ret
}

// GetGpuFabricInfo is of a fabric of this node alone where there are switches and no wider fabric, on Hopper and later.
func (d *device) GetGpuFabricInfo() (nvml.GpuFabricInfo, nvml.Return) {
	return value(d, "GetGpuFabricInfo", func() (nvml.GpuFabricInfo, nvml.Return) {
		switch {
		case d.f.node.Fabric != nil:
			info, _ := d.f.node.Fabric.info()
			return info, nvml.SUCCESS
		case d.f.node.Topology == NVSwitch && d.model().architecture >= nvml.DEVICE_ARCH_HOPPER:
			return nvml.GpuFabricInfo{State: nvml.GPU_FABRIC_STATE_COMPLETED}, nvml.SUCCESS
		}
		return nvml.GpuFabricInfo{}, nvml.ERROR_NOT_SUPPORTED
	})
}

// GetFieldValues knows the recovery action.
func (d *device) GetFieldValues(values []nvml.FieldValue) nvml.Return {
	return d.ask("GetFieldValues", func() nvml.Return {
		for i := range values {
			values[i].NvmlReturn = uint32(nvml.ERROR_NOT_SUPPORTED)
			if r := d.gpu().Recovery; r != nil && values[i].FieldId == nvml.FI_DEV_GET_GPU_RECOVERY_ACTION {
				values[i].NvmlReturn = uint32(nvml.SUCCESS)
				values[i].ValueType = uint32(nvml.VALUE_TYPE_UNSIGNED_INT)
				binary.NativeEndian.PutUint32(values[i].Value[:], *r)
			}
		}
		return nvml.SUCCESS
	})
}

// GetMemoryLimits_v1 knows what was set. A GPU in MIG mode has none.
func (d *device) GetMemoryLimits_v1(cgroup string) (nvml.MemoryLimits_v1, nvml.Return) {
	return value(d, "GetMemoryLimits_v1", func() (nvml.MemoryLimits_v1, nvml.Return) {
		if d.gpu().MIG.Enabled {
			return nvml.MemoryLimits_v1{}, nvml.ERROR_NOT_SUPPORTED
		}
		limits, ok := d.state().limits[cgroup]
		if !ok {
			return nvml.MemoryLimits_v1{}, nvml.ERROR_NOT_FOUND
		}
		return limits, nvml.SUCCESS
	})
}

func (d *device) SetMemoryLimits_v1(cgroup string, soft, hard uint64) nvml.Return {
	return d.ask("SetMemoryLimits_v1", func() nvml.Return {
		switch {
		case d.gpu().MIG.Enabled:
			return nvml.ERROR_NOT_SUPPORTED
		case soft > hard || hard > d.memory().Total:
			return nvml.ERROR_INVALID_ARGUMENT
		}
		if d.state().limits == nil {
			d.state().limits = map[string]nvml.MemoryLimits_v1{}
		}
		d.state().limits[cgroup] = nvml.MemoryLimits_v1{NameSpace: cgroup, SoftLimit: soft, HardLimit: hard}
		return nvml.SUCCESS
	})
}

func (d *device) GetUtilizationRates() (nvml.Utilization, nvml.Return) {
	return value(d, "GetUtilizationRates", func() (nvml.Utilization, nvml.Return) {
		if d.gpu().MIG.Enabled {
			return nvml.Utilization{}, nvml.ERROR_NOT_SUPPORTED
		}
		return nvml.Utilization{Gpu: d.gpu().SMPercent, Memory: d.gpu().MemoryBusPercent}, nvml.SUCCESS
	})
}

func (d *device) GetPowerUsage() (uint32, nvml.Return) {
	return value(d, "GetPowerUsage", func() (uint32, nvml.Return) {
		if d.gpu().PowerMilliwatt == 0 {
			return 0, nvml.ERROR_NOT_SUPPORTED
		}
		return d.gpu().PowerMilliwatt, nvml.SUCCESS
	})
}

func (d *device) GetComputeRunningProcesses() ([]nvml.ProcessInfo, nvml.Return) {
	return d.processes("GetComputeRunningProcesses", func(p Process) bool { return !p.Graphics && !p.MPS })
}

func (d *device) GetGraphicsRunningProcesses() ([]nvml.ProcessInfo, nvml.Return) {
	return d.processes("GetGraphicsRunningProcesses", func(p Process) bool { return p.Graphics })
}

func (d *device) GetMPSComputeRunningProcesses() ([]nvml.ProcessInfo, nvml.Return) {
	return d.processes("GetMPSComputeRunningProcesses", func(p Process) bool { return p.MPS })
}

// processes are those of the GPU that are in a list, outside of MIG mode.
func (d *device) processes(method string, in func(Process) bool) ([]nvml.ProcessInfo, nvml.Return) {
	return value(d, method, func() ([]nvml.ProcessInfo, nvml.Return) {
		var all []nvml.ProcessInfo
		for _, p := range d.gpu().Processes {
			if in(p) && p.Instance == "" {
				all = append(all, p.info())
			}
		}
		return all, nvml.SUCCESS
	})
}

// info is what NVML says of a process outside of MIG mode.
func (p Process) info() nvml.ProcessInfo {
	i := nvml.ProcessInfo{Pid: p.PID, UsedGpuMemory: ^uint64(0), GpuInstanceId: ^uint32(0), ComputeInstanceId: ^uint32(0)}
	if p.MemoryMiB != nil {
		i.UsedGpuMemory = *p.MemoryMiB << 20
	}
	return i
}

// GetProcessUtilization are the samples after a time. None is an error, as on real GPUs.
func (d *device) GetProcessUtilization(after uint64) ([]nvml.ProcessUtilizationSample, nvml.Return) {
	return value(d, "GetProcessUtilization", func() ([]nvml.ProcessUtilizationSample, nvml.Return) {
		if d.gpu().MIG.Enabled {
			return nil, nvml.ERROR_NOT_SUPPORTED
		}
		var all []nvml.ProcessUtilizationSample
		for _, p := range d.gpu().Processes {
			for _, s := range p.Samples {
				if s.At > after {
					all = append(all, nvml.ProcessUtilizationSample{Pid: p.PID, TimeStamp: s.At, SmUtil: s.SMPercent})
				}
			}
		}
		if len(all) == 0 {
			return nil, nvml.ERROR_NOT_FOUND
		}
		return all, nvml.SUCCESS
	})
}

func (d *device) IsMigDeviceHandle() (bool, nvml.Return) { return false, nvml.SUCCESS }
