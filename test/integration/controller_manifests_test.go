package integration

import (
	"os/exec"
	"testing"

	appsv1 "k8s.io/api/apps/v1"

	"weft.sh/weft/pkg/playground"
)

// TestControllerManifests: the Deployment's pod is admitted, its arguments are flags, and its account may do what it needs and no more.
func TestControllerManifests(t *testing.T) {
	cp := startControlPlane(t, playground.ControlPlaneOptions{})
	ctx := t.Context()
	applyManifests(t, cp)

	d := find[appsv1.Deployment](t, controllerObjects(t), "Deployment", "weft-controller")
	pod := admitted(t, cp, d)
	if got := "system:serviceaccount:" + d.Namespace + ":" + pod.Spec.ServiceAccountName; got != playground.ControllerUser {
		t.Errorf("the Deployment runs as %s, the tests as %s", got, playground.ControllerUser)
	}
	out, err := exec.CommandContext(ctx, binary(t, "weft-controller"), append(pod.Spec.Containers[0].Args, "--help")...).CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	rights(t, cp, "weft-system", "weft-controller", []right{
		{"watch", "", "pods", "", "", ""},
		{"create", "", "pods", "eviction", "team", "a"},
		{"list", "policy", "poddisruptionbudgets", "", "team", ""},
		{"patch", "", "pods", "", "team", "a"}, // of which a policy leaves one annotation: TestControllerPods
		{"watch", "", "nodes", "", "", ""},
		{"watch", "", "namespaces", "", "", ""},
		{"list", "weft.sh", "queues", "", "", ""},
		{"watch", "weft.sh", "gpuclasses", "", "", ""},
		{"patch", "weft.sh", "queues", "status", "", "q"},
		{"watch", "scheduling.x-k8s.io", "podgroups", "", "", ""},
		{"patch", "scheduling.x-k8s.io", "podgroups", "status", "team", "a"},
		{"list", "scheduling.k8s.io", "podgroups", "", "", ""},
		{"watch", "scheduling.k8s.io", "podgroups", "", "", ""},
		{"patch", "scheduling.k8s.io", "podgroups", "status", "team", "a"},
		{"create", "events.k8s.io", "events", "", "team", ""},
		{"create", "coordination.k8s.io", "leases", "", "weft-system", ""},
		{"update", "coordination.k8s.io", "leases", "", "weft-system", "weft-controller"},
		{"create", "authentication.k8s.io", "tokenreviews", "", "", ""},
		{"create", "authorization.k8s.io", "subjectaccessreviews", "", "", ""},
		{"get", "", "configmaps", "", "kube-system", "extension-apiserver-authentication"},
	}, []right{
		{"delete", "", "pods", "", "team", "a"},
		{"update", "", "pods", "", "team", "a"},
		{"patch", "", "pods", "status", "team", "a"},
		{"update", "policy", "poddisruptionbudgets", "", "team", "a"},
		{"patch", "", "nodes", "", "", "n"},
		{"patch", "", "namespaces", "", "", "team"},
		{"patch", "weft.sh", "queues", "", "", "q"},
		{"update", "weft.sh", "queues", "status", "", "q"},
		{"create", "weft.sh", "queues", "", "", ""},
		{"delete", "weft.sh", "queues", "", "", "q"},
		{"patch", "weft.sh", "gpuclasses", "", "", "c"},
		{"create", "", "pods", "binding", "team", "a"},
		{"create", "", "pods", "", "team", ""},
		{"patch", "scheduling.x-k8s.io", "podgroups", "", "team", "a"},
		{"delete", "scheduling.x-k8s.io", "podgroups", "", "team", "a"},
		{"patch", "scheduling.k8s.io", "podgroups", "", "team", "a"},
		{"update", "scheduling.k8s.io", "podgroups", "status", "team", "a"},
		{"delete", "scheduling.k8s.io", "podgroups", "", "team", "a"},
		{"watch", "scheduling.k8s.io", "workloads", "", "", ""},
		{"list", "", "secrets", "", "", ""},
		{"update", "coordination.k8s.io", "leases", "", "weft-system", "weft-scheduler"},
		{"create", "coordination.k8s.io", "leases", "", "kube-system", ""},
		{"update", "", "nodes", "", "", "n"},
	})
}
