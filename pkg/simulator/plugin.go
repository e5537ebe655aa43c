package simulator

import (
	"fmt"
	"math/rand"
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
	names    []string // by name
	nodes    []*cluster.Node
	strategy string
	recent   *fit.Recent
	memo     *fit.Memo

	requests []gpu.Request // by class
	devices  map[gpu.ID]int
	shape    *fit.ShapeMemo // of the pod that arrived last
	placed   int
}

func newPlugin(w *Workload, _ *rand.Rand) (Policy, error) {
	var args configv1.GPUFitArgs
	configv1.SetDefaults_GPUFitArgs(&args)
	p := &plugin{
		strategy: *args.Strategy, recent: fit.NewRecent(int(*args.MixWindow)), requests: make([]gpu.Request, len(w.classes)),
		devices: map[gpu.ID]int{},
	}
	for g := range largestGPUs {
		p.devices[deviceID(g)] = g
	}
	for i := range w.nodes {
		p.names = append(p.names, w.nodes[i].Name)
		p.nodes = append(p.nodes, clusterNode(&w.nodes[i]))
	}
	for i := range w.classes {
		p.requests[i] = request(&w.classes[i])
	}
	return p, p.learn()
}

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

func (p *plugin) learn() error {
	s, err := fit.NewStrategy(p.strategy, p.recent.Mix())
	if err == nil {
		p.memo = fit.NewMemo(s)
	}
	return err
}

// order implements Policy: that of fit.Rank, whose first hundred of equals have ranks of their own.
func (p *plugin) order([]int) []int {
	left := make([]int, len(p.names))
	for i := range left {
		left[i] = i
	}
	var out []int
	nodes := make([]*cluster.Node, 0, len(p.nodes))
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
		nodes = append(nodes, p.nodes[i])
	}
	p.nodes = nodes
	return out
}

// observe implements Policy.
func (p *plugin) observe(c *class) bool {
	stale := p.recent.Observe(fit.ClassOf(p.requests[c.id], c.milliCPU))
	if stale {
		// It fails only for a strategy that there is not, and then it failed at the start.
		_ = p.learn()
	}
	p.shape = p.memo.For(p.requests[c.id])
	return stale
}

// score implements Policy.
func (p *plugin) score(i int, n *node, c *class) int64 {
	return p.shape.Score(p.nodes[i], fit.CPU{FreeMilli: n.milliCPU, AskMilli: c.milliCPU})
}

func (p *plugin) pick(_ []int64, best int) int { return best }

// choose implements Policy.
func (p *plugin) choose(i int, n *node, c *class, gpus []int) ([]int, error) {
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
