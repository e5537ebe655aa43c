package nvml

import (
	"fmt"
	"slices"

	"weft.sh/weft/pkg/mig"
)

// Compare says where NVML's MIG profiles and placements differ from the built-in table of pkg/mig, one sentence each. It
// says nothing when they agree, when there is no table for the product, and when NVML told no profiles. What the table does
// not know of a profile is not compared.
func Compare(g GPU) []string {
	table, ok := mig.TableByProduct(g.Product)
	if !ok || len(g.Profiles) == 0 {
		return nil
	}
	var out []string
	differ := func(name, what string, nvml, tabled any) {
		out = append(out, fmt.Sprintf("MIG profile %s: NVML says %s %v, the table %s says %v", name, what, nvml, table.Name, tabled))
	}
	for _, p := range g.Profiles {
		t, ok := table.Profile(p.Name)
		if !ok {
			out = append(out, fmt.Sprintf("MIG profile %s (id %d): NVML has it, the table %s does not", p.Name, p.ProfileID, table.Name))
			continue
		}
		if p.ProfileID != t.ID {
			differ(p.Name, "id", p.ProfileID, t.ID)
		}
		if p.ComputeSlices != t.ComputeSlices {
			differ(p.Name, "compute slices", p.ComputeSlices, t.ComputeSlices)
		}
		if p.MaxCount != t.Max {
			differ(p.Name, "a largest number of", p.MaxCount, t.Max)
		}
		if t.SMs != 0 && p.SMs != t.SMs {
			differ(p.Name, "SMs", p.SMs, t.SMs)
		}
		if t.MemoryMiB != 0 && p.MemoryMiB != t.MemoryMiB {
			differ(p.Name, "MiB of memory", p.MemoryMiB, t.MemoryMiB)
		}
		var places []Placement
		for _, start := range t.Starts {
			places = append(places, Placement{start, t.Size})
		}
		if len(p.Placements) > 0 && !slices.Equal(p.Placements, places) {
			differ(p.Name, "the places", p.Placements, places)
		}
	}
	for _, t := range table.Profiles {
		if !slices.ContainsFunc(g.Profiles, func(p Profile) bool { return p.Name == t.Name }) {
			out = append(out, fmt.Sprintf("MIG profile %s (id %d): the table %s has it, NVML does not", t.Name, t.ID, table.Name))
		}
	}
	return out
}
