package nodeagent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	logsapi "k8s.io/component-base/logs/api/v1"
	"k8s.io/klog/v2"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/nodeagent/mps"
	"weft.sh/weft/pkg/nvml"
)

// NewCommand is the command weft-node. open opens NVML; its error wraps [nvml.ErrUnavailable].
func NewCommand(open func(nvml.Options) (*nvml.Library, error)) *cobra.Command {
	c := &Config{
		NodeName: os.Getenv("NODE_NAME"), Open: open, Mode: ModeAll, Listen: "127.0.0.1:9411",
		Driver: DriverConfig{Root: "/", Hook: "/usr/bin/nvidia-cdi-hook"},
		Paths: PathConfig{
			Kubelet: "/var/lib/kubelet", DevicePlugins: filepath.Clean(pluginapi.DevicePluginPath), CDI: "/var/run/cdi", State: "/run/weft/node",
		},
	}
	if c.NodeName == "" {
		c.NodeName, _ = os.Hostname() // empty is refused later, with the flag's name
		c.NodeName = strings.ToLower(c.NodeName)
	}
	logging := logsapi.NewLoggingConfiguration()
	root := &cobra.Command{
		Use:   "weft-node",
		Short: "Give the containers of a node exactly the GPUs that the Weft scheduler chose",
		Long: `weft-node runs on every node with NVIDIA GPUs, as a DaemonSet. It publishes the node's GPUs, offers them to the kubelet, and gives
each container the GPUs that the Weft scheduler has chosen for its pod. Without a command it does "run".

To see what it would do on a node, and change nothing: weft-node probe.`,
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			return logsapi.ValidateAndApply(logging, nil)
		},
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return fmt.Errorf("%w\nsee %s --help", err, cmd.CommandPath())
	})
	logsapi.AddFlags(logging, root.PersistentFlags())
	c.Driver.addFlags(root.PersistentFlags())

	run := newRun(c)
	root.RunE = run.RunE
	root.Flags().AddFlagSet(run.Flags())
	root.AddCommand(run, newProbe(c), newMPS(c), newVersion())
	return root
}

func newRun(c *Config) *cobra.Command {
	kubeconfig := ""
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Publish the node's GPUs and give them to containers, until told to stop",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := c.validate(); err != nil { // before anything is opened
				return err
			}
			config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
			if err != nil {
				return fmt.Errorf("--kubeconfig is %q: %w", kubeconfig, err)
			}
			config.UserAgent = rest.DefaultKubernetesUserAgent()
			if c.Client, err = kubernetes.NewForConfig(config); err != nil {
				return err
			}
			return Run(cmd.Context(), *c)
		},
	}
	f := cmd.Flags()
	f.StringVar(&kubeconfig, "kubeconfig", "", "kubeconfig file of the API server; empty is that of the cluster which this runs in")
	f.StringVar(&c.NodeName, "node-name", c.NodeName, "name of the Node that this runs on; by default $NODE_NAME, else the host's name")
	c.addModeFlags(f)
	f.StringVar(&c.Paths.Kubelet, "kubelet-dir", c.Paths.Kubelet, "the kubelet's --root-dir, which has its PodResources socket")
	f.StringVar(&c.Paths.DevicePlugins, "device-plugin-dir", c.Paths.DevicePlugins,
		"folder of the kubelet's device plugins and of its checkpoint of them; it does not follow its --root-dir")
	f.StringVar(&c.Paths.CDI, "cdi-dir", c.Paths.CDI,
		"folder of CDI specifications that the container runtime reads; best on a tmpfs, as /var/run is")
	f.StringVar(&c.Paths.State, "state-dir", c.Paths.State,
		"folder for what has to outlive this process but not the node: who holds which GPU; best on a tmpfs, as /run is")
	f.StringVar(&c.Listen, "listen", c.Listen,
		"address and port for HTTP: /metrics, /allocations, /healthz and /readyz, without authentication")
	c.Health.addFlags(f)
	return cmd
}

// addModeFlags adds what decides which GPUs are given out, and how.
func (c *Config) addModeFlags(f *pflag.FlagSet) {
	f.StringVar((*string)(&c.Mode), "mode", string(c.Mode), `what is given out: "all" (whole GPUs, shares and MIG instances), or `+
		`"fractions" (shares of --shared-gpus only, beside NVIDIA's device plugin, which has to be kept from those GPUs by its `+
		`NVIDIA_VISIBLE_DEVICES)`)
	f.StringSliceVar(&c.SharedGPUs, "shared-gpus", nil, "for --mode fractions: the GPUs to share, by index or UUID, such as 4,5")
	f.StringVar(&c.MPSRoot, "mps-root", c.MPSRoot, `folder of the MPS control daemons that "weft-node mps" runs; empty where there are none`)
}

func (d *DriverConfig) addFlags(f *pflag.FlagSet) {
	f.StringVar(&d.Library, "nvml-library", d.Library, "file libnvidia-ml.so.1; by default it is searched for below --driver-root")
	f.StringVar(&d.Root, "driver-root", d.Root, "folder below which NVIDIA's driver is installed, as this program sees it")
	f.StringVar(&d.DevRoot, "dev-root", d.DevRoot, "folder that has dev/nvidia*, as this program sees it; by default --driver-root")
	f.StringVar(&d.HostRoot, "host-driver-root", d.HostRoot, "--driver-root as the host sees it; by default the same")
	f.StringVar(&d.HostDevRoot, "host-dev-root", d.HostDevRoot, "--dev-root as the host sees it; by default the same")
	f.StringVar(&d.Hook, "nvidia-cdi-hook-path", d.Hook, "program nvidia-cdi-hook of NVIDIA's container toolkit, on the host")
}

func newProbe(c *Config) *cobra.Command {
	output := ""
	cmd := &cobra.Command{
		Use:   "probe",
		Short: "Print what would be published of this node, and what looks wrong; change nothing",
		Long: `probe reads what NVML says of the node's GPUs and prints what "run" would make of it with the same flags: the GPUs, the resources
that the kubelet would be offered, the ResourceSlices and labels, where NVML disagrees with the built-in tables of MIG profiles, and
what is not believed. It changes nothing, and needs neither a cluster nor a kubelet.

It fails only when NVML cannot be used, and then says what to do.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := validOutput(output, "json", "yaml"); err != nil {
				return err
			}
			if err := c.validate(); err != nil {
				return err
			}
			host, err := discover(c)
			if err != nil {
				return fmt.Errorf("%w\nwhere the driver is, --driver-root, --dev-root and --nvml-library say", err)
			}
			return probe(c.NodeName, host, c.policy()).write(cmd.OutOrStdout(), output)
		},
	}
	f := cmd.Flags()
	f.StringVarP(&output, "output", "o", "", "json or yaml; by default text")
	f.StringVar(&c.NodeName, "node-name", c.NodeName, "name of the Node, which stands in the ResourceSlices")
	c.addModeFlags(f)
	return cmd
}

// discover opens NVML, asks it once, and closes it.
func discover(c *Config) (nvml.Host, error) {
	lib, err := c.Open(c.Driver.library())
	if err != nil {
		return nvml.Host{}, err
	}
	host, err := lib.Discover()
	return host, errors.Join(err, lib.Close())
}

func newMPS(c *Config) *cobra.Command {
	var s mps.Supervisor
	var only []string
	s.Root, s.Program = "/run/weft/mps", mps.Program
	cmd := &cobra.Command{
		Use:   "mps",
		Short: "Keep an MPS control daemon running for each GPU that is shared",
		Long: `mps runs NVIDIA's nvidia-cuda-mps-control for each GPU, starts it again when it ends, and marks in the folder --mps-root which GPUs
have one that answers. "weft-node run" with the same --mps-root then gives containers their shares of those GPUs through it, which bounds
each process's part of the compute units and its pinned memory.

Ending this ends the daemons, and with them the programs that use their GPUs through them. So it is a process, and a pod, of its
own, and "weft-node run" can be started anew without it. It needs the driver's programs in the PATH, the host's PID namespace, and
the folder <mps-root>/shm mounted at its /dev/shm. It changes no setting of a GPU.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := errors.Join(c.Driver.validate(), validPath("mps-root", s.Root, false), validSelectors("gpus", only)); err != nil {
				return err
			}
			gpus, err := sharable(cmd.Context(), c, only)
			if err != nil {
				return err
			}
			return s.Run(cmd.Context(), gpus)
		},
	}
	f := cmd.Flags()
	f.StringVar(&s.Root, "mps-root", s.Root, "folder for the daemons; best on a tmpfs, as /run is")
	f.StringSliceVar(&only, "gpus", nil, "the GPUs to run daemons for, by index or UUID; by default all that are not in MIG mode")
	f.StringVar(&s.Program, "mps-control", s.Program, "NVIDIA's program nvidia-cuda-mps-control")
	f.BoolVar(&s.OneUser, "one-user", false, "serve the processes of one user of the system at a time; those of another wait until the "+
		"last of the first has ended. By default one server, of root, serves all")
	return cmd
}

// sharable waits until NVML can be used and there are GPUs to share, and returns those that are to have a daemon; none when ctx ends.
func sharable(ctx context.Context, c *Config, only []string) ([]gpu.ID, error) {
	log := klog.FromContext(ctx)
	said := ""
	for ctx.Err() == nil {
		host, err := discover(c)
		if err == nil {
			if gpus, err := chosen(host, only); err != nil || len(gpus) > 0 {
				return gpus, err
			}
			err = errors.New("no GPU can be shared: there is none, or all are in MIG mode")
		}
		if err.Error() != said {
			said = err.Error()
			log.Error(err, "No MPS control daemon runs yet; looking again every now and then")
		}
		pause(ctx, 10*time.Second)
	}
	return nil, nil
}

// chosen is the GPUs of the host that are named, or when none is, those that can be shared.
func chosen(host nvml.Host, only []string) ([]gpu.ID, error) {
	var out []gpu.ID
	for _, g := range host.GPUs {
		named := slices.ContainsFunc(only, func(s string) bool { return names(s, g.Device) })
		switch {
		case named && g.MIG:
			return nil, fmt.Errorf("--gpus names GPU %d (%s), which is in MIG mode: its instances are apart without MPS", g.Index, g.ID)
		case named, len(only) == 0 && !g.MIG:
			out = append(out, g.ID)
		}
	}
	for _, s := range only {
		if !slices.ContainsFunc(host.GPUs, func(g nvml.GPU) bool { return names(s, g.Device) }) {
			return nil, fmt.Errorf("--gpus names %s, which the node does not have: it has %s", strconv.Quote(s), plural(len(host.GPUs), "GPU"))
		}
	}
	return out, nil
}

func newVersion() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		Run: func(cmd *cobra.Command, _ []string) {
			fmt.Fprintf(cmd.OutOrStdout(), "weft-node %s\n", version())
		},
	}
}

// version says what was built, and from what.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			return info.Main.Version + ", revision " + s.Value
		}
	}
	return info.Main.Version
}

// validOutput checks the value of -o.
func validOutput(output string, accepted ...string) error {
	if output == "" || slices.Contains(accepted, output) {
		return nil
	}
	return fmt.Errorf("--output is %q: want one of %s", output, strings.Join(accepted, ", "))
}

// commas is the words between the commas of a text.
func commas(text string) []string {
	return strings.FieldsFunc(text, func(r rune) bool { return r == ',' || r == ' ' })
}
