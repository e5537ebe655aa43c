package metering

import (
	"strings"
)

// origin is the container that a process runs in.
type origin struct {
	// uid is the pod's, container the container runtime's ID.
	uid, container string
}

// parseCgroup finds the pod and the container in the text of /proc/<pid>/cgroup, and reports false when it names none: the process
// runs on the host.
//
// Each line is "number:controllers:path", one line for cgroup v2, one per hierarchy for v1. In the path the kubelet's part is one of
//
//	…/kubepods/burstable/pod<uid>                                  driver cgroupfs; guaranteed pods stand directly below kubepods
//	…/kubepods.slice/…/kubepods-burstable-pod<uid with _>.slice    driver systemd
//
// and the container's follows it:
//
//	<id>, cri-containerd-<id>.scope, crio-<id>.scope, docker-<id>.scope
//
// or both in one element, "kubepods-burstable-pod<uid>.slice:cri-containerd:<id>", where kubelet and containerd disagree on the driver.
// What stands before differs (kubelets in containers, --cgroup-root), and begins with "/.." where the reader is in a cgroup namespace of
// its own. What stands below a container is the container's to name, so it is the first pod of a path that counts, and the
// element right after it.
func parseCgroup(text string) (origin, bool) {
	var found origin
	for line := range strings.Lines(text) {
		parts := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(parts) != 3 {
			continue
		}
		o, ok := originOf(parts[2])
		if !ok {
			continue
		}
		if found != (origin{}) && found != o {
			return origin{}, false // one process in two containers: nobody can say in which
		}
		found = o
	}
	return found, found != origin{}
}

func originOf(path string) (origin, bool) {
	elements := strings.FieldsFunc(path, func(r rune) bool { return r == '/' || r == ':' })
	for i, e := range elements[:max(0, len(elements)-1)] {
		uid, ok := podUID(e)
		if !ok {
			continue
		}
		rest := elements[i+1:]
		if strings.HasPrefix(rest[0], "cri") && len(rest) > 1 && !strings.HasSuffix(rest[0], ".scope") {
			rest = rest[1:] // "…pod<uid>.slice:cri-containerd:<id>"
		}
		id, ok := containerID(rest[0])
		return origin{uid, id}, ok
	}
	return origin{}, false
}

// podUID is the UID in the name of a pod's control group.
func podUID(element string) (string, bool) {
	name, systemd := strings.CutSuffix(element, ".slice")
	i := strings.LastIndex(name, "pod")
	if i < 0 || i > 0 && (!systemd || name[i-1] != '-') {
		return "", false
	}
	uid := name[i+len("pod"):]
	if systemd {
		uid = strings.ReplaceAll(uid, "_", "-") // a dash is systemd's slash
	}
	return uid, validUID(uid)
}

// validUID reports whether the text has the form of a pod's UID: a UUID as the API server makes it, or the 32 digits that the
// kubelet makes for a pod from a file.
func validUID(uid string) bool {
	if len(uid) == 32 {
		return isHex(uid)
	}
	if len(uid) != 36 {
		return false
	}
	for _, i := range []int{8, 13, 18, 23} {
		if uid[i] != '-' {
			return false
		}
	}
	return isHex(uid[:8] + uid[9:13] + uid[14:18] + uid[19:23] + uid[24:])
}

// containerID is the ID in the name of a container's control group: 64 hexadecimal digits, as all container runtimes make them.
func containerID(element string) (string, bool) {
	name, systemd := strings.CutSuffix(element, ".scope")
	if i := strings.LastIndexByte(name, '-'); i >= 0 && systemd && name[:i] != "crio-conmon" {
		name = name[i+1:]
	}
	return name, len(name) == 64 && isHex(name)
}

func isHex(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return (r < '0' || r > '9') && (r < 'a' || r > 'f') }) < 0
}
