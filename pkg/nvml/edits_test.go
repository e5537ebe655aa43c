package nvml

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"tags.cncf.io/container-device-interface/specs-go"

	"weft.sh/weft/pkg/nvml/nvmlfake"
)

// cannot skips a test that cannot run on this machine, and fails it where WEFT_REQUIRE_E2E=1 says that it must.
func cannot(t testing.TB, format string, args ...any) {
	t.Helper()
	if os.Getenv("WEFT_REQUIRE_E2E") == "1" {
		t.Fatalf("WEFT_REQUIRE_E2E=1 wants this test to run, but "+format, args...)
	}
	t.Skipf(format, args...)
}

// driverRoot is a folder with the files of a driver, and with the device nodes of as many GPUs, where this machine allows to
// make some.
func driverRoot(t testing.TB, version string, gpus int, nodes ...string) string {
	t.Helper()
	root := t.TempDir()
	for _, name := range []string{
		"usr/lib/x86_64-linux-gnu/libcuda.so." + version, "usr/lib/x86_64-linux-gnu/libnvidia-ml.so." + version, "usr/bin/nvidia-smi",
	} {
		file := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, nil, 0o755); err != nil { //nolint:gosec // a program
			t.Fatal(err)
		}
	}
	nodes = append(nodes, "nvidiactl", "nvidia-uvm")
	for i := range gpus {
		nodes = append(nodes, fmt.Sprintf("nvidia%d", i))
	}
	for i, name := range nodes {
		node := filepath.Join(root, "dev", name)
		if err := os.MkdirAll(filepath.Dir(node), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mknod(node, unix.S_IFCHR|0o666, int(unix.Mkdev(195, uint32(i)))); errors.Is(err, fs.ErrPermission) {
			cannot(t, "device nodes cannot be made here: %v", err)
		} else if err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// paths are the paths of device nodes and mounts in the container, sorted.
func paths(e *specs.ContainerEdits) (nodes, mounts []string) {
	for _, n := range e.DeviceNodes {
		nodes = append(nodes, n.Path)
	}
	for _, m := range e.Mounts {
		mounts = append(mounts, m.ContainerPath)
	}
	slices.Sort(nodes)
	slices.Sort(mounts)
	return nodes, mounts
}

const version = "580.95.05"

func TestEdits(t *testing.T) {
	root := driverRoot(t, version, 8)
	f := fake(t, changed(nvmlfake.DGXH100(), 3, func(g *nvmlfake.GPU) { g.Minor = new(6) }))
	l := New(f)
	h := discover(t, l)
	opts := EditOptions{DriverRoot: root, HostDriverRoot: "/run/nvidia/driver", HookPath: "/opt/nvidia-cdi-hook"}
	e, err := l.Edits(opts, string(h.GPUs[3].ID), string(h.GPUs[1].ID))
	if err != nil {
		t.Fatal(err)
	}
	nodes, mounts := paths(e)
	if diff := cmp.Diff([]string{"/dev/nvidia-uvm", "/dev/nvidia1", "/dev/nvidia6", "/dev/nvidiactl"}, nodes); diff != "" {
		t.Error(diff)
	}
	libraries := []string{"/usr/bin/nvidia-smi", "/usr/lib/x86_64-linux-gnu/libcuda.so." + version, "/usr/lib/x86_64-linux-gnu/libnvidia-ml.so." + version}
	if diff := cmp.Diff(libraries, mounts); diff != "" {
		t.Error(diff)
	}
	for _, n := range e.DeviceNodes {
		if n.HostPath != "/run/nvidia/driver"+n.Path {
			t.Errorf("device node %+v is not the host's", n)
		}
	}
	for _, m := range e.Mounts {
		if m.HostPath != "/run/nvidia/driver"+m.ContainerPath {
			t.Errorf("mount %+v is not the host's", m)
		}
	}
	limits := 0
	for _, hook := range e.Hooks {
		if hook.Path != "/opt/nvidia-cdi-hook" {
			t.Errorf("hook %+v", hook)
		}
		if slices.Contains(hook.Args, "apply-cuda-memory-limits") {
			limits++
			if !slices.Contains(hook.Args, "/run/nvidia/driver") && !strings.Contains(strings.Join(hook.Args, " "), "/run/nvidia/driver") {
				t.Errorf("hook %+v does not look for the driver where the host has it", hook)
			}
		}
		if strings.Contains(strings.Join(hook.Args, " "), root) {
			t.Errorf("hook %+v names a folder that the host does not have", hook)
		}
	}
	if limits != 2 {
		t.Errorf("%d hooks for limits of memory, want one per GPU", limits)
	}
	if !slices.Contains(e.Env, "NVIDIA_VISIBLE_DEVICES=void") {
		t.Errorf("environment %q", e.Env)
	}
}

func TestEditsWhileAnotherGPUIsLost(t *testing.T) {
	root := driverRoot(t, version, 8)
	f := fake(t, nvmlfake.DGXH100())
	l := New(f)
	h := discover(t, l)
	update(t, f, func(n *nvmlfake.Node) { n.GPUs[3].Lost = true })
	if _, ret := f.DeviceGetHandleByUUID(string(h.GPUs[4].ID)); ret == 0 {
		t.Fatal("the fake finds GPUs by UUID while one is lost; NVML does not")
	}
	if _, err := l.Edits(EditOptions{DriverRoot: root}, string(h.GPUs[4].ID)); err != nil {
		t.Errorf("of a sound GPU: %v", err)
	}
	if _, err := l.Edits(EditOptions{DriverRoot: root}, string(h.GPUs[3].ID)); err == nil {
		t.Error("of the lost GPU: no error")
	}
	discover(t, l)
	if _, err := l.Edits(EditOptions{DriverRoot: root}, string(h.GPUs[3].ID)); !errors.Is(err, ErrNoGPU) {
		t.Errorf("of the lost GPU, after Discover: %v", err)
	}
}

func TestEditsThatCannotBe(t *testing.T) {
	root := driverRoot(t, version, 2)
	l := New(fake(t, nvmlfake.L4s()))
	h := discover(t, l)
	for name, c := range map[string]struct {
		opts  EditOptions
		uuids []string
		want  error
		part  string
	}{
		"no device":           {EditOptions{DriverRoot: root}, nil, ErrNoGPU, "no device was named"},
		"an unknown device":   {EditOptions{DriverRoot: root}, []string{"GPU-1"}, ErrNoGPU, "GPU-1"},
		"no name":             {EditOptions{DriverRoot: root}, []string{""}, ErrNoGPU, ""},
		"all":                 {EditOptions{DriverRoot: root}, []string{"all"}, ErrNoGPU, "all"},
		"an index":            {EditOptions{DriverRoot: root}, []string{"0"}, ErrNoGPU, ""},
		"no device node":      {EditOptions{DriverRoot: root}, []string{string(h.GPUs[0].ID), string(h.GPUs[2].ID)}, ErrNoDeviceNode, "/dev/nvidia2 under " + root},
		"no driver":           {EditOptions{DriverRoot: t.TempDir(), DevRoot: root}, []string{string(h.GPUs[0].ID)}, nil, "libraries of driver " + version},
		"another driver":      {EditOptions{DriverRoot: driverRoot(t, "1.2.3", 1)}, []string{string(h.GPUs[0].ID)}, nil, "libraries of driver " + version},
		"no device nodes":     {EditOptions{DriverRoot: root, DevRoot: t.TempDir()}, []string{string(h.GPUs[0].ID)}, ErrNoDeviceNode, "/dev/nvidia0"},
		"no folder for nodes": {EditOptions{DriverRoot: root, DevRoot: "/nowhere"}, []string{string(h.GPUs[0].ID)}, ErrNoDeviceNode, "under /nowhere"},
	} {
		t.Run(name, func(t *testing.T) {
			e, err := l.Edits(c.opts, c.uuids...)
			if err == nil || c.want != nil && !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.part) {
				t.Errorf("%+v, %v; want %v with %q", e, err, c.want, c.part)
			}
		})
	}
}

func TestEditsAreSearchedOncePerDriver(t *testing.T) {
	root := driverRoot(t, version, 1)
	f := fake(t, nvmlfake.A30())
	l := New(f)
	id := string(discover(t, l).GPUs[0].ID)
	libraries := func() int {
		t.Helper()
		e, err := l.Edits(EditOptions{DriverRoot: root}, id)
		if err != nil {
			t.Fatal(err)
		}
		_, mounts := paths(e)
		// What the caller does with the edits changes nothing for the next one.
		e.Mounts[0].HostPath, e.Hooks[0].Args[0], e.Env[0] = "x", "x", "x"
		e.DeviceNodes[0].Path = "x"
		for _, m := range mounts {
			if strings.HasPrefix(m, "x") {
				t.Error("edits that a caller changed are given to the next one")
			}
		}
		return len(mounts)
	}
	if got := libraries(); got != 3 {
		t.Errorf("%d mounts, want 3", got)
	}
	folder := filepath.Join(root, "usr/lib/x86_64-linux-gnu")
	add := func(name string) {
		if err := os.WriteFile(filepath.Join(folder, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	add("libnvidia-nscq.so." + version)
	if got := libraries(); got != 3 {
		t.Errorf("%d mounts: searched again", got)
	}
	add("libcuda.so.590.1")
	update(t, f, func(n *nvmlfake.Node) { n.DriverVersion = "590.1" })
	if got := libraries(); got != 2 {
		t.Errorf("%d mounts with another driver, want 2", got)
	}
}

func TestEditsOptions(t *testing.T) {
	for name, c := range map[string]struct{ in, want EditOptions }{
		"nothing is set": {EditOptions{}, EditOptions{"/", "/", "/", "/", "/usr/bin/nvidia-cdi-hook"}},
		"a driver in a container": {
			EditOptions{DriverRoot: "/run/nvidia/driver/"},
			EditOptions{"/run/nvidia/driver", "/run/nvidia/driver", "/run/nvidia/driver", "/run/nvidia/driver", "/usr/bin/nvidia-cdi-hook"},
		},
		"the host's root, mounted": {EditOptions{DriverRoot: "/host", HostDriverRoot: "/"}, EditOptions{"/host", "/host", "/", "/", "/usr/bin/nvidia-cdi-hook"}},
		"nodes elsewhere": {
			EditOptions{DriverRoot: "/host", DevRoot: "/", HostDriverRoot: "/", HookPath: "/hook"},
			EditOptions{"/host", "/", "/", "/", "/hook"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, c.in.withDefaults()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestMoved(t *testing.T) {
	for _, c := range [][4]string{
		{"/host/usr/lib/a.so", "/host", "/", "/usr/lib/a.so"},
		{"/host2/a.so", "/host", "/", "/host2/a.so"},
		{"/host", "/host", "/driver", "/driver"},
		{"/a.so", "/", "/driver", "/driver/a.so"},
		{"a.so", "/", "/driver", "a.so"},
		{"--driver-root", "/host", "/", "--driver-root"},
	} {
		if got := moved(c[0], c[1], c[2]); got != c[3] {
			t.Errorf("%s from %s to %s: %s, want %s", c[0], c[1], c[2], got, c[3])
		}
	}
}

// TestEditsOfMIGDevices runs again in a mount namespace of its own, where it can make what nvcdi reads under no root:
// /proc/driver/nvidia-caps/mig-minors.
func TestEditsOfMIGDevices(t *testing.T) {
	const inside = "WEFT_TEST_IN_NAMESPACE"
	root := driverRoot(t, version, 1, "nvidia-caps/nvidia-cap30", "nvidia-caps/nvidia-cap31", "nvidia-caps/nvidia-cap39")
	l := New(fake(t, partitioned(nvmlfake.MIG{Instances: []string{"3g.40gb@4", "1g.10gb@0"}})))
	g := discover(t, l).GPUs[0]
	one, three := g.MIGDevices[0], g.MIGDevices[1]
	if os.Getenv(inside) == "" {
		// Without the file: an error, and no device without its capabilities.
		if e, err := l.Edits(EditOptions{DriverRoot: root}, three.UUID); err == nil {
			t.Errorf("without mig-minors: %+v", e)
		}
		if _, err := os.Stat("/proc/driver"); err != nil || os.Getuid() != 0 {
			cannot(t, "not root, or a kernel without /proc/driver: mig-minors cannot be faked")
		}
		c := exec.Command(os.Args[0], "-test.run=^TestEditsOfMIGDevices$", "-test.v")
		c.Env = append(os.Environ(), inside+"=1")
		c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
		if out, err := c.CombinedOutput(); errors.Is(err, fs.ErrPermission) {
			cannot(t, "no mount namespace: %v", err)
		} else if err != nil || !strings.Contains(string(out), "--- PASS: TestEditsOfMIGDevices") {
			t.Errorf("in a namespace of its own: %v\n%s", err, out)
		}
		return
	}
	proc := t.TempDir()
	if err := os.Mkdir(filepath.Join(proc, "nvidia-caps"), 0o755); err != nil {
		t.Fatal(err)
	}
	minors := fmt.Sprintf("config 1\nmonitor 2\ngpu0/gi%d/access 30\ngpu0/gi%d/ci0/access 31\ngpu0/gi%d/access 39\ngpu0/gi%d/ci0/access 40\n",
		three.GPUInstance, three.GPUInstance, one.GPUInstance, one.GPUInstance)
	if err := os.WriteFile(filepath.Join(proc, "nvidia-caps/mig-minors"), []byte(minors), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, mount := range []func() error{
		func() error { return unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "") },
		func() error { return unix.Mount(proc, "/proc/driver", "", unix.MS_BIND, "") },
	} {
		if err := mount(); err != nil {
			t.Fatal(err)
		}
	}
	e, err := l.Edits(EditOptions{DriverRoot: root}, three.UUID)
	if err != nil {
		t.Fatal(err)
	}
	nodes, _ := paths(e)
	want := []string{"/dev/nvidia-caps/nvidia-cap30", "/dev/nvidia-caps/nvidia-cap31", "/dev/nvidia-uvm", "/dev/nvidia0", "/dev/nvidiactl"}
	if diff := cmp.Diff(want, nodes); diff != "" {
		t.Error(diff)
	}
	// Of the other instance, the node of its compute instance is missing.
	if e, err := l.Edits(EditOptions{DriverRoot: root}, one.UUID); !errors.Is(err, ErrNoDeviceNode) {
		t.Errorf("with a node missing: %+v, %v", e, err)
	}
}

func TestConcurrency(t *testing.T) {
	root := driverRoot(t, version, 8)
	f := fake(t, nvmlfake.DGXH100())
	l := New(f)
	l.eventWait = time.Millisecond
	h := discover(t, l)
	ctx, cancel := context.WithCancel(t.Context())
	watched := make(chan error, 1)
	go func() { watched <- l.Events(ctx, func(Event) {}) }()
	var wg sync.WaitGroup
	times := func(n int, f func(i int)) {
		for range 2 {
			wg.Go(func() {
				for i := range n {
					f(i)
				}
			})
		}
	}
	times(200, func(i int) { l.Check(h.GPUs[i%8].ID) })
	times(200, func(i int) { _, _ = l.Utilisation(h.GPUs[i%8].ID, uint64(i)) })
	times(20, func(i int) {
		if e, err := l.Edits(EditOptions{DriverRoot: root}, string(h.GPUs[i%8].ID)); err == nil {
			e.Env[0], e.Hooks[0].Path = "mine", "mine"
		}
	})
	times(5, func(int) {
		if h, err := l.Discover(); err != nil {
			t.Error(err)
		} else {
			for _, fault := range faults(h) {
				t.Error(fault)
			}
		}
	})
	for i := range 10 {
		update(t, f, func(n *nvmlfake.Node) {
			n.GPUs[i%8].Lost = !n.GPUs[i%8].Lost
			n.GPUs[7-i%8].MIG.Enabled = !n.GPUs[7-i%8].MIG.Enabled
			n.Events = append(n.Events, nvmlfake.Event{GPU: i % 8, Xid: 48})
		})
		discover(t, l)
	}
	wg.Wait()
	cancel()
	if err := <-watched; err != nil {
		t.Error(err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}
