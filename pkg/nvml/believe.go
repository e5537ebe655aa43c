package nvml

import (
	"cmp"
	"fmt"
	"slices"

	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/mig"
)

// What a driver says of MIG is believed piece by piece; what contradicts itself is left out, and told. Where two pieces
// contradict each other and nothing says which is wrong, both are left out.

// believeProfiles makes profiles of what NVML says of them, by compute slices, size and name.
func believeProfiles(raw []rawProfile, totalMiB int64) (profiles []Profile, problems []string) {
	wrong := func(p rawProfile, format string, args ...any) {
		name := cmp.Or(profileName(p, totalMiB), fmt.Sprintf("number %d", p.enum))
		problems = append(problems, fmt.Sprintf("MIG profile %s (id %d): ", name, p.info.Id)+fmt.Sprintf(format, args...))
	}
	size := memorySlices(raw)
	for _, r := range raw {
		p := Profile{
			Name: profileName(r, totalMiB), ProfileID: int(r.info.Id), ComputeSlices: int(r.info.SliceCount), enum: r.enum,
			SMs: int(r.info.MultiprocessorCount), MaxCount: int(r.info.InstanceCount),
		}
		switch {
		case p.Name == "":
			wrong(r, "%q, %d compute slices and %d MiB make no name: it is left out", r.name, r.info.SliceCount, r.info.MemorySizeMB)
			continue
		case mig.ComputeSlices(p.Name) != p.ComputeSlices:
			wrong(r, "NVML says that it has %d compute slices: it is left out", p.ComputeSlices)
			continue
		case r.info.MemorySizeMB > uint64(max(totalMiB, 0)):
			wrong(r, "%d MiB are more than the GPU's %d: it is left out", r.info.MemorySizeMB, totalMiB)
			continue
		case p.MaxCount < 1 || p.MaxCount > maxMIGDevices:
			wrong(r, "a largest number of %d: it is left out", r.info.InstanceCount)
			continue
		}
		p.MemoryMiB = int64(r.info.MemorySizeMB)
		var bad int
		p.Placements, bad = believePlacements(r, size)
		if bad > 0 {
			wrong(r, "%d of the places %v overlap each other or lie outside of the %d memory slices: they are left out", bad, r.placements, size)
		}
		if r.placed && p.MaxCount > len(p.Placements) {
			wrong(r, "a largest number of %d and %d places: the smaller counts", p.MaxCount, len(p.Placements))
			p.MaxCount = len(p.Placements)
		}
		if r.placed && len(p.Placements) == 0 {
			wrong(r, "it has no place: it is left out")
			continue
		}
		profiles = append(profiles, p)
	}
	profiles, doubles := withoutDoubles(profiles)
	return profiles, append(problems, doubles...)
}

// memorySlices is how many memory slices the GPU has: where the places of at least two profiles end, for on every GPU those
// of the largest do and those of at least one other. Otherwise it is only a bound.
func memorySlices(raw []rawProfile) int {
	confirmed, last := 0, 0
	ends := map[int]bool{}
	for _, r := range raw {
		own := map[int]bool{}
		for _, p := range r.placements {
			if end := uint64(p.Start) + uint64(p.Size); end <= gpu.MaxMemorySlices {
				own[int(end)] = true
			}
		}
		for end := range own {
			if ends[end] {
				confirmed = max(confirmed, end)
			}
			ends[end] = true
			last = max(last, end)
		}
	}
	return cmp.Or(confirmed, last, gpu.MaxMemorySlices)
}

// believePlacements returns the places that lie on the GPU and overlap no other, ascending, and the number of the others. On
// no GPU do places of one profile overlap.
func believePlacements(r rawProfile, size int) (good []Placement, bad int) {
	var taken, twice uint64
	var on []gpu.Instance
	for _, p := range r.placements {
		if p.Size < 1 || uint64(p.Start)+uint64(p.Size) > uint64(size) {
			bad++
			continue
		}
		i := gpu.Instance{Start: int(p.Start), Size: int(p.Size)}
		twice |= taken & i.Slices()
		taken |= i.Slices()
		on = append(on, i)
	}
	for _, i := range on {
		if i.Slices()&twice != 0 {
			bad++
			continue
		}
		good = append(good, Placement{i.Start, i.Size})
	}
	sortPlacements(good)
	return good, bad
}

func sortPlacements(p []Placement) {
	slices.SortFunc(p, func(a, b Placement) int { return cmp.Or(cmp.Compare(a.Start, b.Start), cmp.Compare(a.Size, b.Size)) })
}

// withoutDoubles leaves out profiles that have a name or an id in common, and sorts the others.
func withoutDoubles(profiles []Profile) (kept []Profile, problems []string) {
	names, ids := map[string]int{}, map[int]int{}
	for _, p := range profiles {
		names[p.Name]++
		ids[p.ProfileID]++
	}
	for _, p := range profiles {
		if names[p.Name] > 1 || ids[p.ProfileID] > 1 {
			problems = append(problems,
				fmt.Sprintf("MIG profile %s (id %d): another one has the same name or id: it is left out", p.Name, p.ProfileID))
			continue
		}
		kept = append(kept, p)
	}
	slices.SortFunc(kept, func(a, b Profile) int {
		return cmp.Or(cmp.Compare(a.ComputeSlices, b.ComputeSlices), cmp.Compare(a.size(), b.size()), cmp.Compare(a.Name, b.Name))
	})
	return kept, problems
}

// size is the number of memory slices of an instance, 0 when no place is known.
func (p Profile) size() int {
	if len(p.Placements) == 0 {
		return 0
	}
	return p.Placements[0].Size
}

// believeDevices makes MIG devices of what NVML says of them, by start.
func believeDevices(raw []rawDevice, profiles []Profile) (devices []MIGDevice, problems []string) {
	wrong := func(d rawDevice, format string, args ...any) {
		problems = append(problems, fmt.Sprintf("MIG device %q: ", d.uuid)+fmt.Sprintf(format, args...)+": it is left out")
	}
	uuids, instances, taken := map[string]int{}, map[int]int{}, map[int]int{}
	for _, d := range raw {
		uuids[d.uuid]++
		instances[d.gi]++
		for s := range slicesOf(d) {
			taken[s]++
		}
	}
	number := map[string]int{}
	for _, d := range raw {
		at := Placement{int(d.info.Placement.Start), int(d.info.Placement.Size)}
		k := slices.IndexFunc(profiles, func(p Profile) bool { return p.ProfileID == int(d.info.ProfileId) })
		switch {
		case d.uuid == "" || uuids[d.uuid] > 1:
			wrong(d, "%d devices have this UUID", uuids[d.uuid])
		case d.part || instances[d.gi] > 1:
			wrong(d, "its compute instance is only a part of GPU instance %d, so it shares memory with others", d.gi)
		case k < 0:
			wrong(d, "its profile has the id %d, which the GPU does not have", d.info.ProfileId)
		case !profiles[k].allows(at):
			wrong(d, "a %s at %d:%d, where there is no place for it", profiles[k].Name, at.Start, at.Size)
		case overlapped(d, taken):
			wrong(d, "a %s at %d:%d, which another one overlaps", profiles[k].Name, at.Start, at.Size)
		default:
			p := profiles[k]
			devices = append(devices, MIGDevice{
				Instance: gpu.Instance{Profile: p.Name, Start: at.Start, Size: at.Size},
				UUID:     d.uuid, GPUInstance: d.gi, ComputeInstance: d.ci, MemoryMiB: d.memoryMiB,
			})
			if number[p.Name]++; number[p.Name] == p.MaxCount+1 {
				problems = append(problems, fmt.Sprintf("there are more MIG devices of profile %s than the %d that NVML allows", p.Name, p.MaxCount))
			}
		}
	}
	slices.SortFunc(devices, func(a, b MIGDevice) int { return cmp.Compare(a.Start, b.Start) })
	return devices, problems
}

// slicesOf are the memory slices that a device says it takes, as far as there can be such slices.
func slicesOf(d rawDevice) map[int]bool {
	all := map[int]bool{}
	start, size := uint64(d.info.Placement.Start), uint64(d.info.Placement.Size)
	for s := start; s < min(start+size, gpu.MaxMemorySlices); s++ {
		all[int(s)] = true
	}
	return all
}

func overlapped(d rawDevice, taken map[int]int) bool {
	for s := range slicesOf(d) {
		if taken[s] > 1 {
			return true
		}
	}
	return false
}

// allows reports whether an instance can lie there.
func (p Profile) allows(at Placement) bool {
	if len(p.Placements) > 0 {
		return slices.Contains(p.Placements, at)
	}
	return gpu.Instance{Profile: p.Name, Start: at.Start, Size: at.Size}.Validate() == nil
}
