package nvml

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/nvml/nvmlfake"
)

// fake is the fake of a node, which is described well.
func fake(t testing.TB, n nvmlfake.Node) *nvmlfake.Fake {
	t.Helper()
	f, err := nvmlfake.New(n)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// changed is a ready-made node with one GPU that is described otherwise.
func changed(n nvmlfake.Node, index int, change func(*nvmlfake.GPU)) nvmlfake.Node {
	change(&n.GPUs[index])
	return n
}

func update(t testing.TB, f *nvmlfake.Fake, change func(*nvmlfake.Node)) {
	t.Helper()
	if err := f.Update(change); err != nil {
		t.Fatal(err)
	}
}

// discover discovers, and checks what holds for all hosts.
func discover(t testing.TB, l *Library) Host {
	t.Helper()
	h, err := l.Discover()
	if err != nil {
		t.Fatal(err)
	}
	for _, fault := range faults(h) {
		t.Error(fault)
	}
	return h
}

// faults are where a host breaks what is promised of every host.
func faults(h Host) (out []string) {
	bad := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	ids, indices := map[gpu.ID]bool{}, map[int]bool{}
	for i, g := range h.GPUs {
		if err := g.Validate(); err != nil {
			bad("%v", err)
		}
		if ids[g.ID] || indices[g.Index] || i > 0 && h.GPUs[i-1].Index >= g.Index {
			bad("GPU %d (%s) stands twice or out of order", g.Index, g.ID)
		}
		ids[g.ID], indices[g.Index] = true, true
		if g.Unhealthy != (g.Problem != "") || g.Unhealthy != (g.UnhealthyReason != "") {
			bad("GPU %d: unhealthy %v, problem %q, reason %q", g.Index, g.Unhealthy, g.Problem, g.UnhealthyReason)
		}
		if !g.MIG && len(g.MIGDevices)+len(g.Incomplete) > 0 {
			bad("GPU %d has MIG devices outside of MIG mode", g.Index)
		}
		var instances []gpu.Instance
		uuids := map[string]bool{}
		for _, m := range g.MIGDevices {
			if m.UUID == "" || uuids[m.UUID] {
				bad("GPU %d: MIG device %q stands twice", g.Index, m.UUID)
			}
			uuids[m.UUID] = true
			for _, o := range instances {
				if o.Overlaps(m.Instance) {
					bad("GPU %d: %s overlaps %s", g.Index, o, m.Instance)
				}
			}
			instances = append(instances, m.Instance)
		}
		if !slices.Equal(instances, g.Instances) {
			bad("GPU %d: instances %v, MIG devices %v", g.Index, g.Instances, g.MIGDevices)
		}
		for _, p := range g.Profiles {
			if !gpu.ValidProfile(p.Name) || p.MaxCount < 1 || p.ComputeSlices < 1 || p.MemoryMiB > g.TotalMemoryMiB {
				bad("GPU %d: profile %+v", g.Index, p)
			}
			for k, at := range p.Placements {
				i := gpu.Instance{Profile: p.Name, Start: at.Start, Size: at.Size}
				if i.Validate() != nil || k > 0 && p.Placements[k-1].Start+p.Placements[k-1].Size > at.Start {
					bad("GPU %d: profile %+v", g.Index, p)
				}
			}
		}
		for _, p := range g.Hardware.Links.Peers {
			k := slices.IndexFunc(h.GPUs, func(o GPU) bool { return o.Index == p.Index })
			if k < 0 {
				bad("GPU %d has links to GPU %d, which there is not", g.Index, p.Index)
			} else if o := h.GPUs[k]; g.Problem == "" && o.Problem == "" &&
				!slices.Contains(o.Hardware.Links.Peers, gpu.Peer{Index: g.Index, Links: p.Links}) {
				bad("GPU %d has %d links to GPU %d, which has others back: %v", g.Index, p.Links, p.Index, o.Hardware.Links.Peers)
			}
		}
	}
	return out
}

// problems asserts that there are as many problems as parts, each with its part.
func problems(t testing.TB, h Host, parts ...string) {
	t.Helper()
	if len(h.Problems) != len(parts) {
		t.Errorf("problems %q, want %d with %q", h.Problems, len(parts), parts)
		return
	}
	for i, part := range parts {
		if !strings.Contains(h.Problems[i], part) {
			t.Errorf("problem %d is %q, want it to contain %q", i, h.Problems[i], part)
		}
	}
}

func TestDiscoverReadyMadeNodes(t *testing.T) {
	for name, preset := range nvmlfake.Presets {
		t.Run(name, func(t *testing.T) {
			l := New(fake(t, preset()))
			h := discover(t, l)
			problems(t, h)
			if len(h.GPUs) != len(preset().GPUs) {
				t.Errorf("%d GPUs, want %d", len(h.GPUs), len(preset().GPUs))
			}
			for _, g := range h.GPUs {
				if diff := Compare(g); diff != nil {
					t.Errorf("GPU %d: %q", g.Index, diff)
				}
			}
			if err := l.Close(); err != nil {
				t.Error(err)
			}
			if _, err := l.Discover(); !errors.Is(err, ErrUnavailable) {
				t.Errorf("Discover after Close: %v", err)
			}
		})
	}
}

func TestDiscoverTellsAllOfAGPU(t *testing.T) {
	n := nvmlfake.Node{
		DriverVersion: "615.12.04", CUDAVersion: "13.4", Topology: nvmlfake.NVSwitch,
		Fabric: &nvmlfake.Fabric{ClusterUUID: "7b968a6d-c8aa-45e1-9e07-e1e51be99c31", CliqueID: 32766},
		GPUs:   []nvmlfake.GPU{{Model: "H200", UUID: "GPU-9d3a", Minor: new(5), NUMANode: new(3), PCIBusID: "00010000:CB:00.0"}},
	}
	h := discover(t, New(fake(t, n)))
	profiles := h.GPUs[0].Profiles
	h.GPUs[0].Profiles = nil
	want := Host{DriverVersion: "615.12.04", CUDAVersion: "13.4", NVMLVersion: "13.615.12.04", GPUs: []GPU{{
		Device: gpu.Device{ID: "GPU-9d3a", Index: 0, Product: "NVIDIA-H200", MemoryMiB: 143771 - 619, Hardware: &gpu.Hardware{
			PCIBusID: "10000:cb:00.0", NUMANode: 3, Architecture: "hopper", ComputeCapability: "9.0", DriverVersion: "615.12.04", CUDAVersion: "13.4",
			Links: gpu.Links{Switch: 18}, Clique: "7b968a6d-c8aa-45e1-9e07-e1e51be99c31.32766",
		}},
		TotalMemoryMiB: 143771, Minor: 5, MIGCapable: true, MemoryLimits: true,
	}}}
	if diff := cmp.Diff(want, h); diff != "" {
		t.Error(diff)
	}
	big := Profile{Name: "7g.141gb", ComputeSlices: 7, SMs: 132, MemoryMiB: 143104, MaxCount: 1, Placements: []Placement{{0, 8}}}
	if diff := cmp.Diff(big, profiles[len(profiles)-1], cmp.AllowUnexported(Profile{}), cmp.FilterPath(func(p cmp.Path) bool {
		return p.String() == "enum"
	}, cmp.Ignore())); diff != "" {
		t.Error(diff)
	}
}

func TestDiscoverOfAnOldDriver(t *testing.T) {
	// Every function that is not in all drivers is missing: a call of one of them panics in the fake.
	n := nvmlfake.DGX1()
	n.DriverVersion, n.Missing = "418.87", optionalFunctions
	h := discover(t, New(fake(t, n)))
	problems(t, h)
	g := h.GPUs[0]
	want := &gpu.Hardware{
		PCIBusID: "0000:10:00.0", NUMANode: -1, ComputeCapability: "7.0", DriverVersion: "418.87", CUDAVersion: "13.0",
		// Without the type of the remote device its address tells.
		Links: gpu.Links{Peers: []gpu.Peer{{Index: 1, Links: 1}, {Index: 2, Links: 1}, {Index: 3, Links: 2}, {Index: 4, Links: 2}}},
	}
	if diff := cmp.Diff(want, g.Hardware); diff != "" {
		t.Error(diff)
	}
	if g.MemoryMiB != 16384 || g.MIG || g.MIGCapable || g.MemoryLimits {
		t.Errorf("%+v", g)
	}
	u, err := New(fake(t, n)).Utilisation(g.ID, 0)
	if !errors.Is(err, ErrUnavailable) {
		t.Errorf("Utilisation before Discover: %+v, %v", u, err)
	}
}

func TestDiscoverOfHalfBrokenNodes(t *testing.T) {
	broken := func(change func(*nvmlfake.GPU)) nvmlfake.Node { return changed(nvmlfake.DGXH100(), 3, change) }
	answering := func(method string, a nvmlfake.Answer) nvmlfake.Node {
		return broken(func(g *nvmlfake.GPU) { g.Answers = map[string]nvmlfake.Answer{method: a} })
	}
	for name, c := range map[string]struct {
		node nvmlfake.Node
		// gpus is how many are told, sound how many of them are.
		gpus, sound int
		problems    []string
	}{
		"one GPU was lost from the start":  {broken(func(g *nvmlfake.GPU) { g.Lost = true }), 7, 7, []string{"GPU 3: lost"}},
		"one GPU has no handle":            {answering("DeviceGetHandleByIndex", "ERROR_UNKNOWN"), 7, 7, []string{"GPU 3: it does not answer (NVML: ERROR_UNKNOWN)"}},
		"one GPU's interrupts do not come": {answering("DeviceGetHandleByIndex", "ERROR_IRQ_ISSUE"), 7, 7, []string{"GPU 3: the kernel found a problem with its interrupts"}},
		"one GPU may not be used":          {answering("DeviceGetHandleByIndex", "ERROR_NO_PERMISSION"), 7, 7, []string{"GPU 3: no permission to use it"}},
		"one GPU has no UUID":              {answering("GetUUID", "ERROR_UNKNOWN"), 7, 7, []string{"GPU 3: it does not answer"}},
		"one GPU does not tell its memory": {answering("GetMemoryInfo", "ERROR_UNKNOWN"), 8, 7, []string{"it does not answer (NVML: ERROR_UNKNOWN)"}},
		"one GPU has no memory of its own": {
			broken(func(g *nvmlfake.GPU) {
				g.Answers = map[string]nvmlfake.Answer{"GetMemoryInfo": "ERROR_NOT_SUPPORTED", "GetMemoryInfo_v2": "ERROR_NOT_SUPPORTED"}
			}), 7, 7,
			[]string{"the driver does not tell its memory"},
		},
		"one GPU has memory of 0":             {broken(func(g *nvmlfake.GPU) { g.MemoryMiB = new(int64(0)) }), 7, 7, []string{"what it says of itself cannot be"}},
		"one GPU keeps more than it has":      {broken(func(g *nvmlfake.GPU) { g.ReservedMiB = new(int64(1 << 20)) }), 8, 8, nil},
		"one GPU has no name":                 {answering("GetName", "ERROR_UNKNOWN"), 7, 7, []string{"it does not answer"}},
		"one GPU's name is no label":          {broken(func(g *nvmlfake.GPU) { g.Name = strings.Repeat("x", 64) }), 7, 7, []string{"product"}},
		"one GPU has no device node":          {answering("GetMinorNumber", "ERROR_UNKNOWN"), 8, 8, []string{"NVML does not tell its device node"}},
		"one GPU does not tell its MIG mode":  {answering("GetMigMode", "ERROR_UNKNOWN"), 7, 7, []string{"it does not answer"}},
		"one GPU wants a reset":               {broken(func(g *nvmlfake.GPU) { g.Recovery = new(uint32(1)) }), 8, 7, []string{"gpu-reset"}},
		"one GPU wants what nobody knows":     {broken(func(g *nvmlfake.GPU) { g.Recovery = new(uint32(99)) }), 8, 7, []string{"action-99"}},
		"one GPU wants nothing":               {broken(func(g *nvmlfake.GPU) { g.Recovery = new(uint32(0)) }), 8, 8, nil},
		"one GPU answers that it needs reset": {answering("GetMemoryInfo", "ERROR_RESET_REQUIRED"), 8, 7, []string{"it needs a reset"}},
		"two GPUs have one UUID": {
			broken(func(g *nvmlfake.GPU) { g.UUID = "GPU-03c9c96b-c699-679a-a3a6-ae79ca69228c" }), 7, 7,
			[]string{"GPU 4 has the UUID GPU-03c9c96b-c699-679a-a3a6-ae79ca69228c of another GPU"},
		},
		"one GPU's UUID is none":            {broken(func(g *nvmlfake.GPU) { g.UUID = "GPU 3\n" }), 7, 7, []string{"what it says of itself cannot be"}},
		"one GPU has no PCI address":        {broken(func(g *nvmlfake.GPU) { g.PCIBusID = "nowhere" }), 8, 8, nil},
		"one GPU has no place in the nodes": {answering("GetMemoryAffinity", "ERROR_NOT_SUPPORTED"), 8, 8, nil},
		"one GPU is for a display":          {broken(func(g *nvmlfake.GPU) { g.Name = "NVIDIA DGX Display" }), 7, 7, nil},
		"a driver of no version":            {func() nvmlfake.Node { n := nvmlfake.DGXH100(); n.DriverVersion = "r580 (beta)"; return n }(), 8, 8, nil},
		"there are no GPUs":                 {nvmlfake.Node{}, 0, 0, nil},
	} {
		t.Run(name, func(t *testing.T) {
			h := discover(t, New(fake(t, c.node)))
			sound := 0
			for _, g := range h.GPUs {
				if !g.Unhealthy {
					sound++
				}
			}
			if len(h.GPUs) != c.gpus || sound != c.sound {
				t.Errorf("%d GPUs, %d of them sound, want %d and %d", len(h.GPUs), sound, c.gpus, c.sound)
			}
			problems(t, h, c.problems...)
		})
	}
}

func TestAGPUIsLostAndComesBack(t *testing.T) {
	f := fake(t, nvmlfake.DGXH100())
	l := New(f)
	before := discover(t, l)
	lost, other := before.GPUs[3].ID, before.GPUs[4].ID
	if c := l.Check(lost); c.Problem() != "" || c.Recovery != RecoveryUnknown {
		t.Errorf("Check of a sound GPU: %+v", c)
	}

	update(t, f, func(n *nvmlfake.Node) { n.GPUs[3].Lost = true })
	if c := l.Check(lost); !c.Lost || !strings.Contains(c.Problem(), "fell off the bus") {
		t.Errorf("Check of the lost GPU: %+v", c)
	}
	if c := l.Check(other); c.Problem() != "" {
		t.Errorf("Check of another GPU: %+v", c)
	}
	for range 2 { // lost stays lost
		h := discover(t, l)
		problems(t, h, string(lost)+"): lost")
		want := before.GPUs[3].clone().broken(h.GPUs[3].Problem)
		if diff := cmp.Diff(want, h.GPUs[3], cmp.AllowUnexported(Profile{})); diff != "" {
			t.Errorf("the lost GPU is not as it was: %s", diff)
		}
		if diff := cmp.Diff(before.GPUs[4], h.GPUs[4], cmp.AllowUnexported(Profile{})); diff != "" {
			t.Errorf("another GPU changed: %s", diff)
		}
	}
	if _, err := l.Utilisation(lost, 0); !errors.Is(err, ErrNoGPU) {
		t.Errorf("Utilisation of the lost GPU: %v", err)
	}

	update(t, f, func(n *nvmlfake.Node) { n.GPUs[3].Lost = false })
	if c := l.Check(lost); !c.Lost {
		t.Errorf("Check before Discover: %+v", c)
	}
	h := discover(t, l)
	if diff := cmp.Diff(before, h, cmp.AllowUnexported(Profile{})); diff != "" {
		t.Errorf("not as before: %s", diff)
	}
	if c := l.Check(lost); c.Problem() != "" {
		t.Errorf("Check of the GPU that came back: %+v", c)
	}
}

func TestADriverForgetsAGPU(t *testing.T) {
	f := fake(t, nvmlfake.DGXH100())
	l := New(f)
	before := discover(t, l)
	// The GPUs after it move up; their names are described, for the fake makes them of the index.
	update(t, f, func(n *nvmlfake.Node) {
		for i := range n.GPUs {
			n.GPUs[i].UUID = string(before.GPUs[i].ID)
		}
		n.GPUs = slices.Delete(n.GPUs, 3, 4)
	})
	l.lose(0)
	h := discover(t, l)
	problems(t, h, "the driver no longer knows of it")
	var ids []gpu.ID
	for _, g := range h.GPUs {
		ids = append(ids, g.ID)
	}
	want := []gpu.ID{
		before.GPUs[0].ID, before.GPUs[1].ID, before.GPUs[2].ID, before.GPUs[4].ID, before.GPUs[5].ID, before.GPUs[6].ID, before.GPUs[7].ID,
		before.GPUs[3].ID,
	}
	if diff := cmp.Diff(want, ids); diff != "" {
		t.Error(diff)
	}
	if !h.GPUs[7].Unhealthy {
		t.Error("the GPU that the driver forgot is healthy")
	}
}

func TestDiscoverWhileNVMLCannotStart(t *testing.T) {
	for answer, part := range map[nvmlfake.Answer]string{
		"ERROR_LIBRARY_NOT_FOUND":       "install NVIDIA's driver",
		"ERROR_DRIVER_NOT_LOADED":       "modprobe nvidia",
		"ERROR_LIB_RM_VERSION_MISMATCH": "reboot the node",
		"ERROR_NO_PERMISSION":           "run as root",
		"ERROR_UNKNOWN":                 "ERROR_UNKNOWN",
	} {
		t.Run(string(answer), func(t *testing.T) {
			n := nvmlfake.DGXA100()
			n.StartError = answer
			f := fake(t, n)
			l := New(f)
			if _, err := l.Discover(); !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), part) {
				t.Errorf("error %v, want ErrUnavailable with %q", err, part)
			}
			if c := l.Check("GPU-1"); !c.Lost {
				t.Errorf("Check: %+v", c)
			}
			if _, err := l.Edits(EditOptions{}, "GPU-1"); !errors.Is(err, ErrUnavailable) {
				t.Errorf("Edits: %v", err)
			}
			update(t, f, func(n *nvmlfake.Node) { n.StartError = "" })
			if h := discover(t, l); len(h.GPUs) != 8 {
				t.Errorf("%d GPUs", len(h.GPUs))
			}
		})
	}
}

func TestOpenSaysWhatToDo(t *testing.T) {
	dir := t.TempDir()
	none := filepath.Join(dir, "libnvidia-ml.so.1")
	if err := os.WriteFile(none, []byte("no library"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		options Options
		parts   []string
	}{
		"a file that is not there":       {Options{LibraryPath: filepath.Join(dir, "gone.so")}, []string{"gone.so cannot be loaded", "install NVIDIA's driver"}},
		"a file that is no library":      {Options{LibraryPath: none}, []string{none, "cannot be loaded"}},
		"a driver root without a driver": {Options{DriverRoot: filepath.Join(dir, "root")}, []string{"no libnvidia-ml.so.1 under the driver root", "install"}},
		"a driver root, and no library":  {Options{DriverRoot: dir}, []string{none, "cannot be loaded"}},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := Open(c.options)
			if l != nil || !errors.Is(err, ErrUnavailable) {
				t.Fatalf("Open: %v, %v", l, err)
			}
			for _, part := range c.parts {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("error %q, want it to contain %q", err, part)
				}
			}
		})
	}
}

func TestNUMANodeIsTheKernels(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "sys/bus/pci/devices/0000:18:00.0/numa_node")
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	n := nvmlfake.DGXA100() // NVML says 0 of GPU 1
	l := New(fake(t, n))
	l.sysRoot = dir
	for text, want := range map[string]int{"1\n": 1, "-1\n": 0, "": 0, "99999\n": 0, "x": 0} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := discover(t, l).GPUs[1].Hardware.NUMANode; got != want {
			t.Errorf("with %q: NUMA node %d, want %d", text, got, want)
		}
	}
}

func TestACallThatHangsHoldsNobodyUpForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := fake(t, nvmlfake.DGXH100())
		l := New(f)
		h := discover(t, l)
		// A call to NVML that hangs, as far as the library can see.
		if err := l.enter(); err != nil {
			t.Fatal(err)
		}
		update(t, f, func(n *nvmlfake.Node) { n.GPUs[3].Lost = true })
		if c := l.Check(h.GPUs[3].ID); !c.Lost {
			t.Error("the GPU is not lost")
		}
		checked := make(chan Condition)
		found := make(chan Host)
		go func() { found <- discover(t, l) }()
		synctest.Wait() // it waits to be alone
		go func() { checked <- l.Check(h.GPUs[4].ID) }()
		if c := <-checked; c.Problem() != "" {
			t.Errorf("Check of another GPU: %+v", c)
		}
		problems(t, <-found, "has not returned", "lost")
		if err := l.Close(); err == nil {
			t.Error("Close while a call is under way")
		}
		l.leave()
		problems(t, discover(t, l), "lost")
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
}

// FuzzDiscover checks that whatever a driver says, what Discover returns holds together.
func FuzzDiscover(f *testing.F) {
	for _, seed := range []string{
		"preset: dgx-h100\nset: {\"3\": {lost: true}, \"4\": {mig: {enabled: true, instances: [3g.40gb@4]}}}",
		"gpus: [{model: A30, count: 2, links: [1, -1, 1], mig: {enabled: true, unchecked: true, instances: [\"1g.6gb@0:9\", 2g.12gb@1]}}]",
		"gpus: [{model: H200, mig: {profiles: {3g.71gb: {name: x, maxCount: 9, memoryMiB: 0, placements: [[0, 4], [6, 4], [2, 4]]}}}}]",
		"gpus: [{model: L4, memoryMiB: 0}, {model: L4, uuid: x, name: y, answers: {GetUUID: ERROR_UNKNOWN}}]",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		n, err := nvmlfake.Parse(data)
		if err != nil {
			return
		}
		h, err := New(fake(t, n)).Discover()
		if err != nil {
			return
		}
		for _, fault := range faults(h) {
			t.Error(fault)
		}
		for _, g := range h.GPUs {
			_ = Compare(g)
		}
		if _, err := json.Marshal(h); err != nil {
			t.Error(err)
		}
	})
}

func FuzzBusID(f *testing.F) {
	for _, s := range []string{"00000000:65:00.0", "00010000:CB:00.0", "FFFFFFFF:FF:1F.7", "0000:65:00.0", "", "00000000:65:00.8"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var raw [32]int8
		for i, c := range []byte(s[:min(len(s), len(raw))]) {
			raw[i] = int8(c)
		}
		d := gpu.Device{ID: "GPU", MemoryMiB: 1, Hardware: &gpu.Hardware{PCIBusID: busID(raw)}}
		if err := d.Validate(); err != nil {
			t.Error(err)
		}
	})
}
