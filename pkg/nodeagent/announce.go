package nodeagent

import (
	"context"
	"fmt"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"

	"weft.sh/weft/pkg/gpu"
)

// Reasons of the events on the Node.
const (
	eventUnavailable = "NVMLUnavailable"
	eventAvailable   = "NVMLAvailable"
	eventUnhealthy   = "GPUUnhealthy"
	eventHealthy     = "GPUHealthy"
	eventProblem     = "GPUProblem"
	eventNoKubelet   = "KubeletDoesNotAnswer"
	eventKubelet     = "KubeletAnswers"
)

// kubeletAway is how long the kubelet may be away, as it is when it is started anew, before people are told.
const kubeletAway = 30 * time.Second

// announcer tells people, by the log and by events on the Node, what became better or worse.
type announcer struct {
	recorder record.EventRecorder
	node     *v1.ObjectReference
	board    *board
	// registered is nil while the kubelet knows of all that is offered.
	registered func() error
}

// run announces changes until ctx ends. Of a state that is replaced before anybody looked nothing is said.
func (a *announcer) run(ctx context.Context) {
	last, found := &State{}, false
	for {
		state, changed := a.board.look()
		if state != nil {
			if !found && state.Unavailable == nil {
				found = true
				klog.FromContext(ctx).Info("Looked for the node's GPUs", "driver", state.Host.DriverVersion, "cuda", state.Host.CUDAVersion,
					"gpus", len(state.Devices), "unhealthy", len(state.Devices)-len(healthy(state.Devices)))
			}
			for _, n := range news(last, state) {
				a.tell(ctx, n)
			}
			last = state
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// watchKubelet announces that the kubelet is away for long, and that it is back, until ctx ends.
func (a *announcer) watchKubelet(ctx context.Context) {
	told, there := false, time.Now()
	for ctx.Err() == nil {
		now := time.Now()
		switch err := a.registered(); {
		case err == nil && told:
			a.tell(ctx, notice{false, eventKubelet, "The kubelet knows of the GPUs again"})
			told, there = false, now
		case err == nil:
			there = now
		case !told && now.Sub(there) > kubeletAway:
			text := fmt.Sprintf("No pod that asks for a GPU can start here: the kubelet has not known of all for %s: %v", kubeletAway, err)
			a.tell(ctx, notice{true, eventNoKubelet, clean(text)})
			told = true
		}
		pause(ctx, lookEvery)
	}
}

func (a *announcer) tell(ctx context.Context, n notice) {
	log := klog.FromContext(ctx)
	kind := v1.EventTypeNormal
	if n.bad {
		kind = v1.EventTypeWarning
		log.Error(nil, n.text, "reason", n.reason)
	} else {
		log.Info(n.text, "reason", n.reason)
	}
	a.recorder.Event(a.node, kind, n.reason, n.text)
}

// notice is one thing to tell.
type notice struct {
	bad          bool
	reason, text string
}

// news is what the new state says and the old one did not. Before the first one everything was well.
func news(old, now *State) (out []notice) {
	switch {
	case now.Unavailable != nil && (old.Unavailable == nil || old.Unavailable.Error() != now.Unavailable.Error()):
		out = append(out, notice{true, eventUnavailable, fmt.Sprintf("%v; trying again until it is there", now.Unavailable)})
	case now.Unavailable == nil && old.Unavailable != nil:
		text := fmt.Sprintf("NVML is there: driver %s, %s", now.Host.DriverVersion, plural(len(now.Devices), "GPU"))
		out = append(out, notice{false, eventAvailable, text})
	}
	for _, d := range now.Devices {
		was, known := deviceOf(old.Devices, d.ID)
		name := fmt.Sprintf("GPU %d (%s)", d.Index, d.ID)
		switch {
		case now.Unavailable != nil: // said once, not for every GPU
		case d.Unhealthy && (!was.Unhealthy || was.UnhealthyReason != d.UnhealthyReason):
			out = append(out, notice{true, eventUnhealthy, fmt.Sprintf("%s is unhealthy: %s", name, d.UnhealthyReason)})
		case known && was.Unhealthy && !d.Unhealthy && old.Unavailable == nil:
			out = append(out, notice{false, eventHealthy, fmt.Sprintf("%s is healthy again", name)})
		}
	}
	for _, p := range now.Problems {
		if !slices.Contains(old.Problems, p) {
			out = append(out, notice{true, eventProblem, p})
		}
	}
	return out
}

func healthy(devices []gpu.Device) []gpu.Device {
	return slices.DeleteFunc(slices.Clone(devices), func(d gpu.Device) bool { return d.Unhealthy })
}

func deviceOf(devices []gpu.Device, id gpu.ID) (gpu.Device, bool) {
	at := slices.IndexFunc(devices, func(d gpu.Device) bool { return d.ID == id })
	if at < 0 {
		return gpu.Device{}, false
	}
	return devices[at], true
}
