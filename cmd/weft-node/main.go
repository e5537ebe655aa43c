// Command weft-node is the agent of a node with GPUs.
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

	"weft.sh/weft/pkg/nodeagent"
	"weft.sh/weft/pkg/nvml"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // the second time it ends at once: NVML can hang
	command := nodeagent.NewCommand(nvml.Open)
	command.SetContext(ctx)
	err := cli.RunNoErrOutput(command)
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "weft-node: %v\n", err)
		os.Exit(1)
	}
}
