package integration

import (
	"os"
	"os/exec"
	"regexp"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// weftNode runs the node agent's command. It is not linked into this program: that of kustomize, which knows plugins, keeps every
// function of NVIDIA's library and would need it at its start.
func weftNode(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), binary(t, "weft-node"), args...).CombinedOutput()
	if err != nil {
		t.Errorf("weft-node %q: %v\n%s", args, err, out)
	}
	return string(out)
}

// TestNodeFlags: the command that the DaemonSets name is there, knows every flag, and can read its value. With --help it reads them
// all and does nothing.
func TestNodeFlags(t *testing.T) {
	for _, d := range nodeDaemonSets(t) {
		weftNode(t, append(arguments(d), "--help")...)
	}
}

func nodeDocs(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../../docs/node.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestNodeDocsFlags: every flag that the page names is there.
func TestNodeDocsFlags(t *testing.T) {
	others := []string{"target", "root-dir", "control-devices", "grace-period", "force"} // of docker, the kubelet, nvidia-ctk and kubectl
	known := map[string]bool{}
	for _, command := range []string{"run", "probe", "mps"} {
		for _, f := range regexp.MustCompile(`--([a-z0-9-]+)`).FindAllStringSubmatch(weftNode(t, command, "--help"), -1) {
			known[f[1]] = true
		}
	}
	for _, f := range regexp.MustCompile(`--([a-z][a-z0-9-]+)`).FindAllStringSubmatch(nodeDocs(t), -1) {
		if !known[f[1]] && !slices.Contains(others, f[1]) {
			t.Errorf("docs/node.md names --%s, which weft-node does not have", f[1])
		}
	}
}

// TestNodeDocsMounts: the page names every folder of the node that the agent sees.
func TestNodeDocsMounts(t *testing.T) {
	documented := map[string]string{}
	for _, m := range regexp.MustCompile("(?m)^\\| `(/[^`]+)` \\| (read and write|read) \\| .+ \\|$").FindAllStringSubmatch(nodeDocs(t), -1) {
		documented[m[1]] = m[2]
	}
	want := map[string]string{}
	spec := nodeDaemonSets(t)[nodeAgent].Spec.Template.Spec
	for _, v := range spec.Volumes {
		for _, m := range spec.Containers[0].VolumeMounts {
			if m.Name == v.Name {
				want[v.HostPath.Path] = map[bool]string{true: "read", false: "read and write"}[m.ReadOnly]
			}
		}
	}
	if diff := cmp.Diff(want, documented); diff != "" {
		t.Errorf("docs/node.md (- the DaemonSet, + the page):\n%s", diff)
	}
}
