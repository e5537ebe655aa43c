package nvmlfake

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
	"github.com/google/go-cmp/cmp"

	"weft.sh/weft/pkg/mig"
)

// started is a fake in use.
func started(t testing.TB, n Node) *Fake {
	t.Helper()
	f, err := New(n)
	if err != nil {
		t.Fatal(err)
	}
	if ret := f.Init(); ret != nvml.SUCCESS {
		t.Fatal(ret)
	}
	return f
}

func handle(t testing.TB, f *Fake, index int) nvml.Device {
	t.Helper()
	d, ret := f.DeviceGetHandleByIndex(index)
	if ret != nvml.SUCCESS {
		t.Fatal(ret)
	}
	return d
}

// Nothing panics, whatever is called: not what is modelled, and not the rest, which is not supported.
func TestEveryFunctionAnswers(t *testing.T) {
	n := DGXH100()
	n.DriverVersion = "615.1"
	n.GPUs[0].MIG = MIG{Enabled: true, Instances: []string{"3g.40gb@0"}}
	f := started(t, n)
	d := handle(t, f, 0)
	m, _ := d.GetMigDeviceHandleByIndex(0)
	gi, _ := d.GetGpuInstanceById(1)
	ci, _ := gi.GetComputeInstanceById(0)
	set, _ := f.EventSetCreate()
	unsupported := 0
	for name, v := range map[string]any{"Device": d, "MIG device": m, "GpuInstance": gi, "ComputeInstance": ci, "EventSet": set, "Interface": f} {
		methods := reflect.TypeOf(v)
		for method := range methods.Methods() {
			switch method.Name {
			// What destroys comes last; what is given a function or ends NVML is not NVML's.
			case "Destroy", "Free", "Update", "Shutdown", "Init", "InitWithFlags":
				continue
			}
			args := []reflect.Value{reflect.ValueOf(v)}
			for k := 1; k < method.Type.NumIn(); k++ {
				in := method.Type.In(k)
				switch {
				case in.Kind() == reflect.Pointer:
					args = append(args, reflect.New(in.Elem()))
				case in.Implements(reflect.TypeFor[nvml.Device]()):
					args = append(args, reflect.ValueOf(&d).Elem())
				default:
					args = append(args, reflect.Zero(in))
				}
			}
			out := method.Func.Call(args)
			for _, o := range out {
				if o.Type() == reflect.TypeFor[nvml.Return]() && o.Interface() == nvml.ERROR_NOT_SUPPORTED {
					unsupported++
				}
			}
			if len(out) == 0 && method.Name != "Extensions" {
				t.Logf("%s.%s answers nothing", name, method.Name)
			}
		}
	}
	if unsupported < 300 {
		t.Errorf("%d functions are not supported: the rest of NVML is missing", unsupported)
	}
	for name, ret := range map[string]nvml.Return{
		"ComputeInstance.Destroy": ci.Destroy(), "GpuInstance.Destroy": gi.Destroy(), "EventSet.Free": set.Free(), "Shutdown": f.Shutdown(),
	} {
		if ret != nvml.SUCCESS && name != "GpuInstance.Destroy" {
			t.Errorf("%s: %v", name, ret)
		}
	}
}

// The functions of the library are the methods of its devices.
func TestFunctionsAreMethods(t *testing.T) {
	f := started(t, DGXH100())
	d := handle(t, f, 5)
	want, _ := d.GetUUID()
	if got, ret := f.DeviceGetUUID(d); ret != nvml.SUCCESS || got != want {
		t.Errorf("DeviceGetUUID: %q, %v, want %q", got, ret, want)
	}
	if _, _, ret := f.DeviceGetMigMode(handle(t, started(t, L4s()), 0)); ret != nvml.ERROR_NOT_SUPPORTED {
		t.Errorf("DeviceGetMigMode of an L4: %v", ret)
	}
	set, _ := f.EventSetCreate()
	if _, ret := f.EventSetWait(set, 0); ret != nvml.ERROR_TIMEOUT {
		t.Errorf("EventSetWait: %v", ret)
	}
}

func TestPlacementsAreTheTables(t *testing.T) {
	for name, m := range Models {
		d := handle(t, started(t, Node{GPUs: []GPU{{Model: name}}}), 0)
		table, ok := mig.TableByName(m.mig)
		if ok != (m.mig != "") {
			t.Errorf("%s: there is no table %s", name, m.mig)
		}
		found := 0
		for number := range nvml.GPU_INSTANCE_PROFILE_COUNT {
			info, ret := d.GetGpuInstanceProfileInfo(number)
			if ret != nvml.SUCCESS {
				continue
			}
			found++
			places, _ := d.GetGpuInstancePossiblePlacements(&info)
			for _, p := range table.Profiles {
				if p.ID != int(info.Id) {
					continue
				}
				var starts []int
				for _, at := range places {
					starts = append(starts, int(at.Start))
					if int(at.Size) != p.Size {
						t.Errorf("%s %s: size %d, want %d", name, p.Name, at.Size, p.Size)
					}
				}
				if diff := cmp.Diff(p.Starts, starts); diff != "" {
					t.Errorf("%s %s: %s", name, p.Name, diff)
				}
			}
		}
		if found != len(table.Profiles) {
			t.Errorf("%s: %d profiles, want %d", name, found, len(table.Profiles))
		}
	}
}

func TestMIGIsRefused(t *testing.T) {
	n := DGXA100()
	n.GPUs[0].MIG = MIG{Enabled: true, Instances: []string{"3g.40gb@0"}}
	f := started(t, n)
	d := handle(t, f, 0)
	profile := func(number int) *nvml.GpuInstanceProfileInfo {
		info, ret := d.GetGpuInstanceProfileInfo(number)
		if ret != nvml.SUCCESS {
			t.Fatal(ret)
		}
		return &info
	}
	one, three, media := profile(nvml.GPU_INSTANCE_PROFILE_1_SLICE), profile(nvml.GPU_INSTANCE_PROFILE_3_SLICE), profile(nvml.GPU_INSTANCE_PROFILE_1_SLICE_REV1)
	for _, c := range []struct {
		what        string
		info        *nvml.GpuInstanceProfileInfo
		start, size uint32
		want        nvml.Return
	}{
		{"over another", one, 3, 1, nvml.ERROR_INSUFFICIENT_RESOURCES},
		{"where there is no place", three, 3, 4, nvml.ERROR_INVALID_ARGUMENT},
		{"of another size", three, 4, 3, nvml.ERROR_INVALID_ARGUMENT},
		{"the first with media engines", media, 4, 1, nvml.SUCCESS},
		{"the second with media engines", media, 5, 1, nvml.ERROR_INSUFFICIENT_RESOURCES},
		{"beside it", one, 5, 1, nvml.SUCCESS},
		{"far out", one, 1 << 31, 1 << 31, nvml.ERROR_INVALID_ARGUMENT},
	} {
		if _, ret := d.CreateGpuInstanceWithPlacement(c.info, &nvml.GpuInstancePlacement{Start: c.start, Size: c.size}); ret != c.want {
			t.Errorf("%s: %v, want %v", c.what, ret, c.want)
		}
	}
	if _, ret := handle(t, f, 1).CreateGpuInstanceWithPlacement(one, &nvml.GpuInstancePlacement{Size: 1}); ret != nvml.ERROR_NOT_SUPPORTED {
		t.Errorf("outside of MIG mode: %v", ret)
	}
	gi, ret := d.CreateGpuInstance(one)
	if ret != nvml.SUCCESS {
		t.Fatal(ret)
	}
	if info, _ := gi.GetInfo(); info.Placement.Start != 6 {
		t.Errorf("without a place: %+v, want the first that is free", info)
	}
	if _, ret := d.CreateGpuInstance(three); ret != nvml.ERROR_INSUFFICIENT_RESOURCES {
		t.Errorf("when there is no room: %v", ret)
	}
	whole, _ := gi.GetComputeInstanceProfileInfo(nvml.COMPUTE_INSTANCE_PROFILE_1_SLICE, nvml.COMPUTE_INSTANCE_ENGINE_PROFILE_SHARED)
	if _, ret := gi.CreateComputeInstance(&whole); ret != nvml.SUCCESS {
		t.Error(ret)
	}
	if _, ret := gi.CreateComputeInstance(&whole); ret != nvml.ERROR_INSUFFICIENT_RESOURCES {
		t.Errorf("a second compute instance: %v", ret)
	}
	if ret := gi.Destroy(); ret != nvml.ERROR_IN_USE {
		t.Errorf("destroy with a compute instance: %v", ret)
	}
	all, _ := gi.GetComputeInstances(&whole)
	if ret := all[0].Destroy(); ret != nvml.SUCCESS {
		t.Error(ret)
	}
	if ret := gi.Destroy(); ret != nvml.SUCCESS {
		t.Error(ret)
	}
	if _, ret := gi.GetInfo(); ret != nvml.ERROR_NOT_FOUND {
		t.Errorf("after it was destroyed: %v", ret)
	}
}

func TestMemoryLimits(t *testing.T) {
	n := DGXH100()
	n.DriverVersion = "615.1"
	n.GPUs[1].MIG.Enabled = true
	f := started(t, n)
	d := handle(t, f, 0)
	if err := f.LookupSymbol("nvmlDeviceGetMemoryLimits_v1"); err != nil {
		t.Error(err)
	}
	if _, ret := d.GetMemoryLimits_v1("/a"); ret != nvml.ERROR_NOT_FOUND {
		t.Error(ret)
	}
	if ret := d.SetMemoryLimits_v1("/a", 2<<30, 1<<30); ret != nvml.ERROR_INVALID_ARGUMENT {
		t.Error(ret)
	}
	if ret := d.SetMemoryLimits_v1("/a", 1<<30, 2<<30); ret != nvml.SUCCESS {
		t.Error(ret)
	}
	if l, ret := d.GetMemoryLimits_v1("/a"); ret != nvml.SUCCESS || l.HardLimit != 2<<30 {
		t.Error(l, ret)
	}
	if _, ret := handle(t, f, 1).GetMemoryLimits_v1("/a"); ret != nvml.ERROR_NOT_SUPPORTED {
		t.Error(ret)
	}
	old := started(t, DGXH100())
	if old.LookupSymbol("nvmlDeviceGetMemoryLimits_v1") == nil {
		t.Error("driver 580 has limits of memory")
	}
	defer func() {
		if recover() == nil {
			t.Error("a function that the driver does not have was called, and the process did not end")
		}
	}()
	_, _ = handle(t, old, 0).GetMemoryLimits_v1("/a")
}

func TestHandlesAreOfOneStart(t *testing.T) {
	f := started(t, DGXH100())
	d := handle(t, f, 0)
	f.Init()
	f.Shutdown()
	if _, ret := d.GetUUID(); ret != nvml.SUCCESS {
		t.Errorf("with one user left: %v", ret)
	}
	f.Shutdown()
	if _, ret := d.GetUUID(); ret != nvml.ERROR_UNINITIALIZED {
		t.Errorf("with no user: %v", ret)
	}
	if ret := f.Shutdown(); ret != nvml.ERROR_UNINITIALIZED {
		t.Errorf("a Shutdown too many: %v", ret)
	}
	f.Init()
	if _, ret := d.GetUUID(); ret != nvml.ERROR_UNINITIALIZED {
		t.Errorf("of an earlier start: %v", ret)
	}
}

func TestALostGPUStaysLostUntilAStart(t *testing.T) {
	f := started(t, DGXH100())
	d := handle(t, f, 3)
	lose := func(lost bool) {
		if err := f.Update(func(n *Node) { n.GPUs[3].Lost = lost }); err != nil {
			t.Fatal(err)
		}
	}
	lose(true)
	lose(false)
	if _, ret := d.GetName(); ret != nvml.ERROR_GPU_IS_LOST {
		t.Errorf("the handle: %v", ret)
	}
	if _, ret := f.DeviceGetHandleByIndex(3); ret != nvml.ERROR_GPU_IS_LOST {
		t.Errorf("a new handle: %v", ret)
	}
	other, _ := handle(t, f, 4).GetUUID()
	if _, ret := f.DeviceGetHandleByUUID(other); ret != nvml.ERROR_GPU_IS_LOST {
		t.Errorf("another GPU by UUID: %v", ret)
	}
	f.Shutdown()
	f.Init()
	if _, ret := handle(t, f, 3).GetName(); ret != nvml.SUCCESS {
		t.Errorf("after a start: %v", ret)
	}
}

func TestWaitEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := started(t, DGXH100())
		set, _ := f.EventSetCreate()
		if ret := handle(t, f, 2).RegisterEvents(nvml.EventTypeXidCriticalError, set); ret != nvml.SUCCESS {
			t.Fatal(ret)
		}
		began := time.Now()
		if _, ret := set.Wait(700); ret != nvml.ERROR_TIMEOUT || time.Since(began) != 700*time.Millisecond {
			t.Errorf("%v after %v", ret, time.Since(began))
		}
		got := make(chan nvml.Return)
		wait := func() {
			_, ret := set.Wait(1 << 20)
			got <- ret
		}
		go wait()
		synctest.Wait()
		_ = f.Update(func(n *Node) { n.Events = append(n.Events, Event{GPU: 3, Xid: 1}, Event{GPU: 2, Xid: 1}) })
		if ret := <-got; ret != nvml.SUCCESS {
			t.Errorf("on an event: %v", ret)
		}
		go wait()
		synctest.Wait()
		_ = f.Update(func(n *Node) { n.GPUs[2].Lost = true })
		if ret := <-got; ret != nvml.ERROR_GPU_IS_LOST {
			t.Errorf("when the GPU is lost: %v", ret)
		}
		f.Shutdown()
		if _, ret := set.Wait(1); ret != nvml.ERROR_UNINITIALIZED {
			t.Errorf("after Shutdown: %v", ret)
		}
	})
}

func TestParse(t *testing.T) {
	for name, c := range map[string]struct {
		yaml string
		want Node
	}{
		"nothing":  {"", Node{}},
		"a preset": {"preset: dgx-h100", DGXH100()},
		"a preset with changes": {
			"preset: dgx-1\nname: a\nset: {\"3\": {lost: true, answers: {GetName: ERROR_UNKNOWN}}}\nevents: [{gpu: 2, xid: 79}]",
			func() Node {
				n := DGX1()
				n.Name, n.Events = "a", []Event{{GPU: 2, Xid: 79}}
				n.GPUs[3].Lost, n.GPUs[3].Answers = true, map[string]Answer{"GetName": "ERROR_UNKNOWN"}
				return n
			}(),
		},
		"GPUs of several kinds": {
			"gpus: [{model: L4, count: 2, smPercent: 3}, {model: A30, mig: {enabled: true, instances: [1g.6gb@3]}}]\nset: {\"1\": {smPercent: 5}}",
			Node{GPUs: []GPU{{Model: "L4", SMPercent: 3}, {Model: "L4", SMPercent: 5}, {Model: "A30", MIG: MIG{Enabled: true, Instances: []string{"1g.6gb@3"}}}}},
		},
		"other GPUs than the preset's": {"preset: dgx-h100\ngpus: [{model: H200}]", Node{Topology: NVSwitch, GPUs: []GPU{{Model: "H200"}}}},
		"no GPUs":                      {"preset: dgx-h100\ngpus: []", Node{Topology: NVSwitch}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Parse([]byte(c.yaml))
			if diff := cmp.Diff(c.want, got); err != nil || diff != "" {
				t.Errorf("%v: %s", err, diff)
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	for yaml, part := range map[string]string{
		"]":                                     "description of a node",
		"preset: dgx-x":                         `preset "dgx-x": there is none such`,
		"gpu: []":                               `unknown field "gpu"`,
		"gpus: [{model: L4, lots: true}]":       `unknown field`,
		"gpus: [{model: H1}]":                   `GPU 0: model "H1"`,
		"gpus: [{}]":                            `GPU 0: model ""`,
		"gpus: [{model: L4, count: 999}]":       "count 999: want 0 to 256",
		"gpus: [{model: L4, count: -1}]":        "count -1: want 0 to 256",
		"preset: 8xl4\nset: {\"8\": {}}":        `GPU "8": want 0 to 7`,
		"preset: 8xl4\nset: {x: {}}":            `GPU "x": want 0 to 7`,
		"preset: 8xl4\nset: {\"1\": {gone: 1}}": "set: GPU 1:",
		"preset: 8xl4\nset: {\"1\": {answers: {GetName: NAY}}}": `answer "NAY" of GetName`,
		"preset: 8xl4\nevents: [{gpu: 8}]":                      "event 0: GPU 8: want 0 to 7",
		"startError: broken":                                    `startError "broken"`,
		"topology: ring":                                        `topology "ring"`,
		"topology: cube-mesh":                                   "with 0 GPUs: want 8",
		"cudaVersion: x":                                        `cudaVersion "x"`,
		"fabric: {clusterUUID: x}":                              "want a UUID",
		"fabric: {clusterUUID: 7b968a6d-c8aa-45e1-9e07-e1e51be99c31, state: odd}":      "want a UUID, a state",
		"gpus: [{model: L4, mig: {enabled: true}}]":                                    "MIG on a L4, which has none",
		"gpus: [{model: A30, mig: {instances: [1g.6gb@0]}}]":                           "MIG is not enabled",
		"gpus: [{model: A30, mig: {enabled: true, instances: [1g.6gb]}}]":              "want profile@start",
		"gpus: [{model: A30, mig: {enabled: true, instances: [1g.5gb@0]}}]":            "want profile@start",
		"gpus: [{model: A30, mig: {enabled: true, instances: [1g.6gb@x]}}]":            "want profile@start",
		"gpus: [{model: A30, mig: {enabled: true, instances: [1g.6gb@0, 4g.24gb@0]}}]": "no room for it (ERROR_INSUFFICIENT_RESOURCES)",
		"gpus: [{model: A30, mig: {enabled: true, instances: [2g.12gb@1]}}]":           "no room for it (ERROR_INVALID_ARGUMENT)",
		"gpus: [{model: A30, links: [7]}]":                                             "links [7]",
		"gpus: [{model: A30, numaNode: 5000}]":                                         "NUMA node 5000",
		"gpus: [{model: A30, memoryMiB: -1}]":                                          "-1 MiB",
	} {
		if n, err := Parse([]byte(yaml)); err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%s: %+v, %v; want an error with %q", yaml, n, err, part)
		}
	}
}

func TestFromFileFollowsTheFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "node.yaml")
	if _, err := FromFile(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without a file: %v", err)
	}
	if err := os.WriteFile(path, []byte("preset: none"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := FromFile(path); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("with a file that describes nothing: %v", err)
	}
	n := DGXH100()
	n.GPUs[0].MIG = MIG{Enabled: true, Instances: []string{"3g.40gb@4"}}
	write := func() {
		t.Helper()
		if err := n.Write(path); err != nil {
			t.Fatal(err)
		}
	}
	write()
	f, err := FromFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f.Init()
	d := handle(t, f, 0)
	one, _ := d.GetGpuInstanceProfileInfo(nvml.GPU_INSTANCE_PROFILE_1_SLICE)
	if _, ret := d.CreateGpuInstance(&one); ret != nvml.SUCCESS {
		t.Fatal(ret)
	}
	instances := func() int {
		all, _ := d.GetGpuInstances(&one)
		return len(all)
	}
	n.GPUs[5].Lost = true
	write()
	if _, ret := f.DeviceGetHandleByIndex(5); ret != nvml.ERROR_GPU_IS_LOST {
		t.Errorf("a GPU that the file loses: %v", ret)
	}
	if instances() != 1 {
		t.Error("an instance is gone, but the file says nothing else of that GPU's MIG")
	}
	if err := os.WriteFile(path, []byte("] no description"), 0o600); err != nil {
		t.Fatal(err)
	}
	if c, _ := f.DeviceGetCount(); c != 8 {
		t.Errorf("%d GPUs while the file is broken", c)
	}
	n.GPUs[0].MIG.Instances = []string{"7g.80gb@0"}
	write()
	if instances() != 0 {
		t.Error("an instance is there, but the file describes others")
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if c, _ := f.DeviceGetCount(); c != 8 {
		t.Errorf("%d GPUs without the file", c)
	}
	n.GPUs = n.GPUs[:2]
	write()
	if _, ret := d.GetName(); ret != nvml.SUCCESS {
		t.Errorf("a GPU that stays: %v", ret)
	}
	if c, _ := f.DeviceGetCount(); c != 2 {
		t.Errorf("%d GPUs, want 2", c)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("preset: dgx-h100\nset: {\"3\": {lost: true}}\nevents: [{gpu: 2, xid: 79}]"))
	f.Add([]byte("gpus: [{model: A30, count: 2, mig: {enabled: true, instances: [1g.6gb@3, \"2g.12gb@0:2\"]}}]"))
	f.Add([]byte("fabric: {clusterUUID: 7b968a6d-c8aa-45e1-9e07-e1e51be99c31, cliqueID: 3}\ntopology: pairs"))
	f.Fuzz(func(t *testing.T, data []byte) {
		n, err := Parse(data)
		if err != nil {
			return
		}
		// What was read can be written, and is read as the same.
		path := filepath.Join(t.TempDir(), "node.yaml")
		if err := n.Write(path); err != nil {
			t.Fatal(err)
		}
		again, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		m, err := Parse(again)
		if err != nil {
			t.Fatalf("%v: %s", err, again)
		}
		if len(m.GPUs) != len(n.GPUs) || len(m.Events) != len(n.Events) || m.Topology != n.Topology {
			t.Errorf("read %+v, then %+v", n, m)
		}
		if _, err := New(n); err != nil {
			t.Error(err)
		}
	})
}
