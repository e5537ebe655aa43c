//go:build linux

package e2e

import (
	"fmt"
	"strings"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// restarted waits until the container has been started again that often and runs.
func (e *env) restarted(name, container string, times int32) {
	e.t.Helper()
	e.eventually(func() string {
		for _, s := range e.pod(name).Status.ContainerStatuses {
			if s.Name == container && s.RestartCount == times && s.State.Running != nil {
				return ""
			}
		}
		return fmt.Sprintf("container %s of pod %s is not started again %d times", container, name, times)
	}, name)
}

func TestContainerIsStartedAgain(t *testing.T) {
	e := start(t)
	p := newPod("again", newContainer("main", "-exit", "3"))
	p.Spec.RestartPolicy = corev1.RestartPolicyAlways
	e.create(p)
	e.running("again")
	e.signal("again", "main", syscall.SIGTERM)
	e.restarted("again", "main", 1)
	ended := e.pod("again").Status.ContainerStatuses[0].LastTerminationState.Terminated
	if ended == nil || ended.ExitCode != 3 {
		t.Errorf("got %+v, want an end with exit code 3", ended)
	}
	if r := e.report("again", "main", true); r.Env["HOSTNAME"] != "again" {
		t.Errorf("output of the first container: got %+v", r)
	}
}

func TestContainersOutliveTheNodesComponents(t *testing.T) {
	e := start(t)
	e.create(newPod("before", newContainer("main")))
	id := e.running("before").Status.ContainerStatuses[0].ContainerID
	for _, component := range []struct {
		name  string
		kill  func()
		start func() error
	}{
		{"kubelet", func() { e.kubelet.kill() }, func() error { return e.startKubelet(t.Context()) }},
		{"kubelet, stopped", func() { e.kubelet.stop() }, func() error { return e.startKubelet(t.Context()) }},
		{"containerd", func() { e.containerd.kill() }, func() error { return e.startContainerd(t.Context()) }},
		{"scheduler", func() { e.scheduler.Kill() }, func() error { return e.startScheduler(t.Context()) }},
	} {
		component.kill()
		e.must(component.start())
		name := "after-" + strings.ReplaceAll(component.name, ", ", "-")
		e.create(newPod(name, newContainer("main")))
		e.running(name)
		s := e.pod("before").Status.ContainerStatuses[0]
		if s.ContainerID != id || s.RestartCount != 0 || s.State.Running == nil {
			t.Errorf("after the restart of %s the container is another one: %+v", component.name, s)
		}
	}
}

func TestNodeBootsAgain(t *testing.T) {
	e := start(t)
	p := newPod("boot", newContainer("main"))
	p.Spec.RestartPolicy = corev1.RestartPolicyAlways
	e.create(p)
	e.running("boot")
	bootID := func() string {
		n, err := e.client.CoreV1().Nodes().Get(t.Context(), nodeName, metav1.GetOptions{})
		e.must(err)
		return n.Status.NodeInfo.BootID
	}
	before := bootID()
	e.must(e.crash(t.Context()))
	e.must(e.startContainerd(t.Context()))
	e.must(e.startKubelet(t.Context()))
	e.restarted("boot", "main", 1)
	if after := bootID(); after == before {
		t.Errorf("the node still has boot id %s", after)
	}
}

func TestProcessOfTheNode(t *testing.T) {
	e := start(t)
	p := e.run("workload", "-exit", "3")
	if f := p.failed(); f != "" {
		t.Error(f)
	}
	p.kill()
	if s := p.cmd.ProcessState.String(); s != "signal: killed" || p.failed() != "" {
		t.Errorf("killed: got %q, and said to have failed: %q", s, p.failed())
	}
	p = e.run("workload", "-once", "-exit", "3")
	<-p.done
	if f := p.failed(); !strings.Contains(f, "exit status 3") {
		t.Errorf("ended by itself: got %q", f)
	}
}
