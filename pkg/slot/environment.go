package slot

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"weft.sh/weft/pkg/gpu"
)

// EnvGPUs is the variable that names a container's GPUs, in the text form of [gpu.ParseAssignment]: what stands after the
// container's name there.
const EnvGPUs = "WEFT_GPUS"

// Where a container finds the MPS control daemon of its GPU.
const (
	mpsPipe = "/mps/pipe"
	mpsShm  = "/dev/shm"
)

// ErrIsolation: the node cannot keep the container's shares apart from others as its GPUs say that it does. It never can.
var ErrIsolation = errors.New("its shares cannot be isolated as the node isolates shares")

// Surroundings is what a container needs around its GPUs besides what the hardware does.
type Surroundings struct {
	// Env are variables as NAME=value. They replace what the image or the pod has set under the same name.
	Env []string
	// Mounts are folders of the node, writable.
	Mounts []Mount
}

// Mount is a folder of the node and where the container has it.
type Mount struct {
	Host, Container string
}

// Environment is the surroundings of a container by all its grants, of whatever resource. devices are the node's. mpsRoot is the
// folder that has, by the id of each GPU whose shares MPS keeps apart, the folders pipe and shm of its control daemon.
//
// Every container is told which GPUs it has, and NVIDIA_VISIBLE_DEVICES is void, so that NVIDIA's container runtime, where it is
// the default, adds no GPU to them, whatever the image says. Shares are bounded as the GPU's isolation says:
//
//   - [gpu.IsolationMemory]: NVIDIA_GPU_MEMORY_LIMIT and _REQUEST in MiB, which the hook apply-cuda-memory-limits of NVIDIA's
//     container toolkit (1.20) makes the limits of the container's cgroup, on each of its GPUs alike; so it is the smallest share.
//   - [gpu.IsolationMPS]: the variables of CUDA's Multi-Process Service, for the daemon of the GPU. They bound each process. A
//     container has one daemon, so it cannot have shares of several GPUs.
//
// The error wraps [ErrElsewhere] or [ErrIsolation].
func Environment(grants []gpu.Grant, devices []gpu.Device, mpsRoot string) (Surroundings, error) {
	texts := make([]string, len(grants))
	var bounded, served []gpu.Grant // by the driver, by MPS
	for i, g := range grants {
		texts[i] = g.String()
		at := slices.IndexFunc(devices, func(d gpu.Device) bool { return d.ID == g.GPU })
		if at < 0 {
			return Surroundings{}, fmt.Errorf("%w: GPU %s is not among %s", ErrElsewhere, g.GPU, ids(devices))
		}
		if g.Kind() != gpu.Shared {
			continue
		}
		switch isolation := devices[at].Isolation; isolation {
		case gpu.IsolationMemory:
			bounded = append(bounded, g)
		case gpu.IsolationMPS:
			served = append(served, g)
		case gpu.IsolationNone, "":
		default:
			return Surroundings{}, fmt.Errorf("%w: GPU %s has isolation %q, which is not known here", ErrIsolation, g.GPU, isolation)
		}
	}
	s := Surroundings{Env: []string{EnvGPUs + "=" + strings.Join(texts, ","), "NVIDIA_VISIBLE_DEVICES=void"}}
	if len(bounded) > 0 {
		memory := strconv.FormatInt(smallest(bounded), 10)
		s.Env = append(s.Env, "NVIDIA_GPU_MEMORY_LIMIT="+memory, "NVIDIA_GPU_MEMORY_REQUEST="+memory)
	}
	switch {
	case len(served) == 0:
		return s, nil
	case len(grants) > 1:
		return Surroundings{}, fmt.Errorf(
			"%w: GPU %s is shared by MPS, which serves one GPU per container, but it has %s; ask for a share of one GPU, or for whole GPUs",
			ErrIsolation, served[0].GPU, strings.Join(texts, ","))
	case mpsRoot == "":
		return Surroundings{}, fmt.Errorf("%w: GPU %s is shared by MPS, but the node agent was not told where MPS runs",
			ErrIsolation, served[0].GPU)
	}
	share := served[0]
	s.Env = append(s.Env,
		"CUDA_MPS_PIPE_DIRECTORY="+mpsPipe,
		// A whole number, and 0 would mean no limit.
		fmt.Sprintf("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE=%d", max(1, share.MilliGPU*100/gpu.WholeMilliGPU)),
		// 0 is the number of the GPU as the container counts, which sees one.
		fmt.Sprintf("CUDA_MPS_PINNED_DEVICE_MEM_LIMIT=0=%dM", share.MemoryMiB))
	folder := path.Join(mpsRoot, string(share.GPU))
	s.Mounts = []Mount{{path.Join(folder, "pipe"), mpsPipe}, {path.Join(folder, "shm"), mpsShm}}
	return s, nil
}

// smallest is the least memory among shares, in MiB.
func smallest(shares []gpu.Grant) int64 {
	least := shares[0].MemoryMiB
	for _, s := range shares {
		least = min(least, s.MemoryMiB)
	}
	return least
}
