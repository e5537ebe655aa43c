// Command weft-playground runs a Kubernetes cluster with simulated GPU nodes and the real weft-scheduler on one machine.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/pflag"
	"k8s.io/klog/v2"

	"weft.sh/weft/pkg/playground/child"
)

func main() {
	// The servers of the cluster are this binary too, started again with a subcommand that help does not list.
	if code, ok := child.Run(os.Args[1:]); ok {
		os.Exit(code)
	}
	// The API server's packages have put flags here, which cobra would offer as ours.
	pflag.CommandLine = pflag.NewFlagSet(os.Args[0], pflag.ContinueOnError)
	// What the client library would log between our lines (a watch that it starts again) concerns nobody here; what does
	// comes back as an error.
	klog.SetLogger(klog.Logger{})
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// The first signal stops the cluster in order, a second one the program; its children end with it.
	context.AfterFunc(ctx, stop)
	if err := newCommand(os.Stdout).ExecuteContext(ctx); err != nil {
		fmt.Fprintf(os.Stderr, "weft-playground: %v\n", err)
		os.Exit(1)
	}
}
