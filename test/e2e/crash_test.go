//go:build linux

package e2e

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/util/uuid"
)

// crash ends everything on the node as a loss of power would, and forgets what does not outlive that: /run, cgroups,
// mounts, the pods' network. The next start of containerd and the kubelet is then that of a node that has booted. What else
// a test runs on the node it has to kill before.
func (n *node) crash(ctx context.Context) error {
	n.kubelet.kill()
	n.containerd.kill()
	err := n.poll(ctx, func() string {
		left, err := killAll()
		switch {
		case err != nil:
			return err.Error()
		case left > 0:
			return fmt.Sprintf("%d processes of the node do not end", left)
		}
		return ""
	})
	if err != nil {
		return err
	}
	return errors.Join(unmountAll(), emptyRun(), renewCgroups(), removeBridge(), newBootID())
}

// killAll kills the processes of all containers and their shims, and says how many there were.
func killAll() (int, error) {
	pids, err := inCgroups("")
	if err != nil {
		return 0, err
	}
	comms, err := filepath.Glob("/proc/[0-9]*/comm")
	if err != nil {
		return 0, err
	}
	for _, file := range comms {
		name, err := os.ReadFile(file)
		if err != nil || strings.TrimSpace(string(name)) != "containerd-shim" {
			// It has just ended, or is none.
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err != nil {
			return 0, err
		}
		pids[pid] = true
	}
	for pid := range maps.Keys(pids) {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return 0, fmt.Errorf("kill process %d: %w", pid, err)
		}
	}
	return len(pids), nil
}

// unmountAll takes away the mounts of containers and pods.
func unmountAll() error {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	defer f.Close()
	var points []string
	for lines := bufio.NewScanner(f); lines.Scan(); {
		// proc_pid_mountinfo(5): the fifth field is the mount point.
		if point := strings.Fields(lines.Text())[4]; strings.HasPrefix(point, "/run/") || strings.HasPrefix(point, "/var/lib/kubelet/") {
			points = append(points, point)
		}
	}
	for _, point := range slices.Backward(points) {
		if err := unix.Unmount(point, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("unmount %s: %w", point, err)
		}
	}
	return nil
}

// emptyRun empties /run, but for what these tests have there in place of a disk.
func emptyRun() error {
	entries, err := os.ReadDir("/run")
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		if path := filepath.Join("/run", e.Name()); path != runDir {
			errs = append(errs, os.RemoveAll(path))
		}
	}
	return errors.Join(errs...)
}

func renewCgroups() error {
	name := os.Getenv(envCgroup)
	return errors.Join(removeCgroups(name), makeCgroups(name))
}

func removeBridge() error {
	if out, err := exec.Command("ip", "link", "delete", "pods").CombinedOutput(); err != nil {
		return fmt.Errorf("delete the bridge of the pods: %w: %s", err, out)
	}
	return nil
}

// newBootID changes the id by which a kubelet sees that its node has booted.
func newBootID() error {
	file := filepath.Join(nodeDir, "boot_id")
	if err := os.WriteFile(file, []byte(uuid.NewUUID()+"\n"), 0o644); err != nil {
		return err
	}
	return unix.Mount(file, "/proc/sys/kernel/random/boot_id", "", unix.MS_BIND, "")
}
