package nvml

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
	"github.com/NVIDIA/nvidia-container-toolkit/pkg/lookup"

	"weft.sh/weft/pkg/gpu"
)

// ErrUnavailable is wrapped by every error that says that NVML cannot be used at all. Trying again later can help: a driver
// may be about to be installed.
var ErrUnavailable = errors.New("NVML is not available")

// ErrNoGPU is wrapped where no GPU or MIG device of that name is known or answers.
var ErrNoGPU = errors.New("no such GPU")

// Options say where NVML's library lies.
type Options struct {
	// LibraryPath is the file libnvidia-ml.so.1, empty to search for it.
	LibraryPath string
	// DriverRoot is the folder under which the driver is installed, for example "/" or "/run/nvidia/driver"; the library is
	// searched under it. Empty leaves the search to the dynamic linker.
	DriverRoot string
	// SysRoot is the folder above the kernel's /sys/bus, empty for "/". It is only read for NUMA nodes.
	SysRoot string
}

// Library is NVML. It is safe for concurrent use.
type Library struct {
	lib     nvml.Interface
	sysRoot string
	// path is what was opened, for messages.
	path string
	// eventWait is how long one wait for events lasts, and so how long Events can outlive its context.
	eventWait time.Duration

	// in is entered by whoever calls NVML; it is started and stopped alone. What follows is changed alone and read inside.
	in     gate
	ready  bool
	closed bool
	// started counts the starts of NVML: handles and event sets of an earlier start are no longer good.
	started int
	// has are those of optionalFunctions that this driver's library has.
	has map[string]bool

	// discover lets one Discover run at a time.
	discover sync.Mutex

	mu sync.Mutex
	// handles are those of the GPUs that answered the last Discover, of the current start.
	handles map[gpu.ID]nvml.Device
	// sound are the GPUs as they were when they were sound.
	sound map[gpu.ID]GPU
	// lost says that a GPU did not answer, so that NVML has to be started anew before it can be seen again.
	lost bool
	// changed is closed, and replaced, when handles have changed.
	changed chan struct{}

	edits editCache
}

// optionalFunctions are functions that not every driver in use has. Calling one that is missing does not fail, it ends the
// process, for go-nvml resolves them lazily: each is looked up first.
var optionalFunctions = []string{
	"nvmlDeviceGetArchitecture",
	"nvmlDeviceGetGpuFabricInfo",
	"nvmlDeviceGetGpuFabricInfoV",
	"nvmlDeviceGetGpuInstanceProfileInfoV",
	"nvmlDeviceGetMPSComputeRunningProcesses",
	"nvmlDeviceGetMemoryAffinity",
	"nvmlDeviceGetMemoryInfo_v2",
	"nvmlDeviceGetMemoryLimits_v1",
	"nvmlDeviceGetMigMode",
	"nvmlDeviceGetNvLinkRemoteDeviceType",
}

// New is over any implementation of NVML's interface. NVML is initialised by the first [Library.Discover].
func New(lib nvml.Interface) *Library {
	return &Library{
		lib: lib, sysRoot: "/", path: "libnvidia-ml.so.1", eventWait: time.Second,
		handles: map[gpu.ID]nvml.Device{}, sound: map[gpu.ID]GPU{}, changed: make(chan struct{}),
	}
}

// Open loads and initialises NVML. The error wraps [ErrUnavailable] and says what to do.
func Open(options Options) (*Library, error) {
	path := options.LibraryPath
	if path == "" && options.DriverRoot != "" {
		found, err := lookup.NewLibraryLocator(lookup.WithLogger(quiet{}), lookup.WithRoot(options.DriverRoot)).Locate("libnvidia-ml.so.1")
		if err != nil || len(found) == 0 {
			return nil, fmt.Errorf("%w: there is no libnvidia-ml.so.1 under the driver root %s: install the driver there, or name the folder where "+
				"it is", ErrUnavailable, options.DriverRoot)
		}
		path = found[0]
	}
	var l *Library
	if path == "" {
		l = New(nvml.New())
	} else {
		l = New(nvml.New(nvml.WithLibraryPath(path)))
		l.path = path
	}
	if options.SysRoot != "" {
		l.sysRoot = options.SysRoot
	}
	if err := l.start(); err != nil {
		return nil, err
	}
	return l, nil
}

// patience is how long starting NVML anew waits for calls that are under way. It is more than eventWait.
const patience = 3 * time.Second

// Close ends the use of NVML. It waits for calls that are under way, a few seconds at most; later ones find NVML
// unavailable.
func (l *Library) Close() (err error) {
	if !l.in.alone(patience, func() { l.closed, err = true, l.stop() }) {
		return errors.New("close NVML: a call to it has not returned")
	}
	return err
}

// start initialises NVML. Nobody else is inside.
func (l *Library) start() error {
	if l.closed {
		return fmt.Errorf("%w: it was closed", ErrUnavailable)
	}
	if ret := l.lib.Init(); ret != nvml.SUCCESS {
		return l.unavailable(ret)
	}
	l.ready = true
	l.started++
	l.has = map[string]bool{}
	for _, name := range optionalFunctions {
		l.has[name] = l.lib.Extensions().LookupSymbol(name) == nil
	}
	return nil
}

// stop is start undone.
func (l *Library) stop() error {
	if !l.ready {
		return nil
	}
	l.ready = false
	l.mu.Lock()
	l.handles = map[gpu.ID]nvml.Device{}
	l.mu.Unlock()
	if ret := l.lib.Shutdown(); ret != nvml.SUCCESS {
		return fmt.Errorf("stop NVML: %w", ret)
	}
	return nil
}

// renew starts NVML when it is not, and anew when a GPU was lost. late says that this would have been done, but for a call
// to NVML that has not returned.
func (l *Library) renew() (late bool, err error) {
	l.mu.Lock()
	lost := l.lost
	l.mu.Unlock()
	l.in.enter()
	ready := l.ready
	l.in.leave()
	if ready && !lost {
		return false, nil
	}
	ok := l.in.alone(patience, func() {
		// That NVML cannot be stopped, with a GPU lost, is nothing that one could do something about.
		_ = l.stop()
		l.mu.Lock()
		l.lost = false
		l.mu.Unlock()
		err = l.start()
	})
	return !ok, err
}

// unavailable says why NVML cannot be used and what to do.
func (l *Library) unavailable(ret nvml.Return) error {
	what := ""
	switch ret {
	case nvml.ERROR_LIBRARY_NOT_FOUND:
		what = fmt.Sprintf("%s cannot be loaded: install NVIDIA's driver on the node, or name the folder where it is; a container needs the "+
			"driver's folder mounted", l.path)
	case nvml.ERROR_DRIVER_NOT_LOADED:
		what = "NVIDIA's kernel driver is not loaded: load it (modprobe nvidia), and see the kernel's log if that fails"
	case nvml.ERROR_LIB_RM_VERSION_MISMATCH:
		what = "the library and the kernel driver are of different versions: the driver was updated while the old one was loaded; reload the " +
			"kernel driver or reboot the node"
	case nvml.ERROR_NO_PERMISSION:
		what = "no permission: run as root and with the device nodes /dev/nvidiactl and /dev/nvidia*"
	default:
		what = "it does not start"
	}
	return fmt.Errorf("%w: %s (NVML: %w)", ErrUnavailable, what, ret)
}

// enter is to be called before any call to NVML, and leave after it.
func (l *Library) enter() error {
	l.in.enter()
	if !l.ready {
		l.in.leave()
		return fmt.Errorf("%w: it is not started", ErrUnavailable)
	}
	return nil
}

func (l *Library) leave() { l.in.leave() }

// handle is the GPU's, nil when it did not answer the last Discover.
func (l *Library) handle(id gpu.ID) nvml.Device {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.handles[id]
}

// lose takes note that a GPU does not answer, so that the next Discover starts NVML anew. It is done for almost every
// answer: that a GPU fell off the bus NVML calls "unknown error" as often as by its name.
func (l *Library) lose(ret nvml.Return) {
	if ret == nvml.ERROR_NO_PERMISSION || ret == nvml.ERROR_NOT_SUPPORTED {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lost = true
}

// gone says that by this answer the GPU cannot be used before something is done to it.
func gone(ret nvml.Return) bool {
	return ret == nvml.ERROR_GPU_IS_LOST || ret == nvml.ERROR_RESET_REQUIRED || ret == nvml.ERROR_GPU_NOT_FOUND
}

// why says in words why a GPU does not answer.
func why(ret nvml.Return) string {
	switch ret {
	case nvml.ERROR_GPU_IS_LOST:
		return "lost: it fell off the bus or cannot be reached; see the kernel's log for its Xid"
	case nvml.ERROR_RESET_REQUIRED:
		return "it needs a reset"
	case nvml.ERROR_IRQ_ISSUE:
		return "the kernel found a problem with its interrupts"
	case nvml.ERROR_INSUFFICIENT_POWER:
		return "its external power cables are not attached well"
	case nvml.ERROR_NO_PERMISSION:
		return "no permission to use it"
	case nvml.ERROR_NOT_SUPPORTED:
		return "the driver does not tell its memory; a GPU that has none of its own cannot be given out"
	}
	return fmt.Sprintf("it does not answer (NVML: %s)", ret)
}

// quiet is a logger for NVIDIA's libraries, which tell all that they look for and do not find.
type quiet struct{}

func (quiet) Debugf(string, ...any)   {}
func (quiet) Errorf(string, ...any)   {}
func (quiet) Infof(string, ...any)    {}
func (quiet) Warningf(string, ...any) {}
func (quiet) Tracef(string, ...any)   {}
