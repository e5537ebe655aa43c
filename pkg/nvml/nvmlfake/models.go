package nvmlfake

import (
	"slices"
	"strings"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"weft.sh/weft/pkg/mig"
)

// Model is a kind of GPU.
type Model struct {
	// Name is NVML's.
	Name string
	// MemoryMiB is the memory that nvidia-smi prints. ReservedMiB is what the driver keeps; it changes with the driver, and
	// what is here is only of the right size.
	MemoryMiB, ReservedMiB int64
	architecture           nvml.DeviceArchitecture
	major, minor           int
	// links is the number of NVLinks that it has.
	links int
	// mig is the name of the table in pkg/mig, empty for GPUs without MIG.
	mig string
}

// Models are the GPUs that can be faked, by a name for descriptions.
var Models = map[string]Model{
	"A100-SXM4-40GB": {"NVIDIA A100-SXM4-40GB", 40960, 424, nvml.DEVICE_ARCH_AMPERE, 8, 0, 12, "A100-40GB"},
	"A100-SXM4-80GB": {"NVIDIA A100-SXM4-80GB", 81920, 631, nvml.DEVICE_ARCH_AMPERE, 8, 0, 12, "A100-80GB"},
	"A30":            {"NVIDIA A30", 24576, 355, nvml.DEVICE_ARCH_AMPERE, 8, 0, 4, "A30-24GB"},
	"H100-80GB":      {"NVIDIA H100 80GB HBM3", 81559, 551, nvml.DEVICE_ARCH_HOPPER, 9, 0, 18, "H100-80GB"},
	"H200":           {"NVIDIA H200", 143771, 619, nvml.DEVICE_ARCH_HOPPER, 9, 0, 18, "H200-141GB"},
	"B200":           {"NVIDIA B200", 183359, 720, nvml.DEVICE_ARCH_BLACKWELL, 10, 0, 18, "B200-180GB"},
	"L4":             {"NVIDIA L4", 23034, 535, nvml.DEVICE_ARCH_ADA, 8, 9, 0, ""},
	"T4":             {"Tesla T4", 15360, 450, nvml.DEVICE_ARCH_TURING, 7, 5, 0, ""},
	"V100-SXM2-16GB": {"Tesla V100-SXM2-16GB", 16384, 225, nvml.DEVICE_ARCH_VOLTA, 7, 0, 6, ""},
}

// of is a node of n GPUs of one model.
func of(model string, n int, t Topology) Node {
	return Node{Topology: t, GPUs: slices.Repeat([]GPU{{Model: model}}, n)}
}

// Ready-made nodes. Each call returns one of its own.

// DGXA10040GB is a DGX A100 with eight A100 of 40 GB.
func DGXA10040GB() Node { return of("A100-SXM4-40GB", 8, NVSwitch) }

// DGXA100 is a DGX A100 with eight A100 of 80 GB.
func DGXA100() Node { return of("A100-SXM4-80GB", 8, NVSwitch) }

// DGXH100 is a DGX H100.
func DGXH100() Node { return of("H100-80GB", 8, NVSwitch) }

// DGXH200 is a DGX H200.
func DGXH200() Node { return of("H200", 8, NVSwitch) }

// DGXB200 is a DGX B200.
func DGXB200() Node { return of("B200", 8, NVSwitch) }

// DGX1 is a DGX-1 with eight V100 of 16 GB.
func DGX1() Node { return of("V100-SXM2-16GB", 8, CubeMesh) }

// A30 is a node with a single A30.
func A30() Node { return of("A30", 1, NoLinks) }

// L4s is a node with eight L4, which have neither NVLink nor MIG.
func L4s() Node { return of("L4", 8, NoLinks) }

// Presets are the ready-made nodes by the names that files call them.
var Presets = map[string]func() Node{
	"dgx-a100-40gb": DGXA10040GB, "dgx-a100": DGXA100, "dgx-h100": DGXH100, "dgx-h200": DGXH200, "dgx-b200": DGXB200, "dgx-1": DGX1,
	"a30": A30, "8xl4": L4s,
}

// cubeMesh is how many links there are between the GPUs of a DGX-1 with V100, as "nvidia-smi topo -m" prints it there.
var cubeMesh = [8][8]int{
	{0, 1, 1, 2, 2, 0, 0, 0},
	{1, 0, 2, 1, 0, 2, 0, 0},
	{1, 2, 0, 2, 0, 0, 1, 0},
	{2, 1, 2, 0, 0, 0, 0, 1},
	{2, 0, 0, 0, 0, 1, 1, 2},
	{0, 2, 0, 0, 1, 0, 2, 1},
	{0, 0, 1, 0, 1, 2, 0, 2},
	{0, 0, 0, 1, 2, 1, 2, 0},
}

// toSwitch is where a link leads that leads to a switch.
const toSwitch = -1

// links are where the NVLinks of the GPU with that index lead: to a GPU's index each, or toSwitch.
func (n Node) links(index int) []int {
	g := n.GPUs[index]
	if g.Links != nil {
		return g.Links
	}
	count := Models[g.Model].links
	switch n.Topology {
	case NVSwitch:
		return slices.Repeat([]int{toSwitch}, count)
	case Pairs:
		if peer := index ^ 1; peer < len(n.GPUs) {
			return slices.Repeat([]int{peer}, count)
		}
	case CubeMesh:
		var to []int
		for peer, k := range cubeMesh[index] {
			to = append(to, slices.Repeat([]int{peer}, k)...)
		}
		return to
	}
	return nil
}

// enum is NVML's number of a profile among NVML_GPU_INSTANCE_PROFILE_*. The second profile of one compute slice, with twice
// the memory, is a revision of the first, and so is the one with media engines.
func enum(p mig.Profile) int {
	switch {
	case strings.HasSuffix(p.Name, "+me"):
		return map[int]int{1: nvml.GPU_INSTANCE_PROFILE_1_SLICE_REV1, 2: nvml.GPU_INSTANCE_PROFILE_2_SLICE_REV1}[p.ComputeSlices]
	case p.ComputeSlices == 1 && p.Size == 2:
		return nvml.GPU_INSTANCE_PROFILE_1_SLICE_REV2
	}
	return map[int]int{
		1: nvml.GPU_INSTANCE_PROFILE_1_SLICE, 2: nvml.GPU_INSTANCE_PROFILE_2_SLICE, 3: nvml.GPU_INSTANCE_PROFILE_3_SLICE,
		4: nvml.GPU_INSTANCE_PROFILE_4_SLICE, 7: nvml.GPU_INSTANCE_PROFILE_7_SLICE,
	}[p.ComputeSlices]
}

// computeSlices are the compute slices of a compute instance by NVML's number among NVML_COMPUTE_INSTANCE_PROFILE_*, which
// is the profile's id too.
var computeSlices = map[int]uint32{
	nvml.COMPUTE_INSTANCE_PROFILE_1_SLICE: 1, nvml.COMPUTE_INSTANCE_PROFILE_2_SLICE: 2, nvml.COMPUTE_INSTANCE_PROFILE_3_SLICE: 3,
	nvml.COMPUTE_INSTANCE_PROFILE_4_SLICE: 4, nvml.COMPUTE_INSTANCE_PROFILE_7_SLICE: 7,
}
