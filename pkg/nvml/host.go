package nvml

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

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

// GPU is what NVML says of one GPU. Its [gpu.Device] is valid. Instances are those that exist, in MIG mode, by start;
// Isolation is left empty, for it depends on what the node's admin enabled.
type GPU struct {
	gpu.Device
	// TotalMemoryMiB is all memory of the GPU, as in the node label nvidia.com/gpu.memory. MemoryMiB is less by what the driver
	// keeps for itself.
	TotalMemoryMiB int64
	// Minor is the number in the name of the device node, /dev/nvidia<Minor>.
	Minor int
	// MIGCapable says that the GPU could be brought into MIG mode, or is in it.
	MIGCapable bool
	// MIGDevices are the instances that exist, in the order of Instances.
	MIGDevices []MIGDevice
	// Profiles are what the GPU could be partitioned into, by compute slices, size and name. Some GPUs tell them only in MIG
	// mode.
	Profiles []Profile
	// MemoryLimits says that the driver can bound the GPU's memory by cgroup (driver 615 and later, and not in MIG mode).
	MemoryLimits bool
	// Incomplete are GPU instances that exist without a compute instance of their full size: nothing can be given of them, but
	// they are in the way of others. Without the permission to see them there are none.
	Incomplete []gpu.Instance
	// Problem is why the GPU cannot be used now, empty when it is sound; Unhealthy is set with it. When it does not answer,
	// everything else is as it was when it was sound.
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

// maxGPUs bounds what is believed of the number of GPUs.
const maxGPUs = 1024

// Discover reads everything. The error wraps [ErrUnavailable], when nothing at all can be told. One runs at a time.
//
// The library remembers the GPUs that it has seen sound: one that is lost later is still returned, with its Problem, until
// it is sound again. One that was lost from the beginning has no name; it is told in Problems alone. When a GPU was lost,
// Discover starts NVML anew first, for NVML looks for GPUs only when it starts: nothing else brings a lost GPU back.
func (l *Library) Discover() (Host, error) {
	l.discover.Lock()
	defer l.discover.Unlock()
	late, err := l.renew()
	if err != nil {
		return Host{}, err
	}
	if err := l.enter(); err != nil {
		return Host{}, err
	}
	defer l.leave()

	count, ret := l.lib.DeviceGetCount()
	if ret != nvml.SUCCESS {
		l.lose(ret)
		return Host{}, fmt.Errorf("%w: it does not tell the number of GPUs (NVML: %w)", ErrUnavailable, ret)
	}
	h := Host{}
	if late {
		h.problem("a call to NVML has not returned for %s: a GPU that was lost cannot be seen again before it does", patience)
	}
	if count > maxGPUs {
		h.problem("NVML tells of %d GPUs; only the first %d are looked at", count, maxGPUs)
		count = maxGPUs
	}
	h.DriverVersion, _ = l.lib.SystemGetDriverVersion()
	h.NVMLVersion, _ = l.lib.SystemGetNVMLVersion()
	if v, ret := l.lib.SystemGetCudaDriverVersion(); ret == nvml.SUCCESS && v > 0 {
		h.CUDAVersion = fmt.Sprintf("%d.%d", v/1000, v%1000/10)
	}

	r := reading{Library: l, host: &h, handles: map[gpu.ID]nvml.Device{}}
	for i := range count {
		r.gpu(i)
	}
	r.missing()
	r.links()
	slices.SortFunc(h.GPUs, func(a, b GPU) int { return cmp.Compare(a.Index, b.Index) })
	l.keep(r)
	return h, nil
}

func (h *Host) problem(format string, args ...any) {
	h.Problems = append(h.Problems, fmt.Sprintf(format, args...))
}

// reading is one Discover.
type reading struct {
	*Library
	host *Host
	// handles are those of the GPUs that answer.
	handles map[gpu.ID]nvml.Device
	// silent are the indices of GPUs that have not told who they are, and why.
	silent []silence
}

type silence struct {
	index  int
	reason string
}

// gpu reads the GPU with that index.
func (r *reading) gpu(index int) {
	dev, ret := r.lib.DeviceGetHandleByIndex(index)
	if ret != nvml.SUCCESS {
		r.lose(ret)
		r.silent = append(r.silent, silence{index, why(ret)})
		return
	}
	id, ret := dev.GetUUID()
	if ret != nvml.SUCCESS {
		r.lose(ret)
		r.silent = append(r.silent, silence{index, why(ret)})
		return
	}
	if _, ok := r.handles[gpu.ID(id)]; ok {
		r.host.problem("GPU %d has the UUID %s of another GPU: it is left out", index, id)
		return
	}
	if name, ret := dev.GetName(); ret == nvml.SUCCESS && displayOnly[name] {
		return
	}
	g, problems, ret := r.read(dev, gpu.ID(id), index)
	if ret != nvml.SUCCESS {
		r.lose(ret)
		r.broken(gpu.ID(id), index, why(ret))
		return
	}
	if err := g.Validate(); err != nil {
		r.broken(gpu.ID(id), index, fmt.Sprintf("what it says of itself cannot be: %v", err))
		return
	}
	for _, p := range problems {
		r.host.problem("GPU %d (%s): %s", index, id, p)
	}
	if g.Problem != "" {
		g = g.broken(g.Problem)
		r.host.problem("GPU %d (%s): %s", index, id, g.Problem)
	}
	r.handles[g.ID] = dev
	r.host.GPUs = append(r.host.GPUs, g)
}

// displayOnly are built into workstations beside the real ones.
var displayOnly = map[string]bool{"DGX Display": true, "NVIDIA DGX Display": true}

// broken tells of a GPU that said who it is and nothing more.
func (r *reading) broken(id gpu.ID, index int, reason string) {
	r.host.problem("GPU %d (%s): %s", index, id, reason)
	r.mu.Lock()
	g, ok := r.sound[id]
	r.mu.Unlock()
	if ok {
		g.Index = index
		r.host.GPUs = append(r.host.GPUs, g.clone().broken(reason))
	}
}

// broken is the GPU, unusable for that reason.
func (g GPU) broken(reason string) GPU {
	g.Problem, g.Unhealthy, g.UnhealthyReason = reason, true, short(reason)
	return g
}

// short is the reason as gpu.Device takes it.
func short(reason string) string {
	reason = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(reason, "?"))
	if len(reason) > gpu.MaxReason {
		reason = strings.ToValidUTF8(reason[:gpu.MaxReason], "")
	}
	return reason
}

// missing tells of the GPUs that were seen before and do not say who they are now.
func (r *reading) missing() {
	r.mu.Lock()
	gone := maps.Clone(r.sound)
	r.mu.Unlock()
	used := map[int]bool{}
	for _, g := range r.host.GPUs {
		delete(gone, g.ID)
		used[g.Index] = true
	}
	for _, s := range r.silent {
		used[s.index] = true
		id, known := gpu.ID(""), false
		for _, g := range gone {
			if g.Index == s.index {
				id, known = g.ID, true
			}
		}
		if !known {
			r.host.problem("GPU %d: %s; its name is not known, for it was so from the start", s.index, s.reason)
			continue
		}
		r.host.problem("GPU %d (%s): %s", s.index, id, s.reason)
		r.host.GPUs = append(r.host.GPUs, gone[id].clone().broken(s.reason))
		delete(gone, id)
	}
	// Those that the driver counts no more. Others may have moved up to their indices.
	for _, id := range slices.Sorted(maps.Keys(gone)) {
		g := gone[id].clone().broken("the driver no longer knows of it")
		if used[g.Index] {
			for g.Index = 0; used[g.Index]; g.Index++ {
			}
		}
		used[g.Index] = true
		r.host.problem("GPU %d (%s): %s", g.Index, id, g.Problem)
		r.host.GPUs = append(r.host.GPUs, g)
		r.lose(nvml.ERROR_GPU_IS_LOST)
	}
}

// keep remembers what a Discover found.
func (l *Library) keep(r reading) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, g := range r.host.GPUs {
		if g.Problem == "" {
			l.sound[g.ID] = g.clone()
		}
	}
	same := len(l.handles) == len(r.handles)
	for id := range r.handles {
		if _, ok := l.handles[id]; !ok {
			same = false
		}
	}
	l.handles = r.handles
	if !same {
		close(l.changed)
		l.changed = make(chan struct{})
	}
}

// clone is the GPU in memory of its own, so that a caller who changes what it was given changes nothing here.
func (g GPU) clone() GPU {
	g.Instances = slices.Clone(g.Instances)
	g.MIGDevices = slices.Clone(g.MIGDevices)
	g.Incomplete = slices.Clone(g.Incomplete)
	g.Profiles = slices.Clone(g.Profiles)
	for i := range g.Profiles {
		g.Profiles[i].Placements = slices.Clone(g.Profiles[i].Placements)
	}
	if g.Hardware != nil {
		h := *g.Hardware
		h.Links.Peers = slices.Clone(h.Links.Peers)
		g.Hardware = &h
	}
	return g
}
