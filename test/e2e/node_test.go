//go:build linux

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"text/template"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	devices "k8s.io/kubernetes/pkg/kubelet/cm/devicemanager/checkpoint"

	"weft.sh/weft/pkg/playground"
)

// Where things are, all in privateDirs.
const (
	runDir           = "/run/weft-e2e"
	nodeDir          = runDir + "/node"
	containerdSocket = "/run/containerd/containerd.sock"
	// These three are where every node has them. cdiDir is there once somebody makes it, as on a node.
	devicePluginDir    = "/var/lib/kubelet/device-plugins"
	podResourcesSocket = "/var/lib/kubelet/pod-resources/kubelet.sock"
	cdiDir             = "/var/run/cdi"
)

const nodeName = "node-1"

// node is containerd and the kubelet.
type node struct {
	containerd, kubelet *process
}

// prepareNode writes every file that the node's components read.
func prepareNode(cp *playground.ControlPlane) error {
	for _, dir := range []string{nodeDir, nodeDir + "/cni"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	for file, text := range map[string]string{
		"containerd.toml":     containerdConfig,
		"kubelet.yaml":        kubeletConfig,
		"cni/10-e2e.conflist": cniConfig,
	} {
		if err := writeTemplate(filepath.Join(nodeDir, file), text); err != nil {
			return err
		}
	}
	kubelet := rest.ImpersonationConfig{UserName: "system:node:" + nodeName, Groups: []string{"system:nodes"}}
	if err := writeKubeconfig(cp, filepath.Join(nodeDir, "kubelet.kubeconfig"), kubelet); err != nil {
		return err
	}
	return writeImages(filepath.Join(nodeDir, "images.tar"), bin("workload"))
}

// writeKubeconfig writes a kubeconfig with which the admin acts as somebody else: with that user's rights and no others.
func writeKubeconfig(cp *playground.ControlPlane, file string, as rest.ImpersonationConfig) error {
	cfg := cp.AdminConfig()
	out := clientcmdapi.NewConfig()
	out.Clusters["e2e"] = &clientcmdapi.Cluster{Server: cfg.Host, CertificateAuthorityData: cfg.CAData}
	out.AuthInfos["e2e"] = &clientcmdapi.AuthInfo{
		Token:       cfg.BearerToken,
		Impersonate: as.UserName, ImpersonateUID: as.UID, ImpersonateGroups: as.Groups, ImpersonateUserExtra: as.Extra,
	}
	out.Contexts["e2e"] = &clientcmdapi.Context{Cluster: "e2e", AuthInfo: "e2e"}
	out.CurrentContext = "e2e"
	return clientcmd.WriteToFile(*out, file)
}

// startContainerd starts containerd, or another one after its end, and returns when it answers.
func (n *node) startContainerd(ctx context.Context) (err error) {
	if n.containerd, err = startProcess("containerd", bin("containerd"), "--config", nodeDir+"/containerd.toml"); err != nil {
		return err
	}
	return n.poll(ctx, func() string {
		if out, err := ctr(ctx, "version"); err != nil {
			return fmt.Sprintf("containerd does not answer: %v: %s", err, out)
		}
		return ""
	})
}

// importImages gives containerd the images. It keeps them.
func (n *node) importImages(ctx context.Context) error {
	if out, err := ctr(ctx, "images", "import", nodeDir+"/images.tar"); err != nil {
		return fmt.Errorf("import the images: %w: %s", err, out)
	}
	return nil
}

func ctr(ctx context.Context, args ...string) ([]byte, error) {
	args = append([]string{"--address", containerdSocket, "--namespace", "k8s.io"}, args...)
	return exec.CommandContext(ctx, bin("ctr"), args...).CombinedOutput()
}

// startKubelet starts the kubelet, or another one after its end, and returns when it calls itself healthy.
func (n *node) startKubelet(ctx context.Context) (err error) {
	n.kubelet, err = startProcess("kubelet", bin("kubelet"),
		"--config="+nodeDir+"/kubelet.yaml", "--kubeconfig="+nodeDir+"/kubelet.kubeconfig",
		"--hostname-override="+nodeName, "--node-ip="+nodeIP, "--v=3")
	if err != nil {
		return err
	}
	return n.poll(ctx, func() string {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://127.0.0.1:10248/healthz", nil)
		if err != nil {
			return err.Error()
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return err.Error()
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return "the kubelet is not healthy: " + resp.Status
		}
		return ""
	})
}

// poll waits until the condition holds; it returns "" for that, else what is still missing. It gives up when ctx ends or a
// component of the node has ended by itself.
func (n *node) poll(ctx context.Context, condition func() (missing string)) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		missing := condition()
		if missing == "" {
			return nil
		}
		for _, p := range []*process{n.containerd, n.kubelet} {
			if p == nil {
				continue
			}
			if f := p.failed(); f != "" {
				return fmt.Errorf("%s; until then: %s", f, missing)
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("gave up: %s", missing)
		case <-tick.C:
		}
	}
}

// checkpoint is what the kubelet has noted of the devices that it handed out.
func checkpoint() ([]devices.PodDevicesEntry, error) {
	data, err := os.ReadFile(filepath.Join(devicePluginDir, "kubelet_internal_checkpoint"))
	if err != nil {
		return nil, err
	}
	c := devices.New(nil, nil)
	if err := errors.Join(c.UnmarshalCheckpoint(data), c.VerifyChecksum()); err != nil {
		return nil, fmt.Errorf("checkpoint of the kubelet: %w: %s", err, data)
	}
	entries, _ := c.GetData()
	return entries, nil
}

func writeTemplate(file, text string) error {
	t, err := template.New(filepath.Base(file)).Parse(text)
	if err != nil {
		return err
	}
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer f.Close()
	return t.Execute(f, map[string]string{
		"Dir": nodeDir, "Socket": containerdSocket, "Sandbox": sandboxImage, "CNI": nodeDir + "/cni", "CDI": cdiDir,
		"NodeIP": nodeIP, "Cgroup": os.Getenv(envCgroup),
	})
}

const containerdConfig = `version = 4
root = "{{.Dir}}/containerd"

[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "{{.Sandbox}}"

[plugins."io.containerd.cri.v1.runtime"]
cdi_spec_dirs = ["/etc/cdi", "{{.CDI}}"]
disable_apparmor = true
# The tests may themselves run where the kernel lets nobody lower a score.
restrict_oom_score_adj = true

[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["/usr/lib/cni", "/opt/cni/bin"]
conf_dir = "{{.CNI}}"
`

// Pods reach each other and nothing else: the bridge is in a network namespace without an interface to the outside.
const cniConfig = `{
  "cniVersion": "1.0.0",
  "name": "e2e",
  "plugins": [{
    "type": "bridge",
    "bridge": "pods",
    "ipam": {"type": "host-local", "ranges": [[{"subnet": "198.18.0.0/15"}]]}
  }]
}
`

const kubeletConfig = `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: {{.NodeIP}}
# Its clients are in the same network namespace and nobody else is.
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
containerRuntimeEndpoint: unix://{{.Socket}}
cgroupDriver: cgroupfs
cgroupRoot: {{.Cgroup}}
failCgroupV1: false
failSwapOn: false
enforceNodeAllocatable: []
localStorageCapacityIsolation: false
makeIPTablesUtilChains: false
resolvConf: ""
# The disk of the machine is not the tests' business.
evictionHard: {memory.available: "0%", nodefs.available: "0%", nodefs.inodesFree: "0%", imagefs.available: "0%", imagefs.inodesFree: "0%"}
imageGCHighThresholdPercent: 100
# What a device plugin offers shows in the node's status after this long.
nodeStatusUpdateFrequency: 1s
`
