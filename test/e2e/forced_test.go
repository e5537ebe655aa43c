//go:build linux

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"weft.sh/weft/pkg/podspec"
)

// linger starts a process that counts as one of the pod's first container, and which the kubelet does not find: beside its own cgroups.
func (e *env) linger(p *corev1.Pod) *process {
	e.t.Helper()
	_, id, _ := strings.Cut(p.Status.ContainerStatuses[0].ContainerID, "://")
	name := filepath.Join(os.Getenv(envCgroup), "beside", "pod"+string(p.UID), id)
	e.must(makeCgroups(name))
	e.t.Cleanup(func() { e.must(removeCgroups(filepath.Join(os.Getenv(envCgroup), "beside"))) })
	process := e.run("workload")
	roots, err := cgroupRoots()
	e.must(err)
	for _, root := range roots {
		// Some of the old hierarchies take no process before they are set up; it does not have to be in all.
		err = os.WriteFile(filepath.Join(root, name, "cgroup.procs"), fmt.Append(nil, process.cmd.Process.Pid), 0o644)
		if err != nil {
			e.t.Logf("not below %s: %v", root, err)
		}
	}
	if pids, err := inCgroups(id); err != nil || !pids[process.cmd.Process.Pid] {
		e.t.Fatalf("process %d is not in the cgroup %s: %v, %v", process.cmd.Process.Pid, name, pids, err)
	}
	return process
}

// A pod that is deleted by force holds its GPUs until its processes have ended, also when the agent was not there to see it go.
func TestPodDeletedByForceWhileTheAgentIsAway(t *testing.T) {
	e := start(t)
	a := e.startAgent(dgx)
	e.allocatable(wholeDGX)
	devices := e.inventory()
	e.create(newPod("forced", with(newContainer("main"), podspec.ResourceGPU, 6)))
	lingering := e.linger(e.running("forced"))

	a.kill()
	now := int64(0)
	e.must(e.client.CoreV1().Pods(metav1.NamespaceDefault).Delete(t.Context(), "forced", metav1.DeleteOptions{GracePeriodSeconds: &now}))
	e.remove("forced")
	a.start()
	e.allocatable(wholeDGX)
	e.create(newPod("next", with(newContainer("main"), podspec.ResourceGPU, 6)))
	e.refused("next", "its GPU cannot be given now")
	lingering.kill()
	e.gets(e.running("next"), "main", devices)
}
