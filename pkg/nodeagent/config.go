package nodeagent

import (
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/client-go/kubernetes"

	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/nvml"
)

// Config is what an agent runs with.
type Config struct {
	// NodeName is the name of the Node that it runs on.
	NodeName string
	// Client speaks to the API server.
	Client kubernetes.Interface
	// Open opens NVML; its error wraps [nvml.ErrUnavailable].
	Open func(nvml.Options) (*nvml.Library, error)

	Mode Mode
	// SharedGPUs are those that ModeFractions shares, by index or UUID.
	SharedGPUs []string

	Driver DriverConfig
	Paths  PathConfig
	// MPSRoot is where the MPS control daemons are, empty for none; see package mps.
	MPSRoot string
	// Listen is host:port for HTTP.
	Listen string
	Health HealthConfig
}

// DriverConfig says where NVIDIA's driver is.
type DriverConfig struct {
	// Library is the file libnvidia-ml.so.1, empty to search for it.
	Library string
	// Root and DevRoot are where this program sees the driver's files and the folder above /dev, HostRoot and HostDevRoot where the
	// container runtime sees them. See [nvml.EditOptions].
	Root, DevRoot, HostRoot, HostDevRoot string
	// Hook is the program nvidia-cdi-hook on the host.
	Hook string
}

func (d DriverConfig) library() nvml.Options {
	o := nvml.Options{LibraryPath: d.Library}
	if d.Root != "/" {
		o.DriverRoot = d.Root // else the dynamic linker knows better where it is
	}
	return o
}

func (d DriverConfig) edits() nvml.EditOptions {
	return nvml.EditOptions{
		DriverRoot: d.Root, DevRoot: d.DevRoot, HostDriverRoot: d.HostRoot, HostDevRoot: d.HostDevRoot, HookPath: d.Hook,
	}
}

// PathConfig says where files are.
type PathConfig struct {
	// Kubelet is the kubelet's root folder, DevicePlugins where it has device plugins: always below /var/lib/kubelet, whatever
	// its root folder is.
	Kubelet, DevicePlugins string
	// CDI is a folder of CDI specifications that the container runtime reads, on a tmpfs.
	CDI string
	// State is the agent's own, on a disk.
	State string
}

func (p PathConfig) checkpoint() string {
	return filepath.Join(p.DevicePlugins, "kubelet_internal_checkpoint")
}

func (p PathConfig) podResources() string {
	return filepath.Join(p.Kubelet, "pod-resources", "kubelet.sock")
}

// validate says what is wrong with the flags of the driver.
func (d DriverConfig) validate() error {
	var errs []error
	for _, f := range [][2]string{
		{"nvml-library", d.Library},
		{"driver-root", d.Root},
		{"dev-root", d.DevRoot},
		{"host-driver-root", d.HostRoot},
		{"host-dev-root", d.HostDevRoot},
		{"nvidia-cdi-hook-path", d.Hook},
	} {
		errs = append(errs, validPath(f[0], f[1], true))
	}
	return errors.Join(errs...)
}

// validate says what is wrong, one line for each.
func (c Config) validate() error {
	errs := []error{c.Driver.validate()}
	if err := c.Health.Validate(); err != nil {
		errs = append(errs, fmt.Errorf("--health-quarantine or --health-quarantine-blind: %w", err))
	}
	if faults := validation.IsDNS1123Subdomain(c.NodeName); len(faults) > 0 {
		errs = append(errs, fmt.Errorf("--node-name is %q: want the name of a Node: %s", c.NodeName, strings.Join(faults, "; ")))
	}
	switch {
	case c.Mode != ModeAll && c.Mode != ModeFractions:
		errs = append(errs, fmt.Errorf("--mode is %q: want %s or %s", c.Mode, ModeAll, ModeFractions))
	case c.Mode == ModeAll && len(c.SharedGPUs) > 0:
		errs = append(errs, fmt.Errorf("--shared-gpus is %q: it goes with --mode %s only, for otherwise every GPU can be shared",
			strings.Join(c.SharedGPUs, ","), ModeFractions))
	case c.Mode == ModeFractions && len(c.SharedGPUs) == 0:
		errs = append(errs, fmt.Errorf("--shared-gpus is empty: --mode %s wants the GPUs to share, by index or UUID", ModeFractions))
	}
	errs = append(errs, validSelectors("shared-gpus", c.SharedGPUs))
	for _, f := range []struct {
		flag, path string
		optional   bool
	}{
		{"kubelet-dir", c.Paths.Kubelet, false},
		{"device-plugin-dir", c.Paths.DevicePlugins, false},
		{"cdi-dir", c.Paths.CDI, false},
		{"state-dir", c.Paths.State, false},
		{"mps-root", c.MPSRoot, true},
	} {
		errs = append(errs, validPath(f.flag, f.path, f.optional))
	}
	if _, port, err := net.SplitHostPort(c.Listen); err != nil || !validPort(port) {
		errs = append(errs, fmt.Errorf("--listen is %q: want an address and a port, such as 127.0.0.1:9411 or [::1]:9411", c.Listen))
	}
	return errors.Join(errs...)
}

func validPort(text string) bool {
	_, err := strconv.ParseUint(text, 10, 16)
	return err == nil
}

func validPath(flag, path string, optional bool) error {
	if path == "" && optional || filepath.IsAbs(path) {
		return nil
	}
	return fmt.Errorf("--%s is %q: want an absolute path", flag, path)
}

var indexPattern = regexp.MustCompile(`^(0|[1-9][0-9]{0,6})$`)

// validSelectors checks names of GPUs, each an index or a UUID.
func validSelectors(flag string, selectors []string) error {
	var errs []error
	for i, s := range selectors {
		isUUID := strings.HasPrefix(s, "GPU-") && gpu.ID(s).Validate() == nil
		if !isUUID && !indexPattern.MatchString(s) {
			errs = append(errs, fmt.Errorf("--%s has %q: want an index such as 4, or a UUID such as GPU-8f2c…, as nvidia-smi -L prints them",
				flag, s))
		}
		for _, before := range selectors[:i] {
			if before == s {
				errs = append(errs, fmt.Errorf("--%s has %q twice", flag, s))
			}
		}
	}
	return errors.Join(errs...)
}
