package playground

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/mig"
)

// Shape is a kind of simulated node.
type Shape struct {
	// Name is what --nodes calls it, and the node's instance type.
	Name string
	// About is a few words for the help.
	About string
	// Product is the GPU model, as in the node label nvidia.com/gpu.product.
	Product string
	// GPUs is the number of GPUs, of which the last MIGGPUs are in MIG mode and partitioned on demand.
	GPUs, MIGGPUs int
	// GPUMemoryMiB is the memory of each GPU.
	GPUMemoryMiB int64
	// CPUMilli and MemoryMiB are the node's own.
	CPUMilli, MemoryMiB int64
	// LabelsOnly nodes publish no ResourceSlices: they have only the labels of NVIDIA's own plugin.
	LabelsOnly bool
}

// shapes are modelled on machines that clouds and vendors offer; GPU memory is what nvidia-smi reports.
var shapes = []Shape{
	{Name: "a100-mig", About: "8 x A100 40 GB, 4 of them in MIG mode", Product: "NVIDIA-A100-SXM4-40GB", GPUs: 8, MIGGPUs: 4, GPUMemoryMiB: 40960, CPUMilli: 96_000, MemoryMiB: 1152 << 10},
	{Name: "a100", About: "8 x A100 80 GB", Product: "NVIDIA-A100-SXM4-80GB", GPUs: 8, GPUMemoryMiB: 81920, CPUMilli: 96_000, MemoryMiB: 1152 << 10},
	{Name: "h100", About: "8 x H100 80 GB", Product: "NVIDIA-H100-80GB-HBM3", GPUs: 8, GPUMemoryMiB: 81559, CPUMilli: 192_000, MemoryMiB: 2048 << 10},
	{Name: "h100-mig", About: "8 x H100 80 GB, all in MIG mode", Product: "NVIDIA-H100-80GB-HBM3", GPUs: 8, MIGGPUs: 8, GPUMemoryMiB: 81559, CPUMilli: 192_000, MemoryMiB: 2048 << 10},
	{Name: "h200", About: "8 x H200 141 GB", Product: "NVIDIA-H200", GPUs: 8, GPUMemoryMiB: 143771, CPUMilli: 192_000, MemoryMiB: 2048 << 10},
	{Name: "l4", About: "4 x L4 24 GB", Product: "NVIDIA-L4", GPUs: 4, GPUMemoryMiB: 23034, CPUMilli: 48_000, MemoryMiB: 192 << 10},
	{Name: "a10", About: "4 x A10G 24 GB", Product: "NVIDIA-A10G", GPUs: 4, GPUMemoryMiB: 23028, CPUMilli: 48_000, MemoryMiB: 192 << 10},
	{Name: "t4", About: "4 x T4 16 GB", Product: "Tesla-T4", GPUs: 4, GPUMemoryMiB: 15360, CPUMilli: 48_000, MemoryMiB: 192 << 10},
	{Name: "v100", About: "8 x V100 16 GB", Product: "Tesla-V100-SXM2-16GB", GPUs: 8, GPUMemoryMiB: 16384, CPUMilli: 64_000, MemoryMiB: 488 << 10},
	{Name: "t4-labels", About: "4 x T4 16 GB, known only by NVIDIA's labels", Product: "Tesla-T4", GPUs: 4, GPUMemoryMiB: 15360, CPUMilli: 48_000, MemoryMiB: 192 << 10, LabelsOnly: true},
}

// Shapes returns all shapes in the order of the help. The caller owns the result.
func Shapes() []Shape { return slices.Clone(shapes) }

// MaxNodes bounds --nodes: a slip of the finger should not fill the machine.
const MaxNodes = 20_000

// nodesPerRack is how many nodes of a shape stand in a rack.
const nodesPerRack = 4

// ErrBadNodes is wrapped by every error of [ParseNodes].
var ErrBadNodes = errors.New("bad list of nodes")

// ParseNodes reads a list such as "a100-mig=2,h100=2,l4=3" into nodes named a100-mig-0, a100-mig-1, h100-0 and so on.
func ParseNodes(list string) ([]Node, error) {
	var nodes []Node
	seen := map[string]bool{}
	for entry := range strings.SplitSeq(list, ",") {
		name, number, ok := strings.Cut(strings.TrimSpace(entry), "=")
		if !ok {
			return nil, fmt.Errorf("%w: %q: want shape=number, for example h100=2", ErrBadNodes, entry)
		}
		i := slices.IndexFunc(shapes, func(s Shape) bool { return s.Name == name })
		if i < 0 {
			return nil, fmt.Errorf("%w: shape %q: want one of %s", ErrBadNodes, name, shapeNames())
		}
		if seen[name] {
			return nil, fmt.Errorf("%w: shape %q stands twice", ErrBadNodes, name)
		}
		seen[name] = true
		n, err := strconv.Atoi(number)
		if err != nil || n < 1 || n > MaxNodes {
			return nil, fmt.Errorf("%w: %s=%q: want a number from 1 to %d", ErrBadNodes, name, number, MaxNodes)
		}
		for k := range n {
			node := shapes[i].node(fmt.Sprintf("%s-%d", name, k))
			node.Rack = fmt.Sprintf("%s-rack-%d", name, k/nodesPerRack)
			nodes = append(nodes, node)
		}
	}
	if len(nodes) > MaxNodes {
		return nil, fmt.Errorf("%w: %d nodes: want at most %d", ErrBadNodes, len(nodes), MaxNodes)
	}
	return nodes, nil
}

func shapeNames() string {
	names := make([]string, len(shapes))
	for i, s := range shapes {
		names[i] = s.Name
	}
	return strings.Join(names, ", ")
}

// node makes a node of the shape.
func (s Shape) node(name string) Node {
	n := Node{
		Name: name, InstanceType: s.Name, CPUMilli: s.CPUMilli, MemoryMiB: s.MemoryMiB,
		Devices: devices(name, s.Product, s.GPUs, s.GPUMemoryMiB), LabelsOnly: s.LabelsOnly,
	}
	if s.MIGGPUs > 0 {
		table, ok := mig.TableByProduct(s.Product)
		for i := s.GPUs - s.MIGGPUs; ok && i < s.GPUs; i++ {
			n.Devices[i].MIG = true
			n.Devices[i].Instances = table.Instances()
		}
	}
	return n
}

// devices makes the GPUs of a node, none of them in MIG mode.
func devices(node, product string, count int, memoryMiB int64) []gpu.Device {
	all := make([]gpu.Device, count)
	for i := range all {
		all[i] = gpu.Device{ID: deviceID(node, i), Index: i, Product: product, MemoryMiB: memoryMiB}
	}
	return all
}
