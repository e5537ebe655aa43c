package nvml

import (
	"context"
	"errors"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
	"github.com/google/go-cmp/cmp"

	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/nvml/nvmlfake"
)

// watching is a library whose events are collected.
type watching struct {
	*Library
	t    *testing.T
	fake *nvmlfake.Fake
	end  func() error

	mu     sync.Mutex
	events []Event
}

// watchNode begins to watch the events of a node. It belongs into a synctest bubble.
func watchNode(t *testing.T, f *nvmlfake.Fake) *watching {
	ctx, cancel := context.WithCancel(t.Context())
	w := &watching{Library: New(f), t: t, fake: f}
	done := make(chan error, 1)
	w.end = func() error {
		cancel()
		return <-done
	}
	go func() {
		done <- w.Events(ctx, func(e Event) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.events = append(w.events, e)
		})
	}()
	return w
}

// seen are the events since the last call, without their times, which are checked.
func (w *watching) seen() []Event {
	w.t.Helper()
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	out := w.events
	w.events = nil
	for i := range out {
		if time.Since(out[i].Time) > 10*time.Second {
			w.t.Errorf("event %+v is old", out[i])
		}
		out[i].Time = time.Time{}
	}
	return out
}

func (w *watching) happens(events ...nvmlfake.Event) {
	w.t.Helper()
	update(w.t, w.fake, func(n *nvmlfake.Node) { n.Events = append(n.Events, events...) })
}

func TestEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := nvmlfake.DGXH100()
		n.Events = []nvmlfake.Event{{GPU: 1, Xid: 48}} // long ago
		w := watchNode(t, fake(t, n))
		synctest.Wait() // nobody has discovered: it waits
		h := discover(t, w.Library)
		if got := w.seen(); got != nil {
			t.Errorf("events %v before any", got)
		}
		w.happens(
			nvmlfake.Event{GPU: 2, Xid: 79},
			nvmlfake.Event{GPU: 3, Xid: 31, GPUInstance: new(uint32(4)), ComputeInstance: new(uint32(0))},
			nvmlfake.Event{GPU: 4, Xid: 62, Nameless: true},
			nvmlfake.Event{GPU: 5, Type: nvml.EventTypeGpuUnavailableError, Xid: 1},
			nvmlfake.Event{GPU: 6, Type: nvml.EventTypeGpuRecoveryAction},
			nvmlfake.Event{GPU: 7, Type: nvml.EventTypeClock}, // not asked for
		)
		want := []Event{
			{Type: EventXid, GPU: h.GPUs[2].ID, Xid: 79, GPUInstance: -1, ComputeInstance: -1},
			{Type: EventXid, GPU: h.GPUs[3].ID, Xid: 31, GPUInstance: 4, ComputeInstance: 0},
			{Type: EventXid, Xid: 62, GPUInstance: -1, ComputeInstance: -1},
			{Type: EventUnavailable, GPU: h.GPUs[5].ID, GPUInstance: -1, ComputeInstance: -1},
			{Type: EventRecovery, GPU: h.GPUs[6].ID, GPUInstance: -1, ComputeInstance: -1},
		}
		if diff := cmp.Diff(want, w.seen()); diff != "" {
			t.Error(diff)
		}
		began := time.Now()
		if err := w.end(); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took > time.Second {
			t.Errorf("Events ended %v after its context", took)
		}
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestEventsSurviveALostGPU(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := watchNode(t, fake(t, nvmlfake.DGXH100()))
		h := discover(t, w.Library)
		synctest.Wait()
		update(t, w.fake, func(n *nvmlfake.Node) { n.GPUs[3].Lost = true })
		any := []Event{{Type: EventUnavailable, GPUInstance: -1, ComputeInstance: -1}}
		if diff := cmp.Diff(any, w.seen()); diff != "" {
			t.Errorf("when a GPU is lost: %s", diff)
		}
		// It is told once, not again and again, and the others are still watched.
		time.Sleep(time.Minute)
		w.happens(nvmlfake.Event{GPU: 4, Xid: 48})
		xid := func(i int) []Event {
			return []Event{{Type: EventXid, GPU: h.GPUs[i].ID, Xid: 48, GPUInstance: -1, ComputeInstance: -1}}
		}
		if diff := cmp.Diff(xid(4), w.seen()); diff != "" {
			t.Errorf("of another GPU: %s", diff)
		}
		// NVML is started anew under it, once while the GPU is still lost, once when it is back.
		problems(t, discover(t, w.Library), "lost")
		synctest.Wait()
		w.happens(nvmlfake.Event{GPU: 5, Xid: 48}, nvmlfake.Event{GPU: 3, Xid: 48})
		if diff := cmp.Diff(xid(5), w.seen()); diff != "" {
			t.Errorf("while it is lost: %s", diff)
		}
		update(t, w.fake, func(n *nvmlfake.Node) { n.GPUs[3].Lost = false })
		problems(t, discover(t, w.Library))
		synctest.Wait()
		w.happens(nvmlfake.Event{GPU: 3, Xid: 48})
		if diff := cmp.Diff(xid(3), w.seen()); diff != "" {
			t.Errorf("of the GPU that came back: %s", diff)
		}
		if err := w.end(); err != nil {
			t.Error(err)
		}
	})
}

func TestEventsWhenAllGPUsAreLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := watchNode(t, fake(t, nvmlfake.A30()))
		id := discover(t, w.Library).GPUs[0].ID
		synctest.Wait()
		update(t, w.fake, func(n *nvmlfake.Node) { n.GPUs[0].Lost = true })
		if got := w.seen(); len(got) != 1 {
			t.Errorf("events %v", got)
		}
		problems(t, discover(t, w.Library), "lost")
		update(t, w.fake, func(n *nvmlfake.Node) { n.GPUs[0].Lost = false })
		problems(t, discover(t, w.Library))
		synctest.Wait()
		time.Sleep(time.Minute)
		synctest.Wait()
		w.happens(nvmlfake.Event{GPU: 0, Xid: 94})
		want := []Event{{Type: EventXid, GPU: id, Xid: 94, GPUInstance: -1, ComputeInstance: -1}}
		if diff := cmp.Diff(want, w.seen()); diff != "" {
			t.Error(diff)
		}
		// Events does not keep Close from closing, nor end before its context.
		if err := w.Close(); err != nil {
			t.Error(err)
		}
		if err := w.end(); err != nil {
			t.Error(err)
		}
	})
}

func TestEventsThatNobodyReports(t *testing.T) {
	deaf := func(n nvmlfake.Node, indices ...int) nvmlfake.Node {
		for _, i := range indices {
			n.GPUs[i].Answers = map[string]nvmlfake.Answer{"RegisterEvents": "ERROR_NOT_SUPPORTED"}
		}
		return n
	}
	l := New(fake(t, deaf(nvmlfake.L4s(), 0, 1, 2, 3, 4, 5, 6, 7)))
	discover(t, l)
	if err := l.Events(t.Context(), func(Event) {}); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("error %v, want ErrUnsupported", err)
	}
	synctest.Test(t, func(t *testing.T) {
		w := watchNode(t, fake(t, deaf(nvmlfake.L4s(), 0, 1)))
		id := discover(t, w.Library).GPUs[2].ID
		synctest.Wait()
		w.happens(nvmlfake.Event{GPU: 0, Xid: 1}, nvmlfake.Event{GPU: 2, Xid: 2})
		want := []Event{{Type: EventXid, GPU: id, Xid: 2, GPUInstance: -1, ComputeInstance: -1}}
		if diff := cmp.Diff(want, w.seen()); diff != "" {
			t.Error(diff)
		}
		_ = w.end()
	})
}

func TestEventsFromAFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "node.yaml")
	n := nvmlfake.DGXH100()
	if err := n.Write(path); err != nil {
		t.Fatal(err)
	}
	f, err := nvmlfake.FromFile(path)
	if err != nil {
		t.Fatal(err)
	}
	l := New(f)
	l.eventWait = 100 * time.Millisecond
	id := discover(t, l).GPUs[6].ID
	ctx, cancel := context.WithCancel(t.Context())
	events, done := make(chan Event, 1000), make(chan error, 1)
	go func() { done <- l.Events(ctx, func(e Event) { events <- e }) }()
	// The file can be written before the GPUs are watched, so it is written again until it is seen.
	var got Event
	for got.Xid == 0 {
		n.Events = append(n.Events, nvmlfake.Event{GPU: 6, Xid: 79})
		if err := n.Write(path); err != nil {
			t.Fatal(err)
		}
		select {
		case got = <-events:
		case <-time.After(time.Second):
		}
	}
	if got.GPU != id || got.Xid != 79 {
		t.Errorf("event %+v", got)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestRecoveryActions(t *testing.T) {
	for action, want := range map[uint32]string{
		0: RecoveryNone, 1: RecoveryGPUReset, 2: RecoveryNodeReboot, 3: RecoveryDrain, 4: RecoveryDrainAndReset, 5: RecoveryIMEXDomain,
		6: RecoveryBusReset, 7: RecoveryNodeReboot, 8: "action-8", ^uint32(0): "action-4294967295",
	} {
		n := changed(nvmlfake.A30(), 0, func(g *nvmlfake.GPU) { g.Recovery = new(action) })
		l := New(fake(t, n))
		c := l.Check(discover(t, l).GPUs[0].ID)
		if c.Recovery != want || (c.Problem() == "") != (action == 0) || c.Lost {
			t.Errorf("action %d: %+v, problem %q, want %s", action, c, c.Problem(), want)
		}
	}
}

func TestCheckOfAGPUThatNobodySaw(t *testing.T) {
	l := New(fake(t, nvmlfake.A30()))
	if c := l.Check("GPU-1"); !c.Lost || c.Problem() == "" {
		t.Errorf("before Discover: %+v", c)
	}
	discover(t, l)
	if c := l.Check(gpu.ID("GPU-1")); !c.Lost || c.Problem() == "" {
		t.Errorf("after Discover: %+v", c)
	}
}

func TestCheckOfErrors(t *testing.T) {
	for name, c := range map[string]struct {
		answers map[string]nvmlfake.Answer
		want    Condition
	}{
		"no recovery action":     {map[string]nvmlfake.Answer{"GetFieldValues": "ERROR_NOT_SUPPORTED"}, Condition{Recovery: RecoveryUnknown}},
		"memory is not told":     {map[string]nvmlfake.Answer{"GetMemoryInfo": "ERROR_NOT_SUPPORTED"}, Condition{Recovery: RecoveryUnknown}},
		"lost in the middle":     {map[string]nvmlfake.Answer{"GetFieldValues": "ERROR_GPU_IS_LOST"}, Condition{Lost: true, Recovery: RecoveryUnknown, Err: why(nvml.ERROR_GPU_IS_LOST)}},
		"a reset is required":    {map[string]nvmlfake.Answer{"GetMemoryInfo": "ERROR_RESET_REQUIRED"}, Condition{Lost: true, Recovery: RecoveryGPUReset, Err: "it needs a reset"}},
		"an error of no meaning": {map[string]nvmlfake.Answer{"GetMemoryInfo": "ERROR_UNKNOWN"}, Condition{Recovery: RecoveryUnknown, Err: why(nvml.ERROR_UNKNOWN)}},
	} {
		t.Run(name, func(t *testing.T) {
			f := fake(t, nvmlfake.A30())
			l := New(f)
			id := discover(t, l).GPUs[0].ID
			update(t, f, func(n *nvmlfake.Node) { n.GPUs[0].Answers = c.answers })
			if diff := cmp.Diff(c.want, l.Check(id)); diff != "" {
				t.Error(diff)
			}
		})
	}
}
