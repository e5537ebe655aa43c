package main

import (
	"context"
	"fmt"
	"strings"

	"k8s.io/client-go/rest"

	"weft.sh/weft/pkg/playground"
)

// printMap shows which pod holds what of which GPU, and what is granted in all. It is the one place that renders the
// placement.
func (r *running) printMap(ctx context.Context, cfg *rest.Config) error {
	p, err := playground.ReadPlacement(ctx, cfg)
	if p == nil {
		return err
	}
	// An error beside a placement is about what the placement shows; who checks it is not the map.
	for _, n := range p.Nodes {
		fmt.Fprintf(r.progress, "%s  %s\n", n.Name, n.GPUs[0].Device.Product)
		for _, g := range n.GPUs {
			fmt.Fprintf(r.progress, "  %d  %s\n", g.Device.Index, holders(g))
		}
	}
	fmt.Fprintf(r.progress, "GPUs granted: %s\n", playground.Share(p.Granted, p.Capacity))
	return nil
}

func holders(g playground.GPUPlacement) string {
	if len(g.Holders) == 0 {
		if g.Device.MIG {
			return "free (MIG)"
		}
		return "free"
	}
	parts := make([]string, len(g.Holders))
	for i, h := range g.Holders {
		switch u := h.Use; {
		case u.Whole:
			parts[i] = h.Pod + " (whole)"
		case u.MilliGPU > 0:
			parts[i] = fmt.Sprintf("%s (%d%%, %d MiB)", h.Pod, u.MilliGPU/10, u.MemoryMiB)
		default:
			instances := make([]string, len(u.Instances))
			for k, i := range u.Instances {
				instances[k] = i.String()
			}
			parts[i] = h.Pod + " (" + strings.Join(instances, ", ") + ")"
		}
	}
	return strings.Join(parts, ", ")
}
