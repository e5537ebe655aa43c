// Command agent is weft-node over a simulated NVML, for machines without a GPU: weft-node with the flag --fake, which names the
// description of what GPUs there are. It is read again when it changes.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"k8s.io/component-base/cli"

	"weft.sh/weft/pkg/nodeagent"
	"weft.sh/weft/pkg/nvml"
	"weft.sh/weft/pkg/nvml/nvmlfake"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // the second time it ends at once: NVML can hang
	var file string
	command := nodeagent.NewCommand(func(nvml.Options) (*nvml.Library, error) {
		if file == "" {
			return nil, errors.New("--fake is empty: want the file that describes the simulated GPUs")
		}
		fake, err := nvmlfake.FromFile(file)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", nvml.ErrUnavailable, err)
		}
		return nvml.New(fake), nil
	})
	command.PersistentFlags().StringVar(&file, "fake", "", "file that describes the simulated GPUs (pkg/nvml/nvmlfake)")
	command.SetContext(ctx)
	err := cli.RunNoErrOutput(command)
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "weft-node: %v\n", err)
		os.Exit(1)
	}
}
