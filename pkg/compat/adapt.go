package compat

import (
	"context"
	"fmt"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/component-base/version/verflag"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/names"
)

// Adapt makes a command of app.NewSchedulerCommand look at the API server before it starts, and set its own
// --emulated-version and --feature-gates accordingly. It must be called before the command is run, once.
func Adapt(cmd *cobra.Command) {
	next := cmd.PersistentPreRunE
	// The command applies its flags to the feature gates here, and reads the gates everywhere after, so this is both the
	// last and the only moment.
	cmd.PersistentPreRunE = func(cmd *cobra.Command, args []string) error {
		// --version needs no cluster.
		verflag.PrintAndExitIfRequested()
		if err := adapt(cmd.Context(), cmd.Flags()); err != nil {
			return err
		}
		if next == nil {
			return nil
		}
		return next(cmd, args)
	}
}

func adapt(ctx context.Context, flags *pflag.FlagSet) error {
	if file := flags.Lookup("write-config-to"); file != nil && file.Value.String() != "" {
		// Writes a file and exits; kube-scheduler asks no server for it either.
		return nil
	}
	if ctx == nil {
		ctx = context.Background()
	}
	// The scheduler takes over these signals later, in RunE.
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	defer stop()

	given, err := readFlags(flags)
	if err != nil {
		return err
	}
	client, profiles, err := readConfig(flags)
	if err != nil {
		return err
	}
	config, err := clientcmd.BuildConfigFromFlags(client.master, client.kubeconfig)
	if err != nil {
		return fmt.Errorf("no API server to talk to: %w: set --kubeconfig, or clientConnection.kubeconfig in the file of --config, or run in a cluster", err)
	}
	server, err := askServer(ctx, config)
	if err != nil {
		return err
	}
	decision, err := Decide(Input{
		Version:       server.version,
		Served:        server.served,
		Gates:         utilfeature.DefaultMutableFeatureGate,
		Emulate:       given.emulate,
		UserGates:     given.gates,
		UnusedPlugins: unusedPlugins(profiles),
	})
	if err != nil {
		return fmt.Errorf("cannot run against the API server %s: %w", config.Host, err)
	}
	off, err := Unwanted(utilfeature.DefaultMutableFeatureGate, decision.Emulate, given.gates)
	if err != nil {
		return fmt.Errorf("cannot run against the API server %s: %w", config.Host, err)
	}
	decision.Off = append(decision.Off, off...)
	if decision.On, err = Wanted(utilfeature.DefaultMutableFeatureGate, decision.Emulate, given.gates, server.served); err != nil {
		return fmt.Errorf("cannot run against the API server %s: %w", config.Host, err)
	}
	if len(decision.On) > 0 && generatesTwice(profiles) {
		decision.On = nil
		decision.warn("the API server serves PodGroups of %s, and they are left alone: a profile of --config has plugin Gang and has not "+
			"disabled %s at placementGenerate, of which there can be one", podGroups.Group, names.TopologyPlacementGenerator)
	}
	report(klog.FromContext(ctx), config.Host, decision)
	return given.apply(flags, decision)
}

func askServer(ctx context.Context, config *rest.Config) (answer, error) {
	once, err := asker(config)
	if err != nil {
		return answer{}, err
	}
	return ask(ctx, config.Host, once)
}

func report(logger klog.Logger, host string, decision Decision) {
	logger.Info("Adapting to the API server", "server", host, "release", decision.Server, "evidence", decision.Evidence,
		"emulatedVersion", decision.Emulate, "featureGatesOff", decision.Off, "featureGatesOn", decision.On)
	for _, warning := range decision.Warnings {
		logger.Info("Warning: not everything works with this API server", "server", host, "warning", warning)
	}
}
