package gpu

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestDeviceValidate(t *testing.T) {
	sound := func() Device {
		return Device{
			ID: "GPU-1", Index: 0, Product: "NVIDIA-A100-SXM4-40GB", MemoryMiB: 40960, MIG: true,
			Instances: []Instance{{"3g.20gb", 0, 4}, {"7g.40gb", 0, 8}},
		}
	}
	tests := map[string]struct {
		change func(*Device)
		want   string
	}{
		"a sound one":                      {func(*Device) {}, "<nil>"},
		"the largest":                      {func(d *Device) { d.Index, d.MemoryMiB, d.Product = MaxIndex, MaxMemoryMiB, strings.Repeat("x", 63) }, "<nil>"},
		"one of an unknown model":          {func(d *Device) { d.Product = "" }, "<nil>"},
		"in MIG mode without instances":    {func(d *Device) { d.Instances = nil }, "<nil>"},
		"unhealthy":                        {func(d *Device) { d.Unhealthy = true }, "<nil>"},
		"no id":                            {func(d *Device) { d.ID = "" }, `device "": GPU id "": want 1 to 63 of A-Z a-z 0-9 . _ -, starting with a letter or digit`},
		"an id with what ends it":          {func(d *Device) { d.ID = "a,b" }, `device "a,b": GPU id "a,b": want 1 to 63 of A-Z a-z 0-9 . _ -, starting with a letter or digit`},
		"an id with a newline":             {func(d *Device) { d.ID = "a\n" }, `device "a\n": GPU id "a\n": want 1 to 63 of A-Z a-z 0-9 . _ -, starting with a letter or digit`},
		"a negative index":                 {func(d *Device) { d.Index = -1 }, `device "GPU-1": index -1: want 0 to 1048576`},
		"an index of any size":             {func(d *Device) { d.Index = MaxIndex + 1 }, `device "GPU-1": index 1048577: want 0 to 1048576`},
		"no memory":                        {func(d *Device) { d.MemoryMiB = 0 }, `device "GPU-1": memory 0 MiB: want 1 to 1073741824`},
		"negative memory":                  {func(d *Device) { d.MemoryMiB = -40960 }, `device "GPU-1": memory -40960 MiB: want 1 to 1073741824`},
		"memory of any size":               {func(d *Device) { d.MemoryMiB = MaxMemoryMiB + 1 }, `device "GPU-1": memory 1073741825 MiB: want 1 to 1073741824`},
		"a product that no label can have": {func(d *Device) { d.Product = strings.Repeat("x", 64) }, fmt.Sprintf(`device "GPU-1": product %q: want at most 63 characters`, strings.Repeat("x", 64))},
		"instances outside MIG mode":       {func(d *Device) { d.MIG = false }, `device "GPU-1": MIG instances on a GPU that is not in MIG mode`},
		"an instance of no profile":        {func(d *Device) { d.Instances[1].Profile = "all" }, `device "GPU-1": MIG profile "all": want a name such as 1g.10gb`},
		"an instance of no size":           {func(d *Device) { d.Instances[1].Size = 0 }, `device "GPU-1": MIG instance 7g.40gb at 0:0: want start >= 0, size >= 1 and start+size <= 64`},
		"an instance that begins before":   {func(d *Device) { d.Instances[1].Start = -1 }, `device "GPU-1": MIG instance 7g.40gb at -1:8: want start >= 0, size >= 1 and start+size <= 64`},
		"an instance that ends after":      {func(d *Device) { d.Instances[1].Start = 57 }, `device "GPU-1": MIG instance 7g.40gb at 57:8: want start >= 0, size >= 1 and start+size <= 64`},
		"unhealthy, for a reason":          {func(d *Device) { d.Unhealthy, d.UnhealthyReason = true, strings.Repeat("ä", MaxReason/2) }, "<nil>"},
		"a reason that was healed":         {func(d *Device) { d.UnhealthyReason = "Xid 79" }, "<nil>"},
		"a reason without end":             {func(d *Device) { d.UnhealthyReason = strings.Repeat("x", MaxReason+1) }, fmt.Sprintf(`device "GPU-1": unhealthy reason %q: want at most 256 bytes of text without control characters`, strings.Repeat("x", 80)+"…")},
		"a reason that paints a terminal":  {func(d *Device) { d.UnhealthyReason = "\x1b[31m" }, `device "GPU-1": unhealthy reason "\x1b[31m": want at most 256 bytes of text without control characters`},
		"a reason that is no text":         {func(d *Device) { d.UnhealthyReason = "\xff" }, `device "GPU-1": unhealthy reason "\xff": want at most 256 bytes of text without control characters`},
		"shared only":                      {func(d *Device) { d.MIG, d.Instances, d.SharedOnly = false, nil, true }, "<nil>"},
		"shared only, in MIG mode":         {func(d *Device) { d.SharedOnly = true }, `device "GPU-1": it is given in shares only, and in MIG mode`},
		"shared only and whole only":       {func(d *Device) { d.MIG, d.Instances, d.SharedOnly, d.WholeOnly = false, nil, true, true }, `device "GPU-1": it is given whole only and in shares only at once`},
		"isolated by memory":               {func(d *Device) { d.Isolation = IsolationMemory }, "<nil>"},
		"isolated by MPS":                  {func(d *Device) { d.Isolation = IsolationMPS }, "<nil>"},
		"not isolated":                     {func(d *Device) { d.Isolation = IsolationNone }, "<nil>"},
		"isolated by something else":       {func(d *Device) { d.Isolation = "hope" }, `device "GPU-1": isolation "hope": want none, mps or memory, or nothing when it is not known`},
		"two things wrong, each on a line": {func(d *Device) { d.Index, d.MemoryMiB = -1, 0 }, "device \"GPU-1\": index -1: want 0 to 1048576\nmemory 0 MiB: want 1 to 1073741824"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			d := sound()
			tc.change(&d)
			if diff := cmp.Diff(tc.want, fmt.Sprint(d.Validate())); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
}

func TestValidProfile(t *testing.T) {
	tests := map[string]bool{
		"1g.5gb": true, "7g.180gb": true, "1g.10gb+me": true, "1g.24gb+me.all": true, "1g.24gb-me": true, "2g.48gb+gfx": true, "4g.24gb": true,
		"999g.99999gb+0123456789012345678": true, "999g.99999gb+01234567890123456789": false,
		"": false, "1g": false, "0g.5gb": false, "1g.0gb": false, "01g.5gb": false, "1G.5gb": false, "1g.5GB": false, "1g.5gb ": false, " 1g.5gb": false,
		"1g.5gb\n": false, "1g.5gb+": false, "1g.5gb+.me": false, "1g.5gb+me.": false, "1g.5gb+me..all": false, "1g.5gb+me+gfx": false, "1g.5gb.me": false,
		"1c.1g.5gb": false, "1g.5gb@0": false, "mig-1g.5gb": false, "1g.5gb+Me": false, "1000g.5gb": false, "1g.100000gb": false, "1g.4.5gb": false,
	}
	for name, want := range tests {
		if got := ValidProfile(name); got != want {
			t.Errorf("ValidProfile(%q) = %t, want %t", name, got, want)
		}
	}
}

// Every pair of a start and a size, against slices counted one by one.
func TestSlicesAndOverlaps(t *testing.T) {
	var all []Instance
	for start := range MaxMemorySlices {
		for size := 1; start+size <= MaxMemorySlices; size++ {
			i := Instance{"1g.5gb", start, size}
			if err := i.Validate(); err != nil {
				t.Fatal(err)
			}
			var want uint64
			for s := start; s < start+size; s++ {
				want |= 1 << s
			}
			if got := i.Slices(); got != want {
				t.Fatalf("%v takes %b, want %b", i, got, want)
			}
			all = append(all, i)
		}
	}
	for _, a := range all {
		for _, b := range all {
			if want := a.Start < b.Start+b.Size && b.Start < a.Start+a.Size; a.Overlaps(b) != want {
				t.Fatalf("%v overlaps %v: %t", a, b, !want)
			}
		}
	}
}
