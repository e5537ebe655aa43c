package nodeagent

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/health"
	"weft.sh/weft/pkg/nvml"
	"weft.sh/weft/pkg/nvml/nvmlfake"
	"weft.sh/weft/pkg/slot"
)

// bench is a hardware loop over a simulated NVML, in a bubble of testing/synctest.
type bench struct {
	t    *testing.T
	fake *nvmlfake.Fake
	*hardware
	stop func()
}

// newBench starts the loop. open may be nil, for an NVML that is there; the file is where the GPUs are remembered.
func newBench(t *testing.T, fake *nvmlfake.Fake, file, boot string, open func() (library, error)) *bench {
	t.Helper()
	if open == nil {
		open = func() (library, error) { return nvml.New(fake), nil }
	}
	h := &hardware{
		open: open, memory: memory{file, boot}, policy: all, health: health.Limits{}, board: &board{}, again: make(chan struct{}, 1),
		monitors: map[gpu.ID]*health.Monitor{}, seen: time.Now(),
	}
	h.driver = &driver{board: h.board, stale: func() { poke(h.again) }}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); h.run(ctx) }()
	stop := func() {
		cancel()
		<-done
		time.Sleep(5 * time.Second) // who waits for events inside NVML notices within a second
		synctest.Wait()
	}
	return &bench{t: t, fake: fake, hardware: h, stop: stop}
}

func newFake(t *testing.T, n nvmlfake.Node) *nvmlfake.Fake {
	t.Helper()
	fake, err := nvmlfake.New(n)
	if err != nil {
		t.Fatal(err)
	}
	return fake
}

// change changes the node.
func (b *bench) change(change func(*nvmlfake.Node)) {
	b.t.Helper()
	if err := b.fake.Update(change); err != nil {
		b.t.Fatal(err)
	}
}

// after is the state after a while of the bubble's time.
func (b *bench) after(d time.Duration) *State {
	b.t.Helper()
	time.Sleep(d)
	synctest.Wait()
	s, _ := b.board.look()
	if s == nil {
		b.t.Fatalf("no state after %s", d)
	}
	if err := b.alive(); err != nil {
		b.t.Errorf("not alive: %v", err)
	}
	for _, d := range s.Devices {
		if err := d.Validate(); err != nil {
			b.t.Error(err)
		}
	}
	return s
}

// unwell is why GPUs are unhealthy, by index.
func unwell(s *State) map[int]string {
	out := map[int]string{}
	for _, d := range s.Devices {
		if d.Unhealthy {
			out[d.Index] = d.UnhealthyReason
		}
	}
	return out
}

// expectUnwell checks which GPUs are unhealthy, and that the reasons have these words.
func expectUnwell(t *testing.T, when string, s *State, gpus int, want map[int]string) {
	t.Helper()
	got := unwell(s)
	if len(s.Devices) != gpus {
		t.Errorf("%s: %d GPUs, want %d", when, len(s.Devices), gpus)
	}
	for i, reason := range got {
		if !strings.Contains(reason, want[i]) || want[i] == "" {
			t.Errorf("%s: GPU %d is unhealthy: %q, want %q", when, i, reason, want[i])
		}
	}
	for i := range want {
		if got[i] == "" {
			t.Errorf("%s: GPU %d is healthy, want %q", when, i, want[i])
		}
	}
}

func TestNVMLIsMissingAndThenAppears(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := newFake(t, nvmlfake.A30())
		var tries atomic.Int64
		var there atomic.Bool
		b := newBench(t, fake, filepath.Join(t.TempDir(), "gpus.json"), "boot", func() (library, error) {
			if tries.Add(1); !there.Load() {
				return nil, nvml.ErrUnavailable
			}
			return nvml.New(fake), nil
		})
		defer b.stop()
		s := b.after(10 * time.Minute)
		if !errors.Is(s.Unavailable, nvml.ErrUnavailable) || len(s.Devices) > 0 {
			t.Errorf("without NVML: %+v", s)
		}
		if n := tries.Load(); n < 10 || n > 20 {
			t.Errorf("%d tries in 10 minutes, want less and less of them up to one each minute", n)
		}
		if b.driver.library() != nil {
			t.Error("there is a library to ask")
		}
		there.Store(true)
		s = b.after(2 * time.Minute)
		expectUnwell(t, "with NVML", s, 1, nil)
		if s.Unavailable != nil || b.driver.library() == nil {
			t.Errorf("with NVML: unavailable %v", s.Unavailable)
		}
	})
}

func TestDriverThatIsNotLoadedYet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := nvmlfake.A30()
		n.StartError = "ERROR_DRIVER_NOT_LOADED"
		b := newBench(t, newFake(t, n), filepath.Join(t.TempDir(), "gpus.json"), "boot", nil)
		defer b.stop()
		if s := b.after(time.Minute); !errors.Is(s.Unavailable, nvml.ErrUnavailable) {
			t.Errorf("unavailable: %v", s.Unavailable)
		}
		b.change(func(n *nvmlfake.Node) { n.StartError = "" })
		expectUnwell(t, "loaded", b.after(2*time.Minute), 1, nil)
	})
}

func TestGPUIsLostAndComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, newFake(t, nvmlfake.DGXH100()), filepath.Join(t.TempDir(), "gpus.json"), "boot", nil)
		defer b.stop()
		before := b.after(time.Second)
		expectUnwell(t, "at first", before, 8, nil)
		b.change(func(n *nvmlfake.Node) { n.GPUs[3].Lost = true })
		s := b.after(10 * time.Second)
		expectUnwell(t, "within 10 s", s, 8, map[int]string{3: "lost"})
		states := offers(s.Devices, slot.Book{}, false)
		if n := healthyOf(states[slot.Resource{Kind: gpu.Whole}]); n != 7 || len(states[slot.Resource{Kind: gpu.Whole}]) != 8 {
			t.Errorf("%d of %d slots are healthy, want 7 of 8", n, len(states[slot.Resource{Kind: gpu.Whole}]))
		}
		var texts []string
		last := before
		for range 60 {
			now := b.after(10 * time.Second)
			for _, n := range news(last, now) {
				texts = append(texts, n.text)
			}
			last = now
		}
		expectUnwell(t, "much later", last, 8, map[int]string{3: "lost"})
		if len(texts) > 1 {
			t.Errorf("said of it: %q, want one thing once", texts)
		}
		b.change(func(n *nvmlfake.Node) { n.GPUs[3].Lost = false })
		after := b.after(2 * time.Minute)
		expectUnwell(t, "back", after, 8, nil)
		if diff := cmp.Diff(before.Devices, after.Devices); diff != "" {
			t.Errorf("as before (-want +got):\n%s", diff)
		}
	})
}

func healthyOf(states map[string]bool) (n int) {
	for _, ok := range states {
		if ok {
			n++
		}
	}
	return n
}

func TestLostGPUIsMissedAfterARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "gpus.json")
		fake := newFake(t, nvmlfake.DGXH100())
		first := newBench(t, fake, file, "boot-1", nil)
		expectUnwell(t, "at first", first.after(time.Second), 8, nil)
		first.stop()
		if err := fake.Update(func(n *nvmlfake.Node) { n.GPUs[5].Lost = true }); err != nil {
			t.Fatal(err)
		}

		second := newBench(t, fake, file, "boot-1", nil)
		expectUnwell(t, "after a restart of the agent", second.after(time.Minute), 8, map[int]string{5: "has it no more"})
		second.change(func(n *nvmlfake.Node) { n.GPUs[5].Lost = false })
		expectUnwell(t, "back", second.after(2*time.Minute), 8, nil)
		second.change(func(n *nvmlfake.Node) { n.GPUs[5].Lost = true })
		expectUnwell(t, "lost again", second.after(time.Minute), 8, map[int]string{5: "lost"})
		second.stop()

		rebooted := newBench(t, fake, file, "boot-2", nil)
		expectUnwell(t, "after a reboot", rebooted.after(time.Minute), 7, nil)
		rebooted.stop()
	})
}

func TestXidAndQuarantine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := nvmlfake.DGXH100()
		for i := range n.GPUs {
			n.GPUs[i].Recovery = new(uint32(0)) // the driver says that it wants none
		}
		b := newBench(t, newFake(t, n), filepath.Join(t.TempDir(), "gpus.json"), "boot", nil)
		defer b.stop()
		b.after(time.Minute)
		b.change(func(n *nvmlfake.Node) { n.Events = append(n.Events, nvmlfake.Event{GPU: 2, Xid: 31}) })
		expectUnwell(t, "a program's fault", b.after(10*time.Second), 8, nil)
		b.change(func(n *nvmlfake.Node) { n.Events = append(n.Events, nvmlfake.Event{GPU: 2, Xid: 48}) })
		expectUnwell(t, "a critical error", b.after(2*time.Second), 8, map[int]string{2: "Xid 48: double-bit ECC error"})
		expectUnwell(t, "in quarantine", b.after(20*time.Second), 8, map[int]string{2: "in quarantine"})
		expectUnwell(t, "after it", b.after(30*time.Second), 8, nil)

		b.change(func(n *nvmlfake.Node) { n.GPUs[2].Recovery = new(uint32(1)) })
		expectUnwell(t, "the driver wants a reset", b.after(10*time.Second), 8, map[int]string{2: "gpu-reset"})
		b.change(func(n *nvmlfake.Node) { n.GPUs[2].Recovery = new(uint32(0)) })
		expectUnwell(t, "it was reset", b.after(2*time.Minute), 8, nil)
	})
}

func TestXidIsNotForgottenByARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := nvmlfake.DGXH100()
		for i := range n.GPUs {
			n.GPUs[i].Recovery = new(uint32(0))
		}
		file, fake := filepath.Join(t.TempDir(), "gpus.json"), newFake(t, n)
		first := newBench(t, fake, file, "boot-1", nil)
		first.after(time.Minute)
		first.change(func(n *nvmlfake.Node) { n.Events = append(n.Events, nvmlfake.Event{GPU: 2, Xid: 48}) })
		expectUnwell(t, "a critical error", first.after(2*time.Second), 8, map[int]string{2: "Xid 48"})
		first.stop()

		second := newBench(t, fake, file, "boot-1", nil)
		expectUnwell(t, "after a restart", second.after(time.Second), 8, map[int]string{2: "Xid 48: double-bit ECC error; in quarantine"})
		expectUnwell(t, "still in quarantine", second.after(28*time.Second), 8, map[int]string{2: "Xid 48"})
		expectUnwell(t, "after it", second.after(15*time.Second), 8, nil)
		second.change(func(n *nvmlfake.Node) { n.Events = append(n.Events, nvmlfake.Event{GPU: 2, Xid: 48}) })
		second.after(2 * time.Second)
		second.stop()

		third := newBench(t, fake, file, "boot-1", nil)
		expectUnwell(t, "twice as long when it happens again", third.after(45*time.Second), 8, map[int]string{2: "for 1m0s"})
		third.stop()
		rebooted := newBench(t, fake, file, "boot-2", nil)
		expectUnwell(t, "after a reboot", rebooted.after(time.Second), 8, nil)
		rebooted.stop()
	})
}

func TestXidOfNoNamedGPU(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := nvmlfake.DGXH100()
		b := newBench(t, newFake(t, n), filepath.Join(t.TempDir(), "gpus.json"), "boot", nil)
		defer b.stop()
		b.after(time.Minute)
		b.change(func(n *nvmlfake.Node) { n.Events = append(n.Events, nvmlfake.Event{Xid: 31, Nameless: true}) })
		expectUnwell(t, "a program's fault", b.after(5*time.Second), 8, nil)
		b.change(func(n *nvmlfake.Node) { n.Events = append(n.Events, nvmlfake.Event{Xid: 79, Nameless: true}) })
		want := map[int]string{}
		for i := range n.GPUs {
			want[i] = "Xid 79: the GPU has fallen off the bus (NVML does not say of which GPU, so it may be any)"
		}
		expectUnwell(t, "a critical error", b.after(2*time.Second), 8, want)
		expectUnwell(t, "after the quarantine", b.after(12*time.Minute), 8, nil)
	})
}

func TestMIGGeometryIsChangedByAnAdmin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := nvmlfake.DGXA100()
		n.GPUs[0].MIG = nvmlfake.MIG{Enabled: true, Instances: []string{"3g.40gb@0", "3g.40gb@4"}}
		b := newBench(t, newFake(t, n), filepath.Join(t.TempDir(), "gpus.json"), "boot", nil)
		defer b.stop()
		small, large := slot.Resource{Kind: gpu.MIG, Profile: "1g.10gb"}, slot.Resource{Kind: gpu.MIG, Profile: "3g.40gb"}
		s := b.after(time.Second)
		if got := offers(s.Devices, slot.Book{}, false); len(got[large]) != 2 || len(got[small]) != 0 {
			t.Errorf("at first: %d large, %d small", len(got[large]), len(got[small]))
		}
		grant := gpu.Grant{GPU: s.Devices[0].ID, Instance: &gpu.Instance{Profile: "3g.40gb", Start: 4, Size: 4}}
		old, err := uuids(s.Host, []gpu.Grant{grant})
		if err != nil {
			t.Fatal(err)
		}
		b.change(func(n *nvmlfake.Node) { n.GPUs[0].MIG.Instances = []string{"1g.10gb@0", "1g.10gb@1"} })
		if _, err := b.driver.edits([]gpu.Grant{grant}); err == nil {
			t.Error("edits for an instance that is there no more")
		}
		// Asking for it has it looked for, before the minute is over.
		s = b.after(30 * time.Second)
		if got := offers(s.Devices, slot.Book{}, false); len(got[small]) != 2 || len(got[large]) != 0 {
			t.Errorf("after the change: %d large, %d small", len(got[large]), len(got[small]))
		}
		if _, err := uuids(s.Host, []gpu.Grant{grant}); !errors.Is(err, nvml.ErrNoGPU) {
			t.Errorf("error %v, want that there is none such", err)
		}
		b.change(func(n *nvmlfake.Node) { n.GPUs[0].MIG.Instances = []string{"3g.40gb@4"} })
		s = b.after(discoverEvery + 2*lookEvery)
		if got := offers(s.Devices, slot.Book{}, false); len(got[large]) != 1 {
			t.Errorf("after it was made again: %d large", len(got[large]))
		}
		if _, err := uuids(s.Host, []gpu.Grant{grant}); err != nil {
			t.Errorf("%v (before it was %s)", err, old)
		}
	})
}

func TestDriverThatLiesAboutMIG(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := nvmlfake.DGXH100()
		n.GPUs[4].MIG = nvmlfake.MIG{Enabled: true, Unchecked: true, Instances: []string{"3g.40gb@0", "2g.20gb@2"}}
		b := newBench(t, newFake(t, n), filepath.Join(t.TempDir(), "gpus.json"), "boot", nil)
		defer b.stop()
		s := b.after(time.Minute)
		if got := len(s.Devices); got != 8 {
			t.Errorf("%d GPUs, want 8", got)
		}
		if d := s.Devices[4]; !d.MIG || len(d.Instances) > 0 {
			t.Errorf("GPU 4 gives out %v, want nothing of what overlaps", d.Instances)
		}
		if !slices.ContainsFunc(s.Problems, func(p string) bool { return strings.Contains(p, "overlaps") }) {
			t.Errorf("problems %q: want one that says so", s.Problems)
		}
	})
}

// stuck is an NVML that is not read until all is closed.
type stuck struct {
	library
	all chan struct{}
}

func (s *stuck) Discover() (nvml.Host, error) {
	<-s.all
	return s.library.Discover()
}

func TestNVMLThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := newFake(t, nvmlfake.A30())
		free := make(chan struct{})
		b := newBench(t, fake, filepath.Join(t.TempDir(), "gpus.json"), "boot", func() (library, error) {
			return &stuck{library: nvml.New(fake), all: free}, nil
		})
		if s := b.after(2 * time.Minute); !errors.Is(s.Unavailable, errHangs) {
			t.Errorf("unavailable: %v, want that it hangs", s.Unavailable)
		}
		close(free)
		expectUnwell(t, "no longer", b.after(3*time.Minute), 1, nil)
		b.stop()
	})
}

func TestNVMLThatHangsWhenItIsOpened(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := newFake(t, nvmlfake.A30())
		free := make(chan struct{})
		var tries atomic.Int64
		b := newBench(t, fake, filepath.Join(t.TempDir(), "gpus.json"), "boot", func() (library, error) {
			tries.Add(1)
			<-free
			return nvml.New(fake), nil
		})
		if s := b.after(5 * time.Minute); !errors.Is(s.Unavailable, errHangs) || tries.Load() != 1 {
			t.Errorf("unavailable: %v after %d tries, want that the first hangs", s.Unavailable, tries.Load())
		}
		close(free)
		expectUnwell(t, "no longer", b.after(time.Minute), 1, nil)
		b.stop()
	})
}

// hung is an NVML one of whose GPUs does not answer from a moment on until it is free, and so the reading of everything neither.
type hung struct {
	library
	id   gpu.ID
	from time.Time
	free chan struct{}
}

func (h hung) wait() {
	if !time.Now().Before(h.from) {
		<-h.free
	}
}

func (h hung) Discover() (nvml.Host, error) {
	h.wait()
	return h.library.Discover()
}

func (h hung) Check(id gpu.ID) nvml.Condition {
	if id == h.id {
		h.wait()
	}
	return h.library.Check(id)
}

func TestGPUThatHangs(t *testing.T) {
	for name, at := range map[string]time.Duration{
		"noticed by a look":                         31 * time.Second,
		"noticed when everything has begun to hang": 59 * time.Second,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				fake := newFake(t, nvmlfake.DGXH100())
				id := hostOf(t, nvmlfake.DGXH100()).GPUs[6].ID
				free, from := make(chan struct{}), time.Now().Add(at)
				b := newBench(t, fake, filepath.Join(t.TempDir(), "gpus.json"), "boot", func() (library, error) {
					return hung{nvml.New(fake), id, from, free}, nil
				})
				expectUnwell(t, "before", b.after(at-time.Second), 8, nil)
				expectUnwell(t, "three looks later", b.after(17*time.Second), 8, map[int]string{6: "has not answered"})
				b.change(func(n *nvmlfake.Node) { n.Events = append(n.Events, nvmlfake.Event{GPU: 2, Xid: 48}) })
				expectUnwell(t, "much later", b.after(5*time.Minute), 8, map[int]string{2: "Xid 48", 6: "has not answered"})
				if s := b.after(0); s.Unavailable != nil || b.driver.library() == nil {
					t.Errorf("nothing can be given out for one GPU: %v", s.Unavailable)
				}
				close(free)
				expectUnwell(t, "it answers again", b.after(20*time.Minute), 8, nil)
				b.stop()
			})
		})
	}
}

// eventful is an NVML that takes a moment to answer and reports two events at once.
type eventful struct{ library }

func (e eventful) Check(id gpu.ID) nvml.Condition {
	time.Sleep(20 * time.Millisecond)
	return e.library.Check(id)
}

func (e eventful) Events(ctx context.Context, report func(nvml.Event)) error {
	pause(ctx, 7*time.Second)
	for range 2 {
		report(nvml.Event{Type: nvml.EventRecovery, Time: time.Now()})
	}
	<-ctx.Done()
	return nil
}

func TestTwoEventsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := newFake(t, nvmlfake.DGXH100())
		b := newBench(t, fake, filepath.Join(t.TempDir(), "gpus.json"), "boot", func() (library, error) {
			return eventful{nvml.New(fake)}, nil
		})
		defer b.stop()
		expectUnwell(t, "before", b.after(6*time.Second), 8, nil)
		for range 10 {
			expectUnwell(t, "after them", b.after(time.Second), 8, nil)
		}
	})
}

func TestStopDoesNotWaitForNVML(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake := newFake(t, nvmlfake.A30())
		free := make(chan struct{})
		b := newBench(t, fake, filepath.Join(t.TempDir(), "gpus.json"), "boot", func() (library, error) {
			return &stuck{library: nvml.New(fake), all: free}, nil
		})
		time.Sleep(time.Second)
		b.stop() // or the test does not end
		close(free)
		synctest.Wait()
	})
}
