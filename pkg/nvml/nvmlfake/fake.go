package nvmlfake

import (
	"fmt"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"weft.sh/weft/pkg/gpu"
)

// Fake answers as NVML would on the node that is described. It is safe for concurrent use.
type Fake struct {
	nvml.Interface // what is not modelled

	mu   sync.Mutex
	path string
	stat os.FileInfo
	node Node
	gpus []*gpuState
	// users is how often NVML was initialised and not shut down, start how often it was initialised by a first user.
	users, start int
	sets         map[*eventSet]bool
	// happened is how many of the node's events have been delivered or are past.
	happened int
	// wake is closed, and replaced, when something happened that somebody may wait for.
	wake chan struct{}
}

// gpuState is what changes of a GPU.
type gpuState struct {
	// gone says that it was lost since NVML was started.
	gone      bool
	described MIG
	instances []*gpuInstanceState
	// made is how many compute instances were made: a MIG device that is made again has another UUID.
	made   int
	limits map[string]nvml.MemoryLimits_v1
}

// gpuInstanceState is a GPU instance that exists.
type gpuInstanceState struct {
	gpu.Instance
	id      uint32
	compute []*computeInstanceState
}

// computeInstanceState is a compute instance that exists.
type computeInstanceState struct {
	id, slices uint32
	// made is 0 for those described.
	made int
}

var (
	_ nvml.Interface         = (*Fake)(nil)
	_ nvml.ExtendedInterface = (*Fake)(nil)
)

// New is the fake of a node.
func New(n Node) (*Fake, error) {
	if err := n.Validate(); err != nil {
		return nil, err
	}
	f := &Fake{wake: make(chan struct{})}
	f.apply(n)
	return f, nil
}

// Update changes the description.
func (f *Fake) Update(change func(*Node)) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.node
	n.GPUs, n.Events = slices.Clone(n.GPUs), slices.Clone(n.Events)
	change(&n)
	if err := n.Validate(); err != nil {
		return err
	}
	f.apply(n)
	return nil
}

// apply makes n, which is valid, the description. f is locked.
func (f *Fake) apply(n Node) {
	first := f.Interface == nil
	f.Interface = unknownInterface
	f.node = n
	for i, g := range n.GPUs {
		if i == len(f.gpus) {
			f.gpus = append(f.gpus, &gpuState{})
		}
		s := f.gpus[i]
		if first || !reflect.DeepEqual(s.described, g.MIG) {
			s.described = g.MIG
			s.instances, _ = g.instances()
		}
		s.gone = s.gone || g.Lost
	}
	for _, s := range f.gpus[len(n.GPUs):] {
		s.gone = true
	}
	if first {
		f.happened = len(n.Events)
	}
	for _, e := range n.Events[min(f.happened, len(n.Events)):] {
		for set := range f.sets {
			set.deliver(e)
		}
	}
	f.happened = len(n.Events)
	close(f.wake)
	f.wake = make(chan struct{})
}

// Init initialises.
func (f *Fake) Init() nvml.Return {
	f.mu.Lock()
	defer f.mu.Unlock()
	_ = f.reread()
	if ret := f.node.StartError.ret(); ret != nvml.SUCCESS {
		return ret
	}
	if f.users == 0 {
		f.start++
		f.sets = map[*eventSet]bool{}
		f.gpus = f.gpus[:len(f.node.GPUs)]
		for i, g := range f.node.GPUs {
			f.gpus[i].gone = g.Lost
		}
	}
	f.users++
	return nvml.SUCCESS
}

// InitWithFlags initialises.
func (f *Fake) InitWithFlags(uint32) nvml.Return { return f.Init() }

// Shutdown undoes one Init.
func (f *Fake) Shutdown() nvml.Return {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.users == 0 {
		return nvml.ERROR_UNINITIALIZED
	}
	if f.users--; f.users == 0 {
		close(f.wake)
		f.wake = make(chan struct{})
	}
	return nvml.SUCCESS
}

// enter locks f, with what is described now; leave with Unlock. The answer is an error when NVML is not initialised.
func (f *Fake) enter() nvml.Return {
	f.mu.Lock()
	_ = f.reread()
	if f.users == 0 {
		return nvml.ERROR_UNINITIALIZED
	}
	return nvml.SUCCESS
}

// Extensions are of the fake itself.
func (f *Fake) Extensions() nvml.ExtendedInterface { return f }

// ErrorString is the answer's name.
func (f *Fake) ErrorString(ret nvml.Return) string { return ret.Error() }

// since are functions by the first driver branch that has them.
var since = map[string]int{
	"nvmlDeviceGetMemoryLimits_v1": 615, "nvmlDeviceSetMemoryLimits_v1": 615, "nvmlDeviceGetMemoryInfo_v2": 510,
	"nvmlDeviceGetGpuFabricInfo": 525,
}

// LookupSymbol reports whether the driver's library has a function.
func (f *Fake) LookupSymbol(name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.has(name) {
		return fmt.Errorf("undefined symbol: %s", name)
	}
	return nil
}

// has is LookupSymbol, with f locked.
func (f *Fake) has(name string) bool {
	branch, _, _ := strings.Cut(f.driver(), ".")
	n, err := strconv.Atoi(branch)
	return !strings.HasSuffix(name, "V") && !slices.Contains(f.node.Missing, name) && (err != nil || n >= since[name])
}

func (f *Fake) driver() string {
	if f.node.DriverVersion != "" {
		return f.node.DriverVersion
	}
	return "580.95.05"
}

// SystemGetDriverVersion is the description's.
func (f *Fake) SystemGetDriverVersion() (string, nvml.Return) {
	ret := f.enter()
	defer f.mu.Unlock()
	return f.driver(), ret
}

// SystemGetNVMLVersion is the description's.
func (f *Fake) SystemGetNVMLVersion() (string, nvml.Return) {
	ret := f.enter()
	defer f.mu.Unlock()
	if f.node.NVMLVersion != "" {
		return f.node.NVMLVersion, ret
	}
	return "13." + f.driver(), ret
}

// SystemGetCudaDriverVersion is the description's.
func (f *Fake) SystemGetCudaDriverVersion() (int, nvml.Return) {
	ret := f.enter()
	defer f.mu.Unlock()
	v, _ := cudaVersion(f.node.CUDAVersion)
	return v, ret
}

// SystemGetCudaDriverVersion_v2 is the description's.
func (f *Fake) SystemGetCudaDriverVersion_v2() (int, nvml.Return) {
	return f.SystemGetCudaDriverVersion()
}

// DeviceGetCount counts lost GPUs too.
func (f *Fake) DeviceGetCount() (int, nvml.Return) {
	ret := f.enter()
	defer f.mu.Unlock()
	return len(f.node.GPUs), ret
}

// DeviceGetHandleByIndex fails for a GPU that is lost, and for no other.
func (f *Fake) DeviceGetHandleByIndex(index int) (nvml.Device, nvml.Return) {
	ret := f.enter()
	defer f.mu.Unlock()
	if ret != nvml.SUCCESS {
		return nil, ret
	}
	if index < 0 || index >= len(f.node.GPUs) {
		return nil, nvml.ERROR_INVALID_ARGUMENT
	}
	if f.gpus[index].gone {
		return nil, nvml.ERROR_GPU_IS_LOST
	}
	if ret := f.node.GPUs[index].Answers["DeviceGetHandleByIndex"].ret(); ret != nvml.SUCCESS {
		return nil, ret
	}
	return f.handle(index), nvml.SUCCESS
}

// DeviceGetHandleByUUID finds GPUs and MIG devices, and fails for all of them when any GPU is lost (nvml.h says so).
func (f *Fake) DeviceGetHandleByUUID(id string) (nvml.Device, nvml.Return) {
	ret := f.enter()
	defer f.mu.Unlock()
	if ret != nvml.SUCCESS {
		return nil, ret
	}
	for _, s := range f.gpus {
		if s.gone {
			return nil, nvml.ERROR_GPU_IS_LOST
		}
	}
	for index := range f.node.GPUs {
		d := f.handle(index)
		if d.uuid() == id {
			return d, nvml.SUCCESS
		}
		for _, m := range d.migDevices() {
			if m.uuid() == id {
				return m, nvml.SUCCESS
			}
		}
	}
	return nil, nvml.ERROR_NOT_FOUND
}

// DeviceGetHandleByPciBusId finds GPUs.
func (f *Fake) DeviceGetHandleByPciBusId(id string) (nvml.Device, nvml.Return) {
	ret := f.enter()
	defer f.mu.Unlock()
	if ret != nvml.SUCCESS {
		return nil, ret
	}
	for index := range f.node.GPUs {
		if d := f.handle(index); strings.EqualFold(d.busID(), id) {
			if f.gpus[index].gone {
				return nil, nvml.ERROR_GPU_IS_LOST
			}
			return d, nvml.SUCCESS
		}
	}
	return nil, nvml.ERROR_NOT_FOUND
}

func (f *Fake) handle(index int) *device {
	return &device{Device: unknownDevice, f: f, index: index, start: f.start}
}
