package nvml

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"weft.sh/weft/pkg/nvml/nvmlfake"
)

func TestUtilisation(t *testing.T) {
	i64 := func(v int64) *int64 { return &v }
	mib := func(v uint64) *uint64 { return &v }
	process := func(pid int, sm, used *int64, gi, ci int) ProcessUtilisation {
		return ProcessUtilisation{PID: pid, SMPercent: sm, UsedMiB: used, GPUInstance: gi, ComputeInstance: ci}
	}
	for name, c := range map[string]struct {
		gpu   nvmlfake.GPU
		since uint64
		want  Utilisation
	}{
		"idle": {
			nvmlfake.GPU{Model: "L4"},
			7,
			Utilisation{SMPercent: i64(0), MemoryBusPercent: i64(0), UsedMiB: i64(0), Until: 7},
		},
		"in use": {
			nvmlfake.GPU{Model: "L4", SMPercent: 40, MemoryBusPercent: 9, PowerMilliwatt: 54321, Processes: []nvmlfake.Process{
				{PID: 30, MemoryMiB: mib(100), MPS: true},
				{PID: 20, MemoryMiB: mib(2000), Samples: []nvmlfake.Sample{{At: 10, SMPercent: 90}, {At: 20, SMPercent: 50}, {At: 30, SMPercent: 31}}},
				{PID: 20, MemoryMiB: mib(2000), Graphics: true},
				{PID: 10},
			}},
			10,
			Utilisation{SMPercent: i64(40), MemoryBusPercent: i64(9), UsedMiB: i64(4100), PowerMilliwatt: i64(54321), Until: 30, Processes: []ProcessUtilisation{
				process(10, nil, nil, -1, -1), process(20, i64(41), i64(2000), -1, -1), process(30, nil, i64(100), -1, -1),
			}},
		},
		"a process ended since it was sampled": {
			nvmlfake.GPU{
				Model: "L4", Processes: []nvmlfake.Process{{PID: 5, Samples: []nvmlfake.Sample{{At: 99, SMPercent: 250}}}},
				Answers: map[string]nvmlfake.Answer{"GetComputeRunningProcesses": "ERROR_UNKNOWN"},
			},
			0,
			Utilisation{SMPercent: i64(0), MemoryBusPercent: i64(0), UsedMiB: i64(0), Until: 99, Processes: []ProcessUtilisation{process(5, i64(100), nil, -1, -1)}},
		},
		"what is not supported is not 0": {
			nvmlfake.GPU{Model: "L4", Answers: map[string]nvmlfake.Answer{
				"GetUtilizationRates": "ERROR_NOT_SUPPORTED", "GetMemoryInfo": "ERROR_NOT_SUPPORTED", "GetPowerUsage": "ERROR_NOT_SUPPORTED",
				"GetProcessUtilization": "ERROR_NOT_SUPPORTED", "GetComputeRunningProcesses": "ERROR_NOT_SUPPORTED",
			}},
			3,
			Utilisation{Until: 3, UsedMiB: i64(0)}, // version 2 of the memory still tells
		},
		"in MIG mode": {
			nvmlfake.GPU{
				Model: "A30", SMPercent: 40, MIG: nvmlfake.MIG{Enabled: true, Instances: []string{"1g.6gb@3", "2g.12gb@0"}},
				Processes: []nvmlfake.Process{
					{PID: 9, MemoryMiB: mib(500), Instance: "2g.12gb@0"},
					{PID: 9, MemoryMiB: mib(70), Instance: "1g.6gb@3"},
					{PID: 8, Instance: "2g.12gb@0", Samples: []nvmlfake.Sample{{At: 1, SMPercent: 1}}},
				},
			},
			3,
			Utilisation{
				UsedMiB: i64(570), Until: 3,
				Instances: []InstanceUtilisation{{GPUInstance: 1, UsedMiB: i64(70)}, {GPUInstance: 2, UsedMiB: i64(500)}},
				Processes: []ProcessUtilisation{process(8, nil, nil, 2, 0), process(9, nil, i64(70), 1, 0), process(9, nil, i64(500), 2, 0)},
			},
		},
		"in MIG mode without the number of MIG devices": {
			nvmlfake.GPU{
				Model: "A30", MIG: nvmlfake.MIG{Enabled: true, Instances: []string{"1g.6gb@3"}},
				Answers: map[string]nvmlfake.Answer{"GetMaxMigDeviceCount": "ERROR_UNKNOWN"},
			},
			0,
			Utilisation{UsedMiB: i64(0)},
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := New(fake(t, nvmlfake.Node{GPUs: []nvmlfake.GPU{c.gpu}}))
			h, err := l.Discover()
			if err != nil || len(h.GPUs) != 1 {
				t.Fatalf("%+v, %v", h, err)
			}
			g := h.GPUs[0]
			got, err := l.Utilisation(g.ID, c.since)
			if err != nil {
				t.Fatal(err)
			}
			for i, in := range got.Instances {
				for _, m := range g.MIGDevices {
					if m.GPUInstance == in.GPUInstance && m.UUID != in.UUID {
						t.Errorf("instance %+v is of %+v", in, m)
					}
				}
				got.Instances[i].UUID = ""
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestUtilisationOfALostGPU(t *testing.T) {
	f := fake(t, nvmlfake.L4s())
	l := New(f)
	id := discover(t, l).GPUs[2].ID
	update(t, f, func(n *nvmlfake.Node) { n.GPUs[2].Lost = true })
	if u, err := l.Utilisation(id, 0); !errors.Is(err, ErrNoGPU) {
		t.Errorf("%+v, %v", u, err)
	}
	if _, err := l.Utilisation("GPU-1", 0); !errors.Is(err, ErrNoGPU) {
		t.Errorf("of a GPU that there is not: %v", err)
	}
}
