package nvml

import (
	"context"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"weft.sh/weft/pkg/gpu"
)

// TestARealLibrary goes through go-nvml to a library that has only the functions that every driver has: a call of any other
// ends the process. Nothing here has a GPU; what the library says of one is made up.
func TestARealLibrary(t *testing.T) {
	if testing.Short() {
		t.Skip("builds a shared library, and for that the standard library once more")
	}
	root := driverRoot(t, "418.226.00", 5)
	file := filepath.Join(root, "usr/lib64/libnvidia-ml.so.1")
	build := exec.Command("go", "build", "-buildmode=c-shared", "-o", file, "./testdata/libnvml")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	l, err := Open(Options{DriverRoot: root, SysRoot: root})
	if err != nil {
		t.Fatal(err)
	}
	h := discover(t, l)
	id := gpu.ID("GPU-b850f46d-d5ea-c752-ddf3-c4453e44d3f7")
	want := Host{DriverVersion: "418.226.00", CUDAVersion: "10.1", NVMLVersion: "10.418.226.00", GPUs: []GPU{{
		Device: gpu.Device{ID: id, Product: "Tesla-T4", MemoryMiB: 15360, Hardware: &gpu.Hardware{
			PCIBusID: "0000:af:00.0", NUMANode: -1, ComputeCapability: "7.5", DriverVersion: "418.226.00", CUDAVersion: "10.1",
		}},
		TotalMemoryMiB: 15360, Minor: 4,
	}}}
	if diff := cmp.Diff(want, h); diff != "" {
		t.Error(diff)
	}
	if c := l.Check(id); c.Problem() != "" {
		t.Errorf("%+v", c)
	}
	u, err := l.Utilisation(id, 5)
	used := Utilisation{SMPercent: new(int64(12)), MemoryBusPercent: new(int64(34)), UsedMiB: new(int64(360)), PowerMilliwatt: new(int64(9000)), Until: 5}
	if diff := cmp.Diff(used, u); err != nil || diff != "" {
		t.Errorf("%v: %s", err, diff)
	}
	e, err := l.Edits(EditOptions{DriverRoot: root}, string(id))
	if err != nil {
		t.Fatal(err)
	}
	nodes, _ := paths(e)
	if diff := cmp.Diff([]string{"/dev/nvidia-uvm", "/dev/nvidia4", "/dev/nvidiactl"}, nodes); diff != "" {
		t.Error(diff)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var events []Event
	if err := l.Events(ctx, func(e Event) {
		events = append(events, e)
		cancel()
	}); err != nil || len(events) == 0 || events[0].GPU != id || events[0].Xid != 61 {
		t.Errorf("%+v, %v", events, err)
	}
	// Started anew, as after a GPU was lost.
	l.lose(0)
	problems(t, discover(t, l))
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}
