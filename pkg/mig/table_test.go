package mig

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"weft.sh/weft/pkg/gpu"
)

func TestEveryTableIsSound(t *testing.T) {
	products := map[string]string{}
	for _, table := range Tables() {
		t.Run(table.Name, func(t *testing.T) {
			if table.ComputeSlices < 1 || table.MemorySlices < 1 || table.MemorySlices > gpu.MaxMemorySlices {
				t.Errorf("%d compute and %d memory slices", table.ComputeSlices, table.MemorySlices)
			}
			if len(table.Products) == 0 {
				t.Error("no product label")
			}
			for _, product := range table.Products {
				if other, ok := products[product]; ok {
					t.Errorf("product %s also stands in %s", product, other)
				}
				products[product] = table.Name
			}
			names, ids := map[string]bool{}, map[int]bool{}
			for _, p := range table.Profiles {
				if names[p.Name] || ids[p.ID] {
					t.Errorf("profile %s, id %d: name or id stands twice", p.Name, p.ID)
				}
				names[p.Name], ids[p.ID] = true, true
				if !gpu.ValidProfile(p.Name) {
					t.Errorf("%q is not the name of a profile", p.Name)
				}
				if p.ComputeSlices != ComputeSlices(p.Name) || p.ComputeSlices > table.ComputeSlices {
					t.Errorf("%s has %d compute slices", p.Name, p.ComputeSlices)
				}
				checkStarts(t, table, p)
			}
		})
	}
}

func checkStarts(t *testing.T, table Table, p Profile) {
	t.Helper()
	if p.Size < 1 || len(p.Starts) == 0 || !slices.IsSorted(p.Starts) {
		t.Errorf("%s has size %d and starts %v", p.Name, p.Size, p.Starts)
	}
	for i, start := range p.Starts {
		if start < 0 || start+p.Size > table.MemorySlices {
			t.Errorf("%s at %d:%d leaves the GPU", p.Name, start, p.Size)
		}
		if i > 0 && p.Starts[i-1]+p.Size > start {
			t.Errorf("%s at %d overlaps itself at %d", p.Name, start, p.Starts[i-1])
		}
	}
	// The offers derive the largest number of a profile from these two rules; see NewOffer.
	want := len(p.Starts)
	if strings.Contains(p.Name, "+me") {
		want = 1
	}
	if p.Max != want {
		t.Errorf("%s: at most %d, the rules of an offer allow %d", p.Name, p.Max, want)
	}
}

func TestMemorySlicesBoundEverythingElse(t *testing.T) {
	for _, table := range Tables() {
		whole := table.Profiles[len(table.Profiles)-1]
		if whole.Size != table.MemorySlices || whole.ComputeSlices != table.ComputeSlices {
			t.Fatalf("%s: the last profile %s is not the whole GPU", table.Name, whole.Name)
		}
		n := 0
		newDumbOffer(table.Instances()).layouts(func(layout []gpu.Instance) {
			n++
			var compute, sms int
			var memoryMiB, milliGPU int64
			for _, i := range layout {
				p, _ := table.Profile(i.Profile)
				compute += p.ComputeSlices
				sms += p.SMs
				memoryMiB += p.MemoryMiB
				milliGPU += MilliGPU(i.Profile)
			}
			if compute > table.ComputeSlices {
				t.Errorf("%s: %v takes %d compute slices of %d", table.Name, layout, compute, table.ComputeSlices)
			}
			if whole.SMs > 0 && sms > whole.SMs {
				t.Errorf("%s: %v takes %d SMs of %d", table.Name, layout, sms, whole.SMs)
			}
			if whole.MemoryMiB > 0 && memoryMiB > whole.MemoryMiB {
				t.Errorf("%s: %v takes %d MiB of %d", table.Name, layout, memoryMiB, whole.MemoryMiB)
			}
			if milliGPU > gpu.WholeMilliGPU {
				t.Errorf("%s: %v counts as %d milli-GPU", table.Name, layout, milliGPU)
			}
		})
		t.Logf("%s: %d layouts", table.Name, n)
	}
}

func TestGPUsOfEightMemorySlicesHaveTheSameStarts(t *testing.T) {
	want := [][]int{{0, 1, 2, 3, 4, 5, 6}, {0, 1, 2, 3, 4, 5, 6}, {0, 2, 4, 6}, {0, 2, 4}, {0, 4}, {0}, {0}}
	sizes := []int{1, 1, 2, 2, 4, 4, 8}
	ids := []int{19, 20, 15, 14, 9, 5, 0}
	for _, table := range Tables() {
		if table.MemorySlices != 8 {
			continue
		}
		if n := len(table.Instances()); n != 25 {
			t.Errorf("%s offers %d placements, want 25", table.Name, n)
		}
		for i, p := range table.Profiles {
			if diff := cmp.Diff(want[i], p.Starts); diff != "" || p.Size != sizes[i] || p.ID != ids[i] {
				t.Errorf("%s %s: id %d, size %d, starts (-want +got)\n%s", table.Name, p.Name, p.ID, p.Size, diff)
			}
		}
	}
}

func TestTheOfferedListOfATableIsEveryPlacementInOrder(t *testing.T) {
	table, _ := TableByName("A30-24GB")
	var got []string
	for _, i := range table.Instances() {
		got = append(got, i.String())
	}
	want := strings.Fields(`1g.6gb@0:1 1g.6gb@1:1 1g.6gb@2:1 1g.6gb@3:1
		1g.6gb+me@0:1 1g.6gb+me@1:1 1g.6gb+me@2:1 1g.6gb+me@3:1
		2g.12gb@0:2 2g.12gb@2:2 2g.12gb+me@0:2 2g.12gb+me@2:2 4g.24gb@0:4`)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("instances (-want +got)\n%s", diff)
	}
}

func TestTableByProduct(t *testing.T) {
	tests := map[string]struct{ product, want string }{
		"the A100 module of 40 GB":             {"NVIDIA-A100-SXM4-40GB", "A100-40GB"},
		"the A100 module of 80 GB":             {"NVIDIA-A100-SXM4-80GB", "A100-80GB"},
		"the A100 card of 80 GB":               {"NVIDIA-A100-80GB-PCIe", "A100-80GB"},
		"the H100 module":                      {"NVIDIA-H100-80GB-HBM3", "H100-80GB"},
		"the H200":                             {"NVIDIA-H200", "H200-141GB"},
		"the B200":                             {"NVIDIA-B200", "B200-180GB"},
		"the A30":                              {"NVIDIA-A30", "A30-24GB"},
		"an H100 of 94 GB has other profiles":  {"NVIDIA-H100-NVL", ""},
		"a model without MIG":                  {"NVIDIA-L40S", ""},
		"a prefix of a known model":            {"NVIDIA-A100", ""},
		"other letter case":                    {"nvidia-h200", ""},
		"the suffix of a shared GPU is no cut": {"NVIDIA-H200-SHARED", ""},
		"no product":                           {"", ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			table, ok := TableByProduct(tt.product)
			if table.Name != tt.want || ok != (tt.want != "") {
				t.Errorf("TableByProduct(%q) = %q, %t; want %q", tt.product, table.Name, ok, tt.want)
			}
		})
	}
}

func TestCallersOwnTheTablesTheyGet(t *testing.T) {
	spoil := func(table Table) {
		table.Products[0] = "spoilt"
		table.Profiles[0].Starts[0] = 99
		table.Profiles[0].Name = "spoilt"
	}
	before := Tables()
	spoil(Tables()[0])
	byName, _ := TableByName(before[0].Name)
	spoil(byName)
	byProduct, _ := TableByProduct(before[0].Products[0])
	spoil(byProduct)
	if diff := cmp.Diff(before, Tables()); diff != "" {
		t.Errorf("tables changed (-before +after)\n%s", diff)
	}
}

func TestKnownProfiles(t *testing.T) {
	names := Profiles()
	if !slices.IsSorted(names) || len(slices.Compact(slices.Clone(names))) != len(names) {
		t.Errorf("not sorted, or a name stands twice: %q", names)
	}
	for _, name := range []string{"1g.5gb", "1g.10gb+me", "3g.71gb", "7g.180gb", "4g.24gb"} {
		if !slices.Contains(names, name) {
			t.Errorf("%s is not listed", name)
		}
	}
}

func TestSharesOfAGPU(t *testing.T) {
	tests := map[string]struct {
		profile  string
		compute  int
		milliGPU int64
	}{
		"one slice of seven, rounded down":              {"1g.10gb", 1, 142},
		"media extensions take no compute":              {"1g.10gb+me", 1, 142},
		"double memory takes no more compute":           {"1g.20gb", 1, 142},
		"two slices":                                    {"2g.35gb", 2, 285},
		"three slices":                                  {"3g.90gb", 3, 428},
		"four slices":                                   {"4g.20gb", 4, 571},
		"all seven":                                     {"7g.141gb", 7, 1000},
		"an A30 has four slices":                        {"1g.6gb", 1, 250},
		"half an A30":                                   {"2g.12gb+me", 2, 500},
		"a whole A30":                                   {"4g.24gb", 4, 1000},
		"a profile of no table is read from its name":   {"3g.135gb", 3, 428},
		"more slices than seven are at most one GPU":    {"12g.500gb", 12, 1000},
		"the longest number is read":                    {"999g.1gb", 999, 1000},
		"what is not a profile is nothing":              {"gpu", 0, 0},
		"the resource name of a profile is no profile":  {"mig-1g.10gb", 0, 0},
		"no compute at all is not a profile":            {"0g.10gb", 0, 0},
		"an empty name is nothing":                      {"", 0, 0},
		"a compute instance of a profile is no profile": {"1c.3g.40gb", 0, 0},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if got := ComputeSlices(tt.profile); got != tt.compute {
				t.Errorf("ComputeSlices(%q) = %d, want %d", tt.profile, got, tt.compute)
			}
			if got := MilliGPU(tt.profile); got != tt.milliGPU {
				t.Errorf("MilliGPU(%q) = %d, want %d", tt.profile, got, tt.milliGPU)
			}
		})
	}
}

func TestTablesAgreeOnTheShareOfAProfile(t *testing.T) {
	for _, table := range Tables() {
		for _, p := range table.Profiles {
			if s, ok := computeOf(p.Name); !ok || s != (share{p.ComputeSlices, table.ComputeSlices}) {
				t.Errorf("%s of %s: share %v differs from another table's", p.Name, table.Name, s)
			}
		}
	}
}
