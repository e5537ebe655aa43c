package playground

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	rbacapply "k8s.io/client-go/applyconfigurations/rbac/v1"
	"k8s.io/client-go/kubernetes"
	nodefast "sigs.k8s.io/kwok/kustomize/stage/node/fast"
	nodelease "sigs.k8s.io/kwok/kustomize/stage/node/heartbeat-with-lease"
	podfast "sigs.k8s.io/kwok/kustomize/stage/pod/fast"
)

const (
	// kwokAnnotation and kwokAnnotationValue on a node give it to KWOK.
	kwokAnnotation      = "kwok.x-k8s.io/node"
	kwokAnnotationValue = "fake"
	kwokGrace           = 2 * time.Second
)

// kwokOptions: leases are renewed every quarter of their duration, and here nobody acts on one that expires, so at 1,213
// nodes a long one saves a hundred writes per second. The parallelism is what keeps KWOK from being slower than the
// scheduler whose pods it starts. The pods' addresses come from a range that does not run out.
const kwokOptions = `
apiVersion: config.kwok.x-k8s.io/v1alpha1
kind: KwokConfiguration
options:
  manageNodesWithAnnotationSelector: ` + kwokAnnotation + "=" + kwokAnnotationValue + `
  nodeLeaseDurationSeconds: 400
  nodeLeaseParallelism: 16
  nodePlayStageParallelism: 16
  podPlayStageParallelism: 16
  podsOnNodeSyncParallelism: 4
  cidr: 10.128.0.0/9
`

// StartKWOK starts KWOK, which plays the kubelet of every node that has the annotation kwok.x-k8s.io/node=fake: it makes
// the node Ready and renews its lease, runs pods that are bound to it, completes those of a Job, and ends pods that are
// deleted. The stages are those that KWOK ships. It returns when the process runs; nodes become Ready a moment after.
func StartKWOK(ctx context.Context, cp *ControlPlane) (*Process, error) {
	admin, err := kubernetes.NewForConfig(cp.AdminConfig())
	if err != nil {
		return nil, err
	}
	if err := grantKWOK(ctx, admin); err != nil {
		return nil, fmt.Errorf("rights of KWOK: %w", err)
	}
	kubeconfig, err := cp.Kubeconfig(KWOKUser)
	if err != nil {
		return nil, err
	}
	config := filepath.Join(cp.dir, "kwok.yaml")
	documents := []string{
		kwokOptions,
		nodefast.DefaultNodeInit, nodelease.DefaultNodeHeartbeatWithLease,
		podfast.DefaultPodReady, podfast.DefaultPodComplete, podfast.DefaultPodDelete,
	}
	if err := os.WriteFile(config, []byte(strings.Join(documents, "\n---\n")), 0o600); err != nil {
		return nil, err
	}
	return startProcess(command{
		name: "kwok", path: cp.binary, dir: cp.dir, grace: kwokGrace,
		args: []string{ChildKWOK, "--kubeconfig", kubeconfig, "--config", config, "--v=WARN"},
		// Otherwise it would also read the configuration in the user's home.
		env: []string{"KWOK_WORKDIR=" + filepath.Join(cp.dir, "kwok")},
	})
}

// grantKWOK gives KWOK's user what the stages need.
func grantKWOK(ctx context.Context, admin kubernetes.Interface) error {
	const name = "weft-playground-kwok"
	rule := func(group string, resources, verbs []string) *rbacapply.PolicyRuleApplyConfiguration {
		return rbacapply.PolicyRule().WithAPIGroups(group).WithResources(resources...).WithVerbs(verbs...)
	}
	role := rbacapply.ClusterRole(name).WithRules(
		rule("", []string{"nodes"}, []string{"get", "list", "watch", "patch", "update"}),
		rule("", []string{"pods"}, []string{"get", "list", "watch", "patch", "update", "delete"}),
		rule("", []string{"nodes/status", "pods/status"}, []string{"patch", "update"}),
		rule("", []string{"events"}, []string{"create", "patch", "update"}),
		rule("coordination.k8s.io", []string{"leases"}, []string{"get", "list", "watch", "create", "patch", "update"}),
	)
	o := metav1.ApplyOptions{FieldManager: fieldManager, Force: true}
	if _, err := admin.RbacV1().ClusterRoles().Apply(ctx, role, o); err != nil {
		return err
	}
	binding := rbacapply.ClusterRoleBinding(name).
		WithRoleRef(rbacapply.RoleRef().WithAPIGroup(rbacv1.GroupName).WithKind("ClusterRole").WithName(name)).
		WithSubjects(rbacapply.Subject().WithAPIGroup(rbacv1.GroupName).WithKind(rbacv1.UserKind).WithName(KWOKUser))
	_, err := admin.RbacV1().ClusterRoleBindings().Apply(ctx, binding, o)
	return err
}

// ready reports whether the node's kubelet, here KWOK, says that it is ready.
func ready(n *corev1.Node) bool {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}
