package devicemanager

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"testing"

	"github.com/go-logr/logr"
	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

// inside is set in the environment of the process that has a mount namespace of its own.
const inside = "WEFT_DEVICEMANAGER_INSIDE"

// cannot says why the tests cannot run here, empty where they can.
var cannot string

func TestMain(m *testing.M) {
	if os.Getenv(inside) == "" {
		err := runInside()
		var exit *exec.ExitError
		switch {
		case err == nil:
			os.Exit(0)
		case errors.As(err, &exit):
			os.Exit(max(1, exit.ExitCode())) // -1 is a signal
		}
		cannot = err.Error()
	} else if err := ownKubeletDirectory(); err != nil {
		fmt.Fprintln(os.Stderr, "making a directory for the kubelet:", err)
		os.Exit(1)
	}
	if cannot != "" && os.Getenv("WEFT_REQUIRE_E2E") == "1" {
		fmt.Fprintln(os.Stderr, "WEFT_REQUIRE_E2E=1 wants these tests to run, but they cannot:", cannot)
		os.Exit(1)
	}
	// The kubelet has much to say of tests in which it is stopped all the time.
	if !slices.Contains(os.Args, "-test.v=true") {
		klog.SetLogger(logr.Discard())
	}
	os.Exit(m.Run())
}

// runInside runs this program again with the same arguments in a mount namespace of its own. The error is an exec.ExitError when that
// ran and failed, and otherwise says why it did not run.
func runInside() error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("a mount namespace takes root, and this is user %d", os.Geteuid())
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	// The end of the thread would end the child, so it must not be a thread that comes and goes.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := exec.Command(self, os.Args[1:]...)
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &unix.SysProcAttr{Cloneflags: unix.CLONE_NEWNS, Pdeathsig: unix.SIGKILL}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("a mount namespace of its own: %w", err)
	}
	return cmd.Wait()
}

// ownKubeletDirectory puts a tmpfs over the folder that the kubelet's directory is in, for this process alone.
func ownKubeletDirectory() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("keeping mounts private: %w", err)
	}
	if err := unix.Mount("tmpfs", "/var/lib", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755"); err != nil {
		return fmt.Errorf("mounting a tmpfs: %w", err)
	}
	return os.MkdirAll(pluginapi.DevicePluginPath, 0o750)
}
