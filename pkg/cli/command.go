package cli

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// NewCommand is the command weft. program is the path or name that it was started by: as kubectl-weft it calls itself
// "kubectl weft", for so it is typed.
func NewCommand(program string, streams genericiooptions.IOStreams) *cobra.Command {
	s := &shell{
		streams: streams, flags: genericclioptions.NewConfigFlags(true), schedulerName: DefaultSchedulerName, levels: DefaultTopologyLevels(),
	}
	// A cluster is read in some dozens of requests, one after another; the default rate is made for controllers.
	s.flags.WrapConfigFn = func(c *rest.Config) *rest.Config {
		c.QPS, c.Burst = 50, 100
		c.ContentType = runtime.ContentTypeProtobuf
		c.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
		return c
	}
	root := &cobra.Command{
		Use:   "weft",
		Short: "See the GPUs of a cluster, how full they are, and why a pod waits",
		Long: `weft shows the GPUs of a Kubernetes cluster as the Weft scheduler sees them, and says why a pod waits.

It only reads, with the kubeconfig and the flags of kubectl. Installed as kubectl-weft it is "kubectl weft".`,
		Version:       built().String(), // makes the flag --version
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	if name, ok := strings.CutPrefix(filepath.Base(program), "kubectl-"); ok {
		root.Annotations = map[string]string{cobra.CommandDisplayNameAnnotation: "kubectl " + strings.TrimSuffix(name, ".exe")}
	}
	root.SetIn(streams.In)
	root.SetOut(streams.Out)
	root.SetErr(streams.ErrOut)
	s.flags.AddFlags(root.PersistentFlags())
	root.PersistentFlags().StringVar(&s.schedulerName, "scheduler-name", s.schedulerName,
		"The schedulerName that pods have to name to be placed by Weft")
	root.PersistentFlags().StringSliceVar(&s.levels, "topology-levels", s.levels,
		"The topologyLevels of the scheduler's configuration, from the narrowest to the widest")
	// It fails only for a flag that is not there, or twice for one.
	_ = root.RegisterFlagCompletionFunc("namespace", func(cmd *cobra.Command, _ []string, prefix string) ([]cobra.Completion, cobra.ShellCompDirective) {
		return s.namespaces(cmd.Context(), prefix), cobra.ShellCompDirectiveNoFileComp
	})
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return fmt.Errorf("%w\nsee %s --help", err, cmd.CommandPath())
	})
	root.AddCommand(newTop(s), newWhy(s), newQueue(s), newReport(s), newAdvise(s), newSnapshot(s), newPlan(s), newVersion(s), newOptions())
	// Two dozen flags of kubectl under every help would bury the few that matter there.
	root.SetUsageTemplate(usageTemplate)
	root.SetVersionTemplate("{{.Version}}")
	return root
}

// usageTemplate is cobra's, less what is not used here (aliases, groups) and with a hint in place of the flags of kubectl.
const usageTemplate = `Usage:{{if .Runnable}}
  {{.UseLine}}{{end}}{{if .HasAvailableSubCommands}}
  {{.CommandPath}} [command]{{end}}{{if .HasExample}}

Examples:
{{.Example}}{{end}}{{if .HasAvailableSubCommands}}

Commands:{{range .Commands}}{{if .IsAvailableCommand}}
  {{rpad .Name .NamePadding}} {{.Short}}{{end}}{{end}}

"{{.CommandPath}} COMMAND --help" has more about a command.{{end}}{{if and .HasParent .HasAvailableLocalFlags}}

Flags:
{{.LocalFlags.FlagUsages | trimTrailingWhitespaces}}{{end}}

--kubeconfig, --context, --namespace and the other flags of kubectl work too: "{{.Root.CommandPath}} options" lists them.
`

// newOptions lists the flags that every command has.
func newOptions() *cobra.Command {
	return &cobra.Command{
		Use:    "options",
		Short:  "List the flags that every command has",
		Args:   cobra.NoArgs,
		Hidden: true,
		Run: func(cmd *cobra.Command, _ []string) {
			fmt.Fprint(cmd.OutOrStdout(), cmd.InheritedFlags().FlagUsages())
		},
	}
}

// shell is what the commands share: where they write, and how they reach the cluster.
type shell struct {
	streams       genericiooptions.IOStreams
	flags         *genericclioptions.ConfigFlags
	schedulerName string
	levels        []string
}

// dynamic is a client for kinds that Kubernetes does not have itself.
func (s *shell) dynamic() (dynamic.Interface, error) {
	config, err := s.flags.ToRESTConfig()
	if err != nil {
		return nil, fmt.Errorf("reading the kubeconfig: %w", err)
	}
	return dynamic.NewForConfig(config)
}

// client is a client of the cluster that flags and kubeconfig name.
func (s *shell) client() (kubernetes.Interface, error) {
	if err := s.nowhere(); err != nil {
		return nil, err
	}
	config, err := s.flags.ToRESTConfig()
	if err != nil {
		return nil, fmt.Errorf("reading the kubeconfig: %w", err)
	}
	return kubernetes.NewForConfig(config)
}

// nowhere is the error of somebody who has named no cluster. The libraries would then try a server on this machine, and say
// that it cannot be reached.
func (s *shell) nowhere() error {
	loader := s.flags.ToRawKubeConfigLoader()
	config, err := loader.RawConfig()
	named := *s.flags.APIServer != ""
	for _, variable := range []string{"KUBERNETES_MASTER", "KUBERNETES_SERVICE_HOST"} { // the latter within a pod
		named = named || os.Getenv(variable) != ""
	}
	if err != nil || named || len(config.Clusters) > 0 {
		return nil // an error is reported by whoever needs the rest of it
	}
	fault := "does not exist"
	paths := loader.ConfigAccess().GetLoadingPrecedence()
	for _, path := range paths {
		if _, err := os.Stat(path); err == nil {
			fault = "names no cluster"
		}
	}
	where := strings.Join(paths, string(filepath.ListSeparator))
	if os.Getenv(clientcmd.RecommendedConfigPathEnvVar) != "" && *s.flags.KubeConfig == "" {
		where = clientcmd.RecommendedConfigPathEnvVar + "=" + where
	}
	return fmt.Errorf("no kubeconfig was found: %s %s\nexport KUBECONFIG, or give --kubeconfig", where, fault)
}

// namespace is the one of the flag, else of the context.
func (s *shell) namespace() (string, error) {
	namespace, _, err := s.flags.ToRawKubeConfigLoader().Namespace()
	if err != nil {
		return "", fmt.Errorf("reading the kubeconfig: %w", err)
	}
	return namespace, nil
}

// progress tells a person who waits what for; nothing is said in the first seconds, nor to a file.
func (s *shell) progress() (report Progress, done func()) {
	if !isTerminal(s.streams.ErrOut) {
		return nil, func() {}
	}
	const patience, interval = 2 * time.Second, 500 * time.Millisecond
	next, said := time.Now().Add(patience), false
	report = func(what string, n int) {
		if now := time.Now(); now.After(next) {
			next, said = now.Add(interval), true
			fmt.Fprintf(s.streams.ErrOut, "\r\x1b[Kreading %s: %d …", what, n)
		}
	}
	return report, func() {
		if said {
			fmt.Fprint(s.streams.ErrOut, "\r\x1b[K")
		}
	}
}

// colour reports whether the output takes colour: a terminal that knows it, and nobody said no (no-color.org).
func (s *shell) colour() bool {
	return isTerminal(s.streams.Out) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
}

// ascii reports whether the locale says that the terminal shows nothing else. Without a locale most do.
func ascii() bool {
	for _, name := range []string{"LC_ALL", "LC_CTYPE", "LANG"} {
		if v := strings.ToUpper(os.Getenv(name)); v != "" {
			return !strings.Contains(v, "UTF-8") && !strings.Contains(v, "UTF8")
		}
	}
	return false
}

// width is the width of the terminal, 0 when the output goes elsewhere.
func (s *shell) width() int {
	f, ok := s.streams.Out.(*os.File)
	if !ok {
		return 0
	}
	width, _, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return 0
	}
	return width
}

func isTerminal(w any) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// Advise adds to an error what can be done about it, where that is not said yet.
func Advise(err error) error {
	var unreachable *url.Error
	switch {
	case err == nil || isForbidden(err):
		return err
	case clientcmd.IsEmptyConfig(err):
		return fmt.Errorf("%w\nname a cluster with --kubeconfig or $KUBECONFIG, and --context", err)
	case apierrors.IsUnauthorized(err):
		return fmt.Errorf("%w\nthe credentials of the kubeconfig are not, or no longer, valid: log in again, or choose another --context", err)
	case apierrors.IsForbidden(err):
		return &ForbiddenError{err: err}
	case errors.As(err, &unreachable):
		return fmt.Errorf("%w\nthe API server cannot be reached: check --kubeconfig, --context and --server", err)
	}
	return err
}
