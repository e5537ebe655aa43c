package playground

import (
	"context"
	"fmt"
	"time"
)

// stall is how long a scheduler may say nothing about pods that wait before the wait is given up.
const stall = time.Minute

// RunWorkload creates the pods and waits until the scheduler has answered for each: bound, or unschedulable with a reason.
// With inOrder they are created one after the other. capacity is the cluster's, in milli-GPU, for the progress. It returns
// the counts of all pods that Weft places, and those that are unschedulable.
func (c *Cluster) RunWorkload(ctx context.Context, pods []Pod, inOrder bool, capacity int64, progress *Progress) (Counts, []PodState, error) {
	ctx, cancel := context.WithCancelCause(c.WhileRunning(ctx))
	defer cancel(nil)
	cfg := c.ControlPlane.AdminConfig()
	t, err := Track(ctx, cfg)
	if err != nil {
		return Counts{}, nil, err
	}
	before, _ := t.Counts()
	want := before.Bound + before.Unschedulable + before.Waiting + len(pods)

	go func() {
		if err := CreatePods(ctx, cfg, pods, inOrder, func(int) {}); err != nil {
			cancel(err)
		}
	}()
	timer := time.AfterFunc(stall, func() { cancel(errStalled) })
	defer timer.Stop()
	show := func(n Counts) {
		timer.Reset(stall)
		answered := n.Bound + n.Unschedulable
		progress.Show(answered, want, "%d of %d pods bound, %d unschedulable, %.0f bound/s, GPUs granted %s",
			n.Bound, want, n.Unschedulable, n.PerSecond(), Share(n.MilliGPU, capacity))
	}
	err = t.WaitFor(ctx, show, func(n Counts, _ func() []PodState) bool {
		return n.Waiting == 0 && n.Bound+n.Unschedulable >= want
	})
	counts, _ := t.Counts()
	if err != nil {
		return counts, nil, fmt.Errorf("%d pods bound, %d unschedulable, %d without an answer: %w",
			counts.Bound, counts.Unschedulable, counts.Waiting, err)
	}
	var unschedulable []PodState
	for _, s := range t.Pods() {
		if s.Reason != "" {
			unschedulable = append(unschedulable, s)
		}
	}
	return counts, unschedulable, nil
}

// errStalled is why a wait for the scheduler was given up.
var errStalled = fmt.Errorf("nothing happened for %v; weft-scheduler.log may say why, which --dir keeps", stall)

// Share is an amount of milli-GPU out of a capacity, in words.
func Share(milli, capacity int64) string {
	if capacity <= 0 {
		return fmt.Sprintf("%.1f", float64(milli)/1000)
	}
	return fmt.Sprintf("%.1f of %.0f (%.1f%%)", float64(milli)/1000, float64(capacity)/1000, 100*float64(milli)/float64(capacity))
}

// Capacity is the GPUs of the nodes, in milli-GPU.
func Capacity(nodes []Node) int64 {
	var sum int64
	for _, n := range nodes {
		sum += n.MilliGPU()
	}
	return sum
}
