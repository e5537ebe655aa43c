package mig

// The tables. What they were read from:
//
//   - Names, compute and memory fractions, largest numbers: NVIDIA MIG User Guide, "Supported MIG Profiles"
//     (docs.nvidia.com/datacenter/tesla/mig-user-guide/supported-mig-profiles.html).
//   - Ids, SMs, memory: "nvidia-smi mig -lgip" as printed in the MIG User Guide (A100-40GB) and, for the others, in
//     NVIDIA/mig-parted #120 (H200), #166 and #187 (B200) and in public notes of users (A30, A100-80GB, H100-80GB).
//     nvidia-smi prints GiB cut to two decimals; the real numbers are eighths of a GiB (9.62 is 9.625 GiB, 9856 MiB).
//   - Starts: "nvidia-smi mig -lgipp", which prints the same for A100-40GB, A100-80GB and H100:
//     19 and 20 {0,1,2,3,4,5,6}:1, 15 {0,2,4,6}:2, 14 {0,2,4}:2, 9 {0,4}:4, 5 {0}:4, 0 {0}:8; for A30
//     14 and 21 {0,1,2,3}:1, 5 and 6 {0,2}:2, 0 {0}:4. For H200 and B200 they are taken to be the same as the H100's,
//     for ids, numbers and fractions are the same.
//
// The mock GPUs of go-nvml disagree for H100, H200 and B200 (3g of size 3, 7g of size 7, enumeration values as ids);
// they are wrong: real hardware refuses layouts that those would allow.
var tables = []Table{
	{
		Name:          "A30-24GB",
		Products:      []string{"NVIDIA-A30"},
		ComputeSlices: 4,
		MemorySlices:  4,
		Profiles: []Profile{
			{Name: "1g.6gb", ID: 14, ComputeSlices: 1, Size: 1, Starts: []int{0, 1, 2, 3}, Max: 4, SMs: 14, MemoryMiB: 5952},
			{Name: "1g.6gb+me", ID: 21, ComputeSlices: 1, Size: 1, Starts: []int{0, 1, 2, 3}, Max: 1, SMs: 14, MemoryMiB: 5952},
			{Name: "2g.12gb", ID: 5, ComputeSlices: 2, Size: 2, Starts: []int{0, 2}, Max: 2, SMs: 28, MemoryMiB: 11968},
			{Name: "2g.12gb+me", ID: 6, ComputeSlices: 2, Size: 2, Starts: []int{0, 2}, Max: 1, SMs: 28, MemoryMiB: 11968},
			{Name: "4g.24gb", ID: 0, ComputeSlices: 4, Size: 4, Starts: []int{0}, Max: 1, SMs: 56, MemoryMiB: 24000},
		},
	},
	sevenEighths("A100-40GB",
		[]string{"NVIDIA-A100-SXM4-40GB", "NVIDIA-A100-PCIE-40GB"},
		[7]string{"1g.5gb", "1g.5gb+me", "1g.10gb", "2g.10gb", "3g.20gb", "4g.20gb", "7g.40gb"},
		[7]int{14, 14, 14, 28, 42, 56, 98},
		[7]int64{4864, 4864, 9856, 9856, 19968, 19968, 40192}),
	sevenEighths("A100-80GB",
		[]string{"NVIDIA-A100-SXM4-80GB", "NVIDIA-A100-80GB-PCIe", "NVIDIA-A800-SXM4-80GB", "NVIDIA-A800-80GB-PCIe"},
		[7]string{"1g.10gb", "1g.10gb+me", "1g.20gb", "2g.20gb", "3g.40gb", "4g.40gb", "7g.80gb"},
		[7]int{14, 14, 14, 28, 42, 56, 98},
		[7]int64{9728, 9728, 19968, 19968, 40192, 40192, 80896}),
	// SMs and memory are those of the SXM5 module.
	sevenEighths("H100-80GB",
		[]string{"NVIDIA-H100-80GB-HBM3", "NVIDIA-H100-PCIe"},
		[7]string{"1g.10gb", "1g.10gb+me", "1g.20gb", "2g.20gb", "3g.40gb", "4g.40gb", "7g.80gb"},
		[7]int{16, 16, 26, 32, 60, 64, 132},
		[7]int64{9984, 9984, 20096, 20096, 40448, 40448, 81152}),
	sevenEighths("H200-141GB",
		[]string{"NVIDIA-H200", "NVIDIA-H200-NVL"},
		[7]string{"1g.18gb", "1g.18gb+me", "1g.35gb", "2g.35gb", "3g.71gb", "4g.71gb", "7g.141gb"},
		[7]int{16, 16, 26, 32, 60, 64, 132},
		[7]int64{16384, 16384, 33024, 33024, 71168, 71168, 143104}),
	// 1g.23gb was 22.00 GiB with one driver and 20.50 GiB with a later one (mig-parted #166, #187): the later is here.
	sevenEighths("B200-180GB",
		[]string{"NVIDIA-B200"},
		[7]string{"1g.23gb", "1g.23gb+me", "1g.45gb", "2g.45gb", "3g.90gb", "4g.90gb", "7g.180gb"},
		[7]int{18, 18, 30, 36, 0, 0, 0},
		[7]int64{20992, 20992, 45312, 45312, 0, 0, 0}),
}

// sevenEighths is a GPU of 7 compute and 8 memory slices. From the A100 to the B200 these all have the same seven
// profiles under other names.
func sevenEighths(name string, products []string, names [7]string, sms [7]int, memoryMiB [7]int64) Table {
	t := Table{Name: name, Products: products, ComputeSlices: 7, MemorySlices: 8, Profiles: []Profile{
		{ID: 19, ComputeSlices: 1, Size: 1, Starts: []int{0, 1, 2, 3, 4, 5, 6}, Max: 7},
		{ID: 20, ComputeSlices: 1, Size: 1, Starts: []int{0, 1, 2, 3, 4, 5, 6}, Max: 1},
		{ID: 15, ComputeSlices: 1, Size: 2, Starts: []int{0, 2, 4, 6}, Max: 4},
		{ID: 14, ComputeSlices: 2, Size: 2, Starts: []int{0, 2, 4}, Max: 3},
		{ID: 9, ComputeSlices: 3, Size: 4, Starts: []int{0, 4}, Max: 2},
		{ID: 5, ComputeSlices: 4, Size: 4, Starts: []int{0}, Max: 1},
		{ID: 0, ComputeSlices: 7, Size: 8, Starts: []int{0}, Max: 1},
	}}
	for i := range t.Profiles {
		t.Profiles[i].Name, t.Profiles[i].SMs, t.Profiles[i].MemoryMiB = names[i], sms[i], memoryMiB[i]
	}
	return t
}
