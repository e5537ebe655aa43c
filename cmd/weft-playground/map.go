package main

import (
	"context"
	"os"
	"time"

	"golang.org/x/term"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"

	"weft.sh/weft/pkg/cli"
	"weft.sh/weft/pkg/playground"
	"weft.sh/weft/pkg/podgroup"
)

// objects reads what the cluster holds.
func (r *running) objects(ctx context.Context) (cli.Objects, cli.QueueObjects, error) {
	cfg := r.cluster.ControlPlane.AdminConfig()
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return cli.Objects{}, cli.QueueObjects{}, err
	}
	custom, err := dynamic.NewForConfig(cfg)
	if err != nil {
		return cli.Objects{}, cli.QueueObjects{}, err
	}
	objects, err := cli.List(ctx, client, nil)
	if err != nil {
		return cli.Objects{}, cli.QueueObjects{}, err
	}
	queues, err := cli.ListQueues(ctx, client, custom, nil)
	if err != nil {
		return cli.Objects{}, cli.QueueObjects{}, err
	}
	return objects, queues, cli.ListGroups(ctx, client, custom, "", nil, &objects)
}

// printWaiting shows the pods that wait, each with what `weft why` says of the node that is nearest to taking it, and of those of a
// gang once what it says of all.
func (r *running) printWaiting(objects cli.Objects, queues cli.QueueObjects) {
	told := map[string]bool{}
	for _, p := range objects.Pods {
		if p.Spec.NodeName != "" || p.Spec.SchedulerName != playground.SchedulerName {
			continue
		}
		if k, ok := podgroup.KeyOf(p); ok {
			g, found := cli.NewGangAnswer(k.Namespace, k.Name, objects, playground.SchedulerName, cli.DefaultTopologyLevels())
			if found && !told[k.Name] {
				r.progress.Printf("podgroup %s %s.\n  %s: %s (%s)\n  → %s", k.Name, g.Message, g.Reason, g.Text, g.Detail, g.Advice)
			}
			told[k.Name] = true
			continue
		}
		if h := cli.NewQueueHold(p, queues, objects, time.Now().Unix()); h != nil {
			r.progress.Printf("%s is held back by its queue.\n  %s: %s\n  → %s", p.Name, h.Reason, h.Message, h.WaitsFor)
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
	report := cli.NewReport(objects, cli.Selection{})
	if err := cli.RenderMap(r.progress, report, opts); err != nil || len(report.Gangs) == 0 {
		return err
	}
	r.progress.Printf("")
	return cli.RenderGangMap(r.progress, report, "", opts)
}
