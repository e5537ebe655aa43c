package nvml

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"weft.sh/weft/pkg/gpu"
)

// EventType says what happened.
type EventType string

const (
	// EventXid is a critical error, by its number.
	EventXid EventType = "xid"
	// EventUnavailable: the GPU can no longer be used.
	EventUnavailable EventType = "unavailable"
	// EventRecovery: what the driver wants done has changed; see [Library.Check].
	EventRecovery EventType = "recovery-action"
)

// watched are the events that are asked for, as far as a GPU knows them.
var watched = map[uint64]EventType{
	nvml.EventTypeXidCriticalError:    EventXid,
	nvml.EventTypeGpuUnavailableError: EventUnavailable,
	nvml.EventTypeGpuRecoveryAction:   EventRecovery,
}

// Event is something that happened to a GPU.
type Event struct {
	Type EventType
	// GPU is empty when NVML does not say which: it may be any.
	GPU gpu.ID
	// Xid is the number of the error, 0 unless Type is EventXid.
	Xid uint64
	// GPUInstance and ComputeInstance are NVML's ids of the MIG device that was hit, -1 when it was the whole GPU.
	GPUInstance, ComputeInstance int
	Time                         time.Time
}

// Events reports what happens to the GPUs until ctx ends, and then returns nil, within a second. Only GPUs that answered a
// [Library.Discover] are watched, others from the Discover on that sees them. The error wraps [errors.ErrUnsupported] when
// there are GPUs and none of them can report events: then only [Library.Check] tells. report is called by one goroutine, and
// holds up events while it runs.
//
// After an error of NVML's own the GPUs are watched anew; a GPU that is lost is then no longer among them, which is reported
// as [EventUnavailable] of any GPU.
func (l *Library) Events(ctx context.Context, report func(Event)) error {
	for ctx.Err() == nil {
		w, changed, err := l.watch()
		switch {
		case errors.Is(err, errors.ErrUnsupported):
			return err
		case err != nil:
			pause(ctx, changed, 0)
			continue
		}
		if broken := l.follow(ctx, w, changed, report); broken {
			report(Event{Type: EventUnavailable, GPUInstance: -1, ComputeInstance: -1, Time: time.Now()})
			// NVML may answer with the same error at once, again and again.
			pause(ctx, nil, time.Second)
		}
	}
	return nil
}

// pause waits until ctx ends, changed is closed, or the time is over, which 0 never is.
func pause(ctx context.Context, changed <-chan struct{}, d time.Duration) {
	var over <-chan time.Time
	if d > 0 {
		over = time.After(d)
	}
	select {
	case <-ctx.Done():
	case <-changed:
	case <-over:
	}
}

// watcher is a set of events of one start of NVML.
type watcher struct {
	set     nvml.EventSet
	started int
}

// watch registers all GPUs that answer. The channel is closed when there are others.
func (l *Library) watch() (watcher, <-chan struct{}, error) {
	l.mu.Lock()
	changed := l.changed
	l.mu.Unlock()
	if err := l.enter(); err != nil {
		return watcher{}, changed, err
	}
	defer l.leave()
	l.mu.Lock()
	handles := slices.Collect(maps.Values(l.handles))
	l.mu.Unlock()
	if len(handles) == 0 {
		return watcher{}, changed, fmt.Errorf("%w to watch", ErrNoGPU)
	}
	set, ret := l.lib.EventSetCreate()
	if ret != nvml.SUCCESS {
		return watcher{}, changed, fmt.Errorf("%w: it cannot report events (NVML: %w)", errors.ErrUnsupported, ret)
	}
	registered, unsupported := 0, 0
	for _, dev := range handles {
		types, ret := dev.GetSupportedEventTypes()
		if ret == nvml.SUCCESS {
			var mask uint64
			for t := range watched {
				mask |= t
			}
			if mask &= types; mask == 0 {
				ret = nvml.ERROR_NOT_SUPPORTED
			} else {
				ret = dev.RegisterEvents(mask, set)
			}
		}
		switch ret {
		case nvml.SUCCESS:
			registered++
		case nvml.ERROR_NOT_SUPPORTED:
			unsupported++
		default:
			l.lose(ret)
		}
	}
	if registered > 0 {
		return watcher{set, l.started}, changed, nil
	}
	_ = set.Free()
	if unsupported == len(handles) {
		return watcher{}, changed, fmt.Errorf("no GPU can report events: %w", errors.ErrUnsupported)
	}
	return watcher{}, changed, fmt.Errorf("%w that could be watched", ErrNoGPU)
}

// follow reports events until ctx ends, the GPUs change or NVML fails, which it returns.
func (l *Library) follow(ctx context.Context, w watcher, changed <-chan struct{}, report func(Event)) (broken bool) {
	for {
		select {
		case <-ctx.Done():
			l.free(w)
			return false
		case <-changed:
			l.free(w)
			return false
		default:
		}
		if !l.enterStart(w.started) {
			// NVML was stopped, and the set is gone with it. Once it is started again and has GPUs, changed is closed.
			pause(ctx, changed, 0)
			return false
		}
		data, ret := w.set.Wait(uint32(l.eventWait / time.Millisecond))
		var e Event
		if ret == nvml.SUCCESS {
			e = event(data)
		}
		l.leave()
		switch ret {
		case nvml.SUCCESS:
			if e.Type != "" {
				report(e)
			}
		case nvml.ERROR_TIMEOUT:
		default:
			l.lose(ret)
			l.free(w)
			return true
		}
	}
}

// free gives the set back, unless the start of NVML that it belongs to is over.
func (l *Library) free(w watcher) {
	if l.enterStart(w.started) {
		defer l.leave()
		_ = w.set.Free()
	}
}

// enterStart is enter, unless NVML is not as it was at that start.
func (l *Library) enterStart(started int) bool {
	if l.enter() != nil {
		return false
	}
	if l.started != started {
		l.leave()
		return false
	}
	return true
}

// event translates. Its type is empty when it is none that was asked for.
func event(data nvml.EventData) Event {
	e := Event{
		Type: watched[data.EventType], Time: time.Now(),
		GPUInstance: instanceID(data.GpuInstanceId), ComputeInstance: instanceID(data.ComputeInstanceId),
	}
	if e.Type == EventXid {
		e.Xid = data.EventData
	}
	if data.Device != nil {
		if id, ret := data.Device.GetUUID(); ret == nvml.SUCCESS {
			e.GPU = gpu.ID(id)
		}
	}
	return e
}

// instanceID is NVML's id of a GPU or compute instance, which has all bits set for none.
func instanceID(id uint32) int {
	if id == math.MaxUint32 {
		return -1
	}
	return int(id)
}
