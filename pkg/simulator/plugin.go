package simulator

import (
	"context"
	"fmt"
	"slices"
	"strconv"

	configv1 "weft.sh/weft/pkg/apis/config/v1"
	"weft.sh/weft/pkg/cluster"
	"weft.sh/weft/pkg/fit"
	"weft.sh/weft/pkg/gpu"
	"weft.sh/weft/pkg/trace"
)

// plugin is what the plugin GPUFit decides with its default arguments, by the same code: fit.Score on cluster.Node with the
// mix learned from what arrives, fit.Rank between equals, fit.Assign for the GPUs. Unlike the framework it always looks at
// every node.
type plugin struct {
	names   []string // by name
	nodes   []*cluster.Node
	cpus    []cpus
	learner *fit.Learner
	memo    *fit.Memo

	requests []gpu.Request // by class
	devices  map[gpu.ID]int
	shape    *fit.ShapeMemo // of the pod that arrived last
	placed   int
}

// cpus is the CPU of a node, in thousandths of a core.
type cpus struct{ free, all int64 }

func newPlugin(w *Workload, known bool) (Policy, error) {
	var args configv1.GPUFitArgs
	configv1.SetDefaults_GPUFitArgs(&args)
	p := &plugin{requests: make([]gpu.Request, len(w.classes)), devices: map[gpu.ID]int{}}
	for g := range largestGPUs {
		p.devices[deviceID(g)] = g
	}
	for i := range w.nodes {
		p.names = append(p.names, w.nodes[i].Name)
		p.nodes = append(p.nodes, clusterNode(&w.nodes[i]))
		p.cpus = append(p.cpus, cpus{w.nodes[i].MilliCPU, w.nodes[i].MilliCPU})
	}
	for i := range w.classes {
		p.requests[i] = request(&w.classes[i])
	}
	if known {
		counts := map[fit.Class]int64{}
		for _, c := range w.pods {
			counts[p.class(&w.classes[c])]++
		}
		p.learner = fit.NewKnowing(*args.Strategy, counts)
	} else {
		p.learner = fit.NewLearner(*args.Strategy, int(*args.MixWindow))
	}
	p.memo = fit.NewMemo(p.learner.Strategy())
	return p, nil
}

// class is what the plugin takes a pod of the class for.
func (p *plugin) class(c *class) fit.Class { return fit.ClassOf(p.requests[c.id], c.milliCPU) }

// deviceID is that of GPU g of every node: ids need to be unique in their node only.
func deviceID(g int) gpu.ID { return gpu.ID("GPU-" + strconv.Itoa(g)) }

// clusterNode is a node of a list, empty.
func clusterNode(n *trace.Node) *cluster.Node {
	var devices []gpu.Device
	for g := range n.GPUs {
		devices = append(devices, gpu.Device{ID: deviceID(g), Index: g, Product: n.Model, MemoryMiB: trace.GPUMemoryMiB(n.Model)})
	}
	return cluster.NewNode(n.Name, cluster.NewInventory(cluster.SourceSlices, devices), nil)
}

// request is what a pod of the class asks for.
func request(c *class) gpu.Request {
	if c.gpus == 0 {
		return gpu.Request{}
	}
	ask := gpu.Ask{Kind: gpu.Whole, Count: c.gpus}
	if c.fractional() {
		ask = gpu.Ask{Kind: gpu.Shared, Count: c.gpus, MilliGPU: c.milliGPU}
	}
	return gpu.Request{
		Containers: []gpu.ContainerRequest{{Name: "main", Asks: []gpu.Ask{ask}}},
		Products:   slices.Compact(slices.Sorted(slices.Values(c.models))),
	}
}

// order implements Policy: that of fit.Rank, whose first hundred of equals have ranks of their own.
func (p *plugin) order([]int) []int {
	left := make([]int, len(p.names))
	for i := range left {
		left[i] = i
	}
	var out []int
	nodes, left0 := make([]*cluster.Node, 0, len(p.nodes)), make([]cpus, 0, len(p.nodes))
	for len(left) > 0 {
		names := make([]string, len(left))
		for i, n := range left {
			names[i] = p.names[n]
		}
		ranks := fit.Rank(names, make([]int64, len(names)))
		first := make([]int, 0, len(left))
		var rest []int
		for i, n := range left {
			if ranks[i] > 0 {
				first = append(first, i)
			} else {
				rest = append(rest, n)
			}
		}
		slices.SortFunc(first, func(a, b int) int { return int(ranks[b] - ranks[a]) })
		for _, i := range first {
			out = append(out, left[i])
		}
		left = rest
	}
	for _, i := range out {
		nodes, left0 = append(nodes, p.nodes[i]), append(left0, p.cpus[i])
	}
	p.nodes, p.cpus = nodes, left0
	return out
}

// observe implements Policy. Where the plugin computes beside its work, this one stops and computes.
func (p *plugin) observe(c *class) bool {
	changed, due := p.learner.Observe(p.class(c))
	if due {
		stock := new(fit.Stock)
		for i, n := range p.nodes {
			stock.Add(n, p.cpus[i].free, p.cpus[i].all)
		}
		p.learner.Adopt(p.learner.Pose(stock).Solve(context.Background()))
	}
	if changed || due {
		p.memo = fit.NewMemo(p.learner.Strategy())
	}
	p.shape = p.memo.For(p.requests[c.id])
	return changed || due
}

// score implements Policy.
func (p *plugin) score(i int, n *node, c *class) int64 {
	return p.shape.Score(p.nodes[i], fit.CPU{FreeMilli: n.milliCPU, AskMilli: c.milliCPU})
}

func (p *plugin) pick(_ []int64, best int) int { return best }

// choose implements Policy.
func (p *plugin) choose(i int, n *node, c *class, gpus []int) ([]int, error) {
	p.cpus[i].free -= c.milliCPU
	if c.gpus == 0 {
		return gpus, nil
	}
	a, err := fit.Assign(p.nodes[i], p.requests[c.id], fit.CPU{FreeMilli: n.milliCPU, AskMilli: c.milliCPU}, p.shape.Strategy())
	if err != nil {
		return nil, fmt.Errorf("node %s: %w", p.nodes[i].Name, err)
	}
	p.placed++
	uid := strconv.Itoa(p.placed)
	p.nodes[i] = p.nodes[i].With(cluster.NewPod(uid, uid, a))
	for _, use := range a.Uses() {
		gpus = append(gpus, p.devices[use.GPU])
	}
	return gpus, nil
}
