package main

import (
	"context"
	"os"

	"golang.org/x/term"
	"k8s.io/client-go/kubernetes"

	"weft.sh/weft/pkg/cli"
	"weft.sh/weft/pkg/playground"
)

// objects reads what the cluster holds.
func (r *running) objects(ctx context.Context) (cli.Objects, error) {
	client, err := kubernetes.NewForConfig(r.cluster.ControlPlane.AdminConfig())
	if err != nil {
		return cli.Objects{}, err
	}
	return cli.List(ctx, client, nil)
}

// printWaiting shows the pods that wait, each with what `weft why` says of the node that is nearest to taking it.
func (r *running) printWaiting(objects cli.Objects) {
	for _, p := range objects.Pods {
		if p.Spec.NodeName != "" || p.Spec.SchedulerName != playground.SchedulerName {
			continue
		}
		a := cli.NewAnswer(p, objects, playground.SchedulerName)
		if len(a.Classes) == 0 {
			r.progress.Printf("%s: %s", p.Name, a.Message)
			continue
		}
		c := a.Classes[0]
		detail := ""
		if c.Detail != "" {
			detail = " (" + c.Detail + ")"
		}
		r.progress.Printf("%s cannot run.\n  %s: %s%s, on %s\n  → %s", p.Name, c.Reason, c.Text, detail, c.Node, c.Advice)
	}
}

// printMap shows the GPUs as `weft top` does.
func (r *running) printMap(objects cli.Objects) error {
	opts := cli.MapOptions{Colour: r.progress.Terminal() && os.Getenv("NO_COLOR") == ""}
	if width, _, err := term.GetSize(int(os.Stdout.Fd())); err == nil && r.progress.Terminal() {
		opts.Width = width
	}
	return cli.RenderMap(r.progress, cli.NewReport(objects, cli.Selection{}), opts)
}
