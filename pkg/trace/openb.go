package trace

import (
	"io"
	"iter"
	"os"
	"strings"
	"time"
)

// Bounds of the lists: far above the traces, and low enough that no sum overflows.
const (
	maxMilliCPU    = 1_000_000_000
	maxMemoryMiB   = 1 << 30
	maxGPUsPerNode = 64
	maxSeconds     = 1 << 32
)

// Node is a row of an openb node list.
type Node struct {
	Name                string
	MilliCPU, MemoryMiB int64
	// GPUs is 0 for a node without; Model is then empty.
	GPUs  int
	Model string
	Line  int
}

func (n Node) named() (string, int) { return n.Name, n.Line }

// Pod is a row of an openb pod list.
type Pod struct {
	Name                string
	MilliCPU, MemoryMiB int64
	// GPUs is the number of GPUs, and MilliGPU the part of each: 1000 for whole ones, 0 when GPUs is 0.
	GPUs     int
	MilliGPU int64
	// Models are the GPU models that will do, as listed; empty when all do.
	Models []string
	// Created and Deleted are since the start of the trace; both 0 in lists without times. Deleted is not before Created.
	Created, Deleted time.Duration
	Line             int
}

func (p Pod) named() (string, int) { return p.Name, p.Line }

// TotalMilliGPU is what the pod asks of all its GPUs.
func (p *Pod) TotalMilliGPU() int64 { return int64(p.GPUs) * p.MilliGPU }

// OpenbNodes reads a node list of the openb trace: columns sn, cpu_milli, memory_mib, gpu, model. file stands in errors.
func OpenbNodes(r io.Reader, file string) iter.Seq2[Node, error] {
	columns := []string{"sn", "cpu_milli", "memory_mib", "gpu", "model"}
	return rows(r, file, columns, nil, func(t *table) Node {
		n := Node{
			Name: t.name("sn"), MilliCPU: t.number("cpu_milli", 1, maxMilliCPU), MemoryMiB: t.number("memory_mib", 1, maxMemoryMiB),
			GPUs: int(t.number("gpu", 0, maxGPUsPerNode)), Line: t.line(),
		}
		if n.GPUs > 0 {
			n.Model = strings.Clone(t.text("model"))
			t.model("model", n.Model)
		}
		return n
	})
}

// OpenbPods reads a pod list of the openb trace, in either of its forms: columns name, cpu_milli, memory_mib, num_gpu,
// gpu_milli, and with or without gpu_spec, qos, pod_phase, creation_time, deletion_time and scheduled_time. file stands in
// errors.
//
// gpu_milli is per GPU, 1000 is whole GPUs. gpu_spec lists the models that will do, separated by |.
func OpenbPods(r io.Reader, file string) iter.Seq2[Pod, error] {
	required := []string{"name", "cpu_milli", "memory_mib", "num_gpu", "gpu_milli"}
	optional := []string{"gpu_spec", "qos", "pod_phase", "creation_time", "deletion_time", "scheduled_time"}
	return rows(r, file, required, optional, func(t *table) Pod {
		p := Pod{
			Name: t.name("name"), MilliCPU: t.number("cpu_milli", 0, maxMilliCPU), MemoryMiB: t.number("memory_mib", 0, maxMemoryMiB),
			GPUs: int(t.number("num_gpu", 0, maxGPUsPerNode)), MilliGPU: t.number("gpu_milli", 0, 1000), Line: t.line(),
		}
		if (p.GPUs == 0) != (p.MilliGPU == 0) {
			t.fail("", "num_gpu is %d and gpu_milli is %d: want both 0 or none", p.GPUs, p.MilliGPU)
		}
		if spec := t.text("gpu_spec"); spec != "" {
			p.Models = strings.Split(strings.Clone(spec), "|")
			for _, model := range p.Models {
				t.model("gpu_spec", model)
			}
		}
		if t.text("creation_time") != "" {
			p.Created = time.Duration(t.number("creation_time", 0, maxSeconds)) * time.Second
		}
		if t.text("deletion_time") != "" {
			p.Deleted = time.Duration(t.number("deletion_time", 0, maxSeconds)) * time.Second
			if p.Deleted < p.Created {
				t.fail("deletion_time", "is %q: want no less than creation_time, %d", t.text("deletion_time"), p.Created/time.Second)
			}
		}
		return p
	})
}

// Load reads an openb node list and an openb pod list from files; no pods when podFile is empty, and at most limit of them
// unless it is 0. See [Collect].
func Load(nodeFile, podFile string, limit int) ([]Node, []Pod, error) {
	nodes, err := loadFile(nodeFile, "sn", 0, OpenbNodes)
	if err != nil || podFile == "" {
		return nodes, nil, err
	}
	pods, err := loadFile(podFile, "name", limit, OpenbPods)
	return nodes, pods, err
}

func loadFile[T Named](file, column string, limit int, read func(io.Reader, string) iter.Seq2[T, error]) ([]T, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return Collect(read(f, file), file, column, limit)
}

// openbMemoryMiB is the memory of a GPU per model of the trace, which names models but not their memory. G2 and G3 are
// models that it does not disclose; they are given that of an A10 and an A100.
var openbMemoryMiB = map[string]int64{
	"A10": 23028, "G2": 23028, "G3": 40960, "P4": 7680, "P100": 16384, "T4": 15360, "V100M16": 16384, "V100M32": 32768,
}

// GPUMemoryMiB is the memory of a GPU of the model, 16 GiB for one that the openb trace does not have. It matters only to
// pods with a floor on memory, and pods of the trace have none.
func GPUMemoryMiB(model string) int64 {
	if m, ok := openbMemoryMiB[model]; ok {
		return m
	}
	return 16384
}
