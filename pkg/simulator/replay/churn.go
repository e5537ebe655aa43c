package replay

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"

	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/trace"
)

// Churn says how pods of an openb list come and leave: drawn from the list with replacement, at random moments (Poisson), for exponential
// lifetimes. So the cluster is at equilibrium, and not only filled.
type Churn struct {
	// Name is that of the pod list, for results.
	Name  string
	Nodes []trace.Node
	Pods  []trace.Pod
	// Load is what the pods that arrive ask for, as a part of the GPUs: arrivals per second x mean GPUs x mean lifetime / GPUs.
	Load float64
	Seed uint64
	// Lifetime is the mean, For how long is measured and Warmup how long before that pods begin to arrive.
	Lifetime, For, Warmup time.Duration
	// Wait says that pods wait for a place; else one without leaves.
	Wait bool
}

// churnStart is the virtual time at which it begins.
const churnStart = 1_767_571_200

// Replay makes the input.
func (c *Churn) Replay() (*Input, error) {
	capacity, asked := int64(0), int64(0)
	for i := range c.Nodes {
		capacity += int64(c.Nodes[i].GPUs) * gpu.WholeMilliGPU
	}
	for i := range c.Pods {
		asked += c.Pods[i].TotalMilliGPU()
	}
	switch {
	case capacity == 0 || asked == 0:
		return nil, fmt.Errorf("%s: %d milli-GPU on nodes, pods ask for %d: want more than none", c.Name, capacity, asked)
	case !(c.Load > 0 && c.Load <= 10):
		return nil, fmt.Errorf("load %g: want more than 0 and up to 10", c.Load)
	case c.Lifetime < time.Second || c.For < time.Second || c.Warmup < 0:
		return nil, fmt.Errorf("lifetimes of %s for %s after %s: want at least a second each, and a warm-up that is not negative",
			c.Lifetime, c.For, c.Warmup)
	}
	in := &Input{
		Name: fmt.Sprintf("%s load %g seed %d", c.Name, c.Load, c.Seed), Start: churnStart, From: churnStart + seconds(c.Warmup), Drop: !c.Wait,
	}
	in.To = in.From + seconds(c.For)
	for i := range c.Nodes {
		n := &c.Nodes[i]
		in.Nodes = append(in.Nodes, Node{
			Name: n.Name, Inventory: inventoryOf(n.Model, n.GPUs, trace.GPUMemoryMiB(n.Model)), MilliCPU: n.MilliCPU, MemoryMiB: n.MemoryMiB,
		})
	}
	jobs := make([]Job, len(c.Pods))
	for i := range c.Pods {
		jobs[i] = podJob(&c.Pods[i])
	}
	// Arrivals per second.
	rate := c.Load * float64(capacity) / (float64(asked) / float64(len(c.Pods)) * c.Lifetime.Seconds())
	in.Jobs = func(yield func(Job, error) bool) {
		r := rand.New(rand.NewPCG(c.Seed, 0))
		at := 0.0
		for n := 0; ; n++ {
			at += r.ExpFloat64() / rate
			j := jobs[r.IntN(len(jobs))]
			j.At = in.Start + int64(at)
			j.Runtime = max(1, int64(r.ExpFloat64()*c.Lifetime.Seconds()+0.5))
			j.Name = "pod-" + strconv.Itoa(n)
			if j.At >= in.To || !yield(j, nil) {
				return
			}
		}
	}
	return in, nil
}

// podJob is a pod of the list, whenever it comes. It says nothing of its run time.
func podJob(p *trace.Pod) Job {
	j := Job{
		Members: 1, Min: 1, MilliGPU: p.TotalMilliGPU(), MilliCPU: p.MilliCPU, MemoryMiB: p.MemoryMiB, Where: "line " + strconv.Itoa(p.Line),
	}
	if p.GPUs > 0 {
		j.Request = wholeGPUs(p.GPUs)
		if p.MilliGPU < gpu.WholeMilliGPU {
			j.Request.Containers[0].Asks[0] = gpu.Ask{Kind: gpu.Shared, Count: p.GPUs, MilliGPU: p.MilliGPU}
		}
		j.Request.Products = slices.Compact(slices.Sorted(slices.Values(p.Models)))
	}
	return j
}
