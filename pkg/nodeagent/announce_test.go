package nodeagent

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/record"

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

func TestKubeletIsAwayAndComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		events := record.NewFakeRecorder(10)
		var away atomic.Bool
		a := &announcer{recorder: events, node: &v1.ObjectReference{Kind: "Node", Name: testNode}, registered: func() error {
			if away.Load() {
				return errors.New("no kubelet takes registrations")
			}
			return nil
		}}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go a.watchKubelet(ctx)
		expect := func(when string, after time.Duration, want ...string) {
			t.Helper()
			time.Sleep(after)
			synctest.Wait()
			if n := len(events.Events); n != len(want) {
				t.Fatalf("%s: %d events, want %q", when, n, want)
			}
			for _, w := range want {
				if got := <-events.Events; !strings.HasPrefix(got, w) {
					t.Errorf("%s: %q, want %q", when, got, w)
				}
			}
		}
		expect("there", time.Hour)
		for range 2 {
			away.Store(true)
			expect("started anew", 20*time.Second)
			away.Store(false)
			expect("back soon", time.Minute)
			away.Store(true)
			expect("not yet for long", 25*time.Second)
			expect("for long", 20*time.Second, "Warning "+eventNoKubelet+" No pod that asks for a GPU can start here")
			expect("still", time.Hour)
			away.Store(false)
			expect("back", 10*time.Second, "Normal "+eventKubelet)
			expect("still back", time.Hour)
		}
	})
}
