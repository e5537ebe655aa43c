//go:build linux

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	resourceapi "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"golang.org/x/sys/unix"

	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/inventory"
	"weft.sh/weft/pkg/podspec"
)

// agent is the node agent, over the fake NVML of a file.
type agent struct {
	e *env
	*process
	args []string
}

const (
	fakeFile   = nodeDir + "/nvml.yaml"
	driverRoot = nodeDir + "/driver"
	agentState = nodeDir + "/agent"
	agentURL   = "http://127.0.0.1:9411"
)

// dgx is a DGX A100 with two GPUs in MIG mode, the last ones: ten instances of four profiles.
const dgx = `
preset: dgx-a100-40gb
set:
  "6": {mig: {enabled: true, instances: [1g.5gb@0, 1g.5gb@1, 1g.5gb@2, 1g.5gb@3, 3g.20gb@4]}}
  "7": {mig: {enabled: true, instances: [2g.10gb@0, 2g.10gb@2, 3g.20gb@4]}}
`

// startAgent starts the node agent on the GPUs that the text describes, with the rights that the manifests give it, and returns
// when the scheduler can use them.
func (e *env) startAgent(fake string) *agent {
	e.t.Helper()
	e.must(prepareDriver())
	e.describe(fake)
	kubeconfig := nodeDir + "/agent.kubeconfig"
	e.must(writeKubeconfig(e.cp, kubeconfig, rest.ImpersonationConfig{
		UserName: "system:serviceaccount:weft-node:weft-node",
		Groups:   []string{"system:serviceaccounts", "system:serviceaccounts:weft-node", "system:authenticated"},
		// As in the token of a pod.
		Extra: map[string][]string{"authentication.kubernetes.io/node-name": {nodeName}},
	}))
	a := &agent{e: e, args: []string{
		"--fake=" + fakeFile, "--node-name=" + nodeName, "--kubeconfig=" + kubeconfig, "--state-dir=" + agentState,
		"--driver-root=" + driverRoot, "--nvidia-cdi-hook-path=/bin/true", "--health-quarantine=2s", "-v=4",
	}}
	a.start()
	e.t.Cleanup(func() {
		a.stop()
		// The next test has other GPUs, on a node that forgets these.
		e.must(os.RemoveAll(agentState))
	})
	return a
}

// start starts the agent, or another one after its end, and waits until it is ready.
func (a *agent) start() {
	a.e.t.Helper()
	a.launch()
	a.e.eventually(func() string {
		if err := a.failed(); err != "" {
			return err
		}
		body, err := get("/readyz")
		if err != nil {
			return fmt.Sprintf("the agent is not ready: %v: %s", err, body)
		}
		return ""
	})
}

// launch starts the agent without waiting.
func (a *agent) launch() {
	a.e.t.Helper()
	var err error
	a.process, err = startProcess("agent", bin("agent"), a.args...)
	a.e.must(err)
}

// describe changes what the fake NVML says.
func (e *env) describe(fake string) {
	e.t.Helper()
	e.must(os.WriteFile(fakeFile+".tmp", []byte(fake), 0o644))
	e.must(os.Rename(fakeFile+".tmp", fakeFile))
}

func get(path string) (string, error) {
	resp, err := http.Get(agentURL + path)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = errors.New(resp.Status)
	}
	return string(body), err
}

// prepareDriver makes what NVIDIA's driver has on a node, as far as the agent looks at it: empty libraries, and device nodes that
// no driver stands behind.
func prepareDriver() error {
	if _, err := os.Stat(driverRoot); err == nil {
		return nil
	}
	lib := driverRoot + "/usr/lib/x86_64-linux-gnu/"
	caps, minors := driverRoot+"/dev/nvidia-caps/", driverRoot+"/proc/nvidia-caps/"
	for _, dir := range []string{lib, caps, minors} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	for _, name := range []string{"libcuda.so.580.95.05", "libnvidia-ml.so.580.95.05"} {
		if err := os.WriteFile(lib+name, nil, 0o755); err != nil {
			return err
		}
	}
	nodes := []string{"/dev/nvidiactl", "/dev/nvidia-uvm"}
	for i := range 8 {
		nodes = append(nodes, fmt.Sprintf("/dev/nvidia%d", i))
	}
	var table strings.Builder
	capability := 1
	for g := range 8 {
		for i := range 15 {
			for _, file := range []string{"access", "ci0/access"} {
				fmt.Fprintf(&table, "gpu%d/gi%d/%s %d\n", g, i, file, capability)
				nodes = append(nodes, fmt.Sprintf("/dev/nvidia-caps/nvidia-cap%d", capability))
				capability++
			}
		}
	}
	for i, node := range nodes {
		if err := unix.Mknod(driverRoot+node, unix.S_IFCHR|0o666, int(unix.Mkdev(195, uint32(i)))); err != nil {
			return err
		}
	}
	if err := os.WriteFile(minors+"mig-minors", []byte(table.String()), 0o444); err != nil {
		return err
	}
	// Where the driver's library looks for it, whatever the driver root is.
	return unix.Mount(driverRoot+"/proc", "/proc/driver", "", unix.MS_BIND, "")
}

// inventory is what the scheduler reads of the node, once there is any.
func (e *env) inventory() (devices []gpu.Device) {
	e.t.Helper()
	e.eventually(func() string {
		list, err := e.client.ResourceV1().ResourceSlices().List(e.t.Context(), metav1.ListOptions{
			FieldSelector: resourceapi.ResourceSliceSelectorNodeName + "=" + nodeName,
		})
		e.must(err)
		published := make([]*resourceapi.ResourceSlice, len(list.Items))
		for i := range list.Items {
			published[i] = &list.Items[i]
		}
		if devices = inventory.FromSlices(published).Devices; len(devices) == 0 {
			return "the node publishes no GPU"
		}
		return ""
	})
	return devices
}

// allocatable waits until the node offers these amounts.
func (e *env) allocatable(want map[string]int64) {
	e.t.Helper()
	e.eventually(func() string {
		n, err := e.client.CoreV1().Nodes().Get(e.t.Context(), nodeName, metav1.GetOptions{})
		e.must(err)
		for name, amount := range want {
			if got := n.Status.Allocatable[corev1.ResourceName(name)]; got.Value() != amount {
				return fmt.Sprintf("the node has %s of %s allocatable, want %d", got.String(), name, amount)
			}
		}
		return ""
	})
}

// wholeDGX is what the node offers when dgx is well.
var wholeDGX = map[string]int64{
	podspec.ResourceGPU: 6, podspec.ResourceGPUPercent: 600,
	podspec.MIGResource("1g.5gb"): 4, podspec.MIGResource("2g.10gb"): 2, podspec.MIGResource("3g.20gb"): 2,
}

// with is the container with a limit.
func with(c corev1.Container, name string, amount int64) corev1.Container {
	if c.Resources.Limits == nil {
		c.Resources.Limits = corev1.ResourceList{}
	}
	c.Resources.Limits[corev1.ResourceName(name)] = *resource.NewQuantity(amount, resource.DecimalSI)
	return c
}

var gpuNode = regexp.MustCompile(`^/dev/nvidia([0-9]+)$`)

// gets fails the test unless the container has exactly the GPUs that its pod's annotation names for it, in its environment and
// as device nodes.
func (e *env) gets(pod *corev1.Pod, container string, devices []gpu.Device) {
	e.t.Helper()
	a, err := gpu.ParseAssignment(pod.Annotations[podspec.AnnotationGPUs])
	e.must(err)
	var want gpu.ContainerGrants
	for _, c := range a.Containers {
		if c.Container == container {
			want = c
		}
	}
	var texts, nodes []string
	for _, g := range want.Grants {
		texts = append(texts, g.String())
		i := slices.IndexFunc(devices, func(d gpu.Device) bool { return d.ID == g.GPU })
		if i < 0 {
			e.t.Fatalf("pod %s is assigned %s, which the node does not publish", pod.Name, g.GPU)
		}
		nodes = append(nodes, fmt.Sprintf("/dev/nvidia%d", devices[i].Index))
	}
	slices.Sort(nodes)
	nodes = slices.Compact(nodes)
	r := e.report(pod.Name, container, false)
	if got := r.Env["WEFT_GPUS"]; len(want.Grants) == 0 || got != strings.Join(texts, ",") {
		e.t.Errorf("container %s of pod %s has WEFT_GPUS %q, want %q", container, pod.Name, got, texts)
	}
	if got := r.Env["NVIDIA_VISIBLE_DEVICES"]; got != "void" {
		e.t.Errorf("container %s of pod %s has NVIDIA_VISIBLE_DEVICES %q", container, pod.Name, got)
	}
	var got, caps, wantInstances []string
	for _, d := range r.Devices {
		if gpuNode.MatchString(d) {
			got = append(got, d)
		}
		if strings.HasPrefix(d, "/dev/nvidia-caps/") {
			caps = append(caps, d)
		}
	}
	slices.Sort(got)
	if !slices.Equal(got, nodes) {
		e.t.Errorf("container %s of pod %s has the devices %q, want %q", container, pod.Name, got, nodes)
	}
	for _, g := range want.Grants {
		if g.Instance != nil {
			i := slices.IndexFunc(devices, func(d gpu.Device) bool { return d.ID == g.GPU })
			wantInstances = append(wantInstances, fmt.Sprintf("gpu%d/%s", devices[i].Index, g.Instance))
		}
	}
	e.sameInstances(pod.Name, caps, wantInstances)
}

// sameInstances fails the test unless the capabilities are those of as many MIG instances, of the same GPUs, and were those of the same
// instances whenever a container had them. Which number a driver gives an instance only the driver knows.
func (e *env) sameInstances(pod string, caps, instances []string) {
	e.t.Helper()
	table, err := os.ReadFile("/proc/driver/nvidia-caps/mig-minors")
	e.must(err)
	var held []string // GPU and GPU instance, as the table names them
	for line := range strings.Lines(string(table)) {
		name, number, _ := strings.Cut(strings.TrimSpace(line), " ")
		if slices.Contains(caps, "/dev/nvidia-caps/nvidia-cap"+number) {
			g, _, _ := strings.Cut(name, "/ci")
			held = append(held, strings.TrimSuffix(g, "/access"))
		}
	}
	slices.Sort(held)
	unique := slices.Compact(slices.Clone(held))
	if len(held) != 2*len(instances) || len(unique) != len(instances) {
		e.t.Errorf("pod %s has the MIG capabilities %q, which are of %q, want those of %q", pod, caps, held, instances)
		return
	}
	if len(unique) != 1 {
		return // which is which cannot be told from one container
	}
	key, _, _ := strings.Cut(unique[0], "/")
	if was, ok := e.instances[unique[0]]; !strings.HasPrefix(instances[0], key+"/") || ok && was != instances[0] {
		e.t.Errorf("pod %s has %s for %s; before it was %q", pod, unique[0], instances[0], was)
	}
	for other, instance := range e.instances {
		if instance == instances[0] && other != unique[0] {
			e.t.Errorf("pod %s has %s for %s; before it was %s", pod, unique[0], instances[0], other)
		}
	}
	if e.instances == nil {
		e.instances = map[string]string{}
	}
	e.instances[unique[0]] = instances[0]
}

// records is the number of containers in the agent's checkpoint and of CDI specifications that it has written.
func (e *env) records() (inBook, specs int) {
	e.t.Helper()
	data, err := os.ReadFile(filepath.Join(agentState, "book.json"))
	e.must(err)
	var book struct {
		Records []json.RawMessage `json:"records"`
	}
	e.must(json.Unmarshal(data, &book))
	files, err := filepath.Glob(cdiDir + "/weft.sh-slot-*")
	e.must(err)
	return len(book.Records), len(files)
}

// refused waits until an event of the pod says the text.
func (e *env) refused(name, text string) {
	e.t.Helper()
	e.eventually(func() string {
		for _, event := range e.events(name) {
			if strings.Contains(event, text) {
				return ""
			}
		}
		return fmt.Sprintf("no event of pod %s says %q: %q", name, text, e.events(name))
	}, name)
	for _, s := range e.pod(name).Status.ContainerStatuses {
		if s.State.Running != nil || s.ContainerID != "" {
			e.t.Errorf("container %s of the refused pod %s has started: %+v", s.Name, name, s)
		}
	}
}
