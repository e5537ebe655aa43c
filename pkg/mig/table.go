package mig

import (
	"slices"

	"weft.sh/weft/pkg/gpu"
)

// Profile is one MIG profile of one GPU model.
type Profile struct {
	// Name is without the vendor prefix, for example "1g.10gb+me".
	Name string
	// ID is the GPU instance profile id that NVML reports and "nvidia-smi mig -lgip" prints (not NVML's enumeration
	// GPU_INSTANCE_PROFILE_*).
	ID int
	// ComputeSlices is the number of compute slices that an instance takes, 1 to the table's.
	ComputeSlices int
	// Size is the number of memory slices that an instance takes, 1 to the table's.
	Size int
	// Starts are the memory slices at which an instance may start, ascending.
	// Invariant: 0 <= start, start+Size <= the table's MemorySlices.
	Starts []int
	// Max is the largest number of such instances at one time on one GPU.
	Max int
	// SMs is the number of streaming multiprocessors of an instance, 0 where it is not known: read NVML.
	SMs int
	// MemoryMiB is the memory of an instance as one driver reported it, 0 where it is not known. It changes with the
	// driver: read NVML for anything but simulation.
	MemoryMiB int64
}

// Table is what MIG offers on one GPU model.
type Table struct {
	// Name is the model and its memory, for example "H100-80GB".
	Name string
	// Products are the values of the node label nvidia.com/gpu.product that the table applies to.
	Products []string
	// ComputeSlices and MemorySlices are the GPU's: 7 and 8, on an A30 4 and 4.
	ComputeSlices int
	MemorySlices  int
	// Profiles are by compute slices, then by size, then by name.
	Profiles []Profile
}

func (t Table) clone() Table {
	t.Products = slices.Clone(t.Products)
	t.Profiles = slices.Clone(t.Profiles)
	for i := range t.Profiles {
		t.Profiles[i].Starts = slices.Clone(t.Profiles[i].Starts)
	}
	return t
}

// Tables returns all tables, in a fixed order. The caller owns the result.
func Tables() []Table {
	all := make([]Table, len(tables))
	for i := range tables {
		all[i] = tables[i].clone()
	}
	return all
}

// TableByName returns the table of that name, such as "A100-40GB", and whether there is one. The caller owns the result.
func TableByName(name string) (Table, bool) {
	for i := range tables {
		if tables[i].Name == name {
			return tables[i].clone(), true
		}
	}
	return Table{}, false
}

// TableByProduct returns the table for a value of the node label nvidia.com/gpu.product, such as
// "NVIDIA-H100-80GB-HBM3", and whether there is one. Only values that are listed are found, compared exactly; a model
// that looks like a known one is not guessed at, for its profiles may differ (an H100 with 94 GB has 1g.12gb). The
// suffixes that GPU Feature Discovery adds to the label ("-SHARED", "-MIG-1g.10gb") are the caller's to cut.
// The caller owns the result.
func TableByProduct(product string) (Table, bool) {
	for i := range tables {
		if slices.Contains(tables[i].Products, product) {
			return tables[i].clone(), true
		}
	}
	return Table{}, false
}

// Profile returns the profile of that name and whether the table has it.
func (t Table) Profile(name string) (Profile, bool) {
	for _, p := range t.Profiles {
		if p.Name == name {
			return p, true
		}
	}
	return Profile{}, false
}

// Instances returns every legal placement, in the order of the profiles and then by start: what a GPU offers that is
// partitioned on demand. Most of them overlap; see [NewOffer].
func (t Table) Instances() []gpu.Instance {
	var all []gpu.Instance
	for _, p := range t.Profiles {
		for _, start := range p.Starts {
			all = append(all, gpu.Instance{Profile: p.Name, Start: start, Size: p.Size})
		}
	}
	return all
}

// Profiles returns the names of all profiles of all tables, sorted, each once.
func Profiles() []string {
	var names []string
	for i := range tables {
		for _, p := range tables[i].Profiles {
			names = append(names, p.Name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// share is a number of compute slices of a GPU that has `of`.
type share struct{ slices, of int }

// computeOf finds the compute slices of a profile that a table knows. Tables that have the same profile agree on it (a
// test checks this).
func computeOf(profile string) (share, bool) {
	for i := range tables {
		for j := range tables[i].Profiles {
			if p := &tables[i].Profiles[j]; p.Name == profile {
				return share{p.ComputeSlices, tables[i].ComputeSlices}, true
			}
		}
	}
	return share{}, false
}

// ComputeSlices is the number of compute slices that an instance of the profile takes: the number before the "g" of its
// name, 1 to 999. It is 0 when the name does not have the form of a profile ([gpu.ValidProfile]).
func ComputeSlices(profile string) int {
	if !gpu.ValidProfile(profile) {
		return 0
	}
	n := 0
	for i := 0; profile[i] != 'g'; i++ {
		n = n*10 + int(profile[i]-'0')
	}
	return n
}

// defaultComputeSlices is assumed of a GPU that no table covers. Every data-centre GPU since the A100 has 7, except the
// A30, which has a table.
const defaultComputeSlices = 7

// MilliGPU is the share of a GPU that an instance of the profile is, in milli-GPU, 1 to 1000, for accounting. It is the
// profile's compute slices over the GPU's compute slices, rounded down, so that the instances of one GPU never sum to more
// than the GPU: of 7 slices, 1g is 142, 2g 285, 3g 428, 4g 571, 7g 1000; of the A30's 4, 1g is 250. Where no table has the
// profile, the slices are read from its name and taken of 7, at most the whole GPU. It is 0 when the name does not have
// the form of a profile.
func MilliGPU(profile string) int64 {
	s, ok := computeOf(profile)
	if !ok {
		s = share{ComputeSlices(profile), defaultComputeSlices}
	}
	return min(int64(s.slices)*gpu.WholeMilliGPU/int64(s.of), gpu.WholeMilliGPU)
}
