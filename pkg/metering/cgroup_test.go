package metering

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const (
	podA   = "1b9dbf0c-77a5-4d0c-9d39-0a1b2c3d4e5f"
	podB   = "2c0ec01d-88b6-4e1d-8e4a-1b2c3d4e5f60"
	static = "0123456789abcdef0123456789abcdef"
	id1    = "aaaabbbbccccddddeeeeffff0000111122223333444455556666777788889999"
	id2    = "bbbbccccddddeeeeffff0000111122223333444455556666777788889999aaaa"
)

func underscored(uid string) string { return strings.ReplaceAll(uid, "-", "_") }

func TestParseCgroup(t *testing.T) {
	a := underscored(podA)
	for name, tc := range map[string]struct {
		text string
		want origin
	}{
		"v2, cgroupfs, burstable":              {"0::/kubepods/burstable/pod" + podA + "/" + id1 + "\n", origin{podA, id1}},
		"v2, cgroupfs, guaranteed":             {"0::/kubepods/pod" + podA + "/" + id1 + "\n", origin{podA, id1}},
		"v2, cgroupfs, no newline at the end":  {"0::/kubepods/besteffort/pod" + podA + "/" + id1, origin{podA, id1}},
		"v2, systemd, containerd":              {"0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + a + ".slice/cri-containerd-" + id1 + ".scope\n", origin{podA, id1}},
		"v2, systemd, containerd, guaranteed":  {"0::/kubepods.slice/kubepods-pod" + a + ".slice/cri-containerd-" + id1 + ".scope\n", origin{podA, id1}},
		"v2, systemd, CRI-O":                   {"0::/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod" + a + ".slice/crio-" + id1 + ".scope\n", origin{podA, id1}},
		"v2, systemd, CRI-O with crun":         {"0::/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod" + a + ".slice/crio-" + id1 + ".scope/container\n", origin{podA, id1}},
		"v2, systemd, docker":                  {"0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + a + ".slice/docker-" + id1 + ".scope\n", origin{podA, id1}},
		"v2, read from a cgroup namespace":     {"0::/../../kubepods-besteffort-pod" + a + ".slice/cri-containerd-" + id1 + ".scope\n", origin{podA, id1}},
		"v2, cgroupfs, from a namespace":       {"0::/../../pod" + podA + "/" + id1 + "\n", origin{podA, id1}},
		"v2, a kubelet in a container":         {"0::/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-pod" + a + ".slice/cri-containerd-" + id1 + ".scope\n", origin{podA, id1}},
		"v2, below docker":                     {"0::/docker/" + id2 + "/kubelet/kubepods/burstable/pod" + podA + "/" + id1 + "\n", origin{podA, id1}},
		"v2, with --cgroup-root":               {"0::/machines.slice/machines-kubepods.slice/machines-kubepods-pod" + a + ".slice/crio-" + id1 + ".scope\n", origin{podA, id1}},
		"v2, a group that the container made":  {"0::/kubepods/pod" + podA + "/" + id1 + "/init.scope/system.slice\n", origin{podA, id1}},
		"v2, a group that looks like a pod":    {"0::/kubepods/pod" + podA + "/" + id1 + "/kubepods/pod" + podB + "/" + id2 + "\n", origin{podA, id1}},
		"v1, cgroupfs":                         {"12:memory:/kubepods/burstable/pod" + podA + "/" + id1 + "\n11:cpu,cpuacct:/kubepods/burstable/pod" + podA + "/" + id1 + "\n1:name=systemd:/kubepods/burstable/pod" + podA + "/" + id1 + "\n", origin{podA, id1}},
		"v1, systemd":                          {"3:devices:/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + a + ".slice/docker-" + id1 + ".scope\n0::/\n", origin{podA, id1}},
		"v1 and v2 together":                   {"4:freezer:/\n1:name=systemd:/kubepods/pod" + podA + "/" + id1 + "\n0::/system.slice/containerd.service\n", origin{podA, id1}},
		"v1, drivers that disagree":            {"5:pids:/system.slice/containerd.service/kubepods-burstable-pod" + a + ".slice:cri-containerd:" + id1 + "\n", origin{podA, id1}},
		"a pod from a file":                    {"0::/kubepods/burstable/pod" + static + "/" + id1 + "\n", origin{static, id1}},
		"a service":                            {"0::/system.slice/nvidia-persistenced.service\n", origin{}},
		"a login":                              {"0::/user.slice/user-1000.slice/session-3.scope\n", origin{}},
		"the root":                             {"0::/\n", origin{}},
		"a container of docker itself":         {"0::/docker/" + id1 + "\n", origin{}},
		"a podman pod":                         {"0::/machine.slice/libpod_pod_" + id1 + ".slice/libpod-" + id2 + ".scope\n", origin{}},
		"CRI-O's monitor is not the container": {"0::/kubepods.slice/kubepods-pod" + a + ".slice/crio-conmon-" + id1 + ".scope\n", origin{}},
		"the pod's own group":                  {"0::/kubepods/burstable/pod" + podA + "\n", origin{}},
		"an ID that is too short":              {"0::/kubepods/burstable/pod" + podA + "/" + id1[:12] + "\n", origin{}},
		"an ID in capitals":                    {"0::/kubepods/burstable/pod" + podA + "/" + strings.ToUpper(id1) + "\n", origin{}},
		"a UID that is none":                   {"0::/kubepods/burstable/podcast/" + id1 + "\n", origin{}},
		"a UID without its dashes in place":    {"0::/kubepods/burstable/pod" + strings.Replace(podA, "-", "0", 1) + "/" + id1 + "\n", origin{}},
		"a UID with underscores, not systemd":  {"0::/kubepods/burstable/pod" + a + "/" + id1 + "\n", origin{}},
		"not next to each other":               {"0::/kubepods/burstable/pod" + podA + "/x/" + id1 + "\n", origin{}},
		"two containers at once":               {"2:memory:/kubepods/pod" + podA + "/" + id1 + "\n1:cpu:/kubepods/pod" + podB + "/" + id2 + "\n", origin{}},
		"two containers, then the first":       {"3:a:/kubepods/pod" + podA + "/" + id1 + "\n2:b:/kubepods/pod" + podB + "/" + id2 + "\n1:c:/kubepods/pod" + podA + "/" + id1 + "\n", origin{}},
		"nothing":                              {"", origin{}},
		"no columns":                           {"kubepods/pod" + podA + "/" + id1, origin{}},
	} {
		t.Run(name, func(t *testing.T) {
			got, ok := parseCgroup(tc.text)
			if diff := cmp.Diff(tc.want, got, cmp.AllowUnexported(origin{})); diff != "" || ok != (tc.want != origin{}) {
				t.Errorf("ok %v (-want +got):\n%s", ok, diff)
			}
		})
	}
}

func FuzzParseCgroup(f *testing.F) {
	a := underscored(podA)
	f.Add("0::/kubepods/burstable/pod" + podA + "/" + id1 + "\n")
	f.Add("0::/kubepods.slice/kubepods-pod" + a + ".slice/cri-containerd-" + id1 + ".scope/x\n")
	f.Add("5:pids:/system.slice/containerd.service/kubepods-burstable-pod" + a + ".slice:cri-containerd:" + id1 + "\n")
	f.Add("1:name=systemd:/kubepods/pod" + podA + "/" + id1 + "\n0::/../..\n")
	f.Fuzz(func(t *testing.T, text string) {
		o, ok := parseCgroup(text)
		if !ok {
			if o != (origin{}) {
				t.Fatalf("%+v without being sure", o)
			}
			return
		}
		if !validUID(o.uid) || len(o.container) != 64 || !isHex(o.container) {
			t.Fatalf("not a pod and a container: %+v", o)
		}
		// What is found was written there, and is found again where it stands alone.
		if !strings.Contains(text, o.container) || !strings.Contains(underscored(text), underscored(o.uid)) {
			t.Fatalf("%+v is not in %q", o, text)
		}
		if again, ok := parseCgroup("0::/kubepods/pod" + o.uid + "/" + o.container); !ok || again != o {
			t.Fatalf("%+v is read back as %+v", o, again)
		}
	})
}
