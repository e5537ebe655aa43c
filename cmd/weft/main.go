// Command weft, also installed as kubectl-weft, shows the GPUs of a cluster and says why a pod waits.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"k8s.io/cli-runtime/pkg/genericiooptions"

	"weft.sh/weft/pkg/cli"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	streams := genericiooptions.IOStreams{In: os.Stdin, Out: os.Stdout, ErrOut: os.Stderr}
	if err := cli.NewCommand(os.Args[0], streams).ExecuteContext(ctx); err != nil {
		fmt.Fprintf(os.Stderr, "weft: %v\n", cli.Advise(err))
		stop()
		os.Exit(1)
	}
}
