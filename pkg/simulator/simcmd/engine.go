package simcmd

import (
	"context"
	"fmt"
	"slices"

	"weft.sh/weft/pkg/simulator"
	"weft.sh/weft/pkg/simulator/framework"
	"weft.sh/weft/pkg/trace"
)

// schedulerOf is the scheduler of an engine: nil for the one that is none.
func schedulerOf(engine string, policies []string) (simulator.StartScheduler, error) {
	switch engine {
	case simulator.EngineCore:
		return nil, nil
	case simulator.EngineFramework:
		if i := slices.IndexFunc(policies, func(p string) bool { return p != simulator.DefaultPolicy }); i >= 0 {
			return nil, fmt.Errorf("--policy has %s: engine framework runs the plugin itself, want %s alone", policies[i], simulator.DefaultPolicy)
		}
		return func(ctx context.Context, nodes []trace.Node) (simulator.Scheduler, error) {
			return framework.Start(ctx, nodes, framework.Options{})
		}, nil
	default:
		return nil, fmt.Errorf("--engine is %q: want %s or %s", engine, simulator.EngineCore, simulator.EngineFramework)
	}
}
