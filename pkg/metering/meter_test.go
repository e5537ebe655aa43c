package metering

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"

	"weft.sh/weft/pkg/cluster"
	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/nvml"
	"weft.sh/weft/pkg/slot"
)

// world is what a meter sees. Its clock is set by hand.
type world struct {
	mu        sync.Mutex
	now       time.Time
	book      slot.Book
	inventory cluster.Inventory
	host      nvml.Host
	said      map[gpu.ID]nvml.Utilisation
	since     map[gpu.ID][]uint64
	gone      bool // NVML is not available
	proc      string
}

func newWorld(t *testing.T) (*world, *Meter) {
	w := &world{now: at(0), inventory: inventoryOf(), said: map[gpu.ID]nvml.Utilisation{}, since: map[gpu.ID][]uint64{}, proc: procOf(t, nil)}
	w.host.DriverVersion = "999.1"
	for _, d := range w.inventory.Devices {
		w.host.GPUs = append(w.host.GPUs, nvml.GPU{Device: d})
	}
	return w, w.meter()
}

// meter is a new one, as after a restart.
func (w *world) meter() *Meter {
	return New(Options{
		Node:      "n",
		Book:      func() slot.Book { return w.book },
		Inventory: func() cluster.Inventory { return w.inventory },
		Hardware: func() (Library, nvml.Host) {
			if w.gone {
				return nil, nvml.Host{}
			}
			return w, w.host
		},
		Containers: containersOf,
		ProcRoot:   w.proc,
		Now:        func() time.Time { return w.now },
	})
}

func (w *world) Utilisation(id gpu.ID, since uint64) (nvml.Utilisation, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.since[id] = append(w.since[id], since)
	u, ok := w.said[id]
	if !ok {
		return nvml.Utilisation{}, errors.New("GPU is lost")
	}
	return u, nil
}

// accounts are the allocations as text.
func accounts(m *Meter) []string {
	out := []string{}
	for _, a := range m.Allocations().Allocations {
		line := fmt.Sprintf("%s/%s %s%s %d since %v", a.Pod, a.Container, a.GPU, a.Instance, a.MilliGPU, a.From.Sub(start).Seconds())
		if a.To != nil {
			line += fmt.Sprintf(" to %v", a.To.Sub(start).Seconds())
		}
		out = append(out, fmt.Sprintf("%s: %d", line, a.MilliGPUMilliseconds))
	}
	return out
}

func wantAccounts(t *testing.T, m *Meter, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, accounts(m), cmp.Transformer("", func(s []string) []string { return append([]string{}, s...) })); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestARecordThatIsReleasedEndsItsHold(t *testing.T) {
	w, m := newWorld(t)
	wantAccounts(t, m)
	w.book = bookOf(bound(t, "a", "main=g0", "main", at(0)), bound(t, "b", "main=g1:250m/1Mi", "main", at(1)))
	w.now = at(3)
	wantAccounts(t, m, "pod-a/main g0 1000 since 0: 3000000", "pod-b/main g1 250 since 1: 500000")
	w.book = bookOf(w.book.Records[1])
	w.now = at(4)
	wantAccounts(t, m, "pod-a/main g0 1000 since 0 to 4: 4000000", "pod-b/main g1 250 since 1: 750000")
	w.now = at(9000)
	wantAccounts(t, m, "pod-a/main g0 1000 since 0 to 4: 4000000", "pod-b/main g1 250 since 1: 2249750000")
}

func TestARestartLosesNothingAndCountsNothingTwice(t *testing.T) {
	w, m := newWorld(t)
	const assignment = "~i=g0:500m/1Mi;main=g0:200m/1Mi"
	w.book = bookOf(bound(t, "a", assignment, "i", at(1)), bound(t, "a", assignment, "main", at(2)), bound(t, "d", "main=m0:3g.40gb@4:4", "main", at(1)))
	w.now = at(2.5)
	before := accounts(m)
	if diff := cmp.Diff(before, accounts(w.meter())); diff != "" {
		t.Errorf("(-before +after):\n%s", diff)
	}
	w.now = at(5)
	want := []string{"pod-a/i g0 300 since 1: 1400000", "pod-d/main m03g.40gb@4 500 since 1: 2000000", "pod-a/main g0 200 since 2: 600000"}
	wantAccounts(t, m, want...)
	wantAccounts(t, w.meter(), want...)
}

func TestTheClockIsSetBack(t *testing.T) {
	w, m := newWorld(t)
	w.book = bookOf(bound(t, "a", "main=g0", "main", at(0)))
	w.now = at(10)
	wantAccounts(t, m, "pod-a/main g0 1000 since 0: 10000000")
	w.now = at(7) // a counter that falls would be taken for one that began anew
	wantAccounts(t, m, "pod-a/main g0 1000 since 0: 10000000")
	w.now = at(11)
	wantAccounts(t, m, "pod-a/main g0 1000 since 0: 11000000")
}

func TestABookThatWasLostCountsAnew(t *testing.T) {
	w, m := newWorld(t)
	w.book = bookOf(bound(t, "a", "main=g0", "main", at(0)))
	w.now = at(10)
	wantAccounts(t, m, "pod-a/main g0 1000 since 0: 10000000")
	w.book = bookOf(bound(t, "a", "main=g0", "main", at(10))) // what slot.Book.Recover makes
	w.now = at(12)
	wantAccounts(t, m, "pod-a/main g0 1000 since 10: 2000000")
}

func TestTheShareOfAnInstanceStaysWhatItWas(t *testing.T) {
	w, m := newWorld(t)
	w.book = bookOf(bound(t, "a", "main=m0:3g.40gb@4:4", "main", at(0)))
	all := w.inventory
	w.inventory = cluster.Inventory{} // the agent has restarted and NVML does not answer yet
	w.now = at(1)
	wantAccounts(t, m, "pod-a/main m03g.40gb@4 0 since 0: 0")
	w.inventory = all
	w.now = at(2)
	wantAccounts(t, m, "pod-a/main m03g.40gb@4 500 since 0: 1000000")
	// The other half of the GPU is no longer partitioned: the instance did not grow.
	w.inventory = cluster.NewInventory(cluster.SourceSlices, []gpu.Device{{
		ID: "m0", Product: "A100", MemoryMiB: 80_000, MIG: true, Instances: []gpu.Instance{{Profile: "3g.40gb", Start: 4, Size: 4}},
	}})
	w.now = at(3)
	wantAccounts(t, m, "pod-a/main m03g.40gb@4 500 since 0: 1500000")
	w.inventory = cluster.Inventory{}
	w.now = at(4)
	wantAccounts(t, m, "pod-a/main m03g.40gb@4 500 since 0: 2000000")
}

func TestOnlySoManyEndedHoldsAreRemembered(t *testing.T) {
	w, m := newWorld(t)
	for i := range MaxEnded + 5 {
		w.now = at(float64(i))
		w.book = bookOf(bound(t, fmt.Sprintf("%04d", i), "main=g0", "main", w.now))
		m.measure(t.Context())
	}
	w.now = at(MaxEnded + 5)
	w.book = slot.Book{}
	got := m.Allocations()
	if len(got.Allocations) != MaxEnded || got.EndedForgotten != 5 {
		t.Fatalf("%d allocations, %d forgotten: want %d and 5", len(got.Allocations), got.EndedForgotten, MaxEnded)
	}
	if first, last := got.Allocations[0].Pod, got.Allocations[MaxEnded-1].Pod; first != "pod-0005" || last != "pod-1004" {
		t.Errorf("from %s to %s: the oldest are to be forgotten", first, last)
	}
}

func TestMeasure(t *testing.T) {
	w, m := newWorld(t)
	w.proc = procOf(t, map[int]string{1: cgroupOf(podA, id1), 2: cgroupOf(podB, id2)})
	m = w.meter()
	w.book = bookOf(bound(t, podA, "main=g0:250m/20000Mi", "main", at(0)), bound(t, podB, "x=g1", "x", at(0)))
	w.said["g0"] = nvml.Utilisation{Until: 77, UsedMiB: known(900), Processes: []nvml.ProcessUtilisation{process(1, 100, 10), process(2, 300, 30)}}
	w.said["g1"] = nvml.Utilisation{UsedMiB: known(5), SMPercent: known(6)}
	measured := func() map[string][2]*int64 {
		out := map[string][2]*int64{}
		for _, a := range m.Allocations().Allocations {
			out[a.Container] = [2]*int64{a.MemoryUsedMiB, a.UtilizationPercent}
		}
		return out
	}
	want := func(want map[string][2]*int64) {
		t.Helper()
		if diff := cmp.Diff(want, measured()); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
	want(map[string][2]*int64{"main": {}, "x": {}})
	m.measure(t.Context())
	values := map[string][2]*int64{"main": {known(100), known(10)}, "x": {known(5), known(6)}}
	want(values)
	w.now = at(29)
	want(values)
	w.now = at(30) // too old to be told
	want(map[string][2]*int64{"main": {}, "x": {}})

	delete(w.said, "g1") // one GPU is lost; the others are measured all the same, from where the samples ended
	m.measure(t.Context())
	want(map[string][2]*int64{"main": {known(100), known(10)}, "x": {}})
	if diff := cmp.Diff([]uint64{0, 77}, w.since["g0"]); diff != "" {
		t.Errorf("since (-want +got):\n%s", diff)
	}
	if m.failures != 5 { // m0 and m1 twice, g1 once
		t.Errorf("%d failures, want 5", m.failures)
	}
	w.gone = true
	m.measure(t.Context())
	want(map[string][2]*int64{"main": {}, "x": {}})
	if m.failures != 5 {
		t.Errorf("%d failures, want 5: without NVML nothing was asked", m.failures)
	}
}

// TestRun goes on until it is ended, also where nobody asks: the end of a hold is noticed soon after.
func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		now := time.Now()
		book := bookOf(bound(t, "a", "main=g0", "main", now))
		m := New(Options{
			Book: func() slot.Book {
				mu.Lock()
				defer mu.Unlock()
				return book
			},
			Inventory:  inventoryOf,
			Hardware:   func() (Library, nvml.Host) { return nil, nvml.Host{} },
			Containers: containersOf,
		})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			m.Run(ctx)
		}()
		synctest.Wait()
		mu.Lock()
		book = slot.Book{}
		mu.Unlock()
		time.Sleep(time.Hour) // of the bubble's clock
		cancel()
		<-done
		got := m.Allocations().Allocations
		if len(got) != 1 || got[0].To == nil || got[0].To.Sub(now) != Interval {
			t.Errorf("%+v: want one that ended after %v", got, Interval)
		}
	})
}

// TestConcurrentUse is for the race detector.
func TestConcurrentUse(t *testing.T) {
	w, m := newWorld(t)
	w.book = bookOf(bound(t, podA, "main=g0:250m/20000Mi", "main", at(0)))
	w.said["g0"] = nvml.Utilisation{Until: 1, Processes: []nvml.ProcessUtilisation{process(1, 100, 10)}}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 50 {
				m.measure(t.Context())
				m.Allocations()
				scrapeOf(t, m)
			}
		})
	}
	wg.Wait()
}

func TestContainerNames(t *testing.T) {
	status := func(name, id string) v1.ContainerStatus { return v1.ContainerStatus{Name: name, ContainerID: id} }
	pod := &v1.Pod{Status: v1.PodStatus{
		InitContainerStatuses:      []v1.ContainerStatus{status("i", "containerd://1")},
		ContainerStatuses:          []v1.ContainerStatus{status("main", "cri-o://2"), status("later", ""), status("odd", "3"), status("none", "docker://")},
		EphemeralContainerStatuses: []v1.ContainerStatus{status("debug", "containerd://4")},
	}}
	if diff := cmp.Diff(map[string]string{"1": "i", "2": "main", "4": "debug"}, ContainerNames(pod)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
