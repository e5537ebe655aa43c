package nodeagent

import (
	"cmp"
	"context"
	"fmt"
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
	m := s.monitors[e.GPU]
	if m == nil || e.Type != nvml.EventXid {
		// Of which GPU, or how it is now, only a look tells.
		klog.FromContext(ctx).Info("NVML reports an event; the GPUs are looked at", "event", e.Type, "gpu", e.GPU, "xid", e.Xid)
		s.lookAtAll(ctx)
		s.wanted = true
		return
	}
	before := m.Status()
	m.Xid(e.Xid, e.Time)
	klog.FromContext(ctx).Info("NVML reports an error", "gpu", e.GPU, "error", health.Describe(e.Xid),
		"gpuInstance", e.GPUInstance, "computeInstance", e.ComputeInstance, "taken", !m.Status().Healthy)
	s.changed(before, m.Status())
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
