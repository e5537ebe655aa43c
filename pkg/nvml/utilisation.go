package nvml

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"weft.sh/weft/pkg/gpu"
)

// Utilisation is how much a GPU is used. Nil means that the GPU or the driver does not say.
type Utilisation struct {
	// SMPercent is the part of the last sample period (up to a second) in which a kernel ran at all, MemoryBusPercent in which
	// memory was read or written. Never in MIG mode.
	SMPercent, MemoryBusPercent *int64
	// UsedMiB is the memory in use; with drivers that tell it apart, without what the driver keeps for itself.
	UsedMiB *int64
	// PowerMilliwatt is the power drawn.
	PowerMilliwatt *int64
	// Instances are the MIG devices, empty unless in MIG mode.
	Instances []InstanceUtilisation
	// Processes are by PID, then by instance: one entry per process and MIG device, one per process outside of MIG mode. PIDs
	// are those of the PID namespace that this program sees; without the host's, NVML tells none.
	Processes []ProcessUtilisation
	// Until is the driver's clock in microseconds: the next call's since. It does not move where there are no samples.
	Until uint64
}

// InstanceUtilisation is how much a MIG device is used.
type InstanceUtilisation struct {
	UUID                         string
	GPUInstance, ComputeInstance int
	UsedMiB                      *int64
}

// ProcessUtilisation is how much one process uses a GPU or MIG device.
type ProcessUtilisation struct {
	PID int
	// SMPercent is the mean of the samples after since, nil when there is none or the driver does not say (in MIG mode).
	SMPercent *int64
	UsedMiB   *int64
	// GPUInstance and ComputeInstance are NVML's ids, -1 when the GPU is not in MIG mode.
	GPUInstance, ComputeInstance int
}

// Utilisation reads how much the GPU is used. since is Until of the call before, 0 at first. The error wraps [ErrNoGPU] when
// the GPU does not answer.
func (l *Library) Utilisation(id gpu.ID, since uint64) (Utilisation, error) {
	if err := l.enter(); err != nil {
		return Utilisation{}, err
	}
	defer l.leave()
	dev := l.handle(id)
	if dev == nil {
		return Utilisation{}, fmt.Errorf("GPU %s: %w: it did not answer when the GPUs were last looked for", id, ErrNoGPU)
	}
	mig, _, ret := l.migMode(dev)
	if ret != nvml.SUCCESS {
		l.lose(ret)
		return Utilisation{}, fmt.Errorf("GPU %s: %w: %s", id, ErrNoGPU, why(ret))
	}
	u := Utilisation{Until: since}
	if u.UsedMiB, ret = l.used(dev); gone(ret) {
		l.lose(ret)
		return Utilisation{}, fmt.Errorf("GPU %s: %w: %s", id, ErrNoGPU, why(ret))
	}
	if p, ret := dev.GetPowerUsage(); ret == nvml.SUCCESS {
		u.PowerMilliwatt = new(int64(p))
	}
	if mig {
		l.instances(dev, &u)
		return u, nil
	}
	if r, ret := dev.GetUtilizationRates(); ret == nvml.SUCCESS {
		u.SMPercent, u.MemoryBusPercent = new(int64(r.Gpu)), new(int64(r.Memory))
	}
	u.Processes = l.processes(dev)
	if samples, ret := dev.GetProcessUtilization(since); ret == nvml.SUCCESS {
		u.addSamples(samples, since)
	}
	slices.SortFunc(u.Processes, compareProcesses)
	return u, nil
}

// used is the memory in use, nil when NVML does not say.
func (l *Library) used(dev nvml.Device) (*int64, nvml.Return) {
	if l.has["nvmlDeviceGetMemoryInfo_v2"] {
		if m, ret := dev.GetMemoryInfo_v2(); ret == nvml.SUCCESS {
			return new(int64(m.Used / mib)), ret
		}
	}
	m, ret := dev.GetMemoryInfo()
	if ret != nvml.SUCCESS {
		return nil, ret
	}
	return new(int64(m.Used / mib)), ret
}

// instances reads what the MIG devices use.
func (l *Library) instances(dev nvml.Device, u *Utilisation) {
	count, ret := dev.GetMaxMigDeviceCount()
	if ret != nvml.SUCCESS {
		return
	}
	for i := range min(count, maxMIGDevices) {
		m, ret := dev.GetMigDeviceHandleByIndex(i)
		if ret != nvml.SUCCESS {
			continue
		}
		uuid, ret := m.GetUUID()
		gi, ret2 := m.GetGpuInstanceId()
		ci, ret3 := m.GetComputeInstanceId()
		if ret != nvml.SUCCESS || ret2 != nvml.SUCCESS || ret3 != nvml.SUCCESS {
			continue
		}
		in := InstanceUtilisation{UUID: uuid, GPUInstance: gi, ComputeInstance: ci}
		in.UsedMiB, _ = l.used(m)
		u.Instances = append(u.Instances, in)
		for _, p := range l.processes(m) {
			p.GPUInstance, p.ComputeInstance = gi, ci
			u.Processes = append(u.Processes, p)
		}
	}
	slices.SortFunc(u.Processes, compareProcesses)
}

func compareProcesses(a, b ProcessUtilisation) int {
	return cmp.Or(cmp.Compare(a.PID, b.PID), cmp.Compare(a.GPUInstance, b.GPUInstance), cmp.Compare(a.ComputeInstance, b.ComputeInstance))
}

// processes are those that use a GPU or MIG device, each once, with its memory.
func (l *Library) processes(dev nvml.Device) []ProcessUtilisation {
	var all []ProcessUtilisation
	lists := []func() ([]nvml.ProcessInfo, nvml.Return){dev.GetComputeRunningProcesses, dev.GetGraphicsRunningProcesses}
	if l.has["nvmlDeviceGetMPSComputeRunningProcesses"] {
		lists = append(lists, dev.GetMPSComputeRunningProcesses)
	}
	for _, list := range lists {
		infos, ret := list()
		if ret != nvml.SUCCESS {
			continue
		}
		for _, info := range infos {
			// A process that computes and draws stands in two lists, with the same memory.
			if slices.ContainsFunc(all, func(p ProcessUtilisation) bool { return p.PID == int(info.Pid) }) {
				continue
			}
			p := ProcessUtilisation{
				PID: int(info.Pid), GPUInstance: instanceID(info.GpuInstanceId), ComputeInstance: instanceID(info.ComputeInstanceId),
			}
			if info.UsedGpuMemory != math.MaxUint64 { // NVML_VALUE_NOT_AVAILABLE
				p.UsedMiB = new(int64(info.UsedGpuMemory / mib))
			}
			all = append(all, p)
		}
	}
	return all
}

// addSamples gives the processes the mean of their samples after since. A process may have ended since it was sampled: then
// only its samples tell of it.
func (u *Utilisation) addSamples(samples []nvml.ProcessUtilizationSample, since uint64) {
	type sum struct{ percent, n int64 }
	sums := map[int]sum{}
	for _, s := range samples {
		// The driver keeps a ring of samples and fills what it has not used with zeroes.
		if s.TimeStamp <= since {
			continue
		}
		u.Until = max(u.Until, s.TimeStamp)
		m := sums[int(s.Pid)]
		sums[int(s.Pid)] = sum{m.percent + int64(min(s.SmUtil, 100)), m.n + 1}
	}
	for pid, m := range sums {
		k := slices.IndexFunc(u.Processes, func(p ProcessUtilisation) bool { return p.PID == pid })
		if k < 0 {
			u.Processes = append(u.Processes, ProcessUtilisation{PID: pid, GPUInstance: -1, ComputeInstance: -1})
			k = len(u.Processes) - 1
		}
		u.Processes[k].SMPercent = new((m.percent + m.n/2) / m.n)
	}
}
