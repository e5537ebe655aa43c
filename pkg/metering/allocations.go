package metering

import (
	"time"
)

// Allocations is who holds and held the node's GPUs, for JSON. docs/node.md describes every field; a field is never left out, and
// none ever changes its meaning.
type Allocations struct {
	Node string    `json:"node"`
	Time time.Time `json:"time"`
	// Allocations are those that last and the [MaxEnded] that ended last, by the time since when.
	Allocations []Allocation `json:"allocations"`
	// EndedForgotten counts those that ended since the agent started and are no longer among them.
	EndedForgotten int64 `json:"endedForgotten"`
}

// Allocation is one container's part of one GPU, or one MIG instance.
type Allocation struct {
	Namespace string `json:"namespace"`
	Pod       string `json:"pod"`
	UID       string `json:"uid"`
	Container string `json:"container"`
	GPU       string `json:"gpu"`
	// Kind is whole, shared or mig.
	Kind string `json:"kind"`
	// Instance is the MIG instance as profile@start, empty for others.
	Instance string `json:"instance"`
	// MilliGPU is held now, or was held last; 0 while the size of the GPU of a MIG instance is not known.
	MilliGPU int64 `json:"milliGPU"`
	// MemoryMiB is 0 when it is not known.
	MemoryMiB int64     `json:"memoryMiB"`
	From      time.Time `json:"from"`
	// To is nil while it lasts.
	To                   *time.Time `json:"to"`
	MilliGPUMilliseconds int64      `json:"milliGPUMilliseconds"`
	// What was measured last; nil when it cannot be, or was not lately.
	MemoryUsedMiB      *int64 `json:"memoryUsedMiB"`
	UtilizationPercent *int64 `json:"utilizationPercent"`
}

// Allocations is who holds and held the node's GPUs.
func (m *Meter) Allocations() Allocations {
	s := m.state()
	out := Allocations{Node: m.Node, Time: jsonTime(s.now), Allocations: []Allocation{}, EndedForgotten: s.forgotten}
	for _, a := range s.accounts {
		e := Allocation{
			Namespace: a.namespace, Pod: a.pod, UID: a.uid, Container: a.container,
			GPU: string(a.gpu), Kind: a.kind.String(), Instance: a.instanceLabel(),
			MilliGPU: a.milliGPU(), MemoryMiB: s.memoryMiB(a.hold), From: jsonTime(a.from()), MilliGPUMilliseconds: a.total,
		}
		if a.lasts() {
			u := s.samples[a.gpu].useOf(a.hold)
			e.MemoryUsedMiB, e.UtilizationPercent = u.memoryMiB, u.smPercent
		} else {
			to := jsonTime(a.to)
			e.To = &to
		}
		out.Allocations = append(out.Allocations, e)
	}
	return out
}

// jsonTime is a time in UTC to the millisecond, which is as exact as the sums are.
func jsonTime(t time.Time) time.Time { return t.UTC().Truncate(time.Millisecond) }
