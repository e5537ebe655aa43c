//go:build linux

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"weft.sh/weft/pkg/podspec"
)

// published waits until the GPU with the index sick and no other, or none where there is no such GPU, is published as unhealthy, for a
// reason with that in it.
func (e *env) published(sick int, reason string) {
	e.t.Helper()
	e.eventually(func() string {
		for _, d := range e.inventory() {
			if d.Unhealthy != (d.Index == sick) || d.Unhealthy && !strings.Contains(d.UnhealthyReason, reason) {
				return fmt.Sprintf("GPU %d is published as unhealthy: %t, for %q; want that of GPU %d alone, for %q",
					d.Index, d.Unhealthy, d.UnhealthyReason, sick, reason)
			}
		}
		return ""
	})
}

func TestBrokenGPUs(t *testing.T) {
	t.Run("NVML is missing, then there", func(t *testing.T) {
		e := start(t)
		b := e.agentWithoutWaiting("preset: dgx-a100-40gb\nstartError: ERROR_DRIVER_NOT_LOADED\n")
		e.eventually(func() string {
			if f := b.failed(); f != "" {
				t.Fatal(f)
			}
			body, err := get("/readyz")
			if err == nil || !strings.Contains(body, "NVML") {
				return fmt.Sprintf("the agent does not say that NVML is missing: %v: %s", err, body)
			}
			return ""
		})
		e.describe(dgx)
		e.allocatable(wholeDGX)
	})
	t.Run("a GPU is lost and comes back", func(t *testing.T) {
		e := start(t)
		e.startAgent(dgx)
		e.allocatable(wholeDGX)
		e.describe(strings.Replace(dgx, "\nset:", "\nset:\n  \"2\": {lost: true}", 1))
		e.allocatable(map[string]int64{podspec.ResourceGPU: 5, podspec.ResourceGPUPercent: 500})
		e.published(2, "lost")
		// Six do not fit on five, whatever else would.
		e.create(newPod("six", with(newContainer("main"), podspec.ResourceGPU, 6)))
		e.create(newPod("five", with(newContainer("main"), podspec.ResourceGPU, 5)))
		devices := e.inventory()
		e.gets(e.running("five"), "main", devices)
		if p := e.pod("six"); p.Spec.NodeName != "" {
			t.Error("a pod was bound to a GPU that is lost")
		}
		e.remove("five")
		e.describe(dgx)
		e.allocatable(wholeDGX)
		e.gets(e.running("six"), "main", e.inventory())
	})
}

// agentWithoutWaiting is startAgent for GPUs that it cannot become ready with.
func (e *env) agentWithoutWaiting(fake string) *agent {
	e.t.Helper()
	a := e.startAgent(dgx)
	a.stop()
	e.describe(fake)
	a.launch()
	return a
}

// A critical Xid takes a GPU out of use, at the kubelet and for the scheduler, until the driver no longer wants anything done.
func TestXid(t *testing.T) {
	const gpu, nobody = 2, -1
	e := start(t)
	e.startAgent(dgx)
	e.allocatable(wholeDGX)
	wants := func(recovery int) string {
		return strings.Replace(dgx, "\nset:", fmt.Sprintf("\nevents: [{gpu: %d, xid: 79}]\nset:\n  \"%d\": {recovery: %d}", gpu, gpu, recovery), 1)
	}
	began := time.Now()
	e.describe(wants(1)) // a reset
	e.published(gpu, "Xid 79")
	slice := time.Since(began)
	e.allocatable(map[string]int64{podspec.ResourceGPU: 5, podspec.ResourceGPUPercent: 500})
	t.Logf("from the Xid to the ResourceSlice %v, to the node's allocatable %v", slice, time.Since(began))
	e.create(newPod("six", with(newContainer("main"), podspec.ResourceGPU, 6)))

	began = time.Now()
	e.describe(wants(0))
	e.published(nobody, "")
	slice = time.Since(began)
	e.allocatable(wholeDGX)
	t.Logf("from the recovery to the ResourceSlice %v, to the node's allocatable %v", slice, time.Since(began))
	e.gets(e.running("six"), "main", e.inventory())
}
