package nodeagent

import (
	"cmp"
	"context"
	"fmt"
	"reflect"
	"strconv"
	"time"

	"github.com/spf13/pflag"
	"k8s.io/klog/v2"

	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/health"
	"weft.sh/weft/pkg/nvml"
)

// HealthConfig says when a GPU that had an error is well again.
type HealthConfig struct {
	health.Limits
}

func (h *HealthConfig) addFlags(f *pflag.FlagSet) {
	f.DurationVar(&h.Quarantine, "health-quarantine", 30*time.Second, "how long the driver must have wanted no recovery after a critical "+
		"error (Xid) before a GPU is given out again; it doubles each time that this happens again within an hour")
	f.DurationVar(&h.BlindQuarantine, "health-quarantine-blind", 10*time.Minute,
		"the same where the driver does not say whether it wants recovery")
	ignored := "numbers of Xids that are not taken for a GPU's fault, such as 94,95, besides those that programs cause"
	f.Func("health-ignored-xids", ignored, func(text string) error {
		h.Ignored = nil
		for _, word := range commas(text) {
			n, err := strconv.ParseUint(word, 10, 32)
			if err != nil || n == 0 {
				return fmt.Errorf("%q: want numbers of Xids, such as 94,95", word)
			}
			h.Ignored = append(h.Ignored, n)
		}
		return nil
	})
}

// judge takes note of what a look at a GPU found.
func (s *session) judge(id gpu.ID, c nvml.Condition, now time.Time) {
	m := s.monitors[id]
	why := c.Err
	if g, ok := find(s.host, id); ok && c.Lost {
		why = cmp.Or(g.Problem, why) // what it was when NVML started, which looks have no longer
	}
	before := m.Status()
	m.Poll(health.Condition{Lost: c.Lost || c.Err != "", Err: why, Recovery: c.Recovery}, now)
	s.changed(before, m.Status())
}

// hear takes note of what NVML reports.
func (s *session) hear(ctx context.Context, e nvml.Event) {
	if e.Type != nvml.EventXid {
		// Of which GPU, or how it is now, only a look tells.
		klog.FromContext(ctx).Info("NVML reports an event; the GPUs are looked at", "event", e.Type, "gpu", e.GPU, "xid", e.Xid)
		s.lookAtAll(ctx)
		s.wanted = true
		return
	}
	log := klog.FromContext(ctx)
	xid := health.Xid{Number: e.Xid, Nameless: e.GPU == ""}
	log.Info("NVML reports an error", "gpu", e.GPU, "error", xid.String(), "gpuInstance", e.GPUInstance, "computeInstance", e.ComputeInstance)
	if !xid.Nameless && s.monitors[e.GPU] == nil { // everything is being read for the first time
		s.monitors[e.GPU] = health.NewMonitor(s.health)
	}
	for id, m := range s.monitors {
		if id == e.GPU || xid.Nameless {
			before := m.Status()
			m.Xid(xid, e.Time)
			s.changed(before, m.Status())
		}
	}
}

// failures is what has to be remembered of GPUs that failed.
func (h *hardware) failures() map[gpu.ID]health.State {
	out := map[gpu.ID]health.State{}
	for id, m := range h.monitors {
		if s := m.State(); s.Failures > 0 {
			out[id] = s
		}
	}
	return out
}

// remember writes down the GPUs and their failures, if that is not what was written last.
func (h *hardware) remember(ctx context.Context) {
	now := remembered{h.cards, h.failures()}
	if reflect.DeepEqual(now, h.written) {
		return
	}
	h.written = now
	if err := h.memory.save(now); err != nil {
		klog.FromContext(ctx).Error(err, "The node's GPUs were not written down; after a restart one that is lost is not missed, and what errors "+
			"they had is forgotten")
	}
}

// recall is what was remembered.
func (h *hardware) recall(ctx context.Context) {
	was, err := h.memory.load()
	if err != nil {
		klog.FromContext(ctx).Error(err, "The GPUs that the node had before are not known; one that is missing is not noticed")
	}
	h.cards = was.GPUs
	for id, s := range was.Failures {
		m := health.NewMonitor(h.health)
		m.Restore(s, time.Now())
		h.monitors[id] = m
	}
	h.written = remembered{h.cards, h.failures()}
}

// changed has everything read anew when a GPU became well or unwell: NVML sees a lost GPU again only when it is started anew, and what
// else it said of the GPU may no longer be so.
func (s *session) changed(before, after health.Status) {
	if before.Healthy != after.Healthy {
		s.wanted = true
	}
}

// sick is why GPUs are not well, by those that are not.
func (s *session) sick() map[gpu.ID]string {
	out := map[gpu.ID]string{}
	for id, m := range s.monitors {
		if status := m.Status(); !status.Healthy {
			out[id] = status.Reason
		}
	}
	return out
}

func find(host nvml.Host, id gpu.ID) (nvml.GPU, bool) {
	for _, g := range host.GPUs {
		if g.ID == id {
			return g, true
		}
	}
	return nvml.GPU{}, false
}
