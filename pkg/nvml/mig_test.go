package nvml

import (
	"slices"
	"strings"
	"testing"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
	"github.com/google/go-cmp/cmp"

	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/mig"
	"weft.sh/weft/pkg/nvml/nvmlfake"
)

// partitioned is a DGX H100 whose GPU 0 is in MIG mode.
func partitioned(m nvmlfake.MIG) nvmlfake.Node {
	m.Enabled = true
	return changed(nvmlfake.DGXH100(), 0, func(g *nvmlfake.GPU) { g.MIG = m })
}

// profiled is partitioned, with a 1g.10gb and something that the driver says of the profile 3g.40gb.
func profiled(lie nvmlfake.ProfileLie) nvmlfake.Node {
	return partitioned(nvmlfake.MIG{Instances: []string{"1g.10gb@0"}, Profiles: map[string]nvmlfake.ProfileLie{"3g.40gb": lie}})
}

func TestDiscoverMIG(t *testing.T) {
	all := []string{"1g.10gb", "1g.10gb+me", "1g.20gb", "2g.20gb", "3g.40gb", "4g.40gb", "7g.80gb"}
	without := func(name string) []string {
		return slices.DeleteFunc(slices.Clone(all), func(s string) bool { return s == name })
	}
	unchecked := func(instances ...string) nvmlfake.Node {
		return partitioned(nvmlfake.MIG{Instances: instances, Unchecked: true})
	}
	for name, c := range map[string]struct {
		node      nvmlfake.Node
		instances string
		// profiles are nil for all that the table has.
		profiles []string
		problems []string
	}{
		"instances that exist": {
			node:      partitioned(nvmlfake.MIG{Instances: []string{"3g.40gb@4", "1g.10gb@3", "2g.20gb@0"}}),
			instances: "2g.20gb@0:2 1g.10gb@3:1 3g.40gb@4:4",
		},
		"no instance exists": {node: partitioned(nvmlfake.MIG{}), problems: []string{"it is in MIG mode and has no instance"}},
		"instances without a compute instance, or with a part of one": {
			node:      partitioned(nvmlfake.MIG{Instances: []string{"1g.10gb@0"}, Incomplete: []string{"2g.20gb@2"}, Partial: []string{"3g.40gb@4"}}),
			instances: "1g.10gb@0:1",
			problems: []string{
				"its compute instance is only a part of GPU instance 3", "the GPU instance 2g.20gb@2:2 has no compute instance",
				"the GPU instance 3g.40gb@4:4 has no compute instance",
			},
		},
		"instances that overlap are both left out": {
			node: unchecked("1g.10gb@0", "4g.40gb@0", "3g.40gb@4"), instances: "3g.40gb@4:4",
			problems: []string{"which another one overlaps", "which another one overlaps", "has no compute", "has no compute"},
		},
		"an instance where there is no place for it": {
			node: unchecked("1g.10gb@0", "3g.40gb@3:4"), instances: "1g.10gb@0:1",
			problems: []string{"a 3g.40gb at 3:4, where there is no place for it", "has no compute"},
		},
		"an instance outside of the memory slices": {
			node: unchecked("1g.10gb@0", "3g.40gb@60:4"), instances: "1g.10gb@0:1",
			problems: []string{"a 3g.40gb at 60:4, where there is no place for it", "has no compute"},
		},
		"an instance of another size than its profile": {
			node: unchecked("1g.10gb@0", "3g.40gb@4:3"), instances: "1g.10gb@0:1",
			problems: []string{"a 3g.40gb at 4:3, where there is no place for it", "has no compute"},
		},
		"an instance of a profile that there is not": {
			node: unchecked("1g.10gb@0", "5g.50gb@1:5"), instances: "1g.10gb@0:1", problems: []string{"its profile has the id 999"},
		},
		"more instances than the driver allows": {
			node: unchecked("1g.10gb+me@0", "1g.10gb+me@1"), instances: "1g.10gb+me@0:1 1g.10gb+me@1:1",
			problems: []string{"there are more MIG devices of profile 1g.10gb+me than the 1 that NVML allows"},
		},
		"a largest number of MIG devices that is less than there are": {
			node:      partitioned(nvmlfake.MIG{Instances: []string{"1g.10gb@0", "1g.10gb@1"}, MaxDevices: new(1)}),
			instances: "1g.10gb@0:1", problems: []string{"1g.10gb@1:1 has no compute"},
		},
		"a largest number of MIG devices that cannot be": {
			node:      partitioned(nvmlfake.MIG{Instances: []string{"1g.10gb@0"}, MaxDevices: new(1 << 30)}),
			instances: "1g.10gb@0:1",
		},
		"MIG devices outside of MIG mode are none": {
			node: changed(nvmlfake.DGXH100(), 0, func(g *nvmlfake.GPU) {
				g.MIG = nvmlfake.MIG{Unchecked: true, Instances: []string{"1g.10gb@0"}}
			}),
		},
		"profiles that are told only in MIG mode": {
			node:     changed(nvmlfake.DGXH100(), 0, func(g *nvmlfake.GPU) { g.MIG.HiddenWhenOff = true }),
			profiles: []string{},
		},
		"no permission to see where instances lie": {
			node: changed(partitioned(nvmlfake.MIG{Instances: []string{"1g.10gb@0"}}), 0, func(g *nvmlfake.GPU) {
				g.Answers = map[string]nvmlfake.Answer{"GetGpuInstanceById": "ERROR_NO_PERMISSION", "GetGpuInstances": "ERROR_NO_PERMISSION"}
			}),
			problems: []string{"it takes the capability SYS_ADMIN", "has no instance that could be given"},
		},
		"a MIG device that does not answer": {
			node: changed(partitioned(nvmlfake.MIG{Instances: []string{"1g.10gb@0"}}), 0, func(g *nvmlfake.GPU) {
				g.Answers = map[string]nvmlfake.Answer{"MIG.GetAttributes": "ERROR_UNKNOWN"}
			}),
			problems: []string{"NVML does not tell the size of MIG device 0 (ERROR_UNKNOWN)", "has no compute", "has no instance"},
		},
		"MIG devices that are not told": {
			node: changed(partitioned(nvmlfake.MIG{Instances: []string{"1g.10gb@0"}}), 0, func(g *nvmlfake.GPU) {
				g.Answers = map[string]nvmlfake.Answer{"GetMaxMigDeviceCount": "ERROR_UNKNOWN"}
			}),
			problems: []string{"NVML does not tell its MIG devices", "has no compute", "has no instance"},
		},
		"places that are not told": {
			node: changed(partitioned(nvmlfake.MIG{Instances: []string{"1g.10gb@0"}}), 0, func(g *nvmlfake.GPU) {
				g.Answers = map[string]nvmlfake.Answer{"GetGpuInstancePossiblePlacements": "ERROR_NOT_SUPPORTED"}
			}),
			instances: "1g.10gb@0:1",
			// Without places the size is not known, by which they would be sorted.
			profiles: []string{"1g.10gb", "1g.10gb+me", "1g.20gb", "2g.20gb", "3g.40gb", "4g.40gb", "7g.80gb"},
		},
		"NVML's own name is taken": {
			node: profiled(nvmlfake.ProfileLie{Name: "MIG 3g.48gb+gfx"}), instances: "1g.10gb@0:1",
			profiles: []string{"1g.10gb", "1g.10gb+me", "1g.20gb", "2g.20gb", "3g.48gb+gfx", "4g.40gb", "7g.80gb"},
		},
		"a name that is none is not taken": {node: profiled(nvmlfake.ProfileLie{Name: "three eighths"}), instances: "1g.10gb@0:1"},
		"a name of other compute slices": {
			node: profiled(nvmlfake.ProfileLie{Name: "2g.40gb"}), instances: "1g.10gb@0:1", profiles: without("3g.40gb"),
			problems: []string{"NVML says that it has 3 compute slices"},
		},
		"a profile without memory": {
			node: profiled(nvmlfake.ProfileLie{MemoryMiB: new(uint64(0))}), instances: "1g.10gb@0:1", profiles: without("3g.40gb"),
			problems: []string{"3 compute slices and 0 MiB make no name"},
		},
		"a profile with more memory than the GPU": {
			node: profiled(nvmlfake.ProfileLie{Name: "3g.40gb", MemoryMiB: new(uint64(1 << 63))}), instances: "1g.10gb@0:1",
			profiles: without("3g.40gb"), problems: []string{"9223372036854775808 MiB are more than the GPU's 81559"},
		},
		"a profile without compute slices": {
			node: profiled(nvmlfake.ProfileLie{ComputeSlices: new(uint32(0))}), instances: "1g.10gb@0:1", profiles: without("3g.40gb"),
			problems: []string{"make no name"},
		},
		"a profile of which there can be none": {
			node: profiled(nvmlfake.ProfileLie{MaxCount: new(uint32(0))}), instances: "1g.10gb@0:1", profiles: without("3g.40gb"),
			problems: []string{"a largest number of 0"},
		},
		"a profile of which there can be more than there are places": {
			node: profiled(nvmlfake.ProfileLie{MaxCount: new(uint32(3))}), instances: "1g.10gb@0:1",
			problems: []string{"a largest number of 3 and 2 places: the smaller counts"},
		},
		"a profile of which there can be billions": {
			node: profiled(nvmlfake.ProfileLie{MaxCount: new(^uint32(0))}), instances: "1g.10gb@0:1", profiles: without("3g.40gb"),
			problems: []string{"a largest number of 4294967295"},
		},
		"places that overlap": {
			node: profiled(nvmlfake.ProfileLie{Placements: &[][2]uint32{{0, 4}, {2, 4}, {4, 4}}}), instances: "1g.10gb@0:1",
			profiles: without("3g.40gb"),
			problems: []string{"3 of the places [{0 4} {2 4} {4 4}] overlap", "a largest number of 2 and 0 places", "it has no place"},
		},
		"places outside of the memory slices": {
			node:      profiled(nvmlfake.ProfileLie{Placements: &[][2]uint32{{0, 4}, {6, 4}, {1 << 31, 1 << 31}, {4, 0}}}),
			instances: "1g.10gb@0:1",
			problems:  []string{"3 of the places", "a largest number of 2 and 1 places"},
		},
		"no places": {
			node: profiled(nvmlfake.ProfileLie{Placements: &[][2]uint32{}}), instances: "1g.10gb@0:1", profiles: without("3g.40gb"),
			problems: []string{"a largest number of 2 and 0 places", "it has no place"},
		},
		"two profiles of one id": {
			node: profiled(nvmlfake.ProfileLie{ID: new(uint32(5))}), instances: "1g.10gb@0:1",
			profiles: []string{"1g.10gb", "1g.10gb+me", "1g.20gb", "2g.20gb", "7g.80gb"},
			problems: []string{"profile 3g.40gb (id 5): another one", "profile 4g.40gb (id 5): another one"},
		},
		"two profiles of one name": {
			node: profiled(nvmlfake.ProfileLie{Name: "4g.40gb", ComputeSlices: new(uint32(4))}), instances: "1g.10gb@0:1",
			profiles: []string{"1g.10gb", "1g.10gb+me", "1g.20gb", "2g.20gb", "7g.80gb"},
			problems: []string{"profile 4g.40gb (id 9): another one", "profile 4g.40gb (id 5): another one"},
		},
		"a GPU with one slice more than there are": {
			node:      partitioned(nvmlfake.MIG{Instances: []string{"1g.10gb@0"}, Profiles: map[string]nvmlfake.ProfileLie{"7g.80gb": {Placements: &[][2]uint32{{0, 65}}}}}),
			instances: "1g.10gb@0:1", profiles: without("7g.80gb"),
			problems: []string{"1 of the places", "a largest number of 1 and 0 places", "it has no place"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := discover(t, New(fake(t, c.node)))
			g := h.GPUs[0]
			if len(h.GPUs) != 8 || g.Unhealthy {
				t.Errorf("%d GPUs, problem of the first: %q", len(h.GPUs), g.Problem)
			}
			var instances, names []string
			for _, i := range g.Instances {
				instances = append(instances, i.String())
			}
			if got := strings.Join(instances, " "); got != c.instances {
				t.Errorf("instances %s, want %s", got, c.instances)
			}
			for _, p := range g.Profiles {
				names = append(names, p.Name)
			}
			want := c.profiles
			if want == nil {
				want = all
			}
			if !slices.Equal(names, want) {
				t.Errorf("profiles %q, want %q", names, want)
			}
			problems(t, h, c.problems...)
		})
	}
}

func TestMIGDevicesTellAll(t *testing.T) {
	h := discover(t, New(fake(t, partitioned(nvmlfake.MIG{Instances: []string{"3g.40gb@4"}}))))
	g := h.GPUs[0]
	uuid := g.MIGDevices[0].UUID
	if !strings.HasPrefix(uuid, "MIG-") {
		t.Errorf("UUID %q", uuid)
	}
	want := []MIGDevice{{
		Instance: gpu.Instance{Profile: "3g.40gb", Start: 4, Size: 4}, UUID: uuid, GPUInstance: 1, ComputeInstance: 0, MemoryMiB: 40448,
	}}
	if diff := cmp.Diff(want, g.MIGDevices); diff != "" {
		t.Error(diff)
	}
	if !g.MIG || !g.MIGCapable || g.MemoryLimits {
		t.Errorf("%+v", g)
	}
}

// The table's names are NVIDIA's, printed by its tools; ours are made of the memory that the same tools printed.
func TestProfileNamesAreNVIDIAs(t *testing.T) {
	for model, m := range nvmlfake.Models {
		t.Run(model, func(t *testing.T) {
			g := discover(t, New(fake(t, nvmlfake.Node{GPUs: []nvmlfake.GPU{{Model: model}}}))).GPUs[0]
			table, ok := mig.TableByProduct(strings.ReplaceAll(m.Name, " ", "-"))
			if ok != (len(g.Profiles) > 0) {
				t.Fatalf("profiles %v, table %v", g.Profiles, ok)
			}
			for _, p := range g.Profiles {
				if w, ok := table.Profile(p.Name); !ok || w.ID != p.ProfileID {
					t.Errorf("name %s of id %d is not in the table", p.Name, p.ProfileID)
				}
			}
		})
	}
}

func TestProfileName(t *testing.T) {
	const mib40 = 40960
	for name, c := range map[string]struct {
		profile rawProfile
		total   int64
		want    string
	}{
		"made":                          {raw(nvml.GPU_INSTANCE_PROFILE_1_SLICE, 1, 4864), mib40, "1g.5gb"},
		"with media engines":            {raw(nvml.GPU_INSTANCE_PROFILE_1_SLICE_REV1, 1, 4864), mib40, "1g.5gb+me"},
		"with all media engines":        {raw(nvml.GPU_INSTANCE_PROFILE_1_SLICE_ALL_ME, 1, 24192), 97887, "1g.24gb+me.all"},
		"without media engines":         {raw(nvml.GPU_INSTANCE_PROFILE_2_SLICE_NO_ME, 2, 48512), 97887, "2g.48gb-me"},
		"with graphics":                 {raw(nvml.GPU_INSTANCE_PROFILE_4_SLICE_GFX, 4, 96768), 97887, "4g.96gb+gfx"},
		"twice the memory":              {raw(nvml.GPU_INSTANCE_PROFILE_1_SLICE_REV2, 1, 9856), mib40, "1g.10gb"},
		"NVML's":                        {rawProfile{name: "MIG 1g.12gb", info: nvml.GpuInstanceProfileInfo{SliceCount: 1}}, mib40, "1g.12gb"},
		"NVML's without its prefix":     {rawProfile{name: " 1g.12gb+me\n", info: nvml.GpuInstanceProfileInfo{SliceCount: 1}}, mib40, "1g.12gb+me"},
		"NVML's is bad":                 {rawProfile{name: "1g", info: nvml.GpuInstanceProfileInfo{SliceCount: 1, MemorySizeMB: 4864}}, mib40, "1g.5gb"},
		"more memory than there is":     {raw(0, 1, mib40+1), mib40, ""},
		"no memory":                     {raw(0, 1, 0), mib40, ""},
		"a GPU without memory":          {raw(0, 1, 1), 0, ""},
		"a GPU of more memory than any": {raw(0, 1, 1), 1 << 62, ""},
		"a thousand compute slices":     {raw(0, 1000, 4864), mib40, ""},
	} {
		t.Run(name, func(t *testing.T) {
			if got := profileName(c.profile, c.total); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func raw(enum int, slices uint32, mib uint64) rawProfile {
	return rawProfile{enum: enum, info: nvml.GpuInstanceProfileInfo{SliceCount: slices, MemorySizeMB: mib}}
}

func TestCompare(t *testing.T) {
	lies := map[string]nvmlfake.ProfileLie{
		"1g.10gb": {ID: new(uint32(18))}, "1g.20gb": {MaxCount: new(uint32(3))}, "2g.20gb": {MemoryMiB: new(uint64(20000))},
		"3g.40gb": {Placements: &[][2]uint32{{0, 4}}, MaxCount: new(uint32(1))}, "4g.40gb": {Name: "4g.44gb"},
	}
	g := discover(t, New(fake(t, partitioned(nvmlfake.MIG{Instances: []string{"1g.10gb@0"}, Profiles: lies})))).GPUs[0]
	want := []string{
		"MIG profile 1g.10gb: NVML says id 18, the table H100-80GB says 19",
		"MIG profile 1g.20gb: NVML says a largest number of 3, the table H100-80GB says 4",
		"MIG profile 2g.20gb: NVML says MiB of memory 20000, the table H100-80GB says 20096",
		"MIG profile 3g.40gb: NVML says a largest number of 1, the table H100-80GB says 2",
		"MIG profile 3g.40gb: NVML says the places [{0 4}], the table H100-80GB says [{0 4} {4 4}]",
		"MIG profile 4g.44gb (id 5): NVML has it, the table H100-80GB does not",
		"MIG profile 4g.40gb (id 5): the table H100-80GB has it, NVML does not",
	}
	if diff := cmp.Diff(want, Compare(g)); diff != "" {
		t.Error(diff)
	}
	g.Product = "NVIDIA-H100-NVL"
	if got := Compare(g); got != nil {
		t.Errorf("of a product without a table: %q", got)
	}
}

// FuzzBelieve checks that no answer of a driver makes profiles or devices that cannot be.
func FuzzBelieve(f *testing.F) {
	f.Add(int64(81559), []byte{0, 19, 1, 7, 9, 0, 1, 0, 1, 1, 9, 0, 2, 0, 9, 3, 2, 39, 2, 0, 4, 4, 4, 2, 0, 0, 9, 4, 4, 0, 1, 1, 19, 0, 1, 0})
	f.Fuzz(func(t *testing.T, total int64, data []byte) {
		next := func() uint32 {
			if len(data) == 0 {
				return 0
			}
			b := data[0]
			data = data[1:]
			if b >= 250 { // some numbers that are far out
				return ^uint32(0) >> (b - 250)
			}
			return uint32(b)
		}
		var profiles []rawProfile
		for range next() % 20 {
			p := rawProfile{enum: int(next() % 20), placed: true, info: nvml.GpuInstanceProfileInfo{
				Id: next(), SliceCount: next(), InstanceCount: next(), MemorySizeMB: uint64(next()) << 10,
			}}
			for range next() % 8 {
				p.placements = append(p.placements, nvml.GpuInstancePlacement{Start: next(), Size: next()})
			}
			profiles = append(profiles, p)
		}
		var devices []rawDevice
		for i := range next() % 20 {
			devices = append(devices, rawDevice{
				uuid: "MIG-" + string(rune('a'+i-i%2*(next()%2))), gi: int(next()), part: next() == 7,
				info: nvml.GpuInstanceInfo{ProfileId: next(), Placement: nvml.GpuInstancePlacement{Start: next(), Size: next()}},
			})
		}
		total = max(1, min(total, gpu.MaxMemoryMiB))
		g := GPU{Device: gpu.Device{ID: "GPU", MemoryMiB: 1, MIG: true, Hardware: &gpu.Hardware{}}, TotalMemoryMiB: total}
		g.Profiles, _ = believeProfiles(profiles, total)
		g.MIGDevices, _ = believeDevices(devices, g.Profiles)
		for _, m := range g.MIGDevices {
			g.Instances = append(g.Instances, m.Instance)
		}
		for _, fault := range faults(Host{GPUs: []GPU{g}}) {
			t.Error(fault)
		}
	})
}
