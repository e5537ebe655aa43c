// Command weft-controller looks after the gangs of a cluster: their status, and those that are partial.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register" // --logging-format=json
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/workqueue"

	"weft.sh/weft/pkg/controller"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // the second time it ends at once
	command := controller.NewCommand()
	command.SetContext(ctx)
	err := cli.RunNoErrOutput(command)
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "weft-controller: %v\n", err)
		os.Exit(1)
	}
}
