package nodeagent

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/nvml"
)

// cardOf is a sound GPU.
func cardOf(id gpu.ID, index int) card {
	return card{Device: gpu.Device{ID: id, Index: index, Product: "NVIDIA-L4", MemoryMiB: 22000}, TotalMemoryMiB: 23034}
}

// hostWith is a host that has the GPUs, as NVML tells of them.
func hostWith(cards ...card) nvml.Host {
	host := nvml.Host{DriverVersion: "580.95.05", CUDAVersion: "13.0"}
	for _, c := range cards {
		host.GPUs = append(host.GPUs, nvml.GPU{Device: c.Device, TotalMemoryMiB: c.TotalMemoryMiB, MIGCapable: c.MIGCapable})
	}
	return host
}

func TestDerive(t *testing.T) {
	a, b := cardOf("GPU-a", 0), cardOf("GPU-b", 1)
	mig := cardOf("GPU-m", 2)
	mig.MIG, mig.Instances = true, []gpu.Instance{{Profile: "1g.6gb", Start: 0, Size: 1}}
	with := func(c card, change func(*gpu.Device)) gpu.Device {
		change(&c.Device)
		return c.Device
	}
	isolated := func(i gpu.Isolation) func(*gpu.Device) { return func(d *gpu.Device) { d.Isolation = i } }
	sick := func(reason string) func(*gpu.Device) {
		return func(d *gpu.Device) { d.Isolation, d.Unhealthy, d.UnhealthyReason = gpu.IsolationNone, true, reason }
	}
	limited := hostWith(a, b)
	limited.GPUs[1].MemoryLimits = true
	broken := hostWith(a, b)
	broken.GPUs[0].Problem = "it needs a reset"
	broken.Problems = []string{"GPU 0 (GPU-a): it needs a reset", "an odd thing"}
	other := cardOf("GPU-b", 1)
	other.Product = "NVIDIA-A30"

	for name, tc := range map[string]struct {
		cards       []card
		host        nvml.Host
		unavailable error
		sick        map[gpu.ID]string
		policy      policy
		want        []gpu.Device
		problems    []string
	}{
		"sound GPUs are given whole and in shares that nothing keeps apart": {
			cards: []card{a, b}, host: hostWith(a, b), policy: all,
			want: []gpu.Device{with(a, isolated(gpu.IsolationNone)), with(b, isolated(gpu.IsolationNone))},
		},
		"the driver's limits keep shares apart where it has them": {
			cards: []card{a, b}, host: limited, policy: all,
			want: []gpu.Device{with(a, isolated(gpu.IsolationNone)), with(b, isolated(gpu.IsolationMemory))},
		},
		"but not on a node with control groups of version 1": {
			cards: []card{b}, host: limited, policy: policy{mode: ModeAll},
			want: []gpu.Device{with(b, isolated(gpu.IsolationNone))},
		},
		"MPS, where its daemon is ready, comes before the driver's limits": {
			cards: []card{a, b}, host: limited, policy: policy{mode: ModeAll, cgroup2: true, mps: func(id gpu.ID) bool { return id == "GPU-b" }},
			want: []gpu.Device{with(a, isolated(gpu.IsolationNone)), with(b, isolated(gpu.IsolationMPS))},
		},
		"a GPU in MIG mode has no shares to keep apart": {
			cards: []card{mig}, host: hostWith(mig), policy: policy{mode: ModeAll, mps: func(gpu.ID) bool { return true }},
			want: []gpu.Device{mig.Device},
		},
		"what NVML says is wrong with a GPU is said once": {
			cards: []card{a, b}, host: broken, sick: map[gpu.ID]string{"GPU-b": "Xid 95"}, policy: all,
			want:     []gpu.Device{with(a, sick("it needs a reset")), with(b, sick("Xid 95"))},
			problems: []string{"an odd thing"},
		},
		"a GPU that is gone stays, unhealthy": {
			cards: []card{a, b}, host: hostWith(b), policy: all,
			want: []gpu.Device{
				with(a, sick("the node had it since it was booted, and has it no more")), with(b, isolated(gpu.IsolationNone)),
			},
		},
		"without NVML every GPU that was there is unhealthy": {
			cards: []card{a}, unavailable: errors.New("no\ndriver"), policy: all,
			want: []gpu.Device{with(a, sick("NVML cannot be used, so nobody knows: no driver"))},
		},
		"fractions are given of those GPUs alone that are named, and MIG is somebody else's": {
			cards: []card{a, b, mig}, host: hostWith(a, b, mig), policy: policy{mode: ModeFractions, shared: []string{"1", "GPU-m", "7"}},
			want: []gpu.Device{
				with(a, func(d *gpu.Device) { d.WholeOnly = true }),
				with(b, func(d *gpu.Device) { d.SharedOnly, d.Isolation = true, gpu.IsolationNone }),
			},
			problems: []string{
				`--shared-gpus names "GPU-m", which is in MIG mode: no shares are given of it`,
				`--shared-gpus names "7", which the node does not have`,
			},
		},
		"GPUs of several products are a problem": {
			cards: []card{a, other}, host: hostWith(a, other), policy: all,
			want:     []gpu.Device{with(a, isolated(gpu.IsolationNone)), with(other, isolated(gpu.IsolationNone))},
			problems: []string{"the GPUs are of several products, and a node has one label: NVIDIA-L4, as GPU 0, not NVIDIA-A30, as GPU 1"},
		},
		"a node without GPUs": {policy: all},
	} {
		t.Run(name, func(t *testing.T) {
			got := derive(tc.cards, tc.host, tc.unavailable, tc.sick, tc.policy)
			if diff := cmp.Diff(tc.want, got.Devices, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("devices (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tc.problems, got.Problems, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("problems (-want +got):\n%s", diff)
			}
			for _, d := range got.Devices {
				if err := d.Validate(); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

func TestReasonsAreFitToBePublished(t *testing.T) {
	for name, reason := range map[string]string{
		"long": strings.Repeat("ä", 400), "with control characters": "a\x1b[31m\tb\r\nc", "no text": "a\xffb", "empty": "",
	} {
		t.Run(name, func(t *testing.T) {
			d := cardOf("GPU-a", 0).Device
			d.Unhealthy, d.UnhealthyReason = true, clean(reason)
			if err := d.Validate(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestMerge(t *testing.T) {
	a, b, c := cardOf("GPU-a", 0), cardOf("GPU-b", 1), cardOf("GPU-c", 2)
	at := func(c card, index int) card { c.Index = index; return c }
	for name, tc := range map[string]struct{ old, found, want []card }{
		"the first time":                        {nil, []card{a, b}, []card{a, b}},
		"nothing is missing":                    {[]card{a, b}, []card{a, b}, []card{a, b}},
		"one is missing":                        {[]card{a, b, c}, []card{a, c}, []card{a, b, c}},
		"all are missing":                       {[]card{a, b}, nil, []card{a, b}},
		"another has the number of the missing": {[]card{a, b, c}, []card{a, at(c, 1)}, []card{a, at(c, 1), at(b, 3)}},
		"one came back with another number":     {[]card{a, b}, []card{at(b, 0), at(a, 1)}, []card{at(b, 0), at(a, 1)}},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, merge(tc.old, tc.found)); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestUUIDs(t *testing.T) {
	i := gpu.Instance{Profile: "1g.6gb", Start: 1, Size: 1}
	j := gpu.Instance{Profile: "1g.6gb", Start: 2, Size: 1}
	host := hostWith(cardOf("GPU-a", 0), cardOf("GPU-b", 1))
	host.GPUs[1].MIGDevices = []nvml.MIGDevice{{Instance: i, UUID: "MIG-i"}}
	for name, tc := range map[string]struct {
		grants []gpu.Grant
		want   []string
		err    error
	}{
		"whole GPUs and shares go by the GPU's":    {[]gpu.Grant{{GPU: "GPU-b"}, {GPU: "GPU-a", MilliGPU: 100, MemoryMiB: 1}}, []string{"GPU-a", "GPU-b"}, nil},
		"each once":                                {[]gpu.Grant{{GPU: "GPU-b"}, {GPU: "GPU-b"}}, []string{"GPU-b"}, nil},
		"instances go by the one they have now":    {[]gpu.Grant{{GPU: "GPU-b", Instance: &i}}, []string{"MIG-i"}, nil},
		"an instance that is there no more":        {[]gpu.Grant{{GPU: "GPU-b", Instance: &j}}, nil, nvml.ErrNoGPU},
		"an instance of that place of another GPU": {[]gpu.Grant{{GPU: "GPU-a", Instance: &i}}, nil, nvml.ErrNoGPU},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := uuids(host, tc.grants)
			if !errors.Is(err, tc.err) {
				t.Fatalf("error %v, want %v", err, tc.err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}
