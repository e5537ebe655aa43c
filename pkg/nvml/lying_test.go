package nvml

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"weft.sh/weft/pkg/mig"
	"weft.sh/weft/pkg/nvml/nvmlfake"
)

// lying is a node that says of each GPU at random what may be true or not. Its last GPU is sound.
func lying(random *rand.Rand) nvmlfake.Node {
	maybe := func(n int) bool { return random.IntN(n) == 0 }
	number := func() uint32 {
		return []uint32{0, 1, 2, 3, 4, 5, 7, 8, 9, 14, 19, 64, 65, 1 << 31, ^uint32(0)}[random.IntN(15)]
	}
	presets := slices.Sorted(maps.Keys(nvmlfake.Presets))
	n := nvmlfake.Presets[presets[random.IntN(len(presets))]]()
	if maybe(4) {
		n.Missing = optionalFunctions[:random.IntN(len(optionalFunctions))]
	}
	methods := []string{
		"DeviceGetHandleByIndex", "GetUUID", "GetName", "GetMemoryInfo", "GetMemoryInfo_v2", "GetMigMode", "GetGpuInstanceProfileInfo",
		"GetGpuInstancePossiblePlacements", "GetGpuInstances", "GetMaxMigDeviceCount", "GetMigDeviceHandleByIndex", "GetPciInfo", "GetNvLinkState",
		"GetNvLinkRemotePciInfo", "GetFieldValues", "GetArchitecture", "GetMinorNumber", "MIG.GetUUID", "MIG.GetAttributes",
	}
	for i := range n.GPUs[:len(n.GPUs)-1] {
		g := &n.GPUs[i]
		g.Lost = maybe(8)
		if maybe(8) {
			g.UUID = []string{"GPU-1", "\n", "MIG-2", strings.Repeat("x", 70)}[random.IntN(4)]
		}
		if maybe(8) {
			g.Name = []string{strings.Repeat("A ", 40), "NVIDIA H200", "\x00"}[random.IntN(3)]
		}
		if maybe(8) {
			g.PCIBusID = []string{"00000000:10:00.0", "x", "FFFFFFFF:FF:FF.F"}[random.IntN(3)]
		}
		if maybe(8) {
			g.MemoryMiB = new(int64(random.IntN(1 << 30)))
		}
		if maybe(4) {
			g.Answers = map[string]nvmlfake.Answer{methods[random.IntN(len(methods))]: []nvmlfake.Answer{
				"ERROR_UNKNOWN", "ERROR_NOT_SUPPORTED", "ERROR_GPU_IS_LOST", "ERROR_NO_PERMISSION", "ERROR_INVALID_ARGUMENT",
			}[random.IntN(5)]}
		}
		for maybe(2) && len(g.Links) < 30 {
			g.Links = append(g.Links, random.IntN(len(n.GPUs)+1)-1)
		}
		if maybe(8) {
			g.Recovery = new(number())
		}
		profiles := discoverable(g.Model)
		if len(profiles) == 0 || maybe(3) {
			continue
		}
		g.MIG = nvmlfake.MIG{Enabled: !maybe(5), Unchecked: true, Profiles: map[string]nvmlfake.ProfileLie{}}
		if maybe(8) {
			g.MIG.MaxDevices = new(random.IntN(1 << 20))
		}
		lists := []*[]string{&g.MIG.Instances, &g.MIG.Instances, &g.MIG.Incomplete, &g.MIG.Partial}
		for !maybe(3) {
			list, p := lists[random.IntN(len(lists))], profiles[random.IntN(len(profiles))]
			start, size := p.Starts[random.IntN(len(p.Starts))], p.Size
			if maybe(5) {
				start, size = random.IntN(9), 1+random.IntN(8)
			}
			*list = append(*list, fmt.Sprintf("%s@%d:%d", p.Name, start, size))
		}
		for maybe(2) {
			lie := nvmlfake.ProfileLie{}
			for k, lieOf := range []func(){
				func() { lie.Name = []string{"MIG 1g.5gb", "3g.20gb+me", "x"}[random.IntN(3)] },
				func() { lie.ID = new(number()) },
				func() { lie.ComputeSlices = new(number()) },
				func() { lie.MemoryMiB = new(uint64(number()) << random.IntN(33)) },
				func() { lie.MaxCount = new(number()) },
				func() {
					lie.Placements = &[][2]uint32{}
					for !maybe(3) {
						*lie.Placements = append(*lie.Placements, [2]uint32{number(), number()})
					}
				},
			} {
				if k != random.IntN(6) {
					continue
				}
				lieOf()
			}
			g.MIG.Profiles[profiles[random.IntN(len(profiles))].Name] = lie
		}
	}
	return n
}

// discoverable are a model's profiles.
func discoverable(model string) []mig.Profile {
	t, _ := mig.TableByProduct(strings.ReplaceAll(nvmlfake.Models[model].Name, " ", "-"))
	return t.Profiles
}

// Whatever is said of other GPUs: what is told holds together, and of the one that is sound all is told.
func TestDiscoverOfLyingDrivers(t *testing.T) {
	told := 0
	for seed := range uint64(400) {
		n := lying(rand.New(rand.NewPCG(seed, 1)))
		f, err := nvmlfake.New(n)
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		l := New(f)
		h, err := l.Discover()
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		last := len(n.GPUs) - 1
		sound := slices.IndexFunc(h.GPUs, func(g GPU) bool { return g.Index == last })
		if sound < 0 || h.GPUs[sound].Problem != "" || h.GPUs[sound].Product != strings.ReplaceAll(nvmlfake.Models[n.GPUs[last].Model].Name, " ", "-") {
			t.Errorf("seed %d: the GPU that is sound is told as %+v", seed, h.GPUs)
		}
		for _, g := range h.GPUs {
			told += len(g.Instances)
			if g.Problem == "" && l.Check(g.ID).Problem() != "" {
				t.Errorf("seed %d: GPU %d is sound for Discover, and for Check %+v", seed, g.Index, l.Check(g.ID))
			}
			_, _ = l.Utilisation(g.ID, 0)
			_ = Compare(g)
		}
		for _, fault := range faults(h) {
			t.Errorf("seed %d: %s", seed, fault)
		}
		if t.Failed() {
			return
		}
	}
	if told < 100 {
		t.Errorf("%d instances are told in all: the lies leave nothing to believe", told)
	}
}
