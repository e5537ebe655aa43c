package integration

import (
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"weft.sh/weft/manifests"
	"weft.sh/weft/pkg/inventory"
	"weft.sh/weft/pkg/playground"
)

const (
	nodeNamespace = "weft-node"
	nodeAgent     = "weft-node"
	slicesPolicy  = "node-agent-slices.weft.sh"
	nodesPolicy   = "node-agent-nodes.weft.sh"
)

// nodeDaemonSets are those below manifests/node that are applied by themselves, and the ways to name its components, with the
// DaemonSet that each makes.
func nodeDaemonSets(t *testing.T) map[string]*appsv1.DaemonSet {
	t.Helper()
	out := map[string]*appsv1.DaemonSet{}
	for name, site := range map[string]string{
		"weft-node":                           "resources: [../node]",
		"weft-node with driver-container":     "resources: [../node]\ncomponents: [../node/driver-container]",
		"weft-node with access-management":    "resources: [../node]\ncomponents: [../node/access-management]",
		"weft-node with access-nri":           "resources: [../node]\ncomponents: [../node/access-nri]",
		"weft-node-fractions":                 "resources: [../node/fractions]",
		"weft-node-fractions with access-nri": "resources: [../node/fractions]\ncomponents: [../node/access-nri]",
		// The patch as in the comment of node/fractions.
		"weft-node-fractions of two GPUs": `resources: [../node/fractions]
patches:
  - patch: |
      apiVersion: apps/v1
      kind: DaemonSet
      metadata: {name: weft-node-fractions, namespace: weft-node}
      spec: {template: {spec: {containers: [{name: agent, env: [{name: SHARED_GPUS, value: "3,5"}]}]}}}`,
		"weft-mps": "resources: [../node/mps]",
	} {
		all := fstest.MapFS{"site/kustomization.yaml": {Data: []byte("apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n" + site)}}
		err := fs.WalkDir(manifests.FS, ".", func(file string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			data, err := fs.ReadFile(manifests.FS, file)
			all[file] = &fstest.MapFile{Data: data}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		objects, err := playground.Render(all, "site")
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		out[name] = find[appsv1.DaemonSet](t, objects, "DaemonSet", strings.Fields(name)[0])
	}
	return out
}

// TestNodeManifests checks what the DaemonSets of a node promise, and what has to be the same in several places.
func TestNodeManifests(t *testing.T) {
	for name, d := range nodeDaemonSets(t) {
		t.Run(name, func(t *testing.T) {
			spec := d.Spec.Template.Spec
			if d.Namespace != nodeNamespace {
				t.Errorf("namespace %q", d.Namespace)
			}
			for k, v := range d.Spec.Selector.MatchLabels {
				if d.Spec.Template.Labels[k] != v {
					t.Errorf("the selector has %s=%s, the pods %q", k, v, d.Spec.Template.Labels[k])
				}
			}
			if spec.HostNetwork || spec.HostIPC || !spec.HostPID {
				t.Errorf("host namespaces: network %v, IPC %v, PID %v: want PID alone", spec.HostNetwork, spec.HostIPC, spec.HostPID)
			}
			if len(spec.InitContainers) > 0 || len(spec.Containers) != 1 {
				t.Fatalf("%d containers and %d init containers: want one", len(spec.Containers), len(spec.InitContainers))
			}
			c := spec.Containers[0]
			root, no, yes := int64(0), false, true
			want := &corev1.SecurityContext{
				RunAsUser: &root, RunAsGroup: &root, Privileged: &no, AllowPrivilegeEscalation: &no, ReadOnlyRootFilesystem: &yes,
				Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
			}
			if diff := cmp.Diff(want, c.SecurityContext); diff != "" {
				t.Errorf("security context (-want +got):\n%s", diff)
			}
			if !strings.HasPrefix(c.Image, "weft.sh/weft-node:") {
				t.Errorf("image %s", c.Image)
			}
			access := []string{
				fmt.Sprint(spec.RuntimeClassName != nil && *spec.RuntimeClassName == "nvidia"),
				d.Spec.Template.Annotations["nvidia.cdi.k8s.io/container."+c.Name],
			}
			for _, e := range c.Env {
				if strings.HasPrefix(e.Name, "NVIDIA_") {
					access = append(access, e.Name+"="+e.Value)
				}
			}
			byRuntime := []string{"true", "", "NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_DRIVER_CAPABILITIES=utility"}
			wantAccess := byRuntime
			switch {
			case strings.HasSuffix(name, "access-nri"):
				wantAccess = []string{"false", "management.nvidia.com/gpu=all"}
			case strings.HasSuffix(name, "access-management"):
				wantAccess = []string{"true", "", "NVIDIA_VISIBLE_DEVICES=management.nvidia.com/gpu=all", "NVIDIA_DRIVER_CAPABILITIES=utility"}
			case name == "weft-mps":
				wantAccess = []string{"true", "", "NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_DRIVER_CAPABILITIES=compute,utility"}
			}
			if diff := cmp.Diff(wantAccess, access); diff != "" {
				t.Errorf("the way to the GPUs (-want +got):\n%s", diff)
			}
		})
	}
}

// TestNodeMounts: everything of the host that a pod sees is in this table, and in docs/node.md.
func TestNodeMounts(t *testing.T) {
	all := nodeDaemonSets(t)
	mounts := func(d *appsv1.DaemonSet) map[string]string {
		out := map[string]string{}
		spec := d.Spec.Template.Spec
		for _, v := range spec.Volumes {
			if v.HostPath == nil {
				t.Errorf("%s: volume %s is no folder of the host", d.Name, v.Name)
				continue
			}
			for _, m := range spec.Containers[0].VolumeMounts {
				if m.Name == v.Name {
					out[m.MountPath] = v.HostPath.Path
					if m.ReadOnly {
						out[m.MountPath] += " read-only"
					}
				}
			}
		}
		if len(out) != len(spec.Volumes) || len(out) != len(spec.Containers[0].VolumeMounts) {
			t.Errorf("%s: %d volumes, %d mounts, %d of them belong together", d.Name, len(spec.Volumes), len(spec.Containers[0].VolumeMounts), len(out))
		}
		return out
	}
	agent := map[string]string{
		"/var/lib/kubelet/device-plugins": "/var/lib/kubelet/device-plugins",
		"/var/lib/kubelet/pod-resources":  "/var/lib/kubelet/pod-resources read-only",
		"/var/run/cdi":                    "/var/run/cdi",
		"/run/weft/node":                  "/run/weft/node",
		"/host/usr":                       "/usr read-only",
		"/host/dev":                       "/dev read-only",
		"/run/weft/mps":                   "/run/weft/mps read-only",
	}
	for name, want := range map[string]map[string]string{
		"weft-node":           agent,
		"weft-node-fractions": agent,
		"weft-node with driver-container": {
			"/var/lib/kubelet/device-plugins": "/var/lib/kubelet/device-plugins",
			"/var/lib/kubelet/pod-resources":  "/var/lib/kubelet/pod-resources read-only",
			"/var/run/cdi":                    "/var/run/cdi",
			"/run/weft/node":                  "/run/weft/node",
			"/run/nvidia/driver":              "/run/nvidia/driver read-only",
			"/host/dev":                       "/dev read-only",
			"/run/weft/mps":                   "/run/weft/mps read-only",
		},
		"weft-mps": {"/run/weft/mps": "/run/weft/mps", "/dev/shm": "/run/weft/mps/shm"},
	} {
		if diff := cmp.Diff(want, mounts(all[name])); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// TestNodesOfTheDaemonSets: a node without a label of ours has no agent, and none has two.
func TestNodesOfTheDaemonSets(t *testing.T) {
	all := nodeDaemonSets(t)
	selectors := map[string]string{}
	for _, name := range []string{"weft-node", "weft-node-fractions", "weft-mps"} {
		d := all[name]
		selector := d.Spec.Selector.MatchLabels
		for other, o := range all {
			if o.Name != d.Name && mapsContain(o.Spec.Template.Labels, selector) {
				t.Errorf("%s selects the pods of %s", name, other)
			}
		}
		terms := d.Spec.Template.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
		if len(terms) != 1 {
			t.Fatalf("%s: %d terms", name, len(terms))
		}
		for _, e := range terms[0].MatchExpressions {
			if e.Operator != corev1.NodeSelectorOpIn {
				t.Errorf("%s: operator %s", name, e.Operator)
			}
			selectors[name] += fmt.Sprintf("%s in %v;", e.Key, e.Values)
		}
	}
	want := map[string]string{
		"weft-node":           "weft.sh/node-agent in [all];",
		"weft-node-fractions": "weft.sh/node-agent in [fractions];",
		"weft-mps":            "weft.sh/node-agent in [all fractions];weft.sh/mps in [true];",
	}
	if diff := cmp.Diff(want, selectors); diff != "" {
		t.Errorf("nodes (-want +got):\n%s", diff)
	}
	for name, want := range map[string]string{"weft-node-fractions": "7", "weft-node-fractions of two GPUs": "3,5"} {
		if diff := cmp.Diff([]string{"--node-name=$(NODE_NAME)", "--mode=fractions", "--shared-gpus=" + want}, arguments(all[name])[:3]); diff != "" {
			t.Errorf("%s: arguments (-want +got):\n%s", name, diff)
		}
	}
}

// arguments are those of the DaemonSet's container, with its environment put in as the kubelet does; what only a node knows stays.
func arguments(d *appsv1.DaemonSet) []string {
	c := d.Spec.Template.Spec.Containers[0]
	out := slices.Clone(c.Args)
	for i := range out {
		for _, e := range c.Env {
			if e.ValueFrom == nil {
				out[i] = strings.ReplaceAll(out[i], "$("+e.Name+")", e.Value)
			}
		}
	}
	return out
}

// TestNodeDriver: what the agent sees of the driver is mounted where it is told, from where the container runtime is told.
func TestNodeDriver(t *testing.T) {
	for name, want := range map[string][]string{
		"weft-node":                       {"--driver-root=/host", "--host-driver-root=/", "--nvidia-cdi-hook-path=/usr/bin/nvidia-cdi-hook"},
		"weft-node-fractions":             {"--driver-root=/host", "--host-driver-root=/", "--nvidia-cdi-hook-path=/usr/bin/nvidia-cdi-hook"},
		"weft-node with driver-container": {"--driver-root=/run/nvidia/driver", "--host-driver-root=/run/nvidia/driver", "--nvidia-cdi-hook-path=/usr/local/nvidia/toolkit/nvidia-cdi-hook"},
	} {
		args := arguments(nodeDaemonSets(t)[name])
		for _, arg := range append(want, "--dev-root=/host", "--host-dev-root=/") {
			if !slices.Contains(args, arg) {
				t.Errorf("%s: no %s in %q", name, arg, args)
			}
		}
	}
}

func mapsContain(m, part map[string]string) bool {
	for k, v := range part {
		if m[k] != v {
			return false
		}
	}
	return true
}

// TestNodeMonitoring: the Service and the PodMonitor find the agents, and the port that they name is there.
func TestNodeMonitoring(t *testing.T) {
	service := find[corev1.Service](t, manifestObjects(t), "Service", nodeAgent)
	data, err := fs.ReadFile(manifests.FS, "node/monitoring/podmonitor.yaml")
	if err != nil {
		t.Fatal(err)
	}
	monitor := parseYAML(t, data)[0]
	selector, _, err := unstructured.NestedStringMap(monitor.Object, "spec", "selector", "matchLabels")
	if err != nil {
		t.Fatal(err)
	}
	endpoints, _, err := unstructured.NestedSlice(monitor.Object, "spec", "podMetricsEndpoints")
	if err != nil || len(endpoints) != 1 {
		t.Fatalf("endpoints %v, %v", endpoints, err)
	}
	endpoint := endpoints[0].(map[string]any)
	if endpoint["honorLabels"] != true {
		t.Error("honorLabels: the pod of a series would become the agent's")
	}
	for name, d := range nodeDaemonSets(t) {
		pod := d.Spec.Template
		if strings.HasPrefix(name, "weft-mps") {
			if mapsContain(pod.Labels, selector) || mapsContain(pod.Labels, service.Spec.Selector) {
				t.Errorf("%s has no metrics and is scraped", name)
			}
			continue
		}
		if !mapsContain(pod.Labels, selector) || !mapsContain(pod.Labels, service.Spec.Selector) || service.Namespace != d.Namespace || monitor.GetNamespace() != d.Namespace {
			t.Errorf("%s is not found: its pods have %v", name, pod.Labels)
		}
		ports := pod.Spec.Containers[0].Ports
		if len(ports) != 1 || ports[0].Name != service.Spec.Ports[0].TargetPort.StrVal || ports[0].Name != endpoint["port"] {
			t.Errorf("%s: ports %v, the Service has %v, the PodMonitor %v", name, ports, service.Spec.Ports, endpoint["port"])
		}
		if want := fmt.Sprintf("--listen=:%d", ports[0].ContainerPort); !slices.Contains(pod.Spec.Containers[0].Args, want) {
			t.Errorf("%s: arguments %q have no %s", name, pod.Spec.Containers[0].Args, want)
		}
	}
}

// TestNodePolicyNames: the policies speak of the account that the DaemonSet has and of the driver that the agent publishes as.
func TestNodePolicyNames(t *testing.T) {
	objects := manifestObjects(t)
	d := find[appsv1.DaemonSet](t, objects, "DaemonSet", nodeAgent)
	account := "'system:serviceaccount:" + d.Namespace + ":" + d.Spec.Template.Spec.ServiceAccountName + "'"
	for _, name := range []string{slicesPolicy, nodesPolicy} {
		p := find[admissionv1.ValidatingAdmissionPolicy](t, objects, "ValidatingAdmissionPolicy", name)
		if got := p.Spec.MatchConditions[0].Expression; got != "request.userInfo.username == "+account {
			t.Errorf("%s is for %s, the DaemonSet has %s", name, got, account)
		}
	}
	p := find[admissionv1.ValidatingAdmissionPolicy](t, objects, "ValidatingAdmissionPolicy", slicesPolicy)
	if !strings.Contains(p.Spec.Validations[1].Expression, "'"+inventory.Driver+"'") {
		t.Errorf("the policy does not speak of driver %s: %s", inventory.Driver, p.Spec.Validations[1].Expression)
	}
}

// nodePod is a pod as the DaemonSet controller would make it for the node.
func nodePod(d *appsv1.DaemonSet, node string) *corev1.Pod {
	pod := &corev1.Pod{ObjectMeta: *d.Spec.Template.ObjectMeta.DeepCopy(), Spec: *d.Spec.Template.Spec.DeepCopy()}
	pod.GenerateName, pod.Spec.NodeName = d.Name+"-", node
	return pod
}

// testNodePods makes the pods that the DaemonSets would: the security level of their namespace has to let them in, and their priority
// class has to exist. That there is a RuntimeClass is NVIDIA's to see to.
func testNodePods(t *testing.T, cp *playground.ControlPlane) {
	client := clientset(t, cp.AdminConfig())
	dryRun := metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}
	all := nodeDaemonSets(t)
	_, err := client.CoreV1().Pods(nodeNamespace).Create(t.Context(), nodePod(all[nodeAgent], "n"), dryRun)
	if err == nil || !strings.Contains(err.Error(), `RuntimeClass "nvidia" not found`) {
		t.Errorf("without the RuntimeClass: %v, want that it is missing", err)
	}
	class := &nodev1.RuntimeClass{ObjectMeta: metav1.ObjectMeta{Name: "nvidia"}, Handler: "nvidia"}
	if _, err := client.NodeV1().RuntimeClasses().Create(t.Context(), class, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		eventually(t, time.Minute, func() string { // until the API server has seen the class
			if _, err := client.CoreV1().Pods(nodeNamespace).Create(t.Context(), nodePod(all[name], "n"), dryRun); err != nil {
				return fmt.Sprintf("%s: %v", name, err)
			}
			return ""
		})
	}
	a := newApplier(t, cp.AdminConfig())
	for _, folder := range []string{"node/fractions", "node/mps"} {
		objects, err := playground.Render(manifests.FS, folder)
		if err != nil {
			t.Fatal(err)
		}
		for _, u := range objects {
			if err := a.apply(t.Context(), u); err != nil {
				t.Errorf("%s: %v", folder, err)
			}
		}
		for _, w := range a.warnings.take() {
			t.Errorf("%s: the API server warns: %s", folder, w)
		}
	}
}
