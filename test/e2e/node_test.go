//go:build linux

package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"text/template"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"weft.sh/weft/pkg/playground"
)

// Where things are, all in privateDirs.
const (
	runDir           = "/run/weft-e2e"
	nodeDir          = runDir + "/node"
	containerdSocket = "/run/containerd/containerd.sock"
	// devicePluginDir, podResourcesSocket and cdiDir are where every node has them.
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
	for _, dir := range []string{nodeDir, nodeDir + "/cni", cdiDir} {
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
	if err := writeKubeconfig(cp, filepath.Join(nodeDir, "kubelet.kubeconfig"), "system:node:"+nodeName, "system:nodes"); err != nil {
		return err
	}
	return writeImages(filepath.Join(nodeDir, "images.tar"), bin("workload"))
}

// writeKubeconfig writes the kubeconfig of a user in groups; it is the admin who impersonates.
func writeKubeconfig(cp *playground.ControlPlane, file, user string, groups ...string) error {
	cfg := cp.ConfigFor(user, groups...)
	out := clientcmdapi.NewConfig()
	out.Clusters["e2e"] = &clientcmdapi.Cluster{Server: cfg.Host, CertificateAuthorityData: cfg.CAData}
	out.AuthInfos["e2e"] = &clientcmdapi.AuthInfo{
		Token: cfg.BearerToken, Impersonate: cfg.Impersonate.UserName, ImpersonateGroups: cfg.Impersonate.Groups,
	}
	out.Contexts["e2e"] = &clientcmdapi.Context{Cluster: "e2e", AuthInfo: "e2e"}
	out.CurrentContext = "e2e"
	return clientcmd.WriteToFile(*out, file)
}

func (n *node) startContainerd() (err error) {
	n.containerd, err = startProcess("containerd", bin("containerd"), "--config", nodeDir+"/containerd.toml")
	return err
}

// importImages gives containerd the images, as soon as it answers.
func (n *node) importImages(ctx context.Context) error {
	return poll(ctx, func() string {
		if f := n.containerd.failed(); f != "" {
			return f
		}
		out, err := exec.CommandContext(ctx, bin("ctr"), "--address", containerdSocket, "--namespace", "k8s.io",
			"images", "import", nodeDir+"/images.tar").CombinedOutput()
		if err != nil {
			return fmt.Sprintf("import the images: %v: %s", err, out)
		}
		return ""
	})
}

func (n *node) startKubelet() (err error) {
	n.kubelet, err = startProcess("kubelet", bin("kubelet"),
		"--config="+nodeDir+"/kubelet.yaml", "--kubeconfig="+nodeDir+"/kubelet.kubeconfig",
		"--hostname-override="+nodeName, "--node-ip="+nodeIP, "--v=3")
	return err
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
