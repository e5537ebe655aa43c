//go:build linux

package e2e

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func TestPodRunsToCompletion(t *testing.T) {
	e := start(t)
	t.Logf("the cluster was ready after\n%s", &e.steps)
	p := newPod("plain", newContainer("main", "-once", "one"))
	p.Spec.InitContainers = []corev1.Container{newContainer("before", "-once", "two")}
	e.create(p)
	p = e.phase("plain", corev1.PodSucceeded)
	if p.Spec.NodeName != nodeName {
		t.Errorf("the pod is on node %q, want %q", p.Spec.NodeName, nodeName)
	}
	for container, arg := range map[string]string{"before": "two", "main": "one"} {
		r := e.report("plain", container, false)
		if !slices.Equal(r.Args, []string{arg}) || r.Env["HOSTNAME"] != "plain" || !slices.Contains(r.Devices, "/dev/null") {
			t.Errorf("container %s: got %+v", container, r)
		}
	}
}
