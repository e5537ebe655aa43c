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
	ctx, stop := untilSignal()
	defer stop()
	if err := newCommand(os.Stdout).ExecuteContext(ctx); err != nil {
		fmt.Fprintf(os.Stderr, "weft-playground: %v\n", err)
		os.Exit(1)
	}
}

// untilSignal is a context that ends with the first signal that asks for the end: the cluster is then stopped in order. A
// second Ctrl-C or SIGTERM ends the program at once, and its children with it. SIGHUP comes more than once when a terminal
// is closed (from the kernel and from the shell), so another one changes nothing; and as SIGPIPE would end the program when
// nobody reads its output any more, it is caught: the write fails, and whoever wrote stops in order too.
func untilSignal() (context.Context, context.CancelFunc) {
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	hangup := context.Background()
	if !signal.Ignored(syscall.SIGHUP) { // as under nohup
		hangup, _ = signal.NotifyContext(hangup, syscall.SIGHUP)
	}
	ctx, stop := signal.NotifyContext(hangup, os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	return ctx, stop
}
