package nvml

import (
	"fmt"
	"math/bits"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"weft.sh/weft/pkg/gpu"
)

const mib = 1 << 20

// read reads one GPU, all but its links. It returns what is wrong besides, and NVML's answer when it is not to be had at
// all.
func (r *reading) read(dev nvml.Device, id gpu.ID, index int) (g GPU, problems []string, ret nvml.Return) {
	g = GPU{Device: gpu.Device{ID: id, Index: index, Hardware: &gpu.Hardware{NUMANode: -1}}, Minor: -1}
	if g.TotalMemoryMiB, g.MemoryMiB, ret = r.memory(dev); ret != nvml.SUCCESS {
		return g, nil, ret
	}
	name, ret := dev.GetName()
	if ret != nvml.SUCCESS {
		return g, nil, ret
	}
	// As GPU Feature Discovery of NVIDIA's device plugin writes it.
	g.Product = strings.ReplaceAll(name, " ", "-")
	if minor, ret := dev.GetMinorNumber(); ret == nvml.SUCCESS {
		g.Minor = minor
	} else {
		problems = append(problems, fmt.Sprintf("NVML does not tell its device node (%s)", ret))
	}
	r.hardware(dev, g.Hardware)

	g.MIG, g.MIGCapable, ret = r.migMode(dev)
	if ret != nvml.SUCCESS {
		return g, problems, ret
	}
	if g.MIGCapable {
		problems = append(problems, r.mig(dev, &g)...)
	}
	g.MemoryLimits = !g.MIG && r.limits(dev)

	g.Problem = look(dev).Problem()
	return g, problems, nvml.SUCCESS
}

// memory is all memory of a GPU or MIG device, and what of it containers can have: the driver keeps a part for itself, which
// only version 2 of the call tells apart.
func (l *Library) memory(dev nvml.Device) (total, usable int64, ret nvml.Return) {
	if l.has["nvmlDeviceGetMemoryInfo_v2"] {
		if m, ret := dev.GetMemoryInfo_v2(); ret == nvml.SUCCESS && m.Reserved < m.Total {
			return int64(m.Total / mib), int64((m.Total - m.Reserved) / mib), ret
		}
	}
	m, ret := dev.GetMemoryInfo()
	return int64(m.Total / mib), int64(m.Total / mib), ret
}

// hardware reads where the GPU sits. What is not told, or cannot be, is left out: none of it is needed to use the GPU.
func (r *reading) hardware(dev nvml.Device, h *gpu.Hardware) {
	set := func(f func(*gpu.Hardware)) {
		changed := *h
		f(&changed)
		if (gpu.Device{ID: "GPU", MemoryMiB: 1, Hardware: &changed}).Validate() == nil {
			*h = changed
		}
	}
	if pci, ret := dev.GetPciInfo(); ret == nvml.SUCCESS {
		set(func(h *gpu.Hardware) { h.PCIBusID = busID(pci.BusId) })
	}
	set(func(h *gpu.Hardware) { h.NUMANode = r.numaNode(dev, h.PCIBusID) })
	if r.has["nvmlDeviceGetArchitecture"] {
		if a, ret := dev.GetArchitecture(); ret == nvml.SUCCESS {
			h.Architecture = architectures[a]
		}
	}
	if major, minor, ret := dev.GetCudaComputeCapability(); ret == nvml.SUCCESS {
		set(func(h *gpu.Hardware) { h.ComputeCapability = fmt.Sprintf("%d.%d", major, minor) })
	}
	set(func(h *gpu.Hardware) { h.DriverVersion = r.host.DriverVersion })
	set(func(h *gpu.Hardware) { h.CUDAVersion = r.host.CUDAVersion })
	h.Clique = r.clique(dev)
}

var architectures = map[nvml.DeviceArchitecture]string{
	nvml.DEVICE_ARCH_KEPLER:    "kepler",
	nvml.DEVICE_ARCH_MAXWELL:   "maxwell",
	nvml.DEVICE_ARCH_PASCAL:    "pascal",
	nvml.DEVICE_ARCH_VOLTA:     "volta",
	nvml.DEVICE_ARCH_TURING:    "turing",
	nvml.DEVICE_ARCH_AMPERE:    "ampere",
	nvml.DEVICE_ARCH_ADA:       "ada-lovelace",
	nvml.DEVICE_ARCH_HOPPER:    "hopper",
	nvml.DEVICE_ARCH_BLACKWELL: "blackwell",
	nvml.DEVICE_ARCH_RUBIN:     "rubin",
}

// numaNode is the NUMA node that the GPU is attached to, -1 when that is not known. NVML's own GetNumaNodeId is of no use:
// it answers only where the GPU's memory is a NUMA node itself, with that node.
func (l *Library) numaNode(dev nvml.Device, bus string) int {
	if bus != "" {
		data, err := os.ReadFile(filepath.Join(l.sysRoot, "sys/bus/pci/devices", bus, "numa_node"))
		if n, bad := strconv.Atoi(strings.TrimSpace(string(data))); err == nil && bad == nil && n >= 0 && n <= gpu.MaxNUMANode {
			return n
		}
	}
	if !l.has["nvmlDeviceGetMemoryAffinity"] {
		return -1
	}
	set, ret := dev.GetMemoryAffinity(gpu.MaxNUMANode+1, nvml.AFFINITY_SCOPE_NODE)
	if ret != nvml.SUCCESS {
		return -1
	}
	node := -1
	for i, word := range set {
		switch {
		case word == 0:
		case node >= 0 || word&(word-1) != 0:
			return -1 // near to several: to none in particular
		default:
			node = i*bits.UintSize + bits.TrailingZeros(word)
		}
	}
	return node
}

// clique is the fabric clique of a GPU in an NVLink domain that spans nodes, empty where there is none or it is not ready.
// Fabrics of one node have a cluster UUID of zero.
func (l *Library) clique(dev nvml.Device) string {
	var info nvml.GpuFabricInfo
	var ret nvml.Return
	switch {
	case l.has["nvmlDeviceGetGpuFabricInfo"]:
		info, ret = dev.GetGpuFabricInfo()
	case l.has["nvmlDeviceGetGpuFabricInfoV"]:
		var v nvml.GpuFabricInfo_v2
		v, ret = dev.GetGpuFabricInfoV().V2()
		info = nvml.GpuFabricInfo{ClusterUuid: v.ClusterUuid, Status: v.Status, CliqueId: v.CliqueId, State: v.State}
	default:
		return ""
	}
	u := info.ClusterUuid
	done := info.State == nvml.GPU_FABRIC_STATE_COMPLETED && nvml.Return(info.Status) == nvml.SUCCESS
	if ret != nvml.SUCCESS || !done || u == [16]uint8{} {
		return ""
	}
	return fmt.Sprintf("%x-%x-%x-%x-%x.%d", u[:4], u[4:6], u[6:8], u[8:10], u[10:], info.CliqueId)
}

// limits reports whether the driver can bound memory by cgroup. It is asked for the limits of the cgroup at the top: that it
// has none is an answer too.
func (l *Library) limits(dev nvml.Device) bool {
	if !l.has["nvmlDeviceGetMemoryLimits_v1"] {
		return false
	}
	_, ret := dev.GetMemoryLimits_v1("/sys/fs/cgroup")
	return ret == nvml.SUCCESS || ret == nvml.ERROR_NOT_FOUND
}

var busPattern = regexp.MustCompile(`^[0-9a-f]{4}([0-9a-f]{4})?:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]$`)

// busID is NVML's PCI address, such as "00000000:65:00.0", as Linux writes it: "0000:65:00.0". It is empty when it is none.
func busID(raw [32]int8) string {
	s := strings.ToLower(text(raw[:]))
	if !busPattern.MatchString(s) {
		return ""
	}
	// Eight digits of domain, of which Linux writes four or as many as it needs.
	if domain, rest, _ := strings.Cut(s, ":"); len(domain) == 8 {
		short := strings.TrimLeft(domain, "0")
		return strings.Repeat("0", max(0, 4-len(short))) + short + ":" + rest
	}
	return s
}

// text is a string of C that ends with a zero, or with its buffer.
func text(raw []int8) string {
	b := make([]byte, 0, len(raw))
	for _, c := range raw {
		if c == 0 {
			break
		}
		b = append(b, byte(c))
	}
	return string(b)
}
