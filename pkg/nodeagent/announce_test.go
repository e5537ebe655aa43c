package nodeagent

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/nvml"
)

func TestNews(t *testing.T) {
	well := func(id gpu.ID) gpu.Device { return gpu.Device{ID: id, Index: 3} }
	sick := func(id gpu.ID, reason string) gpu.Device {
		return gpu.Device{ID: id, Index: 3, Unhealthy: true, UnhealthyReason: reason}
	}
	state := func(devices ...gpu.Device) *State {
		return &State{Devices: devices, Host: nvml.Host{DriverVersion: "580.95.05"}}
	}
	without := func(err string, devices ...gpu.Device) *State {
		return &State{Unavailable: errors.New(err), Devices: devices}
	}
	odd := func(problems ...string) *State { return &State{Problems: problems} }
	for name, tc := range map[string]struct {
		old, now *State
		want     []notice
	}{
		"all is well":                {state(), state(well("GPU-a")), nil},
		"a GPU is unhealthy":         {state(well("GPU-a")), state(sick("GPU-a", "Xid 79")), []notice{{true, eventUnhealthy, "GPU 3 (GPU-a) is unhealthy: Xid 79"}}},
		"from the start":             {state(), state(sick("GPU-a", "Xid 79")), []notice{{true, eventUnhealthy, "GPU 3 (GPU-a) is unhealthy: Xid 79"}}},
		"it still is":                {state(sick("GPU-a", "Xid 79")), state(sick("GPU-a", "Xid 79")), nil},
		"now for another reason":     {state(sick("GPU-a", "Xid 79")), state(sick("GPU-a", "lost")), []notice{{true, eventUnhealthy, "GPU 3 (GPU-a) is unhealthy: lost"}}},
		"it is healthy again":        {state(sick("GPU-a", "lost")), state(well("GPU-a")), []notice{{false, eventHealthy, "GPU 3 (GPU-a) is healthy again"}}},
		"NVML is missing":            {state(), without("no driver"), []notice{{true, eventUnavailable, "no driver; trying again until it is there"}}},
		"it still is missing":        {without("no driver"), without("no driver"), nil},
		"missing otherwise":          {without("no driver"), without("no library"), []notice{{true, eventUnavailable, "no library; trying again until it is there"}}},
		"it appears":                 {without("no driver"), state(well("GPU-a")), []notice{{false, eventAvailable, "NVML is there: driver 580.95.05, 1 GPU"}}},
		"it appears, less one GPU":   {without("no driver", sick("GPU-a", "no")), state(sick("GPU-a", "lost"), well("GPU-b")), []notice{{false, eventAvailable, "NVML is there: driver 580.95.05, 2 GPUs"}, {true, eventUnhealthy, "GPU 3 (GPU-a) is unhealthy: lost"}}},
		"NVML goes, and GPUs do not": {state(well("GPU-a")), without("no driver", sick("GPU-a", "no")), []notice{{true, eventUnavailable, "no driver; trying again until it is there"}}},
		"a problem, once":            {odd("one"), odd("one", "two"), []notice{{true, eventProblem, "two"}}},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, news(tc.old, tc.now), cmp.AllowUnexported(notice{})); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}
