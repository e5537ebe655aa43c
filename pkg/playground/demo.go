package playground

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode"
)

// DemoNodes is the cluster of the demo, as for --nodes.
const DemoNodes = "a100-mig=2,a100=4,h100=2,l4=3,v100=3"

// models of the demo.
const (
	a100 = "NVIDIA-A100-SXM4-40GB"
	// Gangs have these for themselves: they are complete only when their last pod is there, and where others came first would be
	// a matter of chance.
	a100Large = "NVIDIA-A100-SXM4-80GB"
	v100      = "Tesla-V100-SXM2-16GB"
	h100      = "NVIDIA-H100-80GB-HBM3"
	l4        = "NVIDIA-L4"
)

// demoJob is a job of the demo: some equal pods.
type demoJob struct {
	Pod
	copies int
	// never says that no pod of it can run on DemoNodes, surplus that the last so many cannot.
	never   bool
	surplus int
}

// demoGroups are the gangs of the demo.
var demoGroups = []Group{
	{Name: "gang", MinMember: 3, Required: labelRack},
	{Name: "elastic", MinMember: 2},
	{Name: "never-gang", MinMember: 5, Required: labelRack},
}

// demoQueues are the queues of the demo.
var demoQueues = []Queue{{Name: "lab", GPUHours: "20"}}

// demoJobs are created in this order. Large pods come first, so that what fits does so whatever the scheduler prefers:
// the demo shows where things go, and is no contest in packing.
var demoJobs = []demoJob{
	// Gangs: three nodes of one rack; and as many nodes as there are, at least two.
	{Pod: Pod{Name: "gang", Group: "gang", GPUs: 8, CPUMilli: 64_000, MemoryMiB: 512 << 10, Products: []string{a100Large}}, copies: 3},
	{Pod: Pod{Name: "elastic", Group: "elastic", GPUs: 8, CPUMilli: 32_000, MemoryMiB: 256 << 10, Products: []string{v100}}, copies: 4, surplus: 1},
	// Whole GPUs.
	{Pod: Pod{Name: "pretrain", GPUs: 8, CPUMilli: 64_000, MemoryMiB: 512 << 10, Products: []string{h100}}, copies: 1},
	{Pod: Pod{Name: "finetune", GPUs: 4, CPUMilli: 32_000, MemoryMiB: 256 << 10, Products: []string{h100}}, copies: 1},
	{Pod: Pod{Name: "train", GPUs: 4, CPUMilli: 16_000, MemoryMiB: 128 << 10, Products: []string{a100}}, copies: 1},
	// Charged to a queue: 2 GPUs for 4 hours are 8 of its 20 GPU-hours.
	{Pod: Pod{Name: "lab", Queue: "lab", Runtime: "4h", GPUs: 2, CPUMilli: 8_000, MemoryMiB: 64 << 10, Products: []string{a100}}, copies: 1},
	// Shares with a floor on memory: 25% of an H100 would be 20 GiB.
	{Pod: Pod{Name: "llm", Percent: 25, GPUMemory: "36Gi", CPUMilli: 8_000, MemoryMiB: 64 << 10, Products: []string{h100}}, copies: 2},
	{Pod: Pod{Name: "sweep", GPUs: 2, CPUMilli: 8_000, MemoryMiB: 64 << 10, Products: []string{a100, h100}}, copies: 2},
	{Pod: Pod{Name: "video", GPUs: 1, CPUMilli: 8_000, MemoryMiB: 32 << 10, Products: []string{l4}}, copies: 4},
	// A share of two distinct GPUs each.
	{Pod: Pod{Name: "ensemble", Percent: 50, Count: 2, CPUMilli: 4_000, MemoryMiB: 16 << 10, Products: []string{l4}}, copies: 2},
	// Shares.
	{Pod: Pod{Name: "serve", Percent: 50, CPUMilli: 4_000, MemoryMiB: 16 << 10, Products: []string{l4}}, copies: 4},
	{Pod: Pod{Name: "notebook", Percent: 20, CPUMilli: 2_000, MemoryMiB: 8 << 10, Products: []string{a100, h100, l4}}, copies: 8},
	{Pod: Pod{Name: "embed", Percent: 10, GPUMemory: "4Gi", CPUMilli: 1_000, MemoryMiB: 4 << 10, Products: []string{a100, h100, l4}}, copies: 4},
	// MIG instances.
	{Pod: Pod{Name: "mig-whole", MIGProfile: "7g.40gb", MIGCount: 1, CPUMilli: 4_000, MemoryMiB: 32 << 10}, copies: 1},
	{Pod: Pod{Name: "mig-half", MIGProfile: "3g.20gb", MIGCount: 1, CPUMilli: 4_000, MemoryMiB: 16 << 10}, copies: 5},
	{Pod: Pod{Name: "mig-quarter", MIGProfile: "2g.10gb", MIGCount: 1, CPUMilli: 2_000, MemoryMiB: 8 << 10}, copies: 4},
	{Pod: Pod{Name: "mig-slice", MIGProfile: "1g.5gb", MIGCount: 1, CPUMilli: 1_000, MemoryMiB: 4 << 10}, copies: 8},
	{Pod: Pod{Name: "mig-pair", MIGProfile: "1g.5gb", MIGCount: 2, CPUMilli: 1_000, MemoryMiB: 4 << 10}, copies: 2},

	// These cannot run, each for another reason.
	{Pod: Pod{Name: "never-16-gpus", GPUs: 16, CPUMilli: 1_000}, copies: 1, never: true},
	{Pod: Pod{Name: "never-h200", GPUs: 1, CPUMilli: 1_000, Products: []string{"NVIDIA-H200"}}, copies: 1, never: true},
	{Pod: Pod{Name: "never-96gib-share", Percent: 10, GPUMemory: "96Gi", CPUMilli: 1_000}, copies: 1, never: true},
	{Pod: Pod{Name: "never-40gib-on-l4", Percent: 50, GPUMemory: "40Gi", CPUMilli: 1_000, Products: []string{l4}}, copies: 1, never: true},
	{Pod: Pod{Name: "never-h100-profile", MIGProfile: "1g.20gb", MIGCount: 1, CPUMilli: 1_000}, copies: 1, never: true},
	{Pod: Pod{Name: "never-mig-on-l4", MIGProfile: "1g.5gb", MIGCount: 1, CPUMilli: 1_000, Products: []string{l4}}, copies: 1, never: true},
	{Pod: Pod{Name: "never-500-cpus", GPUs: 1, CPUMilli: 500_000}, copies: 1, never: true},
	// More than the budget of the queue has at all; and a queue that does not exist.
	{Pod: Pod{Name: "never-over-budget", Queue: "lab", Runtime: "12h", GPUs: 2, CPUMilli: 1_000, Products: []string{a100}}, copies: 1, never: true},
	{Pod: Pod{Name: "never-queue", Queue: "lap", GPUs: 1, CPUMilli: 1_000}, copies: 1, never: true},
	// No rack has five nodes.
	{Pod: Pod{Name: "never-gang", Group: "never-gang", GPUs: 8, CPUMilli: 1_000, Products: []string{a100Large}}, copies: 5, never: true},
}

// demoPods are the pods of the demo in their order, and the names of those that must not be bound.
func demoPods() (pods []Pod, never map[string]bool) {
	never = map[string]bool{}
	for _, j := range demoJobs {
		for i := range j.copies {
			p := j.Pod
			if j.copies > 1 {
				p.Name = fmt.Sprintf("%s-%d", j.Name, i)
			}
			pods = append(pods, p)
			if j.never || i >= j.copies-j.surplus && j.surplus > 0 {
				never[p.Name] = true
			}
		}
	}
	return pods, never
}

// DemoPods are the pods of the demo in their order.
func DemoPods() []Pod {
	pods, _ := demoPods()
	return pods
}

// DemoGroups are their PodGroups.
func DemoGroups() []Group { return slices.Clone(demoGroups) }

// DemoQueues are their Queues.
func DemoQueues() []Queue { return slices.Clone(demoQueues) }

// demoTimeout is how long the scheduler may take for the demo's pods, on a machine that has other things to do too.
const demoTimeout = 45 * time.Second

// ErrDemo is wrapped by the error of [Cluster.Demo] when a pod is not where it should be.
var ErrDemo = errors.New("the demo did not end as it should")

// Demo creates the demo's pods on a cluster of DemoNodes, waits until each is bound or reported unschedulable, and has show
// print what came of it, first the pods that cannot run. Its error is nil only when every pod that fits is bound, every other is not, and no GPU is given
// twice.
func (c *Cluster) Demo(ctx context.Context, progress *Progress, show func(context.Context) error) error {
	ctx, stop := context.WithCancel(c.WhileRunning(ctx))
	defer stop()
	cfg := c.ControlPlane.AdminConfig()
	pods, never := demoPods()
	tracker, err := Track(ctx, cfg)
	if err != nil {
		return err
	}
	begin := time.Now()
	if err := CreateGroups(ctx, cfg, demoGroups); err != nil {
		return err
	}
	if err := CreateQueues(ctx, cfg, demoQueues); err != nil {
		return err
	}
	if err := CreatePods(ctx, cfg, pods, true, func(int) {}); err != nil {
		return err
	}
	waitCtx, cancel := context.WithTimeoutCause(ctx, demoTimeout, errDemoTimeout)
	defer cancel()
	err = tracker.WaitFor(waitCtx, func(n Counts) {
		progress.Show(n.Bound+n.Unschedulable, len(pods), "%d pods bound, %d unschedulable", n.Bound, n.Unschedulable)
	}, func(n Counts, all func() []PodState) bool {
		return n.Bound+n.Unschedulable >= len(pods) && n.Waiting == 0 && len(wrong(all(), pods, never)) == 0
	})
	if err != nil && !errors.Is(err, errDemoTimeout) {
		return err
	}
	counts, _ := tracker.Counts()
	progress.Printf("%d pods bound and %d unschedulable after %.1fs\n", counts.Bound, counts.Unschedulable, time.Since(begin).Seconds())
	progress.Printf("%d pods created: %d fit, %d cannot, on purpose:\n", len(pods), len(pods)-len(never), len(never))
	if err := show(ctx); err != nil {
		return err
	}

	errs := wrong(tracker.Pods(), pods, never)
	if _, err := ReadPlacement(ctx, cfg); err != nil {
		errs = append(errs, err)
	}
	if len(errs) > 0 {
		return fmt.Errorf("%w:\n%w", ErrDemo, errors.Join(errs...))
	}
	return nil
}

var errDemoTimeout = fmt.Errorf("not all pods were answered for within %v", demoTimeout)

// wrong lists the pods that are not where they should be.
func wrong(all []PodState, pods []Pod, never map[string]bool) []error {
	states := map[string]PodState{}
	for _, s := range all {
		states[s.Name] = s
	}
	var errs []error
	for _, p := range pods {
		s := states[p.Name]
		switch {
		case never[p.Name] && s.Node != "":
			errs = append(errs, fmt.Errorf("pod %s is bound to %s, where it cannot run", p.Name, s.Node))
		case never[p.Name] && s.Reason == "":
			errs = append(errs, fmt.Errorf("pod %s is not reported unschedulable", p.Name))
		case !never[p.Name] && s.Node == "":
			errs = append(errs, fmt.Errorf("pod %s fits and is not bound: %s", p.Name, cmp.Or(s.Reason, "the scheduler said nothing")))
		}
	}
	return errs
}

// PrintUnschedulable lists the unschedulable pods among them by reason, the most frequent reason first. Reasons that differ
// only in their numbers are one: in a full cluster every pod has other ones.
func PrintUnschedulable(progress *Progress, all []PodState) {
	byReason := map[string][]PodState{}
	for _, s := range all {
		if s.Reason != "" {
			key := strings.Join(strings.FieldsFunc(s.Reason, unicode.IsDigit), "")
			byReason[key] = append(byReason[key], s)
		}
	}
	if len(byReason) == 0 {
		return
	}
	progress.Printf("Unschedulable, in the scheduler's words:")
	groups := slices.SortedFunc(maps.Values(byReason), func(a, b []PodState) int {
		return cmp.Or(len(b)-len(a), cmp.Compare(a[0].Name, b[0].Name))
	})
	const mostReasons, mostNames = 10, 3
	for i, g := range groups {
		if i == mostReasons {
			progress.Printf("  and %d other reasons", len(groups)-mostReasons)
			return
		}
		names := make([]string, min(len(g), mostNames))
		for k := range names {
			names[k] = g[k].Name
		}
		text := strings.Join(names, ", ")
		if len(g) > mostNames {
			text += fmt.Sprintf(" and %d more", len(g)-mostNames)
		}
		progress.Printf("  %s\n      %s", text, g[0].Reason)
	}
}
