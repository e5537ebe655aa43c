package main

import (
	"context"
	"fmt"
	"os"

	"golang.org/x/term"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"weft.sh/weft/pkg/cli"
	"weft.sh/weft/pkg/playground"
)

// printMap shows the pods that wait, each with what `weft why` says of the node that is nearest to taking it, and then the
// GPUs as `weft top` does.
func (r *running) printMap(ctx context.Context, cfg *rest.Config) error {
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return err
	}
	objects, err := cli.List(ctx, client, nil)
	if err != nil {
		return err
	}
	fmt.Fprintln(r.progress)
	for _, p := range objects.Pods {
		if p.Spec.NodeName != "" || p.Spec.SchedulerName != playground.SchedulerName {
			continue
		}
		a := cli.NewAnswer(p, objects, playground.SchedulerName)
		if len(a.Classes) == 0 {
			fmt.Fprintf(r.progress, "%s: %s\n", p.Name, a.Message)
			continue
		}
		c := a.Classes[0]
		fmt.Fprintf(r.progress, "%s cannot run.\n  %s: %s", p.Name, c.Reason, c.Text)
		if c.Detail != "" {
			fmt.Fprintf(r.progress, " (%s)", c.Detail)
		}
		fmt.Fprintf(r.progress, ", on %s\n  → %s\n", c.Node, c.Advice)
	}
	fmt.Fprintln(r.progress)
	opts := cli.MapOptions{Colour: r.progress.Terminal() && os.Getenv("NO_COLOR") == ""}
	if width, _, err := term.GetSize(int(os.Stdout.Fd())); err == nil && r.progress.Terminal() {
		opts.Width = width
	}
	return cli.RenderMap(r.progress, cli.NewReport(objects, cli.Selection{}), opts)
}
