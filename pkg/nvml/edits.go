package nvml

import (
	"cmp"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
	"github.com/NVIDIA/nvidia-container-toolkit/pkg/nvcdi"
	"github.com/NVIDIA/nvidia-container-toolkit/pkg/nvcdi/transform"
	"tags.cncf.io/container-device-interface/pkg/cdi"
	"tags.cncf.io/container-device-interface/specs-go"

	"weft.sh/weft/pkg/gpu"
)

// ErrNoDeviceNode is wrapped when a device node that a container needs is not there.
var ErrNoDeviceNode = errors.New("device node is missing")

// EditOptions say where the driver is, seen from this program and seen from the host.
type EditOptions struct {
	// DriverRoot is where this program sees the driver's files, DevRoot the folder above its device nodes' /dev. Empty means
	// "/" and the driver root.
	DriverRoot, DevRoot string
	// HostDriverRoot and HostDevRoot are the same folders as the container runtime sees them; the edits name these. Empty means
	// that they are the same.
	HostDriverRoot, HostDevRoot string
	// HookPath is the program nvidia-cdi-hook on the host. Empty means /usr/bin/nvidia-cdi-hook.
	HookPath string
}

// withDefaults fills in what is empty.
func (o EditOptions) withDefaults() EditOptions {
	set := func(s *string, to string) {
		if *s == "" {
			*s = to
		}
		*s = filepath.Clean(*s)
	}
	set(&o.DriverRoot, "/")
	set(&o.DevRoot, o.DriverRoot)
	if o.HostDevRoot == "" && o.HostDriverRoot != "" && o.DevRoot == o.DriverRoot {
		o.HostDevRoot = o.HostDriverRoot
	}
	set(&o.HostDriverRoot, o.DriverRoot)
	set(&o.HostDevRoot, o.DevRoot)
	set(&o.HookPath, "/usr/bin/nvidia-cdi-hook")
	return o
}

// editCache keeps what does not depend on the device: finding it means to search the driver's folders.
type editCache struct {
	mu     sync.Mutex
	driver string
	by     map[EditOptions]*editor
}

type editor struct {
	cdi    nvcdi.Interface
	common *specs.ContainerEdits
}

// Edits is what a container needs to use exactly these GPUs and MIG devices, by UUID: device nodes, the driver's libraries
// and programs, hooks, and NVIDIA_VISIBLE_DEVICES=void, so that NVIDIA's own runtime adds nothing. What does not depend on
// the device is searched once per driver version. The caller owns the result.
//
// Under the driver root there have to be the driver's libraries, at least one libcuda.so.<version> or
// libnvidia-ml.so.<version>, in a folder where distributions have them, such as usr/lib64 or usr/lib/x86_64-linux-gnu. Under
// the dev root there has to be the character device dev/nvidia<minor>, or the error wraps [ErrNoDeviceNode]: a container
// without it would start and have no GPU. For a MIG device there have to be its two dev/nvidia-caps/nvidia-cap<n> as well,
// whose numbers are read from /proc/driver/nvidia-caps/mig-minors, under no root. The other nodes (nvidiactl, nvidia-uvm,
// nvidia-uvm-tools, nvidia-modeset, and DRI) are added where they are.
func (l *Library) Edits(opts EditOptions, uuids ...string) (*specs.ContainerEdits, error) {
	if len(uuids) == 0 {
		return nil, fmt.Errorf("%w: no device was named", ErrNoGPU)
	}
	opts = opts.withDefaults()
	if err := l.enter(); err != nil {
		return nil, err
	}
	defer l.leave()
	e, err := l.editor(opts)
	if err != nil {
		return nil, err
	}
	// Not under the cache's lock: a call about one GPU can hang.
	all := cdi.ContainerEdits{ContainerEdits: &specs.ContainerEdits{}}
	for _, uuid := range uuids {
		edits, err := l.deviceEdits(e.cdi, opts, uuid)
		if err != nil {
			return nil, err
		}
		all.Append(&cdi.ContainerEdits{ContainerEdits: edits})
	}
	all.Append(&cdi.ContainerEdits{ContainerEdits: copyEdits(e.common)})
	spec := specs.Spec{ContainerEdits: *all.ContainerEdits}
	unique, err := transform.NewDedupe()
	if err == nil {
		err = unique.Transform(&spec)
	}
	if err != nil {
		return nil, fmt.Errorf("edits for %s: %w", strings.Join(uuids, ", "), err)
	}
	toHost(opts, &spec.ContainerEdits)
	return &spec.ContainerEdits, nil
}

// editor is the generator for these options, with the common edits.
func (l *Library) editor(opts EditOptions) (*editor, error) {
	l.edits.mu.Lock()
	defer l.edits.mu.Unlock()
	driver, ret := l.lib.SystemGetDriverVersion()
	if ret != nvml.SUCCESS {
		return nil, fmt.Errorf("version of the driver: NVML: %w", ret)
	}
	if driver != l.edits.driver {
		l.edits.driver, l.edits.by = driver, nil
	}
	if e := l.edits.by[opts]; e != nil {
		return e, nil
	}
	generator, err := nvcdi.New(
		nvcdi.WithMode(nvcdi.ModeNvml), nvcdi.WithNvmlLib(byHandle{l.lib, l}), nvcdi.WithLogger(quiet{}),
		// The alternative to NVML that newer drivers bring is not safe for concurrent use there.
		nvcdi.WithFeatureFlags(nvcdi.FeatureDisableNvsandboxUtils),
		nvcdi.WithDriverRoot(opts.DriverRoot), nvcdi.WithDevRoot(opts.DevRoot), nvcdi.WithNVIDIACDIHookPath(opts.HookPath),
	)
	if err != nil {
		return nil, fmt.Errorf("generator of CDI edits: %w", err)
	}
	common, err := generator.GetCommonEdits()
	if err != nil {
		return nil, fmt.Errorf("search the libraries of driver %s under %s: %w", driver, opts.DriverRoot, err)
	}
	if l.edits.by == nil {
		l.edits.by = map[EditOptions]*editor{}
	}
	e := &editor{generator, common.ContainerEdits}
	l.edits.by[opts] = e
	return e, nil
}

// deviceEdits is what one device needs and no other.
func (l *Library) deviceEdits(generator nvcdi.Interface, opts EditOptions, uuid string) (*specs.ContainerEdits, error) {
	dev := l.device(uuid)
	if dev == nil {
		return nil, fmt.Errorf("device %s: %w: it did not answer when the GPUs were last looked for", uuid, ErrNoGPU)
	}
	devices, err := generator.GetDeviceSpecsByID(uuid)
	if err != nil {
		return nil, fmt.Errorf("device %s: %w", uuid, err)
	}
	if len(devices) == 0 {
		return nil, fmt.Errorf("device %s: %w", uuid, ErrNoGPU)
	}
	// One per name of the device, all alike.
	edits := &devices[0].ContainerEdits
	caps := 0
	if l.handle(gpu.ID(uuid)) == nil { // a MIG device
		caps = 2
		var ret nvml.Return
		if dev, ret = dev.GetDeviceHandleFromMigDeviceHandle(); ret != nvml.SUCCESS {
			return nil, fmt.Errorf("device %s: NVML: %w", uuid, ret)
		}
	}
	minor, ret := dev.GetMinorNumber()
	if ret != nvml.SUCCESS {
		return nil, fmt.Errorf("device %s: minor number: NVML: %w", uuid, ret)
	}
	node, found := fmt.Sprintf("/dev/nvidia%d", minor), false
	for _, n := range edits.DeviceNodes {
		found = found || n.Path == node
		if strings.HasPrefix(n.Path, "/dev/nvidia-caps/") {
			caps--
		}
	}
	switch {
	case !found:
		return nil, fmt.Errorf("device %s: %w: %s under %s", uuid, ErrNoDeviceNode, node, opts.DevRoot)
	case caps > 0:
		return nil, fmt.Errorf("device %s: %w: its two /dev/nvidia-caps/nvidia-cap<n> under %s", uuid, ErrNoDeviceNode, opts.DevRoot)
	}
	return edits, nil
}

// toHost makes the paths of this program those of the host. NVIDIA's own transformer would take the hook's path, which is
// the host's already, and a folder whose name only begins like the root, for paths of this program.
func toHost(opts EditOptions, e *specs.ContainerEdits) {
	for _, n := range e.DeviceNodes {
		n.HostPath = moved(cmp.Or(n.HostPath, n.Path), opts.DevRoot, opts.HostDevRoot)
		if n.HostPath == n.Path {
			n.HostPath = ""
		}
	}
	for _, m := range e.Mounts {
		m.HostPath = moved(m.HostPath, opts.DriverRoot, opts.HostDriverRoot)
	}
	for _, h := range e.Hooks {
		// These two run inside of the container, whose paths are not the host's.
		if h.HookName == cdi.CreateContainerHook || h.HookName == cdi.StartContainerHook {
			continue
		}
		for i, arg := range h.Args {
			h.Args[i] = moved(arg, opts.DriverRoot, opts.HostDriverRoot)
		}
	}
}

// moved is the path below another root, unless it does not lie below from.
func moved(path, from, to string) string {
	if rest, ok := strings.CutPrefix(path, strings.TrimSuffix(from, "/")); ok && (rest == "" || rest[0] == '/') {
		return filepath.Join(to, rest)
	}
	return path
}

// copyEdits is a copy deep enough for the transformers, which write into nodes, hooks and mounts.
func copyEdits(e *specs.ContainerEdits) *specs.ContainerEdits {
	c := *e
	c.Env, c.AdditionalGIDs = slices.Clone(e.Env), slices.Clone(e.AdditionalGIDs)
	c.DeviceNodes, c.Hooks, c.Mounts = copyAll(e.DeviceNodes), copyAll(e.Hooks), copyAll(e.Mounts)
	for _, h := range c.Hooks {
		h.Args, h.Env = slices.Clone(h.Args), slices.Clone(h.Env)
	}
	for _, m := range c.Mounts {
		m.Options = slices.Clone(m.Options)
	}
	return &c
}

func copyAll[T any](in []*T) []*T {
	out := make([]*T, len(in))
	for i, p := range in {
		out[i] = new(*p)
	}
	return out
}

// device is the handle of a GPU or MIG device, nil when there is none.
func (l *Library) device(uuid string) nvml.Device {
	if dev := l.handle(gpu.ID(uuid)); dev != nil {
		return dev
	}
	l.mu.Lock()
	handles := make([]nvml.Device, 0, len(l.handles))
	for _, dev := range l.handles {
		handles = append(handles, dev)
	}
	l.mu.Unlock()
	for _, dev := range handles {
		if on, _, ret := l.migMode(dev); ret != nvml.SUCCESS || !on {
			continue
		}
		count, ret := dev.GetMaxMigDeviceCount()
		if ret != nvml.SUCCESS {
			continue
		}
		for i := range min(count, maxMIGDevices) {
			m, ret := dev.GetMigDeviceHandleByIndex(i)
			if ret != nvml.SUCCESS {
				continue
			}
			if id, ret := m.GetUUID(); ret == nvml.SUCCESS && id == uuid {
				return m
			}
		}
	}
	return nil
}

// byHandle is NVML with another way from UUIDs to devices: NVML's own fails for all GPUs when any of them is lost, and on
// older drivers for MIG devices.
type byHandle struct {
	nvml.Interface
	l *Library
}

func (b byHandle) DeviceGetHandleByUUID(uuid string) (nvml.Device, nvml.Return) {
	if dev := b.l.handle(gpu.ID(uuid)); dev != nil {
		return wholeGPU{dev}, nvml.SUCCESS
	}
	if dev := b.l.device(uuid); dev != nil {
		return dev, nvml.SUCCESS
	}
	return nil, nvml.ERROR_NOT_FOUND
}

// wholeGPU is the handle of a GPU, which is no MIG device: drivers that know no MIG do not know this function either.
type wholeGPU struct{ nvml.Device }

func (wholeGPU) IsMigDeviceHandle() (bool, nvml.Return) { return false, nvml.SUCCESS }
