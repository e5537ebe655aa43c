// Command weft, also installed as kubectl-weft, shows the GPUs of a cluster and says why a pod waits. It simulates clusters, too.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"k8s.io/cli-runtime/pkg/genericiooptions"

	"weft.sh/weft/pkg/cli"
	"weft.sh/weft/pkg/simulator/simcmd"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	streams := genericiooptions.IOStreams{In: os.Stdin, Out: os.Stdout, ErrOut: os.Stderr}
	weft := cli.NewCommand(os.Args[0], streams)
	weft.AddCommand(simcmd.New()) // here, because it needs no cluster and nothing of the package cli
	if err := weft.ExecuteContext(ctx); err != nil {
		fmt.Fprintf(os.Stderr, "weft: %v\n", cli.Advise(err))
		stop()
		os.Exit(1)
	}
}
