//go:build linux

package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// The environment of the test binary.
const (
	// envBin is the folder of the binaries that hack/e2e.sh builds. Without it every test skips.
	envBin = "WEFT_E2E_BIN"
	// envLogs is the folder that gets the logs of all components after a run, whether it passed or was cut short.
	envLogs = "WEFT_E2E_LOGS"
	// envStage says which of the three processes of a run this is, and envCgroup what the first made for the others.
	envStage  = "WEFT_E2E_STAGE"
	envCgroup = "WEFT_E2E_CGROUP"
)

const (
	stageInit  = "init"
	stageTests = "tests"
)

// nodeIP is the node's address, a second one of the loopback interface: a kubelet takes none of 127.0.0.0/8. It is of
// the block for documentation.
const nodeIP = "192.0.2.1"

// privateDirs are empty for the tests, in memory, and gone with them. Everything else that a component writes is told to
// lie in one of these.
var privateDirs = []string{"/run", "/var/log", "/var/lib/kubelet", "/var/lib/cni"}

// TestMain runs the tests in namespaces of their own, so that they touch no folder, port or process of the machine and
// nothing outlives them, however they end. It takes three processes. The first makes the cgroups and the namespaces and
// cleans up. The second is process 1 inside: it mounts, reaps orphans, and when it ends the kernel kills all that is left.
// The third runs the tests.
func TestMain(m *testing.M) {
	var code int
	var err error
	switch {
	case os.Getenv(envBin) == "" || os.Getenv(envStage) == stageTests:
		code = m.Run()
	case os.Getenv(envStage) == stageInit:
		code, err = runInside()
	default:
		code, err = runNamespaced()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

// runNamespaced starts this binary again as process 1 of new namespaces and returns its exit code.
func runNamespaced() (code int, err error) {
	// The kernel kills the child when the thread that started it ends, not the process.
	runtime.LockOSThread()
	for _, dir := range privateDirs {
		// It stays, empty: to remove it would take the mount away from another run.
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return 0, fmt.Errorf("mount point: %w", err)
		}
	}
	const prefix = "/weft-e2e-"
	cgroup := prefix + strconv.Itoa(os.Getpid())
	defer func() { err = errors.Join(err, removeCgroups(cgroup)) }()
	if err := errors.Join(sweepCgroups(prefix), makeCgroups(cgroup)); err != nil {
		return 0, err
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), envStage+"="+stageInit, envCgroup+"="+cgroup)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET | syscall.CLONE_NEWIPC,
		Pdeathsig:  syscall.SIGKILL,
	}
	err = cmd.Run()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return max(exit.ExitCode(), 1), nil
	}
	return 0, err
}

// runInside is process 1: it prepares the namespaces, runs the tests and returns their exit code.
func runInside() (code int, err error) {
	if err := prepareNamespaces(); err != nil {
		return 0, err
	}
	if err := os.Setenv(envStage, stageTests); err != nil {
		return 0, err
	}
	// Not by os/exec, whose Wait would race with the loop below.
	tests, err := os.StartProcess("/proc/self/exe", os.Args, &os.ProcAttr{Files: []*os.File{nil, os.Stdout, os.Stderr}})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, keepLogs()) }()
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil:
			return 0, fmt.Errorf("wait for the tests: %w", err)
		case pid == tests.Pid && status.Signaled():
			return 0, fmt.Errorf("the tests were ended by signal %v", status.Signal())
		case pid == tests.Pid:
			return status.ExitStatus(), nil
		}
	}
}

func prepareNamespaces() error {
	// First nothing of ours may reach the machine; then mounts are shared again, as systemd leaves them on a node.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("make mounts shared: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	for _, dir := range privateDirs {
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=755"); err != nil {
			return fmt.Errorf("mount %s: %w", dir, err)
		}
	}
	for _, args := range []string{"link set lo up", "address add " + nodeIP + "/32 dev lo"} {
		if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w: %s", args, err, out)
		}
	}
	return os.MkdirAll(runDir, 0o755)
}

// keepLogs copies the logs out of the folders that are about to vanish.
func keepLogs() error {
	dir := os.Getenv(envLogs)
	if dir == "" {
		return nil
	}
	logs, err := filepath.Glob(filepath.Join(runDir, "*", "*.log"))
	if err != nil {
		return err
	}
	for _, log := range logs {
		data, err := os.ReadFile(log)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, filepath.Base(log)), data, 0o644)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// bin is the path of a binary that hack/e2e.sh built.
func bin(name string) string { return filepath.Join(os.Getenv(envBin), name) }
