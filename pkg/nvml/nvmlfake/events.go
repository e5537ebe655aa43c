package nvmlfake

import (
	"time"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
)

// eventTypes are those that the GPUs report.
const eventTypes = nvml.EventTypeXidCriticalError | nvml.EventTypeGpuUnavailableError | nvml.EventTypeGpuRecoveryAction

// look is how often a file is looked at while waiting for events.
const look = 50 * time.Millisecond

// eventSet is a set of events to wait for.
type eventSet struct {
	nvml.EventSet // what is not modelled
	f             *Fake
	start         int
	masks         map[int]uint64
	queue         []nvml.EventData
}

// EventSetCreate makes an empty set.
func (f *Fake) EventSetCreate() (nvml.EventSet, nvml.Return) {
	ret := f.enter()
	defer f.mu.Unlock()
	if ret != nvml.SUCCESS {
		return nil, ret
	}
	set := &eventSet{EventSet: unknownEventSet, f: f, start: f.start, masks: map[int]uint64{}}
	f.sets[set] = true
	return set, nvml.SUCCESS
}

func (d *device) GetSupportedEventTypes() (uint64, nvml.Return) {
	return value(d, "GetSupportedEventTypes", given(uint64(eventTypes)))
}

func (d *device) RegisterEvents(types uint64, set nvml.EventSet) nvml.Return {
	return d.ask("RegisterEvents", func() nvml.Return {
		s, ok := set.(*eventSet)
		if !ok || s.start != d.f.start || types&^eventTypes != 0 {
			return nvml.ERROR_INVALID_ARGUMENT
		}
		s.masks[d.index] |= types
		return nvml.SUCCESS
	})
}

// deliver queues an event if it is one that was asked for. f is locked.
func (s *eventSet) deliver(e Event) {
	t := e.Type
	if t == 0 {
		t = nvml.EventTypeXidCriticalError
	}
	if s.masks[e.GPU]&t == 0 {
		return
	}
	data := nvml.EventData{
		Device: s.f.handle(e.GPU), EventType: t, EventData: e.Xid,
		GpuInstanceId: or(e.GPUInstance, ^uint32(0)), ComputeInstanceId: or(e.ComputeInstance, ^uint32(0)),
	}
	if e.Nameless {
		data.Device = nil
	}
	s.queue = append(s.queue, data)
}

// Wait waits for an event. It fails as long as one of the GPUs is lost.
func (s *eventSet) Wait(milliseconds uint32) (nvml.EventData, nvml.Return) {
	over := time.NewTimer(time.Duration(milliseconds) * time.Millisecond)
	defer over.Stop()
	for {
		data, ret, wake := s.next()
		if ret != nvml.ERROR_TIMEOUT {
			return data, ret
		}
		var again <-chan time.Time
		if s.f.path != "" {
			again = time.After(look)
		}
		select {
		case <-wake:
		case <-again:
		case <-over.C:
			return nvml.EventData{}, nvml.ERROR_TIMEOUT
		}
	}
}

// next is the next event, or ERROR_TIMEOUT when there is none, with a channel that is closed when there may be.
func (s *eventSet) next() (nvml.EventData, nvml.Return, <-chan struct{}) {
	ret := s.f.enter()
	defer s.f.mu.Unlock()
	if ret != nvml.SUCCESS || s.start != s.f.start {
		return nvml.EventData{}, nvml.ERROR_UNINITIALIZED, nil
	}
	if len(s.queue) > 0 {
		data := s.queue[0]
		s.queue = s.queue[1:]
		return data, nvml.SUCCESS, nil
	}
	for index := range s.masks {
		if s.f.gpus[index].gone {
			return nvml.EventData{}, nvml.ERROR_GPU_IS_LOST, nil
		}
	}
	return nvml.EventData{}, nvml.ERROR_TIMEOUT, s.f.wake
}

// Free gives the set back.
func (s *eventSet) Free() nvml.Return {
	ret := s.f.enter()
	defer s.f.mu.Unlock()
	if ret != nvml.SUCCESS || s.start != s.f.start || !s.f.sets[s] {
		return nvml.ERROR_UNINITIALIZED
	}
	delete(s.f.sets, s)
	return nvml.SUCCESS
}
