package gpufit

import (
	"context"

	v1 "k8s.io/api/core/v1"
	fwk "k8s.io/kube-scheduler/framework"

	"weft.sh/weft/pkg/fit"
)

// Score implements fwk.ScorePlugin. The raw score depends on the node, the pod and the mix only, and is therefore valid
// until the node changes; ranks are made of it in NormalizeScore.
func (pl *Plugin) Score(_ context.Context, state fwk.CycleState, _ *v1.Pod, nodeInfo fwk.NodeInfo) (int64, *fwk.Status) {
	c, status := readCycle(state)
	if status != nil {
		return 0, status
	}
	n := c.node(pl.snapshot, nodeInfo.Node().Name)
	return c.memo.Score(n, c.cpu(nodeInfo)), nil
}

// cpu is the node's CPU for the decision.
func (c *cycle) cpu(nodeInfo fwk.NodeInfo) fit.CPU {
	free := nodeInfo.GetAllocatable().GetMilliCPU() - nodeInfo.GetRequested().GetMilliCPU()
	return fit.CPU{FreeMilli: free, AskMilli: c.milliCPU}
}

// ScoreExtensions implements fwk.ScorePlugin.
func (pl *Plugin) ScoreExtensions() fwk.ScoreExtensions { return pl }

// NormalizeScore implements fwk.ScoreExtensions: ranks instead of scores, so that ties are broken by fit.Rank and not by
// the framework at random.
func (pl *Plugin) NormalizeScore(_ context.Context, _ fwk.CycleState, _ *v1.Pod, scores fwk.NodeScoreList) *fwk.Status {
	names, raw := make([]string, len(scores)), make([]int64, len(scores))
	for i, s := range scores {
		names[i], raw[i] = s.Name, s.Score
	}
	for i, rank := range fit.Rank(names, raw) {
		scores[i].Score = rank
	}
	return nil
}
