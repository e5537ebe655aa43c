package integration

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	corev1apply "k8s.io/client-go/applyconfigurations/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/inventory"
	"weft.sh/weft/pkg/playground"
)

func testNodeRights(t *testing.T, cp *playground.ControlPlane) {
	rights(t, cp, nodeNamespace, nodeAgent, []right{
		{"get", "", "pods", "", "team", "a"},
		{"list", "", "pods", "", "", ""},
		{"watch", "", "pods", "", "", ""},
		{"get", "", "nodes", "", "", "n"},
		{"watch", "", "nodes", "", "", ""},
		{"patch", "", "nodes", "", "", "n"},
		{"list", "resource.k8s.io", "resourceslices", "", "", ""},
		{"watch", "resource.k8s.io", "resourceslices", "", "", ""},
		{"create", "resource.k8s.io", "resourceslices", "", "", ""},
		{"update", "resource.k8s.io", "resourceslices", "", "", "s"},
		{"delete", "resource.k8s.io", "resourceslices", "", "", "s"},
		{"create", "", "events", "", "default", ""},
		{"patch", "", "events", "", "default", "e"},
	}, []right{
		{"update", "", "pods", "", "team", "a"},
		{"patch", "", "pods", "", "team", "a"},
		{"patch", "", "pods", "status", "team", "a"},
		{"delete", "", "pods", "", "team", "a"},
		{"create", "", "pods", "", "team", ""},
		{"create", "", "pods", "", nodeNamespace, ""},
		{"create", "", "pods", "binding", "team", "a"},
		{"create", "", "pods", "exec", "team", "a"},
		{"create", "", "nodes", "", "", ""},
		{"update", "", "nodes", "", "", "n"},
		{"delete", "", "nodes", "", "", "n"},
		{"patch", "", "nodes", "status", "", "n"},
		{"get", "", "nodes", "proxy", "", "n"},
		{"deletecollection", "resource.k8s.io", "resourceslices", "", "", ""},
		{"list", "resource.k8s.io", "resourceclaims", "", "", ""},
		{"update", "resource.k8s.io", "resourceclaims", "status", "team", "a"},
		{"create", "", "events", "", "team", ""},
		{"get", "", "secrets", "", nodeNamespace, "a"},
		{"list", "", "secrets", "", "", ""},
		{"list", "", "configmaps", "", "", ""},
		{"create", "", "serviceaccounts", "token", nodeNamespace, nodeAgent},
		{"impersonate", "", "users", "", "", "admin"},
		{"update", "admissionregistration.k8s.io", "validatingadmissionpolicies", "", "", slicesPolicy},
	})
}

// agentOn is a client with the token that the kubelet of the node mounts into the agent's pod.
func agentOn(t *testing.T, cp *playground.ControlPlane, node string) kubernetes.Interface {
	t.Helper()
	admin := clientset(t, cp.AdminConfig())
	pod, err := admin.CoreV1().Pods(nodeNamespace).Create(t.Context(), nodePod(nodeDaemonSets(t)[nodeAgent], node), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		BoundObjectRef: &authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: pod.Name, UID: pod.UID},
	}}
	request, err = admin.CoreV1().ServiceAccounts(nodeNamespace).CreateToken(t.Context(), nodeAgent, request, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	cfg := cp.AdminConfig()
	cfg.BearerToken = request.Status.Token
	cfg.WarningHandler = rest.NoWarnings{}
	return clientset(t, cfg)
}

// testNodeWrites tries every way for an agent to write what is not its own, with the token that it has in a cluster.
func testNodeWrites(t *testing.T, cp *playground.ControlPlane) {
	ctx := t.Context()
	admin := clientset(t, cp.AdminConfig())
	for _, name := range []string{"mine", "theirs"} {
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"team": "a", "nvidia.com/gpu.present": "true"}}}
		if _, err := admin.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	mine := agentOn(t, cp, "mine")
	// The account without the token of a pod, as somebody who may impersonate it would have it.
	anywhere := clientset(t, cp.ConfigFor("system:serviceaccount:"+nodeNamespace+":"+nodeAgent, "system:serviceaccounts", "system:authenticated"))
	// Policies are read from a watch.
	slice := func(name, driver, node, pool string) *resourcev1.ResourceSlice {
		s := inventory.Slices("mine", []gpu.Device{{ID: "GPU-1", Product: "H100", MemoryMiB: 80_000}}, 1)[0]
		s.Name, s.Spec.Driver, s.Spec.NodeName, s.Spec.Pool.Name = name, driver, &node, pool
		return s
	}
	enforced := func(policy string, try func() error) {
		eventually(t, time.Minute, func() string {
			if err := try(); denial(err, policy) == "" {
				return fmt.Sprintf("policy %s is not enforced: %v", policy, err)
			}
			return ""
		})
	}
	enforced(slicesPolicy, func() error {
		_, err := mine.ResourceV1().ResourceSlices().Create(ctx, slice("canary", "other.example.com", "mine", "mine"), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		return err
	})
	patch := func(client kubernetes.Interface, node, body string) error {
		_, err := client.CoreV1().Nodes().Patch(ctx, node, types.MergePatchType, []byte(body), metav1.PatchOptions{})
		return err
	}
	enforced(nodesPolicy, func() error { return patch(mine, "theirs", `{"metadata":{"labels":{"nvidia.com/gpu.count":"8"}}}`) })

	slices := mine.ResourceV1().ResourceSlices()
	create := func(client kubernetes.Interface, s *resourcev1.ResourceSlice) error {
		_, err := client.ResourceV1().ResourceSlices().Create(ctx, s, metav1.CreateOptions{})
		return err
	}
	update := func(name string, change func(*resourcev1.ResourceSlice)) error {
		s, err := slices.Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		change(s)
		_, err = slices.Update(ctx, s, metav1.UpdateOptions{})
		return err
	}
	apply := func(node string, labels map[string]string) error {
		_, err := mine.CoreV1().Nodes().Apply(ctx, corev1apply.Node(node).WithLabels(labels), metav1.ApplyOptions{FieldManager: "weft-node"})
		return err
	}
	for _, s := range []*resourcev1.ResourceSlice{
		slice("theirs", inventory.Driver, "theirs", "theirs"), slice("other-driver", "other.example.com", "mine", "mine"),
	} {
		if err := create(admin, s); err != nil {
			t.Fatal(err)
		}
	}
	const (
		found = `the node agent of node "mine" may write ResourceSlices of driver gpu.weft.sh with that nodeName and pool only; found `
		label = "the node agent may set labels under nvidia.com/ only, not "
		rest  = "the node agent may change labels of its node and nothing else"
		token = "the token of the node agent does not say on which node it runs: use the one that is mounted into its pod"
	)
	for _, c := range []struct {
		name   string
		write  func() error
		policy string
		// want is what the policy says; the write succeeds without. By RBAC alone it is just forbidden.
		want   string
		byRBAC bool
	}{
		{name: "a slice of its own", write: func() error { return create(mine, slice("mine", inventory.Driver, "mine", "mine")) }},
		{name: "and another", write: func() error { return create(mine, slice("mine-2", inventory.Driver, "mine", "mine")) }},
		{name: "its change", write: func() error {
			return update("mine", func(s *resourcev1.ResourceSlice) { s.Spec.Pool.Generation++ })
		}},
		{name: "its deletion", write: func() error { return slices.Delete(ctx, "mine-2", metav1.DeleteOptions{}) }},
		{
			name: "a slice of another node", policy: slicesPolicy, want: found + `driver gpu.weft.sh, nodeName "theirs", pool "theirs"`,
			write: func() error { return create(mine, slice("x", inventory.Driver, "theirs", "theirs")) },
		},
		{
			name: "another node's pool", policy: slicesPolicy, want: found + `driver gpu.weft.sh, nodeName "mine", pool "theirs"`,
			write: func() error { return create(mine, slice("x", inventory.Driver, "mine", "theirs")) },
		},
		{
			name: "another driver", policy: slicesPolicy, want: found + `driver gpu.nvidia.com, nodeName "mine", pool "mine"`,
			write: func() error { return create(mine, slice("x", "gpu.nvidia.com", "mine", "mine")) },
		},
		{
			name: "a slice of all nodes", policy: slicesPolicy, want: found + `driver gpu.weft.sh, nodeName "", pool "mine"`,
			write: func() error {
				s, yes := slice("x", inventory.Driver, "", "mine"), true
				s.Spec.NodeName, s.Spec.AllNodes = nil, &yes
				return create(mine, s)
			},
		},
		{
			name: "a change of another node's slice", policy: slicesPolicy,
			want: found + `driver gpu.weft.sh, nodeName "theirs", pool "theirs"; driver gpu.weft.sh, nodeName "theirs", pool "theirs"`,
			write: func() error {
				return update("theirs", func(s *resourcev1.ResourceSlice) { s.Spec.Devices = nil })
			},
		},
		{
			name: "a change of another driver's slice", policy: slicesPolicy,
			want: found + `driver other.example.com, nodeName "mine", pool "mine"; driver other.example.com, nodeName "mine", pool "mine"`,
			write: func() error {
				return update("other-driver", func(s *resourcev1.ResourceSlice) { s.Spec.Devices = nil })
			},
		},
		{
			name: "deletion of another node's slice", policy: slicesPolicy, want: found + `driver gpu.weft.sh, nodeName "theirs", pool "theirs"`,
			write: func() error { return slices.Delete(ctx, "theirs", metav1.DeleteOptions{}) },
		},
		{
			name: "deletion of all slices", byRBAC: true,
			write: func() error { return slices.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{}) },
		},
		{
			name: "a slice without the token of a pod", policy: slicesPolicy, want: token,
			write: func() error { return create(anywhere, slice("x", inventory.Driver, "mine", "mine")) },
		},

		{name: "labels of its own node", write: func() error {
			return apply("mine", map[string]string{"nvidia.com/gpu.count": "8", "nvidia.com/gpu.product": "H100"})
		}},
		{name: "other values of them", write: func() error { return apply("mine", map[string]string{"nvidia.com/gpu.count": "7"}) }},
		{name: "none of them", write: func() error { return apply("mine", nil) }},
		{name: "what changes nothing", write: func() error { return patch(mine, "mine", `{"metadata":{"labels":{"team":"a"}}}`) }},
		{
			name: "labels of another node", policy: nodesPolicy, want: `the node agent of node "mine" may change that node only, not theirs`,
			write: func() error { return apply("theirs", map[string]string{"nvidia.com/gpu.count": "8"}) },
		},
		{
			name: "a label of somebody else", policy: nodesPolicy, want: label + "node-role.kubernetes.io/control-plane",
			write: func() error { return apply("mine", map[string]string{"node-role.kubernetes.io/control-plane": ""}) },
		},
		{
			name: "somebody else's label changed", policy: nodesPolicy, want: label + "team",
			write: func() error { return patch(mine, "mine", `{"metadata":{"labels":{"team":"b"}}}`) },
		},
		{
			name: "somebody else's label removed", policy: nodesPolicy, want: label + "team",
			write: func() error { return patch(mine, "mine", `{"metadata":{"labels":{"team":null}}}`) },
		},
		{
			name: "the label that lets an agent run", policy: nodesPolicy, want: label + "weft.sh/node-agent",
			write: func() error { return patch(mine, "mine", `{"metadata":{"labels":{"weft.sh/node-agent":"all"}}}`) },
		},
		{
			name: "an annotation", policy: nodesPolicy, want: rest,
			write: func() error { return patch(mine, "mine", `{"metadata":{"annotations":{"a":"b"}}}`) },
		},
		{
			name: "a finalizer", policy: nodesPolicy, want: rest,
			write: func() error { return patch(mine, "mine", `{"metadata":{"finalizers":["example.com/x"]}}`) },
		},
		{
			name: "a taint", policy: nodesPolicy, want: rest,
			write: func() error { return patch(mine, "mine", `{"spec":{"taints":[{"key":"a","effect":"NoExecute"}]}}`) },
		},
		{
			name: "cordoned", policy: nodesPolicy, want: rest,
			write: func() error { return patch(mine, "mine", `{"spec":{"unschedulable":true}}`) },
		},
		{
			name: "labels without the token of a pod", policy: nodesPolicy, want: token,
			write: func() error { return patch(anywhere, "mine", `{"metadata":{"labels":{"nvidia.com/gpu.count":"8"}}}`) },
		},
		{
			name: "the status of its node", byRBAC: true,
			write: func() error {
				_, err := mine.CoreV1().Nodes().Patch(ctx, "mine", types.MergePatchType, []byte(`{"status":{"capacity":{"nvidia.com/gpu":"64"}}}`),
					metav1.PatchOptions{}, "status")
				return err
			},
		},
		{
			name: "a node that is not there", byRBAC: true,
			write: func() error { return apply("nobody", map[string]string{"nvidia.com/gpu.count": "8"}) },
		},
		{name: "an event about its node", write: func() error { return createEvent(ctx, mine, "default") }},
		{name: "an event elsewhere", byRBAC: true, write: func() error { return createEvent(ctx, mine, "kube-system") }},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := c.write()
			switch {
			case c.byRBAC:
				if !apierrors.IsForbidden(err) || strings.Contains(err.Error(), "ValidatingAdmissionPolicy") {
					t.Errorf("%v: want Forbidden by RBAC", err)
				}
			case c.want != "":
				if got := denial(err, c.policy); got != c.want || !apierrors.IsForbidden(err) {
					t.Errorf("denied with\n%s\nwant\n%s\nfull answer: %v", got, c.want, err)
				}
			case err != nil:
				t.Error(err)
			}
		})
	}
	node, err := admin.CoreV1().Nodes().Get(ctx, "mine", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]string{"team": "a", "nvidia.com/gpu.present": "true"}, node.Labels); diff != "" || len(node.Spec.Taints) > 0 {
		t.Errorf("labels in the end (-want +got):\n%s\ntaints %v", diff, node.Spec.Taints)
	}
	// The policies are for the agents and for nobody else.
	if err := patch(admin, "mine", `{"metadata":{"labels":{"team":"b"}}}`); err != nil {
		t.Error(err)
	}
}

func createEvent(ctx context.Context, client kubernetes.Interface, namespace string) error {
	_, err := client.CoreV1().Events(namespace).Create(ctx, &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{GenerateName: "gpu-", Namespace: namespace},
		InvolvedObject: corev1.ObjectReference{Kind: "Node", Name: "mine"},
		Reason:         "GPUUnhealthy", Type: corev1.EventTypeWarning, Source: corev1.EventSource{Component: "weft-node", Host: "mine"},
	}, metav1.CreateOptions{})
	return err
}
