// Package child is what runs inside the processes that the playground starts: etcd, kube-apiserver and KWOK, each behind
// the command line of its own project as far as it has one. Only the weft-playground binary imports it, for it brings the
// whole of the three servers; package playground, which tests import, does not.
package child

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/pflag"
	"go.etcd.io/etcd/server/v3/embed"
	"k8s.io/component-base/cli"
	"k8s.io/kubernetes/cmd/kube-apiserver/app"
	kwokconfig "sigs.k8s.io/kwok/pkg/config"
	kwokcmd "sigs.k8s.io/kwok/pkg/kwok/cmd"
	kwoklog "sigs.k8s.io/kwok/pkg/log"

	"weft.sh/weft/pkg/playground"
)

// Run runs the server that the first argument names and returns its exit code; ok is false when it names none.
func Run(args []string) (code int, ok bool) {
	if len(args) == 0 {
		return 0, false
	}
	var err error
	switch args[0] {
	case playground.ChildAPIServer:
		cmd := app.NewAPIServerCommand()
		cmd.SetArgs(args[1:])
		return cli.Run(cmd), true
	case playground.ChildEtcd:
		err = etcd(args[1:])
	case playground.ChildKWOK:
		err = kwok(args[1:])
	default:
		return 0, false
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", args[0], err)
		return 1, true
	}
	return 0, true
}

// etcd runs a single member that keeps nothing dear: no fsync, and no listener for peers, which it will never have.
func etcd(args []string) error {
	cfg := embed.NewConfig()
	flags := pflag.NewFlagSet("etcd", pflag.ContinueOnError)
	flags.StringVar(&cfg.Dir, "data-dir", "", "directory of the data")
	listen := flags.String("listen-client-url", "", "URL to serve clients on")
	if err := flags.Parse(args); err != nil {
		return err
	}
	client, err := url.Parse(*listen)
	if err != nil {
		return err
	}
	cfg.Name = "playground"
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{*client}, []url.URL{*client}
	cfg.ListenPeerUrls = nil
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	cfg.SocketOpts.ReusePort = true
	cfg.UnsafeNoFsync = true
	// A cluster of thousands of nodes and pods with their revisions passes etcd's 2 GiB, and there is nobody to defragment.
	cfg.QuotaBackendBytes = 8 << 30
	cfg.LogLevel = "warn"
	cfg.LogOutputs = []string{"stderr"}

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	e, err := embed.StartEtcd(cfg)
	if err != nil {
		return err
	}
	defer e.Close()
	select {
	case <-ctx.Done():
		return nil
	case <-e.Server.StopNotify():
		return errors.New("the server stopped by itself")
	case err := <-e.Err():
		return err
	}
}

// kwok does what KWOK's own main does; its packages read os.Args, where the subcommand is an argument that they skip.
func kwok(args []string) error {
	flags := pflag.NewFlagSet("global", pflag.ContinueOnError)
	flags.ParseErrorsAllowlist.UnknownFlags = true
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, _ = kwoklog.InitFlags(ctx, flags)
	ctx, err := kwokconfig.InitFlags(ctx, flags)
	if err != nil {
		return err
	}
	cmd := kwokcmd.NewCommand(ctx)
	// Else cobra makes a flag --version, and meets the one that the API server's packages have put among the global flags.
	cmd.Version = ""
	cmd.PersistentFlags().AddFlagSet(flags)
	cmd.SetArgs(args)
	return cmd.ExecuteContext(ctx)
}
